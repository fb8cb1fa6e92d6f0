//! Bytes as a history of two ends of one line, with a network that delays, repeats and reorders, and
//! programs that sign what an honest one refuses. Whatever happens: an honest end takes no more than its
//! limit, and once everything was delivered both ends say the same.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use pumasi_protocol::codec::{self, Bytes};
use pumasi_protocol::condition::Opening;
use pumasi_protocol::line::{
    DebtId, DeclineReason, Entry, EntryFault, EquivocationProof, Line, MAX_BRANCHES, MAX_NAMED,
    NewLock, Opened, Operation, Refusal, Span, Stamp,
};
use pumasi_protocol::types::{AccountId, Amount, Hash, LockId, PaymentId, Time};

use super::samples::money::{End, epochs, hash_of, later_device};
use super::samples::{DURI, HANA};

/// Bytes of one action: what, which, how much.
const ACTION_BYTES: usize = 3;
/// Actions of one history at most; the rest of an input is not read.
const ACTIONS_MAX: usize = 160;

/// The two ends.
static ACCOUNTS: LazyLock<[AccountId; 2]> = LazyLock::new(|| [HANA.account(), DURI.account()]);

/// One end, what is on its way to it, and what waits for an earlier entry.
struct Side {
    end: End,
    inbox: Vec<Entry>,
    waiting: Vec<Entry>,
    certificate: Hash,
    /// The highest limit ever given, with its overhang.
    top: u64,
}

struct World {
    sides: [Side; 2],
    clock: u64,
    /// Somebody signed what an honest program refuses.
    rogue: bool,
    /// Somebody contradicted itself.
    forked: bool,
    /// Devices that were restored.
    restored: u8,
}

/// The target.
pub(crate) fn run(input: &[u8]) {
    let [hana, duri] = *ACCOUNTS;
    let side = |me, other, certificate| Side {
        end: End::new(me, other),
        inbox: Vec::new(),
        waiting: Vec::new(),
        certificate,
        top: 0,
    };
    let sides = [
        side(hana, duri, Hash([1; 32])),
        side(duri, hana, Hash([2; 32])),
    ];
    let mut world = World {
        sides,
        clock: 0,
        rogue: false,
        forked: false,
        restored: 0,
    };
    for action in input.chunks_exact(ACTION_BYTES).take(ACTIONS_MAX) {
        world.act(action[0], action[1], action[2]);
        world.check_limits();
    }
    world.settle();
    world.check_agreement();
}

/// Amounts: small ones mostly, and those at the edges.
fn amount(byte: u8) -> Amount {
    Amount(match byte {
        0..=239 => u64::from(byte),
        240..=247 => 1 << (byte - 190),
        _ => u64::MAX - u64::from(255 - byte),
    })
}

/// The opening of the locks with this number, the same from either end.
fn opening(byte: u8) -> Opening {
    Opening::Preimage([byte % 5; 32])
}

fn lock(byte: u8, amount: Amount) -> NewLock {
    NewLock {
        id: Hash([byte % 24; 32]),
        amount,
        condition: opening(byte % 24).condition(),
        until: Time(u64::from(byte)),
        instructions: vec![byte; 3],
    }
}

fn id(byte: u8) -> PaymentId {
    PaymentId([byte % 24; 32])
}

impl World {
    fn line(&self, at: usize) -> &Line {
        &self.sides[at].end.line
    }

    fn stamp(&self, at: usize) -> Stamp {
        Stamp {
            certificate: self.sides[at].certificate,
            epoch: epochs(self.sides[at].certificate),
            now: Time(self.clock),
        }
    }

    /// An end signs: its own line takes it, then it is on its way. What it cannot take itself is not
    /// sent.
    fn sign(&mut self, at: usize, entry: Entry) -> Result<(), EntryFault> {
        assert_eq!(
            codec::decode::<Entry>(&codec::encode(&entry)),
            Ok(entry.clone())
        );
        self.sides[at].end.take(&entry)?;
        if let Operation::Limit { amount, overhang } = entry.operation {
            let most = amount.0.saturating_add(overhang.0);
            self.sides[at].top = self.sides[at].top.max(most);
        }
        self.sides[1 - at].inbox.push(entry);
        Ok(())
    }

    /// An honest end's own draft always fits.
    fn sign_draft(&mut self, at: usize, draft: Result<Entry, Refusal>) -> bool {
        match draft {
            Ok(entry) => {
                assert_eq!(entry.check(), Ok(()));
                self.sign(at, entry).unwrap();
                true
            }
            Err(refusal) => {
                assert!(!refusal.to_string().is_empty());
                false
            }
        }
    }

    fn act(&mut self, what: u8, which: u8, much: u8) {
        let at = usize::from(what >> 7);
        self.clock += 1;
        self.resume(at);
        let stamp = self.stamp(at);
        if what & 32 != 0 && (1..=7).contains(&(what & 15)) {
            return self.act_on_locks(at, what & 15, which, much);
        }
        match what & 15 {
            0 => {
                let overhang = amount(which);
                let draft = self.line(at).propose_limit(stamp, amount(much), overhang);
                self.sign_draft(at, draft);
            }
            1..=3 => self.pay(at, id(which), amount(much)),
            4 | 5 => {
                self.answer(at);
            }
            6 => {
                let other = self.line(at).other();
                let held: Vec<_> = self.line(at).held(other).map(|(id, _)| id).collect();
                let some: Vec<_> = held.iter().copied().skip(usize::from(which % 8)).collect();
                self.accept(
                    at,
                    some.get(..usize::from(much).min(some.len())).unwrap_or(&[]),
                );
            }
            7 => {
                let other = self.line(at).other();
                let held = self.line(at).held(other).nth(usize::from(which % 8));
                // After a restore, refusals wait.
                let held = held.filter(|_| self.line(at).may_refuse());
                if let Some((debt, _)) = held {
                    let draft = self
                        .line(at)
                        .propose_decline(stamp, debt, DeclineReason::Refused);
                    assert!(self.sign_draft(at, draft));
                }
            }
            8 => {
                let draft = self.line(at).propose_close(stamp);
                self.sign_draft(at, draft);
            }
            9 if what & 64 != 0 => self.restore(at, which, much),
            9 => self.restart(at),
            10 | 11 => self.deliver(at, which, false),
            12 => self.deliver(at, which, true),
            13 => {
                // The other end first, all of it.
                for entry in std::mem::take(&mut self.sides[1 - at].inbox) {
                    self.receive(1 - at, entry);
                }
            }
            14 => self.sign_wrong(at, which, much),
            _ => self.contradict(at, which, much),
        }
    }

    fn pay(&mut self, at: usize, id: PaymentId, amount: Amount) {
        let me = self.line(at).me();
        let known = self.sides[at].end.debts.get(&(me, DebtId::Iou(id)));
        let draft = self
            .line(at)
            .propose_iou(self.stamp(at), id, amount, "", known);
        let available = self.line(at).available();
        if self.sign_draft(at, draft) {
            assert!(amount <= available, "more was signed than could be paid");
            // What is available is shown up to the largest amount only.
            let left = self.line(at).available();
            assert!(left.0 == available.0 - amount.0 || available.0 == u64::MAX);
        }
    }

    fn accept(&mut self, at: usize, debts: &[DebtId]) {
        let draft = self.line(at).propose_accept(self.stamp(at), debts);
        if self.sign_draft(at, draft) {
            let view = self.line(at).view();
            let reserved = view.balance + view.reserved_in as i128;
            let limit = i128::from(view.limit_given.0);
            assert!(reserved <= limit, "accepted above the limit");
            let most = limit + i128::from(view.overhang_given.0);
            assert!(
                reserved + view.freed_in as i128 <= most,
                "accepted above limit and overhang"
            );
        }
    }

    /// What an honest end does about locks: makes one, opens any, frees or waives the other side's.
    fn act_on_locks(&mut self, at: usize, what: u8, which: u8, much: u8) {
        let stamp = self.stamp(at);
        let line = self.line(at);
        let (me, other) = (line.me(), line.other());
        let open: Vec<_> = line.open(other).map(|(id, ..)| id).collect();
        let some = |from: &[LockId]| from.get(usize::from(which) % from.len().max(1)).copied();
        let draft = match what {
            1..=3 => {
                let lock = lock(which, amount(much));
                let id = DebtId::Lock(line.lock_id(stamp, &lock));
                let known = self.sides[at].end.debts.get(&(me, id));
                let available = line.available();
                let draft = line.propose_lock(stamp, &lock, known);
                assert!(draft.is_err() || lock.amount <= available);
                draft
            }
            4 | 5 => {
                let mut opened = Vec::new();
                for ((debtor, _), record) in &self.sides[at].end.debts {
                    let number = record.lock().map_or(0, |lock| lock.id.0[0]);
                    opened.extend(record.opened(*debtor == me, opening(number)));
                }
                let one = opened.get(usize::from(which) % opened.len().max(1));
                line.propose_settle(stamp, one.copied().as_slice())
            }
            6 => line.propose_free(stamp, some(&open).as_slice()),
            _ => line.propose_waive(stamp, some(&open).as_slice()),
        };
        self.sign_draft(at, draft);
    }

    /// Signs all answers that are due. Says whether there were any.
    fn answer(&mut self, at: usize) -> bool {
        let answers = self.line(at).answers_due(&BTreeMap::new());
        for debts in answers.accept.chunks(MAX_NAMED) {
            let before = self.sides[at].end.entries.len();
            self.accept(at, debts);
            assert!(
                self.sides[at].end.entries.len() > before,
                "a due answer was refused"
            );
        }
        for (debt, reason) in &answers.decline {
            let draft = self
                .line(at)
                .propose_decline(self.stamp(at), *debt, *reason);
            assert!(self.sign_draft(at, draft));
        }
        assert_eq!(
            self.line(at).answers_due(&BTreeMap::new()),
            pumasi_protocol::line::Answers::default()
        );
        !answers.accept.is_empty() || !answers.decline.is_empty()
    }

    /// Signs the `Resume` that is due. Says whether it was.
    fn resume(&mut self, at: usize) -> bool {
        let draft = self.line(at).propose_resume(self.stamp(at));
        self.sign_draft(at, draft)
    }

    /// A new device, with all but the last entries of each chain. What both a contradiction and a
    /// restore do is left to the unit tests.
    fn restore(&mut self, at: usize, which: u8, much: u8) {
        if self.forked || self.restored >= 8 {
            return;
        }
        self.restored += 1;
        self.rogue = true;
        let old = &self.sides[at].end;
        let mut end = End::new(old.line.me(), old.line.other());
        let mut kept: Vec<_> = old.entries.values().map(|(entry, _)| entry).collect();
        kept.sort_by_key(|e| (e.author, epochs(e.certificate), e.sequence));
        for entry in &kept {
            let chain = kept.iter().filter(|e| e.chain() == entry.chain()).count() as u64;
            let mine = entry.author == old.line.me();
            let forgotten = u64::from(if mine { which } else { much } % 8);
            if entry.sequence + forgotten <= chain {
                end.take(entry).unwrap();
            }
        }
        let stamp = later_device(self.restored);
        end.line.mark_restored(stamp.certificate, much & 128 != 0);
        let side = &mut self.sides[at];
        side.end = end;
        side.certificate = stamp.certificate;
        side.waiting.clear();
    }

    /// Sends what an end's spans name.
    fn send(&mut self, from: usize, spans: &[Span]) -> bool {
        let entries = self.sides[from].end.entries.values();
        let wanted = entries.map(|(entry, _)| entry).filter(|entry| {
            spans.iter().any(|span| {
                span.chain == entry.chain() && (span.from..=span.to).contains(&entry.sequence)
            })
        });
        let wanted: Vec<_> = wanted.cloned().collect();
        let some = !wanted.is_empty();
        self.sides[1 - from].inbox.extend(wanted);
        some
    }

    /// Each end asks for what the other one's `Resume` names, and shows what it has.
    fn catch_up(&mut self) -> bool {
        let mut moved = false;
        for at in [0, 1] {
            let wants = self.line(at).wants();
            moved |= self.send(1 - at, &wants);
            let view = self.line(1 - at).holds(self.line(at).me());
            let line = &mut self.sides[at].end.line;
            let before = line.clone();
            line.answered(&view);
            moved |= *line != before;
        }
        moved
    }

    fn restart(&mut self, at: usize) {
        let line = &mut self.sides[at].end.line;
        *line = codec::decode(&codec::encode(line)).unwrap();
    }

    /// One entry arrives, and perhaps comes again later.
    fn deliver(&mut self, at: usize, which: u8, again: bool) {
        let inbox = &mut self.sides[at].inbox;
        if inbox.is_empty() {
            return;
        }
        let place = usize::from(which) % inbox.len();
        let entry = if again {
            inbox[place].clone()
        } else {
            inbox.remove(place)
        };
        self.receive(at, entry);
    }

    /// Takes an entry, or keeps it until those before it came. Any other fault is a broken promise: no
    /// entry is refused because of what the other side signed.
    fn receive(&mut self, at: usize, entry: Entry) {
        let mut taken = Vec::new();
        let side = &mut self.sides[at];
        side.waiting.push(entry);
        loop {
            let before = side.waiting.len();
            for entry in std::mem::take(&mut side.waiting) {
                match side.end.take(&entry) {
                    Ok(()) => taken.push(entry),
                    Err(EntryFault::Duplicate) => {}
                    // By a device that was replaced, and too late.
                    Err(EntryFault::NotNamed { .. }) if self.restored > 0 => {}
                    Err(EntryFault::Gap { .. }) => side.waiting.push(entry),
                    Err(fault) => panic!("{fault}"),
                }
            }
            if side.waiting.len() == before {
                break;
            }
        }
        for entry in taken {
            let spans = self.line(at).after_resume(&entry);
            self.send(at, &spans);
        }
    }

    /// What an honest program would not sign, by the end `at`.
    fn operation(&self, at: usize, which: u8, much: u8) -> Operation {
        let other = id(which.wrapping_mul(7));
        let lock = lock(which, amount(much).max(Amount(1)));
        let opened = |mine| Opened {
            mine,
            certificate: self.sides[if mine { at } else { 1 - at }].certificate,
            id: lock.id,
            amount: lock.amount,
            opening: opening(which % 24),
        };
        let theirs = opened(false).lock(self.line(at).id(), ACCOUNTS[1 - at]);
        match which >> 5 {
            0 => Operation::Limit {
                amount: amount(much),
                overhang: amount(which),
            },
            1 => Operation::Settle {
                locks: vec![opened(much & 1 == 1)],
            },
            2 => {
                let mut debts = vec![DebtId::Iou(id(which)), DebtId::Iou(other)];
                debts.push(DebtId::Lock(theirs));
                debts.sort_unstable();
                debts.dedup();
                Operation::Accept { debts }
            }
            3 => Operation::Free {
                locks: vec![theirs],
            },
            4 => Operation::Decline {
                debt: DebtId::Iou(id(which)),
                reason: DeclineReason::Refused,
            },
            5 => Operation::Waive {
                locks: vec![theirs],
            },
            6 => Operation::Lock {
                id: lock.id,
                amount: lock.amount,
                condition: lock.condition,
                until: lock.until,
                instructions: Bytes(lock.instructions),
            },
            _ => Operation::Iou {
                id: id(which),
                amount: amount(much).max(Amount(1)),
                purpose: "more".into(),
            },
        }
    }

    /// Signs what its own program should have refused, at the right place of its chain.
    fn sign_wrong(&mut self, at: usize, which: u8, much: u8) {
        if let Ok(mut entry) = self
            .line(at)
            .propose_limit(self.stamp(at), Amount(0), Amount(0))
        {
            entry.operation = self.operation(at, which, much);
            self.rogue = true;
            self.sign(at, entry).unwrap();
        }
    }

    /// Signs a second entry beside, or after, one of its own.
    fn contradict(&mut self, at: usize, which: u8, much: u8) {
        let me = self.line(at).me();
        let mine = self.sides[at]
            .end
            .entries
            .iter()
            .filter(|(_, (entry, _))| entry.author == me);
        let mine: Vec<_> = mine
            .map(|(hash, (entry, _))| (*hash, entry.clone()))
            .collect();
        if mine.is_empty() || self.line(at).heads(me).len() >= MAX_BRANCHES || self.restored > 0 {
            return;
        }
        let (hash, parent) = mine[usize::from(much) % mine.len()].clone();
        let mut entry = Entry {
            time: Time(self.clock),
            ..parent
        };
        if which & 1 == 1 {
            entry.sequence += 1;
            entry.previous = hash;
        }
        entry.operation = self.operation(at, which, much);
        self.rogue = true;
        self.forked = true;
        self.sign(at, entry).unwrap();
    }

    /// Between honest ends nobody ever owes more than the highest limit that stood.
    fn check_limits(&self) {
        if self.rogue {
            return;
        }
        for at in [0, 1] {
            let view = self.line(at).view();
            assert!(
                view.balance <= i128::from(self.sides[at].top),
                "accepted above every limit"
            );
            let owed = (view.settled_out + view.held_out) as i128 - view.settled_in as i128;
            assert!(
                owed <= i128::from(self.sides[1 - at].top),
                "signed above every limit"
            );
            assert!(!view.frozen);
        }
    }

    /// Delivers everything and answers everything, until nothing moves any more.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for at in [0, 1] {
                for entry in std::mem::take(&mut self.sides[at].inbox) {
                    self.receive(at, entry);
                    moved = true;
                }
                moved |= self.resume(at) | self.answer(at);
            }
            if !moved && !self.catch_up() {
                return;
            }
        }
    }

    fn check_agreement(&self) {
        let [a, b] = &self.sides;
        for waiting in a.waiting.iter().chain(&b.waiting) {
            let newest = a.end.line.certificate(waiting.author);
            // Both ends may have forgotten what came before it, on a device that was replaced.
            assert!(
                newest.is_some_and(|newest| newest != waiting.certificate),
                "an entry never found its place"
            );
        }
        let (at_a, at_b) = (a.end.line.view(), b.end.line.view());
        assert_eq!(at_a.balance, -at_b.balance);
        assert_eq!(
            (at_a.settled_out, at_a.settled_in),
            (at_b.settled_in, at_b.settled_out)
        );
        assert_eq!(
            (at_a.limit_given, at_a.limit_received),
            (at_b.limit_received, at_b.limit_given)
        );
        assert_eq!(
            (at_a.closing_mine, at_a.closing_theirs),
            (at_b.closing_theirs, at_b.closing_mine)
        );
        assert_eq!((at_a.frozen, at_a.closed), (at_b.frozen, at_b.closed));
        assert_eq!(
            [at_a.held_out, at_a.held_in, at_b.held_out, at_b.held_in],
            [0; 4]
        );
        assert_eq!(
            [
                at_a.reserved_out,
                at_a.freed_out,
                at_a.reserved_in,
                at_a.freed_in
            ],
            [
                at_b.reserved_in,
                at_b.freed_in,
                at_b.reserved_out,
                at_b.freed_out
            ]
        );
        assert!(self.rogue || !at_a.frozen);
        for account in *ACCOUNTS {
            assert_eq!(a.end.line.heads(account), b.end.line.heads(account));
        }
        for (key, record) in &a.end.debts {
            let other = &b.end.debts[key];
            assert_eq!(
                (record.status(), record.amount()),
                (other.status(), other.amount())
            );
        }
        for side in &self.sides {
            let mut again = side.end.clone();
            for (entry, _) in side.end.entries.values() {
                assert_eq!(again.take(entry), Err(EntryFault::Duplicate));
            }
            assert_eq!(
                again.line, side.end.line,
                "a repeated entry changed the line"
            );
            self.check_evidence(side);
        }
    }

    /// A frozen line can show why, to anyone.
    fn check_evidence(&self, side: &Side) {
        let evidence = side.end.line.evidence();
        assert_eq!(evidence.is_empty(), !side.end.line.is_frozen());
        if let Some(found) = evidence.first() {
            let signer = if found.author == ACCOUNTS[0] {
                HANA
            } else {
                DURI
            };
            let sign = |hash| signer.by_device(&side.end.entries[hash].0);
            let proof = EquivocationProof::new(sign(&found.first), sign(&found.second));
            let proven = proof.check(&signer.device().public()).unwrap();
            assert_eq!(proven.sequence, found.sequence);
            assert_eq!(hash_of(&proven), proof.first.hash());
        }
    }
}
