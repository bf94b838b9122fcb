//! What a run is asked to do.

use crate::rows::{Phase, Scale};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// How thorough a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Profile {
    /// Seconds: shows that everything works, its figures mean nothing.
    Smoke,
    /// About five minutes.
    Quick,
    /// About 75 minutes: more rounds, longer windows, packet loss, 9,000 connections.
    Full,
}

/// `sternline-bench run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// How thorough to be.
    #[arg(long, value_enum, default_value = "quick")]
    pub(crate) profile: Profile,
    /// Directory of the shim and the command line; that of this program unless given.
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Directory for raw figures and plots.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub(crate) out: PathBuf,
    /// Only these rows, for example F1,F5.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Rounds of each phase, instead of the profile's.
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<u32>,
    /// Chooses the order of measurements and which packets are lost.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Stream in plain although the shim could speak TLS: only for telling what TLS costs.
    #[arg(long)]
    pub(crate) plain: bool,
}

/// How long and how often a phase measures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Rounds.
    pub(crate) rounds: u32,
    /// No round is begun after so long.
    pub(crate) most: Duration,
    /// Time before each measurement that does not count, in seconds.
    pub(crate) warm: f64,
    /// Length of a measurement, in seconds.
    pub(crate) window: f64,
}

impl Run {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// A row that does not exist.
    pub(crate) fn check(&self) -> Result<()> {
        for id in &self.only {
            let number = id.strip_prefix('F').and_then(|n| n.parse::<u32>().ok());
            if !number.is_some_and(|n| (1..=14).contains(&n)) {
                bail!("--only {id}: rows are called F1 to F14");
            }
        }
        Ok(())
    }

    /// How much is measured.
    pub(crate) fn scale(&self) -> Scale {
        let (idle, flood) = match self.profile {
            Profile::Smoke => (100, 50),
            Profile::Quick => (2000, 1000),
            Profile::Full => (9000, 1000),
        };
        Scale {
            idle,
            flood,
            quick: self.profile == Profile::Quick,
        }
    }

    /// How long and how often a phase measures.
    pub(crate) fn times(&self, phase: Phase) -> Times {
        let far = matches!(phase, Phase::Far | Phase::LossCubic | Phase::LossBbr);
        let alone = matches!(phase, Phase::Memory | Phase::Setup);
        // Over 40 ms it takes seconds until TCP has found its speed.
        let (rounds, most, warm, window) = match (self.profile, far, alone) {
            (Profile::Smoke, true, _) => (1, 60, 0.5, 0.5),
            (Profile::Smoke, ..) => (1, 60, 0.1, 0.2),
            (Profile::Quick, true, _) => (3, 100, 2.0, 2.0),
            (Profile::Quick, _, true) => (3, 60, 0.3, 1.0),
            (Profile::Quick, ..) => (7, 130, 0.2, 0.6),
            (Profile::Full, true, _) => (11, 1200, 4.0, 5.0),
            (Profile::Full, _, true) => (5, 600, 0.3, 5.0),
            (Profile::Full, ..) => (21, 2400, 0.3, 1.5),
        };
        Times {
            rounds: self.rounds.unwrap_or(rounds),
            most: Duration::from_secs(most),
            warm,
            window,
        }
    }
}
