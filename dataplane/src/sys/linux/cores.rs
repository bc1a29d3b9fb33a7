//! On which cores a thread runs.

use crate::keeper::protocol::CPUS_MAX;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// Cores, a bit each; none set for all.
pub(super) type Set = [u64; CPUS_MAX / 64];

/// Of their numbers.
pub(super) fn set(cpus: &[u16]) -> Set {
    let mut set = [0; CPUS_MAX / 64];
    for cpu in cpus {
        if let Some(word) = set.get_mut(usize::from(*cpu) / 64) {
            *word |= 1 << (cpu % 64);
        }
    }
    set
}

/// Keeps a child on its way to exec, and what it will start, to its cores.
pub(super) fn bind(set: &Set) -> bool {
    if set.iter().all(|word| *word == 0) {
        return true;
    }
    // SAFETY: the set is as long as is said and outlives the call, which changes, with pid 0, this thread only.
    unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of::<Set>(), set.as_ptr()) == 0 }
}

/// Cores this process may use, ascending; none where that can't be told.
pub fn allowed_cpus() -> Vec<u16> {
    let cores = sched_getaffinity(None).ok();
    let cores = cores.map(|cores| (0..CpuSet::MAX_CPU).filter(move |cpu| cores.is_set(*cpu)));
    cores.into_iter().flatten().map(|cpu| cpu as u16).collect()
}

/// Keeps the calling thread to one core.
pub fn bind_thread(cpu: u16) -> io::Result<()> {
    if usize::from(cpu) >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut cores = CpuSet::new();
    cores.set(cpu.into());
    Ok(sched_setaffinity(None, &cores)?)
}
