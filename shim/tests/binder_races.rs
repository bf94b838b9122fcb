//! The binder while what it was told about changes under its hands.

mod binder_support;
#[path = "binder_support/runtime.rs"]
mod runtime;

use binder_support::{Namespaces, loopback};
use runtime::{FakeRuntime, FakeSandbox};
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use sternline_api::Reason;
use sternline_shim::{
    binder::{BindRequest, Binder, LocalBinder, SandboxTarget},
    sandbox::cri::{CriOptions, CriSource},
};

const PORT: u16 = 8080;

/// Has `path` lead to one namespace and to the other, in turns and without a
/// gap, until told to stop.
fn swap(path: PathBuf, between: [PathBuf; 2], stop: Arc<AtomicBool>) -> thread::JoinHandle<u32> {
    thread::spawn(move || {
        let next = path.with_extension("next");
        let mut turns = 0;
        while !stop.load(Ordering::Relaxed) {
            for namespace in &between {
                symlink(namespace, &next).expect("link");
                fs::rename(&next, &path).expect("renamed");
            }
            turns += 1;
        }
        turns
    })
}

/// Whether nobody listens on the port in this process's own namespace.
fn is_free_here() -> bool {
    TcpListener::bind(("127.0.0.1", PORT)).is_ok()
}

// The path leads to the node's own namespace now and then: between the look
// whether it does and the bind, too. Nothing is ever bound there.
story! {
    async fn a_path_that_is_replaced_between_check_and_bind_leads_nowhere_else() {
        let spaces = Namespaces::new();
        let pod = spaces.add("web");
        let path = spaces.path("shifting");
        symlink(&pod, &path).expect("link");
        let runtime = FakeRuntime::start(&spaces.dir(), vec![
            FakeSandbox::new(&format!("{:a<64}", ""), &path),
        ]);
        let options = CriOptions::new(&runtime.endpoint(), Vec::new());
        let source = CriSource::new(options).expect("source");
        let binder = LocalBinder::new(source, false, Duration::from_secs(60));
        let stop = Arc::new(AtomicBool::new(false));
        let host = Path::new("/proc/self/ns/net").to_owned();
        let swapping = swap(path, [host, pod.clone()], Arc::clone(&stop));

        let (mut bound, mut refused) = (0, 0);
        // Both must have come up, and a busy machine may take its time to it.
        for round in 0..20_000 {
            let request = BindRequest {
                target: SandboxTarget::Id("aa".to_owned()),
                listeners: vec![loopback(0, PORT)],
                backlog: 16,
        grant: Vec::new(),
            };
            match binder.bind(request).await {
                Ok(sockets) => {
                    assert!(is_free_here(), "bound on the node");
                    let inside = spaces.inside("web", || TcpListener::bind(("127.0.0.1", PORT)));
                    assert!(inside.is_err(), "bound elsewhere");
                    drop(sockets);
                    bound += 1;
                }
                Err(failure) => {
                    assert_eq!(failure.reason, Reason::HostNetwork, "{failure}");
                    assert!(is_free_here(), "refused, and bound on the node");
                    refused += 1;
                }
            }
            if round >= 500 && bound >= 50 && refused >= 50 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let turns = swapping.join().expect("no panic");
        assert!(bound >= 50 && refused >= 50, "{bound} bound, {refused} refused, {turns} turns");
    }
}
