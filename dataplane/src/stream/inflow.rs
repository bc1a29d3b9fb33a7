//! The way into a child: its stdin, or its terminal.
//!
//! Writes are carried out whole and in order; what doesn't fit the pipe is parked and answered when its last byte is
//! in. Invariant: `written` is the number of bytes that went in, and everything queued lies behind it.

use crate::control::{Failure, Outcome};
use crate::driver::Driver;
use crate::key::Ticket;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io;

/// A child's input.
#[derive(Debug)]
pub struct Inflow<F> {
    fd: Option<F>,
    terminal: bool,
    queue: VecDeque<Item>,
    written: u64,
    /// True exactly while a writability poll is in flight.
    pub armed: bool,
}

#[derive(Debug)]
enum Item {
    Write { data: Bytes, ticket: Ticket },
    Close { ticket: Ticket },
}

/// The answer to one queued item.
pub type Answer = (Ticket, Result<Outcome, Failure>);

impl<F: Clone> Inflow<F> {
    /// `fd` is none where the child's input is not ours.
    pub fn new(fd: Option<F>, terminal: bool) -> Inflow<F> {
        Inflow { fd, terminal, queue: VecDeque::new(), written: 0, armed: false }
    }

    /// The descriptor, while it is open.
    pub fn fd(&self) -> Option<&F> {
        self.fd.as_ref()
    }

    /// Bytes that went in.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that wait.
    pub fn parked_bytes(&self) -> u64 {
        let bytes = |item: &Item| match item {
            Item::Write { data, .. } => data.len() as u64,
            Item::Close { .. } => 0,
        };
        self.queue.iter().map(bytes).sum()
    }

    /// True exactly when something waits for room.
    pub fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Queues a write.
    pub fn write(&mut self, data: Bytes, ticket: Ticket) {
        self.queue.push_back(Item::Write { data, ticket });
    }

    /// Queues the end.
    pub fn close(&mut self, ticket: Ticket) {
        self.queue.push_back(Item::Close { ticket });
    }

    /// Drops the rest of a queued write. True if it was still queued.
    pub fn abandon(&mut self, ticket: Ticket) -> bool {
        let before = self.queue.len();
        self.queue.retain(|item| !matches!(item, Item::Write { ticket: t, .. } if *t == ticket));
        self.queue.len() < before
    }

    /// Moves as much as goes, and says which items are done. True if the descriptor was closed.
    pub fn push<D: Driver<Fd = F>>(&mut self, driver: &mut D, answers: &mut Vec<Answer>) -> bool {
        while let Some(item) = self.queue.front_mut() {
            let Some(fd) = &self.fd else {
                self.fail(answers);
                return false;
            };
            match item {
                Item::Write { data, ticket } => {
                    if !data.is_empty() {
                        match driver.write(fd, data) {
                            Ok(n) => {
                                data.advance(n);
                                self.written += n as u64;
                            }
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                            Err(_) => {
                                self.fail(answers);
                                return true;
                            }
                        }
                    }
                    if data.is_empty() {
                        answers.push((*ticket, Ok(Outcome::Written { offset: self.written })));
                        self.queue.pop_front();
                    }
                }
                Item::Close { ticket } => {
                    let ticket = *ticket;
                    if self.terminal {
                        let veof = driver.eof_character(fd).unwrap_or(4);
                        match driver.write(fd, &[veof]) {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                            Ok(_) | Err(_) => {}
                        }
                    }
                    answers.push((ticket, Ok(Outcome::Written { offset: self.written })));
                    self.queue.pop_front();
                    if !self.terminal {
                        self.fail(answers);
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Closes, and fails whatever waits. The caller tells the keeper.
    pub fn fail(&mut self, answers: &mut Vec<Answer>) {
        self.fd = None;
        for item in self.queue.drain(..) {
            let (Item::Write { ticket, .. } | Item::Close { ticket }) = item;
            answers.push((ticket, Err(Failure::BrokenPipe { offset: self.written })));
        }
    }
}
