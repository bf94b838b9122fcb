//! The files of a report. Whether they can be written is found out before the first
//! spec: minutes later it would be too late.

use super::{ENVIRONMENT, USAGE};
use crate::report::Report;
use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

/// Where a report goes.
#[derive(Debug)]
pub(super) struct Files {
    junit: PathBuf,
    json: PathBuf,
}

impl Files {
    /// Makes the directory and sees whether both files can be written.
    ///
    /// # Errors
    /// The exit code, and a sentence that names the path.
    pub(super) fn prepare(dir: &Path, prefix: &str) -> Result<Self, (u8, String)> {
        if prefix.contains('/') {
            let message = format!(
                "--report-prefix {prefix:?} is the beginning of a name and cannot have a /: put \
                 directories into --report-dir"
            );
            return Err((USAGE, message));
        }
        let files = Self {
            junit: dir.join(format!("{prefix}junit.xml")),
            json: dir.join(format!("{prefix}report.json")),
        };
        fs::create_dir_all(dir).map_err(|error| unwritable(dir, &error))?;
        for path in [&files.junit, &files.json] {
            can_write(path).map_err(|error| unwritable(path, &error))?;
        }
        Ok(files)
    }

    /// Writes both.
    ///
    /// # Errors
    /// As above.
    pub(super) fn write(&self, report: &Report) -> Result<(), (u8, String)> {
        let json = format!("{:#}\n", report.json());
        for (path, text) in [(&self.junit, report.junit()), (&self.json, json)] {
            fs::write(path, text).map_err(|error| unwritable(path, &error))?;
        }
        Ok(())
    }
}

/// Opens it for writing, and leaves no trace of that.
fn can_write(path: &Path) -> io::Result<()> {
    let is_new = !path.exists();
    OpenOptions::new().append(true).create(true).open(path)?;
    match is_new {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

fn unwritable(path: &Path, error: &io::Error) -> (u8, String) {
    let message = format!(
        "the report cannot be written to {}: {error}; see --report-dir",
        path.display()
    );
    (ENVIRONMENT, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_named_before_anything_runs() {
        let dir = std::env::temp_dir().join(format!("sternline-report-{}", std::process::id()));
        let (code, said) = Files::prepare(&dir, "a/b").expect_err("a prefix");
        assert_eq!(code, USAGE);
        assert!(said.contains("a/b") && !dir.exists(), "{said}");

        Files::prepare(&dir.join("deep"), "x-").expect("it can be made");
        let left = fs::read_dir(dir.join("deep")).expect("it is there").count();
        assert_eq!(left, 0, "looking leaves nothing behind");

        fs::create_dir(dir.join("x-report.json")).expect("in the way");
        let (code, said) = Files::prepare(&dir, "x-").expect_err("a directory");
        assert_eq!(code, ENVIRONMENT);
        assert!(said.contains("x-report.json"), "{said}");

        let file = dir.join("file");
        fs::write(&file, "kept").expect("a file");
        let (code, said) = Files::prepare(&file, "").expect_err("no directory");
        assert_eq!(code, ENVIRONMENT);
        assert!(said.contains(&*file.to_string_lossy()), "{said}");
        fs::remove_dir_all(&dir).expect("a scratch directory");
    }
}
