//! Where a tunnel of a session is opened.

use super::StreamUrl;
use crate::cluster::api::PodWay;

/// Where a tunnel of a session is opened, by whoever holds its token or ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// At a streaming endpoint, by the URL that the call answered.
    Url(StreamUrl),
    /// Through a cluster.
    Pod(PodWay),
}

impl Way {
    /// The same place, with a ticket; `None` if the ticket cannot be one.
    #[must_use]
    pub fn with_ticket(&self, ticket: &str) -> Option<Self> {
        match self {
            Self::Url(url) => url.with_ticket(ticket).map(Self::Url),
            Self::Pod(way) => way.with_ticket(ticket).map(Self::Pod),
        }
    }
}
