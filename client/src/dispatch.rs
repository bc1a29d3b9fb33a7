//! From frames to where they are waited for: answers to calls, chunks and records to streams, events to those who
//! listen.
//!
//! Runs under the state's lock, on the thread that reads, and sends nothing: what has to be sent because of what came is
//! left as an errand. Invariant: what comes behind the answer that opened a subscription finds its place.

use crate::codec::{COPIED_BYTES_MAX, Word, kept};
use crate::error::{CallError, Lost};
use crate::inlet::Inlet;
use crate::resume::Errand;
use crate::state::{CallSlot, EventKinds, Heard, Interest, Opens, State, StreamFrame, Waiting};
use bytes::Bytes;
use kairo_wire::chunk::Chunk as WireChunk;
use kairo_wire::envelope::EventFrame;
use kairo_wire::event::{EventCutRecord, EventGapRecord};
use kairo_wire::frame::{Header, Kind};
use kairo_wire::limits::HEADER_BYTES;
use kairo_wire::method::Method;
use kairo_wire::methods::identity::Identify;
use kairo_wire::methods::stream::SubscribeResult;
use kairo_wire::request;
use serde::Deserialize;
use std::os::fd::OwnedFd;

/// What any answer says of the descriptors that come with it.
#[derive(Deserialize)]
struct Handed {
    #[serde(default)]
    descriptors: Vec<String>,
}

impl State {
    /// Puts every whole frame at hand where it belongs.
    pub(crate) fn dispatch(&mut self, inlet: &mut Inlet) -> Result<(), Lost> {
        self.arrived.extend(inlet.take_descriptors());
        while let Some((kind, range)) = inlet.ready() {
            if matches!(kind, Kind::STREAM_CHUNK | Kind::RESPONSE) && range.len() > COPIED_BYTES_MAX {
                let first = range.start;
                let piece = inlet.share();
                return self.dispatch_shared(&piece, first);
            }
            self.frame(kind, &inlet.bytes()[range.clone()], None)?;
            inlet.consume(range.end);
        }
        Ok(())
    }

    /// The same for a piece whose first payload begins at `first`; long data is shared with the piece.
    fn dispatch_shared(&mut self, piece: &Bytes, first: usize) -> Result<(), Lost> {
        let mut rest = &piece[first - HEADER_BYTES..];
        while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let header = Header::parse(header).map_err(Lost::Frame)?;
            let (payload, after) = after.split_at(header.length);
            self.frame(header.kind, payload, Some(piece))?;
            rest = after;
        }
        Ok(())
    }

    fn frame(&mut self, kind: Kind, payload: &[u8], shared: Option<&Bytes>) -> Result<(), Lost> {
        match kind {
            Kind::RESPONSE => self.response(payload, shared),
            Kind::EVENT => self.event(payload),
            Kind::STREAM_CHUNK => self.chunk(payload, shared),
            // Frames of kinds to come are not for us.
            Kind(_) => Ok(()),
        }
    }

    fn response(&mut self, payload: &[u8], shared: Option<&Bytes>) -> Result<(), Lost> {
        let (call, answer) = crate::codec::response(payload, shared)?;
        let answer = answer.map_err(|refusal| CallError::Kernel(Box::new(refusal)));
        if let Some(resuming) = self.resuming.remove(&call) {
            return self.resumed(resuming, answer);
        }
        if !matches!(self.calls.get(&call), Some(CallSlot::Waiting(_))) {
            return Ok(());
        }
        let Some(CallSlot::Waiting(waiting)) = self.calls.remove(&call) else { return Ok(()) };
        if let Ok(result) = &answer {
            match waiting.opens {
                Some(Opens::Descriptors) => self.handed_over(call, result, waiting.wanted)?,
                Some(opens) => self.opened(opens, result)?,
                None => {}
            }
            self.note_identity(&waiting);
        }
        if waiting.wanted {
            self.calls.insert(call, CallSlot::Answered(answer));
            self.wake(Interest::Call(call));
        }
        Ok(())
    }

    fn opened(&mut self, opens: Opens, result: &[u8]) -> Result<(), Lost> {
        match opens {
            Opens::Stream(stream) => {
                let opened: SubscribeResult = crate::codec::value(result)?;
                self.opened_stream(stream, &opened);
            }
            Opens::Events(room) => {
                let opened: kairo_wire::methods::event::SubscribeResult = crate::codec::value(result)?;
                self.opened_events(room, opened);
            }
            Opens::Descriptors => {}
        }
        Ok(())
    }

    /// What an answer says comes with it has come, and before it.
    fn handed_over(&mut self, call: u64, result: &[u8], wanted: bool) -> Result<(), Lost> {
        let Handed { descriptors } = crate::codec::value(result)?;
        let count = descriptors.len().min(self.arrived.len());
        let handed: Vec<OwnedFd> = self.arrived.drain(..count).collect();
        if wanted {
            self.handed.insert(call, handed);
        }
        Ok(())
    }

    /// The kernel has taken a subscription to events, for the first time or again.
    pub(crate) fn opened_events(&mut self, number: u64, opened: kairo_wire::methods::event::SubscribeResult) {
        let Some(room) = self.events.get_mut(&number) else {
            return self.errands.push(Errand::EndEvents(opened.subscription_id));
        };
        if let (None, EventKinds::Bus(asked)) = (room.next, &room.takes) {
            room.next = crate::events::begin(asked, &opened);
        }
        self.names.insert(opened.subscription_id.as_str().into(), number);
        room.id = Some(opened.subscription_id);
    }

    /// The kernel has taken a subscription, for the first time or again.
    pub(crate) fn opened_stream(&mut self, stream: u64, opened: &SubscribeResult) {
        let tells = self.standing.honours_keys();
        let id = &opened.subscription_id;
        let Some(room) = self.streams.get_mut(&stream) else {
            // Nobody wants it any more.
            return self.errands.push(Errand::EndStream(id.clone()));
        };
        match room.reading.opened(opened, tells) {
            Ok(()) => drop(self.names.insert(id.as_str().into(), stream)),
            Err(error) => {
                self.errands.push(Errand::EndStream(id.clone()));
                self.fail_stream(stream, error);
            }
        }
    }

    /// A connection that was lowered is lowered again when it comes back.
    fn note_identity(&mut self, waiting: &Waiting) {
        let Some(asked) = waiting.request.as_ref().filter(|request| request.method == Identify::NAME) else {
            return;
        };
        let sent = asked.frame.as_ref().and_then(|frame| request::read(&frame[HEADER_BYTES..]).ok());
        self.standing.lowered = sent.map(|request| request.params.to_owned());
    }

    fn chunk(&mut self, payload: &[u8], shared: Option<&Bytes>) -> Result<(), Lost> {
        let chunk = WireChunk::read(payload).map_err(crate::codec::nonsense)?;
        let data = kept(chunk.data, shared);
        let bytes = data.len();
        let frame = StreamFrame::Chunk {
            stream: chunk.stream,
            sequence: chunk.sequence,
            offset: chunk.offset,
            partial: chunk.partial,
            data,
        };
        self.deliver(&chunk.subscription_id, frame, bytes);
        Ok(())
    }

    fn deliver(&mut self, subscription: &str, frame: StreamFrame, bytes: usize) {
        // What still comes after an unsubscribe is dropped.
        let Some(stream) = self.names.get(subscription).copied() else { return };
        let Some(room) = self.streams.get_mut(&stream).filter(|room| !room.failed) else { return };
        match room.reading.account(frame) {
            Ok(item) => {
                room.queue.push(Ok(item), bytes);
                self.wake(Interest::Stream(stream));
            }
            Err(error) => self.fail_stream(stream, error),
        }
    }

    fn event(&mut self, payload: &[u8]) -> Result<(), Lost> {
        let found = EventFrame::parse(payload).map_err(crate::codec::nonsense)?;
        if let Some((subscription, frame)) = crate::codec::record(&found)? {
            self.deliver(&subscription, frame, 0);
            return Ok(());
        }
        if let Some(word) = crate::codec::word(&found)? {
            self.word(word);
            return Ok(());
        }
        let copy = Bytes::copy_from_slice(payload);
        if let Some(subscription) = &found.subscription_id {
            // What still comes after an unsubscribe is dropped.
            if let Some(number) = self.names.get(subscription.as_ref()).copied() {
                self.give(number, copy, None, found.seq.map(|seq| seq + 1));
            }
            return Ok(());
        }
        if found.payload.is_none() {
            let topic = found.topic.as_ref();
            for room in self.rooms(|takes| matches!(takes, EventKinds::Notices(name) if *name == topic)) {
                self.give(room, copy.clone(), None, None);
            }
            return Ok(());
        }
        let topic = found.topic.as_ref();
        let id = found.id.as_deref();
        let rooms = self.rooms(
            |takes| matches!(takes, EventKinds::Bus(asked) if crate::topic::matches(asked.topic.as_str(), topic)),
        );
        let fresh = |room: &u64| id.is_none() || self.events[room].last.as_deref() != id;
        if let Some(room) = rooms.into_iter().find(fresh) {
            self.give(room, copy, id.map(Box::from), None);
        }
        Ok(())
    }

    /// What the kernel says of a subscription itself.
    fn word(&mut self, word: Word) {
        let (Word::Gap(EventGapRecord { subscription_id, .. })
        | Word::Cut(EventCutRecord { subscription_id, .. })) = &word;
        let Some(number) = self.names.get(subscription_id.as_str()).copied() else { return };
        let Some(room) = self.events.get_mut(&number) else { return };
        match word {
            Word::Gap(EventGapRecord { gap, .. }) => {
                room.next = Some(gap.to + 1);
                room.queue.push(Heard::Gap(gap), 0);
            }
            Word::Cut(cut) => {
                self.names.remove(cut.subscription_id.as_str());
                let goes_on = room.cut(&cut);
                room.queue.push(Heard::Cut(cut), 0);
                if goes_on {
                    self.errands.push(Errand::EventsAgain(number));
                } else {
                    room.id = None;
                    room.queue.push(
                        Heard::Refused(Lost::Payload("the kernel has ended the subscription".into())),
                        0,
                    );
                }
            }
        }
        self.wake(Interest::Events(number));
    }

    /// Rooms that take something, oldest first.
    fn rooms(&self, takes: impl Fn(&EventKinds) -> bool) -> Vec<u64> {
        let mut found: Vec<u64> =
            self.events.iter().filter(|(_, room)| takes(&room.takes)).map(|(number, _)| *number).collect();
        found.sort_unstable();
        found
    }

    /// Puts an event where it is waited for. If it has a place in the log, the subscription has got as far as `next`.
    fn give(&mut self, number: u64, payload: Bytes, id: Option<Box<str>>, next: Option<u64>) {
        if let Some(room) = self.events.get_mut(&number) {
            let bytes = payload.len();
            room.queue.push(Heard::Event(payload), bytes);
            room.last = id;
            room.next = next.or(room.next);
            self.wake(Interest::Events(number));
        }
    }
}
