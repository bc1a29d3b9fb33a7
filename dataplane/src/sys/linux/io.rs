//! How Linux does it: epoll, accept4, splice, pipe sizes, eventfd, who is at the other end of a socket.
//!
//! Only calls whose form differs between platforms are here. Raw `libc` appears where rustix has no word for it
//! (`SO_PEERPIDFD`, `SO_PEERGROUPS`).

use crate::control::Lineage;
use crate::sys::socket::Credentials;
use rustix::event::epoll;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, SpliceFlags};
use std::io;
use std::time::Duration;

/// sendmsg(2) that neither waits nor kills.
pub(crate) const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// recvmsg(2) whose descriptors don't leak into children.
pub(crate) const RECEIVE_PACKET_FLAGS: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);
/// Packets with boundaries and an end.
pub(crate) const PACKET_SOCKET: SocketType = SocketType::SEQPACKET;

/// Longest chain of parents that is followed.
const DEPTH_MAX: usize = 256;
/// How often one link is looked at again when parents die under our eyes.
const RETRIES_MAX: usize = 8;

/// Which descriptors are ready: level-triggered epoll. An open file that others hold too (the keeper does) stays
/// registered after our descriptor is closed, and can't be removed then: who registers must remove before closing.
#[derive(Debug)]
pub(crate) struct Readiness {
    epoll: OwnedFd,
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
        self.epoll.as_fd()
    }
}

impl Readiness {
    pub(crate) fn new() -> io::Result<Readiness> {
        Ok(Readiness { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// EPERM for what is always ready (regular files).
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, key: u64, interest: Ready) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key), flags(interest))?)
    }

    pub(crate) fn modify(&self, fd: BorrowedFd<'_>, key: u64, interest: Ready) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(key), flags(interest))?)
    }

    pub(crate) fn delete(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits, for ever without a timeout, and appends (key, what). Interrupted is nothing happened.
    pub(crate) fn wait(&self, timeout: Option<Duration>, into: &mut Vec<(u64, Ready)>) -> io::Result<()> {
        // Rounded up to what epoll_pwait can tell, so that a timer is never early by a spin.
        let timeout = timeout.map(|timeout| rustix::event::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX).min(86_400),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events = [std::mem::MaybeUninit::<epoll::Event>::uninit(); 128];
        let (events, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            other => other?,
        };
        into.extend(events.iter().map(|event| {
            let flags = event.flags;
            let gone = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            let ready = Ready {
                read: flags.intersects(epoll::EventFlags::IN | gone),
                write: flags.intersects(epoll::EventFlags::OUT | gone),
                hangup: flags.intersects(gone),
            };
            (event.data.u64(), ready)
        }));
        Ok(())
    }
}

/// HUP and ERR are always told.
fn flags(interest: Ready) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, interest.read);
    flags.set(epoll::EventFlags::OUT, interest.write);
    flags
}

pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

pub(crate) fn pipe_capacity(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(rustix::pipe::fcntl_getpipe_size(pipe)?)
}

pub(crate) fn set_pipe_capacity(pipe: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    Ok(rustix::pipe::fcntl_setpipe_size(pipe, bytes)?)
}

pub(crate) fn splice(from: BorrowedFd<'_>, into: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    Ok(rustix::pipe::splice(from, None, into, None, max, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
}

/// Bytes can move between descriptors without coming through here.
pub(crate) const SPLICES: bool = true;

pub(crate) fn tee(from: BorrowedFd<'_>, into: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    Ok(rustix::pipe::tee(from, into, max, SpliceFlags::NONBLOCK)?)
}

/// (hear, ring): one eventfd, twice.
pub(crate) fn bell() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    let hear = rustix::event::eventfd(0, flags)?;
    let ring = hear.try_clone()?;
    Ok((hear, ring))
}

/// accept4(2), non-blocking and close-on-exec.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

/// socket(2), close-on-exec.
pub(crate) fn socket(kind: SocketType, non_blocking: bool) -> io::Result<OwnedFd> {
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, non_blocking);
    Ok(rustix::net::socket_with(rustix::net::AddressFamily::UNIX, kind, flags, None)?)
}

/// socketpair(2), close-on-exec.
pub(crate) fn socket_pair(kind: SocketType, non_blocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, non_blocking);
    Ok(rustix::net::socketpair(rustix::net::AddressFamily::UNIX, kind, flags, None)?)
}

/// True if a receive failed because the other end of a lane is closed: here that isn't an error.
pub(crate) fn is_lane_end(_error: &io::Error) -> bool {
    false
}

/// Keeps received descriptors from children: MSG_CMSG_CLOEXEC has done it.
pub(crate) fn keep_from_children(_fd: &OwnedFd) -> io::Result<()> {
    Ok(())
}

/// The path that names descriptor `fd` of this process, to open what it refers to anew.
pub(crate) fn reopen_path(fd: i32) -> Option<String> {
    Some(format!("/proc/self/fd/{fd}"))
}

/// SO_PEERCRED.
pub(crate) fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    // By libc rather than rustix: a peer outside our pid namespace has pid 0, which rustix's type can't hold.
    // SAFETY: `ucred` is plain integers, for which all zeroes is a value.
    let mut peer: libc::ucred = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: `peer` and `len` are ours, live through the call, and `len` says how large `peer` is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials { pid: peer.pid, uid: peer.uid, gid: peer.gid })
}

/// SO_PEERGROUPS; empty where the kernel has none to tell.
pub(crate) fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    const SO_PEERGROUPS: i32 = 59;
    let mut groups = vec![0u32; 32];
    loop {
        let mut len = libc::socklen_t::try_from(groups.len() * size_of::<u32>())
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: the kernel writes at most `len` bytes, which is the size of `groups`, ours through the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut len,
            )
        };
        let needed = len as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        match io::Error::last_os_error().raw_os_error() {
            // The kernel says how many there are (at most NGROUPS_MAX, 65,536).
            Some(libc::ERANGE) if needed > groups.len() => groups.resize(needed, 0),
            Some(libc::ENODATA | libc::ENOPROTOOPT) => return Ok(Vec::new()),
            Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
            None => return Err(io::ErrorKind::Other.into()),
        }
    }
}

/// Where the peer stands. `pid` is from its credentials, of the time of `connect`.
pub(crate) fn lineage(socket: BorrowedFd<'_>, pid: i32, keeper_pid: i32) -> Lineage {
    // One's own process (an embedded kernel, its socketpair), or no keeper yet: nobody is its child.
    if keeper_pid <= 0 || pid == std::process::id().cast_signed() {
        return Lineage::Outside;
    }
    if pid <= 0 || pid == keeper_pid {
        return Lineage::Unknown;
    }
    match peer_pidfd(socket) {
        Ok(pidfd) => while_alive(&pidfd, || walk(pid, keeper_pid)),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => without_peer_pidfd(pid, keeper_pid),
        Err(_) => Lineage::Unknown,
    }
}

/// Before Linux 6.5: hold whoever has the pid now, and believe that it is the peer unless it was born after we began
/// to look.
///
/// That is weaker than a pidfd of the peer's: a number could come round again while a connection waits to be accepted.
/// The kernel hands out numbers in turn, so the whole space (32,768 at least) would have to be used up meanwhile.
pub(crate) fn without_peer_pidfd(pid: i32, keeper_pid: i32) -> Lineage {
    let now_ticks = ticks_since_boot();
    let Some(named) = rustix::process::Pid::from_raw(pid) else { return Lineage::Unknown };
    let Ok(pidfd) = rustix::process::pidfd_open(named, rustix::process::PidfdFlags::empty()) else {
        return Lineage::Unknown;
    };
    while_alive(&pidfd, || match stat(pid) {
        Some(stat) if stat.start_ticks <= now_ticks => walk(pid, keeper_pid),
        Some(_) | None => Lineage::Unknown,
    })
}

/// What `look` saw holds only if the process it looked at by number lived through it.
fn while_alive(pidfd: &OwnedFd, look: impl FnOnce() -> Lineage) -> Lineage {
    let seen = look();
    let mut poll = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    match rustix::event::poll(&mut poll, Some(&rustix::event::Timespec::default())) {
        Ok(0) => seen,
        Ok(_) | Err(_) => Lineage::Unknown,
    }
}

/// SO_PEERPIDFD (Linux 6.5).
fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SO_PEERPIDFD: i32 = 77;
    let mut pidfd: i32 = -1;
    let mut len = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(0);
    // SAFETY: `pidfd` and `len` are ours, live through the call, and `len` says how large `pidfd` is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
            &mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `pidfd` is a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// Where a process stands, told of a pid alone.
pub(crate) fn ancestry(pid: i32, keeper_pid: i32) -> Lineage {
    if pid <= 0 || keeper_pid <= 0 || pid == keeper_pid { Lineage::Unknown } else { walk(pid, keeper_pid) }
}

/// Follows parents from `pid` up to the keeper or to the first process.
///
/// A parent that dies gives its children away before its number can be used again. So a link is believed when the
/// child still names the same parent after the parent was read; then the parent read was the parent.
fn walk(pid: i32, keeper_pid: i32) -> Lineage {
    let mut ancestors = Vec::new();
    let Some(mut at) = stat(pid) else { return Lineage::Unknown };
    let mut at_pid = pid;
    while ancestors.len() < DEPTH_MAX {
        ancestors.push(at_pid);
        if at.parent > 1 && at.parent != keeper_pid {
            let Some(parent) = parent(at_pid, at) else { return Lineage::Unknown };
            (at_pid, at) = parent;
        } else {
            at_pid = at.parent;
        }
        if at_pid == keeper_pid {
            return Lineage::Child { ancestors, session: session(pid) };
        }
        if at_pid <= 1 {
            return Lineage::Outside;
        }
    }
    Lineage::Unknown
}

/// Reads the parent of `child` so that it was its parent when it was read.
fn parent(child: i32, as_read: Stat) -> Option<(i32, Stat)> {
    let mut parent = as_read.parent;
    for _ in 0..RETRIES_MAX {
        let read = stat(parent);
        let again = stat(child)?;
        // A number used again under our eyes is another process.
        if again.start_ticks != as_read.start_ticks {
            return None;
        }
        match read {
            Some(read) if again.parent == parent => return Some((parent, read)),
            Some(_) | None => parent = again.parent,
        }
    }
    None
}

/// `KAIRO_SESSION` in a process's environment.
fn session(pid: i32) -> Option<String> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environ.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(b"KAIRO_SESSION="))?;
    String::from_utf8(value.to_vec()).ok()
}

/// What a chain of parents is made of.
#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: i32,
    start_ticks: u64,
}

/// `/proc/PID/stat`, fields 4 and 22. The name in field 2 may hold anything, parentheses too.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &text[text.iter().rposition(|byte| *byte == b')')? + 1..];
    let mut fields = std::str::from_utf8(after_name).ok()?.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat { parent, start_ticks })
}

/// CLOCK_BOOTTIME in the unit of `/proc/PID/stat`.
fn ticks_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let per_second = rustix::param::clock_ticks_per_second();
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * per_second + nanoseconds * per_second / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_parent_is_found_whatever_the_name_holds() {
        let own = stat(std::process::id().cast_signed()).unwrap();
        assert_eq!(own.parent, rustix::process::getppid().unwrap().as_raw_nonzero().get());
        assert!(own.start_ticks <= ticks_since_boot());
    }

    #[test]
    fn a_child_of_the_keeper_is_known_with_its_session() {
        let mut child = Command::new("sleep")
            .arg("60")
            .env("KAIRO_SESSION", "alpha")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        let own = std::process::id().cast_signed();
        // This process plays the keeper. The environment is there a moment after exec has begun.
        let expected = Lineage::Child { ancestors: vec![pid], session: Some("alpha".into()) };
        let seen = until(|| walk(pid, own), &expected);
        let seen_by_number = without_peer_pidfd(pid, own);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen, expected);
        assert_eq!(seen_by_number, expected);
    }

    /// What `look` sees when it is what is expected, or after a while.
    fn until(look: impl Fn() -> Lineage, expected: &Lineage) -> Lineage {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let seen = look();
            if seen == *expected || std::time::Instant::now() > deadline {
                return seen;
            }
            std::thread::yield_now();
        }
    }

    const SOCKET: &str = "KAIRO_TEST_SOCKET";

    /// The client of the test below, in a process of its own; nothing in any other.
    #[test]
    fn a_client_in_another_process() {
        let Some(path) = std::env::var_os(SOCKET) else { return };
        let socket = crate::sys::socket::connect(std::path::Path::new(&path)).unwrap();
        assert_eq!(rustix::io::read(&socket, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_client_under_the_keeper_is_its_child_until_it_is_gone() {
        let folder = std::env::temp_dir().join(format!("kairo-lineage-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        let listener = crate::sys::socket::bind(&path, 0o600).unwrap();
        let mut client = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::linux::io::tests::a_client_in_another_process"])
            .env(SOCKET, &path)
            .env("KAIRO_SESSION", "beta")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut poll = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut poll, Some(&patience)).unwrap(), 1);
        let socket = accept(rustix::fd::AsFd::as_fd(&listener)).unwrap();
        let borrowed = rustix::fd::AsFd::as_fd(&socket);
        let (pid, own) = (client.id().cast_signed(), std::process::id().cast_signed());
        assert_eq!(credentials(borrowed).unwrap().pid, pid);
        let here = lineage(borrowed, pid, own);
        client.kill().unwrap();
        client.wait().unwrap();
        let gone = lineage(borrowed, pid, own);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(here, Lineage::Child { ancestors: vec![pid], session: Some("beta".into()) });
        assert_eq!(gone, Lineage::Unknown);
    }

    #[test]
    fn a_process_that_is_nobodys_child_is_outside() {
        let own = std::process::id().cast_signed();
        // A keeper that is no ancestor of ours.
        let mut keeper = Command::new("sleep").arg("60").spawn().unwrap();
        let lineage = walk(own, keeper.id().cast_signed());
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        assert_eq!(lineage, Lineage::Outside);
    }

    #[test]
    fn a_process_that_is_gone_gets_least_rights() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        child.wait().unwrap();
        assert_eq!(without_peer_pidfd(pid, std::process::id().cast_signed()), Lineage::Unknown);
    }
}
