//! Streams that a client writes: processes without a child, whose output comes from whoever was given its writing end.
//!
//! To readers, histories, spools and rates it is a process like any other, and to the keeper too, which holds what it is written
//! by before its writer has it; what an earlier keeper knows nothing of ends with its kernel. One that was written in place under a kernel
//! that died is followed ([`following`](super::following)).
//! Invariant: it exits, and its tree ends, with its output, whoever ended that; so it has exactly one of each end. Where the
//! keeper holds it both are told by the keeper: what had ended when a kernel died has.

use super::following::Followed;
use super::processes::{Phase, Process};
use super::shared::is_left;
use super::sources::hold_ring;
use super::table::Place;
use super::{Kind, Reactor, Turn};
use crate::command::{OutletKind, Spawn};
use crate::control::{Descriptors, ExitStatus, Notice, Outcome, SpawnFailure, SpawnStage, Usage};
use crate::driver::Driver;
use crate::driver::op::{Interest, Op};
use crate::keeper::link;
use crate::keeper::protocol::VERSION_PRODUCES;
use crate::key::{Channel, ProcessKey, Ticket};
use crate::points::{Point, reach};
use crate::stream::history::History;
use crate::stream::source::Source;
use kairo_shm::layout::End as Why;
use kairo_shm::producer::Lent;
use kairo_shm::seat::Closed;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A process whose output a client writes.
#[derive(Debug)]
pub(super) struct Produced {
    /// How it exits with it; none once it has.
    status: Option<ExitStatus>,
    /// The keeper has it.
    held: bool,
}

impl Default for Produced {
    fn default() -> Produced {
        Produced { status: Some(ExitStatus::Code(0)), held: false }
    }
}

impl Produced {
    /// Of a dead kernel.
    pub(super) fn inherited(runs: bool) -> Produced {
        Produced { status: runs.then_some(ExitStatus::Code(0)), held: true }
    }
}

/// What the reactor has of a producer that writes in place.
#[derive(Debug)]
pub(super) struct Lending<F> {
    pub(super) doorbell: F,
    /// True exactly while a poll of the doorbell is in flight.
    pub(super) armed: bool,
    /// A former kernel lent it.
    pub(super) followed: Option<Followed>,
}

impl<D: Driver> Reactor<D> {
    /// Gives a process that is in the tables its writing end, for whoever asked.
    pub(super) fn publish(&mut self, spawn: Spawn, kind: OutletKind) {
        if self.lane.speaks(VERSION_PRODUCES).is_none() {
            return self.lane.await_greeting_for(spawn);
        }
        let key = spawn.process;
        let Some(place) = self.place_of_process(key) else { return };
        match self.writing_end(place, &spawn, kind) {
            Ok((descriptors, bytes)) => {
                self.open_accounts(place);
                reach(Point::ProducerHeld);
                for channel in Channel::ALL {
                    self.begin_spool(place, channel, false);
                }
                self.arm_source(place, Channel::Stdout);
                self.notices.push_back(Notice::Published { process: key, descriptors, bytes });
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::ENOSYS);
                self.spawn_failed(key, SpawnFailure { stage: SpawnStage::Resources, errno });
            }
        }
    }

    fn writing_end(
        &mut self,
        place: Place,
        spawn: &Spawn,
        kind: OutletKind,
    ) -> io::Result<(Descriptors, usize)> {
        let bytes = match kind {
            OutletKind::Pipe { bytes } => bytes,
            OutletKind::Shared => return self.lend(place, spawn),
            OutletKind::Socket | OutletKind::Fifo { .. } => return Err(io::ErrorKind::Unsupported.into()),
        };
        let (fd, theirs, bytes) = self.driver.inlet(bytes as usize)?;
        let held = self.hold_producer(spawn, u32::try_from(bytes).ok(), std::slice::from_ref(&fd));
        let Some(process) = self.processes.get_mut(place) else { return Err(io::ErrorKind::NotFound.into()) };
        process.produced = Some(Produced { held, ..Produced::default() });
        process.begin_without_a_child();
        process.meter.streams[0]
            .pipe_bytes
            .store(u32::try_from(bytes).unwrap_or(u32::MAX), Ordering::Relaxed);
        process.streams[0].source = Some(Source { fd, terminal: false, armed: false });
        Ok((Descriptors(Arc::new(vec![theirs])), bytes))
    }

    /// Has the keeper hold what a process is written by, before anybody can write. True if it does.
    fn hold_producer(&mut self, spawn: &Spawn, pipe_bytes: Option<u32>, ends: &[D::Fd]) -> bool {
        if self.lane.speaks(VERSION_PRODUCES) != Some(true) {
            return false;
        }
        let encode = |packet: &mut Vec<u8>| link::encode_hold_producer(spawn, pipe_bytes, packet);
        let told = self.lane.send(&mut self.driver, encode, ends);
        told.inspect_err(|error| tracing::warn!(%error, "a published stream ends with this kernel")).is_ok()
    }

    /// A ring that is written in place, its page and a doorbell.
    fn lend(&mut self, place: Place, spawn: &Spawn) -> io::Result<(Descriptors, usize)> {
        let Some(process) = self.processes.get_mut(place) else { return Err(io::ErrorKind::NotFound.into()) };
        let tail_bytes = process.streams[0].history.size().tail_bytes;
        let ring = Lent::create(tail_bytes as usize).map_err(io::Error::other)?;
        let bytes = ring.geometry().tail_bytes;
        let (doorbell, theirs, _) = self.driver.outlet(OutletKind::Shared)?;
        let ends = [self.import_copy(ring.ring())?, self.import_copy(ring.page())?, doorbell.clone()];
        let held = self.hold_producer(spawn, None, &ends);
        if held {
            // Before there is anybody who could write.
            hold_ring(&mut self.driver, &mut self.lane, spawn.process, Channel::Stdout, ring.account());
        }
        let parts = [ring.ring().try_clone_to_owned()?, ring.page().try_clone_to_owned()?, theirs];
        let Some(process) = self.processes.get_mut(place) else { return Err(io::ErrorKind::NotFound.into()) };
        process.produced = Some(Produced { held, ..Produced::default() });
        process.begin_without_a_child();
        process.streams[0].history = History::lent(ring);
        process.lending = Some(Lending { doorbell, armed: false, followed: None });
        self.arm_lending(place);
        Ok((Descriptors(Arc::new(parts.into())), bytes))
    }

    fn import_copy(&mut self, fd: BorrowedFd<'_>) -> io::Result<D::Fd> {
        Ok(self.driver.import(fd.try_clone_to_owned()?))
    }

    pub(super) fn arm_lending(&mut self, place: Place) {
        let Some(lending) = self.processes.get_mut(place).and_then(|process| process.lending.as_mut()) else {
            return;
        };
        if !std::mem::replace(&mut lending.armed, true) {
            let poll = Op::Poll(lending.doorbell.clone(), Interest::Read);
            self.driver.submit(Kind::Stdout.token(place), poll);
        }
    }

    /// True if a client writes this process's output in place, whose bell this was.
    pub(super) fn bell_of_producer(&mut self, place: Place) -> bool {
        let Some(process) = self.processes.get_mut(place) else { return false };
        let Some(lending) = &mut process.lending else { return false };
        lending.armed = false;
        let gone = is_left(&mut self.driver, &lending.doorbell);
        if let Some(followed) = &mut lending.followed {
            followed.gone |= gone;
            self.follow(place);
            return true;
        }
        // It rings first when it has mapped the ring.
        let settled = process.streams[0].history.lending().is_some_and(|ring| ring.settle().is_ok());
        if !settled {
            tracing::warn!("a producer has sealed its ring, which isn't its to do");
            process.exits_with(ExitStatus::Code(1));
            self.stop_lending(place, Why::Broken);
            return true;
        }
        // Asked before the look, which then is the last that is needed.
        let process = self.processes.get_mut(place);
        let over = process
            .and_then(|process| process.streams[0].history.lending())
            .is_some_and(|ring| ring.is_ended());
        self.run_lent(place);
        match gone || over {
            true => self.stop_lending(place, Why::Complete),
            false => self.arm_lending(place),
        }
        true
    }

    /// Looks how far a producer has come, hands that on, and gives it room.
    pub(super) fn run_lent(&mut self, place: Place) {
        const STDOUT: usize = Channel::Stdout as usize;
        let Some(process) = self.processes.get_mut(place) else { return };
        match &process.lending {
            None => return,
            Some(Lending { followed: Some(_), .. }) => return self.follow(place),
            Some(Lending { followed: None, .. }) => {}
        }
        let before = process.meter.streams[STDOUT].taken_bytes.get();
        let Some(looked) = process.streams[STDOUT].history.lending().map(Lent::look) else { return };
        let Ok(taken) = looked else {
            tracing::warn!(slot = place.slot, "a producer says what can't be");
            process.exits_with(ExitStatus::Code(1));
            return self.stop_lending(place, Why::Broken);
        };
        process.meter.streams[STDOUT].taken_bytes.set(taken);
        if taken > before {
            self.moved(place, Channel::Stdout, (taken - before) as usize);
            self.spool_taken(place, Channel::Stdout);
            self.deliver_all(place);
        }
        if self.give_room(place) && self.ask_shared(place, Channel::Stdout) && !self.give_room(place) {
            self.resume_source(place, Channel::Stdout);
        }
    }

    /// True if somebody's wish keeps a producer from as much as it could have.
    fn give_room(&mut self, place: Place) -> bool {
        let pinned = self.pinned(place, Channel::Stdout);
        let Some(process) = self.processes.get_mut(place) else { return false };
        let stream = &mut process.streams[Channel::Stdout as usize];
        // Whoever is sent bytes, or writes them to disk, is to have them at once.
        let eager = process.readers.len() > stream.shared as usize || stream.spool.is_some();
        let Some(ring) = stream.history.lending() else { return false };
        let held = ring.grant(pinned, eager);
        // It may have come so far before it knew that this was to be heard of.
        let due = ring.is_due();
        match held {
            true => self.pause_source(place, Channel::Stdout),
            false => self.resume_source(place, Channel::Stdout),
        }
        if due {
            self.later(Turn::Source(place, Channel::Stdout));
        }
        held
    }

    /// Nothing more comes from a producer.
    pub(super) fn stop_lending(&mut self, place: Place, why: Why) {
        if let Some(process) = self.processes.get_mut(place) {
            process.streams[0].history.end(why);
        }
        self.close_stream(place, Channel::Stdout);
    }

    /// The producer of a process that is closed, or forgotten, is told so. True if it had one.
    pub(super) fn part_from_producer(&mut self, place: Place) -> bool {
        let Some(process) = self.processes.get_mut(place) else { return false };
        let Some(lending) = process.lending.take() else { return false };
        if let Some(followed) = &lending.followed {
            followed.ring.close(Closed::Ended);
        }
        if let Some(ring) = process.streams[0].history.lending() {
            ring.close(Closed::Ended);
        }
        let (key, held) = (process.key, !process.is_unheld());
        // The keeper lets go of what was written in place: what is left of it is held as of any other.
        match process.streams[0].history.lending().filter(|_| held).map(|ring| ring.last()) {
            Some(Ok(ring)) => hold_ring(&mut self.driver, &mut self.lane, key, Channel::Stdout, &ring),
            Some(Err(error)) => {
                tracing::warn!(%error, "a stream that ends now is not kept for a next kernel")
            }
            None => {}
        }
        if lending.armed {
            self.driver.cancel(Kind::Stdout.token(place));
        }
        true
    }

    /// The output of a process has ended. If a client wrote it, so has the process.
    pub(super) fn producer_over(&mut self, place: Place) {
        let at_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        let Some(Produced { status, held }) = &mut process.produced else { return };
        let Some(status) = status.take() else { return };
        let (key, usage) = (process.key, Usage::default());
        if *held {
            self.tell_keeper(|packet| link::encode_end_producer(key, status, packet));
            return reach(Point::ProducerEnded);
        }
        process.exit_without_a_child();
        self.notices.push_back(Notice::Exited { process: key, status, usage, at_ns });
        self.notices.push_back(Notice::Ended { process: key });
    }

    /// A signal for a process that has no child: one that ends others ends its output. False if there is a child.
    pub(super) fn signal_producer(&mut self, key: ProcessKey, signal: i32, ticket: Option<Ticket>) -> bool {
        let Some(place) = self.place_of_process(key) else { return false };
        if self.is_produced(key) {
            self.run_lent(place);
        }
        let Some(process) = self.processes.get_mut(place) else { return false };
        let Some(produced) = &mut process.produced else { return false };
        let ends =
            [libc::SIGTERM, libc::SIGKILL, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT].contains(&signal);
        let mut processes = 0;
        if let Some(status) = produced.status.as_mut().filter(|_| ends) {
            *status = ExitStatus::Signal { signal, core: false };
            processes = 1;
            self.close_stream(place, Channel::Stdout);
        }
        if let Some(ticket) = ticket {
            self.done(ticket, Ok(Outcome::Signalled { processes }));
        }
        true
    }

    /// The keeper says that it is over: nothing more is taken.
    pub(super) fn stop_producer(&mut self, place: Place) {
        let Some(process) = self.processes.get_mut(place) else { return };
        if let Some(produced) = &mut process.produced {
            produced.status = None;
            self.close_stream(place, Channel::Stdout);
        }
    }

    /// True if the keeper has never heard of this process.
    pub(super) fn is_unheld(&self, key: ProcessKey) -> bool {
        self.place_of_process(key).and_then(|place| self.processes.get(place)).is_some_and(Process::is_unheld)
    }

    /// True if a client writes this process's output.
    pub(super) fn is_produced(&self, key: ProcessKey) -> bool {
        let process = self.place_of_process(key).and_then(|place| self.processes.get(place));
        process.is_some_and(|process| process.produced.is_some())
    }
}

impl<F> Process<F> {
    /// The keeper has never heard of it.
    pub(super) fn is_unheld(&self) -> bool {
        self.produced.as_ref().is_some_and(|produced| !produced.held)
    }

    /// How it exits, if it hasn't.
    pub(super) fn exits_unless_over(&mut self, status: ExitStatus) {
        if let Some(Produced { status: Some(current), .. }) = &mut self.produced {
            *current = status;
        }
    }

    /// How it exits once its output ends.
    pub(super) fn exits_with(&mut self, status: ExitStatus) {
        if let Some(produced) = &mut self.produced {
            produced.status = Some(status);
        }
    }

    /// It runs, and has one output and no input.
    fn begin_without_a_child(&mut self) {
        self.phase = Phase::Running;
        self.meter.stdin_closed.store(true, Ordering::Relaxed);
        self.streams[1].spool = None;
        self.streams[1].closed = true;
        self.meter.streams[1].closed.store(true, Ordering::Relaxed);
    }

    /// It has exited with its output.
    fn exit_without_a_child(&mut self) {
        self.phase = Phase::Exited;
        for stream in &mut self.streams {
            stream.exit_mark = stream.history.total();
        }
    }
}
