//! One direction of a long wire: a queue in which every packet waits its time.

use crate::stats::Rng;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Packets on their way, oldest first.
#[derive(Debug)]
pub(super) struct Line {
    delay: Duration,
    loss: f64,
    /// Bytes that fit.
    room: usize,
    bytes: usize,
    packets: VecDeque<(Instant, Vec<u8>)>,
    rng: Rng,
}

impl Line {
    /// An empty line. `loss` is the part of the packets that never arrives,
    /// `room` the bytes that fit on it.
    pub(super) fn new(delay: Duration, loss: f64, room: usize, seed: u64) -> Self {
        Self {
            delay,
            loss,
            room,
            bytes: 0,
            packets: VecDeque::new(),
            rng: Rng::new(seed),
        }
    }

    /// Takes a packet that was sent at `now`, or loses it.
    pub(super) fn push(&mut self, now: Instant, packet: &[u8]) {
        // Drawn for every packet: which ones are lost depends on the seed alone.
        let lost = self.rng.chance(self.loss);
        if !lost && self.bytes + packet.len() <= self.room {
            self.bytes += packet.len();
            self.packets.push_back((now + self.delay, packet.to_vec()));
        }
    }

    /// When the next packet arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        self.packets.front().map(|(at, _)| *at)
    }

    /// A packet that has arrived by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next()? > now {
            return None;
        }
        let (_, packet) = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(20);

    #[test]
    fn every_packet_waits_its_time_and_keeps_its_place() {
        let begun = Instant::now();
        let mut line = Line::new(DELAY, 0.0, 1000, 1);
        assert_eq!(line.next(), None);
        line.push(begun, b"one");
        line.push(begun + DELAY / 4, b"two");
        assert_eq!(line.next(), Some(begun + DELAY));
        assert_eq!(line.due(begun + DELAY / 2), None);
        assert_eq!(line.due(begun + DELAY).as_deref(), Some(&b"one"[..]));
        assert_eq!(line.due(begun + DELAY), None);
        assert_eq!(line.due(begun + DELAY * 2).as_deref(), Some(&b"two"[..]));
        assert_eq!(line.next(), None);
    }

    #[test]
    fn what_does_not_fit_is_lost_and_room_comes_back() {
        let begun = Instant::now();
        let mut line = Line::new(DELAY, 0.0, 10, 1);
        line.push(begun, &[1; 6]);
        line.push(begun, &[2; 6]);
        line.push(begun, &[3; 4]);
        let due = begun + DELAY;
        assert_eq!(line.due(due), Some(vec![1; 6]));
        assert_eq!(line.due(due), Some(vec![3; 4]));
        assert_eq!(line.due(due), None);
        line.push(begun, &[4; 10]);
        assert_eq!(line.due(due), Some(vec![4; 10]));
    }

    #[test]
    fn the_same_seed_loses_the_same_packets() {
        let arrived = |seed| {
            let begun = Instant::now();
            let mut line = Line::new(DELAY, 0.1, 1 << 20, seed);
            for number in 0..10_000_u32 {
                line.push(begun, &number.to_be_bytes());
            }
            std::iter::from_fn(|| line.due(begun + DELAY)).collect::<Vec<_>>()
        };
        let first = arrived(1);
        assert_eq!(first, arrived(1));
        assert_ne!(first, arrived(2));
        let lost = 10_000 - first.len();
        assert!((800..1200).contains(&lost), "{lost} were lost");
    }
}
