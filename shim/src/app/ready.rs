//! The file that says that everything listens.

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Files of earlier runs are smaller than this, in bytes; larger ones are not ours.
const LARGEST: u64 = 64 * 1024;

/// The field that names the process.
const PID: &str = "pid";

/// Whose ready file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of serve.
    Serve,
    /// Of the binder.
    Binder,
}

impl Kind {
    /// The fields besides the pid, which older releases did not write.
    fn fields(self) -> BTreeSet<&'static str> {
        match self {
            Self::Serve => ["socket", "streaming", "metrics"].into(),
            Self::Binder => ["socket"].into(),
        }
    }

    fn wrote(self, bytes: &[u8]) -> bool {
        serde_json::from_slice::<Map<String, Value>>(bytes).is_ok_and(|found| {
            let fields = found.keys().map(String::as_str);
            fields
                .filter(|field| *field != PID)
                .collect::<BTreeSet<_>>()
                == self.fields()
        })
    }
}

/// What the file says: the addresses, and who listens there.
#[derive(Serialize)]
struct Content<'a, A> {
    pid: u32,
    #[serde(flatten)]
    addresses: &'a A,
}

/// The written file. Dropped, it removes it.
#[derive(Debug)]
pub(crate) struct ReadyFile {
    path: PathBuf,
    content: String,
    /// Held as long as this process lives, so that others know that it does; none
    /// on a file system without locks.
    _lock: Option<Flock<File>>,
}

/// Makes room for the file, and sees that it can be written: so nothing is begun that
/// ends because it cannot.
///
/// # Errors
/// Something that is no ready file is there, or the file system says no.
pub(crate) fn clear_ready_file(path: &Path, kind: Kind) -> anyhow::Result<()> {
    remove_stale(path, kind)?;
    let new = new_file(path);
    let _ = fs::remove_file(&new);
    File::create_new(&new)
        .and_then(|_| fs::remove_file(&new))
        .with_context(|| format!("--ready-file {}", path.display()))
}

/// What it is written as, before it has its name.
fn new_file(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.new", std::process::id()))
}

/// Removes what a killed shim left, which says what is not so. That of a shim that
/// is alive says what is so, and stays until it is replaced. So may an empty file,
/// as mktemp makes it.
///
/// # Errors
/// Something else is there, which is not ours to remove.
fn remove_stale(path: &Path, kind: Kind) -> anyhow::Result<()> {
    // Not there, or found out in a moment.
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if meta.is_file() && meta.len() == 0 {
        return Ok(());
    }
    let small = meta.is_file() && meta.len() <= LARGEST;
    if !small || !fs::read(path).is_ok_and(|bytes| kind.wrote(&bytes)) {
        anyhow::bail!(
            "--ready-file {}: something that is no ready file is there: give another path, or remove it",
            path.display()
        );
    }
    if is_held(path) {
        return Ok(());
    }
    fs::remove_file(path).with_context(|| format!("--ready-file {}", path.display()))
}

/// Whether the process that wrote it is alive.
fn is_held(path: &Path) -> bool {
    let locked = File::open(path).map(|file| Flock::lock(file, FlockArg::LockSharedNonblock));
    matches!(locked, Ok(Err((_, Errno::EWOULDBLOCK))))
}

/// Written whole or not at all: whoever waits for it may read it at once.
///
/// # Errors
/// The file system says no.
pub(crate) fn write_ready_file(
    path: &Path,
    addresses: &impl Serialize,
) -> anyhow::Result<ReadyFile> {
    let pid = std::process::id();
    let content = serde_json::to_string(&Content { pid, addresses })? + "\n";
    let new = new_file(path);
    // Never through a link that somebody left there.
    let _ = fs::remove_file(&new);
    let written = File::create_new(&new).and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok();
        fs::rename(&new, path)?;
        Ok(lock)
    });
    let lock = written
        .inspect_err(|_| {
            let _ = fs::remove_file(&new);
        })
        .with_context(|| format!("--ready-file {}", path.display()))?;
    Ok(ReadyFile {
        path: path.to_owned(),
        content,
        _lock: lock,
    })
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
    use serde_json::json;

    fn serve() -> Value {
        json!({"socket": "/s", "streaming": "http://127.0.0.1:1", "metrics": null})
    }

    #[test]
    fn it_is_there_as_long_as_it_is_held_and_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ready");
        let held = write_ready_file(&path, &serve()).expect("written");
        let found: Value = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
        assert_eq!(found["socket"], "/s");
        assert_eq!(found["pid"], std::process::id());
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn only_what_a_shim_of_its_kind_left_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ready");
        let (serve, binder) = (serve().to_string(), json!({"socket": "/s"}).to_string());
        let notes = json!({"socket": "/s", "streaming": 1, "metrics": 2, "note": 3}).to_string();
        for (kind, foreign) in [
            (Kind::Serve, "my notes"),
            (Kind::Serve, "{}"),
            (Kind::Serve, &binder),
            (Kind::Serve, &notes),
            (Kind::Binder, &serve),
            (Kind::Binder, "[\"socket\"]"),
        ] {
            fs::write(&path, foreign).expect("written");
            let error = clear_ready_file(&path, kind).expect_err(foreign);
            assert!(error.to_string().contains("no ready file"), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("there"), foreign);
        }
        for (kind, stale) in [(Kind::Serve, &serve), (Kind::Binder, &binder)] {
            fs::write(&path, stale).expect("written");
            clear_ready_file(&path, kind).expect("of an earlier release");
            assert!(!path.exists());
            let addresses: Value = serde_json::from_str(stale).expect("JSON");
            let held = write_ready_file(&path, &addresses).expect("written");
            let written = fs::read(&path).expect("there");
            clear_ready_file(&path, kind).expect("of a shim that is alive");
            assert_eq!(fs::read(&path).expect("left alone"), written);
            drop(held);
            fs::write(&path, written).expect("written");
            clear_ready_file(&path, kind).expect("of a killed shim");
            assert!(!path.exists());
        }
        fs::write(&path, "").expect("written");
        clear_ready_file(&path, Kind::Serve).expect("as mktemp makes it");
        fs::remove_file(&path).expect("left there");
        std::os::unix::fs::symlink("elsewhere", &path).expect("a link");
        clear_ready_file(&path, Kind::Serve).expect_err("a link");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
        let nowhere = dir.path().join("missing/ready");
        clear_ready_file(&nowhere, Kind::Serve).expect_err("found out at once");
    }

    #[test]
    fn what_was_put_there_meanwhile_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ready");
        let held = write_ready_file(&path, &serve()).expect("written");
        fs::write(&path, "another's").expect("written");
        drop(held);
        assert_eq!(fs::read_to_string(&path).expect("there"), "another's");
    }
}
