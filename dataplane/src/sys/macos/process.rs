//! macOS: fork and exec by the book, and what libproc tells about processes.
//!
//! There is no subreaper: an orphan goes to launchd, and a tree is the leader, its descendants and nobody else.
//! There is no handle on a process either: a descendant's start time is checked just before a signal goes out.
//! A contained child becomes `sandbox-exec`, which becomes the program. That it did is not known here: what it can't
//! do it says on its standard error, and exits.

use crate::control::{SpawnFailure, SpawnStage};
use crate::sys::process::{Child, Image, Stat};
use kairo_sandbox::containment::{KERNEL_DESCRIPTOR, PROBES_MAX};
use kairo_sandbox::enforce::Ready;
use kairo_sandbox::seatbelt::PROGRAM;
use rustix::event::kqueue::{self, Event, EventFilter, EventFlags};
use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr;

/// ru_maxrss is in bytes.
pub(crate) const MAXRSS_UNITS_PER_KIB: u64 = 1024;
/// RLIMIT_NOFILE's number.
pub const NOFILE: u32 = libc::RLIMIT_NOFILE as u32;
/// RLIMIT_AS's number.
pub const ADDRESS_SPACE: u32 = libc::RLIMIT_AS as u32;
/// RLIMIT_CORE's number.
pub const CORE: u32 = libc::RLIMIT_CORE as u32;

/// The executable of this process.
pub(crate) fn own_executable() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Forks children.
#[derive(Debug)]
pub struct Forker(());

/// All a child needs, made before the fork: the child allocates nothing.
struct Brief<'a> {
    image: &'a Image<'a>,
    argv: Vec<*const libc::c_char>,
    /// Where in `argv` the program stands for whoever contains it; none if nobody does.
    contained: Option<Named>,
    env: Vec<*const libc::c_char>,
    candidates: Vec<CString>,
    cwd: Option<CString>,
    stdin_file: Option<CString>,
    groups: Vec<libc::gid_t>,
}

/// A program among the arguments of another.
struct Named {
    /// Which argument it is.
    place: usize,
    /// It stays as it is: the other one looks where we do.
    as_given: bool,
    /// The other one.
    by: CString,
}

impl Forker {
    /// Keeps nothing open.
    pub fn new() -> io::Result<Forker> {
        Ok(Forker(()))
    }

    /// Starts a child. When this returns its program runs, or there is no child and the failure says why.
    pub fn spawn(&mut self, image: &Image<'_>) -> Result<Child, SpawnFailure> {
        let resources = |error: io::Error| failure(SpawnStage::Resources, error);
        if image.held {
            return Err(failure(SpawnStage::Measure, io::Error::from_raw_os_error(libc::ENOTSUP)));
        }
        if image.stdin_file.is_some() && image.containment.is_some() {
            // It would be opened before the program is contained.
            return Err(failure(SpawnStage::StdinFile, io::Error::from_raw_os_error(libc::ENOTSUP)));
        }
        let (argv, contained) = arguments(image).map_err(|error| failure(SpawnStage::Containment, error))?;
        let mut brief = Brief {
            image,
            argv,
            contained,
            env: pointers(image.env),
            candidates: candidates(image),
            cwd: image.cwd.map(CString::new).transpose().map_err(|error| resources(error.into()))?,
            stdin_file: image
                .stdin_file
                .map(CString::new)
                .transpose()
                .map_err(|error| resources(error.into()))?,
            groups: image.credentials.map(|who| who.groups.clone()).unwrap_or_default(),
        };
        let (report, told) = rustix::pipe::pipe().map_err(|error| resources(error.into()))?;
        rustix::io::fcntl_setfd(&report, FdFlags::CLOEXEC).map_err(|error| resources(error.into()))?;
        // Not by the number the child finds its kernel at.
        let told = rustix::io::fcntl_dupfd_cloexec(&told, KERNEL_DESCRIPTOR + 1)
            .map_err(|error| resources(error.into()))?;
        // SAFETY: the keeper has one thread, so the child may do what it likes until exec; it allocates nothing
        // all the same.
        let pid = unsafe { libc::fork() };
        match pid {
            0 => {
                let (stage, errno) = prepare_and_execute(&mut brief);
                let _ = rustix::io::write(&told, &[stage as u8, errno as u8]);
                // SAFETY: ends the child without running what the keeper would run at its end.
                unsafe { libc::_exit(127) }
            }
            -1 => return Err(failure(SpawnStage::Fork, io::Error::last_os_error())),
            _ => drop(told),
        }
        let mut words = [0u8; 2];
        match rustix::io::read(&report, &mut words) {
            // Closed by exec.
            Ok(0) => Ok(Child {
                pid,
                start_ticks: stat(pid).map_or(0, |stat| stat.start_ticks),
                seen: [0; PROBES_MAX],
            }),
            _ => {
                let _ = crate::sys::process::wait_for(pid);
                Err(SpawnFailure { stage: stage_of(words[0]), errno: words[1].into() })
            }
        }
    }
}

fn failure(stage: SpawnStage, error: io::Error) -> SpawnFailure {
    SpawnFailure { stage, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn stage_of(number: u8) -> SpawnStage {
    SpawnStage::of(number.into()).unwrap_or(SpawnStage::Fork)
}

/// NULL-terminated, of NUL-terminated strings that stand one after the other.
fn pointers(strings: &[u8]) -> Vec<*const libc::c_char> {
    let split = strings.split_inclusive(|byte| *byte == 0);
    split.map(|string| string.as_ptr().cast()).chain([ptr::null()]).collect()
}

/// The program's arguments, after those of `sandbox-exec` if it is contained by that. It finds the program as
/// execvp(3) does, so the name stays as it was given if the child's `PATH` is where we look.
fn arguments(image: &Image<'_>) -> io::Result<(Vec<*const libc::c_char>, Option<Named>)> {
    let own = pointers(image.argv);
    let Some(profile) = image.containment.and_then(Ready::profile) else { return Ok((own, None)) };
    let before = [c"sandbox-exec", c"-p", profile, c"--"].map(CStr::as_ptr);
    let name = image.argv.split(|byte| *byte == 0).next().unwrap_or_default();
    let path = image.env.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"PATH="));
    let as_given = name.contains(&b'/') || path == Some(image.search_path);
    let named = Named { place: before.len(), as_given, by: CString::new(PROGRAM)? };
    Ok((before.into_iter().chain(own).collect(), Some(named)))
}

/// The paths to try, as execvpe(3) would.
fn candidates(image: &Image<'_>) -> Vec<CString> {
    let program = image.argv.split(|byte| *byte == 0).next().unwrap_or_default();
    let path = |folder: &[u8]| {
        let folder = if folder.is_empty() { b"." } else { folder };
        CString::new([folder, b"/", program].concat()).ok()
    };
    if program.is_empty() || program.contains(&b'/') {
        return CString::new(program).into_iter().collect();
    }
    let folders = image.search_path.split(|byte| *byte == b':');
    folders.filter(|_| !image.search_path.is_empty()).filter_map(path).collect()
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Returns only what failed. Runs in the forked child.
fn prepare_and_execute(brief: &mut Brief<'_>) -> (SpawnStage, i32) {
    // SAFETY: every pointer is into `brief`, which this process has a copy of and which lives until exec; the
    // descriptors are open; all calls are async-signal-safe system calls but setgroups, which has no lock there.
    unsafe {
        libc::setsid();
        // Away from 0, 1 and 2 first, so that no source is overwritten before its turn.
        let mut sources = [0; 3];
        for (source, end) in sources.iter_mut().zip(brief.image.stdio) {
            *source = libc::fcntl(end.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3);
        }
        for (standard, source) in (0..).zip(sources) {
            if source < 0 || libc::dup2(source, standard) < 0 {
                return (SpawnStage::Stdio, last_errno());
            }
        }
        if let Some(kernel) = brief.image.kernel
            && (libc::dup2(kernel.as_raw_fd(), KERNEL_DESCRIPTOR) < 0
                || libc::fcntl(KERNEL_DESCRIPTOR, libc::F_SETFD, 0) < 0)
        {
            return (SpawnStage::KernelSocket, last_errno());
        }
        if brief.image.terminal && libc::ioctl(0, libc::TIOCSCTTY.into(), 0) < 0 {
            return (SpawnStage::Stdio, last_errno());
        }
        if !brief.image.cpus.is_empty() {
            return (SpawnStage::Affinity, libc::ENOSYS);
        }
        for (resource, soft, hard) in brief.image.rlimits {
            let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
            if libc::setrlimit(*resource as libc::c_int, &limit) < 0 {
                return (SpawnStage::Rlimit, last_errno());
            }
        }
        if let Some(who) = brief.image.credentials {
            let count = brief.groups.len() as libc::c_int;
            if libc::setgroups(count, brief.groups.as_ptr()) < 0
                || libc::setgid(who.gid) < 0
                || libc::setuid(who.uid) < 0
            {
                return (SpawnStage::Credentials, last_errno());
            }
        }
        if let Some(cwd) = &brief.cwd
            && libc::chdir(cwd.as_ptr()) < 0
        {
            return (SpawnStage::Cwd, last_errno());
        }
        if let Some(path) = &brief.stdin_file {
            let file = libc::open(
                path.as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK,
            );
            if file < 0 || libc::fcntl(file, libc::F_SETFL, 0) < 0 || libc::dup2(file, 0) < 0 {
                return (SpawnStage::StdinFile, last_errno());
            }
        }
        let mut nothing_blocked: libc::sigset_t = 0;
        libc::sigemptyset(&mut nothing_blocked);
        libc::sigprocmask(libc::SIG_SETMASK, &nothing_blocked, ptr::null_mut());
    }
    (SpawnStage::Exec, execute(brief))
}

fn execute(brief: &mut Brief<'_>) -> i32 {
    let mut denied = false;
    let mut last = libc::ENOENT;
    for candidate in &brief.candidates {
        last = match &brief.contained {
            None => run(candidate, &brief.argv, &brief.env),
            Some(named) => match absent(candidate) {
                Some(errno) => errno,
                None => {
                    if !named.as_given {
                        brief.argv[named.place] = candidate.as_ptr();
                    }
                    return run(&named.by, &brief.argv, &brief.env);
                }
            },
        };
        match last {
            libc::EACCES => denied = true,
            libc::ENOENT
            | libc::ENOTDIR
            | libc::ENAMETOOLONG
            | libc::ESTALE
            | libc::ENODEV
            | libc::ETIMEDOUT => {}
            _ => return last,
        }
    }
    if denied { libc::EACCES } else { last }
}

/// Returns only why it didn't.
fn run(program: &CStr, argv: &[*const libc::c_char], env: &[*const libc::c_char]) -> i32 {
    // SAFETY: a C string and two NULL-terminated arrays of C strings, all of them in the child's brief.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    last_errno()
}

/// Why a file can't be run, as execve(2) would say it.
fn absent(program: &CStr) -> Option<i32> {
    // SAFETY: plain numbers, for which all zeroes is a value.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and an out-pointer to a local, both of which outlive the calls.
    unsafe {
        if libc::stat(program.as_ptr(), &mut found) < 0
            || libc::faccessat(libc::AT_FDCWD, program.as_ptr(), libc::X_OK, libc::AT_EACCESS) < 0
        {
            return Some(last_errno());
        }
    }
    (found.st_mode & libc::S_IFMT != libc::S_IFREG).then_some(libc::EACCES)
}

/// Nothing to be had here.
pub fn conceal() -> io::Result<()> {
    Ok(())
}

/// Makes this process a keeper: no descriptor but 0, 1, 2 and `keep`, a session of its own, away from the
/// terminal's signals, and the usual umask, unless it is `embedded` in a command that has its caller's.
pub fn become_keeper(keep: &[RawFd], embedded: bool) -> io::Result<()> {
    // Fails in a process that leads a group already, which then has a session or a group of its own.
    let _ = rustix::process::setsid();
    if !embedded {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    }
    let listed = std::fs::read_dir("/dev/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok());
    let numbers: Vec<RawFd> = listed.filter(|number| *number > 2 && !keep.contains(number)).collect();
    for number in numbers {
        // SAFETY: this runs first thing in the process: no OwnedFd exists yet but the ones named in `keep`.
        unsafe { libc::close(number) };
    }
    for number in keep {
        // SAFETY: the launching kernel opened these numbers for this process; nobody has closed them.
        let fd = unsafe { BorrowedFd::borrow_raw(*number) };
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    }
    Ok(())
}

/// Takes over descriptors this process was started with.
pub fn take_over(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    // SAFETY: called once, with the numbers `become_keeper` kept: each is open and owned by nobody.
    Ok(numbers.iter().map(|number| unsafe { OwnedFd::from_raw_fd(*number) }).collect())
}

/// SIGCHLD and SIGTERM as something to poll; every other signal that would end this process is held off.
#[derive(Debug)]
pub struct Events(OwnedFd);

impl Events {
    /// Blocks the signals and opens the queue. Children are given an empty mask by the forker.
    pub fn new() -> io::Result<Events> {
        let queue = kqueue::kqueue()?;
        let watch = |signal: rustix::process::Signal| {
            let filter = EventFilter::Signal { signal, times: 0 };
            Event::new(filter, EventFlags::ADD, ptr::null_mut())
        };
        let wanted = [watch(rustix::process::Signal::CHILD), watch(rustix::process::Signal::TERM)];
        // SAFETY: signals, not descriptors, are watched: nothing has to outlive the queue.
        unsafe { kqueue::kevent(&queue, &wanted, &mut [] as &mut [Event], None) }?;
        // SAFETY: dispositions and masks take pointers to locals only; no handler is installed. What was ignored
        // here would stay ignored in every child.
        unsafe {
            for signal in 1..32 {
                if ![libc::SIGSEGV, libc::SIGBUS].contains(&signal) {
                    libc::signal(signal, libc::SIG_DFL);
                }
            }
            let mut mask: libc::sigset_t = 0;
            libc::sigfillset(&mut mask);
            for fault in
                [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT, libc::SIGTRAP]
            {
                libc::sigdelset(&mut mask, fault);
            }
            libc::sigprocmask(libc::SIG_SETMASK, &mask, ptr::null_mut());
        }
        Ok(Events(queue))
    }

    /// Takes what came: (a child changed, the keeper is asked to end).
    pub fn take(&mut self) -> (bool, bool) {
        let (mut child, mut end) = (false, false);
        let mut came = Vec::with_capacity(4);
        let now = std::time::Duration::ZERO;
        // SAFETY: nothing is added to the queue.
        if unsafe { kqueue::kevent(&self.0, &[], rustix::buffer::spare_capacity(&mut came), Some(now)) }
            .is_ok()
        {
            for event in &came {
                if let EventFilter::Signal { signal, .. } = event.filter() {
                    child |= signal == rustix::process::Signal::CHILD;
                    end |= signal == rustix::process::Signal::TERM;
                }
            }
        }
        (child, end)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file without a name that holds these bytes. It can't be sealed here.
pub fn sealed_memory(mut bytes: impl io::Read) -> io::Result<OwnedFd> {
    let path = std::env::temp_dir().join(format!("kairo-message-{}", std::process::id()));
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let memory = rustix::fs::open(&path, flags, rustix::fs::Mode::from_raw_mode(0o600))?;
    std::fs::remove_file(&path)?;
    let mut file = std::fs::File::from(memory);
    io::copy(&mut bytes, &mut file)?;
    Ok(file.into())
}

/// The pids of our own children. `_file` is what other systems keep open between calls.
pub fn children(_file: &mut Option<std::fs::File>, into: &mut Vec<i32>) -> io::Result<()> {
    threads_children(std::process::id() as i32, 1, into);
    Ok(())
}

/// The children of a process. Nothing if it is gone.
pub fn threads_children(pid: i32, _threads: u32, into: &mut Vec<i32>) {
    let mut pids = vec![0i32; 256];
    loop {
        let bytes = (pids.len() * size_of::<i32>()) as libc::c_int;
        // SAFETY: the buffer has that many bytes and outlives the call.
        let count = unsafe { libc::proc_listchildpids(pid, pids.as_mut_ptr().cast(), bytes) };
        let count = usize::try_from(count).unwrap_or(0);
        if count < pids.len() {
            into.extend_from_slice(&pids[..count]);
            return;
        }
        pids.resize(pids.len() * 2, 0);
    }
}

/// What libproc says. `None`: no such process, or not ours to look at.
pub fn stat(pid: i32) -> Option<Stat> {
    // SAFETY: plain numbers, for which all zeroes is a value.
    let mut info: libc::proc_bsdinfo = unsafe { std::mem::zeroed() };
    let bytes = size_of::<libc::proc_bsdinfo>() as libc::c_int;
    // SAFETY: the buffer has that many bytes and outlives the call.
    let got =
        unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, ptr::from_mut(&mut info).cast(), bytes) };
    if got != bytes {
        return None;
    }
    let state = match info.pbi_status {
        4 => b'T',
        5 => b'Z',
        _ => b'S',
    };
    // SAFETY: takes no pointer.
    let session = unsafe { libc::getsid(pid) };
    let start_ticks = info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec;
    Some(Stat { state, parent: info.pbi_ppid as i32, session, start_ticks, threads: 1 })
}

/// Always empty: it is asked for only of orphans, which never come to us here.
pub fn environment(_pid: i32, _bytes_max: u64, into: &mut Vec<u8>) {
    into.clear();
}

/// There is only the one.
pub fn mount_namespace(_pid: i32) -> Option<u64> {
    None
}

/// Nothing tells here whether a process is in the middle of an exec.
pub fn is_in_exec(_pid: i32) -> bool {
    false
}

/// Signals a process that isn't our child, if `verify` finds it to be the one meant. `Ok(false)`: gone, or
/// another one.
pub fn signal_member(pid: i32, signal: i32, verify: impl FnOnce(&Stat) -> bool) -> io::Result<bool> {
    match stat(pid) {
        Some(stat) if !stat.dead() && verify(&stat) => {}
        _ => return Ok(false),
    }
    match crate::sys::process::signal_child(pid, signal) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// One end of a PTY, close-on-exec.
pub(crate) fn open_master() -> io::Result<OwnedFd> {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags)?;
    rustix::io::fcntl_setfd(&master, FdFlags::CLOEXEC)?;
    Ok(master)
}

/// The other end of a PTY.
pub(crate) fn open_terminal(master: &OwnedFd) -> io::Result<OwnedFd> {
    let name = rustix::pty::ptsname(master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let name: &CStr = &name;
    Ok(rustix::fs::open(name, flags, rustix::fs::Mode::empty())?)
}

/// `Unsupported`: local sockets carry no packets here, so nothing can be handed over.
pub fn listen_packets(_path: &Path) -> io::Result<OwnedFd> {
    Err(io::Error::from(Errno::PROTONOSUPPORT))
}

/// `Unsupported`, as [`listen_packets`].
pub fn connect_packets(_path: &Path) -> io::Result<OwnedFd> {
    Err(io::Error::from(Errno::PROTONOSUPPORT))
}

/// Sends one datagram to a unix socket at a path.
pub fn send_datagram(address: &[u8], bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(address));
    std::os::unix::net::UnixDatagram::unbound()?.send_to(bytes, path)?;
    Ok(())
}

/// Cores things can be bound to: none here.
pub fn allowed_cpus() -> Vec<u16> {
    Vec::new()
}

/// Keeps the calling thread to one core: not to be had here.
pub fn bind_thread(_: u16) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The name under which an rlimit is reported.
pub fn rlimit_name(resource: u32) -> &'static str {
    match resource as libc::c_int {
        libc::RLIMIT_CPU => "cpu_seconds",
        libc::RLIMIT_FSIZE => "file_bytes",
        libc::RLIMIT_DATA => "data_bytes",
        libc::RLIMIT_STACK => "stack_bytes",
        libc::RLIMIT_CORE => "core_bytes",
        libc::RLIMIT_AS => "address_space_bytes",
        libc::RLIMIT_MEMLOCK => "locked_bytes",
        libc::RLIMIT_NPROC => "processes",
        libc::RLIMIT_NOFILE => "descriptors",
        _ => "other",
    }
}
