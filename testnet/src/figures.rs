//! Figures out of measured times: percentiles and gaps. Plain arithmetic, microseconds throughout.

use serde::Serialize;

/// Median and 99th percentile, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Spread {
    /// Of microseconds, by nearest rank; zero of none.
    pub(crate) fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        Self {
            p50: rank(&micros, 50),
            p99: rank(&micros, 99),
        }
    }
}

fn rank(sorted: &[u64], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100);
    millis(place.checked_sub(1).map_or(0, |place| sorted[place]))
}

/// Microseconds as milliseconds with two decimals.
pub(crate) fn millis(micros: u64) -> f64 {
    (micros as f64 / 10.0).round() / 100.0
}

/// The longest times after a moment in which nothing became safe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gaps {
    /// Whether or not anybody waited.
    pub(crate) all: u64,
    /// Only time in which something had been sent and waited.
    pub(crate) waited: u64,
}

/// Gaps after `fire`, from pairs of when something was begun and when it became safe.
pub(crate) fn gaps(fire: u64, mut times: Vec<(u64, u64)>) -> Gaps {
    times.retain(|&(_, safe)| safe > fire);
    times.sort_unstable_by_key(|&(_, safe)| safe);
    // From here on: when the earliest of this and all later ones was begun.
    let mut earliest = u64::MAX;
    let mut begun: Vec<u64> = times
        .iter()
        .rev()
        .map(|&(begun, _)| {
            earliest = earliest.min(begun);
            earliest
        })
        .collect();
    begun.reverse();
    let mut gaps = Gaps::default();
    let mut last = fire;
    for (&(_, safe), begun) in times.iter().zip(begun) {
        gaps.all = gaps.all.max(safe - last);
        gaps.waited = gaps.waited.max(safe - last.max(begun).min(safe));
        last = safe;
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        assert_eq!(Spread::of(Vec::new()), Spread { p50: 0.0, p99: 0.0 });
        assert_eq!(Spread::of(vec![3_000]), Spread { p50: 3.0, p99: 3.0 });
        let hundred = (1..=100).rev().map(|n| n * 1_000).collect();
        assert_eq!(
            Spread::of(hundred),
            Spread {
                p50: 50.0,
                p99: 99.0
            }
        );
    }

    #[test]
    fn a_gap_counts_from_the_fire_and_a_wait_only_from_when_something_was_sent() {
        // Nothing is sent until 100; then one that takes 5, and one that takes 30.
        let gaps = gaps(10, vec![(0, 5), (100, 105), (101, 131)]);
        assert_eq!(
            gaps,
            Gaps {
                all: 95,
                waited: 26
            }
        );
    }

    #[test]
    fn one_that_was_overtaken_has_waited_all_the_same() {
        assert_eq!(gaps(0, vec![(1, 50), (40, 45)]).waited, 44);
    }
}
