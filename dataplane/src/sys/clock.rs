//! The two clocks. A reactor reads them once a round; everybody else is told the time.

use crate::control::Moment;
use rustix::time::{ClockId, clock_gettime};

/// Both, now.
pub fn now() -> Moment {
    Moment { monotonic_ns: monotonic_ns(), wall_ns: nanoseconds(ClockId::Realtime) }
}

/// CLOCK_MONOTONIC, nanoseconds.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
