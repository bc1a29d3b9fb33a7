//! What a child does to itself between fork and exec, as data: the part of a plan that goes to the keeper.
//!
//! Everything is decided here already; whoever carries it out adds nothing and leaves nothing out, and answers with a
//! [`Finding`] of what it met: paths that don't exist, the filter's digest, what the probes saw.

use crate::filter::Groups;
use crate::seatbelt::Belt;
use serde::{Deserialize, Serialize};
use std::io;

/// What is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Containment {
    /// Files, ports and scopes, in one layer: a second one would keep files from being moved between folders.
    pub landlock: Option<Ruleset>,
    /// System calls.
    pub filter: Groups,
    /// Capabilities go, and nothing gives new ones. Without it the two above can't be had either.
    pub unprivileged: bool,
    /// RLIMIT_CORE. 1 where the kernel pipes cores to a program, which it does at 0 as well (core(5)).
    pub core_bytes: Option<u64>,
    /// It is given a connection to its kernel, as [`KERNEL_DESCRIPTOR`].
    pub kernel: bool,
    /// What is tried inside, before exec.
    pub probes: Vec<Probe>,
    /// All of it in one, where that is how the system does it.
    #[serde(default)]
    pub belt: Option<Belt>,
    /// What came after the first keepers that contain. One that knows of none is told of none.
    #[serde(default, skip_serializing_if = "Later::is_none")]
    pub later: Later,
}

/// What a containment says beside what the first keepers that contain know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Later {
    /// What it is denied is recorded by the operating system, for whoever may hear that.
    pub log: bool,
    /// What it sees of the machine, where that differs from what others see.
    pub namespaces: Option<Namespaces>,
}

impl Later {
    /// Whether it says nothing.
    pub fn is_none(&self) -> bool {
        *self == Later::default()
    }
}

/// Namespaces of its own (namespaces(7)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// They are had by way of a user namespace, which gives its user the right to make the others.
    pub user: bool,
    /// Paths that aren't what the grants around them make of them.
    pub denied: Vec<(Vec<u8>, Denied)>,
    /// A denied path that isn't there is taken by an empty folder as long as it runs; else it is left alone.
    pub placeholders: bool,
    /// Nothing can be changed, modes and owners included, but below what the ruleset lets be changed.
    pub read_only: bool,
    /// No device can be opened but those the ruleset names.
    pub no_devices: bool,
    /// A network with a loopback and nothing else.
    pub network: bool,
}

/// What a denied path is denied for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Denied {
    /// Nothing of it can be seen.
    Read,
    /// It stays as it is.
    Write,
}

/// As whom a child runs that isn't who its keeper is.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Its other groups.
    pub groups: &'a [u32],
}

/// Why a containment can't be made ready.
#[derive(Debug)]
pub enum Unready {
    /// A denied path can't be kept as it is asked for.
    Denied(io::Error),
    /// Anything else.
    Other(io::Error),
}

impl From<io::Error> for Unready {
    fn from(error: io::Error) -> Unready {
        Unready::Other(error)
    }
}

/// The number a contained child finds its connection to the kernel at.
pub const KERNEL_DESCRIPTOR: i32 = 3;

/// A Landlock ruleset (landlock(7)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// Rights on files that are denied unless granted.
    pub files: u64,
    /// Rights on ports that are denied unless granted.
    pub ports: u64,
    /// What of the outside can't be reached.
    pub scopes: u64,
    /// Rights granted below paths.
    pub below: Vec<(Vec<u8>, u64)>,
    /// Rights granted on ports.
    pub on: Vec<(u16, u64)>,
}

/// Rights of LANDLOCK_ACCESS_FS_*.
pub mod rights {
    /// Run it.
    pub const EXECUTE: u64 = 1;
    /// Write to it.
    pub const WRITE_FILE: u64 = 1 << 1;
    /// Read it.
    pub const READ_FILE: u64 = 1 << 2;
    /// List it.
    pub const READ_DIR: u64 = 1 << 3;
    /// Remove a folder in it.
    pub const REMOVE_DIR: u64 = 1 << 4;
    /// Remove anything else in it.
    pub const REMOVE_FILE: u64 = 1 << 5;
    /// Make a folder in it.
    pub const MAKE_DIR: u64 = 1 << 7;
    /// Make a file in it.
    pub const MAKE_REG: u64 = 1 << 8;
    /// Make a socket in it.
    pub const MAKE_SOCK: u64 = 1 << 9;
    /// Make a fifo in it.
    pub const MAKE_FIFO: u64 = 1 << 10;
    /// Make a symbolic link in it.
    pub const MAKE_SYM: u64 = 1 << 12;
    /// Move or link between it and another folder. ABI 2.
    pub const REFER: u64 = 1 << 13;
    /// Shorten it. ABI 3.
    pub const TRUNCATE: u64 = 1 << 14;
    /// Command a device. ABI 5.
    pub const IOCTL_DEV: u64 = 1 << 15;
    /// Connect to a socket below it. ABI 9.
    pub const RESOLVE_UNIX: u64 = 1 << 16;

    /// What makes sense for something that is no folder.
    pub const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV | RESOLVE_UNIX;
    /// What makes a difference to others.
    pub const CHANGES: u64 = WRITE_FILE
        | REMOVE_DIR
        | REMOVE_FILE
        | MAKE_DIR
        | MAKE_REG
        | MAKE_SOCK
        | MAKE_FIFO
        | MAKE_SYM
        | REFER
        | TRUNCATE;
    /// All there were at first.
    pub const ABI_1: u64 = (1 << 13) - 1;

    /// LANDLOCK_ACCESS_NET_BIND_TCP.
    pub const BIND_TCP: u64 = 1;
    /// LANDLOCK_ACCESS_NET_CONNECT_TCP.
    pub const CONNECT_TCP: u64 = 1 << 1;

    /// LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET.
    pub const SCOPE_ABSTRACT: u64 = 1;
    /// LANDLOCK_SCOPE_SIGNAL.
    pub const SCOPE_SIGNAL: u64 = 1 << 1;
}

/// Something tried inside that must fail, or a state that must be read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// `no_new_privs` reads 1.
    NoNewPrivileges,
    /// No capability is in any set that counts.
    Capabilities,
    /// The mode of seccomp reads 2.
    FilterMode,
    /// Opening this for reading is denied.
    Read(Vec<u8>),
    /// Opening this for writing is denied.
    Write(Vec<u8>),
    /// A packet socket is denied.
    PacketSocket,
    /// A TCP socket is denied.
    InternetSocket,
    /// A unix socket is denied.
    UnixSocket,
    /// A ring of io_uring is denied.
    Ring,
    /// Typing into a terminal is denied before anybody asks whether there is one.
    TerminalInput,
    /// Tracing is denied before anybody asks whom.
    Trace,
    /// What is there can't be opened.
    Hidden(Vec<u8>),
    /// What is there can't be written.
    Unchanged(Vec<u8>),
    /// No way leads to another machine.
    NoRoute,
}

impl Probe {
    /// The name in a receipt.
    pub fn name(&self) -> &'static str {
        match self {
            Probe::NoNewPrivileges => "noNewPrivileges",
            Probe::Capabilities => "capabilities",
            Probe::FilterMode => "filterMode",
            Probe::Read(_) => "readOutside",
            Probe::Write(_) => "writeOutside",
            Probe::PacketSocket => "packetSocket",
            Probe::InternetSocket => "internetSocket",
            Probe::UnixSocket => "unixSocket",
            Probe::Ring => "ioUring",
            Probe::TerminalInput => "terminalInput",
            Probe::Trace => "trace",
            Probe::Hidden(_) => "readDenied",
            Probe::Unchanged(_) => "writeDenied",
            Probe::NoRoute => "otherMachine",
        }
    }

    /// What it is about.
    pub fn path(&self) -> Option<&[u8]> {
        match self {
            Probe::Read(path) | Probe::Write(path) | Probe::Hidden(path) | Probe::Unchanged(path) => {
                Some(path)
            }
            _ => None,
        }
    }
}

/// Most probes of a plan.
pub const PROBES_MAX: usize = 16;

/// What whoever applied a containment met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Landlock's ABI of the kernel that took the ruleset.
    pub abi: u32,
    /// Which of [`Ruleset::below`] don't exist, and so grant nothing.
    pub missing: Vec<u32>,
    /// Digest and length of the filter.
    pub filter: Option<(String, u32)>,
    /// What each probe saw: an errno, or the value read back.
    pub probes: Vec<i32>,
    /// Digest and length of the `sandbox-exec` profile.
    #[serde(default)]
    pub profile: Option<(String, u32)>,
    /// What became of denied paths; none where no namespace denies any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted: Option<Mounted>,
}

/// What became of denied paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Which of [`Namespaces::denied`] aren't kept as asked for: they aren't there, a link on the way could be replaced
    /// inside, or another name leads there too.
    pub left: Vec<u32>,
    /// Empty folders that stand in the place of what isn't there.
    pub placeholders: Vec<Vec<u8>>,
}
