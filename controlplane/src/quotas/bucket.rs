//! How often something may happen, and how often it has in this second.
//!
//! The bucket is one number, the moment at which what was taken has been paid for (the generic cell rate algorithm); it
//! holds what comes in a second. Time is an argument. Invariant: over any time longer than a second no more is taken than
//! comes in it and one second more, but for a single wish that is larger than the bucket: that one waits for a full bucket,
//! takes it and more, and whoever comes next waits for what is owed.

/// A second, nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// A bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    paid_ns: u64,
}

impl Bucket {
    /// How long until `count` may be taken; none if that is now.
    pub(crate) fn wait_ns(&self, rate: u64, count: u64, now_ns: u64) -> Option<u64> {
        let owed = self.paid_ns.saturating_sub(now_ns);
        let after = owed.saturating_add(cost_ns(rate, count).min(SECOND));
        (after > SECOND).then(|| after - SECOND)
    }

    /// Takes so many, whether they are there or not.
    pub(crate) fn take(&mut self, rate: u64, count: u64, now_ns: u64) {
        self.paid_ns = self.paid_ns.max(now_ns).saturating_add(cost_ns(rate, count));
    }
}

fn cost_ns(rate: u64, count: u64) -> u64 {
    count.saturating_mul(SECOND) / rate.max(1)
}

/// What has happened in the second that is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Second {
    number: u64,
    count: u64,
}

impl Second {
    /// So many more. Returns how many there are in this second.
    pub(crate) fn add(&mut self, count: u64, now_ns: u64) -> u64 {
        self.count = self.so_far(now_ns) + count;
        self.number = now_ns / SECOND;
        self.count
    }

    /// How many there have been in this second.
    pub(crate) fn so_far(&self, now_ns: u64) -> u64 {
        if self.number == now_ns / SECOND { self.count } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_there_at_once_and_what_comes_later_comes_evenly() {
        let mut bucket = Bucket::default();
        let mut now_ns = 77;
        for _ in 0..100 {
            assert_eq!(bucket.wait_ns(100, 1, now_ns), None);
            bucket.take(100, 1, now_ns);
        }
        assert_eq!(bucket.wait_ns(100, 1, now_ns), Some(SECOND / 100));
        now_ns += SECOND / 100 - 1;
        assert_eq!(bucket.wait_ns(100, 1, now_ns), Some(1));
        assert_eq!(bucket.wait_ns(100, 1, now_ns + 1), None);
        assert_eq!(bucket.wait_ns(100, 2, now_ns + 1), Some(SECOND / 100));
    }

    #[test]
    fn whatever_is_asked_for_no_more_than_the_rate_and_a_second_is_taken() {
        for (rate, most) in [(1, 1), (7, 3), (1_000, 10), (33, 40)] {
            let (mut bucket, mut taken, mut seed) = (Bucket::default(), 0, rate);
            for step in 0..100_000_u64 {
                seed = (seed ^ step).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (now_ns, count) = (step * (SECOND / 5_000), 1 + (seed >> 33) % most);
                if bucket.wait_ns(rate, count, now_ns).is_none() {
                    bucket.take(rate, count, now_ns);
                    taken += count;
                }
            }
            let (seconds, over) = (100_000 / 5_000, most.saturating_sub(rate));
            assert!(taken <= rate * (seconds + 1) + over, "{rate}: {taken}");
            assert!(taken + most >= rate * seconds, "{rate}: {taken}");
        }
    }

    #[test]
    fn more_than_the_bucket_holds_waits_for_a_full_one_and_is_owed_for() {
        let mut bucket = Bucket::default();
        bucket.take(10, 1, 0);
        assert_eq!(bucket.wait_ns(10, 50, 0), Some(SECOND / 10));
        assert_eq!(bucket.wait_ns(10, 50, SECOND / 10), None);
        bucket.take(10, 50, SECOND / 10);
        assert_eq!(bucket.wait_ns(10, 1, SECOND / 10), Some(4 * SECOND + SECOND / 10));
    }

    #[test]
    fn a_second_counts_itself_alone() {
        let mut second = Second::default();
        assert_eq!((second.add(2, 5), second.add(3, SECOND - 1)), (2, 5));
        assert_eq!((second.so_far(SECOND), second.add(1, SECOND)), (0, 1));
    }
}
