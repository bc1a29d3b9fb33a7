//! The thread that writes. What it does with what it finds is [`Writing`]'s; here is when it looks, and whom it tells.

use super::{Ear, Lives, Shared};
use crate::state::records::Sealer;
use kairo_controlplane::events::log::{self, Damage, Log, LogError};
use kairo_controlplane::events::outlet::{Batch, Life};
use kairo_controlplane::events::writing::{Hands, Writing};
use kairo_dataplane::sys::clock;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) fn run(shared: &Shared, log: Log, sealer: Sealer, ear: &Ear) {
    Writer { writing: Writing::new(log), thread: Thread { shared, lives: Lives::new(sealer), ear } }.run();
}

struct Writer<'a> {
    writing: Writing,
    thread: Thread<'a>,
}

/// What is around it.
struct Thread<'a> {
    shared: &'a Shared,
    lives: Lives,
    ear: &'a Ear,
}

impl Hands for Thread<'_> {
    fn now_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn is_more_put(&self) -> bool {
        !self.shared.lock().batches.is_empty()
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

    fn tidy(&mut self, log: &mut Log) -> Result<(), LogError> {
        if self.lives.are_overgrown() { self.lives.compact(log) } else { Ok(()) }
    }
}

impl Writer<'_> {
    fn run(mut self) {
        loop {
            let (batches, closed) = self.next();
            if let Err(error) = self.writing.work(&batches, closed, &mut self.thread) {
                let Thread { shared, ear, .. } = self.thread;
                shared.failed.store(true, Ordering::Release);
                shared.lock().batches.clear();
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

    /// Everything that is queued, once there is something, or the time to flush has come, or indexes are behind, or the end.
    fn next(&self) -> (Vec<Batch>, bool) {
        let shared = self.thread.shared;
        let mut queue = shared.lock();
        while queue.batches.is_empty() && !queue.closed && !self.writing.is_behind() {
            queue.asleep = true;
            let left = self.writing.due_at().map(|at| at.saturating_sub(clock::monotonic_ns()));
            queue = match left.map(Duration::from_nanos) {
                Some(Duration::ZERO) => break,
                Some(left) => shared.bell.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
                None => shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        queue.asleep = false;
        (std::mem::take(&mut queue.batches), queue.closed)
    }
}

/// Nothing is written any more; what comes is thrown away until the kernel ends.
fn wait_for_the_end(shared: &Shared) {
    let mut queue = shared.lock();
    while !queue.closed {
        queue.batches.clear();
        queue = shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}
