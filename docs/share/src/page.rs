//! One manual page.

use crate::facts::{FACTS, Facts};
use crate::prose::{self, Section};
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use std::io;
use std::path::PathBuf;

/// A manual page: a command with its section.
#[derive(Clone, Debug)]
pub struct Page {
    command: Command,
    section: char,
}

/// A page for each program and each of its commands.
#[must_use]
pub fn pages() -> Vec<Page> {
    let programs = [
        (sternline_cli::args::Cli::command(), '1'),
        (sternline_shim::config::Cli::command(), '8'),
        (sternline_gateway::config::Cli::command(), '8'),
        (sternline_conformance::command(), '1'),
    ];
    let mut all = Vec::new();
    for (mut program, section) in programs {
        // Flags of every command belong to each only once it is built.
        program.build();
        add(program, section, &mut all);
    }
    all
}

/// Adds a page for a command and each below it.
fn add(command: Command, section: char, all: &mut Vec<Page>) {
    let below: Vec<_> = command.get_subcommands().cloned().collect();
    all.push(Page { command, section });
    for command in below.into_iter().filter(|one| one.get_name() != "help") {
        add(command, section, all);
    }
}

impl Page {
    /// What it is called: `sternline-forward`.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self.command.get_display_name();
        name.unwrap_or_else(|| self.command.get_name())
    }

    /// As other pages name it: `sternline-forward(1)`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}({})", self.name(), self.section)
    }

    /// The command that it describes.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Where it stands below `share/`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("man/man{0}/{1}.{0}", self.section, self.name()).into()
    }

    fn facts(&self) -> io::Result<&'static Facts> {
        let reference = self.reference();
        let mut facts = FACTS.iter();
        facts.find(|facts| facts.page == reference).ok_or_else(|| {
            io::Error::other(format!(
                "docs/share/src/facts.rs knows nothing of {reference}: add its exit codes and neighbours"
            ))
        })
    }

    /// The page.
    ///
    /// # Errors
    /// Nobody wrote down what the page says beyond the command line.
    pub fn roff(&self) -> io::Result<String> {
        let facts = self.facts()?;
        let mut out = Vec::new();
        let man = Man::new(self.command.clone())
            .title(self.name().to_uppercase())
            .section(self.section.to_string())
            .source(format!("Sternline {}", env!("CARGO_PKG_VERSION")))
            .manual("Sternline");
        man.render_title(&mut out)?;
        man.render_name_section(&mut out)?;
        out.extend(self.synopsis().into_bytes());
        man.render_description_section(&mut out)?;
        man.render_options_section(&mut out)?;
        let mut children = self.command.get_subcommands();
        if children.any(|command| command.get_name() != "help") {
            out.extend(self.commands().into_bytes());
        }
        for section in self.sections(facts) {
            out.extend(prose::roff(&section).into_bytes());
        }
        String::from_utf8(out).map_err(io::Error::other)
    }

    /// The usage line of the help: it has the values and what comes after `--`.
    fn synopsis(&self) -> String {
        let usage = self.command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ");
        format!(".SH SYNOPSIS\n{}\n", prose::escape(usage))
    }

    /// The list of commands, each with its page.
    fn commands(&self) -> String {
        let mut out = ".SH COMMANDS\n".to_owned();
        for command in self.command.get_subcommands() {
            if command.get_name() == "help" {
                continue;
            }
            let name = command.get_display_name().unwrap_or(command.get_name());
            let about = command.get_about().map(ToString::to_string);
            out.push_str(&format!(
                ".TP\n\\fB{}\\fR({})\n{}\n",
                prose::escape(name),
                self.section,
                prose::escape(&about.unwrap_or_default()),
            ));
        }
        out
    }

    /// What the help says below the options, and what it does not say at all.
    fn sections(&self, facts: &Facts) -> Vec<Section> {
        let after = self.command.get_after_help().map(ToString::to_string);
        let mut all = prose::sections(&after.unwrap_or_default());
        let mut add = |heading: &str, body: String, kept| {
            let there = all.iter().any(|section| section.heading == heading);
            if !there && !body.is_empty() {
                all.push(Section {
                    heading: heading.to_owned(),
                    body,
                    kept,
                });
            }
        };
        add("EXAMPLES", facts.examples.to_owned(), true);
        add("EXIT STATUS", facts.exit.to_owned(), true);
        let files = facts.files.iter();
        let files: Vec<_> = files
            .map(|(file, what)| format!("{file}\n    {what}"))
            .collect();
        add("FILES", files.join("\n"), true);
        add("SEE ALSO", facts.see.join(",\n"), false);
        all
    }
}
