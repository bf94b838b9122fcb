//! `LISTEN:TARGET`, as typed.

use sternline_api::v1alpha1 as pb;
use sternline_cli::fuzzing::announced;
use sternline_cli::spec::{Spec, parse_all};

/// A SPEC that is read prints as one that reads the same; several that are read
/// never collide, and a node that binds just those is believed.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Spec::parse(0, text) {
        Ok(spec) => {
            let printed = spec.to_string();
            assert_eq!(Spec::parse(0, &printed), Ok(spec), "{printed:?}");
        }
        Err(error) => assert!(!error.problem.is_empty()),
    }
    let lines: Vec<&str> = text.lines().take(64).collect();
    let Ok(specs) = parse_all(&lines) else { return };
    for (i, spec) in specs.iter().enumerate() {
        assert_eq!(spec.listen.id as usize, i);
        let others = specs.iter().skip(i + 1);
        assert!(
            !others
                .clone()
                .any(|other| spec.listen.collides(other.listen))
        );
    }
    let bound: Vec<pb::Bound> = specs.iter().flat_map(bound).collect();
    // Two listeners on free ports of one address would share this port.
    if specs.iter().all(|spec| spec.listen.port != 0) {
        let led = announced(&specs, &bound).expect("just what was asked for");
        assert_eq!(led.len(), bound.len());
    }
}

fn bound(spec: &Spec) -> Vec<pb::Bound> {
    let port = spec.listen.port;
    let addresses = spec.listen.bind.addresses().into_iter();
    addresses
        .map(|ip| pb::Bound::from_addr(spec.listen.id, (ip, port).into()))
        .collect()
}
