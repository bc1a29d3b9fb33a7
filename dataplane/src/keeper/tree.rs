//! Trees: who belongs to which session, and who is left of it.
//!
//! With a cgroup its folder answers. Without, a tree is the leader and its descendants, found by walking from
//! parent to children; a descendant whose parent ended has become a child of the keeper (the subreaper) and is
//! given to its session by its session id (setsid), else by `KAIRO_SESSION` in its environment, else to the only
//! session there is. One that nothing tells apart is a stray: it is killed when the keeper ends.
//!
//! Invariant: whoever is alive in a tree is a child of the keeper or has a living parent who is in the tree. So a
//! session whose leader is reaped and that has no orphan among the keeper's children has nobody left.

use crate::keeper::link::MARKER;
use crate::keeper::main::Keeper;
use crate::keeper::protocol::ToKernel;
use crate::keeper::session::{Exit, Orphan};
use crate::sys::process::{self, Reaped, Stat};
use std::time::{Duration, Instant};

/// How much of a process's environment is searched for the marker, which the keeper puts first.
const ENVIRONMENT_BYTES_MAX: u64 = 128 * 1024;
/// How long an exec that has begun is waited for.
pub(super) const EXEC_PATIENCE: Duration = Duration::from_millis(20);

/// Somebody of a tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) pid: i32,
    pub(super) stat: Stat,
    /// A child of the keeper that isn't reaped: its pid is its own.
    pub(super) ours: bool,
}

impl Keeper {
    /// Reaps all that can be, tells the exits, and then who has ended.
    pub(super) fn reap(&mut self) {
        let mut any = false;
        loop {
            match process::reap() {
                Reaped::Child(pid, status, usage) => {
                    any = true;
                    self.strays.remove(&pid);
                    let Some(index) = self.sessions.release_pid(pid) else { continue };
                    let Some(session) = self.sessions.get_mut(index) else { continue };
                    if session.pid == pid && session.exit.is_none() {
                        let at_ns = crate::sys::clock::monotonic_ns();
                        session.exit = Some(Exit { status, usage, at_ns });
                        self.leaderless.push(index);
                        self.tell_exit(index);
                    } else {
                        session.orphans.retain(|orphan| orphan.pid != pid);
                    }
                }
                Reaped::NoneDead => {
                    self.childless = false;
                    break;
                }
                Reaped::NoneLeft => {
                    self.childless = true;
                    break;
                }
            }
        }
        if any {
            self.adopt_orphans();
            self.tell_ended();
            self.give_up_placeholders();
        }
    }

    /// Looks for children of ours that we didn't start, and finds out whose they are.
    pub(super) fn adopt_orphans(&mut self) {
        if self.childless {
            return;
        }
        let mut pids = std::mem::take(&mut self.pids);
        pids.clear();
        // Without /proc there is no orphan to be found, and no tree but its leader.
        let _ = process::children(&mut self.children, &mut pids);
        for pid in &pids {
            if self.sessions.owner_of(*pid).is_none() && !self.strays.contains(pid) {
                self.adopt(*pid);
            }
        }
        self.pids = pids;
    }

    fn adopt(&mut self, pid: i32) {
        let Some(stat) = process::stat(pid) else { return };
        let by_sid = self.sessions.iter().find(|(_, session)| {
            session.is_alive()
                && (session.pid == stat.session
                    || session.orphans.iter().any(|orphan| orphan.sid == stat.session))
        });
        let owner = by_sid
            .map(|(index, _)| index)
            .or_else(|| self.owner_by_marker(pid))
            .or_else(|| self.only_session());
        match owner {
            Some(index) => self.sessions.adopt(index, Orphan { pid, sid: stat.session }),
            None => drop(self.strays.insert(pid)),
        }
    }

    fn owner_by_marker(&mut self, pid: i32) -> Option<usize> {
        let mut environment = std::mem::take(&mut self.environment);
        process::environment(pid, ENVIRONMENT_BYTES_MAX, &mut environment);
        let until = Instant::now() + EXEC_PATIENCE;
        // In the middle of an exec the old environment is gone and the new one isn't there. Taken for a stray it would be
        // lost to its tree for good.
        while environment.is_empty() && process::is_in_exec(pid) && Instant::now() < until {
            std::thread::yield_now();
            process::environment(pid, ENVIRONMENT_BYTES_MAX, &mut environment);
        }
        let name = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(MARKER));
        let owner = name.and_then(|name| {
            let named = self
                .sessions
                .iter()
                .filter(|(_, session)| session.is_alive() && session.name.as_bytes() == name);
            // A name that is used again while the first tree lives: the later one.
            named.max_by_key(|(_, session)| session.process.serial).map(|(index, _)| index)
        });
        environment.clear();
        environment.shrink_to(4096);
        self.environment = environment;
        owner
    }

    fn only_session(&self) -> Option<usize> {
        let mut alive = self.sessions.iter().filter(|(_, session)| session.is_alive());
        let (index, _) = alive.next()?;
        alive.next().is_none().then_some(index)
    }

    /// Tells of every tree whose leader is reaped and that has nobody left.
    pub(super) fn tell_ended(&mut self) {
        let mut leaderless = std::mem::take(&mut self.leaderless);
        leaderless.retain(|index| !self.end_if_empty(*index));
        // What was pushed meanwhile: nothing, but nothing may be lost either.
        leaderless.append(&mut self.leaderless);
        self.leaderless = leaderless;
    }

    /// True exactly when it has ended.
    fn end_if_empty(&mut self, index: usize) -> bool {
        let Some(session) = self.sessions.get_mut(index) else { return true };
        if session.held {
            return false;
        }
        let occupied = match (&mut session.cgroup, &self.cgroups) {
            (Some(cgroup), Some(Some(cgroups))) => {
                cgroups.populated(cgroup)
                    && match cgroups.watch(cgroup) {
                        // Watched from here on; what happened before is seen by asking once more.
                        Ok(()) => cgroups.populated(cgroup),
                        Err(_) => true,
                    }
            }
            _ => !session.orphans.is_empty(),
        };
        if occupied {
            return false;
        }
        session.ended = true;
        session.end_inlet();
        let (placeholders, mounts) = (std::mem::take(&mut session.placeholders), session.mounts.take());
        let cgroup = session.cgroup.take();
        self.take_placeholders(placeholders, mounts);
        self.remove_cgroup(cgroup);
        self.tell_end(index);
        self.sessions.remove_if_done(index);
        true
    }

    /// Tells the kernel of a leader's exit, unless one has told of it already.
    pub(super) fn tell_exit(&mut self, index: usize) {
        let Some(session) = self.sessions.get(index) else { return };
        if let Some(Exit { status, usage, at_ns }) = session.exit
            && !(session.forgotten || session.acknowledged || session.held)
        {
            let (lane, process) = (session.lane, session.process);
            self.tell(lane, &ToKernel::Exited { process, status, usage, at_ns });
        }
    }

    /// Tells the kernel of a tree's end, unless one has told of it already.
    pub(super) fn tell_end(&mut self, index: usize) {
        let Some(session) = self.sessions.get(index) else { return };
        if session.ended && !(session.forgotten || session.end_acknowledged) {
            let (lane, process) = (session.lane, session.process);
            self.tell(lane, &ToKernel::TreeEnded { process });
        }
    }

    /// Everybody of a tree who is alive, parents before children; of those whose parent ended, who is adopted.
    pub(super) fn members(&mut self, index: usize) -> Vec<Member> {
        let Some(session) = self.sessions.get(index) else { return Vec::new() };
        if let (Some(cgroup), Some(Some(cgroups))) = (&session.cgroup, &self.cgroups) {
            let mut pids = Vec::new();
            cgroups.members(cgroup, &mut pids);
            let member = |pid: i32| {
                let stat = process::stat(pid).filter(|stat| !stat.dead())?;
                Some(Member { pid, stat, ours: self.sessions.owner_of(pid).is_some() })
            };
            return pids.into_iter().filter_map(member).collect();
        }
        let leader = session.exit.is_none().then_some(session.pid);
        let roots = leader.into_iter().chain(session.orphans.iter().map(|orphan| orphan.pid));
        let mut members: Vec<Member> =
            roots.filter_map(|pid| Some(Member { pid, stat: process::stat(pid)?, ours: true })).collect();
        let mut next = 0;
        while let Some(parent) = members.get(next).copied() {
            next += 1;
            self.pids.clear();
            process::threads_children(parent.pid, parent.stat.threads, &mut self.pids);
            for pid in &self.pids {
                // One with another parent has the pid of a child that is gone since.
                if let Some(stat) = process::stat(*pid).filter(|stat| stat.parent == parent.pid) {
                    members.push(Member { pid: *pid, stat, ours: false });
                }
            }
        }
        members.retain(|member| !member.stat.dead());
        members
    }

    /// SIGKILL to whoever nothing tells the session of.
    pub(super) fn kill_strays(&mut self) {
        self.adopt_orphans();
        for pid in &self.strays {
            // A stray is a child of ours until it is reaped; one that is dead already takes no harm.
            let _ = process::signal_child(*pid, libc::SIGKILL);
        }
    }
}
