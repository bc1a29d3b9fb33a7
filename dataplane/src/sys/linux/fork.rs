//! fork and exec without copying the keeper.
//!
//! A child is cloned with `CLONE_VM | CLONE_VFORK` onto a stack of its own: it borrows the keeper's memory and
//! the keeper stands still until the child has executed or failed, so an error travels as two integers in that
//! memory. With `CLONE_FILES` it borrows the descriptor table too, and leaves it with one
//! `close_range(UNSHARE)`, which copies only what stays: a spawn costs the same with ten or ten thousand
//! descriptors held. Between clone and exec the child makes system calls and nothing else: no allocation, no
//! lock, no libc function that keeps state.
//!
//! A child that becomes another user shares nothing with the keeper: between setuid and exec that user may stop
//! it, which must not stop the keeper, and may hope to look into it. It gets a copy of everything, tells errors
//! through a pipe, and is given up if it takes too long.

use super::clone::{Stack, clone, clone3};
use super::process::start_ticks;
use super::words::{Pointers, terminated};
use super::{cores, stdin, stopped};
use crate::control::{SpawnFailure, SpawnStage};
use crate::sys::process::{Child, Image};
use kairo_sandbox::containment::PROBES_MAX;
use kairo_sandbox::enforce::{Ready, Step};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use std::ffi::c_char;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

/// Where a child finds its standard descriptors, one after the other, in the table it shares with the keeper.
const CHILD_STDIO: RawFd = 3;
/// Where it finds its ruleset.
const RULESET: RawFd = CHILD_STDIO + 3;
/// Where it finds its connection to the kernel.
const KERNEL: RawFd = RULESET + 1;
/// Where it finds the namespace that is there already and that it is to enter.
const NAMESPACE: RawFd = KERNEL + 1;
/// The first number that isn't the forker's.
pub(super) const FIRST_FREE: RawFd = NAMESPACE + 1;
/// How long a child that is another user already may take to execute.
const PATIENCE: Duration = Duration::from_secs(10);

/// Forks children. Owns their stack, and descriptors 3 to 8 of this process.
#[derive(Debug)]
pub struct Forker {
    stack: Stack,
    null: OwnedFd,
    share_files: bool,
    clone3: bool,
    argv: Pointers,
    env: Pointers,
    candidates: Pointers,
    paths: Vec<u8>,
    cgroup_procs: Vec<u8>,
}

/// What probes saw.
type Seen = [i32; PROBES_MAX];

impl Told {
    fn of(bytes: &[u8; TOLD_BYTES]) -> Told {
        let mut words = bytes.chunks_exact(4).map(|word| word.try_into().map_or(0, i32::from_ne_bytes));
        let mut next = || words.next().unwrap_or_default();
        Told { stage: next(), errno: next(), seen: std::array::from_fn(|_| next()) }
    }
}

/// All a child needs, in memory it shares with the keeper.
pub(super) struct Brief {
    argv: *const *const c_char,
    env: *const *const c_char,
    candidates: *const *const c_char,
    cwd: *const c_char,
    stdin_file: *const c_char,
    cgroup_procs: *const c_char,
    rlimits: *const (u32, u64, u64),
    rlimits_len: usize,
    /// Which cores, a bit each; none set for all.
    cpus: cores::Set,
    groups: *const u32,
    groups_len: usize,
    uid: u32,
    gid: u32,
    change_user: bool,
    containment: *const Ready,
    terminal: bool,
    held: bool,
    pub(super) share_files: bool,
    /// Where failures are told by a child that shares no memory; -1 for one that does.
    pub(super) report: RawFd,
    /// CLOCK_BOOTTIME when the child ran first, nanoseconds; 0 if it shares no memory.
    born_ns: u64,
    told: Told,
}

/// What a child tells on its way: why there is none, or, with stage 0, what its probes saw.
#[derive(Clone, Copy)]
#[repr(C)]
struct Told {
    stage: i32,
    errno: i32,
    seen: [i32; PROBES_MAX],
}

const NOTHING: Told = Told { stage: 0, errno: 0, seen: [0; PROBES_MAX] };
const TOLD_BYTES: usize = size_of::<Told>();

impl Forker {
    /// Descriptors 3 to 8 must be nobody's: [`take_over`](crate::sys::process::take_over) keeps them free.
    pub fn new() -> io::Result<Forker> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, 0.into())?;
        let forker = Forker {
            stack: Stack::new()?,
            null: rustix::io::fcntl_dupfd_cloexec(null, FIRST_FREE)?,
            share_files: close_range(RawFd::MAX, libc::CLOSE_RANGE_UNSHARE) == 0,
            clone3: cfg!(any(target_arch = "x86_64", target_arch = "aarch64")),
            argv: Pointers::default(),
            env: Pointers::default(),
            candidates: Pointers::default(),
            paths: Vec::new(),
            cgroup_procs: Vec::new(),
        };
        forker.park(FIRST_FREE)?;
        Ok(forker)
    }

    /// Takes the places of a child's descriptors below a number, and lets go of what was there.
    fn park(&self, below: RawFd) -> io::Result<()> {
        (CHILD_STDIO..below).try_for_each(|number| duplicate_to(self.null.as_fd(), number))
    }

    /// Starts a child. When this returns its program runs, or there is no child and the failure says why.
    pub fn spawn(&mut self, image: &Image<'_>) -> Result<Child, SpawnFailure> {
        let ruleset = image.containment.and_then(Ready::ruleset);
        let namespace = image.containment.and_then(Ready::namespace);
        let extra = [(RULESET, ruleset), (KERNEL, image.kernel), (NAMESPACE, namespace)];
        let placed = (CHILD_STDIO..)
            .zip(image.stdio)
            .chain(extra.into_iter().filter_map(|(number, fd)| Some((number, fd?))))
            .try_for_each(|(number, end)| duplicate_to(end, number));
        let outcome = match placed {
            Ok(()) => self.execute(image),
            Err(error) => Err(failure(SpawnStage::Resources, error)),
        };
        // The keeper must not hold the child's ends: the kernel would never see their end of file.
        let used = if image.containment.is_some() { FIRST_FREE } else { RULESET };
        match self.park(used) {
            Ok(()) => outcome,
            Err(error) => outcome.and(Err(failure(SpawnStage::Resources, error))),
        }
    }

    fn execute(&mut self, image: &Image<'_>) -> Result<Child, SpawnFailure> {
        self.argv.fill(image.argv);
        self.env.fill(image.env);
        self.search(image);
        let [cwd, stdin_file] = [image.cwd, image.stdin_file].map(|path| path.map(terminated));
        let pointer = |path: &Option<Vec<u8>>| path.as_ref().map_or(ptr::null(), |path| path.as_ptr().cast());
        let groups = image.credentials.map(|who| who.groups.as_slice()).unwrap_or_default();
        let mut brief = Brief {
            argv: self.argv.0.as_ptr(),
            env: self.env.0.as_ptr(),
            candidates: self.candidates.0.as_ptr(),
            cwd: pointer(&cwd),
            stdin_file: pointer(&stdin_file),
            cgroup_procs: ptr::null(),
            rlimits: image.rlimits.as_ptr(),
            rlimits_len: image.rlimits.len(),
            cpus: cores::set(image.cpus),
            groups: groups.as_ptr(),
            groups_len: groups.len(),
            uid: image.credentials.map_or(0, |who| who.uid),
            gid: image.credentials.map_or(0, |who| who.gid),
            change_user: image.credentials.is_some(),
            containment: image.containment.map_or(ptr::null(), ptr::from_ref),
            terminal: image.terminal,
            held: image.held,
            share_files: self.share_files,
            report: -1,
            born_ns: 0,
            told: NOTHING,
        };
        let before_ns = boottime_ns();
        let outcome = match image.credentials {
            _ if image.held => self.clone_held(&mut brief, image.cgroup),
            None => self.clone_and_wait(&mut brief, image.cgroup),
            Some(_) => self.clone_apart(&mut brief, image.cgroup),
        };
        // SAFETY: as in `clone_and_wait`: a field of ours that the child may have written.
        let after_ns = unsafe { ptr::read_volatile(&brief.born_ns) };
        let outcome = outcome.map(|(pid, seen)| Child {
            pid,
            start_ticks: start_ticks(pid, before_ns, after_ns),
            seen,
        });
        self.argv.shrink();
        self.env.shrink();
        self.candidates.shrink();
        self.paths.shrink_to(16 * 1024);
        outcome
    }

    /// A child in our memory: when this returns it has executed or failed.
    fn clone_and_wait(
        &mut self,
        brief: &mut Brief,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(i32, Seen), SpawnFailure> {
        let pid = self.clone(brief, cgroup)?;
        // SAFETY: `brief` is ours; the child that wrote to it through the shared memory has executed or ended,
        // else clone would not have returned. Volatile, because the compiler saw no write.
        let told = unsafe { ptr::read_volatile(&brief.told) };
        if told.stage == 0 { Ok((pid, told.seen)) } else { Err(reaped(pid, told.stage, told.errno)) }
    }

    /// A child with memory of its own, which reports into the pipe that is returned.
    fn clone_reporting(
        &mut self,
        brief: &mut Brief,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(i32, OwnedFd), SpawnFailure> {
        let (told, report) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| failure(SpawnStage::Resources, error.into()))?;
        brief.share_files = false;
        brief.report = report.as_raw_fd();
        let pid = self.clone(brief, cgroup)?;
        drop(report);
        Ok((pid, told))
    }

    /// A child with memory of its own, waited for as long as is decent.
    fn clone_apart(
        &mut self,
        brief: &mut Brief,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(i32, Seen), SpawnFailure> {
        let (pid, told) = self.clone_reporting(brief, cgroup)?;
        let mut seen = NOTHING.seen;
        let until = Instant::now() + PATIENCE;
        loop {
            let mut words = [0u8; TOLD_BYTES];
            let mut polled = [PollFd::new(&told, PollFlags::IN)];
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match rustix::event::poll(&mut polled, Some(&left)) {
                Ok(0) | Err(_) => {
                    let _ = crate::sys::process::signal_child(pid, libc::SIGKILL);
                    return Err(reaped(pid, SpawnStage::Exec as i32, libc::ETIMEDOUT));
                }
                Ok(_) => match rustix::io::read(&told, &mut words) {
                    // Closed by exec, or by the end of a child that was killed: its exit will tell.
                    Ok(0) => return Ok((pid, seen)),
                    _ => {
                        let told = Told::of(&words);
                        if told.stage != 0 {
                            return Err(reaped(pid, told.stage, told.errno));
                        }
                        seen = told.seen;
                    }
                },
            }
        }
    }

    /// A child that stands still at exec. With memory of its own: while it borrowed ours a signal that stops it, for us to
    /// look at, would stop us as well.
    fn clone_held(
        &mut self,
        brief: &mut Brief,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<(i32, Seen), SpawnFailure> {
        let (pid, told) = self.clone_reporting(brief, cgroup)?;
        let stopped = stopped::await_exec(pid, PATIENCE);
        let mut seen = NOTHING.seen;
        let mut words = [0u8; TOLD_BYTES];
        // Whoever could write is gone, or has closed it by exec.
        while rustix::io::read(&told, &mut words).is_ok_and(|read| read == TOLD_BYTES) {
            let told = Told::of(&words);
            if told.stage != 0 {
                return Err(SpawnFailure { stage: stage_of(told.stage), errno: told.errno });
            }
            seen = told.seen;
        }
        match stopped {
            Ok(()) => Ok((pid, seen)),
            Err(errno) => Err(SpawnFailure { stage: SpawnStage::Measure, errno }),
        }
    }

    fn clone(&mut self, brief: &mut Brief, cgroup: Option<BorrowedFd<'_>>) -> Result<i32, SpawnFailure> {
        let mut pid = -i64::from(libc::ENOSYS);
        if self.clone3 {
            pid = clone3(&self.stack, brief, cgroup);
            // Containers answer ENOSYS, or EPERM, to make libc fall back; so do we, for good.
            if pid == -i64::from(libc::ENOSYS) || (pid == -i64::from(libc::EPERM) && cgroup.is_none()) {
                self.clone3 = false;
                pid = -i64::from(libc::ENOSYS);
            }
        }
        if !self.clone3 {
            if let Some(folder) = cgroup {
                self.cgroup_procs = format!("/proc/self/fd/{}/cgroup.procs\0", folder.as_raw_fd()).into();
                brief.cgroup_procs = self.cgroup_procs.as_ptr().cast();
            }
            pid = clone(&self.stack, brief);
        }
        if pid < 0 {
            let errno = -pid as i32;
            let joining = cgroup.is_some() && !matches!(errno, libc::EAGAIN | libc::ENOMEM);
            let stage = if joining { SpawnStage::Cgroup } else { SpawnStage::Fork };
            return Err(SpawnFailure { stage, errno });
        }
        Ok(pid as i32)
    }

    /// Lists the paths to try, as execvpe(3) would.
    fn search(&mut self, image: &Image<'_>) {
        let program = &image.argv[..memchr::memchr(0, image.argv).unwrap_or(0)];
        self.paths.clear();
        if program.is_empty() || program.contains(&b'/') {
            self.paths.extend_from_slice(program);
            self.paths.push(0);
        } else {
            let folders = image.search_path.split(|byte| *byte == b':');
            for folder in folders.filter(|_| !image.search_path.is_empty()) {
                self.paths.extend_from_slice(if folder.is_empty() { b"." } else { folder });
                self.paths.push(b'/');
                self.paths.extend_from_slice(program);
                self.paths.push(0);
            }
        }
        self.candidates.fill(&self.paths);
    }
}

fn failure(stage: SpawnStage, error: io::Error) -> SpawnFailure {
    SpawnFailure { stage, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// CLOCK_BOOTTIME, by which processes are born; by a plain system call, so that a child may ask too.
fn boottime_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the out-pointer is to a local that outlives the call.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_BOOTTIME, ptr::from_mut(&mut now)) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What a child has failed at, once it is gone.
fn reaped(pid: i32, stage: i32, errno: i32) -> SpawnFailure {
    // Its exit code says less than the stage does.
    let _ = crate::sys::process::wait_for(pid);
    SpawnFailure { stage: stage_of(stage), errno }
}

fn stage_of(number: i32) -> SpawnStage {
    SpawnStage::of(number).unwrap_or(SpawnStage::Fork)
}

/// Makes `number` a close-on-exec duplicate of `fd`, whatever it was. Only for numbers the forker owns.
fn duplicate_to(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        return Ok(());
    }
    // SAFETY: dup3 takes no pointer, and 3 to 8 belong to the forker: no OwnedFd has these numbers.
    if unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn close_range(first: RawFd, flags: u32) -> i64 {
    // SAFETY: takes no pointer. Callers close only what nobody owns: nothing (a probe beyond all numbers), or,
    // in a child, its own copy of the table.
    unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, libc::c_uint::MAX, flags) }
}

/// The child's way from clone to exec: in the keeper's memory while the keeper stands still, or in a copy of it.
pub(super) extern "C" fn run_child(brief: *mut Brief) -> ! {
    // SAFETY: the parent made it and waits, or it is this process's own copy; nobody else touches it until this
    // process has executed or ended.
    let brief = unsafe { &mut *brief };
    // SAFETY: a field of `brief`; volatile, because execve, not the compiler, makes it count.
    unsafe { ptr::write_volatile(&mut brief.born_ns, boottime_ns()) };
    let (stage, errno) = prepare_and_execute(brief);
    tell(brief, Told { stage: stage as i32, errno, ..NOTHING });
    loop {
        // SAFETY: ends this process without running anything of the keeper's.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    }
}

/// Leaves word in the shared memory, or in the pipe where there is none.
fn tell(brief: &mut Brief, told: Told) {
    // SAFETY: a field of `brief`, which is this child's to write; volatile, so that it is written before exec or exit.
    // The write is of a structure that outlives it, to a pipe of the keeper's or, with -1, to nothing.
    unsafe {
        ptr::write_volatile(&mut brief.told, told);
        libc::syscall(libc::SYS_write, brief.report, ptr::from_ref(&told), TOLD_BYTES);
    }
}

/// Contains this process for good, at the last: nothing after this may need more than the program itself.
fn contain(brief: &mut Brief) -> Result<(), (SpawnStage, i32)> {
    // SAFETY: null, or what the keeper holds until the child has executed or ended.
    let Some(ready) = (unsafe { brief.containment.as_ref() }) else { return Ok(()) };
    let mut told = NOTHING;
    // SAFETY: this process was just cloned, has one thread and a descriptor table of its own by now, in which the
    // forker's numbers are free again but for the ruleset's.
    let applied = unsafe { ready.apply(RULESET, KERNEL, &mut told.seen) };
    applied.map_err(stage_of_step)?;
    tell(brief, told);
    Ok(())
}

/// Enters namespaces of its own, if any.
fn divide(brief: &Brief) -> Result<(), (SpawnStage, i32)> {
    // SAFETY: null, or what the keeper holds until the child has executed or ended.
    let Some(ready) = (unsafe { brief.containment.as_ref() }) else { return Ok(()) };
    // SAFETY: as in `contain`; what it is known as, where it stands and its root are its own since clone.
    unsafe { ready.enter(NAMESPACE) }.map_err(stage_of_step)
}

fn stage_of_step((step, errno): (Step, i32)) -> (SpawnStage, i32) {
    let stage = match step {
        Step::Preparation => SpawnStage::Containment,
        Step::Kernel => SpawnStage::KernelSocket,
        Step::Privileges => SpawnStage::Privileges,
        Step::Landlock => SpawnStage::Landlock,
        Step::Filter => SpawnStage::Filter,
        Step::Probe => SpawnStage::Probe,
        Step::Namespaces => SpawnStage::Namespaces,
    };
    (stage, errno)
}

pub(super) fn errno() -> i32 {
    // SAFETY: errno of the keeper's only thread, which stands still: ours to overwrite and read.
    unsafe { *libc::__errno_location() }
}

/// Returns only what failed.
fn prepare_and_execute(brief: &mut Brief) -> (SpawnStage, i32) {
    if brief.share_files && close_range(FIRST_FREE, libc::CLOSE_RANGE_UNSHARE) != 0 {
        return (SpawnStage::Stdio, errno());
    }
    // SAFETY: no pointers; setsid cannot fail in a process that was just forked.
    unsafe { libc::syscall(libc::SYS_setsid) };
    for standard in 0..3 {
        // SAFETY: no pointers; the table is this child's own, copied by close_range or by clone.
        if unsafe { libc::syscall(libc::SYS_dup3, CHILD_STDIO + standard, standard, 0) } < 0 {
            return (SpawnStage::Stdio, errno());
        }
    }
    // SAFETY: TIOCSCTTY takes an integer.
    if brief.terminal && unsafe { libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0) } < 0 {
        return (SpawnStage::Stdio, errno());
    }
    if !brief.cgroup_procs.is_null() && !join_cgroup(brief.cgroup_procs) {
        return (SpawnStage::Cgroup, errno());
    }
    if !cores::bind(&brief.cpus) {
        return (SpawnStage::Affinity, errno());
    }
    // Which takes more descriptors than its limits may leave.
    if let Err(failed) = divide(brief) {
        return failed;
    }
    if !set_rlimits(brief) {
        return (SpawnStage::Rlimit, errno());
    }
    if brief.change_user && !become_user(brief) {
        return (SpawnStage::Credentials, errno());
    }
    // SAFETY: a C string the keeper made for this spawn.
    if !brief.cwd.is_null() && unsafe { libc::syscall(libc::SYS_chdir, brief.cwd) } < 0 {
        return (SpawnStage::Cwd, errno());
    }
    // What is contained may not ask for it.
    if brief.held
        && let Err(errno) = stopped::submit()
    {
        return (SpawnStage::Measure, errno);
    }
    if let Err(failed) = contain(brief) {
        return failed;
    }
    // Seen as the program would see it: its user, its folder, its containment.
    if !brief.stdin_file.is_null() && !stdin::open(brief.stdin_file) {
        return (SpawnStage::StdinFile, errno());
    }
    let nothing_blocked = 0u64;
    // SAFETY: the mask is 8 bytes and outlives the call; the old one is not asked for. Signals that arrived
    // while all were blocked take their default effect here, before exec, as they would have a moment later.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            ptr::from_ref(&nothing_blocked),
            ptr::null::<u64>(),
            size_of::<u64>(),
        )
    };
    (SpawnStage::Exec, execute(brief))
}

fn join_cgroup(procs: *const c_char) -> bool {
    // SAFETY: a C string the keeper made for this spawn; the descriptor is this child's, and exec closes it.
    unsafe {
        let file =
            libc::syscall(libc::SYS_openat, libc::AT_FDCWD, procs, libc::O_WRONLY | libc::O_CLOEXEC, 0);
        file >= 0 && libc::syscall(libc::SYS_write, file, c"0".as_ptr(), 1) == 1
    }
}

fn set_rlimits(brief: &Brief) -> bool {
    for index in 0..brief.rlimits_len {
        // SAFETY: `index` is below the length of the keeper's slice; prlimit64 reads two u64 and, with pid 0,
        // changes this process only.
        let result = unsafe {
            let (resource, soft, hard) = *brief.rlimits.add(index);
            let limit = [soft, hard];
            libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), ptr::null::<u64>())
        };
        if result < 0 {
            return false;
        }
    }
    true
}

fn become_user(brief: &Brief) -> bool {
    // SAFETY: the raw calls change this process's only thread (libc's would signal the keeper's); the pointer
    // is to the keeper's slice of that length.
    unsafe {
        libc::syscall(libc::SYS_setgroups, brief.groups_len, brief.groups) == 0
            && libc::syscall(libc::SYS_setresgid, brief.gid, brief.gid, brief.gid) == 0
            && libc::syscall(libc::SYS_setresuid, brief.uid, brief.uid, brief.uid) == 0
    }
}

/// Tries every candidate as execvpe(3) does, but never hands a file without a magic number to a shell, and takes a
/// folder of the search path that may not be searched for one that has nothing.
fn execute(brief: &Brief) -> i32 {
    let mut denied = false;
    let mut last = libc::ENOENT;
    let mut candidate = brief.candidates;
    loop {
        // SAFETY: walks the keeper's NULL-terminated array; every entry is a C string, and so are those of
        // argv and env, which end with NULL as well.
        let hidden = unsafe {
            if (*candidate).is_null() {
                break;
            }
            libc::syscall(libc::SYS_execve, *candidate, brief.argv, brief.env);
            last = errno();
            let path = *candidate;
            candidate = candidate.add(1);
            let alone = candidate == brief.candidates.add(1) && (*candidate).is_null();
            last == libc::EACCES
                && !alone
                && libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, path, libc::F_OK) != 0
        };
        match last {
            libc::EACCES if hidden => last = libc::ENOENT,
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
