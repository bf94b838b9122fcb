//! The session that has an address which another was refused.

use super::Session;
use crate::binder::SandboxTarget;
use crate::listener::taken;
use std::net::SocketAddr;
use std::sync::Arc;
use sternline_api::listen::Listen;
use sternline_api::{Failure, Reason, v1alpha1 as pb};

/// Puts the session that has the address into the refusal of one, if it is a
/// session: the binder knows the processes of a pod, the sessions are known here
/// alone. Who made it is nobody else's business.
#[must_use]
pub(super) fn name_session(
    failure: Failure,
    target: &SandboxTarget,
    listeners: &[Listen],
    sessions: &[Arc<Session>],
) -> Failure {
    if failure.reason != Reason::PortInUse {
        return failure;
    }
    let asked = listeners.iter().flat_map(|listen| {
        let port = listen.port;
        let addresses = listen.bind.addresses().into_iter();
        addresses.map(move |ip| SocketAddr::new(ip, port))
    });
    // The binder refuses the first address that is taken.
    let refused = asked.into_iter().find(|addr| {
        let rest = failure.message.strip_prefix(&taken(*addr));
        rest.is_some_and(|rest| rest.starts_with(' '))
    });
    let holder = refused.and_then(|addr| {
        let inside = sessions.iter().filter(|session| is_in(session, target));
        let mut holding = inside.filter(|session| {
            let bound = session.visible().bound.clone();
            let bound = bound.iter().filter_map(pb::Bound::to_addr);
            let mut bound = bound;
            bound.any(|theirs| collide(theirs, addr))
        });
        holding.next().map(|session| (addr, session))
    });
    let Some((addr, session)) = holder else {
        return failure;
    };
    let (id, sandbox) = (&session.id, &session.sandbox.id);
    Failure::new(
        Reason::PortInUse,
        format!(
            "{} by session {id} in sandbox {sandbox}: choose another port, or end it with `sternline stop {id}`",
            taken(addr)
        ),
    )
}

fn is_in(session: &Session, target: &SandboxTarget) -> bool {
    match target {
        SandboxTarget::Id(prefix) => session.sandbox.id.starts_with(prefix),
        SandboxTarget::Pod(pod) => session.sandbox.pod.as_ref() == Some(pod),
    }
}

/// Whether two sockets of ours cannot both listen there.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a == b || a.is_unspecified() || b.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_collide_within_their_family() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (one, other, yes) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("[::]:80", "[::1]:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "[::]:80", false),
        ] {
            assert_eq!(collide(at(one), at(other)), yes, "{one} {other}");
            assert_eq!(collide(at(other), at(one)), yes, "{other} {one}");
        }
    }
}
