//! What somebody in the middle signs next. Read off both debts each time, so nothing has to be
//! remembered; whatever happens in whatever order, it never pays onward what it cannot claim.

use super::way::{Fee, Onward};
use super::{HOLD_MARGIN, MAX_HOLD};
use crate::condition::Opening;
use crate::crypto::hash;
use crate::line::{DebtRecord, DebtStatus, DeclineReason, Line, MAX_CLAIMS, MAX_RESERVED, NewLock};
use crate::types::{Amount, Hash, LockId, Time};

/// What comes in by one line fills at most this part of another line's locks and claims.
const SHARE: usize = 8;

/// The owner's terms for passing on between two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whether both owners' lines are open for others' payments.
    pub transit: bool,
    /// What is asked for it.
    pub fee: Fee,
}

/// How much of the outgoing line comes from the incoming one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Locks that room is held for or asked for.
    pub reserved: usize,
    /// Locks whose claims are open, freed ones too.
    pub claims: usize,
}

/// All that decides what comes next for one lock that is to be passed on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The lock that came in.
    pub incoming: &'a DebtRecord,
    /// Its id.
    pub lock: LockId,
    /// What its author wants done.
    pub onward: &'a Onward,
    /// The lock onward, once signed.
    pub outgoing: Option<&'a DebtRecord>,
    /// The line onward, from here; `None` when there is none in that unit.
    pub line: Option<&'a Line>,
    /// The owner's terms.
    pub terms: Terms,
    /// What is under way already from this line to that one.
    pub load: Load,
    /// The opening, wherever it was learned.
    pub opening: Option<Opening>,
    /// The incoming lock is safe in the mailbox, and the own acceptance is safe in the archive: a device
    /// restored from the words will know both.
    pub safe: bool,
    /// Nobody is restored, or was restored with all it needs: older locks may be given up.
    pub complete: bool,
    /// The time now.
    pub now: Time,
}

/// What to sign next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing: somebody else is next, or all is done.
    Wait,
    /// Accept the incoming lock, as far as its line's limit allows.
    Accept,
    /// Decline the incoming lock.
    Decline(DeclineReason),
    /// Lock onward.
    Lock(NewLock),
    /// Say on both lines what opens the locks, where it is not known yet.
    Settle {
        /// On the line that it came in by.
        incoming: bool,
        /// On the line onward.
        outgoing: bool,
    },
    /// Hold no more room for the incoming lock, if the overhang allows.
    Free,
    /// Give the incoming lock up: it was not passed on, or the next one gave it up.
    Waive,
}

/// What its author calls the lock onward: derived, so that one incoming lock has one, whoever asks.
#[must_use]
pub fn onward_id(lock: LockId) -> Hash {
    hash("onward lock", &[lock.as_bytes()])
}

/// What to sign next for a lock that is to be passed on.
#[must_use]
pub fn next(facts: &Facts<'_>) -> Next {
    let incoming = facts.incoming.status();
    if let Some(next) = settle(facts) {
        return next;
    }
    match (incoming, facts.outgoing.map(DebtRecord::status)) {
        (DebtStatus::Held, None) => match may_pass_on(facts) {
            Ok(_) => Next::Accept,
            Err(reason) => Next::Decline(reason),
        },
        // Passed on before, by a device that this one does not remember: the acceptance was lost.
        (DebtStatus::Held, Some(_)) => Next::Accept,
        (DebtStatus::Open, None) if !facts.complete => Next::Wait,
        (DebtStatus::Open, None) => match may_pass_on(facts) {
            Ok(lock) if facts.safe => Next::Lock(lock),
            Ok(_) => Next::Wait,
            Err(_) => Next::Waive,
        },
        // The next one will never claim it.
        (DebtStatus::Open, Some(DebtStatus::Declined | DebtStatus::Waived)) if facts.complete => {
            Next::Waive
        }
        (DebtStatus::Open, Some(_)) => {
            let until = facts.incoming.lock().map_or(Time(0), |lock| lock.until);
            if facts.now > until && !facts.incoming.is_freed() {
                Next::Free
            } else {
                Next::Wait
            }
        }
        _ => Next::Wait,
    }
}

/// An opening goes to both lines at once, as far as they do not have it.
fn settle(facts: &Facts<'_>) -> Option<Next> {
    // What the next one gave up is given up before it: all settle, or none.
    let void =
        |debt: &DebtRecord| matches!(debt.status(), DebtStatus::Declined | DebtStatus::Waived);
    let outgoing = facts.outgoing.filter(|outgoing| !void(outgoing))?;
    let opening = facts
        .opening
        .or_else(|| outgoing.opening())
        .or_else(|| facts.incoming.opening())?;
    let next = Next::Settle {
        incoming: facts.incoming.opened(false, opening).is_some()
            && facts.incoming.status() == DebtStatus::Open,
        outgoing: outgoing.opened(true, opening).is_some(),
    };
    let nothing = Next::Settle {
        incoming: false,
        outgoing: false,
    };
    (next != nothing).then_some(next)
}

/// The lock onward, if it may be signed.
fn may_pass_on(facts: &Facts<'_>) -> Result<NewLock, DeclineReason> {
    let (Some(amount), Some(terms)) = (facts.incoming.amount(), facts.incoming.lock()) else {
        return Err(DeclineReason::NoWay);
    };
    let onward = facts.onward;
    let line = facts.line.filter(|_| facts.terms.transit);
    let line = line.ok_or(DeclineReason::NoWay)?;
    if onward.amount == Amount::ZERO || line.other() != onward.next || *line.unit() != onward.unit {
        return Err(DeclineReason::NoWay);
    }
    // Room that nobody holds any more, or that this one could not give back in time.
    if onward.until.plus(HOLD_MARGIN) > terms.until || facts.now.plus(HOLD_MARGIN) > onward.until {
        return Err(DeclineReason::TooLate);
    }
    if terms.until.since(facts.now) > MAX_HOLD {
        return Err(DeclineReason::TooLate);
    }
    let fee = facts.terms.fee.of(onward.amount);
    let needed = fee.and_then(|fee| onward.amount.checked_add(fee));
    if needed.is_none_or(|needed| amount < needed) {
        return Err(DeclineReason::TooLittle);
    }
    let full = facts.load.reserved >= MAX_RESERVED.div_euclid(SHARE)
        || facts.load.claims >= MAX_CLAIMS.div_euclid(SHARE);
    if full || onward.amount > line.available() {
        return Err(DeclineReason::NoWay);
    }
    Ok(NewLock {
        id: onward_id(facts.lock),
        amount: onward.amount,
        condition: terms.condition,
        until: onward.until,
        instructions: onward.instructions.0.clone(),
    })
}
