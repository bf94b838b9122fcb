//! `sternline-shim`: parses, puts together, waits.

use clap::Parser as _;
use std::process::ExitCode;
use sternline_shim::app::App;
use sternline_shim::binder::process::BinderApp;
use sternline_shim::config::{BinderConfig, Cli, Command, Config};
use sternline_shim::drain::{Order, Orders};
use sternline_shim::{privileges, sentence, telemetry};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// musl's own gives every buffer of the relay back to the kernel and fetches it
/// anew: twice the processor time for a byte.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads of the binder: it waits for the kernel and the container runtime.
const BINDER_THREADS: usize = 2;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(config) => {
            telemetry::init(config.logs);
            serve(*config)
        }
        Command::Binder(config) => {
            telemetry::init(config.logs);
            bind(*config)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", sentence::whole(&error));
            ExitCode::FAILURE
        }
    }
}

fn serve(mut config: Config) -> anyhow::Result<()> {
    // Asked first: what tells may be out of reach afterwards.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Privileges belong to a thread: given up while there is one alone.
    config.separation.in_force = privileges::confine_serve(&config)?;
    runtime(threads)?.block_on(async {
        let orders = orders()?;
        let app = App::bind(config).await?;
        app.run(orders).await
    })
}

fn bind(config: BinderConfig) -> anyhow::Result<()> {
    if config.own_network {
        privileges::leave_network()?;
    }
    let app = BinderApp::bind(config)?;
    privileges::confine_binder()?;
    runtime(BINDER_THREADS)?.block_on(async {
        let mut orders = orders()?;
        let told = async {
            orders.next().await;
        };
        app.run(told).await
    })
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    // An operator's wish comes first.
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// Each signal to end is an order.
fn orders() -> std::io::Result<Orders> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (order, orders) = Orders::channel();
    tokio::spawn(async move {
        loop {
            // Who restarts a service sends the one; who is at a terminal means it.
            let next = tokio::select! {
                _ = terminate.recv() => Order::Leave,
                _ = interrupt.recv() => Order::End,
            };
            // A full queue: everything is said.
            let _ = order.try_send(next);
        }
    });
    Ok(orders)
}
