//! What is taken from children: when a source is ready, how much of it, where it goes, and how it ends.
//!
//! Invariants: a source has at most one poll in flight, and none while it is paused; what comes is handed on before more is
//! taken.

use super::processes::{Phase, Process, Stream, kind_of};
use super::spool::StreamSpool;
use super::table::Place;
use super::{Reactor, Turn};
use crate::command::Unread;
use crate::control::{Notice, StreamEnd};
use crate::driver::Driver;
use crate::driver::op::{Interest, Op};
use crate::keeper::link::{self};
use crate::keeper::protocol::{End, ProtocolError};
use crate::key::{Channel, ProcessKey};
use crate::limits::{INPUT_STAGING_BYTES, RESUME_BYTES_MIN, TAKE_BYTES_MAX, TURN_BYTES_MAX};
use crate::points::{Point, reach};
use crate::stream::source::{Source, Staging, StagingPipe, TakeError, Taken, output_name, take};
use kairo_shm::layout::End as Why;
use kairo_shm::page::Page;
use kairo_shm::writer::Writer;
use std::sync::atomic::Ordering;

/// Whoever writes again this soon flows, nanoseconds.
const PAUSE_NS: u64 = 200_000;

impl<D: Driver> Reactor<D> {
    /// An output begins to be read; one that is not ours has ended already.
    pub(super) fn begin_output(&mut self, place: Place, channel: Channel, source: Option<Source<D::Fd>>) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = &mut process.streams[channel as usize];
        if source.is_none() {
            stream.spool = None;
            stream.closed = true;
            return process.meter.streams[channel as usize].closed.store(true, Ordering::Relaxed);
        }
        stream.source = source;
        self.begin_spool(place, channel, false);
        self.arm_source(place, channel);
    }

    pub(super) fn arm_source(&mut self, place: Place, channel: Channel) {
        let now_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        let Stream { source, idle, .. } = &mut process.streams[channel as usize];
        let Some(source) = source else { return };
        if !source.armed {
            source.armed = true;
            idle.set(true, now_ns, &process.meter.streams[channel as usize].idle_ns);
            let poll = Op::Poll(source.fd.clone(), Interest::Read);
            self.driver.submit(kind_of(channel).token(place), poll);
        }
    }

    pub(super) fn source_ready(&mut self, place: Place, channel: Channel) {
        if channel == Channel::Stdout && self.bell_of_producer(place) {
            return;
        }
        let now_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = &mut process.streams[channel as usize];
        if let Some(source) = &mut stream.source {
            source.armed = false;
            stream.woken = true;
            stream.rested = stream.idle.since_ns().is_none_or(|since_ns| now_ns - since_ns > PAUSE_NS);
            if stream.rested {
                self.crowd.comes();
            }
            stream.idle.set(false, now_ns, &process.meter.streams[channel as usize].idle_ns);
            self.run_source(place, channel);
        }
    }

    /// The lowest offset that those who make the source wait still need, and how many they are.
    pub(super) fn blockers(&self, place: Place, channel: Channel) -> Option<(u64, u32)> {
        let process = self.processes.get(place)?;
        let stream = &process.streams[channel as usize];
        let readers = process.readers.iter().filter_map(|reader| self.readers.get(*reader));
        // Who is served from disk waits for nothing in memory; nobody is who reads in place.
        let on_disk = |offset: u64| {
            offset < stream.history.tail_from()
                && stream.spool.as_ref().is_some_and(|spool| spool.has(offset))
        };
        let pins = readers.filter_map(|reader| {
            let pin = reader.subscriber.pinned(channel);
            pin.filter(|offset| reader.shared.is_some() || !on_disk(*offset))
        });
        let (lowest, blockers) =
            pins.fold((u64::MAX, 0), |(lowest, blockers), pin| (lowest.min(pin), blockers + 1));
        let (lowest, blockers) = match self.fed_to(place, channel) {
            Some((fed_to, feeds)) => (lowest.min(fed_to), blockers + feeds),
            None => (lowest, blockers),
        };
        Some(match stream.ghost {
            Some(ghost) => (lowest.min(ghost.offset), blockers + ghost.awaited),
            None => (lowest, blockers),
        })
    }

    /// The lowest offset somebody still needs, if anybody makes the source wait; noted for a successor.
    pub(super) fn pinned(&self, place: Place, channel: Channel) -> Option<u64> {
        let (lowest, blockers) = self.blockers(place, channel)?;
        let process = self.processes.get(place)?;
        let stream = &process.streams[channel as usize];
        let unread = process.unread == Unread::Block && process.phase != Phase::Exited;
        let pinned = match blockers {
            0 if unread => Some(stream.delivered),
            0 => None,
            _ => Some(lowest),
        };
        stream.history.pin(pinned.unwrap_or(0), blockers);
        // What is left of an ended stream is in the writing thread's hands.
        let spool = stream.spool.as_ref().filter(|_| !stream.closed).and_then(StreamSpool::pinned);
        [pinned, spool].into_iter().flatten().min()
    }

    /// Takes from a source and hands on, until it is empty, waits for a reader, or has had its turn.
    pub(super) fn run_source(&mut self, place: Place, channel: Channel) {
        if self.processes.get(place).is_some_and(Process::relays) {
            return self.run_relay(place, channel);
        }
        if channel == Channel::Stdout {
            self.run_lent(place);
        }
        let (mut turn_bytes, mut asked) = (0, false);
        self.leave_old_ring(place, channel);
        loop {
            let pinned = self.pinned(place, channel);
            let Some(process) = self.processes.get_mut(place) else { return };
            let stream = &mut process.streams[channel as usize];
            let Some(source) = &stream.source else { return };
            if source.armed {
                return;
            }
            // A ring that is new must be in the keeper's hands before a byte is in it alone: the first one, too, is sent
            // ahead, if there is a byte for it at all.
            if stream.history.is_untouched() && self.driver.queued(&source.fd).unwrap_or(1) > 0 {
                self.hold_new_ring(place, channel);
            }
            if self.lane.is_full() {
                return self.once_lane_is_free(Turn::Source(place, channel));
            }
            let Some(process) = self.processes.get_mut(place) else { return };
            let stream = &mut process.streams[channel as usize];
            let room = stream.history.room_bytes(pinned);
            let head_room = stream.history.total() < room as u64;
            let wants = if stream.paused_since_ns.is_some() && !head_room { RESUME_BYTES_MIN } else { 1 };
            if room < wants {
                if !std::mem::replace(&mut asked, true) && self.ask_shared(place, channel) {
                    continue;
                }
                return self.pause_source(place, channel);
            }
            self.resume_source(place, channel);
            let room = self.allowed(place, channel, room);
            if room == 0 {
                return;
            }
            match self.take(place, channel, room) {
                Ok(Taken::Bytes(bytes)) => {
                    // What shared readers were asked to tell was told, or is behind them: the next wait is another one.
                    asked = false;
                    self.deliver_all(place);
                    turn_bytes += bytes;
                    if turn_bytes >= TURN_BYTES_MAX {
                        return self.later(Turn::Source(place, channel));
                    }
                    if bytes < room {
                        return self.arm_source(place, channel);
                    }
                }
                Ok(Taken::Nothing) => return self.arm_source(place, channel),
                Ok(Taken::End) => return self.close_stream(place, channel),
                Err(error) => {
                    tracing::error!(slot = place.slot, %error, "a stream can't be taken any further");
                    stream_breaks(self.processes.get(place), channel);
                    return self.close_stream(place, channel);
                }
            }
        }
    }

    pub(super) fn pause_source(&mut self, place: Place, channel: Channel) {
        let now_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        process.meter.streams[channel as usize].paused.store(true, Ordering::Relaxed);
        process.streams[channel as usize].paused_since_ns.get_or_insert(now_ns);
        self.watch_stall(place, channel);
    }

    pub(super) fn resume_source(&mut self, place: Place, channel: Channel) {
        let now_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        if let Some(since_ns) = process.streams[channel as usize].paused_since_ns.take() {
            let meter = &process.meter.streams[channel as usize];
            meter.paused.store(false, Ordering::Relaxed);
            meter.paused_ns.add(now_ns.saturating_sub(since_ns));
            process.streams[channel as usize].history.want_moves(false);
            self.stall_over(place, channel, now_ns.saturating_sub(since_ns));
        }
    }

    /// Lets paused sources go on, after readers have moved.
    pub(super) fn resume_sources(&mut self, place: Place) {
        for channel in Channel::ALL {
            let waits = self.processes.get(place).is_some_and(|process| {
                let stream = &process.streams[channel as usize];
                // A relayed one waits for whoever isn't served from anywhere else.
                stream.paused_since_ns.is_some()
                    || process.relays() && stream.source.as_ref().is_some_and(|source| !source.armed)
            });
            if waits {
                self.later(Turn::Source(place, channel));
            }
        }
    }

    pub(super) fn take(&mut self, place: Place, channel: Channel, max: usize) -> Result<Taken, TakeError> {
        if self.staging.is_none() {
            self.staging = Some(self.open_staging()?);
        }
        let Some(staging) = &self.staging else { return Ok(Taken::Nothing) };
        let Some(process) = self.processes.get_mut(place) else { return Ok(Taken::Nothing) };
        let (lane, kept) = (&mut self.lane, !process.is_unheld());
        let (key, stream) = (process.key, &mut process.streams[channel as usize]);
        let Some(source) = &stream.source else { return Ok(Taken::Nothing) };
        let hold = |driver: &mut D, ring: &Writer| {
            if kept {
                hold_ring(driver, lane, key, channel, ring);
            }
        };
        let name = output_name(key, channel);
        let taken = take(&mut self.driver, source, staging, name, &mut stream.history, max, hold)?;
        process.meter.streams[channel as usize].taken_bytes.set(stream.history.total());
        if let Taken::Bytes(bytes) = taken {
            // Whoever wants to know pays for the clock; else the round's time has to do.
            let asked = stream.times.are_asked();
            let read_ns = if asked { self.driver.now().monotonic_ns } else { self.at.monotonic_ns };
            stream.times.note(stream.history.total(), read_ns, stream.history.cut());
            self.moved(place, channel, bytes);
        }
        self.spool_taken(place, channel);
        Ok(taken)
    }

    /// Makes the pipes and the page all streams of this reactor share, and has the keeper hold them.
    pub(super) fn open_staging(&mut self) -> Result<Staging<D::Fd>, TakeError> {
        let page = Page::create()?;
        let (output, input) = (self.staging_pipe(TAKE_BYTES_MAX)?, self.staging_pipe(INPUT_STAGING_BYTES)?);
        let page_fd = self.driver.import(page.descriptor().try_clone_to_owned()?);
        let ends = [&output.read_end, &output.write_end, &input.read_end, &input.write_end].map(Clone::clone);
        let held: Vec<D::Fd> = std::iter::once(page_fd).chain(ends).collect();
        self.lane.send(&mut self.driver, link::encode_hold_reactor, &held)?;
        Ok(Staging { output, input, page })
    }

    pub(super) fn staging_pipe(&mut self, bytes: usize) -> std::io::Result<StagingPipe<D::Fd>> {
        let (read_end, write_end, bytes_max) = self.driver.pipe(bytes)?;
        Ok(StagingPipe { read_end, write_end, bytes_max })
    }

    /// Has the keeper hold the ring a stream has got instead of its old one.
    pub(super) fn hold_new_ring(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let key = process.key;
        let kept = !process.is_unheld();
        if let Ok((ring, _)) = process.streams[channel as usize].history.ring()
            && kept
        {
            hold_ring(&mut self.driver, &mut self.lane, key, channel, ring);
        }
        self.hand_over(place, channel);
        reach(Point::RingReplaced);
    }

    pub(super) fn close_stream(&mut self, place: Place, channel: Channel) {
        self.resume_source(place, channel);
        self.source_over(place, channel);
        let lent = channel == Channel::Stdout && self.part_from_producer(place);
        let Some(process) = self.processes.get_mut(place) else { return };
        let key = process.key;
        let stream = &mut process.streams[channel as usize];
        let source = stream.source.take();
        if stream.closed || (source.is_none() && !lent) {
            return;
        }
        stream.closed = true;
        stream.history.end(Why::Complete);
        let end = StreamEnd { total_bytes: stream.history.total(), cut_bytes: stream.history.cut_bytes() };
        process.meter.streams[channel as usize].closed.store(true, Ordering::Relaxed);
        if source.as_ref().is_some_and(|source| source.armed) {
            self.driver.cancel(kind_of(channel).token(place));
        }
        if source.as_ref().is_some_and(|source| source.terminal) {
            let mut answers = Vec::new();
            process.inflow.fail(&mut answers);
            self.input_closed(place, answers);
        }
        drop(source);
        self.end_spool(place, channel);
        reach(Point::StreamClosed);
        if !self.is_produced(key) {
            self.close_end(key, End::of(channel));
        }
        self.notices.push_back(Notice::Closed { process: key, channel, end });
        if self.is_relayed(key) {
            self.let_go(key, channel);
        }
        self.deliver_all(place);
        self.retire(place, channel);
        self.producer_over(place);
    }

    /// Takes what is in the pipe right now (a terminal: up to EAGAIN or EIO) into memory, whoever stalls.
    pub(super) fn take_leftovers(&mut self, place: Place, channel: Channel) -> Result<(), TakeError> {
        let Some(process) = self.processes.get(place) else { return Ok(()) };
        if process.relays() {
            // There is no memory for them: whoever is given them is given them from the pipe.
            return Ok(());
        }
        let Some(source) = &process.streams[channel as usize].source else { return Ok(()) };
        let (fd, terminal) = (source.fd.clone(), source.terminal);
        let mut left = if terminal { usize::MAX } else { self.driver.queued(&fd)? };
        while left > 0 {
            let pinned = self.pinned(place, channel);
            let Some(process) = self.processes.get_mut(place) else { return Ok(()) };
            let stream = &mut process.streams[channel as usize];
            let mut room = stream.history.room_bytes(pinned);
            if room == 0 {
                if stream.history.make_room(left.min(TAKE_BYTES_MAX), pinned)? {
                    self.hold_new_ring(place, channel);
                }
                let Some(process) = self.processes.get(place) else { return Ok(()) };
                room = process.streams[channel as usize].history.room_bytes(pinned);
            }
            match self.take(place, channel, room.min(left))? {
                Taken::Bytes(bytes) => left = left.saturating_sub(bytes),
                Taken::Nothing => return Ok(()),
                Taken::End => {
                    self.close_stream(place, channel);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn encode_hold(process: ProcessKey, channel: Channel, packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    let name = output_name(process, channel);
    link::encode_hold_stream(process, End::of(channel), (name >> 32) as u32, name as u32, packet)
}

/// Whoever maps the ring is to know that its end isn't the stream's.
pub(super) fn stream_breaks<F>(process: Option<&Process<F>>, channel: Channel) {
    if let Some(process) = process {
        process.streams[channel as usize].history.end(Why::Broken);
    }
}

/// Hands a ring, or an account, to the keeper. If that fails the keeper is gone, which the lane's reader tells.
pub(super) fn hold_ring<D: Driver>(
    driver: &mut D,
    lane: &mut super::lane::Lane<D::Fd>,
    key: ProcessKey,
    channel: Channel,
    ring: &Writer,
) {
    let held = ring.descriptor().try_clone_to_owned().and_then(|fd| {
        let fd = driver.import(fd);
        lane.send(driver, |packet| encode_hold(key, channel, packet), &[fd])
    });
    if let Err(error) = held {
        tracing::warn!(%error, "a ring is not kept");
    }
}
