//! A shared descriptor, and what can be tried on one at once: the half of a driver that io_uring and readiness
//! have in common.
//!
//! A real driver is an [`Engine`], which carries out operations that wait; with it, everything a
//! [`Driver`] can do at once comes from here, in one place for both. Nothing here waits or remembers, but for one
//! thing: a descriptor that readiness watches leaves the watch before it closes, since the keeper holds duplicates
//! of what we hold, and the kernel ends a watch only with the last of them.

use super::Driver;
use super::op::{Completion, Lent, Op};
use super::token::Token;
use crate::command::OutletKind;
use crate::control::{Moment, Peer};
use crate::limits::PIPE_BYTES;
use crate::sys::{Readiness, clock, pipe, socket};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

/// A shared, owned descriptor of this process. The last clone closes it.
#[derive(Clone, Debug)]
pub struct Handle(Rc<Descriptor>);

/// What a write or a splice into a descriptor has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    /// It is none that raw bytes are written to.
    No,
    /// Of our making: it never waits.
    Ours,
    /// Somebody else's: writes go by send(2), which alone can be told not to wait, and splices not at all.
    Theirs,
}

#[derive(Debug)]
struct Descriptor {
    /// Who watches it. Before `fd`, as fields are dropped in this order.
    watch: RefCell<Option<Watched>>,
    fd: OwnedFd,
    socket: Socket,
}

/// A place in a readiness set, given up when dropped.
#[derive(Debug)]
struct Watched {
    by: Rc<Readiness>,
    number: RawFd,
}

impl Drop for Watched {
    fn drop(&mut self) {
        // SAFETY: a descriptor's watch is dropped before the descriptor, by the order of its fields, or is taken out
        // of it while it lives: `number` is open, and nobody can close it during this call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.number) };
        // It is in the set; nothing is to be done if the kernel thinks otherwise.
        let _ = self.by.delete(fd);
    }
}

impl From<OwnedFd> for Handle {
    fn from(fd: OwnedFd) -> Handle {
        Handle::with_kind(fd, Socket::No)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

/// A handle that doesn't keep its descriptor open.
#[derive(Clone, Debug)]
pub(super) struct WeakHandle(Weak<Descriptor>);

impl WeakHandle {
    /// The handle, unless it is closed.
    pub(super) fn upgrade(&self) -> Option<Handle> {
        self.0.upgrade().map(Handle)
    }
}

impl Handle {
    /// Without keeping it open.
    pub(super) fn downgrade(&self) -> WeakHandle {
        WeakHandle(Rc::downgrade(&self.0))
    }

    fn with_kind(fd: OwnedFd, socket: Socket) -> Handle {
        Handle(Rc::new(Descriptor { watch: RefCell::new(None), fd, socket }))
    }

    /// True exactly when the descriptor is in a readiness watch.
    pub(super) fn is_watched(&self) -> bool {
        self.0.watch.borrow().is_some()
    }

    /// Notes that it is in `readiness`, and is to leave it before it closes.
    pub(super) fn watched_by(&self, readiness: &Rc<Readiness>) {
        let watched = Watched { by: Rc::clone(readiness), number: self.as_raw_fd() };
        *self.0.watch.borrow_mut() = Some(watched);
    }

    /// Takes it out of the watch it is in, if any.
    pub(super) fn unwatch(&self) {
        self.0.watch.take();
    }

    /// The descriptor itself, if this is the last clone.
    fn into_owned(self) -> Result<OwnedFd, Handle> {
        let Descriptor { watch, fd, .. } = Rc::try_unwrap(self.0).map_err(Handle)?;
        drop(watch);
        Ok(fd)
    }

    /// Takes over descriptor `fd` of this process without changing it for others who share it.
    ///
    /// A pipe, a fifo or a terminal is opened anew through `/proc/self/fd`, so that O_NONBLOCK is ours alone; a
    /// regular file, a folder or `/dev/null` never blocks and is duplicated; a socket is duplicated and written
    /// with MSG_DONTWAIT. What can't be opened anew (no `/proc`, no permission) is duplicated and set to O_NONBLOCK
    /// for everybody, as there is no other way.
    fn adopt(fd: RawFd) -> io::Result<Handle> {
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: borrowed only for the duration of this call; a number that isn't open makes fstat fail with
        // EBADF, and whoever owns it keeps it.
        let theirs = unsafe { BorrowedFd::borrow_raw(fd) };
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(theirs)?.st_mode);
        if kind == rustix::fs::FileType::Socket {
            return Ok(Handle::with_kind(theirs.try_clone_to_owned()?, Socket::Theirs));
        }
        let blocks = match kind {
            rustix::fs::FileType::Fifo => true,
            rustix::fs::FileType::CharacterDevice => rustix::termios::isatty(theirs),
            _ => false,
        };
        if !blocks {
            return Ok(Handle::from(theirs.try_clone_to_owned()?));
        }
        let access = rustix::fs::fcntl_getfl(theirs)? & rustix::fs::OFlags::ACCMODE;
        let flags =
            access | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        if let Some(path) = socket::reopen_path(fd)
            && let Ok(own) = rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        {
            if kind == rustix::fs::FileType::Fifo {
                // The usual 64 KiB have its two sides take turns. Refused is as good as granted less.
                let _ = pipe::set_capacity(&own, PIPE_BYTES as usize);
            }
            return Ok(Handle::from(own));
        }
        let shared = theirs.try_clone_to_owned()?;
        pipe::set_nonblocking(&shared)?;
        Ok(Handle::from(shared))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.socket != Socket::No {
            return socket::send(self.as_fd(), &[IoSlice::new(bytes)]);
        }
        Ok(rustix::io::write(self, bytes)?)
    }
}

/// What a driver over real descriptors does by itself; the rest of [`Driver`] is the same for all.
pub trait Engine {
    /// See [`Driver::name`].
    fn engine_name(&self) -> &'static str;
    /// See [`Driver::is_punctual`].
    fn waits_punctually(&self) -> bool;
    /// See [`Driver::submit`].
    fn start(&mut self, token: Token, op: Op<Handle>);
    /// See [`Driver::cancel`].
    fn stop(&mut self, token: Token);
    /// See [`Driver::wait`].
    fn collect(&mut self, deadline_ns: Option<u64>, answers: &mut Vec<Completion<Handle>>) -> io::Result<()>;
    /// See [`Driver::lent`].
    fn lent_bytes(&self, lent: &Lent) -> &[u8];
    /// See [`Driver::give_back`].
    fn take_back(&mut self, lent: Lent);
    /// Room for packets.
    fn packets(&mut self) -> &mut PacketBuffer;
}

/// Room for one packet from the keeper, made when the first one comes and used for all.
#[derive(Debug, Default)]
pub struct PacketBuffer {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl PacketBuffer {
    fn receive(&mut self, lane: &Handle, into: &mut Vec<u8>, handles: &mut Vec<Handle>) -> io::Result<usize> {
        self.bytes.resize(socket::PACKET_BYTES_MAX, 0);
        let len = socket::receive_packet(lane.as_fd(), &mut self.bytes, &mut self.fds)?;
        into.clear();
        into.extend_from_slice(&self.bytes[..len]);
        handles.clear();
        handles.extend(self.fds.drain(..).map(Handle::from));
        Ok(len)
    }
}

impl<E: Engine> Driver for E {
    type Fd = Handle;

    fn name(&self) -> &'static str {
        self.engine_name()
    }

    fn is_punctual(&self) -> bool {
        self.waits_punctually()
    }

    fn now(&self) -> Moment {
        clock::now()
    }

    fn submit(&mut self, token: Token, op: Op<Handle>) {
        self.start(token, op);
    }

    fn cancel(&mut self, token: Token) {
        self.stop(token);
    }

    fn wait(&mut self, deadline_ns: Option<u64>, answers: &mut Vec<Completion<Handle>>) -> io::Result<()> {
        self.collect(deadline_ns, answers)
    }

    fn linger(&mut self, nanoseconds: u64) {
        std::thread::sleep(Duration::from_nanos(nanoseconds));
    }

    fn lent(&self, lent: &Lent) -> &[u8] {
        self.lent_bytes(lent)
    }

    fn give_back(&mut self, lent: Lent) {
        self.take_back(lent);
    }

    fn peer(&mut self, peer: &Handle, keeper_pid: i32) -> io::Result<Peer> {
        socket::peer(peer.as_fd(), keeper_pid)
    }

    fn send(&mut self, to: &Handle, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        socket::send(to.as_fd(), bytes)
    }

    fn send_with(&mut self, to: &Handle, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
        socket::send_with(to.as_fd(), bytes, descriptors)
    }

    fn widen(&mut self, socket: &Handle, bytes: usize) {
        // Refused is as good as granted less: the buffer stays as it is.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket, bytes);
    }

    fn write(&mut self, fd: &Handle, bytes: &[u8]) -> io::Result<usize> {
        fd.write(bytes)
    }

    fn gather(&mut self, fd: &Handle, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if fd.0.socket != Socket::No {
            return socket::send(fd.as_fd(), pieces);
        }
        Ok(rustix::io::writev(fd, pieces)?)
    }

    fn read(&mut self, fd: &Handle, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(fd, into)?)
    }

    fn splice(&mut self, from: &Handle, into: &Handle, max: usize) -> io::Result<usize> {
        if into.0.socket == Socket::Theirs {
            // Only its own O_NONBLOCK would keep it from waiting.
            return Err(io::ErrorKind::Unsupported.into());
        }
        pipe::splice(from.as_fd(), into.as_fd(), max)
    }

    fn tee(&mut self, from: &Handle, into: &Handle, max: usize) -> io::Result<usize> {
        pipe::tee(from.as_fd(), into.as_fd(), max)
    }

    fn void(&mut self) -> io::Result<Handle> {
        Ok(Handle::from(pipe::void()?))
    }

    fn queued(&mut self, fd: &Handle) -> io::Result<usize> {
        pipe::queued(fd.as_fd())
    }

    fn pipe(&mut self, bytes: usize) -> io::Result<(Handle, Handle, usize)> {
        let made = pipe::pipe(bytes, pipe::NonBlocking::Both)?;
        Ok((Handle::from(made.reader), Handle::from(made.writer), made.capacity_bytes))
    }

    fn outlet(&mut self, kind: OutletKind) -> io::Result<(Handle, OwnedFd, usize)> {
        match kind {
            OutletKind::Pipe { bytes } => {
                let made = pipe::pipe(bytes as usize, pipe::NonBlocking::Writer)?;
                Ok((Handle::from(made.writer), made.reader, made.capacity_bytes))
            }
            OutletKind::Socket => {
                let (ours, theirs) = socket::stream_pair(false)?;
                pipe::set_nonblocking(&ours)?;
                Ok((Handle::with_kind(ours, Socket::Ours), theirs, 0))
            }
            // Made with a name, by [`fifo`](crate::sys::fifo).
            OutletKind::Fifo { .. } => Err(io::ErrorKind::Unsupported.into()),
            OutletKind::Shared => {
                // Ours is read as well, and must never wait.
                let (ours, theirs) = socket::stream_pair(true)?;
                Ok((Handle::with_kind(ours, Socket::Ours), theirs, 0))
            }
        }
    }

    fn inlet(&mut self, bytes: usize) -> io::Result<(Handle, OwnedFd, usize)> {
        let made = pipe::pipe(bytes, pipe::NonBlocking::Reader)?;
        Ok((Handle::from(made.reader), made.writer, made.capacity_bytes))
    }

    fn send_packet(&mut self, lane: &Handle, bytes: &[u8], fds: &[Handle]) -> io::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        socket::send_packet(lane.as_fd(), bytes, &fds)
    }

    fn receive_packet(
        &mut self,
        lane: &Handle,
        bytes: &mut Vec<u8>,
        fds: &mut Vec<Handle>,
    ) -> io::Result<usize> {
        self.packets().receive(lane, bytes, fds)
    }

    fn resize(&mut self, terminal: &Handle, rows: u16, cols: u16) -> io::Result<()> {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(terminal, size)?)
    }

    fn eof_character(&mut self, terminal: &Handle) -> io::Result<u8> {
        let attributes = rustix::termios::tcgetattr(terminal)?;
        Ok(attributes.special_codes[rustix::termios::SpecialCodeIndex::VEOF])
    }

    fn import(&mut self, fd: OwnedFd) -> Handle {
        Handle::from(fd)
    }

    fn hand_over(&mut self, fd: &Handle) -> io::Result<OwnedFd> {
        let theirs = fd.as_fd().try_clone_to_owned()?;
        pipe::set_blocking(&theirs)?;
        Ok(theirs)
    }

    fn export(&mut self, fd: Handle) -> Result<OwnedFd, Handle> {
        fd.into_owned()
    }

    fn adopt(&mut self, fd: RawFd) -> io::Result<Handle> {
        Handle::adopt(fd)
    }
}
