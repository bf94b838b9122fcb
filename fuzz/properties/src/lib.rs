//! What must hold for whatever bytes come from outside.
//!
//! Each target takes any bytes and panics if a property does not hold: that no
//! input panics or hangs is the least of them. The fuzzer in the directory above
//! feeds them for as long as it is let; `cargo test` feeds them the seeds, which
//! are the inputs that once failed and those that lead the fuzzer on its way.
//!
//! Whatever waits runs on one thread with its time paused, so a wait of minutes
//! costs nothing and one without a bound is found.

mod binder;
mod call;
mod control;
mod cri_info;
mod gateway;
mod grant;
mod headers;
mod http2;
mod input;
mod io;
mod node;
mod ready;
mod specs;
mod streaming;
mod upgrade;
mod url;
mod websocket;

use std::future::Future;
use std::time::Duration;

/// One parser, or one end of a protocol.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of the fuzz target and of its directory of seeds.
    pub name: &'static str,
    /// Panics if a property does not hold for these bytes.
    pub check: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("acceptor", http2::acceptor),
    target("binder", binder::check),
    target("call", call::check),
    target("control", control::check),
    target("cri_info", cri_info::check),
    target("dialer", http2::dialer),
    target("grant", grant::check),
    target("gateway_identity", gateway::identity),
    target("gateway_request", gateway::request),
    target("headers", headers::check),
    target("ready", ready::check),
    target("specs", specs::check),
    target("streaming", streaming::check),
    target("upgrade", upgrade::check),
    target("url", url::check),
    target("websocket", websocket::check),
];

const fn target(name: &'static str, check: fn(&[u8])) -> Target {
    Target { name, check }
}

/// Checks one target.
///
/// # Panics
/// There is none of this name, or a property does not hold.
pub fn check(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").check)(data);
}

/// Longer than anything may take in paused time: what is longer hangs.
const HANGS: Duration = Duration::from_secs(24 * 3600);

/// Runs `work` on one thread in paused time, and panics if it hangs.
fn run<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without drivers can be made");
    runtime.block_on(async {
        let done = tokio::time::timeout(HANGS, work).await;
        done.expect("every wait has a bound")
    })
}
