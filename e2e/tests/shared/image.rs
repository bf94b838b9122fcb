//! Container images: a few files each, packed without any other tool.

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::Path;
use sternline_e2e::pattern::hex;
use tar::{Builder, Header};

/// Where the run's own registry listens. Runtimes speak clear text to it, as
/// it is on loopback.
pub(crate) const REGISTRY: &str = "127.0.0.1:5000";

/// The name of the probe's image.
pub(crate) const NAME: &str = "127.0.0.1:5000/probe:1";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Where the probe stands in its image.
pub(crate) const PROBE: &str = "/sternline-probe";

/// An image as a registry serves it.
pub(crate) struct Image {
    repository: String,
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
    /// Packs the probe, which pauses unless it is told otherwise.
    ///
    /// # Errors
    /// It is not readable.
    pub(crate) fn probe(probe: &Path) -> Result<Self> {
        Self::pack("probe", &[PROBE, "pause"], &[(PROBE, probe)])
    }

    /// Packs `files`, each a place in the image and what is to stand there.
    ///
    /// # Errors
    /// One is not readable.
    pub(crate) fn pack(
        repository: &str,
        entrypoint: &[&str],
        files: &[(&str, &Path)],
    ) -> Result<Self> {
        let mut layer = Builder::new(Vec::new());
        for (place, file) in files {
            let mut header = Header::new_gnu();
            let bytes =
                fs::read(file).with_context(|| format!("cannot pack {}", file.display()))?;
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            layer.append_data(&mut header, place.trim_start_matches('/'), &bytes[..])?;
        }
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
            "config": { "Entrypoint": entrypoint },
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
            repository: repository.to_owned(),
            manifest: Blob::new(MANIFEST, manifest),
            blobs: [layer, config],
        })
    }

    /// What stands at a path of the registry's API, below `/v2/`.
    pub(crate) fn find(&self, path: &str) -> Option<&Blob> {
        let path = path.strip_prefix(self.repository.as_str())?;
        if path.starts_with("/manifests/") {
            return Some(&self.manifest);
        }
        let digest = path.strip_prefix("/blobs/")?;
        self.blobs.iter().find(|blob| blob.digest == digest)
    }
}
