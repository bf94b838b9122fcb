//! `docs/protocol.md` says what the code says.

use sternline_api::protocol;
use sternline_api::reason::{Reason, Reset};
use sternline_docs::{read, rows, section};

/// `InvalidArgument` as gRPC spells it: `INVALID_ARGUMENT`.
fn grpc(reason: Reason) -> String {
    let name = format!("{:?}", reason.grpc());
    let mut spelled = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !spelled.is_empty() && name != "Ok" {
            spelled.push('_');
        }
        spelled.push(c.to_ascii_uppercase());
    }
    spelled
}

fn reset(reason: Reason) -> &'static str {
    match reason.reset() {
        Reset::Cancel => "CANCEL",
        Reset::Refused => "REFUSED_STREAM",
        Reset::Connect => "CONNECT_ERROR",
        Reset::Protocol => "PROTOCOL_ERROR",
        Reset::Internal => "INTERNAL_ERROR",
    }
}

#[test]
fn the_error_table_is_the_one_of_the_code() {
    let page = read("docs/protocol.md");
    let (_, table) = page
        .split_once("## 11 The error table")
        .expect("section 11");
    let (table, _) = table.split_once("\n## ").expect("section 12");
    let written: Vec<Vec<String>> = rows(table)
        .into_iter()
        .skip(1)
        .map(|row| row.into_iter().take(5).collect())
        .collect();
    let real: Vec<Vec<String>> = Reason::ALL
        .iter()
        .map(|reason| {
            vec![
                format!("`{}`", reason.label()),
                grpc(*reason),
                reason.http().as_u16().to_string(),
                reset(*reason).to_owned(),
                reason.exit().to_string(),
            ]
        })
        .collect();
    for (written, real) in written.iter().zip(&real) {
        assert_eq!(written, real);
    }
    assert_eq!(written.len(), real.len(), "rows of the table");
}

#[test]
fn failed_dials_are_listed_as_the_code_answers_them() {
    let page = read("docs/protocol.md");
    let mut seen = 0;
    for row in rows(section(&page, "### 6.2 ")) {
        let [status, error, _, word] = row.as_slice() else {
            continue;
        };
        let Some(reason) = Reason::from_label(word.trim_matches('`')) else {
            continue;
        };
        seen += 1;
        assert_eq!(status, reason.http().as_str(), "{word}");
        assert_eq!(
            error.trim_matches('`'),
            reason.proxy_status().unwrap_or_default(),
            "{word}"
        );
    }
    assert_eq!(seen, 7);
}

#[test]
fn names_of_the_wire_are_spelled_alike() {
    let page = read("docs/protocol.md");
    for name in [
        protocol::STREAM_PROTOCOL,
        protocol::SESSIONS_PATH,
        protocol::CONTROL_PROTOCOL,
        protocol::LISTENER_HEADER,
        protocol::REASON_METADATA,
        protocol::DEFAULT_SOCKET,
        protocol::UNIX_SCHEME,
        "Sternline-Protocol: v1alpha1",
        "Upgrade: sternline",
        "65,536 bytes",
    ] {
        assert!(
            page.contains(name),
            "docs/protocol.md does not say {name:?}"
        );
    }
    assert!("Sternline-Protocol".eq_ignore_ascii_case(protocol::PROTOCOL_HEADER));
    assert_eq!(protocol::UPGRADE_RAW, "sternline");
    assert_eq!(protocol::MAX_CONTROL_MESSAGE, 65_536);
}
