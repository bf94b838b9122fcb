//! Label selectors, as a query has them.

use serde::Deserialize;
use std::collections::BTreeMap;

/// `meta/v1`, `LabelSelector`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LabelSelector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<Requirement>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

impl LabelSelector {
    /// For a query; `None` if it is empty, which would be every pod, or has a
    /// requirement that is not known, which would be too many.
    pub(super) fn to_query(&self) -> Option<String> {
        let labels = self.match_labels.iter().flatten();
        let mut parts: Vec<_> = labels
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        for one in self.match_expressions.iter().flatten() {
            let values = one.values.clone().unwrap_or_default().join(",");
            let key = &one.key;
            parts.push(match one.operator.as_str() {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.clone(),
                "DoesNotExist" => format!("!{key}"),
                _ => return None,
            });
        }
        Some(parts.join(",")).filter(|query| !query.is_empty())
    }
}

/// For a query; `None` if there are no labels.
pub(super) fn of_labels(labels: &BTreeMap<String, String>) -> Option<String> {
    let parts: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    Some(parts.join(",")).filter(|query| !query.is_empty())
}
