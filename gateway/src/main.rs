//! `sternline-gateway`: parses, puts together, waits.

use clap::Parser as _;
use std::process::ExitCode;
use sternline_gateway::app::{App, Orders};
use sternline_gateway::config::{Cli, Config};
use sternline_gateway::telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// musl's own gives every buffer of the relay back to the kernel and fetches it
/// anew.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = Cli::parse().config();
    telemetry::init(config.logs);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().build()?.block_on(async {
        let orders = orders()?;
        let app = App::bind(config).await?;
        app.run(orders).await
    })
}

/// Each signal to end is an order.
fn orders() -> std::io::Result<Orders> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (order, orders) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // A full queue: everything is said.
            let _ = order.try_send(());
        }
    });
    Ok(orders)
}
