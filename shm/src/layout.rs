//! Where things are in a ring, and the errors of opening one.

use std::io;

/// `KAIRORNG`, little endian, at byte 0 of the header.
pub const MAGIC: u64 = u64::from_le_bytes(*b"KAIRORNG");
/// Version of this layout.
pub const VERSION: u32 = 1;
/// Size of the header, and the unit everything else is a multiple of.
pub const PAGE_BYTES: usize = 4096;

/// Byte offsets of the header's fields.
pub mod field {
    /// u64, [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// u32, [`super::VERSION`].
    pub const VERSION: usize = 8;
    /// u64, size of the head in bytes.
    pub const HEAD_BYTES: usize = 16;
    /// u64, size of the tail in bytes.
    pub const TAIL_BYTES: usize = 24;
    /// u64, how often this stream has got a new ring.
    pub const GENERATION: usize = 32;
    /// u64, the oldest offset this ring was born with; what lies before it and past the head is not here.
    pub const BORN_AT: usize = 40;
    /// u64, atomic: bytes of the stream that are in the ring, from its birth (T).
    pub const TAKEN: usize = 64;
    /// u64, atomic: where T will be once the staging pipe is empty (E). E > T only while bytes are on their way.
    pub const EXPECTED: usize = 72;
    /// u64, atomic: the lowest offset a waiting reader may still ask for; only with readers in BLOCKERS.
    pub const PINNED: usize = 80;
    /// u64, atomic: how many waiting readers there are.
    pub const BLOCKERS: usize = 88;
    /// u32, atomic: changes after everything a sleeping reader wants to hear of; what it sleeps on.
    pub const NEWS: usize = 96;
    /// u64, atomic: the generation of the ring that is written to instead of this one; 0 while this one is.
    pub const NEWER: usize = 104;
    /// u64, atomic: why nothing is added any more, a [`super::End`]; 0 while something may be.
    pub const ENDED: usize = 112;
    /// u64, atomic: how long the stream was; only once it has ended.
    pub const TOTAL: usize = 120;
    /// u64, atomic: the writer wants to hear of a waiting reader that reaches this offset; 0 if it doesn't.
    pub const WANTED: usize = 128;
    /// u64, of a ring that only keeps count: 1 if what is on its way goes to one reader, who then knows how much it was.
    pub const ALONE: usize = 136;
}

/// Why a stream ended, as its ring says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum End {
    /// Whoever wrote it is done.
    Complete = 1,
    /// It could not be taken any further.
    Broken = 2,
}

impl End {
    /// From the word in a ring.
    pub fn of(word: u64) -> Option<End> {
        match word {
            0 => None,
            1 => Some(End::Complete),
            _ => Some(End::Broken),
        }
    }
}

/// Sizes of a ring. Both are multiples of [`PAGE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The first bytes of the stream that are kept for good.
    pub head_bytes: usize,
    /// The circle.
    pub tail_bytes: usize,
}

impl Geometry {
    /// Rounds both up to whole pages; the tail is at least one page.
    pub fn new(head_bytes: usize, tail_bytes: usize) -> Geometry {
        let pages = |bytes: usize| bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES;
        Geometry { head_bytes: pages(head_bytes), tail_bytes: pages(tail_bytes.max(1)) }
    }

    /// Size of the file.
    pub fn file_bytes(self) -> usize {
        PAGE_BYTES + self.head_bytes + self.tail_bytes
    }

    /// Size of the address range that maps it.
    pub fn mapped_bytes(self) -> usize {
        self.file_bytes() + self.tail_bytes
    }

    /// Place of stream offset `offset` in the mapping. Offsets in the head have one place for ever, later ones
    /// share the circle.
    pub(crate) fn place(self, offset: u64) -> usize {
        let head = self.head_bytes as u64;
        if offset < head {
            PAGE_BYTES + offset as usize
        } else {
            PAGE_BYTES + self.head_bytes + ((offset - head) % self.tail_bytes as u64) as usize
        }
    }

    /// The first offset of the tail that still is in the circle when `taken` bytes have come.
    pub(crate) fn tail_from(self, taken: u64) -> u64 {
        taken.saturating_sub(self.tail_bytes as u64).max(self.head_bytes as u64)
    }
}

/// A ring could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The system refused memory, a mapping or a seal.
    #[error("{step}: {source}")]
    Os {
        /// What was being done.
        step: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// What is mapped is not a ring of ours.
    #[error("not a ring: {0}")]
    Foreign(&'static str),
}

impl RingError {
    pub(crate) fn os(step: &'static str) -> impl FnOnce(rustix::io::Errno) -> RingError {
        move |errno| RingError::Os { step, source: errno.into() }
    }
}
