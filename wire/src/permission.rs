//! Permissions: what a principal must hold to call a method, one row each.
//!
//! A permission names a kind of deed. Whether a principal may do it *to this object* is decided by the control
//! plane, which knows owners; here is only the vocabulary.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! permissions {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $scope:ident;)+) => {
        /// A kind of deed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum Permission {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Permission {
            /// Its name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Permission::$variant => $name,)+ }
            }
        }

        /// All of them.
        pub const PERMISSIONS: &[PermissionRow] = &[
            $(PermissionRow {
                permission: Permission::$variant,
                name: $name,
                doc: concat!($($doc, "\n"),+),
                scope: PermissionScope::$scope,
            },)+
        ];
    };
}

/// What a permission is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionScope {
    /// Nothing: everybody who can connect holds it.
    Everybody,
    /// The caller alone.
    Caller,
    /// The caller and the process it names: the process's owner, whoever started it, and the administrator.
    Process,
    /// The caller and the intent it names: whoever began it, its user, and the administrator.
    Intent,
    /// The caller and each thing it would be told: what it may not see is left out, not refused.
    Filtered,
    /// The daemon's owner only.
    Administrator,
}

impl PermissionScope {
    /// How documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            PermissionScope::Everybody => "everybody",
            PermissionScope::Caller => "caller",
            PermissionScope::Process => "process",
            PermissionScope::Intent => "intent",
            PermissionScope::Filtered => "filtered",
            PermissionScope::Administrator => "administrator",
        }
    }
}

/// One permission.
#[derive(Clone, Copy, Debug)]
pub struct PermissionRow {
    /// Which.
    pub permission: Permission,
    /// Its name on the wire.
    pub name: &'static str,
    /// What it allows.
    pub doc: &'static str,
    /// What it is checked against.
    pub scope: PermissionScope,
}

permissions! {
    /// Ask who is there and what it can do.
    KernelTalk = "kernel.talk", Everybody;
    /// Read facts about the machine and the kernel.
    KernelInspect = "kernel.inspect", Caller;
    /// Stop the kernel.
    KernelAdministrate = "kernel.administrate", Administrator;
    /// Start programs as oneself.
    ProcessSpawn = "process.spawn", Caller;
    /// See that a process is there, its state, argv and numbers.
    ProcessObserve = "process.observe", Process;
    /// Read what a process writes.
    ProcessRead = "process.read", Process;
    /// Write to a process's stdin or terminal.
    ProcessWrite = "process.write", Process;
    /// Signal, pause, resume and end a process.
    ProcessControl = "process.control", Process;
    /// List processes; those the caller may not observe are left out.
    ProcessList = "process.list", Filtered;
    /// Receive events; those about what the caller may not observe are left out.
    EventSubscribe = "event.subscribe", Filtered;
    /// Publish events under one's own name.
    EventPublish = "event.publish", Caller;
    /// Read views; rows made of events the caller may not hear are left out.
    ViewRead = "view.read", Filtered;
    /// Define views, drop them and fold them again.
    ViewDefine = "view.define", Caller;
    /// Begin intents, alone or under one's own.
    IntentBegin = "intent.begin", Caller;
    /// See how an intent stands and what happened in it, and be told when it is cancelled.
    IntentObserve = "intent.observe", Intent;
    /// End and cancel an intent.
    IntentControl = "intent.control", Intent;
    /// List intents; those the caller may not observe are left out.
    IntentList = "intent.list", Filtered;
    /// Give up rights for the life of the connection.
    IdentityLower = "identity.lower", Everybody;
    /// List devices.
    DeviceList = "device.list", Caller;
    /// Read secrets.
    VaultRead = "vault.read", Caller;
    /// Read the audit, and have it signed and verified.
    AuditRead = "audit.read", Administrator;
}
