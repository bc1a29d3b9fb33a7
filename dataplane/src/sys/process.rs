//! Starting processes: a child from the keeper, a keeper from the kernel, and what is needed around it.
//!
//! A [`Forker`] forks for the keeper, and only there: it expects a single-threaded process that stops while a
//! child is on its way to exec. [`launch`] starts the keeper itself. What is portable is here, what is not is in
//! `linux/process.rs` and `macos/process.rs`, with the same names in both.

use super::platform::process as platform;
use crate::command::Credentials;
use crate::control::{ExitStatus, Usage};
use crate::sys::socket;
use kairo_sandbox::containment::PROBES_MAX;
use kairo_sandbox::enforce::Ready;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use platform::{
    ADDRESS_SPACE, CORE, Events, Forker, NOFILE, allowed_cpus, become_keeper, bind_thread, children, conceal,
    connect_packets, environment, is_in_exec, listen_packets, mount_namespace, rlimit_name, sealed_memory,
    send_datagram, signal_member, stat, take_over, threads_children,
};

/// What a child is to be. Strings are NUL-terminated and stand one after the other.
#[derive(Debug)]
pub struct Image<'a> {
    /// At least one string.
    pub argv: &'a [u8],
    /// `NAME=value` strings.
    pub env: &'a [u8],
    /// Folders separated by colons, for a program without a slash.
    pub search_path: &'a [u8],
    /// Working folder.
    pub cwd: Option<&'a [u8]>,
    /// Descriptors 0, 1 and 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Descriptor 0 becomes this file, opened when all else is done; no FIFO is waited for.
    pub stdin_file: Option<&'a [u8]>,
    /// Descriptor 0 becomes the controlling terminal.
    pub terminal: bool,
    /// Another user.
    pub credentials: Option<&'a Credentials>,
    /// RLIMIT_* number, soft, hard.
    pub rlimits: &'a [(u32, u64, u64)],
    /// What it does to itself, at the last.
    pub containment: Option<&'a Ready>,
    /// Its connection to the kernel.
    pub kernel: Option<BorrowedFd<'a>>,
    /// Folder of the cgroup to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Before its program's first instruction it stands still, until it is let go or killed.
    pub held: bool,
    /// Cores it is bound to; empty for none.
    pub cpus: &'a [u16],
}

/// A child that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its own until it is reaped.
    pub pid: i32,
    /// As in [`Stat`].
    pub start_ticks: u64,
    /// What the probes of its containment saw.
    pub seen: [i32; PROBES_MAX],
}

/// Facts of `/proc/PID/stat`, or what stands in for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `T`, `Z` …
    pub state: u8,
    /// Parent.
    pub parent: i32,
    /// Session leader's pid.
    pub session: i32,
    /// With the pid, a name for good. Clock ticks since boot.
    pub start_ticks: u64,
    /// Threads.
    pub threads: u32,
}

impl Stat {
    /// True exactly when it has ended and only waits to be reaped.
    pub fn dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// True exactly when a signal has stopped it.
    pub fn stopped(&self) -> bool {
        self.state == b'T'
    }
}

/// The number of a descriptor, to name it to another program.
pub fn descriptor_number(fd: &impl AsRawFd) -> i32 {
    fd.as_raw_fd()
}

/// `count` lanes: our ends non-blocking, and theirs; all close-on-exec.
pub fn lane_pairs(count: u16) -> io::Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    (0..count).map(|_| socket::packet_pair(true)).collect()
}

/// Starts `program` (none: this very one) with `arguments`, the descriptors `inherited` under the same numbers,
/// stdout on `/dev/null`, stdin too unless `keep_stdin`, and an empty environment.
pub fn launch(
    program: Option<&Path>,
    arguments: &[OsString],
    inherited: &[OwnedFd],
    keep_stdin: bool,
) -> io::Result<i32> {
    let itself = platform::own_executable()?;
    let mut command = Command::new(program.unwrap_or(&itself));
    command.arg0("kairo").args(arguments).env_clear().stdout(Stdio::null());
    command.stdin(if keep_stdin { Stdio::inherit() } else { Stdio::null() });
    let numbers: Vec<i32> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let keep = move || {
        for number in &numbers {
            // SAFETY: the parent holds these descriptors open until `spawn` returns, so the numbers are theirs
            // in the forked child too; fcntl is async-signal-safe and touches the child's own table only.
            if unsafe { libc::fcntl(*number, libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec `keep` calls nothing but fcntl(2) and allocates nothing.
    unsafe { command.pre_exec(keep) };
    Ok(command.spawn()?.id() as i32)
}

/// Takes over `count` descriptors from number 3 up, as a service manager passes them (sd_listen_fds(3)). Close-on-exec.
/// To be called before the process has opened anything; a second call is refused.
pub fn passed_on(count: usize) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let numbers = 3..3 + i32::try_from(count).map_err(io::Error::other)?;
    for number in numbers.clone() {
        // SAFETY: fcntl with integers only; a number that isn't open is refused.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: each number is open, as the call above has shown, until the value made here is dropped; who started this
    // process has left it to us, and no second call makes another value of it.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// Waits for a child of ours. Its exit code, 128+n for a signal.
pub fn wait_for(pid: i32) -> io::Result<i32> {
    match wait(pid, 0) {
        Ok(code) => Ok(code.unwrap_or_default()),
        // Taken over from another kernel: whose child it is now will be told its code.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => await_end(pid),
        Err(error) => Err(error),
    }
}

/// Looks whether a child of ours has ended.
pub fn look_for(pid: i32) -> io::Result<Option<i32>> {
    wait(pid, libc::WNOHANG)
}

fn wait(pid: i32, flags: i32) -> io::Result<Option<i32>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call, which writes one int there; nobody else knows it.
        let waited = unsafe { libc::waitpid(pid, &mut status, flags) };
        let error = io::Error::last_os_error();
        if waited == pid {
            let status = std::process::ExitStatus::from_raw(status);
            return Ok(Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())));
        }
        match waited {
            0 => return Ok(None),
            _ if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}

/// Looks every now and then whether a process that is no child of ours is gone, for some seconds.
fn await_end(pid: i32) -> io::Result<i32> {
    let give_up = Instant::now() + Duration::from_secs(10);
    let there = |pid| rustix::process::Pid::from_raw(pid).map(rustix::process::test_kill_process);
    while let Some(Ok(())) = there(pid) {
        if Instant::now() > give_up {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(0)
}

/// What waiting for any child found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// This one ended and is reaped: its pid may be reused from now on.
    Child(i32, ExitStatus, Usage),
    /// There are children, all alive.
    NoneDead,
    /// There is no child.
    NoneLeft,
}

/// Reaps one child if one is dead; never waits.
pub fn reap() -> Reaped {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both out-pointers are to locals that outlive the call.
    match unsafe { libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage) } {
        0 => Reaped::NoneDead,
        pid if pid > 0 => Reaped::Child(pid, exit_status(status), usage_of(&usage)),
        _ => Reaped::NoneLeft,
    }
}

fn exit_status(status: i32) -> ExitStatus {
    let status = std::process::ExitStatus::from_raw(status);
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, signal) => {
            ExitStatus::Signal { signal: signal.unwrap_or_default(), core: status.core_dumped() }
        }
    }
}

fn usage_of(usage: &libc::rusage) -> Usage {
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Usage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_kib: usage.ru_maxrss as u64 / platform::MAXRSS_UNITS_PER_KIB,
        minor_faults: usage.ru_minflt as u64,
        major_faults: usage.ru_majflt as u64,
        voluntary_switches: usage.ru_nvcsw as u64,
        involuntary_switches: usage.ru_nivcsw as u64,
    }
}

/// kill(2) of a child that is known not to be reaped yet, so that the pid is its own.
pub fn signal_child(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes no pointer.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where a process stands below the keeper, by its parents as they are now, dead ones that aren't reaped included. What
/// was said of a pid a moment ago may be of another one: good for telling, not for trusting.
pub fn ancestry(pid: i32, keeper_pid: i32) -> crate::control::Lineage {
    crate::sys::platform::io::ancestry(pid, keeper_pid)
}

/// RLIMIT_NOFILE, soft and hard.
pub fn descriptor_limit() -> (u64, u64) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX))
}

/// Raises the soft limit of descriptors to the hard one.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let resource = rustix::process::Resource::Nofile;
    let limit = rustix::process::getrlimit(resource);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    Ok(rustix::process::setrlimit(resource, raised)?)
}
