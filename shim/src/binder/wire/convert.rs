//! Between packets and what the rest of the shim works with. Nothing that came
//! from the other end passes unchecked.

use super::{
    Bind, Bound, Failed, Listener, Namespace, Pod, Sandbox, Socket, Status, Target, Watch,
    WireError,
};
use crate::binder::{self, BindRequest, BinderStatus, PodRef, SandboxTarget};
use crate::netns::NamespaceId;
use crate::sandbox::Watched;
use std::net::{IpAddr, SocketAddr};
use sternline_api::listen::Listen;
use sternline_api::{Failure, Reason};

/// Most listeners of a request, the most that `--max-listeners-per-session` takes.
const MAX_LISTENERS: usize = 1024;

/// Longest sandbox id, in bytes.
const MAX_ID: usize = 253;

/// Longest sentence, in bytes.
const MAX_SENTENCE: usize = 4096;

fn invalid(message: impl Into<String>) -> WireError {
    WireError::Invalid(message.into())
}

impl From<&SandboxTarget> for Target {
    fn from(target: &SandboxTarget) -> Self {
        match target {
            SandboxTarget::Id(id) => Self {
                id: id.clone(),
                pod: None,
            },
            SandboxTarget::Pod(pod) => Self {
                id: String::new(),
                pod: Some(pod.into()),
            },
        }
    }
}

impl From<Target> for SandboxTarget {
    fn from(target: Target) -> Self {
        match target.pod {
            Some(pod) => Self::Pod(pod.into()),
            None => Self::Id(target.id),
        }
    }
}

impl From<&PodRef> for Pod {
    fn from(pod: &PodRef) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }
    }
}

impl From<Pod> for PodRef {
    fn from(pod: Pod) -> Self {
        Self {
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
        }
    }
}

impl From<&binder::Sandbox> for Sandbox {
    fn from(sandbox: &binder::Sandbox) -> Self {
        Self {
            id: sandbox.id.clone(),
            pod: sandbox.pod.as_ref().map(Into::into),
        }
    }
}

impl From<Sandbox> for binder::Sandbox {
    fn from(sandbox: Sandbox) -> Self {
        Self {
            id: sandbox.id,
            pod: sandbox.pod.map(Into::into),
        }
    }
}

impl From<NamespaceId> for Namespace {
    fn from(id: NamespaceId) -> Self {
        let (device, inode) = id.parts();
        Self { device, inode }
    }
}

impl From<Namespace> for NamespaceId {
    fn from(namespace: Namespace) -> Self {
        Self::from_parts(namespace.device, namespace.inode)
    }
}

impl From<&BindRequest> for Bind {
    fn from(request: &BindRequest) -> Self {
        let listener = |listen: &Listen| Listener {
            id: listen.id,
            listener: Some(listen.to_proto()),
        };
        Self {
            target: Some((&request.target).into()),
            listeners: request.listeners.iter().map(listener).collect(),
            backlog: request.backlog,
            grant: request.grant.clone(),
        }
    }
}

impl TryFrom<Bind> for BindRequest {
    type Error = WireError;

    fn try_from(bind: Bind) -> Result<Self, WireError> {
        let target = bind
            .target
            .ok_or_else(|| invalid("a bind without a sandbox"))?;
        if bind.listeners.len() > MAX_LISTENERS {
            return Err(invalid(format!(
                "a bind of {} listeners",
                bind.listeners.len()
            )));
        }
        let mut listeners: Vec<Listen> = Vec::with_capacity(bind.listeners.len());
        for Listener { id, listener } in bind.listeners {
            let listener = listener.ok_or_else(|| invalid(format!("listener {id} is empty")))?;
            let listen = Listen::from_proto(id, &listener).map_err(|bad| invalid(bad.message))?;
            if listeners
                .iter()
                .any(|other| other.id == id || other.collides(listen))
            {
                return Err(invalid(format!("listener {id} is there twice")));
            }
            listeners.push(listen);
        }
        Ok(Self {
            target: target.into(),
            listeners,
            backlog: bind.backlog,
            grant: bind.grant,
        })
    }
}

impl From<&Watched> for Watch {
    fn from(watched: &Watched) -> Self {
        Self {
            id: watched.id.clone(),
            namespace: Some(watched.namespace.into()),
        }
    }
}

impl TryFrom<Watch> for Watched {
    type Error = WireError;

    /// The id becomes a part of paths: one that leads elsewhere is refused.
    fn try_from(watch: Watch) -> Result<Self, WireError> {
        let Watch { id, namespace } = watch;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if id.is_empty() || id.len() > MAX_ID || id.starts_with('.') || !id.chars().all(plain) {
            return Err(invalid("a watch of what is no id of a sandbox"));
        }
        let namespace = namespace.ok_or_else(|| invalid("a watch without a namespace"))?;
        let namespace = namespace.into();
        Ok(Self { id, namespace })
    }
}

impl From<BinderStatus> for Status {
    fn from(status: BinderStatus) -> Self {
        Self {
            runtime: status.runtime,
            trouble: status.trouble.unwrap_or_default(),
            turned_away: None,
        }
    }
}

impl From<Status> for BinderStatus {
    fn from(status: Status) -> Self {
        Self {
            runtime: status.runtime,
            trouble: Some(status.trouble).filter(|trouble| !trouble.is_empty()),
        }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            reason: failure.reason.label().to_owned(),
            message: sentence(failure.message),
        }
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        // A word of a later release: what it is about is in the sentence.
        let reason = Reason::from_label(&failed.reason).unwrap_or(Reason::Internal);
        Self::new(reason, sentence(failed.message))
    }
}

/// A sentence that fits a packet, and a log.
#[must_use]
pub fn sentence(mut text: String) -> String {
    let mut end = MAX_SENTENCE.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

impl Bound {
    /// What is said of a bind: parts of at most `most` sockets each, whose
    /// descriptors go with them, and last a part without any. It is sent when
    /// nothing of what was handed over is left behind.
    #[must_use]
    pub fn split(bound: &binder::Bound, most: usize) -> (Vec<Self>, Self) {
        let socket = |one: &binder::BoundSocket| Socket {
            listener_id: one.listener_id,
            address: one.addr.to_string(),
        };
        let part = |sockets: &[binder::BoundSocket]| Self {
            sandbox: None,
            namespace: None,
            sockets: sockets.iter().map(socket).collect(),
            more: true,
        };
        let last = Self {
            sandbox: Some((&bound.sandbox).into()),
            namespace: Some(bound.namespace.into()),
            sockets: Vec::new(),
            more: false,
        };
        (bound.sockets.chunks(most).map(part).collect(), last)
    }
}

impl Socket {
    /// Which of the listeners that were asked for this is, and where.
    ///
    /// # Errors
    /// None of them, or at an address that was not asked for.
    pub fn belongs(&self, asked: &[Listen]) -> Result<(u32, SocketAddr), WireError> {
        let address: SocketAddr = self
            .address
            .parse()
            .map_err(|_| invalid(format!("{:?} is no address of a socket", self.address)))?;
        let fits = |listen: &&Listen| {
            let ips: Vec<IpAddr> = listen.bind.addresses();
            listen.id == self.listener_id
                && ips.contains(&address.ip())
                && address.port() != 0
                && (listen.port == 0 || listen.port == address.port())
        };
        match asked.iter().find(fits) {
            Some(_) => Ok((self.listener_id, address)),
            None => Err(invalid(format!(
                "{address} for listener {} was not asked for",
                self.listener_id
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternline_api::listen::Bind as At;

    fn request(listeners: Vec<Listen>) -> BindRequest {
        BindRequest {
            target: SandboxTarget::Id("web".to_owned()),
            listeners,
            backlog: 16,
            grant: vec![1, 2],
        }
    }

    fn listen(id: u32, bind: At, port: u16) -> Listen {
        Listen { id, bind, port }
    }

    #[test]
    fn a_request_arrives_as_it_was() {
        let wide = At::Ip("::".parse().expect("ip"));
        let sent = request(vec![listen(3, At::Loopback, 80), listen(9, wide, 0)]);
        let got = BindRequest::try_from(Bind::from(&sent)).expect("sound");
        assert_eq!(got.listeners, sent.listeners);
        assert_eq!((got.target, got.backlog), (sent.target, sent.backlog));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let sound = Bind::from(&request(vec![listen(1, At::Loopback, 80)]));
        let mut twice = sound.clone();
        twice.listeners.push(sound.listeners[0].clone());
        let mut many = sound.clone();
        many.listeners = vec![Listener::default(); MAX_LISTENERS + 1];
        let mut port = sound.clone();
        port.listeners[0].listener.as_mut().expect("one").port = 70_000;
        let mut empty = sound.clone();
        empty.listeners[0].listener = None;
        let mut nowhere = sound;
        nowhere.target = None;
        for bad in [twice, many, port, empty, nowhere] {
            BindRequest::try_from(bad).expect_err("refused");
        }
        for id in [
            "",
            "..",
            "../etc",
            "a/b",
            "a\0b",
            ".hidden",
            &"x".repeat(300),
        ] {
            let namespace = Some(Namespace::default());
            let id = id.to_owned();
            Watched::try_from(Watch { id, namespace }).expect_err("refused");
        }
    }

    #[test]
    fn a_socket_that_was_not_asked_for_is_noticed() {
        let asked = [listen(1, At::Loopback, 80), listen(2, At::Loopback, 0)];
        let socket = |listener_id, address: &str| Socket {
            listener_id,
            address: address.to_owned(),
        };
        for (id, good) in [(1, "127.0.0.1:80"), (1, "[::1]:80"), (2, "127.0.0.1:4000")] {
            socket(id, good).belongs(&asked).expect("asked for");
        }
        for (id, bad) in [
            (1, "127.0.0.1:81"),
            (1, "0.0.0.0:80"),
            (2, "127.0.0.1:0"),
            (3, "127.0.0.1:80"),
            (1, "localhost:80"),
            (1, ""),
        ] {
            socket(id, bad).belongs(&asked).expect_err(bad);
        }
    }

    #[test]
    fn long_sentences_are_cut_between_characters() {
        let long = "é".repeat(MAX_SENTENCE);
        let cut = sentence(long);
        assert!(cut.len() <= MAX_SENTENCE && cut.ends_with('é'));
        let failure = Failure::from(Failed {
            reason: "of_a_later_release".to_owned(),
            message: "no".to_owned(),
        });
        assert_eq!(failure.reason, Reason::Internal);
    }
}
