//! Chance that can be had again from its seed.

use std::hash::{BuildHasher as _, RandomState};

/// SplitMix64.
#[derive(Debug)]
pub(super) struct Dice(u64);

/// A seed that nobody chose.
pub(super) fn any_seed() -> u64 {
    RandomState::new().hash_one(std::process::id()) >> 32
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `least` up to, not including, `end`.
    pub(super) fn between(&mut self, least: u64, end: u64) -> u64 {
        least + self.roll() % (end - least)
    }

    /// One of these, each with its weight.
    pub(super) fn choose<T: Copy>(&mut self, weighted: &[(u64, T)]) -> Option<T> {
        let all: u64 = weighted.iter().map(|(weight, _)| weight).sum();
        let mut at = self.between(0, all.max(1));
        for (weight, one) in weighted {
            if at < *weight {
                return Some(*one);
            }
            at -= weight;
        }
        None
    }
}
