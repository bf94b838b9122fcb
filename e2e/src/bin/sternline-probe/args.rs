//! The command line: a command and `--name value` pairs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

/// A parsed command line.
#[derive(Debug)]
pub(crate) struct Args {
    command: String,
    options: RefCell<BTreeMap<String, String>>,
}

impl Args {
    /// Splits the words after the program's name.
    ///
    /// # Errors
    /// No command, a word that is no option, an option without a value.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let command = words.next().ok_or(crate::USAGE)?;
        let mut options = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word
                .strip_prefix("--")
                .ok_or_else(|| format!("{word:?} is no option"))?;
            let value = words
                .next()
                .ok_or_else(|| format!("--{name} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        let options = RefCell::new(options);
        Ok(Self { command, options })
    }

    pub(crate) fn command(&self) -> &str {
        &self.command
    }

    /// An option that must be given.
    ///
    /// # Errors
    /// It is missing or cannot be read.
    pub(crate) fn need<T: FromStr>(&self, name: &str) -> Result<T, String> {
        self.take(name)?
            .ok_or_else(|| format!("{} needs --{name}", self.command))
    }

    /// An option with a default.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn or<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        Ok(self.take(name)?.unwrap_or(default))
    }

    /// How long any single wait may take: `--timeout`, in seconds.
    ///
    /// # Errors
    /// It is no number.
    pub(crate) fn timeout(&self) -> Result<Duration, String> {
        Ok(Duration::from_secs(self.or("timeout", 20)?))
    }

    /// Called once a command has read its options: a misspelt one must not be
    /// ignored.
    ///
    /// # Errors
    /// An option is left over.
    pub(crate) fn done(&self) -> Result<(), String> {
        match self.options.borrow().keys().next() {
            Some(name) => Err(format!("{} knows no --{name}", self.command)),
            None => Ok(()),
        }
    }

    fn take<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.options.borrow_mut().remove(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(format!("--{name} {text:?} cannot be read")),
        }
    }
}
