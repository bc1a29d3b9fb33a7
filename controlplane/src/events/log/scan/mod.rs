//! Reading the log: one event, a page of those that match, and the small things beside them.
//!
//! A page is read from one view, so it shows batches whole. Invariant: of the numbers a page has gone through, every one is
//! either an event that doesn't match, one that is in the page, or in one of the page's gaps.

mod guide;
mod postings;
pub(super) mod query;
pub(super) mod walk;

use super::append::{Kind, TOTALS, Totals};
use super::audit::Auditor;
use super::backend::{Backend, Fault, Source, Space, View};
use super::gaps::{self, Gap, Reason};
use super::index::{IndexLag, WATERMARK};
use super::keys::{self, Room};
use super::{Damage, Lives, LogError};
use crate::events::record::Record;
use bytes::Bytes;
use guide::Guide;
use query::{PageLimit, Query};
use std::sync::{Arc, Mutex, PoisonError};
use walk::{Events, Step};

/// Reads the log from any thread.
#[derive(Clone)]
pub struct Reader {
    pub(super) source: Arc<dyn Source>,
    pub(super) found: Arc<Mutex<Vec<Damage>>>,
    /// None if there is no audit.
    pub(super) auditor: Option<Arc<Auditor>>,
}

/// Some of the events that match, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Sequence number and record.
    pub events: Vec<(u64, Bytes)>,
    /// What can't be shown of the numbers this page went through. A range that reaches into several pages is in each.
    pub gaps: Vec<Gap>,
    /// Where the next page begins; nothing when there is none.
    pub next: Option<u64>,
    /// The highest sequence number there was.
    pub end_seq: u64,
    /// The first and the last number it went through.
    span: (u64, u64),
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events that are kept.
    pub events: u64,
    /// Bytes of their records.
    pub record_bytes: u64,
    /// Bytes all of it takes, on disk or in memory.
    pub stored_bytes: u64,
    /// The lowest sequence number there is, none when there is no event.
    pub first_seq: Option<u64>,
    /// The highest one ever used.
    pub last_seq: u64,
}

/// How an opened log goes on: its totals, the lives, and how far the indexes are.
type Beginning = (Totals, Lives, u64);

impl Reader {
    pub(super) fn of(backend: &dyn Backend) -> Reader {
        Reader { source: backend.source(), found: Arc::default(), auditor: None }
    }

    pub(super) fn oldest(&self) -> Result<u64, Fault> {
        oldest(&*self.source.view())
    }

    pub(super) fn begin(&self) -> Result<Beginning, Fault> {
        let view = self.source.view();
        Ok((totals(&*view)?, lives(&*view)?, indexed_to(&*view)?))
    }

    /// The highest sequence number ever used.
    pub fn last_seq(&self) -> Result<u64, LogError> {
        Ok(totals(&*self.source.view())?.last)
    }

    /// The record of one event. An error if it is there and can't be read.
    pub fn get(&self, seq: u64) -> Result<Option<Bytes>, LogError> {
        Ok(self.source.view().get(Space::Events, &keys::event(seq))?)
    }

    /// Events that match, from `at` on, or from the beginning of what is asked for.
    pub fn scan(&self, query: &Query, at: Option<u64>, limit: PageLimit) -> Result<Page, LogError> {
        let view = self.source.view();
        let end_seq = totals(&*view)?.last;
        let (mut from, mut to) = (query.from.max(1), query.to.min(end_seq));
        match (at, query.backward) {
            (Some(at), false) => from = from.max(at),
            (Some(at), true) => to = to.min(at),
            (None, _) => {}
        }
        let mut page = Page { end_seq, ..Page::default() };
        if from > to {
            return Ok(page);
        }
        let mut holes = Vec::new();
        page.next = fill(&*view, query, (from, to), limit, &mut page, &mut holes)?;
        let (first, last) = match (page.next, query.backward) {
            (Some(next), false) => (from, next - 1),
            (Some(next), true) => (next + 1, to),
            (None, _) => (from, to),
        };
        page.span = (first, last);
        page.gaps = gaps_of(&*view, query, page.span)?;
        drop(view);
        if !holes.is_empty() {
            self.report(holes, &mut page.gaps, query.backward);
        }
        Ok(page)
    }

    /// True if the page, which is not the last one, would be the same if it were read now: whatever went has left a gap. Its
    /// end is brought up to date.
    pub fn still_shows(&self, query: &Query, page: &mut Page) -> Result<bool, LogError> {
        let view = self.source.view();
        page.end_seq = totals(&*view)?.last;
        Ok(page.next.is_some() && gaps_of(&*view, query, page.span)? == page.gaps)
    }

    /// Adds holes that are news to the page, and keeps them for the writer.
    fn report(&self, holes: Vec<(u64, u64)>, gaps: &mut Vec<Gap>, backward: bool) {
        for (from, to) in holes {
            let known = |gap: &Gap| matches!(gap.why, Reason::Damaged(_)) && gap.from <= from && gap.to >= to;
            if gaps.iter().any(known) {
                continue;
            }
            let what = "events can't be read from the disk".to_owned();
            gaps.push(Gap { from, to, why: Reason::Damaged(what.clone()) });
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            let damage = Damage { from, to, what };
            if !found.contains(&damage) {
                found.push(damage);
            }
        }
        gaps.sort_by_key(|gap| gap.from);
        if backward {
            gaps.reverse();
        }
    }

    /// One value.
    pub fn value(&self, key: &[u8]) -> Result<Option<Bytes>, LogError> {
        Ok(self.source.view().get(Space::State, &keys::named(Room::Value, key))?)
    }

    /// All values whose names begin with `prefix`, in the order of their names.
    pub fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let prefix = keys::named(Room::Value, prefix);
        let view = self.source.view();
        let rows = view.rows(Space::State, &prefix, &keys::behind(&prefix), false);
        rows.map(|row| Ok(row.map(|(key, value)| (key.slice(1..), value))?)).collect()
    }

    /// The first of them behind the name `after`, at most `limit`.
    pub fn values_after(
        &self,
        prefix: &[u8],
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let end = keys::behind(&keys::named(Room::Value, prefix));
        let from = keys::named(Room::Value, &[after, &[0]].concat()).max(keys::named(Room::Value, prefix));
        let view = self.source.view();
        let rows = view.rows(Space::State, &from, &end, false).take(limit);
        rows.map(|row| Ok(row.map(|(key, value)| (key.slice(1..), value))?)).collect()
    }

    /// Records of sessions, in the order they were written.
    pub fn lives(&self) -> Result<Lives, LogError> {
        Ok(lives(&*self.source.view())?)
    }

    /// All there is that can't be shown.
    pub fn gaps(&self) -> Result<Vec<Gap>, LogError> {
        Ok(gaps::between(&*self.source.view(), 0, u64::MAX - 1)?)
    }

    /// How far the indexes are behind.
    pub fn index_lag(&self) -> Result<IndexLag, LogError> {
        let view = self.source.view();
        let indexed_to = indexed_to(&*view)?;
        Ok(IndexLag { indexed_to, lag: totals(&*view)?.last - indexed_to })
    }

    /// How much there is.
    pub fn stats(&self) -> Result<Stats, LogError> {
        let view = self.source.view();
        let totals = totals(&*view)?;
        let first_seq = first_seq(&*view, totals.last)?;
        drop(view);
        Ok(Stats {
            events: totals.events,
            record_bytes: totals.bytes,
            stored_bytes: self.source.bytes(),
            first_seq,
            last_seq: totals.last,
        })
    }
}

/// What can't be shown of the numbers a page goes through, in its order.
fn gaps_of(view: &dyn View, query: &Query, (first, last): (u64, u64)) -> Result<Vec<Gap>, Fault> {
    let mut gaps = gaps::between(view, first, last)?;
    gaps.retain(|gap| query.minds(gap));
    if query.backward {
        gaps.reverse();
    }
    Ok(gaps)
}

/// Walks through the range and fills the page. Returns where to go on.
fn fill(
    view: &dyn View,
    query: &Query,
    (from, to): (u64, u64),
    limit: PageLimit,
    page: &mut Page,
    holes: &mut Vec<(u64, u64)>,
) -> Result<Option<u64>, Fault> {
    let mut guide = Guide::new(view, query, (from, to));
    let mut events = Events::new(view, from, to, query.backward);
    let (mut looked_at, mut bytes) = (0, 0);
    let mut at = if query.backward { to } else { from };
    loop {
        let Some(next) = guide.next(at)? else { return Ok(None) };
        let full = page.events.len() >= limit.events || bytes >= limit.bytes || looked_at >= limit.looked_at;
        if full && looked_at > 0 {
            return Ok(Some(next));
        }
        looked_at += 1;
        let Some(step) = events.next_from(next)? else { return Ok(None) };
        let last = match step {
            Step::Hole(first, last) => {
                guide.learn(false);
                holes.push((first, last));
                if query.backward { first } else { last }
            }
            // What is there beyond a candidate has to be one itself, which the next round finds out.
            Step::Event(seq, record) if seq != next && guide.was_asked() => {
                events.put_back(seq, record);
                at = seq;
                continue;
            }
            Step::Event(seq, record) => {
                let wanted = is_wanted(query, seq, &record);
                guide.learn(wanted);
                if wanted {
                    bytes += record.len();
                    page.events.push((seq, record));
                }
                seq
            }
        };
        let beyond = if query.backward { last.checked_sub(1) } else { last.checked_add(1) };
        match beyond.filter(|beyond| (from..=to).contains(beyond)) {
            Some(beyond) => at = beyond,
            None => return Ok(None),
        }
    }
}

fn is_wanted(query: &Query, seq: u64, record: &[u8]) -> bool {
    let may_be = || Record::glance(record).is_ok_and(|(time_ms, topic)| query.may_be(time_ms, &topic));
    let is_one = || Record::parse(seq, record).is_ok_and(|record| query.matches(&record));
    query.is_open() || (may_be() && (query.is_of_types() || is_one()))
}

pub(super) fn totals(view: &dyn View) -> Result<Totals, Fault> {
    let value = view.get(Space::State, &keys::named(Room::Account, TOTALS))?;
    Ok(value.and_then(|bytes| Totals::parse(&bytes)).unwrap_or_default())
}

fn indexed_to(view: &dyn View) -> Result<u64, Fault> {
    let value = view.get(Space::State, &keys::named(Room::Account, WATERMARK))?;
    Ok(value.and_then(|bytes| keys::number(&bytes)).unwrap_or_default())
}

/// No event lies before this number: what was dropped from the beginning of the log is one range.
fn oldest(view: &dyn View) -> Result<u64, Fault> {
    let dropped = gaps::between(view, 1, 1)?.into_iter().find(|gap| match &gap.why {
        Reason::Compacted(summary) => summary.events > gap.to - gap.from,
        Reason::Damaged(_) => false,
    });
    Ok(dropped.map_or(1, |gap| gap.to + 1))
}

/// The lowest number there is.
pub(super) fn first_seq(view: &dyn View, last: u64) -> Result<Option<u64>, Fault> {
    let mut events = Events::new(view, oldest(view)?, last, false);
    while let Some(step) = events.next_from(1)? {
        if let Step::Event(seq, _) = step {
            return Ok(Some(seq));
        }
    }
    Ok(None)
}

fn lives(view: &dyn View) -> Result<Lives, Fault> {
    let prefix = [Room::Life as u8];
    let mut lives = Vec::new();
    for row in view.rows(Space::State, &prefix, &keys::behind(&prefix), false) {
        let (key, value) = row?;
        let kind = value.first().copied().and_then(Kind::of);
        // Records of a kind this version doesn't know are stepped over.
        lives.extend(keys::number(&key).zip(kind).map(|(order, kind)| (order, kind, value.slice(1..))));
    }
    Ok(lives)
}
