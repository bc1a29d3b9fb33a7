//! What a reactor wakes up for when nothing happens.
//!
//! Invariant: the heap's head is never stale when [`Timers::next_ns`] has been asked, so an idle reactor isn't woken
//! by an alarm nobody waits for.

use super::table::Place;
use crate::key::{Channel, TimerKey};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// A timer of the control plane.
    Control(TimerKey),
    /// A connection's frame must be whole, or its close must be through, by now: (slot, generation).
    Connection(u32, u32),
    /// Readers of a dead kernel are not waited for any longer, by the place of their process: (slot, generation).
    Ghosts(u32, u32),
    /// A stream's spool has bytes that have waited enough, or is tried again: (slot, generation, channel).
    Spool(u32, u32, Channel),
    /// Accept again, after descriptors had run out.
    Accept,
    /// A source may take again: (slot, generation) of its process.
    Source(u32, u32, Channel),
    /// A source may have waited for a reader for too long.
    Stall(u32, u32, Channel),
    /// There may be something to tell about a stream.
    Tell(u32, u32, Channel),
    /// Look again for memory to give.
    Squeeze,
    /// A reader may be given bytes again: (slot, generation).
    Reader(u32, u32),
    /// Nobody has opened a reader's fifo: (slot, generation).
    Fifo(u32, u32),
    /// Nobody has opened the path a process's stdin is written by: (slot, generation).
    Inlet(u32, u32),
}

impl Alarm {
    pub(crate) fn connection(place: Place) -> Alarm {
        Alarm::Connection(place.slot, place.generation)
    }

    pub(crate) fn ghosts(place: Place) -> Alarm {
        Alarm::Ghosts(place.slot, place.generation)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(u64, Alarm)>>,
    armed: HashMap<Alarm, u64>,
}

impl Timers {
    /// Rings `alarm` at `at_ns`, and only then.
    pub(crate) fn arm(&mut self, alarm: Alarm, at_ns: u64) {
        if self.armed.insert(alarm, at_ns) != Some(at_ns) {
            self.heap.push(Reverse((at_ns, alarm)));
        }
    }

    pub(crate) fn disarm(&mut self, alarm: Alarm) {
        self.armed.remove(&alarm);
    }

    pub(crate) fn is_armed(&self, alarm: Alarm) -> bool {
        self.armed.contains_key(&alarm)
    }

    /// When the next alarm rings.
    pub(crate) fn next_ns(&mut self) -> Option<u64> {
        while let Some(Reverse((at_ns, alarm))) = self.heap.peek() {
            if self.armed.get(alarm) == Some(at_ns) {
                return Some(*at_ns);
            }
            self.heap.pop();
        }
        None
    }

    /// The next alarm that is due.
    pub(crate) fn due(&mut self, now_ns: u64) -> Option<Alarm> {
        if self.next_ns()? > now_ns {
            return None;
        }
        let Reverse((_, alarm)) = self.heap.pop()?;
        self.armed.remove(&alarm);
        Some(alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_alarm_rings_once_at_its_new_time_and_a_disarmed_one_never() {
        let mut timers = Timers::default();
        timers.arm(Alarm::Accept, 10);
        timers.arm(Alarm::Accept, 30);
        timers.arm(Alarm::Connection(1, 1), 20);
        timers.disarm(Alarm::Connection(1, 1));
        assert_eq!(timers.next_ns(), Some(30));
        assert_eq!(timers.due(29), None);
        assert_eq!(timers.due(30), Some(Alarm::Accept));
        assert_eq!((timers.due(99), timers.next_ns()), (None, None));
    }
}
