//! What the payee of an attempt signs next: it takes what it offered, opens all parts or none, and
//! never more than it asked for.

use super::offer::Offer;
use crate::line::{DebtRecord, DebtStatus, DeclineReason};
use crate::types::Time;

/// How far the payee got with an attempt, as its archive knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for locks.
    Offered,
    /// "Paid by this attempt" is written down, and not safe yet: nothing is opened before it is.
    Deciding,
    /// It is safe that this attempt paid: its openings may leave.
    Opening,
    /// It will never be opened: cancelled, or the invoice was paid by another attempt.
    Cancelled,
}

/// What to sign next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing: locks are missing, or all is done.
    Wait,
    /// Accept the lock of this part.
    Accept(usize),
    /// Decline the lock of this part: it is not what was offered.
    Decline(usize, DeclineReason),
    /// All parts are here: write down that this attempt pays.
    Decide,
    /// Open the lock of this part.
    Open(usize),
    /// Give up the lock of this part.
    Waive(usize),
}

/// What to sign next for an attempt. `locks` are the locks that reached the payee, by part; of several
/// with one condition, the first that was accepted, else the first that was signed.
#[must_use]
pub fn next(offer: &Offer, stage: Stage, locks: &[Option<&DebtRecord>], now: Time) -> Next {
    let mut ready = 0_usize;
    for (number, part) in offer.parts.iter().enumerate() {
        let Some(lock) = locks.get(number).copied().flatten() else {
            continue;
        };
        match (lock.status(), stage) {
            (DebtStatus::Held, Stage::Cancelled) => {
                return Next::Decline(number, DeclineReason::Unexpected);
            }
            (DebtStatus::Open, Stage::Cancelled) => return Next::Waive(number),
            (DebtStatus::Held, Stage::Offered) if now > offer.expires => {
                return Next::Decline(number, DeclineReason::TooLate);
            }
            (DebtStatus::Held, _) if lock.amount() == Some(part.amount) => {
                return Next::Accept(number);
            }
            (DebtStatus::Held, _) => {
                return Next::Decline(number, DeclineReason::Unexpected);
            }
            (DebtStatus::Open, Stage::Opening) => return Next::Open(number),
            (DebtStatus::Open | DebtStatus::Settled, _) => ready = ready.saturating_add(1),
            _ => {}
        }
    }
    if stage == Stage::Offered && ready == offer.parts.len() {
        Next::Decide
    } else {
        Next::Wait
    }
}
