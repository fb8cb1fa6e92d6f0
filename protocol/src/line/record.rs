//! What the node keeps beside the state of a line, and hands back when it is asked for: a small
//! record per IOU id and one per entry. They make the state itself independent of the history.

use serde::{Deserialize, Serialize};

use super::{Branch, MAX_BRANCHES};
use crate::codec::Wire;
use crate::types::{Amount, Hash};

/// Where in a chain an entry stands. All entries of an honest author are on branch 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) branch: u8,
    pub(super) sequence: u64,
}

impl Place {
    /// Whether the entry here comes before the one at `later`, on the way from the first entry to it.
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
                branch: parent,
                sequence: branch.from,
            };
        }
        false
    }
}

/// What an author has said about itself up to one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Terms {
    /// How much it lets the other side owe.
    pub(super) limit: Amount,
    /// Its last debt entry.
    pub(super) last_debt: Option<Hash>,
    /// Its standing offer to close, and which debt entry of the other side that names.
    pub(super) close: Option<Option<Hash>>,
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
    const MAX: usize = 128;
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
    /// The lowest place of an IOU with this id.
    pub(super) sequence: u64,
    /// Where it was accepted first, per branch of the creditor's chain.
    pub(super) accepted: Vec<Place>,
    /// Where it was declined first, per branch of the creditor's chain.
    pub(super) declined: Vec<Place>,
}

impl Wire for IouRecord {
    const NAME: &'static str = "an IOU record";
    const MAX: usize = 64 + 2 * 16 * MAX_BRANCHES;
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

    /// How far it has come. A valid decline beats an acceptance on another branch.
    #[must_use]
    pub fn status(&self) -> IouStatus {
        match (
            self.amount,
            self.accepted.is_empty(),
            self.declined.is_empty(),
        ) {
            (None, _, _) => IouStatus::Awaited,
            (Some(_), _, false) => IouStatus::Declined,
            (Some(_), false, true) => IouStatus::Settled,
            (Some(_), true, true) => IouStatus::Held,
        }
    }

    pub(super) fn share(&self) -> Share {
        let Some(amount) = self.amount else {
            return Share::default();
        };
        let full = u128::from(amount.0);
        match (self.accepted.is_empty(), self.declined.is_empty()) {
            (true, true) => Share {
                held: Some(amount),
                ..Share::default()
            },
            (false, true) => Share {
                settled: full,
                ..Share::default()
            },
            (true, false) => Share::default(),
            (false, false) => Share {
                settled: full,
                returned: full,
                ..Share::default()
            },
        }
    }
}
