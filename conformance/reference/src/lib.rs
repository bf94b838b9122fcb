//! A small implementation of `ReversePortForward` for named network namespaces.
//! It is there to be judged: unfaulted it passes every spec of the conformance
//! suite, and each of its [`FAULTS`] has to be caught by one. It shares no code
//! with the implementation that is shipped, and is not meant to be used.

mod bind;
mod control;
mod faults;
mod filter;
mod node;
mod operator;
mod relay;
mod runtime;
mod service;
mod session;
mod tls;
mod tunnel;
mod upgrade;
mod websocket;

pub use faults::{FAULTS, Setup};

use clap::Parser;
use faults::Faults;
use node::Node;
use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};
use tokio::net::{TcpListener, UnixListener};

/// A reference implementation with switchable faults.
#[derive(Debug, Parser)]
struct Cli {
    /// Where the call is served
    #[arg(long)]
    socket: PathBuf,
    /// Where the sandboxes are: files named by their id
    #[arg(long)]
    netns_dir: PathBuf,
    /// What to do wrong
    #[arg(long)]
    fault: Option<String>,
    /// Allow addresses other than loopback, and reset streams that are silent
    #[arg(long)]
    extras: bool,
    /// Stream over TLS, with the certificate and the key that are kept here
    #[arg(long)]
    tls_dir: Option<PathBuf>,
    /// Pretend to be a container runtime here, and take its pods for sandboxes
    #[arg(long)]
    cri_socket: Option<PathBuf>,
    /// How often the program started itself again
    #[arg(long, default_value_t = 0)]
    again: u32,
}

/// The program. It says `ready` once it listens and ends with its standard input.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let run = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(run(cli)));
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do when even this cannot be said.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> io::Result<()> {
    let faults = Faults::new(cli.fault.as_deref()).map_err(io::Error::other)?;
    let streaming = TcpListener::bind("127.0.0.1:0").await?;
    let address = streaming.local_addr()?;
    let tls = cli.tls_dir.as_deref().map(tls::acceptor).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    if cli.again > 0 {
        fs::remove_file(&cli.socket)?;
    }
    let socket = UnixListener::bind(&cli.socket)?;
    let runtime = match &cli.cri_socket {
        Some(path) => Some(runtime::start(path, cli.netns_dir.clone())?),
        None => None,
    };
    let node = Arc::new(Node::new(
        faults,
        cli.netns_dir.clone(),
        cli.extras,
        runtime,
        format!("{scheme}://{address}"),
    ));
    operator::watch(&node, &cli)?;
    tokio::spawn(upgrade::serve(streaming, tls, Arc::clone(&node)));
    tokio::spawn(node::watch(Arc::clone(&node)));
    let calls = tokio::spawn(service::serve(socket, node));
    fs::write(cli.socket.with_extension("again"), cli.again.to_string())?;
    if cli.again == 0 {
        let mut out = io::stdout();
        out.write_all(b"ready\n")?;
        out.flush()?;
    }
    let parent = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
    tokio::select! {
        ended = parent => ended?.map(drop),
        served = calls => served?,
    }
}
