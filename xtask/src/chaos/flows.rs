//! Pipelines, and streams that clients write: who starts them, and who reads them to their end.
//!
//! ```text
//! pipeline.spawn ─▶ readers of the last stage and of every tap ─▶ pipeline.wait
//! stream.publish ─▶ write ─┬─▶ the end ─▶ its reader has all of it
//!                          └─▶ the kernel is gone: the stream is over, what its reader has is the beginning ─▶ another one
//! ```
//!
//! A pipeline goes on over kernels, exactly, whatever its edges are. A stream that a client writes ends with its kernel, and both
//! sides are told.

use super::check::{Checker, Wrong};
use super::kernel::MARKER;
use super::line::{Caller, Cut, Line};
use super::plan::{Mode, Pace, Pipeline, Policy, Process, Producer, Reader, Script};
use super::reader::Reading;
use super::stage::Stage;
use crate::support::pattern;
use crate::support::raw::{EVENT, STREAM_CHUNK, field, value};
use rmpv::Value;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value as Json, json};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a write waits before somebody looks whether there is anything to wait for.
const TICK_NS: i64 = 20_000_000;

/// Starts a pipeline once, reads it, and waits for its end.
pub(crate) fn join(
    stage: &Stage,
    who: &str,
    plan: &Pipeline,
    child: &[String],
    marker: &str,
) -> Result<(), Wrong> {
    std::thread::sleep(Duration::from_micros(plan.after_us));
    let of = |at: usize| format!("{who}.{at}");
    let read: Vec<usize> = (0..plan.stages.len()).filter(|at| plan.taps.get(*at) != Some(&false)).collect();
    read.iter().for_each(|at| stage.begins(&of(*at)));
    let mut caller = Caller::new(stage);
    start(stage, who, &params(who, plan, child, marker), &mut caller)?;
    let process = Process::written(Script::Sequence(Some(plan.bytes)));
    std::thread::scope(|scope| {
        let readers = read.iter().map(|at| {
            let (id, name) = (of(*at), format!("{who} reader of stage {at}"));
            let pace = if of(*at) == of(plan.stages.len() - 1) { plan.pace } else { Pace::Full };
            let reader = Reader { policy: Policy::Block, mode: Mode::Chunk, pace, rate: None };
            let process = &process;
            scope.spawn(move || {
                let read = Reading::new(stage, &name, &id, process, reader).run();
                if read.is_err() {
                    stage.fail();
                }
                read.map(drop).map_err(|wrong| format!("{name}: {wrong}"))
            })
        });
        let readers: Vec<_> = readers.collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().unwrap_or_else(|_| Err("panicked".to_owned())))
    })?;
    stage.doing(who, "waits for its end");
    let reply = caller.must("pipeline.wait", &json!({"id": who}))?;
    match reply["exitCode"] == plan.exit {
        true => Ok(()),
        false => Err(format!("it ended with {reply}, and {} was to be", plan.exit)),
    }
}

fn params(who: &str, plan: &Pipeline, child: &[String], marker: &str) -> Json {
    let last = plan.stages.len() - 1;
    let stages = plan.stages.iter().enumerate().map(|(at, role)| {
        let mut options = json!({"env": {MARKER: marker}});
        if at == last {
            // Nothing of it is lost before it is read.
            options["whenUnread"] = "block".into();
        }
        let command = [child, role].concat();
        json!({"command": command, "options": options})
    });
    let edges: Vec<Json> = plan.taps.iter().map(|tap| json!({"tap": tap})).collect();
    json!({"id": who, "stages": stages.collect::<Vec<_>>(), "edges": edges})
}

/// A start that was cut off is undone, so who got no answer looks whether it is there.
fn start(stage: &Stage, who: &str, params: &Json, caller: &mut Caller<'_>) -> Result<(), Wrong> {
    stage.doing(who, "starts it");
    loop {
        match caller.once("pipeline.spawn", value(params), None) {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(refusal)) => return Err(format!("pipeline.spawn: {refusal:?}")),
            Err(Cut::Wrong(wrong)) => return Err(wrong),
            Err(Cut::Lost) => {}
        }
        match caller.insist("pipeline.status", &json!({"id": who}))? {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.code == "E_NOT_FOUND" => {}
            Err(refusal) => return Err(format!("pipeline.status: {refusal:?}")),
        }
    }
}

/// How a stream that was written has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// As its producer liked.
    Whole,
    /// With its kernel.
    Orphaned,
}

/// Writes a stream to its end, in as many attempts as it takes.
pub(crate) fn produce(stage: &Stage, who: &str, plan: Producer) -> Result<(), Wrong> {
    for attempt in 0_u64.. {
        stage.doing(who, format!("publishes, for time {attempt}"));
        let id = format!("{who}.{attempt}");
        let mut line = Line::open(stage, None)?;
        let params = json!({"id": id, "transport": "pipe", "whenUnread": "block"});
        match line.call("stream.publish", &params, None) {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) if refusal.info["retryable"] != true => {
                return Err(format!("publish {params}: {refusal:?}"));
            }
            Err(Cut::Wrong(wrong)) => return Err(wrong),
            Ok(Err(_)) | Err(Cut::Lost) => continue,
        }
        let Some(pipe) = line.descriptors.pop() else { return Err("no descriptor to write to".to_owned()) };
        let is_read = AtomicBool::new(false);
        let (wrote, read) = std::thread::scope(|scope| {
            // What nobody reads yet when its producer is done is kept as far as the history goes.
            let begun = || stage.until(|| is_read.load(Ordering::Relaxed));
            let write = scope.spawn(move || begun().and_then(|()| write(stage, plan, File::from(pipe))));
            let read = follow(stage, &id, plan.bytes, &is_read);
            is_read.store(true, Ordering::Relaxed);
            (write.join().unwrap_or_else(|_| Err("panicked".to_owned())), read)
        });
        match (wrote?, read?) {
            (_, Fate::Whole) => return Ok(()),
            // What was in the pipe when its last byte was written may have gone with the kernel.
            (_, Fate::Orphaned) => {
                stage.reconnections.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

fn write(stage: &Stage, plan: Producer, mut pipe: File) -> Result<Fate, Wrong> {
    rustix::io::ioctl_fionbio(&pipe, true).map_err(|error| error.to_string())?;
    let mut at = 0;
    while at < plan.bytes {
        stage.check()?;
        let piece = pattern::bytes(at, plan.write_bytes.min(plan.bytes - at) as usize);
        match pipe.write(&piece) {
            Ok(written) => at += written as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let tick = Timespec { tv_sec: 0, tv_nsec: TICK_NS };
                // Whatever it says, the next write finds out.
                let _ = poll(&mut [PollFd::new(&pipe, PollFlags::OUT)], Some(&tick));
                continue;
            }
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Fate::Orphaned),
            Err(error) => return Err(format!("at {at}: {error}")),
        }
        stage.dawdle(Duration::from_micros(plan.pause_us));
    }
    Ok(Fate::Whole)
}

/// Reads it to its end, over however many kernels.
fn follow(stage: &Stage, id: &str, bytes: u64, is_read: &AtomicBool) -> Result<Fate, Wrong> {
    let (mut checker, mut resumes) = (Checker::new(&Script::Sequence(Some(bytes))), None);
    loop {
        match try_follow(stage, id, is_read, (&mut checker, &mut resumes)) {
            Ok(()) => return Ok(Fate::Whole),
            Err(Cut::Lost) => drop(stage.reconnections.fetch_add(1, Ordering::Relaxed)),
            Err(Cut::Wrong(wrong)) => return Err(format!("{id}: {wrong}")),
        }
    }
}

fn try_follow(
    stage: &Stage,
    id: &str,
    is_read: &AtomicBool,
    (checker, resumes): (&mut Checker, &mut Option<String>),
) -> Result<(), Cut> {
    let mut line = Line::open(stage, None)?;
    // So that a kernel that has never heard of it is known by that.
    let mut open = json!({"id": id, "transport": "frames", "from": checker.at()});
    if let Some(resumes) = resumes {
        open["resumes"] = resumes.as_str().into();
    }
    match line.call("stream.open", &open, None)? {
        Ok(reply) => *resumes = reply["subscriptionId"].as_str().map(str::to_owned),
        Err(refusal) if refusal.info["retryable"] == true => return Err(Cut::Lost),
        Err(refusal) => return Err(Cut::Wrong(format!("open {open}: {refusal:?}"))),
    }
    is_read.store(true, Ordering::Relaxed);
    loop {
        stage.check()?;
        let Some(frame) = line.next()? else { continue };
        if frame.kind == STREAM_CHUNK {
            let value = frame.value();
            let offset = field(&value, "offset").and_then(Value::as_u64).unwrap_or(u64::MAX);
            let Some(Value::Binary(data)) = field(&value, "data") else {
                return Err(Cut::Wrong("a chunk without data".to_owned()));
            };
            checker.take(offset, data)?;
            stage.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        } else if frame.kind == EVENT {
            let event = frame.json();
            match (event["topic"].as_str(), event["data"]["reason"].as_str()) {
                (Some("stream.end"), Some("closed")) => {
                    let total = event["data"]["totalBytes"].as_u64().unwrap_or(u64::MAX);
                    return Ok(checker.end(total, true)?);
                }
                (Some("stream.end"), Some("shutdown")) => return Err(Cut::Lost),
                (Some("stream.end" | "stream.gap"), _) => return Err(Cut::Wrong(format!("{event}"))),
                _ => {}
            }
        }
    }
}
