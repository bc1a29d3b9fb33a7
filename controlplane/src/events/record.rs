//! An event as the log keeps it, and as everything that folds the log reads it.
//!
//! One MessagePack array, fields in the order of [`Record`]; the sequence number is the key it is stored under and not
//! repeated. A later version appends fields and keeps the old ones where they are. Invariant: `data` is one valid
//! MessagePack value, kept exactly as it came: 64-bit numbers and binary are not touched.

use crate::auth::principal::Creator;
use bytes::{Bytes, BytesMut};
use kairo_wire::codec::CodecError;
use kairo_wire::codec::decode::Fields;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::codec::raw::RawRef;
use serde::ser::SerializeTupleStruct;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::sync::Arc;

/// Who may hear of an event; the same question is asked of the live bus and of a replay years later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Hearers", into = "Hearers")]
pub enum Audience {
    /// Everybody with any rights.
    All,
    /// Whoever may touch what this creator started.
    Of(Creator),
    /// The owner, and this user with everything that runs as it.
    User(u32),
    /// The owner, and this user itself.
    Administration(u32),
}

/// An event, borrowed from its stored form.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<'a> {
    /// Its place in the one order of all events, from 1.
    pub seq: u64,
    /// A version 4 UUID, its 16 bytes.
    pub id: [u8; 16],
    /// Milliseconds since 1970, by the clock of the moment: it may go back, `seq` never does.
    pub time_ms: u64,
    /// Its type.
    pub topic: Cow<'a, str>,
    /// What published it, as the kernel says.
    pub source: Cow<'a, str>,
    /// For whom, as the kernel says.
    pub principal: Cow<'a, str>,
    /// Who may hear of it.
    pub audience: Audience,
    /// The story it belongs to.
    pub correlation: Option<Cow<'a, str>>,
    /// The event it follows from.
    pub causation: Option<Cow<'a, str>>,
    /// The intent it belongs to.
    pub intent: Option<Cow<'a, str>>,
    /// W3C trace id, 32 hexadecimal digits.
    pub trace: Option<Cow<'a, str>>,
    /// W3C span id, 16 hexadecimal digits.
    pub span: Option<Cow<'a, str>>,
    /// The key under which it is published once.
    pub key: Option<Cow<'a, str>>,
    /// The tool call it is about.
    pub tool_call: Option<Cow<'a, str>>,
    /// What it says: one MessagePack value.
    pub data: RawRef<'a>,
    /// The request it answers.
    pub answers: Option<Cow<'a, str>>,
    /// What went wrong, if it answers that.
    pub error: Option<RawRef<'a>>,
}

/// An [`Audience`] as it is stored: its kind, and of whom.
#[derive(Serialize, Deserialize)]
struct Hearers(u8, u32, Option<Arc<str>>, Option<Arc<str>>);

impl From<&Audience> for Hearers {
    fn from(audience: &Audience) -> Hearers {
        match audience {
            Audience::All => Hearers(0, 0, None, None),
            Audience::Of(Creator { uid, session, name }) => Hearers(1, *uid, session.clone(), name.clone()),
            Audience::User(uid) => Hearers(2, *uid, None, None),
            Audience::Administration(uid) => Hearers(3, *uid, None, None),
        }
    }
}

impl From<Audience> for Hearers {
    fn from(audience: Audience) -> Hearers {
        Hearers::from(&audience)
    }
}

impl From<Hearers> for Audience {
    fn from(Hearers(kind, uid, session, name): Hearers) -> Audience {
        match kind {
            0 => Audience::All,
            1 => Audience::Of(Creator { uid, session, name }),
            2 => Audience::User(uid),
            // What a later version means is told to the fewest.
            _ => Audience::Administration(uid),
        }
    }
}

/// So many fields has an event that answers nothing; an answer has two more.
const PLAIN_FIELDS: usize = 14;

/// All of it but the sequence number, as it is stored: a row without names.
struct Stored<'r, 'a>(&'r Record<'a>);

impl Serialize for Stored<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Stored(record) = self;
        let bits = u128::from_be_bytes(record.id);
        let fields = PLAIN_FIELDS + if record.answers.is_some() { 2 } else { 0 };
        let mut row = serializer.serialize_tuple_struct("Stored", fields)?;
        row.serialize_field(&Id((bits >> 64) as u64, bits as u64))?;
        row.serialize_field(&record.time_ms)?;
        for text in [&record.topic, &record.source, &record.principal] {
            row.serialize_field(text)?;
        }
        row.serialize_field(&Hearers::from(&record.audience))?;
        let Record { correlation, causation, intent, trace, span, key, tool_call, .. } = record;
        for text in [correlation, causation, intent, trace, span, key, tool_call] {
            row.serialize_field(text)?;
        }
        row.serialize_field(&record.data)?;
        if record.answers.is_some() {
            row.serialize_field(&record.answers)?;
            row.serialize_field(&record.error)?;
        }
        row.end()
    }
}

/// An id as two numbers, which the codec has words for.
#[derive(Serialize)]
struct Id(u64, u64);

impl<'a> Record<'a> {
    /// As it is stored.
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        let mut buf = BytesMut::with_capacity(128 + self.data.bytes().len());
        to_buf(&mut buf, Dialect::Int64, &Stored(self))?;
        Ok(buf.freeze())
    }

    /// Reads what is stored under `seq`. Bytes that are no record are an error, whatever they are.
    pub fn parse(seq: u64, bytes: &'a [u8]) -> Result<Record<'a>, CodecError> {
        let mut fields = Fields::new(bytes);
        let count = fields.array()?;
        fields.array()?;
        let id = u128::from(fields.number()?) << 64 | u128::from(fields.number()?);
        let mut record = Record {
            seq,
            id: id.to_be_bytes(),
            time_ms: fields.number()?,
            topic: fields.text()?,
            source: fields.text()?,
            principal: fields.text()?,
            audience: hearers(&mut fields)?,
            correlation: fields.maybe_text()?,
            causation: fields.maybe_text()?,
            intent: fields.maybe_text()?,
            trace: fields.maybe_text()?,
            span: fields.maybe_text()?,
            key: fields.maybe_text()?,
            tool_call: fields.maybe_text()?,
            data: fields.value()?,
            answers: None,
            error: None,
        };
        if count > PLAIN_FIELDS {
            record.answers = fields.maybe_text()?;
            record.error = fields.maybe_value()?;
            fields.skip(count.saturating_sub(PLAIN_FIELDS + 2))?;
        }
        fields.end()?;
        Ok(record)
    }

    /// Of what is stored: the time and the type, which are near its beginning.
    pub(crate) fn glance(bytes: &'a [u8]) -> Result<(u64, Cow<'a, str>), CodecError> {
        let mut fields = Fields::new(bytes);
        fields.array()?;
        fields.array()?;
        let _id = (fields.number()?, fields.number()?);
        Ok((fields.number()?, fields.text()?))
    }
}

/// An [`Audience`], read.
fn hearers(fields: &mut Fields<'_>) -> Result<Audience, CodecError> {
    let count = fields.array()?;
    let (kind, uid) = (fields.number()?, fields.number()?);
    let shared = |text: Option<Cow<'_, str>>| text.map(Arc::from);
    let (session, name) = (shared(fields.maybe_text()?), shared(fields.maybe_text()?));
    fields.skip(count.saturating_sub(4))?;
    let uid = u32::try_from(uid).unwrap_or(u32::MAX);
    Ok(Hearers(kind.try_into().unwrap_or(u8::MAX), uid, session, name).into())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use kairo_wire::codec::raw::Raw;

    pub(crate) fn record<'a>(seq: u64, topic: &'a str, data: &'a Raw) -> Record<'a> {
        Record {
            seq,
            id: [7; 16],
            time_ms: 1_700_000_000_000 + seq,
            topic: topic.into(),
            source: "kernel".into(),
            principal: "owner".into(),
            audience: Audience::All,
            correlation: None,
            causation: None,
            intent: None,
            trace: None,
            span: None,
            key: None,
            tool_call: None,
            data: data.as_ref(),
            answers: None,
            error: None,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let data = Raw::of(&serde_json::json!({"a": [1, u64::MAX, -5], "b": "权"})).expect("a value");
        let mut one = record(9, "a.b", &data);
        for audience in [
            Audience::All,
            Audience::User(3),
            Audience::Administration(4),
            Audience::Of(Creator { uid: 1, session: Some("s".into()), name: None }),
        ] {
            one.audience = audience;
            one.correlation = Some("c".into());
            one.tool_call = Some("t".into());
            let bytes = one.encode().expect("it can be written");
            assert_eq!(Record::parse(9, &bytes).expect("and read"), one);
        }
    }

    #[test]
    fn bytes_that_are_no_record_are_an_error() {
        let data = Raw::of("x").expect("a value");
        let bytes = record(1, "a", &data).encode().expect("it can be written");
        for end in 0..bytes.len() {
            assert!(Record::parse(1, &bytes[..end]).is_err(), "{end}");
        }
        assert!(Record::parse(1, b"\xc1").is_err());
    }
}
