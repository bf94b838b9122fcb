//! What each process saw of each connection.

use std::collections::BTreeMap;

/// How a direction ended for who reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// Not yet.
    #[default]
    Open,
    /// The peer said that nothing follows.
    Clean,
    /// The connection was reset.
    Reset,
    /// This side gave up itself.
    Own,
}

/// One side of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Side {
    /// Bytes that the system took.
    pub(crate) wrote: usize,
    /// It said that nothing follows.
    pub(crate) fin: bool,
    /// Bytes read, each of which was right.
    pub(crate) read: usize,
    pub(crate) end: End,
    /// Its process is done with the connection.
    pub(crate) done: bool,
}

/// A connection that a pod opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    pub(crate) client: usize,
    pub(crate) pod: Side,
    pub(crate) target: Side,
    /// A target accepted it.
    pub(crate) led: bool,
    /// Both processes mean to go on to the end.
    pub(crate) patient: bool,
    /// Opened while its client was undisturbed, and that it stayed so is known by
    /// this count of disturbances.
    pub(crate) disturbances: Option<u64>,
}

/// Connections by number.
pub(crate) type Records = BTreeMap<u64, Record>;
