//! What is old and has to go: chores first, then what the configuration says, each in small steps.
//!
//! Invariant: a chore that was taken is done, and told, once; a log nothing is written to has nothing to drop, so that it
//! wakes nobody.

use kairo_controlplane::events::compacting::{Chore, Compacted, Compaction};
use kairo_controlplane::events::log::{Log, LogError, Retention};
use std::collections::VecDeque;
use std::sync::Arc;

/// The configuration has its say after so many events …
const EVENTS_BETWEEN: u64 = 4_096;
/// … or bytes of them.
const BYTES_BETWEEN: u64 = 4 << 20;

/// What there is to do.
#[derive(Debug)]
pub(super) struct Dropping {
    policy: Arc<Retention>,
    chores: VecDeque<Chore>,
    at_work: Option<Compaction>,
    /// Events that were written since the configuration had its say …
    events: u64,
    /// … and their bytes.
    bytes: u64,
    /// Events that were written since the last step.
    arrears: u64,
}

impl Dropping {
    /// Of a log that has just been opened: the configuration may be another one.
    pub(super) fn new(policy: Arc<Retention>) -> Dropping {
        let chores = VecDeque::new();
        Dropping { policy, chores, at_work: None, events: EVENTS_BETWEEN, bytes: 0, arrears: 0 }
    }

    /// Takes in what is asked for.
    pub(super) fn take(&mut self, chores: Vec<Chore>) {
        self.chores.extend(chores);
    }

    /// So much was written.
    pub(super) fn written(&mut self, events: u64, bytes: u64) {
        self.events += events;
        self.bytes += bytes;
        self.arrears += events;
    }

    /// True while there is something to do.
    pub(super) fn is_at_work(&self) -> bool {
        self.at_work.is_some() || !self.chores.is_empty() || self.is_due()
    }

    fn is_due(&self) -> bool {
        let Retention { age_ms, bytes, rules, .. } = &*self.policy;
        let drops = age_ms.is_some() || bytes.is_some() || !rules.is_empty();
        drops && (self.events >= EVENTS_BETWEEN || self.bytes >= BYTES_BETWEEN)
    }

    /// How many events a step has to look at so that dropping keeps up with writing.
    pub(super) fn arrears(&self) -> usize {
        // What is looked at may be kept.
        usize::try_from(self.arrears.saturating_mul(2)).unwrap_or(usize::MAX)
    }

    /// Looks at about `budget` events. Returns what is done, if anything is.
    pub(super) fn step(
        &mut self,
        log: &mut Log,
        now_ms: u64,
        budget: usize,
    ) -> Result<Option<Compacted>, LogError> {
        if self.at_work.is_none() {
            self.at_work = self.begin(log);
        }
        self.arrears = 0;
        let Some(work) = &mut self.at_work else { return Ok(None) };
        if budget == 0 || work.step(log, now_ms, budget)? {
            return Ok(None);
        }
        Ok(self.at_work.take().map(Compaction::finish))
    }

    fn begin(&mut self, log: &Log) -> Option<Compaction> {
        if let Some(chore) = self.chores.pop_front() {
            return Some(Compaction::of_chore(chore, &self.policy, log));
        }
        self.is_due().then(|| {
            (self.events, self.bytes) = (0, 0);
            Compaction::of_policy(&self.policy, log)
        })
    }
}
