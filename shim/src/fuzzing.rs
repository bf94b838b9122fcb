//! Doors for the fuzz targets in `fuzz/`, and for nobody else: parsers of bytes
//! from outside that are no part of the shim's interface.

pub mod grants;

use crate::sandbox::cri::read_info;
use std::path::PathBuf;

/// What is believed of a runtime's own JSON about a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CriInfo {
    /// The first process.
    pub pid: Option<u32>,
    /// Whether the network is torn down.
    pub network_closed: bool,
    /// The kind of runtime.
    pub runtime_type: Option<String>,
    /// Where the network namespace is mounted.
    pub network: Option<PathBuf>,
}

/// Reads the JSON that a runtime gives with a verbose status.
///
/// # Errors
/// What is wrong with it.
pub fn cri_info(text: &str) -> Result<CriInfo, String> {
    read_info(text)
}
