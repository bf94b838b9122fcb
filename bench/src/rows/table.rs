//! The rows F1 to F14, and what is measured for comparison alone.

use super::{Job, Phase, Reference, Row, Subject};
use crate::contender::Kind;
use crate::load::Direction::{self, OutPod, PodOut};
use crate::load::figure;
use crate::stats::Need::{self, AtLeast, AtMost};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Connections of the idle rows.
    pub(crate) idle: u32,
    /// Streams of the rows about floods.
    pub(crate) flood: u32,
    /// Whether rows are left out that take long.
    pub(crate) quick: bool,
}

const BOTH: [Direction; 2] = [PodOut, OutPod];

fn subject(kind: Kind, job: Job) -> Subject {
    Subject { kind, job }
}

/// A row whose figure is divided by the same figure of another contender that
/// does the same.
fn against(
    (id, what): (&'static str, String),
    phase: Phase,
    job: Job,
    figure: &'static str,
    other: Kind,
    need: Option<Need>,
) -> Row {
    Row {
        id,
        what: format!("{what}, by {}", other.name()),
        phase,
        subject: subject(Kind::Sternline, job),
        figure,
        against: Some(Reference {
            subject: subject(other, job),
            figure,
        }),
        need,
    }
}

/// A row whose figure counts by itself.
fn alone(
    (id, what): (&'static str, &str),
    phase: Phase,
    job: Job,
    figure: &'static str,
    need: Need,
) -> Row {
    Row {
        id,
        what: what.to_owned(),
        phase,
        subject: subject(Kind::Sternline, job),
        figure,
        against: None,
        need: Some(need),
    }
}

/// Every row of the table.
pub(crate) fn rows(scale: Scale) -> Vec<Row> {
    let mut rows = Vec::new();
    bulk(&mut rows);
    connections(&mut rows);
    round_trips(&mut rows);
    far(scale, &mut rows);
    if !scale.quick {
        lossy(&mut rows);
    }
    websocket(&mut rows);
    memory(scale, &mut rows);
    setup(&mut rows);
    rows
}

fn bulk(rows: &mut Vec<Row>) {
    use Kind::{Chisel, Frp, Ktunnel, Rathole, Raw, Relay, Ssh};
    for direction in BOTH {
        let one = Job::Bulk(1, direction);
        let what = || format!("bulk, 1 stream, {direction}");
        let ssh = if direction == PodOut { 1.3 } else { 1.2 };
        for (other, need) in [
            (Relay, Some(AtLeast(0.9))),
            (Ssh, Some(AtLeast(ssh))),
            (Ktunnel, Some(AtLeast(5.0))),
            (Rathole, None),
            (Frp, None),
            (Chisel, None),
            (Raw, None),
        ] {
            let id = ("F1", what());
            rows.push(against(id, Phase::Near, one, figure::RATE, other, need));
        }
    }
    for direction in BOTH {
        let many = Job::Bulk(64, direction);
        let id = || ("F2", format!("bulk, 64 streams, {direction}"));
        let need = Some(AtLeast(1.0));
        rows.push(against(id(), Phase::Near, many, figure::RATE, Relay, need));
        let fair = format!("64 streams, {direction}: Jain's index");
        rows.push(alone(
            ("F2", &fair),
            Phase::Near,
            many,
            figure::JAIN,
            AtLeast(0.98),
        ));
        let slowest = format!("64 streams, {direction}: slowest by mean");
        rows.push(alone(
            ("F2", &slowest),
            Phase::Near,
            many,
            figure::SLOWEST,
            AtLeast(0.8),
        ));
    }
    for direction in BOTH {
        let one = Job::Bulk(1, direction);
        for (other, most) in [(Relay, 1.1), (Ssh, 0.7)] {
            let id = ("F3", format!("CPU s/GB, 1 stream, {direction}"));
            let need = Some(AtMost(most));
            rows.push(against(id, Phase::Near, one, figure::CPU, other, need));
        }
    }
}

fn connections(rows: &mut Vec<Row>) {
    use Kind::{Raw, Relay, Ssh};
    let many = Job::Connections(64);
    let id = || ("F4", "new connections, 64 at once".to_owned());
    let mut rate = |other, need| {
        let row = against(id(), Phase::Near, many, figure::CONNECTIONS, other, need);
        rows.push(row);
    };
    rate(Ssh, Some(AtLeast(1.7)));
    for peer in Kind::OPTIONAL {
        rate(peer, Some(AtLeast(1.3)));
    }
    rate(Raw, Some(AtLeast(0.42)));
    let one = Job::Connections(1);
    let id = ("F4", "connect to first byte p50, one at a time".to_owned());
    let (figure, need) = (figure::FIRST_BYTE_P50, Some(AtMost(0.7)));
    rows.push(against(id, Phase::Near, one, figure, Relay, need));
}

fn round_trips(rows: &mut Vec<Row>) {
    use Kind::{Relay, Ssh, Sternline};
    let idle = Job::RoundTrip(None);
    for (figure, name) in [(figure::TRIP_P50, "p50"), (figure::TRIP_P99, "p99")] {
        let id = ("F5", format!("64-byte round trip {name}, idle tunnel"));
        let need = Some(AtMost(1.05));
        rows.push(against(id, Phase::Near, idle, figure, Relay, need));
    }
    for direction in BOTH {
        let beside = Job::RoundTrip(Some(direction));
        let own = |figure, job, with, what: &str, need| Row {
            id: "F6",
            what: format!("{what} ({direction})"),
            phase: Phase::Near,
            subject: subject(Sternline, beside),
            figure,
            against: Some(Reference {
                subject: subject(Sternline, job),
                figure: with,
            }),
            need: Some(need),
        };
        let (p50, rate) = (figure::TRIP_P50, figure::RATE);
        let what = "round trip p50 beside bulk, by its idle value";
        rows.push(own(p50, idle, p50, what, AtMost(2.0)));
        let id = ("F6", format!("round trip p99 beside bulk ({direction})"));
        let need = Some(AtMost(1.0));
        rows.push(against(
            id,
            Phase::Near,
            beside,
            figure::TRIP_P99,
            Ssh,
            need,
        ));
        let what = "bulk beside round trips, by bulk alone";
        rows.push(own(rate, Job::Bulk(1, direction), rate, what, AtLeast(0.9)));
    }
}

fn far(scale: Scale, rows: &mut Vec<Row>) {
    use Kind::{Raw, Relay, Ssh};
    let directions = if scale.quick { &BOTH[..1] } else { &BOTH };
    for direction in directions {
        for streams in [1, 8] {
            let job = Job::Bulk(streams, *direction);
            let id = ("F8", format!("40 ms: bulk, {streams} streams, {direction}"));
            let need = Some(AtLeast(0.95));
            rows.push(against(id, Phase::Far, job, figure::RATE, Raw, need));
        }
        let job = Job::Bulk(1, *direction);
        let id = (
            "F8",
            format!("40 ms: start to 90 % of full speed, {direction}"),
        );
        let need = Some(AtMost(2.0));
        rows.push(against(id, Phase::Far, job, figure::RAMP, Raw, need));
    }
    for at_once in [1, 256] {
        let job = Job::Connections(at_once);
        let id = (
            "F8",
            format!("40 ms: connect to first byte p50, {at_once} at once"),
        );
        let (figure, need) = (figure::FIRST_BYTE_P50, Some(AtMost(0.55)));
        rows.push(against(id, Phase::Far, job, figure, Raw, need));
    }
    if !scale.quick {
        for other in [Relay, Ssh] {
            let id = ("F8", "40 ms: bulk, 8 streams, pod-out".to_owned());
            let job = Job::Bulk(8, PodOut);
            rows.push(against(id, Phase::Far, job, figure::RATE, other, None));
        }
    }
}

fn lossy(rows: &mut Vec<Row>) {
    use Kind::{Raw, Sternline};
    let job = Job::Bulk(8, PodOut);
    let what = |text: &str| ("F9", format!("40 ms, 0.1 % loss: bulk, 8 streams, {text}"));
    // Here everybody uses the same congestion control, whatever they ask for.
    let need = Some(AtLeast(0.9));
    let id = what("BBR at both");
    rows.push(against(id, Phase::LossBbr, job, figure::RATE, Raw, need));
    // Here only those use BBR that choose it themselves.
    let need = Some(AtLeast(5.0));
    let id = what("cubic unless chosen");
    rows.push(against(id, Phase::LossCubic, job, figure::RATE, Raw, need));
    rows.push(Row {
        id: "F9",
        what: "40 ms, 0.1 % loss: round trip p50 beside bulk, by its idle value".to_owned(),
        phase: Phase::LossBbr,
        subject: subject(Sternline, Job::RoundTrip(Some(PodOut))),
        figure: figure::TRIP_P50,
        against: Some(Reference {
            subject: subject(Sternline, Job::RoundTrip(None)),
            figure: figure::TRIP_P50,
        }),
        need: Some(AtMost(1.3)),
    });
}

fn websocket(rows: &mut Vec<Row>) {
    let mut row = |job, figure, what: String, need| {
        rows.push(Row {
            id: "F10",
            what: format!("WebSocket form, by the raw form: {what}"),
            phase: Phase::Near,
            subject: subject(Kind::SternlineWebsocket, job),
            figure,
            against: Some(Reference {
                subject: subject(Kind::Sternline, job),
                figure,
            }),
            need: Some(need),
        });
    };
    for direction in BOTH {
        let what = format!("bulk, 1 stream, {direction}");
        row(Job::Bulk(1, direction), figure::RATE, what, AtLeast(0.9));
    }
    // 0.9 of its speed.
    let (job, what) = (Job::RoundTrip(None), "round trip p50".to_owned());
    row(job, figure::TRIP_P50, what, AtMost(1.0 / 0.9));
}

fn memory(scale: Scale, rows: &mut Vec<Row>) {
    let idle = Job::Idle(scale.idle);
    for (figure, who) in [(figure::NODE_KIB, "shim"), (figure::CLIENT_KIB, "client")] {
        let what = format!("KiB an idle connection, {} of them, {who}", scale.idle);
        rows.push(alone(
            ("F7", &what),
            Phase::Memory,
            idle,
            figure,
            AtMost(3.0),
        ));
    }
    let floods = [
        (
            Job::Unread(scale.flood, PodOut),
            "streams that nobody reads, pod-out",
        ),
        (
            Job::Unread(scale.flood, OutPod),
            "streams that nobody reads, out-pod",
        ),
        (Job::HalfClosed(scale.flood), "half-closed connections"),
    ];
    for (job, text) in floods {
        for (figure, who) in [(figure::NODE_MIB, "shim"), (figure::CLIENT_MIB, "client")] {
            let what = format!("MiB held by {} {text}, {who}", scale.flood);
            rows.push(alone(
                ("F12", &what),
                Phase::Memory,
                job,
                figure,
                AtMost(64.0),
            ));
        }
    }
}

fn setup(rows: &mut Vec<Row>) {
    for (id, what, job, most) in [
        (
            "F13",
            "the call to first byte, warm, standalone: p99, ms",
            Job::Call,
            30.0,
        ),
        (
            "F14",
            "shim: start until everything listens, ms",
            Job::ShimStart,
            50.0,
        ),
        (
            "F14",
            "client: start until it forwards, ms",
            Job::ClientStart,
            50.0,
        ),
    ] {
        rows.push(alone(
            (id, what),
            Phase::Setup,
            job,
            figure::MILLIS,
            AtMost(most),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const FULL: Scale = Scale {
        idle: 9000,
        flood: 1000,
        quick: false,
    };

    #[test]
    fn every_row_that_one_machine_can_measure_is_there() {
        let ids: BTreeSet<&str> = rows(FULL).iter().map(|row| row.id).collect();
        let all: BTreeSet<String> = (1..=14).map(|n| format!("F{n}")).collect();
        let missing: Vec<&String> = all.iter().filter(|id| !ids.contains(id.as_str())).collect();
        // A cluster is needed for it.
        assert_eq!(missing, ["F11"]);
    }

    #[test]
    fn no_row_is_there_twice() {
        let mut seen = BTreeSet::new();
        for row in rows(FULL) {
            assert!(seen.insert((row.id, row.what.clone())), "{row:?}");
        }
    }

    #[test]
    fn a_quick_run_leaves_out_loss_alone_of_the_conditions() {
        let quick = Scale {
            quick: true,
            ..FULL
        };
        let phases: BTreeSet<Phase> = rows(quick).iter().map(|row| row.phase).collect();
        assert!(phases.contains(&Phase::Far) && !phases.contains(&Phase::LossBbr));
    }
}
