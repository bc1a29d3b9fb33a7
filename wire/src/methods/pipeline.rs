//! Programs joined output to input: started together or not at all, watched and ended under one id.
//!
//! Each stage is a process like any other, with an id of its own; what is between two of them is an *edge*. An edge without a
//! tap is a pipe the two share and nobody else sees; one with a tap goes through the kernel, which keeps its past and lets
//! others read it as the stdout of the stage before. The guide is docs/PIPELINES.md.

use crate::codec::raw::Raw;
use crate::codec::text::OsText;
use crate::id::ProcessId;
use crate::method::{Since, methods, need, need_any};
use crate::methods::options::{SignalName, SpawnOptions};
use crate::methods::status::{Exit, ProgramRead};
use crate::methods::system::Principal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Starts programs, the stdout of each joined to the stdin of the next.
    ///
    /// All of them or none: where one can't be started the others are ended, and the error names the stage (`stage` in its
    /// details, the field as `stages[2].command[0]`). Each stage takes what `process.spawn` takes, permission and quota
    /// alike. What a stage can't have because it is one (a terminal, restarts, a stdin behind the first) is refused.
    Spawn = "pipeline.spawn"(PipelineSpawnParams) -> PipelineSpawnResult {
        required: [need("id"), need_any("stages")],
        permission: ProcessSpawn,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [
            AlreadyExists, Busy, Conflict, Unsupported, TooLarge, ExecutableNotFound, NotExecutable, Cwd, SpawnFailed,
            KeeperLost, Unavailable,
        ],
        example: r#"{"id": "thumbs", "stages": [{"command": ["ffmpeg", "-i", "in.mp4", "-f", "rawvideo", "-"]}, {"command": ["filter"]}, {"command": ["ffmpeg", "-f", "rawvideo", "-i", "-", "out.mp4"]}], "edges": [{"tap": true}]}"#,
    }

    /// Tells how a pipeline and each stage of it stand: bytes, rates, who waits for whom, exits.
    ///
    /// Rates are those since the last time it was asked, or since the start. What doesn't pass the kernel is read from what
    /// the system counts for the stage's process, and marked `approximate`.
    Status = "pipeline.status"(PipelineTargetParams) -> PipelineStatus {
        required: [need("id")],
        permission: ProcessObserve,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"id": "thumbs"}"#,
    }

    /// Answers when every stage has exited; at once if all have.
    ///
    /// `exitCode` is that of the last stage that failed, 0 if none did, as a shell with `pipefail` has it.
    Wait = "pipeline.wait"(PipelineWaitParams) -> PipelineWaitResult {
        required: [need("id")],
        permission: ProcessObserve,
        since: Since::Release("0.1.0"),
        errors: [NotFound, KeeperLost, Lost],
        example: r#"{"id": "thumbs", "timeoutMs": 60000}"#,
    }

    /// Ends every stage: SIGTERM to their trees, then SIGKILL after a grace time.
    Kill = "pipeline.kill"(PipelineKillParams) -> PipelineKillResult {
        required: [need("id")],
        permission: ProcessControl,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, KeeperLost],
        example: r#"{"id": "thumbs", "graceMs": 2000}"#,
    }

    /// Lists the pipelines the caller may see, in the order they were started.
    List = "pipeline.list"(PipelineListParams) -> PipelineListResult {
        required: [],
        permission: ProcessList,
        since: Since::Release("0.1.0"),
        errors: [],
        example: "{}",
    }
}

/// Programs, and how they are joined.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineSpawnParams {
    /// What the whole will be called. Stages that have no id of their own are called `ID.0`, `ID.1`, ….
    pub id: ProcessId,
    /// 1 to 32, in the order bytes go.
    #[schemars(length(min = 1, max = 32))]
    pub stages: Vec<PipelineStage>,
    /// How each stage is joined to the next, from the first on; what is absent is a plain pipe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<PipelineEdge>,
}

/// A program and how to run it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineStage {
    /// Its own name, to `subscribe` to its outputs by; `ID.N` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ProcessId>,
    /// Its argv, the program first.
    #[schemars(length(min = 1))]
    pub command: Vec<OsText>,
    /// As of `process.spawn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Box<SpawnOptions>>,
}

/// How a stage is joined to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PipelineEdge {
    /// It passes the kernel: counted exactly, kept as the stage's options say, and there to be read as its stdout.
    pub tap: bool,
    /// Where the stage complains.
    pub stderr: EdgeStderr,
}

crate::methods::words! {
    /// Where a stage complains.
    EdgeStderr or Apart {
        /// A stream of its own, or what its options say.
        Apart = "apart",
        /// Into the next stage, with its stdout.
        Merged = "merged",
    }
}

/// They run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PipelineSpawnResult {
    /// Always `spawned`.
    pub status: PipelineSpawnStatus,
    /// As it was given.
    pub id: ProcessId,
    /// In order.
    pub stages: Vec<StageSpawned>,
}

crate::methods::words! {
    /// The answer to `pipeline.spawn`.
    PipelineSpawnStatus {
        /// All programs run.
        Spawned = "spawned",
    }
}

/// A stage that runs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StageSpawned {
    /// Its name.
    pub id: ProcessId,
    /// Its process id in the operating system.
    pub pid: i32,
    /// The receipt of its sandbox, if it asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Raw>,
    /// What it executes, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramRead>,
}

/// A pipeline and nothing more.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PipelineTargetParams {
    /// Which.
    pub id: ProcessId,
}

/// A pipeline.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStatus {
    /// Its name.
    pub id: ProcessId,
    /// Where it is.
    pub state: PipelineState,
    /// Who started it.
    pub owner: Principal,
    /// When, milliseconds since 1970.
    pub started_at_ms: u64,
    /// In order.
    pub stages: Vec<StageStatus>,
    /// Between them; one less than there are stages.
    pub edges: Vec<EdgeStatus>,
    /// As `pipeline.wait` has it, once every stage has exited and it is known how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

crate::methods::words! {
    /// Where a pipeline is.
    PipelineState {
        /// Its stages are being started.
        Starting = "starting",
        /// At least one has not exited.
        Running = "running",
        /// All have.
        Ended = "ended",
        /// Of one at least it can't be told.
        Lost = "lost",
    }
}

/// A stage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStatus {
    /// Its name.
    pub id: ProcessId,
    /// In the operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// What it read.
    pub input: FlowStatus,
    /// What it wrote to its stdout.
    pub output: FlowStatus,
    /// For whom it waits now, if for a neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<Neighbour>,
    /// How it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

crate::methods::words! {
    /// For whom a stage waits.
    Neighbour {
        /// The one before it writes nothing.
        Previous = "previous",
        /// The one behind it reads nothing.
        Next = "next",
    }
}

/// How much went through somewhere, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowStatus {
    /// Absent where nobody counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes a second since the last time it was asked, or since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// It is what the system counts for the whole process, all its files together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approximate: bool,
}

/// What is between two stages.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeStatus {
    /// It passes the kernel.
    pub tap: bool,
    /// Where the stage before it complains.
    pub stderr: EdgeStderr,
    /// Bytes the kernel has of it that the stage behind has not; where it passes the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_bytes: Option<u64>,
}

/// For which end, and how long.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineWaitParams {
    /// Which.
    pub id: ProcessId,
    /// How long, milliseconds; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// How it ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineWaitResult {
    /// Always `exited`.
    pub status: PipelineWaitStatus,
    /// As it was given.
    pub id: ProcessId,
    /// That of the last stage that failed, 0 if none did; 128+n for one that signal n ended.
    pub exit_code: i32,
    /// Which stage that was, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_stage: Option<u32>,
    /// Each, in order.
    pub stages: Vec<StageExit>,
}

crate::methods::words! {
    /// The answer to `pipeline.wait`.
    PipelineWaitStatus {
        /// Every stage has exited.
        Exited = "exited",
    }
}

/// How a stage ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageExit {
    /// Its name.
    pub id: ProcessId,
    /// Its exit code, or 128+n if signal n ended it; absent if nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// What to end, and how.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineKillParams {
    /// Which.
    pub id: ProcessId,
    /// Sent first; TERM if absent. KILL needs no grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalName>,
    /// Until SIGKILL, milliseconds; 5,000 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// The signals are on their way.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PipelineKillResult {
    /// Always `killed`.
    pub status: PipelineKillStatus,
    /// As it was given.
    pub id: ProcessId,
}

crate::methods::words! {
    /// The answer to `pipeline.kill`.
    PipelineKillStatus {
        /// A signal is on its way to every stage that is left, or there is none.
        Killed = "killed",
    }
}

/// Nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PipelineListParams {}

/// All the caller may see.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PipelineListResult {
    /// In the order they were started.
    pub pipelines: Vec<PipelineSummary>,
}

/// A pipeline in a line.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineSummary {
    /// Its name.
    pub id: ProcessId,
    /// Where it is.
    pub state: PipelineState,
    /// When it was started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// The names of its stages, in order.
    pub stages: Vec<ProcessId>,
    /// As `pipeline.wait` has it, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}
