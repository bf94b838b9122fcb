//! The program `serve` beside a binder that keeps what the one before has left.

mod binder_support;

use binder_support::Namespaces;
use binder_support::form::BinderProcess;
use binder_support::keeping::{SOON, bind, serve, start};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use sternline_api::v1alpha1 as pb;
use sternline_shim::binder::Binder;
use sternline_shim::binder::deposits::Content;
use sternline_shim::cache::{Pass, Verifier};
use sternline_shim::endpoint::UnixEndpoint;
use sternline_shim::limits::Limits;
use sternline_shim::session::{Record, Shared};
use sternline_shim::takeover::{self, CALL, STREAMING, Takeover};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{sleep, timeout};

/// A session whose client was there.
fn record(id: &str) -> Record {
    let pass = Pass::generate().expect("random");
    Record {
        id: id.to_owned(),
        pod: None,
        requester: pb::Requester::default(),
        grant: Vec::new(),
        labels: BTreeMap::new(),
        hold: Duration::from_secs(60),
        created_at: SystemTime::now(),
        attached: true,
        pass: Verifier::from(&pass),
        previous: None,
        held_until: None,
    }
}

/// Where the serves of a test listen, one after the other.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir }
    }

    fn call(&self) -> PathBuf {
        self.dir.path().join("call.sock")
    }

    fn streaming(&self) -> PathBuf {
        self.dir.path().join("streaming.sock")
    }

    fn ready(&self) -> PathBuf {
        self.dir.path().join("ready")
    }

    fn name(&self) -> String {
        self.call().display().to_string()
    }

    /// Leaves what a serve would: both sockets, and a session for each record.
    async fn leave(&self, process: &BinderProcess, records: &[(&str, Record)]) {
        let (binder, deposits) = serve(process, &self.name()).await;
        for (key, path) in [(CALL, self.call()), (STREAMING, self.streaming())] {
            let (listener, endpoint) = UnixEndpoint::bind(&path).expect("bound");
            let asked = takeover::path_text(&path);
            let kept = takeover::endpoint(&binder, key, &listener, asked, endpoint.mark());
            kept.await.expect("kept").leave();
            endpoint.leave();
        }
        for (n, (key, record)) in (0..).zip(records) {
            let bound = bind(&binder, [8080 + n]).await;
            let content = Content::of(&bound, record.encode()).expect("copied");
            let deposit = deposits.put(key, content).await;
            deposit.expect("kept").leave();
        }
    }

    /// What is left: the inodes of the sockets' files, and the records. It stays.
    async fn left(&self, process: &BinderProcess) -> ([u64; 2], BTreeMap<String, Vec<u8>>) {
        let (_binder, deposits) = serve(process, &self.name()).await;
        let left = deposits.take().await.expect("asked");
        let records = left.into_iter().map(|one| {
            one.deposit.leave();
            assert_eq!(
                one.content.sockets.len(),
                if one.content.watched.is_some() { 2 } else { 1 }
            );
            (one.deposit.key().to_owned(), one.content.record)
        });
        let inode = |path: PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.ino());
        (
            [inode(self.call()), inode(self.streaming())],
            records.collect(),
        )
    }

    /// Starts it, with its streaming socket at the usual path if the flags say
    /// nothing else.
    fn serve(&self, process: &BinderProcess, flags: &[&str]) -> Serve {
        let streaming = self.streaming();
        let streaming = takeover::path_text(&streaming);
        let usual = ["--streaming-address", streaming.as_str()];
        let usual = match flags.contains(&usual[0]) {
            true => &[][..],
            false => &usual[..],
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_sternline-shim"))
            .args(["serve", "--allow-privileged-serve", "--socket"])
            .arg(self.call())
            .args(usual)
            .arg(format!("--binder=unix:{}", process.socket().display()))
            .args(flags)
            .current_dir(self.dir.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let log = BufReader::new(child.stderr.take().expect("piped")).lines();
        Serve { child, log }
    }
}

/// The program.
struct Serve {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Serve {
    /// Waits for a line that has this.
    async fn says(&mut self, part: &str) {
        let said = async {
            while let Some(line) = self.log.next_line().await.expect("text") {
                if line.contains(part) {
                    return;
                }
            }
            panic!("it ended without {part:?}");
        };
        timeout(SOON, said).await.expect(part);
    }

    async fn fails(&mut self, part: &str) {
        self.says(part).await;
        let status = timeout(SOON, self.child.wait()).await.expect("it ends");
        assert_eq!(status.expect("waited").code(), Some(1), "{part}");
    }

    async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }
}

apart! {
    async fn a_start_that_fails_leaves_everything_to_the_next() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "5m"]);
        let place = Place::new();
        place.leave(&process, &[("s1", record("s1")), ("s2", record("s2"))]).await;
        let before = place.left(&process).await;
        assert_eq!(before.1.len(), 4);
        let same = async |what: &str| {
            let after = place.left(&process).await;
            assert_eq!(after.0, before.0, "the sockets' files, after {what}");
            assert!(after.1.keys().eq(before.1.keys()), "{:?} after {what}", after.1.keys());
        };
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = (taken.local_addr().expect("bound").to_string(), taken);
        let file = place.dir.path().join("no-socket");
        std::fs::write(&file, "a file").expect("written");
        let file = takeover::path_text(&file);
        for (flag, value) in [
            ("--streaming-address", taken.0.as_str()),
            ("--streaming-address", file.as_str()),
            ("--audit-log", "/missing/audit"),
            ("--metrics-address", taken.0.as_str()),
            ("--ready-file", "/missing/ready"),
        ] {
            place.serve(&process, &[flag, value]).fails(flag).await;
            same(flag).await;
        }
        let mut next = place.serve(&process, &[]);
        next.says("taken over from the server before").await;
        next.says("serving").await;
    }
}

apart! {
    async fn a_streaming_address_that_changed_takes_the_place_of_the_one_before() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "5m"]);
        let place = Place::new();
        place.leave(&process, &[("s1", record("s1"))]).await;
        let new = place.dir.path().join("new.sock");
        let mut address = takeover::path_text(&new);
        for next in ["127.0.0.1:0", "the port of that", ""] {
            let ready = place.ready();
            let flags = ["--streaming-address", &address, "--ready-file", ready.to_str().expect("text")];
            let mut serve = place.serve(&process, &flags);
            serve.says("serving").await;
            assert!(!place.streaming().exists(), "nobody listens there");
            let said = std::fs::read(&ready).expect("it serves");
            let said: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
            serve.kill().await;
            let left = place.left(&process).await.1;
            assert!(left.keys().eq(["call", "s1", "streaming"]), "{:?}", left.keys());
            address = match next {
                // Asked for in other words, it is in its own way.
                "the port of that" => {
                    let base = said["streaming"].as_str().expect("text");
                    base.strip_prefix("http://").expect("TCP").to_owned()
                }
                next => next.to_owned(),
            };
        }
        assert!(!new.exists());
    }
}

apart! {
    async fn a_binder_that_is_lost_in_the_middle_is_waited_for() {
        let namespaces = Namespaces::new();
        let mut process = start(&namespaces, &["--restart-grace", "5m"]);
        let place = Place::new();
        place.leave(&process, &[("s1", record("s1")), ("s2", record("s2"))]).await;
        let (binder, deposits) = serve(&process, &place.name()).await;
        let binder: Arc<dyn Binder> = Arc::new(binder);
        let mut takeover = Takeover::begin(&*binder).await.expect("asked");
        let call = takeover.unix(CALL, &place.call()).expect("left");
        let streaming = takeover.unix(STREAMING, &place.streaming()).expect("left");
        process.kill();
        let deadline = Instant::now() + SOON;
        while deposits.has_all(Duration::ZERO).await {
            assert!(Instant::now() < deadline, "it is there");
            sleep(Duration::from_millis(5)).await;
        }
        let shared = Arc::new(Shared::new(Limits::default()));
        let back = async {
            // It has been asked once by now.
            sleep(Duration::from_millis(20)).await;
            process.again();
        };
        tokio::join!(takeover.sessions(&binder, &shared), back);
        let ids = shared.registry.list().into_iter().map(|one| one.id.clone());
        let mut ids: Vec<_> = ids.collect();
        ids.sort();
        assert_eq!(ids, ["s1", "s2"]);
        drop((call, streaming));
    }
}

apart! {
    async fn a_start_that_finds_another_takes_nothing_of_its() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "5m"]);
        let place = Place::new();
        let ready = place.ready();
        let flags = ["--ready-file", ready.to_str().expect("text")];
        let mut first = place.serve(&process, &flags);
        first.says("serving").await;
        let said = std::fs::read(&ready).expect("it serves");
        place.serve(&process, &flags).fails("another server with the socket").await;
        assert_eq!(std::fs::read(&ready).expect("it serves still"), said);
        assert!(place.call().exists() && place.streaming().exists());

        // What is killed has no more to say.
        first.kill().await;
        place.serve(&process, &[&flags[..], &["--audit-log", "/missing/audit"]].concat())
            .fails("--audit-log")
            .await;
        assert!(!Path::new(&ready).exists());
    }
}

apart! {
    async fn a_client_that_stays_away_has_no_more_time_for_each_start() {
        let namespaces = Namespaces::new();
        let process = start(&namespaces, &["--restart-grace", "60s"]);
        let place = Place::new();
        let over = Record {
            held_until: Some(SystemTime::now() - Duration::from_secs(1)),
            ..record("over")
        };
        let records = [("s1", record("s1")), ("over", over), ("s2", record("other"))];
        place.leave(&process, &records).await;
        let mut until = Vec::new();
        for _ in 0..2 {
            let mut serve = place.serve(&process, &[]);
            serve.says("serving").await;
            // Only this one's time is not over.
            let gone = ["call", "s1", "streaming"];
            serve.kill().await;
            let left = place.left(&process).await.1;
            let kept = left.keys().filter(|key| *key != "over");
            assert!(kept.eq(gone), "{:?}", left.keys());
            let record = Record::decode(&left["s1"]).expect("a record");
            until.push(record.held_until.expect("a time"));
        }
        assert_eq!(until[0], until[1]);
        let hold = until[0].duration_since(SystemTime::now());
        assert!(hold.is_ok_and(|hold| hold <= Duration::from_secs(60)));
    }
}
