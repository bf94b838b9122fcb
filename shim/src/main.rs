//! `sternline-shim`: parses, puts together, waits.

use clap::Parser as _;
use std::process::ExitCode;
use sternline_shim::app::App;
use sternline_shim::config::{Cli, Command, Config};
use sternline_shim::drain::Orders;
use sternline_shim::telemetry;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let Command::Serve(config) = Cli::parse().command;
    telemetry::init(config.log_format, config.verbose);
    match serve(*config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let app = App::bind(config).await?;
    let (order, orders) = Orders::channel();
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
    app.run(orders).await
}
