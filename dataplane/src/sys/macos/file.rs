//! macOS tells of files by the path only (FSEvents) and punches whole blocks of APFS: neither is worth its code here.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

pub(crate) fn watch_folder(_: &Path) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn changed(_: &OwnedFd) -> io::Result<Option<Vec<OsString>>> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn punch(_: &File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn first_data(_: &File) -> u64 {
    0
}
