//! Nothing stands still here: what is executed can't be read before it runs, so nobody asks for it (the control plane
//! refuses by name) and whoever does is refused.

use crate::control::Weakness;
use std::fs::File;
use std::io;

/// What a child executes.
#[derive(Debug)]
pub(crate) struct Executed {
    /// To be read.
    pub(crate) file: File,
    /// As the operating system names it.
    pub(crate) path: Vec<u8>,
    /// Why it may be changed before it runs.
    pub(crate) weakness: Option<Weakness>,
}

/// Lets a child that stands still run: there is none.
pub(crate) fn release(_: i32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What a child that stands still executes: there is none.
pub(crate) fn executed(_: i32, _: &[u8]) -> io::Result<Executed> {
    Err(io::ErrorKind::Unsupported.into())
}
