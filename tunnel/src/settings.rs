//! Sizes and times of a tunnel.

use std::time::Duration;
use sternline_api::v1alpha1::Limits;

/// DATA frames and reads are at most this long. Smaller costs more per byte,
/// larger makes a small write wait longer behind a bulk stream.
pub(crate) const MAX_CHUNK: usize = 32 * 1024;

/// Frames of one stream that may wait for the byte stream to take them. Bounds
/// what bookkeeping costs when a process writes single bytes.
pub(crate) const MAX_FRAMES_IN_FLIGHT: usize = 16;

/// A window below this makes HTTP/2 crawl; [`Settings::min_buffer_bytes`] keeps
/// room for it.
const MIN_WINDOW: u64 = 4 * 1024;

/// Most of a window that is a stream's own however many there are.
const MAX_OWN_WINDOW: u64 = 1024 * 1024;

/// Windows are shared out as if at least so many streams were open: a second one
/// may come before the peer knows.
const FEW: u32 = 2;

/// How long a stream that we reset is remembered: what the peer sent before it
/// learnt of the reset is then passed over.
pub(crate) const RESET_REMEMBERED: Duration = Duration::from_secs(10);

/// Frames for streams that are no longer remembered, in the life of a tunnel.
/// Each is answered with a reset of some 350 bytes that a peer which does not
/// read leaves in our memory, so there must be a limit; beyond it the tunnel
/// ends. The library's own limit of 1,024 is reached by a load test in the pod
/// that is interrupted a few times.
pub(crate) const MAX_STRAY_FRAMES: usize = 65_536;

/// What the library may charge for small DATA frames that nobody took yet, at up
/// to 255 a frame, before it ends the tunnel: 263,000 single bytes, some 40 MB
/// while they last. Streams take theirs at once, but a burst that waited in the
/// kernel (a workstation that was suspended, a process that writes single
/// bytes) is parsed whole before any stream runs. The library's default is
/// half the connection's window: 3,400 single bytes with few streams.
pub(crate) const SMALL_FRAME_BUDGET: usize = 64 * 1024 * 1024;

/// Header blocks above this are refused (RFC 9113, section 6.5.2).
pub(crate) const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Sizes and times of a tunnel. Both ends should hold the same: the client
/// learns the node's from the call, see [`Settings::from_limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Streams open at once in the session, 1 or more.
    pub max_streams: u32,
    /// Bytes that a session may hold in buffers, in both directions together.
    pub buffer_bytes: u64,
    /// Bytes of one stream that may be sent before they are read while nothing is
    /// known of the link, if [`Settings::buffer_bytes`] allow it to all streams. Over a
    /// fast or a long link it becomes more.
    pub first_window: u32,
    /// Most bytes of one stream that may be sent before they are read, however long
    /// the link is.
    pub max_window: u32,
    /// Time between two PINGs. A peer of which not a byte is heard for two of them
    /// is dead, so a dead one is noticed within three.
    pub ping_interval: Duration,
    /// How long a target may take to be reached; also bounds each step of
    /// setting a tunnel up.
    pub dial_timeout: Duration,
    /// How long a stream may be silent in both directions.
    pub idle_timeout: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_streams: 256,
            buffer_bytes: 64 * 1024 * 1024,
            // What HTTP/2 begins with, too (RFC 9113, section 6.9.2).
            first_window: 64 * 1024,
            // 160 MB/s over a round trip of 100 ms.
            max_window: 16 * 1024 * 1024,
            ping_interval: Duration::from_secs(15),
            dial_timeout: Duration::from_secs(10),
            idle_timeout: None,
        }
    }
}

impl Settings {
    /// The settings that go with the limits a node stated. A value of 0 in a
    /// field that has no "none" leaves the default, and no value makes a wait
    /// endless.
    #[must_use]
    pub fn from_limits(limits: &Limits) -> Self {
        let default = Self::default();
        let millis = |ms: u64, or: Duration, most: Duration| match ms {
            0 => or,
            ms => Duration::from_millis(ms).clamp(Duration::from_millis(10), most),
        };
        let max_streams = match limits.connections_per_session {
            0 => default.max_streams,
            n => n.min(65_536),
        };
        let buffer_bytes = match limits.buffer_bytes_per_session {
            0 => default.buffer_bytes,
            n => n.min(1 << 32),
        };
        Self {
            max_streams,
            buffer_bytes: buffer_bytes.max(Self::min_buffer_bytes(max_streams)),
            first_window: default.first_window,
            max_window: default.max_window,
            ping_interval: millis(
                limits.ping_interval_ms,
                default.ping_interval,
                Duration::from_secs(300),
            ),
            dial_timeout: millis(
                limits.dial_timeout_ms,
                default.dial_timeout,
                Duration::from_secs(300),
            ),
            idle_timeout: Some(limits.idle_timeout_ms)
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
        }
    }

    /// The least [`Settings::buffer_bytes`] for so many streams.
    #[must_use]
    pub fn min_buffer_bytes(max_streams: u32) -> u64 {
        // A stream's share is split 3:1 between window and send buffer.
        (u64::from(max_streams) + 1) * MIN_WINDOW * 4 / 3
    }

    /// Bytes that any stream may send before they are read, however many there
    /// are and whatever the others do.
    pub(crate) fn own_window(&self) -> u32 {
        let window = (self.share() / 8 * 3).clamp(MIN_WINDOW, MAX_OWN_WINDOW);
        u32::try_from(window).unwrap_or(u32::MAX >> 1)
    }

    /// Bytes that windows may have on top, all together.
    pub(crate) fn growth(&self) -> u64 {
        let streams = u64::from(self.max_streams) + 1;
        let own = u64::from(self.own_window()) * streams;
        (self.buffer_bytes / 4 * 3).saturating_sub(own)
    }

    /// The largest window while so many streams are `open` and so many bytes that
    /// came are `held`. The windows of all that are open fit the budget.
    pub(crate) fn window(&self, open: u32, held: u64) -> u32 {
        // In steps, so that it changes seldom.
        let sharers = open.max(FEW).checked_next_power_of_two();
        let sharers = u64::from(sharers.unwrap_or(u32::MAX));
        let growth = self.growth();
        let left = 4 - (held.min(growth) * 4).div_ceil(growth.max(1)).min(4);
        let window = u64::from(self.own_window()) + growth / 4 * left / sharers;
        let most = self.max_window.max(self.own_window());
        u32::try_from(window).unwrap_or(u32::MAX).min(most)
    }

    /// Bytes that all streams may send before they are read (RFC 9113, section
    /// 6.9.1: at most 2^31-1). It never decides: what is on its way while windows
    /// shrink may come on top of them, and a stream which nobody reads must not use
    /// up what its neighbours need. Memory is bounded by the budget.
    pub(crate) fn connection_window(&self) -> u32 {
        let own = u64::from(self.own_window()) * (u64::from(self.max_streams) + 1);
        let all = (own + self.growth()).saturating_mul(2);
        u32::try_from(all.min(0x7fff_ffff)).unwrap_or(0x7fff_ffff)
    }

    /// Bytes of one stream that were read from its socket and wait for the byte
    /// stream to take them.
    pub(crate) fn send_buffer(&self) -> usize {
        usize::try_from((self.share() / 4).clamp(1024, 64 * 1024)).unwrap_or(64 * 1024)
    }

    /// Streams that we reset and still remember, see [`RESET_REMEMBERED`].
    pub(crate) fn remembered_resets(&self) -> usize {
        self.max_streams.saturating_add(1).saturating_mul(16) as usize
    }

    fn share(&self) -> u64 {
        self.buffer_bytes / (u64::from(self.max_streams) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_defaults_give_each_stream_a_useful_window() {
        let settings = Settings::default();
        assert!(settings.window(settings.max_streams, 0) > 180 * 1024);
        assert!(settings.window(1, 0) > 12 * 1024 * 1024);
        assert!(settings.own_window() > 90 * 1024);
        assert!(settings.send_buffer() >= MAX_CHUNK);
    }

    proptest! {
        #[test]
        fn all_windows_and_send_buffers_fit_the_budget(
            max_streams in 1_u32..=65_536,
            extra in 0_u64..(1 << 30),
            open in 1_u32..=65_536,
            held in 0_u64..(1 << 30),
        ) {
            let buffer_bytes = Settings::min_buffer_bytes(max_streams) + extra;
            let settings = Settings { max_streams, buffer_bytes, ..Settings::default() };
            let streams = u64::from(max_streams) + 1;
            let own = u64::from(settings.own_window()) + settings.send_buffer() as u64;
            let all = own * streams + settings.growth();
            prop_assert!(all <= buffer_bytes, "{all} > {buffer_bytes}");
            let open = open.min(max_streams + 1);
            let windows = u64::from(settings.window(open, 0)) * u64::from(open);
            let bound = u64::from(settings.own_window()) * streams + settings.growth();
            prop_assert!(windows <= bound, "{windows} > {bound}");
            prop_assert!(bound <= u64::from(settings.connection_window()) || bound > 0x7fff_ffff);
            let under_load = settings.window(open, held);
            prop_assert!((settings.own_window()..=settings.window(open, 0)).contains(&under_load));
            let full = settings.window(open, settings.growth());
            prop_assert_eq!(full, settings.own_window());
        }

        #[test]
        fn whatever_a_node_states_gives_sound_settings(
            connections_per_session: u32,
            buffer_bytes_per_session: u64,
            ping_interval_ms: u64,
            dial_timeout_ms: u64,
            idle_timeout_ms: u64,
        ) {
            let settings = Settings::from_limits(&Limits {
                connections_per_session,
                buffer_bytes_per_session,
                ping_interval_ms,
                dial_timeout_ms,
                idle_timeout_ms,
                ..Limits::default()
            });
            prop_assert!(settings.max_streams >= 1);
            prop_assert!(settings.ping_interval <= Duration::from_secs(300));
            prop_assert!(settings.dial_timeout <= Duration::from_secs(300));
            prop_assert!(settings.buffer_bytes <= 1 << 32);
        }
    }
}
