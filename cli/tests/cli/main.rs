//! The built program against servers that a test makes up. One binary for all,
//! so that it is linked once.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod calls;
mod cluster;
mod cluster_access;
mod cluster_doctor;
mod cluster_resume;
mod completion;
mod draining;
mod forward;
mod hostile;
mod hostile_tunnel;
mod limits;
mod output;
mod resume;
mod signals;
mod support;
mod tls;
mod wrap;
