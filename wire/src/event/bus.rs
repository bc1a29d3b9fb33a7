//! What happens to subscriptions to events and views.

use crate::id::SubscriptionId;
use crate::methods::event::Gap;
use crate::methods::view::ViewRow;

super::events! {
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
        /// What allowed it was taken back.
        Revoked = "revoked",
    }
}
