//! The network of the simulation.

pub mod local;
pub mod wire;
