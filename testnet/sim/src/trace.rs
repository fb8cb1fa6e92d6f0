//! What a run leaves behind: a hash over everything that happened, and, when asked for, its story.

/// The record of a run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    state: [u64; 2],
    story: bool,
    lines: Vec<String>,
}

/// Lines of a story at most: the end is what matters.
const LINES_MAX: usize = 400_000;

impl Trace {
    /// A record; with its story in words or without.
    pub(crate) fn new(story: bool) -> Self {
        Self {
            state: [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f],
            story,
            lines: vec![],
        }
    }

    fn mix(&mut self, word: u64) {
        let [a, b] = self.state;
        let a = (a ^ word)
            .wrapping_mul(0xff51_afd7_ed55_8ccd)
            .rotate_left(29);
        self.state = [a, b.wrapping_add(a).rotate_left(17) ^ word];
    }

    /// Counts bytes in.
    pub(crate) fn hash(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        }
        self.mix(
            words
                .remainder()
                .iter()
                .fold(bytes.len() as u64, |sum, byte| sum << 8 | u64::from(*byte)),
        );
    }

    /// Counts a step in.
    pub(crate) fn count(&mut self, node: usize, inputs: usize) {
        self.mix(((node as u64) << 32) | inputs as u64);
    }

    /// A line of the story; it is counted in only by what is said elsewhere.
    pub(crate) fn say(&mut self, at: u64, line: impl FnOnce() -> String) {
        if self.story {
            if self.lines.len() >= LINES_MAX {
                self.lines.drain(..LINES_MAX / 2);
            }
            self.lines
                .push(format!("{:>9.3} {}", at as f64 / 1_000.0, line()));
        }
    }

    /// The hash so far.
    pub(crate) fn digest(&self) -> String {
        format!("{:016x}{:016x}", self.state[0], self.state[1])
    }

    /// The story so far.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }
}
