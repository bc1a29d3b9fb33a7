//! What becomes of a delivery: it is done, it is to come again, or it is put aside.

use super::Delivery;
use crate::calls::Turn;
use crate::clock::after_ms;
use crate::events::bus::Fresh;
use crate::events::record::{Audience, Record};
use crate::kernel::Kernel;
use crate::state::Trace;
use bytes::Bytes;
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{DeadReason, Event, KernelDeadLetter};
use kairo_wire::id::EventId;
use kairo_wire::methods::consumer::{AckMode, AckResult};

impl Kernel {
    /// Events of a consumer are done. Says how many.
    pub(crate) fn settle_events(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        seq: u64,
        mode: AckMode,
    ) -> Result<AckResult, WireError> {
        self.check_delivered(serial, seq)?;
        let told = self.journal.told_seq;
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return Err(gone()) };
        let first = match mode {
            AckMode::Single => seq,
            AckMode::UpTo => 0,
        };
        let done: Vec<u64> = consumer.pending.range(first..=seq).map(|(seq, _)| *seq).collect();
        for seq in &done {
            consumer.unlist(*seq);
        }
        let events = done.len() as u64;
        consumer.counts.acked += events;
        consumer.dirty |= events > 0;
        let result = AckResult { ok: events > 0, events, position: consumer.position(told) };
        self.feed(turn, serial);
        Ok(result)
    }

    /// An event is to be delivered again.
    pub(crate) fn refuse_event(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        seq: u64,
        delay_ms: Option<u64>,
    ) -> Result<AckResult, WireError> {
        self.check_delivered(serial, seq)?;
        let held = self.state.consumers.all.get(&serial).and_then(|consumer| consumer.pending.get(&seq));
        let ok = held.is_some_and(|delivery| delivery.held.is_some());
        if ok {
            self.deliver_again(turn, serial, seq, delay_ms, DeadReason::Nak);
            self.feed(turn, serial);
        }
        let told = self.journal.told_seq;
        let position = self.state.consumers.all.get(&serial).map_or(0, |consumer| consumer.position(told));
        Ok(AckResult { ok, events: ok.into(), position })
    }

    /// A place that has not been delivered can't be spoken of.
    fn check_delivered(&self, serial: u64, seq: u64) -> Result<(), WireError> {
        let told = self.journal.told_seq;
        let Some(consumer) = self.state.consumers.all.get(&serial) else { return Err(gone()) };
        if consumer.pending.contains_key(&seq) || seq < consumer.undelivered_from(told) {
            return Ok(());
        }
        let message = format!("seq: {seq} has not been delivered to consumer {:?}", &*consumer.name);
        Err(WireError::new(Code::Conflict, message).with("field", "seq"))
    }

    /// A delivery came to nothing: the event waits for the next one, or to be put aside.
    pub(crate) fn deliver_again(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        seq: u64,
        delay_ms: Option<u64>,
        reason: DeadReason,
    ) {
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return };
        let Some(Delivery { count, .. }) = consumer.unlist(seq) else { return };
        let backoff = &consumer.settings.backoff_ms;
        let nth = (count.saturating_sub(1) as usize).min(backoff.len().saturating_sub(1));
        let wait_ms = match count >= consumer.settings.max_deliver {
            true => 0,
            false => delay_ms.or_else(|| backoff.get(nth).copied()).unwrap_or(0),
        };
        let until_ns = (wait_ms > 0).then(|| after_ms(turn.at, wait_ms));
        consumer.list(seq, Delivery { count, held: None, until_ns, reason });
        consumer.dirty = true;
        self.watch_consumer(turn, serial);
    }

    /// Something of a consumer was to happen by now.
    pub(crate) fn consumer_rang(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return };
        consumer.timer = None;
        while let Some(consumer) = self.state.consumers.all.get_mut(&serial) {
            let due = consumer.times.first().copied().filter(|(at_ns, _)| *at_ns <= turn.at.monotonic_ns);
            let Some((_, seq)) = due else { break };
            let Some(delivery) = consumer.pending.get(&seq).copied() else { break };
            if delivery.held.is_some() {
                self.deliver_again(turn, serial, seq, None, DeadReason::Timeout);
            } else if let Some(delivery) = consumer.unlist(seq) {
                consumer.list(seq, Delivery { until_ns: None, ..delivery });
            }
        }
        self.watch_consumer(turn, serial);
        self.save_consumer(serial);
        self.feed(turn, serial);
    }

    /// An event was delivered as often as it may be: it is out of the way, and that is told.
    pub(super) fn put_aside(&mut self, turn: &mut Turn<'_>, serial: u64, seq: u64, record: &Bytes) {
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return };
        let Some(delivery) = consumer.unlist(seq) else { return };
        consumer.counts.dead += 1;
        consumer.dirty = true;
        let (creator, also) = (consumer.creator.clone(), consumer.settings.dead_letter_topic.clone());
        let name = consumer.name.to_string();
        let Ok(record) = Record::parse(seq, record) else { return };
        // Of letters that are about letters there would be no end.
        if record.topic == KernelDeadLetter::TOPIC || also.as_deref() == Some(&*record.topic) {
            return;
        }
        let event = KernelDeadLetter {
            consumer: name,
            seq,
            topic: record.topic.clone().into_owned(),
            deliveries: delivery.count,
            reason: delivery.reason,
        };
        let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
        let trace = Trace {
            correlation: owned(&record.correlation),
            causation: Some(EventId::from_bytes(record.id).as_str().to_owned()),
            intent: owned(&record.intent),
            trace: owned(&record.trace),
            ..Trace::default()
        };
        let audience = Audience::Of(creator);
        self.note_consumer(serial);
        self.publish(turn, audience.clone(), &trace, &event);
        if let Some((topic, data)) = also.zip(Raw::of(&event).ok()) {
            let id = self.name_event();
            let data = data.as_ref();
            let (topic, source, trace) = (topic.into(), "kernel", &trace);
            let fresh = Fresh { id, topic, source, audience, trace, key: None, data, answer: None };
            self.admit(turn, &fresh, None);
        }
    }
}

fn gone() -> WireError {
    WireError::new(Code::NotFound, "the consumer is gone")
}
