//! Readers of processes: one that waits for its process, one that reads, one that follows an id into its next life.
//!
//! ```text
//!   subscribe ─┬─ no such process ─▶ Waiting ──spawned──▶ Reading ──drained──▶ Following ──spawned again──▶ Reading …
//!              └─ there is one ─────────────────────────▶ Reading
//! ```
//!
//! Invariant: a reader is in `waiting` under its target's id exactly while it waits or follows, and in its process's
//! `readers` exactly while it reads. The bytes themselves, and who waits for whom, are the data plane's.

use crate::calls::Turn;
use crate::clock::after_ms;
use crate::intents::members::{Member, Under};
use crate::kernel::Kernel;
use crate::state::{Named, Phase, Place, Process, RawSink, StreamSubscription, Timer, Wish};
use bytes::Bytes;
use kairo_dataplane::command::{Command, From, Policy, Sink, Subscribe};
use kairo_dataplane::key::{Channel, ConnectionKey, ProcessKey, SubscriptionKey, Ticket};
use kairo_dataplane::meter::ReaderMeter;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::envelope::put_notice;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{StreamEndReason, StreamEndRecord, StreamGapRecord};
use kairo_wire::id::{ProcessId, SubscriptionId};
use kairo_wire::limits::{CHUNK_V1_BYTES_MAX, WAITING_SUBSCRIPTION_MS, WAITING_SUBSCRIPTIONS_MAX};
use kairo_wire::methods::stream::StreamName;
use kairo_wire::permission::Permission;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Readers of one connection that follow ids without reading; the oldest goes when there is one more.
const FOLLOWING_MAX: usize = 1_024;

/// ENOSPC, EFBIG and EDQUOT: what is written to has no room.
const FULL: [i32; 3] = [28, 27, 122];

/// How a reader leaves.
#[derive(Debug)]
pub(crate) enum Departure {
    /// Its client asked; the frame goes to the connection after the last of its bytes.
    Asked(ConnectionKey, Bytes),
    /// Its client is gone, or what it read.
    Unasked,
}

impl StreamSubscription {
    /// True when bytes can come of it without another spawn of an id that has been.
    pub(crate) fn is_live(&self) -> bool {
        match self.place {
            Place::Waiting { .. } | Place::Reading { .. } => true,
            Place::Following { .. } => false,
        }
    }
}

impl Kernel {
    /// Adds a reader under a fresh name: it reads what its target names now, or waits for it.
    pub(crate) fn add_reader(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        id: SubscriptionId,
        target: ProcessId,
        wish: Wish,
        under: Option<Box<Under>>,
    ) -> Result<(), WireError> {
        let process = self.readable(&target);
        self.has_room_for_reader(connection, process.is_none())?;
        self.may_have_subscription(turn, connection)?;
        let serial = self.state.next_serial();
        self.state.subscriptions.insert(id.shared(), Named::Stream(serial));
        let place = match process {
            Some(process) => {
                self.read(turn, serial, connection, &id, wish, process, wish.from, under.as_deref())
            }
            None => {
                let timer = self.arm(turn, connection.reactor, after_ms(turn.at, WAITING_SUBSCRIPTION_MS));
                self.state.timers.insert(timer.serial, Timer::Waiting { stream: serial });
                self.state.waiting.entry(target.key().into()).or_default().push(serial);
                Place::Waiting { timer }
            }
        };
        if let Some(peer) = self.state.connections.get_mut(connection) {
            peer.streams.insert(serial);
            peer.waiting += usize::from(process.is_none());
        }
        self.bill_subscription(connection, true);
        self.enroll_under(Member::Stream(serial), under.as_deref());
        let subscription = StreamSubscription { id, connection, target, wish, place, under, outlives: None };
        self.state.streams.insert(serial, subscription);
        Ok(())
    }

    /// The process of an id whose streams are there to be read.
    fn readable(&self, target: &ProcessId) -> Option<u64> {
        // A restart that could not begin has a record and nothing to read.
        let has_run = |process: &&Process| process.phase != Phase::Starting && process.pid != 0;
        self.state.exactly(target).filter(has_run).map(|process| process.key.serial)
    }

    fn has_room_for_reader(&self, connection: ConnectionKey, must_wait: bool) -> Result<(), WireError> {
        let Some(peer) = self.state.connections.get(connection) else {
            return Err(WireError::new(Code::Internal, "the connection is gone"));
        };
        let limit = self.config.limits.streams_max;
        if peer.streams.len() - peer.following.len() >= limit {
            return Err(WireError::new(
                Code::Busy,
                format!("a connection has at most {limit} subscriptions"),
            ));
        }
        if must_wait && peer.waiting >= WAITING_SUBSCRIPTIONS_MAX {
            let message =
                format!("{WAITING_SUBSCRIPTIONS_MAX} subscriptions of this connection wait already");
            return Err(WireError::new(Code::Busy, message).with("limit", "waitingSubscriptionsMax"));
        }
        Ok(())
    }

    /// Has the data plane read for a subscription. Returns where the subscription then stands.
    #[expect(
        clippy::too_many_arguments,
        reason = "a subscription's parts, before or after it is in its table"
    )]
    fn read(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        connection: ConnectionKey,
        id: &SubscriptionId,
        wish: Wish,
        process: u64,
        from: From,
        under: Option<&Under>,
    ) -> Place {
        let mut process_key = ProcessKey { home: connection.reactor, serial: process };
        // Never seen on the wire: whoever calls has just found the process.
        let mut process_id = ProcessId::Integer(0);
        if let Some(process) = self.state.processes.get_mut(&process) {
            process.readers.insert(serial);
            (process_key, process_id) = (process.key, process.id.clone());
        }
        let sink = self.sink(connection, wish, process_id);
        let note = self.outlet_note(connection, id, wish, &sink, under);
        let key = SubscriptionKey { home: process_key.home, serial: self.state.next_serial() };
        let meter = Arc::new(ReaderMeter::default());
        self.state.reading.insert(key.serial, serial);
        turn.out.push(Command::Subscribe(Box::new(Subscribe {
            subscription: key,
            id: id.clone(),
            process: process_key,
            stdout: wish.stdout,
            stderr: wish.stderr,
            from,
            resumes: wish.resumes,
            mode: wish.mode,
            policy: wish.policy,
            sink,
            rate: wish.rate,
            note,
            history_bytes: wish.history_bytes.map(|bytes| bytes.min(self.config.limits.history_bytes_max)),
            meter: Arc::clone(&meter),
        })));
        Place::Reading { key, process, meter }
    }

    /// Where the bytes of a reader go, and in which form.
    fn sink(&self, connection: ConnectionKey, wish: Wish, process_id: ProcessId) -> Sink {
        let dedicated = match wish.raw {
            Some(RawSink::Own(descriptor)) => return Sink::Descriptor(descriptor),
            Some(RawSink::Outlet { kind, ticket }) => return Sink::Outlet { kind, ticket: Ticket(ticket) },
            Some(RawSink::Kept) => return Sink::Kept,
            Some(RawSink::Framed { ticket }) => Some(Ticket(ticket)),
            None => None,
        };
        let (chunk_bytes_max, dialect) = match self.state.connections.get(connection) {
            Some(peer) => (peer.chunk_bytes_max, peer.dialect),
            None => (CHUNK_V1_BYTES_MAX as u32, Dialect::V1),
        };
        let peer = self.state.connections.get(connection);
        let records = peer.is_some_and(|peer| peer.records);
        let timestamps = peer.is_some_and(|peer| peer.timestamps);
        Sink::Frames { connection, dedicated, chunk_bytes_max, records, timestamps, dialect, process_id }
    }

    /// A process runs: whoever waits for it, or follows its id from a former life of the same creator, reads it.
    pub(crate) fn attach_waiting(&mut self, turn: &mut Turn<'_>, process: u64) {
        let Some(there) = self.state.processes.get(&process) else { return };
        let key = there.id.key().into_owned();
        let Some(waiting) = self.state.waiting.get(key.as_str()) else { return };
        for serial in waiting.clone() {
            self.attach(turn, serial, process);
        }
    }

    /// One that waits or follows reads `process`, if that is what it wants and may.
    fn attach(&mut self, turn: &mut Turn<'_>, serial: u64, process: u64) {
        let Some(stream) = self.state.streams.get(&serial) else { return };
        let Some(there) = self.state.processes.get(&process) else { return };
        let fits = match &stream.place {
            Place::Waiting { .. } => true,
            Place::Following { creator } => there.creator == *creator,
            Place::Reading { .. } => false,
        };
        if !fits
            || there.id != stream.target
            || !self.may_see(turn.at, stream.connection, Permission::ProcessRead, there)
        {
            return;
        }
        // It was there before the process: what comes next is the first byte. Offsets of a former life mean nothing.
        let from = match (&stream.place, stream.wish.from) {
            (Place::Waiting { .. }, From::At(offsets)) => From::At(offsets),
            (Place::Waiting { .. } | Place::Following { .. } | Place::Reading { .. }, _) => From::Oldest,
        };
        if stream.wish.policy == Policy::Spool && there.spool.is_none() {
            return self.end_with_record(turn, serial, StreamEndReason::Unspooled);
        }
        if there.unsuited(&Wish { from, ..stream.wish }).is_some() {
            return self.end_with_record(turn, serial, StreamEndReason::Unkept);
        }
        // What is held for readers of a former kernel is not in a process that begins.
        let wish = Wish { resumes: false, ..stream.wish };
        let (connection, id, under) = (stream.connection, stream.id.clone(), stream.under.clone());
        self.unwait(turn, serial);
        let place = self.read(turn, serial, connection, &id, wish, process, from, under.as_deref());
        if let Some(stream) = self.state.streams.get_mut(&serial) {
            stream.place = place;
        }
    }

    /// Takes a subscription out of the lists of those that wait or follow.
    fn unwait(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(stream) = self.state.streams.get(&serial) else { return };
        let connection = stream.connection;
        let timer = match &stream.place {
            Place::Waiting { timer } => Some(*timer),
            Place::Following { .. } => None,
            Place::Reading { .. } => return,
        };
        let key = stream.target.key().into_owned();
        if let Some(waiting) = self.state.waiting.get_mut(key.as_str()) {
            waiting.retain(|other| *other != serial);
            if waiting.is_empty() {
                self.state.waiting.remove(key.as_str());
            }
        }
        if let Some(peer) = self.state.connections.get_mut(connection) {
            peer.following.remove(&serial);
            peer.waiting -= usize::from(timer.is_some());
        }
        if let Some(timer) = timer {
            self.disarm(turn, timer);
        }
    }

    /// The data plane has delivered everything of a process to a reader: it follows the id from now on.
    pub(crate) fn drained(&mut self, turn: &mut Turn<'_>, key: SubscriptionKey) {
        let Some(serial) = self.state.reading.remove(&key.serial) else { return };
        let Some(stream) = self.state.streams.get_mut(&serial) else { return };
        let Place::Reading { process, ref meter, .. } = stream.place else { return };
        let errno = meter.errno.load(Ordering::Relaxed);
        let connection = stream.connection;
        let Some(was) = self.state.processes.get_mut(&process) else { return };
        was.readers.remove(&serial);
        let (creator, superseded) = (was.creator.clone(), was.superseded);
        match stream.wish.raw {
            Some(RawSink::Own(_)) => {
                let reason = match errno {
                    0 => StreamEndReason::Closed,
                    errno if FULL.contains(&errno) => StreamEndReason::Full,
                    _ => StreamEndReason::Unwritable,
                };
                let totals = [0, 1].map(|channel| was.meter.streams[channel].taken_bytes.get());
                return self.end_descriptor(turn, serial, totals, reason);
            }
            Some(RawSink::Outlet { .. } | RawSink::Framed { .. } | RawSink::Kept) => {
                return self.end_outlet(turn, serial, errno);
            }
            None => {}
        }
        stream.place = Place::Following { creator };
        let target = stream.target.clone();
        self.state.waiting.entry(target.key().into()).or_default().push(serial);
        let mut oldest = None;
        if let Some(peer) = self.state.connections.get_mut(connection) {
            peer.following.insert(serial);
            oldest = peer.following.first().copied().filter(|_| peer.following.len() > FOLLOWING_MAX);
        }
        if let Some(next) = self.readable(&target).filter(|_| superseded) {
            self.attach(turn, serial, next);
        }
        if let Some(oldest) = oldest {
            self.end_reader(turn, oldest, Departure::Unasked);
        }
        self.settle(turn, process);
        self.close_if_over(turn, connection);
    }

    /// Says that everything has gone to the descriptor, which for the connection is one gap. The subscription is over:
    /// it follows no later spawn. `totals`: how long each stream was.
    fn end_descriptor(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        totals: [u64; 2],
        reason: StreamEndReason,
    ) {
        let Some(reader) = self.state.streams.get(&serial) else { return };
        let (connection, id, wish) = (reader.connection, reader.id.clone(), reader.wish);
        let [out, err] = totals;
        let streams = [(StreamName::Stdout, wish.stdout, out), (StreamName::Stderr, wish.stderr, err)];
        for (stream, _, total_bytes) in streams.into_iter().filter(|(_, wanted, _)| *wanted) {
            let subscription_id = id.clone();
            let gap = StreamGapRecord { subscription_id: id.clone(), stream, from: 0, to: total_bytes };
            let end =
                StreamEndRecord { subscription_id, stream, total_bytes, gap_bytes: total_bytes, reason };
            self.send(turn, connection, |buf, dialect| {
                let gap = if total_bytes > 0 { put_notice(buf, dialect, &gap) } else { Ok(()) };
                if let Err(error) = gap.and_then(|()| put_notice(buf, dialect, &end)) {
                    tracing::error!(component = "controlplane", %error, "a record was not sent");
                }
            });
        }
        self.end_reader(turn, serial, Departure::Unasked);
    }

    /// Nobody has spawned what a subscription waits for.
    pub(crate) fn waited_enough(&mut self, turn: &mut Turn<'_>, serial: u64) {
        self.end_with_record(turn, serial, StreamEndReason::Forgotten);
    }

    /// Ends a subscription in the middle or before it has read anything, and says why.
    pub(crate) fn end_with_record(&mut self, turn: &mut Turn<'_>, serial: u64, reason: StreamEndReason) {
        let Some(stream) = self.state.streams.get(&serial) else { return };
        let (id, connection, wish) = (stream.id.clone(), stream.connection, stream.wish);
        let read = match &stream.place {
            Place::Reading { process, .. } => self.state.processes.get(process),
            Place::Waiting { .. } | Place::Following { .. } => None,
        };
        let totals = Channel::ALL.map(|channel| read.map_or(0, |process| process.total(channel).total_bytes));
        let records = self.state.connections.get(connection).is_some_and(|peer| peer.records);
        let both = [(StreamName::Stdout, wish.stdout), (StreamName::Stderr, wish.stderr)];
        for ((stream, wanted), total_bytes) in both.into_iter().zip(totals) {
            if !wanted || !records {
                continue;
            }
            let subscription_id = id.clone();
            let record = StreamEndRecord { subscription_id, stream, total_bytes, gap_bytes: 0, reason };
            self.send(turn, connection, |buf, dialect| {
                if let Err(error) = put_notice(buf, dialect, &record) {
                    tracing::error!(component = "controlplane", %error, "a record was not sent");
                }
            });
        }
        self.end_reader(turn, serial, Departure::Unasked);
    }

    /// Ends a subscription, wherever it stands.
    pub(crate) fn end_reader(&mut self, turn: &mut Turn<'_>, serial: u64, departure: Departure) {
        self.unwait(turn, serial);
        let Some(stream) = self.state.streams.remove(&serial) else { return };
        self.state.subscriptions.remove(stream.id.as_str());
        if let Some(peer) = self.state.connections.get_mut(stream.connection) {
            peer.streams.remove(&serial);
        }
        match &stream.outlives {
            Some(of) => self.unbill_outliving(turn.at.monotonic_ns, of),
            None => self.bill_subscription(stream.connection, false),
        }
        let reply = match departure {
            Departure::Asked(connection, frame) => Some((connection, frame)),
            Departure::Unasked => None,
        };
        match stream.place {
            Place::Reading { key, process, .. } => {
                self.state.reading.remove(&key.serial);
                turn.out.push(Command::Unsubscribe { subscription: key, reply });
                if let Some(process) = self.state.processes.get_mut(&process) {
                    process.readers.remove(&serial);
                }
                self.settle(turn, process);
            }
            Place::Waiting { .. } | Place::Following { .. } => {
                if let Some((connection, frame)) = reply {
                    self.deliver(turn, connection, frame);
                }
            }
        }
        self.strike(turn, Member::Stream(serial), stream.under.as_deref());
        self.close_if_over(turn, stream.connection);
        self.forget_if_over(turn, stream.connection);
    }
}
