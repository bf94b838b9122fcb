//! What the stories of a node and those of a cluster both stand on: namespaces of
//! the run's own, programs that are started, container runtimes and their images.
//!
//! Each suite is a program of its own and uses the part that it needs.
#![allow(dead_code, reason = "what one suite leaves unused, the other uses")]

pub(crate) mod check;
pub(crate) mod containerd;
pub(crate) mod crio;
pub(crate) mod enclosure;
pub(crate) mod image;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod recipe;
pub(crate) mod registry;
pub(crate) mod runtime;
pub(crate) mod system;
pub(crate) mod target;
pub(crate) mod watchdog;
