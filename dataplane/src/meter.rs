//! Numbers a reactor keeps and anybody may read: how the status of a stream is told without asking its reactor.
//!
//! Every field has one writer, the home reactor of the process. Readers see each number whole, but not all
//! numbers of one instant.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Stores. Only the owning reactor calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    /// Adds. Only the owning reactor calls this, so it needs no read-modify-write.
    pub fn add(&self, value: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + value, Ordering::Relaxed);
    }
    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A wait, whose length is added up when it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wait(Option<u64>);

impl Wait {
    /// When it began, if there is one.
    pub fn since_ns(self) -> Option<u64> {
        self.0
    }

    /// From `now_ns` on there is one, or there isn't; told what it is told already, nothing happens.
    pub fn set(&mut self, waits: bool, now_ns: u64, total_ns: &Gauge) {
        match (waits, self.0) {
            (true, None) => self.0 = Some(now_ns),
            (false, Some(since_ns)) => {
                total_ns.add(now_ns.saturating_sub(since_ns));
                self.0 = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}

/// One output stream.
#[derive(Debug, Default)]
pub struct StreamMeter {
    /// Bytes taken from the child since birth.
    pub taken_bytes: Gauge,
    /// Bytes that history no longer holds.
    pub cut_bytes: Gauge,
    /// Offset of the first of them.
    pub cut_from: Gauge,
    /// Bytes of the beginning that are kept.
    pub head_bytes: AtomicU32,
    /// Bytes of the end that are kept.
    pub tail_bytes: AtomicU32,
    /// Memory its history has touched, bytes.
    pub held_bytes: Gauge,
    /// Size of the child's pipe in force, bytes; 0 for a PTY.
    pub pipe_bytes: AtomicU32,
    /// True exactly while the source waits for a reader.
    pub paused: AtomicBool,
    /// Time it has waited so, nanoseconds, without the current wait.
    pub paused_ns: Gauge,
    /// True exactly while the source waits for its rate.
    pub throttled: AtomicBool,
    /// Time it has waited so, nanoseconds, without the current wait.
    pub throttled_ns: Gauge,
    /// Time its source was empty, nanoseconds, without the current wait.
    pub idle_ns: Gauge,
    /// True exactly when the stream has ended.
    pub closed: AtomicBool,
    /// What of it is on disk.
    pub spool: SpoolMeter,
}

/// The spool of a stream; all 0 where there is none.
#[derive(Debug, Default)]
pub struct SpoolMeter {
    /// First offset on disk.
    pub oldest: Gauge,
    /// Bytes before this offset are on disk, unless they were cut.
    pub end: Gauge,
    /// Of all its files.
    pub bytes: Gauge,
    /// Its files.
    pub segments: AtomicU32,
    /// Why nothing is written just now, 0 while it is: an errno.
    pub errno: AtomicI32,
}

/// A process.
#[derive(Debug, Default)]
pub struct ProcessMeter {
    /// By `Channel as usize`.
    pub streams: [StreamMeter; 2],
    /// Bytes that went into stdin.
    pub stdin_bytes: Gauge,
    /// Bytes parked for stdin.
    pub stdin_parked_bytes: Gauge,
    /// Time something has waited to go into stdin, nanoseconds, without the current wait.
    pub stdin_parked_ns: Gauge,
    /// Size of stdin's pipe in force, bytes; 0 for a PTY or none.
    pub stdin_pipe_bytes: AtomicU32,
    /// True exactly when stdin is closed.
    pub stdin_closed: AtomicBool,
}

/// A reader.
#[derive(Debug, Default)]
pub struct ReaderMeter {
    /// Next offset to deliver, by `Channel as usize`.
    pub offset: [Gauge; 2],
    /// Bytes it missed.
    pub gap_bytes: Gauge,
    /// Frames sent.
    pub sequence: Gauge,
    /// Why its descriptor took no more, 0 if it did or nobody was left to read it: an errno.
    pub errno: AtomicI32,
    /// True exactly while its sink takes no more.
    pub stalled: AtomicBool,
    /// Time it has taken no more, nanoseconds, without the current wait.
    pub stalled_ns: Gauge,
    /// True exactly while it waits for its rate.
    pub throttled: AtomicBool,
    /// Time it has waited so, nanoseconds, without the current wait.
    pub throttled_ns: Gauge,
}
