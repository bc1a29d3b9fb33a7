//! What happens to subscriptions to events.

use crate::id::SubscriptionId;
use crate::methods::event::Gap;

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
