//! How long the control plane's lock was held: counts by duration, readable at any time without the lock.
//!
//! Each power of two is cut into eight, so a quantile read from here is at most an eighth too high.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets per power of two.
const CUTS: usize = 8;
/// Powers of two told apart: up to 2^40 ns, 18 minutes.
const POWERS: usize = 40;

/// Durations in nanoseconds, counted.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: (0..CUTS * POWERS).map(|_| AtomicU64::new(0)).collect(), max: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration_ns: u64) {
        self.buckets[bucket(duration_ns)].fetch_add(1, Ordering::Relaxed);
        if duration_ns > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(duration_ns, Ordering::Relaxed);
        }
    }

    /// Durations counted so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// The longest so far, nanoseconds.
    pub fn max_ns(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// A bound that `per_mille` thousandths of the durations don't exceed, nanoseconds; 0 when nothing was counted.
    pub fn quantile_ns(&self, per_mille: u64) -> u64 {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() * per_mille).div_ceil(1_000);
        let mut seen = 0;
        for (nth, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                return upper_bound(nth).min(self.max_ns());
            }
        }
        0
    }
}

/// Below `CUTS` each value has its own; above, the power of two and the three bits behind the leading one.
fn bucket(value: u64) -> usize {
    if value < CUTS as u64 {
        return value as usize;
    }
    let power = 63 - value.leading_zeros() as usize;
    let cut = (value >> (power - 3)) as usize & (CUTS - 1);
    ((power - 2) * CUTS + cut).min(CUTS * POWERS - 1)
}

fn upper_bound(bucket: usize) -> u64 {
    if bucket < CUTS {
        return bucket as u64;
    }
    let (power, cut) = (bucket / CUTS + 2, (bucket % CUTS) as u64);
    (1u64 << power) + ((cut + 1) << (power - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_into_the_bucket_that_bounds_it() {
        for value in (0..100_000).chain((17..40).map(|power| (1u64 << power) + 12_345)) {
            let nth = bucket(value);
            assert!(value <= upper_bound(nth), "{value}");
            assert!(nth == 0 || value > upper_bound(nth - 1), "{value}");
        }
        assert_eq!(bucket(u64::MAX), CUTS * POWERS - 1);
    }

    #[test]
    fn quantiles_are_within_an_eighth() {
        let histogram = Histogram::default();
        for value in 1..=10_000 {
            histogram.record(value);
        }
        assert_eq!(histogram.count(), 10_000);
        let p999 = histogram.quantile_ns(999);
        assert!((9_990..=10_000).contains(&p999), "{p999}");
        let median = histogram.quantile_ns(500);
        assert!((5_000..=5_632).contains(&median), "{median}");
    }
}
