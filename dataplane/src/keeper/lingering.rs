//! What outlives its tree because somebody is left who was not told apart from others.
//!
//! Who scrubs its environment and leaves its session is nobody's, and its tree ends without it. But it doesn't leave its mount
//! namespace, and what stands there for names that aren't to be made has to stand as long as anybody is in it.
//!
//! Invariant: a placeholder is given up only when nobody below this keeper is in the namespace it was made for.

use crate::keeper::main::Keeper;
use crate::keeper::tree::EXEC_PATIENCE;
use crate::sys::process;
use kairo_sandbox::enforce::Placeholders;
use std::time::Instant;

/// Placeholders of a tree that has ended.
#[derive(Debug)]
pub(super) struct Lingering {
    #[expect(dead_code, reason = "they are held, and removed when they are dropped")]
    placeholders: Placeholders,
    /// None if the leader was gone before it could be asked.
    namespace: Option<u64>,
}

/// Which mount namespace a child is in. In the middle of an exec it can't be asked, so that is waited for.
pub(super) fn namespace_of(pid: i32) -> Option<u64> {
    let until = Instant::now() + EXEC_PATIENCE;
    loop {
        let namespace = process::mount_namespace(pid);
        if namespace.is_some() || !process::is_in_exec(pid) || Instant::now() >= until {
            return namespace;
        }
        std::thread::yield_now();
    }
}

fn is_alive(pid: i32) -> bool {
    process::stat(pid).is_some_and(|stat| !stat.dead())
}

impl Keeper {
    /// Takes over from a tree that has ended.
    pub(super) fn take_placeholders(&mut self, placeholders: Placeholders, namespace: Option<u64>) {
        if !placeholders.is_empty() && self.is_lived_in(namespace) {
            self.lingering.push(Lingering { placeholders, namespace });
        }
    }

    /// Gives up what nobody is left for.
    pub(super) fn give_up_placeholders(&mut self) {
        let mut lingering = std::mem::take(&mut self.lingering);
        lingering.retain(|left| self.is_lived_in(left.namespace));
        self.lingering = lingering;
    }

    /// Whether anybody below us is in this mount namespace, or may be.
    fn is_lived_in(&mut self, namespace: Option<u64>) -> bool {
        if self.childless {
            return false;
        }
        let own = process::mount_namespace(std::process::id() as i32);
        let others = self.sessions.iter().filter(|(_, session)| !session.ended);
        let known: Vec<u64> = others.filter_map(|(_, session)| session.mounts).chain(own).collect();
        let mut pids = Vec::new();
        let _ = process::children(&mut self.children, &mut pids);
        let mut next = 0;
        while let Some(pid) = pids.get(next).copied() {
            next += 1;
            let Some(stat) = process::stat(pid).filter(|stat| !stat.dead()) else { continue };
            let is_there = match (namespace_of(pid), namespace) {
                (Some(its), Some(wanted)) => its == wanted,
                (Some(its), None) => !known.contains(&its),
                // Who can't be asked may be, if it is still there.
                (None, _) => is_alive(pid),
            };
            if is_there {
                return true;
            }
            process::threads_children(pid, stat.threads, &mut pids);
        }
        false
    }
}
