//! `sternline completion`: which shell.

use clap::{Args, ValueEnum};

/// `sternline completion`.
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell that will read the script.
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// A shell that scripts are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
    /// PowerShell, 5.0 or newer.
    #[value(name = "powershell")]
    PowerShell,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
            Shell::PowerShell => Self::PowerShell,
        }
    }
}
