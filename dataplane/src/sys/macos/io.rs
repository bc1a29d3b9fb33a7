//! How macOS does it: kqueue for epoll, a pipe for eventfd, datagrams for packets, and no splice.
//!
//! Type-checked with the rest; its behaviour is what the manual pages say (kqueue(2), unix(4), getpeereid(3)).

use crate::control::Lineage;
use crate::sys::socket::Credentials;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, kevent_timespec, kqueue};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use std::io;
use std::time::Duration;

/// sendmsg(2) that doesn't wait. SIGPIPE is ignored by the process.
pub(crate) const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;
/// recvmsg(2); [`receive_fds`] sets close-on-exec.
pub(crate) const RECEIVE_PACKET_FLAGS: RecvFlags = RecvFlags::DONTWAIT;
/// There are no packets with an end here: datagrams, whose end is an error.
pub(crate) const PACKET_SOCKET: SocketType = SocketType::DGRAM;

/// What a pipe holds when it has grown; it can't be asked for.
const PIPE_BYTES: usize = 64 << 10;
/// Room for several of the largest packets.
const PACKET_SOCKET_BYTES: usize = 512 << 10;
/// Longest chain of parents that is followed.
const DEPTH_MAX: usize = 256;
/// Marks, in an event's number, a filter that is there only to learn of the peer's end.
const HANGUP_ONLY: u64 = 1 << 63;

/// Which descriptors are ready: kqueue.
#[derive(Debug)]
pub(crate) struct Readiness {
    queue: OwnedFd,
}

/// What to be told about a descriptor; all false means only that the peer is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Readable, or at its end.
    pub(crate) read: bool,
    /// Writable, or nobody reads.
    pub(crate) write: bool,
    /// The peer is wholly gone.
    pub(crate) hangup: bool,
}

impl AsFd for Readiness {
    /// Readable while there is anything to tell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl Readiness {
    pub(crate) fn new() -> io::Result<Readiness> {
        let queue = kqueue()?;
        fcntl_setfd(&queue, FdFlags::CLOEXEC)?;
        Ok(Readiness { queue })
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, key: u64, interest: Ready) -> io::Result<()> {
        self.modify(fd, key, interest)
    }

    /// A filter each way; one that isn't wanted is removed. For the end alone, the filter that tells it fires on
    /// changes only, and what isn't the end is kept from the caller.
    pub(crate) fn modify(&self, fd: BorrowedFd<'_>, key: u64, interest: Ready) -> io::Result<()> {
        let number = fd.as_raw_fd();
        let (read, write) = (EventFilter::Read(number), EventFilter::Write(number));
        if interest.read {
            self.change(read, EventFlags::ADD, key)?;
        } else {
            self.remove(read)?;
        }
        if interest.write {
            return self.change(write, EventFlags::ADD, key);
        }
        self.remove(write)?;
        if interest.hangup && !interest.read {
            let only = EventFlags::ADD | EventFlags::CLEAR;
            // The end of a socket, or of a pipe's readers, is told by writing; that of its writers by reading.
            if self.change(EventFilter::Write(number), only, key | HANGUP_ONLY).is_err() {
                self.change(EventFilter::Read(number), only, key | HANGUP_ONLY)?;
            }
        }
        Ok(())
    }

    pub(crate) fn delete(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.remove(EventFilter::Read(fd.as_raw_fd()))?;
        self.remove(EventFilter::Write(fd.as_raw_fd()))
    }

    /// Waits, for ever without a timeout, and appends (key, what). Interrupted is nothing happened.
    pub(crate) fn wait(&self, timeout: Option<Duration>, into: &mut Vec<(u64, Ready)>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| rustix::event::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX).min(86_400),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events = Vec::with_capacity(128);
        // SAFETY: no changes are given, so no descriptor or pointer in them can be wrong.
        let waited = unsafe {
            kevent_timespec(&self.queue, &[], rustix::buffer::spare_capacity(&mut events), timeout.as_ref())
        };
        match waited {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            other => other?,
        };
        into.extend(events.iter().filter_map(ready));
        Ok(())
    }

    fn change(&self, filter: EventFilter, flags: EventFlags, key: u64) -> io::Result<()> {
        let key = std::ptr::without_provenance_mut(usize::try_from(key).unwrap_or(usize::MAX));
        let changes = [Event::new(filter, flags, key)];
        let mut none: [Event; 0] = [];
        // SAFETY: the descriptor in the filter is borrowed by our caller for this call, and leaves the queue before
        // it is closed; the user data is a number that nobody dereferences.
        unsafe { kevent_timespec(&self.queue, &changes, &mut none, None) }?;
        Ok(())
    }

    fn remove(&self, filter: EventFilter) -> io::Result<()> {
        match self.change(filter, EventFlags::DELETE, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

fn ready(event: &Event) -> Option<(u64, Ready)> {
    let key = event.udata().addr() as u64;
    let ended = event.flags().contains(EventFlags::EOF);
    let (read, write, hangup) = match event.filter() {
        // A socket's end of reading is half of an end; a pipe has no other half.
        EventFilter::Read(number) => (true, false, ended && !is_half_open(number)),
        EventFilter::Write(_) => (false, true, ended),
        _ => return None,
    };
    if key & HANGUP_ONLY != 0 && !hangup {
        return None;
    }
    Some((key & !HANGUP_ONLY, Ready { read, write, hangup }))
}

/// True for a socket that can still be written.
fn is_half_open(number: i32) -> bool {
    // SAFETY: the descriptor is in our queue, which it leaves before it is closed; the borrow ends with this call.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let mut poll = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::OUT)];
    let polled = rustix::event::poll(&mut poll, Some(&rustix::event::Timespec::default()));
    let gone = rustix::event::PollFlags::HUP | rustix::event::PollFlags::ERR;
    rustix::net::sockopt::socket_type(fd).is_ok() && polled.is_ok() && !poll[0].revents().intersects(gone)
}

pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe()?;
    fcntl_setfd(&reader, FdFlags::CLOEXEC)?;
    fcntl_setfd(&writer, FdFlags::CLOEXEC)?;
    Ok((reader, writer))
}

pub(crate) fn pipe_capacity(_pipe: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(PIPE_BYTES)
}

/// A pipe grows by itself: refused, so that what there is is reported.
pub(crate) fn set_pipe_capacity(_pipe: BorrowedFd<'_>, _bytes: usize) -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(libc::EPERM))
}

pub(crate) fn splice(_from: BorrowedFd<'_>, _into: BorrowedFd<'_>, _max: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Bytes can't move between descriptors without coming through here.
pub(crate) const SPLICES: bool = false;

pub(crate) fn tee(_from: BorrowedFd<'_>, _into: BorrowedFd<'_>, _max: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// (hear, ring): a pipe.
pub(crate) fn bell() -> io::Result<(OwnedFd, OwnedFd)> {
    let (hear, ring) = pipe()?;
    rustix::io::ioctl_fionbio(&hear, true)?;
    rustix::io::ioctl_fionbio(&ring, true)?;
    Ok((hear, ring))
}

/// accept(2), then non-blocking and close-on-exec.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let accepted = rustix::net::accept(listener)?;
    fcntl_setfd(&accepted, FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&accepted, true)?;
    Ok(accepted)
}

pub(crate) fn socket(kind: SocketType, non_blocking: bool) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::UNIX, kind, None)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, non_blocking)?;
    Ok(socket)
}

pub(crate) fn socket_pair(kind: SocketType, non_blocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, rustix::net::SocketFlags::empty(), None)?;
    for socket in [&pair.0, &pair.1] {
        fcntl_setfd(socket, FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(socket, non_blocking)?;
        if kind == PACKET_SOCKET {
            rustix::net::sockopt::set_socket_send_buffer_size(socket, PACKET_SOCKET_BYTES)?;
            rustix::net::sockopt::set_socket_recv_buffer_size(socket, PACKET_SOCKET_BYTES)?;
        }
    }
    Ok(pair)
}

/// True if a receive failed because the other end of a lane is closed.
pub(crate) fn is_lane_end(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECONNRESET)
}

/// Keeps received descriptors from children.
pub(crate) fn keep_from_children(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::CLOEXEC)?)
}

/// A descriptor can't be opened anew here: `/dev/fd/N` only duplicates.
pub(crate) fn reopen_path(_fd: i32) -> Option<String> {
    None
}

/// LOCAL_PEERCRED by getpeereid(3), and LOCAL_PEERPID.
pub(crate) fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: both pointers are to integers of ours that live through the call.
    if unsafe { libc::getpeereid(socket.as_raw_fd(), &mut uid, &mut gid) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut pid: libc::pid_t = 0;
    let mut len = libc::socklen_t::try_from(size_of::<libc::pid_t>()).unwrap_or(0);
    // SAFETY: `pid` and `len` are ours, live through the call, and `len` says how large `pid` is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_LOCAL,
            libc::LOCAL_PEERPID,
            (&raw mut pid).cast(),
            &mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials { pid, uid, gid })
}

/// There is no SO_PEERGROUPS here.
pub(crate) fn groups(_socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    Ok(Vec::new())
}

/// Where the peer stands: parents by libproc(3). The session marker can't be read.
pub(crate) fn lineage(_socket: BorrowedFd<'_>, pid: i32, keeper_pid: i32) -> Lineage {
    ancestry(pid, keeper_pid)
}

/// Where a process stands, told of a pid alone.
pub(crate) fn ancestry(pid: i32, keeper_pid: i32) -> Lineage {
    if keeper_pid <= 0 || pid == std::process::id().cast_signed() {
        return Lineage::Outside;
    }
    let mut ancestors = Vec::new();
    let mut at = pid;
    while at > 1 && ancestors.len() < DEPTH_MAX {
        if at == keeper_pid && !ancestors.is_empty() {
            return Lineage::Child { ancestors, session: None };
        }
        ancestors.push(at);
        match parent(at) {
            Some(parent) => at = parent,
            None => return Lineage::Unknown,
        }
    }
    if at <= 1 && !ancestors.is_empty() { Lineage::Outside } else { Lineage::Unknown }
}

fn parent(pid: i32) -> Option<i32> {
    // SAFETY: the structure is plain integers and arrays of them, for which all zeroes is a value.
    let mut info: libc::proc_bsdinfo = unsafe { std::mem::zeroed() };
    let size = i32::try_from(size_of::<libc::proc_bsdinfo>()).ok()?;
    // SAFETY: `info` is ours, lives through the call, and `size` says how large it is.
    let written = unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, (&raw mut info).cast(), size) };
    if written != size {
        return None;
    }
    i32::try_from(info.pbi_ppid).ok()
}
