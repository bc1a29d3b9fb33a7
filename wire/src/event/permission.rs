//! What is asked for, granted, denied and taken back, and the agents it is for.

use crate::id::ProcessId;
use crate::methods::permission::{Grant, KeptProcess, PendingRequest, RevokeCause, RunningOption};
use crate::methods::system::Principal;

super::events! {
    /// Somebody has asked for permissions, and nobody has decided yet. To whoever may decide.
    PermissionRequested = "kairo.permission.requested", Bus {
        /// What is asked for, by whom.
        #[serde(flatten)]
        pub request: PendingRequest,
    }

    /// Permissions were granted.
    PermissionApproved = "kairo.permission.approved", Bus {
        /// What, to whom, by whom.
        pub grant: Grant,
    }

    /// A request was denied.
    PermissionDenied = "kairo.permission.denied", Bus {
        /// What was asked for.
        pub request: PendingRequest,
        /// By whom; `policy:RULE` for a rule of the policy.
        pub by: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
    }

    /// A grant is no longer in force.
    PermissionRevoked = "kairo.permission.revoked", Bus {
        /// What it was.
        pub grant: Grant,
        /// Why.
        pub cause: RevokeCause,
        /// By whom, if by somebody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub by: Option<Principal>,
        /// What was decided for what runs under it.
        pub running: RunningOption,
        /// Processes that are ended for it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub ended: Vec<ProcessId>,
        /// Processes that go on, and what they keep.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub kept: Vec<KeptProcess>,
    }

    /// There is an agent.
    AgentCreated = "kairo.agent.created", Bus {
        /// Its name.
        pub name: String,
        /// The user it works for.
        pub uid: u32,
        /// Until when, milliseconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub expires_ms: Option<u64>,
    }

    /// An agent is no more.
    AgentRemoved = "kairo.agent.removed", Bus {
        /// Its name.
        pub name: String,
        /// The user it worked for.
        pub uid: u32,
        /// Why.
        pub cause: RevokeCause,
    }

    /// A session of an agent has begun.
    SessionCreated = "kairo.session.created", Bus {
        /// Its name.
        pub session_id: String,
        /// Of which agent.
        pub agent: String,
        /// Until when, milliseconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub expires_ms: Option<u64>,
    }

    /// A session of an agent has ended.
    SessionEnded = "kairo.session.ended", Bus {
        /// Its name.
        pub session_id: String,
        /// Of which agent.
        pub agent: String,
        /// Why.
        pub cause: RevokeCause,
        /// Processes that are ended with it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub ended: Vec<ProcessId>,
    }

    /// Nobody has decided what was asked for, and it no longer waits.
    PermissionExpired = "kairo.permission.expired", Bus {
        /// What was asked for.
        pub request: PendingRequest,
    }
}
