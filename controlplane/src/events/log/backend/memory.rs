//! The log in memory: for a kernel that ends with its command, and under simulations.
//!
//! A view holds a read lock, so that what it shows doesn't move; a page is short, and so is the wait of the writer.

use super::{Backend, Fault, Op, Rows, Source, Space, View};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

type Maps = [BTreeMap<Bytes, Bytes>; Space::ALL.len()];

/// The maps, shared with their readers.
#[derive(Clone, Default)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    maps: RwLock<Held>,
}

#[derive(Default)]
struct Held {
    maps: Maps,
    bytes: u64,
}

impl Held {
    fn apply(&mut self, op: Op) {
        let cost = |key: &Bytes, value: &Bytes| (key.len() + value.len()) as u64;
        match op {
            Op::Put(space, key, value) => {
                self.bytes += cost(&key, &value);
                if let Some(old) = self.maps[space as usize].insert(key.clone(), value) {
                    self.bytes -= cost(&key, &old);
                }
            }
            Op::Delete(space, key) => {
                if let Some(old) = self.maps[space as usize].remove(&key) {
                    self.bytes -= cost(&key, &old);
                }
            }
        }
    }
}

impl Backend for Memory {
    fn write(&mut self, batch: &mut Vec<Op>) -> Result<(), Fault> {
        let mut held = self.shared.maps.write().unwrap_or_else(PoisonError::into_inner);
        for op in batch.drain(..) {
            held.apply(op);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn source(&self) -> Arc<dyn Source> {
        self.shared.clone()
    }
}

impl Source for Shared {
    fn view(&self) -> Box<dyn View + '_> {
        Box::new(Moment { held: self.maps.read().unwrap_or_else(PoisonError::into_inner) })
    }

    fn bytes(&self) -> u64 {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).bytes
    }

    fn space_bytes(&self, space: Space) -> u64 {
        let held = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        held.maps[space as usize].iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

struct Moment<'a> {
    held: RwLockReadGuard<'a, Held>,
}

impl View for Moment<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.held.maps[space as usize].get(key).cloned())
    }

    fn rows(&self, space: Space, from: &[u8], to: &[u8], backward: bool) -> Rows<'_> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let rows = self.held.maps[space as usize].range::<[u8], _>(range);
        let row = |(key, value): (&Bytes, &Bytes)| Ok((key.clone(), value.clone()));
        if backward { Box::new(rows.rev().map(row)) } else { Box::new(rows.map(row)) }
    }
}
