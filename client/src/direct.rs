//! One stream, one connection, one buffer: the fast way.
//!
//! A [`DirectStream`] hands out borrowed slices of its receive buffer: no queue, no lock, no allocation per chunk, one
//! copy in all (the kernel's, out of the socket). It checks what [`Subscription`](crate::subscription::Subscription)
//! checks. There is no calling on its connection: signal or write to the process through another.

use crate::codec::Read;
use crate::connection::put_request;
use crate::error::{CallError, Lost, StreamError};
use crate::inlet::{Inlet, Stop};
use crate::reading::{Reading, Refused};
use crate::reconnect::{Change, Greeted, Home, Line, Outage, Standing, Step};
use crate::subscription::{Item, slot};
use bytes::{Bytes, BytesMut};
use kairo_wire::chunk::Chunk as WireChunk;
use kairo_wire::event::StreamEndReason;
use kairo_wire::frame::Kind;
use kairo_wire::id::{ProcessId, SubscriptionId};
use kairo_wire::method::Method;
use kairo_wire::methods::open::{OpenParams, OpenResult};
use kairo_wire::methods::process::{Status, StatusParams};
use kairo_wire::methods::status::{Detail, ProcessStatus};
use kairo_wire::methods::stream::{Selector, Start, StreamName, Subscribe, SubscribeParams, SubscribeResult};
use serde::Serialize;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Calls of a direct stream have numbers above every number a client's earlier calls had.
const FIRST_DIRECT_CALL: u64 = 1 << 52;

/// What a direct stream gives; data is borrowed from the receive buffer until the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectItem<'a> {
    /// Bytes.
    Chunk {
        /// Which stream.
        stream: StreamName,
        /// Of the first byte, from the stream's birth.
        offset: u64,
        /// Never empty.
        data: &'a [u8],
        /// In the line modes: a piece of an over-long line, and not its last.
        partial: bool,
    },
    /// Bytes that were missed.
    Gap {
        /// Of which stream.
        stream: StreamName,
        /// First offset missed.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// A stream is over.
    End {
        /// Which.
        stream: StreamName,
        /// Its length, birth to end.
        total_bytes: u64,
        /// Of these, missed here.
        gap_bytes: u64,
        /// Why it ended.
        reason: StreamEndReason,
    },
    /// A kernel that grants no `records` dropped bytes, and can't say which.
    Overflow,
    /// The process itself has exited, and everything it had written has been handed out; what it started may still
    /// run and write. Told only to who subscribed before.
    LeaderExited {
        /// Its exit code, or 128+n if signal n ended it.
        code: i32,
    },
}

/// A subscription that has its connection to itself. Dropping it closes the connection, and with it the subscription.
/// When the connection is lost and comes back it goes on at the exact byte.
#[derive(Debug)]
pub struct DirectStream {
    line: Line,
    socket: Arc<UnixStream>,
    standing: Standing,
    home: Option<Home>,
    reading: Reading,
    /// What is read.
    process: Option<ProcessId>,
    /// The number of the last call.
    call: u64,
    /// The subscribe call whose answer is due.
    subscribing: Option<u64>,
    /// The status call whose answer is due, after a loss.
    looking: Option<u64>,
    leader: Leader,
    failed: bool,
}

/// What is known of the leader's exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leader {
    /// The kernel will tell.
    Untold,
    /// It exited while the connection was lost; told when everything up to these offsets has been handed out.
    Owed { code: i32, up_to: [u64; 2] },
    /// It was told.
    Told,
}

/// A frame that was accounted for, its data still in the buffer.
enum Found {
    Chunk { stream: StreamName, offset: u64, data: Range<usize>, partial: bool },
    Other(Item),
    LeaderExited { code: i32 },
}

/// Why a stream stops.
enum Halt {
    /// The kernel does not take the subscription.
    Refused(CallError),
    Failed(StreamError),
    Lost(Lost),
}

impl From<StreamError> for Halt {
    fn from(error: StreamError) -> Halt {
        Halt::Failed(error)
    }
}

impl From<Lost> for Halt {
    fn from(lost: Lost) -> Halt {
        Halt::Lost(lost)
    }
}

impl DirectStream {
    pub(crate) fn open(
        line: Line,
        socket: Arc<UnixStream>,
        standing: Standing,
        home: Option<Home>,
        params: &SubscribeParams,
    ) -> Result<DirectStream, CallError> {
        let mut stream = DirectStream {
            line,
            socket,
            reading: Reading::new(params, standing.has("records")),
            standing,
            home,
            process: params.id.clone().or_else(|| params.pid.clone()),
            call: FIRST_DIRECT_CALL,
            subscribing: None,
            looking: None,
            leader: Leader::Untold,
            failed: false,
        };
        if matches!(stream.line, Line::Up(_)) {
            stream.ask(params)?;
        }
        while stream.reading.id().is_none() {
            match stream.step(None) {
                Ok(_) => {}
                Err(Halt::Refused(error)) => return Err(error),
                Err(Halt::Failed(error)) => return Err(CallError::Shape(error.to_string())),
                Err(Halt::Lost(lost)) => return Err(CallError::Lost(lost)),
            }
        }
        Ok(stream)
    }

    /// What comes on a socket of its own, made for a stream that was opened.
    pub(crate) fn over(
        socket: UnixStream,
        standing: Standing,
        params: &OpenParams,
        opened: OpenResult,
    ) -> Result<DirectStream, CallError> {
        let (socket, id) = (Arc::new(socket), Some(params.id.clone()));
        let stream = match params.stream {
            StreamName::Stdout => Selector::Stdout,
            StreamName::Stderr => Selector::Stderr,
        };
        let asked = SubscribeParams { id, stream, from: params.from, ..SubscribeParams::default() };
        let mut reading = Reading::new(&asked, standing.has("records"));
        let OpenResult { subscription_id, session, from, .. } = opened;
        let answer = SubscribeResult { subscription_id, session, from: from.map(Start::At) };
        reading
            .opened(&answer, standing.honours_keys())
            .map_err(|error| CallError::Shape(error.to_string()))?;
        Ok(DirectStream {
            line: Line::Up(Inlet::new(Arc::clone(&socket))),
            socket,
            reading,
            standing,
            home: None,
            process: asked.id,
            call: FIRST_DIRECT_CALL,
            subscribing: None,
            looking: None,
            leader: Leader::Told,
            failed: false,
        })
    }

    /// Its name on the wire; another one after each loss of the connection.
    pub fn id(&self) -> Option<&SubscriptionId> {
        self.reading.id()
    }

    /// One past the last byte of a stream that was delivered or named as a gap, if that is known yet.
    pub fn position(&self, stream: StreamName) -> Option<u64> {
        self.reading.position(stream)
    }

    /// The next item; none when all streams asked for have ended.
    pub fn next_item(&mut self) -> Result<Option<DirectItem<'_>>, StreamError> {
        if self.reading.is_over() {
            return Ok(None);
        }
        self.item(None)
    }

    /// The next item; none if none comes in time.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<DirectItem<'_>>, StreamError> {
        self.item(Some(Instant::now() + patience))
    }

    /// Writes everything up to the ends of the streams, stdout and stderr in the order they came. Gaps are left out
    /// and counted. Returns (bytes written, bytes missed).
    pub fn copy_to(&mut self, sink: &mut impl Write) -> io::Result<(u64, u64)> {
        let (mut written, mut missed) = (0, 0);
        while let Some(item) = self.next_item().map_err(io::Error::other)? {
            match item {
                DirectItem::Chunk { data, .. } => {
                    sink.write_all(data)?;
                    written += data.len() as u64;
                }
                DirectItem::Gap { from, to, .. } => missed += to - from,
                DirectItem::End { .. } | DirectItem::Overflow | DirectItem::LeaderExited { .. } => {}
            }
        }
        Ok((written, missed))
    }

    fn item(&mut self, deadline: Option<Instant>) -> Result<Option<DirectItem<'_>>, StreamError> {
        if self.failed {
            return Err(StreamError::Lost("the stream has failed before".to_owned()));
        }
        let found = match self.advance(deadline) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.failed = true;
                return Err(error);
            }
        };
        Ok(Some(match found {
            Found::Chunk { stream, offset, data, partial } => {
                let data = match &self.line {
                    Line::Up(inlet) => &inlet.bytes()[data],
                    // A chunk is found on a line that is up.
                    Line::Down(_) => &[],
                };
                DirectItem::Chunk { stream, offset, data, partial }
            }
            Found::LeaderExited { code } => DirectItem::LeaderExited { code },
            Found::Other(Item::Gap { stream, from, to }) => DirectItem::Gap { stream, from, to },
            Found::Other(Item::End { stream, total_bytes, gap_bytes, reason }) => {
                DirectItem::End { stream, total_bytes, gap_bytes, reason }
            }
            Found::Other(Item::Overflow | Item::Chunk(_)) => DirectItem::Overflow,
        }))
    }

    /// Reads up to the next frame of ours and accounts for it; none at the deadline.
    fn advance(&mut self, deadline: Option<Instant>) -> Result<Option<Found>, StreamError> {
        loop {
            if let Some(code) = self.leader_due() {
                self.leader = Leader::Told;
                return Ok(Some(Found::LeaderExited { code }));
            }
            match self.step(deadline) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => return Ok(None),
                Ok(None) => {}
                Err(Halt::Refused(error)) => return Err(StreamError::NotResumed(error.to_string())),
                Err(Halt::Failed(error)) => return Err(error),
                Err(Halt::Lost(lost)) => return Err(StreamError::Lost(lost.to_string())),
            }
        }
    }

    /// One frame, or one step towards a new connection; none if that gave nothing for the consumer.
    fn step(&mut self, deadline: Option<Instant>) -> Result<Option<Found>, Halt> {
        let inlet = match &mut self.line {
            Line::Up(inlet) => inlet,
            Line::Down(outage) => {
                let Some(home) = &self.home else { return Err(Halt::Lost(Lost::ClosedHere)) };
                match outage.step(home, Some(&self.standing), deadline) {
                    Step::NotYet => return Ok(None),
                    Step::Never(lost) => {
                        home.tell(&Change::GivenUp(lost.clone()));
                        return Err(Halt::Lost(lost));
                    }
                    Step::Back(greeted) => {
                        home.tell(&Change::Back { outage: outage.since.elapsed() });
                        return self.resume(greeted).map(|()| None);
                    }
                }
            }
        };
        // The frame handed out last was released by this call.
        let (kind, range) = match inlet.fill(deadline) {
            Ok(filled) => filled,
            Err(Stop::Deadline) => return Ok(None),
            Err(stop) => return self.part(stop.into()).map(|()| None),
        };
        let payload = &inlet.bytes()[range.clone()];
        let found = match kind {
            Kind::STREAM_CHUNK => chunk(payload, range.start, &mut self.reading)?,
            Kind::EVENT => event(payload, self.process.as_ref(), &mut self.reading)?,
            Kind::RESPONSE => {
                let (call, outcome) = crate::codec::response(payload, None)?;
                inlet.release(range.end);
                let outcome = outcome.map_err(|refusal| CallError::Kernel(Box::new(refusal)));
                return self.answered(call, outcome).map(|()| None);
            }
            // Kinds to come.
            Kind(_) => None,
        };
        if let Some(Found::LeaderExited { .. }) = found {
            self.leader = Leader::Told;
        }
        inlet.release(range.end);
        Ok(found)
    }

    /// The connection is lost: for good, or until it is brought back.
    fn part(&mut self, lost: Lost) -> Result<(), Halt> {
        match &self.home {
            Some(home) if lost.is_the_kernels() => {
                self.line = Line::Down(Box::new(Outage::new(lost, &home.reconnect)));
                (self.subscribing, self.looking) = (None, None);
                Ok(())
            }
            Some(_) | None => Err(Halt::Lost(lost)),
        }
    }

    /// Asks a new kernel for the rest.
    fn resume(&mut self, greeted: Greeted) -> Result<(), Halt> {
        self.socket = greeted.socket;
        self.standing.hello = greeted.hello;
        self.line = Line::Up(greeted.inlet);
        let params = match self.reading.id() {
            None => self.reading.params().clone(),
            Some(_) => self.reading.again()?.ok_or(Halt::Failed(StreamError::NotFollowed))?,
        };
        self.ask(&params).map_err(Halt::Refused)?;
        if self.leader == Leader::Untold
            && let Some(id) = self.process.clone()
        {
            self.looking =
                Some(self.send(Status::NAME, &StatusParams { id, detail: true }).map_err(Halt::Refused)?);
        }
        Ok(())
    }

    fn ask(&mut self, params: &SubscribeParams) -> Result<(), CallError> {
        self.subscribing = Some(self.send(Subscribe::NAME, params)?);
        Ok(())
    }

    fn send<P: Serialize>(&mut self, method: &str, params: &P) -> Result<u64, CallError> {
        self.call += 1;
        let mut out = BytesMut::new();
        put_request(&mut out, self.call, method, params, None, None)?;
        match (&*self.socket).write_all(&out) {
            // A connection that comes back is found lost by reading, after what is still on the way.
            Err(error) if self.home.is_none() => Err(CallError::Lost(Lost::from_write(error))),
            Ok(()) | Err(_) => Ok(self.call),
        }
    }

    fn answered(&mut self, call: u64, outcome: Result<Bytes, CallError>) -> Result<(), Halt> {
        if self.subscribing == Some(call) {
            self.subscribing = None;
            let error = match outcome {
                Ok(result) => {
                    let opened: SubscribeResult = crate::codec::value(&result)?;
                    return Ok(self.reading.opened(&opened, self.standing.honours_keys())?);
                }
                Err(error) => error,
            };
            if self.reading.id().is_none() {
                return Err(Halt::Refused(error));
            }
            match self.reading.refused(&error) {
                Refused::Afresh(params) => self.ask(&params).map_err(Halt::Refused)?,
                Refused::Failed(error) => return Err(Halt::Failed(error)),
            }
        } else if self.looking == Some(call) {
            self.looking = None;
            // A status that can't be had is none: the ends of the streams still tell.
            let status: Option<ProcessStatus> =
                outcome.ok().and_then(|result| crate::codec::value(&result).ok());
            if let Some(owed) = status.and_then(|status| status.detail).and_then(|detail| owed(&detail))
                && self.leader == Leader::Untold
            {
                self.leader = owed;
            }
        }
        // Others are answers to calls made before.
        Ok(())
    }

    /// The exit code, if the leader exited during a loss and all it wrote is handed out.
    fn leader_due(&self) -> Option<i32> {
        let Leader::Owed { code, up_to } = self.leader else { return None };
        let is_past = |name: StreamName| {
            // What has ended, or was not asked for, is not waited for.
            !self.reading.reads(name) || self.reading.position(name).is_some_and(|at| at >= up_to[slot(name)])
        };
        (is_past(StreamName::Stdout) && is_past(StreamName::Stderr)).then_some(code)
    }
}

fn owed(detail: &Detail) -> Option<Leader> {
    let code = detail.exit.as_ref()?.v1_code();
    let mut up_to = [0; 2];
    for stream in &detail.streams {
        up_to[slot(stream.stream)] = stream.bytes;
    }
    Some(Leader::Owed { code, up_to })
}

fn chunk(payload: &[u8], start: usize, reading: &mut Reading) -> Result<Option<Found>, Halt> {
    let chunk = WireChunk::read(payload).map_err(crate::codec::nonsense)?;
    if reading.id().is_none_or(|id| chunk.subscription_id != id.as_str()) {
        return Ok(None);
    }
    let offset = reading.chunk(chunk.stream, chunk.sequence, chunk.offset, chunk.data.len())?;
    // Data stands last in a chunk of ours, but may stand anywhere: its place is told by its address.
    let begin = start + (chunk.data.as_ptr() as usize - payload.as_ptr() as usize);
    let data = begin..begin + chunk.data.len();
    Ok(Some(Found::Chunk { stream: chunk.stream, offset, data, partial: chunk.partial }))
}

fn event(payload: &[u8], process: Option<&ProcessId>, reading: &mut Reading) -> Result<Option<Found>, Halt> {
    let Read { record, exit } = crate::codec::read_event(payload)?;
    if let Some(exit) = exit {
        return Ok((Some(&exit.id) == process).then_some(Found::LeaderExited { code: exit.code }));
    }
    let Some((subscription, frame)) = record else { return Ok(None) };
    if reading.id().is_none_or(|id| subscription != id.as_str()) {
        return Ok(None);
    }
    Ok(Some(Found::Other(reading.account(frame)?)))
}
