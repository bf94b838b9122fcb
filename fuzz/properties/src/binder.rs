//! Packets between serve and the binder: each takes the other for hostile.

use crate::input::Input;
use sternline_api::listen::{Bind as At, Listen};
use sternline_api::{Failure, Reason};
use sternline_shim::binder::wire::convert::sentence;
use sternline_shim::binder::wire::keep::MAX_RECORD;
use sternline_shim::binder::wire::{
    Bind, Socket, Watch, answer, ask, decode_answer, decode_ask, encode_answer, encode_ask,
};
use sternline_shim::binder::{BindRequest, BinderStatus, SandboxTarget};
use sternline_shim::sandbox::Watched;
use sternline_shim::session::Record;

/// What is read is written and read the same; what is let through obeys every
/// limit, and no socket is taken for a listener that was not asked for.
pub(crate) fn check(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte().is_multiple_of(2) {
        from_serve(input.rest());
    } else {
        from_the_binder(input.rest());
    }
}

fn from_serve(packet: &[u8]) {
    let Ok((id, what)) = decode_ask(packet) else {
        return;
    };
    let again = decode_ask(&encode_ask(id, what.clone()));
    assert!(again.is_ok_and(|again| again == (id, what.clone())));
    match what {
        ask::What::Bind(bind) => {
            let Ok(request) = BindRequest::try_from(bind) else {
                return;
            };
            for (i, listen) in request.listeners.iter().enumerate() {
                let mut others = request.listeners[..i].iter();
                assert!(!others.any(|other| other.id == listen.id || other.collides(*listen)));
            }
            let again = BindRequest::try_from(Bind::from(&request)).expect("it was sound");
            assert_eq!(again.listeners, request.listeners);
            assert_eq!(again.target, request.target);
        }
        ask::What::Watch(watch) => {
            let Ok(watched) = Watched::try_from(watch) else {
                return;
            };
            assert!(!watched.id.contains(['/', '\0']) && !watched.id.starts_with('.'));
            let again = Watched::try_from(Watch::from(&watched));
            assert!(again.is_ok_and(|again| again == watched));
        }
        ask::What::Find(target) => {
            let _ = SandboxTarget::from(target);
        }
        ask::What::Keep(keep) => {
            let sockets = keep.sockets.len();
            assert!(keep.checked(sockets + 1).is_err());
            if let Ok(watched) = keep.checked(sockets) {
                is_bounded(&keep.key, &keep.sockets, keep.record.as_deref());
                assert_eq!(watched.is_some(), keep.sandbox.is_some());
            }
        }
        ask::What::Discard(discard) => {
            if discard.checked().is_ok() {
                is_bounded(&discard.key, &[], None);
            }
        }
        ask::What::Hello(hello) => {
            if hello.checked().is_ok() {
                assert!(hello.name.len() <= 512 && hello.instance.len() <= 512);
            }
        }
        ask::What::Status(_) | ask::What::Release(_) | ask::What::Take(_) => {}
    }
}

/// What is kept, or was left, is within the bounds of both ends.
fn is_bounded(key: &str, sockets: &[Socket], record: Option<&[u8]>) {
    assert!((1..=64).contains(&key.len()) && !key.contains(['/', '\0', ' ']));
    assert!(sockets.iter().all(|socket| socket.address.len() <= 512));
    let Some(record) = record else { return };
    assert!(record.len() <= MAX_RECORD);
    // What the process before has left is read as it was written.
    if let Ok(read) = Record::decode(record) {
        assert_eq!(Record::decode(&read.encode()).ok().as_ref(), Some(&read));
        assert!(!read.id.is_empty() && read.id.len() <= 64);
    }
}

fn from_the_binder(packet: &[u8]) {
    let Ok((id, what)) = decode_answer(packet) else {
        return;
    };
    let again = decode_answer(&encode_answer(id, what.clone()));
    assert!(again.is_ok_and(|again| again == (id, what.clone())));
    let asked = [
        (0, At::Loopback, 8080),
        (1, At::Loopback, 0),
        (7, At::Ip([10, 0, 0, 1].into()), 90),
    ]
    .map(|(id, bind, port)| Listen { id, bind, port });
    match what {
        answer::What::Bound(bound) => {
            for socket in bound.sockets {
                if let Ok((id, address)) = socket.belongs(&asked) {
                    let listen = asked.iter().find(|listen| listen.id == id);
                    let listen = listen.expect("one that was asked for");
                    assert!(listen.bind.addresses().contains(&address.ip()));
                    assert!(address.port() != 0);
                    assert!(listen.port == 0 || listen.port == address.port());
                }
            }
        }
        answer::What::Failed(failed) => {
            let known = Reason::from_label(&failed.reason);
            let failure = Failure::from(failed);
            assert_eq!(failure.reason, known.unwrap_or(Reason::Internal));
            assert!(failure.message.len() <= 4096);
        }
        answer::What::Gone(gone) => assert!(sentence(gone.message).len() <= 4096),
        answer::What::Status(status) => {
            let _ = BinderStatus::from(status);
        }
        answer::What::Taken(taken) => {
            let sockets = taken.sockets.len();
            assert!(taken.checked(sockets + 1).is_err());
            if taken.checked(sockets).is_ok() {
                assert_eq!(taken.more, !taken.key.is_empty());
                if taken.more {
                    is_bounded(&taken.key, &taken.sockets, taken.record.as_deref());
                }
            }
        }
        answer::What::Welcome(_)
        | answer::What::Found(_)
        | answer::What::Watching(_)
        | answer::What::Kept(_) => {}
    }
}
