//! The story: what happens, in order, with the time that each step took.

use crate::fetch::Report;
use crate::process::Program;
use crate::{namespaces, sandbox, server};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bound of every step that waits for another program.
const PATIENCE: Duration = Duration::from_secs(10);
/// The port of the listener.
const PORT: u16 = 8080;
/// The listener in the sandbox.
const LISTENER: &str = "127.0.0.1:8080";
/// Requests sent for the timing.
const REQUESTS: usize = 100;

/// Where the sandbox is pinned below the scratch directory.
pub(crate) fn netns_path(dir: &Path) -> PathBuf {
    dir.join("netns").join("demo")
}

/// Tells the story in `dir`. Every program that it starts is gone when it
/// returns.
///
/// # Errors
/// The first step that failed.
pub(crate) fn run(dir: &Path) -> Result<()> {
    end_with_supervisor(dir.to_owned());
    let result = tell(dir);
    the_end_is_mine();
    // The supervisor may be gone, and with it the other who would.
    remove_all(dir);
    result
}

fn tell(dir: &Path) -> Result<()> {
    let text = |path: PathBuf| -> Result<String> {
        path.into_os_string()
            .into_string()
            .map_err(|path| anyhow::anyhow!("the scratch directory has an odd name: {path:?}"))
    };
    let netns_dir = text(dir.join("netns"))?;
    let socket = text(dir.join("sternline.sock"))?;
    let ready = text(dir.join("ready.json"))?;
    let netns = netns_path(dir);

    step("Starting an HTTP server outside, as you would on your laptop")?;
    let nonce = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let outside = namespaces::network()?;
    let body = format!("Hello from outside the sandbox, from {outside}. Today's number: {nonce}\n");
    let addr = server::start(body.clone())?;
    say(&format!("http://{addr} serves from {outside}"))?;

    step("Making a sandbox: a network namespace in which only lo exists")?;
    fs::create_dir(&netns_dir).context("making the directory of sandboxes")?;
    let inside = sandbox::create(&netns)?;
    say(&format!("sandbox \"demo\" is {inside}"))?;

    step(&format!(
        "Fetching http://{LISTENER}/ inside the sandbox, before there is a forward"
    ))?;
    expect_refused(dir, &netns)?;
    say("connection refused: nothing listens there")?;

    step("Starting the shim: sternline-shim serve --standalone")?;
    let start = Instant::now();
    let mut shim = Program::start(
        "sternline-shim",
        &[
            "serve",
            "--standalone",
            "--netns-dir",
            &netns_dir,
            "--socket",
            &socket,
            "--ready-file",
            &ready,
        ],
        dir,
    )?;
    shim.wait_for("serving", PATIENCE, |_| {
        Path::new(&ready).exists().then_some(())
    })?;
    let shim_up = start.elapsed();
    say(&format!("{socket} serves after {}", millis(shim_up)))?;

    let spec = format!("{PORT}:{}", addr.port());
    step(&format!("Running: sternline forward sandbox/demo {spec}"))?;
    let start = Instant::now();
    let mut forward = Program::start(
        "sternline",
        &["forward", "sandbox/demo", &spec, "--socket", &socket],
        dir,
    )?;
    let up = format!("Forwarding from {LISTENER}");
    forward.wait_for("its \"Forwarding from\" line", PATIENCE, |program| {
        program.output().contains(&up).then_some(())
    })?;
    let forward_up = start.elapsed();
    for line in forward.output().lines() {
        say(line)?;
    }
    say(&format!("up after {}", millis(forward_up)))?;

    step(&format!(
        "Fetching http://{LISTENER}/ inside the sandbox, {REQUESTS} times"
    ))?;
    let report = fetch(dir, &netns)?;
    let Report::Fetched {
        namespace,
        response,
        first_us,
        median_us,
        slowest_us,
    } = report
    else {
        bail!("nothing listens on {LISTENER} in the sandbox though the forward is up");
    };
    if namespace != inside {
        bail!("the fetch ran in {namespace}, which is not the sandbox, {inside}");
    }
    if !response.starts_with("HTTP/1.1 200 ") || !response.ends_with(&body) {
        bail!("the response is not the one that the server outside gave:\n{response}");
    }
    say(&format!("a process in {namespace} got it from outside"))?;
    let line = format!("Handling connection for {PORT}");
    forward.wait_for("its line for each connection", PATIENCE, |program| {
        let handled = program.output().lines().filter(|l| **l == *line).count();
        (handled == REQUESTS).then_some(())
    })?;
    say(&format!("{line} ({REQUESTS} times)"))?;

    step("Stopping the forward, as Ctrl-C would")?;
    let start = Instant::now();
    forward.stop(Signal::SIGINT, PATIENCE)?;
    expect_refused(dir, &netns)?;
    say(&format!(
        "the port in the sandbox is free again, {} later",
        millis(start.elapsed())
    ))?;
    shim.stop(Signal::SIGTERM, PATIENCE)?;
    say("the shim ended")?;

    step("The response, as the process in the sandbox received it")?;
    for line in response.lines() {
        say(line)?;
    }
    step("The times")?;
    say(&format!("shim up        {}", millis(shim_up)))?;
    say(&format!("forward up     {}", millis(forward_up)))?;
    say(&format!(
        "first fetch    {}",
        millis(Duration::from_micros(first_us))
    ))?;
    say(&format!(
        "median of {REQUESTS}  {}",
        millis(Duration::from_micros(median_us))
    ))?;
    say(&format!(
        "slowest        {}",
        millis(Duration::from_micros(slowest_us))
    ))
}

fn expect_refused(dir: &Path, netns: &Path) -> Result<()> {
    match fetch(dir, netns)? {
        Report::Refused { .. } => Ok(()),
        Report::Fetched { response, .. } => {
            bail!(
                "something answers on {LISTENER} in the sandbox though no forward is up:\n{response}"
            )
        }
    }
}

/// Runs the process in the sandbox and returns what it reports.
fn fetch(dir: &Path, netns: &Path) -> Result<Report> {
    let netns = netns
        .to_str()
        .context("the scratch directory has an odd name")?;
    let mut program = Program::start(
        "sternline-demo",
        &["fetch", netns, LISTENER, &REQUESTS.to_string()],
        dir,
    )?;
    let status = program.wait("the end of the fetch", PATIENCE)?;
    let output = program.output();
    if !status.success() {
        bail!("the process in the sandbox failed: {output}");
    }
    serde_json::from_str(&output).with_context(|| format!("the fetch reported: {output}"))
}

/// Held by the one thread that says how this process ends, until it has.
static END: Mutex<()> = Mutex::new(());

/// Returns to one caller only; every later one waits for the process to end.
/// To be called before it ends, so that nobody cuts a clean-up short.
fn the_end_is_mine() {
    // Never given back: the process ends with it.
    std::mem::forget(END.lock());
}

/// Ends this process, and with it the PID namespace, when the supervisor is
/// gone: it holds the other end of standard input and never writes.
fn end_with_supervisor(dir: PathBuf) {
    thread::spawn(move || {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
        the_end_is_mine();
        remove_all(&dir);
        std::process::exit(1);
    });
}

/// Removes everything that the story made.
fn remove_all(dir: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        sandbox::remove(&netns_path(dir));
        // Fails where a program that still starts puts a file there in the
        // meantime; once the directory is gone, none can.
        let _ = fs::remove_dir_all(dir);
        if !dir.exists() || Instant::now() > deadline {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn step(what: &str) -> Result<()> {
    writeln!(std::io::stdout(), "\n==> {what}")?;
    Ok(())
}

fn say(what: &str) -> Result<()> {
    writeln!(std::io::stdout(), "    {what}")?;
    Ok(())
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
