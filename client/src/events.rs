//! Bus events and exit notices as iterators.

use crate::connection::Call;
use crate::error::{CallError, Lost};
use crate::state::{EventKinds, Heard, Interest, Link, Opens, Unmet};
use crate::text::Text;
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
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A bus event.
#[derive(Clone, Debug, Default)]
pub struct BusEvent {
    /// Its name.
    pub topic: Text,
    /// What it says.
    pub payload: Raw,
    /// Who published it.
    pub source: Option<Text>,
    /// When, ISO 8601.
    pub time: Option<Text>,
    /// Its own name.
    pub id: Option<Text>,
    /// Ties together what has one cause.
    pub correlation_id: Option<Text>,
    /// The event that caused it.
    pub causation_id: Option<Text>,
    /// Of a distributed trace.
    pub trace_id: Option<Text>,
    /// Its place in the log; none if the log didn't take it, and from a kernel without the feature `envelope`, as all
    /// that follows.
    pub seq: Option<u64>,
    /// For whom it was published.
    pub principal: Option<Text>,
    /// The intent it belongs to.
    pub intent_id: Option<Text>,
    /// Of a distributed trace.
    pub span_id: Option<Text>,
    /// The key under which it was published once.
    pub idempotency_key: Option<Text>,
    /// The tool call it is about.
    pub tool_call_id: Option<Text>,
    /// It comes from the log, not from the moment it happened.
    pub replayed: bool,
    /// The subscription it came for.
    pub subscription_id: Option<Text>,
    /// How often it has been delivered to a durable consumer, this time included.
    pub delivery: Option<u32>,
}

impl BusEvent {
    /// Its own copy of what was read. `texts` is room to work in.
    pub(crate) fn of(frame: &EventFrame<'_>, texts: &mut String) -> BusEvent {
        texts.clear();
        let mut put = |text: &str| {
            let from = texts.len() as u32;
            texts.push_str(text);
            from..texts.len() as u32
        };
        let topic = put(&frame.topic);
        let ranges = [
            &frame.source,
            &frame.time,
            &frame.id,
            &frame.correlation_id,
            &frame.causation_id,
            &frame.trace_id,
            &frame.principal,
            &frame.intent_id,
            &frame.span_id,
            &frame.idempotency_key,
            &frame.tool_call_id,
            &frame.subscription_id,
        ]
        .map(|text| text.as_deref().map(&mut put));
        let whole: Arc<str> = texts.as_str().into();
        let [
            source,
            time,
            id,
            correlation_id,
            causation_id,
            trace_id,
            principal,
            intent_id,
            span_id,
            idempotency_key,
            tool_call_id,
            subscription_id,
        ] = ranges.map(|range| range.map(|range| Text::part(&whole, range)));
        BusEvent {
            topic: Text::part(&whole, topic),
            payload: frame.body().unwrap_or(RawRef::ABSENT).to_owned(),
            source,
            time,
            id,
            correlation_id,
            causation_id,
            trace_id,
            seq: frame.seq,
            principal,
            intent_id,
            span_id,
            idempotency_key,
            tool_call_id,
            replayed: frame.replayed,
            subscription_id,
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
    /// Room to read an event in.
    texts: String,
}

impl Events {
    fn new(link: &Arc<Link>, room: u64, position: Option<u64>) -> Events {
        Events { link: Arc::clone(link), room, position, texts: String::new() }
    }

    /// To what a durable consumer is delivered.
    pub(crate) fn attach(link: &Arc<Link>, params: NameParams) -> Result<Events, CallError> {
        let room = link.lock().open_events(EventKinds::Consumer(params.clone()));
        let opens = Some(Opens::Events(room));
        match Call::<Attach>::begin(link, &params, None, opens).and_then(Call::wait) {
            Ok(_) => Ok(Events::new(link, room, None)),
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
                Ok(Events::new(link, room, position))
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
        let texts = &mut self.texts;
        let item = take(&self.link, self.room, deadline, |payload| {
            let frame = EventFrame::parse(&payload).map_err(crate::codec::nonsense)?;
            Ok(BusEvent::of(&frame, texts))
        })?;
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
