//! The probe as an OCI image: the suite's own program and nothing else, or with
//! its loader and libraries where it is not linked statically.

mod program;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fmt::Write as _,
    io,
    path::Path,
    sync::{Arc, OnceLock},
};
use tar::{Builder, Header};

/// Where the program stands in the image.
pub(crate) const PROGRAM: &str = "/sternline-conformance";

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// A run of bytes and its digest, `sha256:…`.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) bytes: Arc<[u8]>,
}

impl Blob {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let mut digest = String::from("sha256:");
        for byte in Sha256::digest(&bytes) {
            let _ = write!(digest, "{byte:02x}");
        }
        Self {
            digest,
            bytes: bytes.into(),
        }
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// An image: what its manifest names, and the manifest.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Blob,
    pub(crate) blobs: [Blob; 2],
}

impl Image {
    /// Packs the running program. `run` makes the image unlike that of any other
    /// run, which runtimes would otherwise take for the same one: one run could
    /// then remove it under another.
    ///
    /// # Errors
    /// The program or a library of it cannot be read.
    pub(crate) fn of_this_program(run: &str) -> io::Result<Self> {
        // The program does not change while it runs.
        static LAYER: OnceLock<Blob> = OnceLock::new();
        let layer = match LAYER.get() {
            Some(layer) => layer.clone(),
            None => {
                let packed = layer(&std::env::current_exe()?)?;
                LAYER.get_or_init(|| packed).clone()
            }
        };
        Self::around(layer, run)
    }

    pub(crate) fn around(layer: Blob, run: &str) -> io::Result<Self> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = Blob::new(serde_json::to_vec(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": [PROGRAM, crate::probe::PAUSE_WORD],
                "Env": [format!("LD_LIBRARY_PATH={}", program::LIBRARIES)],
                "Labels": { "dev.sternline.conformance/run": run },
            },
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        }))?);
        let manifest = Blob::new(serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(CONFIG_TYPE),
            "layers": [layer.descriptor(LAYER_TYPE)],
        }))?);
        Ok(Self {
            manifest,
            blobs: [config, layer],
        })
    }
}

fn layer(program: &Path) -> io::Result<Blob> {
    let mut tar = Builder::new(Vec::new());
    append(&mut tar, PROGRAM, &std::fs::read(program)?)?;
    for (place, file) in program::needs(program)? {
        append(&mut tar, &place, &std::fs::read(file)?)?;
    }
    Ok(Blob::new(tar.into_inner()?))
}

fn append(tar: &mut Builder<Vec<u8>>, place: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, place.trim_start_matches('/'), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_what_it_is_made_of() {
        let one = Image::around(Blob::new(b"layer".to_vec()), "1").expect("an image");
        let [config, layer] = &one.blobs;
        let manifest: Value = serde_json::from_slice(&one.manifest.bytes).expect("JSON");
        assert_eq!(manifest["config"]["digest"], config.digest.as_str());
        assert_eq!(manifest["layers"][0]["digest"], layer.digest.as_str());
        assert_eq!(manifest["layers"][0]["size"], 5);
        let config: Value = serde_json::from_slice(&config.bytes).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"][0], layer.digest.as_str());
        // The well-known digest of "layer" would change with the hash alone.
        assert!(layer.digest.starts_with("sha256:") && layer.digest.len() == 71);
    }

    #[test]
    fn images_of_two_runs_differ_and_share_their_layer() {
        let layer = Blob::new(b"layer".to_vec());
        let one = Image::around(layer.clone(), "1").expect("an image");
        let other = Image::around(layer, "2").expect("an image");
        assert_ne!(one.blobs[0].digest, other.blobs[0].digest);
        assert_eq!(one.blobs[1].digest, other.blobs[1].digest);
    }
}
