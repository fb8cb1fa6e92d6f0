//! What one end of a line has brought about, over all its devices: its chains in order, the limit and
//! the offer in force, its debts. Not here: how entries are decided (`receive`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Rank};
use super::entry::{DebtId, Entry, Operation, Seen, chain_id};
use super::receive::{EntryFault, Known};
use super::record::{DebtRecord, EntryRecord, Limit, Offer, Place};
use super::{MAX_BRANCHES, MAX_CHAINS};
use crate::types::{AccountId, Amount, Hash, LineId, LockId};

/// One end of a line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Side {
    /// One chain per device, the newest last.
    pub(super) chains: BTreeMap<Rank, Chain>,
    /// What the newest chain's `Resume` entries name, per certificate of an earlier device.
    pub(super) adopted: BTreeMap<Hash, BTreeSet<Named>>,
    /// Gross: all that this side's accepted IOUs and opened locks came to.
    pub(super) settled: u128,
    /// Its debts that wait for an answer.
    pub(super) held: BTreeMap<DebtId, Held>,
    /// Its locks that were accepted and whose claims are open.
    pub(super) open: BTreeMap<LockId, Open>,
}

/// A lock that was accepted and is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) amount: Amount,
    /// The creditor no longer holds room for it.
    pub(super) freed: bool,
}

/// What the open claims of a side come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OpenSums {
    /// Of those that its creditor holds room for, and how many they are.
    pub(super) reserved: u128,
    pub(super) reservations: usize,
    /// Of those that it freed.
    pub(super) freed: u128,
}

/// A debt that waits for an answer, and the lowest place where it was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) amount: Amount,
    pub(super) at: (Rank, u64),
}

/// An entry that a `Resume` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) sequence: u64,
    pub(super) hash: Hash,
    /// Whether it was applied here.
    pub(super) here: bool,
}

impl Side {
    pub(super) fn newest(&self) -> Option<(&Rank, &Chain)> {
        self.chains.last_key_value()
    }

    /// The rank of the chain of this device, `None` before its first entry.
    pub(super) fn rank_of(&self, certificate: Hash) -> Option<Rank> {
        let mut ranks = self.chains.keys();
        ranks.find(|rank| rank.certificate == certificate).copied()
    }

    /// The rank of the chain with this id.
    pub(super) fn rank_of_chain(&self, line: LineId, me: AccountId, chain: Hash) -> Option<Rank> {
        let mut ranks = self.chains.keys();
        ranks
            .find(|rank| chain_id(line, me, rank.certificate) == chain)
            .copied()
    }

    /// How much this side lets the other owe: what its newest chain says; where that says nothing yet,
    /// what was in force before. Of contradicting limits the lowest.
    pub(super) fn limit(&self) -> Amount {
        self.in_force(|limit| limit.amount)
    }

    /// How much freed claims may come to beyond the limit, by the same rule.
    pub(super) fn overhang(&self) -> Amount {
        self.in_force(|limit| limit.overhang)
    }

    fn in_force(&self, part: impl Fn(Limit) -> Amount) -> Amount {
        self.chains.values().fold(Amount::ZERO, |before, chain| {
            let limits = chain.branches.iter().map(|branch| branch.terms.limit);
            let parts = limits.map(|limit| limit.map_or(before, &part));
            parts.min().unwrap_or(before)
        })
    }

    /// Whether the limit in force was signed after having seen one of these chains of the other side.
    fn limit_has_seen(&self, chains: &BTreeSet<Hash>) -> bool {
        self.chains.values().fold(false, |before, chain| {
            chain.branches.iter().all(|branch| {
                let limit = branch.terms.limit;
                limit.map_or(before, |limit| {
                    limit.seen.is_some_and(|seen| chains.contains(&seen))
                })
            })
        })
    }

    /// This side's last debt entry: that of the newest chain with one. On a chain that contradicts
    /// itself, the one with the highest hash.
    pub(super) fn last_debt(&self) -> Option<Hash> {
        self.chains.values().rev().find_map(|chain| {
            let debts = chain.branches.iter().filter_map(|b| b.terms.last_debt);
            debts.max()
        })
    }

    /// The standing offer to close: what the newest chain with a word on it says. A chain that
    /// contradicts itself offers nothing.
    pub(super) fn offer(&self) -> Option<Option<Hash>> {
        for chain in self.chains.values().rev() {
            match chain.only()?.terms.offer {
                Offer::Inherited => {}
                Offer::Withdrawn => return None,
                Offer::Stands(last) => return Some(last),
            }
        }
        None
    }

    pub(super) fn closing(&self) -> bool {
        self.offer().is_some()
    }

    /// The first place where this side contradicted itself and that still stops new debt. A newer chain
    /// (it begins with a `Resume`) and a limit of the creditor's that has seen it end the stop.
    pub(super) fn open_fork(
        &self,
        line: LineId,
        me: AccountId,
        creditor: &Self,
    ) -> Option<(Rank, u64)> {
        self.chains.iter().find_map(|(rank, chain)| {
            let place = chain.first_fork()?;
            let newer = self.chains.keys().filter(|other| *other > rank);
            let newer = newer.map(|rank| chain_id(line, me, rank.certificate));
            (!creditor.limit_has_seen(&newer.collect())).then_some((*rank, place))
        })
    }

    /// Puts an entry into its chain; names the entry that it contradicts, if any. `own`: it is by the
    /// account whose view this is.
    pub(super) fn place(
        &mut self,
        entry: &Entry,
        hash: Hash,
        known: &Known,
        own: bool,
    ) -> Result<(EntryRecord, Option<Hash>), EntryFault> {
        let rank = self.rank_of(entry.certificate).unwrap_or(Rank {
            epoch: known.epoch,
            certificate: entry.certificate,
        });
        // One's own old entries come from one's archive, or back from the other side, which had them in
        // time. They are applied, and the next Resume names them.
        if !own {
            self.admits(rank, entry, hash)?;
        }
        let placed = match self.chains.get_mut(&rank) {
            Some(chain) => chain.place(rank, entry, hash, known)?,
            None => (self.begin(rank, entry, hash)?, None),
        };
        if let Some(named) = self.adopted.get_mut(&entry.certificate) {
            arrived(named, hash);
        }
        if let Operation::Resume { chains } = &entry.operation
            && self.newest().is_some_and(|(newest, _)| *newest == rank)
        {
            for one in chains {
                let named = self.adopted.entry(one.certificate).or_default();
                adopt(
                    named,
                    one.sequence,
                    one.hash,
                    known.adopted.contains(&one.hash),
                );
            }
            if self.adopted.len() > MAX_CHAINS {
                return Err(EntryFault::TooManyChains);
            }
        }
        Ok(placed)
    }

    /// The first entry of a device.
    fn begin(&mut self, rank: Rank, entry: &Entry, hash: Hash) -> Result<EntryRecord, EntryFault> {
        if entry.sequence != 1 {
            return Err(EntryFault::Gap {
                sequence: entry.sequence,
                missing: 1,
            });
        }
        let resumes = matches!(entry.operation, Operation::Resume { .. });
        if !resumes && self.chains.range(..rank).next().is_some() {
            return Err(EntryFault::NoResume);
        }
        if self.chains.len() >= MAX_CHAINS {
            return Err(EntryFault::TooManyChains);
        }
        if self.newest().is_none_or(|(newest, _)| *newest < rank) {
            // Only the newest device says what counts of those before it: it names all of them.
            self.adopted.clear();
        }
        let (chain, record) = Chain::begin(rank, entry, hash);
        self.chains.insert(rank, chain);
        Ok(record)
    }

    /// Whether an entry of an earlier device may still come: only if the newest device names it, or one
    /// after it.
    fn admits(&self, rank: Rank, entry: &Entry, hash: Hash) -> Result<(), EntryFault> {
        if self.newest().is_none_or(|(newest, _)| *newest <= rank) {
            return Ok(());
        }
        let named = self.adopted.get(&entry.certificate).into_iter().flatten();
        let mut last = 0;
        for named in named {
            // Until the named entry itself is here, those below it cannot be told from others.
            if named.hash == hash || (!named.here && entry.sequence < named.sequence) {
                return Ok(());
            }
            last = named.sequence;
        }
        Err(EntryFault::NotNamed {
            sequence: entry.sequence,
            named: last,
        })
    }

    /// Whether this side, as creditor, has answered the debt on the way to `place`: the first answer
    /// on a branch counts, later ones are void.
    pub(super) fn has_answered(&self, debt: &DebtRecord, place: Place) -> bool {
        let chain = self.chains.get(&place.rank);
        let branches = chain.map(|chain| chain.branches.as_slice());
        let branches = branches.unwrap_or_default();
        let answers = debt.accepted.iter().chain(&debt.declined);
        answers
            .filter(|at| at.rank == place.rank)
            .any(|at| at.is_before(place, branches))
    }

    /// Whether this side's chains are known here as far as `seen` says they go.
    pub(super) fn has_reached(&self, line: LineId, me: AccountId, seen: &Seen) -> bool {
        let rank = self.rank_of_chain(line, me, seen.chain);
        let chain = rank.and_then(|rank| self.chains.get(&rank));
        chain.is_some_and(|chain| chain.top() >= seen.sequence)
    }

    pub(super) fn sum_held(&self) -> u128 {
        // At most MAX_HELD times 2^64: it fits.
        self.held.values().fold(0, |sum: u128, held| {
            sum.saturating_add(u128::from(held.amount.0))
        })
    }

    pub(super) fn sums_open(&self) -> OpenSums {
        let mut sums = OpenSums::default();
        for open in self.open.values() {
            // Each was accepted within a limit, or signed by oneself: far from 2^128.
            let amount = u128::from(open.amount.0);
            if open.freed {
                sums.freed = sums.freed.saturating_add(amount);
            } else {
                sums.reserved = sums.reserved.saturating_add(amount);
                sums.reservations = sums.reservations.saturating_add(1);
            }
        }
        sums
    }

    /// How many of this side's locks wait for an answer.
    pub(super) fn held_locks(&self) -> usize {
        let ids = self.held.keys();
        ids.filter(|id| matches!(id, DebtId::Lock(_))).count()
    }
}

/// Adds a named entry. Of more than [`MAX_BRANCHES`] in one chain the highest are kept: those are its
/// ends.
pub(super) fn adopt(named: &mut BTreeSet<Named>, sequence: u64, hash: Hash, here: bool) {
    let known = named.iter().find(|named| named.hash == hash);
    if known.is_none() {
        named.insert(Named {
            sequence,
            hash,
            here,
        });
    }
    if named.len() > MAX_BRANCHES {
        named.pop_first();
    }
}

/// A named entry was applied.
fn arrived(named: &mut BTreeSet<Named>, hash: Hash) {
    let awaited = named.iter().find(|one| one.hash == hash && !one.here);
    if let Some(one) = awaited.copied() {
        named.remove(&one);
        named.insert(Named { here: true, ..one });
    }
}
