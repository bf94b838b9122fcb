//! A session that the serve before has left, and what its client may come with.

use super::{AWAY, PAUSE};
use crate::binder::deposits::Left;
use crate::binder::{Binder, Bound, Gone, Sandbox};
use crate::sandbox::Watched;
use crate::session::{self, Parts, Passes, Record, Shared};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use sternline_api::{Failure, Reason};
use tokio::time::{Instant, sleep, timeout};

/// How long a client may take to come back when the binder does not say how long
/// it keeps things.
const GRACE: Duration = Duration::from_secs(10);

/// How long the binder may take to watch a sandbox.
const WATCH: Duration = Duration::from_secs(5);

/// A ticket that was replaced so many PING intervals ago is void: its client has
/// the newer one.
const UNSURE_INTERVALS: u32 = 3;

/// Since when the binder is away, if it is: a loss is waited out, once for all
/// sessions.
#[derive(Default)]
pub(super) struct Away(Option<Instant>);

impl Away {
    async fn watch(&mut self, binder: &dyn Binder, sandbox: Watched) -> Result<Gone, Failure> {
        loop {
            let gone = timeout(WATCH, binder.watch(sandbox.clone())).await;
            match gone.map_err(|_| bad("is in a sandbox that cannot be watched"))? {
                Err(failure) if failure.reason == Reason::RuntimeUnavailable => {
                    if self.0.get_or_insert_with(Instant::now).elapsed() >= AWAY {
                        return Err(failure);
                    }
                    sleep(PAUSE).await;
                }
                answer => {
                    self.0 = None;
                    return answer;
                }
            }
        }
    }
}

fn bad(why: &str) -> Failure {
    Failure::new(Reason::Internal, format!("what was left {why}"))
}

/// Goes on with a session, held for its client.
///
/// # Errors
/// It cannot be gone on with, and is closed.
pub(super) async fn session(
    left: Left,
    binder: &Arc<dyn Binder>,
    shared: &Arc<Shared>,
    away: &mut Away,
) -> Result<(), Failure> {
    let Left { deposit, content } = left;
    let record = Record::decode(&content.record);
    let restored = async {
        let mut record = record?;
        if record.id != deposit.key() {
            return Err(Failure::new(
                Reason::Internal,
                "what was left is the record of another session",
            ));
        }
        record.hold = record.hold.min(shared.limits.max_hold);
        let watched = content.watched.clone();
        let watched = watched.ok_or_else(|| bad("is in no sandbox"))?;
        shared.audit.admit()?;
        let mut slot = shared.registry.slot()?;
        let sandbox = Sandbox {
            id: watched.id.clone(),
            pod: record.pod.clone(),
        };
        slot.enter(&sandbox)?;
        let namespace = watched.namespace;
        let gone = away.watch(&**binder, watched).await?;
        let sockets = content
            .into_bound()
            .map_err(|error| bad(&error.to_string()))?;
        if !shared.allow_wide_bind {
            refuse_wide(sockets.iter().map(|one| one.addr))?;
        }
        Ok((
            record,
            slot,
            Bound {
                sandbox,
                namespace,
                sockets,
                gone,
            },
        ))
    };
    let (mut record, slot, bound) = match restored.await {
        Ok(restored) => restored,
        Err(failure) => {
            deposit.close().await;
            return Err(failure);
        }
    };
    let grace = deposit.grace().unwrap_or(GRACE);
    let now = SystemTime::now();
    let passes = passes(&record, grace, shared, now);
    if let Passes::Left(_, wait) = &passes {
        record.held_until = Some(now + *wait);
    }
    // It counts from here, also for the serve after this one.
    deposit.renew(record.encode()).await;
    let session = session::start(
        Parts {
            id: record.id.clone(),
            bound,
            requester: record.requester.clone(),
            grant: record.grant.clone(),
            labels: record.labels.clone(),
            hold: record.hold,
            slot,
            binder: Arc::clone(binder),
            created_at: record.created_at,
            passes,
            deposit: Some(deposit),
        },
        shared,
    )?;
    tracing::info!(
        session = session.id,
        sandbox = session.sandbox.id,
        "taken over from the server before"
    );
    Ok(())
}

/// The serve before may have been allowed what this one is not.
fn refuse_wide(mut addresses: impl Iterator<Item = SocketAddr>) -> Result<(), Failure> {
    match addresses.find(|addr| !addr.ip().is_loopback()) {
        None => Ok(()),
        Some(wide) => Err(Failure::new(
            Reason::WideBindDenied,
            format!(
                "{wide} lets others than the pod connect, which this server does not allow (--allow-wide-bind)"
            ),
        )),
    }
}

/// What the session's client may come with, and how long it may take.
fn passes(record: &Record, grace: Duration, shared: &Shared, now: SystemTime) -> Passes {
    let since = |then: SystemTime| now.duration_since(then).unwrap_or_default();
    if !record.attached {
        let left = shared
            .limits
            .token_ttl
            .saturating_sub(since(record.created_at));
        // It may be that nobody was ever told of it.
        let left = left.min(grace);
        return Passes::LeftToken(record.pass, left);
    }
    let unsure = shared.limits.ping_interval * UNSURE_INTERVALS + grace;
    let previous = record.previous.filter(|(_, at)| since(*at) <= unsure);
    let tickets = [Some(record.pass), previous.map(|(pass, _)| pass)];
    let tickets = tickets.into_iter().flatten().collect();
    let most = record.hold.max(grace);
    let wait = record.held_until.map_or(most, |until| {
        // Of a clock that was set back nobody has more.
        until.duration_since(now).unwrap_or_default().min(most)
    });
    Passes::Left(tickets, wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Pass, Verifier};
    use crate::limits::Limits;
    use sternline_api::v1alpha1 as pb;

    const SECOND: Duration = Duration::from_secs(1);

    fn verifier() -> Verifier {
        (&Pass::generate().expect("random")).into()
    }

    fn record(now: SystemTime) -> Record {
        Record {
            id: "0123456789ab".to_owned(),
            pod: None,
            requester: pb::Requester::default(),
            grant: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            hold: Duration::ZERO,
            created_at: now,
            attached: true,
            pass: verifier(),
            previous: Some((verifier(), now)),
            held_until: None,
        }
    }

    #[test]
    fn a_client_has_the_longer_of_hold_and_grace() {
        let (shared, now) = (Shared::new(Limits::default()), SystemTime::now());
        for (hold, wait) in [(0, 10), (3, 10), (60, 60)] {
            let record = Record {
                hold: SECOND * hold,
                ..record(now)
            };
            match passes(&record, SECOND * 10, &shared, now) {
                Passes::Left(tickets, waits) => {
                    assert_eq!(tickets, [record.pass, record.previous.expect("one").0]);
                    assert_eq!(waits, SECOND * wait, "hold {hold} s");
                }
                _ => panic!("a client was there"),
            }
        }
    }

    #[test]
    fn a_client_that_was_away_has_no_more_time_for_a_restart() {
        let (shared, now) = (Shared::new(Limits::default()), SystemTime::now());
        let record = Record {
            hold: SECOND * 60,
            held_until: Some(now + SECOND * 40),
            ..record(now)
        };
        for (after, wait) in [(0, 40), (30, 10), (50, 0)] {
            match passes(&record, SECOND * 10, &shared, now + SECOND * after) {
                Passes::Left(_, waits) => assert_eq!(waits, SECOND * wait, "after {after} s"),
                _ => panic!("a client was there"),
            }
        }
        let set_back = now - SECOND * 3600;
        match passes(&record, SECOND * 10, &shared, set_back) {
            Passes::Left(_, waits) => assert_eq!(waits, SECOND * 60),
            _ => panic!("a client was there"),
        }
    }

    #[test]
    fn what_is_no_longer_allowed_is_not_gone_on_with() {
        let check = |addresses: &[&str]| {
            let parsed = addresses.iter().map(|one| one.parse().expect("address"));
            refuse_wide(parsed)
        };
        check(&["127.0.0.1:80", "[::1]:80", "127.8.0.1:1"]).expect("the pod's alone");
        for wide in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80"] {
            let refused = check(&["127.0.0.1:80", wide]).expect_err("wide");
            assert_eq!(refused.reason, Reason::WideBindDenied);
            assert!(refused.message.contains(wide), "{refused}");
        }
    }

    #[test]
    fn a_ticket_that_was_replaced_long_ago_is_void() {
        let (shared, now) = (Shared::new(Limits::default()), SystemTime::now());
        let record = record(now);
        match passes(&record, SECOND, &shared, now + SECOND * 60) {
            Passes::Left(tickets, _) => assert_eq!(tickets, [record.pass]),
            _ => panic!("a client was there"),
        }
    }

    #[test]
    fn a_token_lives_no_longer_for_a_restart() {
        let (shared, now) = (Shared::new(Limits::default()), SystemTime::now());
        let record = Record {
            attached: false,
            ..record(now)
        };
        for (after, left) in [(0, 50), (20, 40), (70, 0)] {
            match passes(&record, SECOND * 50, &shared, now + SECOND * after) {
                Passes::LeftToken(token, wait) => {
                    assert_eq!((token, wait), (record.pass, SECOND * left));
                }
                _ => panic!("nobody was there"),
            }
        }
    }
}
