//! Linux: asks the kernel, `/proc` and the cgroup hierarchy; what is enforced is in `enforce`.

pub mod denials;
pub mod enforce;
mod mounts;
mod namespaces;
mod networks;
mod paths;
mod placeholder;

use crate::ability::{Ability, Answer, Cgroup, LEAF, Namespaces, Pipes, Rlimit, is_managed};
use crate::profile::Resource;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;

/// Asks for the ABI instead of making a ruleset.
const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
/// Linux 6.5, newer than some libcs.
const SO_PEERPIDFD: libc::c_int = 77;
/// What root takes to be root in a user namespace of its own, too (user_namespaces(7)).
const CAP_SETFCAP: u32 = 31;
/// What limits can be made of.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

pub(crate) fn probe() -> Ability {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    let user_namespaces = user_namespaces();
    Ability {
        system: format!("Linux {}", read("/proc/sys/kernel/osrelease")),
        uid: effective_user(),
        landlock_abi: landlock_abi(),
        seccomp_filter: !actions.is_empty(),
        sandbox_exec: false,
        seccomp_user_notification: actions.split(' ').any(|action| action == "user_notif"),
        namespaces: Namespaces {
            mount: user_namespaces.clone(),
            network: user_namespaces.clone(),
            user: true,
        },
        user_namespaces,
        no_new_privileges: true,
        cores_are_piped: read("/proc/sys/kernel/core_pattern").starts_with('|'),
        exec_stop: exec_stop(),
        denied_calls: denials::of_calls(),
        denied_files: denials::of_files(landlock_abi()),
        cgroup: cgroup(),
        pidfd: pidfd(),
        peer_pidfd: peer_pidfd(),
        // Since Linux 3.4.
        subreaper: true,
        children_listed: Path::new("/proc/thread-self/children").exists(),
        io_uring: io_uring(),
        memfd_seals: memfd_seals(),
        splice: splice(),
        pipes: Pipes {
            bytes_max: read("/proc/sys/fs/pipe-max-size").parse().unwrap_or(1 << 20),
            user_pages_soft: read("/proc/sys/fs/pipe-user-pages-soft").parse().unwrap_or(16_384),
        },
        rlimits: [
            ("descriptors", libc::RLIMIT_NOFILE),
            ("processes", libc::RLIMIT_NPROC),
            ("lockedBytes", libc::RLIMIT_MEMLOCK),
        ]
        .map(|(name, number)| rlimit(name, number))
        .into(),
    }
}

/// RLIMIT_* of a resource.
pub(crate) fn rlimit_number(resource: Resource) -> Option<u32> {
    Some(match resource {
        Resource::AddressSpace => libc::RLIMIT_AS,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::CpuSeconds => libc::RLIMIT_CPU,
        Resource::FileSize => libc::RLIMIT_FSIZE,
        Resource::Descriptors => libc::RLIMIT_NOFILE,
        Resource::Processes => libc::RLIMIT_NPROC,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        Resource::Stack => libc::RLIMIT_STACK,
    })
}

/// Our folder in the unified hierarchy, as it is mounted here; the one above if we have stepped aside.
pub(crate) fn own_cgroup() -> Option<PathBuf> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut mounts = mounts::Mounts::default();
    let mounts = mounts.now().ok()?;
    mounts.iter().filter(|mount| mount.kind == "cgroup2").find_map(|mount| {
        let mut folder = mount.point.join(Path::new(own).strip_prefix(&mount.root).ok()?);
        if folder.ends_with(LEAF) {
            folder.pop();
        }
        folder.join("cgroup.procs").exists().then_some(folder)
    })
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn effective_user() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

fn writable(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: a C string that outlives the call. AT_EACCESS: as the effective user, who will write.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) == 0 }
}

fn landlock_abi() -> u32 {
    // SAFETY: with this flag no attribute is read: the pointer is null and the size 0 by contract.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<u8>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}

/// As far as the settings tell: a container may forbid what the kernel allows, which then is found out at the spawn.
fn exec_stop() -> Answer {
    match read("/proc/sys/kernel/yama/ptrace_scope").as_str() {
        "3" => {
            Answer::Refused("no program may be stopped at exec (kernel.yama.ptrace_scope is 3)".to_owned())
        }
        "2" if effective_user() != 0 => {
            Answer::Refused("only root may stop a program at exec (kernel.yama.ptrace_scope is 2)".to_owned())
        }
        _ => Answer::Allowed,
    }
}

fn user_namespaces() -> Answer {
    let refused = |path: &str, means: &dyn Fn(&str) -> bool, reason: &str| {
        let value = read(path);
        means(&value).then(|| Answer::Refused(format!("{reason} ({path} is {value})")))
    };
    let is = |wanted: &'static str| move |value: &str| value == wanted;
    if !Path::new("/proc/self/ns/user").exists() {
        return Answer::Refused("the kernel has none".to_owned());
    }
    refused("/proc/sys/user/max_user_namespaces", &is("0"), "none may be created")
        .or_else(|| refused("/proc/sys/kernel/unprivileged_userns_clone", &is("0"), "only root may"))
        .or_else(|| {
            let path = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
            refused(path, &is("1"), "AppArmor restricts them")
        })
        .unwrap_or(Answer::Allowed)
}

/// Settings tell half of it: containers and security modules refuse by call, so each is tried.
pub(crate) fn try_namespaces(settings: &Answer) -> Namespaces {
    let (user, (mount, network)) = match namespaces::try_out(false) {
        tried @ (0, _) => (false, tried),
        _ => (true, namespaces::try_out(true)),
    };
    let maps_itself = !user || effective_user() != 0 || holds_capability(CAP_SETFCAP);
    let answer = |errno: i32| match (errno, settings) {
        (0, _) if maps_itself => Answer::Allowed,
        (0, _) => Answer::Refused("root without CAP_SETFCAP isn't known in a user namespace".to_owned()),
        (_, Answer::Refused(reason)) => Answer::Refused(reason.clone()),
        (errno, _) => Answer::Refused(format!("making one fails: {}", io::Error::from_raw_os_error(errno))),
    };
    Namespaces { mount: answer(mount), network: answer(network), user }
}

fn holds_capability(number: u32) -> bool {
    let status = read("/proc/self/status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> number & 1 == 1)
}

fn cgroup() -> Cgroup {
    let Some(folder) = own_cgroup() else { return Cgroup::default() };
    let offered = read(folder.join("cgroup.controllers"));
    let handed = read(folder.join("cgroup.subtree_control"));
    let has = |list: &str, name: &str| list.split(' ').any(|listed| listed == name);
    let writable = writable(&folder) && writable(&folder.join("cgroup.procs"));
    // Processes in a cgroup keep it from handing controllers down, but for the root and for what can step aside.
    let root = !folder.join("cgroup.type").exists();
    let free = root
        || (members_are_ours(&folder)
            && (!is_managed(&folder) || read(folder.join("cgroup.procs")).is_empty()));
    let (usable, withheld): (Vec<&str>, Vec<&str>) = CONTROLLERS
        .into_iter()
        .filter(|name| has(&offered, name))
        .partition(|name| writable && (has(&handed, name) || free));
    Cgroup {
        writable,
        kill: root || folder.join("cgroup.kill").exists(),
        controllers: usable.into_iter().map(str::to_owned).collect(),
        withheld: (writable && !withheld.is_empty()).then(|| {
            let why = if is_managed(&folder) { "the service manager puts us" } else { "other processes are" };
            format!("{why} in the cgroup {}: start Kairo in one of its own", folder.display())
        }),
        folder: Some(folder),
    }
}

/// Only this process, its parents' line excluded, and what it started.
fn members_are_ours(folder: &Path) -> bool {
    let me = std::process::id().to_string();
    let descends = |pid: &str| {
        let mut ancestor = pid.to_owned();
        while ancestor != me {
            let stat = read(format!("/proc/{ancestor}/stat"));
            // state, then the parent, after the name in parentheses.
            let parent =
                stat.rsplit_once(')').and_then(|(_, rest)| rest.split(' ').nth(2).map(str::to_owned));
            match parent {
                Some(parent) if parent != "0" && parent != "1" => ancestor = parent,
                _ => return false,
            }
        }
        true
    };
    read(folder.join("cgroup.procs")).lines().all(descends)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call that returned it opened it for us; nobody else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn pidfd() -> bool {
    // SAFETY: takes no pointer.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) }).is_ok()
}

fn peer_pidfd() -> bool {
    let Ok((ours, _theirs)) = std::os::unix::net::UnixStream::pair() else { return false };
    let mut pidfd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both out-pointers are to locals that outlive the call, of the size the option has.
    let got = unsafe {
        let (value, len) = (ptr::from_mut(&mut pidfd).cast(), &raw mut len);
        libc::getsockopt(ours.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, value, len)
    };
    got == 0 && owned(pidfd.into()).is_ok()
}

fn io_uring() -> Answer {
    // SAFETY: without parameters the call can only fail: EFAULT if it may be used at all.
    unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, ptr::null_mut::<u8>()) };
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EFAULT | libc::EINVAL) => Answer::Allowed,
        Some(libc::ENOSYS) => Answer::Refused("the kernel has none".to_owned()),
        Some(libc::EPERM) => Answer::Refused("forbidden by a setting or a container".to_owned()),
        other => Answer::Refused(format!("errno {}", other.unwrap_or_default())),
    }
}

fn memfd_seals() -> bool {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string literal.
    let Ok(memory) = owned(unsafe { libc::memfd_create(c"kairo-probe".as_ptr(), flags) }.into()) else {
        return false;
    };
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE;
    // SAFETY: takes no pointer; the descriptor is open.
    unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_ADD_SEALS, seals) == 0 }
}

fn splice() -> bool {
    // SAFETY: no offsets; with descriptors that don't exist it can only fail: EBADF if it may be used.
    unsafe { libc::splice(-1, ptr::null_mut(), -1, ptr::null_mut(), 1, 0) };
    io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
}

fn rlimit(name: &str, number: libc::__rlimit_resource_t) -> Rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the out-pointer is to a local that outlives the call.
    unsafe { libc::getrlimit(number, &mut limit) };
    let value = |raw: libc::rlim_t| (raw != libc::RLIM_INFINITY).then_some(raw);
    Rlimit { name: name.to_owned(), soft: value(limit.rlim_cur), hard: value(limit.rlim_max) }
}
