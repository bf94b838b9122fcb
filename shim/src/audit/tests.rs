//! Tests of the trail with a destination and clocks of the tests' own.

use super::*;
use serde_json::Value;
use std::sync::mpsc::channel;
use std::time::UNIX_EPOCH;

/// Long enough for a slow machine; nothing waits for it when all is well.
const SOON: Duration = Duration::from_secs(20);

/// What the destination does with the next bytes.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Takes,
    /// Takes one byte, then has no room.
    TakesOne,
    Full,
    /// A reader that does not read.
    Stalls,
}

#[derive(Clone)]
struct Place(Arc<Mutex<(Mood, Vec<u8>)>>);

impl Place {
    fn new(mood: Mood) -> Self {
        Self(Arc::new(Mutex::new((mood, Vec::new()))))
    }

    fn becomes(&self, mood: Mood) {
        self.0.lock().expect("whole").0 = mood;
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("whole").1.clone()).expect("text")
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        let parse = |line| serde_json::from_str(line).expect("each line is JSON");
        whole.lines().map(parse).collect()
    }

    /// The lines, once there is one of this event.
    fn until(&self, event: &str) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let lines = self.lines();
            if lines.iter().any(|line| line["event"] == event) {
                return lines;
            }
            assert!(start.elapsed() < SOON, "no {event} in {lines:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Sink for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (mood, text) = &mut *self.0.lock().expect("whole");
        let taken = match mood {
            Mood::Takes => bytes.len(),
            Mood::TakesOne => 1,
            Mood::Full => return Err(io::ErrorKind::StorageFull.into()),
            Mood::Stalls => {
                thread::sleep(Duration::from_millis(20));
                return Err(io::ErrorKind::WouldBlock.into());
            }
        };
        if *mood == Mood::TakesOne {
            *mood = Mood::Full;
        }
        text.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn follow(&mut self, _forced: bool) -> io::Result<bool> {
        Ok(false)
    }
}

#[derive(Default)]
struct TestClock(Mutex<(Duration, Duration)>);

impl TestClock {
    fn set(&self, wall: u64, monotonic: u64) {
        let new = (Duration::from_secs(wall), Duration::from_secs(monotonic));
        *self.0.lock().expect("whole") = new;
    }
}

impl Clock for TestClock {
    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + self.0.lock().expect("whole").0
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().expect("whole").1
    }
}

fn audit(place: &Place, queue: u32, required: bool) -> (Audit, Arc<TestClock>) {
    let args = AuditArgs {
        audit_log: None,
        audit_queue: queue,
        audit_required: required,
    };
    let clock = Arc::new(TestClock::default());
    let shown = clock.clone() as Arc<dyn Clock>;
    let audit = Audit::start("test".to_owned(), Box::new(place.clone()), &args, shown);
    (audit.expect("started"), clock)
}

fn session(audit: &Audit) -> SessionAudit {
    let session = audit.session(|| Subject::new("s1", &Default::default(), "sandbox", None));
    session.started(Vec::new(), Duration::ZERO);
    session
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < SOON, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn ids_count_up_and_the_end_is_told() {
    let place = Place::new(Mood::Takes);
    let (audit, _clock) = audit(&place, 100, false);
    session(&audit).ended(SessionEnd::new("done", "over"));
    audit.close(SOON).await;
    let lines = place.lines();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str()).collect();
    let expected = ["shim_start", "session_start", "session_end", "shim_end"];
    assert_eq!(events, expected.map(Some));
    let ids = lines.iter().map(|line| line["id"].as_str().expect("id"));
    let numbers: Vec<_> = ids
        .map(|id| id.rsplit('-').next().expect("number"))
        .collect();
    assert_eq!(numbers, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_clock_that_jumps_changes_times_and_no_duration() {
    let place = Place::new(Mood::Takes);
    let (audit, clock) = audit(&place, 100, false);
    clock.set(1_000_000_000, 50);
    let session = session(&audit);
    clock.set(3, 57);
    session.ended(SessionEnd::new("done", "over"));
    audit.close(SOON).await;
    let lines = place.lines();
    assert_eq!(lines[1]["time"], "2001-09-09T01:46:40.000000Z");
    assert_eq!(lines[2]["time"], "1970-01-01T00:00:03.000000Z");
    assert_eq!(lines[2]["duration_ms"], 7000);
}

#[tokio::test]
async fn a_session_whose_task_vanishes_is_told_to_have_ended() {
    let place = Place::new(Mood::Takes);
    let (audit, _clock) = audit(&place, 100, false);
    drop(session(&audit));
    audit.close(SOON).await;
    assert_eq!(place.lines()[2]["end"], "internal");
}

#[tokio::test]
async fn a_flood_of_rejections_is_summed_up() {
    let place = Place::new(Mood::Takes);
    let (audit, _clock) = audit(&place, 16, false);
    let session = session(&audit);
    for _ in 0..10_000 {
        session.rejected(Reason::ConnectionLimit);
    }
    session.rejected(Reason::DescriptorLimit);
    // Each second by itself, without an end.
    place.until("rejections");
    session.rejected(Reason::ConnectionLimit);
    session.ended(SessionEnd::new("done", "over"));
    audit.close(SOON).await;
    let lines = place.lines();
    let sums: Vec<_> = lines
        .iter()
        .filter(|l| l["event"] == "rejections")
        .collect();
    assert!(sums.len() < 10, "{} lines", sums.len());
    let of = |reason: &str| -> u64 {
        let all = sums
            .iter()
            .flat_map(|l| l["rejections"].as_array().expect("list"));
        let counts = all.filter(|r| r["reason"] == reason);
        counts.map(|r| r["count"].as_u64().expect("number")).sum()
    };
    assert_eq!(
        (of("connection_limit"), of("descriptor_limit")),
        (10_001, 1)
    );
    let at = |event: &str| lines.iter().rposition(|line| line["event"] == event);
    assert!(at("rejections") < at("session_end"), "{lines:?}");
}

#[tokio::test]
async fn a_full_disk_delays_nobody_and_the_loss_is_told() {
    let place = Place::new(Mood::TakesOne);
    let (audit, _clock) = audit(&place, 16, true);
    wait_for("the trouble", || audit.admit().is_err());
    let refusal = audit.admit().expect_err("required");
    assert_eq!(refusal.reason, Reason::AuditUnavailable);
    // The first line is in the writer's hands, 16 wait, the rest is lost.
    let session = session(&audit);
    for _ in 0..99 {
        session.listeners_changed(Vec::new);
        session.send(Event::ShimStart);
    }
    place.becomes(Mood::Takes);
    let lines = place.until("lost");
    let lost = lines
        .iter()
        .find(|line| line["event"] == "lost")
        .expect("one");
    assert_eq!(lost["lost"], 84);
    assert_eq!(
        lines
            .iter()
            .filter(|l| l["event"] != "listeners_changed")
            .count(),
        1 + 16 + 1
    );
    wait_for("room again", || audit.admit().is_ok());
    session.ended(SessionEnd::new("done", "over"));
    audit.close(SOON).await;
    assert_eq!(place.lines().last().expect("one")["event"], "shim_end");
}

#[tokio::test]
async fn without_the_duty_sessions_go_on_while_the_disk_is_full() {
    let place = Place::new(Mood::Full);
    let (audit, _clock) = audit(&place, 16, false);
    let sender = audit.0.as_ref().expect("on");
    wait_for("the trouble", || sender.trail.is_behind());
    audit.admit().expect("not required");
    audit.close(Duration::from_millis(50)).await;
    assert_eq!(place.text(), "");
}

#[tokio::test]
async fn a_reader_that_does_not_read_delays_nobody_and_ends_within_the_bound() {
    let place = Place::new(Mood::Stalls);
    let (audit, _clock) = audit(&place, 16, true);
    let (through, done) = channel();
    let taking = audit.clone();
    thread::spawn(move || {
        let session = session(&taking);
        for _ in 0..1000 {
            session.send(Event::ShimStart);
        }
        let _ = through.send(());
    });
    done.recv_timeout(SOON).expect("nobody waited");
    wait_for("the trouble", || audit.admit().is_err());
    let start = Instant::now();
    audit.close(Duration::from_millis(100)).await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(audit.0.expect("on").trail.done.is_cancelled());
}

#[test]
fn off_it_takes_everything_and_does_nothing() {
    let audit = Audit::default();
    let session = session(&audit);
    session.rejected(Reason::ConnectionLimit);
    session.ended(SessionEnd::new("done", "over"));
    audit.reopen();
    audit.admit().expect("always");
}
