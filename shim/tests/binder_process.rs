//! The binder as a process, and what either end makes of the other's death and
//! lies.

mod binder_support;
#[path = "binder_support/liar.rs"]
mod liar;

use binder_support::form::BinderProcess;
use binder_support::{Census, Namespaces, loopback};
use liar::{Answers, Liar};
use nix::sys::signal::Signal;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternline_api::{Failure, Reason};
use sternline_shim::binder::channel::Channel;
use sternline_shim::binder::wire::{self, answer, ask};
use sternline_shim::binder::{BindRequest, Binder, Bound, ProcessBinder, SandboxTarget};
use tokio::time::{sleep, timeout};

const POLL: &[&str] = &["--poll-interval", "100ms"];

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(10);

fn request(sandbox: &str, ports: &[u16]) -> BindRequest {
    let ids = 0_u32..;
    BindRequest {
        target: SandboxTarget::Id(sandbox.to_owned()),
        listeners: ids
            .zip(ports)
            .map(|(id, port)| loopback(id, *port))
            .collect(),
        backlog: 16,
        grant: Vec::new(),
    }
}

/// Binds as soon as the binder can be asked.
async fn bind(binder: &ProcessBinder, ports: &[u16]) -> Result<Bound, Failure> {
    let deadline = Instant::now() + SOON;
    loop {
        match binder.bind(request("web", ports)).await {
            Err(failure)
                if failure.reason == Reason::RuntimeUnavailable && Instant::now() < deadline =>
            {
                sleep(Duration::from_millis(10)).await;
            }
            other => return other,
        }
    }
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Waits until the binder holds no more than before.
async fn holds_no_more(process: &BinderProcess, than: usize) {
    let deadline = Instant::now() + SOON;
    while process.holds().len() > than {
        assert!(Instant::now() < deadline, "{:?}", process.holds());
        sleep(Duration::from_millis(10)).await;
    }
}

/// A client that says what it likes.
async fn hostile(process: &BinderProcess) -> Channel {
    let channel = Channel::connect(&process.socket()).expect("connected");
    let hello = wire::Hello {
        version: wire::VERSION,
        release: "x".to_owned(),
        ..wire::Hello::default()
    };
    say(&channel, 0, ask::What::Hello(hello)).await;
    let welcome = hear(&channel).await.expect("welcome");
    assert!(
        matches!(welcome, (0, answer::What::Welcome(_))),
        "{welcome:?}"
    );
    channel
}

async fn say(channel: &Channel, id: u64, what: ask::What) {
    channel
        .send(&wire::encode_ask(id, what), &[])
        .await
        .expect("sent");
}

/// The next answer; none when the connection is over.
async fn hear(channel: &Channel) -> Option<(u64, answer::What)> {
    match timeout(SOON, channel.receive()).await.expect("in time") {
        Ok(Some(packet)) => Some(wire::decode_answer(&packet.bytes).expect("ours")),
        Ok(None) => None,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("{error}"),
    }
}

fn bind_what(sandbox: &str, ports: &[u16]) -> ask::What {
    ask::What::Bind((&request(sandbox, ports)).into())
}

apart! {
    async fn what_is_handed_over_is_serves_alone() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let mut process = BinderProcess::start(&namespaces.dir(), POLL);
        let binder = process.client().await;
        let before = process.holds().len();
        let many: Vec<u16> = (20_000..20_200).collect();
        // More sockets than one packet carries.
        let bound = bind(&binder, &many).await.expect("bound");
        assert_eq!(bound.sockets.len(), 400);
        holds_no_more(&process, before).await;
        let twins: Vec<_> = bound.sockets.iter().map(|one| (one.listener_id, one.addr)).collect();
        assert!(twins.is_sorted_by_key(|(id, addr)| (*id, addr.is_ipv6())), "{twins:?}");

        process.kill();
        for port in [20_000, 20_199] {
            namespaces.inside("web", move || TcpStream::connect(v4(port))).expect("it listens");
        }
        let failure = binder.bind(request("web", &[1])).await.expect_err("nobody there");
        assert_eq!(failure.reason, Reason::RuntimeUnavailable);
        assert!(failure.message.contains("sternline-shim binder"), "{failure}");
        drop(bound);
        namespaces.inside("web", || TcpListener::bind(v4(20_000))).expect("free");
    }
}

apart! {
    async fn a_binder_killed_at_any_moment_leaves_nothing_bound() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let mut process = BinderProcess::start(&namespaces.dir(), POLL);
        drop(bind(&process.client().await, &[8080]).await.expect("bound"));
        sleep(Duration::from_millis(300)).await;
        let before = Census::take();
        for round in 0..20 {
            let asked = Arc::new(process.client().await);
            let binder = Arc::clone(&asked);
            let asking = tokio::spawn(async move { asked.bind(request("web", &[8080, 8081])).await });
            sleep(Duration::from_micros(round * 60)).await;
            process.kill();
            match timeout(SOON, asking).await.expect("answered").expect("ran") {
                Ok(bound) => assert_eq!(bound.sockets.len(), 4),
                Err(failure) => assert_eq!(failure.reason, Reason::RuntimeUnavailable, "{failure}"),
            }
            for port in [8080, 8081] {
                namespaces.inside("web", move || TcpListener::bind(v4(port))).expect("free");
            }
            process.again();
            drop(bind(&binder, &[8080]).await.expect("bound"));
        }
        Census::settles_at(&before).await;
    }
}

apart! {
    async fn a_new_binder_watches_what_the_old_one_did() {
        let namespaces = Namespaces::new();
        for name in ["web", "db"] {
            namespaces.add(name);
        }
        let mut process = BinderProcess::start(&namespaces.dir(), POLL);
        let binder = process.client().await;
        let mut web = bind(&binder, &[8080]).await.expect("bound");
        let mut db = binder.bind(request("db", &[8080])).await.expect("bound");
        process.kill();
        // No news is not "gone", not even while it is.
        namespaces.remove("db");
        namespaces.add("db");
        assert!(timeout(Duration::from_millis(300), web.gone.wait()).await.is_err());
        assert!(timeout(Duration::from_millis(1), db.gone.wait()).await.is_err());
        process.again();
        // The same name, but another namespace.
        let told = timeout(SOON, db.gone.wait()).await.expect("told");
        assert!(told.starts_with("sandbox db is gone"), "{told}");
        assert!(timeout(Duration::from_millis(300), web.gone.wait()).await.is_err());
        namespaces.remove("web");
        timeout(SOON, web.gone.wait()).await.expect("told");
        assert_eq!(binder.watched(), 0);
    }
}

apart! {
    async fn a_binder_that_is_told_to_go_goes_at_once() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let process = BinderProcess::start(&namespaces.dir(), POLL);
        let binder = process.client().await;
        let _bound = bind(&binder, &[8080]).await.expect("bound");
        let _idle = hostile(&process).await;
        process.signal(Signal::SIGTERM);
        let deadline = Instant::now() + SOON;
        while process.socket().exists() {
            assert!(Instant::now() < deadline, "it stays");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

apart! {
    async fn a_serve_that_breaks_the_protocol_is_cut_off_alone() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let process = BinderProcess::start(&namespaces.dir(), POLL);
        let binder = process.client().await;
        let bound = bind(&binder, &[8080]).await.expect("bound");
        let before = process.holds().len();
        let garbage: &[&[u8]] = &[b"", b"\xff", b"GET / HTTP/1.1\r\n\r\n", &[0; 70_000]];
        for bytes in garbage {
            // As the first word, and later.
            let first = Channel::connect(&process.socket()).expect("connected");
            first.send(bytes, &[]).await.expect("sent");
            assert_eq!(hear(&first).await, None, "{} bytes", bytes.len());
            let later = hostile(&process).await;
            later.send(bytes, &[]).await.expect("sent");
            assert_eq!(hear(&later).await, None, "{} bytes", bytes.len());
        }
        let mut port = request("web", &[80]);
        port.listeners.push(loopback(0, 81));
        let watch = |id: &str| ask::What::Watch(wire::Watch {
            id: id.to_owned(),
            namespace: Some(wire::Namespace::default()),
        });
        for bad in [
            ask::What::Hello(wire::Hello::default()),
            ask::What::Bind(wire::Bind::default()),
            ask::What::Bind((&port).into()),
            watch("../../etc/passwd"),
            watch(""),
        ] {
            let channel = hostile(&process).await;
            say(&channel, 1, bad.clone()).await;
            assert_eq!(hear(&channel).await, None, "{bad:?}");
        }
        // Descriptors that nobody asked for are not kept.
        let channel = hostile(&process).await;
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let find = wire::encode_ask(1, ask::What::Status(wire::Nothing {}));
        channel.send(&find, &[socket.as_fd(); 200]).await.expect("sent");
        assert_eq!(hear(&channel).await, None);
        // Another version is told so, in a sentence.
        let channel = Channel::connect(&process.socket()).expect("connected");
        let old = wire::Hello { release: "0.0.1".to_owned(), ..wire::Hello::default() };
        say(&channel, 0, ask::What::Hello(old)).await;
        let Some((0, answer::What::Failed(failed))) = hear(&channel).await else {
            panic!("not told");
        };
        assert!(failed.message.contains("version 0"), "{}", failed.message);

        holds_no_more(&process, before).await;
        drop(bound);
        bind(&binder, &[8080]).await.expect("serve is served as before");
    }
}

apart! {
    async fn a_serve_that_asks_for_too_much_is_bounded() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let flags = [POLL, &["--max-connections", "2", "--max-watches", "3"]].concat();
        let process = BinderProcess::start(&namespaces.dir(), &flags);
        let channel = hostile(&process).await;
        let _second = hostile(&process).await;
        let third = Channel::connect(&process.socket()).expect("connected");
        let Some((0, answer::What::Failed(failed))) = hear(&third).await else {
            panic!("not told");
        };
        assert!(failed.message.contains("--max-connections"), "{}", failed.message);

        // 3 sandboxes and 64 requests, none of which ends by itself.
        let namespace = std::fs::metadata(namespaces.path("web")).map(|found| {
            use std::os::unix::fs::MetadataExt as _;
            wire::Namespace { device: found.dev(), inode: found.ino() }
        });
        let watch = ask::What::Watch(wire::Watch {
            id: "web".to_owned(),
            namespace: Some(namespace.expect("there")),
        });
        for id in 1..=67 {
            say(&channel, id, watch.clone()).await;
            assert!(matches!(hear(&channel).await, Some((_, answer::What::Watching(_)))));
        }
        say(&channel, 100, watch.clone()).await;
        let Some((100, answer::What::Failed(failed))) = hear(&channel).await else {
            panic!("not refused");
        };
        assert!(failed.message.contains("--max-watches"), "{}", failed.message);
        // What is released makes room.
        say(&channel, 5, ask::What::Release(wire::Nothing {})).await;
        let deadline = Instant::now() + SOON;
        for id in 200.. {
            say(&channel, id, watch.clone()).await;
            if matches!(hear(&channel).await, Some((_, answer::What::Watching(_)))) {
                break;
            }
            assert!(Instant::now() < deadline, "no room");
        }
        // A flood of binds whose answers nobody reads ends this connection.
        let before = process.holds().len();
        for id in 1_000..20_000 {
            if channel.try_send(&wire::encode_ask(id, bind_what("web", &[0]))).is_err() {
                break;
            }
        }
        drop(channel);
        holds_no_more(&process, before).await;
        let binder = process.client().await;
        bind(&binder, &[8080]).await.expect("serve is served as before");
    }
}

/// What a lying binder may send with an answer to a bind of port 8080.
fn impostors() -> Vec<(&'static str, OwnedFd)> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let bound =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    bound.bind(&v4(0).into()).expect("bound");
    let (pipe, _) = std::io::pipe().expect("pipe");
    vec![
        ("listens elsewhere", listener.into()),
        ("a connection", stream.into()),
        ("bound and not listening", bound.into()),
        ("UDP", UdpSocket::bind("127.0.0.1:0").expect("bound").into()),
        ("a pipe", pipe.into()),
        (
            "a file",
            std::fs::File::open("/dev/null").expect("open").into(),
        ),
    ]
}

apart! {
    async fn a_binder_that_lies_is_not_believed() {
        binder_support::loopback_up();
        let before = {
            let warm = Liar::start();
            let binder = ProcessBinder::new(&warm.path());
            warm.tell(Answers::new().honest(v4(8080))).await;
            drop(bind(&binder, &[8080]).await.expect("an honest one is believed"));
            drop((binder, warm));
            sleep(Duration::from_millis(100)).await;
            Census::take()
        };
        for (what, impostor) in impostors() {
            let liar = Liar::start();
            let binder = ProcessBinder::new(&liar.path());
            liar.tell(Answers::new().socket(v4(8080), impostor)).await;
            refused(&binder, what).await;
        }
        let honest = || Answers::new().honest(v4(8080));
        let elsewhere = |ip: [u8; 4], port| Answers::new().honest(SocketAddr::from((ip, port)));
        let lies: &[(&str, &dyn Fn() -> Answers)] = &[
            ("nothing bound", &Answers::new),
            ("another port", &|| elsewhere([127, 0, 0, 1], 8081)),
            ("another address", &|| elsewhere([127, 0, 0, 2], 8080)),
            ("a wide address", &|| elsewhere([0, 0, 0, 0], 8080)),
            ("fewer descriptors", &|| honest().without_descriptors()),
            ("more descriptors", &|| honest().doubled()),
            ("an unknown listener", &|| honest().of_listener(7)),
            ("garbage", &|| Answers::garbage(b"\xff\xff")),
            ("nothing", &|| Answers::garbage(b"")),
            ("too much", &|| Answers::garbage(&[0; 70_000])),
            ("parts of nothing", &|| Answers::new().endless()),
        ];
        for (what, lie) in lies {
            let liar = Liar::start();
            let binder = ProcessBinder::new(&liar.path());
            liar.tell(lie()).await;
            refused(&binder, what).await;
        }
        Census::settles_at(&before).await;
    }
}

/// The lie is refused in a sentence, and nothing is kept of it.
async fn refused(binder: &ProcessBinder, what: &str) {
    let deadline = Instant::now() + SOON;
    loop {
        let asked = timeout(SOON, binder.bind(request("web", &[8080])));
        let failure = asked.await.expect("answered").expect_err(what);
        assert_eq!(
            failure.reason,
            Reason::RuntimeUnavailable,
            "{what}: {failure}"
        );
        // Before it is connected it is another sentence.
        let lie = ["broke the protocol", "longer than", "closed the connection"];
        if lie.iter().any(|lie| failure.message.contains(lie)) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {failure}");
        sleep(Duration::from_millis(5)).await;
    }
}
