//! What `deploy/monitoring` asks for is there: metrics, recorded series,
//! runbooks.

use std::collections::BTreeSet;
use sternline_docs::read;
use sternline_gateway::metrics as of_gateway;
use sternline_shim::metrics as of_shim;

const RULES: &str = "deploy/monitoring/rules.yaml";
const TESTS: &str = "deploy/monitoring/rules.test.yaml";
const DASHBOARD: &str = "deploy/monitoring/dashboard.json";

/// Words of a text that start so.
fn words(text: &str, start: &str) -> BTreeSet<String> {
    let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !of_word(c))
        .map(|word| word.trim_end_matches(':'))
        .filter(|word| word.starts_with(start) && word.len() > start.len())
        .map(str::to_owned)
        .collect()
}

/// Every metric of shims and gateways, and whether it is a histogram.
fn metrics() -> Vec<(&'static str, bool)> {
    let shim = of_shim::ALL.iter();
    let shim = shim.map(|one| (one.name, one.kind == of_shim::Kind::Histogram));
    let gateway = of_gateway::ALL.iter();
    let gateway = gateway.map(|one| (one.name, one.kind == of_gateway::Kind::Histogram));
    shim.chain(gateway).collect()
}

/// The names under which each metric can be asked for.
fn known() -> BTreeSet<String> {
    let all = metrics()
        .into_iter()
        .flat_map(|(name, histogram)| match histogram {
            true => ["_bucket", "_sum", "_count"]
                .map(|part| format!("{name}{part}"))
                .to_vec(),
            false => vec![name.to_owned()],
        });
    all.collect()
}

/// What stands behind a key of the rules, in each line that has it.
fn values<'a>(text: &'a str, key: &'a str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key))
        .map(str::trim)
        .collect()
}

#[test]
fn every_metric_of_dashboard_and_rules_is_served() {
    let known = known();
    for path in [RULES, TESTS, DASHBOARD] {
        let asked = words(&read(path), "sternline_");
        assert!(asked.len() > 5, "{path} asks for {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{path} asks for {unknown:?}");
    }
}

#[test]
fn every_metric_is_shown_or_watched() {
    let asked = words(&(read(RULES) + &read(DASHBOARD)), "sternline_");
    for (name, _) in metrics() {
        let shown = asked.iter().any(|asked| {
            let rest = asked.strip_prefix(name);
            rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        });
        assert!(shown, "{name} is on no panel and in no rule");
    }
}

#[test]
fn every_recorded_series_that_is_asked_for_is_recorded() {
    let rules = read(RULES);
    let recorded: BTreeSet<_> = values(&rules, "record:").into_iter().collect();
    let asked = words(&(rules.clone() + &read(DASHBOARD)), "sternline:");
    assert!(asked.len() > 3, "{asked:?}");
    for series in &asked {
        assert!(
            recorded.contains(series.as_str()),
            "{series} is not recorded"
        );
    }
}

#[test]
fn every_alert_has_a_runbook_and_a_test() {
    let (rules, tests, page) = (read(RULES), read(TESTS), read("docs/operations.md"));
    let alerts = values(&rules, "alert:");
    let runbooks = values(&rules, "runbook_url:");
    assert!(alerts.len() > 5, "{alerts:?}");
    let expected: Vec<String> = alerts
        .iter()
        .map(|alert| format!("docs/operations.md#alert-{}", alert.to_lowercase()))
        .collect();
    assert_eq!(runbooks, expected);
    let mut headings: Vec<_> = values(&page, "### Alert ");
    headings.sort_unstable();
    let mut sorted = alerts.clone();
    sorted.sort_unstable();
    assert_eq!(headings, sorted);
    for alert in alerts {
        let raised = format!("- alertname: {alert}\n");
        assert!(tests.contains(&raised), "no test raises {alert}");
        let quiet = format!("- {{alertname: {alert}, ");
        assert!(tests.contains(&quiet), "no test keeps {alert} quiet");
    }
}

#[test]
fn every_panel_of_the_dashboard_asks_for_something() {
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "{} twice", panel["id"]);
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            let expr = target["expr"].as_str().expect("a query");
            assert!(expr.contains("sternline"), "{}: {expr}", panel["title"]);
        }
    }
}
