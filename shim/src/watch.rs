//! Watching sandboxes that have listeners, to tell when one is gone.
//!
//! A listening socket gets no error when its sandbox stops; it only keeps the
//! namespace from going away. So the source of sandboxes is polled, by one task
//! for all of them, which ends when nobody waits for news any more.

use crate::{
    binder::Gone,
    sandbox::{Liveness, SandboxSource, Watched},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

/// How often sandboxes are looked after, unless a flag says otherwise. Sessions
/// of a stopped sandbox end within 1 s, which leaves as much for the answer.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Shortest interval; a shorter one is raised to it.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Watches the sandboxes of one source. Cheap to clone.
#[derive(Debug)]
pub struct Watcher<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Watcher<S> {
    fn clone(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { shared }
    }
}

#[derive(Debug)]
struct Shared<S> {
    source: Arc<S>,
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<Watched, watch::Sender<Option<String>>>,
    /// Present while the task may look at `watched` again.
    task: Option<JoinHandle<()>>,
    /// Why the last look told nothing about some sandbox.
    trouble: Option<String>,
}

impl<S: SandboxSource> Watcher<S> {
    /// Polls `source` every `interval`, at least every 10 ms, while someone waits.
    #[must_use]
    pub fn new(source: Arc<S>, interval: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                source,
                interval: interval.max(MIN_INTERVAL),
                state: Mutex::default(),
            }),
        }
    }

    /// Watches a sandbox as long as the result, or a clone of it, lives. It is
    /// looked after within an interval, and again every interval.
    pub fn watch(&self, sandbox: Watched) -> Gone {
        let mut state = self.shared.state();
        let gone = match state.watched.get(&sandbox) {
            Some(news) => Gone::subscribe(news),
            None => {
                let (news, gone) = Gone::channel();
                state.watched.insert(sandbox, news);
                gone
            }
        };
        // A task that panicked is finished and still present.
        if state.task.as_ref().is_none_or(JoinHandle::is_finished) {
            let shared = Arc::clone(&self.shared);
            state.task = Some(tokio::spawn(async move { shared.poll().await }));
        }
        gone
    }

    /// Why some sandbox could not be looked after last time, if so.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.state().trouble.clone()
    }

    /// How many sandboxes are watched.
    #[must_use]
    pub fn watched(&self) -> usize {
        let mut state = self.shared.state();
        state.forget_unwanted();
        state.watched.len()
    }
}

impl State {
    fn forget_unwanted(&mut self) {
        self.watched.retain(|_, news| !news.is_closed());
    }
}

impl<S: SandboxSource> Shared<S> {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn poll(&self) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(watched) = self.wanted() else { return };
            let found = self.source.check(&watched).await;
            self.tell(watched, found);
        }
    }

    /// What is still watched; ends the task if nothing is.
    fn wanted(&self) -> Option<Vec<Watched>> {
        let mut state = self.state();
        state.forget_unwanted();
        if state.watched.is_empty() {
            state.task = None;
            state.trouble = None;
            return None;
        }
        Some(state.watched.keys().cloned().collect())
    }

    fn tell(&self, watched: Vec<Watched>, found: Vec<Liveness>) {
        let mut trouble = None;
        let mut state = self.state();
        for (sandbox, found) in watched.into_iter().zip(found) {
            match found {
                Liveness::Alive => {}
                Liveness::Unknown(why) => trouble = Some(why),
                Liveness::Gone(sentence) => {
                    tracing::info!(sandbox = sandbox.id, "{sentence}");
                    if let Some(news) = state.watched.remove(&sandbox) {
                        news.send_replace(Some(sentence));
                    }
                }
            }
        }
        if let (None, Some(why)) = (&state.trouble, &trouble) {
            tracing::warn!("sandboxes cannot be looked after, sessions are kept: {why}");
        }
        if let (Some(_), None) = (&state.trouble, &trouble) {
            tracing::info!("sandboxes are looked after again");
        }
        state.trouble = trouble;
    }
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
