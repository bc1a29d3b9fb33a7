//! The worker on plain tokio: one thread that hands each job to the blocking pool.
//!
//! The pool's threads end after a short idle time, so an idle worker is one sleeping thread. Used where
//! io_uring is not to be had.

use super::{FILE_BYTES_MAX, Findings, TOO_LARGE, Task, errno};
use bytes::Bytes;
use kairo_dataplane::command::Job;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;

/// Threads of the blocking pool: `/proc` and cgroup files need no more.
const POOL_THREADS_MAX: u32 = 4;

/// Serves the queue until its senders are gone and its jobs are answered. Gives the queue back if there is no
/// runtime to be had.
pub(super) fn run(mut queue: Receiver<Task>) -> Result<(), (Receiver<Task>, io::Error)> {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(POOL_THREADS_MAX as usize)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return Err((queue, error)),
    };
    runtime.block_on(async move {
        let slots = Arc::new(Semaphore::new(POOL_THREADS_MAX as usize));
        while let Some(Task { job, done }) = queue.recv().await {
            // The semaphore is never closed, so a slot always comes.
            let Ok(slot) = slots.clone().acquire_owned().await else { break };
            tokio::task::spawn_blocking(move || {
                done(perform(job));
                drop(slot);
            });
        }
        // A join: every slot is back exactly when every job has been answered.
        let _all = slots.acquire_many(POOL_THREADS_MAX).await;
    });
    Ok(())
}

fn perform(job: Job) -> Findings {
    match job {
        Job::Read(paths) => paths.iter().map(|path| read(path).map_err(|error| errno(&error))).collect(),
    }
}

fn read(path: &Path) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    let mut file = File::open(path)?.take(FILE_BYTES_MAX as u64 + 1);
    file.read_to_end(&mut bytes)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(TOO_LARGE.into());
    }
    Ok(bytes.into())
}
