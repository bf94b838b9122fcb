//! Grants: what a gateway permits a node to do.
//!
//! The rules alone: who signed a grant is for those to find out who hold keys and
//! certificates.

use crate::listen::Listen;
use crate::v1alpha1::{Grant, Pod, Requester};
use crate::{Failure, Reason};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What stands before an encoded grant in the bytes that are signed, so that the
/// signature is good for nothing else.
pub const SIGNED_PREFIX: &[u8] = b"sternline grant v1alpha1\0";

/// Longest encoded `SignedGrant`, in bytes.
pub const LONGEST: usize = 16 * 1024;

/// Length of a grant's id, in bytes.
pub const ID_LENGTH: usize = 16;

/// How far the clocks of gateways and nodes may be apart.
pub const SKEW: Duration = Duration::from_secs(15 * 60);

/// The bytes that are signed for an encoded grant.
#[must_use]
pub fn signed_bytes(grant: &[u8]) -> Vec<u8> {
    [SIGNED_PREFIX, grant].concat()
}

/// An encoded `SignedGrant` as [`crate::protocol::GRANT_HEADER`] has it.
#[must_use]
pub fn to_header(signed: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(signed)
}

/// Reads what [`to_header`] has written.
///
/// # Errors
/// It is something else, or longer than a grant can be.
pub fn from_header(value: &[u8]) -> Result<Vec<u8>, Failure> {
    let longer = || refused(format!("the grant is longer than {LONGEST} bytes"));
    // Before anything is written for it.
    if value.len() > LONGEST.div_ceil(3) * 4 {
        return Err(longer());
    }
    let read = URL_SAFE_NO_PAD.decode(value);
    let read = read.map_err(|_| refused("the grant is not written in base64url"))?;
    if read.len() > LONGEST {
        return Err(longer());
    }
    Ok(read)
}

impl Grant {
    /// Checks that it is whole, for `node`, and good at `now`.
    ///
    /// # Errors
    /// Which of it is not so.
    pub fn check(&self, node: &str, now: SystemTime) -> Result<(), Failure> {
        let named = |pod: &Pod| {
            let parts = [&pod.namespace, &pod.name, &pod.uid];
            parts.iter().all(|part| !part.is_empty())
        };
        let requester = self.requester.as_ref();
        let whole = self.id.len() == ID_LENGTH
            && self.pod.as_ref().is_some_and(named)
            && requester.is_some_and(|who| !who.user.is_empty());
        if !whole {
            return Err(refused("the grant leaves out its id, its pod or its user"));
        }
        if self.node != node {
            return Err(refused(format!(
                "the grant is for node {:?}, and this is node {node:?}",
                self.node
            )));
        }
        let now = millis(now);
        if self.issued_at_ms > now.saturating_add(millis(UNIX_EPOCH + SKEW)) {
            return Err(refused(
                "the grant begins in the future: see the clocks of the gateway and of this node",
            ));
        }
        if self.expires_at_ms <= now {
            return Err(refused(
                "the grant has expired: forward again for a new one",
            ));
        }
        Ok(())
    }

    /// Whether it permits everything that is asked for.
    ///
    /// # Errors
    /// The first listener that it does not.
    pub fn permits(&self, listeners: &[Listen]) -> Result<(), Failure> {
        let permitted: Vec<Listen> = (0..)
            .zip(&self.listeners)
            .filter_map(|(id, one)| Listen::from_proto(id, one).ok())
            .collect();
        let outside = listeners.iter().find(|asked| {
            let is_there = |one: &&Listen| (one.bind, one.port) == (asked.bind, asked.port);
            !permitted.iter().any(|one| is_there(&one)) || (asked.bind.is_wide() && !self.wide)
        });
        match outside {
            None => Ok(()),
            Some(listen) => Err(refused(format!(
                "the grant does not permit to listen on {listen}: forward again and name it"
            ))),
        }
    }

    /// Whether it permits that this address goes on listening; a port 0 in it stands
    /// for any that was found free.
    ///
    /// # Errors
    /// It does not.
    pub fn permits_bound(&self, bound: SocketAddr) -> Result<(), Failure> {
        let wide = self.wide || bound.ip().is_loopback();
        let is_of = |listen: Listen| {
            listen.bind.addresses().contains(&bound.ip())
                && [0, bound.port()].contains(&listen.port)
        };
        let mut permitted = self.listeners.iter();
        let named = permitted.any(|one| Listen::from_proto(0, one).is_ok_and(is_of));
        if wide && named {
            return Ok(());
        }
        Err(refused(format!(
            "the session listens on {bound}, which the grant does not permit any more: forward anew"
        )))
    }

    /// Whether it permits to hold listeners for so long.
    ///
    /// # Errors
    /// It does not.
    pub fn permits_hold(&self, hold: Duration) -> Result<(), Failure> {
        if hold.as_millis() <= u128::from(self.max_hold_ms) {
            return Ok(());
        }
        Err(refused(format!(
            "the grant permits a hold of {} ms at most: ask for less",
            self.max_hold_ms
        )))
    }

    /// Whether it is for the same pod and the same user as `other`.
    #[must_use]
    pub fn is_of_the_same(&self, pod: &Pod, requester: &Requester) -> bool {
        let who = |one: &Requester| (one.user.clone(), one.uid.clone());
        self.pod.as_ref() == Some(pod) && self.requester.as_ref().map(who) == Some(who(requester))
    }
}

fn refused(sentence: impl Into<String>) -> Failure {
    Failure::new(Reason::Forbidden, sentence)
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::Bind;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn grant() -> Grant {
        let listen = |port| Listen {
            id: 0,
            bind: Bind::Loopback,
            port,
        };
        Grant {
            id: vec![7; ID_LENGTH],
            node: "worker-1".to_owned(),
            pod: Some(Pod {
                namespace: "shop".to_owned(),
                name: "web-0".to_owned(),
                uid: "u1".to_owned(),
            }),
            requester: Some(Requester {
                user: "ada".to_owned(),
                uid: "7".to_owned(),
                groups: Vec::new(),
            }),
            listeners: vec![listen(9003).to_proto(), listen(0).to_proto()],
            wide: false,
            max_hold_ms: 30_000,
            issued_at_ms: millis(now()),
            expires_at_ms: millis(now()) + 60_000,
        }
    }

    fn refusal(change: impl FnOnce(&mut Grant)) -> String {
        let mut grant = grant();
        change(&mut grant);
        let failure = grant.check("worker-1", now()).expect_err("refused");
        assert_eq!(failure.reason, Reason::Forbidden);
        failure.message
    }

    #[test]
    fn it_is_good_where_and_while_it_says() {
        let sound = grant();
        sound.check("worker-1", now()).expect("good");
        // The gateway's clock may be late or early.
        sound.check("worker-1", now() - SKEW).expect("good");
        assert!(refusal(|grant| grant.node = "worker-2".to_owned()).contains("worker-2"));
        assert!(refusal(|grant| grant.issued_at_ms += 15 * 60 * 1000 + 1).contains("future"));
        assert!(refusal(|grant| grant.expires_at_ms = grant.issued_at_ms).contains("expired"));
    }

    #[test]
    fn one_that_leaves_something_out_permits_nothing() {
        let parts: [fn(&mut Grant); 6] = [
            |grant| grant.id = vec![7; 15],
            |grant| grant.pod = None,
            |grant| grant.pod.as_mut().expect("one").uid.clear(),
            |grant| grant.pod.as_mut().expect("one").namespace.clear(),
            |grant| grant.requester = None,
            |grant| grant.requester.as_mut().expect("one").user.clear(),
        ];
        for part in parts {
            assert!(refusal(part).contains("leaves out"));
        }
    }

    #[test]
    fn it_permits_what_it_names_and_no_more() {
        let listen = |text: &str, port| Listen {
            id: 5,
            bind: Bind::parse(text).expect("one"),
            port,
        };
        let mut grant = grant();
        grant.listeners.push(listen("0.0.0.0", 80).to_proto());
        grant
            .permits(&[listen("", 9003), listen("", 0)])
            .expect("named");
        grant.permits(&[listen("", 9003)]).expect("some of them");
        for other in [
            listen("", 9004),
            listen("127.0.0.2", 9003),
            listen("::1", 9003),
        ] {
            grant
                .permits(&[listen("", 9003), other])
                .expect_err("not named");
        }
        grant
            .permits(&[listen("0.0.0.0", 80)])
            .expect_err("named, but wide is not permitted");
        grant.wide = true;
        grant.permits(&[listen("0.0.0.0", 80)]).expect("named");
        grant
            .permits_hold(Duration::from_secs(30))
            .expect("permitted");
        grant
            .permits_hold(Duration::from_millis(30_001))
            .expect_err("longer");
    }

    #[test]
    fn what_listens_goes_on_while_it_is_named() {
        let mut grant = grant();
        grant.listeners = vec![
            Listen {
                id: 0,
                bind: Bind::Loopback,
                port: 9003,
            }
            .to_proto(),
            Listen {
                id: 1,
                bind: Bind::parse("0.0.0.0").expect("one"),
                port: 0,
            }
            .to_proto(),
        ];
        let permits = |grant: &Grant, bound: &str| {
            grant
                .permits_bound(bound.parse().expect("an address"))
                .is_ok()
        };
        for good in ["127.0.0.1:9003", "[::1]:9003"] {
            assert!(permits(&grant, good), "{good}");
        }
        for bad in [
            "127.0.0.1:9004",
            "127.0.0.2:9003",
            "0.0.0.0:80",
            "[::]:9003",
        ] {
            assert!(!permits(&grant, bad), "{bad}");
        }
        grant.wide = true;
        assert!(permits(&grant, "0.0.0.0:80"), "any free port");
        assert!(!permits(&grant, "[::]:80"));
    }

    #[test]
    fn a_header_holds_any_grant_and_no_more() {
        let longest = vec![0xfe; LONGEST];
        let header = to_header(&longest);
        assert!(
            header
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        assert_eq!(from_header(header.as_bytes()).expect("ours"), longest);
        for wrong in [
            header + "AA",
            "a=".to_owned(),
            "a b".to_owned(),
            "+/".to_owned(),
        ] {
            assert!(
                from_header(wrong.as_bytes()).is_err(),
                "{} bytes",
                wrong.len()
            );
        }
    }

    #[test]
    fn who_comes_back_is_the_same_user_for_the_same_pod() {
        let (pod, who) = (grant().pod.expect("one"), grant().requester.expect("one"));
        let grouped = Requester {
            groups: vec!["dev".to_owned()],
            ..who.clone()
        };
        assert!(grant().is_of_the_same(&pod, &grouped), "groups come and go");
        let other_pod = Pod {
            uid: "u2".to_owned(),
            ..pod.clone()
        };
        let other_uid = Requester {
            uid: "8".to_owned(),
            ..who.clone()
        };
        let other_user = Requester {
            user: "bob".to_owned(),
            ..who.clone()
        };
        assert!(!grant().is_of_the_same(&other_pod, &who));
        assert!(!grant().is_of_the_same(&pod, &other_uid));
        assert!(!grant().is_of_the_same(&pod, &other_user));
    }
}
