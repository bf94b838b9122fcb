//! How long the authority's keys and what they sign are good for.

use super::AuthorityError;
use std::time::{Duration, SystemTime};

/// Validity begins so much before it is asked for: clocks of nodes may be late.
const BACKDATED: Duration = Duration::from_secs(15 * 60);

/// How long things are good for. Days in a cluster, seconds in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// A key of the authority.
    pub root: Duration,
    /// How long a new root is trusted before it signs, and an old one after.
    pub overlap: Duration,
    /// A certificate of a gateway or a node. Renewed when two thirds are over.
    pub leaf: Duration,
}

impl Default for Lifetimes {
    /// A year, a month, a day.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            root: DAY * 365,
            overlap: DAY * 30,
            leaf: DAY,
        }
    }
}

impl Lifetimes {
    /// Checks that a rotation is over before the next begins, and that no
    /// certificate outlives the root that signed it.
    ///
    /// # Errors
    /// Which is too long beside which.
    pub fn validated(self) -> Result<Self, AuthorityError> {
        let wrong = |text: String| Err(AuthorityError::Lifetimes(text));
        let Self {
            root,
            overlap,
            leaf,
        } = self;
        if leaf.is_zero() {
            return wrong(
                "certificates that live 0 s are never valid: raise their lifetime".into(),
            );
        }
        if leaf > overlap {
            return wrong(format!(
                "certificates live {leaf:?}, longer than the overlap of two roots, {overlap:?}: lower the one or raise the other"
            ));
        }
        if overlap.saturating_mul(3) > root {
            return wrong(format!(
                "an overlap of {overlap:?} is more than a third of a root's life of {root:?}: lower the one or raise the other"
            ));
        }
        Ok(self)
    }

    /// When a certificate should be renewed that is valid between these.
    #[must_use]
    pub fn renewal(from: SystemTime, until: SystemTime) -> SystemTime {
        let life = until.duration_since(from).unwrap_or_default();
        from + life * 2 / 3
    }

    /// From when on something is valid that is made now.
    pub(super) fn begin(now: SystemTime) -> SystemTime {
        now.checked_sub(BACKDATED).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// When something was made that is valid from then on.
    pub(super) fn made(begin: SystemTime) -> SystemTime {
        begin + BACKDATED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_defaults_leave_time_to_rotate() {
        Lifetimes::default().validated().expect("sound");
    }

    #[test]
    fn what_leaves_no_time_is_refused() {
        let of = |root, overlap, leaf| Lifetimes {
            root: SECOND * root,
            overlap: SECOND * overlap,
            leaf: SECOND * leaf,
        };
        of(30, 10, 10).validated().expect("just so");
        for wrong in [of(29, 10, 10), of(30, 10, 11), of(30, 10, 0)] {
            wrong.validated().expect_err("too tight");
        }
    }

    #[test]
    fn a_third_of_the_life_is_left_at_renewal() {
        let from = SystemTime::UNIX_EPOCH;
        assert_eq!(
            Lifetimes::renewal(from, from + SECOND * 30),
            from + SECOND * 20
        );
    }
}
