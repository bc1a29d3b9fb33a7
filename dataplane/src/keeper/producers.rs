//! What clients write streams by, held as a child's output is; only there is no child.
//!
//! ```text
//!  HoldProducer ──▶ written ──EndProducer──▶ exited and ended: told, acknowledged, forgotten as a process is
//! ```
//!
//! Whoever writes sees an end when nobody has the other end any more, so a kernel that dies is none. That a writer is gone is seen
//! by whoever reads: a kernel, the next one if need be. Invariant: a session with a producer has no pid and no tree, and is
//! ended exactly when nothing is held by which it could be written, but for what was unread when this keeper gave up.

use crate::control::{ExitStatus, Usage};
use crate::keeper::main::Keeper;
use crate::keeper::protocol::End;
use crate::keeper::session::{Exit, Kept, Producer, Ring, Session};
use crate::key::ProcessKey;
use crate::sys::clock::monotonic_ns;
use kairo_shm::reader::Reader;
use std::os::fd::{AsFd, OwnedFd};

/// How a stream ends that somebody puts an end to.
const ENDED: ExitStatus = ExitStatus::Signal { signal: libc::SIGTERM, core: false };

impl Keeper {
    /// Holds what a client is about to write by.
    pub(super) fn hold_producer(
        &mut self,
        (lane, process): (usize, ProcessKey),
        name: &str,
        pipe_bytes: Option<u32>,
        record: &[u8],
        fds: &mut Vec<OwnedFd>,
    ) {
        let (mut producer, mut session) =
            (Producer::default(), Session::of_nobody(process, lane, name, record));
        match pipe_bytes {
            Some(pipe_bytes) => {
                session.ends[End::Stdout as usize] = fds.pop().map(|fd| Kept { fd, pipe_bytes });
            }
            None => producer.in_place = std::mem::take(fds),
        }
        session.producer = Some(producer);
        let pid = session.pid;
        self.sessions.insert(session);
        // It is nobody's.
        self.sessions.release_pid(pid);
    }

    /// Lets go of what it is written by, and tells its end.
    pub(super) fn end_producer(&mut self, index: usize, status: ExitStatus) {
        let Some(session) = self.sessions.get_mut(index).filter(|session| session.is_written()) else {
            return;
        };
        session.end_written(status);
        session.ends = [None, None, None];
        if let Some(producer) = &mut session.producer {
            producer.in_place = Vec::new();
        }
        self.tell_exit(index);
        self.tell_end(index);
        self.sessions.remove_if_done(index);
    }

    /// Nobody writes it any more. It ends with the next kernel, which takes what is left of it.
    pub(super) fn lose_producer(&mut self, index: usize) {
        if let Some(producer) = self.sessions.get_mut(index).and_then(|session| session.producer.as_mut()) {
            producer.gone = true;
        }
    }

    fn written(&self) -> Vec<usize> {
        let written = self.sessions.iter().filter(|(_, session)| session.is_written());
        written.map(|(index, _)| index).collect()
    }

    /// Ends them all.
    pub(super) fn end_producers(&mut self) {
        for index in self.written() {
            self.end_producer(index, ENDED);
        }
    }

    /// Nobody has come for them. What is unread is kept.
    pub(super) fn give_up_producers(&mut self) {
        for index in self.written() {
            if let Some(session) = self.sessions.get_mut(index) {
                let gone = session.producer.as_ref().is_some_and(|producer| producer.gone);
                session.end_written(if gone { ExitStatus::Code(0) } else { ENDED });
                // Of one that its kernel had in place there is only an account.
                let keeps =
                    |ring: &Ring| Reader::open(ring.memory.as_fd()).is_ok_and(|it| it.generation() > 0);
                let in_place =
                    session.producer.as_ref().is_some_and(|producer| !producer.in_place.is_empty());
                session.rings.retain(|ring| !in_place || keeps(ring));
            }
        }
    }

    /// A kernel that knows nothing of them is next: they end without it.
    pub(super) fn drop_producers(&mut self) {
        let all = self.sessions.iter().filter(|(_, session)| session.producer.is_some());
        let all: Vec<usize> = all.map(|(index, _)| index).collect();
        for index in all {
            if let Some(session) = self.sessions.get_mut(index) {
                session.let_go();
            }
            self.sessions.remove_if_done(index);
        }
    }
}

impl Session {
    fn end_written(&mut self, status: ExitStatus) {
        self.exit = Some(Exit { status, usage: Usage::default(), at_ns: monotonic_ns() });
        self.ended = true;
    }
}
