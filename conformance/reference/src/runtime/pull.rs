//! Pulling an image as a runtime does: manifest, then what it names.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Pulls `HOST:PORT/REPOSITORY:TAG` over plain HTTP, and unpacks the file that
/// its entry point names.
pub(super) fn pull(reference: &str, program: &Path) -> io::Result<()> {
    let wrong = || io::Error::other(format!("{reference} is no image that can be pulled here"));
    let (host, rest) = reference.split_once('/').ok_or_else(wrong)?;
    let (repository, tag) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let manifest = json(&get(host, &format!("/v2/{repository}/manifests/{tag}"))?)?;
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().ok_or_else(wrong)?;
        get(host, &format!("/v2/{repository}/blobs/{digest}"))
    };
    let config = json(&blob(&manifest["config"])?)?;
    let entry = config["config"]["Entrypoint"][0]
        .as_str()
        .ok_or_else(wrong)?;
    let layer = blob(&manifest["layers"][0])?;
    let mut layer = tar::Archive::new(&layer[..]);
    for file in layer.entries()? {
        let mut file = file?;
        if file.path()? == Path::new(entry.trim_start_matches('/')) {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            fs::write(program, bytes)?;
            return fs::set_permissions(program, fs::Permissions::from_mode(0o755));
        }
    }
    Err(wrong())
}

fn json(bytes: &[u8]) -> io::Result<serde_json::Value> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

fn get(host: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(host)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    match end {
        Some(end) if bytes.starts_with(b"HTTP/1.1 200 ") => Ok(bytes.split_off(end + 4)),
        _ => Err(io::Error::other(format!("{host} has no {path}"))),
    }
}
