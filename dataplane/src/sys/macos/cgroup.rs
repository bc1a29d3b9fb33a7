//! There are no cgroups: these types have no value, so whoever holds one is on another system.

use crate::command::CgroupLimits;
use crate::keeper::protocol::Limit;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Never made.
#[derive(Debug)]
pub(crate) struct Cgroups(Infallible);

/// Never made.
#[derive(Debug)]
pub(crate) struct Cgroup(Infallible);

impl Cgroups {
    /// `Unsupported`.
    pub(crate) fn establish(_movable: impl Fn(i32) -> bool) -> io::Result<Cgroups> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn create(&mut self, _limits: &CgroupLimits) -> io::Result<(Cgroup, Vec<Limit>)> {
        match self.0 {}
    }

    pub(crate) fn open(&self, cgroup: &Cgroup) -> io::Result<OwnedFd> {
        match cgroup.0 {}
    }

    pub(crate) fn populated(&self, cgroup: &Cgroup) -> bool {
        match cgroup.0 {}
    }

    pub(crate) fn watch(&self, cgroup: &mut Cgroup) -> io::Result<()> {
        match cgroup.0 {}
    }

    pub(crate) fn take_news(&self) {
        match self.0 {}
    }

    pub(crate) fn members(&self, cgroup: &Cgroup, _into: &mut Vec<i32>) {
        match cgroup.0 {}
    }

    pub(crate) fn kill(&self, cgroup: &Cgroup) -> io::Result<()> {
        match cgroup.0 {}
    }

    pub(crate) fn remove(&mut self, cgroup: Cgroup) {
        match cgroup.0 {}
    }
}

impl AsFd for Cgroups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}

/// Nothing: there are none.
pub fn clear_leftovers() {}
