//! What the node keeps beside the state of a line, and hands back when it is asked for: a small
//! record per IOU id and one per entry. They make the state itself independent of the history.

use serde::{Deserialize, Serialize};

use super::chain::{Branch, Rank};
use super::{MAX_BRANCHES, MAX_CHAINS};
use crate::codec::Wire;
use crate::types::{Amount, Hash};

/// Where in its author's chains an entry stands. All entries of an honest device are on branch 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) rank: Rank,
    pub(super) branch: u8,
    pub(super) sequence: u64,
}

impl Place {
    /// Whether the entry here comes before the one at `later` of the same chain, on the way from the
    /// first entry to it.
    pub(super) fn is_before(self, later: Self, branches: &[Branch]) -> bool {
        let mut at = later;
        // Parents have lower numbers than their branches, so this ends.
        for _ in 0..=branches.len() {
            if at.branch == self.branch {
                return self.sequence < at.sequence;
            }
            let Some(branch) = branches.get(usize::from(at.branch)) else {
                return false;
            };
            let Some(parent) = branch.parent else {
                return false;
            };
            at = Self {
                rank: at.rank,
                branch: parent,
                sequence: branch.from,
            };
        }
        false
    }
}

/// What a device has said about its account up to one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Terms {
    /// The limit it set, `None` while it set none.
    pub(super) limit: Option<Limit>,
    /// Its last debt entry.
    pub(super) last_debt: Option<Hash>,
    /// Its word on closing.
    pub(super) offer: Offer,
}

/// How much an author lets the other side owe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) amount: Amount,
    /// The chain of the other side that it had seen last when it signed.
    pub(super) seen: Option<Hash>,
}

/// What a device says about closing the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Offer {
    /// Nothing: the word of the device before it stands.
    #[default]
    Inherited,
    /// The line is in use.
    Withdrawn,
    /// It offers to close, and names this last debt entry of the other side.
    Stands(Option<Hash>),
}

/// Stored beside each entry, under the entry's hash; needed again only when a second entry claims
/// the place after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    pub(super) place: Place,
    pub(super) terms: Terms,
}

impl Wire for EntryRecord {
    const NAME: &'static str = "an entry record";
    const MAX: usize = 256;
}

/// How far an IOU has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IouStatus {
    /// Its creditor answered, but the IOU itself has not arrived here.
    Awaited,
    /// Signed and not answered.
    Held,
    /// Accepted: it is owed.
    Settled,
    /// Declined: it is void.
    Declined,
}

/// What is known of one IOU id of one author on one line. The node stores it under (line, author,
/// id) and replaces it by what [`super::Received::records`] says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IouRecord {
    /// The largest amount signed under this id; `None` before any IOU arrived.
    pub(super) amount: Option<Amount>,
    /// The lowest place of an IOU with this id: chain and sequence.
    pub(super) first: Option<(Rank, u64)>,
    /// Where it was accepted first, per branch of each of the creditor's chains.
    pub(super) accepted: Vec<Place>,
    /// Where it was declined first, per branch of each of the creditor's chains.
    pub(super) declined: Vec<Place>,
}

impl Wire for IouRecord {
    const NAME: &'static str = "an IOU record";
    // A place has at most 54 bytes.
    const MAX: usize = 128 + 54 * MAX_BRANCHES * MAX_CHAINS;
}

/// What one IOU adds to each sum of its line.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Share {
    /// Held on the debtor's side.
    pub(super) held: Option<Amount>,
    /// Settled on the debtor's side.
    pub(super) settled: u128,
    /// Given back on the creditor's side, because it was both accepted and declined.
    pub(super) returned: u128,
}

impl IouRecord {
    /// The amount, `None` while [`IouStatus::Awaited`].
    #[must_use]
    pub fn amount(&self) -> Option<Amount> {
        self.amount
    }

    /// How far it has come. The answers of the creditor's earliest chain with an answer count; among
    /// them, a valid decline beats an acceptance on another branch.
    #[must_use]
    pub fn status(&self) -> IouStatus {
        let first = |answers: &[Place]| answers.iter().map(|at| at.rank).min();
        match (self.amount, first(&self.accepted), first(&self.declined)) {
            (None, _, _) => IouStatus::Awaited,
            (Some(_), None, None) => IouStatus::Held,
            (Some(_), Some(_), None) => IouStatus::Settled,
            (Some(_), None, Some(_)) => IouStatus::Declined,
            (Some(_), Some(accepted), Some(declined)) => {
                if accepted < declined {
                    IouStatus::Settled
                } else {
                    IouStatus::Declined
                }
            }
        }
    }

    pub(super) fn share(&self) -> Share {
        let full = u128::from(self.amount.unwrap_or_default().0);
        match self.status() {
            IouStatus::Awaited => Share::default(),
            IouStatus::Held => Share {
                held: self.amount,
                ..Share::default()
            },
            IouStatus::Settled => Share {
                settled: full,
                ..Share::default()
            },
            IouStatus::Declined if self.accepted.is_empty() => Share::default(),
            // Accepted after it was declined, by a device that had forgotten it, or on another branch:
            // settled sums only grow, so it is given back instead of taken away.
            IouStatus::Declined => Share {
                settled: full,
                returned: full,
                ..Share::default()
            },
        }
    }

    /// Takes one more IOU under this id. The id counts once: of several amounts the largest counts, in
    /// whatever order they arrive, as their debtor signed them all.
    pub(super) fn signed(&mut self, amount: Amount, at: (Rank, u64)) {
        self.amount = self.amount.max(Some(amount));
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
    }
}
