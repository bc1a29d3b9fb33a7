//! What makes a process a keeper, and what `/proc` tells about its descendants.
//!
//! Pids are handled with care: only a child that isn't reaped owns its pid. Whoever else is meant is named by a
//! pidfd and looked at again before a signal goes out.

pub use super::cores::{allowed_cpus, bind_thread};
use super::fork::{FIRST_FREE, errno};
use crate::sys::process::Stat;
use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pty::OpenptFlags;
use std::ffi::c_void;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr;

pub use super::fork::Forker;

/// ru_maxrss is in KiB.
pub(crate) const MAXRSS_UNITS_PER_KIB: u64 = 1;

/// RLIMIT_NOFILE's number.
pub const NOFILE: u32 = libc::RLIMIT_NOFILE;
/// RLIMIT_AS's number.
pub const ADDRESS_SPACE: u32 = libc::RLIMIT_AS;
/// RLIMIT_CORE's number.
pub const CORE: u32 = libc::RLIMIT_CORE;

/// The executable of this process, also after it was replaced on disk.
pub(crate) fn own_executable() -> io::Result<PathBuf> {
    Ok(PathBuf::from("/proc/self/exe"))
}

/// Makes this process a keeper: adopts orphaned descendants, cannot be attached to, has no descriptor but 0, 1, 2
/// and `keep`, and is in a session of its own, away from the terminal's signals. What it starts has the usual
/// umask, unless it is `embedded` in a command that has its caller's.
pub fn become_keeper(keep: &[RawFd], embedded: bool) -> io::Result<()> {
    // SAFETY: prctl with integers only.
    unsafe {
        if libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    // Fails in a process that leads a group already, which then has a session or a group of its own.
    let _ = rustix::process::setsid();
    if !embedded {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    }
    close_all_but(keep)?;
    for number in keep {
        // SAFETY: the launching kernel opened these numbers for this process; nobody has closed them.
        let fd = unsafe { BorrowedFd::borrow_raw(*number) };
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    }
    Ok(())
}

/// From here on nobody of our user can attach to this process, read its memory or its environment, and it leaves no core.
pub fn conceal() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let listed = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    let numbers: Vec<RawFd> = listed.filter(|number| *number > 2 && !keep.contains(number)).collect();
    for number in numbers {
        // SAFETY: this runs first thing in the process: no OwnedFd exists yet but the ones named in `keep`, and
        // a number that is closed already (the folder listing's own) is only refused.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Takes over descriptors this process was started with, away from the places a [`Forker`] needs.
pub fn take_over(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let owned: Vec<OwnedFd> = numbers
        .iter()
        // SAFETY: called once, with the numbers `become_keeper` kept: each is open and owned by nobody.
        .map(|number| unsafe { OwnedFd::from_raw_fd(*number) })
        .collect();
    let moved = |fd: OwnedFd| match fd.as_raw_fd() {
        number if number >= FIRST_FREE => Ok(fd),
        _ => Ok(rustix::io::fcntl_dupfd_cloexec(&fd, FIRST_FREE)?),
    };
    owned.into_iter().map(moved).collect()
}

/// SIGCHLD and SIGTERM as something to poll; every other signal that would end this process is held off.
#[derive(Debug)]
pub struct Events(nix::sys::signalfd::SignalFd);

impl Events {
    /// Blocks the signals and opens the descriptor. Children are given an empty mask by the forker.
    pub fn new() -> io::Result<Events> {
        use nix::sys::signal::{SigSet, Signal};
        use nix::sys::signalfd::{SfdFlags, SignalFd};
        default_dispositions();
        let mut mask = SigSet::all();
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGABRT,
            Signal::SIGTRAP,
            Signal::SIGSYS,
        ] {
            mask.remove(fault);
        }
        mask.thread_set_mask()?;
        Ok(Events(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// Takes what came: (a child changed, the keeper is asked to end).
    pub fn take(&mut self) -> (bool, bool) {
        let (mut child, mut end) = (false, false);
        while let Ok(Some(came)) = self.0.read_signal() {
            child |= came.ssi_signo == libc::SIGCHLD as u32;
            end |= came.ssi_signo == libc::SIGTERM as u32;
        }
        (child, end)
    }
}

/// What is ignored here would stay ignored in every child: signals of libc's own, too, which sigaction(3)
/// doesn't reach. Handlers end at exec by themselves, so those of the Rust runtime may stay.
fn default_dispositions() {
    // Handler, flags, restorer and mask of the kernel's sigaction: SIG_DFL is zero.
    let default = [0u64; 4];
    for signal in (1..=64).filter(|signal| ![libc::SIGSEGV, libc::SIGBUS].contains(signal)) {
        // SAFETY: the kernel reads 32 bytes that outlive the call; no handler is installed. It refuses SIGKILL
        // and SIGSTOP, which nobody can ignore.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<c_void>(),
                size_of::<u64>(),
            )
        };
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A memfd with these bytes that nobody can change any more.
pub fn sealed_memory(mut bytes: impl io::Read) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let memory = rustix::fs::memfd_create("kairo-message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memory);
    io::copy(&mut bytes, &mut file)?;
    let memory = OwnedFd::from(file);
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory)
}

/// The pids of our own children, dead ones that aren't reaped included. `file` is kept open between calls.
pub fn children(file: &mut Option<std::fs::File>, into: &mut Vec<i32>) -> io::Result<()> {
    let me = std::process::id() as i32;
    if file.is_none() {
        *file = std::fs::File::open(format!("/proc/{me}/task/{me}/children")).ok();
    }
    let Some(list) = file else {
        return by_parent(me, into);
    };
    numbers_of(list, into)
}

/// The children of a process, of all its threads. Nothing if it is gone.
pub fn threads_children(pid: i32, threads: u32, into: &mut Vec<i32>) {
    let list = |thread: i32, into: &mut Vec<i32>| -> io::Result<()> {
        numbers_of(&std::fs::File::open(format!("/proc/{pid}/task/{thread}/children"))?, into)
    };
    if threads <= 1 {
        if let Err(error) = list(pid, into)
            && error.raw_os_error() == Some(libc::ENOENT)
            && Path::new(&format!("/proc/{pid}/stat")).exists()
            && !Path::new("/proc/thread-self/children").exists()
        {
            // A kernel without CONFIG_PROC_CHILDREN.
            let _ = by_parent(pid, into);
        }
        return;
    }
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    let threads = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for thread in threads {
        // A thread that has ended since has no children any more: they moved to another.
        let _ = list(thread, into);
    }
}

fn numbers_of(list: &std::fs::File, into: &mut Vec<i32>) -> io::Result<()> {
    // As much as the kernel gives at once.
    let mut chunk = [0u8; 4096];
    let (mut number, mut digits, mut at) = (0i32, false, 0);
    loop {
        let read = list.read_at(&mut chunk, at)?;
        at += read as u64;
        for byte in &chunk[..read] {
            if byte.is_ascii_digit() {
                number = number * 10 + i32::from(byte - b'0');
                digits = true;
            } else if digits {
                into.push(number);
                (number, digits) = (0, false);
            }
        }
        if read == 0 {
            return Ok(());
        }
    }
}

fn by_parent(parent: i32, into: &mut Vec<i32>) -> io::Result<()> {
    into.extend(processes()?.filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent)));
    Ok(())
}

/// Every process there is.
fn processes() -> io::Result<impl Iterator<Item = i32>> {
    let entries = std::fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// `/proc` counts in hundredths of a second (USER_HZ), whatever the kernel's own clock does.
const TICK_NS: u64 = 10_000_000;

/// `/proc/PID/stat` field 22 of a child that was made between two times. Where both lie in one tick that is it,
/// and nothing has to be read: a look into `/proc` costs a tenth of a spawn.
pub(super) fn start_ticks(pid: i32, before_ns: u64, after_ns: u64) -> u64 {
    let (first, last) = (before_ns / TICK_NS, after_ns / TICK_NS);
    if first == last {
        return first;
    }
    // Not reaped, so it is there, even if it has ended.
    stat(pid).map_or(0, |stat| stat.start_ticks)
}

/// Which mount namespace a process is in; none if it is gone or may not be asked.
pub fn mount_namespace(pid: i32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok()?.ino())
}

/// What `/proc/PID/stat` says. `None`: no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    let mut path = [0u8; 32];
    let mut rest = &mut path[..];
    io::Write::write_fmt(&mut rest, format_args!("/proc/{pid}/stat\0")).ok()?;
    let path = std::ffi::CStr::from_bytes_until_nul(&path).ok()?;
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, 0.into()).ok()?;
    // The name of a program is at most 64 bytes and all that follows are numbers.
    let mut text = [0u8; 1024];
    let read = rustix::io::read(&file, &mut text).ok()?;
    // The name may contain spaces and parentheses: count from its last one.
    let after = &text[memchr::memrchr(b')', &text[..read])? + 2..read];
    let mut fields = after.split(|byte| *byte == b' ');
    let mut number = |skip: usize| -> Option<u64> {
        std::str::from_utf8(fields.nth(skip)?).ok()?.parse::<i64>().ok().map(|number| number as u64)
    };
    // state(3) ppid(4) pgrp(5) session(6) … num_threads(20) itrealvalue(21) starttime(22)
    let state = after[0];
    let parent = number(1)? as i32;
    let session = number(1)? as i32;
    let threads = number(13)? as u32;
    let start_ticks = number(1)?;
    Some(Stat { state, parent, session, start_ticks, threads })
}

/// The environment a process was executed with, at most `bytes_max` of it. Empty if it may not be read.
pub fn environment(pid: i32, bytes_max: u64, into: &mut Vec<u8>) {
    into.clear();
    let file = std::fs::File::open(format!("/proc/{pid}/environ"));
    let _ = file.and_then(|file| file.take(bytes_max).read_to_end(into));
}

/// True exactly while a process that is alive has neither arguments nor environment, as in the middle of an exec.
pub fn is_in_exec(pid: i32) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline"));
    arguments.is_ok_and(|arguments| arguments.is_empty()) && stat(pid).is_some_and(|stat| !stat.dead())
}

/// Signals a process that isn't our child, if `verify` finds it to be the one meant: it is called when the pid
/// can't be reused any more, because a pidfd names its process. `Ok(false)`: gone, or another one.
pub fn signal_member(pid: i32, signal: i32, verify: impl FnOnce(&Stat) -> bool) -> io::Result<bool> {
    let Some(named) = rustix::process::Pid::from_raw(pid) else {
        return Ok(false);
    };
    let handle = match rustix::process::pidfd_open(named, rustix::process::PidfdFlags::empty()) {
        Ok(handle) => Some(handle),
        Err(Errno::SRCH) => return Ok(false),
        // Before Linux 5.3, or forbidden: the check below is then only nearly as good.
        Err(Errno::NOSYS | Errno::PERM) => None,
        Err(error) => return Err(error.into()),
    };
    match stat(pid) {
        Some(stat) if !stat.dead() && verify(&stat) => {}
        _ => return Ok(false),
    }
    let sent = match &handle {
        Some(handle) => {
            // SAFETY: the descriptor is open, and no siginfo is given.
            unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    handle.as_raw_fd(),
                    signal,
                    ptr::null::<c_void>(),
                    0,
                )
            }
        }
        // SAFETY: kill takes no pointer.
        None => unsafe { libc::kill(pid, signal) }.into(),
    };
    match sent {
        0 => Ok(true),
        _ if errno() == libc::ESRCH => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One end of a PTY, close-on-exec.
pub(crate) fn open_master() -> io::Result<OwnedFd> {
    Ok(rustix::pty::openpt(PTY_FLAGS)?)
}

/// The other end, whatever `/dev/pts` is mounted here.
pub(crate) fn open_terminal(master: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::pty::ioctl_tiocgptpeer(master, PTY_FLAGS)?)
}

const PTY_FLAGS: OpenptFlags = OpenptFlags::RDWR.union(OpenptFlags::NOCTTY).union(OpenptFlags::CLOEXEC);

/// Listens for packets on `path`, non-blocking, mode 0600. A dead socket in its place is replaced, a live one is
/// `AddrInUse`. For a process with one thread: the umask is changed for a moment.
pub fn listen_packets(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    if rustix::net::connect(packet_socket(SocketFlags::empty())?, &address) == Err(Errno::CONNREFUSED) {
        std::fs::remove_file(path)?;
    }
    let listener = packet_socket(SocketFlags::NONBLOCK)?;
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&listener, &address);
    rustix::process::umask(before);
    bound?;
    rustix::net::listen(&listener, 4)?;
    Ok(listener)
}

/// Connects to such a listener. The socket blocks.
pub fn connect_packets(path: &Path) -> io::Result<OwnedFd> {
    let socket = packet_socket(SocketFlags::empty())?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Sends one datagram to a unix socket: a path, or `@` and an abstract name (unix(7)).
pub fn send_datagram(address: &[u8], bytes: &[u8]) -> io::Result<()> {
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(address)?,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::sendto(&socket, bytes, rustix::net::SendFlags::NOSIGNAL, &address)?;
    Ok(())
}

fn packet_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The name under which an rlimit is reported.
pub fn rlimit_name(resource: u32) -> &'static str {
    match resource {
        libc::RLIMIT_CPU => "cpu_seconds",
        libc::RLIMIT_FSIZE => "file_bytes",
        libc::RLIMIT_DATA => "data_bytes",
        libc::RLIMIT_STACK => "stack_bytes",
        libc::RLIMIT_CORE => "core_bytes",
        libc::RLIMIT_RSS => "rss_bytes",
        libc::RLIMIT_NPROC => "processes",
        libc::RLIMIT_NOFILE => "descriptors",
        libc::RLIMIT_MEMLOCK => "locked_bytes",
        libc::RLIMIT_AS => "address_space_bytes",
        libc::RLIMIT_LOCKS => "locks",
        libc::RLIMIT_SIGPENDING => "pending_signals",
        libc::RLIMIT_MSGQUEUE => "message_queue_bytes",
        libc::RLIMIT_NICE => "nice",
        libc::RLIMIT_RTPRIO => "realtime_priority",
        libc::RLIMIT_RTTIME => "realtime_us",
        _ => "other",
    }
}
