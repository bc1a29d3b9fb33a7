//! What is left of lives whose keeper died: processes that run and are nobody's any more, and output on disk.
//!
//! A life that will be started again must not have two: what is found of it is ended first. Whatever else runs on is
//! left alone and named. A process belongs to a life if it carries the life's name in its environment, or if it is the
//! leader the record names, by pid and time of birth. Only within one boot: after another, pids mean nothing.

use kairo_controlplane::records::Recollection;
use kairo_dataplane::control::StreamEnd;
use kairo_dataplane::key::Channel;
use kairo_dataplane::spool;
use kairo_dataplane::sys::process::{Stat, environment, signal_member, stat};
use std::collections::BTreeSet;
use std::path::Path;

/// SIGKILL (POSIX).
const SIGKILL: i32 = 9;
/// Rounds of looking and killing: what forks while it is being killed is found by the next.
const ROUNDS_MAX: usize = 16;
/// Most of an environment that is looked at, bytes.
const ENVIRONMENT_BYTES_MAX: u64 = 2 << 20;
/// Begins the line of an environment that names a life.
const MARKER: &[u8] = b"KAIRO_SESSION=";

/// Looks which leaders still run; ends what there is of the lives that will be started again.
pub(super) fn look<'a>(past: impl Iterator<Item = &'a mut Recollection>) {
    let (mut sessions, mut leaders) = (BTreeSet::new(), Vec::new());
    for one in past {
        let (pid, start_ticks) = (one.life.pid, one.life.start_ticks);
        if one.life.restart.is_never() {
            let is_leader = |found: Stat| found.start_ticks == start_ticks && !found.dead();
            one.running = pid > 0 && stat(pid).is_some_and(is_leader);
        } else {
            sessions.insert(one.life.session.as_bytes().to_vec());
            leaders.push((pid, start_ticks));
        }
    }
    if sessions.is_empty() {
        return;
    }
    for _ in 0..ROUNDS_MAX {
        let found: BTreeSet<(i32, u64)> = leaders.iter().copied().chain(members(&sessions)).collect();
        let ended = found.into_iter().map(|(pid, start_ticks)| end(pid, start_ticks)).sum::<usize>();
        if ended == 0 {
            return;
        }
        tracing::warn!(
            component = "state",
            processes = ended,
            "left running by a keeper that died: ended, because they will be started again"
        );
    }
}

/// Finds out how long the outputs were that went to disk and had not ended, from what is there under `spools`.
pub(super) fn measure(past: &mut Recollection, spools: &Path) {
    let life = &past.life;
    for channel in Channel::ALL {
        let there = channel == Channel::Stdout || life.stderr;
        if life.spool.is_none() || !there || past.ends[channel as usize].is_some() {
            continue;
        }
        match spool::open(spools, &life.session, channel).and_then(|mut spool| spool.range()) {
            Ok(Some((first, end))) => {
                past.ends[channel as usize] = Some(StreamEnd { total_bytes: end, cut_bytes: first });
            }
            // Nothing came before it was lost.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(component = "state", session = life.session, %error, "its spool can't be read");
            }
        }
    }
}

/// 1 if it was there and is told to end.
fn end(pid: i32, start_ticks: u64) -> usize {
    match signal_member(pid, SIGKILL, |found| found.start_ticks == start_ticks) {
        Ok(sent) => usize::from(sent),
        Err(error) => {
            tracing::warn!(component = "state", pid, %error, "it can't be ended");
            0
        }
    }
}

/// Pid and time of birth of every process that one of these lives has in its environment.
fn members(sessions: &BTreeSet<Vec<u8>>) -> Vec<(i32, u64)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let (own, mut text) = (std::process::id() as i32, Vec::new());
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let before = stat(pid)?;
            environment(pid, ENVIRONMENT_BYTES_MAX, &mut text);
            let mut names = text.split(|byte| *byte == 0).filter_map(|line| line.strip_prefix(MARKER));
            let carries = names.any(|name| sessions.contains(name));
            (carries && !before.dead()).then_some((pid, before.start_ticks))
        })
        .collect()
}
