//! Handing everything to whoever comes after a kernel that died.
//!
//! The socket exists from the start, but nobody is let in while the kernel lives. One successor at a time, of the
//! keeper's own user and not one of its descendants, is told of every reactor, session and stream in batches of
//! [`BATCH_PACKETS_MAX`] packets; the next batch starts when the last one is acknowledged, because descriptors
//! on their way count against the user. The keeper keeps its own copies: a successor that dies half-way costs
//! nothing, the next one starts afresh.

use crate::control::{Lineage, Tree};
use crate::keeper::lane::Lane;
use crate::keeper::protocol::{BATCH_PACKETS_MAX, Blob, FromSuccessor, ToSuccessor, VERSION};
use crate::keeper::session::{Session, Sessions};
use crate::sys::{process, socket};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The place where successors arrive, and the one that has.
#[derive(Debug)]
pub(super) struct Handover {
    listener: OwnedFd,
    path: PathBuf,
    successor: Option<Successor>,
}

#[derive(Debug)]
struct Successor {
    socket: OwnedFd,
    /// What is handed over; empty before its `Hello`.
    items: Vec<Item>,
    /// Next of `items`.
    next: usize,
    /// Sent since the last acknowledgement.
    in_batch: usize,
    batch: u32,
    state: State,
}

/// What the next step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its `Hello` is awaited.
    Greeting,
    /// Items are sent, as far as the socket takes them.
    Sending,
    /// The batch's acknowledgement is awaited.
    Awaiting,
    /// All is told; it may still say that all shall end.
    Told,
}

#[derive(Clone, Copy, Debug)]
enum Item {
    Reactor(usize),
    Session(usize),
    Stream(usize, usize),
}

impl Handover {
    /// Creates the socket, mode 0600. A dead one in its place is replaced, a live one is `AddrInUse`.
    pub(super) fn listen(path: &Path) -> io::Result<Handover> {
        let listener = process::listen_packets(path)?;
        Ok(Handover { listener, path: path.to_owned(), successor: None })
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Its socket and what to poll for, if there is one.
    pub(super) fn successor(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let successor = self.successor.as_ref()?;
        let sending = successor.state == State::Sending;
        Some((successor.socket.as_fd(), if sending { PollFlags::OUT } else { PollFlags::IN }))
    }

    /// Does what can be done without waiting. A grace, if the successor wants everything ended.
    pub(super) fn go_on(&mut self, lanes: &[Lane], sessions: &Sessions) -> Option<Duration> {
        if self.successor.is_none() {
            self.successor = self.accept();
        }
        let successor = self.successor.as_mut()?;
        match successor.go_on(lanes, sessions) {
            Ok(wish) => wish,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // It is gone, or talks nonsense. Whoever comes next starts afresh.
            Err(_) => {
                self.successor = None;
                None
            }
        }
    }

    fn accept(&self) -> Option<Successor> {
        let socket = socket::accept(self.listener.as_fd()).ok()?;
        let peer = socket::peer(socket.as_fd(), std::process::id() as i32).ok()?;
        let trusted = peer.uid == rustix::process::geteuid().as_raw() && peer.lineage == Lineage::Outside;
        trusted.then(|| Successor {
            socket,
            items: Vec::new(),
            next: 0,
            in_batch: 0,
            batch: 0,
            state: State::Greeting,
        })
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        // Gone already if somebody tidied up.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Successor {
    fn go_on(&mut self, lanes: &[Lane], sessions: &Sessions) -> io::Result<Option<Duration>> {
        loop {
            if self.state == State::Sending {
                self.send_some(lanes, sessions)?;
                continue;
            }
            match self.receive()? {
                FromSuccessor::Hello { version, .. } => self.greet(version, lanes, sessions)?,
                FromSuccessor::Acknowledge { number }
                    if self.state == State::Awaiting && number == self.batch =>
                {
                    self.batch += 1;
                    self.in_batch = 0;
                    self.state = State::Sending;
                }
                FromSuccessor::Acknowledge { .. } => return Err(io::ErrorKind::InvalidData.into()),
                FromSuccessor::Shutdown { grace_ns } => return Ok(Some(Duration::from_nanos(grace_ns))),
            }
        }
    }

    fn receive(&self) -> io::Result<FromSuccessor> {
        let (mut packet, mut fds) = ([0; 1024], Vec::new());
        match socket::receive_packet(self.socket.as_fd(), &mut packet, &mut fds)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => rmp_serde::from_slice(&packet[..bytes]).map_err(io::Error::other),
        }
    }

    fn greet(&mut self, version: u16, lanes: &[Lane], sessions: &Sessions) -> io::Result<()> {
        let reactors = lanes.iter().enumerate().filter(|(_, lane)| lane.held.is_some());
        let mut items: Vec<Item> = reactors.map(|(index, _)| Item::Reactor(index)).collect();
        let hello = ToSuccessor::Hello {
            version: VERSION,
            pid: std::process::id() as i32,
            reactors: items.len() as u16,
            sessions: sessions.len() as u32,
        };
        self.send(&hello, &[])?;
        if version != VERSION {
            return Err(io::ErrorKind::Unsupported.into());
        }
        for (index, session) in sessions.iter() {
            items.push(Item::Session(index));
            items.extend((0..session.rings.len()).map(|ring| Item::Stream(index, ring)));
        }
        (self.items, self.next, self.in_batch) = (items, 0, 0);
        self.state = State::Sending;
        Ok(())
    }

    /// Sends the rest of a batch and closes it; after the last one, says so.
    fn send_some(&mut self, lanes: &[Lane], sessions: &Sessions) -> io::Result<()> {
        while let (Some(item), true) = (self.items.get(self.next), self.in_batch < BATCH_PACKETS_MAX) {
            self.send_item(*item, lanes, sessions)?;
            self.next += 1;
            self.in_batch += 1;
        }
        if self.in_batch > 0 {
            self.send(&ToSuccessor::Batch { number: self.batch }, &[])?;
            self.state = State::Awaiting;
        } else {
            self.send(&ToSuccessor::Complete, &[])?;
            self.state = State::Told;
        }
        Ok(())
    }

    fn send_item(&self, item: Item, lanes: &[Lane], sessions: &Sessions) -> io::Result<()> {
        match item {
            Item::Reactor(index) => {
                let Some(held) = lanes.get(index).and_then(|lane| lane.held.as_ref()) else {
                    return Ok(());
                };
                let fds = held.each_ref().map(AsFd::as_fd);
                self.send(&ToSuccessor::Reactor { reactor: index as u16 }, &fds)
            }
            // Sessions may end and leave while their batch waits.
            Item::Session(index) => match sessions.get(index) {
                Some(session) => self.send_session(session),
                None => Ok(()),
            },
            Item::Stream(index, ring) => {
                let Some(session) = sessions.get(index) else { return Ok(()) };
                let Some(ring) = session.rings.get(ring) else { return Ok(()) };
                let (end, slot, generation) = (ring.end, ring.slot, ring.generation);
                let message = ToSuccessor::Stream { process: session.process, end, slot, generation };
                self.send(&message, &[ring.memory.as_fd()])
            }
        }
    }

    fn send_session(&self, session: &Session) -> io::Result<()> {
        let message = ToSuccessor::Session {
            process: session.process,
            session: &session.name,
            pid: session.pid,
            start_ticks: session.start_ticks,
            tree: if session.cgroup.is_some() { Tree::Exact } else { Tree::BestEffort },
            exit: session.exit,
            acknowledged: session.acknowledged,
            ended: session.ended,
            terminal: session.terminal,
            pipe_bytes: session.ends.each_ref().map(|end| end.as_ref().map(|kept| kept.pipe_bytes)),
            record: Blob(&session.record),
        };
        let fds: Vec<BorrowedFd<'_>> = session.ends.iter().flatten().map(|kept| kept.fd.as_fd()).collect();
        self.send(&message, &fds)
    }

    fn send(&self, message: &ToSuccessor<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut packet = Vec::new();
        rmp_serde::encode::write(&mut packet, message).map_err(io::Error::other)?;
        socket::send_packet(self.socket.as_fd(), &packet, fds)
    }
}
