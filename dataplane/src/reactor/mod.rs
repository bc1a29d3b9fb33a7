//! One thread, its driver, and everything it owns.
//!
//! ```text
//!  loop:  mail ─▶ turns (work left over) ─▶ alarms ─▶ wait ─▶ answers
//!                     each of them ─▶ notices ─▶ control ─▶ commands ─▶ done here, or mailed to their home
//! ```
//!
//! A reactor owns its connections, processes and readers alone, so nothing here is locked. It never blocks but in
//! `wait`, and never decides who may what. Invariant: after `Reactor::settle` no notice is untold and no command
//! undone. The rooms: `connections` and what is sent on them, `processes`, `sources` taken from them, `input` and what is
//! written to it, `feeding` of one's input by another's output, `adoption` of a dead kernel's processes, `readers` and their
//! lives, `delivery` from history to them, `cutting` what a frame is, `shared` where they map it, `relaying` and `branching` of what
//! isn't kept, `outlets` that outlive us and `parcels` that leave by them in frames, `fifos` that wait to be opened, `inlets` by which programs write stdins, `spool` to disk and
//! back, `overtaken` who was passed by, `producing` where a client writes, `following` where it did so under a kernel that died, `pacing` how fast, `crowd` how many at once, `memory`
//! within what budget, `lane` to the keeper, `mail` to other reactors.

pub mod adoption;
mod branching;
mod connections;
mod crowd;
mod cutting;
mod delivery;
mod feeding;
mod fifos;
mod following;
pub mod inlets;
mod input;
mod lane;
pub(crate) mod mail;
mod memory;
pub mod outlets;
mod overtaken;
mod pacing;
mod parcels;
mod processes;
mod producing;
mod readers;
mod relayed_frames;
mod relayed_parcels;
mod relaying;
mod shared;
mod sources;
mod spool;
mod table;
mod timers;

use crate::budget::Budget;
use crate::command::{Adapt, Command, Commands, Job};
use crate::control::{Control, Failure, Moment, Notice};
use crate::driver::Driver;
use crate::driver::op::{Answer, Completion, Interest, Op};
use crate::driver::token::Token;
use crate::key::{ReactorId, SubscriptionKey, Ticket};
use crate::spool::service::Spools;
use crate::stream::source::Staging;
use adoption::Adopted;
use bytes::{Bytes, BytesMut};
use connections::{Connection, Listener};
use crowd::{Crowd, LINGER_NS};
use fifos::Fifos;
use lane::Lane;
use mail::{Mail, Post};
use processes::Process;
use readers::{Reader, Retained};
use relaying::Tools;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use table::{Place, Table};
use timers::{Alarm, Timers};

/// Called once with the results of a job, from any thread: one per item asked for, in order; an `Err` is an errno.
pub type Done = Box<dyn FnOnce(Vec<Result<Bytes, i32>>) + Send>;

/// What carries out slow work off the reactors.
pub trait Worker: Send + Sync + 'static {
    /// Never blocks.
    fn submit(&self, job: Job, done: Done);

    /// News for whoever reads outputs, in order per process, without blocking. Where nobody does there is none.
    fn adapt(&self, news: Adapt) {
        drop(news);
    }

    /// What contained processes are denied is to be heard from when this returns. Where nobody can there is nothing to do.
    fn watch(&self) {}
}

/// Which table a token's place is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Bell = 1,
    Listener,
    LaneRead,
    LaneWrite,
    Receive,
    Send,
    Hangup,
    Stdout,
    Stderr,
    Stdin,
    Sink,
    Fifo,
    Inlet,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::Bell,
        Kind::Listener,
        Kind::LaneRead,
        Kind::LaneWrite,
        Kind::Receive,
        Kind::Send,
        Kind::Hangup,
        Kind::Stdout,
        Kind::Stderr,
        Kind::Stdin,
        Kind::Sink,
        Kind::Fifo,
        Kind::Inlet,
    ];

    fn of(token: Token) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == token.kind())
    }

    fn token(self, place: Place) -> Token {
        Token::new(self as u8, place.slot, place.generation)
    }

    /// For what a reactor has one of.
    fn only(self) -> Token {
        Token::new(self as u8, 0, 0)
    }
}

/// Work left over because its turn was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Take more from a source.
    Source(Place, crate::key::Channel),
    /// Send more on a connection.
    Connection(Place),
    /// Look at more of what a connection has sent.
    Frames(Place),
    /// Write more to a descriptor sink.
    Reader(Place),
    /// Write more to a child.
    Input(Place),
    /// Tell where its input is written.
    Inlet(Place),
    /// Give memory.
    Squeeze,
}

/// What a reactor is made of.
pub(crate) struct Parts<D: Driver> {
    pub(crate) id: ReactorId,
    pub(crate) driver: D,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) worker: Arc<dyn Worker>,
    pub(crate) post: Post,
    /// What our bell makes readable; none in a simulation of one reactor.
    pub(crate) ear: Option<D::Fd>,
    pub(crate) lane: D::Fd,
    pub(crate) listener: Option<D::Fd>,
    pub(crate) keeper_pid: i32,
    /// This reactor's share.
    pub(crate) retained_bytes_max: usize,
    /// How long readers of a dead kernel are waited for.
    pub(crate) reconnect_grace_ns: u64,
    /// Processes of a dead kernel.
    pub(crate) adopted: Vec<Adopted>,
    /// None where nothing can be spooled.
    pub(crate) spools: Option<Spools>,
    /// Where fifos are made; none where there are none.
    pub(crate) fifos: Option<PathBuf>,
    /// Of all reactors.
    pub(crate) budget: Arc<Budget>,
    /// When a wait for a reader is a stall.
    pub(crate) stall_ns: u64,
}

/// One reactor.
pub(crate) struct Reactor<D: Driver> {
    id: ReactorId,
    driver: D,
    control: Arc<dyn Control>,
    worker: Arc<dyn Worker>,
    post: Post,
    ear: Option<D::Fd>,
    lane: Lane<D::Fd>,
    listener: Option<Listener<D::Fd>>,
    keeper_pid: i32,
    connections: Table<Connection<D::Fd>>,
    /// Connections served by all reactors, counted where they are accepted.
    next_home: u16,
    processes: Table<Process<D::Fd>>,
    process_places: HashMap<u64, Place>,
    readers: Table<Reader<D::Fd>>,
    reader_places: HashMap<u64, Place>,
    staging: Option<Staging<D::Fd>>,
    /// The other ends of pipes between children of which one end has been given away, by [`Joint`](crate::command::Joint);
    /// none where there could be no pipe.
    joints: HashMap<u64, Option<D::Fd>>,
    relay_tools: Option<Tools<D::Fd>>,
    retained: Retained,
    reconnect_grace_ns: u64,
    spools: Option<Spools>,
    fifo_base: Option<PathBuf>,
    /// None before the first.
    fifos: Option<Fifos<D::Fd>>,
    budget: Arc<Budget>,
    /// When memory was last looked for in vain.
    in_vain_ns: Option<u64>,
    /// The others have been asked to give what has ended.
    others_asked: bool,
    stall_ns: u64,
    crowd: Crowd,
    timers: Timers,
    turns: VecDeque<Turn>,
    /// Work that waits until the lane is no longer full.
    behind_lane: Vec<Turn>,
    notices: VecDeque<Notice>,
    out: Commands,
    at: Moment,
    /// Reused by frames: prelude, and joined or batched lines.
    prelude: BytesMut,
    lines: Vec<u8>,
    credits: Vec<(SubscriptionKey, usize)>,
    stopping: bool,
}

impl<D: Driver> Reactor<D> {
    pub(crate) fn new(parts: Parts<D>) -> Reactor<D> {
        let at = parts.driver.now();
        let share = parts.post.reactors();
        let mut reactor = Reactor {
            id: parts.id,
            driver: parts.driver,
            control: parts.control,
            worker: parts.worker,
            post: parts.post,
            ear: parts.ear,
            lane: Lane::new(parts.lane),
            listener: parts.listener.map(Listener::new),
            keeper_pid: parts.keeper_pid,
            connections: Table::new(),
            next_home: 0,
            processes: Table::new(),
            process_places: HashMap::new(),
            readers: Table::new(),
            reader_places: HashMap::new(),
            staging: None,
            joints: HashMap::new(),
            relay_tools: None,
            retained: Retained::new(parts.retained_bytes_max, share),
            reconnect_grace_ns: parts.reconnect_grace_ns,
            spools: parts.spools,
            fifo_base: parts.fifos,
            fifos: None,
            budget: parts.budget,
            in_vain_ns: None,
            others_asked: false,
            stall_ns: parts.stall_ns,
            crowd: Crowd::default(),
            timers: Timers::default(),
            turns: VecDeque::new(),
            behind_lane: Vec::new(),
            notices: VecDeque::new(),
            out: Commands::default(),
            at,
            prelude: BytesMut::new(),
            lines: Vec::new(),
            credits: Vec::new(),
            stopping: false,
        };
        reactor.begin(parts.adopted);
        reactor
    }

    fn begin(&mut self, adopted: Vec<Adopted>) {
        if let Some(ear) = &self.ear {
            self.driver.submit(Kind::Bell.only(), Op::Poll(ear.clone(), Interest::Read));
        }
        self.greet_keeper();
        self.inherit_all(adopted);
        self.settle();
        self.accept();
    }

    /// Runs until it is told to stop or its driver fails.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut answers = Vec::new();
        while !self.stopping {
            self.round(&mut answers, None)?;
        }
        self.farewell();
        Ok(())
    }

    /// True exactly when no further round does anything.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// One round of the loop. With `until_ns` it waits no longer than that.
    pub(crate) fn round(
        &mut self,
        answers: &mut Vec<Completion<D::Fd>>,
        until_ns: Option<u64>,
    ) -> io::Result<()> {
        while let Some(mail) = self.post.receive(self.id) {
            self.open_mail(mail);
            self.settle();
        }
        for _ in 0..self.turns.len() {
            let Some(turn) = self.turns.pop_front() else { break };
            self.take_turn(turn);
            self.settle();
        }
        while let Some(alarm) = self.timers.due(self.at.monotonic_ns) {
            self.ring(alarm);
            self.settle();
        }
        if self.stopping {
            return Ok(());
        }
        let awake = !self.turns.is_empty() || !self.post.sleep(self.id);
        let deadline_ns = match (awake, self.timers.next_ns(), until_ns) {
            (true, _, _) => Some(0),
            (false, Some(alarm), Some(until)) => Some(alarm.min(until)),
            (false, alarm, until) => alarm.or(until),
        };
        let now_ns = self.at.monotonic_ns;
        if self.crowd.is_dense(now_ns) && deadline_ns.is_none_or(|at_ns| at_ns > now_ns + LINGER_NS) {
            self.driver.linger(LINGER_NS);
        }
        let waited = self.driver.wait(deadline_ns, answers);
        self.post.wake(self.id);
        self.at = self.driver.now();
        waited?;
        for completion in answers.drain(..) {
            self.answer(completion);
            self.settle();
        }
        Ok(())
    }

    fn answer(&mut self, completion: Completion<D::Fd>) {
        let Completion { token, answer } = completion;
        let place = Place { slot: token.slot(), generation: token.generation() };
        match (Kind::of(token), answer) {
            (Some(Kind::Receive), answer) => {
                self.crowd.calls();
                self.received(place, answer);
            }
            (_, Answer::Received(lent)) => self.driver.give_back(lent),
            (Some(Kind::Listener), answer) => self.accepted(answer),
            (Some(Kind::Bell), _) => self.bell_rang(),
            (Some(Kind::LaneRead), _) => self.lane_readable(),
            (Some(Kind::LaneWrite), _) => self.lane_writable(),
            (Some(Kind::Send), _) => self.writable(place),
            (Some(Kind::Hangup), answer) => self.hung_up(place, &answer),
            (Some(Kind::Stdout), _) => self.source_ready(place, crate::key::Channel::Stdout),
            (Some(Kind::Stderr), _) => self.source_ready(place, crate::key::Channel::Stderr),
            (Some(Kind::Stdin), _) => self.stdin_ready(place),
            (Some(Kind::Sink), _) => self.sink_ready(place),
            (Some(Kind::Fifo), _) => self.fifos_opened(),
            (Some(Kind::Inlet), _) => self.inlet_ready(place),
            (None, _) => tracing::error!(token = token.bits(), "an answer nobody asked for"),
        }
    }

    fn bell_rang(&mut self) {
        let Some(ear) = self.ear.clone() else { return };
        // All rings there are fit, unless the bell is made of a pipe and was rung very often.
        let mut rings = [0; 64];
        while matches!(self.driver.read(&ear, &mut rings), Ok(64)) {}
        self.driver.submit(Kind::Bell.only(), Op::Poll(ear, Interest::Read));
    }

    fn open_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Command(command) => self.carry_out(command),
            Mail::Frame { connection, subscription, frame, credit } => {
                self.queue_remote(connection, subscription, frame, credit);
            }
            Mail::Credit { subscription, bytes } => self.credited(subscription, bytes),
            Mail::Notice(notice) => self.notices.push_back(notice),
            Mail::Connection { socket, peer } => {
                let socket = self.driver.import(socket);
                self.serve(socket, peer);
            }
            Mail::Spool(answer) => self.spool_answered(answer),
            Mail::Squeeze => self.squeeze(true),
            Mail::Pulse(heard) => drop(heard.send(self.id)),
            Mail::Stop => self.stopping = true,
        }
    }

    fn take_turn(&mut self, turn: Turn) {
        match turn {
            Turn::Source(place, channel) => self.run_source(place, channel),
            Turn::Connection(place) => self.flush(place),
            Turn::Frames(place) => self.go_on_with_frames(place),
            Turn::Reader(place) => self.deliver(place),
            Turn::Input(place) => self.push_input(place),
            Turn::Inlet(place) => self.tell_inlet(place),
            Turn::Squeeze => self.squeeze(false),
        }
    }

    fn later(&mut self, turn: Turn) {
        if !self.turns.contains(&turn) {
            self.turns.push_back(turn);
        }
    }

    /// Work that can go on only when the keeper has taken what waits for it: looking every round whether it has would take a
    /// core away from it.
    fn once_lane_is_free(&mut self, turn: Turn) {
        if !self.behind_lane.contains(&turn) {
            self.behind_lane.push(turn);
        }
    }

    /// Nothing waits for the keeper any more.
    fn lane_is_free(&mut self) {
        self.turns.extend(self.behind_lane.drain(..));
    }

    fn ring(&mut self, alarm: Alarm) {
        match alarm {
            Alarm::Control(timer) => self.notices.push_back(Notice::Rang { timer }),
            Alarm::Connection(slot, generation) => self.out_of_patience(Place { slot, generation }),
            Alarm::Ghosts(slot, generation) => self.lay_ghosts(Place { slot, generation }),
            Alarm::Spool(slot, generation, channel) => self.spool_waited(Place { slot, generation }, channel),
            Alarm::Accept => self.accept(),
            Alarm::Source(slot, generation, channel) => {
                self.visit_source(Place { slot, generation }, channel);
            }
            Alarm::Stall(slot, generation, channel) => {
                self.look_for_stall(Place { slot, generation }, channel);
            }
            Alarm::Tell(slot, generation, channel) => self.tell(Place { slot, generation }, channel),
            Alarm::Squeeze => self.squeeze(false),
            Alarm::Reader(slot, generation) => self.deliver(Place { slot, generation }),
            Alarm::Fifo(slot, generation) => self.never_opened(Place { slot, generation }),
            Alarm::Inlet(slot, generation) => self.end_inlet(Place { slot, generation }),
        }
    }

    /// What others carry out is in their mailboxes before anybody sees a frame of the same call.
    fn mail_ahead(&mut self) {
        for (home, command) in self.out.ahead(Some(self.id)) {
            self.post.send(home, Mail::Command(command));
        }
    }

    /// Tells every notice and carries out what comes back, until there is neither.
    fn settle(&mut self) {
        loop {
            if !self.out.list.is_empty() {
                self.mail_ahead();
                let mut list = std::mem::take(&mut self.out.list);
                for command in list.drain(..) {
                    self.carry_out(command);
                }
                // Keep the allocation, unless carrying out has already made a new list.
                if self.out.list.is_empty() {
                    self.out.list = list;
                }
                continue;
            }
            let Some(notice) = self.notices.pop_front() else { return };
            self.control.notice(self.at, self.id, notice, &mut self.out);
            debug_assert!(self.out.replies.is_empty(), "a notice is about no connection: use Reply");
        }
    }

    /// Carries a command out, or mails it to where its object lives.
    fn carry_out(&mut self, command: Command) {
        if let Some(home) = command.home()
            && home != self.id
        {
            return self.post.send(home, Mail::Command(command));
        }
        match command {
            Command::Reply { connection, frame } => self.queue(connection, frame),
            Command::News { connection, frames } => self.queue_news(connection, frames),
            Command::Hand { connection, frame, descriptors } => {
                self.queue_with_descriptors(connection, frame, descriptors);
            }
            Command::Close { connection } => self.close_after_flush(connection),
            Command::Spawn(spawn) => self.spawn(*spawn),
            Command::Subscribe(subscribe) => self.subscribe(*subscribe),
            Command::Unsubscribe { subscription, reply } => self.unsubscribe(subscription, reply),
            Command::Write { process, data, key, ticket } => self.write(process, data, key, ticket),
            Command::Tune { process, tuning, ticket } => self.tune(process, tuning, ticket),
            Command::Pace { subscription, rate } => self.pace_reader(subscription, rate),
            Command::AbandonWrite { process, ticket } => self.abandon_write(process, ticket),
            Command::CloseStdin { process, ticket } => self.close_stdin(process, ticket),
            Command::HandStdin { process, inlet: None, ticket } => self.hand_stdin(process, ticket),
            Command::HandStdin { process, inlet: Some(inlet), ticket } => {
                self.open_inlet(process, inlet, ticket);
            }
            Command::EndInlet { process } => {
                if let Some(place) = self.place_of_process(process) {
                    self.end_inlet(place);
                }
            }
            Command::Resize { process, size, ticket } => self.resize(process, size, ticket),
            Command::Signal { process, signal, scope, ticket } => self.signal(process, signal, scope, ticket),
            Command::Announce { process, frames } => self.announce(process, frames),
            Command::Acknowledge { process } => self.acknowledge(process),
            Command::Annotate { process, note } => self.annotate(process, &note),
            Command::Forget { process } => self.forget(process),
            Command::Arm { timer, at_ns } => self.timers.arm(Alarm::Control(timer), at_ns),
            Command::Disarm { timer } => self.timers.disarm(Alarm::Control(timer)),
            Command::Work { ticket, job } => self.work(ticket, job),
            Command::Adapt(news) => self.worker.adapt(news),
            Command::Watch => self.worker.watch(),
            Command::Shutdown { grace_ns } => self.shut_down(grace_ns),
            Command::Leave => self.leave(),
        }
    }

    fn work(&mut self, ticket: Ticket, job: Job) {
        let done = self.answers(ticket);
        self.worker.submit(job, done);
    }

    /// What brings the results of slow work back as a notice.
    fn answers(&self, ticket: Ticket) -> Done {
        let (post, here) = (self.post.clone(), self.id);
        Box::new(move |results| {
            let outcome = Ok(crate::control::Outcome::Worked(results));
            post.send(here, Mail::Notice(Notice::Done { ticket, outcome }));
        })
    }

    fn done(&mut self, ticket: Ticket, outcome: Result<crate::control::Outcome, Failure>) {
        if ticket == Ticket::NOBODYS {
            return;
        }
        self.notices.push_back(Notice::Done { ticket, outcome });
    }

    /// Gives every connection a last chance to take what is queued for it. A fifo nobody has opened goes with its name, and the
    /// keeper is left nothing of it.
    fn farewell(&mut self) {
        for place in self.readers.places() {
            if self.readers.get(place).is_some_and(|reader| reader.plug.is_some()) {
                self.drop_reader(place);
            }
        }
        self.leave_inlets();
        for place in self.connections.places() {
            self.flush(place);
        }
    }
}
