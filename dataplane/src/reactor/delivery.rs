//! From history to readers.
//!
//! A reader sends whenever its sink takes something: after its stream got bytes, and after its sink got room. On a
//! connection of this reactor a chunk goes out from where it lies in the ring; to another reactor's connection it is
//! copied and mailed under a credit; to a descriptor it is written. Invariant: a cursor moves over exactly the bytes
//! that were handed to a sink or reported as a gap.

use super::cutting::{Next, next_cut};
use super::mail::Mail;
use super::pacing::Allowance;
use super::processes::Process;
use super::spool::StreamSpool;
use super::table::Place;
use super::{Reactor, Turn};
use crate::command::{Mode, Policy, Sink};
use crate::control::Notice;
use crate::driver::Driver;
use crate::key::{Channel, ConnectionKey};
use crate::limits::{REMOTE_WINDOW_BYTES, TURN_BYTES_MAX};
use crate::points::{Point, reach};
use crate::stream::history::Peek;
use crate::stream::subscriber::Cursor;
use crate::transport::frames::{Chunk, Framing};
use crate::transport::outflow::Rest;
use bytes::{Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

/// Lines are gathered into sends of about this size.
const LINES_BATCH_BYTES: usize = 64 << 10;

/// Where a reader stands after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It moved so many bytes (0: a record).
    Moved(usize),
    /// There is nothing for it.
    Nothing,
    /// What is next for it comes from disk.
    Waiting,
    /// Its sink takes no more now.
    Full,
    /// It has had as much as its rate allows; an alarm is armed.
    Throttled,
    /// It is gone.
    Gone,
}

impl<D: Driver> Reactor<D> {
    /// Lets every reader of a process send.
    pub(super) fn deliver_all(&mut self, place: Place) {
        self.tell_shared(place);
        // A copy: a reader that is drained leaves the list.
        let readers = self.processes.get(place).map(|process| process.readers.clone()).unwrap_or_default();
        for reader in readers {
            self.deliver(reader);
        }
        self.feed_all(place);
        self.make_announcements(place);
    }

    /// Lets one reader send until its sink is full, it has nothing, or its turn is over.
    pub(super) fn deliver(&mut self, place: Place) {
        if self.look_at(place) {
            return;
        }
        let Some(reader) = self.readers.get(place) else { return };
        let Some(process) = self.place_of_process(reader.subscriber.process) else { return };
        if self.processes.get(process).is_some_and(Process::relays) {
            self.deliver_relayed(place, process, false);
            return self.make_announcements(process);
        }
        let (mut turn_bytes, now_ns) = (0, self.at.monotonic_ns);
        let last = loop {
            match self.step(place, process, Self::step_on) {
                Step::Moved(bytes) => turn_bytes += bytes,
                step => break step,
            }
            if turn_bytes >= TURN_BYTES_MAX {
                self.yield_turn(place);
                break Step::Full;
            }
        };
        if let Some(reader) = self.readers.get_mut(place) {
            reader.idle = last == Step::Nothing;
            let meter = &reader.subscriber.meter;
            meter.stalled.store(last == Step::Full, Ordering::Relaxed);
            // One whose turn is over goes on by itself.
            let full = last == Step::Full && turn_bytes < TURN_BYTES_MAX;
            reader.full.set(full, now_ns, &meter.stalled_ns);
            if reader.is_done() && last == Step::Nothing {
                let subscription = reader.subscriber.key;
                self.drop_reader(place);
                self.notices.push_back(Notice::Drained { subscription });
                return;
            }
        }
        self.resume_sources(process);
        self.make_announcements(process);
    }

    pub(super) fn yield_turn(&mut self, place: Place) {
        let Some(reader) = self.readers.get(place) else { return };
        match reader.subscriber.sink {
            Sink::Frames { connection, .. } if connection.reactor == self.id => {
                let place = Place { slot: connection.slot, generation: connection.generation };
                self.later(Turn::Connection(place));
            }
            Sink::Frames { .. } | Sink::Descriptor(_) | Sink::Outlet { .. } | Sink::Kept => {
                self.later(Turn::Reader(place))
            }
        }
    }

    /// One frame or record of one reader: its channels take turns, and `on` says what a step on one of them is.
    pub(super) fn step(
        &mut self,
        place: Place,
        process: Place,
        on: fn(&mut Self, Place, Place, Channel) -> Step,
    ) -> Step {
        let Some(reader) = self.readers.get(place) else { return Step::Gone };
        let first = reader.subscriber.next_channel;
        let mut otherwise = Step::Nothing;
        for turn in 0..2 {
            let channel = Channel::ALL[(first + turn) % 2];
            match on(self, place, process, channel) {
                Step::Nothing => {}
                Step::Waiting => otherwise = Step::Waiting,
                step => {
                    if let Some(reader) = self.readers.get_mut(place) {
                        reader.subscriber.next_channel = (channel as usize + 1) % 2;
                    }
                    return step;
                }
            }
        }
        otherwise
    }

    fn step_on(&mut self, place: Place, process: Place, channel: Channel) -> Step {
        if let Some(step) = self.go_on_with_parcel(place) {
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
        let stream = &running.streams[channel as usize];
        if running.is_starting() {
            return Step::Nothing;
        }
        let total = stream.history.total();
        if cursor.offset >= total {
            if stream.closed && stream.spool.as_ref().is_some_and(StreamSpool::is_opening) {
                // How long it was is on disk.
                return Step::Waiting;
            }
            let closed = stream.closed;
            self.is_live(place, channel);
            return if closed { self.end(place, channel, total, cursor) } else { Step::Nothing };
        }
        if reader.subscriber.policy == Policy::Latest
            && let Some(step) = self.pass_to_newest(place, process, channel)
        {
            return step;
        }
        let (Some(reader), Some(running)) = (self.readers.get(place), self.processes.get(process)) else {
            return Step::Gone;
        };
        let stream = &running.streams[channel as usize];
        let disk = &reader.disk[channel as usize];
        if disk.bytes(cursor.offset).is_none()
            && let Peek::Gap(to) = stream.history.peek(cursor.offset, 1)
        {
            if let Some(end) = disk.gap(cursor.offset) {
                return self.gap(place, channel, cursor.offset, end.min(to));
            }
            if self.fetch(place, process, channel, cursor.offset, cursor.offset) {
                return Step::Waiting;
            }
            let (Some(reader), Some(running)) = (self.readers.get(place), self.processes.get(process)) else {
                return Step::Gone;
            };
            let stream = &running.streams[channel as usize];
            // Whoever was overtaken once is given some lead, or it would be overtaken at every batch.
            let dropping = reader.subscriber.policy == Policy::DropOldest && !stream.closed;
            let to = if dropping && cursor.offset > 0 { to + (total - to) / 2 } else { to };
            return self.gap(place, channel, cursor.offset, to);
        }
        let Some(allowance) = self.allowance(place) else { return Step::Throttled };
        let step = self.send_next(place, process, channel, allowance);
        if let Some(reader) = self.readers.get_mut(place)
            && let Some(Cursor { offset, .. }) = reader.subscriber.cursors[channel as usize]
        {
            reader.throttle.spend((offset - cursor.offset) as usize);
        }
        step
    }

    /// What comes next for a reader, in its own manner.
    fn send_next(&mut self, place: Place, process: Place, channel: Channel, allowance: Allowance) -> Step {
        // Before it is named what leaves: what nobody waits for must not stand in the ring then.
        if let Some(step) = self.outlet_waits(place) {
            return step;
        }
        let Some(reader) = self.readers.get(place) else { return Step::Gone };
        match reader.subscriber.mode {
            _ if reader.sink.is_some() => self.write_to_sink(place, process, channel, allowance),
            Mode::Line => self.send_lines(place, process, channel, allowance),
            Mode::Chunk | Mode::Lines => self.send_chunk(place, process, channel, allowance),
        }
    }

    /// True exactly when the reader's sink takes a frame now.
    pub(super) fn has_room(&mut self, place: Place) -> bool {
        let Some(reader) = self.readers.get(place) else { return false };
        match (&reader.sink, &reader.subscriber.sink) {
            (Some(sink), _) => !sink.armed,
            (None, Sink::Frames { connection, .. }) => {
                let (connection, in_flight) = (*connection, reader.subscriber.in_flight_bytes);
                if connection.reactor != self.id {
                    return in_flight < REMOTE_WINDOW_BYTES;
                }
                self.local(connection)
                    .is_some_and(|connection| connection.outflow.is_idle() && !connection.outflow.armed)
            }
            (None, Sink::Descriptor(_) | Sink::Outlet { .. } | Sink::Kept) => false,
        }
    }

    pub(super) fn gap(&mut self, place: Place, channel: Channel, from: u64, to: u64) -> Step {
        let Some(reader) = self.readers.get_mut(place) else { return Step::Gone };
        reader.subscriber.skip(channel, to);
        if let Some(held) = &reader.held {
            held.stand_at(to);
        }
        let subscription = reader.subscriber.key;
        let mut record = BytesMut::new();
        if let Some(framing) = &reader.framing {
            framing.gap(channel, from, to, &mut record);
        }
        self.notices.push_back(Notice::Lagged { subscription, channel, from, to });
        self.send_record(place, record)
    }

    pub(super) fn end(&mut self, place: Place, channel: Channel, total: u64, cursor: Cursor) -> Step {
        let Some(reader) = self.readers.get_mut(place) else { return Step::Gone };
        reader.subscriber.cursors[channel as usize] = None;
        let mut record = BytesMut::new();
        if let Some(framing) = &reader.framing {
            framing.end(channel, total, cursor.gap_bytes, &mut record);
        }
        self.send_record(place, record)
    }

    fn send_record(&mut self, place: Place, record: BytesMut) -> Step {
        let Some(reader) = self.readers.get(place) else { return Step::Gone };
        let Sink::Frames { connection, .. } = reader.subscriber.sink else { return Step::Moved(0) };
        if !record.is_empty() {
            self.send_whole(place, connection, record.freeze());
        }
        Step::Moved(0)
    }

    /// Queues whole frames here, or mails them to the connection's reactor.
    pub(super) fn send_whole(&mut self, place: Place, connection: ConnectionKey, frames: Bytes) {
        if self.post(place, &frames) {
            return;
        }
        if connection.reactor != self.id {
            let Some(reader) = self.readers.get_mut(place) else { return };
            let (subscription, credit) = (reader.subscriber.key, frames.len());
            reader.subscriber.in_flight_bytes += credit;
            let mail = Mail::Frame { connection, subscription, frame: frames, credit };
            return self.post.send(connection.reactor, mail);
        }
        let socket_place = Place { slot: connection.slot, generation: connection.generation };
        if let Some(connection) = self.connections.get_mut(socket_place) {
            connection.outflow.push(frames);
            self.push_out(socket_place);
        }
    }

    /// Sends the queue without letting other readers in: the caller is one.
    fn push_out(&mut self, place: Place) {
        use crate::transport::outflow::Flushed;
        let Some(connection) = self.connections.get_mut(place) else { return };
        match connection.outflow.flush(&mut self.driver, &connection.socket, &mut self.credits) {
            Flushed::Empty => {}
            Flushed::Full => self.await_room(place),
            // Whoever reads the socket finds out; until then nothing more is sent.
            Flushed::Gone => self.later(Turn::Connection(place)),
        }
        for (subscription, bytes) in self.credits.drain(..) {
            self.post.send(subscription.home, Mail::Credit { subscription, bytes });
        }
    }

    /// Gathers lines, a frame each, into one send.
    fn send_lines(
        &mut self,
        place: Place,
        process: Place,
        channel: Channel,
        mut allowance: Allowance,
    ) -> Step {
        let Some(reader) = self.readers.get_mut(place) else { return Step::Gone };
        let Some(running) = self.processes.get_mut(process) else { return Step::Gone };
        let Sink::Frames { connection, .. } = reader.subscriber.sink else { return Step::Gone };
        let Some(framing) = &reader.framing else { return Step::Gone };
        let stream = &mut running.streams[channel as usize];
        let disk = &reader.disk[channel as usize];
        let (mut moved, mut why) = (0, Next::Nothing);
        self.prelude.clear();
        while self.prelude.len() < LINES_BATCH_BYTES {
            let next =
                next_cut(&reader.subscriber, disk, framing, stream, channel, allowance, &mut self.lines);
            let Next::Frame { bytes, partial, .. } = next else {
                why = next.frameless();
                break;
            };
            allowance = allowance.less(bytes.len());
            let offset = reader.subscriber.cursors[channel as usize].map_or(0, |cursor| cursor.offset);
            let sequence = reader.subscriber.next_sequence();
            let time = stream.time(framing, offset + bytes.len() as u64);
            let chunk = Chunk { channel, sequence, offset, time, partial, bytes: bytes.len() };
            framing.prelude(chunk, &mut self.prelude);
            self.prelude.extend_from_slice(bytes);
            moved += bytes.len();
            let len = bytes.len();
            reader.subscriber.advance(channel, len);
        }
        if moved == 0 {
            return self.nothing_yet(place, process, channel, &why);
        }
        stream.delivered =
            stream.delivered.max(reader.subscriber.cursors[channel as usize].map_or(0, |c| c.offset));
        let frames = Bytes::copy_from_slice(&self.prelude);
        self.send_whole(place, connection, frames);
        Step::Moved(moved)
    }

    /// Sends one chunk: from the ring where the connection is ours, as a copy where it isn't.
    fn send_chunk(&mut self, place: Place, process: Place, channel: Channel, allowance: Allowance) -> Step {
        let Some(reader) = self.readers.get_mut(place) else { return Step::Gone };
        let Some(running) = self.processes.get_mut(process) else { return Step::Gone };
        let Sink::Frames { connection, .. } = reader.subscriber.sink else { return Step::Gone };
        let Some(framing) = &reader.framing else { return Step::Gone };
        let stream = &mut running.streams[channel as usize];
        let disk = &reader.disk[channel as usize];
        let next = next_cut(&reader.subscriber, disk, framing, stream, channel, allowance, &mut self.lines);
        let Next::Frame { bytes, partial, in_ring } = next else {
            let why = next.frameless();
            return self.nothing_yet(place, process, channel, &why);
        };
        let offset = reader.subscriber.cursors[channel as usize].map_or(0, |cursor| cursor.offset);
        let sequence = reader.subscriber.sequence + 1;
        self.prelude.clear();
        let (len, end) = (bytes.len(), offset + bytes.len() as u64);
        let time = stream.time(framing, end);
        let chunk = Chunk { channel, sequence, offset, time, partial, bytes: len };
        framing.prelude(chunk, &mut self.prelude);
        if connection.reactor != self.id || reader.parcels.is_some() {
            let named = (in_ring && stream.history.is_in_ring()).then_some(offset..end);
            reader.subscriber.next_sequence();
            reader.subscriber.advance(channel, len);
            let Some(parcels) = &mut reader.parcels else {
                let frame = Bytes::from([&self.prelude, bytes].concat());
                stream.delivered = stream.delivered.max(end);
                self.send_whole(place, connection, frame);
                return Step::Moved(len);
            };
            parcels.begin_chunk(&reader.subscriber, &self.prelude, bytes, named);
            stream.delivered = stream.delivered.max(end);
            return self.push_parcel(place);
        }
        let socket_place = Place { slot: connection.slot, generation: connection.generation };
        let Some(socket) = self.connections.get_mut(socket_place) else { return Step::Gone };
        let sent = self.driver.send(&socket.socket, &[IoSlice::new(&self.prelude), IoSlice::new(bytes)]);
        reach(Point::ChunkSent);
        let whole = self.prelude.len() + len;
        let step = match sent {
            Ok(sent) if sent == whole => Step::Moved(len),
            // A waiting reader's bytes stay in the ring until they are sent; a dropping one's are copied now.
            Ok(sent)
                if in_ring && reader.subscriber.policy == Policy::Block && sent >= self.prelude.len() =>
            {
                socket.outflow.rest = Some(Rest { subscription: reader.subscriber.key, channel, end });
                reader.subscriber.next_sequence();
                reader.subscriber.advance(channel, sent - self.prelude.len());
                self.await_room(socket_place);
                return Step::Full;
            }
            Ok(sent) => {
                socket.outflow.push_rest([&self.prelude, bytes], sent);
                Step::Full
            }
            Err(error) => {
                match error.kind() {
                    io::ErrorKind::WouldBlock => self.await_room(socket_place),
                    _ => self.later(Turn::Connection(socket_place)),
                }
                return Step::Full;
            }
        };
        reader.subscriber.next_sequence();
        reader.subscriber.advance(channel, len);
        stream.delivered = stream.delivered.max(end);
        if step == Step::Full {
            self.await_room(socket_place);
        }
        step
    }

    /// There is no frame in hand: is there one on disk, or one that it may have later?
    fn nothing_yet(&mut self, place: Place, process: Place, channel: Channel, why: &Next<'_>) -> Step {
        let cursor = self.readers.get(place).and_then(|reader| reader.subscriber.cursors[channel as usize]);
        match (why, cursor) {
            (Next::Costs(bytes), _) => {
                self.hold_back(place, *bytes);
                Step::Throttled
            }
            (Next::OnDisk(beyond), Some(Cursor { offset, .. }))
                if self.fetch(place, process, channel, offset, *beyond) =>
            {
                Step::Waiting
            }
            (Next::OnDisk(_) | Next::Nothing | Next::Frame { .. }, _) => Step::Nothing,
        }
    }

    /// Goes on with a chunk of which a piece has been sent. True when nothing of it is left.
    pub(super) fn send_rest(&mut self, place: Place) -> bool {
        loop {
            let Some(connection) = self.connections.get_mut(place) else { return false };
            let Some(rest) = connection.outflow.rest else { return true };
            let reader = self.reader_places.get(&rest.subscription.serial).copied();
            let Some(reader) = reader.and_then(|place| self.readers.get_mut(place)) else {
                debug_assert!(false, "a reader with a begun chunk is dropped only after it is copied");
                return false;
            };
            let process = self.process_places.get(&reader.subscriber.process.serial).copied();
            let Some(process_place) = process else { return false };
            let Some(process) = self.processes.get_mut(process_place) else { return false };
            if process.relays() {
                if !self.send_relayed_rest(place, process_place, rest) {
                    return false;
                }
                continue;
            }
            let stream = &mut process.streams[rest.channel as usize];
            let offset = reader.subscriber.cursors[rest.channel as usize].map_or(rest.end, |c| c.offset);
            let Peek::Bytes(bytes) = stream.history.peek(offset, (rest.end - offset) as usize) else {
                debug_assert!(offset >= rest.end, "a waiting reader's bytes are pinned");
                connection.outflow.rest = None;
                continue;
            };
            match self.driver.send(&connection.socket, &[IoSlice::new(bytes)]) {
                Ok(sent) => {
                    reader.subscriber.advance(rest.channel, sent);
                    reader.throttle.spend(sent);
                    stream.delivered = stream.delivered.max(offset + sent as u64);
                    if offset + sent as u64 >= rest.end {
                        connection.outflow.rest = None;
                    }
                    self.resume_sources(process_place);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.await_room(place);
                    return false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.disconnect(place);
                    return false;
                }
            }
        }
    }
}

impl<F> super::processes::Stream<F> {
    /// When the last byte before `end` was read, for who asks.
    fn time(&self, framing: &Framing, end: u64) -> Option<u64> {
        if framing.timestamps { self.times.of(end.checked_sub(1)?) } else { None }
    }
}
