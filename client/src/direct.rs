//! One stream, one connection, one buffer: the fast way.
//!
//! A [`DirectStream`] hands out borrowed slices of its receive buffer: no queue, no lock, no allocation per chunk, one
//! copy in all (the kernel's, out of the socket). It checks what [`Subscription`](crate::subscription::Subscription)
//! checks. There is no calling on its connection: signal or write to the process through another.

use crate::codec::Read;
use crate::connection::put_request;
use crate::error::{CallError, Lost, StreamError};
use crate::inlet::{Inlet, Stop};
use crate::ledger::Ledger;
use crate::state::StreamFrame;
use crate::subscription::{opened_streams, slot};
use bytes::BytesMut;
use kairo_wire::chunk::Chunk as WireChunk;
use kairo_wire::event::StreamEndReason;
use kairo_wire::frame::Kind;
use kairo_wire::id::{ProcessId, SubscriptionId};
use kairo_wire::method::Method;
use kairo_wire::methods::stream::{StreamName, Subscribe, SubscribeParams, SubscribeResult};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The id of the one call a direct stream makes: above every number a client's earlier calls had.
const SUBSCRIBE_CALL: u64 = 1 << 52;

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
#[derive(Debug)]
pub struct DirectStream {
    inlet: Inlet,
    id: SubscriptionId,
    /// What is read.
    process: Option<ProcessId>,
    ledger: Ledger,
    open: [bool; 2],
    failed: bool,
}

/// A frame that was accounted for, its data still in the buffer.
enum Found {
    Chunk { stream: StreamName, offset: u64, data: Range<usize>, partial: bool },
    Other(StreamFrame),
    LeaderExited { code: i32 },
}

impl DirectStream {
    pub(crate) fn open(
        socket: Arc<UnixStream>,
        mut inlet: Inlet,
        params: &SubscribeParams,
        records: bool,
    ) -> Result<DirectStream, CallError> {
        let mut out = BytesMut::new();
        put_request(&mut out, SUBSCRIBE_CALL, Subscribe::NAME, params, None)?;
        (&*socket).write_all(&out).map_err(|error| CallError::Lost(Lost::Os(Arc::new(error))))?;
        loop {
            let (kind, range) = inlet.fill(None).map_err(|stop| CallError::Lost(lost(stop)))?;
            let answer = match kind {
                Kind::RESPONSE => Some(crate::codec::response(&inlet.bytes()[range.clone()])?),
                _ => None,
            };
            inlet.consume(range.end);
            let Some((SUBSCRIBE_CALL, outcome)) = answer else { continue };
            let result = outcome.map_err(|refusal| CallError::Kernel(Box::new(refusal)))?;
            let opened: SubscribeResult = crate::codec::value(&result)?;
            return Ok(DirectStream {
                inlet,
                id: opened.subscription_id,
                process: params.id.clone().or_else(|| params.pid.clone()),
                ledger: Ledger::new(params.from, records),
                open: opened_streams(params.stream),
                failed: false,
            });
        }
    }

    /// Its name on the wire.
    pub fn id(&self) -> &SubscriptionId {
        &self.id
    }

    /// One past the last byte of a stream that was delivered or named as a gap, if that is known yet.
    pub fn position(&self, stream: StreamName) -> Option<u64> {
        self.ledger.position(stream)
    }

    /// The next item; none when all streams asked for have ended.
    pub fn next_item(&mut self) -> Result<Option<DirectItem<'_>>, StreamError> {
        if self.open == [false; 2] {
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
                DirectItem::Chunk { stream, offset, data: &self.inlet.bytes()[data], partial }
            }
            Found::LeaderExited { code } => DirectItem::LeaderExited { code },
            Found::Other(StreamFrame::Gap { stream, from, to }) => DirectItem::Gap { stream, from, to },
            Found::Other(StreamFrame::End { stream, total_bytes, gap_bytes, reason }) => {
                DirectItem::End { stream, total_bytes, gap_bytes, reason }
            }
            Found::Other(StreamFrame::Overflow | StreamFrame::Chunk { .. }) => DirectItem::Overflow,
        }))
    }

    /// Reads up to the next frame of ours and accounts for it; none at the deadline.
    fn advance(&mut self, deadline: Option<Instant>) -> Result<Option<Found>, StreamError> {
        loop {
            // The frame handed out last was released by this call.
            let (kind, range) = match self.inlet.fill(deadline) {
                Ok(filled) => filled,
                Err(Stop::Deadline) => return Ok(None),
                Err(stop) => return Err(StreamError::Lost(lost(stop).to_string())),
            };
            let payload = &self.inlet.bytes()[range.clone()];
            let found = match kind {
                Kind::STREAM_CHUNK => chunk(payload, range.start, &self.id, &mut self.ledger)?,
                Kind::EVENT => event(payload, &self.id, self.process.as_ref(), &mut self.ledger)?,
                // Answers to calls made before, and kinds to come.
                Kind(_) => None,
            };
            if let Some(Found::Other(StreamFrame::End { stream, .. })) = &found {
                self.open[slot(*stream)] = false;
            }
            self.inlet.release(range.end);
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

fn chunk(
    payload: &[u8],
    start: usize,
    id: &SubscriptionId,
    ledger: &mut Ledger,
) -> Result<Option<Found>, StreamError> {
    let chunk = WireChunk::read(payload).map_err(|error| StreamError::Lost(error.to_string()))?;
    if chunk.subscription_id != id.as_str() {
        return Ok(None);
    }
    let offset = ledger.chunk(chunk.stream, chunk.sequence, chunk.offset, chunk.data.len())?;
    // Data stands last in a chunk of ours, but may stand anywhere: its place is told by its address.
    let begin = start + (chunk.data.as_ptr() as usize - payload.as_ptr() as usize);
    let data = begin..begin + chunk.data.len();
    Ok(Some(Found::Chunk { stream: chunk.stream, offset, data, partial: chunk.partial }))
}

fn event(
    payload: &[u8],
    id: &SubscriptionId,
    process: Option<&ProcessId>,
    ledger: &mut Ledger,
) -> Result<Option<Found>, StreamError> {
    let Read { record, exit } =
        crate::codec::read_event(payload).map_err(|lost| StreamError::Lost(lost.to_string()))?;
    if let Some(exit) = exit {
        return Ok((Some(&exit.id) == process).then_some(Found::LeaderExited { code: exit.code }));
    }
    let Some((subscription, frame)) = record else { return Ok(None) };
    if subscription != id.as_str() {
        return Ok(None);
    }
    match &frame {
        StreamFrame::Gap { stream, from, to } => ledger.gap(*stream, *from, *to)?,
        StreamFrame::End { stream, total_bytes, gap_bytes, .. } => {
            ledger.end(*stream, *total_bytes, *gap_bytes)?
        }
        StreamFrame::Overflow | StreamFrame::Chunk { .. } => {}
    }
    Ok(Some(Found::Other(frame)))
}

fn lost(stop: Stop) -> Lost {
    match stop {
        Stop::Closed { unread } => Lost::Closed { unread },
        Stop::Frame(error) => Lost::Frame(error),
        Stop::Os(error) => Lost::Os(Arc::new(error)),
        Stop::Deadline => Lost::ClosedHere,
    }
}
