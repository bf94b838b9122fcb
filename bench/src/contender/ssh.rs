//! `ssh -R`: OpenSSH's own client and server, with a configuration, keys and a
//! port of their own. Nothing of the machine's configuration is read.

use super::{Running, START, launch, node_at};
use crate::enclosure::STATE;
use crate::process::{find, run};
use crate::stage::{Place, Stage, target_at_work};
use anyhow::{Context as _, Result};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Port of the server.
const SERVER: u16 = 7200;

/// Port that it listens on for the client.
const LISTENER: u16 = 7201;

/// The cipher of the table: the quickest that both ends have.
const CIPHER: &str = "aes128-gcm@openssh.com";

pub(super) fn start(stage: &Stage) -> Result<Running> {
    let dir = Path::new(STATE).join("ssh");
    let (host, user) = keys(&dir)?;
    let config = dir.join("sshd_config");
    let lines = format!(
        "Port {SERVER}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
         UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         Ciphers {CIPHER}\nUseDNS no\nPrintMotd no\nLogLevel INFO\n",
        host.display(),
        user.with_extension("pub").display(),
    );
    fs::write(&config, lines)?;
    // sshd insists on being started by its absolute path.
    let sshd = find("sshd").context("sshd is not on the PATH")?;
    let mut command = stage.command(Place::Node, sshd);
    command.args(["-D", "-e", "-f"]).arg(&config);
    let mut server = launch("sshd", command)?;
    server.until("its port", START, |server| {
        server.stderr().contains("Server listening").then_some(())
    })?;
    let mut command = stage.command(Place::Work, "ssh");
    command
        .args(["-F", "none", "-N", "-T", "-p", &SERVER.to_string()])
        .arg("-i")
        .arg(&user)
        .args(["-c", CIPHER])
        .args(["-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "BatchMode=yes"])
        .args(["-o", "ExitOnForwardFailure=yes"])
        .args(["-o", "LogLevel=ERROR"])
        .args(["-o", "ConnectTimeout=10"])
        .arg("-R")
        .arg(format!("127.0.0.1:{LISTENER}:{}", target_at_work()))
        .arg(format!("root@{}", node_at(SERVER).ip()));
    let client = launch("ssh", command)?;
    Ok(Running::on_node(
        LISTENER,
        "ssh aes128-gcm",
        vec![server],
        vec![client],
    ))
}

/// Makes the server's and the user's key, once a run.
fn keys(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let files = (dir.join("host"), dir.join("user"));
    if dir.exists() {
        return Ok(files);
    }
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for file in [&files.0, &files.1] {
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(file))?;
    }
    Ok(files)
}
