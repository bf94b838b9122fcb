//! What the binder keeps for the next serve, and what it lets go of.

mod binder_support;

use binder_support::form::BinderProcess;
use binder_support::keeping::{SOON, at, bind, holds, is_free, put, serve, start};
use binder_support::{Namespaces, loopback};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use sternline_api::Reason;
use sternline_shim::binder::channel::Channel;
use sternline_shim::binder::deposits::{Content, Left, copies};
use sternline_shim::binder::wire::{self, Discard, Keep, Socket, answer, ask};
use sternline_shim::binder::{BindRequest, Binder, ProcessBinder, SandboxTarget};
use tokio::time::{sleep, timeout};

apart! {
    async fn the_next_serve_of_the_name_finds_everything() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "60s"]);
        let idle = process.holds().len();
        let (binder, deposits) = serve(&process, "one").await;
        // More sockets than one packet carries.
        let bound = bind(&binder, 20_000..20_200).await;
        let addresses: Vec<_> = bound.sockets.iter().map(|one| (one.listener_id, one.addr)).collect();
        let deposit = put(&deposits, "s1", &bound).await;
        deposit.renew(b"another record".to_vec()).await;
        let later = bind(&binder, [21_000]).await;
        deposit.add(copies(&later.sockets).expect("copied")).await;
        // What is closed again is nobody's.
        let closed = bind(&binder, [22_000]).await;
        put(&deposits, "s2", &closed).await.close().await;
        let namespace = bound.namespace;
        deposit.leave();
        drop((binder, deposits, deposit, bound, later, closed));

        let (stranger, others) = serve(&process, "two").await;
        assert!(others.take().await.expect("asked").is_empty(), "another name");
        drop((stranger, others));

        let (_next, deposits) = serve(&process, "one").await;
        let mut left = deposits.take().await.expect("asked");
        assert!(!is_free(&namespaces, 20_000) && !is_free(&namespaces, 21_000));
        assert!(is_free(&namespaces, 22_000));
        let Left { deposit, content } = left.remove(0);
        assert!(left.is_empty());
        assert_eq!((deposit.key(), content.record.as_slice()), ("s1", &b"another record"[..]));
        let watched = content.watched.clone().expect("a sandbox");
        assert_eq!((watched.id.as_str(), watched.namespace), ("web", namespace));
        let sockets = content.into_bound().expect("they listen");
        let found: Vec<_> = sockets.iter().map(|one| (one.listener_id, one.addr)).collect();
        assert_eq!(found[..400], addresses);
        assert_eq!(found[400], (0, at(21_000)));
        namespaces.inside("web", || TcpStream::connect(at(20_199))).expect("it listens");

        // Closed here and there, it is free at once.
        drop(sockets);
        assert!(!is_free(&namespaces, 20_000), "kept for the one after");
        deposit.close().await;
        assert!(is_free(&namespaces, 20_000) && is_free(&namespaces, 21_000));
        holds(&process, idle + 1).await;
    }
}

apart! {
    async fn an_address_is_free_when_the_answer_says_so() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &[]);
        let (binder, deposits) = serve(&process, "one").await;
        for round in 0..50 {
            let bound = bind(&binder, [8080, 8081]).await;
            let deposit = put(&deposits, "s1", &bound).await;
            drop(bound);
            assert!(!is_free(&namespaces, 8080), "the binder keeps it");
            deposit.remove(0).await;
            assert!(is_free(&namespaces, 8080), "round {round}");
            assert!(!is_free(&namespaces, 8081), "another listener of the session");
            deposit.close().await;
            assert!(is_free(&namespaces, 8081), "round {round}");
        }
        // One that is dropped is closed as well, a little later.
        let bound = bind(&binder, [8080]).await;
        drop((put(&deposits, "s1", &bound).await, bound));
        let deadline = Instant::now() + SOON;
        while !is_free(&namespaces, 8080) {
            assert!(Instant::now() < deadline);
            sleep(Duration::from_millis(5)).await;
        }
    }
}

apart! {
    async fn what_nobody_takes_is_closed_when_its_time_is_over() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "700ms"]);
        let idle = process.holds().len();
        let (binder, deposits) = serve(&process, "one").await;
        let bound = bind(&binder, [8080]).await;
        let deposit = put(&deposits, "s1", &bound).await;
        deposit.leave();
        let gone = Instant::now();
        drop((binder, deposits, deposit, bound));
        holds(&process, idle).await;
        assert!(gone.elapsed() >= Duration::from_millis(650), "not before");
        assert!(is_free(&namespaces, 8080));
    }
}

apart! {
    async fn a_sandbox_that_is_gone_is_not_held_open() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "5m"]);
        let idle = process.holds().len();
        let (binder, deposits) = serve(&process, "one").await;
        let bound = bind(&binder, [8080]).await;
        let deposit = put(&deposits, "s1", &bound).await;
        deposit.leave();
        drop((binder, deposits, deposit, bound));
        namespaces.remove("web");
        holds(&process, idle).await;
        let (_next, deposits) = serve(&process, "one").await;
        assert!(deposits.take().await.expect("asked").is_empty());
    }
}

apart! {
    async fn a_serve_waits_for_the_one_before_and_not_for_ever() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &[]);
        let (first, deposits) = serve(&process, "one").await;
        let bound = bind(&first, [8080]).await;
        let deposit = put(&deposits, "s1", &bound).await;
        let (second, theirs) = serve(&process, "one").await;
        let refused = theirs.take().await.expect_err("it is there still");
        assert_eq!(refused.reason, Reason::PortInUse);
        assert!(refused.message.contains("another server with the socket one"), "{refused}");
        let refused = theirs.put("s2", Content::default()).await.expect_err("not its own");
        assert_eq!(refused.reason, Reason::PortInUse);

        let mut taking = Box::pin(theirs.take());
        timeout(Duration::ZERO, &mut taking).await.expect_err("it waits");
        // The binder reads one after the other, so it has read both.
        let web = SandboxTarget::Id("web".to_owned());
        second.find(&web).await.expect("there");
        deposit.leave();
        drop((first, deposits, deposit, bound));
        assert_eq!(taking.await.expect("its turn").len(), 1);
    }
}

apart! {
    async fn a_binder_that_comes_back_is_given_everything_again() {
        let namespaces = Namespaces::new();
        let mut process = start(&namespaces, &["--restart-grace", "60s"]);
        let (binder, deposits) = serve(&process, "one").await;
        let bound = bind(&binder, [8080]).await;
        let deposits_of = async |n: u16| {
            for n in 0..n {
                put(&deposits, &format!("s{n}"), &bound).await.leave();
            }
        };
        // More than are under way at once.
        deposits_of(100).await;
        let full = process.holds().len();
        process.kill();
        process.again();
        let deadline = Instant::now() + SOON;
        while process.holds().len() < full {
            assert!(Instant::now() < deadline, "{} of {full}", process.holds().len());
            sleep(Duration::from_millis(10)).await;
        }
        drop((binder, deposits));
        let (_next, deposits) = serve(&process, "one").await;
        let left = deposits.take().await.expect("asked");
        assert_eq!(left.len(), 100);
        assert!(left.iter().all(|one| one.content.sockets.len() == 2));
    }
}

/// A serve that says what it likes.
async fn hostile(process: &BinderProcess, name: &str) -> Channel {
    let channel = Channel::connect(&process.socket()).expect("connected");
    let hello = wire::Hello {
        version: wire::VERSION,
        name: name.to_owned(),
        instance: format!("of {name}"),
        ..wire::Hello::default()
    };
    say(&channel, 0, ask::What::Hello(hello), &[]).await;
    assert!(matches!(
        hear(&channel).await,
        Some((0, answer::What::Welcome(_)))
    ));
    channel
}

async fn say(channel: &Channel, id: u64, what: ask::What, descriptors: &[BorrowedFd<'_>]) {
    let packet = wire::encode_ask(id, what);
    channel.send(&packet, descriptors).await.expect("sent");
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

fn keep(key: &str, sockets: usize) -> Keep {
    let socket = Socket {
        listener_id: 0,
        address: "127.0.0.1:1".to_owned(),
    };
    Keep {
        key: key.to_owned(),
        sockets: vec![socket; sockets],
        record: Some(Vec::new()),
        ..Keep::default()
    }
}

apart! {
    async fn what_was_never_finished_is_nobodys() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "60s"]);
        let (other, _) = serve(&process, "other").await;
        let half = bind(&other, [8080]).await;
        let channel = hostile(&process, "one").await;
        let more = Keep { record: None, more: true, ..keep("s1", 1) };
        let socket = half.sockets[0].socket.as_fd();
        say(&channel, 1, ask::What::Keep(more), &[socket]).await;
        say(&channel, 2, ask::What::Keep(keep("s2", 1)), &[socket]).await;
        assert!(matches!(hear(&channel).await, Some((2, answer::What::Kept(_)))));
        drop((channel, half));
        assert!(!is_free(&namespaces, 8080), "both are kept so far");
        let (_next, deposits) = serve(&process, "one").await;
        let mut left = deposits.take().await.expect("asked");
        let Left { deposit, content } = left.remove(0);
        assert!(left.is_empty());
        assert_eq!(deposit.key(), "s2");
        drop(content);
        deposit.close().await;
        assert!(is_free(&namespaces, 8080), "the half is closed");
    }
}

apart! {
    async fn a_serve_cannot_have_more_kept_than_it_may() {
        let namespaces = Namespaces::new();
        let flags = ["--max-kept", "2", "--max-kept-descriptors", "3"];
        let process = start(&namespaces, &flags);
        let idle = process.holds().len();
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let socket = listener.as_fd();
        let refused = async |channel: &Channel, keep: Keep, sockets: &[BorrowedFd<'_>]| {
            say(channel, 7, ask::What::Keep(keep), sockets).await;
            match hear(channel).await {
                Some((7, answer::What::Failed(failed))) => failed.message,
                other => panic!("{other:?}"),
            }
        };
        let channel = hostile(&process, "one").await;
        for key in ["a", "b"] {
            say(&channel, 1, ask::What::Keep(keep(key, 1)), &[socket]).await;
            assert!(matches!(hear(&channel).await, Some((1, answer::What::Kept(_)))));
        }
        let said = refused(&channel, keep("c", 1), &[socket]).await;
        assert!(said.contains("--max-kept)"), "{said}");
        let said = refused(&channel, keep("a", 2), &[socket; 2]).await;
        assert!(said.contains("--max-kept-descriptors"), "{said}");
        // Under another name there is no more room either.
        let other = hostile(&process, "two").await;
        refused(&other, keep("a", 1), &[socket]).await;
        // What is closed makes room.
        let discard = Discard { key: "b".to_owned(), listener_id: None };
        say(&channel, 2, ask::What::Discard(discard), &[]).await;
        assert!(matches!(hear(&channel).await, Some((2, answer::What::Kept(_)))));
        say(&other, 3, ask::What::Keep(keep("a", 1)), &[socket]).await;
        assert!(matches!(hear(&other).await, Some((3, answer::What::Kept(_)))));

        // Only sockets that listen are kept.
        let (connection, _) = UnixStream::pair().expect("a pair");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
        for impostor in [connection.as_fd(), udp.as_fd()] {
            let said = refused(&channel, keep("a", 1), &[impostor]).await;
            assert!(said.contains("sockets that listen"), "{said}");
        }
        // What cannot be meant ends the connection.
        let mut away = keep("a", 1);
        away.sandbox = Some(wire::Watch { id: "../x".to_owned(), namespace: None });
        let mut long = keep("a", 1);
        long.record = Some(vec![0; wire::keep::MAX_RECORD + 1]);
        for bad in [keep("a", 2), keep("", 1), away, long] {
            let channel = hostile(&process, "bad").await;
            say(&channel, 1, ask::What::Keep(bad.clone()), &[socket]).await;
            assert_eq!(hear(&channel).await, None, "{bad:?}");
        }
        // One connection and its two sockets are left, and the other's.
        holds(&process, idle + 4).await;
        // Without a name nothing is kept at all.
        let nameless = hostile(&process, "").await;
        let said = refused(&nameless, keep("a", 1), &[socket]).await;
        assert!(said.contains("keeps nothing"), "{said}");
    }
}

apart! {
    async fn a_binder_that_is_to_keep_nothing_keeps_nothing() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "0s"]);
        let binder = ProcessBinder::named(&process.socket(), "one");
        let bound = loop {
            let listeners = vec![loopback(0, 8080)];
            let target = SandboxTarget::Id("web".to_owned());
            if let Ok(bound) = binder.bind(BindRequest { target, listeners, backlog: 1, grant: Vec::new() }).await {
                break bound;
            }
        };
        let deposits = binder.deposits().expect("a name");
        assert_eq!(deposits.grace(), None);
        let deposit = put(&deposits, "s1", &bound).await;
        assert_eq!(deposit.grace(), None);
        drop(bound);
        assert!(is_free(&namespaces, 8080), "neither there nor here");
        deposit.close().await;
        assert!(deposits.take().await.expect("asked").is_empty());
    }
}
