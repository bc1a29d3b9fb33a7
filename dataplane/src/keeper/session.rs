//! What the keeper knows of one process it started, and the table of all.
//!
//! A session goes through: leader alive → leader reaped → tree ended, and leaves the table when it is both ended
//! and forgotten. Its kept descriptors go earlier, one by one by `CloseChannel` or all by `Forget`.

use crate::control::{ExitStatus, Usage};
use crate::keeper::protocol::{End, Limit};
use crate::key::{ProcessKey, ReactorId};
use crate::sys::Cgroup;
use kairo_sandbox::enforce::Placeholders;
use slab::Slab;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// A kernel-side end.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) fd: OwnedFd,
    /// Size in force; 0 for a PTY.
    pub(super) pipe_bytes: u32,
}

/// How and when a leader ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit {
    pub(super) status: ExitStatus,
    pub(super) usage: Usage,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub(super) at_ns: u64,
}

/// A stream's memory.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) end: End,
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) memory: OwnedFd,
}

/// What a reader is given bytes by.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) process: ProcessKey,
    pub(super) serial: u64,
    pub(super) end: End,
    /// In frames: not every kernel can go on with it.
    pub(super) framed: bool,
    pub(super) note: Box<[u8]>,
    pub(super) fd: OwnedFd,
    /// Where it has come to.
    pub(super) place: OwnedFd,
}

/// What a stdin is written by.
#[derive(Debug)]
pub(super) struct Inlet {
    pub(super) fd: OwnedFd,
    /// Where it is until somebody opens it.
    pub(super) path: PathBuf,
    pub(super) until_ns: u64,
    pub(super) closes: bool,
    pub(super) note: Box<[u8]>,
}

/// What a client writes a process's output by, that has no child.
#[derive(Debug, Default)]
pub(super) struct Producer {
    /// Where it writes in place: the ring, its page and our end of its doorbell; else it has a pipe, among the ends.
    pub(super) in_place: Vec<OwnedFd>,
    /// Nobody has the other end of its pipe any more.
    pub(super) gone: bool,
}

/// A descendant that became our child when its parent ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orphan {
    pub(super) pid: i32,
    /// Its session (setsid(2)): whoever shares it belongs to the same tree.
    pub(super) sid: i32,
}

/// One process and its tree.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) process: ProcessKey,
    /// Where its news goes.
    pub(super) lane: usize,
    pub(super) name: Box<str>,
    /// The leader; its process group and its session (setsid) have the same number.
    pub(super) pid: i32,
    pub(super) start_ticks: u64,
    pub(super) terminal: bool,
    pub(super) ends: [Option<Kept>; 3],
    pub(super) rings: Vec<Ring>,
    /// How many readers wait for a first byte of each output.
    pub(super) blockers: [u32; 2],
    /// What waits for its stdin.
    pub(super) inbox: Option<OwnedFd>,
    pub(super) outlets: Vec<Outlet>,
    pub(super) inlet: Option<Inlet>,
    /// There is no child and no tree: a client writes its output.
    pub(super) producer: Option<Producer>,
    pub(super) record: Box<[u8]>,
    pub(super) note: Box<[u8]>,
    pub(super) limits: Vec<Limit>,
    /// Set when the leader is reaped, from when on its pid means nothing.
    pub(super) exit: Option<Exit>,
    /// True exactly when a kernel has told of the exit.
    pub(super) acknowledged: bool,
    /// True exactly when a kernel has told of the tree's end.
    pub(super) end_acknowledged: bool,
    pub(super) forgotten: bool,
    /// True exactly when the leader is reaped and nobody of the tree is left.
    pub(super) ended: bool,
    pub(super) orphans: Vec<Orphan>,
    pub(super) cgroup: Option<Cgroup>,
    /// True exactly while its leader stands still at exec: no kernel knows of it yet.
    pub(super) held: bool,
    /// What stands where its tree may make nothing.
    pub(super) placeholders: Placeholders,
    /// Its mount namespace, if that matters.
    pub(super) mounts: Option<u64>,
}

impl Session {
    /// One that has nobody and nothing yet.
    pub(super) fn of_nobody(process: ProcessKey, lane: usize, name: &str, record: &[u8]) -> Session {
        Session {
            process,
            lane,
            name: name.into(),
            pid: 0,
            start_ticks: 0,
            terminal: false,
            ends: [None, None, None],
            rings: Vec::new(),
            blockers: [0; 2],
            inbox: None,
            outlets: Vec::new(),
            inlet: None,
            producer: None,
            record: record.into(),
            note: Box::default(),
            limits: Vec::new(),
            exit: None,
            acknowledged: false,
            end_acknowledged: false,
            forgotten: false,
            ended: false,
            orphans: Vec::new(),
            cgroup: None,
            held: false,
            placeholders: Placeholders::default(),
            mounts: None,
        }
    }

    /// Keeps an outlet, if all of it came.
    pub(super) fn hold_outlet(
        &mut self,
        (serial, end, framed): (u64, End, bool),
        note: &[u8],
        fds: &mut Vec<OwnedFd>,
    ) {
        let (Some(place), Some(fd)) = (fds.pop(), fds.pop()) else { return };
        self.outlets.retain(|outlet| outlet.serial != serial);
        let (process, note) = (self.process, note.into());
        self.outlets.push(Outlet { process, serial, end, framed, note, fd, place });
    }

    /// Nobody is left who could read its stdin. A name that nobody has opened is of no use to anybody.
    pub(super) fn end_inlet(&mut self) {
        if let Some(inlet) = self.inlet.take() {
            let _ = std::fs::remove_file(inlet.path);
        }
    }

    /// A tree of it may have somebody alive.
    pub(super) fn is_alive(&self) -> bool {
        !self.ended && self.producer.is_none()
    }

    /// A client writes it, or may.
    pub(super) fn is_written(&self) -> bool {
        !self.ended && self.producer.is_some()
    }

    /// The pipe by which it is written, as far as is known.
    pub(super) fn written_by(&self) -> Option<BorrowedFd<'_>> {
        self.producer.as_ref().filter(|producer| !producer.gone && !self.ended)?;
        self.ends[End::Stdout as usize].as_ref().map(|kept| kept.fd.as_fd())
    }

    /// Lets go of everything that is kept for it.
    pub(super) fn let_go(&mut self) {
        self.forgotten = true;
        self.ends = [None, None, None];
        self.rings = Vec::new();
        self.inbox = None;
        self.outlets = Vec::new();
        self.inlet = None;
        if let Some(producer) = &mut self.producer {
            producer.in_place = Vec::new();
            self.ended = true;
        }
        self.record = Box::default();
        self.note = Box::default();
    }
}

/// All sessions, by name and by the pids that are ours to reap.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    table: Slab<Session>,
    by_key: HashMap<ProcessKey, usize>,
    by_pid: HashMap<i32, usize>,
}

impl Sessions {
    pub(super) fn insert(&mut self, session: Session) -> usize {
        let (process, pid) = (session.process, session.pid);
        let index = self.table.insert(session);
        self.by_key.insert(process, index);
        self.by_pid.insert(pid, index);
        index
    }

    pub(super) fn find(&self, process: ProcessKey) -> Option<usize> {
        self.by_key.get(&process).copied()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Session> {
        self.table.get(index)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Session> {
        self.table.get_mut(index)
    }

    pub(super) fn by_key_mut(&mut self, process: ProcessKey) -> Option<&mut Session> {
        self.table.get_mut(self.find(process)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Session)> {
        self.table.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// True exactly when somebody is being given what one of them wrote, and would take our end for the end of it.
    pub(super) fn have_outlets(&self) -> bool {
        self.table.iter().any(|(_, session)| !session.outlets.is_empty())
    }

    /// True exactly when a client writes one of them, and would take our end for the end of it.
    pub(super) fn are_written(&self) -> bool {
        let is_open = |session: &Session| session.producer.as_ref().is_some_and(|producer| !producer.gone);
        self.table.iter().any(|(_, session)| session.is_written() && is_open(session))
    }

    /// Gives every session a place among `lanes` lanes.
    pub(super) fn rehome(&mut self, lanes: usize) {
        self.by_key.clear();
        for (index, session) in &mut self.table {
            session.lane = usize::from(session.process.home.0) % lanes.max(1);
            session.process.home = ReactorId(session.lane as u16);
            for outlet in &mut session.outlets {
                outlet.process = session.process;
            }
            self.by_key.insert(session.process, index);
        }
    }

    /// Whose child `pid` is, if it is known.
    pub(super) fn owner_of(&self, pid: i32) -> Option<usize> {
        self.by_pid.get(&pid).copied()
    }

    /// A reaped pid is nobody's.
    pub(super) fn release_pid(&mut self, pid: i32) -> Option<usize> {
        self.by_pid.remove(&pid)
    }

    pub(super) fn adopt(&mut self, index: usize, orphan: Orphan) {
        if let Some(session) = self.table.get_mut(index) {
            session.orphans.push(orphan);
            self.by_pid.insert(orphan.pid, index);
        }
    }

    /// Takes a session out if it is forgotten and ended.
    pub(super) fn remove_if_done(&mut self, index: usize) -> Option<Session> {
        let session = self.table.get(index)?;
        if !(session.forgotten && session.ended) {
            return None;
        }
        self.by_key.remove(&session.process);
        let session = self.table.remove(index);
        if self.table.is_empty() {
            // Nothing is left to name: give back what a busy hour took.
            *self = Sessions::default();
        }
        Some(session)
    }
}
