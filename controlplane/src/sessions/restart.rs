//! Lives after lives: a process that asked for it is started again, under its id, when its life ends.
//!
//! ```text
//!   leader ends ─▶ policy, cause, count ─no─▶ nothing more
//!                         └yes─▶ rest of the tree ended ─▶ tree gone ─▶ backoff ─▶ a new life of the same id
//!   lost with its keeper ────────────────────────────────────────────────┘
//! ```
//!
//! Invariant: a process waits for its next life exactly while its timer is armed, and only after its tree is gone; so
//! there are never two lives of one id. A client's kill, a disconnect, a shutdown and a spawn over the id win against it.

use crate::calls::Turn;
use crate::clock::{MS, after_ms, between_ms, wall_ms};
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::records::Entry;
use crate::sessions::ending::SIGTERM;
use crate::sessions::plan::Plan;
use crate::sessions::report;
use crate::sessions::wards::Guardian;
use crate::state::{Phase, Process, Timer};
use kairo_dataplane::command::Scope;
use kairo_dataplane::control::{ExitStatus, SpawnFailure, SpawnStage, Usage};
use kairo_dataplane::key::{ConnectionKey, TimerKey};
use kairo_wire::error::WireError;
use kairo_wire::event::{ProcessRestarted, ProcessRestartsSpent, RestartCause};
use kairo_wire::methods::process::{WaitResult, WaitStatus};
use kairo_wire::methods::restart::{RestartPolicy, RestartStatus};
use kairo_wire::methods::status::{EndCause, EndedBy, RecordStatus};

/// What a process needs for its next life.
#[derive(Debug)]
pub(crate) struct Renewal {
    /// What is carried out again.
    pub plan: Plan,
    /// Restarts since the last life that was long enough.
    pub attempts: u32,
    /// Its next life waits for this.
    pub pending: Option<Pending>,
    /// The life before, whose record stands until this one has its own.
    pub former: Option<String>,
}

/// A next life on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// Rings when it is time.
    pub timer: TimerKey,
    /// How long that is, milliseconds.
    pub delay_ms: u64,
    /// Why.
    pub cause: RestartCause,
}

impl Renewal {
    /// Of a process that is started by this plan, if the plan says so.
    pub(crate) fn of(plan: &Plan) -> Option<Box<Renewal>> {
        let renewal = || Box::new(Renewal { plan: plan.clone(), attempts: 0, pending: None, former: None });
        (!plan.restart.is_never()).then(renewal)
    }

    /// As it is told.
    pub(crate) fn told(&self) -> RestartStatus {
        let wish = self.plan.restart;
        RestartStatus {
            policy: wish.policy,
            attempts: self.attempts,
            limit: wish.limit,
            pending: self.pending.is_some(),
            reach: wish.reach,
        }
    }

    /// Milliseconds before the restart of this number, counted from 1.
    fn delay_ms(&self, attempt: u32) -> u64 {
        let wish = self.plan.restart;
        let doublings = attempt.saturating_sub(1).min(32);
        (u64::from(wish.backoff_ms) << doublings).min(u64::from(wish.backoff_max_ms.max(wish.backoff_ms)))
    }
}

impl Process {
    /// Whether its life ended in a way that its wish answers with another one.
    pub(crate) fn wants_another(&self) -> bool {
        let Some(renewal) = &self.renewal else { return false };
        let asked_to_end = |by: &EndedBy| match by.cause {
            EndCause::Kill
            | EndCause::GraceOver
            | EndCause::Disconnect
            | EndCause::Deadline
            | EndCause::Cancel
            | EndCause::Shutdown
            | EndCause::Unrecorded => true,
            EndCause::Itself | EndCause::Signal | EndCause::Limit => false,
        };
        // What did not exit has to be lost to be over.
        let over = self.exit.is_some() || self.phase == Phase::Lost;
        if !over || self.superseded || self.ended_by.as_ref().is_some_and(asked_to_end) {
            return false;
        }
        match (renewal.plan.restart.policy, self.exit) {
            (RestartPolicy::Never, _) => false,
            (RestartPolicy::Always, _) | (RestartPolicy::OnFailure, None) => true,
            (RestartPolicy::OnFailure, Some((status, _))) => status != ExitStatus::Code(0),
        }
    }

    /// True exactly while its next life waits for its time.
    pub(crate) fn awaits_another(&self) -> bool {
        self.renewal.as_ref().is_some_and(|renewal| renewal.pending.is_some())
    }
}

impl Kernel {
    /// A leader has ended: if another life is to follow, the rest of the tree has to go first.
    pub(crate) fn clear_the_way(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        if self.stopping || process.tree_gone || process.killing.is_some() || !process.wants_another() {
            return;
        }
        let grace_ms = self.config.limits.kill_grace_ms;
        let by = EndedBy { cause: EndCause::Itself, principal: None };
        self.kill(turn, serial, SIGTERM, grace_ms, Scope::Tree, by, None);
    }

    /// A tree is gone: writes that down, and arms the next life if there is to be one.
    pub(crate) fn conclude(&mut self, turn: &mut Turn<'_>, serial: u64) {
        // A kernel that leaves has no time for another life: the next one finds it due.
        let wanted = |process: &Process| process.wants_another();
        let due = match self.left {
            true => self.state.processes.get(&serial).is_some_and(|process| wanted(process)),
            false => self.plan_another(turn, serial, RestartCause::Exited),
        };
        self.note_down(serial, |session| Entry::Ended { session, due });
    }

    /// Arms the next life of a process whose tree is gone. True if there will be one.
    pub(crate) fn plan_another(&mut self, turn: &mut Turn<'_>, serial: u64, cause: RestartCause) -> bool {
        let refused = self.stopping || self.keeper_lost;
        let Some(process) = self.state.processes.get(&serial) else { return false };
        if refused || !process.tree_gone || process.awaits_another() || !process.wants_another() {
            return false;
        }
        let until = process.exited.unwrap_or(turn.at);
        // A life that began before this boot has no beginning on the monotonic clock.
        let by_date_ms = until.wall_ns.saturating_sub(process.started.wall_ns) / MS;
        let lasted_ms = between_ms(process.started, until).max(by_date_ms);
        let home = process.key.home;
        let Some(renewal) = &process.renewal else { return false };
        let wish = renewal.plan.restart;
        let before = if lasted_ms >= u64::from(wish.reset_after_ms) { 0 } else { renewal.attempts };
        if before >= wish.limit {
            self.give_up(turn, serial, before);
            return false;
        }
        let delay_ms = renewal.delay_ms(before + 1);
        let timer = self.arm(turn, home, after_ms(turn.at, delay_ms));
        self.state.timers.insert(timer.serial, Timer::Restart { process: serial });
        if let Some(renewal) = self.state.processes.get_mut(&serial).and_then(|p| p.renewal.as_mut()) {
            renewal.attempts = before + 1;
            renewal.pending = Some(Pending { timer, delay_ms, cause });
        }
        true
    }

    fn give_up(&mut self, turn: &mut Turn<'_>, serial: u64, attempts: u32) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        process.renewal = None;
        let event = ProcessRestartsSpent {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            attempts,
        };
        tracing::warn!(component = "controlplane", processId = %event.id, attempts, "no more restarts");
        let (creator, trace) = (process.creator.clone(), process.story());
        self.publish(turn, Audience::Of(creator.clone()), &trace, &event);
    }

    /// There is to be no other life: a client has said so, in one way or another.
    pub(crate) fn renounce(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let Some(renewal) = process.renewal.take() else { return };
        let recorded = process.record != RecordStatus::None && process.phase != Phase::Starting;
        let own = recorded.then(|| process.session.as_str().to_owned());
        let entry = match (own, renewal.former) {
            (Some(session), _) if !process.tree_gone => Some(Entry::Renounced { session }),
            (Some(session), _) | (None, Some(session)) => Some(Entry::Forgotten { session }),
            (None, None) => None,
        };
        if let Some(entry) = entry {
            self.write_life(&entry);
        }
        if let Some(pending) = renewal.pending {
            self.disarm(turn, pending.timer);
            self.life_over(turn, serial);
            self.settle(turn, serial);
        }
    }

    /// Everything is to end.
    pub(crate) fn renounce_all(&mut self, turn: &mut Turn<'_>) {
        let waiting = self.state.processes.values().filter(|process| process.awaits_another());
        let mut waiting: Vec<u64> = waiting.map(|process| process.key.serial).collect();
        waiting.sort_unstable();
        for serial in waiting {
            self.renounce(turn, serial);
        }
    }

    /// The time of the next life has come.
    pub(crate) fn renew(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        if let Err(error) = self.stands(turn.at, &process.cast, wall_ms(process.started)) {
            tracing::warn!(component = "controlplane", processId = %process.id, %error, "it is not started again");
            return self.renounce(turn, serial);
        }
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let Some(mut renewal) = process.renewal.take() else { return };
        let Some(Pending { delay_ms, cause, .. }) = renewal.pending.take() else { return };
        if self.stopping || self.keeper_lost {
            return self.settle(turn, serial);
        }
        let former = process.session.as_str().to_owned();
        // The next life is told of before it is born: that follows from this one.
        let story = process.story();
        // A life that could not begin has no record: the one that is due is that of the life before it.
        let unrecorded = process.record == RecordStatus::None;
        let due = if unrecorded { renewal.former.take() } else { Some(former.clone()) };
        let guardian = match process.guardian {
            Some(Guardian::Present(connection)) => Some(connection),
            Some(Guardian::Orphaned { .. } | Guardian::Gone) | None => None,
        };
        let guardian = guardian.filter(|guardian| self.state.connections.get(*guardian).is_some());
        let nobody = ConnectionKey { reactor: process.key.home, slot: u32::MAX, generation: u32::MAX };
        let mut plan = renewal.plan;
        plan.guarded = guardian.is_some();
        plan.follows = due.clone();
        self.bound_spool(turn, &mut plan);
        let next = self.state.next_serial();
        self.launch_as(turn, guardian.unwrap_or(nobody), plan, next);
        let Some(process) = self.state.processes.get_mut(&next) else { return };
        if let Some(fresh) = &mut process.renewal {
            fresh.attempts = renewal.attempts;
            fresh.former = due;
        }
        let event = ProcessRestarted {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            former,
            attempt: renewal.attempts,
            delay_ms,
            cause,
        };
        let creator = process.creator.clone();
        self.publish(turn, Audience::Of(creator), &story, &event);
    }

    /// A restart came to nothing. It counts as a life that ended at once, with the code a shell would give. False if
    /// this was no restart.
    pub(crate) fn restart_failed(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        failure: &SpawnFailure,
    ) -> bool {
        let Some(process) = self.state.processes.get_mut(&serial) else { return false };
        let Some(renewal) = process.renewal.as_ref().filter(|renewal| renewal.attempts > 0) else {
            return false;
        };
        let former = renewal.former.clone();
        tracing::warn!(component = "controlplane", processId = %process.id, %failure, "a restart failed");
        const ENOENT: i32 = 2;
        let code = if failure.stage == SpawnStage::Exec && failure.errno == ENOENT { 127 } else { 126 };
        let status = ExitStatus::Code(code);
        process.phase = Phase::Exited;
        (process.tree_gone, process.open) = (true, [false, false]);
        (process.started, process.exited) = (turn.at, Some(turn.at));
        process.exit = Some((status, Usage::default()));
        process.status = report::exited(status);
        process.record = RecordStatus::None;
        let (waits, heirs) = (std::mem::take(&mut process.waits), std::mem::take(&mut process.heirs));
        let (id, exit) = (process.id.clone(), report::exit(process));
        for ticket in waits {
            let (status, id, exit) = (WaitStatus::Exited, id.clone(), exit.clone());
            self.resolve(turn, ticket, &WaitResult { status, id, exit_code: code, exit });
        }
        self.answer_orphans(turn, serial, &WireError::process_not_found(&id.to_string()));
        self.inherit(turn, heirs);
        if !self.plan_another(turn, serial, RestartCause::NotStarted)
            && let Some(session) = former
        {
            self.write_life(&Entry::Forgotten { session });
        }
        self.settle(turn, serial);
        true
    }

    /// The former life of an id that is about to begin another one has nothing more to wait for.
    pub(crate) fn forestall(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let pending = process.renewal.take().and_then(|renewal| renewal.pending);
        if let Some(pending) = pending {
            self.disarm(turn, pending.timer);
        }
    }

    /// Forgets a lost life in the records too. What this kernel lost its successor has to account for.
    pub(crate) fn record_oblivion(&mut self, process: &Process) {
        let recorded = process.record == RecordStatus::Written;
        if recorded && process.phase == Phase::Lost && !self.keeper_lost {
            self.write_life(&Entry::Forgotten { session: process.session.as_str().to_owned() });
        }
    }
}
