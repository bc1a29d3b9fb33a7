//! Starting, driving and ending processes.
//!
//! What a spawn can ask for is in `options`, what a status tells in `status`.

use crate::codec::data::Data;
use crate::codec::raw::Raw;
use crate::codec::text::OsText;
use crate::id::ProcessId;
use crate::method::{Since, methods, need, need_any};
use crate::methods::options::{SignalName, SpawnOptions, TerminalSize};
use crate::methods::status::{Exit, ProcessStatus, ProgramRead};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Starts a program and everything that hangs on it: pipes or a terminal, streams with a history, a tree.
    ///
    /// The program is `command[0]`, looked up in the child's own PATH unless it has a slash; no shell is involved.
    /// The answer comes when the program runs (its exec succeeded). An id may be used again by its owner once its
    /// tree is gone; a spawn over one that is being killed waits up to 4 s for it.
    Spawn = "process.spawn"(SpawnParams) -> SpawnResult {
        required: [need("id"), need("command")],
        permission: ProcessSpawn,
        changes: true,
        since: Since::V1,
        errors: [
            AlreadyExists, Busy, Conflict, Unsupported, TooLarge, ExecutableNotFound, NotExecutable, Cwd, SpawnFailed,
            KeeperLost, Unavailable,
        ],
        example: r#"{"id": "clip", "command": ["ffmpeg", "-i", "in.mp4", "-f", "rawvideo", "-"], "options": {"cwd": "/srv/media", "pipeBytes": 1048576}}"#,
    }

    /// Ends a process: SIGTERM to its whole tree, then SIGKILL after a grace time.
    ///
    /// Answers when the first signal is sent. A paused tree is continued. Killing an id that has exited answers
    /// `killed` again.
    Kill = "process.kill"(KillParams) -> KillResult {
        required: [need("id")],
        permission: ProcessControl,
        changes: true,
        since: Since::V1,
        errors: [NotFound, KeeperLost, Lost],
        example: r#"{"id": "clip", "signal": "TERM", "graceMs": 5000, "scope": "tree"}"#,
    }

    /// Sends one signal, and nothing else.
    Signal = "process.signal"(SignalParams) -> SignalResult {
        required: [need("id"), need_any("signal")],
        permission: ProcessControl,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, KeeperLost, Lost],
        example: r#"{"id": "repl", "signal": "HUP", "scope": "leader"}"#,
    }

    /// Stops the tree (SIGSTOP). An unknown id answers `failed`.
    Pause = "process.pause"(TargetParams) -> PauseResult {
        required: [need("id")],
        permission: ProcessControl,
        changes: true,
        since: Since::V1,
        errors: [KeeperLost],
        example: r#"{"id": "clip"}"#,
    }

    /// Continues the tree (SIGCONT). An unknown id answers `failed`.
    Resume = "process.resume"(TargetParams) -> ResumeResult {
        required: [need("id")],
        permission: ProcessControl,
        changes: true,
        since: Since::V1,
        errors: [KeeperLost],
        example: r#"{"id": "clip"}"#,
    }

    /// Writes to stdin or the terminal, whole and in order.
    ///
    /// Answers when the last byte is in the child's pipe, with the offset reached. Until then the write is parked;
    /// `kernel.cancel` gives it up.
    StdinWrite = "process.stdin.write"(StdinWriteParams) -> StdinWriteResult {
        required: [need("id"), need_any("data")],
        permission: ProcessWrite,
        changes: true,
        since: Since::V1,
        errors: [Conflict, NotFound, StdinClosed, WouldBlock],
        example: r#"{"id": "repl", "data": "print(6*7)\n"}"#,
    }

    /// Closes stdin after what has been written; a terminal gets its end-of-file character.
    StdinClose = "process.stdin.close"(TargetParams) -> StdinCloseResult {
        required: [need("id")],
        permission: ProcessWrite,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, StdinClosed],
        example: r#"{"id": "clip"}"#,
    }

    /// Changes the size of the process's terminal.
    Resize = "process.resize"(ResizeParams) -> ResizeResult {
        required: [need("id"), need_any("rows"), need_any("cols")],
        permission: ProcessWrite,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, NoTerminal],
        example: r#"{"id": "repl", "rows": 40, "cols": 120}"#,
    }

    /// Answers when the process exits; at once if it has exited within the last hour.
    ///
    /// After `timeoutMs` without an exit it answers `E_TIMEOUT`.
    Wait = "process.wait"(WaitParams) -> WaitResult {
        required: [need("id")],
        permission: ProcessObserve,
        since: Since::V1,
        errors: [NotFound, KeeperLost, Lost],
        example: r#"{"id": "clip", "timeoutMs": 60000}"#,
    }

    /// Tells a process's state; everything about it with `detail`. An unknown id is `{state: "unknown"}`.
    Status = "process.status"(StatusParams) -> ProcessStatus {
        required: [need("id")],
        permission: ProcessObserve,
        since: Since::V1,
        errors: [],
        example: r#"{"id": "clip", "detail": true}"#,
    }

    /// Lists all processes the caller may see, in detail, in the order they were spawned.
    List = "process.list"(ListParams) -> ListResult {
        required: [],
        permission: ProcessList,
        since: Since::Release("0.1.0"),
        errors: [],
        example: "{}",
    }
}

/// A program and how to run it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SpawnParams {
    /// What it will be called.
    pub id: ProcessId,
    /// Its argv, the program first.
    #[schemars(length(min = 1))]
    pub command: Vec<OsText>,
    /// How to run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<Box<SpawnOptions>>,
}

/// It runs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SpawnResult {
    /// Always `spawned`.
    pub status: SpawnStatus,
    /// As it was given.
    pub id: ProcessId,
    /// Its process id in the operating system.
    pub pid: i32,
    /// The receipt of its sandbox, if it asked for one: asked for beside in force, protection by protection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Raw>,
    /// What it executes, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramRead>,
}

crate::methods::words! {
    /// The answer to `process.spawn`.
    SpawnStatus {
        /// The program runs.
        Spawned = "spawned",
    }
}

/// Whom to end, and how.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KillParams {
    /// Which.
    pub id: ProcessId,
    /// Sent first; TERM if absent. KILL needs no grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalName>,
    /// Until SIGKILL, milliseconds; 5,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// `tree` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

crate::methods::words! {
    /// Who gets a signal.
    Scope {
        /// The process that was started, and everything it started.
        Tree = "tree",
        /// Only the process that was started.
        Leader = "leader",
    }
}

/// The signal is sent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KillResult {
    /// Always `killed`.
    pub status: KillStatus,
    /// As it was given.
    pub id: ProcessId,
}

crate::methods::words! {
    /// The answer to `process.kill`.
    KillStatus {
        /// The signal is sent, or there is nobody left to send it to.
        Killed = "killed",
    }
}

/// A signal.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SignalParams {
    /// To which.
    pub id: ProcessId,
    /// Which signal.
    pub signal: SignalName,
    /// `tree` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// The signal is sent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SignalResult {
    /// Always `signalled`.
    pub status: SignalStatus,
    /// As it was given.
    pub id: ProcessId,
    /// To how many processes.
    pub processes: u32,
}

crate::methods::words! {
    /// The answer to `process.signal`.
    SignalStatus {
        /// The signal is sent.
        Signalled = "signalled",
    }
}

/// A process and nothing more.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TargetParams {
    /// Which.
    pub id: ProcessId,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PauseResult {
    /// Whether it stopped.
    pub status: PauseStatus,
    /// As it was given.
    pub id: ProcessId,
}

crate::methods::words! {
    /// The answer to `process.pause`.
    PauseStatus {
        /// Every member of the tree was stopped.
        Paused = "paused",
        /// There is no such process (any more).
        Failed = "failed",
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResumeResult {
    /// Whether it goes on.
    pub status: ResumeStatus,
    /// As it was given.
    pub id: ProcessId,
}

crate::methods::words! {
    /// The answer to `process.resume`.
    ResumeStatus {
        /// Every member of the tree goes on.
        Resumed = "resumed",
        /// There is no such process (any more).
        Failed = "failed",
    }
}

/// Bytes for a child.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StdinWriteParams {
    /// For which.
    pub id: ProcessId,
    /// Text or binary; invalid UTF-8 in a text goes through unchanged.
    pub data: Data,
}

/// The child can read them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StdinWriteResult {
    /// Always `written`.
    pub status: StdinWriteStatus,
    /// As it was given.
    pub id: ProcessId,
    /// Bytes that went into the child's stdin since its birth, these included.
    pub offset: u64,
}

crate::methods::words! {
    /// The answer to `process.stdin.write`.
    StdinWriteStatus {
        /// All bytes are in the child's pipe.
        Written = "written",
    }
}

/// Nothing more can be written.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StdinCloseResult {
    /// Always `closed`.
    pub status: StdinCloseStatus,
    /// As it was given.
    pub id: ProcessId,
}

crate::methods::words! {
    /// The answer to `process.stdin.close`.
    StdinCloseStatus {
        /// The child reads end-of-file after what was written.
        Closed = "closed",
    }
}

/// A new size.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResizeParams {
    /// Whose terminal.
    pub id: ProcessId,
    /// Lines.
    #[serde(deserialize_with = "crate::methods::options::extent")]
    #[schemars(range(min = 1, max = 65534))]
    pub rows: u16,
    /// Columns.
    #[serde(deserialize_with = "crate::methods::options::extent")]
    #[schemars(range(min = 1, max = 65534))]
    pub cols: u16,
}

impl ResizeParams {
    /// The size as one value.
    pub fn size(&self) -> TerminalSize {
        TerminalSize { rows: self.rows, cols: self.cols }
    }
}

/// It has the new size.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResizeResult {
    /// Always `resized`.
    pub status: ResizeStatus,
    /// As it was given.
    pub id: ProcessId,
}

crate::methods::words! {
    /// The answer to `process.resize`.
    ResizeStatus {
        /// The terminal has the new size.
        Resized = "resized",
    }
}

/// For which exit, and how long.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitParams {
    /// Which.
    pub id: ProcessId,
    /// How long, milliseconds; for ever if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// How it ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitResult {
    /// Always `exited`.
    pub status: WaitStatus,
    /// As it was given.
    pub id: ProcessId,
    /// Its exit code, or 128+n if signal n ended it.
    pub exit_code: i32,
    /// The same apart, and more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
}

crate::methods::words! {
    /// The answer to `process.wait`.
    WaitStatus {
        /// The leader has exited.
        Exited = "exited",
    }
}

/// About which, and how much.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StatusParams {
    /// Which.
    pub id: ProcessId,
    /// Everything.
    #[serde(default)]
    pub detail: bool,
}

/// Nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ProcessListParams")]
pub struct ListParams {}

/// All the caller may see.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ProcessListResult")]
pub struct ListResult {
    /// In the order they were spawned.
    pub processes: Vec<ProcessStatus>,
}
