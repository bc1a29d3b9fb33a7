//! Pipes and what moves bytes through them without a copy, and the bell that wakes a reactor.
//!
//! A pipe's size is a wish: an unprivileged user has 16,384 pages of pipe in all, and past them the kernel says
//! EPERM and even bears new pipes with two pages. So the size asked for is lowered step by step, and what is in
//! force is returned for the status to tell. Who reads, writes or splices when is the caller's business.

use super::platform::io as platform;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Sizes tried, largest first, after the one asked for was refused.
const FALLBACK_BYTES: [usize; 3] = [256 << 10, 64 << 10, 16 << 10];

/// Two ends and how many bytes fit between them.
#[derive(Debug)]
pub struct Pipe {
    /// Close-on-exec.
    pub reader: OwnedFd,
    /// Close-on-exec.
    pub writer: OwnedFd,
    /// In force; may be less than asked for.
    pub capacity_bytes: usize,
}

/// Which ends of a new pipe never block. The two ends are separate open files, so a child's end stays blocking
/// while ours doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonBlocking {
    /// Ours both: a staging pipe.
    Both,
    /// We read what a child writes.
    Reader,
    /// We write what a child reads.
    Writer,
    /// One child writes what another reads.
    Neither,
}

/// Makes a pipe that wants to hold `bytes` (rounded up to a power of two of pages by the kernel).
pub fn pipe(bytes: usize, non_blocking: NonBlocking) -> io::Result<Pipe> {
    let (reader, writer) = platform::pipe()?;
    if matches!(non_blocking, NonBlocking::Both | NonBlocking::Reader) {
        set_nonblocking(&reader)?;
    }
    if matches!(non_blocking, NonBlocking::Both | NonBlocking::Writer) {
        set_nonblocking(&writer)?;
    }
    let capacity_bytes = set_capacity(&writer, bytes)?;
    Ok(Pipe { reader, writer, capacity_bytes })
}

/// Asks for `bytes` of capacity, then for less, and tells what is in force. A pipe is never made smaller than it
/// is.
pub fn set_capacity(pipe: &impl AsFd, bytes: usize) -> io::Result<usize> {
    let before = platform::pipe_capacity(pipe.as_fd())?;
    let wishes = std::iter::once(bytes).chain(FALLBACK_BYTES.into_iter().filter(|less| *less < bytes));
    for wish in wishes.take_while(|wish| *wish > before) {
        match platform::set_pipe_capacity(pipe.as_fd(), wish) {
            Ok(in_force) => return Ok(in_force),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOMEM)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(before)
}

/// How much it holds, bytes; an error where it is no pipe.
pub fn capacity(pipe: &impl AsFd) -> io::Result<usize> {
    platform::pipe_capacity(pipe.as_fd())
}

/// Sets O_NONBLOCK on the open file, for everybody who shares it.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    if !flags.contains(rustix::fs::OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    Ok(())
}

/// Takes O_NONBLOCK from the open file, for everybody who shares it.
pub fn set_blocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags - rustix::fs::OFlags::NONBLOCK)?)
}

/// splice(2) of at most `max` bytes, non-blocking on both sides. 0 is the end of `from`; `EAGAIN` means one side
/// isn't ready. A socket as `into` raises SIGPIPE besides EPIPE when its peer is gone: the process ignores it.
/// `Unsupported` where the platform has no splice.
pub fn splice(from: BorrowedFd<'_>, into: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    platform::splice(from, into, max)
}

/// tee(2): as [`splice`] between two pipes, but the bytes stay in `from` as well. Always begins at the first of them.
pub fn tee(from: BorrowedFd<'_>, into: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    platform::tee(from, into, max)
}

/// Where whatever is spliced into it is gone.
pub fn void() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?)
}

/// True exactly where the platform has [`splice`] and [`tee`].
pub const SPLICES: bool = platform::SPLICES;

/// FIONREAD: bytes waiting to be read.
pub fn queued(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let queued = rustix::io::ioctl_fionread(fd)?;
    usize::try_from(queued).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Wakes whoever waits for the other end to be readable. Cloned freely, rung from any thread.
#[derive(Clone, Debug)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// Makes the listening end readable until it is read. Many rings before a read are one.
    pub fn ring(&self) -> io::Result<()> {
        match rustix::io::write(&*self.0, &1u64.to_ne_bytes()) {
            // Full means rung already.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A bell and the descriptor that hears it: readable once rung, quiet again after a read of 8 bytes or more (or,
/// where the platform makes it of a pipe, after one that doesn't fill its buffer).
pub fn bell() -> io::Result<(Bell, OwnedFd)> {
    let (hear, ring) = platform::bell()?;
    Ok((Bell(Arc::new(ring)), hear))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_reports_the_size_in_force() {
        let pipe = pipe(1 << 20, NonBlocking::Both).unwrap();
        let real = platform::pipe_capacity(pipe.reader.as_fd()).unwrap();
        assert_eq!(pipe.capacity_bytes, real);
        assert!(real >= 4096, "{real}");
    }

    #[test]
    fn a_size_beyond_what_may_be_had_degrades_instead_of_failing() {
        // Beyond pipe-max-size an unprivileged user gets EPERM; root gets it, or ENOMEM.
        let pipe = pipe(1 << 28, NonBlocking::Both).unwrap();
        assert!(pipe.capacity_bytes >= 4096);
    }

    #[test]
    fn a_pipe_is_never_made_smaller() {
        let pipe = pipe(0, NonBlocking::Both).unwrap();
        assert!(pipe.capacity_bytes >= 4096);
    }

    #[test]
    fn only_the_ends_asked_for_never_block() {
        let of = |fd: &OwnedFd| rustix::fs::fcntl_getfl(fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK);
        let pipe = pipe(65_536, NonBlocking::Reader).unwrap();
        assert!(of(&pipe.reader) && !of(&pipe.writer));
        let pipe = super::pipe(65_536, NonBlocking::Writer).unwrap();
        assert!(!of(&pipe.reader) && of(&pipe.writer));
    }

    #[test]
    fn queued_counts_what_was_spliced() {
        let (a, b) = (pipe(65_536, NonBlocking::Both).unwrap(), pipe(65_536, NonBlocking::Both).unwrap());
        rustix::io::write(&a.writer, b"abcdef").unwrap();
        match splice(a.reader.as_fd(), b.writer.as_fd(), 4) {
            Ok(moved) => {
                assert_eq!(moved, 4);
                assert_eq!(queued(a.reader.as_fd()).unwrap(), 2);
                assert_eq!(queued(b.reader.as_fd()).unwrap(), 4);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
    }

    #[test]
    fn many_rings_are_one_and_a_read_quiets_the_bell() {
        let (bell, hear) = bell().unwrap();
        for _ in 0..3 {
            bell.ring().unwrap();
        }
        let mut bytes = [0; 64];
        assert!(rustix::io::read(&hear, &mut bytes).unwrap() >= 8);
        assert_eq!(rustix::io::read(&hear, &mut bytes).unwrap_err(), rustix::io::Errno::AGAIN);
    }
}
