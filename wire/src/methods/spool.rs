//! Output on disk: what a spawn can ask for, and what is told of it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Whether outputs are written to disk. On the wire: `true`, `false` or [`SpoolSizes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolOption(pub Option<SpoolSizes>);

/// How much of each output is kept on disk. All optional; what is past a bound goes, oldest segment first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SpoolSizes {
    /// Size at which a segment is full, bytes: 524,288 to 1,073,741,824; 67,108,864 if absent, or an eighth of `bytesMax`
    /// if that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment_bytes: Option<u64>,
    /// Of all segments of an output together, bytes; at least 524,288. The daemon's quota alone if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// A segment goes when its last byte is older than this, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Segments of an output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<u32>,
    /// Flush a segment to the device when it is full and when its stream ends. Otherwise what a power failure (not: a killed
    /// kernel) leaves is up to the system.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sync: bool,
    /// Leave the files when the process is forgotten.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
}

impl SpoolOption {
    pub(crate) fn is_absent(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for SpoolOption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(sizes) if sizes == SpoolSizes::default() => serializer.serialize_bool(true),
            Some(sizes) => sizes.serialize(serializer),
            None => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for SpoolOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpoolVisitor;

        impl<'de> Visitor<'de> for SpoolVisitor {
            type Value = SpoolOption;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean or {segmentBytes, bytesMax, ageMs, segments, sync, keep}")
            }

            fn visit_bool<E>(self, wanted: bool) -> Result<SpoolOption, E> {
                Ok(SpoolOption(wanted.then(SpoolSizes::default)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SpoolOption, A::Error> {
                SpoolSizes::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|sizes| SpoolOption(Some(sizes)))
            }
        }

        deserializer.deserialize_any(SpoolVisitor)
    }
}

impl JsonSchema for SpoolOption {
    fn schema_name() -> Cow<'static, str> {
        "SpoolOption".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`true` for output of any length on disk, or how much of it.",
            "anyOf": [{ "type": "boolean" }, generator.subschema_for::<SpoolSizes>()],
        })
    }
}

/// What of an output is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpoolStatus {
    /// Whether it can be written.
    pub state: SpoolState,
    /// First offset on disk.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// Of all files together.
    pub bytes: u64,
    /// Files.
    pub segments: u32,
    /// Why it can't be written, in the system's numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

crate::methods::words! {
    /// Whether a spool can be written.
    SpoolState {
        /// It is, or was until its stream ended.
        Working = "working",
        /// It can't be; it is tried again while the stream lasts.
        Failed = "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_a_boolean_or_sizes() {
        let read = |text: &str| serde_json::from_str::<SpoolOption>(text);
        assert_eq!(read("false").unwrap(), SpoolOption(None));
        assert_eq!(read("true").unwrap(), SpoolOption(Some(SpoolSizes::default())));
        let sizes = SpoolSizes { bytes_max: Some(1 << 30), keep: true, ..SpoolSizes::default() };
        let text = r#"{"bytesMax":1073741824,"keep":true}"#;
        assert_eq!(read(text).unwrap(), SpoolOption(Some(sizes)));
        assert_eq!(serde_json::to_string(&SpoolOption(Some(sizes))).unwrap(), text);
        assert!(read("3").is_err());
    }
}
