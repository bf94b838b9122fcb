//! HTTP/2 of a hostile peer, against both ends of a tunnel.

mod frames;

use crate::input::Input;
use crate::io::{Peer, Sponge};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::Reason;
use sternline_tunnel::budget::{ProcessBudget, Traffic};
use sternline_tunnel::{
    Acceptor, ConnectRequest, ControlReceiver, Dialer, Incoming, IncomingStream, RelayOptions,
    Settings, relay,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Longer than any wait of a tunnel: PINGs are missed, targets answer, silent
/// streams end long before.
const BOUND: Duration = Duration::from_secs(600);

/// Bytes that a session may hold in buffers here.
const BUFFERS: u64 = 1 << 20;

fn settings() -> Settings {
    Settings {
        max_streams: 16,
        buffer_bytes: BUFFERS,
        idle_timeout: Some(Duration::from_secs(120)),
        ..Settings::default()
    }
}

/// What the streams of one side share, and what pays for their bytes.
fn options() -> (RelayOptions, Arc<ProcessBudget>) {
    let process = ProcessBudget::new(BUFFERS * 2);
    let options = RelayOptions {
        budget: process.session(),
        traffic: Arc::new(Traffic::default()),
        idle_timeout: settings().idle_timeout,
    };
    (options, process)
}

/// The tunnel ends within its bounds, whatever its node sends; no buffer exceeds
/// the budget, and all of it is given back.
pub(crate) fn acceptor(data: &[u8]) {
    let mut input = Input::new(data);
    let style = [input.byte(), input.byte(), input.byte()];
    let wire = frames::of_a_node(&mut input);
    crate::run(async {
        let (peer, heard) = Peer::new(&mut Input::new(&style), &wire);
        let (options, process) = options();
        timeout(BOUND, serve(peer, &options))
            .await
            .expect("the tunnel ends");
        drop(options);
        assert_eq!(process.used(), 0, "bytes are still charged");
        let heard = heard.lock().expect("nobody panics with it").len();
        assert!(
            heard <= MOST_ANSWERED,
            "{heard} bytes were answered to {}",
            wire.len()
        );
    });
}

/// Streams times what each may have in its window, and answers to what an input
/// of the fuzzer's length can ask.
const MOST_ANSWERED: usize = 8 << 20;

async fn serve(peer: Peer, options: &RelayOptions) {
    let Ok(mut acceptor) = Acceptor::handshake(peer, &settings()).await else {
        return;
    };
    let mut tasks = JoinSet::new();
    while let Ok(Some(incoming)) = acceptor.next().await {
        match incoming {
            Incoming::Stream(stream) => drop(tasks.spawn(lead(*stream, options.clone()))),
            Incoming::Control(control) => drop(tasks.spawn(hear(control.split().1))),
        }
    }
    drop(acceptor);
    while tasks.join_next().await.is_some() {}
}

async fn lead(mut stream: IncomingStream, options: RelayOptions) {
    let (_, _) = (stream.peer(), stream.authority());
    let id = stream.listener_id().unwrap_or(0);
    if id.is_multiple_of(5) {
        return stream.reject(Reason::TargetRefused, "nobody listens");
    }
    let dial = Duration::from_millis(u64::from(id % 3) * 1000);
    if stream.buffer_while(sleep(dial)).await.is_none() {
        return;
    }
    let socket = Sponge::new(
        id as usize % 100_000,
        if id.is_multiple_of(2) { 1 << 20 } else { 100 },
    );
    if let Ok(stream) = stream.accept() {
        relay(socket, stream, &options).await;
    }
}

async fn hear(mut control: ControlReceiver) {
    while let Ok(Some(_)) = control.recv().await {}
}

/// The same of the other end, which opens streams to a hostile workstation.
pub(crate) fn dialer(data: &[u8]) {
    let mut input = Input::new(data);
    let style = [input.byte(), input.byte(), input.byte()];
    let wire = frames::of_a_workstation(&mut input);
    crate::run(async {
        let (peer, heard) = Peer::new(&mut Input::new(&style), &wire);
        let (options, process) = options();
        let dialled = dial(peer, &options);
        timeout(BOUND, dialled).await.expect("the tunnel ends");
        drop(options);
        assert_eq!(process.used(), 0, "bytes are still charged");
        let heard = heard.lock().expect("nobody panics with it").len();
        assert!(
            heard <= MOST_ANSWERED,
            "{heard} bytes were sent to {}",
            wire.len()
        );
    });
}

async fn dial(peer: Peer, options: &RelayOptions) {
    let Ok((dialer, driver)) = Dialer::handshake(peer, &settings()).await else {
        return;
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(driver.await) });
    for id in 0..6 {
        let (dialer, options) = (dialer.clone(), options.clone());
        tasks.spawn(async move {
            let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
            let connect = ConnectRequest {
                listener_id: id,
                bound: loopback,
                peer: loopback,
            };
            if let Ok(stream) = dialer.connect(connect).await {
                let takes = if id.is_multiple_of(2) { 1 << 20 } else { 100 };
                relay(Sponge::new(id as usize * 10_000, takes), stream, &options).await;
            }
        });
    }
    if let Ok(control) = dialer.control().await {
        tasks.spawn(hear(control.split().1));
    }
    drop(dialer);
    while tasks.join_next().await.is_some() {}
}
