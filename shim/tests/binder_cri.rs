//! The binder before a container runtime that misbehaves. What real runtimes do
//! is tested with real ones.

mod binder_support;
#[path = "binder_support/runtime.rs"]
mod runtime;

use binder_support::{Lodger, Namespaces, form::Formed, inside, loopback, loopback_up};
use runtime::{FakeRuntime, FakeSandbox, Mood};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};
use sternline_api::{Failure, Reason};
use sternline_shim::{
    binder::{BindRequest, Bound, LocalBinder, PodRef, SandboxTarget},
    sandbox::cri::{CriOptions, CriSource},
};
use tokio::time::{sleep, timeout};

const POLL: Duration = Duration::from_millis(100);

/// Patience with the fake runtime, shorter than with a real one.
const CALL: Duration = Duration::from_secs(1);

/// Bound on news, for a busy machine.
const SOON: Duration = Duration::from_secs(20);

async fn binder(runtime: &FakeRuntime) -> Formed {
    allowing(runtime, &[]).await
}

async fn allowing(runtime: &FakeRuntime, handlers: &[&str]) -> Formed {
    let handlers = handlers.iter().map(|&handler| handler.to_owned());
    let mut options = CriOptions::new(&runtime.endpoint(), handlers.collect());
    options.call_timeout = CALL;
    let source = CriSource::new(options).expect("source");
    Formed::of(LocalBinder::new(source, false, POLL)).await
}

/// A whole id that begins so.
fn id(start: &str) -> String {
    format!("{start:0<64}")
}

fn pod(name: &str, uid: &str) -> SandboxTarget {
    SandboxTarget::Pod(PodRef {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    })
}

async fn bind(binder: &Formed, target: SandboxTarget) -> Result<Bound, Failure> {
    let request = BindRequest {
        target,
        listeners: vec![loopback(0, 8080)],
        backlog: 16,
        grant: Vec::new(),
    };
    binder.bind(request).await
}

async fn bind_id(binder: &Formed, id: &str) -> Result<Bound, Failure> {
    bind(binder, SandboxTarget::Id(id.to_owned())).await
}

async fn refusal(binder: &Formed, id: &str) -> Failure {
    bind_id(binder, id).await.expect_err("refused")
}

fn answers(namespace: &Path) -> bool {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    inside(namespace, move || TcpStream::connect(addr)).is_ok()
}

story! {
    async fn a_pod_is_found_by_prefix_id_and_uid_and_bound_in() {
        let spaces = Namespaces::new();
        let (old, new) = (spaces.add("old"), spaces.add("new"));
        let runtime = FakeRuntime::start(&spaces.dir(), vec![
            FakeSandbox::new(&id("aa"), &old).of_pod("web", "u1", 1),
            FakeSandbox::new(&id("ab"), &new).of_pod("web", "u1", 2),
        ]);
        let binder = binder(&runtime).await;
        for (target, expected, namespace) in [
            (SandboxTarget::Id("aa".to_owned()), id("aa"), &old),
            (SandboxTarget::Id(id("aa")), id("aa"), &old),
            (pod("web", "u1"), id("ab"), &new),
        ] {
            assert_eq!(binder.find(&target).await.expect("found").id, expected);
            let bound = bind(&binder, target.clone()).await.expect("bound");
            assert_eq!(bound.sandbox.id, expected);
            assert_eq!(bound.sandbox.pod.as_ref().map(|pod| pod.uid.as_str()), Some("u1"));
            assert!(answers(namespace));
        }
        let status = binder.status().await;
        assert_eq!((status.runtime.as_str(), status.trouble), ("fake 1.2.3", None));
    }
}

story! {
    async fn what_is_not_one_sandbox_is_refused_each_in_its_way() {
        let spaces = Namespaces::new();
        let path = spaces.add("web");
        let runtime = FakeRuntime::start(&spaces.dir(), vec![
            FakeSandbox::new(&id("aa"), &path).of_pod("web", "u1", 1),
            FakeSandbox::new(&id("ab"), &path).of_pod("web", "u0", 2),
        ]);
        runtime.set_ready(&id("ab"), false);
        let binder = binder(&runtime).await;
        for malformed in ["", "web", "AA", "../aa", "aa\n"] {
            assert_eq!(refusal(&binder, malformed).await.reason, Reason::InvalidRequest);
        }
        assert_eq!(runtime.calls(), 0, "nothing was contacted");
        let failure = refusal(&binder, "a").await;
        assert_eq!(failure.reason, Reason::SandboxAmbiguous);
        assert!(failure.message.contains("aa00"), "{failure}");
        assert_eq!(refusal(&binder, "b").await.reason, Reason::SandboxNotFound);
        assert_eq!(refusal(&binder, &id("b")).await.reason, Reason::SandboxNotFound);
        assert_eq!(refusal(&binder, "ab").await.reason, Reason::SandboxNotReady);

        for (name, uid, reason) in [
            ("web", "u0", Reason::PodReplaced),
            ("web", "u9", Reason::PodReplaced),
            ("db", "u1", Reason::SandboxNotFound),
            ("web", "", Reason::InvalidRequest),
        ] {
            let failure = bind(&binder, pod(name, uid)).await.expect_err("refused");
            assert_eq!(failure.reason, reason, "{failure}");
        }
    }
}

story! {
    async fn host_network_is_refused_also_where_the_path_hides_it() {
        let spaces = Namespaces::new();
        // The node's namespace, seen by a binder that is not in it itself.
        let node = spaces.add("node");
        let again = spaces.adopt("again", &node);
        let own = spaces.adopt("own", Path::new("/proc/self/ns/net"));
        let web = spaces.add("web");
        let runtime = FakeRuntime::start(&spaces.dir(), vec![
            FakeSandbox::crio(&id("a0"), &web),
            FakeSandbox::crio(&id("a1"), &again),
            FakeSandbox::crio(&id("a2"), &own),
            FakeSandbox::crio(&id("a3"), &node).on_node_network(),
        ]);
        let binder = binder(&runtime).await;
        for hidden in ["a1", "a2", "a3"] {
            let failure = refusal(&binder, hidden).await;
            assert_eq!(failure.reason, Reason::HostNetwork, "{hidden}: {failure}");
        }
        bind_id(&binder, "a0").await.expect("that one has its own");
        assert!(!answers(&node));

        // Known once, the runtime is not asked about every sandbox again.
        let before = runtime.calls();
        drop(bind_id(&binder, "a0").await);
        assert!(runtime.calls() - before <= 4, "list, status, and looks");
    }
}

story! {
    async fn virtual_machines_are_refused_unless_allowed() {
        let spaces = Namespaces::new();
        let path = spaces.add("web");
        let runtime = FakeRuntime::start(
            &spaces.dir(),
            vec![FakeSandbox::crio(&id("aa"), &path).with_handler("kata")],
        );
        let failure = refusal(&binder(&runtime).await, "aa").await;
        assert_eq!(failure.reason, Reason::VmRuntime);
        assert!(failure.message.contains("kata"), "{failure}");
        bind_id(&allowing(&runtime, &["kata"]).await, "aa").await.expect("allowed");
    }
}

story! {
    async fn a_stale_or_missing_path_is_unreachable() {
        let spaces = Namespaces::new();
        let stale = spaces.add("stale");
        spaces.unmount("stale");
        let runtime = FakeRuntime::start(&spaces.dir(), vec![
            FakeSandbox::new(&id("a0"), &stale),
            FakeSandbox::new(&id("a1"), &spaces.path("missing")),
        ]);
        let binder = binder(&runtime).await;
        for (prefix, name) in [("a0", "stale"), ("a1", "missing")] {
            let failure = refusal(&binder, prefix).await;
            assert_eq!(failure.reason, Reason::NamespaceUnreachable, "{failure}");
            let path = spaces.path(name);
            assert!(failure.message.contains(path.to_str().expect("utf-8")), "{failure}");
        }
    }
}

story! {
    async fn without_a_path_the_first_process_leads_inside() {
        let spaces = Namespaces::new();
        let lodger = Lodger::start(&["--net"]);
        inside(&lodger.namespace(), loopback_up);
        let info = |pid: u32| serde_json::json!({"pid": pid, "runtimeType": "io.containerd.runc.v2"}).to_string();
        let runtime = FakeRuntime::start(&spaces.dir(), vec![
            FakeSandbox::with_info(&id("a0"), info(lodger.pid())),
            FakeSandbox::with_info(&id("a1"), info(std::process::id())),
        ]);
        let binder = binder(&runtime).await;
        let bound = bind_id(&binder, "a0").await.expect("bound");
        assert!(answers(&lodger.namespace()));
        drop(bound);
        assert_eq!(refusal(&binder, "a1").await.reason, Reason::HostNetwork);
        drop(lodger);
        let failure = refusal(&binder, "a0").await;
        assert_eq!(failure.reason, Reason::NamespaceUnreachable, "{failure}");
    }
}

story! {
    async fn a_runtime_that_does_not_answer_well_is_named() {
        let spaces = Namespaces::new();
        let path = spaces.add("web");
        let runtime = FakeRuntime::start(&spaces.dir(), vec![FakeSandbox::new(&id("aa"), &path)]);
        let binder = binder(&runtime).await;
        for (mood, word) in [
            (Mood::Silent, "did not answer"),
            (Mood::Failing, "not initialized"),
            (Mood::Ancient, "CRI v1"),
            (Mood::WrongSandbox, "0123"),
            (Mood::NoStatus, "told nothing"),
        ] {
            runtime.set_mood(mood.clone());
            let refused = timeout(SOON, refusal(&binder, "aa")).await;
            let failure = refused.unwrap_or_else(|_| panic!("{mood:?} is not bounded"));
            assert_eq!(failure.reason, Reason::RuntimeUnavailable, "{mood:?}: {failure}");
            assert!(failure.message.contains(word), "{mood:?}: {failure}");
            let socket = runtime.socket.to_str().expect("utf-8");
            assert!(failure.message.contains(socket), "{mood:?}: {failure}");
            assert!(!failure.message.contains(['\n', '\x1b']), "{failure:?}");
        }
        runtime.set_mood(Mood::Failing);
        assert!(binder.status().await.trouble.is_some());
        runtime.set_mood(Mood::Honest);
        bind_id(&binder, "aa").await.expect("bound");
    }
}

story! {
    async fn huge_and_malformed_answers_are_refused() {
        let spaces = Namespaces::new();
        let path = spaces.add("web");
        let huge = format!(r#"{{"x":"{}"}}"#, "y".repeat(5 << 20));
        let runtime = FakeRuntime::start(&spaces.dir(), vec![
            FakeSandbox::with_info(&id("a0"), huge),
            FakeSandbox::with_info(&id("a1"), "{\"pid\":\"one\"}".to_owned()),
            FakeSandbox::with_info(&id("a2"), "[".repeat(100_000)),
            FakeSandbox::with_info(&id("a3"), "{}".to_owned()),
        ]);
        let binder = binder(&runtime).await;
        for (prefix, reason) in [
            ("a0", Reason::RuntimeUnavailable),
            ("a1", Reason::RuntimeUnavailable),
            ("a2", Reason::RuntimeUnavailable),
            ("a3", Reason::NamespaceUnreachable),
        ] {
            let failure = refusal(&binder, prefix).await;
            assert_eq!(failure.reason, reason, "{failure}");
            assert!(failure.message.len() < 1000);
        }
        // A list of more than 16 MiB.
        let mut fat = FakeSandbox::new(&id("b0"), &path);
        fat.listed.annotations.insert("x".to_owned(), "y".repeat(17 << 20));
        runtime.told().sandboxes.push(fat);
        assert_eq!(refusal(&binder, "a3").await.reason, Reason::RuntimeUnavailable);
    }
}

story! {
    async fn a_stopped_or_removed_sandbox_is_told_to_be_gone() {
        let spaces = Namespaces::new();
        let (a, b, c) = (spaces.add("a"), spaces.add("b"), spaces.add("c"));
        let runtime = FakeRuntime::start(&spaces.dir(), vec![
            FakeSandbox::new(&id("a"), &a),
            FakeSandbox::new(&id("b"), &b),
            FakeSandbox::new(&id("c"), &c),
        ]);
        let binder = LocalBinder::cri(&runtime.endpoint(), Vec::new(), false, Duration::from_millis(500))
            .expect("binder");
        let binder = Formed::of(binder).await;
        let mut stopped = bind_id(&binder, "a").await.expect("bound");
        let mut removed = bind_id(&binder, "b").await.expect("bound");
        let mut lives = bind_id(&binder, "c").await.expect("bound");
        runtime.set_ready(&id("a"), false);
        runtime.told().sandboxes.retain(|one| one.listed.id != id("b"));
        let told = timeout(SOON, async {
            (stopped.gone.wait().await, removed.gone.wait().await)
        });
        let (stopped, removed) = told.await.expect("told");
        assert!(stopped.contains("was stopped"), "{stopped}");
        assert!(removed.contains("was removed"), "{removed}");
        assert!(timeout(POLL, lives.gone.wait()).await.is_err(), "that one lives");

        // One list per interval, whatever is watched; none when nothing is.
        drop(lives);
        let quiet = async {
            loop {
                let calls = runtime.calls();
                sleep(Duration::from_millis(1200)).await;
                if runtime.calls() == calls {
                    return;
                }
            }
        };
        timeout(SOON, quiet).await.expect("nothing is asked any more");
    }
}

story! {
    async fn trouble_with_the_runtime_never_ends_a_session() {
        let spaces = Namespaces::new();
        let path = spaces.add("web");
        let mut runtime = FakeRuntime::start(&spaces.dir(), vec![FakeSandbox::new(&id("aa"), &path)]);
        let binder = binder(&runtime).await;
        let mut bound = bind_id(&binder, "aa").await.expect("bound");
        for mood in [
            Mood::Failing,
            Mood::Silent,
            Mood::Ancient,
            Mood::EmptyLists,
            Mood::NoStatus,
        ] {
            runtime.set_mood(mood.clone());
            let kept = timeout(CALL * 2, bound.gone.wait()).await;
            assert!(kept.is_err(), "{mood:?}: {kept:?}");
        }
        runtime.set_mood(Mood::Honest);

        runtime.stop();
        assert!(timeout(POLL * 5, bound.gone.wait()).await.is_err());
        let trouble = binder.status().await.trouble.expect("it is said");
        assert!(trouble.contains("cannot be reached"), "{trouble}");
        assert_eq!(binder.status().await.runtime, "unknown");
        assert!(answers(&path), "the session lives on");

        runtime.restart();
        assert!(timeout(POLL * 5, bound.gone.wait()).await.is_err());
        let healed = async {
            while binder.status().await.trouble.is_some() {
                sleep(POLL).await;
            }
        };
        timeout(SOON, healed).await.expect("healed");
        runtime.set_ready(&id("aa"), false);
        timeout(SOON, bound.gone.wait()).await.expect("told again");
    }
}
