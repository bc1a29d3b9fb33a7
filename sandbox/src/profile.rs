//! What is asked for, as data, not yet held against any machine.

use serde::{Deserialize, Serialize};

/// A wish: what a process may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Profile {
    /// Limits of the tree as a whole.
    pub limits: TreeLimits,
    /// Limits of each process apart, setrlimit(2): soft and hard alike.
    pub rlimits: Vec<ProcessLimit>,
}

/// Limits that hold for all processes of a tree together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TreeLimits {
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// Percent of one CPU: 250 is two and a half.
    pub cpu_percent: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Where a limit can't be enforced for the tree: take what is weaker, or nothing, and say so.
    pub allow_weaker: bool,
}

/// A limit each process has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimit {
    /// Which.
    pub resource: Resource,
    /// Its value, in the resource's unit.
    pub value: u64,
}

/// What setrlimit(2) can limit, of what makes sense for a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Resource {
    /// RLIMIT_AS, bytes.
    AddressSpace,
    /// RLIMIT_CORE, bytes.
    Core,
    /// RLIMIT_CPU, seconds.
    CpuSeconds,
    /// RLIMIT_FSIZE, bytes.
    FileSize,
    /// RLIMIT_NOFILE, one more than the highest number.
    Descriptors,
    /// RLIMIT_NPROC, of the user, not of the tree.
    Processes,
    /// RLIMIT_MEMLOCK, bytes.
    LockedMemory,
    /// RLIMIT_STACK, bytes.
    Stack,
}

impl Resource {
    /// All.
    pub const ALL: [Resource; 8] = [
        Resource::AddressSpace,
        Resource::Core,
        Resource::CpuSeconds,
        Resource::FileSize,
        Resource::Descriptors,
        Resource::Processes,
        Resource::LockedMemory,
        Resource::Stack,
    ];

    /// The name in a request and a receipt.
    pub fn name(self) -> &'static str {
        match self {
            Resource::AddressSpace => "addressSpace",
            Resource::Core => "core",
            Resource::CpuSeconds => "cpuSeconds",
            Resource::FileSize => "fileSize",
            Resource::Descriptors => "descriptors",
            Resource::Processes => "processes",
            Resource::LockedMemory => "lockedMemory",
            Resource::Stack => "stack",
        }
    }
}
