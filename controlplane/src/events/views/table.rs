//! The rows of one view: ordered by key, kept as bytes, each told apart by who may hear of what it was made of.
//!
//! A row's key is its text, a zero byte and the audience, so one text has a row per audience and a reader is shown the
//! sum of those it may hear. Rows are kept encoded: a million small ones fit, and what is checkpointed is what is held.
//! Invariants: `sum` is the sum of the digests of all rows, so it depends on the rows and not on how they came to be; a
//! key that is not in `dirty` is stored as it is here, unless `anew` is set.

use crate::digest::xxh64;
use crate::events::record::Audience;
use crate::events::views::Bounds;
use crate::events::views::fold::{Folded, Skip};
use bytes::BytesMut;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::encode::{Dialect, to_buf};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// Longest text of a key, bytes.
pub(super) const KEY_BYTES_MAX: usize = 512;

/// Most rows of which it is remembered for watchers when they changed.
const CHANGES_MAX: usize = 1 << 13;

/// Most rows of one text: a read looks at all of them.
const AUDIENCES_MAX: usize = 256;

/// What a row takes beside its bytes, about: two allocations and its place in the tree.
const ROW_OVERHEAD: usize = 96;

/// A key as it is held and stored.
type RowKey = Arc<[u8]>;

/// The rows.
#[derive(Debug)]
pub(super) struct Table {
    /// Per key the last event's number, big endian, and the state.
    rows: BTreeMap<RowKey, Box<[u8]>>,
    bounds: Bounds,
    /// Rows of what is over, by their last event.
    finished: BTreeSet<(u64, RowKey)>,
    /// How many of them had to go.
    evicted: u64,
    bytes: usize,
    sum: u64,
    /// With whether something is stored under the key.
    dirty: BTreeMap<RowKey, bool>,
    anew: bool,
    /// Rows by their last event, and keys of those that have gone since.
    changes: BTreeSet<(u64, RowKey)>,
    /// Changes of events up to this one are no longer remembered.
    floor: u64,
}

/// What a row is folded into.
pub(super) trait State: Serialize + for<'de> Deserialize<'de> {
    /// Nothing more is to come of it: it may go when there is no room.
    fn is_over(&self) -> bool {
        false
    }
}

/// A row, taken apart.
#[derive(Clone, Copy)]
pub(super) struct Part<'t> {
    /// The text of its key.
    pub text: &'t [u8],
    /// Its audience, encoded.
    pub audience: &'t [u8],
    /// The last event in it.
    pub seq: u64,
    /// What was folded.
    pub state: &'t [u8],
}

impl Part<'_> {
    fn of<'t>(key: &'t [u8], row: &'t [u8]) -> Option<Part<'t>> {
        let (text, audience) = split(key)?;
        let (seq, state) = row.split_first_chunk::<8>()?;
        Some(Part { text, audience, seq: u64::from_be_bytes(*seq), state })
    }

    /// Who may hear of it. What can't be read is told to the fewest.
    pub(super) fn audience(&self) -> Audience {
        from_slice(self.audience).unwrap_or(Audience::Administration(u32::MAX))
    }
}

fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = key.iter().position(|byte| *byte == 0)?;
    Some((&key[..zero], &key[zero + 1..]))
}

fn digest(key: &[u8], row: &[u8]) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&xxh64(key).to_le_bytes());
    both[8..].copy_from_slice(&xxh64(row).to_le_bytes());
    xxh64(&both)
}

impl Table {
    pub(super) fn new(bounds: Bounds) -> Table {
        Table {
            rows: BTreeMap::new(),
            bounds,
            finished: BTreeSet::new(),
            evicted: 0,
            bytes: 0,
            sum: 0,
            dirty: BTreeMap::new(),
            anew: true,
            changes: BTreeSet::new(),
            floor: 0,
        }
    }

    /// How many rows have gone for want of room since the last time.
    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    /// Folds into the row of `text` and `audience`. Without one, `fresh` makes its first state or, with `None`, nothing
    /// happens. A row that would be new past the bounds isn't made; one that is there goes on, until all together take
    /// all they may.
    pub(super) fn update<S: State>(
        &mut self,
        seq: u64,
        (text, audience): (&str, &Audience),
        fresh: impl FnOnce() -> Option<S>,
        fold: impl FnOnce(&mut S) -> Result<(), Skip>,
    ) -> Result<Folded, Skip> {
        let key = key_of(text, audience)?;
        let found = self.rows.get_key_value(&key[..]);
        let mut state: S = match found {
            Some((_, row)) => from_slice(row.get(8..).unwrap_or_default())
                .map_err(|_| Skip::new("its row can't be read"))?,
            None => match fresh() {
                Some(state) => state,
                None => return Ok(Folded::No),
            },
        };
        fold(&mut state)?;
        let mut row = BytesMut::with_capacity(128);
        row.extend_from_slice(&seq.to_be_bytes());
        to_buf(&mut row, Dialect::Int64, &state).map_err(|_| Skip::new("its row can't be written"))?;
        let before = found.map(|(key, row)| (size(key, row), last_event(row)));
        let key: RowKey = found.map_or_else(|| key[..].into(), |(key, _)| Arc::clone(key));
        if before.is_none() && self.parts_of(text.as_bytes()).count() >= AUDIENCES_MAX {
            return Ok(Folded::Overflowed);
        }
        let was_over = before.is_some_and(|(_, last)| self.finished.remove(&(last, Arc::clone(&key))));
        let more = size(&key, &row);
        let before_bytes = before.map_or(0, |(bytes, _)| bytes);
        while self.is_full(before.is_none(), before_bytes, more, self.bounds.bytes / 2) && self.evict(seq) {}
        let most = if before.is_none() { self.bounds.bytes / 2 } else { self.bounds.bytes };
        if self.is_full(before.is_none(), before_bytes, more, most) {
            self.finished.extend(before.filter(|_| was_over).map(|(_, last)| (last, key)));
            return Ok(Folded::Overflowed);
        }
        if state.is_over() && self.bounds.finished < usize::MAX {
            self.finished.insert((seq, Arc::clone(&key)));
        }
        self.put(seq, key, row[..].into());
        while self.finished.len() > self.bounds.finished && self.evict(seq) {}
        Ok(Folded::Yes)
    }

    fn is_full(&self, is_new: bool, less: usize, more: usize, most: usize) -> bool {
        (is_new && self.rows.len() >= self.bounds.keys) || self.bytes - less + more > most
    }

    /// Takes away the oldest row of what is over. False if there is none.
    fn evict(&mut self, seq: u64) -> bool {
        let Some((_, key)) = self.finished.pop_first() else { return false };
        self.evicted += 1;
        self.take_out(seq, &key);
        true
    }

    fn put(&mut self, seq: u64, key: RowKey, row: Box<[u8]>) {
        self.sum = self.sum.wrapping_add(digest(&key, &row));
        self.bytes += size(&key, &row);
        let old = self.rows.insert(Arc::clone(&key), row);
        if let Some(old) = &old {
            self.sum = self.sum.wrapping_sub(digest(&key, old));
            self.bytes -= size(&key, old);
            self.changes.remove(&(last_event(old), Arc::clone(&key)));
        }
        self.changed(seq, key, old.is_some());
    }

    fn take_out(&mut self, seq: u64, key: &RowKey) {
        let Some(old) = self.rows.remove(key) else { return };
        self.sum = self.sum.wrapping_sub(digest(key, &old));
        self.bytes -= size(key, &old);
        let told = (last_event(&old), Arc::clone(key));
        self.finished.remove(&told);
        self.changes.remove(&told);
        self.changed(seq, Arc::clone(key), true);
    }

    /// Takes away the rows of `text` that nobody may hear of but who may hear of `audience`. True if there was one.
    pub(super) fn remove(&mut self, seq: u64, text: &str, audience: &Audience) -> bool {
        let exactly = [text.as_bytes(), &[0]].concat();
        let rows = self.from(&exactly).take_while(|(key, _)| key.starts_with(&exactly));
        let within = |key: &RowKey| {
            *audience == Audience::All
                || from_slice::<Audience>(&key[exactly.len()..]).is_ok_and(|of| of == *audience)
        };
        let gone: Vec<RowKey> = rows.filter(|(key, _)| within(key)).map(|(key, _)| Arc::clone(key)).collect();
        for key in &gone {
            self.take_out(seq, key);
        }
        !gone.is_empty()
    }

    fn changed(&mut self, seq: u64, key: RowKey, existed: bool) {
        if !self.anew {
            let stored = *self.dirty.entry(Arc::clone(&key)).or_insert(existed);
            if !stored && !self.rows.contains_key(&key) {
                self.dirty.remove(&key);
            }
        }
        self.changes.insert((seq, key));
        if self.changes.len() > CHANGES_MAX
            && let Some((seq, _)) = self.changes.pop_first()
        {
            self.floor = seq;
        }
    }

    fn from<'t>(&'t self, key: &[u8]) -> impl Iterator<Item = (&'t RowKey, &'t [u8])> + use<'t> {
        self.rows.range::<[u8], _>((Bound::Included(key), Bound::Unbounded)).map(|(key, row)| (key, &**row))
    }

    /// The rows from this key on.
    pub(super) fn parts<'t>(&'t self, key: &[u8]) -> impl Iterator<Item = Part<'t>> + use<'t> {
        self.from(key).filter_map(|(key, row)| Part::of(key, row))
    }

    /// The rows with this text.
    pub(super) fn parts_of<'t>(&'t self, text: &'t [u8]) -> impl Iterator<Item = Part<'t>> + use<'t> {
        self.parts(&[text, &[0]].concat()).take_while(move |part| part.text == text)
    }

    /// Text, audience and event of the last change of each row after the event `since`, oldest first; `None` if they are
    /// no longer remembered.
    pub(super) fn changes_since(&self, since: u64) -> Option<impl Iterator<Item = (u64, &[u8], &[u8])>> {
        let begin: (u64, RowKey) = (since.saturating_add(1), Arc::default());
        (since >= self.floor).then(|| {
            let changes = self.changes.range(begin..);
            changes.filter_map(|(seq, key)| split(key).map(|(text, audience)| (*seq, text, audience)))
        })
    }

    /// What a checkpoint has to write: everything, or keys with what has become of them.
    pub(super) fn unstored(&self) -> (bool, impl Iterator<Item = (&[u8], Option<&[u8]>)>) {
        let all = self.anew.then(|| self.rows.iter().map(|(key, row)| (&**key, Some(&**row))));
        let dirty = self.dirty.keys().map(|key| (&**key, self.rows.get(key).map(|row| &**row)));
        (self.anew, all.into_iter().flatten().chain(dirty))
    }

    /// What [`unstored`](Table::unstored) gave is stored.
    pub(super) fn stored(&mut self) {
        self.anew = false;
        self.dirty.clear();
    }

    /// What is stored can't be relied on: the next checkpoint writes everything.
    pub(super) fn store_anew(&mut self) {
        self.anew = true;
        self.dirty.clear();
    }

    /// Takes a row as it was stored.
    pub(super) fn restore(&mut self, key: &[u8], row: &[u8]) {
        self.sum = self.sum.wrapping_add(digest(key, row));
        self.bytes += size(key, row);
        self.rows.insert(key.into(), row.into());
    }

    /// All rows are as they were stored at `seq`; `is_over` tells of a state what [`State::is_over`] did.
    pub(super) fn restored(&mut self, seq: u64, is_over: impl Fn(&[u8]) -> bool) {
        self.stored();
        self.floor = seq;
        if self.bounds.finished < usize::MAX {
            let over = self.rows.iter().filter(|(_, row)| is_over(row.get(8..).unwrap_or_default()));
            self.finished = over.map(|(key, row)| (last_event(row), Arc::clone(key))).collect();
        }
    }
}

/// The number a row begins with.
fn last_event(row: &[u8]) -> u64 {
    row.first_chunk().map_or(0, |seq| u64::from_be_bytes(*seq))
}

fn size(key: &[u8], row: &[u8]) -> usize {
    key.len() + row.len() + ROW_OVERHEAD
}

fn key_of(text: &str, audience: &Audience) -> Result<BytesMut, Skip> {
    if text.len() > KEY_BYTES_MAX {
        return Err(Skip::new("its key is too long"));
    }
    if text.contains('\0') {
        return Err(Skip::new("its key has a NUL"));
    }
    let mut key = BytesMut::with_capacity(text.len() + 32);
    key.extend_from_slice(text.as_bytes());
    key.extend_from_slice(&[0]);
    to_buf(&mut key, Dialect::Int64, audience).map_err(|_| Skip::new("its audience can't be written"))?;
    Ok(key)
}
