//! The program itself: what it refuses at its start, and the signals it is sent.

use crate::support::within;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// The program with a directory of its own.
fn program(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sternline-shim"));
    command
        .args(words)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs it to its end.
async fn ends(dir: &Path, words: &[&str]) -> (Option<i32>, String) {
    let output = within("the end", program(dir, words).output()).await;
    let Output { status, stderr, .. } = output.expect("started");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

/// A program that runs on.
struct Running {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(dir: &Path, words: &[&str]) -> Self {
        let mut child = program(dir, words).spawn().expect("started");
        let log = BufReader::new(child.stderr.take().expect("piped")).lines();
        Self { child, log }
    }

    /// Waits for a line that has this.
    async fn says(&mut self, part: &str) -> String {
        within(part, async {
            loop {
                let line = self.log.next_line().await.expect("text");
                let line = line.unwrap_or_else(|| panic!("it ended without {part:?}"));
                if line.contains(part) {
                    return line;
                }
            }
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        kill(Pid::from_raw(id.expect("running")), signal).expect("sent");
    }

    /// Tells it to end, and waits until it did.
    async fn end(mut self) {
        self.signal(Signal::SIGTERM);
        let status = within("the end", self.child.wait()).await.expect("waited");
        assert!(status.success(), "{status}");
    }
}

/// Both subcommands on sockets below `dir`, with sandboxes in `netns`.
fn both(netns: &Path) -> [Vec<String>; 2] {
    ["serve", "binder"].map(|name| {
        let words = [name, "--socket", "unix:///SOCKET", "--standalone"];
        let mut words = words.map(str::to_owned).to_vec();
        let dir = netns.parent().expect("a directory");
        words[2] = format!("unix://{}", dir.join(format!("{name}.sock")).display());
        words.extend(["--netns-dir".to_owned(), netns.display().to_string()]);
        words
    })
}

fn text(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn in_place(dir: &tempfile::TempDir) -> PathBuf {
    let netns = dir.path().join("netns");
    std::fs::create_dir(&netns).expect("made");
    netns
}

#[tokio::test]
async fn a_hangup_ends_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    for words in both(&in_place(&dir)) {
        let name = &words[0];
        let mut running = Running::start(dir.path(), &text(&words));
        running
            .says(if name == "serve" {
                "serving"
            } else {
                "binding for serve"
            })
            .await;
        running.signal(Signal::SIGHUP);
        running.says("SIGHUP: nothing to reload").await;
        let socket = dir.path().join(format!("{name}.sock"));
        assert!(
            socket.exists(),
            "{name} listens at a path, not below ./unix:"
        );
        running.end().await;
    }
}

#[tokio::test]
async fn sandboxes_that_are_out_of_reach_are_told_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let netns = dir.path().join("missing");
    for words in both(&netns) {
        let mut running = Running::start(dir.path(), &text(&words));
        let line = running.says(" WARN ").await;
        let place = format!("--netns-dir {}", netns.display());
        assert!(line.contains(&place), "{line}");
        running.end().await;
    }
}

#[tokio::test]
async fn a_ready_file_takes_the_place_of_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let notes = dir.path().join("notes");
    let notes = notes.to_str().expect("text");
    for words in both(&in_place(&dir)) {
        let words = [&text(&words)[..], &["--ready-file", notes]].concat();
        std::fs::write(notes, "precious").expect("written");
        let (code, said) = ends(dir.path(), &words).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("no ready file"), "{said}");
        assert_eq!(std::fs::read_to_string(notes).expect("there"), "precious");
        std::fs::remove_file(notes).expect("removed");

        let mut killed = Running::start(dir.path(), &words);
        let up = if words[0] == "serve" {
            "serving"
        } else {
            "binding for serve"
        };
        killed.says(up).await;
        killed.child.kill().await.expect("killed");
        assert!(Path::new(notes).exists(), "left by the killed one");
        let mut next = Running::start(dir.path(), &words);
        next.says(up).await;
        next.end().await;
        assert!(!Path::new(notes).exists());
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_said_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let netns = in_place(&dir);
    let [serve, _] = both(&netns);
    let words = [&text(&serve)[..], &["--audit-log", "/nope/audit"]].concat();
    let (code, said) = ends(dir.path(), &words).await;
    assert_eq!(code, Some(1), "{said}");
    let cause = "--audit-log /nope/audit: No such file or directory: ";
    assert!(said.contains(cause), "{said}");
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
    assert!(!said.contains("os error"), "{said}");
}
