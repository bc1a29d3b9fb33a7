//! What the benches share: a daemon to measure, bulk clients, other roles of this program, statistics.

pub(crate) mod bare;
pub(crate) mod daemon;
pub(crate) mod document;
pub(crate) mod events;
pub(crate) mod flow;
pub(crate) mod report;
pub(crate) mod roles;
pub(crate) mod svg;

#[allow(dead_code, reason = "the tests use what the benches don't")]
#[path = "../../tests/daemon/support/processes.rs"]
pub(crate) mod processes;
#[allow(dead_code, reason = "the tests use what the benches don't")]
#[path = "../../tests/daemon/support/raw.rs"]
pub(crate) mod raw;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::path::Path;
use std::time::Duration;

/// The clock all processes share.
pub(crate) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is such a clock").into()
}

/// Confines this thread, and what it starts from now on, to some cores.
pub(crate) fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core).expect("a core's number fits a set");
    }
    sched_setaffinity(Pid::from_raw(0), &set).expect("a thread may choose among its cores");
}

/// All cores.
pub(crate) fn unpin() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // `available_parallelism` heeds the mask in force: ask the system how many there are.
    let online = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    let all: Vec<usize> = (0..online.map_or(cores, |online| online as usize)).collect();
    pin(&all);
}

/// Bytes of all files in a folder, as the disk counts them.
pub(crate) fn bytes_in(folder: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt;
    let size = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("it can be listed");
        let found = entry.metadata().expect("it is there");
        if found.is_dir() { bytes_in(&entry.path()) } else { (found.blocks() * 512) as f64 }
    };
    std::fs::read_dir(folder).expect("the folder is ours").map(size).sum()
}
