//! Commands with which an operator of the node ends and starts the server, and
//! switches the feature. The suite cannot know them: they are given to it.

use crate::verdict::{Step, Verdict, skip};
use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::process::Command;

/// Longest time of one command.
const LONGEST: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// End the server as its service manager does, and start it again.
    Restart,
    /// Switch the feature off.
    Off,
    /// Switch it on.
    On,
}

impl Act {
    /// The flag that says how it is done.
    fn flag(self) -> &'static str {
        match self {
            Self::Restart => "--restart-command",
            Self::Off => "--off-command",
            Self::On => "--on-command",
        }
    }
}

/// Lines for `sh -c`; none: the specs that need one do not apply.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    /// Ends the server with SIGTERM and starts it again.
    pub restart: Option<String>,
    /// Switches the feature off.
    pub off: Option<String>,
    /// Switches the feature on.
    pub on: Option<String>,
}

/// Runs them.
#[derive(Debug)]
pub(crate) struct Operator {
    commands: Commands,
    /// The feature was switched off and not on again.
    off: AtomicBool,
}

/// One command, ready to be run.
#[derive(Debug)]
pub(crate) struct Ready<'a> {
    operator: &'a Operator,
    act: Act,
    line: &'a str,
}

impl Operator {
    pub(crate) fn new(commands: &Commands) -> Self {
        Self {
            commands: commands.clone(),
            off: AtomicBool::new(false),
        }
    }

    /// Skips the spec where nobody said how this is done.
    pub(crate) fn can(&self, act: Act) -> Step<Ready<'_>> {
        let line = match act {
            Act::Restart => &self.commands.restart,
            Act::Off => &self.commands.off,
            Act::On => &self.commands.on,
        };
        // Who cannot switch it on again shall not switch it off.
        if act == Act::Off {
            self.can(Act::On)?;
        }
        match line {
            Some(line) => Ok(Ready {
                operator: self,
                act,
                line,
            }),
            None => {
                let flag = act.flag();
                skip(format!("without {flag} the suite does not know how"))
            }
        }
    }

    /// Switches the feature on again where a spec was interrupted before it did.
    /// The error says that it is off.
    pub(crate) async fn restore(&self) -> Result<(), String> {
        if !self.off.load(Ordering::Relaxed) {
            return Ok(());
        }
        let on = match self.can(Act::On) {
            Ok(on) => on.run().await,
            Err(verdict) => Err(verdict),
        };
        on.map_err(|_| "the feature is left switched off: --on-command failed".into())
    }
}

impl Ready<'_> {
    /// Runs the command to its end. One that fails is not the implementation's
    /// failure.
    pub(crate) async fn run(&self) -> Step {
        if self.act == Act::Off {
            self.operator.off.store(true, Ordering::Relaxed);
        }
        // No pipes: a server that the command starts would hold them open.
        let status = Command::new("sh")
            .args(["-c", self.line])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .status();
        let line = self.line;
        let flag = self.act.flag();
        let broken = |why: String| {
            let why = format!("{flag} {line:?} failed: {why}");
            Err(Verdict::Environment(why))
        };
        let status = match tokio::time::timeout(LONGEST, status).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return broken(error.to_string()),
            Err(_) => return broken(format!("it did not end within {LONGEST:?}")),
        };
        if !status.success() {
            return broken(status.to_string());
        }
        if self.act == Act::On {
            self.operator.off.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(on: Option<&str>) -> Operator {
        Operator::new(&Commands {
            off: Some("true".into()),
            on: on.map(str::to_owned),
            ..Commands::default()
        })
    }

    #[test]
    fn nothing_is_switched_off_that_cannot_be_switched_on() {
        assert!(matches!(
            operator(None).can(Act::Off),
            Err(Verdict::Skipped(_))
        ));
        assert!(operator(Some("true")).can(Act::Off).is_ok());
        assert!(matches!(
            operator(None).can(Act::Restart),
            Err(Verdict::Skipped(_))
        ));
    }

    #[tokio::test]
    async fn what_was_left_off_is_switched_on_at_the_end() {
        let file = std::env::temp_dir().join(format!("sternline-on-{}", std::process::id()));
        let operator = operator(Some(&format!("echo on > {}", file.display())));
        operator.restore().await.expect("nothing to do");
        assert!(!file.exists());
        operator
            .can(Act::Off)
            .expect("it can")
            .run()
            .await
            .expect("done");
        operator.restore().await.expect("it is on again");
        std::fs::remove_file(&file).expect("the command ran");
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_with_its_code() {
        let operator = operator(Some("exit 3"));
        let failed = operator.can(Act::On).expect("it can").run().await;
        let Err(Verdict::Environment(why)) = failed else {
            panic!("{failed:?}");
        };
        assert!(why.contains("exit status: 3"), "{why}");
        assert!(why.contains("--on-command \"exit 3\""), "{why}");
    }
}
