//! The orders that lag: by correlation, intent, source and time.
//!
//! They are folded from the log in steps, each one batch with how far it came, so that a crash repeats a step and never
//! skips one. Invariant: up to the watermark every index is complete; behind it readers look at the events themselves.

use super::backend::{Op, Space};
use super::keys::{self, BLOCK, Room};
use super::scan::walk::{Events, Step};
use super::{Log, LogError};
use crate::events::record::Record;
use bytes::Bytes;
use std::collections::BTreeMap;

/// The account of how far the indexes are, by name.
pub(super) const WATERMARK: &[u8] = b"indexed";
/// Events of one step.
const STEP: usize = 1_024;

/// How far the indexes are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexLag {
    /// They are complete up to this sequence number.
    pub indexed_to: u64,
    /// Sequence numbers that are missing in them.
    pub lag: u64,
}

/// Lowest and highest time of a block of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Times {
    pub(super) fn parse(bytes: &[u8]) -> Option<Times> {
        let [first, last] = keys::numbers(bytes)?;
        Some(Times { first, last })
    }

    fn put(self, block: u64) -> Op {
        let value = [self.first, self.last].map(u64::to_be_bytes).concat();
        Op::Put(Space::Index, keys::numbered(Room::Time, block), value.into())
    }
}

/// Every key in the lagging indexes that one event has.
pub(super) fn keys_of(record: &Record<'_>) -> impl Iterator<Item = Bytes> {
    let under = |room: Room, text: Option<&str>| text.map(|text| keys::indexed(room, text, record.seq));
    [
        under(Room::Correlation, record.correlation.as_deref()),
        under(Room::Intent, record.intent.as_deref()),
        under(Room::Source, Some(&record.source)),
    ]
    .into_iter()
    .flatten()
}

impl Log {
    /// Moves the indexes on by at most `budget_events` events.
    pub fn index(&mut self, budget_events: usize) -> Result<IndexLag, LogError> {
        let mut left = budget_events;
        while left > 0 && self.indexed_to < self.totals.last {
            left -= self.index_step(left.min(STEP))?;
        }
        Ok(IndexLag { indexed_to: self.indexed_to, lag: self.totals.last - self.indexed_to })
    }

    /// Begins all indexes again: they are not to be believed.
    pub(super) fn index_anew(&mut self) -> Result<(), LogError> {
        self.indexed_to = 0;
        self.write(vec![Op::Delete(Space::State, keys::named(Room::Account, WATERMARK))])
    }

    /// One batch. Returns how many events it looked at, at least 1.
    fn index_step(&mut self, most: usize) -> Result<usize, LogError> {
        let mut ops = Vec::new();
        let mut blocks: BTreeMap<u64, Times> = BTreeMap::new();
        let mut to = self.totals.last;
        let mut seen = 0;
        let source = self.reader.source.clone();
        {
            let view = source.view();
            let mut events = Events::new(&*view, self.indexed_to + 1, self.totals.last, false);
            while let Some(step) = events.next_from(0)? {
                seen += 1;
                if let Step::Event(seq, bytes) = step {
                    note(seq, &bytes, &mut ops, &mut blocks);
                    if seen >= most {
                        to = seq;
                        break;
                    }
                }
            }
            for (block, times) in blocks {
                let old = match view.get(Space::Index, &keys::numbered(Room::Time, block)) {
                    Ok(old) => old.and_then(|bytes| Times::parse(&bytes)).unwrap_or(times),
                    // Nobody knows: then it may be any time.
                    Err(_) => Times { first: 0, last: u64::MAX },
                };
                let both = Times { first: old.first.min(times.first), last: old.last.max(times.last) };
                ops.push(both.put(block));
            }
        }
        ops.push(Op::Put(Space::State, keys::named(Room::Account, WATERMARK), keys::event(to)));
        self.write(ops)?;
        self.indexed_to = to;
        Ok(seen.max(1))
    }
}

/// What the indexes say of one event. Bytes that are no record are in no order but their own.
fn note(seq: u64, bytes: &[u8], ops: &mut Vec<Op>, blocks: &mut BTreeMap<u64, Times>) {
    let Ok(record) = Record::parse(seq, bytes) else { return };
    ops.extend(keys_of(&record).map(|key| Op::Put(Space::Index, key, Bytes::new())));
    let time = record.time_ms;
    let times = blocks.entry(seq / BLOCK).or_insert(Times { first: time, last: time });
    times.first = times.first.min(time);
    times.last = times.last.max(time);
}
