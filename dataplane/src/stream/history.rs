//! What a stream still has of its past, by offset.
//!
//! Invariant: `[0, min(total, head))` and `[tail_from, total)` are here, what lies between is counted as cut. A
//! history costs nothing before its first byte, a ring while its stream lives, and exactly its bytes afterwards.

use crate::budget::{Charge, ChargeKind};
use crate::command::HistorySize;
use crate::limits::{SQUEEZED_BATCH_BYTES, TAKE_BYTES_MAX};
use bytes::Bytes;
use kairo_shm::layout::{End, Geometry, PAGE_BYTES, RingError};
use kairo_shm::producer::Lent;
use kairo_shm::writer::Writer;
use std::cell::Cell;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The retained bytes of one stream.
#[derive(Debug)]
pub struct History {
    size: HistorySize,
    /// What a ring holds besides its tail: one batch in flight.
    batch_bytes: usize,
    store: Store,
    /// The last note for a successor while there is no ring to write it in.
    pin: Cell<(u64, u32)>,
}

#[derive(Debug)]
enum Store {
    /// No byte yet.
    Empty,
    /// The stream lives.
    Ring(Writer),
    /// The stream lives, and a client writes it there.
    Lent(Lent),
    /// The stream has ended; no descriptor, no mapping.
    Kept { head: Bytes, tail: Bytes, total: u64 },
    /// Nothing is kept. Of all that went by, `unread` went to nobody. The account is a ring nothing is written to: its
    /// header says for a successor how much went by, and whether more may have. `doubt`: what a dead kernel may have let by after that.
    Passing { total: u64, unread: u64, account: Option<Writer>, doubt: Doubt },
}

/// Bytes that went by uncounted, at most. True to them only until one is counted.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    bytes: usize,
    /// They went to one reader and to nobody else.
    alone: bool,
}

impl Store {
    fn passing(total: u64, account: Option<Writer>, doubt: Doubt) -> Store {
        Store::Passing { total, unread: 0, account, doubt }
    }
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
        let store = if size.is_none() { Store::passing(0, None, Doubt::default()) } else { Store::Empty };
        History { size, batch_bytes: TAKE_BYTES_MAX, store, pin: Cell::new((0, 0)) }
    }

    /// True exactly where nothing is kept: the stream is relayed.
    pub fn is_passing(&self) -> bool {
        matches!(self.store, Store::Passing { .. })
    }

    /// True exactly while what is kept is in a ring, out of which a next kernel has it too.
    pub fn is_in_ring(&self) -> bool {
        matches!(self.store, Store::Ring(_) | Store::Lent(_))
    }

    /// So many bytes more went by, to somebody or to nobody.
    pub fn pass(&mut self, bytes: usize, was_read: bool) {
        debug_assert!(self.is_passing(), "bytes of a kept stream are taken");
        if let Store::Passing { total, unread, account, doubt } = &mut self.store {
            *doubt = Doubt::default();
            *total += bytes as u64;
            *unread += if was_read { 0 } else { bytes as u64 };
            if let Some(account) = account {
                account.commit(bytes);
                account.expect_to_pass(0, false);
            }
        }
    }

    /// Notes for a successor that at most so many bytes are about to go by, 0 when that is over, and whether to one reader alone.
    pub fn expect_to_pass(&self, bytes: usize, alone: bool) {
        if let Store::Passing { account: Some(account), doubt, .. } = &self.store {
            // What is in doubt stays so until something is counted.
            let alone = if bytes == 0 { doubt.alone } else { alone && (doubt.bytes == 0 || doubt.alone) };
            account.expect_to_pass(doubt.bytes + bytes, alone);
        }
    }

    /// How many bytes more than were counted a reader has that had the stream alone and stands at `offset`.
    pub fn uncounted(&self, offset: u64) -> usize {
        match &self.store {
            Store::Passing { total, doubt, .. } if doubt.alone => {
                let more = offset.saturating_sub(*total);
                if more <= doubt.bytes as u64 { more as usize } else { 0 }
            }
            _ => 0,
        }
    }

    /// True exactly when a successor can know how much went by.
    pub fn has_account(&self) -> bool {
        matches!(self.store, Store::Passing { account: Some(_), .. })
    }

    /// The account of a stream that keeps nothing, to be handed to the keeper before a byte goes by.
    pub fn account(&mut self) -> Result<&Writer, RingError> {
        match &mut self.store {
            Store::Passing { account: Some(account), .. } => Ok(account),
            Store::Passing { account, total: 0, .. } => {
                let ring = History::first_ring(HistorySize::NONE)?;
                Ok(account.insert(ring))
            }
            _ => Err(RingError::Foreign("the stream keeps something, or has begun")),
        }
    }

    /// Of a stream that goes on where a dead kernel had come to.
    pub fn inherited(size: HistorySize, ring: Option<Writer>) -> History {
        let store = match ring {
            Some(ring) if size.is_none() => {
                let (bytes, alone) = ring.uncounted();
                Store::passing(ring.taken(), Some(ring), Doubt { bytes, alone })
            }
            Some(ring) => Store::Ring(ring),
            None => return History::new(size),
        };
        History { store, ..History::new(size) }
    }

    /// Of a stream that a client writes in place.
    pub fn lent(ring: Lent) -> History {
        let tail_bytes = ring.geometry().tail_bytes as u32;
        History { store: Store::Lent(ring), ..History::new(HistorySize { head_bytes: 0, tail_bytes }) }
    }

    /// The ring a client writes.
    pub fn lending(&mut self) -> Option<&mut Lent> {
        match &mut self.store {
            Store::Lent(ring) => Some(ring),
            Store::Empty | Store::Ring(_) | Store::Kept { .. } | Store::Passing { .. } => None,
        }
    }

    /// Bytes of the stream so far; what a client writes is looked at anew.
    pub fn seen(&mut self) -> u64 {
        if let Store::Lent(ring) = &mut self.store {
            // Nonsense is for whoever hears its bell.
            let _ = ring.look();
        }
        self.total()
    }

    /// Of a stream that has ended and of which only the length is known.
    pub fn gone(size: HistorySize, total: u64) -> History {
        let store = Store::Kept { head: Bytes::new(), tail: Bytes::new(), total };
        History { store, ..History::new(size) }
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
        match &self.store {
            Store::Ring(ring) => ring.pin(offset, blockers),
            Store::Empty => self.pin.set((offset, blockers)),
            Store::Passing { account: Some(account), .. } => account.pin(offset, blockers),
            Store::Lent(ring) => ring.pin(offset, blockers),
            Store::Kept { .. } | Store::Passing { account: None, .. } => {}
        }
    }

    /// The ring a stream of this size begins with.
    pub fn first_ring(size: HistorySize) -> Result<Writer, RingError> {
        if size.is_none() {
            return Writer::create(Geometry::new(0, PAGE_BYTES));
        }
        Writer::create(geometry(size, 0, TAKE_BYTES_MAX))
    }

    /// Bytes of the stream so far.
    pub fn total(&self) -> u64 {
        match &self.store {
            Store::Empty => 0,
            Store::Ring(ring) => ring.taken(),
            Store::Lent(ring) => ring.taken(),
            Store::Kept { total, .. } | Store::Passing { total, .. } => *total,
        }
    }

    fn head_bytes(&self) -> u64 {
        match &self.store {
            Store::Empty => Geometry::new(self.size.head_bytes as usize, 0).head_bytes as u64,
            Store::Ring(ring) => ring.geometry().head_bytes as u64,
            Store::Lent(_) => 0,
            Store::Kept { head, .. } => head.len() as u64,
            Store::Passing { .. } => 0,
        }
    }

    /// First offset behind the head that is here.
    pub fn tail_from(&self) -> u64 {
        match &self.store {
            Store::Empty => 0,
            Store::Ring(ring) => ring.tail_from(),
            Store::Lent(ring) => ring.tail_from(),
            Store::Kept { tail, total, .. } => total - tail.len() as u64,
            Store::Passing { total, .. } => *total,
        }
    }

    /// Bytes that are gone from between head and tail; where nothing is kept, those nobody was there to read.
    pub fn cut_bytes(&self) -> u64 {
        if let Store::Passing { unread, .. } = self.store {
            return unread;
        }
        let (from, to) = self.cut();
        to - from
    }

    /// What is gone from between head and tail: `[from, to)`. Where nothing was to be kept nothing is gone.
    pub fn cut(&self) -> (u64, u64) {
        if self.is_passing() {
            return (0, 0);
        }
        let from = self.head_bytes().min(self.total());
        (from, self.tail_from().min(self.total()).max(from))
    }

    /// How much is kept.
    pub fn size(&self) -> HistorySize {
        self.size
    }

    /// What it holds of the memory of all.
    pub fn charge(&self) -> Charge {
        match &self.store {
            Store::Empty | Store::Passing { .. } => Charge::default(),
            Store::Ring(ring) => {
                let head = ring.taken().min(ring.geometry().head_bytes as u64);
                let tail = ring.taken().saturating_sub(ring.tail_from());
                Charge { bytes: PAGE_BYTES as u64 + head + tail, kind: ChargeKind::Live }
            }
            // All of it is there from the beginning, in a client's hands.
            Store::Lent(ring) => {
                Charge { bytes: ring.geometry().file_bytes() as u64, kind: ChargeKind::Live }
            }
            Store::Kept { head, tail, .. } if head.is_empty() && tail.is_empty() => Charge::default(),
            Store::Kept { head, tail, .. } => {
                Charge { bytes: (head.len() + tail.len()) as u64, kind: ChargeKind::Retained }
            }
        }
    }

    /// What is at `offset`, at most `max` bytes of it.
    pub fn peek(&self, offset: u64, max: usize) -> Peek<'_> {
        if offset >= self.total() || max == 0 {
            return Peek::Nothing;
        }
        let run = match &self.store {
            Store::Empty | Store::Passing { .. } => None,
            Store::Ring(ring) => ring.run(offset, max),
            Store::Lent(ring) => ring.run(offset, max),
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
            Store::Lent(_) | Store::Kept { .. } | Store::Passing { .. } => return 0,
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
        geometry(self.size, tail_bytes, self.batch_bytes)
    }

    /// The ring to take bytes into. True with it if it is new and its descriptor must be handed to the keeper.
    pub fn ring(&mut self) -> Result<(&mut Writer, bool), RingError> {
        let mut new = false;
        if matches!(self.store, Store::Empty) {
            let ring = History::first_ring(self.size)?;
            let (offset, blockers) = self.pin.get();
            ring.pin(offset, blockers);
            self.store = Store::Ring(ring);
            new = true;
        }
        match &mut self.store {
            Store::Ring(ring) => Ok((ring, new)),
            Store::Empty | Store::Lent(_) | Store::Kept { .. } | Store::Passing { .. } => {
                Err(RingError::Foreign("nothing is taken into it"))
            }
        }
    }

    /// The ring whose bytes go to disk: which one it is, and its descriptor.
    pub fn ring_to_spool(&mut self) -> Result<(u64, BorrowedFd<'_>), RingError> {
        if !matches!(self.store, Store::Lent(_)) {
            return self.ring().map(|(ring, _)| (ring.generation(), ring.descriptor()));
        }
        let Store::Lent(ring) = &self.store else { return Err(RingError::Foreign("there is none")) };
        Ok((0, ring.ring()))
    }

    /// The ring, for another process that may only read, and its sizes. A stream that has ended has one made for it.
    pub fn shared_ring(&self) -> Result<(OwnedFd, Geometry), RingError> {
        let made = |ring: &Writer| Ok((ring.read_only()?, ring.geometry()));
        match &self.store {
            Store::Ring(ring) => made(ring),
            Store::Kept { head, tail, total } => made(&Writer::of_ended(head, tail, *total)?),
            Store::Empty => made(&Writer::of_ended(&[], &[], 0)?),
            Store::Passing { .. } => Err(RingError::Foreign("nothing is kept of it")),
            Store::Lent(ring) => match ring.read_only() {
                Some(fd) => Ok((fd?, ring.geometry())),
                None => Err(RingError::Foreign("its producer has not mapped it")),
            },
        }
    }

    /// The same bytes in a new ring. True if there is one.
    pub fn renew(&mut self) -> Result<bool, RingError> {
        let Store::Ring(ring) = &mut self.store else { return Ok(false) };
        *ring = ring.resized(ring.geometry())?;
        Ok(true)
    }

    /// How often the ring has been replaced.
    pub fn generation(&self) -> u64 {
        self.living().map_or(0, Writer::generation)
    }

    fn living(&self) -> Option<&Writer> {
        match &self.store {
            Store::Ring(ring) => Some(ring),
            Store::Empty | Store::Lent(_) | Store::Kept { .. } | Store::Passing { .. } => None,
        }
    }

    /// Nothing more comes. The first reason counts.
    pub fn end(&self, why: End) {
        match &self.store {
            Store::Ring(ring) => ring.end(why),
            Store::Lent(ring) => ring.end(why),
            Store::Empty | Store::Kept { .. } | Store::Passing { .. } => {}
        }
    }

    /// See [`Writer::tell`].
    pub fn tell(&self) {
        match &self.store {
            Store::Ring(ring) => ring.tell(),
            Store::Lent(ring) => ring.tell(),
            Store::Empty | Store::Kept { .. } | Store::Passing { .. } => {}
        }
    }

    /// See [`Writer::wake`].
    pub fn wake(&self) {
        match &self.store {
            Store::Ring(ring) => ring.wake(),
            Store::Lent(ring) => ring.wake(),
            Store::Empty | Store::Kept { .. } | Store::Passing { .. } => {}
        }
    }

    /// Whether readers in other processes are to say when half of the ring is free; see [`Writer::want`].
    pub fn want_moves(&self, wanted: bool) {
        match &self.store {
            Store::Ring(ring) => {
                let half = ring.taken().saturating_sub(ring.geometry().tail_bytes as u64 / 2);
                ring.want(wanted.then_some(half));
            }
            // The limit is a ring beyond what is pinned: with a quarter of it free there is something to give.
            Store::Lent(ring) => {
                let quarter = ring.tail_from() + ring.geometry().tail_bytes as u64 / 4;
                ring.want(wanted.then_some(quarter));
            }
            Store::Empty | Store::Kept { .. } | Store::Passing { .. } => {}
        }
    }

    /// True until the first byte has come.
    pub fn is_untouched(&self) -> bool {
        matches!(self.store, Store::Empty)
    }

    /// Makes the tail at least `tail_bytes` large. True if there is a new ring.
    pub fn raise_tail(&mut self, tail_bytes: u32) -> Result<bool, RingError> {
        if tail_bytes <= self.size.tail_bytes || self.is_passing() {
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
            Store::Ring(_) | Store::Lent(_) | Store::Empty | Store::Kept { .. } | Store::Passing { .. } => {
                Ok(false)
            }
        }
    }

    /// Keeps other sizes from now on, without losing anything from `pinned` on. A head doesn't grow once something
    /// behind it is gone, and an ended stream only loses. True if there is a new ring.
    pub fn tune(&mut self, size: HistorySize, pinned: Option<u64>) -> Result<bool, RingError> {
        self.batch_bytes = TAKE_BYTES_MAX;
        self.change(size, pinned)
    }

    /// Keeps no more than `tail_bytes` behind the head, and takes in small batches, without losing anything from
    /// `pinned` on. True if there is a new ring.
    pub fn squeeze(&mut self, tail_bytes: u32, pinned: Option<u64>) -> Result<bool, RingError> {
        self.batch_bytes = SQUEEZED_BATCH_BYTES;
        let size = HistorySize { tail_bytes: self.size.tail_bytes.min(tail_bytes), ..self.size };
        self.change(size, pinned)
    }

    fn change(&mut self, size: HistorySize, pinned: Option<u64>) -> Result<bool, RingError> {
        match &mut self.store {
            Store::Empty => self.size = size,
            Store::Passing { .. } => {}
            // It is as large as its producer has it.
            Store::Lent(_) => {}
            Store::Ring(ring) => {
                let (total, whole) = (ring.taken(), ring.is_whole());
                let old = ring.geometry().head_bytes as u64;
                let needed = |pinned: u64| !whole && pinned < old;
                // What a reader in the head still needs has no other place once there is a gap behind it.
                let head = match (whole, pinned.is_some_and(needed)) {
                    (true, _) => size.head_bytes,
                    (false, false) => size.head_bytes.min(old as u32),
                    (false, true) => old as u32,
                };
                self.size = HistorySize { head_bytes: head, tail_bytes: size.tail_bytes };
                let pinned_bytes = total - pinned.unwrap_or(total).clamp(u64::from(head).min(total), total);
                let tail_bytes = (pinned_bytes as usize).max(size.tail_bytes as usize);
                let geometry = Geometry::new(head as usize, tail_bytes + self.batch_bytes);
                if geometry != ring.geometry() {
                    *ring = ring.resized(geometry)?;
                    return Ok(true);
                }
            }
            Store::Kept { head, tail, total } => {
                let (head_bytes, tail_bytes) = (size.head_bytes as usize, size.tail_bytes as usize);
                self.size = HistorySize {
                    head_bytes: size.head_bytes.min(self.size.head_bytes),
                    tail_bytes: size.tail_bytes.min(self.size.tail_bytes),
                };
                // Copied, for a slice would keep the whole.
                if head.len() > head_bytes {
                    *head = Bytes::copy_from_slice(&head[..head_bytes]);
                }
                if tail.len() > tail_bytes {
                    *tail = Bytes::copy_from_slice(&tail[tail.len() - tail_bytes..]);
                }
                debug_assert!((head.len() + tail.len()) as u64 <= *total);
            }
        }
        Ok(false)
    }

    /// Turns the ring into plain memory: head and tail as configured, nothing else. For ended streams whose
    /// readers have all they wanted.
    pub fn retire(&mut self) {
        let kept = match &mut self.store {
            Store::Kept { .. } => return,
            Store::Passing { account, .. } => {
                *account = None;
                return;
            }
            Store::Empty => (Bytes::new(), Bytes::new(), 0),
            Store::Lent(ring) => {
                let (from, total) = (ring.tail_from(), ring.taken());
                let tail = ring.run(from, (total - from.min(total)) as usize).unwrap_or_default();
                (Bytes::new(), Bytes::copy_from_slice(tail), total)
            }
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
            Store::Empty | Store::Ring(_) | Store::Lent(_) | Store::Passing { .. } => 0,
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
fn geometry(size: HistorySize, tail_bytes: usize, batch_bytes: usize) -> Geometry {
    let tail_bytes = tail_bytes.max(size.tail_bytes as usize);
    Geometry::new(size.head_bytes as usize, tail_bytes + batch_bytes)
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
    fn whom_a_successor_has_to_wait_for_is_noted_from_a_rings_birth() {
        let mut history = History::new(SIZE);
        history.pin(0, 2);
        assert_eq!(history.ring().unwrap().0.pinned(), (0, 2));
        history.pin(7, 1);
        assert_eq!(history.ring().unwrap().0.pinned(), (7, 1));
    }

    #[test]
    fn what_went_by_uncounted_is_known_by_who_had_it_alone_until_something_is_counted() {
        let dies_in_the_middle = |alone| {
            let mut history = History::new(HistorySize::NONE);
            history.account().unwrap();
            history.pass(100, true);
            history.expect_to_pass(60, alone);
            let Store::Passing { account: Some(ring), .. } = history.store else { panic!("an account") };
            History::inherited(HistorySize::NONE, Some(ring))
        };
        let mut alone = dies_in_the_middle(true);
        assert_eq!([99, 100, 101, 160, 161].map(|at| alone.uncounted(at)), [0, 0, 1, 60, 0]);
        // One more kernel may die at the same place, before and after it moved something.
        let left = |history: &History, bytes| {
            history.expect_to_pass(bytes, true);
            let Store::Passing { account: Some(ring), .. } = &history.store else { panic!("an account") };
            ring.uncounted()
        };
        assert_eq!([left(&alone, 10), left(&alone, 0)], [(70, true), (60, true)]);
        let among_others = dies_in_the_middle(false);
        assert_eq!((among_others.uncounted(160), left(&among_others, 10)), (0, (70, false)));
        alone.pass(60, true);
        assert_eq!((alone.total(), alone.uncounted(170), left(&alone, 10)), (160, 0, (10, true)));
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

    fn pattern(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
    }

    fn sizes(head_bytes: u32, tail_bytes: u32) -> HistorySize {
        HistorySize { head_bytes, tail_bytes }
    }

    /// Every byte that is there is the right one, and what isn't is exactly what is told.
    fn check(history: &History, bytes: &[u8]) {
        let (kept, gaps) = all(history);
        let (from, to) = history.cut();
        assert_eq!(gaps, if from < to { vec![(from, to)] } else { Vec::new() });
        assert_eq!(kept[..from as usize], bytes[..from as usize]);
        assert_eq!(kept[from as usize..], bytes[to as usize..]);
        assert_eq!(history.cut_bytes(), to - from);
    }

    #[test]
    fn a_history_made_smaller_while_it_lives_counts_exactly_what_goes() {
        let bytes = pattern(3_000_000);
        let mut history = History::new(sizes(64 << 10, 1 << 20));
        put(&mut history, &bytes[..1_000_000]);
        assert_eq!(history.cut(), (65_536, 65_536), "nothing is gone yet");
        assert!(history.tune(sizes(8 << 10, 64 << 10), None).unwrap());
        check(&history, &bytes[..1_000_000]);
        let ring_bytes = (64 << 10) + TAKE_BYTES_MAX as u64;
        assert_eq!(history.cut(), (8 << 10, 1_000_000 - ring_bytes));
        put(&mut history, &bytes[1_000_000..2_000_000]);
        check(&history, &bytes[..2_000_000]);
        assert!(history.squeeze(64 << 10, None).unwrap());
        assert!(!history.squeeze(64 << 10, None).unwrap(), "it has given what it can");
        check(&history, &bytes[..2_000_000]);
        assert!(history.charge().bytes <= 4096 + (8 << 10) + (64 << 10) + SQUEEZED_BATCH_BYTES as u64);
        put(&mut history, &bytes[2_000_000..]);
        check(&history, &bytes);
        history.retire();
        check(&history, &bytes);
        assert_eq!(history.cut(), (8 << 10, 3_000_000 - (64 << 10)));
        assert!(!history.tune(sizes(1 << 20, 1 << 20), None).unwrap(), "an ended stream only loses");
        assert!(!history.tune(sizes(100, 200), None).unwrap());
        assert_eq!((history.cut(), history.retained_bytes()), ((100, 3_000_000 - 200), 300));
        check(&history, &bytes);
    }

    #[test]
    fn a_head_grows_only_while_nothing_behind_it_is_gone() {
        let bytes = pattern(2_000_000);
        let mut history = History::new(sizes(4 << 10, 64 << 10));
        put(&mut history, &bytes[..200_000]);
        assert!(history.tune(sizes(128 << 10, 64 << 10), None).unwrap());
        put(&mut history, &bytes[200_000..]);
        assert_eq!(history.cut().0, 128 << 10);
        check(&history, &bytes);
        history.tune(sizes(256 << 10, 128 << 10), None).unwrap();
        assert_eq!(history.size(), sizes(128 << 10, 128 << 10));
        check(&history, &bytes);
    }

    #[test]
    fn nothing_a_waiting_reader_needs_is_given_up() {
        let bytes = pattern(700_000);
        for pinned in [0, 1, 4_095, 65_535, 65_536, 65_537, 300_000, 699_999, 700_000] {
            let mut history = History::new(sizes(64 << 10, 1 << 20));
            put(&mut history, &bytes);
            history.squeeze(64 << 10, Some(pinned)).unwrap();
            history.tune(sizes(0, 4096), Some(pinned)).unwrap();
            check(&history, &bytes);
            assert!(history.cut().1 <= pinned || history.cut_bytes() == 0, "{pinned}");
            assert!(history.room_bytes(Some(pinned)) > 0, "and the source goes on");
        }
        // A gap behind the head, and a reader still in the head.
        let mut history = History::new(sizes(64 << 10, 64 << 10));
        put(&mut history, &bytes);
        assert!(history.cut_bytes() > 0);
        history.tune(sizes(0, 4096), Some(10)).unwrap();
        assert_eq!(history.cut().0, 64 << 10);
        check(&history, &bytes);
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
