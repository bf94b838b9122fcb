//! Grants for tests, and gateways that sign them.

use crate::tls::testing::Authority;
use prost::Message as _;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::sign::SigningKey;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::grant::{ID_LENGTH, signed_bytes};
use sternline_api::listen::{Bind, Listen};
use sternline_api::v1alpha1::{Grant, Pod, Requester, SignedGrant};

/// When the grants of tests are signed.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// Somebody with a key and a certificate.
pub(crate) struct Gateway {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

impl Gateway {
    /// With a certificate for these usages.
    pub(crate) fn of(authority: &Authority, usages: &[ExtendedKeyUsagePurpose]) -> Self {
        let pair = authority.issue_for(usages, "gateway.svc", 4000);
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
        let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("one");
        Self {
            chain: vec![cert],
            key: aws_lc_rs::sign::any_supported_type(&key).expect("usable"),
        }
    }

    pub(crate) fn signed(&self, grant: &Grant) -> SignedGrant {
        let grant = grant.encode_to_vec();
        let signer = self
            .key
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        let signature = signer.expect("P-256").sign(&signed_bytes(&grant));
        SignedGrant {
            signature: signature.expect("signed"),
            grant,
            chain: self.chain.iter().map(|der| der.to_vec()).collect(),
        }
    }

    pub(crate) fn sign(&self, grant: &Grant) -> Vec<u8> {
        self.signed(grant).encode_to_vec()
    }
}

/// As [`grant`], signed now.
pub(crate) fn grant_of_now(node: &str) -> Grant {
    grant_at(node, SystemTime::now())
}

/// To listen on ports 8080 and 0 in pod `shop/web-0`, for twelve hours.
pub(crate) fn grant(node: &str) -> Grant {
    grant_at(node, now())
}

fn grant_at(node: &str, at: SystemTime) -> Grant {
    let listen = |port| {
        let bind = Bind::Loopback;
        Listen { id: 0, bind, port }.to_proto()
    };
    let ms = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).expect("later");
        u64::try_from(since.as_millis()).expect("fits")
    };
    Grant {
        id: vec![7; ID_LENGTH],
        node: node.to_owned(),
        pod: Some(Pod {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            uid: "u1".to_owned(),
        }),
        requester: Some(Requester {
            user: "ada".to_owned(),
            ..Requester::default()
        }),
        listeners: vec![listen(8080), listen(0)],
        wide: false,
        max_hold_ms: 60_000,
        issued_at_ms: ms(at),
        expires_at_ms: ms(at + Duration::from_secs(12 * 3600)),
    }
}
