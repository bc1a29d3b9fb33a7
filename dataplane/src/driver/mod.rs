//! What the kernel is asked, and its answers: the seam between a reactor and the operating system.
//!
//! Two ways to ask. An [`Op`] is submitted and answered later, exactly once, by a [`Completion`]. An *attempt*
//! (`send`, `splice`, `read`, `write`, packets) is made at once and never blocks: `EAGAIN` means submit a
//! [`Op::Poll`] and come back. Everything a reactor does to a descriptor goes through here, so a reactor runs
//! unchanged on io_uring ([`uring`]), on readiness ([`poll`]) and in a simulation ([`sim`]).
//!
//! A descriptor is a shared handle: an operation in flight holds a clone, so closing is dropping the last clone,
//! and an operation never outlives its descriptor. To really close, cancel what is in flight.

#[cfg(test)]
mod battery;
pub mod handle;
mod inflight;
pub mod op;
pub mod poll;
pub mod sim;
pub mod token;
#[cfg(target_os = "linux")]
pub mod uring;

/// The driver that `auto` tries first.
#[cfg(target_os = "linux")]
pub type Preferred = uring::Uring;
/// The driver that `auto` tries first.
#[cfg(not(target_os = "linux"))]
pub type Preferred = poll::Poll;

use crate::command::OutletKind;
use crate::control::{Moment, Peer};
use op::{Completion, Lent, Op};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use token::Token;

/// The operating system, as a reactor sees it. Not shared between threads.
pub trait Driver {
    /// A shared, owned descriptor; the last clone closes it.
    type Fd: Clone + std::fmt::Debug + 'static;

    /// `io_uring`, `poll` or `sim`.
    fn name(&self) -> &'static str;

    /// Whether a wait ends close to its deadline, and not up to a millisecond later.
    fn is_punctual(&self) -> bool;

    /// Now, on both clocks.
    fn now(&self) -> Moment;

    /// Starts an operation. It is answered exactly once, `cancel` or not. Never fails: a full queue is flushed.
    fn submit(&mut self, token: Token, op: Op<Self::Fd>);

    /// Asks for an early end of the operation `token`; its answer still comes (`ECANCELED`, or what it did).
    fn cancel(&mut self, token: Token);

    /// Hands in what was submitted and waits for answers until `deadline_ns` (CLOCK_MONOTONIC; none: for ever).
    /// With a deadline in the past it only collects. Appends to `answers`.
    fn wait(&mut self, deadline_ns: Option<u64>, answers: &mut Vec<Completion<Self::Fd>>) -> io::Result<()>;

    /// Lets more come in for a moment, deaf to everything, so that the next wait finds much at once. May not wait at all.
    fn linger(&mut self, nanoseconds: u64);
    /// The bytes of a lent buffer.
    fn lent(&self, lent: &Lent) -> &[u8];

    /// Returns a lent buffer.
    fn give_back(&mut self, lent: Lent);

    /// Reads who is at the other end of an accepted connection.
    fn peer(&mut self, socket: &Self::Fd, keeper_pid: i32) -> io::Result<Peer>;

    /// sendmsg(2) with MSG_DONTWAIT | MSG_NOSIGNAL. Bytes queued; may be fewer than given.
    fn send(&mut self, socket: &Self::Fd, bytes: &[IoSlice<'_>]) -> io::Result<usize>;

    /// As [`Driver::send`], with descriptors that arrive with the first byte; nothing of it is sent without them.
    fn send_with(&mut self, socket: &Self::Fd, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize>;

    /// Asks for a send buffer of `bytes`; what the system grants is less or nothing, and that is fine.
    fn widen(&mut self, socket: &Self::Fd, bytes: usize);

    /// Non-blocking write to a pipe or terminal. Never raises SIGPIPE.
    fn write(&mut self, fd: &Self::Fd, bytes: &[u8]) -> io::Result<usize>;

    /// The same of several pieces, as one write.
    fn gather(&mut self, fd: &Self::Fd, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Non-blocking read. 0 is the end.
    fn read(&mut self, fd: &Self::Fd, into: &mut [u8]) -> io::Result<usize>;

    /// splice(2) of at most `max` bytes from a source (pipe or PTY master) into a pipe, or from a pipe into whatever takes
    /// bytes, non-blocking. 0 is the end; a PTY's end is `EIO`, passed on as an error. `Unsupported` where the platform has
    /// no splice, or can't do it into this descriptor without blocking; `InvalidInput` where the descriptor doesn't take it.
    fn splice(&mut self, from: &Self::Fd, into: &Self::Fd, max: usize) -> io::Result<usize>;

    /// tee(2) of at most `max` bytes from the front of a pipe into another, non-blocking; they stay in the first. 0 is the
    /// end. `InvalidInput` where one of them is no pipe.
    fn tee(&mut self, from: &Self::Fd, into: &Self::Fd, max: usize) -> io::Result<usize>;

    /// What swallows everything that is spliced into it.
    fn void(&mut self) -> io::Result<Self::Fd>;

    /// FIONREAD: bytes waiting in a pipe, asked at either end.
    fn queued(&mut self, fd: &Self::Fd) -> io::Result<usize>;

    /// A private pipe of at least `bytes` capacity if that can be had: (read end, write end, capacity).
    fn pipe(&mut self, bytes: usize) -> io::Result<(Self::Fd, Self::Fd, usize)>;

    /// What raw bytes leave by: our end, which never blocks, the other one, which does, and its capacity (0 where it has none
    /// of its own). `Unsupported` where nobody could take the other end.
    fn outlet(&mut self, kind: OutletKind) -> io::Result<(Self::Fd, OwnedFd, usize)>;

    /// A pipe for a client to write to: our end, which never blocks, the other one, which does, and its capacity. `Unsupported`
    /// where nobody could take the other end.
    fn inlet(&mut self, bytes: usize) -> io::Result<(Self::Fd, OwnedFd, usize)>;

    /// Sends one packet with descriptors on a keeper lane.
    fn send_packet(&mut self, lane: &Self::Fd, bytes: &[u8], fds: &[Self::Fd]) -> io::Result<()>;

    /// Receives one packet into `bytes` and its descriptors into `fds`. 0 is the end of the lane.
    fn receive_packet(
        &mut self,
        lane: &Self::Fd,
        bytes: &mut Vec<u8>,
        fds: &mut Vec<Self::Fd>,
    ) -> io::Result<usize>;

    /// TIOCSWINSZ.
    fn resize(&mut self, terminal: &Self::Fd, rows: u16, cols: u16) -> io::Result<()>;

    /// The terminal's VEOF character, to end its input politely.
    fn eof_character(&mut self, terminal: &Self::Fd) -> io::Result<u8>;

    /// Wraps an owned descriptor that came from outside: a listener, a lane, a ring to be kept by the keeper.
    fn import(&mut self, fd: OwnedFd) -> Self::Fd;

    /// A duplicate for somebody else, which blocks: as ours does from now on, since both are one open file.
    fn hand_over(&mut self, fd: &Self::Fd) -> io::Result<OwnedFd>;

    /// Gives a descriptor away to another reactor; hands it back where it is shared or can't travel.
    fn export(&mut self, fd: Self::Fd) -> Result<OwnedFd, Self::Fd>;

    /// Takes over a descriptor of this process (embedded `kairo run`: its stdout), see the driver for how it is
    /// made non-blocking without changing it for others.
    fn adopt(&mut self, fd: std::os::fd::RawFd) -> io::Result<Self::Fd>;
}
