//! Buffers have a bound, and what was held is given back.

use crate::support::{Side, ended, pattern, settings, settle, soon, tunnel, until};
use std::time::Duration;
use sternline_tunnel::{End, RelayOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const REFUSED_STREAM: u32 = 7;

#[tokio::test]
async fn a_slow_reader_that_no_buffer_is_left_for_is_reset_and_gives_all_back() {
    let mut tunnel = tunnel(&settings()).await;
    // Half of it is for whoever comes first: less than one window.
    tunnel.client = Side::new(32 * 1024);
    let mut forward = tunnel.tcp().await;
    let pump = tokio::spawn(async move {
        let block = pattern(1, 64 * 1024);
        while forward.pod.write_all(&block).await.is_ok() {}
    });
    let client = ended(forward.client).await;
    assert_eq!(client.end, End::BufferLimit);
    let node = ended(forward.node).await;
    assert_eq!(node.end, End::PeerReset(REFUSED_STREAM));
    soon(pump).await.unwrap();
    tunnel.assert_nothing_held().await;
    tunnel.client = Side::new(32 * 1024);
    tunnel.assert_alive().await;
}

#[tokio::test]
async fn a_writer_waits_for_room_and_goes_on() {
    let mut tunnel = tunnel(&settings()).await;
    tunnel.node = Side::new(64 * 1024);
    // Another session takes what goes to whoever comes first, and this one's
    // share with it.
    let other = tunnel.node.process.session();
    let held = other.try_charge(32 * 1024).expect("room");
    let more = tunnel
        .node
        .options
        .budget
        .try_charge(16 * 1024)
        .expect("room");
    let mut forward = tunnel.unix().await;
    forward.pod.write_all(b"wait").await.unwrap();
    settle().await;
    assert_eq!(tunnel.node.options.traffic.from_socket(), 0);
    drop((held, more));
    let mut got = [0; 4];
    soon(forward.target.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"wait");
}

#[tokio::test]
async fn idle_streams_hold_nothing() {
    let mut tunnel = tunnel(&settings()).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        let mut forward = tunnel.unix().await;
        let block = pattern(1, 30_000);
        let mut got = vec![0; block.len()];
        let (wrote, read) = soon(async {
            tokio::join!(
                forward.pod.write_all(&block),
                forward.target.read_exact(&mut got)
            )
        })
        .await;
        wrote.unwrap();
        read.unwrap();
        idle.push(forward);
    }
    tunnel.assert_nothing_held().await;
    assert_eq!(tunnel.node.options.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_ends_after_its_time_and_a_talking_one_does_not() {
    let mut tunnel = tunnel(&settings()).await;
    tunnel.node.options = RelayOptions {
        idle_timeout: Some(Duration::from_secs(60)),
        ..tunnel.node.options.clone()
    };
    let mut silent = tunnel.tcp().await;
    let mut talking = tunnel.unix().await;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        talking.target.write_all(b"x").await.unwrap();
        talking.pod.read_exact(&mut [0]).await.unwrap();
    }
    until(|| silent.node.is_finished()).await;
    assert!(!talking.node.is_finished());
    assert_eq!(silent.node.await.unwrap().end, End::IdleTimeout);
    crate::support::assert_reset(&mut silent.pod).await;
    crate::support::assert_reset(&mut silent.target).await;
}
