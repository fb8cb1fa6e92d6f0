//! Two ends with their stores, for the unit tests of a line. Random histories are in
//! `tests/line_model/`.

use std::collections::BTreeMap;

use super::*;
use crate::codec::{decode, encode};
use crate::crypto::{self, Signable, Signed, SigningKey};
use crate::types::{PaymentId, Time};

mod admission;
mod contradiction;
mod locks;
mod restore;
mod story;

const ALICE: AccountId = AccountId([1; 32]);
const BOB: AccountId = AccountId([2; 32]);

fn unit() -> Unit {
    "KRW".parse().unwrap()
}

fn pay(n: u8) -> PaymentId {
    PaymentId([n; 32])
}

/// The IOU with this number.
fn debt(n: u8) -> DebtId {
    DebtId::Iou(pay(n))
}

fn key(who: AccountId) -> SigningKey {
    SigningKey::from_seed(who.as_bytes())
}

fn stamp(who: AccountId) -> Stamp {
    Stamp {
        certificate: Hash(*who.as_bytes()),
        epoch: 1,
        now: Time(1),
    }
}

/// Devices after the first have their epoch, and a mark, in the last byte of their certificate hash.
fn epoch_of(certificate: Hash) -> u64 {
    match certificate.0[31] {
        last @ 128.. => u64::from(last - 128),
        _ => 1,
    }
}

/// A device that the owner set up with its words.
fn device(who: AccountId, epoch: u8) -> Stamp {
    let mut certificate = *who.as_bytes();
    certificate[31] = 128 + epoch;
    Stamp {
        certificate: Hash(certificate),
        epoch: u64::from(epoch),
        now: Time(u64::from(epoch)),
    }
}

/// One end: the line and what a node would keep in its store.
struct End {
    line: Line,
    entries: BTreeMap<Hash, (Entry, EntryRecord)>,
    debts: BTreeMap<(AccountId, DebtId), DebtRecord>,
}

impl End {
    fn new(me: AccountId, other: AccountId) -> Self {
        let line = Line::new(me, other, unit()).unwrap();
        Self {
            line,
            entries: BTreeMap::new(),
            debts: BTreeMap::new(),
        }
    }

    fn known(&self, entry: &Entry) -> Known {
        let needs = self.line.needs(entry);
        let record = |key: &(AccountId, DebtId)| Some((*key, self.debts.get(key)?.clone()));
        let at_this_place = |(_, (stored, _)): &(&Hash, &(Entry, EntryRecord))| {
            needs.place && (stored.chain(), stored.sequence) == (entry.chain(), entry.sequence)
        };
        let here = self.entries.iter().filter(at_this_place);
        let applied = |hash: &&Hash| self.entries.contains_key(*hash);
        Known {
            epoch: epoch_of(entry.certificate),
            adopted: needs.adopted.iter().filter(applied).copied().collect(),
            debts: needs.debts.iter().filter_map(record).collect(),
            here: here.map(|(hash, _)| *hash).collect(),
            previous: self.entries.get(&entry.previous).map(|(_, record)| *record),
        }
    }

    /// Applies an entry and says what it did.
    fn seeing(&mut self, entry: &Entry) -> Result<Received, EntryFault> {
        let hash = hash_of(entry);
        let received = self.line.receive(entry, hash, &self.known(entry))?;
        self.entries.insert(hash, (entry.clone(), received.entry));
        self.debts.extend(received.records.clone());
        self.line.apply(received.clone());
        Ok(received)
    }

    fn take(&mut self, entry: &Entry) -> Result<(), EntryFault> {
        self.seeing(entry).map(|_| ())
    }

    fn record(&self, debtor: AccountId, id: DebtId) -> Option<&DebtRecord> {
        self.debts.get(&(debtor, id))
    }

    fn status(&self, debtor: AccountId, id: DebtId) -> Option<DebtStatus> {
        self.record(debtor, id).map(DebtRecord::status)
    }

    fn iou(&self, id: u8, amount: u64) -> Result<Entry, Refusal> {
        let me = self.line.me();
        let known = self.record(me, debt(id));
        self.line
            .propose_iou(stamp(me), pay(id), Amount(amount), "", known)
    }
}

/// The hash that the signed entry will have: signatures are not part of it.
fn hash_of(entry: &Entry) -> Hash {
    crypto::hash(Entry::CONTEXT, &[&encode(entry)])
}

/// Both ends of one line, with instant delivery where a test does not hold entries back.
struct Pair {
    alice: End,
    bob: End,
}

impl Pair {
    /// Alice may owe Bob `limit`.
    fn with_limit(limit: u64) -> Self {
        let mut pair = Self {
            alice: End::new(ALICE, BOB),
            bob: End::new(BOB, ALICE),
        };
        pair.both(
            &pair
                .bob
                .line
                .propose_limit(stamp(BOB), Amount(limit), Amount(0))
                .unwrap(),
        );
        pair
    }

    fn both(&mut self, entry: &Entry) {
        let mine = self.alice.seeing(entry);
        let theirs = self.bob.seeing(entry);
        assert_eq!(mine.map(|r| r.records), theirs.map(|r| r.records));
        assert_eq!(self.alice.line.mine, self.bob.line.theirs);
        assert_eq!(self.alice.line.theirs, self.bob.line.mine);
    }

    /// Bob signs all answers that are due.
    fn bob_answers(&mut self) -> Answers {
        let answers = self.bob.line.answers_due(&BTreeMap::new());
        for debts in answers.accept.chunks(MAX_NAMED) {
            self.both(&self.bob.line.propose_accept(stamp(BOB), debts).unwrap());
        }
        for (iou, reason) in &answers.decline {
            self.both(
                &self
                    .bob
                    .line
                    .propose_decline(stamp(BOB), *iou, *reason)
                    .unwrap(),
            );
        }
        assert_eq!(
            self.bob.line.answers_due(&BTreeMap::new()),
            Answers::default()
        );
        answers
    }

    fn alice_owes(&mut self, id: u8, amount: u64) {
        self.both(&self.alice.iou(id, amount).unwrap());
        assert_eq!(self.bob_answers().accept, [debt(id)]);
    }

    fn bob_owes(&mut self, id: u8, amount: u64) {
        self.both(&self.bob.iou(id, amount).unwrap());
        let accept = self
            .alice
            .line
            .propose_accept(stamp(ALICE), &[debt(id)])
            .unwrap();
        self.both(&accept);
    }
}

/// An entry after `previous` of the same author.
fn after(previous: &Entry, operation: Operation) -> Entry {
    Entry {
        sequence: previous.sequence + 1,
        previous: hash_of(previous),
        operation,
        ..previous.clone()
    }
}

fn iou(id: u8, amount: u64) -> Operation {
    Operation::Iou {
        id: pay(id),
        amount: Amount(amount),
        purpose: String::new(),
    }
}

fn resume(named: &[(Hash, u64)]) -> Operation {
    let adopted = named.iter().map(|(certificate, sequence)| Adopted {
        certificate: *certificate,
        sequence: *sequence,
        hash: Hash([7; 32]),
    });
    Operation::Resume {
        chains: adopted.collect(),
    }
}
