//! Values that are carried, not understood: a call's id, an event's payload, an option that is refused.
//!
//! A raw value keeps the exact bytes it came as and goes out unchanged, so any type of id is echoed byte for byte.
//! Through other formats than ours (JSON) it passes as the value it stands for; see `json`.

use crate::codec::CodecError;
use crate::codec::encode::{self, Dialect};
use bytes::{Bytes, BytesMut};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// What tells our encoder and decoder that a newtype is raw.
pub(crate) const RAW: &str = "\0raw msgpack";

/// The extension JavaScript encoders write for `undefined`: absent.
pub const ABSENT: &[u8] = &[0xd4, 0x00, 0x00];

/// Nil.
pub const NIL: &[u8] = &[0xc0];

/// One MessagePack value, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RawRef<'a>(&'a [u8]);

/// One MessagePack value, owned.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Raw(Bytes);

impl<'a> RawRef<'a> {
    /// `undefined`.
    pub const ABSENT: RawRef<'static> = RawRef(ABSENT);

    /// The value `bytes` is; [`check`](crate::codec::check::check) is run on it.
    pub fn new(bytes: &'a [u8]) -> Result<RawRef<'a>, crate::codec::check::CheckError> {
        crate::codec::check::check(bytes)?;
        Ok(RawRef(bytes))
    }

    /// A value of a payload that has been checked.
    pub(crate) fn checked(bytes: &'a [u8]) -> RawRef<'a> {
        RawRef(bytes)
    }

    /// Its bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// It is nil or `undefined`.
    pub fn is_absent(self) -> bool {
        self.0 == NIL || self.0 == ABSENT
    }

    /// It is an array or a map.
    pub fn is_map(self) -> bool {
        matches!(self.0.first(), Some(0x80..=0x8f | 0xde | 0xdf))
    }

    /// What stands under a key of a map, unless it is absent.
    pub fn get(self, key: &str) -> Option<RawRef<'a>> {
        let mut entries = crate::codec::decode::entries(self.0);
        let value = entries.find(|(name, _)| *name == key.as_bytes())?.1;
        Some(RawRef(value)).filter(|value| !value.is_absent())
    }

    /// Reads it as a type.
    pub fn decode<T: Deserialize<'a>>(self) -> Result<T, CodecError> {
        crate::codec::decode::from_slice(self.0)
    }

    /// Its own copy.
    pub fn to_owned(self) -> Raw {
        Raw(Bytes::copy_from_slice(self.0))
    }
}

impl Raw {
    /// Nil.
    pub const NIL: Raw = Raw(Bytes::from_static(NIL));
    /// `undefined`.
    pub const ABSENT: Raw = Raw(Bytes::from_static(ABSENT));

    /// A value that our own encoder has written: nobody needs to check it.
    pub fn written(bytes: Bytes) -> Raw {
        debug_assert!(crate::codec::check::check(&bytes).is_ok(), "our encoder writes values");
        Raw(bytes)
    }

    /// The value of anything serializable, integers exact.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Raw, CodecError> {
        let mut buf = BytesMut::new();
        encode::to_buf(&mut buf, Dialect::Int64, value)?;
        Ok(Raw(buf.freeze()))
    }

    /// Borrowed.
    pub fn as_ref(&self) -> RawRef<'_> {
        RawRef(&self.0)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads it as a type.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, CodecError> {
        self.as_ref().decode()
    }
}

impl Default for Raw {
    fn default() -> Raw {
        Raw::ABSENT
    }
}

impl fmt::Debug for RawRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match crate::json::to_text(*self) {
            Ok(text) => f.write_str(&crate::codec::shorten(text)),
            Err(_) => write!(f, "{} bytes", self.0.len()),
        }
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

struct Body<'a>(&'a [u8]);

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            crate::json::transcode(self.0, serializer)
        } else {
            serializer.serialize_bytes(self.0)
        }
    }
}

impl Serialize for RawRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(RAW, &Body(self.0))
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_ref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;

        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            // Our decoder: the exact bytes.
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Raw, E> {
                Ok(Raw(Bytes::copy_from_slice(bytes)))
            }

            // Any other decoder: the value it stands for.
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
                crate::json::collect(deserializer).map(|bytes| Raw(bytes.freeze()))
            }
        }

        deserializer.deserialize_newtype_struct(RAW, RawVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawRef<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RefVisitor;

        impl<'de> Visitor<'de> for RefVisitor {
            type Value = RawRef<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<RawRef<'de>, E> {
                Ok(RawRef(bytes))
            }
        }

        deserializer.deserialize_newtype_struct(RAW, RefVisitor)
    }
}

impl JsonSchema for Raw {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Any".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        Schema::from(true)
    }
}
