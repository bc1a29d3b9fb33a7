//! Processes: starting them through the keeper, taking their output, feeding their input, hearing of their ends.
//!
//! Three ends, never mixed up: *exited* (the leader), *closed* (a stream: every holder of its write end is gone),
//! *ended* (the tree, which the keeper knows). Invariants: a source has at most one poll in flight, and none while it
//! is paused; what the leader had left in its pipes is in memory before its exit is told, whoever stalls.

use super::adoption::Ghost;
use super::crowd::Rest;
use super::feeding::Feeding;
use super::inlets::Inlet;
use super::pacing::Pace;
use super::producing::{Lending, Produced};
use super::sources::stream_breaks;
use super::spool::StreamSpool;
use super::table::Place;
use super::timers::Alarm;
use super::{Kind, Reactor};
use crate::budget::Charge;
use crate::command::{From, HistorySize, Scope, Spawn, TerminalSize, Unread};
use crate::control::{ExitStatus, Failure, Notice, Outcome, SpawnFailure, Usage};
use crate::driver::Driver;
use crate::keeper::link::{self, Output, Spawned};
use crate::keeper::protocol::End;
use crate::key::{Channel, ConnectionKey, ProcessKey, Ticket};
use crate::limits::TURN_BYTES_MAX;
use crate::meter::{ProcessMeter, Wait};
use crate::points::{Point, reach};
use crate::stream::history::History;
use crate::stream::inflow::Inflow;
use crate::stream::source::Source;
use crate::stream::subscriber::Cursor;
use crate::stream::times::Times;
use crate::sys::process::bind_thread;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// So far a reader of a relayed stream may be ahead of the source's front.
const LEAD_BYTES_MAX: u64 = TURN_BYTES_MAX as u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Running,
    /// The leader is gone; streams and tree may live on.
    Exited,
}

#[derive(Debug)]
pub(super) struct Process<F> {
    pub(super) key: ProcessKey,
    pub(super) streams: [Stream<F>; 2],
    pub(super) readers: Vec<Place>,
    /// Notices that wait until what the leader had written is queued to their connections.
    pub(super) announcements: Vec<(ConnectionKey, Bytes)>,
    pub(super) phase: Phase,
    pub(super) unread: Unread,
    pub(super) inflow: Inflow<F>,
    /// What is written to it waits.
    pub(super) parked: Wait,
    /// A path that its input is written by.
    pub(super) inlet: Option<Inlet<F>>,
    /// Whose output fills its input.
    pub(super) feeding: Option<Feeding>,
    /// It was to be fed from an output that is gone.
    pub(super) unfed: bool,
    /// What the keeper lets go of once the note is with it that tells what it was.
    pub(super) releasing: Vec<End>,
    /// A client writes its output, and it has no child.
    pub(super) produced: Option<Produced>,
    /// That client writes in place.
    pub(super) lending: Option<Lending<F>>,
    pub(super) meter: Arc<ProcessMeter>,
}

/// The input of a reactor's process.
pub(super) type Input<D> = Inflow<<D as Driver>::Fd>;

#[derive(Debug)]
pub(super) struct Stream<F> {
    pub(super) history: History,
    /// True exactly when nothing can be added.
    pub(super) closed: bool,
    /// Bytes there were when the leader's exit was heard.
    pub(super) exit_mark: u64,
    /// Highest offset that was ever delivered to anybody.
    pub(super) delivered: u64,
    /// Processes whose inputs it fills.
    pub(super) feeds: Vec<Place>,
    /// Readers of a dead kernel that are waited for.
    pub(super) ghost: Option<Ghost>,
    /// So many readers the keeper knows to wait for its first byte.
    pub(super) told: u32,
    pub(super) spool: Option<StreamSpool>,
    pub(super) source: Option<Source<F>>,
    /// A relayed source was told to be ready, and nothing has come of that yet.
    pub(super) woken: bool,
    /// It was told so after a pause, and nothing has been taken since.
    pub(super) rested: bool,
    /// Whether it is left alone for a while, in a crowd.
    pub(super) rest: Rest,
    /// Bytes that have left a relayed source without a pause, but for the first ones.
    pub(super) burst: usize,
    /// At least so many bytes are in a relayed source.
    pub(super) queued: usize,
    pub(super) paused_since_ns: Option<u64>,
    /// The source is empty.
    pub(super) idle: Wait,
    /// Readers in other processes that map its ring.
    pub(super) shared: u32,
    /// One of them has left, and still maps the ring bytes come into.
    pub(super) left: bool,
    pub(super) pace: Pace,
    /// When its bytes were read.
    pub(super) times: Times,
    /// What it holds of the memory of all.
    pub(super) charge: Charge,
}

impl<F> Stream<F> {
    pub(super) fn new(size: HistorySize, pace: Pace) -> Stream<F> {
        Stream {
            history: History::new(size),
            closed: false,
            exit_mark: 0,
            delivered: 0,
            feeds: Vec::new(),
            ghost: None,
            told: 0,
            spool: None,
            source: None,
            woken: false,
            rested: true,
            rest: Rest::default(),
            burst: 0,
            queued: 0,
            paused_since_ns: None,
            idle: Wait::default(),
            shared: 0,
            left: false,
            pace,
            times: Times::default(),
            charge: Charge::default(),
        }
    }

    /// Where a reader begins; one that resumes may be ahead.
    pub(super) fn beginning(&self, (from, resumes): (From, bool), channel: Channel) -> Cursor {
        let total = self.history.total();
        // How much there is of what a former kernel has spooled is not always known yet.
        let known = !self.spool.as_ref().is_some_and(StreamSpool::is_opening);
        let offset = match from {
            From::Oldest => 0,
            // It may have been given what others were not, and what was not let go.
            From::At(offsets) if resumes && self.history.is_passing() => {
                let offset = offsets[channel as usize];
                if offset <= total + LEAD_BYTES_MAX { offset } else { total }
            }
            From::Now => total,
            From::At(offsets) => offsets[channel as usize].min(if known { total } else { u64::MAX }),
        };
        Cursor { offset, gap_bytes: 0 }
    }

    /// How many bytes are in a relayed source; it is asked only if fewer than `enough` are known to be, for the answer waits until
    /// a writer has copied what it writes.
    pub(super) fn queued<D: Driver<Fd = F>>(&mut self, driver: &mut D, enough: usize) -> usize {
        if self.queued < enough
            && let Some(source) = &self.source
        {
            self.queued = driver.queued(&source.fd).unwrap_or(0);
        }
        self.queued
    }
}

impl<F> Process<F> {
    /// Its outputs are relayed: nothing of them is kept.
    pub(super) fn relays(&self) -> bool {
        self.streams[0].history.size().is_none()
    }

    pub(super) fn is_starting(&self) -> bool {
        self.phase == Phase::Starting
    }

    /// A `timed` reader has come or gone.
    pub(super) fn ask_times(&mut self, timed: bool, more: bool) {
        if timed {
            self.streams.iter_mut().for_each(|stream| stream.times.ask(more));
        }
    }
}

pub(super) fn kind_of(channel: Channel) -> Kind {
    match channel {
        Channel::Stdout => Kind::Stdout,
        Channel::Stderr => Kind::Stderr,
    }
}

/// Binds the reactor whose thread this is to a core, for a process that asked for it.
pub(super) fn stay_on(cpu: u16) {
    if let Err(error) = bind_thread(cpu) {
        tracing::warn!(cpu, %error, "the reactor stays where it is");
    }
}

impl<D: Driver> Reactor<D> {
    pub(super) fn place_of_process(&self, key: ProcessKey) -> Option<Place> {
        self.process_places.get(&key.serial).copied()
    }

    pub(super) fn spawn(&mut self, spawn: Spawn) {
        let (key, now_ns) = (spawn.process, self.at.monotonic_ns);
        spawn.placement.reactor_cpu.into_iter().for_each(stay_on);
        let spool = || spawn.spool.map(|limits| StreamSpool::new(&spawn.session, limits));
        let place = self.processes.insert_with(|_| Process {
            key,
            streams: spawn
                .rate
                .map(|rate| Stream { spool: spool(), ..Stream::new(spawn.history, Pace::new(rate, now_ns)) }),
            readers: Vec::new(),
            announcements: Vec::new(),
            phase: Phase::Starting,
            unread: spawn.unread,
            inflow: Inflow::new(None, 0),
            parked: Wait::default(),
            inlet: None,
            feeding: None,
            unfed: false,
            releasing: Vec::new(),
            produced: spawn.produced.map(|_| Produced::default()),
            lending: None,
            meter: spawn.meter.clone(),
        });
        self.process_places.insert(key.serial, place);
        Channel::ALL.into_iter().for_each(|channel| self.take_stock(place, channel));
        if let Some(feed) = spawn.wiring.feed {
            self.begin_feed(place, feed);
        }
        self.start(spawn);
    }

    /// Has a process that is in the tables start.
    pub(super) fn start(&mut self, spawn: Spawn) {
        match spawn.produced {
            Some(kind) => self.publish(spawn, kind),
            None => self.send_spawn(spawn),
        }
    }

    pub(super) fn spawn_failed(&mut self, key: ProcessKey, failure: SpawnFailure) {
        let Some(place) = self.process_places.remove(&key.serial) else { return };
        self.end_inlet(place);
        self.unlink_feeds(place);
        if let Some(process) = self.processes.remove(place) {
            for reader in process.readers {
                self.drop_reader(reader);
            }
        }
        self.notices.push_back(Notice::SpawnFailed { process: key, failure });
    }

    pub(super) fn spawned(&mut self, spawned: Spawned<D::Fd>) {
        let Spawned { process: key, pid, start_ticks, tree, limits, stdin, stdout, stderr } = spawned;
        let Some(place) = self.place_of_process(key) else { return };
        let Some(process) = self.processes.get_mut(place) else { return };
        process.phase = Phase::Running;
        let meter = process.meter.clone();
        let (stdout, terminal) = match stdout {
            Some(Output::Pipe(pipe)) => {
                meter.streams[0].pipe_bytes.store(pipe.bytes, Ordering::Relaxed);
                (Some(pipe.fd), false)
            }
            Some(Output::Terminal(fd)) => (Some(fd), true),
            None => (None, false),
        };
        if let Some(pipe) = &stdin {
            meter.stdin_pipe_bytes.store(pipe.bytes, Ordering::Relaxed);
        }
        meter.stdin_closed.store(stdin.is_none() && !terminal, Ordering::Relaxed);
        process.inflow = match stdin {
            Some(pipe) => Inflow::new(Some(pipe.fd), pipe.bytes as usize),
            None => Inflow::new(stdout.clone().filter(|_| terminal), 0),
        };
        if let Some(pipe) = &stderr {
            meter.streams[1].pipe_bytes.store(pipe.bytes, Ordering::Relaxed);
        }
        self.open_feed(place);
        let outputs =
            [(Channel::Stderr, stderr.map(|pipe| pipe.fd), false), (Channel::Stdout, stdout, terminal)];
        for (channel, fd, terminal) in outputs {
            self.begin_output(place, channel, fd.map(|fd| Source { fd, terminal, armed: false }));
        }
        self.open_accounts(place);
        reach(Point::SpawnHeard);
        self.notices.push_back(Notice::Spawned { process: key, pid, tree, start_ticks, limits });
    }

    pub(super) fn exited(&mut self, key: ProcessKey, status: ExitStatus, usage: Usage, at_ns: u64) {
        let Some(place) = self.place_of_process(key) else { return };
        for channel in Channel::ALL {
            if let Err(error) = self.take_leftovers(place, channel) {
                tracing::error!(%error, "what the leader had left could not be taken");
                stream_breaks(self.processes.get(place), channel);
                self.close_stream(place, channel);
            }
        }
        self.stop_producer(place);
        if let Some(process) = self.processes.get_mut(place) {
            process.phase = Phase::Exited;
            let relays = process.relays();
            for stream in &mut process.streams {
                let left = stream.source.as_ref().filter(|_| relays);
                let left = left.map_or(0, |source| self.driver.queued(&source.fd).unwrap_or(0));
                stream.exit_mark = stream.history.total() + left as u64;
            }
        }
        reach(Point::ExitHeard);
        // A source that waited for somebody to read waits for nobody now, and may have ended.
        self.resume_sources(place);
        self.deliver_all(place);
        self.notices.push_back(Notice::Exited { process: key, status, usage, at_ns });
    }

    /// Nobody is left to read its stdin.
    pub(super) fn tree_ended(&mut self, key: ProcessKey) {
        let place = self.place_of_process(key);
        if let Some((place, process)) = place.and_then(|place| Some((place, self.processes.get_mut(place)?)))
            && process.inflow.fd().is_some()
        {
            let mut answers = Vec::new();
            process.inflow.fail(&mut answers);
            self.input_closed(place, answers);
        }
        self.notices.push_back(Notice::Ended { process: key });
    }

    pub(super) fn resize(&mut self, key: ProcessKey, size: TerminalSize, ticket: Ticket) {
        let terminal =
            self.place_of_process(key).and_then(|place| self.processes.get(place)).map(|process| {
                process.streams[0]
                    .source
                    .as_ref()
                    .filter(|source| source.terminal)
                    .map(|source| source.fd.clone())
            });
        let outcome = match terminal {
            None => Err(Failure::Gone),
            Some(None) => Err(Failure::NoTerminal),
            Some(Some(fd)) => match self.driver.resize(&fd, size.rows, size.cols) {
                Ok(()) => Ok(Outcome::Ok),
                Err(error) => Err(Failure::Os(error.raw_os_error().unwrap_or(libc::EIO))),
            },
        };
        self.done(ticket, outcome);
    }

    pub(super) fn signal(&mut self, key: ProcessKey, signal: i32, scope: Scope, ticket: Option<Ticket>) {
        if self.signal_producer(key, signal, ticket) {
            return;
        }
        let sent = self.lane.send(
            &mut self.driver,
            |packet| link::encode_signal(key, signal, scope, ticket, packet),
            &[],
        );
        reach(Point::SignalSent);
        if let (Err(_), Some(ticket)) = (sent, ticket) {
            self.done(ticket, Err(Failure::KeeperLost));
        }
    }

    pub(super) fn forget(&mut self, key: ProcessKey) {
        let kept = !self.is_unheld(key);
        if let Some(place) = self.place_of_process(key) {
            self.part_from_producer(place);
            self.settle_rests(place);
            self.keep_parcels(place);
        }
        let Some(place) = self.process_places.remove(&key.serial) else { return };
        self.end_inlet(place);
        self.unlink_feeds(place);
        for channel in Channel::ALL {
            self.source_over(place, channel);
        }
        let Some(mut process) = self.processes.remove(place) else { return };
        self.discharge(&process);
        for reader in std::mem::take(&mut process.readers) {
            self.drop_reader(reader);
        }
        for channel in Channel::ALL {
            let stream = &process.streams[channel as usize];
            self.retained.release(key, channel, stream.history.retained_bytes());
            if stream.spool.is_some() {
                self.forget_spool(place, key, channel);
            }
            if stream.source.as_ref().is_some_and(|source| source.armed) {
                self.driver.cancel(kind_of(channel).token(place));
            }
        }
        if process.inflow.armed {
            self.driver.cancel(Kind::Stdin.token(place));
        }
        self.timers.disarm(Alarm::ghosts(place));
        if kept {
            self.tell_keeper(|packet| link::encode_forget(key, packet));
        }
    }
}
