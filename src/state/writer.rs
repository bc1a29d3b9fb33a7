//! The one thread that writes session records: in order, many in one write, many under one flush.
//!
//! ```text
//!   record ─▶ queue ─▶ [ all there is ] ─write─▶ somebody waits? ─yes─▶ flush ─▶ all of them answered
//!                                                      └no─▶ flushed when no other has followed, within a second
//! ```
//!
//! It is started by the first record and sleeps while there is none. Invariant: after a write or a flush has failed
//! nothing is acknowledged any more, and everybody who asks is told why.

use super::journal::{Journal, Kind};
use kairo_dataplane::command::Record;
use kairo_dataplane::reactor::Done;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a record may wait for the disk when nobody waits for it …
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// … and how long it does when no other follows: whoever is idle has flushed.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
/// Bytes of records that may wait to be written: a disk that stands still must not fill the memory.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// Told once, with the reason, when no more records are taken.
type Alarm = Box<dyn FnOnce(&str) + Send>;

/// Hands records to the thread. Dropping it writes and flushes what is there, then joins.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
}

#[derive(Default)]
struct Queue {
    records: VecDeque<(Record, Option<Done>)>,
    bytes: usize,
    /// The file, until the thread takes it.
    journal: Option<Journal>,
    /// No more will come.
    closed: bool,
    failed: Option<(String, i32)>,
    alarm: Option<Alarm>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers everybody whom no thread will ever serve.
    fn refuse_all(&self) {
        let mut queue = self.lock();
        let errno = queue.failed.as_ref().map_or(Errno::IO.raw_os_error(), |(_, errno)| *errno);
        let left: Vec<_> = queue.records.drain(..).collect();
        drop(queue);
        for done in left.into_iter().filter_map(|(_, done)| done) {
            done(vec![Err(errno)]);
        }
    }

    /// Nothing is taken from now on; the first reason counts.
    fn fail(&self, what: &str, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        let mut queue = self.lock();
        if queue.failed.is_some() {
            return;
        }
        let reason = format!("{what} failed: {error}");
        queue.failed = Some((reason.clone(), errno));
        let alarm = queue.alarm.take();
        drop(queue);
        if let Some(alarm) = alarm {
            alarm(&reason);
        }
    }
}

impl Writer {
    /// A writer without a thread yet.
    pub(super) fn new(journal: Journal) -> Writer {
        let shared = Shared::default();
        shared.lock().journal = Some(journal);
        Writer { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// Has `alarm` called when records can't be taken any more, on the writer's thread or, if that has been, at once.
    pub(crate) fn on_failure(&self, alarm: impl FnOnce(&str) + Send + 'static) {
        let mut queue = self.shared.lock();
        match &queue.failed {
            Some((reason, _)) => {
                let reason = reason.clone();
                drop(queue);
                alarm(&reason);
            }
            None => queue.alarm = Some(Box::new(alarm)),
        }
    }

    /// Queues a record. Never blocks on the disk. `done` hears when the disk has it, or that it never will.
    pub(crate) fn append(&self, record: Record, done: Option<Done>) {
        let bytes = record.clear.len() + record.secret.len();
        let mut queue = self.shared.lock();
        if let Some((_, errno)) = &queue.failed {
            let errno = *errno;
            drop(queue);
            if let Some(done) = done {
                done(vec![Err(errno)]);
            }
            return;
        }
        queue.bytes += bytes;
        queue.records.push_back((record, done));
        let (choked, first) = (queue.bytes > QUEUED_BYTES_MAX, queue.journal.is_some());
        drop(queue);
        if first {
            self.start();
        }
        if choked {
            self.shared.fail("keeping up with the session records", &Errno::NOBUFS.into());
        }
        self.shared.bell.notify_one();
    }

    fn start(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_some() {
            return;
        }
        let Some(journal) = self.shared.lock().journal.take() else { return };
        let shared = Arc::clone(&self.shared);
        let started =
            std::thread::Builder::new().name("kairo-records".to_owned()).spawn(move || run(&shared, journal));
        match started {
            Ok(started) => *thread = Some(started),
            Err(error) => {
                self.shared.fail("starting the writer of session records", &error);
                self.shared.refuse_all();
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.bell.notify_one();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(component = "state", "the writer of session records panicked");
        }
    }
}

/// Writes until the writer is dropped and nothing is left.
fn run(shared: &Shared, mut journal: Journal) {
    let mut flush_at: Option<Instant> = None;
    let mut flush_by: Option<Instant> = None;
    loop {
        let (batch, closed) = next(shared, flush_at);
        let waited_for = batch.iter().any(|(_, done)| done.is_some());
        if !batch.is_empty() {
            guard(shared, "writing a session record", || write(&mut journal, &batch));
            let now = Instant::now();
            let by = *flush_by.get_or_insert(now + FLUSH_WITHIN);
            flush_at = Some(by.min(now + FLUSH_AFTER));
        }
        let due = flush_at.is_some_and(|at| at <= Instant::now());
        if flush_at.is_some() && (waited_for || due || closed) {
            guard(shared, "flushing the session records", || journal.flush());
            (flush_at, flush_by) = (None, None);
        }
        let outcome = match &shared.lock().failed {
            Some((_, errno)) => Err(*errno),
            None => Ok(()),
        };
        for done in batch.into_iter().filter_map(|(_, done)| done) {
            done(vec![outcome.map(|()| bytes::Bytes::new())]);
        }
        if journal.is_overgrown() {
            guard(shared, "writing the session records anew", || journal.compact());
        }
        if closed && shared.lock().records.is_empty() {
            return;
        }
    }
}

/// Everything that is queued, once there is something, or the time to flush has come, or the end.
fn next(shared: &Shared, flush_at: Option<Instant>) -> (Vec<(Record, Option<Done>)>, bool) {
    let mut queue = shared.lock();
    while queue.records.is_empty() && !queue.closed {
        queue = match flush_at.map(|at| at.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => break,
            Some(left) => shared.bell.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.bell.wait(queue).unwrap_or_else(PoisonError::into_inner),
        };
    }
    queue.bytes = 0;
    (queue.records.drain(..).collect(), queue.closed)
}

fn write(journal: &mut Journal, batch: &[(Record, Option<Done>)]) -> io::Result<()> {
    let mut records: Vec<(Kind, &[u8])> = Vec::new();
    for (record, _) in batch {
        records.push((Kind::Clear, &record.clear));
        if !record.secret.is_empty() {
            records.push((Kind::Sealed, &record.secret));
        }
    }
    journal.append(&records)
}

/// Does it unless something has failed before.
fn guard(shared: &Shared, what: &str, act: impl FnOnce() -> io::Result<()>) {
    if shared.lock().failed.is_some() {
        return;
    }
    if let Err(error) = act() {
        shared.fail(what, &error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn record(session: &str) -> Record {
        let entry = kairo_controlplane::records::Entry::Forgotten { session: session.to_owned() };
        Record { clear: entry.to_bytes().unwrap().into(), ..Record::default() }
    }

    fn writer(folder: &std::path::Path) -> Writer {
        Writer::new(Journal::open(folder).unwrap().0)
    }

    #[test]
    fn who_waits_is_answered_when_the_disk_has_it_and_many_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(folder.path());
        let (sender, answers) = channel();
        for number in 0..200 {
            let sender = sender.clone();
            let done: Done = Box::new(move |results| sender.send((number, results)).unwrap());
            writer.append(record("x"), Some(done));
        }
        for number in 0..200 {
            let (answered, results) = answers.recv_timeout(PATIENCE).unwrap();
            assert_eq!(answered, number, "in order");
            assert!(results[0].is_ok());
        }
    }

    #[test]
    fn what_nobody_waits_for_is_written_by_the_end_at_the_latest() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(folder.path());
        let before = std::fs::metadata(folder.path().join("sessions.log")).unwrap().len();
        writer.append(record("x"), None);
        drop(writer);
        assert!(std::fs::metadata(folder.path().join("sessions.log")).unwrap().len() > before);
    }

    #[test]
    fn a_writer_that_was_never_asked_has_no_thread() {
        let folder = tempfile::tempdir().unwrap();
        assert!(writer(folder.path()).thread.lock().unwrap().is_none());
    }

    #[test]
    fn after_a_failure_nobody_is_told_that_all_is_well_and_the_alarm_rings_once() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(folder.path());
        let (rang, alarms) = channel();
        writer.on_failure(move |reason| rang.send(reason.to_owned()).unwrap());
        // A record that is too long fails as a full disk would.
        let huge = Record { clear: vec![0; 5 << 20].into(), ..Record::default() };
        let (sender, answers) = channel();
        for record in [huge, record("x")] {
            let sender = sender.clone();
            let done: Done = Box::new(move |results| sender.send(results[0].is_ok()).unwrap());
            writer.append(record, Some(done));
            assert!(!answers.recv_timeout(PATIENCE).unwrap());
        }
        assert!(alarms.recv_timeout(PATIENCE).unwrap().contains("writing"));
        assert!(alarms.try_recv().is_err());
        let (rang, alarms) = channel();
        writer.on_failure(move |reason| rang.send(reason.to_owned()).unwrap());
        assert!(alarms.recv_timeout(PATIENCE).is_ok(), "who comes late is told at once");
    }
}
