//! A stream in a shared ring, as a client in another process reads it: in place, without a copy and without a call
//! while there is something to read.
//!
//! ```text
//!   next ─▶ Run ─▶ (work on the bytes) ─▶ advance ─▶ next ─▶ … ─▶ End
//!            └─ nothing there: sleep on the ring's word, at most a while, and see whether the kernel still lives
//! ```
//!
//! A reader that waits (policy `block`) has its bytes pinned by its cursor, as long as its kernel lives: a client that writes the ring
//! goes on without it. One that drops reads what may be overwritten under its hands. So [`SharedReader::advance`] says
//! afterwards whether what was read was whole, and whoever reads looks now and then whether its kernel lives, though there is always
//! more to read. Invariant: the cursor
//! only grows, and never beyond what the ring's writer has counted. `docs/SHARED-RING.md` says the same to others.

use crate::layout::{End, RingError};
use crate::memory;
use crate::reader::Reader;
use crate::seat::{Closed, Place};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, recvmsg, send};
use std::io::IoSliceMut;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// Nobody sleeps longer than this without seeing whether the kernel still lives: a killed one wakes nobody.
const SLEEP_MAX: Duration = Duration::from_millis(250);
/// How often the ring is looked at before sleeping: a writer that is at work has more in a moment.
const LOOKS: usize = 64;

/// What a reader does about being slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The source waits for it.
    Waits,
    /// It misses what is overwritten.
    Drops,
}

/// The descriptors of one reader, as the kernel hands them out.
#[derive(Debug)]
pub struct Parts {
    /// The ring, read-only.
    pub ring: OwnedFd,
    /// The reader's page.
    pub seat: OwnedFd,
    /// A stream socket to the kernel.
    pub doorbell: OwnedFd,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Bytes of the stream from this offset on, where they lie; never empty.
    Run(u64, &'a [u8]),
    /// `[from, to)` is gone. The reader stands behind it.
    Gap(u64, u64),
    /// Nothing within the time.
    Nothing,
    /// The stream is over, and had so many bytes.
    End(End, u64),
    /// The kernel doesn't serve this reader any more.
    Closed(Closed),
    /// The kernel is gone: its successor serves whoever asks again, from this reader's offset on.
    Lost,
}

/// What came of waiting for a new ring.
enum Received {
    Ring(Reader),
    Nothing,
    HungUp,
}

/// A reader of a shared ring.
#[derive(Debug)]
pub struct SharedReader {
    ring: Reader,
    place: Place,
    doorbell: OwnedFd,
    pace: Pace,
    offset: u64,
    /// Where it was last looked whether the kernel lives.
    looked_at: u64,
    /// The kernel has hung up: so much there was when that was found, and no more is read here.
    lost: Option<u64>,
}

impl SharedReader {
    /// Maps what the kernel has handed out.
    pub fn open(parts: Parts, pace: Pace) -> Result<SharedReader, RingError> {
        let ring = Reader::open(parts.ring.as_fd())?;
        let place = Place::open(parts.seat)?;
        let offset = place.cursor();
        Ok(SharedReader {
            ring,
            place,
            doorbell: parts.doorbell,
            pace,
            offset,
            looked_at: offset,
            lost: None,
        })
    }

    /// The next offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the stream so far, as far as this reader's ring knows.
    pub fn taken(&self) -> u64 {
        self.ring.taken()
    }

    /// What comes next, at most `max` bytes of it, waiting for it no longer than `timeout`.
    pub fn next(&mut self, max: usize, timeout: Duration) -> Result<Next<'_>, RingError> {
        let deadline = Instant::now().checked_add(timeout);
        if self.offset - self.looked_at >= self.ring.tail_bytes() / 2 {
            self.looked_at = self.offset;
            self.look_for_kernel();
        }
        loop {
            if self.await_news(deadline)? {
                break;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Next::Nothing);
            }
        }
        // Looked at first: the stream's end and this may come together, and the end is what counts.
        let closed = self.place.closed();
        let taken = self.readable();
        if self.offset < taken {
            let max = max.max(1).min((taken - self.offset) as usize);
            // What isn't there was overtaken, before or between two looks.
            if self.ring.run(self.offset, max).is_none() {
                if self.pace == Pace::Waits && self.look_for_kernel() {
                    return Ok(Next::Lost);
                }
                let taken = self.ring.taken();
                return Ok(self.skip(self.ring.tail_from(taken), taken));
            }
            return Ok(match self.ring.run(self.offset, max) {
                Some(bytes) => Next::Run(self.offset, bytes),
                None => Next::Nothing,
            });
        }
        match (self.ring.end(), closed) {
            (Some((end, total)), _) if self.offset >= total => Ok(Next::End(end, total)),
            (_, Some(closed)) => Ok(Next::Closed(closed)),
            _ if self.lost.is_some() => Ok(Next::Lost),
            _ => Ok(Next::Nothing),
        }
    }

    /// Passes what is gone. Whoever was overtaken once is given some lead, or it would be overtaken at once again.
    fn skip(&mut self, from: u64, taken: u64) -> Next<'static> {
        let lead = if self.pace == Pace::Drops && self.ring.end().is_none() { (taken - from) / 2 } else { 0 };
        let gap = (self.offset, from + lead);
        self.stand_at(gap.1);
        Next::Gap(gap.0, gap.1)
    }

    /// Passes all but the latest `keep` bytes: for whoever wants only the newest. Returns what it passed.
    pub fn skip_to_latest(&mut self, keep: u64) -> Option<(u64, u64)> {
        let to = self.ring.taken().saturating_sub(keep);
        let passed = (self.offset < to).then_some((self.offset, to));
        if passed.is_some() {
            self.stand_at(to);
        }
        passed
    }

    /// Goes on behind `bytes` more. False if some of them may have been overwritten while they were read: then they are
    /// not to be believed, and what comes next is a gap. For a reader that waits it is false only if the kernel has died, and
    /// what comes next is that.
    #[must_use = "bytes that were overwritten are not to be believed"]
    pub fn advance(&mut self, bytes: usize) -> bool {
        if !self.ring.is_intact(self.offset) {
            return false;
        }
        self.stand_at((self.offset + bytes as u64).min(self.ring.taken()));
        true
    }

    fn stand_at(&mut self, offset: u64) {
        let before = std::mem::replace(&mut self.offset, offset);
        self.place.move_to(offset);
        fence(Ordering::SeqCst);
        if self.ring.wanted().is_some_and(|wanted| before < wanted && wanted <= offset) {
            self.ring_the_bell();
        }
    }

    fn ring_the_bell(&self) {
        // Full means that it is heard anyway, and broken is found out when there is nothing left to read.
        let _ = send(&self.doorbell, &[1], memory::SEND_FLAGS);
    }

    /// Bytes of the stream that this reader may have here.
    fn readable(&self) -> u64 {
        self.lost.unwrap_or_else(|| self.ring.taken())
    }

    fn is_ready(&self) -> bool {
        self.lost.is_some()
            || self.offset < self.ring.taken()
            || self.place.closed().is_some()
            || self.ring.end().is_some()
    }

    /// True when there is something to tell, after one sleep at most.
    fn await_news(&mut self, deadline: Option<Instant>) -> Result<bool, RingError> {
        for _ in 0..LOOKS {
            if self.is_ready() {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        if self.ring.newer().is_some() {
            return self.change_rings(deadline).map(|()| false);
        }
        self.place.sleeps(true);
        fence(Ordering::SeqCst);
        let seen = self.ring.news();
        if !self.is_ready() && self.ring.newer().is_none() {
            let left = deadline.map_or(SLEEP_MAX, |at| at.saturating_duration_since(Instant::now()));
            self.ring.sleep(seen, left.min(SLEEP_MAX));
        }
        self.place.sleeps(false);
        if !self.is_ready() && self.ring.newer().is_none() {
            self.look_for_kernel();
        }
        Ok(self.is_ready())
    }

    /// True if the kernel is gone.
    fn look_for_kernel(&mut self) -> bool {
        let mut fds = [PollFd::new(&self.doorbell, PollFlags::empty())];
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0) {
            self.hung_up();
        }
        self.lost.is_some()
    }

    fn hung_up(&mut self) {
        let taken = self.ring.taken();
        self.lost.get_or_insert(taken);
    }

    /// All of the old ring is read: goes on in the newest there is.
    fn change_rings(&mut self, deadline: Option<Instant>) -> Result<(), RingError> {
        while let Some(newer) = self.ring.newer().filter(|newer| self.ring.generation() < *newer) {
            let left = deadline.map_or(SLEEP_MAX, |at| at.saturating_duration_since(Instant::now()));
            match self.receive_ring(left.min(SLEEP_MAX))? {
                Received::Ring(ring) if ring.generation() >= newer => self.ring = ring,
                // A ring that was replaced in turn.
                Received::Ring(_) => continue,
                Received::Nothing => return Ok(()),
                Received::HungUp => {
                    self.hung_up();
                    return Ok(());
                }
            }
            // The new ring may have wanted to hear of a move that was made on the old one.
            self.ring_the_bell();
        }
        Ok(())
    }

    fn receive_ring(&self, timeout: Duration) -> Result<Received, RingError> {
        let mut fds = [PollFd::new(&self.doorbell, PollFlags::IN)];
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        if poll(&mut fds, Some(&timeout)).map_err(RingError::os("wait for a ring"))? == 0 {
            return Ok(Received::Nothing);
        }
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut word = [0; 8];
        let into = &mut [IoSliceMut::new(&mut word)];
        let received = match recvmsg(&self.doorbell, into, &mut ancillary, memory::RECEIVE_FLAGS) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Received::Nothing),
            Err(_) => return Ok(Received::HungUp),
        };
        if received.bytes == 0 {
            return Ok(Received::HungUp);
        }
        let mut rings = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.into_iter().next(),
            _ => None,
        });
        let Some(fd) = rings.next() else { return Err(RingError::Foreign("no ring came")) };
        Ok(Received::Ring(Reader::open(fd.as_fd())?))
    }

    /// What is readable or hung up when the kernel has something for this reader that isn't in the ring.
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}
