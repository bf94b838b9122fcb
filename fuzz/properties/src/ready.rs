//! What a node announces: strings that are printed, addresses that decide where
//! connections lead.

use prost::Message as _;
use sternline_api::v1alpha1 as pb;
use sternline_cli::clean::clean;
use sternline_cli::fuzzing::announced;
use sternline_cli::spec::parse_all;
use sternline_tunnel::Settings;

/// Nothing that was not asked for is believed, nothing that acts on a terminal
/// is printed, and no limit makes settings that cannot work.
pub(crate) fn check(data: &[u8]) {
    let Ok(ready) = pb::Ready::decode(data) else {
        return;
    };
    let specs = parse_all(&["8080:3000", "0:4000", "[::1]:90:unix:/s"]).expect("they are good");
    match announced(&specs, &ready.bound) {
        Err(fault) => assert!(!fault.message.chars().any(char::is_control), "{fault}"),
        Ok(led) => {
            assert_eq!(led.len(), ready.bound.len());
            for (address, target) in led {
                let expected = match target.as_str() {
                    "localhost:3000" => ["127.0.0.1 8080", "::1 8080"].contains(&address.as_str()),
                    "localhost:4000" => ["127.0.0.1 ", "::1 "]
                        .iter()
                        .any(|ip| address.starts_with(ip)),
                    "unix:/s" => address == "::1 90",
                    _ => false,
                };
                assert!(expected, "{address} leads to {target}");
            }
        }
    }
    let printed = clean(&ready.session_id);
    assert!(!printed.chars().any(char::is_control));
    assert_eq!(clean(&printed), printed);
    let settings = Settings::from_limits(&ready.limits.unwrap_or_default());
    assert!(settings.max_streams >= 1);
    assert!(settings.buffer_bytes >= Settings::min_buffer_bytes(settings.max_streams));
}
