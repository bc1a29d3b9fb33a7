//! Stdin and terminals, from a command to the child: which process a write is for, when it goes on, who is answered.
//!
//! How bytes get in, and how that is accounted for, is [`inflow`](crate::stream::inflow)'s. Invariant: nothing leaves an
//! inbox that the keeper has not been given.

use super::processes::Process;
use super::readers::refusal;
use super::table::Place;
use super::{Kind, Reactor, Turn};
use crate::control::{Descriptors, Failure, Notice, Outcome};
use crate::driver::Driver;
use crate::driver::op::{Interest, Op};
use crate::keeper::link;
use crate::keeper::protocol::End;
use crate::key::{ProcessKey, Ticket, WriteKey};
use crate::stream::inflow::Answer;
use crate::stream::source::{TakeError, input_name};
use bytes::Bytes;
use kairo_shm::layout::RingError;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl<F: Clone> Process<F> {
    /// Publishes what waits to go in.
    fn note_parked(&mut self, now_ns: u64) {
        let parked_bytes = self.inflow.parked_bytes();
        self.meter.stdin_parked_bytes.set(parked_bytes);
        self.parked.set(parked_bytes > 0, now_ns, &self.meter.stdin_parked_ns);
    }
}

impl<D: Driver> Reactor<D> {
    pub(super) fn write(&mut self, key: ProcessKey, data: Bytes, write: Option<WriteKey>, ticket: Ticket) {
        self.with_input(key, ticket, |inflow, answers| inflow.write(&data, write, ticket, answers));
    }

    pub(super) fn close_stdin(&mut self, key: ProcessKey, ticket: Ticket) {
        self.close_stdin_once(key, None, ticket);
    }

    /// The same; what was closed with that mark before isn't once more, whoever did it.
    pub(super) fn close_stdin_once(&mut self, key: ProcessKey, mark: Option<WriteKey>, ticket: Ticket) {
        let place = self.place_of_process(key);
        let inflow = place.and_then(|place| Some(&self.processes.get(place)?.inflow));
        let terminal = inflow.filter(|inflow| inflow.is_terminal()).and_then(|inflow| inflow.fd().cloned());
        // Ctrl-D, unless the terminal was told otherwise.
        let veof = terminal.map(|terminal| self.driver.eof_character(&terminal).unwrap_or(4));
        self.with_input(key, ticket, |inflow, answers| match inflow.fd() {
            Some(_) => inflow.close(veof, mark, ticket),
            None => {
                let offset = inflow.written();
                answers.push((ticket, Err(Failure::BrokenPipe { offset })));
                Ok(())
            }
        });
    }

    /// Gives the writing end away, once all that was taken is through.
    pub(super) fn hand_stdin(&mut self, key: ProcessKey, ticket: Ticket) {
        let place = self.place_of_process(key);
        let Some((place, process)) = place.and_then(|place| Some((place, self.processes.get_mut(place)?)))
        else {
            return self.done(ticket, Err(Failure::Gone));
        };
        let inflow = &mut process.inflow;
        let outcome = match inflow.fd() {
            None => Err(Failure::BrokenPipe { offset: inflow.written() }),
            Some(_) if inflow.is_closed() => Err(Failure::BrokenPipe { offset: inflow.written() }),
            Some(_) if inflow.is_waiting() => Err(Failure::WouldBlock),
            Some(fd) => self.driver.hand_over(fd).map_err(|error| refusal(&error)),
        };
        let descriptor = match outcome {
            Ok(descriptor) => descriptor,
            Err(failure) => return self.done(ticket, Err(failure)),
        };
        let bytes = inflow.pipe_bytes();
        let mut answers = Vec::new();
        inflow.fail(&mut answers);
        self.done(
            ticket,
            Ok(Outcome::Opened { descriptors: Descriptors(Arc::new(vec![descriptor])), bytes }),
        );
        self.input_closed(place, answers);
    }

    fn with_input(
        &mut self,
        key: ProcessKey,
        ticket: Ticket,
        take: impl FnOnce(&mut super::processes::Input<D>, &mut Vec<Answer>) -> Result<(), RingError>,
    ) {
        let place = self.place_of_process(key);
        let Some((place, process)) = place.and_then(|place| Some((place, self.processes.get_mut(place)?)))
        else {
            return self.done(ticket, Err(Failure::Gone));
        };
        let mut answers = Vec::new();
        if let Err(error) = take(&mut process.inflow, &mut answers) {
            tracing::warn!(%error, "no memory for what is written to a child");
            answers.push((ticket, Err(Failure::WouldBlock)));
        }
        self.answer_input(answers);
        self.push_input(place);
    }

    pub(super) fn abandon_write(&mut self, key: ProcessKey, ticket: Ticket) {
        let now_ns = self.at.monotonic_ns;
        let Some(place) = self.place_of_process(key) else { return };
        let Some(process) = self.processes.get_mut(place) else { return };
        match process.inflow.abandon(ticket) {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => tracing::warn!(%error, "a write that was given up goes in all the same"),
        }
        process.note_parked(now_ns);
        let offset = process.inflow.written();
        self.done(ticket, Ok(crate::control::Outcome::Written { offset }));
        self.push_input(place);
    }

    pub(super) fn stdin_ready(&mut self, place: Place) {
        if let Some(process) = self.processes.get_mut(place) {
            (process.inflow.armed, process.inflow.woken) = (false, true);
            self.push_input(place);
        }
    }

    /// Lets what waits go in, as far as the child takes it, and what another process writes for it.
    pub(super) fn push_input(&mut self, place: Place) {
        match self.processes.get(place).and_then(|process| process.feeding) {
            Some(_) => self.feed(place),
            None => self.move_input(place),
        }
    }

    /// Lets what waits go in, as far as the child takes it.
    pub(super) fn move_input(&mut self, place: Place) {
        let Some(process) = self.processes.get_mut(place) else { return };
        if process.is_starting() {
            return;
        }
        let key = process.key;
        let mut answers = Vec::new();
        if process.inflow.fd().is_none() {
            process.inflow.fail(&mut answers);
        } else if let Err(error) = self.hold_inbox(place) {
            tracing::warn!(%error, "an inbox is not kept");
        }
        if self.lane.is_full() {
            // What is not in the keeper's hands must not leave: it could not be accounted for.
            self.answer_input(answers);
            return self.once_lane_is_free(Turn::Input(place));
        }
        let pushed = self.push_through_staging(place, key, &mut answers);
        let closed = pushed.unwrap_or_else(|error| {
            tracing::error!(%error, "nothing can be written to a child any more");
            true
        });
        if let Err(error) = self.hold_inbox(place) {
            tracing::warn!(%error, "an inbox is not kept");
        }
        let now_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        process.meter.stdin_bytes.set(process.inflow.written());
        process.note_parked(now_ns);
        process.meter.stdin_closed.store(process.inflow.is_closed(), Ordering::Relaxed);
        if closed {
            process.inflow.fail(&mut answers);
            return self.input_closed(place, answers);
        }
        if process.inflow.is_waiting() {
            self.await_stdin(place);
        } else {
            self.await_inlet(place);
        }
        self.answer_input(answers);
    }

    /// Goes on when the child takes more.
    pub(super) fn await_stdin(&mut self, place: Place) {
        let Some(process) = self.processes.get_mut(place) else { return };
        if let Some(fd) = process.inflow.fd()
            && !process.inflow.armed
        {
            let poll = Op::Poll(fd.clone(), Interest::Write);
            process.inflow.armed = true;
            self.driver.submit(Kind::Stdin.token(place), poll);
        }
    }

    fn push_through_staging(
        &mut self,
        place: Place,
        key: ProcessKey,
        answers: &mut Vec<Answer>,
    ) -> Result<bool, TakeError> {
        if self.staging.is_none() {
            self.staging = Some(self.open_staging()?);
        }
        let Some(staging) = &self.staging else { return Ok(false) };
        let Some(process) = self.processes.get_mut(place) else { return Ok(false) };
        Ok(process.inflow.push(&mut self.driver, staging, input_name(key), answers)?)
    }

    /// Gives the keeper an inbox it doesn't have yet.
    pub(super) fn hold_inbox(&mut self, place: Place) -> std::io::Result<()> {
        let Some(process) = self.processes.get_mut(place) else { return Ok(()) };
        let key = process.key;
        let Some(inbox) = process.inflow.take_unheld() else { return Ok(()) };
        let fd = self.driver.import(inbox.descriptor().try_clone_to_owned()?);
        self.lane.send(&mut self.driver, |packet| link::encode_hold_input(key, packet), &[fd])
    }

    pub(super) fn input_closed(&mut self, place: Place, answers: Vec<Answer>) {
        let now_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        let (key, terminal) = (process.key, process.inflow.is_terminal());
        process.meter.stdin_closed.store(true, Ordering::Relaxed);
        process.meter.stdin_parked_bytes.set(0);
        process.parked.set(false, now_ns, &process.meter.stdin_parked_ns);
        if std::mem::take(&mut process.inflow.armed) {
            self.driver.cancel(Kind::Stdin.token(place));
        }
        // A terminal's input is no end of its own.
        if !terminal {
            self.close_end(key, End::Stdin);
        }
        self.input_accounted(place);
        self.answer_input(answers);
        self.end_inlet(place);
        self.feed_over(place);
    }

    /// Of an input that is over how much went in is all that is to be kept.
    pub(super) fn input_accounted(&mut self, place: Place) {
        let Some(process) = self.processes.get_mut(place) else { return };
        if process.inflow.fd().is_none()
            && process.inflow.has_inbox()
            && !process.releasing.contains(&End::Stdin)
        {
            process.releasing.push(End::Stdin);
            let written = process.inflow.written();
            self.notices.push_back(Notice::InputClosed { process: process.key, written });
        }
    }

    fn answer_input(&mut self, answers: Vec<Answer>) {
        for (ticket, outcome) in answers {
            self.done(ticket, outcome);
        }
    }
}
