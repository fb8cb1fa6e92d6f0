//! Accounts that come back on a new machine and go on with their lines.

use super::*;

impl End {
    /// The entries of one account, in the order of its devices and sequences.
    fn by(&self, author: AccountId) -> Vec<Entry> {
        let mut chain: Vec<_> = self.entries.values().map(|(entry, _)| entry).collect();
        chain.retain(|entry| entry.author == author);
        chain.sort_by_key(|entry| (epoch_of(entry.certificate), entry.sequence));
        chain.into_iter().cloned().collect()
    }

    /// What an archive that ends early gives back: so many of one's own entries, so many of the other
    /// side's.
    fn restored(&self, device: Stamp, mine: usize, theirs: usize, incomplete: bool) -> Self {
        let (me, other) = (self.line.me(), self.line.other());
        let mut end = Self::new(me, other);
        let (mine_all, theirs_all) = (self.by(me), self.by(other));
        for entry in mine_all.iter().take(mine) {
            end.take(entry).unwrap();
        }
        for entry in theirs_all.iter().take(theirs) {
            end.take(entry).unwrap();
        }
        end.line.mark_restored(device.certificate, incomplete);
        end
    }

    /// Signs the `Resume` that is due.
    fn resumes(&mut self, device: Stamp) -> Entry {
        assert!(self.line.resume_due(device));
        let entry = self.line.propose_resume(device).unwrap();
        self.take(&entry).unwrap();
        assert!(!self.line.resume_due(device));
        assert_eq!(
            self.line.propose_resume(device),
            Err(Refusal::NothingToResume)
        );
        entry
    }

    /// The entries of some spans.
    fn load(&self, spans: &[Span]) -> Vec<Entry> {
        let all = spans.iter().flat_map(|span| {
            let mut chain = self.by(span.author);
            chain.retain(|entry| {
                entry.chain() == span.chain
                    && entry.certificate == span.certificate
                    && (span.from..=span.to).contains(&entry.sequence)
            });
            chain
        });
        all.collect()
    }

    /// Takes the other side's `Resume`, and says what that side lacks.
    fn answers(&mut self, resume: &Entry) -> Vec<Entry> {
        self.take(resume).unwrap();
        self.load(&self.line.after_resume(resume))
    }

    /// Takes what may be known already.
    fn learns(&mut self, entries: &[Entry]) {
        for entry in entries {
            assert!(matches!(
                self.take(entry),
                Ok(()) | Err(EntryFault::Duplicate)
            ));
        }
    }

    fn pays(&mut self, device: Stamp, id: u8, amount: u64) -> Result<Entry, Refusal> {
        let known = self.record(self.line.me(), debt(id));
        let entry = self
            .line
            .propose_iou(device, pay(id), Amount(amount), "", known)?;
        self.take(&entry).unwrap();
        Ok(entry)
    }

    /// Signs all answers that are due.
    fn replies(&mut self, device: Stamp) -> Vec<Entry> {
        let mut entries = Vec::new();
        let due = self.line.answers_due(&BTreeMap::new());
        if !due.accept.is_empty() {
            let accept = self.line.propose_accept(device, &due.accept).unwrap();
            self.take(&accept).unwrap();
            entries.push(accept);
        }
        for (iou, reason) in due.decline {
            let decline = self.line.propose_decline(device, iou, reason).unwrap();
            self.take(&decline).unwrap();
            entries.push(decline);
        }
        entries
    }
}

/// Both ends have the same entries and say the same.
fn level(alice: &End, bob: &End) {
    let hashes = |end: &End| end.entries.keys().copied().collect::<Vec<_>>();
    assert_eq!(hashes(alice), hashes(bob));
    assert_eq!(alice.line.mine, bob.line.theirs);
    assert_eq!(alice.line.theirs, bob.line.mine);
    assert_eq!(alice.debts, bob.debts);
    assert!(alice.line.wants().is_empty() && bob.line.wants().is_empty());
}

fn spans(line: &Line, of: &[(AccountId, Stamp, u64, u64)]) -> Vec<Span> {
    let span = |(author, stamp, from, to): &(AccountId, Stamp, u64, u64)| Span {
        author: *author,
        certificate: stamp.certificate,
        chain: chain_id(line.id(), *author, stamp.certificate),
        from: *from,
        to: *to,
    };
    of.iter().map(span).collect()
}

#[test]
fn a_restored_payer_gets_back_what_its_payee_had_and_goes_on() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 30);
    pair.alice_owes(2, 20);
    let (new, mut bob) = (device(ALICE, 2), pair.bob);
    let mut alice = pair.alice.restored(new, 1, 1, false);
    assert_eq!(alice.pays(new, 3, 1), Err(Refusal::Resume));
    assert!(alice.line.view().waiting);
    let sentence = Refusal::Resume.to_string();
    assert!(sentence.starts_with("this line is being brought level with the other side"));
    let first = alice.resumes(new);
    assert_eq!(first.sequence, 1);
    let back = bob.answers(&first);
    // The second IOU of the burned device, and Bob's acceptances.
    let wanted = [(BOB, stamp(BOB), 2, 3), (ALICE, stamp(ALICE), 2, 2)];
    assert_eq!(bob.line.after_resume(&first), spans(&bob.line, &wanted));
    alice.learns(&back);
    assert_eq!(alice.line.balance(), -50);
    let again = alice.resumes(new);
    assert_eq!(bob.answers(&again), []);
    level(&alice, &bob);
    let more = alice.pays(new, 3, 50).unwrap();
    bob.take(&more).unwrap();
    alice.learns(&bob.replies(stamp(BOB)));
    assert_eq!((alice.line.balance(), bob.line.balance()), (-100, 100));
    level(&alice, &bob);
}

#[test]
fn a_restored_payee_declines_nothing_before_it_heard_what_it_accepted() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 30);
    let (new, mut alice) = (device(BOB, 2), pair.alice);
    // Bob remembers the limit and the IOU, and not that he accepted it.
    let mut bob = pair.bob.restored(new, 1, 1, false);
    assert_eq!(
        bob.line.propose_accept(new, &[debt(1)]),
        Err(Refusal::Resume)
    );
    let first = bob.resumes(new);
    let decline = |bob: &End| {
        let refused = DeclineReason::Refused;
        bob.line.propose_decline(new, debt(1), refused)
    };
    assert_eq!(decline(&bob), Err(Refusal::Waiting));
    let back = alice.answers(&first);
    // It holds more than is known here: that is on its way.
    bob.line.answered(&alice.line.holds(BOB));
    assert_eq!(decline(&bob), Err(Refusal::Waiting));
    bob.learns(&back);
    assert_eq!(bob.line.balance(), 30);
    alice.answers(&bob.resumes(new));
    bob.line.answered(&alice.line.holds(BOB));
    assert_eq!(decline(&bob), Err(Refusal::NotHeld { id: debt(1) }));
    level(&alice, &bob);
    assert_eq!(alice.status(ALICE, debt(1)), Some(DebtStatus::Settled));
}

#[test]
fn a_decline_is_final_whatever_an_earlier_device_turns_out_to_have_accepted() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 30);
    let new = device(BOB, 2);
    let (mut alice, mut bob) = (pair.alice, pair.bob.restored(new, 1, 1, false));
    // Bob hides that he accepted, declines, and comes back with the acceptance when Alice has paid again.
    let entries: Vec<_> = alice
        .entries
        .values()
        .map(|(entry, _)| entry.clone())
        .collect();
    let mut fresh = End::new(ALICE, BOB);
    for entry in entries
        .iter()
        .filter(|e| e.author == ALICE || e.sequence == 1)
    {
        fresh.take(entry).unwrap();
    }
    std::mem::swap(&mut alice, &mut fresh);
    let first = bob.resumes(new);
    alice.take(&first).unwrap();
    let debt = debt(1);
    let reason = DeclineReason::Refused;
    let decline = after(&first, Operation::Decline { debt, reason });
    bob.take(&decline).unwrap();
    alice.take(&decline).unwrap();
    assert_eq!(alice.status(ALICE, debt), Some(DebtStatus::Declined));
    let accepted = entries.iter().find(|e| e.author == BOB && e.sequence == 2);
    let accepted = accepted.unwrap();
    bob.take(accepted).unwrap();
    let more = bob.resumes(new);
    alice.take(&more).unwrap();
    alice.take(accepted).unwrap();
    assert_eq!(alice.status(ALICE, debt), Some(DebtStatus::Declined));
    assert_eq!((alice.line.balance(), bob.line.balance()), (0, 0));
}

#[test]
fn a_forgotten_decline_stands_and_what_was_accepted_later_is_given_back() {
    let mut pair = Pair::with_limit(100);
    pair.both(&pair.alice.iou(1, 30).unwrap());
    let refused = DeclineReason::Refused;
    pair.both(
        &pair
            .bob
            .line
            .propose_decline(stamp(BOB), debt(1), refused)
            .unwrap(),
    );
    let (new, mut alice) = (device(BOB, 2), pair.alice);
    let mut bob = pair.bob.restored(new, 1, 1, false);
    let first = bob.resumes(new);
    let accept = bob.line.propose_accept(new, &[debt(1)]).unwrap();
    bob.take(&accept).unwrap();
    assert_eq!(bob.line.balance(), 30);
    let back = alice.answers(&first);
    alice.take(&accept).unwrap();
    bob.learns(&back);
    alice.answers(&bob.resumes(new));
    level(&alice, &bob);
    // Sums only grew, at both ends.
    let view = bob.line.view();
    assert_eq!(
        (view.balance, view.settled_in, view.settled_out),
        (0, 30, 30)
    );
}

#[test]
fn two_ends_that_both_burned_join_what_is_left() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 30);
    pair.alice_owes(2, 20);
    let (alices, bobs) = (device(ALICE, 2), device(BOB, 3));
    // Alice has her IOUs and the limit; Bob has the first IOU and all that he signed himself.
    let mut alice = pair.alice.restored(alices, 2, 1, false);
    let mut bob = pair.bob.restored(bobs, 3, 1, false);
    let (from_alice, from_bob) = (alice.resumes(alices), bob.resumes(bobs));
    let (to_alice, to_bob) = (bob.answers(&from_alice), alice.answers(&from_bob));
    // Alice's Resume names what Bob forgot; his own has shown her that he lacks it.
    let wanted = bob.line.wants();
    assert_eq!(wanted, spans(&bob.line, &[(ALICE, stamp(ALICE), 2, 2)]));
    assert!(to_bob.starts_with(&alice.load(&wanted)));
    alice.learns(&to_alice);
    bob.learns(&to_bob);
    if alice.line.resume_due(alices) {
        bob.answers(&alice.resumes(alices));
    }
    level(&alice, &bob);
    assert_eq!((alice.line.balance(), bob.line.balance()), (-50, 50));
}

#[test]
fn a_payment_that_crosses_the_resume_stands_if_it_came_first_and_is_refused_if_not() {
    for first in [true, false] {
        let mut pair = Pair::with_limit(100);
        pair.alice_owes(1, 30);
        let new = device(ALICE, 2);
        // The old device signs one more that nobody but the network has.
        let under_way = pair.alice.iou(2, 20).unwrap();
        let mut bob = pair.bob;
        let mut alice = pair.alice.restored(new, 1, 2, false);
        let resume = alice.resumes(new);
        if first {
            bob.take(&under_way).unwrap();
            let back = bob.answers(&resume);
            assert_eq!(back, std::slice::from_ref(&under_way));
            alice.learns(&back);
            assert_eq!(alice.line.view().held_out, 20);
            bob.answers(&alice.resumes(new));
        } else {
            assert_eq!(bob.answers(&resume), []);
            let fault = bob.take(&under_way).unwrap_err();
            assert_eq!(
                fault,
                EntryFault::NotNamed {
                    sequence: 2,
                    named: 1
                }
            );
            assert!(fault.to_string().contains("up to 1"));
            // What was applied before is known again as such.
            let known = bob.by(ALICE).remove(0);
            assert_eq!(bob.take(&known), Err(EntryFault::Duplicate));
        }
        level(&alice, &bob);
    }
}

#[test]
fn old_entries_up_to_the_named_one_count_whenever_they_come() {
    let mut pair = Pair::with_limit(100);
    let one = pair.alice.iou(1, 10).unwrap();
    pair.alice.take(&one).unwrap();
    let two = pair.alice.iou(2, 20).unwrap();
    pair.alice.take(&two).unwrap();
    let three = after(&two, iou(3, 30));
    // The archive has two entries; Bob has none of them, and gets the new device's word first.
    let new = device(ALICE, 2);
    let mut alice = pair.alice.restored(new, 2, 1, false);
    let mut bob = pair.bob;
    let resume = alice.resumes(new);
    assert_eq!(bob.answers(&resume), []);
    assert_eq!(
        bob.line.wants(),
        spans(&bob.line, &[(ALICE, stamp(ALICE), 1, 2)])
    );
    assert!(matches!(
        bob.take(&two),
        Err(EntryFault::Gap { missing: 1, .. })
    ));
    bob.take(&one).unwrap();
    assert!(matches!(bob.take(&three), Err(EntryFault::NotNamed { .. })));
    bob.take(&two).unwrap();
    // The named entry is here: nothing else takes a place before it.
    let other = after(&one, iou(4, 40));
    assert!(matches!(bob.take(&other), Err(EntryFault::NotNamed { .. })));
    level(&alice, &bob);
}

#[test]
fn an_iou_signed_again_with_its_id_by_the_new_device_counts_once() {
    let mut pair = Pair::with_limit(100);
    pair.both(&pair.alice.iou(1, 30).unwrap());
    let (new, mut bob) = (device(ALICE, 2), pair.bob);
    let mut alice = pair.alice.restored(new, 0, 1, false);
    let resume = alice.resumes(new);
    let again = alice.pays(new, 1, 30).unwrap();
    alice.learns(&bob.answers(&resume));
    bob.take(&again).unwrap();
    assert_eq!(bob.line.view().held_in, 30);
    bob.answers(&alice.resumes(new));
    alice.learns(&bob.replies(stamp(BOB)));
    level(&alice, &bob);
    assert_eq!(bob.line.balance(), 30);
    assert_eq!(
        alice.pays(new, 1, 30),
        Err(Refusal::AlreadySigned {
            status: DebtStatus::Settled
        })
    );
}

#[test]
fn a_stale_clone_of_the_old_device_reaches_nobody_who_heard_of_the_new_one() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 10);
    let new = device(ALICE, 2);
    let (mut clone, mut bob) = (pair.alice, pair.bob);
    let mut alice = clone.restored(new, 1, 2, false);
    let resume = alice.resumes(new);
    bob.answers(&resume);
    for n in 2..5 {
        let entry = clone.pays(stamp(ALICE), n, 10).unwrap();
        assert!(matches!(
            bob.take(&entry),
            Err(EntryFault::NotNamed { named: 1, .. })
        ));
    }
    assert_eq!(bob.line.view().held_in, 0);
    // A new first entry, or a Resume of the old device's, does not help it.
    let mut late = resume.clone();
    late.certificate = stamp(ALICE).certificate;
    assert!(bob.take(&late).is_err());
    // And the clone stops when it hears of the new device.
    clone.take(&resume).unwrap();
    assert_eq!(clone.pays(stamp(ALICE), 9, 1), Err(Refusal::Replaced));
    assert_eq!(
        clone.line.propose_limit(stamp(ALICE), Amount(1), Amount(0)),
        Err(Refusal::Replaced)
    );
    assert!(!clone.line.resume_due(stamp(ALICE)));
}

#[test]
fn of_two_restores_the_higher_one_wins_and_the_lower_counts_as_far_as_it_came_first() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 10);
    let (low, high) = (device(ALICE, 2), device(ALICE, 3));
    for low_first in [true, false] {
        let mut bob = End::new(BOB, ALICE);
        bob.learns(&pair.bob.by(BOB)[..2]);
        bob.learns(&pair.bob.by(ALICE));
        let mut other = pair.alice.restored(low, 1, 2, false);
        let mut alice = pair.alice.restored(high, 1, 2, false);
        let theirs = [other.resumes(low), other.pays(low, 2, 20).unwrap()];
        let resume = alice.resumes(high);
        if low_first {
            bob.learns(&theirs);
            let back = bob.answers(&resume);
            assert_eq!(back, theirs);
            // One's own chain of a device one did not know: applied and named.
            alice.learns(&back);
            bob.answers(&alice.resumes(high));
            assert_eq!(alice.line.view().held_out, 20);
        } else {
            bob.answers(&resume);
            for entry in &theirs {
                assert!(matches!(
                    bob.take(entry),
                    Err(EntryFault::NotNamed { named: 0, .. })
                ));
            }
        }
        assert_eq!(alice.line.certificate(ALICE), Some(high.certificate));
        assert_eq!(bob.line.certificate(ALICE), Some(high.certificate));
        assert_eq!(alice.line.mine, bob.line.theirs);
        other.take(&resume).unwrap();
        assert_eq!(other.pays(low, 3, 1), Err(Refusal::Replaced));
    }
    // Of equal epochs the higher hash wins.
    let (mut a, mut b) = (device(ALICE, 4), device(ALICE, 4));
    a.certificate.0[0] = 5;
    b.certificate.0[0] = 6;
    assert!(a.rank() < b.rank());
}

#[test]
fn a_new_device_that_does_not_begin_with_resume_is_refused() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 10);
    let mut entry = pair.alice.iou(2, 10).unwrap();
    entry.certificate = device(ALICE, 2).certificate;
    entry.sequence = 1;
    entry.previous = NO_ENTRY;
    assert_eq!(pair.bob.take(&entry), Err(EntryFault::NoResume));
    // A chain of which nothing is known waits for its beginning.
    let resume = pair.alice.line.propose_resume(device(ALICE, 2)).unwrap();
    let later = after(&resume, iou(2, 10));
    assert_eq!(
        pair.bob.take(&later),
        Err(EntryFault::Gap {
            sequence: 2,
            missing: 1
        })
    );
    // An account that was restored begins every line so: it may have forgotten one.
    let new = device(ALICE, 2);
    let mut alice = End::new(ALICE, BOB);
    alice.line.mark_restored(new.certificate, false);
    assert_eq!(
        alice.line.propose_limit(new, Amount(5), Amount(0)),
        Err(Refusal::Resume)
    );
    let first = alice.resumes(new);
    assert_eq!(first.operation, Operation::Resume { chains: vec![] });
    let back = pair.bob.answers(&first);
    alice.learns(&back);
    pair.bob.answers(&alice.resumes(new));
    level(&alice, &pair.bob);
    assert_eq!(alice.line.balance(), -10);
}

#[test]
fn after_an_incomplete_restore_new_debt_and_refusals_wait_and_what_settles_does_not() {
    let mut pair = Pair::with_limit(100);
    pair.both(
        &pair
            .alice
            .line
            .propose_limit(stamp(ALICE), Amount(20), Amount(0))
            .unwrap(),
    );
    let within = pair.bob.iou(8, 20).unwrap();
    pair.both(&within);
    pair.both(&after(&within, iou(9, 15)));
    let new = device(ALICE, 2);
    for by_entry in [true, false] {
        let mut bob = pair.bob.restored(stamp(BOB), 3, 1, false);
        bob.line.restore = None;
        let mut alice = pair.alice.restored(new, 1, 3, true);
        let resume = alice.resumes(new);
        assert_eq!(alice.pays(new, 1, 5), Err(Refusal::Waiting));
        assert_eq!(alice.line.available(), Amount(0));
        assert_eq!(
            alice
                .line
                .propose_decline(new, debt(9), DeclineReason::Refused),
            Err(Refusal::Waiting)
        );
        let due = alice.line.answers_due(&BTreeMap::new());
        assert_eq!((due.accept, due.decline), (vec![debt(8)], vec![]));
        let replies = alice.replies(new);
        assert_eq!(replies.len(), 1);
        // What the other side signed before it had seen the Resume does not end the wait.
        let before = bob
            .line
            .propose_limit(stamp(BOB), Amount(90), Amount(0))
            .unwrap();
        bob.take(&before).unwrap();
        alice.take(&before).unwrap();
        assert!(alice.line.is_waiting());
        assert_eq!(bob.answers(&resume), [before]);
        if by_entry {
            let limit = bob
                .line
                .propose_limit(stamp(BOB), Amount(80), Amount(0))
                .unwrap();
            bob.take(&limit).unwrap();
            alice.take(&limit).unwrap();
        } else {
            let mut view = bob.line.holds(ALICE);
            let unknown = Adopted {
                sequence: 9,
                ..view[0]
            };
            alice.line.answered(&[unknown]);
            assert!(alice.line.is_waiting());
            view.push(unknown);
            alice.line.answered(&view);
            assert!(alice.line.is_waiting(), "it holds more than is known here");
            view.pop();
            alice.line.answered(&view);
        }
        assert!(!alice.line.view().waiting);
        if by_entry {
            // What it accepted before may still be on its way back: refusals wait for the view.
            assert_eq!(alice.line.answers_due(&BTreeMap::new()).decline, []);
            alice.line.answered(&bob.line.holds(ALICE));
        }
        assert_eq!(
            alice.line.answers_due(&BTreeMap::new()).decline,
            [(debt(9), DeclineReason::AboveLimit)]
        );
        alice.pays(new, 1, 5).unwrap();
    }
}

#[test]
fn the_limit_in_force_is_carried_over_until_the_new_device_sets_one() {
    let mut pair = Pair::with_limit(100);
    let lowered = pair
        .bob
        .line
        .propose_limit(stamp(BOB), Amount(40), Amount(0))
        .unwrap();
    pair.both(&lowered);
    let (new, mut alice) = (device(BOB, 2), pair.alice);
    // Bob's new device does not remember that the limit was lowered; Alice does.
    let mut bob = pair.bob.restored(new, 1, 0, false);
    assert_eq!(bob.line.view().limit_given, Amount(100));
    let resume = bob.resumes(new);
    bob.learns(&alice.answers(&resume));
    assert_eq!(alice.line.view().limit_received, Amount(40));
    assert_eq!(bob.line.view().limit_given, Amount(40));
    let limit = bob.line.propose_limit(new, Amount(70), Amount(0)).unwrap();
    bob.take(&limit).unwrap();
    alice.take(&limit).unwrap();
    alice.answers(&bob.resumes(new));
    level(&alice, &bob);
    assert_eq!(alice.line.view().limit_received, Amount(70));
}

#[test]
fn an_offer_to_close_outlives_the_device_that_made_it() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 10);
    pair.both(
        &pair
            .alice
            .line
            .propose_limit(stamp(ALICE), Amount(10), Amount(0))
            .unwrap(),
    );
    pair.bob_owes(2, 10);
    pair.both(&pair.alice.line.propose_close(stamp(ALICE)).unwrap());
    let new = device(ALICE, 2);
    let mut alice = pair.alice.restored(new, 4, 3, false);
    let mut bob = pair.bob;
    bob.answers(&alice.resumes(new));
    assert!(alice.line.view().closing_mine && bob.line.view().closing_theirs);
    let close = bob.line.propose_close(stamp(BOB)).unwrap();
    bob.take(&close).unwrap();
    alice.take(&close).unwrap();
    assert!(alice.line.is_closed() && bob.line.is_closed());
    level(&alice, &bob);
    let reopened = alice.line.propose_limit(new, Amount(1), Amount(0)).unwrap();
    bob.take(&reopened).unwrap();
    assert!(!bob.line.view().closing_theirs && !bob.line.is_closed());
}

#[test]
fn a_resume_and_the_creditors_fresh_limit_end_a_freeze_and_the_proof_stays() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 10);
    let one = pair.alice.iou(2, 30).unwrap();
    let mut two = one.clone();
    two.operation = iou(3, 40);
    pair.both(&one);
    pair.both(&two);
    pair.bob_answers();
    assert!(pair.bob.line.is_frozen() && pair.alice.line.is_frozen());
    let (new, mut bob) = (device(ALICE, 2), pair.bob);
    // A limit from before the Resume, or one that has not seen it, ends nothing.
    let early = bob
        .line
        .propose_limit(stamp(BOB), Amount(90), Amount(0))
        .unwrap();
    bob.take(&early).unwrap();
    let mut alice = pair.alice.restored(new, 3, 9, false);
    alice.take(&early).unwrap();
    let resume = alice.resumes(new);
    let Operation::Resume { chains } = &resume.operation else {
        panic!("{resume:?}")
    };
    assert_eq!(chains.len(), 2, "both ends of the chain are named");
    bob.answers(&resume);
    assert_eq!(alice.pays(new, 4, 1), Err(Refusal::Frozen));
    assert_eq!(bob.iou(4, 1), Err(Refusal::Frozen));
    let fresh = bob
        .line
        .propose_limit(stamp(BOB), Amount(90), Amount(0))
        .unwrap();
    bob.take(&fresh).unwrap();
    alice.take(&fresh).unwrap();
    assert!(!alice.line.is_frozen() && !bob.line.is_frozen());
    assert_eq!(bob.line.evidence().len(), 1);
    let more = alice.pays(new, 4, 10).unwrap();
    bob.take(&more).unwrap();
    alice.learns(&bob.replies(stamp(BOB)));
    assert_eq!((alice.line.balance(), bob.line.balance()), (-90, 90));
    // The new device contradicts itself, too: frozen again.
    let third = bob.by(ALICE).pop().unwrap();
    let again = Entry {
        operation: iou(5, 1),
        ..third
    };
    bob.take(&again).unwrap();
    assert!(bob.line.is_frozen());
    assert_eq!(bob.line.evidence().len(), 2);
}

#[test]
fn a_contradiction_of_the_old_device_that_only_the_other_side_saw_comes_back_and_is_named() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 10);
    let one = pair.alice.iou(2, 30).unwrap();
    let mut two = one.clone();
    two.operation = iou(3, 40);
    let (new, mut bob) = (device(ALICE, 2), pair.bob);
    pair.alice.take(&one).unwrap();
    bob.take(&two).unwrap();
    let mut alice = pair.alice.restored(new, 2, 2, false);
    let resume = alice.resumes(new);
    // Bob has another entry at the named place: the whole chain goes back, and he asks for hers.
    let back = bob.answers(&resume);
    assert!(back.contains(&two));
    alice.learns(&back);
    bob.learns(&alice.load(&bob.line.wants()));
    bob.answers(&alice.resumes(new));
    assert!(alice.line.is_frozen() && bob.line.is_frozen());
    assert_eq!(alice.line.view().held_out, 70);
    assert_eq!(alice.line.holds(ALICE), bob.line.holds(ALICE));
    assert!(bob.line.wants().is_empty());
}

#[test]
fn a_device_is_told_that_the_other_side_saw_more_of_its_predecessor() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 10);
    pair.alice_owes(2, 10);
    let new = device(ALICE, 2);
    let mut alice = pair.alice.restored(new, 1, 0, false);
    let accepts = pair.bob.by(BOB);
    assert_eq!(alice.seeing(&accepts[0]).unwrap().missing, None);
    assert_eq!(alice.seeing(&accepts[1]).unwrap().missing, None);
    let received = alice.seeing(&accepts[2]).unwrap();
    let missing = received.missing.unwrap();
    assert_eq!(missing.sequence, 2);
    assert_eq!(
        missing.chain,
        chain_id(alice.line.id(), ALICE, stamp(ALICE).certificate)
    );
    // With a new chain begun, it is still the old one that is spoken of.
    let mut bob = pair.bob;
    let resume = alice.resumes(new);
    alice.learns(&bob.answers(&resume));
    let limit = bob
        .line
        .propose_limit(stamp(BOB), Amount(7), Amount(0))
        .unwrap();
    assert_eq!(alice.seeing(&limit).unwrap().missing, None);
}

#[test]
fn a_repeated_resume_that_names_less_adds_nothing() {
    let mut pair = Pair::with_limit(100);
    pair.alice_owes(1, 10);
    pair.alice_owes(2, 10);
    let new = device(ALICE, 2);
    let mut alice = pair.alice.restored(new, 2, 3, false);
    let mut bob = pair.bob;
    let first = alice.resumes(new);
    bob.answers(&first);
    let named = bob.line.theirs.adopted.clone();
    let less = after(&first, Operation::Resume { chains: vec![] });
    bob.take(&less).unwrap();
    assert_eq!(bob.line.theirs.adopted, named);
    assert!(bob.line.wants().is_empty());
}

#[test]
fn devices_on_a_line_are_bounded_and_its_state_fits() {
    let mut pair = Pair::with_limit(u64::MAX);
    pair.alice_owes(1, 10);
    for n in 2..=MAX_CHAINS as u8 {
        pair.both(&pair.alice.line.propose_resume(device(ALICE, n)).unwrap());
    }
    let Operation::Resume { chains } = &pair.alice.by(ALICE).pop().unwrap().operation else {
        panic!("a Resume is the last entry")
    };
    assert_eq!(chains.len(), MAX_CHAINS - 1);
    let one_more = device(ALICE, MAX_CHAINS as u8 + 1);
    assert_eq!(
        pair.alice.line.propose_resume(one_more),
        Err(Refusal::TooManyDevices)
    );
    let mut entry = pair.alice.by(ALICE).pop().unwrap();
    entry.certificate = one_more.certificate;
    assert_eq!(pair.bob.take(&entry), Err(EntryFault::TooManyChains));
    // What names devices that never were is bounded, too.
    let newest = pair.alice.by(ALICE).pop().unwrap();
    let many: Vec<_> = (100..164).map(|n| (Hash([n; 32]), 5)).collect();
    assert_eq!(
        pair.bob.take(&after(&newest, resume(&many))),
        Err(EntryFault::TooManyChains)
    );
    assert_eq!(
        decode::<Line>(&encode(&pair.bob.line)).unwrap(),
        pair.bob.line
    );
}
