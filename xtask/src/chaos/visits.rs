//! Somebody who comes to a tap, reads for a while and leaves, whatever becomes of kernels meanwhile.
//!
//! ```text
//! comes ─▶ bytes from the oldest there are on, each right at its offset ─▶ has enough ─▶ says goodbye, or just goes
//! ```
//!
//! Invariant: who makes others wait comes back to the next kernel before it leaves, or that one would wait for it.

use super::check::{Checker, Wrong};
use super::line::{Cut, Line};
use super::plan::{Pace, Policy, Script, Visitor};
use super::stage::{Sabotage, Stage};
use crate::support::raw::{EVENT, STREAM_CHUNK, field};
use rmpv::Value;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value as Json, json};
use std::fs::File;
use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What is kept of a stage's first bytes; behind them a late reader may miss some.
const HEAD_BYTES: u64 = 64 * 1024;
/// How long a read waits before somebody looks whether there is anything to wait for.
const TICK_NS: i64 = 20_000_000;

/// Whose visits, and to what.
pub(crate) struct Visit<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) who: &'a str,
    /// The stage of the pipeline.
    pub(crate) id: &'a str,
    /// How much it writes.
    pub(crate) bytes: u64,
    pub(crate) plan: &'a Visitor,
}

/// A visit in frames so far.
struct Stay {
    checker: Checker,
    given: u64,
    resumes: Option<String>,
    is_over: bool,
}

impl Visit<'_> {
    /// All of them, one after the other.
    pub(crate) fn all(&self) -> Result<(), Wrong> {
        for (after_us, bytes) in &self.plan.visits {
            self.stage.doing(self.who, "is away");
            self.stage.dawdle(Duration::from_micros(*after_us));
            self.stage.doing(self.who, format!("stays for {bytes} bytes"));
            if self.plan.transport == "frames" { self.in_frames(*bytes)? } else { self.raw(*bytes)? }
        }
        Ok(())
    }

    fn checker(&self) -> Checker {
        Checker::new(&Script::Sequence(Some(self.bytes)))
    }

    fn rests(&self) {
        if let Pace::Slow(us) = self.plan.pace {
            self.stage.dawdle(Duration::from_micros(us));
        }
    }

    fn in_frames(&self, bytes: u64) -> Result<(), Wrong> {
        let mut stay = Stay { checker: self.checker(), given: 0, resumes: None, is_over: false };
        loop {
            match self.over_one_line(&mut stay, bytes) {
                Ok(()) => return Ok(()),
                // Nobody waits for who drops.
                Err(Cut::Lost) if self.plan.policy != Policy::Block => return Ok(()),
                Err(Cut::Lost) => {
                    self.stage.reconnections.fetch_add(1, Ordering::Relaxed);
                }
                Err(Cut::Wrong(wrong)) => return Err(wrong),
            }
        }
    }

    fn over_one_line(&self, stay: &mut Stay, bytes: u64) -> Result<(), Cut> {
        let mut line = Line::open(self.stage, None)?;
        let mut open = json!({"id": self.id, "transport": "frames", "policy": self.plan.policy.name()});
        open["from"] = stay.checker.at().into();
        if let Some(resumes) = &stay.resumes {
            open["resumes"] = resumes.as_str().into();
        }
        let name = match line.call("stream.open", &open, None)? {
            Ok(reply) => reply["subscriptionId"].as_str().unwrap_or_default().to_owned(),
            Err(refusal) if refusal.info["retryable"] == true => return Err(Cut::Lost),
            Err(refusal) => return Err(Cut::Wrong(format!("open {open}: {refusal:?}"))),
        };
        stay.resumes = Some(name.clone());
        while stay.given < bytes && !stay.is_over {
            self.stage.check()?;
            self.rests();
            let Some(frame) = line.next()? else { continue };
            if frame.kind == STREAM_CHUNK {
                let value = frame.value();
                let offset = field(&value, "offset").and_then(Value::as_u64).unwrap_or(u64::MAX);
                let Some(Value::Binary(data)) = field(&value, "data") else {
                    return Err(Cut::Wrong("a chunk without data".to_owned()));
                };
                let mut data = data.clone();
                if self.stage.sabotages(Sabotage::Visited) {
                    data[0] ^= 1;
                }
                stay.checker.take(offset, &data)?;
                stay.given += data.len() as u64;
            } else if frame.kind == EVENT && frame.json()["data"]["subscriptionId"] == name.as_str() {
                self.event(stay, &frame.json())?;
            }
        }
        if self.plan.is_polite && !stay.is_over {
            return self.leave(&mut line, &name);
        }
        Ok(())
    }

    fn event(&self, stay: &mut Stay, event: &Json) -> Result<(), Cut> {
        let number = |name: &str| event["data"][name].as_u64().unwrap_or(u64::MAX);
        match (event["topic"].as_str(), event["data"]["reason"].as_str()) {
            (Some("stream.gap"), _) => {
                // One that waits misses what is between head and tail when it comes, and nothing after that.
                let joins = number("from") == HEAD_BYTES && stay.checker.missed() == 0;
                if self.plan.policy == Policy::Block && !joins {
                    return Err(Cut::Wrong(format!("a reader that waits is told {event}")));
                }
                stay.checker.gap(number("from"), number("to"))?;
            }
            (Some("stream.end"), Some("closed")) => {
                stay.checker.end(number("totalBytes"), true)?;
                stay.is_over = true;
            }
            (Some("stream.end"), Some("shutdown")) => return Err(Cut::Lost),
            (Some("stream.end"), _) => return Err(Cut::Wrong(format!("it ended: {event}"))),
            _ => {}
        }
        Ok(())
    }

    /// After the answer nothing of it comes.
    fn leave(&self, line: &mut Line<'_>, name: &str) -> Result<(), Cut> {
        let closed = line.call("stream.close", &json!({"subscriptionId": name}), None)?;
        if closed.as_ref().map_or(true, |closed| closed["ok"] != true) {
            return Err(Cut::Wrong(format!("stream.close: {closed:?}")));
        }
        let come = line.come();
        line.call("process.status", &json!({"id": self.id}), None)?
            .map_err(|refusal| format!("{refusal:?}"))?;
        let all = line.come();
        while line.given < all {
            let is_late = line.given >= come;
            let Some(frame) = line.next()?.filter(|_| is_late) else { continue };
            let is_of_it = match frame.kind {
                STREAM_CHUNK => field(&frame.value(), "subscriptionId").and_then(Value::as_str) == Some(name),
                _ => frame.json()["data"]["subscriptionId"] == name,
            };
            if is_of_it {
                return Err(Cut::Wrong(format!("after the goodbye came a frame of kind {}", frame.kind)));
            }
        }
        Ok(())
    }

    /// What it is given has no offsets: from the first byte on, and behind the head from wherever it came.
    fn raw(&self, bytes: u64) -> Result<(), Wrong> {
        let mut line = Line::open(self.stage, None)?;
        let open = json!({"id": self.id, "transport": self.plan.transport, "from": 0});
        match line.call("stream.open", &open, None) {
            Ok(Ok(_)) => {}
            Err(Cut::Wrong(wrong)) => return Err(wrong),
            Ok(Err(refusal)) if refusal.info["retryable"] != true => {
                return Err(format!("open {open}: {refusal:?}"));
            }
            // It comes another time.
            Ok(Err(_)) | Err(Cut::Lost) => return Ok(()),
        }
        let descriptor = line.descriptors.pop().ok_or("no descriptor to read from")?;
        let (mut file, mut checker) = (File::from(descriptor), self.checker());
        let (mut piece, mut given) = (vec![0; HEAD_BYTES as usize], 0);
        while given < bytes {
            self.rests();
            self.stage.check()?;
            let tick = Timespec { tv_sec: 0, tv_nsec: TICK_NS };
            if poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&tick)) == Ok(0) {
                continue;
            }
            let left = if given < HEAD_BYTES { (HEAD_BYTES - given) as usize } else { piece.len() };
            let read = file.read(&mut piece[..left]).map_err(|error| format!("at {given}: {error}"))?;
            if given == HEAD_BYTES {
                checker.may_have_lost(self.bytes - HEAD_BYTES.min(self.bytes));
            }
            if read == 0 {
                return checker.end(given, true);
            }
            checker.take(given, &piece[..read])?;
            given += read as u64;
        }
        Ok(())
    }
}
