//! What a server answers to the command line's Upgrade.

use crate::input::Input;
use crate::io::Peer;
use std::time::Duration;
use sternline_api::protocol::STREAM_PROTOCOL;
use sternline_cli::connect::StreamUrl;
use sternline_cli::fuzzing::upgrade_over;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

/// The answer is bounded in time by the caller.
const LIMIT: Duration = Duration::from_secs(10);

/// Only a 101 to the protocol that was offered is taken, and what follows it is
/// what is read then; every other answer is one clean sentence without the secret.
pub(crate) fn check(data: &[u8]) {
    let url = "http://127.0.0.1:1/v1alpha1/sessions/SECRET-SECRET";
    let url = StreamUrl::parse(url).expect("a good one");
    crate::run(async {
        let mut input = Input::new(data);
        let style = [input.byte(), input.byte(), input.byte()];
        let bytes = input.rest();
        let (peer, heard) = Peer::new(&mut Input::new(&style), bytes);
        match timeout(LIMIT, upgrade_over(peer, &url)).await {
            Err(_) => {}
            Ok(Err(fault)) => {
                assert!(!fault.message.contains("SECRET-SECRET"), "{fault}");
                assert!(!fault.message.chars().any(char::is_control), "{fault}");
            }
            Ok(Ok(mut io)) => {
                let answer = String::from_utf8_lossy(bytes).to_ascii_lowercase();
                assert!(answer.contains(" 101"), "{answer:?}");
                assert!(answer.contains(STREAM_PROTOCOL), "{answer:?}");
                let mut rest = Vec::new();
                let _ = timeout(LIMIT, io.read_to_end(&mut rest)).await;
                assert!(bytes.ends_with(&rest), "{rest:?} follows the 101");
            }
        }
        let sent = heard.lock().expect("nobody panics with it").clone();
        assert!(sent.len() < 1024, "nothing is sent after the request");
    });
}
