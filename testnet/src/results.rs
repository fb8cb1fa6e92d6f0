//! What a bench measured: for programs, and as a table beside the aims of the project.

use serde::Serialize;

use crate::figures::Spread;
use crate::machine::Machine;
use crate::table::{Paint, Table, say, thousands};

/// As fast as it goes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Flood {
    pub(crate) items: u64,
    pub(crate) seconds: f64,
    /// Items that became safe, a second.
    pub(crate) per_second: f64,
    /// Loopback bytes of all programs, per copy.
    pub(crate) bytes_per_copy: Option<f64>,
    /// Microseconds of processor time per item: sender, recipient, one keeper.
    pub(crate) processor_us: Option<[f64; 3]>,
}

/// At fifty a second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Light {
    pub(crate) texts: usize,
    pub(crate) safe_ms: Spread,
    pub(crate) delivered_ms: Spread,
    pub(crate) bytes_per_copy: Option<f64>,
}

/// A node that has nothing to do.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Idle {
    pub(crate) node: String,
    pub(crate) resident_mib: Option<f64>,
    /// Share of one core, in percent.
    pub(crate) core_percent: Option<f64>,
    /// After everything was measured.
    pub(crate) resident_after_mib: Option<f64>,
}

/// Bytes of archive pages at a keeper per item: for its sender, for its recipient.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct ArchiveCost {
    pub(crate) text: [f64; 2],
    pub(crate) iou: [f64; 2],
}

#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) idle: Vec<Idle>,
    /// Loopback bytes a second while all are idle: what the figures per copy were freed of.
    pub(crate) idle_bytes_per_second: Option<f64>,
    pub(crate) light: Light,
    pub(crate) texts: Flood,
    pub(crate) ious: Flood,
    pub(crate) archive_bytes: ArchiveCost,
    /// From the first process until twelve are ready.
    pub(crate) start_12_ms: u64,
}

impl Results {
    /// Prints the table.
    pub(crate) fn print(&self) {
        let paint = Paint::for_stdout();
        let machine = &self.machine;
        let memory = machine
            .memory_mib
            .map_or_else(|| "unknown".to_owned(), |mib| format!("{mib} MiB"));
        say("");
        say(&format!("  {}", self.command));
        say(&format!(
            "  {} cores of {}, {memory} memory, {}",
            machine.cores, machine.processor, machine.system
        ));
        if !machine.release {
            say(&paint.red("  This is not a release build: the figures mean nothing."));
        }
        say("");
        let bytes = |figure: Option<f64>| {
            figure.map_or_else(
                || "not measured here".to_owned(),
                |b| format!("{b:.0} bytes"),
            )
        };
        let rate =
            |flood: &Flood| format!("{} a second", thousands(flood.per_second.round() as i128));
        let spread =
            |spread: &Spread| format!("p50 {:.2} ms, p99 {:.2} ms", spread.p50, spread.p99);
        let mut table = Table::new(&["", "measured", "aim"]);
        let mut row = |what: &str, figure: String, aim: &str| {
            table.row([what.to_owned(), figure, aim.to_owned()]);
        };
        row("safe messages", rate(&self.texts), "2,000 a second");
        row("safe IOUs", rate(&self.ious), "2,000 a second");
        row(
            "call to safe, 50 a second",
            spread(&self.light.safe_ms),
            "p50 5 ms, p99 15 ms",
        );
        row(
            "call to delivered, 50 a second",
            spread(&self.light.delivered_ms),
            "p50 5 ms, p99 15 ms",
        );
        row(
            "a copy on the wire, 50 a second",
            bytes(self.light.bytes_per_copy),
            "900 bytes",
        );
        row(
            "a copy on the wire, many texts",
            bytes(self.texts.bytes_per_copy),
            "900 bytes",
        );
        row(
            "a copy on the wire, many IOUs",
            bytes(self.ious.bytes_per_copy),
            "",
        );
        let effort = |flood: &Flood| {
            flood.processor_us.map_or_else(
                || "not measured here".to_owned(),
                |[sender, recipient, keeper]| {
                    format!("{sender:.0} / {recipient:.0} / {keeper:.0} µs")
                },
            )
        };
        row(
            "processor per text: sender / recipient / keeper",
            effort(&self.texts),
            "",
        );
        row(
            "processor per IOU: sender / recipient / keeper",
            effort(&self.ious),
            "",
        );
        let pages = |[sender, recipient]: [f64; 2]| format!("{sender:.0} / {recipient:.0} bytes");
        row(
            "archive per text: of the sender / of the recipient",
            pages(self.archive_bytes.text),
            "",
        );
        row(
            "archive per IOU: of the sender / of the recipient",
            pages(self.archive_bytes.iou),
            "",
        );
        row(
            "twelve nodes ready",
            format!("{:.1} s", self.start_12_ms as f64 / 1e3),
            "5 s",
        );
        table.lines(paint).iter().for_each(|line| say(line));
        say("");
        let mut table = Table::new(&["idle node", "resident", "of a core", "resident at the end"]);
        let mib =
            |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |f| format!("{f:.1} MiB"));
        for idle in &self.idle {
            let share = idle
                .core_percent
                .map_or_else(|| "-".to_owned(), |p| format!("{p:.2} %"));
            table.row([
                idle.node.clone(),
                mib(idle.resident_mib),
                share,
                mib(idle.resident_after_mib),
            ]);
        }
        table.lines(paint).iter().for_each(|line| say(line));
        say("  (aim: 40 MiB, 0.5 %)");
        say("");
        say(
            "  Bytes are those of the loopback device per text or IOU and copy (recipient, three keepers),",
        );
        say(
            "  with IP and UDP headers, acknowledgements and receipts, less what passes when all are idle.",
        );
        say("  Other programs that use loopback at the same time are counted, too.");
    }
}
