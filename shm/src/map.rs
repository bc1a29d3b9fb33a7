//! A mapping of a ring's file: the one place that turns offsets into pointers.
//!
//! Invariant: `base .. base + geometry.mapped_bytes()` is mapped from creation to drop, and the file behind it is
//! sealed against shrinking, so no access inside it can fault.

use crate::layout::{Geometry, PAGE_BYTES, RingError};
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<u8>,
    mapped_bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and stays where it is; moving the value to another thread moves
// only the pointer. Who may write is decided by the owner (`Writer` needs `&mut`), other processes have their own
// mappings and the shared words are atomics.
unsafe impl Send for Map {}

impl Map {
    /// Maps `fd` with its tail twice in a row.
    pub(crate) fn new(fd: BorrowedFd<'_>, geometry: Geometry, writable: bool) -> Result<Map, RingError> {
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let file_bytes = geometry.file_bytes();
        let mapped_bytes = geometry.mapped_bytes();
        // SAFETY: asks for a fresh range at an address of the system's choice; nothing is replaced, and nobody
        // else knows the range until we return it.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), mapped_bytes, ProtFlags::empty(), MapFlags::PRIVATE)
                .map_err(RingError::os("reserve addresses"))?
        };
        let map =
            Map { base: NonNull::new(base.cast()).ok_or(RingError::Foreign("null mapping"))?, mapped_bytes };
        let tail_at = PAGE_BYTES + geometry.head_bytes;
        // SAFETY: both ranges lie inside the reservation just made (file_bytes + tail_bytes = mapped_bytes), which
        // only this function knows; MAP_FIXED replaces nothing but it. `map` unmaps the whole range if this fails.
        unsafe {
            mmap(base, file_bytes, prot, MapFlags::SHARED | MapFlags::FIXED, fd, 0)
                .map_err(RingError::os("map the ring"))?;
            let again = base.cast::<u8>().add(file_bytes).cast::<c_void>();
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            mmap(again, geometry.tail_bytes, prot, flags, fd, tail_at as u64)
                .map_err(RingError::os("map the tail again"))?;
        }
        Ok(map)
    }

    /// A word of the header. `at` is one of `layout::field`.
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= PAGE_BYTES, "a header field");
        // SAFETY: inside the header page (asserted), aligned (pages are, `at` is a multiple of 8), mapped as long as
        // `self` lives; everybody, other processes included, touches these words as atomics.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast::<u64>()) }
    }

    /// A half word of the header that is somebody's bed. `at` is [`field::NEWS`](crate::layout::field::NEWS).
    pub(crate) fn half(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(8) && at + 8 <= PAGE_BYTES, "a header field");
        // SAFETY: inside the header page (asserted), aligned, mapped as long as `self` lives; everybody touches this half
        // word as an atomic, and nobody the whole it is a part of.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at).cast::<u32>()) }
    }

    /// `len` bytes at `place`.
    pub(crate) fn bytes(&self, place: usize, len: usize) -> &[u8] {
        assert!(place + len <= self.mapped_bytes, "inside the ring");
        // SAFETY: inside the mapping (asserted), which lives as long as `self`. In the writer's process writes go
        // through `bytes_mut`, which borrows the map mutably; a reader of another process validates what it read
        // against TAKEN afterwards and treats the bytes as plain data, never as a structure.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(place), len) }
    }

    /// `len` writable bytes at `place`; only for a map made writable.
    pub(crate) fn bytes_mut(&mut self, place: usize, len: usize) -> &mut [u8] {
        assert!(place + len <= self.mapped_bytes, "inside the ring");
        // SAFETY: inside the mapping (asserted), which lives as long as `self` and is writable because only
        // `Writer` calls this; `&mut self` excludes every other slice of this process, other processes only read.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(place), len) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the whole range is ours since `new` and every slice of it has borrowed `self`, so none is left.
        // A failure can only mean that the range was not mapped, and leaves nothing to do.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}
