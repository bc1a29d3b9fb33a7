//! A database that can't be opened: it is moved aside whole, and a new one is filled with every record that can be read.
//!
//! Tables carry their own index and a checksum for each block, so each is read alone, from both ends up to what was hit.
//! Which space a table is of is the number of its folder. Types and indexes are made from the records again; the audit is
//! taken as it is, and what of it is missing is found when it is opened.

use super::{DATABASE, Disk, Head, LogError, QUARANTINE, Recovered, file, journal, quarantine};
use crate::events::log::append::{TOTALS, Totals};
use crate::events::log::audit;
use crate::events::log::backend::{Backend, Op, Space};
use crate::events::log::index::WATERMARK;
use crate::events::log::keys::{self, Room};
use crate::events::record::Record;
use bytes::Bytes;
use lsm_tree::{Cache, Checksum, InternalValue, Table};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Operations written at once.
const CHUNK: usize = 2_048;
/// What can't be made from anything else.
const SAVED: [Space; 3] = [Space::Events, Space::State, Space::Audit];
/// Cache of the reader of one table.
const CACHE_BYTES: u64 = 1 << 20;

/// What is being put together.
struct Salvage {
    disk: Disk,
    ops: Vec<Op>,
    /// The latest of every key, with its number in the old database.
    state: HashMap<Bytes, (u64, Option<Bytes>)>,
    /// Events that had been dropped.
    dropped: Vec<u64>,
    /// Of the audit what had been, and where it begins.
    pruned: Vec<Bytes>,
    anchor: (u64, Option<Bytes>),
    last: u64,
}

/// Moves the database aside and makes a new one of it.
pub(super) fn from(folder: &Path, head: &mut Head) -> Result<Recovered, LogError> {
    let (aside, number) = quarantine(folder)?;
    let database = folder.join(DATABASE);
    // First the note: between here and the end of the salvage the new database is not to be believed.
    head.making(number)?;
    std::fs::rename(&database, aside.join(DATABASE)).map_err(file("moving", &database))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(file("flushing", folder))?;
    into_new(folder, head, number)
}

/// Fills a new database from what lies in quarantine under `number`.
pub(super) fn into_new(folder: &Path, head: &mut Head, number: u32) -> Result<Recovered, LogError> {
    head.making(number)?;
    let aside = folder.join(QUARANTINE).join(number.to_string());
    let old = aside.join(DATABASE);
    if !old.exists() {
        // The move itself didn't happen.
        std::fs::create_dir_all(&old).map_err(file("making", &old))?;
    }
    let disk = Disk::open(&folder.join(DATABASE))?;
    let mut salvage = Salvage {
        disk,
        ops: Vec::new(),
        state: HashMap::new(),
        dropped: Vec::new(),
        pruned: Vec::new(),
        anchor: (0, None),
        last: 0,
    };
    for space in SAVED {
        let tables = old.join("keyspaces").join(journal::id(space).to_string()).join("tables");
        let Ok(entries) = std::fs::read_dir(&tables) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            salvage.table(space, &path)?;
        }
    }
    salvage.journals(&old)?;
    let last = salvage.finish()?;
    tracing::error!(
        component = "log", kept = %aside.display(), last,
        "the log's database was not sound: it lies in quarantine, and what could be read of it is in a new one"
    );
    Ok(Recovered {
        disk: Box::new(salvage.disk),
        quarantined: vec![aside],
        suspects: vec![(1, super::END)],
        is_salvaged: true,
    })
}

impl Salvage {
    /// Takes all that can be read of one table.
    fn table(&mut self, space: Space, path: &Path) -> Result<(), LogError> {
        let cache = Arc::new(Cache::with_capacity_bytes(CACHE_BYTES));
        let table = Table::recover(path.to_path_buf(), Checksum::from_raw(0), 0, 0, cache, None, false, true);
        let Ok(table) = table else { return Ok(()) };
        let mut rows = table.iter();
        while let Some(Ok(row)) = rows.next() {
            self.row(space, row)?;
        }
        let mut rows = table.iter();
        while let Some(Ok(row)) = rows.next_back() {
            // What was taken from the front is there already: taking it twice changes nothing.
            self.row(space, row)?;
        }
        Ok(())
    }

    fn row(&mut self, space: Space, row: InternalValue) -> Result<(), LogError> {
        let number = row.key.seqno;
        let value = (!row.key.is_tombstone()).then(|| row.value.into());
        self.take(space, number, row.key.user_key.into(), value)
    }

    /// Takes all whole batches of the journals.
    fn journals(&mut self, old: &Path) -> Result<(), LogError> {
        let Ok(journals) = journal::list(old) else { return Ok(()) };
        for (_, path) in journals {
            let mut result = Ok(());
            // A file that can't be read to its end has told what it could.
            let _ = journal::look(&path, &mut |number, items| {
                for item in items {
                    let Some(space) = SAVED.into_iter().find(|space| journal::id(*space) == item.space)
                    else {
                        continue;
                    };
                    let (key, value) =
                        (Bytes::copy_from_slice(item.key), item.value.map(Bytes::copy_from_slice));
                    if result.is_ok() {
                        result = self.take(space, number, key, value);
                    }
                }
            });
            result?;
        }
        Ok(())
    }

    fn take(&mut self, space: Space, number: u64, key: Bytes, value: Option<Bytes>) -> Result<(), LogError> {
        match (space, value) {
            // What is dropped of the audit is never written again, and nothing of it twice, but for where it begins.
            (Space::Audit, None) => self.pruned.push(key),
            (Space::Audit, Some(value)) if key == audit::anchor_key() => {
                if number >= self.anchor.0 {
                    self.anchor = (number, Some(value));
                }
            }
            (Space::Audit, Some(value)) => self.put(Space::Audit, key, value)?,
            (Space::Events, None) => self.dropped.extend(keys::number(&key)),
            (Space::Events, Some(record)) => {
                let Some(seq) = keys::number(&key) else { return Ok(()) };
                self.last = self.last.max(seq);
                if let Ok(record) = Record::parse(seq, &record) {
                    self.ops.push(Op::Put(Space::Types, keys::typed(&record.topic, seq), Bytes::new()));
                }
                self.put(Space::Events, key, record)?;
            }
            (_, value) => {
                let entry = self.state.entry(key).or_insert((number, None));
                if number >= entry.0 {
                    *entry = (number, value);
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, space: Space, key: Bytes, value: Bytes) -> Result<(), LogError> {
        self.ops.push(Op::Put(space, key, value));
        if self.ops.len() >= CHUNK {
            self.disk.write(&mut self.ops)?;
        }
        Ok(())
    }

    /// Writes the rest, and an account of what there is now. Returns the highest number.
    fn finish(&mut self) -> Result<u64, LogError> {
        let mut ops = std::mem::take(&mut self.ops);
        for seq in std::mem::take(&mut self.dropped) {
            // Its type stays behind in the index, where nobody finds an event under it.
            ops.push(Op::Delete(Space::Events, keys::event(seq)));
        }
        ops.extend(std::mem::take(&mut self.pruned).into_iter().map(|key| Op::Delete(Space::Audit, key)));
        ops.extend(self.anchor.1.take().map(|value| Op::Put(Space::Audit, audit::anchor_key(), value)));
        let (totals, watermark) = (keys::named(Room::Account, TOTALS), keys::named(Room::Account, WATERMARK));
        for (key, (_, value)) in self.state.drain() {
            if key == totals {
                let old = value.and_then(|bytes| Totals::parse(&bytes)).unwrap_or_default();
                self.last = self.last.max(old.last);
            } else if key != watermark {
                ops.extend(value.map(|value| Op::Put(Space::State, key, value)));
            }
        }
        self.disk.write(&mut ops)?;
        let (mut events, mut bytes) = (0, 0);
        {
            let source = self.disk.source();
            let view = source.view();
            for row in view.rows(Space::Events, &keys::event(0), &keys::event(u64::MAX), false) {
                events += 1;
                bytes += row?.1.len() as u64;
            }
        }
        self.disk.write(&mut vec![Totals { events, bytes, last: self.last }.put()])?;
        self.disk.sync()?;
        Ok(self.last)
    }
}
