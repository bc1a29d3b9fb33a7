//! A kept event as somebody hears it: in its dialect, with or without what v1 had no words for.
//!
//! One function for the live bus, for what a subscription missed, and for pages of a replay: so an event reads the same
//! however it comes.

use crate::events::record::Record;
use bytes::BytesMut;
use kairo_wire::codec::CodecError;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::codec::raw::RawRef;
use kairo_wire::envelope::{Envelope, Extras, put_bus, put_envelope};
use kairo_wire::id::EventText;

/// How an event is written for one receiver.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    /// How integers are written.
    pub dialect: Dialect,
    /// With what v1 had no words for.
    pub envelope: bool,
    /// It comes from the log, not from the moment it happened.
    pub replayed: bool,
    /// The subscription it is delivered for.
    pub subscription: Option<&'a str>,
    /// How often it has been delivered to a durable consumer, this time included.
    pub delivery: Option<u32>,
}

/// Appends an EVENT frame. `payload` stands in for the record's data if the receiver is told more than others.
pub fn put_frame(
    buf: &mut BytesMut,
    record: &Record<'_>,
    payload: Option<RawRef<'_>>,
    form: &Form<'_>,
) -> Result<(), CodecError> {
    let id = EventText::of(record.id);
    put_bus(buf, form.dialect, &envelope(record, payload, &id), extras(record, form).as_ref())
}

/// Appends the event as a value.
pub fn put_value(buf: &mut BytesMut, record: &Record<'_>, form: &Form<'_>) {
    let id = EventText::of(record.id);
    put_envelope(buf, form.dialect, &envelope(record, None, &id), extras(record, form).as_ref());
}

fn envelope<'a>(record: &'a Record<'_>, payload: Option<RawRef<'a>>, id: &'a EventText) -> Envelope<'a> {
    Envelope {
        topic: &record.topic,
        payload: payload.unwrap_or(record.data),
        id: id.as_str(),
        source: &record.source,
        time_ms: record.time_ms,
        correlation_id: record.correlation.as_deref(),
        causation_id: record.causation.as_deref(),
        trace_id: record.trace.as_deref(),
    }
}

fn extras<'a>(record: &'a Record<'_>, form: &Form<'a>) -> Option<Extras<'a>> {
    form.envelope.then(|| Extras {
        // 0 is no place: the log did not take it.
        seq: Some(record.seq).filter(|seq| *seq > 0),
        principal: &record.principal,
        intent_id: record.intent.as_deref(),
        span_id: record.span.as_deref(),
        idempotency_key: record.key.as_deref(),
        tool_call_id: record.tool_call.as_deref(),
        answers: record.answers.as_deref(),
        error: record.error,
        replayed: form.replayed,
        subscription_id: form.subscription,
        delivery: form.delivery,
    })
}
