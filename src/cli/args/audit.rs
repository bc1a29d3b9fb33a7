//! `kairo audit`: what can be typed.

use crate::cli::moment::Moment;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Read, verify, export and prune the audit
///
/// Who was allowed or refused what, when and why, in a chain of records that is signed: docs/AUDIT.md says what that proves.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo audit status\n  kairo audit query --principal skill:x --since 1d\n  \
    kairo audit export -o export.audit\n  kairo audit verify export.audit"
)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) command: AuditSubcommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditSubcommand {
    Query(AuditQuery),
    Export(AuditExport),
    Verify(AuditVerify),
    Status(AuditStatus),
    Checkpoint(AuditCheckpoint),
    Prune(AuditPrune),
}

/// Show records, oldest first
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo audit query --principal skill:x --since 1d\n  kairo audit query --type 'kairo.security.>'\n  \
    kairo audit query --intent 00112233-4455-4677-8899-aabbccddeeff --json | jq -c .data"
)]
pub(crate) struct AuditQuery {
    /// Of what this principal did or was refused: owner, skill:NAME, user:UID
    #[arg(long, value_name = "WHO")]
    pub(crate) principal: Option<String>,
    /// Of events whose type matches
    #[arg(long = "type", value_name = "PATTERN")]
    pub(crate) topic: Option<String>,
    /// From then on: 1h (ago), a time
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Moment>,
    /// Until then
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<Moment>,
    /// Of this intent
    #[arg(long, value_name = "INTENT")]
    pub(crate) intent: Option<String>,
    /// About this process, intent or resource
    #[arg(long, value_name = "WHAT")]
    pub(crate) target: Option<String>,
    /// Under this grant
    #[arg(long, value_name = "GRANT")]
    pub(crate) grant: Option<String>,
    /// End after this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// Write the audit as a file that anybody can verify
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo audit export -o export.audit\n  kairo audit export | gzip > export.audit.gz"
)]
pub(crate) struct AuditExport {
    /// The file; stdout if absent
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Verify an export, without a daemon; or the daemon's own audit
///
/// Returns 1 if something is not as it was written, and names the records. Without --key the export is verified with the key
/// it names itself, which is printed: compare it with the one you were given.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo audit verify export.audit\n  kairo audit verify export.audit --key \"$(cat key.public)\"\n  \
    kairo audit verify"
)]
pub(crate) struct AuditVerify {
    /// An export; - reads it from stdin
    pub(crate) file: Option<PathBuf>,
    /// The public key it has to be signed with, 64 hexadecimal digits
    #[arg(long, value_name = "KEY", requires = "file")]
    pub(crate) key: Option<String>,
}

/// Show how long the chain is, where it begins, and its public key
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo audit status\n  kairo audit status --json | jq -r .publicKey")]
pub(crate) struct AuditStatus {}

/// Sign what there is, and print the checkpoint
///
/// Kept elsewhere, it shows later whether anything up to it was changed or cut off.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo audit checkpoint\n  kairo audit checkpoint --json >> checkpoints")]
pub(crate) struct AuditCheckpoint {}

/// Drop the oldest records, up to the last checkpoint signed before a time
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo audit prune --before 52w")]
pub(crate) struct AuditPrune {
    /// What was signed before: 52w (ago), a time
    #[arg(long, value_name = "WHEN")]
    pub(crate) before: Moment,
}
