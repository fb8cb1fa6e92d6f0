//! The reckoning: the auditor's record against what the surviving nodes show. Pure: it can be fed with
//! made-up findings, and must then find what is wrong with them.

mod contacts;
mod ledger;
mod limits;
mod messages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use pumasi_node::view::{MessageView, PaymentView};
use pumasi_protocol::delivery::State;
use serde::Serialize;

use crate::auditor::{Auditor, Entry, NO_CREDIT, Outcome};
use crate::figures::{Spread, gaps};
use crate::findings::Findings;
use crate::workload::What;

/// Texts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Messages {
    /// Accepted by the sender's node.
    pub(crate) sent: u64,
    /// Ever said safe.
    pub(crate) safe: u64,
    /// Said delivered, or found at the recipient.
    pub(crate) delivered: u64,
    /// Said safe or delivered, and not where they must be.
    pub(crate) lost_safe: u64,
    /// Beyond the first, in one list.
    pub(crate) shown_twice: u64,
    /// Shown after a later one of the same sender in the same chat.
    pub(crate) out_of_order: u64,
}

/// IOUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Ious {
    /// Accepted by the payer's node.
    pub(crate) signed: u64,
    pub(crate) safe: u64,
    pub(crate) lost_safe: u64,
    /// Accepted by the payee's node.
    pub(crate) accepted: u64,
    /// To or from people who burned, and waiting for them.
    pub(crate) held: u64,
    /// Refused for want of credit, rightly.
    pub(crate) refused: u64,
}

/// Lines, each counted once for both its ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Ledger {
    pub(crate) lines: u64,
    /// Lines on which the two ends, or an end and the auditor, disagree.
    pub(crate) disagreements: u64,
    /// Per unit, over both ends of all lines: money made (or lost, negative).
    pub(crate) sum: BTreeMap<String, i64>,
}

/// Milliseconds from the call for a text to a state.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) safe: Spread,
    pub(crate) delivered: Spread,
    /// Of those begun before the fire.
    pub(crate) before: Phase,
    /// Of those begun after it.
    pub(crate) after: Phase,
}

/// The same for a part of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Phase {
    pub(crate) safe: Spread,
    pub(crate) delivered: Spread,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reckoning {
    pub(crate) messages: Messages,
    pub(crate) ious: Ious,
    pub(crate) ledger: Ledger,
    pub(crate) latency: Latency,
    /// Milliseconds after the fire in which no text between survivors became safe.
    pub(crate) gap_ms: u64,
    /// The same, counted only while one was under way.
    pub(crate) wait_ms: u64,
    /// Operations sent more than once with one key.
    pub(crate) repeated: u64,
    /// Operations of the burned building whose outcome nobody can know.
    pub(crate) unknown: u64,
    /// Texts and IOUs that were called safe, and are missing at accounts that came back.
    pub(crate) missing_safe: u64,
    /// Texts and IOUs of the burned that nobody had called safe, and that are gone with their node.
    pub(crate) never_safe: u64,
    /// Every promise that did not hold, in a sentence.
    pub(crate) broken: Vec<String>,
}

/// Both halves, and an index into the second.
struct Scene<'a> {
    record: &'a Auditor,
    findings: &'a Findings,
    index: BTreeMap<&'a str, usize>,
    texts: BTreeMap<(usize, &'a str), &'a MessageView>,
    payments: BTreeMap<(usize, &'a str), &'a PaymentView>,
}

/// The longest that survivors may wait for the next safe message after the fire, milliseconds.
const GAP_MAX_MS: u64 = 3_000;

/// Compares the record with the findings.
pub(crate) fn reckon(record: &Auditor, findings: &Findings) -> Reckoning {
    let scene = Scene::new(record, findings);
    let mut reckoning = Reckoning {
        broken: findings.trouble.clone(),
        ..Reckoning::default()
    };
    scene.check_outcomes(&mut reckoning);
    messages::check(&scene, &mut reckoning);
    ledger::check(&scene, &mut reckoning);
    limits::check(&scene, &mut reckoning);
    contacts::check(&scene, &mut reckoning);
    scene.measure(&mut reckoning);
    reckoning
}

impl<'a> Scene<'a> {
    fn new(record: &'a Auditor, findings: &'a Findings) -> Self {
        let index = record
            .people
            .iter()
            .enumerate()
            .map(|(i, who)| (who.id.as_str(), i))
            .collect();
        let mut texts = BTreeMap::new();
        let mut payments = BTreeMap::new();
        for (&account, found) in &findings.accounts {
            for message in found.chats.values().flatten() {
                texts.insert((account, message.id.as_str()), message);
            }
            for payment in &found.payments {
                payments.insert((account, payment.id.as_str()), payment);
            }
        }
        Self {
            record,
            findings,
            index,
            texts,
            payments,
        }
    }

    /// Whether the account that did this did not burn afterwards: then nothing of it may be missing.
    fn lasts(&self, entry: &Entry) -> bool {
        let who = &self.record.people[entry.operation.from];
        !entry.begun.is_some_and(|at| who.burned_after(at))
    }

    /// Whether it ever burned.
    fn burned(&self, account: usize) -> bool {
        !self.record.people[account].away.is_empty()
    }

    /// Whether it lives and its node answered.
    fn was_asked(&self, account: usize) -> bool {
        self.findings.accounts.contains_key(&account)
    }

    fn name(&self, account: usize) -> &str {
        &self.record.people[account].name
    }

    /// Whether anybody ever said that it is safe: an event, an answer, or its sender's node now.
    fn said_safe(&self, id: &str, now: Option<(State, bool)>) -> bool {
        self.record
            .said
            .get(id)
            .is_some_and(|said| said.safe.is_some())
            || now.is_some_and(|(state, safe)| safe || state == State::Safe)
    }

    /// Whether anybody ever said that it is delivered.
    fn said_delivered(&self, id: &str, now: Option<(State, bool)>) -> bool {
        self.record
            .said
            .get(id)
            .is_some_and(|said| said.delivered.is_some())
            || now.is_some_and(|(state, _)| state >= State::Delivered)
    }

    /// `text #12 from 하나 to 다온`.
    fn describe(&self, entry: &Entry) -> String {
        let what = match &entry.operation.what {
            What::Text { .. } => "text".to_owned(),
            What::Iou { amount, .. } => format!("IOU of {amount}"),
        };
        let (from, to) = (entry.operation.from, entry.operation.to);
        format!(
            "{what} #{} from {} to {}",
            entry.operation.number,
            self.name(from),
            self.name(to)
        )
    }

    /// Answers that must not be: second ids for one key, refusals without a reason, none at all.
    fn check_outcomes(&self, reckoning: &mut Reckoning) {
        for entry in &self.record.entries {
            reckoning.repeated += u64::from(entry.calls > 1);
            for quarrel in &entry.quarrels {
                let what = self.describe(entry);
                reckoning
                    .broken
                    .push(format!("{what}, called again with its key, was {quarrel}"));
            }
            match &entry.outcome {
                Outcome::Unknown if !self.record.people[entry.operation.from].is_away() => {
                    reckoning.broken.push(format!(
                        "what became of {} could not be learned",
                        self.describe(entry)
                    ))
                }
                Outcome::Unknown => reckoning.unknown += 1,
                Outcome::Refused(code, sentence) if code != NO_CREDIT => {
                    reckoning.broken.push(format!(
                        "{} was refused without need ({code}: {sentence})",
                        self.describe(entry)
                    ));
                }
                _ => {}
            }
        }
        if self.record.event_holes > 0 {
            reckoning.broken.push(format!(
                "{} events were missing in a sequence",
                self.record.event_holes
            ));
        }
    }

    fn measure(&self, reckoning: &mut Reckoning) {
        // Per text: when it was begun, became safe, was delivered.
        let times: Vec<_> = self
            .record
            .entries
            .iter()
            .filter(|entry| entry.operation.is_text())
            .filter_map(|entry| {
                let said = self.record.said.get(entry.id()?)?;
                let begun = entry.begun?;
                // A reader who has no node keeps no figure waiting.
                let reader = &self.record.people[entry.operation.to];
                let delivered = said.delivered.filter(|&at| !reader.was_away(begun, at));
                Some((entry, begun, said.safe, delivered))
            })
            .collect();
        let fire = self.record.fires.first().copied().unwrap_or(u64::MAX);
        let phase = |from: u64, to: u64| {
            let (mut safe, mut delivered) = (Vec::new(), Vec::new());
            for (_, begun, safe_at, delivered_at) in &times {
                if (from..to).contains(begun) {
                    safe.extend(safe_at.map(|at| at.saturating_sub(*begun)));
                    delivered.extend(delivered_at.map(|at| at.saturating_sub(*begun)));
                }
            }
            Phase {
                safe: Spread::of(safe),
                delivered: Spread::of(delivered),
            }
        };
        let Phase { safe, delivered } = phase(0, u64::MAX);
        let (before, after) = (phase(0, fire), phase(fire, u64::MAX));
        reckoning.latency = Latency {
            safe,
            delivered,
            before,
            after,
        };
        for (place, &fire) in self.record.fires.iter().enumerate() {
            let next = self.record.fires.get(place + 1).copied();
            let calm = |account: usize| {
                let who = &self.record.people[account];
                !who.away.iter().any(|away| away.from == fire)
            };
            let between = times
                .iter()
                .filter(|(entry, begun, ..)| {
                    next.is_none_or(|next| *begun < next)
                        && calm(entry.operation.from)
                        && calm(entry.operation.to)
                })
                .filter_map(|(_, begun, safe, _)| Some((*begun, (*safe)?)))
                .filter(|(_, safe)| next.is_none_or(|next| *safe < next))
                .collect();
            let gaps = gaps(fire, between);
            reckoning.gap_ms = reckoning.gap_ms.max(gaps.all / 1_000);
            reckoning.wait_ms = reckoning.wait_ms.max(gaps.waited / 1_000);
        }
        if reckoning.wait_ms > GAP_MAX_MS {
            reckoning.broken.push(format!(
                "after the fire survivors waited {} ms for the next safe message ({GAP_MAX_MS} at most)",
                reckoning.wait_ms
            ));
        }
    }
}
