//! Reads SQLite's write-ahead log as bytes: which pages it holds, and whether it was damaged or merely
//! cut off where a crash stopped it. Never writes; SQLite itself reads the log again by its own rules.
//! The format: "WAL-mode File Format" in SQLite's documentation.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Bytes of a page; SQLite's default, never changed here.
pub(super) const PAGE: usize = 4_096;
/// Bytes before the first frame.
const HEADER: usize = 32;
/// Bytes before a page in its frame.
const FRAME_HEADER: usize = 24;
/// Bytes of a frame.
const FRAME: usize = FRAME_HEADER + PAGE;
/// First word of the header, without its last bit.
const MAGIC: u32 = 0x377f_0682;

/// What is in a log.
#[derive(Debug)]
pub(super) enum Found {
    /// No file, or not even one frame in it.
    Nothing,
    /// A log that ends where its last commit ends, or where a crash stopped it. Without a commit, when the
    /// crash came right after everything before had been copied into the database.
    Log(Log),
    /// Something in it changed after it was made durable; the reason, in words.
    Damaged(String),
}

/// A log's committed part.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Frames up to the last commit.
    pub(super) frames: u32,
    /// Pages of the database after the last commit; 0 without one.
    pub(super) pages: u32,
    /// Where the last committed content of each page stands in the file.
    pub(super) content: BTreeMap<u32, u64>,
}

/// The running checksum of header and frames.
pub(super) struct Checksum {
    pub(super) big_endian: bool,
    pub(super) sums: (u32, u32),
}

impl Checksum {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks_exact(8) {
            let word = |at: usize| {
                let word = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
                if self.big_endian {
                    u32::from_be_bytes(word)
                } else {
                    u32::from_le_bytes(word)
                }
            };
            let (first, second) = (word(0), word(4));
            self.sums.0 = self.sums.0.wrapping_add(first).wrapping_add(self.sums.1);
            self.sums.1 = self.sums.1.wrapping_add(second).wrapping_add(self.sums.0);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|word| word.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

/// Reads a log to its end.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn read(path: &Path) -> io::Result<Found> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    if length < (HEADER + FRAME) as u64 {
        // Before the first frame is whole there is nothing that was promised.
        return Ok(Found::Nothing);
    }
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    let mut checksum = Checksum {
        big_endian: word(&header, 0) & 1 == 1,
        sums: (0, 0),
    };
    checksum.add(&header[..24]);
    // SQLite makes the header durable before any frame, so a crash cannot leave frames behind a bad one.
    if word(&header, 0) & !1 != MAGIC
        || word(&header, 8) as usize != PAGE
        || checksum.sums != (word(&header, 24), word(&header, 28))
    {
        return Ok(Found::Damaged("its first bytes were changed".to_owned()));
    }
    let salts = &header[16..24];
    let mut log = Log::default();
    let mut pending = BTreeMap::new();
    let mut frame = vec![0; FRAME];
    let mut number = 0_u32;
    let mut at = HEADER as u64;
    let mut file = io::BufReader::with_capacity(256 * 1024, file);
    while at + FRAME as u64 <= length {
        file.read_exact(&mut frame)?;
        number += 1;
        let mine = &frame[8..16] == salts && word(&frame, 0) != 0;
        checksum.add(&frame[..8]);
        checksum.add(&frame[FRAME_HEADER..]);
        if !mine || checksum.sums != (word(&frame, 16), word(&frame, 20)) {
            break;
        }
        pending.insert(word(&frame, 0), at + FRAME_HEADER as u64);
        if word(&frame, 4) != 0 {
            log.frames = number;
            log.pages = word(&frame, 4);
            log.content.append(&mut pending);
        }
        at += FRAME as u64;
    }
    // What follows a bad frame may be the rest of the step that the crash stopped. A commit with another
    // frame behind it is more: that commit was durable, with all before it, when the next was written.
    let file = file.into_inner();
    let mut committed = false;
    let mut start = [0; FRAME_HEADER];
    while at + FRAME as u64 <= length {
        file.read_exact_at(&mut start, at)?;
        if &start[8..16] == salts && word(&start, 0) != 0 {
            if committed {
                return Ok(Found::Damaged(format!(
                    "frame {number} was changed, and commits behind it would be lost"
                )));
            }
            committed = word(&start, 4) != 0;
        }
        at += FRAME as u64;
    }
    Ok(Found::Log(log))
}
