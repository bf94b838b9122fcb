//! Which sessions there are, and the slots that they take.

use crate::binder::Sandbox;
use crate::limits::Limits;
use crate::session::Session;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sternline_api::{Failure, Reason};
use tokio::sync::Semaphore;

/// Shortest prefix of a session id that may stand for it.
const MIN_PREFIX: usize = 4;

/// The sessions of this node.
#[derive(Debug)]
pub struct Registry {
    sessions_per_node: u32,
    sessions_per_sandbox: u32,
    state: Mutex<State>,
    /// One permit for each stream that the node may have open.
    connections: Arc<Semaphore>,
    connections_per_node: u32,
}

#[derive(Debug, Default)]
struct State {
    /// Slots taken: sessions, and those that are being set up.
    slots: u32,
    per_sandbox: HashMap<String, u32>,
    sessions: HashMap<String, Arc<Session>>,
    /// The node goes away.
    closed: bool,
    /// Why the feature is switched off, if it is.
    off: Option<String>,
}

impl State {
    /// Why no session may be made, if so.
    fn refusal(&self) -> Option<Failure> {
        if self.closed {
            return Some(Failure::new(
                Reason::Draining,
                "this node is shutting down and takes no new sessions: try again in a moment",
            ));
        }
        self.off.as_ref().map(|why| {
            Failure::new(
                Reason::FeatureOff,
                format!(
                    "reverse port-forwarding is switched off on this node ({why}): try again once it is on"
                ),
            )
        })
    }
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            sessions_per_node: limits.sessions_per_node,
            sessions_per_sandbox: limits.sessions_per_sandbox,
            state: Mutex::default(),
            connections: Arc::new(Semaphore::new(limits.connections_per_node as usize)),
            connections_per_node: limits.connections_per_node,
        })
    }

    /// Takes a place on the node, before anything else is done for a request.
    ///
    /// # Errors
    /// The node has its sessions, or takes no more.
    pub fn slot(self: &Arc<Self>) -> Result<Slot, Failure> {
        let mut state = self.lock();
        state.refusal().map_or(Ok(()), Err)?;
        if state.slots >= self.sessions_per_node {
            return Err(Failure::new(
                Reason::SessionLimit,
                format!(
                    "this node has {} sessions, which is its limit (--max-sessions-per-node): end one first",
                    state.slots
                ),
            ));
        }
        state.slots += 1;
        Ok(Slot {
            registry: Arc::clone(self),
            sandbox: None,
            session: None,
        })
    }

    /// Permits for streams on this node.
    #[must_use]
    pub fn connections(&self) -> &Arc<Semaphore> {
        &self.connections
    }

    /// Streams open now.
    #[must_use]
    pub fn connections_open(&self) -> u32 {
        let free = u32::try_from(self.connections.available_permits()).unwrap_or(u32::MAX);
        self.connections_per_node.saturating_sub(free)
    }

    /// The sessions, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = self.lock().sessions.values().cloned().collect();
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// The session with this id, or the only one whose id starts so.
    ///
    /// # Errors
    /// None has it, or several have.
    pub fn find(&self, id: &str) -> Result<Arc<Session>, Failure> {
        let state = self.lock();
        if let Some(session) = state.sessions.get(id) {
            return Ok(Arc::clone(session));
        }
        let mut fitting = state
            .sessions
            .iter()
            .filter(|(full, _)| id.len() >= MIN_PREFIX && full.starts_with(id))
            .map(|(_, session)| session);
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            (Some(_), Some(_)) => Err(Failure::new(
                Reason::InvalidRequest,
                format!("session {id:?} fits several sessions: give more of the id"),
            )),
            (None, _) => Err(Failure::new(
                Reason::SessionNotFound,
                format!(
                    "session {id:?} is not known here: `sternline sessions` lists those that are; the first {MIN_PREFIX} characters of an id are enough if they fit one alone"
                ),
            )),
        }
    }

    /// Takes no new sessions from now on.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Takes no new sessions while the feature is switched off, for the reason
    /// given.
    pub fn switch(&self, off: Option<String>) {
        self.lock().off = off;
    }

    /// Why the feature is switched off, if it is.
    #[must_use]
    pub fn switched_off(&self) -> Option<String> {
        self.lock().off.clone()
    }

    /// Why no session may be made, if so.
    #[must_use]
    pub fn refusal(&self) -> Option<Failure> {
        self.lock().refusal()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every step under the lock leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place on the node and in its sandbox, given back on drop.
#[derive(Debug)]
pub struct Slot {
    registry: Arc<Registry>,
    sandbox: Option<String>,
    session: Option<String>,
}

impl Slot {
    /// Takes a place in the sandbox as well.
    ///
    /// # Errors
    /// The sandbox has its sessions.
    pub fn enter(&mut self, sandbox: &Sandbox) -> Result<(), Failure> {
        let mut state = self.registry.lock();
        let taken = state.per_sandbox.entry(sandbox.id.clone()).or_default();
        if *taken >= self.registry.sessions_per_sandbox {
            return Err(Failure::new(
                Reason::SessionLimit,
                format!(
                    "sandbox {} has {taken} sessions, which is the limit (--max-sessions-per-sandbox): end one first",
                    sandbox.id
                ),
            ));
        }
        *taken += 1;
        drop(state);
        self.sandbox = Some(sandbox.id.clone());
        Ok(())
    }

    /// Makes the session known.
    ///
    /// # Errors
    /// The node began to shut down, or was switched off, meanwhile: nobody would
    /// end the session.
    pub fn publish(&mut self, session: &Arc<Session>) -> Result<(), Failure> {
        let mut state = self.registry.lock();
        state.refusal().map_or(Ok(()), Err)?;
        state
            .sessions
            .insert(session.id.clone(), Arc::clone(session));
        drop(state);
        self.session = Some(session.id.clone());
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        state.slots -= 1;
        if let Some(id) = &self.session {
            state.sessions.remove(id);
        }
        if let Some(sandbox) = &self.sandbox
            && let Some(taken) = state.per_sandbox.get_mut(sandbox)
        {
            *taken -= 1;
            if *taken == 0 {
                state.per_sandbox.remove(sandbox);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(per_node: u32, per_sandbox: u32) -> Arc<Registry> {
        Registry::new(&Limits {
            sessions_per_node: per_node,
            sessions_per_sandbox: per_sandbox,
            ..Limits::default()
        })
    }

    fn sandbox(id: &str) -> Sandbox {
        Sandbox {
            id: id.into(),
            pod: None,
        }
    }

    #[test]
    fn a_node_has_only_so_many_slots() {
        let registry = registry(2, 9);
        let (first, _second) = (
            registry.slot().expect("free"),
            registry.slot().expect("free"),
        );
        let refused = registry.slot().expect_err("full");
        assert_eq!(refused.reason, Reason::SessionLimit);
        drop(first);
        registry.slot().expect("given back");
    }

    #[test]
    fn a_sandbox_has_only_so_many_sessions() {
        let registry = registry(9, 1);
        let (mut a, mut b) = (
            registry.slot().expect("free"),
            registry.slot().expect("free"),
        );
        a.enter(&sandbox("x")).expect("free");
        let refused = b.enter(&sandbox("x")).expect_err("full");
        assert!(refused.message.contains("sandbox x"), "{refused}");
        b.enter(&sandbox("y")).expect("another sandbox");
        drop(a);
        registry
            .slot()
            .expect("free")
            .enter(&sandbox("x"))
            .expect("given back");
        drop(b);
        assert!(registry.lock().per_sandbox.is_empty());
    }

    #[test]
    fn a_closed_registry_takes_nobody() {
        let registry = registry(2, 2);
        registry.close();
        assert_eq!(
            registry.slot().expect_err("closed").reason,
            Reason::Draining
        );
    }

    #[test]
    fn a_switch_refuses_until_it_is_on_again_and_a_shutdown_goes_before_it() {
        let registry = registry(2, 2);
        registry.switch(Some("/etc/switch says off".into()));
        let refused = registry.slot().expect_err("off");
        assert_eq!(refused.reason, Reason::FeatureOff);
        assert!(
            refused.message.contains("/etc/switch says off"),
            "{refused}"
        );
        registry.switch(None);
        registry.slot().expect("on");
        registry.switch(Some("again".into()));
        registry.close();
        let refused = registry.slot().expect_err("closed");
        assert_eq!(refused.reason, Reason::Draining);
    }
}
