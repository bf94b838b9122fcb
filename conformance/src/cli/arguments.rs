//! The flags, and the file that may stand for some of them.

use crate::fixture::RUN_DIR;
use clap::Parser;
use std::{
    fs,
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
};

/// Judges whether something speaks ReversePortForward.
///
/// Sandboxes are pods of a container runtime, or with --standalone plain network
/// namespaces. Whichever way the run ends, they are removed.
///
/// Exit codes: 0 all required specs passed, 1 a required one failed, 2 usage,
/// 3 the environment cannot be used, 130 and 143 interrupted (SIGINT, SIGTERM).
#[derive(Debug, Parser)]
#[command(name = "sternline-conformance", version, args_override_self = true)]
pub(crate) struct Cli {
    /// Unix socket on which the call is served: a path, or unix:///PATH
    #[arg(long, value_name = "PATH")]
    pub(super) endpoint: Option<String>,
    /// Sandboxes are network namespaces that the suite makes itself (root)
    #[arg(long)]
    pub(super) standalone: bool,
    /// Where the implementation looks for named network namespaces
    #[arg(long, value_name = "DIR")]
    pub(super) netns_dir: Option<PathBuf>,
    /// CRI socket for pods [default: CONTAINER_RUNTIME_ENDPOINT, then
    /// /etc/crictl.yaml, then known sockets]
    #[arg(long, value_name = "ENDPOINT")]
    pub(super) runtime_endpoint: Option<String>,
    /// CRI socket for images [default: IMAGE_SERVICE_ENDPOINT, then
    /// /etc/crictl.yaml, then that of the pods]
    #[arg(long, value_name = "ENDPOINT")]
    pub(super) image_endpoint: Option<String>,
    /// Image with this program, for a node that cannot pull the suite's own
    #[arg(long, value_name = "IMAGE")]
    pub(super) probe_image: Option<String>,
    /// Port of the suite's own registry on 127.0.0.1; 0: a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(super) registry_port: u16,
    /// Runtime handler of the pods [default: the runtime's]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) runtime_handler: String,
    /// Cgroup of the pods [default: what the runtime does untold]
    #[arg(
        long,
        value_name = "PATH",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) cgroup_parent: String,
    /// CAs of the streaming endpoint (PEM), where its URL is https
    #[arg(long, value_name = "FILE")]
    pub(super) tls_ca: Option<PathBuf>,
    /// The suite's own certificate (PEM), for a streaming endpoint that asks
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// Where the suite keeps its sockets; the runtime mounts them into pods
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    pub(super) run_dir: PathBuf,
    /// Ends the server with SIGTERM and starts it again (sh); returns when the new
    /// one is up. For specs that want it
    #[arg(long, value_name = "COMMAND")]
    pub(super) restart_command: Option<String>,
    /// Switches the feature off (sh)
    #[arg(long, value_name = "COMMAND")]
    pub(super) off_command: Option<String>,
    /// Switches the feature on (sh)
    #[arg(long, value_name = "COMMAND")]
    pub(super) on_command: Option<String>,
    /// File of `flag: value` lines; flags on the command line count more
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Run only specs with this word in their id or sentence (repeatable)
    #[arg(long, value_name = "WORD")]
    pub(super) focus: Vec<String>,
    /// Leave out specs with this word (repeatable)
    #[arg(long, value_name = "WORD")]
    pub(super) skip: Vec<String>,
    /// Run only specs with this label; `!slow`: only those without (repeatable)
    #[arg(long, value_name = "LABEL")]
    pub(super) label: Vec<String>,
    /// List the chosen specs and run none
    #[arg(long)]
    pub(super) list: bool,
    /// Specs at once
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) parallel: NonZeroUsize,
    /// Seed of the random order [default: from the clock, printed]
    #[arg(long, value_name = "NUMBER")]
    pub(super) seed: Option<u64>,
    /// Write a JUnit XML and a JSON file into this directory
    #[arg(long, value_name = "DIR")]
    pub(super) report_dir: Option<PathBuf>,
    /// How the files' names begin
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub(super) report_prefix: String,
    /// Longest time of one spec, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    pub(super) timeout: NonZeroU64,
    /// How long to wait for what should happen at once, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value = "5000")]
    pub(super) patience: NonZeroU64,
    /// How often a failed spec is tried again
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) flake_attempts: u32,
    /// Measure instead of judging: the call, its set-up, and round trips
    #[arg(long)]
    pub(super) benchmark: bool,
}

/// Takes from the file what the command line leaves open.
pub(super) fn configure(cli: &mut Cli, file: &Path) -> Result<(), String> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("reading {name}: {error}"))?;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once(':')
            .ok_or_else(|| format!("{name}: {line:?} is not `flag: value`"))?;
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "endpoint" => _ = cli.endpoint.get_or_insert(value.into()),
            "netns-dir" => _ = cli.netns_dir.get_or_insert(value.into()),
            "standalone" => cli.standalone |= value == "true",
            "runtime-endpoint" => _ = cli.runtime_endpoint.get_or_insert(value.into()),
            "image-endpoint" => _ = cli.image_endpoint.get_or_insert(value.into()),
            "probe-image" => _ = cli.probe_image.get_or_insert(value.into()),
            "tls-ca" => _ = cli.tls_ca.get_or_insert(value.into()),
            "report-dir" => _ = cli.report_dir.get_or_insert(value.into()),
            other => return Err(format!("{name}: {other:?} cannot be set in a file")),
        }
    }
    Ok(())
}

/// What goes with what, wherever it was set.
pub(super) fn check(cli: &Cli) -> Result<(), String> {
    match (&cli.tls_cert, &cli.tls_ca) {
        (Some(_), None) => Err("--tls-cert goes with --tls-ca, also from the file".into()),
        _ => Ok(()),
    }
}
