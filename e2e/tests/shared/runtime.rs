//! Which runtime makes the sandboxes, and where its programs are.

use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;

/// The environment variable that chooses.
pub(crate) const VARIABLE: &str = "STERNLINE_RUNTIME";

/// Names and versions of the runtimes that are built, not installed.
const BUILT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/runtimes"));

/// What makes the sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// Named network namespaces, and nothing else.
    Standalone,
    /// containerd of the 1.6 series, as Debian 12 packages it.
    Containerd16,
    /// containerd of the 1.7 series.
    Containerd17,
    /// containerd of the 2 series.
    Containerd2,
    /// CRI-O.
    CriO,
}

impl Runtime {
    const ALL: [Self; 5] = [
        Self::Standalone,
        Self::Containerd16,
        Self::Containerd17,
        Self::Containerd2,
        Self::CriO,
    ];

    /// Reads the variable; unset means containerd 1.6.
    ///
    /// # Errors
    /// A name that is not known.
    pub(crate) fn chosen() -> Result<Self> {
        let name = std::env::var(VARIABLE).unwrap_or_else(|_| "containerd-1.6".to_owned());
        let known = Self::ALL.into_iter().find(|one| one.name() == name);
        known.with_context(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{VARIABLE}={name}: choose one of {names}")
        })
    }

    /// Whether sandboxes are those of a container runtime.
    pub(crate) fn is_cri(self) -> bool {
        self != Self::Standalone
    }

    /// The name as the variable spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Containerd16 => "containerd-1.6",
            Self::Containerd17 => "containerd-1.7",
            Self::Containerd2 => "containerd-2",
            Self::CriO => "cri-o",
        }
    }

    /// How the name and version begin that it gives over CRI.
    pub(crate) fn series(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Containerd16 => "containerd 1.6.",
            Self::Containerd17 => "containerd 1.7.",
            Self::Containerd2 => "containerd 2.",
            Self::CriO => "cri-o 1.",
        }
    }

    /// What is started for it.
    pub(crate) fn release(self) -> Option<Release> {
        let release = |engine, name| Some(Release { engine, name });
        match self {
            Self::Standalone => None,
            Self::Containerd16 => release(Engine::Containerd { config: 2 }, "containerd-1.6"),
            Self::Containerd17 => release(Engine::Containerd { config: 2 }, "containerd-1.7"),
            Self::Containerd2 => release(Engine::Containerd { config: 3 }, "containerd-2"),
            Self::CriO => release(Engine::CriO, "cri-o"),
        }
    }

    /// What a node runs before it is upgraded to it. Of containerd 1.6 and of
    /// CRI-O no older release can be had everywhere.
    pub(crate) fn predecessor(self) -> Option<Release> {
        match self {
            Self::Standalone | Self::Containerd16 | Self::CriO => None,
            Self::Containerd17 => Self::Containerd16.release(),
            Self::Containerd2 => Self::Containerd17.release(),
        }
    }
}

/// One series of one runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) engine: Engine,
    /// As `hack/install-test-deps` calls it.
    pub(crate) name: &'static str,
}

/// Which program, with which form of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// containerd, with the version of its configuration's format.
    Containerd {
        config: u32,
    },
    CriO,
}

impl Release {
    /// Where its programs were built; nothing for one that is a package.
    ///
    /// # Errors
    /// It is not there; the error says how to get it.
    pub(crate) fn directory(self) -> Result<Option<PathBuf>> {
        built(self.name)
    }
}

/// Where what `hack/runtimes` calls `name` was built; nothing for what it does not
/// list.
///
/// # Errors
/// It is not there; the error says how to get it.
pub(crate) fn built(name: &str) -> Result<Option<PathBuf>> {
    let Some(version) = version(name) else {
        return Ok(None);
    };
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    let directory = cache.join(format!("sternline/runtimes/{name}-{version}"));
    if !directory.is_dir() {
        bail!(
            "{name} {version} is not in {}: run hack/build-runtime {name}",
            directory.display()
        );
    }
    Ok(Some(directory))
}

/// The version of what `hack/runtimes` calls `name`.
pub(crate) fn version(name: &str) -> Option<&'static str> {
    let mut lines = BUILT.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next()? == name).then(|| words.next())?)
}
