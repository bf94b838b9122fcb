//! Spans of time as flags have them here: days too, for certificates.

use std::time::Duration;
use sternline_api::span;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Reads `365d`, or what [`span::parse`] reads.
fn parse(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').map(str::parse::<u16>);
    match days {
        Some(Ok(days)) if text.bytes().all(|byte| byte != b'+') => Ok(DAY * days.into()),
        _ => span::parse(text),
    }
}

/// Reads a span between two others, which are written as they are told.
pub(super) fn between(
    least: &'static str,
    most: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let span = parse(text)?;
        if (parse(least)?..=parse(most)?).contains(&span) {
            Ok(span)
        } else {
            Err(format!("{text} is not between {least} and {most}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_spans_too() {
        assert_eq!(parse("30d"), Ok(DAY * 30));
        assert_eq!(parse("24h"), Ok(DAY));
        for wrong in ["d", "+3d", "1d12h", "99999d", "30", ""] {
            parse(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn bounds_are_told() {
        let read = between("1s", "2d");
        assert_eq!(read("2d"), Ok(DAY * 2));
        let said = read("49h").expect_err("too long");
        assert_eq!(said, "49h is not between 1s and 2d");
    }
}
