//! The thread that writes.
//!
//! All that is queued goes into one batch, and whoever waits for the disk shares one flush. What nobody waits for is flushed
//! when nothing else has come for a moment, or has waited long enough. Between batches the indexes are brought on, and
//! what is old is dropped.

use super::dropping::Dropping;
use super::views::Caller;
use super::{Ear, Lives, Shared};
use crate::state::records::Sealer;
use kairo_controlplane::events::compacting::Chore;
use kairo_controlplane::events::log::{self, Log, LogError, Stored, Value};
use kairo_controlplane::events::outlet::{Batch, Entry};
use kairo_dataplane::points::{Point, reach};
use kairo_dataplane::sys::clock;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How long an entry may wait for the disk when nobody waits for it …
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// … and how long it does when no other follows: whoever is idle has flushed.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// Events that are indexed between two looks at the queue.
const INDEXED_AT_ONCE: usize = 512;
/// Events that may be looked at for dropping between two looks at the queue.
const DROPPED_AT_ONCE: usize = 512;
/// Fewer wait so long for others: who just heard of an event comes first, and many together cost less.
const INDEX_AFTER: Duration = Duration::from_millis(2);
/// The indexes may be so many events behind while there is always more to write.
const INDEX_LAG_MAX: u64 = 16_384;

pub(super) fn run(shared: &Shared, log: Log, sealer: Sealer, ear: &Ear, views: &Caller) {
    let policy = Arc::clone(&shared.figures().policy);
    Writer {
        shared,
        views,
        log,
        dropping: Dropping::new(policy),
        lives: Lives::new(sealer),
        ear,
        written: 0,
        flush_at: None,
        flush_by: None,
        lag: 1,
        index_at: None,
    }
    .run();
}

/// What is to be done.
struct Taken {
    batches: Vec<Batch>,
    checkpoint: Option<Batch>,
    chores: Vec<Chore>,
    closed: bool,
}

struct Writer<'a> {
    shared: &'a Shared,
    views: &'a Caller,
    log: Log,
    dropping: Dropping,
    lives: Lives,
    ear: &'a Ear,
    /// Entries.
    written: u64,
    flush_at: Option<Instant>,
    flush_by: Option<Instant>,
    /// How far the indexes are behind, in events.
    lag: u64,
    /// When those are brought on, however few they are; none is now.
    index_at: Option<Instant>,
}

impl Writer<'_> {
    fn run(mut self) {
        loop {
            let Taken { batches, checkpoint, chores, closed } = self.next();
            let done = self.work(&batches, checkpoint.as_ref(), chores, closed);
            if done.is_err() {
                self.shared.failed.store(true, Ordering::Release);
                self.shared.lock().clear();
            }
            if done.is_err() || checkpoint.is_some() {
                self.shared.lock().keeping = false;
                self.shared.kept.notify_one();
            }
            if let Err(error) = done {
                let reason = error.to_string();
                self.ear.tell(|kernel, at, out| kernel.log_failed(at, &reason, out));
                return self.wait_for_the_end();
            }
            if closed {
                break;
            }
        }
        if let Err(error) = self.log.close() {
            tracing::error!(component = "log", %error, "the log could not be closed");
        }
    }

    /// What readers came upon is noted, and told.
    fn tell_damage(&mut self) -> Result<(), LogError> {
        let found = self.log.damage()?;
        if !found.is_empty() {
            self.ear.tell(|kernel, at, out| kernel.log_damaged(at, &found, out));
        }
        Ok(())
    }

    fn work(
        &mut self,
        batches: &[Batch],
        checkpoint: Option<&Batch>,
        chores: Vec<Chore>,
        closed: bool,
    ) -> Result<(), LogError> {
        let waited_for = batches.iter().any(|batch| batch.flush);
        if batches.iter().chain(checkpoint).any(|batch| !batch.entries.is_empty()) {
            reach(Point::LogTaken);
            let events = self.write(batches, checkpoint)?;
            reach(Point::LogWritten);
            let (now, written) = (Instant::now(), self.written);
            self.ear.tell_all(|kernel, at, out| kernel.written(at, written, out));
            // After those who wait for it: the views are nobody's answer.
            self.views.written(events);
            let by = *self.flush_by.get_or_insert(now + FLUSH_WITHIN);
            self.flush_at = Some(by.min(now + FLUSH_AFTER));
        }
        let due = self.flush_at.is_some_and(|at| at <= Instant::now());
        if waited_for || (self.flush_at.is_some() && (due || closed)) {
            self.log.sync()?;
            reach(Point::LogFlushed);
            (self.flush_at, self.flush_by) = (None, None);
            let written = self.written;
            self.ear.tell_all(|kernel, at, out| kernel.flushed(at, written, out));
            self.tell_damage()?;
            self.shared.count_all(&self.log)?;
        }
        if self.lives.are_overgrown() {
            self.lives.compact(&mut self.log)?;
        }
        let idle = self.shared.lock().batches.is_empty();
        if self.lag > INDEX_LAG_MAX || (idle && (closed || self.is_index_due())) {
            self.lag = self.log.index(INDEXED_AT_ONCE)?.lag;
        }
        self.dropping.take(chores);
        if !closed {
            self.drop_some(idle)?;
        }
        self.shared.count(&self.log);
        Ok(())
    }

    fn is_index_due(&self) -> bool {
        let due = |at: Instant| at <= Instant::now();
        self.lag >= INDEXED_AT_ONCE as u64 || (self.lag > 0 && self.index_at.is_none_or(due))
    }

    /// One step of dropping what is old.
    fn drop_some(&mut self, idle: bool) -> Result<(), LogError> {
        let at_once = if idle { DROPPED_AT_ONCE } else { self.dropping.arrears().min(DROPPED_AT_ONCE) };
        let before = self.log.totals();
        let done = self.dropping.step(&mut self.log, clock::now().wall_ns / 1_000_000, at_once)?;
        if self.log.totals() != before {
            reach(Point::LogDropped);
        }
        let has_begun = {
            let mut figures = self.shared.figures();
            figures.compacting = self.dropping.is_at_work();
            figures.first_seq.is_none() && self.log.totals().events > 0
        };
        if done.is_some() || has_begun {
            self.shared.count_all(&self.log)?;
        }
        if let Some(done) = done {
            self.ear.tell(|kernel, at, out| kernel.compacted(at, done, out));
        }
        Ok(())
    }

    /// Returns how many events that were.
    fn write(&mut self, batches: &[Batch], checkpoint: Option<&Batch>) -> Result<u64, LogError> {
        let mut whole = log::Batch::default();
        for entry in batches.iter().chain(checkpoint).flat_map(|batch| &batch.entries) {
            match entry {
                Entry::Event { seq, topic, record } => {
                    whole.events.push(Stored { seq: *seq, topic, record: record.clone() });
                }
                Entry::Life(life) => self.lives.put(life, &mut whole.lives),
                Entry::Value { key, value } => {
                    whole.values.push(Value { key: key.clone(), bytes: value.clone() });
                }
            }
        }
        self.log.append(&whole)?;
        let events = whole.events.len() as u64;
        if self.lag == 0 {
            self.index_at = Some(Instant::now() + INDEX_AFTER);
        }
        self.lag += events;
        let bytes = whole.events.iter().map(|event| event.record.len() as u64).sum();
        self.dropping.written(events, bytes);
        self.written += batches.iter().map(|batch| batch.entries.len() as u64).sum::<u64>();
        Ok(events)
    }

    /// Everything that is queued, once there is something, or the time to flush has come, or there is something left to do, or
    /// the end.
    fn next(&self) -> Taken {
        let mut queue = self.shared.lock();
        let at_work = self.is_index_due() || self.dropping.is_at_work();
        let index_at = self.index_at.filter(|_| self.lag > 0);
        let due = self.flush_at.into_iter().chain(index_at).min();
        while queue.is_empty() && queue.chores.is_empty() && !queue.closed && !at_work {
            queue.asleep = true;
            queue = match due.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    self.shared.bell.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        queue.asleep = false;
        let queue = &mut *queue;
        Taken {
            batches: std::mem::take(&mut queue.batches),
            checkpoint: queue.checkpoint.take(),
            chores: std::mem::take(&mut queue.chores),
            closed: queue.closed,
        }
    }

    /// Nothing is written any more; what comes is thrown away until the kernel ends.
    fn wait_for_the_end(&self) {
        let mut queue = self.shared.lock();
        while !queue.closed {
            queue.clear();
            queue = self.shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
