//! The worker runtime: where anything that may block is done, off the reactors.
//!
//! One thread, started by the first job, asleep between jobs (no timers, no ticks). On Linux it runs
//! `tokio-uring`; where io_uring is forbidden or absent, and on other systems, plain `tokio` with its blocking
//! pool. This file chooses; [`Worker`] is the same to its callers. A job's answer comes through the
//! callback it was submitted with, exactly once, whatever happens.
//!
//! What may be asked is [`Job`]; who asks is the control plane, through a command, and the answer travels back
//! to it as a notice. Nothing here knows what the bytes are for.

mod tokio;
#[cfg(target_os = "linux")]
mod uring;

#[cfg(not(target_os = "linux"))]
use self::tokio as preferred;
#[cfg(target_os = "linux")]
use self::uring as preferred;

use ::tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use bytes::Bytes;
use kairo_dataplane::command::Job;
use std::io;
use std::sync::Mutex;
use std::thread::JoinHandle;

/// Jobs that may wait. Every one is a call in flight, and those are bounded above; past this the answer is
/// `EAGAIN` at once.
const QUEUE_JOBS: usize = 1024;

/// The largest file a job reads, bytes: the files meant are `/proc` entries and cgroup statistics.
const FILE_BYTES_MAX: usize = 4 << 20;

/// `EAGAIN`, `EFBIG` and `EIO` are the same numbers on every system this builds for, but `EAGAIN`.
const QUEUE_IS_FULL: rustix::io::Errno = rustix::io::Errno::AGAIN;
const TOO_LARGE: rustix::io::Errno = rustix::io::Errno::FBIG;
const UNKNOWN: rustix::io::Errno = rustix::io::Errno::IO;

/// What a job found, in the order asked for: bytes, or an errno.
pub(crate) type Findings = Vec<Result<Bytes, i32>>;

/// Called once with the findings, on the worker's thread, or on the caller's if the job could not be queued.
pub(crate) type Done = Box<dyn FnOnce(Findings) + Send>;

/// A job on its way.
struct Task {
    job: Job,
    done: Done,
}

/// A handle to the worker. Dropping it lets the jobs in hand end, then joins the thread.
#[derive(Default)]
pub(crate) struct Worker {
    running: Mutex<Option<Running>>,
}

struct Running {
    tasks: Sender<Task>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// A worker without a thread yet.
    pub(crate) fn new() -> Worker {
        Worker::default()
    }

    /// Queues a job. Never blocks; a full queue, or a thread that can't be started, answers at once.
    pub(crate) fn submit(&self, job: Job, done: Done) {
        let task = Task { job, done };
        let mut running = self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let tasks = match running.as_ref() {
            Some(running) => running.tasks.clone(),
            None => match start() {
                Ok(started) => running.insert(started).tasks.clone(),
                Err(error) => {
                    drop(running);
                    return refuse(task, errno(&error));
                }
            },
        };
        drop(running);
        match tasks.try_send(task) {
            Ok(()) => {}
            Err(TrySendError::Full(task) | TrySendError::Closed(task)) => {
                refuse(task, QUEUE_IS_FULL.raw_os_error());
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(Running { tasks, thread }) = running {
            drop(tasks);
            if thread.join().is_err() {
                tracing::error!(component = "worker", "the worker's thread panicked");
            }
        }
    }
}

fn start() -> io::Result<Running> {
    let (tasks, queue) = channel(QUEUE_JOBS);
    let thread = std::thread::Builder::new().name("kairo-worker".to_owned()).spawn(move || run(queue))?;
    Ok(Running { tasks, thread })
}

/// The thread: the preferred runtime, or the other one.
fn run(queue: Receiver<Task>) {
    match preferred::run(queue) {
        Ok(()) => {}
        Err((queue, error)) => {
            tracing::info!(component = "worker", %error, "the worker runs without io_uring");
            if let Err((queue, error)) = self::tokio::run(queue) {
                tracing::error!(component = "worker", %error, "the worker has no runtime");
                refuse_all(queue, errno(&error));
            }
        }
    }
}

fn refuse_all(mut queue: Receiver<Task>, errno: i32) {
    while let Some(task) = queue.blocking_recv() {
        refuse(task, errno);
    }
}

fn refuse(task: Task, errno: i32) {
    let asked = match &task.job {
        Job::Read(paths) => paths.len(),
    };
    (task.done)(vec![Err(errno); asked]);
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(UNKNOWN.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::time::Duration;

    fn read(worker: &Worker, paths: Vec<PathBuf>) -> Findings {
        let (sender, answer) = mpsc::channel();
        worker.submit(Job::Read(paths), Box::new(move |findings| sender.send(findings).unwrap()));
        answer.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    /// What both runtimes promise.
    fn keeps_the_promises(read: impl Fn(Vec<PathBuf>) -> Findings) {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        std::fs::write(&large, vec![7u8; 300_000]).unwrap();
        let found = read(vec![
            PathBuf::from("/proc/self/stat"),
            folder.path().join("missing"),
            large,
            folder.path().to_path_buf(),
        ]);
        assert_eq!(found.len(), 4);
        assert!(found[0].as_ref().is_ok_and(|bytes| !bytes.is_empty()));
        assert_eq!(found[1], Err(rustix::io::Errno::NOENT.raw_os_error()));
        assert!(found[2].as_ref().is_ok_and(|bytes| bytes.len() == 300_000 && bytes.iter().all(|b| *b == 7)));
        assert_eq!(found[3], Err(rustix::io::Errno::ISDIR.raw_os_error()));
        let huge = folder.path().join("huge");
        std::fs::File::create(&huge).unwrap().set_len(FILE_BYTES_MAX as u64 + 1).unwrap();
        assert_eq!(read(vec![huge]), vec![Err(TOO_LARGE.raw_os_error())]);
    }

    #[test]
    fn the_chosen_runtime_reads_files_whole_and_in_order() {
        let worker = Worker::new();
        keeps_the_promises(|paths| read(&worker, paths));
    }

    #[test]
    fn the_runtime_without_io_uring_does_the_same() {
        let (tasks, queue) = channel(QUEUE_JOBS);
        let thread = std::thread::spawn(move || self::tokio::run(queue).map_err(|(_, error)| error));
        keeps_the_promises(|paths| {
            let (sender, answer) = mpsc::channel();
            let done: Done = Box::new(move |findings| sender.send(findings).unwrap());
            assert!(tasks.try_send(Task { job: Job::Read(paths), done }).is_ok());
            answer.recv_timeout(Duration::from_secs(20)).unwrap()
        });
        drop(tasks);
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn a_worker_that_was_never_asked_has_no_thread() {
        let worker = Worker::new();
        assert!(worker.running.lock().unwrap().is_none());
    }

    #[test]
    fn dropping_the_worker_answers_what_was_queued_first() {
        let (sender, answers) = mpsc::channel();
        let worker = Worker::new();
        for _ in 0..100 {
            let sender = sender.clone();
            let job = Job::Read(vec![PathBuf::from("/proc/self/status")]);
            worker.submit(job, Box::new(move |findings| sender.send(findings.len()).unwrap()));
        }
        drop(worker);
        drop(sender);
        assert_eq!(answers.iter().count(), 100);
    }
}
