//! The user's kubeconfig: which API server, and as whom.
//!
//! Read as kubectl reads it: the files of `--kubeconfig`, else of `KUBECONFIG`,
//! else `~/.kube/config`. Where several files say a thing, the first counts.
//! Relative paths are relative to the file that names them. Without any file, a
//! pod's own service account is used.

mod access;
mod in_cluster;
mod model;

pub use access::{Access, ApiServer, Impersonation, Overrides};
pub(in crate::cluster) use access::{Auth, Identity, ServerTrust, host};
#[cfg(all(test, unix))]
pub(in crate::cluster) use model::Variable;
pub(in crate::cluster) use model::{ClusterInfo, Exec, Secret};

use crate::fault::Fault;
use model::File;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Longest kubeconfig that is read, in bytes: some 500 clusters with their CAs.
const LONGEST: u64 = 4 * 1024 * 1024;

/// Reads the kubeconfig and picks what `overrides` name.
///
/// # Errors
/// A usage error that names the file and what is wrong with it, or that there is
/// none.
pub fn load(overrides: &Overrides) -> Result<Access, Fault> {
    let variable = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let found = read_all(overrides.kubeconfig.as_deref(), variable, home())?;
    match found {
        Some(file) => access::choose(&file, overrides),
        None => in_cluster::access(overrides).ok_or_else(|| {
            Fault::no_server(
                "there is no kubeconfig that names a cluster: set KUBECONFIG, give --kubeconfig, or put one at ~/.kube/config",
            )
        }),
    }
}

/// The contexts that there are to choose from.
///
/// # Errors
/// As [`load`], but that there is no kubeconfig.
pub fn contexts(overrides: &Overrides) -> Result<Vec<String>, Fault> {
    let variable = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let found = read_all(overrides.kubeconfig.as_deref(), variable, home())?;
    let all = found.iter().flat_map(File::contexts);
    Ok(all.map(ToOwned::to_owned).collect())
}

/// Everything that the files say together; `None` if there is no file.
fn read_all(
    flag: Option<&Path>,
    variable: Option<OsString>,
    home: Option<PathBuf>,
) -> Result<Option<File>, Fault> {
    if let Some(path) = flag {
        // Named by the user: it has to be there.
        return read(path)
            .and_then(|found| found.ok_or_else(|| wrong(path, "no such file or directory")))
            .map(Some);
    }
    let paths: Vec<PathBuf> = match variable {
        Some(list) => std::env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect(),
        None => home
            .map(|home| home.join(".kube").join("config"))
            .into_iter()
            .collect(),
    };
    let mut all: Option<File> = None;
    for path in paths {
        if let Some(file) = read(&path)? {
            all = Some(match all {
                Some(first) => first.merge(file),
                None => file,
            });
        }
    }
    Ok(all)
}

/// Reads one file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<File>, Fault> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path);
    match opened.and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes)) {
        Ok(length) if length as u64 > LONGEST => Err(wrong(path, "it is longer than 4 MiB")),
        Ok(_) => File::parse(&bytes)
            .map(|file| Some(file.resolve(path.parent().unwrap_or(Path::new("")))))
            .map_err(|what| wrong(path, &what)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(path, &crate::cause(&error))),
    }
}

fn wrong(path: &Path, what: &str) -> Fault {
    Fault::usage(format!("kubeconfig {}: {what}", path.display()))
}

fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests;
