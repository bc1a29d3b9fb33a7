//! Who has how much of the daemon's share of the disk, and who gives some of it back first.
//!
//! Invariant: `all_bytes` is the sum over all spools. The largest gives first, and of that the oldest segment; so a
//! stream that floods pays for its flood, and a small one that is read once a day keeps what it has.

use std::collections::HashMap;
use std::hash::Hash;

/// Bytes by spool.
#[derive(Debug)]
pub struct Ledger<K> {
    bytes_max: u64,
    all_bytes: u64,
    spools: HashMap<K, u64>,
}

impl<K: Clone + Eq + Hash + Ord> Ledger<K> {
    /// Of all spools together.
    pub fn new(bytes_max: u64) -> Ledger<K> {
        Ledger { bytes_max, all_bytes: 0, spools: HashMap::new() }
    }

    /// Notes how much a spool has now.
    pub fn note(&mut self, spool: &K, bytes: u64) {
        let before = match self.spools.get_mut(spool) {
            Some(noted) => std::mem::replace(noted, bytes),
            None => self.spools.insert(spool.clone(), bytes).unwrap_or(0),
        };
        self.all_bytes = self.all_bytes - before + bytes;
    }

    /// A spool is gone.
    pub fn forget(&mut self, spool: &K) {
        self.all_bytes -= self.spools.remove(spool).unwrap_or(0);
    }

    /// Of all together.
    pub fn all_bytes(&self) -> u64 {
        self.all_bytes
    }

    /// Who has to give something back now.
    pub fn debtor(&self) -> Option<K> {
        if self.all_bytes <= self.bytes_max {
            return None;
        }
        // Equal ones in a fixed order, so that one history is one outcome.
        self.spools.iter().max_by_key(|(spool, bytes)| (**bytes, *spool)).map(|(spool, _)| spool.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_pays_until_all_is_within_the_quota() {
        let mut ledger = Ledger::new(100);
        ledger.note(&"small", 30);
        assert_eq!(ledger.debtor(), None);
        ledger.note(&"large", 90);
        assert_eq!(ledger.debtor(), Some("large"));
        ledger.note(&"large", 70);
        assert_eq!((ledger.debtor(), ledger.all_bytes()), (None, 100));
        ledger.note(&"small", 80);
        assert_eq!(ledger.debtor(), Some("small"));
        ledger.forget(&"large");
        assert_eq!((ledger.debtor(), ledger.all_bytes()), (None, 80));
    }
}
