//! What a node is permitted to do, signed.

use crate::authority::Material;
use crate::identity::User;
use crate::request::ForwardRequest;
use crate::route::Route;
use prost::Message as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::grant::{ID_LENGTH, LONGEST, signed_bytes};
use sternline_api::v1alpha1 as pb;
use sternline_api::{Failure, Reason};

/// Bytes of group names that nodes are told: they take 8 KiB of requester, name and
/// uid included, and write no more than the first down.
const MOST_OF_GROUPS: usize = 4 * 1024;

/// A grant, ready to be sent.
#[derive(Clone, PartialEq)]
pub struct Signed {
    /// The encoded `SignedGrant`.
    pub bytes: Vec<u8>,
    /// Its id, by which logs know it. It opens nothing.
    pub id: [u8; ID_LENGTH],
}

/// Permits what was asked for, to this user, in this pod, at this node: nothing
/// beyond it.
///
/// # Errors
/// More is asked for than a grant has room for, or the cryptography fails.
pub fn sign(
    material: &Material,
    user: &User,
    asked: &ForwardRequest,
    route: &Route,
    lifetime: Duration,
    now: SystemTime,
) -> Result<Signed, Failure> {
    let mut id = [0; ID_LENGTH];
    getrandom::fill(&mut id).map_err(|error| failed(&error))?;
    // Nobody could check the signature later than that.
    let expires = (now + lifetime).min(material.until());
    let grant = pb::Grant {
        id: id.to_vec(),
        node: route.node.clone(),
        pod: Some(route.pod.clone()),
        requester: Some(pb::Requester {
            // They come and go, and may be a thousand.
            groups: Vec::new(),
            ..requester(user)
        }),
        listeners: listeners(asked),
        wide: asked.is_wide(),
        max_hold_ms: millis(asked.hold),
        issued_at_ms: since(now),
        expires_at_ms: since(expires),
    };
    let grant = grant.encode_to_vec();
    let signature = material.sign(&signed_bytes(&grant));
    let signature = signature.map_err(|error| failed(&error))?;
    let chain = material.chain().iter();
    let signed = pb::SignedGrant {
        grant,
        signature,
        chain: chain.map(|one| one.to_vec()).collect(),
    };
    let bytes = signed.encode_to_vec();
    if bytes.len() > LONGEST {
        return Err(Failure::new(
            Reason::InvalidRequest,
            "more is asked for than a grant has room for: ask for fewer listeners",
        ));
    }
    Ok(Signed { bytes, id })
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    tracing::error!("a grant cannot be signed: {error}");
    Failure::new(
        Reason::Internal,
        "the gateway cannot sign a grant: see its log",
    )
}

/// The user as nodes are told: with its first groups, for it may have a thousand.
#[must_use]
pub fn requester(user: &User) -> pb::Requester {
    let mut room = MOST_OF_GROUPS;
    let groups = user.groups.iter().map_while(|group| {
        room = room.checked_sub(group.len() + 4)?;
        Some(group.clone())
    });
    pb::Requester {
        groups: groups.collect(),
        user: user.name.clone(),
        uid: user.uid.clone(),
    }
}

/// The listeners as nodes are told.
#[must_use]
pub fn listeners(asked: &ForwardRequest) -> Vec<pb::Listener> {
    asked.listeners.iter().map(|one| one.to_proto()).collect()
}

/// A span in milliseconds.
#[must_use]
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn since(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Keyring, Lifetimes};
    use rustls::RootCertStore;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use std::sync::Arc;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + HOUR * 500_000
    }

    fn material() -> Material {
        let lifetimes = Lifetimes::default();
        let ring = Arc::new(Keyring::generate(now(), &lifetimes).expect("a root"));
        Material::issue(ring, &["g.n.svc".to_owned()], now(), &lifetimes).expect("issued")
    }

    fn user() -> User {
        User {
            name: "ada".to_owned(),
            uid: "7".to_owned(),
            groups: vec!["dev".to_owned()],
            ..User::default()
        }
    }

    fn route() -> Route {
        Route {
            pod: pb::Pod {
                namespace: "shop".to_owned(),
                name: "web-0".to_owned(),
                uid: "u1".to_owned(),
            },
            node: "worker-1".to_owned(),
            shim: "10.0.0.1:10251".parse().expect("an address"),
        }
    }

    fn grant(query: &str, lifetime: Duration, material: &Material) -> (pb::SignedGrant, pb::Grant) {
        let asked = ForwardRequest::parse("shop", "web-0", query).expect(query);
        let signed = sign(material, &user(), &asked, &route(), lifetime, now()).expect("signed");
        let read = pb::SignedGrant::decode(signed.bytes.as_slice()).expect("one");
        let grant = pb::Grant::decode(read.grant.as_slice()).expect("one");
        assert_eq!(grant.id, signed.id);
        (read, grant)
    }

    #[test]
    fn it_permits_what_was_asked_for_and_no_more() {
        let material = material();
        let query = "listen=9003&listen=127.0.0.2:0&hold=30s";
        let (_, grant) = grant(query, HOUR, &material);
        grant.check("worker-1", now()).expect("good now");
        grant.check("worker-2", now()).expect_err("another node's");
        grant.check("worker-1", now() + HOUR).expect_err("over");
        let asked = ForwardRequest::parse("shop", "web-0", query).expect("sound");
        grant.permits(&asked.listeners).expect("that");
        let other = ForwardRequest::parse("shop", "web-0", "listen=9004").expect("sound");
        grant.permits(&other.listeners).expect_err("not that");
        grant.permits_hold(Duration::from_secs(30)).expect("that");
        grant
            .permits_hold(Duration::from_secs(31))
            .expect_err("not that");
        assert!(!grant.wide);
        assert_eq!(grant.requester.expect("one").groups, Vec::<String>::new());
    }

    #[test]
    fn wide_is_said_where_it_was_asked_for() {
        let material = material();
        assert!(grant("listen=0.0.0.0:80", HOUR, &material).1.wide);
    }

    #[test]
    fn it_is_never_good_for_longer_than_its_certificate() {
        let material = material();
        let (_, grant) = grant("listen=80", HOUR * 200, &material);
        assert_eq!(grant.expires_at_ms, since(material.until()));
    }

    #[test]
    fn what_has_no_room_is_refused_or_left_out() {
        let long = "listen=[fd00:1111:2222:3333:4444:5555:6666:7777]";
        let many: Vec<String> = (1..500).map(|port| format!("{long}:{port}")).collect();
        let asked = ForwardRequest::parse("shop", "web-0", &many.join("&")).expect("sound");
        let signed = sign(&material(), &user(), &asked, &route(), HOUR, now());
        assert_eq!(
            signed.err().expect("too much").reason,
            Reason::InvalidRequest
        );
        let crowd = User {
            groups: (0..1000).map(|n| format!("company:team:{n}")).collect(),
            ..user()
        };
        let told = requester(&crowd);
        assert!((100..1000).contains(&told.groups.len()));
        assert!(told.encode_to_vec().len() < 8 * 1024);
    }

    #[test]
    fn ids_are_never_the_same() {
        let material = material();
        let one = || grant("listen=80", HOUR, &material).1.id;
        assert_ne!(one(), one());
    }

    #[test]
    fn whoever_has_the_bundle_can_check_it() {
        let material = material();
        let (signed, _) = grant("listen=80", HOUR, &material);
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(material.ring.bundle().as_bytes()) {
            roots.add(root.expect("PEM")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier.build().expect("roots");
        let leaf = CertificateDer::from(signed.chain[0].clone());
        let at = UnixTime::since_unix_epoch(HOUR * 500_000);
        verifier
            .verify_client_cert(&leaf, &[], at)
            .expect("a gateway's");
        let (_, parsed) = X509Certificate::from_der(&leaf).expect("DER");
        let key = &parsed.public_key().subject_public_key.data;
        let all = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let scheme = rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
        let algorithm = all.mapping.iter().find(|(one, _)| *one == scheme);
        let algorithm = algorithm.expect("known").1[0];
        let bytes = signed_bytes(&signed.grant);
        algorithm
            .verify_signature(key, &bytes, &signed.signature)
            .expect("signed");
        let bare = algorithm.verify_signature(key, &signed.grant, &signed.signature);
        bare.expect_err("it is good for grants alone");
    }
}
