//! Every choice of a run comes from here, and so from its seed.

/// A generator of pseudo-random numbers (splitmix64): small, and the same on every
/// machine and in every release.
#[derive(Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for a part, so that what one part draws does not
    /// change what another does.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.number())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number of `least..=most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        let span = most.saturating_sub(least).saturating_add(1);
        least + self.number() % span
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.number() % 100 < chance
    }

    /// One of some.
    pub fn pick<T: Copy>(&mut self, some: &[T]) -> T {
        let at = self.number() % (some.len() as u64);
        some[at as usize]
    }

    /// A length that is small mostly, and now and then up to `most`.
    pub fn length(&mut self, most: u64) -> usize {
        let most = match self.number() % 4 {
            0 => 16,
            1 => 1_000,
            2 => most / 8,
            _ => most,
        };
        self.between(0, most) as usize
    }
}

/// Turns a number into another that tells nothing of it.
#[must_use]
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
