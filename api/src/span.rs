//! Spans of time as people write and read them.

use std::time::Duration;

/// Longest span that a flag accepts: a week. Longer ones are typing mistakes.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads `30s`, `1m30s`, `500ms`, `2h` or `0`.
///
/// # Errors
/// Anything else, and more than a week, with a sentence.
pub fn parse(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || format!("{text:?} is not a span of time: write it as 30s, 1m30s, 500ms or 2h");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let units = tail.len()
            - tail
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let (unit, tail) = tail.split_at(units);
        let one = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        total = total.saturating_add(one.saturating_mul(number));
        rest = tail;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    if total > LONGEST {
        return Err(format!("{text:?} is too long: at most 168h (a week)"));
    }
    Ok(total)
}

/// Reads a span that must not be 0.
///
/// # Errors
/// As [`parse`], and 0.
pub fn parse_positive(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("0 would give up at once: write it as 10s or 500ms".to_owned()),
        span => Ok(span),
    }
}

/// An age as kubectl prints it: the two largest units at most, and fewer the
/// longer it is (`45s`, `5m30s`, `45m`, `3h20m`, `20h`, `3d5h`, `20d`, `2y`).
#[must_use]
pub fn age(span: Duration) -> String {
    let two = |large: u64, unit: char, small: u64, subunit: char| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{subunit}"),
    };
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        two(days, 'd', hours % 24, 'h')
    } else if days < 730 {
        format!("{days}d")
    } else {
        format!("{}y", days / 365)
    }
}

/// A span as a flag takes it, to the millisecond: `1h30m`, `500ms`, `0s`.
#[must_use]
pub fn exact(span: Duration) -> String {
    let seconds = span.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(span.subsec_millis()), "ms"),
    ];
    let said: String = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if said.is_empty() {
        return "0s".to_owned();
    }
    said
}

/// A short span for a sentence: `850ms`, `1.2s`, `30s`, `5m30s`.
#[must_use]
pub fn short(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        format!("{}ms", span.as_millis())
    } else if span < Duration::from_secs(10) && span.subsec_millis() >= 50 {
        format!("{:.1}s", span.as_secs_f64())
    } else {
        age(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_read_as_people_write_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "30 s",
            "1m30",
            "99999999999s",
        ] {
            assert!(parse(text).expect_err(text).contains("span"), "{text}");
        }
        assert!(parse("169h").expect_err("too long").contains("week"));
        assert!(parse_positive("0s").is_err());
    }

    #[test]
    fn ages_read_as_in_kubectl() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (2700, "45m"),
            (12_000, "3h20m"),
            (72_000, "20h"),
            (277_200, "3d5h"),
            (1_728_000, "20d"),
            (70_000_000, "2y"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn exact_spans_have_the_units_that_they_need() {
        for (millis, text) in [
            (0, "0s"),
            (500, "500ms"),
            (90_000, "1m30s"),
            (3_600_000, "1h"),
            (7_200_000, "2h"),
        ] {
            assert_eq!(exact(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn short_spans_keep_what_matters() {
        assert_eq!(short(Duration::from_millis(850)), "850ms");
        assert_eq!(short(Duration::from_millis(1234)), "1.2s");
        assert_eq!(short(Duration::from_secs(2)), "2s");
        assert_eq!(short(Duration::from_secs(30)), "30s");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_exactly_is_read_as_it_was(millis in 0_u64..604_800_000) {
            let span = Duration::from_millis(millis);
            prop_assert_eq!(parse(&exact(span)), Ok(span));
        }

        #[test]
        fn whole_seconds_survive(seconds in 0_u64..600_000) {
            prop_assert_eq!(parse(&format!("{seconds}s")), Ok(Duration::from_secs(seconds)));
        }
    }
}
