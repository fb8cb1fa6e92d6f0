//! The simulator itself: its runs repeat, and it is not blind.

use crate::plan::Plan;
use crate::planted;
use crate::run::run;

/// Small worlds that are looked at for one planted bug at most.
const BUDGET: u64 = 12;

/// Whether a planted bug breaks a small world, from this seed on, that is whole without it.
fn is_found(name: &str, first: u64) -> bool {
    let bug = planted::find(name).expect("a bug of the list");
    (first..first + BUDGET).any(|seed| {
        run(Plan::small(seed), Some(bug), false).failure.is_some()
            && run(Plan::small(seed), None, false).failure.is_none()
    })
}

#[test]
fn small_worlds_survive_their_storms() {
    for seed in [1, 2, 4, 5, 6, 8] {
        let failure = run(Plan::small(seed), None, false).failure;
        assert!(failure.is_none(), "seed {seed}: {failure:?}");
    }
}

#[test]
fn a_seed_gives_the_same_trace_every_time() {
    let seeds = || (1..=40).filter(|seed| !Plan::small(*seed).options.real_ratchet);
    for seed in seeds().take(2) {
        let digest = move || run(Plan::small(seed), None, false).digest;
        let other = std::thread::spawn(digest);
        assert_eq!(other.join().expect("a run"), digest(), "seed {seed}");
    }
}

#[test]
fn what_is_said_before_it_is_stored_is_found() {
    assert!(is_found("answer-before-commit", 16));
}

#[test]
fn a_repeated_call_with_two_effects_is_found() {
    assert!(is_found("key-ignored", 1));
}

#[test]
fn debt_above_a_limit_with_what_waits_is_found() {
    assert!(is_found("pending-ignored", 6));
}

#[test]
fn a_receipt_for_nothing_is_found() {
    assert!(is_found("encapsulation-not-kept", 1));
}
