//! What a payee promises for one attempt: conditions that only it can open; its word that it will not
//! open them; and the proof that it did all the same.

use serde::{Deserialize, Serialize};

use super::MAX_PARTS;
use crate::codec::Wire;
use crate::condition::{Condition, Opening};
use crate::crypto::{OpenError, Secret, Signable, Signed, derive, hash};
use crate::types::{AccountId, Amount, Hash, Time, Unit};

/// One part of an attempt: a lock of this amount with this condition reaches the payee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What the payee will open.
    pub condition: Condition,
    /// What the payee gets by it, above 0.
    pub amount: Amount,
}

/// The payee's promise for one attempt of one payer: when locks of all parts have reached it, it opens
/// them, and the opened offer is its receipt. Signed by its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The invoice that is paid, see [`super::Invoice`]; `None` when the payer pays of its own accord.
    pub invoice: Option<Hash>,
    /// What the payer calls the attempt: no two attempts share one.
    pub attempt: Hash,
    /// Who pays.
    pub payer: AccountId,
    /// Who is paid.
    pub payee: AccountId,
    /// What amounts count in.
    pub unit: Unit,
    /// 1 to [`MAX_PARTS`] parts.
    pub parts: Vec<Part>,
    /// What the payer said it is for, at most [`super::MAX_PURPOSE`] bytes.
    pub purpose: String,
    /// Until when the payee expects the locks.
    pub expires: Time,
}

impl Wire for Offer {
    const NAME: &'static str = "an offer";
    const MAX: usize = 1_024;
}

impl Signable for Offer {
    const CONTEXT: &'static str = "offer";
}

/// The payee's word that it will never open an attempt's conditions: the payer may count what it locked
/// as its own again, wherever the locks hang. With an opening it is a [`Fraud`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    /// The offer, by its hash.
    pub offer: Hash,
    /// The conditions that stay closed, in the order of the offer.
    pub conditions: Vec<Condition>,
}

impl Wire for Cancellation {
    const NAME: &'static str = "a cancellation";
    const MAX: usize = 256;
}

impl Signable for Cancellation {
    const CONTEXT: &'static str = "cancellation";
}

/// A payee signed that it would not open a condition, and opened it. Anyone can check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fraud {
    /// What it signed.
    pub cancellation: Signed<Cancellation>,
    /// What it opened all the same.
    pub opening: Opening,
}

impl Wire for Fraud {
    const NAME: &'static str = "a proof of fraud";
    const MAX: usize = 512;
}

/// Why an offer, a cancellation or a proof of fraud is not what it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferFault {
    /// A signature or an encoding is wrong.
    #[error("it was changed or is not signed by the payee: {0}")]
    Open(#[from] OpenError),
    /// None or too many parts, one of 0, two with one condition, or a sum that does not fit.
    #[error("an offer has 1 to {MAX_PARTS} parts above 0, each with a condition of its own")]
    Parts,
    /// The opening is of another condition.
    #[error("the opening is not of a condition that was cancelled")]
    Elsewhere,
}

/// The opening of one part of an attempt. Derived, so that a payee that lost everything but its archived
/// secret can still open what it offered; `secret` is 32 random bytes of the account.
#[must_use]
pub fn opening_of(secret: &Secret, attempt: &Hash, part: usize) -> Opening {
    // A key of its own for each attempt and part: what is opened tells nothing of any other.
    let part = u8::try_from(part).unwrap_or(u8::MAX);
    let key = derive(&secret.0, "opening");
    Opening::Preimage(hash("opening", &[&key.0, attempt.as_bytes(), &[part]]).0)
}

impl Offer {
    /// Checks the parts.
    ///
    /// # Errors
    /// [`OfferFault::Parts`].
    pub fn check(&self) -> Result<Amount, OfferFault> {
        if !(1..=MAX_PARTS).contains(&self.parts.len()) || self.purpose.len() > super::MAX_PURPOSE {
            return Err(OfferFault::Parts);
        }
        let mut conditions: Vec<_> = self.parts.iter().map(|part| part.condition).collect();
        conditions.sort_unstable();
        conditions.dedup();
        if conditions.len() != self.parts.len() {
            return Err(OfferFault::Parts);
        }
        self.parts.iter().try_fold(Amount::ZERO, |sum, part| {
            Some(part.amount)
                .filter(|amount| *amount > Amount::ZERO)
                .and_then(|amount| sum.checked_add(amount))
                .ok_or(OfferFault::Parts)
        })
    }

    /// What this opening opens: the number of the part.
    #[must_use]
    pub fn part_of(&self, opening: &Opening) -> Option<usize> {
        let condition = opening.condition();
        self.parts
            .iter()
            .position(|part| part.condition == condition)
    }
}

impl Fraud {
    /// Checks the proof against the key of the payee's device.
    ///
    /// # Errors
    /// [`OfferFault`] when it proves nothing.
    pub fn check(&self, device: &[u8; 32]) -> Result<Cancellation, OfferFault> {
        let cancellation = self.cancellation.open(device)?;
        if !cancellation.conditions.contains(&self.opening.condition()) {
            return Err(OfferFault::Elsewhere);
        }
        Ok(cancellation)
    }
}
