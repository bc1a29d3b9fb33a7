//! Names for things that live on a reactor.
//!
//! A key says where its owner is (`reactor`, `home`), so that any thread can address it, and carries a
//! generation or a serial that is never reused, so that a stale key misses instead of hitting a stranger.

use serde::{Deserialize, Serialize};

pub use kairo_shm::inbox::WriteKey;

/// A reactor thread, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReactorId(pub u16);

/// A client's connection. Issued by the reactor that accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    /// The reactor that owns the socket.
    pub reactor: ReactorId,
    /// Place in that reactor's table.
    pub slot: u32,
    /// How often the place has been used.
    pub generation: u32,
}

/// A process and its streams. Issued by the control plane; `serial` is unique for the life of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessKey {
    /// The reactor that owns the process's descriptors.
    pub home: ReactorId,
    /// Never reused.
    pub serial: u64,
}

/// One reader of one process. Lives on the home reactor of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionKey {
    /// The reactor of the process that is read.
    pub home: ReactorId,
    /// Never reused.
    pub serial: u64,
}

/// A timer armed by the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerKey {
    /// The reactor that waits for it.
    pub home: ReactorId,
    /// Never reused.
    pub serial: u64,
}

/// Ties the answer of an asynchronous command to the call that wanted it. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticket(pub u64);

impl Ticket {
    /// Of what nobody waits for.
    pub const NOBODYS: Ticket = Ticket(u64::MAX);
}

/// Which output of a process. A PTY has only `Stdout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Channel {
    /// Descriptor 1 of the child, or its terminal.
    Stdout = 0,
    /// Descriptor 2 of the child.
    Stderr = 1,
}

impl Channel {
    /// Both, in wire order.
    pub const ALL: [Channel; 2] = [Channel::Stdout, Channel::Stderr];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
        }
    }
}
