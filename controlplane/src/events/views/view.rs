//! One view: its rows, how far it is, what it could not digest, what it has not seen.
//!
//! A checkpoint is a header and the rows as named values, of which only those that changed are written again. The header
//! has the digest of what the view folds, and the sum of the digests of all rows: a row that is missing, too much, of
//! another time or damaged makes the sum wrong. Invariants: the header and the rows are a function of the events alone,
//! however they were cut into pages; every event up to `seq` is folded, none of this view's, skipped, overflowed, or in
//! a gap, and in none of these twice.

use crate::auth::grant::hears;
use crate::auth::principal::Principal;
use crate::digest::xxh64;
use crate::events::record::Record;
use crate::events::views::Bounds;
use crate::events::views::fold::{Fold, Folded, Skip};
use crate::events::views::table::{Part, Table};
use bytes::{Bytes, BytesMut};
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::methods::view::{ViewChangesResult, ViewGap, ViewGetResult, ViewRow, ViewSkip, ViewSummary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Version of folds and of the form they are stored in: another one's checkpoint is no use.
const VERSION: u32 = 1;

/// Skipped events that are told one by one.
const SKIPS_MAX: usize = 8;

/// Gaps that are told one by one.
const GAPS_MAX: usize = 16;

/// Rows one read looks at, most of them perhaps another's.
const SCAN_MAX: usize = 50_000;

/// Why a checkpoint is no use. The view has to be folded again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Another version's.
    #[error("the checkpoint is of another version")]
    Version,
    /// Of another definition, or under other limits.
    #[error("the checkpoint is of another definition")]
    Definition,
    /// Torn or damaged.
    #[error("the checkpoint is damaged")]
    Damaged,
}

/// What is counted of the events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    seq: u64,
    events: u64,
    skipped: u64,
    skips: Vec<(u64, String)>,
    overflowed: u64,
    evicted: u64,
    gaps: u64,
    missed: u64,
    gap: Vec<ViewGap>,
    /// All that is missing below this number is in a gap.
    covered: u64,
}

/// The head of a checkpoint: version, digest, counts, rows, their sum.
#[derive(Serialize, Deserialize)]
struct Header(u32, u64, u64, Counts, u64, u64);

/// A view.
#[derive(Debug)]
pub struct View {
    fold: Fold,
    digest: u128,
    bounds: Bounds,
    table: Table,
    counts: Counts,
}

/// Which rows to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'q> {
    /// With this key alone.
    pub key: Option<&'q str>,
    /// With keys that begin so.
    pub prefix: Option<&'q str>,
    /// With keys after this one.
    pub after: Option<&'q str>,
    /// At most so many.
    pub limit: usize,
}

/// What a checkpoint has to write, see [`View::checkpoint`].
pub struct Checkpoint<R> {
    /// To be stored after the rows, or with them.
    pub header: Bytes,
    /// All that is stored of the view so far has to go first.
    pub whole: bool,
    /// Names and values; a name without a value is to be deleted.
    pub rows: R,
}

impl View {
    pub(super) fn new(fold: Fold, digest: u128, bounds: Bounds) -> View {
        View { fold, digest, bounds, table: Table::new(bounds), counts: Counts::default() }
    }

    /// Of which types the events are that it is made of.
    pub(super) fn topics(&self) -> Arc<[Arc<str>]> {
        self.fold.topics()
    }

    /// The last event it has looked at.
    pub fn seq(&self) -> u64 {
        self.counts.seq
    }

    /// Folds the next event. One it has seen already is nothing to it; numbers that are left out are a gap.
    pub(super) fn fold(&mut self, seq: u64, record: Option<&Record<'_>>) {
        if seq <= self.counts.seq {
            return;
        }
        if seq > self.counts.seq + 1 {
            // Told of already, or an unknown number.
            self.gap(ViewGap { from: self.counts.seq + 1, to: seq, events: None });
        }
        self.counts.seq = seq;
        let folded = match record {
            Some(record) => self.fold.fold(record, &mut self.table),
            None => Err(Skip::new("it is no event")),
        };
        self.counts.evicted += self.table.take_evicted();
        match folded {
            Ok(Folded::Yes) => self.counts.events += 1,
            Ok(Folded::No) => {}
            Ok(Folded::Overflowed) => self.counts.overflowed += 1,
            Err(skip) => {
                self.counts.skipped += 1;
                if self.counts.skips.len() < SKIPS_MAX {
                    self.counts.skips.push((seq, skip.to_string()));
                }
            }
        }
    }

    /// Notes a range of which events are no longer in the log; what it has seen of them it has seen. Those that are still
    /// there come.
    pub(super) fn gap(&mut self, gap: ViewGap) {
        let from = gap.from.max(self.counts.seq + 1).max(self.counts.covered);
        if gap.to <= from {
            return;
        }
        // Of a part of a range it isn't known how many there were.
        let events = gap.events.filter(|_| from == gap.from);
        let counts = &mut self.counts;
        counts.gaps += 1;
        counts.missed += events.unwrap_or(0);
        counts.gap.push(ViewGap { from, to: gap.to, events });
        if counts.gap.len() > GAPS_MAX {
            counts.gap.remove(0);
        }
        counts.covered = gap.to;
    }

    /// There is nothing more up to this number.
    pub(super) fn pass(&mut self, seq: u64) {
        self.counts.seq = self.counts.seq.max(seq);
    }

    /// True if it knows that the whole range is missing, or can't know any more.
    pub(super) fn misses(&self, from: u64, to: u64) -> bool {
        let counts = &self.counts;
        counts.gaps > GAPS_MAX as u64 || counts.gap.iter().any(|gap| gap.from <= from && gap.to >= to)
    }

    /// Back to before the first event.
    pub(super) fn rebuild(&mut self) {
        self.table = Table::new(self.bounds);
        self.counts = Counts::default();
    }

    /// What is to be stored so that [`Views::restore`](super::Views::restore) finds the view as it is now: all rows the first time and
    /// after [`store_anew`](View::store_anew), else those that changed since [`stored`](View::stored). Nothing may be
    /// folded between this and `stored`.
    pub fn checkpoint(&self) -> Checkpoint<impl Iterator<Item = (&[u8], Option<&[u8]>)>> {
        let (whole, rows) = self.table.unstored();
        Checkpoint { header: self.header(), whole, rows }
    }

    /// The checkpoint is on its way and nothing else of the view will overtake it.
    pub fn stored(&mut self) {
        self.table.stored();
    }

    /// The store did not take a checkpoint: the next one writes everything.
    pub fn store_anew(&mut self) {
        self.table.store_anew();
    }

    fn header(&self) -> Bytes {
        let header = Header(
            VERSION,
            (self.digest >> 64) as u64,
            self.digest as u64,
            self.counts.clone(),
            self.table.len() as u64,
            self.table.sum(),
        );
        let mut buf = BytesMut::with_capacity(256);
        if let Err(error) = to_buf(&mut buf, Dialect::Int64, &header) {
            tracing::error!(component = "controlplane", %error, "a view's checkpoint was not written");
        }
        let sum = xxh64(&buf);
        buf.extend_from_slice(&sum.to_le_bytes());
        buf.freeze()
    }

    /// Takes what was stored. On an error the view is at its beginning.
    pub(super) fn restore<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        header: &[u8],
        rows: impl Iterator<Item = (N, V)>,
    ) -> Result<(), RestoreError> {
        self.rebuild();
        let (body, sum) = header.split_last_chunk::<8>().ok_or(RestoreError::Damaged)?;
        if xxh64(body) != u64::from_le_bytes(*sum) {
            return Err(RestoreError::Damaged);
        }
        // What another version wrote begins with its number, whatever follows.
        let Header(version, high, low, counts, count, sum) = match from_slice(body) {
            Ok(header) => header,
            Err(_) => return Err(RestoreError::Version),
        };
        if version != VERSION {
            return Err(RestoreError::Version);
        }
        if u128::from(high) << 64 | u128::from(low) != self.digest {
            return Err(RestoreError::Definition);
        }
        for (name, value) in rows {
            self.table.restore(name.as_ref(), value.as_ref());
        }
        if self.table.len() as u64 != count || self.table.sum() != sum {
            self.rebuild();
            return Err(RestoreError::Damaged);
        }
        self.table.restored(counts.seq, |state| self.fold.is_over(state));
        self.counts = counts;
        Ok(())
    }

    /// Reads rows in the order of their keys, those of them that `principal` may hear of.
    pub(super) fn get(&self, query: &Query<'_>, principal: &Principal) -> ViewGetResult {
        let mut result = ViewGetResult { rows: Vec::new(), next: None, seq: self.seq() };
        if let Some(key) = query.key {
            let inside = query.prefix.is_none_or(|prefix| key.starts_with(prefix))
                && query.after.is_none_or(|after| key > after);
            result.rows.extend(inside.then(|| self.row(key.as_bytes(), principal)).flatten());
            return result;
        }
        let prefix = query.prefix.unwrap_or_default().as_bytes();
        // Right behind all rows of the text `after`.
        let after = query.after.map(|after| [after.as_bytes(), &[1]].concat()).unwrap_or_default();
        let mut group: Vec<Part<'_>> = Vec::new();
        let from = prefix.max(&after[..]);
        let parts = self.table.parts(from).take_while(|part| part.text.starts_with(prefix));
        for (scanned, part) in parts.enumerate() {
            if group.last().is_some_and(|last| last.text != part.text) {
                result.rows.extend(self.shown(&group, principal));
                if result.rows.len() >= query.limit || scanned >= SCAN_MAX {
                    result.next = group.last().map(|last| text(last.text));
                    return result;
                }
                group.clear();
            }
            group.push(part);
        }
        result.rows.extend(self.shown(&group, principal));
        result
    }

    fn row(&self, text: &[u8], principal: &Principal) -> Option<ViewRow> {
        let group: Vec<Part<'_>> = self.table.parts_of(text).collect();
        self.shown(&group, principal)
    }

    /// The rows of one text as one, as far as `principal` may hear of them.
    fn shown(&self, group: &[Part<'_>], principal: &Principal) -> Option<ViewRow> {
        let heard: Vec<Part<'_>> =
            group.iter().filter(|part| hears(principal, &part.audience())).copied().collect();
        let seq = heard.iter().map(|part| part.seq).max()?;
        let shown = self.fold.show(&heard)?;
        Some(ViewRow { key: text(heard.first()?.text), seq, value: shown.value, inexact: shown.inexact })
    }

    /// The rows that changed after the event `since`, each once, as they are now; at most about `limit`.
    pub(super) fn changed_since(
        &self,
        since: u64,
        only: Option<&str>,
        limit: usize,
        principal: &Principal,
    ) -> ViewChangesResult {
        let mut result = ViewChangesResult { seq: self.seq(), ..ViewChangesResult::default() };
        let changes = if since > self.seq() { None } else { self.table.changes_since(since) };
        let Some(changes) = changes else {
            result.reset = true;
            return result;
        };
        let mut seen = BTreeSet::new();
        let mut last = since;
        for (seq, key, audience) in changes {
            let heard = || from_slice(audience).is_ok_and(|audience| hears(principal, &audience));
            let other = only.is_some_and(|only| only.as_bytes() != key);
            if other || seen.contains(key) || !heard() {
                continue;
            }
            // What is new of an event comes together.
            if seen.len() >= limit && seq > last {
                result.seq = seq - 1;
                break;
            }
            last = seq;
            seen.insert(key);
            match self.row(key, principal) {
                Some(row) => result.rows.push(row),
                None => result.removed.push(text(key)),
            }
        }
        result
    }

    /// How far it is; `last` is the last event there is.
    pub(super) fn summary(&self, name: &str, last: u64) -> ViewSummary {
        let counts = &self.counts;
        let skip = |(seq, reason): &(u64, String)| ViewSkip { seq: *seq, reason: reason.clone() };
        ViewSummary {
            name: name.to_owned(),
            builtin: !matches!(self.fold, Fold::Declared(_)),
            definition: None,
            seq: counts.seq,
            lag: last.saturating_sub(counts.seq),
            rows: self.table.len() as u64,
            bytes: self.table.bytes() as u64,
            events: counts.events,
            skipped: counts.skipped,
            skips: counts.skips.iter().map(skip).collect(),
            overflowed: counts.overflowed,
            evicted: counts.evicted,
            stored_seq: None,
            gaps: counts.gaps,
            missed: counts.missed,
            gap: counts.gap.clone(),
        }
    }
}

/// Keys were made of text.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
