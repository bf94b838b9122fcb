//! The form of an Upgrade, which a gateway passes through as it came.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use sternline_api::protocol::{
    PROTOCOL_HEADER, STREAM_PROTOCOLS, UPGRADE_RAW, UPGRADE_WEBSOCKET, choose_protocol,
};
use sternline_api::{Failure, Reason};

/// The fields of one request that make its Upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    upgrade: &'static str,
    fields: HeaderMap,
}

impl Form {
    /// Reads what a client asks for. What no node could serve is refused here,
    /// before anything is bound.
    ///
    /// # Errors
    /// No Upgrade, another one, or no protocol in common.
    pub fn read(version: Version, headers: &HeaderMap) -> Result<Self, Failure> {
        let is = |wanted| has_word(headers, &header::UPGRADE, wanted);
        let upgrade = [UPGRADE_RAW, UPGRADE_WEBSOCKET]
            .into_iter()
            .find(|one| is(one));
        let connection = has_word(headers, &header::CONNECTION, "upgrade");
        let upgrade = upgrade
            .filter(|_| connection && version == Version::HTTP_11)
            .ok_or_else(|| {
                Failure::new(
                    Reason::UpgradeRequired,
                    "forwards are opened with an Upgrade to websocket or sternline: does something on the way to the API server strip it?",
                )
            })?;
        let raw = HeaderName::from_static(PROTOCOL_HEADER);
        let (names, protocols) = match upgrade == UPGRADE_RAW {
            true => (vec![raw.clone()], raw),
            false => (
                vec![
                    header::SEC_WEBSOCKET_KEY,
                    header::SEC_WEBSOCKET_VERSION,
                    header::SEC_WEBSOCKET_PROTOCOL,
                ],
                header::SEC_WEBSOCKET_PROTOCOL,
            ),
        };
        let offered = headers.get_all(&protocols).iter();
        let offered: Vec<&str> = offered.filter_map(|value| value.to_str().ok()).collect();
        if choose_protocol(&offered.join(",")).is_none() {
            return Err(Failure::new(
                Reason::VersionUnsupported,
                format!(
                    "the client speaks {:?}, and this gateway {}: use releases that go together",
                    offered.join(", "),
                    STREAM_PROTOCOLS.join(", ")
                ),
            ));
        }
        Ok(Self {
            upgrade,
            fields: only(headers, &names),
        })
    }

    /// The fields for the request to the node.
    #[must_use]
    pub fn request(&self) -> HeaderMap {
        let mut fields = self.fields.clone();
        fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.insert(header::UPGRADE, HeaderValue::from_static(self.upgrade));
        fields
    }

    /// The fields for the answer to the client, of the node's.
    ///
    /// # Errors
    /// The node switched to something else.
    pub fn answer(&self, headers: &HeaderMap) -> Result<HeaderMap, Failure> {
        if !has_word(headers, &header::UPGRADE, self.upgrade) {
            return Err(Failure::new(
                Reason::ProtocolError,
                format!(
                    "the node switched to another protocol than {}",
                    self.upgrade
                ),
            ));
        }
        let names = match self.upgrade {
            UPGRADE_RAW => vec![HeaderName::from_static(PROTOCOL_HEADER)],
            _ => vec![header::SEC_WEBSOCKET_ACCEPT, header::SEC_WEBSOCKET_PROTOCOL],
        };
        let mut fields = only(headers, &names);
        fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        fields.insert(header::UPGRADE, HeaderValue::from_static(self.upgrade));
        Ok(fields)
    }
}

fn only(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for name in names {
        for value in headers.get_all(name) {
            fields.append(name.clone(), value.clone());
        }
    }
    fields
}

/// Whether a list of words has this one, whatever its case.
fn has_word(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter();
    let mut words = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternline_api::protocol::STREAM_PROTOCOL;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).expect("a value"))
        });
        fields.collect()
    }

    fn websocket() -> Vec<(&'static str, &'static str)> {
        vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", STREAM_PROTOCOL),
        ]
    }

    fn raw() -> Vec<(&'static str, &'static str)> {
        vec![
            ("connection", "Upgrade"),
            ("upgrade", "sternline"),
            ("sternline-protocol", STREAM_PROTOCOL),
        ]
    }

    fn read(fields: &[(&'static str, &str)]) -> Result<Form, Failure> {
        Form::read(Version::HTTP_11, &headers(fields))
    }

    #[test]
    fn each_form_goes_through_as_it_came_and_nothing_else_does() {
        let others = [
            ("authorization", "Bearer secret"),
            ("x-remote-user", "ada"),
            ("sternline-ticket", "t"),
            ("cookie", "c"),
        ];
        for (form, upgrade, fields) in [(websocket(), "websocket", 3), (raw(), "sternline", 1)] {
            let form = [form.as_slice(), &others].concat();
            let sent = read(&form).expect("one").request();
            assert_eq!(sent.len(), fields + 2, "{sent:?}");
            assert_eq!(sent["upgrade"], upgrade);
            assert_eq!(sent["connection"], "Upgrade");
        }
        let sent = read(&websocket()).expect("one").request();
        assert_eq!(sent["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn what_no_node_could_serve_is_refused_at_once() {
        let refused = |fields: &[(&'static str, &str)]| read(fields).expect_err("refused").reason;
        assert_eq!(refused(&[]), Reason::UpgradeRequired);
        assert_eq!(
            refused(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]),
            Reason::UpgradeRequired
        );
        assert_eq!(refused(&raw()[1..]), Reason::UpgradeRequired);
        assert_eq!(refused(&raw()[..2]), Reason::VersionUnsupported);
        let mut other = websocket();
        other[4].1 = "v9.reverse.sternline.dev";
        assert_eq!(refused(&other), Reason::VersionUnsupported);
        let old = Form::read(Version::HTTP_10, &headers(&raw()));
        assert_eq!(old.expect_err("HTTP/1.0").reason, Reason::UpgradeRequired);
    }

    #[test]
    fn the_answer_must_be_to_what_was_asked() {
        let form = read(&websocket()).expect("one");
        let answered = form.answer(&headers(&[
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", "abc"),
            ("sec-websocket-protocol", STREAM_PROTOCOL),
            ("set-cookie", "a=b"),
        ]));
        let answered = answered.expect("ours");
        assert_eq!(answered.len(), 4, "{answered:?}");
        assert_eq!(answered["sec-websocket-accept"], "abc");
        for other in [&raw()[..], &[]] {
            let refused = form.answer(&headers(other)).expect_err("another protocol");
            assert_eq!(refused.reason, Reason::ProtocolError);
        }
    }
}
