//! What happens to the kernel and its log, what it is asked to do, and what it refuses.

use super::is_zero;
use crate::methods::log::CompactionCause;
use crate::methods::system::Principal;
use std::collections::BTreeMap;

super::events! {
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
        /// The grant it was allowed by; none if the caller may anyway.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub grant: Option<String>,
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

    /// Events were dropped from the log, by its policy or because `event.compact` said so. Whoever replays the range is shown
    /// what is left of it.
    KernelCompacted = "kairo.kernel.compacted", Bus {
        /// First place.
        pub from: u64,
        /// Last place; between them may be events that were kept.
        pub to: u64,
        /// How many were dropped.
        pub events: u64,
        /// Bytes of their records.
        pub bytes: u64,
        /// How many of which type; of at most 64 types.
        pub types: BTreeMap<String, u64>,
        /// How many of other types.
        #[serde(default, skip_serializing_if = "is_zero")]
        pub others: u64,
        /// Lowest of their times, milliseconds since 1970.
        pub first_ms: u64,
        /// Highest.
        pub last_ms: u64,
        /// What dropped them.
        pub reason: CompactionCause,
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
        /// The permission it takes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub permission: Option<String>,
        /// For what.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub resource: Option<String>,
        /// The grant that forbids it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub grant: Option<String>,
    }

    /// The audit's chain begins with this run: there was none. A second one in the life of a state folder says that the first
    /// was taken away.
    KernelAuditBegun = "kairo.kernel.audit_begun", Bus {
        /// The key its checkpoints are verified with, 64 hexadecimal digits.
        pub public_key: String,
    }

    /// Records of the audit are not what was written, or are gone.
    KernelAuditDamaged = "kairo.kernel.audit_damaged", Bus {
        /// The first one's number in the chain.
        pub from: u64,
        /// The last one's.
        pub to: u64,
        /// What was found.
        pub reason: String,
    }

    /// Records of the audit are dropped, up to the last checkpoint that was signed before a time.
    KernelAuditPruned = "kairo.kernel.audit_pruned", Bus {
        /// That time, milliseconds since 1970.
        pub before_ms: u64,
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
