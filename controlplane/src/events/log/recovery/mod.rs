//! Opening files that may have been hit: nothing is thrown away, and what was lost has a name.
//!
//! ```text
//!   manifests sound? ──no──▶ salvage: the database moves to quarantine, a new one is filled from what can be read
//!   journals whole?  ──no──▶ the journal is copied to quarantine and written anew without the hit stretches
//!   the database opens? ─no─▶ salvage
//! ```
//!
//! Invariant: a file is changed only after a copy of it, or itself, lies in quarantine. Damage inside of tables is met by
//! readers later, each block has a checksum: see [`walk`](super::scan::walk).

mod salvage;

use super::backend::disk::{Disk, Late};
use super::backend::{Backend, Fault, Source, Space, View, journal};
use super::gaps;
use super::head::{DATABASE, Head, Past};
use super::scan::walk::{Events, Step};
use super::{Damage, LogError, file};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// The folder of what can't be read.
const QUARANTINE: &str = "quarantine";
/// Behind every number there may be.
const END: u64 = u64::MAX - 1;

/// An opened database and what had to be done for it.
pub(super) struct Recovered {
    pub(super) disk: Box<dyn Backend>,
    pub(super) quarantined: Vec<PathBuf>,
    /// Ranges of numbers that are not all there any more.
    pub(super) suspects: Vec<(u64, u64)>,
    /// It is a new database with what could be read of the old one.
    pub(super) is_salvaged: bool,
}

/// Opens the database, whatever became of it.
pub(super) fn open(folder: &Path, head: &mut Head) -> Result<Recovered, LogError> {
    let database = folder.join(DATABASE);
    if let Past::Making { from } = head.past {
        // Cut off in the middle: what is there is a copy of nothing, or of what lies in quarantine.
        remove(&database)?;
        return match from {
            0 => fresh(folder, head),
            number => salvage::into_new(folder, head, number),
        };
    }
    if !database.exists() {
        return fresh(folder, head);
    }
    if lock_is_held(&database) {
        return Err(LogError::InUse);
    }
    if head.is_unaudited && !manifest_is_sound(&part(&database, Space::Audit)).unwrap_or(false) {
        // Cut off as it was made, if it was: the first write says that it is there.
        remove(&part(&database, Space::Audit))?;
    }
    if !manifests_are_sound(&database, head.is_unaudited) {
        return salvage::from(folder, head);
    }
    let (mut quarantined, suspects) = mend_journals(folder, &database)?;
    match attempt(&database) {
        Ok(disk) => Ok(Recovered { disk: Box::new(disk), quarantined, suspects, is_salvaged: false }),
        Err(fault) if is_hopeless(&fault) => {
            tracing::error!(component = "log", %fault, "the log's database can't be opened: what can be read of it is saved");
            let mut saved = salvage::from(folder, head)?;
            saved.quarantined.append(&mut quarantined);
            saved.suspects.extend(suspects);
            Ok(saved)
        }
        Err(Fault::Io(error)) if error.kind() == ErrorKind::ResourceBusy => Err(LogError::InUse),
        Err(fault) => Err(fault.into()),
    }
}

/// The database was opened, and its own accounts can't be read.
pub(super) fn again(folder: &Path, head: &mut Head) -> Result<Recovered, LogError> {
    salvage::from(folder, head)
}

fn fresh(folder: &Path, head: &mut Head) -> Result<Recovered, LogError> {
    head.making(0)?;
    let disk = Box::new(Late::new(folder.join(DATABASE)));
    Ok(Recovered { disk, quarantined: Vec::new(), suspects: Vec::new(), is_salvaged: false })
}

/// Opens it; a database that trips over its own files is one that can't be opened.
fn attempt(database: &Path) -> Result<Disk, Fault> {
    catch_unwind(AssertUnwindSafe(|| Disk::open(database)))
        .unwrap_or_else(|_| Err(Fault::Damaged("the database's files contradict each other".to_owned())))
}

/// True if it would be the same tomorrow.
fn is_hopeless(fault: &Fault) -> bool {
    /// Of the process, of the system.
    const TOO_MANY_FILES: [i32; 2] = [24, 23];
    let Fault::Io(error) = fault else { return true };
    let passing = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::PermissionDenied,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::ResourceBusy,
        ErrorKind::OutOfMemory,
    ];
    !passing.contains(&error.kind())
        && !error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code))
}

/// True if another process has the database open: then nothing may be touched.
fn lock_is_held(database: &Path) -> bool {
    let Ok(file) = File::open(database.join("lock")) else { return false };
    matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock))
}

/// True if every part of the database has the list of its files that was last written. Without this check a part whose
/// list is lost would be taken for an empty one, and its files deleted.
fn manifests_are_sound(database: &Path, is_unaudited: bool) -> bool {
    let parts = Space::ALL.into_iter().filter(|space| *space != Space::Audit || !is_unaudited);
    parts.into_iter().all(|space| manifest_is_sound(&part(database, space)).unwrap_or(false))
}

/// The folder of a space.
fn part(database: &Path, space: Space) -> PathBuf {
    database.join("keyspaces").join(journal::id(space).to_string())
}

fn manifest_is_sound(part: &Path) -> io::Result<bool> {
    let current = std::fs::read(part.join("current"))?;
    let Some((number, rest)) = current.split_first_chunk::<8>() else { return Ok(false) };
    let Some((sum, _)) = rest.split_first_chunk::<16>() else { return Ok(false) };
    let version = std::fs::read(part.join(format!("v{}", u64::from_le_bytes(*number))))?;
    Ok(xxh3_128(&version) == u128::from_le_bytes(*sum))
}

/// What was moved, and the ranges of numbers that were hit.
type Mended = (Vec<PathBuf>, Vec<(u64, u64)>);

/// Looks through the journals and cuts out what is not whole.
fn mend_journals(folder: &Path, database: &Path) -> Result<Mended, LogError> {
    let journals = journal::list(database).map_err(file("reading", database))?;
    let (mut quarantined, mut suspects) = (Vec::new(), Vec::new());
    let mut after = 0;
    for (_, path) in &journals {
        let look = journal::look(path, &mut |_, _| {}).map_err(file("reading", path))?;
        // What a missing file had, or a stretch: all between what is whole before and behind it.
        if look.first.is_some_and(|first| after > 0 && first > after + 1) {
            suspects.push((after + 1, look.first.unwrap_or(after) - 1));
        }
        suspects.extend(
            look.cuts
                .iter()
                .map(|cut| (cut.after.unwrap_or(after) + 1, cut.before.map_or(END, |before| before - 1))),
        );
        after = look.last.unwrap_or(after);
        if !look.cuts.is_empty() {
            quarantined.push(cut_out(folder, path, &look)?);
        }
    }
    Ok((quarantined, suspects))
}

/// Copies the journal to quarantine and writes it anew without the cuts.
fn cut_out(folder: &Path, path: &Path, look: &journal::Look) -> Result<PathBuf, LogError> {
    let (aside, _) = quarantine(folder)?;
    let copy = aside.join(path.file_name().unwrap_or_default());
    let beside = path.with_extension("mended");
    let rewrite = || {
        std::fs::copy(path, &copy)?;
        File::open(&copy)?.sync_all()?;
        File::open(&aside)?.sync_all()?;
        let (mut old, mut new) = (File::open(path)?, File::create(&beside)?);
        let mut at = 0;
        for (from, to) in look.cuts.iter().map(|cut| cut.bytes).chain([(look.end, look.end)]) {
            old.seek(SeekFrom::Start(at))?;
            io::copy(&mut (&mut old).take(from - at), &mut new)?;
            at = to;
        }
        new.flush()?;
        new.sync_all()?;
        std::fs::rename(&beside, path)
    };
    rewrite().map_err(file("mending", path))?;
    tracing::error!(
        component = "log", journal = %path.display(), kept = %copy.display(), stretches = look.cuts.len(),
        "the log's journal has stretches that are not what was written: they are cut out"
    );
    Ok(copy)
}

/// A new folder for what can't be read, and its number.
fn quarantine(folder: &Path) -> Result<(PathBuf, u32), LogError> {
    let all = folder.join(QUARANTINE);
    let number = (1..u32::MAX).find(|number| !all.join(number.to_string()).exists()).unwrap_or(u32::MAX);
    let aside = all.join(number.to_string());
    std::fs::create_dir_all(&aside).map_err(file("making", &aside))?;
    Ok((aside, number))
}

fn remove(folder: &Path) -> Result<(), LogError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(file("removing", folder)(error)),
        _ => Ok(()),
    }
}

/// Which numbers of the ranges are neither there nor known to be missing.
pub(super) fn missing(source: &dyn Source, ranges: &[(u64, u64)], what: &str) -> Result<Vec<Damage>, Fault> {
    let view = source.view();
    let mut damage = Vec::new();
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    let mut done = 0;
    for (from, to) in ranges {
        let from = from.max(done + 1);
        done = done.max(to);
        let mut next = from;
        let mut events = Events::new(&*view, from, to, false);
        while let Some(step) = events.next_from(0)? {
            let (first, last) = match step {
                Step::Event(seq, _) => (seq, seq),
                Step::Hole(first, last) => (first, last),
            };
            unaccounted(&*view, (next, first - 1), what, &mut damage)?;
            next = last + 1;
        }
        unaccounted(&*view, (next, to), what, &mut damage)?;
    }
    Ok(damage)
}

/// Adds the parts of a range that no gap accounts for.
fn unaccounted(
    view: &dyn View,
    (from, to): (u64, u64),
    what: &str,
    damage: &mut Vec<Damage>,
) -> Result<(), Fault> {
    if from > to {
        return Ok(());
    }
    let mut next = from;
    let lost = |from: u64, to: u64| Damage { from, to, what: what.to_owned() };
    for gap in gaps::between(view, from, to)? {
        if gap.from > next {
            damage.push(lost(next, gap.from - 1));
        }
        next = next.max(gap.to + 1);
    }
    if next <= to {
        damage.push(lost(next, to));
    }
    Ok(())
}
