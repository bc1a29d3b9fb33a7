//! Subscribing to the bus. How an event finds its subscribers is in [`bus`](crate::events::bus).

use crate::calls::{Asking, Turn};
use crate::entropy::bits;
use crate::events::pattern::Pattern;
use crate::kernel::Kernel;
use crate::state::{Named, TopicSubscription};
use crate::table::{Answers, Entry};
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::SubscriptionId;
use kairo_wire::method::Method;
use kairo_wire::methods::event::{Subscribe, SubscribeResult, Unsubscribe, UnsubscribeResult};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] =
    &[(Subscribe::ROW, Answers::AtOnce, subscribe), (Unsubscribe::ROW, Answers::AtOnce, unsubscribe)];

fn subscribe(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Subscribe>()?;
    let pattern = Pattern::new(params.topic.as_str()).map_err(|error| WireError::invalid("topic", error))?;
    let limit = kernel.config.limits.topics_max;
    let id = SubscriptionId::topic(bits(&mut *kernel.entropy));
    let serial = kernel.state.next_serial();
    let Some(peer) = kernel.state.connections.get_mut(asking.connection) else { return Ok(()) };
    if peer.topics.len() >= limit {
        let message = format!("a connection has at most {limit} subscriptions to events");
        return Err(WireError::new(Code::Busy, message));
    }
    peer.topics.insert(serial);
    kernel.state.subscriptions.insert(id.shared(), Named::Topic(serial));
    let subscription = TopicSubscription { id: id.clone(), connection: asking.connection, pattern };
    kernel.state.topics.insert(serial, subscription);
    kernel.answer(turn, asking, &SubscribeResult { subscription_id: id });
    Ok(())
}

fn unsubscribe(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Unsubscribe>()?;
    let id = &params.subscription_id;
    let subscription = match kernel.state.subscriptions.get(id.as_str()) {
        Some(Named::Topic(serial)) => {
            kernel.state.topics.get(serial).map(|topic| (*serial, topic.connection))
        }
        Some(Named::Stream(_)) | None => None,
    };
    if let Some((serial, holder)) = subscription {
        kernel.may_end(asking, holder)?;
        kernel.end_topic(serial);
        kernel.answer(turn, asking, &UnsubscribeResult { ok: true });
        kernel.close_if_over(turn, holder);
    } else {
        kernel.answer(turn, asking, &UnsubscribeResult { ok: false });
    }
    Ok(())
}
