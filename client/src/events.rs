//! Bus events and exit notices as iterators.

use crate::connection::Call;
use crate::error::{CallError, Lost};
use crate::state::{EventKinds, Heard, Interest, Link, Opens, Unmet};
use bytes::Bytes;
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::envelope::EventFrame;
use kairo_wire::event::{CutReason, Event, EventCutRecord, IntentCancelNotice, ProcessExitNotice};
use kairo_wire::id::SubscriptionId;
use kairo_wire::method::Method;
use kairo_wire::methods::consumer::{Attach, NameParams};
use kairo_wire::methods::event::{
    Gap, Subscribe, SubscribeParams, SubscribeResult, Unsubscribe, UnsubscribeParams,
};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A bus event.
#[derive(Clone, Debug, Default)]
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
    /// Its place in the log; none if the log didn't take it, and from a kernel without the feature `envelope`, as all
    /// that follows.
    pub seq: Option<u64>,
    /// For whom it was published.
    pub principal: Option<String>,
    /// The intent it belongs to.
    pub intent_id: Option<String>,
    /// Of a distributed trace.
    pub span_id: Option<String>,
    /// The key under which it was published once.
    pub idempotency_key: Option<String>,
    /// The tool call it is about.
    pub tool_call_id: Option<String>,
    /// It comes from the log, not from the moment it happened.
    pub replayed: bool,
    /// The subscription it came for.
    pub subscription_id: Option<String>,
    /// How often it has been delivered to a durable consumer, this time included.
    pub delivery: Option<u32>,
}

impl BusEvent {
    /// Reads an event as a frame carries it.
    pub(crate) fn read(bytes: &[u8]) -> Result<BusEvent, Lost> {
        EventFrame::parse(bytes).map(BusEvent::of).map_err(crate::codec::nonsense)
    }

    /// Its own copy of what was read.
    pub(crate) fn of(frame: EventFrame<'_>) -> BusEvent {
        let text = |field: Option<Cow<'_, str>>| field.map(Cow::into_owned);
        BusEvent {
            payload: frame.body().unwrap_or(RawRef::ABSENT).to_owned(),
            topic: frame.topic.into_owned(),
            source: text(frame.source),
            time: text(frame.time),
            id: text(frame.id),
            correlation_id: text(frame.correlation_id),
            causation_id: text(frame.causation_id),
            trace_id: text(frame.trace_id),
            seq: frame.seq,
            principal: text(frame.principal),
            intent_id: text(frame.intent_id),
            span_id: text(frame.span_id),
            idempotency_key: text(frame.idempotency_key),
            tool_call_id: text(frame.tool_call_id),
            replayed: frame.replayed,
            subscription_id: text(frame.subscription_id),
            delivery: frame.delivery,
        }
    }
}

/// What a subscription to events gives.
#[derive(Clone, Debug)]
pub enum EventItem<T> {
    /// An event.
    Event(T),
    /// Events of this range are no longer in the log; what is known of them is with it.
    Gap(Gap),
    /// The kernel had ended the subscription and named the place to go on from. If that was because nobody read, it goes on
    /// there by itself; if because the log failed, from now on; else this and an error are the last items.
    Cut {
        /// The first place that had not been delivered.
        seq: u64,
        /// Why.
        reason: CutReason,
    },
    /// The connection was lost and is there again.
    Resumed {
        /// How long it was away, from when that was noticed.
        outage: Duration,
        /// What happened in between follows. If not, it is not told (the kernel keeps no log, or this is another one's),
        /// and whoever needs to know asks for the state of things now.
        complete: bool,
    },
}

/// A subscription to bus events. Dropping it unsubscribes. Over a loss of the connection it goes on behind the last event
/// it had, so that none is missed and none comes twice.
#[derive(Debug)]
pub struct Events {
    link: Arc<Link>,
    room: u64,
    /// Behind what was handed out here; what was received and waits lies further on.
    position: Option<u64>,
}

impl Events {
    /// To what a durable consumer is delivered.
    pub(crate) fn attach(link: &Arc<Link>, params: NameParams) -> Result<Events, CallError> {
        let room = link.lock().open_events(EventKinds::Consumer(params.clone()));
        let opens = Some(Opens::Events(room));
        match Call::<Attach>::begin(link, &params, None, opens).and_then(Call::wait) {
            Ok(_) => Ok(Events { link: Arc::clone(link), room, position: None }),
            Err(error) => {
                link.lock().close_events(room);
                Err(error)
            }
        }
    }

    pub(crate) fn open(link: &Arc<Link>, params: SubscribeParams) -> Result<Events, CallError> {
        let room = link.lock().open_events(EventKinds::Bus(Box::new(params.clone())));
        let opens = Some(Opens::Events(room));
        match Call::<Subscribe>::begin(link, &params, None, opens).and_then(Call::wait) {
            Ok(opened) => {
                let position = begin(&params, &opened);
                Ok(Events { link: Arc::clone(link), room, position })
            }
            Err(error) => {
                link.lock().close_events(room);
                Err(error)
            }
        }
    }

    /// Its name on the wire; another one after each loss of the connection.
    pub fn id(&self) -> Option<SubscriptionId> {
        self.link.lock().events.get(&self.room).and_then(|room| room.id.clone())
    }

    /// One past the last event or gap that was handed out here, at first where it begins. None while that isn't known.
    pub fn position(&self) -> Option<u64> {
        self.position
    }

    /// The next item, or none if none comes in time.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<EventItem<BusEvent>>, Lost> {
        self.take(Some(Instant::now() + patience))
    }

    fn take(&mut self, deadline: Option<Instant>) -> Result<Option<EventItem<BusEvent>>, Lost> {
        let item = take(&self.link, self.room, deadline, |payload| BusEvent::read(&payload))?;
        self.position = match &item {
            Some(EventItem::Event(event)) => event.seq.map(|seq| seq + 1).or(self.position),
            Some(EventItem::Gap(gap)) => Some(gap.to + 1),
            Some(EventItem::Resumed { complete: false, .. }) => None,
            Some(EventItem::Resumed { .. } | EventItem::Cut { .. }) | None => self.position,
        };
        Ok(item)
    }
}

/// Until the connection is lost for good; that is the last item.
impl Iterator for Events {
    type Item = Result<EventItem<BusEvent>, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take(None).transpose()
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

/// Notices the kernel sends to this connection unasked.
#[derive(Debug)]
pub struct Notices<E> {
    link: Arc<Link>,
    room: u64,
    notice: PhantomData<fn() -> E>,
}

/// The exits of processes this connection may see.
pub type Exits = Notices<ProcessExitNotice>;
/// Cancels of intents this connection has registered for.
pub type Cancels = Notices<IntentCancelNotice>;

impl<E: Event + DeserializeOwned> Notices<E> {
    pub(crate) fn open(link: &Arc<Link>) -> Notices<E> {
        let room = link.lock().open_events(EventKinds::Notices(E::TOPIC));
        Notices { link: Arc::clone(link), room, notice: PhantomData }
    }

    /// The next one, or none if none comes in time.
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<EventItem<E>>, Lost> {
        take(&self.link, self.room, Some(Instant::now() + patience), notice)
    }
}

/// Until the connection is lost for good; that is the last item.
impl<E: Event + DeserializeOwned> Iterator for Notices<E> {
    type Item = Result<EventItem<E>, Lost>;

    fn next(&mut self) -> Option<Self::Item> {
        take(&self.link, self.room, None, notice).transpose()
    }
}

impl<E> Drop for Notices<E> {
    fn drop(&mut self) {
        self.link.lock().close_events(self.room);
    }
}

/// Where a subscription begins, if that is told: where a time lies isn't before the first event from there.
pub(crate) fn begin(asked: &SubscribeParams, opened: &SubscribeResult) -> Option<u64> {
    asked.from_seq.or(opened.next_seq.filter(|_| asked.from_time_ms.is_none()))
}

fn take<T>(
    link: &Link,
    room: u64,
    deadline: Option<Instant>,
    read: impl FnOnce(Bytes) -> Result<T, Lost>,
) -> Result<Option<EventItem<T>>, Lost> {
    match link.wait(Interest::Events(room), deadline, |state| state.take_event(room)) {
        Ok(Heard::Event(payload)) => read(payload).map(|event| Some(EventItem::Event(event))),
        Ok(Heard::Gap(gap)) => Ok(Some(EventItem::Gap(gap))),
        Ok(Heard::Cut(EventCutRecord { seq, reason, .. })) => Ok(Some(EventItem::Cut { seq, reason })),
        Ok(Heard::Resumed { outage, complete }) => Ok(Some(EventItem::Resumed { outage, complete })),
        Ok(Heard::Refused(lost)) | Err(Unmet::Lost(lost)) => Err(lost),
        Err(Unmet::Deadline) => Ok(None),
    }
}

fn notice<E: DeserializeOwned>(payload: Bytes) -> Result<E, Lost> {
    let frame = EventFrame::parse(&payload).map_err(crate::codec::nonsense)?;
    crate::codec::value(frame.body().unwrap_or(RawRef::ABSENT).bytes())
}
