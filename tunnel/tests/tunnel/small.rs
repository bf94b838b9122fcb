//! Single bytes: the cheapest way to make a tunnel dear.

use crate::support::{
    PLENTY, Raw, Side, acceptor, ended, incoming, kind, request, settings, settle, soon, unix_pair,
};
use sternline_tunnel::{Dialer, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// More than HTTP/2 bears to hold, if nobody took any.
const MANY: usize = 300_000;

/// As many as may wait in the kernel and come at once.
const BURST: usize = 50_000;

/// Few streams with a wide window each, that takes [`MANY`] bytes.
fn wide() -> Settings {
    Settings {
        max_streams: 8,
        first_window: 1 << 20,
        ..Settings::default()
    }
}

/// Sends `count` frames of one byte, `at_once` before anyone else runs.
async fn flood(raw: &mut Raw, count: usize, at_once: usize) {
    for at in 0..count {
        raw.data(1, &[byte(at)]);
        if at % at_once == at_once - 1 {
            raw.flush().await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }
    raw.flush().await;
}

fn expected(count: usize) -> Vec<u8> {
    (0..count).map(byte).collect()
}

/// Repeats after no round number, so that blocks out of order show.
fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

/// Fails unless another stream of the same tunnel is answered.
async fn assert_another_works(
    raw: &mut Raw,
    streams: &mut tokio::sync::mpsc::UnboundedReceiver<sternline_tunnel::IncomingStream>,
) {
    raw.connect(3);
    raw.flush().await;
    let _open = incoming(streams).await.accept().expect("open");
    let answer = raw.find(|frame| frame.kind == kind::HEADERS && frame.stream == 3);
    assert_eq!(answer.await.payload[0], 0x88);
}

#[tokio::test]
async fn single_bytes_to_a_stalled_stream_leave_the_tunnel_alone() {
    to_a_stalled_stream(MANY, 5_000).await;
}

#[tokio::test]
async fn a_burst_of_single_bytes_leaves_the_tunnel_alone() {
    to_a_stalled_stream(BURST, BURST).await;
}

async fn to_a_stalled_stream(count: usize, at_once: usize) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut raw = Raw::client(far).await;
    let (_acceptor, mut streams) = acceptor(near, &wide()).await;
    // The wide window holds once its SETTINGS were acknowledged.
    raw.gather().await;
    raw.connect(1);
    raw.flush().await;
    let side = Side::new(PLENTY);
    let (socket, mut target) = unix_pair();
    let small = socket2::SockRef::from(&socket).set_send_buffer_size(1);
    small.expect("the kernel's least");
    let stream = incoming(&mut streams).await.accept().expect("open");
    let _relay = side.relay(socket, stream);
    flood(&mut raw, count, at_once).await;
    assert_another_works(&mut raw, &mut streams).await;
    let held = side.process.used();
    assert!(held > count as u64 - 10_000, "{held} bytes wait");
    let mut got = vec![0; count];
    soon(target.read_exact(&mut got)).await.expect("open");
    assert!(got == expected(count));
    crate::support::until(|| side.process.used() == 0).await;
}

#[tokio::test]
async fn single_bytes_while_the_target_is_dialled_leave_the_tunnel_alone() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut raw = Raw::client(far).await;
    let (_acceptor, mut streams) = acceptor(near, &wide()).await;
    // The wide window holds once its SETTINGS were acknowledged.
    raw.gather().await;
    raw.connect(1);
    raw.flush().await;
    let mut waiting = incoming(&mut streams).await;
    let (reached, dial) = tokio::sync::oneshot::channel::<()>();
    let waiting = tokio::spawn(async move {
        let dialled = waiting.buffer_while(dial).await;
        dialled.expect("not reset").expect("dialled");
        waiting.accept().expect("open")
    });
    flood(&mut raw, MANY, 5_000).await;
    assert_another_works(&mut raw, &mut streams).await;
    assert!(!waiting.is_finished());
    reached.send(()).unwrap();
    let side = Side::new(PLENTY);
    let (socket, mut target) = unix_pair();
    let _relay = side.relay(socket, ended(waiting).await);
    let mut got = vec![0; MANY];
    soon(target.read_exact(&mut got)).await.unwrap();
    assert!(got == expected(MANY));
}

#[tokio::test]
async fn single_bytes_into_a_blocked_tunnel_stay_few() {
    let (io, far) = tokio::io::duplex(1024);
    let (dialer, driver) = Dialer::handshake(io, &wide()).await.expect("handshake");
    tokio::spawn(driver);
    let mut raw = Raw::server(far, 1 << 20).await;
    raw.gather().await;
    let side = Side::new(PLENTY);
    let (near, mut pod) = unix_pair();
    let _relay = side.relay(near, dialer.connect(request(7)).await.expect("open"));
    raw.find(|frame| frame.kind == kind::HEADERS).await;
    // From here on nobody reads the tunnel. Each byte is a read of its own.
    let mut stuck_for = 0;
    for sent in 1.. {
        pod.write_all(b"x").await.unwrap();
        for _ in 0..50 {
            if side.options.traffic.from_socket() == sent {
                break;
            }
            tokio::task::yield_now().await;
        }
        stuck_for = match side.options.traffic.from_socket() == sent {
            true => 0,
            false => stuck_for + 1,
        };
        if stuck_for > 3 {
            break;
        }
        // The pipe holds 100 frames and HTTP/2's own buffer some 1,600.
        assert!(sent < 3_000, "{sent} frames wait");
    }
    let held = side.process.used();
    assert!(held <= 16, "{held} frames beyond HTTP/2's buffer");
    // And the last of them is not lost.
    let taken = side.options.traffic.from_socket();
    let mut got = 0;
    while got < taken {
        let frame = raw.find(|frame| frame.kind == kind::DATA).await;
        got += frame.payload.len() as u64;
    }
    settle().await;
    assert_eq!(side.process.used(), 0);
}

#[tokio::test]
async fn single_bytes_of_a_pod_arrive_in_order() {
    let mut tunnel = crate::support::tunnel(&settings()).await;
    let mut forward = tunnel.unix().await;
    let writer = tokio::spawn(async move {
        for at in 0..5_000_u32 {
            forward.pod.write_all(&[at as u8]).await.expect("open");
            if at % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
        forward.pod
    });
    let mut got = vec![0; 5_000];
    soon(forward.target.read_exact(&mut got)).await.unwrap();
    assert!(got.iter().enumerate().all(|(at, byte)| at as u8 == *byte));
    soon(writer).await.unwrap();
}
