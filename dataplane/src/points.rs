//! Named points at which a test has the kernel die: the instants between two steps that an account must survive.
//!
//! `kairo serve --die-at NAME[:N]` arms one; reaching it for the Nth time is a SIGKILL to oneself, so nothing is
//! flushed, closed or told. Unarmed, a point costs one relaxed load. Invariant: at most one is armed, and only before
//! the reactors start.

use std::str::FromStr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Where a kernel can be made to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Point {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Point {
            /// All, in the order a process meets them.
            pub const ALL: &[Point] = &[$(Point::$variant,)+];

            /// What `--die-at` calls it.
            pub fn name(self) -> &'static str {
                match self { $(Point::$variant => $name,)+ }
            }
        }
    };
}

points! {
    /// A spawn is on its way to the keeper.
    SpawnSent = "spawn.sent",
    /// The keeper's word that the child runs has come, and nobody was told yet.
    SpawnHeard = "spawn.heard",
    /// The keeper holds what a client is to write by, who hasn't been told.
    ProducerHeld = "producer.held",
    /// The page names the stream that is taken next.
    TakeNamed = "take.named",
    /// Bytes are in the staging pipe, and nobody has noted how many.
    TakeSpliced = "take.spliced",
    /// E is noted.
    TakeExpected = "take.expected",
    /// The bytes are in the ring.
    TakeRead = "take.read",
    /// T is noted, nobody has the bytes yet.
    TakeCommitted = "take.committed",
    /// A chunk is in a client's socket.
    ChunkSent = "chunk.sent",
    /// What leaves next in frames by an outlet is noted, and nothing of it has left.
    FrameNoted = "frame.noted",
    /// Its payload is about to be taken out of a relayed source, which is noted, and is there still.
    FrameMoving = "frame.moving",
    /// Some of it has left, and the rest of a dropping reader's was moved out of the ring.
    FrameKept = "frame.kept",
    /// A write is in the inbox, unanswered.
    InputAppended = "input.appended",
    /// Bytes of it are in the staging pipe, and nobody has noted how many.
    InputStaged = "input.staged",
    /// E is noted.
    InputExpected = "input.expected",
    /// Some are in the child's pipe.
    InputSpliced = "input.spliced",
    /// T is noted, the call unanswered.
    InputSettled = "input.settled",
    /// The keeper holds a fifo that a stdin is written by, and nobody was told of it.
    InletHeld = "inlet.held",
    /// Bytes of it are in the staging pipe, and nobody has noted how many.
    InletSpliced = "inlet.spliced",
    /// C is noted.
    InletExpected = "inlet.expected",
    /// They are in the inbox.
    InletRead = "inlet.read",
    /// A is noted.
    InletAdmitted = "inlet.admitted",
    /// Its writers are gone, and nothing has come of that.
    InletEnded = "inlet.ended",
    /// Its stdin is to be closed, and the keeper still has it.
    InletClosed = "inlet.closed",
    /// A ring was replaced by a larger or smaller one.
    RingReplaced = "ring.replaced",
    /// The leader's exit was heard and its leftovers taken.
    ExitHeard = "exit.heard",
    /// The exit was told, the keeper not yet.
    ExitTold = "exit.told",
    /// A stream's end was heard.
    StreamClosed = "stream.closed",
    /// The keeper was told that what a client wrote is over, and nobody else.
    ProducerEnded = "producer.ended",
    /// What is to be kept was handed over, and nothing of it is written.
    LogTaken = "log.taken",
    /// It is written, and nobody was told.
    LogWritten = "log.written",
    /// The disk has it, and nobody was told.
    LogFlushed = "log.flushed",
    /// Some of what is old is gone from the log, and nobody was told.
    LogDropped = "log.dropped",
    /// A signal is on its way to the keeper.
    SignalSent = "signal.sent",
    /// A segment of a spool has its header and no byte yet.
    SpoolBegun = "spool.begun",
    /// Bytes are in a segment, and nobody was told.
    SpoolWritten = "spool.written",
    /// The oldest segment is gone, and nobody was told.
    SpoolCut = "spool.cut",
    /// A successor has been told of everything.
    AdoptReceived = "adopt.received",
    /// It has made a new ring that nobody holds.
    AdoptRingMade = "adopt.ring_made",
    /// The keeper holds the new ring.
    AdoptRingHeld = "adopt.ring_held",
    /// What the dead kernel had staged is in the new ring.
    AdoptDrained = "adopt.drained",
    /// What was on its way into an inbox is read, and not noted.
    AdoptInboxRead = "adopt.inbox_read",
    /// All is settled, the keeper has no new kernel yet.
    AdoptSettled = "adopt.settled",
    /// The keeper has its new kernel, whose reactors have not started.
    AdoptTaken = "adopt.taken",
    /// The reactors run and nobody was let in yet.
    AdoptServed = "adopt.served",
}

impl FromStr for Point {
    type Err = String;
    fn from_str(text: &str) -> Result<Point, String> {
        let known = || Point::ALL.iter().map(|point| point.name()).collect::<Vec<_>>().join(", ");
        let found = Point::ALL.iter().copied().find(|point| point.name() == text);
        found.ok_or_else(|| format!("there is no point {text:?}; there are {}", known()))
    }
}

/// 0, or one more than the armed point's number.
static ARMED: AtomicU8 = AtomicU8::new(0);
/// How often it is still passed.
static LEFT: AtomicU64 = AtomicU64::new(0);

/// Has this process die when `point` is reached for the `nth` time, counted from 1.
pub fn arm(point: Point, nth: u64) {
    LEFT.store(nth.max(1), Ordering::Relaxed);
    ARMED.store(point as u8 + 1, Ordering::Release);
}

/// This is the point.
#[inline]
pub fn reach(point: Point) {
    if ARMED.load(Ordering::Relaxed) == point as u8 + 1 && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        // Nothing after this line happens: a process can't hold off its own SIGKILL.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_found_by_its_name_and_nothing_else_is() {
        for point in Point::ALL {
            assert_eq!(point.name().parse::<Point>(), Ok(*point));
        }
        assert!("take".parse::<Point>().unwrap_err().contains("take.spliced"));
    }
}
