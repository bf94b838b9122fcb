//! A binder that goes away and comes back, or another in its place, and what is
//! deposited with it then.

mod binder_support;

use binder_support::Namespaces;
use binder_support::keeping::{SOON, bind, is_free, put, serve, start};
use std::fs;
use std::net::TcpListener;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use sternline_api::Reason;
use sternline_shim::binder::deposits::{Content, Deposit, Deposits};
use sternline_shim::binder::wire::Socket;
use sternline_shim::binder::{Binder, ProcessBinder, SandboxTarget};
use sternline_shim::takeover::{STREAMING, Takeover};
use tokio::time::sleep;

const ANY: &str = "127.0.0.1:0";

/// Deposits a socket of this serve's own.
async fn put_own(deposits: &Deposits, key: &str) -> Deposit {
    put_listener(deposits, key, TcpListener::bind(ANY).expect("a port")).await
}

async fn put_listener(deposits: &Deposits, key: &str, listener: TcpListener) -> Deposit {
    let socket = Socket {
        listener_id: 0,
        address: ANY.to_owned(),
    };
    let content = Content {
        sockets: vec![(socket, listener.into())],
        ..Content::default()
    };
    deposits.put_own(key, content).await
}

/// Waits until it is kept.
async fn is_kept(deposit: &Deposit) {
    let deadline = Instant::now() + SOON;
    while deposit.grace().is_none() {
        assert!(Instant::now() < deadline, "{} is not kept", deposit.key());
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until it is noticed that the binder is away.
async fn is_away(deposits: &Deposits) {
    let deadline = Instant::now() + SOON;
    while deposits.has_all(Duration::ZERO).await {
        assert!(Instant::now() < deadline, "it is there");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The keys of what is left, which stays.
async fn left(deposits: &Deposits) -> Vec<String> {
    let left = deposits.take().await.expect("asked");
    let keys = left.iter().map(|one| {
        one.deposit.leave();
        assert!(!one.content.sockets.is_empty(), "{:?}", one.deposit);
        one.deposit.key().to_owned()
    });
    keys.collect()
}

apart! {
    async fn an_absence_of_the_binder_takes_back_no_promise() {
        let namespaces = Namespaces::new();
        let mut process = start(&namespaces, &["--restart-grace", "60s"]);
        let (binder, deposits) = serve(&process, "one").await;
        let bound = bind(&binder, [8080]).await;
        let deposit = put(&deposits, "s1", &bound).await;
        assert!(deposits.has_all(SOON).await);
        process.kill();
        is_away(&deposits).await;
        // It is to be left when the binder is back, and not ended.
        assert_eq!(deposit.grace(), Some(Duration::from_secs(60)));
        process.again();
        assert!(deposits.has_all(SOON).await);
        deposit.leave();
        drop((binder, deposits, deposit, bound));
        let (_next, deposits) = serve(&process, "one").await;
        assert_eq!(left(&deposits).await, ["s1"]);
    }
}

apart! {
    async fn what_a_binder_did_not_keep_the_next_one_is_not_told_of() {
        let namespaces = Namespaces::new();
        let mut process = start(&namespaces, &["--restart-grace", "0s"]);
        let binder = ProcessBinder::named(&process.socket(), "one");
        let deposits = binder.deposits().expect("a name");
        assert!(deposits.has_all(SOON).await, "no binder");
        let bound = bind(&binder, [8080]).await;
        let later = bind(&binder, [8081]).await;
        let deposit = put(&deposits, "s1", &bound).await;
        let own = put_own(&deposits, "call").await;
        process.kill();
        process.again_with(&["--restart-grace", "60s"]);
        is_kept(&own).await;
        assert!(deposits.has_all(SOON).await);
        deposit.renew(b"another record".to_vec()).await;
        let copies = sternline_shim::binder::deposits::copies(&later.sockets);
        deposit.add(copies.expect("copied")).await;
        assert_eq!(deposit.grace(), None, "its first listener is kept nowhere");
        for one in [&deposit, &own] {
            one.leave();
        }
        drop((binder, deposits, deposit, own, bound, later));
        let (_next, deposits) = serve(&process, "one").await;
        assert_eq!(left(&deposits).await, ["call"]);
        let deadline = Instant::now() + SOON;
        while !is_free(&namespaces, 8081) {
            assert!(Instant::now() < deadline, "somebody has its other listener");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

apart! {
    async fn sockets_of_serves_own_go_first_and_are_tried_again() {
        let namespaces = Namespaces::new();
        let mut process = start(&namespaces, &["--restart-grace", "60s", "--max-kept", "4"]);
        let (binder, deposits) = serve(&process, "one").await;
        let bound = bind(&binder, [8080]).await;
        let mut sessions = Vec::new();
        for n in 0..4 {
            sessions.push(put(&deposits, &format!("s{n}"), &bound).await);
        }
        let own = put_own(&deposits, "streaming").await;
        let deadline = Instant::now() + SOON;
        while own.grace().is_some() {
            assert!(Instant::now() < deadline, "there is no room");
            sleep(Duration::from_millis(5)).await;
        }
        sessions.remove(0).close().await;
        is_kept(&own).await;

        // Of two, one is its own.
        process.kill();
        is_away(&deposits).await;
        process.again_with(&["--restart-grace", "60s", "--max-kept", "2"]);
        assert!(deposits.has_all(SOON).await);
        let deadline = Instant::now() + SOON;
        while sessions.iter().filter(|one| one.grace().is_some()).count() > 1 {
            assert!(Instant::now() < deadline, "more is kept than may be");
            sleep(Duration::from_millis(5)).await;
        }
        assert!(own.grace().is_some());
        for deposit in sessions.iter().chain([&own]) {
            deposit.leave();
        }
        drop((binder, deposits, sessions, own));
        let (_next, deposits) = serve(&process, "one").await;
        assert_eq!(left(&deposits).await, ["s1", "streaming"]);
    }
}

apart! {
    async fn a_deposit_that_is_given_up_leaves_no_trace() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--max-kept", "1"]);
        let (binder, deposits) = serve(&process, "one").await;
        let bound = bind(&binder, [8080]).await;
        let first = put(&deposits, "s1", &bound).await;
        // Asked, and given up before the answer, which is that there is no room. It
        // may come at once: then once more.
        loop {
            let content = Content::of(&bound, b"a record".to_vec()).expect("copied");
            let mut given_up = Box::pin(deposits.put("s2", content));
            let asked = given_up.as_mut();
            if asked.poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                break;
            }
        }
        first.close().await;
        let deposit = put(&deposits, "s2", &bound).await;
        assert!(deposit.grace().is_some(), "there is room");
    }
}

apart! {
    async fn a_binder_that_starts_at_the_same_time_is_waited_for() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "60s"]);
        let (binder, deposits) = serve(&process, "one").await;
        let listener = TcpListener::bind(ANY).expect("a port");
        let addr = listener.local_addr().expect("bound");
        let own = put_listener(&deposits, STREAMING, listener).await;
        own.leave();
        drop((binder, deposits, own));
        let (socket, away) = (process.socket(), process.socket().with_extension("away"));
        fs::rename(&socket, &away).expect("moved");
        let binder = ProcessBinder::named(&socket, "one");
        let nobody = SandboxTarget::Id("web".to_owned());
        let refused = binder.find(&nobody).await.expect_err("it is away");
        assert_eq!(refused.reason, Reason::RuntimeUnavailable);
        let back = async {
            // It has been asked once by now.
            sleep(Duration::from_millis(20)).await;
            fs::rename(&away, &socket).expect("moved");
        };
        let (takeover, ()) = tokio::join!(Takeover::begin(&binder), back);
        let mut takeover = takeover.expect("asked");
        let socket = takeover.tcp(STREAMING, ANY);
        let (socket, deposit) = socket.expect("it was left");
        assert_eq!(socket.local_addr().expect("bound"), addr);
        deposit.leave();
    }
}
