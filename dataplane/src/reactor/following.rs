//! Streams that are written in place, in rings that a kernel lent which has died: what comes there is copied to a ring of the
//! stream's own, from where it is read as any other.
//!
//! ```text
//!   look (T) ─▶ expect ─▶ copy ─▶ commit ─▶ grant, as far as was copied
//! ```
//!
//! Killed anywhere in between, what was committed counts, and what wasn't is where it was written: the producer has no room beyond
//! it. Invariant: the stream ends once its producer has, and everything it has written is copied.

use super::producing::Lending;
use super::table::Place;
use super::{Reactor, Turn};
use crate::command::From;
use crate::control::ExitStatus;
use crate::driver::Driver;
use crate::keeper::successor::HeldLending;
use crate::key::Channel;
use crate::limits::TURN_BYTES_MAX;
use crate::points::{Point, reach};
use crate::stream::source::TakeError;
use kairo_shm::follow::Follow;
use kairo_shm::layout::End as Why;
use std::os::fd::AsFd;

const STDOUT: usize = Channel::Stdout as usize;

/// A producer that goes on after its kernel.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) ring: Follow,
    /// It has closed its doorbell.
    pub(super) gone: bool,
}

/// What became of a look.
enum Copied {
    Bytes(usize),
    /// All of what was written.
    All,
    /// Somebody's wish is in the way.
    NoRoom,
    /// The keeper has to take something first.
    LaneFull,
}

/// Why a stream can't be followed.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("its producer says what can't be")]
    Nonsense,
    #[error(transparent)]
    Take(#[from] TakeError),
}

impl<D: Driver> Reactor<D> {
    /// Goes on with what a client writes; with what it writes in place. If there is nothing it could write, it is over.
    pub(super) fn go_on_with_producer(&mut self, place: Place, lending: Option<HeldLending>) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let Some(lending) = lending else {
            if process.streams[STDOUT].closed && process.streams[STDOUT].source.is_none() {
                process.exits_unless_over(ExitStatus::Code(1));
                self.producer_over(place);
            }
            return;
        };
        let HeldLending { ring, page, doorbell } = lending;
        match Follow::open(ring.as_fd(), page, process.streams[STDOUT].history.total()) {
            Ok(ring) => {
                let doorbell = self.driver.import(doorbell);
                let followed = Some(Followed { ring, gone: false });
                process.lending = Some(Lending { doorbell, armed: false, followed });
                self.arm_lending(place);
                self.later(Turn::Source(place, Channel::Stdout));
            }
            Err(error) => {
                tracing::error!(%error, "what a client writes in place can't be gone on with");
                process.streams[STDOUT].closed = true;
                process.exits_unless_over(ExitStatus::Code(1));
                self.producer_over(place);
            }
        }
    }

    /// Looks how far a producer has come, copies that, hands it on, and gives room.
    pub(super) fn follow(&mut self, place: Place) {
        let (mut turn_bytes, mut asked) = (0, false);
        self.leave_old_ring(place, Channel::Stdout);
        loop {
            match self.copy_followed(place) {
                Ok(Copied::Bytes(bytes)) => {
                    asked = false;
                    turn_bytes += bytes;
                    self.moved(place, Channel::Stdout, bytes);
                    self.spool_taken(place, Channel::Stdout);
                    self.deliver_all(place);
                    if turn_bytes >= TURN_BYTES_MAX {
                        self.later(Turn::Source(place, Channel::Stdout));
                        break;
                    }
                }
                Ok(Copied::All) => break,
                Ok(Copied::NoRoom) => {
                    if std::mem::replace(&mut asked, true) || !self.ask_shared(place, Channel::Stdout) {
                        break;
                    }
                }
                Ok(Copied::LaneFull) => {
                    self.once_lane_is_free(Turn::Source(place, Channel::Stdout));
                    break;
                }
                Err(error) => {
                    tracing::warn!(slot = place.slot, %error, "a stream that is written in place breaks off");
                    if let Some(process) = self.processes.get_mut(place) {
                        process.exits_with(ExitStatus::Code(1));
                    }
                    return self.stop_lending(place, Why::Broken);
                }
            }
        }
        self.grant_followed(place);
    }

    /// Before a reader begins somewhere: one that read in place may have come further than was looked, and than others who wait have.
    pub(super) fn catch_up(&mut self, place: Place, from: From) {
        self.run_lent(place);
        let wanted = if let From::At(offsets) = from { offsets[STDOUT] } else { 0 };
        loop {
            let pinned = self.pinned(place, Channel::Stdout);
            let Some(process) = self.processes.get_mut(place) else { return };
            let lending = process.lending.as_mut();
            let Some(followed) = lending.and_then(|lending| lending.followed.as_mut()) else { return };
            let history = &mut process.streams[STDOUT].history;
            let left = followed.ring.look().unwrap_or(0);
            if history.total() >= wanted || left == 0 || self.lane.is_full() {
                return;
            }
            // No more than what was granted before: nothing is granted where there is no room.
            let room = match history.room_bytes(pinned) {
                0 => history.make_room(left, pinned),
                _ => Ok(false),
            };
            match room {
                Ok(true) => self.hold_new_ring(place, Channel::Stdout),
                Ok(false) => {}
                Err(error) => return tracing::warn!(%error, "a reader may get bytes again"),
            }
            let before = self.meter_of(place);
            self.follow(place);
            if self.meter_of(place) == before {
                return;
            }
        }
    }

    fn can_hold_more(&self, place: Place) -> bool {
        let pinned = self.pinned(place, Channel::Stdout);
        let process = self.processes.get(place);
        process.is_some_and(|process| process.streams[STDOUT].history.room_bytes(pinned) > 0)
    }

    /// How long a stream is, as it is told.
    fn meter_of(&self, place: Place) -> Option<u64> {
        Some(self.processes.get(place)?.meter.streams[STDOUT].taken_bytes.get())
    }

    fn copy_followed(&mut self, place: Place) -> Result<Copied, Lost> {
        let pinned = self.pinned(place, Channel::Stdout);
        let Some(process) = self.processes.get_mut(place) else { return Ok(Copied::All) };
        let Some(followed) = process.lending.as_mut().and_then(|lending| lending.followed.as_mut()) else {
            return Ok(Copied::All);
        };
        let wanted = followed.ring.look().map_err(|_| Lost::Nonsense)?;
        if wanted == 0 {
            return Ok(Copied::All);
        }
        if self.lane.is_full() {
            return Ok(Copied::LaneFull);
        }
        let stream = &mut process.streams[STDOUT];
        let room = stream.history.room_bytes(pinned).min(wanted);
        if room == 0 {
            return Ok(Copied::NoRoom);
        }
        let (ring, _) = stream.history.ring().map_err(TakeError::from)?;
        let bytes = ring.room_bytes(room);
        ring.expect(bytes);
        reach(Point::TakeExpected);
        let bytes = followed.ring.copy(ring.room(bytes));
        reach(Point::TakeRead);
        ring.commit(bytes);
        reach(Point::TakeCommitted);
        let total = stream.history.total();
        stream.times.note(total, self.at.monotonic_ns, stream.history.cut());
        process.meter.streams[STDOUT].taken_bytes.set(total);
        Ok(Copied::Bytes(bytes))
    }

    /// Gives a producer room for what was copied, or ends its stream if that was the last.
    fn grant_followed(&mut self, place: Place) {
        let more =
            self.can_hold_more(place) || self.ask_shared(place, Channel::Stdout) && self.can_hold_more(place);
        match more {
            true => self.resume_source(place, Channel::Stdout),
            false => self.pause_source(place, Channel::Stdout),
        }
        let lending = self.processes.get_mut(place).and_then(|process| process.lending.as_mut());
        let Some(Lending { followed: Some(followed), .. }) = lending else { return };
        followed.ring.grant(more);
        // Asked before the look, which then is the last that is needed.
        let over = followed.gone || followed.ring.is_ended();
        let (due, left) = (followed.ring.is_due(), followed.ring.look());
        match (over, left) {
            (true, Ok(0)) => self.stop_lending(place, Why::Complete),
            (_, left) => {
                // What waits for a reader goes on with that.
                if due || left.is_err() {
                    self.later(Turn::Source(place, Channel::Stdout));
                }
                if !over {
                    self.arm_lending(place);
                }
            }
        }
    }
}
