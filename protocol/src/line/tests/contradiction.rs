//! Two entries at one place of a chain: what counts, what stops, what it proves.

use super::*;

/// Alice signs two IOUs for one place; `first` is the one Bob gets first.
fn double_spend(limit: u64) -> (Pair, Entry, Entry) {
    let mut pair = Pair::with_limit(limit);
    pair.alice_owes(1, 10);
    let one = pair.alice.iou(2, 30).unwrap();
    let mut two = one.clone();
    two.operation = iou(3, 50);
    pair.both(&one);
    (pair, one, two)
}

#[test]
fn two_entries_at_one_place_both_count_and_stop_new_debt() {
    let (mut pair, one, two) = double_spend(100);
    pair.bob_answers();
    let received = pair.bob.seeing(&two).unwrap();
    let evidence = Equivocation {
        author: ALICE,
        sequence: 2,
        first: hash_of(&one),
        second: hash_of(&two),
    };
    assert_eq!(received.equivocation, Some(evidence));
    assert_eq!(pair.bob.line.evidence(), [evidence]);
    pair.alice.take(&two).unwrap();
    // Both count: Bob can accept the second one, too, and does so by himself within his limit.
    assert_eq!(pair.bob_answers().accept, [debt(3)]);
    assert_eq!(pair.bob.line.balance(), 90);
    assert_eq!(pair.alice.line.balance(), -90);
    // No new debt, from either end, by an honest program.
    assert_eq!(pair.alice.iou(4, 1), Err(Refusal::Frozen));
    assert_eq!(pair.bob.iou(4, 1), Err(Refusal::Frozen));
    assert_eq!(
        pair.bob.line.propose_close(stamp(BOB)),
        Err(Refusal::Frozen)
    );
    // And by a program that goes on all the same: declined, on either branch.
    pair.both(&after(&one, iou(5, 1)));
    pair.both(&after(&two, iou(6, 1)));
    let frozen = DeclineReason::Frozen;
    assert_eq!(
        pair.bob_answers().decline,
        [(debt(5), frozen), (debt(6), frozen)]
    );
}

#[test]
fn the_same_id_with_two_amounts_counts_once_with_the_larger() {
    for swap in [false, true] {
        let (mut pair, one, mut two) = double_spend(100);
        two.operation = iou(2, 50);
        pair.bob_answers();
        let mut fresh = End::new(BOB, ALICE);
        let chain: Vec<_> = pair
            .bob
            .entries
            .values()
            .map(|(entry, _)| entry.clone())
            .collect();
        pair.both(&two);
        // The same entries, with the contradicting ones in the other order.
        let mut order: Vec<_> = chain;
        order.push(two.clone());
        order.sort_by_key(|e| (e.sequence, (*e == one) ^ swap, e.author));
        while !order.is_empty() {
            order.retain(|entry| fresh.take(entry).is_err());
        }
        for end in [&pair.bob, &fresh] {
            assert_eq!(end.line.balance(), 60);
            assert_eq!(end.line.view().settled_in, 60);
        }
    }
}

#[test]
fn of_two_limits_at_one_place_the_lower_counts() {
    for amounts in [[80, 20], [20, 80]] {
        let mut pair = Pair::with_limit(100);
        let [one, two] = amounts.map(|n| {
            pair.bob
                .line
                .propose_limit(stamp(BOB), Amount(n), Amount(0))
                .unwrap()
        });
        pair.both(&one);
        pair.both(&two);
        assert_eq!(pair.alice.line.view().limit_received, Amount(20));
        assert!(pair.alice.line.is_frozen());
    }
}

#[test]
fn a_decline_beats_an_acceptance_on_another_branch_in_any_order() {
    let mut views = Vec::new();
    for swap in [false, true] {
        let mut pair = Pair::with_limit(100);
        pair.both(&pair.alice.iou(1, 40).unwrap());
        let mut answers = [
            pair.bob
                .line
                .propose_accept(stamp(BOB), &[debt(1)])
                .unwrap(),
            pair.bob
                .line
                .propose_decline(stamp(BOB), debt(1), DeclineReason::Refused)
                .unwrap(),
        ];
        if swap {
            answers.swap(0, 1);
        }
        for entry in &answers {
            pair.both(entry);
        }
        assert_eq!(
            pair.alice.status(ALICE, debt(1)),
            Some(DebtStatus::Declined)
        );
        // A decline that follows the acceptance on its own branch stays void.
        let view = pair.alice.line.view();
        assert_eq!(
            (view.balance, view.settled_out, view.settled_in),
            (0, 40, 40)
        );
        views.push((view, pair.alice.line.heads(BOB)));
    }
    assert_eq!(views[0], views[1]);
}

#[test]
fn a_second_first_entry_and_a_fork_far_back_are_noticed() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 10);
    pair.alice_owes(2, 10);
    pair.alice_owes(3, 10);
    let chain: BTreeMap<_, _> = pair
        .bob
        .entries
        .values()
        .map(|(e, _)| e.clone())
        .filter(|e| e.author == ALICE)
        .map(|e| (e.sequence, e))
        .collect();
    // After an entry that Bob does not have, it waits.
    let unknown = after(&chain[&1], iou(8, 1));
    let later = after(&unknown, iou(9, 1));
    assert_eq!(
        pair.bob.take(&later).unwrap_err(),
        EntryFault::Gap {
            sequence: 3,
            missing: 2
        }
    );
    assert!(!pair.bob.line.is_frozen());
    assert!(pair.bob.seeing(&unknown).unwrap().equivocation.is_some());
    assert_eq!(
        pair.bob.seeing(&later).unwrap().equivocation,
        None,
        "it continues that branch"
    );
    let mut first = chain[&1].clone();
    first.time = Time(99);
    assert_eq!(
        pair.bob
            .seeing(&first)
            .unwrap()
            .equivocation
            .unwrap()
            .sequence,
        1
    );
    assert_eq!(pair.bob.line.heads(ALICE).len(), 3);
    // Its branches are bounded.
    for n in 3..MAX_BRANCHES as u64 {
        first.time = Time(100 + n);
        pair.bob.take(&first).unwrap();
    }
    first.time = Time(200);
    assert_eq!(
        pair.bob.take(&first).unwrap_err(),
        EntryFault::TooManyBranches
    );
    assert_eq!(pair.bob.line.heads(ALICE).len(), MAX_BRANCHES);
}

#[test]
fn a_proof_of_equivocation_stands_on_its_own() {
    let (_, one, two) = double_spend(100);
    let sign = |entry: &Entry| Signed::sign(entry, &key(ALICE));
    let proof = EquivocationProof::new(sign(&two), sign(&one));
    assert_eq!(proof, EquivocationProof::new(sign(&one), sign(&two)));
    assert_eq!(proof.check(&key(ALICE).public()).unwrap().sequence, 2);
    assert_eq!(decode::<EquivocationProof>(&encode(&proof)).unwrap(), proof);
    let wrong = [
        (proof.clone(), key(BOB)),
        (EquivocationProof::new(sign(&one), sign(&one)), key(ALICE)),
        (
            EquivocationProof::new(sign(&one), sign(&after(&one, iou(9, 1)))),
            key(ALICE),
        ),
        (
            EquivocationProof {
                first: proof.second.clone(),
                second: proof.first,
            },
            key(ALICE),
        ),
    ];
    for (proof, key) in wrong {
        assert!(proof.check(&key.public()).is_err());
    }
}
