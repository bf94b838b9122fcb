//! The binder over real network namespaces, standalone.

mod binder_support;

use binder_support::{
    Census, Lodger, Namespaces, at, form::Formed, inside, loopback, loopback_up, set_sysctl,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use sternline_api::{Failure, Reason, listen::Listen};
use sternline_shim::{
    binder::{BindRequest, Bound, SandboxTarget},
    netns::{NamespaceId, Netns},
};
use tokio::time::{sleep, timeout};

const POLL: Duration = Duration::from_millis(100);

/// Bound on news, for a busy machine.
const SOON: Duration = Duration::from_secs(20);

async fn binder(namespaces: &Namespaces) -> Formed {
    Formed::standalone(namespaces.dir(), false, POLL).await
}

async fn bind(binder: &Formed, sandbox: &str, listeners: &[Listen]) -> Result<Bound, Failure> {
    let request = BindRequest {
        target: SandboxTarget::Id(sandbox.to_owned()),
        listeners: listeners.to_vec(),
        backlog: 16,
        grant: Vec::new(),
    };
    binder.bind(request).await
}

async fn refusal(binder: &Formed, sandbox: &str, listeners: &[Listen]) -> Failure {
    bind(binder, sandbox, listeners).await.expect_err("refused")
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn addresses(bound: &Bound) -> Vec<SocketAddr> {
    bound.sockets.iter().map(|socket| socket.addr).collect()
}

story! {
    async fn a_listener_is_in_the_sandbox_and_nowhere_else() {
        loopback_up();
        let namespaces = Namespaces::new();
        namespaces.add("web");
        namespaces.add("other");
        let bound = bind(&binder(&namespaces).await, "web", &[loopback(3, 8080)]).await.expect("bound");
        assert_eq!(bound.sandbox.id, "web");
        assert_eq!(addresses(&bound), [v4(8080), "[::1]:8080".parse().expect("address")]);
        assert!(bound.sockets.iter().all(|socket| socket.listener_id == 3));

        for addr in addresses(&bound) {
            namespaces.inside("web", move || TcpStream::connect(addr)).expect("it listens");
        }
        let refused = namespaces.inside("other", || TcpStream::connect(v4(8080)));
        assert_eq!(refused.expect_err("not there").kind(), ErrorKind::ConnectionRefused);
        let refused = TcpStream::connect(v4(8080));
        assert_eq!(refused.expect_err("not here").kind(), ErrorKind::ConnectionRefused);

        // Non-blocking: a tokio listener takes it as it is.
        let socket = bound.sockets.into_iter().next().expect("one").socket;
        let socket = tokio::net::TcpListener::from_std(socket).expect("tokio");
        let accepted = timeout(Duration::from_secs(5), socket.accept()).await;
        accepted.expect("in time").expect("accepted");
    }
}

story! {
    async fn one_taken_port_leaves_none_bound() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let app = namespaces.inside("web", || TcpListener::bind("0.0.0.0:8081")).expect("app");
        let binder = binder(&namespaces).await;
        let wanted = [loopback(0, 8080), loopback(1, 8081), loopback(2, 8082)];
        let failure = refusal(&binder, "web", &wanted).await;
        assert_eq!(failure.reason, Reason::PortInUse);
        assert!(
            failure.message.starts_with("127.0.0.1:8081 is already in use in sandbox web"),
            "{failure}"
        );
        for port in [8080, 8082] {
            namespaces.inside("web", move || TcpListener::bind(v4(port))).expect("free");
        }
        drop(app);
        bind(&binder, "web", &wanted).await.expect("free now");
    }
}

story! {
    async fn a_taken_port_names_the_process_that_has_it() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        namespaces.add("other");
        let binder = binder(&namespaces).await;
        let dual = |addr: &'static str| TcpListener::bind(addr).expect("app");
        for (app, wanted, refused) in [
            ("127.0.0.1:8080", loopback(0, 8080), "127.0.0.1:8080"),
            ("[::1]:8080", loopback(0, 8080), "[::1]:8080"),
            ("0.0.0.0:8080", loopback(0, 8080), "127.0.0.1:8080"),
            ("[::]:8080", loopback(0, 8080), "127.0.0.1:8080"),
            ("[::]:8080", at(0, "::1", 8080), "[::1]:8080"),
        ] {
            // Its standard input is the socket.
            let app = namespaces.inside("web", move || {
                let socket = std::os::fd::OwnedFd::from(dual(app));
                std::process::Command::new("sleep").arg("300").stdin(socket).spawn()
            });
            let mut app = app.expect("sleep(1) starts");
            let said = format!(
                "{refused} is already in use by sleep (pid {}) in sandbox web: ",
                app.id()
            );
            // Until it runs, it is called otherwise.
            let deadline = Instant::now() + Duration::from_secs(10);
            let failure = loop {
                let failure = refusal(&binder, "web", &[loopback(1, 8081), wanted]).await;
                if failure.message.starts_with(&said) || Instant::now() > deadline {
                    break failure;
                }
            };
            assert_eq!(failure.reason, Reason::PortInUse);
            assert!(failure.message.starts_with(&said), "{failure}");
            bind(&binder, "other", &[wanted]).await.expect("not its business");
            app.kill().expect("killed");
            app.wait().expect("gone");
        }
    }
}

story! {
    async fn of_many_who_want_one_port_one_gets_it() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let binder = Arc::new(binder(&namespaces).await);
        let attempts: Vec<_> = (0..50)
            .map(|_| {
                let binder = Arc::clone(&binder);
                tokio::spawn(async move { bind(&binder, "web", &[loopback(0, 8080)]).await })
            })
            .collect();
        let mut won = Vec::new();
        for attempt in attempts {
            match attempt.await.expect("ran") {
                Ok(bound) => won.push(bound),
                Err(failure) => assert_eq!(failure.reason, Reason::PortInUse, "{failure}"),
            }
        }
        assert_eq!(won.len(), 1);
        assert_eq!(won[0].sockets.len(), 2);
    }
}

story! {
    async fn connections_of_the_past_do_not_block_a_port() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        // The side that closes first keeps the port in TIME_WAIT.
        namespaces.inside("web", || {
            let app = TcpListener::bind(v4(8080)).expect("app");
            let client = TcpStream::connect(v4(8080)).expect("client");
            drop(app.accept().expect("accepted"));
            drop(client);
        });
        bind(&binder(&namespaces).await, "web", &[loopback(0, 8080)]).await.expect("bound");
    }
}

story! {
    async fn loopback_that_is_down_is_said_and_not_announced() {
        let namespaces = Namespaces::new();
        namespaces.add_down("web");
        let binder = binder(&namespaces).await;
        for wanted in [loopback(0, 8080), loopback(0, 0), at(0, "127.0.0.1", 8080)] {
            let failure = refusal(&binder, "web", &[wanted]).await;
            assert_eq!(failure.reason, Reason::AddressUnavailable, "{failure}");
            assert!(failure.message.contains("bring up `lo`"), "{failure}");
        }
        namespaces.inside("web", loopback_up);
        // ::1 comes a moment after the interface.
        bind(&binder, "web", &[at(0, "127.0.0.1", 8080)]).await.expect("bound");
    }
}

story! {
    async fn a_sandbox_without_ipv6_gets_ipv4_alone() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        namespaces.inside("web", || set_sysctl("ipv6/conf/lo/disable_ipv6", "1"));
        let binder = binder(&namespaces).await;
        let bound = bind(&binder, "web", &[loopback(0, 8080), loopback(1, 0)]).await.expect("bound");
        assert_eq!(bound.sockets.len(), 2);
        assert!(addresses(&bound).iter().all(SocketAddr::is_ipv4));
        let failure = refusal(&binder, "web", &[at(0, "::1", 9090)]).await;
        assert_eq!(failure.reason, Reason::AddressUnavailable);
        assert!(failure.message.contains("[::1]:9090"), "{failure}");
    }
}

story! {
    async fn a_free_port_is_free_in_both_families() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        // Eight ports, seven of them taken for IPv6 alone.
        let others = namespaces.inside("web", || {
            set_sysctl("ipv4/ip_local_port_range", "40000 40007");
            let taken = (40000..40008).filter(|port| *port != 40005);
            taken.map(|port| TcpListener::bind(("::1", port)).expect("taken")).collect::<Vec<_>>()
        });
        let binder = binder(&namespaces).await;
        let bound = bind(&binder, "web", &[loopback(0, 0)]).await.expect("bound");
        assert_eq!(addresses(&bound), [v4(40005), "[::1]:40005".parse().expect("address")]);

        let failure = refusal(&binder, "web", &[loopback(0, 0)]).await;
        assert_eq!(failure.reason, Reason::PortInUse);
        assert!(failure.message.contains("no free port"), "{failure}");
        drop(others);
        bind(&binder, "web", &[loopback(0, 0)]).await.expect("nothing stayed bound");
    }
}

story! {
    async fn a_free_port_is_not_one_that_was_asked_for() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        namespaces.inside("web", || set_sysctl("ipv4/ip_local_port_range", "40000 40001"));
        let wanted = [loopback(0, 0), loopback(1, 40000)];
        let bound = bind(&binder(&namespaces).await, "web", &wanted).await.expect("bound");
        let ids: Vec<_> = bound.sockets.iter().map(|socket| socket.listener_id).collect();
        assert_eq!(ids, [0, 0, 1, 1]);
        assert_eq!(bound.sockets[0].addr, v4(40001));
        assert_eq!(bound.sockets[2].addr, v4(40000));
    }
}

story! {
    async fn wide_is_denied_unless_the_binder_allows_it() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let wanted = [loopback(0, 8080), at(1, "0.0.0.0", 8081)];
        let failure = refusal(&binder(&namespaces).await, "web", &wanted).await;
        assert_eq!(failure.reason, Reason::WideBindDenied);
        assert!(failure.message.contains("0.0.0.0:8081"), "{failure}");

        let wide = Formed::standalone(namespaces.dir(), true, POLL).await;
        let bound = bind(&wide, "web", &wanted).await.expect("bound");
        assert!(bound.sockets.iter().any(|socket| socket.addr.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    }
}

story! {
    async fn nothing_asked_for_is_an_invalid_request() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let failure = refusal(&binder(&namespaces).await, "web", &[]).await;
        assert_eq!(failure.reason, Reason::InvalidRequest);
    }
}

story! {
    async fn sandboxes_are_found_by_prefix_or_refused_each_in_its_way() {
        let namespaces = Namespaces::new();
        for name in ["web-1", "web-2", "db-1"] {
            namespaces.add(name);
        }
        let binder = binder(&namespaces).await;
        let bound = bind(&binder, "db", &[loopback(0, 0)]).await.expect("bound");
        assert_eq!(bound.sandbox.id, "db-1");
        let failure = refusal(&binder, "web", &[loopback(0, 0)]).await;
        assert_eq!(failure.reason, Reason::SandboxAmbiguous);
        assert!(failure.message.contains("web-1, web-2"), "{failure}");
        let failure = refusal(&binder, "api", &[loopback(0, 0)]).await;
        assert_eq!(failure.reason, Reason::SandboxNotFound);
    }
}

story! {
    async fn a_path_that_leads_to_no_sandbox_is_refused() {
        let namespaces = Namespaces::new();
        namespaces.add("stale");
        namespaces.unmount("stale");
        namespaces.adopt("host", Path::new("/proc/self/ns/net"));
        namespaces.adopt("uts", Path::new("/proc/self/ns/uts"));
        let binder = binder(&namespaces).await;
        for (name, reason) in [
            ("stale", Reason::NamespaceUnreachable),
            ("uts", Reason::NamespaceUnreachable),
            ("host", Reason::HostNetwork),
        ] {
            let failure = refusal(&binder, name, &[loopback(0, 0)]).await;
            assert_eq!(failure.reason, reason, "{failure}");
            assert!(failure.message.contains(&format!("sandbox {name}")), "{failure}");
        }
    }
}

story! {
    async fn a_path_that_is_replaced_after_the_check_changes_nothing() {
        let namespaces = Namespaces::new();
        let path = namespaces.add("web");
        let netns = Netns::open(path.clone()).await.expect("open");
        namespaces.remove("web");
        namespaces.adopt("web", Path::new("/proc/self/ns/net"));
        let host = NamespaceId::of_path(&path).expect("replaced");
        let entered = netns.run(|| NamespaceId::of_path(Path::new("/proc/thread-self/ns/net"))).await;
        assert_ne!(entered.expect("entered").expect("told"), host);
    }
}

story! {
    async fn a_removed_sandbox_is_told_to_be_gone() {
        let namespaces = Namespaces::new();
        for name in ["web", "db", "api"] {
            namespaces.add(name);
        }
        let binder = Formed::standalone(namespaces.dir(), false, Duration::from_millis(500)).await;
        let mut web = bind(&binder, "web", &[loopback(0, 8080)]).await.expect("bound");
        let mut db = bind(&binder, "db", &[loopback(0, 8080)]).await.expect("bound");
        let mut api = bind(&binder, "api", &[loopback(0, 8080)]).await.expect("bound");
        binder.watches(3).await;

        namespaces.remove("web");
        let told = timeout(SOON, web.gone.wait()).await.expect("told");
        assert!(told.starts_with("sandbox web is gone"), "{told}");
        // The same name, but another namespace.
        namespaces.remove("db");
        namespaces.add("db");
        let told = timeout(SOON, db.gone.wait()).await.expect("told");
        assert!(told.starts_with("sandbox db is gone"), "{told}");

        assert!(timeout(POLL, api.gone.wait()).await.is_err(), "that one lives");
        drop((web, db, api));
        binder.watches(0).await;
    }
}

story! {
    async fn only_the_sockets_pin_the_namespace() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let binder = binder(&namespaces).await;
        // What the runtime makes once is made now.
        drop(bind(&binder, "web", &[loopback(0, 0)]).await.expect("bound"));
        let before = Census::calm().await;

        let bound = bind(&binder, "web", &[loopback(0, 0), loopback(1, 0)]).await.expect("bound");
        let while_bound = Census {
            descriptors: before.descriptors + bound.sockets.len(),
            ..before.clone()
        };
        Census::settles_at(&while_bound).await;
        drop(bound);
        Census::settles_at(&before).await;
        assert_eq!(before.namespaces.len(), 1, "no thread is in a sandbox");
    }
}

story! {
    async fn thousands_of_binds_and_refusals_leave_nothing() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        namespaces.add("stale");
        namespaces.unmount("stale");
        let app = namespaces.inside("web", || TcpListener::bind("127.0.0.1:9090")).expect("app");
        let binder = binder(&namespaces).await;
        drop(bind(&binder, "web", &[loopback(0, 0)]).await.expect("bound"));
        let before = Census::calm().await;

        for _ in 0..1500 {
            let wanted = [loopback(0, 8080), loopback(1, 0)];
            drop(bind(&binder, "web", &wanted).await.expect("bound"));
            let wanted = [loopback(0, 8080), loopback(1, 9090)];
            assert_eq!(refusal(&binder, "web", &wanted).await.reason, Reason::PortInUse);
            let unreachable = refusal(&binder, "stale", &wanted).await;
            assert_eq!(unreachable.reason, Reason::NamespaceUnreachable);
        }
        Census::settles_at(&before).await;
        drop(app);
    }
}

story! {
    async fn a_caller_who_gives_up_leaves_nothing() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let binder = binder(&namespaces).await;
        drop(bind(&binder, "web", &[loopback(0, 0)]).await.expect("bound"));
        let before = Census::calm().await;
        for microseconds in 0..400 {
            let wanted = [loopback(0, 8080)];
            let bound = bind(&binder, "web", &wanted);
            // In all states of the call, up to and after its end.
            let _ = timeout(Duration::from_micros(microseconds * 5), bound).await;
        }
        Census::settles_at(&before).await;
        // A binder in another process learns only from the answer that nobody
        // waits for it any more.
        let wanted = [loopback(0, 8080)];
        let free = async { while bind(&binder, "web", &wanted).await.is_err() { sleep(POLL).await } };
        timeout(SOON, free).await.expect("free");
    }
}

story! {
    async fn without_descriptors_the_limit_is_named_and_nothing_stays_bound() {
        let namespaces = Namespaces::new();
        namespaces.add("web");
        let binder = binder(&namespaces).await;
        let wanted: Vec<_> = (0..20).map(|id| loopback(id, 8000 + u16::try_from(id).expect("small"))).collect();
        drop(bind(&binder, "web", &wanted).await.expect("bound"));
        let before = Census::calm().await;

        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
        for spare in [0, 1, 10, 30] {
            let limit = u64::try_from(before.descriptors + spare).expect("small");
            setrlimit(Resource::RLIMIT_NOFILE, limit, hard).expect("limit");
            let failure = refusal(&binder, "web", &wanted).await;
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("limit");
            assert_eq!(failure.reason, Reason::DescriptorLimit, "{spare} to spare: {failure}");
        }
        Census::settles_at(&before).await;
        bind(&binder, "web", &wanted).await.expect("nothing stayed bound");
    }
}

story! {
    async fn a_namespace_that_a_child_user_namespace_owns_is_entered() {
        let namespaces = Namespaces::new();
        let lodger = Lodger::start(&["--user", "--map-root-user", "--net"]);
        let path = namespaces.adopt("web", &lodger.namespace());
        inside(&path, loopback_up);
        // 80: the capability counts in the namespace's owner.
        let bound = bind(&binder(&namespaces).await, "web", &[loopback(0, 80)]).await.expect("bound");
        namespaces.inside("web", || TcpStream::connect(v4(80))).expect("it listens");
        drop(bound);
    }
}
