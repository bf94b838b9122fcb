//! The roots that the cluster's authority is trusted by, from a file that changes
//! while the node runs: the gateways write it, and rotate it.

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest file that is read, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// How long what was read is taken for what is there.
const FRESH: Duration = Duration::from_secs(1);

/// Roots from a file. Read again when somebody asks and a second has gone by: a
/// grant is rare, and Kubernetes swaps links without telling.
pub struct Bundle {
    path: PathBuf,
    fresh: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    contents: Vec<u8>,
    roots: Option<Arc<RootCertStore>>,
    /// Why the file of the last look is not in use.
    trouble: Option<String>,
}

impl Bundle {
    /// The roots in this file, which need not be there yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            fresh: FRESH,
            state: Mutex::default(),
        }
    }

    /// These roots, and no file.
    pub(crate) fn of(roots: RootCertStore) -> Self {
        let bundle = Self {
            fresh: Duration::MAX,
            ..Self::new(PathBuf::new())
        };
        *bundle.state.lock().unwrap_or_else(PoisonError::into_inner) = State {
            looked: Some(Instant::now()),
            roots: Some(Arc::new(roots)),
            ..State::default()
        };
        bundle
    }

    /// The same, looked at every time.
    #[cfg(test)]
    pub(crate) fn always(path: PathBuf) -> Self {
        Self {
            fresh: Duration::ZERO,
            ..Self::new(path)
        }
    }

    /// The roots of now. What cannot be used leaves those before in place.
    ///
    /// # Errors
    /// There have never been any: one sentence that names the file.
    pub fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = |at: Instant| now.duration_since(at) >= self.fresh;
        if state.looked.is_none_or(is_due) {
            state.looked = Some(now);
            self.look(&mut state);
        }
        match (&state.roots, &state.trouble) {
            (Some(roots), _) => Ok(Arc::clone(roots)),
            (None, trouble) => Err(format!(
                "no gateway of this cluster is known yet: {}: {}",
                self.path.display(),
                trouble.as_deref().unwrap_or("it was not read")
            )),
        }
    }

    fn look(&self, state: &mut State) {
        let contents = match read(&self.path) {
            Ok(contents) if contents == state.contents && state.roots.is_some() => {
                state.trouble = None;
                return;
            }
            Ok(contents) => contents,
            Err(error) => return self.complain(state, error.to_string()),
        };
        match parse(&contents) {
            Ok(roots) => {
                let count = roots.len();
                tracing::info!(file = %self.path.display(), roots = count, "gateways are known by");
                *state = State {
                    looked: state.looked,
                    contents,
                    roots: Some(Arc::new(roots)),
                    trouble: None,
                };
            }
            Err(what) => self.complain(state, what),
        }
    }

    /// Says once what is wrong.
    fn complain(&self, state: &mut State, what: String) {
        if state.trouble.as_ref() != Some(&what) {
            let kept = state.roots.is_some();
            tracing::warn!(file = %self.path.display(), kept, "the bundle of the cluster's authority cannot be used: {what}");
            state.trouble = Some(what);
        }
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe waits for its other end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(bytes)
}

fn parse(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem) {
        let root = root.map_err(|error| format!("it is no PEM: {error}"))?;
        let added = roots.add(root);
        added.map_err(|error| format!("it holds a certificate that is no root: {error}"))?;
    }
    if roots.is_empty() {
        return Err("it has no certificate: a gateway that runs writes one".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Directory};

    #[test]
    fn roots_come_with_the_file_and_stay_without_it() {
        let dir = Directory::new();
        let path = dir.path().join("ca.crt");
        let bundle = Bundle::always(path.clone());
        assert!(bundle.roots().expect_err("no file").contains("ca.crt"));
        dir.file("ca.crt", b"");
        assert!(
            bundle
                .roots()
                .expect_err("empty")
                .contains("no certificate")
        );
        let (one, two) = (Authority::new("one"), Authority::new("two"));
        dir.file("ca.crt", one.pem().as_bytes());
        assert_eq!(bundle.roots().expect("one").len(), 1);
        dir.file("ca.crt", (one.pem() + &two.pem()).as_bytes());
        assert_eq!(bundle.roots().expect("two").len(), 2);
        for broken in [
            "",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            dir.file("ca.crt", broken.as_bytes());
            assert_eq!(bundle.roots().expect("those before").len(), 2, "{broken:?}");
        }
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(bundle.roots().expect("those before").len(), 2);
    }

    #[test]
    fn it_is_not_read_for_each_that_asks() {
        let dir = Directory::new();
        let path = dir.file("ca.crt", Authority::new("one").pem().as_bytes());
        let bundle = Bundle {
            fresh: Duration::from_secs(3600),
            ..Bundle::new(path)
        };
        let first = bundle.roots().expect("one");
        dir.file("ca.crt", Authority::new("two").pem().as_bytes());
        assert!(Arc::ptr_eq(&first, &bundle.roots().expect("the same")));
    }
}
