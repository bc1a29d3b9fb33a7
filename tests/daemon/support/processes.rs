//! What `/proc` tells about other processes.
//!
//! A process is named by its pid and its start time, so that a number used again is not taken for the old one.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A process for good: pid and start time in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) pid: i32,
    start_ticks: u64,
}

/// Fields of `/proc/PID/stat`.
struct Stat {
    state: char,
    parent: i32,
    start_ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, a closing parenthesis included.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// The process that has this pid now.
pub(crate) fn name(pid: i32) -> Option<Name> {
    stat(pid).map(|stat| Name { pid, start_ticks: stat.start_ticks })
}

/// True while it runs; a zombie doesn't.
pub(crate) fn is_alive(name: Name) -> bool {
    stat(name.pid).is_some_and(|stat| stat.start_ticks == name.start_ticks && stat.state != 'Z')
}

/// True while its main thread is stopped by a signal.
pub(crate) fn is_stopped(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.state == 'T')
}

/// Everybody.
pub(crate) fn all() -> Vec<Name> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(name).collect()
}

/// All that descend from `pid`, without itself.
pub(crate) fn descendants(pid: i32) -> Vec<Name> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all: BTreeMap<i32, Stat> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let is_below = |start: i32| {
        let mut at = start;
        while let Some(stat) = all.get(&at) {
            if stat.parent == pid {
                return true;
            }
            at = stat.parent;
        }
        false
    };
    let below = all.iter().filter(|(pid, stat)| stat.state != 'Z' && is_below(**pid));
    below.map(|(pid, stat)| Name { pid: *pid, start_ticks: stat.start_ticks }).collect()
}

/// How many descriptors it holds.
pub(crate) fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// What its descriptors point to, for a message.
pub(crate) fn descriptor_targets(pid: i32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

/// A line of `/proc/PID/smaps_rollup` (`Pss`, `Anonymous`), bytes.
pub(crate) fn memory_bytes(pid: i32, line: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let found = text.lines().find_map(|candidate| candidate.strip_prefix(line)?.strip_prefix(':'));
    found.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// A line of `/proc/PID/status`.
pub(crate) fn status_line(pid: i32, line: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines()
        .find_map(|candidate| Some(candidate.strip_prefix(line)?.strip_prefix(':')?.trim().to_owned()))
}

/// How often its threads have gone to sleep by themselves.
pub(crate) fn voluntary_switches(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            let text = std::fs::read_to_string(task.path().join("status")).ok()?;
            text.lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
        })
        .sum()
}
