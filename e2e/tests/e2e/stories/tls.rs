//! Streaming over TLS, with the CLI on another machine than the node.

use crate::support::authority::{Authority, Pair};
use crate::support::http::get;
use crate::support::node::Pod;
use crate::support::process::Process;
use crate::support::programs;
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::workstation::{NODE, Workstation};
use crate::support::{same, says, until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use sternline_e2e::report::Echo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

themed! {
    every node:
        a_forward_crosses_a_network_over_tls,
        a_node_that_cannot_prove_who_it_is_is_refused,
        a_client_needs_a_certificate_where_a_ca_is_given,
        a_renewed_certificate_needs_no_restart,
        a_certificate_that_cannot_be_used_changes_nothing,
        what_is_no_client_does_not_keep_clients_out,
        what_would_be_open_to_all_does_not_start;
    container runtimes:
}

const SOON: Duration = Duration::from_secs(10);

/// A node with a certificate, and a CLI that has its CA.
struct World {
    workstation: Workstation,
    ca: Authority,
    ca_file: PathBuf,
    pair: Pair,
    pod: Pod,
    target: Target,
}

impl World {
    async fn new(stage: &Stage) -> Result<Self> {
        let workstation = Workstation::new()?;
        let ca = Authority::new("node CA")?;
        Ok(Self {
            ca_file: ca.write(stage.file("ca.crt"))?,
            pair: ca.issue(NODE, &stage.file("node"))?,
            ca,
            pod: stage.pod("web").await?,
            target: Target::start_at(format!("{NODE}:0").parse()?, Manner::Echo).await?,
            workstation,
        })
    }

    async fn shim(&self, stage: &Stage, flags: &str) -> Result<Shim> {
        shim_with(stage, &self.pair, flags).await
    }

    /// A SPEC, and the CA.
    fn words(&self, port: u16, more: &str) -> String {
        let (target, ca) = (self.target.address(), self.ca_file.display());
        format!("{port}:{target} --ca-file {ca} {more}")
    }

    async fn echo(&self, port: u16, bytes: usize) -> Result<()> {
        let words = format!("echo --to 127.0.0.1:{port} --bytes {bytes}");
        let _: Echo = self.pod.probe(&words).await?;
        Ok(())
    }
}

fn flags(pair: &Pair) -> String {
    format!(
        "--streaming-tls-cert {} --streaming-tls-key {} --streaming-tls-reload-interval 100ms",
        pair.cert.display(),
        pair.key.display()
    )
}

async fn shim_with(stage: &Stage, pair: &Pair, more: &str) -> Result<Shim> {
    let flags = flags(pair);
    stage
        .shim(&format!("--streaming-address {NODE}:0 {flags} {more}"))
        .await
}

async fn a_forward_crosses_a_network_over_tls(stage: &mut Stage) -> Result<()> {
    let world = World::new(stage).await?;
    let mut shim = world.shim(stage, "--restart-grace 0s").await?;
    let words = world.words(8080, "");
    let station = &world.workstation;
    let mut forward = station.forward(stage, &shim, &world.pod, &words).await?;
    world.echo(8080, 3_000_000).await?;
    let ok = [r#"result="ok""#];
    shim.counts("sternline_streaming_handshakes_total", &ok, 1.0)
        .await?;
    // Killed, it has no time to end TLS in order: that is a lost connection.
    shim.kill().await?;
    same("exit code", forward.exit(SOON).await?.code, 7)
}

async fn a_node_that_cannot_prove_who_it_is_is_refused(stage: &mut Stage) -> Result<()> {
    let world = World::new(stage).await?;
    let station = &world.workstation;
    let stranger = Authority::new("another CA")?.write(stage.file("stranger.crt"))?;
    let shim = world.shim(stage, "").await?;
    let target = world.target.address();
    let wrong = format!("8080:{target} --ca-file {}", stranger.display());
    station
        .refused(stage, &shim, &world.pod, &wrong)
        .await?
        .is(6, &["not signed by a CA of --ca-file", NODE])?;
    let refused = [r#"result="refused""#];
    shim.counts("sternline_streaming_handshakes_total", &refused, 1.0)
        .await?;
    // Without a file, the CAs of the system count, which do not know it either.
    station
        .refused(stage, &shim, &world.pod, &format!("8080:{target}"))
        .await?
        .is(6, &["--ca-file"])?;
    ensure!(shim.sessions().await?.is_empty(), "listeners are left");

    let late = world.ca.issue_until(NODE, &stage.file("late"), 2001)?;
    let shim = shim_with(stage, &late, "").await?;
    station
        .refused(stage, &shim, &world.pod, &world.words(8080, ""))
        .await?
        .is(6, &["expired", "renewed on the node"])?;
    let ready = get(shim.metrics_address()?, "/readyz").await?;
    same("readiness", ready.status, 503)?;
    says("readiness", &ready.body, "expired on 2001-01-01")?;

    let other = world.ca.issue("node-2.example", &stage.file("other"))?;
    let shim = shim_with(stage, &other, "").await?;
    says(
        "the log",
        &shim.stderr(),
        "not for the host in streaming URLs",
    )?;
    station
        .refused(stage, &shim, &world.pod, &world.words(8080, ""))
        .await?
        .is(6, &["not for 10.213.0.1 but for node-2.example"])?;
    let named = world.words(8080, "--tls-server-name node-2.example");
    let _forward = station.forward(stage, &shim, &world.pod, &named).await?;
    world.echo(8080, 1000).await
}

async fn a_client_needs_a_certificate_where_a_ca_is_given(stage: &mut Stage) -> Result<()> {
    let world = World::new(stage).await?;
    let station = &world.workstation;
    let clients = Authority::new("client CA")?;
    let client_ca = clients.write(stage.file("clients.crt"))?;
    let flag = format!("--streaming-client-ca {}", client_ca.display());
    let shim = world.shim(stage, &flag).await?;
    let with = |pair: &Pair| {
        let (cert, key) = (pair.cert.display(), pair.key.display());
        world.words(8080, &format!("--client-cert {cert} --client-key {key}"))
    };
    let none = world.words(8080, "");
    station
        .refused(stage, &shim, &world.pod, &none)
        .await?
        .is(4, &["asks for a client certificate", "--client-cert"])?;
    let foreign = world.ca.issue("me", &stage.file("foreign"))?;
    station
        .refused(stage, &shim, &world.pod, &with(&foreign))
        .await?
        .is(4, &["does not know the CA"])?;
    let late = clients.issue_until("me", &stage.file("late"), 2001)?;
    station
        .refused(stage, &shim, &world.pod, &with(&late))
        .await?
        .is(4, &["has expired"])?;
    let turned_away = [r#"result="client_certificate""#];
    shim.counts("sternline_streaming_handshakes_total", &turned_away, 3.0)
        .await?;
    let known = clients.issue("me", &stage.file("known"))?;
    let words = with(&known);
    let _forward = station.forward(stage, &shim, &world.pod, &words).await?;
    world.echo(8080, 1000).await
}

/// Lays a pair out as Kubernetes does for a Secret: links to `..data`, itself a
/// link to a directory, which is swapped as a whole.
fn swap_in(dir: &Path, version: &str, make: impl Fn(&Path) -> Result<Pair>) -> Result<Pair> {
    let real = dir.join(version);
    std::fs::create_dir_all(&real)?;
    make(&real.join("tls"))?;
    let new = dir.join("..data_tmp");
    std::os::unix::fs::symlink(version, &new)?;
    std::fs::rename(&new, dir.join("..data"))?;
    let link = |name: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        if !path.is_symlink() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), &path)?;
        }
        Ok(path)
    };
    Ok(Pair {
        cert: link("tls.crt")?,
        key: link("tls.key")?,
    })
}

async fn a_renewed_certificate_needs_no_restart(stage: &mut Stage) -> Result<()> {
    let world = World::new(stage).await?;
    let station = &world.workstation;
    let secret = stage.file("secret");
    let pair = swap_in(&secret, "..1", |stem| world.ca.issue(NODE, stem))?;
    let shim = shim_with(stage, &pair, "").await?;
    let words = world.words(8080, "");
    let _first = station.forward(stage, &shim, &world.pod, &words).await?;

    let next = Authority::new("next CA")?;
    let next_file = next.write(stage.file("next.crt"))?;
    swap_in(&secret, "..2", |stem| next.issue(NODE, stem))?;
    let loaded = [r#"result="loaded""#];
    shim.counts(
        "sternline_streaming_certificate_reloads_total",
        &loaded,
        1.0,
    )
    .await?;
    // The session that was up stays up, and a new connection sees the new one.
    world.echo(8080, 100_000).await?;
    station
        .refused(stage, &shim, &world.pod, &world.words(8081, ""))
        .await?
        .is(6, &["not signed by a CA of --ca-file"])?;
    let target = world.target.address();
    let words = format!("8081:{target} --ca-file {}", next_file.display());
    let _second = station.forward(stage, &shim, &world.pod, &words).await?;
    world.echo(8081, 1000).await?;
    world.echo(8080, 1000).await?;
    same("sessions", shim.sessions().await?.len(), 2)
}

async fn condition(shim: &Shim) -> Result<pb::Condition> {
    let status = shim.client().status(pb::StatusRequest {}).await?;
    let mut conditions = status.into_inner().conditions.into_iter();
    let found = conditions.find(|condition| condition.r#type == "StreamingCertificate");
    found.context("no condition of the certificate")
}

async fn a_certificate_that_cannot_be_used_changes_nothing(stage: &mut Stage) -> Result<()> {
    let world = World::new(stage).await?;
    let station = &world.workstation;
    // So seldom that only the signal can be why it looks.
    let seldom = flags(&world.pair).replace("100ms", "1h");
    let shim = stage
        .shim(&format!("--streaming-address {NODE}:0 {seldom}"))
        .await?;
    let good = std::fs::read(&world.pair.key)?;
    std::fs::write(&world.pair.key, "no key")?;
    shim.signal(Signal::SIGHUP)?;
    let failed = [r#"result="failed""#];
    shim.counts(
        "sternline_streaming_certificate_reloads_total",
        &failed,
        1.0,
    )
    .await?;
    let broken = condition(&shim).await?;
    same("reason", broken.reason.as_str(), "certificate_not_loaded")?;
    says("the condition", &broken.message, "no private key")?;
    same("lines", shim.stderr().matches("is not used").count(), 1)?;
    let ready = get(shim.metrics_address()?, "/readyz").await?;
    same("readiness", ready.status, 200)?;
    let words = world.words(8080, "");
    let _forward = station.forward(stage, &shim, &world.pod, &words).await?;
    world.echo(8080, 1000).await?;
    std::fs::write(&world.pair.key, good)?;
    shim.signal(Signal::SIGHUP)?;
    until("the condition to be in order", SOON, || async {
        Ok(condition(&shim).await?.status.then_some(()))
    })
    .await
}

async fn what_is_no_client_does_not_keep_clients_out(stage: &mut Stage) -> Result<()> {
    let world = World::new(stage).await?;
    let station = &world.workstation;
    let shim = world.shim(stage, "").await?;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(shim.streaming_address()?).await?);
    }
    let mut clear = TcpStream::connect(shim.streaming_address()?).await?;
    clear
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    let mut answer = String::new();
    clear.read_to_string(&mut answer).await?;
    says("the answer", &answer, "HTTP/1.1 400")?;
    says("the answer", &answer, "speaks TLS only")?;
    let mut garbage = TcpStream::connect(shim.streaming_address()?).await?;
    garbage.write_all(&[0x16; 4096]).await?;
    let words = world.words(8080, "");
    let _forward = station.forward(stage, &shim, &world.pod, &words).await?;
    world.echo(8080, 1000).await?;
    drop((silent, garbage));
    Ok(())
}

async fn what_would_be_open_to_all_does_not_start(stage: &mut Stage) -> Result<()> {
    let world = World::new(stage).await?;
    let pair = flags(&world.pair);
    let open = stage.file("open.key");
    std::fs::copy(&world.pair.key, &open)?;
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644))?;
    let exposed = Pair {
        cert: world.pair.cert.clone(),
        key: open,
    };
    let exposed = flags(&exposed);
    for (address, flags, sentence) in [
        (
            NODE,
            "",
            "give --streaming-tls-cert and --streaming-tls-key",
        ),
        ("0.0.0.0", pair.as_str(), "give --streaming-host"),
        (
            NODE,
            exposed.as_str(),
            "everybody on this machine can read it",
        ),
    ] {
        let mut command = Command::new(programs::shim()?);
        command
            .args(["serve", "--standalone", "--socket"])
            .arg(stage.file("refused.sock"))
            .args(["--streaming-address", &format!("{address}:0")])
            .args(flags.split_whitespace());
        let mut process: Process = stage.start("shim", command)?;
        same("exit code", process.exit(SOON).await?.code, 1)?;
        says("the shim", &process.stderr(), sentence)?;
    }
    Ok(())
}
