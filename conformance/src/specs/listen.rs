//! What listens in the sandbox, and what does not (§2.2, §2.3).

use crate::{
    context::{Context, port, request, tcp},
    spec::{Spec, spec},
    verdict::{Step, broken, check, failed, skip},
};
use std::net::{Ipv4Addr, SocketAddr};
use tonic::Code::{AlreadyExists, FailedPrecondition, PermissionDenied};

pub(super) const SPECS: &[Spec] = &[
    spec!(required "listen.loopback-only", "2.3", [], "An empty address listens on 127.0.0.1 and ::1 and on nothing else.", loopback_only),
    spec!(required "listen.both-families", "2.3", [], "An empty address listens in both address families.", both_families),
    spec!(required "listen.not-on-node", "1", [], "A listener is in the sandbox, not on the node.", not_on_node),
    spec!(required "listen.at-once", "2.2", [], "A connection that is made when the call has answered is served.", at_once),
    spec!(required "listen.port-zero", "2.3", [], "Port 0 is a free port, the same in both families.", port_zero),
    spec!(required "listen.exact-port", "2.3", [], "A port that is asked for is the port that listens.", exact_port),
    spec!(required "listen.exact-address", "2.3", [], "Another address of 127.0.0.0/8 is taken as it is.", exact_address),
    spec!(required "listen.v6-alone", "2.3", [], "::1 listens on ::1 alone.", v6_alone),
    spec!(required "listen.conflict", "2.3", [], "A port in use fails with port_in_use and names the address.", conflict),
    spec!(required "listen.conflict-v6", "2.3", [], "A taken ::1 is a conflict, and 127.0.0.1 is not left bound.", conflict_v6),
    spec!(required "listen.all-or-none", "2.2", [], "When one listener cannot be had, none is left bound.", all_or_none),
    spec!(required "listen.no-reuseport", "2.3", [], "The sockets have no SO_REUSEPORT: nobody can share the port.", no_reuseport),
    spec!(required "listen.wide-denied", "2.3", [], "Addresses beyond loopback fail with wide_bind_denied where they are not allowed.", wide_denied),
    spec!(required "listen.wide-bound", "2.3", [], "Where wide addresses are allowed, 0.0.0.0 can be reached from outside.", wide_bound),
    spec!(required "listen.address-unavailable", "2.3", [], "An address that the sandbox does not have fails with address_unavailable.", unavailable),
    spec!(recommended "listen.unreachable-from-outside", "2.3", [], "A loopback listener cannot be reached over the sandbox's other interfaces.", outside),
    spec!(recommended "listen.unreachable-from-sandbox", "2.3", [], "A loopback listener cannot be reached from another sandbox.", other_pod),
];

async fn loopback_only(context: &Context) -> Step {
    let pod = context.pod().await?;
    context.open(&pod, &[tcp("", 0)]).await?;
    let there = pod.listening().await?;
    let loopback = |address: &SocketAddr| match address {
        SocketAddr::V4(v4) => *v4.ip() == Ipv4Addr::LOCALHOST,
        SocketAddr::V6(v6) => v6.ip().is_loopback(),
    };
    check(
        there.iter().all(loopback),
        "127.0.0.1 and ::1",
        format!("{there:?}"),
    )
}

async fn both_families(context: &Context) -> Step {
    let pod = context.pod().await?;
    pod.needs_v6().await?;
    let opened = context.open(&pod, &[tcp("", 0)]).await?;
    let told = opened.addresses();
    let both = told.iter().any(SocketAddr::is_ipv4) && told.iter().any(SocketAddr::is_ipv6);
    check(both, "127.0.0.1 and ::1 in bound[]", format!("{told:?}"))
}

async fn not_on_node(context: &Context) -> Step {
    let pod = context.pod().await?;
    let port = port();
    context.open(&pod, &[tcp("127.0.0.1", port)]).await?;
    let there = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    check(
        there.is_err(),
        "no such listener on the node",
        "a connection",
    )
}

async fn at_once(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let Some(address) = opened.addresses().first().copied() else {
        return failed("an address that listens", "none");
    };
    // Nobody has redeemed the token yet: the connection waits for its tunnel.
    let _inside = pod.connect(address).await?;
    let tunnel = context.redeem(&opened.place).await?;
    tunnel.control().await?.ready().await?;
    tunnel.request().await.map(drop)
}

async fn port_zero(context: &Context) -> Step {
    let pod = context.pod().await?;
    let told = context.open(&pod, &[tcp("", 0)]).await?.addresses();
    let same = told.iter().all(|address| address.port() == told[0].port());
    check(
        !told.is_empty() && same,
        "one port other than 0",
        format!("{told:?}"),
    )
}

async fn exact_port(context: &Context) -> Step {
    let pod = context.pod().await?;
    let port = port();
    context.open(&pod, &[tcp("127.0.0.1", port)]).await?;
    let there = pod.listening().await?;
    let expected = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    check(
        there == [expected],
        &expected.to_string(),
        format!("{there:?}"),
    )
}

async fn exact_address(context: &Context) -> Step {
    let pod = context.pod().await?;
    context.open(&pod, &[tcp("127.0.0.53", 0)]).await?;
    let there = pod.listening().await?;
    let exact = there.len() == 1 && there[0].ip() == Ipv4Addr::new(127, 0, 0, 53);
    check(exact, "127.0.0.53 alone", format!("{there:?}"))
}

async fn v6_alone(context: &Context) -> Step {
    let pod = context.pod().await?;
    pod.needs_v6().await?;
    context.open(&pod, &[tcp("::1", 0)]).await?;
    let there = pod.listening().await?;
    let alone = there.len() == 1 && there[0].is_ipv6() && there[0].ip().is_loopback();
    check(alone, "::1 alone", format!("{there:?}"))
}

async fn conflict(context: &Context) -> Step {
    let pod = context.pod().await?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port()));
    let taken = pod.try_listen(address).await?;
    let _taken = taken.map_err(broken("listening as an application"))?;
    context.step(format!("an application listens on {address}"));
    let request = request(&pod.id, &[tcp("127.0.0.1", address.port())]);
    let message = context
        .refused(request, AlreadyExists, "port_in_use")
        .await?;
    check(
        message.contains(&address.to_string()),
        "a sentence that names the address",
        message,
    )
}

async fn conflict_v6(context: &Context) -> Step {
    let pod = context.pod().await?;
    pod.needs_v6().await?;
    let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port()));
    let taken = pod.try_listen(address).await?;
    let _taken = taken.map_err(broken("listening as an application"))?;
    context.step(format!("an application listens on {address}"));
    let request = request(&pod.id, &[tcp("", address.port())]);
    context
        .refused(request, AlreadyExists, "port_in_use")
        .await
        .map(drop)
}

async fn all_or_none(context: &Context) -> Step {
    let pod = context.pod().await?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port()));
    let taken = pod.try_listen(address).await?;
    let _taken = taken.map_err(broken("listening as an application"))?;
    context.step(format!("an application listens on {address}"));
    let request = request(
        &pod.id,
        &[tcp("127.0.0.1", port()), tcp("127.0.0.1", address.port())],
    );
    if context.call(request).await.is_ok() {
        return failed("the call fails", "it succeeded");
    }
    let there = pod.listening().await?;
    check(
        there == [address],
        "the application's listener alone",
        format!("{there:?}"),
    )
}

async fn no_reuseport(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    for address in opened.addresses() {
        let shared = pod.try_share(address).await?;
        check(
            shared.is_err(),
            "EADDRINUSE for another with SO_REUSEPORT",
            "it listens too",
        )?;
    }
    Ok(())
}

async fn wide_denied(context: &Context) -> Step {
    if context.status.wide_bind_allowed {
        return skip("wide addresses are allowed here");
    }
    let pod = context.pod().await?;
    for address in ["0.0.0.0", "::", "198.51.100.7", "fe80::1"] {
        let request = request(&pod.id, &[tcp(address, 0)]);
        context
            .refused(request, PermissionDenied, "wide_bind_denied")
            .await?;
    }
    Ok(())
}

async fn wide_bound(context: &Context) -> Step {
    if !context.status.wide_bind_allowed {
        return skip("wide addresses are not allowed here");
    }
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("0.0.0.0", 0)]).await?;
    let there = pod.listening().await?;
    let any = there.len() == 1 && there[0].ip().is_unspecified() && there[0].is_ipv4();
    check(
        any && there == opened.addresses(),
        "0.0.0.0 alone",
        format!("{there:?}"),
    )
}

async fn unavailable(context: &Context) -> Step {
    if !context.status.wide_bind_allowed {
        return skip("wide addresses are not allowed here");
    }
    let pod = context.pod().await?;
    let request = request(&pod.id, &[tcp("198.51.100.7", 0)]);
    context
        .refused(request, FailedPrecondition, "address_unavailable")
        .await
        .map(drop)
}

async fn outside(context: &Context) -> Step {
    let pod = context.pod().await?;
    let ip = match pod.address().await? {
        Some(ip) => ip,
        None => {
            let (ip, link) = pod.attach().await?;
            context.step(format!("gave the sandbox the address {ip} over {link}"));
            ip
        }
    };
    let opened = context.open(&pod, &[tcp("", 0)]).await?;
    let Some(port) = opened.addresses().first().map(SocketAddr::port) else {
        return failed("an address that listens", "none");
    };
    let reached =
        tokio::time::timeout(context.patience, tokio::net::TcpStream::connect((ip, port)));
    let reached = matches!(reached.await, Ok(Ok(_)));
    check(
        !reached,
        "no connection from the node to the sandbox's address",
        "a connection",
    )
}

async fn other_pod(context: &Context) -> Step {
    let (pod, other) = (context.pod().await?, context.pod().await?);
    let ip = match pod.address().await? {
        Some(ip) => ip,
        None => pod.join(&other).await?,
    };
    context.step(format!("the sandbox has the address {ip}"));
    let opened = context.open(&pod, &[tcp("", 0)]).await?;
    let Some(port) = opened.addresses().first().map(SocketAddr::port) else {
        return failed("an address that listens", "none");
    };
    let reached = other.try_connect((ip, port).into()).await?;
    check(
        reached.is_err(),
        "no connection from another sandbox",
        "a connection",
    )
}
