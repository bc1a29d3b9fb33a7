//! Readers from their first day to their last: who reads what, what waits for them, what is kept once they are gone.
//!
//! What they are sent, and when, is [`delivery`](super::delivery)'s. Invariants: a reader is listed by its process, and by
//! its connection where that is ours; a stream's ring lives as long as somebody reads it, and is plain memory afterwards.

use super::connections::Connection;
use super::fifos::Whose;
use super::outlets::Held;
use super::pacing::Throttle;
use super::parcels::{Parcels, fitting};
use super::shared::Shared;
use super::spool::Disk;
use super::table::Place;
use super::{Kind, Reactor};
use crate::command::{Command, Mode, OutletKind, Policy, Sink, Subscribe};
use crate::control::{Descriptors, Failure, Notice, Outcome, StreamEnd};
use crate::driver::Driver;
use crate::driver::op::{Interest, Op};
use crate::keeper::link;
use crate::keeper::protocol::End;
use crate::key::{Channel, ConnectionKey, ProcessKey, SubscriptionKey};
use crate::limits::{HELD_ENDED_MAX, SEND_BUFFER_BYTES};
use crate::meter::Wait;
use crate::stream::history::Peek;
use crate::stream::relay::Branch;
use crate::stream::subscriber::{Cursor, Subscriber};
use crate::sys::fifo::{Plug, Side};
use crate::transport::descriptor::DescriptorSink;
use crate::transport::frames::Framing;
use bytes::Bytes;
use kairo_wire::limits::CHUNK_V1_BYTES_MAX;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Reader<F> {
    pub(super) subscriber: Subscriber,
    /// None where raw bytes go to a descriptor.
    pub(super) framing: Option<Framing>,
    pub(super) sink: Option<DescriptorSink<F>>,
    /// The keeper holds its sink too, and this says where it has come to.
    pub(super) held: Option<Held>,
    /// The keeper holds the socket its frames leave by.
    pub(super) parcels: Option<Parcels>,
    /// Nobody has opened its fifo yet.
    pub(super) plug: Option<Plug>,
    /// It is in another process and maps the ring.
    pub(super) shared: Option<Shared<F>>,
    pub(super) throttle: Throttle,
    /// Its sink takes no more.
    pub(super) full: Wait,
    /// True exactly when, asked last, it had nothing more to send: all, or an unfinished line, is left.
    pub(super) idle: bool,
    /// What it is served from disk, by channel.
    pub(super) disk: [Disk; 2],
    /// What it has of relayed streams and was not given yet, by channel.
    pub(super) branches: [Branch<F>; 2],
}

impl<F> Reader<F> {
    /// It has everything, and somebody has opened its fifo if it has one.
    pub(super) fn is_done(&self) -> bool {
        let under_way = self.parcels.as_ref().is_some_and(Parcels::is_under_way);
        self.subscriber.is_drained() && self.plug.is_none() && !under_way
    }

    /// The keeper holds what its bytes leave by.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some() || self.parcels.is_some()
    }

    /// It is told when what it gets was read.
    fn is_timed(&self) -> bool {
        self.framing.as_ref().is_some_and(|framing| framing.timestamps)
    }
}

/// What raw bytes go to.
struct Made<F> {
    sink: Option<F>,
    plug: Option<Plug>,
    held: Option<Held>,
}

impl<F> Default for Made<F> {
    fn default() -> Self {
        Made { sink: None, plug: None, held: None }
    }
}

/// Retained bytes of ended streams, oldest first.
#[derive(Debug, Default)]
pub(super) struct Retained {
    bytes_max: usize,
    bytes: usize,
    order: VecDeque<(ProcessKey, Channel)>,
    /// Those whose bytes the keeper holds too, in that order: each costs it a descriptor.
    held: VecDeque<(ProcessKey, Channel)>,
    held_max: usize,
}

impl Retained {
    /// `share` of a reactor: one of so many.
    pub(super) fn new(bytes_max: usize, share: u16) -> Retained {
        let held_max = HELD_ENDED_MAX / usize::from(share.max(1));
        Retained { bytes_max, held_max, ..Retained::default() }
    }

    /// The keeper goes on holding what an ended stream wrote. Returns the one it holds no longer, if that is too many.
    fn hold(&mut self, process: ProcessKey, channel: Channel) -> Option<(ProcessKey, Channel)> {
        self.held.push_back((process, channel));
        if self.held.len() > self.held_max { self.held.pop_front() } else { None }
    }

    pub(super) fn is_over(&self) -> bool {
        self.bytes > self.bytes_max
    }

    /// Streams that have ended, in that order.
    pub(super) fn order(&self) -> impl Iterator<Item = (ProcessKey, Channel)> + '_ {
        self.order.iter().copied()
    }

    pub(super) fn take_out(&mut self, place: usize) {
        self.order.remove(place);
    }

    pub(super) fn subtract(&mut self, bytes: usize) {
        self.bytes -= bytes.min(self.bytes);
    }

    pub(super) fn release(&mut self, process: ProcessKey, channel: Channel, bytes: usize) {
        if bytes > 0 {
            self.bytes -= bytes.min(self.bytes);
            self.order.retain(|entry| *entry != (process, channel));
            self.held.retain(|entry| *entry != (process, channel));
        }
    }
}

/// What a system's refusal is to whoever asked.
pub(super) fn refusal(error: &io::Error) -> Failure {
    Failure::Os(error.raw_os_error().unwrap_or(libc::ENOSYS))
}

/// How what a reader is sent looks, if it is sent frames.
pub(super) fn framing_of(subscribe: &Subscribe) -> Option<Framing> {
    let Sink::Frames { chunk_bytes_max, records, timestamps, dialect, process_id, .. } = &subscribe.sink
    else {
        return None;
    };
    Some(Framing {
        id: subscribe.id.clone(),
        process_id: process_id.clone(),
        chunk_bytes_max: *chunk_bytes_max as usize,
        records: *records,
        timestamps: *timestamps,
        dialect: *dialect,
    })
}

/// A reader that stands there.
pub(super) fn subscriber_of(subscribe: Subscribe, cursors: [Option<Cursor>; 2]) -> Subscriber {
    Subscriber {
        key: subscribe.subscription,
        process: subscribe.process,
        cursors,
        mode: subscribe.mode,
        policy: subscribe.policy,
        sink: subscribe.sink,
        sequence: 0,
        confirmed: cursors.map(|cursor| cursor.map_or(0, |cursor| cursor.offset)),
        in_flight_bytes: 0,
        next_channel: 0,
        meter: subscribe.meter,
    }
}

impl<D: Driver> Reactor<D> {
    pub(super) fn subscribe(&mut self, subscribe: Subscribe) {
        let Some(subscribe) = self.unless_unheard(subscribe) else { return };
        let key = subscribe.subscription;
        let (ticket, wait_ns) = match &subscribe.sink {
            Sink::Outlet { kind: OutletKind::Fifo { wait_ns, .. }, ticket } => (Some(*ticket), *wait_ns),
            Sink::Outlet { ticket, .. } => (Some(*ticket), 0),
            Sink::Frames { dedicated, .. } => (*dedicated, 0),
            Sink::Descriptor(_) | Sink::Kept => (None, 0),
        };
        let place = self.place_of_process(subscribe.process).ok_or(Failure::Gone);
        let resumes = subscribe.resumes;
        let large = matches!(subscribe.sink, Sink::Frames { chunk_bytes_max, .. } if chunk_bytes_max as usize > CHUNK_V1_BYTES_MAX);
        // What is spliced counts by its pages, and every wait for room wakes two that could have slept.
        let large = large || self.is_relayed(subscribe.process);
        // A ring that is to be mapped is raised before it is handed out.
        let maps = matches!(subscribe.sink, Sink::Outlet { kind: OutletKind::Shared, .. });
        let history_bytes = subscribe.history_bytes.filter(|_| !maps);
        let made = place.and_then(|place| {
            self.settle_rests(place);
            self.catch_up(place, subscribe.from);
            if resumes {
                self.count_on(place, subscribe.from);
            }
            Ok((place, self.make_reader(place, subscribe)?))
        });
        let (process_place, reader) = match (made, ticket) {
            (Ok(made), _) => made,
            // Who waits for an outlet learns why there is none.
            (Err(failure), Some(ticket)) => return self.done(ticket, Err(failure)),
            (Err(_), None) => return self.notices.push_back(Notice::Drained { subscription: key }),
        };
        if let Some(bytes) = history_bytes {
            self.raise_history(process_place, bytes);
        }
        // Only those who make a source wait are waited for.
        let blocks = reader.subscriber.policy == Policy::Block;
        let back = (resumes && blocks).then(|| reader.subscriber.cursors.map(|cursor| cursor.is_some()));
        let large = large || reader.parcels.is_some();
        let connection = match &reader.subscriber.sink {
            Sink::Frames { connection, .. } => Some(*connection),
            Sink::Descriptor(_) | Sink::Outlet { .. } | Sink::Kept => None,
        };
        let place = self.enlist(process_place, reader);
        self.begin_shared(place, process_place);
        if let Some(plug) = self.readers.get(place).and_then(|reader| reader.plug.as_ref()) {
            let watch = plug.watch;
            self.await_opening(Whose::Reader(place), watch, wait_ns);
        }
        if let Some(connection) = connection {
            self.list_reader(place, connection, large);
        }
        if let Some(wanted) = back {
            self.come_back(process_place, wanted);
        }
        // Noted now, and not with the next take: the kernel may not live so long.
        self.note_blockers(process_place, &Channel::ALL);
        self.deliver(place);
    }

    /// Counts a reader among those of its process.
    pub(super) fn enlist(&mut self, process: Place, reader: Reader<D::Fd>) -> Place {
        let (serial, timed) = (reader.subscriber.key.serial, reader.is_timed());
        let place = self.readers.insert_with(|_| reader);
        self.reader_places.insert(serial, place);
        if let Some(process) = self.processes.get_mut(process) {
            process.readers.push(place);
            process.ask_times(timed, true);
        }
        place
    }

    /// Makes the socket that frames of a reader of its own leave by, and tells whoever asked of the other end.
    fn make_own_socket(
        &mut self,
        subscribe: &mut Subscribe,
        cursors: [Option<Cursor>; 2],
    ) -> Result<Option<Parcels>, Failure> {
        let Sink::Frames { dedicated: Some(ticket), .. } = subscribe.sink else {
            return Ok(None);
        };
        let made = self.driver.outlet(OutletKind::Socket);
        let (socket, theirs, bytes) = made.map_err(|error| refusal(&error))?;
        let parcels = self.hold_framed(subscribe, &socket, cursors);
        let own = self.dedicate(socket);
        if let Sink::Frames { connection, .. } = &mut subscribe.sink {
            *connection = own;
        }
        let descriptors = Descriptors(Arc::new(vec![theirs]));
        self.done(ticket, Ok(Outcome::Opened { descriptors, bytes }));
        Ok(parcels)
    }

    /// A reader sends on a connection, which is served here or elsewhere.
    pub(super) fn list_reader(&mut self, place: Place, key: ConnectionKey, large: bool) {
        if key.reactor != self.id {
            return;
        }
        let Some(connection) = self.connections.get_mut(Place { slot: key.slot, generation: key.generation })
        else {
            return;
        };
        connection.readers.push(place);
        if large {
            self.driver.widen(&connection.socket, SEND_BUFFER_BYTES);
        }
    }

    fn raise_history(&mut self, place: Place, bytes: u32) {
        for channel in Channel::ALL {
            let Some(process) = self.processes.get(place) else { return };
            if bytes > process.streams[channel as usize].history.size().tail_bytes {
                self.resize_history(place, channel, None, Some(bytes));
            }
        }
    }

    fn make_reader(&mut self, process: Place, mut subscribe: Subscribe) -> Result<Reader<D::Fd>, Failure> {
        let streams = &self.processes.get(process).ok_or(Failure::Gone)?.streams;
        let passed = Channel::ALL.map(|channel| streams[channel as usize].history.total());
        let cursor = |wanted: bool, channel: Channel| {
            wanted.then(|| streams[channel as usize].beginning((subscribe.from, subscribe.resumes), channel))
        };
        let cursors = [cursor(subscribe.stdout, Channel::Stdout), cursor(subscribe.stderr, Channel::Stderr)];
        for (meter, cursor) in subscribe.meter.offset.iter().zip(&cursors) {
            meter.set(cursor.map_or(0, |cursor| cursor.offset));
        }
        let rate = subscribe.rate;
        let mut shared = None;
        if let Sink::Outlet { kind: OutletKind::Shared, ticket } = &subscribe.sink {
            let channel = if subscribe.stdout { Channel::Stdout } else { Channel::Stderr };
            let offset = cursors[channel as usize].map_or(0, |cursor| cursor.offset);
            let opened = self.open_shared(process, channel, offset, subscribe.history_bytes)?;
            let (mapped, descriptors, bytes) = opened;
            self.done(*ticket, Ok(Outcome::Opened { descriptors, bytes }));
            shared = Some(mapped);
        }
        let Made { sink, plug, held } = self.make_sink(&subscribe, cursors)?;
        let parcels = self.make_own_socket(&mut subscribe, cursors)?;
        let framing = framing_of(&subscribe);
        let framing = if parcels.is_some() { framing.map(|of| fitting(of, subscribe.mode)) } else { framing };
        let throttle = Throttle::new(rate, self.at.monotonic_ns);
        let branches = Channel::ALL.map(|channel| {
            let offset = cursors[channel as usize].map_or(0, |cursor| cursor.offset);
            Branch::at(passed[channel as usize], offset)
        });
        let subscriber = subscriber_of(subscribe, cursors);
        let sink = sink.map(DescriptorSink::new);
        let (full, idle, disk) = (Wait::default(), false, Default::default());
        Ok(Reader {
            subscriber,
            framing,
            sink,
            held,
            parcels,
            plug,
            shared,
            throttle,
            full,
            idle,
            disk,
            branches,
        })
    }

    /// Makes what raw bytes go to, if they do, and tells whoever asked of the other end; with the plug of a fifo.
    fn make_sink(
        &mut self,
        subscribe: &Subscribe,
        cursors: [Option<Cursor>; 2],
    ) -> Result<Made<D::Fd>, Failure> {
        match &subscribe.sink {
            Sink::Frames { .. } | Sink::Outlet { kind: OutletKind::Shared, .. } => Ok(Made::default()),
            // Those are taken over, not subscribed to.
            Sink::Kept => Err(Failure::Gone),
            Sink::Descriptor(number) => match self.driver.adopt(*number) {
                Ok(fd) => Ok(Made { sink: Some(fd), ..Made::default() }),
                Err(error) => {
                    tracing::error!(%error, "the descriptor can't be written to");
                    Err(refusal(&error))
                }
            },
            Sink::Outlet { kind: OutletKind::Fifo { bytes, user, .. }, ticket } => {
                let made = self.make_fifo(subscribe.id.as_str(), *user, Side::Reads, *bytes)?;
                let (fd, plug, bytes) = made;
                let held = self.hold_outlet(subscribe, &fd, bytes, cursors);
                self.done(*ticket, Ok(Outcome::Named { path: plug.path().to_path_buf(), bytes }));
                Ok(Made { sink: Some(fd), plug: Some(plug), held })
            }
            Sink::Outlet { kind, ticket } => {
                let (fd, theirs, bytes) = self.driver.outlet(*kind).map_err(|error| refusal(&error))?;
                let held = self.hold_outlet(subscribe, &fd, bytes, cursors);
                let descriptors = Descriptors(Arc::new(vec![theirs]));
                self.done(*ticket, Ok(Outcome::Opened { descriptors, bytes }));
                Ok(Made { sink: Some(fd), plug: None, held })
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, key: SubscriptionKey, reply: Option<(ConnectionKey, Bytes)>) {
        self.lane.forget_reader(key);
        if let Some(place) = self.reader_places.get(&key.serial).copied()
            && !self.leaves_behind_parcel(place)
        {
            self.drop_reader(place);
        }
        if let Some((connection, frame)) = reply {
            self.carry_out(Command::Reply { connection, frame });
        }
    }

    /// Comes back when a reader's descriptor takes more.
    pub(super) fn await_sink(&mut self, place: Place) {
        if let Some(sink) = self.readers.get_mut(place).and_then(|reader| reader.sink.as_mut())
            && !std::mem::replace(&mut sink.armed, true)
        {
            let poll = Op::Poll(sink.fd.clone(), Interest::Write);
            self.driver.submit(Kind::Sink.token(place), poll);
        }
    }

    pub(super) fn sink_ready(&mut self, place: Place) {
        if self.bell_of_reader(place) {
            return;
        }
        if let Some(sink) = self.readers.get_mut(place).and_then(|reader| reader.sink.as_mut()) {
            (sink.armed, sink.woken) = (false, true);
            self.deliver(place);
        }
    }

    /// A frame of it has left another reactor, or never will.
    pub(super) fn credited(&mut self, subscription: SubscriptionKey, bytes: usize) {
        let Some(place) = self.reader_places.get(&subscription.serial).copied() else { return };
        if let Some(reader) = self.readers.get_mut(place) {
            let in_flight = &mut reader.subscriber.in_flight_bytes;
            *in_flight = in_flight.saturating_sub(bytes);
            self.deliver(place);
        }
    }

    /// Forgets a reader. A frame of it that has begun is finished from a copy.
    pub(super) fn drop_reader(&mut self, place: Place) {
        self.finish_rest_of(place);
        self.part_from_disk(place);
        self.reader_flows(place);
        let Some(mut reader) = self.readers.remove(place) else { return };
        if let Some(plug) = &reader.plug {
            self.part_from_fifo(Whose::Reader(place), plug);
        }
        self.reader_places.remove(&reader.subscriber.key.serial);
        if reader.is_held() {
            let (process, serial) = (reader.subscriber.process, reader.subscriber.key.serial);
            self.tell_keeper(|packet| link::encode_drop_outlet(process, serial, packet));
        }
        if let Some(sink) = reader.sink.take()
            && sink.armed
        {
            self.driver.cancel(Kind::Sink.token(place));
        }
        if let Sink::Frames { connection, .. } = reader.subscriber.sink {
            self.part_from_connection(place, connection);
        }
        let process_place = self.place_of_process(reader.subscriber.process);
        if let Some(shared) = reader.shared.take() {
            self.part_from_shared(place, shared, process_place);
        }
        let Some(process_place) = process_place else { return };
        if let Some(process) = self.processes.get_mut(process_place) {
            process.readers.retain(|other| *other != place);
            process.ask_times(reader.is_timed(), false);
        }
        for channel in Channel::ALL {
            self.retire(process_place, channel);
        }
        self.resume_sources(process_place);
        self.make_announcements(process_place);
    }

    pub(super) fn local(&mut self, key: ConnectionKey) -> Option<&mut Connection<D::Fd>> {
        let place = Place { slot: key.slot, generation: key.generation };
        if key.reactor == self.id { self.connections.get_mut(place) } else { None }
    }

    /// Copies the unsent part of a reader's begun chunk to its connection's queue.
    pub(super) fn finish_rest_of(&mut self, place: Place) {
        let Some(reader) = self.readers.get(place) else { return };
        let Sink::Frames { connection, .. } = reader.subscriber.sink else { return };
        let (key, process) = (reader.subscriber.key, reader.subscriber.process);
        let cursors = reader.subscriber.cursors;
        if let Some(parcels) = &reader.parcels {
            let rest = Bytes::copy_from_slice(parcels.rest());
            if let Some(connection) = self.local(connection).filter(|_| !rest.is_empty()) {
                connection.outflow.push_front(rest);
            }
            return;
        }
        let Some(rest) = self.local(connection).and_then(|connection| connection.outflow.rest) else {
            return;
        };
        if rest.subscription != key {
            return;
        }
        if self.is_relayed(process) {
            return self.finish_relayed_rest(connection, rest);
        }
        let mut copy = Vec::new();
        let mut at = cursors[rest.channel as usize].map_or(rest.end, |cursor| cursor.offset);
        let process = self.place_of_process(process).and_then(|place| self.processes.get(place));
        if let Some(process) = process {
            let history = &process.streams[rest.channel as usize].history;
            while let Peek::Bytes(run) = history.peek(at, (rest.end - at) as usize) {
                copy.extend_from_slice(run);
                at += run.len() as u64;
            }
        }
        debug_assert_eq!(at, rest.end, "a waiting reader's bytes are pinned");
        if let Some(connection) = self.local(connection) {
            connection.outflow.rest = None;
            connection.outflow.push_front(Bytes::from(copy));
        }
    }

    pub(super) fn announce(&mut self, process: ProcessKey, frames: Vec<(ConnectionKey, Bytes)>) {
        match self.place_of_process(process) {
            Some(place) => {
                if let Some(process) = self.processes.get_mut(place) {
                    process.announcements.extend(frames);
                }
                self.make_announcements(place);
            }
            None => frames.into_iter().for_each(|(connection, frame)| {
                self.carry_out(Command::Reply { connection, frame });
            }),
        }
    }

    /// Sends every exit notice whose connection has been given all the leader had written.
    pub(super) fn make_announcements(&mut self, place: Place) {
        let Some(process) = self.processes.get_mut(place) else { return };
        if process.announcements.is_empty() {
            return;
        }
        let marks = [process.streams[0].exit_mark, process.streams[1].exit_mark];
        let readers = process.readers.clone();
        let waiting = std::mem::take(&mut process.announcements);
        let behind = |reader: &Reader<D::Fd>| {
            let behind = |(cursor, mark): (&Option<Cursor>, u64)| cursor.is_some_and(|c| c.offset < mark);
            let unfinished_line = reader.idle && reader.subscriber.mode != Mode::Chunk;
            reader.subscriber.cursors.iter().zip(marks).any(behind) && !unfinished_line
        };
        for (connection, frame) in waiting {
            let held = readers.iter().filter_map(|reader| self.readers.get(*reader)).any(|reader| {
                let its =
                    matches!(reader.subscriber.sink, Sink::Frames { connection: c, .. } if c == connection);
                its && behind(reader)
            });
            if !held {
                self.carry_out(Command::Reply { connection, frame });
            } else if let Some(process) = self.processes.get_mut(place) {
                process.announcements.push((connection, frame));
            }
        }
    }

    /// Turns the ring of an ended stream into plain memory once nobody reads it or is waited for, within the budget of
    /// all. The keeper's ring stays: the next kernel has the same to tell.
    pub(super) fn retire(&mut self, place: Place, channel: Channel) {
        // One of them may have left.
        self.note_blockers(place, &[channel]);
        let Some(process) = self.processes.get_mut(place) else { return };
        let read = process.readers.iter().filter_map(|reader| self.readers.get(*reader));
        let stream = &process.streams[channel as usize];
        if !stream.closed
            || stream.ghost.is_some()
            || !stream.feeds.is_empty()
            || read.into_iter().any(|reader| reader.subscriber.cursors[channel as usize].is_some())
        {
            return;
        }
        let history = &mut process.streams[channel as usize].history;
        let before = history.retained_bytes();
        history.retire();
        let bytes = history.retained_bytes() - before;
        if bytes > 0 {
            self.retained.bytes += bytes;
            let key = process.key;
            self.retained.order.push_back((key, channel));
            if let Some((oldest, channel)) = self.retained.hold(key, channel) {
                self.let_go(oldest, channel);
            }
        }
        self.history_changed(place, channel);
        self.trim_retained();
    }

    /// Has the keeper hold nothing more of an ended stream: whoever comes after us knows how long it was, by its note.
    pub(super) fn let_go(&mut self, process: ProcessKey, channel: Channel) {
        let place = self.place_of_process(process);
        let Some(found) = place.and_then(|place| self.processes.get_mut(place)) else { return };
        let history = &found.streams[channel as usize].history;
        let end = StreamEnd { total_bytes: history.total(), cut_bytes: history.total() };
        found.releasing.push(End::of(channel));
        self.notices.push_back(Notice::LetGo { process, channel, end });
    }
}
