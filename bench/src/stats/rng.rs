//! Numbers that look random and come again with their seed.

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough for shuffling
/// and for losing packets. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The sequence of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which must not be 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        // The high half of the product; its bias is n / 2^64.
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// True in a part `p` (0 to 1) of the cases.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        // 53 bits, as many as a float holds.
        ((self.next() >> 11) as f64) < p * (1_u64 << 53) as f64
    }

    /// Puts items in another order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_published_sequence() {
        let mut rng = Rng::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| rng.next()).collect();
        let known = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!(first, known);
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_comes_again() {
        let order = |seed| {
            let mut items: Vec<u32> = (0..20).collect();
            Rng::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(order(3), order(3));
        assert_ne!(order(3), order(4));
        let mut items = order(3);
        items.sort_unstable();
        assert_eq!(items, (0..20).collect::<Vec<u32>>());
    }

    #[test]
    fn chances_come_about_as_often_as_asked() {
        let mut rng = Rng::new(5);
        let hits = (0..100_000).filter(|_| rng.chance(0.01)).count();
        assert!((800..1200).contains(&hits), "{hits}");
        assert!(!rng.chance(0.0));
        assert!(rng.chance(1.0));
    }
}
