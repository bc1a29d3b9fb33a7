//! A containment on its way into a child: made ready in the keeper, applied between fork and exec.
//!
//! ```text
//!  keeper   ready(): ruleset ◀─ rules, paths opened by O_PATH and let go; filter compiled; C strings; denied paths found
//!  child    enter(): namespaces, before it becomes another user and goes to its folder
//!           apply(): kernel ▶ no_new_privs ▶ landlock ▶ capabilities ▶ probes of files ▶ seccomp ▶ probes of calls
//! ```
//!
//! A child may run in the keeper's memory, so it makes system calls and nothing else: no allocation, no lock, no libc
//! function that keeps state. Invariant: `apply` returns an error unless every part of the containment is in force
//! and every probe met what it expected.

use super::namespaces::{Settled, Supply};
use super::{owned, paths};
use crate::containment::{
    Containment, Finding, KERNEL_DESCRIPTOR, Owner, PROBES_MAX, Probe, Ruleset, Unready, rights,
};
use crate::filter::{Architecture, Groups, Instruction, Program, compile, compile_loud};
use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::rc::Rc;

pub use super::namespaces::{MAKE, hold_user_namespace};
pub use super::placeholder::Placeholders;

/// Landlock's numbers (linux/landlock.h).
const RULE_PATH_BENEATH: libc::c_int = 1;
const RULE_NET_PORT: libc::c_int = 2;
const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
const SECCOMP_FILTER_FLAG_LOG: libc::c_uint = 1 << 1;
/// Denials after exec are recorded too, and the ABI that knows it.
const LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON: u32 = 1 << 1;
const ABI_LOGS: u32 = 7;
/// linux/capability.h, _LINUX_CAPABILITY_VERSION_3.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// One more than the highest capability there can be.
const CAPABILITIES_MAX: libc::c_int = 64;

/// `struct landlock_ruleset_attr`.
#[repr(C)]
struct RulesetAttributes {
    files: u64,
    ports: u64,
    scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    rights: u64,
    below: RawFd,
}

/// `struct landlock_net_port_attr`.
#[repr(C)]
struct NetPort {
    rights: u64,
    port: u64,
}

/// Where something failed, in the keeper or in the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    /// Making the ruleset or the filter, in the keeper.
    Preparation = 1,
    /// Passing the connection to the kernel on.
    Kernel = 2,
    /// Giving up rights.
    Privileges = 3,
    /// Entering the ruleset.
    Landlock = 4,
    /// Installing the filter.
    Filter = 5,
    /// A probe met what it should not have.
    Probe = 6,
    /// Entering namespaces, or mounting in them.
    Namespaces = 7,
}

/// What is made once and used by many: filters compiled so far, of which few differ, and what namespaces take.
#[derive(Debug, Default)]
pub struct Filters {
    compiled: HashMap<(Groups, bool), Rc<Compiled>>,
    supply: Supply,
}

#[derive(Debug)]
struct Compiled {
    program: Program,
    digest: String,
}

impl Filters {
    fn of(&mut self, groups: Groups, loud: bool) -> io::Result<Rc<Compiled>> {
        if let Some(known) = self.compiled.get(&(groups, loud)) {
            return Ok(Rc::clone(known));
        }
        let architecture = Architecture::own().ok_or(io::ErrorKind::Unsupported)?;
        let program = if loud { compile_loud(groups, architecture) } else { compile(groups, architecture) };
        let program = program.map_err(io::Error::other)?;
        let compiled = Rc::new(Compiled { digest: program.digest(), program });
        self.compiled.insert((groups, loud), Rc::clone(&compiled));
        Ok(compiled)
    }
}

/// A containment that is ready to be applied.
#[derive(Debug)]
pub struct Ready {
    ruleset: Option<OwnedFd>,
    filter: Option<Rc<Compiled>>,
    /// Installed over it after the probes, which nobody wants to hear of.
    loud: Option<Rc<Compiled>>,
    log: bool,
    namespaces: Option<Settled>,
    unprivileged: bool,
    kernel: bool,
    probes: Vec<(Probe, CString)>,
    finding: Finding,
}

impl Ready {
    /// Makes a containment ready for a child that will be `owner`, or who we are. Opens what its paths name and lets go of it
    /// again; keeps the ruleset, and a lock on each placeholder.
    pub fn new(
        containment: &Containment,
        owner: Option<Owner<'_>>,
        filters: &mut Filters,
    ) -> Result<Ready, Unready> {
        if containment.belt.is_some() || containment.probes.len() > PROBES_MAX {
            return Err(io::Error::from(io::ErrorKind::Unsupported).into());
        }
        let mut finding = Finding { abi: super::landlock_abi(), ..Finding::default() };
        let ruleset =
            containment.landlock.as_ref().map(|rules| ruleset(rules, &mut finding.missing)).transpose()?;
        let filter =
            (!containment.filter.is_empty()).then(|| filters.of(containment.filter, false)).transpose()?;
        let loud = filter.is_some() && containment.later.log;
        let loud = loud.then(|| filters.of(containment.filter, true)).transpose()?;
        finding.filter =
            filter.as_ref().map(|filter| (filter.digest.clone(), filter.program.instructions.len() as u32));
        let namespaces = settle(containment, owner, filters)?;
        finding.mounted = namespaces.as_ref().map(Settled::mounted);
        let left = |path: &[u8]| {
            let denied = containment.later.namespaces.iter().flat_map(|namespaces| &namespaces.denied);
            let left = finding.mounted.iter().flat_map(|mounted| &mounted.left);
            let mut left = left.filter_map(|place| denied.clone().nth(*place as usize));
            left.any(|(left, _)| left == path)
        };
        let with_path = |probe: &Probe| {
            // Nothing is at an empty path, which is what should be met where nothing is kept.
            let path = probe.path().filter(|path| !left(path)).unwrap_or_default();
            Ok((probe.clone(), CString::new(path)?))
        };
        Ok(Ready {
            ruleset,
            filter,
            loud,
            log: containment.later.log && finding.abi >= ABI_LOGS,
            // Who has made a user namespace has every capability in it.
            unprivileged: containment.unprivileged || namespaces.as_ref().is_some_and(Settled::takes_user),
            kernel: containment.kernel,
            probes: containment.probes.iter().map(with_path).collect::<io::Result<_>>()?,
            namespaces,
            finding,
        })
    }

    /// A namespace that is there already, to be put where [`Ready::enter`] is told to find it.
    pub fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.namespaces.as_ref().and_then(Settled::there)
    }

    /// What has to be held as long as anybody lives who is contained so.
    pub fn placeholders(&mut self) -> Placeholders {
        self.namespaces.as_mut().map(Settled::placeholders).unwrap_or_default()
    }

    /// Enters namespaces of the child's own: before it becomes another user, who may not, and before it goes to its
    /// folder, which may have to be found anew. `there` is the number its [namespace](Ready::namespace) has in the child.
    ///
    /// # Safety
    /// As for [`Ready::apply`].
    pub unsafe fn enter(&self, there: RawFd) -> Result<(), (Step, i32)> {
        let Some(namespaces) = &self.namespaces else { return Ok(()) };
        // SAFETY: the same is asked of the caller.
        unsafe { namespaces.enter(there) }.map_err(|errno| (Step::Namespaces, errno))
    }

    /// The ruleset, to be put where [`Ready::apply`] is told to find it.
    pub fn ruleset(&self) -> Option<BorrowedFd<'_>> {
        self.ruleset.as_ref().map(AsFd::as_fd)
    }

    /// What was met, with what the probes saw.
    pub fn finding(&self, seen: &[i32; PROBES_MAX]) -> Finding {
        Finding { probes: seen[..self.probes.len()].to_vec(), ..self.finding.clone() }
    }

    /// Contains the calling process, for good. `ruleset` and `kernel` are the numbers its ruleset and its
    /// connection to the kernel have there.
    ///
    /// # Safety
    /// For a process that was just cloned and is about to exec: it must be the only thread of its descriptor table and
    /// credentials, and [`KERNEL_DESCRIPTOR`] must be nobody's there.
    pub unsafe fn apply(
        &self,
        ruleset: RawFd,
        kernel: RawFd,
        seen: &mut [i32; PROBES_MAX],
    ) -> Result<(), (Step, i32)> {
        if self.kernel {
            pass_on(kernel).map_err(|errno| (Step::Kernel, errno))?;
        }
        // SAFETY: prctl with integers only, for this task alone.
        let set = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        if set != 0 {
            return Err((Step::Privileges, errno()));
        }
        if self.ruleset.is_some() {
            let flags = if self.log { LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON } else { 0 };
            // SAFETY: integers only; a task's credentials are its own, whatever memory it shares.
            let entered = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, flags) };
            if entered != 0 {
                return Err((Step::Landlock, errno()));
            }
        }
        if self.unprivileged {
            drop_capabilities().map_err(|errno| (Step::Privileges, errno))?;
        }
        self.probe(seen, false)?;
        if let Some(filter) = &self.filter {
            install(&filter.program.instructions, 0).map_err(|errno| (Step::Filter, errno))?;
        }
        self.probe(seen, true)?;
        if let Some(loud) = &self.loud {
            let flags = SECCOMP_FILTER_FLAG_LOG;
            install(&loud.program.instructions, flags).map_err(|errno| (Step::Filter, errno))?;
        }
        Ok(())
    }

    fn probe(&self, seen: &mut [i32; PROBES_MAX], filtered: bool) -> Result<(), (Step, i32)> {
        for ((probe, path), seen) in self.probes.iter().zip(seen) {
            if of_the_filter(probe) != filtered {
                continue;
            }
            let (met, expected) = look(probe, path);
            *seen = met;
            if !expected {
                return Err((Step::Probe, met));
            }
        }
        Ok(())
    }
}

fn of_the_filter(probe: &Probe) -> bool {
    !matches!(probe, Probe::NoNewPrivileges | Probe::Capabilities) && probe.path().is_none()
}

/// Namespaces, as far as there are to be any.
fn settle(
    containment: &Containment,
    owner: Option<Owner<'_>>,
    filters: &mut Filters,
) -> Result<Option<Settled>, Unready> {
    let Some(namespaces) = &containment.later.namespaces else { return Ok(None) };
    let settled = Settled::new(namespaces, containment.landlock.as_ref(), owner, &mut filters.supply);
    settled.map(Some).map_err(Unready::Denied)
}

/// What a probe sees, and whether that is as it should be.
fn look(probe: &Probe, path: &CString) -> (i32, bool) {
    let failed = |result: libc::c_long| if result < 0 { errno() } else { 0 };
    // SAFETY: paths are C strings that outlive the call; everything else is integers or null. What would be made if a
    // protection were missing is a descriptor of a process that is then ended.
    unsafe {
        match probe {
            Probe::NoNewPrivileges => {
                let set = libc::syscall(libc::SYS_prctl, libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) as i32;
                (set, set == 1)
            }
            Probe::FilterMode => {
                let mode = libc::syscall(libc::SYS_prctl, libc::PR_GET_SECCOMP, 0, 0, 0, 0) as i32;
                (mode, mode == 2)
            }
            Probe::Capabilities => {
                let header = [CAPABILITY_VERSION, 0];
                let mut sets = [0u32; 6];
                let got = libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr());
                let any = sets.iter().fold(0, |any, set| any | set);
                (any.cast_signed(), got == 0 && any == 0)
            }
            Probe::Unchanged(_) => {
                let met =
                    failed(libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, path.as_ptr(), libc::W_OK));
                (met, matches!(met, libc::EROFS | libc::EACCES | libc::ENOENT | libc::EPERM))
            }
            Probe::NoRoute => no_route(),
            Probe::Read(_) | Probe::Write(_) | Probe::Hidden(_) => {
                let access = if matches!(probe, Probe::Write(_)) { libc::O_WRONLY } else { libc::O_RDONLY };
                let flags = access | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
                let met = failed(libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0));
                // Where it isn't there, or isn't this user's, there is nothing to be seen.
                (met, matches!(met, libc::EACCES | libc::ENOENT | libc::EPERM | libc::EROFS))
            }
            Probe::PacketSocket => socket(libc::AF_PACKET, libc::SOCK_RAW),
            Probe::InternetSocket => socket(libc::AF_INET, libc::SOCK_STREAM),
            Probe::UnixSocket => socket(libc::AF_UNIX, libc::SOCK_STREAM),
            Probe::Ring => {
                let met = failed(libc::syscall(libc::SYS_io_uring_setup, 0, ptr::null::<u8>()));
                (met, met == libc::EPERM)
            }
            // Without a filter there would be no such descriptor, and no such process.
            Probe::TerminalInput => {
                let met = failed(libc::syscall(libc::SYS_ioctl, -1, libc::TIOCSTI, 0));
                (met, met == libc::EPERM)
            }
            Probe::Trace => {
                let met = failed(libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, 0, 0, 0));
                (met, met == libc::EPERM)
            }
        }
    }
}

fn socket(family: libc::c_int, kind: libc::c_int) -> (i32, bool) {
    // SAFETY: integers only.
    let made = unsafe { libc::syscall(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, 0) };
    let met = if made < 0 { errno() } else { 0 };
    (met, met == libc::EACCES)
}

/// Connecting by UDP sends nothing: it only looks for a way, here to an address that is nobody's (RFC 5737).
fn no_route() -> (i32, bool) {
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 9u16.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([192, 0, 2, 1]) },
        sin_zero: [0; 8],
    };
    // SAFETY: the address outlives the call, which only reads it, and the size is its own. The descriptor is this child's, and
    // exec closes it.
    let connected = unsafe {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let socket = libc::syscall(libc::SYS_socket, libc::AF_INET, kind, 0);
        if socket < 0 {
            socket
        } else {
            let (to, size) = (ptr::from_ref(&to), size_of::<libc::sockaddr_in>());
            libc::syscall(libc::SYS_connect, socket, to, size)
        }
    };
    let met = if connected < 0 { errno() } else { 0 };
    (met, matches!(met, libc::ENETUNREACH | libc::EACCES))
}

fn errno() -> i32 {
    // SAFETY: errno of the only thread that runs in this memory.
    unsafe { *libc::__errno_location() }
}

/// Makes the one layer there will be.
fn ruleset(rules: &Ruleset, missing: &mut Vec<u32>) -> io::Result<OwnedFd> {
    let attributes = RulesetAttributes { files: rules.files, ports: rules.ports, scopes: rules.scopes };
    // Older kernels take a longer structure if the rest of it is zero.
    // SAFETY: the structure outlives the call, and the size is its own.
    let made = unsafe {
        let (attributes, size) = (ptr::from_ref(&attributes), size_of::<RulesetAttributes>());
        libc::syscall(libc::SYS_landlock_create_ruleset, attributes, size, 0)
    };
    let ruleset = owned(made)?;
    for (place, (path, granted)) in (0u32..).zip(&rules.below) {
        let Ok(below) = paths::open(Path::new(OsStr::from_bytes(path)), granted & rights::CHANGES == 0)
        else {
            // What can't be found, whyever, grants nothing.
            missing.push(place);
            continue;
        };
        let rights = if is_folder(&below)? { *granted } else { granted & rights::OF_FILES };
        if rights == 0 {
            continue;
        }
        let rule = PathBeneath { rights, below: below.as_raw_fd() };
        add(&ruleset, RULE_PATH_BENEATH, ptr::from_ref(&rule).cast())?;
    }
    for (port, rights) in &rules.on {
        let rule = NetPort { rights: *rights, port: (*port).into() };
        add(&ruleset, RULE_NET_PORT, ptr::from_ref(&rule).cast())?;
    }
    Ok(ruleset)
}

fn add(ruleset: &OwnedFd, kind: libc::c_int, rule: *const libc::c_void) -> io::Result<()> {
    // SAFETY: callers hand in a structure of the kind they name, which outlives the call.
    match unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), kind, rule, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn is_folder(below: &OwnedFd) -> io::Result<bool> {
    // SAFETY: all zeroes is a value of this structure, which is plain numbers.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the out-pointer is to a local that outlives the call.
    match unsafe { libc::fstat(below.as_raw_fd(), &mut found) } {
        0 => Ok(found.st_mode & libc::S_IFMT == libc::S_IFDIR),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts a descriptor where a contained child finds its kernel, open across exec.
fn pass_on(kernel: RawFd) -> Result<(), i32> {
    // SAFETY: integers only; nobody's descriptor has that number (see `apply`).
    match unsafe { libc::syscall(libc::SYS_dup3, kernel, KERNEL_DESCRIPTOR, 0) } {
        0.. => Ok(()),
        _ => Err(errno()),
    }
}

/// No capability is left, and none can come back by exec.
fn drop_capabilities() -> Result<(), i32> {
    // SAFETY: prctl with integers only; capset reads two arrays of plain numbers that outlive the call.
    unsafe {
        for capability in 0..CAPABILITIES_MAX {
            match libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) {
                0 => {}
                // Who has no right to give up has nothing to gain: no_new_privs sees to that.
                _ if errno() == libc::EPERM => break,
                // Past the last one.
                _ if errno() == libc::EINVAL => break,
                _ => return Err(errno()),
            }
        }
        // Unknown before Linux 4.3.
        libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        let (header, none) = ([CAPABILITY_VERSION, 0], [0u32; 6]);
        match libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) {
            0 => Ok(()),
            _ => Err(errno()),
        }
    }
}

/// `struct sock_fprog`.
#[repr(C)]
struct FilterProgram {
    len: u16,
    instructions: *const Instruction,
}

fn install(instructions: &[Instruction], flags: libc::c_uint) -> Result<(), i32> {
    let program = FilterProgram { len: instructions.len() as u16, instructions: instructions.as_ptr() };
    // SAFETY: both structures outlive the call, and an `Instruction` is laid out as a `sock_filter`.
    let installed =
        unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, ptr::from_ref(&program)) };
    match installed {
        0 => Ok(()),
        _ => Err(errno()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seatbelt::Belt;

    #[test]
    fn what_another_system_would_have_to_apply_is_refused() {
        let belted = Containment { belt: Some(Belt::default()), ..Containment::default() };
        let refused = Ready::new(&belted, None, &mut Filters::default()).map(|_| ()).unwrap_err();
        assert!(matches!(refused, Unready::Other(error) if error.kind() == io::ErrorKind::Unsupported));
        assert!(Ready::new(&Containment::default(), None, &mut Filters::default()).is_ok());
    }
}
