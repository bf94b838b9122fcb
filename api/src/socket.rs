//! Unix sockets as flags name them.

use std::path::PathBuf;

/// Reads the path of a Unix socket: plain, or in the form `unix:///PATH` that
/// flags of container runtimes have.
///
/// # Errors
/// One sentence: nothing, another scheme, or no absolute path after `unix:`.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        // Both unix:/path and unix:///path are in use.
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(format!(
                "{text:?} needs an absolute path after unix:, such as unix:///run/x.sock"
            ));
        }
        return Ok(path.into());
    }
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    if !scheme.is_empty() && !scheme.contains('/') {
        return Err(format!(
            "{text:?} is no Unix socket: write a path, or unix:///PATH"
        ));
    }
    if text.is_empty() || text.ends_with('/') {
        return Err(format!("{text:?} is no path of a file: write /run/x.sock"));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_socket_is_a_path_with_or_without_its_scheme() {
        for (text, found) in [
            ("/run/x.sock", "/run/x.sock"),
            ("x.sock", "x.sock"),
            ("./a:b", "./a:b"),
            ("unix:/run/x.sock", "/run/x.sock"),
            ("unix:///run/x.sock", "/run/x.sock"),
        ] {
            assert_eq!(path(text), Ok(found.into()), "{text}");
        }
    }

    #[test]
    fn other_schemes_are_refused() {
        for text in [
            "",
            "/run/",
            "unix:",
            "unix://",
            "unix:x.sock",
            "unix://x.sock",
            "tcp://127.0.0.1:80",
            "http://host/path",
            "127.0.0.1:80",
        ] {
            path(text).expect_err(text);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = path(&text);
        }
    }
}
