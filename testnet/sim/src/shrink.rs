//! Makes a failing plan smaller, for the one who must understand it: parts are taken out and the world is
//! run again, as long as the same invariant breaks.

use std::time::{Duration, Instant};

use crate::plan::Plan;
use crate::run::{Outcome, run};

/// Shrinking stops after this time.
const PATIENCE: Duration = Duration::from_secs(90);

/// The smallest plan found, and how it ends.
pub(crate) fn shrink(outcome: &Outcome, plan: Plan, bug: Option<usize>) -> Plan {
    let Some(failure) = &outcome.failure else {
        return plan;
    };
    let begun = Instant::now();
    let breaks = |plan: &Plan| {
        run(plan.clone(), bug, false)
            .failure
            .is_some_and(|found| found.invariant == failure.invariant)
    };
    let mut best = plan;
    let mut size = best
        .faults
        .len()
        .max(best.operations.len())
        .div_ceil(2)
        .max(1);
    loop {
        let mut better = false;
        for start in (0..best.faults.len().max(best.operations.len())).step_by(size) {
            for faults in [true, false] {
                if begun.elapsed() > PATIENCE {
                    return best;
                }
                let mut smaller = best.clone();
                let end = start + size;
                if faults && start < smaller.faults.len() {
                    smaller.faults.drain(start..end.min(smaller.faults.len()));
                } else if !faults && start < smaller.operations.len() {
                    smaller
                        .operations
                        .drain(start..end.min(smaller.operations.len()));
                } else {
                    continue;
                }
                if breaks(&smaller) {
                    best = smaller;
                    better = true;
                }
            }
        }
        if !better && size == 1 {
            return best;
        }
        if !better {
            size = size.div_ceil(2);
        }
    }
}
