//! What contained processes are denied, heard from the operating system and told to the kernel: one thread, there from the
//! first process on that is to be watched.
//!
//! ```text
//!  audit ─▶ Denials ─▶ whose it may be (its parents) ─▶ Tally ─▶ Kernel::violated ─▶ kairo.security.violation
//! ```
//!
//! The first refusal of a kind is told at once, what is the same within a second after is counted and told then. Invariant:
//! no program makes more than [`KINDS_MAX`] events in a second, or this thread remember more than [`ENTRIES_MAX`] kinds.

use kairo_controlplane::kernel::ControlPlane;
use kairo_dataplane::command::Commands;
use kairo_dataplane::control::Lineage;
use kairo_dataplane::plane::PlaneHandle;
use kairo_dataplane::sys::{clock, process};
use kairo_sandbox::denials::Denials;
use kairo_sandbox::violation::{Denied, What};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};

/// How long the same is only counted, nanoseconds.
const WINDOW_NS: u64 = 1_000_000_000;
/// Kinds that are told of one program in that time; the others are counted together.
const KINDS_MAX: usize = 16;
/// Kinds remembered of all programs together.
const ENTRIES_MAX: usize = 1_024;

/// Starts the thread when it is needed.
#[derive(Debug)]
pub(crate) struct Watcher {
    keeper_pid: i32,
    kernel: OnceLock<(Arc<ControlPlane>, PlaneHandle)>,
    begun: OnceLock<()>,
}

impl Watcher {
    pub(crate) fn new(keeper_pid: i32) -> Arc<Watcher> {
        Arc::new(Watcher { keeper_pid, kernel: OnceLock::new(), begun: OnceLock::new() })
    }

    /// The kernel that is told.
    pub(crate) fn attach(&self, control: Arc<ControlPlane>, plane: PlaneHandle) {
        // There is one kernel in a program.
        let _ = self.kernel.set((control, plane));
    }

    /// Listens from now on, unless it does already.
    pub(crate) fn begin(self: &Arc<Watcher>) {
        self.begun.get_or_init(|| {
            // Opened here: what is denied from now on waits in it.
            let started = Denials::open().and_then(|denials| {
                let watcher = Arc::clone(self);
                let thread = std::thread::Builder::new().name("violations".to_owned());
                thread.spawn(move || watcher.listen(denials))
            });
            if let Err(error) = started {
                tracing::warn!(component = "violations", %error, "what is denied is not heard");
            }
        });
    }

    fn listen(&self, mut denials: Denials) {
        let mut tally = Tally::default();
        loop {
            let timeout = tally.due_ns().map(|due| {
                let left = due.saturating_sub(clock::monotonic_ns());
                Timespec { tv_sec: (left / WINDOW_NS) as i64, tv_nsec: (left % WINDOW_NS) as i64 }
            });
            let mut polled = [PollFd::from_borrowed_fd(denials.descriptor(), PollFlags::IN)];
            match poll(&mut polled, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return tracing::warn!(component = "violations", %error, "nothing is heard any more");
                }
            }
            if let Err(error) = self.take(&mut denials, &mut tally) {
                return tracing::warn!(component = "violations", %error, "nothing is heard any more");
            }
            for (denied, lineage, count) in tally.over(clock::monotonic_ns()) {
                self.tell(&denied, &lineage, count);
            }
        }
    }

    fn take(&self, denials: &mut Denials, tally: &mut Tally) -> io::Result<()> {
        while let Some(denied) = denials.take()? {
            let lineage = process::ancestry(denied.pid, self.keeper_pid);
            if lineage == Lineage::Outside {
                continue;
            }
            if let Some(denied) = tally.count(denied, &lineage, clock::monotonic_ns()) {
                self.tell(&denied, &lineage, 1);
            }
        }
        Ok(())
    }

    fn tell(&self, denied: &Denied, lineage: &Lineage, count: u64) {
        let Some((control, plane)) = self.kernel.get() else { return };
        let mut out = Commands::default();
        control.with(|kernel| kernel.violated(clock::now(), denied, lineage, count, &mut out));
        plane.carry_out(out);
    }
}

/// A kind: what was denied to which program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    /// The child of the keeper's it descends from, or itself.
    root: i32,
    what: What,
}

/// Since when it is counted, and what wasn't told yet.
#[derive(Debug)]
struct Entry {
    since_ns: u64,
    count: u64,
    last: (Denied, Lineage),
}

/// What was heard in the last second.
#[derive(Debug, Default)]
struct Tally(HashMap<Kind, Entry>);

impl Tally {
    /// Takes a refusal in. It comes back if it is to be told now.
    fn count(&mut self, mut denied: Denied, lineage: &Lineage, now_ns: u64) -> Option<Denied> {
        let root = match lineage {
            Lineage::Child { ancestors, .. } => ancestors.last().copied().unwrap_or(denied.pid),
            Lineage::Outside | Lineage::Unknown => denied.pid,
        };
        let mut kind = Kind { root, what: denied.what.clone() };
        if !self.0.contains_key(&kind) && self.kinds_of(root) >= KINDS_MAX {
            (denied.what, kind.what) = (What::More, What::More);
        }
        if let Some(entry) = self.0.get_mut(&kind) {
            entry.count += 1;
            entry.last = (denied, lineage.clone());
            return None;
        }
        if self.0.len() >= ENTRIES_MAX {
            // Programs without number: whoever comes now is told of by those that were there.
            return None;
        }
        let told = kind.what != What::More;
        let last = (denied.clone(), lineage.clone());
        self.0.insert(kind, Entry { since_ns: now_ns, count: u64::from(!told), last });
        told.then_some(denied)
    }

    fn kinds_of(&self, root: i32) -> usize {
        self.0.keys().filter(|kind| kind.root == root).count()
    }

    /// When there is something to do next, CLOCK_MONOTONIC.
    fn due_ns(&self) -> Option<u64> {
        self.0.values().map(|entry| entry.since_ns + WINDOW_NS).min()
    }

    /// What is to be told of seconds that are over.
    fn over(&mut self, now_ns: u64) -> Vec<(Denied, Lineage, u64)> {
        let over = self.0.extract_if(|_, entry| now_ns >= entry.since_ns + WINDOW_NS);
        let counted: Vec<(Kind, Entry)> = over.filter(|(_, entry)| entry.count > 0).collect();
        let mut told = Vec::with_capacity(counted.len());
        for (kind, mut entry) in counted {
            told.push((entry.last.0.clone(), entry.last.1.clone(), entry.count));
            // Still going on: the next second is counted too, and not told at once.
            (entry.since_ns, entry.count) = (now_ns, 0);
            self.0.insert(kind, entry);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(pid: i32, number: u32) -> Denied {
        Denied { pid, what: What::Call { architecture: 1, number, killed: false } }
    }

    fn below(pid: i32, root: i32) -> Lineage {
        Lineage::Child { ancestors: vec![pid, root], session: None }
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_of_a_second_after_it() {
        let mut tally = Tally::default();
        assert_eq!(tally.count(call(5, 1), &below(5, 2), 0), Some(call(5, 1)));
        for pid in 6..106 {
            assert_eq!(tally.count(call(pid, 1), &below(pid, 2), 10), None);
        }
        assert_eq!(tally.count(call(7, 1), &below(7, 3), 10), Some(call(7, 1)), "another program");
        assert_eq!(tally.due_ns(), Some(WINDOW_NS));
        assert!(tally.over(WINDOW_NS - 1).is_empty());
        let told = tally.over(WINDOW_NS + 10);
        assert_eq!(told, vec![(call(105, 1), below(105, 2), 100)]);
        // Quiet for a second: forgotten.
        assert!(tally.over(3 * WINDOW_NS).is_empty() && tally.due_ns().is_none());
    }

    #[test]
    fn no_program_floods() {
        let mut tally = Tally::default();
        let told = (0..10_000).filter_map(|number| tally.count(call(5, number), &below(5, 2), 0)).count();
        assert_eq!(told, KINDS_MAX);
        let counted: u64 = tally.over(WINDOW_NS).iter().map(|(_, _, count)| count).sum();
        assert_eq!(counted + told as u64, 10_000);
        let roots = (0..10_000).filter_map(|root| tally.count(call(root, 1), &Lineage::Unknown, 0)).count();
        assert!(roots <= ENTRIES_MAX && tally.0.len() <= ENTRIES_MAX);
    }
}
