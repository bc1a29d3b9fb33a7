//! The format of a segment, version 1.
//!
//! ```text
//!  | header | header again | record | data ...... | record | data ...... |
//!  0        128            256
//! ```
//!
//! All numbers are little endian. The header is there twice, so that one damaged byte doesn't cost 64 MiB. A record's
//! header has a checksum of its own: its length can be trusted, so damaged data costs one record, and a damaged header
//! costs what lies before the next one that is found. Checksums of record headers are salted with a number drawn for the
//! segment: a child that writes what looks like a record is not taken for one. Invariant: offsets in a segment grow without
//! a hole, so the place of record n at offset o is 256 + 24·n + (o − first).

use crate::key::Channel;
use crate::limits::SPOOL_RECORD_BYTES_MAX;
use crate::spool::{Identity, SpoolError};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// First bytes of a segment.
pub const MAGIC: &[u8; 8] = b"KAIROSPL";
/// The version this program writes, and the latest it reads.
pub const VERSION: u32 = 1;
/// Both copies of the header.
pub const HEADER_BYTES: u64 = 2 * COPY_BYTES as u64;
/// A record without its data.
pub const RECORD_HEADER_BYTES: usize = 24;
/// Longest name of a session.
pub const SESSION_BYTES_MAX: usize = 64;

const COPY_BYTES: usize = 128;
const MARK: u32 = u32::from_le_bytes(*b"KREC");
/// How a file's name ends.
const SUFFIX: &str = ".seg";

/// Places in a copy of the header.
mod place {
    pub(super) const VERSION: usize = 8;
    pub(super) const CHANNEL: usize = 12;
    pub(super) const SESSION_LEN: usize = 13;
    pub(super) const FIRST: usize = 16;
    pub(super) const CREATED: usize = 24;
    pub(super) const SALT: usize = 32;
    pub(super) const SESSION: usize = 40;
    pub(super) const CRC: usize = super::COPY_BYTES - 4;
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose bytes.
    pub identity: Identity,
    /// Offset of the first byte.
    pub first: u64,
    /// When it was made, nanoseconds since 1970.
    pub created_ns: u64,
    /// Goes into the checksums of its records' headers.
    pub salt: u64,
}

/// A record's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Bytes of data, 1 to [`SPOOL_RECORD_BYTES_MAX`].
    pub length: u32,
    /// Of the first of them.
    pub offset: u64,
    /// Of length, offset and data.
    pub checksum: u32,
}

impl Record {
    /// One past its last offset.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// What it takes in the file.
    pub fn file_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + u64::from(self.length)
    }
}

/// What became of a header.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// It can be read.
    Whole(Header),
    /// Both copies are damaged, or the file ends before them.
    Damaged,
}

/// The name of the segment that begins at an offset.
pub fn file_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The offset a segment's name tells; none for other files.
pub fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

impl Header {
    /// Both copies.
    pub fn bytes(&self) -> [u8; HEADER_BYTES as usize] {
        let mut copy = [0; COPY_BYTES];
        let session = self.identity.session.as_bytes();
        copy[..8].copy_from_slice(MAGIC);
        copy[place::VERSION..][..4].copy_from_slice(&VERSION.to_le_bytes());
        copy[place::CHANNEL] = self.identity.channel as u8;
        copy[place::SESSION_LEN] = session.len() as u8;
        copy[place::FIRST..][..8].copy_from_slice(&self.first.to_le_bytes());
        copy[place::CREATED..][..8].copy_from_slice(&self.created_ns.to_le_bytes());
        copy[place::SALT..][..8].copy_from_slice(&self.salt.to_le_bytes());
        copy[place::SESSION..][..session.len()].copy_from_slice(session);
        let checksum = crc32fast::hash(&copy[..place::CRC]);
        copy[place::CRC..].copy_from_slice(&checksum.to_le_bytes());
        let mut both = [0; HEADER_BYTES as usize];
        both[..COPY_BYTES].copy_from_slice(&copy);
        both[COPY_BYTES..].copy_from_slice(&copy);
        both
    }

    fn parse(copy: &[u8]) -> Option<Header> {
        let sound = copy.len() == COPY_BYTES
            && copy[..8] == *MAGIC
            && u32_at(copy, place::VERSION) == VERSION
            && u32_at(copy, place::CRC) == crc32fast::hash(&copy[..place::CRC]);
        if !sound {
            return None;
        }
        let channel = *Channel::ALL.get(copy[place::CHANNEL] as usize)?;
        let session = copy[place::SESSION..place::CRC].get(..copy[place::SESSION_LEN] as usize)?;
        let identity = Identity::new(std::str::from_utf8(session).ok()?, channel).ok()?;
        Some(Header {
            identity,
            first: u64_at(copy, place::FIRST),
            created_ns: u64_at(copy, place::CREATED),
            salt: u64_at(copy, place::SALT),
        })
    }

    /// Reads the header of a segment that should be `identity`'s and begin at `first`.
    pub fn read(file: &File, path: &Path, identity: &Identity, first: u64) -> Result<Opened, SpoolError> {
        let mut bytes = [0; HEADER_BYTES as usize];
        let got = read_up_to(file, &mut bytes, 0).map_err(SpoolError::os("read", path))?;
        let copies = [&bytes[..COPY_BYTES.min(got)], &bytes[COPY_BYTES.min(got)..got]];
        if let Some(header) = copies.iter().find_map(|copy| Header::parse(copy)) {
            if header.identity != *identity || header.first != first {
                let why = "its header names another stream or place";
                return Err(SpoolError::Foreign { path: path.to_owned(), why });
            }
            return Ok(Opened::Whole(header));
        }
        let named = |copy: &&&[u8]| copy.len() >= 12 && copy[..8] == *MAGIC;
        let versions = || copies.iter().filter(named).map(|copy| u32_at(copy, place::VERSION));
        // One copy alone may be a damaged one of ours; a later version is one only if nothing speaks against it.
        if let Some(version) = versions().min().filter(|version| *version > VERSION && *version < 1 << 16) {
            return Err(SpoolError::Newer { path: path.to_owned(), version });
        }
        if versions().next().is_none() && got >= COPY_BYTES && bytes.iter().any(|byte| *byte != 0) {
            return Err(SpoolError::Foreign { path: path.to_owned(), why: "it does not begin as one" });
        }
        Ok(Opened::Damaged)
    }
}

/// A record's header, and the checksum over its data with it.
pub fn record_bytes(salt: u64, offset: u64, data: &[u8]) -> [u8; RECORD_HEADER_BYTES] {
    let length = data.len() as u32;
    let mut bytes = [0; RECORD_HEADER_BYTES];
    bytes[..4].copy_from_slice(&MARK.to_le_bytes());
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..16].copy_from_slice(&offset.to_le_bytes());
    bytes[16..20].copy_from_slice(&data_checksum(length, offset, data).to_le_bytes());
    let checksum = header_checksum(salt, &bytes[..20]);
    bytes[20..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads a record's header; none if it isn't one of this segment, or is damaged.
pub fn parse_record(salt: u64, bytes: &[u8]) -> Option<Record> {
    let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
    let record = Record { length: u32_at(bytes, 4), offset: u64_at(bytes, 8), checksum: u32_at(bytes, 16) };
    let sound = u32_at(bytes, 0) == MARK
        && (1..=SPOOL_RECORD_BYTES_MAX as u32).contains(&record.length)
        && u32_at(bytes, 20) == header_checksum(salt, &bytes[..20]);
    sound.then_some(record)
}

/// Of a record's length, offset and data.
pub fn data_checksum(length: u32, offset: u64, data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(data);
    hasher.finalize()
}

fn header_checksum(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Reads until `into` is full or the file ends.
pub(super) fn read_up_to(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match file.read_at(&mut into[got..], at + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Bytes looked at in one go: headers of many small records, or the way to the next sound one.
const WINDOW_BYTES: usize = 4 << 10;

/// Steps from record to record by their headers, without their data, in one window of memory.
#[derive(Debug)]
pub struct Walk {
    salt: u64,
    first: u64,
    window: Vec<u8>,
    window_at: u64,
}

/// What is at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A record whose header is sound. Its data may reach past the end of the file.
    Record(Record),
    /// Damaged; the next sound record is at that place.
    Damaged {
        /// Its place.
        next: u64,
        /// Its numbers.
        record: Record,
    },
    /// Nothing sound from here on.
    End,
}

impl Walk {
    /// Of the segment with this header.
    pub fn new(header: &Header) -> Walk {
        Walk { salt: header.salt, first: header.first, window: Vec::new(), window_at: 0 }
    }

    /// What is at `place`.
    pub fn step(&mut self, file: &File, place: u64) -> io::Result<Step> {
        if let Some(record) = self.ahead(place) {
            return Ok(Step::Record(record));
        }
        // What was read ahead may have been half written then.
        self.fill(file, place)?;
        match parse_record(self.salt, &self.window) {
            Some(record) => Ok(Step::Record(record)),
            None => self.search(file, place),
        }
    }

    fn ahead(&self, place: u64) -> Option<Record> {
        let at = place.checked_sub(self.window_at)? as usize;
        parse_record(self.salt, self.window.get(at..)?)
    }

    fn fill(&mut self, file: &File, place: u64) -> io::Result<()> {
        self.window.resize(WINDOW_BYTES, 0);
        self.window_at = place;
        let got = read_up_to(file, &mut self.window, place)?;
        self.window.truncate(got);
        Ok(())
    }

    /// Looks for the next sound record behind `place`.
    fn search(&mut self, file: &File, place: u64) -> io::Result<Step> {
        let mark = MARK.to_le_bytes();
        let mut at = place + 1;
        loop {
            self.fill(file, at)?;
            for found in memchr::memmem::find_iter(&self.window, &mark) {
                let next = at + found as u64;
                if let Some(record) = parse_record(self.salt, &self.window[found..])
                    && self.fits(next, record)
                {
                    return Ok(Step::Damaged { next, record });
                }
            }
            if self.window.len() < WINDOW_BYTES {
                return Ok(Step::End);
            }
            // A header may lie across the end of the window.
            at += (WINDOW_BYTES - RECORD_HEADER_BYTES + 1) as u64;
        }
    }

    /// True when a record of this offset can be at this place.
    fn fits(&self, place: u64, record: Record) -> bool {
        let headers =
            record.offset.checked_sub(self.first).and_then(|data| (place - HEADER_BYTES).checked_sub(data));
        headers.is_some_and(|bytes| bytes > 0 && bytes % RECORD_HEADER_BYTES as u64 == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::{Scratch, data};

    fn header() -> Header {
        let identity = Identity::new("00112233aabbccdd", Channel::Stderr).unwrap();
        Header { identity, first: 7_000, created_ns: 1_700_000_000_123_456_789, salt: 0x0123_4567_89ab_cdef }
    }

    /// The first segment ever written in this format, in hexadecimal: it must stay readable.
    const FIXTURE: &str = include_str!("fixture_v1.hex");

    fn fixture() -> Vec<u8> {
        let digits: Vec<u8> = FIXTURE.bytes().filter(u8::is_ascii_hexdigit).collect();
        let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
        digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    fn segment_of_two() -> Vec<u8> {
        let header = header();
        let mut bytes = header.bytes().to_vec();
        for (offset, data) in [(7_000, &b"a first line\n"[..]), (7_013, b"and a second\n")] {
            bytes.extend(record_bytes(header.salt, offset, data));
            bytes.extend(data);
        }
        bytes
    }

    #[test]
    fn what_is_written_is_what_version_1_is() {
        assert_eq!(segment_of_two(), fixture());
    }

    #[test]
    fn a_segment_of_version_1_stays_readable() {
        let scratch = Scratch::new();
        let path = scratch.put("fixture", &fixture());
        let file = File::open(&path).unwrap();
        let Opened::Whole(header) = Header::read(&file, &path, &header().identity, 7_000).unwrap() else {
            panic!("damaged")
        };
        assert_eq!(header, self::header());
        let mut walk = Walk::new(&header);
        let Step::Record(first) = walk.step(&file, HEADER_BYTES).unwrap() else { panic!("none") };
        assert_eq!((first.offset, first.length), (7_000, 13));
        assert_eq!(first.checksum, data_checksum(13, 7_000, b"a first line\n"));
        let Step::Record(second) = walk.step(&file, HEADER_BYTES + first.file_bytes()).unwrap() else {
            panic!("none")
        };
        assert_eq!((second.offset, second.end()), (7_013, 7_026));
    }

    #[test]
    fn one_damaged_byte_of_the_header_costs_nothing() {
        let scratch = Scratch::new();
        for at in 0..HEADER_BYTES as usize {
            let mut bytes = segment_of_two();
            bytes[at] ^= 0x41;
            let path = scratch.put("flipped", &bytes);
            let file = File::open(&path).unwrap();
            let opened = Header::read(&file, &path, &header().identity, 7_000).unwrap();
            assert_eq!(opened, Opened::Whole(header()), "byte {at}");
        }
    }

    #[test]
    fn a_later_version_and_a_foreign_file_are_told_apart_from_a_damaged_one() {
        let scratch = Scratch::new();
        let read = |bytes: &[u8]| {
            let path = scratch.put("other", bytes);
            Header::read(&File::open(&path).unwrap(), &path, &header().identity, 7_000)
        };
        let mut later = segment_of_two();
        for copy in [0, COPY_BYTES] {
            later[copy + place::VERSION] = 2;
        }
        assert!(matches!(read(&later), Err(SpoolError::Newer { version: 2, .. })));
        assert!(matches!(read(&[b'x'; 600]), Err(SpoolError::Foreign { .. })));
        assert!(matches!(read(&[0; 600]), Ok(Opened::Damaged)));
        assert!(matches!(read(&[]), Ok(Opened::Damaged)));
        let mut other = header();
        other.first = 1;
        assert!(matches!(read(&other.bytes()), Err(SpoolError::Foreign { .. })));
    }

    #[test]
    fn data_that_looks_like_a_record_is_not_taken_for_one() {
        let scratch = Scratch::new();
        let header = header();
        // A child prints a whole segment: of another salt, as it must be.
        let mut forged = Vec::new();
        let inner = data(100);
        forged.extend(record_bytes(header.salt + 1, 7_000 + 24 + 100, &inner));
        forged.extend(&inner);
        let mut bytes = header.bytes().to_vec();
        bytes.extend(record_bytes(header.salt, 7_000, &forged));
        bytes.extend(&forged);
        bytes.extend(record_bytes(header.salt, 7_000 + forged.len() as u64, b"x"));
        bytes.extend(b"x");
        bytes[HEADER_BYTES as usize + 5] ^= 1;
        let path = scratch.put("forged", &bytes);
        let file = File::open(&path).unwrap();
        let found = Walk::new(&header).step(&file, HEADER_BYTES).unwrap();
        let Step::Damaged { record, .. } = found else { panic!("{found:?}") };
        assert_eq!(record.offset, 7_000 + forged.len() as u64);
    }

    #[test]
    fn names_are_offsets_and_nothing_else_is_one() {
        assert_eq!(file_name(42), "00000000000000000042.seg");
        assert_eq!(first_of(&file_name(u64::MAX >> 11)), Some(u64::MAX >> 11));
        for name in
            ["42.seg", "0000000000000000004x.seg", "00000000000000000042", "00000000000000000042.seg.damaged"]
        {
            assert_eq!(first_of(name), None, "{name}");
        }
    }
}
