//! A cluster as it is installed, and a gateway in it.

use super::client::Asker;
use super::pki::{Authority, Pair};
use super::{Fake, LONG, until};
use clap::Parser as _;
use serde_json::json;
use std::sync::Arc;
use sternline_gateway::app::App;
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

/// A gateway that serves.
pub(crate) struct Gateway {
    /// Whoever asks without a certificate.
    pub(crate) stranger: Asker,
    /// The API server.
    pub(crate) proxy: Asker,
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
        let app = App::bind_with(config(flags), api).await.expect("bound");
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
            orders,
            running,
        }
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
