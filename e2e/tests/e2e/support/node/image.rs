//! The probe as a container image: one file, packed without any other tool.

use super::pod::PROBE;
use anyhow::Result;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::Path;
use sternline_e2e::pattern::hex;
use tar::{Builder, Header};

/// Where the run's own registry listens. Runtimes speak clear text to it, as
/// it is on loopback.
pub(crate) const REGISTRY: &str = "127.0.0.1:5000";

/// The image's name.
pub(crate) const NAME: &str = "127.0.0.1:5000/probe:1";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The image as a registry serves it.
pub(crate) struct Image {
    manifest: Blob,
    blobs: [Blob; 2],
}

/// A part of it.
pub(crate) struct Blob {
    pub(crate) media_type: &'static str,
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            digest: format!("sha256:{}", hex(&Sha256::digest(&bytes))),
            bytes,
        }
    }

    fn described(&self) -> serde_json::Value {
        let size = self.bytes.len();
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": size })
    }
}

impl Image {
    /// Packs the probe.
    ///
    /// # Errors
    /// It is not readable.
    pub(crate) fn pack(probe: &Path) -> Result<Self> {
        let mut layer = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        let probe = fs::read(probe)?;
        header.set_size(probe.len() as u64);
        header.set_mode(0o755);
        layer.append_data(&mut header, PROBE.trim_start_matches('/'), &probe[..])?;
        let layer = layer.into_inner()?;
        let layer = Blob::new("application/vnd.oci.image.layer.v1.tar", layer);
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = serde_json::to_vec(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Entrypoint": [PROBE, "pause"] },
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        }))?;
        let config = Blob::new("application/vnd.oci.image.config.v1+json", config);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.described(),
            "layers": [layer.described()],
        }))?;
        Ok(Self {
            manifest: Blob::new(MANIFEST, manifest),
            blobs: [layer, config],
        })
    }

    /// What stands at a path of the registry's API.
    pub(crate) fn find(&self, path: &str) -> Option<&Blob> {
        match path.trim_start_matches("/v2").trim_start_matches('/') {
            // Whether it is a registry at all: any answer will do.
            "" => Some(&self.blobs[1]),
            path if path.starts_with("probe/manifests/") => Some(&self.manifest),
            path => {
                let digest = path.strip_prefix("probe/blobs/")?;
                self.blobs.iter().find(|blob| blob.digest == digest)
            }
        }
    }
}
