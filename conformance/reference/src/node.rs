//! What a node keeps: sessions, tokens, limits.

use crate::{faults::Faults, runtime::Runtime, session::Session};
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    fs::File,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32},
    },
    time::{Duration, Instant, SystemTime},
};
use sternline_api::{Failure, Reason, v1alpha1 as pb};

/// Small, so that every one of them can be reached in a moment.
pub(crate) const LIMITS: pb::Limits = pb::Limits {
    connections_per_session: 32,
    connections_per_node: 400,
    sessions_per_sandbox: 4,
    sessions_per_node: 1000,
    listeners_per_session: 8,
    buffer_bytes_per_session: 4 << 20,
    buffer_bytes_per_node: 64 << 20,
    dial_timeout_ms: 1600,
    token_ttl_ms: 3500,
    tokens_in_flight: 40,
    idle_timeout_ms: 0,
    max_hold_ms: 60_000,
    ping_interval_ms: 1000,
    tunnels_per_session: 4,
};

/// The idle time-out, where there is one: longer than any stream of a spec about
/// something else is silent.
const IDLE_MS: u64 = 8000;

/// How often the sandboxes are looked at.
const POLL: Duration = Duration::from_millis(200);

/// One listener of a request, checked. No address: loopback.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) id: u32,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) port: u16,
}

/// What a token or ticket opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    First,
    Join,
    Resume,
}

/// A token or ticket that was consumed.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub(crate) session: Arc<Session>,
    pub(crate) kind: Kind,
    pub(crate) expires: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) faults: Arc<Faults>,
    pub(crate) dir: PathBuf,
    /// What a node need not allow: wide addresses, an idle time-out.
    pub(crate) extras: bool,
    /// The container runtime of the sandboxes, if they are pods.
    pub(crate) runtime: Option<Arc<Runtime>>,
    /// Whether the feature is switched off.
    pub(crate) off: AtomicBool,
    /// Connections of all sessions.
    pub(crate) open: AtomicU32,
    /// Sandboxes that were named, for the faults that remember them.
    pub(crate) known: Mutex<HashSet<String>>,
    /// Namespaces that are held, for the fault that holds them.
    pub(crate) pins: Mutex<Vec<(String, File)>>,
    /// What the URLs begin with: scheme, address, port.
    pub(crate) streaming: String,
    pub(crate) sessions: Mutex<Vec<Arc<Session>>>,
    passes: Mutex<HashMap<String, Pass>>,
    issued: Mutex<HashSet<String>>,
    /// Ports of sessions that were stopped, for the fault that does not give them out again.
    pub(crate) rests: Mutex<Vec<(String, u16)>>,
    /// A sandbox for each session that it may not have any more, for the fault that
    /// does not take slots back.
    pub(crate) lost_slots: Mutex<Vec<String>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0))
}

/// Hexadecimal digits from the operating system's generator.
pub(crate) fn random(bytes: usize) -> String {
    let mut raw = vec![0; bytes];
    getrandom::fill(&mut raw).expect("the operating system has random bytes");
    raw.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Node {
    pub(crate) fn new(
        faults: Faults,
        dir: PathBuf,
        extras: bool,
        runtime: Option<Arc<Runtime>>,
        streaming: String,
    ) -> Self {
        Self {
            faults: Arc::new(faults),
            dir,
            extras,
            runtime,
            off: AtomicBool::default(),
            open: AtomicU32::default(),
            known: Mutex::default(),
            pins: Mutex::default(),
            streaming,
            sessions: Mutex::default(),
            passes: Mutex::default(),
            issued: Mutex::default(),
            rests: Mutex::default(),
            lost_slots: Mutex::default(),
        }
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> pb::Limits {
        let mut limits = LIMITS;
        if self.extras {
            limits.idle_timeout_ms = IDLE_MS;
        }
        if self.faults.has("limits-zero") {
            limits.buffer_bytes_per_node = 0;
        }
        limits
    }

    /// A fresh token or ticket.
    pub(crate) fn issue(&self, session: &Arc<Session>, kind: Kind) -> Result<String, Failure> {
        let mut passes = lock(&self.passes);
        let ttl = Duration::from_millis(LIMITS.token_ttl_ms);
        if kind == Kind::First {
            let waiting: Vec<_> = passes
                .iter()
                .filter(|(_, pass)| pass.kind == Kind::First)
                .map(|(token, pass)| (pass.expires, token.clone()))
                .collect();
            if waiting.len() >= LIMITS.tokens_in_flight as usize {
                let oldest = waiting.into_iter().min();
                match oldest {
                    Some((_, token)) if self.faults.has("token-evicts") => {
                        drop(passes.remove(&token));
                    }
                    _ => return Err(Failure::new(Reason::TokenLimit, "too many tokens wait")),
                }
            }
        }
        let token = match kind {
            Kind::First if self.faults.has("short-token") => random(4),
            Kind::First if self.faults.has("id-in-url") => format!("{}{}", session.id, random(16)),
            _ => random(16),
        };
        let expires = (kind == Kind::First).then(|| Instant::now() + ttl);
        let pass = Pass {
            session: Arc::clone(session),
            kind,
            expires,
        };
        passes.insert(token.clone(), pass);
        lock(&self.issued).insert(token.clone());
        Ok(token)
    }

    /// Takes a token: it works once.
    pub(crate) fn consume(&self, token: &str) -> Option<Pass> {
        let mut passes = lock(&self.passes);
        let pass = passes.get(token)?.clone();
        let again = match pass.kind {
            Kind::First => self.faults.has("token-reusable"),
            _ => self.faults.has("ticket-reusable"),
        };
        if !again {
            passes.remove(token);
        }
        let late = pass.expires.is_some_and(|at| at < Instant::now());
        (!late || self.faults.has("token-outlives")).then_some(pass)
    }

    pub(crate) fn was_issued(&self, token: &str) -> bool {
        lock(&self.issued).contains(token)
    }

    /// Forgets what opens this session, all of it or its tickets of one kind.
    pub(crate) fn forget(&self, session: &str, kind: Option<Kind>) {
        lock(&self.passes).retain(|_, pass| {
            pass.session.id != session || kind.is_some_and(|kind| pass.kind != kind)
        });
    }

    pub(crate) fn live(&self) -> Vec<Arc<Session>> {
        lock(&self.sessions).clone()
    }
}

/// Looks after sandboxes that went away and tokens that nobody redeemed.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut missed = HashMap::new();
    loop {
        tokio::time::sleep(POLL).await;
        if let Some(runtime) = &node.runtime {
            lock(&node.pins).retain(|(sandbox, _)| runtime.knows(sandbox));
        }
        for session in node.live() {
            let waiting = !session.was_redeemed();
            let gone = !node.dir.join(&session.sandbox).exists();
            if gone && node.faults.has("stop-is-stopped") {
                // Removed right after it was stopped, it is as gone as any.
                let since = *missed
                    .entry(session.id.clone())
                    .or_insert_with(Instant::now);
                if since.elapsed() < POLL * 8 {
                    continue;
                }
            }
            let known = node
                .runtime
                .as_ref()
                .is_some_and(|runtime| runtime.knows(&session.sandbox));
            if gone && waiting && node.faults.has("waiting-pins") {
                continue;
            }
            if gone {
                let reason = match node.faults.has("gone-is-stopped")
                    || known && node.faults.has("stop-is-stopped")
                {
                    true => Reason::Stopped,
                    false => Reason::SandboxGone,
                };
                session
                    .end_as(reason, node.faults.has("gone-still-listed"))
                    .await;
            } else if waiting
                && session.created.elapsed() > Duration::from_millis(LIMITS.token_ttl_ms)
            {
                if !node.faults.has("token-outlives") {
                    node.forget(&session.id, None);
                }
                if !node.faults.has("expiry-leaks") && !node.faults.has("token-outlives") {
                    session.end(Reason::TokenExpired).await;
                } else if node.faults.has("token-outlives") {
                    session.free().await;
                }
            }
        }
    }
}
