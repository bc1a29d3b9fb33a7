//! The protections, each by its name: what a profile may ask for more or less strictly, what a refusal names and what a
//! receipt lists.
//!
//! One row each; whoever adds one adds it to the plan, because the plan goes through all of them.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! protections {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// One thing a contained process is kept from.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum Protection {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Protection {
            /// All, in the order of a receipt.
            pub const ALL: &[Protection] = &[$(Protection::$variant,)+];

            /// The name in a profile, a refusal and a receipt.
            pub fn name(self) -> &'static str {
                match self { $(Protection::$variant => $name,)+ }
            }

            /// What it keeps from, in words.
            pub fn meaning(self) -> &'static str {
                match self { $(Protection::$variant => concat!($($doc, "\n",)+).trim_ascii(),)+ }
            }
        }
    };
}

protections! {
    /// Reading, writing, executing, creating and deleting files outside the folders allowed.
    Files = "files",
    /// Truncating files that may not be written.
    Truncate = "truncate",
    /// Changing modes, owners and attributes of files, which Landlock doesn't guard.
    Metadata = "metadata",
    /// Device commands (ioctl) on devices that are opened and not listed.
    DeviceCommands = "deviceCommands",
    /// Paths denied inside a folder that is allowed, whether they exist yet or not.
    DeniedPaths = "deniedPaths",
    /// Network sockets of every family that is not granted: raw, packet, netlink, vsock, UDP, MPTCP.
    Network = "network",
    /// TCP ports that are not listed.
    Ports = "ports",
    /// Ports of this machine alone, and no other machine's.
    Loopback = "loopback",
    /// Hosts by name.
    Domains = "domains",
    /// Unix sockets that are not listed by path.
    UnixSockets = "unixSockets",
    /// Abstract unix sockets of processes outside.
    AbstractSockets = "abstractSockets",
    /// Signals to processes outside.
    Signals = "signals",
    /// Looking into other processes: ptrace, their memory, their descriptors.
    Ptrace = "ptrace",
    /// System calls no contained program needs: io_uring, keys, bpf, perf, mounts, namespaces, modules.
    SystemCalls = "systemCalls",
    /// Gaining rights: set-user-id programs, capabilities.
    Privileges = "privileges",
    /// Descriptors that were not meant for it.
    Descriptors = "descriptors",
    /// Variables it is not given: loaders' and interpreters' hooks, secrets.
    Environment = "environment",
    /// Typing into the terminal of whoever started it, or taking it away.
    Terminal = "terminal",
    /// Writing its memory to a core file.
    CoreDumps = "coreDumps",
    /// More memory than the tree may have.
    Memory = "memory",
    /// More processor time than the tree may have.
    Cpu = "cpu",
    /// More processes and threads than the tree may have.
    Pids = "pids",
    /// More of a resource of setrlimit(2) than a process may have.
    Rlimits = "rlimits",
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much a protection is insisted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Strength {
    /// In force as asked for, or nothing is started.
    #[default]
    Required,
    /// As far as this machine can; the receipt says how far.
    Degradable,
    /// Not asked for.
    Off,
}
