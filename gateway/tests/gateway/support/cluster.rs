//! A cluster as it is installed, and a gateway in it.

use super::client::Asker;
use super::pki::{Authority, Pair};
use super::{Fake, LONG, until};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Parser as _;
use serde_json::{Value, json};
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use sternline_gateway::app::App;
use sternline_gateway::authority::Keyring;
use sternline_gateway::config::{Cli, Config};
use sternline_gateway::kube::Api;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(crate) const SECRET: &str = "/api/v1/namespaces/sternline/secrets/sternline-authority";
pub(crate) const MAP: &str = "/api/v1/namespaces/sternline/configmaps/sternline-authority";
pub(crate) const SERVICE: &str =
    "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.reverse.sternline.dev";
pub(crate) const SETTINGS: &str =
    "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

/// A Kubernetes API that was made up, and its front proxy.
pub(crate) struct Cluster {
    pub(crate) api: Arc<Fake>,
    pub(crate) proxy: Pair,
}

impl Cluster {
    /// As it is once Sternline was installed.
    pub(crate) fn installed() -> Self {
        let api = Fake::default();
        for path in [SECRET, MAP, SERVICE] {
            api.put(path, json!({"metadata": {"resourceVersion": "1"}}));
        }
        let authority = Authority::new("front-proxy-ca");
        let proxy = authority.issue("front-proxy");
        let cluster = Self {
            api: Arc::new(api),
            proxy,
        };
        cluster.trust(&authority);
        cluster
    }

    /// Has a pod `shop/web-0` on node `worker-1`, whose shim is at this address, and
    /// a user `ada` who may forward there.
    pub(crate) fn with_pod(&self, shim: IpAddr) {
        let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        self.api.answers(reviews, |review| {
            let spec = &review["spec"];
            let narrow = spec["resourceAttributes"]["subresource"] == "portforward";
            json!({"status": {"allowed": spec["user"] == "ada" && narrow}})
        });
        self.api
            .put("/api/v1/namespaces/shop", json!({"metadata": {}}));
        let policies = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";
        self.api.put(policies, json!({"items": []}));
        self.api.put(
            "/api/v1/namespaces/shop/pods/web-0",
            json!({
                "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1"},
                "spec": {"nodeName": "worker-1"},
                "status": {"phase": "Running"},
            }),
        );
        let shims = "/api/v1/namespaces/sternline/pods?fieldSelector=spec.nodeName%3Dworker%2D1";
        self.api.put(
            shims,
            json!({"items": [{
                "metadata": {"ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "sternline-shim", "controller": true},
                ]},
                "spec": {"nodeName": "worker-1"},
                "status": {"phase": "Running", "podIP": shim.to_string()},
            }]}),
        );
    }

    /// The authority of gateways and nodes, as the Secret has it.
    pub(crate) fn ring(&self) -> Keyring {
        let secret = self.api.object(SECRET);
        let data = secret["data"].as_object().expect("filled");
        let data = data.iter().map(|(name, value)| {
            let bytes = BASE64_STANDARD.decode(value.as_str().expect("text"));
            (name.clone(), bytes.expect("base64"))
        });
        let ring = Keyring::from_secret(&data.collect()).expect("sound");
        ring.expect("filled")
    }

    /// Has this authority sign front proxies.
    pub(crate) fn trust(&self, authority: &Authority) {
        let settings = json!({
            "metadata": {"resourceVersion": "1"},
            "data": {
                "requestheader-client-ca-file": authority.pem(),
                "requestheader-allowed-names": "[\"front-proxy\"]",
                "requestheader-username-headers": "[\"X-Remote-User\"]",
                "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
                "requestheader-group-headers": "[\"X-Remote-Group\"]",
                "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            },
        });
        self.api.put(SETTINGS, settings);
    }
}

/// What was written, for whoever looks.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A gateway that serves.
pub(crate) struct Gateway {
    /// Whoever asks without a certificate.
    pub(crate) stranger: Asker,
    /// The API server.
    pub(crate) proxy: Asker,
    /// Its audit log.
    pub(crate) audit: Written,
    orders: mpsc::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

pub(crate) fn config(flags: &[&str]) -> Config {
    let fixed = ["sternline-gateway", "--address", "127.0.0.1:0"];
    let fixed = [&fixed[..], &["--namespace", "sternline"], flags].concat();
    Cli::try_parse_from(fixed).expect("flags").config()
}

impl Gateway {
    pub(crate) async fn start(cluster: &Cluster, flags: &[&str]) -> Self {
        let api = Arc::clone(&cluster.api) as Arc<dyn Api>;
        let audit = Written::default();
        let app = App::bind_with(config(flags), api, audit.clone()).await;
        let app = app.expect("bound");
        let address = app.addresses.address;
        let (orders, taken) = mpsc::channel(2);
        let running = tokio::spawn(app.run(taken));
        let bundle = until(async || {
            let map = cluster.api.object(MAP);
            map["data"]["ca.crt"].as_str().map(str::to_owned)
        });
        let stranger = Asker {
            address,
            bundle: bundle.await,
            name: "sternline-gateway.sternline.svc".to_owned(),
            pair: None,
        };
        until(async || (stranger.get("/readyz", &[]).await.0 == 200).then_some(())).await;
        Self {
            proxy: stranger.showing(&cluster.proxy),
            stranger,
            audit,
            orders,
            running,
        }
    }

    /// The first record of this event, once it is there.
    pub(crate) async fn recorded(&self, event: &str) -> Value {
        until(async || {
            let written = self.audit.0.lock().expect("nobody panicked").clone();
            let written = String::from_utf8(written).expect("text");
            let mut lines = written
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            lines.find(|line: &Value| line["event"] == event)
        })
        .await
    }

    /// Tells it to go.
    pub(crate) async fn order(&self) {
        self.orders.send(()).await.expect("room");
    }

    /// Waits until it is gone.
    pub(crate) async fn gone(self) {
        let ended = tokio::time::timeout(LONG, self.running).await;
        ended
            .expect("in time")
            .expect("no panic")
            .expect("in order");
    }
}
