//! A relayed stream from its source: to nobody, to one reader, or to several at once.
//!
//! ```text
//!  round:  each reader at the front ─tee─▶ its pipe      the slowest one that waits says how far ─▶ that much is let go
//! ```
//!
//! A reader that is ahead of the front stands still until the others have come there. One that waits for nobody takes what
//! fits and misses the rest, which it is told. Invariant: between two rounds the source's front is where the slowest waiting
//! reader is.

use super::delivery::Step;
use super::processes::Phase;
use super::table::Place;
use super::{Reactor, Turn};
use crate::command::{Policy, Unread};
use crate::driver::Driver;
use crate::key::Channel;
use crate::limits::TURN_BYTES_MAX;
use crate::stream::relay::{Moved, splice, tee};
use crate::stream::source::StagingPipe;

impl<D: Driver> Reactor<D> {
    /// Moves what is in a relayed source, until it is empty, waits for a reader, or has had its turn.
    pub(super) fn run_relay(&mut self, place: Place, channel: Channel) {
        let mut turn_bytes = 0;
        while turn_bytes < TURN_BYTES_MAX {
            let Some(process) = self.processes.get(place) else { return };
            let source = process.streams[channel as usize].source.as_ref();
            if process.is_starting() || source.is_none_or(|source| source.armed) {
                return;
            }
            if process.streams[channel as usize].ghost.is_some() {
                // Readers of a dead kernel are waited for.
                return self.pause_source(place, channel);
            }
            let mut readers = self.relay_readers(place, channel);
            let (first, second) = (readers.next(), readers.next());
            drop(readers);
            let Some(one) = first else { return self.discard(place, channel) };
            if second.is_none() {
                let last = self.deliver_relayed(one, place, true);
                let paces = self.readers.get(one).is_none_or(|r| r.subscriber.policy == Policy::Block);
                if paces || !matches!(last, Step::Full | Step::Throttled) {
                    return self.make_announcements(place);
                }
            }
            let readers: Vec<Place> = self.relay_readers(place, channel).collect();
            if readers.is_empty() {
                continue;
            }
            if second.is_some() {
                for reader in &readers {
                    self.deliver_relayed(*reader, place, true);
                }
            }
            match self.branch_out(place, channel, &readers) {
                None | Some(0) => break,
                Some(bytes) => turn_bytes += bytes,
            }
        }
        if turn_bytes >= TURN_BYTES_MAX {
            self.later(Turn::Source(place, channel));
        }
        self.make_announcements(place);
    }

    /// Nobody reads: everything is let go and counted, unless the child is to wait.
    fn discard(&mut self, place: Place, channel: Channel) {
        let Some(void) = self.relay_tools().map(|tools| tools.void.clone()) else { return };
        let mut turn_bytes = 0;
        while turn_bytes < TURN_BYTES_MAX {
            let Some(process) = self.processes.get(place) else { return };
            if process.unread == Unread::Block && process.phase != Phase::Exited {
                return self.pause_source(place, channel);
            }
            let Some(source) = &process.streams[channel as usize].source else { return };
            let from = source.fd.clone();
            let room = self.allowed(place, channel, TURN_BYTES_MAX);
            if room == 0 {
                return;
            }
            self.expect_to_pass(place, channel, room);
            let moved = splice(&mut self.driver, &from, &void, room);
            if !matches!(moved, Moved::Bytes(_)) {
                self.expect_to_pass(place, channel, 0);
            }
            match moved {
                Moved::Bytes(bytes) => {
                    self.passed(place, channel, bytes, false);
                    turn_bytes += bytes;
                }
                Moved::Nothing => return self.arm_source(place, channel),
                Moved::Full => {}
                Moved::End => return self.close_stream(place, channel),
                Moved::Unsuited | Moved::Broken(_) => {
                    tracing::error!(slot = place.slot, "a relayed stream can't be taken any further");
                    return self.close_stream(place, channel);
                }
            }
        }
        self.later(Turn::Source(place, channel));
    }

    /// Gives every reader at the front what it takes, and lets go what all have. How many bytes were given and let go; none
    /// when it is the source that is waited for.
    fn branch_out(&mut self, place: Place, channel: Channel, readers: &[Place]) -> Option<usize> {
        let from = self.processes.get(place)?.streams[channel as usize].source.as_ref()?.fd.clone();
        if self.gathers(place, channel, readers.len()) {
            return None;
        }
        let most = self.round_bytes(place, readers);
        let queued = self.processes.get_mut(place)?.streams[channel as usize].queued(&mut self.driver, most);
        if queued == 0 {
            // One byte may have come this moment.
            return (self.source_is_empty(place, channel) == Step::Moved(0)).then_some(1);
        }
        let room = self.allowed(place, channel, queued.min(most));
        if room == 0 {
            return None;
        }
        let passed = self.processes.get(place)?.streams[channel as usize].history.total();
        let mut moved = 0;
        for reader in readers {
            moved += self.offer(*reader, place, channel, (&from, passed), room);
        }
        let (mut slowest, mut waits) = (passed + room as u64, false);
        for reader in readers.iter().filter_map(|reader| self.readers.get(*reader)) {
            let there = reader.subscriber.cursors[channel as usize].is_some();
            if there && reader.subscriber.policy == Policy::Block {
                let taken = reader.branches[channel as usize].taken;
                (slowest, waits) = (slowest.min(taken), waits || taken == passed);
            }
        }
        let bytes = slowest.saturating_sub(passed) as usize;
        if bytes > 0 {
            if !self.let_by(place, channel, bytes, true) {
                return None;
            }
            for reader in readers {
                if let Some(reader) = self.readers.get_mut(*reader)
                    && reader.subscriber.policy != Policy::Block
                {
                    reader.branches[channel as usize].fell_behind(slowest);
                }
            }
        } else if waits {
            self.pause_source(place, channel);
        }
        Some(moved + bytes)
    }

    /// Duplicates what is at the front for a reader that is there. How many bytes it took.
    fn offer(
        &mut self,
        place: Place,
        process: Place,
        channel: Channel,
        (from, passed): (&D::Fd, u64),
        max: usize,
    ) -> usize {
        let Some(reader) = self.readers.get(place) else { return 0 };
        let Some(cursor) = reader.subscriber.cursors[channel as usize] else { return 0 };
        let branch = &reader.branches[channel as usize];
        if !branch.is_at(passed) {
            return 0;
        }
        if let Some(bytes) = self.offer_parcel((place, process, channel), max) {
            return bytes;
        }
        if let Some(bytes) = self.offer_held((place, process, channel), from, max) {
            return bytes;
        }
        let Some(reader) = self.readers.get(place) else { return 0 };
        let branch = &reader.branches[channel as usize];
        let direct = branch.staged(cursor.offset) == 0 && reader.sink.as_ref().is_some_and(|sink| sink.tees);
        if !direct {
            return self.offer_own((place, process, channel), from, max);
        }
        let Some(allowance) = self.allowance(place) else { return 0 };
        let Some(reader) = self.readers.get_mut(place) else { return 0 };
        let Some(sink) = reader.sink.as_mut().filter(|sink| !sink.armed) else { return 0 };
        let drops = reader.subscriber.policy != Policy::Block;
        match tee(&mut self.driver, from, &sink.fd, max.min(allowance.bytes)) {
            Moved::Bytes(bytes) => {
                reader.branches[channel as usize].taken += bytes as u64;
                self.given(place, channel, bytes);
                if drops && bytes < max {
                    // It loses the rest: what it misses is one gap, told when it takes more.
                    self.await_sink(place);
                }
                bytes
            }
            Moved::Unsuited => {
                sink.tees = false;
                self.offer_own((place, process, channel), from, max)
            }
            Moved::Broken(error) => {
                self.sink_broke((place, process, channel), &error);
                0
            }
            Moved::Full | Moved::Nothing | Moved::End => {
                self.await_sink(place);
                0
            }
        }
    }

    /// The same into the reader's own pipe, which is made with its first byte.
    fn offer_own(
        &mut self,
        (place, process, channel): (Place, Place, Channel),
        from: &D::Fd,
        max: usize,
    ) -> usize {
        let Some(reader) = self.readers.get_mut(place) else { return 0 };
        let branch = &mut reader.branches[channel as usize];
        if branch.pipe.is_none() {
            match self.driver.pipe(BRANCH_BYTES) {
                Ok((read_end, write_end, bytes_max)) => {
                    branch.pipe = Some(StagingPipe { read_end, write_end, bytes_max });
                }
                Err(error) => {
                    tracing::error!(%error, "a reader among several can't have a pipe of its own");
                    self.sink_broke((place, process, channel), &error);
                    return 0;
                }
            }
        }
        let Some(pipe) = &branch.pipe else { return 0 };
        match tee(&mut self.driver, from, &pipe.write_end, max) {
            Moved::Bytes(bytes) => {
                branch.taken += bytes as u64;
                bytes
            }
            _ => {
                // An empty one takes something the next time; of a full one its reader tells when there is room.
                if self.driver.queued(&pipe.read_end).unwrap_or(0) == 0 {
                    self.later(Turn::Source(process, channel));
                }
                0
            }
        }
    }
}

/// Size asked for a reader's own pipe, bytes.
const BRANCH_BYTES: usize = 1 << 20;
