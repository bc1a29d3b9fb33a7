//! A child that stands still between exec and its first instruction, and what it executes.
//!
//! ```text
//!  child    ptrace(TRACEME) ▶ SIGTRAP to itself ⏸ ▶ contained ▶ execve ⏸ (PTRACE_EVENT_EXEC)
//!  keeper               EXITKILL, TRACEEXEC ▶ ┘            look, read ▶ ┘ detach or kill
//! ```
//!
//! From exec on the file is what runs, whatever its path names by then, and nobody can write to it (ETXTBSY) until the
//! process is gone: what is read meanwhile is what is executed. The first stop is there for the options: a keeper that
//! dies takes the child with it, and an event can't be mistaken for a signal somebody sent. Without a tracer that SIGTRAP
//! ends the child.

use super::fork::errno;
use crate::control::Weakness;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::ptr;
use std::time::{Duration, Instant};

/// How often a child that is on its way to exec is looked at.
const GLANCE: Duration = Duration::from_micros(50);
/// File systems that others write to (statfs(2), linux/magic.h): NFS, FUSE, 9P, CIFS, SMB2, Ceph, AFS, Coda, Lustre.
const REMOTE: [u32; 9] = [
    0x6969,
    0x6573_5546,
    0x0102_1997,
    0xFF53_4D42,
    0xFE53_4D42,
    0x00C3_6400,
    0x5346_414F,
    0x7375_7245,
    0x0BD0_0BD0,
];

/// What a child executes.
#[derive(Debug)]
pub(crate) struct Executed {
    /// To be read.
    pub(crate) file: File,
    /// As the operating system names it.
    pub(crate) path: Vec<u8>,
    /// Why it may be changed before it runs.
    pub(crate) weakness: Option<Weakness>,
}

/// In the child: has its parent trace it, and waits for that.
pub(super) fn submit() -> Result<(), i32> {
    // SAFETY: integers and null only. The pid is this process's own by a plain system call: libc may remember its parent's.
    unsafe {
        if libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, ptr::null::<u8>(), ptr::null::<u8>()) != 0
            || libc::syscall(libc::SYS_kill, libc::syscall(libc::SYS_getpid), libc::SIGTRAP) != 0
        {
            return Err(errno());
        }
    }
    Ok(())
}

/// Waits until a child of ours that submits stands still at exec. An error: it is gone and reaped.
pub(super) fn await_exec(pid: i32, patience: Duration) -> Result<(), i32> {
    let until = Instant::now() + patience;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call, which writes one int there.
        match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG | libc::__WALL) } {
            0 if Instant::now() < until => std::thread::sleep(GLANCE),
            0 => {
                give_up(pid);
                return Err(libc::ETIMEDOUT);
            }
            waited if waited == pid => {
                if !libc::WIFSTOPPED(status) {
                    return Err(libc::ESRCH);
                }
                if status >> 16 == libc::PTRACE_EVENT_EXEC {
                    return Ok(());
                }
                go_on(pid, libc::WSTOPSIG(status)).inspect_err(|_| give_up(pid))?;
            }
            _ if errno() == libc::EINTR => {}
            _ => return Err(errno()),
        }
    }
}

/// From a stop before exec. What would stop it there is not passed on: it stands still soon enough.
fn go_on(pid: i32, signal: i32) -> Result<(), i32> {
    let stops = [libc::SIGTRAP, libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let passed = if stops.contains(&signal) { 0 } else { signal };
    let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACEEXEC;
    // SAFETY: of a stopped tracee of ours; options and signal travel as integers in place of pointers.
    let gone_on = unsafe {
        libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options) == 0
            && libc::ptrace(libc::PTRACE_CONT, pid, 0, passed) == 0
    };
    // One that was killed meanwhile is reaped in the next round.
    if gone_on || errno() == libc::ESRCH { Ok(()) } else { Err(errno()) }
}

fn give_up(pid: i32) {
    let _ = crate::sys::process::signal_child(pid, libc::SIGKILL);
    let _ = crate::sys::process::wait_for(pid);
}

/// Lets a child that stands still run.
pub(crate) fn release(pid: i32) -> io::Result<()> {
    // SAFETY: integers only; a pid that isn't a stopped tracee of ours is refused.
    match unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a child that stands still executes; `argv` is what it was given, each string ended by NUL.
///
/// A script is told by its arguments: the interpreter's and the script's own name stand before the rest (execve(2)), so
/// there are more of them, and no program that is executed itself can look so.
pub(crate) fn executed(pid: i32, argv: &[u8]) -> io::Result<Executed> {
    let link = format!("/proc/{pid}/exe");
    let mut arguments = Vec::new();
    File::open(format!("/proc/{pid}/cmdline"))?.read_to_end(&mut arguments)?;
    if arguments != argv {
        let file = script(pid, &arguments, argv)?;
        let path =
            std::fs::read_link(format!("/proc/self/fd/{}", crate::sys::process::descriptor_number(&file)))?;
        return Ok(Executed {
            file,
            path: path.into_os_string().into_vec(),
            weakness: Some(Weakness::Script),
        });
    }
    let file = File::open(&link)?;
    let path = std::fs::read_link(&link)?.into_os_string().into_vec();
    let weakness = if is_remote(&file)? {
        Some(Weakness::Remote)
    } else {
        can_be_written(&link)?.then_some(Weakness::Unguarded)
    };
    Ok(Executed { file, path, weakness })
}

/// The file an interpreter is given, where the child is.
fn script(pid: i32, arguments: &[u8], argv: &[u8]) -> io::Result<File> {
    let count = |strings: &[u8]| memchr::memchr_iter(0, strings).count();
    let added = count(arguments).checked_sub(count(argv)).filter(|added| *added > 0);
    let path = added.and_then(|added| arguments.split(|byte| *byte == 0).nth(added));
    let path = path.ok_or(io::ErrorKind::InvalidData)?;
    let folder = if path.starts_with(b"/") { "root" } else { "cwd" };
    let at =
        rustix::fs::open(format!("/proc/{pid}/{folder}"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let within = if folder == "root" { ResolveFlags::IN_ROOT } else { ResolveFlags::empty() };
    let opened: OwnedFd = rustix::fs::openat2(&at, path, flags, Mode::empty(), within)?;
    let file = File::from(opened);
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || !kind.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(file)
}

fn is_remote(file: &File) -> io::Result<bool> {
    Ok(REMOTE.contains(&(rustix::fs::fstatfs(file)?.f_type as u32)))
}

/// Whether the file of a running program can be written to, as it could from Linux 6.11 to 6.12.1.
fn can_be_written(link: &str) -> io::Result<bool> {
    match rustix::fs::open(link, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::TXTBSY) => Ok(false),
        // Not ours to write to, so it can't be tried.
        Err(_) => {
            let system = rustix::system::uname();
            let release = system.release().to_string_lossy();
            let mut numbers =
                release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>());
            let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
            Ok(matches!((next(), next(), next()), (6, 11, _) | (6, 12, 0 | 1)))
        }
    }
}
