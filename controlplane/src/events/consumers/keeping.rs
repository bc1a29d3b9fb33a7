//! What is written down of a consumer: what it is, once, and where it stands, whenever that changes.
//!
//! Invariant: from what is written a later kernel delivers whatever is not settled, with the counts that were written.

use super::{Consumer, Counts, Delivery};
use crate::auth::principal::Creator;
use crate::calls::Turn;
use crate::events::journal::{Awaiting, kept};
use crate::kernel::Kernel;
use bytes::Bytes;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::error::WireError;
use kairo_wire::event::DeadReason;
use kairo_wire::id::TopicPattern;
use kairo_wire::methods::consumer::Settings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What names of the descriptions begin with.
pub const CONFIG_PREFIX: &[u8] = b"consumer/";
/// What names of the positions begin with.
pub const STATE_PREFIX: &[u8] = b"consumed/";

/// The name of a value about a consumer: the user, four bytes, and its name.
pub(super) fn key_of(prefix: &[u8], uid: u32, name: &str) -> Bytes {
    Bytes::from([prefix, &uid.to_be_bytes(), name.as_bytes()].concat())
}

/// What a consumer is.
#[derive(Serialize, Deserialize)]
struct Description {
    name: Arc<str>,
    uid: u32,
    session: Option<Arc<str>>,
    skill: Option<Arc<str>>,
    topic: TopicPattern,
    settings: Settings,
}

/// Where it stands: everything below `next` that is not pending is settled.
#[derive(Serialize, Deserialize)]
struct Standing {
    next: u64,
    from_ms: u64,
    counts: (u64, u64, u64),
    pending: Vec<(u64, u32)>,
}

impl Consumer {
    fn describe(&self) -> Option<Bytes> {
        let Creator { uid, session, name } = self.creator.clone();
        let description = Description {
            name: Arc::clone(&self.name),
            uid,
            session,
            skill: name,
            topic: self.topic.clone(),
            settings: self.settings.clone(),
        };
        kept(&description)
    }

    fn stand(&self, told: u64) -> Option<Bytes> {
        let Counts { acked, redelivered, dead } = self.counts;
        let standing = Standing {
            next: self.undelivered_from(told),
            from_ms: self.from_ms,
            counts: (acked, redelivered, dead),
            pending: self.pending.iter().map(|(seq, delivery)| (*seq, delivery.count)).collect(),
        };
        kept(&standing)
    }

    fn recalled(description: Description, standing: Standing) -> Consumer {
        let Description { name, uid, session, skill, topic, settings } = description;
        let creator = Creator { uid, session, name: skill };
        let mut consumer = Consumer::new(name, creator, topic, settings, standing.next);
        consumer.from_ms = standing.from_ms;
        let (acked, redelivered, dead) = standing.counts;
        consumer.counts = Counts { acked, redelivered, dead };
        for (seq, count) in standing.pending {
            let delivery = Delivery { count, held: None, until_ns: None, reason: DeadReason::Gone };
            consumer.list(seq, delivery);
        }
        consumer
    }
}

impl Kernel {
    /// Writes a new consumer down.
    pub(crate) fn describe_consumer(&mut self, serial: u64) {
        let Some(consumer) = self.state.consumers.all.get(&serial) else { return };
        let key = key_of(CONFIG_PREFIX, consumer.creator.uid, &consumer.name);
        self.journal.value(key, consumer.describe());
        self.note_consumer(serial);
    }

    /// Writes down where a consumer stands, unless that is on its way already: then it is written again afterwards.
    pub(crate) fn save_consumer(&mut self, serial: u64) {
        let broken = self.journal.broken.is_some();
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return };
        if broken || !consumer.dirty || consumer.saving.is_some() {
            return;
        }
        consumer.dirty = false;
        consumer.saving = Some(std::mem::take(&mut consumer.waiting));
        self.note_consumer(serial);
        self.journal.when_written(Awaiting::Consumer(serial));
    }

    /// Writes down where a consumer stands, in the batch of what is told in this turn: a killed kernel has told that and noted
    /// it, or neither. Whoever waits for the place to be kept goes on waiting.
    pub(super) fn note_consumer(&mut self, serial: u64) {
        let Some(consumer) = self.state.consumers.all.get(&serial) else { return };
        let key = key_of(STATE_PREFIX, consumer.creator.uid, &consumer.name);
        let standing = consumer.stand(self.journal.told_seq);
        self.journal.value(key, standing);
    }

    /// Where a consumer stands is in the log, or will never be.
    pub(crate) fn consumer_saved(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        outcome: Result<(), WireError>,
    ) {
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return };
        let mut done = consumer.saving.take().unwrap_or_default();
        if outcome.is_err() {
            done.append(&mut consumer.waiting);
        }
        for (call, result) in done {
            match &outcome {
                Ok(()) => self.resolve(turn, call, &result),
                Err(error) => self.reject(turn, call, error),
            }
        }
        self.save_consumer(serial);
    }

    /// The consumers former kernels had. For the start, when all else has been taken over.
    pub fn recall_consumers(
        &mut self,
        descriptions: impl IntoIterator<Item = (Bytes, Bytes)>,
        standings: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) {
        let standings: BTreeMap<Bytes, Bytes> = standings.into_iter().collect();
        for (_, value) in descriptions {
            let recalled = from_slice::<Description>(&value).ok().and_then(|description| {
                let standing = standings.get(&key_of(STATE_PREFIX, description.uid, &description.name))?;
                Some(Consumer::recalled(description, from_slice(standing).ok()?))
            });
            let Some(consumer) = recalled else {
                tracing::warn!(component = "controlplane", "a durable consumer can't be read");
                continue;
            };
            let serial = self.state.next_serial();
            self.state.consumers.insert(serial, consumer);
        }
    }
}
