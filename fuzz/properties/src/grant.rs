//! Grants that gateways sign, and those that somebody makes up.

use crate::input::Input;
use sternline_api::grant::{LONGEST, from_header, to_header};
use sternline_api::v1alpha1::Grant;
use sternline_shim::fuzzing::grants;

/// What nobody signed is good for nothing; of what a gateway signed only what is
/// whole is taken, and it permits what it names and no more.
pub(crate) fn check(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte().is_multiple_of(2) {
        let bytes = input.rest();
        grants::verify(bytes).expect_err("nobody signed it");
        if let Ok(read) = from_header(bytes) {
            assert_eq!(to_header(&read).as_bytes(), bytes);
            assert!(read.len() <= LONGEST);
        }
        return;
    }
    let Ok(grant) = grants::verify(&grants::sign(input.rest())) else {
        return;
    };
    assert_eq!(grant.node, grants::NODE);
    let pod = grant.pod.as_ref().expect("whole");
    assert!(
        ![&pod.namespace, &pod.name, &pod.uid]
            .iter()
            .any(|part| part.is_empty())
    );
    assert!(grant.expires_at_ms > grants::NOW_MS);
    permits_what_it_names(&grant);
}

fn permits_what_it_names(grant: &Grant) {
    let named = (0..).zip(&grant.listeners);
    for (id, listener) in named {
        let Ok(listen) = sternline_api::listen::Listen::from_proto(id, listener) else {
            continue;
        };
        assert_eq!(
            grant.permits(&[listen]).is_ok(),
            grant.wide || !listen.bind.is_wide()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_that_is_whole_is_let_through() {
        let seed = include_bytes!("../../seeds/grant/whole");
        let grant = grants::verify(&grants::sign(&seed[1..])).expect("good");
        assert_eq!(grant.listeners.len(), 2);
    }
}
