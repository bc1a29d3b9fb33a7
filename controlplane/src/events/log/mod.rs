//! The event log as it is kept: one total order of events, small named values, and the lives of sessions.
//!
//! ```text
//!   one thread ──append──▶ Log ──batch──▶ backend ──▶ files, or memory
//!              ──index───▶  │
//!   any thread ◀──pages── Reader ◀──view──┘
//! ```
//!
//! The caller numbers the events and says what time it is; nothing here has a thread or a clock of its own. Invariant: a
//! batch is there whole or not at all, a sequence number is never used twice, and whoever reads a range is told of every
//! number that can't be shown: dropped, with a summary, or damaged. When batches are made and synced is the caller's; what
//! an event says is [`record`](super::record)'s.

mod append;
pub(crate) mod audit;
pub mod backend;
mod foresight;
mod gaps;
mod head;
mod index;
mod keys;
mod recovery;
mod retention;
mod scan;
pub mod simulation;

pub use append::{Batch, Kind, Life, Stored, Totals, Value};
pub use audit::{Audited, Standing};
pub use foresight::Foresight;
pub use gaps::{Gap, Reason, Summary};
pub use index::IndexLag;
pub use retention::{Dropped, Retained, Retention, Rule};
pub use scan::query::{PageLimit, Query, Types};
pub use scan::{Page, Reader, Stats};

use crate::audit::checkpoint::Key;
use backend::memory::Memory;
use backend::{Backend, Fault};
use bytes::Bytes;
use head::Head;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What the opener has to say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names this run of the machine: after another one, what was not synced may be gone.
    pub boot: String,
    /// What its audit is signed with; none to keep none.
    pub audit: Option<Key>,
}

/// Room for so many changes is kept from batch to batch.
const SPARE_OPS_MAX: usize = 4_096;

/// Records of sessions with their order.
pub type Lives = Vec<(u64, Kind, Bytes)>;

/// What was found.
#[derive(Debug, Default)]
pub struct Opened {
    /// The highest sequence number ever used; the next event has the one behind it.
    pub last_seq: u64,
    /// What was lost since the last time, by range. Whatever was folded from it has to be folded again.
    pub damage: Vec<Damage>,
    /// Where what couldn't be read was moved to.
    pub quarantined: Vec<PathBuf>,
    /// Records of sessions, in the order they were written.
    pub lives: Lives,
    /// What was found of its audit.
    pub audit: Audited,
}

/// Events that were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// What happened.
    pub what: String,
}

/// Why the log can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file or folder.
    #[error("{doing} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder was written by a later version.
    #[error("the log has format {found}, which is newer than this program's")]
    Newer {
        /// Its version.
        found: u16,
    },
    /// Another process has it open.
    #[error("the log is open in another process")]
    InUse,
    /// Sequence numbers have to rise.
    #[error("event {seq} was to be written behind event {last}")]
    Order {
        /// Of the event.
        seq: u64,
        /// Of the last one.
        last: u64,
    },
    /// A write failed before; nothing is acknowledged any more.
    #[error("the log has failed: a write was lost")]
    Failed,
    /// The store.
    #[error("the log: {0}")]
    Store(#[from] Fault),
}

/// The log, owned by the only one that writes.
pub struct Log {
    backend: Box<dyn Backend>,
    reader: Reader,
    /// None when it is in memory.
    head: Option<Head>,
    totals: append::Totals,
    next_life: u64,
    indexed_to: u64,
    /// What is to be indexed …
    recent: index::Recent,
    /// … and what the index says of the times of the last block.
    block: Option<(u64, index::Times)>,
    /// No event lies before this number.
    oldest: u64,
    failed: bool,
    /// Room for the next batch.
    spare: Vec<backend::Op>,
    /// Of a log in memory.
    bytes_max: Option<u64>,
    /// None if it keeps none.
    audit: Option<audit::Audit>,
    /// Holes that readers came upon and that are not written down yet.
    found: Arc<Mutex<Vec<Damage>>>,
}

impl Log {
    /// Opens the log in `folder`, or begins one.
    pub fn open(folder: &Path, options: Options) -> Result<(Log, Opened), LogError> {
        // What is in it says what everybody did: it is nobody else's to read.
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true).mode(0o700).create(folder).map_err(file("making", folder))?;
        let mut head = Head::open(folder, &options.boot)?;
        let mut recovered = recovery::open(folder, &mut head)?;
        if !recovered.is_salvaged
            && Reader::of(&*recovered.disk).begin().is_err_and(|fault| fault.is_damage())
        {
            let mut quarantined = std::mem::take(&mut recovered.quarantined);
            drop(recovered);
            recovered = recovery::again(folder, &mut head)?;
            recovered.quarantined.append(&mut quarantined);
        }
        let recovery::Recovered { disk, quarantined, suspects, .. } = recovered;
        let (mut log, lives) = Log::over(disk, Some(head))?;
        let damage = log.mind_the_head(suspects)?;
        if !quarantined.is_empty() {
            log.index_anew()?;
        }
        let audit = log.begin_audit_if(options.audit, folder)?;
        let opened = Opened { last_seq: log.totals.last, damage, quarantined, lives, audit };
        Ok((log, opened))
    }

    /// A log in memory, of at most about so many bytes: beyond them the oldest events are dropped, as retention does.
    pub fn in_memory(bytes_max: u64) -> Result<Log, LogError> {
        let (mut log, _) = Log::over(Box::new(Memory::default()), None)?;
        log.bytes_max = Some(bytes_max);
        Ok(log)
    }

    /// A log over what keeps it.
    pub fn over_backend(backend: Box<dyn Backend>) -> Result<(Log, Opened), LogError> {
        let (log, lives) = Log::over(backend, None)?;
        let opened = Opened { last_seq: log.totals.last, lives, ..Opened::default() };
        Ok((log, opened))
    }

    /// The same with what stands beside it in `folder`: its numbers are leased, so none is used again whatever becomes of it.
    pub fn over_backend_in(
        backend: Box<dyn Backend>,
        folder: &Path,
        options: Options,
    ) -> Result<(Log, Opened), LogError> {
        let (mut log, lives) = Log::over(backend, Some(Head::open(folder, &options.boot)?))?;
        let damage = log.mind_the_head(Vec::new())?;
        let audit = log.begin_audit_if(options.audit, folder)?;
        let opened = Opened { last_seq: log.totals.last, damage, lives, audit, ..Opened::default() };
        Ok((log, opened))
    }

    fn over(backend: Box<dyn Backend>, head: Option<Head>) -> Result<(Log, Lives), LogError> {
        let reader = Reader::of(&*backend);
        let (totals, lives, indexed_to) = reader.begin()?;
        let oldest = reader.oldest()?;
        let next_life = lives.last().map_or(0, |life| life.0 + 1);
        let found = reader.found.clone();
        Ok((
            Log {
                backend,
                reader,
                head,
                totals,
                next_life,
                indexed_to,
                recent: index::Recent::after(totals.last),
                block: None,
                oldest,
                failed: false,
                spare: Vec::new(),
                bytes_max: None,
                audit: None,
                found,
            },
            lives,
        ))
    }

    /// Where it is read.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// The highest sequence number ever used.
    pub fn last_seq(&self) -> u64 {
        self.totals.last
    }

    /// How much there is.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Up to this sequence number the indexes are complete.
    pub fn indexed_to(&self) -> u64 {
        self.indexed_to
    }

    /// Writes to the backend, unless it ever failed.
    fn write(&mut self, mut batch: Vec<backend::Op>) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed);
        }
        if let Some(head) = &mut self.head {
            head.begin(self.totals.last).inspect_err(|_| self.failed = true)?;
        }
        self.backend.write(&mut batch).inspect_err(|_| self.failed = true)?;
        if batch.capacity() <= SPARE_OPS_MAX {
            self.spare = batch;
        }
        Ok(())
    }
}

/// An error of the system with what was tried.
fn file<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LogError + 'a {
    move |source| LogError::File { doing, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests;
