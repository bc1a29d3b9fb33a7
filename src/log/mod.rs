//! The log's threads: one writes what the kernel hands over and tells it how far that is, one reads what it asks for.
//!
//! ```text
//!   kernel ─put─▶ queue ─▶ [ all there is ] ─append─▶ written ─▶ kernel tells it ─▶ flushed, if somebody waits for that
//!   kernel ─charge─▶ chores ─▶ [ a step between two batches ] ─▶ compacted
//!   kernel ─ask─▶ reading thread ─▶ answered
//!   kernel ─inquire─▶ views' thread ─▶ answered            wakes it when it has written ─▶ views' thread ─checkpoints─▶ queue
//! ```
//!
//! Invariants: batches are written in the order they were put, each whole or not at all; after a write or a flush has failed
//! nothing is written any more and the kernel knows why; a log with nothing to do wakes nobody.

mod dropping;
mod lives;
mod reading;
mod views;
mod writing;

pub(crate) use lives::Lives;

use crate::state::records::Sealer;
use anyhow::{Context, Result};
use kairo_controlplane::audit::inspecting::Inspection;
use kairo_controlplane::events::compacting::Chore;
use kairo_controlplane::events::log::{Log, LogError, Retention};
use kairo_controlplane::events::outlet::{Batch, Figures, Inquiry, Outlet, Question};
use kairo_controlplane::events::views::Limits;
use kairo_controlplane::kernel::{ControlPlane, Kernel};
use kairo_dataplane::command::Commands;
use kairo_dataplane::control::Moment;
use kairo_dataplane::plane::PlaneHandle;
use kairo_dataplane::sys::clock;
use reading::Asked;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use views::{Caller, Word};

/// So long what nobody waits for is gathered, so that many who come one by one wake the writer once.
const GATHERED_NS: u64 = 2_000_000;

/// What is put, until it is written.
#[derive(Default)]
struct Queue {
    batches: Vec<Batch>,
    /// What the views keep: not the kernel's, and not counted for it.
    checkpoint: Option<Batch>,
    /// The views wait for it to be written.
    keeping: bool,
    chores: Vec<Chore>,
    /// When that is to be taken, at the latest; none when there is nothing.
    due_at: Option<u64>,
    /// The writer sleeps until then: whoever wants something done before wakes it.
    asleep_until: Option<u64>,
    /// No more will come.
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
    /// Rings when checkpoints are written, or never will be.
    kept: Condvar,
    /// Nothing is taken any more.
    failed: AtomicBool,
    /// How it stands.
    figures: Mutex<Figures>,
}

impl Queue {
    fn clear(&mut self) {
        self.batches.clear();
        self.chores.clear();
    }
}

impl Shared {
    /// Notes how the log stands, as far as that costs nothing.
    fn count(&self, log: &Log) {
        let totals = log.totals();
        let mut figures = self.figures();
        (figures.last_seq, figures.events, figures.bytes) = (totals.last, totals.events, totals.bytes);
        figures.indexed_to = log.indexed_to();
    }

    /// Notes all of it.
    fn count_all(&self, log: &Log) -> Result<(), LogError> {
        let reader = log.reader();
        let (stats, gaps) = (reader.stats()?, reader.gaps()?.len() as u64);
        let mut figures = self.figures();
        (figures.first_seq, figures.stored_bytes, figures.gaps) = (stats.first_seq, stats.stored_bytes, gaps);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds something to the queue, unless nothing is taken any more. Unless it is `urgent` it is gathered for a moment.
    fn push(&self, urgent: bool, what: impl FnOnce(&mut Queue)) {
        if self.failed.load(Ordering::Acquire) {
            return;
        }
        let mut queue = self.lock();
        what(&mut queue);
        self.demand(&mut queue, if urgent { 0 } else { clock::monotonic_ns() + GATHERED_NS });
    }

    /// Has what is in the queue taken by then.
    fn demand(&self, queue: &mut Queue, by: u64) {
        queue.due_at = Some(queue.due_at.map_or(by, |at| at.min(by)));
        if queue.asleep_until.is_some_and(|until| until > by) {
            queue.asleep_until = None;
            self.bell.notify_one();
        }
    }
}

/// The kernel's end.
struct Port {
    shared: Arc<Shared>,
    asked: Sender<Asked>,
    views: Caller,
}

impl Outlet for Port {
    fn put(&mut self, batch: Batch) {
        self.shared.push(batch.awaited, |queue| queue.batches.push(batch));
    }

    fn charge(&mut self, chore: Chore) {
        self.shared.push(true, |queue| queue.chores.push(chore));
    }

    fn figures(&self) -> Figures {
        self.shared.figures().clone()
    }

    fn ask(&mut self, question: Question) {
        // Nobody reads only when the kernel is about to end.
        let _ = self.asked.send(Asked::Question(question));
    }

    fn inspect(&mut self, inspection: Inspection) {
        let _ = self.asked.send(Asked::Inspection(inspection));
    }

    fn inquire(&mut self, inquiry: Inquiry) {
        self.views.inquire(inquiry);
    }
}

/// A log whose threads have not begun.
pub(crate) struct Waiting {
    log: Log,
    sealer: Sealer,
    shared: Arc<Shared>,
    asked: Receiver<Asked>,
    views: (Caller, Receiver<Word>),
}

/// A log at work. Dropping it writes and flushes what is there, then joins.
pub(crate) struct Running {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    views: (Caller, Option<JoinHandle<()>>),
}

/// Prepares a log, from which `policy` is dropped by and by: what the kernel is given, and what is to be [begun](Waiting::begin) when there is one.
pub(crate) fn prepare(log: Log, sealer: Sealer, policy: Retention) -> (Box<dyn Outlet>, Waiting) {
    let shared = Arc::new(Shared::default());
    shared.figures().policy = Arc::new(policy);
    let (sender, asked) = channel();
    let views = Caller::new();
    let port = Port { shared: Arc::clone(&shared), asked: sender, views: views.0.clone() };
    (Box::new(port), Waiting { log, sealer, shared, asked, views })
}

/// The kernel, as the threads reach it.
#[derive(Clone)]
struct Ear {
    control: Arc<ControlPlane>,
    plane: PlaneHandle,
    /// Held from the decision until it is on its way: what one thread was told to send first doesn't come second, behind
    /// what the other was told to.
    order: Arc<Mutex<()>>,
}

impl Ear {
    /// Has the kernel decide, and what it decides carried out.
    fn tell<R>(&self, what: impl FnOnce(&mut Kernel, Moment, &mut Commands) -> R) -> R {
        let _in_order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Commands::default();
        let result = self.control.with(|kernel| what(kernel, clock::now(), &mut out));
        self.plane.carry_out(out);
        result
    }

    /// The same as often as there is more.
    fn tell_all(&self, mut what: impl FnMut(&mut Kernel, Moment, &mut Commands) -> bool) {
        while self.tell(&mut what) {}
    }
}

impl Waiting {
    /// Starts the threads.
    pub(crate) fn begin(
        self,
        control: &Arc<ControlPlane>,
        plane: PlaneHandle,
        (owner_uid, limits): (u32, Limits),
    ) -> Result<Running> {
        let Waiting { log, sealer, shared, asked, views: (caller, words) } = self;
        let ear = Ear { control: Arc::clone(control), plane, order: Arc::default() };
        let reader = log.reader();
        let of_reader = ear.clone();
        std::thread::Builder::new()
            .name("log-reader".to_owned())
            .spawn(move || reading::run(&reader, &asked, &of_reader))
            .context("the reader of the log could not be started")?;
        let beginning = views::Beginning {
            reader: log.reader(),
            owner_uid,
            limits,
            words,
            caller: caller.clone(),
            keeper: views::Keeper::new(Arc::clone(&shared)),
            ear: ear.clone(),
        };
        let views = std::thread::Builder::new()
            .name("log-views".to_owned())
            .spawn(move || views::run(beginning))
            .context("the views could not be started")?;
        let (of_writer, bell) = (Arc::clone(&shared), caller.clone());
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writing::run(&of_writer, log, sealer, &ear, &bell))
            .context("the writer of the log could not be started")?;
        Ok(Running { shared, writer: Some(writer), views: (caller, Some(views)) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Their last checkpoint is written by the writer.
        self.views.0.end();
        if self.views.1.take().is_some_and(|views| views.join().is_err()) {
            tracing::error!(component = "log", "the views panicked");
        }
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.demand(&mut queue, 0);
        drop(queue);
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!(component = "log", "the writer of the log panicked");
        }
    }
}
