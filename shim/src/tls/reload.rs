//! New files take the place of old ones, without a restart.
//!
//! The files are read and compared, every few seconds: that sees a file written
//! over, a file moved into place and a link that is swapped, on every file
//! system. A pair is rarely written at once, so a change that cannot be used is
//! complained about only when it is still there at the next look.

use super::files::{Contents, TlsError};
use super::validity;
use super::{Current, Tls};
use crate::metrics;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// The last files that could not be used, so that each is complained about once.
#[derive(Default)]
pub(super) struct Looked {
    /// What was there, or why it could not be read.
    last: Option<Result<Contents, String>>,
    told: bool,
}

/// What a look led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing that was not known.
    #[default]
    Nothing,
    /// A certificate that is in use from now on, until then.
    New(SystemTime),
    /// Files that cannot be used, and were complained about.
    Unfit,
}

impl Tls {
    /// Looks at the files every `every`, and at each signal, until `stop`.
    pub async fn watch(
        self: Arc<Self>,
        every: Duration,
        mut signal: Signal,
        stop: CancellationToken,
    ) {
        let watching = async {
            let mut looked = Looked::default();
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let asked = tokio::select! {
                    _ = ticks.tick() => false,
                    Some(()) = signal.recv() => true,
                };
                let tls = Arc::clone(&self);
                // A file system may hang, which must not keep a worker.
                let look = tokio::task::spawn_blocking(move || {
                    let found = tls.look(&mut looked, asked, SystemTime::now());
                    (looked, found)
                });
                let found;
                (looked, found) = look.await.unwrap_or_default();
                match found {
                    Found::Nothing => {}
                    Found::New(not_after) => {
                        metrics::certificate_expires(not_after);
                        metrics::certificate_reloaded(true);
                    }
                    Found::Unfit => metrics::certificate_reloaded(false),
                }
            }
        };
        stop.run_until_cancelled(watching).await;
    }

    /// Looks once. `asked`: somebody says that the files are whole, so that what
    /// is wrong with them is told at once.
    pub(super) fn look(&self, looked: &mut Looked, asked: bool, now: SystemTime) -> Found {
        let found = Contents::read(&self.files);
        if found
            .as_ref()
            .is_ok_and(|found| *found == self.current().contents)
        {
            if self.refused(None).is_some() {
                tracing::info!("the files of the certificate in use are back");
            } else if asked {
                tracing::info!("the files of the certificate have not changed");
            }
            *looked = Looked::default();
            return Found::Nothing;
        }
        let seen = found.map_err(|error| error.to_string());
        let settled = looked.last.as_ref() == Some(&seen);
        if settled && looked.told && !asked {
            return Found::Nothing;
        }
        let loaded = match &seen {
            Ok(contents) => self.fit(contents, now),
            Err(sentence) => Err(sentence.clone()),
        };
        let sentence = match loaded {
            Ok(new) => {
                let not_after = new.not_after;
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
                self.refused(None);
                *looked = Looked::default();
                return Found::New(not_after);
            }
            Err(sentence) => sentence,
        };
        let told = settled || asked;
        *looked = Looked {
            last: Some(seen),
            told,
        };
        if !told {
            return Found::Nothing;
        }
        let sentence = format!("the new certificate is not used, the one before stays: {sentence}");
        tracing::warn!("{sentence}");
        self.refused(Some(sentence));
        Found::Unfit
    }

    fn fit(&self, contents: &Contents, now: SystemTime) -> Result<Current, String> {
        let loaded = contents
            .load(&self.files)
            .map_err(|error: TlsError| error.to_string())?;
        if loaded.not_after < now {
            return Err(format!(
                "{} {}: it expired on {}: put one there that is valid",
                super::files::CERT,
                self.files.cert.display(),
                validity::date(loaded.not_after)
            ));
        }
        self.took_up(&loaded);
        Ok(Current::new(contents.clone(), &loaded))
    }

    /// Says why the files that are there are not in use; gives what was said
    /// before.
    fn refused(&self, sentence: Option<String>) -> Option<String> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut refused, sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::super::NOT_LOADED;
    use super::super::testing::{Authority, Directory};
    use super::*;
    use crate::config::TlsFiles;
    use std::fs;
    use std::time::UNIX_EPOCH;

    fn tls(files: &TlsFiles) -> Arc<Tls> {
        let host = "node".parse().expect("a name");
        Tls::load(files.clone(), host, Duration::from_secs(10)).expect("loads")
    }

    /// Whether a look leads to other settings.
    fn changes(tls: &Tls, looked: &mut Looked, asked: bool) -> bool {
        let before = tls.config();
        tls.look(looked, asked, SystemTime::now());
        !Arc::ptr_eq(&before, &tls.config())
    }

    #[test]
    fn a_new_pair_is_taken_up_and_an_old_one_left_alone() {
        let (dir, ca) = (Directory::new(), Authority::new("ca"));
        let files = dir.write(&ca.issue("node"));
        let (tls, mut looked) = (tls(&files), Looked::default());
        assert!(!changes(&tls, &mut looked, false));
        dir.write(&ca.issue("node"));
        assert!(changes(&tls, &mut looked, false));
        assert!(!changes(&tls, &mut looked, true));
        assert_eq!(tls.trouble(SystemTime::now()), None);
    }

    #[test]
    fn half_a_pair_is_waited_for_and_then_named_once() {
        let (dir, ca) = (Directory::new(), Authority::new("ca"));
        let files = dir.write(&ca.issue("node"));
        let (tls, mut looked) = (tls(&files), Looked::default());
        let next = ca.issue("node");
        fs::write(&files.cert, &next.cert).expect("written");
        assert!(!changes(&tls, &mut looked, false));
        assert_eq!(tls.trouble(SystemTime::now()), None, "it may be under way");
        assert!(!changes(&tls, &mut looked, false));
        let trouble = tls.trouble(SystemTime::now()).expect("settled");
        assert_eq!((trouble.word, trouble.shut), (NOT_LOADED, false));
        assert!(trouble.sentence.contains("does not belong"), "{trouble:?}");
        assert!(looked.told);
        fs::write(&files.key, &next.key).expect("written");
        assert!(changes(&tls, &mut looked, false));
        assert_eq!(tls.trouble(SystemTime::now()), None);
    }

    #[test]
    fn who_asks_is_told_at_once_and_what_comes_back_is_in_order() {
        let (dir, ca) = (Directory::new(), Authority::new("ca"));
        let files = dir.write(&ca.issue("node"));
        let (tls, mut looked) = (tls(&files), Looked::default());
        let whole = fs::read(&files.key).expect("there");
        fs::remove_file(&files.key).expect("removed");
        assert!(!changes(&tls, &mut looked, true));
        let trouble = tls.trouble(SystemTime::now()).expect("told");
        assert!(trouble.sentence.contains("No such file"), "{trouble:?}");
        fs::write(&files.key, whole).expect("written");
        dir.chmod(&files.key, 0o600);
        assert!(!changes(&tls, &mut looked, false));
        assert_eq!(tls.trouble(SystemTime::now()), None);
    }

    #[test]
    fn a_swapped_link_is_seen() {
        let (dir, ca) = (Directory::new(), Authority::new("ca"));
        // As Kubernetes lays a Secret out: ..data -> a directory of the version.
        let (one, two) = (Directory::new(), Directory::new());
        one.write(&ca.issue("node"));
        two.write(&ca.issue("node"));
        let data = dir.path().join("..data");
        std::os::unix::fs::symlink(one.path(), &data).expect("linked");
        let files = TlsFiles {
            cert: data.join("tls.crt"),
            key: data.join("tls.key"),
            client_ca: None,
        };
        let (tls, mut looked) = (tls(&files), Looked::default());
        let new = dir.path().join("..data_tmp");
        std::os::unix::fs::symlink(two.path(), &new).expect("linked");
        fs::rename(&new, &data).expect("swapped");
        assert!(changes(&tls, &mut looked, false));
    }

    #[test]
    fn an_expired_one_takes_no_place_and_an_expiry_is_said() {
        let (dir, ca) = (Directory::new(), Authority::new("ca"));
        let files = dir.write(&ca.issue("node"));
        let (tls, mut looked) = (tls(&files), Looked::default());
        let late = UNIX_EPOCH + Duration::from_secs(67_090_377_600);
        let trouble = tls.trouble(late).expect("its time is over");
        assert_eq!((trouble.word, trouble.shut), ("certificate_expired", true));
        dir.write(&ca.issue_until("node", 2001));
        assert!(!changes(&tls, &mut looked, true));
        let trouble = tls.trouble(SystemTime::now()).expect("told");
        assert!(
            trouble.sentence.contains("expired on 2001-01-01"),
            "{trouble:?}"
        );
    }
}
