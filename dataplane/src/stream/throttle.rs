//! A token bucket: how many bytes may go now, and when the next worthwhile amount may.
//!
//! ```text
//!          rate bytes/s
//!             │
//!       ┌─────▼─────┐ burst
//!       │   level   │──▶ spend(bytes)          (below zero only for what could not wait)
//!       └───────────┘
//! ```
//!
//! Time is an argument. The level is counted in billionths of a byte, which is what flows in during a nanosecond at
//! one byte a second, so nothing is rounded and nothing drifts. Invariant: over any time w, bytes that were asked for
//! with [`TokenBucket::available`] before they were spent are at most burst + rate × w.

use crate::command::Rate;

/// Billionths of a byte.
const BYTE: i128 = 1_000_000_000;
/// Longest time between two wake-ups of somebody with enough to move, as a part of a second.
const WAKEUPS_PER_SECOND: u64 = 100;
/// The least worth a wake-up, bytes, unless the burst is smaller.
const WORTHWHILE_BYTES_MIN: u64 = 4 << 10;
/// The most anybody waits for at once, bytes: one batch.
const WORTHWHILE_BYTES_MAX: u64 = crate::limits::TAKE_BYTES_MAX as u64;

/// What one stream or one reader may move.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    rate: Rate,
    level: i128,
    at_ns: u64,
}

impl TokenBucket {
    /// A bucket that holds one worthwhile amount: whoever begins doesn't begin with a burst. A rate of 0 is one byte a
    /// second, for a bucket can't be dry for ever.
    pub fn new(rate: Rate, now_ns: u64) -> TokenBucket {
        let mut bucket = TokenBucket { rate: sound(rate), level: 0, at_ns: now_ns };
        bucket.level = i128::from(bucket.worthwhile_bytes()) * BYTE;
        bucket
    }

    /// The rate in force.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Another rate from now on. What has come in at the old one stays, as far as the new burst holds it.
    pub fn change(&mut self, rate: Rate, now_ns: u64) {
        self.refill(now_ns);
        self.rate = sound(rate);
        self.level = self.level.min(i128::from(self.rate.burst_bytes) * BYTE);
    }

    fn refill(&mut self, now_ns: u64) {
        // A clock that went back, or a call that comes late, gives nothing.
        let since_ns = now_ns.saturating_sub(self.at_ns);
        self.at_ns = self.at_ns.max(now_ns);
        let full = i128::from(self.rate.burst_bytes) * BYTE;
        let in_flow = i128::from(since_ns) * i128::from(self.rate.bytes_per_second);
        self.level = (self.level + in_flow).min(full);
    }

    /// Bytes that may go now.
    pub fn available(&mut self, now_ns: u64) -> u64 {
        self.refill(now_ns);
        // At most the burst, which is a u64.
        (self.level.max(0) / BYTE) as u64
    }

    /// Notes that bytes went. More than were there is a debt that is paid before anything else goes.
    pub fn spend(&mut self, bytes: u64) {
        self.level -= i128::from(bytes) * BYTE;
    }

    /// How much to wait for: enough that waking up is worth it, and no more than the bucket holds with room for a
    /// wake-up that comes late.
    pub fn worthwhile_bytes(&self) -> u64 {
        let tick_bytes = self.rate.bytes_per_second / WAKEUPS_PER_SECOND;
        let wanted = tick_bytes.clamp(WORTHWHILE_BYTES_MIN, WORTHWHILE_BYTES_MAX);
        wanted.min(self.rate.burst_bytes.div_ceil(2))
    }

    /// When `bytes` may go, if nothing goes before; of more than the burst, when the bucket is full.
    pub fn ready_ns(&self, bytes: u64) -> u64 {
        let missing = i128::from(bytes.min(self.rate.burst_bytes)) * BYTE - self.level;
        if missing <= 0 {
            return self.at_ns;
        }
        let rate = i128::from(self.rate.bytes_per_second);
        let wait_ns = (missing + rate - 1) / rate;
        self.at_ns.saturating_add(u64::try_from(wait_ns).unwrap_or(u64::MAX))
    }
}

fn sound(rate: Rate) -> Rate {
    Rate { bytes_per_second: rate.bytes_per_second.max(1), burst_bytes: rate.burst_bytes.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// xorshift64*: a seed is a history.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end.max(1)
        }
    }

    fn rate(bytes_per_second: u64, burst_bytes: u64) -> Rate {
        Rate { bytes_per_second, burst_bytes }
    }

    /// Takes whatever may go, whenever it is ready or a little late; returns (when, how much).
    fn flood(
        bucket: &mut TokenBucket,
        until_ns: u64,
        late_ns: impl Fn(&mut Random) -> u64,
    ) -> Vec<(u64, u64)> {
        let (mut now_ns, mut went, mut random) = (0, Vec::new(), Random(7));
        while now_ns < until_ns {
            let bytes = bucket.available(now_ns);
            if bytes > 0 {
                bucket.spend(bytes);
                went.push((now_ns, bytes));
            }
            now_ns = bucket.ready_ns(bucket.worthwhile_bytes()).max(now_ns + 1) + late_ns(&mut random);
        }
        went
    }

    #[test]
    fn no_window_of_any_history_has_more_than_a_burst_and_its_share() {
        for seed in 1..200 {
            let mut random = Random(seed * 0x9e37_79b9);
            let given = rate(1 + random.below(50_000_000), 1 + random.below(4 << 20));
            let mut bucket = TokenBucket::new(given, 0);
            let (mut now_ns, mut went) = (0, Vec::new());
            for _ in 0..120 {
                now_ns += random.below(200_000_000);
                let bytes = bucket.available(now_ns).min(random.below(2 << 20));
                bucket.spend(bytes);
                went.push((now_ns, bytes));
            }
            for first in 0..went.len() {
                let mut bytes = 0;
                for (at_ns, more) in &went[first..] {
                    bytes += u128::from(*more);
                    let window_ns = u128::from(at_ns - went[first].0);
                    let share = u128::from(given.bytes_per_second) * window_ns / u128::from(SECOND);
                    assert!(bytes <= u128::from(given.burst_bytes) + share, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn a_flood_gets_its_rate_to_a_percent_over_ten_seconds_though_every_wakeup_is_late() {
        for bytes_per_second in [1_000, 50_000, 1_000_000, 20 << 20, 1 << 30] {
            let mut bucket = TokenBucket::new(Rate::of(bytes_per_second), 0);
            let went = flood(&mut bucket, 10 * SECOND, |random| random.below(20_000_000));
            let bytes: u64 = went.iter().map(|(_, bytes)| bytes).sum();
            let wanted = bytes_per_second * 10;
            let slack = wanted / 100 + Rate::BURST_BYTES_MIN;
            assert!(bytes.abs_diff(wanted) <= slack, "{bytes} instead of {wanted}");
        }
    }

    #[test]
    fn a_thousand_years_of_nanoseconds_lose_nothing_to_rounding() {
        let mut bucket = TokenBucket::new(rate(3, 1 << 40), 0);
        let start = bucket.available(0);
        bucket.spend(start);
        let mut bytes = 0;
        for step in 1..=30_000_000 {
            let now = bucket.available(step * 7);
            bucket.spend(now);
            bytes += now;
        }
        assert_eq!(bytes, 3 * 210_000_000 / SECOND, "210 ms at 3 bytes/s");
        assert_eq!(bucket.ready_ns(1), SECOND.div_ceil(3));
    }

    #[test]
    fn waking_up_is_worth_it_and_happens_a_hundred_times_a_second_at_most() {
        let mut bucket = TokenBucket::new(Rate::of(20 << 20), 0);
        let went = flood(&mut bucket, 10 * SECOND, |_| 0);
        assert!(went.len() <= 1_001, "{} wake-ups", went.len());
        let mut slow = TokenBucket::new(Rate::of(10_000), 0);
        assert!(flood(&mut slow, 10 * SECOND, |_| 0).len() <= 60);
    }

    #[test]
    fn what_could_not_wait_is_paid_back_first() {
        let mut bucket = TokenBucket::new(rate(1_000, 500), 0);
        bucket.spend(bucket.worthwhile_bytes() + 2_000);
        assert_eq!(bucket.available(SECOND), 0);
        assert_eq!(bucket.ready_ns(100), 2 * SECOND + SECOND / 10);
        assert_eq!(bucket.available(2 * SECOND + SECOND / 10), 100);
    }

    #[test]
    fn a_changed_rate_counts_from_now_and_keeps_no_larger_burst() {
        let mut bucket = TokenBucket::new(rate(1_000, 10_000), 0);
        assert_eq!(bucket.available(100 * SECOND), 10_000);
        bucket.change(rate(10, 100), 100 * SECOND);
        assert_eq!(bucket.available(100 * SECOND), 100);
        bucket.spend(100);
        assert_eq!(bucket.ready_ns(10), 101 * SECOND);
        assert_eq!(bucket.available(0), 0, "a clock that went back gives nothing");
    }
}
