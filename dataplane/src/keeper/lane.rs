//! One lane as the keeper sees it: packets in, packets out, and what its reactor gave it to hold.
//!
//! What doesn't fit into the socket waits here, and while something waits no request is read: a reactor that
//! doesn't listen can queue no more than one answer per process it has.

use crate::keeper::protocol::{BULK_BYTES_MAX, PACKET_DESCRIPTORS_MAX, ProtocolError, ToKeeper, ToKernel};
use crate::sys::socket;
use rustix::event::PollFlags;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A lane. Lost for good once an end of it is closed.
#[derive(Debug)]
pub(super) struct Lane {
    socket: Option<OwnedFd>,
    /// True exactly when nobody hears what is sent. What was sent here before may still be read.
    unheard: bool,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    packet: Vec<u8>,
    /// Page, and read end and write end of both staging pipes.
    pub(super) held: Option<[OwnedFd; 5]>,
}

impl Lane {
    pub(super) fn new(socket: OwnedFd) -> Lane {
        Lane {
            socket: Some(socket),
            unheard: false,
            waiting: VecDeque::new(),
            packet: Vec::new(),
            held: None,
        }
    }

    /// None once it is lost.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.waiting.is_empty() { PollFlags::IN } else { PollFlags::OUT }
    }

    pub(super) fn lose(&mut self) {
        self.socket = None;
        self.waiting.clear();
    }

    /// Sends, or queues duplicates. A lost lane swallows: its reactor is gone.
    pub(super) fn send(&mut self, message: &ToKernel, fds: &[BorrowedFd<'_>]) {
        self.packet.clear();
        // Writing plain data to memory doesn't fail.
        if rmp_serde::encode::write(&mut self.packet, message).is_err() {
            return;
        }
        let Some(socket) = self.socket.as_ref().filter(|_| !self.unheard) else { return };
        if self.waiting.is_empty() {
            match socket::send_packet(socket.as_fd(), &self.packet, fds) {
                Ok(()) => return,
                Err(error) if full(&error) => {}
                Err(_) => return self.fall_silent(),
            }
        }
        let copies: io::Result<Vec<OwnedFd>> = fds.iter().map(BorrowedFd::try_clone_to_owned).collect();
        match copies {
            Ok(copies) => self.waiting.push_back((self.packet.clone(), copies)),
            // No descriptor left: a kernel that is owed a process's ends can't go on without them.
            Err(_) => self.lose(),
        }
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) {
        while let (Some(socket), Some((packet, fds))) = (&self.socket, self.waiting.front()) {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match socket::send_packet(socket.as_fd(), packet, &fds) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(error) if full(&error) => return,
                Err(_) => return self.fall_silent(),
            }
        }
    }

    /// The kernel is gone. What it has sent is carried out all the same: it may have done the rest already.
    fn fall_silent(&mut self) {
        self.unheard = true;
        self.waiting.clear();
    }

    /// Says that nothing more will come. What was sent can still be read.
    pub(super) fn finish(&mut self) {
        if let Some(socket) = &self.socket
            && rustix::net::shutdown(socket, rustix::net::Shutdown::Write).is_err()
        {
            self.lose();
        }
        self.waiting.clear();
    }

    /// Throws away what still comes, until the other side hangs up.
    pub(super) fn drain(&mut self, buffer: &mut [u8]) {
        let (mut bulk, mut fds) = (Vec::new(), Vec::new());
        while self.receive(buffer, &mut bulk, &mut fds).is_some() {}
    }

    /// True exactly while answers wait for room: requests are left in the socket then.
    pub(super) fn congested(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Receives one request into `buffer`; a long one, from its memfd, into `bulk`. `None`: nothing there, or
    /// the lane was lost.
    pub(super) fn receive<'a>(
        &mut self,
        buffer: &'a mut [u8],
        bulk: &'a mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
    ) -> Option<Result<ToKeeper<'a>, ProtocolError>> {
        fds.clear();
        let socket = self.socket.as_ref()?;
        let mut received = socket::receive_packet(socket.as_fd(), buffer, fds);
        if matches!(&received, Err(error) if error.kind() == io::ErrorKind::ConnectionReset) {
            // Told once, before what is still in the queue: a peer closed that had not read everything.
            received = socket::receive_packet(socket.as_fd(), buffer, fds);
        }
        let bytes = match received {
            Ok(0) => {
                self.lose();
                return None;
            }
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => {
                self.lose();
                return None;
            }
        };
        Some(decode(&buffer[..bytes], bulk, fds))
    }
}

fn full(error: &io::Error) -> bool {
    // ETOOMANYREFS: too many descriptors are on their way in this user's sockets; they drain as EAGAIN does.
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ETOOMANYREFS)
}

fn decode<'a>(
    packet: &'a [u8],
    bulk: &'a mut Vec<u8>,
    fds: &mut Vec<OwnedFd>,
) -> Result<ToKeeper<'a>, ProtocolError> {
    let message = rmp_serde::from_slice(packet)?;
    let ToKeeper::Bulk { bytes } = message else {
        return expect(fds, descriptors_of(&message)).map(|()| message);
    };
    // Last, behind those of the message.
    let Some(memory) = fds.pop() else { return Err(ProtocolError::Descriptors { expected: 1, got: 0 }) };
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes > BULK_BYTES_MAX {
        return Err(ProtocolError::TooLong { what: "message", bytes });
    }
    bulk.clear();
    let mut memory = std::fs::File::from(memory);
    // A memory that is shorter than announced doesn't decode.
    let _ = io::Seek::rewind(&mut memory).and_then(|()| memory.take(bytes as u64).read_to_end(bulk));
    let message = rmp_serde::from_slice(bulk)?;
    expect(fds, descriptors_of(&message)).map(|()| message)
}

/// One of several messages of a packet.
pub(super) fn decode_one(message: &[u8]) -> Result<ToKeeper<'_>, ProtocolError> {
    let message = rmp_serde::from_slice(message)?;
    expect(&[], descriptors_of(&message)).map(|()| message)
}

fn expect(fds: &[OwnedFd], expected: usize) -> Result<(), ProtocolError> {
    let got = fds.len();
    if got == expected { Ok(()) } else { Err(ProtocolError::Descriptors { expected, got }) }
}

fn descriptors_of(message: &ToKeeper<'_>) -> usize {
    match message {
        ToKeeper::HoldReactor => 5,
        ToKeeper::Contain { containment, .. } => usize::from(containment.kernel),
        ToKeeper::Measure { containment, .. } => {
            usize::from(containment.as_ref().is_some_and(|containment| containment.kernel))
        }
        // One within another starts nothing.
        ToKeeper::Placed { start, .. } => match rmp_serde::from_slice(start.0) {
            Ok(ToKeeper::Placed { .. }) | Err(_) => 0,
            Ok(start) => descriptors_of(&start),
        },
        ToKeeper::Join { containment, wires, .. } => {
            let kernel = containment.as_ref().is_some_and(|containment| containment.kernel);
            usize::from(kernel) + usize::from(wires.stdin) + usize::from(wires.stdout)
        }
        ToKeeper::HoldOutlet { .. } | ToKeeper::HoldFramed { .. } => 2,
        ToKeeper::HoldProducer { pipe_bytes, .. } => pipe_bytes.map_or(3, |_| 1),
        ToKeeper::HoldStream { .. }
        | ToKeeper::HoldInput { .. }
        | ToKeeper::HoldInlet { .. }
        | ToKeeper::Bulk { .. } => 1,
        ToKeeper::Hello { .. }
        | ToKeeper::Several { .. }
        | ToKeeper::Spawn(_)
        | ToKeeper::Signal { .. }
        | ToKeeper::Acknowledge { .. }
        | ToKeeper::CloseChannel { .. }
        | ToKeeper::Forget { .. }
        | ToKeeper::Annotate { .. }
        | ToKeeper::DropOutlet { .. }
        | ToKeeper::EndProducer { .. }
        | ToKeeper::Blockers { .. }
        | ToKeeper::DropInlet { .. }
        | ToKeeper::Leave
        | ToKeeper::Shutdown { .. } => 0,
    }
}

const _: () = assert!(PACKET_DESCRIPTORS_MAX <= socket::PACKET_FDS_MAX, "a packet's descriptors fit a lane");
