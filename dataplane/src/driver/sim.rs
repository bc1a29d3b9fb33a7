//! The driver of a fake world: one seed, one history.
//!
//! ```text
//!  reactor ── Driver ──▶ Sim ──flows── World ◀── test: clients, children, keeper
//!                         └── clock, chance
//! ```
//!
//! It does what a kernel may do and a real one hardly ever does while a test is looking: moves fewer bytes than it
//! could, reports readiness that isn't there, says `EAGAIN` for nothing, answers late and in another order, lets a
//! cancellation lose. Time passes only in [`Driver::wait`] and by [`World::advance`]. Invariants, asserted: every
//! operation is answered exactly once; a lent buffer is given back; a descriptor with an operation in flight is
//! open. A private pipe (from [`Driver::pipe`]) is as dependable as a real one: nobody else is at it.
//!
//! What a test does is in [`world`]. Nothing here is compiled into behaviour of a kernel that serves anybody.

mod descriptor;
mod flow;
pub mod world;

pub use descriptor::Fd;

use super::Driver;
use super::inflight::Inflight;
use super::op::{Answer, Completion, Interest, Lent, Op};
use super::token::Token;
use crate::command::OutletKind;
use crate::control::{Moment, Peer};
use descriptor::{Kind, Packet, bytes_of};
use flow::{ReadEnd, WriteEnd, flow};
use std::io::{self, IoSlice};
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use world::{Shared, World};

/// Most a receive takes at once.
const RECEIVE_BYTES_MAX: usize = 64 << 10;
/// Writes to a pipe up to this size are whole or not at all (PIPE_BUF).
const ATOMIC_BYTES: usize = 4096;
/// Most descriptors with one packet.
const PACKET_FDS_MAX: usize = 16;

/// The driver.
#[derive(Debug)]
pub struct Sim {
    world: Rc<Shared>,
    inflight: Inflight<Flight>,
    /// In the order of submission, so that a seed's history doesn't hang on the order of a hash table.
    order: Vec<Token>,
    /// Lent or not: the bytes of each buffer.
    buffers: Vec<Option<Vec<u8>>>,
}

#[derive(Debug)]
struct Flight {
    op: Op<Fd>,
    /// When it is answered, once that is settled.
    due_ns: Option<u64>,
    /// What it is answered with, whatever happens: the fate of a cancelled or spuriously ready one.
    fate: Option<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Cancelled,
    Spurious,
}

impl Flight {
    fn fd(&self) -> &Fd {
        match &self.op {
            Op::Poll(fd, _) | Op::Receive(fd) | Op::Accept(fd) => fd,
        }
    }

    fn can_be_done(&self) -> bool {
        match &self.op {
            Op::Poll(fd, interest) => fd.is(*interest),
            Op::Receive(fd) | Op::Accept(fd) => fd.is(Interest::Read),
        }
    }
}

impl Sim {
    /// A driver in `world`.
    pub fn new(world: &World) -> Sim {
        Sim { world: Rc::clone(&world.0), inflight: Inflight::new(), order: Vec::new(), buffers: Vec::new() }
    }

    fn later(&self) -> u64 {
        let faults = self.world.faults.get();
        let delay = if self.world.happens(faults.delay) { self.world.below(faults.delay_ns_max) } else { 0 };
        self.world.now_ns() + delay
    }

    /// Settles when operations that can be done, or are doomed, are answered.
    fn settle(&mut self) {
        let starved = self.world.lent.get() >= usize::from(self.world.faults.get().buffers);
        for index in 0..self.order.len() {
            let token = self.order[index];
            let later = self.later();
            let spurious = self.world.happens(self.world.faults.get().spurious / 20);
            let Some(flight) = self.inflight.get_mut(token) else { continue };
            if flight.due_ns.is_some() {
                continue;
            }
            let waits_for_buffer = starved && matches!(flight.op, Op::Receive(_));
            if flight.can_be_done() && !waits_for_buffer {
                flight.due_ns = Some(later);
            } else if spurious && matches!(flight.op, Op::Poll(_, Interest::Read | Interest::Write)) {
                flight.due_ns = Some(later);
                flight.fate = Some(Fate::Spurious);
            }
        }
    }

    /// Answers what is due, in an order of chance, and perhaps not all of it yet.
    fn answer_due(&mut self, answers: &mut Vec<Completion<Fd>>) {
        let now = self.world.now_ns();
        let is_due = |token: &Token| {
            self.inflight.get(*token).is_some_and(|flight| flight.due_ns.is_some_and(|due| due <= now))
        };
        let mut due: Vec<Token> = self.order.iter().copied().filter(is_due).collect();
        for index in (1..due.len()).rev() {
            due.swap(index, self.world.below(index as u64 + 1) as usize);
        }
        if due.len() > 1 && self.world.happens(self.world.faults.get().delay) {
            due.truncate(1 + self.world.below(due.len() as u64) as usize);
        }
        for token in due {
            let Some(answer) = self.carry_out(token) else { continue };
            let flight = self.inflight.release(token);
            assert!(flight.is_some(), "{token:?} was answered twice");
            self.order.retain(|other| *other != token);
            self.world.inflight.set(self.inflight.len());
            self.world.answered.set(self.world.answered.get() + 1);
            answers.push(Completion { token, answer });
        }
    }

    /// None if it can't be done after all: somebody else was first, or no buffer is left.
    fn carry_out(&mut self, token: Token) -> Option<Answer<Fd>> {
        let flight = self.inflight.get_mut(token)?;
        match (&flight.op, flight.fate) {
            (_, Some(Fate::Cancelled)) => return Some(Answer::Failed(libc::ECANCELED)),
            (Op::Poll(..), _) => return Some(Answer::Ready),
            (Op::Receive(_) | Op::Accept(_), _) => {}
        }
        let fd = flight.fd().clone();
        let accepts = matches!(flight.op, Op::Accept(_));
        let done = match (&fd.0.kind, accepts) {
            (Kind::Listener(backlog), true) => backlog.waiting.borrow_mut().pop_front().map(Answer::Accepted),
            (Kind::Socket { read, write, .. }, false) => self.receive(read, write),
            _ => Some(Answer::Failed(libc::ENOTSOCK)),
        };
        if done.is_none() {
            self.inflight.get_mut(token)?.due_ns = None;
        }
        done
    }

    fn receive(&mut self, read: &ReadEnd<u8>, write: &WriteEnd<u8>) -> Option<Answer<Fd>> {
        if read.len() == 0 {
            // As on a unix socket: the error comes after the bytes, before the end.
            let refused = read.is_ending() && write.is_refused() && self.world.below(2) == 0;
            return match (refused, read.is_ending()) {
                (true, _) => Some(Answer::Failed(libc::ECONNRESET)),
                (false, true) => Some(Answer::Eof),
                (false, false) => None,
            };
        }
        if self.world.lent.get() >= usize::from(self.world.faults.get().buffers) {
            return None;
        }
        let bytes = read.take(self.world.cut(read.len().min(RECEIVE_BYTES_MAX)));
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let free = self.buffers.iter().position(Option::is_none).unwrap_or_else(|| {
            self.buffers.push(None);
            self.buffers.len() - 1
        });
        self.buffers[free] = Some(bytes);
        self.world.lent.set(self.world.lent.get() + 1);
        Some(Answer::Received(Lent { buffer: u16::try_from(free).unwrap_or(u16::MAX), len }))
    }

    /// An attempt's luck.
    fn again(&self, private: bool) -> io::Result<()> {
        if !private && self.world.happens(self.world.faults.get().again) {
            return Err(errno(libc::EAGAIN));
        }
        Ok(())
    }

    fn put(&self, write: &WriteEnd<u8>, bytes: &[u8], atomic: usize, private: bool) -> io::Result<usize> {
        if write.is_broken() {
            return Err(errno(libc::EPIPE));
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        self.again(private)?;
        let room = write.room();
        let count = match bytes.len() {
            len if len <= atomic && len > room => return Err(errno(libc::EAGAIN)),
            _ if room == 0 => return Err(errno(libc::EAGAIN)),
            len if len <= atomic => len,
            len if private => len.min(room),
            len => self.world.cut(len.min(room)),
        };
        write.put(bytes[..count].iter().copied());
        Ok(count)
    }

    /// How many bytes a read or splice may take now.
    fn available(&self, from: &Fd, max: usize) -> io::Result<usize> {
        let (read, private) = match &from.0.kind {
            Kind::Reader { read, private } => (read, *private),
            Kind::Socket { read, .. } | Kind::Terminal { read, .. } => (read, false),
            _ => return Err(errno(libc::EINVAL)),
        };
        if read.len() == 0 {
            return match (read.is_ending(), &from.0.kind) {
                (true, Kind::Terminal { .. }) => Err(errno(libc::EIO)),
                (true, _) => Ok(0),
                (false, _) => Err(errno(libc::EAGAIN)),
            };
        }
        self.again(private)?;
        let most = read.len().min(max);
        Ok(if private { most } else { self.world.cut(most) })
    }

    fn move_out(&self, from: &Fd, count: usize) -> io::Result<Vec<u8>> {
        Ok(bytes_of(from).ok_or_else(|| errno(libc::EINVAL))?.take(count))
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

impl Driver for Sim {
    type Fd = Fd;

    fn name(&self) -> &'static str {
        "sim"
    }

    fn is_punctual(&self) -> bool {
        true
    }

    fn now(&self) -> Moment {
        World(Rc::clone(&self.world)).now()
    }

    fn submit(&mut self, token: Token, op: Op<Fd>) {
        self.inflight.claim(token, Flight { op, due_ns: None, fate: None });
        self.order.push(token);
        self.world.inflight.set(self.inflight.len());
        self.world.submitted.set(self.world.submitted.get() + 1);
    }

    fn cancel(&mut self, token: Token) {
        let (later, loses) = (self.later(), self.world.happens(self.world.faults.get().late_cancel));
        let Some(flight) = self.inflight.get_mut(token) else { return };
        if flight.fate == Some(Fate::Cancelled) {
            return;
        }
        if loses && (flight.due_ns.is_some() || flight.can_be_done()) {
            return;
        }
        flight.fate = Some(Fate::Cancelled);
        flight.due_ns = Some(later);
    }

    fn wait(&mut self, deadline_ns: Option<u64>, answers: &mut Vec<Completion<Fd>>) -> io::Result<()> {
        self.world.idle.set(false);
        let before = answers.len();
        // Every wait takes a moment.
        self.world.advance_to(self.world.now_ns() + 1 + self.world.below(20_000));
        loop {
            self.settle();
            self.answer_due(answers);
            let now = self.world.now_ns();
            if answers.len() > before || deadline_ns.is_some_and(|deadline| deadline <= now) {
                return Ok(());
            }
            let next_due = self.order.iter().filter_map(|token| self.inflight.get(*token)?.due_ns).min();
            match (next_due.filter(|due| *due > now), deadline_ns) {
                (Some(due), deadline) => {
                    self.world.advance_to(deadline.map_or(due, |deadline| due.min(deadline)))
                }
                (None, Some(deadline)) => self.world.advance_to(deadline),
                (None, None) => {
                    self.world.idle.set(true);
                    return Ok(());
                }
            }
        }
    }

    fn linger(&mut self, nanoseconds: u64) {
        self.world.advance_to(self.world.now_ns() + nanoseconds);
    }

    fn lent(&self, lent: &Lent) -> &[u8] {
        let bytes = self.buffers[usize::from(lent.buffer)].as_deref();
        let bytes = bytes.expect("a lent buffer is in use");
        assert_eq!(bytes.len(), lent.len());
        bytes
    }

    fn give_back(&mut self, lent: Lent) {
        let bytes = self.buffers[usize::from(lent.buffer)].take();
        assert!(bytes.is_some(), "a buffer was given back twice");
        self.world.lent.set(self.world.lent.get() - 1);
    }

    fn peer(&mut self, socket: &Fd, _keeper_pid: i32) -> io::Result<Peer> {
        match &socket.0.kind {
            Kind::Socket { peer, .. } => Ok(peer.clone()),
            _ => Err(errno(libc::ENOTSOCK)),
        }
    }

    fn send(&mut self, socket: &Fd, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let Kind::Socket { write, .. } = &socket.0.kind else { return Err(errno(libc::ENOTSOCK)) };
        let bytes: Vec<u8> = bytes.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.put(write, &bytes, 0, false)
    }

    fn send_with(&mut self, socket: &Fd, bytes: &[u8], _descriptors: &[OwnedFd]) -> io::Result<usize> {
        // Clients of this world have no place for descriptors.
        self.send(socket, &[IoSlice::new(bytes)])
    }

    fn widen(&mut self, _socket: &Fd, _bytes: usize) {}

    fn write(&mut self, fd: &Fd, bytes: &[u8]) -> io::Result<usize> {
        match &fd.0.kind {
            Kind::Writer { write, private } => self.put(write, bytes, ATOMIC_BYTES, *private),
            Kind::Socket { write, .. } => self.put(write, bytes, 0, false),
            Kind::Terminal { write, .. } => match self.put(write, bytes, 0, false) {
                // Nobody on the other side: a terminal keeps what is written until somebody opens it.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => Err(errno(libc::EIO)),
                other => other,
            },
            Kind::Void => Ok(bytes.len()),
            Kind::File { bytes: file, bytes_max, .. } => {
                let room = bytes_max - file.borrow().len();
                if room == 0 {
                    return Err(errno(libc::ENOSPC));
                }
                let count = self.world.cut(bytes.len().min(room));
                file.borrow_mut().extend_from_slice(&bytes[..count]);
                Ok(count)
            }
            _ => Err(errno(libc::EBADF)),
        }
    }

    fn gather(&mut self, fd: &Fd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.write(fd, &bytes)
    }

    fn read(&mut self, fd: &Fd, into: &mut [u8]) -> io::Result<usize> {
        let count = self.available(fd, into.len())?;
        let read = bytes_of(fd).ok_or_else(|| errno(libc::EBADF))?;
        into[..count].copy_from_slice(&read.take(count));
        Ok(count)
    }

    fn splice(&mut self, from: &Fd, into: &Fd, max: usize) -> io::Result<usize> {
        let (write, private, broken) = match &into.0.kind {
            Kind::Writer { write, private } => (write, private, libc::EPIPE),
            Kind::Socket { write, .. } => (write, &false, libc::EPIPE),
            Kind::Terminal { write, .. } => (write, &false, libc::EIO),
            Kind::Void => {
                let count = self.available(from, max)?;
                return Ok(self.move_out(from, count)?.len());
            }
            Kind::File { appends: true, .. } => return Err(errno(libc::EINVAL)),
            Kind::File { bytes, bytes_max, .. } => {
                let room = bytes_max - bytes.borrow().len();
                let count = self.available(from, max)?.min(room);
                if count == 0 && room == 0 {
                    return Err(errno(libc::ENOSPC));
                }
                bytes.borrow_mut().extend(self.move_out(from, count)?);
                return Ok(count);
            }
            _ => return Err(errno(libc::EINVAL)),
        };
        if write.is_broken() {
            return Err(errno(broken));
        }
        let count = self.available(from, max)?;
        if count == 0 {
            return Ok(0);
        }
        let room = write.room();
        if room == 0 {
            return Err(errno(libc::EAGAIN));
        }
        self.again(*private)?;
        write.put(self.move_out(from, count.min(room))?);
        Ok(count.min(room))
    }

    fn tee(&mut self, from: &Fd, into: &Fd, max: usize) -> io::Result<usize> {
        let (Kind::Reader { read, .. }, Kind::Writer { write, private }) = (&from.0.kind, &into.0.kind)
        else {
            return Err(errno(libc::EINVAL));
        };
        if write.is_broken() {
            return Err(errno(libc::EPIPE));
        }
        let count = self.available(from, max)?.min(write.room());
        if count == 0 {
            return if read.len() == 0 { Ok(0) } else { Err(errno(libc::EAGAIN)) };
        }
        self.again(*private)?;
        write.put(read.copy(count));
        Ok(count)
    }

    fn void(&mut self) -> io::Result<Fd> {
        Ok(World(Rc::clone(&self.world)).fd(Kind::Void))
    }

    fn queued(&mut self, fd: &Fd) -> io::Result<usize> {
        match &fd.0.kind {
            Kind::Writer { write, .. } => Ok(write.len()),
            _ => bytes_of(fd).map(ReadEnd::len).ok_or_else(|| errno(libc::ENOTTY)),
        }
    }

    fn pipe(&mut self, bytes: usize) -> io::Result<(Fd, Fd, usize)> {
        let capacity = bytes.clamp(ATOMIC_BYTES, 1 << 20);
        let (read, write) = flow(capacity);
        let world = World(Rc::clone(&self.world));
        let reader = world.fd(Kind::Reader { read, private: true });
        Ok((reader, world.fd(Kind::Writer { write, private: true }), capacity))
    }

    fn outlet(&mut self, _kind: OutletKind) -> io::Result<(Fd, OwnedFd, usize)> {
        // Only real descriptors can leave the world.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn inlet(&mut self, _bytes: usize) -> io::Result<(Fd, OwnedFd, usize)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn send_packet(&mut self, lane: &Fd, bytes: &[u8], fds: &[Fd]) -> io::Result<()> {
        let Kind::Lane { write, .. } = &lane.0.kind else { return Err(errno(libc::ENOTSOCK)) };
        if bytes.is_empty() || fds.len() > PACKET_FDS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if write.is_broken() {
            return Err(errno(libc::EPIPE));
        }
        self.again(false)?;
        if write.room() == 0 {
            return Err(errno(libc::EAGAIN));
        }
        let fds = fds.iter().map(Fd::duplicate).collect();
        write.put([Packet { bytes: bytes.to_vec(), fds }]);
        Ok(())
    }

    fn receive_packet(&mut self, lane: &Fd, bytes: &mut Vec<u8>, fds: &mut Vec<Fd>) -> io::Result<usize> {
        let Kind::Lane { read, .. } = &lane.0.kind else { return Err(errno(libc::ENOTSOCK)) };
        if read.len() == 0 {
            return if read.is_ending() { Ok(0) } else { Err(errno(libc::EAGAIN)) };
        }
        self.again(false)?;
        let Some(packet) = read.take(1).pop() else { return Err(errno(libc::EAGAIN)) };
        *bytes = packet.bytes;
        *fds = packet.fds;
        Ok(bytes.len())
    }

    fn resize(&mut self, terminal: &Fd, rows: u16, cols: u16) -> io::Result<()> {
        let Kind::Terminal { size, .. } = &terminal.0.kind else { return Err(errno(libc::ENOTTY)) };
        size.set((rows, cols));
        Ok(())
    }

    fn eof_character(&mut self, terminal: &Fd) -> io::Result<u8> {
        match &terminal.0.kind {
            Kind::Terminal { .. } => Ok(4),
            _ => Err(errno(libc::ENOTTY)),
        }
    }

    fn import(&mut self, fd: OwnedFd) -> Fd {
        World(Rc::clone(&self.world)).fd(Kind::Outside(Rc::new(fd)))
    }

    fn hand_over(&mut self, _fd: &Fd) -> io::Result<OwnedFd> {
        // Only real descriptors can leave the world.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn export(&mut self, fd: Fd) -> Result<OwnedFd, Fd> {
        // Only real descriptors can leave the world. It is not closed: its count goes with it.
        match &fd.0.kind {
            Kind::Outside(real) if Rc::strong_count(&fd.0) == 1 => real.try_clone().map_err(|_| fd),
            _ => Err(fd),
        }
    }

    fn adopt(&mut self, fd: RawFd) -> io::Result<Fd> {
        self.world.adopted(fd).map(|offered| offered.duplicate()).ok_or_else(|| errno(libc::EBADF))
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // As a real driver does: everything in flight ends, unanswered because nobody listens.
        self.world.inflight.set(0);
        self.world.answered.set(self.world.submitted.get());
        let lent = self.buffers.iter().filter(|buffer| buffer.is_some()).count();
        if !std::thread::panicking() {
            assert_eq!(lent, 0, "buffers lent at the end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::world::{Faults, Remote, owner};
    use super::*;

    fn wait(driver: &mut Sim) -> Vec<Completion<Fd>> {
        let mut answers = Vec::new();
        driver.wait(None, &mut answers).unwrap();
        answers
    }

    /// A server that sends back what it receives, as a reactor would be written; clients that write at random and
    /// then close their sending half. Tells everything that happened.
    fn echo(seed: u64) -> Vec<String> {
        let world = World::new(seed);
        let mut driver = Sim::new(&world);
        let (listener, port) = world.listener();
        let mut told = Vec::new();
        let accept = Token::new(1, 0, 0);
        driver.submit(accept, Op::Accept(listener.clone()));
        let mut clients: Vec<(Remote, Vec<u8>, Vec<u8>, usize)> = Vec::new();
        let mut connections: Vec<(Option<Fd>, Vec<u8>, bool)> = Vec::new();
        for _ in 0..20_000 {
            match world.below(4) {
                0 if clients.len() < 5 => {
                    let pid = clients.len() as i32;
                    clients.push((port.connect(owner(pid)).unwrap(), Vec::new(), Vec::new(), 0));
                }
                1 if !clients.is_empty() => {
                    let at = world.below(clients.len() as u64) as usize;
                    let (client, sent, ..) = &mut clients[at];
                    let bytes: Vec<u8> = (0..world.below(300)).map(|_| world.below(256) as u8).collect();
                    if sent.len() < 5_000
                        && let Some(written) = client.write(&bytes)
                    {
                        sent.extend(&bytes[..written]);
                    }
                    if sent.len() >= 5_000 {
                        client.close_write();
                    }
                }
                _ => {}
            }
            for (client, _, back, ends) in &mut clients {
                match client.read(1 + world.below(500) as usize) {
                    Some(bytes) => back.extend(bytes),
                    None => *ends += 1,
                }
            }
            let mut answers = Vec::new();
            driver.wait(Some(driver.now().monotonic_ns + 100_000), &mut answers).unwrap();
            for Completion { token, answer } in answers {
                told.push(format!("{} {token:?} {answer:?}", world.now().monotonic_ns));
                let slot = token.slot();
                match answer {
                    Answer::Accepted(fd) => {
                        assert_eq!(driver.peer(&fd, 1).unwrap().uid, 1000);
                        let slot = connections.len() as u32;
                        connections.push((Some(fd.clone()), Vec::new(), false));
                        driver.submit(Token::new(2, slot, 0), Op::Receive(fd));
                        driver.submit(accept, Op::Accept(listener.clone()));
                    }
                    Answer::Received(lent) => {
                        let (fd, unsent, _) = &mut connections[slot as usize];
                        unsent.extend(driver.lent(&lent));
                        driver.give_back(lent);
                        driver.submit(token, Op::Receive(fd.clone().unwrap()));
                    }
                    Answer::Ready => {}
                    Answer::Eof => connections[slot as usize].2 = true,
                    Answer::Failed(errno) => panic!("{errno}"),
                }
            }
            for (slot, (fd, unsent, ended)) in connections.iter_mut().enumerate() {
                let Some(socket) = fd else { continue };
                if !unsent.is_empty() {
                    match driver.send(socket, &[IoSlice::new(unsent)]) {
                        Ok(sent) => drop(unsent.drain(..sent)),
                        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{slot}"),
                    }
                }
                if *ended && unsent.is_empty() {
                    *fd = None;
                }
            }
            if clients.len() == 5 && clients.iter().all(|(.., ends)| *ends > 0) {
                break;
            }
        }
        for (_, sent, back, ends) in &clients {
            assert!(*ends > 0, "seed {seed}: a client never saw the end");
            assert_eq!(sent, back, "seed {seed}");
        }
        driver.cancel(accept);
        while world.inflight() > 0 {
            wait(&mut driver);
        }
        drop((clients, connections, listener, driver));
        world.assert_clean();
        told
    }

    #[test]
    fn whatever_the_faults_a_correct_server_echoes_every_byte() {
        for seed in 0..200 {
            echo(seed);
        }
    }

    #[test]
    fn one_seed_is_one_history() {
        for seed in [1, 2, 3] {
            assert_eq!(echo(seed), echo(seed));
        }
        assert_ne!(echo(1), echo(2));
    }

    #[test]
    fn faults_come_and_can_be_told_from_progress() {
        let world = World::kind(7);
        world.set_faults(Faults { short: 1000, spurious: 1000, again: 500, ..Faults::NONE });
        let mut driver = Sim::new(&world);
        let (fd, client) = world.connect(owner(1));
        client.write(&[1; 100]).unwrap();
        driver.submit(Token::new(1, 1, 1), Op::Receive(fd.clone()));
        let Answer::Received(lent) = wait(&mut driver).remove(0).answer else { panic!() };
        assert!(lent.len() < 100);
        driver.give_back(lent);
        let sent: Vec<bool> = (0..100).map(|_| driver.send(&fd, &[IoSlice::new(b"x")]).is_ok()).collect();
        assert!(sent.contains(&true) && sent.contains(&false));
        let (reader, _child) = world.pipe_from_child(4096);
        driver.submit(Token::new(1, 2, 1), Op::Poll(reader.clone(), Interest::Read));
        let mut answers = Vec::new();
        while answers.is_empty() {
            driver.wait(Some(driver.now().monotonic_ns + 1000), &mut answers).unwrap();
        }
        assert_eq!(driver.read(&reader, &mut [0; 8]).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }

    #[test]
    fn a_cancelled_operation_is_answered_once_whoever_wins() {
        let (mut won, mut lost) = (0, 0);
        for seed in 0..300 {
            let world = World::new(seed);
            let mut driver = Sim::new(&world);
            let (fd, client) = world.connect(owner(1));
            let token = Token::new(1, 1, 1);
            driver.submit(token, Op::Receive(fd));
            client.write(b"x").unwrap();
            driver.cancel(token);
            driver.cancel(token);
            let mut answers = Vec::new();
            while answers.is_empty() {
                driver.wait(Some(driver.now().monotonic_ns + 10_000_000), &mut answers).unwrap();
            }
            assert_eq!(answers.len(), 1);
            match answers.remove(0).answer {
                Answer::Received(lent) => {
                    lost += 1;
                    driver.give_back(lent);
                }
                Answer::Failed(errno) => {
                    won += 1;
                    assert_eq!(errno, libc::ECANCELED);
                }
                other => panic!("{other:?}"),
            }
            assert!(wait(&mut driver).is_empty());
            assert!(world.is_idle());
            drop((client, driver));
            world.assert_clean();
        }
        assert!(won > 0 && lost > 0, "{won} {lost}");
    }

    #[test]
    fn a_grandchild_that_inherited_the_pipe_delays_its_end() {
        let world = World::kind(1);
        let mut driver = Sim::new(&world);
        let (fd, child) = world.pipe_from_child(4096);
        let grandchild = child.inherit();
        child.write(b"tail").unwrap();
        drop(child);
        let (staging_reader, staging_writer, _) = driver.pipe(65_536).unwrap();
        assert_eq!(driver.splice(&fd, &staging_writer, 100).unwrap(), 4);
        assert_eq!(driver.queued(&staging_reader).unwrap(), 4);
        let more = driver.splice(&fd, &staging_writer, 100).unwrap_err();
        assert_eq!(more.raw_os_error(), Some(libc::EAGAIN));
        drop(grandchild);
        assert_eq!(driver.splice(&fd, &staging_writer, 100).unwrap(), 0);
    }

    #[test]
    fn a_terminal_ends_with_eio_after_its_tail() {
        let world = World::kind(1);
        let mut driver = Sim::new(&world);
        let (master, child) = world.terminal();
        driver.resize(&master, 24, 80).unwrap();
        assert_eq!(master.terminal_size(), Some((24, 80)));
        assert_eq!(driver.write(&master, b"typed").unwrap(), 5);
        assert_eq!(child.read(100).unwrap(), b"typed");
        child.write(b"tail").unwrap();
        drop(child);
        let mut bytes = [0; 8];
        assert_eq!(driver.read(&master, &mut bytes).unwrap(), 4);
        assert_eq!(driver.read(&master, &mut bytes).unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn packets_carry_duplicates_that_keep_an_end_open() {
        let world = World::kind(1);
        let mut driver = Sim::new(&world);
        let (lane, keeper) = world.lane();
        let (ours, child) = world.pipe_from_child(4096);
        assert!(keeper.send(b"spawned", std::slice::from_ref(&ours)));
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        assert_eq!(driver.receive_packet(&lane, &mut bytes, &mut fds).unwrap(), 7);
        assert_eq!((&bytes[..], fds.len()), (&b"spawned"[..], 1));
        driver.send_packet(&lane, b"held", &fds).unwrap();
        drop(fds);
        drop(ours);
        // The keeper's own duplicate, on its way, still reads.
        assert_eq!(child.write(b"x"), Some(1));
        let (bytes, fds) = keeper.receive().unwrap();
        assert_eq!((&bytes[..], fds.len()), (&b"held"[..], 1));
        drop(fds);
        assert_eq!(child.write(b"x"), None);
        drop(keeper);
        assert_eq!(driver.receive_packet(&lane, &mut Vec::new(), &mut Vec::new()).unwrap(), 0);
        drop((lane, child, driver));
        world.assert_clean();
    }

    #[test]
    fn a_client_that_closes_without_reading_may_reset_the_connection() {
        let (mut reset, mut ended) = (0, 0);
        for seed in 0..50 {
            let world = World::kind(seed);
            let mut driver = Sim::new(&world);
            let (fd, client) = world.connect(owner(1));
            driver.send(&fd, &[IoSlice::new(b"unread")]).unwrap();
            drop(client);
            driver.submit(Token::new(1, 1, 1), Op::Receive(fd.clone()));
            match wait(&mut driver).remove(0).answer {
                Answer::Failed(libc::ECONNRESET) => reset += 1,
                Answer::Eof => ended += 1,
                other => panic!("{other:?}"),
            }
            let broken = driver.send(&fd, &[IoSlice::new(b"x")]).unwrap_err();
            assert_eq!(broken.raw_os_error(), Some(libc::EPIPE));
        }
        assert!(reset > 0 && ended > 0);
    }

    #[test]
    #[should_panic(expected = "descriptors open")]
    fn a_leaked_descriptor_is_found() {
        let world = World::kind(1);
        let (fd, _client) = world.connect(owner(1));
        std::mem::forget(fd);
        world.assert_clean();
    }

    #[test]
    #[should_panic(expected = "buffers lent at the end")]
    fn a_leaked_buffer_is_found() {
        let world = World::kind(1);
        let mut driver = Sim::new(&world);
        let (fd, client) = world.connect(owner(1));
        client.write(b"x").unwrap();
        driver.submit(Token::new(1, 1, 1), Op::Receive(fd));
        let answers = wait(&mut driver);
        drop(driver);
        drop(answers);
    }
}
