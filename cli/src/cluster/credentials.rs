//! Who we are to an API server: what a kubeconfig says, or what a program
//! answers, which runs once as long as its answer is valid.

mod exec;

use super::kubeconfig::{Access, Auth, ClusterInfo, Identity};
use crate::fault::Fault;
use crate::signals::Held;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exec::Answer;
use http::HeaderValue;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;

/// An answer that ends so soon is asked for anew: a request takes a moment, and
/// clocks differ.
const MARGIN: Duration = Duration::from_secs(10);

/// Longest token that is read from a file, in bytes.
const LONGEST_TOKEN: u64 = 64 * 1024;

/// Where the time of day comes from.
pub(super) type Clock = fn() -> SystemTime;

/// What one request says of us.
#[derive(Clone)]
pub(super) struct Pass {
    /// The `Authorization` field, marked as secret.
    pub(super) authorization: Option<HeaderValue>,
    /// The certificate to show.
    pub(super) identity: Option<Arc<Identity>>,
    /// Which answer of the program it is from, counted; 0 for none.
    pub(super) answer: u64,
    /// Whether the program was run for this very request.
    pub(super) is_fresh: bool,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pass(answer {})", self.answer)
    }
}

/// Answers who we are.
#[derive(Debug)]
pub(super) struct Credentials {
    auth: Auth,
    identity: Option<Arc<Identity>>,
    info: ClusterInfo,
    /// The signal mask to start a program with.
    held: Option<Held>,
    clock: Clock,
    latest: Mutex<Latest>,
}

/// The latest answer of the program.
#[derive(Debug, Default)]
struct Latest {
    answer: Option<Answer>,
    count: u64,
}

impl Credentials {
    pub(super) fn new(access: &Access, held: Option<Held>, clock: Clock) -> Self {
        Self {
            auth: access.auth.clone(),
            identity: access.identity.clone().map(Arc::new),
            info: access.info.clone(),
            held,
            clock,
            latest: Mutex::default(),
        }
    }

    /// Who we are now. `refused`: the answer with this count was not accepted, so
    /// that the program is run again.
    ///
    /// # Errors
    /// A token that cannot be read, a program that fails.
    pub(super) async fn get(&self, refused: Option<u64>) -> Result<Pass, Fault> {
        let plain = |authorization| Pass {
            authorization,
            identity: self.identity.clone(),
            answer: 0,
            is_fresh: false,
        };
        match &self.auth {
            Auth::None => Ok(plain(None)),
            Auth::Token(token) => Ok(plain(Some(bearer(&token.0)?))),
            Auth::TokenFile(path) => Ok(plain(Some(bearer(&token_of(path)?)?))),
            Auth::Basic(name, password) => {
                let both = STANDARD.encode(format!("{name}:{}", password.0));
                Ok(plain(Some(secret(&format!("Basic {both}"))?)))
            }
            Auth::Exec(exec) => {
                // Held while the program runs: two requests ask it once.
                let mut latest = self.latest.lock().await;
                let is_valid = latest.answer.as_ref().is_some_and(|answer| {
                    answer
                        .expires
                        .is_none_or(|end| (self.clock)() + MARGIN < end)
                });
                let is_fresh = !is_valid || refused == Some(latest.count);
                if is_fresh {
                    let answer = exec::run(exec, &self.info, self.held.as_ref()).await?;
                    latest.answer = Some(answer);
                    latest.count += 1;
                }
                let (token, identity) = match &latest.answer {
                    Some(answer) => (answer.token.as_ref(), answer.identity.clone()),
                    None => (None, None),
                };
                Ok(Pass {
                    authorization: token.map(|token| bearer(&token.0)).transpose()?,
                    identity: identity.or_else(|| self.identity.clone()),
                    answer: latest.count,
                    is_fresh,
                })
            }
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Fault> {
    secret(&format!("Bearer {}", token.trim()))
}

fn secret(value: &str) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        Fault::usage(
            "the credentials for the API server have characters that no header has: sign in again",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn token_of(path: &Path) -> Result<String, Fault> {
    let wrong =
        |what: &str| Fault::usage(format!("kubeconfig: tokenFile {}: {what}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| wrong(&crate::cause(&error)))?;
    std::io::Read::read_to_string(&mut std::io::Read::take(file, LONGEST_TOKEN), &mut text)
        .map_err(|error| wrong(&crate::cause(&error)))?;
    match text.trim() {
        "" => Err(wrong("it has no token")),
        token => Ok(token.to_owned()),
    }
}

#[cfg(all(test, unix))]
mod tests;
