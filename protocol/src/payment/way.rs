//! A way of several hops, as its payer plans it: what each one is told, what each one locks, and what
//! each one keeps for it.

use serde::{Deserialize, Serialize};

use super::{HOLD_MARGIN, MAX_HOLD, MAX_HOPS};
use crate::codec::{self, Bytes, Wire};
use crate::line::MAX_INSTRUCTIONS;
use crate::types::{AccountId, Amount, Hash, Time, Unit};

/// What a hop asks for passing on an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fee {
    /// For each lock, in the unit's smallest part.
    pub base: Amount,
    /// For each million passed on.
    pub per_million: u32,
}

impl Fee {
    /// The fee for passing on an amount, rounded up; `None` when it does not fit.
    #[must_use]
    pub fn of(&self, amount: Amount) -> Option<Amount> {
        let share = u128::from(amount.0).checked_mul(u128::from(self.per_million))?;
        let share = Amount(u64::try_from(share.div_ceil(1_000_000)).ok()?);
        self.base.checked_add(share)
    }
}

/// What a hop is to do onward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Onward {
    /// To whom.
    pub next: AccountId,
    /// In which unit.
    pub unit: Unit,
    /// How much to lock.
    pub amount: Amount,
    /// Until when to ask for room.
    pub until: Time,
    /// What the next one is told.
    pub instructions: Bytes,
}

/// What the creditor of a lock is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instructions {
    /// Lock onward.
    PassOn(Onward),
    /// You are the payee, and this is your offer, by its hash.
    Payee {
        /// [`crate::crypto::Signed::hash`] of the [`super::Offer`].
        offer: Hash,
    },
}

impl Wire for Instructions {
    const NAME: &'static str = "the instructions of a lock";
    const MAX: usize = MAX_INSTRUCTIONS;
}

/// One account on a way after the payer: whom to lock to, on which line, and what it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Who.
    pub account: AccountId,
    /// The unit of the line on which it is reached.
    pub unit: Unit,
    /// What it asks for passing on; of the payee nothing.
    pub fee: Fee,
}

/// Why a way cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// No hops.
    #[error("the way leads nowhere: it needs at least the payee")]
    Empty,
    /// Too many hops.
    #[error("the way passes through {0} accounts; at most {MAX_HOPS} are allowed")]
    TooLong(usize),
    /// Somebody twice.
    #[error("the way passes through {0} twice")]
    Twice(AccountId),
    /// Another unit on the way without a rate.
    #[error("the way changes from {0} to {1}, and nobody on it offers a rate")]
    Units(Unit, Unit),
    /// An amount of 0.
    #[error("there is nothing to pay: the amount must be above 0")]
    Zero,
    /// Amount and fees together do not fit.
    #[error("the amount with the fees on this way does not fit 64 bits")]
    Overflow,
    /// The fees are more than the payer wants to pay.
    #[error("the fees on this way come to {fees}; at most {most} were allowed")]
    Fees {
        /// What they come to.
        fees: Amount,
        /// What was allowed.
        most: Amount,
    },
    /// The instructions do not fit.
    #[error("the instructions for this way are longer than {MAX_INSTRUCTIONS} bytes")]
    Instructions,
}

/// What the payer locks on its first line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// To whom.
    pub next: AccountId,
    /// In which unit.
    pub unit: Unit,
    /// The amount with all fees.
    pub amount: Amount,
    /// The fees in it.
    pub fees: Amount,
    /// Until when room is asked for.
    pub until: Time,
    /// What the first hop is told.
    pub instructions: Vec<u8>,
}

/// Plans one part along a way: from the payee backwards, what each hop locks and keeps. `most_fees` is
/// what the payer pays beside the amount at most.
///
/// # Errors
/// [`PlanFault`] says why the way cannot be used.
pub fn plan(
    payer: AccountId,
    way: &[Hop],
    amount: Amount,
    most_fees: Amount,
    offer: Hash,
    now: Time,
) -> Result<Planned, PlanFault> {
    let (payee, middle) = way.split_last().ok_or(PlanFault::Empty)?;
    if way.len() > MAX_HOPS {
        return Err(PlanFault::TooLong(way.len()));
    }
    if amount == Amount::ZERO {
        return Err(PlanFault::Zero);
    }
    let mut accounts = vec![payer];
    for hop in way {
        if accounts.contains(&hop.account) {
            return Err(PlanFault::Twice(hop.account));
        }
        accounts.push(hop.account);
        if hop.unit != payee.unit {
            return Err(PlanFault::Units(hop.unit.clone(), payee.unit.clone()));
        }
    }
    // The last hop's room ends first; each one before it has a margin more.
    let margins = u64::try_from(middle.len()).unwrap_or(u64::MAX);
    let spare = MAX_HOLD.saturating_sub(HOLD_MARGIN.saturating_mul(margins));
    let mut until = now.plus(spare.min(HOLD_LAST));
    let mut carried = amount;
    let mut next = payee;
    let mut told = codec::encode(&Instructions::Payee { offer });
    for hop in middle.iter().rev() {
        let onward = Onward {
            next: next.account,
            unit: next.unit.clone(),
            amount: carried,
            until,
            instructions: Bytes(told),
        };
        told = codec::encode(&Instructions::PassOn(onward));
        if told.len() > MAX_INSTRUCTIONS {
            return Err(PlanFault::Instructions);
        }
        let fee = hop.fee.of(carried).ok_or(PlanFault::Overflow)?;
        carried = carried.checked_add(fee).ok_or(PlanFault::Overflow)?;
        until = until.plus(HOLD_MARGIN);
        next = hop;
    }
    let fees = carried.checked_sub(amount).ok_or(PlanFault::Overflow)?;
    if fees > most_fees {
        return Err(PlanFault::Fees {
            fees,
            most: most_fees,
        });
    }
    Ok(Planned {
        next: next.account,
        unit: next.unit.clone(),
        amount: carried,
        fees,
        until,
        instructions: told,
    })
}

/// How long the payee's neighbour holds room by default, in milliseconds.
const HOLD_LAST: u64 = 60_000;
