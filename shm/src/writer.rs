//! The one writer of a ring.
//!
//! Bytes arrive in two steps, so that a reader of the header can tell after a crash how many there are: first
//! [`Writer::expect`] says where T will be, then the bytes are copied in, then [`Writer::commit`] makes them
//! count. Between the two they are in the staging pipe or already in the ring, never nowhere.

use crate::layout::{End, Geometry, MAGIC, PAGE_BYTES, RingError, VERSION, field};
use crate::map::Map;
use crate::memory::{Writers, anonymous, read_only, seal, wake};
use crate::reader::Reader;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};

/// A ring and the only writable mapping of it there will ever be.
#[derive(Debug)]
pub struct Writer {
    fd: OwnedFd,
    map: Map,
    geometry: Geometry,
    born_at: u64,
    generation: u64,
    taken: u64,
}

impl Writer {
    /// An empty ring for a stream that has none yet.
    pub fn create(geometry: Geometry) -> Result<Writer, RingError> {
        Writer::with(geometry, 0, 0, 0)
    }

    /// A ring of another size that holds what `self` holds, as far as it fits. A head doesn't grow over bytes that are
    /// gone. Readers of the old one keep reading what they have; new bytes come here.
    pub fn resized(&self, geometry: Geometry) -> Result<Writer, RingError> {
        let (whole, head_bytes) = (self.is_whole(), self.geometry.head_bytes);
        let head_bytes = if whole { geometry.head_bytes } else { geometry.head_bytes.min(head_bytes) };
        let geometry = Geometry { head_bytes, ..geometry };
        let oldest = if whole { 0 } else { self.tail_from() };
        let keep_from = geometry.tail_from(self.taken).max(oldest);
        let mut ring = Writer::with(geometry, self.generation + 1, keep_from, self.taken)?;
        ring.copy(self, 0, self.taken.min(head_bytes as u64));
        ring.copy(self, keep_from, self.taken);
        let (pinned, blockers) = self.pinned();
        ring.pin(pinned, blockers);
        for word in [field::TOTAL, field::ENDED, field::WANTED] {
            ring.map.word(word).store(self.map.word(word).load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.map.word(field::NEWER).store(ring.generation, Ordering::Release);
        self.tell();
        self.wake();
        Ok(ring)
    }

    /// The ring of a stream of which only the beginning and the latest are left, and which has ended.
    pub fn of_ended(head: &[u8], tail: &[u8], total: u64) -> Result<Writer, RingError> {
        // A head that doesn't fill its pages would hold places for bytes that aren't here.
        let whole = head.len() as u64 == total;
        let head = if whole { head } else { &head[..head.len() / PAGE_BYTES * PAGE_BYTES] };
        let geometry = Geometry::new(head.len(), tail.len());
        let mut ring = Writer::with(geometry, 0, total - tail.len() as u64, total)?;
        ring.map.bytes_mut(PAGE_BYTES, head.len()).copy_from_slice(head);
        let place = geometry.place(total - tail.len() as u64);
        ring.map.bytes_mut(place, tail.len()).copy_from_slice(tail);
        ring.end(End::Complete);
        Ok(ring)
    }

    /// The ring of a writer that died, made anew, for nobody can write to the old one any more. `taken` bytes of the
    /// stream are in the old one; what its last, unfinished bytes may have overwritten is left behind.
    pub fn succeed(old: &Reader, taken: u64) -> Result<Writer, RingError> {
        let (geometry, map) = old.parts();
        let keep_from = old.tail_from(old.expected().max(taken));
        let mut ring = Writer::with(geometry, old.generation() + 1, keep_from, taken)?;
        let head = taken.min(geometry.head_bytes as u64) as usize;
        ring.map.bytes_mut(PAGE_BYTES, head).copy_from_slice(map.bytes(PAGE_BYTES, head));
        if keep_from < taken {
            let (place, len) = (geometry.place(keep_from), (taken - keep_from) as usize);
            ring.map.bytes_mut(place, len).copy_from_slice(map.bytes(place, len));
        }
        let (pinned, blockers) = old.pinned();
        ring.pin(pinned, blockers);
        Ok(ring)
    }

    /// A ring that holds `bytes` of a stream from `from` on, and whose readers are those of `old`.
    pub(crate) fn beginning_with(
        geometry: Geometry,
        old: &Reader,
        from: u64,
        bytes: &[u8],
    ) -> Result<Writer, RingError> {
        let mut ring = Writer::with(geometry, old.generation() + 1, from, from + bytes.len() as u64)?;
        ring.map.bytes_mut(geometry.place(from), bytes.len()).copy_from_slice(bytes);
        let (pinned, blockers) = old.pinned();
        ring.pin(pinned, blockers);
        Ok(ring)
    }

    /// True exactly when every byte of the stream is here.
    pub fn is_whole(&self) -> bool {
        self.tail_from() <= self.geometry.head_bytes as u64
    }

    /// Copies `[from, to)`, which the other ring has and which lies in one area of this one, to its place.
    fn copy(&mut self, other: &Writer, from: u64, to: u64) {
        let mut at = from;
        while let Some(run) = other.run(at, to.saturating_sub(at) as usize) {
            self.map.bytes_mut(self.geometry.place(at), run.len()).copy_from_slice(run);
            at += run.len() as u64;
        }
    }

    fn with(geometry: Geometry, generation: u64, born_at: u64, taken: u64) -> Result<Writer, RingError> {
        let fd = anonymous("kairo-ring", geometry.file_bytes())?;
        let map = Map::new(fd.as_fd(), geometry, true)?;
        title(&map, geometry);
        map.word(field::GENERATION).store(generation, Ordering::Relaxed);
        map.word(field::BORN_AT).store(born_at, Ordering::Relaxed);
        map.word(field::EXPECTED).store(taken, Ordering::Relaxed);
        map.word(field::TAKEN).store(taken, Ordering::Release);
        // From here on nobody, this process included, can map it writable again or change its size.
        seal(&fd, Writers::Nobody)?;
        Ok(Writer { fd, map, geometry, born_at, generation, taken })
    }

    /// The file, to be handed to whoever may read it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The same for somebody who may only read.
    pub fn read_only(&self) -> Result<OwnedFd, RingError> {
        read_only(self.fd.as_fd())
    }

    /// Its sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Bytes of the stream so far (T).
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How often the stream has got a new ring.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// First offset of the tail that is here. Offsets below the head's size are in the head.
    pub fn tail_from(&self) -> u64 {
        self.geometry.tail_from(self.taken).max(self.born_at)
    }

    /// Bytes that are gone from between head and tail.
    pub fn cut_bytes(&self) -> u64 {
        let head = self.taken.min(self.geometry.head_bytes as u64);
        self.tail_from().min(self.taken).saturating_sub(head)
    }

    /// The contiguous run of bytes that starts at `offset`, at most `max` long; none if `offset` isn't here. Never
    /// empty.
    pub fn run(&self, offset: u64, max: usize) -> Option<&[u8]> {
        if offset >= self.taken || max == 0 {
            return None;
        }
        let head = self.geometry.head_bytes as u64;
        let end = if offset < head { self.taken.min(head) } else { self.taken };
        if offset >= head && offset < self.tail_from() {
            return None;
        }
        let len = ((end - offset) as usize).min(max);
        Some(self.map.bytes(self.geometry.place(offset), len))
    }

    /// Room for at most `max` bytes at T, contiguous: the rest of the head first, then up to one circle.
    pub fn room(&mut self, max: usize) -> &mut [u8] {
        let len = self.room_bytes(max);
        let place = self.geometry.place(self.taken);
        self.map.bytes_mut(place, len)
    }

    /// How much [`Writer::room`] gives.
    pub fn room_bytes(&self, max: usize) -> usize {
        let head = self.geometry.head_bytes as u64;
        let contiguous =
            if self.taken < head { (head - self.taken) as usize } else { self.geometry.tail_bytes };
        max.min(contiguous)
    }

    /// Notes that `blockers` readers make the source wait, the slowest of them at `offset`: a successor keeps what they
    /// have not got until they are back.
    pub fn pin(&self, offset: u64, blockers: u32) {
        self.map.word(field::PINNED).store(offset, Ordering::Relaxed);
        self.map.word(field::BLOCKERS).store(blockers.into(), Ordering::Release);
    }

    /// What was noted last.
    pub fn pinned(&self) -> (u64, u32) {
        let word = |at| self.map.word(at).load(Ordering::Relaxed);
        (word(field::PINNED), word(field::BLOCKERS).try_into().unwrap_or(u32::MAX))
    }

    /// Notes that `bytes` more are on their way (E = T + bytes).
    pub fn expect(&self, bytes: usize) {
        self.map.word(field::EXPECTED).store(self.taken + bytes as u64, Ordering::Release);
        // Before any byte of them: a reader that meets one of them finds E when it looks afterwards.
        fence(Ordering::SeqCst);
    }

    /// The same of bytes that pass by, and whether they go to one reader alone.
    pub fn expect_to_pass(&self, bytes: usize, alone: bool) {
        self.map.word(field::ALONE).store(alone.into(), Ordering::Release);
        self.expect(bytes);
    }

    /// How many bytes a writer before this one may have let pass and not counted, and whether they went to one reader alone.
    pub fn uncounted(&self) -> (usize, bool) {
        let word = |at| self.map.word(at).load(Ordering::Acquire);
        (word(field::EXPECTED).saturating_sub(self.taken) as usize, word(field::ALONE) == 1)
    }

    /// Makes `bytes` more count (T = T + bytes), after they were written to [`Writer::room`].
    pub fn commit(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        self.map.word(field::TAKEN).store(self.taken, Ordering::Release);
    }

    /// Nothing more comes. The first reason counts. Whoever sleeps is to be woken.
    pub fn end(&self, why: End) {
        finish(&self.map, why, self.taken);
    }

    /// There is news: whoever is about to sleep doesn't, and who says that it sleeps by now is to be woken.
    pub fn tell(&self) {
        tell(&self.map);
    }

    /// Wakes everybody who sleeps on this ring.
    pub fn wake(&self) {
        wake(self.map.half(field::NEWS));
    }

    /// Whether, and at which offset, the writer is to hear of a waiting reader's moves. Cursors that are looked at
    /// afterwards are as new as this.
    pub fn want(&self, offset: Option<u64>) {
        want(&self.map, offset);
    }
}

/// What a ring is known by.
pub(crate) fn title(map: &Map, geometry: Geometry) {
    map.word(field::MAGIC).store(MAGIC, Ordering::Relaxed);
    map.word(field::VERSION).store(VERSION.into(), Ordering::Relaxed);
    map.word(field::HEAD_BYTES).store(geometry.head_bytes as u64, Ordering::Relaxed);
    map.word(field::TAIL_BYTES).store(geometry.tail_bytes as u64, Ordering::Relaxed);
}

/// See [`Writer::end`].
pub(crate) fn finish(map: &Map, why: End, total: u64) {
    map.word(field::TOTAL).store(total, Ordering::Relaxed);
    let _ = map.word(field::ENDED).compare_exchange(0, why as u64, Ordering::SeqCst, Ordering::SeqCst);
    // Whoever has it all is waited for no longer.
    want(map, Some(total));
    tell(map);
}

/// See [`Writer::tell`].
pub(crate) fn tell(map: &Map) {
    map.half(field::NEWS).fetch_add(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}

/// See [`Writer::want`].
pub(crate) fn want(map: &Map, offset: Option<u64>) {
    map.word(field::WANTED).store(offset.unwrap_or(0), Ordering::SeqCst);
    fence(Ordering::SeqCst);
}
