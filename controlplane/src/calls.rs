//! Calls: from a request to exactly one answer, now or later.
//!
//! ```text
//!   request ──handler──▶ answer
//!                 └────▶ park ──notice──▶ answer
//!                          ├────timer───▶ E_TIMEOUT, what can be undone is
//!                          └────cancel──▶ E_CANCELLED, the same
//! ```
//!
//! Invariant: a parked call is in the table of calls and in its connection's list, or in neither; whoever takes it
//! out answers it, and a connection that is gone has none. What methods do is in [`methods`](crate::methods).

use crate::clock::after_ms;
use crate::digest::IdempotencyKey;
use crate::events::outlet::Inquiry;
use crate::intents::members::Member;
use crate::kernel::Kernel;
use crate::permissions::Grant;
use crate::receipts::Claim;
use crate::state::{Awaited, Call, Deed, Pending, Timer, Trace};
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::{Command, Commands};
use kairo_dataplane::control::{Descriptors, Moment};
use kairo_dataplane::key::{ConnectionKey, ProcessKey, ReactorId, Ticket, TimerKey};
use kairo_wire::codec::encode::Dialect;
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::error::{Code, WireError};
use kairo_wire::limits::CALLS_IN_FLIGHT_MAX;
use kairo_wire::method::{Method, MethodRow, params};
use kairo_wire::methods::event::Ack;
use kairo_wire::methods::permission::GrantScope;
use kairo_wire::methods::status::EndCause;
use kairo_wire::request::Meta;
use kairo_wire::response;
use serde::Serialize;
use std::sync::Arc;

/// One call into the control plane: its time, where its replies go, what it decides.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    /// When.
    pub at: Moment,
    /// The connection whose replies go to `out.replies`.
    pub here: Option<ConnectionKey>,
    /// What is decided.
    pub out: &'a mut Commands,
}

/// A request that is being looked at.
#[derive(Debug)]
pub(crate) struct Asking<'a> {
    /// Who asks.
    pub connection: ConnectionKey,
    /// The call's id as it came.
    pub id: RawRef<'a>,
    /// What is called.
    pub method: &'a str,
    /// The parameters as they came.
    pub params: RawRef<'a>,
    /// What accompanies it; none if nothing does.
    pub meta: Option<Meta<'a>>,
    /// Its place in a larger story, if it changes something.
    pub trace: Trace,
    /// Its key, if it changes something and has one.
    pub key: Option<IdempotencyKey>,
    /// The receipt it is answered with, if there is to be one.
    pub claim: Option<Claim>,
    /// The grant it is allowed by, if the caller may not anyway.
    pub grant: Option<Arc<Grant>>,
    /// The row of what is called.
    pub row: Option<&'static MethodRow>,
}

impl Asking<'_> {
    /// The parameters, read.
    pub(crate) fn read<M: Method>(&self) -> Result<M::Params, WireError> {
        params::<M>(self.params)
    }
}

impl Kernel {
    /// Answers a call that was not parked. One that gets a receipt is parked until the log has that.
    pub(crate) fn answer<R: Serialize>(&mut self, turn: &mut Turn<'_>, asking: &Asking<'_>, result: &R) {
        if asking.claim.is_some() {
            let ticket = self.park(turn, asking, Pending::Published);
            return self.resolve(turn, ticket, result);
        }
        self.send(turn, asking.connection, |buf, dialect| {
            response::put_ok(buf, dialect, asking.id, result);
        });
    }

    /// The answer to a call that was not parked, as a frame to be sent by somebody else.
    pub(crate) fn encoded<R: Serialize>(&mut self, asking: &Asking<'_>, result: &R) -> Bytes {
        let mut frame = BytesMut::new();
        if let Some(dialect) = self.greet(asking.connection) {
            response::put_ok(&mut frame, dialect, asking.id, result);
        }
        frame.freeze()
    }

    /// Answers a parked call, and those that repeat it.
    pub(crate) fn resolve<R: Serialize>(&mut self, turn: &mut Turn<'_>, ticket: u64, result: &R) {
        let Some(name) = self.flight_of(ticket) else { return self.resolve_now(turn, ticket, result) };
        match Raw::of(result) {
            // A kernel that stops may not be there when the log is.
            Ok(result) if self.stopping => self.give_receipt(turn, name, &result, Ack::Memory, false),
            Ok(result) => self.give_receipt(turn, name, &result, Ack::Log, false),
            Err(error) => self.reject(turn, ticket, &WireError::from(error)),
        }
    }

    /// Answers a parked call whose receipt, if it has one, is kept.
    pub(crate) fn resolve_now<R: Serialize>(&mut self, turn: &mut Turn<'_>, ticket: u64, result: &R) {
        if let Some(call) = self.unpark(turn, ticket) {
            let meta = call.claim.and_then(|claim| self.meta_of(claim));
            self.send_late(turn, &call, |buf, dialect, id| {
                response::put_ok_with(buf, dialect, id, result, meta.as_ref());
            });
        }
    }

    /// Answers a parked call with a result and descriptors that come with it.
    pub(crate) fn resolve_with<R: Serialize>(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: u64,
        result: &R,
        descriptors: Descriptors,
    ) {
        let Some(call) = self.unpark(turn, ticket) else { return };
        let Some(dialect) = self.greet(call.connection) else { return };
        let mut frame = BytesMut::new();
        response::put_ok(&mut frame, dialect, call.id.as_ref(), result);
        turn.out.push(Command::Hand { connection: call.connection, frame: frame.freeze(), descriptors });
        self.close_if_over(turn, call.connection);
    }

    /// Answers a parked call with a failure, and those that repeat it; its key is free.
    pub(crate) fn reject(&mut self, turn: &mut Turn<'_>, ticket: u64, error: &WireError) {
        let flight = self.flight_of(ticket).and_then(|name| self.receipts.land(name));
        let waiting = flight.map(|flight| flight.waiting).unwrap_or_default();
        for ticket in std::iter::once(ticket).chain(waiting) {
            if let Some(call) = self.unpark(turn, ticket) {
                self.send_late(turn, &call, |buf, dialect, id| response::put_err(buf, dialect, id, error));
            }
        }
    }

    /// The name in the key of a call that is the one that is carried out.
    pub(crate) fn flight_of(&self, ticket: u64) -> Option<u128> {
        let name = self.state.calls.get(&ticket)?.claim?.name;
        self.receipts.flight(name).filter(|flight| flight.call == ticket).map(|_| name)
    }

    fn send_late(
        &mut self,
        turn: &mut Turn<'_>,
        call: &Call,
        put: impl FnOnce(&mut BytesMut, Dialect, RawRef<'_>),
    ) {
        if call.headless {
            return;
        }
        self.send(turn, call.connection, |buf, dialect| put(buf, dialect, call.id.as_ref()));
        self.close_if_over(turn, call.connection);
    }

    /// Puts a frame where it goes: with the replies of this turn, or on another connection.
    pub(crate) fn send(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        put: impl FnOnce(&mut BytesMut, Dialect),
    ) {
        let Some(dialect) = self.greet(connection) else { return };
        if turn.here == Some(connection) {
            put(&mut turn.out.replies, dialect);
        } else {
            let mut frame = BytesMut::new();
            put(&mut frame, dialect);
            turn.out.push(Command::Reply { connection, frame: frame.freeze() });
        }
    }

    /// Notes that a connection is answered: from then on it may be told things unasked. Returns its dialect.
    fn greet(&mut self, connection: ConnectionKey) -> Option<Dialect> {
        if self.state.connections.lingers(connection).is_some() {
            return None;
        }
        let peer = self.state.connections.get_mut(connection)?;
        if !peer.greeted {
            peer.greeted = true;
            self.state.audience.insert(connection);
        }
        Some(peer.dialect)
    }

    /// Puts a frame that is encoded already where it goes.
    pub(crate) fn deliver(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey, frame: Bytes) {
        if turn.here == Some(connection) {
            turn.out.replies.extend_from_slice(&frame);
        } else if self.state.connections.get(connection).is_some() {
            turn.out.push(Command::Reply { connection, frame });
        }
    }

    /// Keeps a call until something happens. Returns its ticket.
    pub(crate) fn park(&mut self, turn: &mut Turn<'_>, asking: &Asking<'_>, pending: Pending) -> u64 {
        let ticket = self.state.next_serial();
        let deadline = self.deadline(turn, asking, ticket);
        let claim = asking.claim;
        if let Some(claim) = claim.filter(|claim| !claim.repeats) {
            self.receipts.park(claim.name, ticket);
        }
        let under = if pending.can_be_stopped() { self.under(asking) } else { None };
        self.enroll_under(Member::Call(ticket), under.as_deref());
        let (connection, id) = (asking.connection, asking.id.to_owned());
        let of_grant = asking.grant.as_ref().is_some_and(|grant| grant.scope == GrantScope::Once);
        let (row, once) = (asking.row, of_grant || self.once_used);
        let call = Call { connection, id, deadline, pending, under, claim, headless: false, row, once };
        if let Some(connection) = self.state.connections.get_mut(asking.connection) {
            connection.calls.push(ticket);
            self.quotas.parked(connection, call.parked_bytes());
        }
        self.state.calls.insert(ticket, call);
        ticket
    }

    fn deadline(&mut self, turn: &mut Turn<'_>, asking: &Asking<'_>, ticket: u64) -> Option<TimerKey> {
        let delay_ms = asking.meta.as_ref()?.deadline_ms?;
        let timer = self.arm(turn, asking.connection.reactor, after_ms(turn.at, delay_ms));
        self.state.timers.insert(timer.serial, Timer::Deadline { call: ticket });
        Some(timer)
    }

    /// True when a connection may have one more call in flight.
    pub(crate) fn has_room(&self, connection: ConnectionKey) -> bool {
        self.state.connections.get(connection).is_some_and(|peer| peer.calls.len() < CALLS_IN_FLIGHT_MAX)
    }

    /// Spawns of a connection that wait for their ids.
    pub(crate) fn queued_spawns(&self, connection: ConnectionKey) -> usize {
        let Some(peer) = self.state.connections.get(connection) else { return 0 };
        let waits = |ticket: &&u64| {
            self.state.calls.get(ticket).is_some_and(|call| matches!(call.pending, Pending::Reuse { .. }))
        };
        peer.calls.iter().filter(waits).count()
    }

    /// Takes a call out of the tables, with its timers.
    fn unpark(&mut self, turn: &mut Turn<'_>, ticket: u64) -> Option<Call> {
        let call = self.state.calls.remove(&ticket)?;
        if let Some(connection) = self.state.connections.get_mut(call.connection) {
            connection.calls.retain(|other| *other != ticket);
            self.quotas.unparked(connection, call.parked_bytes());
        }
        if let Some(timer) = call.deadline {
            self.disarm(turn, timer);
        }
        self.strike_out(turn, ticket, &call.pending);
        self.strike(turn, Member::Call(ticket), call.under.as_deref());
        Some(call)
    }

    /// What a call has led to is known: it waits for nothing but the log any more.
    pub(crate) fn settle_pending(&mut self, turn: &mut Turn<'_>, ticket: u64) {
        let Some(call) = self.state.calls.get_mut(&ticket) else { return };
        let pending = std::mem::replace(&mut call.pending, Pending::Published);
        // What is done can't be stopped any more.
        let under = call.under.take();
        self.strike_out(turn, ticket, &pending);
        self.strike(turn, Member::Call(ticket), under.as_deref());
    }

    /// Takes a call off the list of what it waited for, with the timer of that.
    fn strike_out(&mut self, turn: &mut Turn<'_>, ticket: u64, pending: &Pending) {
        let processes = &mut self.state.processes;
        let timer = match pending {
            Pending::Reuse { holder, timer, .. } => {
                unlist(processes.get_mut(holder).map(|process| &mut process.heirs), ticket);
                Some(*timer)
            }
            Pending::Changes { timer, .. } => {
                self.journal.inquire(Inquiry::Forget(ticket));
                *timer
            }
            Pending::Wait { process, timer } => {
                unlist(processes.get_mut(process).map(|process| &mut process.waits), ticket);
                *timer
            }
            Pending::Deed { process, sent: false, .. } => {
                unlist(processes.get_mut(process).map(|process| &mut process.deferred), ticket);
                None
            }
            Pending::Spawn { process } => {
                unlist(processes.get_mut(process).map(|process| &mut process.spawning), ticket);
                None
            }
            Pending::Pipeline { pipeline, what } => {
                let pipeline = self.state.pipelines.get_mut(*pipeline);
                unlist(pipeline.map(|pipeline| &mut pipeline.calls), ticket);
                match what {
                    Awaited::End { timer } => *timer,
                    Awaited::Start | Awaited::Status => None,
                }
            }
            Pending::Request { event, timer } => self.close_request(event, *timer),
            Pending::Decision { request, timer } => {
                let waiting = request.as_ref().and_then(|id| self.permissions.requests.waiting(id));
                unlist(waiting, ticket);
                *timer
            }
            Pending::Repeat { name } => {
                self.receipts.unwait(*name, ticket);
                None
            }
            Pending::Cancelling { cancel } => {
                let cancel = self.state.intents.cancels.get_mut(cancel);
                unlist(cancel.map(|cancel| &mut cancel.callers), ticket);
                None
            }
            Pending::Deed { sent: true, .. }
            | Pending::Metrics
            | Pending::Usage { .. }
            | Pending::Published
            | Pending::Compaction { .. }
            | Pending::Replay { .. }
            | Pending::Open { .. }
            | Pending::Watch { .. } => None,
        };
        if let Some(timer) = timer {
            self.disarm(turn, timer);
        }
    }

    /// Gives a call up: undoes what can be undone and answers with `error`.
    pub(crate) fn abandon(&mut self, turn: &mut Turn<'_>, ticket: u64, error: &WireError, cause: EndCause) {
        if self.outlive_caller(turn, ticket, Some(error)) {
            return;
        }
        let Some(call) = self.state.calls.get(&ticket) else { return };
        match &call.pending {
            Pending::Deed { process, deed: Deed::Write { .. }, sent: true } => {
                let process =
                    ProcessKey { home: self.home(*process, call.connection.reactor), serial: *process };
                turn.out.push(Command::AbandonWrite { process, ticket: Ticket(ticket) });
            }
            Pending::Spawn { process } => {
                let (process, by) = (*process, self.ended_by(call.connection, cause));
                self.doom(turn, process, by);
            }
            Pending::Pipeline { pipeline, what: Awaited::Start } => {
                let (pipeline, by) = (*pipeline, self.ended_by(call.connection, cause));
                self.doom_stages(turn, pipeline, &by, self.config.limits.kill_grace_ms);
            }
            Pending::Open { opened } => {
                let id = opened.id.clone();
                self.end_opened(turn, &id);
            }
            // A signal and an event can't be taken back, a wait and a reading leave nothing behind.
            Pending::Deed { .. }
            | Pending::Wait { .. }
            | Pending::Pipeline { .. }
            | Pending::Reuse { .. }
            | Pending::Metrics
            | Pending::Usage { .. }
            | Pending::Published
            | Pending::Compaction { .. }
            | Pending::Request { .. }
            | Pending::Decision { .. }
            | Pending::Repeat { .. }
            | Pending::Cancelling { .. }
            | Pending::Replay { .. }
            | Pending::Changes { .. }
            | Pending::Watch { .. } => {}
        }
        self.reject(turn, ticket, error);
    }

    /// Forgets the calls of a connection that is gone. What they asked for goes on, but waiting for an id.
    pub(crate) fn drop_calls(&mut self, turn: &mut Turn<'_>, tickets: Vec<u64>) {
        let repeats = |call: &Call| matches!(call.pending, Pending::Repeat { .. });
        let (waiting, others): (Vec<u64>, Vec<u64>) =
            tickets.into_iter().partition(|ticket| self.state.calls.get(ticket).is_some_and(repeats));
        for ticket in waiting {
            self.unpark(turn, ticket);
        }
        for ticket in others {
            if self.outlive_caller(turn, ticket, None) {
                continue;
            }
            if let Some(name) = self.flight_of(ticket) {
                self.receipts.land(name);
            }
            self.unpark(turn, ticket);
        }
    }

    /// Gives up every call of a connection whose id is `id`. True if there was one.
    pub(crate) fn cancel(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey, id: &[u8]) -> bool {
        let Some(peer) = self.state.connections.get(connection) else { return false };
        let calls = &self.state.calls;
        let is_meant = |ticket: &&u64| calls.get(ticket).is_some_and(|call| call.id.bytes() == id);
        let tickets: Vec<u64> = peer.calls.iter().filter(is_meant).copied().collect();
        let error = WireError::new(Code::Cancelled, "abandoned with kernel.cancel");
        for ticket in &tickets {
            self.abandon(turn, *ticket, &error, EndCause::Kill);
        }
        !tickets.is_empty()
    }

    /// Arms a new timer; the caller says in `state.timers` what it is for.
    pub(crate) fn arm(&mut self, turn: &mut Turn<'_>, home: ReactorId, at_ns: u64) -> TimerKey {
        let timer = TimerKey { home, serial: self.state.next_serial() };
        turn.out.push(Command::Arm { timer, at_ns });
        timer
    }

    /// Disarms a timer that may have rung.
    pub(crate) fn disarm(&mut self, turn: &mut Turn<'_>, timer: TimerKey) {
        if self.state.timers.remove(&timer.serial).is_some() {
            turn.out.push(Command::Disarm { timer });
        }
    }

    /// Closes a connection that sends no more, waits for nothing and is told nothing.
    pub(crate) fn close_if_over(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey) {
        let streams = &self.state.streams;
        let Some(peer) = self.state.connections.get_mut(connection) else { return };
        let listens = || peer.streams.iter().any(|stream| streams.get(stream).is_some_and(|s| s.is_live()));
        let waits = !peer.calls.is_empty() || !peer.topics.is_empty() || !peer.attached.is_empty();
        if peer.half_closed && !peer.closing && !waits && !listens() {
            peer.closing = true;
            turn.out.push(Command::Close { connection });
        }
    }

    /// The home of a process, which is `otherwise` once its record is gone.
    fn home(&self, process: u64, otherwise: ReactorId) -> ReactorId {
        self.state.processes.get(&process).map_or(otherwise, |process| process.key.home)
    }
}

fn unlist(list: Option<&mut Vec<u64>>, ticket: u64) {
    if let Some(list) = list {
        list.retain(|other| *other != ticket);
    }
}
