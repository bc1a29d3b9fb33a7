//! Bytes: what a child reads and writes.

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Bytes. On the wire bin, or a str whose bytes are taken as they are, valid UTF-8 or not. In JSON a string, or
/// `{"$base64": "…"}` for bytes that are no text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data(pub Bytes);

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            crate::json::bytes_to_json(&self.0, serializer)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DataVisitor;

        impl Visitor<'_> for DataVisitor {
            type Value = Data;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or binary")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Data, E> {
                Ok(Data(Bytes::copy_from_slice(bytes)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Data, E> {
                self.visit_bytes(text.as_bytes())
            }
        }

        deserializer.deserialize_bytes(DataVisitor)
    }
}

impl JsonSchema for Data {
    fn schema_name() -> Cow<'static, str> {
        "Data".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes: msgpack bin or str. In JSON a string, or {\"$base64\": \"…\"}.",
            "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "$base64": { "type": "string", "contentEncoding": "base64" } },
                    "required": ["$base64"],
                },
            ],
        })
    }
}
