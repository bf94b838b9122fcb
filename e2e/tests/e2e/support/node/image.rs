//! The probe as a container image: one file, packed without any other tool.

use super::pod::PROBE;
use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::path::Path;
use sternline_e2e::pattern::hex;
use tar::{Builder, Header};

/// The image's name. Nobody can pull it: `.test` names nothing (RFC 6761).
pub(crate) const NAME: &str = "sternline.test/probe:1";

/// Writes an OCI image layout of the probe as a tar archive.
///
/// # Errors
/// The probe is not readable, or the archive not writable.
pub(crate) fn pack(probe: &Path, archive: &Path) -> Result<()> {
    let mut layer = Builder::new(Vec::new());
    let name = PROBE.trim_start_matches('/');
    append(&mut layer, name, &fs::read(probe)?, 0o755)?;
    let layer = layer.into_inner()?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Entrypoint": [PROBE, "pause"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({ "io.containerd.image.name": NAME });
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] }))?;

    let mut image = Builder::new(File::create(archive)?);
    append(
        &mut image,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
        0o644,
    )?;
    append(&mut image, "index.json", &index, 0o644)?;
    for blob in [layer, config, manifest] {
        let path = format!("blobs/{}", digest(&blob).replace(':', "/"));
        append(&mut image, &path, &blob, 0o644)?;
    }
    image.finish()?;
    Ok(())
}

fn append<W: std::io::Write>(
    tar: &mut Builder<W>,
    path: &str,
    bytes: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(blob)))
}
