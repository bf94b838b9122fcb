//! The file that says that everything is served.

use anyhow::Context as _;
use serde::Serialize;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where the gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// Where the API server and nodes connect.
    pub address: SocketAddr,
    /// Address of the metrics, if they are served.
    pub metrics: Option<SocketAddr>,
}

/// The written file. Dropped, it removes it.
#[derive(Debug)]
pub struct ReadyFile {
    path: PathBuf,
    content: String,
}

impl ReadyFile {
    /// Writes it whole or not at all: whoever waits for it may read it at once.
    /// What an earlier run left is replaced.
    ///
    /// # Errors
    /// The file system says no.
    pub fn write(path: &Path, addresses: &Addresses) -> anyhow::Result<Self> {
        let content = serde_json::to_string(addresses)? + "\n";
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let new = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        // Never through a link that somebody left there.
        let _ = fs::remove_file(&new);
        fs::write(&new, &content)
            .and_then(|()| fs::rename(&new, path))
            .with_context(|| format!("--ready-file {}", path.display()))?;
        let path = path.to_owned();
        Ok(Self { path, content })
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Somebody may have put something else there since.
        if fs::read(&self.path).is_ok_and(|found| found == self.content.as_bytes()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_as_long_as_it_is_held() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ready");
        let addresses = Addresses {
            address: "127.0.0.1:1".parse().expect("an address"),
            metrics: None,
        };
        let held = ReadyFile::write(&path, &addresses).expect("written");
        let read = fs::read_to_string(&path).expect("there");
        assert_eq!(read, "{\"address\":\"127.0.0.1:1\",\"metrics\":null}\n");
        drop(held);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
        let held = ReadyFile::write(&path, &addresses).expect("written");
        fs::write(&path, "another's").expect("written");
        drop(held);
        assert!(path.exists(), "it is no longer ours");
    }
}
