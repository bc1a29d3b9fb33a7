//! Time as an argument: deadlines on the monotonic clock, dates on the wall clock.
//!
//! Nothing here, or anywhere in this crate, asks what time it is: a [`Moment`] comes with every call. Deadlines
//! saturate instead of wrapping, so a client's absurd number is only very far away.

use kairo_dataplane::control::Moment;

/// Nanoseconds in a millisecond.
pub(crate) const MS: u64 = 1_000_000;

/// `delay_ms` milliseconds after `at`, on the monotonic clock, nanoseconds.
pub(crate) fn after_ms(at: Moment, delay_ms: u64) -> u64 {
    at.monotonic_ns.saturating_add(delay_ms.saturating_mul(MS))
}

/// Milliseconds from `from` to `to`; 0 if it was the other way round.
pub(crate) fn between_ms(from: Moment, to: Moment) -> u64 {
    to.monotonic_ns.saturating_sub(from.monotonic_ns) / MS
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms(at: Moment) -> u64 {
    at.wall_ns / MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_never_wraps() {
        let at = Moment { monotonic_ns: 5, wall_ns: 0 };
        assert_eq!(after_ms(at, 2), 2 * MS + 5);
        assert_eq!(after_ms(at, u64::MAX), u64::MAX);
    }

    #[test]
    fn a_clock_that_went_back_makes_no_duration() {
        let (early, late) =
            (Moment { monotonic_ns: MS, wall_ns: 0 }, Moment { monotonic_ns: 4 * MS, wall_ns: 0 });
        assert_eq!(between_ms(early, late), 3);
        assert_eq!(between_ms(late, early), 0);
    }
}
