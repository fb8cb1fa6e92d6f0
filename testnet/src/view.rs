//! The live view: buildings, nodes, counters and the moment of the fire, redrawn on a terminal, or as
//! plain lines every few seconds elsewhere.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::auditor::Counts;
use crate::figures::Spread;
use crate::layout::{Building, Layout};
use crate::table::{Paint, bar, cut, left, right, say, thousands, width};
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
    /// When it burned, microseconds after traffic began.
    burned: Option<u64>,
}

/// An account of the view.
#[derive(Debug)]
struct Resident {
    name: String,
    /// Its node now.
    node: usize,
    /// It came back from its words.
    returned: bool,
}

#[derive(Debug)]
struct State {
    title: String,
    phase: String,
    houses: Vec<House>,
    lights: Vec<Light>,
    people: Vec<Resident>,
    /// When the part of traffic under way began, in microseconds, and how long it goes on.
    start: u64,
    seconds: u64,
    stage: Option<Stage>,
    /// Of those who burned last: how far each has come, and whether it is back.
    returns: BTreeMap<usize, (String, bool)>,
    /// Accounts that have all their copies, of how many.
    copies: Option<(usize, usize)>,
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
                burned: None,
            })
            .collect();
        Self(Arc::new(Mutex::new(State {
            title: title.to_owned(),
            phase: String::new(),
            houses,
            lights: vec![Light::Running; layout.places.len()],
            people: Vec::new(),
            start: 0,
            seconds,
            stage: None,
            returns: BTreeMap::new(),
            copies: None,
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
        self.state().people = homes
            .iter()
            .zip(names)
            .map(|(&node, name)| Resident {
                name: name.clone(),
                node,
                returned: false,
            })
            .collect();
    }

    /// Traffic begins: from now on there are counts.
    pub(crate) fn begin(&self, stage: Stage) {
        self.state().stage = Some(stage);
    }

    /// A part of traffic begins at this moment.
    pub(crate) fn part(&self, start: u64) {
        let mut state = self.state();
        state.start = start;
        // Those that burned before are no news any more.
        state.houses.retain(|house| house.burned.is_none());
        state.returns.clear();
        state.copies = None;
    }

    /// These nodes burned.
    pub(crate) fn burn(&self, nodes: &[usize], at: u64) {
        let mut state = self.state();
        for &node in nodes {
            state.lights[node] = Light::Burned;
        }
        for house in &mut state.houses {
            if house.nodes.iter().any(|node| nodes.contains(node)) {
                house.burned = Some(at);
            }
        }
    }

    /// A building opened.
    pub(crate) fn open(&self, building: &Building, nodes: &[usize]) {
        let mut state = self.state();
        state.houses.push(House {
            name: building.name.to_owned(),
            korean: building.korean.to_owned(),
            nodes: nodes.to_vec(),
            burned: None,
        });
        let known = state.lights.len() + nodes.len();
        state.lights.resize(known, Light::Running);
    }

    /// How far somebody's return has come.
    pub(crate) fn returning(&self, account: usize, text: &str) {
        let text = text.to_owned();
        self.state().returns.insert(account, (text, false));
    }

    /// Somebody is back, on this node.
    pub(crate) fn returned(&self, account: usize, node: usize) {
        let mut state = self.state();
        state.returns.insert(account, (String::new(), true));
        let person = &mut state.people[account];
        (person.node, person.returned) = (node, true);
    }

    /// How many accounts have all their copies again.
    pub(crate) fn copies(&self, whole: usize, all: usize) {
        self.state().copies = Some((whole, all));
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
        let people = match house.burned {
            Some(at) => paint.red(&format!(
                "burned {} s ago",
                now.saturating_sub(at) / 1_000_000
            )),
            None => residents(state, house, room, paint),
        };
        let burned = house.burned.is_some();
        let name = format!("{} {}", left(&house.korean, 6), left(&house.name, 11));
        let name = if burned { paint.dim(&name) } else { name };
        lines.push(format!("    {name} {dots}{gap} {people}"));
    }
    lines.push(String::new());
    if let Some(stage) = &state.stage {
        let now = now.saturating_sub(state.start);
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
        lines.extend(recovery(state, paint));
    } else {
        lines.push(format!("    {}", cut(&state.phase, COLUMNS - 4)));
    }
    lines
}

/// Who lives in a building: those who came back there first, and marked.
fn residents(state: &State, house: &House, room: usize, paint: Paint) -> String {
    let here = |returned: bool| {
        let people = state.people.iter().filter(move |person| {
            house.nodes.contains(&person.node) && person.returned == returned
        });
        people
            .map(|p| p.name.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let back = here(true);
    let back = if back.is_empty() {
        back
    } else {
        cut(&format!("↩ {back} "), room)
    };
    let left = room.saturating_sub(width(&back));
    let rest = if left > 3 {
        cut(&here(false), left)
    } else {
        String::new()
    };
    format!("{}{}", paint.green(&back), paint.dim(&rest))
}

/// The way back: people, and copies. Two lines always, so that the picture keeps its height.
fn recovery(state: &State, paint: Paint) -> [String; 2] {
    let all = state.returns.len();
    let done = state.returns.values().filter(|(_, done)| *done).count();
    let back = if all == 0 {
        String::new()
    } else {
        let doing = state.returns.iter().find(|(_, (_, done))| !done);
        let text = match doing {
            Some((account, (text, _))) => format!("{}: {text}", state.people[*account].name),
            None => "from their 24 words".to_owned(),
        };
        let share = done as f64 / all as f64;
        let bar = bar(share, 12);
        let bar = if done == all { paint.green(&bar) } else { bar };
        format!(
            "    back     {bar} {done:>3} of {all:<3} {}",
            cut(&text, 36)
        )
    };
    let copies = state.copies.map_or_else(String::new, |(whole, all)| {
        let bar = bar(whole as f64 / all.max(1) as f64, 12);
        let bar = if whole == all { paint.green(&bar) } else { bar };
        format!("    copies   {bar} {whole:>3} of {all:<3} accounts have all of theirs, apart")
    });
    [back, copies]
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
