//! How the node gets its certificate: it asks a gateway, shows who it is with the
//! token of its service account, and asks again in time.
//!
//! The key is made here and never leaves the process. The token is sent to nobody
//! whom the cluster's bundle does not know.

use super::{Bundle, Identity};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::version::TLS13;
use serde::Deserialize;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use sternline_api::span;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;

/// Where a gateway answers.
const PATH: &str = "/v1alpha1/node-certificate";

/// How long one try may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(15);

/// Waits between tries that failed: the first, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How often it is looked whether the certificate is still trusted.
const LOOK: Duration = Duration::from_secs(5);

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Longest token, in bytes.
const MAX_TOKEN: u64 = 16 * 1024;

/// Where a certificate is asked for, and with what.
#[derive(Debug)]
pub struct Enrolment {
    /// Of a gateway, `https://HOST:PORT`.
    pub gateway: Uri,
    /// The file of the token; it is read for each try, for it is renewed.
    pub token: PathBuf,
    /// Whom the gateway's certificate is to be of.
    pub bundle: Arc<Bundle>,
    /// What the certificate is for.
    pub identity: Arc<Identity>,
}

#[derive(Deserialize)]
struct Answer {
    certificate: String,
}

/// What of a `Status` of Kubernetes is of use.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Enrolment {
    /// Gets a certificate, and another before it ends, for ever.
    pub async fn keep_up(self) {
        let mut wait = FIRST_WAIT;
        loop {
            let tried = timeout(TRY_TIMEOUT, self.once()).await;
            let tried = tried.unwrap_or_else(|_| {
                Err(format!("nothing came within {}", span::exact(TRY_TIMEOUT)))
            });
            match tried {
                Ok(life) => {
                    tracing::info!(
                        host = self.identity.host(),
                        life = span::exact(life),
                        "the node has a certificate"
                    );
                    wait = FIRST_WAIT;
                    // One that hardly lives is no reason to ask without a pause.
                    self.is_due((life * 2 / 3).max(FIRST_WAIT)).await;
                }
                Err(sentence) => {
                    tracing::warn!(gateway = %self.gateway, again = span::exact(wait), "no certificate for the node: {sentence}");
                    sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// Waits so long, or until the certificate is of no use any more: the cluster may
    /// have another authority since.
    async fn is_due(&self, life: Duration) {
        let over = Instant::now() + life;
        loop {
            sleep_until(over.min(Instant::now() + LOOK)).await;
            if Instant::now() >= over || self.identity.trouble(SystemTime::now()).is_some() {
                return;
            }
        }
    }

    /// Gets a certificate, and says for how long it is good.
    async fn once(&self) -> Result<Duration, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let request = CertificateParams::default().serialize_request(&key);
        let request = request.and_then(|request| request.pem());
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.ask(request).await?;
        let chain = CertificateDer::pem_slice_iter(answer.certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("the gateway's answer is no PEM: {error}"))?;
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let now = SystemTime::now();
        let until = self.identity.take_up(chain, key, now);
        let until = until.map_err(|what| format!("the certificate is of no use: {what}"))?;
        Ok(until.duration_since(now).unwrap_or_default())
    }

    async fn ask(&self, request: String) -> Result<Answer, String> {
        let host = self.gateway.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let authority = self.gateway.authority().map_or("", |one| one.as_str());
        let port = self.gateway.port_u16().unwrap_or(443);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let roots = self.bundle.roots()?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let io = TcpStream::connect((host, port)).await;
        let io = io.map_err(|error| format!("it cannot be reached: {error}"))?;
        let io = TlsConnector::from(Arc::new(config)).connect(name, io).await;
        let io = io.map_err(|error| format!("it is not to be trusted: {error}"))?;
        // Only now: nobody else is sent the token.
        let token = self.token().await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(PATH)
            .header(header::HOST, authority)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/x-pem-file")
            .body(Full::new(Bytes::from(request)))
            .map_err(|_| "the token is no text for a header".to_owned())?;
        let io = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
        let (mut sender, connection) = io.map_err(|error| error.to_string())?;
        let answered = async {
            let response = sender.send_request(request).await;
            let response = response.map_err(|error| error.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>((status, body))
        };
        // A connection that has ended still has the answer to give.
        let driven = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        let (status, body) = tokio::select! {
            answered = answered => answered?,
            never = driven => match never {},
        };
        if status != StatusCode::OK {
            let refusal = serde_json::from_slice::<Refusal>(&body);
            let said = refusal.map_or_else(|_| String::new(), |refusal| refusal.message);
            return Err(format!("it answered {status}: {said}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("its answer cannot be read: {error}"))
    }

    async fn token(&self) -> Result<String, String> {
        let (path, file) = (self.token.clone(), self.token.display());
        // A file system may hang, which must not keep a worker.
        let read = move || {
            let mut bytes = Vec::new();
            let file = File::open(path)?;
            file.take(MAX_TOKEN + 1).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        let bytes = tokio::task::spawn_blocking(read).await;
        let bytes = bytes.map_err(|error| error.to_string())?;
        let bytes =
            bytes.map_err(|error| format!("the token in {file} cannot be read: {error}"))?;
        if bytes.len() as u64 > MAX_TOKEN {
            return Err(format!(
                "the token in {file} is longer than {MAX_TOKEN} bytes"
            ));
        }
        let token = String::from_utf8(bytes).map_err(|_| format!("{file} holds no token"))?;
        let token = token.trim();
        if token.is_empty() {
            return Err(format!("{file} holds no token"));
        }
        Ok(token.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Directory};
    use rcgen::ExtendedKeyUsagePurpose::ServerAuth;

    #[tokio::test(start_paused = true)]
    async fn it_asks_again_in_time_or_when_the_authority_is_another() {
        let (dir, authority) = (Directory::new(), Authority::new("cluster"));
        let path = dir.file("ca.crt", authority.pem().as_bytes());
        let bundle = Arc::new(Bundle::always(path));
        let identity = Arc::new(Identity::new("worker-1", Arc::clone(&bundle)));
        let pair = authority.issue_for(&[ServerAuth], &identity.host(), 4000);
        let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("one");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
        let taken = identity.take_up(vec![cert], key, SystemTime::now());
        taken.expect("taken up");
        let enrolment = Enrolment {
            gateway: Uri::from_static("https://gateway.svc"),
            token: dir.path().join("token"),
            bundle,
            identity,
        };
        let life = Duration::from_secs(3600);
        let began = Instant::now();
        enrolment.is_due(life).await;
        assert_eq!(began.elapsed(), life);
        dir.file("ca.crt", Authority::new("cluster").pem().as_bytes());
        enrolment.is_due(life).await;
        assert_eq!(began.elapsed(), life + LOOK);
    }
}
