//! What the authority signs.

use super::{AuthorityError, Keyring, Lifetimes};
use rcgen::{
    Certificate, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::time::SystemTime;
use sternline_api::protocol::NODE_ZONE;

/// Longest certificate request that is looked at, in bytes.
const MAX_REQUEST: usize = 16 * 1024;

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// A gateway under these names: it serves the API server, and it alone is a
    /// client of nodes.
    Gateway(Vec<String>),
    /// The node of this name: it serves gateways.
    Node(String),
}

/// The name in the certificate of a node.
#[must_use]
pub fn node_name(node: &str) -> String {
    format!("{node}.{NODE_ZONE}")
}

/// A certificate with its chain, and when it should be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// In PEM.
    pub certificate: String,
    /// When another should be asked for.
    pub renewal: SystemTime,
    /// When it ends.
    pub until: SystemTime,
}

/// A key of this process with its certificate.
pub struct Identity {
    /// The certificate.
    pub issued: Issued,
    /// Its private key, PKCS#8 in PEM.
    pub key: String,
}

/// The key stays out of logs.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("until", &self.issued.until)
            .finish_non_exhaustive()
    }
}

impl Keyring {
    /// Makes a key and signs it.
    ///
    /// # Errors
    /// The cryptography fails, or a name is none.
    pub fn identity(
        &self,
        profile: &Profile,
        now: SystemTime,
        lifetimes: &Lifetimes,
    ) -> Result<Identity, AuthorityError> {
        let key = KeyPair::generate()?;
        Ok(Identity {
            issued: self.sign(profile, &key, now, lifetimes)?,
            key: key.serialize_pem(),
        })
    }

    /// Signs the key of a PKCS#10 request (RFC 2986) in PEM. Of the request
    /// nothing but the key counts: who asks does not say for what.
    ///
    /// # Errors
    /// It is no request, not signed with its own key, or too long.
    pub fn answer(
        &self,
        request: &str,
        profile: &Profile,
        now: SystemTime,
        lifetimes: &Lifetimes,
    ) -> Result<Issued, AuthorityError> {
        let refused = |what: String| AuthorityError::Request { what };
        if request.len() > MAX_REQUEST {
            return Err(refused(format!("it is longer than {MAX_REQUEST} bytes")));
        }
        let request = CertificateSigningRequestParams::from_pem(request);
        let request = request.map_err(|error| refused(error.to_string()))?;
        self.sign(profile, &request.public_key, now, lifetimes)
    }

    fn sign(
        &self,
        profile: &Profile,
        key: &impl PublicKeyData,
        now: SystemTime,
        lifetimes: &Lifetimes,
    ) -> Result<Issued, AuthorityError> {
        // It is of no use for longer than the root that it stands on.
        let until = (now + lifetimes.leaf).min(self.until());
        let (names, common) = match profile {
            Profile::Gateway(names) => (names.clone(), "sternline-gateway".to_owned()),
            Profile::Node(node) => (vec![node_name(node)], "sternline-node".to_owned()),
        };
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common);
        params.not_before = Lifetimes::begin(now).into();
        params.not_after = until.into();
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if matches!(profile, Profile::Gateway(_)) {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let certificate: Certificate = params.signed_by(key, &self.issuer()?)?;
        Ok(Issued {
            certificate: certificate.pem(),
            renewal: Lifetimes::renewal(now, until),
            until,
        })
    }
}

/// A serial number that was never used (RFC 5280, section 4.1.2.2): renewing with
/// the same key gives another.
pub(super) fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| AuthorityError::Crypto(error.to_string()))?;
    // Positive, and not shortened.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

pub(super) fn to_pem(der: &CertificateDer<'_>) -> String {
    let block = pem::Pem::new("CERTIFICATE", der.as_ref());
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&block, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::PKCS_ED25519;
    use rustls::pki_types::pem::PemObject as _;
    use std::time::Duration;
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + HOUR * 500_000
    }

    fn ring() -> (Keyring, Lifetimes) {
        let lifetimes = Lifetimes::default();
        let ring = Keyring::generate(now(), &lifetimes).expect("a root");
        (ring, lifetimes)
    }

    fn with<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let (_, parsed) = X509Certificate::from_der(&der).expect("DER");
        look(&parsed)
    }

    fn names(pem: &str) -> Vec<String> {
        with(pem, |certificate| {
            let names = certificate.subject_alternative_name().expect("sound");
            let names = &names.expect("some").value.general_names;
            let names = names.iter().map(|name| match name {
                GeneralName::DNSName(name) => (*name).to_owned(),
                other => panic!("{other:?}"),
            });
            names.collect()
        })
    }

    fn request(params: &CertificateParams, key: &KeyPair) -> String {
        let request = params.serialize_request(key).expect("a request");
        request.pem().expect("PEM")
    }

    #[test]
    fn a_node_serves_under_its_name_and_is_nobodys_client() {
        let (ring, lifetimes) = ring();
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let profile = Profile::Node("worker-1".to_owned());
        // It asks for everything.
        let mut asked =
            CertificateParams::new(vec!["sternline-gateway.svc".to_owned()]).expect("names");
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let issued = ring.answer(&request(&asked, &key), &profile, now(), &lifetimes);
        let issued = issued.expect("signed");
        assert_eq!(
            names(&issued.certificate),
            ["worker-1.node.reverse.sternline.dev"]
        );
        with(&issued.certificate, |certificate| {
            let usage = certificate
                .extended_key_usage()
                .expect("sound")
                .expect("some");
            assert!(usage.value.server_auth && !usage.value.client_auth && !usage.value.any);
            assert!(!certificate.is_ca());
            assert_eq!(certificate.public_key().raw, key.subject_public_key_info());
        });
    }

    #[test]
    fn a_gateway_is_server_and_client() {
        let (ring, lifetimes) = ring();
        let profile = Profile::Gateway(vec!["a.svc".to_owned(), "b.svc".to_owned()]);
        let identity = ring.identity(&profile, now(), &lifetimes).expect("one");
        assert_eq!(names(&identity.issued.certificate), ["a.svc", "b.svc"]);
        with(&identity.issued.certificate, |certificate| {
            let usage = certificate
                .extended_key_usage()
                .expect("sound")
                .expect("some");
            assert!(usage.value.server_auth && usage.value.client_auth);
        });
        let shown = format!("{identity:?}{ring:?}");
        assert!(
            !shown.contains("PRIVATE") && !shown.contains("BEGIN"),
            "{shown}"
        );
    }

    #[test]
    fn it_begins_a_quarter_of_an_hour_ago_and_ends_before_its_root() {
        let (ring, lifetimes) = ring();
        let profile = Profile::Node("n".to_owned());
        let late = ring.until() - HOUR;
        for (at, until) in [(now(), now() + lifetimes.leaf), (late, ring.until())] {
            let identity = ring.identity(&profile, at, &lifetimes).expect("one");
            assert_eq!(identity.issued.until, until);
            with(&identity.issued.certificate, |certificate| {
                let seconds = |time: SystemTime| {
                    let since = time.duration_since(SystemTime::UNIX_EPOCH);
                    i64::try_from(since.expect("later").as_secs()).expect("a date")
                };
                let validity = certificate.validity();
                assert_eq!(validity.not_after.timestamp(), seconds(until));
                assert_eq!(validity.not_before.timestamp(), seconds(at) - 15 * 60);
            });
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let (ring, lifetimes) = ring();
        let profile = Profile::Node("n".to_owned());
        let answer = |text: &str| ring.answer(text, &profile, now(), &lifetimes);
        let key = KeyPair::generate().expect("a key");
        let good = request(&CertificateParams::default(), &key);
        answer(&good).expect("signed");
        // Signed by another key than the one it holds.
        let mut block = pem::parse(&good).expect("PEM").contents().to_vec();
        let last = block.len() - 1;
        block[last] ^= 1;
        let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", block));
        for wrong in ["", "nonsense", &forged, &"x".repeat(MAX_REQUEST + 1)] {
            let refused = answer(wrong).expect_err("refused");
            assert!(
                matches!(refused, AuthorityError::Request { .. }),
                "{refused}"
            );
        }
    }

    #[test]
    fn no_two_have_the_same_serial_number() {
        let serials: std::collections::HashSet<_> = (0..100)
            .map(|_| serial().expect("random").to_bytes())
            .collect();
        assert_eq!(serials.len(), 100);
        assert!(serials.iter().all(|one| one.len() == 16 && one[0] < 0x80));
    }
}
