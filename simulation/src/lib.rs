//! A deterministic simulation of tunnel and session together.
//!
//! One thread, a clock that stands still while anything can run, and one seed for
//! every choice. What is real: the node's call, sessions, registry, passes and
//! streaming endpoint; the tunnel, with HTTP/2 and both Upgrades; the forward of
//! the command line with its coming back. What is simulated: sockets, links,
//! sandboxes, processes in pods, targets, and everything that goes wrong.
//!
//! After each run must hold (`verify`): no byte lost, doubled, reordered or
//! crossed between connections; nobody told of a clean end whose peer was cut off;
//! every listener, slot, permit, pass, budget byte, socket and task given back;
//! every wait ended.
//!
//! The same seed gives the same trace.

pub mod net;
pub mod rng;
pub mod run;

mod binder;
mod chaos;
mod client;
mod node;
mod outside;
mod pattern;
mod plan;
mod pod;
mod records;
mod target;
mod verify;
mod world;

pub use run::{Outcome, run};
pub use world::Stats;
