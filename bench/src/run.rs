//! A whole run: phases, rounds, pairs.

mod measure;
mod options;

pub(crate) use options::{Profile, Run};

use crate::contender::Kind;
use crate::enclosure::{self, Part};
use crate::load::Figures;
use crate::report::{Machine, Measured, Report, Sample};
use crate::rows::{Phase, Row, Subject, rows};
use crate::stage::{Link, Stage};
use crate::stats::Rng;
use crate::{plot, usage};
use anyhow::{Context as _, Result};
use measure::Bench;
use options::Times;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long processes may take to be gone.
const TIDY: Duration = Duration::from_secs(5);

/// Two measurements that are made next to each other, or one alone.
type Pair = (Subject, Option<Subject>);

/// What a phase brought.
#[derive(Debug, Default)]
struct Found {
    measured: Vec<Measured>,
    failed: Vec<String>,
}

impl Found {
    /// One that fails costs its own figures, and not those of the hours before.
    fn fail(&mut self, error: &anyhow::Error) {
        let error = format!("{error:#}");
        progress(&format!("FAILED: {error}"));
        self.failed.push(error);
    }
}

/// `sternline-bench run`.
///
/// # Errors
/// Something is missing, or a measurement fails.
pub(crate) fn main(run: &Run) -> Result<ExitCode> {
    run.check()?;
    if let Part::Over(code) = enclosure::enter()? {
        return Ok(code);
    }
    let begun = Instant::now();
    let mut bench = Bench::new(run)?;
    let (rows, absent) = choose(run, &bench.stage);
    let mut report = Report::new(Machine::look(), run);
    report.absent = absent;
    for phase in Phase::ALL {
        let of_phase: Vec<&Row> = rows.iter().filter(|row| row.phase == phase).collect();
        if of_phase.is_empty() {
            continue;
        }
        progress(phase.name());
        let pairs = pairs(&of_phase);
        let found = match phase {
            Phase::Memory | Phase::Setup => one_by_one(&mut bench, phase, &pairs, run),
            _ => rounds(&mut bench, phase, &pairs, run),
        };
        let found = found.unwrap_or_else(|error| {
            let mut none = Found::default();
            none.fail(&error.context(format!("cannot set up: {}", phase.name())));
            none
        });
        report.measured.extend(found.measured);
        report.failed.extend(found.failed);
        let known = [bench.stage.pids(), vec![bench.target.pid()]].concat();
        report.leftovers.extend(leftovers(&known));
    }
    report.forms.clone_from(&bench.forms);
    report.judge(&rows, run.seed);
    report.seconds = begun.elapsed().as_secs_f64();
    let dir = Path::new(&run.out);
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let json = dir.join("bench.json");
    std::fs::write(&json, serde_json::to_string_pretty(&report)?)?;
    plot::draw(&report, dir)?;
    let mut out = std::io::stdout().lock();
    report.print(&mut out)?;
    writeln!(out, "\nraw figures: {}", json.display())?;
    Ok(match report.is_sound() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The rows that can be measured here, and why others cannot.
fn choose(run: &Run, stage: &Stage) -> (Vec<Row>, Vec<(String, String, String)>) {
    let mut missing: BTreeMap<Kind, Option<String>> = BTreeMap::new();
    let (mut chosen, mut absent) = (Vec::new(), Vec::new());
    for row in rows(run.scale()) {
        if !run.only.is_empty() && !run.only.iter().any(|id| id == row.id) {
            continue;
        }
        let other = row.against.map(|reference| reference.subject.kind);
        let why = [Some(row.subject.kind), other]
            .into_iter()
            .flatten()
            .find_map(|kind| {
                let entry = missing.entry(kind);
                entry.or_insert_with(|| kind.missing(stage)).clone()
            });
        match why.or_else(|| row.phase.missing()) {
            None => chosen.push(row),
            // Nobody waits for a comparison that asks for nothing.
            Some(why) if row.need.is_some() => absent.push((row.id.to_owned(), row.what, why)),
            Some(_) => {}
        }
    }
    if run.only.is_empty() {
        let what = "through a real API server and gateway".to_owned();
        let why = "needs a cluster".to_owned();
        absent.push(("F11".to_owned(), what, why));
    }
    (chosen, absent)
}

fn pairs(rows: &[&Row]) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    // What is needed alone rides with a pair where there is one.
    let (paired, alone): (Vec<&&Row>, Vec<&&Row>) =
        rows.iter().partition(|row| row.against.is_some());
    for row in paired {
        let pair = (row.subject, row.against.map(|reference| reference.subject));
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    for row in alone {
        let there = |pair: &Pair| pair.0 == row.subject || pair.1 == Some(row.subject);
        if !pairs.iter().any(there) {
            pairs.push((row.subject, None));
        }
    }
    pairs
}

/// Phases in which all contenders run all the time and are measured in turn.
fn rounds(bench: &mut Bench, phase: Phase, pairs: &[Pair], run: &Run) -> Result<Found> {
    let (link, congestion, forced) = match phase {
        Phase::Far => (Link::long(0.0), "cubic", false),
        Phase::LossCubic => (Link::long(0.001), "cubic", false),
        Phase::LossBbr => (Link::long(0.001), "bbr", true),
        _ => (Link::Near, "cubic", false),
    };
    bench.stage.link(link)?;
    bench.stage.congestion(congestion, forced)?;
    let subjects = pairs.iter().flat_map(|(one, other)| [Some(*one), *other]);
    let wanted: BTreeSet<(Kind, u32)> = subjects.flatten().map(instance).collect();
    let (mut running, mut found) = (BTreeMap::new(), Found::default());
    for (number, (kind, connections)) in (0..).zip(wanted) {
        match bench.start(kind, connections, number) {
            Ok(started) => drop(running.insert((kind, connections), started)),
            Err(error) => found.fail(&error),
        }
    }
    let times = run.times(phase);
    let mut rng = Rng::new(run.seed ^ phase as u64);
    let begun = Instant::now();
    for round in 0..times.rounds {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        rng.shuffle(&mut order);
        for at in order {
            let (one, other) = pairs[at];
            let mut two: Vec<Subject> = [Some(one), other].into_iter().flatten().collect();
            rng.shuffle(&mut two);
            if !two.iter().all(|one| running.contains_key(&instance(*one))) {
                continue;
            }
            let measure = |subject: &Subject| {
                let running = &running[&instance(*subject)];
                bench
                    .load(running, subject.job, times)
                    .map(|figures| Sample {
                        subject: *subject,
                        figures,
                    })
            };
            match two.iter().map(measure).collect() {
                Ok(samples) => found.measured.push(Measured {
                    phase,
                    round,
                    samples,
                }),
                Err(error) => found.fail(&error),
            }
        }
        if begun.elapsed() > times.most && round + 1 < times.rounds {
            progress(&format!("time is up after {} rounds", round + 1));
            break;
        }
        progress(&format!("round {} of {}", round + 1, times.rounds));
    }
    Ok(found)
}

/// Which instance of a contender a measurement needs: only Sternline has a limit
/// that must be raised for some, and raised for no other.
fn instance(subject: Subject) -> (Kind, u32) {
    match subject.kind {
        Kind::Sternline | Kind::SternlineWebsocket => (subject.kind, subject.job.connections()),
        other => (other, 0),
    }
}

/// Phases in which every measurement has a contender of its own, started for it.
fn one_by_one(bench: &mut Bench, phase: Phase, pairs: &[Pair], run: &Run) -> Result<Found> {
    bench.stage.link(Link::Near)?;
    bench.stage.congestion("cubic", false)?;
    let times = run.times(phase);
    let mut found = Found::default();
    for round in 0..times.rounds {
        for (subject, _) in pairs {
            match fresh(bench, *subject, times) {
                Ok(figures) => found.measured.push(Measured {
                    phase,
                    round,
                    samples: vec![Sample {
                        subject: *subject,
                        figures,
                    }],
                }),
                Err(error) => found.fail(&error),
            }
        }
        progress(&format!("round {} of {}", round + 1, times.rounds));
    }
    Ok(found)
}

/// Starts a contender, measures it once and stops it.
fn fresh(bench: &mut Bench, subject: Subject, times: Times) -> Result<Figures> {
    if !subject.job.is_load() {
        return bench.setup(subject.job);
    }
    let running = bench.start(subject.kind, subject.job.connections(), 0)?;
    bench.load(&running, subject.job, times)
}

/// Processes that are still there although their contender was stopped.
fn leftovers(known: &[u32]) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let strangers = usage::strangers(known);
        if strangers.is_empty() || begun.elapsed() > TIDY {
            return strangers
                .into_iter()
                .map(|(pid, name)| format!("{name} ({pid})"))
                .collect();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {line}");
}
