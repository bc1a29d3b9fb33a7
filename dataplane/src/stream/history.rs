//! What a stream still has of its past, by offset.
//!
//! Invariant: `[0, min(total, head))` and `[tail_from, total)` are here, what lies between is counted as cut. A
//! history costs nothing before its first byte, a ring while its stream lives, and exactly its bytes afterwards.

use crate::command::HistorySize;
use crate::limits::TAKE_BYTES_MAX;
use bytes::Bytes;
use kairo_shm::layout::{Geometry, RingError};
use kairo_shm::writer::Writer;

/// The retained bytes of one stream.
#[derive(Debug)]
pub struct History {
    size: HistorySize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    /// No byte yet.
    Empty,
    /// The stream lives.
    Ring(Writer),
    /// The stream has ended; no descriptor, no mapping.
    Kept { head: Bytes, tail: Bytes, total: u64 },
}

/// What is at an offset.
#[derive(Debug, PartialEq, Eq)]
pub enum Peek<'a> {
    /// A contiguous run, never empty.
    Bytes(&'a [u8]),
    /// Nothing up to this offset: it was cut.
    Gap(u64),
    /// Nothing yet.
    Nothing,
}

impl History {
    /// Of a stream that has no byte yet.
    pub fn new(size: HistorySize) -> History {
        History { size, store: Store::Empty }
    }

    /// Of a stream that goes on where a dead kernel had come to.
    pub fn inherited(size: HistorySize, ring: Option<Writer>) -> History {
        History { size, store: ring.map_or(Store::Empty, Store::Ring) }
    }

    /// Of a stream that has ended and of which only the length is known.
    pub fn gone(size: HistorySize, total: u64) -> History {
        History { size, store: Store::Kept { head: Bytes::new(), tail: Bytes::new(), total } }
    }

    /// What has ended and of which nothing is kept was longer than we were told.
    pub fn was_longer(&mut self, length: u64) {
        if let Store::Kept { head, tail, total } = &mut self.store
            && head.is_empty()
            && tail.is_empty()
        {
            *total = length.max(*total);
        }
    }

    /// Notes for a successor who is waited for; see [`Writer::pin`].
    pub fn pin(&self, offset: u64, blockers: u32) {
        if let Store::Ring(ring) = &self.store {
            ring.pin(offset, blockers);
        }
    }

    /// The ring a stream of this size begins with.
    pub fn first_ring(size: HistorySize) -> Result<Writer, RingError> {
        Writer::create(geometry(size, 0))
    }

    /// Bytes of the stream so far.
    pub fn total(&self) -> u64 {
        match &self.store {
            Store::Empty => 0,
            Store::Ring(ring) => ring.taken(),
            Store::Kept { total, .. } => *total,
        }
    }

    fn head_bytes(&self) -> u64 {
        match &self.store {
            Store::Empty => Geometry::new(self.size.head_bytes as usize, 0).head_bytes as u64,
            Store::Ring(ring) => ring.geometry().head_bytes as u64,
            Store::Kept { head, .. } => head.len() as u64,
        }
    }

    /// First offset behind the head that is here.
    pub fn tail_from(&self) -> u64 {
        match &self.store {
            Store::Empty => 0,
            Store::Ring(ring) => ring.tail_from(),
            Store::Kept { tail, total, .. } => total - tail.len() as u64,
        }
    }

    /// Bytes that are gone from between head and tail.
    pub fn cut_bytes(&self) -> u64 {
        let head = self.head_bytes().min(self.total());
        self.tail_from().min(self.total()).saturating_sub(head)
    }

    /// What is at `offset`, at most `max` bytes of it.
    pub fn peek(&self, offset: u64, max: usize) -> Peek<'_> {
        if offset >= self.total() || max == 0 {
            return Peek::Nothing;
        }
        let run = match &self.store {
            Store::Empty => None,
            Store::Ring(ring) => ring.run(offset, max),
            Store::Kept { head, tail, total } => {
                let tail_from = total - tail.len() as u64;
                let run = if offset < head.len() as u64 {
                    &head[offset as usize..]
                } else if offset >= tail_from {
                    &tail[(offset - tail_from) as usize..]
                } else {
                    &[]
                };
                (!run.is_empty()).then(|| &run[..run.len().min(max)])
            }
        };
        match run {
            Some(run) => Peek::Bytes(run),
            None => Peek::Gap(self.tail_from()),
        }
    }

    /// As [`History::peek`], but a run that ends where the head does is joined with what follows it, in `scratch`:
    /// for readers that look for line ends.
    pub fn peek_joined<'a>(&'a self, offset: u64, max: usize, scratch: &'a mut Vec<u8>) -> Peek<'a> {
        let first = match self.peek(offset, max) {
            Peek::Bytes(first) if first.len() < max => first,
            other => return other,
        };
        let Peek::Bytes(second) = self.peek(offset + first.len() as u64, max - first.len()) else {
            return Peek::Bytes(first);
        };
        scratch.clear();
        scratch.extend_from_slice(first);
        scratch.extend_from_slice(second);
        Peek::Bytes(scratch)
    }

    /// How many bytes may be taken now, contiguously, if `pinned` is the lowest offset a waiting reader still
    /// needs. 0 means: wait for that reader.
    pub fn room_bytes(&self, pinned: Option<u64>) -> usize {
        let (geometry, taken) = match &self.store {
            Store::Empty => (self.geometry(0), 0),
            Store::Ring(ring) => (ring.geometry(), ring.taken()),
            Store::Kept { .. } => return 0,
        };
        let head = geometry.head_bytes as u64;
        if taken < head {
            return ((head - taken) as usize).min(TAKE_BYTES_MAX);
        }
        let pinned_bytes = taken - pinned.unwrap_or(taken).clamp(head, taken);
        let free = geometry.tail_bytes - (pinned_bytes as usize).min(geometry.tail_bytes);
        free.min(TAKE_BYTES_MAX)
    }

    fn geometry(&self, tail_bytes: usize) -> Geometry {
        geometry(self.size, tail_bytes)
    }

    /// The ring to take bytes into. True with it if it is new and its descriptor must be handed to the keeper.
    pub fn ring(&mut self) -> Result<(&mut Writer, bool), RingError> {
        let mut new = false;
        if matches!(self.store, Store::Empty) {
            self.store = Store::Ring(History::first_ring(self.size)?);
            new = true;
        }
        match &mut self.store {
            Store::Ring(ring) => Ok((ring, new)),
            Store::Empty | Store::Kept { .. } => Err(RingError::Foreign("the stream has ended")),
        }
    }

    /// Makes the tail at least `tail_bytes` large. True if there is a new ring.
    pub fn raise_tail(&mut self, tail_bytes: u32) -> Result<bool, RingError> {
        if tail_bytes <= self.size.tail_bytes {
            return Ok(false);
        }
        self.size.tail_bytes = tail_bytes;
        self.resize(tail_bytes as usize)
    }

    /// Makes room for `bytes` more without losing anything from `pinned` on. True if there is a new ring.
    pub fn make_room(&mut self, bytes: usize, pinned: Option<u64>) -> Result<bool, RingError> {
        let total = self.total();
        let pinned_bytes = total - pinned.unwrap_or(total).clamp(self.head_bytes().min(total), total);
        self.resize(pinned_bytes as usize + bytes)
    }

    fn resize(&mut self, tail_bytes: usize) -> Result<bool, RingError> {
        let geometry = self.geometry(tail_bytes);
        match &mut self.store {
            Store::Ring(ring) if ring.geometry().tail_bytes < geometry.tail_bytes => {
                *ring = ring.resized(geometry)?;
                Ok(true)
            }
            Store::Ring(_) | Store::Empty | Store::Kept { .. } => Ok(false),
        }
    }

    /// Turns the ring into plain memory: head and tail as configured, nothing else. For ended streams whose
    /// readers have all they wanted.
    pub fn retire(&mut self) {
        let kept = match &self.store {
            Store::Kept { .. } => return,
            Store::Empty => (Bytes::new(), Bytes::new(), 0),
            Store::Ring(ring) => {
                let total = ring.taken();
                let head_end = total.min(ring.geometry().head_bytes as u64);
                let tail_from = ring.tail_from().max(total.saturating_sub(self.size.tail_bytes as u64));
                let tail_from = tail_from.clamp(head_end, total);
                (copy(ring, 0, head_end), copy(ring, tail_from, total), total)
            }
        };
        self.store = Store::Kept { head: kept.0, tail: kept.1, total: kept.2 };
    }

    /// Bytes of memory an ended stream still holds.
    pub fn retained_bytes(&self) -> usize {
        match &self.store {
            Store::Kept { head, tail, .. } => head.len() + tail.len(),
            Store::Empty | Store::Ring(_) => 0,
        }
    }

    /// Drops the retained bytes of an ended stream; its total stays known.
    pub fn drop_retained(&mut self) {
        if let Store::Kept { head, tail, .. } = &mut self.store {
            *head = Bytes::new();
            *tail = Bytes::new();
        }
    }
}

/// Of a ring whose tail holds at least `tail_bytes`, and one batch.
fn geometry(size: HistorySize, tail_bytes: usize) -> Geometry {
    let tail_bytes = tail_bytes.max(size.tail_bytes as usize);
    Geometry::new(size.head_bytes as usize, tail_bytes + TAKE_BYTES_MAX)
}

fn copy(ring: &Writer, from: u64, to: u64) -> Bytes {
    let mut bytes = Vec::with_capacity((to - from) as usize);
    let mut at = from;
    while let Some(run) = ring.run(at, (to - at) as usize) {
        bytes.extend_from_slice(run);
        at += run.len() as u64;
    }
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(history: &mut History, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let (ring, _) = history.ring().unwrap();
            let room = ring.room(left.len());
            let n = room.len();
            room.copy_from_slice(&left[..n]);
            ring.commit(n);
            left = &left[n..];
        }
    }

    fn all(history: &History) -> (Vec<u8>, Vec<(u64, u64)>) {
        let (mut bytes, mut gaps, mut at) = (Vec::new(), Vec::new(), 0);
        loop {
            match history.peek(at, 1 << 20) {
                Peek::Bytes(run) => {
                    bytes.extend_from_slice(run);
                    at += run.len() as u64;
                }
                Peek::Gap(to) => {
                    gaps.push((at, to));
                    at = to;
                }
                Peek::Nothing => return (bytes, gaps),
            }
        }
    }

    const SIZE: HistorySize = HistorySize { head_bytes: 4096, tail_bytes: 8192 };

    #[test]
    fn retiring_keeps_head_and_tail_exactly_and_counts_the_middle() {
        let mut history = History::new(SIZE);
        let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        put(&mut history, &bytes);
        history.retire();
        assert_eq!(history.total(), 1_000_000);
        assert_eq!(history.cut_bytes(), 1_000_000 - 4096 - 8192);
        let (kept, gaps) = all(&history);
        assert_eq!(gaps, [(4096, 1_000_000 - 8192)]);
        assert_eq!(kept[..4096], bytes[..4096]);
        assert_eq!(kept[4096..], bytes[1_000_000 - 8192..]);
        history.drop_retained();
        assert_eq!(all(&history), (vec![], vec![(0, 1_000_000)]));
    }

    #[test]
    fn a_stream_that_ends_inside_its_head_is_kept_whole() {
        let mut history = History::new(SIZE);
        put(&mut history, b"6");
        history.retire();
        assert_eq!(all(&history), (b"6".to_vec(), vec![]));
    }

    #[test]
    fn a_short_stream_is_kept_whole() {
        let mut history = History::new(SIZE);
        put(&mut history, &[7; 5000]);
        history.retire();
        assert_eq!(all(&history), (vec![7; 5000], vec![]));
        assert_eq!((history.cut_bytes(), history.retained_bytes()), (0, 5000));
    }

    #[test]
    fn a_pinned_byte_is_never_given_as_room() {
        let mut history = History::new(SIZE);
        put(&mut history, &[1; 4096]);
        let tail = history.geometry(0).tail_bytes;
        assert_eq!(history.room_bytes(Some(0)), TAKE_BYTES_MAX, "the head needs no room in the circle");
        put(&mut history, &vec![2; tail]);
        assert_eq!(history.room_bytes(Some(4096)), 0);
        assert_eq!(history.room_bytes(Some(4196)), 100);
        assert_eq!(history.room_bytes(None), TAKE_BYTES_MAX);
        assert!(history.make_room(1000, Some(4096)).unwrap());
        assert!(history.room_bytes(Some(4096)) >= 1000);
        assert_eq!(history.peek(4096, 1), Peek::Bytes(&[2]));
    }

    #[test]
    fn a_line_across_the_end_of_the_head_is_seen_whole() {
        let mut history = History::new(SIZE);
        put(&mut history, &[b'x'; 5000]);
        let mut scratch = Vec::new();
        assert_eq!(history.peek(4000, 500), Peek::Bytes(&[b'x'; 96]));
        assert_eq!(history.peek_joined(4000, 500, &mut scratch), Peek::Bytes(&[b'x'; 500]));
    }
}
