//! The wire, spoken by the suite itself: HTTP/1.1 Upgrade, WebSocket, HTTP/2
//! frames and HPACK. Nothing here is shared with an implementation, so that a
//! fault on which both ends of one agree is seen. What a node sends is kept as
//! it came; judging is left to the specs.

pub(crate) mod control;
pub(crate) mod frame;
pub(crate) mod hpack;
mod huffman;
mod reader;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod tunnel;
pub(crate) mod upgrade;
mod websocket;
