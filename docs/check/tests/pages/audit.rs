//! The audit log has the fields and events that `docs/operations.md` lists, and
//! no others.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};
use sternline_api::Reason;
use sternline_api::v1alpha1::Requester;
use sternline_docs::{code, read, rows, section};
use sternline_shim::audit::{Audit, Clock, Connection, Listener, SessionEnd, Subject};
use sternline_shim::binder::PodRef;
use sternline_shim::config::{AuditArgs, AuditTarget};

const PAGE: &str = "docs/operations.md";

/// What a field is, and in which events it stands.
type Fields = BTreeMap<String, (String, BTreeSet<String>)>;

struct Noon;

impl Clock for Noon {
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 3600)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// Everything that can happen, as it is written; the smallest queue there is
/// overflows on the way.
fn written() -> Vec<Value> {
    let dir = tempfile::TempDir::new().expect("directory");
    let path = dir.path().join("audit.log");
    let args = AuditArgs {
        audit_log: None,
        audit_queue: 16,
        audit_required: false,
    };
    let target = AuditTarget::Path(path.clone());
    let clock = std::sync::Arc::new(Noon);
    let audit = Audit::open_with(&target, &args, clock).expect("opened");
    let requester = Requester {
        user: "uid:1".into(),
        uid: "1".into(),
        groups: vec!["gid:1".into()],
    };
    let pod = PodRef {
        namespace: "default".into(),
        name: "web".into(),
        uid: "u".into(),
    };
    let session = audit.session(|| Subject::new("s", &requester, "sandbox", Some(&pod)));
    let addr = "127.0.0.1:80".parse().expect("address");
    let listener = Listener { id: 0, addr };
    let connection = Connection {
        listener,
        peer: addr,
        bytes_from_pod: 1,
        bytes_to_pod: 2,
        duration: Duration::ZERO,
        end: "ok",
    };
    session.started(vec![listener], Duration::ZERO);
    session.listeners_changed(|| vec![listener]);
    session.rejected(Reason::ConnectionLimit);
    let lines = |wanted: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(&path).expect("text");
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        let parse = |line| serde_json::from_str(line).expect("JSON");
        let lines: Vec<Value> = whole.lines().map(parse).collect();
        match lines.iter().any(|line| line["event"] == wanted) {
            true => lines,
            false => Vec::new(),
        }
    };
    let mut turns = 0;
    while lines("lost").is_empty() {
        assert!(turns < 1000, "nothing was lost");
        turns += 1;
        for _ in 0..1000 {
            session.connection(connection);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    session.ended(SessionEnd::new("done", "over"));
    drop(session);
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("executor");
    executor.block_on(audit.close(Duration::from_secs(20)));
    lines("shim_end")
}

/// The leaves of a value, as paths.
fn leaves(path: &str, value: &Value, event: &str, all: &mut Fields) {
    let kind = match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(&format!("{path}{dot}{name}"), value, event, all);
            }
            return;
        }
        Value::Array(items) => {
            assert!(!items.is_empty(), "{event}: {path} shows nothing");
            for item in items {
                leaves(&format!("{path}[]"), item, event, all);
            }
            return;
        }
        Value::String(_) => "string",
        Value::Number(_) => "number",
        other => panic!("{event}: {path} is {other}"),
    };
    let (known, events) = all.entry(path.to_owned()).or_default();
    *known = kind.to_owned();
    events.insert(event.to_owned());
}

/// The fields as the page has them; "as `x`" stands for the events of `x`.
fn listed(events: &BTreeSet<String>) -> Fields {
    let page = read(PAGE);
    let mut all = Fields::new();
    for row in rows(section(&page, "## Audit log")) {
        let [field, place, kind, _] = row.as_slice() else {
            continue;
        };
        if field == "field" {
            continue;
        }
        let field = field.replace('`', "");
        let named = || code(place).next().unwrap_or_default();
        let of = match place.as_str() {
            "all" => events.clone(),
            place if place.starts_with("as ") => all[named()].1.clone(),
            place => code(place).map(str::to_owned).collect(),
        };
        let twice = all.insert(field.clone(), (kind.clone(), of));
        assert!(twice.is_none(), "{field} stands twice");
    }
    all
}

#[test]
fn every_field_of_the_audit_log_is_listed_and_every_listed_one_is_written() {
    let page = read(PAGE);
    let mut found = Fields::new();
    let mut events = BTreeSet::new();
    for line in written() {
        let event = line["event"].as_str().expect("event");
        events.insert(event.to_owned());
        leaves("", &line, event, &mut found);
    }
    assert_eq!(found, listed(&events));
    let told: BTreeSet<String> = rows(section(&page, "## Audit log"))
        .iter()
        .filter(|row| row.len() == 2 && row[0] != "event")
        .flat_map(|row| code(&row[0]).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_eq!(events, told);
}
