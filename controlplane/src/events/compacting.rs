//! Dropping what is old, as a piece of work that whoever writes the log does by and by.
//!
//! ```text
//!   event.compact ─▶ chore ─▶ compaction ──step──step──step─▶ compacted ─▶ told, and the call is answered
//!   so much written ───────────▶ │            └── between two batches
//! ```
//!
//! Invariant: a chore has one answer, when all that was in the log as it was begun has been looked at; what is dropped stands
//! in the log's gaps before anybody is told of it.

use crate::calls::Turn;
use crate::events::journal::unkept;
use crate::events::log::{Dropped, Foresight, Log, LogError, Retention, Summary};
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::state::{Pending, Trace};
use kairo_dataplane::command::Commands;
use kairo_dataplane::control::Moment;
use kairo_wire::event::KernelCompacted;
use kairo_wire::methods::log::{CompactResult, CompactedRange, CompactionCause};

/// Most ranges of an answer.
const RANGES_MAX: usize = 1_000;

/// Something to be dropped because somebody asks for it.
#[derive(Clone, Debug)]
pub struct Chore {
    /// Comes back with the answer.
    pub ticket: u64,
    /// What; none for what the configuration says.
    pub what: Option<Retention>,
    /// Nothing is dropped: it is only counted.
    pub dry_run: bool,
}

/// Work under way.
#[derive(Debug)]
pub struct Compaction {
    ticket: Option<u64>,
    policy: Retention,
    /// Where a look ahead is.
    foresight: Option<Foresight>,
    /// What was in the log when it began.
    to: u64,
    dropped: Vec<Dropped>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Compacted {
    /// Whose chore it was; none if it was the configuration's.
    pub ticket: Option<u64>,
    /// Nothing was dropped: it would be.
    pub dry_run: bool,
    /// What, by range, in no order.
    pub dropped: Vec<Dropped>,
}

impl Compaction {
    /// Begins what the configuration says.
    pub fn of_policy(policy: &Retention, log: &Log) -> Compaction {
        Compaction {
            ticket: None,
            policy: policy.clone(),
            foresight: None,
            to: log.last_seq(),
            dropped: Vec::new(),
        }
    }

    /// Begins a chore.
    pub fn of_chore(chore: Chore, policy: &Retention, log: &Log) -> Compaction {
        Compaction {
            ticket: Some(chore.ticket),
            policy: chore.what.unwrap_or_else(|| policy.clone()),
            foresight: chore.dry_run.then(Foresight::default),
            to: log.last_seq(),
            dropped: Vec::new(),
        }
    }

    /// Looks at no more than about `budget` events. True if there is more to do.
    pub fn step(&mut self, log: &mut Log, now_ms: u64, budget: usize) -> Result<bool, LogError> {
        // What is not in every index yet can't be dropped.
        let behind = log.indexed_to() < self.to && log.index(budget)?.indexed_to < self.to;
        if let Some(foresight) = &mut self.foresight {
            return Ok(behind || log.foresee(foresight, &self.policy, now_ms, budget)?);
        }
        let mut retained = log.retain(&self.policy, now_ms, budget)?;
        self.dropped.append(&mut retained.dropped);
        Dropped::join(&mut self.dropped);
        Ok(behind || retained.more)
    }

    /// What came of it.
    pub fn finish(self) -> Compacted {
        let dry_run = self.foresight.is_some();
        let dropped = self.foresight.map_or(self.dropped, Foresight::into_dropped);
        Compacted { ticket: self.ticket, dry_run, dropped }
    }
}

impl Kernel {
    /// Work on the log is done: what was dropped is told, and whoever asked for it is answered.
    pub fn compacted(&mut self, at: Moment, done: Compacted, out: &mut Commands) {
        let turn = &mut Turn { at, here: None, out };
        let pending = done.ticket.and_then(|ticket| self.state.calls.get(&ticket)).map(|call| &call.pending);
        let story = match pending {
            Some(Pending::Compaction { story }) => Some((**story).clone()),
            Some(_) | None => None,
        };
        let mut all = Summary::default();
        done.dropped.iter().for_each(|one| all.merge(&one.summary));
        if all.events > 0 && !done.dry_run {
            let event = KernelCompacted {
                from: done.dropped.iter().map(|one| one.from).min().unwrap_or_default(),
                to: done.dropped.iter().map(|one| one.to).max().unwrap_or_default(),
                events: all.events,
                bytes: all.bytes,
                types: all.types.into_iter().collect(),
                others: all.others,
                first_ms: all.first_ms,
                last_ms: all.last_ms,
                reason: if done.ticket.is_some() { CompactionCause::Asked } else { CompactionCause::Policy },
            };
            let trace = story.clone().unwrap_or_else(Trace::default);
            self.publish(turn, Audience::All, &trace, &event);
        }
        let (Some(ticket), Some(_)) = (done.ticket, story) else { return };
        let mut ranges: Vec<CompactedRange> = done.dropped.iter().map(range).collect();
        ranges.sort_by_key(|range| range.from);
        ranges.truncate(RANGES_MAX);
        let (events, bytes) = (all.events, all.bytes);
        self.resolve(turn, ticket, &CompactResult { events, bytes, ranges, dry_run: done.dry_run });
    }

    /// The log fails: nothing is dropped from it any more.
    pub(crate) fn give_compactions_up(&mut self, turn: &mut Turn<'_>, reason: &str) {
        let calls = self.state.calls.iter();
        let waiting: Vec<u64> = calls
            .filter(|(_, call)| matches!(call.pending, Pending::Compaction { .. }))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in waiting {
            self.reject(turn, ticket, &unkept(reason));
        }
    }
}

fn range(dropped: &Dropped) -> CompactedRange {
    let Dropped { from, to, summary } = dropped;
    CompactedRange { from: *from, to: *to, events: summary.events, bytes: summary.bytes }
}
