//! The off switch of a node: live, in both directions.

use crate::support::http::get;
use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, same, says, until};
use anyhow::Result;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use sternline_e2e::report::{Echo, End, Ended, Holding, Listeners};

themed! {
    every node:
        switched_off_forwards_end_with_6_and_switched_on_they_come_up,
        a_switch_in_a_mounted_config_map_works;
    container runtimes:
}

async fn switched_off_forwards_end_with_6_and_switched_on_they_come_up(
    stage: &mut Stage,
) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let switch = stage.file("switch");
    fs::write(&switch, "on\n")?;
    let pod = stage.pod("web").await?;
    let shim = stage
        .shim(&format!("--switch-file {}", switch.display()))
        .await?;
    shim.counts("sternline_feature_enabled", &[], 1.0).await?;
    // A hold does not outlast it.
    let words = format!("8080:{} --hold 60s", target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let held = pod
        .spawn("hold --to 127.0.0.1:8080 --connections 3")
        .await?;
    let _: Holding = held.report(SOON).await?;

    fs::write(&switch, "off\n")?;

    same("exit code", forward.exit(SOON).await?.code, 6)?;
    let ended = forward.event("ended", SOON, |_| true).await?;
    same("reason", ended["reason"].as_str(), Some("feature_off"))?;
    says("the end", &ended["message"].to_string(), "switched off")?;
    let ended: Ended = held.report(SOON).await?;
    same("end in the pod", ended.ended, End::Reset)?;
    let bound: Listeners = pod.probe("listeners").await?;
    same("listeners", bound.listeners.len(), 0)?;
    let place = format!("sandbox/{}", pod.id());
    let refused = stage.refused(&shim, &place, "8080").await?;
    same("exit code", refused.code, 6)?;
    says(
        "the refusal",
        &refused.stderr,
        "is switched off on this node",
    )?;
    shim.counts("sternline_feature_enabled", &[], 0.0).await?;
    // An operator's wish is no fault.
    let ready = get(shim.metrics_address()?, "/readyz").await?;
    same("ready", ready.status, 200)?;
    says("ready", &ready.body, "switched off")?;

    fs::write(&switch, "on\n")?;

    until("the switch", SOON, || async {
        Ok((shim.metric("sternline_feature_enabled", &[]).await? == 1.0).then_some(()))
    })
    .await?;
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

/// Makes the link `data` in `dir` lead to a directory with this content, as the
/// kubelet does.
fn swap(dir: &Path, version: &str, says: &str) -> Result<()> {
    let content = dir.join(version);
    fs::create_dir_all(&content)?;
    fs::write(content.join("switch"), says)?;
    symlink(version, dir.join("new"))?;
    fs::rename(dir.join("new"), dir.join("data"))?;
    Ok(())
}

async fn a_switch_in_a_mounted_config_map_works(stage: &mut Stage) -> Result<()> {
    let dir = stage.file("config");
    fs::create_dir(&dir)?;
    swap(&dir, "1", "on")?;
    symlink("data/switch", dir.join("switch"))?;
    let pod = stage.pod("web").await?;
    let flags = format!("--switch-file {}", dir.join("switch").display());
    let shim = stage.shim(&flags).await?;
    let mut forward = stage.forward(&shim, &pod, "8080").await?;

    swap(&dir, "2", "off")?;

    same("exit code", forward.exit(SOON).await?.code, 6)?;
    swap(&dir, "3", "on")?;
    shim.counts("sternline_feature_enabled", &[], 1.0).await?;
    stage.forward(&shim, &pod, "8080").await?;
    Ok(())
}
