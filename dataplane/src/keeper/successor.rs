//! The other side of a handover: takes over, or only looks at, what a dead kernel's keeper holds.
//!
//! Blocking, for a process that has nothing else to do yet. What is received are duplicates: the keeper keeps its own
//! until it is told to let go. Receiving changes nothing; what it takes to go on is [`settlement`](super::settlement)'s.

use crate::control::{ExitStatus, LimitInForce, Tree, Usage};
use crate::keeper::link::in_force;
use crate::keeper::protocol::{End, ProtocolError, VERSION, spoken};
use crate::keeper::succession::{FromSuccessor, ToSuccessor};
use crate::key::{ProcessKey, ReactorId};
use crate::sys::{process, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Everything a keeper holds.
#[derive(Debug)]
pub struct Estate {
    /// The keeper.
    pub keeper_pid: i32,
    /// What both sides speak.
    pub version: u16,
    /// What reactors gave it to hold.
    pub reactors: Vec<HeldReactor>,
    /// Every process not forgotten, in no order.
    pub sessions: Vec<HeldSession>,
    pub(super) wire: Wire,
}

/// A reactor's page and staging pipes.
#[derive(Debug)]
pub struct HeldReactor {
    /// Its number, the `home` of its processes.
    pub reactor: u16,
    /// memfd.
    pub page: OwnedFd,
    /// Output staging pipe, read end.
    pub staging_reader: OwnedFd,
    /// Output staging pipe, write end.
    pub staging_writer: OwnedFd,
    /// Input staging pipe, read end.
    pub input_reader: OwnedFd,
    /// Input staging pipe, write end.
    pub input_writer: OwnedFd,
}

/// A process.
#[derive(Debug)]
pub struct HeldSession {
    /// Its name under the dead kernel.
    pub process: ProcessKey,
    /// `KAIRO_SESSION`.
    pub session: String,
    /// The leader.
    pub pid: i32,
    /// With the pid, a name for good.
    pub start_ticks: u64,
    /// How well its tree is known.
    pub tree: Tree,
    /// If the leader has ended and the dead kernel had told so.
    pub exit: Option<(ExitStatus, Usage)>,
    /// True exactly when nobody of the tree is left and the dead kernel had told so.
    pub ended: bool,
    /// True exactly when `Stdout` is a PTY master.
    pub terminal: bool,
    /// By [`End`] as index: our end and its pipe's size in force, bytes.
    pub ends: [Option<(OwnedFd, u32)>; 3],
    /// The rings of its streams.
    pub rings: Vec<HeldRing>,
    /// How many readers waited for a first byte of each output: of one that has a ring it says so itself.
    pub blockers: [u32; 2],
    /// What waits for its stdin (memfd).
    pub inbox: Option<OwnedFd>,
    /// What its readers are given bytes by.
    pub outlets: Vec<HeldOutlet>,
    /// What its stdin is written by.
    pub inlet: Option<HeldInlet>,
    /// There is no child: a client writes its output.
    pub produced: bool,
    /// It does so in place.
    pub lending: Option<HeldLending>,
    /// As given at its spawn.
    pub record: Vec<u8>,
    /// The dead kernel's last note; empty if there was none.
    pub note: Vec<u8>,
    /// What limits hold.
    pub limits: Vec<LimitInForce>,
    /// When the leader was reaped, if it was, CLOCK_MONOTONIC nanoseconds.
    pub exited_ns: Option<u64>,
}

/// A stream's ring.
#[derive(Debug)]
pub struct HeldRing {
    /// Which end's bytes.
    pub end: End,
    /// Its name in the page of the process's home reactor, first half.
    pub slot: u32,
    /// Second half.
    pub generation: u32,
    /// memfd.
    pub memory: OwnedFd,
}

/// What a client writes in place.
#[derive(Debug)]
pub struct HeldLending {
    /// The ring (memfd), which nobody can map writable any more, if its producer has mapped it.
    pub ring: OwnedFd,
    /// The producer's page (memfd).
    pub page: OwnedFd,
    /// Our end of its doorbell.
    pub doorbell: OwnedFd,
}

/// Our end of what a reader takes bytes off.
#[derive(Debug)]
pub struct HeldOutlet {
    /// Its name.
    pub serial: u64,
    /// Which output it reads.
    pub end: End,
    /// In frames.
    pub framed: bool,
    /// As its kernel noted it.
    pub note: Vec<u8>,
    /// Pipe, fifo or socket.
    pub fd: OwnedFd,
    /// Where it has come to (memfd).
    pub place: OwnedFd,
}

/// Our end of a fifo that a stdin is written by.
#[derive(Debug)]
pub struct HeldInlet {
    /// It.
    pub fd: OwnedFd,
    /// Where it is until somebody opens it.
    pub path: PathBuf,
    /// Until when it waits for that, CLOCK_MONOTONIC nanoseconds.
    pub until_ns: u64,
    /// Stdin is closed when its last writer has closed it.
    pub closes: bool,
    /// As its kernel noted it.
    pub note: Vec<u8>,
}

/// The handover socket, until a deadline.
#[derive(Debug)]
pub(super) struct Wire {
    socket: OwnedFd,
    deadline: Instant,
    buffer: Vec<u8>,
}

impl Wire {
    pub(super) fn say(&self, message: &FromSuccessor, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = rmp_serde::to_vec(message).map_err(io::Error::other)?;
        loop {
            match socket::send_packet(self.socket.as_fd(), &packet, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                sent => return sent,
            }
        }
    }

    /// The next packet: how long it is, in the buffer, and what came beside it.
    fn receive(&mut self) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.wait(PollFlags::IN)?;
        let mut fds = Vec::new();
        match socket::receive_packet(self.socket.as_fd(), &mut self.buffer, &mut fds)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => Ok((bytes, fds)),
        }
    }

    /// Waits for an answer that carries nothing.
    pub(super) fn await_answer(&mut self, expected: &ToSuccessor<'_>) -> io::Result<()> {
        let (bytes, _) = self.receive()?;
        let answer: ToSuccessor<'_> =
            rmp_serde::from_slice(&self.buffer[..bytes]).map_err(io::Error::other)?;
        if answer == *expected { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn wait(&self, interest: PollFlags) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.socket, interest)], Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Estate {
    /// Connects to the handover socket at `path` and takes everything in; nothing changes by it. Errors: nobody
    /// listens (`NotFound`, `ConnectionRefused`), somebody of another user does (`PermissionDenied`), nobody answers in
    /// time, the peer hangs up (it has a kernel, or is ending), or it speaks nothing we understand.
    pub fn receive(path: &Path, within: Duration) -> io::Result<Estate> {
        let keeper = process::connect_packets(path)?;
        let peer = socket::peer(keeper.as_fd(), 0)?;
        let me = rustix::process::geteuid().as_raw();
        if peer.uid != me {
            let text = format!("the keeper there belongs to uid {}, not {me}", peer.uid);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let deadline = Instant::now() + within;
        let wire = Wire { socket: keeper, deadline, buffer: vec![0; socket::PACKET_BYTES_MAX] };
        let hello = FromSuccessor::Hello { version: VERSION, pid: std::process::id() as i32 };
        wire.say(&hello, &[])?;
        let (reactors, sessions) = (Vec::new(), Vec::new());
        let mut estate = Estate { keeper_pid: 0, version: VERSION, reactors, sessions, wire };
        while !estate.take_packet()? {}
        Ok(estate)
    }

    /// Has the keeper end every tree, then itself.
    pub fn shutdown(&self, grace: Duration) -> io::Result<()> {
        let grace_ns = grace.as_nanos().try_into().unwrap_or(u64::MAX);
        self.wire.say(&FromSuccessor::Shutdown { grace_ns }, &[])
    }

    /// True exactly when that was the last.
    fn take_packet(&mut self) -> io::Result<bool> {
        let (bytes, fds) = self.wire.receive()?;
        let buffer = std::mem::take(&mut self.wire.buffer);
        let message = rmp_serde::from_slice(&buffer[..bytes]).map_err(io::Error::other);
        let over = message.and_then(|message| self.take_message(message, fds));
        self.wire.buffer = buffer;
        over
    }

    fn take_message(&mut self, message: ToSuccessor<'_>, fds: Vec<OwnedFd>) -> io::Result<bool> {
        let got = fds.len();
        let framed = matches!(message, ToSuccessor::Framed { .. });
        let mut fds = fds.into_iter();
        let mut next = |expected| {
            fds.next().ok_or_else(|| io::Error::other(ProtocolError::Descriptors { expected, got }))
        };
        match message {
            ToSuccessor::Hello { version, pid, .. } => {
                let refused = || io::Error::other(ProtocolError::Version(version));
                self.version = spoken(VERSION, version).ok_or_else(refused)?;
                self.keeper_pid = pid;
            }
            ToSuccessor::Reactor { reactor } => {
                self.reactors.push(HeldReactor::of(reactor, || next(5))?);
            }
            ToSuccessor::Session { pipe_bytes, .. } => {
                let mut ends = [None, None, None];
                for (end, bytes) in ends.iter_mut().zip(pipe_bytes) {
                    if let Some(bytes) = bytes {
                        *end = Some((next(pipe_bytes.iter().flatten().count())?, bytes));
                    }
                }
                self.sessions.extend(HeldSession::of(message, ends));
            }
            ToSuccessor::Stream { process, end, slot, generation } => {
                let memory = next(1)?;
                self.last(process)?.rings.push(HeldRing { end, slot, generation, memory });
            }
            ToSuccessor::Input { process } => self.last(process)?.inbox = Some(next(1)?),
            ToSuccessor::Outlet { process, serial, end, note }
            | ToSuccessor::Framed { process, serial, end, note } => {
                let (fd, place) = (next(2)?, next(2)?);
                let outlet = HeldOutlet { serial, end, framed, note: note.0.to_vec(), fd, place };
                self.last(process)?.outlets.push(outlet);
            }
            ToSuccessor::Inlet { process, path, until_ns, closes, note } => {
                let (fd, path) = (next(1)?, OsString::from_vec(path.0.to_vec()).into());
                let inlet = HeldInlet { fd, path, until_ns, closes, note: note.0.to_vec() };
                self.last(process)?.inlet = Some(inlet);
            }
            ToSuccessor::Producer { process, in_place } => {
                let lending = in_place.then(|| HeldLending::of(|| next(3))).transpose()?;
                let session = self.last(process)?;
                (session.produced, session.lending) = (true, lending);
            }
            ToSuccessor::Blockers { process, counts } => self.last(process)?.blockers = counts,
            ToSuccessor::Facts { process, limits, exited_ns, note } => {
                let session = self.last(process)?;
                session.limits = limits.into_iter().map(in_force).collect();
                session.exited_ns = exited_ns;
                session.note = note.0.to_vec();
            }
            ToSuccessor::Batch { number } => self.wire.say(&FromSuccessor::Acknowledge { number }, &[])?,
            ToSuccessor::Complete => return Ok(true),
            ToSuccessor::Replaced { .. } | ToSuccessor::Adopted => {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(false)
    }

    /// The session whose details follow.
    fn last(&mut self, process: ProcessKey) -> io::Result<&mut HeldSession> {
        let last = self.sessions.last_mut().filter(|session| session.process == process);
        last.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Becomes the keeper's kernel, with so many lanes; returns our ends. From here on what the keeper has not told
    /// comes over them, and every process has its home among them.
    pub(super) fn adopt(&mut self, lanes: u16) -> io::Result<Vec<OwnedFd>> {
        let (ours, theirs) = process::lane_pairs(lanes)?;
        for lane in &theirs {
            self.wire.say(&FromSuccessor::Lane, &[lane.as_fd()])?;
        }
        self.wire.say(&FromSuccessor::Adopt { kernel_pid: std::process::id() as i32 }, &[])?;
        self.wire.await_answer(&ToSuccessor::Adopted)?;
        for session in &mut self.sessions {
            session.process.home = ReactorId(session.process.home.0 % lanes.max(1));
        }
        Ok(ours)
    }
}

impl HeldReactor {
    fn of(reactor: u16, mut next: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<HeldReactor> {
        let (page, staging_reader, staging_writer) = (next()?, next()?, next()?);
        let (input_reader, input_writer) = (next()?, next()?);
        Ok(HeldReactor { reactor, page, staging_reader, staging_writer, input_reader, input_writer })
    }
}

impl HeldLending {
    fn of(mut next: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<HeldLending> {
        Ok(HeldLending { ring: next()?, page: next()?, doorbell: next()? })
    }
}

impl HeldSession {
    fn of(message: ToSuccessor<'_>, ends: [Option<(OwnedFd, u32)>; 3]) -> Option<HeldSession> {
        let ToSuccessor::Session {
            process,
            session,
            pid,
            start_ticks,
            tree,
            exit,
            ended,
            terminal,
            record,
            ..
        } = message
        else {
            return None;
        };
        let record = record.0.to_vec();
        let bare = HeldSession::bare(process, session, pid, start_ticks);
        Some(HeldSession { tree, exit, ended, terminal, ends, record, ..bare })
    }

    /// One of which nothing is held.
    pub(super) fn bare(process: ProcessKey, session: &str, pid: i32, start_ticks: u64) -> HeldSession {
        HeldSession {
            process,
            session: session.to_owned(),
            pid,
            start_ticks,
            tree: Tree::BestEffort,
            exit: None,
            ended: false,
            terminal: false,
            ends: [None, None, None],
            rings: Vec::new(),
            blockers: [0; 2],
            inbox: None,
            outlets: Vec::new(),
            inlet: None,
            produced: false,
            lending: None,
            record: Vec::new(),
            note: Vec::new(),
            limits: Vec::new(),
            exited_ns: None,
        }
    }
}
