//! Handing everything to whoever comes after a kernel that died.
//!
//! The socket exists from the start, but nobody is let in while the kernel lives. One successor at a time, of the
//! keeper's own user and not one of its descendants, is told of every reactor, session and stream in batches of
//! [`BATCH_PACKETS_MAX`] packets; the next batch starts when the last one is acknowledged, because descriptors
//! on their way count against the user. Told everything, it replaces rings (nobody can write to a dead kernel's) and
//! then says that it is the kernel. The keeper keeps its own copies: a successor that dies half-way costs nothing, the
//! next one starts afresh.

use crate::control::{Lineage, Tree};
use crate::keeper::lane::Lane;
use crate::keeper::protocol::{
    Blob, VERSION_AWAITS, VERSION_FRAMES, VERSION_HOLDS, VERSION_LETS_IN, VERSION_PRODUCES, spoken,
};
use crate::keeper::session::{Exit, Inlet, Outlet, Ring, Session, Sessions};
use crate::keeper::succession::{BATCH_PACKETS_MAX, FromSuccessor, ToSuccessor};
use crate::sys::{process, socket};
use rustix::event::PollFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    /// What both speak.
    version: u16,
    /// Our ends of the lanes it is going to speak on.
    lanes: Vec<OwnedFd>,
}

/// What a successor wants of the keeper itself.
#[derive(Debug)]
pub(super) enum Wish {
    /// To end everything after this grace.
    End(Duration),
    /// To be its kernel.
    Adopt { lanes: Vec<OwnedFd>, kernel_pid: i32, version: u16 },
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
    /// All is told; it may replace rings, become the kernel, or say that all shall end.
    Told,
}

#[derive(Clone, Copy, Debug)]
enum Item {
    Reactor(usize),
    Session(usize),
    Facts(usize),
    Producer(usize),
    Stream(usize, usize),
    Input(usize),
    Outlet(usize, usize),
    Inlet(usize),
    Blockers(usize),
}

/// How long a keeper that has nothing to keep may take to go.
const FAREWELL: Duration = Duration::from_secs(2);

/// Most lanes a kernel may bring.
const LANES_MAX: usize = 256;

impl Handover {
    /// Creates the socket, mode 0600. A dead one in its place is replaced, a live one is `AddrInUse`; that of a keeper
    /// whose kernel died before it had anything to keep is about to go, and waited for.
    pub(super) fn listen(path: &Path) -> io::Result<Handover> {
        let patience = Instant::now() + FAREWELL;
        loop {
            match process::listen_packets(path) {
                Ok(listener) => return Ok(Handover { listener, path: path.to_owned(), successor: None }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error),
            }
        }
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

    /// Does what can be done without waiting. `version` is the highest to speak.
    pub(super) fn go_on(&mut self, lanes: &[Lane], sessions: &mut Sessions, version: u16) -> Option<Wish> {
        if self.successor.is_none() {
            self.successor = self.accept(version);
        }
        let successor = self.successor.as_mut()?;
        match successor.go_on(lanes, sessions) {
            Ok(wish @ Wish::Adopt { .. }) => {
                self.successor = None;
                Some(wish)
            }
            Ok(wish) => Some(wish),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // It is gone, or talks nonsense. Whoever comes next starts afresh.
            Err(_) => {
                self.successor = None;
                None
            }
        }
    }

    fn accept(&self, version: u16) -> Option<Successor> {
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
            version,
            lanes: Vec::new(),
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
    /// Goes on until there is something for the keeper to do; `WouldBlock` until then.
    fn go_on(&mut self, lanes: &[Lane], sessions: &mut Sessions) -> io::Result<Wish> {
        loop {
            if self.state == State::Sending {
                self.send_some(lanes, sessions)?;
                continue;
            }
            let (message, mut fds) = self.receive()?;
            let told = self.state == State::Told;
            match message {
                FromSuccessor::Hello { version, .. } => self.greet(version, lanes, sessions)?,
                FromSuccessor::Acknowledge { number }
                    if self.state == State::Awaiting && number == self.batch =>
                {
                    self.batch += 1;
                    self.in_batch = 0;
                    self.state = State::Sending;
                }
                FromSuccessor::Shutdown { grace_ns } => return Ok(Wish::End(Duration::from_nanos(grace_ns))),
                FromSuccessor::Replace { process, end, slot, generation } if told => {
                    let memory = fds.pop().ok_or(io::ErrorKind::InvalidData)?;
                    // A session that was let go meanwhile needs no ring.
                    if let Some(session) = sessions.by_key_mut(process) {
                        session.rings.retain(|ring| ring.end != end);
                        session.rings.push(Ring { end, slot, generation, memory });
                    }
                    self.send(&ToSuccessor::Replaced { process, end }, &[])?;
                }
                FromSuccessor::Lane if told && self.lanes.len() < LANES_MAX => {
                    self.lanes.push(fds.pop().ok_or(io::ErrorKind::InvalidData)?);
                }
                FromSuccessor::Adopt { kernel_pid } if told && !self.lanes.is_empty() => {
                    self.send(&ToSuccessor::Adopted, &[])?;
                    let (lanes, version) = (std::mem::take(&mut self.lanes), self.version);
                    return Ok(Wish::Adopt { lanes, kernel_pid, version });
                }
                FromSuccessor::Acknowledge { .. }
                | FromSuccessor::Replace { .. }
                | FromSuccessor::Lane
                | FromSuccessor::Adopt { .. } => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    fn receive(&self) -> io::Result<(FromSuccessor, Vec<OwnedFd>)> {
        let (mut packet, mut fds) = ([0; 1024], Vec::new());
        match socket::receive_packet(self.socket.as_fd(), &mut packet, &mut fds)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => Ok((rmp_serde::from_slice(&packet[..bytes]).map_err(io::Error::other)?, fds)),
        }
    }

    fn greet(&mut self, version: u16, lanes: &[Lane], sessions: &Sessions) -> io::Result<()> {
        let reactors = lanes.iter().enumerate().filter(|(_, lane)| lane.held.is_some());
        let mut items: Vec<Item> = reactors.map(|(index, _)| Item::Reactor(index)).collect();
        let reactors = items.len() as u16;
        let both = spoken(self.version, version);
        // Of what it has no word for it isn't told.
        let knows = both.is_some_and(|both| both >= VERSION_PRODUCES);
        let alive = sessions.iter().filter(|(_, session)| !session.forgotten);
        let alive = alive.filter(|(_, session)| knows || session.producer.is_none());
        let mut count = 0;
        for (index, session) in alive {
            count += 1;
            items.extend([Item::Session(index), Item::Facts(index)]);
            items.extend(session.producer.is_some().then_some(Item::Producer(index)));
            items.extend((0..session.rings.len()).map(|ring| Item::Stream(index, ring)));
            items.extend(session.inbox.is_some().then_some(Item::Input(index)));
            items.extend((0..session.outlets.len()).map(|outlet| Item::Outlet(index, outlet)));
            items.extend(session.inlet.is_some().then_some(Item::Inlet(index)));
            items.extend((session.blockers != [0; 2]).then_some(Item::Blockers(index)));
        }
        let pid = std::process::id() as i32;
        self.send(&ToSuccessor::Hello { version: self.version, pid, reactors, sessions: count }, &[])?;
        self.version = both.ok_or(io::ErrorKind::Unsupported)?;
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
            Item::Facts(index) => match sessions.get(index) {
                Some(session) if self.version >= 3 => self.send_facts(session),
                Some(_) | None => Ok(()),
            },
            Item::Producer(index) => {
                let Some(session) = sessions.get(index) else { return Ok(()) };
                let in_place = session.producer.as_ref().map_or(&[][..], |producer| &producer.in_place);
                let fds: Vec<BorrowedFd<'_>> = in_place.iter().map(AsFd::as_fd).collect();
                let message = ToSuccessor::Producer { process: session.process, in_place: !fds.is_empty() };
                self.send(&message, &fds)
            }
            Item::Input(index) => match sessions.get(index) {
                Some(Session { process, inbox: Some(inbox), .. }) => {
                    self.send(&ToSuccessor::Input { process: *process }, &[inbox.as_fd()])
                }
                Some(_) | None => Ok(()),
            },
            Item::Outlet(index, outlet) => self.send_outlet(sessions.get(index), outlet),
            Item::Inlet(index) => {
                let session = sessions.get(index).filter(|_| self.version >= VERSION_LETS_IN);
                let Some(Session { process, inlet: Some(inlet), .. }) = session else { return Ok(()) };
                let Inlet { fd, path, until_ns, closes, note } = inlet;
                let (path, note) = (Blob(path.as_os_str().as_bytes()), Blob(note));
                let (process, until_ns, closes) = (*process, *until_ns, *closes);
                let message = ToSuccessor::Inlet { process, path, until_ns, closes, note };
                self.send(&message, &[fd.as_fd()])
            }
            Item::Blockers(index) => match sessions.get(index) {
                Some(session) if self.version >= VERSION_AWAITS => {
                    let (process, counts) = (session.process, session.blockers);
                    self.send(&ToSuccessor::Blockers { process, counts }, &[])
                }
                Some(_) | None => Ok(()),
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
            exit: session
                .exit
                .filter(|_| session.acknowledged)
                .map(|Exit { status, usage, .. }| (status, usage)),
            ended: session.ended && session.end_acknowledged,
            terminal: session.terminal,
            pipe_bytes: session.ends.each_ref().map(|end| end.as_ref().map(|kept| kept.pipe_bytes)),
            record: Blob(&session.record),
        };
        let fds: Vec<BorrowedFd<'_>> = session.ends.iter().flatten().map(|kept| kept.fd.as_fd()).collect();
        self.send(&message, &fds)
    }

    /// It stays here until a kernel lets it go, so there is nothing else to tell a successor that has no word for it.
    fn send_outlet(&self, session: Option<&Session>, outlet: usize) -> io::Result<()> {
        let outlet = session.and_then(|session| session.outlets.get(outlet));
        let has_word =
            |outlet: &&Outlet| self.version >= if outlet.framed { VERSION_FRAMES } else { VERSION_HOLDS };
        let Some(Outlet { process, serial, end, framed, note, fd, place }) = outlet.filter(has_word) else {
            return Ok(());
        };
        let (process, serial, end, note) = (*process, *serial, *end, Blob(note));
        let message = match framed {
            true => ToSuccessor::Framed { process, serial, end, note },
            false => ToSuccessor::Outlet { process, serial, end, note },
        };
        self.send(&message, &[fd.as_fd(), place.as_fd()])
    }

    fn send_facts(&self, session: &Session) -> io::Result<()> {
        let message = ToSuccessor::Facts {
            process: session.process,
            limits: session.limits.clone(),
            exited_ns: session.exit.map(|exit| exit.at_ns),
            note: Blob(&session.note),
        };
        self.send(&message, &[])
    }

    fn send(&self, message: &ToSuccessor<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut packet = Vec::new();
        rmp_serde::encode::write(&mut packet, message).map_err(io::Error::other)?;
        socket::send_packet(self.socket.as_fd(), &packet, fds)
    }
}
