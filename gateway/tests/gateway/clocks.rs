//! Clocks that differ: what a gateway signs is good on a node whose clock is ten
//! minutes early or late, and no longer than it should be.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::v1alpha1 as pb;
use sternline_gateway::authority::{Keyring, Lifetimes, Material, Profile};
use sternline_gateway::grant;
use sternline_gateway::identity::User;
use sternline_gateway::request::ForwardRequest;
use sternline_gateway::route::Route;
use sternline_shim::cluster::{Bundle, Gate, Identity};
use tempfile::TempDir;

const NODE: &str = "worker-1";
const MINUTE: Duration = Duration::from_secs(60);

/// By the gateway's clock.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

/// A cluster whose authority was made this moment.
struct Cluster {
    ring: Arc<Keyring>,
    dir: TempDir,
}

impl Cluster {
    fn new() -> Self {
        let ring = Keyring::generate(now(), &Lifetimes::default()).expect("a root");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.crt"), ring.bundle()).expect("written");
        let ring = Arc::new(ring);
        Self { ring, dir }
    }

    fn bundle(&self) -> Arc<Bundle> {
        Arc::new(Bundle::new(self.dir.path().join("ca.crt")))
    }

    /// A grant of a gateway whose certificate is as new as the grant.
    fn grant(&self) -> Vec<u8> {
        let names = ["sternline-gateway.sternline.svc".to_owned()];
        let material =
            Material::issue(Arc::clone(&self.ring), &names, now(), &Lifetimes::default());
        let user = User {
            name: "ada".into(),
            uid: String::new(),
            groups: Vec::new(),
            extra: BTreeMap::new(),
        };
        let asked = ForwardRequest::parse("shop", "web", "listen=localhost%3A9003");
        let route = Route {
            pod: pb::Pod {
                namespace: "shop".into(),
                name: "web".into(),
                uid: "u-1".into(),
            },
            node: NODE.into(),
            shim: "127.0.0.1:1".parse().expect("an address"),
        };
        let signed = grant::sign(
            &material.expect("issued"),
            &user,
            &asked.expect("sound"),
            &route,
            MINUTE * 720,
            now(),
        );
        signed.expect("signed").bytes
    }
}

#[test]
fn a_grant_opens_a_session_where_clocks_are_ten_minutes_apart() {
    let cluster = Cluster::new();
    for there in [now() - MINUTE * 10, now(), now() + MINUTE * 10] {
        let gate = Gate::new(NODE.into(), cluster.bundle());
        let grant = gate.verify(&cluster.grant(), there).expect("good");
        gate.open(&grant, there).expect("opens");
    }
    let gate = Gate::new(NODE.into(), cluster.bundle());
    for there in [now() - MINUTE * 16, now() + MINUTE * 721] {
        gate.verify(&cluster.grant(), there).expect_err("not there");
    }
}

#[test]
fn a_node_takes_its_certificate_up_where_clocks_are_ten_minutes_apart() {
    let cluster = Cluster::new();
    let take_up = |there: SystemTime| {
        let profile = Profile::Node(NODE.into());
        let issued = cluster
            .ring
            .identity(&profile, now(), &Lifetimes::default());
        let issued = issued.expect("signed");
        let chain = CertificateDer::pem_slice_iter(issued.issued.certificate.as_bytes());
        let chain = chain.collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
        let identity = Identity::new(NODE, cluster.bundle());
        let until = identity.take_up(chain, key, there)?;
        assert_eq!(identity.trouble(there), None);
        Ok::<_, String>(until)
    };
    for there in [now() - MINUTE * 10, now(), now() + MINUTE * 10] {
        assert_eq!(take_up(there), Ok(now() + Lifetimes::default().leaf));
    }
    take_up(now() - MINUTE * 16).expect_err("not yet valid there");
    take_up(now() + Lifetimes::default().leaf).expect_err("over there");
}
