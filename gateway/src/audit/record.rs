//! What a line of the audit log says. Fields are listed in docs/operations.md.

use super::hex;
use crate::carry::Carried;
use crate::grant::millis;
use crate::identity::User;
use crate::request::ForwardRequest;
use crate::route::Route;
use serde::Serialize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::Failure;
use time::UtcDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Version of the lines: fields are added within one, never renamed or removed.
const VERSION: u32 = 1;

/// Most bytes of a string that somebody else chose.
const MAX_STRING: usize = 256;

/// Most bytes of a sentence.
const MAX_SENTENCE: usize = 1024;

/// Most groups of a requester; whoever has more is known by the first.
const MAX_GROUPS: usize = 32;

/// The last moment that four digits of a year can say, in seconds since 1970.
const LAST: u64 = 253_402_300_799;

/// What a record is about; what is not known yet is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct About {
    requester: Requester,
    pod: Pod,
    #[serde(skip_serializing_if = "String::is_empty")]
    node: String,
    listeners: Vec<Listener>,
    #[serde(skip_serializing_if = "String::is_empty")]
    grant_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    session_id: String,
    resumed: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Requester {
    user: String,
    uid: String,
    groups: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Pod {
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Listener {
    address: String,
    port: u16,
}

impl About {
    /// A user who asks for something in a pod.
    #[must_use]
    pub fn new(user: &User, namespace: &str, pod: &str) -> Self {
        let mut groups: Vec<String> = user.groups.iter().take(MAX_GROUPS).map(short).collect();
        if let Some(more) = user.groups.len().checked_sub(MAX_GROUPS).filter(|n| *n > 0) {
            groups.push(format!("{more} more ..."));
        }
        Self {
            requester: Requester {
                user: short(&user.name),
                uid: short(&user.uid),
                groups,
            },
            pod: Pod {
                namespace: short(&namespace),
                name: short(&pod),
                uid: String::new(),
            },
            ..Self::default()
        }
    }

    /// What it asks for; with a ticket of a session that is there already, or
    /// without.
    pub fn asks(&mut self, asked: &ForwardRequest, resumed: bool) {
        let listeners = asked.listeners.iter().map(|one| Listener {
            address: one.to_proto().address,
            port: one.port,
        });
        self.listeners = listeners.collect();
        self.resumed = resumed;
    }

    /// Where it leads, by which grant.
    pub fn leads(&mut self, route: &Route, grant: &[u8]) {
        self.pod.uid = short(&route.pod.uid);
        self.node = short(&route.node);
        self.grant_id = hex(grant);
    }

    /// The session that the node made.
    pub fn made(&mut self, session_id: &str) {
        self.session_id = short(&session_id);
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A forward was refused.
    Refused(&'a Failure),
    /// The client went away before it was refused or a tunnel was carried.
    Abandoned,
    /// A tunnel is carried.
    TunnelStart,
    /// It ended, after so long.
    TunnelEnd(Carried, Duration),
    /// Records found no room.
    Lost {
        /// How many.
        lost: u64,
    },
}

/// A line.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    version: u32,
    id: &'a str,
    time: String,
    event: &'static str,
    #[serde(flatten)]
    about: Option<&'a About>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_from_node: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_to_node: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

impl<'a> Record<'a> {
    /// One, with its end.
    pub(super) fn line(
        id: &'a str,
        about: Option<&'a About>,
        event: &Event<'_>,
        now: SystemTime,
    ) -> String {
        let mut record = Self {
            version: VERSION,
            id,
            time: rfc3339(now),
            event: "",
            about,
            end: None,
            message: None,
            bytes_from_node: None,
            bytes_to_node: None,
            duration_ms: None,
            lost: None,
        };
        match event {
            Event::Refused(failure) => {
                record.event = "refused";
                record.end = Some(failure.reason.label());
                record.message = Some(cut(&failure.message, MAX_SENTENCE));
            }
            Event::Abandoned => record.event = "abandoned",
            Event::TunnelStart => record.event = "tunnel_start",
            Event::TunnelEnd(carried, duration) => {
                record.event = "tunnel_end";
                record.end = Some(carried.end.label());
                record.bytes_from_node = Some(carried.from_node);
                record.bytes_to_node = Some(carried.to_node);
                record.duration_ms = Some(millis(*duration));
            }
            Event::Lost { lost } => {
                record.event = "lost";
                record.lost = Some(*lost);
            }
        }
        // Strings and numbers alone: there is nothing that could fail.
        serde_json::to_string(&record).unwrap_or_default() + "\n"
    }
}

fn short(text: &(impl AsRef<str> + ?Sized)) -> String {
    cut(text.as_ref(), MAX_STRING)
}

/// The beginning of a text that is too long.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let whole = (0..=most).rev().find(|at| text.is_char_boundary(*at));
    format!("{} ...", &text[..whole.unwrap_or(0)])
}

/// A time as RFC 3339 in UTC, to the microsecond.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    const FORM: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let last = UNIX_EPOCH + Duration::new(LAST, 999_999_000);
    let time = UtcDateTime::from(time.clamp(UNIX_EPOCH, last));
    // Every part that the form names is there.
    time.format(FORM).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carry::End;
    use serde_json::{Value, json};
    use sternline_api::Reason;
    use sternline_api::v1alpha1 as pb;

    fn about() -> About {
        let user = User {
            name: "ada".to_owned(),
            uid: "7".to_owned(),
            groups: (0..40).map(|n| format!("g{n}")).collect(),
            ..User::default()
        };
        About::new(&user, "shop", "web-0")
    }

    fn line(about: &About, event: &Event<'_>) -> Value {
        let line = Record::line("r-1", Some(about), event, UNIX_EPOCH);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        serde_json::from_str(&line).expect("JSON")
    }

    #[test]
    fn a_refusal_says_who_wanted_what() {
        let failure = Failure::new(Reason::Forbidden, "may\nnot");
        let line = line(&about(), &Event::Refused(&failure));
        assert_eq!(line["time"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(line["event"], "refused");
        assert_eq!(line["end"], "forbidden");
        assert_eq!(line["message"], "may\nnot");
        assert_eq!(line["requester"]["user"], "ada");
        let groups = line["requester"]["groups"].as_array().expect("a list");
        assert_eq!((groups.len(), &groups[32]), (33, &json!("8 more ...")));
        assert_eq!(line["pod"], json!({"namespace": "shop", "name": "web-0"}));
        assert!(line.get("grant_id").is_none() && line.get("node").is_none());
    }

    #[test]
    fn a_tunnel_says_where_it_led_and_what_it_carried() {
        let mut about = about();
        let asked = ForwardRequest::parse("shop", "web-0", "listen=80&listen=0.0.0.0:81");
        about.asks(&asked.expect("sound"), true);
        let route = Route {
            pod: pb::Pod {
                uid: "u1".to_owned(),
                ..pb::Pod::default()
            },
            node: "worker-1".to_owned(),
            shim: "10.0.0.1:1".parse().expect("an address"),
        };
        about.leads(&route, &[0xab, 0x01]);
        about.made("s1");
        let carried = Carried {
            from_node: 3,
            to_node: 4,
            end: End::Client,
        };
        let line = line(
            &about,
            &Event::TunnelEnd(carried, Duration::from_millis(1500)),
        );
        assert_eq!(line["event"], "tunnel_end");
        assert_eq!(line["end"], "client_closed");
        assert_eq!(line["pod"]["uid"], "u1");
        assert_eq!(
            (&line["node"], &line["grant_id"]),
            (&json!("worker-1"), &json!("ab01"))
        );
        assert_eq!(
            (&line["session_id"], &line["resumed"]),
            (&json!("s1"), &json!(true))
        );
        let listeners = json!([{"address": "", "port": 80}, {"address": "0.0.0.0", "port": 81}]);
        assert_eq!(line["listeners"], listeners);
        assert_eq!(
            (&line["bytes_from_node"], &line["bytes_to_node"]),
            (&json!(3), &json!(4))
        );
        assert_eq!(line["duration_ms"], 1500);
    }

    #[test]
    fn what_others_chose_is_bounded() {
        let user = User {
            name: "ä".repeat(1000),
            ..User::default()
        };
        let line = line(&About::new(&user, "shop", "web-0"), &Event::TunnelStart);
        let name = line["requester"]["user"].as_str().expect("text");
        assert!(name.ends_with("ä ...") && name.len() <= 260, "{name}");
    }
}
