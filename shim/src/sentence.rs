//! What went wrong, in one sentence.

use std::fmt::Display;

/// What the standard library puts after a cause of the system, before its number.
const NUMBER: &str = " (os error ";

/// An error and its causes, each said once and without the system's numbers.
#[must_use]
pub fn whole(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let cause = plain(&cause);
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// What `error` says, without the system's numbers.
#[must_use]
pub fn plain(error: &(impl Display + ?Sized)) -> String {
    let mut text = error.to_string();
    while let Some(at) = text.find(NUMBER) {
        let number = &text[at + NUMBER.len()..];
        let digits = number.trim_start_matches(|c: char| c.is_ascii_digit());
        let Some(rest) = digits.strip_prefix(')') else {
            break;
        };
        text = format!("{}{rest}", &text[..at]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("--flag: {source}: do this")]
    struct Repeats {
        source: io::Error,
    }

    fn missing() -> io::Error {
        io::Error::from_raw_os_error(2)
    }

    #[test]
    fn each_cause_is_said_once_and_without_its_number() {
        let error = anyhow::Error::from(Repeats { source: missing() });
        let said = "--flag: No such file or directory: do this";
        assert_eq!(whole(&error), said);
        let error = Err::<(), _>(missing()).context("--socket /s");
        let error = error.expect_err("an error");
        assert_eq!(whole(&error), "--socket /s: No such file or directory");
    }

    #[test]
    fn what_is_no_number_stays() {
        for text in ["", "a (os error b) c", " (os error ", "(os error 2)"] {
            assert_eq!(plain(&text), text);
        }
        assert_eq!(plain(&"a (os error 2); b (os error 13)"), "a; b");
    }
}
