//! What waits to be sent on one connection.
//!
//! ```text
//!  mid-frame rest of a chunk  ▶  queue of whole frames  ▶  readers with something to send
//! ```
//!
//! Invariant: a frame that has begun is finished before any other begins. The rest of a chunk of a reader that
//! makes its source wait stays where it is, in the ring; everything else that a send left over is owned here.

use crate::control::Descriptors;
use crate::driver::Driver;
use crate::key::{Channel, SubscriptionKey};
use crate::limits::NEWS_TOLD_BYTES_MIN;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};

/// The sending half of a connection.
#[derive(Debug, Default)]
pub struct Outflow {
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// Bytes of events that have gone out and were not told yet.
    news_gone: usize,
    /// The chunk whose first piece has been sent and whose rest is still in its ring.
    pub rest: Option<Rest>,
    /// True exactly while a writability poll is in flight.
    pub armed: bool,
}

/// The unsent part of a chunk that stays in the ring of a waiting reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Whose.
    pub subscription: SubscriptionKey,
    /// Which stream.
    pub channel: Channel,
    /// One past the chunk's last offset; the reader's cursor says where to go on.
    pub end: u64,
}

#[derive(Debug)]
struct Queued {
    bytes: Bytes,
    /// Told to the sender's reactor when it is gone.
    credit: Option<(SubscriptionKey, usize)>,
    /// Bytes of events among them.
    news: usize,
    /// They come with its first byte; none once that is sent.
    descriptors: Option<Descriptors>,
}

/// What a flush came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing is left of the queue.
    Empty,
    /// The socket takes no more now.
    Full,
    /// The peer is gone.
    Gone,
}

const VECTORS: usize = 16;

impl Outflow {
    /// True exactly when nothing waits and no frame is half sent.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.rest.is_none()
    }

    /// Bytes that wait in the queue.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Queues whole frames.
    pub fn push(&mut self, bytes: Bytes) {
        self.put(bytes, None, 0);
    }

    /// Queues a frame, and descriptors that come with it.
    pub fn push_with(&mut self, bytes: Bytes, descriptors: Descriptors) {
        self.put(bytes, None, 0);
        if let Some(queued) = self.queue.back_mut() {
            queued.descriptors = Some(descriptors);
        }
    }

    /// Queues whole frames of events, which are counted when they have gone out.
    pub fn push_news(&mut self, bytes: Bytes) {
        let news = bytes.len();
        self.put(bytes, None, news);
    }

    /// Bytes of events that have gone out, if they are worth telling: many, or all there were.
    pub fn take_news_gone(&mut self) -> Option<usize> {
        let worth = if self.is_idle() { NEWS_TOLD_BYTES_MIN } else { 4 * NEWS_TOLD_BYTES_MIN };
        (self.news_gone >= worth).then(|| std::mem::take(&mut self.news_gone))
    }

    /// Queues a frame of a reader on another reactor, which gets its credit back when it is sent.
    pub fn push_remote(&mut self, bytes: Bytes, subscription: SubscriptionKey, credit: usize) {
        self.put(bytes, Some((subscription, credit)), 0);
    }

    fn put(&mut self, bytes: Bytes, credit: Option<(SubscriptionKey, usize)>, news: usize) {
        self.queued_bytes += bytes.len();
        self.queue.push_back(Queued { bytes, credit, news, descriptors: None });
    }

    /// Puts the rest of a frame that has begun in front of everything else.
    pub fn push_front(&mut self, bytes: Bytes) {
        self.queued_bytes += bytes.len();
        self.queue.push_front(Queued { bytes, credit: None, news: 0, descriptors: None });
    }

    /// The same of what is left of a frame of these pieces.
    pub fn push_rest(&mut self, [first, second]: [&[u8]; 2], sent: usize) {
        let mut left = first.get(sent..).unwrap_or_default().to_vec();
        left.extend_from_slice(&second[sent.saturating_sub(first.len())..]);
        self.push_front(Bytes::from(left));
    }

    /// Sends from the queue. Credits of remote readers whose frames are gone are appended to `credits`.
    pub fn flush<D: Driver>(
        &mut self,
        driver: &mut D,
        socket: &D::Fd,
        credits: &mut Vec<(SubscriptionKey, usize)>,
    ) -> Flushed {
        debug_assert!(self.rest.is_none(), "a begun frame is finished first");
        while !self.queue.is_empty() {
            let mut vectors = [IoSlice::new(&[]); VECTORS];
            let mut count = 0;
            for (vector, queued) in vectors.iter_mut().zip(&self.queue) {
                if queued.descriptors.is_some() {
                    break;
                }
                *vector = IoSlice::new(&queued.bytes);
                count += 1;
            }
            let sent = match self.queue.front() {
                Some(Queued { bytes, descriptors: Some(descriptors), .. }) => {
                    driver.send_with(socket, bytes, &descriptors.0)
                }
                _ => driver.send(socket, &vectors[..count]),
            };
            match sent {
                Ok(sent) => self.consume(sent, credits),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Full,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Flushed::Gone,
            }
        }
        // What a burst had made it grow to is not kept for an idle connection.
        if self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        Flushed::Empty
    }

    fn consume(&mut self, mut sent: usize, credits: &mut Vec<(SubscriptionKey, usize)>) {
        self.queued_bytes -= sent;
        while let Some(front) = self.queue.front_mut() {
            if front.bytes.len() > sent {
                front.bytes.advance(sent);
                if sent > 0 {
                    front.descriptors = None;
                }
                return;
            }
            sent -= front.bytes.len();
            credits.extend(front.credit);
            self.news_gone += front.news;
            self.queue.pop_front();
        }
    }

    /// Gives up everything; returns the credits of remote readers.
    pub fn drain(&mut self) -> impl Iterator<Item = (SubscriptionKey, usize)> {
        self.queued_bytes = 0;
        self.rest = None;
        std::mem::take(&mut self.queue).into_iter().filter_map(|queued| queued.credit)
    }
}
