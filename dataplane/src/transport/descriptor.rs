//! Raw bytes to a descriptor of this process: how `kairo run` feeds its own stdout.
//!
//! A descriptor has no place for a record: what a reader here misses is told beside it, and the end of the stream is the
//! end of the writes.

use crate::driver::Driver;
use std::io;

/// A descriptor that is written to without ever blocking the reactor.
#[derive(Debug)]
pub struct DescriptorSink<F> {
    /// Adopted, so that being non-blocking doesn't change it for others.
    pub fd: F,
    /// True exactly while a writability poll is in flight.
    pub armed: bool,
    /// True from a writability poll's answer to the next attempt: what seems full may be closed.
    pub woken: bool,
    /// It can't be spliced into: a file that only appends, a device, somebody else's socket.
    pub copies: bool,
    /// It is a pipe, as far as anybody has found out: what goes to several readers can be duplicated right into it.
    pub tees: bool,
}

/// What a write came to.
#[derive(Debug)]
pub enum Put {
    /// So many bytes went.
    Bytes(usize),
    /// Nothing goes now.
    Full,
    /// Nobody reads it any more.
    Closed(io::Error),
}

impl<F> DescriptorSink<F> {
    /// To a descriptor of which nothing is known yet.
    pub fn new(fd: F) -> DescriptorSink<F> {
        DescriptorSink { fd, armed: false, woken: false, copies: false, tees: true }
    }

    /// Writes what goes.
    pub fn put<D: Driver<Fd = F>>(&self, driver: &mut D, bytes: &[u8]) -> Put {
        loop {
            match driver.write(&self.fd, bytes) {
                Ok(n) => return Put::Bytes(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Put::Full,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Put::Closed(error),
            }
        }
    }
}
