//! What has been asked and not yet answered, by token: the promise "answered exactly once" as a table.
//!
//! A claim is entered when an operation is submitted and taken out when it is answered. Taking out what isn't there
//! finds nothing, so an answer that comes twice, or after a cancel has won, falls through. What an entry holds
//! (the descriptor, above all) lives as long as the operation. Invariant: one entry per token.

use super::token::Token;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Operations in flight.
#[derive(Debug)]
pub(super) struct Inflight<T>(HashMap<u64, T, BuildHasherDefault<TokenHasher>>);

impl<T> Inflight<T> {
    pub(super) fn new() -> Inflight<T> {
        Inflight(HashMap::default())
    }

    /// Enters an operation. Two under one token is a bug of the caller: their answers could not be told apart.
    pub(super) fn claim(&mut self, token: Token, entry: T) {
        let before = self.0.insert(token.bits(), entry);
        assert!(before.is_none(), "{token:?} is in flight already");
    }

    /// Takes it out to answer it.
    pub(super) fn release(&mut self, token: Token) -> Option<T> {
        self.0.remove(&token.bits())
    }

    pub(super) fn get(&self, token: Token) -> Option<&T> {
        self.0.get(&token.bits())
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        self.0.get_mut(&token.bits())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Tokens are our own numbers, not a stranger's: one multiplication spreads them well enough.
#[derive(Debug, Default)]
pub(super) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The table takes its buckets from the low bits and its tags from the high ones.
        self.0 = mixed ^ mixed >> 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_answered_once() {
        let mut inflight = Inflight::new();
        let token = Token::new(1, 2, 3);
        inflight.claim(token, "poll");
        assert_eq!(inflight.release(token), Some("poll"));
        assert_eq!(inflight.release(token), None);
        assert_eq!(inflight.len(), 0);
    }

    #[test]
    #[should_panic(expected = "in flight already")]
    fn two_operations_under_one_token_are_a_bug() {
        let mut inflight = Inflight::new();
        inflight.claim(Token::new(1, 2, 3), ());
        inflight.claim(Token::new(1, 2, 3), ());
    }

    #[test]
    fn neighbouring_tokens_spread() {
        let mut buckets = std::collections::HashSet::new();
        for slot in 0..1024 {
            let mut hasher = TokenHasher::default();
            hasher.write_u64(Token::new(3, slot, 1).bits());
            buckets.insert(hasher.finish() & 1023);
        }
        assert!(buckets.len() > 512, "{}", buckets.len());
    }
}
