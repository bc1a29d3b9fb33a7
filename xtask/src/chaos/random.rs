//! Numbers from a seed, the same on every machine.
//!
//! SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): one word of state, and
//! every seed is a good one. Everything a round decides before it starts comes from here.

use std::ops::RangeInclusive;

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A row of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The row of this seed.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next of the row.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
    }

    /// One of the range, both ends included.
    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let span = range.end() - range.start() + 1;
        range.start() + self.next() % span
    }

    /// One of the range, the small as likely as the large: as many between 1 and 10 as between 10 and 100.
    pub(crate) fn of_any_size(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = ((*range.start()).max(1), *range.end());
        let bits = self.within(u64::from(low.ilog2())..=u64::from(high.ilog2()));
        self.within(1 << bits..=(2 << bits) - 1).clamp(*range.start(), high)
    }

    /// True in `parts` of `of` cases.
    pub(crate) fn chance(&mut self, parts: u64, of: u64) -> bool {
        self.next() % of < parts
    }

    /// One of them.
    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[(self.next() % all.len() as u64) as usize]
    }
}

/// The seed of a round: the first round's is the run's own, so that one round can be had alone.
pub(crate) fn round_seed(seed: u64, round: u64) -> u64 {
    if round == 0 { seed } else { mixed(seed.wrapping_add(round.wrapping_mul(STEP))) }
}

fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_row_and_another_seed_another() {
        let row = |seed| {
            let mut random = Random::new(seed);
            [
                random.next(),
                random.within(5..=9),
                random.of_any_size(3..=70_000),
                u64::from(random.chance(1, 2)),
            ]
        };
        assert_eq!(row(7), row(7));
        assert_ne!(row(7), row(8));
        assert_eq!(round_seed(7, 0), 7);
        assert_ne!(round_seed(7, 1), round_seed(7, 2));
    }

    #[test]
    fn numbers_stay_in_their_ranges() {
        let mut random = Random::new(1);
        for _ in 0..10_000 {
            assert!((5..=9).contains(&random.within(5..=9)));
            assert!((3..=70_000).contains(&random.of_any_size(3..=70_000)));
        }
    }
}
