//! The file beside the database that says which format it has and which sequence numbers may have been used.
//!
//! ```text
//!   "KAIROLOG"  version u16  state u16  number u64  boot, 32 bytes  sum, 8 bytes      integers are little-endian
//! ```
//!
//! Beside it `mark` is written over with every batch: the last number, and which run of the system it is of. It is never
//! flushed, for it has to survive a killed process only: then it says exactly what should be there.
//!
//! Numbers are leased many at a time, before they are used. Whatever becomes of the database, the next event is numbered
//! behind the lease then. Invariant: no number at or above the lease was ever given to anybody.

use super::{Damage, Log, LogError, file, gaps, recovery};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use xxhash_rust::xxh3::xxh3_64;

/// The database's folder.
pub(super) const DATABASE: &str = "db";
/// Version of everything in the folder.
pub(super) const FORMAT: u16 = 2;
/// The first version, whose database had no space for an audit.
const UNAUDITED: u16 = 1;

const FILE: &str = "head";
const MARK: &str = "mark";
const MARK_BYTES: usize = 24;
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
    /// The database was being made, from what lies in quarantine under this number unless it is 0.
    Making { from: u32 },
}

const OPEN: u16 = 0;
const CLOSED: u16 = 1;
/// The number's upper half is that of the quarantine, the lower one the lease.
const MAKING: u16 = 2;
/// Bits of the lease while the database is made.
const LEASE_BITS: u32 = 44;

/// The file.
#[derive(Debug)]
pub(super) struct Head {
    folder: PathBuf,
    boot: [u8; 32],
    lease: u64,
    pub(super) past: Past,
    /// The database is of the first version: there is no audit in it.
    pub(super) is_unaudited: bool,
    is_begun: bool,
    mark: File,
    /// What the mark says, if it is of this run of the system.
    marked: Option<u64>,
}

/// The whole of the mark.
fn marking(last: u64, boot: &[u8; 32]) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[..8].copy_from_slice(&last.to_be_bytes());
    bytes[8..16].copy_from_slice(&boot[..8]);
    let sum = xxh3_64(&bytes[..16]);
    bytes[16..].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

impl Head {
    /// Reads it.
    pub(super) fn open(folder: &Path, boot: &str) -> Result<Head, LogError> {
        let path = folder.join(FILE);
        let boot = digest(boot.as_bytes());
        let (mut made_under, mut is_unaudited) = (0, false);
        let past = match std::fs::read(&path) {
            Ok(bytes) => {
                let (past, number) = parse(&bytes, &boot)?;
                is_unaudited = !matches!(past, Past::Lost { lease: None }) && format_of(&bytes) == UNAUDITED;
                made_under = number & ((1 << LEASE_BITS) - 1);
                past
            }
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
            Past::Making { .. } => made_under,
        };
        let path = folder.join(MARK);
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mark = opened.map_err(file("opening", &path))?;
        let mut found = [0; MARK_BYTES];
        let marked = mark.read_exact_at(&mut found, 0).ok().and_then(|()| {
            let number = u64::from_be_bytes(*found.first_chunk()?);
            (found == marking(number, &boot)).then_some(number)
        });
        Ok(Head {
            folder: folder.to_path_buf(),
            boot,
            lease,
            past,
            is_unaudited,
            is_begun: false,
            mark,
            marked,
        })
    }

    /// Before the first write: the file has to say that the log is open, and in which run of the system.
    pub(super) fn begin(&mut self, last: u64) -> Result<(), LogError> {
        if self.is_begun {
            return Ok(());
        }
        // What was leased before is of another run.
        let lease = self.lease.max(last + 1) + STEP;
        // The mark goes first: a process killed between the two has left a log that is open and to which nothing was
        // written, and only the mark says that.
        self.mark(last)?;
        self.write(lease, OPEN, true)?;
        (self.lease, self.is_begun) = (lease, true);
        Ok(())
    }

    /// Makes sure that `seq` is leased.
    pub(super) fn lease(&mut self, seq: u64) -> Result<(), LogError> {
        if seq < self.lease {
            return Ok(());
        }
        let lease = seq + STEP;
        self.write(lease, OPEN, true)?;
        self.lease = lease;
        Ok(())
    }

    /// Notes that `last` is there.
    pub(super) fn mark(&mut self, last: u64) -> Result<(), LogError> {
        let path = || self.folder.join(MARK);
        self.mark.write_all_at(&marking(last, &self.boot), 0).map_err(|error| file("writing", &path())(error))
    }

    /// The last number anybody was given, or a bound for it, or nothing.
    fn end(&self) -> Option<(u64, &'static str)> {
        match (self.past, self.marked) {
            (Past::New, _) => Some((0, "")),
            // Made, and never written to.
            (Past::Making { from: 0 }, None) if self.lease == 0 => Some((0, "")),
            (Past::Closed(last), _) => Some((last, "events that were written are not there")),
            (_, Some(last)) => Some((last, "events that were written are not there")),
            _ if self.lease > 0 => {
                Some((self.lease - 1, "the system stopped: events that were not flushed may be lost"))
            }
            _ => None,
        }
    }

    /// Notes that the database is being made.
    pub(super) fn making(&self, from: u32) -> Result<(), LogError> {
        self.write(u64::from(from) << LEASE_BITS | self.lease, MAKING, from > 0)
    }

    fn write(&self, number: u64, state: u16, flush: bool) -> Result<(), LogError> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&self.boot);
        let sum = digest(&bytes);
        bytes.extend_from_slice(&sum[..8]);
        let path = self.folder.join(FILE);
        let beside = self.folder.join("head.tmp");
        let replace = || {
            let mut out = File::create(&beside)?;
            out.write_all(&bytes)?;
            if flush {
                out.sync_all()?;
            }
            std::fs::rename(&beside, &path)?;
            if flush {
                File::open(&self.folder)?.sync_all()?;
            }
            Ok(())
        };
        replace().map_err(file("writing", &path))
    }
}

fn format_of(head: &[u8]) -> u16 {
    head.get(8..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn parse(bytes: &[u8], boot: &[u8; 32]) -> Result<(Past, u64), LogError> {
    let lost = (Past::Lost { lease: None }, 0);
    let Some((body, sum)) = bytes.split_at_checked(BYTES - 8).filter(|(_, sum)| sum.len() >= 8) else {
        return Ok(lost);
    };
    if &body[..8] != MAGIC || digest(body)[..8] != sum[..8] {
        return Ok(lost);
    }
    let found = format_of(body);
    if found > FORMAT {
        return Err(LogError::Newer { found });
    }
    let Some(number) = body[12..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Ok(lost);
    };
    let past = match (u16::from_le_bytes([body[10], body[11]]), &body[20..] == boot) {
        (CLOSED, _) => Past::Closed(number),
        (MAKING, _) => Past::Making { from: (number >> LEASE_BITS) as u32 },
        (_, true) => Past::Killed { lease: number },
        (_, false) => Past::Lost { lease: Some(number) },
    };
    Ok((past, number))
}

impl Log {
    /// Compares what is there with what was promised, leases numbers for this run, and writes down what is missing.
    pub(super) fn mind_the_head(&mut self, suspects: Vec<(u64, u64)>) -> Result<Vec<Damage>, LogError> {
        let Some(head) = &self.head else { return Ok(Vec::new()) };
        let last = self.totals.last;
        let unknown = (last + STEP, "the log's head was lost: nobody knows which numbers were used");
        let (end, what) = head.end().unwrap_or(unknown);
        // What was never said to be there isn't missing.
        let ranges = suspects.into_iter().map(|(from, to)| (from, to.min(last.max(end))));
        let mut ranges: Vec<(u64, u64)> = ranges.filter(|(from, to)| from <= to).collect();
        if end > last && ranges.iter().all(|(_, to)| *to < end) {
            ranges.push((last + 1, end));
        }
        let damage = recovery::missing(&*self.reader.source, &ranges, what)?;
        if !damage.is_empty() || end > last {
            self.record(&damage, last.max(end))?;
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
            // One that was only read is as it was.
            Some(head) if !head.is_begun => Ok(()),
            Some(head) => head.write(self.totals.last, CLOSED, true),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes the folder one of another version.
    pub(in crate::events::log) fn set_format(folder: &Path, format: u16) {
        let path = folder.join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8..10].copy_from_slice(&format.to_le_bytes());
        let sum = digest(&bytes[..BYTES - 8]);
        bytes[BYTES - 8..].copy_from_slice(&sum[..8]);
        std::fs::write(&path, bytes).unwrap();
    }
}
