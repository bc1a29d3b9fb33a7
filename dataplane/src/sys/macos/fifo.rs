//! macOS tells nobody that a fifo is opened, so there are none.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

pub(crate) fn make(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn watch() -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn watch_opening(_: &OwnedFd, _: &Path) -> io::Result<i32> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn opened(_: &OwnedFd, _: &mut Vec<i32>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
