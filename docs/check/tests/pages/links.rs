//! Links between pages lead somewhere.

use sternline_docs::{pages, read, root};

/// The anchor that a heading gets: lower case, spaces to hyphens, the rest of
/// the punctuation dropped.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

fn has_anchor(page: &str, wanted: &str) -> bool {
    read(page)
        .lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| anchor(line.trim_start_matches('#').trim()) == wanted)
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let mut seen = 0;
    for page in pages() {
        let text = read(&page);
        for link in text.split("](").skip(1) {
            let Some((link, _)) = link.split_once(')') else {
                continue;
            };
            if link.contains("://") {
                continue;
            }
            seen += 1;
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let dir = if page.starts_with("docs/") {
                "docs"
            } else {
                ""
            };
            let file = root().join(dir).join(path);
            assert!(
                path.is_empty() || file.exists(),
                "{page}: no file for {link}"
            );
            if !fragment.is_empty() {
                let target = match path {
                    "" => page.clone(),
                    path => format!("{dir}/{path}").trim_start_matches('/').to_owned(),
                };
                assert!(
                    has_anchor(&target, fragment),
                    "{page}: no heading for {link}"
                );
            }
        }
    }
    assert!(
        seen > 10,
        "only {seen} links were found: the search is broken"
    );
}
