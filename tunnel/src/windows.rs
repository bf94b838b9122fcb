//! What a stream may send before it is read: more over a long link, and more
//! while few are open.
//!
//! HTTP/2 has one size for all streams of a connection, which may change (RFC
//! 9113, section 6.9.2). Two things decide it:
//! * the link: three times what it brings in a round trip. More would only wait
//!   in front of whatever is small, less would leave the link empty.
//! * the budget: half of what is for windows is every stream's own; the other
//!   half is shared out among those that are open, less what waits already.

use crate::keepalive::Keepalive;
use crate::settings::Settings;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// What a link gets that is fast, however short it is: one process hands so much to
/// another at a time, whatever the round trip.
const FAST: u128 = 256 * 1024;

/// It is fast if it brings a third of that in so long, in microseconds.
const FAST_SPAN: u128 = 100_000;

/// How much more than a round trip brings is offered. A window of which all is
/// used brings no more than itself, so that it grows by this.
const HEADROOM: u128 = 3;

/// Shortest time that a rate is taken over.
const SAMPLE: Duration = Duration::from_millis(2);

/// Fewer bytes since the last look say nothing of the link, and looking at the clock
/// has its price.
const LEAST: u64 = 16 * 1024;

/// After it had to shrink the window does not grow for so long: streams that come
/// and go would change it all the time.
const REST: Duration = Duration::from_secs(1);

/// The streams of a tunnel, and what they hold.
#[derive(Debug, Default)]
pub(crate) struct Load {
    open: AtomicU32,
    /// Bytes that came and that no socket took.
    held: AtomicU64,
}

/// One open stream. Dropped, it is counted no more.
#[derive(Debug)]
pub(crate) struct Open {
    load: Arc<Load>,
    held: u64,
}

impl Open {
    pub(crate) fn new(load: &Arc<Load>) -> Self {
        load.open.fetch_add(1, Relaxed);
        Self {
            load: Arc::clone(load),
            held: 0,
        }
    }

    /// So many bytes of it wait now.
    pub(crate) fn holds(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        if bytes > self.held {
            self.load.held.fetch_add(bytes - self.held, Relaxed);
        } else if bytes < self.held {
            self.load.held.fetch_sub(self.held - bytes, Relaxed);
        }
        self.held = bytes;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.holds(0);
        self.load.open.fetch_sub(1, Relaxed);
    }
}

/// The window that the peer is offered.
#[derive(Debug)]
pub(crate) struct Windows {
    settings: Arc<Settings>,
    load: Arc<Load>,
    offered: u32,
    /// What the link is good for, as far as was seen.
    link: u32,
    /// When, and after how many bytes, the rate was last taken.
    sample: (Instant, u64),
    shrunk: Option<Instant>,
}

impl Windows {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        // As if all streams were open: much on its way over a link that crawls keeps
        // the answers to PINGs waiting.
        let link = settings.first_window.min(settings.own_window() * 2);
        let offered = settings.window(0, 0).min(link);
        Self {
            settings,
            load: Arc::default(),
            offered,
            link,
            sample: (Instant::now(), 0),
            shrunk: None,
        }
    }

    pub(crate) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// What the peer knows.
    pub(crate) fn offered(&self) -> u32 {
        self.offered
    }

    /// Tells the peer another window if that is due; `tell` refuses while the last
    /// change is not answered.
    pub(crate) fn follow(&mut self, keepalive: &Keepalive, tell: impl FnOnce(u32) -> bool) {
        if let Some(window) = self.due(keepalive.heard(), keepalive.round_trip())
            && tell(window)
        {
            self.set(window);
        }
    }

    /// What it should know instead, if that is something else. `heard` is all that
    /// came so far.
    fn due(&mut self, heard: u64, round_trip: Option<Duration>) -> Option<u32> {
        let (open, held) = (self.load.open.load(Relaxed), self.load.held.load(Relaxed));
        let most = self.settings.window(open, held);
        if most < self.offered {
            return Some(most);
        }
        if heard - self.sample.1 < LEAST {
            return None;
        }
        let now = Instant::now();
        self.measure(now, heard, round_trip?);
        let wanted = self.link.min(most);
        let rested = self.shrunk.is_none_or(|at| now.duration_since(at) >= REST);
        (rested && wanted >= self.offered + self.offered / 4).then_some(wanted)
    }

    /// The peer was told.
    fn set(&mut self, window: u32) {
        if window < self.offered {
            self.shrunk = Some(Instant::now());
        }
        self.offered = window;
    }

    fn measure(&mut self, now: Instant, heard: u64, round_trip: Duration) {
        let (since, before) = self.sample;
        let span = now.duration_since(since);
        if span < round_trip.max(SAMPLE) {
            return;
        }
        self.sample = (now, heard);
        let brought = u128::from(heard - before) * HEADROOM;
        let brings = |micros: u128| brought * micros / span.as_micros().max(1);
        let window = brings(round_trip.as_micros()).max(brings(FAST_SPAN).min(FAST));
        self.link = self.link.max(u32::try_from(window).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const MS: Duration = Duration::from_millis(1);

    fn windows() -> Windows {
        Windows::new(Arc::new(Settings::default()))
    }

    /// A link that brings `rate` bytes in a millisecond for `ms`, if the window
    /// lets it; what is offered after.
    async fn bulk(windows: &mut Windows, round_trip: u32, rate: u64, ms: u32) -> u32 {
        let mut heard = windows.sample.1;
        for _ in 0..ms {
            advance(MS).await;
            heard += rate.min(u64::from(windows.offered / round_trip));
            if let Some(window) = windows.due(heard, Some(MS * round_trip)) {
                windows.set(window);
            }
        }
        windows.offered()
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_link_keeps_its_small_window() {
        // 1 GB/s with a round trip that is hardly one; and a link that crawls.
        for (rate, window) in [(1_000_000, 256 * 1024), (100, 64 * 1024)] {
            let mut windows = windows();
            let mut heard = 0;
            for _ in 0..1000 {
                advance(MS).await;
                heard += rate;
                if let Some(window) = windows.due(heard, Some(MS / 20)) {
                    windows.set(window);
                }
            }
            assert_eq!(windows.offered(), window, "{rate} bytes in a millisecond");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_link_gets_what_it_can_fill_within_a_few_round_trips() {
        let mut windows = windows();
        // 70 MB/s over 40 ms: 2.8 MB are on their way.
        let offered = bulk(&mut windows, 40, 70_000, 320).await;
        assert!(offered >= 2_800_000 * 2, "{offered}");
        let later = bulk(&mut windows, 40, 70_000, 2000).await;
        assert!(later <= 2_800_000 * 4, "{later}: no more than it can use");
    }

    #[tokio::test(start_paused = true)]
    async fn many_streams_share_and_few_get_it_back() {
        let mut windows = windows();
        let alone = bulk(&mut windows, 40, 200_000, 1000).await;
        let streams: Vec<_> = (0..256).map(|_| Open::new(windows.load())).collect();
        let shared = windows.due(0, None).expect("at once");
        windows.set(shared);
        let budget = Settings::default().buffer_bytes;
        assert!(u64::from(shared) * 256 <= budget, "{shared}");
        drop(streams);
        let heard = windows.sample.1;
        assert_eq!(windows.due(heard + LEAST, Some(MS)), None, "not at once");
        advance(REST).await;
        assert_eq!(windows.due(heard + LEAST * 2, Some(MS)), Some(alone));
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_taken_from_what_is_shared() {
        let mut windows = windows();
        bulk(&mut windows, 40, 200_000, 1000).await;
        let mut stalled = Open::new(windows.load());
        let few = windows.settings.window(2, 0);
        stalled.holds(windows.settings.growth() as usize);
        let none = windows.due(0, None).expect("at once");
        assert!(none < few / 8 && none >= windows.settings.own_window());
        stalled.holds(0);
        assert_eq!(windows.load().held.load(Relaxed), 0);
        drop(stalled);
        assert_eq!(windows.load().open.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_changed_for_a_little() {
        let mut windows = windows();
        bulk(&mut windows, 40, 70_000, 1000).await;
        let _two: Vec<_> = (0..2).map(|_| Open::new(windows.load())).collect();
        let heard = windows.sample.1;
        for more in 0..100 {
            advance(MS * 100).await;
            assert_eq!(windows.due(heard + more * LEAST, Some(MS * 40)), None);
        }
    }
}
