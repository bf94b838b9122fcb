//! What intruders have of others: a node's token and the certificate for it, and the
//! keys of the authority, with which anybody is a gateway.

use super::cluster::Cluster;
use super::inside::running_on;
use super::install::NAMESPACE;
use super::pods::{self, Pod};
use super::tls::{Answer, Identity, Visitor};
use anyhow::{Context as _, Result};
use prost::Message as _;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SigningKey as _};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::server::ParsedCertificate;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::grant::{ID_LENGTH, signed_bytes};
use sternline_api::v1alpha1::{Grant, Listener, Requester, SignedGrant};

/// The name of every gateway.
pub(crate) const GATEWAY: &str = "sternline-gateway.sternline.svc";

/// The port of gateways, and that of shims for them.
pub(crate) const PORTS: [u16; 2] = [10250, 10251];

/// The name of a node's shim.
pub(crate) fn node_name(node: &str) -> String {
    format!("{node}.{}", sternline_api::protocol::NODE_ZONE)
}

/// Whom everybody in the cluster trusts, in PEM.
///
/// # Errors
/// It is not there.
pub(crate) async fn bundle(cluster: &Cluster) -> Result<String> {
    let words = format!(
        "get configmap sternline-authority --namespace {NAMESPACE} -o jsonpath={{.data.ca\\.crt}}"
    );
    cluster.admin().run(&words).await
}

/// The token of the shim of a node, as its serve has it.
///
/// # Errors
/// No serve runs there.
pub(crate) fn token(node: &str) -> Result<String> {
    let serve = running_on(node, "/sternline-shim serve")?;
    let token = fs::read_to_string(serve.path("/var/run/secrets/sternline/token"))?;
    Ok(token.trim().to_owned())
}

/// Asks a gateway for the certificate of a node, with a key of one's own.
///
/// # Errors
/// No gateway answers.
pub(crate) async fn enrol(
    cluster: &Cluster,
    gateway: SocketAddr,
    node: &str,
    token: &str,
) -> Result<(KeyPair, Answer)> {
    let key = KeyPair::generate()?;
    let wanted = CertificateParams::new(vec![node_name(node)])?;
    let body = wanted.serialize_request(&key)?.pem()?;
    let request = format!(
        "POST /v1alpha1/node-certificate HTTP/1.1\r\nHost: {GATEWAY}\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/x-pem-file\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let visitor = Visitor::trusting(&bundle(cluster).await?)?;
    let answer = visitor.ask(gateway, GATEWAY, &request).await?;
    Ok((key, answer.context("not a word")?))
}

/// The certificate of a node, had with its token.
///
/// # Errors
/// The gateway gives none.
pub(crate) async fn node(cluster: &Cluster, node: &str) -> Result<Identity> {
    let gateways = pods::of(cluster, "sternline-gateway").await?;
    let gateway = (gateways[0].address, 10250).into();
    let (key, answer) = enrol(cluster, gateway, node, &token(node)?).await?;
    let certificate = answer.json()?["certificate"].as_str().map(str::to_owned);
    Ok(Identity {
        certificate: certificate.with_context(|| answer.text.clone())?,
        key: key.serialize_pem(),
    })
}

/// Whether a certificate in PEM is for the server of this name.
///
/// # Errors
/// It is none.
pub(crate) fn is_for(certificate: &str, name: &str) -> Result<bool> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
    let certificate = ParsedCertificate::try_from(&certificate)?;
    let name = ServerName::try_from(name)?;
    Ok(rustls::client::verify_server_name(&certificate, &name).is_ok())
}

/// Somebody with the keys of the authority: a gateway, to every node.
pub(crate) struct Keys {
    issuer: Issuer<'static, KeyPair>,
}

impl Keys {
    /// Takes them out of their Secret.
    ///
    /// # Errors
    /// They are not there.
    pub(crate) async fn take(cluster: &Cluster) -> Result<Self> {
        let mut found = Vec::new();
        for part in ["current.crt", "current.key"] {
            let template = format!("go-template={{{{index .data \"{part}\" | base64decode}}}}");
            let secret = ["get", "secret", "sternline-authority", "--namespace"];
            let words = [&secret[..], &[NAMESPACE, "-o", &template]].concat();
            let answer = cluster.admin().with(&words).await?;
            anyhow::ensure!(answer.code == 0, "no Secret: {}", answer.stderr);
            found.push(answer.stdout);
        }
        let issuer = Issuer::from_ca_cert_pem(&found[0], KeyPair::from_pem(&found[1])?)?;
        Ok(Self { issuer })
    }

    /// A gateway's certificate.
    ///
    /// # Errors
    /// The cryptography fails.
    pub(crate) fn gateway(&self) -> Result<Identity> {
        let mut params = CertificateParams::new(vec![GATEWAY.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok(Identity {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A grant to listen on a port in a pod for an hour.
pub(crate) fn grant(pod: &Pod, port: u32) -> Grant {
    let ms = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    };
    let now = SystemTime::now();
    Grant {
        id: vec![7; ID_LENGTH],
        node: pod.node.clone(),
        pod: Some(pod.into()),
        requester: Some(Requester {
            user: "intruder".to_owned(),
            ..Requester::default()
        }),
        listeners: vec![Listener {
            port,
            ..Listener::default()
        }],
        wide: false,
        max_hold_ms: 0,
        issued_at_ms: ms(now),
        expires_at_ms: ms(now + Duration::from_secs(3600)),
    }
}

/// Signs a grant with somebody's key.
///
/// # Errors
/// The cryptography fails.
pub(crate) fn sign(grant: &Grant, by: &Identity) -> Result<SignedGrant> {
    let grant = grant.encode_to_vec();
    Ok(SignedGrant {
        signature: KeyPair::from_pem(&by.key)?.sign(&signed_bytes(&grant))?,
        grant,
        chain: by.chain()?.iter().map(|one| one.to_vec()).collect(),
    })
}
