//! One forward, from what is asked for to bytes that flow.
//!
//! ```text
//! parse -> room -> may it, and where does it lead -> grant -> call -> stream -> 101 -> carry
//! ```

use crate::audit::{About, Audit, Event};
use crate::authority::Material;
use crate::carry::carry;
use crate::form::Form;
use crate::grant::{self, millis};
use crate::identity::User;
use crate::metrics;
use crate::node::{Node, Secret, Stream};
use crate::request::ForwardRequest;
use crate::route::{Route, Router};
use crate::server::Peer;
use crate::sessions::{Sessions, Slot};
use http::{HeaderMap, Request, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use sternline_api::protocol::TICKET_HEADER;
use sternline_api::v1alpha1 as pb;
use sternline_api::{Failure, Reason};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long the API server may take to be handed over after the 101.
const HAND_OVER: Duration = Duration::from_secs(10);

/// Makes forwards.
pub struct Forwards {
    /// Decides, and finds the way.
    pub router: Router,
    /// What there is of the authority.
    pub material: watch::Receiver<Option<Arc<Material>>>,
    /// Room.
    pub sessions: Arc<Sessions>,
    /// What is written down.
    pub audit: Arc<Audit>,
    /// How long grants are good.
    pub grant_lifetime: Duration,
    /// Longest hold that is granted.
    pub max_hold: Duration,
}

/// What a request asks for.
struct Wish {
    asked: ForwardRequest,
    form: Form,
    /// Of a session that is there already.
    ticket: Option<Secret>,
}

impl Forwards {
    /// Opens a forward; the fields of the 101. The tunnel is carried in a task of
    /// its own once that is sent.
    ///
    /// # Errors
    /// Why not, told to the audit log too.
    pub async fn open(
        &self,
        request: &mut Request<Incoming>,
        user: &User,
        peer: &Peer,
    ) -> Result<HeaderMap, Failure> {
        let begun = Instant::now();
        let (namespace, pod) = place(request.uri());
        let mut told = Told::later(&self.audit, About::new(user, namespace, pod));
        let prepared = self.prepare(request, user, &mut told.about).await;
        let (slot, stream) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                metrics::refused(failure.reason);
                told.tell(Event::Refused(&failure));
                return Err(failure);
            }
        };
        metrics::set_up(begun.elapsed());
        let Stream { answer, io } = stream;
        let upgrade = hyper::upgrade::on(request);
        let (over, active) = (self.sessions.over(), peer.keep());
        self.sessions.carry(async move {
            let _held = (slot, active);
            let client = match timeout(HAND_OVER, upgrade).await {
                Ok(Ok(client)) => TokioIo::new(client),
                _ => {
                    tracing::debug!("a client went away during the Upgrade");
                    return;
                }
            };
            told.tell(Event::TunnelStart);
            let begun = Instant::now();
            let carried = carry(client, io, over).await;
            let open = begun.elapsed();
            metrics::tunnel_ended(open);
            told.tell(Event::TunnelEnd(carried, open));
        });
        Ok(answer)
    }

    async fn prepare(
        &self,
        request: &Request<Incoming>,
        user: &User,
        about: &mut About,
    ) -> Result<(Slot, Stream), Failure> {
        let Wish {
            asked,
            form,
            ticket,
        } = self.read(request)?;
        about.asks(&asked, ticket.is_some());
        let slot = self.sessions.enter(&user.name, ticket.is_some())?;
        let route = self.router.route(user, &asked).await?;
        tracing::debug!(user = user.name, pod = ?route.pod, node = route.node, shim = %route.shim, "may, and leads there");
        let material = self.material.borrow().clone().ok_or_else(|| {
            Failure::new(
                Reason::ClusterUnavailable,
                "the gateway has no certificate yet: try again",
            )
        })?;
        let now = SystemTime::now();
        let signed = grant::sign(&material, user, &asked, &route, self.grant_lifetime, now)?;
        about.leads(&route, &signed.id);
        let node = Node {
            route: &route,
            material: &material,
        };
        let (secret, mut unused) = match ticket {
            Some(ticket) => (ticket, None),
            None => {
                let call = call(user, &asked, &route, signed.bytes.clone());
                let (session_id, token) = node.call(call).await?;
                about.made(&session_id);
                tracing::debug!(session_id, node = route.node, "the node listens");
                let unused = Unused(Some((route.clone(), Arc::clone(&material), session_id)));
                (token, Some(unused))
            }
        };
        let stream = node.stream(&secret, &form, &signed.bytes).await?;
        if let Some(unused) = &mut unused {
            unused.0 = None;
        }
        Ok((slot, stream))
    }

    fn read(&self, request: &Request<Incoming>) -> Result<Wish, Failure> {
        let uri = request.uri();
        let (namespace, pod) = place(uri);
        let asked = ForwardRequest::parse(namespace, pod, uri.query().unwrap_or_default())?;
        if asked.hold > self.max_hold {
            return Err(Failure::new(
                Reason::InvalidRequest,
                format!(
                    "a hold of {} is more than this gateway grants: ask for {} at most",
                    sternline_api::span::exact(asked.hold),
                    sternline_api::span::exact(self.max_hold)
                ),
            ));
        }
        let form = Form::read(request.version(), request.headers())?;
        let ticket = request.headers().get(TICKET_HEADER);
        let ticket = ticket.map(|value| Secret::read(value.to_str().unwrap_or("?")));
        Ok(Wish {
            asked,
            form,
            ticket: ticket.transpose()?,
        })
    }
}

fn place(uri: &Uri) -> (&str, &str) {
    ForwardRequest::place(uri.path()).unwrap_or_default()
}

fn call(
    user: &User,
    asked: &ForwardRequest,
    route: &Route,
    grant: Vec<u8>,
) -> pb::ReversePortForwardRequest {
    pb::ReversePortForwardRequest {
        target: Some(pb::Target {
            by: Some(pb::target::By::Pod(route.pod.clone())),
        }),
        listeners: grant::listeners(asked),
        options: Some(pb::SessionOptions {
            hold_ms: millis(asked.hold),
            ..pb::SessionOptions::default()
        }),
        requester: Some(grant::requester(user)),
        grant,
    }
}

/// What is to be recorded of a forward. Dropped before anything was, because the
/// client went away meanwhile, it is recorded as abandoned: the node may have made a
/// session by then.
struct Told {
    audit: Arc<Audit>,
    about: About,
    something: bool,
}

impl Told {
    fn later(audit: &Arc<Audit>, about: About) -> Self {
        Self {
            audit: Arc::clone(audit),
            about,
            something: false,
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        self.something = true;
        self.audit.record(&self.about, event, SystemTime::now());
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.something {
            self.tell(Event::Abandoned);
        }
    }
}

/// A session that was made and is not streamed yet. Dropped so, whatever the cause,
/// it is ended: its ports would be taken until its token expires.
struct Unused(Option<(Route, Arc<Material>, String)>);

impl Drop for Unused {
    fn drop(&mut self) {
        if let Some((route, material, session_id)) = self.0.take() {
            tokio::spawn(async move {
                let node = Node {
                    route: &route,
                    material: &material,
                };
                node.stop(session_id).await;
            });
        }
    }
}
