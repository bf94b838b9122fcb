//! The command line: flags, progress, files, exit code.

mod arguments;
mod files;

use crate::{
    benchmark, endpoint,
    fixture::{Fixture, PodSettings, Sandboxes},
    operator::Commands,
    report::{Judged, Outcome, Report},
    runner::{self, Options, Subject},
    spec,
    wire::tls::TlsSettings,
};
pub(crate) use arguments::Cli;
use arguments::{check, configure};
use clap::Parser as _;
use files::Files;
use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: u8 = 2;
const ENVIRONMENT: u8 = 3;
/// 128 + SIGINT, as shells count.
const INTERRUPTED: u8 = 130;
/// 128 + SIGTERM.
const TERMINATED: u8 = 143;

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::stdout();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let code = match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(run(cli, &mut out));
            // A thread may wait for a probe that does not answer any more.
            runtime.shutdown_timeout(Duration::from_secs(10));
            code
        }
        Err(error) => Err((ENVIRONMENT, error.to_string())),
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err((code, message)) => {
            let _ = writeln!(io::stderr(), "error: {message}");
            ExitCode::from(code)
        }
    }
}

type Code = Result<u8, (u8, String)>;

async fn run(mut cli: Cli, out: &mut (impl Write + Send)) -> Code {
    if let Some(file) = cli.config.clone() {
        configure(&mut cli, &file).map_err(|message| (USAGE, message))?;
    }
    check(&cli).map_err(|message| (USAGE, message))?;
    let seed = cli.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_nanos()))
    });
    let mut options = Options {
        endpoint: PathBuf::new(),
        sandboxes: Sandboxes::Namespaces(PathBuf::new()),
        run_dir: cli.run_dir.clone(),
        focus: cli.focus.clone(),
        skip: cli.skip.clone(),
        label: cli.label.clone(),
        parallel: cli.parallel.get(),
        seed,
        timeout: Duration::from_secs(cli.timeout.get()),
        patience: Duration::from_millis(cli.patience.get()),
        flake_attempts: cli.flake_attempts,
        commands: Commands {
            restart: cli.restart_command.clone(),
            off: cli.off_command.clone(),
            on: cli.on_command.clone(),
        },
        tls: TlsSettings {
            ca: cli.tls_ca.clone(),
            client: cli.tls_cert.clone().zip(cli.tls_key.clone()),
        },
    };
    let chosen = options.chosen();
    if chosen.is_empty() {
        return Err((USAGE, "no spec fits --focus, --skip and --label".into()));
    }
    if cli.list {
        return list(&options, out).map_err(|error| (ENVIRONMENT, error.to_string()));
    }
    let Some(endpoint) = &cli.endpoint else {
        let message = "--endpoint PATH is missing: the socket of the call";
        return Err((USAGE, message.into()));
    };
    options.endpoint = endpoint::socket(endpoint).map_err(|message| (USAGE, message))?;
    options.sandboxes = sandboxes(&cli)?;
    let files = match &cli.report_dir {
        Some(dir) => Some(Files::prepare(dir, &cli.report_prefix)?),
        None => None,
    };
    let chosen = chosen.len();
    let fixture = Fixture::begin(&options.sandboxes, &options.run_dir);
    let fixture = fixture.map_err(|message| (ENVIRONMENT, message))?;
    let job = Job {
        benchmark: cli.benchmark,
        files,
        chosen,
    };
    let code = work(&job, &options, &fixture, out).await;
    // A second signal ends the program where it stands.
    let closed = tokio::select! {
        closed = fixture.close() => closed,
        _ = interrupted() => Err("not everything was removed; the next run does it".into()),
    };
    match (code, closed) {
        (code, Ok(())) => code,
        (Ok(0), Err(left)) => Err((ENVIRONMENT, left)),
        (Ok(code), Err(left)) => Err((code, left)),
        (Err((code, why)), Err(left)) => Err((code, format!("{why}; {left}"))),
    }
}

/// What is to be done.
struct Job {
    /// Measure instead of judging.
    benchmark: bool,
    /// Where the report goes.
    files: Option<Files>,
    /// How many specs were chosen.
    chosen: usize,
}

/// Waits for a signal to end; answers the exit code.
async fn interrupted() -> u8 {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            // No more signals can be watched: this one then ends the program.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => INTERRUPTED,
        () = terminated => TERMINATED,
    }
}

/// What the flags say that the sandboxes are.
fn sandboxes(cli: &Cli) -> Result<Sandboxes, (u8, String)> {
    if cli.standalone {
        if cli.runtime_endpoint.is_some() || cli.image_endpoint.is_some() {
            let message = "--standalone makes sandboxes without a container runtime: leave \
                           --runtime-endpoint and --image-endpoint away";
            return Err((USAGE, message.into()));
        }
        let dir = cli.netns_dir.clone();
        return Ok(Sandboxes::Namespaces(
            dir.unwrap_or_else(|| "/run/netns".into()),
        ));
    }
    if cli.netns_dir.is_some() {
        let message = "--netns-dir is where --standalone makes its sandboxes: give both or none";
        return Err((USAGE, message.into()));
    }
    let found = endpoint::find(cli.runtime_endpoint.clone(), cli.image_endpoint.clone())
        .map_err(|message| (ENVIRONMENT, message))?;
    if found.guessed {
        let socket = found.runtime.display();
        // Nobody may be reading it.
        let _ = writeln!(
            io::stderr(),
            "warning: no --runtime-endpoint is given; {socket} was found by trying"
        );
    }
    Ok(Sandboxes::Pods(Box::new(PodSettings {
        runtime: found.runtime,
        image: found.image,
        probe_image: cli.probe_image.clone(),
        registry_port: cli.registry_port,
        runtime_handler: cli.runtime_handler.clone(),
        cgroup_parent: cli.cgroup_parent.clone(),
    })))
}

/// Does what is asked for; a feature that a spec left switched off is switched on
/// again, also when that spec is interrupted.
async fn work(
    job: &Job,
    options: &Options,
    fixture: &Arc<Fixture>,
    out: &mut (impl Write + Send),
) -> Code {
    let subject = tokio::select! {
        subject = Subject::reach(options, fixture) => subject,
        code = interrupted() => return Err((code, "interrupted".into())),
    };
    let subject = subject.map_err(|message| (ENVIRONMENT, message))?;
    let code = match job.benchmark {
        true => tokio::select! {
            code = measure(options, &subject, out) => code,
            code = interrupted() => Err((code, "interrupted".into())),
        },
        false => judge(job, options, &subject, out).await,
    };
    match subject.operator.restore().await {
        Ok(()) => code,
        Err(left) => match code {
            Ok(0) => Err((ENVIRONMENT, left)),
            Ok(code) => Err((code, left)),
            Err((code, why)) => Err((code, format!("{why}; {left}"))),
        },
    }
}

fn io_error(error: &io::Error) -> (u8, String) {
    (ENVIRONMENT, error.to_string())
}

async fn measure(options: &Options, subject: &Subject, out: &mut impl Write) -> Code {
    let text = benchmark::run(subject, options.patience).await;
    let text = text.map_err(|message| (ENVIRONMENT, message))?;
    out.write_all(text.as_bytes())
        .map_err(|error| io_error(&error))?;
    Ok(0)
}

/// Judges until the end or a signal, and tells what became of every spec in either
/// case.
async fn judge(
    job: &Job,
    options: &Options,
    subject: &Subject,
    out: &mut (impl Write + Send),
) -> Code {
    let paint = Paint(io::stdout().is_terminal());
    writeln!(out, "seed {}", options.seed).map_err(|error| io_error(&error))?;
    let (mut done, chosen) = (0, job.chosen);
    let progress = |one: &Judged| {
        done += 1;
        // A closed pipe must not end the judging.
        let _ = writeln!(out, "{}", line(one, done, chosen, &paint));
        let _ = out.flush();
    };
    let mut signalled = None;
    let stop = async { signalled = Some(interrupted().await) };
    let report = runner::run(options, subject, progress, stop).await;
    let written = match &job.files {
        Some(files) => files.write(&report),
        None => Ok(()),
    };
    let told = tell(&report, &paint, out).map_err(|error| io_error(&error));
    if let Some(code) = signalled {
        let left = written.err().map(|(_, why)| format!("; {why}"));
        return Err((code, format!("interrupted{}", left.unwrap_or_default())));
    }
    written.and(told)?;
    if let Some((id, why)) = report.unjudged().next() {
        return Err((ENVIRONMENT, format!("{id} could not be judged: {why}")));
    }
    Ok(u8::from(report.failures().next().is_some()))
}

/// Why specs failed, and the sum of it all.
fn tell(report: &Report, paint: &Paint, out: &mut impl Write) -> io::Result<()> {
    for one in report.judged.iter().filter(|one| one.has_failed()) {
        writeln!(out, "\n{}\n{}", paint.red(one.id), one.story())?;
    }
    let failures = report.failures().count();
    writeln!(
        out,
        "{}: {} passed{}, {} failed ({failures} required), {} skipped{} in {:.1} s{}",
        report.subject,
        report.count("passed"),
        some(" (", report.flaky(), " only at a later attempt)"),
        report.count("failed"),
        report.count("skipped"),
        some(", ", report.count("error"), " not judged"),
        report.took.as_secs_f64(),
        match report.cut_short {
            Some(why) => format!(", cut short: {why}"),
            None => String::new(),
        }
    )
}

/// A number with what stands around it; nothing for none.
fn some(before: &str, number: usize, after: &str) -> String {
    match number {
        0 => String::new(),
        number => format!("{before}{number}{after}"),
    }
}

fn line(one: &Judged, done: usize, of: usize, paint: &Paint) -> String {
    let (word, more) = match &one.outcome {
        Outcome::Passed if one.attempts > 1 => {
            let attempt = format!(": passed at attempt {}", one.attempts);
            (paint.yellow("ok  "), attempt)
        }
        Outcome::Passed => (paint.green("ok  "), String::new()),
        Outcome::Skipped(why) => (paint.yellow("skip"), format!(": {why}")),
        Outcome::Failed { seen, .. } => (paint.red("FAIL"), format!(": {seen}")),
        Outcome::Environment(why) => (paint.red("ERR "), format!(": {why}")),
    };
    let seconds = one.took.as_secs_f64();
    format!("[{done}/{of}] {word} {} ({seconds:.1} s){more}", one.id)
}

fn list(options: &Options, out: &mut impl Write) -> io::Result<u8> {
    let chosen: Vec<_> = options.chosen().iter().map(|spec| spec.id).collect();
    for spec in spec::all().iter().filter(|spec| chosen.contains(&spec.id)) {
        let labels = match spec.labels {
            [] => String::new(),
            labels => format!(" [{}]", labels.join(", ")),
        };
        writeln!(
            out,
            "{} ({}, section {}){labels}: {}",
            spec.id, spec.level, spec.section, spec.text
        )?;
    }
    Ok(0)
}

/// Colours, on a terminal only.
struct Paint(bool);

impl Paint {
    fn with(&self, code: u8, text: &str) -> String {
        match self.0 {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
    fn green(&self, text: &str) -> String {
        self.with(32, text)
    }
    fn yellow(&self, text: &str) -> String {
        self.with(33, text)
    }
    fn red(&self, text: &str) -> String {
        self.with(31, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(attempts: u32) -> Judged {
        Judged {
            id: "theme.name",
            theme: "theme",
            required: true,
            section: "1",
            text: "A requirement.",
            took: Duration::ZERO,
            attempts,
            steps: Vec::new(),
            outcome: Outcome::Passed,
        }
    }

    #[test]
    fn a_later_attempt_and_a_cut_are_told() {
        let paint = Paint(false);
        assert!(!line(&passed(1), 1, 2, &paint).contains("attempt"));
        let said = line(&passed(3), 2, 2, &paint);
        assert!(said.ends_with("(0.0 s): passed at attempt 3"), "{said}");
        let report = Report {
            subject: "x 1".into(),
            runtime: String::new(),
            seed: 1,
            took: Duration::ZERO,
            judged: vec![passed(1), passed(2)],
            cut_short: Some("the run was interrupted"),
        };
        let mut out = Vec::new();
        tell(&report, &paint, &mut out).expect("memory");
        let said = String::from_utf8(out).expect("text");
        for part in ["2 passed (1 only at a later attempt)", "cut short: the run"] {
            assert!(said.contains(part), "{said}");
        }
    }
}
