//! Notices, records and events of the bus, one row each.
//!
//! *Notices* and *records* go to one connection; *bus events* are kept in the log and go to whoever subscribed to their
//! topic. How they are written in EVENT frames is in [`envelope`](crate::envelope). Who may see an event is decided in the
//! control plane; matching topics is too. The rows are by rooms, and here under one name.

mod bus;
mod intent;
mod kernel;
mod permission;
mod process;
mod quota;
mod stream;

pub use bus::{CutReason, EventCutRecord, EventGapRecord, ResetReason, ViewChangedRecord, ViewResetRecord};
pub use intent::{IntentCancelNotice, IntentCancelled, IntentCancelling, IntentEnded, IntentStarted};
pub use kernel::{
    DeadReason, KernelAuditBegun, KernelAuditDamaged, KernelAuditPruned, KernelCallFailed, KernelCalled,
    KernelCompacted, KernelDeadLetter, KernelLogDamaged, KernelReady, KernelRecordsFailed, KernelStopping,
    SecurityDenied, SecurityViolation, ViolationMechanism,
};
pub use permission::{
    AgentCreated, AgentRemoved, PermissionApproved, PermissionDenied, PermissionExpired, PermissionRequested,
    PermissionRevoked, SessionCreated, SessionEnded,
};
pub use process::{
    LossCause, ProcessEnded, ProcessExitNotice, ProcessExited, ProcessLost, ProcessProgress,
    ProcessRestarted, ProcessRestartsSpent, ProcessSpawned, ProcessWritten, RestartCause,
};
pub use quota::QuotaExceeded;
pub use stream::{
    StreamClosed, StreamEndReason, StreamEndRecord, StreamGap, StreamGapRecord, StreamOverflowNotice,
    StreamResumed, StreamSpoolFailed, StreamSpoolResumed, StreamStalled, StreamStore, StreamThrottled,
    StreamTruncated, StreamUncertain,
};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

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

/// Declares events and, as `ROWS`, all of a room.
macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident = $topic:literal, $shape:ident $fields:tt)+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
            #[serde(rename_all = "camelCase")]
            pub struct $name $fields

            impl $crate::event::Event for $name {
                const TOPIC: &'static str = $topic;
                const ROW: &'static $crate::event::EventRow = &$crate::event::EventRow {
                    topic: $topic,
                    shape: $crate::event::Shape::$shape,
                    doc: concat!($($doc, "\n"),+),
                    data: |generator| generator.subschema_for::<$name>(),
                };
            }
        )+

        /// All of this room.
        pub(super) const ROWS: &[&$crate::event::EventRow] =
            &[$(<$name as $crate::event::Event>::ROW),+];
    };
}
use events;

/// All of them, by room.
pub const EVENTS: &[&[&EventRow]] =
    &[bus::ROWS, stream::ROWS, process::ROWS, kernel::ROWS, intent::ROWS, permission::ROWS, quota::ROWS];

fn is_zero(number: &u64) -> bool {
    *number == 0
}
