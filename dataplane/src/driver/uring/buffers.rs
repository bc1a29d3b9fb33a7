//! The ring of buffers that receives are made into: which are the kernel's to fill and which are lent.
//!
//! One anonymous mapping: a page of ring entries, then the buffers, whose pages come into being when they are first
//! written. Invariant: a buffer is in the ring, or named by one completion or [`Lent`](super::super::op::Lent),
//! never both.

use io_uring::{IoUring, types};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Name of the ring among the buffer rings of one io_uring.
pub(super) const BUFFER_GROUP: u16 = 0;
/// Buffers; a power of two.
pub(super) const BUFFERS: u16 = 32;
/// Bytes of one.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of the ring's entries, rounded to a page of any size Linux has.
const ENTRIES_BYTES: usize = 64 << 10;
const MAPPING_BYTES: usize = ENTRIES_BYTES + BUFFERS as usize * BUFFER_BYTES;

const _: () = assert!(BUFFERS.is_power_of_two());
const _: () = assert!(BUFFERS as usize * size_of::<types::BufRingEntry>() <= ENTRIES_BYTES);

/// Buffers shared with the kernel.
pub(super) struct BufferRing {
    mapping: NonNull<u8>,
    /// Entries ever put in, modulo 2^16.
    tail: u16,
    leaked: bool,
}

impl BufferRing {
    /// Makes the buffers, all of them the kernel's to fill. They must outlive the ring's operations.
    pub(super) fn register(ring: &IoUring) -> io::Result<BufferRing> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let mapping = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                MAPPING_BYTES,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        }?;
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut buffers = BufferRing { mapping, tail: 0, leaked: false };
        // SAFETY: the entries are at the start of the mapping, page-aligned and zeroed, and the mapping lives until
        // `drop`, which comes after the io_uring's own (by the order of fields of the driver).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(mapping.as_ptr() as u64, BUFFERS, BUFFER_GROUP, 0)
        }?;
        for buffer in 0..BUFFERS {
            buffers.put(buffer);
        }
        Ok(buffers)
    }

    /// The first bytes of a buffer that is lent.
    pub(super) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(
            buffer < BUFFERS && len <= BUFFER_BYTES,
            "buffer {buffer} with {len} bytes is not of this ring"
        );
        // SAFETY: inside the mapping, as just checked. The kernel fills only what is in its ring, and the caller
        // holds the one `Lent` that names this buffer, so that nobody writes it while the borrow lives.
        unsafe { std::slice::from_raw_parts(self.start_of(buffer), len) }
    }

    /// Makes a buffer the kernel's to fill.
    pub(super) fn put(&mut self, buffer: u16) {
        let entries = self.mapping.as_ptr().cast::<types::BufRingEntry>();
        let address = self.start_of(buffer) as u64;
        // SAFETY: the masked index is inside the entries, and the kernel reads an entry only after the tail has
        // passed it. There are as many entries as buffers, so that none is overwritten before it was taken. The
        // tail lies where the first entry has a field that isn't written here.
        unsafe {
            let entry = &mut *entries.add(usize::from(self.tail & (BUFFERS - 1)));
            entry.set_addr(address);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = types::BufRingEntry::tail(entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    /// Never frees the memory: the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }

    fn start_of(&self, buffer: u16) -> *mut u8 {
        // Inside the mapping for every buffer of the ring.
        self.mapping.as_ptr().wrapping_add(ENTRIES_BYTES + usize::from(buffer) * BUFFER_BYTES)
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: mapped by `register`, with this length; no receive is in flight, and no borrow outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.mapping.as_ptr().cast(), MAPPING_BYTES) };
    }
}
