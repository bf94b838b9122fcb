//! What to forward: the `SPEC` of the command line.
//!
//! ```text
//! SPEC   := LISTEN[:TARGET]          a lone PORT means both ends
//! LISTEN := [BIND:](PORT | 0)        BIND := localhost | IPv4 | [IPv6]
//! TARGET := PORT | HOST:PORT | unix:PATH
//! ```
//!
//! Remote first, as in `ssh -R`. The first field decides how the rest is read,
//! so that no SPEC has two meanings:
//!
//! * it is a number: that is the port to listen on, and no BIND was given;
//! * it is anything else: it is BIND, and the next field is the port. A HOST is
//!   therefore never the first field, and `localhost:8080` listens on
//!   `localhost`, port 8080, for port 8080 of the workstation;
//! * all after the port is TARGET. `unix:` begins a path, whatever follows; a
//!   host of that name can be reached as `unix.` with its final dot.
//!
//! IPv6 addresses stand in brackets, in BIND and in HOST.

mod listen;
pub mod named;
mod target;

pub use target::Target;

use std::fmt;
use sternline_api::listen::Listen;

/// One listener and where its connections lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What listens in the sandbox. Its id is the position on the command line.
    pub listen: Listen,
    /// What is dialled on the workstation.
    pub target: Target,
}

impl Spec {
    /// Reads one SPEC that stands at position `id`.
    ///
    /// # Errors
    /// One sentence that quotes the SPEC and says what is wrong.
    pub fn parse(id: u32, text: &str) -> Result<Self, SpecError> {
        Self::read(id, text).map_err(|problem| SpecError {
            spec: text.to_owned(),
            problem,
        })
    }

    fn read(id: u32, text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty: write a port such as 8080, or 8080:3000".into());
        }
        let (bind, port, rest) = listen::split(text)?;
        let target = match (rest, port) {
            (Some(target), _) => Target::parse(target)?,
            (None, 0) => {
                return Err(
                    "a free port (0) needs a target, since there is no port 0 to dial: write 0:3000"
                        .into(),
                );
            }
            (None, port) => Target::local(port),
        };
        let listen = Listen { id, bind, port };
        Ok(Self { listen, target })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.listen, self.target)
    }
}

/// Reads every SPEC of a command line; the ids are the positions.
///
/// # Errors
/// The first that is wrong, or two that would take the same address.
pub fn parse_all<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Spec>, SpecError> {
    let mut specs: Vec<Spec> = Vec::with_capacity(texts.len());
    for (id, text) in (0_u32..).zip(texts) {
        let spec = Spec::parse(id, text.as_ref())?;
        if let Some(twin) = specs.iter().find(|s| s.listen.collides(spec.listen)) {
            let first = &texts[twin.listen.id as usize];
            return Err(SpecError {
                spec: text.as_ref().to_owned(),
                problem: format!(
                    "port {} is already asked for by {:?}: listen on each address once",
                    spec.listen.port,
                    first.as_ref()
                ),
            });
        }
        specs.push(spec);
    }
    Ok(specs)
}

/// A SPEC that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SPEC {spec:?}: {problem}")]
pub struct SpecError {
    /// As it was typed.
    pub spec: String,
    /// What is wrong with it and what to write instead.
    pub problem: String,
}

/// Reads a port written in plain digits.
fn port(text: &str, what: &str) -> Result<u16, String> {
    if !is_number(text) {
        return Err(format!(
            "{what} {text:?} is not a number: give a port of 1-65535"
        ));
    }
    text.parse()
        .map_err(|_| format!("{what} {text} is out of range: give a port of 1-65535"))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests;
