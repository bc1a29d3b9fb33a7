//! What becomes of everything when the connection is lost, and how it goes on over the next one.
//!
//! ```text
//!                        lost                                         back
//!   call that asks ───────────────▶ kept ───────────────────────────▶ sent again
//!   call with a key ──────────────▶ kept ───────────────────────────▶ sent again, with the same key
//!   other call, delivered ────────▶ CallError::Interrupted
//!   other call, not delivered ────▶ kept ───────────────────────────▶ sent for the first time
//!   stream ───────────────────────▶ kept, what has come stays ──────▶ asked for from its exact offsets
//!   events ───────────────────────▶ kept ───────────────────────────▶ asked for behind the last, and told of the outage
//! ```
//!
//! Invariant: nothing that could happen twice is sent twice, and whoever waits gets an item, an answer or an error.
//! The way to the next connection is in [`reconnect`](crate::reconnect).

use crate::connection::put_request;
use crate::error::{CallError, Lost, StreamError};
use crate::outlet::Again;
use crate::reading::Refused;
use crate::reconnect::{Change, Greeted, Line, Outage, Step};
use crate::state::{CallSlot, EventKinds, EventRoom, Heard, Interest, Link, State, Waiting};
use bytes::{Bytes, BytesMut};
use kairo_wire::id::SubscriptionId;
use kairo_wire::method::Method;
use kairo_wire::methods::stream::{SubscribeParams, SubscribeResult};
use kairo_wire::methods::{event, stream};
use serde::Serialize;
use std::io::Write;
use std::net::Shutdown;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

/// How long a step towards a new connection may take before its thread looks whether it is still wanted.
const STEP: Duration = Duration::from_millis(100);

/// What a call that subscribes again is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resuming {
    Stream(u64),
    /// After an outage, which is told.
    Events(u64),
    /// After the kernel had cut it, which has been told.
    Cut(u64),
}

/// Something to be sent because of what came.
#[derive(Debug)]
pub(crate) enum Errand {
    /// A subscription to a process was opened for nobody.
    EndStream(SubscriptionId),
    /// A subscription to events was opened for nobody.
    EndEvents(SubscriptionId),
    /// A subscription to events is asked for again.
    EventsAgain(u64),
    /// A subscription is asked for as at first, because there is nothing to go on from.
    Afresh(u64, Box<SubscribeParams>),
}

impl Link {
    /// The connection is lost: for good, or until it is brought back.
    pub(crate) fn part(&self, state: &mut State, lost: Lost) {
        match &self.home {
            Some(home) if lost.is_the_kernels() && state.lost.is_none() => {
                state.line = Some(Line::Down(Box::new(Outage::new(lost, &home.reconnect))));
                state.down = true;
                state.break_off();
            }
            Some(_) | None => state.lose(lost),
        }
    }

    /// Takes a step towards a new connection.
    pub(crate) fn mend<'s>(
        &'s self,
        state: MutexGuard<'s, State>,
        mut outage: Box<Outage>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'s, State> {
        let standing = state.standing.clone();
        drop(state);
        let end = Instant::now() + STEP;
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        let step = match &self.home {
            Some(home) => outage.step(home, Some(&standing), Some(end)),
            None => Step::Never(Lost::ClosedHere),
        };
        match step {
            Step::NotYet => {
                let mut state = self.lock();
                state.line = Some(Line::Down(outage));
                state
            }
            Step::Never(lost) => {
                self.tell_of(&Change::GivenUp(lost.clone()));
                let mut state = self.lock();
                state.line = Some(Line::Down(outage));
                state.lose(lost);
                state
            }
            Step::Back(greeted) => self.resume(greeted, outage.since.elapsed()),
        }
    }

    fn tell_of(&self, change: &Change) {
        if let Some(home) = &self.home {
            home.tell(change);
        }
    }

    /// Goes on over a new connection. This thread has the line, so nobody reads what is asked for here.
    fn resume(&self, greeted: Greeted, outage: Duration) -> MutexGuard<'_, State> {
        let Greeted { socket, inlet, hello } = greeted;
        // Before anybody sees what the new kernel sends.
        self.tell_of(&Change::Back { outage });
        let mut out = self.outlet();
        let mut state = self.lock();
        if state.lost.is_some() {
            // Closed on this side meanwhile.
            let _ = socket.shutdown(Shutdown::Both);
            state.line = Some(Line::Up(inlet));
            return state;
        }
        state.standing.hello = hello;
        state.socket = Arc::clone(&socket);
        state.outage = outage;
        let requests = state.requests_again(|| self.next_call());
        state.down = false;
        drop(state);
        out.socket = socket;
        for request in requests {
            if (&*out.socket).write_all(&request).is_err() {
                // Lost again: whoever reads finds out, and all this is sent to the next.
                break;
            }
        }
        drop(out);
        let mut state = self.lock();
        state.line = Some(Line::Up(inlet));
        state
    }
}

impl State {
    /// A request did not leave whole.
    pub(crate) fn is_undelivered(&mut self, call: u64, frame: Bytes) {
        if let Some(CallSlot::Waiting(Waiting { request: Some(request), .. })) = self.calls.get_mut(&call) {
            request.delivered = false;
            request.frame = Some(frame);
        }
    }

    /// Nothing comes any more of what this connection has opened.
    fn break_off(&mut self) {
        self.names.clear();
        self.resuming.clear();
        self.errands.clear();
        let honoured = self.standing.honours_keys();
        self.calls.retain(|_, slot| {
            let CallSlot::Waiting(Waiting { wanted, request: Some(request), .. }) = slot else { return true };
            let kept = match request.again {
                _ if !request.delivered => *wanted || request.again != Again::Harmless,
                Again::Harmless => *wanted,
                Again::Keyed => honoured,
                Again::Twice => false,
            };
            if !kept && *wanted {
                let method = request.method.to_string();
                *slot = CallSlot::Answered(Err(CallError::Interrupted { method }));
                return true;
            }
            kept
        });
        self.wake_all();
    }

    /// What a new kernel is asked for, in the order it was asked for first.
    fn requests_again(&mut self, mut number: impl FnMut() -> u64) -> Vec<Bytes> {
        let mut requests = Vec::new();
        self.events_again(&mut number, &mut requests);
        self.streams_again(&mut number, &mut requests);
        self.calls_again(&mut requests);
        self.wake_all();
        requests
    }

    fn events_again(&mut self, number: &mut impl FnMut() -> u64, requests: &mut Vec<Bytes>) {
        let outage = self.outage;
        for (room, events) in &mut self.events {
            match events.again() {
                // Notices are in no log.
                None if matches!(events.takes, EventKinds::Exits) => {
                    events.queue.push(Heard::Resumed { outage, complete: false }, 0);
                }
                // It isn't answered yet, and so among the calls.
                None => {}
                Some(params) => {
                    let call = number();
                    requests.extend(encoded(call, event::Subscribe::NAME, &params));
                    self.resuming.insert(call, Resuming::Events(*room));
                }
            }
        }
    }

    fn streams_again(&mut self, number: &mut impl FnMut() -> u64, requests: &mut Vec<Bytes>) {
        let mut failures = Vec::new();
        for (stream, room) in self.streams.iter().filter(|(_, room)| !room.failed) {
            if room.reading.id().is_none() {
                // It isn't answered yet, and so among the calls.
                continue;
            }
            match room.reading.again() {
                Ok(Some(params)) => {
                    let call = number();
                    requests.extend(encoded(call, stream::Subscribe::NAME, &params));
                    self.resuming.insert(call, Resuming::Stream(*stream));
                }
                Ok(None) => failures.push((*stream, StreamError::NotFollowed)),
                Err(error) => failures.push((*stream, error)),
            }
        }
        for (stream, error) in failures {
            self.fail_stream(stream, error);
        }
    }

    fn calls_again(&mut self, requests: &mut Vec<Bytes>) {
        let honoured = self.standing.honours_keys();
        let mut calls: Vec<(u64, &mut CallSlot)> =
            self.calls.iter_mut().map(|(call, slot)| (*call, slot)).collect();
        calls.sort_unstable_by_key(|(call, _)| *call);
        for (_, slot) in calls {
            let CallSlot::Waiting(Waiting { request: Some(request), .. }) = slot else { continue };
            let repeats = request.delivered && request.again == Again::Keyed && !honoured;
            match &request.frame {
                Some(frame) if !repeats => {
                    requests.push(frame.clone());
                    request.delivered = true;
                }
                // A kernel that doesn't know the key would do it again.
                Some(_) | None => {
                    let method = request.method.to_string();
                    *slot = CallSlot::Answered(Err(CallError::Interrupted { method }));
                }
            }
        }
    }

    /// The new kernel has answered to what was asked for again.
    pub(crate) fn resumed(
        &mut self,
        resuming: Resuming,
        answer: Result<Bytes, CallError>,
    ) -> Result<(), Lost> {
        match (resuming, answer) {
            (Resuming::Stream(stream), Ok(result)) => {
                let opened: SubscribeResult = crate::codec::value(&result)?;
                self.opened_stream(stream, &opened);
            }
            (Resuming::Stream(stream), Err(error)) => {
                let refused = self.streams.get(&stream).map(|room| room.reading.refused(&error));
                match refused {
                    Some(Refused::Afresh(params)) => {
                        self.errands.push(Errand::Afresh(stream, Box::new(params)));
                    }
                    Some(Refused::Failed(error)) => self.fail_stream(stream, error),
                    None => {}
                }
            }
            (Resuming::Events(room) | Resuming::Cut(room), Ok(result)) => {
                let opened: event::SubscribeResult = crate::codec::value(&result)?;
                self.resumed_events(room, opened, matches!(resuming, Resuming::Events(_)));
                self.wake(Interest::Events(room));
            }
            (Resuming::Events(room) | Resuming::Cut(room), Err(error)) => {
                if let Some(events) = self.events.get_mut(&room) {
                    events.queue.push(Heard::Refused(Lost::Payload(error.to_string().into())), 0);
                    self.wake(Interest::Events(room));
                }
            }
        }
        Ok(())
    }

    /// The kernel has taken a subscription to events again.
    fn resumed_events(&mut self, number: u64, opened: event::SubscribeResult, after_outage: bool) {
        let outage = self.outage;
        let Some(room) = self.events.get_mut(&number) else {
            return self.errands.push(Errand::EndEvents(opened.subscription_id));
        };
        let EventKinds::Bus(asked) = &room.takes else { return };
        let (asked, timed) = (asked.from_seq, asked.from_time_ms.is_some());
        // A place that was reached and now lies ahead was one in another log.
        let elsewhere = opened.next_seq.filter(|_| room.next != asked).filter(|end| room.next > Some(*end));
        if after_outage {
            let complete = (room.next.is_some() || timed) && opened.next_seq.is_some() && elsewhere.is_none();
            room.queue.push(Heard::Resumed { outage, complete }, 0);
        }
        match elsewhere {
            None => self.opened_events(number, opened),
            Some(end) => {
                room.next = Some(end);
                self.errands.push(Errand::EndEvents(opened.subscription_id));
                self.errands.push(Errand::EventsAgain(number));
            }
        }
    }

    /// A subscription can't go on; its consumer learns why after what has come.
    pub(crate) fn fail_stream(&mut self, stream: u64, error: StreamError) {
        let Some(room) = self.streams.get_mut(&stream).filter(|room| !room.failed) else { return };
        room.failed = true;
        room.queue.push(Err(error), 0);
        self.wake(Interest::Stream(stream));
    }
}

impl EventRoom {
    /// What a kernel is asked for so that it goes on; none if there is nothing to go on with.
    pub(crate) fn again(&self) -> Option<Box<event::SubscribeParams>> {
        let EventKinds::Bus(asked) = &self.takes else { return None };
        self.id.as_ref()?;
        let mut params = asked.clone();
        if self.next.is_some() {
            (params.from_seq, params.from_time_ms) = (self.next, None);
        }
        Some(params)
    }
}

/// A request of ours that is kept nowhere; none if it can't be written, which a request of ours can.
fn encoded<P: Serialize>(call: u64, method: &str, params: &P) -> Option<Bytes> {
    let mut buffer = BytesMut::new();
    put_request(&mut buffer, call, method, params, None, None).ok()?;
    Some(buffer.freeze())
}
