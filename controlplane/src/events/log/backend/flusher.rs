//! The thread that writes what is in memory to tables, and merges tables. It sleeps when there is nothing of either.
//!
//! Invariant: a journal is removed when the disk has the tables of all that is in it, never before.

use super::Fault;
use super::trees::Trees;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The thread, as the writer holds it.
pub(super) struct Flusher {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    /// Journals of what was rotated and is not in tables.
    job: Option<Vec<PathBuf>>,
    closed: bool,
    failed: Option<(io::ErrorKind, String)>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.bell.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the thread has ended, however it did.
struct Ending<'a>(&'a Desk);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let ended = || (io::ErrorKind::Other, "the thread that flushes has ended".to_owned());
        self.0.lock().failed.get_or_insert_with(ended);
        self.0.bell.notify_all();
    }
}

impl Flusher {
    pub(super) fn start(trees: Arc<Trees>) -> io::Result<Flusher> {
        let desk = Arc::new(Desk::default());
        let own = desk.clone();
        let thread = std::thread::Builder::new().name("log-flush".to_owned()).spawn(move || {
            let ending = Ending(&own);
            if let Err(fault) = run(&trees, &own) {
                let kind = match &fault {
                    Fault::Io(error) => error.kind(),
                    Fault::Damaged(_) => io::ErrorKind::InvalidData,
                };
                own.lock().failed = Some((kind, fault.to_string()));
            }
            drop(ending);
        })?;
        Ok(Flusher { desk, thread: Some(thread) })
    }

    /// An error if what was written may never get to tables.
    pub(super) fn check(&self) -> Result<(), Fault> {
        sound(&self.desk.lock())
    }

    pub(super) fn is_busy(&self) -> bool {
        self.desk.lock().job.is_some()
    }

    /// Hands over what was rotated, with its journals.
    pub(super) fn take(&self, journals: Vec<PathBuf>) {
        self.desk.lock().job = Some(journals);
        self.desk.bell.notify_all();
    }

    /// Returns when all that was handed over is in tables.
    pub(super) fn wait(&self) -> Result<(), Fault> {
        let mut state = self.desk.lock();
        while state.job.is_some() {
            sound(&state)?;
            state = self.desk.wait(state);
        }
        sound(&state)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.bell.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has said how it ended.
            drop(thread.join());
        }
    }
}

fn sound(state: &State) -> Result<(), Fault> {
    match &state.failed {
        Some((kind, why)) => Err(Fault::Io(io::Error::new(*kind, why.clone()))),
        None => Ok(()),
    }
}

fn run(trees: &Trees, desk: &Desk) -> Result<(), Fault> {
    let mut more = true;
    loop {
        let journals = {
            let mut state = desk.lock();
            while state.job.is_none() && !state.closed && !more {
                state = desk.wait(state);
            }
            // What was handed over is done even so: else journals of short runs would add up.
            if state.closed && state.job.is_none() {
                return Ok(());
            }
            state.job.clone()
        };
        if let Some(journals) = journals {
            trees.flush()?;
            for path in journals {
                std::fs::remove_file(&path)?;
            }
            let mut state = desk.lock();
            state.job = None;
            desk.bell.notify_all();
            if state.closed {
                return Ok(());
            }
        }
        // After every flush one step, so that merging keeps up with a writer who never rests.
        more = trees.compact()?;
    }
}
