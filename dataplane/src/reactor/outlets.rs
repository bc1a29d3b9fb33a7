//! Outlets: what raw bytes leave by to a client, held by the keeper too, so that no kernel's death is an end to them.
//!
//! ```text
//!  history:  ring ──write──▶ input staging pipe ──splice──▶ outlet
//!  relay:    source ──tee──▶ input staging pipe ──splice──▶ outlet     among several readers
//!            source ────────────splice────────────────────▶ outlet     alone
//! ```
//!
//! Where one has come to is a word in shared memory which the keeper holds with it: an inbox nothing is written to. What leaves
//! takes the steps of every input ([`steps`](crate::stream::steps)), so whoever comes after a kill finds the byte that is next,
//! in the ring or in the source. A reader that has a source alone needs no steps: what went is in its pipe, what didn't in the
//! source. Of more than a few at once each is given a tee of its own, without the steps: one of them may be in doubt, and that is told.
//! What is not held (by a keeper of an earlier version) ends with this kernel.

use super::Reactor;
use super::Turn;
use super::delivery::Step;
use super::pacing::{Allowance, Throttle};
use super::readers::{Reader, subscriber_of};
use super::table::Place;
use crate::command::{Policy, Sink, Subscribe};
use crate::driver::Driver;
use crate::keeper::link;
use crate::keeper::protocol::{End, VERSION_HOLDS};
use crate::key::{Channel, SubscriptionKey};
use crate::limits::{EXACT_READERS_MAX, INPUT_STAGING_BYTES, TURN_BYTES_MAX};
use crate::points::{Point, reach};
use crate::stream::relay::{Branch, Moved, let_go, splice, tee};
use crate::stream::source::{Staging, outlet_name, output_name};
use crate::stream::steps::{Fed, carry, duplicate};
use crate::stream::subscriber::Cursor;
use crate::sys::pipe::capacity;
use crate::transport::descriptor::{DescriptorSink, Put};
use kairo_shm::inbox::Inbox;
use kairo_shm::layout::RingError;
use kairo_shm::page::Side;
use std::io;
use std::os::fd::OwnedFd;

/// An outlet that the keeper holds too.
#[derive(Debug)]
pub(super) struct Held {
    place: Inbox,
    /// Size of its pipe, bytes; none for a socket.
    pipe_bytes: Option<usize>,
}

/// An outlet of a dead kernel, and who reads it.
#[derive(Debug)]
pub struct AdoptedOutlet {
    /// Our end of it.
    pub fd: OwnedFd,
    /// Where it has come to.
    pub place: Inbox,
    /// Its reader; it begins where the outlet stands.
    pub subscribe: Subscribe,
}

impl Held {
    fn new(offset: u64, pipe_bytes: Option<usize>) -> Result<Held, RingError> {
        // Nothing is ever in it: that is how much may be on its way at once.
        let place = Inbox::create(TURN_BYTES_MAX)?;
        place.begin_feed(offset);
        Ok(Held { place, pipe_bytes })
    }

    /// The offset of the byte that is next.
    pub(super) fn offset(&self) -> u64 {
        self.place.fed_from().unwrap_or(0) + self.place.written()
    }

    /// All before `offset` was given to the reader, or is lost to it.
    pub(super) fn stand_at(&self, offset: u64) {
        self.place.begin_feed(offset.saturating_sub(self.place.written()));
    }

    /// How many bytes may fit; at least one is tried once somebody says that something does: the pipe may be closed.
    fn room<D: Driver>(&self, driver: &mut D, sink: &mut DescriptorSink<D::Fd>) -> io::Result<usize> {
        // A dead kernel's doubt has been told; it must not be taken for ours.
        if self.place.expected() > self.place.written() {
            self.place.settle(self.place.written());
        }
        let least = usize::from(std::mem::take(&mut sink.woken));
        match self.pipe_bytes {
            Some(bytes) => Ok(bytes.saturating_sub(driver.queued(&sink.fd)?).max(least)),
            None => Ok(usize::MAX),
        }
    }

    /// Gives the reader what comes next, as far as it goes.
    pub(super) fn put<D: Driver>(
        &self,
        driver: &mut D,
        staging: &Staging<D::Fd>,
        sink: &mut DescriptorSink<D::Fd>,
        key: SubscriptionKey,
        bytes: &[u8],
    ) -> Put {
        let before = self.place.written();
        let fed = self.room(driver, sink).and_then(|room| {
            carry(driver, (&sink.fd, room), &self.place, staging, outlet_name(key.serial), [bytes, &[]])
        });
        self.came_of(fed, before)
    }

    /// The same from the front of a pipe, where it stays.
    fn duplicate<D: Driver>(
        &self,
        driver: &mut D,
        staging: &Staging<D::Fd>,
        (from, sink): (&D::Fd, &mut DescriptorSink<D::Fd>),
        key: SubscriptionKey,
        max: usize,
    ) -> Put {
        let before = self.place.written();
        let fed = self.room(driver, sink).and_then(|room| {
            let name = outlet_name(key.serial);
            duplicate(driver, (&[], from), (&sink.fd, room.min(max)), &self.place, staging, name)
        });
        self.came_of(fed, before)
    }

    /// The same at once: whoever dies in the middle leaves it in doubt where this one stands.
    fn duplicate_at_once<D: Driver>(
        &self,
        driver: &mut D,
        (from, sink): (&D::Fd, &DescriptorSink<D::Fd>),
        max: usize,
    ) -> Put {
        let (before, max) = (self.place.written(), max.min(self.place.capacity_bytes()));
        self.place.lend(max);
        self.place.expect(max);
        let moved = tee(driver, from, &sink.fd, max);
        let bytes = if let Moved::Bytes(bytes) = moved { bytes } else { 0 };
        self.place.settle(before + bytes as u64);
        match moved {
            Moved::Bytes(bytes) => Put::Bytes(bytes),
            Moved::Full | Moved::Nothing | Moved::End => Put::Full,
            Moved::Unsuited => Put::Closed(io::ErrorKind::Unsupported.into()),
            Moved::Broken(error) => Put::Closed(error),
        }
    }

    fn came_of(&self, fed: io::Result<Fed>, before: u64) -> Put {
        match fed {
            Ok(Fed::Some) => Put::Bytes((self.place.written() - before) as usize),
            Ok(Fed::Full) => Put::Full,
            Ok(Fed::Broken) => Put::Closed(io::ErrorKind::BrokenPipe.into()),
            Err(error) => Put::Closed(error),
        }
    }
}

impl<D: Driver> Reactor<D> {
    /// A reader whose outlet is to be held waits until the keeper has said whether it can.
    pub(super) fn unless_unheard(&mut self, subscribe: Subscribe) -> Option<Subscribe> {
        if subscribe.note.is_none() || self.lane.speaks(VERSION_HOLDS).is_some() {
            return Some(subscribe);
        }
        self.lane.await_greeting(subscribe);
        None
    }

    /// Has the keeper hold our end of a reader's outlet, before the reader has its own.
    pub(super) fn hold_outlet(
        &mut self,
        subscribe: &Subscribe,
        fd: &D::Fd,
        pipe_bytes: usize,
        cursors: [Option<Cursor>; 2],
    ) -> Option<Held> {
        subscribe.note.as_ref()?;
        if self.lane.speaks(VERSION_HOLDS) != Some(true) || self.is_unheld(subscribe.process) {
            return None;
        }
        let (end, cursor) = match cursors {
            [Some(cursor), _] => (End::Stdout, cursor),
            [None, Some(cursor)] => (End::Stderr, cursor),
            [None, None] => return None,
        };
        let held = Held::new(cursor.offset, Some(pipe_bytes).filter(|bytes| *bytes > 0));
        let told = held.map_err(io::Error::other).and_then(|held| {
            self.tell_of_outlet(subscribe, (end, false), fd, &held.place)?;
            Ok(held)
        });
        told.inspect_err(|error| tracing::warn!(%error, "an outlet ends with this kernel")).ok()
    }

    /// Hands the keeper our end of an outlet and where it has come to. `kind`: of which output, and whether it is in frames.
    pub(super) fn tell_of_outlet(
        &mut self,
        subscribe: &Subscribe,
        kind: (End, bool),
        fd: &D::Fd,
        place: &Inbox,
    ) -> io::Result<()> {
        let (process, serial) = (subscribe.process, subscribe.subscription.serial);
        let note = subscribe.note.as_deref().unwrap_or_default();
        let place = self.driver.import(place.descriptor().try_clone_to_owned()?);
        let encode = |packet: &mut Vec<u8>| link::encode_hold_outlet(process, serial, kind, note, packet);
        self.lane.send(&mut self.driver, encode, &[fd.clone(), place])
    }

    /// Why nothing can go into a reader's outlet now, if it is one that is held: what goes must be accounted for.
    pub(super) fn outlet_waits(&mut self, place: Place) -> Option<Step> {
        self.readers.get(place).filter(|reader| reader.is_held())?;
        if self.staging.is_none() {
            match self.open_staging() {
                Ok(staging) => self.staging = Some(staging),
                Err(error) => tracing::error!(%error, "an outlet can't be accounted for"),
            }
        }
        if self.lane.is_full() {
            self.once_lane_is_free(Turn::Reader(place));
            return Some(Step::Waiting);
        }
        None
    }

    /// Writes what comes next for a reader to its descriptor, once nothing keeps its outlet back.
    pub(super) fn write_to_sink(
        &mut self,
        place: Place,
        process: Place,
        channel: Channel,
        allowance: Allowance,
    ) -> Step {
        let Some(reader) = self.readers.get_mut(place) else { return Step::Gone };
        let Some(running) = self.processes.get_mut(process) else { return Step::Gone };
        let Some(sink) = &mut reader.sink else { return Step::Gone };
        let stream = &mut running.streams[channel as usize];
        let offset = reader.subscriber.cursors[channel as usize].map_or(0, |cursor| cursor.offset);
        let (disk, max) = (&reader.disk[channel as usize], TURN_BYTES_MAX.min(allowance.bytes));
        let Some(bytes) = disk.or(&stream.history, offset, max) else { return Step::Nothing };
        let put = match (&reader.held, &self.staging) {
            (Some(held), Some(staging)) => {
                held.put(&mut self.driver, staging, sink, reader.subscriber.key, bytes)
            }
            _ => sink.put(&mut self.driver, bytes),
        };
        match put {
            Put::Bytes(sent) => {
                reader.subscriber.advance(channel, sent);
                reader.subscriber.confirm();
                stream.delivered = stream.delivered.max(offset + sent as u64);
                Step::Moved(sent)
            }
            Put::Full => {
                self.await_sink(place);
                Step::Full
            }
            Put::Closed(error) => {
                tracing::debug!(%error, "the sink was closed");
                reader.subscriber.failed(&error);
                reader.subscriber.cursors[channel as usize] = None;
                // Our own output is for good and everywhere: its child gets SIGPIPE. A reader that leaves is one of many.
                if matches!(reader.subscriber.sink, Sink::Descriptor(_)) {
                    self.close_stream(process, channel);
                }
                Step::Moved(0)
            }
        }
    }

    /// Duplicates what is at the front of a source for a reader whose outlet is held; none if it isn't. How many bytes it took.
    pub(super) fn offer_held(
        &mut self,
        (place, process, channel): (Place, Place, Channel),
        from: &D::Fd,
        max: usize,
    ) -> Option<usize> {
        self.readers.get(place)?.held.as_ref()?;
        let Some(allowance) = self.allowance(place) else { return Some(0) };
        if self.outlet_waits(place).is_some() {
            return Some(0);
        }
        let many = self.are_many(process);
        let reader = self.readers.get_mut(place)?;
        let Some(sink) = reader.sink.as_mut().filter(|sink| !sink.armed) else { return Some(0) };
        let staging = self.staging.as_ref()?;
        let key = reader.subscriber.key;
        let max = max.min(allowance.bytes);
        let held = reader.held.as_ref()?;
        let put = match many && held.pipe_bytes.is_some() {
            true => {
                // It isn't staged, so nothing that is says where it stands.
                staging.page.name(Side::Input, 0);
                held.duplicate_at_once(&mut self.driver, (from, sink), max)
            }
            false => held.duplicate(&mut self.driver, staging, (from, sink), key, max),
        };
        match put {
            Put::Bytes(bytes) => {
                let drops = reader.subscriber.policy != Policy::Block;
                self.had(place, channel, bytes);
                if drops && bytes < max {
                    // It loses the rest: what it misses is one gap, told when it takes more.
                    self.await_sink(place);
                }
                Some(bytes)
            }
            Put::Full => {
                self.await_sink(place);
                Some(0)
            }
            Put::Closed(error) => {
                self.sink_broke((place, process, channel), &error);
                Some(0)
            }
        }
    }

    /// Lets bytes go that every reader has, in the steps of a take, if one of them is to go on after us: how many are gone is
    /// exact then, whenever we die. None where nobody is.
    pub(super) fn let_by_in_steps(
        &mut self,
        process: Place,
        channel: Channel,
        bytes: usize,
        was_read: bool,
    ) -> Option<bool> {
        let running = self.processes.get(process)?;
        let is_held = |place: &Place| self.readers.get(*place).is_some_and(Reader::is_held);
        if !running.readers.iter().any(is_held) {
            return None;
        }
        let name = output_name(running.key, channel);
        let from = running.streams[channel as usize].source.as_ref()?.fd.clone();
        let void = self.relay_tools()?.void.clone();
        let mut left = bytes;
        while left > 0 {
            let staging = self.staging.as_ref()?;
            staging.page.name(Side::Output, name);
            let max = left.min(staging.output.bytes_max);
            let gone = match splice(&mut self.driver, &from, &staging.output.write_end, max) {
                Moved::Bytes(gone) => gone,
                _ => {
                    tracing::error!("a relayed stream can't be taken any further");
                    self.close_stream(process, channel);
                    return Some(false);
                }
            };
            reach(Point::TakeSpliced);
            let out = staging.output.read_end.clone();
            self.expect_to_pass(process, channel, gone);
            reach(Point::TakeExpected);
            if let Err(error) = let_go(&mut self.driver, &out, &void, gone) {
                tracing::error!(%error, "what was taken from a stream is left where others pass");
            }
            reach(Point::TakeRead);
            self.passed(process, channel, gone, was_read);
            reach(Point::TakeCommitted);
            if let Some(staging) = &self.staging {
                // What is spliced from the source to a reader that has it alone is not staged.
                staging.page.name(Side::Output, 0);
            }
            left -= gone;
        }
        Some(true)
    }

    /// There are so many raw readers of a relay that steps for each would cost more than they are worth.
    fn are_many(&self, process: Place) -> bool {
        let readers = self.processes.get(process).map_or(&[][..], |process| &process.readers);
        let is_held = |place: &&Place| self.readers.get(**place).is_some_and(|reader| reader.held.is_some());
        readers.len() > EXACT_READERS_MAX && readers.iter().filter(is_held).count() > EXACT_READERS_MAX
    }

    /// How much can go to all of them in one round: what goes by the staging pipe goes at once or not at all.
    pub(super) fn round_bytes(&self, process: Place, readers: &[Place]) -> usize {
        let is_held = |place: &Place| self.readers.get(*place).is_some_and(Reader::is_held);
        let is_pipe = |held: &Held| held.pipe_bytes.is_some();
        let by_pipe = |place: &Place| {
            self.readers.get(*place).is_none_or(|reader| reader.held.as_ref().is_none_or(is_pipe))
        };
        match &self.staging {
            _ if !readers.iter().any(is_held) => usize::MAX,
            _ if self.are_many(process) && readers.iter().all(by_pipe) => TURN_BYTES_MAX,
            Some(staging) => staging.input.bytes_max,
            None => INPUT_STAGING_BYTES,
        }
    }

    /// A reader has bytes that its outlet says it has.
    pub(super) fn had(&mut self, place: Place, channel: Channel, bytes: usize) {
        if let Some(reader) = self.readers.get_mut(place) {
            reader.branches[channel as usize].taken += bytes as u64;
            reader.subscriber.advance(channel, bytes);
            reader.throttle.spend(bytes);
        }
    }

    /// Goes on with an outlet of a dead kernel.
    pub(super) fn inherit_outlet(&mut self, process: Place, outlet: AdoptedOutlet) {
        if matches!(outlet.subscribe.sink, Sink::Frames { .. }) {
            return self.inherit_framed(process, outlet);
        }
        let AdoptedOutlet { fd, place, subscribe } = outlet;
        let held = Held { place, pipe_bytes: capacity(&fd).ok() };
        let offset = held.offset();
        let cursor = |wanted: bool| wanted.then_some(Cursor { offset, gap_bytes: 0 });
        let cursors = [cursor(subscribe.stdout), cursor(subscribe.stderr)];
        let Some(running) = self.processes.get_mut(process) else { return };
        let passed = Channel::ALL.map(|channel| running.streams[channel as usize].history.total());
        let throttle = Throttle::new(subscribe.rate, self.at.monotonic_ns);
        for (meter, cursor) in subscribe.meter.offset.iter().zip(&cursors) {
            meter.set(cursor.map_or(0, |cursor| cursor.offset));
        }
        let blocks = subscribe.policy == Policy::Block;
        let back = cursors.map(|cursor| cursor.is_some());
        let fd = self.driver.import(fd);
        let reader = Reader {
            subscriber: subscriber_of(subscribe, cursors),
            framing: None,
            sink: Some(DescriptorSink::new(fd)),
            held: Some(held),
            parcels: None,
            plug: None,
            shared: None,
            throttle,
            full: Default::default(),
            idle: false,
            disk: Default::default(),
            branches: passed.map(|passed| Branch::at(passed, offset)),
        };
        let place = self.enlist(process, reader);
        if blocks {
            self.come_back(process, back);
        }
        self.note_blockers(process, &Channel::ALL);
        self.later(Turn::Reader(place));
    }
}
