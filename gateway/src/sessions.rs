//! How many forwards there are, and whether more are taken.

use crate::metrics::Active;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sternline_api::{Failure, Reason};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// All forwards of this gateway, under way or carried.
#[derive(Debug)]
pub struct Sessions {
    most: u32,
    most_per_user: u32,
    state: Mutex<State>,
    tunnels: TaskTracker,
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    all: u32,
    of_user: HashMap<String, u32>,
    closed: bool,
}

/// Room for one; free again when it is dropped.
#[derive(Debug)]
pub struct Slot {
    sessions: Arc<Sessions>,
    user: String,
}

impl Sessions {
    /// Room for so many, and so many of one user.
    #[must_use]
    pub fn new(most: u32, most_per_user: u32) -> Self {
        Self {
            most,
            most_per_user,
            state: Mutex::default(),
            tunnels: TaskTracker::new(),
            over: CancellationToken::new(),
        }
    }

    /// Takes one in. One that comes back may be told of before the tunnel that it is
    /// in place of is known to be lost: a user has room for each of them once more.
    ///
    /// # Errors
    /// There are too many, or this gateway goes away.
    pub fn enter(self: &Arc<Self>, user: &str, comes_back: bool) -> Result<Slot, Failure> {
        let mut state = self.state();
        if state.closed {
            return Err(Failure::new(
                Reason::Draining,
                "this gateway is shutting down: try again, another one answers",
            ));
        }
        let full = |what: String| Err(Failure::new(Reason::SessionLimit, what));
        if state.all >= self.most {
            return full(format!(
                "this gateway carries {} tunnels, as many as it may: try again later, or have its --max-sessions raised",
                self.most
            ));
        }
        let of_user = state.of_user.entry(user.to_owned()).or_default();
        let twice = u32::from(comes_back) + 1;
        if *of_user >= self.most_per_user.saturating_mul(twice) {
            return full(format!(
                "user {user:?} has {} tunnels at this gateway, as many as one may: end some, or have its --max-sessions-per-user raised",
                self.most_per_user
            ));
        }
        *of_user += 1;
        state.all += 1;
        Ok(Slot {
            sessions: Arc::clone(self),
            user: user.to_owned(),
        })
    }

    /// Takes no more in.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// Carries a tunnel in a task of its own, until it ends by itself or all have
    /// to.
    pub fn carry(&self, tunnel: impl Future<Output = ()> + Send + 'static) {
        let active = Active::tunnel();
        self.tunnels.spawn(async move {
            tunnel.await;
            drop(active);
        });
    }

    /// Cancelled when tunnels have to end.
    #[must_use]
    pub fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    /// How many are carried.
    #[must_use]
    pub fn carried(&self) -> usize {
        self.tunnels.len()
    }

    /// Resolves when none is carried any more, and none will be.
    pub async fn ended(&self) {
        self.tunnels.close();
        self.tunnels.wait().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.sessions.state();
        state.all -= 1;
        if let Some(left) = state.of_user.get_mut(&self.user) {
            *left -= 1;
            // Nobody's name is kept for ever.
            if *left == 0 {
                state.of_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_all_together_have_a_limit() {
        let sessions = Arc::new(Sessions::new(3, 2));
        let reason = |entered: Result<Slot, Failure>| entered.expect_err("full").reason;
        let (first, _second) = (sessions.enter("ada", false), sessions.enter("ada", false));
        assert_eq!(reason(sessions.enter("ada", false)), Reason::SessionLimit);
        let _third = sessions.enter("bob", false).expect("room for another");
        assert_eq!(reason(sessions.enter("eve", false)), Reason::SessionLimit);
        drop(first);
        let _again = sessions.enter("ada", false).expect("room again");
    }

    #[test]
    fn who_comes_back_finds_room_while_its_lost_tunnels_still_count() {
        let sessions = Arc::new(Sessions::new(10, 1));
        let _lost = sessions.enter("ada", false).expect("room");
        let _back = sessions.enter("ada", true).expect("room to come back");
        for comes_back in [false, true] {
            sessions.enter("ada", comes_back).expect_err("full");
        }
    }

    #[test]
    fn nobody_is_remembered() {
        let sessions = Arc::new(Sessions::new(10, 2));
        for user in 0..100 {
            drop(sessions.enter(&user.to_string(), false).expect("room"));
        }
        assert!(sessions.state().of_user.is_empty());
        assert_eq!(sessions.state().all, 0);
    }

    #[test]
    fn a_closed_gateway_sends_on() {
        let sessions = Arc::new(Sessions::new(10, 2));
        sessions.close();
        let refused = sessions.enter("ada", false).expect_err("closed");
        assert_eq!(refused.reason, Reason::Draining);
    }
}
