//! All randomness of a run: streams drawn from the seed, each for one purpose, so that taking a fault or
//! an operation out of a plan leaves the rest as it was.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// One stream.
#[derive(Debug)]
pub(crate) struct Dice(StdRng);

impl Dice {
    /// The stream of a seed for a purpose.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let hash = crate::protocol::crypto::hash("sim", &[&seed.to_be_bytes(), purpose.as_bytes()]);
        Self(StdRng::from_seed(hash.0))
    }

    /// Any number.
    pub(crate) fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Below `limit`; 0 when that is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit.max(1)
    }

    /// From `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// An index of a list of this length.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// True with this many chances in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// An exponential delay with this mean, at most twenty times as long.
    pub(crate) fn tail(&mut self, mean: u64) -> u64 {
        // A geometric draw over sixteenths of the mean: no floats, the same on every machine.
        let mut parts: u64 = 0;
        while parts < 320 && !self.0.next_u64().is_multiple_of(17) {
            parts += 1;
        }
        mean * parts / 16
    }
}
