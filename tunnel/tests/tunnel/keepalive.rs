//! A peer that vanished is noticed, and one that is only busy is left alone.

use crate::support::{Raw, Tunnel, ended, link, request, settings, tunnel_over};
use std::time::Duration;
use sternline_tunnel::{Acceptor, Dialer, End, Settings, TunnelError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

fn bound(settings: &Settings) -> Duration {
    settings.ping_interval * 3 + Duration::from_millis(10)
}

#[tokio::test(start_paused = true)]
async fn a_node_notices_a_workstation_that_never_spoke() {
    let (near, _far) = tokio::io::duplex(1 << 20);
    let (dialer, driver) = Dialer::handshake(near, &settings()).await.unwrap();
    let begun = Instant::now();
    let error = driver.await.expect_err("silent");
    assert!(matches!(error, TunnelError::PeerSilent(_)), "{error}");
    assert!(begun.elapsed() <= bound(&settings()));
    assert!(dialer.connect(request(7)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_workstation_notices_a_node_that_fell_silent() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let _raw = Raw::client(far).await;
    let mut acceptor = Acceptor::handshake(near, &settings()).await.unwrap();
    let begun = Instant::now();
    let error = acceptor.next().await.expect_err("silent");
    assert!(matches!(error, TunnelError::PeerSilent(_)), "{error}");
    assert!(begun.elapsed() <= bound(&settings()));
}

#[tokio::test(start_paused = true)]
async fn a_cut_without_a_word_is_noticed_on_both_sides_and_never_before() {
    let (node, client, link) = link(64 * 1024, None);
    let mut tunnel = tunnel_over(node, client, &settings()).await;
    let forward = tunnel.unix().await;
    // Long silence, answered PINGs.
    for _ in 0..7 {
        sleep(Duration::from_secs(601)).await;
        assert!(!tunnel.driver.is_finished() && !tunnel.acceptor.is_finished());
    }
    tunnel.assert_alive().await;
    link.cut();
    let cut = Instant::now();
    let Tunnel {
        driver, acceptor, ..
    } = tunnel;
    let (driver, acceptor) = tokio::join!(driver, acceptor);
    let noticed = cut.elapsed();
    assert!(noticed <= bound(&settings()), "{noticed:?}");
    for error in [driver.unwrap().unwrap_err(), acceptor.unwrap().unwrap_err()] {
        assert!(matches!(error, TunnelError::PeerSilent(_)), "{error}");
    }
    let (node, client) = forward.ends().await;
    assert_eq!((node.end, client.end), (End::TunnelLost, End::TunnelLost));
}

#[tokio::test(start_paused = true)]
async fn a_cut_in_the_middle_of_a_transfer_is_noticed() {
    let (node, client, link) = link(4 * 1024, Some(8 * 1024));
    let mut tunnel = tunnel_over(node, client, &settings()).await;
    let mut forward = tunnel.unix().await;
    let pod = tokio::spawn(async move { forward.pod.write_all(&vec![0; 1_000_000]).await });
    let target = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = forward.target.read_to_end(&mut all).await;
        all.len()
    });
    sleep(Duration::from_secs(20)).await;
    link.cut();
    let cut = Instant::now();
    assert!((&mut tunnel.driver).await.unwrap().is_err());
    assert!((&mut tunnel.acceptor).await.unwrap().is_err());
    assert!(cut.elapsed() <= bound(&settings()), "{:?}", cut.elapsed());
    assert!(pod.await.unwrap().is_err());
    assert!(target.await.unwrap() < 1_000_000);
}

/// A slow link with a deep queue: a PING waits behind minutes of data, and yet
/// bytes keep coming.
#[tokio::test(start_paused = true)]
async fn a_busy_link_is_not_a_dead_one() {
    // Half a minute of it may be on its way, more than any kernel or router keeps.
    let (node, client, _link) = link(512 * 1024, Some(16 * 1024));
    let mut tunnel = tunnel_over(node, client, &settings()).await;
    let mut forwards = Vec::new();
    for _ in 0..64 {
        forwards.push(tunnel.unix().await);
    }
    let begun = Instant::now();
    let mut running = Vec::new();
    for mut forward in forwards {
        running.push(tokio::spawn(async move {
            let block = vec![0; 100_000];
            let mut got = vec![0; block.len()];
            let (wrote, read) = tokio::join!(
                forward.pod.write_all(&block),
                forward.target.read_exact(&mut got)
            );
            wrote.expect("alive");
            read.expect("alive");
        }));
    }
    for each in running {
        each.await.unwrap();
    }
    assert!(begun.elapsed() > Duration::from_secs(300), "a slow link");
    assert!(!tunnel.driver.is_finished() && !tunnel.acceptor.is_finished());
}

/// Both directions are full whenever a PING is due, for both ends at once.
#[tokio::test(start_paused = true)]
async fn a_link_that_is_full_both_ways_stays_alive() {
    let (node, client, _link) = link(500, Some(8 * 1024));
    let mut tunnel = tunnel_over(node, client, &settings()).await;
    let mut running = Vec::new();
    for _ in 0..4 {
        let forward = tunnel.unix().await;
        for end in [forward.pod, forward.target] {
            running.push(tokio::spawn(async move {
                let (mut read, mut write) = end.into_split();
                let block = vec![0; 200_000];
                let mut got = vec![0; block.len()];
                let (wrote, read) =
                    tokio::join!(write.write_all(&block), read.read_exact(&mut got));
                wrote.expect("alive");
                read.expect("alive");
            }));
        }
    }
    for each in running {
        each.await.unwrap();
    }
    assert!(!tunnel.driver.is_finished() && !tunnel.acceptor.is_finished());
}

/// Everything was read from the pod long before the link takes it.
#[tokio::test(start_paused = true)]
async fn a_stream_that_crawls_is_not_silent() {
    let (node, client, _link) = link(500, Some(1024));
    let mut tunnel = tunnel_over(node, client, &settings()).await;
    tunnel.node.options.idle_timeout = Some(Duration::from_secs(10));
    let mut forward = tunnel.unix().await;
    let target = async {
        let mut all = Vec::new();
        forward.target.read_to_end(&mut all).await.expect("an end");
        forward.target.shutdown().await.expect("open");
        all.len()
    };
    let pod = async {
        forward.pod.write_all(&[0; 30_000]).await.expect("room");
        forward.pod.shutdown().await.expect("open");
        let rest = &mut Vec::new();
        forward.pod.read_to_end(rest).await.expect("an end");
    };
    let (read, ()) = tokio::join!(target, pod);
    assert_eq!(read, 30_000);
    assert_eq!(ended(forward.node).await.end, End::Clean);
}
