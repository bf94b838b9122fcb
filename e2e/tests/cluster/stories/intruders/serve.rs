//! From inside serve's container, with the rights that the kubelet gave it.

use crate::shared::check::{same, says};
use crate::shared::image::PROBE;
use crate::support::cluster::Cluster;
use crate::support::inside::running_on;
use crate::support::pods::{self, Pod};
use crate::support::runner::themed;
use anyhow::{Context as _, Result};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs::{self, File, Permissions};
use std::io::{IoSlice, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use sternline_e2e::report::Trespass;

themed! {
    serve_comes_into_no_namespace_and_the_binder_does,
}

/// A socket that both containers of a shim see.
const MEETING: &str = "/run/sternline-binder/handed";

/// What is tried in a container, with the namespace of a pod in its hands.
async fn trespass(cluster: &Cluster, shim: &Pod, container: &str) -> Result<Trespass> {
    let Pod {
        namespace, name, ..
    } = shim;
    let words = format!(
        "exec --namespace {namespace} {name} --container {container} -- \
         {PROBE} trespass --handed-by {MEETING}"
    );
    let said = cluster.admin().run(&words).await?;
    let trespass: Trespass = serde_json::from_str(&said).context(said)?;
    for attempt in &trespass.attempts {
        let came_of_it = attempt.refused.as_deref().unwrap_or("it did");
        let (what, uid) = (&attempt.what, trespass.uid);
        writeln!(
            std::io::stdout(),
            "cluster: {container}, uid {uid}, is to {what}: {came_of_it}"
        )?;
    }
    Ok(trespass)
}

/// Hands a namespace over to the two that come.
fn hand_over(listener: UnixListener, namespace: File) {
    std::thread::spawn(move || {
        for socket in listener.incoming().take(2).flatten() {
            let handed = [namespace.as_raw_fd()];
            let _ = sendmsg::<()>(
                socket.as_raw_fd(),
                &[IoSlice::new(b".")],
                &[ControlMessage::ScmRights(&handed)],
                MsgFlags::empty(),
                None,
            );
        }
    });
}

async fn serve_comes_into_no_namespace_and_the_binder_does(cluster: &Cluster) -> Result<()> {
    let shims = pods::of(cluster, "sternline-shim").await?;
    let shim = pods::on("two", &shims)?;
    let binder = running_on("two", "/sternline-shim binder")?;
    let pods = running_on("two", &format!("{PROBE} serve-echo"))?;
    let meeting = binder.path(MEETING);
    let listener = UnixListener::bind(&meeting)?;
    fs::set_permissions(&meeting, Permissions::from_mode(0o666))?;
    hand_over(listener, File::open(pods.proc("ns/net"))?);
    let told = async {
        let (serve, binder) = (
            trespass(cluster, shim, "serve").await?,
            trespass(cluster, shim, "binder").await?,
        );
        anyhow::Ok((serve, binder))
    };
    let told = told.await;
    fs::remove_file(&meeting)?;
    let (serve, binder) = told?;

    same("serve's user", serve.uid, 65532)?;
    same("attempts", serve.attempts.len(), 5)?;
    for attempt in &serve.attempts {
        let refused = attempt.refused.as_deref();
        let refused = refused.with_context(|| format!("serve could {}", attempt.what))?;
        let nothing_there = attempt.what.starts_with("find");
        let error = if nothing_there {
            "os error 2)"
        } else {
            "os error 1)"
        };
        says(&attempt.what, refused, error)?;
    }
    // Where it is allowed the same attempts come to something: they are none in vain.
    for attempt in &binder.attempts[..3] {
        same(
            &format!("the binder may not {}", attempt.what),
            attempt.refused.clone(),
            None,
        )?;
    }
    Ok(())
}
