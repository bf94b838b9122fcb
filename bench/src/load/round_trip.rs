//! Messages there and back, one at a time, alone or beside a bulk stream.

use super::bulk::Bulk;
use super::{Direction, Figures, Load, STEP, figure};
use crate::stats;
use crate::target::{Control, MESSAGE, verb};
use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Messages before the measurement.
const WARM: usize = 20;

/// The times of messages until `window` is over, from a thread of its own, so
/// that the bulk of this process does not delay them.
///
/// # Errors
/// The connection fails, or brings back something else.
pub(super) fn trips(address: SocketAddr, window: Duration) -> Result<Vec<f64>> {
    let mut stream = TcpStream::connect_timeout(&address, STEP)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    stream.write_all(&[verb::PING])?;
    let mut times = Vec::new();
    let mut begun = Instant::now();
    let mut number = 0_u64;
    while number < WARM as u64 || begun.elapsed() < window {
        if number == WARM as u64 {
            begun = Instant::now();
            times.clear();
        }
        let mut message = [0x33; MESSAGE];
        message[..8].copy_from_slice(&number.to_be_bytes());
        let sent = Instant::now();
        stream.write_all(&message)?;
        let mut back = [0; MESSAGE];
        stream.read_exact(&mut back)?;
        times.push(sent.elapsed().as_secs_f64() * 1e6);
        if back != message {
            bail!("message {number} came back changed");
        }
        number += 1;
    }
    Ok(times)
}

/// Median and 99th percentile.
pub(super) fn figures(times: &[f64]) -> Figures {
    let times = stats::sorted(times);
    Figures::from([
        (figure::TRIP_P50.to_owned(), stats::quantile(&times, 0.5)),
        (figure::TRIP_P99.to_owned(), stats::quantile(&times, 0.99)),
    ])
}

/// The work itself.
pub(super) async fn run(
    load: &Load,
    control: &mut Control,
    beside: Option<Direction>,
) -> Result<Figures> {
    let (address, window) = (load.connect, load.window());
    let Some(direction) = beside else {
        let times = tokio::task::spawn_blocking(move || trips(address, window)).await?;
        return Ok(figures(&times?));
    };
    let mut bulk = Bulk::start(address, 1, direction).await?;
    tokio::time::sleep(load.warm_up()).await;
    let first = bulk.count(control)?;
    let times = tokio::task::spawn_blocking(move || trips(address, window)).await?;
    let last = bulk.count(control)?;
    let mut figures = figures(&times.context("the messages beside the bulk failed")?);
    let rate = bulk.rates(&first, &last).iter().sum();
    figures.insert(figure::RATE.to_owned(), rate);
    Ok(figures)
}
