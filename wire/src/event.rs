//! Notices, records and events of the bus, one row each.
//!
//! *Notices* and *records* go to one connection; *bus events* are kept in the log and go to whoever subscribed to their
//! topic. How they are written in EVENT frames is in [`envelope`](crate::envelope). Who may see an event is decided in the
//! control plane; matching topics is too.

use crate::codec::raw::Raw;
use crate::codec::text::OsText;
use crate::id::{EventId, ProcessId, SubscriptionId};
use crate::methods::event::Gap;
use crate::methods::intent::{IntentOnDisconnect, Stopped};
use crate::methods::status::{EndedBy, ProcessUsage, StreamTotal, TreeKnowledge};
use crate::methods::stream::StreamName;
use crate::methods::system::Principal;
use crate::methods::view::ViewRow;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What carries an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{topic, data}` to one connection, unasked.
    Notice,
    /// `{topic, data}` in the course of a subscription, with the feature `records`.
    Record,
    /// A bus event, to subscribers of its topic.
    Bus,
}

impl Shape {
    /// How documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Notice => "notice",
            Shape::Record => "record",
            Shape::Bus => "bus",
        }
    }
}

/// An event the kernel sends.
pub trait Event: Serialize + JsonSchema {
    /// Its name.
    const TOPIC: &'static str;
    /// Its row.
    const ROW: &'static EventRow;
}

/// One kind of event.
#[derive(Debug)]
pub struct EventRow {
    /// Its name.
    pub topic: &'static str,
    /// What carries it.
    pub shape: Shape,
    /// When it is sent.
    pub doc: &'static str,
    /// The schema of its `data` or `payload`.
    pub data: fn(&mut SchemaGenerator) -> Schema,
}

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident = $topic:literal, $shape:ident $fields:tt)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
            #[serde(rename_all = "camelCase")]
            pub struct $name $fields

            impl Event for $name {
                const TOPIC: &'static str = $topic;
                const ROW: &'static EventRow = &EventRow {
                    topic: $topic,
                    shape: Shape::$shape,
                    doc: concat!($($doc, "\n"),+),
                    data: |generator| generator.subschema_for::<$name>(),
                };
            }
        )+

        /// All of them.
        pub const EVENTS: &[&EventRow] = &[$($name::ROW),+];
    };
}

events! {
    /// A process's leader exited. Goes to each connection that may see it, after the bytes the leader had left.
    ProcessExitNotice = "process.exit", Notice {
        /// As its client named it.
        pub id: ProcessId,
        /// Its exit code, or 128+n if signal n ended it.
        pub code: i32,
    }

    /// Bytes were dropped for a subscription, at this place among its chunks. Clients with the feature `records` get
    /// `stream.gap` instead.
    StreamOverflowNotice = "stream.overflow", Notice {
        /// Which.
        pub subscription_id: SubscriptionId,
        /// Of which process.
        pub process_id: ProcessId,
    }

    /// A subscription misses the bytes `[from, to)`, at this place among its chunks.
    StreamGapRecord = "stream.gap", Record {
        /// Which.
        pub subscription_id: SubscriptionId,
        /// Of which stream.
        pub stream: StreamName,
        /// First offset missed.
        pub from: u64,
        /// One past the last.
        pub to: u64,
    }

    /// A stream has ended for a subscription: nothing of it follows.
    StreamEndRecord = "stream.end", Record {
        /// Which.
        pub subscription_id: SubscriptionId,
        /// Which stream.
        pub stream: StreamName,
        /// Its length from birth to end.
        pub total_bytes: u64,
        /// Of these, missed by this subscription.
        pub gap_bytes: u64,
        /// Why it ended.
        pub reason: StreamEndReason,
    }

    /// Events of a subscription are no longer in the log, at this place among its events.
    EventGapRecord = "event.gap", Record {
        /// Which.
        pub subscription_id: SubscriptionId,
        /// What is missing, and what is known of it.
        pub gap: Gap,
    }

    /// A subscription to events was ended by the kernel. Whoever still wants it subscribes again from `seq`.
    EventCutRecord = "event.cut", Record {
        /// Which.
        pub subscription_id: SubscriptionId,
        /// The place of the first event that was not delivered.
        pub seq: u64,
        /// Why.
        pub reason: CutReason,
    }

    /// A row of a watched view has changed since it was last told, or is gone.
    ViewChangedRecord = "view.changed", Record {
        /// Which.
        pub subscription_id: SubscriptionId,
        /// Of the view.
        pub name: String,
        /// Of the row.
        pub key: String,
        /// As it is now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub row: Option<Box<ViewRow>>,
        /// It is gone.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub removed: bool,
        /// The last event the view had looked at.
        pub seq: u64,
    }

    /// What has changed in a watched view can't be told row by row: read it again.
    ViewResetRecord = "view.reset", Record {
        /// Which. After `dropped` it has ended.
        pub subscription_id: SubscriptionId,
        /// Of the view.
        pub name: String,
        /// Why.
        pub reason: ResetReason,
        /// Changes after this event are told.
        pub seq: u64,
    }

    /// A program runs.
    ProcessSpawned = "kairo.process.spawned", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// In the operating system.
        pub pid: i32,
        /// This life's name.
        pub session: String,
        /// Secrets replaced.
        pub argv: Vec<OsText>,
        /// Its working folder.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cwd: Option<OsText>,
        /// Who started it.
        pub owner: Principal,
        /// Milliseconds since 1970.
        pub started_at_ms: u64,
        /// How well its tree is known.
        pub tree: TreeKnowledge,
        /// Its outputs.
        pub streams: Vec<StreamName>,
    }

    /// A process's leader exited.
    ProcessExited = "kairo.process.exited", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// In the operating system.
        pub pid: i32,
        /// This life's name.
        pub session: String,
        /// What it returned; absent if a signal ended it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub code: Option<i32>,
        /// The signal that ended it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub signal: Option<i32>,
        /// Its name.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub signal_name: Option<String>,
        /// It left a core.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub core: bool,
        /// Who or what ended it.
        pub ended_by: EndedBy,
        /// What it used.
        pub usage: ProcessUsage,
        /// From spawn to exit, milliseconds.
        pub duration_ms: u64,
    }

    /// Bytes went into a process's stdin or terminal. Told at most once a second and at the end, for all writes since.
    ProcessWritten = "kairo.process.written", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// This life's name.
        pub session: String,
        /// The first byte's offset.
        pub from: u64,
        /// One past the last.
        pub to: u64,
        /// How many calls that were.
        pub calls: u64,
    }

    /// Nobody of a process's tree is left.
    ProcessEnded = "kairo.process.ended", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// This life's name.
        pub session: String,
        /// From spawn to here, milliseconds.
        pub duration_ms: u64,
        /// Its outputs.
        pub streams: Vec<StreamTotal>,
        /// Bytes that went into its stdin.
        pub stdin_bytes: u64,
    }

    /// The keeper died, or the machine was restarted: what has become of a process can't be told any more.
    ProcessLost = "kairo.process.lost", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// In the operating system.
        pub pid: i32,
        /// This life's name.
        pub session: String,
        /// What took it.
        pub cause: LossCause,
        /// What is known of its outputs: those that had ended, and those this kernel has seen.
        pub streams: Vec<StreamTotal>,
        /// Its leader was found running still, under nobody: its pid names it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub running: bool,
    }

    /// A process is started again: a new life of the same id begins.
    ProcessRestarted = "kairo.process.restarted", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// The life that begins.
        pub session: String,
        /// The life that ended.
        pub former: String,
        /// Restarts since the last life that was long enough, this one included.
        pub attempt: u32,
        /// How long it had waited, milliseconds.
        pub delay_ms: u64,
        /// What ended the former life.
        pub cause: RestartCause,
    }

    /// A process that asked for restarts gets no more: it has had as many as it may.
    ProcessRestartsSpent = "kairo.process.restarts_spent", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// Its last life.
        pub session: String,
        /// Restarts it has had.
        pub attempts: u32,
    }

    /// How far a process is, read from its own output by an adapter. Numbers it doesn't say, and that can't be worked out,
    /// are null.
    ProcessProgress = "kairo.process.progress", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// This life's name.
        pub session: String,
        /// What reads it.
        pub adapter: String,
        /// What is done, in `unit`.
        pub done: Option<f64>,
        /// Of how much.
        pub total: Option<f64>,
        /// What is counted.
        pub unit: Option<String>,
        /// `unit` a second.
        pub rate: Option<f64>,
        /// What is left, milliseconds.
        pub eta_ms: Option<u64>,
        /// 0 to 100.
        pub percent: Option<f64>,
        /// The report in the program's own words.
        pub raw: BTreeMap<String, String>,
        /// Lines that made no sense, since this kernel reads it.
        pub broken_lines: u64,
    }

    /// A stream has ended: every holder of it is gone, or its tail was read.
    StreamClosed = "kairo.stream.closed", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Which.
        pub stream: StreamName,
        /// Its length from birth to end.
        pub total_bytes: u64,
        /// Of these, no longer in the history.
        pub cut_bytes: u64,
    }

    /// A reader missed bytes.
    StreamGap = "kairo.stream.gap", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Which reader, if it is the receiver's own.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub subscription_id: Option<SubscriptionId>,
        /// Of which stream.
        pub stream: StreamName,
        /// First offset missed.
        pub from: u64,
        /// One past the last.
        pub to: u64,
    }

    /// A kernel died in the middle of reading a stream on a system without splice(2): up to one read's worth of bytes may
    /// be missing at this place. On Linux nothing is ever missing.
    StreamUncertain = "kairo.stream.uncertain", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Which.
        pub stream: StreamName,
        /// The offset of what follows.
        pub at: u64,
    }

    /// A child's output has waited for a reader for longer than the threshold (`limits.stall_ms`), and still does.
    StreamStalled = "kairo.stream.stalled", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Which.
        pub stream: StreamName,
        /// Its length so far.
        pub offset: u64,
        /// How long it has waited, milliseconds.
        pub waited_ms: u64,
        /// For what, in words, as in the status.
        #[serde(rename = "for")]
        pub for_what: String,
        /// The reader it waits for, if it is the receiver's own.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub subscription_id: Option<SubscriptionId>,
        /// Whose reader that is, if there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reader: Option<Principal>,
    }

    /// A stalled output goes on, or has ended.
    StreamResumed = "kairo.stream.resumed", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Which.
        pub stream: StreamName,
        /// How long it had waited, milliseconds.
        pub waited_ms: u64,
    }

    /// Bytes are no longer kept. Sent when the first of them goes, then at most once a second a stream and store, with
    /// all that is gone so far.
    StreamTruncated = "kairo.stream.truncated", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Of which stream.
        pub stream: StreamName,
        /// Where they were.
        pub store: StreamStore,
        /// First offset that is gone.
        pub from: u64,
        /// One past the last.
        pub to: u64,
    }

    /// A stream can't be written to disk any more. It goes on in memory, and its spool is tried again.
    StreamSpoolFailed = "kairo.stream.spool_failed", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Which.
        pub stream: StreamName,
        /// Why, in the system's numbers: 28 is a full disk, 5 a broken one.
        pub errno: i32,
        /// Bytes before this offset are on disk.
        pub good_to: u64,
    }

    /// A stream is written to disk again. Bytes `[goodTo, from)` are not there.
    StreamSpoolResumed = "kairo.stream.spool_resumed", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Which.
        pub stream: StreamName,
        /// Bytes before this offset were written before.
        pub good_to: u64,
        /// Bytes from this offset on are written since.
        pub from: u64,
    }

    /// An output waits for its rate. Sent at the first wait, then at most once a second while there are more.
    StreamThrottled = "kairo.stream.throttled", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Which.
        pub stream: StreamName,
        /// In force.
        pub bytes_per_second: u64,
        /// In force, bytes.
        pub burst: u64,
        /// How long it has waited so in all, milliseconds, without the wait that begins.
        pub waited_ms: u64,
    }

    /// The kernel takes calls.
    KernelReady = "kairo.kernel.ready", Bus {
        /// Of the kernel.
        pub pid: i32,
        /// Of the kernel.
        pub version: String,
    }

    /// The kernel takes no new work and ends.
    KernelStopping = "kairo.kernel.stopping", Bus {
        /// `kernel.shutdown` or a signal's name.
        pub reason: String,
    }

    /// The state folder takes no records any more: processes started from now on are forgotten if the keeper dies.
    KernelRecordsFailed = "kairo.kernel.records_failed", Bus {
        /// What was tried, and what the system said.
        pub reason: String,
    }

    /// A call that changes something was accepted. Calls that write to a stdin, publish an event or work on intents are told
    /// by what they do.
    KernelCalled = "kairo.kernel.called", Bus {
        /// What.
        pub method: String,
        /// On what, as far as it has a name.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub target: Option<String>,
    }

    /// A call that changes something came to nothing.
    KernelCallFailed = "kairo.kernel.call_failed", Bus {
        /// What.
        pub method: String,
        /// `E_…`.
        pub code: String,
        /// What it was answered with.
        pub message: String,
    }

    /// A durable consumer has put an event aside: it was delivered as often as it may be, and never done.
    KernelDeadLetter = "kairo.kernel.dead_letter", Bus {
        /// Of which consumer.
        pub consumer: String,
        /// The event's place.
        pub seq: u64,
        /// Its type.
        pub topic: String,
        /// How often it was delivered.
        pub deliveries: u32,
        /// What became of the last delivery.
        pub reason: DeadReason,
    }

    /// Events were lost: the disk had damage. Whoever replays them is shown the range.
    KernelLogDamaged = "kairo.kernel.log_damaged", Bus {
        /// First place.
        pub from: u64,
        /// Last place.
        pub to: u64,
        /// What was found.
        pub reason: String,
    }

    /// To whoever registered for it: an intent is being cancelled, and its things are stopped after this time.
    IntentCancelNotice = "intent.cancel", Notice {
        /// Which.
        pub intent_id: EventId,
        /// The story it belongs to.
        pub correlation_id: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// Who does it.
        pub by: Principal,
        /// How long the receiver has, milliseconds; `intent.release` ends it sooner.
        pub grace_ms: u64,
    }

    /// An intent has begun. Its id is this event's.
    IntentStarted = "kairo.intent.started", Bus {
        /// Its name.
        pub intent_id: EventId,
        /// What is to be done.
        pub name: String,
        /// What was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub query: Option<String>,
        /// Whatever its client wants kept with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub context: Option<Raw>,
        /// The intent it is part of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub parent: Option<EventId>,
        /// It is cancelled this many milliseconds after it began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub deadline_ms: Option<u64>,
        /// What becomes of it when the connection ends that began it.
        pub on_disconnect: IntentOnDisconnect,
        /// Who began it.
        pub owner: Principal,
    }

    /// An intent was ended. What it has started goes on.
    IntentEnded = "kairo.intent.ended", Bus {
        /// Which.
        pub intent_id: EventId,
        /// What was to be done.
        pub name: String,
        /// What came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub result: Option<Raw>,
        /// What went wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub error: Option<String>,
        /// In a sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub summary: Option<String>,
        /// From begin to end, milliseconds.
        pub duration_ms: u64,
    }

    /// An intent, or everything of a story, is being stopped.
    IntentCancelling = "kairo.intent.cancelling", Bus {
        /// The intent, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub intent_id: Option<EventId>,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// Who does it.
        pub by: Principal,
        /// Between SIGTERM and SIGKILL, milliseconds.
        pub grace_ms: u64,
        /// It was under way when the kernel before this one ended.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub resumed: bool,
    }

    /// Everything an intent, or a story, had begun is gone.
    IntentCancelled = "kairo.intent.cancelled", Bus {
        /// The intent, if it was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub intent_id: Option<EventId>,
        /// The story.
        pub correlation_id: String,
        /// Why, as it was said; `deadline` and `disconnect` are the kernel's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// Who did it.
        pub by: Principal,
        /// Everything that was stopped, in the order it went; at most 1,024 of them.
        pub stopped: Vec<Stopped>,
        /// How many more there were.
        #[serde(default, skip_serializing_if = "is_zero")]
        pub more: u64,
        /// Intents that were cancelled with it, in the order they were over.
        pub children: Vec<EventId>,
        /// What had not gone when the time was up.
        pub left: u32,
        /// From the cancel until all was gone, milliseconds.
        pub duration_ms: u64,
    }

    /// A call was refused for want of rights.
    SecurityDenied = "kairo.security.denied", Bus {
        /// Who called.
        pub principal: Principal,
        /// What.
        pub method: String,
        /// On what.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub target: Option<String>,
        /// What was lacking.
        pub reason: String,
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

crate::methods::words! {
    /// Why a subscription to events was ended by the kernel.
    CutReason {
        /// Its connection had not read for too long.
        Slow = "slow",
        /// The log failed.
        Log = "log",
        /// The intent it was made under was cancelled.
        Cancelled = "cancelled",
        /// Its consumer was deleted.
        Deleted = "deleted",
    }
}

crate::methods::words! {
    /// What became of a delivery that was not the end of it.
    DeadReason or Timeout {
        /// Nobody said anything in time.
        Timeout = "timeout",
        /// It could not be worked on.
        Nak = "nak",
        /// Whoever had it is gone.
        Gone = "gone",
    }
}

crate::methods::words! {
    /// Why changes of a view are not told.
    ResetReason {
        /// There were too many to remember, or it was folded again.
        Behind = "behind",
        /// There is no such view any more.
        Dropped = "dropped",
    }
}

crate::methods::words! {
    /// Where bytes of a stream are kept.
    StreamStore {
        /// In memory.
        History = "history",
        /// On disk.
        Spool = "spool",
    }
}

crate::methods::words! {
    /// What took a process.
    LossCause {
        /// Its keeper died.
        Keeper = "keeper",
        /// The machine was restarted.
        Reboot = "reboot",
        /// Its records came from another machine.
        Moved = "moved",
    }
}

crate::methods::words! {
    /// What ended the life before a restart.
    RestartCause {
        /// Its leader ended.
        Exited = "exited",
        /// Its program could not be started again.
        NotStarted = "not_started",
        /// It was lost.
        Lost = "lost",
    }
}

crate::methods::words! {
    /// Why a stream ended for a subscription.
    StreamEndReason {
        /// Every holder of its write end is gone, or its tail was read.
        Closed = "closed",
        /// The process is gone and so is what was retained of it.
        Forgotten = "forgotten",
        /// The kernel stopped.
        Shutdown = "shutdown",
        /// The intent it was made under was cancelled.
        Cancelled = "cancelled",
        /// It was to be read with the policy `spool`, and the process it waited for has none.
        Unspooled = "unspooled",
    }
}
