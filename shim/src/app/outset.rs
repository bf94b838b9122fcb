//! What is said at the start of what will not work.

use crate::binder::Binder;
use crate::sentence::plain;

/// Says in the log if sandboxes cannot be reached now, at `place`: the flag that
/// names it and its value. Nothing waits for it: what is not there yet may come.
pub(crate) async fn warn_of_trouble(binder: &dyn Binder, place: &str) {
    if let Some(trouble) = binder.status().await.trouble {
        let trouble = plain(&trouble);
        tracing::warn!(
            "{place}: sandboxes are out of reach now, and forwards are refused until they are not, without a restart: {trouble}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binder::LocalBinder;
    use std::io;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    /// Where a test's log lines go.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn said_of(dir: &Path) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _log = tracing::subscriber::set_default(log);
        let every = Duration::from_millis(500);
        let binder = LocalBinder::standalone(dir.to_owned(), false, every).expect("a binder");
        let place = format!("--netns-dir {}", dir.display());
        warn_of_trouble(&binder, &place).await;
        let said = lines.0.lock().expect("whole");
        String::from_utf8_lossy(&said).into_owned()
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_told_once() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(said_of(dir.path()).await, "");
        let missing = dir.path().join("netns");
        let said = said_of(&missing).await;
        assert_eq!(said.lines().count(), 1, "{said}");
        let place = format!("--netns-dir {}", missing.display());
        for part in [
            " WARN ",
            &place,
            "does not exist",
            "refused",
            "without a restart",
        ] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
}
