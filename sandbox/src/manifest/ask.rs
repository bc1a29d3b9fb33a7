//! One thing a skill asks for, whichever form it was written in.
//!
//! Each is as small as can be granted or compared by itself: one right on one path, one set of ports of one host.

use super::ports::Ports;
use crate::profile::Reach;
use serde::Serialize;
use std::collections::BTreeMap;

/// What may be done with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Right {
    /// Read files and list folders.
    Read,
    /// Change what is there.
    Write,
    /// Run programs, which are read for that.
    Execute,
    /// Make files, folders and links; move things here.
    Create,
    /// Remove files and folders; move things away.
    Delete,
}

/// What may not be done with files, though it may above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Denial {
    /// Reading and running.
    Read,
    /// Changing, making and removing.
    Write,
}

impl Denial {
    /// Whether it takes a right away.
    pub(super) fn takes(self, right: Right) -> bool {
        matches!(right, Right::Read | Right::Execute) == (self == Denial::Read)
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "ask")]
pub enum Ask {
    /// A right on a path and all below it.
    File {
        /// Which right.
        right: Right,
        /// In its one spelling.
        path: String,
    },
    /// No right on a path and all below it.
    NoFile {
        /// What is denied.
        denial: Denial,
        /// In its one spelling.
        path: String,
    },
    /// Modes, owners and attributes of whatever its user may change.
    Metadata,
    /// TCP ports of a host, or of any.
    Connect {
        /// By name; none for any.
        host: Option<String>,
        /// Which.
        ports: Ports,
    },
    /// TCP ports to be reached at; 0 for any the system chooses.
    Listen {
        /// Which.
        ports: Ports,
    },
    /// TCP ports of this machine alone, to connect to and to listen on.
    Loopback {
        /// Which.
        ports: Ports,
    },
    /// UDP, to and from anywhere.
    Udp,
    /// A network of its own, with a loopback nobody else is on.
    PrivateNetwork,
    /// A unix socket, by path.
    UnixSocket {
        /// In its one spelling.
        path: String,
    },
    /// Any unix socket.
    AnyUnixSocket,
    /// A device, by path.
    DevicePath {
        /// In its one spelling.
        path: String,
    },
    /// A device of the kernel's registry.
    Device {
        /// What is asked of it.
        request: String,
        /// Which.
        criteria: BTreeMap<String, String>,
    },
    /// A variable of the kernel's environment, or all that begin alike.
    Variable {
        /// Its name, or the beginning and a star.
        name: String,
    },
    /// Signals.
    Signal {
        /// To whom.
        reach: Reach,
    },
    /// Looking into processes.
    Ptrace {
        /// Whose.
        reach: Reach,
    },
    /// Calling the kernel.
    Call {
        /// A method, or a room of them and a star.
        method: String,
    },
    /// Publishing events.
    Publish {
        /// Of these types.
        pattern: String,
    },
    /// Hearing events.
    Subscribe {
        /// Of these types.
        pattern: String,
    },
}

impl Ask {
    /// Takes in another of the same kind, host and all, if ports are what they differ by.
    pub(super) fn absorb(&mut self, other: &Ask) -> bool {
        match (self, other) {
            (Ask::Connect { host, ports }, Ask::Connect { host: of, ports: more }) if host == of => {
                ports.extend(more);
            }
            (Ask::Listen { ports }, Ask::Listen { ports: more })
            | (Ask::Loopback { ports }, Ask::Loopback { ports: more }) => ports.extend(more),
            (one, other) => return one == other,
        }
        true
    }

    /// Whether it is for the kernel to grant, not for a containment to enforce.
    pub fn is_the_kernels(&self) -> bool {
        matches!(self, Ask::Device { .. } | Ask::Call { .. } | Ask::Publish { .. } | Ask::Subscribe { .. })
    }
}

/// What is asked for, and what for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Permission {
    /// What.
    #[serde(flatten)]
    pub ask: Ask,
    /// In the words of whoever asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The field that asks; no part of what is asked.
    #[serde(skip)]
    pub(super) field: String,
}
