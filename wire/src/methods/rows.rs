//! What the rows of the built-in views hold: processes, sessions, intents, correlations, and what is live.
//!
//! Shapes only; how they come about is the control plane's, which keeps rows in these shapes too: a field may be added,
//! with a default, and none may change.

use crate::codec::raw::Raw;
use crate::id::ProcessId;
use crate::methods::status::{EndCause, Phase, StreamTotal};
use crate::methods::stream::StreamName;
use crate::methods::system::Principal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a row holds, by view; for those who describe it.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum ViewValue {
    /// Of a view that was defined: by the names of its reducers. One that has had no value has no key.
    Defined(BTreeMap<String, Raw>),
    /// Of `processes`.
    Process(Box<ProcessRow>),
    /// Of `sessions`.
    Session(SessionRow),
    /// Of `intents`.
    Intent(IntentRow),
    /// Of `correlations`.
    Correlation(CorrelationRow),
    /// Of `live`.
    Live(LiveRow),
}

/// A row of `processes`; its key is the session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRow {
    /// As its client named it.
    pub id: ProcessId,
    /// This life's name.
    pub session: String,
    /// In the operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Who started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Principal>,
    /// Where it is in its life.
    pub state: Phase,
    /// How its leader ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ProcessRowExit>,
    /// Its outputs that have ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamTotal>,
    /// Bytes that went into its stdin; known at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_bytes: Option<u64>,
    /// When it was started, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// When its leader's exit was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited_at_ms: Option<u64>,
    /// When the end of its tree was told, or its loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// The story it began in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The intent it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
    /// The life before, if it is a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<String>,
    /// How far it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressRow>,
}

/// How a leader ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRowExit {
    /// What it returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<EndCause>,
    /// From spawn to exit, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// How far a process says it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgressRow {
    /// What read it out of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// So much is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<f64>,
    /// Of so much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
    /// In what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Units a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// What is left, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<f64>,
    /// When it said so, milliseconds since 1970.
    pub at_ms: u64,
}

/// A row of `sessions`; its key is the text of the process's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    /// As its client named it.
    pub id: ProcessId,
    /// Its newest life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Lives it has had.
    pub lives: u64,
    /// Of these, restarts.
    pub restarts: u64,
    /// When the newest began, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// Its newest life has not ended, or another is due.
    pub open: bool,
}

crate::methods::words! {
    /// What became of an intent.
    IntentOutcome {
        /// It has begun.
        Open = "open",
        /// It has ended with a result.
        Ended = "ended",
        /// It has ended with an error.
        Failed = "failed",
        /// It was cancelled.
        Cancelled = "cancelled",
    }
}

/// A row of `intents`; its key is the intent's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntentRow {
    /// Its id.
    pub id: String,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The intent it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What became of it.
    pub state: IntentOutcome,
    /// When it began, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// When it is to have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What came of it in words, cut at 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Its processes.
    pub processes: ProcessCounts,
}

/// Processes of an intent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessCounts {
    /// That were started.
    pub started: u64,
    /// Of these, whose leader has exited.
    pub exited: u64,
    /// Of these, whose tree has ended or was lost.
    pub ended: u64,
}

/// A row of `correlations`; its key is the correlation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CorrelationRow {
    /// Its first event.
    pub root: CorrelationRoot,
    /// Place of the first.
    pub first_seq: u64,
    /// Time of the first, milliseconds since 1970.
    pub first_time_ms: u64,
    /// Place of the last.
    pub last_seq: u64,
    /// Time of the last.
    pub last_time_ms: u64,
    /// How many there are.
    pub events: u64,
    /// How many of each type, of the first 16 types.
    pub types: BTreeMap<String, u64>,
    /// How many of other types.
    pub other_types: u64,
}

/// The first event of a story.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CorrelationRoot {
    /// Its id.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub topic: String,
}

crate::methods::words! {
    /// What is there.
    LiveKind {
        /// A process whose leader runs; its key is `process/SESSION`.
        Process = "process",
        /// An output of a process that has not ended; its key is `stream/SESSION/STREAM`.
        Stream = "stream",
        /// An intent that has not ended; its key is `intent/ID`.
        Intent = "intent",
    }
}

/// A row of `live`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LiveRow {
    /// What it is.
    pub kind: LiveKind,
    /// Of a process and its outputs: as its client named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ProcessId>,
    /// Of a process and its outputs: its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Of an output: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
    /// Of an intent: what it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The intent it belongs to, or is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
    /// Since when it is there, milliseconds since 1970.
    pub since_ms: u64,
}
