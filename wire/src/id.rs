//! Names on the wire: processes, subscriptions, events, sessions.
//!
//! A process id is whatever a client chose, text or integer, and goes back as it came; two ids with the same text
//! form collide ([`ProcessId::key`]). Every other id is ours and is made from random bits the caller brings,
//! because this crate has no source of randomness. Ids never contain the text `data`: v1 clients find the data of
//! a chunk by looking for that word.

use crate::limits::PROCESS_ID_BYTES_MAX;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A process, as its client named it. `77` and `"77"` are different values with the same [key](ProcessId::key).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProcessId {
    /// Not empty, at most [`PROCESS_ID_BYTES_MAX`] bytes, without NUL.
    Text(Arc<str>),
    /// Not 0, which v1 takes for a missing id.
    Integer(i64),
}

impl ProcessId {
    /// What two ids must not share: the text form.
    pub fn key(&self) -> Cow<'_, str> {
        match self {
            ProcessId::Text(text) => Cow::Borrowed(text),
            ProcessId::Integer(number) => Cow::Owned(number.to_string()),
        }
    }

    /// Checks a text; the error says what is wrong with it.
    pub fn from_text(text: &str) -> Result<ProcessId, &'static str> {
        if text.is_empty() {
            return Err("a process id is not empty");
        }
        if text.len() > PROCESS_ID_BYTES_MAX {
            return Err("a process id has at most 255 bytes");
        }
        if text.contains('\0') {
            return Err("a process id has no NUL");
        }
        Ok(ProcessId::Text(text.into()))
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessId::Text(text) => f.write_str(text),
            ProcessId::Integer(number) => number.fmt(f),
        }
    }
}

impl Serialize for ProcessId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ProcessId::Text(text) => serializer.serialize_str(text),
            ProcessId::Integer(number) => serializer.serialize_i64(*number),
        }
    }
}

impl<'de> Deserialize<'de> for ProcessId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ProcessIdVisitor)
    }
}

struct ProcessIdVisitor;

impl Visitor<'_> for ProcessIdVisitor {
    type Value = ProcessId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a process id (text or integer)")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ProcessId, E> {
        ProcessId::from_text(text).map_err(|wrong| E::invalid_value(Unexpected::Str(text), &wrong))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<ProcessId, E> {
        if number == 0 {
            return Err(E::invalid_value(Unexpected::Signed(0), &self));
        }
        Ok(ProcessId::Integer(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<ProcessId, E> {
        match i64::try_from(number) {
            Ok(number) => self.visit_i64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<ProcessId, E> {
        // Integers past 2^53 are not exact in a float, so two different ids could meet.
        if number.fract() == 0.0 && number.abs() < crate::limits::EXACT_INTEGER_END as f64 {
            return self.visit_i64(number as i64);
        }
        Err(E::invalid_value(Unexpected::Float(number), &self))
    }
}

impl JsonSchema for ProcessId {
    fn schema_name() -> Cow<'static, str> {
        "ProcessId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A process, as its client named it; echoed as it came.",
            "oneOf": [
                { "type": "string", "minLength": 1, "maxLength": PROCESS_ID_BYTES_MAX },
                { "type": "integer", "not": { "const": 0 } },
            ],
        })
    }
}

/// A subscription: `stream_` or `topic_` and 32 random hex digits. Can't be guessed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(Arc<str>);

impl SubscriptionId {
    /// One for a process's streams.
    pub fn stream(random: u128) -> SubscriptionId {
        SubscriptionId(format!("stream_{random:032x}").into())
    }

    /// One for a topic.
    pub fn topic(random: u128) -> SubscriptionId {
        SubscriptionId(format!("topic_{random:032x}").into())
    }

    /// The text on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// Any text a peer may have sent as one.
    pub fn from_text(text: &str) -> SubscriptionId {
        SubscriptionId(text.into())
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for SubscriptionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// An event: a version 4 UUID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Arc<str>);

impl EventId {
    /// One made of random bits; six of them are overwritten by the UUID's version and variant.
    pub fn new(random: u128) -> EventId {
        EventId::from_bytes(
            ((random & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62)).to_be_bytes(),
        )
    }

    /// One that was made before.
    pub fn from_bytes(bytes: [u8; 16]) -> EventId {
        EventId(EventText::of(bytes).as_str().into())
    }

    /// One whose text was told.
    pub fn from_text(text: &str) -> EventId {
        EventId(text.into())
    }

    /// The text on the wire, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// Its 16 bytes; none if it is no UUID.
    pub fn to_bytes(&self) -> Option<[u8; 16]> {
        let (mut number, mut digits) = (0_u128, 0);
        for byte in self.0.bytes().filter(|byte| *byte != b'-') {
            number = number << 4 | u128::from(char::from(byte).to_digit(16)?);
            digits += 1;
        }
        (digits == 32).then(|| number.to_be_bytes())
    }

    /// The text on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text of an [`EventId`], for whoever only writes it.
#[derive(Clone, Copy, Debug)]
pub struct EventText([u8; 36]);

impl EventText {
    /// Of these 16 bytes.
    pub fn of(bytes: [u8; 16]) -> EventText {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (place, byte) in bytes.iter().enumerate() {
            at += usize::from(matches!(place, 4 | 6 | 8 | 10));
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 0xf)];
            at += 2;
        }
        EventText(text)
    }

    /// As it is on the wire.
    pub fn as_str(&self) -> &str {
        // Hexadecimal digits are text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// One life of a process id, from spawn to end: 16 random hex digits. A child finds it in `KAIRO_SESSION`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// One made of random bits.
    pub fn new(random: u64) -> SessionId {
        SessionId(format!("{random:016x}").into())
    }

    /// One that was made before.
    pub fn from_text(text: &str) -> SessionId {
        SessionId(text.into())
    }

    /// The text in `KAIRO_SESSION`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A pattern of topics, as `subscribe` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPattern(Arc<str>);

impl TopicPattern {
    /// Any text but the empty one.
    pub fn from_text(text: &str) -> Option<TopicPattern> {
        (!text.is_empty()).then(|| TopicPattern(text.into()))
    }

    /// The text on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text newtypes: an empty text is what v1 takes for a missing one, so it is refused.
macro_rules! text_id {
    ($name:ident, $what:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor($what)).map($name)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": 1, "description": $what })
            }
        }
    };
}

text_id!(SubscriptionId, "a subscription id");
text_id!(EventId, "an event id");
text_id!(SessionId, "a session id");
text_id!(TopicPattern, "a topic pattern");

struct TextVisitor(&'static str);

impl Visitor<'_> for TextVisitor {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Arc<str>, E> {
        if text.is_empty() {
            return Err(E::invalid_value(Unexpected::Str(text), &self));
        }
        Ok(text.into())
    }
}
