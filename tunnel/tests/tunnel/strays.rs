//! What a peer sent before it learnt of a reset: it comes late, for streams that
//! are gone, and must not count against the tunnel. HTTP/2 libraries remember a
//! few such streams for a moment and end the connection over the rest.

use crate::support::{
    PLENTY, Raw, Side, acceptor, ended, incoming, kind, pattern, request, reset, settings, soon,
    tcp_pair, tunnel_over,
};
use sternline_tunnel::{Dialer, End};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// As much as the window of each stream holds, coming in by and by.
async fn stray(raw: &mut Raw, streams: &[u32]) {
    for _ in 0..12 {
        for stream in streams {
            raw.data(*stream, &[0; 4_000]);
        }
        raw.flush().await;
        raw.gather().await;
    }
}

#[tokio::test]
async fn a_node_passes_over_what_comes_after_its_resets() {
    let (io, far) = tokio::io::duplex(1 << 22);
    let (dialer, driver) = Dialer::handshake(io, &settings()).await.expect("handshake");
    let driver = tokio::spawn(driver);
    let mut raw = Raw::server(far, 65_535).await;
    let side = Side::new(PLENTY);
    let mut next = 1;
    for _ in 0..5 {
        let streams: Vec<u32> = (0..100).map(|at| next + at * 2).collect();
        next += 200;
        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        for stream in &streams {
            let (near, pod) = tcp_pair().await;
            let opened = dialer.connect(request(7)).await.expect("open");
            nodes.push(side.relay(near, opened));
            pods.push(pod);
            raw.find(|f| f.kind == kind::HEADERS && f.stream == *stream)
                .await;
            raw.answer(*stream);
        }
        raw.flush().await;
        raw.gather().await;
        for pod in pods {
            reset(pod);
        }
        for node in nodes {
            assert_eq!(ended(node).await.end, End::SocketReset);
        }
        stray(&mut raw, &streams).await;
        assert!(!driver.is_finished());
    }
}

#[tokio::test]
async fn resets_in_the_middle_of_many_transfers_leave_the_tunnel_alone() {
    let (node, client) = tokio::io::duplex(4 << 20);
    let mut tunnel = tunnel_over(node, client, &settings()).await;
    let block = pattern(3, 64 * 1024);
    for _ in 0..5 {
        let mut running = Vec::new();
        for at in 0..100 {
            let mut forward = tunnel.tcp().await;
            let block = block.clone();
            running.push(tokio::spawn(async move {
                while forward.target.write_all(&block).await.is_ok() {}
            }));
            running.push(tokio::spawn(async move {
                let mut got = vec![0; 50_000 + at * 1_000];
                forward.pod.read_exact(&mut got).await.expect("open");
                reset(forward.pod);
            }));
        }
        for each in running {
            soon(each).await.unwrap();
        }
    }
    tunnel.assert_alive().await;
    tunnel.assert_nothing_held().await;
}

#[tokio::test]
async fn a_workstation_passes_over_what_comes_after_its_resets() {
    let (near, far) = tokio::io::duplex(1 << 22);
    let mut raw = Raw::client(far).await;
    let (acceptor, mut incoming_streams) = acceptor(near, &settings()).await;
    let side = Side::new(PLENTY);
    let mut next = 1;
    for _ in 0..5 {
        let streams: Vec<u32> = (0..100).map(|at| next + at * 2).collect();
        next += 200;
        let mut clients = Vec::new();
        for stream in &streams {
            raw.connect(*stream);
            raw.flush().await;
            let (near, target) = tcp_pair().await;
            let open = incoming(&mut incoming_streams).await.accept();
            clients.push(side.relay(near, open.expect("open")));
            reset(target);
        }
        for client in clients {
            assert_eq!(ended(client).await.end, End::SocketReset);
        }
        raw.gather().await;
        stray(&mut raw, &streams).await;
        assert!(!acceptor.is_finished());
    }
}
