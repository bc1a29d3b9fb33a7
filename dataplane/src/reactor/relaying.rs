//! One reader of a relayed stream: what it has goes out, or what comes next for it, from where it lies.
//!
//! ```text
//!  carry ─▶ its own pipe ─▶ gap ─▶ the source, if nobody else reads it ─▶ end
//! ```
//!
//! Invariant: what was taken from the source for a reader is given to it before anything that came later, or reported as a
//! gap. Frames are [`relayed_frames`](super::relayed_frames)', several readers at once [`branching`](super::branching)'s.

use super::crowd::rested_ns;
use super::delivery::Step;
use super::processes::Process;
use super::sources::hold_ring;
use super::table::Place;
use super::timers::Alarm;
use super::{Reactor, Turn};
use crate::command::{From, Policy, Sink};
use crate::control::Notice;
use crate::driver::Driver;
use crate::key::{Channel, ProcessKey};
use crate::limits::TURN_BYTES_MAX;
use crate::stream::relay::{COPY_BYTES, Moved, let_go, probe, read, splice};
use crate::stream::source::StagingPipe;
use crate::transport::descriptor::Put;
use bytes::{Buf, Bytes};
use std::io;
use std::sync::atomic::Ordering;

/// A source flows that gave so much without a pause, bytes.
const FLOW_BYTES_MIN: usize = 32 << 10;
/// So much is worth moving at once, bytes.
const BATCH_BYTES: usize = 192 << 10;
/// How long a source that flows may gather, nanoseconds.
const GATHER_NS: u64 = 60_000;
/// As much again is gathered for each further reader, for so much of the source's pipe, bytes.
const ROOM_BYTES: usize = 320 << 10;

/// Which bytes of which stream a reader is to be given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) reader: Place,
    pub(super) process: Place,
    pub(super) channel: Channel,
    /// From the source itself, not from what the reader has.
    pub(super) direct: bool,
    /// At most so many.
    pub(super) max: usize,
}

/// What a relay needs besides the descriptors it connects; one of each a reactor.
#[derive(Debug)]
pub(super) struct Tools<F> {
    /// Takes what nobody wants.
    pub(super) void: F,
    /// Empty: tells a pipe that has ended from one that has nothing.
    pub(super) trial: StagingPipe<F>,
}

impl<D: Driver> Reactor<D> {
    pub(super) fn is_relayed(&self, process: ProcessKey) -> bool {
        self.place_of_process(process)
            .and_then(|place| self.processes.get(place))
            .is_some_and(Process::relays)
    }

    /// Has the keeper hold the accounts of what is relayed, before a byte goes by.
    pub(super) fn open_accounts(&mut self, process: Place) {
        let Some(running) = self.processes.get_mut(process) else { return };
        if !running.relays() {
            return;
        }
        for channel in Channel::ALL {
            let key = running.key;
            let stream = &mut running.streams[channel as usize];
            if stream.closed || stream.history.has_account() {
                continue;
            }
            match stream.history.account() {
                Ok(account) => hold_ring(&mut self.driver, &mut self.lane, key, channel, account),
                Err(error) => tracing::warn!(%error, "a relayed stream has no account for a next kernel"),
            }
        }
    }

    /// Notes that bytes are about to leave a source, or that this is over.
    pub(super) fn expect_to_pass(&self, process: Place, channel: Channel, bytes: usize) {
        if let Some(running) = self.processes.get(process) {
            running.streams[channel as usize].history.expect_to_pass(bytes, false);
        }
    }

    /// The same for a reader that has the source alone.
    pub(super) fn expects(&self, way: Way, bytes: usize) {
        if let Some(running) = self.processes.get(way.process).filter(|_| way.direct) {
            running.streams[way.channel as usize].history.expect_to_pass(bytes, bytes > 0);
        }
    }

    /// A reader is back that may have more than was counted: what went to it alone is known by where it stands.
    pub(super) fn count_on(&mut self, process: Place, from: From) {
        let From::At(offsets) = from else { return };
        for channel in Channel::ALL {
            let Some(running) = self.processes.get(process) else { return };
            let bytes = running.streams[channel as usize].history.uncounted(offsets[channel as usize]);
            if bytes > 0 {
                self.passed(process, channel, bytes, true);
            }
        }
    }

    /// Those who read a relayed stream.
    pub(super) fn relay_readers(&self, process: Place, channel: Channel) -> impl Iterator<Item = Place> {
        let readers = self.processes.get(process).map_or(&[][..], |process| &process.readers);
        readers.iter().copied().filter(move |place| {
            self.readers.get(*place).is_some_and(|r| r.subscriber.cursors[channel as usize].is_some())
        })
    }

    /// Lets a reader of relayed streams send until its sink is full, it has nothing, or its turn is over; `in_round` says
    /// that who calls looks after the sources itself.
    pub(super) fn deliver_relayed(&mut self, place: Place, process: Place, in_round: bool) -> Step {
        let mut turn_bytes = 0;
        let last = loop {
            match self.step(place, process, Self::relay_step_on) {
                Step::Moved(bytes) => turn_bytes += bytes,
                step => break step,
            }
            if turn_bytes >= TURN_BYTES_MAX {
                self.yield_turn(place);
                break Step::Moved(turn_bytes);
            }
        };
        let Some(reader) = self.readers.get_mut(place) else { return Step::Gone };
        reader.idle = last == Step::Nothing;
        reader.subscriber.meter.stalled.store(last == Step::Full, Ordering::Relaxed);
        let (subscription, waits) = (reader.subscriber.key, reader.subscriber.policy == Policy::Block);
        if reader.is_done() && last == Step::Nothing {
            self.drop_reader(place);
            self.notices.push_back(Notice::Drained { subscription });
            return Step::Gone;
        }
        if !in_round {
            // Others may wait for this one to take more, and no source waits for one that drops.
            let goes_by = !waits && matches!(last, Step::Full | Step::Throttled);
            for channel in Channel::ALL {
                if goes_by || last == Step::Nothing && self.relay_readers(process, channel).nth(1).is_some() {
                    self.later(Turn::Source(process, channel));
                }
            }
        }
        last
    }

    fn relay_step_on(&mut self, place: Place, process: Place, channel: Channel) -> Step {
        if let Some(step) = self.go_on_with_relayed_parcel(place, process, channel) {
            return step;
        }
        if !self.has_room(place) {
            return Step::Full;
        }
        let Some(reader) = self.readers.get_mut(place) else { return Step::Gone };
        // A sink that takes another frame has the ones before.
        reader.subscriber.confirm();
        let Some(cursor) = reader.subscriber.cursors[channel as usize] else { return Step::Nothing };
        let Some(running) = self.processes.get(process) else { return Step::Gone };
        if running.is_starting() {
            return Step::Nothing;
        }
        let stream = &running.streams[channel as usize];
        let (total, closed) = (stream.history.total(), stream.closed);
        let waits = reader.subscriber.policy == Policy::Block;
        let branch = &mut reader.branches[channel as usize];
        let staged = branch.staged(cursor.offset);
        if staged > 0 {
            let Some(allowance) = self.allowance(place) else { return Step::Throttled };
            let max = staged.min(allowance.bytes).min(TURN_BYTES_MAX);
            return self.relay(Way { reader: place, process, channel, direct: false, max });
        }
        if let Some(from) = branch.gap_from.take() {
            if !waits {
                branch.taken = branch.taken.max(total);
            }
            let to = branch.taken;
            return self.gap(place, channel, from, to);
        }
        if closed {
            return self.end(place, channel, total, cursor);
        }
        if self.relay_readers(process, channel).nth(1).is_some() {
            return Step::Nothing;
        }
        if let Some(reader) = self.readers.get_mut(place) {
            reader.branches[channel as usize].pipe = None;
        }
        self.relay_directly(place, process, channel)
    }

    /// A source that flows and has little is left alone for a moment: whoever moves each write as it comes has writer and
    /// reader take turns, each asleep while the other works. The more it goes to, the longer: each of them is woken. True if
    /// that moment begins now; an alarm ends it.
    pub(super) fn gathers(&mut self, process: Place, channel: Channel, readers: usize) -> bool {
        if !self.driver.is_punctual() {
            return false;
        }
        let Some(running) = self.processes.get_mut(process) else { return false };
        let stream = &mut running.streams[channel as usize];
        if stream.source.is_none() || stream.burst < FLOW_BYTES_MIN || stream.pace.throttle.rate().is_some() {
            return false;
        }
        // Its writer is not to stand before a full pipe meanwhile.
        let pipe_bytes = running.meter.streams[channel as usize].pipe_bytes.load(Ordering::Relaxed) as usize;
        let ways = readers.min(pipe_bytes / ROOM_BYTES).max(1);
        let enough = BATCH_BYTES * ways;
        if stream.queued(&mut self.driver, enough) >= enough {
            return false;
        }
        stream.burst = 0;
        let until_ns = self.driver.now().monotonic_ns + GATHER_NS * ways as u64;
        self.timers.arm(Alarm::Source(process.slot, process.generation, channel), until_ns);
        true
    }

    /// The only reader of a stream is given what is in the source.
    pub(super) fn relay_directly(&mut self, place: Place, process: Place, channel: Channel) -> Step {
        let Some(running) = self.processes.get(process) else { return Step::Gone };
        let stream = &running.streams[channel as usize];
        let passed = stream.history.total();
        if stream.source.as_ref().is_none_or(|source| source.armed) || stream.ghost.is_some() {
            return Step::Nothing;
        }
        if stream.rest.rests() || self.gathers(process, channel, 1) {
            return Step::Waiting;
        }
        let Some(reader) = self.readers.get(place) else { return Step::Gone };
        let lead = reader.branches[channel as usize].taken.saturating_sub(passed) as usize;
        if lead > 0 {
            return self.pass_lead(process, channel, lead);
        }
        let room = self.allowed(process, channel, TURN_BYTES_MAX);
        if room == 0 {
            return Step::Waiting;
        }
        let Some(allowance) = self.allowance(place) else { return Step::Throttled };
        let max = room.min(allowance.bytes);
        self.relay(Way { reader: place, process, channel, direct: true, max })
    }

    /// Lets go what the only reader of a stream has already, as far as it is there: of what a dead kernel had let by and not
    /// counted it isn't.
    fn pass_lead(&mut self, process: Place, channel: Channel, lead: usize) -> Step {
        let Some(running) = self.processes.get(process) else { return Step::Gone };
        let Some(source) = &running.streams[channel as usize].source else { return Step::Nothing };
        match self.driver.queued(&source.fd).unwrap_or(0).min(lead) {
            0 => self.source_is_empty(process, channel),
            there if self.let_by(process, channel, there, true) => Step::Moved(0),
            _ => Step::Nothing,
        }
    }

    fn relay(&mut self, way: Way) -> Step {
        let Some(reader) = self.readers.get(way.reader) else { return Step::Gone };
        match (&reader.sink, &reader.subscriber.sink) {
            (Some(sink), _) if sink.copies || !reader.branches[way.channel as usize].carry.is_empty() => {
                self.relay_copy(way)
            }
            (Some(_), _) => self.relay_raw(way),
            (None, Sink::Frames { .. }) if reader.parcels.is_some() => self.relay_parcel(way),
            (None, Sink::Frames { connection, .. }) => self.relay_frame(way, *connection),
            (None, Sink::Descriptor(_) | Sink::Outlet { .. } | Sink::Kept) => Step::Gone,
        }
    }

    /// What a reader's bytes are taken from.
    pub(super) fn origin(&self, way: Way) -> Option<D::Fd> {
        if way.direct {
            let source = self.processes.get(way.process)?.streams[way.channel as usize].source.as_ref();
            return source.map(|source| source.fd.clone());
        }
        let branch = &self.readers.get(way.reader)?.branches[way.channel as usize];
        branch.pipe.as_ref().map(|pipe| pipe.read_end.clone())
    }

    /// Bytes were taken from the source for the reader that has it alone.
    pub(super) fn taken(&mut self, way: Way, bytes: usize) {
        if way.direct {
            self.passed(way.process, way.channel, bytes, true);
            if let Some(reader) = self.readers.get_mut(way.reader) {
                reader.branches[way.channel as usize].taken += bytes as u64;
            }
        }
    }

    /// Bytes were given to a reader.
    pub(super) fn given(&mut self, place: Place, channel: Channel, bytes: usize) {
        if let Some(reader) = self.readers.get_mut(place) {
            if let Some(held) = &reader.held {
                held.stand_at(held.offset() + bytes as u64);
            }
            reader.subscriber.advance(channel, bytes);
            reader.throttle.spend(bytes);
        }
    }

    /// Bytes have left the source.
    pub(super) fn passed(&mut self, process: Place, channel: Channel, bytes: usize, was_read: bool) {
        let Some(running) = self.processes.get_mut(process) else { return };
        let stream = &mut running.streams[channel as usize];
        stream.woken = false;
        stream.burst = if std::mem::take(&mut stream.rested) { 0 } else { stream.burst + bytes };
        stream.queued = stream.queued.saturating_sub(bytes);
        stream.history.pass(bytes, was_read);
        stream.delivered = stream.history.total();
        let meter = &running.meter.streams[channel as usize];
        meter.taken_bytes.set(stream.history.total());
        meter.cut_bytes.set(stream.history.cut_bytes());
        self.moved(process, channel, bytes);
        self.resume_source(process, channel);
    }

    /// Splices what comes next for a reader into what takes it, and keeps account of it.
    pub(super) fn splice_on(&mut self, way: Way, from: &D::Fd, into: &D::Fd) -> Moved {
        self.expects(way, way.max);
        let moved = splice(&mut self.driver, from, into, way.max);
        match moved {
            Moved::Bytes(bytes) => {
                // In this order: if only the first is noted, it says what the other would.
                self.given(way.reader, way.channel, bytes);
                self.taken(way, bytes);
            }
            _ => self.expects(way, 0),
        }
        moved
    }

    /// Reads what comes next for a reader into memory, and keeps account of what is taken. Without a byte it says where that
    /// leaves the reader.
    pub(super) fn read_on(&mut self, way: Way, from: &D::Fd, into: &mut [u8]) -> Result<usize, Step> {
        self.expects(way, into.len());
        match read(&mut self.driver, from, into) {
            Moved::Bytes(bytes) => {
                self.taken(way, bytes);
                Ok(bytes)
            }
            moved => {
                self.expects(way, 0);
                Err(match moved {
                    Moved::End => self.source_ended(way),
                    _ => self.source_is_empty(way.process, way.channel),
                })
            }
        }
    }

    /// A source that gave less than was asked for has no more, mostly: a poll tells as well whether that is so as a call that
    /// takes nothing, and is needed then anyway.
    fn is_emptied(&mut self, way: Way, bytes: usize) {
        let Some(process) = self.processes.get(way.process) else { return };
        let flows = process.streams[way.channel as usize].burst >= FLOW_BYTES_MIN;
        if way.direct && bytes < way.max && !flows && !self.rests(way.process, way.channel, bytes) {
            self.arm_source(way.process, way.channel);
        }
    }

    /// True if a source that gave so many bytes, and has no more, is left alone now; an alarm ends that.
    fn rests(&mut self, place: Place, channel: Channel, bytes: usize) -> bool {
        let now_ns = self.at.monotonic_ns;
        let crowd = self.crowd.is_dense(now_ns);
        let Some(process) = self.processes.get_mut(place) else { return false };
        let stream = &mut process.streams[channel as usize];
        if !stream.rest.gave(bytes, crowd && stream.pace.throttle.rate().is_none()) {
            return false;
        }
        stream.rested = true;
        stream.idle.set(true, now_ns, &process.meter.streams[channel as usize].idle_ns);
        self.timers.arm(Alarm::Source(place.slot, place.generation, channel), rested_ns(now_ns));
        true
    }

    /// A source that was left alone, or waited for its rate, is looked at again.
    pub(super) fn visit_source(&mut self, place: Place, channel: Channel) {
        let now_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = &mut process.streams[channel as usize];
        if stream.rest.is_visited() {
            stream.idle.set(false, now_ns, &process.meter.streams[channel as usize].idle_ns);
            self.crowd.comes();
        }
        self.run_source(place, channel);
    }

    fn relay_raw(&mut self, way: Way) -> Step {
        let Some(from) = self.origin(way) else { return Step::Nothing };
        let Some(sink) = self.readers.get(way.reader).and_then(|reader| reader.sink.as_ref()) else {
            return Step::Gone;
        };
        let sink_fd = sink.fd.clone();
        match self.splice_on(way, &from, &sink_fd) {
            Moved::Bytes(bytes) => {
                self.is_emptied(way, bytes);
                Step::Moved(bytes)
            }
            Moved::End => self.source_ended(way),
            Moved::Nothing => self.source_is_empty(way.process, way.channel),
            Moved::Full => self.sink_is_full(way),
            Moved::Unsuited => {
                if let Some(sink) = self.readers.get_mut(way.reader).and_then(|reader| reader.sink.as_mut()) {
                    sink.copies = true;
                }
                Step::Moved(0)
            }
            Moved::Broken(error) => self.sink_broke((way.reader, way.process, way.channel), &error),
        }
    }

    /// Through memory, where a descriptor can't be spliced into.
    fn relay_copy(&mut self, way: Way) -> Step {
        let Some(reader) = self.readers.get_mut(way.reader) else { return Step::Gone };
        let carry = std::mem::take(&mut reader.branches[way.channel as usize].carry);
        if !carry.is_empty() {
            return self.put(way, carry);
        }
        let Some(from) = self.origin(way) else { return Step::Nothing };
        let mut bytes = std::mem::take(&mut self.lines);
        bytes.resize(way.max.min(COPY_BYTES), 0);
        let step = match self.read_on(way, &from, &mut bytes) {
            Ok(count) => self.put(way, Bytes::copy_from_slice(&bytes[..count])),
            Err(step) => step,
        };
        self.lines = bytes;
        step
    }

    /// Writes what was taken; what isn't written is carried.
    fn put(&mut self, way: Way, mut bytes: Bytes) -> Step {
        let Some(reader) = self.readers.get_mut(way.reader) else { return Step::Gone };
        let Some(sink) = &reader.sink else { return Step::Gone };
        let put = sink.put(&mut self.driver, &bytes[..bytes.len().min(way.max)]);
        if let Put::Bytes(written) = put {
            bytes.advance(written);
        }
        reader.branches[way.channel as usize].carry = bytes;
        match put {
            Put::Bytes(written) => {
                self.given(way.reader, way.channel, written);
                Step::Moved(written)
            }
            Put::Full => self.sink_is_full(way),
            Put::Closed(error) => self.sink_broke((way.reader, way.process, way.channel), &error),
        }
    }

    pub(super) fn sink_is_full(&mut self, way: Way) -> Step {
        let Some(reader) = self.readers.get(way.reader) else { return Step::Gone };
        let waits = reader.subscriber.policy == Policy::Block;
        self.await_sink(way.reader);
        if waits && way.direct {
            self.pause_source(way.process, way.channel);
        }
        Step::Full
    }

    /// A reader's descriptor takes nothing any more. Where that is our own output, and the last to read, the stream ends for
    /// good and everywhere: its child gets SIGPIPE. Any other reader that leaves is one of many.
    pub(super) fn sink_broke(
        &mut self,
        (reader, process, channel): (Place, Place, Channel),
        error: &io::Error,
    ) -> Step {
        tracing::debug!(%error, "a relay's descriptor was closed");
        let mut ours = false;
        if let Some(reader) = self.readers.get_mut(reader) {
            reader.subscriber.failed(error);
            reader.subscriber.cursors[channel as usize] = None;
            ours = matches!(reader.subscriber.sink, Sink::Descriptor(_));
        }
        if ours && self.relay_readers(process, channel).next().is_none() {
            self.close_stream(process, channel);
        } else {
            self.later(Turn::Source(process, channel));
        }
        Step::Moved(0)
    }

    pub(super) fn source_ended(&mut self, way: Way) -> Step {
        debug_assert!(way.direct, "we hold the other end of a reader's own pipe");
        self.close_stream(way.process, way.channel);
        Step::Moved(0)
    }

    /// There is nothing in a source. If it was told to be ready, that may be its end.
    pub(super) fn source_is_empty(&mut self, process: Place, channel: Channel) -> Step {
        let Some(running) = self.processes.get_mut(process) else { return Step::Gone };
        let stream = &mut running.streams[channel as usize];
        let Some(source) = &stream.source else { return Step::Nothing };
        stream.rest.gave(0, false);
        if std::mem::take(&mut stream.woken) {
            let from = source.fd.clone();
            let Some(trial) = self.relay_tools().map(|tools| tools.trial.clone()) else {
                return Step::Nothing;
            };
            match probe(&mut self.driver, &from, &trial) {
                Moved::End => {
                    self.close_stream(process, channel);
                    return Step::Moved(0);
                }
                Moved::Bytes(_) => return Step::Moved(0),
                _ => {}
            }
        }
        self.arm_source(process, channel);
        Step::Nothing
    }

    pub(super) fn relay_tools(&mut self) -> Option<&Tools<D::Fd>> {
        if self.relay_tools.is_none() {
            let made = self.driver.void().and_then(|void| Ok((void, self.driver.pipe(1)?)));
            match made {
                Ok((void, (read_end, write_end, bytes_max))) => {
                    let trial = StagingPipe { read_end, write_end, bytes_max };
                    self.relay_tools = Some(Tools { void, trial });
                }
                Err(error) => tracing::error!(%error, "streams can't be relayed"),
            }
        }
        self.relay_tools.as_ref()
    }

    /// Lets bytes go that every reader has, or that nobody wants. False if that can't be.
    pub(super) fn let_by(&mut self, process: Place, channel: Channel, bytes: usize, was_read: bool) -> bool {
        if let Some(done) = self.let_by_in_steps(process, channel, bytes, was_read) {
            return done;
        }
        let Some(void) = self.relay_tools().map(|tools| tools.void.clone()) else { return false };
        let Some(running) = self.processes.get(process) else { return false };
        let Some(source) = &running.streams[channel as usize].source else { return false };
        let from = source.fd.clone();
        self.expect_to_pass(process, channel, bytes);
        if let Err(error) = let_go(&mut self.driver, &from, &void, bytes) {
            tracing::error!(%error, "a relayed stream can't be taken any further");
            self.close_stream(process, channel);
            return false;
        }
        self.passed(process, channel, bytes, was_read);
        true
    }
}
