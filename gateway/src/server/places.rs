//! Room for connections that carry no tunnel.
//!
//! Everybody in the cluster can connect. So that nobody can shut the API server out
//! by connecting and saying nothing, the stranger that has waited longest makes room
//! for a newcomer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    room: Arc<Semaphore>,
    /// Oldest first; those that are over are dropped now and then.
    strangers: VecDeque<Weak<Place>>,
    most: usize,
}

/// One connection's place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    evicted: CancellationToken,
    known: AtomicBool,
}

impl Places {
    /// Room for `most` connections.
    pub(super) fn new(most: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(most)),
            strangers: VecDeque::new(),
            most,
        }
    }

    /// A place, if need be that of the stranger who waited longest; waits only
    /// while all are taken by who is known.
    pub(super) async fn place(&mut self) -> Arc<Place> {
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
            known: AtomicBool::new(false),
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
                && !place.known.load(SeqCst)
            {
                place.evicted.cancel();
                return;
            }
        }
    }
}

impl Place {
    /// Whoever has it is known: nobody takes it any more.
    pub(super) fn know(&self) {
        self.known.store(true, SeqCst);
    }

    /// Resolves when it has to go.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
        if self.known.load(SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    async fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        timeout(Duration::ZERO, future).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_stranger_makes_room_and_who_is_known_does_not() {
        let mut places = Places::new(2);
        let (proxy, stranger) = (places.place().await, places.place().await);
        proxy.know();
        assert!(at_once(places.place()).await.is_none(), "none is free yet");
        assert!(at_once(stranger.evicted()).await.is_some());
        assert!(at_once(proxy.evicted()).await.is_none());
        drop(stranger);
        assert!(at_once(places.place()).await.is_some());
    }

    #[tokio::test]
    async fn what_is_over_is_forgotten() {
        let mut places = Places::new(2);
        for _ in 0..100 {
            drop(places.place().await);
        }
        assert!(places.strangers.len() <= 4);
    }
}
