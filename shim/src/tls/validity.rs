//! How long a certificate is valid. Nothing else of it is read here, and nothing
//! is decided by it that a handshake relies on: it is for operators.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// DER tags (ITU-T X.690).
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The moment after which a certificate in DER is not valid (RFC 5280, section
/// 4.1.2.5); `None` for what is no certificate.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    // The version is left out of certificates of the first version.
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = expect(rest, tag)?.1;
    }
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    let digits = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let (year, digits) = match tag {
        UTC_TIME => {
            let year = number(digits.get(..2)?)?;
            (year + if year < 50 { 2000 } else { 1900 }, digits.get(2..)?)
        }
        GENERALIZED_TIME => (number(digits.get(..4)?)?, digits.get(4..)?),
        _ => return None,
    };
    if digits.len() != 10 {
        return None;
    }
    let part = |at: usize| number(digits.get(at..at + 2)?);
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    // What ended before 1970 has ended.
    let seconds = u64::try_from(seconds).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// A moment as `2031-05-17 09:30 UTC`.
pub(super) fn date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    let day = i64::try_from(seconds / 86_400).unwrap_or(0);
    // The year by its mean length, then put right.
    let mut year = 1970 + day * 400 / 146_097;
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    while days(year, 1, 1) > day {
        year -= 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= day);
    let month = month.unwrap_or(1);
    let day = day - days(year, month, 1) + 1;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March end with the leap day.
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

fn number(digits: &str) -> Option<i64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// The content of the first element, which must have this tag, and what follows.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(der)?;
    (found == tag).then_some((content, rest))
}

/// Tag and content of the first element, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ 0..=0x7f => (usize::from(*short), rest),
        long @ 0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            let length = length
                .iter()
                .fold(0_usize, |all, byte| (all << 8) | usize::from(*byte));
            (length, rest)
        }
        // 0x80 has no length, and what is longer would not have been read.
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn made(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["node".to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        for (year, month, day, seconds) in [
            (2000, 2, 29, 951_782_400),
            (2038, 1, 19, 2_147_472_000),
            (2049, 12, 31, 2_524_521_600),
            (2050, 1, 1, 2_524_608_000),
            (4096, 2, 29, 67_095_216_000),
        ] {
            let read = not_after(&made(year, month, day)).expect("a certificate");
            let expected = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(read, expected, "{year}-{month}-{day}");
            assert_eq!(date(read), format!("{year}-{month:02}-{day:02} 00:00 UTC"));
        }
    }

    #[test]
    fn a_date_has_its_minutes() {
        let time = UNIX_EPOCH + Duration::from_secs(951_782_400 - 60);
        assert_eq!(date(time), "2000-02-28 23:59 UTC");
        assert_eq!(date(UNIX_EPOCH), "1970-01-01 00:00 UTC");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = not_after(&bytes);
        }

        #[test]
        fn no_damage_panics(at in 0_usize..400, byte in any::<u8>(), keep in 0_usize..500) {
            let mut bytes = made(2030, 1, 1);
            if let Some(damaged) = bytes.get_mut(at) {
                *damaged = byte;
            }
            bytes.truncate(keep);
            let _ = not_after(&bytes);
        }

        #[test]
        fn days_follow_one_another(day in -800_000_i64..4_000_000) {
            let time = UNIX_EPOCH + Duration::from_secs(day.unsigned_abs() * 86_400);
            let text = date(time);
            let part = |range: std::ops::Range<usize>| text[range].parse::<i64>().expect("digits");
            prop_assume!(text.len() == 20);
            prop_assert_eq!(days(part(0..4), part(5..7), part(8..10)), day.abs());
        }
    }
}
