//! The model: everything from the list of entries, each time.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::line::{Entry, IouStatus, NO_ENTRY, Operation, View};
use pumasi_protocol::types::{AccountId, Amount, Hash, PaymentId};

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

pub(crate) struct Model<'a> {
    pub(crate) entries: &'a BTreeMap<Hash, Entry>,
}

/// What the model says about one end's debts.
#[derive(Debug, PartialEq)]
pub(crate) struct Debts {
    pub(crate) settled: u128,
    pub(crate) given_back: u128,
    pub(crate) held: BTreeMap<PaymentId, Amount>,
    pub(crate) status: BTreeMap<PaymentId, IouStatus>,
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

    fn limit(&self, author: AccountId) -> u64 {
        let mut before = 0;
        for leaves in self.chains(author) {
            let limit_of = |leaf| {
                let fold = |limit, (_, entry): &(Hash, &Entry)| match entry.operation {
                    Operation::Limit { amount } => amount.0,
                    _ => limit,
                };
                self.path(leaf).iter().fold(before, fold)
            };
            before = leaves.into_iter().map(limit_of).min().unwrap();
        }
        before
    }

    pub(crate) fn last_debt(&self, author: AccountId) -> Option<Hash> {
        let is_debt = |hash: &Hash| matches!(self.entries[hash].operation, Operation::Iou { .. });
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
                    Operation::Iou { .. } => offer = None,
                    Operation::Limit { amount } if amount.0 > 0 => offer = None,
                    _ => {}
                }
            }
        }
        offer
    }

    /// Whether an entry is an answer to this IOU.
    pub(crate) fn answers(entry: &Entry, id: PaymentId) -> bool {
        match &entry.operation {
            Operation::Accept { ious } => ious.contains(&id),
            Operation::Decline { iou, .. } => *iou == id,
            _ => false,
        }
    }

    pub(crate) fn debts(&self, debtor: AccountId, creditor: AccountId) -> Debts {
        let mut amounts: BTreeMap<PaymentId, Amount> = BTreeMap::new();
        for hash in self.by(debtor) {
            if let Operation::Iou { id, amount, .. } = &self.entries[&hash].operation {
                let largest = amounts.entry(*id).or_default();
                *largest = (*largest).max(*amount);
            }
        }
        let (mut settled, mut given_back) = (0, 0);
        let (mut held, mut status) = (BTreeMap::new(), BTreeMap::new());
        for (id, amount) in amounts {
            // Only answers without an earlier answer before them count.
            let (mut accepted, mut declined) = (None, None);
            for answer in self.by(creditor) {
                let path = self.path(answer);
                let answers: Vec<_> = path
                    .iter()
                    .filter(|(_, entry)| Self::answers(entry, id))
                    .collect();
                if answers.len() == 1 && Self::answers(&self.entries[&answer], id) {
                    let device = rank(self.entries[&answer].certificate);
                    let kind = match self.entries[&answer].operation {
                        Operation::Accept { .. } => &mut accepted,
                        _ => &mut declined,
                    };
                    // The oldest device with an answer has the word.
                    *kind = Some(kind.map_or(device, |first: (u64, Hash)| first.min(device)));
                }
            }
            let full = u128::from(amount.0);
            let state = match (accepted, declined) {
                (None, None) => IouStatus::Held,
                (Some(_), None) => IouStatus::Settled,
                (Some(accepted), Some(declined)) if accepted < declined => IouStatus::Settled,
                (_, Some(_)) => IouStatus::Declined,
            };
            if accepted.is_some() {
                settled += full;
            }
            if accepted.is_some() && state == IouStatus::Declined {
                given_back += full;
            }
            if state == IouStatus::Held {
                held.insert(id, amount);
            }
            status.insert(id, state);
        }
        Debts {
            settled,
            given_back,
            held,
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
        let limit = if closing { 0 } else { self.limit(other) };
        let left = (i128::from(limit) + settled_in as i128)
            - (settled_out as i128 + sum(&out.held) as i128);
        let available = if frozen || waiting {
            0
        } else {
            left.clamp(0, i128::from(u64::MAX))
        };
        View {
            balance: settled_in as i128 - settled_out as i128,
            limit_given: Amount(self.limit(me)),
            limit_received: Amount(self.limit(other)),
            available: Amount(available as u64),
            settled_out,
            settled_in,
            held_out: sum(&out.held),
            held_in: sum(&into.held),
            frozen,
            waiting,
            closing_mine: self.offer(me).is_some(),
            closing_theirs: closing,
            closed: !frozen
                && self.offer(me) == Some(self.last_debt(other))
                && self.offer(other) == Some(self.last_debt(me))
                && settled_in == settled_out
                && out.held.is_empty()
                && into.held.is_empty(),
        }
    }
}
