//! What a spec works with: the implementation's call, sandboxes, and a record of
//! the steps.

use crate::{
    fixture::{Fixture, Sandbox},
    operator::Operator,
    runner::Subject,
    verdict::{Step, check, failed, within},
    wire::{
        control::Control,
        tls::Trust,
        tunnel::{Manner, Tunnel},
        upgrade::Place,
    },
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};
use sternline_api::{
    protocol::REASON_METADATA,
    v1alpha1::{
        self as pb, reverse_port_forward_service_client::ReversePortForwardServiceClient as Client,
    },
};
use tokio::net::TcpStream;
use tonic::{Code, Status, transport::Channel};

/// One run of one spec.
#[derive(Debug)]
pub(crate) struct Context {
    /// The call.
    pub(crate) client: Client<Channel>,
    /// `Status` at the start of the run.
    pub(crate) status: pb::StatusResponse,
    /// How long to wait for what should happen at once.
    pub(crate) patience: Duration,
    pub(crate) fixture: Arc<Fixture>,
    /// What the call is made over, for what is served beside it.
    pub(crate) channel: Channel,
    /// How the node's operator does things.
    pub(crate) operator: Arc<Operator>,
    trust: Trust,
    steps: Mutex<Vec<String>>,
    sessions: Mutex<Vec<String>>,
    sandboxes: tokio::sync::Mutex<Vec<Arc<Sandbox>>>,
}

/// A session as the call answered it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) response: pb::ReversePortForwardResponse,
    pub(crate) place: Place,
}

impl Opened {
    /// The addresses that listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.response
            .bound
            .iter()
            .filter_map(pb::Bound::to_addr)
            .collect()
    }
}

/// A session with one listener on `127.0.0.1` and its tunnel up.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) pod: Arc<Sandbox>,
    pub(crate) opened: Opened,
    pub(crate) tunnel: Tunnel,
    pub(crate) control: Control,
    pub(crate) ready: pb::Ready,
    pub(crate) address: SocketAddr,
}

/// A listener for TCP.
pub(crate) fn tcp(address: &str, port: u16) -> pb::Listener {
    pb::Listener {
        protocol: pb::Protocol::Tcp.into(),
        address: address.into(),
        port: u32::from(port),
    }
}

/// A request for these listeners.
pub(crate) fn request(sandbox: &str, listeners: &[pb::Listener]) -> pb::ReversePortForwardRequest {
    pb::ReversePortForwardRequest {
        target: Some(pb::Target {
            by: Some(pb::target::By::SandboxId(sandbox.into())),
        }),
        listeners: listeners.to_vec(),
        ..Default::default()
    }
}

/// A port that no other spec uses, below those that kernels give out.
pub(crate) fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000
}

impl Context {
    pub(crate) fn new(subject: &Subject, patience: Duration) -> Self {
        Self {
            client: subject.client.clone(),
            status: subject.status.clone(),
            patience,
            fixture: Arc::clone(&subject.fixture),
            channel: subject.channel.clone(),
            operator: Arc::clone(&subject.operator),
            trust: subject.trust.clone(),
            steps: Mutex::default(),
            sessions: Mutex::default(),
            sandboxes: tokio::sync::Mutex::default(),
        }
    }

    /// Limits in force.
    pub(crate) fn limits(&self) -> pb::Limits {
        self.status.limits.unwrap_or_default()
    }

    /// Notes what is done now.
    pub(crate) fn step(&self, text: impl Into<String>) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push(text.into());
    }

    /// What was done, in order.
    pub(crate) fn steps(&self) -> Vec<String> {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.clone()
    }

    /// A sandbox of this spec's own.
    pub(crate) async fn pod(&self) -> Step<Arc<Sandbox>> {
        let sandbox = Arc::new(self.fixture.sandbox().await?);
        self.step(format!("made sandbox {}", sandbox.id));
        self.sandboxes.lock().await.push(Arc::clone(&sandbox));
        Ok(sandbox)
    }

    /// A sandbox that uses the node's own network, in which nothing can be asked.
    pub(crate) async fn host_pod(&self) -> Step<Arc<Sandbox>> {
        let sandbox = Arc::new(self.fixture.host().await?);
        sandbox.spoil();
        self.step(format!(
            "made sandbox {}, which uses the node's own network",
            sandbox.id
        ));
        self.sandboxes.lock().await.push(Arc::clone(&sandbox));
        Ok(sandbox)
    }

    /// Makes the call and remembers the session for cleaning up.
    pub(crate) async fn call(
        &self,
        request: pb::ReversePortForwardRequest,
    ) -> Result<pb::ReversePortForwardResponse, Status> {
        let asked: Vec<_> = request
            .listeners
            .iter()
            .map(|l| format!("{:?} port {}", l.address, l.port))
            .collect();
        let answer = self.client.clone().reverse_port_forward(request).await;
        let outcome = match &answer {
            Ok(answer) => {
                let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
                sessions.push(answer.get_ref().session_id.clone());
                format!("session {}", answer.get_ref().session_id)
            }
            Err(status) => describe(status),
        };
        self.step(format!(
            "asked to listen on [{}]: {outcome}",
            asked.join(", ")
        ));
        answer.map(tonic::Response::into_inner)
    }

    /// Makes a call that has to succeed.
    pub(crate) async fn open_with(&self, request: pb::ReversePortForwardRequest) -> Step<Opened> {
        match self.call(request).await {
            Ok(response) => Ok(Opened {
                place: Place::parse(&response.url, &self.trust)?,
                response,
            }),
            Err(status) => failed("the call succeeds", describe(&status)),
        }
    }

    /// Opens these listeners in a sandbox.
    pub(crate) async fn open(&self, pod: &Sandbox, listeners: &[pb::Listener]) -> Step<Opened> {
        self.open_with(request(&pod.id, listeners)).await
    }

    /// Makes a call that has to fail with this code and word; answers the
    /// sentence.
    pub(crate) async fn refused(
        &self,
        request: pb::ReversePortForwardRequest,
        code: Code,
        word: &str,
    ) -> Step<String> {
        let answer = self.call(request).await;
        refusal(answer.map(|_| ()), code, word)
    }

    /// Redeems a token or ticket in the raw form.
    pub(crate) async fn redeem(&self, place: &Place) -> Step<Tunnel> {
        self.redeem_as(place, Manner::default()).await
    }

    /// The same, behaving in another manner.
    pub(crate) async fn redeem_as(&self, place: &Place, manner: Manner) -> Step<Tunnel> {
        let answer = place.ask(place.raw().as_bytes(), self.patience).await?;
        self.step(format!("upgraded: {}", answer.status));
        let answer = answer.switched()?;
        Ok(Tunnel::start(answer.io, answer.rest, manner, self.patience))
    }

    /// A session with one listener, its tunnel up and `ready` read.
    pub(crate) async fn forward(&self) -> Step<Forward> {
        let pod = self.pod().await?;
        self.forward_in(&pod, 0, Manner::default()).await
    }

    /// The same in a sandbox that is there already.
    pub(crate) async fn forward_in(
        &self,
        pod: &Arc<Sandbox>,
        hold_ms: u64,
        manner: Manner,
    ) -> Step<Forward> {
        let mut request = request(&pod.id, &[tcp("127.0.0.1", 0)]);
        request.options = Some(pb::SessionOptions {
            hold_ms,
            ..Default::default()
        });
        let opened = self.open_with(request).await?;
        let tunnel = self.redeem_as(&opened.place, manner).await?;
        let control = tunnel.control().await?;
        let ready = control.ready().await?;
        let Some(address) = opened.addresses().first().copied() else {
            return failed("an address that listens", "none");
        };
        Ok(Forward {
            pod: Arc::clone(pod),
            opened,
            tunnel,
            control,
            ready,
            address,
        })
    }

    /// Ends a session by the call.
    pub(crate) async fn stop(&self, id: &str) -> Result<(), Status> {
        self.step(format!("StopSession {id}"));
        let request = pb::StopSessionRequest {
            session_id: id.into(),
        };
        self.client.clone().stop_session(request).await.map(|_| ())
    }

    /// Sessions of one sandbox.
    pub(crate) async fn list(&self, sandbox: &str) -> Step<Vec<pb::Session>> {
        let request = pb::ListSessionsRequest {
            sandbox_id: sandbox.into(),
        };
        match self.client.clone().list_sessions(request).await {
            Ok(answer) => Ok(answer.into_inner().sessions),
            Err(status) => failed("ListSessions answers", describe(&status)),
        }
    }

    /// Waits until nothing listens on `address` inside any more.
    pub(crate) async fn freed(&self, pod: &Sandbox, address: SocketAddr, wait: Duration) -> Step {
        let gone = async {
            while pod.listening().await?.contains(&address) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        within(wait, &format!("{address} is free in the sandbox"), gone).await?
    }

    /// Waits until `look` finds nothing wrong any more; what it finds is told
    /// when it does for too long.
    pub(crate) async fn eventually<F: Future<Output = Step<Option<String>>>>(
        &self,
        expected: &str,
        look: impl Fn() -> F,
    ) -> Step {
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            let Some(wrong) = look().await? else {
                return Ok(());
            };
            if tokio::time::Instant::now() > deadline {
                return failed(expected, wrong);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends what the spec began and gives its sandboxes back.
    pub(crate) async fn clean(&self, passed: bool) {
        let sessions = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *sessions)
        };
        for session_id in sessions {
            let request = pb::StopSessionRequest { session_id };
            // Most have ended; that is what most specs are about.
            let _ = self.client.clone().stop_session(request).await;
        }
        for sandbox in self.sandboxes.lock().await.drain(..) {
            if let Some(sandbox) = Arc::into_inner(sandbox) {
                self.fixture.give_back(sandbox, passed).await;
            }
        }
    }
}

impl Forward {
    /// Connects inside; answers both ends of the connection, accepted.
    pub(crate) async fn connect(&self) -> Step<(TcpStream, crate::wire::stream::Stream)> {
        let inside = self.pod.connect(self.address).await?;
        let stream = self.tunnel.accept().await?;
        Ok((inside, stream))
    }

    /// The same, with a byte carried each way: the node has read the answer.
    pub(crate) async fn connected(&self) -> Step<(TcpStream, crate::wire::stream::Stream)> {
        let (mut inside, stream) = self.connect().await?;
        let broken = crate::verdict::broken("the pod's end of the connection");
        stream.send(b"x").await?;
        let read = tokio::io::AsyncReadExt::read_u8(&mut inside);
        let read = within(Duration::from_secs(10), "a byte in the pod", read).await?;
        let byte = read.map_err(&broken)?;
        let write = tokio::io::AsyncWriteExt::write_u8(&mut inside, byte);
        write.await.map_err(&broken)?;
        stream.receive(1).await?;
        Ok((inside, stream))
    }
}

/// Fails unless a call failed with this code and word.
pub(crate) fn refusal(answer: Result<(), Status>, code: Code, word: &str) -> Step<String> {
    let expected = format!("{code:?}, {word}");
    let Err(status) = answer else {
        return failed(expected, "the call succeeded");
    };
    let told = status.metadata().get(REASON_METADATA);
    let told = told.and_then(|value| value.to_str().ok()).unwrap_or("");
    let same = status.code() == code && told == word && !status.message().is_empty();
    check(same, &expected, describe(&status))?;
    Ok(status.message().to_owned())
}

/// A failed call in one line.
pub(crate) fn describe(status: &Status) -> String {
    let word = status.metadata().get(REASON_METADATA);
    let word = word
        .and_then(|value| value.to_str().ok())
        .unwrap_or("no word");
    format!("{:?}, {word}: {}", status.code(), status.message())
}
