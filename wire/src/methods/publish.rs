//! Streams that clients write.

use crate::id::{ProcessId, SessionId};
use crate::method::{Since, methods, need};
use crate::methods::open::DescriptorRole;
use crate::methods::options::{HistoryOption, WhenUnread};
use crate::methods::spool::SpoolOption;
use crate::methods::stream::Rate;
use schemars::JsonSchema;
use serde::Serialize;

methods! {
    /// Makes a stream whose bytes the caller writes, and owns.
    ///
    /// It is the stdout of a process without a child: read, kept, paced, spooled, asked after and waited for by its id as any
    /// other. With `pipe` the reply brings a descriptor (SCM_RIGHTS, with the first byte of its frame) that is written to. With
    /// `shared` it brings a ring to write in place, a page and a doorbell (`docs/SHARED-RING.md`). The stream ends when its
    /// writing end is closed, when it is killed, and with the caller's connection. A kernel that dies is no end to it: then it is
    /// its writer's alone, until the caller resumes that connection.
    Publish = "stream.publish"(PublishParams) -> PublishResult {
        required: [need("id")],
        permission: StreamPublish,
        since: Since::Release("0.1.0"),
        errors: [AlreadyExists, Busy, Unsupported],
        example: r#"{"id": "camera", "transport": "pipe", "pipeBytes": 1048576}"#,
    }
}

crate::methods::words! {
    /// How bytes come from a producer.
    Entrance or Pipe {
        /// Through a pipe.
        Pipe = "pipe",
        /// They are written where they are read.
        Shared = "shared",
    }
}

/// What to make.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StreamPublishParams")]
pub struct PublishParams {
    /// Its id, which no living process has.
    pub id: ProcessId,
    /// How its bytes come.
    #[serde(default)]
    pub transport: Entrance,
    /// Size to ask for, bytes, with `pipe`; 262,144 if absent. The answer tells what is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipe_bytes: Option<u32>,
    /// Size of the ring, bytes, with `shared`; 4,194,304 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_bytes: Option<u32>,
    /// How much is kept, with `pipe`: with `shared` it is the ring.
    #[serde(default)]
    pub history: HistoryOption,
    /// What happens when nobody reads and the history is full.
    #[serde(default)]
    pub when_unread: WhenUnread,
    /// How much of it goes to disk.
    #[serde(default)]
    pub spool: SpoolOption,
    /// How fast bytes are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// It is there.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StreamPublishResult")]
pub struct PublishResult {
    /// Its id.
    pub id: ProcessId,
    /// This life of the id.
    pub session: SessionId,
    /// What each descriptor that comes with this answer is, in their order.
    pub descriptors: Vec<DescriptorRole>,
    /// How much the pipe, or the ring, holds, bytes.
    pub bytes: u64,
}
