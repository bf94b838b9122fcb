//! To be filled.

pub mod binder;
pub mod listener;
pub mod netns;
pub mod sandbox;
pub mod watch;
