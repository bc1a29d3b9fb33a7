//! The system calls the rest is made of, one portable face over one file per platform.
//!
//! What a caller sees is in [`pipe`] and [`socket`]; how a platform does it is in `linux/` and `macos/`, and this
//! file is the only place that knows which. Nothing here has state, retries or policy: a call is made once, never
//! blocks, and its errno comes back as it is. Who calls when is the business of the drivers and the keeper.

pub mod clock;
pub mod fifo;
pub mod file;
pub mod pipe;
pub mod process;
pub mod pty;
pub mod socket;
pub(crate) use platform::stopped;

#[cfg(target_os = "linux")]
mod linux {
    //! Linux: epoll, splice, eventfd, peer pidfds.
    pub(super) mod cgroup;
    mod clone;
    mod cores;
    pub(super) mod fifo;
    pub(super) mod file;
    mod fork;
    pub(super) mod io;
    pub(super) mod process;
    mod stdin;
    pub(crate) mod stopped;
    mod words;
}
#[cfg(target_os = "macos")]
mod macos {
    //! macOS: kqueue and what stands in for the rest.
    pub(super) mod cgroup;
    pub(super) mod fifo;
    pub(super) mod file;
    pub(super) mod io;
    pub(super) mod process;
    pub(crate) mod stopped;
}

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

pub use platform::cgroup::clear_leftovers as clear_cgroups;
pub(crate) use platform::cgroup::{Cgroup, Cgroups};
pub(crate) use platform::io::{Readiness, Ready};
