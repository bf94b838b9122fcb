//! What the parts of Sternline share.
//!
//! * [`v1alpha1`]: the call and the control messages, compiled from `api/proto`;
//! * [`cri`]: the subset of the Kubernetes CRI that finds sandboxes;
//! * [`protocol`]: names, versions, paths and header fields of the wire;
//! * [`grant`]: what a gateway may permit a node to do;
//! * [`listen`]: what a client may ask to listen on, validated once;
//! * [`reason`]: the one table of everything that can go wrong, with its gRPC
//!   code, HTTP status, stream reset, metric label and exit code;
//! * [`socket`]: paths of Unix sockets as flags have them;
//! * [`span`]: spans of time as flags and sentences have them.

pub mod grant;
pub mod listen;
pub mod protocol;
pub mod reason;
pub mod socket;
pub mod span;

pub use reason::{Failure, Reason};

/// The call and the control messages, version `v1alpha1`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
pub mod v1alpha1 {
    tonic::include_proto!("sternline.v1alpha1");

    /// The compiled descriptors, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/sternline.binpb"));
}

/// The Kubernetes CRI, `runtime.v1`, as far as it is used here.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::large_futures,
    rustdoc::all
)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}
