//! What goes by readers of a shared ring that wait for nobody: it is theirs to notice, and told to everybody else as a gap.
//!
//! ```text
//!   commit ─▶ look: cursor c, first retained f > c ─▶ [c, f) is missing ─ … ─▶ the cursor moves on ─▶ told, once
//! ```
//!
//! Only the kernel's own numbers are told, and the reader's cursor: bytes that were overwritten while it stood before them. Of
//! what a reader passes by itself behind them, nothing. Invariant: what is missing is told when the reader goes on, and grows
//! until then.

use super::Reactor;
use super::readers::Reader;
use super::table::Place;
use crate::command::Policy;
use crate::control::Notice;
use crate::driver::Driver;
use crate::key::Channel;
use crate::stream::history::{History, Peek};

/// What a reader lacks and was not told of: `[from, to)`.
#[derive(Debug, Default)]
pub(super) struct Missing(Option<(u64, u64)>);

impl Missing {
    /// The reader is at `cursor`, and lacks `[from, to)` in front of it. What it has passed since the last look.
    fn look(&mut self, cursor: u64, lacks: Option<(u64, u64)>) -> Option<(u64, u64)> {
        let before = std::mem::replace(&mut self.0, lacks);
        before.filter(|(from, _)| cursor > *from).map(|(from, to)| (from, to.min(cursor)))
    }
}

/// What is gone from `cursor` on, behind the head if the cursor is in there.
fn gone(history: &History, cursor: u64) -> Option<(u64, u64)> {
    let run = match history.peek(cursor, usize::MAX) {
        Peek::Bytes(run) => run.len() as u64,
        Peek::Gap(_) | Peek::Nothing => 0,
    };
    match history.peek(cursor + run, 1) {
        Peek::Gap(to) => Some((cursor + run, to)),
        Peek::Bytes(_) | Peek::Nothing => None,
    }
}

impl<D: Driver> Reactor<D> {
    /// More has come into a stream, or somebody is about to leave it: looks who was overtaken and who has gone on.
    pub(super) fn note_missing(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let history = &mut process.streams[channel as usize].history;
        let total = history.seen();
        for place in &process.readers {
            let Some(reader) = self.readers.get_mut(*place) else { continue };
            let subscription = reader.subscriber.key;
            if let Some((from, to)) = reader.passes(channel, history, total) {
                self.notices.push_back(Notice::Lagged { subscription, channel, from, to });
            }
        }
    }
}

impl<F> Reader<F> {
    /// What it has gone on behind since the last look, if it waits for nobody.
    fn passes(&mut self, channel: Channel, history: &History, total: u64) -> Option<(u64, u64)> {
        if self.subscriber.policy == Policy::Block || self.on(channel).is_none() {
            return None;
        }
        let cursor = self.see(total)?;
        let passed = self.shared.as_mut()?.missing.look(cursor, gone(history, cursor))?;
        self.subscriber.missed(channel, passed.1 - passed.0);
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_by_is_told_when_the_reader_goes_on_and_grows_until_then() {
        let mut missing = Missing::default();
        assert_eq!(missing.look(10, None), None);
        assert_eq!(missing.look(10, Some((10, 30))), None);
        assert_eq!(missing.look(10, Some((10, 50))), None);
        // It went on further than it had to, and is overtaken again.
        assert_eq!(missing.look(60, Some((60, 70))), Some((10, 50)));
        // It went as far as it knew of, which was not far enough.
        assert_eq!(missing.look(65, Some((65, 90))), Some((60, 65)));
        assert_eq!(missing.look(90, None), Some((65, 90)));
        assert_eq!(missing.look(95, None), None);
        // In the head it still has something to read before the gap.
        assert_eq!(missing.look(3, Some((8, 20))), None);
        assert_eq!(missing.look(8, Some((8, 25))), None);
        assert_eq!(missing.look(25, None), Some((8, 25)));
    }
}
