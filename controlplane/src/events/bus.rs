//! The bus: an event goes to every subscription whose pattern matches and whose connection may see what it is about.
//!
//! Events are delivered live and nothing is kept here. Each is encoded once per dialect at most, and not at all
//! when nobody listens. Invariant: what a principal may not touch it hears nothing of. A receiver that doesn't
//! read is the transport's matter.

use crate::auth::grant::{administers, may_touch};
use crate::auth::principal::{Creator, Principal};
use crate::calls::Turn;
use crate::clock::wall_ms;
use crate::entropy::bits;
use crate::kernel::Kernel;
use crate::state::{Connection, Trace};
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::Command;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::event::{Envelope, Event, put_bus};
use kairo_wire::id::EventId;

/// Who publishes: the kernel is the only one.
const SOURCE: &str = "kernel";

/// Who may hear of an event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience<'a> {
    /// Everybody with any rights.
    All,
    /// Whoever may touch what this creator started.
    Of(&'a Creator),
    /// The owner, and the user it is about.
    Administration {
        /// Of the one it is about.
        uid: u32,
    },
}

impl Audience<'_> {
    fn includes(self, principal: &Principal) -> bool {
        match self {
            Audience::All => !matches!(principal, Principal::Nobody { .. }),
            Audience::Of(creator) => may_touch(principal, creator),
            Audience::Administration { uid } => administers(principal, uid),
        }
    }
}

impl Kernel {
    /// Publishes one event, the same for every receiver.
    pub(crate) fn publish<E: Event>(
        &mut self,
        turn: &mut Turn<'_>,
        audience: Audience<'_>,
        trace: &Trace,
        event: &E,
    ) {
        self.publish_to(turn, audience, trace, None, event, event);
    }

    /// Publishes one event that says more to one connection, the owner of what it is about, than to others.
    pub(crate) fn publish_to<E: Event>(
        &mut self,
        turn: &mut Turn<'_>,
        audience: Audience<'_>,
        trace: &Trace,
        own: Option<ConnectionKey>,
        to_own: &E,
        to_others: &E,
    ) {
        let receivers = self.receivers(E::TOPIC, audience);
        if receivers.is_empty() {
            return;
        }
        let id = EventId::new(bits(&mut *self.entropy));
        let envelope = Envelope {
            id: &id,
            source: SOURCE,
            time_ms: wall_ms(turn.at),
            // An event that belongs to no story begins its own.
            correlation_id: trace.correlation.as_deref().or(Some(id.as_str())),
            causation_id: trace.causation.as_deref(),
            trace_id: trace.trace.as_deref(),
        };
        // By (own or not, dialect).
        let mut encoded: [Option<Bytes>; 4] = [const { None }; 4];
        for (connection, dialect) in receivers {
            let is_own = own == Some(connection);
            let place = usize::from(is_own) * 2 + usize::from(dialect == Dialect::Int64);
            let frame = encoded[place]
                .get_or_insert_with(|| {
                    let mut buf = BytesMut::new();
                    let event = if is_own { to_own } else { to_others };
                    if let Err(error) = put_bus(&mut buf, dialect, E::TOPIC, event, &envelope) {
                        tracing::error!(component = "controlplane", topic = E::TOPIC, %error, "an event was not sent");
                    }
                    buf.freeze()
                })
                .clone();
            if !frame.is_empty() {
                turn.out.push(Command::Reply { connection, frame });
            }
        }
    }

    /// Ends a subscription to events.
    pub(crate) fn end_topic(&mut self, serial: u64) {
        let Some(topic) = self.state.topics.remove(&serial) else { return };
        self.state.subscriptions.remove(topic.id.as_str());
        if let Some(peer) = self.state.connections.get_mut(topic.connection) {
            peer.topics.remove(&serial);
        }
    }

    /// One entry per matching subscription, in the order they were made.
    fn receivers(&self, topic: &str, audience: Audience<'_>) -> Vec<(ConnectionKey, Dialect)> {
        let hears = |peer: &Connection| !peer.closing && audience.includes(&peer.principal);
        self.state
            .topics
            .values()
            .filter(|subscription| subscription.pattern.matches(topic))
            .filter_map(|subscription| self.state.connections.get(subscription.connection))
            .filter(|peer| hears(peer))
            .map(|peer| (peer.key, peer.dialect))
            .collect()
    }
}
