//! Every number of the wire: its unit, its bound, and what happens past it.
//!
//! One room, so that how limits relate can be asserted in one place; [`LIMITS`] repeats them as rows for
//! introspection. Limits of one machine (history budgets, pipe sizes) are the data plane's.

/// Length of a frame header, bytes.
pub const HEADER_BYTES: usize = 8;

/// Longest payload of a frame, bytes. A longer one closes the connection as soon as its header is there.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Deepest nesting of arrays and maps in a payload. Deeper: the call is answered with `E_TOO_LARGE`.
pub const DEPTH_MAX: usize = 64;

/// Most values in a payload; keys count, and so does each array and map. More: `E_TOO_LARGE`.
pub const ELEMENTS_MAX: usize = 1_000_000;

/// Most unanswered calls of one connection. The next one is answered with `E_TOO_MANY_CALLS`.
pub const CALLS_IN_FLIGHT_MAX: usize = 1024;

/// Longest id of a call that is not answered at once, MessagePack bytes: it is kept until then. Longer: `E_TOO_LARGE`.
pub const CALL_ID_BYTES_MAX: usize = 4096;

/// Most bytes of text in a call's `meta`. More: `E_TOO_LARGE`.
pub const META_BYTES_MAX: usize = 4096;

/// Longest `data` of a STREAM_CHUNK for a client that has negotiated nothing, bytes: what bin16 can carry, because
/// v1 clients read nothing longer.
pub const CHUNK_V1_BYTES_MAX: usize = 65_535;

/// Longest `data` of a STREAM_CHUNK that `kernel.hello` grants with the feature `chunks`, bytes.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// Most bytes parked for children's stdins by one connection. A write past it gets `E_WOULD_BLOCK`.
pub const STDIN_PARKED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most subscriptions of one connection that wait for a process not yet spawned. The next: `E_BUSY`.
pub const WAITING_SUBSCRIPTIONS_MAX: usize = 64;

/// How long a subscription waits for its process, milliseconds.
pub const WAITING_SUBSCRIPTION_MS: u64 = 60_000;

/// Most bytes of argv and environment together that a spawn may carry. More: `E_TOO_LARGE`.
pub const ARGUMENTS_BYTES_MAX: usize = 1024 * 1024;

/// Longest process id in its text form, bytes. Longer: `E_INVALID_PARAMS`.
pub const PROCESS_ID_BYTES_MAX: usize = 255;

/// Largest history a subscription's `bufferSize` can ask for, bytes. More is cut down to it.
pub const BUFFER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Longest type of an event, bytes. Longer: `E_INVALID_PARAMS`.
pub const TOPIC_BYTES_MAX: usize = 255;

/// Longest `data` of a client's event, MessagePack bytes. Longer: `E_TOO_LARGE`.
pub const EVENT_DATA_BYTES_MAX: usize = 1024 * 1024;

/// Most events of one `event.publish_batch`. More: `E_TOO_LARGE`.
pub const EVENTS_IN_BATCH_MAX: usize = 4_096;

/// Most events of one page of `event.replay`. A larger wish is granted this much.
pub const REPLAY_EVENTS_MAX: usize = 1_000;

/// Longest name of an intent, bytes. Longer: `E_INVALID_PARAMS`.
pub const INTENT_NAME_BYTES_MAX: usize = 255;

/// Longest query, summary, error or reason of an intent, bytes. Longer: `E_TOO_LARGE`.
pub const INTENT_TEXT_BYTES_MAX: usize = 4_096;

/// Longest context or result of an intent, MessagePack bytes. Longer: `E_TOO_LARGE`.
pub const INTENT_DATA_BYTES_MAX: usize = 64 * 1024;

/// Most intents that are not over, of one user. The next: `E_BUSY`.
pub const INTENTS_OPEN_MAX: usize = 1_024;

/// Deepest nesting of intents. Deeper: `E_CONFLICT`.
pub const INTENT_DEPTH_MAX: usize = 16;

/// Most clients registered for one intent. The next: `E_BUSY`.
pub const INTENT_REGISTRATIONS_MAX: usize = 64;

/// Longest grace a client can register, milliseconds. A longer wish is granted this much.
pub const INTENT_GRACE_MS_MAX: u64 = 60_000;

/// Most intents of one page of `intent.list`. A larger wish is granted this much.
pub const INTENTS_LISTED_MAX: usize = 200;

/// Most things a receipt of a cancel lists; the others are counted.
pub const STOPPED_LISTED_MAX: usize = 1_024;

/// Largest number of rows or columns of a terminal; the smallest is 1. Others: `E_INVALID_PARAMS`.
pub const TERMINAL_EXTENT_MAX: u16 = 65_534;
/// How long a fifo waits to be opened unless it is told otherwise, milliseconds.
pub const FIFO_WAIT_MS: u32 = 60_000;
/// And at most.
pub const FIFO_WAIT_MS_MAX: u32 = 3_600_000;

/// Offsets and sequence numbers stay below this, so that they survive as a float64.
pub const EXACT_INTEGER_END: u64 = 1 << 53;

const _: () = {
    assert!(CHUNK_V1_BYTES_MAX <= u16::MAX as usize);
    assert!(CHUNK_V1_BYTES_MAX < CHUNK_BYTES_MAX);
    // A chunk and its prelude fit a frame, and a whole stdin write can be parked.
    assert!(CHUNK_BYTES_MAX + 4096 <= FRAME_BYTES_MAX);
    assert!(STDIN_PARKED_BYTES_MAX >= FRAME_BYTES_MAX);
    assert!(FRAME_BYTES_MAX <= u32::MAX as usize);
    assert!(ELEMENTS_MAX <= FRAME_BYTES_MAX);
    assert!(ARGUMENTS_BYTES_MAX < FRAME_BYTES_MAX);
};

/// One limit, for introspection.
#[derive(Clone, Copy, Debug)]
pub struct LimitRow {
    /// Its name on the wire.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What the value counts.
    pub unit: &'static str,
    /// What happens past it.
    pub past: &'static str,
}

/// All of them.
pub const LIMITS: &[LimitRow] = &[
    row("frameBytesMax", FRAME_BYTES_MAX, "bytes", "the connection is closed at the header"),
    row("depthMax", DEPTH_MAX, "levels", "E_TOO_LARGE"),
    row("elementsMax", ELEMENTS_MAX, "values", "E_TOO_LARGE"),
    row("callsInFlightMax", CALLS_IN_FLIGHT_MAX, "calls of a connection", "E_TOO_MANY_CALLS"),
    row("callIdBytesMax", CALL_ID_BYTES_MAX, "bytes of a call's id", "E_TOO_LARGE, if the call has to wait"),
    row("metaBytesMax", META_BYTES_MAX, "bytes of text in meta", "E_TOO_LARGE"),
    row("chunkV1BytesMax", CHUNK_V1_BYTES_MAX, "bytes of data", "never sent without the feature `chunks`"),
    row("chunkBytesMax", CHUNK_BYTES_MAX, "bytes of data", "a larger wish is granted this much"),
    row("stdinParkedBytesMax", STDIN_PARKED_BYTES_MAX, "bytes of a connection", "E_WOULD_BLOCK"),
    row("waitingSubscriptionsMax", WAITING_SUBSCRIPTIONS_MAX, "subscriptions of a connection", "E_BUSY"),
    row("waitingSubscriptionMs", WAITING_SUBSCRIPTION_MS as usize, "milliseconds", "the subscription ends"),
    row("argumentsBytesMax", ARGUMENTS_BYTES_MAX, "bytes of argv and environment", "E_TOO_LARGE"),
    row("processIdBytesMax", PROCESS_ID_BYTES_MAX, "bytes", "E_INVALID_PARAMS"),
    row("bufferBytesMax", BUFFER_BYTES_MAX, "bytes", "a larger wish is granted this much"),
    row("topicBytesMax", TOPIC_BYTES_MAX, "bytes of an event's type", "E_INVALID_PARAMS"),
    row("eventDataBytesMax", EVENT_DATA_BYTES_MAX, "bytes of an event's data", "E_TOO_LARGE"),
    row("eventsInBatchMax", EVENTS_IN_BATCH_MAX, "events of a call", "E_TOO_LARGE"),
    row("replayEventsMax", REPLAY_EVENTS_MAX, "events of a page", "a larger wish is granted this much"),
    row("intentNameBytesMax", INTENT_NAME_BYTES_MAX, "bytes of an intent's name", "E_INVALID_PARAMS"),
    row("intentTextBytesMax", INTENT_TEXT_BYTES_MAX, "bytes of a text of an intent", "E_TOO_LARGE"),
    row("intentDataBytesMax", INTENT_DATA_BYTES_MAX, "bytes of a context or result", "E_TOO_LARGE"),
    row("intentsOpenMax", INTENTS_OPEN_MAX, "intents of a user that are not over", "E_BUSY"),
    row("intentDepthMax", INTENT_DEPTH_MAX, "intents within intents", "E_CONFLICT"),
    row("intentRegistrationsMax", INTENT_REGISTRATIONS_MAX, "clients of an intent", "E_BUSY"),
    row(
        "intentGraceMsMax",
        INTENT_GRACE_MS_MAX as usize,
        "milliseconds",
        "a longer wish is granted this much",
    ),
    row("intentsListedMax", INTENTS_LISTED_MAX, "intents of a page", "a larger wish is granted this much"),
    row("stoppedListedMax", STOPPED_LISTED_MAX, "things in a receipt", "the others are counted"),
    row("terminalExtentMax", TERMINAL_EXTENT_MAX as usize, "rows or columns", "E_INVALID_PARAMS"),
    row("fifoWaitMsMax", FIFO_WAIT_MS_MAX as usize, "milliseconds", "E_INVALID_PARAMS"),
];

const fn row(name: &'static str, value: usize, unit: &'static str, past: &'static str) -> LimitRow {
    LimitRow { name, value: value as u64, unit, past }
}
