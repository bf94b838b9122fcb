//! Whether a connection was silent when it ended.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Waits for `work`, and says whether the count that `moved` reads had then
/// stood still for about `limit`; never, without a limit.
///
/// The node's clock for silence is another than ours, each looks four times in
/// `limit`, and between them lies a link: silence of half a `limit` that we saw
/// is one that the node may have ended.
pub(super) async fn watch<T>(
    work: impl Future<Output = T>,
    moved: impl Fn() -> u64,
    limit: Option<Duration>,
) -> (T, bool) {
    let Some(limit) = limit else {
        return (work.await, false);
    };
    let mut work = pin!(work);
    let (mut seen, mut since) = (moved(), Instant::now());
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                let silent = moved() == seen && since.elapsed() >= limit / 2;
                return (done, silent);
            }
            () = sleep(limit / 4) => {
                let now = moved();
                if now != seen {
                    (seen, since) = (now, Instant::now());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Whether work counts as silent that moves once after `busy` and ends
    /// after another `quiet`.
    async fn silent(busy: u64, quiet: u64, limit: Option<Duration>) -> bool {
        let moved = Cell::new(0);
        let work = async {
            sleep(Duration::from_secs(busy)).await;
            moved.set(1);
            sleep(Duration::from_secs(quiet)).await;
        };
        watch(work, || moved.get(), limit).await.1
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_stood_still_is_silent() {
        assert!(silent(0, 60, Some(LIMIT)).await);
        assert!(silent(3_601, 60, Some(LIMIT)).await);
        assert!(!silent(0, 20, Some(LIMIT)).await, "young");
        assert!(!silent(3_601, 20, Some(LIMIT)).await, "old and busy");
        assert!(!silent(3_601, 0, Some(LIMIT)).await, "busy to the last");
        assert!(!silent(0, 3_600, None).await, "without a limit");
    }
}
