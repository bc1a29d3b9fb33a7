//! Taking over the processes of a kernel that died: from what its keeper held to records that can be asked for.
//!
//! ```text
//!   keeper ──Heir (record, note, ends, rings)──▶ adopt ──▶ the same tables a spawn fills, and what the reactor needs
//! ```
//!
//! What the dead kernel had told is not told again; what it hadn't, the keeper says once more and takes its usual way.
//! Promises go on: a kill under way keeps its deadline, a ward waits for its guardian, a spawn's key answers with its
//! receipt. Invariant: after it every table is as if this kernel had started the processes itself.

use crate::auth::principal::Principal;
use crate::calls::Turn;
use crate::events::reading::Milestone;
use crate::kernel::Kernel;
use crate::sessions::containing::Containing;
use crate::sessions::ending::SIGKILL;
use crate::sessions::lifecycle::Doubt;
use crate::sessions::record::{Note, Output, Record};
use crate::sessions::report;
use crate::state::{Phase, Process, Timer};
use kairo_dataplane::command::{Command, Commands, Feed, HistorySize, Unread};
use kairo_dataplane::control::Moment;
use kairo_dataplane::keeper::settlement::Heir;
use kairo_dataplane::keeper::successor::HeldSession;
use kairo_dataplane::key::Channel;
use kairo_dataplane::meter::ProcessMeter;
use kairo_dataplane::reactor::adoption::Adopted;
use kairo_wire::codec::raw::Raw;
use kairo_wire::id::{ProcessId, SessionId};
use kairo_wire::methods::status::RecordStatus;
use std::sync::Arc;

/// How much of a session's output was kept, by its record; `usual` if that can't be read.
pub fn history_of(session: &HeldSession, usual: HistorySize) -> HistorySize {
    Record::decode(&session.record).map_or(usual, |record| record.output().history[0])
}

/// More places than can have been given and not written when a kernel dies.
const UNWRITTEN_MAX: u64 = 65_536;

/// Where the log is to be asked for [births](crate::events::reading::births_told) of what a dead kernel left: some of it has
/// no record, by wish, that says whether it was told. None if all of it has.
pub fn births_from(heirs: &[Heir]) -> Option<u64> {
    let unrecorded = |heir: &Heir| {
        let record = Record::decode(&heir.session.record).ok()?;
        record.trace().call_seq.filter(|_| record.status() == RecordStatus::None)
    };
    // The call's place may have died with its kernel; the next one told it anew, and no further back than this.
    heirs.iter().filter_map(unrecorded).min().map(|seq| seq.saturating_sub(UNWRITTEN_MAX).max(1))
}

impl Kernel {
    /// What a former kernel has told of lives, by session: the keeper may tell it again, the log must not. `over` names the
    /// outputs that closed before their trees were gone; one that closed after that and was not told is told now. For what
    /// was adopted and before anything else.
    pub fn remind(
        &mut self,
        at: Moment,
        told: &[(String, Milestone)],
        over: &[(String, [bool; 2])],
        out: &mut Commands,
    ) {
        for (session, end) in told {
            let Some(process) = self.of_session(session) else { continue };
            match end {
                Milestone::Born => process.told.born = true,
                Milestone::Exited => process.told.exited = true,
                Milestone::Ended => process.told.ended = true,
                Milestone::Closed(channel) => process.told.closed[*channel as usize] = true,
            }
        }
        for (session, closed) in over {
            let Some(process) = self.of_session(session) else { continue };
            let serial = process.key.serial;
            for channel in Channel::ALL {
                process.told.closed[channel as usize] |= closed[channel as usize];
            }
            self.tell_missing_closes(&mut Turn { at, here: None, out }, serial);
        }
    }

    /// All is known of what was adopted, and told: of two lives under one id the older goes.
    pub fn settle_adopted(&mut self, at: Moment, out: &mut Commands) {
        let superseded = self.state.processes.iter().filter(|(_, process)| process.superseded);
        let mut superseded: Vec<u64> = superseded.map(|(serial, _)| *serial).collect();
        superseded.sort_unstable();
        for serial in superseded {
            self.settle(&mut Turn { at, here: None, out }, serial);
        }
        let doubted = self.state.processes.iter().filter(|(_, process)| !process.uncertain.is_empty());
        let mut doubted: Vec<u64> = doubted.map(|(serial, _)| *serial).collect();
        doubted.sort_unstable();
        for serial in doubted {
            let turn = &mut Turn { at, here: None, out };
            self.annotate(turn, serial, usize::MAX);
            self.tell_uncertain(turn, serial);
        }
    }

    /// Tells which outputs of what was adopted have closed, where a former kernel did not come to it.
    pub(crate) fn tell_missing_closes(&mut self, turn: &mut Turn<'_>, serial: u64) {
        for channel in Channel::ALL {
            let Some(process) = self.state.processes.get(&serial) else { return };
            let place = channel as usize;
            if let Some(end) = process.ends[place].filter(|_| !process.told.closed[place]) {
                self.tell_close(turn, serial, channel, end);
            }
        }
    }

    fn of_session(&mut self, session: &str) -> Option<&mut Process> {
        let serial = self.state.sessions.get(session)?;
        self.state.processes.get_mut(serial).map(|process| &mut **process)
    }

    /// Adopts what a dead kernel left, before anybody connects. Returns the same for the reactors.
    pub fn adopt(&mut self, at: Moment, mut heirs: Vec<Heir>, out: &mut Commands) -> Vec<Adopted> {
        // In the order they were spawned, so that the younger of two of one id is the one it names.
        heirs.sort_unstable_by_key(|heir| heir.session.process.serial);
        let outlets = heirs.iter().flat_map(|heir| heir.outlets.iter().map(|outlet| outlet.serial));
        let last = heirs.iter().map(|heir| heir.session.process.serial).chain(outlets).max().unwrap_or(0);
        self.state.skip_serials(last);
        let adopted = heirs.into_iter().map(|heir| self.adopt_one(at, heir, out)).collect();
        self.bill_outliving();
        self.settle_pipelines(&mut Turn { at, here: None, out });
        adopted
    }

    fn adopt_one(&mut self, at: Moment, mut heir: Heir, out: &mut Commands) -> Adopted {
        let held = &heir.session;
        let serial = held.process.serial;
        let record = Record::decode(&held.record)
            .inspect_err(|error| tracing::error!(component = "controlplane", session = held.session, %error, "a record can't be read"))
            .ok();
        let note = Note::decode(&held.note)
            .inspect_err(|error| tracing::error!(component = "controlplane", session = held.session, %error, "a note can't be read"))
            .unwrap_or_default();
        let meter = Arc::new(ProcessMeter::default());
        let ends = Channel::ALL.map(|channel| note.let_go(channel).or(heir.end(channel)));
        let mut process = self.recorded(at, held, (record.as_ref(), &note), Arc::clone(&meter));
        for channel in Channel::ALL {
            let place = channel as usize;
            if let Some((ring, to)) = heir.rings[place].as_ref().zip(heir.uncertain[place]) {
                process.doubt(Doubt { channel, at: ring.taken(), to });
            }
            process.ends[place] = ends[place].filter(|_| process.open[place]);
            process.open[place] &= ends[place].is_none();
        }
        let (history, rate, unread, spool) = (process.history, process.rate, process.unread, process.spool);
        let reactor_cpu = process.placement.reactor_cpu.filter(|_| !process.tree_gone);
        let turn = &mut Turn { at, here: None, out };
        self.unname(turn, &process.id);
        self.state.names.insert(process.id.key().into(), serial);
        self.state.sessions.insert(process.session.as_str().into(), serial);
        if process.phase == Phase::Running && process.published.is_none() {
            self.state.leaders.insert(process.pid as u64, serial);
            if let Containing::Before = process.contained {
                turn.out.push(Command::Watch);
            }
        }
        self.state.processes.insert(serial, Box::new(process));
        self.enroll_process(serial);
        let feed = self.adopt_wires(serial, record.as_ref(), &note);
        self.keep_promises(turn, serial, record.as_ref(), &note);
        self.adapt_again(turn, serial);
        let outlets = self.adopt_outlets(serial, std::mem::take(&mut heir.outlets));
        let inlet = heir.session.inlet.take().map(|inlet| self.adopt_inlet(serial, inlet));
        self.settle(turn, serial);
        let stdin = note.stdin.unwrap_or(0);
        Adopted { heir, history, rate, unread, spool, ends, feed, outlets, inlet, reactor_cpu, stdin, meter }
    }

    fn recorded(
        &mut self,
        at: Moment,
        held: &HeldSession,
        (record, note): (Option<&Record>, &Note),
        meter: Arc<ProcessMeter>,
    ) -> Process {
        let output = note.output.unwrap_or_else(|| record.map_or(self.usual_output(), Record::output));
        Process {
            published: record.and_then(Record::published),
            key: held.process,
            placement: record.map(Record::placement).unwrap_or_default(),
            id: record.map_or_else(|| unnamed(held), |record| record.id.clone()),
            session: SessionId::from_text(&held.session),
            creator: record.map_or_else(|| Principal::Owner.creator(self.config.owner_uid), Record::creator),
            run_uid: record.and_then(|record| record.run_uid),
            guardian: None,
            spawning: Vec::new(),
            phase: held.exit.map_or(Phase::Running, |_| Phase::Exited),
            tree_gone: held.ended,
            paused: note.paused,
            terminal: note.terminal().or(record.and_then(Record::terminal)),
            argv: record.map(Record::argv).unwrap_or_default(),
            cwd: record.and_then(Record::cwd),
            environment_digest: record.map_or(0, |record| record.environment_digest),
            history: output.history,
            rate: output.rate,
            unread: output.unread,
            spool: record.and_then(Record::spool),
            pid: leader(held, record),
            start_ticks: held.start_ticks,
            tree: held.tree,
            limits: held.limits.clone(),
            contained: Containing::recorded(record),
            cast: record.map(Record::cast).unwrap_or_default(),
            measured: Default::default(),
            started: record.map_or(at, Record::started),
            exited: held.exit.map(|_| moment_of(at, held.exited_ns)),
            exit: held.exit,
            doom: None,
            ended_by: note.ended_by.clone(),
            signalled: note.signalled.clone(),
            killing: None,
            ends: [None; 2],
            open: record.map_or([true, false], Record::outputs),
            let_go: Channel::ALL.map(|channel| note.let_go(channel)),
            stdin_end: note.stdin,
            uncertain: note.doubts(),
            meter,
            waits: Vec::new(),
            deferred: Vec::new(),
            heirs: Vec::new(),
            readers: Default::default(),
            wired: record.map(Record::wired).unwrap_or_default(),
            superseded: false,
            retained_ns: None,
            status: standing(held, record),
            noted: held.note.clone().into(),
            written: Default::default(),
            trace: record.map(Record::trace).unwrap_or_default(),
            birth: record.and_then(Record::birth).unwrap_or_else(|| self.name_event()),
            told: Default::default(),
            durable: false,
            flushing: false,
            record: record.map_or(RecordStatus::None, Record::status),
            renewal: None,
            follows: record.and_then(|record| record.follows.clone()),
            adapter: record.and_then(|record| record.adapter.clone()),
        }
    }

    /// Finds again what a process is joined to: its source, unless its stdin is over, and its pipeline. What it is fed by is
    /// older and has been adopted.
    fn adopt_wires(&mut self, serial: u64, record: Option<&Record>, note: &Note) -> Option<Feed> {
        self.adopt_stage(serial, record.and_then(|record| record.stage.as_ref()), note.whole);
        let process = self.state.processes.get(&serial)?;
        let session = &process.wired.fed.as_ref()?.session;
        let source = self.state.sessions.get(session.as_str()).copied();
        let process = self.state.processes.get_mut(&serial)?;
        let (home, fed) = (process.key.home, process.wired.fed.as_mut()?);
        fed.source = source.unwrap_or(0);
        let feed = fed.feed(home);
        if note.stdin.is_some() {
            return None;
        }
        self.begin_feeding(serial);
        Some(feed)
    }

    /// How outputs are kept of which nobody says otherwise.
    fn usual_output(&self) -> Output {
        Output { history: [self.config.limits.history; 2], rate: [None; 2], unread: Unread::Drop }
    }

    /// What the dead kernel had promised of a process.
    fn keep_promises(&mut self, turn: &mut Turn<'_>, serial: u64, record: Option<&Record>, note: &Note) {
        if let Some(key) = record.and_then(Record::idempotency_key) {
            self.remember_key(turn.at, serial, key);
        }
        if let Some(guardian) = record.and_then(Record::guardian) {
            self.orphan_ward(turn.at, serial, guardian, turn.out);
        }
        let Some(process) = self.state.processes.get(&serial).filter(|process| !process.tree_gone) else {
            return;
        };
        let (key, home) = (process.key, process.key.home);
        let Some((mut killing, to_come)) = note.killing() else { return };
        if to_come {
            let timer = self.arm(turn, home, killing.deadline_ns.max(turn.at.monotonic_ns));
            self.state.timers.insert(timer.serial, Timer::Grace { process: serial });
            killing.timer = Some(timer);
        } else {
            // It was noted before it was sent, so it may not have been.
            turn.out.push(Command::Signal {
                process: key,
                signal: SIGKILL,
                scope: killing.scope,
                ticket: None,
            });
        }
        if let Some(process) = self.state.processes.get_mut(&serial) {
            process.killing = Some(killing);
        }
    }

    /// Has the keeper note how a process stands, if that has changed. `before` is the place among the commands of this
    /// turn that it has to come before: whoever dies of a command must not die before it is noted.
    pub(crate) fn annotate(&mut self, turn: &mut Turn<'_>, serial: u64, before: usize) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let note = Note::of(process).encode();
        if process.noted != note {
            process.noted = note.clone();
            let command = Command::Annotate { process: process.key, note };
            turn.out.list.insert(before.min(turn.out.list.len()), command);
        }
    }

    /// Leaves everything to the next kernel: no new work, the reactors end, the processes go on. `reason` is a signal's
    /// name. Returns how many trees go on; a second call changes nothing.
    pub fn leave(&mut self, at: Moment, reason: &str, out: &mut Commands) -> usize {
        if !std::mem::replace(&mut self.stopping, true) {
            let turn = &mut Turn { at, here: None, out };
            self.tell_stopping(turn, reason);
            turn.out.push(Command::Leave);
            self.left = true;
        }
        self.state.processes.values().filter(|process| !process.tree_gone).count()
    }
}

/// Whose record can't be read is nobody's but the owner's, under its session's name.
fn unnamed(held: &HeldSession) -> ProcessId {
    ProcessId::from_text(&held.session).unwrap_or(ProcessId::Integer(held.pid.into()))
}

/// Whom its status names: whoever writes it, if a client does, of whom the keeper knows nothing.
fn leader(held: &HeldSession, record: Option<&Record>) -> i32 {
    record.and_then(Record::published).map_or(held.pid, |published| published.pid)
}

/// Its status without detail.
fn standing(held: &HeldSession, record: Option<&Record>) -> Raw {
    let pid = leader(held, record);
    held.exit.map_or_else(|| report::running(Some(pid)), |(status, _)| report::exited(status))
}

/// When something was that the keeper dated on the monotonic clock.
pub(crate) fn moment_of(at: Moment, monotonic_ns: Option<u64>) -> Moment {
    let monotonic_ns = monotonic_ns.unwrap_or(at.monotonic_ns).min(at.monotonic_ns);
    Moment { monotonic_ns, wall_ns: at.wall_ns.saturating_sub(at.monotonic_ns - monotonic_ns) }
}
