//! Readers in other processes that map a stream's ring: nothing is sent to them, they are woken and looked at.
//!
//! ```text
//!   commit ─▶ news ─▶ anybody asleep? ─▶ one wake for all
//!   source full ─▶ wanted ─▶ look at cursors ─▶ pause ─ ─ bell ─▶ look ─▶ go on
//! ```
//!
//! A reader's doorbell is a socket of its own: it rings there, gets new rings from there, and its end is the reader's end,
//! whoever is killed. Invariants: a cursor is read once per look and believed only where it can be; a reader that left a
//! living stream maps a ring that no further byte comes into.

use super::overtaken::Missing;
use super::readers::{Reader, refusal};
use super::table::Place;
use super::{Kind, Reactor};
use crate::command::{OutletKind, Policy};
use crate::control::{Descriptors, Failure, Notice};
use crate::driver::Driver;
use crate::driver::op::{Interest, Op};
use crate::key::Channel;
use crate::limits::SHARED_TAIL_BYTES;
use kairo_shm::layout::RingError;
use kairo_shm::seat::{Closed, Seat};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the reactor has of a reader in another process.
#[derive(Debug)]
pub(super) struct Shared<F> {
    seat: Seat,
    doorbell: F,
    pub(super) channel: Channel,
    /// True exactly while a poll of the doorbell is in flight.
    armed: bool,
    pub(super) missing: Missing,
}

/// A doorbell may have been rung so often between two looks; what is left rings again.
const RINGS: usize = 256;

fn ring_refusal(error: &RingError) -> Failure {
    match error {
        RingError::Os { source, .. } => refusal(source),
        RingError::Foreign(_) => Failure::Gone,
    }
}

/// Takes the rings of a doorbell, and says whether nobody is left to ring it. Once for each time it is ready: only we read this
/// end, so it doesn't wait.
pub(super) fn is_left<D: Driver>(driver: &mut D, doorbell: &D::Fd) -> bool {
    match driver.read(doorbell, &mut [0; RINGS]) {
        Ok(bytes) => bytes == 0,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

impl<D: Driver> Reactor<D> {
    /// Makes what a reader of `channel` from `offset` on is handed: its ring, its page and its doorbell, and how large the
    /// ring's tail is.
    pub(super) fn open_shared(
        &mut self,
        place: Place,
        channel: Channel,
        offset: u64,
        tail_bytes: Option<u32>,
    ) -> Result<(Shared<D::Fd>, Descriptors, usize), Failure> {
        let (ring, bytes) = self.ring_to_share(place, channel, tail_bytes)?;
        let seat = Seat::create(offset).map_err(|error| ring_refusal(&error))?;
        let page = seat.descriptor().try_clone_to_owned().map_err(|error| refusal(&error))?;
        let (doorbell, theirs, _) =
            self.driver.outlet(OutletKind::Shared).map_err(|error| refusal(&error))?;
        let descriptors = Descriptors(Arc::new(vec![ring, page, theirs]));
        let missing = Missing::default();
        Ok((Shared { seat, doorbell, channel, armed: false, missing }, descriptors, bytes))
    }

    fn ring_to_share(
        &mut self,
        place: Place,
        channel: Channel,
        tail_bytes: Option<u32>,
    ) -> Result<(std::os::fd::OwnedFd, usize), Failure> {
        let wanted = tail_bytes.unwrap_or(SHARED_TAIL_BYTES);
        let stream = |process: &super::processes::Process<D::Fd>| {
            let stream = &process.streams[channel as usize];
            (stream.closed, stream.history.is_untouched(), stream.history.size().tail_bytes)
        };
        let (closed, untouched, tail) = self.processes.get(place).map(stream).ok_or(Failure::Gone)?;
        if !closed {
            if wanted > tail {
                self.resize_history(place, channel, None, Some(wanted));
            }
            if untouched && self.lane.is_full() {
                return Err(Failure::WouldBlock);
            }
            if untouched {
                self.hold_new_ring(place, channel);
            }
        }
        let process = self.processes.get_mut(place).ok_or(Failure::Gone)?;
        let history = &mut process.streams[channel as usize].history;
        let shared = history.shared_ring().map_err(|error| ring_refusal(&error))?;
        Ok((shared.0, shared.1.tail_bytes))
    }

    /// A reader has its place in the tables: its stream is told of by word of mouth from now on.
    pub(super) fn begin_shared(&mut self, place: Place, process: Place) {
        let Some(shared) = self.readers.get(place).and_then(|reader| reader.shared.as_ref()) else { return };
        let channel = shared.channel;
        if let Some(process) = self.processes.get_mut(process) {
            process.streams[channel as usize].shared += 1;
        }
        self.arm_doorbell(place);
    }

    fn arm_doorbell(&mut self, place: Place) {
        let Some(shared) = self.readers.get_mut(place).and_then(|reader| reader.shared.as_mut()) else {
            return;
        };
        if !std::mem::replace(&mut shared.armed, true) {
            let poll = Op::Poll(shared.doorbell.clone(), Interest::Read);
            self.driver.submit(Kind::Sink.token(place), poll);
        }
    }

    /// True if `place` is a reader in another process, whose bell this was.
    pub(super) fn bell_of_reader(&mut self, place: Place) -> bool {
        let Some(shared) = self.readers.get_mut(place).and_then(|reader| reader.shared.as_mut()) else {
            return false;
        };
        shared.armed = false;
        if is_left(&mut self.driver, &shared.doorbell) {
            self.dismiss(place, Closed::Ended);
        } else {
            self.arm_doorbell(place);
            self.look_at(place);
        }
        true
    }

    /// Looks where a reader in another process is. False if `place` is none.
    pub(super) fn look_at(&mut self, place: Place) -> bool {
        let Some(channel) = self.readers.get(place).and_then(|reader| Some(reader.shared.as_ref()?.channel))
        else {
            return false;
        };
        let process = self.readers.get(place).map(|reader| reader.subscriber.process);
        let Some(process_place) = process.and_then(|key| self.place_of_process(key)) else { return true };
        self.note_missing(process_place, channel);
        let (Some(process), Some(reader)) =
            (self.processes.get_mut(process_place), self.readers.get_mut(place))
        else {
            return true;
        };
        let stream = &mut process.streams[channel as usize];
        let total = stream.history.seen();
        match reader.see(total) {
            None => {
                tracing::warn!(
                    subscription = reader.subscriber.key.serial,
                    "a reader's cursor says what can't be"
                );
                self.dismiss(place, Closed::Nonsense);
            }
            Some(cursor) => {
                stream.delivered = stream.delivered.max(cursor);
                if stream.closed && cursor >= total {
                    self.dismiss(place, Closed::Ended);
                }
            }
        }
        self.resume_sources(process_place);
        self.make_announcements(process_place);
        true
    }

    /// Lets a reader go: it has everything, is gone, or can't be believed.
    fn dismiss(&mut self, place: Place, why: Closed) {
        let reads = self
            .readers
            .get(place)
            .and_then(|reader| Some((reader.subscriber.process, reader.shared.as_ref()?.channel)));
        if let Some((process, channel)) = reads
            && let Some(process) = self.place_of_process(process)
        {
            self.note_missing(process, channel);
        }
        let Some(reader) = self.readers.get_mut(place) else { return };
        let subscription = reader.subscriber.key;
        if let Some(shared) = &mut reader.shared {
            shared.seat.close(why);
        }
        self.drop_reader(place);
        self.notices.push_back(Notice::Drained { subscription });
    }

    /// A reader has left the tables.
    pub(super) fn part_from_shared(
        &mut self,
        place: Place,
        mut shared: Shared<D::Fd>,
        process: Option<Place>,
    ) {
        shared.seat.close(Closed::Ended);
        if shared.armed {
            self.driver.cancel(Kind::Sink.token(place));
        }
        let Some(process) = process.and_then(|place| self.processes.get_mut(place)) else { return };
        let stream = &mut process.streams[shared.channel as usize];
        stream.shared = stream.shared.saturating_sub(1);
        // What it has mapped it may go on reading: nothing more goes in there.
        stream.left |= !stream.closed;
        stream.history.tell();
        if shared.seat.wants_waking() {
            stream.history.wake();
        }
    }

    /// Before more comes into a stream: whoever has left it has seen its last.
    pub(super) fn leave_old_ring(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = &mut process.streams[channel as usize];
        if !stream.left {
            return;
        }
        stream.left = false;
        match stream.history.renew() {
            Ok(true) => self.hold_new_ring(place, channel),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "who has left a stream may read on"),
        }
    }

    /// Something was added to a stream, or it ended: whoever sleeps over it is woken.
    pub(super) fn tell_shared(&mut self, place: Place) {
        for channel in Channel::ALL {
            let Some(process) = self.processes.get(place) else { return };
            let stream = &process.streams[channel as usize];
            if stream.shared == 0 {
                continue;
            }
            stream.history.tell();
            let readers = process.readers.iter().filter_map(|reader| self.readers.get(*reader));
            if readers.filter_map(|reader| reader.on(channel)).any(|shared| shared.seat.wants_waking()) {
                stream.history.wake();
            }
            self.note_missing(place, channel);
        }
    }

    /// A source can take no more: its readers in other processes are to say when they have moved, and may have already.
    /// True if there is any.
    pub(super) fn ask_shared(&mut self, place: Place, channel: Channel) -> bool {
        let Some(process) = self.processes.get_mut(place) else { return false };
        let stream = &mut process.streams[channel as usize];
        if stream.shared == 0 {
            return false;
        }
        stream.history.want_moves(true);
        let total = stream.history.seen();
        for reader in &process.readers {
            if let Some(reader) = self.readers.get_mut(*reader)
                && reader.on(channel).is_some()
            {
                // Nonsense is for when it rings, or for the next delivery.
                let _ = reader.see(total);
            }
        }
        true
    }

    /// Hands a stream's new ring to its readers in other processes.
    pub(super) fn hand_over(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = &mut process.streams[channel as usize];
        if stream.shared == 0 {
            return;
        }
        stream.left = false;
        let ring = stream.history.shared_ring().ok();
        let generation = stream.history.generation().to_le_bytes();
        let mut deaf = Vec::new();
        for place in &process.readers {
            let Some(shared) = self.readers.get(*place).and_then(|reader| reader.on(channel)) else {
                continue;
            };
            let sent = ring.as_ref().map(|(fd, _)| {
                self.driver.send_with(&shared.doorbell, &generation, std::slice::from_ref(fd))
            });
            if !matches!(sent, Some(Ok(sent)) if sent == generation.len()) {
                deaf.push(*place);
            }
        }
        deaf.into_iter().for_each(|place| self.dismiss(place, Closed::Deaf));
    }
}

impl<F> Reader<F> {
    /// What it has of this stream, if it is in another process and reads it.
    pub(super) fn on(&self, channel: Channel) -> Option<&Shared<F>> {
        self.shared.as_ref().filter(|shared| shared.channel == channel)
    }

    /// Where a reader in another process is; none if it says what can't be.
    pub(super) fn see(&mut self, total: u64) -> Option<u64> {
        let shared = self.shared.as_mut()?;
        let cursor = shared.seat.look(total).ok()?;
        self.subscriber.stand_at(shared.channel, cursor);
        let behind = self.subscriber.policy == Policy::Block && cursor < total;
        self.subscriber.meter.stalled.store(behind, Ordering::Relaxed);
        Some(cursor)
    }
}
