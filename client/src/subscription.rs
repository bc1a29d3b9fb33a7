//! A process's output as an iterator that can't lose a byte in silence.
//!
//! Each item is checked against the account of the subscription (`reading`) as it comes. After an error
//! there is nothing more: what follows a hole is not worth having unnoticed.

use crate::connection::Call;
use crate::error::{CallError, StreamError};
use crate::ledger::Ledger;
use crate::state::{Interest, Link, Opens, Unmet};
use bytes::Bytes;
use kairo_wire::event::StreamEndReason;
use kairo_wire::id::SubscriptionId;
use kairo_wire::method::Method;
use kairo_wire::methods::stream::{StreamName, Subscribe, SubscribeParams, Unsubscribe, UnsubscribeParams};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a subscription gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Bytes.
    Chunk(Chunk),
    /// Bytes that were missed, and why nobody has them is the kernel's `stream.gap`.
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
}

/// Bytes of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which.
    pub stream: StreamName,
    /// Of the first byte, from the stream's birth (without `records`: from the subscription's beginning).
    pub offset: u64,
    /// Never empty.
    pub data: Bytes,
    /// When its last byte was read from the child, CLOCK_MONOTONIC nanoseconds; with `timestamps`, if it is known.
    pub time: Option<u64>,
    /// In the line modes: a piece of an over-long line, and not its last.
    pub partial: bool,
}

/// A subscription to a process. Dropping it unsubscribes. When the connection is lost and comes back it goes on at the
/// exact byte; nothing of that is seen here but, where bytes are no longer kept, a gap.
#[derive(Debug)]
pub struct Subscription {
    link: Arc<Link>,
    stream: u64,
    /// Streams that have not ended, by [`StreamName`].
    open: [bool; 2],
    /// One past the last byte handed out, by [`StreamName`].
    position: [Option<u64>; 2],
    failed: bool,
}

impl Subscription {
    pub(crate) fn open(link: &Arc<Link>, params: &SubscribeParams) -> Result<Subscription, CallError> {
        let stream = link.lock().open_stream(params);
        let opened =
            Call::<Subscribe>::begin(link, params, None, Some(Opens::Stream(stream))).and_then(Call::wait);
        match opened {
            Ok(_) => {
                let begin = Ledger::new(params.from, true);
                let position = [StreamName::Stdout, StreamName::Stderr].map(|name| begin.position(name));
                let open = [params.stream.stdout(), params.stream.stderr()];
                Ok(Subscription { link: Arc::clone(link), stream, open, position, failed: false })
            }
            Err(error) => {
                link.lock().close_stream(stream);
                Err(error)
            }
        }
    }

    /// Its name on the wire; another one after each loss of the connection.
    pub fn id(&self) -> Option<SubscriptionId> {
        let state = self.link.lock();
        state.streams.get(&self.stream).and_then(|room| room.reading.id().cloned())
    }

    /// One past the last byte of a stream that was handed out here or named as a gap, if that is known yet.
    pub fn position(&self, stream: StreamName) -> Option<u64> {
        self.position[slot(stream)]
    }

    /// True when every stream that was asked for has ended. The kernel keeps the subscription for the next life of
    /// the id; whoever wants that goes on with [`Subscription::next_item`].
    pub fn is_over(&self) -> bool {
        self.open == [false; 2]
    }

    /// The next item, however long it takes; past the ends of all streams it waits for the id's next life.
    pub fn next_item(&mut self) -> Result<Item, StreamError> {
        self.take(None).map(|item| item.unwrap_or(Item::Overflow))
    }

    /// The next item, or none if none comes in time.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Item>, StreamError> {
        self.take(Some(Instant::now() + patience))
    }

    fn take(&mut self, deadline: Option<Instant>) -> Result<Option<Item>, StreamError> {
        if self.failed {
            return Err(StreamError::Lost("the subscription has failed before".to_owned()));
        }
        let stream = self.stream;
        let waited = self.link.wait(Interest::Stream(stream), deadline, |state| state.take_item(stream));
        let item = match waited {
            Ok(item) => item,
            Err(Unmet::Deadline) => return Ok(None),
            Err(Unmet::Lost(lost)) => Err(StreamError::Lost(lost.to_string())),
        };
        match &item {
            Ok(Item::End { stream, total_bytes, .. }) => {
                self.open[slot(*stream)] = false;
                self.position[slot(*stream)] = Some(*total_bytes);
            }
            Ok(Item::Chunk(chunk)) => {
                self.position[slot(chunk.stream)] = Some(chunk.offset + chunk.data.len() as u64);
            }
            Ok(Item::Gap { stream, to, .. }) => self.position[slot(*stream)] = Some(*to),
            Ok(Item::Overflow) => {}
            Err(_) => self.failed = true,
        }
        item.map(Some)
    }
}

/// Up to the ends of all streams asked for, or the first error, which is the last item.
impl Iterator for Subscription {
    type Item = Result<Item, StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.is_over() { None } else { Some(self.next_item()) }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let named = self.link.lock().close_stream(self.stream);
        if let Some(subscription_id) = named {
            self.link.tell(Unsubscribe::NAME, &UnsubscribeParams { subscription_id });
        }
    }
}

pub(crate) fn slot(stream: StreamName) -> usize {
    match stream {
        StreamName::Stdout => 0,
        StreamName::Stderr => 1,
    }
}
