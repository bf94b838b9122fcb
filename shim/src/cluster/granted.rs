//! A binder that takes nobody's word: it binds what a gateway has granted.

use super::Gate;
use crate::binder::deposits::Deposits;
use crate::binder::{BindRequest, Binder, BinderStatus, Bound, Gone, Sandbox, SandboxTarget};
use crate::sandbox::Watched;
use std::sync::Arc;
use std::time::SystemTime;
use sternline_api::v1alpha1::Pod;
use sternline_api::{Failure, Reason};

/// Checks every bind against the grant that comes with it, and then leaves it to
/// another binder. Whoever owns serve binds no more with it than serve did.
pub struct GrantedBinder {
    inner: Arc<dyn Binder>,
    gate: Arc<Gate>,
}

impl GrantedBinder {
    /// Over a binder that does the work.
    #[must_use]
    pub fn new(inner: Arc<dyn Binder>, gate: Arc<Gate>) -> Self {
        Self { inner, gate }
    }
}

#[tonic::async_trait]
impl Binder for GrantedBinder {
    async fn bind(&self, request: BindRequest) -> Result<Bound, Failure> {
        let grant = self.gate.verify(&request.grant, SystemTime::now())?;
        grant.permits(&request.listeners)?;
        // By its full id from here on, which is this pod's for ever.
        let sandbox = self.inner.find(&request.target).await?;
        let pod = sandbox.pod.as_ref().map(Pod::from);
        if pod != grant.pod {
            return Err(Failure::new(
                Reason::Forbidden,
                format!("the grant is not for the pod of sandbox {}", sandbox.id),
            ));
        }
        let target = SandboxTarget::Id(sandbox.id.clone());
        let bound = self.inner.bind(BindRequest { target, ..request }).await?;
        if bound.sandbox != sandbox {
            return Err(Failure::new(
                Reason::SandboxGone,
                format!("sandbox {} is gone: forward again", sandbox.id),
            ));
        }
        Ok(bound)
    }

    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure> {
        self.inner.find(target).await
    }

    async fn watch(&self, sandbox: Watched) -> Result<Gone, Failure> {
        self.inner.watch(sandbox).await
    }

    async fn status(&self) -> BinderStatus {
        self.inner.status().await
    }

    fn deposits(&self) -> Option<Deposits> {
        self.inner.deposits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binder::PodRef;
    use crate::cluster::Bundle;
    use crate::cluster::testing::{Gateway, grant_of_now};
    use crate::netns::NamespaceId;
    use crate::tls::testing::{Authority, Directory};
    use rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    use std::sync::Mutex;
    use sternline_api::listen::{Bind, Listen};

    /// Finds one sandbox, and remembers what was bound.
    struct Fake {
        pod: Option<PodRef>,
        bound: Mutex<Vec<SandboxTarget>>,
    }

    #[tonic::async_trait]
    impl Binder for Fake {
        async fn bind(&self, request: BindRequest) -> Result<Bound, Failure> {
            self.bound.lock().expect("whole").push(request.target);
            Ok(Bound {
                sandbox: self.find(&SandboxTarget::Id("abc".to_owned())).await?,
                namespace: NamespaceId::from_parts(1, 2),
                sockets: Vec::new(),
                gone: Gone::channel().1,
            })
        }

        async fn find(&self, _: &SandboxTarget) -> Result<Sandbox, Failure> {
            Ok(Sandbox {
                id: "abcdef".to_owned(),
                pod: self.pod.clone(),
            })
        }

        async fn watch(&self, _: Watched) -> Result<Gone, Failure> {
            Ok(Gone::channel().1)
        }

        async fn status(&self) -> BinderStatus {
            BinderStatus {
                runtime: "fake".to_owned(),
                trouble: None,
            }
        }
    }

    fn pod(uid: &str) -> PodRef {
        PodRef {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            uid: uid.to_owned(),
        }
    }

    async fn bind(
        pod: Option<PodRef>,
        port: u16,
        signed: bool,
    ) -> (Vec<SandboxTarget>, Result<Bound, Failure>) {
        let (dir, authority) = (Directory::new(), Authority::new("cluster"));
        let path = dir.file("ca.crt", authority.pem().as_bytes());
        let gate = Gate::new("worker-1".to_owned(), Arc::new(Bundle::always(path)));
        let signed =
            signed.then(|| Gateway::of(&authority, &[ClientAuth]).sign(&grant_of_now("worker-1")));
        let fake = Arc::new(Fake {
            pod,
            bound: Mutex::default(),
        });
        let binder = GrantedBinder::new(Arc::clone(&fake) as Arc<dyn Binder>, Arc::new(gate));
        let request = BindRequest {
            target: SandboxTarget::Id("abc".to_owned()),
            listeners: vec![Listen {
                id: 0,
                bind: Bind::Loopback,
                port,
            }],
            backlog: 1,
            grant: signed.unwrap_or_default(),
        };
        let bound = binder.bind(request).await;
        let asked = fake.bound.lock().expect("whole").clone();
        (asked, bound)
    }

    #[tokio::test]
    async fn what_is_granted_is_bound_in_the_sandbox_that_was_looked_at() {
        let (asked, bound) = bind(Some(pod("u1")), 8080, true).await;
        bound.expect("bound");
        assert_eq!(asked, [SandboxTarget::Id("abcdef".to_owned())]);
    }

    #[tokio::test]
    async fn what_is_not_granted_never_reaches_the_sandbox() {
        for (pod, port, signed, what) in [
            (Some(pod("u1")), 8080, false, "missing"),
            (Some(pod("u1")), 8081, true, "does not permit"),
            (Some(pod("u2")), 8080, true, "not for the pod"),
            (None, 8080, true, "not for the pod"),
        ] {
            let (asked, bound) = bind(pod, port, signed).await;
            let failure = bound.expect_err(what);
            assert_eq!(failure.reason, Reason::Forbidden);
            assert!(failure.message.contains(what), "{failure}");
            assert!(asked.is_empty(), "{what}");
        }
    }
}
