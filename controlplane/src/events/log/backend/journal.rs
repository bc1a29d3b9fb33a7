//! The journal: every batch before it is in the trees, in files that are only written behind.
//!
//! The form is that of fjall's journals, which the first version of the log had. What a process that was killed, or a system
//! that stopped, left at the end of a file is found by [`look`]; nothing is read behind it that is not whole.
//!
//! ```text
//!   batch:  1 items u32 number u64 · item… · 3 xxh3 u64 "FJL" 3         integers are little-endian
//!   item:   2 what u8 compression u8 space u64 key u16 value u32 stored u32 · key · value
//! ```

use super::{Op, Space};
use crate::events::log::keys;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const START_BYTES: usize = 13;
const END_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
const CLEAR_BYTES: usize = 9;
const MAGIC: &[u8] = b"FJL\x03";
/// Of a new file, as zeros.
const LENGTH: u64 = 16 << 20;
/// A buffer that is kept from batch to batch.
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 1 << 18;

/// One change in a batch.
#[derive(Clone, Copy, Debug)]
pub(in crate::events::log) struct Item<'a> {
    pub(in crate::events::log) space: u64,
    pub(in crate::events::log) key: &'a [u8],
    /// None when the key was deleted.
    pub(in crate::events::log) value: Option<&'a [u8]>,
}

/// A stretch that is no whole batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::events::log) struct Cut {
    /// Bytes of the file.
    pub(in crate::events::log) bytes: (u64, u64),
    /// The last sequence number before it, in this file.
    pub(in crate::events::log) after: Option<u64>,
    /// The first one behind it; none when nothing whole is behind it.
    pub(in crate::events::log) before: Option<u64>,
}

/// What a journal file consists of.
#[derive(Debug, Default)]
pub(in crate::events::log) struct Look {
    pub(in crate::events::log) cuts: Vec<Cut>,
    /// The first and the last sequence number in it.
    pub(in crate::events::log) first: Option<u64>,
    pub(in crate::events::log) last: Option<u64>,
    /// Bytes up to which there is anything but the zeros it was filled with.
    pub(in crate::events::log) end: u64,
}

/// Where batches are written.
pub(super) struct Journal {
    folder: PathBuf,
    /// Of the next file.
    number: u64,
    file: Option<File>,
    /// The folder may not have the file yet.
    is_new: bool,
    buffer: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    /// All files of what is in memory.
    paths: Vec<PathBuf>,
    /// Older ones that may not be on the disk.
    unsynced: Vec<File>,
}

impl Journal {
    /// One that goes on behind the files there are.
    pub(super) fn behind(folder: &Path, journals: Vec<(u64, PathBuf)>) -> io::Result<Journal> {
        let unsynced = journals.iter().map(|(_, path)| File::open(path)).collect::<io::Result<_>>()?;
        Ok(Journal {
            folder: folder.to_path_buf(),
            number: journals.last().map_or(0, |last| last.0 + 1),
            file: None,
            is_new: !journals.is_empty(),
            buffer: Vec::new(),
            written: 0,
            paths: journals.into_iter().map(|(_, path)| path).collect(),
            unsynced,
        })
    }

    /// Writes one batch, in one piece.
    pub(super) fn append(&mut self, number: u64, ops: &[Op]) -> io::Result<()> {
        self.buffer.clear();
        encode(number, ops, &mut self.buffer);
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let path = self.folder.join(format!("{}.jnl", self.number));
                let made = File::create_new(&path)?;
                // To grow is to wait for whatever the file system is flushing; holes it fills without.
                made.set_len(LENGTH)?;
                self.number += 1;
                self.written = 0;
                self.is_new = true;
                self.paths.push(path);
                none.insert(made)
            }
        };
        file.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        // One big batch is no reason to keep its memory.
        if self.buffer.capacity() > BUFFER_BYTES_MAX {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Files of what is in memory.
    pub(super) fn files(&self) -> usize {
        self.paths.len()
    }

    /// Makes the disk have all of it.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        for file in self.unsynced.drain(..) {
            // What is in tables needs no journal.
            if file.metadata()?.nlink() > 0 {
                file.sync_data()?;
            }
        }
        if let Some(file) = &self.file {
            file.sync_data()?;
        }
        if std::mem::take(&mut self.is_new) {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Ends the file; the next batch begins another. Returns all files of what was in memory.
    pub(super) fn seal(&mut self) -> Vec<PathBuf> {
        self.unsynced.retain(|file| file.metadata().is_ok_and(|found| found.nlink() > 0));
        self.unsynced.extend(self.file.take());
        std::mem::take(&mut self.paths)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // If it fails, the next start steps over the zeros.
            drop(file.set_len(self.written));
        }
    }
}

fn encode(number: u64, ops: &[Op], out: &mut Vec<u8>) {
    out.push(1);
    out.extend_from_slice(&(ops.len() as u32).to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    for op in ops {
        let (what, space, key, value) = match op {
            Op::Put(space, key, value) => (0, *space, key, &value[..]),
            Op::Delete(space, key) => (1, *space, key, &[][..]),
        };
        out.extend_from_slice(&[2, what, 0]);
        out.extend_from_slice(&id(space).to_le_bytes());
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    let sum = xxh3_64(&out[START_BYTES..]);
    out.push(3);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(MAGIC);
}

/// The identifier of a space in the journal and in the names of folders.
pub(in crate::events::log) fn id(space: Space) -> u64 {
    space as u64 + 1
}

/// All journals in the folder, the oldest first, by their numbers.
pub(in crate::events::log) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let number =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jnl"));
        found.extend(number.and_then(|number| number.parse().ok()).map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// Bytes all journals in the folder take.
pub(super) fn bytes(folder: &Path) -> u64 {
    let size = |path: PathBuf| std::fs::metadata(path).map_or(0, |found| found.blocks() * 512);
    list(folder).map_or(0, |journals| journals.into_iter().map(|(_, path)| size(path)).sum())
}

/// Reads a journal; `each` sees every whole batch, its number in the database and its items.
pub(in crate::events::log) fn look(path: &Path, each: &mut dyn FnMut(u64, &[Item<'_>])) -> io::Result<Look> {
    let mut window = Window { file: File::open(path)?, bytes: Vec::new(), at: 0, start: 0, ended: false };
    let mut look = Look::default();
    loop {
        match batch(window.rest()) {
            Parsed::Whole(length, number, items) => {
                if let (Some(cut), Some(first)) = (look.cuts.last_mut(), seqs(&items).min()) {
                    cut.before = cut.before.or(Some(first));
                }
                look.first = look.first.or_else(|| seqs(&items).min());
                look.last = seqs(&items).max().or(look.last);
                each(number, &items);
                drop(items);
                window.start += length;
            }
            Parsed::Short if !window.ended => window.more()?,
            Parsed::Short | Parsed::Bad => {
                window.all()?;
                let rest = window.rest();
                let Some(used) = rest.iter().rposition(|byte| *byte != 0).map(|last| last + 1) else { break };
                let from = window.place();
                let whole = (1..used).find(|at| matches!(batch(&rest[*at..used]), Parsed::Whole(..)));
                let length = whole.unwrap_or(used);
                look.cuts.push(Cut { bytes: (from, from + length as u64), after: look.last, before: None });
                window.start += length;
            }
        }
    }
    look.end = window.place();
    Ok(look)
}

/// The sequence numbers of events in a batch.
fn seqs(items: &[Item<'_>]) -> impl Iterator<Item = u64> {
    items
        .iter()
        .filter(|item| item.space == id(Space::Events) && item.value.is_some())
        .filter_map(|item| keys::number(item.key))
}

enum Parsed<'a> {
    Whole(usize, u64, Vec<Item<'a>>),
    Short,
    Bad,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The item that `bytes` begin with, and its length.
fn item(bytes: &[u8]) -> Option<(Item<'_>, usize)> {
    if bytes.first() != Some(&2) {
        return None;
    }
    let space = u64_at(bytes, 3)?;
    let key_bytes = usize::from(u16::from_le_bytes(*bytes.get(11..)?.first_chunk()?));
    let value_bytes = u32_at(bytes, 17)? as usize;
    let key = bytes.get(ITEM_BYTES..ITEM_BYTES + key_bytes)?;
    let length = ITEM_BYTES + key_bytes + value_bytes;
    let value = bytes.get(ITEM_BYTES + key_bytes..length)?;
    Some((Item { space, key, value: (bytes[1] == 0).then_some(value) }, length))
}

/// The batch that `bytes` begin with.
fn batch(bytes: &[u8]) -> Parsed<'_> {
    match bytes.first() {
        Some(1) => {}
        Some(_) => return Parsed::Bad,
        None => return Parsed::Short,
    }
    let Some((count, number)) = u32_at(bytes, 1).zip(u64_at(bytes, 5)) else { return Parsed::Short };
    let (mut items, mut at, mut left) = (Vec::new(), START_BYTES, count);
    loop {
        match bytes.get(at) {
            None => return Parsed::Short,
            Some(2) if left > 0 => {
                let Some((item, length)) = item(&bytes[at..]) else { return Parsed::Short };
                items.push(item);
                at += length;
                left -= 1;
            }
            // A space that was emptied: never written by us, and no reason to stop.
            Some(4) if left > 0 => {
                at += CLEAR_BYTES;
                left -= 1;
            }
            Some(3) if left == 0 => break,
            Some(_) => return Parsed::Bad,
        }
    }
    let Some(end) = bytes.get(at..at + END_BYTES) else { return Parsed::Short };
    let sound = u64_at(end, 1) == Some(xxh3_64(&bytes[START_BYTES..at])) && &end[9..] == MAGIC;
    if sound { Parsed::Whole(at + END_BYTES, number, items) } else { Parsed::Bad }
}

/// A part of the file, from somewhere on.
struct Window {
    file: File,
    bytes: Vec<u8>,
    /// Where in the file it begins.
    at: u64,
    /// What of it is done.
    start: usize,
    ended: bool,
}

impl Window {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn place(&self) -> u64 {
        self.at + self.start as u64
    }

    /// Reads on, twice as much if one batch is longer than what there is.
    fn more(&mut self) -> io::Result<()> {
        self.bytes.drain(..self.start);
        self.at += self.start as u64;
        self.start = 0;
        let wanted = self.bytes.len().max(READ_BYTES) as u64;
        let read = (&mut self.file).take(wanted).read_to_end(&mut self.bytes)?;
        self.ended = (read as u64) < wanted;
        Ok(())
    }

    fn all(&mut self) -> io::Result<()> {
        while !self.ended {
            self.more()?;
        }
        Ok(())
    }
}
