//! The kernel's side of the log: what is handed over, who waits for it to be written, what can be told then.
//!
//! ```text
//!   put ─▶ batch ─hand_over─▶ outlet ─▶ (written) ─▶ news delivered, calls answered
//!                                          └────────▶ (flushed) ─▶ those who wanted the disk
//!                                          └────────▶ (failed) ──▶ nobody is told that all is well any more
//! ```
//!
//! Invariants: places are given in order and without a hole; what is told is written; after a failure nothing is
//! acknowledged, and what happens is told without a place.

use crate::audit::Order;
use crate::audit::inspecting::Inspection;
use crate::calls::Turn;
use crate::events::compacting::Chore;
use crate::events::log::Damage;
use crate::events::outlet::{Batch, Entry, Figures, Inquiry, Life, Outlet, Question};
use crate::events::record::Audience;
use crate::events::requesting::Reply;
use crate::kernel::Kernel;
use crate::state::Trace;
use bytes::Bytes;
use kairo_dataplane::command::{Command, Commands};
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::{ConnectionKey, ProcessKey};
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{KernelLogDamaged, KernelRecordsFailed};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;

/// Events and answers given under one hold of the lock: some tens of microseconds.
const STEP: usize = 32;

/// An event that is not told yet.
#[derive(Debug)]
pub(crate) struct News {
    /// Its entry.
    entry: u64,
    /// Its place; 0 if the log doesn't take it.
    pub seq: u64,
    /// Its type.
    pub topic: Arc<str>,
    /// The rest.
    pub record: Bytes,
    /// What one connection is told instead: more.
    pub own: Option<(ConnectionKey, Raw)>,
}

impl News {
    /// An event the log did not take.
    pub(crate) fn unkept(topic: Arc<str>, record: Bytes, own: Option<(ConnectionKey, Raw)>) -> News {
        News { entry: 0, seq: 0, topic, record, own }
    }
}

/// What waits for an entry.
#[derive(Debug)]
pub(crate) enum Awaiting {
    /// A call, which is answered with this.
    Call(u64, Raw),
    /// A call that asked, which is answered so.
    Reply(u64, Reply),
    /// A durable consumer, whose state this is.
    Consumer(u64),
    /// A call, which is answered with its receipt.
    Receipt(u64),
    /// The spawn of a process that insists on its record.
    Birth(u64),
    /// A caller who asks about the past, or the views: it is shown all that has happened before.
    Question(Box<Question>),
    /// The same of the audit.
    Inspection(Box<Inspection>),
    /// The same of the views, and what follows an inquiry.
    Inquiry(Box<Inquiry>),
    /// The data plane and the keeper, which hold what was of a process, or tell an end of it again: neither may let go of
    /// more than the log has.
    Letting(Command),
}

#[derive(Debug)]
pub(crate) struct Journal {
    outlet: Box<dyn Outlet>,
    batch: Batch,
    /// So many publish something that belongs together, and are not done.
    held: usize,
    /// Entries put.
    put: u64,
    /// The last place a former kernel has given that was kept.
    pub inherited_seq: u64,
    /// Of these, written …
    pub written: u64,
    /// … and on the disk.
    pub flushed: u64,
    /// The last place given.
    pub last_seq: u64,
    /// The last place told.
    pub told_seq: u64,
    news: VecDeque<News>,
    /// Bytes of those.
    unwritten_bytes: usize,
    /// By the entry that has to be written.
    writing: VecDeque<(u64, Awaiting)>,
    /// By the entry the disk has to have.
    flushing: VecDeque<(u64, Awaiting)>,
    /// Why nothing is taken any more.
    pub broken: Option<String>,
}

impl Journal {
    /// A journal that goes on behind `last_seq`.
    pub(crate) fn new(outlet: Box<dyn Outlet>, last_seq: u64) -> Journal {
        Journal {
            outlet,
            batch: Batch::default(),
            held: 0,
            put: 0,
            inherited_seq: last_seq,
            written: 0,
            flushed: 0,
            last_seq,
            told_seq: last_seq,
            news: VecDeque::new(),
            unwritten_bytes: 0,
            writing: VecDeque::new(),
            flushing: VecDeque::new(),
            broken: None,
        }
    }

    fn put(&mut self, entry: Entry) -> u64 {
        self.put += 1;
        self.batch.entries.push(entry);
        self.put
    }

    /// Puts an event at the next place.
    pub(crate) fn event(&mut self, topic: Arc<str>, record: Bytes, own: Option<(ConnectionKey, Raw)>) {
        self.last_seq += 1;
        let seq = self.last_seq;
        self.unwritten_bytes += record.len();
        let entry = self.put(Entry::Event { seq, topic: Arc::clone(&topic), record: record.clone() });
        self.news.push_back(News { entry, seq, topic, record, own });
    }

    /// Puts a line of the session records.
    pub(crate) fn life(&mut self, life: Life) {
        if self.broken.is_none() {
            self.put(Entry::Life(life));
        }
    }

    /// Puts a small thing with a name, or takes it away. Returns which entry that is; one that never comes if the log takes
    /// nothing any more.
    pub(crate) fn value(&mut self, key: Bytes, value: Option<Bytes>) -> u64 {
        match self.broken {
            None => self.put(Entry::Value { key, value }),
            Some(_) => u64::MAX,
        }
    }

    /// Has `what` wait until all that was put is written.
    pub(crate) fn when_written(&mut self, what: Awaiting) {
        // What is let go of later is nobody's loss.
        self.batch.awaited |= !matches!(what, Awaiting::Letting(_));
        self.writing.push_back((self.put, what));
    }

    /// True when all that was put is written.
    pub(crate) fn is_settled(&self) -> bool {
        self.written == self.put
    }

    /// Has `what` wait until the disk has all that was put.
    pub(crate) fn when_flushed(&mut self, what: Awaiting) {
        self.batch.flush = true;
        self.flushing.push_back((self.put, what));
    }

    /// Nothing is handed over until it is [let go of](Journal::let_go): what is put meanwhile belongs together.
    pub(crate) fn hold(&mut self) {
        self.held += 1;
    }

    /// The end of a [hold](Journal::hold).
    pub(crate) fn let_go(&mut self) {
        self.held = self.held.saturating_sub(1);
    }

    /// Has something dropped from the log.
    pub(crate) fn charge(&mut self, chore: Chore) {
        self.outlet.charge(chore);
    }

    /// How the log stands.
    pub(crate) fn figures(&self) -> Figures {
        self.outlet.figures()
    }

    /// Bytes of events that wait to be written.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.unwritten_bytes
    }

    /// Asks the log.
    pub(crate) fn ask(&mut self, question: Question) {
        self.outlet.ask(question);
    }

    /// The same for somebody who may have seen what is not written yet: once it is.
    pub(crate) fn ask_for_all(&mut self, question: Question) {
        match self.is_told() {
            true => self.outlet.ask(question),
            false => self.when_written(Awaiting::Question(Box::new(question))),
        }
    }

    /// Has something done to the audit, in the batch of what was put before.
    pub(crate) fn order(&mut self, order: Order) {
        self.put(Entry::Audit(order));
    }

    /// Asks the audit, likewise.
    pub(crate) fn inspect(&mut self, inspection: Inspection) {
        match self.is_told() {
            true => self.outlet.inspect(inspection),
            false => self.when_written(Awaiting::Inspection(Box::new(inspection))),
        }
    }

    /// Asks the views, likewise.
    pub(crate) fn inquire(&mut self, inquiry: Inquiry) {
        match self.is_told() {
            true => self.outlet.inquire(inquiry),
            false => self.when_written(Awaiting::Inquiry(Box::new(inquiry))),
        }
    }

    /// True when nothing is to be waited for, and nobody waits who would be overtaken.
    fn is_told(&self) -> bool {
        self.broken.is_some() || (self.is_settled() && self.writing.is_empty())
    }

    fn next_news(&mut self, entry: u64) -> Option<News> {
        let news = pop_if(&mut self.news, |news| news.entry <= entry)?;
        self.unwritten_bytes -= news.record.len();
        Some(news)
    }
}

/// A small thing as it is kept under a name; none if it can't be written.
pub(crate) fn kept<T: Serialize>(value: &T) -> Option<Bytes> {
    Raw::of(value).ok().map(|raw| Bytes::copy_from_slice(raw.bytes()))
}

impl Kernel {
    /// Hands over what was put since the last time. To be called before the lock is let go of.
    pub fn hand_over(&mut self) {
        let journal = &mut self.journal;
        let Batch { entries, awaited, flush } = &mut journal.batch;
        if journal.held == 0 && (!entries.is_empty() || *awaited || *flush) {
            // Who hears of events may wait for these.
            *awaited |= *flush || !self.state.matcher.is_empty();
            let batch = std::mem::take(&mut journal.batch);
            journal.outlet.put(batch);
        }
    }

    /// All entries up to this one are written. True if there is more to tell: to be called again.
    pub fn written(&mut self, at: Moment, entry: u64, out: &mut Commands) -> bool {
        let turn = &mut Turn { at, here: None, out };
        self.journal.written = entry;
        for _ in 0..STEP {
            let Some(news) = self.journal.next_news(entry) else { break };
            self.tell(turn, &news);
            self.journal.told_seq = news.seq;
        }
        for _ in 0..STEP {
            let Some((_, what)) = pop_if(&mut self.journal.writing, |(of, _)| *of <= entry) else { break };
            self.kept(turn, what);
        }
        let due = |of: Option<u64>| of.is_some_and(|of| of <= entry);
        due(self.journal.news.front().map(|news| news.entry))
            || due(self.journal.writing.front().map(|of| of.0))
    }

    /// The disk has all entries up to this one. True if there is more to tell: to be called again.
    pub fn flushed(&mut self, at: Moment, entry: u64, out: &mut Commands) -> bool {
        let turn = &mut Turn { at, here: None, out };
        self.journal.flushed = entry;
        for _ in 0..STEP {
            let Some((_, what)) = pop_if(&mut self.journal.flushing, |(of, _)| *of <= entry) else {
                return false;
            };
            self.kept(turn, what);
        }
        true
    }

    /// The log takes nothing any more: whoever waits is told so, once, and so is the bus. Processes go on.
    pub fn log_failed(&mut self, at: Moment, reason: &str, out: &mut Commands) {
        if self.journal.broken.is_some() {
            return;
        }
        tracing::error!(component = "controlplane", reason, "the log takes nothing any more");
        self.journal.broken = Some(reason.to_owned());
        self.journal.batch = Batch::default();
        let turn = &mut Turn { at, here: None, out };
        while let Some(mut news) = self.journal.next_news(u64::MAX) {
            news.seq = 0;
            self.tell(turn, &news);
        }
        self.withdraw_receipts();
        let writing = std::mem::take(&mut self.journal.writing);
        let flushing = std::mem::take(&mut self.journal.flushing);
        for (_, what) in writing.into_iter().chain(flushing) {
            match what {
                Awaiting::Call(call, _) | Awaiting::Reply(call, _) => {
                    self.reject(turn, call, &unkept(reason));
                }
                Awaiting::Receipt(call) => self.answer_with_receipt(turn, call),
                Awaiting::Consumer(consumer) => self.consumer_saved(turn, consumer, Err(unkept(reason))),
                Awaiting::Birth(process) => self.birth_kept(turn, process, false),
                // Nobody will ever keep it: there is nothing to wait for.
                Awaiting::Question(_)
                | Awaiting::Inspection(_)
                | Awaiting::Inquiry(_)
                | Awaiting::Letting(_) => self.kept(turn, what),
            }
        }
        self.give_compactions_up(turn, reason);
        self.cut_readers_of_the_log(turn);
        let event = KernelRecordsFailed { reason: reason.to_owned() };
        self.publish(turn, Audience::All, &Trace::default(), &event);
    }

    /// Events were found to be lost: told once, by range, and shown to whoever replays.
    pub fn log_damaged(&mut self, at: Moment, damage: &[Damage], out: &mut Commands) {
        let turn = &mut Turn { at, here: None, out };
        for Damage { from, to, what } in damage {
            tracing::error!(component = "controlplane", from, to, what, "events are lost");
            let event = KernelLogDamaged { from: *from, to: *to, reason: what.clone() };
            self.publish(turn, Audience::All, &Trace::default(), &event);
        }
    }

    fn kept(&mut self, turn: &mut Turn<'_>, what: Awaiting) {
        match what {
            Awaiting::Call(call, result) => self.resolve(turn, call, &result),
            Awaiting::Reply(call, reply) => self.replied(turn, call, reply),
            Awaiting::Receipt(call) => self.answer_with_receipt(turn, call),
            Awaiting::Consumer(consumer) => self.consumer_saved(turn, consumer, Ok(())),
            Awaiting::Birth(process) => self.birth_kept(turn, process, true),
            Awaiting::Question(question) => self.journal.outlet.ask(*question),
            Awaiting::Inspection(inspection) => self.journal.outlet.inspect(*inspection),
            Awaiting::Inquiry(inquiry) => self.journal.outlet.inquire(*inquiry),
            Awaiting::Letting(command) => turn.out.push(command),
        }
    }

    /// An end the keeper has told is in the log, or will be.
    pub(crate) fn acknowledge(&mut self, turn: &mut Turn<'_>, process: ProcessKey) {
        self.once_written(turn, Command::Acknowledge { process });
    }

    /// Has all that is held of a process dropped, once what was told of it is in the log.
    pub(crate) fn let_drop(&mut self, turn: &mut Turn<'_>, process: ProcessKey) {
        self.once_written(turn, Command::Forget { process });
    }

    fn once_written(&mut self, turn: &mut Turn<'_>, command: Command) {
        if self.journal.broken.is_some() || self.journal.is_settled() {
            turn.out.push(command);
        } else {
            self.journal.when_written(Awaiting::Letting(command));
        }
    }
}

/// Takes the first out if it is due.
fn pop_if<T>(queue: &mut VecDeque<T>, due: impl Fn(&T) -> bool) -> Option<T> {
    queue.front().is_some_and(due).then(|| queue.pop_front()).flatten()
}

/// What can't be kept is not taken.
pub(crate) fn unkept(reason: &str) -> WireError {
    WireError::new(Code::Unavailable, format!("the log takes nothing any more: {reason}"))
}
