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
use std::collections::{BTreeMap, VecDeque};

/// The account of how far the indexes are, by name.
pub(super) const WATERMARK: &[u8] = b"indexed";
/// Events of one step.
const STEP: usize = 1_024;
/// Of the latest events so many bytes are at hand.
const RECENT_BYTES: usize = 4 << 20;

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

    fn with(self, other: Times) -> Times {
        Times { first: self.first.min(other.first), last: self.last.max(other.last) }
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
        let mut step =
            Pending { to: self.totals.last, ops: std::mem::take(&mut self.spare), ..Pending::default() };
        let source = self.reader.source.clone();
        if let Some(events) = self.recent.behind(self.indexed_to) {
            let _ = events.take_while(|(seq, bytes)| step.note(*seq, bytes, most)).count();
        } else {
            let view = source.view();
            let mut events = Events::new(&*view, self.indexed_to + 1, self.totals.last, false);
            while let Some(found) = events.next_from(0)? {
                match found {
                    Step::Event(seq, bytes) if !step.note(seq, &bytes, most) => break,
                    Step::Event(..) => {}
                    Step::Hole(..) => step.seen += 1,
                }
            }
        }
        let Pending { mut ops, blocks, to, seen } = step;
        for (block, times) in blocks {
            let both = match self.block {
                Some((known, old)) if known == block => old.with(times),
                _ => match source.view().get(Space::Index, &keys::numbered(Room::Time, block)) {
                    Ok(old) => {
                        old.and_then(|bytes| Times::parse(&bytes)).map_or(times, |old| old.with(times))
                    }
                    // Nobody knows: then it may be any time.
                    Err(_) => Times { first: 0, last: u64::MAX },
                },
            };
            self.block = Some((block, both));
            ops.push(both.put(block));
        }
        ops.push(Op::Put(Space::State, keys::named(Room::Account, WATERMARK), keys::event(to)));
        self.write(ops)?;
        self.indexed_to = to;
        self.recent.forget(to);
        Ok(seen.max(1))
    }
}

/// The latest events, so that what was just written needn't be looked for: their bytes are in memory anyway.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// All there are behind this number.
    after: u64,
    events: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Recent {
    /// Of a log whose last number this is.
    pub(super) fn after(last: u64) -> Recent {
        Recent { after: last, ..Recent::default() }
    }

    /// Takes in one that was written.
    pub(super) fn add(&mut self, seq: u64, record: Bytes) {
        self.bytes += record.len();
        self.events.push_back((seq, record));
        if self.bytes > RECENT_BYTES {
            *self = Recent::after(seq);
        }
    }

    /// All events behind this number, unless some are not here.
    fn behind(&self, seq: u64) -> Option<impl Iterator<Item = &(u64, Bytes)>> {
        (self.after <= seq).then_some(self.events.iter().skip_while(move |event| event.0 <= seq))
    }

    /// Events up to this number are needed no more.
    fn forget(&mut self, to: u64) {
        while self.events.front().is_some_and(|event| event.0 <= to) {
            self.bytes -= self.events.pop_front().map_or(0, |event| event.1.len());
        }
        self.after = self.after.max(to);
    }
}

/// What a step is to write.
#[derive(Default)]
struct Pending {
    ops: Vec<Op>,
    blocks: BTreeMap<u64, Times>,
    /// Events looked at …
    seen: usize,
    /// … and up to where that is all there is.
    to: u64,
}

impl Pending {
    /// Adds what the indexes say of one event. Bytes that are no record are in no order but their own. False when those are
    /// as many as one step takes.
    fn note(&mut self, seq: u64, bytes: &[u8], most: usize) -> bool {
        if let Ok(record) = Record::parse(seq, bytes) {
            self.ops.extend(keys_of(&record).map(|key| Op::Put(Space::Index, key, Bytes::new())));
            let time = Times { first: record.time_ms, last: record.time_ms };
            self.blocks.entry(seq / BLOCK).and_modify(|times| *times = times.with(time)).or_insert(time);
        }
        self.seen += 1;
        if self.seen >= most {
            self.to = seq;
        }
        self.seen < most
    }
}
