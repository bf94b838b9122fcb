//! A registry of one image on loopback: the reading half of the OCI distribution
//! API, so that a node needs no other registry.

use crate::image::{Image, MANIFEST_TYPE};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{net::TcpListener, task::JoinSet};

/// The repository of the only image.
pub(crate) const REPOSITORY: &str = "sternline/conformance-probe";

/// Connections at once; a runtime makes a handful.
const CONNECTIONS: usize = 32;

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    port: u16,
    visits: Arc<AtomicU32>,
    _serving: JoinSet<()>,
}

impl Registry {
    /// Listens on a port of 127.0.0.1, 0 for a free one, and serves `image`.
    ///
    /// # Errors
    /// The port cannot be had.
    pub(crate) async fn start(image: Image, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let port = listener.local_addr()?.port();
        let visits = Arc::new(AtomicU32::new(0));
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::new(image), Arc::clone(&visits)));
        Ok(Self {
            port,
            visits,
            _serving: serving,
        })
    }

    /// What a runtime is asked to pull.
    pub(crate) fn reference(&self, tag: &str) -> String {
        format!("127.0.0.1:{}/{REPOSITORY}:{tag}", self.port)
    }

    /// How many connections were made so far.
    pub(crate) fn visits(&self) -> u32 {
        self.visits.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, image: Arc<Image>, visits: Arc<AtomicU32>) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        // Out of descriptors, say: the runtime tries again, and so does this.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        visits.fetch_add(1, Ordering::Relaxed);
        let image = Arc::clone(&image);
        let answer = service_fn(move |request: Request<Incoming>| {
            let answer = answer(&image, request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        connections.spawn(async move {
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            // A runtime that hangs up in the middle says so itself.
            let _ = serving.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn answer(image: &Image, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return empty(StatusCode::NOT_FOUND);
    };
    if rest.is_empty() {
        return empty(StatusCode::OK);
    }
    let rest = rest.strip_prefix(REPOSITORY).unwrap_or("");
    let [config, layer] = &image.blobs;
    let (blob, kind) = match rest.rsplit_once('/') {
        // Whatever the tag: there is one image.
        Some(("/manifests", name))
            if !name.starts_with("sha256:") || name == image.manifest.digest =>
        {
            (&image.manifest, MANIFEST_TYPE)
        }
        Some(("/blobs", digest)) if digest == config.digest => (config, "application/octet-stream"),
        Some(("/blobs", digest)) if digest == layer.digest => (layer, "application/octet-stream"),
        _ => return empty(StatusCode::NOT_FOUND),
    };
    let body = match *method == Method::HEAD {
        true => Bytes::new(),
        false => Bytes::from_owner(Arc::clone(&blob.bytes)),
    };
    let response = Response::builder()
        .header(CONTENT_TYPE, kind)
        .header(CONTENT_LENGTH, blob.bytes.len())
        .header("docker-content-digest", &blob.digest);
    response
        .body(Full::new(body))
        .unwrap_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR))
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Blob;

    fn image() -> Image {
        Image::around(Blob::new(b"a layer".to_vec()), "test").expect("an image")
    }

    #[test]
    fn what_a_runtime_asks_for_is_there_and_nothing_else() {
        let image = image();
        let get = |path: &str| answer(&image, &Method::GET, path);
        let base = format!("/v2/{REPOSITORY}");
        assert_eq!(get("/v2/").status(), 200);
        let manifest = get(&format!("{base}/manifests/tag"));
        assert_eq!(manifest.headers()[CONTENT_TYPE], MANIFEST_TYPE);
        let digest = manifest.headers()["docker-content-digest"].to_str();
        let digest = digest.expect("a digest");
        assert_eq!(get(&format!("{base}/manifests/{digest}")).status(), 200);
        for blob in &image.blobs {
            assert_eq!(get(&format!("{base}/blobs/{}", blob.digest)).status(), 200);
        }
        for other in [
            "/",
            "/v2/other/manifests/tag",
            "/v2/sternline/conformance-probe/tags/list",
        ] {
            assert_eq!(get(other).status(), 404, "{other}");
        }
        let none = format!("{base}/blobs/sha256:{}", "0".repeat(64));
        assert_eq!(get(&none).status(), 404);
        assert_eq!(answer(&image, &Method::PUT, "/v2/").status(), 405);
    }

    #[tokio::test]
    async fn a_head_tells_the_length_without_the_bytes() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let image = image();
        let length = image.manifest.bytes.len();
        let registry = Registry::start(image, 0).await.expect("a free port");
        let address = (Ipv4Addr::LOCALHOST, registry.port);
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("it listens");
        let head = format!(
            "HEAD /v2/{REPOSITORY}/manifests/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an answer");
        assert!(
            text.contains(&format!("content-length: {length}\r\n")),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\n"), "{text}");
        assert_eq!(registry.visits(), 1);
    }
}
