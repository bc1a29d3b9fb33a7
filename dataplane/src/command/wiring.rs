//! Descriptors of a process to be that are joined to other processes or files.

use crate::key::{Channel, ProcessKey};

/// What a child's standard descriptors have to do with other processes, and with files. Only where [`Stdio`](super::Stdio) says pipes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wiring {
    /// Descriptor 0 is this file, opened by the child when it is what it is going to be: as its user, in its folder and its
    /// containment.
    pub stdin_file: Option<Vec<u8>>,
    /// Descriptor 0 is where this pipe is read.
    pub stdin: Option<Joint>,
    /// Descriptor 1 is where this pipe is written, so nothing of it passes the kernel.
    pub stdout: Option<Joint>,
    /// Descriptor 0 is a pipe that another process's output is written into.
    pub feed: Option<Feed>,
}

impl Wiring {
    /// True exactly when the keeper has to know of it.
    pub fn is_joined(&self) -> bool {
        self.stdin_file.is_some() || self.stdin.is_some() || self.stdout.is_some()
    }
}

/// A pipe from one child to another. Both are started by the same reactor, one after the other; whichever is first makes it,
/// and nobody but the two keeps an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joint {
    /// Its name, used by these two only.
    pub name: u64,
    /// Size to ask for, bytes.
    pub pipe_bytes: u32,
}

/// An output that fills another process's stdin, without loss. Both live on one reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Whose.
    pub source: ProcessKey,
    /// Which.
    pub channel: Channel,
    /// It is there for that: when the stdin is closed, so is the output, and whoever writes it gets SIGPIPE.
    pub ends_source: bool,
}
