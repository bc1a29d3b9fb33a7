//! Those who write a stdin by a path, which outlives the kernel that made it.
//!
//! ```text
//! spawned ─▶ stdin.open, until somebody has told a path that is there ─▶ open ─▶ all bytes ─▶ close: the stdin's end
//! ```
//!
//! Nothing is asked or sent again once it is open, so a byte that came twice would be the kernel's. Invariant: nobody hangs up
//! before everything is written.

use super::check::Wrong;
use super::line::{Caller, Cut};
use super::plan::Writer;
use super::random::Random;
use super::stage::{Sabotage, Stage};
use crate::support::raw::value;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use serde_json::json;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

/// How long a path waits to be opened, milliseconds: so long nobody has another if the word of it was lost.
const WAIT_MS: u64 = 1_000;
/// How long a write waits before somebody looks whether there is anything to wait for.
const TICK_NS: i64 = 20_000_000;

/// Writes everything by a path, then closes it.
pub(crate) fn write(stage: &Stage, who: &str, id: &str, plan: &Writer, all: &[u8]) -> Result<(), Wrong> {
    stage.until(|| stage.is_spawned(id))?;
    stage.doing(who, "asks for a way in");
    let mut file = open(stage, id)?;
    let (mut random, mut at) = (Random::new(plan.seed), 0);
    while at < all.len() {
        stage.doing(who, format!("writes, at {at} of {}", all.len()));
        let end = all.len().min(at + random.within(1..=plan.write_bytes) as usize);
        put(stage, &mut file, &all[at..end]).map_err(|wrong| format!("at {at} of {}: {wrong}", all.len()))?;
        if stage.sabotages(Sabotage::Written) {
            put(stage, &mut file, &all[at..end])?;
        }
        at = end;
        if plan.pause_us > 0 {
            stage.dawdle(Duration::from_micros(plan.pause_us));
        }
    }
    Ok(())
}

/// The other end, of whichever kernel lives long enough to tell where.
fn open(stage: &Stage, id: &str) -> Result<File, Wrong> {
    let params = json!({"id": id, "transport": "fifo", "waitMs": WAIT_MS});
    let mut caller = Caller::new(stage);
    loop {
        stage.check()?;
        let path = match caller.once("stdin.open", value(&params), None) {
            Ok(Ok(reply)) => {
                reply["path"].as_str().map(str::to_owned).ok_or(format!("no path in {reply}"))?
            }
            Ok(Err(refusal)) => return Err(format!("stdin.open {params}: {refusal:?}")),
            Err(Cut::Lost) => continue,
            Err(Cut::Wrong(wrong)) => return Err(wrong),
        };
        match rustix::fs::open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => return Ok(File::from(file)),
            // It has waited long enough.
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(format!("{path} can't be opened: {errno}")),
        }
    }
}

fn put(stage: &Stage, file: &mut File, mut piece: &[u8]) -> Result<(), Wrong> {
    while !piece.is_empty() {
        stage.check()?;
        match file.write(piece) {
            Ok(written) => piece = &piece[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let tick = Timespec { tv_sec: 0, tv_nsec: TICK_NS };
                // Whatever it says, the next write says more.
                let _ = poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&tick));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}
