//! Frames of a relayed stream on a socket that the keeper holds too.
//!
//! ```text
//!   note ─▶ prelude ─write─▶ ┐
//!           source  ──tee──▶ ┴ input staging pipe ──splice──▶ socket        what all have is let go, in the steps of a take
//!   alone:  source ─splice─▶ the same, and into the note what the socket has no room for
//! ```
//!
//! A frame is begun when all of its payload is in the source, and stays there until it is through: so a next kernel finds the rest
//! of it at the front. Among several, what of it went is let go before more of it can be duplicated; one that has the source alone
//! takes it out, and the note says so until that is counted. Nobody waits for a reader that drops, so its frames are copied into the
//! note. Invariant: such a reader's cursor is where its branch is, and both where its wire is, but for what is in the note.

use super::Reactor;
use super::delivery::Step;
use super::parcels::Progress;
use super::relaying::Way;
use super::table::Place;
use crate::command::{Policy, Sink};
use crate::driver::Driver;
use crate::key::Channel;
use crate::points::{Point, reach};
use crate::stream::relay::{Moved, read, tee};
use crate::stream::steps::Fed;
use kairo_shm::inbox::Standing;
use kairo_shm::page::Side;
use std::io;

impl<D: Driver> Reactor<D> {
    /// Goes on with what is under way to a reader of a relayed stream. None if nothing is, or what is comes from a source that it
    /// has alone.
    pub(super) fn go_on_with_relayed_parcel(
        &mut self,
        place: Place,
        process: Place,
        channel: Channel,
    ) -> Option<Step> {
        let reader = self.readers.get(place)?;
        let parcels = reader.parcels.as_ref().filter(|parcels| parcels.is_under_way())?;
        if !parcels.waits_for_source() {
            let waits = reader.subscriber.policy == Policy::Block;
            let step = self.go_on_with_parcel(place);
            if waits && step == Some(Step::Full) {
                self.pause_source(process, channel);
            }
            return step;
        }
        // The other channel is nothing to it.
        reader.subscriber.cursors[channel as usize]?;
        let Sink::Frames { connection, .. } = reader.subscriber.sink else { return None };
        if self.local(connection).is_none_or(|connection| connection.outflow.armed) {
            return Some(Step::Full);
        }
        if self.relay_readers(process, channel).nth(1).is_some() {
            // Its turn comes with the others'.
            return Some(Step::Nothing);
        }
        Some(self.relay_directly(place, process, channel))
    }

    /// One pass of a frame to a reader that has its source alone, which may begin with it.
    pub(super) fn relay_parcel(&mut self, way: Way) -> Step {
        if let Some(step) = self.outlet_waits(way.reader) {
            return step;
        }
        match self.begin_relayed_parcel(way) {
            Some(true) => {}
            Some(false) => {
                self.resume_source(way.process, way.channel);
                return self.source_is_empty(way.process, way.channel);
            }
            None => return Step::Gone,
        }
        match self.pass_on(way, true) {
            Some(Progress::Whole(bytes)) => Step::Moved(bytes),
            Some(Progress::Part(bytes)) if bytes > 0 => Step::Moved(bytes),
            Some(Progress::Part(_)) => self.sink_is_full(way),
            None => Step::Gone,
        }
    }

    /// The same among several readers. None if it has no such socket; how many bytes it took.
    pub(super) fn offer_parcel(
        &mut self,
        (reader, process, channel): (Place, Place, Channel),
        max: usize,
    ) -> Option<usize> {
        let it = self.readers.get(reader)?;
        it.parcels.as_ref()?;
        let Sink::Frames { connection, .. } = it.subscriber.sink else { return None };
        if self.local(connection).is_none_or(|connection| connection.outflow.armed) {
            return Some(0);
        }
        let Some(allowance) = self.allowance(reader) else { return Some(0) };
        if self.outlet_waits(reader).is_some() {
            return Some(0);
        }
        let way = Way { reader, process, channel, direct: true, max: max.min(allowance.bytes) };
        if self.begin_relayed_parcel(way) != Some(true) {
            return Some(0);
        }
        match self.pass_on(way, false) {
            Some(Progress::Whole(bytes) | Progress::Part(bytes)) => Some(bytes),
            None => Some(0),
        }
    }

    /// Notes the next frame, unless one is under way. False if the source has nothing for it; none if the reader can't go on.
    fn begin_relayed_parcel(&mut self, way: Way) -> Option<bool> {
        let parcels = self.readers.get(way.reader)?.parcels.as_ref()?;
        if parcels.is_under_way() {
            return Some(true);
        }
        let from = self.origin(way)?;
        let bytes = self.frame_bytes(way, &from)?;
        let drops = self.readers.get(way.reader)?.subscriber.policy != Policy::Block;
        let copy = if drops { self.copy_of(&from, bytes).ok()? } else { Vec::new() };
        let bytes = if drops { copy.len() } else { bytes };
        if bytes == 0 {
            return Some(false);
        }
        let offset = self.prelude_of(way, bytes);
        let reader = self.readers.get_mut(way.reader)?;
        let end = offset + bytes as u64;
        let sequence = reader.subscriber.next_sequence();
        let gap_bytes = reader.subscriber.cursors[way.channel as usize].map_or(0, |cursor| cursor.gap_bytes);
        let then = Standing { offset: Some(end), gap_bytes };
        let payload = if drops { end..end } else { offset..end };
        reader.parcels.as_mut()?.begin_with((sequence, then), &[&self.prelude, &copy], payload);
        if drops {
            // All of it is in the note.
            self.had(way.reader, way.channel, bytes);
        }
        Some(true)
    }

    /// What is at the front of a source, which stays there.
    fn copy_of(&mut self, from: &D::Fd, max: usize) -> io::Result<Vec<u8>> {
        let Some(staging) = &self.staging else { return Err(io::ErrorKind::OutOfMemory.into()) };
        // It is nobody's: none of it has left when it goes.
        staging.page.name(Side::Input, 0);
        let pipe = staging.input.clone();
        let Moved::Bytes(bytes) = tee(&mut self.driver, from, &pipe.write_end, max.min(pipe.bytes_max))
        else {
            return Ok(Vec::new());
        };
        let (mut copy, mut at) = (vec![0; bytes], 0);
        while at < bytes {
            match read(&mut self.driver, &pipe.read_end, &mut copy[at..]) {
                Moved::Bytes(more) => at += more,
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(copy)
    }

    /// Sends what is under way, as far as one pass goes, to a reader that may have its source alone. None if its socket is closed.
    fn pass_on(&mut self, way: Way, alone: bool) -> Option<Progress> {
        let from = self.origin(way)?;
        let reader = self.readers.get(way.reader)?;
        let Sink::Frames { connection, .. } = reader.subscriber.sink else { return None };
        let place = Place { slot: connection.slot, generation: connection.generation };
        let socket = self.connections.get(place)?.socket.clone();
        let parcels = reader.parcels.as_ref()?;
        let alone = alone && parcels.waits_for_source();
        if alone {
            // Before anything may be out of the source: what its account leaves open the note then says.
            parcels.moving();
            self.expects(way, way.max);
            reach(Point::FrameMoving);
        }
        let reader = self.readers.get_mut(way.reader)?;
        let parcels = reader.parcels.as_mut()?;
        let (staging, key) = (self.staging.as_ref()?, reader.subscriber.key);
        let passed = parcels.pass(&mut self.driver, staging, (&from, &socket), key, (way.max, alone));
        let passed = passed.inspect_err(|error| tracing::error!(%error, "frames can't be sent any further"));
        if let Ok((Progress::Whole(bytes) | Progress::Part(bytes), _)) = passed {
            self.count(way, alone, bytes);
        }
        match passed {
            Ok((_, Fed::Broken)) | Err(_) => {
                tracing::debug!("a socket was closed");
                self.disconnect(place);
                None
            }
            Ok((progress, fed)) => {
                if fed == Fed::Full {
                    self.await_room(place);
                    if alone {
                        self.pause_source(way.process, way.channel);
                    }
                }
                if matches!(progress, Progress::Whole(_)) {
                    self.parcel_is_through(way.reader);
                }
                Some(progress)
            }
        }
    }

    /// A reader has so many bytes more of its source, out of which they were taken if it has that alone.
    fn count(&mut self, way: Way, alone: bool, bytes: usize) {
        match (alone, bytes) {
            (false, 0) => {}
            (false, _) => self.had(way.reader, way.channel, bytes),
            (true, 0) => self.expects(way, 0),
            (true, _) => {
                reach(Point::ChunkSent);
                self.given(way.reader, way.channel, bytes);
                self.taken(way, bytes);
            }
        }
        if alone && let Some(parcels) = self.readers.get(way.reader).and_then(|it| it.parcels.as_ref()) {
            parcels.counted();
        }
    }

    /// What of a relayed stream is under way is taken out of its source, which goes.
    pub(super) fn keep_relayed_parcel(&mut self, reader: Place, process: Place) {
        let Some(it) = self.readers.get(reader) else { return };
        let Some((channel, left)) = it.parcels.as_ref().and_then(|parcels| parcels.in_source()) else {
            return;
        };
        let Some(running) = self.processes.get(process) else { return };
        let stream = &running.streams[channel as usize];
        let passed = stream.history.total();
        let Some(from) = stream.source.as_ref().map(|source| source.fd.clone()) else { return };
        let mut bytes = Vec::new();
        self.read_certain(&from, &mut bytes, left.end.saturating_sub(passed) as usize);
        let rest = bytes.get(left.start.saturating_sub(passed) as usize..).unwrap_or_default();
        if let Some(parcels) = self.readers.get_mut(reader).and_then(|reader| reader.parcels.as_mut()) {
            parcels.keep_bytes(rest);
        }
    }
}
