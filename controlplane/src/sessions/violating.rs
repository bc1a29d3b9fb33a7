//! What contained processes were denied, told as events: `kairo.security.violation`.
//!
//! Whoever listens to the operating system tells of it ([`Kernel::violated`]) and counts repetitions; here it is found out
//! whose it is. That a filter ended a leader is known from its exit as well, and told once. Invariant: only processes with a
//! sandbox of ours violate it; others' refusals are nobody's here.

use crate::auth::principal::{Principal, Skill};
use crate::calls::Turn;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::sessions::containing::Containing;
use kairo_dataplane::command::{Command, Commands, Spawn};
use kairo_dataplane::control::{ExitStatus, Lineage, Moment};
use kairo_sandbox::filter::Groups;
use kairo_sandbox::violation::{self, Denied, Violation, What};
use kairo_wire::event::{SecurityViolation, ViolationMechanism};

/// How many of those that exited last are known by their pids: a refusal may be heard of after the exit it led to.
pub(crate) const RECENT_MAX: usize = 64;
/// On Linux; nobody else has a filter.
const SIGSYS: i32 = 31;

/// What it is denied is heard before it runs.
pub(crate) fn have_watched(turn: &mut Turn<'_>, spawn: &Spawn) {
    if spawn.containment.as_ref().is_some_and(|containment| containment.later.log) {
        turn.out.push(Command::Watch);
    }
}

impl Kernel {
    /// A process was denied something, so many times; `lineage` is where it stood when that was heard.
    pub fn violated(
        &mut self,
        at: Moment,
        denied: &Denied,
        lineage: &Lineage,
        count: u64,
        out: &mut Commands,
    ) {
        let turn = &mut Turn { at, here: None, out };
        let Some(serial) = self.violator(denied.pid, lineage) else { return };
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        if matches!(denied.what, What::Call { killed: true, .. }) && process.pid == denied.pid {
            if process.told.killed {
                return;
            }
            process.told.killed = true;
        }
        let groups = match &process.contained {
            Containing::By(contained) => contained.containment.filter,
            Containing::Before => Groups::all(),
            Containing::Not => return,
        };
        self.tell_violation(turn, serial, Some(denied.pid), violation::describe(&denied.what, groups), count);
    }

    /// Whose it is: a leader's, or that of one it descends from, or of the session its environment names.
    fn violator(&self, pid: i32, lineage: &Lineage) -> Option<u64> {
        let leader = |pid: i32| {
            let recent = self.state.recent.iter().rev().find(|(recent, _)| *recent == pid);
            let alive = self.state.leaders.get(&(pid as u64)).copied();
            alive.or(recent.map(|(_, serial)| *serial))
        };
        leader(pid).or_else(|| {
            let Lineage::Child { ancestors, session } = lineage else { return None };
            let above = ancestors.iter().find_map(|pid| leader(*pid));
            above.or_else(|| self.state.sessions.get(session.as_deref()?).copied())
        })
    }

    /// A leader has exited; by SIGSYS only if its filter has ended it, or somebody sent it that.
    pub(crate) fn leader_denied(&mut self, turn: &mut Turn<'_>, serial: u64, status: ExitStatus) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let Containing::By(contained) = &process.contained else { return };
        if contained.containment.later.log {
            self.state.recent.push_back((process.pid, serial));
            if self.state.recent.len() > RECENT_MAX {
                self.state.recent.pop_front();
            }
        }
        let ended = matches!(status, ExitStatus::Signal { signal: SIGSYS, .. });
        let sent = process.signalled.as_ref().is_some_and(|(signal, _)| *signal == SIGSYS);
        if !ended || sent || process.told.killed || contained.containment.filter.is_empty() {
            return;
        }
        process.told.killed = true;
        let pid = process.pid;
        self.tell_violation(turn, serial, Some(pid), violation::killed(), 1);
    }

    fn tell_violation(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        pid: Option<i32>,
        violation: Violation,
        count: u64,
    ) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let session = process.session.as_str().to_owned();
        let uid = process.run_uid.unwrap_or(self.config.owner_uid);
        let skill = Skill { uid, session: Some(session.as_str().into()), name: process.creator.name.clone() };
        let Violation { mechanism, rule, subject, hint } = violation;
        let event = SecurityViolation {
            id: process.id.clone(),
            session,
            pid,
            principal: Principal::Skill(skill).told(self.config.owner_uid),
            mechanism: match mechanism {
                violation::Mechanism::Seccomp => ViolationMechanism::Seccomp,
                violation::Mechanism::Landlock => ViolationMechanism::Landlock,
            },
            rule,
            subject,
            hint,
            count,
        };
        let (creator, trace) = (process.creator.clone(), process.story());
        self.publish(turn, Audience::Of(creator), &trace, &event);
    }
}
