//! What makes a grant good: who signed it, for which node, until when.

use super::Bundle;
use prost::Message as _;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::grant::{LONGEST, SKEW, signed_bytes};
use sternline_api::v1alpha1::{Grant, SignedGrant};
use sternline_api::{Failure, Reason};
use webpki::aws_lc_rs::ECDSA_P256_SHA256;
use webpki::{EndEntityCert, KeyUsage};

/// How long after it was signed a grant opens a session, the skew of clocks not
/// counted. Later it is good for what the session asks for.
const OPENS: Duration = Duration::from_secs(5 * 60);

/// Grants that opened a session and whose time to do so is not over.
const MOST_REMEMBERED: usize = 65_536;

/// Most certificates in a grant's chain.
const LONGEST_CHAIN: usize = 4;

/// What only gateways have among their key usages (RFC 5280, section 4.2.1.12):
/// 1.3.6.1.5.5.7.3.2.
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// Finds out which grants are good on this node.
#[derive(Debug)]
pub struct Gate {
    node: String,
    bundle: Arc<Bundle>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Ids of grants that opened a session, and when that can be forgotten.
    used: Mutex<HashMap<Vec<u8>, SystemTime>>,
}

impl Gate {
    /// Of this node, for gateways that the bundle knows.
    #[must_use]
    pub fn new(node: String, bundle: Arc<Bundle>) -> Self {
        let CryptoProvider {
            signature_verification_algorithms,
            ..
        } = aws_lc_rs::default_provider();
        Self {
            node,
            bundle,
            algorithms: signature_verification_algorithms,
            used: Mutex::default(),
        }
    }

    /// The name of the node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Reads a signed grant, and finds it good.
    ///
    /// # Errors
    /// It is none, of nobody's, of another node's, or over.
    pub fn verify(&self, signed: &[u8], now: SystemTime) -> Result<Grant, Failure> {
        if signed.is_empty() {
            return Err(refused(
                "a grant is missing: forwards are asked for at a gateway",
            ));
        }
        if signed.len() > LONGEST {
            return Err(refused(&format!(
                "the grant is longer than {LONGEST} bytes"
            )));
        }
        let unread = |_| refused("the grant cannot be read: is the gateway of another version?");
        let signed = SignedGrant::decode(signed).map_err(unread)?;
        let roots = self.bundle.roots().map_err(|sentence| refused(&sentence))?;
        self.signed_by_a_gateway(&signed, &roots, now)
            .map_err(|what| {
                refused(&format!(
                    "no gateway of this cluster signed the grant: {what}"
                ))
            })?;
        let grant = Grant::decode(&*signed.grant).map_err(unread)?;
        grant.check(&self.node, now)?;
        Ok(grant)
    }

    /// Lets a grant open a session: once, and soon after it was signed.
    ///
    /// # Errors
    /// It did already, or is too old, or too many did.
    pub fn open(&self, grant: &Grant, now: SystemTime) -> Result<(), Failure> {
        let until = UNIX_EPOCH + Duration::from_millis(grant.issued_at_ms) + OPENS + SKEW;
        if now > until {
            return Err(refused(
                "the grant is too old to open a session: forward again",
            ));
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= MOST_REMEMBERED {
            used.retain(|_, until| *until >= now);
        }
        if used.contains_key(&grant.id) {
            return Err(refused(
                "the grant has opened a session before, which it does once",
            ));
        }
        if used.len() >= MOST_REMEMBERED {
            return Err(Failure::new(
                Reason::TokenLimit,
                format!(
                    "{MOST_REMEMBERED} sessions were opened on this node in the last minutes: try again later"
                ),
            ));
        }
        used.insert(grant.id.clone(), until);
        Ok(())
    }

    fn signed_by_a_gateway(
        &self,
        signed: &SignedGrant,
        roots: &RootCertStore,
        now: SystemTime,
    ) -> Result<(), webpki::Error> {
        let chain = signed.chain.iter().take(LONGEST_CHAIN);
        let chain: Vec<CertificateDer<'_>> =
            chain.map(|der| CertificateDer::from(&der[..])).collect();
        let (leaf, rest) = chain.split_first().ok_or(webpki::Error::UnknownIssuer)?;
        let leaf = EndEntityCert::try_from(leaf)?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        leaf.verify_for_usage(
            self.algorithms.all,
            &roots.roots,
            rest,
            UnixTime::since_unix_epoch(since),
            KeyUsage::required(CLIENT_AUTH),
            None,
            None,
        )?;
        let bytes = signed_bytes(&signed.grant);
        leaf.verify_signature(ECDSA_P256_SHA256, &bytes, &signed.signature)
    }
}

fn refused(sentence: &str) -> Failure {
    Failure::new(Reason::Forbidden, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::{Gateway, grant, now};
    use crate::tls::testing::{Authority, Directory};
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

    const HOUR: Duration = Duration::from_secs(3600);

    fn gate(dir: &Directory, authority: &Authority) -> Gate {
        let path = dir.file("ca.crt", authority.pem().as_bytes());
        Gate::new("worker-1".to_owned(), Arc::new(Bundle::always(path)))
    }

    fn refusal(result: Result<Grant, Failure>) -> String {
        let failure = result.expect_err("refused");
        assert_eq!(failure.reason, Reason::Forbidden);
        failure.message
    }

    #[test]
    fn what_a_gateway_signed_is_good() {
        let (dir, authority) = (Directory::new(), Authority::new("cluster"));
        let gate = gate(&dir, &authority);
        let gateway = Gateway::of(&authority, &[ClientAuth, ServerAuth]);
        let good = gate.verify(&gateway.sign(&grant("worker-1")), now());
        assert_eq!(good.expect("good"), grant("worker-1"));
    }

    #[test]
    fn what_nobody_or_another_signed_is_refused() {
        let (dir, authority) = (Directory::new(), Authority::new("cluster"));
        let gate = gate(&dir, &authority);
        let gateway = Gateway::of(&authority, &[ClientAuth]);
        let verify = |signed: &SignedGrant| gate.verify(&signed.encode_to_vec(), now());
        assert!(refusal(gate.verify(&[], now())).contains("missing"));
        assert!(refusal(gate.verify(&[0xff; 9], now())).contains("cannot be read"));
        assert!(refusal(gate.verify(&[0; LONGEST + 1], now())).contains("longer"));

        let whole = gateway.signed(&grant("worker-1"));
        verify(&whole).expect("good");
        let mut widened = whole.clone();
        widened.grant = grant("worker-2").encode_to_vec();
        let mut bare = whole.clone();
        bare.chain.clear();
        let mut unsigned = whole.clone();
        unsigned.signature.clear();
        // Another cluster's gateway, and a node of this one.
        let stranger = Gateway::of(&Authority::new("cluster"), &[ClientAuth]);
        let node = Gateway::of(&authority, &[ServerAuth]);
        let nobody = Gateway::of(&authority, &[]);
        let mut borrowed = node.signed(&grant("worker-1"));
        borrowed.chain = whole.chain;
        for signed in [
            widened,
            bare,
            unsigned,
            borrowed,
            stranger.signed(&grant("worker-1")),
            node.signed(&grant("worker-1")),
            nobody.signed(&grant("worker-1")),
        ] {
            assert!(refusal(verify(&signed)).contains("no gateway of this cluster"));
        }
    }

    #[test]
    fn a_grant_is_good_here_and_now() {
        let (dir, authority) = (Directory::new(), Authority::new("cluster"));
        let gate = gate(&dir, &authority);
        let gateway = Gateway::of(&authority, &[ClientAuth]);
        let other = gateway.sign(&grant("worker-2"));
        assert!(refusal(gate.verify(&other, now())).contains("worker-2"));
        let signed = gateway.sign(&grant("worker-1"));
        gate.verify(&signed, now() + HOUR * 11)
            .expect("good for adding");
        assert!(refusal(gate.verify(&signed, now() + HOUR * 13)).contains("expired"));
    }

    #[test]
    fn a_grant_opens_one_session_and_soon() {
        let (dir, authority) = (Directory::new(), Authority::new("cluster"));
        let gate = gate(&dir, &authority);
        let one = grant("worker-1");
        let old = gate.open(&one, now() + OPENS + SKEW + Duration::from_secs(1));
        assert!(old.expect_err("old").message.contains("too old"));
        gate.open(&one, now() + OPENS).expect("opens");
        let again = gate.open(&one, now() + OPENS);
        assert!(again.expect_err("again").message.contains("once"));
        let other = Grant {
            id: vec![9; 16],
            ..one
        };
        gate.open(&other, now()).expect("another");
    }

    #[test]
    fn no_more_are_remembered_than_fit() {
        let (dir, authority) = (Directory::new(), Authority::new("cluster"));
        let gate = gate(&dir, &authority);
        let nth = |n: usize| Grant {
            id: n.to_be_bytes().to_vec(),
            ..grant("worker-1")
        };
        for n in 0..MOST_REMEMBERED {
            gate.open(&nth(n), now()).expect("opens");
        }
        let full = gate.open(&nth(MOST_REMEMBERED), now()).expect_err("full");
        assert_eq!(full.reason, Reason::TokenLimit);
        // Those before can be forgotten by now.
        let later = now() + HOUR;
        let issued_at_ms =
            u64::try_from(later.duration_since(UNIX_EPOCH).expect("later").as_millis());
        let fresh = Grant {
            issued_at_ms: issued_at_ms.expect("fits"),
            ..nth(MOST_REMEMBERED)
        };
        gate.open(&fresh, later).expect("opens");
    }
}
