//! The text that stands below the options in a `--help`, as sections of a
//! manual page.

/// A part of a text: what its heading says, and its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) heading: String,
    pub(crate) body: String,
    /// Whether the lines are kept as they are, or flow as a paragraph does.
    pub(crate) kept: bool,
}

/// Splits a text. A heading is an unindented line that ends in a colon, and its
/// body is indented; an unindented line without one is a paragraph.
pub(crate) fn sections(text: &str) -> Vec<Section> {
    let mut all: Vec<Section> = Vec::new();
    for line in text.lines() {
        let outside = !line.is_empty() && !line.starts_with(' ');
        let (heading, body, kept) = match line.strip_suffix(':') {
            Some(heading) if outside => (heading, "", true),
            _ if outside => ("Notes", line, false),
            _ => {
                if let Some(section) = all.last_mut() {
                    section.body.push('\n');
                    section.body.push_str(line);
                }
                continue;
            }
        };
        all.push(Section {
            heading: title(heading),
            body: body.to_owned(),
            kept,
        });
    }
    for section in &mut all {
        section.body = section.body.trim_matches('\n').to_owned();
    }
    all
}

/// The usual name of a section.
fn title(heading: &str) -> String {
    match heading {
        "Exit codes" => "EXIT STATUS".to_owned(),
        // "SPEC, remote first": what is behind the comma is for the terminal.
        other => other.split(',').next().unwrap_or(other).to_uppercase(),
    }
}

/// Longest line that is kept as it is, in characters: a longer one is prose that
/// a terminal would cut.
const WIDEST: usize = 100;

/// A section in roff.
pub(crate) fn roff(section: &Section) -> String {
    let mut out = format!(".SH \"{}\"\n", section.heading);
    let indent = indentation(&section.body);
    for line in section.body.lines() {
        let line = line.get(indent..).unwrap_or_default();
        match line.chars().count() {
            // An empty line is a fault to the judges of roff.
            0 => out.push_str(".PP\n"),
            width if section.kept && width <= WIDEST => {
                out.push_str(&format!(".nf\n{}\n.fi\n", escape(line)));
            }
            _ => out.push_str(&format!("{}\n", escape(line))),
        }
    }
    out.replace(".fi\n.nf\n", "")
}

/// By how much all lines are indented, in spaces.
fn indentation(body: &str) -> usize {
    let lines = body.lines().filter(|line| !line.trim().is_empty());
    let widths = lines.map(|line| line.len() - line.trim_start_matches(' ').len());
    widths.min().unwrap_or(0)
}

/// A line as roff shows it: no character of it is a request.
pub(crate) fn escape(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    let text = text
        .replace('`', "\\(ga")
        .replace('\'', "\\(aq")
        .replace('~', "\\(ti");
    match text.starts_with('.') {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_start_sections_and_lone_lines_are_notes() {
        let text =
            "SPEC, remote first:\n  a := b\n\n  c\n\nIt ends so.\n\nExit codes:\n    0  done";
        let all = sections(text);
        let headings: Vec<_> = all.iter().map(|s| s.heading.as_str()).collect();
        assert_eq!(headings, ["SPEC", "NOTES", "EXIT STATUS"]);
        assert_eq!(all[0].body, "  a := b\n\n  c");
        assert_eq!((all[1].body.as_str(), all[1].kept), ("It ends so.", false));
    }

    #[test]
    fn lines_are_kept_and_prose_flows() {
        let section = Section {
            heading: "EXIT STATUS".to_owned(),
            body: format!("    0  done\n    1  not\n  {}", "word ".repeat(30).trim()),
            kept: true,
        };
        let text = roff(&section);
        let (kept, flowing) = text.split_once(".fi\n").expect("ends");
        assert_eq!(kept, ".SH \"EXIT STATUS\"\n.nf\n  0  done\n  1  not\n");
        assert!(flowing.starts_with("word word"), "{flowing}");
        assert!(!flowing.contains(".nf"), "{flowing}");
    }

    #[test]
    fn nothing_in_a_text_is_a_request() {
        assert_eq!(escape(".TH x"), "\\&.TH x");
        assert_eq!(escape("'br \\fB -v"), "\\(aqbr \\efB \\-v");
    }
}
