//! What is left with the binder about a session, so that the next serve goes on
//! with it: everything but its sockets, which lie beside it.

use super::{Session, since_epoch};
use crate::binder::wire;
use crate::cache::Verifier;
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::{Failure, Reason, v1alpha1 as pb};

/// Longest id of a session, in bytes.
const MAX_ID: usize = 64;

/// A session as its successor finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its pod, where one is known.
    pub pod: Option<crate::binder::PodRef>,
    /// Who asked.
    pub requester: pb::Requester,
    /// The signed grant of a gateway, if one asked; else empty.
    pub grant: Vec<u8>,
    /// Words of the client.
    pub labels: BTreeMap<String, String>,
    /// The hold that was asked for.
    pub hold: Duration,
    /// When it was made.
    pub created_at: SystemTime,
    /// A client came at least once.
    pub attached: bool,
    /// What its pass is known by: the token's, or the last ticket's.
    pub pass: Verifier,
    /// The ticket before, and when it was replaced.
    pub previous: Option<(Verifier, SystemTime)>,
    /// Without a client now: until when one may come back, however many serves
    /// there are until then.
    pub held_until: Option<SystemTime>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Written {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    pod: Option<wire::Pod>,
    #[prost(message, optional, tag = "3")]
    requester: Option<pb::Requester>,
    #[prost(map = "string, string", tag = "4")]
    labels: HashMap<String, String>,
    #[prost(uint64, tag = "5")]
    hold_ms: u64,
    #[prost(uint64, tag = "6")]
    created_at_ms: u64,
    #[prost(bool, tag = "7")]
    attached: bool,
    #[prost(bytes = "vec", tag = "8")]
    pass: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    previous: Vec<u8>,
    #[prost(uint64, tag = "10")]
    replaced_at_ms: u64,
    #[prost(uint64, optional, tag = "11")]
    held_until_ms: Option<u64>,
    #[prost(bytes = "vec", tag = "12")]
    grant: Vec<u8>,
}

impl Record {
    /// Of a session whose client is there, or may come back until then.
    pub(super) fn of(
        session: &Session,
        pass: Verifier,
        previous: Option<(Verifier, SystemTime)>,
        held_until: Option<SystemTime>,
    ) -> Self {
        Self {
            id: session.id.clone(),
            pod: session.sandbox.pod.clone(),
            requester: session.requester.clone(),
            grant: session.grant(),
            labels: session.labels.clone(),
            hold: session.hold,
            created_at: session.created_at,
            attached: true,
            pass,
            previous,
            held_until,
        }
    }

    /// As the binder keeps it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let previous = self.previous.as_ref();
        let written = Written {
            id: self.id.clone(),
            pod: self.pod.as_ref().map(Into::into),
            requester: Some(self.requester.clone()),
            labels: self.labels.clone().into_iter().collect(),
            hold_ms: crate::limits::millis(self.hold),
            created_at_ms: since_epoch(self.created_at),
            attached: self.attached,
            pass: self.pass.as_bytes().to_vec(),
            previous: previous.map_or_else(Vec::new, |(pass, _)| pass.as_bytes().to_vec()),
            replaced_at_ms: previous.map_or(0, |(_, at)| since_epoch(*at)),
            held_until_ms: self.held_until.map(since_epoch),
            grant: self.grant.clone(),
        };
        written.encode_to_vec()
    }

    /// Reads what the serve before has written.
    ///
    /// # Errors
    /// It is no record of a session.
    pub fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        let bad = || {
            let message = "the server before has left a record that cannot be read";
            Failure::new(Reason::Internal, message)
        };
        let written = Written::decode(bytes).map_err(|_| bad())?;
        let plain = |c: char| c.is_ascii_alphanumeric();
        if written.id.is_empty() || written.id.len() > MAX_ID || !written.id.chars().all(plain) {
            return Err(bad());
        }
        let at = |ms| {
            UNIX_EPOCH
                .checked_add(Duration::from_millis(ms))
                .ok_or_else(bad)
        };
        let replaced = at(written.replaced_at_ms)?;
        Ok(Self {
            id: written.id,
            pod: written.pod.map(Into::into),
            requester: written.requester.unwrap_or_default(),
            grant: written.grant,
            labels: written.labels.into_iter().collect(),
            hold: Duration::from_millis(written.hold_ms),
            created_at: at(written.created_at_ms)?,
            attached: written.attached,
            pass: Verifier::from_bytes(&written.pass).ok_or_else(bad)?,
            previous: Verifier::from_bytes(&written.previous).map(|pass| (pass, replaced)),
            held_until: written.held_until_ms.map(at).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binder::PodRef;
    use crate::cache::Pass;
    use proptest::prelude::*;

    fn verifier() -> (Pass, Verifier) {
        let pass = Pass::generate().expect("random");
        let verifier = Verifier::from(&pass);
        (pass, verifier)
    }

    fn record() -> (Pass, Record) {
        let (pass, verifier) = verifier();
        let ms = |n| UNIX_EPOCH + Duration::from_millis(n);
        let record = Record {
            id: "0123456789ab".to_owned(),
            pod: Some(PodRef {
                namespace: "default".to_owned(),
                name: "web".to_owned(),
                uid: "u".to_owned(),
            }),
            requester: pb::Requester {
                user: "uid:7".to_owned(),
                ..pb::Requester::default()
            },
            grant: vec![1, 2, 3],
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            hold: Duration::from_secs(30),
            created_at: ms(1_700_000_000_123),
            attached: true,
            pass: verifier,
            previous: Some((self::verifier().1, ms(1_700_000_001_000))),
            held_until: Some(ms(1_700_000_061_000)),
        };
        (pass, record)
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_has_no_secret() {
        let (pass, record) = record();
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes).expect("ours"), record);
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(pass.secret()), "the ticket stays here");
        let fresh = Record {
            previous: None,
            held_until: None,
            attached: false,
            ..record
        };
        assert_eq!(Record::decode(&fresh.encode()).expect("ours"), fresh);
    }

    #[test]
    fn the_largest_record_fits() {
        let labels = (0..16).map(|n| (format!("{n:063}"), "v".repeat(253)));
        let record = Record {
            labels: labels.collect(),
            grant: vec![7; sternline_api::grant::LONGEST],
            requester: pb::Requester {
                groups: vec!["g".repeat(super::super::MAX_REQUESTER)],
                ..pb::Requester::default()
            },
            ..record().1
        };
        let length = record.encode().len();
        assert!(length < wire::keep::MAX_RECORD * 3 / 4, "{length}");
    }

    #[test]
    fn what_is_no_record_is_refused() {
        Record::decode(&[]).expect_err("no id");
        for id in ["", "a/b", "a b", &"x".repeat(MAX_ID + 1)] {
            let id = id.to_owned();
            Record::decode(&Record { id, ..record().1 }.encode()).expect_err("no id");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
        }
    }
}
