//! Whether so many streams have something every moment that a reactor does better to wait a little and take of many at once.
//!
//! Going to sleep and being woken costs more than moving a write does, for a reactor that is quicker than all who write
//! together is woken by each of them. And a call for each write costs more than the bytes of several: in a crowd, a source of
//! small writes is visited from time to time instead of being polled. Invariants: only streams that had paused count, so one that floods, or is answered
//! write by write, is never made to wait here; and nobody who calls meanwhile is.

/// So long is looked at at once, nanoseconds.
const WINDOW_NS: u64 = 2_000_000;
/// So many that had paused within a window are a crowd.
const CROWD: u32 = 16;
/// How long a reactor waits for more of them, nanoseconds.
pub(super) const LINGER_NS: u64 = 100_000;

/// How long a source of small writes is left alone in a crowd, nanoseconds.
const REST_NS: u64 = 16_000_000;
/// Rests end at multiples of this, many at once, nanoseconds.
const TICK_NS: u64 = 1_000_000;
/// As much at once is no small write any more, bytes.
const SMALL_BYTES_MAX: usize = 32 << 10;
/// So often a source is polled after a rest that brought nothing, before the next is tried; twice as often after the next.
const POLLS: u8 = 8;
/// But no more often than this.
const POLLS_MAX: u8 = 128;

/// Whether leaving a source alone pays: what has one write each time it is looked at is answered write by write, or slow, and
/// is not kept waiting.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Bytes it had when it was polled last.
    single_bytes: usize,
    rests: bool,
    /// It has rested, and is looked at.
    visited: bool,
    /// So often it is polled before it may rest again.
    polls: u8,
    /// So often it was the last time.
    polled: u8,
}

impl Rest {
    /// True exactly while it is left alone.
    pub(super) fn rests(&self) -> bool {
        self.rests
    }

    /// Its rest is over, if it had one.
    pub(super) fn is_visited(&mut self) -> bool {
        self.visited |= std::mem::take(&mut self.rests);
        self.visited
    }

    /// It has given so many bytes, and has no more. True if it is to be left alone now; only in a crowd it may be.
    pub(super) fn gave(&mut self, bytes: usize, crowd: bool) -> bool {
        if std::mem::take(&mut self.visited) {
            let pays = bytes >= 2 * self.single_bytes;
            self.polled = if pays { 0 } else { self.polled.saturating_mul(2).clamp(POLLS, POLLS_MAX) };
            self.polls = self.polled;
        } else if bytes > 0 {
            self.single_bytes = bytes;
            self.polls = self.polls.saturating_sub(1);
        }
        self.rests = crowd && self.polls == 0 && bytes < SMALL_BYTES_MAX;
        self.rests
    }
}

/// When a rest that begins now is over.
pub(super) fn rested_ns(now_ns: u64) -> u64 {
    (now_ns + REST_NS).next_multiple_of(TICK_NS)
}

#[derive(Debug, Default)]
pub(super) struct Crowd {
    since_ns: u64,
    ready: u32,
    /// Somebody has called within this window.
    called: bool,
    dense: bool,
}

impl Crowd {
    /// A stream has something after a pause.
    pub(super) fn comes(&mut self) {
        self.ready += 1;
    }

    /// A client has sent something, and may wait for the answer.
    pub(super) fn calls(&mut self) {
        self.called = true;
        self.dense = false;
    }

    /// True exactly when it is worth waiting a little.
    pub(super) fn is_dense(&mut self, now_ns: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.since_ns);
        if elapsed_ns >= WINDOW_NS {
            let enough = u64::from(self.ready) * WINDOW_NS >= u64::from(CROWD) * elapsed_ns;
            *self = Crowd { since_ns: now_ns, ready: 0, called: false, dense: enough && !self.called };
        }
        self.dense
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_one_write_each_time_is_polled() {
        let mut rest = Rest::default();
        assert!(!rest.gave(100, false), "there is no crowd");
        assert!(rest.gave(100, true));
        assert!(rest.rests() && rest.is_visited() && !rest.rests());
        assert!(rest.gave(250, true), "two came meanwhile: it goes on");
        assert!(rest.is_visited());
        assert!(!rest.gave(100, true), "one came: it waits for its answer, maybe");
        assert!(!rest.is_visited());
        for polls in [POLLS, 2 * POLLS, 4 * POLLS] {
            let polled = (1..).take_while(|_| !rest.gave(100, true)).count();
            assert_eq!(polled + 1, usize::from(polls));
            assert!(rest.is_visited());
            assert!(!rest.gave(0, true), "none came");
        }
        assert!(!Rest::default().gave(SMALL_BYTES_MAX, true), "no small write");
    }

    fn window(crowd: &mut Crowd, now_ns: &mut u64, ready: u32) -> bool {
        (0..ready).for_each(|_| crowd.comes());
        *now_ns += WINDOW_NS;
        crowd.is_dense(*now_ns)
    }

    #[test]
    fn only_many_within_a_moment_are_a_crowd_and_only_while_nobody_calls() {
        let (mut crowd, mut now_ns) = (Crowd::default(), 0);
        assert!(!window(&mut crowd, &mut now_ns, CROWD - 1));
        assert!(window(&mut crowd, &mut now_ns, CROWD));
        crowd.calls();
        assert!(!crowd.is_dense(now_ns), "whoever calls is answered at once");
        assert!(!window(&mut crowd, &mut now_ns, CROWD), "and again soon");
        assert!(window(&mut crowd, &mut now_ns, CROWD));
        now_ns += WINDOW_NS;
        assert!(!window(&mut crowd, &mut now_ns, CROWD), "the same number in twice the time");
    }
}
