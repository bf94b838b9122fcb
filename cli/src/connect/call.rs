//! The gRPC call on the Unix socket of a node's shim.

use crate::clean::clean;
use crate::fault::{Fault, exit};
use crate::{local, span};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use sternline_api::v1alpha1::reverse_port_forward_service_client::ReversePortForwardServiceClient;
use sternline_api::{Failure, Reason, protocol::REASON_METADATA};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tower::service_fn;

/// Longest answer that is read, in bytes: a full node's list of sessions takes
/// about 1 MiB.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;

/// What makes the calls.
pub type Client = ReversePortForwardServiceClient<Channel>;

/// A shim, by its Unix socket.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its socket.
    pub socket: PathBuf,
    /// Longest wait for each of its answers.
    pub timeout: Duration,
}

impl Server {
    /// Connects.
    ///
    /// # Errors
    /// Exit code 6 where nobody listens, 4 where the socket may not be opened.
    pub async fn connect(&self) -> Result<Client, Fault> {
        let path = self.socket.display();
        tracing::info!(socket = %path, "connecting to the shim");
        let stream = match timeout(self.timeout, local::connect(&self.socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => return Err(self.silent("take a connection")),
        };
        // One connection for one command: a second one would mean that the
        // first broke, which is an error to report and not to hide.
        let stream = Mutex::new(Some(stream));
        let connector = service_fn(move |_| {
            let taken = stream.lock().ok().and_then(|mut s| s.take());
            let stream = taken.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted));
            async move { stream.map(TokioIo::new) }
        });
        // The authority is not used on a Unix socket; gRPC asks for one.
        let endpoint = Endpoint::from_static("http://localhost");
        match timeout(self.timeout, endpoint.connect_with_connector(connector)).await {
            Ok(Ok(channel)) => Ok(Client::new(channel).max_decoding_message_size(LONGEST_ANSWER)),
            Ok(Err(_)) => Err(self.broken()),
            Err(_) => Err(self.silent("answer")),
        }
    }

    /// Waits for the answer of one call.
    ///
    /// # Errors
    /// What the server refused, and exit code 6 for a server that went away,
    /// does not answer, or does not have the call.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Fault> {
        match timeout(self.timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.refused(status)),
            Err(_) => Err(self.silent("answer")),
        }
    }

    fn refused(&self, status: Status) -> Fault {
        let labelled = status.metadata().contains_key(REASON_METADATA);
        if labelled {
            return Failure::from(status).into();
        }
        // What was not sent by a server at all carries the error it came from.
        if std::error::Error::source(&status).is_some() {
            return self.broken();
        }
        match status.code() {
            Code::Unimplemented => Fault::because(
                Reason::VersionUnsupported,
                format!(
                    "what serves {} does not offer reverse port-forwarding v1alpha1: is it a Sternline shim, and of a release that goes with sternline {}?",
                    self.socket.display(),
                    env!("CARGO_PKG_VERSION")
                ),
            ),
            code if status.message().is_empty() => Fault::because(
                Failure::from(status).reason,
                format!("the shim at {} refused: {code}", self.socket.display()),
            ),
            _ => Failure::from(status).into(),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Fault {
        let path = self.socket.display();
        let cause = crate::cause(error);
        match error.kind() {
            io::ErrorKind::PermissionDenied => Fault::because(
                Reason::Forbidden,
                format!(
                    "cannot reach a Sternline shim at {path}: {cause}: only the owner of the socket may use it, usually root"
                ),
            ),
            _ => Fault::no_server(format!(
                "cannot reach a Sternline shim at {path}: {cause}: is it running? Name another socket with --socket or STERNLINE_SOCKET"
            )),
        }
    }

    fn broken(&self) -> Fault {
        Fault::no_server(format!(
            "what serves {} broke off: is it a Sternline shim, and is it still running?",
            self.socket.display()
        ))
    }

    fn silent(&self, what: &str) -> Fault {
        Fault::new(
            exit::NO_SERVER,
            format!(
                "the shim at {} did not {what} within {}: is it a Sternline shim? --request-timeout waits longer",
                clean(&self.socket.to_string_lossy()),
                span::short(self.timeout)
            ),
        )
    }
}
