//! The database's journal, read by ourselves before the database does.
//!
//! fjall throws away what comes behind the first entry it can't read. So its journals are looked through first: stretches
//! that are not whole batches are cut out, the file as it was is kept, and what was in them is said by range.
//!
//! ```text
//!   batch:  1 items u32 seqno u64 · item… · 3 xxh3 u64 "FJL" 3          integers are little-endian
//!   item:   2 what u8 compression u8 space u64 key u16 value u32 stored u32 · key · value
//! ```

use crate::events::log::backend::Space;
use crate::events::log::keys;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const START_BYTES: usize = 13;
const END_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
const CLEAR_BYTES: usize = 9;
const MAGIC: &[u8] = b"FJL\x03";
/// Bytes read at a time.
const READ_BYTES: usize = 1 << 18;

/// One change in a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) space: u64,
    pub(super) key: &'a [u8],
    /// None when the key was deleted.
    pub(super) value: Option<&'a [u8]>,
}

/// A stretch that is no whole batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Bytes of the file.
    pub(super) bytes: (u64, u64),
    /// The last sequence number before it, in this file.
    pub(super) after: Option<u64>,
    /// The first one behind it; none when nothing whole is behind it.
    pub(super) before: Option<u64>,
}

/// What a journal file consists of.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) cuts: Vec<Cut>,
    /// The first and the last sequence number in it.
    pub(super) first: Option<u64>,
    pub(super) last: Option<u64>,
    /// Bytes up to which there is anything but the zeros it was filled with.
    pub(super) end: u64,
}

/// The identifier of a space in the journal and in the names of folders.
pub(super) fn id(space: Space) -> u64 {
    space as u64 + 1
}

/// All journals in the folder, the oldest first, by their numbers.
pub(super) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
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

/// Reads a journal; `each` sees every whole batch, its number in the database and its items.
pub(super) fn look(path: &Path, each: &mut dyn FnMut(u64, &[Item<'_>])) -> io::Result<Look> {
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
    let mut sum = Xxh3::new();
    sum.update(&bytes[START_BYTES..at]);
    let sound = u64_at(end, 1) == Some(sum.digest()) && &end[9..] == MAGIC;
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
