//! What is told about a process: its state, its streams, its readers, who waits for whom, and how it ended.
//!
//! Shared by `process.status`, `process.list`, `process.wait` and the events about processes.

use crate::codec::raw::Raw;
use crate::codec::text::OsText;
use crate::id::{ProcessId, SubscriptionId};
use crate::methods::options::{OnDisconnect, TerminalSize, WhenUnread};
use crate::methods::restart::RestartStatus;
use crate::methods::spool::SpoolStatus;
use crate::methods::stream::{Mode, Policy, Rate, StreamName};
use crate::methods::system::Principal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A process's state. Without detail it has the v1 fields alone.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// Running from the spawn to the exit of the leader.
    pub state: State,
    /// In the operating system; only while running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Its exit code, or 128+n if signal n ended it; only once exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// As its client named it; with detail only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<ProcessId>,
    /// Everything else; if it was asked for and the process is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<Detail>>,
}

impl ProcessStatus {
    /// What is said of an id nobody has used, or the caller may not see.
    pub const UNKNOWN: ProcessStatus =
        ProcessStatus { state: State::Unknown, pid: None, exit_code: None, id: None, detail: None };
}

crate::methods::words! {
    /// A process's state, as v1 knows it.
    State {
        /// The leader runs, or is being started.
        Running = "running",
        /// The leader has exited.
        Exited = "exited",
        /// There is no such process.
        Unknown = "unknown",
    }
}

crate::methods::words! {
    /// Where a process is in its life.
    Phase {
        /// Asked for, not yet running.
        Starting = "starting",
        /// The leader runs.
        Running = "running",
        /// The tree was stopped by `process.pause`.
        Paused = "paused",
        /// It was told to end and has not yet.
        Ending = "ending",
        /// The leader has exited; others of its tree may run, streams may be open.
        Exited = "exited",
        /// Nobody of the tree is left.
        Ended = "ended",
        /// The keeper died, or the machine was restarted, and took what was known with it.
        Lost = "lost",
    }
}

/// Everything about a process.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Detail {
    /// Where it is in its life.
    pub phase: Phase,
    /// This life's name: `KAIRO_SESSION` of its environment.
    pub session: String,
    /// Its process id in the operating system, after its exit too; absent before it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Who started it.
    pub owner: Principal,
    /// Its argv, secrets replaced.
    pub argv: Vec<OsText>,
    /// Its working folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<OsText>,
    /// A digest of its environment: equal environments have equal digests.
    pub env_digest: String,
    /// When it was started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// How well the members of its tree are known.
    pub tree: TreeKnowledge,
    /// The size of its terminal, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// Its stdin.
    pub stdin: StdinStatus,
    /// Its outputs.
    pub streams: Vec<StreamStatus>,
    /// Who reads them; readers of other principals have no `subscriptionId`.
    pub readers: Vec<ReaderStatus>,
    /// Who waits for whom.
    pub waiting_for: Vec<Waiting>,
    /// Limits in force.
    pub limits: Vec<LimitStatus>,
    /// The receipt of its sandbox; absent after its kernel has gone (the log has it), and if it asked for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Raw>,
    /// What it executes; absent after its kernel has gone (the log has it), and if nobody asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramRead>,
    /// Bytes of the beginning of each output that are kept.
    pub history_head_bytes: u32,
    /// Bytes of the end of each output that are kept.
    pub history_tail_bytes: u32,
    /// What an unread output does.
    pub when_unread: WhenUnread,
    /// What the end of its connection means to it.
    pub on_disconnect: OnDisconnect,
    /// How its leader ended, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Its restarts, if it asked for any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartStatus>,
    /// What became of its record in the state folder.
    #[serde(default)]
    pub record: RecordStatus,
    /// Cores it was bound to at its spawn; absent if it wasn't, and after its kernel has gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    /// The core its streams' reactor was bound to for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reactor_cpu: Option<u16>,
}

/// What a process executes, read between exec and its first instruction. What it loads and reads then is not in it: its
/// loader, its libraries, a script's interpreter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramRead {
    /// The file.
    pub path: OsText,
    /// SHA-256 of it, hexadecimal.
    pub digest: String,
    /// Why what runs may differ from what was read; absent if it can't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weaker: Option<ProgramWeakness>,
}

crate::methods::words! {
    /// Why a digest binds less than it seems.
    ProgramWeakness {
        /// A script is read again by its interpreter, and may have been changed by then.
        Script = "script",
        /// It lies on a file system that other machines or programs serve, and they may change it.
        Remote = "remote",
        /// This kernel lets the file of a running program be written to (Linux 6.11 to 6.12.1).
        Unguarded = "unguarded",
    }
}

crate::methods::words! {
    /// A process's record in the state folder.
    RecordStatus or None {
        /// There is none: it was not wanted, or the kernel is an embedded one.
        None = "none",
        /// There is one. With `durable: true` the disk had it before the spawn was answered, else within a second.
        Written = "written",
        /// It could not be written, or not be flushed.
        Failed = "failed",
    }
}

crate::methods::words! {
    /// How well the members of a tree are known.
    TreeKnowledge {
        /// A cgroup holds exactly the members.
        Exact = "exact",
        /// By parentage and by a marker in their environment; an orphan that scrubbed it is not known.
        BestEffort = "best_effort",
    }
}

/// A stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StdinStatus {
    /// That went into it.
    pub bytes: u64,
    /// That wait to go into it.
    pub parked_bytes: u64,
    /// Size of its pipe in force; 0 without a pipe.
    pub pipe_bytes: u32,
    /// True exactly when nothing more can be written.
    pub closed: bool,
}

/// An output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamStatus {
    /// Which.
    pub stream: StreamName,
    /// Taken from the child since its birth.
    pub bytes: u64,
    /// Of these, no longer in the history; without one, those nobody was there to read.
    pub cut_bytes: u64,
    /// Size of its pipe in force; 0 without a pipe.
    pub pipe_bytes: u32,
    /// True exactly while the child's output waits for a reader.
    pub paused: bool,
    /// How long it has waited so in all, milliseconds.
    pub paused_ms: u64,
    /// True exactly when it has ended.
    pub closed: bool,
    /// What of it is on disk, if it was to be spooled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolStatus>,
    /// What is no longer in the history, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<ByteRange>,
    /// Bytes of its beginning that are kept.
    #[serde(default)]
    pub history_head_bytes: u32,
    /// Bytes of its end that are kept.
    #[serde(default)]
    pub history_tail_bytes: u32,
    /// Memory its history has touched, bytes.
    #[serde(default)]
    pub held_bytes: u64,
    /// How fast bytes are taken from the child, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// True exactly while it waits for its rate.
    #[serde(default)]
    pub throttled: bool,
    /// How long it has waited so in all, milliseconds.
    #[serde(default)]
    pub throttled_ms: u64,
    /// How its bytes get to its readers.
    #[serde(default)]
    pub engine: StreamEngine,
}

crate::methods::words! {
    /// How an output's bytes get to its readers.
    StreamEngine or History {
        /// By way of a history, from which each is given what it asked for.
        History = "history",
        /// From pipe to descriptor, unseen: nothing is kept, and `cutBytes` are those nobody was there to read.
        Relay = "relay",
    }
}

/// Bytes `[from, to)` of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ByteRange {
    /// First offset.
    pub from: u64,
    /// One past the last.
    pub to: u64,
}

/// A reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReaderStatus {
    /// Its name, if it is the caller's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<SubscriptionId>,
    /// What a slow reader causes.
    pub policy: Policy,
    /// How bytes become frames.
    pub mode: Mode,
    /// Frames sent.
    pub sequence: u64,
    /// Bytes it missed.
    pub gap_bytes: u64,
    /// True exactly while its client takes no more.
    pub stalled: bool,
    /// How long its client has taken no more in all, milliseconds.
    #[serde(default)]
    pub stalled_ms: u64,
    /// How far it is in each stream it reads.
    pub at: Vec<ReaderOffset>,
    /// How fast it is given bytes, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// True exactly while it waits for its rate.
    #[serde(default)]
    pub throttled: bool,
    /// How long it has waited so in all, milliseconds.
    #[serde(default)]
    pub throttled_ms: u64,
}

/// How far a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReaderOffset {
    /// In which stream.
    pub stream: StreamName,
    /// Next offset to deliver.
    pub offset: u64,
    /// Bytes taken from the child and not yet delivered to it.
    pub lag_bytes: u64,
}

/// Somebody waits for somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// What waits: `stdout`, `stderr` or `stdin`.
    pub what: String,
    /// For what, in words: a reader, somebody to read, the child.
    #[serde(rename = "for")]
    pub for_what: String,
    /// The reader it waits for, if it is the caller's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<SubscriptionId>,
}

/// A limit in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitStatus {
    /// `memory`, `cpu`, `pids` or an rlimit's name.
    pub name: String,
    /// `cgroup` or `rlimit`.
    pub mechanism: String,
    /// In the limit's unit: bytes, percent of one CPU, a count, seconds.
    pub value: u64,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// What it returned; absent if a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal_name: Option<String>,
    /// It left a core.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub core: bool,
    /// Who or what ended it.
    pub ended_by: EndedBy,
    /// What it used, its waited-for children included.
    pub usage: ProcessUsage,
    /// From spawn to exit, milliseconds.
    pub duration_ms: u64,
}

impl Exit {
    /// The v1 form: the code, or 128+n for a signal.
    pub fn v1_code(&self) -> i32 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 0,
        }
    }
}

/// Who or what ended a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndedBy {
    /// What.
    pub cause: EndCause,
    /// Who, if it was a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
}

crate::methods::words! {
    /// What ended a process.
    EndCause {
        /// It returned, or signalled itself, or somebody outside the kernel signalled it.
        Itself = "itself",
        /// `process.kill`.
        Kill = "kill",
        /// The SIGKILL after the grace of `process.kill`.
        GraceOver = "grace_over",
        /// `process.signal`.
        Signal = "signal",
        /// Its connection closed and it was spawned with `onDisconnect: kill`.
        Disconnect = "disconnect",
        /// The deadline of its spawn passed.
        Deadline = "deadline",
        /// Its intent, or its correlation, was cancelled.
        Cancel = "cancel",
        /// The kernel stopped.
        Shutdown = "shutdown",
        /// A limit.
        Limit = "limit",
        /// It was spawned with `durable: true` and the disk did not take its record.
        Unrecorded = "unrecorded",
    }
}

/// getrusage(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessUsage {
    /// Processor time in user mode, microseconds.
    pub user_us: u64,
    /// Processor time in the kernel, microseconds.
    pub system_us: u64,
    /// Peak resident set, KiB.
    pub max_rss_kib: u64,
    /// Page faults served without I/O.
    pub minor_faults: u64,
    /// Page faults served with I/O.
    pub major_faults: u64,
    /// Switches because it waited.
    pub voluntary_switches: u64,
    /// Switches because its slice was over.
    pub involuntary_switches: u64,
}

/// How long an output was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamTotal {
    /// Which.
    pub stream: StreamName,
    /// From its birth to its end.
    pub total_bytes: u64,
    /// Of these, no longer in the history.
    pub cut_bytes: u64,
}
