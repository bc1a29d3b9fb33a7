//! One connection, many threads, no thread of its own: who waits, reads.
//!
//! Whoever waits for something (an answer, a chunk, an event) and finds nobody reading the socket, reads it:
//! for itself and for everybody else. It puts what it read where it belongs, wakes whom that concerns, and when
//! it has its own, it leaves the reading to one of those who still wait. So a lone call costs no hand-over between
//! threads, an idle connection costs nothing at all, and a consumer that stops consuming stops the reading: then
//! the socket fills and the kernel sees a slow reader. A lost connection is brought back the same way: by one who waits,
//! for all.
//!
//! ```text
//!   waiting thread ──has its own?──▶ returns, and wakes a follower to go on
//!        │ no                 ▲
//!        ▼                    │ dispatch: answers, chunks, events to their places
//!   line free and   ──yes──▶ up: reads a batch of frames, without the lock
//!   nobody congested?        down: takes a step towards a new connection, without the lock
//!        └──no──▶ sleeps until its own comes, or the line is free
//! ```
//!
//! Requests out are in `outlet`, frames in in `dispatch`, what becomes of all this when the connection is lost in
//! `resume`. Locks are taken in this order: outlet, state.
//! Invariant: `line` is `None` exactly while one thread reads or mends; whenever it is put back and somebody who may
//! use it still waits, one such waiter is awake.

use crate::error::{CallError, Lost, StreamError};
use crate::inlet::{Inlet, Stop};
use crate::outlet::{Outlet, Request};
use crate::queue::Queue;
use crate::reading::Reading;
use crate::reconnect::{FIRST_CALL, Greeted, Home, Line, Standing};
use crate::resume::{Errand, Resuming};
use crate::subscription::Item;
use bytes::Bytes;
use kairo_wire::event::{EventCutRecord, StreamEndReason};
use kairo_wire::id::SubscriptionId;
use kairo_wire::methods::consumer::NameParams;
use kairo_wire::methods::event::{self, Gap};
use kairo_wire::methods::stream::{StreamName, SubscribeParams};
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Past this many queued bytes not even a call reads on, because what it waits for may never come.
const CONGESTED_FOR_CALLS_BYTES: usize = 64 << 20;

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

/// What the answer to a call opens, at the moment it is read: so that what comes right behind it finds its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opens {
    Stream(u64),
    Events(u64),
    /// Nothing here: descriptors come with it, whether or not anybody still wants them.
    Descriptors,
}

/// A call in flight.
#[derive(Debug)]
pub(crate) enum CallSlot {
    /// Nothing yet.
    Waiting(Waiting),
    /// There it is.
    Answered(Result<Bytes, CallError>),
}

/// A call without an answer.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) opens: Option<Opens>,
    /// Somebody will ask for the answer; else it is dropped.
    pub(crate) wanted: bool,
    /// How it was asked; kept where a connection comes back.
    pub(crate) request: Option<Request>,
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
        reason: StreamEndReason,
    },
    /// A v1 kernel dropped bytes, and can't say which.
    Overflow,
}

/// A subscription to a process.
#[derive(Debug)]
pub(crate) struct StreamRoom {
    pub(crate) queue: Queue<Result<Item, StreamError>>,
    pub(crate) reading: Reading,
    /// Its last item, an error, is in the queue.
    pub(crate) failed: bool,
}

/// A subscription to events.
#[derive(Debug)]
pub(crate) struct EventRoom {
    pub(crate) takes: EventKinds,
    pub(crate) queue: Queue<Heard>,
    /// Its name on the wire; none before the first answer, and for notices.
    pub(crate) id: Option<SubscriptionId>,
    /// Where it goes on: one past the last place it was told of, or where it began. None while that isn't known.
    pub(crate) next: Option<u64>,
    /// The bus event it got last: a kernel without the feature `envelope` sends one frame per subscription and does not
    /// say for which, so each copy goes to the next room that has not had one.
    pub(crate) last: Option<Box<str>>,
}

impl EventRoom {
    pub(crate) fn new(takes: EventKinds) -> EventRoom {
        EventRoom { takes, queue: Queue::default(), id: None, next: None, last: None }
    }
}

/// What a subscription to events receives.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The payload of an EVENT frame.
    Event(Bytes),
    /// Events that are no longer in the log.
    Gap(Gap),
    /// The kernel had ended the subscription, and it goes on.
    Cut(EventCutRecord),
    /// The connection was lost and is there again.
    Resumed { outage: Duration, complete: bool },
    /// The new kernel does not take the subscription.
    Refused(Lost),
}

/// Which EVENT frames a room takes.
#[derive(Debug)]
pub(crate) enum EventKinds {
    /// Bus events, as they were asked for first.
    Bus(Box<event::SubscribeParams>),
    /// What is delivered to a durable consumer.
    Consumer(NameParams),
    /// Notices of this name.
    Notices(&'static str),
}

/// Everything behind the lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) line: Option<Line>,
    /// Of the line, to end it from another thread.
    pub(crate) socket: Arc<UnixStream>,
    pub(crate) standing: Standing,
    pub(crate) calls: HashMap<u64, CallSlot>,
    /// Calls that subscribe again, on behalf of nobody who waits.
    pub(crate) resuming: HashMap<u64, Resuming>,
    /// From the subscription's id on the wire to our number of it.
    pub(crate) names: HashMap<Box<str>, u64>,
    pub(crate) streams: HashMap<u64, StreamRoom>,
    pub(crate) events: HashMap<u64, EventRoom>,
    followers: HashMap<Interest, Arc<Condvar>>,
    /// What has to be sent because of what came.
    pub(crate) errands: Vec<Errand>,
    pub(crate) lost: Option<Lost>,
    /// True exactly while there is no connection to send on; what is to be sent waits for the next.
    pub(crate) down: bool,
    /// How long the last outage was.
    pub(crate) outage: Duration,
    next: u64,
    /// Descriptors that have come, and whose answers have not been looked at.
    pub(crate) arrived: VecDeque<OwnedFd>,
    /// Those that came with an answer, by call.
    pub(crate) handed: HashMap<u64, Vec<OwnedFd>>,
}

/// What calls and subscriptions of one connection share.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    /// Taken for the length of one write, so that requests do not mix.
    pub(crate) out: Mutex<Outlet>,
    /// The way back, if there is one.
    pub(crate) home: Option<Home>,
    /// The next call's.
    pub(crate) number: AtomicU64,
}

/// A connection that is shared no more.
#[derive(Debug)]
pub(crate) struct Unshared {
    pub(crate) line: Option<Line>,
    pub(crate) socket: Arc<UnixStream>,
    pub(crate) standing: Standing,
    pub(crate) home: Option<Home>,
}

impl Link {
    pub(crate) fn new(greeted: Greeted, home: Option<Home>) -> Link {
        let Greeted { socket, inlet, hello } = greeted;
        let state = State {
            line: Some(Line::Up(inlet)),
            socket: Arc::clone(&socket),
            standing: Standing { hello, lowered: None },
            calls: HashMap::new(),
            resuming: HashMap::new(),
            names: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            followers: HashMap::new(),
            errands: Vec::new(),
            lost: None,
            down: false,
            outage: Duration::ZERO,
            next: 1,
            arrived: VecDeque::new(),
            handed: HashMap::new(),
        };
        let out = Mutex::new(Outlet::new(socket));
        Link { state: Mutex::new(state), out, home, number: AtomicU64::new(FIRST_CALL) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its parts, if this is the last who knows of it.
    pub(crate) fn unshare(self) -> Unshared {
        let State { line, socket, standing, .. } =
            self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Unshared { line, socket, standing, home: self.home }
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
            if !state.errands.is_empty() {
                let errands = std::mem::take(&mut state.errands);
                drop(state);
                self.run(errands);
                state = self.lock();
            }
            if let Some(found) = met(&mut state) {
                break Ok(found);
            }
            if let Some(lost) = &state.lost {
                break Err(Unmet::Lost(lost.clone()));
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break Err(Unmet::Deadline);
            }
            let line = if state.may_use_line(interest) { state.line.take() } else { None };
            state = match line {
                Some(Line::Up(inlet)) => self.read(state, inlet, deadline),
                Some(Line::Down(outage)) => self.mend(state, outage, deadline),
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
        let stopped = match filled {
            Ok(_) => state.dispatch(&mut inlet).err(),
            Err(Stop::Deadline) => None,
            Err(stop) => Some(stop.into()),
        };
        state.line = Some(Line::Up(inlet));
        if let Some(lost) = stopped {
            self.part(&mut state, lost);
        }
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
    fn room(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// A place for the answer of a call that is about to be sent.
    pub(crate) fn open_call(&mut self, call: u64, waiting: Waiting) -> Result<(), Lost> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        self.calls.insert(call, CallSlot::Waiting(waiting));
        Ok(())
    }

    /// The answer, once.
    pub(crate) fn take_answer(&mut self, call: u64) -> Option<Result<Bytes, CallError>> {
        match self.calls.get(&call)? {
            CallSlot::Waiting(_) => None,
            CallSlot::Answered(_) => match self.calls.remove(&call)? {
                CallSlot::Answered(answer) => Some(answer),
                CallSlot::Waiting(_) => None,
            },
        }
    }

    /// It was never sent.
    pub(crate) fn forget_call(&mut self, call: u64) {
        self.calls.remove(&call);
    }

    /// Nobody will ask for the answer.
    pub(crate) fn abandon_call(&mut self, call: u64) {
        match self.calls.get_mut(&call) {
            Some(CallSlot::Waiting(waiting)) => {
                waiting.wanted = false;
                match waiting.opens {
                    Some(Opens::Stream(stream)) => drop(self.streams.remove(&stream)),
                    Some(Opens::Events(room)) => drop(self.events.remove(&room)),
                    Some(Opens::Descriptors) | None => {}
                }
            }
            Some(CallSlot::Answered(_)) => drop(self.calls.remove(&call)),
            None => {}
        }
        self.handed.remove(&call);
    }

    /// A place for the items of a subscription that is about to be asked for.
    pub(crate) fn open_stream(&mut self, params: &SubscribeParams) -> u64 {
        let stream = self.room();
        let reading = Reading::new(params, self.standing.has("records"));
        self.streams.insert(stream, StreamRoom { queue: Queue::default(), reading, failed: false });
        stream
    }

    pub(crate) fn take_item(&mut self, stream: u64) -> Option<Result<Item, StreamError>> {
        self.streams.get_mut(&stream)?.queue.pop()
    }

    /// Forgets a subscription; what still comes of it is dropped. Returns its name, if this connection has given it one.
    pub(crate) fn close_stream(&mut self, stream: u64) -> Option<SubscriptionId> {
        let room = self.streams.remove(&stream);
        let id = room.and_then(|room| room.reading.id().cloned());
        let named = id.filter(|id| self.names.remove(id.as_str()).is_some());
        self.pass_on();
        named
    }

    /// A place for events, and what it takes.
    pub(crate) fn open_events(&mut self, takes: EventKinds) -> u64 {
        let room = self.room();
        self.events.insert(room, EventRoom::new(takes));
        room
    }

    pub(crate) fn take_event(&mut self, room: u64) -> Option<Heard> {
        self.events.get_mut(&room)?.queue.pop()
    }

    /// Forgets a subscription to events. Returns its name.
    pub(crate) fn close_events(&mut self, room: u64) -> Option<SubscriptionId> {
        let id = self.events.remove(&room).and_then(|room| room.id);
        if let Some(id) = &id {
            self.names.remove(id.as_str());
        }
        self.pass_on();
        id
    }

    /// Ends the connection for everybody, for a reason. The first reason counts.
    pub(crate) fn lose(&mut self, lost: Lost) {
        let lost = self.lost.get_or_insert(lost);
        for slot in self.calls.values_mut() {
            if matches!(slot, CallSlot::Waiting(_)) {
                *slot = CallSlot::Answered(Err(CallError::Lost(lost.clone())));
            }
        }
        self.wake_all();
    }

    /// Whether somebody who waits for `interest` may read for all: not while it would fill a queue whose consumer
    /// is behind. A call may go further than a consumer, because its answer comes soon, and with it an end. A line that
    /// is down fills no queue.
    fn may_use_line(&self, interest: Interest) -> bool {
        match (interest, &self.line) {
            (_, Some(Line::Down(_))) => true,
            (Interest::Call(_), _) => {
                let streams: usize = self.streams.values().map(|room| room.queue.cost()).sum();
                let events: usize = self.events.values().map(|room| room.queue.cost()).sum();
                streams + events < CONGESTED_FOR_CALLS_BYTES
            }
            (Interest::Stream(_) | Interest::Events(_), _) => {
                !self.streams.values().any(|room| room.queue.is_congested())
                    && !self.events.values().any(|room| room.queue.is_congested())
            }
        }
    }

    /// If nobody uses the line, wakes one of those who wait and may.
    pub(crate) fn pass_on(&self) {
        if self.line.is_none() {
            return;
        }
        if let Some((_, bell)) = self.followers.iter().find(|(interest, _)| self.may_use_line(**interest)) {
            bell.notify_one();
        }
    }

    pub(crate) fn wake(&self, interest: Interest) {
        if let Some(bell) = self.followers.get(&interest) {
            bell.notify_one();
        }
    }

    pub(crate) fn wake_all(&self) {
        for bell in self.followers.values() {
            bell.notify_one();
        }
    }
}
