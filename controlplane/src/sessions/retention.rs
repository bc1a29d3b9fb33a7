//! How long a process that is over is remembered: an hour, ten thousand of them, or until its id is used again.
//!
//! A record is *over* when nobody of the tree is left and every stream has ended. Only then does its time begin, and
//! while a subscription still reads what was retained it isn't freed for want of room or because its id was taken.
//! Invariant: `retained` holds exactly the records that are over and not superseded.

use crate::calls::Turn;
use crate::clock::MS;
use crate::kernel::Kernel;
use crate::sessions::readers::Departure;
use crate::state::{Phase, Place, Process, Timer};
use kairo_dataplane::key::ReactorId;
use kairo_wire::id::ProcessId;

impl Kernel {
    /// Looks whether a process is over, and if so keeps or frees its record. To be called after every change that
    /// could have made it so.
    pub(crate) fn settle(&mut self, turn: &mut Turn<'_>, serial: u64) {
        self.strike_process(turn, serial);
        self.rebill_process(serial);
        let Some(process) = self.state.processes.get(&serial) else { return };
        if !process.is_over() {
            return;
        }
        if process.superseded {
            if process.readers.is_empty() {
                self.forget(turn, serial);
            }
            return;
        }
        if process.retained_ns.is_none() {
            let home = process.key.home;
            let now = turn.at.monotonic_ns;
            if let Some(process) = self.state.processes.get_mut(&serial) {
                process.retained_ns = Some(now);
            }
            self.state.retained.insert((now, serial));
            self.make_room(turn);
            self.watch_retention(turn, home);
        }
    }

    /// A record that counted as over may not be: to be settled again.
    pub(crate) fn unretain(&mut self, serial: u64) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        if let Some(since) = process.retained_ns.take() {
            self.state.retained.remove(&(since, serial));
        }
    }

    /// Keeps at most so many: the oldest that nobody reads go.
    fn make_room(&mut self, turn: &mut Turn<'_>) {
        let excess = self.state.retained.len().saturating_sub(self.config.limits.retained_max);
        if excess == 0 {
            return;
        }
        let unread = |(_, serial): &&(u64, u64)| {
            self.state.processes.get(serial).is_none_or(|process| process.readers.is_empty())
        };
        let victims: Vec<u64> =
            self.state.retained.iter().filter(unread).take(excess).map(|(_, serial)| *serial).collect();
        for serial in victims {
            self.forget(turn, serial);
        }
    }

    /// Arms the timer for the oldest record, if it isn't.
    fn watch_retention(&mut self, turn: &mut Turn<'_>, home: ReactorId) {
        let Some((since, _)) = self.state.retained.first().copied() else { return };
        if self.state.retention.is_some() {
            return;
        }
        let at_ns = since.saturating_add(self.config.limits.retention_ms.saturating_mul(MS));
        let timer = self.arm(turn, home, at_ns.max(turn.at.monotonic_ns));
        self.state.timers.insert(timer.serial, Timer::Retention);
        self.state.retention = Some(timer);
    }

    /// The time of the oldest record is over.
    pub(crate) fn expire(&mut self, turn: &mut Turn<'_>) {
        let Some(timer) = self.state.retention.take() else { return };
        let age_ns = self.config.limits.retention_ms.saturating_mul(MS);
        while let Some((since, serial)) = self.state.retained.first().copied() {
            if since.saturating_add(age_ns) > turn.at.monotonic_ns {
                break;
            }
            self.forget(turn, serial);
        }
        self.watch_retention(turn, timer.home);
    }

    /// The id is about to name a younger process: the older one is kept only as long as somebody reads it.
    pub(crate) fn supersede(&mut self, turn: &mut Turn<'_>, id: &ProcessId) {
        if let Some(serial) = self.unname(turn, id) {
            self.settle(turn, serial);
        }
    }

    /// The same for one that may have something to tell yet: it is to be settled. Returns which that is.
    pub(crate) fn unname(&mut self, turn: &mut Turn<'_>, id: &ProcessId) -> Option<u64> {
        let serial = self.state.names.remove(id.key().as_ref())?;
        self.state.processes.get_mut(&serial)?.superseded = true;
        self.forestall(turn, serial);
        self.unretain(serial);
        Some(serial)
    }

    /// Frees a record, and with it what the data plane has retained.
    pub(crate) fn forget(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.drop_record(turn, serial) else { return };
        // Of a restart that could not begin the data plane knows nothing any more.
        if process.pid != 0 || process.phase != Phase::Exited {
            self.let_drop(turn, process.key);
        }
        if !process.superseded {
            self.record_oblivion(&process);
            self.drop_followers(turn, &process.id);
        }
    }

    /// Takes a record out of all tables.
    pub(crate) fn drop_record(&mut self, turn: &mut Turn<'_>, serial: u64) -> Option<Box<Process>> {
        self.tell_written(turn, serial);
        let readers: Vec<u64> = self.state.processes.get(&serial)?.readers.iter().copied().collect();
        for reader in readers {
            self.end_reader(turn, reader, Departure::Unasked);
        }
        self.strike_record(turn, serial);
        let process = self.state.processes.remove(&serial)?;
        self.unbill_process(turn.at.monotonic_ns, serial);
        self.state.sessions.remove(process.session.as_str());
        if let Some(since) = process.retained_ns {
            self.state.retained.remove(&(since, serial));
        }
        self.release_ward(turn, &process);
        self.end_feeding(turn, serial, process.source());
        self.stage_forgotten(turn, process.wired.stage);
        if !process.superseded {
            self.state.names.remove(process.id.key().as_ref());
        }
        Some(process)
    }

    /// Nobody remembers the id: those that waited for its next life wait no more.
    fn drop_followers(&mut self, turn: &mut Turn<'_>, id: &ProcessId) {
        let Some(waiting) = self.state.waiting.get(id.key().as_ref()) else { return };
        let follows = |serial: &&u64| {
            let stream = self.state.streams.get(serial);
            stream.is_some_and(|stream| matches!(stream.place, Place::Following { .. }))
        };
        let gone: Vec<u64> = waiting.iter().filter(follows).copied().collect();
        for serial in gone {
            self.end_reader(turn, serial, Departure::Unasked);
        }
    }
}

impl Process {
    /// Nobody of the tree is left, every stream has ended and is where it is fed to, and neither an answer nor a next life is on its way.
    pub(crate) fn is_over(&self) -> bool {
        self.tree_gone
            && self.open == [false, false]
            && self.wired.feeds.is_empty()
            && !self.flushing
            && !self.awaits_another()
    }
}
