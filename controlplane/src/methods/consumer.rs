//! Durable consumers, as clients make and use them. How events get to them is in
//! [`consumers`](crate::events::consumers).

use crate::auth::grant::may_touch;
use crate::calls::{Asking, Turn};
use crate::entropy::bits;
use crate::events::consumers::{Attachment, Consumer};
use crate::events::journal::unkept;
use crate::events::pattern::Pattern;
use crate::events::publishing::check_topic;
use crate::kernel::Kernel;
use crate::state::{Named, Pending};
use crate::table::{Answers, Entry};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::DeadReason;
use kairo_wire::id::SubscriptionId;
use kairo_wire::method::Method;
use kairo_wire::methods::consumer::{
    Ack, AckResult, Attach, AttachResult, ConsumerStatus, Create, Delete, DeleteResult, List, ListResult,
    Nak, Settings, Status,
};
use kairo_wire::methods::event::UnsubscribeResult;
use kairo_wire::permission::Permission;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Create::ROW, Answers::Later, create),
    (Attach::ROW, Answers::AtOnce, attach),
    (Ack::ROW, Answers::Later, ack),
    (Nak::ROW, Answers::Later, nak),
    (List::ROW, Answers::AtOnce, list),
    (Status::ROW, Answers::AtOnce, status),
    (Delete::ROW, Answers::Later, delete),
];

/// Bytes of a consumer's name.
const NAME_BYTES_MAX: usize = 128;
/// Most deliveries of one event.
const DELIVERIES_MAX: u32 = 1_000;
/// Most events without an answer.
const IN_FLIGHT_MAX: u32 = 4_096;
/// Most steps of a backoff.
const BACKOFF_STEPS_MAX: usize = 16;

/// The consumer a caller names: its user's own, and one it may touch.
fn named(kernel: &Kernel, asking: &Asking<'_>, name: &str) -> Result<u64, WireError> {
    let principal = kernel.principal(asking.connection);
    let uid = principal.uid(kernel.config.owner_uid);
    match kernel.state.consumers.named(uid, name) {
        Some((serial, consumer)) if may_touch(principal, &consumer.creator) => Ok(serial),
        Some(_) => Err(WireError::denied(asking.method, "the consumer is somebody else's").with("id", name)),
        None => {
            let message = format!("there is no consumer {name:?}");
            Err(WireError::new(Code::NotFound, message).with("id", name))
        }
    }
}

fn works(kernel: &Kernel) -> Result<(), WireError> {
    kernel.journal.broken.as_deref().map_or(Ok(()), |reason| Err(unkept(reason)))
}

fn check(name: &str, settings: &Settings) -> Result<(), WireError> {
    if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let message = format!("a name has at most {NAME_BYTES_MAX} bytes and no control characters");
        return Err(WireError::invalid("name", message));
    }
    if settings.ack_wait_ms == 0 {
        return Err(WireError::invalid("ackWaitMs", "it is at least 1"));
    }
    if !(1..=DELIVERIES_MAX).contains(&settings.max_deliver) {
        return Err(WireError::invalid("maxDeliver", format!("it is from 1 to {DELIVERIES_MAX}")));
    }
    if !(1..=IN_FLIGHT_MAX).contains(&settings.max_in_flight) {
        return Err(WireError::invalid("maxInFlight", format!("it is from 1 to {IN_FLIGHT_MAX}")));
    }
    if settings.backoff_ms.len() > BACKOFF_STEPS_MAX {
        return Err(WireError::invalid("backoffMs", format!("it has at most {BACKOFF_STEPS_MAX} steps")));
    }
    match &settings.dead_letter_topic {
        Some(topic) => check_topic("deadLetterTopic", topic).map_err(|error| *error),
        None => Ok(()),
    }
}

fn create(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Create>()?;
    works(kernel)?;
    let settings = params.settings();
    check(&params.name, &settings)?;
    Pattern::new(params.topic.as_str()).map_err(|error| WireError::invalid("topic", error))?;
    let principal = kernel.principal(asking.connection);
    let creator = principal.creator(kernel.config.owner_uid);
    kernel.may(turn, asking.connection, asking.method, Permission::EventSubscribe, params.topic.as_str())?;
    let told = kernel.journal.told_seq;
    if let Some((_, there)) = kernel.state.consumers.named(creator.uid, &params.name) {
        let same = there.topic == params.topic && there.settings == settings && there.creator == creator;
        if !same {
            let message = format!("name: there is another consumer {:?}", params.name);
            return Err(WireError::new(Code::AlreadyExists, message).with("field", "name"));
        }
        let status = there.status(told);
        let call = kernel.park(turn, asking, Pending::Published);
        kernel.answer_kept(turn, call, &status);
        return Ok(());
    }
    let most = kernel.config.limits.consumers_max;
    if kernel.state.consumers.count_of(creator.uid) >= most {
        return Err(WireError::new(Code::Busy, format!("a user has at most {most} consumers")));
    }
    let next = match (params.from_seq, params.from_time_ms) {
        (Some(seq), _) => seq.max(1),
        (None, Some(_)) => 1,
        (None, None) => kernel.journal.last_seq + 1,
    };
    let mut consumer = Consumer::new(params.name.into(), creator, params.topic, settings, next);
    consumer.from_ms = params.from_time_ms.unwrap_or(0);
    let status = consumer.status(told);
    let serial = kernel.state.next_serial();
    kernel.state.consumers.insert(serial, consumer);
    kernel.describe_consumer(serial);
    kernel.answer_when_written(turn, asking, &status);
    Ok(())
}

fn attach(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Attach>()?;
    works(kernel)?;
    let consumer = named(kernel, asking, &params.name)?;
    let topic = kernel.state.consumers.all.get(&consumer).map(|consumer| consumer.topic.clone());
    if let Some(topic) = topic {
        kernel.may(turn, asking.connection, asking.method, Permission::EventSubscribe, topic.as_str())?;
    }
    let limit = kernel.config.limits.topics_max;
    let id = SubscriptionId::topic(bits(&mut *kernel.entropy));
    let attachment = kernel.state.next_serial();
    let Some(peer) = kernel.state.connections.get_mut(asking.connection) else { return Ok(()) };
    if !peer.envelope {
        let message = "events of a consumer take the feature envelope: say kernel.hello with it first";
        return Err(WireError::new(Code::Conflict, message));
    }
    if peer.attached.len() >= limit {
        return Err(WireError::new(Code::Busy, format!("a connection attaches at most {limit} times")));
    }
    kernel.may_have_subscription(turn, asking.connection)?;
    let Some(peer) = kernel.state.connections.get_mut(asking.connection) else { return Ok(()) };
    peer.attached.insert(attachment);
    kernel.bill_subscription(asking.connection, true);
    let place = Attachment { id: id.clone(), connection: asking.connection, consumer };
    kernel.state.subscriptions.insert(id.shared(), Named::Attached(attachment));
    kernel.state.consumers.attachments.insert(attachment, place);
    if let Some(consumer) = kernel.state.consumers.all.get_mut(&consumer) {
        consumer.attached.push(attachment);
    }
    kernel.answer(turn, asking, &AttachResult { subscription_id: id });
    kernel.feed(turn, consumer);
    Ok(())
}

/// `unsubscribe` of an attachment.
pub(crate) fn detach(
    kernel: &mut Kernel,
    turn: &mut Turn<'_>,
    asking: &Asking<'_>,
    attachment: u64,
) -> Result<(), WireError> {
    let Some(place) = kernel.state.consumers.attachments.get(&attachment) else { return Ok(()) };
    let holder = place.connection;
    kernel.may_end(asking, holder)?;
    kernel.end_attachment(turn, attachment, DeadReason::Gone);
    kernel.answer(turn, asking, &UnsubscribeResult { ok: true });
    kernel.close_if_over(turn, holder);
    Ok(())
}

fn ack(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Ack>()?;
    works(kernel)?;
    let consumer = named(kernel, asking, &params.name)?;
    let result = kernel.settle_events(turn, consumer, params.seq, params.mode)?;
    answer_when_saved(kernel, turn, asking, consumer, result);
    Ok(())
}

fn nak(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Nak>()?;
    works(kernel)?;
    let consumer = named(kernel, asking, &params.name)?;
    let result = kernel.refuse_event(turn, consumer, params.seq, params.delay_ms)?;
    answer_when_saved(kernel, turn, asking, consumer, result);
    Ok(())
}

/// Answers when the log has where the consumer stands; at once if nothing changed.
fn answer_when_saved(
    kernel: &mut Kernel,
    turn: &mut Turn<'_>,
    asking: &Asking<'_>,
    serial: u64,
    result: AckResult,
) {
    let call = kernel.park(turn, asking, Pending::Published);
    if !result.ok {
        // That it is done already may be on its way into the log.
        return kernel.answer_kept(turn, call, &result);
    }
    if let Some(consumer) = kernel.state.consumers.all.get_mut(&serial) {
        consumer.dirty = true;
        consumer.waiting.push((call, result));
    }
    kernel.save_consumer(serial);
}

fn list(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<List>()?;
    let consumers = told_of(kernel, asking.connection);
    kernel.answer(turn, asking, &ListResult { consumers });
    Ok(())
}

/// How the consumers stand that a caller may touch.
pub(crate) fn told_of(kernel: &Kernel, connection: ConnectionKey) -> Vec<ConsumerStatus> {
    let principal = kernel.principal(connection);
    let (consumers, told) = (&kernel.state.consumers, kernel.journal.told_seq);
    let all = consumers.names.values().filter_map(|serial| consumers.all.get(serial));
    let seen = all.filter(|consumer| may_touch(principal, &consumer.creator));
    seen.map(|consumer| consumer.status(told)).collect()
}

fn status(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Status>()?;
    let serial = named(kernel, asking, &params.name)?;
    let told = kernel.journal.told_seq;
    if let Some(status) = kernel.state.consumers.all.get(&serial).map(|consumer| consumer.status(told)) {
        kernel.answer(turn, asking, &status);
    }
    Ok(())
}

fn delete(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Delete>()?;
    let serial = named(kernel, asking, &params.name)?;
    works(kernel)?;
    kernel.drop_consumer(turn, serial);
    kernel.answer_when_written(turn, asking, &DeleteResult { ok: true });
    Ok(())
}
