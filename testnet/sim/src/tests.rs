//! The simulator itself: its runs repeat, and it is not blind.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::plan::Plan;
use crate::planted::PLANTED;
use crate::run::run;

/// Small worlds that are looked at for one planted bug at most.
const BUDGET: u64 = 20;

/// Where the simulator is known to be blind: no small world has shown these yet. A bug that is added is
/// found, or this list says that it is not.
const UNSEEN: [&str; 2] = ["refused-never-again", "reset-forgotten"];

/// The first small world, from where the bug's entry begins to look, that it breaks and that is whole
/// without it.
fn found_in(bug: usize) -> Option<u64> {
    let first = PLANTED[bug].seed;
    (first..first + BUDGET).find(|seed| {
        run(Plan::small(*seed), Some(bug), false).failure.is_some()
            && run(Plan::small(*seed), None, false).failure.is_none()
    })
}

#[test]
fn every_planted_bug_is_found_but_those_that_are_known_to_hide() {
    let next = AtomicUsize::new(0);
    let unseen = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some(bug) = PLANTED.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if UNSEEN.contains(&bug.name) {
                        continue;
                    }
                    let place = crate::planted::find(bug.name).expect("a bug of the list");
                    if found_in(place).is_none() {
                        unseen.lock().unwrap().push(bug.name);
                    }
                }
            });
        }
    });
    let unseen = unseen.into_inner().unwrap();
    assert!(unseen.is_empty(), "no small world shows {unseen:?}");
    for name in UNSEEN {
        assert!(
            crate::planted::find(name).is_some(),
            "{name} is not planted any more"
        );
    }
}

#[test]
fn small_worlds_survive_their_storms() {
    for seed in [1, 2, 4] {
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
