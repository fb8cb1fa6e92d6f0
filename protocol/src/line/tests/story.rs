//! Each rule of a line by a short story.

use super::*;

#[test]
fn an_iou_is_held_until_accepted_and_then_owed() {
    let mut pair = Pair::with_limit(100);
    pair.both(&pair.alice.iou(1, 70).unwrap());
    let view = pair.alice.line.view();
    assert_eq!(
        (view.balance, view.held_out, view.available),
        (0, 70, Amount(30))
    );
    pair.bob_answers();
    let view = pair.alice.line.view();
    assert_eq!(
        (view.balance, view.held_out, view.available),
        (-70, 0, Amount(30))
    );
    assert_eq!(pair.bob.line.balance(), 70);
    assert_eq!(pair.bob.status(ALICE, debt(1)), Some(DebtStatus::Settled));
}

#[test]
fn a_refusal_carries_what_can_be_paid() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 70);
    let refusal = pair.alice.iou(2, 31).unwrap_err();
    let Refusal::AboveLimit {
        amount,
        available,
        limit,
        ..
    } = &refusal
    else {
        panic!("{refusal}")
    };
    assert_eq!(
        (*amount, *available, *limit),
        (Amount(31), Amount(30), Amount(100))
    );
    assert!(
        refusal.to_string().contains("30 KRW can be paid now"),
        "{refusal}"
    );
}

#[test]
fn crossing_payments_both_count_and_what_is_held_in_never_makes_room() {
    let mut pair = Pair::with_limit(100);
    pair.both(
        &pair
            .alice
            .line
            .propose_limit(stamp(ALICE), Amount(100), Amount(0))
            .unwrap(),
    );
    // Both pay before either has heard of the other.
    let from_alice = pair.alice.iou(1, 100).unwrap();
    let from_bob = pair.bob.iou(1, 60).unwrap();
    pair.alice.take(&from_alice).unwrap();
    pair.bob.take(&from_bob).unwrap();
    pair.alice.take(&from_bob).unwrap();
    pair.bob.take(&from_alice).unwrap();
    assert_eq!(
        pair.alice.line.available(),
        Amount(0),
        "held, not yet accepted"
    );
    pair.bob_answers();
    let ious = pair.alice.line.answers_due(&BTreeMap::new()).accept;
    pair.both(&pair.alice.line.propose_accept(stamp(ALICE), &ious).unwrap());
    assert_eq!(pair.alice.line.balance(), -40);
    assert_eq!(pair.alice.line.available(), Amount(60));
}

#[test]
fn lowering_a_limit_stops_new_debt_only() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 80);
    // Alice's IOU and Bob's new limit cross.
    let under_way = pair.alice.iou(2, 20).unwrap();
    pair.alice.take(&under_way).unwrap();
    let lower = pair
        .bob
        .line
        .propose_limit(stamp(BOB), Amount(50), Amount(0))
        .unwrap();
    pair.bob.take(&lower).unwrap();
    pair.bob.take(&under_way).unwrap();
    pair.alice.take(&lower).unwrap();
    assert_eq!(
        pair.bob_answers().decline,
        [(debt(2), DeclineReason::AboveLimit)]
    );
    let view = pair.alice.line.view();
    assert_eq!(
        (view.balance, view.held_out, view.available),
        (-80, 0, Amount(0))
    );
    assert!(matches!(
        pair.alice.iou(3, 1),
        Err(Refusal::AboveLimit { .. })
    ));
}

#[test]
fn an_id_counts_once_and_a_retry_is_answered_with_its_state() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 40);
    assert_eq!(
        pair.alice.iou(1, 40),
        Err(Refusal::AlreadySigned {
            status: DebtStatus::Settled
        })
    );
    assert_eq!(pair.alice.iou(1, 41), Err(Refusal::IdUsed));
    // A program that does not ask signs it again all the same.
    let id = pay(1);
    let again = pair
        .alice
        .line
        .propose_iou(stamp(ALICE), id, Amount(40), "", None)
        .unwrap();
    pair.both(&again);
    assert_eq!(
        pair.bob.line.answers_due(&BTreeMap::new()),
        Answers::default()
    );
    assert_eq!(pair.alice.line.view().settled_out, 40);
    // The same id in the other direction is another IOU.
    pair.both(
        &pair
            .alice
            .line
            .propose_limit(stamp(ALICE), Amount(10), Amount(0))
            .unwrap(),
    );
    pair.bob_owes(1, 10);
    assert_eq!(pair.alice.line.balance(), -30);
}

#[test]
fn the_first_answer_counts_and_later_ones_are_void() {
    let decline = |debt| Operation::Decline {
        debt,
        reason: DeclineReason::Refused,
    };
    let accept = |iou| Operation::Accept { debts: vec![iou] };
    for (first, second, owed) in [
        (accept(debt(1)), decline(debt(1)), 40),
        (decline(debt(1)), accept(debt(1)), 0),
        (accept(debt(1)), accept(debt(1)), 40),
    ] {
        let mut pair = Pair::with_limit(100);
        pair.both(&pair.alice.iou(1, 40).unwrap());
        let mut entry = pair
            .bob
            .line
            .propose_decline(stamp(BOB), debt(1), DeclineReason::Refused)
            .unwrap();
        entry.operation = first;
        pair.both(&entry);
        pair.both(&after(&entry, second));
        assert_eq!(pair.bob.line.balance(), owed);
        assert_eq!(pair.bob.line.view().settled_in, owed.unsigned_abs());
    }
}

#[test]
fn answers_that_arrive_before_their_iou_count_when_it_comes() {
    let mut pair = Pair::with_limit(100);
    let (one, two) = (pair.alice.iou(1, 30).unwrap(), iou(2, 20));
    pair.both(&one);
    pair.both(&after(&one, two));
    pair.both(
        &pair
            .bob
            .line
            .propose_accept(stamp(BOB), &[debt(1)])
            .unwrap(),
    );
    pair.both(
        &pair
            .bob
            .line
            .propose_decline(stamp(BOB), debt(2), DeclineReason::Refused)
            .unwrap(),
    );
    // Alice lost everything and gets Bob's chain first.
    let mut alice = End::new(ALICE, BOB);
    let mut chain: Vec<_> = pair
        .bob
        .entries
        .values()
        .map(|(entry, _)| entry.clone())
        .collect();
    chain.sort_by_key(|entry| (entry.author == ALICE, entry.sequence));
    for entry in &chain {
        let received = alice.seeing(entry).unwrap();
        if entry.author == BOB {
            // Bob's entries show that Alice's chain goes further than she remembers.
            assert_eq!(received.missing, entry.seen);
        }
        if matches!(entry.operation, Operation::Accept { .. }) {
            assert_eq!(alice.status(ALICE, debt(1)), Some(DebtStatus::Awaited));
            assert_eq!(alice.iou(1, 30), Err(Refusal::IdUsed));
        }
    }
    assert_eq!(alice.line, pair.alice.line);
    assert_eq!(alice.debts, pair.alice.debts);
}

#[test]
fn entries_out_of_order_wait_and_replayed_ones_change_nothing() {
    let mut pair = Pair::with_limit(100);
    let one = pair.alice.iou(1, 10).unwrap();
    let two = after(&one, iou(2, 10));
    let three = after(&two, iou(3, 10));
    assert_eq!(
        pair.bob.take(&two).unwrap_err(),
        EntryFault::Gap {
            sequence: 2,
            missing: 1
        }
    );
    pair.bob.take(&one).unwrap();
    assert_eq!(
        pair.bob.take(&three).unwrap_err(),
        EntryFault::Gap {
            sequence: 3,
            missing: 2
        }
    );
    pair.bob.take(&two).unwrap();
    pair.bob.take(&three).unwrap();
    let before = pair.bob.line.clone();
    for entry in [&one, &two, &three] {
        assert_eq!(pair.bob.take(entry).unwrap_err(), EntryFault::Duplicate);
        // A caller that looked nothing up does no harm either.
        let fault = pair
            .bob
            .line
            .receive(entry, hash_of(entry), &Known::default());
        assert!(
            matches!(fault, Err(EntryFault::Duplicate | EntryFault::Gap { .. })),
            "{fault:?}"
        );
    }
    assert_eq!(pair.bob.line, before);
}

#[test]
fn malformed_and_foreign_entries_are_refused() {
    let mut pair = Pair::with_limit(100);
    let good = pair.alice.iou(1, 10).unwrap();
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut entry = good.clone();
        change(&mut entry);
        entry
    };
    let table: Vec<(Entry, EntryFault)> = vec![
        (with(&|e| e.operation = iou(1, 0)), Malformed::Zero.into()),
        (with(&|e| e.sequence = 0), Malformed::Previous(0).into()),
        (
            with(&|e| e.previous = Hash([9; 32])),
            Malformed::Previous(1).into(),
        ),
        (with(&|e| e.sequence = 2), Malformed::Previous(2).into()),
        (
            with(&|e| e.seen.as_mut().unwrap().sequence = 0),
            Malformed::Seen.into(),
        ),
        (
            with(&|e| {
                let purpose = "x".repeat(MAX_PURPOSE + 1);
                e.operation = Operation::Iou {
                    id: pay(1),
                    amount: Amount(1),
                    purpose,
                };
            }),
            Malformed::Purpose(MAX_PURPOSE + 1).into(),
        ),
        (
            with(&|e| e.operation = Operation::Accept { debts: vec![] }),
            Malformed::Named(0).into(),
        ),
        (
            with(&|e| {
                e.operation = Operation::Accept {
                    debts: vec![debt(2), debt(2)],
                }
            }),
            Malformed::Named(2).into(),
        ),
        (
            with(&|e| {
                e.operation = Operation::Accept {
                    debts: (0..65).map(debt).collect(),
                }
            }),
            Malformed::Named(65).into(),
        ),
        (
            with(&|e| e.operation = resume(&[(e.certificate, 1)])),
            Malformed::Resume(1).into(),
        ),
        (
            with(&|e| e.operation = resume(&[(Hash([9; 32]), 0)])),
            Malformed::Resume(1).into(),
        ),
        (
            with(&|e| e.operation = resume(&[(Hash([9; 32]), 2), (Hash([9; 32]), 1)])),
            Malformed::Resume(2).into(),
        ),
        (
            with(&|e| {
                let many: Vec<_> = (0..65).map(|n| (Hash([n; 32]), 1)).collect();
                e.operation = resume(&many);
            }),
            Malformed::Resume(65).into(),
        ),
        (
            with(&|e| e.unit = "USD".parse().unwrap()),
            EntryFault::WrongLine,
        ),
        (with(&|e| e.line = LineId([9; 32])), EntryFault::WrongLine),
        (
            with(&|e| e.author = AccountId([3; 32])),
            EntryFault::WrongLine,
        ),
        (with(&|e| e.counterparty = ALICE), EntryFault::WrongLine),
    ];
    let before = pair.bob.line.clone();
    for (entry, fault) in table {
        assert_eq!(pair.bob.take(&entry).unwrap_err(), fault, "{entry:?}");
    }
    assert_eq!(pair.bob.line, before);
    assert_eq!(Line::new(ALICE, ALICE, unit()), Err(Refusal::SameAccount));
}

#[test]
fn a_line_closes_when_both_offer_it_at_zero_and_reopens() {
    let mut pair = Pair::with_limit(100);
    pair.both(
        &pair
            .alice
            .line
            .propose_limit(stamp(ALICE), Amount(100), Amount(0))
            .unwrap(),
    );
    pair.alice_owes(1, 40);
    pair.both(&pair.bob.line.propose_close(stamp(BOB)).unwrap());
    assert_eq!(
        pair.bob.line.propose_close(stamp(BOB)),
        Err(Refusal::CloseStands)
    );
    // Bob wants out: he takes no more credit on, but may pay back what was given for it outside.
    assert_eq!(
        pair.alice.iou(2, 1),
        Err(Refusal::Closing {
            available: Amount(0),
            unit: unit()
        })
    );
    pair.both(&pair.alice.line.propose_close(stamp(ALICE)).unwrap());
    assert!(!pair.alice.line.is_closed(), "Alice still owes 40");
    // Alice paid in cash. Bob's IOU withdraws his offer, and makes Alice's one outdated.
    pair.bob_owes(3, 40);
    assert_eq!(pair.alice.line.balance(), 0);
    pair.both(&pair.bob.line.propose_close(stamp(BOB)).unwrap());
    assert!(
        !pair.alice.line.is_closed(),
        "Alice's offer does not name Bob's last IOU"
    );
    pair.both(&pair.alice.line.propose_close(stamp(ALICE)).unwrap());
    assert!(pair.alice.line.is_closed() && pair.bob.line.is_closed());
    assert!(matches!(pair.alice.iou(4, 1), Err(Refusal::Closing { .. })));
    assert!(matches!(pair.bob.iou(4, 1), Err(Refusal::Closing { .. })));
    // A new limit of Bob's opens it again for Alice.
    pair.both(
        &pair
            .bob
            .line
            .propose_limit(stamp(BOB), Amount(5), Amount(0))
            .unwrap(),
    );
    assert!(!pair.alice.line.is_closed());
    pair.alice_owes(5, 5);
}

#[test]
fn an_iou_that_crosses_a_closing_offer_is_declined_unless_it_repays() {
    let mut pair = Pair::with_limit(100);
    pair.both(
        &pair
            .alice
            .line
            .propose_limit(stamp(ALICE), Amount(100), Amount(0))
            .unwrap(),
    );
    pair.bob_owes(1, 30);
    let close = pair.bob.line.propose_close(stamp(BOB)).unwrap();
    let repays = pair.alice.iou(2, 30).unwrap();
    pair.alice.take(&repays).unwrap();
    let more = pair.alice.iou(3, 1).unwrap();
    pair.alice.take(&more).unwrap();
    for entry in [&close, &repays, &more] {
        pair.bob.take(entry).unwrap();
    }
    pair.alice.take(&close).unwrap();
    let answers = pair.bob_answers();
    assert_eq!(answers.accept, [debt(2)]);
    assert_eq!(answers.decline, [(debt(3), DeclineReason::Closing)]);
}

#[test]
fn unanswered_ious_are_bounded_and_nothing_is_lost_by_it() {
    let mut pair = Pair::with_limit(u64::MAX);
    let id = |n: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        PaymentId(id)
    };
    let held = MAX_HELD as u64;
    for n in 0..held {
        let entry = pair
            .alice
            .line
            .propose_iou(stamp(ALICE), id(n), Amount(1), "", None)
            .unwrap();
        pair.alice.take(&entry).unwrap();
        pair.bob.take(&entry).unwrap();
    }
    let proposed = pair
        .alice
        .line
        .propose_iou(stamp(ALICE), id(held), Amount(1), "", None);
    assert_eq!(proposed, Err(Refusal::TooManyHeld));
    let Head { sequence, hash } = pair.alice.line.heads(ALICE)[0];
    let next = Entry {
        sequence: sequence + 1,
        previous: hash,
        operation: Operation::Iou {
            id: id(held),
            amount: Amount(1),
            purpose: String::new(),
        },
        ..pair.bob.entries[&hash].0.clone()
    };
    assert_eq!(
        pair.bob.take(&next).unwrap_err(),
        EntryFault::Full { held: MAX_HELD }
    );
    assert!(encode(&pair.bob.line).len() <= <Line as Wire>::MAX);
    assert_eq!(
        decode::<Line>(&encode(&pair.bob.line)).unwrap(),
        pair.bob.line
    );
    pair.bob_answers();
    pair.both(&next);
    assert_eq!(pair.bob_answers().accept, [DebtId::Iou(id(held))]);
}

#[test]
fn the_largest_entry_fits_its_bound_and_the_wire_format_stays_as_it_is() {
    let largest = Entry {
        line: LineId([255; 32]),
        unit: format!("{}@{}", "x".repeat(33), ALICE).parse().unwrap(),
        author: ALICE,
        counterparty: BOB,
        certificate: Hash([255; 32]),
        sequence: u64::MAX,
        previous: Hash([255; 32]),
        seen: Some(Seen {
            chain: Hash([255; 32]),
            sequence: u64::MAX,
            hash: Hash([255; 32]),
        }),
        time: Time(u64::MAX),
        operation: Operation::Resume {
            chains: (0..64)
                .map(|n| Adopted {
                    certificate: Hash([n; 32]),
                    sequence: u64::MAX,
                    hash: Hash([255; 32]),
                })
                .collect(),
        },
    };
    assert!(largest.unit.as_str().len() > 90);
    assert_eq!(decode::<Entry>(&encode(&largest)).unwrap(), largest);
    let tag = |operation: Operation| {
        let entry = Entry {
            operation: operation.clone(),
            ..largest.clone()
        };
        encode(&entry)[encode(&entry).len() - postcard::to_allocvec(&operation).unwrap().len()]
    };
    assert_eq!(
        tag(Operation::Limit {
            amount: Amount(1),
            overhang: Amount(0),
        }),
        0
    );
    assert_eq!(tag(iou(1, 1)), 1);
    assert_eq!(
        tag(Operation::Accept {
            debts: vec![debt(1)]
        }),
        2
    );
    assert_eq!(
        tag(Operation::Decline {
            debt: debt(1),
            reason: DeclineReason::Refused
        }),
        3
    );
    assert_eq!(tag(Operation::Close { last: None }), 4);
    assert_eq!(tag(Operation::Resume { chains: vec![] }), 5);
}
