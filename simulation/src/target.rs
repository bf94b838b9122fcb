//! Processes at both ends of a connection: the pod's and the target's.

use crate::net::local::End as Socket;
use crate::outside::Host;
use crate::pattern::{HEADER, Way, bytes};
use crate::plan::Behaviour;
use crate::records::{End, Record, Side};
use crate::rng::Rng;
use crate::world::{World, lock};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use sternline_tunnel::Socket as _;
use tokio::time::sleep;

/// One process with its connection.
pub(crate) struct Process<'a> {
    pub(crate) world: &'a World,
    pub(crate) connection: u64,
    pub(crate) socket: &'a Socket,
    pub(crate) behaviour: Behaviour,
    /// What it sends, and which side of the record is its own.
    pub(crate) sends: Way,
    /// Bytes read already.
    pub(crate) read: AtomicUsize,
    pub(crate) wrote: AtomicUsize,
    pub(crate) rng: (Rng, Rng),
}

/// It gave up, as it meant to.
struct Enough;

impl Process<'_> {
    fn side(&self, change: impl FnOnce(&mut Side)) {
        let sends = self.sends;
        let own = |record: &mut Record| match sends {
            Way::There => change(&mut record.pod),
            Way::Back => change(&mut record.target),
        };
        self.world.record(self.connection, own);
    }

    /// Goes on to the end. The socket is closed by whoever owns it.
    pub(crate) async fn run(mut self) {
        let (mut reads, mut writes) = std::mem::replace(&mut self.rng, (Rng::new(0), Rng::new(0)));
        let done = if self.behaviour.listens_first {
            match self.read(&mut reads).await {
                Ok(()) => self.write(&mut writes).await,
                enough => enough,
            }
        } else {
            tokio::select! {
                biased;
                done = async { tokio::try_join!(self.read(&mut reads), self.write(&mut writes)) } => done.map(drop),
            }
        };
        if done.is_err() {
            self.side(|side| side.end = End::Own);
            self.socket.abort_on_close();
        }
        self.side(|side| side.done = true);
    }

    fn is_enough(&self) -> bool {
        let moved = self.read.load(Relaxed).max(self.wrote.load(Relaxed));
        self.behaviour
            .resets_after
            .is_some_and(|most| moved >= most)
    }

    async fn pause(&self, rng: &mut Rng) {
        if self.behaviour.pauses > 0 && rng.percent(10) {
            sleep(Duration::from_millis(rng.between(0, self.behaviour.pauses))).await;
        }
    }

    async fn read(&self, rng: &mut Rng) -> Result<(), Enough> {
        let from = match self.sends {
            Way::There => Way::Back,
            Way::Back => Way::There,
        };
        loop {
            if self.is_enough() {
                return Err(Enough);
            }
            self.pause(rng).await;
            let most = rng.pick(&[100, 4_000, 100_000]);
            match self.socket.read(most).await {
                Err(_) => {
                    self.side(|side| side.end = End::Reset);
                    return Ok(());
                }
                Ok(read) if read.is_empty() => {
                    self.side(|side| side.end = End::Clean);
                    return Ok(());
                }
                Ok(read) => {
                    let at = self.read.load(Relaxed);
                    let right = bytes(self.connection, from, at, read.len());
                    if read != right {
                        let wrong = read.iter().zip(&right).take_while(|(a, b)| a == b);
                        let (n, place) = (self.connection, at + wrong.count());
                        self.world.fail(format!(
                            "connection {n} {from:?}: byte {place} is not what was sent"
                        ));
                        return Err(Enough);
                    }
                    self.read.store(at + read.len(), Relaxed);
                    self.side(|side| side.read = at + read.len());
                    self.world.count(|stats| stats.bytes += read.len() as u64);
                }
            }
        }
    }

    async fn write(&self, rng: &mut Rng) -> Result<(), Enough> {
        let header = if self.sends == Way::There { HEADER } else { 0 };
        let all = self.behaviour.sends + header;
        while self.wrote.load(Relaxed) < all {
            if self.is_enough() {
                return Err(Enough);
            }
            self.pause(rng).await;
            let at = self.wrote.load(Relaxed);
            let most = rng.pick(&[1, 700, 9_000, 60_000]).min(all - at);
            match self
                .socket
                .write(&bytes(self.connection, self.sends, at, most))
                .await
            {
                // The reader sees the reset too.
                Err(_) => return Ok(()),
                Ok(wrote) => {
                    self.wrote.store(at + wrote, Relaxed);
                    self.side(|side| side.wrote = at + wrote);
                }
            }
        }
        if self.socket.shutdown_write().is_ok() {
            self.side(|side| side.fin = true);
        }
        Ok(())
    }
}

/// A target's process: learns from the first bytes which connection it has.
pub(crate) async fn serve(host: Arc<Host>, socket: Socket) {
    let mut header = Vec::new();
    while header.len() < HEADER {
        match socket.read(HEADER - header.len()).await {
            Ok(read) if !read.is_empty() => header.extend(read),
            Ok(_) => {
                host.world
                    .fail("a target read a clean end before the first eight bytes");
                return;
            }
            Err(_) => return,
        }
    }
    let connection = u64::from_be_bytes(header.try_into().unwrap_or_default());
    let Some(behaviour) = host.world.behaviour(connection) else {
        host.world.fail(format!(
            "a target got connection {connection:x}, which nobody opened"
        ));
        return;
    };
    let mut twice = false;
    host.world.record(connection, |record| {
        twice = std::mem::replace(&mut record.led, true);
        record.target.read = HEADER;
    });
    if twice {
        host.world
            .fail(format!("connection {connection} came to two targets"));
    }
    let mut rng = host.world.rng();
    let process = Process {
        world: &host.world,
        connection,
        socket: &socket,
        behaviour,
        sends: Way::Back,
        read: AtomicUsize::new(HEADER),
        wrote: AtomicUsize::new(0),
        rng: (rng.fork(), rng.fork()),
    };
    process.run().await;
    host.looked_after(connection);
}

impl Host {
    /// Notes whether anything was done to this client since the connection began.
    pub(crate) fn looked_after(&self, connection: u64) {
        let now = self.disturbances.load(Relaxed);
        self.world.record(connection, |record| {
            record.patient &= self.is_fast();
            if record.disturbances != Some(now) {
                record.disturbances = None;
            }
        });
    }
}

impl World {
    /// What the target of a connection is to do.
    pub(crate) fn behaviour(&self, connection: u64) -> Option<Behaviour> {
        lock(&self.behaviours).get(&connection).copied()
    }
}
