//! Texts for the operating system: arguments, paths, values of variables.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Any bytes but NUL. On the wire str or bin, valid UTF-8 or not; numbers and booleans are taken for their text, as v1
/// clients expect of argv.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct OsText(Vec<u8>);

impl OsText {
    /// Any bytes but NUL.
    pub fn new(bytes: Vec<u8>) -> Option<OsText> {
        (!bytes.contains(&0)).then_some(OsText(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// For people.
    pub fn to_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl From<&str> for OsText {
    /// Cuts at a NUL, which no such text can hold; use [`OsText::new`] to be told.
    fn from(text: &str) -> OsText {
        let end = text.find('\0').unwrap_or(text.len());
        OsText(text.as_bytes()[..end].to_vec())
    }
}

impl fmt::Debug for OsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_text().fmt(f)
    }
}

impl Serialize for OsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) if serializer.is_human_readable() => crate::json::bytes_to_json(&self.0, serializer),
            Err(_) => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OsTextVisitor;

        impl Visitor<'_> for OsTextVisitor {
            type Value = OsText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text without NUL")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<OsText, E> {
                OsText::new(bytes.to_vec())
                    .ok_or_else(|| E::invalid_value(Unexpected::Other("a NUL byte"), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OsText, E> {
                self.visit_bytes(text.as_bytes())
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<OsText, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<OsText, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<OsText, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<OsText, E> {
                self.visit_str(if value { "true" } else { "false" })
            }
        }

        deserializer.deserialize_bytes(OsTextVisitor)
    }
}

impl JsonSchema for OsText {
    fn schema_name() -> Cow<'static, str> {
        "OsText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Text without NUL, UTF-8 or not; numbers and booleans are taken for their text.",
            "type": ["string", "number", "boolean"],
        })
    }
}
