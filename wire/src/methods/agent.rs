//! Agents, and the sessions they work in.
//!
//! An agent is a principal with a name that lasts: what it has started is its own whichever connection or process it comes by.
//! A session is a time of its work, which grants can be bound to. Whoever runs in one is known by its place under the keeper.

use crate::id::ProcessId;
use crate::method::{Since, methods, need};
use crate::methods::permission::{GrantedPermission, RunningOption};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Makes an agent, or changes how long it lasts.
    ///
    /// With `permissions` it may exactly those; without, what any program may that the kernel has started.
    Create = "agent.create"(CreateParams) -> CreateResult {
        required: [need("name")],
        permission: AgentManage,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [Busy, TooLarge],
        example: r#"{"name": "coder", "lifetimeMs": 86400000}"#,
    }

    /// Ends an agent: its sessions, its grants, and what runs in its sessions unless that is kept.
    Remove = "agent.remove"(RemoveParams) -> RemoveResult {
        required: [need("name")],
        permission: AgentManage,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"name": "coder"}"#,
    }

    /// Lists agents and their sessions; those of other users are left out.
    List = "agent.list"(ListParams) -> ListResult {
        required: [],
        permission: PermissionRead,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{}"#,
    }

    /// Begins a session of an agent.
    ///
    /// `options.agentSession` of a spawn starts a program in it, `identify` puts a connection into it.
    SessionCreate = "session.create"(SessionCreateParams) -> SessionCreateResult {
        required: [need("agent")],
        permission: AgentManage,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Busy],
        example: r#"{"agent": "coder", "lifetimeMs": 3600000}"#,
    }

    /// Ends a session: the grants that are bound to it, and what runs in it unless that is kept.
    SessionEnd = "session.end"(SessionEndParams) -> SessionEndResult {
        required: [need("sessionId")],
        permission: AgentManage,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"sessionId": "as_00112233445566778899aabbccddeeff"}"#,
    }
}

/// What agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateParams {
    /// Its name: letters, digits, `.`, `_` and `-`, at most 128.
    pub name: String,
    /// What it may; at most 1,024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<GrantedPermission>>,
    /// How long it lasts, milliseconds; until it is removed if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_ms: Option<u64>,
}

/// Made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateResult {
    /// `agent:NAME`.
    pub principal: String,
    /// False if it was there.
    pub created: bool,
    /// Until when, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// Which agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoveParams {
    /// Its name.
    pub name: String,
    /// What becomes of what runs in its sessions.
    #[serde(default)]
    pub running: RunningOption,
}

/// What went with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoveResult {
    /// Sessions.
    pub sessions: Vec<String>,
    /// Grants.
    pub revoked: Vec<String>,
    /// Processes that are being ended.
    pub ended: Vec<ProcessId>,
}

/// Nothing to say.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListParams {}

/// Agents.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListResult {
    /// By user and name.
    pub agents: Vec<Agent>,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// The user it works for.
    pub uid: u32,
    /// Who made it.
    pub by: String,
    /// When, milliseconds since 1970.
    pub created_ms: u64,
    /// Until when, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Its sessions, oldest first.
    pub sessions: Vec<AgentSession>,
}

/// A session of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSession {
    /// Its name.
    pub session_id: String,
    /// When it began, milliseconds since 1970.
    pub created_ms: u64,
    /// Until when, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Processes that run in it.
    pub processes: Vec<ProcessId>,
}

/// Which session.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionCreateParams {
    /// Of which agent.
    pub agent: String,
    /// How long it lasts, milliseconds; as long as its agent if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_ms: Option<u64>,
}

/// Begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionCreateResult {
    /// Its name.
    pub session_id: String,
    /// Until when, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// Which session.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionEndParams {
    /// Its name.
    pub session_id: String,
    /// What becomes of what runs in it.
    #[serde(default)]
    pub running: RunningOption,
}

/// What went with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionEndResult {
    /// Grants that were bound to it.
    pub revoked: Vec<String>,
    /// Processes that are being ended.
    pub ended: Vec<ProcessId>,
}
