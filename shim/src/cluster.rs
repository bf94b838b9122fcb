//! The node in a cluster: what it lets gateways do, and how it knows them.
//!
//! ```text
//! bundle (whom to trust) -> gate (a grant is good) -> the call, streaming
//!                        \-> granted (the binder's own check of the same grant)
//! ```

mod bundle;
mod gate;
mod granted;
#[cfg(test)]
pub(crate) mod testing;

pub use bundle::Bundle;
pub use gate::Gate;
pub use granted::GrantedBinder;
