//! The gateway: an aggregated API server for `reverse.sternline.dev`.
//!
//! ```text
//! request -> identity (who says so) -> request (what is asked for) -> a Status, or on
//! ```
//!
//! * [`identity`]: the user behind a request, as the cluster's front proxy says;
//! * [`request`]: what a path and its query ask for, validated once;
//! * [`discovery`]: what the API server is told that is served here;
//! * [`status`]: failures as the Kubernetes API tells them;
//! * [`authority`]: the certificates of gateways and nodes, and their keys over
//!   time.

pub mod authority;
pub mod discovery;
pub mod identity;
pub mod request;
pub mod status;

/// The API group.
pub const GROUP: &str = "reverse.sternline.dev";

/// Its version.
pub const VERSION: &str = "v1alpha1";

/// The subresource that a forward is opened at. The API server lets requests of
/// this name run long, in any group.
pub const SUBRESOURCE: &str = "portforward";
