//! What a driver can be asked for, and its answers.

use super::token::Token;

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, or the end.
    Read,
    /// Room to write, or nobody left to read it.
    Write,
    /// Only that the peer is wholly gone.
    Hangup,
}

/// An operation the driver carries out when it can. It owns a clone of its descriptor until it is answered.
#[derive(Clone, Debug)]
pub enum Op<F> {
    /// One readiness report.
    Poll(F, Interest),
    /// Receive from a stream socket into a buffer the driver lends.
    Receive(F),
    /// Accept one connection, non-blocking and close-on-exec.
    Accept(F),
}

/// The answer to one operation; every submitted operation is answered exactly once.
#[derive(Debug)]
pub struct Completion<F> {
    /// As given to `submit`.
    pub token: Token,
    /// What came of it.
    pub answer: Answer<F>,
}

/// What came of an operation.
#[derive(Debug)]
pub enum Answer<F> {
    /// The descriptor is ready, or has an error or the end to tell: try it.
    Ready,
    /// Bytes, to be read with `Driver::lent` and given back with `Driver::give_back`.
    Received(Lent),
    /// The peer closed its sending half.
    Eof,
    /// A new connection.
    Accepted(F),
    /// Not carried out: an errno. `ECANCELED` after `cancel`.
    Failed(i32),
}

/// A buffer of the driver's with `len` bytes in it. Give it back.
#[derive(Debug)]
#[must_use = "a lent buffer must be given back"]
pub struct Lent {
    pub(super) buffer: u16,
    pub(super) len: u32,
}

impl Lent {
    /// Bytes received, never 0.
    pub fn len(&self) -> usize {
        self.len as usize
    }
    /// Never true; here for the pair.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
