use super::*;
use crate::{
    binder::{BinderStatus, Sandbox, SandboxTarget},
    netns::NamespaceId,
    sandbox::Resolved,
};
use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};
use sternline_api::{Failure, Reason};
use tokio::time::{sleep, timeout};

const TICK: Duration = Duration::from_millis(500);

/// Answers what it was told to, and counts how often it was asked.
#[derive(Debug, Default)]
struct Fake {
    told: Mutex<HashMap<String, Liveness>>,
    asked: AtomicUsize,
    panics: std::sync::atomic::AtomicBool,
}

impl Fake {
    fn tell(&self, id: &str, liveness: Liveness) {
        self.told
            .lock()
            .expect("lock")
            .insert(id.to_owned(), liveness);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tonic::async_trait]
impl SandboxSource for Fake {
    async fn find(&self, _: &SandboxTarget) -> Result<Sandbox, Failure> {
        Err(Failure::new(Reason::SandboxNotFound, "none"))
    }

    async fn resolve(&self, _: &SandboxTarget) -> Result<Resolved, Failure> {
        Err(Failure::new(Reason::SandboxNotFound, "none"))
    }

    async fn check(&self, watched: &[Watched]) -> Vec<Liveness> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.swap(false, Ordering::SeqCst), "on purpose");
        let told = self.told.lock().expect("lock");
        let one = |w: &Watched| told.get(&w.id).cloned().unwrap_or(Liveness::Alive);
        watched.iter().map(one).collect()
    }

    async fn status(&self) -> BinderStatus {
        BinderStatus {
            runtime: "fake".to_owned(),
            trouble: None,
        }
    }
}

fn watched(id: &str) -> Watched {
    Watched {
        id: id.to_owned(),
        namespace: NamespaceId::of_path(Path::new("/proc/self/ns/net")).expect("proc"),
    }
}

fn watcher() -> (Arc<Fake>, Watcher<Fake>) {
    let fake = Arc::new(Fake::default());
    (Arc::clone(&fake), Watcher::new(fake, TICK))
}

/// Lets the task run at the present instant.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn news_reach_everyone_who_waits_for_that_sandbox_only() {
    let (fake, watcher) = watcher();
    let (mut one, mut two) = (watcher.watch(watched("a")), watcher.watch(watched("a")));
    let mut other = watcher.watch(watched("b"));
    sleep(TICK).await;
    fake.tell("a", Liveness::Gone("a is gone".to_owned()));
    let told = timeout(TICK, async { (one.wait().await, two.wait().await) }).await;
    let told = told.expect("within one interval");
    assert_eq!(told, ("a is gone".to_owned(), "a is gone".to_owned()));
    assert!(timeout(TICK * 10, other.wait()).await.is_err());
    assert_eq!(watcher.watched(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_look_per_interval_serves_all() {
    let (fake, watcher) = watcher();
    let _all: Vec<_> = (0..50)
        .map(|n| watcher.watch(watched(&n.to_string())))
        .collect();
    sleep(TICK * 4 + TICK / 2).await;
    assert_eq!(fake.asked(), 5, "one at once, four later");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_nobody_asks() {
    let (fake, watcher) = watcher();
    sleep(TICK * 4).await;
    assert_eq!(fake.asked(), 0);
    let gone = watcher.watch(watched("a"));
    let clone = gone.clone();
    drop(gone);
    sleep(TICK * 2).await;
    let while_watched = fake.asked();
    assert!(while_watched >= 2);
    drop(clone);
    sleep(TICK * 10).await;
    assert_eq!(fake.asked(), while_watched);
    assert!(watcher.shared.state().task.is_none(), "the task ended");
    // And it starts again.
    let _gone = watcher.watch(watched("a"));
    settle().await;
    assert_eq!(fake.asked(), while_watched + 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_never_gone_and_is_reported_until_it_passes() {
    let (fake, watcher) = watcher();
    let mut gone = watcher.watch(watched("a"));
    fake.tell("a", Liveness::Unknown("no answer".to_owned()));
    assert!(timeout(TICK * 20, gone.wait()).await.is_err());
    assert_eq!(watcher.trouble().as_deref(), Some("no answer"));
    assert_eq!(watcher.watched(), 1);

    fake.tell("a", Liveness::Alive);
    sleep(TICK * 2).await;
    assert_eq!(watcher.trouble(), None);

    fake.tell("a", Liveness::Gone("removed".to_owned()));
    assert_eq!(
        timeout(TICK * 2, gone.wait()).await.expect("told"),
        "removed"
    );
}

#[tokio::test(start_paused = true)]
async fn who_asks_late_is_told_too() {
    let (fake, watcher) = watcher();
    let mut gone = watcher.watch(watched("a"));
    fake.tell("a", Liveness::Gone("removed".to_owned()));
    sleep(TICK * 3).await;
    let mut clone = gone.clone();
    assert_eq!(gone.wait().await, "removed");
    assert_eq!(clone.wait().await, "removed");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_source_is_survived_by_the_next_watch() {
    let (fake, watcher) = watcher();
    fake.panics.store(true, Ordering::SeqCst);
    let mut old = watcher.watch(watched("a"));
    sleep(TICK).await;
    fake.tell("a", Liveness::Gone("removed".to_owned()));
    let _new = watcher.watch(watched("b"));
    assert_eq!(
        timeout(TICK * 2, old.wait()).await.expect("told"),
        "removed"
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_watcher_is_no_news() {
    let (news, mut gone) = Gone::channel();
    drop(news);
    assert!(timeout(TICK * 100, gone.wait()).await.is_err());
}
