//! Doors for the fuzz targets in `fuzz/`, and for nobody else: parsers of bytes
//! from outside that are no part of the command's interface.

use crate::connect::{ByteStream, StreamUrl, upgrade};
use crate::fault::Fault;
use crate::forward;
use crate::spec::Spec;
use sternline_api::v1alpha1 as pb;
use tokio::io::{AsyncRead, AsyncWrite};

/// Upgrades the connection `io` to the endpoint of `url`.
///
/// # Errors
/// The answer is not the 101 that was asked for.
pub async fn upgrade_over<IO>(io: IO, url: &StreamUrl) -> Result<ByteStream, Fault>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    upgrade::upgrade(io, url).await
}

/// Which addresses a server's announcement leads to which target, if it says
/// nothing but what was asked for.
///
/// # Errors
/// It says anything else.
pub fn announced(specs: &[Spec], bound: &[pb::Bound]) -> Result<Vec<(String, String)>, Fault> {
    forward::announced(specs, bound)
}
