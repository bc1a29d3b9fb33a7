//! A ring as everybody but its writer sees it: read-only, and possibly overwritten while being read.
//!
//! A copy is valid only if, after it was made, the writer had not yet come round to it; [`Reader::copy`] checks
//! that, so a torn copy is never returned.

use crate::layout::{End, Geometry, MAGIC, PAGE_BYTES, RingError, VERSION, field};
use crate::map::Map;
use crate::memory::{is_fixed, sleep};
use rustix::fd::BorrowedFd;
use rustix::fs::fstat;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

/// A read-only mapping of somebody's ring.
#[derive(Debug)]
pub struct Reader {
    map: Map,
    geometry: Geometry,
    born_at: u64,
}

impl Reader {
    /// Maps `fd`. Refuses what isn't sealed against shrinking (reading it could fault) or isn't a ring.
    pub fn open(fd: BorrowedFd<'_>) -> Result<Reader, RingError> {
        if !is_fixed(fd)? {
            return Err(RingError::Foreign("its size is not sealed"));
        }
        let size = fstat(fd).map_err(RingError::os("read the size"))?.st_size as usize;
        let geometry = Reader::geometry_of(fd, size)?;
        let map = Map::new(fd, geometry, false)?;
        let born_at = map.word(field::BORN_AT).load(Ordering::Relaxed);
        Ok(Reader { map, geometry, born_at })
    }

    pub(crate) fn geometry_of(fd: BorrowedFd<'_>, size: usize) -> Result<Geometry, RingError> {
        if size < 2 * PAGE_BYTES {
            return Err(RingError::Foreign("too short"));
        }
        // SAFETY: a fresh read-only mapping of the first page of a file that is at least that long and sealed
        // against shrinking; only this function knows it, and it is unmapped below.
        let page = unsafe {
            mmap(std::ptr::null_mut(), PAGE_BYTES, ProtFlags::READ, MapFlags::SHARED, fd, 0)
                .map_err(RingError::os("map the header"))?
        };
        let word = |at: usize| {
            // SAFETY: inside the page mapped above, aligned to 8, read as an atomic.
            unsafe { AtomicU64::from_ptr(page.cast::<u8>().add(at).cast::<u64>()) }.load(Ordering::Acquire)
        };
        let found = [field::MAGIC, field::VERSION, field::HEAD_BYTES, field::TAIL_BYTES].map(word);
        // SAFETY: mapped above, and `word` returned values, so nothing refers to it any more.
        let _ = unsafe { munmap(page, PAGE_BYTES) };
        let [magic, version, head_bytes, tail_bytes] = found;
        if magic != MAGIC || version as u32 != VERSION {
            return Err(RingError::Foreign("wrong magic or version"));
        }
        let sum = head_bytes.checked_add(tail_bytes).and_then(|bytes| bytes.checked_add(PAGE_BYTES as u64));
        if sum != Some(size as u64) {
            return Err(RingError::Foreign("sizes don't add up"));
        }
        let geometry = Geometry { head_bytes: head_bytes as usize, tail_bytes: tail_bytes as usize };
        if geometry != Geometry::new(geometry.head_bytes, geometry.tail_bytes) {
            return Err(RingError::Foreign("sizes are not whole pages"));
        }
        Ok(geometry)
    }

    /// Bytes of the stream so far (T).
    pub fn taken(&self) -> u64 {
        self.map.word(field::TAKEN).load(Ordering::Acquire)
    }

    /// Where T was to be next (E); more than T only if the writer was stopped in the middle.
    pub fn expected(&self) -> u64 {
        self.map.word(field::EXPECTED).load(Ordering::Acquire)
    }

    /// What was on its way went to one reader alone.
    pub fn is_to_one(&self) -> bool {
        self.map.word(field::ALONE).load(Ordering::Acquire) == 1
    }

    /// What the writer noted of readers it waits for: the slowest one's offset, and how many they are.
    pub fn pinned(&self) -> (u64, u32) {
        let blockers = self.map.word(field::BLOCKERS).load(Ordering::Acquire);
        let offset = self.map.word(field::PINNED).load(Ordering::Relaxed);
        (offset, blockers.try_into().unwrap_or(u32::MAX))
    }

    /// For a writer that succeeds this ring's.
    pub(crate) fn parts(&self) -> (Geometry, &Map) {
        (self.geometry, &self.map)
    }

    /// How often the stream has got a new ring.
    pub fn generation(&self) -> u64 {
        self.map.word(field::GENERATION).load(Ordering::Acquire)
    }

    /// What changes with every piece of news; see [`Reader::sleep`].
    pub fn news(&self) -> u32 {
        self.map.half(field::NEWS).load(Ordering::SeqCst)
    }

    /// Sleeps until there is news after `seen`, at most so long. Wakes for no reason at times.
    pub fn sleep(&self, seen: u32, timeout: Duration) {
        sleep(self.map.half(field::NEWS), seen, timeout);
    }

    /// How the stream ended and how long it was, once it has.
    pub fn end(&self) -> Option<(End, u64)> {
        let end = End::of(self.map.word(field::ENDED).load(Ordering::Acquire))?;
        Some((end, self.map.word(field::TOTAL).load(Ordering::Relaxed)))
    }

    /// The generation of the ring that is written to instead of this one.
    pub fn newer(&self) -> Option<u64> {
        Some(self.map.word(field::NEWER).load(Ordering::Acquire)).filter(|generation| *generation != 0)
    }

    /// The offset whose passing the writer wants to hear of.
    pub fn wanted(&self) -> Option<u64> {
        Some(self.map.word(field::WANTED).load(Ordering::SeqCst)).filter(|offset| *offset != 0)
    }

    /// True exactly when nothing of `[from, ..)` had been overwritten, or begun to be, when this was called: what was
    /// read of it before is what the stream had there.
    pub fn is_intact(&self, from: u64) -> bool {
        fence(Ordering::Acquire);
        from < self.geometry.head_bytes as u64 || from >= self.tail_from(self.expected().max(self.taken()))
    }

    /// First offset of the tail that is here, if `taken` bytes have come.
    pub fn tail_from(&self, taken: u64) -> u64 {
        self.geometry.tail_from(taken).max(self.born_at)
    }

    /// Size of the circle.
    pub fn tail_bytes(&self) -> u64 {
        self.geometry.tail_bytes as u64
    }

    /// Size of the head: offsets below it that have come are always here.
    pub fn head_bytes(&self) -> u64 {
        self.geometry.head_bytes as u64
    }

    /// The contiguous run of bytes that starts at `offset`, at most `max` long, where it lies; none if it isn't here. Only
    /// for whoever has the writer wait for it, as these bytes may not be overwritten while they are looked at.
    pub fn run(&self, offset: u64, max: usize) -> Option<&[u8]> {
        let (taken, head) = (self.taken(), self.geometry.head_bytes as u64);
        if offset >= taken || max == 0 || (offset >= head && offset < self.tail_from(taken)) {
            return None;
        }
        let end = if offset < head { taken.min(head) } else { taken };
        Some(self.map.bytes(self.geometry.place(offset), ((end - offset) as usize).min(max)))
    }

    /// Appends `[from, to)` to `into`, where `to` may reach past T if the caller knows that those bytes are there
    /// (a dead writer's last, uncounted ones). False, with `into` as it was, if some of it was overwritten.
    pub fn copy(&self, from: u64, to: u64, into: &mut Vec<u8>) -> bool {
        let before = into.len();
        let mut at = from;
        while at < to {
            let head = self.geometry.head_bytes as u64;
            let end = if at < head { to.min(head) } else { to };
            if at >= head && (at < self.tail_from(to) || end - at > self.geometry.tail_bytes as u64) {
                into.truncate(before);
                return false;
            }
            into.extend_from_slice(self.map.bytes(self.geometry.place(at), (end - at) as usize));
            at = end;
        }
        fence(Ordering::Acquire);
        // The writer may be filling up to E by now: what lies a circle before E may be torn.
        let reach = self.expected().max(self.taken()).max(to);
        let torn_below = reach.saturating_sub(self.geometry.tail_bytes as u64);
        let tail_part = from.max(self.geometry.head_bytes as u64);
        if tail_part < to && tail_part < torn_below {
            into.truncate(before);
            return false;
        }
        true
    }
}
