//! Single measurements.

use super::Run;
use super::options::Times;
use crate::contender::{self, Certificate, Kind, Running, Setting};
use crate::enclosure::STATE;
use crate::load::{Figures, figure};
use crate::process::{Process, run};
use crate::rows::Job;
use crate::stage::{Place, Stage, TARGET, target_at_work};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a measurement may take beyond its window: opening thousands of
/// connections, and a look at a neighbour.
const SLACK: Duration = Duration::from_secs(90);

/// Bound on the start of the target.
const START: Duration = Duration::from_secs(10);

/// Everything that measurements need.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) stage: Stage,
    pub(super) target: Process,
    pub(super) setting: Setting,
    /// What each contender's bytes look like.
    pub(super) forms: BTreeMap<String, String>,
}

fn control() -> PathBuf {
    Path::new(STATE).join("target.sock")
}

impl Bench {
    /// Sets the stage up and starts the target.
    pub(super) fn new(options: &Run) -> Result<Self> {
        let own = std::env::current_exe()?;
        let bin_dir = match &options.bin_dir {
            Some(dir) => std::path::absolute(dir)?,
            None => own.parent().context("no directory")?.to_owned(),
        };
        let stage = Stage::new(bin_dir, options.seed)?;
        let setting = Setting {
            connections: 0,
            instance: 0,
            certificate: Certificate::make(Path::new(STATE))?,
            plain: options.plain,
        };
        let mut command = stage.own(Place::Work, "target");
        command
            .args(["--listen", &format!("0.0.0.0:{TARGET}")])
            .arg("--control")
            .arg(control());
        let mut target = Process::start("target", command, Path::new(STATE))?;
        target.until("its control socket", START, |_| {
            control().exists().then_some(())
        })?;
        Ok(Self {
            stage,
            target,
            setting,
            forms: BTreeMap::new(),
        })
    }

    /// Starts a contender and looks that it carries connections.
    pub(super) fn start(&mut self, kind: Kind, connections: u32, instance: u16) -> Result<Running> {
        let setting = Setting {
            connections,
            instance,
            ..self.setting.clone()
        };
        let running = contender::start(kind, &self.stage, &setting)?;
        let mut command = self.stage.own(running.from, "load");
        command
            .args(["--connect", &running.connect.to_string(), "--control"])
            .arg(control())
            .arg("check");
        run(&mut command).with_context(|| format!("{} carries nothing", kind.name()))?;
        self.forms
            .insert(kind.name().to_owned(), running.form.clone());
        Ok(running)
    }

    /// Runs the load generator against a contender.
    pub(super) fn load(&self, running: &Running, job: Job, times: Times) -> Result<Figures> {
        let mut command = self.stage.own(running.from, "load");
        command
            .args(["--connect", &running.connect.to_string(), "--control"])
            .arg(control())
            .args(["--seconds", &times.window.to_string()])
            .args(["--warm", &times.warm.to_string()]);
        for (flag, side) in [
            ("--node-pid", &running.node),
            ("--client-pid", &running.client),
        ] {
            for pid in Running::pids(side) {
                command.args([flag, &pid.to_string()]);
            }
        }
        command.args(words(job)?);
        let load = Process::start("load", command, Path::new(STATE))?;
        let within = Duration::from_secs_f64(times.window + times.warm) + SLACK;
        let what = || format!("{job} through {}", running.connect);
        let said = load.finish(within).with_context(what)?;
        serde_json::from_str(&said).with_context(what)
    }

    /// What the runner measures itself.
    pub(super) fn setup(&self, job: Job) -> Result<Figures> {
        let millis =
            |time: Duration| Figures::from([(figure::MILLIS.to_owned(), time.as_secs_f64() * 1e3)]);
        let (stage, setting) = (&self.stage, &self.setting);
        let (_shim, shim_start) = contender::shim(stage, setting)?;
        match job {
            Job::ShimStart => Ok(millis(shim_start)),
            Job::ClientStart => {
                let (_client, time) = contender::forward(stage, setting, false)?;
                Ok(millis(time))
            }
            Job::Call => {
                let mut command = stage.own(Place::Work, "call");
                command
                    .arg("--socket")
                    .arg(contender::socket(setting.instance))
                    .args(["--sandbox", "pod", "--netns"])
                    .arg(Place::Pod.path())
                    .args(["--target", &target_at_work().to_string()])
                    .arg("--certificate")
                    .arg(&setting.certificate.certificate);
                let call = Process::start("call", command, Path::new(STATE))?;
                serde_json::from_str(&call.finish(SLACK)?).context("no figures")
            }
            other => bail!("{other} is for the load generator"),
        }
    }
}

/// A job on the load generator's command line.
fn words(job: Job) -> Result<Vec<String>> {
    let words: Vec<String> = match job {
        Job::Bulk(streams, direction) => vec![
            "bulk".to_owned(),
            format!("--streams={streams}"),
            format!("--direction={direction}"),
        ],
        Job::Connections(at_once) => {
            vec!["connections".to_owned(), format!("--at-once={at_once}")]
        }
        Job::RoundTrip(None) => vec!["round-trip".to_owned()],
        Job::RoundTrip(Some(beside)) => {
            vec!["round-trip".to_owned(), format!("--beside={beside}")]
        }
        Job::Idle(n) => vec!["idle".to_owned(), format!("--connections={n}")],
        Job::HalfClosed(n) => vec!["half-closed".to_owned(), format!("--connections={n}")],
        Job::Unread(n, direction) => vec![
            "unread".to_owned(),
            format!("--streams={n}"),
            format!("--direction={direction}"),
        ],
        Job::Call | Job::ShimStart | Job::ClientStart => bail!("{job} is for the runner"),
    };
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::load::{Direction, Work};
    use clap::Parser as _;

    fn parsed(job: Job) -> Work {
        let mut line: Vec<String> = "sternline-bench load --connect 127.0.0.1:1 --control /c"
            .split(' ')
            .map(str::to_owned)
            .collect();
        line.extend(words(job).expect("is for the generator"));
        match Cli::try_parse_from(&line).expect("parses").command {
            Command::Load(load) => load.work,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_generator_understands_every_job() {
        let (streams, direction) = (8, Direction::OutPod);
        let connections = streams;
        for (job, work) in [
            (Job::Bulk(8, direction), Work::Bulk { streams, direction }),
            (Job::Connections(64), Work::Connections { at_once: 64 }),
            (Job::RoundTrip(None), Work::RoundTrip { beside: None }),
            (
                Job::RoundTrip(Some(direction)),
                Work::RoundTrip {
                    beside: Some(direction),
                },
            ),
            (Job::Idle(8), Work::Idle { connections }),
            (Job::HalfClosed(8), Work::HalfClosed { connections }),
            (
                Job::Unread(8, direction),
                Work::Unread { streams, direction },
            ),
        ] {
            assert!(job.is_load());
            assert_eq!(parsed(job), work);
        }
        for job in [Job::Call, Job::ShimStart, Job::ClientStart] {
            assert!(!job.is_load() && words(job).is_err());
        }
    }
}
