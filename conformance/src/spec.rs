//! What a spec is.

use crate::{context::Context, specs, verdict::Step};
use std::{fmt, pin::Pin};

/// How binding a spec is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A MUST of the protocol: an implementation that fails does not conform.
    Required,
    /// A SHOULD.
    Recommended,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Recommended => "recommended",
        })
    }
}

pub(crate) type Run = for<'a> fn(&'a Context) -> Pin<Box<dyn Future<Output = Step> + Send + 'a>>;

/// One requirement and the steps that check it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// Stable: `theme.what`.
    pub(crate) id: &'static str,
    pub(crate) level: Level,
    /// Section of `docs/protocol.md`.
    pub(crate) section: &'static str,
    /// `slow`: may wait over 10 s. `serial`: needs the node for itself.
    pub(crate) labels: &'static [&'static str],
    /// The requirement in one sentence.
    pub(crate) text: &'static str,
    pub(crate) run: Run,
}

/// `spec!(required "id", "section", [labels], "sentence", function)`.
macro_rules! spec {
    ($level:ident $id:literal, $section:literal, [$($label:literal),*], $text:literal, $run:ident) => {
        $crate::spec::Spec {
            id: $id,
            level: spec!(@level $level),
            section: $section,
            labels: &[$($label),*],
            text: $text,
            run: |context| Box::pin($run(context)),
        }
    };
    (@level required) => { $crate::spec::Level::Required };
    (@level recommended) => { $crate::spec::Level::Recommended };
}
pub(crate) use spec;

impl Spec {
    pub(crate) fn theme(&self) -> &'static str {
        self.id.split('.').next().unwrap_or(self.id)
    }

    pub(crate) fn is_serial(&self) -> bool {
        self.labels.contains(&"serial")
    }
}

/// A spec as `--list` and the page about the suite tell it.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Its stable name.
    pub id: &'static str,
    /// How binding it is.
    pub level: Level,
    /// The section of `docs/protocol.md` that it enforces.
    pub section: &'static str,
    /// Labels for `--label`.
    pub labels: &'static [&'static str],
    /// The requirement.
    pub text: &'static str,
}

/// Every spec, in the order of the table.
#[must_use]
pub fn all() -> Vec<Summary> {
    specs::all()
        .map(|spec| Summary {
            id: spec.id,
            level: spec.level,
            section: spec.section,
            labels: spec.labels,
            text: spec.text,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_and_name_a_theme() {
        let mut seen = HashSet::new();
        for spec in all() {
            assert!(seen.insert(spec.id), "{} twice", spec.id);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            assert!(spec.id.chars().all(plain), "{}", spec.id);
            assert_eq!(spec.id.matches('.').count(), 1, "{}", spec.id);
            assert!(spec.text.ends_with('.'), "{}: {}", spec.id, spec.text);
        }
        assert!(seen.len() >= 60, "{} specs", seen.len());
    }

    #[test]
    fn sections_are_those_of_the_protocol() {
        let page = include_str!("../../docs/protocol.md");
        for spec in all() {
            let heads = [
                format!("## {} ", spec.section),
                format!("### {} ", spec.section),
            ];
            let found = page
                .lines()
                .any(|line| heads.iter().any(|head| line.starts_with(head)));
            assert!(found, "{}: section {}", spec.id, spec.section);
        }
    }

    #[test]
    fn the_page_lists_every_spec_as_it_is() {
        let page = include_str!("../../docs/conformance.md");
        let listed: Vec<_> = page
            .lines()
            .filter(|line| line.contains("` | re"))
            .collect();
        let rows: Vec<_> = all()
            .iter()
            .map(|spec| {
                let labels = spec.labels.join(", ");
                let (id, level, section, text) = (spec.id, spec.level, spec.section, spec.text);
                format!("| `{id}` | {level} | {section} | {labels} | {text} |")
            })
            .collect();
        assert_eq!(listed, rows);
    }
}
