//! The other side of a handover: takes over, or only looks at, what a dead kernel's keeper holds.
//!
//! Blocking, for a process that has nothing else to do yet. What is received are duplicates: the keeper keeps
//! its own until it is told to end.

use crate::control::{ExitStatus, Tree, Usage};
use crate::keeper::protocol::{End, FromSuccessor, ProtocolError, ToSuccessor, VERSION};
use crate::key::ProcessKey;
use crate::sys::{process, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Everything a keeper holds.
#[derive(Debug)]
pub struct Estate {
    /// The keeper.
    pub keeper_pid: i32,
    /// What reactors gave it to hold.
    pub reactors: Vec<HeldReactor>,
    /// Every process not forgotten, in no order.
    pub sessions: Vec<HeldSession>,
    keeper: OwnedFd,
}

/// A reactor's page and staging pipe.
#[derive(Debug)]
pub struct HeldReactor {
    /// Its number, the `home` of its processes.
    pub reactor: u16,
    /// memfd.
    pub page: OwnedFd,
    /// Read end.
    pub staging_reader: OwnedFd,
    /// Write end.
    pub staging_writer: OwnedFd,
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
    /// If the leader has ended.
    pub exit: Option<(ExitStatus, Usage)>,
    /// True exactly when the dead kernel had heard of the exit.
    pub acknowledged: bool,
    /// True exactly when nobody of the tree is left.
    pub ended: bool,
    /// True exactly when `Stdout` is a PTY master.
    pub terminal: bool,
    /// By [`End`] as index: our end and its pipe's size in force, bytes.
    pub ends: [Option<(OwnedFd, u32)>; 3],
    /// The rings of its streams.
    pub rings: Vec<HeldRing>,
    /// As given at its spawn.
    pub record: Vec<u8>,
}

/// A stream's ring.
#[derive(Debug)]
pub struct HeldRing {
    /// Which end's bytes.
    pub end: End,
    /// Place in the page of the process's home reactor.
    pub slot: u32,
    /// Its life of that place.
    pub generation: u32,
    /// memfd.
    pub memory: OwnedFd,
}

impl Estate {
    /// Connects to a keeper's handover socket and receives everything. While its kernel lives the keeper lets
    /// nobody in: this then fails with `TimedOut`.
    pub fn receive(path: &Path, within: Duration) -> io::Result<Estate> {
        let keeper = process::connect_packets(path)?;
        let mut estate = Estate { keeper_pid: 0, reactors: Vec::new(), sessions: Vec::new(), keeper };
        estate.say(&FromSuccessor::Hello { version: VERSION, pid: std::process::id() as i32 })?;
        let deadline = Instant::now() + within;
        let mut buffer = vec![0; socket::PACKET_BYTES_MAX];
        while !estate.take_packet(&mut buffer, deadline)? {}
        Ok(estate)
    }

    /// Has the keeper end every tree, then itself.
    pub fn shutdown(&self, grace: Duration) -> io::Result<()> {
        self.say(&FromSuccessor::Shutdown { grace_ns: grace.as_nanos().try_into().unwrap_or(u64::MAX) })
    }

    fn say(&self, message: &FromSuccessor) -> io::Result<()> {
        let packet = rmp_serde::to_vec(message).map_err(io::Error::other)?;
        socket::send_packet(self.keeper.as_fd(), &packet, &[])
    }

    /// True exactly when that was the last.
    fn take_packet(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        if poll(&mut [PollFd::new(&self.keeper, PollFlags::IN)], Some(&timeout))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut fds = Vec::new();
        let bytes = socket::receive_packet(self.keeper.as_fd(), buffer, &mut fds)?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message = rmp_serde::from_slice(&buffer[..bytes]).map_err(io::Error::other)?;
        self.take_message(message, fds)
    }

    fn take_message(&mut self, message: ToSuccessor<'_>, fds: Vec<OwnedFd>) -> io::Result<bool> {
        let got = fds.len();
        let mut fds = fds.into_iter();
        let mut next = |expected| {
            fds.next().ok_or_else(|| io::Error::other(ProtocolError::Descriptors { expected, got }))
        };
        match message {
            ToSuccessor::Hello { version, .. } if version != VERSION => {
                return Err(io::Error::other(ProtocolError::Version(version)));
            }
            ToSuccessor::Hello { pid, .. } => self.keeper_pid = pid,
            ToSuccessor::Reactor { reactor } => {
                let (page, staging_reader, staging_writer) = (next(3)?, next(3)?, next(3)?);
                self.reactors.push(HeldReactor { reactor, page, staging_reader, staging_writer });
            }
            ToSuccessor::Session {
                process,
                session,
                pid,
                start_ticks,
                tree,
                exit,
                acknowledged,
                ended,
                terminal,
                pipe_bytes,
                record,
            } => {
                let mut ends = [None, None, None];
                for (end, bytes) in ends.iter_mut().zip(pipe_bytes) {
                    if let Some(bytes) = bytes {
                        *end = Some((next(pipe_bytes.iter().flatten().count())?, bytes));
                    }
                }
                let (session, record, rings) = (session.to_owned(), record.0.to_vec(), Vec::new());
                self.sessions.push(HeldSession {
                    process,
                    session,
                    pid,
                    start_ticks,
                    tree,
                    exit,
                    acknowledged,
                    ended,
                    terminal,
                    ends,
                    rings,
                    record,
                });
            }
            ToSuccessor::Stream { process, end, slot, generation } => {
                let memory = next(1)?;
                let owner = self.sessions.iter_mut().rfind(|session| session.process == process);
                let owner = owner.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
                owner.rings.push(HeldRing { end, slot, generation, memory });
            }
            ToSuccessor::Batch { number } => self.say(&FromSuccessor::Acknowledge { number })?,
            ToSuccessor::Complete => return Ok(true),
        }
        Ok(false)
    }
}
