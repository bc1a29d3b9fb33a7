//! Paths that programs write a process's stdin by.
//!
//! ```text
//!  unopened ──opened──▶ fifo ─read, when nothing waits─▶ inbox ─▶ stdin      the end of its writers ─▶ the end of stdin, if wished
//! ```
//!
//! What is read goes the way of any write, so it is counted, outlives the kernel from there on, and works for a terminal too; and
//! a child that doesn't read makes the writers wait. Invariant: nothing is read from a fifo while something waits for its child.

use super::fifos::Whose;
use super::table::Place;
use super::{Kind, Reactor};
use crate::command::NamedInlet;
use crate::control::{Failure, Notice, Outcome};
use crate::driver::Driver;
use crate::driver::op::{Interest, Op};
use crate::key::{ProcessKey, Ticket};
use crate::limits::{INBOX_BYTES, PIPE_BYTES, TURN_BYTES_MAX};
use crate::sys::fifo::{Plug, Side};
use std::io;

/// Our end of one.
#[derive(Debug)]
pub(super) struct Inlet<F> {
    fd: F,
    /// Nobody has opened it yet.
    plug: Option<Plug>,
    /// Stdin is closed with it.
    closes: bool,
    /// True exactly while a poll is in flight.
    armed: bool,
}

impl<D: Driver> Reactor<D> {
    /// Makes a path that a process's stdin can be written by, and tells where it is.
    pub(super) fn open_inlet(&mut self, key: ProcessKey, wish: &NamedInlet, ticket: Ticket) {
        let made = self.make_inlet(key, wish);
        self.done(ticket, made);
    }

    fn make_inlet(&mut self, key: ProcessKey, wish: &NamedInlet) -> Result<Outcome, Failure> {
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
        if let Some(process) = self.processes.get_mut(place) {
            process.inlet = Some(Inlet { fd, plug: Some(plug), closes: wish.closes, armed: false });
        }
        self.await_opening(Whose::Input(place), watch, wish.wait_ns);
        Ok(Outcome::Named { path, bytes })
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
            let mut piece = vec![0; INBOX_BYTES];
            self.take_from_inlet(place, &mut piece);
        }
    }

    /// Takes what is there, until the child has enough; it goes on when that has all.
    fn take_from_inlet(&mut self, place: Place, piece: &mut [u8]) {
        let mut turn_bytes = 0;
        while turn_bytes < TURN_BYTES_MAX {
            let Some(process) = self.processes.get_mut(place) else { return };
            let Some(inlet) = &process.inlet else { return };
            if process.is_starting() || process.inflow.is_waiting() {
                return;
            }
            match self.driver.read(&inlet.fd, piece) {
                Ok(0) => return self.inlet_ended(place),
                Ok(bytes) => {
                    let (key, data) = (process.key, bytes::Bytes::copy_from_slice(&piece[..bytes]));
                    self.write(key, data, None, Ticket::NOBODYS);
                    turn_bytes += bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(%error, "what is written to a stdin can't be read");
                    return self.inlet_ended(place);
                }
            }
        }
        self.await_inlet(place);
    }

    /// Its writers are gone.
    fn inlet_ended(&mut self, place: Place) {
        let Some(process) = self.processes.get(place) else { return };
        let (key, closes) = (process.key, process.inlet.as_ref().is_some_and(|inlet| inlet.closes));
        self.end_inlet(place);
        if closes {
            self.close_stdin(key, Ticket::NOBODYS);
        }
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
        self.notices.push_back(Notice::InletOver { process });
    }
}
