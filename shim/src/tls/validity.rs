//! How long a certificate is valid. Nothing else of it is read here, and nothing
//! is decided by it that a handshake relies on: it is for operators.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::UtcDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The last year that is printed with four digits; what is later is not told
/// from it.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// The moment after which a certificate in DER is not valid (RFC 5280, section
/// 4.1.2.5); `None` for what is no certificate.
pub(super) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    // What ended before 1970 has ended.
    let seconds = u64::try_from(seconds).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// A moment as `2031-05-17 09:30 UTC`.
pub(super) fn date(time: SystemTime) -> String {
    const FORM: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    let time = UtcDateTime::from(time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST));
    // Every part that the form names is there.
    time.format(FORM).unwrap_or_default()
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
    fn a_date_has_its_minutes_and_four_digits_of_a_year() {
        let time = UNIX_EPOCH + Duration::from_secs(951_782_400 - 60);
        assert_eq!(date(time), "2000-02-28 23:59 UTC");
        assert_eq!(date(UNIX_EPOCH - LAST), "1970-01-01 00:00 UTC");
        assert_eq!(date(UNIX_EPOCH + LAST * 2), "9999-12-31 23:59 UTC");
    }

    proptest! {
        #[test]
        fn no_damage_panics(at in 0_usize..400, byte in any::<u8>(), keep in 0_usize..500) {
            let mut bytes = made(2030, 1, 1);
            if let Some(damaged) = bytes.get_mut(at) {
                *damaged = byte;
            }
            bytes.truncate(keep);
            let _ = not_after(&bytes);
        }
    }
}
