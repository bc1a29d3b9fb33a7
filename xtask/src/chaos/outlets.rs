//! Those who take the raw bytes of a process off descriptors of their own, which outlive the kernel that gave them.
//!
//! ```text
//! spawned ─▶ stream.open, one after the other ─▶ stdin.close: the process begins ─▶ each reads to its end
//! ```
//!
//! Nothing is asked for again after a loss: what has been opened goes on by itself. Invariant: what comes is exactly what the
//! process wrote, and the end is its end.

use super::check::{Checker, Wrong};
use super::line::{Caller, Cut, Line};
use super::plan::{Outlet, Pace, Process};
use super::stage::{self, Sabotage, Stage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Read at once, bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// How long a read waits before somebody looks whether there is anything to wait for.
const TICK_NS: i64 = 20_000_000;

/// Opens them all, lets the process begin, and reads all to their ends.
pub(crate) fn take(stage: &Stage, who: &str, id: &str, process: &Process) -> Result<(), Wrong> {
    stage.until(|| stage.is_spawned(id))?;
    stage.doing(who, "opens");
    // An outlet ends with a connection that is closed: they stay open, as far as their kernels let them.
    let mut lines = vec![Line::open(stage, None)?];
    let mut opened = Vec::new();
    for outlet in &process.outlets {
        opened.push(open(stage, id, *outlet, &mut lines)?);
    }
    stage.doing(who, "lets it begin");
    match Caller::new(stage).insist("process.stdin.close", &json!({"id": id}))? {
        Err(refusal) if refusal.code != "E_STDIN_CLOSED" => return Err(format!("{refusal:?}")),
        Ok(_) | Err(_) => {}
    }
    stage.doing(who, "reads");
    std::thread::scope(|scope| {
        let reads = process.outlets.iter().zip(opened).enumerate().map(|(at, (outlet, descriptor))| {
            let name = format!("{who} {at} ({})", outlet.transport);
            scope.spawn(move || {
                let read = to_the_end(stage, &name, id, process, *outlet, descriptor);
                stage.judged(&name, read)
            })
        });
        stage::all_of(reads.collect())
    })
}

/// One outlet, of whichever kernel lives long enough to give it.
fn open<'a>(stage: &'a Stage, id: &str, outlet: Outlet, lines: &mut Vec<Line<'a>>) -> Result<OwnedFd, Wrong> {
    let params = json!({"id": id, "transport": outlet.transport, "from": 0});
    loop {
        stage.check()?;
        let Some(line) = lines.last_mut() else { return Err("no connection".to_owned()) };
        match line.call("stream.open", &params, None) {
            Ok(Ok(reply)) => {
                return match line.descriptors.pop() {
                    Some(descriptor) if line.descriptors.is_empty() => Ok(descriptor),
                    _ => Err(format!("{reply} came with another number of descriptors")),
                };
            }
            Ok(Err(refusal)) if refusal.info["retryable"] != true => {
                return Err(format!("open {params}: {refusal:?}"));
            }
            Ok(Err(_)) | Err(Cut::Lost) => {
                stage.reconnections.fetch_add(1, Ordering::Relaxed);
                lines.push(Line::open(stage, None)?);
            }
            Err(Cut::Wrong(wrong)) => return Err(wrong),
        }
    }
}

fn to_the_end(
    stage: &Stage,
    name: &str,
    id: &str,
    process: &Process,
    outlet: Outlet,
    descriptor: OwnedFd,
) -> Result<(), Wrong> {
    let (mut file, mut checker) = (File::from(descriptor), Checker::new(&process.stdout));
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match outlet.pace {
            Pace::Full => {}
            Pace::Slow(us) => stage.dawdle(Duration::from_micros(us)),
            Pace::Stopped => stage.until(|| stage.is_released())?,
        }
        stage.check()?;
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK_NS };
        if poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&tick)) == Ok(0) {
            continue;
        }
        let read = file.read(&mut piece).map_err(|error| format!("at {}: {error}", checker.at()))?;
        if read == 0 {
            return checker.end(checker.at(), true);
        }
        if stage.sabotages(Sabotage::Byte) {
            piece[0] ^= 1;
        }
        checker.take(checker.at(), &piece[..read])?;
        if stage.sabotages(Sabotage::Cut) {
            return checker.end(checker.at(), true);
        }
        stage.bytes.fetch_add(read as u64, Ordering::Relaxed);
        stage.saw(id, checker.at(), 0, false);
        stage.doing(name, format!("reads, at {}", checker.at()));
    }
}
