//! The only file that reads the clock and the system's randomness.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use pumasi_protocol::types::Time;
use rand::SeedableRng as _;
use rand::rngs::{StdRng, SysRng};

use crate::error::{Error, ErrorKind, Result};

/// The wall clock, never running backwards within this process, and never standing still: when it is
/// set back, time goes on from where it was.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// What the wall clock said when it was last not behind, and when that was.
    base: Option<(Time, Instant)>,
}

impl Clock {
    /// Milliseconds since 1970, at least what it said before.
    pub(crate) fn now(&mut self) -> Time {
        self.at(wall(), Instant::now())
    }

    fn at(&mut self, wall: Time, instant: Instant) -> Time {
        let gone_on = self.base.map(|(time, since)| {
            let elapsed = instant.saturating_duration_since(since).as_millis();
            time.plus(u64::try_from(elapsed).unwrap_or(u64::MAX))
        });
        match gone_on {
            Some(gone_on) if gone_on > wall => gone_on,
            _ => {
                self.base = Some((wall, instant));
                wall
            }
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_goes_on_when_the_wall_clock_is_set_back() {
        let mut clock = Clock::default();
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(clock.at(Time(100_000), after(0)), Time(100_000));
        assert_eq!(clock.at(Time(40_000), after(250)), Time(100_250));
        assert_eq!(clock.at(Time(40_250), after(500)), Time(100_500));
        assert_eq!(clock.at(Time(200_000), after(750)), Time(200_000));
    }
}
