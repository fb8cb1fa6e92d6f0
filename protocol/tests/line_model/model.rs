//! The model: everything from the list of entries, each time.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::line::{DebtId, DebtStatus, Entry, NO_ENTRY, Operation, View, lock_id};
use pumasi_protocol::types::{AccountId, Amount, Hash, LockId};

/// Which of an author's devices is newer.
pub(crate) fn rank(certificate: Hash) -> (u64, Hash) {
    (epoch_of(certificate), certificate)
}

/// Restored devices have a mark and their epoch at the end of their certificate hash.
pub(crate) fn epoch_of(certificate: Hash) -> u64 {
    match certificate.0 {
        [.., 0xee, last] => u64::from(last),
        _ => 1,
    }
}

/// The debt that an entry signs.
pub(crate) fn debt_of(entry: &Entry) -> Option<(DebtId, Amount)> {
    match &entry.operation {
        Operation::Iou { id, amount, .. } => Some((DebtId::Iou(*id), *amount)),
        Operation::Lock {
            id,
            amount,
            condition,
            ..
        } => {
            let id = lock_id(entry.chain(), *id, *amount, condition);
            Some((DebtId::Lock(id), *amount))
        }
        _ => None,
    }
}

pub(crate) struct Model<'a> {
    pub(crate) entries: &'a BTreeMap<Hash, Entry>,
}

/// What the model says about one end's debts.
#[derive(Debug, PartialEq)]
pub(crate) struct Debts {
    pub(crate) settled: u128,
    pub(crate) given_back: u128,
    pub(crate) held: BTreeMap<DebtId, Amount>,
    /// Accepted locks that are not opened, and whether they were freed.
    pub(crate) open: BTreeMap<LockId, (Amount, bool)>,
    pub(crate) status: BTreeMap<DebtId, DebtStatus>,
}

impl<'a> Model<'a> {
    pub(crate) fn by(&self, author: AccountId) -> Vec<Hash> {
        let mut mine: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, e)| e.author == author)
            .collect();
        mine.sort_by_key(|(hash, e)| (rank(e.certificate), e.sequence, **hash));
        mine.into_iter().map(|(hash, _)| *hash).collect()
    }

    /// All entries from the first one to this one, this one included.
    pub(crate) fn path(&self, hash: Hash) -> Vec<(Hash, &'a Entry)> {
        let mut path = Vec::new();
        let mut at = hash;
        while at != NO_ENTRY {
            let entry = &self.entries[&at];
            path.push((at, entry));
            at = entry.previous;
        }
        path.reverse();
        path
    }

    pub(crate) fn leaves(&self, author: AccountId) -> Vec<Hash> {
        let mine = self.by(author);
        let inner: BTreeSet<_> = mine
            .iter()
            .map(|hash| self.entries[hash].previous)
            .collect();
        mine.into_iter()
            .filter(|hash| !inner.contains(hash))
            .collect()
    }

    /// The ends of each device's chain, the oldest device first.
    fn chains(&self, author: AccountId) -> Vec<Vec<Hash>> {
        let mut chains: BTreeMap<_, Vec<Hash>> = BTreeMap::new();
        for leaf in self.leaves(author) {
            let device = rank(self.entries[&leaf].certificate);
            chains.entry(device).or_default().push(leaf);
        }
        chains.into_values().collect()
    }

    /// Limit and overhang of an author.
    fn limits(&self, author: AccountId) -> (u64, u64) {
        let (mut limit, mut overhang) = (0, 0);
        for leaves in self.chains(author) {
            let said = |leaf| {
                let fold = |said, (_, entry): &(Hash, &Entry)| match entry.operation {
                    Operation::Limit { amount, overhang } => (amount.0, overhang.0),
                    _ => said,
                };
                self.path(leaf).iter().fold((limit, overhang), fold)
            };
            let said: Vec<_> = leaves.into_iter().map(said).collect();
            limit = said.iter().map(|said| said.0).min().unwrap();
            overhang = said.iter().map(|said| said.1).min().unwrap();
        }
        (limit, overhang)
    }

    pub(crate) fn last_debt(&self, author: AccountId) -> Option<Hash> {
        let is_debt = |hash: &Hash| debt_of(&self.entries[hash]).is_some();
        self.by(author).into_iter().rfind(is_debt)
    }

    pub(crate) fn offer(&self, author: AccountId) -> Option<Option<Hash>> {
        let mut offer = None;
        for leaves in self.chains(author) {
            if leaves.len() > 1 {
                offer = None;
                continue;
            }
            for (_, entry) in self.path(leaves[0]) {
                match &entry.operation {
                    Operation::Close { last } => offer = Some(*last),
                    Operation::Iou { .. } | Operation::Lock { .. } => offer = None,
                    Operation::Limit { amount, .. } if amount.0 > 0 => offer = None,
                    _ => {}
                }
            }
        }
        offer
    }

    /// Whether an entry is an answer to this debt.
    pub(crate) fn answers(entry: &Entry, id: DebtId) -> bool {
        match &entry.operation {
            Operation::Accept { debts } => debts.contains(&id),
            Operation::Decline { debt, .. } => *debt == id,
            _ => false,
        }
    }

    /// Whether somebody opened this lock, whether its creditor freed it, and whether it waived it.
    fn said_of(&self, debtor: AccountId, creditor: AccountId, id: LockId) -> [bool; 3] {
        let mut said = [false; 3];
        for entry in self.entries.values() {
            match &entry.operation {
                Operation::Settle { locks } => {
                    said[0] |= locks.iter().any(|opened| {
                        (opened.mine == (entry.author == debtor))
                            && opened.lock(entry.line, debtor) == id
                    });
                }
                Operation::Free { locks } if entry.author == creditor => {
                    said[1] |= locks.contains(&id);
                }
                Operation::Waive { locks } if entry.author == creditor => {
                    said[2] |= locks.contains(&id);
                }
                _ => {}
            }
        }
        said
    }

    pub(crate) fn debts(&self, debtor: AccountId, creditor: AccountId) -> Debts {
        let mut amounts: BTreeMap<DebtId, Amount> = BTreeMap::new();
        for hash in self.by(debtor) {
            if let Some((id, amount)) = debt_of(&self.entries[&hash]) {
                let largest = amounts.entry(id).or_default();
                *largest = (*largest).max(amount);
            }
        }
        let (mut settled, mut given_back) = (0, 0);
        let (mut held, mut status) = (BTreeMap::new(), BTreeMap::new());
        let mut open = BTreeMap::new();
        for (id, amount) in amounts {
            // Only answers without an earlier answer before them count.
            let (mut accepted, mut declined) = (false, false);
            for answer in self.by(creditor) {
                let path = self.path(answer);
                let answers: Vec<_> = path
                    .iter()
                    .filter(|(_, entry)| Self::answers(entry, id))
                    .collect();
                if answers.len() == 1 && Self::answers(&self.entries[&answer], id) {
                    match self.entries[&answer].operation {
                        Operation::Accept { .. } => accepted = true,
                        _ => declined = true,
                    }
                }
            }
            let [opened, freed, waived] = match id {
                DebtId::Iou(_) => [true, false, false],
                DebtId::Lock(id) => self.said_of(debtor, creditor, id),
            };
            let full = u128::from(amount.0);
            // A decline is final, whatever another device accepted.
            let void = declined.then_some(DebtStatus::Declined);
            let void = void.or(waived.then_some(DebtStatus::Waived));
            let state = match (void, accepted, opened) {
                (Some(void), ..) => void,
                (None, false, _) => DebtStatus::Held,
                (None, true, true) => DebtStatus::Settled,
                (None, true, false) => DebtStatus::Open,
            };
            if accepted && opened {
                settled += full;
                if void.is_some() {
                    given_back += full;
                }
            }
            if state == DebtStatus::Held {
                held.insert(id, amount);
            }
            if let (DebtStatus::Open, DebtId::Lock(id)) = (state, id) {
                open.insert(id, (amount, freed));
            }
            status.insert(id, state);
        }
        Debts {
            settled,
            given_back,
            held,
            open,
            status,
        }
    }

    pub(crate) fn view(&self, me: AccountId, other: AccountId, waiting: bool) -> View {
        let (out, into) = (self.debts(me, other), self.debts(other, me));
        let sum = |held: &BTreeMap<_, Amount>| held.values().map(|a| u128::from(a.0)).sum::<u128>();
        let settled_out = out.settled + into.given_back;
        let settled_in = into.settled + out.given_back;
        // Here nobody contradicts itself and is restored; `restore` of the unit tests has that.
        let forked = |author| self.chains(author).iter().any(|leaves| leaves.len() > 1);
        let frozen = forked(me) || forked(other);
        let closing = self.offer(other).is_some();
        let (limit, overhang) = self.limits(other);
        let limit = if closing { 0 } else { limit };
        let reserved = |debts: &Debts, freed| -> u128 {
            let open = debts.open.values().filter(|open| open.1 == freed);
            open.map(|open| u128::from(open.0.0)).sum()
        };
        let used = settled_out + sum(&out.held) + reserved(&out, false);
        let left = i128::from(limit) + settled_in as i128 - used as i128;
        let left = left.min(left + i128::from(overhang) - reserved(&out, true) as i128);
        let available = if frozen || waiting {
            0
        } else {
            left.clamp(0, i128::from(u64::MAX))
        };
        View {
            balance: settled_in as i128 - settled_out as i128,
            limit_given: Amount(self.limits(me).0),
            limit_received: Amount(self.limits(other).0),
            overhang_given: Amount(self.limits(me).1),
            overhang_received: Amount(self.limits(other).1),
            available: Amount(available as u64),
            settled_out,
            settled_in,
            held_out: sum(&out.held),
            held_in: sum(&into.held),
            reserved_out: reserved(&out, false),
            reserved_in: reserved(&into, false),
            freed_out: reserved(&out, true),
            freed_in: reserved(&into, true),
            frozen,
            waiting,
            closing_mine: self.offer(me).is_some(),
            closing_theirs: closing,
            closed: !frozen
                && self.offer(me) == Some(self.last_debt(other))
                && self.offer(other) == Some(self.last_debt(me))
                && settled_in == settled_out
                && out.held.is_empty()
                && into.held.is_empty()
                && out.open.is_empty()
                && into.open.is_empty(),
        }
    }
}
