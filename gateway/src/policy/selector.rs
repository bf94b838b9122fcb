//! Which labels a selector selects (`meta/v1`, `LabelSelector`).

use serde::Deserialize;
use std::collections::BTreeMap;

/// A selector; an empty one selects everything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Selector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Expression {
    key: String,
    operator: String,
    values: Vec<String>,
}

impl Selector {
    /// Whether it selects something with these labels.
    pub(super) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut pairs = self.match_labels.iter();
        let mut expressions = self.match_expressions.iter();
        pairs.all(|(key, value)| labels.get(key) == Some(value))
            && expressions.all(|one| one.holds(labels))
    }
}

impl Expression {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            // Of a later Kubernetes. It narrows what is selected: that it does not
            // is the safe side here.
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn selects(selector: Value) -> bool {
        let selector: Selector = serde_json::from_value(selector).expect("a selector");
        let labels = [("app", "web"), ("tier", "front")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        selector.selects(&labels.into())
    }

    #[test]
    fn labels_and_expressions_must_all_hold() {
        assert!(selects(json!({})));
        assert!(selects(
            json!({"matchLabels": {"app": "web", "tier": "front"}})
        ));
        assert!(!selects(
            json!({"matchLabels": {"app": "web", "tier": "back"}})
        ));
        let one = |key: &str, operator: &str, values: Value| {
            selects(json!({"matchExpressions": [
                {"key": key, "operator": operator, "values": values},
            ]}))
        };
        assert!(one("app", "In", json!(["db", "web"])));
        assert!(!one("app", "In", json!(["db"])));
        assert!(!one("zone", "In", json!(["db"])));
        assert!(one("zone", "NotIn", json!(["db"])));
        assert!(!one("app", "NotIn", json!(["web"])));
        assert!(one("app", "Exists", json!([])));
        assert!(!one("zone", "Exists", json!([])));
        assert!(one("zone", "DoesNotExist", json!([])));
        assert!(one("zone", "Invented", json!([])));
        let both = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}],
        });
        assert!(!selects(both));
    }
}
