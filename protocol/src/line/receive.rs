//! How an entry, one's own or the other side's, changes a line. Two steps that change nothing
//! ([`Line::needs`], [`Line::receive`]) and one that cannot fail ([`Line::apply`]).

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{DebtId, Entry, Malformed, Operation, Seen, lock_id};
use super::record::{DebtRecord, EntryRecord, LockTerms, Place, Share};
use super::side::{Held, Open, Side};
use super::{Line, MAX_BRANCHES, MAX_CHAINS, MAX_HELD};
use crate::types::{AccountId, Hash};

/// The highest sum of settled amounts per direction: far above 2^64 entries of an honest author, and
/// low enough that sums and differences of four of them fit an `i128`.
const MAX_GROSS: u128 = 1 << 124;

/// What to look up before [`Line::receive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The debts, each with its debtor, whose [`DebtRecord`] is needed, if there is one. At most
    /// [`super::MAX_NAMED`].
    pub debts: Vec<(AccountId, DebtId)>,
    /// Whether [`Known::here`] and [`Known::previous`] are needed: only when the entry does not simply
    /// continue its chain.
    pub place: bool,
    /// Entries of which [`Known::adopted`] is needed: those that a `Resume` names. At most
    /// [`super::MAX_ADOPTED`].
    pub adopted: Vec<Hash>,
}

/// What was looked up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The epoch of the certificate that the entry names. It is read when the first entry of a chain
    /// arrives, and orders the chains of one author.
    pub epoch: u64,
    /// The stored records of [`Needs::debts`].
    pub debts: BTreeMap<(AccountId, DebtId), DebtRecord>,
    /// The hashes of all entries applied at the same chain and sequence, this one included if it was.
    /// Entries that are kept but not applied do not belong here.
    pub here: Vec<Hash>,
    /// The record of the applied entry whose hash is the entry's `previous`.
    pub previous: Option<EntryRecord>,
    /// Those of [`Needs::adopted`] that are applied entries.
    pub adopted: BTreeSet<Hash>,
}

/// Why an entry is not applied. After [`Gap`](EntryFault::Gap) and [`Full`](EntryFault::Full) it is kept
/// and tried again; after the others it is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// Applied before. Harmless.
    #[error("this entry is already known")]
    Duplicate,
    /// An entry before it is missing: keep it, ask for `missing`, and try again after that one.
    #[error(
        "entry {sequence} came before entry {missing} of its chain: it is kept until that arrives"
    )]
    Gap {
        /// The sequence of this entry.
        sequence: u64,
        /// The lowest sequence that is missing.
        missing: u64,
    },
    /// Too many debts wait for an answer: keep it, apply the creditor's answers, and try again.
    #[error(
        "{held} debts of this author wait for an answer, which is the most: it is kept until some are answered"
    )]
    Full {
        /// How many wait.
        held: usize,
    },
    /// Not an entry of this line.
    #[error("the entry belongs to another line, unit or pair of accounts")]
    WrongLine,
    /// By an earlier device of its author, and the newest one does not name it. Drop it: if a later
    /// `Resume` names it, [`Line::wants`] asks for it.
    #[error(
        "entry {sequence} is by an earlier device of its author; the newer one names its chain up to {named}"
    )]
    NotNamed {
        /// The sequence of this entry.
        sequence: u64,
        /// The highest one that is named, 0 when none is.
        named: u64,
    },
    /// The first entry of a further device, and not a `Resume`.
    #[error("a new device of an author must begin with Resume on a line that was used before")]
    NoResume,
    /// One more device than is kept.
    #[error("the author has used {MAX_CHAINS} devices on this line; no more are kept")]
    TooManyChains,
    /// One more branch than is kept. The line is frozen long since; the entry proves nothing new.
    #[error(
        "the author has signed {MAX_BRANCHES} contradicting branches of its chain; no more are kept"
    )]
    TooManyBranches,
    /// Wrong in itself.
    #[error("the entry is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// A sum does not fit.
    #[error("the sums of this line would no longer fit")]
    Overflow,
}

/// Two entries at one place, found by [`Line::receive`]. Fetch both and make an
/// [`super::EquivocationProof`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equivocation {
    /// Who signed both.
    pub author: AccountId,
    /// Their place in the chain.
    pub sequence: u64,
    /// The entry applied earlier.
    pub first: Hash,
    /// The entry that came second.
    pub second: Hash,
}

/// A decided change. Store `records` and `entry`, hand it to [`Line::apply`], all in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Received {
    /// The new record of each debt that this entry touched, by debtor and id.
    pub records: BTreeMap<(AccountId, DebtId), DebtRecord>,
    /// To store under the hash of the entry.
    pub entry: EntryRecord,
    /// Set when this entry contradicts an earlier one. Both count; new debt stops.
    pub equivocation: Option<Equivocation>,
    /// Set when the author had seen an entry of the other side that is not known here. If that side
    /// is me, I have forgotten something: ask for it before new debt is signed. With several chains it
    /// speaks of the newest that the author knew.
    pub missing: Option<Seen>,
    next: Line,
}

impl Received {
    /// The line as it will be after [`Line::apply`].
    #[must_use]
    pub fn line(&self) -> &Line {
        &self.next
    }
}

impl Line {
    /// What [`Self::receive`] has to know of the store for this entry. Cheap; changes nothing.
    #[must_use]
    pub fn needs(&self, entry: &Entry) -> Needs {
        let mine = entry.author == self.me;
        let other = if mine { self.other } else { self.me };
        let of = |debtor, debts: Vec<DebtId>| debts.into_iter().map(|id| (debtor, id)).collect();
        let debts = match &entry.operation {
            Operation::Iou { id, .. } => of(entry.author, vec![DebtId::Iou(*id)]),
            Operation::Lock {
                id,
                amount,
                condition,
                ..
            } => {
                let id = lock_id(entry.chain(), *id, *amount, condition);
                of(entry.author, vec![DebtId::Lock(id)])
            }
            Operation::Accept { debts } => of(other, debts.clone()),
            Operation::Decline { debt, .. } => of(other, vec![*debt]),
            Operation::Free { locks } | Operation::Waive { locks } => {
                of(other, locks.iter().copied().map(DebtId::Lock).collect())
            }
            Operation::Settle { locks } => {
                let debtor = |mine| if mine { entry.author } else { other };
                let locks = locks.iter().map(|opened| {
                    let debtor = debtor(opened.mine);
                    (debtor, DebtId::Lock(opened.lock(self.id, debtor)))
                });
                locks.collect()
            }
            Operation::Limit { .. } | Operation::Close { .. } | Operation::Resume { .. } => {
                Vec::new()
            }
        };
        let side = if mine { &self.mine } else { &self.theirs };
        let rank = side.rank_of(entry.certificate);
        let continues = match rank.and_then(|rank| side.chains.get(&rank)) {
            Some(chain) => chain.continued_by(entry).is_some(),
            None => entry.sequence == 1,
        };
        let adopted = match &entry.operation {
            Operation::Resume { chains } => chains.iter().map(|one| one.hash).collect(),
            _ => Vec::new(),
        };
        Needs {
            debts,
            place: !continues,
            adopted,
        }
    }

    /// Decides what an entry does. It must have been opened with the key of the device that its
    /// certificate names, and `hash` must be [`crate::crypto::Signed::hash`] of what carried it.
    /// Changes nothing; [`Self::apply`] does.
    ///
    /// # Errors
    /// [`EntryFault`] says why the entry is not applied (yet), and what to do with it. No entry is
    /// refused because of what the other side signed.
    pub fn receive(
        &self,
        entry: &Entry,
        hash: Hash,
        known: &Known,
    ) -> Result<Received, EntryFault> {
        let mine = entry.author == self.me;
        let pair = if mine {
            (self.me, self.other)
        } else {
            (self.other, self.me)
        };
        if entry.line != self.id || entry.unit != self.unit {
            return Err(EntryFault::WrongLine);
        }
        if (entry.author, entry.counterparty) != pair {
            return Err(EntryFault::WrongLine);
        }
        entry.check()?;
        if known.here.contains(&hash) {
            return Err(EntryFault::Duplicate);
        }

        // From here on a copy is changed. It becomes the line only in `apply`.
        let mut next = self.clone();
        let (author, opposite) = if mine {
            (&mut next.mine, &mut next.theirs)
        } else {
            (&mut next.theirs, &mut next.mine)
        };
        let (record, rival) = author.place(entry, hash, known, mine)?;
        let equivocation = rival.map(|first| Equivocation {
            author: entry.author,
            sequence: entry.sequence,
            first,
            second: hash,
        });
        let missing = entry
            .seen
            .filter(|seen| !opposite.has_reached(self.id, pair.1, seen));

        let old = |key: &(AccountId, DebtId)| known.debts.get(key).cloned().unwrap_or_default();
        let mut records = BTreeMap::new();
        for (number, key) in self.needs(entry).debts.into_iter().enumerate() {
            let mut debt = old(&key);
            match &entry.operation {
                Operation::Accept { .. } if !author.has_answered(&debt, record.place) => {
                    insert(&mut debt.accepted, record.place);
                }
                Operation::Decline { .. } if !author.has_answered(&debt, record.place) => {
                    insert(&mut debt.declined, record.place);
                }
                // Answered before: void.
                Operation::Accept { .. } | Operation::Decline { .. } => continue,
                Operation::Iou { amount, .. } => {
                    debt.signed(*amount, None, (record.place.rank, entry.sequence));
                }
                Operation::Lock {
                    id,
                    amount,
                    condition,
                    until,
                    ..
                } => {
                    let terms = LockTerms {
                        certificate: entry.certificate,
                        id: *id,
                        condition: *condition,
                        until: *until,
                    };
                    debt.signed(*amount, Some(terms), (record.place.rank, entry.sequence));
                }
                Operation::Settle { locks } => {
                    // In the order of `needs`.
                    debt.opening = locks.get(number).map(|opened| opened.opening);
                }
                Operation::Free { .. } => debt.freed = true,
                Operation::Waive { .. } => debt.waived = true,
                Operation::Limit { .. } | Operation::Close { .. } | Operation::Resume { .. } => {}
            }
            let (debtor, creditor) = if key.0 == pair.0 {
                (&mut *author, &mut *opposite)
            } else {
                (&mut *opposite, &mut *author)
            };
            replace(debtor, creditor, key.1, &old(&key), &debt)?;
            records.insert(key, debt);
        }
        if author.held.len() > MAX_HELD {
            return Err(EntryFault::Full { held: MAX_HELD });
        }
        if let Some(seen) = entry.seen.filter(|_| !mine) {
            next.answered_by(&seen);
        }
        Ok(Received {
            records,
            entry: record,
            equivocation,
            missing,
            next,
        })
    }

    /// Makes a decided change. Cannot fail; `received` must have been decided on this very state.
    pub fn apply(&mut self, received: Received) {
        *self = received.next;
    }
}

/// Adds a place in its order: the record must not tell in which order the answers came.
fn insert(places: &mut Vec<Place>, place: Place) {
    let at = places.partition_point(|known| *known < place);
    places.insert(at, place);
}

/// Moves one debt from its old share of the sums to its new one. Settled sums only grow.
fn replace(
    debtor: &mut Side,
    creditor: &mut Side,
    id: DebtId,
    before: &DebtRecord,
    after: &DebtRecord,
) -> Result<(), EntryFault> {
    let (old, new): (Share, Share) = (before.share(), after.share());
    debtor.settled = moved(debtor.settled, old.settled, new.settled)?;
    creditor.settled = moved(creditor.settled, old.returned, new.returned)?;
    match new.held.zip(after.first) {
        Some((amount, at)) => debtor.held.insert(id, Held { amount, at }),
        None => debtor.held.remove(&id),
    };
    if let DebtId::Lock(lock) = id {
        match new.open {
            Some((amount, freed)) => debtor.open.insert(lock, Open { amount, freed }),
            None => debtor.open.remove(&lock),
        };
    }
    Ok(())
}

fn moved(sum: u128, old: u128, new: u128) -> Result<u128, EntryFault> {
    sum.checked_sub(old)
        .and_then(|rest| rest.checked_add(new))
        .filter(|sum| *sum <= MAX_GROSS)
        .ok_or(EntryFault::Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::chain::Rank;

    #[test]
    fn a_record_does_not_tell_in_which_order_answers_came() {
        let place = |epoch: u64, sequence| Place {
            rank: Rank {
                epoch,
                certificate: Hash([7; 32]),
            },
            branch: 0,
            sequence,
        };
        let orders = [[place(3, 2), place(2, 4)], [place(2, 4), place(3, 2)]];
        let [a, b] = orders.map(|order| {
            let mut places = Vec::new();
            for one in order {
                insert(&mut places, one);
            }
            places
        });
        assert_eq!(a, b);
    }
}
