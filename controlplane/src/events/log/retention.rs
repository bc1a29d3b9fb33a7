//! Dropping what is old: each pass is bounded, and what goes leaves a summary behind, in the same batch.
//!
//! Two kinds. The *limits* (age, bytes) drop from the beginning of the log. A *rule* drops events of some types wherever
//! they are: older ones, all but the latest of each key, all but so many. A rule keeps two places, both in the store: up to
//! its head it has counted and knows the latest of each key, up to its tail nothing of its own is left to drop.
//!
//! Invariant: only what every index is complete for is dropped, so no key of a dropped event stays behind.

use super::backend::{Op, Space};
use super::gaps::{self, Gap, Reason, Summary};
use super::index::keys_of;
use super::keys::{self, BLOCK, Room};
use super::scan::query::{PageLimit, Query, Types};
use super::scan::walk::{Events, Step};
use super::{Log, LogError};
use crate::events::record::Record;
use bytes::Bytes;
use kairo_wire::codec::raw::RawRef;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Events dropped in one batch.
const STEP: usize = 1_024;
/// What goes at once from a log in memory that is full: one part in so many.
const MEMORY_PART: u64 = 8;
/// Sequence numbers that share one gap: more gaps than one in so many would be a log of their own.
pub(super) const SPAN: u64 = 65_536;

/// What is kept, and what of it no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Older events are dropped from the beginning of the log.
    pub age_ms: Option<u64>,
    /// Above so many bytes of records events are dropped from the beginning of the log.
    pub bytes: Option<u64>,
    /// What is dropped wherever it is.
    pub rules: Vec<Rule>,
    /// Nothing is dropped from this sequence number on: somebody needs it.
    pub keep_from: Option<u64>,
}

/// What is kept of some types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which, as it is written.
    pub types: String,
    /// Older ones are dropped.
    pub age_ms: Option<u64>,
    /// Of events whose data have the same value in this field only the latest is kept.
    pub latest_by: Option<String>,
    /// All but so many of the latest are dropped.
    pub count: Option<u64>,
}

/// What came of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// What was dropped, by range.
    pub dropped: Vec<Dropped>,
    /// True when the budget ended before the work did.
    pub more: bool,
}

/// What was dropped by one pass; the summary is the one a reader is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// What they were.
    pub summary: Summary,
}

impl Dropped {
    /// A range of one number, of which nothing is dropped yet.
    pub(super) fn at(seq: u64) -> Dropped {
        Dropped { from: seq, to: seq, summary: Summary::default() }
    }

    /// Makes one of ranges that continue each other; they are in no order.
    pub(crate) fn join(all: &mut Vec<Dropped>) {
        all.sort_by_key(|one| one.from);
        for one in std::mem::take(all) {
            merge(all, one);
        }
    }

    /// Takes in one event, whose record is none if its bytes can't be read.
    pub(super) fn add(&mut self, seq: u64, bytes: &[u8], record: Option<&Record<'_>>) {
        (self.from, self.to) = (self.from.min(seq), self.to.max(seq));
        let (topic, time_ms) = record.map_or(("", 0), |record| (&*record.topic, record.time_ms));
        self.summary.add(topic, time_ms, bytes.len() as u64);
    }
}

/// How far a rule is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    head: u64,
    tail: u64,
    /// Of its types between them.
    kept: u64,
}

impl Progress {
    fn parse(bytes: &[u8]) -> Option<Progress> {
        let [head, tail, kept] = keys::numbers(bytes)?;
        Some(Progress { head, tail, kept })
    }
}

/// A rule at work.
struct Worker {
    id: [u8; 8],
    rule: Rule,
    types: Types,
    progress: Progress,
    /// As it is in the store.
    stored: Progress,
}

/// One batch that is being made.
#[derive(Default)]
struct Pass {
    ops: Vec<Op>,
    /// By the span they are in; one span for all that goes from the beginning.
    gone: BTreeMap<u64, Dropped>,
    seqs: BTreeSet<u64>,
    looked: usize,
}

impl Log {
    /// Drops what `policy` says, looking at no more than `budget` events. The next call goes on where this one ended.
    pub fn retain(&mut self, policy: &Retention, now_ms: u64, budget: usize) -> Result<Retained, LogError> {
        let end = self.retained_to(policy);
        let mut workers = Vec::new();
        for rule in &policy.rules {
            workers.extend(self.worker(rule)?);
        }
        let (mut dropped, mut more) = (Vec::new(), false);
        let mut left = budget;
        while left > 0 {
            let step = left.min(STEP);
            let Some(one) = self.drop_oldest(policy, &mut workers, now_ms, end, step)? else { break };
            left -= step;
            merge(&mut dropped, one);
        }
        for index in 0..workers.len() {
            more = true;
            while left > 0 && more {
                let step = left.min(STEP);
                let gone;
                let looked;
                (more, looked, gone) = self.apply(index, &mut workers, now_ms, end, step)?;
                gone.into_iter().for_each(|one| merge(&mut dropped, one));
                left -= looked.min(left);
            }
        }
        Ok(Retained { dropped, more: more || left == 0 })
    }

    /// The last number that may be dropped.
    pub(super) fn retained_to(&self, policy: &Retention) -> u64 {
        self.indexed_to.min(policy.keep_from.map_or(u64::MAX, |seq| seq.saturating_sub(1)))
    }

    /// Keeps a log in memory within its bytes.
    pub(super) fn bound(&mut self) -> Result<(), LogError> {
        let Some(most) = self.bytes_max else { return Ok(()) };
        while self.reader.source.bytes() > most && self.totals.events > 0 {
            self.index(usize::MAX)?;
            let bytes = self.totals.bytes - self.totals.bytes.div_ceil(MEMORY_PART);
            self.retain(&Retention { bytes: Some(bytes), ..Retention::default() }, 0, usize::MAX)?;
        }
        Ok(())
    }

    fn worker(&self, rule: &Rule) -> Result<Option<Worker>, LogError> {
        // A pattern that is none drops nothing.
        let Ok(types) = Types::new(&rule.types) else { return Ok(None) };
        let named = format!("{:?}", (&rule.types, &rule.latest_by));
        let mut id = [0; 8];
        id.copy_from_slice(&Sha256::digest(named)[..8]);
        let stored = self.reader.source.view().get(Space::State, &keys::named(Room::Rule, &id))?;
        let progress = stored.and_then(|bytes| Progress::parse(&bytes)).unwrap_or_default();
        Ok(Some(Worker { id, rule: rule.clone(), types, progress, stored: progress }))
    }

    /// Drops from the beginning; nothing when the limits are kept.
    fn drop_oldest(
        &mut self,
        policy: &Retention,
        workers: &mut [Worker],
        now_ms: u64,
        end: u64,
        most: usize,
    ) -> Result<Option<Dropped>, LogError> {
        let over = policy.bytes.map_or(0, |bytes| self.totals.bytes.saturating_sub(bytes));
        let too_old = policy.age_ms.map(|age| now_ms.saturating_sub(age));
        if over == 0 && too_old.is_none() {
            return Ok(None);
        }
        let mut pass = Pass::default();
        let source = self.reader.source.clone();
        {
            let view = source.view();
            // What was dropped before is still in the way of whoever looks for it.
            let mut events = Events::new(&*view, self.oldest, end, false);
            let (mut seen, mut freed) = (0, 0);
            while seen < most
                && let Some(step) = events.next_from(0)?
            {
                seen += 1;
                let Step::Event(seq, bytes) = step else { continue };
                let record = Record::parse(seq, &bytes).ok();
                let is_old = record.as_ref().zip(too_old).is_some_and(|(record, line)| record.time_ms < line);
                if freed >= over && !is_old {
                    break;
                }
                freed += bytes.len() as u64;
                pass.drop(0, seq, &bytes, record.as_ref(), workers);
            }
        }
        let gone = self.finish(pass, workers)?.pop();
        if let Some(gone) = &gone {
            self.oldest = gone.to + 1;
        }
        Ok(gone)
    }

    /// One step of a rule. True if there is more to do, and how many events it looked at.
    fn apply(
        &mut self,
        index: usize,
        workers: &mut [Worker],
        now_ms: u64,
        end: u64,
        most: usize,
    ) -> Result<(bool, usize, Vec<Dropped>), LogError> {
        let mut pass = Pass::default();
        let more = self.advance_head(index, workers, end, most, &mut pass)?;
        // The latest of a key is only known when the head is at the end.
        let more_behind = !more && self.advance_tail(index, workers, now_ms, end, most, &mut pass)?;
        let looked = pass.looked;
        let gone = self.finish(pass, workers)?;
        Ok((more || more_behind, looked, gone))
    }

    /// Counts on, and drops what a later event of the same key replaces.
    fn advance_head(
        &self,
        index: usize,
        workers: &mut [Worker],
        end: u64,
        most: usize,
        pass: &mut Pass,
    ) -> Result<bool, LogError> {
        let worker = &workers[index];
        let from = worker.progress.head + 1;
        let query = Query { types: vec![worker.types.clone()], from, to: end, ..Query::default() };
        let page = self.reader.scan(&query, None, limit(most))?;
        pass.looked += if page.next.is_some() { most } else { page.events.len() };
        let field = worker.rule.latest_by.clone();
        // What this pass itself has learned is in no view yet.
        let mut latest: BTreeMap<Bytes, u64> = BTreeMap::new();
        let source = self.reader.source.clone();
        let view = source.view();
        for (seq, bytes) in &page.events {
            workers[index].progress.kept += 1;
            workers[index].progress.head = *seq;
            let Some(field) = &field else { continue };
            let Some(key) = Record::parse(*seq, bytes).ok().and_then(|record| value_of(&record, field))
            else {
                continue;
            };
            let key = keys::named(Room::Rule, &[&workers[index].id[..], &key].concat());
            let older = match latest.insert(key.clone(), *seq) {
                Some(older) => Some(older),
                None => view.get(Space::State, &key)?.and_then(|bytes| keys::number(&bytes)),
            };
            if let Some(older) = older
                && let Some(bytes) = view.get(Space::Events, &keys::event(older))?
            {
                let record = Record::parse(older, &bytes).ok();
                pass.drop(older / SPAN + 1, older, &bytes, record.as_ref(), workers);
            }
        }
        pass.ops.extend(latest.into_iter().map(|(key, seq)| Op::Put(Space::State, key, keys::event(seq))));
        let reached = page.next.map_or(end, |next| next - 1);
        workers[index].progress.head = workers[index].progress.head.max(reached);
        Ok(page.next.is_some())
    }

    /// Drops what is too old, or too many.
    fn advance_tail(
        &self,
        index: usize,
        workers: &mut [Worker],
        now_ms: u64,
        end: u64,
        most: usize,
        pass: &mut Pass,
    ) -> Result<bool, LogError> {
        let worker = &workers[index];
        let too_old = worker.rule.age_ms.map(|age| now_ms.saturating_sub(age));
        let count = worker.rule.count;
        if too_old.is_none() && count.is_none_or(|count| worker.progress.kept <= count) {
            return Ok(false);
        }
        let from = worker.progress.tail + 1;
        let to = end.min(worker.progress.head);
        let query = Query { types: vec![worker.types.clone()], from, to, ..Query::default() };
        let page = self.reader.scan(&query, None, limit(most))?;
        for (seq, bytes) in &page.events {
            pass.looked += 1;
            if pass.has(*seq) {
                workers[index].progress.tail = *seq;
                continue;
            }
            let record = Record::parse(*seq, bytes).ok();
            let is_old = record.as_ref().zip(too_old).is_some_and(|(record, line)| record.time_ms < line);
            if !is_old && count.is_none_or(|count| workers[index].progress.kept <= count) {
                return Ok(false);
            }
            pass.drop(*seq / SPAN + 1, *seq, bytes, record.as_ref(), workers);
            workers[index].progress.tail = *seq;
        }
        let reached = page.next.map_or(to, |next| next - 1);
        workers[index].progress.tail = workers[index].progress.tail.max(reached);
        pass.looked += if page.next.is_some() { most } else { 0 };
        Ok(page.next.is_some())
    }

    /// Writes the pass: summaries, what is gone, and how far the rules are.
    fn finish(&mut self, mut pass: Pass, workers: &mut [Worker]) -> Result<Vec<Dropped>, LogError> {
        let mut totals = self.totals;
        for one in pass.gone.values() {
            totals.events = totals.events.saturating_sub(one.summary.events);
            totals.bytes = totals.bytes.saturating_sub(one.summary.bytes);
        }
        self.summarize(&mut pass)?;
        for worker in workers.iter_mut().filter(|worker| worker.progress != worker.stored) {
            let Progress { head, tail, kept } = worker.progress;
            let value = [head, tail, kept].map(u64::to_be_bytes).concat();
            pass.ops.push(Op::Put(Space::State, keys::named(Room::Rule, &worker.id), value.into()));
            worker.stored = worker.progress;
        }
        if totals != self.totals {
            pass.ops.push(totals.put());
        }
        if !pass.ops.is_empty() {
            self.write(pass.ops)?;
        }
        self.totals = totals;
        Ok(pass.gone.into_values().collect())
    }

    /// Adds the gaps of a pass, each together with the older ones it continues or reaches into.
    fn summarize(&self, pass: &mut Pass) -> Result<(), LogError> {
        let source = self.reader.source.clone();
        let view = source.view();
        let mut taken: BTreeSet<u64> = BTreeSet::new();
        let mut new: Vec<Gap> = Vec::new();
        for (span, one) in &pass.gone {
            let (mut from, mut to, mut summary) = (one.from, one.to, one.summary.clone());
            let (first, last) = match span {
                0 => (from - 1, to + 1),
                _ => ((span - 1) * SPAN, span * SPAN - 1),
            };
            for gap in gaps::between(&*view, first, last)? {
                let Reason::Compacted(old) = &gap.why else { continue };
                // What is gone to the last one is not mixed with what is gone here and there.
                let is_whole = old.events > gap.to - gap.from;
                if (*span > 0 && is_whole && !gap.meets(one.from, one.to)) || !taken.insert(gap.from) {
                    continue;
                }
                (from, to) = (from.min(gap.from), to.max(gap.to));
                summary.merge(old);
                pass.ops.push(Op::Delete(Space::State, gap.key()));
            }
            new.push(Gap { from, to, why: Reason::Compacted(summary) });
        }
        for gap in join(new) {
            pass.ops.push(gap.put()?);
        }
        Ok(())
    }
}

impl Pass {
    /// Drops one event, from every order.
    fn drop(
        &mut self,
        span: u64,
        seq: u64,
        bytes: &[u8],
        record: Option<&Record<'_>>,
        workers: &mut [Worker],
    ) {
        self.ops.push(Op::Delete(Space::Events, keys::event(seq)));
        self.seqs.insert(seq);
        self.gone.entry(span).or_insert_with(|| Dropped::at(seq)).add(seq, bytes, record);
        if let Some(record) = record {
            self.ops.push(Op::Delete(Space::Types, keys::typed(&record.topic, seq)));
            self.ops.extend(keys_of(record).map(|key| Op::Delete(Space::Index, key)));
            for worker in workers.iter_mut().filter(|worker| worker.types.matches(&record.topic)) {
                let progress = &mut worker.progress;
                if seq <= progress.head {
                    progress.kept = progress.kept.saturating_sub(1);
                }
            }
        }
        // Of a block whose last number goes from the beginning nothing is left.
        if span == 0 && seq % BLOCK == BLOCK - 1 {
            self.ops.push(Op::Delete(Space::Index, keys::numbered(Room::Time, seq / BLOCK)));
        }
    }

    /// True if it drops `seq`.
    fn has(&self, seq: u64) -> bool {
        self.seqs.contains(&seq)
    }
}

pub(super) fn limit(most: usize) -> PageLimit {
    PageLimit { events: most, bytes: usize::MAX, looked_at: most }
}

/// Adds what was dropped to the range it continues.
pub(super) fn merge(all: &mut Vec<Dropped>, one: Dropped) {
    match all.last_mut() {
        Some(last) if last.from / SPAN == one.from / SPAN || last.to + 1 == one.from => {
            (last.from, last.to) = (last.from.min(one.from), last.to.max(one.to));
            last.summary.merge(&one.summary);
        }
        _ => all.push(one),
    }
}

/// Gaps of one pass that reach into each other become one.
fn join(mut gaps: Vec<Gap>) -> Vec<Gap> {
    gaps.sort_by_key(|gap| gap.from);
    let mut joined: Vec<Gap> = Vec::new();
    for gap in gaps {
        match joined.last_mut() {
            Some(last) if gap.from <= last.to => {
                last.to = last.to.max(gap.to);
                if let (Reason::Compacted(all), Reason::Compacted(one)) = (&mut last.why, &gap.why) {
                    all.merge(one);
                }
            }
            _ => joined.push(gap),
        }
    }
    joined
}

/// The value of a field of the data, as bytes to compare.
pub(super) fn value_of(record: &Record<'_>, field: &str) -> Option<Vec<u8>> {
    let fields: BTreeMap<String, RawRef<'_>> = record.data.decode().ok()?;
    Some(Sha256::digest(fields.get(field)?.bytes())[..16].to_vec())
}
