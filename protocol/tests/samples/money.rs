//! A line of Hana and Duri with every operation, its states, and a contradiction.

use std::collections::BTreeMap;

use pumasi_protocol::codec;
use pumasi_protocol::condition::Opening;
use pumasi_protocol::crypto::{self, Signable, Signed};
use pumasi_protocol::line::{
    DebtId, DebtRecord, DeclineReason, Entry, EntryRecord, EquivocationProof, Known, Line, NewLock,
    Operation, Stamp,
};
use pumasi_protocol::types::{AccountId, Amount, Hash, PaymentId, Unit};

use super::{DURI, Encoded, HANA, NOW, Person};

/// One end of a line with what a node would keep in its store.
#[derive(Clone)]
pub(crate) struct End {
    /// The state.
    pub(crate) line: Line,
    /// The applied entries and their records.
    pub(crate) entries: BTreeMap<Hash, (Entry, EntryRecord)>,
    /// The records of debts, by debtor and id.
    pub(crate) debts: BTreeMap<(AccountId, DebtId), DebtRecord>,
}

impl End {
    /// An end of a new line.
    pub(crate) fn new(me: AccountId, other: AccountId) -> Self {
        let line = Line::new(me, other, unit()).unwrap();
        Self {
            line,
            entries: BTreeMap::new(),
            debts: BTreeMap::new(),
        }
    }

    /// What a store would hand back for an entry.
    pub(crate) fn known(&self, entry: &Entry) -> Known {
        let needs = self.line.needs(entry);
        let record = |key: &(AccountId, DebtId)| Some((*key, self.debts.get(key)?.clone()));
        let here = |(_, (stored, _)): &(&Hash, &(Entry, EntryRecord))| {
            (stored.chain(), stored.sequence) == (entry.chain(), entry.sequence)
        };
        // Looked up only where it is asked for: it goes through all entries.
        let at_place = needs.place.then(|| self.entries.iter().filter(here));
        let applied = |hash: &&Hash| self.entries.contains_key(*hash);
        Known {
            epoch: epochs(entry.certificate),
            adopted: needs.adopted.iter().filter(applied).copied().collect(),
            debts: needs.debts.iter().filter_map(record).collect(),
            here: at_place
                .into_iter()
                .flatten()
                .map(|(hash, _)| *hash)
                .collect(),
            previous: self.entries.get(&entry.previous).map(|(_, record)| *record),
        }
    }

    /// Applies an entry.
    pub(crate) fn take(&mut self, entry: &Entry) -> Result<(), pumasi_protocol::line::EntryFault> {
        let hash = hash_of(entry);
        let received = self.line.receive(entry, hash, &self.known(entry))?;
        self.entries.insert(hash, (entry.clone(), received.entry));
        self.debts.extend(received.records.clone());
        self.line.apply(received);
        Ok(())
    }
}

/// The epochs of the certificates that entries name: the samples' first devices have theirs, later
/// ones follow in the order of the last byte.
pub(crate) fn epochs(certificate: Hash) -> u64 {
    match certificate.0 {
        [0xdd, .., last] => super::EPOCH + u64::from(last),
        _ => super::EPOCH,
    }
}

/// The stamp of a later device.
pub(crate) fn later_device(number: u8) -> Stamp {
    let mut certificate = [0xdd; 32];
    certificate[31] = number;
    Stamp {
        certificate: Hash(certificate),
        epoch: epochs(Hash(certificate)),
        now: NOW,
    }
}

/// What the samples count in.
pub(crate) fn unit() -> Unit {
    "KRW".parse().unwrap()
}

/// The hash that the signed entry will have: signatures are not part of it.
pub(crate) fn hash_of(entry: &Entry) -> Hash {
    crypto::hash(Entry::CONTEXT, &[&codec::encode(entry)])
}

/// The id of a payment, as a node makes it of the payer's account and the request's idempotency key.
pub(crate) fn payment_id(account: &AccountId, idempotency_key: &str) -> PaymentId {
    PaymentId(crypto::hash("payment", &[&account.0, idempotency_key.as_bytes()]).0)
}

/// A line's history, and its ends after it.
pub(crate) struct Story {
    /// The entries in order, by name.
    pub(crate) signed: Vec<(&'static str, Signed<Entry>)>,
    /// Hana's end.
    pub(crate) hana: End,
    /// Duri's end.
    pub(crate) duri: End,
}

impl Story {
    fn tell(&mut self, name: &'static str, author: &Person, entry: &Entry) {
        self.hana.take(entry).unwrap();
        self.duri.take(entry).unwrap();
        self.signed.push((name, author.by_device(entry)));
    }
}

fn stamp(person: &Person) -> Stamp {
    Stamp {
        certificate: person.certificate().hash(),
        epoch: super::EPOCH,
        now: NOW,
    }
}

/// Duri lends; Hana pays twice, of which Duri takes one; Duri repays in part; both offer to close.
pub(crate) fn story() -> Story {
    let (hana, duri) = (HANA.account(), DURI.account());
    let ends = (End::new(hana, duri), End::new(duri, hana));
    let mut story = Story {
        signed: Vec::new(),
        hana: ends.0,
        duri: ends.1,
    };
    let rice = payment_id(&hana, "rice");
    let barley = payment_id(&hana, "barley");

    let entry = story
        .duri
        .line
        .propose_limit(stamp(&DURI), Amount(50_000), Amount(5_000))
        .unwrap();
    story.tell("limit", &DURI, &entry);
    let mine = &story.hana.line;
    let entry = mine
        .propose_iou(stamp(&HANA), rice, Amount(15_000), "쌀", None)
        .unwrap();
    story.tell("iou", &HANA, &entry);
    let entry = story
        .duri
        .line
        .propose_accept(stamp(&DURI), &[DebtId::Iou(rice)])
        .unwrap();
    story.tell("accept", &DURI, &entry);
    let mine = &story.hana.line;
    let entry = mine
        .propose_iou(stamp(&HANA), barley, Amount(2), "", None)
        .unwrap();
    story.tell("second-iou", &HANA, &entry);
    let refuse = DeclineReason::Refused;
    let entry = story
        .duri
        .line
        .propose_decline(stamp(&DURI), DebtId::Iou(barley), refuse)
        .unwrap();
    story.tell("decline", &DURI, &entry);
    tell_of_locks(&mut story);
    let entry = story.hana.line.propose_close(stamp(&HANA)).unwrap();
    story.tell("close-without-debt", &HANA, &entry);
    let entry = story.duri.line.propose_close(stamp(&DURI)).unwrap();
    story.tell("close", &DURI, &entry);
    // Hana's node burned. A sample's later devices sign with the same key.
    let entry = story.hana.line.propose_resume(later_device(1)).unwrap();
    story.tell("resume", &HANA, &entry);
    story
}

/// Hana locks two amounts: one is freed and opened all the same, the other one waived.
fn tell_of_locks(story: &mut Story) {
    let hana = HANA.account();
    let opening = Opening::Preimage([0x0b; 32]);
    let mut ids = Vec::new();
    for (name, number, amount) in [("lock", 1, 700), ("second-lock", 2, 800)] {
        let lock = NewLock {
            id: Hash([number; 32]),
            amount: Amount(amount),
            condition: opening.condition(),
            until: NOW.plus(60_000),
            instructions: b"to the payee".to_vec(),
        };
        let line = &story.hana.line;
        ids.push(line.lock_id(stamp(&HANA), &lock));
        let entry = line.propose_lock(stamp(&HANA), &lock, None).unwrap();
        story.tell(name, &HANA, &entry);
    }
    let debts: Vec<_> = ids.iter().copied().map(DebtId::Lock).collect();
    let theirs = |story: &Story| story.duri.line.clone();
    let entry = theirs(story).propose_accept(stamp(&DURI), &debts).unwrap();
    story.tell("accept-locks", &DURI, &entry);
    let entry = theirs(story).propose_free(stamp(&DURI), &ids[..1]).unwrap();
    story.tell("free", &DURI, &entry);
    let opened = story.duri.debts[&(hana, debts[0])].opened(false, opening);
    let entry = theirs(story)
        .propose_settle(stamp(&DURI), &[opened.unwrap()])
        .unwrap();
    story.tell("settle", &DURI, &entry);
    let entry = theirs(story)
        .propose_waive(stamp(&DURI), &ids[1..])
        .unwrap();
    story.tell("waive", &DURI, &entry);
}

/// Hana signs two entries for one place.
pub(crate) fn proof() -> EquivocationProof {
    let signed = story().signed.swap_remove(1).1;
    let mut other = signed.unverified().unwrap();
    if let Operation::Iou { amount, .. } = &mut other.operation {
        *amount = Amount(14_000);
    }
    EquivocationProof::new(signed, HANA.by_device(&other))
}

/// Everything of a line, encoded.
pub(crate) fn all() -> Vec<Encoded> {
    let story = story();
    let mut all = Vec::new();
    for (name, signed) in &story.signed {
        all.push(("entry", (*name).into(), signed.bytes().to_vec()));
    }
    all.push((
        "signed-entry",
        "iou".into(),
        codec::encode(&story.signed[1].1),
    ));
    all.push((
        "equivocation-proof",
        "sample".into(),
        codec::encode(&proof()),
    ));
    let mut frozen = story.duri.clone();
    for signed in [proof().first, proof().second] {
        // One of the two is known.
        let _ = frozen.take(&signed.unverified().unwrap());
    }
    for (name, end) in [
        ("hana", &story.hana),
        ("duri", &story.duri),
        ("frozen", &frozen),
    ] {
        all.push(("line", name.into(), codec::encode(&end.line)));
    }
    for (number, record) in story.hana.debts.values().enumerate() {
        all.push(("debt-record", number.to_string(), codec::encode(record)));
    }
    for (number, (_, record)) in story.hana.entries.values().enumerate().take(3) {
        all.push(("entry-record", number.to_string(), codec::encode(record)));
    }
    all
}
