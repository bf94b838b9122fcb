//! Named network namespaces as sandboxes: for the demo, for development and for
//! machines without Kubernetes. The id of a sandbox is the name of a file in one
//! directory, `/run/netns` by default, as `ip netns add` makes them.

use super::{Liveness, Resolved, SandboxSource, Watched, ambiguous, invalid};
use crate::{
    binder::{BinderStatus, Sandbox, SandboxTarget},
    netns::{HostNetwork, NamespaceId, Netns, out_of_descriptors},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use sternline_api::{Failure, Reason};

/// Longest id, in bytes: a file name has no more than 255, a Kubernetes name 253.
const MAX_ID_BYTES: usize = 253;

/// Where `ip netns` pins namespaces; it makes the directory with the first.
const DEFAULT_DIR: &str = "/run/netns";

/// How many names that fit a prefix are kept for its refusal.
const CANDIDATES_KEPT: usize = 64;

/// The namespaces in a directory.
#[derive(Debug)]
pub struct StandaloneSource {
    dir: PathBuf,
    host: HostNetwork,
}

impl StandaloneSource {
    /// Sandboxes are the namespaces in `dir`, which need not exist yet.
    ///
    /// # Errors
    /// The node's own namespace cannot be told.
    pub fn new(dir: PathBuf) -> Result<Self, Failure> {
        Ok(Self {
            dir,
            host: HostNetwork::detect()?,
        })
    }

    /// The full name that the id stands for.
    fn name(&self, target: &SandboxTarget) -> Result<String, Failure> {
        let SandboxTarget::Id(id) = target else {
            return Err(invalid(
                "this server runs without Kubernetes and knows no pods: name a sandbox by its id"
                    .to_owned(),
            ));
        };
        check_id(id)?;
        // Also one that cannot be read: opening it gives the reason.
        match fs::symlink_metadata(self.dir.join(id)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => self.by_prefix(id),
            _ => Ok(id.clone()),
        }
    }

    fn by_prefix(&self, prefix: &str) -> Result<String, Failure> {
        let unreadable = |err: io::Error| {
            let dir = self.dir.display();
            let (reason, next) = if out_of_descriptors(&err) {
                (Reason::DescriptorLimit, "end other sessions")
            } else {
                (Reason::RuntimeUnavailable, "check --netns-dir")
            };
            let message = format!("sandboxes cannot be listed: {dir}: {err}; {next}");
            Failure::new(reason, message)
        };
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Err(self.not_found(prefix));
            }
            Err(err) => return Err(unreadable(err)),
        };
        let (mut total, mut some) = (0, Vec::new());
        for entry in entries {
            let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() else {
                continue;
            };
            if name.starts_with(prefix) {
                total += 1;
                if some.len() < CANDIDATES_KEPT {
                    some.push(name);
                }
            }
        }
        match (total, some.pop()) {
            (1, Some(name)) => Ok(name),
            (_, None) => Err(self.not_found(prefix)),
            (_, Some(last)) => {
                some.push(last);
                Err(ambiguous(prefix, total, some))
            }
        }
    }

    fn not_found(&self, id: &str) -> Failure {
        let dir = self.dir.display();
        let message = format!("sandbox {id} was not found: list them with `ls {dir}`");
        Failure::new(Reason::SandboxNotFound, message)
    }

    fn look_after(&self, watched: &Watched) -> Liveness {
        let Watched { id, namespace } = watched;
        let path = self.dir.join(id);
        match NamespaceId::of_path(&path) {
            Ok(now) if now == *namespace => Liveness::Alive,
            Ok(_) => Liveness::Gone(format!(
                "sandbox {id} is gone: {} is not the namespace that it was",
                path.display()
            )),
            Err(err) if is_missing(&err) => Liveness::Gone(format!(
                "sandbox {id} is gone: {} was removed",
                path.display()
            )),
            Err(err) => Liveness::Unknown(format!("{}: {err}", path.display())),
        }
    }
}

fn is_missing(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn check_id(id: &str) -> Result<(), Failure> {
    let problem = if id.is_empty() {
        "it is empty"
    } else if id.len() > MAX_ID_BYTES {
        "it is longer than 253 bytes"
    } else if id == "." || id == ".." || id.contains('/') {
        "it must be a file name, not a path"
    } else if id.chars().any(char::is_control) {
        "it has control characters"
    } else {
        return Ok(());
    };
    let shown: String = id.chars().take(64).collect();
    Err(invalid(format!(
        "sandbox id {shown:?} is malformed: {problem}"
    )))
}

#[tonic::async_trait]
impl SandboxSource for StandaloneSource {
    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure> {
        let id = self.name(target)?;
        Ok(Sandbox { id, pod: None })
    }

    async fn resolve(&self, target: &SandboxTarget) -> Result<Resolved, Failure> {
        let id = self.name(target)?;
        let netns = Netns::open(self.dir.join(&id))
            .await
            .map_err(|err| err.for_sandbox(&id))?;
        if self.host.contains(netns.id()) {
            return Err(HostNetwork::refusal(&id));
        }
        let sandbox = Sandbox { id, pod: None };
        Ok(Resolved { sandbox, netns })
    }

    async fn check(&self, watched: &[Watched]) -> Vec<Liveness> {
        watched.iter().map(|one| self.look_after(one)).collect()
    }

    async fn status(&self) -> BinderStatus {
        let dir = self.dir.display();
        let trouble = match fs::read_dir(&self.dir) {
            Ok(_) => None,
            // The first namespace that is made makes it.
            Err(err)
                if err.kind() == io::ErrorKind::NotFound && self.dir == Path::new(DEFAULT_DIR) =>
            {
                None
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => Some(format!(
                "{dir} does not exist: make it, or check --netns-dir"
            )),
            Err(err) => Some(format!(
                "sandboxes cannot be listed: {dir}: {err}; check --netns-dir"
            )),
        };
        BinderStatus {
            runtime: "standalone".to_owned(),
            trouble,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(names: &[&str]) -> (tempfile::TempDir, StandaloneSource) {
        let dir = tempfile::tempdir().expect("dir");
        for name in names {
            fs::write(dir.path().join(name), "").expect("file");
        }
        let source = StandaloneSource::new(dir.path().to_owned()).expect("source");
        (dir, source)
    }

    fn id(id: &str) -> SandboxTarget {
        SandboxTarget::Id(id.to_owned())
    }

    #[tokio::test]
    async fn a_directory_that_is_missing_is_trouble_unless_it_is_made_when_needed() {
        let (dir, source) = source(&[]);
        assert_eq!(source.status().await.trouble, None);
        let path = dir.path().to_owned();
        drop(dir);
        let trouble = source.status().await.trouble.expect("trouble");
        let said = format!("{} does not exist: make it", path.display());
        assert!(trouble.starts_with(&said), "{trouble}");
        if !Path::new(DEFAULT_DIR).exists() {
            let source = StandaloneSource::new(DEFAULT_DIR.into()).expect("source");
            assert_eq!(source.status().await.trouble, None);
        }
    }

    #[tokio::test]
    async fn an_exact_name_wins_over_a_prefix() {
        let (_dir, source) = source(&["web", "web-1", "db-7"]);
        for (given, found) in [("web", "web"), ("web-", "web-1"), ("d", "db-7")] {
            assert_eq!(source.find(&id(given)).await.expect(given).id, found);
        }
    }

    #[tokio::test]
    async fn what_is_not_one_name_is_refused_each_in_its_way() {
        let (dir, source) = source(&["web-1", "web-2"]);
        let long = "x".repeat(254);
        for (given, reason) in [
            ("web", Reason::SandboxAmbiguous),
            ("api", Reason::SandboxNotFound),
            ("web-1x", Reason::SandboxNotFound),
            ("", Reason::InvalidRequest),
            (".", Reason::InvalidRequest),
            ("..", Reason::InvalidRequest),
            ("../web-1", Reason::InvalidRequest),
            ("/proc/self/ns/net", Reason::InvalidRequest),
            ("web\n", Reason::InvalidRequest),
            ("web\0", Reason::InvalidRequest),
            (&long, Reason::InvalidRequest),
        ] {
            let failure = source.find(&id(given)).await.expect_err(given);
            assert_eq!(failure.reason, reason, "{given:?}: {failure}");
            assert!(!failure.message.contains(['\n', '\0']), "{failure}");
        }
        let failure = source.find(&id("api")).await.expect_err("unknown");
        let list = format!("`ls {}`", dir.path().display());
        assert!(failure.message.contains(&list), "{failure}");
    }

    #[tokio::test]
    async fn without_its_directory_nothing_is_found() {
        let dir = tempfile::tempdir().expect("dir");
        let source = StandaloneSource::new(dir.path().join("none")).expect("source");
        let failure = source.find(&id("web")).await.expect_err("none");
        assert_eq!(failure.reason, Reason::SandboxNotFound);
        assert_eq!(source.status().await.runtime, "standalone");
    }

    #[tokio::test]
    async fn a_directory_that_is_none_is_trouble() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("file");
        let source = StandaloneSource::new(file).expect("source");
        assert!(source.status().await.trouble.is_some());
    }

    #[tokio::test]
    async fn pods_are_unknown_here() {
        let (_dir, source) = source(&["web"]);
        let failure = source
            .resolve(&SandboxTarget::Pod(crate::binder::PodRef::default()))
            .await
            .expect_err("no pods");
        assert_eq!(failure.reason, Reason::InvalidRequest);
    }

    #[tokio::test]
    async fn the_nodes_own_namespace_is_refused() {
        let (dir, source) = source(&[]);
        std::os::unix::fs::symlink("/proc/self/ns/net", dir.path().join("host")).expect("link");
        let failure = source.resolve(&id("host")).await.expect_err("refused");
        assert_eq!(failure.reason, Reason::HostNetwork, "{failure}");
    }

    #[tokio::test]
    async fn a_plain_file_is_no_namespace() {
        let (_dir, source) = source(&["stale"]);
        let failure = source.resolve(&id("stale")).await.expect_err("refused");
        assert_eq!(failure.reason, Reason::NamespaceUnreachable, "{failure}");
    }

    #[tokio::test]
    async fn gone_is_a_file_that_vanished_or_is_another_one() {
        let (dir, source) = source(&["web", "db"]);
        let watched = |name: &str| Watched {
            id: name.to_owned(),
            namespace: NamespaceId::of_path(&dir.path().join(name)).expect("there"),
        };
        let both = [watched("web"), watched("db")];
        assert_eq!(
            source.check(&both).await,
            [Liveness::Alive, Liveness::Alive]
        );
        fs::remove_file(dir.path().join("web")).expect("removed");
        // Made before the old one is unlinked, so that it is another file for sure.
        fs::write(dir.path().join("new"), "").expect("file");
        fs::rename(dir.path().join("new"), dir.path().join("db")).expect("replaced");
        let now = source.check(&both).await;
        assert!(matches!(&now[0], Liveness::Gone(why) if why.contains("removed")));
        assert!(matches!(&now[1], Liveness::Gone(why) if why.contains("not the namespace")));
    }
}
