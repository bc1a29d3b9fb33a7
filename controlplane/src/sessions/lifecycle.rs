//! What happens to a process, told by the data plane: it runs, its leader exits, its streams close, its tree is gone.
//!
//! The three ends come in this order of cause, not of time: a stream may outlive the leader and a tree may outlive
//! both. Each is told to whom it concerns: calls that wait, connections that may see the process, the bus.
//! Invariant: after each notice the record says what the data plane knows, and nothing waits for what has happened.

use crate::auth::grant::may_touch;
use crate::calls::Turn;
use crate::clock::{between_ms, wall_ms};
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::records::Entry;
use crate::sessions::adoption::moment_of;
use crate::sessions::launch::{keeper_lost, spawn_error};
use crate::sessions::report;
use crate::state::{Phase, Place, Process};
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::{Command, Scope};
use kairo_dataplane::control::{ExitStatus, LimitInForce, SpawnFailure, StreamEnd, Tree, Usage};
use kairo_dataplane::key::{Channel, ProcessKey, SubscriptionKey};
use kairo_wire::codec::encode::Dialect;
use kairo_wire::codec::raw::Raw;
use kairo_wire::envelope::put_notice;
use kairo_wire::error::WireError;
use kairo_wire::event::{
    LossCause, ProcessEnded, ProcessExitNotice, ProcessExited, ProcessLost, ProcessSpawned, StreamClosed,
    StreamGap, StreamUncertain,
};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::event::Ack;
use kairo_wire::methods::process::{SpawnResult, SpawnStatus, WaitResult, WaitStatus};
use kairo_wire::methods::status::{EndedBy, StreamTotal};

/// What is known of a child that runs.
#[derive(Debug)]
pub(crate) struct Birth {
    /// Its pid.
    pub pid: i32,
    /// How well its tree is known.
    pub tree: Tree,
    /// When it was born, clock ticks since boot.
    pub start_ticks: u64,
    /// Its limits.
    pub limits: Vec<LimitInForce>,
}

impl Kernel {
    /// The child runs.
    pub(crate) fn spawned(&mut self, turn: &mut Turn<'_>, key: ProcessKey, birth: Birth) {
        let serial = key.serial;
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        if process.phase != Phase::Starting {
            return;
        }
        process.phase = Phase::Running;
        process.pid = birth.pid;
        process.tree = birth.tree;
        process.start_ticks = birth.start_ticks;
        process.limits = birth.limits;
        process.status = report::running(Some(birth.pid));
        // A producer leads nobody.
        if process.published.is_none() {
            self.state.leaders.insert(birth.pid as u64, serial);
        }
        let result = receipt(process);
        let deferred = std::mem::take(&mut process.deferred);
        let doom = process.doom.take();
        let waits_for_disk = self.record_birth(serial);
        let unkept = waits_for_disk && self.journal.broken.is_some();
        if waits_for_disk && !unkept {
            self.give_receipt_of_spawn(turn, serial, &result);
        }
        let process = self.state.processes.get_mut(&serial).filter(|_| !waits_for_disk);
        let calls = process.map(|process| std::mem::take(&mut process.spawning)).unwrap_or_default();
        for call in calls {
            self.resolve(turn, call, &result);
        }
        self.tell_birth(turn, serial);
        if unkept {
            // The log failed while the child was being started.
            self.birth_kept(turn, serial, false);
        }
        self.adapt(turn, serial, false);
        self.attach_waiting(turn, serial);
        self.stage_runs(turn, serial);
        for ticket in deferred {
            self.act(turn, ticket);
        }
        if let Some((by, grace_ms)) = doom {
            self.doom_within(turn, serial, by, grace_ms);
        }
    }

    /// Tells that a process runs.
    pub(crate) fn tell_birth(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let outputs = Channel::ALL.into_iter().filter(|channel| process.has(*channel));
        let event = ProcessSpawned {
            id: process.id.clone(),
            pid: process.pid,
            session: process.session.as_str().to_owned(),
            argv: report::texts(&process.argv),
            cwd: process.cwd.clone().and_then(report::text),
            owner: process.creator.told(self.config.owner_uid),
            started_at_ms: crate::clock::wall_ms(process.started),
            tree: report::tree(process.tree),
            streams: outputs.map(report::stream_name).collect(),
            sandbox: process.receipt(),
            program: process.program(),
            acts_as: process.cast.acts_as.as_ref().map(|acts_as| acts_as.party().to_string()),
            grant: process.cast.under.as_deref().map(str::to_owned),
        };
        let (creator, trace, born) = (process.creator.clone(), process.trace.clone(), process.birth.clone());
        self.publish_as(turn, born, Audience::Of(creator), &trace, &event);
    }

    /// The receipt of a spawn that waits for the disk goes there with the record.
    fn give_receipt_of_spawn(&mut self, turn: &mut Turn<'_>, serial: u64, result: &SpawnResult) {
        let call = self.state.processes.get(&serial).and_then(|process| process.spawning.first());
        let name = call.and_then(|call| self.flight_of(*call));
        if let Some((name, result)) = name.zip(Raw::of(result).ok()) {
            self.give_receipt(turn, name, &result, Ack::Disk, true);
        }
    }

    /// There is no child, and there was none.
    pub(crate) fn spawn_failed(&mut self, turn: &mut Turn<'_>, key: ProcessKey, failure: &SpawnFailure) {
        if self.restart_failed(turn, key.serial, failure) {
            return;
        }
        let Some(process) = self.state.processes.get_mut(&key.serial) else { return };
        let error = spawn_error(process, failure);
        let (calls, id) = (std::mem::take(&mut process.spawning), process.id.clone());
        let (creator, trace) = (process.creator.clone(), process.trace.clone());
        self.tell_failure(turn, Audience::Of(creator), &trace, "process.spawn", &error);
        let Some(process) = self.state.processes.get_mut(&key.serial) else { return };
        let heirs = std::mem::take(&mut process.heirs);
        self.stage_failed(turn, key.serial, &error);
        self.answer_orphans(turn, key.serial, &WireError::process_not_found(&id.to_string()));
        self.drop_record(turn, key.serial);
        for call in calls {
            self.reject(turn, call, &error);
        }
        self.inherit(turn, heirs);
    }

    /// Answers every call that waits for something this process will never do.
    pub(crate) fn answer_orphans(&mut self, turn: &mut Turn<'_>, serial: u64, error: &WireError) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let orphans = [std::mem::take(&mut process.waits), std::mem::take(&mut process.deferred)].concat();
        for ticket in orphans {
            self.reject(turn, ticket, error);
        }
    }

    /// The leader ended, and what it had left in its pipes is in memory.
    pub(crate) fn exited(
        &mut self,
        turn: &mut Turn<'_>,
        key: ProcessKey,
        status: ExitStatus,
        usage: Usage,
        at_ns: u64,
    ) {
        let serial = key.serial;
        let running = self.state.processes.get_mut(&serial).filter(|process| process.phase == Phase::Running);
        let Some(process) = running else { return self.acknowledge(turn, key) };
        process.phase = Phase::Exited;
        if process.published.is_none() {
            self.state.leaders.remove(&(process.pid as u64));
        }
        process.exited = Some(moment_of(turn.at, Some(at_ns)));
        process.exit = Some((status, usage));
        process.paused = false;
        process.status = report::exited(status);
        process.ended_by = process.cause_of_end(status);
        let waits = std::mem::take(&mut process.waits);
        let (id, creator, trace) = (process.id.clone(), process.creator.clone(), process.story());
        let told = process.told.exited;
        let only_leader = process.killing.as_ref().is_some_and(|killing| killing.scope == Scope::Leader);
        let Some(exit) = report::exit(process) else { return };
        let event = ProcessExited {
            id: id.clone(),
            pid: process.pid,
            session: process.session.as_str().to_owned(),
            code: exit.code,
            signal: exit.signal,
            signal_name: exit.signal_name.clone(),
            core: exit.core,
            ended_by: exit.ended_by.clone(),
            usage: exit.usage,
            duration_ms: exit.duration_ms,
        };
        self.leader_denied(turn, serial, status);
        if only_leader {
            self.stop_killing(turn, serial);
        }
        self.announce_exit(turn, key, &id, status);
        for ticket in waits {
            let exit_code = status.v1_code();
            let result = WaitResult {
                status: WaitStatus::Exited,
                id: id.clone(),
                exit_code,
                exit: Some(exit.clone()),
            };
            self.resolve(turn, ticket, &result);
        }
        if !told {
            self.publish(turn, Audience::Of(creator), &trace, &event);
            let at_ms = wall_ms(turn.at);
            self.note_down(serial, |session| Entry::Exited { session, status, at_ms });
        }
        self.stage_exited(turn, serial, status, told);
        self.acknowledge(turn, key);
        self.adapt_no_more(turn, serial);
        self.clear_the_way(turn, serial);
    }

    /// The v1 notice, to each connection that may see the process and has spoken.
    fn announce_exit(&mut self, turn: &mut Turn<'_>, key: ProcessKey, id: &ProcessId, status: ExitStatus) {
        let Some(process) = self.state.processes.get(&key.serial) else { return };
        let notice = ProcessExitNotice { id: id.clone(), code: status.v1_code() };
        let mut encoded: [Option<Bytes>; 2] = [None, None];
        let mut frames = Vec::new();
        for connection in &self.state.audience {
            let Some(peer) = self.state.connections.get(*connection) else { continue };
            if peer.closing || !may_touch(&peer.principal, &process.creator) {
                continue;
            }
            let frame = encoded[usize::from(peer.dialect == Dialect::Int64)].get_or_insert_with(|| {
                let mut buf = BytesMut::new();
                if let Err(error) = put_notice(&mut buf, peer.dialect, &notice) {
                    tracing::error!(component = "controlplane", processId = %id, %error, "an exit was not told");
                }
                buf.freeze()
            });
            if !frame.is_empty() {
                frames.push((*connection, frame.clone()));
            }
        }
        if !frames.is_empty() {
            turn.out.push(Command::Announce { process: key, frames });
        }
    }

    /// A stream ended.
    pub(crate) fn closed(&mut self, turn: &mut Turn<'_>, key: ProcessKey, channel: Channel, end: StreamEnd) {
        let Some(process) = self.state.processes.get_mut(&key.serial) else { return };
        let place = channel as usize;
        if !process.open[place] {
            return;
        }
        process.open[place] = false;
        process.ends[place] = Some(end);
        if !process.told.closed[place] {
            self.tell_close(turn, key.serial, channel, end);
        }
        self.settle(turn, key.serial);
    }

    /// Tells that an output closed, and writes it down.
    pub(crate) fn tell_close(&mut self, turn: &mut Turn<'_>, serial: u64, channel: Channel, end: StreamEnd) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        process.told.closed[channel as usize] = true;
        let event = StreamClosed {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            stream: report::stream_name(channel),
            total_bytes: end.total_bytes,
            cut_bytes: end.cut_bytes,
        };
        let (creator, trace) = (process.creator.clone(), process.story());
        self.publish(turn, Audience::Of(creator), &trace, &event);
        self.record_close(serial, channel);
    }

    /// Nobody of the tree is left.
    pub(crate) fn ended(&mut self, turn: &mut Turn<'_>, key: ProcessKey) {
        let there = self.state.processes.get_mut(&key.serial).filter(|process| !process.tree_gone);
        let Some(process) = there else { return self.acknowledge(turn, key) };
        process.tree_gone = true;
        self.tell_written(turn, key.serial);
        let Some(process) = self.state.processes.get_mut(&key.serial) else { return };
        let heirs = std::mem::take(&mut process.heirs);
        let stream_totals = Channel::ALL.into_iter().filter(|channel| process.has(*channel));
        let event = ProcessEnded {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            duration_ms: between_ms(process.started, turn.at),
            streams: stream_totals.map(|channel| process.total(channel)).collect(),
            stdin_bytes: process.meter.stdin_bytes.get(),
        };
        let (creator, trace, told) = (process.creator.clone(), process.story(), process.told.ended);
        self.stop_killing(turn, key.serial);
        if !told {
            self.publish(turn, Audience::Of(creator), &trace, &event);
        }
        self.acknowledge(turn, key);
        if heirs.is_empty() {
            self.conclude(turn, key.serial);
        } else {
            // Somebody else wants the id, and asked for it.
            self.note_down(key.serial, |session| Entry::Ended { session, due: false });
        }
        self.life_over(turn, key.serial);
        self.stage_ended(turn, key.serial);
        self.settle(turn, key.serial);
        self.inherit(turn, heirs);
    }

    /// Nothing of an ended stream is held for a successor any more but how long it was.
    pub(crate) fn let_go(&mut self, turn: &mut Turn<'_>, key: ProcessKey, channel: Channel, end: StreamEnd) {
        let Some(process) = self.state.processes.get_mut(&key.serial) else { return };
        process.let_go[channel as usize] = Some(end);
        self.annotate(turn, key.serial, usize::MAX);
    }

    /// A stdin is over: all that is left of it is how much went in.
    pub(crate) fn input_closed(&mut self, turn: &mut Turn<'_>, key: ProcessKey, written: u64) {
        let Some(process) = self.state.processes.get_mut(&key.serial) else { return };
        process.stdin_end = Some(written);
        let source = process.source();
        self.end_feeding(turn, key.serial, source);
        self.tell_written(turn, key.serial);
        self.annotate(turn, key.serial, usize::MAX);
    }

    /// Tells where former kernels may have lost count.
    pub(crate) fn tell_uncertain(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let doubts = self.state.processes.get(&serial).map(|process| process.uncertain.clone());
        for doubt in doubts.unwrap_or_default() {
            self.tell_uncertainty(turn, serial, doubt);
        }
    }

    fn tell_uncertainty(&mut self, turn: &mut Turn<'_>, serial: u64, doubt: Doubt) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let event = StreamUncertain {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            stream: report::stream_name(doubt.channel),
            at: doubt.at,
            from: doubt.at,
            to: doubt.to,
        };
        let (creator, trace) = (process.creator.clone(), process.story());
        self.publish(turn, Audience::Of(creator.clone()), &trace, &event);
    }

    /// Bytes went by a reader.
    pub(crate) fn lagged(
        &mut self,
        turn: &mut Turn<'_>,
        key: SubscriptionKey,
        channel: Channel,
        (from, to): (u64, u64),
    ) {
        let Some(stream) = self.state.reading.get(&key.serial).and_then(|s| self.state.streams.get(s)) else {
            return;
        };
        let Place::Reading { process, .. } = &stream.place else { return };
        let Some(process) = self.state.processes.get(process) else { return };
        let gap = |subscription_id| StreamGap {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            subscription_id,
            stream: report::stream_name(channel),
            from,
            to,
        };
        let (own, others) = (gap(Some(stream.id.clone())), gap(None));
        let (creator, trace, reader) = (process.creator.clone(), process.story(), stream.connection);
        self.publish_to(turn, Audience::Of(creator.clone()), &trace, Some(reader), &own, &others);
    }

    /// The keeper died: nobody can start, signal or wait for a child any more.
    pub(crate) fn lose_keeper(&mut self, turn: &mut Turn<'_>) {
        if self.keeper_lost {
            return;
        }
        self.keeper_lost = true;
        let mut lost: Vec<u64> = self
            .state
            .processes
            .values()
            .filter(|process| !process.tree_gone)
            .map(|p| p.key.serial)
            .collect();
        lost.sort_unstable();
        for serial in lost {
            self.lose(turn, serial);
        }
    }

    fn lose(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let error = keeper_lost();
        self.stop_killing(turn, serial);
        self.tell_written(turn, serial);
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        process.tree_gone = true;
        process.wired.feeds.clear();
        let source = process.source();
        let (calls, heirs) = (std::mem::take(&mut process.spawning), std::mem::take(&mut process.heirs));
        let (phase, id) = (process.phase, process.id.clone());
        if phase != Phase::Exited {
            if process.published.is_none() {
                self.state.leaders.remove(&(process.pid as u64));
            }
            process.phase = Phase::Lost;
            process.status = report::unknown();
        }
        let seen = Channel::ALL.into_iter().filter(|channel| process.has(*channel));
        let event = ProcessLost {
            id,
            pid: process.pid,
            session: process.session.as_str().to_owned(),
            cause: LossCause::Keeper,
            streams: seen.map(|channel| process.total(channel)).collect(),
            running: false,
        };
        let (creator, trace) = (process.creator.clone(), process.story());
        self.end_feeding(turn, serial, source);
        self.stage_lost(turn, serial);
        self.answer_orphans(turn, serial, &error);
        for ticket in calls.into_iter().chain(heirs) {
            self.reject(turn, ticket, &error);
        }
        match phase {
            // It never was, as far as anybody can tell.
            Phase::Starting => self.forget(turn, serial),
            Phase::Running | Phase::Exited | Phase::Lost => {
                self.adapt_no_more(turn, serial);
                self.publish(turn, Audience::Of(creator.clone()), &trace, &event);
                self.settle(turn, serial);
            }
        }
    }
}

/// What the spawn of a process that runs, or ran, is answered with.
pub(crate) fn receipt(process: &Process) -> SpawnResult {
    SpawnResult {
        status: SpawnStatus::Spawned,
        id: process.id.clone(),
        pid: process.pid,
        sandbox: process.receipt(),
        program: process.program(),
    }
}

/// Where a former kernel may have lost count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Of which output.
    pub channel: Channel,
    /// The count as it was noted.
    pub at: u64,
    /// At most this it may have been.
    pub to: u64,
}

/// Places that are remembered where count may have been lost.
const DOUBTS_MAX: usize = 16;

impl Process {
    /// Its count may have been lost there.
    pub(crate) fn doubt(&mut self, doubt: Doubt) {
        // A kernel that dies before a byte was counted leaves what the one before it found, and more.
        let same = |of: &&mut Doubt| of.channel == doubt.channel && of.at == doubt.at;
        if let Some(known) = self.uncertain.iter_mut().find(same) {
            known.to = known.to.max(doubt.to);
            return;
        }
        let surplus = (self.uncertain.len() + 1).saturating_sub(DOUBTS_MAX);
        self.uncertain.drain(..surplus);
        self.uncertain.push(doubt);
    }

    /// It has, or had, this output.
    pub(crate) fn has(&self, channel: Channel) -> bool {
        self.open[channel as usize] || self.ends[channel as usize].is_some()
    }

    /// How long an output is.
    pub(crate) fn total(&self, channel: Channel) -> StreamTotal {
        let meter = &self.meter.streams[channel as usize];
        let end = self.ends[channel as usize]
            .unwrap_or(StreamEnd { total_bytes: meter.taken_bytes.get(), cut_bytes: meter.cut_bytes.get() });
        StreamTotal {
            stream: report::stream_name(channel),
            total_bytes: end.total_bytes,
            cut_bytes: end.cut_bytes,
        }
    }

    /// Who or what ended it: a kill under way, or the client whose signal it died of; else itself.
    fn cause_of_end(&mut self, status: ExitStatus) -> Option<EndedBy> {
        if let Some(by) = self.ended_by.take() {
            return Some(by);
        }
        match (status, self.signalled.take()) {
            (ExitStatus::Signal { signal, .. }, Some((sent, by))) if sent == signal => Some(by),
            (ExitStatus::Signal { .. } | ExitStatus::Code(_), _) => None,
        }
    }
}
