//! Connections that have not shown a token yet.
//!
//! Every process on the node can connect to a loopback port. So that none can
//! shut the endpoint by connecting and saying nothing, the one that has waited
//! longest makes room for a newcomer.

use std::collections::VecDeque;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering::SeqCst},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The connections under way to a tunnel.
#[derive(Debug)]
pub(crate) struct Waiting {
    room: Arc<Semaphore>,
    /// Oldest first; those that are over are dropped now and then.
    strangers: VecDeque<Weak<Place>>,
    most: usize,
}

/// A connection's place.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    evicted: CancellationToken,
    admitted: AtomicBool,
}

impl Waiting {
    /// Room for `most` connections.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(most)),
            strangers: VecDeque::new(),
            most,
        }
    }

    /// A place, if need be that of the stranger who waited longest; waits only
    /// while all places are taken by clients with a token.
    pub(crate) async fn place(&mut self) -> Arc<Place> {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
                break permit;
            }
            self.evict_oldest();
            // The semaphore is never closed.
            if let Ok(permit) = Arc::clone(&self.room).acquire_owned().await {
                break permit;
            }
        };
        let place = Arc::new(Place {
            _permit: permit,
            evicted: CancellationToken::new(),
            admitted: AtomicBool::new(false),
        });
        if self.strangers.len() >= 2 * self.most {
            self.strangers.retain(|place| place.strong_count() > 0);
        }
        self.strangers.push_back(Arc::downgrade(&place));
        place
    }

    fn evict_oldest(&mut self) {
        while let Some(oldest) = self.strangers.pop_front() {
            if let Some(place) = oldest.upgrade()
                && !place.admitted.load(SeqCst)
            {
                place.evicted.cancel();
                return;
            }
        }
    }
}

impl Place {
    /// It showed a token: nobody takes its place any more.
    pub(crate) fn admit(&self) {
        self.admitted.store(true, SeqCst);
    }

    /// Resolves when it has to go.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
        if self.admitted.load(SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn the_oldest_stranger_makes_room_and_a_client_does_not() {
        let mut waiting = Waiting::new(2);
        let (client, stranger) = (waiting.place().await, waiting.place().await);
        client.admit();
        assert!(waiting.place().now_or_never().is_none(), "none is free yet");
        assert!(stranger.evicted().now_or_never().is_some());
        assert!(client.evicted().now_or_never().is_none());
        drop(stranger);
        assert!(waiting.place().now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_is_over_is_forgotten() {
        let mut waiting = Waiting::new(2);
        for _ in 0..100 {
            drop(waiting.place().await);
        }
        assert!(waiting.strangers.len() <= 4);
    }
}
