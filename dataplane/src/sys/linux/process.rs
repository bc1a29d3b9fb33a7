//! fork and exec without copying the keeper, and what `/proc` tells about its descendants.
//!
//! A child is cloned with `CLONE_VM | CLONE_VFORK` onto a stack of its own: it borrows the keeper's memory and
//! the keeper stands still until the child has executed or failed, so an error travels as two integers in that
//! memory. With `CLONE_FILES` it borrows the descriptor table too, and leaves it with one
//! `close_range(UNSHARE)`, which copies only what stays: a spawn costs the same with ten or ten thousand
//! descriptors held. Between clone and exec the child makes system calls and nothing else: no allocation, no
//! lock, no libc function that keeps state.

use crate::control::{SpawnFailure, SpawnStage};
use crate::sys::process::{Image, Stat};
use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};
use std::ffi::{c_char, c_int, c_void};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr;

/// ru_maxrss is in KiB.
pub(crate) const MAXRSS_UNITS_PER_KIB: u64 = 1;

/// The executable of this process, also after it was replaced on disk.
pub(crate) fn own_executable() -> io::Result<PathBuf> {
    Ok(PathBuf::from("/proc/self/exe"))
}

/// Where a child finds its standard descriptors, one after the other, in the table it shares with the keeper.
const CHILD_STDIO: RawFd = 3;
const STACK_BYTES: usize = 64 * 1024;
const GUARD_BYTES: usize = 4096;
/// A flag of clone3 alone: libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Forks children. Owns their stack, and descriptors 3, 4 and 5 of this process.
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

/// A NULL-terminated array of C strings.
#[derive(Debug, Default)]
struct Pointers(Vec<*const c_char>);

impl Pointers {
    /// Of NUL-terminated strings that stand one after the other.
    fn fill(&mut self, strings: &[u8]) {
        self.0.clear();
        let mut rest = strings;
        while let Some(end) = memchr::memchr(0, rest) {
            self.0.push(rest.as_ptr().cast());
            rest = &rest[end + 1..];
        }
        self.0.push(ptr::null());
    }

    /// Gives back what one enormous spawn took.
    fn shrink(&mut self) {
        self.0.clear();
        self.0.shrink_to(512);
    }
}

/// All a child needs, in memory it shares with the keeper.
struct Brief {
    argv: *const *const c_char,
    env: *const *const c_char,
    candidates: *const *const c_char,
    cwd: *const c_char,
    cgroup_procs: *const c_char,
    rlimits: *const (u32, u64, u64),
    rlimits_len: usize,
    groups: *const u32,
    groups_len: usize,
    uid: u32,
    gid: u32,
    change_user: bool,
    terminal: bool,
    share_files: bool,
    failed_stage: i32,
    failed_errno: i32,
}

impl Forker {
    /// Descriptors 3, 4 and 5 must be nobody's: [`take_over`] keeps them free.
    pub fn new() -> io::Result<Forker> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, 0.into())?;
        let forker = Forker {
            stack: Stack::new()?,
            null: rustix::io::fcntl_dupfd_cloexec(null, CHILD_STDIO + 3)?,
            share_files: close_range(RawFd::MAX, libc::CLOSE_RANGE_UNSHARE) == 0,
            clone3: cfg!(any(target_arch = "x86_64", target_arch = "aarch64")),
            argv: Pointers::default(),
            env: Pointers::default(),
            candidates: Pointers::default(),
            paths: Vec::new(),
            cgroup_procs: Vec::new(),
        };
        forker.park()?;
        Ok(forker)
    }

    /// Takes the places of a child's standard descriptors and lets go of what was there.
    fn park(&self) -> io::Result<()> {
        (CHILD_STDIO..CHILD_STDIO + 3).try_for_each(|number| duplicate_to(self.null.as_fd(), number))
    }

    /// Starts a child. When this returns its program runs, or there is no child and the failure says why.
    pub fn spawn(&mut self, image: &Image<'_>) -> Result<i32, SpawnFailure> {
        let placed = (CHILD_STDIO..).zip(image.stdio).try_for_each(|(number, end)| duplicate_to(end, number));
        let outcome = match placed {
            Ok(()) => self.execute(image),
            Err(error) => Err(failure(SpawnStage::Resources, error)),
        };
        // The keeper must not hold the child's ends: the kernel would never see their end of file.
        match self.park() {
            Ok(()) => outcome,
            Err(error) => outcome.and(Err(failure(SpawnStage::Resources, error))),
        }
    }

    fn execute(&mut self, image: &Image<'_>) -> Result<i32, SpawnFailure> {
        self.argv.fill(image.argv);
        self.env.fill(image.env);
        self.search(image);
        let cwd = image.cwd.map(terminated);
        let groups = image.credentials.map(|who| who.groups.as_slice()).unwrap_or_default();
        let mut brief = Brief {
            argv: self.argv.0.as_ptr(),
            env: self.env.0.as_ptr(),
            candidates: self.candidates.0.as_ptr(),
            cwd: cwd.as_ref().map_or(ptr::null(), |path| path.as_ptr().cast()),
            cgroup_procs: ptr::null(),
            rlimits: image.rlimits.as_ptr(),
            rlimits_len: image.rlimits.len(),
            groups: groups.as_ptr(),
            groups_len: groups.len(),
            uid: image.credentials.map_or(0, |who| who.uid),
            gid: image.credentials.map_or(0, |who| who.gid),
            change_user: image.credentials.is_some(),
            terminal: image.terminal,
            share_files: self.share_files,
            failed_stage: 0,
            failed_errno: 0,
        };
        let outcome = self.clone_and_wait(&mut brief, image.cgroup);
        self.argv.shrink();
        self.env.shrink();
        self.candidates.shrink();
        self.paths.shrink_to(16 * 1024);
        outcome
    }

    fn clone_and_wait(
        &mut self,
        brief: &mut Brief,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<i32, SpawnFailure> {
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
        let pid = pid as i32;
        // SAFETY: `brief` is ours; the child that wrote to it through the shared memory has executed or ended,
        // else clone would not have returned. Volatile, because the compiler saw no write.
        let (stage, errno) =
            unsafe { (ptr::read_volatile(&brief.failed_stage), ptr::read_volatile(&brief.failed_errno)) };
        if stage == 0 {
            return Ok(pid);
        }
        // A child that failed has nothing more to say than this.
        let _ = crate::sys::process::wait_for(pid);
        Err(SpawnFailure { stage: stage_of(stage), errno })
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

fn stage_of(number: i32) -> SpawnStage {
    use SpawnStage::{Cgroup, Credentials, Cwd, Exec, Fork, Keeper, Resources, Rlimit, Stdio};
    [Resources, Fork, Cgroup, Rlimit, Credentials, Cwd, Stdio, Exec, Keeper]
        .into_iter()
        .find(|stage| *stage as i32 == number)
        .unwrap_or(Fork)
}

fn terminated(path: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(path.len() + 1);
    whole.extend_from_slice(path);
    whole.push(0);
    whole
}

/// Makes `number` a close-on-exec duplicate of `fd`, whatever it was. Only for numbers the forker owns.
fn duplicate_to(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        return Ok(());
    }
    // SAFETY: dup3 takes no pointer, and 3, 4 and 5 belong to the forker: no OwnedFd has these numbers.
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

/// A stack for one child at a time, with a guard page below.
#[derive(Debug)]
struct Stack(*mut c_void);

impl Stack {
    fn new() -> io::Result<Stack> {
        let bytes = GUARD_BYTES + STACK_BYTES;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let low = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if low == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack(low);
        // SAFETY: lies within the mapping just made, which nobody else knows.
        let usable = unsafe { low.byte_add(GUARD_BYTES) };
        // SAFETY: as above.
        if unsafe { libc::mprotect(usable, STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    fn low(&self) -> *mut c_void {
        // SAFETY: within the mapping, which lives as long as `self`.
        unsafe { self.0.byte_add(GUARD_BYTES) }
    }

    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping, which lives as long as `self`.
        unsafe { self.0.byte_add(GUARD_BYTES + STACK_BYTES) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no child is on it, since clone returns only when it has left.
        unsafe { libc::munmap(self.0, GUARD_BYTES + STACK_BYTES) };
    }
}

fn clone_flags(brief: &Brief) -> c_int {
    let files = if brief.share_files { libc::CLONE_FILES } else { 0 };
    libc::CLONE_VM | libc::CLONE_VFORK | files
}

/// libc's clone, where clone3 is not to be had. A pid, or a negative errno.
fn clone(stack: &Stack, brief: &mut Brief) -> i64 {
    extern "C" fn enter(brief: *mut c_void) -> c_int {
        run_child(brief.cast())
    }
    let flags = clone_flags(brief) | libc::SIGCHLD;
    // SAFETY: the stack is mapped, 16-aligned at its top and unused; `brief` and all it points to outlive the
    // call, which returns only when the child has executed or exited (CLONE_VFORK), and nobody else runs.
    let pid = unsafe { libc::clone(enter, stack.top(), flags, ptr::from_mut(brief).cast()) };
    if pid < 0 { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { pid.into() }
}

/// clone3(2), which can bear a child into a cgroup. A pid, or a negative errno.
fn clone3(stack: &Stack, brief: &mut Brief, cgroup: Option<BorrowedFd<'_>>) -> i64 {
    // SAFETY: clone_args is plain numbers; zero means "not used" for each.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = clone_flags(brief) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.stack = stack.low() as u64;
    arguments.stack_size = STACK_BYTES as u64;
    if let Some(folder) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = folder.as_raw_fd() as u64;
    }
    raw_clone3(&arguments, brief)
}

#[cfg(target_arch = "x86_64")]
fn raw_clone3(arguments: &libc::clone_args, brief: *mut Brief) -> i64 {
    let result: i64;
    // SAFETY: the child starts on the mapped, unused stack that `arguments` names, with nothing of this frame,
    // and goes straight into `run_child`, which never returns. The parent goes on at `2:` once the child is
    // gone (CLONE_VFORK) with all its registers but rax, rcx and r11 as they were; memory is clobbered.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") brief,
            in("r13") run_child as extern "C" fn(*mut Brief) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn raw_clone3(arguments: &libc::clone_args, brief: *mut Brief) -> i64 {
    let result: i64;
    // SAFETY: the child starts on the mapped, unused stack that `arguments` names, with nothing of this frame,
    // and goes straight into `run_child`, which never returns. The parent goes on at `2:` once the child is
    // gone (CLONE_VFORK) with all its registers but x0 as they were; memory is clobbered.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") arguments as *const libc::clone_args => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x20") brief,
            in("x21") run_child as extern "C" fn(*mut Brief) -> !,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn raw_clone3(_: &libc::clone_args, _: *mut Brief) -> i64 {
    -i64::from(libc::ENOSYS)
}

/// The child's way from clone to exec. Runs in the keeper's memory while the keeper stands still.
extern "C" fn run_child(brief: *mut Brief) -> ! {
    // SAFETY: the parent made it and waits; nobody else touches it until this process has executed or ended.
    let brief = unsafe { &mut *brief };
    let (stage, errno) = prepare_and_execute(brief);
    // SAFETY: a field of `brief`, see above; volatile, so that it is written before the exit below.
    unsafe {
        ptr::write_volatile(&mut brief.failed_stage, stage as i32);
        ptr::write_volatile(&mut brief.failed_errno, errno);
    }
    loop {
        // SAFETY: ends this process without running anything of the keeper's.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    }
}

fn errno() -> i32 {
    // SAFETY: errno of the keeper's only thread, which stands still: ours to overwrite and read.
    unsafe { *libc::__errno_location() }
}

/// Returns only what failed.
fn prepare_and_execute(brief: &Brief) -> (SpawnStage, i32) {
    if brief.share_files && close_range(CHILD_STDIO + 3, libc::CLOSE_RANGE_UNSHARE) != 0 {
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
        let file = libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            procs,
            libc::O_WRONLY | libc::O_CLOEXEC,
            0,
        );
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

/// Tries every candidate as execvpe(3) does, but never hands a file without a magic number to a shell.
fn execute(brief: &Brief) -> i32 {
    let mut denied = false;
    let mut last = libc::ENOENT;
    let mut candidate = brief.candidates;
    loop {
        // SAFETY: walks the keeper's NULL-terminated array; every entry is a C string, and so are those of
        // argv and env, which end with NULL as well.
        unsafe {
            if (*candidate).is_null() {
                break;
            }
            libc::syscall(libc::SYS_execve, *candidate, brief.argv, brief.env);
            candidate = candidate.add(1);
        }
        last = errno();
        match last {
            libc::EACCES => denied = true,
            libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            _ => return last,
        }
    }
    if denied { libc::EACCES } else { last }
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
        number if number >= CHILD_STDIO + 3 => Ok(fd),
        _ => Ok(rustix::io::fcntl_dupfd_cloexec(&fd, CHILD_STDIO + 3)?),
    };
    owned.into_iter().map(moved).collect()
}

/// SIGCHLD and SIGTERM as something to poll; every other signal that would end this process is held off.
#[derive(Debug)]
pub struct Events(nix::sys::signalfd::SignalFd);

impl Events {
    /// Blocks the signals and opens the descriptor. Children are given an empty mask by the forker.
    pub fn new() -> io::Result<Events> {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
        use nix::sys::signalfd::{SfdFlags, SignalFd};
        let mut mask = SigSet::empty();
        for signal in Signal::iterator() {
            let fault = matches!(
                signal,
                Signal::SIGKILL
                    | Signal::SIGSTOP
                    | Signal::SIGSEGV
                    | Signal::SIGBUS
                    | Signal::SIGFPE
                    | Signal::SIGILL
                    | Signal::SIGABRT
                    | Signal::SIGTRAP
                    | Signal::SIGSYS
            );
            if fault {
                continue;
            }
            mask.add(signal);
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            // SAFETY: installs no handler. What was ignored here would stay ignored in every child.
            unsafe { sigaction(signal, &default) }?;
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

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A memfd with these bytes that nobody can change any more.
pub fn sealed_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let memory = rustix::fs::memfd_create("kairo-message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memory);
    io::Write::write_all(&mut file, bytes)?;
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
    list.rewind()?;
    numbers_of(list, into)
}

/// The children of a process, of all its threads. Nothing if it is gone.
pub fn threads_children(pid: i32, threads: u32, into: &mut Vec<i32>) {
    let list = |thread: i32, into: &mut Vec<i32>| -> io::Result<()> {
        numbers_of(&mut std::fs::File::open(format!("/proc/{pid}/task/{thread}/children"))?, into)
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

fn numbers_of(list: &mut std::fs::File, into: &mut Vec<i32>) -> io::Result<()> {
    let mut chunk = [0u8; 1024];
    let (mut number, mut digits) = (0i32, false);
    loop {
        let read = list.read(&mut chunk)?;
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
                libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal, ptr::null::<c_void>(), 0)
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

/// The other end of a PTY, whatever `/dev/pts` is mounted here.
pub(crate) fn open_terminal(master: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::pty::OpenptFlags::RDWR
        | rustix::pty::OpenptFlags::NOCTTY
        | rustix::pty::OpenptFlags::CLOEXEC;
    Ok(rustix::pty::ioctl_tiocgptpeer(master, flags)?)
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
