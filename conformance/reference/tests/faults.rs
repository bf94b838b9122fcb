//! Proof that the suite can fail. Needs root, for network namespaces.
//!
//! The reference implementation is judged once as it is, and once with each of
//! its faults. From the table fault -> specs it follows which required spec no
//! fault needs: without such a spec the suite would be as good. `FAULTS=name,name`
//! judges these faults alone, and proves nothing of specs.

#[path = "faults/matrix.rs"]
mod matrix;
#[path = "faults/mistakes.rs"]
mod mistakes;

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};
use sternline_conformance::{
    Commands, Options, PodSettings, Report, Sandboxes, TlsSettings, judge,
};
use sternline_reference::Setup;

/// The reference implementation, running.
struct Reference {
    child: Child,
    dir: tempfile::TempDir,
    setup: Setup,
}

impl Reference {
    fn start(fault: Option<&str>, setup: Setup) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("netns"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_sternline-reference"));
        command
            .arg("--socket")
            .arg(dir.path().join("socket"))
            .arg("--netns-dir")
            .arg(dir.path().join("netns"));
        match setup {
            Setup::Plain => &mut command,
            Setup::Extras => command
                .arg("--extras")
                .arg("--tls-dir")
                .arg(dir.path().join("tls")),
            Setup::Pods => command.arg("--cri-socket").arg(dir.path().join("cri")),
        };
        if let Some(fault) = fault {
            command.args(["--fault", fault]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        match line.trim() {
            "ready" => Ok(Self { child, dir, setup }),
            other => Err(io::Error::other(format!("the reference said {other:?}"))),
        }
    }

    fn sandboxes(&self) -> Sandboxes {
        let cri = self.dir.path().join("cri");
        match self.setup {
            Setup::Plain | Setup::Extras => Sandboxes::Namespaces(self.dir.path().join("netns")),
            Setup::Pods => Sandboxes::Pods(Box::new(PodSettings {
                runtime: cri.clone(),
                image: cri,
                probe_image: None,
                registry_port: 0,
                runtime_handler: String::new(),
                cgroup_parent: String::new(),
            })),
        }
    }

    /// The signals that the reference knows.
    fn commands(&self) -> Commands {
        let (pid, again) = (self.child.id(), self.dir.path().join("socket.again"));
        let again = again.display();
        let restart = format!(
            "before=$(cat {again}); kill -HUP {pid}; \
             until [ \"$(cat {again})\" != \"$before\" ]; do sleep 0.02; done"
        );
        Commands {
            // The pretended runtime would forget its pods.
            restart: (self.setup != Setup::Pods).then_some(restart),
            off: Some(format!("kill -USR1 {pid}")),
            on: Some(format!("kill -USR2 {pid}")),
        }
    }

    fn options(&self) -> Options {
        Options {
            endpoint: self.dir.path().join("socket"),
            sandboxes: self.sandboxes(),
            run_dir: self.dir.path().join("run"),
            focus: Vec::new(),
            skip: Vec::new(),
            label: Vec::new(),
            parallel: 8,
            seed: 1,
            timeout: Duration::from_secs(30),
            patience: Duration::from_secs(2),
            flake_attempts: 0,
            commands: self.commands(),
            tls: TlsSettings {
                ca: (self.setup == Setup::Extras).then(|| self.dir.path().join("tls/cert.pem")),
                client: None,
            },
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Judges the reference, with a fault or without.
async fn run(fault: Option<&str>, setup: Setup, only: Vec<String>) -> Report {
    let reference = Reference::start(fault, setup).expect("the reference starts");
    let mut options = reference.options();
    options.focus = only;
    if fault.is_none() {
        // Nothing is waited for in vain: that costs time on a busy machine alone.
        options.patience = Duration::from_secs(10);
    }
    let report = judge(&options, |_| {}).await;
    report.expect("the environment can be used: is this root?")
}

fn failed(report: &Report) -> BTreeSet<&'static str> {
    report.failures().map(|one| one.id).collect()
}

async fn the_unfaulted_reference_passes_every_spec(out: &mut impl io::Write) -> io::Result<bool> {
    let mut good = true;
    let mut never = sternline_conformance::all()
        .iter()
        .map(|spec| spec.id)
        .collect::<BTreeSet<_>>();
    for setup in [Setup::Plain, Setup::Extras, Setup::Pods] {
        let report = run(None, setup, Vec::new()).await;
        let wrong: Vec<_> = report
            .judged
            .iter()
            .filter(|one| one.has_failed())
            .collect();
        writeln!(
            out,
            "unfaulted ({setup:?}): {} specs, {} failed",
            report.judged.len(),
            wrong.len()
        )?;
        for one in wrong {
            writeln!(out, "  {}: {:?}", one.id, one.outcome)?;
            good = false;
        }
        for one in report.judged.iter().filter(|one| one.has_passed()) {
            never.remove(one.id);
        }
    }
    for id in never {
        writeln!(out, "SKIPPED: {id} applies to no set-up of the reference")?;
        good = false;
    }
    Ok(good)
}

/// Names of the tests, for `cargo test -- --list` and filters.
#[rustfmt::skip]
const NAMES: [&str; 3] = [
    stringify!(
        mistakes_in_the_set_up_are_no_judgement
    ),
    stringify!(
        the_unfaulted_reference_passes_every_spec
    ),
    stringify!(
        every_fault_is_caught_and_every_required_spec_is_needed
    ),
];

async fn every_fault_is_caught_and_every_required_spec_is_needed(
    out: &mut impl io::Write,
) -> io::Result<bool> {
    matrix::is_good(out).await
}

async fn mistakes_in_the_set_up_are_no_judgement(out: &mut impl io::Write) -> io::Result<bool> {
    let wrong = mistakes::find().await;
    for one in &wrong {
        writeln!(out, "MISTAKEN: {one}")?;
    }
    Ok(wrong.is_empty())
}

fn main() -> ExitCode {
    if let Some(code) = sternline_conformance::probe_if_asked() {
        return code;
    }
    let mut out = io::stdout();
    let words: Vec<_> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        for name in NAMES {
            let _ = writeln!(out, "{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filter = words.iter().find(|word| !word.starts_with('-'));
    let wanted = |name: &str| filter.is_none_or(|word| name.contains(word.as_str()));
    if !Path::new("/proc/self/ns/net").exists() {
        let _ = writeln!(out, "this machine has no network namespaces");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut good = true;
    for (at, name) in NAMES
        .into_iter()
        .enumerate()
        .filter(|(_, name)| wanted(name))
    {
        let passed = match at {
            0 => runtime.block_on(mistakes_in_the_set_up_are_no_judgement(&mut out)),
            1 => runtime.block_on(the_unfaulted_reference_passes_every_spec(&mut out)),
            _ => runtime.block_on(every_fault_is_caught_and_every_required_spec_is_needed(
                &mut out,
            )),
        };
        let passed = passed.expect("standard output");
        let word = if passed { "ok" } else { "FAILED" };
        let _ = writeln!(out, "test {name} ... {word}");
        good &= passed;
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
