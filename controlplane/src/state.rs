//! The tables of the state machine: connections, calls, processes, subscriptions, timers.
//!
//! ```text
//!   connection ──calls──▶ call ──pending──▶ process ◀──names── id
//!        │                                  ▲  ▲
//!        ├──streams──▶ stream subscription ─┘  │        (a reader of one process, or waiting for one)
//!        └──topics───▶ topic subscription      └─ session ── KAIRO_SESSION of its children
//! ```
//!
//! Invariant: every arrow has its two ends; `Kernel::check` walks them all. Everything is named by a serial that
//! is never reused, so a late notice misses instead of hitting a stranger. What changes the tables is in
//! `kernel`, `calls`, `sessions` and `methods`.

mod calls;
mod cast;
mod connections;
mod subscriptions;

pub(crate) use calls::{Awaited, Call, Deed, Opened, Pending, Topics};
pub(crate) use cast::{ActsAs, Cast};
pub(crate) use connections::Connections;
pub(crate) use subscriptions::{
    Inlet, Outliving, Place, RawSink, StreamSubscription, TopicPlace, TopicSubscription, WatchSubscription,
    Way, Wish,
};

use crate::auth::decision::Rights;
use crate::auth::principal::{Creator, Principal};
use crate::auth::subject::Party;
use crate::digest::GuardianDigest;
use crate::entropy::{Entropy, Keyed, KeyedMap};
use crate::events::consumers::Consumers;
use crate::events::matching::Matcher;
use crate::events::requesting::Requests;
use crate::intents::Intents;
use crate::pipelines::Pipelines;
use crate::quotas::Welcome;
use crate::quotas::ledger::AccountId;
use crate::sessions::containing::Containing;
use crate::sessions::ending::Killing;
use crate::sessions::lifecycle::Doubt;
use crate::sessions::measuring::Measured;
use crate::sessions::plan::Published;
use crate::sessions::restart::Renewal;
use crate::sessions::wards::Guardian;
use crate::sessions::wiring::Wired;
use crate::sessions::writing::Written;
use bytes::Bytes;
use kairo_dataplane::command::{HistorySize, Placement, Rate, TerminalSize, Unread};
use kairo_dataplane::control::{ExitStatus, LimitInForce, Moment, Peer, StreamEnd, Tree, Usage};
use kairo_dataplane::key::{ConnectionKey, ProcessKey, TimerKey};
use kairo_dataplane::meter::ProcessMeter;
use kairo_dataplane::spool::SpoolLimits;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::codec::raw::Raw;
use kairo_wire::id::{EventId, ProcessId, SessionId};
use kairo_wire::methods::status::{EndedBy, RecordStatus};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Hashes serials of our own making, which nobody can choose: one multiplication.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SerialHasher(u64);

impl Hasher for SerialHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, serial: u64) {
        self.0 = (self.0 ^ serial).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

/// A table by serial.
pub(crate) type SerialMap<V> = HashMap<u64, V, BuildHasherDefault<SerialHasher>>;

/// All tables.
#[derive(Debug)]
pub(crate) struct State {
    /// Peers.
    pub connections: Connections,
    /// Connections that have had a reply, and so may be told things unasked.
    pub audience: BTreeSet<ConnectionKey>,
    /// Unanswered calls by ticket.
    pub calls: SerialMap<Call>,
    /// Processes and the records of ended ones.
    pub processes: SerialMap<Box<Process>>,
    /// The newest process of each id, by the id's text form.
    pub names: KeyedMap<Box<str>, u64>,
    /// The process of each `KAIRO_SESSION`.
    pub sessions: KeyedMap<Box<str>, u64>,
    /// Running leaders by pid.
    pub leaders: SerialMap<u64>,
    /// Watched leaders that exited last, by pid, oldest first.
    pub recent: VecDeque<(i32, u64)>,
    /// Processes that wait for a client of a former kernel to come back, by what names its connection.
    pub orphans: BTreeSet<(GuardianDigest, u64)>,
    /// Processes that were started together.
    pub pipelines: Pipelines,
    /// Readers.
    pub streams: SerialMap<StreamSubscription>,
    /// Paths that lead into stdins, by the serial of the process.
    pub inlets: BTreeMap<u64, Inlet>,
    /// Readers by the serial the data plane knows them by.
    pub reading: SerialMap<u64>,
    /// Readers that wait for a process, by the text form of its id.
    pub waiting: KeyedMap<Box<str>, Vec<u64>>,
    /// Event subscriptions, in the order they were made.
    pub topics: BTreeMap<u64, TopicSubscription>,
    /// The same by what they match.
    pub matcher: Matcher,
    /// Requests that wait for an answer.
    pub requests: Requests,
    /// Durable consumers.
    pub consumers: Consumers,
    /// Watchers of views.
    pub watches: SerialMap<WatchSubscription>,
    /// Which subscription each page that was asked of the log is for, by ticket.
    pub pages: SerialMap<u64>,
    /// What is to be done, and what belongs to it.
    pub intents: Intents,
    /// Both kinds by their name on the wire.
    pub subscriptions: KeyedMap<Arc<str>, Named>,
    /// Armed timers.
    pub timers: SerialMap<Timer>,
    /// Records of processes all of which is over, oldest first: (when, serial).
    pub retained: BTreeSet<(u64, u64)>,
    /// The timer that forgets the oldest record.
    pub retention: Option<TimerKey>,
    /// The last serial given out.
    serial: u64,
}

impl State {
    /// Empty tables, hashed under a fresh secret.
    pub(crate) fn new(entropy: &mut dyn Entropy) -> State {
        let keyed = Keyed::new(entropy);
        State {
            connections: Connections::default(),
            audience: BTreeSet::new(),
            calls: SerialMap::default(),
            processes: SerialMap::default(),
            names: KeyedMap::with_hasher(keyed),
            sessions: KeyedMap::with_hasher(keyed),
            leaders: SerialMap::default(),
            recent: VecDeque::new(),
            orphans: BTreeSet::new(),
            pipelines: Pipelines::new(keyed),
            streams: SerialMap::default(),
            inlets: BTreeMap::new(),
            reading: SerialMap::default(),
            waiting: KeyedMap::with_hasher(keyed),
            topics: BTreeMap::new(),
            matcher: Matcher::default(),
            requests: Requests::default(),
            consumers: Consumers::default(),
            watches: SerialMap::default(),
            pages: SerialMap::default(),
            intents: Intents::new(keyed),
            subscriptions: KeyedMap::with_hasher(keyed),
            timers: SerialMap::default(),
            retained: BTreeSet::new(),
            retention: None,
            serial: 0,
        }
    }

    /// A name nobody has had.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Serials up to this one name things of a former kernel.
    pub(crate) fn skip_serials(&mut self, last: u64) {
        self.serial = self.serial.max(last);
    }

    /// The process an id names, of either form: `77` finds `"77"`.
    pub(crate) fn named(&self, id: &ProcessId) -> Option<&Process> {
        let serial = self.names.get(id.key().as_ref())?;
        self.processes.get(serial).map(|process| &**process)
    }

    /// The same, if the id has the form the process was spawned with.
    pub(crate) fn exactly(&self, id: &ProcessId) -> Option<&Process> {
        self.named(id).filter(|process| process.id == *id)
    }
}

/// A peer and what it has negotiated.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its name.
    pub key: ConnectionKey,
    /// As the operating system told.
    pub peer: Peer,
    /// Whose rights it has.
    pub principal: Principal,
    /// For whom what it has counts.
    pub account: AccountId,
    /// Whether it counts itself.
    pub welcome: Welcome,
    /// How integers are written to it.
    pub dialect: Dialect,
    /// It takes offsets and records.
    pub records: bool,
    /// It takes the time of each read.
    pub timestamps: bool,
    /// It takes what v1 envelopes have no words for.
    pub envelope: bool,
    /// Bytes of events that have been given to its reactor and not to its socket.
    pub news_unsent: usize,
    /// Grows when some of them have.
    pub news_read: u64,
    /// Largest chunk, bytes.
    pub chunk_bytes_max: u32,
    /// It has had a reply.
    pub greeted: bool,
    /// It sends no more.
    pub half_closed: bool,
    /// It was told to close; nothing is answered any more.
    pub closing: bool,
    /// Unanswered calls, oldest first.
    pub calls: Vec<u64>,
    /// Bytes of its unanswered writes to stdins.
    pub parked_bytes: usize,
    /// Its readers.
    pub streams: BTreeSet<u64>,
    /// Processes into whose stdins paths lead for it.
    pub inlets: BTreeSet<u64>,
    /// Those of them that have read a process and follow its id.
    pub following: BTreeSet<u64>,
    /// How many of them wait for a process that has never been.
    pub waiting: usize,
    /// Its subscriptions to events and views.
    pub topics: BTreeSet<u64>,
    /// Its places at durable consumers.
    pub attached: BTreeSet<u64>,
    /// (busy, all) of `/proc/stat` at its last `system.get_metrics`.
    pub cpu: Option<(u64, u64)>,
    /// Processes that die with it, by serial.
    pub wards: BTreeSet<u64>,
    /// What names it to its client; none until that is asked for.
    pub token: Option<Box<str>>,
    /// Intents that end with it, by serial.
    pub intents: BTreeSet<u64>,
    /// Intents of whose cancel it is told.
    pub registered: BTreeSet<u64>,
    /// The life it is part of, if the kernel has started it.
    pub life: Option<Arc<str>>,
    /// The session of an agent it acts in.
    pub agent_session: Option<Arc<str>>,
    /// Whom it was started as, if that has another user than it runs as, or a session.
    pub party: Option<Party>,
    /// The names it goes by, as they are noted of it.
    pub names: Vec<Party>,
    /// What it remembers of what it may.
    pub rights: Rights,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A call's `deadlineMs`.
    Deadline {
        /// Its ticket.
        call: u64,
    },
    /// A call's own patience: `timeoutMs` of a wait, an id that won't get free.
    Patience {
        /// Its ticket.
        call: u64,
    },
    /// SIGKILL for a process that did not heed SIGTERM.
    Grace {
        /// Which.
        process: u64,
    },
    /// A subscription whose process does not come.
    Waiting {
        /// Which.
        stream: u64,
    },
    /// A ward whose guardian does not come back.
    Orphan {
        /// Which.
        process: u64,
    },
    /// The oldest record is due to be forgotten.
    Retention,
    /// An answer is late, or a wait is over, at a durable consumer.
    Consumer {
        /// Which.
        consumer: u64,
    },
    /// A subscription that was behind is looked after.
    Slow {
        /// Which.
        topic: u64,
        /// What its connection had read.
        read: u64,
    },
    /// What went into a stdin is to be told.
    Written {
        /// Of which process.
        process: u64,
    },
    /// The next life of a process is due.
    Restart {
        /// Which.
        process: u64,
    },
    /// An intent has had its time.
    IntentDeadline {
        /// Which.
        intent: u64,
    },
    /// An intent whose guardian does not come back.
    IntentOrphan {
        /// Which.
        intent: u64,
    },
    /// Those who registered have had their time.
    CancelHold {
        /// Of which cancel.
        cancel: u64,
    },
    /// What has not gone is given up.
    CancelPatience {
        /// By which cancel.
        cancel: u64,
    },
    /// More is to be stopped.
    CancelWalk,
    /// A grant expires.
    Grants,
    /// A request has waited enough.
    Requests,
    /// What was refused over a quota is told.
    Refusals,
    /// An agent or a session of one expires.
    Agents,
}

impl Timer {
    /// In a word, for invariants.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Timer::Retention => "retention",
            Timer::Deadline { .. } => "deadline",
            Timer::Patience { .. } => "patience",
            Timer::Grace { .. } => "grace",
            Timer::Waiting { .. } => "waiting",
            Timer::Orphan { .. } => "orphan",
            Timer::Restart { .. } => "restart",
            Timer::Written { .. } => "written",
            Timer::Slow { .. } => "slow",
            Timer::IntentDeadline { .. } => "intent's deadline",
            Timer::IntentOrphan { .. } => "intent's orphan",
            Timer::CancelHold { .. } => "hold",
            Timer::CancelPatience { .. } => "patience with a cancel",
            Timer::CancelWalk => "walk",
            Timer::Grants => "grants",
            Timer::Requests => "requests",
            Timer::Refusals => "refusals",
            Timer::Agents => "agents",
            Timer::Consumer { .. } => "consumer",
        }
    }
}

/// A subscription found by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// Of a process.
    Stream(u64),
    /// Of the bus.
    Topic(u64),
    /// Of a durable consumer.
    Attached(u64),
    /// Of a view.
    Watch(u64),
}

/// How far a process's life has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its spawn is on the way.
    Starting,
    /// Its leader runs.
    Running,
    /// Its leader has ended.
    Exited,
    /// The keeper died with it: nobody knows.
    Lost,
}

/// A process, from its spawn until its record is forgotten.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its name in the data plane.
    pub key: ProcessKey,
    /// Its name on the wire.
    pub id: ProcessId,
    /// This life of it.
    pub session: SessionId,
    /// Who started it.
    pub creator: Creator,
    /// The user it runs as, if not the daemon's.
    pub run_uid: Option<u32>,
    /// With whom it is to die, if it was asked for.
    pub guardian: Option<Guardian>,
    /// The unanswered call of its spawn, if there is one.
    pub spawning: Vec<u64>,
    /// Where its life is.
    pub phase: Phase,
    /// Nobody of its tree is left, or nobody can tell.
    pub tree_gone: bool,
    /// It was stopped by `process.pause`.
    pub paused: bool,
    /// Its terminal's size.
    pub terminal: Option<TerminalSize>,
    /// What it was started with.
    pub argv: Vec<Vec<u8>>,
    /// Its working folder, if one was named.
    pub cwd: Option<Vec<u8>>,
    /// Tells equal environments from different ones.
    pub environment_digest: u64,
    /// How much of each output is kept, by channel.
    pub history: [HistorySize; 2],
    /// How fast each output may go, by channel.
    pub rate: [Option<Rate>; 2],
    /// What an output does that nobody reads.
    pub unread: Unread,
    /// How much of it goes to disk.
    pub spool: Option<SpoolLimits>,
    /// Its pid, 0 before there is one.
    pub pid: i32,
    /// `/proc/PID/stat` field 22.
    pub start_ticks: u64,
    /// How well its tree is known.
    pub tree: Tree,
    /// Limits in force.
    pub limits: Vec<LimitInForce>,
    /// What it is kept from.
    pub contained: Containing,
    /// In whose name it runs.
    pub cast: Cast,
    /// What it executes.
    pub measured: Measured,
    /// When it ran.
    pub started: Moment,
    /// When its leader ended.
    pub exited: Option<Moment>,
    /// How its leader ended, and at what expense.
    pub exit: Option<(ExitStatus, Usage)>,
    /// It is to be killed as soon as it runs: why, and with how many milliseconds of grace.
    pub doom: Option<(EndedBy, u64)>,
    /// Who or what ends it; none for itself.
    pub ended_by: Option<EndedBy>,
    /// The last signal a client sent, and who did.
    pub signalled: Option<(i32, EndedBy)>,
    /// It is being killed.
    pub killing: Option<Killing>,
    /// The end of each stream, by channel.
    pub ends: [Option<StreamEnd>; 2],
    /// What stays open: streams whose end has not come.
    pub open: [bool; 2],
    /// Ends of streams of which the keeper holds nothing any more, by channel.
    pub let_go: [Option<StreamEnd>; 2],
    /// Bytes that went into its stdin, once that is over.
    pub stdin_end: Option<u64>,
    /// Where former kernels may have lost count, the latest last.
    pub uncertain: Vec<Doubt>,
    /// Its numbers.
    pub meter: Arc<ProcessMeter>,
    /// Calls that wait for it to exit.
    pub waits: Vec<u64>,
    /// Calls that wait for it to start.
    pub deferred: Vec<u64>,
    /// Spawn calls that wait for its id.
    pub heirs: Vec<u64>,
    /// Subscriptions that read it.
    pub readers: BTreeSet<u64>,
    /// What it is joined to.
    pub wired: Wired,
    /// Its id names a younger process.
    pub superseded: bool,
    /// Since when only its record is left, CLOCK_MONOTONIC nanoseconds.
    pub retained_ns: Option<u64>,
    /// The result of `process.status` without detail, encoded.
    pub status: Raw,
    /// What the keeper was last told to note of it.
    pub noted: Bytes,
    /// What went into its stdin and is not told yet.
    pub written: Written,
    /// Its place in a larger story, for events: they follow from its birth.
    pub trace: Trace,
    /// The event of its birth, named before it happens.
    pub birth: EventId,
    /// What has been told of its end.
    pub told: Told,
    /// Its spawn is answered when the disk has its record.
    pub durable: bool,
    /// True exactly while the disk is waited for.
    pub flushing: bool,
    /// Its record in the state folder; from the start what it is to be.
    pub record: RecordStatus,
    /// What its next life needs, if it asked for one.
    pub renewal: Option<Box<Renewal>>,
    /// The life whose record said that this one was due, if it is a restart.
    pub follows: Option<String>,
    /// What reads its output.
    pub adapter: Option<String>,
    /// Where it was put.
    pub placement: Placement,
    /// It is a stream that a client writes.
    pub published: Option<Published>,
}

/// What of a process is in the log already, whoever tells it again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// That it runs; of one that was adopted, and has no record that says so.
    pub born: bool,
    /// That its leader exited.
    pub exited: bool,
    /// That its sandbox's filter ended the leader.
    pub killed: bool,
    /// That its tree is gone.
    pub ended: bool,
    /// That an output closed, by channel.
    pub closed: [bool; 2],
}

/// What a request said about its place in a larger story.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    /// `meta.correlationId`.
    pub correlation: Option<String>,
    /// `meta.causationId`.
    pub causation: Option<String>,
    /// `meta.intentId`.
    pub intent: Option<String>,
    /// The trace id of `meta.traceparent`.
    pub trace: Option<String>,
    /// Its span.
    pub span: Option<String>,
    /// The tool call it is about.
    pub tool_call: Option<String>,
    /// The place of the call it begins with.
    pub call_seq: Option<u64>,
    /// Who acts; none for the kernel itself.
    pub principal: Option<Arc<str>>,
}
