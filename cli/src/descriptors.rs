//! The limit of open file descriptors.
//!
//! Each connection takes one here. The soft limit is 1024 on most systems for
//! the sake of programs that call select(2), which this one does not; so it is
//! raised to the hard limit for ourselves, and a wrapped command gets back what
//! we were given.

#[cfg(unix)]
#[path = "descriptors/unix.rs"]
mod imp;
#[cfg(not(unix))]
#[path = "descriptors/other.rs"]
mod imp;

pub use imp::{Descriptors, are_used_up};
