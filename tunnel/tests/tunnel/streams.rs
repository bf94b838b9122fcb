//! Bytes arrive whole, in order and in both directions at once.

use crate::support::{Forward, Tunnel, pattern, settings, soon, tunnel};
use proptest::prelude::*;
use sternline_tunnel::End;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Sends `bytes` in pieces of odd sizes and ends the direction.
async fn send(mut to: impl tokio::io::AsyncWrite + Unpin, bytes: &[u8], piece: usize) {
    for (at, piece) in bytes.chunks(piece).enumerate() {
        to.write_all(piece).await.expect("open");
        if at % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    to.shutdown().await.expect("open");
}

async fn receive(mut from: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).await.expect("a clean end");
    bytes
}

/// Both processes send at once and read to the end.
async fn exchange(mut forward: Forward<UnixStream>, up: Vec<u8>, down: Vec<u8>, piece: usize) {
    let (pod_read, pod_write) = forward.pod.split();
    let (target_read, target_write) = forward.target.split();
    let (_, _, at_target, at_pod) = tokio::join!(
        send(pod_write, &up, piece),
        send(target_write, &down, piece / 2 + 1),
        receive(target_read),
        receive(pod_read),
    );
    assert!(at_target == up, "{} bytes up", up.len());
    assert!(at_pod == down, "{} bytes down", down.len());
    let (node, client) = forward.ends().await;
    let (up, down) = (up.len() as u64, down.len() as u64);
    assert_eq!((node.from_socket, node.to_socket), (up, down));
    assert_eq!((client.from_socket, client.to_socket), (down, up));
    assert_eq!((node.end, client.end), (End::Clean, End::Clean));
}

async fn many(sizes: Vec<(usize, usize, usize)>) {
    let mut tunnel = tunnel(&settings()).await;
    let mut running = Vec::new();
    for (seed, (up, down, piece)) in sizes.into_iter().enumerate() {
        let seed = seed as u64 * 2;
        let (up, down) = (pattern(seed, up), pattern(seed + 1, down));
        let forward = tunnel.unix().await;
        running.push(tokio::spawn(exchange(forward, up, down, piece)));
    }
    for each in running {
        soon(each).await.expect("no failure");
    }
    tunnel.assert_nothing_held().await;
    let Tunnel { node, client, .. } = &tunnel;
    let (node, client) = (&node.options.traffic, &client.options.traffic);
    assert_eq!(node.from_socket(), client.to_socket());
    assert_eq!(node.to_socket(), client.from_socket());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        // A failure takes as long as the wait that it ends.
        max_shrink_iters: 4,
        ..ProptestConfig::default()
    })]

    #[test]
    fn many_streams_of_any_size_arrive_whole(
        sizes in prop::collection::vec(
            (0_usize..200_000, 0_usize..200_000, 1_usize..40_000)
                // Not so many pieces that the story takes long.
                .prop_map(|(up, down, piece)| (up, down, piece.max(up.max(down) / 500 + 1))),
            1..30,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(many(sizes));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_streams_arrive_whole_on_several_threads() {
    let sizes = (0..60).map(|i| (i * 7_919 % 300_000, i * 104_729 % 300_000, 5_000 + i * 31));
    many(sizes.collect()).await;
}

#[tokio::test]
async fn after_its_end_the_pod_still_receives_everything() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    forward.pod.write_all(b"request").await.unwrap();
    forward.pod.shutdown().await.unwrap();
    let mut asked = Vec::new();
    soon(forward.target.read_to_end(&mut asked)).await.unwrap();
    assert_eq!(asked, b"request");
    // Only now, with one direction over, the other begins.
    let answer = pattern(1, 700_000);
    let ((), got) = soon(async {
        tokio::join!(
            send(&mut forward.target, &answer, 9_000),
            receive(&mut forward.pod)
        )
    })
    .await;
    assert!(got == answer);
    let (node, client) = forward.ends().await;
    assert_eq!((node.end, client.end), (End::Clean, End::Clean));
}

#[tokio::test]
async fn after_its_end_the_target_still_receives_everything() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    forward.target.write_all(b"banner").await.unwrap();
    forward.target.shutdown().await.unwrap();
    let mut banner = Vec::new();
    soon(forward.pod.read_to_end(&mut banner)).await.unwrap();
    assert_eq!(banner, b"banner");
    let upload = pattern(2, 700_000);
    let ((), got) = soon(async {
        tokio::join!(
            send(&mut forward.pod, &upload, 9_000),
            receive(&mut forward.target)
        )
    })
    .await;
    assert!(got == upload);
    let (node, client) = forward.ends().await;
    assert_eq!((node.end, client.end), (End::Clean, End::Clean));
}

#[tokio::test]
async fn an_end_without_a_byte_arrives() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    forward.pod.shutdown().await.unwrap();
    let mut nothing = Vec::new();
    soon(forward.target.read_to_end(&mut nothing))
        .await
        .unwrap();
    assert!(nothing.is_empty());
    drop(forward.target);
    let node = soon(forward.node).await.unwrap();
    assert_eq!(
        (node.end, node.from_socket, node.to_socket),
        (End::Clean, 0, 0)
    );
}
