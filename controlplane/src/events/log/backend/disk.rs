//! The log in files: fjall, with little memory and one thread that sleeps when nothing is written.
//!
//! Journal entries are in the system's hands when a write returns. Filters are left out where keys are only ever read
//! in order.

use super::{Backend, Fault, Op, Rows, Source, Space, View};
use bytes::Bytes;
use fjall::config::{BlockSizePolicy, CompressionPolicy, FilterPolicy, PinningPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Blocks kept in memory, of all spaces together.
const CACHE_BYTES: u64 = 8 << 20;
/// The least fjall accepts.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Files kept open.
const FILES_MAX: usize = 256;
/// One flushes while the other compacts; with one, memory grows while it is busy.
const WORKERS: usize = 2;
/// Written and not yet in tables. Beyond it a write waits for a flush: fjall itself sets no bound.
const BUFFER_BYTES_MAX: u64 = 48 << 20;

/// The open database.
pub struct Disk {
    files: Files,
}

/// A database that is made at the first write: making one flushes dozens of files, and a start doesn't wait for that.
pub(in crate::events::log) struct Late {
    folder: PathBuf,
    disk: Option<Disk>,
    source: Arc<LateFiles>,
}

/// Its files, once there are any.
#[derive(Default)]
struct LateFiles(OnceLock<Files>);

#[derive(Clone)]
struct Files {
    database: Database,
    spaces: [Keyspace; Space::ALL.len()],
}

impl From<fjall::Error> for Fault {
    fn from(error: fjall::Error) -> Fault {
        match error {
            fjall::Error::Io(error) => Fault::Io(error),
            fjall::Error::Storage(fjall::LsmError::Io(error)) => Fault::Io(error),
            fjall::Error::Locked => Fault::Io(io::ErrorKind::ResourceBusy.into()),
            other => Fault::Damaged(format!("{other:?}")),
        }
    }
}

impl Space {
    /// Its name in the database.
    fn name(self) -> &'static str {
        match self {
            Space::Events => "events",
            Space::Types => "types",
            Space::Index => "index",
            Space::State => "state",
        }
    }

    fn options(self) -> KeyspaceCreateOptions {
        let (memtable, block) = match self {
            Space::Events => (8 << 20, 16 << 10),
            Space::Types => (2 << 20, 8 << 10),
            Space::Index => (4 << 20, 8 << 10),
            Space::State => (1 << 20, 4 << 10),
        };
        let options = KeyspaceCreateOptions::default()
            .max_memtable_size(memtable)
            .data_block_size_policy(BlockSizePolicy::all(block))
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
            .index_block_pinning_policy(PinningPolicy::all(false))
            .filter_block_pinning_policy(PinningPolicy::all(false));
        match self {
            Space::Events | Space::Types | Space::Index => {
                options.filter_policy(FilterPolicy::disabled()).expect_point_read_hits(true)
            }
            Space::State => options,
        }
    }
}

impl Disk {
    /// Opens or makes the database in `folder`.
    pub fn open(folder: &Path) -> Result<Disk, Fault> {
        let database = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .max_cached_files(Some(FILES_MAX))
            // Salvage reads journals itself, and records are compressed in tables.
            .journal_compression(CompressionType::None)
            .worker_threads(WORKERS)
            .open()?;
        let open = |space: Space| database.keyspace(space.name(), || space.options());
        // In the order of `Space::ALL`, by which salvage knows them without the database's own names.
        let spaces = [open(Space::Events)?, open(Space::Types)?, open(Space::Index)?, open(Space::State)?];
        Ok(Disk { files: Files { database, spaces } })
    }

    /// Writes everything that is in memory to tables, for measurements.
    pub fn flush(&self) -> Result<(), Fault> {
        for space in &self.files.spaces {
            space.rotate_memtable_and_wait()?;
        }
        Ok(())
    }
}

impl Late {
    pub(in crate::events::log) fn new(folder: PathBuf) -> Late {
        Late { folder, disk: None, source: Arc::default() }
    }
}

impl Backend for Late {
    fn make(&mut self) -> Result<(), Fault> {
        if self.disk.is_none() {
            let disk = Disk::open(&self.folder)?;
            let files = self.source.0.get_or_init(|| disk.files.clone()).clone();
            self.disk = Some(Disk { files });
        }
        Ok(())
    }

    fn write(&mut self, batch: Vec<Op>) -> Result<(), Fault> {
        self.make()?;
        self.disk.as_mut().map_or(Ok(()), |disk| disk.write(batch))
    }

    fn sync(&mut self) -> Result<(), Fault> {
        self.disk.as_mut().map_or(Ok(()), Disk::sync)
    }

    fn source(&self) -> Arc<dyn Source> {
        self.source.clone()
    }
}

impl Source for LateFiles {
    fn view(&self) -> Box<dyn View + '_> {
        match self.0.get() {
            Some(files) => files.view(),
            None => Box::new(Nothing),
        }
    }

    fn bytes(&self) -> u64 {
        self.0.get().map_or(0, Files::bytes)
    }
}

/// What is in a database that isn't there yet.
struct Nothing;

impl View for Nothing {
    fn get(&self, _: Space, _: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(None)
    }

    fn rows(&self, _: Space, _: &[u8], _: &[u8], _: bool) -> Rows<'_> {
        Box::new(std::iter::empty())
    }
}

impl Backend for Disk {
    fn write(&mut self, batch: Vec<Op>) -> Result<(), Fault> {
        let mut out = self.files.database.batch();
        for op in batch {
            match op {
                Op::Put(space, key, value) => out.insert(&self.files.spaces[space as usize], key, value),
                Op::Delete(space, key) => out.remove(&self.files.spaces[space as usize], key),
            }
        }
        out.commit()?;
        if self.files.database.write_buffer_size() > BUFFER_BYTES_MAX {
            // Nearly all of it is events.
            self.files.spaces[Space::Events as usize].rotate_memtable_and_wait()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Fault> {
        Ok(self.files.database.persist(PersistMode::SyncData)?)
    }

    fn source(&self) -> Arc<dyn Source> {
        Arc::new(self.files.clone())
    }
}

impl Source for Files {
    fn view(&self) -> Box<dyn View + '_> {
        Box::new(Moment { spaces: &self.spaces, snapshot: self.database.snapshot() })
    }

    fn bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or_default()
    }
}

struct Moment<'a> {
    spaces: &'a [Keyspace; Space::ALL.len()],
    snapshot: Snapshot,
}

impl View for Moment<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.snapshot.get(&self.spaces[space as usize], key)?.map(Bytes::from))
    }

    fn rows(&self, space: Space, from: &[u8], to: &[u8], backward: bool) -> Rows<'_> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let rows = self.snapshot.range(&self.spaces[space as usize], from..to);
        let row = |guard: fjall::Guard| match guard.into_inner() {
            Ok((key, value)) => Ok((key.into(), value.into())),
            Err(error) => Err(Fault::from(error)),
        };
        if backward { Box::new(rows.rev().map(row)) } else { Box::new(rows.map(row)) }
    }
}
