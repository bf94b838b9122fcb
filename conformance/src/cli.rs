//! The command line: flags, progress, files, exit code.

use crate::{
    benchmark,
    report::{Judged, Outcome, Report},
    runner::{self, Options, Subject},
    spec,
};
use clap::Parser;
use std::{
    fs,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

const USAGE: u8 = 2;
const ENVIRONMENT: u8 = 3;
/// 128 + SIGINT, as shells count.
const INTERRUPTED: u8 = 130;

/// Judges whether something speaks ReversePortForward.
///
/// Exit codes: 0 all required specs passed, 1 a required one failed, 2 usage,
/// 3 the environment cannot be used, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "sternline-conformance", version)]
struct Cli {
    /// Unix socket on which the call is served
    #[arg(long, value_name = "PATH")]
    endpoint: Option<PathBuf>,
    /// Sandboxes are network namespaces that the suite makes itself (root)
    #[arg(long)]
    standalone: bool,
    /// Where the implementation looks for named network namespaces
    #[arg(long, value_name = "DIR")]
    netns_dir: Option<PathBuf>,
    /// CRI socket for pods as sandboxes; not supported by this release
    #[arg(long, value_name = "ENDPOINT")]
    runtime_endpoint: Option<String>,
    /// CRI socket for images; not supported by this release
    #[arg(long, value_name = "ENDPOINT")]
    image_endpoint: Option<String>,
    /// File of `flag: value` lines; flags on the command line count more
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Run only specs with this word in their id or sentence (repeatable)
    #[arg(long, value_name = "WORD")]
    focus: Vec<String>,
    /// Leave out specs with this word (repeatable)
    #[arg(long, value_name = "WORD")]
    skip: Vec<String>,
    /// Run only specs with this label; `!slow`: only those without (repeatable)
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// List the chosen specs and run none
    #[arg(long)]
    list: bool,
    /// Specs at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    parallel: usize,
    /// Seed of the random order [default: from the clock, printed]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Write a JUnit XML and a JSON file into this directory
    #[arg(long, value_name = "DIR")]
    report_dir: Option<PathBuf>,
    /// How the files' names begin
    #[arg(long, value_name = "PREFIX", default_value = "")]
    report_prefix: String,
    /// Longest time of one spec, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// How long to wait for what should happen at once, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 5000)]
    patience: u64,
    /// How often a failed spec is tried again
    #[arg(long, value_name = "N", default_value_t = 0)]
    flake_attempts: u32,
    /// Measure instead of judging: the call, its set-up, and round trips
    #[arg(long)]
    benchmark: bool,
}

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
            // Specs that were interrupted remove their sandboxes here.
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
    let seed = cli.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_nanos()))
    });
    let options = Options {
        endpoint: cli.endpoint.clone().unwrap_or_default(),
        netns_dir: cli.netns_dir.clone().unwrap_or_else(|| "/run/netns".into()),
        focus: cli.focus.clone(),
        skip: cli.skip.clone(),
        label: cli.label.clone(),
        parallel: cli.parallel,
        seed,
        timeout: Duration::from_secs(cli.timeout),
        patience: Duration::from_millis(cli.patience),
        flake_attempts: cli.flake_attempts,
    };
    let chosen = options.chosen();
    if chosen.is_empty() {
        return Err((USAGE, "no spec fits --focus, --skip and --label".into()));
    }
    if cli.list {
        return list(&options, out).map_err(|error| (ENVIRONMENT, error.to_string()));
    }
    if cli.endpoint.is_none() {
        return Err((
            USAGE,
            "--endpoint PATH is missing: the socket of the call".into(),
        ));
    }
    if cli.runtime_endpoint.is_some() || cli.image_endpoint.is_some() {
        let message = "pods over CRI are not supported by this release: use --standalone, with an \
                       implementation that takes named network namespaces for sandboxes";
        return Err((ENVIRONMENT, message.into()));
    }
    if !cli.standalone {
        return Err((
            USAGE,
            "--standalone is missing: nothing else is supported yet".into(),
        ));
    }
    let work = work(&cli, &options, chosen.len(), out);
    tokio::select! {
        code = work => code,
        _ = tokio::signal::ctrl_c() => Err((INTERRUPTED, "interrupted; sandboxes are removed".into())),
    }
}

async fn work(cli: &Cli, options: &Options, chosen: usize, out: &mut (impl Write + Send)) -> Code {
    let subject = Subject::reach(options).await;
    let subject = subject.map_err(|message| (ENVIRONMENT, message))?;
    let io_error = |error: io::Error| (ENVIRONMENT, error.to_string());
    if cli.benchmark {
        let text = benchmark::run(&subject, options.patience).await;
        let text = text.map_err(|message| (ENVIRONMENT, message))?;
        out.write_all(text.as_bytes()).map_err(io_error)?;
        return Ok(0);
    }
    let paint = Paint(io::stdout().is_terminal());
    writeln!(out, "seed {}", options.seed).map_err(io_error)?;
    let mut done = 0;
    let report = runner::run(options, &subject, |one| {
        done += 1;
        // A closed pipe must not end the judging.
        let _ = writeln!(out, "{}", line(one, done, chosen, &paint));
        let _ = out.flush();
    })
    .await;
    finish(cli, &report, &paint, out).map_err(io_error)
}

fn finish(cli: &Cli, report: &Report, paint: &Paint, out: &mut impl Write) -> io::Result<u8> {
    for one in report.judged.iter().filter(|one| one.has_failed()) {
        writeln!(out, "\n{}\n{}", paint.red(one.id), one.story())?;
    }
    if let Some(dir) = &cli.report_dir {
        fs::create_dir_all(dir)?;
        let prefix = &cli.report_prefix;
        fs::write(dir.join(format!("{prefix}junit.xml")), report.junit())?;
        fs::write(
            dir.join(format!("{prefix}report.json")),
            format!("{:#}\n", report.json()),
        )?;
    }
    let failures = report.failures().count();
    writeln!(
        out,
        "{}: {} passed, {} failed ({failures} required), {} skipped in {:.1} s",
        report.subject,
        report.count("passed"),
        report.count("failed"),
        report.count("skipped"),
        report.took.as_secs_f64()
    )?;
    Ok(u8::from(failures > 0))
}

fn line(one: &Judged, done: usize, of: usize, paint: &Paint) -> String {
    let (word, more) = match &one.outcome {
        Outcome::Passed => (paint.green("ok  "), String::new()),
        Outcome::Skipped(why) => (paint.yellow("skip"), format!(": {why}")),
        Outcome::Failed { seen, .. } => (paint.red("FAIL"), format!(": {seen}")),
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

/// Takes from the file what the command line leaves open.
fn configure(cli: &mut Cli, file: &Path) -> Result<(), String> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("reading {name}: {error}"))?;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once(':')
            .ok_or_else(|| format!("{name}: {line:?} is not `flag: value`"))?;
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "endpoint" => _ = cli.endpoint.get_or_insert(value.into()),
            "netns-dir" => _ = cli.netns_dir.get_or_insert(value.into()),
            "standalone" => cli.standalone |= value == "true",
            "runtime-endpoint" => _ = cli.runtime_endpoint.get_or_insert(value.into()),
            "image-endpoint" => _ = cli.image_endpoint.get_or_insert(value.into()),
            "report-dir" => _ = cli.report_dir.get_or_insert(value.into()),
            other => return Err(format!("{name}: {other:?} cannot be set in a file")),
        }
    }
    Ok(())
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
