//! Who the caller is, and what is kept from it.

use crate::id::ProcessId;
use crate::method::{Since, methods, need};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Gives up rights: from now on the connection acts as the named skill or agent and sees what that started.
    ///
    /// It only lowers, and holds for the life of the connection; it never grants what the peer's credentials
    /// don't. An empty call changes nothing.
    Identify = "identify"(IdentifyParams) -> IdentifyResult {
        required: [],
        permission: IdentityLower,
        changes: true,
        since: Since::V1,
        errors: [Conflict, NotFound],
        example: r#"{"skillId": "transcoder"}"#,
    }

    /// Reads a secret. There is no vault yet: every call fails.
    VaultGet = "vault.get"(VaultGetParams) -> VaultGetResult {
        required: [need("token"), need("handle")],
        permission: VaultRead,
        since: Since::V1,
        errors: [VaultUnavailable],
        example: r#"{"token": "rt_00112233445566778899aabbccddeeff", "handle": "vault:00000000-0000-4000-8000-000000000000"}"#,
    }
}

/// Who the caller wants to be taken for.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentifyParams {
    /// A process id; noted, never believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<ProcessId>,
    /// The skill to act as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skill_id: Option<String>,
    /// A token; noted, never believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_token: Option<String>,
    /// The agent to act as, which has to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// The session of it to act in, which has to have begun; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_session: Option<String>,
}

/// Done.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct IdentifyResult {
    /// Always `identified`.
    pub status: IdentifyStatus,
}

crate::methods::words! {
    /// The answer to `identify`.
    IdentifyStatus {
        /// The connection acts as asked.
        Identified = "identified",
    }
}

/// Which secret.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VaultGetParams {
    /// Who asks.
    pub token: String,
    /// For what.
    pub handle: String,
}

/// The secret.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VaultGetResult {
    /// In clear.
    pub value: String,
}
