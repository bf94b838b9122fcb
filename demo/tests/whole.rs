//! Runs the demo as built, as root and not, to its end and cut short.
//!
//! The shim and the command line must have been built into the same directory:
//! a test of the workspace does, by hand it is `cargo build --workspace --bins`.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DEMO: &str = env!("CARGO_BIN_EXE_sternline-demo");
/// `nobody`.
const NOBODY: u32 = 65_534;
/// How long what must go away may take.
const SOON: Duration = Duration::from_secs(30);

/// Programs and a scratch directory that another user can reach too.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn with(programs: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("sternline-demo-test-")
            .tempdir()
            .expect("a scratch directory");
        let everyone = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), everyone).expect("a directory open to all");
        let scratch = dir.path().join("tmp");
        fs::create_dir(&scratch).expect("a directory for the demo");
        if geteuid().is_root() {
            chown(&scratch, Some(NOBODY), Some(NOBODY)).expect("a directory of nobody's");
        }
        for name in programs {
            let built = Path::new(DEMO).with_file_name(name);
            assert!(
                built.is_file(),
                "{} is missing: cargo build --workspace --bins",
                built.display()
            );
            fs::copy(&built, dir.path().join(name)).expect("a copy of the program");
        }
        Self { dir }
    }

    fn whole() -> Self {
        Self::with(&["sternline-demo", "sternline-shim", "sternline"])
    }

    fn demo(&self) -> Command {
        let mut command = Command::new(self.dir.path().join("sternline-demo"));
        command
            .env("TMPDIR", self.scratch())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn scratch(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    /// Processes that were started from here, and files left in the scratch
    /// directory.
    fn leftovers(&self) -> Vec<String> {
        let here = self.dir.path().to_str().expect("a plain path");
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let mut left: Vec<String> = processes
            .filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok())
            .filter(|command| command.contains(here))
            .map(|command| command.replace('\0', " "))
            .collect();
        let files = fs::read_dir(self.scratch()).expect("the scratch directory");
        left.extend(files.flatten().map(|file| format!("{:?}", file.path())));
        left
    }

    fn assert_nothing_left(&self) {
        let deadline = Instant::now() + SOON;
        while !self.leftovers().is_empty() {
            assert!(
                Instant::now() < deadline,
                "left behind: {:?}",
                self.leftovers()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether the rest of a test can run as this user. Under CI it must.
fn root_or_say_so(test: &str) -> bool {
    let root = geteuid().is_root();
    assert!(
        root || std::env::var_os("CI").is_none(),
        "{test} needs root, and CI runs every test"
    );
    if !root {
        let _ = writeln!(std::io::stderr(), "NOT RUN: {test} needs root");
    }
    root
}

fn run_to_the_end(mut demo: Command, stage: &Stage, how: &str) {
    let output = demo.output().expect("the demo starts");
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    assert!(told.contains(how), "{told}");
    let (_, end) = told
        .split_once("The response, as the process in the sandbox received it")
        .unwrap_or_else(|| panic!("no response in: {told}"));
    assert!(end.contains("HTTP/1.1 200 OK"), "{told}");
    assert!(end.contains("Hello from outside the sandbox"), "{told}");
    assert!(end.contains("first fetch"), "{told}");
    stage.assert_nothing_left();
}

#[test]
fn as_root_it_ends_with_the_response() {
    if root_or_say_so("as_root_it_ends_with_the_response") {
        let stage = Stage::whole();
        run_to_the_end(stage.demo(), &stage, "as root");
    }
}

#[test]
fn without_root_it_ends_with_the_response() {
    let stage = Stage::whole();
    let mut demo = stage.demo();
    if geteuid().is_root() {
        demo.uid(NOBODY).gid(NOBODY);
    }
    run_to_the_end(demo, &stage, "without root");
}

/// Starts the demo and returns it once it has said `line`, or has ended.
fn started(stage: &Stage, line: &str) -> Child {
    let mut demo = stage.demo().spawn().expect("the demo starts");
    let told = BufReader::new(demo.stdout.as_mut().expect("piped"));
    let _ = told.lines().find(|text| match text {
        Ok(text) => text.contains(line),
        Err(_) => true,
    });
    demo
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

#[test]
fn a_signal_in_the_middle_leaves_nothing_behind() {
    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGINT, 130),
        (Signal::SIGHUP, 129),
    ] {
        let stage = Stage::whole();
        let mut demo = started(&stage, "Starting the shim");
        kill(pid(&demo), signal).expect("it runs");
        let status = demo.wait().expect("it ends");
        assert_eq!(status.code(), Some(code), "{signal}");
        stage.assert_nothing_left();
    }
}

#[test]
fn killed_it_leaves_nothing_behind() {
    let stage = Stage::whole();
    let mut demo = started(&stage, "Starting the shim");
    demo.kill().expect("it runs");
    let status = demo.wait().expect("it ends");
    assert_eq!(status.signal(), Some(9));
    stage.assert_nothing_left();
}

#[test]
fn a_step_that_fails_is_named_and_fails_the_demo() {
    let stage = Stage::with(&["sternline-demo"]);
    let output = stage.demo().output().expect("the demo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("sternline-shim was not built"), "{errors}");
    stage.assert_nothing_left();
}
