//! Frames on a socket that the keeper holds too, so that no kernel's death is an end to it, or tears one.
//!
//! ```text
//!   note: prelude here, payload named ─▶ ring ──write──▶ input staging pipe ──splice──▶ socket      T counts the wire's bytes
//! ```
//!
//! What leaves takes the steps of every input, as raw bytes do ([`outlets`](super::outlets)); and before the first byte of a frame
//! leaves, shared memory says what frame that is ([`Parcel`]). Whoever comes after a kill sends the rest of that very frame, and
//! goes on where it ends. Invariants: the payload of a frame that is under way stays in the ring, which the keeper has, until it
//! is through; that of a reader nobody waits for is moved out of it, before anything can be taken. A relayed stream's frames are
//! [`relayed_parcels`](super::relayed_parcels)'.

use super::connections::Connection;
use super::delivery::Step;
use super::outlets::AdoptedOutlet;
use super::pacing::Throttle;
use super::readers::{Reader, framing_of, subscriber_of};
use super::table::Place;
use super::{Reactor, Turn};
use crate::command::{Mode, Policy, Sink, Subscribe};
use crate::control::Notice;
use crate::driver::Driver;
use crate::keeper::link;
use crate::keeper::protocol::{End, VERSION_FRAMES};
use crate::key::{Channel, ConnectionKey, ProcessKey, SubscriptionKey};
use crate::limits::{CLOSE_PATIENCE_NS, HELD_CHUNK_BYTES_MAX, PARCEL_BYTES_MAX};
use crate::points::{Point, reach};
use crate::reactor::timers::Alarm;
use crate::stream::history::{History, Peek};
use crate::stream::relay::Branch;
use crate::stream::source::{Staging, outlet_name};
use crate::stream::steps::{Fed, carry, duplicate, transfer};
use crate::stream::subscriber::{Cursor, Subscriber};
use crate::transport::descriptor::Put;
use crate::transport::frames::Framing;
use kairo_shm::inbox::{Inbox, Parcel, Standing};
use std::io;
use std::ops::Range;

/// How far a pass has come with what is under way: so many bytes of the stream went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it has gone.
    Whole(usize),
    /// Some of it.
    Part(usize),
}

/// What leaves in frames by a socket that the keeper holds.
#[derive(Debug)]
pub(super) struct Parcels {
    place: Inbox,
    channel: Channel,
    /// What is under way.
    parcel: Option<Parcel>,
}

fn standing(subscriber: &Subscriber, channel: Channel) -> Standing {
    match subscriber.cursors[channel as usize] {
        Some(Cursor { offset, gap_bytes }) => Standing { offset: Some(offset), gap_bytes },
        None => Standing::default(),
    }
}

/// How frames of such a reader look: chunks are of a size that is moved at once.
pub(super) fn fitting(framing: Framing, mode: Mode) -> Framing {
    let max = if mode == Mode::Chunk { HELD_CHUNK_BYTES_MAX } else { usize::MAX };
    Framing { chunk_bytes_max: framing.chunk_bytes_max.min(max), ..framing }
}

impl Parcels {
    /// True exactly when something has begun to leave, or is about to.
    pub(super) fn is_under_way(&self) -> bool {
        self.parcel.is_some()
    }

    /// Notes what leaves next, before any of it does: bytes, then a part of the stream. Its reader has been moved behind it.
    pub(super) fn begin(&mut self, subscriber: &Subscriber, pieces: &[&[u8]], payload: Range<u64>) {
        self.begin_with((subscriber.sequence, standing(subscriber, self.channel)), pieces, payload);
    }

    /// The same, of a reader that will have had so many chunks and stand there.
    pub(super) fn begin_with(
        &mut self,
        (sequence, then): (u64, Standing),
        pieces: &[&[u8]],
        payload: Range<u64>,
    ) {
        debug_assert!(self.parcel.is_none(), "one frame is finished before the next begins");
        self.place.begin_parcel(pieces, Parcel { payload, sequence, then, ..Parcel::default() });
        self.parcel = self.place.parcel();
        reach(Point::FrameNoted);
    }

    /// The same of a chunk; `named`: its bytes stay in the ring, and are these of the stream.
    pub(super) fn begin_chunk(
        &mut self,
        subscriber: &Subscriber,
        prelude: &[u8],
        bytes: &[u8],
        named: Option<Range<u64>>,
    ) {
        match named {
            Some(payload) => self.begin(subscriber, &[prelude], payload),
            None => self.begin(subscriber, &[prelude, bytes], 0..0),
        }
    }

    /// Sends what is under way, as far as it goes.
    fn push<D: Driver>(
        &mut self,
        driver: &mut D,
        staging: &Staging<D::Fd>,
        socket: &D::Fd,
        key: SubscriptionKey,
        history: &History,
    ) -> Put {
        let before = self.place.written();
        while let Some(parcel) = &self.parcel {
            let written = self.place.written();
            let left = parcel.payload_left(written);
            let payload = match history.peek(left.start, (left.end - left.start) as usize) {
                Peek::Bytes(run) => run,
                Peek::Gap(_) | Peek::Nothing => &[],
            };
            let pieces = [self.place.parcel_bytes(parcel), payload];
            let bytes = pieces[0].len() + pieces[1].len();
            if bytes == 0 {
                debug_assert!(left.is_empty(), "what is under way is pinned");
                self.parcel = None;
                break;
            }
            let name = outlet_name(key.serial);
            match carry(driver, (socket, usize::MAX), &self.place, staging, name, pieces) {
                Ok(Fed::Some)
                    if self.place.written() - written < bytes.min(staging.input.bytes_max) as u64 =>
                {
                    return Put::Full;
                }
                Ok(Fed::Some) => {}
                Ok(Fed::Full) => return Put::Full,
                Ok(Fed::Broken) => return Put::Closed(io::ErrorKind::BrokenPipe.into()),
                Err(error) => return Put::Closed(error),
            }
        }
        Put::Bytes((self.place.written() - before) as usize)
    }

    /// One pass of what is under way, whose payload is at the front of `from` as far as it has not gone. `alone`: nobody else reads
    /// that, so it is taken out, which is noted to be [moving](Parcels::moving) and is to be [counted](Parcels::counted); else it
    /// stays there. How far that has come, and whether the socket takes more.
    pub(super) fn pass<D: Driver>(
        &mut self,
        driver: &mut D,
        staging: &Staging<D::Fd>,
        (from, socket): (&D::Fd, &D::Fd),
        key: SubscriptionKey,
        (max, alone): (usize, bool),
    ) -> io::Result<(Progress, Fed)> {
        let Some(parcel) = &self.parcel else { return Ok((Progress::Whole(0), Fed::Some)) };
        let (name, before) = (outlet_name(key.serial), self.place.written());
        let left = parcel.payload_left(before);
        let (head, payload) = (self.place.parcel_bytes(parcel), (left.end - left.start) as usize);
        let sent = |place: &Inbox| (parcel.payload_left(place.written()).start - left.start) as usize;
        let (fed, bytes) = match payload.min(max) {
            0 => (carry(driver, (socket, usize::MAX), &self.place, staging, name, [head, &[]])?, 0),
            max if alone => transfer(driver, from, (socket, max), &mut self.place, staging, name)?,
            max => {
                let fed = duplicate(driver, (head, from), (socket, max), &self.place, staging, name)?;
                (fed, sent(&self.place))
            }
        };
        if self.place.written() == parcel.to() {
            self.parcel = None;
            return Ok((Progress::Whole(bytes), fed));
        }
        self.parcel = self.place.parcel();
        // Fewer pieces fit the staging pipe, or the socket is full: the next attempt tells, and costs as much as a question.
        let fed = if fed == Fed::Some && bytes == 0 { Fed::Full } else { fed };
        Ok((Progress::Part(bytes), fed))
    }

    /// What of it is staged may not be in its source any more, until it is [counted](Parcels::counted).
    pub(super) fn moving(&self) {
        self.place.moves(true);
    }

    /// What was taken out of a source is in that stream's own account.
    pub(super) fn counted(&self) {
        self.place.moves(false);
    }

    /// What of the stream is under way and has not gone.
    fn left(&self) -> Option<Range<u64>> {
        let left = self.parcel.as_ref()?.payload_left(self.place.written());
        (!left.is_empty()).then_some(left)
    }

    /// True exactly when the rest of what is under way is not all here.
    pub(super) fn waits_for_source(&self) -> bool {
        self.left().is_some()
    }

    /// Of which output what under way is in the source still.
    pub(super) fn in_source(&self) -> Option<(Channel, Range<u64>)> {
        Some((self.channel, self.left()?))
    }

    /// Moves what is under way out of the ring.
    fn keep(&mut self, history: &History) {
        let Some(left) = self.left() else { return };
        let (mut rest, mut at) = (Vec::new(), left.start);
        while let Peek::Bytes(run) = history.peek(at, (left.end - at) as usize) {
            rest.extend_from_slice(run);
            at += run.len() as u64;
        }
        self.keep_bytes(&rest);
    }

    /// Notes what is under way anew, with these bytes of the stream, which are all that is left of it.
    pub(super) fn keep_bytes(&mut self, rest: &[u8]) {
        let (Some(parcel), Some(left)) = (&self.parcel, self.left()) else { return };
        debug_assert_eq!(rest.len() as u64, left.end - left.start, "what is under way is where it was");
        let here = self.place.parcel_bytes(parcel).to_vec();
        let parcel = Parcel { payload: left.end..left.end, ..parcel.clone() };
        self.place.begin_parcel(&[&here, rest], parcel);
        self.parcel = self.place.parcel();
        reach(Point::FrameKept);
    }

    /// What is left of it, which is all here.
    pub(super) fn rest(&self) -> &[u8] {
        self.parcel.as_ref().map_or(&[], |parcel| self.place.parcel_bytes(parcel))
    }
}

impl<D: Driver> Reactor<D> {
    /// Has the keeper hold the socket of a reader in frames, before the reader has its end. None where it goes with this kernel.
    pub(super) fn hold_framed(
        &mut self,
        subscribe: &Subscribe,
        socket: &D::Fd,
        cursors: [Option<Cursor>; 2],
    ) -> Option<Parcels> {
        let key = subscribe.process;
        subscribe.note.as_ref()?;
        if self.lane.speaks(VERSION_FRAMES) != Some(true) || self.is_unheld(key) {
            return None;
        }
        let (channel, cursor) = match cursors {
            [Some(cursor), None] => (Channel::Stdout, cursor),
            [None, Some(cursor)] => (Channel::Stderr, cursor),
            // Both on one socket nobody can ask for.
            [Some(_), Some(_)] | [None, None] => return None,
        };
        let standing = Standing { offset: Some(cursor.offset), gap_bytes: 0 };
        let made = Inbox::for_parcels(PARCEL_BYTES_MAX, standing).map_err(io::Error::other);
        let told = made.and_then(|place| {
            self.tell_of_outlet(subscribe, (End::of(channel), true), socket, &place)?;
            Ok(Parcels { place, channel, parcel: None })
        });
        told.inspect_err(|error| tracing::warn!(%error, "a socket ends with this kernel")).ok()
    }

    /// Sends whole frames, and nothing else, by a socket that is held. True if the reader has one.
    pub(super) fn post(&mut self, place: Place, frames: &[u8]) -> bool {
        let Some(reader) = self.readers.get_mut(place) else { return false };
        let Some(parcels) = &mut reader.parcels else { return false };
        parcels.begin(&reader.subscriber, &[frames], 0..0);
        self.push_parcel(place);
        true
    }

    /// Goes on with what is under way to a reader. None if nothing is.
    pub(super) fn go_on_with_parcel(&mut self, place: Place) -> Option<Step> {
        let reader = self.readers.get(place)?;
        reader.parcels.as_ref().filter(|parcels| parcels.is_under_way())?;
        let Sink::Frames { connection, .. } = reader.subscriber.sink else { return None };
        if self.local(connection).is_none_or(|connection| connection.outflow.armed) {
            return Some(Step::Full);
        }
        Some(self.push_parcel(place))
    }

    /// Sends what is under way to a reader, as far as it goes.
    pub(super) fn push_parcel(&mut self, place: Place) -> Step {
        if let Some(step) = self.outlet_waits(place) {
            return step;
        }
        let Some(reader) = self.readers.get_mut(place) else { return Step::Gone };
        let Sink::Frames { connection, .. } = reader.subscriber.sink else { return Step::Gone };
        let Some(parcels) = &mut reader.parcels else { return Step::Gone };
        let socket_place = Place { slot: connection.slot, generation: connection.generation };
        let Some(Connection { socket, .. }) = self.connections.get(socket_place) else { return Step::Gone };
        let process = self.process_places.get(&reader.subscriber.process.serial);
        let Some(process) = process.and_then(|place| self.processes.get(*place)) else { return Step::Gone };
        let history = &process.streams[parcels.channel as usize].history;
        let put = match &self.staging {
            Some(staging) => parcels.push(&mut self.driver, staging, socket, reader.subscriber.key, history),
            None => Put::Closed(io::ErrorKind::OutOfMemory.into()),
        };
        if matches!(put, Put::Full) && reader.subscriber.policy != Policy::Block {
            parcels.keep(history);
        }
        reader.subscriber.confirm();
        if let Some(left) = parcels.left() {
            reader.subscriber.confirmed[parcels.channel as usize] = left.start;
        }
        match put {
            Put::Bytes(bytes) => {
                self.parcel_is_through(place);
                Step::Moved(bytes)
            }
            Put::Full => {
                self.await_room(socket_place);
                Step::Full
            }
            Put::Closed(error) => {
                tracing::debug!(%error, "a socket was closed");
                self.disconnect(socket_place);
                Step::Gone
            }
        }
    }

    /// Moves what is under way to readers of a process out of its rings, which go.
    pub(super) fn keep_parcels(&mut self, process: Place) {
        let Some(running) = self.processes.get(process) else { return };
        if running.relays() {
            for reader in running.readers.clone() {
                self.keep_relayed_parcel(reader, process);
            }
            return;
        }
        for reader in &running.readers {
            if let Some(parcels) = self.readers.get_mut(*reader).and_then(|reader| reader.parcels.as_mut()) {
                parcels.keep(&running.streams[parcels.channel as usize].history);
            }
        }
    }

    /// Nobody wants a reader any more: what has begun to leave is finished, by whichever kernel, and then it goes. False if there is
    /// nothing of that kind.
    pub(super) fn leaves_behind_parcel(&mut self, place: Place) -> bool {
        let Some(reader) = self.readers.get_mut(place) else { return false };
        let Some(parcels) = reader.parcels.as_mut().filter(|parcels| parcels.is_under_way()) else {
            return false;
        };
        let process = self.process_places.get(&reader.subscriber.process.serial);
        let Some(process) = process.and_then(|place| self.processes.get(*place)) else { return false };
        parcels.place.request_close();
        // What is in a source stays there: whoever is relayed to still waits for it.
        if !process.relays() || !parcels.waits_for_source() {
            parcels.keep(&process.streams[parcels.channel as usize].history);
            reader.subscriber.cursors = [None; 2];
            reader.subscriber.confirm();
        }
        if let Sink::Frames { connection, .. } = reader.subscriber.sink {
            self.is_closing(connection);
        }
        true
    }

    /// All of what was under way has gone: one that nobody wants any more is done with it.
    pub(super) fn parcel_is_through(&mut self, place: Place) {
        if let Some(reader) = self.readers.get_mut(place)
            && reader.parcels.as_ref().is_some_and(|parcels| parcels.place.is_closing())
        {
            reader.subscriber.cursors = [None; 2];
            self.later(Turn::Reader(place));
        }
    }

    /// What is on its way there has so much time, and no more.
    fn is_closing(&mut self, connection: ConnectionKey) {
        let place = Place { slot: connection.slot, generation: connection.generation };
        self.timers.arm(Alarm::connection(place), self.at.monotonic_ns + CLOSE_PATIENCE_NS);
    }

    /// Goes on with the frames a dead kernel sent.
    pub(super) fn inherit_framed(&mut self, process: Place, outlet: AdoptedOutlet) {
        let AdoptedOutlet { fd, place, mut subscribe } = outlet;
        let (key, of) = (subscribe.subscription, subscribe.process);
        let channel = if subscribe.stdout { Channel::Stdout } else { Channel::Stderr };
        let found = place.parcel().filter(|parcel| self.has_whole(process, channel, parcel, &place));
        let Some(parcel) = found else {
            tracing::error!("what a dead kernel was sending in frames can't be gone on with");
            return self.part_from_outlet(of, key);
        };
        let Standing { offset, gap_bytes } = parcel.then;
        let (sequence, closing) = (parcel.sequence, place.is_closing());
        let left = parcel.payload_left(place.written());
        // Of a relayed stream it has what went; of one that is kept, what is under way is pinned behind it.
        let Some(running) = self.processes.get(process) else { return };
        let (relayed, total) = (running.relays(), running.streams[channel as usize].history.total());
        let offset = if relayed && !left.is_empty() { Some(left.start) } else { offset };
        let in_source = relayed && !left.is_empty();
        let mut cursors = [None; 2];
        let passed = offset.unwrap_or(0);
        cursors[channel as usize] =
            offset.filter(|_| !closing || in_source).map(|offset| Cursor { offset, gap_bytes });
        subscribe.meter.offset[channel as usize].set(passed);
        subscribe.meter.gap_bytes.add(gap_bytes);
        subscribe.meter.sequence.set(sequence);
        let socket = self.driver.import(fd);
        let connection = self.dedicate(socket);
        if let Sink::Frames { connection: of, .. } = &mut subscribe.sink {
            *of = connection;
        }
        let mut parcels = Parcels { parcel: Some(parcel), place, channel };
        parcels.counted();
        let throttle = Throttle::new(subscribe.rate, self.at.monotonic_ns);
        let blocks = subscribe.policy == Policy::Block;
        let framing = framing_of(&subscribe).map(|framing| fitting(framing, subscribe.mode));
        let Some(running) = self.processes.get(process) else { return };
        let history = &running.streams[channel as usize].history;
        if !relayed && (!blocks || closing || !history.is_in_ring()) {
            parcels.keep(history);
        }
        let mut subscriber = Subscriber { sequence, ..subscriber_of(subscribe, cursors) };
        if let Some(left) = parcels.left() {
            subscriber.confirmed[channel as usize] = left.start;
        }
        let reader = Reader {
            subscriber,
            framing,
            sink: None,
            held: None,
            parcels: Some(parcels),
            plug: None,
            shared: None,
            throttle,
            full: Default::default(),
            idle: false,
            disk: Default::default(),
            branches: [0; 2].map(|_| Branch::at(if relayed { total } else { passed }, passed)),
        };
        let place = self.enlist(process, reader);
        self.list_reader(place, connection, true);
        if closing {
            self.is_closing(connection);
        }
        if blocks {
            self.come_back(process, cursors.map(|cursor| cursor.is_some()));
        }
        self.note_blockers(process, &Channel::ALL);
        self.later(Turn::Reader(place));
    }

    /// True exactly when the rest of it can be made.
    fn has_whole(&mut self, process: Place, channel: Channel, parcel: &Parcel, place: &Inbox) -> bool {
        let Some(running) = self.processes.get(process) else { return false };
        let stream = &running.streams[channel as usize];
        let mut left = parcel.payload_left(place.written());
        if running.relays() {
            let queued =
                stream.source.as_ref().map_or(0, |source| self.driver.queued(&source.fd).unwrap_or(0));
            let in_source = stream.history.total()..=stream.history.total() + queued as u64;
            return left.is_empty() || in_source.contains(&left.start) && in_source.contains(&left.end);
        }
        while let Peek::Bytes(run) = stream.history.peek(left.start, (left.end - left.start) as usize) {
            left.start += run.len() as u64;
        }
        left.is_empty()
    }

    /// The keeper lets it go, and its reader sees the end.
    pub(super) fn part_from_outlet(&mut self, process: ProcessKey, key: SubscriptionKey) {
        self.tell_keeper(|packet| link::encode_drop_outlet(process, key.serial, packet));
        self.notices.push_back(Notice::Drained { subscription: key });
    }
}
