//! What a kernel and its keeper say to each other.
//!
//! One message is one packet of a lane (`SOCK_SEQPACKET`), MessagePack of the types below; a message over
//! [`PACKET_BYTES_MAX`] travels in a sealed memfd that goes with a [`ToKeeper::Bulk`] packet. Descriptors go beside the packet (`SCM_RIGHTS`) in the order the message says.
//! The first message either way is `Hello` with the highest version one speaks; both then speak the lower one, and a
//! keeper that meets a version below [`VERSION_MIN`] answers its own `Hello` and hangs up. A second dialect,
//! `succession`'s, hands everything over to whoever comes after a kernel that died.
//!
//! ```text
//!  Hello ▶ ◀ Hello      Spawn ▶ ◀ Spawned+fds | SpawnFailed      Signal ▶ ◀ Signalled
//!                       Contain ▶ ◀ Contained, Spawned+fds | SpawnFailed
//!                       Measure ▶ ◀ Measured, (as above)
//!                       HoldStream+ring ▶ ◀ Held                 ◀ Exited, Acknowledge ▶
//!                       CloseChannel ▶                           ◀ TreeEnded, Acknowledge ▶, Forget ▶
//!                       HoldOutlet | HoldFramed +end+place ▶, DropOutlet ▶     HoldInlet+end ▶, DropInlet ▶
//!                       HoldProducer+ends ▶, EndProducer ▶ ◀ Exited ◀ TreeEnded       Blockers ▶
//! ```
//!
//! Only data is here: [`link`](crate::keeper::link) encodes and decodes for the kernel's side,
//! the keeper's lanes for the other.

use crate::command::{CgroupLimits, Credentials, ProgramCheck, Scope, Stdio};
use crate::control::{ExitStatus, Program, SpawnFailure, Tree, Usage};
use crate::key::{Channel, ProcessKey, Ticket};
use kairo_sandbox::containment::{Containment, Finding};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Raised by every change of what is said.
///
/// - 1: never released; handed over, but served no second kernel.
/// - 2: adoption: `Lane`, `Adopt`, `Replace`, inboxes.
/// - 3: notes (`Annotate`) and facts (`Facts`), and leaving in order (`Leave`).
/// - 4: several messages in one packet (`Several`).
/// - 5: containment (`Contain`, `Contained`).
/// - 6: what is executed (`Measure`, `Measured`).
/// - 7: namespaces in a containment.
/// - 8: children bound to cores (`Placed`); children that are joined to each other, and files as stdin (`Join`); a `Spawned` may
///   have no stdout.
/// - 9: outlets: ends of readers' pipes and sockets (`HoldOutlet`, `DropOutlet`).
/// - 10: outlets in frames (`HoldFramed`); inlets: fifos that stdins are written by (`HoldInlet`, `DropInlet`); streams that
///   clients write (`HoldProducer`, `EndProducer`).
/// - 11: who waits for a first byte (`Blockers`).
pub const VERSION: u16 = 11;

/// The first version that contains children.
pub const VERSION_CONTAINS: u16 = 5;

/// The first version that looks at what is executed.
pub const VERSION_MEASURES: u16 = 6;
/// The first version that gives children namespaces of their own.
pub const VERSION_DIVIDES: u16 = 7;
/// The first version that binds children to cores.
pub const VERSION_PLACES: u16 = 8;

/// The first version that joins children to each other, and opens files for them.
pub const VERSION_JOINS: u16 = 8;

/// The first version that holds what readers are given bytes by.
pub const VERSION_HOLDS: u16 = 9;

/// The first version that holds those in frames, and knows them from raw ones.
pub const VERSION_FRAMES: u16 = 10;

/// The first version that holds what stdins are written by.
pub const VERSION_LETS_IN: u16 = 10;

/// The first version that holds what clients write streams by.
pub const VERSION_PRODUCES: u16 = 10;

/// The first version that is told who waits for a first byte.
pub const VERSION_AWAITS: u16 = 11;

/// The oldest version that is still spoken.
pub const VERSION_MIN: u16 = 2;

/// What two sides speak if the other one says `theirs`; none if there is nothing both do.
pub fn spoken(ours: u16, theirs: u16) -> Option<u16> {
    let both = ours.min(theirs);
    (both >= VERSION_MIN).then_some(both)
}

/// Longest packet, bytes. Well under the smallest send buffer a lane may have.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

/// Longest packet of several messages, bytes: the keeper carries all of it out before it looks at another lane.
pub const SEVERAL_BYTES_MAX: usize = 8 * 1024;

/// Longest message in a memfd, bytes: more than the longest argv and environment any kernel executes.
pub const BULK_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Most descriptors of one packet: page and both ends of two staging pipes of a reactor.
pub const PACKET_DESCRIPTORS_MAX: usize = 5;

/// Bytes that stay where they are: borrowed from the packet when decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob<'a>(pub &'a [u8]);

impl Serialize for Blob<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Blob<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = &'de [u8];
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<&'de [u8], E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_bytes(Borrowed).map(Blob)
    }
}

/// Kernel to keeper.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum ToKeeper<'a> {
    /// First on every lane.
    Hello {
        /// The highest version spoken.
        version: u16,
        /// Whose lane it is.
        kernel_pid: i32,
    },
    /// The message is in the memfd beside this packet.
    Bulk {
        /// Its length.
        bytes: u64,
    },
    /// Start a process; answered by `Spawned` or `SpawnFailed` on the same lane, where its end is told as well.
    #[serde(borrow)]
    Spawn(SpawnRequest<'a>),
    /// Send a signal; answered if there is a ticket.
    Signal {
        /// To whom.
        process: ProcessKey,
        /// 1 to 64.
        signal: i32,
        /// Leader or tree.
        scope: Scope,
        /// Comes back in `Signalled`.
        ticket: Option<Ticket>,
    },
    /// The exit was heard and told, and need not be told to a successor; said again, the end of the tree too.
    Acknowledge {
        /// Whose.
        process: ProcessKey,
    },
    /// Drop the kept duplicate of one end, so that EOF and SIGPIPE go where they should; said again, its ring too.
    CloseChannel {
        /// Whose.
        process: ProcessKey,
        /// Which.
        end: End,
    },
    /// Drop everything kept of a process. If its tree lives it goes on being watched, silently, until it ends.
    Forget {
        /// Which.
        process: ProcessKey,
    },
    /// Beside it: the reactor's page (memfd), read end and write end of its output staging pipe and of its input
    /// staging pipe, to be kept. Replaces what was held for this lane.
    HoldReactor,
    /// Beside it: a stream's ring (memfd), to be kept; replaces the one held. Answered by `Held`.
    HoldStream {
        /// Whose.
        process: ProcessKey,
        /// Which end's bytes.
        end: End,
        /// The stream's place in the reactor's page.
        slot: u32,
        /// Its life of that place.
        generation: u32,
    },
    /// SIGTERM to every tree, SIGKILL after the grace, then exit.
    Shutdown {
        /// Nanoseconds.
        grace_ns: u64,
    },
    /// Beside it: a process's inbox (memfd), to be kept; replaces the one held.
    HoldInput {
        /// Whose.
        process: ProcessKey,
    },
    /// Keep this note of a process for a successor, instead of the last one. Since version 3.
    Annotate {
        /// Whose.
        process: ProcessKey,
        /// Opaque.
        #[serde(borrow)]
        note: Blob<'a>,
    },
    /// The kernel goes and means to be followed: there is no reason to wait if nothing is left. Since version 3.
    Leave,
    /// Start a process that is contained; as `Spawn`, but that `Contained` comes before `Spawned`. Beside it: the child's
    /// end of a connection to the kernel, if the containment says so. Since version 5.
    Contain {
        /// What to start.
        #[serde(borrow)]
        spawn: SpawnRequest<'a>,
        /// What it does to itself.
        containment: Box<Containment>,
    },
    /// Messages without descriptors that had to wait for room, in their order: a lane holds few packets. Since version 4.
    Several {
        /// Each as it would have been a packet.
        #[serde(borrow)]
        messages: Vec<Blob<'a>>,
    },
    /// Start a process once what it executes was looked at; as `Spawn` or `Contain`, but that `Measured` comes before
    /// `Spawned` and `SpawnFailed`, if it came so far. Since version 6.
    Measure {
        /// What to start.
        #[serde(borrow)]
        spawn: SpawnRequest<'a>,
        /// What it does to itself.
        containment: Option<Box<Containment>>,
        /// How what it executes is looked at.
        check: ProgramCheck,
    },
    /// Start what the message inside says (`Spawn`, `Contain`, `Measure`, `Join`; its descriptors are beside this one), bound to
    /// cores. Since version 8.
    Placed {
        /// As it would have been a message.
        #[serde(borrow)]
        start: Blob<'a>,
        /// Their numbers, below [`CPUS_MAX`].
        cpus: Vec<u16>,
    },
    /// Start a process whose descriptors are not all its own; otherwise as the three above. Beside it, in this order: the
    /// child's end of a connection to the kernel, if the containment says so; its descriptor 0; its descriptor 1. Since
    /// version 8.
    Join {
        /// What to start.
        #[serde(borrow)]
        spawn: SpawnRequest<'a>,
        /// What it does to itself.
        containment: Option<Box<Containment>>,
        /// How what it executes is looked at.
        check: Option<ProgramCheck>,
        /// What is not its own.
        wires: Wires<'a>,
    },
    /// Beside it: our end of what a reader takes bytes off (pipe, fifo, socket), and an inbox that says where it has come to; to
    /// be kept, so that a killed kernel is no end to it. Since version 9.
    HoldOutlet {
        /// Whose output it reads.
        process: ProcessKey,
        /// Its name.
        serial: u64,
        /// Which output.
        end: End,
        /// For a successor, opaque, at most [`NOTE_BYTES_MAX`].
        #[serde(borrow)]
        note: Blob<'a>,
    },
    /// Let it go: the reader is to see the end. Since version 9.
    DropOutlet {
        /// Whose output it read.
        process: ProcessKey,
        /// Its name.
        serial: u64,
    },
    /// Beside it: our end of a fifo that a process's stdin is written by; to be kept, opened or not, so that a killed kernel is no
    /// end to it. Replaces the one held. Since version 10.
    HoldInlet {
        /// Whose stdin.
        process: ProcessKey,
        /// Where it is until somebody opens it, as long as [`INLET_PATH_BYTES_MAX`].
        #[serde(borrow)]
        path: Blob<'a>,
        /// Until when it waits for that, CLOCK_MONOTONIC nanoseconds.
        until_ns: u64,
        /// Stdin is closed when its last writer has closed it.
        closes: bool,
        /// For a successor, opaque, at most [`NOTE_BYTES_MAX`].
        #[serde(borrow)]
        note: Blob<'a>,
    },
    /// Let it go: whoever writes is to find it closed. Since version 10.
    DropInlet {
        /// Whose stdin.
        process: ProcessKey,
    },
    /// As `HoldOutlet`, of a reader in frames: its inbox also says what of a frame is under way. Since version 10.
    HoldFramed {
        /// Whose output it reads.
        process: ProcessKey,
        /// Its name.
        serial: u64,
        /// Which output.
        end: End,
        /// For a successor, opaque, at most [`NOTE_BYTES_MAX`].
        #[serde(borrow)]
        note: Blob<'a>,
    },
    /// A process without a child, whose output a client writes. Beside it: the read end of its pipe, or the ring that is
    /// written in place, its page and our end of its doorbell. It is over when the kernel says so. Since version 10.
    HoldProducer {
        /// Its name.
        process: ProcessKey,
        /// Its session.
        session: &'a str,
        /// Size of the pipe in force; none where it is written in place.
        pipe_bytes: Option<u32>,
        /// As of a spawn.
        #[serde(borrow)]
        record: Blob<'a>,
    },
    /// Nothing more is taken of what a client writes: let go of what it is written by. What of it is kept stays. Answered as a child's
    /// end is, by `Exited` and `TreeEnded`. Since version 10.
    EndProducer {
        /// Which.
        process: ProcessKey,
        /// How it ended.
        status: ExitStatus,
    },
    /// So many readers make the source of each output wait, of which there is no byte yet. One that has a ring says so in there.
    /// Since version 11.
    Blockers {
        /// Whose outputs.
        process: ProcessKey,
        /// Of stdout, of stderr.
        counts: [u32; 2],
    },
}

/// Descriptors a child is given instead of those [`Stdio`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wires<'a> {
    /// Descriptor 0 is this file, which the child opens.
    #[serde(borrow)]
    pub file: Option<Blob<'a>>,
    /// Descriptor 0 is beside the packet.
    pub stdin: bool,
    /// Descriptor 1 is.
    pub stdout: bool,
}

/// Cores there may be.
pub const CPUS_MAX: usize = 1_024;

/// All of a spawn command that a fork needs.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct SpawnRequest<'a> {
    /// Its name.
    pub process: ProcessKey,
    /// `KAIRO_SESSION` of its environment.
    pub session: &'a str,
    /// Arguments, each ended by NUL.
    #[serde(borrow)]
    pub argv: Blob<'a>,
    /// `NAME=value`, each ended by NUL.
    #[serde(borrow)]
    pub env: Blob<'a>,
    /// Folders separated by colons.
    #[serde(borrow)]
    pub search_path: Blob<'a>,
    /// Working folder.
    #[serde(borrow)]
    pub cwd: Option<Blob<'a>>,
    /// Descriptors 0, 1, 2.
    pub stdio: Stdio,
    /// Another user.
    pub credentials: Option<Credentials>,
    /// RLIMIT_* number and value.
    pub rlimits: Vec<(u32, u64)>,
    /// Limits of its cgroup.
    pub cgroup: CgroupLimits,
    /// Opaque, for a successor.
    #[serde(borrow)]
    pub record: Blob<'a>,
}

/// One of the kernel-side ends of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum End {
    /// Write end of the child's descriptor 0.
    Stdin = 0,
    /// Read end of the child's descriptor 1, or the PTY master.
    Stdout = 1,
    /// Read end of the child's descriptor 2.
    Stderr = 2,
}

impl End {
    /// All, in the order in which descriptors follow a packet.
    pub const ALL: [End; 3] = [End::Stdin, End::Stdout, End::Stderr];

    /// Where an output comes out.
    pub fn of(channel: Channel) -> End {
        match channel {
            Channel::Stdout => End::Stdout,
            Channel::Stderr => End::Stderr,
        }
    }
}

/// Keeper to kernel. What concerns a process comes in this order: `Spawned`, `Exited`, `TreeEnded`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum ToKernel {
    /// First on every lane.
    Hello {
        /// The highest version spoken.
        version: u16,
        /// The keeper's.
        pid: i32,
    },
    /// The child runs. Its ends follow in the order of [`End::ALL`], those that are `Some` in `pipe_bytes`.
    Spawned {
        /// Which.
        process: ProcessKey,
        /// Its pid.
        pid: i32,
        /// `/proc/PID/stat` field 22.
        start_ticks: u64,
        /// How well its tree is known.
        tree: Tree,
        /// What limits hold.
        limits: Vec<Limit>,
        /// True exactly when `Stdout` is a PTY master, which is written to as well.
        terminal: bool,
        /// Per end, in the order of [`End::ALL`]: absent, or its pipe's size in force (0 for a PTY).
        pipe_bytes: [Option<u32>; 3],
    },
    /// The child that is about to be told of is contained. Since version 5.
    Contained {
        /// Which.
        process: ProcessKey,
        /// What was met, and seen inside.
        finding: Finding,
    },
    /// The child that is about to be told of, one way or the other, executes this. Since version 6.
    Measured {
        /// Which.
        process: ProcessKey,
        /// What.
        program: Program,
    },
    /// There is no child.
    SpawnFailed {
        /// Which.
        process: ProcessKey,
        /// Why.
        failure: SpawnFailure,
    },
    /// The leader ended.
    Exited {
        /// Which.
        process: ProcessKey,
        /// How.
        status: ExitStatus,
        /// wait4(2).
        usage: Usage,
        /// When it was reaped, CLOCK_MONOTONIC nanoseconds.
        at_ns: u64,
    },
    /// Nobody of its tree is left. After `Exited`.
    TreeEnded {
        /// Whose.
        process: ProcessKey,
    },
    /// A signal was sent, or not.
    Signalled {
        /// From the request.
        ticket: Ticket,
        /// To how many, or an errno. An ended process: 0.
        outcome: Result<u32, i32>,
    },
    /// The ring is in the keeper's hands.
    Held {
        /// Whose.
        process: ProcessKey,
        /// Which stream.
        end: End,
        /// From the request.
        generation: u32,
    },
}

/// A limit in force, as [`LimitInForce`](crate::control::LimitInForce) travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `memory`, `cpu`, `pids` or an rlimit's name.
    pub name: String,
    /// By what.
    pub mechanism: Mechanism,
    /// In the limit's unit.
    pub value: u64,
}

/// What enforces a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    /// cgroup v2, for the tree together.
    Cgroup,
    /// setrlimit(2), for each process apart.
    Rlimit,
}

impl Mechanism {
    /// The name in a status.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Cgroup => "cgroup",
            Mechanism::Rlimit => "rlimit",
        }
    }
}

/// Longest record of a session, bytes: it and the rest of its session fit one packet.
pub const RECORD_BYTES_MAX: usize = 32 * 1024;

/// Longest path of an inlet, bytes: PATH_MAX.
pub const INLET_PATH_BYTES_MAX: usize = 4096;

/// Longest note, bytes: it and the facts around it fit one packet.
pub const NOTE_BYTES_MAX: usize = 32 * 1024;

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Not a message of ours.
    #[error("undecodable packet: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    /// A message that cannot be put into bytes.
    #[error("unencodable message: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    /// Fewer or more descriptors than the message announces.
    #[error("{got} descriptors came with a packet that announces {expected}")]
    Descriptors {
        /// Announced.
        expected: usize,
        /// Received.
        got: usize,
    },
    /// argv is empty.
    #[error("argv is empty")]
    EmptyArgv,
    /// C strings end at NUL.
    #[error("{what} contains NUL")]
    Nul {
        /// `argv`, `env`, `cwd` or `search_path`.
        what: &'static str,
    },
    /// A record over [`RECORD_BYTES_MAX`] or a message over [`BULK_BYTES_MAX`].
    #[error("{what} of {bytes} bytes is too long")]
    TooLong {
        /// `record` or `message`.
        what: &'static str,
        /// How long.
        bytes: usize,
    },
    /// The other side is too old.
    #[error(
        "the peer speaks version {0} of the keeper's protocol, and nothing below {VERSION_MIN} is understood"
    )]
    Version(u16),
}
