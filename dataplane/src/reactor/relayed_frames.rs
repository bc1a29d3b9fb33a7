//! Frames of a relayed stream: the prelude is sent, and the payload spliced behind it on the connection's own socket.
//!
//! A frame is begun only when all of its payload is in the pipe it is taken from, so that it can always be finished, if need
//! be from a copy: when its reader goes, when another comes, when the source doesn't wait for it. Invariant: the rest of a
//! begun frame lies at the front of that pipe. What goes on between readers and source is [`relaying`](super::relaying)'s.

use super::delivery::Step;
use super::relaying::Way;
use super::table::Place;
use super::{Reactor, Turn};
use crate::command::Policy;
use crate::driver::Driver;
use crate::key::ConnectionKey;
use crate::points::{Point, reach};
use crate::stream::relay::{Moved, SPLICE_BYTES_MIN, read};
use crate::stream::subscriber::Cursor;
use crate::transport::frames::Chunk;
use crate::transport::outflow::Rest;
use bytes::Bytes;
use kairo_shm::layout::PAGE_BYTES;
use std::io::{self, IoSlice};

/// How many of the bytes in a pipe are one frame, if it may have `most`. If there are more, it ends where a page does for a writer
/// of whole pages, or each frame would begin and end with a piece of one.
fn cut(offset: u64, queued: usize, most: usize) -> usize {
    if queued <= most {
        return queued;
    }
    let beyond = ((offset + most as u64) % PAGE_BYTES as u64) as usize;
    if beyond + SPLICE_BYTES_MIN <= most { most - beyond } else { most }
}

impl<D: Driver> Reactor<D> {
    /// One frame: a short one is read and sent in one call, of a long one the payload never comes here.
    pub(super) fn relay_frame(&mut self, way: Way, connection: ConnectionKey) -> Step {
        let Some(from) = self.origin(way) else { return Step::Nothing };
        let bytes = self.frame_bytes(way, &from).unwrap_or(0);
        if bytes == 0 {
            return self.source_is_empty(way.process, way.channel);
        }
        if bytes < SPLICE_BYTES_MIN || connection.reactor != self.id {
            return self.relay_short_frame(way, connection, &from, bytes);
        }
        let offset = self.prelude_of(way, bytes);
        let place = Place { slot: connection.slot, generation: connection.generation };
        let Some(socket) = self.connections.get_mut(place) else { return Step::Gone };
        match self.driver.send(&socket.socket, &[IoSlice::new(&self.prelude)]) {
            Ok(sent) if sent == self.prelude.len() => {}
            Ok(sent) => {
                // Never seen of so short a one: the rest of it and its payload go by the queue.
                let frame = self.prelude[sent..].to_vec();
                return self.queue_frame(way, connection, &from, frame, bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.await_room(place);
                return self.sink_is_full(way);
            }
            Err(_) => {
                self.later(Turn::Connection(place));
                return Step::Full;
            }
        }
        let Some(reader) = self.readers.get_mut(way.reader) else { return Step::Gone };
        let subscription = reader.subscriber.key;
        reader.subscriber.next_sequence();
        let rest = Rest { subscription, channel: way.channel, end: offset + bytes as u64 };
        socket.outflow.rest = Some(rest);
        reach(Point::ChunkSent);
        if self.send_relayed_rest(place, way.process, rest) {
            return Step::Moved(bytes);
        }
        if self.readers.get(way.reader).is_some_and(|reader| reader.subscriber.policy != Policy::Block) {
            // The source doesn't wait for it, and a frame that has begun is finished.
            self.finish_rest_of(way.reader);
        }
        self.sink_is_full(way)
    }

    /// How many bytes of those that are there are the next frame.
    pub(super) fn frame_bytes(&mut self, way: Way, from: &D::Fd) -> Option<usize> {
        let reader = self.readers.get(way.reader)?;
        let Cursor { offset, .. } = reader.subscriber.cursors[way.channel as usize]?;
        let most = reader.framing.as_ref()?.chunk_bytes_max.min(way.max);
        let queued = if way.direct {
            let running = self.processes.get_mut(way.process)?;
            running.streams[way.channel as usize].queued(&mut self.driver, most)
        } else {
            self.driver.queued(from).unwrap_or(0)
        };
        Some(cut(offset, queued, most))
    }

    /// Writes a frame's header and prelude; returns its offset.
    pub(super) fn prelude_of(&mut self, way: Way, bytes: usize) -> u64 {
        self.prelude.clear();
        let Some(reader) = self.readers.get(way.reader) else { return 0 };
        let offset = reader.subscriber.cursors[way.channel as usize].map_or(0, |cursor| cursor.offset);
        let sequence = reader.subscriber.sequence + 1;
        // They are read as they are sent.
        let time = reader.framing.as_ref().filter(|of| of.timestamps).map(|_| self.at.monotonic_ns);
        let chunk = Chunk { channel: way.channel, sequence, offset, partial: false, bytes, time };
        if let Some(framing) = &reader.framing {
            framing.prelude(chunk, &mut self.prelude);
        }
        offset
    }

    /// A frame through memory: it is short, or its connection is another reactor's.
    fn relay_short_frame(&mut self, way: Way, connection: ConnectionKey, from: &D::Fd, bytes: usize) -> Step {
        let mut data = std::mem::take(&mut self.lines);
        data.resize(bytes, 0);
        let bytes = match self.read_on(way, from, &mut data) {
            Ok(bytes) => bytes,
            Err(step) => {
                self.lines = data;
                return step;
            }
        };
        self.prelude_of(way, bytes);
        self.given(way.reader, way.channel, bytes);
        if let Some(reader) = self.readers.get_mut(way.reader) {
            reader.subscriber.next_sequence();
        }
        let payload = &data[..bytes];
        let place = Place { slot: connection.slot, generation: connection.generation };
        let step = if connection.reactor != self.id {
            let frame = Bytes::from([&self.prelude, payload].concat());
            self.send_whole(way.reader, connection, frame);
            Step::Moved(bytes)
        } else if let Some(socket) = self.connections.get_mut(place) {
            let sent =
                self.driver.send(&socket.socket, &[IoSlice::new(&self.prelude), IoSlice::new(payload)]);
            reach(Point::ChunkSent);
            // Whoever reads the socket finds out that it is closed.
            let sent = sent.unwrap_or(0);
            if sent == self.prelude.len() + bytes {
                Step::Moved(bytes)
            } else {
                let left = [&self.prelude, payload].concat();
                socket.outflow.push_front(Bytes::from(left).slice(sent..));
                self.await_room(place);
                Step::Full
            }
        } else {
            Step::Gone
        };
        self.lines = data;
        step
    }

    /// Queues what is left of a prelude and the payload that belongs behind it.
    fn queue_frame(
        &mut self,
        way: Way,
        connection: ConnectionKey,
        from: &D::Fd,
        mut frame: Vec<u8>,
        bytes: usize,
    ) -> Step {
        let whole = frame.len() + bytes;
        self.expects(way, bytes);
        self.read_certain(from, &mut frame, bytes);
        self.taken(way, bytes);
        self.given(way.reader, way.channel, bytes);
        if let Some(reader) = self.readers.get_mut(way.reader) {
            reader.subscriber.next_sequence();
        }
        debug_assert_eq!(frame.len(), whole, "a frame is begun when all of it is there");
        let place = Place { slot: connection.slot, generation: connection.generation };
        if let Some(socket) = self.connections.get_mut(place) {
            socket.outflow.push_front(Bytes::from(frame));
            self.await_room(place);
        }
        Step::Full
    }

    /// Reads bytes that are in a pipe for certain.
    pub(super) fn read_certain(&mut self, from: &D::Fd, into: &mut Vec<u8>, bytes: usize) {
        let (mut at, end) = (into.len(), into.len() + bytes);
        into.resize(end, 0);
        while at < end {
            match read(&mut self.driver, from, &mut into[at..]) {
                Moved::Bytes(bytes) => at += bytes,
                Moved::Nothing => {}
                _ => break,
            }
        }
        into.truncate(at);
    }

    fn rest_way(&self, process: Place, rest: Rest) -> Option<Way> {
        let reader = self.reader_places.get(&rest.subscription.serial).copied()?;
        let it = self.readers.get(reader)?;
        let Cursor { offset, .. } = it.subscriber.cursors[rest.channel as usize]?;
        let direct = it.branches[rest.channel as usize].staged(offset) == 0;
        let max = rest.end.saturating_sub(offset) as usize;
        Some(Way { reader, process, channel: rest.channel, direct, max })
    }

    /// Goes on with a frame whose prelude is sent. True when nothing of it is left.
    pub(super) fn send_relayed_rest(&mut self, place: Place, process: Place, rest: Rest) -> bool {
        loop {
            let Some(way) = self.rest_way(process, rest) else { return false };
            let Some(connection) = self.connections.get_mut(place) else { return false };
            if way.max == 0 {
                connection.outflow.rest = None;
                return true;
            }
            let socket = connection.socket.clone();
            let Some(from) = self.origin(way) else { return false };
            match self.splice_on(way, &from, &socket) {
                Moved::Bytes(_) => {}
                Moved::Full => {
                    self.await_room(place);
                    return false;
                }
                // Its payload was there when it was begun, so it is the socket.
                Moved::End | Moved::Nothing | Moved::Unsuited | Moved::Broken(_) => {
                    self.disconnect(place);
                    return false;
                }
            }
        }
    }

    /// Takes the rest of a begun frame into memory: its reader goes, or the source no longer waits for it.
    pub(super) fn finish_relayed_rest(&mut self, connection: ConnectionKey, rest: Rest) {
        let process =
            self.reader_places.get(&rest.subscription.serial).and_then(|place| self.readers.get(*place));
        let process = process.and_then(|reader| self.place_of_process(reader.subscriber.process));
        let Some(way) = process.and_then(|process| self.rest_way(process, rest)) else { return };
        let mut bytes = Vec::new();
        if let Some(from) = self.origin(way) {
            self.expects(way, way.max);
            self.read_certain(&from, &mut bytes, way.max);
        }
        debug_assert_eq!(bytes.len(), way.max, "a frame is begun when all of it is there");
        self.taken(way, bytes.len());
        self.given(way.reader, way.channel, bytes.len());
        if let Some(connection) = self.local(connection) {
            connection.outflow.rest = None;
            connection.outflow.push_front(Bytes::from(bytes));
        }
    }

    /// Another reader comes: whoever had the source alone has what it was about to send in memory.
    pub(super) fn settle_rests(&mut self, process: Place) {
        let Some(running) = self.processes.get(process) else { return };
        if running.relays() {
            for reader in running.readers.clone() {
                // What of a held one is under way stays where it is.
                if self.readers.get(reader).is_some_and(|reader| !reader.is_held()) {
                    self.finish_rest_of(reader);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_takes_all_there_is_or_ends_with_a_page() {
        assert_eq!(cut(0, 0, 65_535), 0);
        assert_eq!(cut(0, 65_535, 65_535), 65_535);
        assert_eq!(cut(0, 1 << 20, 65_535), 61_440);
        assert_eq!(cut(61_440 + 2, 1 << 20, 65_535), 65_534, "in step again at once");
        assert_eq!(cut(8_192, 1 << 20, 65_536), 65_536);
        assert_eq!(cut(0, 1 << 20, 1 << 20), 1 << 20);
        assert_eq!(cut(0, 100, 99), 99, "short ones are copied anyway");
    }
}
