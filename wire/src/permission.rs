//! Permissions: what a principal must hold to call a method, one row each.
//!
//! A permission names a kind of deed. Whether a principal may do it *to this object* is decided by the control
//! plane, which knows owners; here is only the vocabulary.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! permissions {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $scope:ident, $resource:ident, $guard:expr;)+) => {
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

            /// The permission of a name, if there is one.
            pub fn from_name(name: &str) -> Option<Permission> {
                match name { $($name => Some(Permission::$variant),)+ _ => None }
            }

            /// What its resources are.
            pub fn resource(self) -> Resource {
                match self { $(Permission::$variant => Resource::$resource,)+ }
            }

            /// What it is checked against.
            pub fn scope(self) -> PermissionScope {
                match self { $(Permission::$variant => PermissionScope::$scope,)+ }
            }
        }

        /// All of them.
        pub const PERMISSIONS: &[PermissionRow] = &[
            $(PermissionRow {
                permission: Permission::$variant,
                name: $name,
                doc: concat!($($doc, "\n"),+),
                scope: PermissionScope::$scope,
                resource: Resource::$resource,
                guard: $guard,
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
    /// The caller and whom it decides about: its own user's, or any for the administrator; a program only what it was granted.
    Principal,
    /// The caller and each thing it would be told: what it may not see is left out, not refused.
    Filtered,
    /// The daemon's owner only, and whoever was granted it by name.
    Administrator,
    /// Nothing until it is granted: it is asked for in a manifest, and enforced on a program that runs under it.
    Granted,
}

impl PermissionScope {
    /// How documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            PermissionScope::Everybody => "everybody",
            PermissionScope::Caller => "caller",
            PermissionScope::Process => "process",
            PermissionScope::Intent => "intent",
            PermissionScope::Principal => "principal",
            PermissionScope::Filtered => "filtered",
            PermissionScope::Administrator => "administrator",
            PermissionScope::Granted => "granted",
        }
    }
}

/// What a permission can be granted for: the form of its resources. `*`, or none, is always all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// It has none.
    None,
    /// Names of methods: `process.spawn`, or `process.*` for all that begin so.
    Method,
    /// Ids of processes: `build`, or `build-*`.
    Process,
    /// Types of events, as `subscribe` takes patterns of them.
    Topic,
    /// A folder and all below it, or a file.
    Path,
    /// `HOST:PORT`, either of which may be `*`.
    Endpoint,
    /// A port, or a range: `8000-8010`.
    Port,
    /// `none`, `inside` or `any`.
    Reach,
    /// The name of a variable, or the beginning of one and `*`.
    Variable,
    /// What is asked of a device, and which: `claim type=camera`.
    Device,
    /// A principal: `skill:photo-index`, or `skill:*`.
    Principal,
    /// A limit and what it is: `memoryBytes=1073741824`.
    Limit,
}

impl Resource {
    /// True if only the method that is called knows which resource is meant, so that it is the method that asks.
    pub fn is_known_to_methods(self) -> bool {
        matches!(self, Resource::Topic | Resource::Process | Resource::Principal)
    }

    /// How documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            Resource::None => "",
            Resource::Method => "method",
            Resource::Process => "process id",
            Resource::Topic => "topic",
            Resource::Path => "path",
            Resource::Endpoint => "host:port",
            Resource::Port => "port",
            Resource::Reach => "reach",
            Resource::Variable => "variable",
            Resource::Device => "device",
            Resource::Principal => "principal",
            Resource::Limit => "limit",
        }
    }
}

/// Who keeps a principal to what it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The kernel, at each call.
    Kernel,
    /// Containment, by the protection of this name, from the start of a program on.
    Containment(&'static str),
}

impl Guard {
    /// How documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            Guard::Kernel => "kernel",
            Guard::Containment(protection) => protection,
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
    /// What it can be granted for.
    pub resource: Resource,
    /// Who keeps to it.
    pub guard: Guard,
}

permissions! {
    /// Ask who is there and what it can do.
    KernelTalk = "kernel.talk", Everybody, None, Guard::Kernel;
    /// Read facts about the machine and the kernel.
    KernelInspect = "kernel.inspect", Caller, None, Guard::Kernel;
    /// Stop the kernel.
    KernelAdministrate = "kernel.administrate", Administrator, None, Guard::Kernel;
    /// Start programs as oneself.
    ProcessSpawn = "process.spawn", Caller, None, Guard::Kernel;
    /// See that a process is there, its state, argv and numbers.
    ProcessObserve = "process.observe", Process, Process, Guard::Kernel;
    /// Read what a process writes.
    ProcessRead = "process.read", Process, Process, Guard::Kernel;
    /// Write to a process's stdin or terminal.
    ProcessWrite = "process.write", Process, Process, Guard::Kernel;
    /// Signal, pause, resume and end a process.
    ProcessControl = "process.control", Process, Process, Guard::Kernel;
    /// List processes; those the caller may not observe are left out.
    ProcessList = "process.list", Filtered, None, Guard::Kernel;
    /// Receive events; those about what the caller may not observe are left out.
    EventSubscribe = "event.subscribe", Filtered, Topic, Guard::Kernel;
    /// Publish events under one's own name.
    EventPublish = "event.publish", Caller, Topic, Guard::Kernel;
    /// Read views; rows made of events the caller may not hear are left out.
    ViewRead = "view.read", Filtered, None, Guard::Kernel;
    /// Define views, drop them and fold them again.
    ViewDefine = "view.define", Caller, None, Guard::Kernel;
    /// Begin intents, alone or under one's own.
    IntentBegin = "intent.begin", Caller, None, Guard::Kernel;
    /// See how an intent stands and what happened in it, and be told when it is cancelled.
    IntentObserve = "intent.observe", Intent, None, Guard::Kernel;
    /// End and cancel an intent.
    IntentControl = "intent.control", Intent, None, Guard::Kernel;
    /// List intents; those the caller may not observe are left out.
    IntentList = "intent.list", Filtered, None, Guard::Kernel;
    /// Give up rights for the life of the connection.
    IdentityLower = "identity.lower", Everybody, None, Guard::Kernel;
    /// List devices.
    DeviceList = "device.list", Caller, None, Guard::Kernel;
    /// Read secrets.
    VaultRead = "vault.read", Caller, None, Guard::Kernel;
    /// Ask for permissions, and whether one has them.
    PermissionRequest = "permission.request", Caller, None, Guard::Kernel;
    /// See what was asked for and what was granted; others' is left out.
    PermissionRead = "permission.read", Filtered, None, Guard::Kernel;
    /// Approve, deny, grant and revoke. A user decides for what runs as that user, the administrator for all; a program only
    /// if it was granted that.
    PermissionDecide = "permission.decide", Principal, Principal, Guard::Kernel;
    /// Create and remove agents, and begin and end their sessions.
    AgentManage = "agent.manage", Principal, Principal, Guard::Kernel;
    /// Call methods, by their names. What only the administrator may isn't reached by a pattern.
    KernelCall = "kernel.call", Granted, Method, Guard::Kernel;
    /// Claim and use devices of the kernel's registry.
    DeviceClaim = "device.claim", Granted, Device, Guard::Kernel;
    /// Read files and list folders.
    FileRead = "file.read", Granted, Path, Guard::Containment("files");
    /// Change files that are there.
    FileWrite = "file.write", Granted, Path, Guard::Containment("files");
    /// Run programs.
    FileExecute = "file.execute", Granted, Path, Guard::Containment("files");
    /// Make files, folders and links.
    FileCreate = "file.create", Granted, Path, Guard::Containment("files");
    /// Remove files and folders.
    FileDelete = "file.delete", Granted, Path, Guard::Containment("files");
    /// Change modes, owners and attributes of files.
    FileMetadata = "file.metadata", Granted, None, Guard::Containment("metadata");
    /// Connect to other machines by TCP.
    NetworkConnect = "network.connect", Granted, Endpoint, Guard::Containment("ports");
    /// Be reached by TCP.
    NetworkBind = "network.bind", Granted, Port, Guard::Containment("ports");
    /// Connect and be reached on this machine alone.
    NetworkLoopback = "network.loopback", Granted, Port, Guard::Containment("loopback");
    /// Send and receive UDP.
    NetworkUdp = "network.udp", Granted, None, Guard::Containment("network");
    /// Connect to unix sockets.
    UnixConnect = "unix.connect", Granted, Path, Guard::Containment("unixSockets");
    /// Open devices by their paths, and command them.
    DeviceOpen = "device.open", Granted, Path, Guard::Containment("deviceCommands");
    /// Send signals.
    SignalSend = "signal.send", Granted, Reach, Guard::Containment("signals");
    /// Look into processes.
    ProcessTrace = "process.trace", Granted, Reach, Guard::Containment("ptrace");
    /// Be given variables of the kernel's environment.
    EnvironmentRead = "environment.read", Granted, Variable, Guard::Containment("environment");
    /// Use as much of the machine as this.
    LimitUse = "limit.use", Granted, Limit, Guard::Containment("rlimits");
    /// See how much one has of what there is a quota of; of others the caller may not know they are left out.
    QuotaRead = "quota.read", Filtered, None, Guard::Kernel;
    /// Read the audit, and have it signed and verified.
    AuditRead = "audit.read", Administrator, None, Guard::Kernel;
    /// Own streams and write them. A program only if it was granted that.
    StreamPublish = "stream.publish", Caller, None, Guard::Kernel;
}
