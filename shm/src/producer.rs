//! A ring that a client writes and others read where it lies, and the page between that client and the kernel.
//!
//! ```text
//!   … limit − tail ▓▓▓▓▓▓▓▓▓▓ T ░░░░░░░░░░ limit …     ▓: stays as it is   ░: may be written
//! ```
//!
//! The kernel makes both, and both map the ring writable; then it is sealed, and nobody else ever can. The kernel gives
//! the producer room by raising the limit, never more than half a ring beyond what it has seen, so what it reads itself doesn't
//! change under its hands. Invariant: T was read once per look, didn't fall, and isn't beyond the limit; a producer that
//! says anything else is believed nothing any more. T as last seen and the limit are in an account, too, a ring that only the kernel
//! writes and nothing is kept in: whoever comes after a kill knows by it what was there for sure ([`follow`](crate::follow)).

use crate::layout::{End, Geometry, PAGE_BYTES, RingError, field as ring};
use crate::map::Map;
use crate::memory::{self, Writers, anonymous, is_fixed, read_only, seal, sleep, wake};
use crate::reader::Reader;
use crate::seat::{Closed, Nonsense};
use crate::words::Words;
use crate::writer::Writer;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::send;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// `KAIROPRO`, little endian, at byte 0 of the page.
pub const MAGIC: u64 = u64::from_le_bytes(*b"KAIROPRO");
/// Version of this page.
pub const VERSION: u64 = 1;
/// Nobody sleeps longer than this without seeing whether the kernel still lives.
const SLEEP_MAX: Duration = Duration::from_millis(250);

/// Byte offsets of the page's words, u64 unless they say otherwise, all atomic.
pub mod field {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// [`super::VERSION`].
    pub const VERSION: usize = 8;
    /// Written by the kernel: 0, or why it doesn't look at this producer any more.
    pub const CLOSED: usize = 16;
    /// Written by the kernel: T may not pass this offset.
    pub const LIMIT: usize = 64;
    /// Written by the kernel: it wants to hear when T reaches this offset.
    pub const HEED: usize = 72;
    /// u32, written by the kernel: changes with the limit and with CLOSED; what a producer sleeps on.
    pub const NEWS: usize = 80;
    /// Written by the producer: 1 while it sleeps or is about to.
    pub const ASLEEP: usize = 88;
}

/// The kernel's side.
#[derive(Debug)]
pub struct Lent {
    fd: OwnedFd,
    map: Map,
    geometry: Geometry,
    page: Words,
    account: Writer,
    limit: u64,
    heed: u64,
    sealed: bool,
}

impl Lent {
    /// An empty ring of at least so many bytes, and its page.
    pub fn create(bytes: usize) -> Result<Lent, RingError> {
        let geometry = Geometry::new(0, bytes);
        let fd = anonymous("kairo-lent", geometry.file_bytes())?;
        seal(&fd, Writers::Undecided)?;
        let map = Map::new(fd.as_fd(), geometry, true)?;
        crate::writer::title(&map, geometry);
        let page = Words::create("kairo-producer")?;
        page.word(field::MAGIC).store(MAGIC, Ordering::Relaxed);
        page.word(field::VERSION).store(VERSION, Ordering::Relaxed);
        let account = Writer::create(Geometry::new(0, PAGE_BYTES))?;
        let mut lent = Lent { fd, map, geometry, page, account, limit: 0, heed: 0, sealed: false };
        lent.grant(None, false);
        Ok(lent)
    }

    /// The ring, to be mapped writable by its producer.
    pub fn ring(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The page.
    pub fn page(&self) -> BorrowedFd<'_> {
        self.page.descriptor()
    }

    /// What tells a successor how far it was, and how far the producer may have come.
    pub fn account(&self) -> &Writer {
        &self.account
    }

    /// As [`Writer::pin`].
    pub fn pin(&self, offset: u64, blockers: u32) {
        self.account.pin(offset, blockers);
    }

    /// What is left of it, in a ring that is held as others are.
    pub fn last(&self) -> Result<Writer, RingError> {
        let (from, total) = (self.tail_from(), self.taken());
        let tail = self.run(from, (total - from.min(total)) as usize).unwrap_or_default();
        Writer::of_ended(&[], tail, total)
    }

    /// Its sizes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The producer has mapped it: from here on nobody else can.
    pub fn settle(&mut self) -> Result<(), RingError> {
        if !self.sealed {
            seal(&self.fd, Writers::Nobody)?;
            self.sealed = true;
        }
        Ok(())
    }

    /// The ring, for a reader. None before it is sealed.
    pub fn read_only(&self) -> Option<Result<OwnedFd, RingError>> {
        self.sealed.then(|| read_only(self.fd.as_fd()))
    }

    /// Looks how far the producer has come.
    pub fn look(&mut self) -> Result<u64, Nonsense> {
        // Once: it may be another number the next time.
        let taken = self.map.word(ring::TAKEN).load(Ordering::SeqCst);
        let before = self.taken();
        if taken < before || taken > self.limit {
            return Err(Nonsense);
        }
        self.account.commit((taken - before) as usize);
        Ok(taken)
    }

    /// True once the producer says that nothing more comes.
    pub fn is_ended(&self) -> bool {
        self.map.word(ring::ENDED).load(Ordering::SeqCst) != 0
    }

    /// Bytes of the stream, as of the last look.
    pub fn taken(&self) -> u64 {
        self.account.taken()
    }

    /// The first offset that doesn't change any more.
    pub fn tail_from(&self) -> u64 {
        self.limit.saturating_sub(self.geometry.tail_bytes as u64)
    }

    /// The run of bytes at `offset`, at most `max` long; none if it isn't here.
    pub fn run(&self, offset: u64, max: usize) -> Option<&[u8]> {
        if offset >= self.taken() || offset < self.tail_from() || max == 0 {
            return None;
        }
        let len = ((self.taken() - offset) as usize).min(max);
        Some(self.map.bytes(self.geometry.place(offset), len))
    }

    /// Gives room, as far as `pinned`, the lowest offset that somebody still needs, allows. With `eager` the kernel wants to
    /// hear of every byte. True if it is less than could be had without that.
    pub fn grant(&mut self, pinned: Option<u64>, eager: bool) -> bool {
        let tail = self.geometry.tail_bytes as u64;
        let taken = self.taken();
        let free = taken + tail / 2;
        let bound = pinned.map_or(u64::MAX, |offset| offset.saturating_add(tail));
        let limit = free.min(bound).max(self.limit);
        let heed = if eager { taken + 1 } else { limit.saturating_sub(tail / 4).max(taken + 1) };
        self.heed = heed.min(limit);
        self.page.word(field::HEED).store(self.heed, Ordering::SeqCst);
        if limit > self.limit {
            self.limit = limit;
            // Before it can be used.
            self.account.expect((limit - taken) as usize);
            self.page.word(field::LIMIT).store(limit, Ordering::SeqCst);
            tell_producer(&self.page);
        }
        fence(Ordering::SeqCst);
        limit < free
    }

    /// True exactly when the producer has come as far as it is heeded, and may not have known: asked after a grant.
    pub fn is_due(&self) -> bool {
        let taken = self.map.word(ring::TAKEN).load(Ordering::SeqCst);
        taken > self.taken() && taken >= self.heed
    }

    /// The producer isn't looked at any more.
    pub fn close(&self, why: Closed) {
        close(&self.page, why);
    }

    /// As [`Writer::end`], with what was seen last.
    pub fn end(&self, why: End) {
        crate::writer::finish(&self.map, why, self.taken());
    }

    /// As [`Writer::tell`].
    pub fn tell(&self) {
        crate::writer::tell(&self.map);
    }

    /// As [`Writer::wake`].
    pub fn wake(&self) {
        wake(self.map.half(ring::NEWS));
    }

    /// As [`Writer::want`].
    pub fn want(&self, offset: Option<u64>) {
        crate::writer::want(&self.map, offset);
    }
}

/// There is news on a producer's page.
pub(crate) fn tell_producer(page: &Words) {
    page.half(field::NEWS).fetch_add(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    if page.word(field::ASLEEP).load(Ordering::SeqCst) != 0 {
        wake(page.half(field::NEWS));
    }
}

/// See [`Lent::close`].
pub(crate) fn close(page: &Words, why: Closed) {
    page.word(field::CLOSED).store(why as u64, Ordering::SeqCst);
    tell_producer(page);
}

/// What a producer is given.
#[derive(Debug)]
pub struct Parts {
    /// The ring, to be mapped writable.
    pub ring: OwnedFd,
    /// The page.
    pub page: OwnedFd,
    /// A stream socket to the kernel.
    pub doorbell: OwnedFd,
}

/// Room to write, or none.
#[derive(Debug, PartialEq, Eq)]
pub enum Room<'a> {
    /// The next bytes of the stream go here; never empty.
    Bytes(&'a mut [u8]),
    /// Its readers have not made room within the time.
    Full,
    /// The kernel takes nothing more.
    Closed(Closed),
    /// The stream is gone: there is no kernel that takes it, nor anybody who keeps it for the next one.
    Lost,
}

/// The producer's side. Dropping it ends the stream.
#[derive(Debug)]
pub struct Producer {
    map: Map,
    geometry: Geometry,
    page: Words,
    doorbell: OwnedFd,
    taken: u64,
}

impl Producer {
    /// Maps what the kernel has handed out, and says so.
    pub fn open(parts: Parts) -> Result<Producer, RingError> {
        if !is_fixed(parts.ring.as_fd())? {
            return Err(RingError::Foreign("its size is not sealed"));
        }
        let size = rustix::fs::fstat(&parts.ring).map_err(RingError::os("read the size"))?.st_size as usize;
        let geometry = Reader::geometry_of(parts.ring.as_fd(), size)?;
        let map = Map::new(parts.ring.as_fd(), geometry, true)?;
        let page = Words::open(parts.page)?;
        let word = |at| page.word(at).load(Ordering::Acquire);
        if word(field::MAGIC) != MAGIC || word(field::VERSION) != VERSION {
            return Err(RingError::Foreign("not a producer's page"));
        }
        let producer = Producer { map, geometry, page, doorbell: parts.doorbell, taken: 0 };
        producer.ring_the_bell();
        Ok(producer)
    }

    /// Bytes of the stream so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Room for at most `max` bytes, contiguous, waiting for it no longer than `timeout`. What is written there counts once it
    /// is committed.
    pub fn room(&mut self, max: usize, timeout: Duration) -> Room<'_> {
        let deadline = Instant::now().checked_add(timeout);
        let len = loop {
            let limit = self.page.word(field::LIMIT).load(Ordering::SeqCst);
            let free = limit.saturating_sub(self.taken).min(self.geometry.tail_bytes as u64);
            let closed = self.page.word(field::CLOSED).load(Ordering::SeqCst);
            if let Some(closed) = Closed::of(closed) {
                return Room::Closed(closed);
            }
            if free > 0 {
                break (free as usize).min(max.max(1));
            }
            let left = deadline.map_or(SLEEP_MAX, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Room::Full;
            }
            self.sleep(left.min(SLEEP_MAX));
            if self.is_hung_up() {
                return Room::Lost;
            }
        };
        self.map.word(ring::EXPECTED).store(self.taken + len as u64, Ordering::SeqCst);
        // Before any byte of them: a reader that meets one of them finds E when it looks afterwards.
        fence(Ordering::SeqCst);
        Room::Bytes(self.map.bytes_mut(self.geometry.place(self.taken), len))
    }

    fn sleep(&self, timeout: Duration) {
        let asleep = self.page.word(field::ASLEEP);
        asleep.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let seen = self.page.half(field::NEWS).load(Ordering::SeqCst);
        let limit = self.page.word(field::LIMIT).load(Ordering::SeqCst);
        if limit <= self.taken && self.page.word(field::CLOSED).load(Ordering::SeqCst) == 0 {
            sleep(self.page.half(field::NEWS), seen, timeout);
        }
        asleep.store(0, Ordering::SeqCst);
    }

    fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.doorbell, PollFlags::empty())];
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }

    /// The first `bytes` of the last room count now. Readers that sleep are woken, so it is worth committing much at once.
    pub fn commit(&mut self, bytes: usize) {
        let before = self.taken;
        self.taken += bytes as u64;
        self.map.word(ring::TAKEN).store(self.taken, Ordering::SeqCst);
        // Who sleeps is known to each reader's page alone, which a producer doesn't see.
        crate::writer::tell(&self.map);
        wake(self.map.half(ring::NEWS));
        let heed = self.page.word(field::HEED).load(Ordering::SeqCst);
        if before < heed && heed <= self.taken {
            self.ring_the_bell();
        }
    }

    fn ring_the_bell(&self) {
        // Full means that it is heard anyway, and broken is found out when there is no room.
        let _ = send(&self.doorbell, &[1], memory::SEND_FLAGS);
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        crate::writer::finish(&self.map, End::Complete, self.taken);
        wake(self.map.half(ring::NEWS));
        self.ring_the_bell();
    }
}

const _: () = assert!(field::ASLEEP < PAGE_BYTES);
