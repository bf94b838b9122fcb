use super::*;
use crate::authority::Profile;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{ServerName, UnixTime};
use std::sync::Arc;

const SECOND: Duration = Duration::from_secs(1);

/// Thirty seconds of life, ten of overlap, five of a leaf.
const SHORT: Lifetimes = Lifetimes {
    root: Duration::from_secs(30),
    overlap: Duration::from_secs(10),
    leaf: Duration::from_secs(5),
};

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

fn generate() -> Keyring {
    Keyring::generate(start(), &SHORT).expect("a root")
}

fn at(ring: &Keyring, seconds: u32) -> Option<Keyring> {
    ring.advanced(start() + SECOND * seconds, &SHORT)
        .expect("random")
}

fn count(ring: &Keyring) -> usize {
    ring.bundle().matches("BEGIN CERTIFICATE").count()
}

/// Whether one that has `bundle` trusts what is shown to it.
fn trusts(bundle: &str, certificate: &str, name: &str, now: SystemTime) -> bool {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.expect("PEM")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = verifier.build().expect("roots");
    let leaf = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let now = now.duration_since(SystemTime::UNIX_EPOCH).expect("later");
    let now = UnixTime::since_unix_epoch(now);
    verifier
        .verify_server_cert(&leaf, &[], &name, &[], now)
        .is_ok()
}

fn leaf(ring: &Keyring, seconds: u32) -> String {
    let profile = Profile::Node("n".to_owned());
    let identity = ring.identity(&profile, start() + SECOND * seconds, &SHORT);
    identity.expect("one").issued.certificate
}

#[test]
fn nothing_changes_before_its_time() {
    let ring = generate();
    for seconds in [0, 1, 9] {
        assert!(at(&ring, seconds).is_none(), "after {seconds} s");
    }
}

#[test]
fn a_root_is_announced_before_it_signs_and_trusted_after() {
    let first = generate();
    let announced = at(&first, 10).expect("time to announce");
    assert_eq!(count(&announced), 2);
    assert_eq!(announced.until(), first.until(), "the first still signs");
    assert!(at(&announced, 19).is_none());

    let second = at(&announced, 20).expect("time to change");
    assert_eq!(second.until(), start() + SECOND * 40);
    assert_eq!(count(&second), 2, "the first is trusted still");

    let third = at(&second, 30).expect("the first is over, the third is announced");
    assert_eq!(third.until(), second.until(), "the second still signs");
    assert!(!third.bundle().contains(&first.current.certificate.pem));
    assert_eq!(count(&third), 2, "the second and the third");
}

/// Whoever was off for most of the overlap announces late.
#[test]
fn a_root_that_is_announced_late_signs_no_sooner_than_it_can_be_known() {
    let first = generate();
    let late = at(&first, 22).expect("time to announce, and to change");
    assert_eq!((count(&late), late.until()), (2, first.until()));
    for seconds in [22, 26] {
        assert!(at(&late, seconds).is_none(), "after {seconds} s");
    }
    let second = at(&late, 27).expect("time to change");
    assert_eq!(second.until(), start() + SECOND * 52);
}

#[test]
fn whoever_has_any_bundle_of_its_time_trusts_what_is_signed() {
    let mut ring = generate();
    let name = crate::authority::node_name("n");
    // Bundles and leaves of each second; both may be a while old.
    let (mut bundles, mut leaves) = (Vec::new(), Vec::new());
    for seconds in 0..100 {
        if let Some(next) = at(&ring, seconds) {
            ring = next;
        }
        bundles.push(ring.bundle());
        leaves.push(leaf(&ring, seconds));
        let now = start() + SECOND * seconds;
        let recent = |len: usize, age: usize| (len.saturating_sub(age))..len;
        for bundle in recent(bundles.len(), 9) {
            for leaf in recent(leaves.len(), 5) {
                let trusted = trusts(&bundles[bundle], &leaves[leaf], &name, now);
                assert!(
                    trusted,
                    "second {seconds}: bundle of {bundle}, leaf of {leaf}"
                );
            }
        }
    }
    let other = generate();
    assert!(!trusts(
        &other.bundle(),
        &leaf(&ring, 99),
        &name,
        start() + SECOND * 99
    ));
}

#[test]
fn a_cluster_that_slept_through_everything_has_a_new_root_at_once() {
    let first = generate();
    for asleep in [first, at(&generate(), 10).expect("announced")] {
        let awake = at(&asleep, 1000).expect("long over");
        let name = crate::authority::node_name("n");
        let fresh = leaf(&awake, 1000);
        let trusted = trusts(&awake.bundle(), &fresh, &name, start() + SECOND * 1000);
        assert!(trusted, "{awake:?}");
        assert!(at(&awake, 1000).is_none(), "{awake:?}");
    }
}

#[test]
fn a_secret_holds_all_of_it() {
    let first = generate();
    let announced = at(&first, 10).expect("announced");
    let second = at(&announced, 20).expect("changed");
    for ring in [first, announced, second] {
        let data = ring.to_secret();
        let again = Keyring::from_secret(&data).expect("sound").expect("some");
        assert_eq!(again.to_secret(), data);
        assert_eq!(again.bundle(), ring.bundle());
        assert_eq!(again.until(), ring.until());
    }
}

#[test]
fn an_empty_secret_is_nothing_yet() {
    assert!(Keyring::from_secret(&Data::new()).expect("sound").is_none());
}

#[test]
fn a_secret_that_holds_something_else_is_refused_by_name() {
    let (ring, other) = (generate().to_secret(), generate().to_secret());
    let leaf = leaf(&generate(), 0);
    let change = |name: &str, value: Option<&[u8]>| {
        let mut data = ring.clone();
        match value {
            Some(value) => drop(data.insert(name.to_owned(), value.to_vec())),
            None => drop(data.remove(name)),
        }
        Keyring::from_secret(&data).expect_err(name).to_string()
    };
    for (name, value) in [
        ("current.crt", None),
        ("current.key", None),
        ("current.crt", Some("\u{fffd}".as_bytes())),
        ("current.crt", Some(&[0xff, 0xfe])),
        ("current.crt", Some(leaf.as_bytes())),
        ("current.key", Some(other["current.key"].as_slice())),
        ("current.key", Some(b"nonsense")),
        ("next.key", Some(b"alone")),
        (
            "previous.crt",
            Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ),
    ] {
        let said = change(name, value);
        let named = said.contains(name)
            || said.contains(&name.replace("key", "crt"))
            || said.contains(&name.replace("crt", "key"));
        assert!(named, "{said}");
        assert!(!said.contains("PRIVATE"), "{said}");
    }
}
