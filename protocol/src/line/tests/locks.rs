//! Locks: reserved, freed, opened, waived, in any order.

use super::*;
use crate::codec::Bytes;
use crate::condition::Opening;

fn opening(n: u8) -> Opening {
    Opening::Preimage([n; 32])
}

/// The lock with this number, opened by the opening with the same number.
fn lock(n: u8, amount: u64) -> NewLock {
    NewLock {
        id: Hash([n; 32]),
        amount: Amount(amount),
        condition: opening(n).condition(),
        until: Time(1_000),
        instructions: vec![n],
    }
}

fn id_of(debtor: AccountId, lock: &NewLock) -> LockId {
    let chain = chain_id(
        line_id(ALICE, BOB, &unit()),
        debtor,
        stamp(debtor).certificate,
    );
    lock_id(chain, lock.id, lock.amount, &lock.condition)
}

impl End {
    fn lock(&self, lock: &NewLock) -> Result<Entry, Refusal> {
        let me = self.line.me();
        let id = DebtId::Lock(id_of(me, lock));
        self.line.propose_lock(stamp(me), lock, self.record(me, id))
    }

    /// Says that a lock of `debtor` is opened.
    fn opens(&self, debtor: AccountId, lock: &NewLock, with: Opening) -> Option<Entry> {
        let me = self.line.me();
        let record = self.record(debtor, DebtId::Lock(id_of(debtor, lock)))?;
        let opened = record.opened(debtor == me, with)?;
        Some(self.line.propose_settle(stamp(me), &[opened]).unwrap())
    }

    fn lock_status(&self, debtor: AccountId, lock: &NewLock) -> Option<DebtStatus> {
        self.status(debtor, DebtId::Lock(id_of(debtor, lock)))
    }
}

impl Pair {
    fn limits(limit: u64, overhang: u64) -> Self {
        let mut pair = Self::with_limit(limit);
        let bob = &pair.bob.line;
        let entry = bob
            .propose_limit(stamp(BOB), Amount(limit), Amount(overhang))
            .unwrap();
        pair.both(&entry);
        pair
    }

    /// Alice locks it, and Bob accepts.
    fn alice_locks(&mut self, lock: &NewLock) {
        self.both(&self.alice.lock(lock).unwrap());
        let id = DebtId::Lock(id_of(ALICE, lock));
        assert_eq!(self.bob_answers().accept, [id]);
    }

    fn bob_frees(&mut self, lock: &NewLock) -> Result<(), Refusal> {
        let bob = &self.bob.line;
        let entry = bob.propose_free(stamp(BOB), &[id_of(ALICE, lock)])?;
        self.both(&entry);
        Ok(())
    }

    fn bob_waives(&mut self, lock: &NewLock) {
        let bob = &self.bob.line;
        let entry = bob
            .propose_waive(stamp(BOB), &[id_of(ALICE, lock)])
            .unwrap();
        self.both(&entry);
    }

    fn available(&self) -> u64 {
        self.alice.line.view().available.0
    }
}

#[test]
fn a_lock_is_owed_once_it_is_accepted_and_opened() {
    let mut pair = Pair::limits(100, 0);
    let rice = lock(1, 40);
    pair.both(&pair.alice.lock(&rice).unwrap());
    let view = pair.alice.line.view();
    assert_eq!((view.held_out, view.available.0), (40, 60));
    pair.bob_answers();
    let view = pair.alice.line.view();
    assert_eq!(
        (
            view.held_out,
            view.reserved_out,
            view.balance,
            view.available.0
        ),
        (0, 40, 0, 60)
    );
    pair.both(&pair.bob.opens(ALICE, &rice, opening(1)).unwrap());
    let view = pair.bob.line.view();
    assert_eq!(
        (view.reserved_in, view.balance, view.settled_in),
        (0, 40, 40)
    );
    assert_eq!(pair.available(), 60);
    assert_eq!(
        pair.alice.lock_status(ALICE, &rice),
        Some(DebtStatus::Settled)
    );
    // Opened once: nothing is left to say.
    assert_eq!(pair.alice.opens(ALICE, &rice, opening(1)), None);
}

#[test]
fn its_debtor_may_open_it_too_and_only_the_right_opening_does() {
    let mut pair = Pair::limits(100, 0);
    let rice = lock(1, 40);
    pair.alice_locks(&rice);
    assert_eq!(pair.alice.opens(ALICE, &rice, opening(2)), None);
    pair.both(&pair.alice.opens(ALICE, &rice, opening(1)).unwrap());
    assert_eq!(pair.bob.line.balance(), 40);
}

#[test]
fn a_wrong_opening_or_another_amount_speaks_of_a_lock_that_is_not_there() {
    let mut pair = Pair::limits(100, 0);
    let rice = lock(1, 40);
    pair.alice_locks(&rice);
    let right = pair.bob.record(ALICE, DebtId::Lock(id_of(ALICE, &rice)));
    let right = right.unwrap().opened(false, opening(1)).unwrap();
    let wrong = [
        Opened {
            opening: opening(2),
            ..right
        },
        Opened {
            amount: Amount(41),
            ..right
        },
        Opened {
            id: Hash([9; 32]),
            ..right
        },
        Opened {
            certificate: Hash([9; 32]),
            ..right
        },
        Opened {
            mine: true,
            ..right
        },
    ];
    for wrong in wrong {
        let entry = pair.bob.line.propose_settle(stamp(BOB), &[wrong]).unwrap();
        pair.both(&entry);
        assert_eq!(pair.bob.line.balance(), 0, "{wrong:?}");
    }
}

#[test]
fn an_opening_may_come_before_the_lock() {
    let mut pair = Pair::limits(100, 0);
    let rice = lock(1, 40);
    let signed = pair.alice.lock(&rice).unwrap();
    pair.alice.take(&signed).unwrap();
    let opened = pair.alice.opens(ALICE, &rice, opening(1)).unwrap();
    // Bob's device was restored: what it accepted and opened comes back first.
    let bob = &pair.bob.line;
    let certificate = stamp(ALICE).certificate;
    let settle = bob.propose_settle(
        stamp(BOB),
        &[Opened {
            mine: false,
            certificate,
            id: rice.id,
            amount: rice.amount,
            opening: opening(1),
        }],
    );
    let settle = settle.unwrap();
    pair.bob.take(&settle).unwrap();
    assert_eq!(
        pair.bob.lock_status(ALICE, &rice),
        Some(DebtStatus::Awaited)
    );
    let debts = vec![DebtId::Lock(id_of(ALICE, &rice))];
    pair.bob
        .take(&after(&settle, Operation::Accept { debts }))
        .unwrap();
    assert_eq!(pair.bob.line.balance(), 0);
    pair.bob.take(&signed).unwrap();
    assert_eq!(pair.bob.line.balance(), 40);
    pair.bob.take(&opened).unwrap();
    assert_eq!(pair.bob.line.balance(), 40, "said twice, owed once");
}

#[test]
fn what_is_reserved_cannot_be_spent_and_what_is_freed_can_up_to_the_overhang() {
    let mut pair = Pair::limits(100, 60);
    let (rice, barley) = (lock(1, 60), lock(2, 50));
    pair.alice_locks(&rice);
    assert_eq!(pair.available(), 40);
    assert!(matches!(
        pair.alice.iou(9, 41),
        Err(Refusal::AboveLimit { .. })
    ));
    pair.bob_frees(&rice).unwrap();
    assert_eq!(pair.available(), 100);
    let view = pair.bob.line.view();
    assert_eq!((view.reserved_in, view.freed_in), (0, 60));
    // The overhang is used up: room for the next one is held until something ends.
    pair.alice_locks(&barley);
    assert!(matches!(
        pair.bob_frees(&barley),
        Err(Refusal::AboveOverhang { .. })
    ));
    pair.alice_owes(3, 50);
    assert_eq!(pair.available(), 0);
    // Late openings: both are owed, and no more than limit and overhang.
    pair.both(&pair.bob.opens(ALICE, &rice, opening(1)).unwrap());
    pair.both(&pair.bob.opens(ALICE, &barley, opening(2)).unwrap());
    assert_eq!(pair.bob.line.balance(), 160);
    assert_eq!(pair.available(), 0);
}

#[test]
fn time_and_freeing_end_no_claim() {
    let mut pair = Pair::limits(100, 100);
    let rice = lock(1, 60);
    pair.alice_locks(&rice);
    pair.bob_frees(&rice).unwrap();
    assert_eq!(pair.alice.lock_status(ALICE, &rice), Some(DebtStatus::Open));
    assert_eq!(
        pair.bob_frees(&rice),
        Err(Refusal::NotOpen {
            id: id_of(ALICE, &rice)
        })
    );
    pair.both(&pair.bob.opens(ALICE, &rice, opening(1)).unwrap());
    assert_eq!(pair.bob.line.balance(), 60);
}

#[test]
fn what_its_creditor_gave_up_is_void_whatever_is_said_when() {
    // Accept, waive and settle in the order in which they reach an end that has the lock.
    let mut pair = Pair::limits(100, 0);
    let rice = lock(1, 40);
    pair.both(&pair.alice.lock(&rice).unwrap());
    let before = (pair.alice.line.clone(), pair.alice.debts.clone());
    let settle = pair.alice.opens(ALICE, &rice, opening(1)).unwrap();
    pair.bob_answers();
    pair.bob_waives(&rice);
    // Alice's own opening against Bob's accept and waiver, in each order that the chains allow.
    let theirs: Vec<Entry> = {
        let mut entries: Vec<_> = pair.bob.entries.values().map(|(e, _)| e.clone()).collect();
        entries.retain(|e| e.author == BOB && e.sequence > 2);
        entries.sort_by_key(|e| e.sequence);
        entries
    };
    assert_eq!(theirs.len(), 2);
    let mut seen = Vec::new();
    for at in 0..=theirs.len() {
        let mut end = End::new(ALICE, BOB);
        end.entries = pair.alice.entries.clone();
        (end.line, end.debts) = before.clone();
        let mut order = theirs.clone();
        order.insert(at, settle.clone());
        for entry in &order {
            end.take(entry).unwrap();
        }
        assert_eq!(
            end.lock_status(ALICE, &rice),
            Some(DebtStatus::Waived),
            "{at}"
        );
        let view = end.line.view();
        assert_eq!((view.balance, view.reserved_out), (0, 0), "{at}");
        assert_eq!(view.available.0, 100, "{at}");
        seen.push((view.settled_out, view.settled_in));
    }
    assert_eq!(seen, [(40, 40); 3], "gross sums only grow, on both sides");
}

#[test]
fn a_declined_lock_is_void_and_an_accepted_one_cannot_be_declined_later() {
    let mut pair = Pair::limits(100, 0);
    let (rice, barley) = (lock(1, 40), lock(2, 30));
    pair.both(&pair.alice.lock(&rice).unwrap());
    let no_way = BTreeMap::from([(DebtId::Lock(id_of(ALICE, &rice)), DeclineReason::NoWay)]);
    let answers = pair.bob.line.answers_due(&no_way);
    assert_eq!((answers.accept.len(), answers.decline.len()), (0, 1));
    let (debt, reason) = answers.decline[0];
    let bob = &pair.bob.line;
    pair.both(&bob.propose_decline(stamp(BOB), debt, reason).unwrap());
    assert_eq!(pair.available(), 100);
    pair.alice_locks(&barley);
    let debt = DebtId::Lock(id_of(ALICE, &barley));
    let bob = &pair.bob.line;
    assert_eq!(
        bob.propose_decline(stamp(BOB), debt, DeclineReason::Refused),
        Err(Refusal::NotHeld { id: debt })
    );
    // Signed all the same, it changes nothing.
    let reason = DeclineReason::Refused;
    let mut entry = bob
        .propose_limit(stamp(BOB), Amount(100), Amount(0))
        .unwrap();
    entry.operation = Operation::Decline { debt, reason };
    pair.both(&entry);
    pair.both(&pair.bob.opens(ALICE, &barley, opening(2)).unwrap());
    assert_eq!(pair.bob.line.balance(), 30);
}

#[test]
fn twins_with_one_condition_and_amount_are_two_locks() {
    let mut pair = Pair::limits(100, 0);
    let alice = &pair.alice.line;
    let entry = alice.propose_limit(stamp(ALICE), Amount(100), Amount(0));
    pair.both(&entry.unwrap());
    let twin = lock(1, 40);
    pair.both(&pair.alice.lock(&twin).unwrap());
    pair.both(&pair.bob.lock(&twin).unwrap());
    assert_ne!(id_of(ALICE, &twin), id_of(BOB, &twin));
    pair.bob_answers();
    let debts = [DebtId::Lock(id_of(BOB, &twin))];
    let accept = pair.alice.line.propose_accept(stamp(ALICE), &debts);
    pair.both(&accept.unwrap());
    pair.both(&pair.bob.opens(ALICE, &twin, opening(1)).unwrap());
    assert_eq!(pair.bob.line.balance(), 40);
    let view = pair.alice.line.view();
    assert_eq!((view.reserved_in, view.settled_in), (40, 0));
    pair.both(&pair.alice.opens(BOB, &twin, opening(1)).unwrap());
    assert_eq!(pair.bob.line.balance(), 0);
}

#[test]
fn one_id_with_two_amounts_is_two_locks_and_both_count() {
    let mut pair = Pair::limits(100, 0);
    pair.alice_locks(&lock(1, 30));
    pair.alice_locks(&lock(1, 31));
    assert_eq!(pair.alice.line.view().reserved_out, 61);
    // The same one is not signed twice by mistake.
    assert_eq!(
        pair.alice.lock(&lock(1, 31)),
        Err(Refusal::AlreadySigned {
            status: DebtStatus::Open
        })
    );
}

#[test]
fn an_open_claim_keeps_a_line_open_even_when_it_was_freed() {
    let mut pair = Pair::limits(100, 100);
    let rice = lock(1, 10);
    pair.alice_locks(&rice);
    pair.bob_frees(&rice).unwrap();
    let close = pair.alice.line.propose_close(stamp(ALICE)).unwrap();
    pair.both(&close);
    let close = pair.bob.line.propose_close(stamp(BOB)).unwrap();
    pair.both(&close);
    assert!(!pair.alice.line.is_closed());
    pair.bob_waives(&rice);
    assert!(pair.alice.line.is_closed() && pair.bob.line.is_closed());
}

#[test]
fn locks_under_way_are_bounded_at_both_ends() {
    let mut pair = Pair::limits(1_000_000, 1_000_000);
    let numbered = |n: usize| {
        let n = u8::try_from(n).unwrap();
        lock(n, 1)
    };
    for n in 0..MAX_RESERVED {
        pair.both(&pair.alice.lock(&numbered(n)).unwrap());
    }
    let next = numbered(MAX_RESERVED);
    assert_eq!(pair.alice.lock(&next), Err(Refusal::TooManyLocks));
    assert_eq!(pair.bob_answers().accept.len(), MAX_RESERVED);
    // Signed all the same: the creditor protects itself.
    let alice = &pair.alice.line;
    let mut entry = alice
        .propose_iou(stamp(ALICE), pay(1), Amount(1), "", None)
        .unwrap();
    entry.operation = Operation::Lock {
        id: next.id,
        amount: next.amount,
        condition: next.condition,
        until: next.until,
        instructions: Bytes(Vec::new()),
    };
    pair.both(&entry);
    let debt = DebtId::Lock(id_of(ALICE, &next));
    assert_eq!(
        pair.bob.line.answers_due(&BTreeMap::new()).decline,
        [(debt, DeclineReason::TooMany)]
    );
    // IOUs go on.
    let answers = pair.bob_answers();
    assert_eq!(answers.decline, [(debt, DeclineReason::TooMany)]);
    pair.alice_owes(5, 10);
    pair.bob_frees(&numbered(0)).unwrap();
    pair.both(&pair.alice.lock(&numbered(MAX_RESERVED + 1)).unwrap());
}

#[test]
fn a_frozen_line_takes_no_locks_and_settles_all_the_same() {
    let mut pair = Pair::limits(100, 0);
    let rice = lock(1, 40);
    pair.alice_locks(&rice);
    // Alice contradicts her first entry.
    let mut entries = pair.alice.entries.values();
    let first = entries.find(|(e, _)| e.author == ALICE && e.sequence == 1);
    let mut other = first.unwrap().0.clone();
    other.operation = iou(7, 1);
    pair.both(&other);
    assert_eq!(pair.alice.lock(&lock(2, 1)), Err(Refusal::Frozen));
    pair.both(&pair.bob.opens(ALICE, &rice, opening(1)).unwrap());
    assert_eq!(pair.bob.line.balance(), 40);
}

#[test]
fn a_restored_end_neither_declines_nor_waives_before_the_other_side_answered() {
    let mut pair = Pair::limits(100, 0);
    let rice = lock(1, 40);
    pair.alice_locks(&rice);
    let new = device(BOB, 2);
    pair.bob.line.mark_restored(new.certificate, true);
    let resume = pair.bob.line.propose_resume(new).unwrap();
    pair.bob.take(&resume).unwrap();
    let id = id_of(ALICE, &rice);
    assert_eq!(
        pair.bob.line.propose_waive(new, &[id]),
        Err(Refusal::Waiting)
    );
    // What settles never waits.
    let record = pair.bob.record(ALICE, DebtId::Lock(id)).unwrap();
    let opened = record.opened(false, opening(1)).unwrap();
    let settle = pair.bob.line.propose_settle(new, &[opened]).unwrap();
    pair.bob.take(&settle).unwrap();
    assert_eq!(pair.bob.line.balance(), 40);
}

#[test]
fn malformed_entries_about_locks_are_refused() {
    let pair = Pair::limits(100, 0);
    let sound = pair.alice.lock(&lock(1, 1)).unwrap();
    let with = |operation| Entry {
        operation,
        ..sound.clone()
    };
    let id = |n: u8| LockId([n; 32]);
    let many = |n: u8| (0..n).map(id).collect::<Vec<_>>();
    let opened = |n: u8| Opened {
        mine: false,
        certificate: Hash([1; 32]),
        id: Hash([n; 32]),
        amount: Amount(1),
        opening: opening(1),
    };
    let lock_of = |amount, length| Operation::Lock {
        id: Hash([1; 32]),
        amount: Amount(amount),
        condition: opening(1).condition(),
        until: Time(0),
        instructions: Bytes(vec![0; length]),
    };
    let cases = [
        (lock_of(0, 0), Malformed::Zero),
        (
            lock_of(1, MAX_INSTRUCTIONS + 1),
            Malformed::Instructions(MAX_INSTRUCTIONS + 1),
        ),
        (Operation::Free { locks: vec![] }, Malformed::Named(0)),
        (Operation::Free { locks: many(65) }, Malformed::Named(65)),
        (
            Operation::Waive {
                locks: vec![id(2), id(1)],
            },
            Malformed::Named(2),
        ),
        (Operation::Settle { locks: vec![] }, Malformed::Settle(0)),
        (
            Operation::Settle {
                locks: (0..33).map(opened).collect(),
            },
            Malformed::Settle(33),
        ),
        (
            Operation::Settle {
                locks: vec![opened(1), opened(1)],
            },
            Malformed::Settle(2),
        ),
    ];
    for (operation, fault) in cases {
        assert_eq!(with(operation).check(), Err(fault));
    }
    assert_eq!(with(lock_of(1, MAX_INSTRUCTIONS)).check(), Ok(()));
}

#[test]
fn the_largest_entries_fit() {
    let pair = Pair::limits(100, 0);
    let mut entry = pair.alice.lock(&lock(1, 1)).unwrap();
    entry.sequence = u64::MAX;
    entry.previous = Hash([1; 32]);
    entry.time = Time(u64::MAX);
    entry.seen = Some(Seen {
        chain: Hash([1; 32]),
        sequence: u64::MAX,
        hash: Hash([1; 32]),
    });
    let locks = (0..MAX_SETTLED).map(|n| Opened {
        mine: false,
        certificate: Hash([1; 32]),
        id: Hash([n as u8; 32]),
        amount: Amount(u64::MAX),
        opening: opening(1),
    });
    let largest = [
        Operation::Lock {
            id: Hash([1; 32]),
            amount: Amount(u64::MAX),
            condition: opening(1).condition(),
            until: Time(u64::MAX),
            instructions: Bytes(vec![7; MAX_INSTRUCTIONS]),
        },
        Operation::Settle {
            locks: locks.collect(),
        },
        Operation::Waive {
            locks: (0..64).map(|n| LockId([n; 32])).collect(),
        },
    ];
    for operation in largest {
        entry.operation = operation;
        assert_eq!(decode::<Entry>(&encode(&entry)), Ok(entry.clone()));
    }
}
