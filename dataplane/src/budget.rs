//! The memory of all histories of a kernel, counted in one place, whichever reactor they live on.
//!
//! Each stream tells what it holds when that changes; a ring that is full holds what it held, so counting costs a
//! busy stream nothing. Invariant: `held` is the sum of all charges. Who has to give when it is too much is the
//! reactors' matter.

use crate::limits::HISTORY_SHARE_BYTES_MIN;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one stream holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Bytes of memory it has touched.
    pub bytes: u64,
    /// What for.
    pub kind: ChargeKind,
}

/// What memory is held for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChargeKind {
    /// Nothing is held.
    #[default]
    Nothing,
    /// A ring, written to or still read.
    Live,
    /// What is retained of a stream that has ended.
    Retained,
}

/// All of it.
#[derive(Debug)]
pub struct Budget {
    bytes_max: u64,
    held_bytes: AtomicU64,
    retained_bytes: AtomicU64,
    live_streams: AtomicU64,
}

impl Budget {
    /// Of which nothing is used.
    pub fn new(bytes_max: u64) -> Budget {
        Budget {
            bytes_max,
            held_bytes: AtomicU64::new(0),
            retained_bytes: AtomicU64::new(0),
            live_streams: AtomicU64::new(0),
        }
    }

    /// What all histories together should not be over.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// What they hold.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// What of it belongs to streams that have ended.
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes.load(Ordering::Relaxed)
    }

    /// Streams with a ring.
    pub fn live_streams(&self) -> u64 {
        self.live_streams.load(Ordering::Relaxed)
    }

    /// True exactly when somebody has to give.
    pub fn is_over(&self) -> bool {
        self.held_bytes() > self.bytes_max
    }

    /// What is left.
    pub fn room_bytes(&self) -> u64 {
        self.bytes_max.saturating_sub(self.held_bytes())
    }

    /// What each living stream may hold when it is tight.
    pub fn share_bytes(&self) -> u64 {
        (self.bytes_max / self.live_streams().max(1)).max(HISTORY_SHARE_BYTES_MIN)
    }

    /// One stream holds `now` instead of `was`.
    pub fn change(&self, was: Charge, now: Charge) {
        let of = |charge: Charge, kind: ChargeKind| if charge.kind == kind { charge.bytes } else { 0 };
        let live = |charge: Charge| u64::from(charge.kind == ChargeKind::Live);
        let add = |to: &AtomicU64, was: u64, now: u64| {
            // Wrapping: the sum is right though its parts come from several threads.
            to.fetch_add(now.wrapping_sub(was), Ordering::Relaxed);
        };
        add(&self.held_bytes, was.bytes, now.bytes);
        add(&self.retained_bytes, of(was, ChargeKind::Retained), of(now, ChargeKind::Retained));
        add(&self.live_streams, live(was), live(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streams_life_leaves_no_charge_behind() {
        let budget = Budget::new(1 << 20);
        let live = Charge { bytes: 900 << 10, kind: ChargeKind::Live };
        let retained = Charge { bytes: 320 << 10, kind: ChargeKind::Retained };
        budget.change(Charge::default(), live);
        budget.change(Charge::default(), live);
        assert!(budget.is_over());
        assert_eq!((budget.live_streams(), budget.retained_bytes(), budget.room_bytes()), (2, 0, 0));
        assert_eq!(budget.share_bytes(), 512 << 10);
        budget.change(live, retained);
        assert_eq!((budget.live_streams(), budget.retained_bytes()), (1, 320 << 10));
        budget.change(retained, Charge::default());
        budget.change(live, Charge::default());
        assert_eq!((budget.held_bytes(), budget.retained_bytes(), budget.live_streams()), (0, 0, 0));
    }
}
