//! Reads the pages in `docs/` for the tests beside this file, which hold what
//! the pages say to what the code does.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the checkout.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The text of a file, by its path from the root of the checkout.
///
/// # Panics
/// Where there is no such file.
#[must_use]
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rows of all tables on a page, each as its trimmed cells; rulers are left
/// out.
#[must_use]
pub fn rows(page: &str) -> Vec<Vec<String>> {
    page.lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .filter(|line| !line.starts_with("---"))
        .map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// What stands between backticks in a text.
pub fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Every page of the project: Markdown files at the root and in `docs/`, as
/// paths from the root.
#[must_use]
pub fn pages() -> Vec<String> {
    ["", "docs/"]
        .into_iter()
        .flat_map(|dir| {
            let entries = fs::read_dir(root().join(dir))
                .into_iter()
                .flatten()
                .flatten();
            entries.filter_map(move |entry| {
                let name = entry.file_name().into_string().ok()?;
                name.ends_with(".md").then(|| format!("{dir}{name}"))
            })
        })
        .collect()
}

/// The part of a page from the heading that starts so to the next heading of
/// its level or above.
///
/// # Panics
/// Where there is no such heading.
#[must_use]
pub fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let at = page
        .find(&format!("\n{heading}"))
        .unwrap_or_else(|| panic!("no heading {heading:?}"));
    let body = &page[at + 1..];
    let level = heading.bytes().take_while(|b| *b == b'#').count();
    let end = (1..=level)
        .filter_map(|n| body.find(&format!("\n{} ", "#".repeat(n))))
        .min();
    &body[..end.unwrap_or(body.len())]
}

/// All Rust sources below a directory, joined.
///
/// # Panics
/// Where something there cannot be read.
#[must_use]
pub fn sources(dir: &Path) -> String {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let text = |path: PathBuf| match path {
        path if path.is_dir() => sources(&path),
        path if path.extension().is_some_and(|extension| extension == "rs") => {
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        }
        _ => String::new(),
    };
    entries.flatten().map(|entry| text(entry.path())).collect()
}
