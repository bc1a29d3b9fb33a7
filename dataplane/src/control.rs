//! The only door up: what the data plane tells whoever decides.
//!
//! A reactor calls [`Control`] inline, on its own thread. The callee answers at once by pushing
//! [`Command`](crate::command::Command)s, or parks the matter and answers in a later call. It never blocks,
//! never does I/O and never sees a stream byte. Time comes in as an argument, so that the whole control plane
//! runs under a simulated clock.

use crate::command::{Commands, HistorySize, Rate};
use crate::key::{Channel, ConnectionKey, ProcessKey, ReactorId, SubscriptionKey, Ticket, TimerKey};
use crate::spool::Cut;
use bytes::Bytes;
use kairo_sandbox::containment::Finding;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// The time of a call: both clocks, read once per batch by the reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME, nanoseconds since 1970.
    pub wall_ns: u64,
}

/// What decides. One per kernel, called from every reactor.
pub trait Control: Send + Sync + 'static {
    /// A peer connected. Nothing is sent to it before its first reply.
    fn connected(&self, at: Moment, connection: ConnectionKey, peer: Peer, out: &mut Commands);

    /// A whole frame arrived; `payload` is not yet validated. Frames of one connection come in order.
    fn received(&self, at: Moment, connection: ConnectionKey, frame: Inbound<'_>, out: &mut Commands);

    /// Something happened on reactor `here`.
    fn notice(&self, at: Moment, here: ReactorId, notice: Notice, out: &mut Commands);
}

/// A frame as it came, its header already checked.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// The TYPE byte of the header.
    pub kind: u8,
    /// LENGTH bytes of MessagePack, unchecked.
    pub payload: &'a [u8],
}

/// Who is at the other end, as the kernel tells it; see SEMANTICS 24 and 25.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process at the time of `connect`.
    pub pid: i32,
    /// Effective user at the time of `connect`.
    pub uid: u32,
    /// Effective group at the time of `connect`.
    pub gid: u32,
    /// Supplementary groups (SO_PEERGROUPS), empty where the platform has none.
    pub groups: Vec<u32>,
    /// Where the peer stands in the tree of processes.
    pub lineage: Lineage,
}

/// A peer's place relative to the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// Its chain of parents ends outside the keeper.
    Outside,
    /// It descends from the keeper. `ancestors` are the pids from the peer itself up to, not including, the
    /// keeper; `session` is the `KAIRO_SESSION` marker of its environment, if it has kept one.
    Child {
        /// Peer first, child of the keeper last.
        ancestors: Vec<i32>,
        /// As found in its environment: a hint, not a proof.
        session: Option<String>,
    },
    /// It could not be told (gone already, or its pid may have been reused): least rights.
    Unknown,
}

/// Something that happened in the data plane.
#[derive(Debug)]
pub enum Notice {
    /// The child runs (its exec succeeded).
    Spawned {
        /// Which.
        process: ProcessKey,
        /// Its pid.
        pid: i32,
        /// How well its tree is known.
        tree: Tree,
        /// Start time in clock ticks since boot (`/proc/PID/stat` field 22): with the pid, a name for good.
        start_ticks: u64,
        /// What of the requested limits is in force, by which mechanism.
        limits: Vec<LimitInForce>,
    },
    /// The child is contained and about to run: `Spawned` follows.
    Contained {
        /// Which.
        process: ProcessKey,
        /// What was met, and seen inside.
        finding: Box<Finding>,
    },
    /// What is executed, as it was asked for ([`ProgramCheck`](crate::command::ProgramCheck)): `Spawned` follows, or
    /// `SpawnFailed` if it may not be.
    Measured {
        /// Which.
        process: ProcessKey,
        /// What.
        program: Box<Program>,
    },
    /// A process without a child is there: its output is what comes from the client that is handed these.
    Published {
        /// Which.
        process: ProcessKey,
        /// The client's end.
        descriptors: Descriptors,
        /// How much it holds, bytes.
        bytes: usize,
    },
    /// There is no child.
    SpawnFailed {
        /// Which.
        process: ProcessKey,
        /// Why.
        failure: SpawnFailure,
    },
    /// The leader ended, and what it had left in its pipes is in memory.
    Exited {
        /// Which.
        process: ProcessKey,
        /// How.
        status: ExitStatus,
        /// What it used, its waited-for children included.
        usage: Usage,
        /// When, CLOCK_MONOTONIC nanoseconds.
        at_ns: u64,
    },
    /// A stream ended: every holder of the write end is gone, or its tail was read.
    Closed {
        /// Whose.
        process: ProcessKey,
        /// Which.
        channel: Channel,
        /// How long it was.
        end: StreamEnd,
    },
    /// What an ended stream wrote is not kept for a successor any more, or not at all.
    LetGo {
        /// Whose.
        process: ProcessKey,
        /// Which.
        channel: Channel,
        /// How long it was, all of it cut for whoever comes after us.
        end: StreamEnd,
    },
    /// A path that stdin was written by is over: its writers are gone, nobody came, or it was ended.
    InletOver {
        /// Whose stdin.
        process: ProcessKey,
    },
    /// Nothing more goes into a process. What is held of its stdin is let go once this is noted.
    InputClosed {
        /// Whose.
        process: ProcessKey,
        /// Bytes that went in.
        written: u64,
    },
    /// Nobody of the tree is left.
    Ended {
        /// Whose.
        process: ProcessKey,
    },
    /// Something happened to what is on disk of a stream.
    Spool {
        /// Whose.
        process: ProcessKey,
        /// Of which stream.
        channel: Channel,
        /// What.
        news: SpoolNews,
    },
    /// Bytes went by a reader.
    Lagged {
        /// The reader.
        subscription: SubscriptionKey,
        /// Of which stream.
        channel: Channel,
        /// First offset it missed.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// A stream has waited for a reader for longer than the threshold, and still does.
    Stalled {
        /// Whose.
        process: ProcessKey,
        /// Which.
        channel: Channel,
        /// Since when, CLOCK_MONOTONIC nanoseconds.
        since_ns: u64,
    },
    /// It waits no longer. Comes once after each [`Notice::Stalled`].
    Resumed {
        /// Whose.
        process: ProcessKey,
        /// Which.
        channel: Channel,
        /// How long it had waited, nanoseconds.
        waited_ns: u64,
    },
    /// History no longer holds `[from, to)`. Comes with the first byte that goes, then at most once a second.
    Truncated {
        /// Whose.
        process: ProcessKey,
        /// Of which stream.
        channel: Channel,
        /// First offset that is gone.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// A stream has waited for its rate. Comes with the first wait, then at most once a second while there are more.
    Throttled {
        /// Whose.
        process: ProcessKey,
        /// Which.
        channel: Channel,
        /// In force.
        rate: Rate,
        /// How long it has waited so in all, nanoseconds, without the wait that begins.
        waited_ns: u64,
    },
    /// A history keeps another amount from now on: by a wish, or because memory is tight.
    Resized {
        /// Whose.
        process: ProcessKey,
        /// Of which stream.
        channel: Channel,
        /// How much.
        history: HistorySize,
    },
    /// Events that were queued for a connection have gone out.
    NewsSent {
        /// Where.
        connection: ConnectionKey,
        /// Bytes.
        bytes: usize,
    },
    /// A subscription delivered everything up to the ends of its streams and is gone.
    Drained {
        /// Which.
        subscription: SubscriptionKey,
    },
    /// An asynchronous command was carried out, or not.
    Done {
        /// The command's ticket.
        ticket: Ticket,
        /// Its outcome.
        outcome: Result<Outcome, Failure>,
    },
    /// A timer rang.
    Rang {
        /// Which.
        timer: TimerKey,
    },
    /// The peer closed its sending half; replies can still reach it.
    HalfClosed {
        /// Whose.
        connection: ConnectionKey,
    },
    /// The connection is gone.
    Disconnected {
        /// Which.
        connection: ConnectionKey,
    },
    /// The keeper died: no child can be started, signalled or waited for any more.
    KeeperLost,
}

/// What can happen to a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolNews {
    /// Bytes that were on disk are there no more.
    Truncated(Cut),
    /// Nothing can be written: the stream goes on in memory, and the spool is tried again.
    Failed {
        /// Why.
        errno: i32,
        /// Bytes before this offset are good.
        good_to: u64,
    },
    /// It can be written again. What lies between is missing on disk.
    Resumed {
        /// Bytes before this offset were written before the failure.
        good_to: u64,
        /// Bytes from this offset on are written since.
        from: u64,
    },
}

/// What a carried-out command reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to add.
    Ok,
    /// Stdin: the offset reached, in bytes since birth.
    Written {
        /// Bytes in the child's pipe or beyond.
        offset: u64,
    },
    /// Signal: how many processes it was sent to.
    Signalled {
        /// Of the tree.
        processes: u32,
    },
    /// What is in force after a [`Command::Tune`](crate::command::Command::Tune), by `Channel as usize`.
    Tuned {
        /// How much is kept.
        history: [HistorySize; 2],
        /// How fast it may write.
        rate: [Option<Rate>; 2],
    },
    /// Worker: what it read or computed, in the order asked for.
    Worked(Vec<Result<Bytes, i32>>),
    /// An outlet is made: the end that is the client's, and how much it holds.
    Opened {
        /// The client's end.
        descriptors: Descriptors,
        /// Capacity in force, bytes; 0 where it has none of its own.
        bytes: usize,
    },
    /// A fifo is made and waits to be opened.
    Named {
        /// Where.
        path: PathBuf,
        /// Capacity in force, bytes.
        bytes: usize,
    },
}

/// Descriptors on their way to a client. The last clone closes them.
#[derive(Clone, Debug)]
pub struct Descriptors(pub Arc<Vec<OwnedFd>>);

impl PartialEq for Descriptors {
    /// The same descriptors, not equal ones.
    fn eq(&self, other: &Descriptors) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Descriptors {}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The process, or the end of it that was meant, is gone.
    #[error("the process or its descriptor is gone")]
    Gone,
    /// Stdin was closed by us or by the child; `offset` bytes had gone in.
    #[error("stdin is closed at offset {offset}")]
    BrokenPipe {
        /// Bytes accepted before.
        offset: u64,
    },
    /// More than the allowed bytes are parked for this connection.
    #[error("too many bytes are waiting")]
    WouldBlock,
    /// The write's key was used for another write.
    #[error("the key belongs to another write")]
    OtherBody,
    /// The system said no.
    #[error("errno {0}")]
    Os(i32),
    /// The process has no terminal.
    #[error("the process has no terminal")]
    NoTerminal,
    /// The keeper is gone.
    #[error("the keeper is gone")]
    KeeperLost,
}

/// How well the members of a tree are known; see SEMANTICS 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tree {
    /// A cgroup holds exactly the members.
    Exact,
    /// Parentage and an environment marker.
    BestEffort,
}

/// One limit and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitInForce {
    /// `memory`, `cpu`, `pids`, or an rlimit's name.
    pub name: String,
    /// `cgroup` or `rlimit`.
    pub mechanism: &'static str,
    /// In the limit's unit (bytes, percent of one CPU, count).
    pub value: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It returned.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// Number.
        signal: i32,
        /// It left a core.
        core: bool,
    },
}

impl ExitStatus {
    /// The v1 form: 128+n for a signal.
    pub fn v1_code(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal { signal, .. } => 128 + signal,
        }
    }
}

/// getrusage(2), as wait4(2) gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, microseconds.
    pub system_us: u64,
    /// Peak resident set, KiB.
    pub max_rss_kib: u64,
    /// Page faults served without I/O.
    pub minor_faults: u64,
    /// Page faults served with I/O.
    pub major_faults: u64,
    /// Switches because it waited.
    pub voluntary_switches: u64,
    /// Switches because its slice was over.
    pub involuntary_switches: u64,
}

/// The record a stream ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// Bytes from birth to end.
    pub total_bytes: u64,
    /// Bytes history no longer holds.
    pub cut_bytes: u64,
}

/// What was found when a child stood still at exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The file, as the operating system names it there.
    pub path: Vec<u8>,
    /// SHA-256 of all of it.
    pub digest: [u8; 32],
    /// Why what runs may differ from what was read; none if it can't.
    pub weakness: Option<Weakness>,
}

/// Why a digest binds less than it seems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weakness {
    /// It is a script, or another program's input: that one reads it again, when it may have been changed.
    Script,
    /// It lies where others than this machine can write to it while it runs.
    Remote,
    /// This kernel lets the file of a running program be written to (Linux 6.11 to 6.12.1).
    Unguarded,
}

/// What kept a child from running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{stage:?} failed with errno {errno}")]
pub struct SpawnFailure {
    /// The step that failed.
    pub stage: SpawnStage,
    /// Why.
    pub errno: i32,
}

/// The steps between a spawn command and a running child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum SpawnStage {
    /// Pipes, PTY, memory in the keeper.
    Resources = 1,
    /// fork.
    Fork = 2,
    /// Joining the cgroup, or writing its limits.
    Cgroup = 3,
    /// setrlimit.
    Rlimit = 4,
    /// setgroups, setgid, setuid.
    Credentials = 5,
    /// chdir.
    Cwd = 6,
    /// Standard descriptors and the terminal.
    Stdio = 7,
    /// execve, of every candidate.
    Exec = 8,
    /// The keeper is gone or its link is full.
    Keeper = 9,
    /// A ruleset or a filter could not be made, or the keeper is too old to.
    Containment = 10,
    /// Connecting the child to its kernel.
    KernelSocket = 11,
    /// no_new_privs and capabilities.
    Privileges = 12,
    /// landlock_restrict_self.
    Landlock = 13,
    /// seccomp.
    Filter = 14,
    /// What was tried inside did not fail as it should have: `errno` is what was seen.
    Probe = 15,
    /// Stopping it at exec, or reading what it executes.
    Measure = 16,
    /// What it executes may be changed after it was read, and that wasn't accepted.
    Weaker = 17,
    /// What it executes isn't what it must be.
    Program = 18,
    /// Namespaces, and mounting in them.
    Namespaces = 19,
    /// A denied path isn't there and can't be kept from being made, a link leads to it that could be replaced, or it has
    /// another name.
    DeniedPaths = 20,
    /// sched_setaffinity, or the keeper is too old to.
    Affinity = 21,
    /// Opening the file that is its stdin, or the keeper is too old to.
    StdinFile = 22,
    /// Connecting it to another process: the keeper is too old to.
    Joint = 23,
}

impl SpawnStage {
    /// All.
    pub const ALL: [SpawnStage; 23] = {
        use SpawnStage::*;
        [
            Resources,
            Fork,
            Cgroup,
            Rlimit,
            Credentials,
            Cwd,
            Stdio,
            Exec,
            Keeper,
            Containment,
            KernelSocket,
            Privileges,
            Landlock,
            Filter,
            Probe,
            Measure,
            Weaker,
            Program,
            Namespaces,
            DeniedPaths,
            Affinity,
            StdinFile,
            Joint,
        ]
    };

    /// The stage of a number.
    pub fn of(number: i32) -> Option<SpawnStage> {
        SpawnStage::ALL.into_iter().find(|stage| *stage as i32 == number)
    }
}
