//! Signals: that everybody of a tree gets one, and those too who are forked meanwhile.
//!
//! A tree is gone through until a look at it finds nobody new. The first look is taken when the signal is asked for, the
//! others when all that has come with it was begun: each of them needs the children of this keeper, and one list of them
//! serves all trees.
//!
//! Invariant: an errand is over only after a look that was taken at a list made after its last signal was sent. None is
//! under way when the keeper waits, and none when anything is done that starts, forgets or signals in another way.

use crate::command::Scope;
use crate::keeper::main::Keeper;
use crate::keeper::protocol::{ToKeeper, ToKernel};
use crate::keeper::tree::Member;
use crate::key::Ticket;
use crate::sys::process;
use std::collections::HashSet;
use std::io;

/// How often a tree is walked again for members that were forked meanwhile.
const ROUNDS_MAX: usize = 64;

/// A signal that goes to a tree.
#[derive(Debug)]
pub(super) struct Errand {
    index: usize,
    signal: i32,
    /// Whom to tell how many got it.
    asked: Option<(usize, Ticket)>,
    /// Who had it: pid and start time.
    told: HashSet<(i32, u64)>,
    sent: u32,
    refused: Option<i32>,
    over: bool,
}

impl Errand {
    fn outcome(&self) -> Result<u32, i32> {
        match self.refused {
            Some(errno) if self.sent == 0 => Err(errno),
            _ => Ok(self.sent),
        }
    }
}

/// True exactly when errands may go on behind such a request.
fn leaves_trees_alone(request: &ToKeeper<'_>) -> bool {
    match request {
        ToKeeper::Acknowledge { .. }
        | ToKeeper::Annotate { .. }
        | ToKeeper::Blockers { .. }
        | ToKeeper::CloseChannel { .. }
        | ToKeeper::DropOutlet { .. }
        | ToKeeper::DropInlet { .. }
        | ToKeeper::HoldInlet { .. }
        | ToKeeper::HoldInput { .. }
        | ToKeeper::HoldOutlet { .. }
        | ToKeeper::HoldFramed { .. }
        | ToKeeper::HoldReactor
        | ToKeeper::HoldStream { .. } => true,
        ToKeeper::Hello { .. }
        | ToKeeper::Spawn(_)
        | ToKeeper::Contain { .. }
        | ToKeeper::Signal { .. }
        | ToKeeper::Forget { .. }
        | ToKeeper::Bulk { .. }
        | ToKeeper::Leave
        | ToKeeper::Several { .. }
        | ToKeeper::Measure { .. }
        | ToKeeper::Placed { .. }
        | ToKeeper::Join { .. }
        | ToKeeper::HoldProducer { .. }
        | ToKeeper::EndProducer { .. }
        | ToKeeper::Shutdown { .. } => false,
    }
}

impl Keeper {
    /// Takes an errand from a request if it is one, and else ends those that may not go on behind it. True: taken.
    pub(super) fn take_errand(
        &mut self,
        lane: usize,
        request: &ToKeeper<'_>,
        errands: &mut Vec<Errand>,
    ) -> bool {
        let ToKeeper::Signal { process, signal, scope: Scope::Tree, ticket } = request else {
            if !leaves_trees_alone(request) {
                self.end_errands(errands);
            }
            return false;
        };
        let Some(index) = self.sessions.find(*process) else { return false };
        if errands.iter().any(|errand| errand.index == index) {
            // One after the other.
            self.end_errands(errands);
        }
        if errands.is_empty() {
            self.adopt_orphans();
        }
        let errand = self.begin_errand(index, *signal, ticket.map(|ticket| (lane, ticket)));
        errands.push(errand);
        true
    }

    fn begin_errand(&mut self, index: usize, signal: i32, asked: Option<(usize, Ticket)>) -> Errand {
        let (told, over) = (HashSet::new(), self.sessions.get(index).is_none_or(|session| session.ended));
        let mut errand = Errand { index, signal, asked, told, sent: 0, refused: None, over };
        if !over {
            self.look_again(&mut errand, true);
        }
        errand
    }

    /// Signals who hasn't had it yet. Nobody: it is over.
    fn look_again(&mut self, errand: &mut Errand, first: bool) {
        let mut members = self.members(errand.index);
        members.retain(|member| errand.told.insert((member.pid, member.stat.start_ticks)));
        errand.over = members.is_empty();
        if first && errand.signal == libc::SIGKILL && !errand.over && self.kill_cgroup(errand.index) {
            (errand.sent, errand.over) = (members.len() as u32, true);
            return;
        }
        for member in &members {
            match deliver(member, errand.signal) {
                Ok(true) => errand.sent += 1,
                Ok(false) => {}
                Err(error) => errand.refused = Some(errno(&error)),
            }
        }
    }

    /// Looks at the trees again until nobody of them is new, and tells.
    pub(super) fn end_errands(&mut self, errands: &mut Vec<Errand>) {
        for _ in 1..ROUNDS_MAX {
            if errands.iter().all(|errand| errand.over) {
                break;
            }
            self.adopt_orphans();
            for errand in errands.iter_mut().filter(|errand| !errand.over) {
                self.look_again(errand, false);
            }
        }
        for errand in errands.drain(..) {
            if let Some((lane, ticket)) = errand.asked {
                self.tell(lane, &ToKernel::Signalled { ticket, outcome: errand.outcome() });
            }
        }
    }

    /// Sends a signal to the leader; how many got it.
    pub(super) fn signal_leader(&mut self, index: usize, signal: i32) -> Result<u32, i32> {
        let Some(session) = self.sessions.get(index) else { return Ok(0) };
        let (pid, alive) = (session.pid, session.exit.is_none());
        let Some(stat) = process::stat(pid).filter(|stat| alive && !stat.dead()) else {
            return Ok(0);
        };
        let leader = Member { pid, stat, ours: true };
        deliver(&leader, signal).map(u32::from).map_err(|error| errno(&error))
    }

    /// To every tree.
    pub(super) fn signal_all(&mut self, signal: i32) {
        let alive: Vec<usize> =
            self.sessions.iter().filter(|(_, session)| session.is_alive()).map(|(index, _)| index).collect();
        self.adopt_orphans();
        let mut errands: Vec<Errand> =
            alive.into_iter().map(|index| self.begin_errand(index, signal, None)).collect();
        // Who can't be signalled can't be ended either; nobody is left to be told.
        self.end_errands(&mut errands);
    }

    fn kill_cgroup(&self, index: usize) -> bool {
        let cgroup = self.sessions.get(index).and_then(|session| session.cgroup.as_ref());
        matches!((cgroup, &self.cgroups), (Some(cgroup), Some(Some(cgroups))) if cgroups.kill(cgroup).is_ok())
    }
}

/// True: sent. False: it is gone.
fn deliver(member: &Member, signal: i32) -> io::Result<bool> {
    let send = |signal: i32| match member.ours {
        true => process::signal_child(member.pid, signal).map(|()| true),
        false => process::signal_member(member.pid, signal, |now| now.start_ticks == member.stat.start_ticks),
    };
    let sent = match send(signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        sent => sent,
    }?;
    if sent && signal == libc::SIGTERM && member.stat.stopped() {
        // A stopped process would never see it.
        send(libc::SIGCONT)?;
    }
    Ok(sent)
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
