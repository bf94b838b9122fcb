//! Where the shim's socket is: flag, environment, default.

use std::ffi::OsString;
use std::path::PathBuf;
use sternline_api::{protocol::DEFAULT_SOCKET, socket};

/// Names the socket where the flag does not.
const VARIABLE: &str = "STERNLINE_SOCKET";

/// Chooses. An environment variable that is empty counts as none.
///
/// clap is not asked for the variable: it would show the flag as a needed one in
/// every usage error.
///
/// # Errors
/// The variable names no socket; in a sentence.
pub(super) fn choose(flag: Option<PathBuf>) -> Result<PathBuf, String> {
    pick(flag, std::env::var_os(VARIABLE))
}

fn pick(flag: Option<PathBuf>, variable: Option<OsString>) -> Result<PathBuf, String> {
    if let Some(path) = flag {
        return Ok(path);
    }
    match variable.filter(|value| !value.is_empty()) {
        None => Ok(DEFAULT_SOCKET.into()),
        Some(value) => match value.to_str() {
            Some(text) => socket::path(text).map_err(|why| format!("{VARIABLE}: {why}")),
            // No scheme has such letters.
            None => Ok(value.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_flag_counts_more_than_the_environment_and_that_than_the_default() {
        let flag = || Some(PathBuf::from("/flag"));
        let variable = |text: &str| Some(OsString::from(text));
        for (flag, variable, chosen) in [
            (flag(), variable("/env"), "/flag"),
            (None, variable("/env"), "/env"),
            (None, variable("unix:///env"), "/env"),
            (None, variable(""), DEFAULT_SOCKET),
            (None, None, DEFAULT_SOCKET),
        ] {
            assert_eq!(pick(flag, variable).as_deref(), Ok(Path::new(chosen)));
        }
        let why = pick(None, variable("tcp://127.0.0.1:1")).expect_err("no socket");
        assert!(why.starts_with(VARIABLE), "{why}");
    }
}
