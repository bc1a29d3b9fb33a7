//! Subscribing to what a process writes.

use crate::error::WireError;
use crate::id::{ProcessId, SessionId, SubscriptionId};
use crate::limits::EXACT_INTEGER_END;
use crate::method::{Since, methods, need, need_either};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Unexpected, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

pub use crate::methods::event::{UnsubscribeParams, UnsubscribeResult};

methods! {
    /// Delivers what a process writes, as STREAM_CHUNK frames.
    ///
    /// A process that does not exist yet is waited for (60 s); one that has ended delivers what is retained, and
    /// the subscription goes on with the next life of the id. Bytes that are no longer there are a gap: an EVENT
    /// `stream.gap` with the feature `records`, else `stream.overflow`, at its place among the chunks.
    /// A reader that lost its connection goes on with `from` at its offsets and names its former subscription in
    /// `resumes`: what a `block` reader has not had is held for it for a while, and a process that isn't known any
    /// more is an error instead of being waited for.
    Subscribe = "process.stdout.subscribe"(SubscribeParams) -> SubscribeResult {
        required: [need_either("pid", "id")],
        permission: ProcessRead,
        since: Since::V1,
        errors: [Busy, Conflict, NotFound, Unsupported],
        example: r#"{"pid": "clip", "stream": "stdout", "mode": "chunk", "from": "oldest", "policy": "block"}"#,
    }

    /// Ends a subscription to a process. After the reply nothing of it arrives.
    Unsubscribe = "process.stdout.unsubscribe"(UnsubscribeParams) -> UnsubscribeResult {
        required: [need("subscriptionId")],
        permission: ProcessRead,
        since: Since::V1,
        errors: [],
        example: r#"{"subscriptionId": "stream_00112233445566778899aabbccddeeff"}"#,
    }
}

/// What to read, and how.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StreamSubscribeParams")]
pub struct SubscribeParams {
    /// The process's id (not the operating system's number).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<ProcessId>,
    /// The same under its better name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<ProcessId>,
    /// Which outputs; they share one `sequence`.
    #[serde(default)]
    pub stream: Selector,
    /// How bytes become frames.
    #[serde(default)]
    pub mode: Mode,
    /// Raise the stream's history to this, bytes, up to 16 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_size: Option<u64>,
    /// Where to begin.
    #[serde(default)]
    pub from: Start,
    /// What happens when this reader is slow.
    #[serde(default)]
    pub policy: Policy,
    /// Write the bytes to this descriptor of the kernel's process instead. Embedded kernel only, else
    /// `E_UNSUPPORTED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<i32>,
    /// The subscription of a lost connection that this one goes on for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumes: Option<SubscriptionId>,
}

impl SubscribeParams {
    /// The process that is meant: `pid` or `id`; both, and different, is an error.
    pub fn process(&self) -> Result<&ProcessId, WireError> {
        match (&self.pid, &self.id) {
            (Some(pid), Some(id)) if pid != id => Err(WireError::invalid("id", "differs from pid")),
            (Some(id), _) | (None, Some(id)) => Ok(id),
            (None, None) => Err(WireError::missing(&["pid"])),
        }
    }
}

/// The new subscription.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StreamSubscribeResult")]
pub struct SubscribeResult {
    /// Its name.
    pub subscription_id: SubscriptionId,
    /// The life of the id that is read, if it has begun; told with the feature `records`. Another one than before
    /// means that the offsets of before name other bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

crate::methods::words! {
    /// One output.
    StreamName {
        /// Descriptor 1, or the terminal.
        Stdout = "stdout",
        /// Descriptor 2.
        Stderr = "stderr",
    }
}

crate::methods::words! {
    /// Which outputs.
    Selector or Both {
        /// Descriptor 1, or the terminal.
        Stdout = "stdout",
        /// Descriptor 2.
        Stderr = "stderr",
        /// Both.
        Both = "both",
    }
}

crate::methods::words! {
    /// How bytes become frames.
    Mode or Chunk {
        /// As they come.
        Chunk = "chunk",
        /// One line each, terminator included.
        Line = "line",
        /// As many whole lines as fit.
        Lines = "lines",
    }
}

crate::methods::words! {
    /// What a slow reader causes.
    Policy or Block {
        /// The source waits for it.
        Block = "block",
        /// It misses the oldest bytes it had not read, and is told which.
        DropOldest = "drop_oldest",
        /// It is brought from disk what has left memory, and paces nobody. The process must have been spawned with `spool`,
        /// else `E_CONFLICT`.
        Spool = "spool",
    }
}

impl Selector {
    /// Stdout is among them.
    pub fn stdout(self) -> bool {
        matches!(self, Selector::Stdout | Selector::Both)
    }

    /// Stderr is among them.
    pub fn stderr(self) -> bool {
        matches!(self, Selector::Stderr | Selector::Both)
    }
}

/// Where a reader begins. On the wire: `"oldest"`, `"now"`, an offset, or `{stdout, stderr}` with an offset each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first byte there was; if it is gone, with a gap up to the first retained.
    #[default]
    Oldest,
    /// With what comes next.
    Now,
    /// At an offset of each stream it reads.
    At(u64),
    /// At an offset per stream; 0 where none is given.
    Each {
        /// Of stdout.
        stdout: u64,
        /// Of stderr.
        stderr: u64,
    },
}

#[derive(Serialize, serde::Deserialize, JsonSchema)]
#[schemars(rename = "StartOffsets")]
#[serde(default)]
#[derive(Default)]
struct StartOffsets {
    /// Of stdout.
    #[serde(deserialize_with = "offset")]
    stdout: u64,
    /// Of stderr.
    #[serde(deserialize_with = "offset")]
    stderr: u64,
}

fn offset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    u64::deserialize(deserializer).and_then(exact)
}

/// No stream gets that long, and a larger offset could not be told to every client.
fn exact<E: de::Error>(offset: u64) -> Result<u64, E> {
    if offset < EXACT_INTEGER_END {
        return Ok(offset);
    }
    Err(E::invalid_value(Unexpected::Unsigned(offset), &"an offset below 2^53"))
}

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Start::Oldest => serializer.serialize_str("oldest"),
            Start::Now => serializer.serialize_str("now"),
            Start::At(offset) => serializer.serialize_u64(offset),
            Start::Each { stdout, stderr } => StartOffsets { stdout, stderr }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StartVisitor;

        impl<'de> Visitor<'de> for StartVisitor {
            type Value = Start;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"oldest\", \"now\", an offset or {stdout, stderr}")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Start, E> {
                match word {
                    "oldest" => Ok(Start::Oldest),
                    "now" => Ok(Start::Now),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, offset: u64) -> Result<Start, E> {
                exact(offset).map(Start::At)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Start, A::Error> {
                let StartOffsets { stdout, stderr } =
                    StartOffsets::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Start::Each { stdout, stderr })
            }
        }

        deserializer.deserialize_any(StartVisitor)
    }
}

impl JsonSchema for Start {
    fn schema_name() -> Cow<'static, str> {
        "Start".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where a reader begins.",
            "anyOf": [
                { "enum": ["oldest", "now"] },
                { "type": "integer", "minimum": 0 },
                generator.subschema_for::<StartOffsets>(),
            ],
        })
    }
}
