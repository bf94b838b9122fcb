//! The off switch: a file that says whether the feature is on.
//!
//! It is looked at, by content, for as long as the node serves: a file that is
//! replaced, or a link that leads elsewhere, as those of a mounted `ConfigMap`
//! do, is seen like one that is rewritten. Whatever is not understood is off.

use crate::metrics;
use crate::session::Shared;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sternline_api::{Failure, Reason};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Time between two looks. Sessions end within a second of the file's change.
const INTERVAL: Duration = Duration::from_millis(500);

/// When what was not understood is looked at again before it is believed: a file
/// that is rewritten in place is empty for a moment.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// How long a look may take. A file system that hangs for longer is one that
/// cannot be read.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How much is read, in bytes: more than any word that is understood has.
const MOST: u64 = 16;

/// What a switch file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// The feature is on.
    On,
    /// It is off, and the words say what in the file makes it so.
    Off(String),
}

/// A look at the file that is under way.
type Look = JoinHandle<Result<Position, String>>;

/// A switch file that is followed.
#[derive(Debug)]
pub struct Switch {
    path: PathBuf,
    position: Option<Position>,
    /// A look that takes too long: no other is begun before it is over.
    hanging: Option<Look>,
}

impl Switch {
    /// A switch that was not looked at yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            position: None,
            hanging: None,
        }
    }

    /// Waits until the file says something else than before, which at first it
    /// does at once. Cancelled, it has lost nothing.
    pub async fn turned(&mut self) -> Position {
        loop {
            if self.position.is_some() {
                sleep(INTERVAL).await;
            }
            let found = self.look_twice().await;
            if self.position.as_ref() != Some(&found) {
                self.position = Some(found.clone());
                return found;
            }
        }
    }

    async fn look_twice(&mut self) -> Position {
        if let Ok(position) = self.look().await {
            return position;
        }
        sleep(SECOND_LOOK).await;
        let path = self.path.display().to_string();
        let second = self.look().await;
        second.unwrap_or_else(|trouble| Position::Off(format!("{path} {trouble}")))
    }

    async fn look(&mut self) -> Result<Position, String> {
        let path = self.path.clone();
        let begin = || tokio::task::spawn_blocking(move || look(&path));
        let looking = self.hanging.get_or_insert_with(begin);
        let Ok(looked) = timeout(LOOK_TIMEOUT, looking).await else {
            return Err(format!("cannot be read within {LOOK_TIMEOUT:?}"));
        };
        self.hanging = None;
        looked.unwrap_or_else(|_| Err("cannot be read".to_owned()))
    }
}

/// Follows a switch for ever and does what it says.
pub async fn follow(mut switch: Switch, shared: Arc<Shared>) {
    loop {
        let position = switch.turned().await;
        obey(&position, &switch.path, &shared);
    }
}

/// Looks at a switch for the first time and does what it says.
pub async fn begin(switch: &mut Switch, shared: &Arc<Shared>) {
    let position = switch.turned().await;
    obey(&position, &switch.path, shared);
}

/// Lets sessions be made, or lets none and ends those that there are.
fn obey(position: &Position, path: &Path, shared: &Arc<Shared>) {
    metrics::enabled(*position == Position::On);
    let Position::Off(why) = position else {
        shared.registry.switch(None);
        tracing::info!(file = %path.display(), "the feature is switched on");
        return;
    };
    shared.registry.switch(Some(why.clone()));
    // Complete: from here on no session is published.
    let sessions = shared.registry.list();
    tracing::warn!(
        why,
        sessions = sessions.len(),
        "the feature is switched off"
    );
    for session in sessions {
        tokio::spawn(async move {
            let sentence = format!(
                "sandbox {}: reverse port-forwarding was switched off on this node",
                session.sandbox.id
            );
            session
                .stop(Failure::new(Reason::FeatureOff, sentence))
                .await;
        });
    }
}

/// What the file says; the error is what is wrong with it, to be put after its
/// name.
fn look(path: &Path) -> Result<Position, String> {
    match content(path) {
        Ok(bytes) => understood(&bytes)
            .map(|on| match on {
                true => Position::On,
                false => Position::Off(format!("{} says off", path.display())),
            })
            .ok_or_else(|| "says neither on nor off".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Position::On),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    // Without the flag a FIFO would be waited for.
    let mut options = OpenOptions::new();
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = options.read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether it says on; nothing if it says neither.
fn understood(bytes: &[u8]) -> Option<bool> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    match line.strip_suffix(b"\r").unwrap_or(line) {
        b"on" => Some(true),
        b"off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::time::Instant;

    fn off(switch: &Switch, why: &str) -> Position {
        Position::Off(format!("{} {why}", switch.path.display()))
    }

    /// A switch in a directory of its own.
    fn switch() -> (tempfile::TempDir, Switch) {
        let dir = tempfile::tempdir().expect("a directory");
        let switch = Switch::new(dir.path().join("switch"));
        (dir, switch)
    }

    #[test]
    fn two_words_are_understood() {
        for (text, on) in [
            ("on", Some(true)),
            ("on\n", Some(true)),
            ("off", Some(false)),
            ("off\n", Some(false)),
            ("off\r\n", Some(false)),
            ("", None),
            ("\n", None),
            ("on\n\n", None),
            (" on", None),
            ("ON", None),
            ("offf", None),
            ("on and on and on and on", None),
            ("true", None),
        ] {
            assert_eq!(understood(text.as_bytes()), on, "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_not_there_is_on_and_changes_are_seen_within_a_second() {
        let (_dir, mut switch) = switch();
        let began = Instant::now();
        assert_eq!(switch.turned().await, Position::On);
        assert_eq!(
            began.elapsed(),
            Duration::ZERO,
            "the first look waits for nothing"
        );
        for (text, position) in [
            ("off", off(&switch, "says off")),
            ("on\n", Position::On),
            ("", off(&switch, "says neither on nor off")),
            ("off\n", off(&switch, "says off")),
        ] {
            fs::write(&switch.path, text).expect("written");
            let began = Instant::now();
            assert_eq!(switch.turned().await, position, "{text:?}");
            assert!(began.elapsed() < Duration::from_secs(1));
        }
        fs::remove_file(&switch.path).expect("removed");
        assert_eq!(switch.turned().await, Position::On);
    }

    /// As the kubelet swaps the content of a mounted ConfigMap.
    #[tokio::test(start_paused = true)]
    async fn a_link_that_leads_elsewhere_is_followed() {
        let (dir, mut switch) = switch();
        for (version, text) in [("1", "on"), ("2", "off")] {
            fs::create_dir(dir.path().join(version)).expect("made");
            fs::write(dir.path().join(version).join("switch"), text).expect("written");
        }
        let link = |version: &str| {
            let (new, data) = (dir.path().join("new"), dir.path().join("data"));
            std::os::unix::fs::symlink(version, &new).expect("linked");
            fs::rename(new, data).expect("swapped");
        };
        link("1");
        std::os::unix::fs::symlink("data/switch", &switch.path).expect("linked");
        assert_eq!(switch.turned().await, Position::On);
        link("2");
        assert_eq!(switch.turned().await, off(&switch, "says off"));
        link("1");
        assert_eq!(switch.turned().await, Position::On);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_rewritten_in_place_is_not_taken_for_empty() {
        let (_dir, mut switch) = switch();
        fs::write(&switch.path, "on").expect("written");
        assert_eq!(switch.turned().await, Position::On);
        fs::write(&switch.path, "").expect("written");
        let path = switch.path.clone();
        let rewriting = async {
            sleep(INTERVAL + SECOND_LOOK / 2).await;
            fs::write(path, "on").expect("written");
            sleep(INTERVAL * 4).await;
        };
        tokio::select! {
            turned = switch.turned() => panic!("turned to {turned:?}"),
            () = rewriting => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_readable_file_is_off() {
        let (dir, mut switch) = switch();
        fs::create_dir(&switch.path).expect("made");
        let why = "cannot be read: it is no regular file";
        assert_eq!(switch.turned().await, off(&switch, why));
        // A FIFO that nobody writes must not hold the look up.
        let mut fifo = Switch::new(dir.path().join("fifo"));
        nix::unistd::mkfifo(&fifo.path, nix::sys::stat::Mode::S_IRUSR).expect("made");
        assert_eq!(fifo.turned().await, off(&fifo, why));
        let mut beneath = Switch::new(dir.path().join("fifo/switch"));
        let Position::Off(why) = beneath.turned().await else {
            panic!("a path through a file is on");
        };
        assert!(why.contains("Not a directory"), "{why}");
    }
}
