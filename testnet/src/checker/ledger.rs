//! IOUs and lines: no accepted amount is lost, none is made, both ends and the auditor say the same.

use std::collections::BTreeSet;

use pumasi_node::view::{LineView, PaymentView};

use super::{Reckoning, Scene};
use crate::auditor::{Entry, Outcome};
use crate::society::{Friendship, UNIT};
use crate::workload::{What, number_in};

pub(super) fn check(scene: &Scene<'_>, reckoning: &mut Reckoning) {
    for entry in &scene.record.entries {
        if let (What::Iou { .. }, Some(id)) = (&entry.operation.what, entry.id()) {
            check_one(scene, entry, id, reckoning);
        }
    }
    for &account in scene.findings.accounts.keys() {
        check_list(scene, account, reckoning);
    }
    reckoning.ledger.sum.insert(UNIT.to_owned(), 0);
    for friendship in &scene.record.friendships {
        check_line(scene, friendship, reckoning);
    }
    for (unit, sum) in &reckoning.ledger.sum {
        if *sum != 0 {
            let text =
                format!("over all lines {sum} {unit} came from nowhere (or, negative, went)");
            reckoning.broken.push(text);
        }
    }
}

/// One IOU that its payer's node accepted.
fn check_one(scene: &Scene<'_>, entry: &Entry, id: &str, reckoning: &mut Reckoning) {
    let (from, to) = (entry.operation.from, entry.operation.to);
    let payer = scene.payments.get(&(from, id)).copied();
    let payee = scene.payments.get(&(to, id)).copied();
    let here = payer.map(|view| (view.delivery, view.safe));
    let said = scene.record.said.get(id).cloned().unwrap_or_default();
    let safe = scene.said_safe(id, here);
    let is = |view: Option<&PaymentView>, state: &str| view.is_some_and(|v| v.state == state);
    let accepted = said.accepted.is_some() || is(payer, "accepted") || is(payee, "accepted");
    reckoning.ious.signed += 1;
    reckoning.ious.safe += u64::from(safe);
    reckoning.ious.accepted += u64::from(accepted);
    // One that is gone with its payer's node waits for nobody.
    let gone = scene.was_asked(from) && payer.is_none();
    reckoning.ious.held += u64::from(!accepted && !gone);
    let what = scene.describe(entry);
    let missing = scene.was_asked(to) && payee.is_none();
    let forgotten = scene.was_asked(from) && payer.is_none();
    let promised = safe || accepted;
    if missing && promised {
        let called = if safe { "safe" } else { "accepted" };
        reckoning.broken.push(format!(
            "{what} was called {called}, and its payee does not have it"
        ));
    } else if missing && (scene.lasts(entry) || payer.is_some()) {
        reckoning
            .broken
            .push(format!("{what} has not reached its payee"));
    }
    if forgotten && (promised || scene.lasts(entry) || payee.is_some()) {
        reckoning
            .broken
            .push(format!("{what} is gone from its payer's own list"));
    }
    reckoning.never_safe += u64::from(forgotten && !promised && payee.is_none());
    reckoning.ious.lost_safe += u64::from((missing || forgotten) && promised);
    let at_restored = missing && scene.burned(to) || forgotten && scene.burned(from);
    reckoning.missing_safe += u64::from(promised && at_restored);
    if scene.lasts(entry) && !safe {
        reckoning.broken.push(format!("{what} has not become safe"));
    }
    for (view, account) in [(payer, from), (payee, to)] {
        let Some(view) = view else { continue };
        let name = scene.name(account);
        // Limits are never lowered in a run, so nothing that was taken may be declined.
        if view.state == "declined" {
            let reason = view.reason.as_deref().unwrap_or("no reason");
            reckoning
                .broken
                .push(format!("{what} was declined, says {name}: {reason}"));
        } else if view.state != "accepted"
            && (accepted || scene.was_asked(from) && scene.was_asked(to))
        {
            reckoning
                .broken
                .push(format!("{what} is still {} at {name}", view.state));
        }
    }
}

/// All payments of one account: each one is ours, with our amount, once.
fn check_list(scene: &Scene<'_>, account: usize, reckoning: &mut Reckoning) {
    let mut seen = BTreeSet::new();
    for payment in &scene.findings.accounts[&account].payments {
        let name = scene.name(account);
        let Some((entry, amount)) = entry_of(scene, account, payment) else {
            reckoning.broken.push(format!(
                "{name} is shown a payment of {} that nobody made ({}, {:?})",
                payment.amount.amount, payment.id, payment.note
            ));
            continue;
        };
        let what = scene.describe(entry);
        if payment.amount.amount != amount.to_string() || payment.amount.currency != UNIT {
            let shown = &payment.amount;
            let text = format!(
                "{name} is shown {what} as {} {}",
                shown.amount, shown.currency
            );
            reckoning.broken.push(text);
        }
        if !seen.insert(entry.operation.number) {
            reckoning
                .broken
                .push(format!("{name} is shown {what} twice"));
        }
    }
}

/// The operation that a payment in an account's list comes from, and the amount that was asked for.
fn entry_of<'a>(
    scene: &Scene<'a>,
    account: usize,
    payment: &PaymentView,
) -> Option<(&'a Entry, u64)> {
    let other = *scene.index.get(payment.contact.as_str())?;
    let ends = if payment.direction == "in" {
        (other, account)
    } else {
        (account, other)
    };
    let entry = scene.record.entries.get(number_in(&payment.note)?)?;
    let What::Iou { amount, .. } = entry.operation.what else {
        return None;
    };
    let ours = (entry.operation.from, entry.operation.to) == ends
        && !matches!(entry.outcome, Outcome::Skipped | Outcome::Refused(..))
        && entry.id().is_none_or(|id| id == payment.id);
    ours.then_some((entry, amount))
}

/// What one end of a line should show, by the auditor's amounts of the payments in its list.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    settled_out: i128,
    settled_in: i128,
    held_out: i128,
    held_in: i128,
}

impl Expected {
    fn at(scene: &Scene<'_>, account: usize, other: usize) -> Self {
        let mut expected = Self::default();
        let contact = &scene.record.people[other].id;
        let mut counted = BTreeSet::new();
        for payment in &scene.findings.accounts[&account].payments {
            let Some((_, amount)) = entry_of(scene, account, payment) else {
                continue;
            };
            if payment.contact != *contact || !counted.insert(&payment.id) {
                continue;
            }
            let sum = match (payment.direction.as_str(), payment.state.as_str()) {
                ("out", "accepted") => &mut expected.settled_out,
                ("out", "held") => &mut expected.held_out,
                ("in", "accepted") => &mut expected.settled_in,
                ("in", "held") => &mut expected.held_in,
                _ => continue,
            };
            *sum += i128::from(amount);
        }
        expected
    }

    /// What the other one owes.
    fn balance(&self) -> i128 {
        self.settled_in - self.settled_out
    }
}

/// One line, from each end that survives.
fn check_line(scene: &Scene<'_>, friendship: &Friendship, reckoning: &mut Reckoning) {
    let ends = [(friendship.a, friendship.b), (friendship.b, friendship.a)];
    let ends: Vec<_> = ends
        .into_iter()
        .filter(|(account, _)| scene.findings.accounts.contains_key(account))
        .collect();
    if ends.is_empty() {
        return;
    }
    reckoning.ledger.lines += 1;
    let mut wrong = Vec::new();
    let mut shown = Vec::new();
    for &(account, other) in &ends {
        let names = format!("{} with {}", scene.name(account), scene.name(other));
        match line(scene, account, other) {
            None => wrong.push(format!("the line of {names} is gone")),
            Some(line) => {
                let expected = Expected::at(scene, account, other);
                for text in differences(line, &expected, friendship, account) {
                    wrong.push(format!("the line of {names}: {text}"));
                }
                let sum = reckoning.ledger.sum.entry(line.unit.clone()).or_insert(0);
                let mut balance = number(&line.balance);
                // The end that burned, as the auditor has it.
                if ends.len() == 1 {
                    balance -= expected.balance();
                }
                *sum = i64::try_from(i128::from(*sum) + balance).unwrap_or(i64::MAX);
                shown.push(line);
            }
        }
    }
    if let [one, two] = shown[..] {
        let mirrored = [
            ("balance", number(&one.balance), -number(&two.balance)),
            (
                "given limit",
                number(&one.limit_given),
                number(&two.limit_received),
            ),
            (
                "received limit",
                number(&one.limit_received),
                number(&two.limit_given),
            ),
            (
                "settled out",
                number(&one.settled_out),
                number(&two.settled_in),
            ),
            (
                "settled in",
                number(&one.settled_in),
                number(&two.settled_out),
            ),
        ];
        for (what, here, there) in mirrored {
            if here != there {
                let (a, b) = (scene.name(friendship.a), scene.name(friendship.b));
                wrong.push(format!(
                    "{a} and {b} disagree on the {what}: {here} and {there}"
                ));
            }
        }
    }
    reckoning.ledger.disagreements += u64::from(!wrong.is_empty());
    reckoning.broken.append(&mut wrong);
}

fn line<'a>(scene: &Scene<'a>, account: usize, other: usize) -> Option<&'a LineView> {
    let contact = &scene.record.people[other].id;
    scene.findings.accounts[&account]
        .lines
        .iter()
        .find(|l| l.contact == *contact && l.unit == UNIT)
}

/// Where one end of a line differs from what the auditor expects there.
fn differences(
    line: &LineView,
    expected: &Expected,
    friendship: &Friendship,
    account: usize,
) -> Vec<String> {
    let other = if account == friendship.a {
        friendship.b
    } else {
        friendship.a
    };
    let figures = [
        ("balance", &line.balance, expected.balance()),
        ("settled out", &line.settled_out, expected.settled_out),
        ("settled in", &line.settled_in, expected.settled_in),
        ("held out", &line.held_out, expected.held_out),
        ("held in", &line.held_in, expected.held_in),
        (
            "limit given",
            &line.limit_given,
            i128::from(friendship.limit_for(other)),
        ),
        (
            "limit received",
            &line.limit_received,
            i128::from(friendship.limit_for(account)),
        ),
    ];
    let mut differences: Vec<_> = figures
        .into_iter()
        .filter(|(_, shown, expected)| number(shown) != *expected)
        .map(|(what, shown, expected)| format!("{what} is {shown}, and should be {expected}"))
        .collect();
    if line.frozen || line.closed {
        differences.push("it is frozen or closed, which nobody asked for".to_owned());
    }
    differences
}

/// A figure of the API; one that is none compares as different from everything sensible.
fn number(text: &str) -> i128 {
    text.parse().unwrap_or(i128::from(i64::MIN))
}
