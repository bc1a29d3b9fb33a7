//! Clients: accepting them, reading their frames, sending them theirs.
//!
//! ```text
//!  Open ──eof──▶ HalfClosed ──Close──▶ Closing ──flushed or out of patience──▶ gone
//!    └───────────Close────────────────────▲
//! ```
//!
//! Invariants: at most one Receive is in flight per connection, and none while its replies pile up or it is
//! closing; a frame that has begun to leave is finished before another begins.

use super::mail::Mail;
use super::table::Place;
use super::timers::Alarm;
use super::{Kind, Reactor, Turn};
use crate::control::{Descriptors, Inbound, Notice, Peer};
use crate::driver::Driver;
use crate::driver::op::{Answer, Interest, Op};
use crate::key::{ConnectionKey, ReactorId, SubscriptionKey};
use crate::limits::{
    CLOSE_PATIENCE_NS, CONNECTIONS_MAX, FRAME_PATIENCE_NS, OUTFLOW_CUT_BYTES, OUTFLOW_PAUSE_BYTES,
};
use crate::transport::outflow::{Flushed, Outflow};
use bytes::Bytes;
use kairo_wire::frame::Decoder;
use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// How long accepting rests when descriptors have run out.
const ACCEPT_REST_NS: u64 = 100_000_000;

#[derive(Debug)]
pub(super) struct Listener<F> {
    fd: F,
}

impl<F> Listener<F> {
    pub(super) fn new(fd: F) -> Listener<F> {
        Listener { fd }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The peer sends no more; it may still want its replies.
    HalfClosed,
    /// What is queued still goes out, nothing else happens.
    Closing,
}

#[derive(Debug)]
pub(super) struct Connection<F> {
    pub(super) socket: F,
    pub(super) outflow: Outflow,
    /// Local readers that send here, and whose turn is next.
    pub(super) readers: Vec<Place>,
    pub(super) next_reader: usize,
    key: ConnectionKey,
    decoder: Decoder,
    state: State,
    /// True exactly while a Receive is in flight.
    receiving: bool,
    /// Frames that came with one whose reply was long: their turn comes when the peer has read.
    postponed: VecDeque<(u8, Bytes)>,
    /// It is there for one reader's frames only, and the control plane knows nothing of it.
    dedicated: bool,
}

impl<D: Driver> Reactor<D> {
    pub(super) fn accept(&mut self) {
        if let Some(listener) = &self.listener {
            self.driver.submit(Kind::Listener.only(), Op::Accept(listener.fd.clone()));
        }
    }

    pub(super) fn accepted(&mut self, answer: Answer<D::Fd>) {
        match answer {
            Answer::Accepted(socket) => {
                self.admit(socket);
                self.accept();
            }
            Answer::Failed(errno) if errno == libc::ECANCELED => {}
            Answer::Failed(errno) => {
                // EMFILE, ENFILE, ENOBUFS, ENOMEM: the peer waits in the backlog until something is free again.
                tracing::warn!(errno, "accept failed; resting");
                self.timers.arm(Alarm::Accept, self.at.monotonic_ns + ACCEPT_REST_NS);
            }
            Answer::Ready | Answer::Received(_) | Answer::Eof => self.accept(),
        }
    }

    fn admit(&mut self, socket: D::Fd) {
        if self.connections.len() >= CONNECTIONS_MAX {
            tracing::warn!(limit = CONNECTIONS_MAX, "too many connections; one is turned away");
            return;
        }
        let peer = match self.driver.peer(&socket, self.keeper_pid) {
            Ok(peer) => peer,
            Err(error) => return tracing::debug!(%error, "a peer was gone before it could be known"),
        };
        let home = ReactorId(self.next_home % self.post.reactors());
        self.next_home = self.next_home.wrapping_add(1);
        if home == self.id {
            return self.serve(socket, peer);
        }
        match self.driver.export(socket) {
            Ok(socket) => self.post.send(home, Mail::Connection { socket, peer }),
            Err(socket) => self.serve(socket, peer),
        }
    }

    pub(super) fn serve(&mut self, socket: D::Fd, peer: Peer) {
        let (place, key) = self.enter(socket, State::Open);
        self.control.connected(self.at, key, peer, &mut self.out);
        self.settle();
        self.receive(place);
    }

    /// Serves a socket that one reader's frames leave by and nothing comes from. It goes with its reader, and its reader
    /// with it.
    pub(super) fn dedicate(&mut self, socket: D::Fd) -> ConnectionKey {
        let hangup = Op::Poll(socket.clone(), Interest::Hangup);
        let (place, key) = self.enter(socket, State::HalfClosed);
        self.driver.submit(Kind::Hangup.token(place), hangup);
        key
    }

    fn enter(&mut self, socket: D::Fd, state: State) -> (Place, ConnectionKey) {
        let reactor = self.id;
        let key_of = |place: Place| ConnectionKey { reactor, slot: place.slot, generation: place.generation };
        let place = self.connections.insert_with(|place| Connection {
            socket,
            outflow: Outflow::default(),
            readers: Vec::new(),
            next_reader: 0,
            key: key_of(place),
            decoder: Decoder::new(),
            dedicated: state == State::HalfClosed,
            state,
            receiving: false,
            postponed: VecDeque::new(),
        });
        (place, key_of(place))
    }

    /// Asks for the next bytes, unless replies pile up or nothing more is wanted.
    fn receive(&mut self, place: Place) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        let piled_up = connection.outflow.queued_bytes() > OUTFLOW_PAUSE_BYTES;
        if connection.receiving || connection.state != State::Open || piled_up {
            return;
        }
        if !connection.postponed.is_empty() {
            return self.later(Turn::Frames(place));
        }
        connection.receiving = true;
        self.driver.submit(Kind::Receive.token(place), Op::Receive(connection.socket.clone()));
    }

    pub(super) fn received(&mut self, place: Place, answer: Answer<D::Fd>) {
        let Some(connection) = self.connections.get_mut(place) else {
            if let Answer::Received(lent) = answer {
                self.driver.give_back(lent);
            }
            return;
        };
        connection.receiving = false;
        let closing = connection.state == State::Closing;
        match answer {
            Answer::Received(lent) if closing => self.driver.give_back(lent),
            Answer::Received(lent) => {
                let key = connection.key;
                let (control, at, out) = (&self.control, self.at, &mut self.out);
                let postponed = &mut connection.postponed;
                let fed = connection.decoder.feed(self.driver.lent(&lent), |kind, payload| {
                    // Many short requests may fit into one read, and ask for much.
                    if postponed.is_empty() && out.replies.len() <= OUTFLOW_PAUSE_BYTES {
                        control.received(at, key, Inbound { kind: kind.0, payload }, out);
                    } else {
                        postponed.push_back((kind.0, Bytes::copy_from_slice(payload)));
                    }
                });
                self.driver.give_back(lent);
                if let Err(error) = fed {
                    tracing::debug!(connectionId = ?key, %error, "not a frame; closing");
                    self.out.push(crate::command::Command::Close { connection: key });
                }
                self.expect_rest_of_frame(place);
                self.send_replies(place);
                self.settle();
                self.receive(place);
            }
            Answer::Eof => self.peer_half_closed(place),
            Answer::Failed(errno) if errno == libc::ECANCELED => {}
            Answer::Failed(_) => self.disconnect(place),
            Answer::Ready | Answer::Accepted(_) => self.receive(place),
        }
    }

    /// The turn of frames that were postponed has come, or of some of them.
    pub(super) fn go_on_with_frames(&mut self, place: Place) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        if connection.state == State::Closing || connection.outflow.queued_bytes() > OUTFLOW_PAUSE_BYTES {
            return;
        }
        while self.out.replies.len() <= OUTFLOW_PAUSE_BYTES
            && let Some((kind, payload)) = connection.postponed.pop_front()
        {
            let inbound = Inbound { kind, payload: &payload };
            self.control.received(self.at, connection.key, inbound, &mut self.out);
        }
        self.send_replies(place);
        self.settle();
        self.receive(place);
    }

    /// A frame that has begun must be whole within a time, however slowly it drips.
    fn expect_rest_of_frame(&mut self, place: Place) {
        let Some(connection) = self.connections.get(place) else { return };
        let alarm = Alarm::connection(place);
        if connection.decoder.pending_bytes() == 0 {
            if connection.state == State::Open {
                self.timers.disarm(alarm);
            }
        } else if !self.timers.is_armed(alarm) {
            self.timers.arm(alarm, self.at.monotonic_ns + FRAME_PATIENCE_NS);
        }
    }

    pub(super) fn out_of_patience(&mut self, place: Place) {
        tracing::debug!(slot = place.slot, "out of patience with an unfinished frame or an unread reply");
        self.disconnect(place);
    }

    fn peer_half_closed(&mut self, place: Place) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        if connection.state != State::Open {
            return;
        }
        connection.state = State::HalfClosed;
        let key = connection.key;
        self.driver.submit(Kind::Hangup.token(place), Op::Poll(connection.socket.clone(), Interest::Hangup));
        if connection.decoder.pending_bytes() > 0 {
            // The rest of its last frame can't come any more.
            return self.disconnect(place);
        }
        self.notices.push_back(Notice::HalfClosed { connection: key });
    }

    pub(super) fn hung_up(&mut self, place: Place, answer: &Answer<D::Fd>) {
        if !matches!(answer, Answer::Failed(errno) if *errno == libc::ECANCELED) {
            self.disconnect(place);
        }
    }

    /// Sends what a call into control has appended, from where it is; keeps only what the socket doesn't take.
    fn send_replies(&mut self, place: Place) {
        if self.out.replies.is_empty() {
            return;
        }
        self.mail_ahead();
        let Some(connection) = self.connections.get_mut(place) else { return self.out.replies.clear() };
        if !connection.outflow.is_idle() {
            let replies = self.out.replies.split().freeze();
            connection.outflow.push(replies);
            return self.flush(place);
        }
        match self.driver.send(&connection.socket, &[IoSlice::new(&self.out.replies)]) {
            Ok(sent) if sent == self.out.replies.len() => self.out.replies.clear(),
            Ok(sent) => {
                let rest = Bytes::copy_from_slice(&self.out.replies[sent..]);
                self.out.replies.clear();
                connection.outflow.push(rest);
                self.flush(place);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.outflow.push(Bytes::copy_from_slice(&self.out.replies));
                self.out.replies.clear();
                self.flush(place);
            }
            Err(_) => {
                self.out.replies.clear();
                self.disconnect(place);
            }
        }
    }

    fn place_of(key: ConnectionKey) -> Place {
        Place { slot: key.slot, generation: key.generation }
    }

    /// Queues a whole frame.
    pub(super) fn queue(&mut self, key: ConnectionKey, frame: Bytes) {
        self.queue_with(key, |outflow| outflow.push(frame));
    }

    /// Queues a whole frame, and descriptors that come with it.
    pub(super) fn queue_with_descriptors(&mut self, key: ConnectionKey, frame: Bytes, with: Descriptors) {
        self.queue_with(key, |outflow| outflow.push_with(frame, with));
    }

    /// Queues whole frames of events.
    pub(super) fn queue_news(&mut self, key: ConnectionKey, frames: Bytes) {
        self.queue_with(key, |outflow| outflow.push_news(frames));
    }

    fn queue_with(&mut self, key: ConnectionKey, push: impl FnOnce(&mut Outflow)) {
        let place = Self::place_of(key);
        let Some(connection) = self.connections.get_mut(place) else { return };
        push(&mut connection.outflow);
        if connection.outflow.queued_bytes() > OUTFLOW_CUT_BYTES {
            tracing::warn!(connectionId = ?key, "cut: it doesn't read what it asked for");
            return self.disconnect(place);
        }
        if !connection.outflow.armed {
            self.flush(place);
        }
    }

    /// Queues a frame of a reader that lives on another reactor.
    pub(super) fn queue_remote(
        &mut self,
        key: ConnectionKey,
        subscription: SubscriptionKey,
        frame: Bytes,
        credit: usize,
    ) {
        let place = Self::place_of(key);
        let Some(connection) = self.connections.get_mut(place) else {
            return self.post.send(subscription.home, Mail::Credit { subscription, bytes: credit });
        };
        connection.outflow.push_remote(frame, subscription, credit);
        if !connection.outflow.armed {
            self.flush(place);
        }
    }

    pub(super) fn writable(&mut self, place: Place) {
        if let Some(connection) = self.connections.get_mut(place) {
            connection.outflow.armed = false;
            self.flush(place);
        }
    }

    /// Sends as much as goes: the rest of a begun frame, the queue, then readers in turn.
    pub(super) fn flush(&mut self, place: Place) {
        if !self.send_rest(place) {
            return;
        }
        let Some(connection) = self.connections.get_mut(place) else { return };
        let flushed = connection.outflow.flush(&mut self.driver, &connection.socket, &mut self.credits);
        for (subscription, bytes) in self.credits.drain(..) {
            self.post.send(subscription.home, Mail::Credit { subscription, bytes });
        }
        if let Some(bytes) = connection.outflow.take_news_gone() {
            self.notices.push_back(Notice::NewsSent { connection: connection.key, bytes });
        }
        match flushed {
            Flushed::Gone => self.disconnect(place),
            Flushed::Full => self.await_room(place),
            Flushed::Empty if connection.state == State::Closing => self.disconnect(place),
            Flushed::Empty => {
                self.receive(place);
                self.serve_readers(place);
            }
        }
    }

    /// Comes back when the socket takes more.
    pub(super) fn await_room(&mut self, place: Place) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        if !connection.outflow.armed {
            connection.outflow.armed = true;
            let socket = connection.socket.clone();
            self.driver.submit(Kind::Send.token(place), Op::Poll(socket, Interest::Write));
        }
    }

    /// Lets every reader of the connection send until the socket is full or none has anything.
    fn serve_readers(&mut self, place: Place) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        for _ in 0..connection.readers.len() {
            let Some(connection) = self.connections.get_mut(place) else { return };
            if !connection.outflow.is_idle() || connection.readers.is_empty() {
                return;
            }
            let turn = connection.next_reader % connection.readers.len();
            connection.next_reader = turn + 1;
            let reader = connection.readers[turn];
            self.deliver(reader);
        }
    }

    pub(super) fn close_after_flush(&mut self, key: ConnectionKey) {
        let place = Self::place_of(key);
        let Some(connection) = self.connections.get_mut(place) else { return };
        connection.state = State::Closing;
        self.timers.arm(Alarm::connection(place), self.at.monotonic_ns + CLOSE_PATIENCE_NS);
        self.later(Turn::Connection(place));
    }

    /// Frees a connection. What is in flight for it is cancelled and holds the socket until it is answered.
    pub(super) fn disconnect(&mut self, place: Place) {
        let Some(mut connection) = self.connections.remove(place) else { return };
        self.timers.disarm(Alarm::connection(place));
        if connection.receiving {
            self.driver.cancel(Kind::Receive.token(place));
        }
        if connection.outflow.armed {
            self.driver.cancel(Kind::Send.token(place));
        }
        if connection.state != State::Open {
            self.driver.cancel(Kind::Hangup.token(place));
        }
        for (subscription, bytes) in connection.outflow.drain() {
            self.post.send(subscription.home, Mail::Credit { subscription, bytes });
        }
        for reader in connection.readers {
            let subscription = self.readers.get(reader).map(|reader| reader.subscriber.key);
            self.drop_reader(reader);
            if let Some(subscription) = subscription.filter(|_| connection.dedicated) {
                self.notices.push_back(Notice::Drained { subscription });
            }
        }
        if !connection.dedicated {
            self.notices.push_back(Notice::Disconnected { connection: connection.key });
        }
    }

    /// A reader sends nothing more here. A socket of its own is closed behind what has begun to leave.
    pub(super) fn part_from_connection(&mut self, reader: Place, key: ConnectionKey) {
        let Some(connection) = self.local(key) else { return };
        connection.readers.retain(|other| *other != reader);
        match (connection.dedicated, connection.outflow.is_idle()) {
            (false, _) => {}
            (true, true) => self.disconnect(Self::place_of(key)),
            (true, false) => self.close_after_flush(key),
        }
    }
}
