//! The live view: buildings, nodes, counters and the moment of the fire, redrawn on a terminal, or as
//! plain lines every few seconds elsewhere.

use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::auditor::Counts;
use crate::figures::Spread;
use crate::layout::Layout;
use crate::table::{Paint, bar, cut, left, right, say, thousands};
use crate::traffic::Stage;

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(120);
/// How often a plain line is written.
const PLAIN: Duration = Duration::from_secs(3);
/// Columns of the view.
const COLUMNS: usize = 78;
/// Most nodes drawn per building; of more the rest is counted.
const DRAWN: usize = 16;

/// What a node looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Light {
    Running,
    Burned,
    Fallen,
}

/// A building of the view.
#[derive(Debug)]
struct House {
    name: String,
    korean: String,
    nodes: Vec<usize>,
    /// Names of the accounts there.
    people: Vec<String>,
}

#[derive(Debug)]
struct State {
    title: String,
    phase: String,
    houses: Vec<House>,
    lights: Vec<Light>,
    /// How long traffic goes on.
    seconds: u64,
    stage: Option<Stage>,
    /// When the fire was, microseconds after traffic began.
    fire: Option<u64>,
}

/// What the view shows, beside the auditor's counts; shared by whoever has something to say.
#[derive(Debug, Clone)]
pub(crate) struct Board(Arc<Mutex<State>>);

impl Board {
    pub(crate) fn new(title: &str, layout: &Layout, seconds: u64) -> Self {
        let houses = layout
            .buildings
            .iter()
            .enumerate()
            .map(|(index, building)| House {
                name: building.name.to_owned(),
                korean: building.korean.to_owned(),
                nodes: layout.nodes_in(index),
                people: Vec::new(),
            })
            .collect();
        Self(Arc::new(Mutex::new(State {
            title: title.to_owned(),
            phase: String::new(),
            houses,
            lights: vec![Light::Running; layout.places.len()],
            seconds,
            stage: None,
            fire: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is being done now.
    pub(crate) fn phase(&self, phase: impl Into<String>) {
        self.state().phase = phase.into();
    }

    /// Who lives where.
    pub(crate) fn people(&self, homes: &[usize], names: &[String]) {
        for house in &mut self.state().houses {
            house.people = homes
                .iter()
                .zip(names)
                .filter(|(home, _)| house.nodes.contains(home))
                .map(|(_, name)| name.clone())
                .collect();
        }
    }

    /// Traffic begins: from now on there are counts.
    pub(crate) fn begin(&self, stage: Stage) {
        self.state().stage = Some(stage);
    }

    /// These nodes burned.
    pub(crate) fn burn(&self, nodes: &[usize], at: u64) {
        let mut state = self.state();
        state.fire = Some(at);
        for &node in nodes {
            state.lights[node] = Light::Burned;
        }
    }

    /// A node ended by itself.
    pub(crate) fn fallen(&self, node: usize) {
        self.state().lights[node] = Light::Fallen;
    }
}

/// Draws for as long as it is polled.
pub(crate) async fn show(board: Board, plain: bool, paint: Paint) {
    let begun = Instant::now();
    let mut screen = Screen::default();
    loop {
        if plain {
            tokio::time::sleep(PLAIN).await;
            say(&line(&board.state(), begun.elapsed()));
        } else {
            screen.draw(&picture(&board.state(), paint));
            tokio::time::sleep(REDRAW).await;
        }
    }
}

/// The place on the terminal where the view is. Dropped, it leaves the cursor as it was.
#[derive(Debug, Default)]
struct Screen {
    lines: usize,
}

impl Screen {
    fn draw(&mut self, lines: &[String]) {
        let mut text = String::from("\x1b[?25l");
        if self.lines > 0 {
            text.push_str(&format!("\x1b[{}A", self.lines));
        }
        for line in lines {
            text.push_str("\x1b[2K");
            text.push_str(line);
            text.push('\n');
        }
        self.lines = lines.len();
        let mut out = std::io::stdout();
        drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.lines > 0 {
            let mut out = std::io::stdout();
            drop(out.write_all(b"\x1b[?25h").and_then(|()| out.flush()));
        }
    }
}

/// The whole picture.
fn picture(state: &State, paint: Paint) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!("  {}", paint.bold(&state.title)),
        String::new(),
    ];
    let now = state.stage.as_ref().map_or(0, Stage::now);
    let room = COLUMNS
        - 24
        - 2 * state
            .houses
            .iter()
            .map(|h| h.nodes.len().min(DRAWN))
            .max()
            .unwrap_or(0);
    for house in &state.houses {
        let mut dots = String::new();
        let drawn = house.nodes.len().min(DRAWN);
        for &node in &house.nodes[..drawn] {
            dots.push_str(&match state.lights[node] {
                Light::Running => paint.green("●"),
                Light::Burned => paint.red("○"),
                Light::Fallen => paint.red("✗"),
            });
            dots.push(' ');
        }
        let widest = state
            .houses
            .iter()
            .map(|h| h.nodes.len().min(DRAWN))
            .max()
            .unwrap_or(0);
        let gap = " ".repeat(2 * (widest - drawn));
        let burned = house
            .nodes
            .iter()
            .any(|&node| state.lights[node] == Light::Burned);
        let people = cut(&house.people.join(" "), room);
        let people = match state.fire.filter(|_| burned) {
            Some(at) => paint.red(&format!(
                "burned {} s ago",
                now.saturating_sub(at) / 1_000_000
            )),
            None => paint.dim(&people),
        };
        let name = format!("{} {}", left(&house.korean, 6), left(&house.name, 11));
        let name = if burned { paint.dim(&name) } else { name };
        lines.push(format!("    {name} {dots}{gap} {people}"));
    }
    lines.push(String::new());
    if let Some(stage) = &state.stage {
        let share = now as f64 / (state.seconds as f64 * 1e6);
        let clock = format!(
            "{:>3} of {} s",
            (now / 1_000_000).min(state.seconds),
            state.seconds
        );
        lines.push(format!(
            "    {}  {clock}  {}",
            bar(share, 40),
            cut(&state.phase, 20)
        ));
        lines.push(String::new());
        lines.extend(counters(&stage.auditor().counts));
    } else {
        lines.push(format!("    {}", cut(&state.phase, COLUMNS - 4)));
    }
    lines
}

fn counters(counts: &Counts) -> [String; 3] {
    let figure = |number: u64| right(&thousands(i128::from(number)), 8);
    let spread = spread(counts);
    [
        format!(
            "    messages {} sent {} safe {} delivered",
            figure(counts.texts),
            figure(counts.texts_safe),
            figure(counts.texts_delivered)
        ),
        format!(
            "    IOUs     {} sent {} safe {} accepted {} refused",
            figure(counts.ious),
            figure(counts.ious_safe),
            figure(counts.ious_accepted),
            figure(counts.refused)
        ),
        format!(
            "    call to safe, lately: p50 {:.1} ms, p99 {:.1} ms",
            spread.p50, spread.p99
        ),
    ]
}

fn spread(counts: &Counts) -> Spread {
    Spread::of(counts.recent.iter().copied().collect())
}

/// One line that says the same.
fn line(state: &State, elapsed: Duration) -> String {
    let Some(stage) = &state.stage else {
        return format!("{:>4} s  {}", elapsed.as_secs(), state.phase);
    };
    let auditor = stage.auditor();
    let counts = &auditor.counts;
    let spread = spread(counts);
    format!(
        "{:>4} s  {}: messages {} sent, {} safe, {} delivered; IOUs {} sent, {} safe, {} accepted, {} \
         refused; safe p50 {:.1} ms, p99 {:.1} ms",
        stage.now() / 1_000_000,
        state.phase,
        counts.texts,
        counts.texts_safe,
        counts.texts_delivered,
        counts.ious,
        counts.ious_safe,
        counts.ious_accepted,
        counts.refused,
        spread.p50,
        spread.p99
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::width;

    #[test]
    fn every_building_has_a_line_that_fits_and_lines_up() {
        let layout = Layout::even(13, 4, 24, "test");
        let board = Board::new("a test", &layout, 60);
        let names: Vec<_> = (0..60).map(crate::society::name).collect();
        let homes: Vec<_> = (0..60).map(|account| account % 13).collect();
        board.people(&homes, &names);
        board.burn(&layout.nodes_in(0), 5);
        let lines = picture(&board.state(), Paint(false));
        let pangyo = lines.iter().find(|line| line.contains("pangyo")).unwrap();
        let busan = lines.iter().find(|line| line.contains("busan")).unwrap();
        assert!(
            pangyo.contains("○ ○ ○ ○") && pangyo.contains("burned"),
            "{pangyo}"
        );
        assert!(busan.contains("● ● ●") && busan.contains('…'), "{busan}");
        let column = |line: &str, dot: char| width(line.split(dot).next().unwrap());
        assert_eq!(column(pangyo, '○'), column(busan, '●'));
        assert!(
            lines.iter().all(|line| width(line) <= COLUMNS),
            "{lines:#?}"
        );
    }

    #[test]
    fn before_traffic_it_says_what_is_being_done() {
        let board = Board::new("a test", &Layout::even(4, 4, 8, "test"), 60);
        board.phase("3 of 8 accounts made");
        assert!(
            picture(&board.state(), Paint(false))
                .join("\n")
                .contains("3 of 8 accounts made")
        );
        assert!(line(&board.state(), Duration::from_secs(2)).ends_with("3 of 8 accounts made"));
    }
}
