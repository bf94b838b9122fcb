//! The sockets on which serve listens for its own clients: left by the process
//! before, or bound anew.
//!
//! What can fail without them is done before: a start that fails is to leave what
//! the process before has left as it was.

use crate::binder::Binder;
use crate::config::{Config, StreamingAddress};
use crate::endpoint::UnixEndpoint;
use crate::streaming::StreamingListener;
use crate::takeover::{self, OwnSockets, Takeover};
use crate::tls::Tls;
use anyhow::Context as _;
use std::path::Path;
use std::sync::Arc;
use sternline_api::protocol::UNIX_SCHEME;
use tokio::net::{TcpListener, UnixListener};

/// Reads the certificate of the streaming endpoint, if it is to have one.
///
/// # Errors
/// It cannot be used.
pub(super) fn tls(config: &Config) -> anyhow::Result<Option<Arc<Tls>>> {
    let files = config.tls.files(&config.streaming_address);
    let files = files.map_err(anyhow::Error::msg)?;
    match (files, &config.streaming_address) {
        (Some(files), StreamingAddress::Tcp(addr)) => {
            let limit = config.tls.streaming_tls_handshake_timeout;
            Ok(Some(Tls::load(files, config.tls.host(*addr), limit)?))
        }
        _ => Ok(None),
    }
}

/// Listens for clients that stream.
///
/// # Errors
/// An address that cannot be bound.
pub(super) async fn streaming(
    config: &Config,
    tls: Option<&Arc<Tls>>,
    binder: &dyn Binder,
    takeover: &mut Takeover,
    own: &mut OwnSockets,
) -> anyhow::Result<(StreamingListener, String)> {
    match &config.streaming_address {
        StreamingAddress::Tcp(addr) => {
            let asked = addr.to_string();
            let listener = match takeover.tcp(takeover::STREAMING, &asked) {
                Some((listener, deposit)) => {
                    own.add(Some(deposit), None);
                    TcpListener::from_std(listener)?
                }
                None => {
                    let key = takeover::STREAMING;
                    let bind = || TcpListener::bind(addr);
                    let listener = takeover.instead(key, &asked, bind).await;
                    let listener =
                        listener.with_context(|| format!("--streaming-address {addr}"))?;
                    let kept = takeover::endpoint(binder, key, &listener, asked, String::new());
                    own.add(kept.await, None);
                    listener
                }
            };
            let bound = listener.local_addr()?;
            if let Some(tls) = tls {
                let base = format!("https://{}:{}", config.tls.host(bound), bound.port());
                return Ok((StreamingListener::Tls(listener, Arc::clone(tls)), base));
            }
            let base = format!("http://{bound}");
            Ok((StreamingListener::Tcp(listener), base))
        }
        StreamingAddress::Unix(path) => {
            let bound = unix(
                takeover::STREAMING,
                path,
                config.access.gid(),
                binder,
                takeover,
                own,
            )
            .await;
            let listener =
                bound.with_context(|| format!("--streaming-address unix:{}", path.display()))?;
            let base = format!("{UNIX_SCHEME}://{}", percent_encoded(path));
            Ok((StreamingListener::Unix(listener), base))
        }
    }
}

/// Listens at a path, for a group too if one is given: on what the process before
/// has left, or anew.
///
/// # Errors
/// Another process serves it, something else is there, or the file system says no.
pub(super) async fn unix(
    key: &str,
    path: &Path,
    group: Option<u32>,
    binder: &dyn Binder,
    takeover: &mut Takeover,
    own: &mut OwnSockets,
) -> std::io::Result<UnixListener> {
    if let Some((listener, endpoint, deposit)) = takeover.unix(key, path) {
        // The flags of this process count, not those of the one before.
        let allowed = endpoint.allow(group);
        own.add(Some(deposit), Some(endpoint));
        return allowed.map(|()| listener);
    }
    let asked = takeover::path_text(path);
    let bind = async || UnixEndpoint::bind_for(path, group);
    let (listener, endpoint) = takeover.instead(key, &asked, bind).await?;
    let kept = takeover::endpoint(binder, key, &listener, asked, endpoint.mark());
    own.add(kept.await, Some(endpoint));
    Ok(listener)
}

/// A path as the host of a URL (RFC 3986, section 2.1).
fn percent_encoded(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = path.as_os_str().as_bytes();
    bytes
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(*byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
