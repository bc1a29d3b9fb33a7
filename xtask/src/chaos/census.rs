//! What a kernel and its keeper hold when nothing is going on.
//!
//! Counted after each round, when all its processes have ended and all its connections are closed: then as much is
//! held as before, whatever was done in between. What reactors keep for good (staging pipes, what wakes them)
//! depends on how many there are and is allowed for.
//!
//! Not here: what a round's processes wrote.

use super::check::Wrong;
use super::kernel::{Home, described};
use crate::support::processes::{descriptor_targets, descriptors, memory_bytes};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Descriptors a reactor may come to hold for good, in the kernel and in the keeper.
const DESCRIPTORS_PER_REACTOR: usize = 8;
/// The most reactors a kernel of a round has.
const REACTORS_MAX: usize = 3;
/// Memory of its own the keeper may come to have (`/proc/PID/smaps_rollup`, Anonymous): once, as one that began from a
/// file keeps what it read that with, and for each process that is remembered.
const KEEPER_GROWTH_BYTES_MAX: u64 = 2 << 20;
const KEEPER_SESSION_BYTES_MAX: u64 = 4 << 10;
/// The same for a kernel, over all rounds of a state: what it keeps of ended processes is in it.
const KERNEL_GROWTH_BYTES_MAX: u64 = 96 << 20;

/// What is remembered of all rounds over a state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Past {
    /// Processes there were.
    pub(crate) processes: usize,
    /// Outputs that said something: what is kept of each is a descriptor of the keeper's.
    pub(crate) outputs: usize,
    /// So many of them may be held by the kernel too: for the grace (10 s) it waits for readers that are done, and
    /// whose kernel died before it could note that.
    pub(crate) awaited: usize,
}

/// One count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) kernel_descriptors: usize,
    pub(crate) keeper_descriptors: usize,
    pub(crate) kernel_bytes: u64,
    pub(crate) keeper_bytes: u64,
    pub(crate) keepers: usize,
    pub(crate) files: usize,
    pub(crate) strays: usize,
}

impl Census {
    /// Counts now.
    pub(crate) fn take(home: &Home) -> Census {
        let keepers = home.keepers();
        let (kernel, keeper) = (home.pid(), keepers.first().map(|name| name.pid));
        Census {
            kernel_descriptors: kernel.map_or(0, held),
            keeper_descriptors: keeper.map_or(0, descriptors),
            kernel_bytes: kernel.map_or(0, |pid| memory_bytes(pid, "Anonymous")),
            keeper_bytes: keeper.map_or(0, |pid| memory_bytes(pid, "Anonymous")),
            keepers: keepers.len(),
            files: home.files().len(),
            strays: home.strays().len(),
        }
    }

    /// What is wrong with it beside the count at the beginning.
    fn complaint(&self, home: &Home, baseline: &Census, past: Past) -> Option<Wrong> {
        let allowance = DESCRIPTORS_PER_REACTOR * REACTORS_MAX;
        let over = |what: &str, pid: Option<i32>, now: usize, then: usize| {
            let kinds = || pid.map(kinds_of_descriptors).unwrap_or_default();
            (now > then + allowance)
                .then(|| format!("{what} holds {now} descriptors, {then} are accounted for: {:?}", kinds()))
        };
        let strays = || {
            let all: Vec<String> = home.strays().into_iter().map(described).collect();
            (self.strays > 0).then(|| format!("{} processes are left: {}", all.len(), all.join(", ")))
        };
        let memory = |what: &str, now: u64, max: u64| {
            (now > max).then(|| format!("{what} has {} KiB of memory, {} allowed", now >> 10, max >> 10))
        };
        let keepers = || (self.keepers != 1).then(|| format!("there are {} keepers", self.keepers));
        strays()
            .or_else(keepers)
            .or_else(|| {
                over(
                    "the kernel",
                    home.pid(),
                    self.kernel_descriptors,
                    baseline.kernel_descriptors + past.awaited,
                )
            })
            .or_else(|| {
                over(
                    "the keeper",
                    home.keepers().first().map(|name| name.pid),
                    self.keeper_descriptors,
                    baseline.keeper_descriptors + past.outputs,
                )
            })
            .or_else(|| {
                let max = KEEPER_GROWTH_BYTES_MAX + past.processes as u64 * KEEPER_SESSION_BYTES_MAX;
                memory("the keeper", self.keeper_bytes, baseline.keeper_bytes + max)
            })
            .or_else(|| {
                let max = baseline.kernel_bytes + KERNEL_GROWTH_BYTES_MAX;
                memory("the kernel", self.kernel_bytes, max)
            })
            .or_else(|| {
                let grown = self.files > baseline.files + 1;
                grown.then(|| format!("{} files, {} at the beginning", self.files, baseline.files))
            })
    }

    /// Counts until nothing is wrong. What is wrong for longer than it may take to put things away is.
    pub(crate) fn settled(
        home: &Home,
        baseline: &Census,
        past: Past,
        patience: Duration,
    ) -> Result<Census, Wrong> {
        let deadline = Instant::now() + patience;
        loop {
            let census = Census::take(home);
            match census.complaint(home, baseline, past) {
                None => return Ok(census),
                Some(complaint) if Instant::now() > deadline => return Err(complaint),
                Some(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// Descriptors of a kernel; how many files its log is of is the log's business.
fn held(pid: i32) -> usize {
    let is_of_log = |target: &PathBuf| target.display().to_string().contains("/state/log/db/");
    descriptor_targets(pid).iter().filter(|target| !is_of_log(target)).count()
}

/// How many descriptors there are of each kind, for a message.
fn kinds_of_descriptors(pid: i32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for target in descriptor_targets(pid) {
        let text = target.display().to_string();
        let kind = text.split([':', ' ', '(']).next().unwrap_or_default().to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}
