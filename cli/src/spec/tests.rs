use super::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};
use sternline_api::listen::Bind;

fn read(text: &str) -> (String, String) {
    let spec = Spec::parse(0, text).expect(text);
    (spec.listen.to_string(), spec.target.to_string())
}

fn refused(text: &str) -> String {
    Spec::parse(0, text).expect_err(text).to_string()
}

#[test]
fn every_form_of_the_grammar_is_read() {
    for (text, listen, target) in [
        ("8080", "localhost:8080", "localhost:8080"),
        ("8080:3000", "localhost:8080", "localhost:3000"),
        ("0:3000", "localhost:0", "localhost:3000"),
        ("8080:db:5432", "localhost:8080", "db:5432"),
        ("8080:10.0.0.7:5432", "localhost:8080", "10.0.0.7:5432"),
        ("8080:[::1]:3000", "localhost:8080", "[::1]:3000"),
        (
            "9003:unix:/run/x.sock",
            "localhost:9003",
            "unix:/run/x.sock",
        ),
        ("9003:unix:a:b", "localhost:9003", "unix:a:b"),
        ("9003:unix.:80", "localhost:9003", "unix.:80"),
        ("localhost:8080", "localhost:8080", "localhost:8080"),
        ("LocalHost:8080:3000", "localhost:8080", "localhost:3000"),
        ("localhost:0:3000", "localhost:0", "localhost:3000"),
        ("127.0.0.1:8080:3000", "127.0.0.1:8080", "localhost:3000"),
        ("127.0.0.1:8080:db:3000", "127.0.0.1:8080", "db:3000"),
        ("0.0.0.0:80:3000", "0.0.0.0:80", "localhost:3000"),
        ("[::1]:8080", "[::1]:8080", "localhost:8080"),
        ("[::1]:8080:host:3000", "[::1]:8080", "host:3000"),
        (
            "[::]:8080:[fe80::1%3]:3000",
            "[::]:8080",
            "[fe80::1%3]:3000",
        ),
        ("[::1]:9003:unix:x", "[::1]:9003", "unix:x"),
        ("1", "localhost:1", "localhost:1"),
        ("65535:65535", "localhost:65535", "localhost:65535"),
    ] {
        assert_eq!(read(text), (listen.into(), target.into()), "{text}");
    }
}

#[test]
fn the_first_field_decides() {
    // As a target localhost:8080 would have no port to listen on.
    let spec = Spec::parse(7, "localhost:8080").expect("reads");
    assert_eq!(
        (spec.listen.bind, spec.listen.port, spec.listen.id),
        (Bind::Loopback, 8080, 7)
    );
    // A host is never first, and the sentence says where it belongs.
    assert!(refused("db:5432").contains("8080:db:3000"));
}

#[test]
fn every_bad_input_has_its_own_sentence() {
    let mut seen = std::collections::HashMap::new();
    for (text, what) in [
        ("", "it is empty"),
        ("0", "free port (0) needs a target"),
        ("8080:0", "target port 0"),
        ("65536", "listening port 65536 is out of range"),
        ("-1", "listening port \"-1\" is not a number"),
        ("http", "\"http\" is not a number: give"),
        ("8080:65536", "target port 65536 is out of range"),
        ("8080:-1", "target port \"-1\" is not a number"),
        ("8080:http", "the target \"http\" is not a number"),
        ("8080:", "target after the colon is missing"),
        (":8080", "address before the first colon is missing"),
        ("*:8080", "write 0.0.0.0 or [::]"),
        ("web:8080", "no address to listen on"),
        ("localhost:", "listening port \"\""),
        ("localhost:http", "listening port \"http\""),
        ("::1:8080", "brackets: write [::1]:8080:3000"),
        ("[::1:8080", "bracket is not closed: write [::1]:8080:3000"),
        ("[web]:8080", "[web] is no IPv6 address"),
        ("[::1]8080", "port is missing after [::1]"),
        ("[::ffff:127.0.0.1]:80", "mapped into IPv6"),
        ("8080:::1:3000", "too many colons"),
        ("8080:[::1]", "has no port"),
        ("8080:[::1", "bracket of"),
        ("8080:[web]:80", "no IPv6 address and port"),
        ("8080::3000", "host before :3000 is missing"),
        ("8080:3000:9000", "host \"3000\" is a number"),
        ("8080:a b:3000", "no name or address"),
        ("8080:http://localhost:3000", "is a URL"),
        ("8080:unix:", "path after unix: is missing"),
        ("8080:unix:a\0b", "NUL byte"),
    ] {
        let sentence = refused(text);
        assert!(sentence.contains(what), "{text:?}: {sentence}");
        assert!(!sentence.chars().any(char::is_control), "{text:?}");
        let problem = Spec::parse(0, text).expect_err(text).problem;
        if let Some(other) = seen.insert(problem, text) {
            panic!("{text:?} and {other:?} share a sentence");
        }
    }
    assert!(refused(&format!("80:unix:/{}", "a".repeat(103))).contains("104 bytes"));
    assert!(refused(&format!("80:{}:80", "a".repeat(254))).contains("no name"));
    assert!(refused("8080:127.0.0:80").contains("no name"));
    assert!(refused("+80").contains("\"+80\""));
}

#[test]
fn two_that_take_the_same_address_are_refused_before_contact() {
    for pair in [
        ["8080", "8080:3000"],
        ["8080", "127.0.0.1:8080:3000"],
        ["[::1]:8080", "localhost:8080:3000"],
        ["0.0.0.0:8080:1", "127.0.0.1:8080:2"],
    ] {
        let error = parse_all(&pair).expect_err(pair[1]);
        assert_eq!(error.spec, pair[1]);
        assert!(error.problem.contains(pair[0]), "{error}");
    }
    let specs = parse_all(&["0:1", "0:1", "127.0.0.1:80:1", "[::1]:80:1"]).expect("distinct");
    let ids: Vec<u32> = specs.iter().map(|s| s.listen.id).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
}

fn any_bind() -> impl Strategy<Value = Bind> {
    prop_oneof![
        Just(Bind::Loopback),
        any::<Ipv4Addr>().prop_map(|ip| Bind::Ip(ip.into())),
        any::<Ipv6Addr>()
            .prop_filter("mapped addresses are refused", |ip| ip
                .to_ipv4_mapped()
                .is_none())
            .prop_map(|ip| Bind::Ip(ip.into())),
    ]
}

fn any_target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (1_u16..).prop_map(Target::local),
        ("[a-z][a-z0-9]{0,9}(\\.[a-z]{1,5}){0,2}", 1_u16..)
            .prop_map(|(host, port)| Target::Host { host, port }),
        (any::<Ipv4Addr>(), 1_u16..).prop_map(|(ip, port)| Target::Host {
            host: ip.to_string(),
            port
        }),
        (any::<Ipv6Addr>(), 1_u16..)
            .prop_map(|(ip, port)| Target::Ipv6(SocketAddrV6::new(ip, port, 0, 0))),
        "[ -~]{1,60}".prop_map(|path| Target::Unix(path.into())),
    ]
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(
        bind in any_bind(), port: u16, target in any_target(), id: u32,
    ) {
        let spec = Spec { listen: Listen { id, bind, port }, target };
        prop_assert_eq!(Spec::parse(id, &spec.to_string()), Ok(spec));
    }

    #[test]
    fn no_text_panics(text in "[\\[\\]:0-9a-z.*%-]{0,30}|.{0,30}") {
        let _ = Spec::parse(0, &text);
    }

    #[test]
    fn what_is_read_can_be_bound_and_dialled(text in "(localhost:)?[0-9]{1,6}(:[a-z]{0,4})?(:[0-9]{1,6})?") {
        if let Ok(spec) = Spec::parse(0, &text) {
            let port = match spec.target {
                Target::Host { port, .. } => port,
                Target::Ipv6(address) => address.port(),
                Target::Unix(_) => 1,
            };
            prop_assert!(port > 0, "{} dials port 0", text);
            prop_assert_eq!(Spec::parse(0, &spec.to_string()), Ok(spec));
        }
    }
}
