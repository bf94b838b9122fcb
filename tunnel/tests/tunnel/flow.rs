//! Windows: what may be sent, what is given back, and who waits for whom.

use crate::support::{
    PLENTY, Raw, Side, WINDOW, incoming, kind, long_link, pattern, request, settings, settle, soon,
    tunnel, tunnel_over, unix_pair, until,
};
use std::time::Duration;
use sternline_tunnel::{Dialer, End, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

#[tokio::test]
async fn data_comes_before_the_answer_and_keeps_to_the_window() {
    let (io, far) = tokio::io::duplex(64 * 1024);
    let (dialer, driver) = Dialer::handshake(io, &settings()).await.expect("handshake");
    tokio::spawn(driver);
    let mut raw = Raw::server(far, 1_000).await;
    raw.gather().await;
    let (near, mut pod) = unix_pair();
    let side = Side::new(PLENTY);
    let sent = pattern(1, 5_000);
    pod.write_all(&sent).await.unwrap();
    pod.shutdown().await.unwrap();
    let stream = dialer.connect(request(7)).await.expect("open");
    let node = side.relay(near, stream);

    let before = raw.gather().await;
    assert_eq!(before[0].kind, kind::HEADERS);
    let mut got: Vec<u8> = before[1..].iter().flat_map(|f| f.payload.clone()).collect();
    assert_eq!(got, sent[..1_000], "nobody answered yet");

    raw.window_update(1, 500);
    raw.flush().await;
    got.extend(raw.gather().await.into_iter().flat_map(|f| f.payload));
    assert_eq!(got, sent[..1_500]);

    raw.answer(1);
    raw.window_update(1, 10_000);
    raw.flush().await;
    let rest = raw.gather().await;
    assert!(
        rest.iter()
            .all(|f| f.is_end_stream() || !f.payload.is_empty())
    );
    assert!(rest.last().is_some_and(|f| f.is_end_stream()));
    got.extend(rest.into_iter().flat_map(|f| f.payload));
    assert_eq!(got, sent);

    raw.frame(kind::DATA, 1, 1, b"done");
    raw.flush().await;
    let mut answer = Vec::new();
    soon(pod.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"done");
    assert_eq!(soon(node).await.unwrap().end, End::Clean);
}

#[tokio::test]
async fn a_stream_with_nothing_to_send_holds_no_window() {
    let (io, far) = tokio::io::duplex(256 * 1024);
    let (dialer, driver) = Dialer::handshake(io, &settings()).await.expect("handshake");
    tokio::spawn(driver);
    // Each stream may send far more than the connection, which has 65,535.
    let mut raw = Raw::server(far, 1 << 20).await;
    raw.gather().await;
    let side = Side::new(PLENTY);
    let (near, mut first) = unix_pair();
    let _first = side.relay(near, dialer.connect(request(7)).await.expect("open"));
    // To the last byte of the window, and then silent.
    first.write_all(&pattern(1, 65_535)).await.unwrap();
    let mut sent = 0;
    while sent < 65_535 {
        let frame = raw.find(|frame| frame.kind == kind::DATA).await;
        sent += frame.payload.len();
    }
    settle().await;
    let (near, mut second) = unix_pair();
    let _second = side.relay(near, dialer.connect(request(7)).await.expect("open"));
    second.write_all(&pattern(2, 1_000)).await.unwrap();
    raw.gather().await;
    raw.window_update(0, 1_000);
    raw.flush().await;
    let got: usize = raw
        .gather()
        .await
        .iter()
        .filter(|frame| frame.kind == kind::DATA && frame.stream == 3)
        .map(|frame| frame.payload.len())
        .sum();
    assert_eq!(got, 1_000, "the first stream keeps what it cannot use");
}

/// In time that stands still, so that the link is short and its window small.
#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_stalls_itself_alone() {
    let mut tunnel = tunnel(&settings()).await;
    let mut stalled = tunnel.unix().await;
    let sent = pattern(1, 2_000_000);
    let writer = tokio::spawn({
        let sent = sent.clone();
        async move {
            stalled.pod.write_all(&sent).await.expect("open");
            stalled.pod
        }
    });
    until(|| tunnel.client.process.used() > 0).await;
    settle().await;

    let mut neighbours = Vec::new();
    for seed in 2..102 {
        let mut forward = tunnel.unix().await;
        neighbours.push(tokio::spawn(async move {
            let block = pattern(seed, 20_000);
            for _ in 0..10 {
                let mut got = vec![0; block.len()];
                let (wrote, read) = tokio::join!(
                    forward.pod.write_all(&block),
                    forward.target.read_exact(&mut got)
                );
                wrote.expect("open");
                read.expect("open");
                assert!(got == block);
                forward.target.write_all(b"ok").await.expect("open");
                forward.pod.read_exact(&mut [0; 2]).await.expect("open");
            }
            forward
        }));
    }
    for neighbour in neighbours {
        soon(neighbour).await.unwrap();
    }
    assert!(!writer.is_finished(), "nobody read 2 MB");
    let held = tunnel.client.process.used();
    assert!((1..=WINDOW).contains(&held), "{held} bytes held");
    let on_the_way = tunnel.node.options.traffic.from_socket();
    assert!(on_the_way > WINDOW, "window is used: {on_the_way}");

    let mut got = vec![0; sent.len()];
    soon(stalled.target.read_exact(&mut got)).await.unwrap();
    assert!(got == sent);
    soon(writer).await.unwrap();
    tunnel.assert_nothing_held().await;
}

/// All streams but one stalled: their windows must leave the last one its own.
#[tokio::test]
async fn however_many_stall_the_last_one_goes_on() {
    let settings = Settings {
        max_streams: 21,
        ..settings()
    };
    let mut tunnel = tunnel(&settings).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut forward = tunnel.unix().await;
        let mut pod = forward.pod;
        let writer = tokio::spawn(async move { pod.write_all(&vec![0; 2_000_000]).await });
        let mut target = forward.target;
        // Both directions.
        let back = tokio::spawn(async move { target.write_all(&vec![0; 2_000_000]).await });
        forward.pod = unix_pair().0;
        stalled.push((writer, back, forward.node, forward.client));
    }
    settle().await;
    settle().await;
    tunnel.assert_alive().await;
    for (writer, back, node, client) in stalled {
        for task in [writer, back] {
            task.abort();
        }
        node.abort();
        client.abort();
    }
    tunnel.assert_nothing_held().await;
}

/// In time that stands still, for the same reason.
#[tokio::test(start_paused = true)]
async fn window_comes_back_only_for_what_the_socket_took() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut raw = Raw::client(far).await;
    let (_acceptor, mut streams) = crate::support::acceptor(near, &settings()).await;
    raw.connect(1);
    raw.flush().await;
    let side = Side::new(PLENTY);
    let (socket, mut target) = unix_pair();
    let stream = incoming(&mut streams).await.accept().expect("open");
    let _relay = side.relay(socket, stream);

    // As a peer should: never beyond the window that was given.
    let (mut window, mut sent) = (WINDOW, 0);
    loop {
        while window > 0 {
            let piece = window.min(10_000) as usize;
            raw.data(1, &vec![0x55; piece]);
            window -= piece as u64;
            sent += piece as u64;
        }
        raw.flush().await;
        let given: u64 = raw
            .gather()
            .await
            .iter()
            .filter(|frame| frame.kind == kind::WINDOW_UPDATE && frame.stream == 1)
            .map(|frame| u64::from(frame.number()))
            .sum();
        let taken = side.options.traffic.to_socket();
        assert!(sent + given <= taken + WINDOW, "given before it was taken");
        window += given;
        if given == 0 {
            break;
        }
    }
    let stuck = sent - side.options.traffic.to_socket();
    assert_eq!(side.process.used(), stuck, "all that is stuck is paid for");
    assert!(stuck > WINDOW / 2, "{stuck} bytes wait");

    // The target reads, and the window comes back.
    let mut all = vec![0; sent as usize];
    soon(target.read_exact(&mut all)).await.unwrap();
    let update = raw
        .find(|frame| frame.kind == kind::WINDOW_UPDATE && frame.stream == 1)
        .await;
    assert!(update.number() > 0);
    assert_eq!(side.process.used(), 0);
}

/// 20 ms there and 20 back, as fast as it likes: what is on its way in 40 ms is
/// what a window must hold.
#[tokio::test(start_paused = true)]
async fn one_stream_fills_a_long_link_and_a_stalled_one_gives_it_back() {
    let defaults = Settings::default();
    let first = u64::from(defaults.first_window);
    let (node, client, link) = long_link(Duration::from_millis(20));
    let mut tunnel = tunnel_over(node, client, &defaults).await;
    let mut bulk = tunnel.unix().await;
    let pod = tokio::spawn(async move {
        let block = vec![0; 64 * 1024];
        while bulk.pod.write_all(&block).await.is_ok() {}
    });
    let mut got = vec![0; 1 << 20];
    let begun = Instant::now();
    let mut after = Vec::new();
    for _ in 0..64 {
        bulk.target.read_exact(&mut got).await.unwrap();
        after.push(begun.elapsed());
    }
    // With the first window each 64 KiB would take a round trip.
    let rate = |from: usize| {
        let took = after[63] - after[from];
        ((63 - from) << 20) as f64 / took.as_secs_f64()
    };
    let first_rate = first as f64 / 0.040;
    assert!(rate(32) > first_rate * 32.0, "{} B/s", rate(32));

    // Nobody reads any more: it stalls, within the budget.
    settle().await;
    sleep(Duration::from_secs(2)).await;
    let held = tunnel.client.process.used();
    assert!(held > first * 16, "the window was used: {held}");
    assert!(held < defaults.buffer_bytes / 2, "{held}");
    let on_the_way = link.bytes();
    tunnel.assert_alive().await;
    assert!(
        link.bytes() - on_the_way < first,
        "the stalled one stays so"
    );
    pod.abort();
}
