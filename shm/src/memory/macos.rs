//! macOS: POSIX shared memory, unlinked as soon as it is open.
//!
//! Its size can be set once and never again, which is what a seal of the size is for. There is nothing like a seal
//! against writing, so a process of the same user that is handed a descriptor could write to it. Never run on a Mac.

use super::Writers;
use crate::layout::RingError;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, fstat, ftruncate};
use rustix::net::{RecvFlags, SendFlags};
use rustix::shm;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Doesn't wait.
pub(crate) const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;
/// Doesn't wait.
pub(crate) const RECEIVE_FLAGS: RecvFlags = RecvFlags::DONTWAIT;

/// There is no sleeping on a word of shared memory in older systems: it is looked at so often.
const NAP: Duration = Duration::from_millis(1);

/// Makes names of one process differ.
static COUNT: AtomicU64 = AtomicU64::new(0);

pub(crate) fn anonymous(name: &str, bytes: usize) -> Result<OwnedFd, RingError> {
    // Names are at most 31 bytes there.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = format!("/{:.10}.{:x}.{number:x}", name, std::process::id());
    let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
    let fd = shm::open(path.as_str(), flags, Mode::RUSR | Mode::WUSR)
        .map_err(RingError::os("create shared memory"))?;
    shm::unlink(path.as_str()).map_err(RingError::os("unlink shared memory"))?;
    ftruncate(&fd, bytes as u64).map_err(RingError::os("size shared memory"))?;
    Ok(fd)
}

pub(crate) fn seal(_fd: &impl AsFd, _writers: Writers) -> Result<(), RingError> {
    Ok(())
}

pub(crate) fn is_fixed(fd: BorrowedFd<'_>) -> Result<bool, RingError> {
    let size = fstat(fd).map_err(RingError::os("read the size"))?.st_size;
    Ok(size > 0)
}

/// Not to be had once the name is gone: shared rings are not handed out here.
pub(crate) fn read_only(_fd: BorrowedFd<'_>) -> Result<OwnedFd, RingError> {
    Err(RingError::os("open shared memory read-only")(rustix::io::Errno::NOTSUP))
}

pub(crate) fn sleep(word: &AtomicU32, seen: u32, timeout: Duration) {
    if word.load(Ordering::Acquire) == seen {
        std::thread::sleep(timeout.min(NAP));
    }
}

pub(crate) fn wake(_word: &AtomicU32) {}
