//! The commands of the kubectl plug-in beside forwarding.

mod complete;
mod doctor;

pub use complete::complete;
pub use doctor::doctor;
