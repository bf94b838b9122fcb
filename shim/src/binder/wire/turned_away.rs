//! What the binder has no metrics of its own to tell: how often it turned something
//! away.

/// How often, since it started.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TurnedAway {
    /// Processes of users that are not let in.
    #[prost(uint64, tag = "1")]
    pub strangers: u64,
    /// Connections beyond `--max-connections`.
    #[prost(uint64, tag = "2")]
    pub connections: u64,
    /// Requests beyond `--max-requests`.
    #[prost(uint64, tag = "3")]
    pub requests: u64,
    /// Requests beyond `--max-watches`.
    #[prost(uint64, tag = "4")]
    pub watches: u64,
    /// What is not kept for a restart: beyond `--max-kept` or
    /// `--max-kept-descriptors`.
    #[prost(uint64, tag = "5")]
    pub kept: u64,
}

impl TurnedAway {
    /// Every word for what is turned away.
    pub const WORDS: [&'static str; 5] =
        ["strangers", "connections", "requests", "watches", "kept"];

    /// What came to it since the binder said `before`, by those words. A binder that
    /// has counted less since is another one.
    #[must_use]
    pub fn since(&self, before: &Self) -> [(&'static str, u64); 5] {
        let (now, before) = (self.counts(), before.counts());
        let is_another = now.iter().zip(&before).any(|(now, before)| now < before);
        let mut since = Self::WORDS.map(|word| (word, 0));
        for (i, (_, count)) in since.iter_mut().enumerate() {
            *count = if is_another {
                now[i]
            } else {
                now[i] - before[i]
            };
        }
        since
    }

    const fn counts(&self) -> [u64; 5] {
        let Self {
            strangers,
            connections,
            requests,
            watches,
            kept,
        } = *self;
        [strangers, connections, requests, watches, kept]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_is_counted_and_another_binder_begins_anew() {
        let before = TurnedAway {
            connections: 3,
            kept: 1,
            ..TurnedAway::default()
        };
        let now = TurnedAway {
            strangers: 2,
            connections: 5,
            ..before
        };
        let expected = [2, 2, 0, 0, 0];
        assert_eq!(now.since(&before).map(|(_, count)| count), expected);
        assert_eq!(now.since(&now).map(|(_, count)| count), [0; 5]);
        let another = TurnedAway {
            strangers: 7,
            ..TurnedAway::default()
        };
        let of_it = another.since(&now);
        assert_eq!(of_it.map(|(word, _)| word), TurnedAway::WORDS);
        assert_eq!(of_it.map(|(_, count)| count), [7, 0, 0, 0, 0]);
    }
}
