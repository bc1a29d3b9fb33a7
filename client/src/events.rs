//! Bus events and exit notices as iterators.

use crate::error::Lost;
use crate::state::{Heard, Interest, Link, Unmet};
use bytes::Bytes;
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::envelope::EventFrame;
use kairo_wire::event::ProcessExitNotice;
use kairo_wire::id::SubscriptionId;
use kairo_wire::method::Method;
use kairo_wire::methods::event::{Unsubscribe, UnsubscribeParams};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A bus event.
#[derive(Clone, Debug)]
pub struct BusEvent {
    /// Its name.
    pub topic: String,
    /// What it says.
    pub payload: Raw,
    /// Who published it.
    pub source: Option<String>,
    /// When, ISO 8601.
    pub time: Option<String>,
    /// Its own name.
    pub id: Option<String>,
    /// Ties together what has one cause.
    pub correlation_id: Option<String>,
    /// The event that caused it.
    pub causation_id: Option<String>,
    /// Of a distributed trace.
    pub trace_id: Option<String>,
}

/// What a subscription to events gives.
#[derive(Clone, Debug)]
pub enum EventItem<T> {
    /// An event.
    Event(T),
    /// The connection was lost and is there again. What happened in between is not told: whoever needs to know asks
    /// for the state of things now.
    Resumed {
        /// How long it was away, from when that was noticed.
        outage: Duration,
    },
}

/// A subscription to bus events. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Events {
    link: Arc<Link>,
    room: u64,
}

impl Events {
    pub(crate) fn new(link: Arc<Link>, room: u64) -> Events {
        Events { link, room }
    }

    /// Its name on the wire; another one after each loss of the connection.
    pub fn id(&self) -> Option<SubscriptionId> {
        self.link.lock().events.get(&self.room).and_then(|room| room.id.clone())
    }

    /// The next item, or none if none comes in time.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<EventItem<BusEvent>>, Lost> {
        take(&self.link, self.room, Some(Instant::now() + patience), bus)
    }
}

/// Until the connection is lost for good; that is the last item.
impl Iterator for Events {
    type Item = Result<EventItem<BusEvent>, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        take(&self.link, self.room, None, bus).transpose()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let named = self.link.lock().close_events(self.room);
        if let Some(subscription_id) = named {
            self.link.tell(Unsubscribe::NAME, &UnsubscribeParams { subscription_id });
        }
    }
}

/// The exits of processes this connection may see.
#[derive(Debug)]
pub struct Exits {
    link: Arc<Link>,
    room: u64,
}

impl Exits {
    pub(crate) fn new(link: Arc<Link>, room: u64) -> Exits {
        Exits { link, room }
    }

    /// The next exit, or none if none comes in time.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<EventItem<ProcessExitNotice>>, Lost> {
        take(&self.link, self.room, Some(Instant::now() + patience), exit)
    }
}

/// Until the connection is lost for good; that is the last item.
impl Iterator for Exits {
    type Item = Result<EventItem<ProcessExitNotice>, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        take(&self.link, self.room, None, exit).transpose()
    }
}

impl Drop for Exits {
    fn drop(&mut self) {
        self.link.lock().close_events(self.room);
    }
}

fn take<T>(
    link: &Link,
    room: u64,
    deadline: Option<Instant>,
    read: impl FnOnce(Bytes) -> Result<T, Lost>,
) -> Result<Option<EventItem<T>>, Lost> {
    match link.wait(Interest::Events(room), deadline, |state| state.take_event(room)) {
        Ok(Heard::Event(payload)) => read(payload).map(|event| Some(EventItem::Event(event))),
        Ok(Heard::Resumed(outage)) => Ok(Some(EventItem::Resumed { outage })),
        Ok(Heard::Refused(lost)) | Err(Unmet::Lost(lost)) => Err(lost),
        Err(Unmet::Deadline) => Ok(None),
    }
}

fn exit(payload: Bytes) -> Result<ProcessExitNotice, Lost> {
    let frame = EventFrame::parse(&payload).map_err(crate::codec::nonsense)?;
    frame.body().unwrap_or(RawRef::ABSENT).decode().map_err(crate::codec::nonsense)
}

fn bus(payload: Bytes) -> Result<BusEvent, Lost> {
    let frame = EventFrame::parse(&payload).map_err(crate::codec::nonsense)?;
    let text = |field: Option<Cow<'_, str>>| field.map(Cow::into_owned);
    Ok(BusEvent {
        payload: frame.body().unwrap_or(RawRef::ABSENT).to_owned(),
        topic: frame.topic.into_owned(),
        source: text(frame.source),
        time: text(frame.time),
        id: text(frame.id),
        correlation_id: text(frame.correlation_id),
        causation_id: text(frame.causation_id),
        trace_id: text(frame.trace_id),
    })
}
