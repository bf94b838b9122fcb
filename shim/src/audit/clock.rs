//! Time, handed in.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use time::UtcDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// The last moment that four digits of a year can say, in seconds since 1970.
const LAST: u64 = 253_402_300_799;

/// What time it is, in two ways. The wall clock may jump in either direction;
/// the monotonic one never does, and durations come from it alone.
pub trait Clock: Send + Sync {
    /// Time of day.
    fn wall(&self) -> SystemTime;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A time as RFC 3339 in UTC, to the microsecond. A time before 1970 or after
/// 9999, which only a broken clock shows, becomes the nearest within.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    const FORM: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let last = UNIX_EPOCH + Duration::new(LAST, 999_999_000);
    let time = UtcDateTime::from(time.clamp(UNIX_EPOCH, last));
    // Every part that the form names is there.
    time.format(FORM).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, micros: u32) -> String {
        rfc3339(UNIX_EPOCH + Duration::new(seconds, micros * 1000))
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400, 1), "2000-02-29T00:00:00.000001Z");
        assert_eq!(at(951_868_799, 999_999), "2000-02-29T23:59:59.999999Z");
        assert_eq!(at(951_868_800, 0), "2000-03-01T00:00:00.000000Z");
        assert_eq!(at(1_735_689_599, 0), "2024-12-31T23:59:59.000000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
        assert_eq!(at(4_107_542_399, 0), "2100-02-28T23:59:59.000000Z");
    }

    #[test]
    fn a_broken_clock_still_gives_a_time() {
        let early = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(rfc3339(early), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(LAST + 1, 0), "9999-12-31T23:59:59.999999Z");
    }
}
