//! Credit limits: an IOU was refused only where there was no room, and accepted only where there was.
//! Calls overlap, so what a line held at a moment is known between two bounds.

use super::{Reckoning, Scene};
use crate::auditor::{Entry, NO_CREDIT, Outcome};
use crate::workload::What;

pub(super) fn check(scene: &Scene<'_>, reckoning: &mut Reckoning) {
    for friendship in &scene.record.friendships {
        for (debtor, creditor) in [(friendship.a, friendship.b), (friendship.b, friendship.a)] {
            let limit = i128::from(friendship.limit_for(debtor));
            check_side(scene, debtor, creditor, limit, reckoning);
        }
    }
}

fn check_side(
    scene: &Scene<'_>,
    debtor: usize,
    creditor: usize,
    limit: i128,
    reckoning: &mut Reckoning,
) {
    let out = ious(scene, debtor, creditor);
    let back = ious(scene, creditor, debtor);
    for (entry, amount) in &out {
        let (Some(begun), Some(ended)) = (entry.begun, entry.ended) else {
            continue;
        };
        let number = entry.operation.number;
        let others = out
            .iter()
            .filter(|(other, _)| other.operation.number != number);
        match &entry.outcome {
            Outcome::Refused(code, _) if code == NO_CREDIT => {
                let most = others
                    .filter(|(other, _)| {
                        may_count(other) && other.begun.is_some_and(|at| at < ended)
                    })
                    .map(|(_, amount)| amount)
                    .sum::<i128>()
                    - back
                        .iter()
                        .filter(|(other, _)| accepted(scene, other).is_some_and(|at| at < begun))
                        .map(|(_, amount)| amount)
                        .sum::<i128>();
                if most + amount <= limit {
                    reckoning.broken.push(format!(
                        "{} was refused, though at most {most} of {limit} was used",
                        scene.describe(entry)
                    ));
                } else {
                    reckoning.ious.refused += 1;
                }
            }
            Outcome::Answered(_) => {
                let least = others
                    .filter(|(other, _)| {
                        matches!(other.outcome, Outcome::Answered(_))
                            && !declined(scene, other)
                            && !gone(scene, other)
                            && other.ended.is_some_and(|at| at < begun)
                    })
                    .map(|(_, amount)| amount)
                    .sum::<i128>()
                    - back
                        .iter()
                        .filter(|(other, _)| {
                            may_count(other) && other.begun.is_some_and(|at| at < ended)
                        })
                        .map(|(_, amount)| amount)
                        .sum::<i128>();
                if least + amount > limit {
                    reckoning.broken.push(format!(
                        "{} was taken, though at least {least} of {limit} was used",
                        scene.describe(entry)
                    ));
                }
            }
            _ => {}
        }
    }
}

/// The IOUs from one to the other that were called at all.
fn ious<'a>(scene: &Scene<'a>, from: usize, to: usize) -> Vec<(&'a Entry, i128)> {
    scene
        .record
        .entries
        .iter()
        .filter(|entry| (entry.operation.from, entry.operation.to) == (from, to))
        .filter_map(|entry| match entry.operation.what {
            What::Iou { amount, .. } => Some((entry, i128::from(amount))),
            What::Text { .. } => None,
        })
        .collect()
}

fn may_count(entry: &Entry) -> bool {
    matches!(entry.outcome, Outcome::Answered(_) | Outcome::Unknown)
}

fn accepted(scene: &Scene<'_>, entry: &Entry) -> Option<u64> {
    scene.record.said.get(entry.id()?)?.accepted
}

fn declined(scene: &Scene<'_>, entry: &Entry) -> bool {
    entry
        .id()
        .and_then(|id| scene.record.said.get(id))
        .is_some_and(|said| said.declined.is_some())
}

/// Whether it was lost with its payer's node, which nobody had called safe.
fn gone(scene: &Scene<'_>, entry: &Entry) -> bool {
    let from = entry.operation.from;
    !scene.lasts(entry)
        && entry
            .id()
            .is_some_and(|id| !scene.payments.contains_key(&(from, id)))
}
