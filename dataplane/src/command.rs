//! The only door down: what the control plane has decided and the data plane carries out.
//!
//! A command names its object by key. A reactor that is handed a command for an object of another reactor
//! forwards it; commands from one reactor to another arrive in the order they were given.

use crate::control::Descriptors;
use crate::key::{ConnectionKey, ProcessKey, SubscriptionKey, Ticket, TimerKey, WriteKey};
use crate::meter::{ProcessMeter, ReaderMeter};
use crate::spool::SpoolLimits;
use bytes::{Bytes, BytesMut};
use kairo_sandbox::containment::Containment;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::id::{ProcessId, SubscriptionId};
use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

mod home;
mod opening;
mod wiring;

pub use opening::{NamedInlet, OutletKind};
pub use wiring::{Feed, Joint, Wiring};

/// What a call into the control plane returns: whole reply frames for the connection it was about, appended to
/// `replies` without an allocation each, and commands.
///
/// Those that are carried out on another reactor are in its mailbox before anybody can read a frame of the same call, so that
/// whatever he asks for next, on whichever connection, comes behind them. Frames that go to that reactor too keep their place
/// before what follows them; so do `replies`, before everything that is carried out where their connection is served.
#[derive(Debug, Default)]
pub struct Commands {
    /// Frames for the connection of this call, in order.
    pub replies: BytesMut,
    /// Everything else, in order.
    pub list: Vec<Command>,
}

impl Commands {
    /// Adds a command.
    pub fn push(&mut self, command: Command) {
        self.list.push(command);
    }
}

/// One decision.
#[derive(Debug)]
pub enum Command {
    /// Queue a whole frame on a connection.
    Reply {
        /// Where to.
        connection: ConnectionKey,
        /// Header and payload.
        frame: Bytes,
    },
    /// Queue whole frames of events. How many bytes have gone out is told with
    /// [`Notice::NewsSent`](crate::control::Notice::NewsSent), so that whoever doesn't read isn't given more.
    News {
        /// Where to.
        connection: ConnectionKey,
        /// Headers and payloads.
        frames: Bytes,
    },
    /// Queue a whole frame, and descriptors that arrive with its first byte.
    Hand {
        /// Where to.
        connection: ConnectionKey,
        /// Header and payload.
        frame: Bytes,
        /// What comes with it.
        descriptors: Descriptors,
    },
    /// Flush what is queued, then close.
    Close {
        /// Which.
        connection: ConnectionKey,
    },
    /// Start a process.
    Spawn(Box<Spawn>),
    /// Start reading its streams.
    Subscribe(Box<Subscribe>),
    /// Stop reading. `reply` is queued after the last frame of the subscription.
    Unsubscribe {
        /// Which.
        subscription: SubscriptionKey,
        /// Frame to send once nothing of the subscription can follow.
        reply: Option<(ConnectionKey, Bytes)>,
    },
    /// Treat a process's output differently from now on.
    Tune {
        /// Whose.
        process: ProcessKey,
        /// How.
        tuning: Tuning,
        /// Answered with [`Outcome::Tuned`](crate::control::Outcome::Tuned).
        ticket: Ticket,
    },
    /// Give a reader bytes at another rate from now on.
    Pace {
        /// Which.
        subscription: SubscriptionKey,
        /// How fast; none for as fast as it takes them.
        rate: Option<Rate>,
    },
    /// Write to stdin or the terminal, whole and in order; answered when the last byte is in the pipe.
    Write {
        /// Whose stdin.
        process: ProcessKey,
        /// The bytes.
        data: Bytes,
        /// Written once, however often it is given.
        key: Option<WriteKey>,
        /// Answered with [`Outcome::Written`](crate::control::Outcome::Written).
        ticket: Ticket,
    },
    /// Give up a parked write: what has gone in has gone in, the rest is dropped. Its ticket is answered.
    AbandonWrite {
        /// Whose stdin.
        process: ProcessKey,
        /// The write's ticket.
        ticket: Ticket,
    },
    /// Close stdin after what is parked; a PTY gets its VEOF character.
    CloseStdin {
        /// Whose.
        process: ProcessKey,
        /// Answered.
        ticket: Ticket,
    },
    /// Give the writing end of stdin away: it is over for us. Answered with
    /// [`Outcome::Opened`](crate::control::Outcome::Opened). Or let it be written by a path, which is answered with
    /// [`Outcome::Named`](crate::control::Outcome::Named).
    HandStdin {
        /// Whose.
        process: ProcessKey,
        /// The path; none for the writing end.
        inlet: Option<Box<NamedInlet>>,
        /// Answered.
        ticket: Ticket,
    },
    /// End a path that stdin is written by. What came by it goes in.
    EndInlet {
        /// Whose.
        process: ProcessKey,
    },
    /// Change the terminal's size; the child's foreground group gets SIGWINCH from the kernel.
    Resize {
        /// Whose.
        process: ProcessKey,
        /// To what.
        size: TerminalSize,
        /// Answered.
        ticket: Ticket,
    },
    /// Send a signal through the keeper.
    Signal {
        /// To whom.
        process: ProcessKey,
        /// Number, 1 to 64.
        signal: i32,
        /// The leader or everybody.
        scope: Scope,
        /// Answered when the signal is sent.
        ticket: Option<Ticket>,
    },
    /// Send `frames` once everything the leader had written has been queued to each connection: the place of the
    /// `process.exit` notice.
    Announce {
        /// Whose exit.
        process: ProcessKey,
        /// Per connection one frame.
        frames: Vec<(ConnectionKey, Bytes)>,
    },
    /// An exit, or the end of a tree, is kept: the keeper need not tell it to a successor.
    Acknowledge {
        /// Whose.
        process: ProcessKey,
    },
    /// Have the keeper keep this note of a process for a successor, instead of the last one.
    Annotate {
        /// Whose.
        process: ProcessKey,
        /// Opaque to the data plane, at most [`NOTE_BYTES_MAX`](crate::keeper::protocol::NOTE_BYTES_MAX) long.
        note: Bytes,
    },
    /// Free what is kept of a process that has ended.
    Forget {
        /// Which.
        process: ProcessKey,
    },
    /// Ring at a time.
    Arm {
        /// Name of the timer; arming it again moves it.
        timer: TimerKey,
        /// CLOCK_MONOTONIC, nanoseconds.
        at_ns: u64,
    },
    /// Don't ring.
    Disarm {
        /// Which.
        timer: TimerKey,
    },
    /// Do slow work off the reactors.
    Work {
        /// Answered with [`Outcome::Worked`](crate::control::Outcome::Worked).
        ticket: Ticket,
        /// What.
        job: Job,
    },
    /// Tell whoever reads outputs for how far programs are.
    Adapt(Adapt),
    /// Have what contained processes are denied be heard, from now on; told what it is told already, nothing happens.
    Watch,
    /// End every tree, then the keeper, then the reactors.
    Shutdown {
        /// Between SIGTERM and SIGKILL, nanoseconds.
        grace_ns: u64,
    },
    /// End the reactors; the keeper goes on with everything, for the next kernel.
    Leave,
}

/// Who gets a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The process that was started.
    Leader,
    /// It and all it started.
    Tree,
}

/// News of a process that is read by an adapter.
#[derive(Clone, Debug)]
pub enum Adapt {
    /// It runs, or ran when its kernel died.
    Begun(Box<Adapted>),
    /// Its leader is gone: nothing more comes but what is on its way.
    Over(ProcessKey),
}

/// A process that is read by an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapted {
    /// Which.
    pub process: ProcessKey,
    /// As its client named it.
    pub id: ProcessId,
    /// This life's name.
    pub session: String,
    /// What reads it.
    pub adapter: String,
    /// When it was started, milliseconds since 1970.
    pub started_ms: u64,
    /// It has a stderr of its own.
    pub stderr: bool,
    /// It was read by a former kernel.
    pub resumed: bool,
}

/// Work that may block.
#[derive(Debug)]
pub enum Job {
    /// Read small files whole (`/proc`, cgroup statistics).
    Read(Vec<PathBuf>),
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// 1 to 65,534.
    pub rows: u16,
    /// 1 to 65,534.
    pub cols: u16,
}

/// A process to be.
#[derive(Debug)]
pub struct Spawn {
    /// Its name in the data plane.
    pub process: ProcessKey,
    /// `KAIRO_SESSION` of its environment: finds descendants again.
    pub session: String,
    /// argv; the first is the program, searched in `search_path` unless it has a slash.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value`, complete.
    pub env: Vec<Vec<u8>>,
    /// Folders, as in PATH.
    pub search_path: Vec<u8>,
    /// Working folder; none is the keeper's.
    pub cwd: Option<Vec<u8>>,
    /// Its standard descriptors.
    pub stdio: Stdio,
    /// What they have to do with others.
    pub wiring: Wiring,
    /// Become somebody else (a root daemon for another user).
    pub credentials: Option<Credentials>,
    /// setrlimit(2), soft and hard alike: (RLIMIT_* number, value).
    pub rlimits: Vec<(u32, u64)>,
    /// Limits for its cgroup; refused by the keeper where none is delegated.
    pub cgroup: CgroupLimits,
    /// What it does to itself before it runs; none for an uncontained child.
    pub containment: Option<Box<Containment>>,
    /// What is executed is looked at before it runs; none to run it as it is.
    pub program: Option<ProgramCheck>,
    /// How much output is kept.
    pub history: HistorySize,
    /// How fast it may write, per output (`Channel as usize`); none for as fast as it can.
    pub rate: [Option<Rate>; 2],
    /// What an unread stream does when history is full.
    pub unread: Unread,
    /// How much of it goes to disk; none for nothing.
    pub spool: Option<SpoolLimits>,
    /// The session's record, opaque to the data plane, kept by the keeper.
    pub record: Bytes,
    /// On which cores.
    pub placement: Placement,
    /// Numbers the control plane reads at any time.
    pub meter: Arc<ProcessMeter>,
    /// There is no child: a client writes its output, by the other end of this. Nothing else of a child counts then.
    pub produced: Option<OutletKind>,
}

/// Where a process is put; as the scheduler likes by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Cores it is bound to; empty for none.
    pub cpus: Vec<u16>,
    /// The core its reactor stays on from now on.
    pub reactor_cpu: Option<u16>,
}

/// How what is executed is looked at: it stands still at exec, is read to its end while nobody can write to it, and told
/// with [`Notice::Measured`](crate::control::Notice::Measured) before it runs its first instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCheck {
    /// The SHA-256 it must have, else it never runs; none for any.
    pub wanted: Option<[u8; 32]>,
    /// Run it also where what runs in the end may differ from what was read ([`Weakness`](crate::control::Weakness)).
    pub accept_weaker: bool,
}

/// A child's descriptors 0, 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// One pipe each.
    Pipes {
        /// Descriptor 0.
        stdin: StdinSource,
        /// Descriptor 2.
        stderr: StderrTarget,
        /// Size to ask for, bytes.
        pipe_bytes: u32,
    },
    /// A terminal for all three; the child leads a session of its own on it.
    Pty(TerminalSize),
}

/// Where a child reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinSource {
    /// A pipe we write.
    Pipe,
    /// `/dev/null`.
    Null,
    /// The keeper's own stdin (embedded kernel only).
    Inherit,
}

/// Where a child complains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StderrTarget {
    /// A pipe we read.
    Pipe,
    /// Into stdout's pipe.
    Stdout,
    /// The keeper's own stderr (embedded kernel only).
    Inherit,
}

/// uid, gid and groups for setresuid(2) and friends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// cgroup v2 limits; none asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// `memory.max`, bytes.
    pub memory_bytes: Option<u64>,
    /// `cpu.max`, percent of one CPU.
    pub cpu_percent: Option<u32>,
    /// `pids.max`.
    pub pids: Option<u64>,
    /// If no cgroup can be had: RLIMIT_AS for memory, nothing for the others, and say so.
    pub allow_weaker: bool,
}

impl CgroupLimits {
    /// True exactly when something is asked for.
    pub fn any(&self) -> bool {
        self.memory_bytes.is_some() || self.cpu_percent.is_some() || self.pids.is_some()
    }
}

/// Bytes of output that outlive their delivery. A history that is kept has a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistorySize {
    /// The first bytes of a stream.
    pub head_bytes: u32,
    /// The latest.
    pub tail_bytes: u32,
}

impl HistorySize {
    /// Nothing at all is kept: the stream is relayed, and its bytes aren't seen.
    pub const NONE: HistorySize = HistorySize { head_bytes: 0, tail_bytes: 0 };

    /// True exactly for [`HistorySize::NONE`].
    pub fn is_none(self) -> bool {
        self == HistorySize::NONE
    }
}

/// How fast bytes may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// In the long run, at least 1.
    pub bytes_per_second: u64,
    /// At once, after a pause, at least 1.
    pub burst_bytes: u64,
}

impl Rate {
    /// The least burst a rate has by itself, bytes.
    pub const BURST_BYTES_MIN: u64 = 4 << 10;

    /// A rate with the burst it has by itself: a tenth of a second's bytes, so that ten seconds that begin with one
    /// are over by a hundredth at most.
    pub fn of(bytes_per_second: u64) -> Rate {
        Rate { bytes_per_second, burst_bytes: (bytes_per_second / 10).max(Rate::BURST_BYTES_MIN) }
    }
}

/// A change of how a running process's output is treated; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Which outputs, by `Channel as usize`.
    pub channels: [bool; 2],
    /// How fast bytes are taken from the child; `Some(None)` for as fast as they come.
    pub rate: Option<Option<Rate>>,
    /// Bytes of the beginning that are kept.
    pub head_bytes: Option<u32>,
    /// Bytes of the end that are kept.
    pub tail_bytes: Option<u32>,
    /// What an unread output does; counts for both outputs.
    pub unread: Option<Unread>,
}

/// What happens when nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unread {
    /// The child goes on; the middle is counted and dropped.
    Drop,
    /// The child waits.
    Block,
}

/// A reader to be.
#[derive(Debug)]
pub struct Subscribe {
    /// Its name.
    pub subscription: SubscriptionKey,
    /// Its name on the wire.
    pub id: SubscriptionId,
    /// What it reads.
    pub process: ProcessKey,
    /// Both may be set; they share one `sequence`.
    pub stdout: bool,
    /// Both may be set.
    pub stderr: bool,
    /// Where it begins.
    pub from: From,
    /// It goes on for a reader of a former kernel, which may be held the bytes from there on.
    pub resumes: bool,
    /// How bytes are cut into frames.
    pub mode: Mode,
    /// What happens when it is slow.
    pub policy: Policy,
    /// Where the bytes go.
    pub sink: Sink,
    /// Raise the stream's history to at least this (v1 `bufferSize`), bytes.
    pub history_bytes: Option<u32>,
    /// How fast it is given bytes, both outputs together; none for as fast as it takes them.
    pub rate: Option<Rate>,
    /// What the keeper is to keep with its outlet, opaque to the data plane; none where that goes with this kernel.
    pub note: Option<Bytes>,
    /// Numbers the control plane reads at any time.
    pub meter: Arc<ReaderMeter>,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The first byte there was, or a gap up to the first retained.
    Oldest,
    /// What comes next.
    Now,
    /// An offset per channel (`Channel as usize`).
    At([u64; 2]),
}

/// How bytes become frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// As they come.
    Chunk,
    /// One line each.
    Line,
    /// As many whole lines as fit.
    Lines,
}

/// What a slow reader causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// The source waits.
    Block,
    /// The reader misses a range and is told which.
    DropOldest,
    /// The reader gets from disk what has left memory; the stream must have a spool.
    Spool,
    /// The reader gets only the newest whenever it takes something, and is told what it missed.
    Latest,
}

/// Where a reader's bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// STREAM_CHUNK frames on a connection.
    Frames {
        /// Which; whose wishes it has, where it is on a socket of its own.
        connection: ConnectionKey,
        /// They leave by a socket that is made for them; its other end goes to whoever asked, with
        /// [`Outcome::Opened`](crate::control::Outcome::Opened).
        dedicated: Option<Ticket>,
        /// Largest `data`, bytes: 65,535 for v1, up to 1 MiB negotiated.
        chunk_bytes_max: u32,
        /// Add `offset`, and send `stream.gap` and `stream.end` records (negotiated); a v1 reader gets
        /// `stream.overflow` at a gap and nothing at the end.
        records: bool,
        /// Add `time`: when the last byte was read (negotiated).
        timestamps: bool,
        /// How integers beyond 32 bits are written.
        dialect: Dialect,
        /// As its owner spelled it, for `stream.overflow`.
        process_id: ProcessId,
    },
    /// Raw bytes to a descriptor of this process (embedded kernel only).
    Descriptor(RawFd),
    /// Raw bytes to an outlet that is made for it; the other end goes to whoever asked, with
    /// [`Outcome::Opened`](crate::control::Outcome::Opened), or its name with
    /// [`Outcome::Named`](crate::control::Outcome::Named).
    Outlet {
        /// What is made.
        kind: OutletKind,
        /// Answered when it is there, or can't be.
        ticket: Ticket,
    },
    /// Raw bytes to an outlet of a former kernel, which the keeper had.
    Kept,
}
