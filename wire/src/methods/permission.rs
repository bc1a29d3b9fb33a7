//! What somebody may, and how that is asked for, decided, and taken back.
//!
//! ```text
//!   permission.request ──▶ pending ──approve──▶ grant ──▶ in force ──revoke, or its scope is over──▶ gone
//!                            └────────deny────▶ denied
//! ```

use crate::codec::text::OsText;
use crate::id::ProcessId;
use crate::method::{Since, methods, need};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Asks for what a manifest lists, or for one permission.
    ///
    /// Answered at once: approved or denied if the policy says so, else pending, and told as `kairo.permission.requested` to
    /// whoever may decide. With `waitMs` the answer waits that long for the decision. What nobody decides within a day, or within
    /// an hour after the child that asked is gone, counts as denied, and is told as `kairo.permission.expired`.
    Request = "permission.request"(RequestParams) -> RequestResult {
        required: [],
        permission: PermissionRequest,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [Busy, TooLarge],
        example: r#"{"permission": "event.publish", "resource": "photo.>", "purpose": "telling how far it is"}"#,
    }

    /// Lists what waits for a decision.
    Pending = "permission.pending"(PendingParams) -> PendingResult {
        required: [],
        permission: PermissionRead,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{}"#,
    }

    /// Grants what was asked for.
    ///
    /// An approval of a manifest is good for that manifest, by its digest, and where the request named a program, for that
    /// program, or for a pipeline of all it named; a former approval of another manifest of the same name is gone.
    Approve = "permission.approve"(ApproveParams) -> ApproveResult {
        required: [need("requestId")],
        permission: PermissionDecide,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"requestId": "rq_00112233445566778899aabbccddeeff", "scope": "session"}"#,
    }

    /// Denies what was asked for.
    Deny = "permission.deny"(DenyParams) -> DenyResult {
        required: [need("requestId")],
        permission: PermissionDecide,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"requestId": "rq_00112233445566778899aabbccddeeff", "reason": "not on this machine"}"#,
    }

    /// Grants a permission that nobody asked for, or forbids one.
    ///
    /// What is forbidden stays so whatever else is granted.
    Give = "permission.grant"(GrantParams) -> ApproveResult {
        required: [need("principal"), need("permission")],
        permission: PermissionDecide,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [TooLarge],
        example: r#"{"principal": "skill:photo-index", "permission": "process.read", "resource": "camera-*"}"#,
    }

    /// Lists grants that are in force.
    Grants = "permission.grants"(GrantsParams) -> GrantsResult {
        required: [],
        permission: PermissionRead,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{"principal": "skill:photo-index"}"#,
    }

    /// Takes a grant back, or all of a principal: its next call is refused, and what it reads is closed.
    ///
    /// What a running program was contained by can't be made narrower from outside. What runs under the grant is ended, or
    /// kept if `running` says so; then the answer names what it keeps.
    Revoke = "permission.revoke"(RevokeParams) -> RevokeResult {
        required: [],
        permission: PermissionDecide,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"grant": "gr_00112233445566778899aabbccddeeff", "running": "end"}"#,
    }

    /// Says whether somebody may do something, and why, without doing it; if not, the smallest grant that would allow it.
    Can = "permission.can"(CanParams) -> CanResult {
        required: [],
        permission: PermissionRequest,
        since: Since::Release("0.1.0"),
        errors: [UnknownMethod],
        example: r#"{"permission": "event.publish", "resource": "photo.done"}"#,
    }
}

crate::methods::words! {
    /// How long a grant is good.
    GrantScope or Session {
        /// For one use: one start of a program, one call.
        Once = "once",
        /// Until the session ends: that of an agent, or the process that asked and all it has started.
        Session = "session",
        /// Until the intent ends.
        Intent = "intent",
        /// Until it is revoked.
        Always = "always",
    }
}

crate::methods::words! {
    /// What a grant does.
    GrantEffect or Allow {
        /// It allows.
        Allow = "allow",
        /// It forbids, whatever else allows.
        Forbid = "forbid",
    }
}

crate::methods::words! {
    /// In what a manifest is written.
    ManifestSyntax or Json {
        /// JSON.
        Json = "json",
        /// YAML.
        Yaml = "yaml",
        /// TOML.
        Toml = "toml",
    }
}

crate::methods::words! {
    /// What becomes of what runs under a grant that is taken back.
    RunningOption or End {
        /// It is ended.
        End = "end",
        /// It goes on, with what can't be taken from it.
        Keep = "keep",
    }
}

crate::methods::words! {
    /// Where a request stands.
    RequestStatus {
        /// Nobody has decided yet.
        Pending = "pending",
        /// It was approved.
        Approved = "approved",
        /// It was denied.
        Denied = "denied",
    }
}

crate::methods::words! {
    /// Why a grant is no longer in force.
    RevokeCause {
        /// Somebody took it back.
        Revoked = "revoked",
        /// Its time was over.
        Expired = "expired",
        /// It was for one use.
        Used = "used",
        /// Its session has ended.
        Session = "session_ended",
        /// Its intent has ended.
        Intent = "intent_ended",
        /// Another approval has taken its place.
        Replaced = "replaced",
        /// The policy of this kernel forbids it.
        Policy = "policy",
        /// A grant by which it was given is no longer in force.
        Source = "source_gone",
    }
}

/// What to ask for: `manifest`, or `permission`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestParams {
    /// The text of a manifest, at most 256 KiB: everything it lists is asked for, for the skill it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// In what that is written.
    pub syntax: ManifestSyntax,
    /// The program it is for, as it will be started: what is approved then is good for this file alone, by its contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<OsText>,
    /// SHA-256 of that program, hexadecimal. A program the kernel knows as a skill, an agent or a child has to say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program_digest: Option<String>,
    /// One permission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
    /// For what; for all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// What for, in words; at most 500 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// How long it would be wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<GrantScope>,
    /// The session a `session` scope would mean; that of the caller if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How long to wait for the decision, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u32>,
    /// The programs it is for, if it is a pipeline: one for each stage that will be started as the skill, in their order; at
    /// most 32. What is approved then is good for these files together, each in its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ManifestProgram>,
}

/// A program that something is asked for, as it will be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManifestProgram {
    /// The file.
    pub path: OsText,
    /// SHA-256 of it, hexadecimal.
    pub digest: String,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestResult {
    /// Its name.
    pub request_id: String,
    /// Where it stands.
    pub status: RequestStatus,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Box<Grant>>,
    /// Who decided; `policy:RULE` for a rule of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why it was denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is asked for that the approved manifest of this name doesn't reach, in words; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newly: Option<Vec<String>>,
    /// The programs that are others than those of the last approval of this name, each in its place; absent if none is, or that
    /// named none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<ManifestProgram>,
}

/// Of whom.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PendingParams {
    /// Of this principal alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
}

/// What waits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingResult {
    /// Oldest first.
    pub requests: Vec<PendingRequest>,
}

/// A request nobody has decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingRequest {
    /// Its name.
    pub request_id: String,
    /// For whom.
    pub principal: String,
    /// The user that runs as.
    pub uid: u32,
    /// Who asked.
    pub by: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What is asked for.
    pub permissions: Vec<GrantedPermission>,
    /// By which manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestSummary>,
    /// How long it would be wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<GrantScope>,
    /// What the approved manifest of this name doesn't reach, in words; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newly: Option<Vec<String>>,
    /// The programs that are others than those of the last approval of this name, each in its place; absent if none is, or that
    /// named none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<ManifestProgram>,
}

/// One permission of a grant or a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantedPermission {
    /// Its name.
    pub permission: String,
    /// For what; for all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// What for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

/// A manifest, as far as a decision is bound to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManifestSummary {
    /// Of the skill.
    pub name: String,
    /// Of it.
    pub version: String,
    /// SHA-256 of what it means, hexadecimal.
    pub digest: String,
    /// The program, if the request named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<OsText>,
    /// SHA-256 of that, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_digest: Option<String>,
    /// Every program the request named, be it one or the stages of a pipeline in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ManifestProgram>,
}

/// A grant that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Its name.
    pub id: String,
    /// To whom.
    pub principal: String,
    /// The user that runs as.
    pub uid: u32,
    /// Whether it allows.
    pub effect: GrantEffect,
    /// What.
    pub permissions: Vec<GrantedPermission>,
    /// How long.
    pub scope: GrantScope,
    /// Until this session ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Until this intent ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// At latest until then, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// By which manifest it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestSummary>,
    /// The request it came of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Who granted it; `policy:RULE` for a rule of the policy.
    pub by: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// The grants by which a program gave it: when one of them ends, so does this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rests_on: Vec<String>,
}

/// How to grant what was asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApproveParams {
    /// Which request.
    pub request_id: String,
    /// How long; as the request wants it, else for its session, and no longer than a program that decides may itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<GrantScope>,
    /// At most so long, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

/// What is granted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApproveResult {
    /// In force from now on.
    pub grant: Grant,
}

/// What to deny.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DenyParams {
    /// Which request.
    pub request_id: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Done.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DenyResult {
    /// Always true.
    pub ok: bool,
}

/// What to grant.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantParams {
    /// To whom: `agent:NAME`, `skill:NAME`, `session:ID`, or for the administrator `user:UID`.
    pub principal: String,
    /// What.
    pub permission: String,
    /// For what; for all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Whether it allows.
    #[serde(default)]
    pub effect: GrantEffect,
    /// How long; if absent always, or as long as a program that gives it may itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<GrantScope>,
    /// The session that a `session` scope means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The intent that an `intent` scope means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// At most so long, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// What for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The user that principal runs as; the caller's if absent, another for the administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// Whose grants.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrantsParams {
    /// Of this principal alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// After this grant: the last of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many, 1 to 1,000; 100 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Grants.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantsResult {
    /// By their ids.
    pub grants: Vec<Grant>,
    /// There are more.
    #[serde(default)]
    pub more: bool,
}

/// What to take back: one grant, or all of a principal.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RevokeParams {
    /// One grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// All that were granted to this principal by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// What becomes of what runs under it.
    pub running: RunningOption,
    /// A grant for one use has had it, where this kernel couldn't see that: it is told as used.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub used: bool,
}

/// What was taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevokeResult {
    /// Grants.
    pub revoked: Vec<String>,
    /// Processes that are being ended.
    pub ended: Vec<ProcessId>,
    /// Processes that go on, and what they keep.
    pub kept: Vec<KeptProcess>,
    /// How many subscriptions were closed.
    pub closed: u32,
}

/// A process that goes on after what it runs under was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptProcess {
    /// Which.
    pub id: ProcessId,
    /// Permissions that only containment guards, which it keeps until it ends.
    pub permissions: Vec<GrantedPermission>,
}

/// What somebody would do: call `method`, or use `permission`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CanParams {
    /// A permission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
    /// A method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// For what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Who; the caller if absent. Others only for who may decide about them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The user that runs as; the caller's if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// Whether it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanResult {
    /// Whether it may.
    pub allowed: bool,
    /// What says so, in words.
    pub reason: String,
    /// The grant that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The smallest grant that would allow it; absent if none would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest: Option<SmallestGrant>,
}

/// A grant that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SmallestGrant {
    /// To whom.
    pub principal: String,
    /// What.
    pub permission: String,
    /// For what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// How long.
    pub scope: GrantScope,
}

/// Which skill, and which manifest of it the caller means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkillOption {
    /// Its name.
    pub name: String,
    /// SHA-256 of the manifest's meaning, hexadecimal: an approval of another one doesn't count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// SHA-256 of the program, hexadecimal: an approval for another one doesn't count, nor one for a pipeline that has another one
    /// in this place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_digest: Option<String>,
    /// The session it is started in, for approvals that are for one; that of the caller if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}
