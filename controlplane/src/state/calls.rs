//! Calls that are not answered yet, and what they wait for.

use crate::intents::members::Under;
use crate::receipts::Claim;
use crate::sessions::plan::Plan;
use crate::state::Trace;
use bytes::Bytes;
use kairo_dataplane::command::{NamedInlet, Scope, TerminalSize, Tuning};
use kairo_dataplane::key::{ConnectionKey, TimerKey, WriteKey};
use kairo_wire::codec::raw::Raw;
use kairo_wire::id::SubscriptionId;
use kairo_wire::method::MethodRow;
use kairo_wire::methods::open::OpenResult;
use kairo_wire::methods::view::ViewWatchParams;
use std::sync::Arc;

/// A call that waits for its answer.
#[derive(Debug)]
pub(crate) struct Call {
    /// Who asked.
    pub connection: ConnectionKey,
    /// The id as it came.
    pub id: Raw,
    /// Rings when the caller's patience is over.
    pub deadline: Option<TimerKey>,
    /// What for.
    pub pending: Pending,
    /// The receipt it is answered with.
    pub claim: Option<Claim>,
    /// Its caller is gone: it is in no list, and nobody is answered.
    pub headless: bool,
    /// To what it belongs.
    pub under: Option<Box<Under>>,
    /// What was called; none for what is in no row.
    pub row: Option<&'static MethodRow>,
    /// It was allowed by a grant for one use, which it is.
    pub once: bool,
}

/// Patterns of types of events.
pub(crate) type Topics = Arc<[Arc<str>]>;

impl Call {
    /// Bytes it waits to see in a child's stdin.
    pub(crate) fn parked_bytes(&self) -> usize {
        match &self.pending {
            Pending::Deed { deed: Deed::Write { data, .. }, .. } => data.len(),
            Pending::Deed { .. }
            | Pending::Spawn { .. }
            | Pending::Reuse { .. }
            | Pending::Wait { .. }
            | Pending::Metrics
            | Pending::Usage { .. }
            | Pending::Pipeline { .. }
            | Pending::Published
            | Pending::Compaction { .. }
            | Pending::Request { .. }
            | Pending::Repeat { .. }
            | Pending::Cancelling { .. }
            | Pending::Replay { .. }
            | Pending::Decision { .. }
            | Pending::Changes { .. }
            | Pending::Open { .. }
            | Pending::Watch { .. } => 0,
        }
    }
}

/// A stream that is being opened.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    /// Its reader.
    pub id: SubscriptionId,
    /// What is answered.
    pub result: OpenResult,
}

/// What a call waits for.
#[derive(Debug)]
pub(crate) enum Pending {
    /// A child to run.
    Spawn {
        /// Which.
        process: u64,
    },
    /// The id of a dying process to be free.
    Reuse {
        /// Which process, by serial.
        holder: u64,
        /// What is spawned then.
        plan: Box<Plan>,
        /// Rings when it has waited enough.
        timer: TimerKey,
    },
    /// A child's end.
    Wait {
        /// Which.
        process: u64,
        /// Rings after `timeoutMs`.
        timer: Option<TimerKey>,
    },
    /// Something done to a process by the data plane.
    Deed {
        /// To which.
        process: u64,
        /// What.
        deed: Deed,
        /// True exactly when its command was given; false while the child is being started.
        sent: bool,
    },
    /// The files of `system.get_metrics`.
    Metrics,
    /// What a running process has used.
    Usage {
        /// Which.
        process: u64,
    },
    /// The log to have what it published, or its receipt.
    Published,
    /// What is old to be dropped from the log.
    Compaction {
        /// The story of the call.
        story: Box<Trace>,
    },
    /// An answer to what it asked.
    Request {
        /// The event that asks.
        event: Arc<str>,
        /// Rings after `timeoutMs`; none once there is an answer.
        timer: Option<TimerKey>,
    },
    /// The call it repeats.
    Repeat {
        /// The name in their key.
        name: u128,
    },
    /// Somebody to decide what it asked for.
    Decision {
        /// Which request; none while its manifest is read.
        request: Option<Box<str>>,
        /// Rings after `waitMs`.
        timer: Option<TimerKey>,
    },
    /// A page of the log, or an answer of the views or the audit.
    Replay {
        /// Events of which types, if it is the log.
        topics: Topics,
    },
    /// Rows of a view to change.
    Changes {
        /// After which event.
        since: u64,
        /// Which events the view is made of, once that is known.
        topics: Topics,
        /// Rings after `waitMs`.
        timer: Option<TimerKey>,
    },
    /// An outlet to be made.
    Open {
        /// What is answered then.
        opened: Box<Opened>,
    },
    /// The views to say from where on changes are told.
    Watch {
        /// Of what.
        of: ViewWatchParams,
    },
    /// A pipeline to run, to end, or to be looked at.
    Pipeline {
        /// Which, by serial.
        pipeline: u64,
        /// What.
        what: Awaited,
    },
    /// Everything of an intent or a story to be gone.
    Cancelling {
        /// Which cancel.
        cancel: u64,
    },
}

/// What of a pipeline is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// All its stages to run.
    Start,
    /// All its stages to exit.
    End {
        /// Rings after `timeoutMs`.
        timer: Option<TimerKey>,
    },
    /// What the system counts for its stages.
    Status,
}

impl Pending {
    /// The method that waits for it.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Pending::Spawn { .. } | Pending::Reuse { .. } => "process.spawn",
            Pending::Wait { .. } => "process.wait",
            Pending::Deed { deed, .. } => match deed {
                Deed::Kill { .. } => "process.kill",
                Deed::Signal { .. } => "process.signal",
                Deed::Pause => "process.pause",
                Deed::Resume => "process.resume",
                Deed::Write { .. } => "process.stdin.write",
                Deed::CloseStdin => "process.stdin.close",
                Deed::OpenStdin { .. } => "stdin.open",
                Deed::Tune { .. } => "stream.configure",
                Deed::Resize { .. } => "process.resize",
            },
            Pending::Open { .. } => "stream.open",
            Pending::Metrics => "system.get_metrics",
            Pending::Usage { .. } => "process.usage",
            Pending::Published | Pending::Repeat { .. } => "event.publish",
            Pending::Compaction { .. } => "event.compact",
            Pending::Replay { .. } => "event.replay",
            Pending::Changes { .. } => "view.changes",
            Pending::Watch { .. } => "view.watch",
            Pending::Request { .. } => "event.request",
            Pending::Decision { .. } => "permission.request",
            Pending::Cancelling { .. } => "intent.cancel",
            Pending::Pipeline { what, .. } => match what {
                Awaited::Start => "pipeline.spawn",
                Awaited::End { .. } => "pipeline.wait",
                Awaited::Status => "pipeline.status",
            },
        }
    }

    /// Whether a cancel of what it belongs to ends it: what only waits for the log is done, a repetition goes the way of the
    /// call it repeats, and a cancel ends no cancel.
    pub(crate) fn can_be_stopped(&self) -> bool {
        !matches!(
            self,
            Pending::Published
                | Pending::Compaction { .. }
                | Pending::Repeat { .. }
                | Pending::Cancelling { .. }
        )
    }
}

/// What is done to a process.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// `process.kill`.
    Kill {
        /// The first signal.
        signal: i32,
        /// Until SIGKILL, milliseconds.
        grace_ms: u64,
        /// Whom.
        scope: Scope,
    },
    /// `process.signal`.
    Signal {
        /// Number.
        signal: i32,
        /// Whom.
        scope: Scope,
    },
    /// `process.pause`.
    Pause,
    /// `process.resume`.
    Resume,
    /// `process.stdin.write`.
    Write {
        /// What.
        data: Bytes,
        /// What tells it from a repetition.
        key: Option<WriteKey>,
    },
    /// `process.stdin.close`.
    CloseStdin,
    /// `stdin.open`.
    OpenStdin {
        /// By a path.
        inlet: Option<Box<NamedInlet>>,
    },
    /// `stream.configure`.
    Tune {
        /// How.
        tuning: Tuning,
    },
    /// `process.resize`.
    Resize {
        /// To what.
        size: TerminalSize,
    },
}
