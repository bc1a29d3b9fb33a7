//! One page of shared words that more than one process may write.
//!
//! Invariant: the page is mapped from creation to drop, and its file is sealed at one page before anybody else gets it:
//! no access can fault. What the words say may be anything at any time.

use crate::layout::{PAGE_BYTES, RingError};
use crate::memory::{Writers, anonymous, is_fixed, seal};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

#[derive(Debug)]
pub(crate) struct Words {
    fd: OwnedFd,
    base: NonNull<u8>,
}

// SAFETY: the mapping is this value's alone and doesn't move; its words are atomics.
unsafe impl Send for Words {}

impl Words {
    /// A page of zeros.
    pub(crate) fn create(name: &str) -> Result<Words, RingError> {
        let fd = anonymous(name, PAGE_BYTES)?;
        seal(&fd, Writers::Anybody)?;
        Words::map(fd)
    }

    /// The page of another process.
    pub(crate) fn open(fd: OwnedFd) -> Result<Words, RingError> {
        let size = rustix::fs::fstat(&fd).map_err(RingError::os("read the size"))?.st_size;
        if size != PAGE_BYTES as i64 || !is_fixed(fd.as_fd())? {
            return Err(RingError::Foreign("not a page"));
        }
        Words::map(fd)
    }

    fn map(fd: OwnedFd) -> Result<Words, RingError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping, at an address of the system's choice, of a file exactly one page long and
        // sealed against shrinking; it is ours until drop.
        let base = unsafe {
            mmap(std::ptr::null_mut(), PAGE_BYTES, prot, MapFlags::SHARED, &fd, 0)
                .map_err(RingError::os("map the page"))?
        };
        let base = NonNull::new(base.cast()).ok_or(RingError::Foreign("null mapping"))?;
        Ok(Words { fd, base })
    }

    /// The file.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The word at byte `at`, a multiple of 8.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= PAGE_BYTES, "a word of the page");
        // SAFETY: inside our own page (asserted) and aligned (pages are, `at` is a multiple of 8), mapped as long as
        // `self`; all sides, other processes included, use it as an atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast::<u64>()) }
    }

    /// The half word at byte `at`, a multiple of 8: what somebody sleeps on.
    pub(crate) fn half(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(8) && at + 8 <= PAGE_BYTES, "a word of the page");
        // SAFETY: as above; half of an aligned word is aligned, and this half is never used as a part of the whole.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at).cast::<u32>()) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, unmapped only here; `word` and `half` borrow `self`, so no reference is left.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), PAGE_BYTES) };
    }
}
