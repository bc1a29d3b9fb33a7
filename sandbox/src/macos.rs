//! macOS: no cgroup, no Landlock, no seccomp; what there is instead is kqueue and setrlimit(2).

use crate::ability::{Ability, Answer, Cgroup, Pipes, Rlimit};
use crate::profile::Resource;
use std::path::PathBuf;

/// The largest pipe XNU makes, bytes.
const PIPE_BYTES_MAX: u64 = 64 * 1024;

pub(crate) fn probe() -> Ability {
    let absent = || Answer::Refused("macOS has none".to_owned());
    Ability {
        system: "macOS".to_owned(),
        // SAFETY: takes nothing, cannot fail.
        uid: unsafe { libc::geteuid() },
        landlock_abi: 0,
        seccomp_filter: false,
        seccomp_user_notification: false,
        user_namespaces: absent(),
        no_new_privileges: false,
        cores_are_piped: false,
        cgroup: Cgroup::default(),
        pidfd: false,
        peer_pidfd: false,
        subreaper: false,
        children_listed: true,
        io_uring: absent(),
        memfd_seals: false,
        splice: false,
        pipes: Pipes { bytes_max: PIPE_BYTES_MAX, user_pages_soft: 0 },
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
    let number = match resource {
        Resource::AddressSpace => libc::RLIMIT_AS,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::CpuSeconds => libc::RLIMIT_CPU,
        Resource::FileSize => libc::RLIMIT_FSIZE,
        Resource::Descriptors => libc::RLIMIT_NOFILE,
        Resource::Processes => libc::RLIMIT_NPROC,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
        Resource::Stack => libc::RLIMIT_STACK,
    };
    u32::try_from(number).ok()
}

/// There are no cgroups.
pub(crate) fn own_cgroup() -> Option<PathBuf> {
    None
}

fn rlimit(name: &str, number: libc::c_int) -> Rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the out-pointer is to a local that outlives the call.
    unsafe { libc::getrlimit(number, &mut limit) };
    let value = |raw: libc::rlim_t| (raw != libc::RLIM_INFINITY).then_some(raw);
    Rlimit { name: name.to_owned(), soft: value(limit.rlim_cur), hard: value(limit.rlim_max) }
}

/// Nothing can be applied here yet: a containment with anything in it is refused.
pub mod enforce {
    use crate::containment::{Containment, Finding, PROBES_MAX};
    use std::io;

    /// Nothing to remember.
    #[derive(Debug, Default)]
    pub struct Filters(());

    /// Nothing to apply.
    #[derive(Debug)]
    pub struct Ready(());

    impl Ready {
        /// Refuses whatever would have to be enforced.
        pub fn new(containment: &Containment, _: &mut Filters) -> io::Result<Ready> {
            let Containment { landlock, filter, unprivileged, core_bytes: _, kernel, probes } = containment;
            match landlock.is_none() && filter.is_empty() && !unprivileged && !kernel && probes.is_empty() {
                true => Ok(Ready(())),
                false => Err(io::ErrorKind::Unsupported.into()),
            }
        }

        /// Nothing was met.
        pub fn finding(&self, _: &[i32; PROBES_MAX]) -> Finding {
            Finding::default()
        }
    }
}
