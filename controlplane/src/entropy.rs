//! Randomness as an argument: the control plane never asks the system for any, so that one seed gives one
//! history.
//!
//! What must not be guessed (subscription ids, session names) and what must not be foreseen (the key of the hash
//! tables) is drawn from here. The source backed by the operating system is given by the program that starts
//! the kernel.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hasher};

/// A source of random bytes. A source for real use must be fit for secrets and must not fail.
pub trait Entropy: Send {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// A reproducible source (SplitMix64). For simulations only: its output can be foretold.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The source that `seed` names.
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
        }
    }
}

/// 128 random bits.
pub(crate) fn bits(source: &mut dyn Entropy) -> u128 {
    let mut bytes = [0; 16];
    source.fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

/// Hashing under a secret key: keys chosen by clients can't be made to collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed(u64);

impl Keyed {
    /// Draws a key.
    pub(crate) fn new(source: &mut dyn Entropy) -> Keyed {
        let mut bytes = [0; 8];
        source.fill(&mut bytes);
        Keyed(u64::from_le_bytes(bytes))
    }
}

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// A table whose keys clients choose.
pub(crate) type KeyedMap<K, V> = HashMap<K, V, Keyed>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_one_sequence() {
        let draw = |seed| bits(&mut Seeded::new(seed));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_short_piece_is_filled_to_its_end() {
        let mut bytes = [0; 11];
        Seeded::new(3).fill(&mut bytes);
        assert!(bytes[8..].iter().any(|byte| *byte != 0));
    }
}
