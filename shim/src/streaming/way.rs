//! Which way a client came: from this node, or through a gateway.

use crate::cluster::Gate;
use crate::session::Session;
use http::HeaderMap;
use std::sync::Arc;
use std::time::SystemTime;
use sternline_api::grant::from_header;
use sternline_api::protocol::GRANT_HEADER;
use sternline_api::v1alpha1::Grant;
use sternline_api::{Failure, Reason};

/// Which way a client came.
#[derive(Clone, Debug)]
pub enum Way {
    /// From this node, to sessions that were asked for on this node.
    Node,
    /// Through a gateway, to sessions that a gateway asked for.
    Gateway(Arc<Gate>),
}

/// What a client brought besides its token or ticket: a signed grant, and what it
/// says.
pub(super) struct Brought(Option<(Vec<u8>, Grant)>);

impl Way {
    /// Reads what a client has to bring this way.
    ///
    /// # Errors
    /// A grant is missing, or is not good.
    pub(super) fn bring(&self, headers: &HeaderMap) -> Result<Brought, Failure> {
        let Self::Gateway(gate) = self else {
            return Ok(Brought(None));
        };
        let value = headers.get(GRANT_HEADER);
        let signed = from_header(value.map_or(&[][..], |value| value.as_bytes()))?;
        let grant = gate.verify(&signed, SystemTime::now())?;
        Ok(Brought(Some((signed, grant))))
    }
}

impl Brought {
    /// Lets the bearer into this session, if `arrive` does; it stands on the bearer's
    /// grant from then on.
    ///
    /// # Errors
    /// The session was asked for the other way, the grant is for another pod or user
    /// or for less than the session has, or there is no room.
    pub(super) fn admit<T>(
        self,
        session: &Session,
        arrive: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.check(session)?;
        let arrived = arrive()?;
        if let Some((signed, _)) = self.0 {
            session.regrant(signed);
        }
        Ok(arrived)
    }

    fn check(&self, session: &Session) -> Result<(), Failure> {
        let Some((_, grant)) = &self.0 else {
            return match session.granted {
                false => Ok(()),
                true => Err(refused(
                    "was asked for at a gateway, and is reached through one",
                )),
            };
        };
        let pod = session.sandbox.pod.as_ref().map(Into::into);
        let is_of_it = pod.is_some_and(|pod| grant.is_of_the_same(&pod, &session.requester));
        if !session.granted || !is_of_it {
            return Err(refused("is not of the grant's user and pod"));
        }
        session.is_within(grant)
    }
}

fn refused(what: &str) -> Failure {
    Failure::new(
        Reason::Forbidden,
        format!("the session {what}: ask for a session of your own"),
    )
}
