//! Random histories of two ends with two lines, against a model that knows no state: it reads the
//! plain list of entries from the beginning each time, in the words of `docs/ledger.md`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that is wrong may panic"
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use pumasi_protocol::codec::{decode, encode};
use pumasi_protocol::crypto::{Signed, SigningKey};
use pumasi_protocol::line::{
    Answers, DeclineReason, Entry, EntryFault, EntryRecord, EquivocationProof, IouRecord,
    IouStatus, Known, Line, MAX_ACCEPT, MAX_BRANCHES, NO_ENTRY, Operation, Refusal, Stamp, View,
};
use pumasi_protocol::types::{AccountId, Amount, Hash, PaymentId, Time, Unit};

const ENDS: [AccountId; 2] = [AccountId([1; 32]), AccountId([2; 32])];
const UNITS: [&str; 2] = ["KRW", "USD"];

// ---- the model: everything from the list of entries, each time ----

struct Model<'a> {
    entries: &'a BTreeMap<Hash, Entry>,
}

/// What the model says about one end's debts.
#[derive(Debug, PartialEq)]
struct Debts {
    settled: u128,
    given_back: u128,
    held: BTreeMap<PaymentId, Amount>,
    status: BTreeMap<PaymentId, IouStatus>,
}

impl<'a> Model<'a> {
    fn by(&self, author: AccountId) -> Vec<Hash> {
        let mut mine: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, e)| e.author == author)
            .collect();
        mine.sort_by_key(|(hash, e)| (e.sequence, **hash));
        mine.into_iter().map(|(hash, _)| *hash).collect()
    }

    /// All entries from the first one to this one, this one included.
    fn path(&self, hash: Hash) -> Vec<(Hash, &'a Entry)> {
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

    fn leaves(&self, author: AccountId) -> Vec<Hash> {
        let mine = self.by(author);
        let inner: BTreeSet<_> = mine
            .iter()
            .map(|hash| self.entries[hash].previous)
            .collect();
        mine.into_iter()
            .filter(|hash| !inner.contains(hash))
            .collect()
    }

    fn limit(&self, author: AccountId) -> u64 {
        let limit_of = |leaf| {
            self.path(leaf)
                .iter()
                .fold(0, |limit, (_, entry)| match entry.operation {
                    Operation::Limit { amount } => amount.0,
                    _ => limit,
                })
        };
        self.leaves(author)
            .into_iter()
            .map(limit_of)
            .min()
            .unwrap_or(0)
    }

    fn last_debt(&self, author: AccountId) -> Option<Hash> {
        let is_debt = |hash: &Hash| matches!(self.entries[hash].operation, Operation::Iou { .. });
        self.by(author).into_iter().rfind(is_debt)
    }

    fn offer(&self, author: AccountId) -> Option<Option<Hash>> {
        if self.leaves(author).len() > 1 {
            return None;
        }
        let mut offer = None;
        for hash in self.by(author) {
            match &self.entries[&hash].operation {
                Operation::Close { last } => offer = Some(*last),
                Operation::Iou { .. } => offer = None,
                Operation::Limit { amount } if amount.0 > 0 => offer = None,
                _ => {}
            }
        }
        offer
    }

    /// Whether an entry is an answer to this IOU.
    fn answers(entry: &Entry, id: PaymentId) -> bool {
        match &entry.operation {
            Operation::Accept { ious } => ious.contains(&id),
            Operation::Decline { iou, .. } => *iou == id,
            _ => false,
        }
    }

    fn debts(&self, debtor: AccountId, creditor: AccountId) -> Debts {
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
            let full = u128::from(amount.0);
            if accepted {
                settled += full;
            }
            if accepted && declined {
                given_back += full;
            }
            let state = match (accepted, declined) {
                (false, false) => IouStatus::Held,
                (true, false) => IouStatus::Settled,
                (_, true) => IouStatus::Declined,
            };
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

    fn view(&self, me: AccountId, other: AccountId) -> View {
        let (out, into) = (self.debts(me, other), self.debts(other, me));
        let sum = |held: &BTreeMap<_, Amount>| held.values().map(|a| u128::from(a.0)).sum::<u128>();
        let settled_out = out.settled + into.given_back;
        let settled_in = into.settled + out.given_back;
        let frozen = self.leaves(me).len() > 1 || self.leaves(other).len() > 1;
        let closing = self.offer(other).is_some();
        let limit = if closing { 0 } else { self.limit(other) };
        let left = (i128::from(limit) + settled_in as i128)
            - (settled_out as i128 + sum(&out.held) as i128);
        let available = if frozen {
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

// ---- the real thing: two ends, their stores, and a bad network ----

/// One line at one end, with what a node would keep in its store.
#[derive(Clone)]
struct Book {
    line: Line,
    entries: BTreeMap<Hash, Entry>,
    records: BTreeMap<Hash, EntryRecord>,
    ious: BTreeMap<(AccountId, PaymentId), IouRecord>,
    waiting: Vec<Signed<Entry>>,
}

impl Book {
    fn new(me: AccountId, other: AccountId, unit: &str) -> Self {
        let unit: Unit = unit.parse().unwrap();
        Self {
            line: Line::new(me, other, unit).unwrap(),
            entries: BTreeMap::new(),
            records: BTreeMap::new(),
            ious: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    fn take(&mut self, signed: &Signed<Entry>) -> Result<(), EntryFault> {
        let (entry, hash) = (signed.unverified().unwrap(), signed.hash());
        let needs = self.line.needs(&entry);
        let mut known = Known::default();
        for id in needs.ious {
            if let Some(record) = self.ious.get(&(needs.debtor, id)) {
                known.ious.insert(id, record.clone());
            }
        }
        if needs.place {
            let here = self
                .entries
                .iter()
                .filter(|(_, e)| e.author == entry.author && e.sequence == entry.sequence);
            known.here = here.map(|(hash, _)| *hash).collect();
            known.previous = self.records.get(&entry.previous).copied();
        }
        let before = self.line.clone();
        let received = self.line.receive(&entry, hash, &known)?;
        assert_eq!(self.line, before, "deciding changes nothing");
        if let Some(found) = received.equivocation {
            assert!(self.entries.contains_key(&found.first) && found.second == hash);
        }
        self.entries.insert(hash, entry);
        self.records.insert(hash, received.entry);
        for (id, record) in &received.records {
            self.ious.insert((received.debtor, *id), record.clone());
        }
        self.line.apply(received);
        self.check();
        Ok(())
    }

    /// Takes an entry, or keeps it until those before it came. Whatever else happens is a mistake.
    fn deliver(&mut self, signed: &Signed<Entry>) {
        self.waiting.push(signed.clone());
        loop {
            let before = self.waiting.len();
            for signed in std::mem::take(&mut self.waiting) {
                match self.take(&signed) {
                    Ok(()) | Err(EntryFault::Duplicate) => {}
                    Err(EntryFault::Gap { .. }) => self.waiting.push(signed),
                    Err(fault) => panic!("{fault}"),
                }
            }
            if self.waiting.len() == before {
                return;
            }
        }
    }

    /// What holds at any time: the line says what the model reads from the entries applied so far.
    fn check(&self) {
        let (me, other) = (self.line.me(), self.line.other());
        let model = Model {
            entries: &self.entries,
        };
        assert_eq!(self.line.view(), model.view(me, other));
        for (debtor, creditor) in [(me, other), (other, me)] {
            let debts = model.debts(debtor, creditor);
            assert_eq!(
                self.line.held(debtor).collect::<BTreeMap<_, _>>(),
                debts.held
            );
            for (id, status) in debts.status {
                assert_eq!(self.ious[&(debtor, id)].status(), status);
            }
            let heads: BTreeSet<_> = self
                .line
                .heads(debtor)
                .into_iter()
                .map(|head| head.hash)
                .collect();
            assert_eq!(heads, model.leaves(debtor).into_iter().collect());
        }
        assert_eq!(decode::<Line>(&encode(&self.line)).unwrap(), self.line);
    }
}

/// Two ends, two units, and everything that is on its way. `books[end][unit]`.
struct World {
    books: [[Book; 2]; 2],
    network: [Vec<Signed<Entry>>; 2],
    all: [Vec<Signed<Entry>>; 2],
    clock: u64,
    /// An end signed something that an honest program refuses, or lowered a limit.
    excuse: bool,
}

fn key(account: AccountId) -> SigningKey {
    SigningKey::from_seed(account.as_bytes())
}

fn pay_id(n: u8) -> PaymentId {
    PaymentId([n; 32])
}

impl World {
    fn new() -> Self {
        let books = [(0, 1), (1, 0)]
            .map(|(me, other)| UNITS.map(|unit| Book::new(ENDS[me], ENDS[other], unit)));
        Self {
            books,
            network: [Vec::new(), Vec::new()],
            all: [Vec::new(), Vec::new()],
            clock: 0,
            excuse: false,
        }
    }

    fn stamp(&mut self, end: usize) -> Stamp {
        self.clock += 1;
        Stamp {
            certificate: Hash(*ENDS[end].as_bytes()),
            now: Time(self.clock),
        }
    }

    /// Signs an entry, applies it at its author's, and sends it.
    fn sign(&mut self, end: usize, unit: usize, entry: &Entry) {
        let signed = Signed::sign(entry, &key(ENDS[end]));
        self.books[end][unit].take(&signed).unwrap();
        self.network[1 - end].push(signed.clone());
        self.all[unit].push(signed);
    }

    fn line(&self, end: usize, unit: usize) -> &Line {
        &self.books[end][unit].line
    }

    fn accept(&mut self, end: usize, unit: usize, ious: &[PaymentId]) {
        let stamp = self.stamp(end);
        let entry = self.line(end, unit).propose_accept(stamp, ious).unwrap();
        self.sign(end, unit, &entry);
        let view = self.line(end, unit).view();
        let owed = view.settled_in as i128 - view.settled_out as i128;
        assert!(
            owed <= i128::from(view.limit_given.0),
            "accepted above the limit: {view:?}"
        );
    }

    fn answer(&mut self, end: usize, unit: usize) -> bool {
        let due = self.line(end, unit).answers_due();
        if due == Answers::default() {
            return false;
        }
        for ious in due.accept.chunks(MAX_ACCEPT) {
            self.accept(end, unit, ious);
        }
        for (iou, reason) in due.decline {
            if reason == DeclineReason::AboveLimit {
                assert!(
                    self.excuse,
                    "an admitted IOU was declined though no limit was lowered"
                );
            }
            let stamp = self.stamp(end);
            let entry = self
                .line(end, unit)
                .propose_decline(stamp, iou, reason)
                .unwrap();
            self.sign(end, unit, &entry);
        }
        true
    }

    fn act(&mut self, action: &Action) {
        let stamp = self.stamp(action.end);
        let (end, unit) = (action.end, action.unit);
        let (id, amount) = (pay_id(action.id), Amount(action.amount));
        let line = self.line(end, unit);
        match action.kind {
            Kind::Limit => {
                let entry = line.propose_limit(stamp, amount).unwrap();
                self.excuse |= amount < line.view().limit_given;
                self.sign(end, unit, &entry);
            }
            Kind::Pay => {
                let known = self.books[end][unit].ious.get(&(ENDS[end], id));
                let view = line.view();
                let proposed = line.propose_iou(stamp, id, amount, "rent", known);
                if known.is_some() {
                    assert!(matches!(
                        proposed,
                        Err(Refusal::AlreadySigned { .. } | Refusal::IdUsed)
                    ));
                } else if view.frozen && amount.0 > 0 {
                    assert_eq!(proposed, Err(Refusal::Frozen));
                } else {
                    let fits = amount.0 > 0 && amount <= view.available;
                    assert_eq!(proposed.is_ok(), fits, "{proposed:?} {view:?}");
                }
                if let Ok(entry) = proposed {
                    self.sign(end, unit, &entry);
                }
            }
            Kind::Rogue => {
                // Well-formed, but no honest program would sign it: any amount, any id again.
                let Ok(mut entry) = line.propose_limit(stamp, Amount(0)) else {
                    return;
                };
                entry.operation = rogue(id, amount);
                self.excuse = true;
                self.sign(end, unit, &entry);
            }
            Kind::RogueAnswer => {
                // A second answer, one above the limit, or one to an IOU that nobody signed yet.
                let Ok(mut entry) = line.propose_limit(stamp, Amount(0)) else {
                    return;
                };
                entry.operation = match action.pick % 2 {
                    0 => Operation::Accept { ious: vec![id] },
                    _ => Operation::Decline {
                        iou: id,
                        reason: DeclineReason::Refused,
                    },
                };
                self.excuse = true;
                self.sign(end, unit, &entry);
            }
            Kind::Fork => {
                // The child of any entry of one's own, or a second first one.
                let model = Model {
                    entries: &self.books[end][unit].entries,
                };
                let mine = model.by(ENDS[end]);
                if mine.is_empty() || model.leaves(ENDS[end]).len() >= MAX_BRANCHES {
                    return;
                }
                let at = usize::from(action.pick) % mine.len();
                let parent = &self.books[end][unit].entries[&mine[at]];
                let mut entry = Entry {
                    time: stamp.now,
                    ..parent.clone()
                };
                if action.pick.is_multiple_of(2) {
                    entry.sequence += 1;
                    entry.previous = mine[at];
                }
                entry.operation = match action.id % 4 {
                    0 => Operation::Limit { amount },
                    1 => Operation::Accept { ious: vec![id] },
                    2 => Operation::Decline {
                        iou: id,
                        reason: DeclineReason::Refused,
                    },
                    _ => rogue(id, amount),
                };
                self.excuse = true;
                self.sign(end, unit, &entry);
            }
            Kind::Decline => {
                let held: Vec<_> = line.held(ENDS[1 - end]).collect();
                if let Some((iou, _)) = held.get(usize::from(action.pick) % held.len().max(1)) {
                    let entry = line
                        .propose_decline(stamp, *iou, DeclineReason::Refused)
                        .unwrap();
                    self.sign(end, unit, &entry);
                }
            }
            Kind::Close => {
                if let Ok(entry) = line.propose_close(stamp) {
                    self.sign(end, unit, &entry);
                }
            }
            Kind::Answer => {
                self.answer(end, unit);
            }
            Kind::Deliver { twice } => {
                let queue = &mut self.network[end];
                if !queue.is_empty() {
                    let at = usize::from(action.pick) % queue.len();
                    let signed = if twice {
                        queue[at].clone()
                    } else {
                        queue.remove(at)
                    };
                    self.deliver(end, &signed);
                }
            }
        }
    }

    fn deliver(&mut self, end: usize, signed: &Signed<Entry>) {
        let entry = signed.open(&key(ENDS[1 - end]).public()).unwrap();
        let unit = usize::from(entry.unit.as_str() == UNITS[1]);
        self.books[end][unit].deliver(signed);
    }

    /// Delivers everything and answers everything, until nothing moves any more.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for end in [0, 1] {
                for signed in std::mem::take(&mut self.network[end]) {
                    self.deliver(end, &signed);
                    moved = true;
                }
                moved |= self.answer(end, 0) | self.answer(end, 1);
            }
            if !moved {
                break;
            }
        }
    }

    /// What holds once everything was delivered.
    fn check_agreement(&self, order: &[u16]) {
        for unit in [0, 1] {
            let [a, b] = [&self.books[0][unit], &self.books[1][unit]];
            assert!(a.waiting.is_empty() && b.waiting.is_empty());
            assert_eq!(a.entries, b.entries);
            let (at_a, at_b) = (a.line.view(), b.line.view());
            assert_eq!(at_a.balance, -at_b.balance);
            assert_eq!(
                (
                    at_a.settled_out,
                    at_a.settled_in,
                    at_a.held_out,
                    at_a.held_in
                ),
                (
                    at_b.settled_in,
                    at_b.settled_out,
                    at_b.held_in,
                    at_b.held_out
                )
            );
            assert_eq!(
                (
                    at_a.limit_given,
                    at_a.limit_received,
                    at_a.frozen,
                    at_a.closed
                ),
                (
                    at_b.limit_received,
                    at_b.limit_given,
                    at_b.frozen,
                    at_b.closed
                )
            );
            for account in ENDS {
                assert_eq!(a.line.heads(account), b.line.heads(account));
            }
            for (key, record) in &a.ious {
                assert_eq!(record.status(), b.ious[key].status());
                assert_eq!(record.amount(), b.ious[key].amount());
            }
            self.check_replay(a, unit, order);
        }
    }

    /// Replaying changes nothing; any order of delivery gives the same state.
    fn check_replay(&self, done: &Book, unit: usize, order: &[u16]) {
        let mut again = done.clone();
        let mut fresh = Book::new(ENDS[0], ENDS[1], UNITS[unit]);
        let mut shuffled: Vec<_> = self.all[unit].iter().enumerate().collect();
        shuffled.sort_by_key(|(n, _)| order[n % order.len()].wrapping_mul(*n as u16 * 2 + 1));
        for (_, signed) in shuffled {
            assert_eq!(again.take(signed), Err(EntryFault::Duplicate));
            fresh.deliver(signed);
        }
        assert_eq!(again.line, done.line);
        assert!(fresh.waiting.is_empty());
        assert_eq!(fresh.line.view(), done.line.view());
        if !done.line.is_frozen() {
            // The numbers of branches depend on the order; without branches nothing does.
            assert_eq!(fresh.line, done.line);
            assert_eq!(fresh.ious, done.ious);
            assert_eq!(fresh.records, done.records);
        }
    }
}

fn rogue(id: PaymentId, amount: Amount) -> Operation {
    Operation::Iou {
        id,
        amount: amount.max(Amount(1)),
        purpose: "more".into(),
    }
}

// ---- random histories ----

#[derive(Debug, Clone, Copy)]
enum Kind {
    Limit,
    Pay,
    Rogue,
    RogueAnswer,
    Fork,
    Decline,
    Close,
    Answer,
    Deliver { twice: bool },
}

#[derive(Debug, Clone)]
struct Action {
    kind: Kind,
    end: usize,
    unit: usize,
    id: u8,
    amount: u64,
    pick: u8,
}

fn action(kinds: &'static [(u32, Kind)]) -> impl Strategy<Value = Action> {
    let kinds = kinds
        .iter()
        .map(|(weight, kind)| (*weight, Just(*kind)))
        .collect();
    let amount = prop_oneof![
        12 => 0..120u64,
        1 => Just(u64::MAX),
    ];
    // Mostly one unit: the other one shows that lines do not mix.
    let unit = prop_oneof![3 => Just(0usize), 1 => Just(1usize)];
    (
        prop::strategy::Union::new_weighted(kinds),
        0..2usize,
        unit,
        0..12u8,
        amount,
        any::<u8>(),
    )
        .prop_map(|(kind, end, unit, id, amount, pick)| Action {
            kind,
            end,
            unit,
            id,
            amount,
            pick,
        })
}

const HONEST: &[(u32, Kind)] = &[
    (2, Kind::Limit),
    (8, Kind::Pay),
    (1, Kind::Decline),
    (1, Kind::Close),
    (5, Kind::Answer),
    (9, Kind::Deliver { twice: false }),
    (2, Kind::Deliver { twice: true }),
];
const CARELESS: &[(u32, Kind)] = &[
    (2, Kind::Limit),
    (6, Kind::Pay),
    (4, Kind::Rogue),
    (4, Kind::RogueAnswer),
    (1, Kind::Decline),
    (1, Kind::Close),
    (5, Kind::Answer),
    (9, Kind::Deliver { twice: false }),
    (2, Kind::Deliver { twice: true }),
];
const CONTRADICTING: &[(u32, Kind)] = &[
    (2, Kind::Limit),
    (6, Kind::Pay),
    (2, Kind::Rogue),
    (2, Kind::RogueAnswer),
    (2, Kind::Fork),
    (1, Kind::Decline),
    (4, Kind::Answer),
    (8, Kind::Deliver { twice: false }),
    (2, Kind::Deliver { twice: true }),
];

fn run(actions: &[Action], order: &[u16]) -> World {
    let mut world = World::new();
    // Some credit to begin with, so that most histories pay.
    for end in [0, 1] {
        for unit in [0, 1] {
            let stamp = world.stamp(end);
            let entry = world
                .line(end, unit)
                .propose_limit(stamp, Amount(150))
                .unwrap();
            world.sign(end, unit, &entry);
        }
    }
    for action in actions {
        world.act(action);
    }
    world.settle();
    world.check_agreement(order);
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn honest_ends_agree_whatever_the_network_does(
        actions in prop::collection::vec(action(HONEST), 0..80),
        order in prop::collection::vec(any::<u16>(), 1..40),
    ) {
        run(&actions, &order);
    }

    #[test]
    fn ends_agree_though_programs_sign_what_they_should_not(
        actions in prop::collection::vec(action(CARELESS), 0..60),
        order in prop::collection::vec(any::<u16>(), 1..40),
    ) {
        run(&actions, &order);
    }

    #[test]
    fn ends_agree_though_one_contradicts_itself_and_settlement_goes_on(
        actions in prop::collection::vec(action(CONTRADICTING), 0..60),
        order in prop::collection::vec(any::<u16>(), 1..40),
    ) {
        let mut world = run(&actions, &order);
        for unit in [0, 1] {
            if !world.line(0, unit).is_frozen() {
                continue;
            }
            for end in [0, 1] {
                let book = &world.books[end][unit];
                // Each piece of evidence is a proof that anyone can check.
                for found in book.line.evidence() {
                    let sign = |hash| Signed::sign(&book.entries[hash], &key(found.author));
                    let proof = EquivocationProof::new(sign(&found.first), sign(&found.second));
                    let proven = proof.check(&key(found.author).public()).unwrap();
                    prop_assert_eq!(proven.sequence, found.sequence);
                }
                let stamp = world.stamp(end);
                let refused = world.line(end, unit)
                    .propose_iou(stamp, pay_id(99), Amount(1), "", None);
                prop_assert_eq!(refused, Err(Refusal::Frozen));
            }
            // Debt that was under way when the line froze can still be accepted.
            let stamp = world.stamp(0);
            let mut entry = world.line(0, unit).propose_limit(stamp, Amount(0)).unwrap();
            entry.operation = rogue(pay_id(98), Amount(1));
            world.sign(0, unit, &entry);
            for signed in std::mem::take(&mut world.network[1]) {
                world.deliver(1, &signed);
            }
            let view = world.line(1, unit).view();
            if view.balance < i128::from(view.limit_given.0) {
                world.accept(1, unit, &[pay_id(98)]);
                prop_assert_eq!(world.line(1, unit).balance(), view.balance + 1);
            }
            world.settle();
            world.check_agreement(&order);
        }
    }
}
