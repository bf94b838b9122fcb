//! The ways to a server: the [call] on its Unix socket, and the upgraded
//! byte stream at the [URL](mod@url) that the call answered, in [TLS](tls)
//! where that says so.

pub mod call;
pub mod tls;
pub mod upgrade;
pub mod url;
pub mod way;

pub use call::Server;
pub use tls::Trust;
pub use upgrade::{ByteStream, open};
pub use url::StreamUrl;
pub use way::Way;
