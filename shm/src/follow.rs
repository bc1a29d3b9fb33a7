//! A ring that a kernel lent and did not live to see the end of, as the next one follows it.
//!
//! ```text
//!   lent ring  … │▓▓▓▓ copied ▓▓▓▓│░░ to copy ░░ T ░░░░ limit …        own ring  … ▓▓▓▓ copied ▓▓▓▓
//! ```
//!
//! Nobody can map it writable again, so the next kernel can't say there that the stream has ended, nor what it wants to hear; whoever
//! reads gets a ring of its own, into which it copies what comes. The producer notices nothing. Invariant: the limit is at
//! most a ring beyond what has been copied, so what is still to be copied isn't written again; T is read once per look, doesn't
//! fall, and isn't beyond the limit. Where that is broken it is broken for this one producer's stream.

use crate::layout::{Geometry, PAGE_BYTES, RingError, field as ring};
use crate::map::Map;
use crate::memory::is_fixed;
use crate::producer::{close, field, tell_producer};
use crate::reader::Reader;
use crate::seat::{Closed, Nonsense};
use crate::words::Words;
use crate::writer::Writer;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::fstat;
use std::sync::atomic::{Ordering, fence};

/// A producer whose kernel died.
#[derive(Debug)]
pub struct Follow {
    map: Map,
    geometry: Geometry,
    page: Words,
    /// T as of the last look.
    seen: u64,
    copied: u64,
    limit: u64,
    heed: u64,
}

impl Follow {
    /// Goes on with a ring and its page where `copied` bytes of the stream are taken care of.
    pub fn open(ring: BorrowedFd<'_>, page: OwnedFd, copied: u64) -> Result<Follow, RingError> {
        let (map, geometry) = map(ring)?;
        let page = Words::open(page)?;
        // What was granted may have been used. Its producer may have written there, too: only so far is it believed.
        let granted = page.word(field::LIMIT).load(Ordering::SeqCst);
        let limit = granted.clamp(copied, copied.saturating_add(geometry.tail_bytes as u64));
        Ok(Follow { map, geometry, page, seen: copied, copied, limit, heed: 0 })
    }

    /// Looks how far the producer has come. How much is to be copied.
    pub fn look(&mut self) -> Result<usize, Nonsense> {
        // Once: it may be another number the next time.
        let taken = self.map.word(ring::TAKEN).load(Ordering::SeqCst);
        if taken < self.seen || taken > self.limit {
            return Err(Nonsense);
        }
        self.seen = taken;
        Ok((taken - self.copied) as usize)
    }

    /// The next bytes, as many as fit and were seen. How many.
    pub fn copy(&mut self, into: &mut [u8]) -> usize {
        let bytes = into.len().min((self.seen - self.copied) as usize);
        into[..bytes].copy_from_slice(self.map.bytes(self.geometry.place(self.copied), bytes));
        self.copied += bytes as u64;
        bytes
    }

    /// Wants to hear of every byte, and gives room for what was copied, if there is to be `more`.
    pub fn grant(&mut self, more: bool) {
        let further = if more { self.copied + self.geometry.tail_bytes as u64 / 2 } else { 0 };
        let limit = further.max(self.limit);
        self.heed = (self.seen + 1).min(limit);
        self.page.word(field::HEED).store(self.heed, Ordering::SeqCst);
        // One that was put lower meanwhile is put right.
        self.limit = limit;
        if self.page.word(field::LIMIT).swap(limit, Ordering::SeqCst) != limit {
            tell_producer(&self.page);
        }
        fence(Ordering::SeqCst);
    }

    /// True exactly when the producer has come further, and may not have known that this is to be heard of: asked after a grant.
    pub fn is_due(&self) -> bool {
        let taken = self.map.word(ring::TAKEN).load(Ordering::SeqCst);
        taken > self.seen && taken >= self.heed
    }

    /// True once the producer says that nothing more comes.
    pub fn is_ended(&self) -> bool {
        self.map.word(ring::ENDED).load(Ordering::SeqCst) != 0
    }

    /// The producer isn't looked at any more.
    pub fn close(&self, why: Closed) {
        close(&self.page, why);
    }
}

impl Writer {
    /// The first ring of its own for a stream that was written in place, with what a dead kernel's `account` says was there and stays,
    /// and room for `batch` bytes more.
    pub fn after_lent(lent: BorrowedFd<'_>, account: &Reader, batch: usize) -> Result<Writer, RingError> {
        let (map, lent) = map(lent)?;
        let taken = account.taken();
        let from = account.expected().saturating_sub(lent.tail_bytes as u64).min(taken);
        let geometry = Geometry::new(0, lent.tail_bytes + batch);
        let bytes = map.bytes(lent.place(from), (taken - from) as usize);
        Writer::beginning_with(geometry, account, from, bytes)
    }
}

/// Maps a ring that a client may write. Its size is ours, and the only thing that is: what it says of itself isn't asked.
fn map(fd: BorrowedFd<'_>) -> Result<(Map, Geometry), RingError> {
    if !is_fixed(fd)? {
        return Err(RingError::Foreign("its size is not sealed"));
    }
    let size = fstat(fd).map_err(RingError::os("read the size"))?.st_size as usize;
    let geometry = Geometry::new(0, size.saturating_sub(PAGE_BYTES));
    if geometry.file_bytes() != size {
        return Err(RingError::Foreign("sizes don't add up"));
    }
    Ok((Map::new(fd, geometry, false)?, geometry))
}
