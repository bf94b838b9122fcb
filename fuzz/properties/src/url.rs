//! The streaming URL that a server answers with: plain only to loopback or a Unix
//! socket, TLS to anywhere.

use sternline_cli::connect::StreamUrl;
use sternline_cli::connect::url::Endpoint;

/// Whatever is followed in the clear is loopback or a Unix socket; what is followed
/// reads the same when it is printed, and its secret is shown nowhere.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let url = match StreamUrl::parse(text) {
        Ok(url) => url,
        Err(fault) => {
            // Whatever the last segment is, the sentence is the same.
            let (place, _) = text.rsplit_once('/').unwrap_or(("", ""));
            if let Err(other) = StreamUrl::parse(&format!("{place}/ X")) {
                let long = text.len() > 2000;
                assert!(long || place.is_empty() || fault == other, "{fault}");
            }
            return;
        }
    };
    let place = match url.endpoint() {
        Endpoint::Loopback(address) => {
            assert!(address.ip().is_loopback() && address.port() != 0);
            format!("http://{address}")
        }
        Endpoint::Tls(..) => format!("https://{}", url.endpoint()),
        Endpoint::Unix(path) => {
            assert!(path.is_absolute());
            let text = path.to_str().expect("it was read from text");
            let hex: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            format!("http+unix://{hex}")
        }
    };
    let token = text.rsplit('/').next().unwrap_or_default();
    let again = StreamUrl::parse(&format!("{place}/v1alpha1/sessions/{token}"));
    if place.len() + token.len() < 1900 {
        assert!(again.is_ok_and(|again| again == url), "{place}");
    }
    assert!(url.with_ticket(token).is_some_and(|same| same == url));
    assert!(
        !format!("{url:?}").contains(token)
            || format!("{:?}", url.endpoint()).contains(token)
            || token.len() < 8
    );
}
