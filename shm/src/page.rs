//! The notes a reactor leaves before it moves bytes: which stream its staging pipes belong to right now.
//!
//! All history streams of a reactor share its staging pipe, one at a time, and all inputs another. After a crash the
//! note says whose the bytes in a pipe are, and that stream's E and T say how many of them were already through.

use crate::layout::RingError;
use crate::words::Words;
use rustix::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

/// Which staging pipe a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Side {
    /// From children into rings.
    Output = 0,
    /// From inboxes into children.
    Input = 1,
}

/// One page of shared memory with a word for each side in it.
#[derive(Debug)]
pub struct Page {
    words: Words,
}

impl Page {
    /// A new page that names nobody (0).
    pub fn create() -> Result<Page, RingError> {
        Ok(Page { words: Words::create("kairo-page")? })
    }

    /// Maps the page of another process.
    pub fn open(fd: OwnedFd) -> Result<Page, RingError> {
        Ok(Page { words: Words::open(fd)? })
    }

    /// The file, for whoever keeps it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.words.descriptor()
    }

    /// Names the stream whose bytes go through a staging pipe from now on.
    pub fn name(&self, side: Side, stream: u64) {
        self.words.word(side as usize * 8).store(stream, Ordering::Release);
    }

    /// The stream named last.
    pub fn named(&self, side: Side) -> u64 {
        self.words.word(side as usize * 8).load(Ordering::Acquire)
    }
}
