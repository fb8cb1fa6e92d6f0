//! Texts: nothing said safe is lost, nothing is shown twice, out of order, changed, or made up.

use std::collections::BTreeSet;

use pumasi_node::view::MessageView;

use super::{Reckoning, Scene};
use crate::auditor::{Entry, Outcome};
use crate::workload::{What, number_in};

pub(super) fn check(scene: &Scene<'_>, reckoning: &mut Reckoning) {
    for entry in scene
        .record
        .entries
        .iter()
        .filter(|entry| entry.operation.is_text())
    {
        if let Some(id) = entry.id() {
            check_one(scene, entry, id, reckoning);
        }
    }
    for (&account, found) in &scene.findings.accounts {
        for (contact, list) in &found.chats {
            check_list(scene, account, contact, list, reckoning);
        }
    }
}

/// Buildings whose signatures make something safe.
const SAFE_BUILDINGS: usize = 2;

/// One text that its sender's node accepted.
fn check_one(scene: &Scene<'_>, entry: &Entry, id: &str, reckoning: &mut Reckoning) {
    let (from, to) = (entry.operation.from, entry.operation.to);
    let here = scene
        .texts
        .get(&(from, id))
        .map(|view| (view.state, view.safe));
    let arrived = scene.texts.contains_key(&(to, id));
    let safe = scene.said_safe(id, here);
    let delivered = scene.said_delivered(id, here);
    reckoning.messages.sent += 1;
    reckoning.messages.safe += u64::from(safe);
    reckoning.messages.delivered += u64::from(delivered || arrived);
    let what = scene.describe(entry);
    let missing = scene.was_asked(to) && !arrived;
    if missing && (safe || delivered) {
        let called = if safe { "safe" } else { "delivered" };
        reckoning.broken.push(format!(
            "{what} was called {called}, and its reader does not have it"
        ));
    } else if missing && (scene.lasts(entry) || here.is_some()) {
        reckoning
            .broken
            .push(format!("{what} has not reached its reader"));
    }
    let forgotten = scene.was_asked(from) && here.is_none();
    let promised = safe || delivered;
    if forgotten && (promised || scene.lasts(entry)) {
        reckoning
            .broken
            .push(format!("{what} is gone from its sender's own list"));
    }
    reckoning.never_safe += u64::from(forgotten && !promised && !scene.lasts(entry));
    reckoning.messages.lost_safe += u64::from((missing || forgotten) && promised);
    let at_restored = missing && scene.burned(to) || forgotten && scene.burned(from);
    reckoning.missing_safe += u64::from(promised && at_restored);
    // The signatures themselves went with the old device of one who came back.
    let view = scene.texts.get(&(from, id)).copied();
    let view = view.filter(|_| scene.lasts(entry));
    if let Some(view) = view.filter(|view| view.safe && view.buildings < SAFE_BUILDINGS) {
        let text = format!("{what} is called safe with {} buildings", view.buildings);
        reckoning.broken.push(text);
    }
    if scene.lasts(entry) && !safe {
        reckoning.broken.push(format!("{what} has not become safe"));
    }
    if here.is_some() && arrived && !delivered {
        reckoning
            .broken
            .push(format!("{what} has arrived, and its sender was not told"));
    }
}

/// One chat as one account sees it.
fn check_list(
    scene: &Scene<'_>,
    account: usize,
    contact: &str,
    list: &[MessageView],
    reckoning: &mut Reckoning,
) {
    let reader = scene.name(account);
    let Some(&other) = scene.index.get(contact) else {
        reckoning.broken.push(format!(
            "{reader} has a chat with {contact}, whom nobody knows"
        ));
        return;
    };
    let mut ids = BTreeSet::new();
    // Per direction: texts seen, and the place of the latest.
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    let mut latest = [0, 0];
    for message in list {
        if !ids.insert(&message.id) {
            reckoning.messages.shown_twice += 1;
            reckoning
                .broken
                .push(format!("{reader} is shown {} twice", message.id));
            continue;
        }
        if message.kind != "text" {
            continue;
        }
        let incoming = message.direction == "in";
        let (from, to) = if incoming {
            (other, account)
        } else {
            (account, other)
        };
        let entry = number_in(&message.text).and_then(|number| scene.record.entries.get(number));
        let Some(entry) = entry.filter(|entry| {
            (entry.operation.from, entry.operation.to) == (from, to)
                && !matches!(entry.outcome, Outcome::Skipped | Outcome::Refused(..))
        }) else {
            reckoning.broken.push(format!(
                "{reader} is shown {} with {}, which was never accepted: {:?}",
                message.id,
                scene.name(other),
                message.text.chars().take(40).collect::<String>()
            ));
            continue;
        };
        let What::Text { place, text } = &entry.operation.what else {
            continue;
        };
        let what = scene.describe(entry);
        if *text != message.text {
            reckoning
                .broken
                .push(format!("{reader} is shown {what} with other words"));
        }
        let side = usize::from(incoming);
        if !seen[side].insert(entry.operation.number) {
            reckoning.messages.shown_twice += 1;
            reckoning
                .broken
                .push(format!("{reader} is shown {what} twice"));
            continue;
        }
        if *place < latest[side] {
            reckoning.messages.out_of_order += 1;
            reckoning
                .broken
                .push(format!("{reader} is shown {what} after a later one"));
        }
        latest[side] = latest[side].max(*place);
        if incoming && message.gap > 0 && !scene.burned(from) {
            reckoning.broken.push(format!(
                "{reader} is told that something is missing before {what}"
            ));
        }
    }
}
