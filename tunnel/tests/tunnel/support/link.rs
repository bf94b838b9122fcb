//! A link between two pipes that can be slow, or cut without a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// A link that carries bytes until it is cut. Neither end sees the cut.
pub(crate) struct Link {
    cut: watch::Sender<bool>,
}

impl Link {
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }
}

/// Two ends with room for `queue` bytes in each direction, between which `rate`
/// bytes a second move; `None` is without limit.
pub(crate) fn link(queue: usize, rate: Option<usize>) -> (DuplexStream, DuplexStream, Link) {
    let (a, a_far) = tokio::io::duplex(queue);
    let (b, b_far) = tokio::io::duplex(queue);
    let (cut, is_cut) = watch::channel(false);
    let (a_read, a_write) = tokio::io::split(a_far);
    let (b_read, b_write) = tokio::io::split(b_far);
    tokio::spawn(carry(a_read, b_write, rate, is_cut.clone()));
    tokio::spawn(carry(b_read, a_write, rate, is_cut));
    (a, b, Link { cut })
}

async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    rate: Option<usize>,
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; rate.unwrap_or(64 * 1024)];
    let copy = async {
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
            if let Some(rate) = rate {
                sleep(Duration::from_secs(1) * read as u32 / rate as u32).await;
            }
        }
        let _ = to.shutdown().await;
    };
    let stopped = async { cut.wait_for(|cut| *cut).await.is_ok() };
    tokio::select! {
        () = copy => {}
        true = stopped => {
            // Both ends stay open and silent.
            std::future::pending::<()>().await;
        }
    }
}

/// Bytes that a [`long_link`] took from both ends.
pub(crate) struct Taken(Arc<AtomicU64>);

impl Taken {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Two ends between which bytes take `delay` each way, however many there are.
pub(crate) fn long_link(delay: Duration) -> (DuplexStream, DuplexStream, Taken) {
    let (a, a_far) = tokio::io::duplex(64 * 1024);
    let (b, b_far) = tokio::io::duplex(64 * 1024);
    let taken = Arc::new(AtomicU64::new(0));
    let (a_read, a_write) = tokio::io::split(a_far);
    let (b_read, b_write) = tokio::io::split(b_far);
    delayed(a_read, b_write, delay, &taken);
    delayed(b_read, a_write, delay, &taken);
    (a, b, Taken(taken))
}

fn delayed(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    delay: Duration,
    taken: &Arc<AtomicU64>,
) {
    let (tx, mut rx) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let taken = Arc::clone(taken);
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            taken.fetch_add(read as u64, Relaxed);
            let due = Instant::now() + delay;
            if tx.send((due, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((due, bytes)) = rx.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
}
