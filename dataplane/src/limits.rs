//! How much of everything, what for, and how the numbers relate. `docs/LIMITS.md` says what happens past each.

use kairo_wire::limits::CHUNK_BYTES_MAX;

/// History kept from the beginning of a stream, bytes.
pub const HISTORY_HEAD_BYTES: u32 = 64 << 10;
/// History kept from the end of a stream, bytes.
pub const HISTORY_TAIL_BYTES: u32 = 256 << 10;
/// Largest head or tail a caller may ask for, bytes.
pub const HISTORY_BYTES_MAX: u32 = 16 << 20;
/// One batch: the most that is taken from a source at once, bytes. A ring holds its tail and one batch.
pub const TAKE_BYTES_MAX: usize = 256 << 10;
/// A source that waits for a slow reader goes on when it can take at least this much, bytes.
pub const RESUME_BYTES_MIN: usize = 64 << 10;
/// Bytes one source or one reader may move before others have their turn.
pub const TURN_BYTES_MAX: usize = 1 << 20;
/// Tail of a ring that other processes map, unless they ask for another or memory is tight, bytes: a reader works on one
/// half while the other is written.
pub const SHARED_TAIL_BYTES: u32 = 1 << 20;
/// Tail of a ring that a client writes, unless it asks for another, bytes: nothing but its producer and its readers touches
/// the bytes, and each half is heard of once.
pub const LENT_TAIL_BYTES: u32 = 4 << 20;
/// Retained history of ended streams, all of a kernel together, bytes.
pub const RETAINED_BYTES_MAX: usize = 256 << 20;

/// Histories of all streams, living and ended, all of a kernel together, bytes.
pub const HISTORY_MEMORY_BYTES_MAX: u64 = 1 << 30;
/// What a living stream is left with, however tight it is, bytes: head, tail and one small batch.
pub const HISTORY_SHARE_BYTES_MIN: u64 = 64 << 10;
/// The least tail of a stream that has to give, bytes.
pub const SQUEEZED_TAIL_BYTES_MIN: u32 = 64 << 10;
/// One batch of a stream that has given, bytes.
pub const SQUEEZED_BATCH_BYTES: usize = 64 << 10;

/// A stream that waits for a reader for longer than this has stalled, nanoseconds.
pub const STALL_NS: u64 = 1_000_000_000;
/// Time between two events of one kind about one stream, nanoseconds.
pub const TELL_INTERVAL_NS: u64 = 1_000_000_000;

/// Most data of one record of a spool, bytes; also the most a reader is brought from disk at once.
pub const SPOOL_RECORD_BYTES_MAX: usize = 256 << 10;
/// Size at which a segment of a spool is full, bytes.
pub const SPOOL_SEGMENT_BYTES: u64 = 64 << 20;
/// Smallest segment that may be asked for, bytes.
pub const SPOOL_SEGMENT_BYTES_MIN: u64 = 512 << 10;
/// Largest segment that may be asked for, bytes: one is walked by its headers to find an offset in it.
pub const SPOOL_SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// All spools of a daemon together, bytes.
pub const SPOOL_QUOTA_BYTES: u64 = 16 << 30;
/// So many bytes are worth a write; fewer wait for more, or for [`SPOOL_WAIT_NS`].
pub const SPOOL_BATCH_BYTES: u64 = 128 << 10;
/// How long bytes may wait to be written, nanoseconds.
pub const SPOOL_WAIT_NS: u64 = 50_000_000;
/// After a failure a spool is tried again after this, then after twice as long each time, nanoseconds.
pub const SPOOL_RETRY_NS: u64 = 500_000_000;
/// But at least this often, nanoseconds.
pub const SPOOL_RETRY_NS_MAX: u64 = 60_000_000_000;

/// Size of a child's pipe, bytes.
pub const PIPE_BYTES: u32 = 256 << 10;

/// What waits for a stdin is kept in so much shared memory at first, bytes; it grows with what is written at once.
pub const INBOX_BYTES: usize = 64 << 10;
/// Past this it is given back once the child has everything, bytes.
pub const INBOX_BYTES_KEPT: usize = 1 << 20;
/// The pipe through which bytes go into children and outlets, bytes.
pub const INPUT_STAGING_BYTES: usize = 512 << 10;

/// Most data of one frame of a reader by chunks whose socket outlives its kernel, bytes: it goes through that pipe at once.
pub const HELD_CHUNK_BYTES_MAX: usize = INPUT_STAGING_BYTES - (4 << 10);
/// What of a frame is noted for a next kernel with its bytes, at most: a chunk, or a batch of lines.
pub const PARCEL_BYTES_MAX: usize = CHUNK_BYTES_MAX + (8 << 10);

/// Raw readers of one relayed stream up to which each is exact after a kill; of more, one may be in doubt: the steps that make it
/// exact cost each of them a splice.
pub const EXACT_READERS_MAX: usize = 4;
/// Longest line, terminator included, that is delivered as one, bytes.
pub const LINE_BYTES_MAX: usize = 65_535;
/// Frames on their way to another reactor, per subscription, bytes.
pub const REMOTE_WINDOW_BYTES: usize = 1 << 20;

/// Send buffer asked for where a stream is relayed or read in large chunks, bytes: a few batches may be under way.
pub const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Replies queued for a connection before it isn't read any more, bytes.
pub const OUTFLOW_PAUSE_BYTES: usize = 1 << 20;
/// Replies and events queued for a connection before it is cut, bytes.
pub const OUTFLOW_CUT_BYTES: usize = 32 << 20;
/// Fewer bytes of events than this that have gone out are not told: it would only make work.
pub const NEWS_TOLD_BYTES_MIN: usize = 32 << 10;
/// A frame that has begun must be whole after this, nanoseconds.
pub const FRAME_PATIENCE_NS: u64 = 60_000_000_000;
/// A connection that is being closed may still drain for this long, nanoseconds.
pub const CLOSE_PATIENCE_NS: u64 = 5_000_000_000;

/// Ended streams whose output outlives the kernel, all of a kernel together: each is a descriptor of the keeper.
pub const HELD_ENDED_MAX: usize = 512;
/// Readers that a dead kernel's streams waited for are waited for so long, nanoseconds.
pub const RECONNECT_GRACE_NS: u64 = 10_000_000_000;

/// Connections a kernel serves at once.
pub const CONNECTIONS_MAX: usize = 12_000;

const _: () = {
    assert!(HISTORY_TAIL_BYTES as usize + TAKE_BYTES_MAX <= 512 << 10, "tail and one batch make the ring");
    assert!(RESUME_BYTES_MIN <= TAKE_BYTES_MAX, "a paused source must be able to go on");
    assert!(
        SQUEEZED_TAIL_BYTES_MIN as usize + SQUEEZED_BATCH_BYTES >= LINE_BYTES_MAX + RESUME_BYTES_MIN,
        "a line in waiting leaves room to go on, even where memory is tight"
    );
    assert!(INPUT_STAGING_BYTES <= INBOX_BYTES_KEPT, "an input that is fed keeps its inbox for good");
    assert!(LINE_BYTES_MAX < TAKE_BYTES_MAX, "a line in waiting must leave room for its end");
    assert!(SPOOL_RECORD_BYTES_MAX >= TAKE_BYTES_MAX, "a batch is one record");
    assert!(
        LINE_BYTES_MAX < SPOOL_RECORD_BYTES_MAX,
        "a piece from disk has a whole line, or a whole piece of one"
    );
    assert!(SPOOL_BATCH_BYTES as usize <= TAKE_BYTES_MAX, "a full ring has a batch to write");
    assert!(OUTFLOW_PAUSE_BYTES < OUTFLOW_CUT_BYTES, "reading stops before the peer is cut");
    assert!(crate::driver::token::Token::SLOT_MAX as usize > CONNECTIONS_MAX, "every connection has a token");
};
