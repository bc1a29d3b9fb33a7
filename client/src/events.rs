//! Bus events and exit notices as iterators.

use crate::connection::{Link, unsubscribe_events};
use crate::error::Lost;
use crate::state::{Interest, Unmet};
use bytes::Bytes;
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::event::{EventFrame, ProcessExitNotice};
use kairo_wire::id::SubscriptionId;
use kairo_wire::methods::event::UnsubscribeParams;
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

/// A subscription to bus events. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Events {
    link: Arc<Link>,
    room: u64,
    id: SubscriptionId,
}

impl Events {
    pub(crate) fn new(link: Arc<Link>, room: u64, id: SubscriptionId) -> Events {
        Events { link, room, id }
    }

    /// Its name on the wire.
    pub fn id(&self) -> &SubscriptionId {
        &self.id
    }

    /// The next event, or none if none comes in time.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<BusEvent>, Lost> {
        take(&self.link, self.room, Some(Instant::now() + patience))
            .and_then(|found| found.map(bus).transpose())
    }
}

/// Until the connection is lost; that is the last item.
impl Iterator for Events {
    type Item = Result<BusEvent, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        take(&self.link, self.room, None).and_then(|found| found.map(bus).transpose()).transpose()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.link.shared.lock().close_events(self.room);
        unsubscribe_events(&self.link, &UnsubscribeParams { subscription_id: self.id.clone() });
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
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<ProcessExitNotice>, Lost> {
        take(&self.link, self.room, Some(Instant::now() + patience))
            .and_then(|found| found.map(exit).transpose())
    }
}

/// Until the connection is lost; that is the last item.
impl Iterator for Exits {
    type Item = Result<ProcessExitNotice, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        take(&self.link, self.room, None).and_then(|found| found.map(exit).transpose()).transpose()
    }
}

impl Drop for Exits {
    fn drop(&mut self) {
        self.link.shared.lock().close_events(self.room);
    }
}

fn take(link: &Link, room: u64, deadline: Option<Instant>) -> Result<Option<Bytes>, Lost> {
    match link.shared.wait(Interest::Events(room), deadline, |state| state.take_event(room)) {
        Ok(payload) => Ok(Some(payload)),
        Err(Unmet::Deadline) => Ok(None),
        Err(Unmet::Lost(lost)) => Err(lost),
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
