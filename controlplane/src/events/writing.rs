//! What whoever writes the log does with what the kernel hands over: what becomes one batch, when the disk is flushed, who is
//! told what, and in which order.
//!
//! ```text
//!   [ all that was put ] ─append─▶ told: written ─▶ sync, if it is waited for or due ─▶ told: flushed ─▶ indexes brought on
//! ```
//!
//! All that is queued goes into one batch, and whoever waits for the disk shares one flush. What nobody waits for is flushed
//! when nothing else has come for a moment, or has waited long enough. A thread does this with a real disk and a real clock,
//! a simulation with neither. Invariants: nobody is told of an entry before it is written, or flushed; after an error nothing
//! more is to be done.

use super::log::audit::SIGNED_WITHIN_MS;
use super::log::{self, Damage, Log, LogError, Stored, Value};
use super::outlet::{Batch, Entry, Life};
use kairo_dataplane::points::{Point, reach};

/// How long an entry may wait for the disk when nobody waits for it …
const FLUSH_WITHIN_NS: u64 = 1_000_000_000;
/// … and how long it does when no other follows: whoever is idle has flushed.
const FLUSH_AFTER_NS: u64 = 100_000_000;
/// Events that are indexed between two looks at what is queued.
const INDEXED_AT_ONCE: usize = 512;
/// Fewer wait so long for others: who just heard of an event comes first, and many together cost less.
const INDEX_AFTER_NS: u64 = 20_000_000;
/// The indexes may be so many events behind while there is always more to write.
const INDEX_LAG_MAX: u64 = 16_384;

/// Who is told, and what else is needed.
pub trait Hands {
    /// What time it is, nanoseconds on a clock that never goes back.
    fn now_ns(&self) -> u64;
    /// What time it is for people, milliseconds since 1970.
    fn wall_ms(&self) -> u64;
    /// Whether more has been put meanwhile.
    fn is_more_put(&self) -> bool;
    /// All entries up to this one are written.
    fn written(&mut self, entry: u64);
    /// The disk has all entries up to this one.
    fn flushed(&mut self, entry: u64);
    /// Events were found to be lost.
    fn damaged(&mut self, found: &[Damage]);
    /// Adds a session record to a batch, as it is to be kept.
    fn keep(&mut self, life: &Life, to: &mut Vec<log::Life>);
    /// So much was written.
    fn appended(&mut self, _events: u64, _bytes: u64) {}
    /// The disk has everything.
    fn synced(&mut self, _log: &Log) -> Result<(), LogError> {
        Ok(())
    }
    /// Puts the log in order as far as it is time; `is_over`: nothing more will come.
    fn tidy(&mut self, log: &mut Log, is_over: bool) -> Result<(), LogError>;
}

/// A log that is being written.
pub struct Writing {
    log: Log,
    /// Entries.
    written: u64,
    flush_at: Option<u64>,
    flush_by: Option<u64>,
    /// How far the indexes are behind, in events.
    lag: u64,
    /// When those are brought on, however few they are.
    index_at: u64,
    /// When the end of the audit is signed, however short it is.
    sign_at: Option<u64>,
}

impl Writing {
    /// Of a log that has just been opened.
    pub fn new(log: Log) -> Writing {
        Writing { log, written: 0, flush_at: None, flush_by: None, lag: 1, index_at: 0, sign_at: None }
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Flushes and closes it.
    pub fn close(self) -> Result<(), LogError> {
        self.log.close()
    }

    /// True if there is something to do though nothing was put.
    pub fn is_behind(&self, now_ns: u64) -> bool {
        self.lag >= INDEXED_AT_ONCE as u64
            || (self.lag > 0 && self.index_at <= now_ns)
            || self.log.is_pruning()
    }

    /// When there will be.
    pub fn due_at(&self) -> Option<u64> {
        let index_at = (self.lag > 0).then_some(self.index_at);
        self.flush_at.into_iter().chain(index_at).chain(self.sign_at).min()
    }

    /// Writes what was put, in order, and does what is due. `aside` is written with it and is not the kernel's, so nobody counts
    /// it. `is_over`: nothing more will come.
    pub fn work(
        &mut self,
        batches: &[Batch],
        aside: Option<&Batch>,
        is_over: bool,
        hands: &mut impl Hands,
    ) -> Result<(), LogError> {
        let waited_for = batches.iter().any(|batch| batch.flush);
        if batches.iter().chain(aside).any(|batch| !batch.entries.is_empty()) {
            reach(Point::LogTaken);
            let (events, bytes) = self.write(batches, aside, hands)?;
            reach(Point::LogWritten);
            let now = hands.now_ns();
            hands.written(self.written);
            // After those who wait for it: this is nobody's answer.
            hands.appended(events, bytes);
            self.flush_soon(now);
        }
        self.sign(is_over, hands)?;
        let due = self.flush_at.is_some_and(|at| at <= hands.now_ns());
        if waited_for || (self.flush_at.is_some() && (due || is_over)) {
            self.log.sync()?;
            reach(Point::LogFlushed);
            (self.flush_at, self.flush_by) = (None, None);
            hands.flushed(self.written);
            let found = self.log.damage()?;
            if !found.is_empty() {
                hands.damaged(&found);
            }
            hands.synced(&self.log)?;
        }
        let has_time = || !hands.is_more_put() && (is_over || self.is_behind(hands.now_ns()));
        if self.lag > INDEX_LAG_MAX || has_time() {
            self.lag = self.log.index(INDEXED_AT_ONCE)?.lag;
            self.log.prune_audit(INDEXED_AT_ONCE)?;
        }
        hands.tidy(&mut self.log, is_over)
    }

    fn flush_soon(&mut self, now_ns: u64) {
        let by = *self.flush_by.get_or_insert(now_ns.saturating_add(FLUSH_WITHIN_NS));
        self.flush_at = Some(by.min(now_ns.saturating_add(FLUSH_AFTER_NS)));
    }

    /// Has the end of the audit signed, if it has waited long enough or nothing more will come.
    fn sign(&mut self, is_over: bool, hands: &impl Hands) -> Result<(), LogError> {
        if !self.log.is_unsigned() {
            self.sign_at = None;
            return Ok(());
        }
        let now = hands.now_ns();
        let at = *self.sign_at.get_or_insert(now.saturating_add(SIGNED_WITHIN_MS * 1_000_000));
        if is_over || at <= now {
            self.log.sign_audit(hands.wall_ms())?;
            self.sign_at = None;
            self.flush_soon(now);
        }
        Ok(())
    }

    /// Returns how many events that were, and their bytes.
    fn write(
        &mut self,
        batches: &[Batch],
        aside: Option<&Batch>,
        hands: &mut impl Hands,
    ) -> Result<(u64, u64), LogError> {
        let mut whole = log::Batch::default();
        for entry in batches.iter().chain(aside).flat_map(|batch| &batch.entries) {
            match entry {
                Entry::Event { seq, topic, record } => {
                    whole.events.push(Stored { seq: *seq, topic, record: record.clone() });
                }
                Entry::Life(life) => hands.keep(life, &mut whole.lives),
                Entry::Value { key, value } => {
                    whole.values.push(Value { key: key.clone(), bytes: value.clone() });
                }
                Entry::Audit(order) => whole.orders.push(*order),
            }
        }
        self.log.append(&whole)?;
        if self.lag == 0 {
            self.index_at = hands.now_ns().saturating_add(INDEX_AFTER_NS);
        }
        let events = whole.events.len() as u64;
        self.lag += events;
        self.written += batches.iter().map(|batch| batch.entries.len() as u64).sum::<u64>();
        Ok((events, whole.events.iter().map(|event| event.record.len() as u64).sum()))
    }
}
