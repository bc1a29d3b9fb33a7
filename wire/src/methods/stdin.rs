//! What a child reads, as a spawn can ask for it: a word, a file, or another process's output.

use crate::codec::text::OsText;
use crate::id::ProcessId;
use crate::methods::stream::StreamName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Unexpected, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// What a child reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StdinOption {
    /// A pipe that `process.stdin.write` fills (`"pipe"`).
    #[default]
    Pipe,
    /// Nothing: end-of-file at once (`"null"`).
    Null,
    /// What the kernel itself reads (`"inherit"`). Embedded kernel only, else `E_UNSUPPORTED`.
    Inherit,
    /// This file.
    File(OsText),
    /// Another process's output.
    Stream(StdinStream),
}

/// Another process's output, which the kernel writes into the stdin, without loss: the other process waits for this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
pub struct StdinStream {
    /// Whose.
    pub id: ProcessId,
    /// Which; stdout if absent.
    #[serde(default = "stdout")]
    pub stream: StreamName,
}

fn stdout() -> StreamName {
    StreamName::Stdout
}

/// The forms that are no word; exactly one is there.
#[derive(Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "StdinSource")]
struct Forms {
    /// A file, opened by the child as its user, in its working folder and under its sandbox; a FIFO is not waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<OsText>,
    /// Another process's output, from its first byte on, or the first behind which nothing is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<StdinStream>,
}

impl Serialize for StdinOption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (file, stream) = match self {
            StdinOption::Pipe => return serializer.serialize_str("pipe"),
            StdinOption::Null => return serializer.serialize_str("null"),
            StdinOption::Inherit => return serializer.serialize_str("inherit"),
            StdinOption::File(path) => (Some(path.clone()), None),
            StdinOption::Stream(stream) => (None, Some(stream.clone())),
        };
        Forms { file, stream }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StdinOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StdinVisitor;

        impl<'de> Visitor<'de> for StdinVisitor {
            type Value = StdinOption;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"pipe\", \"null\", \"inherit\", {file} or {stream: {id, stream}}")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<StdinOption, E> {
                match word {
                    "pipe" => Ok(StdinOption::Pipe),
                    "null" => Ok(StdinOption::Null),
                    "inherit" => Ok(StdinOption::Inherit),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StdinOption, A::Error> {
                match Forms::deserialize(de::value::MapAccessDeserializer::new(map))? {
                    Forms { file: Some(path), stream: None } => Ok(StdinOption::File(path)),
                    Forms { file: None, stream: Some(stream) } => Ok(StdinOption::Stream(stream)),
                    Forms { .. } => Err(de::Error::invalid_value(Unexpected::Map, &self)),
                }
            }
        }

        deserializer.deserialize_any(StdinVisitor)
    }
}

impl JsonSchema for StdinOption {
    fn schema_name() -> Cow<'static, str> {
        "StdinOption".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "What a child reads: a pipe that `process.stdin.write` fills, nothing, what the kernel itself reads \
                (an embedded one), a file, or another process's output.",
            "anyOf": [{ "enum": ["pipe", "null", "inherit"] }, generator.subschema_for::<Forms>()],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_form_is_read_as_it_is_written_and_half_ones_are_refused() {
        for form in [
            json!("pipe"),
            json!("null"),
            json!("inherit"),
            json!({"file": "/etc/hosts"}),
            json!({"stream": {"id": "cam", "stream": "stderr"}}),
        ] {
            let option: StdinOption = serde_json::from_value(form.clone()).expect("a form");
            assert_eq!(serde_json::to_value(&option).expect("it is written"), form);
        }
        let usual: StdinOption =
            serde_json::from_value(json!({"stream": {"id": 7}})).expect("stdout is usual");
        assert_eq!(
            usual,
            StdinOption::Stream(StdinStream { id: ProcessId::Integer(7), stream: StreamName::Stdout })
        );
        for wrong in
            [json!("file"), json!({}), json!({"file": "/a", "stream": {"id": "b"}}), json!({"pipe": true})]
        {
            assert!(serde_json::from_value::<StdinOption>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
