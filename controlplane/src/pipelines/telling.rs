//! How a pipeline stands: exact numbers from meters, the others from what the system counts for a stage's leader.
//!
//! An edge without a tap is a pipe the kernel has no end of, so its numbers are those of /proc/PID/io, all files of the process
//! together, and are marked as approximate. Whom a stage waits for is what its leader sleeps in (/proc/PID/wchan), or what a
//! tap's source waits for.

use super::{At, Pipeline};
use crate::auth::grant::may_touch;
use crate::auth::principal::Principal;
use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::kernel::Kernel;
use crate::sessions::report;
use crate::state::{Awaited, Pending, Phase, Process};
use kairo_dataplane::command::{Command, Job};
use kairo_dataplane::control::{Failure, Outcome};
use kairo_dataplane::key::{ConnectionKey, Ticket};
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::pipeline::{
    EdgeStatus, FlowStatus, Neighbour, PipelineStatus, PipelineSummary, StageStatus,
};
use kairo_wire::permission::Permission;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// What the system says of a stage's leader.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Read and written, all files together, bytes.
    io: Option<[u64; 2]>,
    sleeps_in: Option<Neighbour>,
}

impl Kernel {
    /// The pipeline an id names, by serial, if the caller may do that to every stage of it.
    pub(crate) fn pipeline(
        &mut self,
        turn: &Turn<'_>,
        asking: &Asking<'_>,
        id: &ProcessId,
    ) -> Result<u64, WireError> {
        let Some((serial, pipeline)) = self.state.pipelines.named(id) else {
            let message = format!("there is no pipeline {id}");
            return Err(WireError::new(Code::NotFound, message).with("id", id.to_string()));
        };
        let permission =
            self.table.get(asking.method).map_or(Permission::ProcessControl, |route| route.permission);
        if self.may_touch_pipeline(turn, asking.connection, permission, pipeline) {
            return Ok(serial);
        }
        Err(WireError::denied(asking.method, &format!("pipeline {id} is somebody else's"))
            .with("id", id.to_string())
            .with("permission", permission.name())
            .with("resource", id.to_string()))
    }

    fn may_touch_pipeline(
        &self,
        turn: &Turn<'_>,
        connection: ConnectionKey,
        permission: Permission,
        pipeline: &Pipeline,
    ) -> bool {
        let principal = self.principal(connection);
        if *principal == Principal::Owner {
            return true;
        }
        let (own, uid) = (may_touch(principal, &pipeline.creator), pipeline.creator.uid);
        pipeline.stages.iter().all(|stage| {
            let id = stage.id.to_string();
            match own {
                true => self.forbidden(turn.at, connection, permission, &id).is_none(),
                false => self.by_grant(turn.at, connection, permission, uid, &id).is_ok(),
            }
        })
    }

    /// Every pipeline the caller may see.
    pub(crate) fn pipelines_seen(&self, turn: &Turn<'_>, connection: ConnectionKey) -> Vec<PipelineSummary> {
        let seen = |pipeline: &&Pipeline| {
            self.may_touch_pipeline(turn, connection, Permission::ProcessObserve, pipeline)
        };
        let pipelines = self.state.pipelines.iter().map(|(_, pipeline)| pipeline);
        let summary = |pipeline: &Pipeline| PipelineSummary {
            id: pipeline.id.clone(),
            state: pipeline.state(),
            started_at_ms: wall_ms(pipeline.started),
            stages: pipeline.stages.iter().map(|stage| stage.id.clone()).collect(),
            exit_code: pipeline.exit().map(|(code, _)| code),
        };
        pipelines.filter(seen).map(summary).collect()
    }

    /// Has the files read that tell of stages that run, for a call; answers at once if none does.
    pub(crate) fn look_at_stages(&mut self, turn: &mut Turn<'_>, asking: &Asking<'_>, serial: u64) {
        let files = self.files_of(serial);
        if files.is_empty() {
            if let Some(status) = self.pipeline_status(turn, serial, &[]) {
                self.answer(turn, asking, &status);
            }
            return;
        }
        let call = self.park(turn, asking, Pending::Pipeline { pipeline: serial, what: Awaited::Status });
        if let Some(pipeline) = self.state.pipelines.get_mut(serial) {
            pipeline.calls.push(call);
        }
        let files = files.into_iter().flat_map(|(_, files)| files).collect();
        turn.out.push(Command::Work { ticket: Ticket(call), job: Job::Read(files) });
    }

    /// By stage, for those that run: what it has read and written, and what it sleeps in.
    fn files_of(&self, serial: u64) -> Vec<(usize, [PathBuf; 2])> {
        let Some(pipeline) = self.state.pipelines.get(serial) else { return Vec::new() };
        let running = pipeline.stages.iter().enumerate().filter_map(|(index, stage)| {
            let process = self.state.processes.get(&stage.process?)?;
            (process.phase == Phase::Running)
                .then(|| (index, ["io", "wchan"].map(|file| format!("/proc/{}/{file}", process.pid).into())))
        });
        running.collect()
    }

    /// The worker has read them. What has exited since has no files, and needs none.
    pub(crate) fn stages_read(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: u64,
        outcome: Result<Outcome, Failure>,
    ) {
        let Some(call) = self.state.calls.get(&ticket) else { return };
        let Pending::Pipeline { pipeline, what: Awaited::Status } = call.pending else { return };
        let read = match outcome {
            Ok(Outcome::Worked(read)) => read,
            Ok(_) | Err(_) => Vec::new(),
        };
        let text = |bytes: &Result<bytes::Bytes, i32>| {
            let bytes = bytes.as_ref().ok()?;
            std::str::from_utf8(bytes).ok().map(str::to_owned)
        };
        let seen: Vec<Seen> = read
            .chunks(2)
            .map(|files| Seen {
                io: files.first().and_then(text).and_then(|text| io(&text)),
                sleeps_in: files.get(1).and_then(text).and_then(|text| sleeps_in(&text)),
            })
            .collect();
        match self.pipeline_status(turn, pipeline, &seen) {
            Some(status) => self.resolve(turn, ticket, &status),
            None => self.reject(turn, ticket, &WireError::new(Code::NotFound, "the pipeline is forgotten")),
        }
    }

    /// `seen` is of the stages that ran when it was asked for, in order.
    fn pipeline_status(&mut self, turn: &Turn<'_>, serial: u64, seen: &[Seen]) -> Option<PipelineStatus> {
        let pipeline = self.state.pipelines.get(serial)?;
        let since_ns = pipeline.asked_ns.unwrap_or(pipeline.started.monotonic_ns);
        let elapsed_ns = turn.at.monotonic_ns.saturating_sub(since_ns);
        let mut seen = seen.iter();
        let mut stages = Vec::new();
        for (index, stage) in pipeline.stages.iter().enumerate() {
            let process = stage.process.and_then(|process| self.state.processes.get(&process));
            let process = process.map(|process| &**process);
            let ran = process.is_some_and(|process| process.phase == Phase::Running);
            let seen = if ran { seen.next().copied().unwrap_or_default() } else { Seen::default() };
            let flows = [0, 1].map(|side| {
                let (bytes, approximate) = match process.and_then(|process| exact(process, side)) {
                    Some(bytes) => (Some(bytes), false),
                    None => (seen.io.map(|io| io[side]).or(stage.told[side]), true),
                };
                let before = stage.told[side].unwrap_or(0);
                let more = bytes.map(|bytes| bytes.saturating_sub(before));
                let rate = more.map(|more| per_second(more, elapsed_ns));
                FlowStatus { bytes, bytes_per_second: rate, approximate: approximate && bytes.is_some() }
            });
            stages.push(StageStatus {
                id: stage.id.clone(),
                pid: process.filter(|process| process.pid != 0).map(|process| process.pid),
                input: flows[0],
                output: flows[1],
                waits_for: waits_for(pipeline, index, process, seen),
                exit: process.and_then(report::exit),
            });
        }
        let status = PipelineStatus {
            id: pipeline.id.clone(),
            state: pipeline.state(),
            owner: pipeline.creator.told(self.config.owner_uid),
            started_at_ms: wall_ms(pipeline.started),
            edges: self.edges(pipeline),
            exit_code: pipeline.exit().map(|(code, _)| code),
            stages,
        };
        let pipeline = self.state.pipelines.get_mut(serial)?;
        pipeline.asked_ns = Some(turn.at.monotonic_ns);
        for (stage, told) in pipeline.stages.iter_mut().zip(&status.stages) {
            stage.told = [told.input.bytes, told.output.bytes];
        }
        Some(status)
    }

    fn edges(&self, pipeline: &Pipeline) -> Vec<EdgeStatus> {
        let process = |index: usize| self.state.processes.get(&pipeline.stages.get(index)?.process?);
        let edge = |(index, edge): (usize, &kairo_wire::methods::pipeline::PipelineEdge)| {
            let held = edge.tap.then(|| {
                let (from, into) = (process(index)?, process(index + 1)?);
                Some(from.meter.streams[0].taken_bytes.get().saturating_sub(into.meter.stdin_bytes.get()))
            });
            EdgeStatus { tap: edge.tap, stderr: edge.stderr, held_bytes: held.flatten() }
        };
        pipeline.edges.iter().enumerate().map(edge).collect()
    }
}

/// What went into a process (0) or came out of it (1), if that passes the kernel.
fn exact(process: &Process, side: usize) -> Option<u64> {
    match side {
        0 if process.wired.fed.is_some() || process.meter.stdin_pipe_bytes.load(Ordering::Relaxed) > 0 => {
            Some(process.meter.stdin_bytes.get())
        }
        1 if !process.wired.joined[1] => Some(process.meter.streams[0].taken_bytes.get()),
        _ => None,
    }
}

fn per_second(bytes: u64, elapsed_ns: u64) -> u64 {
    (u128::from(bytes) * 1_000_000_000 / u128::from(elapsed_ns.max(1))).min(u128::from(u64::MAX)) as u64
}

fn waits_for(pipeline: &Pipeline, index: usize, process: Option<&Process>, seen: Seen) -> Option<Neighbour> {
    let process = process.filter(|_| pipeline.stages[index].at == At::Running)?;
    let last = index + 1 == pipeline.stages.len();
    if process.meter.streams[0].paused.load(Ordering::Relaxed) && !last {
        return Some(Neighbour::Next);
    }
    match seen.sleeps_in? {
        Neighbour::Previous if index > 0 => Some(Neighbour::Previous),
        Neighbour::Next if !last => Some(Neighbour::Next),
        Neighbour::Previous | Neighbour::Next => None,
    }
}

/// `rchar` and `wchar` of /proc/PID/io (proc(5)).
fn io(text: &str) -> Option<[u64; 2]> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line?.trim().parse().ok()
    };
    Some([field("rchar")?, field("wchar")?])
}

/// What /proc/PID/wchan means, if it is a pipe.
fn sleeps_in(text: &str) -> Option<Neighbour> {
    match text.trim() {
        "pipe_read" | "anon_pipe_read" => Some(Neighbour::Previous),
        "pipe_write" | "anon_pipe_write" => Some(Neighbour::Next),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read_as_it_says_it() {
        assert_eq!(io("rchar: 12\nwchar: 34\nsyscr: 5\n"), Some([12, 34]));
        assert_eq!(io("rchar: x\nwchar: 34\n"), None);
        assert_eq!(sleeps_in("anon_pipe_write"), Some(Neighbour::Next));
        assert_eq!(sleeps_in("0"), None);
        assert_eq!(per_second(3_000, 2_000_000_000), 1_500);
    }
}
