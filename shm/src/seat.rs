//! Where one reader of a ring stands: a page the reader writes and the ring's owner looks at.
//!
//! The page is made by the ring's owner and sealed before it is handed out, so its size is certain and nothing else about
//! it is. Invariant: what an owner believes of a cursor was read once, and lies between what it believed before and the
//! end of the stream; a page that says anything else is believed nothing any more.

use crate::layout::RingError;
use crate::words::Words;
use rustix::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

/// `KAIROCUR`, little endian, at byte 0 of the page.
pub const MAGIC: u64 = u64::from_le_bytes(*b"KAIROCUR");
/// Version of this page.
pub const VERSION: u64 = 1;

/// Byte offsets of the page's words, all u64 and all atomic.
pub mod field {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// [`super::VERSION`].
    pub const VERSION: usize = 8;
    /// Written by the owner: 0, or why it doesn't look at this page any more, a [`super::Closed`].
    pub const CLOSED: usize = 16;
    /// Written by the reader: the next offset it wants. All before it may be overwritten.
    pub const CURSOR: usize = 64;
    /// Written by the reader: 1 while it sleeps or is about to.
    pub const ASLEEP: usize = 72;
}

/// Why a reader isn't served any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Closed {
    /// It, or somebody who may, ended it.
    Ended = 1,
    /// Its cursor said what can't be.
    Nonsense = 2,
    /// It did not take the descriptor of a new ring.
    Deaf = 3,
}

impl Closed {
    pub(crate) fn of(word: u64) -> Option<Closed> {
        match word {
            0 => None,
            2 => Some(Closed::Nonsense),
            3 => Some(Closed::Deaf),
            _ => Some(Closed::Ended),
        }
    }
}

/// A cursor that went back, or beyond the end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonsense;

/// The owner's side.
#[derive(Debug)]
pub struct Seat {
    words: Words,
    believed: u64,
    closed: bool,
}

impl Seat {
    /// For a reader that begins at `offset`.
    pub fn create(offset: u64) -> Result<Seat, RingError> {
        let words = Words::create("kairo-seat")?;
        words.word(field::MAGIC).store(MAGIC, Ordering::Relaxed);
        words.word(field::VERSION).store(VERSION, Ordering::Relaxed);
        words.word(field::CURSOR).store(offset, Ordering::Release);
        Ok(Seat { words, believed: offset, closed: false })
    }

    /// The file, for the reader.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.words.descriptor()
    }

    /// Where the reader is, if `taken` bytes of the stream have come.
    pub fn look(&mut self, taken: u64) -> Result<u64, Nonsense> {
        // Once: it may be another number the next time.
        let cursor = self.words.word(field::CURSOR).load(Ordering::SeqCst);
        if cursor < self.believed || cursor > taken {
            return Err(Nonsense);
        }
        self.believed = cursor;
        Ok(cursor)
    }

    /// True while the reader says that it must be woken; asked after [`Writer::tell`](crate::writer::Writer::tell).
    pub fn wants_waking(&self) -> bool {
        self.words.word(field::ASLEEP).load(Ordering::SeqCst) != 0
    }

    /// Tells the reader that nobody looks any more. The first reason counts. It is to be woken.
    pub fn close(&mut self, why: Closed) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.words.word(field::CLOSED).store(why as u64, Ordering::SeqCst);
    }
}

/// The reader's side.
#[derive(Debug)]
pub(crate) struct Place {
    words: Words,
}

impl Place {
    pub(crate) fn open(fd: OwnedFd) -> Result<Place, RingError> {
        let words = Words::open(fd)?;
        let word = |at| words.word(at).load(Ordering::Acquire);
        if word(field::MAGIC) != MAGIC || word(field::VERSION) != VERSION {
            return Err(RingError::Foreign("not a reader's page"));
        }
        Ok(Place { words })
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.words.word(field::CURSOR).load(Ordering::Relaxed)
    }

    pub(crate) fn move_to(&self, offset: u64) {
        self.words.word(field::CURSOR).store(offset, Ordering::SeqCst);
    }

    pub(crate) fn sleeps(&self, asleep: bool) {
        self.words.word(field::ASLEEP).store(asleep.into(), Ordering::SeqCst);
    }

    pub(crate) fn closed(&self) -> Option<Closed> {
        Closed::of(self.words.word(field::CLOSED).load(Ordering::Acquire))
    }
}
