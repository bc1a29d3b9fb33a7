//! The state machine, and the lock around it.
//!
//! [`Kernel`] is pure: what goes in is a frame or a notice and the time, what comes out are commands. [`ControlPlane`]
//! lets reactors share one, and measures how long its lock is held: the budget is 50 µs for all but one call in a
//! thousand. Nothing under the lock waits, reads a file or computes at length.
//!
//! Invariant: for equal configuration, entropy and sequence of calls the commands are equal.

use crate::agents::Agents;
use crate::calls::{Asking, Turn};
use crate::config::Config;
use crate::entropy::{Entropy, Keyed};
use crate::events::batch::Batch;
use crate::events::journal::Journal;
use crate::events::outlet::Outlet;
use crate::events::record::Audience;
use crate::histogram::Histogram;
use crate::methods;
use crate::permissions::asking::Asked;
use crate::permissions::{Grant, Permissions};
use crate::quotas::Welcome;
use crate::quotas::ledger::Ledger;
use crate::receipts::Receipts;
use crate::sessions::lifecycle::Birth;
use crate::sessions::report;
use crate::state::{Connection, Phase, State, Timer, Trace};
use crate::table::{Answers, Route, Table};
use kairo_dataplane::command::{Command, Commands};
use kairo_dataplane::control::{Control, Inbound, Moment, Notice, Peer};
use kairo_dataplane::key::{ConnectionKey, ReactorId, TimerKey};
use kairo_wire::codec::check::{CheckError, check};
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{KernelReady, KernelStopping};
use kairo_wire::frame::Kind;
use kairo_wire::limits::{CALL_ID_BYTES_MAX, META_BYTES_MAX};
use kairo_wire::methods::status::{EndCause, EndedBy};
use kairo_wire::request::{self, Meta, Refused, Request};
use kairo_wire::{introspect, response};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What decides.
pub struct Kernel {
    pub(crate) config: Config,
    pub(crate) entropy: Box<dyn Entropy>,
    pub(crate) state: State,
    /// The key of digests.
    pub(crate) digester: Keyed,
    pub(crate) table: Table,
    /// The encoded status of what nobody knows.
    pub(crate) unknown: Raw,
    /// No new work is taken.
    pub(crate) stopping: bool,
    /// Everything goes on under the next kernel.
    pub(crate) left: bool,
    /// Nothing can be started or signalled.
    pub(crate) keeper_lost: bool,
    /// Its side of the log.
    pub(crate) journal: Journal,
    /// What keyed calls have led to.
    pub(crate) receipts: Receipts,
    /// The contract's description has been built.
    pub(crate) described: bool,
    /// What was called for in this moment and its caller has to do first.
    pub(crate) in_hand: Option<Errand>,
    /// Who was granted what.
    pub(crate) permissions: Permissions,
    /// The call that is being looked at has used up what was granted for one use.
    pub(crate) once_used: bool,
    /// Agents and their sessions.
    pub(crate) agents: Agents,
    /// What each principal has.
    pub(crate) quotas: Ledger,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("config", &self.config)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// What the caller must do before a frame can be answered.
#[derive(Debug)]
#[must_use]
pub enum Errand {
    /// Nothing: it is answered, parked, or was nothing to answer.
    None,
    /// Build the contract's description ([`introspect::all`]), which takes milliseconds.
    Describe,
    /// Read a batch, and hand it in until it is published.
    Publish(Box<Batch>),
    /// Read a manifest.
    Declare(Box<Asked>),
}

impl Errand {
    /// Does what takes longer than the lock may be held, for the frame with this payload; then the kernel
    /// [proceeds](Kernel::proceed). False if there is nothing to do.
    pub fn run(&mut self, payload: &[u8]) -> bool {
        match self {
            Errand::None => return false,
            Errand::Describe => drop(introspect::all()),
            Errand::Publish(batch) => batch.read(payload),
            Errand::Declare(asked) => asked.read(),
        }
        true
    }
}

impl Kernel {
    /// A kernel without connections and processes, whose log goes on behind `last_seq`.
    pub fn new(
        config: Config,
        mut entropy: Box<dyn Entropy>,
        outlet: Box<dyn Outlet>,
        last_seq: u64,
    ) -> Kernel {
        let state = State::new(&mut *entropy);
        let digester = Keyed::new(&mut *entropy);
        let table = Table::of(methods::all());
        let permissions = Permissions::new(Arc::clone(&config.policy));
        Kernel {
            quotas: Ledger::new(config.quotas.clone()),
            config,
            entropy,
            state,
            digester,
            table,
            unknown: report::unknown(),
            stopping: false,
            left: false,
            keeper_lost: false,
            journal: Journal::new(outlet, last_seq),
            receipts: Receipts::default(),
            described: false,
            in_hand: None,
            permissions,
            once_used: false,
            agents: Agents::default(),
        }
    }

    /// Proceeds with a frame whose errand was [run](Errand::run). It may have another one.
    pub fn proceed(
        &mut self,
        at: Moment,
        connection: ConnectionKey,
        frame: Inbound<'_>,
        errand: Errand,
        out: &mut Commands,
    ) -> Errand {
        match errand {
            Errand::None => Errand::None,
            Errand::Describe => {
                self.described = true;
                self.received(at, connection, frame, out)
            }
            Errand::Publish(batch) => {
                let turn = &mut Turn { at, here: Some(connection), out };
                self.slice(turn, batch).map_or(Errand::None, Errand::Publish)
            }
            Errand::Declare(asked) => {
                self.declared(&mut Turn { at, here: Some(connection), out }, asked);
                Errand::None
            }
        }
    }

    /// How long the clients of a former kernel are waited for, nanoseconds.
    pub fn reconnect_grace_ns(&self) -> u64 {
        self.config.limits.reconnect_grace_ms.saturating_mul(crate::clock::MS)
    }

    /// True exactly when everything was left to the next kernel.
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// Tells the bus that the kernel takes calls.
    pub fn ready(&mut self, at: Moment, out: &mut Commands) {
        let turn = &mut Turn { at, here: None, out };
        let event = KernelReady { pid: self.config.pid, version: self.config.version.clone() };
        self.publish(turn, Audience::All, &Trace::default(), &event);
        // What a former kernel had delivered as often as it may be is put aside, whoever is attached.
        let consumers: Vec<u64> = self.state.consumers.all.keys().copied().collect();
        for consumer in consumers {
            self.feed(turn, consumer);
        }
    }

    /// Stops: no new work, every tree ended, then the reactors. `reason` is a method or a signal's name. Returns how
    /// many trees there are; a second call changes nothing.
    pub fn stop(&mut self, at: Moment, reason: &str, grace_ms: u64, out: &mut Commands) -> u32 {
        self.stop_for(&mut Turn { at, here: None, out }, reason, grace_ms)
    }

    pub(crate) fn stop_for(&mut self, turn: &mut Turn<'_>, reason: &str, grace_ms: u64) -> u32 {
        let principal = turn.here.map(|connection| self.principal_told(connection));
        let living = self.state.processes.values_mut().filter(|process| !process.tree_gone);
        let mut trees = 0;
        for process in living {
            trees += 1;
            if process.phase == Phase::Running && process.ended_by.is_none() {
                let cause = EndCause::Shutdown;
                process.ended_by = Some(EndedBy { cause, principal: principal.clone() });
            }
        }
        if !self.stopping {
            self.stopping = true;
            self.renounce_all(turn);
            self.tell_stopping(turn, reason);
            let grace_ns = grace_ms.saturating_mul(crate::clock::MS);
            turn.out.push(Command::Shutdown { grace_ns });
        }
        trees
    }

    pub(crate) fn tell_stopping(&mut self, turn: &mut Turn<'_>, reason: &str) {
        let event = KernelStopping { reason: reason.to_owned() };
        self.publish(turn, Audience::All, &Trace::default(), &event);
    }

    /// A peer connected.
    pub fn connected(&mut self, at: Moment, key: ConnectionKey, peer: Peer, out: &mut Commands) {
        let known = self.recognize(&peer);
        let principal = &known.principal;
        let turn = &mut Turn { at, here: None, out };
        let (account, welcome) = self.bill_connection(turn, principal);
        tracing::debug!(
            component = "controlplane", connectionId = ?key, pid = peer.pid, %principal, "a peer connected"
        );
        self.state.connections.insert(Connection::new(key, peer, known, account, welcome));
        self.note_names(key);
        if welcome == Welcome::Closed {
            out.push(Command::Close { connection: key });
        }
    }

    /// A whole frame arrived.
    pub fn received(
        &mut self,
        at: Moment,
        connection: ConnectionKey,
        frame: Inbound<'_>,
        out: &mut Commands,
    ) -> Errand {
        match self.state.connections.get(connection) {
            Some(peer) if !peer.closing && peer.welcome == Welcome::Counted => {}
            Some(peer) if !peer.closing && Kind(frame.kind) == Kind::REQUEST => {
                let turn = &mut Turn { at, here: Some(connection), out };
                if self.turn_away(turn, connection, frame.payload) {
                    return Errand::None;
                }
            }
            Some(_) | None => return Errand::None,
        }
        if Kind(frame.kind) == Kind::REQUEST && self.shortcut(at, connection, frame.payload, &mut out.replies)
        {
            return Errand::None;
        }
        let mut turn = Turn { at, here: Some(connection), out };
        if Kind(frame.kind) != Kind::REQUEST {
            match check(frame.payload) {
                Err(error) if error.is_malformed() => self.close(&mut turn, connection, error),
                Ok(()) if Kind(frame.kind) == Kind::EVENT => {
                    self.overheard(&mut turn, connection, frame.payload)
                }
                // Frames of other kinds are taken and ignored, as are events that are too deep or too large.
                Ok(()) | Err(_) => {}
            }
            return Errand::None;
        }
        match request::read(frame.payload) {
            Ok(request) => return self.called(&mut turn, connection, &request),
            Err(Refused::Close(error)) => self.close(&mut turn, connection, error),
            Err(Refused::Answer { id, error }) => self.refuse(&mut turn, connection, id, &error),
        }
        Errand::None
    }

    fn close(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey, error: CheckError) {
        tracing::info!(component = "controlplane", connectionId = ?connection, %error, "a connection is closed");
        if let Some(peer) = self.state.connections.get_mut(connection) {
            peer.closing = true;
        }
        turn.out.push(Command::Close { connection });
    }

    fn called(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey, request: &Request<'_>) -> Errand {
        let mut asking = Asking {
            connection,
            id: request.id,
            method: &request.method,
            params: request.params,
            meta: None,
            trace: Trace::default(),
            key: None,
            claim: None,
            grant: None,
            row: None,
        };
        self.once_used = false;
        if request.has_meta() {
            match request.meta().and_then(bounded) {
                Ok(meta) => asking.meta = Some(meta),
                Err(error) => {
                    self.refuse(turn, connection, request.id, &error);
                    return Errand::None;
                }
            }
        }
        let Some(route) = self.table.get(asking.method) else {
            let error = WireError::unknown_method(asking.method);
            self.refuse(turn, connection, request.id, &error);
            return Errand::None;
        };
        if !self.described && asking.method == "kernel.introspect" {
            return Errand::Describe;
        }
        asking.row = route.row;
        let outcome = self.permit(turn.at, &asking, route);
        let mut told = false;
        let outcome = outcome.and_then(|grant| {
            let named = asking.meta.as_ref().and_then(|meta| meta.intent_id.as_ref());
            if let Some(id) = named.filter(|id| !id.is_empty()) {
                self.may_belong(&asking, id)?;
            }
            if route.changes {
                if !self.is_first(turn, &mut asking, route.keeps_receipt)? {
                    return Ok(());
                }
                asking.trace = self.trace_of(connection, asking.meta.as_ref());
            }
            asking.grant = grant;
            if route.told {
                self.refuse_flood(turn, &asking)?;
                self.tell_call(turn, &mut asking);
                told = true;
            }
            (route.handler)(self, turn, &asking)?;
            self.used(turn, &mut asking, route);
            Ok(())
        });
        if let Err(error) = outcome {
            if let Some(claim) = asking.claim {
                self.receipts.land(claim.name);
            }
            self.tell_refusal(turn, &asking, &error, told);
            self.refuse(turn, connection, request.id, &error);
        }
        self.in_hand.take().unwrap_or(Errand::None)
    }

    /// What is for one use has been used. What is for a manifest's program is used by that.
    fn used(&mut self, turn: &mut Turn<'_>, asking: &mut Asking<'_>, route: Route) {
        let grant = asking.grant.take();
        self.spend(turn, grant.filter(|_| !route.permission.resource().is_known_to_methods()));
    }

    /// Whether the caller may make such a call at all, and has room for it. Returns the grant that allows it.
    fn permit(
        &mut self,
        at: Moment,
        asking: &Asking<'_>,
        route: Route,
    ) -> Result<Option<Arc<Grant>>, WireError> {
        let connection = asking.connection;
        let grant = self.may_call(at, asking, route.permission)?;
        let keyed = asking.meta.as_ref().is_some_and(|meta| meta.idempotency_key.is_some());
        if route.answers == Answers::AtOnce && !(keyed && route.keeps_receipt) {
            return Ok(grant);
        }
        if !self.has_room(connection) {
            return Err(WireError::too_many_calls());
        }
        if asking.id.bytes().len() > CALL_ID_BYTES_MAX {
            let message = format!("an id has at most {CALL_ID_BYTES_MAX} bytes");
            return Err(WireError::too_large("callIdBytesMax", message));
        }
        Ok(grant)
    }

    pub(crate) fn refuse(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        id: RawRef<'_>,
        error: &WireError,
    ) {
        self.send(turn, connection, |buf, dialect| response::put_err(buf, dialect, id, error));
    }

    /// Something happened on reactor `here`.
    pub fn notice(&mut self, at: Moment, _: ReactorId, notice: Notice, out: &mut Commands) {
        let turn = &mut Turn { at, here: None, out };
        match notice {
            Notice::Spawned { process, pid, tree, start_ticks, limits } => {
                self.spawned(turn, process, Birth { pid, tree, start_ticks, limits });
            }
            Notice::Contained { process, finding } => {
                if let Some(process) = self.state.processes.get_mut(&process.serial) {
                    process.is_contained(&finding);
                }
            }
            Notice::Measured { process, program } => {
                if let Some(process) = self.state.processes.get_mut(&process.serial) {
                    process.measured.found = Some(program);
                }
            }
            Notice::Published { process, descriptors, bytes } => {
                self.published(turn, process, &descriptors, bytes);
            }
            Notice::SpawnFailed { process, failure } => self.spawn_failed(turn, process, &failure),
            Notice::Exited { process, status, usage, at_ns } => {
                self.exited(turn, process, status, usage, at_ns);
            }
            Notice::Closed { process, channel, end } => self.closed(turn, process, channel, end),
            Notice::LetGo { process, channel, end } => self.let_go(turn, process, channel, end),
            Notice::InputClosed { process, written } => self.input_closed(turn, process, written),
            Notice::InletOver { process } => self.inlet_over(turn, process.serial),
            Notice::Ended { process } => self.ended(turn, process),
            Notice::Spool { process, channel, news } => self.spool_news(turn, process, channel, news),
            Notice::Lagged { subscription, channel, from, to } => {
                self.lagged(turn, subscription, channel, (from, to));
            }
            Notice::Stalled { process, channel, since_ns } => self.stalled(turn, process, channel, since_ns),
            Notice::Resumed { process, channel, waited_ns } => {
                self.stall_over(turn, process, channel, waited_ns);
            }
            Notice::Truncated { process, channel, from, to } => {
                self.truncated(turn, process, channel, (from, to));
            }
            Notice::Throttled { process, channel, rate, waited_ns } => {
                self.throttled(turn, process, channel, rate, waited_ns);
            }
            Notice::Resized { process, channel, history } => self.resized(turn, process, channel, history),
            Notice::NewsSent { connection, bytes } => self.news_sent(turn, connection, bytes),
            Notice::Drained { subscription } => self.drained(turn, subscription),
            Notice::Done { ticket, outcome } => self.done(turn, ticket.0, outcome),
            Notice::Rang { timer } => self.rang(turn, timer),
            Notice::HalfClosed { connection } => {
                if let Some(peer) = self.state.connections.get_mut(connection) {
                    peer.half_closed = true;
                }
                self.close_if_over(turn, connection);
            }
            Notice::Disconnected { connection } => self.disconnected(turn, connection),
            Notice::KeeperLost => self.lose_keeper(turn),
        }
    }

    fn rang(&mut self, turn: &mut Turn<'_>, timer: TimerKey) {
        let Some(purpose) = self.state.timers.remove(&timer.serial) else { return };
        match purpose {
            Timer::Deadline { call } => {
                let error = WireError::new(Code::Timeout, "the call's deadline has passed");
                self.abandon(turn, call, &error, EndCause::Deadline);
            }
            Timer::Patience { call } => self.patience_over(turn, call),
            Timer::Grace { process } => self.grace_over(turn, process),
            Timer::Waiting { stream } => self.waited_enough(turn, stream),
            Timer::Orphan { process } => self.orphan_over(turn, process),
            Timer::Retention => self.expire(turn),
            Timer::Consumer { consumer } => self.consumer_rang(turn, consumer),
            Timer::Slow { topic, read } => self.look_after(turn, topic, read, timer),
            Timer::Restart { process } => self.renew(turn, process),
            Timer::IntentDeadline { intent } => self.intent_deadline(turn, intent),
            Timer::IntentOrphan { intent } => self.intent_orphaned(turn, intent),
            Timer::CancelHold { cancel } => self.hold_over(turn, cancel),
            Timer::CancelPatience { cancel } => self.patience_with_cancel_over(turn, cancel),
            Timer::CancelWalk => self.walk_on(turn),
            Timer::Grants => self.grants_rang(turn),
            Timer::Requests => self.requests_rang(turn),
            Timer::Refusals => self.refusals_rang(turn),
            Timer::Agents => self.agents_rang(turn),
            Timer::Written { process } => self.tell_written(turn, process),
        }
    }
}

/// Texts that are kept and echoed are short.
fn bounded(meta: Meta<'_>) -> Result<Meta<'_>, WireError> {
    let texts =
        [&meta.correlation_id, &meta.causation_id, &meta.intent_id, &meta.traceparent, &meta.idempotency_key];
    let bytes: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
    if bytes > META_BYTES_MAX {
        return Err(WireError::too_large(
            "metaBytesMax",
            format!("meta has at most {META_BYTES_MAX} bytes of text"),
        ));
    }
    Ok(meta)
}

/// The lock around a [`Kernel`], and how long it is held.
#[derive(Debug)]
pub struct ControlPlane {
    /// With the number of times it was locked.
    kernel: Mutex<(Kernel, u64)>,
    ticks: fn() -> u64,
    held: Histogram,
}

/// Every so many calls the lock's time is taken; a power of two.
const SAMPLING: u64 = 8;

impl ControlPlane {
    /// Shares a kernel. `ticks` is a monotonic clock in nanoseconds, read only to measure the lock.
    pub fn new(kernel: Kernel, ticks: fn() -> u64) -> ControlPlane {
        ControlPlane { kernel: Mutex::new((kernel, 0)), ticks, held: Histogram::default() }
    }

    /// How long the lock was held, of one call in eight.
    pub fn lock_held(&self) -> &Histogram {
        &self.held
    }

    /// Calls something on the kernel that no reactor does, as [`Kernel::ready`] and [`Kernel::stop`].
    pub fn with<R>(&self, what: impl FnOnce(&mut Kernel) -> R) -> R {
        self.locked(what)
    }

    fn locked<R>(&self, what: impl FnOnce(&mut Kernel) -> R) -> R {
        // Whoever panicked took its reactor with it; the tables are whole between any two statements that can panic.
        let mut guard = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let (kernel, times) = &mut *guard;
        *times += 1;
        if !times.is_multiple_of(SAMPLING) {
            let result = what(kernel);
            kernel.hand_over();
            return result;
        }
        let before = (self.ticks)();
        let result = what(kernel);
        kernel.hand_over();
        let after = (self.ticks)();
        drop(guard);
        self.held.record(after.saturating_sub(before));
        result
    }
}

impl Control for ControlPlane {
    fn connected(&self, at: Moment, connection: ConnectionKey, peer: Peer, out: &mut Commands) {
        self.locked(|kernel| kernel.connected(at, connection, peer, out));
    }

    fn received(&self, at: Moment, connection: ConnectionKey, frame: Inbound<'_>, out: &mut Commands) {
        let mut errand = self.locked(|kernel| kernel.received(at, connection, frame, out));
        while errand.run(frame.payload) {
            errand = self.locked(|kernel| kernel.proceed(at, connection, frame, errand, out));
        }
    }

    fn notice(&self, at: Moment, here: ReactorId, notice: Notice, out: &mut Commands) {
        self.locked(|kernel| kernel.notice(at, here, notice, out));
    }
}
