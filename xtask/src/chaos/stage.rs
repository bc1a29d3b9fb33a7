//! What the actors of a round share: where the kernel is, how far everybody has come, when to give up.
//!
//! Invariant: whatever anybody waits for, it stops waiting when the round has failed or nothing happens any more.
//!
//! Not here: what goes over a connection (`line`).

use super::check::Wrong;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

/// How often somebody who waits looks again.
pub(crate) const GLANCE: Duration = Duration::from_millis(1);

/// What is done to a round on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// A byte changes on its way.
    Byte,
    /// An outlet ends before its process has.
    Cut,
    /// A byte is read twice.
    Again,
    /// A child is taken for one that ended otherwise.
    Exit,
    /// A child is started twice.
    Twice,
    /// A process is left behind.
    Orphan,
    /// A file is left behind.
    File,
    /// A descriptor is left behind.
    Descriptor,
    /// An exit is told twice.
    Told,
    /// A write goes in twice.
    Written,
    /// The kernel ends without having been asked.
    Crash,
    /// An event was acknowledged that is not in the log.
    Unlogged,
    /// An event is published twice.
    Published,
    /// An event names a cause that isn't there.
    Cause,
    /// A place of the log is left out.
    Hole,
    /// The end of the first life is not told.
    Untold,
    /// A subscriber misses an event.
    Missed,
    /// A subscriber hears an event twice.
    Heard,
    /// What a consumer has done comes again.
    Redone,
    /// A cancel spares a process.
    Spared,
    /// A cancel ends a process that is none of its business.
    Touched,
    /// A producer writes a byte that is not the stream's.
    Produced,
    /// A byte changes on its way to a visitor.
    Visited,
    /// A reader is not given a chunk, and not told.
    Skipped,
}

/// What the actors of a round share.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) socket: PathBuf,
    pub(crate) begun: Instant,
    patience: Duration,
    pulse: Mutex<Pulse>,
    pub(crate) sabotage: Option<Sabotage>,
    /// Bytes all readers have seen.
    pub(crate) bytes: AtomicU64,
    /// Connections opened again.
    pub(crate) reconnections: AtomicU64,
    /// Writes sent again under their key.
    pub(crate) resent: AtomicU64,
    /// Bytes terminals may have lost in a kernel that was killed.
    pub(crate) terminal_gap_bytes: AtomicU64,
    /// Bytes that were on their way to readers of relays in kernels that were killed, and are named gaps.
    pub(crate) relay_gap_bytes: AtomicU64,
    /// Bytes readers missed by their own policy.
    pub(crate) dropped_bytes: AtomicU64,
    /// Exits that a second kernel told, as the first died with the word in its mouth.
    pub(crate) told_again: AtomicU64,
    /// A kernel has died in this round.
    pub(crate) has_killed: AtomicBool,
    /// Restarts that were asked for and did not come after a kill.
    pub(crate) not_reborn: AtomicU64,
    /// No more kills come: slow readers read, stopped ones go on.
    pub(crate) is_released: AtomicBool,
    /// The observer has nothing more to observe.
    pub(crate) is_over: AtomicBool,
    has_failed: AtomicBool,
    sabotage_is_done: AtomicBool,
    facts: Mutex<Facts>,
}

/// Whether anything happens.
#[derive(Debug)]
struct Pulse {
    /// All that is known of the round, in a number.
    felt: u64,
    /// Since when it is that.
    since: Instant,
    looked: Instant,
}

#[derive(Debug, Default)]
struct Facts {
    begun: BTreeSet<String>,
    spawned: BTreeSet<String>,
    /// For each process, bytes of stdout its fastest reader has seen.
    seen: BTreeMap<String, u64>,
    /// For each process, answers its reader has seen.
    answers: BTreeMap<String, u64>,
    /// Processes of which bytes may be missing, as they have a terminal and their kernel died.
    doubted: BTreeSet<String>,
    /// Processes that may not be started again, as their spawn was not answered at first.
    dead: BTreeSet<String>,
    /// What each actor does.
    doings: BTreeMap<String, String>,
    /// Sessions whose exit was told on the bus.
    exits_told: BTreeSet<String>,
    /// What publishers were told: of which event, and what.
    acked: BTreeMap<(String, u64), Acked>,
    /// Publishers that are not done.
    publishing: BTreeSet<String>,
}

/// What a publisher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) seq: u64,
    pub(crate) id: String,
}

impl Stage {
    /// A round that begins now.
    pub(crate) fn new(socket: PathBuf, patience: Duration, sabotage: Option<Sabotage>) -> Stage {
        let begun = Instant::now();
        Stage {
            socket,
            begun,
            patience,
            pulse: Mutex::new(Pulse { felt: 0, since: begun, looked: begun }),
            sabotage,
            bytes: AtomicU64::new(0),
            reconnections: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            terminal_gap_bytes: AtomicU64::new(0),
            relay_gap_bytes: AtomicU64::new(0),
            dropped_bytes: AtomicU64::new(0),
            told_again: AtomicU64::new(0),
            has_killed: AtomicBool::new(false),
            not_reborn: AtomicU64::new(0),
            is_released: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            sabotage_is_done: AtomicBool::new(false),
            facts: Mutex::default(),
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // An actor that panicked has failed the round; what it left is still right.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody need go on.
    pub(crate) fn fail(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    /// What came of a part of somebody: who fails fails the round.
    pub(crate) fn judged(&self, name: &str, result: Result<(), Wrong>) -> Result<(), Wrong> {
        result.map_err(|wrong| {
            self.fail();
            if wrong == GIVEN_UP { wrong } else { format!("{name}: {wrong}") }
        })
    }

    /// An error once the round has failed or nothing happens any more.
    pub(crate) fn check(&self) -> Result<(), Wrong> {
        if self.has_failed.load(Ordering::Relaxed) {
            return Err(GIVEN_UP.to_owned());
        }
        if self.has_stopped() {
            return Err(format!("nothing more happened within {:?}", self.patience));
        }
        Ok(())
    }

    /// Nothing has happened for so long that nothing will. A machine that has other things to do only makes it slow.
    fn has_stopped(&self) -> bool {
        let now = Instant::now();
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        if now - pulse.looked < self.patience / 100 {
            return false;
        }
        pulse.looked = now;
        let felt = self.feel();
        if felt != pulse.felt {
            (pulse.felt, pulse.since) = (felt, now);
        }
        now - pulse.since > self.patience
    }

    fn feel(&self) -> u64 {
        let counters = [&self.bytes, &self.reconnections, &self.resent, &self.dropped_bytes];
        let facts = self.facts();
        let mut hasher = DefaultHasher::new();
        counters.map(|counter| counter.load(Ordering::Relaxed)).hash(&mut hasher);
        (&facts.doings, &facts.seen, &facts.answers).hash(&mut hasher);
        (facts.spawned.len(), facts.exits_told.len(), facts.acked.len()).hash(&mut hasher);
        hasher.finish()
    }

    /// Waits until it is so.
    pub(crate) fn until(&self, mut is_so: impl FnMut() -> bool) -> Result<(), Wrong> {
        while !is_so() {
            self.check()?;
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Waits so long, less if the kills are over.
    pub(crate) fn dawdle(&self, time: Duration) {
        if !self.is_released() {
            std::thread::sleep(time);
        }
    }

    /// True when no more kills come.
    pub(crate) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Relaxed)
    }

    /// Says what an actor does, for whoever has to find out why nothing more happens.
    pub(crate) fn doing(&self, who: &str, what: impl Into<String>) {
        self.facts().doings.insert(who.to_owned(), what.into());
    }

    /// What everybody does.
    pub(crate) fn doings(&self) -> BTreeMap<String, String> {
        self.facts().doings.clone()
    }

    /// A process is about to be asked for.
    pub(crate) fn begins(&self, id: &str) {
        self.facts().begun.insert(id.to_owned());
    }

    /// Whether it may be there.
    pub(crate) fn is_begun(&self, id: &str) -> bool {
        self.facts().begun.contains(id)
    }

    /// A process is there.
    pub(crate) fn spawned(&self, id: &str) {
        self.facts().spawned.insert(id.to_owned());
    }

    /// Whether it is.
    pub(crate) fn is_spawned(&self, id: &str) -> bool {
        self.facts().spawned.contains(id)
    }

    /// A reader of a process has come so far.
    pub(crate) fn saw(&self, id: &str, bytes: u64, answers: u64, is_doubted: bool) {
        let mut facts = self.facts();
        if is_doubted {
            facts.doubted.insert(id.to_owned());
        }
        let seen = facts.seen.entry(id.to_owned()).or_default();
        *seen = bytes.max(*seen);
        let known = facts.answers.entry(id.to_owned()).or_default();
        *known = answers.max(*known);
    }

    /// How far the fastest reader of a process has come: bytes, answers.
    pub(crate) fn seen(&self, id: &str) -> (u64, u64) {
        let facts = self.facts();
        let of = |map: &BTreeMap<String, u64>| map.get(id).copied().unwrap_or(0);
        (of(&facts.seen), of(&facts.answers))
    }

    /// True if an answer may never be seen.
    pub(crate) fn is_doubted(&self, id: &str) -> bool {
        self.facts().doubted.contains(id)
    }

    /// A process may get fewer lives than it asked for.
    pub(crate) fn may_stay_dead(&self, id: &str) {
        self.facts().dead.insert(id.to_owned());
    }

    /// Whether it may.
    pub(crate) fn stays_dead(&self, id: &str) -> bool {
        self.facts().dead.contains(id)
    }

    /// The bus told the exit of a session. True if it is the first time.
    pub(crate) fn exit_told(&self, session: &str) -> bool {
        self.facts().exits_told.insert(session.to_owned())
    }

    /// How many sessions' exits were told.
    pub(crate) fn exits_told(&self) -> u64 {
        self.facts().exits_told.len() as u64
    }

    /// Somebody will publish.
    pub(crate) fn publishes(&self, who: &str) {
        self.facts().publishing.insert(who.to_owned());
    }

    /// Somebody has published all of it.
    pub(crate) fn published(&self, who: &str) {
        self.facts().publishing.remove(who);
    }

    /// Whether everybody has.
    pub(crate) fn is_all_published(&self) -> bool {
        self.facts().publishing.is_empty()
    }

    /// An event was acknowledged.
    pub(crate) fn acked(&self, who: &str, number: u64, acked: Acked) {
        self.facts().acked.insert((who.to_owned(), number), acked);
    }

    /// All that was.
    pub(crate) fn all_acked(&self) -> BTreeMap<(String, u64), Acked> {
        self.facts().acked.clone()
    }

    /// The last place that was.
    pub(crate) fn last_acked(&self) -> u64 {
        self.facts().acked.values().map(|acked| acked.seq).max().unwrap_or(0)
    }

    /// Whether all of that is so.
    pub(crate) fn is_all_acked(&self, is_so: impl Fn(u64) -> bool) -> bool {
        self.facts().acked.values().all(|acked| is_so(acked.seq))
    }

    /// True once, for the first who asks, if this is what is to be done on purpose.
    pub(crate) fn sabotages(&self, how: Sabotage) -> bool {
        self.sabotage == Some(how) && !self.sabotage_is_done.swap(true, Ordering::Relaxed)
    }
}

/// Waits for all parts of somebody; of what is wrong, the first that isn't another's fault.
pub(crate) fn all_of(parts: Vec<ScopedJoinHandle<'_, Result<(), Wrong>>>) -> Result<(), Wrong> {
    let done = parts.into_iter().map(|part| part.join().unwrap_or_else(|_| Err("panicked".to_owned())));
    let mut wrong: Vec<Wrong> = done.filter_map(Result::err).collect();
    wrong.sort_by_key(|wrong| wrong == GIVEN_UP);
    wrong.into_iter().next().map_or(Ok(()), Err)
}

/// What an actor says that stopped because another had failed.
pub(crate) const GIVEN_UP: &str = "given up, as somebody else failed";
