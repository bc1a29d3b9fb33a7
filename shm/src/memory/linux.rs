//! Linux: memfd_create(2) and its seals, and futex(2).

use super::Writers;
use crate::layout::RingError;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    CWD, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
    openat,
};
use rustix::net::{RecvFlags, SendFlags};
use rustix::thread::futex::{self, Flags};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Neither waits nor kills.
pub(crate) const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// Doesn't wait, and what comes doesn't leak into children.
pub(crate) const RECEIVE_FLAGS: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);

pub(crate) fn anonymous(name: &str, bytes: usize) -> Result<OwnedFd, RingError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create(name, flags).map_err(RingError::os("create shared memory"))?;
    ftruncate(&fd, bytes as u64).map_err(RingError::os("size shared memory"))?;
    Ok(fd)
}

pub(crate) fn seal(fd: &impl AsFd, writers: Writers) -> Result<(), RingError> {
    let size = SealFlags::SHRINK | SealFlags::GROW;
    let seals = match writers {
        Writers::Undecided => size,
        Writers::Anybody => size | SealFlags::SEAL,
        Writers::Nobody => size | SealFlags::SEAL | SealFlags::FUTURE_WRITE,
    };
    fcntl_add_seals(fd, seals).map_err(RingError::os("seal shared memory"))
}

pub(crate) fn is_fixed(fd: BorrowedFd<'_>) -> Result<bool, RingError> {
    let seals = fcntl_get_seals(fd).map_err(RingError::os("read the seals"))?;
    Ok(seals.contains(SealFlags::SHRINK | SealFlags::GROW))
}

pub(crate) fn read_only(fd: BorrowedFd<'_>) -> Result<OwnedFd, RingError> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(RingError::os("open shared memory read-only"))
}

/// Returns when woken, when the word isn't `seen`, when the time is up, and sometimes for no reason.
pub(crate) fn sleep(word: &AtomicU32, seen: u32, timeout: Duration) {
    let timeout = futex::Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // Not private: who wakes us is another process. All failures mean: look again.
    let _ = futex::wait(word, Flags::empty(), seen, Some(&timeout));
}

pub(crate) fn wake(word: &AtomicU32) {
    let _ = futex::wake(word, Flags::empty(), i32::MAX as u32);
}
