//! Long runs, which no test suite waits for: a soak, and the kill matrix.
//!
//! `STERNLINE_ENDURANCE` chooses one; the node and the enclosure are those of the
//! stories.

mod counts;
mod dice;
mod lane;
mod matrix;
mod soak;
mod table;

use crate::support::node::Node;
use anyhow::{Context as _, Result, bail};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A long run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endurance {
    /// Random work and random kills for this long, with the dice of this seed.
    Soak { length: Duration, seed: u64 },
    /// Everybody is killed in every phase, so many times; or one alone.
    Matrix { rounds: u32, victim: Option<String> },
}

impl Endurance {
    /// The one that was chosen, if one was.
    ///
    /// # Errors
    /// There is no such run, or a setting cannot be read.
    pub(crate) fn chosen() -> Result<Option<Self>> {
        let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        Ok(match set("STERNLINE_ENDURANCE").as_deref() {
            None => None,
            Some("soak") => {
                let length = length(&set("SOAK").unwrap_or_else(|| "15m".to_owned()))?;
                let seed = match set("SOAK_SEED") {
                    Some(seed) => seed.parse().context("SOAK_SEED is no number")?,
                    None => dice::any_seed(),
                };
                Some(Self::Soak { length, seed })
            }
            Some("kill-matrix") => {
                let rounds = set("ROUNDS").unwrap_or_else(|| "100".to_owned());
                let rounds = rounds.parse().context("ROUNDS is no number")?;
                let victim = set("VICTIM");
                Some(Self::Matrix { rounds, victim })
            }
            Some(other) => bail!("STERNLINE_ENDURANCE={other}: choose soak or kill-matrix"),
        })
    }

    /// Goes through with it; fails where anything was left over, lost or wrong.
    ///
    /// # Errors
    /// It could not be gone through with.
    pub(crate) async fn run(&self, node: &Arc<Node>) -> Result<ExitCode> {
        let sound = match self {
            Self::Soak { length, seed } => soak::run(node, *length, *seed).await?,
            Self::Matrix { rounds, victim } => {
                matrix::run(node, *rounds, victim.as_deref()).await?
            }
        };
        Ok(if sound {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Reads 60s or 15m.
fn length(text: &str) -> Result<Duration> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 = number
        .parse()
        .with_context(|| format!("SOAK={text} is no time: write 60s or 15m"))?;
    match unit {
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => bail!("SOAK={text} is no time: write 60s or 15m"),
    }
}
