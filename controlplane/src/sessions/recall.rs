//! Accounting for the lives of a former kernel: what its records name and its keeper has not handed over.
//!
//! ```text
//!   recollection ─┬─ adopted already ──────▶ its restarts are watched over again, nothing else
//!                 ├─ it waited for a life ─▶ exited, its next life on the way
//!                 └─ neither ──────────────▶ lost, told, and started again if it asked for that
//! ```
//!
//! To be called once, after what the keeper handed over is in the tables and before there are connections. Invariant:
//! a session is adopted or restarted, never both: what decides is whether its name is in the tables.

use crate::auth::principal::Principal;
use crate::calls::Turn;
use crate::clock::MS;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::permissions::programs::Place;
use crate::permissions::starting::{Identity, Occasion};
use crate::records::{Entry, Life, Recollection, Spec};
use crate::sessions::containing::Within;
use crate::sessions::launch::open_record;
use crate::sessions::plan::{self, Asker, Plan};
use crate::sessions::report;
use crate::sessions::restart::Renewal;
use crate::state::{ActsAs, Phase, Process};
use kairo_dataplane::command::{Commands, TerminalSize};
use kairo_dataplane::control::{Moment, Usage};
use kairo_dataplane::keeper::settlement::Heir;
use kairo_dataplane::key::{Channel, ConnectionKey, ProcessKey, ReactorId};
use kairo_dataplane::meter::ProcessMeter;
use kairo_dataplane::reactor::adoption::Adopted;
use kairo_wire::error::WireError;
use kairo_wire::event::{LossCause, ProcessLost, RestartCause};
use kairo_wire::id::{EventId, SessionId};
use kairo_wire::methods::status::RecordStatus;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Kernel {
    /// Takes the recollections in, oldest first. `cause` is what took those that were not adopted. Returns, for the
    /// reactors, those of which there is something to read yet.
    pub fn recall(
        &mut self,
        at: Moment,
        past: Vec<Recollection>,
        cause: LossCause,
        out: &mut Commands,
    ) -> Vec<Adopted> {
        let turn = &mut Turn { at, here: None, out };
        let mut readable = Vec::new();
        for one in past {
            let session = one.life.session.as_str();
            let adopted = self.state.sessions.get(session).copied();
            if let Some(serial) = adopted {
                self.tell_lost_closes(turn, serial, &one);
            }
            let is_named =
                |serial: &u64| self.state.processes.get(serial).is_some_and(|process| !process.superseded);
            match adopted.filter(is_named) {
                Some(serial) => self.watch_again(turn, serial, &one),
                None if self.follower(&one).is_some() => self.watch_follower(turn, &one),
                // Its id has another life, which the keeper kept: this one was over.
                None if self.state.named(&one.life.id).is_some() => {
                    self.write_life(&Entry::Forgotten { session: session.to_owned() });
                }
                None => readable.extend(self.remember(turn, one, cause)),
            }
        }
        self.record_the_rest(turn);
        readable
    }

    /// What was adopted and has no record, as its kernel died before it was written, gets one.
    fn record_the_rest(&mut self, turn: &mut Turn<'_>) {
        let has_none = |process: &Process| match process.record {
            // Even if another life has followed: both may have been faster than the log.
            RecordStatus::Failed => true,
            // By wish; whether its birth was told is known since calls have a place.
            RecordStatus::None => process.trace.call_seq.is_some(),
            RecordStatus::Written => false,
        };
        let missing = self.state.processes.values().filter(|process| has_none(process));
        let mut missing: Vec<u64> = missing.map(|process| process.key.serial).collect();
        missing.sort_unstable();
        let mut calls = BTreeSet::new();
        for serial in missing {
            let Some(process) = self.state.processes.get_mut(&serial) else { continue };
            // Of one whose end was told there is nothing to tell: its birth was. One that has ended meanwhile was born, too.
            if process.record == RecordStatus::Failed {
                process.record = RecordStatus::Written;
            }
            let told = &process.told;
            if !told.born && !told.exited && !told.ended && !told.closed.contains(&true) {
                // A restart follows from a call that was told with the first life.
                let is_first = process.follows.is_none();
                // One call may have started several, a pipeline's stages.
                let is_untold = process.trace.call_seq.is_none_or(|seq| calls.insert(seq));
                // A record of one that another life has followed would take that one's place.
                if !process.superseded {
                    self.record_birth(serial);
                }
                if is_first && is_untold {
                    self.tell_lost_call(turn, serial);
                }
                self.tell_birth(turn, serial);
            }
            self.tell_missing_closes(turn, serial);
        }
    }

    /// The life that was due after this one: it had begun, and its kernel died before there was a record of it.
    fn follower(&self, past: &Recollection) -> Option<u64> {
        let process = self.state.named(&past.life.id)?;
        let follows = process.follows.as_deref() == Some(past.life.session.as_str());
        (follows && process.record != RecordStatus::Written).then_some(process.key.serial)
    }

    /// It goes on under the record of the life before it, until a next one has its own.
    fn watch_follower(&mut self, turn: &mut Turn<'_>, past: &Recollection) {
        let (serial, plan) = (self.follower(past), self.next_plan(turn.at, past));
        let Some(process) = serial.and_then(|serial| self.state.processes.get_mut(&serial)) else { return };
        if let Some(mut plan) = plan {
            plan.trace = process.trace.clone();
            let (attempts, former) = (past.life.attempts + 1, Some(past.life.session.clone()));
            process.renewal = Some(Box::new(Renewal { plan, attempts, pending: None, former }));
        }
        let serial = process.key.serial;
        self.go_on(turn, serial);
    }

    /// An adopted process: its record is there, and so is what its next life needs.
    fn watch_again(&mut self, turn: &mut Turn<'_>, serial: u64, past: &Recollection) {
        let plan = self.next_plan(turn.at, past);
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        if let Some(mut plan) = plan {
            // What follows belongs to the same story.
            plan.trace = process.trace.clone();
            let attempts = past.life.attempts;
            process.renewal = Some(Box::new(Renewal { plan, attempts, pending: None, former: None }));
        }
        self.go_on(turn, serial);
    }

    /// Outputs of what was adopted had closed, and their kernel died before that was kept. Of two lives under one id the
    /// older may have such, too.
    fn tell_lost_closes(&mut self, turn: &mut Turn<'_>, serial: u64, past: &Recollection) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        process.record = RecordStatus::Written;
        for channel in Channel::ALL {
            process.told.closed[channel as usize] |= past.ends[channel as usize].is_some();
        }
        self.tell_missing_closes(turn, serial);
    }

    /// What ended while there was no kernel is told by the keeper with the rest; nobody says it once more.
    fn go_on(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        match (process.phase, process.tree_gone) {
            (Phase::Exited, true) => {
                self.unretain(serial);
                self.conclude(turn, serial);
                self.settle(turn, serial);
            }
            (Phase::Exited, false) => self.clear_the_way(turn, serial),
            (Phase::Starting | Phase::Running | Phase::Lost, _) => {}
        }
    }

    /// A process that is no more: its record, the news, and its next life if it asked for one. Its spool is read on.
    fn remember(&mut self, turn: &mut Turn<'_>, past: Recollection, cause: LossCause) -> Option<Adopted> {
        let serial = self.state.next_serial();
        let session = past.life.session.clone();
        // On another machine it may run still.
        let plan = self.next_plan(turn.at, &past).filter(|_| cause != LossCause::Moved);
        let mut process = as_it_was(turn.at, serial, self.name_event(), &past);
        let attempts = past.life.attempts;
        process.renewal = plan.map(|plan| Box::new(Renewal { plan, attempts, pending: None, former: None }));
        let (id, pid, creator) = (process.id.clone(), process.pid, process.creator.clone());
        self.supersede(turn, &id);
        self.state.names.insert(id.key().into(), serial);
        self.state.sessions.insert(session.as_str().into(), serial);
        let streams = Channel::ALL.into_iter().filter(|channel| process.ends[*channel as usize].is_some());
        let streams = streams.map(|channel| process.total(channel)).collect();
        let readable = on_disk(&process);
        self.state.processes.insert(serial, Box::new(process));
        self.enroll_process(serial);
        let why = if past.due { RestartCause::Exited } else { RestartCause::Lost };
        if !past.due && past.lost.is_none() {
            tracing::warn!(
                component = "controlplane", processId = %id, session, pid, cause = cause.word(),
                running = past.running, "a process is lost"
            );
            let event =
                ProcessLost { id, pid, session: session.clone(), cause, streams, running: past.running };
            self.publish(turn, Audience::Of(creator.clone()), &Default::default(), &event);
        }
        // One that was told lost by a former kernel has had its restart from that one, or wanted none. One that gets its
        // restart from us stays as it is until its next life has a record, for we may die before.
        let told = past.lost.is_some();
        if !told && !self.plan_another(turn, serial, why) && !past.due {
            self.write_life(&Entry::Lost { session, cause });
        }
        self.settle(turn, serial);
        readable
    }

    /// What is carried out again, if the life asked for it and that can be had.
    fn next_plan(&self, at: Moment, past: &Recollection) -> Option<Plan> {
        if past.life.restart.is_never() {
            return None;
        }
        let planned = self.plan_again(at, &past.life, past.spec.as_ref()?);
        match planned {
            Ok(plan) => Some(plan),
            Err(error) => {
                tracing::warn!(component = "controlplane", processId = %past.life.id, %error, "it can't be started again");
                None
            }
        }
    }

    /// The plan of a request that was carried out before, by whoever made it.
    fn plan_again(&self, at: Moment, life: &Life, spec: &Spec) -> Result<Plan, WireError> {
        let creator = life.creator();
        let principal = Principal::of_creator(&creator, self.config.owner_uid);
        let cast = life.cast();
        self.stands(at, &cast, life.started_ms)?;
        let skill = spec.params.options.as_deref().and_then(|options| options.skill.as_ref());
        let uid = cast.acts_as.as_ref().map_or_else(|| principal.uid(self.config.owner_uid), |of| of.uid);
        let session = cast.acts_as.as_ref().and_then(|of| of.session.clone());
        let (acts_as, under) = match skill {
            None => (cast.acts_as, cast.under.and_then(|id| self.permissions.grants.get(&id)).cloned()),
            Some(skill) => {
                let by_program = matches!(principal, Principal::Skill(_));
                let wanted = session.as_deref().or(skill.session.as_deref());
                let after = Some(life.session.as_str());
                let place = Place::alone(Some(skill));
                let occasion = Occasion { uid, session: wanted, intent: None, after, by_program, place };
                let under = self.approval_of(at, skill, &occasion)?;
                (Some(ActsAs { uid, name: skill.name.as_str().into(), session }), Some(under))
            }
        };
        let identity = Identity { acts_as, under, line: cast.line, nth: 0 };
        let (gid, groups, within) = (spec.gid, &spec.groups, Within::Nothing);
        let asker = Asker { principal: &principal, gid, groups, within, identity };
        let mut plan = plan::check(&self.config, &asker, spec.params.clone())?;
        // The connection it would have died with is gone.
        plan.guarded = false;
        Ok(plan)
    }
}

/// What the data plane needs to read a spool of which there is nothing but the files.
fn on_disk(process: &Process) -> Option<Adopted> {
    process.spool?;
    let heir = Heir::of_nothing(process.key, process.session.as_str(), process.pid, process.start_ticks);
    let Process { history, rate, unread, spool, ends, .. } = *process;
    let meter = Arc::clone(&process.meter);
    let (outlets, inlet, reactor_cpu) = (Vec::new(), None, None);
    Some(Adopted {
        heir,
        history,
        rate,
        unread,
        spool,
        ends,
        feed: None,
        outlets,
        inlet,
        reactor_cpu,
        stdin: 0,
        meter,
    })
}

fn as_it_was(at: Moment, serial: u64, birth: EventId, past: &Recollection) -> Process {
    let life = &past.life;
    let key = ProcessKey { home: ReactorId(0), serial };
    let nobody = ConnectionKey { reactor: key.home, slot: u32::MAX, generation: u32::MAX };
    let terminal = life.terminal.map(|(rows, cols)| TerminalSize { rows, cols });
    let plan = Plan::of_the_past(life, terminal);
    let session = SessionId::from_text(&life.session);
    let meter = Arc::new(ProcessMeter::default());
    let mut process = open_record(at, (key, nobody), (session, birth), plan, (0, meter));
    // On a clock that began after it, a life began at most when the clock did.
    let moment = |wall_ms: u64| {
        let ago_ns = at.wall_ns.saturating_sub(wall_ms.saturating_mul(MS));
        Moment { monotonic_ns: at.monotonic_ns.saturating_sub(ago_ns), wall_ns: wall_ms.saturating_mul(MS) }
    };
    process.started = moment(life.started_ms);
    (process.pid, process.start_ticks) = (life.pid, life.start_ticks);
    process.run_uid = life.run_uid;
    (process.tree_gone, process.open) = (true, [false, false]);
    process.ends = past.ends;
    process.record = RecordStatus::Written;
    match past.exit {
        Some((status, exited_ms)) => {
            process.phase = Phase::Exited;
            process.exit = Some((status, Usage::default()));
            process.exited = Some(moment(exited_ms));
            process.status = report::exited(status);
        }
        None => {
            process.phase = Phase::Lost;
            process.status = report::unknown();
        }
    }
    process
}
