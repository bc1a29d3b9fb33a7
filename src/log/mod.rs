//! The log's threads: one writes what the kernel hands over and tells it how far that is, one reads what it asks for.
//!
//! ```text
//!   kernel ─put─▶ queue ─▶ [ all there is ] ─append─▶ written ─▶ kernel tells it ─▶ flushed, if somebody waits for that
//!   kernel ─ask─▶ reading thread ─▶ answered
//! ```
//!
//! Invariants: batches are written in the order they were put, each whole or not at all; after a write or a flush has failed
//! nothing is written any more and the kernel knows why; a log with nothing to do wakes nobody.

mod lives;
mod reading;
mod writing;

pub(crate) use lives::Lives;

use crate::state::records::Sealer;
use anyhow::{Context, Result};
use kairo_controlplane::events::log::Log;
use kairo_controlplane::events::outlet::{Batch, Outlet, Question};
use kairo_controlplane::kernel::{ControlPlane, Kernel};
use kairo_dataplane::command::Commands;
use kairo_dataplane::control::Moment;
use kairo_dataplane::plane::PlaneHandle;
use kairo_dataplane::sys::clock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What is put, until it is written.
#[derive(Default)]
struct Queue {
    batches: Vec<Batch>,
    /// The writer sleeps: whoever puts something wakes it.
    asleep: bool,
    /// No more will come.
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
    /// Nothing is taken any more.
    failed: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel's end.
struct Port {
    shared: Arc<Shared>,
    questions: Sender<Question>,
}

impl Outlet for Port {
    fn put(&mut self, batch: Batch) {
        if self.shared.failed.load(Ordering::Acquire) {
            return;
        }
        let mut queue = self.shared.lock();
        queue.batches.push(batch);
        if std::mem::take(&mut queue.asleep) {
            self.shared.bell.notify_one();
        }
    }

    fn ask(&mut self, question: Question) {
        // Nobody reads only when the kernel is about to end.
        let _ = self.questions.send(question);
    }
}

/// A log whose threads have not begun.
pub(crate) struct Waiting {
    log: Log,
    sealer: Sealer,
    shared: Arc<Shared>,
    questions: Receiver<Question>,
}

/// A log at work. Dropping it writes and flushes what is there, then joins.
pub(crate) struct Running {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

/// Prepares a log: what the kernel is given, and what is to be [begun](Waiting::begin) when there is one.
pub(crate) fn prepare(log: Log, sealer: Sealer) -> (Box<dyn Outlet>, Waiting) {
    let shared = Arc::new(Shared::default());
    let (sender, questions) = channel();
    let port = Port { shared: Arc::clone(&shared), questions: sender };
    (Box::new(port), Waiting { log, sealer, shared, questions })
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
    pub(crate) fn begin(self, control: &Arc<ControlPlane>, plane: PlaneHandle) -> Result<Running> {
        let Waiting { log, sealer, shared, questions } = self;
        let ear = Ear { control: Arc::clone(control), plane, order: Arc::default() };
        let reader = log.reader();
        let asked = ear.clone();
        std::thread::Builder::new()
            .name("log-reader".to_owned())
            .spawn(move || reading::run(&reader, &questions, &asked))
            .context("the reader of the log could not be started")?;
        let of_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writing::run(&of_writer, log, sealer, &ear))
            .context("the writer of the log could not be started")?;
        Ok(Running { shared, writer: Some(writer) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.asleep = false;
        drop(queue);
        self.shared.bell.notify_one();
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!(component = "log", "the writer of the log panicked");
        }
    }
}
