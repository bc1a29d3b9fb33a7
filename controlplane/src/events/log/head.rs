//! The file beside the database that says which format it has and which sequence numbers may have been used.
//!
//! ```text
//!   "KAIROLOG"  version u16  clean u16  lease u64  boot, 32 bytes  sum, 8 bytes      integers are little-endian
//! ```
//!
//! Numbers are leased many at a time, before they are used. Whatever becomes of the database, the next event is numbered
//! behind the lease then. Invariant: no number at or above the lease was ever given to anybody.

use super::{Damage, Log, LogError, file, gaps};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// The database's folder.
pub(super) const DATABASE: &str = "db";
/// Version of everything in the folder.
pub(super) const FORMAT: u16 = 1;

const FILE: &str = "head";
const MAGIC: &[u8; 8] = b"KAIROLOG";
/// Numbers leased at a time: a file is written and flushed for that many events.
const STEP: u64 = 65_536;
const BYTES: usize = 8 + 2 + 2 + 8 + 32 + 8;

/// What was found in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// There is none.
    New,
    /// The log was closed when this was the last number.
    Closed(u64),
    /// It was not closed, but the system has not stopped since.
    Killed { lease: u64 },
    /// The system stopped, or nobody knows.
    Lost { lease: Option<u64> },
}

/// The file.
#[derive(Debug)]
pub(super) struct Head {
    folder: PathBuf,
    boot: [u8; 32],
    lease: u64,
    pub(super) past: Past,
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

impl Head {
    /// Reads it.
    pub(super) fn open(folder: &Path, boot: &str) -> Result<Head, LogError> {
        let path = folder.join(FILE);
        let boot = digest(boot.as_bytes());
        let past = match std::fs::read(&path) {
            Ok(bytes) => parse(&bytes, &boot)?,
            // A database without its head has lost it.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if folder.join(DATABASE).exists() {
                    Past::Lost { lease: None }
                } else {
                    Past::New
                }
            }
            Err(error) => return Err(file("reading", &path)(error)),
        };
        let lease = match past {
            Past::Closed(last) => last + 1,
            Past::Killed { lease } | Past::Lost { lease: Some(lease) } => lease,
            Past::New | Past::Lost { lease: None } => 0,
        };
        Ok(Head { folder: folder.to_path_buf(), boot, lease, past })
    }

    /// Makes sure that `seq` is leased.
    pub(super) fn lease(&mut self, seq: u64) -> Result<(), LogError> {
        if seq < self.lease {
            return Ok(());
        }
        let lease = seq + STEP;
        self.write(lease, false)?;
        self.lease = lease;
        Ok(())
    }

    fn write(&self, number: u64, clean: bool) -> Result<(), LogError> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&u16::from(clean).to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&self.boot);
        let sum = digest(&bytes);
        bytes.extend_from_slice(&sum[..8]);
        let path = self.folder.join(FILE);
        let beside = self.folder.join("head.tmp");
        let replace = || {
            let mut out = File::create(&beside)?;
            out.write_all(&bytes)?;
            out.sync_all()?;
            std::fs::rename(&beside, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        replace().map_err(file("writing", &path))
    }
}

fn parse(bytes: &[u8], boot: &[u8; 32]) -> Result<Past, LogError> {
    let lost = Past::Lost { lease: None };
    let Some((body, sum)) = bytes.split_at_checked(BYTES - 8).filter(|(_, sum)| sum.len() >= 8) else {
        return Ok(lost);
    };
    if &body[..8] != MAGIC || digest(body)[..8] != sum[..8] {
        return Ok(lost);
    }
    let found = u16::from_le_bytes([body[8], body[9]]);
    if found > FORMAT {
        return Err(LogError::Newer { found });
    }
    let Some(number) = body[12..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Ok(lost);
    };
    Ok(match (body[10], &body[20..] == boot) {
        (1, _) => Past::Closed(number),
        (_, true) => Past::Killed { lease: number },
        (_, false) => Past::Lost { lease: Some(number) },
    })
}

impl Log {
    /// Compares what is there with what was promised, leases numbers for this run, and writes down what is missing.
    pub(super) fn mind_the_head(&mut self) -> Result<Vec<Damage>, LogError> {
        let Some(head) = &self.head else { return Ok(Vec::new()) };
        let last = self.totals.last;
        let (to, what) = match head.past {
            Past::New | Past::Killed { .. } => (last, ""),
            Past::Closed(to) => (to, "events that were written are not there"),
            Past::Lost { lease: Some(lease) } => {
                (lease - 1, "the system stopped: events that were not flushed may be lost")
            }
            Past::Lost { lease: None } => {
                (last + STEP, "the log's head was lost: nobody knows which numbers were used")
            }
        };
        let mut damage = Vec::new();
        if to > last {
            damage.push(Damage { from: last + 1, to, what: what.to_owned() });
            self.record(&damage, to)?;
        }
        if let Some(head) = &mut self.head {
            // Written even if the numbers suffice: it has to say that the log is open, and in which run of the system.
            head.lease = 0;
            head.lease(to)?;
        }
        Ok(damage)
    }

    /// Writes damage down where replays find it; numbers up to `last` are used up.
    pub(super) fn record(&mut self, damage: &[Damage], last: u64) -> Result<(), LogError> {
        let mut totals = self.totals;
        totals.last = totals.last.max(last);
        let gaps = damage.iter().map(|one| gaps::Gap {
            from: one.from,
            to: one.to,
            why: gaps::Reason::Damaged(one.what.clone()),
        });
        let mut ops = gaps.map(|gap| gap.put()).collect::<Result<Vec<_>, _>>()?;
        ops.push(totals.put());
        self.write(ops)?;
        self.totals = totals;
        Ok(())
    }

    /// Writes down what readers came upon since the last time, and says it.
    pub fn damage(&mut self) -> Result<Vec<Damage>, LogError> {
        let found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        if !found.is_empty() {
            self.record(&found, 0)?;
        }
        Ok(found)
    }

    /// Flushes, and notes that nothing is missing. A log that is dropped otherwise is taken for one whose process died.
    pub fn close(mut self) -> Result<(), LogError> {
        self.sync()?;
        match &self.head {
            Some(head) => head.write(self.totals.last, true),
            None => Ok(()),
        }
    }
}
