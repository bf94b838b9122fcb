//! The serving half in one process: the call, the streaming endpoint and
//! sessions, with a binder that listens on this machine's loopback. Nothing here
//! needs root or a container runtime.

mod call;
mod cluster;
mod draining;
mod ending;
mod holders;
mod limits;
mod listeners;
mod program;
mod streaming;
mod support;
mod switching;
mod tls;
mod tunnels;
