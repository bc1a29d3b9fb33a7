//! The notes a reactor leaves before it moves bytes: which stream its staging pipes belong to right now.
//!
//! All history streams of a reactor share its staging pipe, one at a time, and all inputs another. After a crash the
//! note says whose the bytes in a pipe are, and that stream's E and T say how many of them were already through.

use crate::layout::{PAGE_BYTES, RingError};
use crate::memory::{Writers, anonymous, is_fixed, seal};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

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
    fd: OwnedFd,
    base: NonNull<u64>,
}

// SAFETY: the mapping is this value's alone and doesn't move; its words are atomics.
unsafe impl Send for Page {}

impl Page {
    /// A new page that names nobody (0).
    pub fn create() -> Result<Page, RingError> {
        let fd = anonymous("kairo-page", PAGE_BYTES)?;
        seal(&fd, Writers::Anybody)?;
        Page::map(fd)
    }

    /// Maps the page of another process.
    pub fn open(fd: OwnedFd) -> Result<Page, RingError> {
        let size = rustix::fs::fstat(&fd).map_err(RingError::os("read the size"))?.st_size;
        if size != PAGE_BYTES as i64 || !is_fixed(fd.as_fd())? {
            return Err(RingError::Foreign("not a page"));
        }
        Page::map(fd)
    }

    fn map(fd: OwnedFd) -> Result<Page, RingError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping, at an address of the system's choice, of a file exactly one page long and
        // sealed against shrinking; it is ours until drop.
        let base = unsafe {
            mmap(std::ptr::null_mut(), PAGE_BYTES, prot, MapFlags::SHARED, &fd, 0)
                .map_err(RingError::os("map the page"))?
        };
        let base = NonNull::new(base.cast()).ok_or(RingError::Foreign("null mapping"))?;
        Ok(Page { fd, base })
    }

    fn word(&self, side: Side) -> &AtomicU64 {
        // SAFETY: the first or second word of our own page, aligned, mapped as long as `self`; all sides use it as an
        // atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(side as usize)) }
    }

    /// The file, for whoever keeps it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Names the stream whose bytes go through a staging pipe from now on.
    pub fn name(&self, side: Side, stream: u64) {
        self.word(side).store(stream, Ordering::Release);
    }

    /// The stream named last.
    pub fn named(&self, side: Side) -> u64 {
        self.word(side).load(Ordering::Acquire)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, unmapped only here; `word` borrows `self`, so no reference is left.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), PAGE_BYTES) };
    }
}
