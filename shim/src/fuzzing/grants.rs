//! A gate, and a gateway that it knows.

use crate::cluster::{Bundle, Gate};
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SigningKey as _,
};
use rustls::RootCertStore;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::Failure;
use sternline_api::grant::signed_bytes;
use sternline_api::v1alpha1::{Grant, SignedGrant};

/// The node.
pub const NODE: &str = "worker-1";

/// The time there, in milliseconds since the Unix epoch.
pub const NOW_MS: u64 = 1_800_000_000_000;

struct World {
    gate: Gate,
    key: KeyPair,
    chain: Vec<Vec<u8>>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World::new().expect("a world"))
}

impl World {
    fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut params = CertificateParams::new(vec!["gateway.svc".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &authority)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates([authority.der().clone()]);
        Ok(Self {
            gate: Gate::new(NODE.to_owned(), Arc::new(Bundle::of(roots))),
            key,
            chain: vec![leaf.der().to_vec()],
        })
    }
}

/// Signs any bytes as a gateway signs grants.
///
/// # Panics
/// The cryptography fails.
#[must_use]
pub fn sign(grant: &[u8]) -> Vec<u8> {
    let world = world();
    let signature = world.key.sign(&signed_bytes(grant)).expect("signed");
    let signed = SignedGrant {
        grant: grant.to_vec(),
        signature,
        chain: world.chain.clone(),
    };
    signed.encode_to_vec()
}

/// What the gate says of a signed grant.
///
/// # Errors
/// It is not good.
pub fn verify(signed: &[u8]) -> Result<Grant, Failure> {
    let now: SystemTime = UNIX_EPOCH + Duration::from_millis(NOW_MS);
    world().gate.verify(signed, now)
}
