//! The Kubernetes API, as far as it is asked here: a handful of objects, one
//! request each, in JSON.
//!
//! Everything that decides goes through [`Api`], so that it is tested beside
//! objects that were made up.

mod client;
mod objects;
mod place;

pub use client::Client;
pub use objects::{
    Condition, List, Metadata, Namespace, OwnerReference, Pod, PodOs, PodSpec, PodStatus,
};
pub use place::{Place, PlaceError};

use serde_json::Value;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use sternline_api::{Failure, Reason};

/// What the Kubernetes API is asked through.
pub trait Api: Send + Sync + 'static {
    /// Asks once; the answer comes within a bounded time.
    fn send(&self, ask: Ask) -> Answer<'_>;
}

/// An answer that is on its way.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Value, ApiError>> + Send + 'a>>;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read it, or a list.
    Get,
    /// Make it.
    Create,
    /// Put another in its place.
    Replace,
    /// Change some of its fields (RFC 7396).
    Merge,
}

/// One request.
#[derive(Clone, PartialEq)]
pub struct Ask {
    /// What is done.
    pub verb: Verb,
    /// Path and query.
    pub path: String,
    /// The object, or what changes of it.
    pub body: Option<Value>,
}

impl Ask {
    /// Reads.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            verb: Verb::Get,
            path: path.into(),
            body: None,
        }
    }

    /// Does something else.
    #[must_use]
    pub fn with(verb: Verb, path: impl Into<String>, body: Value) -> Self {
        Self {
            verb,
            path: path.into(),
            body: Some(body),
        }
    }
}

/// Bodies have keys and tokens in them.
impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.verb, self.path)
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// It does not listen, or is not who it should be.
    #[error("the Kubernetes API cannot be reached: {0}")]
    Unreachable(String),
    /// It said no.
    #[error("the Kubernetes API answered {code} to {ask}: {message}")]
    Refused {
        /// What it was asked.
        ask: String,
        /// The HTTP status.
        code: u16,
        /// Its sentence.
        message: String,
    },
    /// It said something else.
    #[error("the Kubernetes API answered {ask} with something that cannot be read: {what}")]
    Unreadable {
        /// What it was asked.
        ask: String,
        /// What is wrong with it.
        what: String,
    },
}

impl ApiError {
    /// Whether there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.has(404)
    }

    /// Whether somebody changed the object meanwhile.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.has(409)
    }

    fn has(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

impl From<ApiError> for Failure {
    /// Whoever asked is told that there is no answer; what it was is for the log.
    fn from(error: ApiError) -> Self {
        tracing::warn!("{error}");
        Self::new(
            Reason::ClusterUnavailable,
            "the gateway has no answer of the Kubernetes API: try again; if it stays so, an administrator finds the cause in the gateway's log",
        )
    }
}

/// Asks, and reads the answer as a `T`.
///
/// # Errors
/// As [`Api::send`], and an answer of another shape.
pub async fn read<T: serde::de::DeserializeOwned>(api: &dyn Api, ask: Ask) -> Result<T, ApiError> {
    let asked = format!("{ask:?}");
    let answer = api.send(ask).await?;
    serde_json::from_value(answer).map_err(|error| ApiError::Unreadable {
        ask: asked,
        what: error.to_string(),
    })
}

/// The same; none, where there is no such object.
///
/// # Errors
/// As [`read`].
pub async fn find<T: serde::de::DeserializeOwned>(
    api: &dyn Api,
    ask: Ask,
) -> Result<Option<T>, ApiError> {
    match read(api, ask).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod fake;
