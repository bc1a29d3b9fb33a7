//! Somebody who reads a process's output to its end, over as many kernels as it takes.
//!
//! ```text
//! subscribe from where I am, resuming what I had ─▶ chunks, gaps ─▶ end of every stream
//!        ▲                                             │ the kernel is killed
//!        └─────────────────────────────────────────────┘
//! ```
//!
//! Invariant: a reader asks for the first byte it has not seen, and nothing that was in a socket is believed lost.

use super::check::{Checker, Wrong};
use super::doubts;
use super::line::{Cut, Line};
use super::plan::{Pace, Policy, Process, Reader, Script};
use super::stage::{Sabotage, Stage};
use crate::child::RECORD_BYTES;
use crate::support::raw::{EVENT, Frame, STREAM_CHUNK, field};
use rmpv::Value;
use serde_json::{Map, Value as Json, json};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// One reader, through a whole round.
pub(crate) struct Reading<'a> {
    stage: &'a Stage,
    who: &'a str,
    id: &'a str,
    plan: Reader,
    is_terminal: bool,
    /// Nothing of what it wrote is kept.
    is_relayed: bool,
    /// Nothing has come on this line yet.
    has_resumed: bool,
    /// Everything it wrote is on disk.
    is_spooled: bool,
    outputs: Vec<Output>,
    /// The subscription before this one.
    resumes: Option<String>,
    /// Something of the process has come: from now on the kernel knows where this reader is.
    has_read: bool,
    /// Its last subscription was of a process that was there.
    has_begun: bool,
    /// It came when the process may have been there already.
    is_late: bool,
    /// How often a kernel may have taken bytes of a terminal with it.
    doubts: u64,
    /// Bytes of the beginning that a late reader of it finds.
    head_bytes: u64,
}

struct Output {
    name: &'static str,
    checker: Checker,
    has_ended: bool,
    /// A reader that comes late finds head and tail: it has been told what is between.
    has_joined: bool,
}

impl<'a> Reading<'a> {
    /// A reader of this process that has read nothing.
    pub(crate) fn new(
        stage: &'a Stage,
        who: &'a str,
        id: &'a str,
        process: &Process,
        plan: Reader,
    ) -> Reading<'a> {
        let output = |name, script| Output {
            name,
            checker: Checker::new(script),
            has_ended: false,
            has_joined: false,
        };
        let mut outputs = vec![output("stdout", &process.stdout)];
        if process.stderr != Script::Silent {
            outputs.push(output("stderr", &process.stderr));
        }
        let is_terminal = process.options.get("pty").is_some();
        // What is asked for is rounded up to whole pages.
        let head_bytes = process.options["history"]["headBytes"].as_u64().unwrap_or(HEAD_BYTES);
        let head_bytes = head_bytes.next_multiple_of(PAGE_BYTES);
        Reading {
            stage,
            who,
            id,
            plan,
            is_terminal,
            is_relayed: process.is_relayed(),
            has_resumed: false,
            is_spooled: process.is_spooled(),
            outputs,
            resumes: None,
            has_read: false,
            has_begun: false,
            is_late: false,
            doubts: 0,
            head_bytes,
        }
    }

    /// The same, of a process whose kernel died so often.
    pub(crate) fn after(mut self, kills: u64) -> Reading<'a> {
        if self.is_terminal {
            (0..kills).for_each(|_| self.outputs[0].checker.doubt());
            self.doubts = kills;
        }
        self
    }

    /// Reads to the end. Returns how many bytes it missed.
    pub(crate) fn run(mut self) -> Result<u64, Wrong> {
        loop {
            match self.over_one_line() {
                Ok(()) => return Ok(self.outputs.iter().map(|output| output.checker.missed()).sum()),
                Err(Cut::Lost) => {
                    self.stage.reconnections.fetch_add(1, Ordering::Relaxed);
                }
                Err(Cut::Wrong(wrong)) => return Err(wrong),
            }
        }
    }

    fn over_one_line(&mut self) -> Result<(), Cut> {
        self.stage.doing(self.who, "connects");
        let mut line = Line::open(self.stage, None)?;
        self.stage.doing(self.who, "subscribes");
        let subscription = self.subscribe(&mut line)?;
        self.has_resumed = self.resumes.replace(subscription.clone()).is_some();
        if self.has_resumed && self.is_terminal {
            // What a kernel had read of a terminal when it died can't be told afterwards.
            self.outputs.iter_mut().for_each(|output| output.checker.doubt());
            self.doubts += 1;
        }
        if self.is_relayed {
            let lost = doubts::uncounted(self.stage, self.id)?;
            self.outputs.iter_mut().for_each(|output| output.checker.may_have_lost(lost));
        }
        if !self.has_read {
            self.is_late = self.stage.is_begun(self.id);
        }
        let mut sequence = None;
        while self.outputs.iter().any(|output| !output.has_ended) {
            self.stage.check()?;
            self.dawdle()?;
            let Some(frame) = line.next()? else { continue };
            if frame.kind == STREAM_CHUNK {
                self.chunk(&frame, &subscription, &mut sequence)?;
            } else if frame.kind == EVENT {
                self.event(&frame.json(), &subscription)?;
            }
            let all: Vec<u64> = self.outputs.iter().map(|output| output.checker.at()).collect();
            self.stage.doing(self.who, format!("reads, at {all:?}"));
            let answers = self.outputs[0].checker.answers();
            self.stage.saw(self.id, self.outputs[0].checker.at(), answers, self.doubts > 0);
        }
        Ok(())
    }

    fn subscribe(&mut self, line: &mut Line<'_>) -> Result<String, Cut> {
        let offsets: Map<String, Json> =
            self.outputs.iter().map(|output| (output.name.to_owned(), output.checker.at().into())).collect();
        let stream = if self.outputs.len() == 1 { "stdout" } else { "both" };
        let mut params = json!({
            "pid": self.id, "stream": stream, "mode": self.plan.mode.name(), "policy": self.plan.policy.name(),
            "from": offsets,
        });
        if let Some(rate) = self.plan.rate {
            params["rate"] = json!({"bytesPerSecond": rate});
        }
        // A subscription that only waited for its process is held nothing for, and must not be taken for one that is.
        if let Some(resumes) = self.resumes.as_ref().filter(|_| self.has_read || self.has_begun) {
            params["resumes"] = resumes.as_str().into();
        }
        let mut answer = line.call("process.stdout.subscribe", &params, None)?;
        // Its process was not there yet when the kernel died that took the first subscription.
        if !self.has_read && answer.as_ref().is_err_and(|refusal| refusal.code == "E_NOT_FOUND") {
            params["resumes"] = Json::Null;
            answer = line.call("process.stdout.subscribe", &params, None)?;
        }
        match answer {
            Ok(reply) => {
                self.has_begun = !reply["session"].is_null();
                Ok(reply["subscriptionId"].as_str().unwrap_or_default().to_owned())
            }
            Err(refusal) if refusal.info["retryable"] == true => Err(Cut::Lost),
            Err(refusal) => Err(Cut::Wrong(format!("subscribe {params}: {refusal:?}"))),
        }
    }

    fn dawdle(&self) -> Result<(), Cut> {
        match self.plan.pace {
            Pace::Full => {}
            Pace::Slow(us) => self.stage.dawdle(Duration::from_micros(us)),
            Pace::Stopped => self.stage.until(|| self.stage.is_released())?,
        }
        Ok(())
    }

    fn chunk(&mut self, frame: &Frame, subscription: &str, last: &mut Option<u64>) -> Result<(), Wrong> {
        let value = frame.value();
        let text = |name| field(&value, name).and_then(Value::as_str).unwrap_or_default();
        let number = |name| field(&value, name).and_then(Value::as_u64);
        if text("subscriptionId") != subscription {
            return Err(format!("a chunk of {}, which is not ours", text("subscriptionId")));
        }
        let sequence = number("sequence").ok_or("a chunk without a sequence")?;
        if last.is_some_and(|last| sequence != last + 1) {
            return Err(format!("chunk {sequence} came after chunk {last:?}"));
        }
        *last = Some(sequence);
        let offset = number("offset").ok_or("a chunk without an offset")?;
        let Some(Value::Binary(data)) = field(&value, "data") else {
            return Err("a chunk without data".to_owned());
        };
        if self.stage.sabotages(Sabotage::Skipped) {
            return Ok(());
        }
        let mut data = data.clone();
        if self.stage.sabotages(Sabotage::Byte) {
            data[0] ^= 1;
        }
        let output = output_of(&mut self.outputs, text("stream"))?;
        output.checker.take(offset, &data).map_err(|wrong| format!("{}: {wrong}", output.name))?;
        if self.stage.sabotages(Sabotage::Again) {
            output.checker.take(offset, &data)?;
        }
        (self.has_read, self.has_resumed) = (true, false);
        self.stage.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn event(&mut self, event: &Json, subscription: &str) -> Result<(), Cut> {
        let data = &event["data"];
        if data["subscriptionId"] != subscription {
            return Ok(());
        }
        let number = |name: &str| data[name].as_u64().ok_or_else(|| format!("no {name} in {event}"));
        let name = data["stream"].as_str().unwrap_or_default();
        match event["topic"].as_str() {
            Some("stream.gap") => self.gap(name, number("from")?, number("to")?)?,
            Some("stream.end") => {
                match data["reason"].as_str() {
                    Some("closed") => {}
                    // It was told to end in order, and says so to everybody: its successor goes on.
                    Some("shutdown") => return Err(Cut::Lost),
                    reason => return Err(Cut::Wrong(format!("{name} ended: {reason:?}"))),
                }
                let is_terminal = self.is_terminal;
                let output = output_of(&mut self.outputs, name)?;
                let is_exact = !is_terminal || (output.checker.missed() == 0 && self.doubts == 0);
                let lost = output.checker.lost_records() * RECORD_BYTES as u64;
                if lost > output.checker.missed() + (self.doubts + 1) * TERMINAL_GAP_BYTES_MAX && is_terminal
                {
                    return Err(Cut::Wrong(format!("{name}: {lost} bytes of a terminal are missing")));
                }
                let ended = output.checker.end(number("totalBytes")?, is_exact);
                ended.map_err(|wrong| format!("{name}: {wrong}"))?;
                output.has_ended = true;
                self.has_read = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn gap(&mut self, name: &str, from: u64, to: u64) -> Result<(), Wrong> {
        let missed = to.saturating_sub(from);
        let joins_at = if self.is_relayed { 0 } else { self.head_bytes };
        let may_join = self.is_late && from == joins_at && !self.is_spooled;
        // What was on its way in a frame when its kernel died is nowhere else.
        let was_on_its_way = self.is_relayed && std::mem::take(&mut self.has_resumed);
        let output = output_of(&mut self.outputs, name)?;
        if self.plan.policy == Policy::DropOldest || (may_join && !output.has_joined) {
            self.stage.dropped_bytes.fetch_add(missed, Ordering::Relaxed);
            output.has_joined = true;
        } else if self.is_terminal && missed <= TERMINAL_GAP_BYTES_MAX {
            self.stage.terminal_gap_bytes.fetch_add(missed, Ordering::Relaxed);
        } else if was_on_its_way {
            self.stage.relay_gap_bytes.fetch_add(missed, Ordering::Relaxed);
        } else {
            return Err(format!("{name}: the bytes [{from}, {to}) are missing to a reader that blocks"));
        }
        self.has_read = true;
        output.checker.gap(from, to).map_err(|wrong| format!("{name}: {wrong}"))?;
        Ok(())
    }
}

/// Unless the spawn asks for another.
const HEAD_BYTES: u64 = 64 * 1024;
const PAGE_BYTES: u64 = 4096;
/// What one kill may cost a terminal: one read that nobody noted.
const TERMINAL_GAP_BYTES_MAX: u64 = 4_096;

fn output_of<'o>(outputs: &'o mut [Output], name: &str) -> Result<&'o mut Output, Wrong> {
    let known = outputs.iter_mut().find(|output| output.name == name);
    known.ok_or_else(|| format!("the stream {name:?} was not asked for"))
}
