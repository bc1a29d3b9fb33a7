//! Streams that clients write, through a pipe or in place, and who reads them.
//!
//! ```text
//! stream.publish ─▶ write ─┬─▶ the end, over however many kernels ─▶ its reader has all of it
//!                          └─▶ it is over with its kernel: both sides are told, its reader has the beginning ─▶ another one
//! ```
//!
//! Invariant: what the reader has is what was written, from the first byte on, and which of the two it was both sides agree on.

use super::check::{Checker, Wrong};
use super::ledger::pages;
use super::line::{Cut, Line};
use super::plan::{Producer, Script};
use super::stage::{GLANCE, Sabotage, Stage};
use crate::support::pattern;
use crate::support::raw::{EVENT, STREAM_CHUNK, field};
use kairo_shm::producer::{Parts, Producer as Ring, Room};
use rmpv::Value;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a write waits before somebody looks whether there is anything to wait for.
const TICK: Duration = Duration::from_millis(20);
/// Within this the log has what a kernel told.
const TELLING: Duration = Duration::from_secs(2);

/// How a stream that was written has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// As its producer liked.
    Whole,
    /// With its kernel.
    Orphaned,
}

/// What writer and reader of one stream know of each other.
struct Shared<'a> {
    stage: &'a Stage,
    who: &'a str,
    id: &'a str,
    plan: Producer,
    /// Somebody reads: what nobody reads yet when its producer is done is kept as far as the history goes.
    is_read: AtomicBool,
    /// How much was written.
    written: AtomicU64,
}

/// Writes a stream to its end, in as many attempts as it takes.
pub(crate) fn produce(stage: &Stage, who: &str, plan: Producer) -> Result<(), Wrong> {
    for attempt in 0_u64.. {
        stage.doing(who, format!("publishes, for time {attempt}"));
        let id = format!("{who}.{attempt}");
        let mut line = Line::open(stage, None)?;
        let params = json!({"id": id, "transport": plan.transport, "whenUnread": "block"});
        match line.call("stream.publish", &params, None) {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) if refusal.info["retryable"] != true => {
                return Err(format!("publish {params}: {refusal:?}"));
            }
            Err(Cut::Wrong(wrong)) => return Err(wrong),
            Ok(Err(_)) | Err(Cut::Lost) => continue,
        }
        let shared =
            Shared { stage, who, id: &id, plan, is_read: AtomicBool::new(false), written: AtomicU64::new(0) };
        let descriptors = std::mem::take(&mut line.descriptors);
        let (wrote, read) = std::thread::scope(|scope| {
            let write = scope.spawn(|| {
                let begun = stage.until(|| shared.is_read.load(Ordering::Relaxed));
                let wrote = begun.and_then(|()| shared.write(descriptors));
                if wrote.is_err() {
                    stage.fail();
                }
                wrote
            });
            let read = shared.follow();
            if read.is_err() {
                stage.fail();
            }
            shared.is_read.store(true, Ordering::Relaxed);
            (write.join().unwrap_or_else(|_| Err("panicked".to_owned())), read)
        });
        match (wrote?, read?) {
            (Fate::Whole, Fate::Whole) => return Ok(()),
            // What was on its way when its last byte was written may have gone with the kernel.
            (_, Fate::Orphaned) => shared.is_told()?,
            (Fate::Orphaned, Fate::Whole) => {
                return Err(format!("{id} is whole, and its writer was told otherwise"));
            }
        }
    }
    Ok(())
}

impl Shared<'_> {
    fn write(&self, mut descriptors: Vec<OwnedFd>) -> Result<Fate, Wrong> {
        let count = descriptors.len();
        match (self.plan.transport, descriptors.pop(), descriptors.pop(), descriptors.pop()) {
            ("pipe", Some(pipe), None, None) => self.through_a_pipe(File::from(pipe)),
            ("shared", Some(doorbell), Some(page), Some(ring)) => {
                let ring = Ring::open(Parts { ring, page, doorbell });
                self.in_place(ring.map_err(|error| format!("the ring: {error}"))?)
            }
            _ => Err(format!("{count} descriptors to write a {} by", self.plan.transport)),
        }
    }

    fn through_a_pipe(&self, mut pipe: File) -> Result<Fate, Wrong> {
        rustix::io::ioctl_fionbio(&pipe, true).map_err(|error| error.to_string())?;
        let mut at = 0;
        while at < self.plan.bytes {
            self.stage.check()?;
            match pipe.write(&self.piece(at, self.plan.write_bytes)) {
                Ok(written) => at = self.wrote(at, written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
                    // Whatever it says, the next write finds out.
                    let _ = poll(&mut [PollFd::new(&pipe, PollFlags::OUT)], Some(&tick));
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Fate::Orphaned),
                Err(error) => return Err(format!("at {at}: {error}")),
            }
            self.stage.dawdle(Duration::from_micros(self.plan.pause_us));
        }
        Ok(Fate::Whole)
    }

    fn in_place(&self, mut ring: Ring) -> Result<Fate, Wrong> {
        while ring.taken() < self.plan.bytes {
            self.stage.check()?;
            let at = ring.taken();
            let wanted = self.plan.write_bytes.min(self.plan.bytes - at) as usize;
            let length = match ring.room(wanted, TICK) {
                Room::Bytes(room) => {
                    room.copy_from_slice(&self.piece(at, room.len() as u64));
                    room.len()
                }
                Room::Full => continue,
                Room::Closed(_) | Room::Lost => return Ok(Fate::Orphaned),
            };
            ring.commit(length);
            self.wrote(at, length);
            self.stage.dawdle(Duration::from_micros(self.plan.pause_us));
        }
        Ok(Fate::Whole)
    }

    /// What comes there.
    fn piece(&self, at: u64, bytes: u64) -> Vec<u8> {
        let mut piece = pattern::bytes(at, bytes.min(self.plan.bytes - at) as usize);
        if self.stage.sabotages(Sabotage::Produced) {
            piece[0] ^= 1;
        }
        piece
    }

    fn wrote(&self, at: u64, bytes: usize) -> u64 {
        let at = at + bytes as u64;
        self.written.store(at, Ordering::Relaxed);
        at
    }

    /// Reads it to its end, over as many kernels as it outlives.
    fn follow(&self) -> Result<Fate, Wrong> {
        let mut checker = Checker::new(&Script::Sequence(Some(self.plan.bytes)));
        let mut resumes = None;
        loop {
            match self.over_one_line(&mut checker, &mut resumes) {
                Ok(fate) => return Ok(fate),
                Err(Cut::Lost) => {
                    self.stage.reconnections.fetch_add(1, Ordering::Relaxed);
                }
                Err(Cut::Wrong(wrong)) => return Err(format!("{}: {wrong}", self.id)),
            }
        }
    }

    fn over_one_line(&self, checker: &mut Checker, resumes: &mut Option<String>) -> Result<Fate, Cut> {
        let mut line = Line::open(self.stage, None)?;
        self.stage.doing(self.who, format!("looks for {}, at {}", self.id, checker.at()));
        let status = line.call("process.status", &json!({"id": self.id}), None)?;
        let status = status.map_err(|refusal| format!("status: {refusal:?}"))?;
        if ["lost", "unknown"].iter().any(|state| status["state"] == *state) {
            return Ok(Fate::Orphaned);
        }
        let mut open = json!({"id": self.id, "transport": "frames", "from": checker.at()});
        if let Some(resumes) = &resumes {
            open["resumes"] = resumes.as_str().into();
        }
        match line.call("stream.open", &open, None)? {
            Ok(reply) => *resumes = reply["subscriptionId"].as_str().map(str::to_owned),
            Err(refusal) if refusal.info["retryable"] == true => return Err(Cut::Lost),
            Err(refusal) => return Err(Cut::Wrong(format!("open {open}: {refusal:?}"))),
        }
        self.is_read.store(true, Ordering::Relaxed);
        loop {
            let written = self.written.load(Ordering::Relaxed);
            self.stage.doing(self.who, format!("reads {}, at {} of {written}", self.id, checker.at()));
            self.stage.check()?;
            let Some(frame) = line.next()? else { continue };
            if frame.kind == STREAM_CHUNK {
                let value = frame.value();
                let offset = field(&value, "offset").and_then(Value::as_u64).unwrap_or(u64::MAX);
                let Some(Value::Binary(data)) = field(&value, "data") else {
                    return Err(Cut::Wrong("a chunk without data".to_owned()));
                };
                checker.take(offset, data)?;
                self.stage.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            } else if frame.kind == EVENT {
                let event = frame.json();
                match (event["topic"].as_str(), event["data"]["reason"].as_str()) {
                    (Some("stream.end"), Some("closed")) => {
                        let total = event["data"]["totalBytes"].as_u64().unwrap_or(u64::MAX);
                        checker.end(total, true)?;
                        return Ok(Fate::Whole);
                    }
                    (Some("stream.end"), Some("shutdown")) => return Err(Cut::Lost),
                    (Some("stream.end" | "stream.gap"), _) => {
                        let written = self.written.load(Ordering::Relaxed);
                        return Err(Cut::Wrong(format!("{event}, at {} of {written}", checker.at())));
                    }
                    _ => {}
                }
            }
        }
    }

    /// A stream that is over with its kernel is told in the log as that; or it was over before, and told so.
    fn is_told(&self) -> Result<(), Wrong> {
        let mut deadline = None;
        loop {
            let among = |topic: &str| {
                let mut is_there = false;
                pages(self.stage, 1, Some(topic), |event| {
                    is_there |= event.data["id"] == self.id;
                    Ok(())
                })?;
                Ok::<bool, Wrong>(is_there)
            };
            // A kernel that died before the log had its birth has nothing to tell.
            if among("kairo.process.lost")?
                || among("kairo.process.ended")?
                || !among("kairo.process.spawned")?
            {
                return Ok(());
            }
            if Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + TELLING) {
                return Err(format!("{} is over with its kernel, and nobody told it", self.id));
            }
            std::thread::sleep(GLANCE);
        }
    }
}
