//! A certificate authority of Sternline's own, so that a cluster needs no other.
//!
//! It lives in one Secret, which every gateway reads and the first one fills. Who
//! trusts it has its certificates from a ConfigMap. Nothing here reads the clock: it
//! is handed in.
//!
//! ```text
//! current  --------------------------|  signs
//! next                 |-------------|--------------------------  is trusted, then signs
//! previous                           |------|  is trusted, until what it signed is over
//! ```

mod issue;
mod keeper;
mod keyring;
mod lifetimes;
mod material;

pub use issue::{Identity, Issued, Profile, node_name};
pub use keeper::{BUNDLE, Keeper, KeeperError, Shelf};
pub use keyring::{Data, Keyring};
pub use lifetimes::Lifetimes;
pub use material::Material;

/// Why a certificate, or the authority itself, cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The Secret holds something else.
    #[error(
        "the authority's Secret cannot be used: {what}; remove all its keys to have a new authority made"
    )]
    Secret {
        /// Which key, and what is wrong with it.
        what: String,
    },
    /// What somebody wants signed cannot be.
    #[error(
        "the certificate request cannot be signed: {what}; send a PKCS#10 request in PEM, signed with its own key"
    )]
    Request {
        /// What is wrong with it.
        what: String,
    },
    /// Lifetimes that leave no time to rotate.
    #[error("{0}")]
    Lifetimes(String),
    /// The cryptography failed.
    #[error("a key or certificate could not be made: {0}")]
    Crypto(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}
