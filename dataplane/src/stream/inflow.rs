//! The way into a child: its stdin, or its terminal.
//!
//! ```text
//!  writes ─▶ inbox (T: in the child's pipe, A: taken) ──steps──▶ child
//! ```
//!
//! Writes are taken whole and in order, into an inbox that the keeper holds, and answered when their last byte is in the
//! child's pipe. They go in by the [`steps`](crate::stream::steps) of all that leaves, so nothing goes in twice and nothing that was
//! taken is lost, whenever a kernel is killed. Invariant: what was answered is in the child's pipe.

use crate::control::{Failure, Outcome};
use crate::driver::Driver;
use crate::key::Ticket;
use crate::limits::{INBOX_BYTES, INBOX_BYTES_KEPT, INPUT_STAGING_BYTES};
use crate::points::{Point, reach};
use crate::stream::intake;
use crate::stream::source::{Staging, Taken};
use crate::stream::steps::{Fed, Moved, advance, carry};
use kairo_shm::inbox::{Inbox, WriteKey};
use kairo_shm::layout::RingError;
use std::collections::VecDeque;
use std::io;

/// A child's input.
#[derive(Debug)]
pub struct Inflow<F> {
    fd: Option<F>,
    terminal: bool,
    /// Size of its pipe, bytes; 0 for a terminal.
    pipe_bytes: usize,
    inbox: Option<Inbox>,
    /// Calls to be answered when the child has everything below an offset.
    waiting: VecDeque<Waiting>,
    /// True exactly when the inbox is new and the keeper has not been given it.
    unheld: bool,
    /// Bytes that went in, once there is no inbox any more.
    written: u64,
    /// There was an inbox.
    had_inbox: bool,
    /// True exactly while a writability poll is in flight.
    pub armed: bool,
    /// True from its answer to the next attempt: what seems full may be closed.
    pub woken: bool,
}

#[derive(Debug)]
struct Waiting {
    from: u64,
    to: u64,
    ticket: Ticket,
}

/// The answer to one queued item.
pub type Answer = (Ticket, Result<Outcome, Failure>);

impl<F: Clone> Inflow<F> {
    /// `fd` is none where the child's input is not ours; `pipe_bytes` is 0 for a terminal.
    pub fn new(fd: Option<F>, pipe_bytes: usize) -> Inflow<F> {
        Inflow::inherited(fd, pipe_bytes, None, 0)
    }

    /// Goes on with what a dead kernel had taken.
    pub fn inherited(fd: Option<F>, pipe_bytes: usize, inbox: Option<Inbox>, went_in: u64) -> Inflow<F> {
        let written = inbox.as_ref().map_or(went_in, Inbox::written);
        let terminal = pipe_bytes == 0;
        let (waiting, unheld) = (VecDeque::new(), false);
        Inflow {
            fd,
            terminal,
            pipe_bytes,
            inbox,
            waiting,
            unheld,
            written,
            had_inbox: false,
            armed: false,
            woken: false,
        }
    }

    /// The descriptor, while it is open.
    pub fn fd(&self) -> Option<&F> {
        self.fd.as_ref()
    }

    /// True exactly when there is or was shared memory for it, which the keeper may hold.
    pub fn has_inbox(&self) -> bool {
        self.had_inbox || self.inbox.is_some()
    }

    /// Bytes that went in.
    pub fn written(&self) -> u64 {
        self.inbox.as_ref().map_or(self.written, Inbox::written)
    }

    /// Bytes that wait.
    pub fn parked_bytes(&self) -> u64 {
        self.inbox.as_ref().map_or(0, |inbox| inbox.appended() - inbox.written())
    }

    /// True exactly when something waits for room.
    pub fn is_waiting(&self) -> bool {
        self.parked_bytes() > 0
    }

    /// True exactly when nothing more can be written.
    pub fn is_closed(&self) -> bool {
        self.fd.is_none() || self.inbox.as_ref().is_some_and(Inbox::is_closing)
    }

    /// The inbox, if the keeper has to be given it.
    pub fn take_unheld(&mut self) -> Option<&Inbox> {
        if std::mem::take(&mut self.unheld) { self.inbox.as_ref() } else { None }
    }

    /// Takes a write. One whose key was taken before is not taken again, only answered.
    pub fn write(
        &mut self,
        data: &[u8],
        key: Option<WriteKey>,
        ticket: Ticket,
        answers: &mut Vec<Answer>,
    ) -> Result<(), RingError> {
        if self.fd.is_none() {
            self.fail(answers);
            answers.push((ticket, Err(Failure::BrokenPipe { offset: self.written })));
            return Ok(());
        }
        let known = key.and_then(|key| self.inbox.as_ref()?.find(key.key));
        if let (Some(known), Some(key)) = (known, key) {
            if known.key.body != key.body {
                answers.push((ticket, Err(Failure::OtherBody)));
                return Ok(());
            }
            self.waiting.push_back(Waiting { from: known.to, to: known.to, ticket });
            return Ok(());
        }
        if self.inbox.as_ref().is_some_and(Inbox::is_closing) {
            answers.push((ticket, Err(Failure::BrokenPipe { offset: self.written() })));
            return Ok(());
        }
        let inbox = self.with_room(data.len())?;
        let from = inbox.appended();
        inbox.append(data, key);
        self.waiting.push_back(Waiting { from, to: from + data.len() as u64, ticket });
        reach(Point::InputAppended);
        Ok(())
    }

    /// The inbox, with room for so many bytes.
    fn with_room(&mut self, bytes: usize) -> Result<&mut Inbox, RingError> {
        let other = match &self.inbox {
            Some(inbox) if inbox.room_bytes() >= bytes => None,
            Some(inbox) => {
                let end = inbox.appended();
                // At least doubled, so that many small writes don't move what waits each time.
                let more = bytes.max((end - inbox.written()) as usize).max(INBOX_BYTES);
                Some(inbox.rebuilt(more, end..end)?)
            }
            None => Some(Inbox::create(bytes.max(INBOX_BYTES))?),
        };
        if let Some(other) = other {
            self.inbox = Some(other);
            self.unheld = true;
        }
        self.inbox.as_mut().ok_or(RingError::Foreign("no inbox"))
    }

    /// Takes the end: after everything before it, the input is closed, or a terminal gets `veof`, once for each `key`.
    pub fn close(
        &mut self,
        veof: Option<u8>,
        key: Option<WriteKey>,
        ticket: Ticket,
    ) -> Result<(), RingError> {
        let inbox = self.with_room(1)?;
        let from = inbox.appended();
        match veof {
            Some(_) if key.is_some_and(|key| inbox.find(key.key).is_some()) => {}
            Some(veof) => inbox.append(&[veof], key),
            None => inbox.request_close(),
        }
        let to = inbox.appended();
        self.waiting.push_back(Waiting { from, to, ticket });
        Ok(())
    }

    /// Has an inbox with room for what is written by a path. False if nothing more is taken.
    pub fn let_in(&mut self) -> Result<bool, RingError> {
        let open = !self.is_closed();
        if open {
            self.with_room(1)?;
        }
        Ok(open)
    }

    /// Takes what was written to the `pipe` a path leads into, a piece of it. The inbox must be the keeper's.
    pub fn take_in<D: Driver<Fd = F>>(
        &mut self,
        driver: &mut D,
        pipe: &F,
        staging: &Staging<F>,
        name: u64,
    ) -> io::Result<Taken> {
        let Some(inbox) = &mut self.inbox else { return Ok(Taken::Nothing) };
        intake::take_in(driver, pipe, staging, name, inbox, INBOX_BYTES)
    }

    /// Another stream fills this input, read from there; where a dead kernel had begun with it, from where that had come to.
    pub fn begin_feed(&mut self, from: u64) -> Result<(), RingError> {
        if self.fd.is_some() && self.inbox.is_none() {
            let inbox = Inbox::create(INPUT_STAGING_BYTES)?;
            inbox.begin_feed(from);
            self.inbox = Some(inbox);
            self.unheld = true;
        }
        Ok(())
    }

    /// How far the stream that fills it has gone in; none before it begins, and once nothing more can.
    pub fn fed_to(&self) -> Option<u64> {
        self.inbox.as_ref().and_then(|inbox| Some(inbox.fed_from()? + inbox.written()))
    }

    /// Moves what comes next of that stream, `bytes`, as far as it goes.
    pub fn feed<D: Driver<Fd = F>>(
        &mut self,
        driver: &mut D,
        staging: &Staging<F>,
        name: u64,
        bytes: &[u8],
    ) -> io::Result<Fed> {
        let (Some(fd), Some(inbox)) = (&self.fd, &self.inbox) else { return Ok(Fed::Broken) };
        let least = usize::from(std::mem::take(&mut self.woken));
        let room = self.pipe_bytes.saturating_sub(driver.queued(fd)?).max(least);
        carry(driver, (fd, room), inbox, staging, name, [bytes, &[]])
    }

    /// That stream is over: the input closes behind what went in.
    pub fn end_feed(&mut self) {
        if let Some(inbox) = &self.inbox {
            inbox.request_close();
        }
    }

    /// True exactly when it is a terminal's.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Size of its pipe, bytes; 0 for a terminal.
    pub fn pipe_bytes(&self) -> usize {
        self.pipe_bytes
    }

    /// Gives up what has not gone in of a write. True if it was still waiting.
    pub fn abandon(&mut self, ticket: Ticket) -> Result<bool, RingError> {
        let Some(place) = self.waiting.iter().position(|waiting| waiting.ticket == ticket) else {
            return Ok(false);
        };
        let Some(inbox) = &self.inbox else { return Ok(false) };
        let Some(Waiting { from, to, .. }) = self.waiting.remove(place) else { return Ok(false) };
        let skip = from.max(inbox.written())..to.max(inbox.written());
        let skipped = skip.end - skip.start;
        if skipped > 0 {
            self.inbox = Some(inbox.rebuilt(INBOX_BYTES, skip)?);
            self.unheld = true;
            for waiting in self.waiting.range_mut(place..) {
                waiting.from = waiting.from.max(to) - skipped;
                waiting.to = waiting.to.max(to) - skipped;
            }
        }
        Ok(true)
    }

    /// Moves as much as goes, and says which calls are done. True if the descriptor was closed.
    pub fn push<D: Driver<Fd = F>>(
        &mut self,
        driver: &mut D,
        staging: &Staging<F>,
        name: u64,
        answers: &mut Vec<Answer>,
    ) -> io::Result<bool> {
        loop {
            self.answer(answers);
            let woken = std::mem::take(&mut self.woken);
            let (Some(fd), Some(inbox)) = (&self.fd, &self.inbox) else { return Ok(false) };
            if inbox.written() == inbox.appended() {
                let closing = inbox.is_closing();
                if closing {
                    self.fail(answers);
                } else {
                    self.shrink();
                }
                return Ok(closing);
            }
            let max = if self.pipe_bytes > 0 {
                // What is staged in vain has to be thrown away, so no more than there may be room for.
                self.pipe_bytes.saturating_sub(driver.queued(fd)?).max(usize::from(woken))
            } else {
                TERMINAL_PUSH_BYTES
            };
            if max == 0 {
                return Ok(false);
            }
            let bytes = inbox.pending(max.min(staging.input.bytes_max));
            match advance(driver, fd, inbox, staging, name, [bytes, &[]])? {
                Moved::All => {}
                Moved::Full => {
                    self.answer(answers);
                    return Ok(false);
                }
                Moved::Broken => {
                    self.fail(answers);
                    return Ok(true);
                }
            }
        }
    }

    fn answer(&mut self, answers: &mut Vec<Answer>) {
        let written = self.written();
        while let Some(done) = self.waiting.front().filter(|waiting| waiting.to <= written) {
            answers.push((done.ticket, Ok(Outcome::Written { offset: done.to })));
            self.waiting.pop_front();
        }
    }

    /// Gives back what a large write took, once it is through.
    fn shrink(&mut self) {
        let Some(inbox) = self.inbox.as_ref().filter(|inbox| inbox.capacity_bytes() > INBOX_BYTES_KEPT)
        else {
            return;
        };
        // Memory that can't be had now to save memory is no matter.
        if let Ok(small) = inbox.rebuilt(INBOX_BYTES, inbox.appended()..inbox.appended()) {
            self.inbox = Some(small);
            self.unheld = true;
        }
    }

    /// Closes, and fails whatever waits. The caller tells the keeper.
    pub fn fail(&mut self, answers: &mut Vec<Answer>) {
        self.answer(answers);
        self.written = self.written();
        self.fd = None;
        self.had_inbox |= self.inbox.take().is_some();
        for waiting in self.waiting.drain(..) {
            answers.push((waiting.ticket, Err(Failure::BrokenPipe { offset: self.written })));
        }
    }
}

/// Most bytes that are tried on a terminal at once: its buffer.
const TERMINAL_PUSH_BYTES: usize = 4096;
