//! `sternline completion`.

use crate::args::{Cli, Completion, Shell};
use crate::fault::{Fault, exit};
use crate::output::Output;
use clap::CommandFactory;

/// Prints the script of a shell. No server is asked.
///
/// # Errors
/// None but that of a script that is no text, which does not occur.
pub fn completion(args: &Completion, output: &Output) -> Result<(), Fault> {
    let script = String::from_utf8(script(args.shell))
        .map_err(|error| Fault::new(exit::OTHER, format!("the script is no text: {error}")))?;
    output.line(script.trim_end());
    Ok(())
}

/// The script of a shell.
#[must_use]
pub fn script(shell: Shell) -> Vec<u8> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(
        clap_complete::Shell::from(shell),
        &mut command,
        name,
        &mut script,
    );
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_gets_every_command_and_flag() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).expect("text");
            let mut command = Cli::command();
            command.build();
            for command in command.get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell:?}: {command}");
                for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                    assert!(script.contains(flag), "{shell:?}: {command} {flag}");
                }
            }
        }
    }
}
