//! Peers that are measured where their programs are installed, each in the
//! configuration that its own documentation gives for a reverse TCP forward.

use super::{Certificate, Running, launch, node_at};
use crate::enclosure::STATE;
use crate::process::run;
use crate::stage::{Place, Stage, TARGET};
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn file(name: &str, content: &str) -> Result<PathBuf> {
    let path = Path::new(STATE).join(name);
    fs::write(&path, content)?;
    Ok(path)
}

pub(super) fn rathole(stage: &Stage, certificate: &Certificate) -> Result<Running> {
    let (control, listener) = (node_at(7400), 7401);
    // It reads its identity as PKCS#12 only. The password guards nothing: the
    // files go with the run.
    let identity = Path::new(STATE).join("identity.pfx");
    run(Command::new("openssl")
        .args(["pkcs12", "-export", "-passout", "pass:bench", "-inkey"])
        .arg(&certificate.key)
        .arg("-in")
        .arg(&certificate.certificate)
        .arg("-out")
        .arg(&identity))?;
    let server = format!(
        "[server]\nbind_addr = \"{control}\"\ndefault_token = \"bench\"\n\
         [server.transport]\ntype = \"tls\"\n\
         [server.transport.tls]\npkcs12 = {identity:?}\npkcs12_password = \"bench\"\n\
         [server.services.bench]\nbind_addr = \"127.0.0.1:{listener}\"\n"
    );
    let client = format!(
        "[client]\nremote_addr = \"{control}\"\ndefault_token = \"bench\"\n\
         [client.transport]\ntype = \"tls\"\n\
         [client.transport.tls]\ntrusted_root = {:?}\nhostname = \"localhost\"\n\
         [client.services.bench]\nlocal_addr = \"127.0.0.1:{TARGET}\"\n",
        certificate.certificate
    );
    let start = |place, flag: &str, config: PathBuf| {
        let mut command = stage.command(place, "rathole");
        command.arg(flag).arg(config);
        launch(&format!("rathole{flag}"), command)
    };
    let node = start(
        Place::Node,
        "--server",
        file("rathole-server.toml", &server)?,
    )?;
    let client = start(
        Place::Work,
        "--client",
        file("rathole-client.toml", &client)?,
    )?;
    Ok(Running::on_node(listener, "TLS", vec![node], vec![client]))
}

pub(super) fn frp(stage: &Stage) -> Result<Running> {
    let (control, listener) = (node_at(7500), 7501);
    let server = format!(
        "bindAddr = \"{}\"\nbindPort = {}\nproxyBindAddr = \"127.0.0.1\"\n\
         transport.tls.force = true\nlog.level = \"warn\"\n",
        control.ip(),
        control.port()
    );
    let client = format!(
        "serverAddr = \"{}\"\nserverPort = {}\ntransport.tls.enable = true\n\
         log.level = \"warn\"\n\
         [[proxies]]\nname = \"bench\"\ntype = \"tcp\"\nlocalIP = \"127.0.0.1\"\n\
         localPort = {TARGET}\nremotePort = {listener}\n",
        control.ip(),
        control.port()
    );
    let start = |place, program: &str, config: PathBuf| {
        let mut command = stage.command(place, program);
        command.arg("-c").arg(config);
        launch(program, command)
    };
    let node = start(Place::Node, "frps", file("frps.toml", &server)?)?;
    let client = start(Place::Work, "frpc", file("frpc.toml", &client)?)?;
    Ok(Running::on_node(listener, "TLS", vec![node], vec![client]))
}

pub(super) fn chisel(stage: &Stage) -> Result<Running> {
    let (control, listener) = (node_at(7600), 7601);
    let mut command = stage.command(Place::Node, "chisel");
    command
        .args(["server", "--reverse", "--host", &control.ip().to_string()])
        .args(["--port", &control.port().to_string()]);
    let node = launch("chisel-server", command)?;
    let mut command = stage.command(Place::Work, "chisel");
    command
        .args(["client", &format!("http://{control}")])
        .arg(format!("R:127.0.0.1:{listener}:127.0.0.1:{TARGET}"));
    let client = launch("chisel-client", command)?;
    Ok(Running::on_node(
        listener,
        "ssh inside http",
        vec![node],
        vec![client],
    ))
}

pub(super) fn ktunnel(stage: &Stage, certificate: &Certificate) -> Result<Running> {
    let (control, listener) = (node_at(7700), 7701);
    let port = control.port().to_string();
    let mut command = stage.command(Place::Node, "ktunnel");
    command
        .args(["server", "--port", &port, "--tls", "--cert"])
        .arg(&certificate.certificate)
        .arg("--key")
        .arg(&certificate.key);
    let node = launch("ktunnel-server", command)?;
    let mut command = stage.command(Place::Work, "ktunnel");
    command
        .args(["client", "--host", &control.ip().to_string()])
        .args(["--port", &port, "--tls", "--ca-file"])
        .arg(&certificate.certificate)
        .args(["--server-host-override", "localhost"])
        .arg(format!("{listener}:{TARGET}"));
    let client = launch("ktunnel-client", command)?;
    Ok(Running::on_node(listener, "TLS", vec![node], vec![client]))
}
