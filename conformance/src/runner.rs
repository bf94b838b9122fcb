//! Which specs run, when, how often, and what becomes of them.

use crate::{
    context::{Context, describe},
    fixture::{Fixture, Sandboxes},
    operator::{Commands, Operator},
    preflight,
    report::{Judged, Outcome, Report},
    spec::{Level, Spec},
    specs,
    verdict::{Step, Verdict},
    wire::tls::{TlsSettings, Trust},
};
use std::{
    collections::{HashSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use sternline_api::v1alpha1::{
    self as pb, reverse_port_forward_service_client::ReversePortForwardServiceClient as Client,
};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::transport::{Channel, Endpoint};

/// What to judge, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Path of the Unix socket on which the call is served.
    pub endpoint: PathBuf,
    /// What the sandboxes are.
    pub sandboxes: Sandboxes,
    /// Where the suite keeps files of its own while it runs.
    pub run_dir: PathBuf,
    /// Words of which one has to be in a spec's id or sentence; none: all specs.
    pub focus: Vec<String>,
    /// Words that keep a spec from running.
    pub skip: Vec<String>,
    /// Labels of which a spec must have one; `!slow` asks for those without.
    pub label: Vec<String>,
    /// Specs at once.
    pub parallel: usize,
    /// Seed of the order.
    pub seed: u64,
    /// Longest time of one spec.
    pub timeout: Duration,
    /// How long to wait for what should happen at once.
    pub patience: Duration,
    /// How often a failed spec is tried again.
    pub flake_attempts: u32,
    /// How the node's operator restarts the server and switches the feature.
    pub commands: Commands,
    /// For streaming endpoints whose URL is `https`.
    pub tls: TlsSettings,
}

impl Options {
    /// The specs that these options choose, in a random order.
    pub(crate) fn chosen(&self) -> Vec<&'static Spec> {
        let says = |spec: &Spec, word: &String| {
            let word = word.to_lowercase();
            spec.id.contains(&word) || spec.text.to_lowercase().contains(&word)
        };
        let labelled = |spec: &Spec, label: &String| match label.strip_prefix('!') {
            Some(without) => !spec.labels.contains(&without),
            None => spec.labels.contains(&label.as_str()),
        };
        let mut chosen: Vec<_> = specs::all()
            .filter(|spec| self.focus.is_empty() || self.focus.iter().any(|w| says(spec, w)))
            .filter(|spec| !self.skip.iter().any(|word| says(spec, word)))
            .filter(|spec| self.label.is_empty() || self.label.iter().any(|l| labelled(spec, l)))
            .collect();
        // xorshift64*: good enough to be unlike the order of the table.
        let mut state = self.seed | 1;
        for at in (1..chosen.len()).rev() {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let next = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
            let other = usize::try_from(next >> 33).unwrap_or(0) % (at + 1);
            chosen.swap(at, other);
        }
        chosen
    }
}

/// The implementation, reached and ready to be judged.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) client: Client<Channel>,
    pub(crate) status: pb::StatusResponse,
    pub(crate) version: pb::VersionResponse,
    pub(crate) fixture: Arc<Fixture>,
    pub(crate) channel: Channel,
    pub(crate) operator: Arc<Operator>,
    pub(crate) trust: Trust,
}

impl Subject {
    /// Reaches the implementation, makes one sandbox and one call for it. The
    /// error says why the environment cannot be used.
    pub(crate) async fn reach(options: &Options, fixture: &Arc<Fixture>) -> Result<Self, String> {
        let trust = Trust::load(&options.tls)?;
        let name = options.endpoint.display();
        let unreachable = |why: String| format!("nothing answers the call on {name}: {why}");
        let channel = Endpoint::from_shared(format!("unix://{name}"))
            .map_err(|error| format!("{name} is no path of a socket: {error}"))?
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(20))
            .connect()
            .await
            .map_err(|error| unreachable(chain(&error)))?;
        let mut client = Client::new(channel.clone());
        let version = client.version(pb::VersionRequest {}).await;
        let version = version.map_err(|status| unreachable(describe(&status)))?;
        let status = client.status(pb::StatusRequest {}).await;
        let status = status.map_err(|status| unreachable(describe(&status)))?;
        fixture.prepare().await?;
        let subject = Self {
            client,
            version: version.into_inner(),
            status: status.into_inner(),
            fixture: Arc::clone(fixture),
            channel,
            operator: Arc::new(Operator::new(&options.commands)),
            trust,
        };
        preflight::check(&subject, options).await?;
        Ok(subject)
    }

    pub(crate) fn context(&self, patience: Duration) -> Context {
        Context::new(self, patience)
    }
}

/// An error and what lies beneath it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(deeper) = source {
        let more = deeper.to_string();
        // Some tell what lies beneath them themselves.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = deeper.source();
    }
    text
}

/// Runs the chosen specs and tells each result to `progress` as it comes.
///
/// Dropping the future ends every spec; sandboxes of a runtime are then left to
/// the next run.
///
/// # Errors
/// Why the environment cannot be used, or what could not be removed.
pub async fn judge(
    options: &Options,
    progress: impl FnMut(&Judged) + Send,
) -> Result<Report, String> {
    let fixture = Fixture::begin(&options.sandboxes, &options.run_dir)?;
    let judged = match Subject::reach(options, &fixture).await {
        Ok(subject) => Ok(run(options, &subject, progress, std::future::pending()).await),
        Err(why) => Err(why),
    };
    let closed = fixture.close().await;
    judged.and_then(|report| closed.map(|()| report))
}

/// The same with a subject that was reached. It is cut short when `stop` comes,
/// and when the environment fails: what follows would say nothing.
pub(crate) async fn run(
    options: &Options,
    subject: &Subject,
    mut progress: impl FnMut(&Judged) + Send,
    stop: impl Future<Output = ()>,
) -> Report {
    let begun = Instant::now();
    let chosen = options.chosen();
    let (serial, parallel): (VecDeque<_>, VecDeque<_>) =
        chosen.iter().copied().partition(|spec| spec.is_serial());
    let mut judged: Vec<Judged> = Vec::new();
    let mut cut_short = None;
    let mut stop = std::pin::pin!(stop);
    for (queue, workers) in [(parallel, options.parallel.max(1)), (serial, 1)] {
        let queue = Arc::new(Mutex::new(queue));
        let (tell, mut told) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (queue, tell) = (Arc::clone(&queue), tell.clone());
            let (options, subject) = (options.clone(), subject.clone());
            tasks.spawn(async move {
                let next = || {
                    queue
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front()
                };
                while let Some(spec) = next() {
                    if tell
                        .send(attempts(spec, &options, &subject).await)
                        .await
                        .is_err()
                    {
                        break;
                    }
                }
            });
        }
        drop(tell);
        while cut_short.is_none() {
            tokio::select! {
                biased;
                () = &mut stop => cut_short = Some("the run was interrupted"),
                one = told.recv() => {
                    let Some(one) = one else { break };
                    progress(&one);
                    if matches!(one.outcome, Outcome::Environment(_)) {
                        cut_short = Some("the environment failed before this spec had ended");
                    }
                    judged.push(one);
                }
            }
        }
        if let Some(why) = cut_short {
            tasks.shutdown().await;
            let ended: HashSet<_> = judged.iter().map(|one| one.id).collect();
            let rest = chosen.iter().filter(|spec| !ended.contains(spec.id));
            judged.extend(rest.map(|spec| unended(spec, why)));
            break;
        }
    }
    judged.sort_by_key(|one| one.id);
    Report {
        subject: format!("{} {}", subject.version.name, subject.version.version),
        runtime: subject.status.runtime.clone(),
        seed: options.seed,
        took: begun.elapsed(),
        judged,
        cut_short,
    }
}

/// A spec that the end of the run did not wait for.
fn unended(spec: &Spec, why: &str) -> Judged {
    Judged {
        id: spec.id,
        theme: spec.theme(),
        required: spec.level == Level::Required,
        section: spec.section,
        text: spec.text,
        took: Duration::ZERO,
        attempts: 0,
        steps: Vec::new(),
        outcome: Outcome::Skipped(why.into()),
    }
}

async fn attempts(spec: &'static Spec, options: &Options, subject: &Subject) -> Judged {
    let begun = Instant::now();
    let mut attempt = 1;
    loop {
        let context = subject.context(options.patience);
        let ended = tokio::time::timeout(options.timeout, (spec.run)(&context)).await;
        let outcome: Step = ended.unwrap_or_else(|_| {
            Err(Verdict::Failed {
                expected: "the steps come to an end".into(),
                seen: format!("they were still going on after {:?}", options.timeout),
            })
        });
        context.clean(outcome.is_ok()).await;
        let again = matches!(outcome, Err(Verdict::Failed { .. } | Verdict::Broken(_)));
        if again && attempt <= options.flake_attempts {
            attempt += 1;
            continue;
        }
        return Judged {
            id: spec.id,
            theme: spec.theme(),
            required: spec.level == Level::Required,
            section: spec.section,
            text: spec.text,
            took: begun.elapsed(),
            attempts: attempt,
            steps: context.steps(),
            outcome: outcome.into(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("sternline-runner-{name}-{}", std::process::id());
        std::env::temp_dir().join(name)
    }

    fn options() -> Options {
        Options {
            endpoint: "/nowhere".into(),
            sandboxes: Sandboxes::Namespaces(scratch("netns")),
            run_dir: scratch("run"),
            focus: Vec::new(),
            skip: Vec::new(),
            label: Vec::new(),
            parallel: 1,
            seed: 7,
            timeout: Duration::from_secs(1),
            patience: Duration::from_secs(1),
            flake_attempts: 0,
            commands: Commands::default(),
            tls: TlsSettings::default(),
        }
    }

    fn ids(options: &Options) -> Vec<&'static str> {
        options.chosen().iter().map(|spec| spec.id).collect()
    }

    #[test]
    fn the_seed_decides_the_order() {
        let (one, other) = (
            options(),
            Options {
                seed: 8,
                ..options()
            },
        );
        assert_eq!(ids(&one), ids(&one));
        assert_ne!(ids(&one), ids(&other));
        assert_eq!(ids(&one).len(), specs::all().count());
    }

    #[test]
    fn focus_skip_and_labels_choose() {
        let focus = Options {
            focus: vec!["Half-Close".into()],
            ..options()
        };
        assert!(!ids(&focus).is_empty());
        assert!(ids(&focus).len() < 10);
        let none = Options {
            skip: vec!["half-close".into()],
            ..focus
        };
        assert!(ids(&none).is_empty());
        let slow = Options {
            label: vec!["slow".into()],
            ..options()
        };
        let quick = Options {
            label: vec!["!slow".into()],
            ..options()
        };
        assert_eq!(ids(&slow).len() + ids(&quick).len(), specs::all().count());
    }

    #[tokio::test]
    async fn a_run_that_is_interrupted_tells_of_every_spec() {
        let dir = |name: &str| scratch(&format!("interrupted-{name}"));
        let options = Options {
            sandboxes: Sandboxes::Namespaces(dir("netns")),
            run_dir: dir("run"),
            ..options()
        };
        let fixture = Fixture::begin(&options.sandboxes, &options.run_dir).expect("a run");
        let channel = Endpoint::from_static("unix:///nowhere").connect_lazy();
        let subject = Subject {
            client: Client::new(channel.clone()),
            status: pb::StatusResponse::default(),
            version: pb::VersionResponse::default(),
            fixture: Arc::clone(&fixture),
            channel,
            operator: Arc::new(Operator::new(&options.commands)),
            trust: Trust::load(&options.tls).expect("nothing to read"),
        };
        let report = run(&options, &subject, |_| {}, async {}).await;
        fixture.close().await.expect("nothing was made");
        drop((subject, fixture));
        for dir in [dir("netns"), dir("run")] {
            std::fs::remove_dir(dir).expect("an empty directory");
        }
        assert_eq!(report.cut_short, Some("the run was interrupted"));
        assert_eq!(report.judged.len(), specs::all().count());
        assert_eq!(report.count("skipped"), report.judged.len());
    }

    #[tokio::test]
    async fn nothing_at_the_endpoint_is_said_by_name() {
        let options = options();
        let error = judge(&options, |_| {}).await.expect_err("nothing there");
        let Sandboxes::Namespaces(netns) = &options.sandboxes else {
            panic!("namespaces");
        };
        for dir in [netns, &options.run_dir] {
            std::fs::remove_dir(dir).expect("an empty directory");
        }
        assert!(error.contains("/nowhere"), "{error}");
    }
}
