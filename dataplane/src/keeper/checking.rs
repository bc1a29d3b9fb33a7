//! Children that stand still at exec while what they execute is read.
//!
//! ```text
//!  spawned, held ─▶ read, a slice a round ─▶ right: let go ─▶ Measured, Contained, Spawned
//!                                         └▶ wrong, killed, unreadable, kernel gone: killed ─▶ Measured, SpawnFailed
//! ```
//!
//! A large program takes many rounds, between which everybody else is served. A held session is in the table like any
//! other, so signals find it and its pid is nobody else's, but no kernel is told of it: it runs or never was. Invariant:
//! every held session has exactly one check.

use crate::command::ProgramCheck;
use crate::control::{Program, SpawnFailure, SpawnStage};
use crate::keeper::main::Keeper;
use crate::keeper::protocol::ToKernel;
use crate::keeper::session::Session;
use crate::sys::process;
use crate::sys::stopped::{self, Executed};
use kairo_sandbox::containment::Finding;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;

/// Read of one program in one round.
const SLICE_BYTES: usize = 512 * 1024;

/// One program that is being read.
#[derive(Debug)]
struct Check {
    session: usize,
    finding: Option<Finding>,
    wish: ProgramCheck,
    executed: Executed,
    digest: Sha256,
    at: u64,
}

/// All of them; each gets a slice in turn.
#[derive(Debug, Default)]
pub(super) struct Checks {
    queue: VecDeque<Check>,
    buffer: Vec<u8>,
}

impl Checks {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Check {
    /// Reads a slice. True exactly when that was the last one.
    fn read_on(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        buffer.resize(SLICE_BYTES, 0);
        let read = match self.executed.file.read_at(buffer, self.at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            other => other?,
        };
        self.digest.update(&buffer[..read]);
        self.at += read as u64;
        Ok(read == 0)
    }

    fn program(&self) -> Program {
        Program {
            path: self.executed.path.clone(),
            digest: self.digest.clone().finalize().into(),
            weakness: self.executed.weakness,
        }
    }
}

impl Keeper {
    /// Takes in a child that stands still; `argv` is what it was given.
    pub(super) fn hold(
        &mut self,
        mut session: Session,
        finding: Option<Finding>,
        wish: ProgramCheck,
        argv: &[u8],
    ) {
        session.held = true;
        let executed = stopped::executed(session.pid, argv);
        let session = self.sessions.insert(session);
        match executed {
            Ok(executed) if executed.weakness.is_some() && wish.wanted.is_some() && !wish.accept_weaker => {
                self.drop_held(session, SpawnFailure { stage: SpawnStage::Weaker, errno: 0 });
            }
            Ok(executed) => {
                let check = Check { session, finding, wish, executed, digest: Sha256::new(), at: 0 };
                self.checks.queue.push_back(check);
            }
            Err(error) => self.drop_held(session, unreadable(&error)),
        }
    }

    /// Reads some of one program, and concludes what is to be concluded.
    pub(super) fn read_programs(&mut self) {
        let Some(mut check) = self.checks.queue.pop_front() else { return };
        if self.sessions.get(check.session).is_none_or(|session| session.exit.is_some()) {
            return self.drop_held(check.session, gone());
        }
        match check.read_on(&mut self.checks.buffer) {
            Ok(false) => self.checks.queue.push_back(check),
            Ok(true) => self.conclude(check),
            Err(error) => self.drop_held(check.session, unreadable(&error)),
        }
        if self.checks.queue.is_empty() {
            self.checks.buffer = Vec::new();
        }
    }

    fn conclude(&mut self, check: Check) {
        let Some(session) = self.sessions.get(check.session) else { return };
        let (process, lane, pid) = (session.process, session.lane, session.pid);
        let program = check.program();
        let right = check.wish.wanted.is_none_or(|wanted| wanted == program.digest);
        self.tell(lane, &ToKernel::Measured { process, program });
        if !right {
            return self.drop_held(check.session, SpawnFailure { stage: SpawnStage::Program, errno: 0 });
        }
        if stopped::release(pid).is_err() {
            return self.drop_held(check.session, gone());
        }
        if let Some(finding) = check.finding {
            self.tell(lane, &ToKernel::Contained { process, finding });
        }
        if let Some(session) = self.sessions.get_mut(check.session) {
            session.held = false;
        }
        self.announce(check.session);
    }

    /// Nobody is there to be told of what is held.
    pub(super) fn drop_all_held(&mut self) {
        while let Some(check) = self.checks.queue.pop_front() {
            self.drop_held(check.session, gone());
        }
    }

    /// Ends a child that never ran, and all there is of it.
    fn drop_held(&mut self, index: usize, failure: SpawnFailure) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let (process, lane, pid) = (session.process, session.lane, session.pid);
        if session.exit.is_none() {
            // Ours until it is reaped; one that is dead already takes no harm.
            let _ = process::signal_child(pid, libc::SIGKILL);
            let _ = process::wait_for(pid);
            self.sessions.release_pid(pid);
        }
        self.leaderless.retain(|leaderless| *leaderless != index);
        if let Some(session) = self.sessions.get_mut(index) {
            (session.forgotten, session.ended) = (true, true);
            let cgroup = session.cgroup.take();
            self.remove_cgroup(cgroup);
        }
        self.sessions.remove_if_done(index);
        self.tell(lane, &ToKernel::SpawnFailed { process, failure });
    }
}

/// It was ended while it stood still.
fn gone() -> SpawnFailure {
    SpawnFailure { stage: SpawnStage::Measure, errno: libc::ESRCH }
}

fn unreadable(error: &io::Error) -> SpawnFailure {
    SpawnFailure { stage: SpawnStage::Measure, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}
