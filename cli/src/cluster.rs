//! The way through a cluster: the user's kubeconfig, its API server, and the
//! gateway behind that.
//!
//! ```text
//! kubeconfig -> access -> proxy, TLS, credentials -> API server -> gateway -> node
//! ```
//!
//! It is our own and small, where a client of the whole Kubernetes API would be
//! large: a few objects are read, and one stream is opened.

pub mod api;
pub mod credentials;
pub mod kubeconfig;
pub mod object;
pub mod pod;
pub mod proxy;
pub mod tls;

pub use api::Api;
pub use kubeconfig::{Access, Overrides};
