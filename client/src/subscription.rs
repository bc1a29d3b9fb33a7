//! A process's output as an iterator that can't lose a byte in silence.
//!
//! Each item is checked against the account of the subscription (`ledger`) as it is taken. After an error
//! there is nothing more: what follows a hole is not worth having unnoticed.

use crate::connection::{Call, Link, unsubscribe_stream};
use crate::error::{CallError, StreamError};
use crate::ledger::Ledger;
use crate::state::{Interest, StreamFrame, Unmet};
use bytes::Bytes;
use kairo_wire::event::StreamEndReason;
use kairo_wire::id::SubscriptionId;
use kairo_wire::methods::stream::{Selector, StreamName, Subscribe, SubscribeParams, UnsubscribeParams};
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
    /// In the line modes: a piece of an over-long line, and not its last.
    pub partial: bool,
}

/// A subscription to a process. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    link: Arc<Link>,
    stream: u64,
    id: SubscriptionId,
    ledger: Ledger,
    /// Streams that have not ended, by [`StreamName`].
    open: [bool; 2],
    failed: bool,
}

impl Subscription {
    pub(crate) fn open(
        link: &Arc<Link>,
        params: &SubscribeParams,
        records: bool,
    ) -> Result<Subscription, CallError> {
        let stream = link.shared.lock().open_stream();
        let opened = Call::<Subscribe>::begin(link, params, None, Some(stream)).and_then(Call::wait);
        match opened {
            Ok(opened) => Ok(Subscription {
                link: Arc::clone(link),
                stream,
                id: opened.subscription_id,
                ledger: Ledger::new(params.from, records),
                open: opened_streams(params.stream),
                failed: false,
            }),
            Err(error) => {
                link.shared.lock().close_stream(stream);
                Err(error)
            }
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
        let waited =
            self.link.shared.wait(Interest::Stream(stream), deadline, |state| state.take_frame(stream));
        let checked = match waited {
            Ok(frame) => check(&mut self.ledger, frame),
            Err(Unmet::Deadline) => return Ok(None),
            Err(Unmet::Lost(lost)) => Err(StreamError::Lost(lost.to_string())),
        };
        match &checked {
            Ok(Item::End { stream, .. }) => self.open[slot(*stream)] = false,
            Ok(Item::Chunk(_) | Item::Gap { .. } | Item::Overflow) => {}
            Err(_) => self.failed = true,
        }
        checked.map(Some)
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
        self.link.shared.lock().close_stream(self.stream);
        unsubscribe_stream(&self.link, &UnsubscribeParams { subscription_id: self.id.clone() });
    }
}

pub(crate) fn slot(stream: StreamName) -> usize {
    match stream {
        StreamName::Stdout => 0,
        StreamName::Stderr => 1,
    }
}

pub(crate) fn opened_streams(selector: Selector) -> [bool; 2] {
    [selector.stdout(), selector.stderr()]
}

fn check(ledger: &mut Ledger, frame: StreamFrame) -> Result<Item, StreamError> {
    Ok(match frame {
        StreamFrame::Chunk { stream, sequence, offset, partial, data } => {
            let offset = ledger.chunk(stream, sequence, offset, data.len())?;
            Item::Chunk(Chunk { stream, offset, data, partial })
        }
        StreamFrame::Gap { stream, from, to } => {
            ledger.gap(stream, from, to)?;
            Item::Gap { stream, from, to }
        }
        StreamFrame::End { stream, total_bytes, gap_bytes, reason } => {
            ledger.end(stream, total_bytes, gap_bytes)?;
            Item::End { stream, total_bytes, gap_bytes, reason }
        }
        StreamFrame::Overflow => Item::Overflow,
    })
}
