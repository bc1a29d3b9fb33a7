//! One connection, many threads, no thread of its own: who waits, reads.
//!
//! Whoever waits for something (an answer, a chunk, an event) and finds nobody reading the socket, reads it:
//! for itself and for everybody else. It puts what it read where it belongs, wakes whom that concerns, and when
//! it has its own, it leaves the reading to one of those who still wait. So a lone call costs no hand-over between
//! threads, an idle connection costs nothing at all, and a consumer that stops consuming stops the reading: then
//! the socket fills and the kernel sees a slow reader.
//!
//! ```text
//!   waiting thread ──has its own?──▶ returns, and wakes a follower to read on
//!        │ no                 ▲
//!        ▼                    │ dispatch: answers, chunks, events to their places
//!   inlet free and ──yes──▶ reads a batch of frames, without the lock
//!   nobody congested?
//!        └──no──▶ sleeps until its own comes, or the reading is free
//! ```
//!
//! Invariant: `inlet` is `None` exactly while one thread reads; whenever it is put back and somebody who may read
//! still waits, one such waiter is awake.

use crate::error::{CallError, Lost};
use crate::inlet::{Inlet, Stop};
use crate::queue::Queue;
use bytes::Bytes;
use kairo_wire::chunk::Chunk as WireChunk;
use kairo_wire::codec::check::check;
use kairo_wire::event::{self, Event, EventFrame};
use kairo_wire::frame::{Header, Kind};
use kairo_wire::limits::HEADER_BYTES;
use kairo_wire::methods::stream::{StreamName, SubscribeResult};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Past this many queued bytes not even a call reads on, because what it waits for may never come.
const CONGESTED_FOR_CALLS_BYTES: usize = 64 << 20;

/// Data up to this size is copied out of the receive buffer; longer data is shared with it. A short chunk must not
/// keep a long buffer alive.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// What somebody waits for. At most one thread waits for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Interest {
    /// The answer to a call.
    Call(u64),
    /// An item of a subscription to a process.
    Stream(u64),
    /// A bus event or notice of a subscription to events.
    Events(u64),
}

/// Why waiting ended without it.
#[derive(Debug)]
pub(crate) enum Unmet {
    Lost(Lost),
    Deadline,
}

/// A call in flight.
#[derive(Debug)]
enum CallSlot {
    /// Nothing yet. A subscribe call opens a queue at the moment its answer is read, so that the chunks behind the
    /// answer find it.
    Waiting { opens: Option<u64> },
    /// There it is.
    Answered(Result<Bytes, CallError>),
}

/// What a subscription to a process receives, not yet checked.
#[derive(Debug)]
pub(crate) enum StreamFrame {
    Chunk {
        stream: StreamName,
        sequence: u64,
        offset: Option<u64>,
        partial: bool,
        data: Bytes,
    },
    Gap {
        stream: StreamName,
        from: u64,
        to: u64,
    },
    End {
        stream: StreamName,
        total_bytes: u64,
        gap_bytes: u64,
        reason: event::StreamEndReason,
    },
    /// A v1 kernel dropped bytes, and can't say which.
    Overflow,
}

/// A subscription to events.
#[derive(Debug)]
struct EventRoom {
    takes: EventKinds,
    queue: Queue<Bytes>,
    /// The bus event it got last: the kernel sends one frame per subscription and does not say for which, so each
    /// copy goes to the next room that has not had one.
    last: Option<Box<str>>,
}

/// Which EVENT frames a room takes.
#[derive(Debug)]
pub(crate) enum EventKinds {
    /// Bus events that match a pattern.
    Bus(String),
    /// `process.exit` notices.
    Exits,
}

/// Everything behind the lock.
#[derive(Debug)]
pub(crate) struct State {
    inlet: Option<Inlet>,
    calls: HashMap<u64, CallSlot>,
    /// Calls nobody waits for any more; their answers are dropped.
    abandoned: HashSet<u64>,
    /// From the subscription's id on the wire to our number of it.
    names: HashMap<Box<str>, u64>,
    streams: HashMap<u64, Queue<StreamFrame>>,
    events: HashMap<u64, EventRoom>,
    followers: HashMap<Interest, Arc<Condvar>>,
    lost: Option<Lost>,
    next: u64,
}

/// The lock, and the way to wait under it.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(inlet: Inlet) -> Shared {
        Shared {
            state: Mutex::new(State {
                inlet: Some(inlet),
                calls: HashMap::new(),
                abandoned: HashSet::new(),
                names: HashMap::new(),
                streams: HashMap::new(),
                events: HashMap::new(),
                followers: HashMap::new(),
                lost: None,
                next: 1,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inlet, if this is the last who knows of it.
    pub(crate) fn into_inlet(self) -> Option<Inlet> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).inlet
    }

    /// Waits until `met` gives something, reading the socket where nobody else does.
    pub(crate) fn wait<T>(
        &self,
        interest: Interest,
        deadline: Option<Instant>,
        mut met: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Unmet> {
        let mut state = self.lock();
        let outcome = loop {
            if let Some(found) = met(&mut state) {
                break Ok(found);
            }
            if let Some(lost) = &state.lost {
                break Err(Unmet::Lost(lost.clone()));
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break Err(Unmet::Deadline);
            }
            let inlet = if state.may_read(interest) { state.inlet.take() } else { None };
            state = match inlet {
                Some(inlet) => self.read(state, inlet, deadline),
                None => Self::follow(state, interest, deadline),
            };
        };
        state.pass_on();
        outcome
    }

    fn read<'s>(
        &'s self,
        state: MutexGuard<'s, State>,
        mut inlet: Inlet,
        deadline: Option<Instant>,
    ) -> MutexGuard<'s, State> {
        drop(state);
        let filled = inlet.fill(deadline);
        let mut state = self.lock();
        match filled {
            Ok(_) => {
                if let Err(lost) = state.dispatch(&mut inlet) {
                    state.lose(lost);
                }
            }
            Err(Stop::Deadline) => {}
            Err(Stop::Closed { unread }) => state.lose(Lost::Closed { unread }),
            Err(Stop::Frame(error)) => state.lose(Lost::Frame(error)),
            Err(Stop::Os(error)) => state.lose(Lost::Os(Arc::new(error))),
        }
        state.inlet = Some(inlet);
        state
    }

    fn follow(
        mut state: MutexGuard<'_, State>,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> MutexGuard<'_, State> {
        let bell = Arc::new(Condvar::new());
        state.followers.insert(interest, Arc::clone(&bell));
        let mut state = match deadline {
            None => bell.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                bell.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.followers.remove(&interest);
        state
    }
}

impl State {
    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// A number for a call that is about to be sent, and a place for its answer.
    pub(crate) fn open_call(&mut self, opens: Option<u64>) -> Result<u64, Lost> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        let call = self.number();
        self.calls.insert(call, CallSlot::Waiting { opens });
        Ok(call)
    }

    /// The answer, once.
    pub(crate) fn take_answer(&mut self, call: u64) -> Option<Result<Bytes, CallError>> {
        match self.calls.get(&call)? {
            CallSlot::Waiting { .. } => None,
            CallSlot::Answered(_) => match self.calls.remove(&call)? {
                CallSlot::Answered(answer) => Some(answer),
                CallSlot::Waiting { .. } => None,
            },
        }
    }

    /// It was never sent.
    pub(crate) fn forget_call(&mut self, call: u64) {
        self.calls.remove(&call);
    }

    /// Nobody will ask for the answer.
    pub(crate) fn abandon_call(&mut self, call: u64) {
        if let Some(CallSlot::Waiting { opens }) = self.calls.remove(&call) {
            if let Some(stream) = opens {
                self.streams.remove(&stream);
            }
            self.abandoned.insert(call);
        }
    }

    /// A place for the items of a subscription that is about to be asked for.
    pub(crate) fn open_stream(&mut self) -> u64 {
        let stream = self.number();
        self.streams.insert(stream, Queue::default());
        stream
    }

    pub(crate) fn take_frame(&mut self, stream: u64) -> Option<StreamFrame> {
        self.streams.get_mut(&stream)?.pop()
    }

    /// Forgets a subscription; what still comes of it is dropped.
    pub(crate) fn close_stream(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.names.retain(|_, number| *number != stream);
        self.pass_on();
    }

    pub(crate) fn open_events(&mut self, takes: EventKinds) -> u64 {
        let room = self.number();
        self.events.insert(room, EventRoom { takes, queue: Queue::default(), last: None });
        room
    }

    pub(crate) fn take_event(&mut self, room: u64) -> Option<Bytes> {
        self.events.get_mut(&room)?.queue.pop()
    }

    pub(crate) fn close_events(&mut self, room: u64) {
        self.events.remove(&room);
        self.pass_on();
    }

    /// Ends the connection for everybody, for a reason. The first reason counts.
    pub(crate) fn lose(&mut self, lost: Lost) {
        let lost = self.lost.get_or_insert(lost);
        for slot in self.calls.values_mut() {
            if matches!(slot, CallSlot::Waiting { .. }) {
                *slot = CallSlot::Answered(Err(CallError::Lost(lost.clone())));
            }
        }
        for bell in self.followers.values() {
            bell.notify_one();
        }
    }

    /// Whether somebody who waits for `interest` may read for all: not while it would fill a queue whose consumer
    /// is behind. A call may go further than a consumer, because its answer comes soon, and with it an end.
    fn may_read(&self, interest: Interest) -> bool {
        match interest {
            Interest::Call(_) => {
                let streams: usize = self.streams.values().map(Queue::cost).sum();
                let events: usize = self.events.values().map(|room| room.queue.cost()).sum();
                streams + events < CONGESTED_FOR_CALLS_BYTES
            }
            Interest::Stream(_) | Interest::Events(_) => {
                !self.streams.values().any(Queue::is_congested)
                    && !self.events.values().any(|room| room.queue.is_congested())
            }
        }
    }

    /// If nobody reads, wakes one of those who wait and may.
    fn pass_on(&self) {
        if self.inlet.is_none() {
            return;
        }
        if let Some((_, bell)) = self.followers.iter().find(|(interest, _)| self.may_read(**interest)) {
            bell.notify_one();
        }
    }

    fn wake(&self, interest: Interest) {
        if let Some(bell) = self.followers.get(&interest) {
            bell.notify_one();
        }
    }

    /// Puts every whole frame at hand where it belongs.
    fn dispatch(&mut self, inlet: &mut Inlet) -> Result<(), Lost> {
        while let Some((kind, range)) = inlet.ready() {
            if kind == Kind::STREAM_CHUNK && range.len() > COPIED_BYTES_MAX {
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
            Kind::RESPONSE => self.response(payload),
            Kind::EVENT => self.event(payload),
            Kind::STREAM_CHUNK => self.chunk(payload, shared),
            // Frames of kinds to come are not for us.
            Kind(_) => Ok(()),
        }
    }

    fn response(&mut self, payload: &[u8]) -> Result<(), Lost> {
        let (call, answer) = crate::codec::response(payload)?;
        if self.abandoned.remove(&call) {
            return Ok(());
        }
        let Some(slot) = self.calls.get_mut(&call) else { return Ok(()) };
        let CallSlot::Waiting { opens } = *slot else { return Ok(()) };
        if let (Some(stream), Ok(result)) = (opens, &answer) {
            let opened: SubscribeResult = crate::codec::value(result)?;
            self.names.insert(opened.subscription_id.as_str().into(), stream);
        }
        *slot = CallSlot::Answered(answer.map_err(|refusal| CallError::Kernel(Box::new(refusal))));
        self.wake(Interest::Call(call));
        Ok(())
    }

    fn chunk(&mut self, payload: &[u8], shared: Option<&Bytes>) -> Result<(), Lost> {
        let chunk = WireChunk::read(payload).map_err(crate::codec::nonsense)?;
        let data = match shared {
            Some(piece) if chunk.data.len() > COPIED_BYTES_MAX => piece.slice_ref(chunk.data),
            _ => Bytes::copy_from_slice(chunk.data),
        };
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
        let Some(queue) = self.streams.get_mut(&stream) else { return };
        queue.push(frame, bytes);
        self.wake(Interest::Stream(stream));
    }

    fn event(&mut self, payload: &[u8]) -> Result<(), Lost> {
        check(payload).map_err(crate::codec::nonsense)?;
        let found = EventFrame::parse(payload).map_err(crate::codec::nonsense)?;
        if let Some((subscription, frame)) = crate::codec::record(&found)? {
            self.deliver(&subscription, frame, 0);
            return Ok(());
        }
        let copy = Bytes::copy_from_slice(payload);
        if found.payload.is_none() && found.topic == event::ProcessExitNotice::TOPIC {
            let rooms: Vec<u64> = self.rooms(|takes| matches!(takes, EventKinds::Exits));
            for room in rooms {
                self.give(room, copy.clone(), None);
            }
            return Ok(());
        }
        let topic = found.topic.as_ref();
        let id = found.id.as_deref();
        let rooms = self.rooms(
            |takes| matches!(takes, EventKinds::Bus(pattern) if crate::topic::matches(pattern, topic)),
        );
        let fresh = |room: &u64| id.is_none() || self.events[room].last.as_deref() != id;
        if let Some(room) = rooms.into_iter().find(fresh) {
            self.give(room, copy, id.map(Box::from));
        }
        Ok(())
    }

    /// Rooms that take something, oldest first.
    fn rooms(&self, takes: impl Fn(&EventKinds) -> bool) -> Vec<u64> {
        let mut found: Vec<u64> =
            self.events.iter().filter(|(_, room)| takes(&room.takes)).map(|(number, _)| *number).collect();
        found.sort_unstable();
        found
    }

    fn give(&mut self, number: u64, payload: Bytes, id: Option<Box<str>>) {
        if let Some(room) = self.events.get_mut(&number) {
            let bytes = payload.len();
            room.queue.push(payload, bytes);
            room.last = id;
            self.wake(Interest::Events(number));
        }
    }
}
