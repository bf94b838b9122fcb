//! Names of ports in the place of a SPEC's listening port: `xdebug`, or
//! `http:3000`. Only a pod knows what they stand for.

use super::{Spec, SpecError};
use std::net::Ipv4Addr;

/// Longest name of a port (RFC 6335, section 5.1).
const LONGEST: usize = 15;

/// The number that stands for a name until its pod is known.
const ANY: &str = "1";

/// The name in the place of the listening port, if there is one: what is before
/// it, itself, and what follows.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let start = if text.starts_with('[') {
        text.find("]:")? + 2
    } else {
        let (first, _) = text.split_once(':').unwrap_or((text, ""));
        let is_bind = first.eq_ignore_ascii_case("localhost") || first.parse::<Ipv4Addr>().is_ok();
        if is_bind {
            (first.len() + 1).min(text.len())
        } else {
            0
        }
    };
    let (before, rest) = text.split_at(start);
    let end = rest.find(':').unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    is_name(name).then_some((before, name, after))
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=LONGEST).contains(&text.len())
        && text.bytes().all(plain)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// Checks every SPEC as far as that can be done without a pod.
///
/// # Errors
/// The first that is wrong.
pub fn check_all<S: AsRef<str>>(texts: &[S]) -> Result<(), SpecError> {
    let plain: Vec<_> = texts
        .iter()
        .map(AsRef::as_ref)
        .filter(|text| split(text).is_none())
        .collect();
    super::parse_all(&plain)?;
    for (id, text) in (0_u32..).zip(texts) {
        if let Some((before, _, after)) = split(text.as_ref()) {
            Spec::parse(id, &format!("{before}{ANY}{after}")).map_err(|error| SpecError {
                spec: text.as_ref().to_owned(),
                ..error
            })?;
        }
    }
    Ok(())
}

/// Reads every SPEC with the numbers that `port` knows for names.
///
/// # Errors
/// A name that `port` does not know, and as [`super::parse_all`].
pub fn resolve_all<S: AsRef<str>>(
    texts: &[S],
    port: impl Fn(&str) -> Result<u16, String>,
) -> Result<Vec<Spec>, SpecError> {
    let numbered = texts.iter().map(|text| {
        let text = text.as_ref();
        match split(text) {
            None => Ok(text.to_owned()),
            Some((before, name, after)) => match port(name) {
                Ok(number) => Ok(format!("{before}{number}{after}")),
                Err(problem) => Err(SpecError {
                    spec: text.to_owned(),
                    problem,
                }),
            },
        }
    });
    super::parse_all(&numbered.collect::<Result<Vec<_>, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(name: &str) -> Result<u16, String> {
        match name {
            "xdebug" => Ok(9003),
            "http" => Ok(8080),
            _ => Err(format!("no {name}")),
        }
    }

    fn read(text: &str) -> String {
        match resolve_all(&[text], known) {
            Ok(specs) => specs[0].to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_name_stands_for_its_number() {
        for (text, spec) in [
            ("xdebug", "localhost:9003:localhost:9003"),
            ("http:3000", "localhost:8080:localhost:3000"),
            ("http:db.internal:1", "localhost:8080:db.internal:1"),
            ("localhost:http:3000", "localhost:8080:localhost:3000"),
            ("0.0.0.0:http", "0.0.0.0:8080:localhost:8080"),
            ("[::1]:http:unix:/s", "[::1]:8080:unix:/s"),
            ("8080:http", "SPEC \"8080:http\""),
            ("none:1", "SPEC \"none:1\": no none"),
        ] {
            assert!(read(text).starts_with(spec), "{text}: {}", read(text));
        }
    }

    #[test]
    fn numbers_and_mistakes_are_left_as_they_are() {
        for text in [
            "8080",
            "0:3000",
            "localhost:80",
            "[::1]:80:81",
            "127.0.0.1:80",
        ] {
            assert!(check_all(&[text]).is_ok(), "{text}");
            assert_eq!(split(text), None, "{text}");
        }
        for text in [
            "",
            "localhost",
            "example.com:80",
            "http:",
            "HTTP",
            "a--b",
            "-1",
            "http:x:y:z",
        ] {
            assert!(check_all(&[text]).is_err(), "{text}");
        }
        assert!(check_all(&["80", "80"]).is_err(), "twice");
        assert!(
            check_all(&["http", "xdebug"]).is_ok(),
            "may be the same or not"
        );
        let twice = resolve_all(&["8080", "http"], known).expect_err("the same");
        assert!(twice.to_string().contains("already asked for"), "{twice}");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_checked_resolves(text in "(localhost:|[0-9.]{7}:|\\[::1\\]:)?[a-z0-9:-]{0,20}|.{0,40}") {
            let checked = check_all(&[&text]);
            let resolved = resolve_all(&[&text], |_| Ok(1));
            prop_assert_eq!(checked.is_ok(), resolved.is_ok(), "{:?} {:?}", checked, resolved);
        }
    }
}
