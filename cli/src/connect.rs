//! The ways to a server: the [call] on its Unix socket, and the upgraded
//! byte stream at the [URL](mod@url) that the call answered.

pub mod call;
pub mod upgrade;
pub mod url;

pub use call::Server;
pub use upgrade::{ByteStream, open};
pub use url::StreamUrl;
