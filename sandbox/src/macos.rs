//! macOS: no cgroup, no Landlock, no seccomp; what there is instead is kqueue, setrlimit(2) and `sandbox-exec`.

use crate::ability::{Ability, Answer, Cgroup, Namespaces, Pipes, Rlimit};
use crate::profile::Resource;
use crate::seatbelt::PROGRAM;
use std::path::{Path, PathBuf};

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
        sandbox_exec: Path::new(PROGRAM).exists(),
        seccomp_user_notification: false,
        user_namespaces: absent(),
        namespaces: Namespaces { mount: absent(), network: absent(), user: false },
        no_new_privileges: false,
        cores_are_piped: false,
        exec_stop: Answer::Refused(
            "macOS has nothing that stops a program at exec for its parent".to_owned(),
        ),
        denied_calls: absent(),
        denied_files: absent(),
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

/// There are none.
pub(crate) fn try_namespaces(settings: &Answer) -> Namespaces {
    Namespaces { mount: settings.clone(), network: settings.clone(), user: false }
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

/// Nobody tells here what a program is denied.
pub mod denials {
    use crate::violation::Denied;
    use std::io;
    use std::os::fd::BorrowedFd;

    /// There are none to be heard of.
    #[derive(Debug)]
    pub enum Denials {}

    impl Denials {
        /// Begins to listen, which can't be done.
        pub fn open() -> io::Result<Denials> {
            Err(io::ErrorKind::Unsupported.into())
        }

        /// Readable while there is something to take.
        pub fn descriptor(&self) -> BorrowedFd<'_> {
            match *self {}
        }

        /// The next refusal.
        pub fn take(&mut self) -> io::Result<Option<Denied>> {
            match *self {}
        }
    }
}

/// A profile for `sandbox-exec`, which applies it to itself and becomes the program.
pub mod enforce {
    use crate::containment::{Containment, Finding, Owner, PROBES_MAX, Unready};
    use crate::links::{wherever_it_leads, without_links};
    use crate::seatbelt::Belt;
    use std::ffi::{CStr, CString};
    use std::io;

    /// Nobody is started with this.
    pub const MAKE: &str = "--make-user-namespace";

    /// There is none to be made. The exit code.
    pub fn hold_user_namespace() -> i32 {
        1
    }

    /// There is nothing that would have to be held.
    #[derive(Debug, Default)]
    pub struct Placeholders(());

    impl Placeholders {
        /// There is none.
        pub fn is_empty(&self) -> bool {
            true
        }
    }

    /// Nothing to remember.
    #[derive(Debug, Default)]
    pub struct Filters(());

    /// What a child is started with.
    #[derive(Debug)]
    pub struct Ready {
        profile: Option<CString>,
        finding: Finding,
    }

    impl Ready {
        /// Writes the profile, by where its paths lead now. Refuses whatever belongs to another system.
        pub fn new(
            containment: &Containment,
            _: Option<Owner<'_>>,
            _: &mut Filters,
        ) -> Result<Ready, Unready> {
            let Containment { landlock, filter, unprivileged, core_bytes: _, kernel: _, probes, belt, later } =
                containment;
            let of_another = landlock.is_some() || later.namespaces.is_some() || !filter.is_empty();
            if of_another || *unprivileged || !probes.is_empty() {
                return Err(io::Error::from(io::ErrorKind::Unsupported).into());
            }
            let Some(belt) = belt else {
                return Ok(Ready { profile: None, finding: Finding::default() });
            };
            let mut belt = belt.clone();
            belt.follow(|path| without_links(path).ok(), |path| Some(wherever_it_leads(path)));
            let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
            let text = belt.compile().map_err(invalid)?;
            let digest = Belt::digest(&text);
            // Bounded by what is compiled.
            let bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
            let finding = Finding { profile: Some((digest, bytes)), ..Finding::default() };
            let profile = CString::new(text).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
            Ok(Ready { profile: Some(profile), finding })
        }

        /// What `sandbox-exec` is given; none if nothing is contained by it.
        pub fn profile(&self) -> Option<&CStr> {
            self.profile.as_deref()
        }

        /// There are none.
        pub fn placeholders(&mut self) -> Placeholders {
            Placeholders::default()
        }

        /// What was written. Nothing is tried inside: only `sandbox-exec` is there before the program is.
        pub fn finding(&self, _: &[i32; PROBES_MAX]) -> Finding {
            self.finding.clone()
        }
    }
}
