//! Reads a stream's segments by offset, in memory that doesn't depend on how much there is.
//!
//! ```text
//!  offset ─▶ binary search over names ─▶ the last mark before it ─▶ walk of record headers ─▶ one record, checked
//! ```
//!
//! A reader holds one open segment, one record, the list of names (8 bytes a segment) and a mark for each 256 KiB it has
//! walked of the segment (16 bytes each), so that going back a little is no walk from the beginning. It never changes a file.
//! Invariant: what it gives out carried a right checksum; everything else is a gap with exact ends.

use crate::spool::segment::{
    HEADER_BYTES, Header, Opened, RECORD_HEADER_BYTES, Record, Step, Walk, data_checksum, file_name,
};
use crate::spool::writer::segments_in;
use crate::spool::{Identity, SpoolError};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Between two marks of a segment.
const MARK_BYTES: u64 = 256 << 10;

/// A place in one stream's spool.
#[derive(Debug)]
pub struct Reader {
    identity: Identity,
    folder: PathBuf,
    /// First offsets of all segments.
    firsts: Vec<u64>,
    open: Option<Open>,
    /// The data of the record read last.
    record: Vec<u8>,
}

/// What is at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// So many bytes were appended.
    Bytes(usize),
    /// Nothing up to this offset.
    Gap(u64),
    /// Nothing from here on, as far as is known now.
    End,
}

#[derive(Debug)]
struct Open {
    file: File,
    first: u64,
    walk: Walk,
    /// Place of the next record, and the offset it should have.
    place: u64,
    offset: u64,
    /// Such pairs of records that were passed, some way apart.
    marks: Vec<(u64, u64)>,
    /// The record in `Reader::record`, if it was sound.
    held: Option<Record>,
}

/// What a segment has at an offset.
enum Inside {
    /// It is in the record held.
    Held,
    /// Damaged up to that offset.
    Gap(u64),
    /// Nothing any more.
    Nothing,
}

impl Reader {
    pub(super) fn new(root: &Path, identity: Identity) -> Reader {
        let folder = identity.folder(root);
        Reader { identity, folder, firsts: Vec::new(), open: None, record: Vec::new() }
    }

    /// Appends what there is at `offset` to `into`: at most `max` bytes, from as many records as hang together.
    pub fn read(&mut self, offset: u64, max: usize, into: &mut Vec<u8>) -> Result<Found, SpoolError> {
        let mut got = 0;
        while got < max {
            match self.read_some(offset + got as u64, max - got, into)? {
                Found::Bytes(bytes) => got += bytes,
                found if got == 0 => return Ok(found),
                Found::Gap(_) | Found::End => break,
            }
        }
        Ok(Found::Bytes(got))
    }

    /// The first offset there is, and one past the last; the whole of the last segment is walked for it.
    pub fn range(&mut self) -> Result<Option<(u64, u64)>, SpoolError> {
        self.firsts = segments_in(&self.folder)?;
        let (Some(first), Some(last)) = (self.firsts.first().copied(), self.firsts.last().copied()) else {
            return Ok(None);
        };
        if !self.enter(last)? {
            return Ok(Some((first, last)));
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        open.find(u64::MAX, &mut self.record).map_err(SpoolError::os("read", &self.folder))?;
        Ok(Some((first, open.offset)))
    }

    /// From one record.
    fn read_some(&mut self, offset: u64, max: usize, into: &mut Vec<u8>) -> Result<Found, SpoolError> {
        if let Some(found) = self.look(offset, max, into)? {
            return Ok(found);
        }
        // A segment may have been begun, or removed, since the names were listed.
        self.firsts = segments_in(&self.folder)?;
        Ok(self.look(offset, max, into)?.unwrap_or(Found::End))
    }

    /// What the names we know lead to.
    fn look(&mut self, offset: u64, max: usize, into: &mut Vec<u8>) -> Result<Option<Found>, SpoolError> {
        let after = self.firsts.partition_point(|first| *first <= offset);
        let next = self.firsts.get(after).copied();
        let mut inside = Inside::Nothing;
        if let Some(first) = after.checked_sub(1).map(|place| self.firsts[place])
            && self.enter(first)?
            && let Some(open) = &mut self.open
        {
            inside = open.find(offset, &mut self.record).map_err(SpoolError::os("read", &self.folder))?;
        }
        Ok(match inside {
            Inside::Held => Some(self.hand_out(offset, max, into)),
            Inside::Gap(to) => Some(Found::Gap(next.map_or(to, |next| to.min(next)))),
            Inside::Nothing => next.map(Found::Gap),
        })
    }

    fn hand_out(&mut self, offset: u64, max: usize, into: &mut Vec<u8>) -> Found {
        let Some(open) = &mut self.open else { return Found::End };
        let Some(held) = open.held else { return Found::End };
        if into.is_empty() && held.offset == offset && held.length as usize <= max {
            // A whole record goes out as it is.
            std::mem::swap(into, &mut self.record);
            open.held = None;
            return Found::Bytes(into.len());
        }
        let run = &self.record[(offset - held.offset) as usize..];
        let run = &run[..run.len().min(max)];
        into.extend_from_slice(run);
        Found::Bytes(run.len())
    }

    /// Opens the segment of this name. False if its file is gone, or nothing in it can be told from anything else.
    fn enter(&mut self, first: u64) -> Result<bool, SpoolError> {
        if self.open.as_ref().is_some_and(|open| open.first == first) {
            return Ok(true);
        }
        self.open = None;
        let path = self.folder.join(file_name(first));
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(SpoolError::os("open", &path))?,
        };
        let Opened::Whole(header) = Header::read(&file, &path, &self.identity, first)? else {
            return Ok(false);
        };
        let walk = Walk::new(&header);
        let (place, offset, marks) = (HEADER_BYTES, first, vec![(HEADER_BYTES, first)]);
        self.open = Some(Open { file, first, walk, place, offset, marks, held: None });
        Ok(true)
    }
}

impl Open {
    /// Reads the record that has `offset` into `data`.
    fn find(&mut self, offset: u64, data: &mut Vec<u8>) -> io::Result<Inside> {
        if self.held.is_some_and(|held| (held.offset..held.end()).contains(&offset)) {
            return Ok(Inside::Held);
        }
        self.held = None;
        if offset < self.offset {
            let passed = self.marks.partition_point(|(_, marked)| *marked <= offset);
            (self.place, self.offset) =
                passed.checked_sub(1).map_or((HEADER_BYTES, self.first), |place| self.marks[place]);
        }
        loop {
            let record = match self.walk.step(&self.file, self.place)? {
                Step::Record(record) => record,
                Step::Damaged { next, record } => {
                    self.place = next;
                    record
                }
                Step::End => return Ok(Inside::Nothing),
            };
            self.offset = record.offset;
            self.mark();
            if offset < record.offset {
                return Ok(Inside::Gap(record.offset));
            }
            if offset < record.end() {
                return self.take(record, data);
            }
            (self.place, self.offset) = (self.place + record.file_bytes(), record.end());
        }
    }

    fn mark(&mut self) {
        if self.marks.last().is_none_or(|(marked, _)| self.place >= marked + MARK_BYTES) {
            self.marks.push((self.place, self.offset));
        }
    }

    fn take(&mut self, record: Record, data: &mut Vec<u8>) -> io::Result<Inside> {
        // Neither zeroed first nor copied: `read_to_end` fills what is reserved.
        data.clear();
        data.reserve(record.length as usize);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.place + RECORD_HEADER_BYTES as u64))?;
        match file.take(record.length.into()).read_to_end(data) {
            // Torn, or not all there yet.
            Ok(got) if got < record.length as usize => return Ok(Inside::Nothing),
            Ok(_) if data_checksum(record.length, record.offset, data) == record.checksum => {}
            // A place of the device that can't be read is as damaged as one that is read wrongly.
            Ok(_) | Err(_) => return Ok(Inside::Gap(record.end())),
        }
        self.held = Some(record);
        (self.place, self.offset) = (self.place + record.file_bytes(), record.end());
        Ok(Inside::Held)
    }
}
