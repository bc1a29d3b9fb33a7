//! What this machine can enforce, found by asking it.
//!
//! Probing changes nothing: descriptors opened for it are closed, no file is written, and the one process it takes (for
//! namespaces) is gone before it returns. The result is plain data; a test makes up any machine it likes. What a finding means for a user is said in
//! [`report`](crate::report).

use super::platform;
use crate::filter::Architecture;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Everything probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ability {
    /// Operating system and release, `Linux 6.12.0`.
    pub system: String,
    /// Effective user of the prober.
    pub uid: u32,
    /// Landlock's ABI number; 0 where there is no Landlock.
    pub landlock_abi: u32,
    /// seccomp filters can be installed.
    pub seccomp_filter: bool,
    /// Programs can be started in a sandbox of macOS' (sandbox-exec).
    pub sandbox_exec: bool,
    /// A supervisor can answer for a filtered call (SECCOMP_RET_USER_NOTIF).
    pub seccomp_user_notification: bool,
    /// An ordinary user may create user namespaces, as far as the settings tell.
    pub user_namespaces: Answer,
    /// Namespaces a child can be given.
    pub namespaces: Namespaces,
    /// The right to gain rights can be taken away (PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
    /// Cores go to a program, whatever the limit says, unless it is 1 (core(5)).
    pub cores_are_piped: bool,
    /// A child can be stopped between exec and its first instruction, so that what it executes can be read.
    pub exec_stop: Answer,
    /// System calls that a filter denies can be heard of.
    pub denied_calls: Answer,
    /// Accesses that Landlock denies can be heard of.
    pub denied_files: Answer,
    /// Our cgroup.
    pub cgroup: Cgroup,
    /// Processes have handles that survive pid reuse (pidfd_open).
    pub pidfd: bool,
    /// A socket tells its peer as such a handle (SO_PEERPIDFD, Linux 6.5).
    pub peer_pidfd: bool,
    /// Orphaned descendants can be adopted (PR_SET_CHILD_SUBREAPER).
    pub subreaper: bool,
    /// A process's children can be listed (`/proc/PID/task/TID/children`).
    pub children_listed: bool,
    /// io_uring may be used.
    pub io_uring: Answer,
    /// Memory can be sealed against change (memfd_create, F_ADD_SEALS).
    pub memfd_seals: bool,
    /// Bytes can be moved without a copy (splice).
    pub splice: bool,
    /// Pipes.
    pub pipes: Pipes,
    /// Limits of this process, inherited by what it starts.
    pub rlimits: Vec<Rlimit>,
}

/// Yes, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "answer", content = "reason")]
pub enum Answer {
    /// It may be used.
    Allowed,
    /// It may not, for this reason.
    Refused(String),
}

impl Answer {
    /// True exactly for [`Answer::Allowed`].
    pub fn allowed(&self) -> bool {
        *self == Answer::Allowed
    }
}

/// Which namespaces can be made, tried out in a process that ends at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Namespaces {
    /// What paths lead to can be changed for a child alone.
    pub mount: Answer,
    /// A child can have a network of its own.
    pub network: Answer,
    /// It takes a user namespace around them.
    pub user: bool,
}

/// Where this process stands in the cgroup v2 hierarchy, and what it may do there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    /// Our folder; none where no cgroup v2 is mounted.
    pub folder: Option<PathBuf>,
    /// We may make folders below it: trees can be exact.
    pub writable: bool,
    /// A folder can be killed at once (`cgroup.kill`, Linux 5.14).
    pub kill: bool,
    /// Controllers we can hand down to a session, of `memory`, `cpu` and `pids`.
    pub controllers: Vec<String>,
    /// Why controllers that exist can't be handed down.
    pub withheld: Option<String>,
}

impl Cgroup {
    /// True exactly when a session can be limited by this controller.
    pub fn enforces(&self, controller: &str) -> bool {
        self.writable && self.controllers.iter().any(|name| name == controller)
    }
}

/// How much pipe a user may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pipes {
    /// Largest pipe an ordinary user may ask for, bytes.
    pub bytes_max: u64,
    /// Pages of pipe an ordinary user may have in all before pipes are born small; 0: no limit.
    pub user_pages_soft: u64,
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rlimit {
    /// `descriptors`, `processes`, `lockedBytes`.
    pub name: String,
    /// In force; none: unlimited.
    pub soft: Option<u64>,
    /// As far as it may be raised; none: unlimited.
    pub hard: Option<u64>,
}

impl Ability {
    /// True exactly when system calls can be filtered: by this kernel, and by numbers we know.
    pub fn filters(&self) -> bool {
        self.seccomp_filter && Architecture::own().is_some()
    }

    /// A machine that can enforce nothing: every wish is refused.
    pub fn none() -> Ability {
        let absent = || Answer::Refused("there is none".to_owned());
        Ability {
            system: "nothing".to_owned(),
            uid: u32::MAX,
            landlock_abi: 0,
            seccomp_filter: false,
            sandbox_exec: false,
            seccomp_user_notification: false,
            user_namespaces: absent(),
            namespaces: Namespaces { mount: absent(), network: absent(), user: false },
            no_new_privileges: false,
            cores_are_piped: false,
            exec_stop: absent(),
            denied_calls: absent(),
            denied_files: absent(),
            cgroup: Cgroup::default(),
            pidfd: false,
            peer_pidfd: false,
            subreaper: false,
            children_listed: false,
            io_uring: absent(),
            memfd_seals: false,
            splice: false,
            pipes: Pipes::default(),
            rlimits: Vec::new(),
        }
    }

    /// Asks this machine.
    pub fn probe() -> Ability {
        let ability = Ability::at_a_glance();
        let namespaces = platform::try_namespaces(&ability.user_namespaces);
        Ability { namespaces, ..ability }
    }

    /// The same without what takes a process, for who has hardly use for it. Namespaces are there as far as the settings
    /// tell: what turns out not to be had fails the spawn that takes it.
    pub fn at_a_glance() -> Ability {
        platform::probe()
    }
}

/// The cgroup a kernel and its keeper move to when they stand in the way of controllers, below their own.
pub const LEAF: &str = "kairo-kernel";

/// Our folder in the cgroup v2 hierarchy as it is mounted here, for sessions to be made in; none where there is
/// none.
pub fn own_cgroup() -> Option<PathBuf> {
    platform::own_cgroup()
}

/// Whether a folder of cgroups is where a service manager puts a service's processes. Dividing it would keep the manager
/// from starting the service again there while anything of it is left.
pub fn is_managed(folder: &Path) -> bool {
    folder.extension().is_some_and(|extension| extension == "service")
}
