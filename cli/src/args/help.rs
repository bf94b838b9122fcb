//! The longer texts of `--help`.

/// After the list of commands.
pub(super) const MAIN: &str = "\
Examples:
  # connections to port 9003 in the sandbox reach the debugger on this machine
  sternline forward sandbox/web 9003

  # the same in a pod, through the cluster of the kubeconfig
  sternline kubectl deploy/php 9003

  # who listens in this node's sandboxes
  sternline sessions

`sternline forward --help` has the forms of a SPEC and the exit codes.";

pub(super) const FORWARD_ABOUT: &str = "\
Listen in a sandbox and lead its connections to this machine.

Every connection that a process in the sandbox makes to a listener comes out at the target that \
you name here, dialled from this machine. The listeners are on loopback of the sandbox and \
vanish when this command ends. Nothing is printed before everything listens.";

pub(super) const FORWARD: &str = "\
SPEC, remote first as in ssh -R:
  SPEC   := LISTEN[:TARGET]          a lone PORT means both ends
  LISTEN := [BIND:](PORT | 0)        BIND := localhost | IPv4 | [IPv6]; 0 takes a free port
  TARGET := PORT | HOST:PORT | unix:PATH
  The first field decides: a number is the port to listen on, all else is BIND. So
  localhost:8080 listens on localhost, and a host to dial comes after the port. IPv6 addresses
  stand in brackets. unix: always begins a path. A BIND outside loopback must be allowed by the
  server.

Examples:
  # localhost:9003 in the sandbox is port 9003 of this machine
  sternline forward sandbox/web 9003

  # several; the second takes a free port, the third dials another host, the fourth a socket
  sternline forward sandbox/web 8080:3000 0:3000 5432:db.internal:5432 9229:unix:/tmp/app.sock

  # run a command while the forward is up
  sternline forward sandbox/web 8080:3000 --quiet -- npm test

  # for scripts: JSON events, and a file that appears when everything listens
  sternline forward sandbox/web 0:3000 -o json --ready-file /tmp/ready.json

  # the command is told the port that was free
  sternline forward sandbox/web 0:3000 -- sh -c 'echo listening on $STERNLINE_PORT'

  # survive a lost connection for up to a minute
  sternline forward sandbox/web 9003 --hold 1m

COMMAND starts when everything listens, in this process group. Its environment has STERNLINE_BOUND, \
every ADDRESS:PORT that listens in the order of the SPECs with commas between them, and \
STERNLINE_PORT, the port of the first. SIGINT, SIGTERM and SIGHUP are \
passed on to it, save those that a terminal sent to the whole group already. The forward ends with \
it. If the forward is lost for good, COMMAND gets SIGTERM, and SIGKILL 10 s later. If this \
program itself is killed by SIGKILL, COMMAND is left running.

Exit codes:
    0  asked to stop (SIGINT, SIGTERM, SIGHUP; a second one exits at once)
    1  anything without a code of its own; standard output closed
    2  the command line is wrong, with COMMAND too
    3  the sandbox does not exist or is not ready
    4  not allowed
    5  cannot listen: the port is taken, the address does not exist
    6  no server, or it does not offer this (there), or the feature is off
    7  the connection to the server is lost
    9  the server ended the session
  With COMMAND its own code is ours, 128+n if signal n ended it; 126 if it cannot be executed, 127 \
if it is not found, 125 if the forward never came up, 7 or 9 if it was lost or ended meanwhile.";

pub(super) const KUBECTL_ABOUT: &str = "\
Listen in a pod and lead its connections to this machine, through the cluster.

Every connection that a process in the pod makes to a listener comes out at the target that \
you name here, dialled from this machine. The listeners are on loopback of the pod, in all of its \
containers, and vanish when this command ends. Nothing in the pod is changed or restarted. The \
kubeconfig alone is needed, and a cluster in which Sternline is installed.";

pub(super) const KUBECTL: &str = "\
SPEC, remote first as in ssh -R:
  SPEC   := LISTEN[:TARGET]          a lone PORT means both ends
  LISTEN := [BIND:](PORT | NAME | 0) BIND := localhost | IPv4 | [IPv6]; 0 takes a free port
  TARGET := PORT | HOST:PORT | unix:PATH
  NAME is the name of a port: of a container, or with svc/ of the service, for the port of the pod \
that it leads to. A number is always a port of the pod. A BIND outside loopback needs a \
permission of its own.

Of several pods, one that is ready is chosen, and of those the newest.

Examples:
  # localhost:9003 in a pod of the deployment is port 9003 of this machine
  kubectl reverse-port-forward deploy/php 9003

  # the same by its short name, in another namespace; the port by its name
  kubectl rpf -n shop deploy/php xdebug

  # several; the second takes a free port, the third dials another host, the fourth a socket
  kubectl rpf web-0 8080:3000 0:3000 5432:db.internal:5432 9229:unix:/tmp/app.sock

  # run a command while the forward is up
  kubectl rpf sts/web 8080:3000 --quiet -- npm test

  # for scripts: JSON events, and a file that appears when everything listens
  kubectl rpf web-0 0:3000 -o json --ready-file /tmp/ready.json

  # what is missing for a forward to work
  kubectl rpf doctor deploy/php

COMMAND starts when everything listens. Its environment has STERNLINE_BOUND, every ADDRESS:PORT \
that listens with commas between them, and STERNLINE_PORT, the port of the first. The forward ends \
with it.

When the connection is lost, the listeners stay in the pod for --hold, new connections wait there, \
and the session is taken up again by the same user in the same pod. Connections that were open are \
reset.

Exit codes:
    0  asked to stop (SIGINT, SIGTERM, SIGHUP; a second one exits at once)
    1  anything without a code of its own; standard output closed
    2  the command line or the kubeconfig is wrong, with COMMAND too
    3  the pod does not exist or does not run
    4  not allowed, or not signed in
    5  cannot listen: the port is taken, the address does not exist
    6  no server, or Sternline is not installed there, or it is off
    7  the connection is lost for good
    9  the server ended the session
  With COMMAND its own code is ours, 128+n if signal n ended it; 126 if it cannot be executed, 127 \
if it is not found, 125 if the forward never came up, 7 or 9 if it was lost or ended meanwhile.";

pub(super) const DOCTOR: &str = "\
Each check is a line: ok, FAIL with what to do next, or skip where you may not look. Nothing is \
opened or changed.

Examples:
  kubectl rpf doctor
  kubectl rpf doctor deploy/php
  kubectl rpf doctor -n shop web-0 --context prod

Exit codes:
    0  nothing failed
    1  a check failed
    2  the command line or the kubeconfig is wrong
    4  not signed in
    6  no server";

pub(super) const SESSIONS: &str = "\
Examples:
  sternline sessions
  sternline sessions sandbox/web
  sternline sessions -o json";

pub(super) const STATUS: &str = "\
Examples:
  sternline status
  sternline status -o json

It fails when the server does not answer, with 6, or 4 where its socket may not be opened. What the \
server says is not in order is told and is no failure.";

pub(super) const VERSION: &str = "\
The version of this program is printed in any case. A server that does not answer is a failure, \
with 6, or 4 where its socket may not be opened, unless --client says not to ask it.";

pub(super) const STOP: &str = "\
Examples:
  sternline stop 3f9c2a71
  sternline stop session/3f9c2a71 8b01";

pub(super) const COMPLETION_ABOUT: &str = "\
Print a script by which a shell completes this command line: commands, flags and their values.

The script goes to standard output. Read it into a running shell, or put it where the shell \
looks for such scripts.";

pub(super) const COMPLETION: &str = "\
Examples:
  # bash: this shell, and every later one
  source <(sternline completion bash)
  echo 'source <(sternline completion bash)' >> ~/.bashrc

  # zsh, after compinit
  source <(sternline completion zsh)

  # fish
  sternline completion fish > ~/.config/fish/completions/sternline.fish

  # PowerShell
  sternline completion powershell | Out-String | Invoke-Expression";
