//! `kubectl reverse-port-forward`: the command line of the plug-in, and of
//! `sternline kubectl`.

use super::{Format, help};
use crate::cluster::object::{Object, check_name};
use crate::cluster::{Overrides, kubeconfig::Impersonation};
use crate::fault::Fault;
use crate::span;
use crate::spec::named;
use clap::{Args, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Forwards ports of a pod to this machine: the direction of ssh -R.
#[derive(Debug, Parser)]
#[command(name = "kubectl-reverse_port_forward", version, long_about = help::KUBECTL_ABOUT, after_help = help::KUBECTL)]
pub struct Plugin {
    /// What to do.
    #[command(flatten)]
    pub kubectl: Kubectl,
    /// Longest wait for each answer of a server, for example 10s or 500ms.
    #[arg(long, global = true, value_name = "SPAN", default_value = "10s", value_parser = span::parse_positive)]
    pub request_timeout: Duration,
    /// Say more on standard error: -v walks the set-up, -vv each connection, -vvv everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// `sternline kubectl`.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub struct Kubectl {
    /// Another command than to forward.
    #[command(subcommand)]
    pub other: Option<Other>,
    /// Where to listen: a pod's NAME, or deploy/NAME, sts/, ds/, rs/, job/, svc/.
    #[arg(value_name = "TYPE/NAME", required = true)]
    pub object: Option<String>,
    /// What to forward, remote first: `[BIND:]PORT[:TARGET]`, see below.
    #[arg(value_name = "SPEC", required = true, allow_negative_numbers = true)]
    pub specs: Vec<String>,
    /// Print lines for people, or one JSON event per line.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Write the bound addresses here as JSON once everything listens; removed at the end.
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// Print no Forwarding and Handling lines, only errors; JSON events stay.
    #[arg(short, long)]
    pub quiet: bool,
    /// Keep the listeners for so long when the connection is lost, and come back to them.
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = span::parse)]
    pub hold: Duration,
    /// Which cluster, and as whom.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Command to run while the forward is up; its exit code is ours.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// Nothing came after `--`, which clap does not tell.
    #[arg(skip)]
    pub command_missing: bool,
}

/// Commands beside forwarding.
#[derive(Debug, Subcommand)]
pub enum Other {
    /// Check step by step what a forward needs, and say what to fix.
    #[command(after_help = help::DOCTOR)]
    Doctor(Doctor),
}

/// `kubectl reverse-port-forward doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Where you want to listen: TYPE/NAME, or a pod's NAME.
    #[arg(value_name = "TYPE/NAME")]
    pub object: Option<String>,
}

/// Which cluster, and as whom: the flags of kubectl.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Namespace of the pod, in place of the context's.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig, in place of the current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Kubeconfig to read, in place of KUBECONFIG and ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// User to act as, if the API server lets you.
    #[arg(long = "as", global = true, value_name = "USER")]
    pub as_user: Option<String>,
    /// Group to act as; may stand several times.
    #[arg(long, global = true, value_name = "GROUP")]
    pub as_group: Vec<String>,
    /// Uid to act as.
    #[arg(long, global = true, value_name = "UID")]
    pub as_uid: Option<String>,
    /// How long to wait for a pod that runs.
    #[arg(long, global = true, value_name = "SPAN", default_value = "1m", value_parser = span::parse)]
    pub pod_running_timeout: Duration,
}

impl ClusterArgs {
    /// What they say in place of the kubeconfig.
    ///
    /// # Errors
    /// A usage error: a namespace that none can have.
    pub fn overrides(&self) -> Result<Overrides, Fault> {
        if let Some(namespace) = &self.namespace {
            check_name(namespace).map_err(|what| Fault::usage(format!("--namespace: {what}")))?;
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(Overrides {
            kubeconfig: self.kubeconfig.clone(),
            context: given(&self.context),
            namespace: self.namespace.clone(),
            impersonation: Impersonation {
                user: given(&self.as_user),
                uid: given(&self.as_uid),
                groups: self.as_group.clone(),
                extra: Vec::new(),
            },
        })
    }
}

impl Kubectl {
    /// Checks what clap cannot, as far as it can be done before contact.
    ///
    /// # Errors
    /// A usage error with one sentence.
    pub fn check(&self) -> Result<Object, Fault> {
        super::check_command(self.command_missing, &self.command)?;
        let object = self.object.as_deref().unwrap_or_default();
        let object = Object::parse(object).map_err(Fault::usage)?;
        named::check_all(&self.specs).map_err(|error| Fault::usage(error.to_string()))?;
        super::check_ready_file(self.ready_file.as_deref())?;
        Ok(object)
    }
}

/// What the name that a program was called by asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// `sternline`, and everything that is not known.
    Sternline,
    /// The plug-in, as kubectl's users call it.
    Plugin(&'static str),
    /// What kubectl asks for completion.
    Complete,
}

impl Called {
    /// Reads the first word of a command line.
    #[must_use]
    pub fn by(program: Option<&OsStr>) -> Self {
        let name = program.and_then(|program| Path::new(program).file_name());
        let name = name.map(OsStr::to_string_lossy).unwrap_or_default();
        match name.strip_suffix(".exe").unwrap_or(&name) {
            "kubectl-reverse_port_forward" => Self::Plugin("kubectl reverse-port-forward"),
            "kubectl-rpf" => Self::Plugin("kubectl rpf"),
            "kubectl_complete-reverse_port_forward" | "kubectl_complete-rpf" => Self::Complete,
            _ => Self::Sternline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Plugin, clap::Error> {
        Plugin::try_parse_from(["kubectl-rpf"].iter().chain(args))
    }

    #[test]
    fn the_definition_is_sound() {
        Plugin::command().debug_assert();
    }

    #[test]
    fn flags_stand_before_and_after_what_is_named() {
        let plugin = parse(&[
            "-n",
            "shop",
            "deploy/php",
            "xdebug",
            "0:3000",
            "--as",
            "jane",
            "--as-group=a",
            "--as-group",
            "b",
            "--",
            "sh",
            "-n",
        ])
        .expect("reads");
        let kubectl = plugin.kubectl;
        assert_eq!(kubectl.specs, ["xdebug", "0:3000"]);
        assert_eq!(kubectl.command, ["sh", "-n"]);
        assert_eq!(kubectl.hold, Duration::from_secs(30));
        let overrides = kubectl.cluster.overrides().expect("sound");
        assert_eq!(overrides.namespace.as_deref(), Some("shop"));
        assert_eq!(overrides.impersonation.groups, ["a", "b"]);
        assert_eq!(
            kubectl.check().expect("sound").to_string(),
            "deployment/php"
        );
    }

    #[test]
    fn a_doctor_is_asked_with_the_same_flags() {
        for args in [
            &["doctor", "deploy/php", "-n", "shop"][..],
            &["-n", "shop", "doctor", "deploy/php"],
        ] {
            let kubectl = parse(args).expect("reads").kubectl;
            assert_eq!(kubectl.cluster.namespace.as_deref(), Some("shop"));
            let Some(Other::Doctor(doctor)) = kubectl.other else {
                panic!("{args:?}");
            };
            assert_eq!(doctor.object.as_deref(), Some("deploy/php"));
        }
    }

    #[test]
    fn what_is_wrong_is_a_usage_error_before_contact() {
        for args in [&[][..], &["web"], &["web", "80", "--hold", "x"]] {
            assert_eq!(parse(args).expect_err("refused").exit_code(), 2);
        }
        for (args, what) in [
            (&["node/a", "80"][..], "no kind"),
            (&["web", "a.b:80"], "no address"),
            (&["web", "80", "--ready-file", "/"], "--ready-file"),
            (&["web", "80", "--", ""], "after -- is missing"),
        ] {
            let fault = parse(args).expect("reads").kubectl.check().expect_err(what);
            assert_eq!(fault.exit, crate::fault::exit::USAGE);
            assert!(fault.message.contains(what), "{fault}");
        }
        let kubectl = parse(&["-n", "a/b", "web", "80"]).expect("reads").kubectl;
        assert!(kubectl.cluster.overrides().is_err());
    }

    #[test]
    fn the_name_decides_what_the_program_is() {
        for (name, called) in [
            (
                "/usr/bin/kubectl-reverse_port_forward",
                Called::Plugin("kubectl reverse-port-forward"),
            ),
            ("kubectl-rpf", Called::Plugin("kubectl rpf")),
            ("kubectl-rpf.exe", Called::Plugin("kubectl rpf")),
            ("kubectl_complete-rpf", Called::Complete),
            ("sternline", Called::Sternline),
            ("", Called::Sternline),
        ] {
            assert_eq!(Called::by(Some(OsStr::new(name))), called, "{name}");
        }
        assert_eq!(Called::by(None), Called::Sternline);
    }

    #[test]
    fn the_help_gives_examples_and_the_exit_codes() {
        let help = Plugin::command().render_long_help().to_string();
        for part in [
            "SPEC   :=",
            "Examples:",
            "deploy/php 9003",
            "Exit codes:",
            "-n, --namespace",
            "--pod-running-timeout",
            "[default: 30s]",
            "doctor",
        ] {
            assert!(help.contains(part), "{part} is missing:\n{help}");
        }
    }
}
