//! The log in files: the trees fjall is made of, behind a journal of our own.
//!
//! ```text
//!   batch ──▶ journal ──▶ trees in memory ──a few MB──▶ tables; the journal goes
//! ```
//!
//! fjall's own journal is kept until 64 MB are in it and is slow to read again; this one is as short as what is in memory,
//! so a start after a kill is quick. Batches are in the system's hands when a write returns. Invariant: everything is in
//! tables, or in a journal.

use super::flusher::Flusher;
use super::journal::{self, Item, Journal};
use super::trees::Trees;
use super::{Backend, Fault, Op, Rows, Source, Space, View};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Bytes in memory that are worth a flush …
const ROUND_BYTES: u64 = 6 << 20;
/// … and for which a write waits until the one before is done.
const WAIT_BYTES: u64 = 12 << 20;
/// Every run begins a journal of its own: so many are worth a flush, too.
const JOURNALS_MAX: usize = 8;

/// The open database.
pub struct Disk {
    // Ends before anything it works on.
    flusher: Option<Flusher>,
    trees: Arc<Trees>,
    journal: Journal,
    /// In memory and not rotated.
    bytes: u64,
}

/// A database that is made at the first write: making one flushes dozens of files, and a start doesn't wait for that.
pub(in crate::events::log) struct Late {
    folder: PathBuf,
    disk: Option<Disk>,
    source: Arc<LateTrees>,
}

/// Its trees, once there are any.
#[derive(Default)]
struct LateTrees(OnceLock<Arc<Trees>>);

impl Disk {
    /// Opens or makes the database in `folder`.
    pub fn open(folder: &Path) -> Result<Disk, Fault> {
        std::fs::create_dir_all(folder)?;
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => io::ErrorKind::ResourceBusy.into(),
            std::fs::TryLockError::Error(error) => error,
        })?;
        let trees = Arc::new(Trees::open(folder, lock)?);
        let journals = journal::list(folder)?;
        let (in_tables, mut bytes) = (trees.in_tables(), 0);
        for (_, path) in &journals {
            let mut each = |number, items: &[Item<'_>]| bytes += trees.again(number, items, &in_tables);
            let end = journal::look(path, &mut each)?.end;
            if std::fs::metadata(path)?.len() > end {
                // Zeros, which the next start needn't read.
                File::options().write(true).open(path)?.set_len(end)?;
            }
        }
        Ok(Disk { flusher: None, trees, journal: Journal::behind(folder, journals)?, bytes })
    }

    /// Writes everything that is in memory to tables, for measurements.
    pub fn flush(&mut self) -> Result<(), Fault> {
        self.flusher()?.wait()?;
        self.rotate()?;
        self.flusher()?.wait()
    }

    /// No thread is there before something is written.
    fn flusher(&mut self) -> Result<&Flusher, Fault> {
        match &mut self.flusher {
            Some(flusher) => Ok(flusher),
            none => Ok(none.insert(Flusher::start(self.trees.clone())?)),
        }
    }

    fn rotate(&mut self) -> Result<(), Fault> {
        let journals = self.journal.seal();
        self.trees.rotate();
        self.bytes = 0;
        self.flusher()?.take(journals);
        Ok(())
    }
}

impl Backend for Disk {
    fn write(&mut self, batch: &mut Vec<Op>) -> Result<(), Fault> {
        if batch.is_empty() {
            return Ok(());
        }
        self.flusher()?.check()?;
        let journal = &mut self.journal;
        let note = |number, ops: &[Op]| Ok(journal.append(number, ops)?);
        self.bytes += self.trees.write(batch, note)?;
        let is_due = self.bytes >= ROUND_BYTES || self.journal.files() > JOURNALS_MAX;
        if !is_due || (self.bytes < WAIT_BYTES && self.flusher()?.is_busy()) {
            return Ok(());
        }
        self.flusher()?.wait()?;
        self.rotate()
    }

    fn sync(&mut self) -> Result<(), Fault> {
        Ok(self.journal.sync()?)
    }

    fn source(&self) -> Arc<dyn Source> {
        self.trees.clone()
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
            self.source.0.get_or_init(|| disk.trees.clone());
            self.disk = Some(disk);
        }
        Ok(())
    }

    fn write(&mut self, batch: &mut Vec<Op>) -> Result<(), Fault> {
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

impl Source for LateTrees {
    fn view(&self) -> Box<dyn View + '_> {
        match self.0.get() {
            Some(trees) => trees.view(),
            None => Box::new(Nothing),
        }
    }

    fn bytes(&self) -> u64 {
        self.0.get().map_or(0, |trees| trees.bytes())
    }

    fn space_bytes(&self, space: Space) -> u64 {
        self.0.get().map_or(0, |trees| trees.space_bytes(space))
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
