//! The only file that reads the clock and the system's randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use pumasi_protocol::types::Time;
use rand::SeedableRng as _;
use rand::rngs::{StdRng, SysRng};

use crate::error::{Error, ErrorKind, Result};

/// The wall clock, never running backwards within this process.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: Time,
}

impl Clock {
    /// Milliseconds since 1970, at least what it said before.
    pub(crate) fn now(&mut self) -> Time {
        self.last = self.last.max(wall());
        self.last
    }
}

/// The wall clock as it is.
#[must_use]
pub(crate) fn wall() -> Time {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A generator seeded by the operating system.
///
/// # Errors
/// `Internal` when the system gives no randomness.
pub(crate) fn generator() -> Result<StdRng> {
    StdRng::try_from_rng(&mut SysRng).map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            format!("the system gives no randomness: {error}"),
        )
    })
}
