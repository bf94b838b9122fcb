use super::*;
use crate::binder::LocalBinder;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::time::{Instant, timeout};

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(60);

/// Tells the process of a test where its peer waits to connect.
const SOCKET: &str = "STERNLINE_TEST_SOCKET";

const OF_ANOTHER_NAMESPACE: &str =
    "binder::server::tests::a_peer_without_a_number_here_is_known_by_its_user";

fn guests(own: u32) -> Guests {
    Guests { own, serve: None }
}

fn server(path: &Path, guests: Guests, limits: ServerLimits) -> (Server, Endpoint) {
    let dir = path.parent().expect("a directory").to_owned();
    let binder = LocalBinder::standalone(dir, false, ACCEPT_PAUSE).expect("a binder");
    let (listener, endpoint) = Endpoint::bind(path, None).expect("bound");
    let server = Server::new(listener, Arc::new(binder), guests, limits).expect("a server");
    (server, endpoint)
}

/// Of the process that has a PID namespace to itself: who comes, comes from outside.
#[tokio::main(flavor = "current_thread")]
async fn identifies(path: &Path) {
    let own = nix::unistd::geteuid().as_raw();
    let (mut server, _endpoint) = server(path, guests(own), ServerLimits::default());
    let channel = timeout(SOON, server.accept()).await.expect("in time");
    let channel = channel.expect("a connection");
    assert_eq!(server.identify(&channel), Some((0, own)));
    server.guests = guests(own + 1);
    assert_eq!(server.identify(&channel), None, "of another user");
    assert_eq!(server.shared.refusals.so_far().strangers, 1);
}

/// As containers of a pod are to each other.
#[test]
fn a_peer_without_a_number_here_is_known_by_its_user() {
    if let Some(path) = std::env::var_os(SOCKET) {
        identifies(&PathBuf::from(path));
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("binder.sock");
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--fork", "--kill-child"]);
    if !nix::unistd::geteuid().is_root() {
        apart.args(["--user", "--map-root-user"]);
    }
    let mut child = apart
        .arg(std::env::current_exe().expect("own path"))
        .args([OF_ANOTHER_NAMESPACE, "--exact", "--nocapture"])
        .env(SOCKET, &path)
        .spawn()
        .expect("unshare(1) starts");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let ended = runtime.block_on(async {
        let deadline = Instant::now() + SOON;
        let mut channel = None;
        loop {
            if channel.is_none() {
                channel = Channel::connect(&path).ok();
            }
            if let Some(ended) = child.try_wait().expect("a child") {
                return ended.success() && channel.is_some();
            }
            assert!(Instant::now() < deadline, "it does not end");
            sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(ended, "see what it said");
}

#[tokio::test]
async fn a_limit_that_was_hit_is_told_to_who_asks() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("binder.sock");
    let limits = ServerLimits {
        connections: 1,
        ..ServerLimits::default()
    };
    let own = nix::unistd::geteuid().as_raw();
    let (server, _endpoint) = server(&path, guests(own), limits);
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(server.run(stop));
    let first = Channel::connect(&path).expect("connected");
    let hello = wire::Hello {
        version: wire::VERSION,
        ..wire::Hello::default()
    };
    let packet = wire::encode_ask(0, wire::ask::What::Hello(hello));
    first.send(&packet, &[]).await.expect("sent");
    first.receive().await.expect("readable").expect("welcome");
    for _ in 0..2 {
        let second = Channel::connect(&path).expect("connected");
        let told = timeout(SOON, second.receive()).await.expect("in time");
        told.expect("readable").expect("a refusal");
    }
    let packet = wire::encode_ask(1, wire::ask::What::Status(wire::Nothing {}));
    first.send(&packet, &[]).await.expect("sent");
    let packet = timeout(SOON, first.receive()).await.expect("in time");
    let packet = packet.expect("readable").expect("an answer");
    let (_, answer) = wire::decode_answer(&packet.bytes).expect("ours");
    let wire::answer::What::Status(status) = answer else {
        panic!("{answer:?}");
    };
    let expected = wire::TurnedAway {
        connections: 2,
        ..wire::TurnedAway::default()
    };
    assert_eq!(status.turned_away, Some(expected));
}
