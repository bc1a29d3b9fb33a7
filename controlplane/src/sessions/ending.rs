//! What is done to a process: signals, stdin, the terminal's size; and the way from SIGTERM to SIGKILL.
//!
//! ```text
//!   kill ──SIGTERM──▶ grace ──exited / tree gone──▶ nothing
//!                       └───over──▶ SIGKILL
//! ```
//!
//! A deed asked of a process that is still being started is kept until it runs. Invariant: a grace timer is armed
//! exactly while a kill waits for its victims.

use crate::auth::principal::Skill;
use crate::calls::Turn;
use crate::clock::after_ms;
use crate::kernel::Kernel;
use crate::sessions::launch::keeper_lost;
use crate::state::{Call, Deed, Pending, Phase, Timer};
use kairo_dataplane::command::{Command, Scope};
use kairo_dataplane::control::{Failure, Outcome};
use kairo_dataplane::key::{ConnectionKey, Ticket, TimerKey};
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::options::SignalName;
use kairo_wire::methods::process::{
    KillResult, KillStatus, PauseResult, PauseStatus, ResizeResult, ResizeStatus, ResumeResult, ResumeStatus,
    SignalResult, SignalStatus, StdinCloseResult, StdinCloseStatus, StdinWriteResult, StdinWriteStatus,
};
use kairo_wire::methods::status::{EndCause, EndedBy};
use kairo_wire::methods::system::{self, PrincipalKind};

/// SIGKILL (POSIX).
pub(crate) const SIGKILL: i32 = 9;
/// SIGTERM (POSIX).
pub(crate) const SIGTERM: i32 = 15;

/// A kill under way.
#[derive(Clone, Debug)]
pub(crate) struct Killing {
    /// Rings when the grace is over; none once SIGKILL was sent.
    pub timer: Option<TimerKey>,
    /// When that is, CLOCK_MONOTONIC nanoseconds.
    pub deadline_ns: u64,
    /// Whom.
    pub scope: Scope,
}

impl Kernel {
    /// The number a name has on this system.
    pub(crate) fn signal(&self, name: &'static str) -> i32 {
        (self.config.numbers.signal)(&SignalName::Name(name))
    }

    /// The principal of a connection, as it is told to clients.
    pub(crate) fn principal_told(&self, connection: ConnectionKey) -> system::Principal {
        self.principal(connection).told(self.config.owner_uid)
    }

    /// Who ends something through `connection`, and why.
    pub(crate) fn ended_by(&self, connection: ConnectionKey, cause: EndCause) -> EndedBy {
        EndedBy { cause, principal: Some(self.principal_told(connection)) }
    }

    /// Gives the command of a parked deed, or answers it at once if there is nothing left to do it to.
    pub(crate) fn act(&mut self, turn: &mut Turn<'_>, ticket: u64) {
        let Some(Call { connection, pending: Pending::Deed { process, deed, sent }, .. }) =
            self.state.calls.get_mut(&ticket)
        else {
            return;
        };
        let (connection, serial, deed) = (*connection, *process, deed.clone());
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        if process.phase == Phase::Starting {
            process.deferred.push(ticket);
            return;
        }
        *sent = true;
        let key = process.key;
        let ticket = Ticket(ticket);
        match deed {
            Deed::Kill { signal, grace_ms, scope } => {
                let by = self.ended_by(connection, EndCause::Kill);
                self.kill(turn, serial, signal, grace_ms, scope, by, Some(ticket));
            }
            Deed::Signal { signal, scope } => {
                let by = self.ended_by(connection, EndCause::Signal);
                self.note_signal(serial, signal, by);
                self.annotate(turn, serial, usize::MAX);
                turn.out.push(Command::Signal { process: key, signal, scope, ticket: Some(ticket) });
            }
            Deed::Pause => {
                let signal = self.signal("STOP");
                turn.out.push(Command::Signal {
                    process: key,
                    signal,
                    scope: Scope::Tree,
                    ticket: Some(ticket),
                });
            }
            Deed::Resume => {
                let signal = self.signal("CONT");
                turn.out.push(Command::Signal {
                    process: key,
                    signal,
                    scope: Scope::Tree,
                    ticket: Some(ticket),
                });
            }
            Deed::Write { data, key: write_key } => {
                turn.out.push(Command::Write { process: key, data, key: write_key, ticket });
            }
            Deed::CloseStdin => turn.out.push(Command::CloseStdin { process: key, ticket }),
            Deed::OpenStdin { inlet } => turn.out.push(Command::HandStdin { process: key, inlet, ticket }),
            Deed::Tune { tuning } => turn.out.push(Command::Tune { process: key, tuning, ticket }),
            Deed::Resize { size } => turn.out.push(Command::Resize { process: key, size, ticket }),
        }
    }

    /// Remembers a signal a client sent, to know later whose it was.
    fn note_signal(&mut self, serial: u64, signal: i32, by: EndedBy) {
        let stops = [self.signal("STOP"), self.signal("TSTP")].contains(&signal);
        let continues = signal == self.signal("CONT");
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        process.paused = (process.paused || stops) && !continues;
        process.signalled = Some((signal, by));
    }

    /// Ends a process: a signal, and SIGKILL if that is not heeded in time.
    #[expect(clippy::too_many_arguments, reason = "a kill's parts; a struct would name them once more")]
    pub(crate) fn kill(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        signal: i32,
        grace_ms: u64,
        scope: Scope,
        by: EndedBy,
        ticket: Option<Ticket>,
    ) {
        let cont = self.signal("CONT");
        let noted_at = turn.out.list.len();
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let key = process.key;
        if process.phase == Phase::Running {
            process.ended_by = Some(by);
        }
        let final_at_once = signal == SIGKILL || grace_ms == 0;
        let signal = if final_at_once { SIGKILL } else { signal };
        turn.out.push(Command::Signal { process: key, signal, scope, ticket });
        if process.paused && !final_at_once {
            // A stopped process heeds nothing but SIGKILL.
            process.paused = false;
            turn.out.push(Command::Signal { process: key, signal: cont, scope: Scope::Tree, ticket: None });
        }
        let before = process.killing.take();
        let at_ns = if final_at_once { turn.at.monotonic_ns } else { after_ms(turn.at, grace_ms) };
        let (deadline_ns, scope) = match &before {
            // Patience only shrinks, and what is meant only grows.
            Some(already) => {
                let whole = already.scope == Scope::Tree || scope == Scope::Tree;
                (already.deadline_ns.min(at_ns), if whole { Scope::Tree } else { Scope::Leader })
            }
            None => (at_ns, scope),
        };
        let spent = final_at_once || before.as_ref().is_some_and(|already| already.timer.is_none());
        if let Some(timer) = before.and_then(|already| already.timer) {
            self.disarm(turn, timer);
        }
        let timer = (!spent).then(|| {
            let timer = self.arm(turn, key.home, deadline_ns);
            self.state.timers.insert(timer.serial, Timer::Grace { process: serial });
            timer
        });
        if let Some(process) = self.state.processes.get_mut(&serial) {
            process.killing = Some(Killing { timer, deadline_ns, scope });
        }
        self.annotate(turn, serial, noted_at);
    }

    /// The grace of a kill is over.
    pub(crate) fn grace_over(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let Some(killing) = &mut process.killing else { return };
        killing.timer = None;
        if process.phase == Phase::Running
            && let Some(by) = &mut process.ended_by
            && by.cause == EndCause::Kill
        {
            by.cause = EndCause::GraceOver;
        }
        let (scope, key, noted_at) = (killing.scope, process.key, turn.out.list.len());
        turn.out.push(Command::Signal { process: key, signal: SIGKILL, scope, ticket: None });
        self.annotate(turn, serial, noted_at);
        self.note_killed(serial);
    }

    /// Somebody waits for the id of a dying process: its grace shrinks.
    pub(crate) fn hurry(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let at_ns = after_ms(turn.at, self.config.limits.reuse_grace_ms);
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let Some(killing) = &mut process.killing else { return };
        let Some(timer) = killing.timer else { return };
        if killing.deadline_ns > at_ns {
            killing.deadline_ns = at_ns;
            turn.out.push(Command::Arm { timer, at_ns });
            self.annotate(turn, serial, usize::MAX);
        }
    }

    /// A process must not live: it is killed now, or as soon as it runs.
    pub(crate) fn doom(&mut self, turn: &mut Turn<'_>, serial: u64, by: EndedBy) {
        self.doom_within(turn, serial, by, self.config.limits.kill_grace_ms);
    }

    /// The same with another grace.
    pub(crate) fn doom_within(&mut self, turn: &mut Turn<'_>, serial: u64, by: EndedBy, grace_ms: u64) {
        self.renounce(turn, serial);
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        match process.phase {
            // Patience only shrinks.
            Phase::Starting if process.doom.as_ref().is_some_and(|(_, already)| *already <= grace_ms) => {}
            Phase::Starting => process.doom = Some((by, grace_ms)),
            Phase::Running | Phase::Exited if !process.tree_gone => {
                self.kill(turn, serial, SIGTERM, grace_ms, Scope::Tree, by, None);
            }
            Phase::Running | Phase::Exited | Phase::Lost => {}
        }
    }

    /// The kill of a process has nobody left to wait for.
    pub(crate) fn stop_killing(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        if let Some(timer) = process.killing.take().and_then(|killing| killing.timer) {
            self.disarm(turn, timer);
        }
    }

    /// The data plane has carried out a deed, or not.
    pub(crate) fn done(&mut self, turn: &mut Turn<'_>, ticket: u64, outcome: Result<Outcome, Failure>) {
        let Some(call) = self.state.calls.get(&ticket) else { return };
        match &call.pending {
            Pending::Deed { process, deed, .. } => {
                let (serial, deed) = (*process, deed.clone());
                self.deed_done(turn, ticket, serial, &deed, outcome);
            }
            Pending::Metrics => self.metrics_read(turn, ticket, outcome),
            Pending::Usage { process } => {
                let process = *process;
                self.usage_read(turn, ticket, process, outcome);
            }
            Pending::Pipeline { .. } => self.stages_read(turn, ticket, outcome),
            Pending::Open { opened } => {
                let opened = (**opened).clone();
                self.outlet_made(turn, ticket, &opened, outcome);
            }
            // These are never answered by ticket.
            Pending::Spawn { .. }
            | Pending::Reuse { .. }
            | Pending::Wait { .. }
            | Pending::Published
            | Pending::Compaction { .. }
            | Pending::Request { .. }
            | Pending::Repeat { .. }
            | Pending::Cancelling { .. }
            | Pending::Decision { .. }
            | Pending::Replay { .. }
            | Pending::Changes { .. }
            | Pending::Watch { .. } => {}
        }
    }

    fn deed_done(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: u64,
        serial: u64,
        deed: &Deed,
        outcome: Result<Outcome, Failure>,
    ) {
        let Some(process) = self.state.processes.get_mut(&serial) else {
            let error = WireError::new(Code::NotFound, "the process is forgotten");
            return self.reject(turn, ticket, &error);
        };
        let id = process.id.clone();
        let gone = matches!(outcome, Err(Failure::Gone));
        match (deed, outcome) {
            (Deed::Kill { .. }, outcome) if outcome.is_ok() || gone => {
                self.resolve(turn, ticket, &KillResult { status: KillStatus::Killed, id });
            }
            (Deed::Signal { .. }, Ok(outcome)) => {
                let processes = if let Outcome::Signalled { processes } = outcome { processes } else { 1 };
                self.resolve(turn, ticket, &SignalResult { status: SignalStatus::Signalled, id, processes });
            }
            (Deed::Pause, outcome) if outcome.is_ok() || gone => {
                process.paused |= !gone;
                let status = if gone { PauseStatus::Failed } else { PauseStatus::Paused };
                self.annotate(turn, serial, usize::MAX);
                self.resolve(turn, ticket, &PauseResult { status, id });
            }
            (Deed::Resume, outcome) if outcome.is_ok() || gone => {
                process.paused &= gone;
                let status = if gone { ResumeStatus::Failed } else { ResumeStatus::Resumed };
                self.annotate(turn, serial, usize::MAX);
                self.resolve(turn, ticket, &ResumeResult { status, id });
            }
            (Deed::Write { data, .. }, Ok(outcome)) => {
                let whole = data.len() as u64;
                let offset = if let Outcome::Written { offset } = outcome { offset } else { whole };
                self.note_write(turn, serial, offset, whole);
                self.resolve(
                    turn,
                    ticket,
                    &StdinWriteResult { status: StdinWriteStatus::Written, id, offset },
                );
            }
            (Deed::CloseStdin, Ok(_)) => {
                self.resolve(turn, ticket, &StdinCloseResult { status: StdinCloseStatus::Closed, id });
            }
            (Deed::OpenStdin { .. }, Ok(outcome)) => self.stdin_handed(turn, ticket, id, serial, outcome),
            (Deed::Tune { tuning }, Ok(outcome)) => {
                let settings = process.tuned(tuning, outcome);
                self.annotate(turn, serial, usize::MAX);
                self.resolve(turn, ticket, &settings);
            }
            (Deed::Resize { size }, Ok(_)) => {
                process.terminal = Some(*size);
                self.annotate(turn, serial, usize::MAX);
                self.resolve(turn, ticket, &ResizeResult { status: ResizeStatus::Resized, id });
            }
            (deed, Err(failure)) => self.reject(turn, ticket, &deed_error(&id, deed, &failure)),
            // The guards above take every success of these.
            (Deed::Kill { .. } | Deed::Pause | Deed::Resume, Ok(_)) => {}
        }
    }
}

/// The error of a deed that was not done.
pub(crate) fn deed_error(id: &ProcessId, deed: &Deed, failure: &Failure) -> WireError {
    let of_stdin = matches!(deed, Deed::Write { .. } | Deed::CloseStdin | Deed::OpenStdin { .. });
    let error = match failure {
        Failure::Gone if of_stdin => stdin_closed(id),
        Failure::Gone => WireError::process_not_found(&id.to_string()),
        Failure::BrokenPipe { offset } => stdin_closed(id).with("offset", *offset),
        Failure::WouldBlock => {
            let message = format!("process {id}: too many bytes wait for it to read them");
            WireError::new(Code::WouldBlock, message).with("limit", "stdinParkedBytesMax")
        }
        Failure::OtherBody => {
            let message = "meta.idempotencyKey was used for another write";
            WireError::new(Code::Conflict, message).with("field", "meta.idempotencyKey")
        }
        Failure::Os(errno) => {
            WireError::new(Code::Internal, format!("process {id}: errno {errno}")).with("errno", *errno)
        }
        Failure::NoTerminal => WireError::new(Code::NoTerminal, format!("process {id} has no terminal")),
        Failure::KeeperLost => keeper_lost(),
    };
    error.with("id", id.to_string())
}

/// The original's text, whose beginning clients match on.
pub(crate) fn stdin_closed(id: &ProcessId) -> WireError {
    let text = format!("Process {id} not found or stdin not available");
    let mut error = WireError::new(Code::StdinClosed, format!("stdin of process {id} is closed"));
    error.text = Some(text.into());
    error
}

impl Skill {
    /// As it is told to clients: what a skill is called is its session, its name, or both.
    pub(crate) fn told(&self, kind: PrincipalKind, uid: u32) -> system::Principal {
        if let Some(agent) = self.agent() {
            return system::Principal { kind, uid, skill: None, agent: Some(agent.to_owned()) };
        }
        let skill = match (&self.session, &self.name) {
            (Some(session), Some(name)) => Some(format!("{session}/{name}")),
            (Some(text), None) | (None, Some(text)) => Some(text.to_string()),
            (None, None) => None,
        };
        system::Principal { kind, uid, skill, agent: None }
    }
}
