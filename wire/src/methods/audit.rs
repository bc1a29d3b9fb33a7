//! The audit: what was asked, decided, granted, refused and done, in a chain nobody changes unseen.
//!
//! Records are copies of events, made as those are kept. What the chain and its checkpoints are, byte by byte, is in
//! docs/AUDIT.md.

use crate::codec::raw::Raw;
use crate::id::TopicPattern;
use crate::method::{Since, methods, need};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Reads the records of the audit that match, oldest first.
    AuditQuery = "audit.query"(AuditQueryParams) -> AuditQueryResult {
        required: [],
        permission: AuditRead,
        since: Since::Release("0.1.0"),
        errors: [Unavailable],
        example: r#"{"principal": "skill:transcoder", "type": "kairo.security.>", "limit": 100}"#,
    }

    /// Says how the audit stands: how long its chain is, where it begins, and with which key it is signed.
    AuditStatus = "audit.status"(AuditStatusParams) -> AuditStatusResult {
        required: [],
        permission: AuditRead,
        since: Since::Release("0.1.0"),
        errors: [Unavailable],
        example: r#"{}"#,
    }

    /// Verifies a stretch of the chain as it is stored: each record against the one before, each checkpoint's signature.
    ///
    /// One call looks at some thousand records: ask again with `next` as `after` until there is none. What it finds is told
    /// as `kairo.kernel.audit_damaged`, too.
    AuditVerify = "audit.verify"(AuditVerifyParams) -> AuditVerifyResult {
        required: [],
        permission: AuditRead,
        since: Since::Release("0.1.0"),
        errors: [Unavailable],
        example: r#"{}"#,
    }

    /// Reads the audit as lines of an export, which anybody can verify without this kernel.
    ///
    /// The first call signs what there is, so that the export ends with a checkpoint. Ask again with `next` as the parameters
    /// until there is none; the lines in order are the export. If records are dropped meanwhile, it is `E_CONFLICT`.
    AuditExport = "audit.export"(AuditExportParams) -> AuditExportResult {
        required: [],
        permission: AuditRead,
        since: Since::Release("0.1.0"),
        errors: [Unavailable, Conflict],
        example: r#"{}"#,
    }

    /// Signs what the chain has come to, and answers with the checkpoint.
    ///
    /// Whoever keeps it elsewhere can tell later that nothing up to it was changed or cut off.
    AuditCheckpoint = "audit.checkpoint"(AuditCheckpointParams) -> SignedCheckpoint {
        required: [],
        permission: AuditRead,
        since: Since::Release("0.1.0"),
        errors: [Unavailable],
        example: r#"{}"#,
    }

    /// Drops the oldest records of the audit, up to a checkpoint that stays behind in their place.
    ///
    /// That is the last one signed before `beforeMs`. That it was asked for is a record itself. Answers with how the audit
    /// stands then.
    AuditPrune = "audit.prune"(AuditPruneParams) -> AuditStatusResult {
        required: [need("beforeMs")],
        permission: KernelAdministrate,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [Unavailable],
        example: r#"{"beforeMs": 86400000}"#,
    }
}

/// Which records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditQueryParams {
    /// Of what this principal did or was refused: `owner`, `skill:NAME`, `user:UID`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// Of events whose type matches.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicPattern>,
    /// Not before this time, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<u64>,
    /// Not after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<u64>,
    /// Of this intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
    /// About this: its `target`, `id`, `session` or `resource`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Under this grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// Behind this record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many, 1 to 1,000; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Some of the records that match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditQueryResult {
    /// In the order of their numbers.
    pub records: Vec<AuditRecord>,
    /// There may be more: ask again with this as `after`. It may come with few records, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The end of the chain.
    pub head: AuditHead,
}

/// A place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditHead {
    /// The number of a record; 0 before the first.
    pub n: u64,
    /// Its hash, 64 hexadecimal digits.
    pub hash: String,
}

/// A record, to be read. What is hashed are its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Its number in the chain, from 1.
    pub n: u64,
    /// The place of the event it is a copy of.
    pub seq: u64,
    /// The event's id.
    pub id: String,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// The event's type.
    #[serde(rename = "type")]
    pub topic: String,
    /// What published the event.
    pub source: String,
    /// Who.
    pub principal: String,
    /// Why: the intent it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
    /// The story it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The event it follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// The tool call it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The grant it was allowed by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// What the event says.
    pub data: Raw,
}

/// Nothing.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct AuditStatusParams {}

/// How the audit stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditStatusResult {
    /// The number of the oldest record that is kept; none if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The end of the chain.
    pub head: AuditHead,
    /// The checkpoint that stands for what was dropped, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<SignedCheckpoint>,
    /// Checkpoints that are kept.
    pub checkpoints: u64,
    /// The latest; what is behind it is not signed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<SignedCheckpoint>,
    /// The key signatures are verified with, 64 hexadecimal digits.
    pub public_key: String,
    /// Bytes it takes, about.
    pub bytes: u64,
}

/// What was signed of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditCheckpointBody {
    /// The record it is made behind.
    pub n: u64,
    /// The hash of that.
    pub hash: String,
    /// When it was signed, milliseconds since 1970.
    pub time_ms: u64,
    /// Records since the checkpoint before.
    pub count: u64,
    /// SHA-256 of what was signed by that; zeros if there is none.
    pub previous: String,
    /// The key it is verified with.
    pub key: String,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedCheckpoint {
    /// What it says.
    pub checkpoint: AuditCheckpointBody,
    /// Ed25519, 128 hexadecimal digits.
    pub signature: String,
}

/// Which stretch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct AuditVerifyParams {
    /// Behind this record; from the beginning if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditVerifyResult {
    /// Records that were looked at.
    pub records: u64,
    /// Checkpoints that were.
    pub checkpoints: u64,
    /// What is not as it was written, at most 100.
    pub problems: Vec<AuditProblem>,
    /// There is more: ask again with this as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The end of the chain.
    pub head: AuditHead,
    /// The last record that is signed.
    pub signed_to: u64,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditProblem {
    /// The first record it is about.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// What.
    pub what: String,
}

/// Which page; the first if nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditExportParams {
    /// Behind this record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The export begins behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// It ends with this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditExportResult {
    /// JSON, each to be followed by a newline.
    pub lines: Vec<String>,
    /// There is more: ask again with these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<AuditExportParams>,
    /// The end of the chain.
    pub head: AuditHead,
}

/// Nothing.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct AuditCheckpointParams {}

/// How much.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditPruneParams {
    /// What was signed before this time, milliseconds since 1970.
    pub before_ms: u64,
}
