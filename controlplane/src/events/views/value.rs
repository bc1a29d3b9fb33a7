//! Fields of an event by their path, and how values compare.
//!
//! Integers are exact over all 64 bits, and compare exactly with floats. Invariant: NaN is no value: a comparison with it
//! holds for nothing, and no row has one.

use crate::events::record::Record;
use crate::events::views::definition::DefinitionError;
use kairo_wire::codec::raw::{Raw, RawRef};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// Longest path, bytes.
const PATH_BYTES_MAX: usize = 256;

/// Where a field is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Type,
    Source,
    Principal,
    Correlation,
    Causation,
    Intent,
    ToolCall,
    Seq,
    TimeMs,
    /// In what the event says, from the outside in.
    Data(Vec<Box<str>>),
}

/// What is there.
pub(super) enum Found<'r> {
    Text(&'r str),
    Number(u64),
    Raw(RawRef<'r>),
}

impl Path {
    /// Reads a path; `field` is where it stands, for the error.
    pub(super) fn new(text: &str, field: impl Fn() -> String) -> Result<Path, DefinitionError> {
        let path = match text {
            "type" => Path::Type,
            "source" => Path::Source,
            "principal" => Path::Principal,
            "correlationId" => Path::Correlation,
            "causationId" => Path::Causation,
            "intentId" => Path::Intent,
            "toolCallId" => Path::ToolCall,
            "seq" => Path::Seq,
            "timeMs" => Path::TimeMs,
            "data" => Path::Data(Vec::new()),
            _ if text.len() > PATH_BYTES_MAX => {
                return Err(DefinitionError::new(
                    field(),
                    format!("a path has at most {PATH_BYTES_MAX} bytes"),
                ));
            }
            _ => match text.strip_prefix("data.") {
                Some(rest) if rest.split('.').all(|name| !name.is_empty()) => {
                    Path::Data(rest.split('.').map(Into::into).collect())
                }
                Some(_) => return Err(DefinitionError::new(field(), "a path has no empty name")),
                None => return Err(DefinitionError::new(field(), "an event has no such field")),
            },
        };
        Ok(path)
    }

    /// What an event has there.
    pub(super) fn find<'r>(&self, record: &'r Record<'_>) -> Option<Found<'r>> {
        match self {
            Path::Type => Some(Found::Text(&record.topic)),
            Path::Source => Some(Found::Text(&record.source)),
            Path::Principal => Some(Found::Text(&record.principal)),
            Path::Correlation => record.correlation.as_deref().map(Found::Text),
            Path::Causation => record.causation.as_deref().map(Found::Text),
            Path::Intent => record.intent.as_deref().map(Found::Text),
            Path::ToolCall => record.tool_call.as_deref().map(Found::Text),
            Path::Seq => Some(Found::Number(record.seq)),
            Path::TimeMs => Some(Found::Number(record.time_ms)),
            Path::Data(names) => {
                let found = names.iter().try_fold(record.data, |value, name| value.get(name))?;
                (!found.is_absent()).then_some(Found::Raw(found))
            }
        }
    }
}

impl<'r> Found<'r> {
    /// It as a scalar; `None` for containers, binary and NaN.
    pub(super) fn scalar(&self) -> Option<Scalar<'r>> {
        match self {
            Found::Text(text) => Some(Scalar::Text(Cow::Borrowed(text))),
            Found::Number(number) => Some(Scalar::Integer((*number).into())),
            Found::Raw(raw) => Scalar::of(*raw),
        }
    }

    /// Its bytes.
    pub(super) fn raw(&self) -> Option<Raw> {
        match self {
            Found::Text(text) => Raw::of(*text).ok(),
            Found::Number(number) => Raw::of(number).ok(),
            Found::Raw(raw) => Some(RawRef::to_owned(*raw)),
        }
    }
}

/// A value that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(Cow<'a, str>),
}

impl<'a> Scalar<'a> {
    /// A value, if it is one.
    pub(super) fn of(raw: RawRef<'a>) -> Option<Scalar<'a>> {
        raw.decode().ok().filter(|scalar| !matches!(scalar, Scalar::Float(float) if float.is_nan()))
    }

    /// The same, of its own.
    pub(super) fn into_owned(self) -> Scalar<'static> {
        match self {
            Scalar::Bool(value) => Scalar::Bool(value),
            Scalar::Integer(value) => Scalar::Integer(value),
            Scalar::Float(value) => Scalar::Float(value),
            Scalar::Text(value) => Scalar::Text(Cow::Owned(value.into_owned())),
        }
    }

    /// How the two compare, if they do: numbers with numbers, text with text, booleans with booleans.
    pub(super) fn compare(&self, other: &Scalar<'_>) -> Option<Ordering> {
        match (self, other) {
            (Scalar::Bool(one), Scalar::Bool(other)) => Some(one.cmp(other)),
            (Scalar::Text(one), Scalar::Text(other)) => Some(one.cmp(other)),
            (Scalar::Integer(one), Scalar::Integer(other)) => Some(one.cmp(other)),
            (Scalar::Float(one), Scalar::Float(other)) => one.partial_cmp(other),
            (Scalar::Integer(one), Scalar::Float(other)) => mixed(*one, *other),
            (Scalar::Float(one), Scalar::Integer(other)) => mixed(*other, *one).map(Ordering::reverse),
            _ => None,
        }
    }

    /// For least and greatest: numbers come before text, booleans have no place.
    pub(super) fn order(&self, other: &Scalar<'_>) -> Option<Ordering> {
        match (self, other) {
            (Scalar::Integer(_) | Scalar::Float(_), Scalar::Text(_)) => Some(Ordering::Less),
            (Scalar::Text(_), Scalar::Integer(_) | Scalar::Float(_)) => Some(Ordering::Greater),
            _ => self.compare(other),
        }
    }
}

/// Integers here are of 64 bits, so a float past 2^65 is past them all, and one below is exact as an `i128` once its
/// fraction is off.
fn mixed(integer: i128, float: f64) -> Option<Ordering> {
    const PAST: f64 = (1u128 << 65) as f64;
    if float.is_nan() {
        return None;
    }
    if float.abs() >= PAST {
        return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let whole = float.floor();
    let order = integer.cmp(&(whole as i128));
    Some(if order == Ordering::Equal && float > whole { Ordering::Less } else { order })
}

/// As part of a key.
impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Bool(value) => value.fmt(f),
            Scalar::Integer(value) => value.fmt(f),
            Scalar::Float(value) => value.fmt(f),
            Scalar::Text(value) => f.write_str(value),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number or a boolean")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Integer(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Integer(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Float(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(value.to_owned())))
    }
}
