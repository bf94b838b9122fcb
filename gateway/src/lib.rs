//! The gateway: an aggregated API server for `reverse.sternline.dev`.
//!
//! ```text
//! connection -> identity (who says so) -> request (what is asked for) -> access, policy (may it)
//!            -> route (where the pod is) -> grant, node (its shim) -> carry (bytes both ways)
//! ```
//!
//! * [`app`]: puts the parts together; [`config`]: its settings;
//! * [`server`]: connections in TLS; [`service`]: what is answered;
//! * [`identity`]: the user behind a request, as the cluster's front proxy says;
//!   [`door`] keeps up with what the cluster says of that;
//! * [`request`]: what a path and its query ask for, validated once;
//! * [`forward`]: one forward from its request to its bytes, by way of [`access`],
//!   [`policy`], [`route`], [`grant`], [`form`], [`node`] and [`carry`];
//! * [`nodes`]: the certificates of nodes;
//! * [`audit`]: who forwarded what;
//! * [`sessions`]: how many forwards there are;
//! * [`discovery`]: what the API server is told that is served here;
//! * [`status`]: failures as the Kubernetes API tells them;
//! * [`kube`]: the Kubernetes API, as far as it is asked here;
//! * [`authority`]: the certificates of gateways and nodes, and their keys over
//!   time.

pub mod access;
pub mod app;
pub mod audit;
pub mod authority;
pub mod carry;
pub mod config;
pub mod discovery;
pub mod door;
pub mod form;
pub mod forward;
#[doc(hidden)]
pub mod fuzzing;
pub mod grant;
pub mod identity;
pub mod kube;
pub mod metrics;
pub mod node;
pub mod nodes;
pub mod observe;
pub mod policy;
pub mod ready;
pub mod request;
pub mod route;
pub mod server;
pub mod service;
pub mod sessions;
pub mod status;
pub mod telemetry;

/// The API group.
pub const GROUP: &str = "reverse.sternline.dev";

/// Its version.
pub const VERSION: &str = "v1alpha1";

/// The subresource that a forward is opened at. The API server lets requests of
/// this name run long, in any group.
pub const SUBRESOURCE: &str = "portforward";
