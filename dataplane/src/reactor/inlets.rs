//! Paths that programs write a process's stdin by, held by the keeper too, so that no kernel's death is an end to them.
//!
//! ```text
//!  unopened ──opened──▶ fifo ─splice, when nothing waits─▶ output staging pipe ─▶ inbox ─▶ stdin
//!                                                       the end of its writers ─▶ the end of stdin, if wished
//! ```
//!
//! What is read goes the way of any write from the inbox on, so it is counted, and works for a terminal too; and a child that
//! doesn't read makes the writers wait. How it gets there, to the byte, is [`intake`](crate::stream::intake)'s. The keeper has our
//! end before anybody is told of the path, so whoever comes after a kill goes on at the byte, whether it was opened by then or
//! not; and it lets go of it when the inlet ends, after stdin is closed in the inbox: a writer's end is found again until then.
//! What an earlier keeper doesn't hold ends with its kernel. Invariant: nothing is read from a fifo while something waits for its
//! child.

use super::fifos::Whose;
use super::table::Place;
use super::{Kind, Reactor, Turn};
use crate::command::NamedInlet;
use crate::control::{Failure, Notice, Outcome};
use crate::driver::Driver;
use crate::driver::op::{Interest, Op};
use crate::keeper::link;
use crate::keeper::protocol::VERSION_LETS_IN;
use crate::key::{ProcessKey, Ticket, WriteKey};
use crate::limits::{PIPE_BYTES, TURN_BYTES_MAX};
use crate::points::{Point, reach};
use crate::stream::source::{TakeError, Taken, inlet_name};
use crate::sys::fifo::{Plug, Side};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Our end of one.
#[derive(Debug)]
pub(super) struct Inlet<F> {
    fd: F,
    /// Nobody has opened it yet.
    plug: Option<Plug>,
    /// Stdin is closed with it.
    closes: bool,
    /// Says of the end of a terminal's input that it was by this one.
    mark: WriteKey,
    /// Whoever asked is told when the keeper has it: where it is, and its capacity.
    untold: Option<(Ticket, PathBuf, usize)>,
    /// The keeper has it.
    held: bool,
    /// True exactly while a poll is in flight.
    armed: bool,
}

/// A fifo of a dead kernel that a stdin is written by.
#[derive(Debug)]
pub struct AdoptedInlet {
    /// Our end of it.
    pub fd: OwnedFd,
    /// Where it is, if nobody has opened it.
    pub path: PathBuf,
    /// Until when it waits for that, CLOCK_MONOTONIC nanoseconds.
    pub until_ns: u64,
    /// Stdin is closed when its last writer has closed it.
    pub closes: bool,
}

/// What came of reading one.
enum Step {
    Taken(Taken),
    /// Not before its child has what it was given, or the keeper what it is to hold.
    Later,
}

impl<D: Driver> Reactor<D> {
    /// Makes a path that a process's stdin can be written by, and tells where it is.
    pub(super) fn open_inlet(&mut self, key: ProcessKey, wish: Box<NamedInlet>, ticket: Ticket) {
        if self.lane.speaks(VERSION_LETS_IN).is_none() {
            return self.lane.await_greeting_with(key, wish, ticket);
        }
        match self.make_inlet(key, &wish, ticket) {
            Ok(place) => self.tell_inlet(place),
            Err(failure) => self.done(ticket, Err(failure)),
        }
    }

    fn make_inlet(&mut self, key: ProcessKey, wish: &NamedInlet, ticket: Ticket) -> Result<Place, Failure> {
        let place = self.place_of_process(key).ok_or(Failure::Gone)?;
        let process = self.processes.get(place).ok_or(Failure::Gone)?;
        if process.inflow.is_closed() {
            return Err(Failure::BrokenPipe { offset: process.inflow.written() });
        }
        if process.inlet.is_some() {
            return Err(Failure::WouldBlock);
        }
        let (fd, plug, bytes) = self.make_fifo(&wish.name, wish.user, Side::Writes, PIPE_BYTES)?;
        let (watch, path) = (plug.watch, plug.path().to_path_buf());
        let held = self.hold_inlet(key, &fd, &path, wish);
        reach(Point::InletHeld);
        let mark = mark_of(&path);
        let untold = Some((ticket, path, bytes));
        if let Some(process) = self.processes.get_mut(place) {
            let (plug, closes, armed) = (Some(plug), wish.closes, false);
            process.inlet = Some(Inlet { fd, plug, closes, mark, untold, held, armed });
        }
        self.await_opening(Whose::Input(place), watch, wish.wait_ns);
        Ok(place)
    }

    /// Has the keeper hold our end. False if it ends with this kernel.
    fn hold_inlet(&mut self, key: ProcessKey, fd: &D::Fd, path: &Path, wish: &NamedInlet) -> bool {
        if self.lane.speaks(VERSION_LETS_IN) != Some(true) {
            return false;
        }
        let (path, closes, note) = (path.as_os_str().as_bytes(), wish.closes, &wish.note);
        let until_ns = self.at.monotonic_ns.saturating_add(wish.wait_ns);
        let encode =
            |packet: &mut Vec<u8>| link::encode_hold_inlet(key, path, until_ns, closes, note, packet);
        let sent = self.lane.send(&mut self.driver, encode, std::slice::from_ref(fd));
        sent.inspect_err(|error| tracing::warn!(%error, "a stdin's fifo ends with this kernel")).is_ok()
    }

    /// Tells whoever asked where an inlet is, once nothing that is written there can be lost any more.
    pub(super) fn tell_inlet(&mut self, place: Place) {
        if self.lane.is_full() {
            return self.once_lane_is_free(Turn::Inlet(place));
        }
        let inlet = self.processes.get_mut(place).and_then(|process| process.inlet.as_mut());
        if let Some((ticket, path, bytes)) = inlet.and_then(|inlet| inlet.untold.take()) {
            self.done(ticket, Ok(Outcome::Named { path, bytes }));
        }
    }

    /// Goes on with one of a dead kernel.
    pub(super) fn inherit_inlet(&mut self, place: Place, inlet: AdoptedInlet) {
        let AdoptedInlet { fd, path, until_ns, closes } = inlet;
        let mark = mark_of(&path);
        let plug = self.resume_fifo(&fd, path);
        let (fd, untold, held, armed) = (self.driver.import(fd), None, true, false);
        let Some(process) = self.processes.get_mut(place) else { return };
        // What a closed input is written by was about to end.
        let is_over = process.inflow.fd().is_none() || plug.is_err();
        let plug = plug
            .inspect_err(|error| tracing::warn!(%error, "nobody can write to a stdin by its path any more"))
            .unwrap_or_default();
        let watch = plug.as_ref().map(|plug| plug.watch);
        process.inlet = Some(Inlet { fd, plug, closes, mark, untold, held, armed });
        if is_over {
            return self.end_inlet(place);
        }
        if let Some(watch) = watch {
            self.await_opening(Whose::Input(place), watch, until_ns.saturating_sub(self.at.monotonic_ns));
        }
    }

    /// What the keeper has goes on without us, by its name too if nobody has opened it.
    pub(super) fn leave_inlets(&mut self) {
        for place in self.processes.places() {
            let inlet = self.processes.get_mut(place).and_then(|process| process.inlet.as_mut());
            let plug = inlet.filter(|inlet| inlet.held).and_then(|inlet| inlet.plug.take());
            if let Some(plug) = plug {
                plug.leave();
            }
        }
    }

    /// Somebody writes there from now on.
    pub(super) fn inlet_opened(&mut self, place: Place) {
        if let Some(inlet) = self.processes.get_mut(place).and_then(|process| process.inlet.as_mut()) {
            inlet.plug = None;
            self.await_inlet(place);
        }
    }

    /// Comes back when something was written there.
    pub(super) fn await_inlet(&mut self, place: Place) {
        if let Some(inlet) = self.processes.get_mut(place).and_then(|process| process.inlet.as_mut())
            && inlet.plug.is_none()
            && !std::mem::replace(&mut inlet.armed, true)
        {
            self.driver.submit(Kind::Inlet.token(place), Op::Poll(inlet.fd.clone(), Interest::Read));
        }
    }

    pub(super) fn inlet_ready(&mut self, place: Place) {
        if let Some(inlet) = self.processes.get_mut(place).and_then(|process| process.inlet.as_mut()) {
            inlet.armed = false;
            self.take_from_inlet(place);
        }
    }

    /// Takes what is there, until the child has enough; it goes on when that has all.
    fn take_from_inlet(&mut self, place: Place) {
        let mut turn_bytes = 0;
        while turn_bytes < TURN_BYTES_MAX {
            match self.take_piece(place) {
                Ok(Step::Taken(Taken::Bytes(bytes))) => {
                    self.push_input(place);
                    turn_bytes += bytes;
                }
                Ok(Step::Taken(Taken::Nothing)) => break,
                Ok(Step::Taken(Taken::End)) => return self.inlet_ended(place),
                Ok(Step::Later) => return,
                Err(error) => {
                    tracing::error!(%error, "what is written to a stdin can't be read");
                    return self.inlet_ended(place);
                }
            }
        }
        self.await_inlet(place);
    }

    /// Takes a piece into the inbox.
    fn take_piece(&mut self, place: Place) -> Result<Step, TakeError> {
        let Some(process) = self.processes.get_mut(place) else { return Ok(Step::Later) };
        // An answer may be to a poll of the inlet before this one, which nobody has opened: it would seem to have ended.
        let is_open = process.inlet.as_ref().is_some_and(|inlet| inlet.plug.is_none());
        if !is_open || process.inflow.is_waiting() || !process.inflow.let_in()? {
            return Ok(Step::Later);
        }
        if let Err(error) = self.hold_inbox(place) {
            tracing::warn!(%error, "an inbox is not kept");
        }
        if self.lane.is_full() {
            // What leaves the fifo must have a place that somebody else knows.
            self.once_lane_is_free(Turn::Input(place));
            return Ok(Step::Later);
        }
        if self.staging.is_none() {
            self.staging = Some(self.open_staging()?);
        }
        let Some(staging) = &self.staging else { return Ok(Step::Later) };
        let Some(process) = self.processes.get_mut(place) else { return Ok(Step::Later) };
        let Some(inlet) = &process.inlet else { return Ok(Step::Later) };
        let name = inlet_name(process.key);
        Ok(Step::Taken(process.inflow.take_in(&mut self.driver, &inlet.fd, staging, name)?))
    }

    /// Its writers are gone.
    fn inlet_ended(&mut self, place: Place) {
        reach(Point::InletEnded);
        let Some(process) = self.processes.get(place) else { return };
        let Some(Inlet { closes, mark, .. }) = process.inlet else { return };
        if closes {
            // Before the keeper lets go of it: whoever comes after a kill finds the one or the other.
            self.close_stdin_once(process.key, Some(mark), Ticket::NOBODYS);
            reach(Point::InletClosed);
        }
        self.end_inlet(place);
    }

    /// Nothing more comes by it.
    pub(super) fn end_inlet(&mut self, place: Place) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let (process, Some(inlet)) = (process.key, process.inlet.take()) else { return };
        if let Some(plug) = &inlet.plug {
            self.part_from_fifo(Whose::Input(place), plug);
        }
        if inlet.armed {
            self.driver.cancel(Kind::Inlet.token(place));
        }
        if let Some((ticket, ..)) = inlet.untold {
            self.done(ticket, Err(Failure::Gone));
        }
        if inlet.held {
            self.tell_keeper(|packet| link::encode_drop_inlet(process, packet));
        }
        self.notices.push_back(Notice::InletOver { process });
    }
}

/// The same for whoever goes on with it, and for no other: nobody can guess its name.
fn mark_of(path: &Path) -> WriteKey {
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    // FNV-1a, from two beginnings.
    let digest = |seed: u64| {
        name.iter().fold(seed, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    };
    WriteKey { key: [digest(0xcbf2_9ce4_8422_2325), digest(0x6c62_272e_07bb_0142)], body: 0 }
}
