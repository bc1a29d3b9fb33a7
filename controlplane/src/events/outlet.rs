//! The kernel's way to the log: what is handed over under its lock, and what is asked.
//!
//! The kernel is pure, so it neither writes nor reads: it puts entries in order into an [`Outlet`], which never blocks, and
//! is told by whoever serves that how far they are written ([`Kernel::written`](crate::kernel::Kernel::written)). Entries of
//! one hand-over belong together: all of them are found after a crash, or none. Invariant: entries are written in the
//! order they were put, and counted from 1.

use crate::audit::Order;
use crate::audit::inspecting::Inspection;
use crate::auth::decision::Hearing;
use crate::auth::principal::Principal;
use crate::events::compacting::Chore;
use crate::events::log::{Query, Retention};
use bytes::Bytes;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::error::WireError;
use kairo_wire::id::SubscriptionId;
use kairo_wire::methods::event::Gap;
use kairo_wire::methods::view::{ViewChangesParams, ViewDefinition, ViewGetParams, ViewWatchParams};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something to be kept.
#[derive(Clone, Debug)]
pub enum Entry {
    /// An event: [`Record`](crate::events::record::Record), encoded.
    Event {
        /// Its place.
        seq: u64,
        /// Its type, which is indexed with it.
        topic: Arc<str>,
        /// The rest.
        record: Bytes,
    },
    /// A line of the session records.
    Life(Life),
    /// A small thing with a name.
    Value {
        /// Its name.
        key: Bytes,
        /// What it is now; none if it is no more.
        value: Option<Bytes>,
    },
    /// Something to be done to the audit; nothing where there is none.
    Audit(Order),
}

/// A line of the session records ([`records`](crate::records)), opaque to the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Written as it is.
    pub clear: Bytes,
    /// Written sealed, behind `clear`; nothing if empty.
    pub secret: Bytes,
}

/// What belongs together.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub entries: Vec<Entry>,
    /// Somebody waits until they are written. Others may be gathered for a moment: many together cost less.
    pub awaited: bool,
    /// Somebody waits for the disk to have them.
    pub flush: bool,
}

/// For whom events are written, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hearer {
    /// What it may not hear is left out.
    pub principal: Principal,
    /// How integers are written.
    pub dialect: Dialect,
    /// It has the feature `envelope`.
    pub envelope: bool,
}

/// Something to be read.
#[derive(Clone, Debug)]
pub struct Question {
    /// Comes back with the answer.
    pub ticket: u64,
    /// Which events.
    pub query: Query,
    /// Most of them.
    pub limit: usize,
    /// For whom.
    pub hearer: Hearer,
    /// EVENT frames of this subscription are wanted; a page of values otherwise.
    pub subscription: Option<SubscriptionId>,
    /// Neither, but the records.
    pub raw: bool,
}

impl Question {
    /// The result of a call is wanted.
    pub(crate) fn is_replay(&self) -> bool {
        self.subscription.is_none() && !self.raw
    }
}

/// Something asked of the views.
#[derive(Clone, Debug)]
pub enum Inquiry {
    /// Something is wanted.
    Want {
        /// Comes back with the answer.
        ticket: u64,
        /// What.
        what: Wanted,
        /// For whom.
        hearer: Hearer,
    },
    /// Nobody waits any more for what was wanted under this ticket.
    Forget(u64),
    /// This subscription has ended.
    Leave(SubscriptionId),
}

/// What the views are asked.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// `view.list`, of what is made of events that may be heard.
    List(Box<Hearing>),
    /// `view.get`.
    Get(ViewGetParams),
    /// `view.define`.
    Define(Box<ViewDefinition>),
    /// `view.drop`, of this name.
    Drop(String),
    /// `view.rebuild`, of this name.
    Rebuild(String),
    /// `view.changes`: at once, or with `waitMs` when there are some.
    Poll(ViewChangesParams),
    /// From where on changes can be told: [`Found::seen`].
    Begin(ViewWatchParams),
    /// Frames of the changes since the last time, as soon as there are some.
    Changes {
        /// Of what; the first time, after which event.
        of: ViewWatchParams,
        /// For this subscription.
        subscription: SubscriptionId,
    },
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Of the question.
    pub ticket: u64,
    /// What was found.
    pub found: Result<Found, WireError>,
    /// Values to be written before it is answered.
    pub keep: Vec<(Bytes, Option<Bytes>)>,
}

/// Events, as they are sent.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// EVENT frames in order, gaps among them; or the encoded result of a call.
    pub bytes: Bytes,
    /// How many events, or changes.
    pub events: usize,
    /// All up to this place have been looked at (backwards: down to it).
    pub seen: u64,
    /// There may be more.
    pub more: bool,
    /// The records, if they were asked for.
    pub records: Vec<(u64, Bytes)>,
    /// What is missing among them.
    pub gaps: Vec<Gap>,
    /// Of which types the events are that a view is made of, if it is of one.
    pub topics: Arc<[Arc<str>]>,
}

/// How the log stands, as whoever writes it last counted.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The oldest event that is kept.
    pub first_seq: Option<u64>,
    /// The last place that is written.
    pub last_seq: u64,
    /// Events that are kept.
    pub events: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Bytes all of it takes.
    pub stored_bytes: u64,
    /// How far the indexes are.
    pub indexed_to: u64,
    /// Ranges that can't be shown whole.
    pub gaps: u64,
    /// Something is being dropped.
    pub compacting: bool,
    /// What is dropped by and by.
    pub policy: Arc<Retention>,
}

/// Takes entries and questions; never blocks.
pub trait Outlet: Send {
    /// Takes what belongs together.
    fn put(&mut self, batch: Batch);
    /// Asks; the answer comes as [`Kernel::answered`](crate::kernel::Kernel::answered).
    fn ask(&mut self, question: Question);
    /// Asks something of the audit; the answer comes the same way.
    fn inspect(&mut self, inspection: Inspection);
    /// Asks the views; the answer comes the same way.
    fn inquire(&mut self, inquiry: Inquiry);
    /// Has something dropped; what came of it comes as [`Kernel::compacted`](crate::kernel::Kernel::compacted).
    fn charge(&mut self, chore: Chore);
    /// How the log stands.
    fn figures(&self) -> Figures;
}

/// What was handed over and asked, oldest first.
#[derive(Debug, Default)]
pub struct Shelved {
    /// What belongs together.
    pub batches: Vec<Batch>,
    /// What the log is asked.
    pub questions: Vec<Question>,
    /// What the audit is asked.
    pub inspections: Vec<Inspection>,
    /// What the views are asked.
    pub inquiries: Vec<Inquiry>,
    /// What is to be dropped.
    pub chores: Vec<Chore>,
}

/// An outlet that serves nobody by itself: what is put and asked lies there until somebody takes it. For simulations, and
/// for kernels nobody asks about the past.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<Mutex<Shelved>>);

impl Shelf {
    /// What lies there.
    pub fn take(&self) -> Shelved {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Shelved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet for Shelf {
    fn put(&mut self, batch: Batch) {
        self.lock().batches.push(batch);
    }

    fn ask(&mut self, question: Question) {
        self.lock().questions.push(question);
    }

    fn inspect(&mut self, inspection: Inspection) {
        self.lock().inspections.push(inspection);
    }

    fn inquire(&mut self, inquiry: Inquiry) {
        self.lock().inquiries.push(inquiry);
    }

    fn charge(&mut self, chore: Chore) {
        self.lock().chores.push(chore);
    }

    fn figures(&self) -> Figures {
        Figures::default()
    }
}

impl fmt::Debug for dyn Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outlet")
    }
}
