//! A long wire where the kernel has no netem: packets are taken from a TUN
//! device in one namespace, kept for a while, lost now and then, and given to a
//! TUN device in another.

mod line;

use crate::inside;
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use line::Line;
use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_tun::Tun;

/// Largest packet of the devices, in bytes: that of Ethernet.
const MTU: usize = 1500;

/// Packets taken in one go before due ones are passed on.
const BATCH: usize = 64;

/// `sternline-bench wire`.
#[derive(Debug, Args)]
pub(crate) struct Wire {
    /// Name of the device at each end.
    #[arg(long, default_value = "wire")]
    device: String,
    /// One end: a namespace's file.
    #[arg(long)]
    near: PathBuf,
    /// Its address.
    #[arg(long)]
    near_address: Ipv4Addr,
    /// The other end: a namespace's file.
    #[arg(long)]
    far: PathBuf,
    /// Its address.
    #[arg(long)]
    far_address: Ipv4Addr,
    /// Time from one end to the other, in milliseconds: half a round trip.
    #[arg(long)]
    delay: u64,
    /// Part of the packets that is lost, in each direction: 0.001 is 0.1 %.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Bytes on their way in one direction; more are lost, as in a router.
    #[arg(long, default_value_t = 64 << 20)]
    queue: usize,
    /// Chooses which packets are lost.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Wire {
    /// Makes both devices, says `ready` on standard output, and carries packets
    /// until it is killed.
    ///
    /// # Errors
    /// The kernel gives no TUN devices.
    pub(crate) async fn serve(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.loss) {
            bail!("--loss {} is no part between 0 and 1", self.loss);
        }
        let near = self.device(&self.near, self.near_address)?;
        let far = self.device(&self.far, self.far_address)?;
        writeln!(std::io::stdout(), "ready")?;
        let line = |seed| {
            let delay = Duration::from_millis(self.delay);
            Line::new(delay, self.loss, self.queue, seed)
        };
        tokio::try_join!(
            carry(&near, &far, line(self.seed)),
            carry(&far, &near, line(self.seed.wrapping_add(1))),
        )?;
        Ok(())
    }

    /// Makes a device in a namespace, from a thread that ends afterwards.
    fn device(&self, namespace: &Path, address: Ipv4Addr) -> Result<Tun> {
        let runtime = Handle::current();
        let make = || {
            inside::enter(namespace)?;
            let _runtime = runtime.enter();
            let tun = Tun::builder()
                .name(&self.device)
                .mtu(i32::try_from(MTU)?)
                .address(address)
                .netmask(Ipv4Addr::new(255, 255, 255, 0))
                .up()
                .build()
                .context("the kernel gives no TUN device: is /dev/net/tun there?")?;
            tun.into_iter().next().context("no device was made")
        };
        std::thread::scope(|scope| scope.spawn(make).join())
            .map_err(|_| anyhow!("the thread that makes a device panicked"))?
    }
}

async fn carry(from: &Tun, to: &Tun, mut line: Line) -> Result<()> {
    let mut buffer = [0; MTU];
    loop {
        let next = line.next().unwrap_or_else(far_away);
        tokio::select! {
            taken = from.recv(&mut buffer) => {
                line.push(Instant::now(), &buffer[..taken?]);
                for _ in 1..BATCH {
                    match from.try_recv(&mut buffer) {
                        Ok(n) => line.push(Instant::now(), &buffer[..n]),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            () = tokio::time::sleep_until(next.into()) => {}
        }
        while let Some(packet) = line.due(Instant::now()) {
            // A full device loses it, as a full router does.
            let _ = to.try_send(&packet);
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
