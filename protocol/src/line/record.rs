//! What the node keeps beside the state of a line, and hands back when it is asked for: a small
//! record per debt and one per entry. They make the state itself independent of the history.

use serde::{Deserialize, Serialize};

use super::chain::{Branch, Rank};
use super::{MAX_BRANCHES, MAX_CHAINS};
use crate::codec::Wire;
use crate::condition::{Condition, Opening};
use crate::types::{Amount, Hash, Time};

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
    /// How much freed claims may come to beyond it.
    pub(super) overhang: Amount,
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

/// How far a debt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DebtStatus {
    /// Something was said about it, but the debt itself has not arrived here.
    Awaited,
    /// Signed and not answered.
    Held,
    /// A lock that was accepted and is not opened.
    Open,
    /// It is owed: an IOU that was accepted, or a lock that was accepted and opened.
    Settled,
    /// Declined: it is void.
    Declined,
    /// A lock whose creditor gave it up: it is void.
    Waived,
}

/// What a lock says beside its amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockTerms {
    /// Hash of the certificate of the device that signed it.
    pub certificate: Hash,
    /// What its author calls it.
    pub id: Hash,
    /// What must be opened.
    pub condition: Condition,
    /// Until when its author asked for room: the latest time said under this id.
    pub until: Time,
}

/// What is known of one debt of one author on one line. The node stores it under (line, author, id)
/// and replaces it by what [`super::Received::records`] says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DebtRecord {
    /// The amount; of an IOU the largest signed under this id. `None` before the debt arrived.
    pub(super) amount: Option<Amount>,
    /// Of a lock that arrived.
    pub(super) lock: Option<LockTerms>,
    /// The lowest place of a debt with this id: chain and sequence.
    pub(super) first: Option<(Rank, u64)>,
    /// Where it was accepted first, per branch of each of the creditor's chains.
    pub(super) accepted: Vec<Place>,
    /// Where it was declined first, per branch of each of the creditor's chains.
    pub(super) declined: Vec<Place>,
    /// What opens the lock, once somebody said it on this line.
    pub(super) opening: Option<Opening>,
    /// The creditor no longer holds room for the lock.
    pub(super) freed: bool,
    /// The creditor gave the lock up.
    pub(super) waived: bool,
}

impl Wire for DebtRecord {
    const NAME: &'static str = "a debt record";
    // A place has at most 54 bytes.
    const MAX: usize = 256 + 54 * MAX_BRANCHES * MAX_CHAINS;
}

/// What one debt adds to each sum of its line.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Share {
    /// Held on the debtor's side: waits for an answer.
    pub(super) held: Option<Amount>,
    /// A claim open on the debtor's side, and whether it was freed.
    pub(super) open: Option<(Amount, bool)>,
    /// Settled on the debtor's side.
    pub(super) settled: u128,
    /// Given back on the creditor's side, because the creditor made it void as well.
    pub(super) returned: u128,
}

impl DebtRecord {
    /// The amount, `None` while [`DebtStatus::Awaited`].
    #[must_use]
    pub const fn amount(&self) -> Option<Amount> {
        self.amount
    }

    /// Of a lock that arrived.
    #[must_use]
    pub const fn lock(&self) -> Option<&LockTerms> {
        self.lock.as_ref()
    }

    /// What opens the lock, once it was said on this line.
    #[must_use]
    pub const fn opening(&self) -> Option<Opening> {
        self.opening
    }

    /// Whether the creditor no longer holds room for the lock.
    #[must_use]
    pub const fn is_freed(&self) -> bool {
        self.freed
    }

    /// Whether the creditor's word that it has this debt is known and counts: it may have acted on it.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        !self.accepted.is_empty() && !self.is_declined()
    }

    /// A decline that does not come after an acceptance in its own chain is final: whoever read it may
    /// act on it, whatever else turns up of the creditor's devices.
    const fn is_declined(&self) -> bool {
        !self.declined.is_empty()
    }

    /// Whether nothing more has to be opened.
    const fn is_opened(&self) -> bool {
        self.lock.is_none() || self.opening.is_some()
    }

    /// How far it has come. What makes it void beats what settles it, in any order.
    #[must_use]
    pub fn status(&self) -> DebtStatus {
        if self.amount.is_none() {
            DebtStatus::Awaited
        } else if self.is_declined() {
            DebtStatus::Declined
        } else if self.waived {
            DebtStatus::Waived
        } else if self.accepted.is_empty() {
            DebtStatus::Held
        } else if self.is_opened() {
            DebtStatus::Settled
        } else {
            DebtStatus::Open
        }
    }

    pub(super) fn share(&self) -> Share {
        let full = u128::from(self.amount.unwrap_or_default().0);
        let none = Share::default();
        match self.status() {
            DebtStatus::Awaited => none,
            DebtStatus::Held => Share {
                held: self.amount,
                ..none
            },
            DebtStatus::Open => Share {
                open: self.amount.map(|amount| (amount, self.freed)),
                ..none
            },
            DebtStatus::Settled => Share {
                settled: full,
                ..none
            },
            // Settled by all that was said but the last word: settled sums only grow, so it is given
            // back instead of taken away.
            DebtStatus::Declined | DebtStatus::Waived
                if !self.accepted.is_empty() && self.is_opened() =>
            {
                Share {
                    settled: full,
                    returned: full,
                    ..none
                }
            }
            DebtStatus::Declined | DebtStatus::Waived => none,
        }
    }

    /// Takes one more debt under this id. The id counts once: of several amounts the largest counts, in
    /// whatever order they arrive, as their debtor signed them all. (The id of a lock names its amount.)
    pub(super) fn signed(&mut self, amount: Amount, lock: Option<LockTerms>, at: (Rank, u64)) {
        self.amount = self.amount.max(Some(amount));
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        let until = self.lock.map(|known| known.until);
        self.lock = lock.map(|lock| LockTerms {
            until: until.map_or(lock.until, |until| until.max(lock.until)),
            ..lock
        });
    }
}
