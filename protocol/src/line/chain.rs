//! The entries of one device on one line: where its branches end, what they say last, and where one
//! more entry goes. Not here: which chains of an author count (`side`).

use serde::{Deserialize, Serialize};

use super::MAX_BRANCHES;
use super::entry::{Entry, Operation};
use super::receive::{EntryFault, Known};
use super::record::{EntryRecord, Limit, Offer, Place, Terms};
use crate::types::Hash;

/// The place of a chain among those of its author: of two devices the one with the higher epoch is
/// newer, with equal epochs the one with the higher certificate hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Rank {
    pub(super) epoch: u64,
    pub(super) certificate: Hash,
}

/// The entries of one device on one line. An honest one has a single branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chain {
    pub(super) branches: Vec<Branch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Branch {
    /// The branch it leaves; `None` when it begins with a first entry.
    pub(super) parent: Option<u8>,
    /// The entry that its first one contradicts; `None` for the branch known first.
    pub(super) rival: Option<Hash>,
    /// The sequence and the hash of its first entry.
    pub(super) from: u64,
    pub(super) first: Hash,
    /// The sequence and the hash of its last entry.
    pub(super) sequence: u64,
    pub(super) tip: Hash,
    pub(super) terms: Terms,
}

impl Branch {
    fn new(
        parent: Option<u8>,
        rival: Option<Hash>,
        sequence: u64,
        hash: Hash,
        terms: Terms,
    ) -> Self {
        Self {
            parent,
            rival,
            from: sequence,
            first: hash,
            sequence,
            tip: hash,
            terms,
        }
    }
}

impl Chain {
    /// A chain of one entry, its first.
    pub(super) fn begin(rank: Rank, entry: &Entry, hash: Hash) -> (Self, EntryRecord) {
        let record = continued(Terms::default(), rank, 0, entry, hash);
        let branch = Branch::new(None, None, entry.sequence, hash, record.terms);
        let branches = vec![branch];
        (Self { branches }, record)
    }

    /// The branch to go on with: the longest, of equal ones that with the lowest hash.
    pub(super) fn longest(&self) -> Option<&Branch> {
        self.branches
            .iter()
            .min_by_key(|branch| (std::cmp::Reverse(branch.sequence), branch.tip))
    }

    /// The only branch, `None` when the device contradicted itself.
    pub(super) fn only(&self) -> Option<&Branch> {
        match self.branches.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The highest sequence known.
    pub(super) fn top(&self) -> u64 {
        let sequences = self.branches.iter().map(|branch| branch.sequence);
        sequences.max().unwrap_or_default()
    }

    /// The first place where the device contradicted itself.
    pub(super) fn first_fork(&self) -> Option<u64> {
        self.branches.iter().skip(1).map(|branch| branch.from).min()
    }

    /// The number of the branch whose last entry this one names as its previous.
    pub(super) fn continued_by(&self, entry: &Entry) -> Option<usize> {
        self.branches.iter().position(|branch| {
            branch.tip == entry.previous && branch.sequence.checked_add(1) == Some(entry.sequence)
        })
    }

    /// Puts an entry behind the one that it names; names the entry that it contradicts, if any.
    pub(super) fn place(
        &mut self,
        rank: Rank,
        entry: &Entry,
        hash: Hash,
        known: &Known,
    ) -> Result<(EntryRecord, Option<Hash>), EntryFault> {
        let gap = |missing| EntryFault::Gap {
            sequence: entry.sequence,
            missing,
        };
        if let Some(number) = self.continued_by(entry) {
            let number_u8 = u8::try_from(number).map_err(|_| EntryFault::TooManyBranches)?;
            let branch = self
                .branches
                .get_mut(number)
                .ok_or(EntryFault::TooManyBranches)?;
            let record = continued(branch.terms, rank, number_u8, entry, hash);
            branch.sequence = entry.sequence;
            branch.tip = hash;
            branch.terms = record.terms;
            return Ok((record, None));
        }
        if self.branches.iter().any(|branch| branch.tip == hash) {
            return Err(EntryFault::Duplicate);
        }
        // A second entry after a known one (or a second first one), or one whose predecessor is not
        // here.
        let top = self.top();
        if entry
            .sequence
            .checked_sub(1)
            .is_none_or(|before| before > top)
        {
            return Err(gap(top.saturating_add(1)));
        }
        let (parent, terms) = match known.previous {
            _ if entry.sequence == 1 => (None, Terms::default()),
            Some(previous)
                if previous.place.rank == rank
                    && previous.place.sequence.checked_add(1) == Some(entry.sequence) =>
            {
                (Some(previous.place.branch), previous.terms)
            }
            _ => return Err(gap(entry.sequence.saturating_sub(1))),
        };
        // What follows a known entry and is not the end of a branch has an applied rival. A caller that
        // looked nothing up must not freeze a line by a replay.
        let rival = *known.here.iter().min().ok_or(EntryFault::Duplicate)?;
        let number = u8::try_from(self.branches.len()).map_err(|_| EntryFault::TooManyBranches)?;
        if self.branches.len() >= MAX_BRANCHES {
            return Err(EntryFault::TooManyBranches);
        }
        let record = continued(terms, rank, number, entry, hash);
        let branch = Branch::new(parent, Some(rival), entry.sequence, hash, record.terms);
        self.branches.push(branch);
        Ok((record, Some(rival)))
    }
}

/// The record of an entry that comes after `terms` on a branch.
fn continued(terms: Terms, rank: Rank, branch: u8, entry: &Entry, hash: Hash) -> EntryRecord {
    let mut terms = terms;
    match &entry.operation {
        Operation::Limit { amount, overhang } => {
            terms.limit = Some(Limit {
                amount: *amount,
                overhang: *overhang,
                seen: entry.seen.map(|seen| seen.chain),
            });
            // New credit says that the line is in use.
            if amount.0 > 0 {
                terms.offer = Offer::Withdrawn;
            }
        }
        Operation::Iou { .. } | Operation::Lock { .. } => {
            terms.last_debt = Some(hash);
            terms.offer = Offer::Withdrawn;
        }
        Operation::Close { last } => terms.offer = Offer::Stands(*last),
        Operation::Accept { .. }
        | Operation::Decline { .. }
        | Operation::Resume { .. }
        | Operation::Settle { .. }
        | Operation::Free { .. }
        | Operation::Waive { .. } => {}
    }
    EntryRecord {
        place: Place {
            rank,
            branch,
            sequence: entry.sequence,
        },
        terms,
    }
}
