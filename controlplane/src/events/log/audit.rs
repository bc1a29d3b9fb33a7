//! The audit's chain as it is stored: in a space of its own, written in the batch of the events it is about.
//!
//! ```text
//!   space audit:   a n → record     k n → checkpoint     n → the record whose checkpoint stands for what was dropped
//!   file `audit`:  the latest checkpoint, written over; never flushed
//! ```
//!
//! The end of the chain is the last record that is stored. What is behind it in the file was there and is gone: the chain
//! goes on behind that, so that what is missing stays missing. Invariant: a record is in the store exactly when its event's
//! batch is; records go only up to a checkpoint, which stays.

use super::backend::{Fault, Op, Source, Space, View};
use super::keys::{self, Room};
use super::scan::query::PageLimit;
use super::{Batch, Damage, Log, LogError, Reader, file};
use crate::audit::chain::{Head, Link};
use crate::audit::checkpoint::{Checkpoint, Key, PublicKey};
use crate::audit::verify::Checker;
use crate::audit::{Order, is_audited};
use crate::events::record::Record;
use bytes::Bytes;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The file of the latest checkpoint.
const FILE: &str = "audit";
/// So many records are signed together …
const SIGNED_TOGETHER: u64 = 1_024;
/// … or those of so long.
pub(crate) const SIGNED_WITHIN_MS: u64 = 300_000;

/// So many records in a row that can't be read are taken for the end.
const BLIND_MAX: u64 = SIGNED_TOGETHER;

/// What a log with an audit is known to have, for its readers.
#[derive(Debug)]
pub(super) struct Auditor {
    key: PublicKey,
    /// The last record that is written.
    n: AtomicU64,
}

/// The chain, as whoever writes it holds it.
#[derive(Debug)]
pub(super) struct Audit {
    key: Key,
    head: Head,
    last: Option<Checkpoint>,
    /// Up to this record all is dropped.
    anchor: u64,
    /// What is dropped may still be there.
    is_pruning: bool,
    /// This run has signed something.
    has_begun: bool,
    /// A checkpoint that only the file had.
    lost: Option<Checkpoint>,
    note: (PathBuf, File),
    noted: u64,
    auditor: Arc<Auditor>,
}

/// What was found of an audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audited {
    /// There was none: it begins, and is signed with this key.
    pub begins: Option<PublicKey>,
    /// Records that are not what was written, or gone.
    pub damage: Vec<Damage>,
}

/// How an audit stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What it is signed with.
    pub key: PublicKey,
    /// Its last record.
    pub head: Head,
    /// What stands for all that was dropped.
    pub anchor: Option<Checkpoint>,
    /// The latest checkpoint.
    pub last: Option<Checkpoint>,
    /// The last record that was written, whatever became of it.
    pub written: u64,
}

/// Something of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A record.
    Record(Link),
    /// One behind the record it is of.
    Checkpoint(Checkpoint),
    /// What can't be read, of this number.
    Unreadable(u64, String),
}

/// A part of the chain, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// What is in it.
    pub pieces: Vec<Piece>,
    /// The last number it goes to, if there is more.
    pub next: Option<u64>,
}

fn link_key(n: u64) -> Bytes {
    keys::numbered(Room::Link, n)
}

fn checkpoint_key(n: u64) -> Bytes {
    keys::numbered(Room::Checkpoint, n)
}

pub(super) fn anchor_key() -> Bytes {
    keys::named(Room::Anchor, &[])
}

/// What is damaged counts as not there: then something is missing, and is told.
fn unless_damaged<T>(found: Result<Option<T>, Fault>) -> Result<Option<T>, Fault> {
    match found {
        Err(fault) if fault.is_damage() => {
            tracing::error!(component = "log", %fault, "a part of the audit can't be read");
            Ok(None)
        }
        found => found,
    }
}

/// The number up to which everything is dropped.
fn anchor(view: &dyn View) -> Result<u64, Fault> {
    let stored = unless_damaged(view.get(Space::Audit, &anchor_key()))?;
    Ok(stored.and_then(|bytes| keys::number(&bytes)).unwrap_or_default())
}

/// The latest checkpoint of the records up to `n`.
fn checkpoint_to(view: &dyn View, n: u64) -> Result<Option<Checkpoint>, Fault> {
    let (from, to) = (checkpoint_key(0), checkpoint_key(n.saturating_add(1)));
    let row = unless_damaged(view.rows(Space::Audit, &from, &to, true).next().transpose())?;
    Ok(row.and_then(|(_, bytes)| Checkpoint::parse(&bytes)))
}

/// The number of the last record behind `base`.
fn last_link(view: &dyn View, base: u64) -> Result<u64, Fault> {
    let row = view.rows(Space::Audit, &link_key(0), &link_key(u64::MAX), true).next();
    match row.transpose() {
        Ok(row) => Ok(row.and_then(|(key, _)| keys::number(&key)).unwrap_or_default()),
        // Then one by one: what can't be read is there.
        Err(fault) if fault.is_damage() => {
            let (mut n, mut blind) = (base, 0);
            while blind < BLIND_MAX {
                match view.get(Space::Audit, &link_key(n + 1)) {
                    Ok(None) => break,
                    Ok(Some(_)) => blind = 0,
                    Err(_) => blind += 1,
                }
                n += 1;
            }
            Ok(n)
        }
        Err(fault) => Err(fault),
    }
}

/// A record, if it can be read and is one.
fn link(view: &dyn View, n: u64) -> Result<Option<Piece>, Fault> {
    match view.get(Space::Audit, &link_key(n)) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => Ok(Some(piece(n, &bytes))),
        Err(fault) if fault.is_damage() => Ok(Some(Piece::Unreadable(n, fault.to_string()))),
        Err(fault) => Err(fault),
    }
}

fn piece(n: u64, stored: &Bytes) -> Piece {
    match Link::parse(stored) {
        Some(link) => Piece::Record(link),
        None => Piece::Unreadable(n, "it is no record".to_owned()),
    }
}

/// Has what is next looked at.
pub(crate) fn check(checker: &mut Checker, piece: &Piece) {
    match piece {
        Piece::Record(link) => checker.record(link),
        Piece::Checkpoint(one) => checker.checkpoint(one.clone()),
        Piece::Unreadable(n, what) => checker.unreadable(*n, what),
    }
}

impl Audit {
    /// The audit of a log that has just been opened, and what was found of it.
    fn open(view: &dyn View, key: Key, folder: &Path) -> Result<(Audit, Audited), LogError> {
        let note = note_in(folder)?;
        let noted = read_note(&note.1);
        let anchor = anchor(view)?;
        let stored = checkpoint_to(view, u64::MAX - 1)?;
        let (base, lost) = match (stored.clone(), noted.clone()) {
            (Some(stored), Some(noted)) if noted.n > stored.n => (Some(noted.clone()), Some(noted)),
            (None, Some(noted)) => (Some(noted.clone()), Some(noted)),
            (stored, _) => (stored, None),
        };
        let signed = base.as_ref().map_or(0, |base| base.n);
        let end = last_link(view, signed)?;
        let mut found = Audited::default();
        let mut tell = |from: u64, to: u64, what: &str| {
            found.damage.push(Damage { from, to, what: what.to_owned() });
        };
        if let Some(base) = &base {
            if signed > end.max(anchor) {
                tell(end.max(anchor) + 1, signed, "they were signed, and are gone");
            } else if signed > anchor && !is_as_signed(view, base)? {
                tell(signed, signed, "the hash that was signed is another");
            }
            if base.key != key.public() {
                tell(
                    signed,
                    signed,
                    "the checkpoint behind it was signed with another key than there is now",
                );
            }
        }
        let mut head = base.as_ref().map_or(Head::default(), Checkpoint::head);
        if end > signed {
            let mut checker = Checker::behind(head, base.clone(), None);
            for n in signed + 1..=end {
                let found = link(view, n)?;
                found.iter().for_each(|piece| check(&mut checker, piece));
            }
            head = Head { n: end, hash: checker.head().hash };
            found.damage.extend(checker.problems.into_iter().map(|one| Damage {
                from: one.from,
                to: one.to,
                what: one.what,
            }));
        }
        found.begins = (head.n == 0).then(|| key.public());
        let first = view.rows(Space::Audit, &link_key(0), &link_key(anchor + 1), false).next();
        let auditor = Arc::new(Auditor { key: key.public(), n: AtomicU64::new(head.n) });
        let audit = Audit {
            key,
            head,
            last: base,
            anchor,
            is_pruning: first.is_some(),
            has_begun: false,
            lost,
            noted: noted.map_or(0, |noted| noted.n),
            note,
            auditor,
        };
        Ok((audit, found))
    }

    /// Adds what a batch has to say, and signs if it is time.
    fn take(&mut self, batch: &Batch<'_>, source: &dyn Source, ops: &mut Vec<Op>) -> Result<(), Fault> {
        // What is dropped was signed before this batch: that it is dropped is a record of it, which stays.
        let (mut time_ms, before) = (0, self.last.clone());
        for event in batch.events.iter().filter(|event| is_audited(event.topic, &event.record)) {
            let stored = self.head.add(event.seq, &event.record);
            ops.push(Op::Put(Space::Audit, link_key(self.head.n), stored));
            time_ms = Record::glance(&event.record).map_or(time_ms, |(time_ms, _)| time_ms);
        }
        for order in &batch.orders {
            let (Order::Sign { at_ms } | Order::Prune { at_ms, .. }) = order;
            self.sign(*at_ms, ops);
            if let Order::Prune { before_ms, .. } = order {
                self.prune(*before_ms, before.as_ref(), &*source.view(), ops)?;
            }
        }
        let last_ms = self.last.as_ref().map_or(0, |last| last.time_ms);
        let is_due = !self.has_begun
            || self.unsigned() >= SIGNED_TOGETHER
            || time_ms.saturating_sub(last_ms) >= SIGNED_WITHIN_MS;
        if time_ms > 0 && is_due {
            self.sign(time_ms, ops);
        }
        Ok(())
    }

    fn unsigned(&self) -> u64 {
        self.head.n - self.last.as_ref().map_or(0, |last| last.n)
    }

    /// Signs what there is, unless it is signed.
    fn sign(&mut self, time_ms: u64, ops: &mut Vec<Op>) {
        if let Some(lost) = self.lost.take() {
            ops.push(Op::Put(Space::Audit, checkpoint_key(lost.n), lost.encode()));
        }
        if self.unsigned() > 0 {
            let made = self.key.sign(&self.head, time_ms, self.last.as_ref());
            ops.push(Op::Put(Space::Audit, checkpoint_key(made.n), made.encode()));
            self.last = Some(made);
            self.has_begun = true;
        }
    }

    /// Has what was signed before a time dropped.
    fn prune(
        &mut self,
        before_ms: u64,
        last: Option<&Checkpoint>,
        view: &dyn View,
        ops: &mut Vec<Op>,
    ) -> Result<(), Fault> {
        let mut to = last.filter(|last| last.time_ms < before_ms).cloned();
        let rows = view.rows(Space::Audit, &checkpoint_key(0), &checkpoint_key(u64::MAX), true);
        for row in if to.is_none() { Some(rows) } else { None }.into_iter().flatten() {
            let one = Checkpoint::parse(&row?.1).filter(|one| one.time_ms < before_ms);
            if one.is_some() {
                to = one;
                break;
            }
        }
        let Some(to) = to.filter(|to| to.n > self.anchor) else { return Ok(()) };
        ops.push(Op::Put(Space::Audit, anchor_key(), keys::event(to.n)));
        (self.anchor, self.is_pruning) = (to.n, true);
        Ok(())
    }

    /// What was added is written: readers may count on it, and the latest checkpoint is noted.
    fn written(&mut self) -> Result<(), LogError> {
        self.auditor.n.store(self.head.n, Ordering::Release);
        let (path, file) = &self.note;
        if let Some(last) = self.last.as_ref().filter(|last| last.n > self.noted) {
            file.write_all_at(&last.encode(), 0).map_err(super::file("writing", path))?;
            self.noted = last.n;
        }
        Ok(())
    }
}

/// True unless the record a checkpoint is of is there and is another.
fn is_as_signed(view: &dyn View, one: &Checkpoint) -> Result<bool, Fault> {
    Ok(match link(view, one.n)? {
        Some(Piece::Record(link)) => link.hash == one.hash,
        _ => true,
    })
}

fn note_in(folder: &Path) -> Result<(PathBuf, File), LogError> {
    let path = folder.join(FILE);
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let opened = opened.map_err(file("opening", &path))?;
    Ok((path, opened))
}

/// The checkpoint in the file. What was torn as the system stopped is none.
fn read_note(file: &File) -> Option<Checkpoint> {
    let length = usize::try_from(file.metadata().ok()?.len()).ok()?;
    let mut bytes = vec![0; length.min(1 << 12)];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Checkpoint::parse(&bytes).filter(Checkpoint::is_signed)
}

impl Log {
    /// Begins, or goes on with, the audit if there is a key for it.
    pub(super) fn begin_audit_if(&mut self, key: Option<Key>, folder: &Path) -> Result<Audited, LogError> {
        let Some(key) = key else { return Ok(Audited::default()) };
        let source = self.reader.source.clone();
        let (audit, found) = Audit::open(&*source.view(), key, folder)?;
        self.reader.auditor = Some(audit.auditor.clone());
        self.audit = Some(audit);
        Ok(found)
    }

    /// Adds to a batch what is to be audited of it.
    pub(super) fn audit(&mut self, batch: &Batch<'_>, ops: &mut Vec<Op>) -> Result<(), LogError> {
        let Some(audit) = &mut self.audit else { return Ok(()) };
        audit.take(batch, &*self.reader.source, ops).inspect_err(|_| self.failed = true)?;
        Ok(())
    }

    /// The batch is written.
    pub(super) fn audited(&mut self) -> Result<(), LogError> {
        let Some(audit) = &mut self.audit else { return Ok(()) };
        audit.written().inspect_err(|_| self.failed = true)
    }

    /// True while there are records that no checkpoint is behind.
    pub fn is_unsigned(&self) -> bool {
        self.audit.as_ref().is_some_and(|audit| audit.unsigned() > 0)
    }

    /// Signs them.
    pub fn sign_audit(&mut self, at_ms: u64) -> Result<(), LogError> {
        self.append(&Batch { orders: vec![Order::Sign { at_ms }], ..Batch::default() })
    }

    /// True while some of the audit waits to be dropped.
    pub fn is_pruning(&self) -> bool {
        self.audit.as_ref().is_some_and(|audit| audit.is_pruning)
    }

    /// Drops some of what is to be dropped of the audit: about `budget` records.
    pub fn prune_audit(&mut self, budget: usize) -> Result<(), LogError> {
        let Some(anchor) = self.audit.as_ref().filter(|audit| audit.is_pruning).map(|audit| audit.anchor)
        else {
            return Ok(());
        };
        let mut ops = Vec::new();
        {
            let source = self.reader.source.clone();
            let view = source.view();
            for (from, to) in
                [(link_key(0), link_key(anchor + 1)), (checkpoint_key(0), checkpoint_key(anchor))]
            {
                let left = budget.max(1) - ops.len();
                for row in view.rows(Space::Audit, &from, &to, false).take(left) {
                    ops.push(Op::Delete(Space::Audit, row?.0));
                }
            }
        }
        if let Some(audit) = &mut self.audit {
            audit.is_pruning = ops.len() == budget.max(1);
        }
        if ops.is_empty() { Ok(()) } else { self.write(ops) }
    }
}

impl Reader {
    /// How the audit stands; none if there is none.
    pub fn audit(&self) -> Result<Option<Standing>, LogError> {
        let Some(auditor) = &self.auditor else { return Ok(None) };
        // First what was written, then what is there.
        let written = auditor.n.load(Ordering::Acquire);
        let view = self.source.view();
        let anchor = anchor(&*view)?;
        let anchor = if anchor > 0 { checkpoint_to(&*view, anchor)? } else { None };
        let last = checkpoint_to(&*view, u64::MAX - 1)?;
        let signed = last.as_ref().map_or(Head::default(), Checkpoint::head);
        let head = match last_link(&*view, signed.n)? {
            end if end <= signed.n => signed,
            end => match link(&*view, end)? {
                Some(Piece::Record(link)) => Head { n: end, hash: link.hash },
                _ => Head { n: end, ..signed },
            },
        };
        Ok(Some(Standing { key: auditor.key, head, anchor, last, written }))
    }

    /// The place in the chain behind which a stretch begins; none if nothing of it is there.
    pub fn audit_place(&self, n: u64) -> Result<Option<Head>, LogError> {
        let view = self.source.view();
        if let Some(Piece::Record(link)) = link(&*view, n)? {
            return Ok(Some(Head { n, hash: link.hash }));
        }
        Ok(checkpoint_to(&*view, n)?.filter(|one| one.n == n).map(|one| one.head()))
    }

    /// The latest checkpoint of the records up to `n`.
    pub fn audit_checkpoint(&self, n: u64) -> Result<Option<Checkpoint>, LogError> {
        Ok(checkpoint_to(&*self.source.view(), n)?)
    }

    /// How many checkpoints there are of the records up to `n`.
    pub fn audit_checkpoints(&self, n: u64) -> Result<u64, LogError> {
        let view = self.source.view();
        let rows = view.rows(Space::Audit, &checkpoint_key(0), &checkpoint_key(n.saturating_add(1)), false);
        rows.map(|row| row.map(|_| 1)).sum::<Result<u64, Fault>>().map_err(LogError::from)
    }

    /// Bytes it takes, about.
    pub fn audit_bytes(&self) -> u64 {
        self.source.space_bytes(Space::Audit)
    }

    /// What is there behind record `after` and up to `to`, checkpoints among it. What is dropped is not.
    pub(crate) fn audit_stretch(&self, after: u64, to: u64, limit: PageLimit) -> Result<Stretch, LogError> {
        let view = self.source.view();
        let after = after.max(anchor(&*view)?);
        let (mut links, mut bytes, mut next) = (Vec::new(), 0, None);
        let mut rows = view.rows(Space::Audit, &link_key(after + 1), &link_key(to.saturating_add(1)), false);
        let mut at = after;
        while let Some(row) = rows.next() {
            match row {
                Ok((key, stored)) => {
                    at = keys::number(&key).unwrap_or(at);
                    bytes += stored.len();
                    links.push((at, piece(at, &stored)));
                }
                Err(fault) if fault.is_damage() => {
                    // A range says nothing of what is behind damage: one by one, then.
                    let end = to.min(at.saturating_add(limit.events as u64));
                    for n in at + 1..=end {
                        links.extend(link(&*view, n)?.map(|piece| (n, piece)));
                    }
                    at = end;
                    rows = view.rows(Space::Audit, &link_key(at + 1), &link_key(to.saturating_add(1)), false);
                }
                Err(fault) => return Err(fault.into()),
            }
            if links.len() >= limit.events || bytes >= limit.bytes {
                next = (at < to).then_some(at);
                break;
            }
        }
        let end = next.unwrap_or(to);
        let mut pieces = Vec::with_capacity(links.len() + 1);
        let (from, behind) = (checkpoint_key(after + 1), checkpoint_key(end.saturating_add(1)));
        let mut links = links.into_iter().peekable();
        for row in view.rows(Space::Audit, &from, &behind, false) {
            let (key, stored) = match row {
                Err(fault) if fault.is_damage() => {
                    pieces.push(Piece::Unreadable(end, format!("checkpoints: {fault}")));
                    break;
                }
                row => row?,
            };
            let n = keys::number(&key).unwrap_or_default();
            while let Some((_, link)) = links.next_if(|(of, _)| *of <= n) {
                pieces.push(link);
            }
            pieces.push(match Checkpoint::parse(&stored) {
                Some(one) => Piece::Checkpoint(one),
                None => Piece::Unreadable(n, "the checkpoint behind it is none".to_owned()),
            });
        }
        pieces.extend(links.map(|(_, link)| link));
        Ok(Stretch { pieces, next })
    }
}
