//! The auditor's own record of a run: every operation, what was answered, what events said, when.
//! It knows nothing of what the nodes hold; the checker compares the two.

use std::collections::{BTreeMap, VecDeque};

use pumasi_node::view::EventView;
use serde_json::json;

use crate::society::Friendship;
use crate::workload::Operation;

/// The code of a refusal for want of credit.
pub(crate) const NO_CREDIT: &str = "credit_limit_exceeded";
/// Latencies kept for the live view.
const RECENT: usize = 1_000;

/// What became of an operation, as the caller saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Never called: its node burned first.
    Skipped,
    /// Accepted; the id of the message or payment.
    Answered(String),
    /// Refused: code and sentence.
    Refused(String, String),
    /// Called, and no answer came: it may have had its effect.
    Unknown,
}

/// One operation and what its caller saw. Times in microseconds since the start of traffic.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) operation: Operation,
    /// When the call was begun; the moment it was due, if it had to wait for the call before it.
    pub(crate) begun: Option<u64>,
    /// When the answer came.
    pub(crate) ended: Option<u64>,
    pub(crate) outcome: Outcome,
    /// Answers to the same call with the same key that do not fit the first one, in words.
    pub(crate) quarrels: Vec<String>,
    /// How often it was called, over all attempts.
    pub(crate) calls: u32,
}

impl Entry {
    /// The id it was answered with.
    pub(crate) fn id(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Answered(id) => Some(id),
            _ => None,
        }
    }
}

/// When something was first said about a message or payment, by an answer or event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    pub(crate) safe: Option<u64>,
    pub(crate) delivered: Option<u64>,
    /// Of a payment: that the payee's node accepted it.
    pub(crate) accepted: Option<u64>,
    /// Of a payment: that it was declined.
    pub(crate) declined: Option<u64>,
}

/// An account as the auditor knows it.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) id: String,
    /// When its node burned, and when it was back elsewhere.
    pub(crate) away: Vec<Away>,
    /// It could not be restored.
    pub(crate) lost: bool,
}

/// A time without a node. Microseconds since the start of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Away {
    pub(crate) from: u64,
    /// `None`: not back yet.
    pub(crate) back: Option<u64>,
}

impl Who {
    pub(crate) fn new(name: &str, id: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: id.to_owned(),
            away: Vec::new(),
            lost: false,
        }
    }

    /// Whether it burned and is not back.
    pub(crate) fn is_away(&self) -> bool {
        self.away.last().is_some_and(|away| away.back.is_none())
    }

    /// When it came back last; 0: it never was away.
    pub(crate) fn since(&self) -> u64 {
        self.away.last().and_then(|away| away.back).unwrap_or(0)
    }

    /// Whether it burned at this moment or later.
    pub(crate) fn burned_after(&self, at: u64) -> bool {
        self.away.iter().any(|away| away.from >= at)
    }

    /// Whether it was away at any time between two moments.
    pub(crate) fn was_away(&self, from: u64, to: u64) -> bool {
        self.away
            .iter()
            .any(|away| away.from <= to && away.back.is_none_or(|back| back >= from))
    }
}

/// Running figures for the live view.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) texts: u64,
    pub(crate) texts_safe: u64,
    pub(crate) texts_delivered: u64,
    pub(crate) ious: u64,
    pub(crate) ious_safe: u64,
    pub(crate) ious_accepted: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    /// Recent microseconds from call to safe.
    pub(crate) recent: VecDeque<u64>,
}

/// The record.
#[derive(Debug)]
pub(crate) struct Auditor {
    pub(crate) people: Vec<Who>,
    pub(crate) friendships: Vec<Friendship>,
    pub(crate) entries: Vec<Entry>,
    /// By message or payment id. Events may come before the answer that tells the id.
    pub(crate) said: BTreeMap<String, Said>,
    /// When buildings burned.
    pub(crate) fires: Vec<u64>,
    /// When the last operation had been begun.
    pub(crate) traffic_end: Option<u64>,
    /// Events that were missing in a node's sequence.
    pub(crate) event_holes: u64,
    pub(crate) counts: Counts,
    /// Entry of each id, once the answer told it.
    entry_of: BTreeMap<String, usize>,
}

impl Auditor {
    pub(crate) fn new(
        people: Vec<Who>,
        friendships: Vec<Friendship>,
        operations: Vec<Operation>,
    ) -> Self {
        let mut auditor = Self {
            people,
            friendships,
            entries: Vec::new(),
            said: BTreeMap::new(),
            fires: Vec::new(),
            traffic_end: None,
            event_holes: 0,
            counts: Counts::default(),
            entry_of: BTreeMap::new(),
        };
        auditor.expect(operations);
        auditor
    }

    /// More operations are going to be performed; their numbers go on after the last one's.
    pub(crate) fn expect(&mut self, operations: Vec<Operation>) {
        self.entries
            .extend(operations.into_iter().map(|operation| Entry {
                operation,
                begun: None,
                ended: None,
                outcome: Outcome::Skipped,
                quarrels: Vec::new(),
                calls: 0,
            }));
    }

    /// These accounts' building burned.
    pub(crate) fn burn(&mut self, accounts: &[usize], now: u64) {
        self.fires.push(now);
        for &account in accounts {
            let away = &mut self.people[account].away;
            away.push(Away {
                from: now,
                back: None,
            });
        }
    }

    /// An account is back on another node.
    pub(crate) fn back(&mut self, account: usize, now: u64) {
        if let Some(away) = self.people[account].away.last_mut() {
            away.back.get_or_insert(now);
        }
    }

    /// From an account's return until the first payment that it made since was accepted.
    pub(crate) fn paid_after(&self, account: usize) -> Option<u64> {
        let back = self.people[account].away.last()?.back?;
        self.entries
            .iter()
            .filter(|entry| entry.operation.from == account && !entry.operation.is_text())
            .filter(|entry| entry.begun.is_some_and(|at| at >= back))
            .filter_map(|entry| self.said.get(entry.id()?)?.accepted)
            .min()
            .map(|at| at.saturating_sub(back))
    }

    /// A call is made; from now on it may have its effect.
    pub(crate) fn call(&mut self, number: usize, due: u64) {
        let entry = &mut self.entries[number];
        entry.calls += 1;
        if entry.begun.is_none() {
            entry.begun = Some(due);
            entry.outcome = Outcome::Unknown;
            self.counts.unknown += 1;
        }
    }

    /// It was accepted.
    pub(crate) fn answered(&mut self, number: usize, id: &str, safe: bool, now: u64) {
        let entry = &mut self.entries[number];
        match &entry.outcome {
            Outcome::Answered(known) => {
                if known != id {
                    entry.quarrels.push(format!("made once more, as {id}"));
                }
                return;
            }
            // The second of two calls: there was room for it meanwhile.
            Outcome::Refused(..) => self.counts.refused -= 1,
            Outcome::Skipped | Outcome::Unknown => self.counts.unknown -= 1,
        }
        entry.ended = Some(now);
        entry.outcome = Outcome::Answered(id.to_owned());
        let text = entry.operation.is_text();
        *(if text {
            &mut self.counts.texts
        } else {
            &mut self.counts.ious
        }) += 1;
        self.entry_of.insert(id.to_owned(), number);
        if safe {
            self.said
                .entry(id.to_owned())
                .or_default()
                .safe
                .get_or_insert(now);
        }
        // Events that were quicker than the answer.
        let said = self.said.get(id).cloned().unwrap_or_default();
        if let Some(at) = said.safe {
            self.count_safe(number, at);
        }
        self.counts.texts_delivered += u64::from(text && said.delivered.is_some());
        self.counts.ious_accepted += u64::from(!text && said.accepted.is_some());
    }

    /// It was refused.
    pub(crate) fn refused(&mut self, number: usize, code: &str, sentence: &str, now: u64) {
        let entry = &mut self.entries[number];
        match &entry.outcome {
            // Of two calls at once, this one may have been looked at first, when there was no room.
            Outcome::Answered(_) if code != NO_CREDIT => {
                entry.quarrels.push(format!("refused ({code}: {sentence})"));
            }
            Outcome::Unknown => {
                entry.ended = Some(now);
                entry.outcome = Outcome::Refused(code.to_owned(), sentence.to_owned());
                self.counts.unknown -= 1;
                self.counts.refused += 1;
            }
            _ => {}
        }
    }

    /// An event of a node arrived.
    pub(crate) fn event(&mut self, event: &EventView, now: u64) {
        if !event.kind.starts_with("message.") && !event.kind.starts_with("payment.") {
            return;
        }
        let data = &event.data;
        let Some(own_id) = data["id"].as_str() else {
            return;
        };
        // An IOU as a message is about the payment that it makes.
        let id = data["payment"].as_str().unwrap_or(own_id).to_owned();
        let safe = data["safe"].as_bool() == Some(true);
        let said = self.said.entry(id.clone()).or_default();
        let was = said.clone();
        match event.kind.as_str() {
            "message.safe" | "payment.safe" => drop(said.safe.get_or_insert(now)),
            "message.delivered" | "message.read" => drop(said.delivered.get_or_insert(now)),
            "payment.accepted" => drop(said.accepted.get_or_insert(now)),
            "payment.declined" => drop(said.declined.get_or_insert(now)),
            "payment.received" if data["state"] == "accepted" => {
                said.accepted.get_or_insert(now);
            }
            _ => {}
        }
        // What the sender's node shows counts, whatever the event is called.
        if safe && data["direction"] == "out" {
            said.safe.get_or_insert(now);
        }
        let (safe, delivered, accepted) = (said.safe, said.delivered, said.accepted);
        if let Some(&number) = self.entry_of.get(&id) {
            if let (None, Some(at)) = (was.safe, safe) {
                self.count_safe(number, at);
            }
            let text = self.entries[number].operation.is_text();
            self.counts.texts_delivered +=
                u64::from(text && was.delivered.is_none() && delivered.is_some());
            self.counts.ious_accepted +=
                u64::from(!text && was.accepted.is_none() && accepted.is_some());
        }
    }

    /// The record as lines of JSON, for people who look into a run that failed.
    pub(crate) fn lines(&self) -> String {
        let mut lines = String::new();
        for entry in &self.entries {
            let (outcome, id) = match &entry.outcome {
                Outcome::Skipped => ("skipped", None),
                Outcome::Answered(id) => ("answered", Some(id)),
                Outcome::Refused(..) => ("refused", None),
                Outcome::Unknown => ("unknown", None),
            };
            let said = id
                .and_then(|id| self.said.get(id))
                .cloned()
                .unwrap_or_default();
            let line = json!({
                "number": entry.operation.number,
                "kind": if entry.operation.is_text() { "text" } else { "iou" },
                "from": self.people[entry.operation.from].name,
                "to": self.people[entry.operation.to].name,
                "due_us": entry.operation.at,
                "begun_us": entry.begun,
                "ended_us": entry.ended,
                "calls": entry.calls,
                "outcome": outcome,
                "id": id,
                "safe_us": said.safe,
                "delivered_us": said.delivered,
                "accepted_us": said.accepted,
                "declined_us": said.declined,
            });
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
        lines
    }

    /// Texts that became safe, and delivered, so far.
    pub(crate) fn counted(&self) -> (u64, u64) {
        (self.counts.texts_safe, self.counts.texts_delivered)
    }

    fn count_safe(&mut self, number: usize, at: u64) {
        let entry = &self.entries[number];
        let text = entry.operation.is_text();
        *(if text {
            &mut self.counts.texts_safe
        } else {
            &mut self.counts.ious_safe
        }) += 1;
        if let Some(begun) = entry.begun {
            if self.counts.recent.len() == RECENT {
                self.counts.recent.pop_front();
            }
            self.counts.recent.push_back(at.saturating_sub(begun));
        }
    }
}
