//! The result of a fire: as JSON for programs, and as a table that a person enjoys reading.

use serde::Serialize;

use crate::checker::{Ious, Latency, Ledger, Messages, Reckoning};
use crate::comeback::Restored;
use crate::layout::Building;
use crate::options::Plan;
use crate::table::{Paint, Table, thousands};

/// Broken promises that are printed; of more the rest is counted.
const SAID_MAX: usize = 12;
/// Broken promises in the JSON.
const LISTED_MAX: usize = 200;

/// What burned.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Burned {
    pub(crate) building: &'static str,
    pub(crate) nodes: usize,
    pub(crate) accounts: usize,
}

/// The result. The names are those of the JSON file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) nodes: usize,
    pub(crate) buildings: usize,
    pub(crate) accounts: usize,
    pub(crate) seconds: u64,
    pub(crate) rate: u32,
    pub(crate) seed: u64,
    pub(crate) burned: Burned,
    pub(crate) messages: Messages,
    pub(crate) ious: Ious,
    pub(crate) ledger: Ledger,
    pub(crate) latency_ms: Latency,
    pub(crate) gap_ms: u64,
    pub(crate) wait_ms: u64,
    /// From the first process until all nodes were ready.
    pub(crate) start_ms: u64,
    /// From there until all accounts, contacts and lines were made.
    pub(crate) setup_ms: u64,
    /// From the end of traffic until everything owed was there.
    pub(crate) settle_ms: u64,
    /// How many buildings burned, one after another.
    pub(crate) burns: usize,
    pub(crate) restored: Restored,
    /// From the fire until every account had its keepers in buildings apart again, the slowest.
    pub(crate) repair_ms: Option<u64>,
    pub(crate) repeated: u64,
    pub(crate) unknown: u64,
    pub(crate) broken: Vec<String>,
    pub(crate) ok: bool,
}

/// Milliseconds that the parts of a run took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) start_ms: u64,
    pub(crate) setup_ms: u64,
    pub(crate) settle_ms: u64,
    /// `None`: the keepers did not become whole.
    pub(crate) repair_ms: Option<u64>,
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        burns: usize,
        times: Times,
        restored: Restored,
        reckoning: Reckoning,
    ) -> Self {
        let nodes = plan.layout.nodes_in(plan.burn);
        let accounts = (0..plan.accounts)
            .filter(|a| nodes.contains(&(a % plan.layout.places.len())))
            .count();
        let mut broken = reckoning.broken;
        let ok = broken.is_empty();
        if broken.len() > LISTED_MAX {
            let more = broken.len() - LISTED_MAX;
            broken.truncate(LISTED_MAX);
            broken.push(format!("and {more} more"));
        }
        Self {
            nodes: plan.layout.places.len(),
            buildings: plan.layout.buildings.len(),
            accounts: plan.accounts,
            seconds: plan.seconds,
            rate: plan.rate,
            seed: plan.seed,
            burned: Burned {
                building: plan.layout.buildings[plan.burn].name,
                nodes: nodes.len(),
                accounts,
            },
            messages: reckoning.messages,
            ious: reckoning.ious,
            ledger: reckoning.ledger,
            latency_ms: reckoning.latency,
            gap_ms: reckoning.gap_ms,
            wait_ms: reckoning.wait_ms,
            start_ms: times.start_ms,
            setup_ms: times.setup_ms,
            settle_ms: times.settle_ms,
            burns,
            restored,
            repair_ms: times.repair_ms,
            repeated: reckoning.repeated,
            unknown: reckoning.unknown,
            broken,
            ok,
        }
    }

    /// The result in words and columns.
    pub(crate) fn text(&self, building: &Building, paint: Paint) -> String {
        let mut lines = vec![
            String::new(),
            match self.burns {
                0 | 1 => String::new(),
                fires => format!("  {fires} buildings burned, one after another. The first:"),
            },
            format!(
                "  {} burned after {} s: {} of {} nodes and {} of {} accounts gone at once,",
                paint.bold(&building.both()),
                self.seconds / 3,
                self.burned.nodes,
                self.nodes,
                self.burned.accounts,
                self.accounts
            ),
            "  killed without warning, their disks wiped. Nothing else was touched.".to_owned(),
            "  Its people came back in other buildings, from their 24 words. Then all were asked what"
                .to_owned(),
            "  they hold, and it was compared with what everybody had been told all along:".to_owned(),
            String::new(),
        ];
        let good = |number: u64| {
            let text = thousands(i128::from(number));
            if number == 0 {
                text
            } else {
                format!("{text} !")
            }
        };
        let plain = |number: u64| thousands(i128::from(number));

        let mut table = Table::new(&["", "sent", "safe", "delivered", "lost", "twice", "disorder"]);
        let messages = &self.messages;
        table.row([
            "messages".to_owned(),
            plain(messages.sent),
            plain(messages.safe),
            plain(messages.delivered),
            good(messages.lost_safe),
            good(messages.shown_twice),
            good(messages.out_of_order),
        ]);
        lines.extend(table.lines(paint));
        lines.push(String::new());

        let mut table = Table::new(&[
            "",
            "signed",
            "safe",
            "accepted",
            "lost",
            "held",
            "no credit",
        ]);
        let ious = &self.ious;
        table.row([
            "IOUs    ".to_owned(),
            plain(ious.signed),
            plain(ious.safe),
            plain(ious.accepted),
            good(ious.lost_safe),
            plain(ious.held),
            plain(ious.refused),
        ]);
        lines.extend(table.lines(paint));
        lines.push(String::new());

        let mut table = Table::new(&["", "lines", "both ends agree", "made or lost"]);
        let sums: Vec<_> = self
            .ledger
            .sum
            .iter()
            .map(|(unit, sum)| format!("{} {unit}", thousands(i128::from(*sum))))
            .collect();
        table.row([
            "ledger  ".to_owned(),
            plain(self.ledger.lines),
            plain(self.ledger.lines.saturating_sub(self.ledger.disagreements)),
            sums.join(", "),
        ]);
        lines.extend(table.lines(paint));
        lines.push(String::new());

        let mut table = Table::new(&[
            "from the call until",
            "p50 / p99",
            "before the fire",
            "after it",
        ]);
        let Latency {
            safe,
            delivered,
            before,
            after,
        } = &self.latency_ms;
        for (what, spreads) in [
            ("safe", [safe, &before.safe, &after.safe]),
            (
                "delivered",
                [delivered, &before.delivered, &after.delivered],
            ),
        ] {
            let [all, before, after] = spreads.map(|s| format!("{:.1} / {:.1} ms", s.p50, s.p99));
            table.row([what.to_owned(), all, before, after]);
        }
        lines.extend(table.lines(paint));
        lines.push(String::new());
        let restored = &self.restored;
        let seconds = |ms: Option<u64>| {
            ms.map_or_else(
                || "never !".to_owned(),
                |ms| format!("{:.1} s", ms as f64 / 1e3),
            )
        };
        let mut table = Table::new(&[
            "",
            "accounts",
            "complete",
            "safe and missing",
            "back within",
            "paid again after",
        ]);
        table.row([
            "restored".to_owned(),
            restored.accounts.to_string(),
            restored.complete.to_string(),
            good(restored.missing_safe),
            seconds(Some(restored.slowest_ms)),
            seconds(restored.paid_after_ms),
        ]);
        lines.extend(table.lines(paint));
        lines.push(String::new());
        lines.push(format!(
            "  All copies were in buildings apart again {} after the fire.",
            seconds(self.repair_ms)
        ));
        lines.push(format!(
            "  {} came back on a node that kept for them; {} pairs of contacts burned together;",
            restored.on_keepers, restored.burned_pairs
        ));
        lines.push(format!(
            "  {} old keys, used again, did nothing twice; {} items nobody had called safe are gone.",
            restored.repeated,
            plain(restored.never_safe)
        ));
        for text in restored.said_missing.iter().take(SAID_MAX) {
            lines.push(format!("  - said at the restore: {text}"));
        }
        lines.push(format!(
            "  After the fire survivors saw no new safe message for {} ms at most.",
            plain(self.gap_ms)
        ));
        lines.push(format!(
            "  {} operations were sent twice with one key; of {} calls into the fire the outcome is \
             unknown.",
            plain(self.repeated),
            plain(self.unknown)
        ));
        lines.push(format!(
            "  Start {:.1} s, accounts and contacts {:.1} s, everything there {:.1} s after the last \
             call.",
            self.start_ms as f64 / 1e3,
            self.setup_ms as f64 / 1e3,
            self.settle_ms as f64 / 1e3
        ));
        lines.push(String::new());
        if self.ok {
            lines.push(format!(
                "  {}",
                paint.green("ok: everything promised held.")
            ));
        } else {
            lines.push(format!(
                "  {}",
                paint.red("NOT ok. What was promised and did not hold:")
            ));
            for text in self.broken.iter().take(SAID_MAX) {
                lines.push(format!("  - {text}"));
            }
            if self.broken.len() > SAID_MAX {
                lines.push(format!("  - and {} more", self.broken.len() - SAID_MAX));
            }
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Cli, FireOptions};
    use clap::Parser as _;

    fn plan() -> Plan {
        let options: FireOptions = Cli::parse_from(["pumasi-testnet"]).fire;
        options.check().unwrap()
    }

    #[test]
    fn the_json_has_the_names_that_programs_rely_on() {
        let report = Report::new(
            &plan(),
            1,
            Times::default(),
            Restored::default(),
            Reckoning::default(),
        );
        let json = serde_json::to_value(&report).unwrap();
        for path in [
            "/nodes",
            "/buildings",
            "/accounts",
            "/seconds",
            "/burned/building",
            "/burned/nodes",
            "/burned/accounts",
            "/messages/sent",
            "/messages/safe",
            "/messages/delivered",
            "/messages/lost_safe",
            "/messages/shown_twice",
            "/messages/out_of_order",
            "/ious/signed",
            "/ious/safe",
            "/ious/lost_safe",
            "/ledger/lines",
            "/ledger/disagreements",
            "/ledger/sum",
            "/latency_ms/safe/p50",
            "/latency_ms/safe/p99",
            "/latency_ms/delivered/p50",
            "/latency_ms/delivered/p99",
            "/gap_ms",
            "/restored/accounts",
            "/restored/complete",
            "/restored/slowest_ms",
            "/restored/missing_safe",
            "/restored/paid_after_ms",
            "/repair_ms",
            "/ok",
        ] {
            assert!(json.pointer(path).is_some(), "{path}");
        }
        assert_eq!(json["burned"]["nodes"], 3);
        assert_eq!(json["burned"]["accounts"], 6);
    }

    #[test]
    fn the_table_says_what_burned_and_what_held() {
        let plan = plan();
        let report = Report::new(
            &plan,
            1,
            Times::default(),
            Restored::default(),
            Reckoning::default(),
        );
        let text = report.text(&plan.layout.buildings[plan.burn], Paint(false));
        assert!(text.contains("pangyo 판교 burned after 20 s: 3 of 12 nodes and 6 of 24 accounts"));
        assert!(text.contains("ok: everything promised held"));
        assert!(!text.contains('\x1b'));
        assert!(text.lines().all(|line| crate::table::width(line) <= 100));
    }

    #[test]
    fn a_broken_promise_is_said_in_a_sentence_and_ends_the_ok() {
        let plan = plan();
        let broken = (0..300).map(|n| format!("text #{n} is gone")).collect();
        let mut reckoning = Reckoning {
            broken,
            ..Reckoning::default()
        };
        reckoning.messages.lost_safe = 300;
        let report = Report::new(&plan, 1, Times::default(), Restored::default(), reckoning);
        let text = report.text(&plan.layout.buildings[plan.burn], Paint(false));
        assert!(!report.ok && report.broken.len() == LISTED_MAX + 1);
        assert!(text.contains("NOT ok") && text.contains("- text #0 is gone"));
        assert!(text.contains("300 !"));
    }
}
