//! Where the container runtime's socket is, found as cri-tools finds it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The file in which crictl is configured.
const CRICTL: &str = "/etc/crictl.yaml";

/// Sockets that runtimes have by default, in the order in which they are tried.
const KNOWN: [&str; 3] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
];

/// The sockets of a container runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) runtime: PathBuf,
    pub(crate) image: PathBuf,
    /// The runtime's socket was found by trying; whoever runs the suite should
    /// say which one is meant.
    pub(crate) guessed: bool,
}

/// Where to look.
pub(crate) struct Places<'a> {
    /// `--runtime-endpoint` and `--image-endpoint`.
    pub(crate) flags: (Option<String>, Option<String>),
    /// The process's environment.
    pub(crate) environment: &'a dyn Fn(&str) -> Option<String>,
    /// What stands in `/etc/crictl.yaml`.
    pub(crate) crictl: String,
    /// Whether there is a socket.
    pub(crate) exists: &'a dyn Fn(&Path) -> bool,
}

/// Looks on this machine: flag, environment, `/etc/crictl.yaml`, known sockets.
///
/// # Errors
/// There is none, or one is no Unix socket; in a sentence.
pub(crate) fn find(runtime: Option<String>, image: Option<String>) -> Result<Endpoints, String> {
    search(Places {
        flags: (runtime, image),
        environment: &|name| std::env::var(name).ok(),
        crictl: fs::read_to_string(CRICTL).unwrap_or_default(),
        exists: &|path| path.exists(),
    })
}

fn search(places: Places<'_>) -> Result<Endpoints, String> {
    let from = |flag: Option<String>, variable, key| {
        flag.or_else(|| (places.environment)(variable).filter(|value| !value.is_empty()))
            .or_else(|| setting(&places.crictl, key))
    };
    let (runtime, image) = places.flags;
    let runtime = from(runtime, "CONTAINER_RUNTIME_ENDPOINT", "runtime-endpoint");
    let image = from(image, "IMAGE_SERVICE_ENDPOINT", "image-endpoint");
    let guessed = runtime.is_none();
    let runtime = match runtime {
        Some(endpoint) => socket(&endpoint)?,
        None => KNOWN
            .iter()
            .map(PathBuf::from)
            .find(|path| (places.exists)(path))
            .ok_or_else(|| {
                format!(
                    "no container runtime is named or found at {}: give --runtime-endpoint, or \
                     --standalone for plain network namespaces",
                    KNOWN.join(", ")
                )
            })?,
    };
    let image = match image {
        Some(endpoint) => socket(&endpoint)?,
        None => runtime.clone(),
    };
    Ok(Endpoints {
        runtime,
        image,
        guessed,
    })
}

/// `unix:///path` or `/path`.
///
/// # Errors
/// It is neither.
pub(crate) fn socket(endpoint: &str) -> Result<PathBuf, String> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    match path.starts_with('/') {
        true => Ok(path.into()),
        false => Err(format!(
            "{endpoint:?} is no endpoint: give unix:///PATH or the path of a Unix socket"
        )),
    }
}

/// One line `key: value`.
fn setting(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then_some(value)
    })?;
    let value = value.split(" #").next().unwrap_or("").trim();
    let value = value.trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "# crictl\nruntime-endpoint: \"unix:///yaml.sock\" # here\nimage-endpoint: ''\ntimeout: 2\n";

    fn places<'a>(
        flag: Option<&str>,
        environment: &'a dyn Fn(&str) -> Option<String>,
        yaml: &str,
        exists: &'a dyn Fn(&Path) -> bool,
    ) -> Places<'a> {
        Places {
            flags: (flag.map(str::to_owned), None),
            environment,
            crictl: yaml.into(),
            exists,
        }
    }

    #[test]
    fn flag_then_environment_then_file_then_known_sockets() {
        let set = |name: &str| (name == "CONTAINER_RUNTIME_ENDPOINT").then(|| "/env.sock".into());
        let unset = |_: &str| None;
        let crio = |path: &Path| path == Path::new("/run/crio/crio.sock");
        for (places, expected, guessed) in [
            (
                places(Some("unix:///flag.sock"), &set, YAML, &crio),
                "/flag.sock",
                false,
            ),
            (places(None, &set, YAML, &crio), "/env.sock", false),
            (places(None, &unset, YAML, &crio), "/yaml.sock", false),
            (places(None, &unset, "", &crio), "/run/crio/crio.sock", true),
        ] {
            let found = search(places).expect("an endpoint");
            assert_eq!(found.runtime, Path::new(expected));
            assert_eq!(found.image, found.runtime);
            assert_eq!(found.guessed, guessed);
        }
    }

    #[test]
    fn nothing_found_is_said_with_what_to_do() {
        let none = |_: &Path| false;
        let error = search(places(None, &|_| None, "", &none)).expect_err("nothing is there");
        assert!(error.contains("--runtime-endpoint"), "{error}");
        assert!(socket("tcp://1.2.3.4:5").is_err());
    }
}
