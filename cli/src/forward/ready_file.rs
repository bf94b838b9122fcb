//! The file of `--ready-file`: there while the forward is up.

#[cfg(unix)]
#[path = "ready_file/unix.rs"]
mod lock;
#[cfg(not(unix))]
#[path = "ready_file/other.rs"]
mod lock;

use crate::fault::{Fault, exit};
use crate::report::Ready;
use lock::Lock;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Files of earlier runs are smaller than this; larger ones are not ours.
const LARGEST: u64 = 1024 * 1024;

/// What the file says: the `ready` event and who wrote it.
#[derive(Serialize)]
struct Content<'a> {
    pid: u32,
    #[serde(flatten)]
    ready: &'a Ready,
}

/// The written file. Dropped, it removes it.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: PathBuf,
    content: Vec<u8>,
    /// Says to other forwards that ours lives.
    _lock: Lock,
}

impl ReadyFile {
    /// Sees, before anything is asked of a node, whether the file can be written,
    /// and removes what an earlier run left.
    ///
    /// # Errors
    /// It cannot, it is that of a forward that lives, or something else is there.
    pub(super) fn prepare(path: &Path) -> Result<(), Fault> {
        Self::clear(path)?;
        let draft = draft(path);
        let tried = put(&draft, b"").and_then(|_| fs::remove_file(&draft));
        tried.map_err(|error| {
            Fault::usage(format!(
                "--ready-file {} cannot be written: {}: give another path",
                path.display(),
                crate::cause(&error)
            ))
        })
    }

    /// Removes what an earlier run left, so that nobody takes it for ours. An
    /// empty file, as mktemp makes it, may stay until it is replaced.
    ///
    /// # Errors
    /// Something else is there, which must not be replaced: a device, a link,
    /// somebody's file, the file of a forward that lives.
    fn clear(path: &Path) -> Result<(), Fault> {
        let Ok(meta) = fs::symlink_metadata(path) else {
            return Ok(());
        };
        if meta.is_file() && meta.len() == 0 {
            return Ok(());
        }
        let small = meta.is_file() && meta.len() < LARGEST;
        let left = small
            && fs::read(path).is_ok_and(|bytes| {
                serde_json::from_slice::<serde_json::Value>(&bytes)
                    .is_ok_and(|v| v.get("session_id").is_some() && v.get("bound").is_some())
            });
        if left && lock::is_held(path) {
            return Err(Fault::usage(format!(
                "--ready-file {} is that of a forward that is up: give another path, or end that forward",
                path.display()
            )));
        }
        if left {
            let _ = fs::remove_file(path);
            return Ok(());
        }
        Err(Fault::usage(format!(
            "--ready-file {}: something that is no ready file is there: give another path, or remove it",
            path.display()
        )))
    }

    /// Writes the file in one step: whoever sees it sees all of it.
    ///
    /// # Errors
    /// As [`Self::prepare`], for what changed since.
    pub(super) fn write(path: &Path, ready: &Ready) -> Result<Self, Fault> {
        let failed = |error: io::Error| {
            Fault::new(
                exit::OTHER,
                format!(
                    "cannot write the ready file {}: {}: the forward is given up",
                    path.display(),
                    crate::cause(&error)
                ),
            )
        };
        Self::clear(path)?;
        let pid = std::process::id();
        let mut content =
            serde_json::to_vec(&Content { pid, ready }).map_err(|error| failed(error.into()))?;
        content.push(b'\n');
        let draft = draft(path);
        let written = put(&draft, &content).and_then(|file| {
            // Locked before anybody can see it.
            let lock = Lock::take(file);
            fs::rename(&draft, path).map(|()| lock)
        });
        let lock = written.map_err(|error| {
            let _ = fs::remove_file(&draft);
            failed(error)
        })?;
        tracing::info!(path = %path.display(), "ready file written");
        Ok(Self {
            path: path.to_owned(),
            content,
            _lock: lock,
        })
    }
}

/// What is renamed to `path` when it is whole.
fn draft(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

fn put(path: &Path, content: &[u8]) -> io::Result<File> {
    // Left by a process of the same id that was killed in between.
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)?;
    file.write_all(content)?;
    Ok(file)
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Another forward may have written its own since.
        if fs::read(&self.path).is_ok_and(|content| content == self.content) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(session_id: &str) -> Ready {
        Ready {
            session_id: session_id.into(),
            place: "sandbox/web".into(),
            namespace: None,
            hold_ms: 0,
            bound: Vec::new(),
        }
    }

    #[test]
    fn it_is_there_as_long_as_it_is_held_and_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("ready.json");
        let file = ReadyFile::write(&path, &ready("s1")).expect("written");
        let value: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
        assert_eq!(value["session_id"], "s1");
        assert_eq!(value["pid"], std::process::id());
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }

    #[test]
    fn the_file_of_another_forward_stays() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("ready.json");
        let first = ReadyFile::write(&path, &ready("s1")).expect("written");
        for refused in [
            ReadyFile::prepare(&path).expect_err("the first lives"),
            ReadyFile::write(&path, &ready("s2")).expect_err("it still does"),
        ] {
            assert_eq!(refused.exit, exit::USAGE);
            assert!(
                refused.message.contains("a forward that is up"),
                "{refused}"
            );
        }
        // Somebody removed it, and a second forward wrote its own.
        fs::remove_file(&path).expect("ours");
        let second = ReadyFile::write(&path, &ready("s2")).expect("written");
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn only_what_an_earlier_run_left_is_cleared() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("ready.json");
        fs::write(&path, "my notes").expect("written");
        assert!(ReadyFile::clear(&path).is_err());
        assert!(path.exists());
        fs::write(&path, "").expect("written");
        ReadyFile::clear(&path).expect("an empty file may be replaced");
        let killed = ReadyFile::write(&path, &ready("s1")).expect("written");
        fs::copy(&path, dir.path().join("left")).expect("copied");
        drop(killed);
        fs::rename(dir.path().join("left"), &path).expect("as a kill leaves it");
        ReadyFile::clear(&path).expect("an earlier run's");
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_written_is_found_out_before() {
        let fault = ReadyFile::prepare(Path::new("/nowhere/at/all")).expect_err("no directory");
        assert_eq!(fault.exit, exit::USAGE);
        assert!(fault.message.contains("/nowhere/at/all"), "{fault}");
        let dir = tempfile::tempdir().expect("directory");
        ReadyFile::prepare(&dir.path().join("ready.json")).expect("it can be written");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }

    #[test]
    fn where_it_cannot_be_written_the_path_is_named() {
        let fault = ReadyFile::write(Path::new("/nowhere/at/all"), &ready("s1")).expect_err("no");
        assert!(fault.message.contains("/nowhere/at/all"), "{fault}");
        assert!(
            fault.message.contains("no such file or directory"),
            "{fault}"
        );
    }
}
