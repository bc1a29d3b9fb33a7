//! Fake descriptors: what one is, its ends, and when it is ready.
//!
//! Cloning an [`Fd`] is sharing it; [`Fd::duplicate`] is dup(2). Invariant: the world's list of what is open holds
//! exactly the descriptors of which a clone lives. Chance doesn't reach in here: readiness is the truth.

use super::flow::{ReadEnd, WriteEnd};
use super::world::Shared;
use crate::control::Peer;
use crate::driver::op::Interest;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// A fake descriptor. The last clone closes it.
#[derive(Clone)]
pub struct Fd(pub(super) Rc<Node>);

impl std::fmt::Debug for Fd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fd({})", self.0.serial)
    }
}

pub(super) struct Node {
    world: Rc<Shared>,
    serial: u64,
    pub(super) kind: Kind,
}

/// What a descriptor is, and its ends.
pub(super) enum Kind {
    Socket {
        read: ReadEnd<u8>,
        write: WriteEnd<u8>,
        peer: Peer,
    },
    Reader {
        read: ReadEnd<u8>,
        private: bool,
    },
    Writer {
        write: WriteEnd<u8>,
        private: bool,
    },
    Terminal {
        read: ReadEnd<u8>,
        write: WriteEnd<u8>,
        size: Rc<Cell<(u16, u16)>>,
    },
    Listener(Rc<Backlog>),
    Lane {
        read: ReadEnd<Packet>,
        write: WriteEnd<Packet>,
    },
    /// A real descriptor, only passed around.
    Outside(Rc<OwnedFd>),
    /// `/dev/null`.
    Void,
    /// A file: takes everything, up to a size. One that only appends isn't spliced into.
    File {
        bytes: Rc<RefCell<Vec<u8>>>,
        bytes_max: usize,
        appends: bool,
    },
}

/// Who has connected and isn't accepted yet.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) waiting: RefCell<VecDeque<Fd>>,
    /// Descriptors that listen.
    pub(super) listeners: Cell<usize>,
}

#[derive(Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<Fd>,
}

impl Fd {
    pub(super) fn new(world: Rc<Shared>, kind: Kind) -> Fd {
        let what = match &kind {
            Kind::Socket { .. } => "socket",
            Kind::Reader { .. } => "pipe's read end",
            Kind::Writer { .. } => "pipe's write end",
            Kind::Terminal { .. } => "terminal",
            Kind::Listener(_) => "listener",
            Kind::Lane { .. } => "lane",
            Kind::Outside(_) => "real descriptor",
            Kind::Void => "void",
            Kind::File { .. } => "file",
        };
        let serial = world.opened(what);
        Fd(Rc::new(Node { world, serial, kind }))
    }

    /// dup(2): another descriptor of the same open file.
    pub fn duplicate(&self) -> Fd {
        let kind = match &self.0.kind {
            Kind::Socket { read, write, peer } => {
                Kind::Socket { read: read.clone(), write: write.clone(), peer: peer.clone() }
            }
            Kind::Reader { read, private } => Kind::Reader { read: read.clone(), private: *private },
            Kind::Writer { write, private } => Kind::Writer { write: write.clone(), private: *private },
            Kind::Terminal { read, write, size } => {
                Kind::Terminal { read: read.clone(), write: write.clone(), size: Rc::clone(size) }
            }
            Kind::Listener(backlog) => {
                backlog.listeners.set(backlog.listeners.get() + 1);
                Kind::Listener(Rc::clone(backlog))
            }
            Kind::Lane { read, write } => Kind::Lane { read: read.clone(), write: write.clone() },
            Kind::Outside(real) => Kind::Outside(Rc::clone(real)),
            Kind::Void => Kind::Void,
            Kind::File { bytes, bytes_max, appends } => {
                Kind::File { bytes: Rc::clone(bytes), bytes_max: *bytes_max, appends: *appends }
            }
        };
        Fd::new(Rc::clone(&self.0.world), kind)
    }

    /// The size of a terminal: rows, columns.
    pub fn terminal_size(&self) -> Option<(u16, u16)> {
        match &self.0.kind {
            Kind::Terminal { size, .. } => Some(size.get()),
            _ => None,
        }
    }

    /// The real descriptor behind an imported one: what a keeper maps to look at rings and pages.
    pub fn outside(&self) -> Option<&OwnedFd> {
        match &self.0.kind {
            Kind::Outside(real) => Some(real),
            _ => None,
        }
    }

    /// Whether an operation that waits for this could be answered.
    pub(super) fn is(&self, interest: Interest) -> bool {
        fn readable<T>(read: &ReadEnd<T>) -> bool {
            read.len() > 0 || read.is_ending()
        }
        fn writable<T>(write: &WriteEnd<T>) -> bool {
            write.room() > 0 || write.is_broken()
        }
        match (&self.0.kind, interest) {
            (
                Kind::Socket { read, .. } | Kind::Reader { read, .. } | Kind::Terminal { read, .. },
                Interest::Read,
            ) => readable(read),
            (
                Kind::Socket { write, .. } | Kind::Writer { write, .. } | Kind::Terminal { write, .. },
                Interest::Write,
            ) => writable(write),
            (Kind::Socket { read, write, .. } | Kind::Terminal { read, write, .. }, Interest::Hangup) => {
                read.is_ending() && write.is_broken()
            }
            (Kind::Reader { read, .. }, Interest::Hangup) => read.is_ending(),
            (Kind::Writer { write, .. }, Interest::Hangup) => write.is_broken(),
            (Kind::Lane { read, .. }, Interest::Read) => readable(read),
            (Kind::Lane { write, .. }, Interest::Write) => writable(write),
            (Kind::Lane { read, write }, Interest::Hangup) => read.is_ending() && write.is_broken(),
            (Kind::Listener(backlog), Interest::Read) => !backlog.waiting.borrow().is_empty(),
            (Kind::Listener(_), Interest::Write | Interest::Hangup) => false,
            (Kind::Reader { .. }, Interest::Write) | (Kind::Writer { .. }, Interest::Read) => false,
            (Kind::Outside(_) | Kind::Void | Kind::File { .. }, Interest::Read | Interest::Write) => true,
            (Kind::Outside(_) | Kind::Void | Kind::File { .. }, Interest::Hangup) => false,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.world.closed(self.serial);
        if let Kind::Listener(backlog) = &self.kind {
            backlog.listeners.set(backlog.listeners.get() - 1);
            if backlog.listeners.get() == 0 {
                // Whoever was not accepted is cut off.
                let waiting = std::mem::take(&mut *backlog.waiting.borrow_mut());
                drop(waiting);
            }
        }
    }
}

/// Where bytes are taken out of it, if anywhere.
pub(super) fn bytes_of(fd: &Fd) -> Option<&ReadEnd<u8>> {
    match &fd.0.kind {
        Kind::Reader { read, .. } | Kind::Socket { read, .. } | Kind::Terminal { read, .. } => Some(read),
        _ => None,
    }
}
