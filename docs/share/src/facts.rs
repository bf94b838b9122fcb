//! What a manual page says that no command line does.

/// Exit codes of the commands that make one call.
const CALLS: &str = "\
0  done
1  anything without a code of its own; standard output closed
2  the command line is wrong
3  the sandbox or the session does not exist
4  not allowed
6  no server, or it does not offer this (there), or the feature is off";

const ONE_ANSWER: &str = "\
0  done
1  standard output closed
2  the command line is wrong
4  the server's socket may not be opened
6  no server answers";

const COMPLETION: &str = "\
0  the script is printed
1  standard output closed
2  the command line is wrong, or no script is made for that shell";

const CLIENT: &str = "\
0  done
2  the command line is wrong
Each command has codes of its own: see its page.";

const SHIM: &str = "\
0  it was told to end (SIGTERM, SIGINT)
1  anything else, after one line that says what
2  the command line is wrong";

const GATEWAY_EXAMPLES: &str = "\
# in a pod, as deploy/ has it: who it is comes from the service account
sternline-gateway --metrics-address 0.0.0.0:10252

# outside a cluster, against the API server of a kubeconfig
sternline-gateway --kubeconfig admin.conf --address 127.0.0.1:10250";

const CONFORMANCE: &str = "\
0    all required specs passed
1    a required one failed
2    the command line is wrong
3    the environment cannot be used
130  interrupted (SIGINT)
143  interrupted (SIGTERM)";

const SERVE_EXAMPLES: &str = "\
# with a container runtime, as root
sternline-shim serve --runtime-endpoint unix:///run/containerd/containerd.sock

# without one: sandboxes are the network namespaces in /run/netns
sternline-shim serve --standalone

# without privileges, through a binder
sternline-shim serve --binder unix:/run/sternline-binder/binder.sock --run-as 65532:65532";

const BINDER_EXAMPLES: &str = "\
sternline-shim binder --serve-uid 65532 \\
    --runtime-endpoint unix:///run/containerd/containerd.sock";

const CONFORMANCE_EXAMPLES: &str = "\
# what would be judged
sternline-conformance --list

# an implementation on plain network namespaces, as root
sternline-conformance --standalone --endpoint /run/sternline/sternline.sock";

const SESSIONS_SEE: &[&str] = &["sternline(1)", "sternline-forward(1)", "sternline-stop(1)"];

/// What one page says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// The page, as other pages name it.
    pub(crate) page: &'static str,
    /// Lines of EXIT STATUS, for commands whose help has none.
    pub(crate) exit: &'static str,
    /// Lines of EXAMPLES, for commands whose help has none.
    pub(crate) examples: &'static str,
    /// Files that matter, with what each is.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// Other pages.
    pub(crate) see: &'static [&'static str],
}

const CALL_SOCKET: (&str, &str) = (
    "/run/sternline/sternline.sock",
    "where the shim serves the call; --socket names another",
);
const KUBECONFIG: (&str, &str) = (
    "~/.kube/config",
    "which cluster, and as whom; KUBECONFIG and --kubeconfig name others",
);
const BINDER_SOCKET: (&str, &str) = (
    "/run/sternline-binder/binder.sock",
    "where a binder listens for serve",
);
const SERVICE_ACCOUNT: (&str, &str) = (
    "/var/run/secrets/kubernetes.io/serviceaccount",
    "who it is to the Kubernetes API, unless --kubeconfig says",
);

const fn client(page: &'static str, exit: &'static str, see: &'static [&'static str]) -> Facts {
    Facts {
        page,
        exit,
        examples: "",
        files: &[CALL_SOCKET],
        see,
    }
}

/// Every page.
pub(crate) const FACTS: &[Facts] = &[
    client(
        "sternline(1)",
        CLIENT,
        &[
            "sternline-forward(1)",
            "sternline-kubectl(1)",
            "sternline-sessions(1)",
            "sternline-stop(1)",
            "sternline-status(1)",
            "sternline-version(1)",
            "sternline-completion(1)",
            "sternline-shim(8)",
        ],
    ),
    client(
        "sternline-forward(1)",
        "",
        &[
            "sternline(1)",
            "sternline-sessions(1)",
            "sternline-shim(8)",
            "ssh(1)",
        ],
    ),
    Facts {
        page: "sternline-kubectl(1)",
        exit: "",
        examples: "",
        files: &[KUBECONFIG],
        see: &[
            "sternline-kubectl-doctor(1)",
            "sternline-forward(1)",
            "sternline(1)",
            "kubectl(1)",
        ],
    },
    Facts {
        page: "sternline-kubectl-doctor(1)",
        exit: "",
        examples: "",
        files: &[KUBECONFIG],
        see: &["sternline-kubectl(1)", "kubectl(1)"],
    },
    client("sternline-sessions(1)", CALLS, SESSIONS_SEE),
    client(
        "sternline-stop(1)",
        CALLS,
        &["sternline(1)", "sternline-sessions(1)"],
    ),
    Facts {
        examples: "sternline version\nsternline version --client -o json",
        ..client(
            "sternline-version(1)",
            ONE_ANSWER,
            &["sternline(1)", "sternline-status(1)", "sternline-shim(8)"],
        )
    },
    client(
        "sternline-status(1)",
        ONE_ANSWER,
        &["sternline(1)", "sternline-sessions(1)", "sternline-shim(8)"],
    ),
    Facts {
        files: &[],
        ..client(
            "sternline-completion(1)",
            COMPLETION,
            &["sternline(1)", "bash(1)", "zsh(1)", "fish(1)"],
        )
    },
    Facts {
        page: "sternline-shim(8)",
        exit: SHIM,
        examples: SERVE_EXAMPLES,
        files: &[CALL_SOCKET, BINDER_SOCKET],
        see: &[
            "sternline-shim-serve(8)",
            "sternline-shim-binder(8)",
            "sternline(1)",
        ],
    },
    Facts {
        page: "sternline-shim-serve(8)",
        exit: SHIM,
        examples: SERVE_EXAMPLES,
        files: &[
            CALL_SOCKET,
            (
                "/etc/sternline/shim.env",
                "flags and variables of the systemd unit: STERNLINE_FLAGS=...",
            ),
        ],
        see: &[
            "sternline-shim(8)",
            "sternline-shim-binder(8)",
            "sternline(1)",
            "network_namespaces(7)",
        ],
    },
    Facts {
        page: "sternline-shim-binder(8)",
        exit: SHIM,
        examples: BINDER_EXAMPLES,
        files: &[BINDER_SOCKET],
        see: &[
            "sternline-shim(8)",
            "sternline-shim-serve(8)",
            "network_namespaces(7)",
            "capabilities(7)",
        ],
    },
    Facts {
        page: "sternline-gateway(8)",
        exit: SHIM,
        examples: GATEWAY_EXAMPLES,
        files: &[SERVICE_ACCOUNT],
        see: &[
            "sternline-gateway-serve(8)",
            "sternline-shim(8)",
            "sternline-kubectl(1)",
        ],
    },
    Facts {
        page: "sternline-gateway-serve(8)",
        exit: SHIM,
        examples: GATEWAY_EXAMPLES,
        files: &[SERVICE_ACCOUNT],
        see: &[
            "sternline-gateway(8)",
            "sternline-shim(8)",
            "sternline-kubectl(1)",
        ],
    },
    Facts {
        page: "sternline-conformance(1)",
        exit: CONFORMANCE,
        examples: CONFORMANCE_EXAMPLES,
        files: &[],
        see: &["sternline-shim(8)"],
    },
];
