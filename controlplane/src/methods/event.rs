//! Publishing, subscribing and reading back. How an event finds its subscribers is in [`bus`](crate::events::bus), how those
//! come by the past in [`following`](crate::events::following).

use crate::calls::{Asking, Turn};
use crate::entropy::bits;
use crate::events::batch::Batch;
use crate::events::journal::{Awaiting, unkept};
use crate::events::log::{Query, Types};
use crate::events::outlet::{Hearer, Question};
use crate::events::pattern::Pattern;
use crate::events::requesting;
use crate::intents::members::Member;
use crate::kernel::{Errand, Kernel};
use crate::methods::consumer::detach;
use crate::state::{Named, Pending, TopicPlace, TopicSubscription, Topics, Trace};
use crate::table::{Answers, Entry};
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::WireError;
use kairo_wire::id::{SubscriptionId, TopicPattern};
use kairo_wire::limits::{REPLAY_EVENTS_MAX, TOPIC_BYTES_MAX};
use kairo_wire::method::Method;
use kairo_wire::methods::event::{
    Ack, Draft, Order, Publish, PublishBatch, PublishResult, Replay, ReplayParams, Request, RequestParams,
    Subscribe, SubscribeParams, SubscribeResult, Unsubscribe, UnsubscribeResult,
};
use kairo_wire::permission::Permission;
use serde::Serialize;
use std::sync::Arc;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Subscribe::ROW, Answers::AtOnce, subscribe),
    (Unsubscribe::ROW, Answers::AtOnce, unsubscribe),
    (Publish::ROW, Answers::Later, publish),
    (PublishBatch::ROW, Answers::Later, publish_batch),
    (Replay::ROW, Answers::Later, replay),
    (Request::ROW, Answers::Later, request),
];

/// How long an answer is waited for without a wish.
const REQUEST_TIMEOUT_MS: u64 = 5_000;
/// Most patterns and sources of one replay.
const CONDITIONS_MAX: usize = 64;

fn pattern(field: &str, text: &TopicPattern) -> Result<Pattern, WireError> {
    Pattern::new(text.as_str()).map_err(|error| WireError::invalid(field, error))
}

fn subscribe(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Subscribe>()?;
    let pattern = pattern("topic", &params.topic)?;
    kernel.may(turn, asking.connection, asking.method, Permission::EventSubscribe, params.topic.as_str())?;
    let past = params.from_seq.is_some() || params.from_time_ms.is_some();
    if let Some(reason) = kernel.journal.broken.as_deref().filter(|_| past) {
        return Err(unkept(reason));
    }
    let under = kernel.under(asking);
    kernel.may_begin(under.as_deref())?;
    kernel.may_subscribe(turn, asking.connection)?;
    let id = SubscriptionId::topic(bits(&mut *kernel.entropy));
    let serial = kernel.state.next_serial();
    let Some(peer) = kernel.state.connections.get_mut(asking.connection) else { return Ok(()) };
    peer.topics.insert(serial);
    kernel.bill_subscription(asking.connection, true);
    kernel.state.subscriptions.insert(id.shared(), Named::Topic(serial));
    kernel.state.matcher.insert(serial, params.topic.as_str(), pattern);
    let next = kernel.journal.last_seq + 1;
    let SubscribeParams { topic, from_seq, from_time_ms, correlation_id, intent_id } = params;
    let subscription = TopicSubscription {
        id: id.clone(),
        connection: asking.connection,
        text: topic.as_str().into(),
        correlation: correlation_id.map(Into::into),
        intent: intent_id.map(Into::into),
        from_time_ms: from_time_ms.unwrap_or(0),
        place: TopicPlace::Live { next: from_seq.unwrap_or(next).max(next) },
        under,
    };
    kernel.enroll_under(Member::Topic(serial), subscription.under.as_deref());
    kernel.state.topics.insert(serial, subscription);
    kernel.answer(turn, asking, &SubscribeResult { subscription_id: id, next_seq: Some(next) });
    // A place to come is waited for.
    if past && from_seq.is_none_or(|from| from < next) {
        kernel.fall_behind(turn, serial, from_seq.unwrap_or(1).max(1));
    }
    Ok(())
}

fn unsubscribe(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Unsubscribe>()?;
    let id = &params.subscription_id;
    if let Some(Named::Attached(attachment)) = kernel.state.subscriptions.get(id.as_str()).copied() {
        return detach(kernel, turn, asking, attachment);
    }
    let subscription = match kernel.state.subscriptions.get(id.as_str()) {
        Some(Named::Topic(serial)) => {
            kernel.state.topics.get(serial).map(|topic| (*serial, topic.connection))
        }
        Some(Named::Watch(serial)) => {
            kernel.state.watches.get(serial).map(|watch| (*serial, watch.connection))
        }
        Some(Named::Stream(_) | Named::Attached(_)) | None => None,
    };
    if let Some((serial, holder)) = subscription {
        kernel.may_end(asking, holder)?;
        kernel.end_topic(turn, serial);
        kernel.end_watch(serial);
        kernel.answer(turn, asking, &UnsubscribeResult { ok: true });
        kernel.close_if_over(turn, holder);
    } else {
        kernel.answer(turn, asking, &UnsubscribeResult { ok: false });
    }
    Ok(())
}

fn publish(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let draft = asking.read::<Publish>()?;
    kernel.takes_events()?;
    let grant = kernel.check_draft(turn.at, asking.connection, &draft).map_err(|error| *error)?;
    kernel.within_rate(turn, asking.connection, 1)?;
    kernel.spend(turn, grant);
    let ack = draft.ack;
    let key = asking.meta.as_ref().and_then(|meta| meta.idempotency_key.as_deref());
    let published = kernel.publish_draft(turn, asking.connection, &asking.trace, draft, key);
    let result =
        PublishResult { id: published.id, seq: published.seq, correlation_id: published.correlation, ack };
    acknowledge(kernel, turn, asking, ack, &result)
}

fn publish_batch(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    kernel.takes_events()?;
    let call = kernel.park(turn, asking, Pending::Published);
    let batch = Batch::new(call, asking.connection, asking.trace.clone());
    kernel.in_hand = Some(Errand::Publish(Box::new(batch)));
    Ok(())
}

fn request(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let RequestParams { topic, data, timeout_ms, reply_type, source, reach } = asking.read::<Request>()?;
    kernel.takes_events()?;
    let draft = Draft { topic, data, source, reach, ..Draft::default() };
    let grant = kernel.check_draft(turn.at, asking.connection, &draft).map_err(|error| *error)?;
    let topic: Arc<str> = draft.topic.as_str().into();
    if reply_type.as_ref().is_some_and(|of| of.len() > TOPIC_BYTES_MAX) {
        return Err(WireError::invalid("replyType", format!("a type has 1 to {TOPIC_BYTES_MAX} bytes")));
    }
    if let Some(of) = &reply_type {
        // An answer by its type is somebody's event like any other.
        kernel.may(turn, asking.connection, asking.method, Permission::EventSubscribe, of)?;
    }
    kernel.within_rate(turn, asking.connection, 1)?;
    kernel.spend(turn, grant);
    let audience = kernel.audience_of(asking.connection, reach);
    // Parked first: whatever answers it comes later.
    let call = kernel.park(turn, asking, Pending::Published);
    let story = Trace { correlation: None, ..asking.trace.clone() };
    let key = asking.meta.as_ref().and_then(|meta| meta.idempotency_key.as_deref());
    let published = kernel.publish_draft(turn, asking.connection, &story, draft, key);
    let (connection, reply) = (asking.connection, reply_type.map(Into::into));
    let open =
        requesting::Request { id: published.id, topic, call, connection, audience, reply, answered: false };
    kernel.open_request(turn, open, timeout_ms.unwrap_or(REQUEST_TIMEOUT_MS));
    Ok(())
}

/// Answers a publisher when the log is as far as it wants.
fn acknowledge<R: Serialize>(
    kernel: &mut Kernel,
    turn: &mut Turn<'_>,
    asking: &Asking<'_>,
    ack: Ack,
    result: &R,
) -> Result<(), WireError> {
    if asking.claim.is_none() && ack == Ack::Memory {
        kernel.answer(turn, asking, result);
        return Ok(());
    }
    let call = kernel.park(turn, asking, Pending::Published);
    acknowledge_parked(kernel, turn, call, ack, result)
}

/// The same for one whose call is parked.
pub(crate) fn acknowledge_parked<R: Serialize>(
    kernel: &mut Kernel,
    turn: &mut Turn<'_>,
    call: u64,
    ack: Ack,
    result: &R,
) -> Result<(), WireError> {
    let result = Raw::of(result).map_err(WireError::from)?;
    if let Some(name) = kernel.flight_of(call) {
        kernel.give_receipt(turn, name, &result, ack, true);
        return Ok(());
    }
    match ack {
        Ack::Memory => kernel.resolve_now::<Raw>(turn, call, &result),
        Ack::Disk => kernel.journal.when_flushed(Awaiting::Call(call, result)),
        Ack::Log => kernel.journal.when_written(Awaiting::Call(call, result)),
    }
    Ok(())
}

fn replay(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Replay>()?;
    if let Some(reason) = &kernel.journal.broken {
        return Err(unkept(reason));
    }
    // Without a condition all types are meant.
    let all = TopicPattern::from_text(">");
    let types = params.types.iter().chain(all.iter().filter(|_| params.types.is_empty()));
    let topics: Topics = types.map(|types| types.as_str().into()).collect();
    for topic in &*topics {
        kernel.may(turn, asking.connection, asking.method, Permission::EventSubscribe, topic)?;
    }
    let limit = params.limit.map_or(REPLAY_EVENTS_MAX, |limit| limit as usize).clamp(1, REPLAY_EVENTS_MAX);
    let query = query(params)?;
    let Some(peer) = kernel.state.connections.get(asking.connection) else { return Ok(()) };
    let hearer = Hearer { principal: peer.principal.clone(), dialect: peer.dialect, envelope: true };
    let ticket = kernel.park(turn, asking, Pending::Replay { topics });
    kernel.journal.ask_for_all(Question { ticket, query, limit, hearer, subscription: None, raw: false });
    Ok(())
}

fn query(params: ReplayParams) -> Result<Query, WireError> {
    for (field, count) in [("types", params.types.len()), ("sources", params.sources.len())] {
        if count > CONDITIONS_MAX {
            return Err(WireError::invalid(field, format!("there are at most {CONDITIONS_MAX}")));
        }
    }
    let mut types = Vec::new();
    for (place, text) in params.types.iter().enumerate() {
        let of = Types::new(text.as_str())
            .map_err(|error| WireError::invalid(&format!("types[{place}]"), error))?;
        types.push(of);
    }
    let all = Query::default();
    Ok(Query {
        types,
        sources: params.sources,
        correlation: params.correlation_id,
        intent: params.intent_id,
        or_intents: Vec::new(),
        from: params.from_seq.unwrap_or(all.from).max(1),
        to: params.to_seq.unwrap_or(all.to).min(all.to),
        from_ms: params.from_time_ms.unwrap_or(all.from_ms),
        to_ms: params.to_time_ms.unwrap_or(all.to_ms),
        backward: params.order == Order::Backward,
    })
}
