//! What was written to a child's stdin and is not yet through: a circle of bytes that outlives the kernel.
//!
//! ```text
//!   append ─▶ [ … T ▓▓▓▓▓▓ E ░░░░░░░ A ····· C ]    T: in the child's pipe   E: T once the input staging pipe is empty
//!                                                  A: taken from clients    C: A once the output staging pipe is empty
//! ```
//!
//! Bytes go from here through the reactor's input staging pipe into the child, and stay here until they are through.
//! So after a kill E > T means that E less what the staging pipe still holds went in, and E = T that nothing of what
//! it holds did. A keyed write leaves a record: sent again, it is found instead of written again.
//!
//! What comes from a pipe comes through the reactor's output staging pipe, as into a ring: C > A means that C less what that
//! still holds is here, C ≤ A that whatever it holds is new.
//!
//! Invariant: T ≤ E ≤ A, and `[T, A)` is here, or, where another stream fills the input, there.

mod parcel;

pub use parcel::{Parcel, Standing};

use crate::layout::{Geometry, PAGE_BYTES, RingError};
use crate::map::Map;
use crate::memory::{Writers, anonymous, is_fixed, seal};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// `KAIROINB`, little endian, at byte 0 of the header.
const MAGIC: u64 = u64::from_le_bytes(*b"KAIROINB");
/// Version of this layout.
const VERSION: u64 = 1;
/// Keyed writes that are remembered.
const KEYS_MAX: u64 = 64;

/// Byte offsets of the header's fields, all u64.
mod field {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 8;
    pub(super) const APPENDED: usize = 64;
    pub(super) const WRITTEN: usize = 72;
    pub(super) const EXPECTED: usize = 80;
    /// One past the offset after which the input is to be closed; 0 if it isn't.
    pub(super) const CLOSE: usize = 88;
    /// Keyed writes there have been.
    pub(super) const KEYS: usize = 96;
    /// One past where in another stream the first byte of this one stood; 0 if none fills it.
    pub(super) const FED_FROM: usize = 104;
    /// What A will be; at most A if nothing is on its way.
    pub(super) const COMING: usize = 112;
    /// The first of the records, six words each.
    pub(super) const RECORDS: usize = 256;
    pub(super) const RECORD_BYTES: usize = 48;
}

const _: () =
    assert!(field::RECORDS + KEYS_MAX as usize * field::RECORD_BYTES <= PAGE_BYTES, "records fit the header");

/// A write's key, and a digest of what it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriteKey {
    /// Digest of who writes and the key they gave.
    pub key: [u64; 2],
    /// Digest of what the call said.
    pub body: u64,
}

/// A keyed write that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteRecord {
    /// Whose.
    pub key: WriteKey,
    /// Its first offset.
    pub from: u64,
    /// One past its last.
    pub to: u64,
}

/// The bytes on their way into one child.
#[derive(Debug)]
pub struct Inbox {
    fd: OwnedFd,
    map: Map,
    geometry: Geometry,
}

impl Inbox {
    /// An empty one for at least `bytes` bytes, at stream offset 0.
    pub fn create(bytes: usize) -> Result<Inbox, RingError> {
        Inbox::at(bytes, 0)
    }

    fn at(bytes: usize, offset: u64) -> Result<Inbox, RingError> {
        let geometry = Geometry::new(0, bytes);
        let fd = anonymous("kairo-inbox", geometry.file_bytes())?;
        seal(&fd, Writers::Anybody)?;
        let map = Map::new(fd.as_fd(), geometry, true)?;
        let inbox = Inbox { fd, map, geometry };
        inbox.set(field::MAGIC, MAGIC);
        inbox.set(field::VERSION, VERSION);
        for word in [field::APPENDED, field::EXPECTED, field::WRITTEN] {
            inbox.set(word, offset);
        }
        Ok(inbox)
    }

    /// Takes over what a dead kernel left. It must be alone with it.
    pub fn open(fd: OwnedFd) -> Result<Inbox, RingError> {
        let size = rustix::fs::fstat(&fd).map_err(RingError::os("read the size"))?.st_size as usize;
        if size < 2 * PAGE_BYTES || !size.is_multiple_of(PAGE_BYTES) || !is_fixed(fd.as_fd())? {
            return Err(RingError::Foreign("not an inbox"));
        }
        let geometry = Geometry::new(0, size - PAGE_BYTES);
        let map = Map::new(fd.as_fd(), geometry, true)?;
        let inbox = Inbox { fd, map, geometry };
        if inbox.get(field::MAGIC) != MAGIC || inbox.get(field::VERSION) != VERSION {
            return Err(RingError::Foreign("wrong magic or version"));
        }
        let (written, expected, appended) = (inbox.written(), inbox.expected(), inbox.appended());
        if written > expected || expected > appended || appended - written > geometry.tail_bytes as u64 {
            return Err(RingError::Foreign("its offsets contradict each other"));
        }
        if inbox.coming() - written > geometry.tail_bytes as u64 {
            return Err(RingError::Foreign("more is on its way than it has room for"));
        }
        // A record whose bytes had not all come is of a write that was not taken.
        let keys = inbox.get(field::KEYS);
        if keys > 0 && inbox.record(keys - 1).to > appended {
            inbox.set(field::KEYS, keys - 1);
        }
        Ok(inbox)
    }

    fn get(&self, at: usize) -> u64 {
        self.map.word(at).load(Ordering::Acquire)
    }

    fn set(&self, at: usize, value: u64) {
        self.map.word(at).store(value, Ordering::Release);
    }

    /// The file, for whoever keeps it.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// How much it can hold, bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.geometry.tail_bytes
    }

    /// Bytes that were taken from clients (A).
    pub fn appended(&self) -> u64 {
        self.get(field::APPENDED)
    }

    /// Bytes that are in the child's pipe, or beyond (T).
    pub fn written(&self) -> u64 {
        self.get(field::WRITTEN)
    }

    /// What T will be once the staging pipe is empty (E).
    pub fn expected(&self) -> u64 {
        self.get(field::EXPECTED)
    }

    /// How many bytes can be appended.
    pub fn room_bytes(&self) -> usize {
        self.geometry.tail_bytes - (self.appended() - self.written()) as usize
    }

    /// Takes bytes whole. There must be room.
    pub fn append(&mut self, data: &[u8], key: Option<WriteKey>) {
        assert!(data.len() <= self.room_bytes(), "room is made before");
        let (from, to) = (self.appended(), self.appended() + data.len() as u64);
        let place = self.geometry.place(from);
        self.map.bytes_mut(place, data.len()).copy_from_slice(data);
        if let Some(key) = key {
            self.note(WriteRecord { key, from, to });
        }
        self.set(field::APPENDED, to);
    }

    /// What A will be once the pipe that bytes come through is empty (C); A if nothing is on its way.
    pub fn coming(&self) -> u64 {
        self.get(field::COMING).max(self.appended())
    }

    /// Notes that `bytes` more are on their way (C = A + bytes). There must be room.
    pub fn await_bytes(&self, bytes: usize) {
        assert!(bytes <= self.room_bytes(), "room is made before");
        self.set(field::COMING, self.appended() + bytes as u64);
    }

    /// Where those go that are on their way.
    pub fn awaited(&mut self) -> &mut [u8] {
        let from = self.appended();
        let bytes = (self.coming() - from) as usize;
        self.map.bytes_mut(self.geometry.place(from), bytes)
    }

    /// Notes that all of them are there (A = C).
    pub fn admit(&self) {
        self.set(field::APPENDED, self.coming());
    }

    fn note(&self, record: WriteRecord) {
        let number = self.get(field::KEYS);
        let [first, second] = record.key.key;
        let words = [first, second, record.key.body, record.from, record.to];
        for (nth, word) in words.into_iter().enumerate() {
            self.set(place_of(number) + nth * 8, word);
        }
        self.set(field::KEYS, number + 1);
    }

    fn record(&self, number: u64) -> WriteRecord {
        let word = |nth: usize| self.get(place_of(number) + nth * 8);
        let key = WriteKey { key: [word(0), word(1)], body: word(2) };
        WriteRecord { key, from: word(3), to: word(4) }
    }

    /// The remembered write of a key.
    pub fn find(&self, key: [u64; 2]) -> Option<WriteRecord> {
        let keys = self.get(field::KEYS);
        let oldest = keys.saturating_sub(KEYS_MAX);
        (oldest..keys).rev().map(|number| self.record(number)).find(|record| record.key.key == key)
    }

    /// The bytes that are next, at most `max`.
    pub fn pending(&self, max: usize) -> &[u8] {
        let written = self.written();
        let len = ((self.appended() - written) as usize).min(max);
        self.map.bytes(self.geometry.place(written), len)
    }

    /// Notes that `bytes` more are in the staging pipe (E = T + bytes).
    pub fn expect(&self, bytes: usize) {
        self.set(field::EXPECTED, self.written() + bytes as u64);
    }

    /// Notes that the child has everything below `offset` and that the staging pipe holds nothing that counts.
    pub fn settle(&self, offset: u64) {
        self.set(field::WRITTEN, offset);
        self.set(field::EXPECTED, offset);
        if self.fed_from().is_some() {
            self.set(field::APPENDED, offset);
        }
    }

    /// Where another stream is read from that fills this input, if one does. Its bytes are never here: they stay where they are
    /// until they are through, so how far that stream was read is this and [T](Inbox::written), one word, which can't differ
    /// from what went in after a kill.
    pub fn fed_from(&self) -> Option<u64> {
        self.get(field::FED_FROM).checked_sub(1)
    }

    /// Notes that the other stream is read from there. Before anything has gone in.
    pub fn begin_feed(&self, from: u64) {
        self.set(field::FED_FROM, from + 1);
    }

    /// Notes that so many bytes of the other stream are on their way, until they are [settled](Inbox::settle).
    pub fn lend(&self, bytes: usize) {
        debug_assert!(self.fed_from().is_some() && bytes <= self.geometry.tail_bytes);
        self.set(field::APPENDED, self.written() + bytes as u64);
    }

    /// The input is to be closed after what is here.
    pub fn request_close(&self) {
        self.set(field::CLOSE, self.appended() + 1);
    }

    /// True exactly when nothing more is to come.
    pub fn is_closing(&self) -> bool {
        self.get(field::CLOSE) != 0
    }

    /// Another inbox with the same content, for at least `bytes` bytes more, without the bytes of `skip`, none of which
    /// has left. The writes behind it move down, and so do their records.
    pub fn rebuilt(&self, bytes: usize, skip: Range<u64>) -> Result<Inbox, RingError> {
        let (written, appended) = (self.written(), self.appended());
        let skipped = skip.end - skip.start;
        let pending = (appended - written - skipped) as usize;
        let mut other = Inbox::at(pending + bytes, written)?;
        for part in [written..skip.start, skip.end..appended] {
            if part.start < part.end {
                let len = (part.end - part.start) as usize;
                let from = other.appended();
                let place = other.geometry.place(from);
                other
                    .map
                    .bytes_mut(place, len)
                    .copy_from_slice(self.map.bytes(self.geometry.place(part.start), len));
                other.set(field::APPENDED, from + len as u64);
            }
        }
        if let Some(from) = self.fed_from() {
            other.begin_feed(from);
        }
        let keys = self.get(field::KEYS);
        for record in (keys.saturating_sub(KEYS_MAX)..keys).map(|number| self.record(number)) {
            let gone = record.from < record.to && record.from < skip.end && skip.start < record.to;
            let moved = if record.from >= skip.end { skipped } else { 0 };
            if !gone {
                other.note(WriteRecord { from: record.from - moved, to: record.to - moved, ..record });
            }
        }
        if self.is_closing() {
            other.request_close();
        }
        Ok(other)
    }
}

fn place_of(number: u64) -> usize {
    field::RECORDS + (number % KEYS_MAX) as usize * field::RECORD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> WriteKey {
        WriteKey { key: [number, !number], body: number * 3 }
    }

    #[test]
    fn what_is_appended_comes_out_in_order_round_the_circle() {
        let mut inbox = Inbox::create(4096).unwrap();
        for round in 0..10u8 {
            inbox.append(&[round; 3000], None);
            assert_eq!(inbox.pending(5000), [round; 3000]);
            inbox.expect(3000);
            inbox.settle(inbox.expected());
        }
        assert_eq!((inbox.written(), inbox.room_bytes()), (30_000, 4096));
    }

    #[test]
    fn a_successor_finds_bytes_keys_and_the_wish_to_close() {
        let mut inbox = Inbox::create(4096).unwrap();
        inbox.append(b"first", Some(key(1)));
        inbox.append(b"second", Some(key(2)));
        inbox.request_close();
        let again = Inbox::open(inbox.descriptor().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(again.pending(99), b"firstsecond");
        assert!(again.is_closing());
        assert_eq!(again.find(key(2).key), Some(WriteRecord { key: key(2), from: 5, to: 11 }));
        assert_eq!(again.find(key(3).key), None);
    }

    #[test]
    fn a_record_whose_bytes_never_came_is_none() {
        let mut inbox = Inbox::create(4096).unwrap();
        inbox.append(b"first", Some(key(1)));
        inbox.note(WriteRecord { key: key(2), from: 5, to: 11 });
        let again = Inbox::open(inbox.descriptor().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((again.find(key(2).key), again.find(key(1).key).map(|found| found.to)), (None, Some(5)));
    }

    #[test]
    fn only_the_latest_keys_are_remembered() {
        let mut inbox = Inbox::create(4096).unwrap();
        for number in 0..100 {
            inbox.append(b"x", Some(key(number)));
        }
        assert_eq!(inbox.find(key(35).key), None);
        assert_eq!(inbox.find(key(36).key).map(|found| found.from), Some(36));
    }

    #[test]
    fn a_rebuilt_inbox_has_all_but_what_was_given_up() {
        let mut inbox = Inbox::create(4096).unwrap();
        inbox.append(b"gone already", None);
        inbox.settle(12);
        for (number, word) in [(1, b"one"), (2, b"two"), (3, b"six")] {
            inbox.append(word, Some(key(number)));
        }
        inbox.request_close();
        let other = inbox.rebuilt(100_000, 15..18).unwrap();
        assert_eq!((other.written(), other.pending(99)), (12, &b"onesix"[..]));
        assert!(other.room_bytes() >= 100_000 && other.is_closing());
        assert_eq!(other.find(key(1).key).map(|found| (found.from, found.to)), Some((12, 15)));
        assert_eq!(other.find(key(2).key), None);
        assert_eq!(other.find(key(3).key).map(|found| (found.from, found.to)), Some((15, 18)));
    }

    #[test]
    fn a_fed_inbox_knows_its_place_in_the_other_stream_whoever_opens_it() {
        let inbox = Inbox::create(4096).unwrap();
        assert_eq!(inbox.fed_from(), None);
        inbox.begin_feed(1000);
        inbox.lend(12);
        inbox.expect(12);
        let again = Inbox::open(inbox.descriptor().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((again.fed_from(), again.written(), again.expected()), (Some(1000), 0, 12));
        again.settle(7);
        assert_eq!(
            (again.written(), again.appended()),
            (7, 7),
            "what has not gone in is in the other stream"
        );
        let other = again.rebuilt(4096, 7..7).unwrap();
        assert_eq!((other.fed_from(), other.written()), (Some(1000), 7));
    }

    #[test]
    fn a_successor_finds_what_is_on_its_way_and_a_write_behind_it_is_no_part_of_that() {
        let mut inbox = Inbox::create(4096).unwrap();
        inbox.append(b"before ", None);
        assert_eq!(inbox.coming(), 7);
        inbox.await_bytes(6);
        inbox.awaited()[..2].copy_from_slice(b"wh");
        let mut again = Inbox::open(inbox.descriptor().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((again.appended(), again.coming()), (7, 13));
        again.awaited()[2..].copy_from_slice(b"ole ");
        again.admit();
        again.append(b"behind", None);
        assert_eq!((again.coming(), again.pending(99)), (19, &b"before whole behind"[..]));
    }

    #[test]
    fn what_is_no_inbox_is_refused() {
        let other = crate::writer::Writer::create(Geometry::new(0, 4096)).unwrap();
        assert!(Inbox::open(other.descriptor().try_clone_to_owned().unwrap()).is_err());
    }
}
