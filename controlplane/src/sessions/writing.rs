//! What goes into a stdin, as the log tells it: not every write, but how far it has come, at most once a second and at the
//! end.
//!
//! Invariant: the ranges that are told are in order, don't overlap, and together are all that was written under this
//! kernel; a timer is armed exactly while there is something to tell.

use crate::calls::Turn;
use crate::clock::after_ms;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::state::Timer;
use kairo_dataplane::key::TimerKey;
use kairo_wire::event::ProcessWritten;

/// Between two events of one process.
const INTERVAL_MS: u64 = 1_000;

/// Writes to a stdin that are not told yet.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Everything below is told, or went in under another kernel.
    from: u64,
    /// One past the last byte.
    to: u64,
    /// How many calls that were.
    calls: u64,
    /// Rings when they are told.
    pub timer: Option<TimerKey>,
}

impl Kernel {
    /// `bytes` bytes have gone into a stdin, which has had `offset` bytes since.
    pub(crate) fn note_write(&mut self, turn: &mut Turn<'_>, serial: u64, offset: u64, bytes: u64) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let written = &mut process.written;
        // A repetition of what went in before has the offset it had then.
        if bytes == 0 || offset <= written.to {
            return;
        }
        if written.calls == 0 {
            written.from = written.to.max(offset.saturating_sub(bytes));
        }
        written.to = offset;
        written.calls += 1;
        if written.timer.is_some() {
            return;
        }
        let home = process.key.home;
        let timer = self.arm(turn, home, after_ms(turn.at, INTERVAL_MS));
        self.state.timers.insert(timer.serial, Timer::Written { process: serial });
        if let Some(process) = self.state.processes.get_mut(&serial) {
            process.written.timer = Some(timer);
        }
    }

    /// Tells what has gone into a stdin since the last time.
    pub(crate) fn tell_written(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        let Some(timer) = process.written.timer.take() else { return };
        let Written { from, to, calls, .. } = process.written;
        process.written.calls = 0;
        let session = process.session.as_str().to_owned();
        let event = ProcessWritten { id: process.id.clone(), session, from, to, calls };
        let (creator, trace) = (process.creator.clone(), process.story());
        self.disarm(turn, timer);
        self.publish(turn, Audience::Of(creator), &trace, &event);
    }
}
