//! The request cache, as in CRI streaming: what a secret in a URL stands for.
//!
//! A *pass* is a token (the URL that the call answered) or a ticket (for a
//! further tunnel of a session that is up). A token is spent by whoever brings
//! it, expires, and is bounded in number: a full cache refuses and never evicts.
//! A ticket stays until its session takes it back, which it does once a tunnel
//! came of it: a client whose link broke on the way may try again.

use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// 128 bits from the operating system, as hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pass(String);

impl Pass {
    /// A new one.
    ///
    /// # Errors
    /// The operating system's generator failed.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// As it stands in a URL. Keep it out of logs.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pass(..)")
    }
}

/// What a pass is known by: its SHA-256, which opens nothing. It alone is kept, here
/// and across a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Verifier([u8; 32]);

impl Verifier {
    fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// From what [`Verifier::as_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// To be kept.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&Pass> for Verifier {
    fn from(pass: &Pass) -> Self {
        Self::of(&pass.0)
    }
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    /// Set for tokens.
    expires: Option<Instant>,
}

/// Passes and what they stand for.
#[derive(Debug)]
pub struct RequestCache<T> {
    entries: Mutex<HashMap<Verifier, Entry<T>>>,
    max_tokens: usize,
}

/// No room for another token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} tokens wait to be redeemed, which is the limit")]
pub struct Full(usize);

impl<T> RequestCache<T> {
    /// An empty cache for at most `max_tokens` tokens.
    #[must_use]
    pub fn new(max_tokens: u32) -> Self {
        Self {
            entries: Mutex::default(),
            max_tokens: max_tokens as usize,
        }
    }

    /// Keeps `value` for whoever brings `token` within `ttl`.
    ///
    /// # Errors
    /// The cache is full even without those that expired.
    pub fn insert_token(
        &self,
        token: impl Into<Verifier>,
        ttl: Duration,
        value: T,
    ) -> Result<(), Full> {
        let now = Instant::now();
        let mut entries = self.lock();
        if waiting(&entries) >= self.max_tokens {
            entries.retain(|_, e| e.expires.is_none_or(|expires| expires > now));
            if waiting(&entries) >= self.max_tokens {
                return Err(Full(self.max_tokens));
            }
        }
        let expires = Some(now + ttl);
        entries.insert(token.into(), Entry { value, expires });
        Ok(())
    }

    /// Keeps `value` for whoever brings `ticket`, until it is removed.
    pub fn insert_ticket(&self, ticket: impl Into<Verifier>, value: T) {
        let expires = None;
        self.lock().insert(ticket.into(), Entry { value, expires });
    }

    /// Hands what `secret` stands for to `take`, if it is known and did not
    /// expire. A token is spent by this, even if it expired. `take` is done before
    /// anyone else can look for the pass; it must not use this cache.
    pub fn redeem<R>(&self, secret: &str, take: impl FnOnce(&T) -> R) -> Option<R> {
        let known = Verifier::of(secret);
        let mut entries = self.lock();
        match entries.get(&known)?.expires {
            None => entries.get(&known).map(|entry| take(&entry.value)),
            Some(expires) => {
                let entry = entries.remove(&known)?;
                (expires > Instant::now()).then(|| take(&entry.value))
            }
        }
    }

    /// Takes a pass back.
    pub fn remove(&self, pass: impl Into<Verifier>) {
        self.lock().remove(&pass.into());
    }

    /// Tokens known now, expired ones included.
    #[must_use]
    pub fn tokens(&self) -> usize {
        waiting(&self.lock())
    }

    /// Passes known now, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no pass is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Verifier, Entry<T>>> {
        // Every step under the lock leaves the map whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waiting<T>(entries: &HashMap<Verifier, Entry<T>>) -> usize {
    entries.values().filter(|e| e.expires.is_some()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const TTL: Duration = Duration::from_secs(60);

    fn pass() -> Pass {
        Pass::generate().expect("the system gives random bytes")
    }

    #[test]
    fn passes_are_long_and_not_printed() {
        let (a, b) = (pass(), pass());
        assert_eq!(a.secret().len(), 32);
        assert_ne!(a, b);
        assert!(!format!("{a:?}").contains(a.secret()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_works_once_and_in_time() {
        let cache = RequestCache::new(10);
        let (used, late) = (pass(), pass());
        cache.insert_token(&used, TTL, 1).expect("room");
        cache.insert_token(&late, TTL, 2).expect("room");
        assert_eq!(cache.redeem(used.secret(), |v| *v), Some(1));
        assert_eq!(cache.redeem(used.secret(), |v| *v), None);
        advance(TTL).await;
        assert_eq!(cache.redeem(late.secret(), |v| *v), None);
        assert!(
            cache.is_empty(),
            "an expired token is consumed all the same"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_refuses_and_keeps_what_it_has() {
        let cache = RequestCache::new(2);
        let first = pass();
        cache.insert_token(&first, TTL, 1).expect("room");
        cache.insert_token(&pass(), TTL, 2).expect("room");
        assert_eq!(cache.insert_token(&pass(), TTL, 3), Err(Full(2)));
        assert_eq!(cache.redeem(first.secret(), |v| *v), Some(1));
        cache.insert_token(&pass(), TTL, 4).expect("room again");
        advance(TTL).await;
        cache
            .insert_token(&pass(), TTL, 5)
            .expect("expired ones make room");
        assert_eq!(cache.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_last_and_take_no_tokens_place() {
        let cache = RequestCache::new(1);
        let (ticket, gone) = (pass(), pass());
        cache.insert_ticket(&ticket, 1);
        cache.insert_ticket(&gone, 2);
        cache.insert_token(&pass(), TTL, 3).expect("room");
        cache.remove(&gone);
        advance(TTL * 100).await;
        assert_eq!(cache.redeem(ticket.secret(), |v| *v), Some(1));
        assert_eq!(
            cache.redeem(ticket.secret(), |v| *v),
            Some(1),
            "its session decides when it is used up"
        );
        assert_eq!(cache.redeem(gone.secret(), |v| *v), None);
    }
}
