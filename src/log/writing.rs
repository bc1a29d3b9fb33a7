//! The thread that writes. What it does with what it finds is [`Writing`]'s; here is when it looks, and whom it tells. Between
//! batches it drops what is old.

use super::dropping::Dropping;
use super::views::Caller;
use super::{Ear, Lives, Shared};
use crate::state::records::Sealer;
use kairo_controlplane::events::compacting::Chore;
use kairo_controlplane::events::log::{self, Damage, Log, LogError};
use kairo_controlplane::events::outlet::{Batch, Life};
use kairo_controlplane::events::writing::{Hands, Writing};
use kairo_dataplane::points::{Point, reach};
use kairo_dataplane::sys::clock;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Events that may be looked at for dropping between two looks at the queue.
const DROPPED_AT_ONCE: usize = 512;

pub(super) fn run(shared: &Shared, log: Log, sealer: Sealer, ear: &Ear, views: &Caller) {
    let policy = Arc::clone(&shared.figures().policy);
    let (dropping, lives) = (Dropping::new(policy), Lives::new(sealer));
    Writer { writing: Writing::new(log), thread: Thread { shared, views, dropping, lives, ear } }.run();
}

/// What is to be done.
struct Taken {
    batches: Vec<Batch>,
    checkpoint: Option<Batch>,
    chores: Vec<Chore>,
    closed: bool,
}

struct Writer<'a> {
    writing: Writing,
    thread: Thread<'a>,
}

/// What is around it.
struct Thread<'a> {
    shared: &'a Shared,
    views: &'a Caller,
    dropping: Dropping,
    lives: Lives,
    ear: &'a Ear,
}

impl Hands for Thread<'_> {
    fn now_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn wall_ms(&self) -> u64 {
        clock::now().wall_ns / 1_000_000
    }

    fn is_more_put(&self) -> bool {
        self.shared.lock().due_at.is_some_and(|at| at <= clock::monotonic_ns())
    }

    fn written(&mut self, entry: u64) {
        self.ear.tell_all(|kernel, at, out| kernel.written(at, entry, out));
    }

    fn flushed(&mut self, entry: u64) {
        self.ear.tell_all(|kernel, at, out| kernel.flushed(at, entry, out));
    }

    fn damaged(&mut self, found: &[Damage]) {
        self.ear.tell(|kernel, at, out| kernel.log_damaged(at, found, out));
    }

    fn keep(&mut self, life: &Life, to: &mut Vec<log::Life>) {
        self.lives.put(life, to);
    }

    fn appended(&mut self, events: u64, bytes: u64) {
        self.views.written(events);
        self.dropping.written(events, bytes);
    }

    fn synced(&mut self, log: &Log) -> Result<(), LogError> {
        self.shared.count_all(log)
    }

    fn tidy(&mut self, log: &mut Log, is_over: bool) -> Result<(), LogError> {
        if self.lives.are_overgrown() {
            self.lives.compact(log)?;
        }
        if !is_over {
            self.drop_some(log)?;
        }
        self.shared.count(log);
        Ok(())
    }
}

impl Thread<'_> {
    /// One step of dropping what is old.
    fn drop_some(&mut self, log: &mut Log) -> Result<(), LogError> {
        let idle = !self.is_more_put();
        let at_once = if idle { DROPPED_AT_ONCE } else { self.dropping.arrears().min(DROPPED_AT_ONCE) };
        let before = log.totals();
        let done = self.dropping.step(log, clock::now().wall_ns / 1_000_000, at_once)?;
        if log.totals() != before {
            reach(Point::LogDropped);
        }
        let has_begun = {
            let mut figures = self.shared.figures();
            figures.compacting = self.dropping.is_at_work();
            figures.first_seq.is_none() && log.totals().events > 0
        };
        if done.is_some() || has_begun {
            self.shared.count_all(log)?;
        }
        if let Some(done) = done {
            self.ear.tell(|kernel, at, out| kernel.compacted(at, done, out));
        }
        Ok(())
    }
}

impl Writer<'_> {
    fn run(mut self) {
        loop {
            let Taken { batches, checkpoint, chores, closed } = self.next();
            self.thread.dropping.take(chores);
            let done = self.writing.work(&batches, checkpoint.as_ref(), closed, &mut self.thread);
            let Thread { shared, ear, .. } = &self.thread;
            if done.is_err() {
                shared.failed.store(true, Ordering::Release);
                shared.lock().clear();
            }
            if done.is_err() || checkpoint.is_some() {
                shared.lock().keeping = false;
                shared.kept.notify_one();
            }
            if let Err(error) = done {
                let reason = error.to_string();
                ear.tell(|kernel, at, out| kernel.log_failed(at, &reason, out));
                return wait_for_the_end(shared);
            }
            if closed {
                break;
            }
        }
        if let Err(error) = self.writing.close() {
            tracing::error!(component = "log", %error, "the log could not be closed");
        }
    }

    /// Everything that is queued, once it is due, or the time to flush has come, or there is something left to do, or the
    /// end.
    fn next(&self) -> Taken {
        let shared = self.thread.shared;
        let mut queue = shared.lock();
        loop {
            let now = clock::monotonic_ns();
            let due_at = queue.due_at.into_iter().chain(self.writing.due_at()).min().unwrap_or(u64::MAX);
            let at_work = self.writing.is_behind(now) || self.thread.dropping.is_at_work();
            if queue.closed || at_work || due_at <= now {
                break;
            }
            queue.asleep_until = Some(due_at);
            queue = match due_at {
                u64::MAX => shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner),
                at => {
                    let left = Duration::from_nanos(at - now);
                    shared.bell.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        (queue.due_at, queue.asleep_until) = (None, None);
        let queue = &mut *queue;
        Taken {
            batches: std::mem::take(&mut queue.batches),
            checkpoint: queue.checkpoint.take(),
            chores: std::mem::take(&mut queue.chores),
            closed: queue.closed,
        }
    }
}

/// Nothing is written any more; what comes is thrown away until the kernel ends.
fn wait_for_the_end(shared: &Shared) {
    let mut queue = shared.lock();
    while !queue.closed {
        queue.clear();
        queue.asleep_until = Some(u64::MAX);
        queue = shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}
