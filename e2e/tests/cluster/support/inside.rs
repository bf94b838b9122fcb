//! What runs in containers, as the kernel has it: all machines share the run's PID
//! namespace.

use crate::shared::enclosure;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;

/// A process of a container.
#[derive(Clone, Debug)]
pub(crate) struct Inmate {
    pub(crate) pid: i32,
    /// Its command line, with spaces.
    pub(crate) command: String,
}

/// Every process whose command line begins with `command`.
///
/// # Errors
/// `/proc` cannot be read.
pub(crate) fn running(command: &str) -> Result<Vec<Inmate>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = line.split(|byte| *byte == 0);
        let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
        let line = words.join(" ").trim_end().to_owned();
        if line.starts_with(command) {
            let command = line;
            found.push(Inmate { pid, command });
        }
    }
    found.sort_by_key(|inmate| inmate.pid);
    Ok(found)
}

/// The one process of a node's pods whose command line begins with `command`.
///
/// # Errors
/// There is none, or there are several.
pub(crate) fn running_on(node: &str, command: &str) -> Result<Inmate> {
    let mut found = running(command)?;
    found.retain(|inmate| inmate.is_on(node));
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!("of {command:?} there run on {node}: {found:?}"),
    }
}

impl Inmate {
    /// Something that the kernel says of it.
    pub(crate) fn proc(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{path}", self.pid))
    }

    /// A line of its status, without the name.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn status(&self, name: &str) -> Result<String> {
        let status = fs::read_to_string(self.proc("status"))?;
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let value = lines
            .find(|(key, _)| *key == name)
            .context(name.to_owned())?;
        Ok(value.1.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Capabilities that it may have at most, by number.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn capabilities(&self) -> Result<Vec<u8>> {
        let mask = u64::from_str_radix(&self.status("CapPrm")?, 16)?;
        Ok((0..64).filter(|bit| mask & (1 << bit) != 0).collect())
    }

    /// One of its namespaces, as the kernel names it.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn namespace(&self, kind: &str) -> Result<String> {
        let link = fs::read_link(self.proc(&format!("ns/{kind}")))?;
        Ok(link.to_string_lossy().into_owned())
    }

    /// A variable of its environment, as it was started with.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn variable(&self, name: &str) -> Result<Option<String>> {
        let all = fs::read(self.proc("environ"))?;
        let mut all = all.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let found = all.find_map(|one| Some(one.strip_prefix(name)?.strip_prefix('=')?.to_owned()));
        Ok(found)
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn kill(&self) -> Result<()> {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).context(self.command.clone())
    }

    /// What is mounted for it beside what every container has: the place, and
    /// whether it may write there.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn mounts(&self) -> Result<Vec<(String, bool)>> {
        let table = fs::read_to_string(self.proc("mountinfo"))?;
        let entry = |line: &str| {
            let mut words = line.split(' ').skip(4);
            let (place, options) = (words.next()?, words.next()?);
            let usual = ["/proc", "/sys", "/dev"];
            let is_usual = usual.iter().any(|root| place.starts_with(root));
            (!is_usual).then(|| {
                (
                    place.to_owned(),
                    options.split(',').any(|word| word == "rw"),
                )
            })
        };
        Ok(table.lines().filter_map(entry).collect())
    }

    /// Whether it is of a pod of this node.
    pub(crate) fn is_on(&self, node: &str) -> bool {
        let cgroups = fs::read_to_string(self.proc("cgroup")).unwrap_or_default();
        cgroups.contains(&format!("{}/{node}/", enclosure::cgroup_parent()))
    }

    /// What it sees at an absolute path.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.proc(&format!("root{path}"))
    }

    /// Whether it is of a pod of this run.
    pub(crate) fn is_of_a_pod(&self) -> bool {
        let cgroups = fs::read_to_string(self.proc("cgroup")).unwrap_or_default();
        cgroups.contains(&enclosure::cgroup_parent())
    }
}
