//! Linux: memfd_create(2) and its seals.

use super::Writers;
use crate::layout::RingError;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};

pub(crate) fn anonymous(name: &str, bytes: usize) -> Result<OwnedFd, RingError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create(name, flags).map_err(RingError::os("create shared memory"))?;
    ftruncate(&fd, bytes as u64).map_err(RingError::os("size shared memory"))?;
    Ok(fd)
}

pub(crate) fn seal(fd: &impl AsFd, writers: Writers) -> Result<(), RingError> {
    let size = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let seals = match writers {
        Writers::Anybody => size,
        Writers::Nobody => size | SealFlags::FUTURE_WRITE,
    };
    fcntl_add_seals(fd, seals).map_err(RingError::os("seal shared memory"))
}

pub(crate) fn is_fixed(fd: BorrowedFd<'_>) -> Result<bool, RingError> {
    let seals = fcntl_get_seals(fd).map_err(RingError::os("read the seals"))?;
    Ok(seals.contains(SealFlags::SHRINK | SealFlags::GROW))
}
