//! Two ends, and a bad network between them.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::codec::Bytes;
use pumasi_protocol::condition::Opening;
use pumasi_protocol::crypto::{Signed, SigningKey};
use pumasi_protocol::line::{
    Answers, DebtId, DeclineReason, Entry, EntryFault, Line, MAX_BRANCHES, MAX_NAMED, NewLock,
    Opened, Operation, Refusal, Stamp, View,
};
use pumasi_protocol::types::{AccountId, Amount, Hash, LockId, PaymentId, Time};

use super::book::Book;
use super::model::{Model, debt_of, epoch_of, rank};
use super::{Action, ENDS, Kind, UNITS};

/// Two ends, two units, and everything that is on its way. `books[end][unit]`.
pub(crate) struct World {
    pub(crate) books: [[Book; 2]; 2],
    pub(crate) network: [Vec<Signed<Entry>>; 2],
    pub(crate) all: [Vec<Signed<Entry>>; 2],
    pub(crate) clock: u64,
    /// The device that each end signs with.
    devices: [Hash; 2],
    /// Somebody may be restored in this history; somebody was.
    pub(crate) restores: bool,
    restored: bool,
    /// The highest limit, with its overhang, that each end ever gave, per unit.
    top: [[u64; 2]; 2],
    /// An end signed something that an honest program refuses, or lowered a limit.
    pub(crate) excuse: bool,
}

pub(crate) fn key(account: AccountId) -> SigningKey {
    SigningKey::from_seed(account.as_bytes())
}

pub(crate) fn pay_id(n: u8) -> PaymentId {
    PaymentId([n; 32])
}

/// The opening of the locks with this number, the same from either end: twins.
fn opening(n: u8) -> Opening {
    Opening::Preimage([n % 6; 32])
}

fn new_lock(n: u8, amount: Amount) -> NewLock {
    NewLock {
        id: Hash([n; 32]),
        amount,
        condition: opening(n).condition(),
        until: Time(u64::from(n)),
        instructions: vec![n; usize::from(n)],
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let books = [(0, 1), (1, 0)]
            .map(|(me, other)| UNITS.map(|unit| Book::new(ENDS[me], ENDS[other], unit)));
        Self {
            books,
            network: [Vec::new(), Vec::new()],
            all: [Vec::new(), Vec::new()],
            clock: 0,
            devices: ENDS.map(|end| Hash(end.0)),
            restores: false,
            restored: false,
            top: [[0; 2]; 2],
            excuse: false,
        }
    }

    pub(crate) fn stamp(&mut self, end: usize) -> Stamp {
        self.clock += 1;
        Stamp {
            certificate: self.devices[end],
            epoch: epoch_of(self.devices[end]),
            now: Time(self.clock),
        }
    }

    /// Signs an entry, applies it at its author's, and sends it.
    pub(crate) fn sign(&mut self, end: usize, unit: usize, entry: &Entry) {
        let signed = Signed::sign(entry, &key(ENDS[end]));
        self.books[end][unit].take(&signed).unwrap();
        self.network[1 - end].push(signed.clone());
        self.all[unit].push(signed);
        if let Operation::Limit { amount, overhang } = entry.operation {
            let top = &mut self.top[end][unit];
            *top = (*top).max(amount.0.saturating_add(overhang.0));
        }
    }

    /// Signs the `Resume` that is due on a line.
    fn resume(&mut self, end: usize, unit: usize) -> bool {
        let stamp = self.stamp(end);
        let due = self.line(end, unit).resume_due(stamp);
        if due {
            let entry = self.line(end, unit).propose_resume(stamp).unwrap();
            self.sign(end, unit, &entry);
        }
        due
    }

    /// A new machine with what the archive has: of each chain all but the last entries.
    fn restore(&mut self, action: &Action) {
        let end = action.end;
        let epoch = self.devices.map(epoch_of)[end] + 1;
        if epoch > 9 {
            return;
        }
        self.devices[end].0[30] = 0xee;
        self.devices[end].0[31] = epoch as u8;
        self.restored = true;
        self.excuse = true;
        for unit in [0, 1] {
            let old = &self.books[end][unit];
            let mut fresh = Book::new(ENDS[end], ENDS[1 - end], UNITS[unit]);
            let mut kept: Vec<_> = old.entries.values().collect();
            kept.sort_by_key(|e| (e.author, rank(e.certificate), e.sequence));
            for entry in &kept {
                let chain = kept.iter().filter(|e| e.chain() == entry.chain()).count() as u64;
                // Which chains lose how much: all, some, or nothing.
                let salt = entry.chain().0[0] ^ action.pick;
                let forgotten = [0, 0, 1, 2, 5, 99][usize::from(salt) % 6];
                if entry.sequence + forgotten <= chain {
                    fresh.deliver(&Signed::sign(*entry, &key(entry.author)));
                }
            }
            fresh.waiting.clear();
            let incomplete = action.amount.is_multiple_of(2);
            fresh.line.mark_restored(self.devices[end], incomplete);
            self.books[end][unit] = fresh;
        }
    }

    pub(crate) fn line(&self, end: usize, unit: usize) -> &Line {
        &self.books[end][unit].line
    }

    pub(crate) fn accept(&mut self, end: usize, unit: usize, debts: &[DebtId]) {
        let stamp = self.stamp(end);
        let entry = self.line(end, unit).propose_accept(stamp, debts).unwrap();
        self.sign(end, unit, &entry);
        let view = self.line(end, unit).view();
        let owed = view.settled_in as i128 - view.settled_out as i128;
        let reserved = owed + view.reserved_in as i128;
        let limit = i128::from(view.limit_given.0);
        assert!(reserved <= limit, "accepted above the limit: {view:?}");
        let most = limit + i128::from(view.overhang_given.0);
        assert!(
            reserved + view.freed_in as i128 <= most,
            "accepted above limit and overhang: {view:?}"
        );
    }

    /// The lock of an end that an action picks, among those that were ever signed, with its number.
    fn some_lock(&self, end: usize, unit: usize, debtor: usize, pick: u8) -> Option<(LockId, u8)> {
        let entries = self.books[end][unit].entries.values();
        let locks = entries.filter_map(|entry| match (&entry.operation, debt_of(entry)) {
            (Operation::Lock { id, .. }, Some((DebtId::Lock(lock), _)))
                if entry.author == ENDS[debtor] =>
            {
                Some((lock, id.0[0]))
            }
            _ => None,
        });
        let locks: Vec<_> = locks.collect();
        locks.get(usize::from(pick) % locks.len().max(1)).copied()
    }

    pub(crate) fn answer(&mut self, end: usize, unit: usize) -> bool {
        let resumed = self.resume(end, unit);
        let due = self.line(end, unit).answers_due(&BTreeMap::new());
        if resumed && due == Answers::default() {
            return true;
        }
        if due == Answers::default() {
            return false;
        }
        for debts in due.accept.chunks(MAX_NAMED) {
            self.accept(end, unit, debts);
        }
        for (debt, reason) in due.decline {
            if reason == DeclineReason::AboveLimit {
                assert!(
                    self.excuse,
                    "an admitted debt was declined though no limit was lowered"
                );
            }
            let stamp = self.stamp(end);
            let entry = self
                .line(end, unit)
                .propose_decline(stamp, debt, reason)
                .unwrap();
            self.sign(end, unit, &entry);
        }
        true
    }

    pub(crate) fn act(&mut self, action: &Action) {
        let (end, unit) = (action.end, action.unit);
        if !matches!(action.kind, Kind::Deliver { .. } | Kind::Restore) {
            self.resume(end, unit);
        }
        let stamp = self.stamp(end);
        let (id, mut amount) = (pay_id(action.id), Amount(action.amount));
        if self.restores && matches!(action.kind, Kind::Pay) {
            // The id derives from the caller's key, which stands for one amount.
            amount = Amount(u64::from(action.id) * 7 + 1);
        }
        let line = self.line(end, unit);
        match action.kind {
            Kind::Limit => {
                let overhang = Amount(amount.0 / 2);
                let entry = line.propose_limit(stamp, amount, overhang).unwrap();
                let view = line.view();
                self.excuse |= amount < view.limit_given || overhang < view.overhang_given;
                self.sign(end, unit, &entry);
            }
            Kind::Pay => {
                let known = self.books[end][unit]
                    .debts
                    .get(&(ENDS[end], DebtId::Iou(id)));
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
            Kind::Lock => {
                let lock = new_lock(action.id, amount);
                let id = DebtId::Lock(line.lock_id(stamp, &lock));
                let known = self.books[end][unit].debts.get(&(ENDS[end], id));
                let available = line.available();
                match line.propose_lock(stamp, &lock, known) {
                    Ok(entry) => {
                        assert!(amount <= available);
                        self.sign(end, unit, &entry);
                    }
                    Err(Refusal::AlreadySigned { .. }) => assert!(known.is_some()),
                    Err(_) => assert!(amount.0 == 0 || amount > available),
                }
            }
            Kind::Settle => {
                // Whoever knows the opening, of locks in either direction.
                let debtor = usize::from(action.pick & 1);
                let Some((lock, number)) = self.some_lock(end, unit, debtor, action.pick / 2)
                else {
                    return;
                };
                let record = &self.books[end][unit].debts[&(ENDS[debtor], DebtId::Lock(lock))];
                if let Some(opened) = record.opened(debtor == end, opening(number)) {
                    let entry = line.propose_settle(stamp, &[opened]).unwrap();
                    self.sign(end, unit, &entry);
                    // The opening may have come over another way: the other end settles by itself.
                }
            }
            Kind::Free => {
                let Some((lock, _)) = self.some_lock(end, unit, 1 - end, action.pick) else {
                    return;
                };
                if let Ok(entry) = line.propose_free(stamp, &[lock]) {
                    self.sign(end, unit, &entry);
                    let view = self.line(end, unit).view();
                    assert!(view.freed_in <= u128::from(view.overhang_given.0));
                }
            }
            Kind::Waive => {
                let Some((lock, _)) = self.some_lock(end, unit, 1 - end, action.pick) else {
                    return;
                };
                if let Ok(entry) = line.propose_waive(stamp, &[lock]) {
                    self.sign(end, unit, &entry);
                }
            }
            Kind::RogueLock => {
                // Above the limit, opened, freed or waived before the lock itself is there, by a device
                // that never was.
                let Ok(mut entry) = line.propose_limit(stamp, Amount(0), Amount(0)) else {
                    return;
                };
                let lock = new_lock(action.id, amount.max(Amount(1)));
                let mine = action.pick & 16 != 0;
                let opened = Opened {
                    mine,
                    certificate: self.devices[if mine { end } else { 1 - end }],
                    id: lock.id,
                    amount: lock.amount,
                    opening: opening(action.id),
                };
                let theirs = opened.lock(line.id(), ENDS[1 - end]);
                entry.operation = match action.pick % 5 {
                    0 => Operation::Lock {
                        id: lock.id,
                        amount: lock.amount,
                        condition: lock.condition,
                        until: lock.until,
                        instructions: Bytes(lock.instructions),
                    },
                    1 => Operation::Settle {
                        locks: vec![opened],
                    },
                    2 => Operation::Free {
                        locks: vec![theirs],
                    },
                    3 => Operation::Waive {
                        locks: vec![theirs],
                    },
                    _ => Operation::Accept {
                        debts: vec![DebtId::Lock(theirs)],
                    },
                };
                self.excuse = true;
                self.sign(end, unit, &entry);
            }
            Kind::Rogue => {
                // Well-formed, but no honest program would sign it: any amount, any id again.
                let Ok(mut entry) = line.propose_limit(stamp, Amount(0), Amount(0)) else {
                    return;
                };
                entry.operation = rogue(id, amount);
                self.excuse = true;
                self.sign(end, unit, &entry);
            }
            Kind::RogueAnswer => {
                // A second answer, one above the limit, or one to a debt that nobody signed yet.
                let lock = self.some_lock(end, unit, 1 - end, action.pick / 2);
                let debt = match lock {
                    Some((lock, _)) if action.pick.is_multiple_of(3) => DebtId::Lock(lock),
                    _ => DebtId::Iou(id),
                };
                let Ok(mut entry) = line.propose_limit(stamp, Amount(0), Amount(0)) else {
                    return;
                };
                entry.operation = match action.pick % 2 {
                    0 => Operation::Accept { debts: vec![debt] },
                    _ => Operation::Decline {
                        debt,
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
                    0 => Operation::Limit {
                        amount,
                        overhang: amount,
                    },
                    1 => Operation::Accept {
                        debts: vec![DebtId::Iou(id)],
                    },
                    2 => Operation::Decline {
                        debt: DebtId::Iou(id),
                        reason: DeclineReason::Refused,
                    },
                    _ => rogue(id, amount),
                };
                self.excuse = true;
                self.sign(end, unit, &entry);
            }
            Kind::Restore => self.restore(action),
            Kind::Decline if !line.may_refuse() => {}
            Kind::Decline => {
                let held: Vec<_> = line.held(ENDS[1 - end]).collect();
                if let Some((debt, _)) = held.get(usize::from(action.pick) % held.len().max(1)) {
                    let entry = line
                        .propose_decline(stamp, *debt, DeclineReason::Refused)
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

    pub(crate) fn deliver(&mut self, end: usize, signed: &Signed<Entry>) {
        let author = signed.unverified().unwrap().author;
        let entry = signed.open(&key(author).public()).unwrap();
        let unit = usize::from(entry.unit.as_str() == UNITS[1]);
        let before = self.books[end][unit].resumes();
        let book = &mut self.books[end][unit];
        book.deliver(signed);
        for hash in book.resumes() {
            if !before.contains(&hash) {
                // What the other side lacks, and what it forgot, is sent.
                let spans = book.line.after_resume(&book.entries[&hash]);
                let lacks = book.load(&spans);
                let signed = lacks.iter().map(|e| Signed::sign(e, &key(e.author)));
                self.network[1 - end].extend(signed);
            }
        }
    }

    /// Each end asks for what the other one's `Resume` names, and tells what it has.
    fn catch_up(&mut self) -> bool {
        let mut moved = false;
        for (end, unit) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let wants = self.line(end, unit).wants();
            let found = self.books[1 - end][unit].load(&wants);
            moved |= !found.is_empty();
            let signed = found.iter().map(|e| Signed::sign(e, &key(e.author)));
            self.network[end].extend(signed);
            let view = self.line(1 - end, unit).holds(ENDS[end]);
            let line = &mut self.books[end][unit].line;
            let before = line.clone();
            line.answered(&view);
            moved |= *line != before;
        }
        moved
    }

    /// Delivers everything and answers everything, until nothing moves any more.
    pub(crate) fn settle(&mut self) {
        let had = [0, 1].map(|end| [0, 1].map(|unit| self.of_the_other(end, unit)));
        for round in 0.. {
            assert!(round < 200, "it never comes to rest");
            let mut moved = false;
            for end in [0, 1] {
                for signed in std::mem::take(&mut self.network[end]) {
                    self.deliver(end, &signed);
                    moved = true;
                }
                moved |= self.answer(end, 0) | self.answer(end, 1);
            }
            if !moved && !self.catch_up() {
                break;
            }
        }
        // What an end had of the other one's, both have.
        for (end, unit) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for hash in &had[end][unit] {
                assert!(
                    self.books
                        .iter()
                        .all(|e| e[unit].entries.contains_key(hash))
                );
            }
            let line = self.line(end, unit);
            assert!(!line.is_waiting() && line.wants().is_empty());
            if self.restored {
                let balance = line.balance();
                assert!(
                    balance <= i128::from(self.top[end][unit]),
                    "above every limit"
                );
            }
        }
    }

    fn of_the_other(&self, end: usize, unit: usize) -> BTreeSet<Hash> {
        let entries = &self.books[end][unit].entries;
        let theirs = entries.iter().filter(|(_, e)| e.author != ENDS[end]);
        theirs.map(|(hash, _)| *hash).collect()
    }

    /// What holds once everything was delivered.
    pub(crate) fn check_agreement(&self, order: &[u16]) {
        for unit in [0, 1] {
            let [a, b] = [&self.books[0][unit], &self.books[1][unit]];
            // What still waits follows an entry that both ends forgot, of a device that was replaced.
            for (book, signed) in [a, b]
                .map(|e| e.waiting.iter().map(move |w| (e, w)))
                .into_iter()
                .flatten()
            {
                let previous = signed.unverified().unwrap().previous;
                assert!(book.is_old(signed));
                assert!(!a.entries.contains_key(&previous) && !b.entries.contains_key(&previous));
            }
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
            let reserved = |view: &View| {
                let out = [view.reserved_out, view.freed_out];
                (out, [view.reserved_in, view.freed_in])
            };
            let ((out, into), (out_b, into_b)) = (reserved(&at_a), reserved(&at_b));
            assert_eq!((out, into), (into_b, out_b));
            for (key, record) in &a.debts {
                assert_eq!(record.status(), b.debts[key].status());
                assert_eq!(record.amount(), b.debts[key].amount());
            }
            self.check_replay(a, unit, order);
        }
    }

    /// Replaying changes nothing; any order of delivery gives the same state.
    pub(crate) fn check_replay(&self, done: &Book, unit: usize, order: &[u16]) {
        let mut again = done.clone();
        let mut fresh = Book::new(ENDS[0], ENDS[1], UNITS[unit]);
        // What nobody has any more was forgotten before it was safe.
        let left = self.all[unit].iter();
        let left = left.filter(|signed| done.entries.contains_key(&signed.hash()));
        let mut shuffled: Vec<_> = left.enumerate().collect();
        shuffled.sort_by_key(|(n, _)| order[n % order.len()].wrapping_mul(*n as u16 * 2 + 1));
        for (_, signed) in shuffled {
            assert_eq!(again.take(signed), Err(EntryFault::Duplicate));
            fresh.deliver(signed);
        }
        while !fresh.line.wants().is_empty() {
            for entry in done.load(&fresh.line.wants()) {
                fresh.deliver(&Signed::sign(&entry, &key(entry.author)));
            }
        }
        let restored = self.restored;
        assert_eq!(again.line, done.line);
        assert!(fresh.waiting.is_empty());
        assert_eq!(fresh.line.view(), done.line.view());
        if !done.line.is_frozen() {
            assert_eq!(fresh.debts, done.debts);
            assert_eq!(fresh.records, done.records);
        }
        if !done.line.is_frozen() && !restored {
            // The numbers of branches depend on the order; without branches nothing does.
            assert_eq!(fresh.line, done.line);
        }
    }
}

pub(crate) fn rogue(id: PaymentId, amount: Amount) -> Operation {
    Operation::Iou {
        id,
        amount: amount.max(Amount(1)),
        purpose: "more".into(),
    }
}
