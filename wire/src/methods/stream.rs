//! Subscribing to what a process writes, and changing how it is kept and paced.

use crate::error::WireError;
use crate::id::{ProcessId, SessionId, SubscriptionId};
use crate::limits::EXACT_INTEGER_END;
use crate::method::{Since, methods, need, need_any, need_either};
use crate::methods::options::{HistoryOption, WhenUnread};
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

    /// Changes how a process's output is kept and how fast it is taken, while it runs. What is absent stays.
    ///
    /// Smaller histories give up bytes at once, exactly counted; none that a reader with the policy `block` still needs.
    /// Larger ones are granted as far as the daemon's memory for histories allows, a head only until something behind it
    /// is gone: the answer tells what is in force. With `bytesPerSecond: 0` bytes come as fast as they can.
    Configure = "stream.configure"(ConfigureParams) -> ConfigureResult {
        required: [need("id")],
        permission: ProcessControl,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Unsupported],
        example: r#"{"id": "clip", "stream": "stdout", "rate": {"bytesPerSecond": 20971520}, "history": {"tailBytes": 1048576}}"#,
    }

    /// Changes how fast a subscription to a process is given bytes. With `bytesPerSecond: 0` as fast as it takes them.
    ConfigureReader = "subscription.configure"(ConfigureReaderParams) -> ConfigureReaderResult {
        required: [need("subscriptionId"), need_any("rate")],
        permission: ProcessRead,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"subscriptionId": "stream_00112233445566778899aabbccddeeff", "rate": {"bytesPerSecond": 1048576, "burst": 65536}}"#,
    }
}

/// How fast bytes may go: at most `burst + bytesPerSecond × t` in any time t.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// In the long run; 0 for no limit.
    pub bytes_per_second: u64,
    /// At once after a pause, at least 1; a tenth of a second's bytes if absent, and no less than 4,096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
}

/// What to change about a process's output.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StreamConfigureParams")]
pub struct ConfigureParams {
    /// The process.
    pub id: ProcessId,
    /// Which outputs; each has a rate and a history of its own.
    #[serde(default)]
    pub stream: Selector,
    /// How fast bytes are taken from the child.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How much output is kept; a size that is absent stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryOption>,
    /// What an output nobody reads does when its history is full; counts for all outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_unread: Option<WhenUnread>,
}

/// What is in force now.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StreamConfigureResult")]
pub struct ConfigureResult {
    /// The process.
    pub id: ProcessId,
    /// Per output.
    pub streams: Vec<StreamSetting>,
    /// What an output nobody reads does.
    pub when_unread: WhenUnread,
}

/// How an output is kept and paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamSetting {
    /// Which.
    pub stream: StreamName,
    /// How fast bytes are taken from the child; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Bytes of its beginning that are kept.
    pub history_head_bytes: u32,
    /// Bytes of its end that are kept.
    pub history_tail_bytes: u32,
}

/// What to change about a subscription.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SubscriptionConfigureParams")]
pub struct ConfigureReaderParams {
    /// Which.
    pub subscription_id: SubscriptionId,
    /// How fast it is given bytes.
    pub rate: Rate,
}

/// It is changed.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SubscriptionConfigureResult")]
pub struct ConfigureReaderResult {
    /// Which.
    pub subscription_id: SubscriptionId,
    /// In force; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
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
    /// How fast this reader is given bytes, all its outputs together. With the policy `block` its source is paced by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
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
    /// Where in that life each stream is read from: what was asked for, or where `now` was; told with `session`. What
    /// is no longer there is a gap from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Start>,
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
        /// Whenever it takes something it gets only the newest: the last chunk, line or lines that fit; it is told what it
        /// missed, and paces nobody. Raw bytes have no place for that, and of a stream without history it can't be had.
        Latest = "latest",
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
