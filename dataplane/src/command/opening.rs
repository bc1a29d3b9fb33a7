//! What clients are given to read from or to write to.

use crate::sys::fifo::User;
use bytes::Bytes;

/// What raw bytes leave by, to a client that takes them off a descriptor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutletKind {
    /// A pipe.
    Pipe {
        /// Size to ask for, bytes.
        bytes: u32,
    },
    /// A connected pair of stream sockets.
    Socket,
    /// Nothing: the reader maps the ring of one output. It is handed the ring, its page and its doorbell, in this order.
    Shared,
    /// A pipe with a name in the file system, which is the reader's.
    Fifo {
        /// Size to ask for, bytes.
        bytes: u32,
        /// Who may open it.
        user: User,
        /// How long it waits for that, nanoseconds.
        wait_ns: u64,
    },
}

/// A path that a process's stdin is written by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedInlet {
    /// Its last part, which nobody can guess.
    pub name: Box<str>,
    /// Who may open it.
    pub user: User,
    /// How long it waits for that, nanoseconds.
    pub wait_ns: u64,
    /// Stdin is closed when its last writer has closed it.
    pub closes: bool,
    /// What the keeper is to keep with it, opaque to the data plane.
    pub note: Bytes,
}
