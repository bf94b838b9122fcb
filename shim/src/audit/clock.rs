//! Time, handed in.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = if since.as_secs() > LAST {
        (LAST, 999_999)
    } else {
        (since.as_secs(), since.subsec_micros())
    };
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The Gregorian date so many days after 1970-01-01. Years begin in March here,
/// so that the leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    /// Days of 400 years, after which the calendar repeats.
    const CYCLE: u64 = 146_097;
    /// From 0000-03-01 to 1970-01-01.
    const TO_1970: u64 = 719_468;
    let days = days + TO_1970;
    let (cycle, of_cycle) = (days / CYCLE, days % CYCLE);
    let leaps = of_cycle / 1460 - of_cycle / 36_524 + of_cycle / (CYCLE - 1);
    let of_cycle_years = (of_cycle - leaps) / 365;
    let of_year = of_cycle - (of_cycle_years * 365 + of_cycle_years / 4 - of_cycle_years / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = cycle * 400 + of_cycle_years + u64::from(month < 3);
    (year, month, day)
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

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut before = (0, 0, 0);
        for day in 0..146_100 {
            let now = date(day);
            assert!(now > before, "{before:?} then {now:?}");
            assert!((1..=12).contains(&now.1) && (1..=31).contains(&now.2));
            before = now;
        }
        assert_eq!(before, (2370, 1, 3));
    }
}
