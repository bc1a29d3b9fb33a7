//! A bounded-by-attention queue between whoever reads the socket and one consumer.
//!
//! It never refuses an item: what was read has to go somewhere. It tells when it holds more than it should, and
//! then nobody reads the socket for anybody else until its consumer has caught up (see [`crate::state`]). Pure data,
//! guarded by the state's lock.

use std::collections::VecDeque;

/// What an item costs beside its bytes.
const ITEM_COST: usize = 64;

/// Above this a queue is congested, bytes.
pub(crate) const CONGESTED_BYTES: usize = 4 << 20;

/// Items that wait, and what they cost.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: VecDeque<(T, usize)>,
    cost: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { items: VecDeque::new(), cost: 0 }
    }
}

impl<T> Queue<T> {
    /// Adds an item that holds `bytes`.
    pub(crate) fn push(&mut self, item: T, bytes: usize) {
        let cost = bytes + ITEM_COST;
        self.cost += cost;
        self.items.push_back((item, cost));
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let (item, cost) = self.items.pop_front()?;
        self.cost -= cost;
        Some(item)
    }

    /// Bytes it holds, roughly.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.cost > CONGESTED_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_and_the_cost_goes_with_them() {
        let mut queue = Queue::default();
        queue.push('a', CONGESTED_BYTES);
        assert!(queue.is_congested());
        queue.push('b', 0);
        assert_eq!(queue.pop(), Some('a'));
        assert!(!queue.is_congested());
        assert_eq!((queue.cost(), queue.pop(), queue.pop(), queue.cost()), (ITEM_COST, Some('b'), None, 0));
    }
}
