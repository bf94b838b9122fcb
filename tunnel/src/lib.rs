//! Connections through a pod's listener, carried over one byte stream.
//!
//! A *tunnel* is one HTTP/2 connection with its roles turned round: the side in
//! the cluster (the [`Dialer`]) sends requests, the workstation (the
//! [`Acceptor`]) serves them. Every accepted connection is one CONNECT stream;
//! one more stream carries the [control messages](control).
//!
//! The crate knows byte streams, sockets and HTTP/2, and nothing of Kubernetes,
//! sandboxes or the way in which the byte stream came about.
//!
//! What it promises, and `docs/protocol.md` asks of every implementation:
//! * a half-close arrives as a half-close, a reset as a reset, in each direction;
//! * a stream that nobody reads stalls itself and never its neighbours;
//! * every buffer has a bound, and all of a session's stay below
//!   [`Settings::buffer_bytes`];
//! * every wait has a bound.

pub mod budget;
pub mod control;
pub mod relay;
pub mod websocket;

mod acceptor;
mod chunk;
mod dialer;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod keepalive;
mod queue;
mod settings;
mod socket;
mod stream;
mod windows;

pub use acceptor::{Acceptor, Incoming, IncomingStream};
pub use control::{ControlReceiver, ControlSender, ControlStream};
pub use dialer::{ConnectRequest, Dialer, Driver};
pub use error::TunnelError;
pub use relay::{End, RelayOptions, Relayed, relay};
pub use settings::Settings;
pub use socket::Socket;
pub use stream::TunnelStream;
