//! Who reads what: readers of processes, receivers of events, and where each stands.
//!
//! Invariant: what a subscription is for is said once, when it is made; only its place changes.

use crate::auth::principal::{Creator, Principal};
use crate::intents::members::Under;
use crate::quotas::ledger::AccountId;
use crate::state::Topics;
use kairo_dataplane::command::{From, Mode, OutletKind, Policy, Rate};
use kairo_dataplane::key::{ConnectionKey, SubscriptionKey, TimerKey};
use kairo_dataplane::meter::ReaderMeter;
use kairo_wire::id::{ProcessId, SubscriptionId};
use kairo_wire::methods::view::ViewWatchParams;
use std::sync::Arc;

/// A reader of a process's output.
#[derive(Debug)]
pub(crate) struct StreamSubscription {
    /// Its name on the wire.
    pub id: SubscriptionId,
    /// Who reads.
    pub connection: ConnectionKey,
    /// Which process, by name.
    pub target: ProcessId,
    /// What and how.
    pub wish: Wish,
    /// Where it stands.
    pub place: Place,
    /// To what it belongs.
    pub under: Option<Box<Under>>,
    /// Who read by it, if the connection went with a former kernel and the outlet did not.
    pub outlives: Option<Box<Outliving>>,
}

/// Whose an outlet or a way into a stdin is that has no connection.
#[derive(Debug)]
pub(crate) struct Outliving {
    /// Who had it.
    pub principal: Principal,
    /// For whom it counts, from the end of the adoption on.
    pub account: Option<AccountId>,
}

/// A path that leads into a stdin.
#[derive(Debug)]
pub(crate) struct Inlet {
    /// For whom.
    pub way: Way,
    /// To what it belongs.
    pub under: Option<Box<Under>>,
}

/// For whom a path leads into a stdin.
#[derive(Debug)]
pub(crate) enum Way {
    /// For whom it was asked on this connection, which may be gone.
    Of(ConnectionKey),
    /// For whom a former kernel had it.
    Outlives(Outliving),
}

/// What a reader asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Wanted.
    pub stdout: bool,
    /// Wanted.
    pub stderr: bool,
    /// Where to begin.
    pub from: From,
    /// How to cut.
    pub mode: Mode,
    /// When slow.
    pub policy: Policy,
    /// It goes on for a reader of a former kernel.
    pub resumes: bool,
    /// Least history wanted, bytes.
    pub history_bytes: Option<u32>,
    /// Where its bytes go if not in frames on its connection.
    pub raw: Option<RawSink>,
    /// How fast it is given bytes.
    pub rate: Option<Rate>,
}

/// Where bytes go instead of in frames on their reader's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RawSink {
    /// To a descriptor of this process (embedded kernel only).
    Own(i32),
    /// To an outlet whose other end is the client's.
    Outlet {
        /// What is made.
        kind: OutletKind,
        /// The call that is answered with it.
        ticket: u64,
    },
    /// To one of a former kernel.
    Kept,
    /// In frames, on a socket of its own whose other end is the client's.
    Framed {
        /// The call that is answered with it.
        ticket: u64,
    },
}

impl StreamSubscription {
    /// The call whose answer its client goes on with, without its connection: it has a name in the file system.
    pub(crate) fn named_by(&self) -> Option<u64> {
        match self.wish.raw {
            Some(RawSink::Outlet { kind: OutletKind::Fifo { .. }, ticket }) => Some(ticket),
            Some(RawSink::Outlet { .. } | RawSink::Own(_) | RawSink::Kept | RawSink::Framed { .. })
            | None => None,
        }
    }
}

/// Where a reader stands.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Its process has never been; the timer ends the wait.
    Waiting {
        /// Which.
        timer: TimerKey,
    },
    /// It reads.
    Reading {
        /// Its name in the data plane.
        key: SubscriptionKey,
        /// What it reads, by serial.
        process: u64,
        /// Its numbers.
        meter: Arc<ReaderMeter>,
    },
    /// It has read a process to its end and follows the id into the next spawn of the same creator.
    Following {
        /// The creator.
        creator: Creator,
    },
}

/// A receiver of events.
#[derive(Debug)]
pub(crate) struct TopicSubscription {
    /// Its name on the wire.
    pub id: SubscriptionId,
    /// Who receives.
    pub connection: ConnectionKey,
    /// Which topics.
    pub text: Arc<str>,
    /// Only of this story.
    pub correlation: Option<Arc<str>>,
    /// Only of this intent.
    pub intent: Option<Arc<str>>,
    /// Of the past, only since then.
    pub from_time_ms: u64,
    /// Where it stands.
    pub place: TopicPlace,
    /// To what it belongs.
    pub under: Option<Box<Under>>,
}

/// A watcher of a view.
#[derive(Debug)]
pub(crate) struct WatchSubscription {
    /// Its name on the wire.
    pub id: SubscriptionId,
    /// Who watches.
    pub connection: ConnectionKey,
    /// What, and up to where it has been told.
    pub of: ViewWatchParams,
    /// Of which types the events are that the view is made of.
    pub topics: Topics,
    /// The ticket of the changes it waits for; none while it has too much unread.
    pub asked: Option<u64>,
}

/// Where a subscription to events stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopicPlace {
    /// It is told what happens, from this place on.
    Live {
        /// Which.
        next: u64,
    },
    /// It is brought events out of the log.
    Behind {
        /// From this place on.
        next: u64,
        /// The ticket of the page it waits for.
        asked: Option<u64>,
        /// Rings when its connection should have read something.
        timer: TimerKey,
    },
}
