//! EVENT frames, written and read.
//!
//! Three shapes share the frame type. *Notices* and *records* are `{topic, data}`; *bus events* are `{topic, payload,
//! correlationId, causationId, traceId, source, time, id}`, and with the feature `envelope` what v1 had no words for follows:
//! `seq`, `principal`, `intentId`, `spanId`, `idempotencyKey`, `toolCallId`, `answers`,
//! `error`, `replayed`, `subscriptionId`, `delivery`. Invariant: the
//! order of the eight is v1's, and a client that negotiated nothing gets nothing else.

use crate::codec::CodecError;
use crate::codec::decode::Fields;
use crate::codec::encode::{self, Dialect, key};
use crate::codec::raw::{ABSENT, RawRef};
use crate::codec::time::{iso, iso_digits};
use crate::codec::transcode::put_raw;
use crate::event::Event;
use crate::frame::{self, Kind};
use bytes::BytesMut;
use std::borrow::Cow;

/// A bus event that is to be sent.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// Its name.
    pub topic: &'a str,
    /// What it says, exact; it is written in the receiver's dialect.
    pub payload: RawRef<'a>,
    /// Its own name.
    pub id: &'a str,
    /// Who published it.
    pub source: &'a str,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Ties together what has one cause.
    pub correlation_id: Option<&'a str>,
    /// The event that caused this one.
    pub causation_id: Option<&'a str>,
    /// Of a distributed trace.
    pub trace_id: Option<&'a str>,
}

/// What v1 had no words for.
#[derive(Clone, Debug, Default)]
pub struct Extras<'a> {
    /// Its place in the log; none if the log didn't take it.
    pub seq: Option<u64>,
    /// For whom it was published.
    pub principal: &'a str,
    /// The intent it belongs to.
    pub intent_id: Option<&'a str>,
    /// W3C span.
    pub span_id: Option<&'a str>,
    /// The key under which it was published once.
    pub idempotency_key: Option<&'a str>,
    /// The tool call it is about.
    pub tool_call_id: Option<&'a str>,
    /// The request it answers.
    pub answers: Option<&'a str>,
    /// What went wrong, if it answers that.
    pub error: Option<RawRef<'a>>,
    /// It comes from the log, not from the moment it happened.
    pub replayed: bool,
    /// The subscription it is delivered for.
    pub subscription_id: Option<&'a str>,
    /// How often it has been delivered to a durable consumer, this time included.
    pub delivery: Option<u32>,
}

/// Appends an EVENT frame `{topic, data}`.
pub fn put_notice<E: Event>(buf: &mut BytesMut, dialect: Dialect, data: &E) -> Result<(), CodecError> {
    framed(buf, |buf| {
        encode::put_map16(buf, 2);
        encode::put_str(buf, "topic");
        encode::put_str(buf, E::TOPIC);
        encode::put_str(buf, "data");
        encode::to_buf(buf, dialect, data)
    })
}

/// Appends an EVENT frame of the bus.
pub fn put_bus(
    buf: &mut BytesMut,
    dialect: Dialect,
    envelope: &Envelope<'_>,
    extras: Option<&Extras<'_>>,
) -> Result<(), CodecError> {
    framed(buf, |buf| {
        put_envelope(buf, dialect, envelope, extras);
        Ok(())
    })
}

/// Appends a bus event as a value: what a frame carries, and what a replay lists.
pub fn put_envelope(
    buf: &mut BytesMut,
    dialect: Dialect,
    envelope: &Envelope<'_>,
    extras: Option<&Extras<'_>>,
) {
    encode::put_map16(buf, 8 + extras.map_or(0, Extras::count));
    buf.extend_from_slice(key!("topic"));
    encode::put_str(buf, envelope.topic);
    buf.extend_from_slice(key!("payload"));
    put_raw(buf, dialect, envelope.payload);
    let texts = [
        (key!("correlationId"), envelope.correlation_id),
        (key!("causationId"), envelope.causation_id),
        (key!("traceId"), envelope.trace_id),
        (key!("source"), Some(envelope.source)),
    ];
    for (key, text) in texts {
        buf.extend_from_slice(key);
        match text {
            Some(text) => encode::put_str(buf, text),
            None => buf.extend_from_slice(ABSENT),
        }
    }
    buf.extend_from_slice(key!("time"));
    let (year, digits) = iso_digits(envelope.time_ms as i64);
    if (0..=9_999).contains(&year) {
        buf.extend_from_slice(&[0xa0 | digits.len() as u8]);
        buf.extend_from_slice(&digits);
    } else {
        encode::put_str(buf, &iso(envelope.time_ms as i64));
    }
    buf.extend_from_slice(key!("id"));
    encode::put_str(buf, envelope.id);
    if let Some(extras) = extras {
        extras.put(buf, dialect);
    }
}

impl Extras<'_> {
    fn texts(&self) -> [(&'static [u8], Option<&str>); 7] {
        [
            (key!("principal"), Some(self.principal)),
            (key!("intentId"), self.intent_id),
            (key!("spanId"), self.span_id),
            (key!("idempotencyKey"), self.idempotency_key),
            (key!("toolCallId"), self.tool_call_id),
            (key!("answers"), self.answers),
            (key!("subscriptionId"), self.subscription_id),
        ]
    }

    fn count(&self) -> u16 {
        let texts = self.texts().iter().filter(|(_, text)| text.is_some()).count();
        texts as u16
            + u16::from(self.seq.is_some())
            + u16::from(self.replayed)
            + u16::from(self.error.is_some())
            + u16::from(self.delivery.is_some())
    }

    fn put(&self, buf: &mut BytesMut, dialect: Dialect) {
        if let Some(seq) = self.seq {
            buf.extend_from_slice(key!("seq"));
            encode::put_uint(buf, dialect, seq);
        }
        for (key, text) in self.texts() {
            if let Some(text) = text {
                buf.extend_from_slice(key);
                encode::put_str(buf, text);
            }
        }
        if let Some(error) = self.error {
            buf.extend_from_slice(key!("error"));
            put_raw(buf, dialect, error);
        }
        if self.replayed {
            buf.extend_from_slice(key!("replayed"));
            buf.extend_from_slice(&[0xc3]);
        }
        if let Some(delivery) = self.delivery {
            buf.extend_from_slice(key!("delivery"));
            encode::put_uint(buf, dialect, delivery.into());
        }
    }
}

fn framed(
    buf: &mut BytesMut,
    body: impl FnOnce(&mut BytesMut) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let at = frame::begin(Kind::EVENT, buf);
    match body(buf) {
        Ok(()) => {
            frame::finish(buf, at);
            Ok(())
        }
        Err(error) => {
            buf.truncate(at);
            Err(error)
        }
    }
}

/// An EVENT payload, as its receiver reads it: either `data` or `payload` is there.
#[derive(Clone, Debug, Default)]
pub struct EventFrame<'a> {
    /// Its name.
    pub topic: Cow<'a, str>,
    /// Of a notice or record.
    pub data: Option<RawRef<'a>>,
    /// Of a bus event.
    pub payload: Option<RawRef<'a>>,
    /// Of a bus event.
    pub correlation_id: Option<Cow<'a, str>>,
    /// Of a bus event.
    pub causation_id: Option<Cow<'a, str>>,
    /// Of a bus event.
    pub trace_id: Option<Cow<'a, str>>,
    /// Of a bus event.
    pub source: Option<Cow<'a, str>>,
    /// Of a bus event, ISO 8601.
    pub time: Option<Cow<'a, str>>,
    /// Of a bus event.
    pub id: Option<Cow<'a, str>>,
    /// With the feature `envelope`, as everything below.
    pub seq: Option<u64>,
    /// For whom it was published.
    pub principal: Option<Cow<'a, str>>,
    /// The intent it belongs to.
    pub intent_id: Option<Cow<'a, str>>,
    /// W3C span.
    pub span_id: Option<Cow<'a, str>>,
    /// The key under which it was published once.
    pub idempotency_key: Option<Cow<'a, str>>,
    /// The tool call it is about.
    pub tool_call_id: Option<Cow<'a, str>>,
    /// The request it answers.
    pub answers: Option<Cow<'a, str>>,
    /// What went wrong, if it answers that.
    pub error: Option<RawRef<'a>>,
    /// It comes from the log.
    pub replayed: bool,
    /// The subscription it is delivered for.
    pub subscription_id: Option<Cow<'a, str>>,
    /// How often it has been delivered to a durable consumer, this time included.
    pub delivery: Option<u32>,
}

impl<'a> EventFrame<'a> {
    /// Reads a payload; that it is one value is found out on the way.
    pub fn parse(payload: &'a [u8]) -> Result<EventFrame<'a>, CodecError> {
        let mut fields = Fields::new(payload);
        let frame = EventFrame::read(&mut fields)?;
        fields.end()?;
        Ok(frame)
    }

    /// Reads the value that is next. By hand, because a page of the past has a thousand of them.
    pub fn read(fields: &mut Fields<'a>) -> Result<EventFrame<'a>, CodecError> {
        let mut frame = EventFrame::default();
        let mut is_named = false;
        for _ in 0..fields.map()? {
            let Some(key) = fields.key()? else { continue };
            let within = |error: CodecError| error.within(&String::from_utf8_lossy(key));
            is_named |= key == b"topic";
            frame.field(key, fields).map_err(within)?;
        }
        if is_named { Ok(frame) } else { Err(serde::de::Error::missing_field("topic")) }
    }

    #[inline]
    fn field(&mut self, key: &[u8], fields: &mut Fields<'a>) -> Result<(), CodecError> {
        let text = match key {
            b"topic" => {
                self.topic = fields.text()?;
                return Ok(());
            }
            b"correlationId" => &mut self.correlation_id,
            b"causationId" => &mut self.causation_id,
            b"traceId" => &mut self.trace_id,
            b"source" => &mut self.source,
            b"time" => &mut self.time,
            b"id" => &mut self.id,
            b"principal" => &mut self.principal,
            b"intentId" => &mut self.intent_id,
            b"spanId" => &mut self.span_id,
            b"idempotencyKey" => &mut self.idempotency_key,
            b"toolCallId" => &mut self.tool_call_id,
            b"answers" => &mut self.answers,
            b"subscriptionId" => &mut self.subscription_id,
            _ => return self.other(key, fields),
        };
        *text = Some(fields.text()?);
        Ok(())
    }

    /// What is no text.
    fn other(&mut self, key: &[u8], fields: &mut Fields<'a>) -> Result<(), CodecError> {
        match key {
            b"data" => self.data = Some(fields.value()?),
            b"payload" => self.payload = Some(fields.value()?),
            b"error" => self.error = Some(fields.value()?),
            b"seq" => self.seq = Some(fields.read()?),
            b"delivery" => self.delivery = Some(fields.read()?),
            b"replayed" => self.replayed = fields.read()?,
            _ => fields.skip(1)?,
        }
        Ok(())
    }

    /// What it says, wherever it is.
    pub fn body(&self) -> Option<RawRef<'a>> {
        self.data.or(self.payload)
    }
}
