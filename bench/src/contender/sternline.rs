//! Sternline: the built shim and the built command line, with the flags that a
//! user would give.

use super::{Running, START, Setting, launch, node_at};
use crate::enclosure::STATE;
use crate::process::{Process, run};
use crate::stage::{Place, ROUTED_LOOPBACK, Stage, TARGET};
use anyhow::{Result, bail};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Port of the first instance's streaming endpoint.
const STREAMING: u16 = 7300;

/// Port of the first instance's listener in the pod.
const LISTENER: u16 = 7350;

/// Flag of the command line that chooses the WebSocket form.
const WEBSOCKET: &str = "--websocket";

/// Flag of the shim that makes its streaming endpoint speak TLS.
const TLS: &str = "--streaming-tls-cert";

/// Where an instance is called.
pub(crate) fn socket(instance: u16) -> PathBuf {
    Path::new(STATE).join(format!("sternline-{instance}.sock"))
}

/// Whether a program knows a flag of a command.
fn knows(program: &Path, command: &str, flag: &str) -> bool {
    let help = run(Command::new(program).args([command, "--help"]));
    help.is_ok_and(|help| help.contains(flag))
}

/// Why the WebSocket form cannot be measured.
pub(super) fn no_websocket(stage: &Stage) -> Option<String> {
    let known = knows(&stage.sternline("sternline"), "forward", WEBSOCKET);
    (!known).then(|| format!("the command line has no {WEBSOCKET}"))
}

/// Whether the shim's streaming endpoint can speak TLS.
pub(crate) fn speaks_tls(stage: &Stage) -> bool {
    knows(&stage.sternline("sternline-shim"), "serve", TLS)
}

/// Starts the shim; also tells how long it took until everything listened.
pub(crate) fn shim(stage: &Stage, setting: &Setting) -> Result<(Process, Duration)> {
    let instance = setting.instance;
    let ready = Path::new(STATE).join(format!("shim-{instance}.ready"));
    let _ = std::fs::remove_file(&ready);
    let program = stage.sternline("sternline-shim");
    if !program.is_file() {
        bail!(
            "there is no {}: build the programs first",
            program.display()
        );
    }
    let tls = !setting.plain && speaks_tls(stage);
    let port = STREAMING + instance;
    let streaming: SocketAddr = match tls {
        true => node_at(port),
        false => (ROUTED_LOOPBACK, port).into(),
    };
    let mut command = stage.command(Place::Node, program);
    command
        .args(["serve", "--standalone", "--netns-dir", "/run/netns"])
        .arg("--socket")
        .arg(socket(setting.instance))
        .args(["--streaming-address", &streaming.to_string()])
        .arg("--ready-file")
        .arg(&ready);
    if tls {
        command.arg(TLS).arg(&setting.certificate.certificate);
        command
            .arg("--streaming-tls-key")
            .arg(&setting.certificate.key);
    }
    if setting.connections > 0 {
        for limit in [
            "--max-connections-per-session",
            "--max-connections-per-node",
        ] {
            command.args([limit, &setting.connections.to_string()]);
        }
    }
    let begun = Instant::now();
    let mut shim = launch(&format!("shim-{instance}"), command)?;
    shim.until("its ready file", START, |_| ready.exists().then_some(()))?;
    Ok((shim, begun.elapsed()))
}

/// Starts the command line; also tells how long it took until it forwarded.
pub(crate) fn forward(
    stage: &Stage,
    setting: &Setting,
    websocket: bool,
) -> Result<(Process, Duration)> {
    let mut command = stage.command(Place::Work, stage.sternline("sternline"));
    command
        .arg("forward")
        .arg("--socket")
        .arg(socket(setting.instance));
    if websocket {
        command.arg(WEBSOCKET);
    }
    if !setting.plain && speaks_tls(stage) {
        command
            .arg("--ca-file")
            .arg(&setting.certificate.certificate);
    }
    command.args([
        "sandbox/pod",
        &format!("{}:{TARGET}", LISTENER + setting.instance),
    ]);
    let begun = Instant::now();
    let mut client = launch(&format!("sternline-{}", setting.instance), command)?;
    client.until("its Forwarding line", START, |client| {
        client.stdout().contains("Forwarding from").then_some(())
    })?;
    Ok((client, begun.elapsed()))
}

pub(super) fn start(stage: &Stage, setting: &Setting, websocket: bool) -> Result<Running> {
    let (shim, _) = shim(stage, setting)?;
    let (client, _) = forward(stage, setting, websocket)?;
    let tls = !setting.plain && speaks_tls(stage);
    let form = match tls {
        true => "TLS 1.3",
        false => "plain: NO TLS",
    };
    Ok(Running {
        connect: (Ipv4Addr::LOCALHOST, LISTENER + setting.instance).into(),
        from: Place::Pod,
        node: vec![shim],
        client: vec![client],
        form: form.to_owned(),
    })
}
