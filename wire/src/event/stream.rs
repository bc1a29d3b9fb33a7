//! What happens to streams, and to those who read them.

use crate::id::{ProcessId, SubscriptionId};
use crate::methods::stream::StreamName;
use crate::methods::system::Principal;

super::events! {
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

    /// A kernel died in the middle of moving a stream's bytes that it didn't count first: of one spawned with `history: none`,
    /// or on a system without splice(2). Up to 1 MiB may be missing at this place, to a count at
    /// least; of more than four raw readers of it one may be given up to 1 MiB again. `from` and `to` say how much: offsets behind it are
    /// too small by no more than that. Each kernel after it tells it again. Of others nothing is ever missing on Linux.
    StreamUncertain = "kairo.stream.uncertain", Bus {
        /// Of which process.
        pub id: ProcessId,
        /// Of which life.
        pub session: String,
        /// Which.
        pub stream: StreamName,
        /// The offset of what follows.
        pub at: u64,
        /// The first of the bytes that may be missing, or given again.
        pub from: u64,
        /// One past the last of them.
        pub to: u64,
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
        /// Its reader has closed the descriptor it read from.
        ReaderGone = "reader_gone",
        /// What allowed it was taken back.
        Revoked = "revoked",
        /// It was to be read in lines, from a place in its past or with a larger history, and the process it waited for keeps
        /// none.
        Unkept = "unkept",
        /// What its bytes were written to has no room for more.
        Full = "full",
        /// What its bytes were written to takes no more, for another reason than that nobody reads it.
        Unwritable = "unwritable",
        /// Nobody has opened its fifo in time.
        Unopened = "unopened",
    }
}
