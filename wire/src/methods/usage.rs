//! What a process has used, and who waited for whom.

use crate::id::ProcessId;
use crate::method::{Since, methods, need};
use crate::methods::status::ProcessUsage;
use crate::methods::stream::StreamName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Tells what a process has used: of one that has exited what wait4(2) said, of one that runs what `/proc` says now.
    ///
    /// While it runs times are counted in the system's clock ticks (10 ms), the peak and the switches are those of its first
    /// thread. What its streams waited for is counted by the kernel all along, to the reactor's rounds, without the wait
    /// that is under way.
    Usage = "process.usage"(UsageParams) -> UsageResult {
        required: [need("id")],
        permission: ProcessObserve,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Lost, Unavailable],
        example: r#"{"id": "clip"}"#,
    }
}

/// Of which.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UsageParams {
    /// Which.
    pub id: ProcessId,
}

/// What it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageResult {
    /// As it was given.
    pub id: ProcessId,
    /// The leader has not exited: the figures are those of now.
    pub running: bool,
    /// From spawn to exit, or to now, microseconds.
    pub wall_us: u64,
    /// What it used, its waited-for children included.
    pub usage: ProcessUsage,
    /// Its stdin.
    pub stdin: StdinUsage,
    /// Its outputs.
    pub streams: Vec<StreamUsage>,
}

/// Of a stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StdinUsage {
    /// That went into it.
    pub bytes: u64,
    /// How long writes have waited for the child to read, microseconds: its pipe was full.
    pub parked_us: u64,
}

/// Of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamUsage {
    /// Which.
    pub stream: StreamName,
    /// Taken from the child.
    pub bytes: u64,
    /// How long nothing was taken because a reader had no room, microseconds. The child itself waited for no longer than
    /// this and `throttledUs` together: it goes on until its pipe is full.
    pub paused_us: u64,
    /// How long nothing was taken because of its rate, microseconds.
    pub throttled_us: u64,
    /// How long the kernel has waited for the child to write, microseconds: its pipe was empty.
    pub idle_us: u64,
}
