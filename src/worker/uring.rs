//! The worker on tokio-uring: files are read by the kernel's own threads, asked for in one queue.
//!
//! tokio-uring brings a ring of its own, apart from the reactors'. Its runtime sleeps in epoll on that ring and
//! on the job queue; nothing wakes it but a job or an answer. If the ring can't be set up the queue is given
//! back untouched and [`super`] takes the other runtime.

use super::{FILE_BYTES_MAX, Findings, TOO_LARGE, Task, errno};
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::Job;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;
use tokio_uring::fs::File;

/// Entries of the ring: as many operations as are ever in flight.
const RING_ENTRIES: u32 = 32;

/// Jobs in flight; each has one operation at a time.
const JOBS_IN_FLIGHT_MAX: u32 = 16;

/// First read of a file; it doubles from here.
const FIRST_READ_BYTES: usize = 8 << 10;

/// Serves the queue until its senders are gone and its jobs are answered. Gives the queue back if there is no
/// ring to be had.
pub(super) fn run(mut queue: Receiver<Task>) -> Result<(), (Receiver<Task>, io::Error)> {
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES);
    let runtime = match tokio_uring::Runtime::new(&builder) {
        Ok(runtime) => runtime,
        Err(error) => return Err((queue, error)),
    };
    runtime.block_on(async move {
        let slots = Arc::new(Semaphore::new(JOBS_IN_FLIGHT_MAX as usize));
        while let Some(Task { job, done }) = queue.recv().await {
            // The semaphore is never closed, so a slot always comes.
            let Ok(slot) = slots.clone().acquire_owned().await else { break };
            tokio_uring::spawn(async move {
                done(perform(job).await);
                drop(slot);
            });
        }
        // A join: every slot is back exactly when every job has been answered.
        let _all = slots.acquire_many(JOBS_IN_FLIGHT_MAX).await;
    });
    Ok(())
}

async fn perform(job: Job) -> Findings {
    match job {
        Job::Read(paths) => read_all(paths).await,
    }
}

async fn read_all(paths: Vec<PathBuf>) -> Findings {
    let mut findings = Vec::with_capacity(paths.len());
    for path in &paths {
        findings.push(read(path).await.map_err(|error| errno(&error)));
    }
    findings
}

async fn read(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path).await?;
    let found = read_to_end(&file).await;
    file.close().await?;
    found
}

async fn read_to_end(file: &File) -> io::Result<Bytes> {
    let mut all = BytesMut::new();
    let mut ask = FIRST_READ_BYTES;
    loop {
        let (answer, piece) = file.read_at(Vec::with_capacity(ask), all.len() as u64).await;
        let read = answer?;
        if read == 0 {
            return Ok(all.freeze());
        }
        all.extend_from_slice(&piece[..read]);
        if all.len() > FILE_BYTES_MAX {
            return Err(TOO_LARGE.into());
        }
        ask = (ask * 2).min(1 << 20);
    }
}
