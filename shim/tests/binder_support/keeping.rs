//! Serves that leave things with a binder, for the next of their name.

use super::form::BinderProcess;
use super::{Namespaces, loopback};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};
use sternline_shim::binder::deposits::{Content, Deposit, Deposits};
use sternline_shim::binder::{BindRequest, Binder, Bound, ProcessBinder, SandboxTarget};
use tokio::time::sleep;

const POLL: &[&str] = &["--poll-interval", "100ms"];

/// Longer than anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn start(namespaces: &Namespaces, flags: &[&str]) -> BinderProcess {
    namespaces.add("web");
    BinderProcess::start(&namespaces.dir(), &[POLL, flags].concat())
}

/// A serve of this name, once its binder answers.
pub(crate) async fn serve(process: &BinderProcess, name: &str) -> (ProcessBinder, Deposits) {
    let binder = ProcessBinder::named(&process.socket(), name);
    let deposits = binder.deposits().expect("a name");
    let deadline = Instant::now() + SOON;
    while deposits.grace().is_none() {
        assert!(Instant::now() < deadline, "no binder");
        sleep(Duration::from_millis(5)).await;
    }
    (binder, deposits)
}

pub(crate) async fn bind(binder: &ProcessBinder, ports: impl IntoIterator<Item = u16>) -> Bound {
    let listeners = (0..).zip(ports).map(|(id, port)| loopback(id, port));
    let request = BindRequest {
        target: SandboxTarget::Id("web".to_owned()),
        listeners: listeners.collect(),
        backlog: 16,
        grant: Vec::new(),
    };
    binder.bind(request).await.expect("bound")
}

pub(crate) async fn put(deposits: &Deposits, key: &str, bound: &Bound) -> Deposit {
    let content = Content::of(bound, b"a record".to_vec()).expect("copied");
    deposits.put(key, content).await.expect("kept")
}

pub(crate) fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(crate) fn is_free(namespaces: &Namespaces, port: u16) -> bool {
    namespaces.inside("web", move || match TcpListener::bind(at(port)) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::AddrInUse => false,
        Err(error) => panic!("{error}"),
    })
}

/// Waits until the binder holds no more than so many sockets.
pub(crate) async fn holds(process: &BinderProcess, most: usize) {
    let deadline = Instant::now() + SOON;
    while process.holds().len() > most {
        assert!(Instant::now() < deadline, "{:?}", process.holds());
        sleep(Duration::from_millis(10)).await;
    }
}
