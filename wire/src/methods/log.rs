//! The log as a whole: how it stands, and dropping what is old.

use crate::id::TopicPattern;
use crate::method::{Since, methods};
use crate::methods::consumer::ConsumerStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Drops events that are old from the log, now, and answers when it is done.
    ///
    /// Without `type` they are dropped from the beginning of the log: those older than `olderThanMs`, and as many as there
    /// are above `bytes`. With `type` only events of such types are dropped, wherever they are: those older than
    /// `olderThanMs`, all but the latest for each value of the field `latestBy` of their data, all but the latest `count`. If
    /// nothing is said the policy of the configuration counts. A replay shows a summary in the place of what was dropped, and
    /// a `kairo.kernel.compacted` event tells of it. Durable consumers hold nothing back: they are told the gap. Whoever goes
    /// away before the answer has started it all the same.
    Compact = "event.compact"(CompactParams) -> CompactResult {
        required: [],
        permission: KernelAdministrate,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [Unavailable],
        example: r#"{"type": "kairo.process.progress", "latestBy": "session", "dryRun": true}"#,
    }

    /// Says how the log stands: what is in it, how far its indexes are, what is dropped from it and when.
    LogStatus = "event.log_status"(LogStatusParams) -> LogStatusResult {
        required: [],
        permission: KernelInspect,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{}"#,
    }
}

crate::methods::words! {
    /// What dropped events from the log.
    CompactionCause {
        /// The configuration.
        Policy = "policy",
        /// `event.compact`.
        Asked = "asked",
    }
}

/// What to drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventCompactParams")]
pub struct CompactParams {
    /// What is older, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_ms: Option<u64>,
    /// As many of the oldest as there are bytes of events above this. Not with `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Only events whose type matches.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicPattern>,
    /// All but the latest for each value of this field of their data. With `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_by: Option<String>,
    /// All but so many of the latest. With `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Drop nothing, and say what would be dropped.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was dropped, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventCompactResult")]
pub struct CompactResult {
    /// How many events.
    pub events: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Where they were, in order; at most 1,000 ranges.
    pub ranges: Vec<CompactedRange>,
    /// Nothing was dropped: it would be.
    pub dry_run: bool,
}

/// A range in which events were dropped, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompactedRange {
    /// First place.
    pub from: u64,
    /// Last place.
    pub to: u64,
    /// How many events; when there are fewer than places the others are kept.
    pub events: u64,
    /// Bytes of their records.
    pub bytes: u64,
}

/// Nothing.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EventLogStatusParams")]
pub struct LogStatusParams {}

/// How the log stands. What its threads count may be a moment old.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventLogStatusResult")]
pub struct LogStatusResult {
    /// Place of the oldest event that is kept; none if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seq: Option<u64>,
    /// The last place given.
    pub last_seq: u64,
    /// The last place that is written and told.
    pub told_seq: u64,
    /// Events that are kept.
    pub events: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Bytes all of it takes, where it is kept.
    pub stored_bytes: u64,
    /// Bytes of events that have their place and are not written yet.
    pub unwritten_bytes: u64,
    /// Events the indexes by story, intent, source and time are behind.
    pub index_lag: u64,
    /// Ranges that can't be shown whole.
    pub gaps: u64,
    /// Something is being dropped.
    pub compacting: bool,
    /// Why nothing is taken any more, if it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
    /// What is dropped by and by.
    pub policy: RetentionPolicy,
    /// Durable consumers the caller may touch.
    pub consumers: Vec<ConsumerStatus>,
}

/// What is kept of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionPolicy {
    /// Older events are dropped from its beginning, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Above so many bytes of events the oldest are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What is dropped wherever it is.
    pub rules: Vec<RetentionRule>,
}

/// What is kept of some types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionRule {
    /// Which.
    #[serde(rename = "type")]
    pub topic: String,
    /// Older ones are dropped, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Of those with the same value in this field of their data only the latest is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_by: Option<String>,
    /// All but so many of the latest are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}
