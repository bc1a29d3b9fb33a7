//! Opening a stream with a choice of how its bytes travel.

use crate::codec::text::OsText;
use crate::id::{ProcessId, SessionId, SubscriptionId};
use crate::method::{Since, methods, need};
use crate::methods::event::{UnsubscribeParams, UnsubscribeResult};
use crate::methods::stream::{Mode, Policy, Rate, Start, StreamName};
use schemars::JsonSchema;
use serde::Serialize;

methods! {
    /// Opens one output of a process for reading, by a transport of one's choice.
    ///
    /// With `frames` it is `process.stdout.subscribe`. With `pipe` and `socket` the reply brings a descriptor (SCM_RIGHTS, with
    /// the first byte of its frame) from which the bytes are read as they are, without frames: whoever receives the reply has
    /// to receive it with room for one. It is read to its end, closed when its connection or its subscription ends, and a
    /// reader that closes it ends its subscription. A raw descriptor has no place for records: with `drop_oldest` what went
    /// by is told as `kairo.stream.gap` only, and its end as `stream.end` on this connection. The process must be there.
    /// With `shared` it brings three, of a ring that is read in place (`docs/SHARED-RING.md`).
    ///
    /// A kernel that dies takes its connections with it, and no raw descriptor: the next one goes on at the byte; on a socket with
    /// `framing: frames` it finishes the frame that was under way, and offsets and `sequence` go on. What belongs to no connection any
    /// more ends with its stream, its reader, or `stream.close` of whoever opened it.
    /// With `fifo` the reply brings a `path` instead, in a folder of the caller's user that nobody else can enter. Whoever opens
    /// it first, for reading, has the stream from `from` on, and then the name is gone: another one finds no such file; of two who
    /// open it in the same moment each gets a part. It outlives this connection: it ends when the stream ends and everything has
    /// been handed on, when its reader closes it, when nobody has opened it for `waitMs`, with `stream.close`, with a revoke, and with
    /// a shutdown. What is written before anybody opens it waits in it, as in any pipe. If the kernel is killed, whoever has opened it by the
    /// time of the next one goes on there at the byte; of one that nobody has the next kernel removes the name.
    Open = "stream.open"(OpenParams) -> OpenResult {
        required: [need("id")],
        permission: ProcessRead,
        since: Since::Release("0.1.0"),
        errors: [Busy, Conflict, NotFound, Unsupported],
        example: r#"{"id": "clip", "stream": "stdout", "transport": "pipe", "pipeBytes": 1048576}"#,
    }

    /// Ends what `stream.open` has begun. After the reply nothing of it arrives; what is in its descriptor can still be read.
    Close = "stream.close"(UnsubscribeParams) -> UnsubscribeResult {
        required: [need("subscriptionId")],
        permission: ProcessRead,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{"subscriptionId": "stream_00112233445566778899aabbccddeeff"}"#,
    }
}

methods! {
    /// Hands the way into a process to the caller: the reply brings the end of its stdin's pipe that is written to.
    ///
    /// What is written there goes in as from a shell, past the kernel: at the speed of a pipe, over the end of this kernel, and
    /// uncounted. `process.stdin.write` and `.close` are over for this process (`E_STDIN_CLOSED`); its stdin ends when the
    /// descriptor is closed. What was written before must be through (`E_WOULD_BLOCK`, retry then). A descriptor that was
    /// handed out can't be taken back: a revoke doesn't reach it. A terminal is refused.
    ///
    /// With `fifo` the reply brings a `path` instead, in a folder of the caller's user that nobody else can enter. Whoever opens it
    /// first, for writing, writes what the process reads, and then the name is gone. It goes through the kernel, as other writes,
    /// which stay allowed and come in between; so it is counted, a terminal has it too, and a revoke ends it. When the last who has
    /// it open closes it, stdin is closed, or stays open if `keepOpen`. It outlives this connection and this kernel, opened or not: a
    /// writer sees no more than a pause. It ends when nobody has opened it for `waitMs`, with `process.stdin.close`, and with the
    /// process: a writer then finds a broken pipe. There is one at a time (`E_WOULD_BLOCK`, retry).
    OpenStdin = "stdin.open"(OpenStdinParams) -> OpenStdinResult {
        required: [need("id")],
        permission: ProcessWrite,
        since: Since::Release("0.1.0"),
        errors: [Conflict, NotFound, StdinClosed, Unsupported, WouldBlock],
        example: r#"{"id": "encoder"}"#,
    }
}

crate::methods::words! {
    /// How bytes travel to a reader.
    Transport or Frames {
        /// STREAM_CHUNK frames on this connection.
        Frames = "frames",
        /// The raw bytes, from a pipe of one's own.
        Pipe = "pipe",
        /// The raw bytes, from a socket of one's own.
        Socket = "socket",
        /// Not at all: the reader maps the ring they are in. See `docs/SHARED-RING.md`.
        Shared = "shared",
        /// The raw bytes, from a pipe with a name in the file system.
        Fifo = "fifo",
    }
}

crate::methods::words! {
    /// What travels on a socket.
    Framing or Raw {
        /// The bytes as they are.
        Raw = "raw",
        /// STREAM_CHUNK frames with the records between them, as on a connection, in the form this one has negotiated. Nothing
        /// else comes, and nothing is to be sent.
        Frames = "frames",
    }
}

/// What to open, and how.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StreamOpenParams")]
pub struct OpenParams {
    /// The process.
    pub id: ProcessId,
    /// Which output.
    #[serde(default = "stdout")]
    #[schemars(default = "stdout")]
    pub stream: StreamName,
    /// How its bytes travel.
    #[serde(default)]
    pub transport: Transport,
    /// Where to begin.
    #[serde(default)]
    pub from: Start,
    /// What happens when this reader is slow.
    #[serde(default)]
    pub policy: Policy,
    /// What travels on a `socket`; `raw` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub framing: Option<Framing>,
    /// How bytes become frames, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Size to ask for, bytes, with `pipe` and `fifo`; 262,144 if absent. The answer tells what is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipe_bytes: Option<u32>,
    /// Least size of the ring's tail, bytes, with `shared`; 1,048,576 if absent. The answer tells what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_bytes: Option<u32>,
    /// It goes on for a reader that a kernel which died had served; `from` is where that one had come to. With `block` it is held
    /// the bytes from there on, for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumes: Option<SubscriptionId>,
    /// How fast this reader is given bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How long a `fifo` waits for somebody to open it, milliseconds, up to 3,600,000; 60,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u32>,
}

impl OpenParams {
    /// All of the stdout of a process, by this transport.
    pub fn of(id: ProcessId, transport: Transport) -> OpenParams {
        OpenParams {
            id,
            stream: stdout(),
            transport,
            from: Start::default(),
            policy: Policy::default(),
            framing: None,
            mode: None,
            pipe_bytes: None,
            ring_bytes: None,
            resumes: None,
            rate: None,
            wait_ms: None,
        }
    }
}

fn stdout() -> StreamName {
    StreamName::Stdout
}

/// It is open.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StreamOpenResult")]
pub struct OpenResult {
    /// Its name.
    pub subscription_id: SubscriptionId,
    /// How its bytes travel.
    pub transport: Transport,
    /// The life of the id that is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Where in it the stream is read from. What is no longer there is missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// What each descriptor that comes with this answer is, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub descriptors: Vec<DescriptorRole>,
    /// Where the fifo is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<OsText>,
    /// How much the pipe holds, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipe_bytes: Option<u64>,
    /// Size of the ring's tail, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_bytes: Option<u64>,
}

crate::methods::words! {
    /// How bytes come to a stdin.
    StdinTransport or Pipe {
        /// Through the writing end of its own pipe.
        Pipe = "pipe",
        /// Through a pipe with a name in the file system, and the kernel.
        Fifo = "fifo",
    }
}

/// Whose stdin, and by what.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StdinOpenParams")]
pub struct OpenStdinParams {
    /// The process.
    pub id: ProcessId,
    /// How bytes come there.
    #[serde(default)]
    pub transport: StdinTransport,
    /// With `fifo`: stdin stays open when its last writer has closed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_open: bool,
    /// How long a `fifo` waits for somebody to open it, milliseconds, up to 3,600,000; 60,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u32>,
}

/// It is the caller's.
#[derive(Clone, Debug, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StdinOpenResult")]
pub struct OpenStdinResult {
    /// The process.
    pub id: ProcessId,
    /// Bytes that went in before.
    pub offset: u64,
    /// What each descriptor that comes with this answer is, in their order.
    pub descriptors: Vec<DescriptorRole>,
    /// Where the fifo is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<OsText>,
    /// How much the pipe holds, bytes.
    pub pipe_bytes: u64,
}

crate::methods::words! {
    /// What a descriptor is.
    DescriptorRole {
        /// The end of a pipe that is read.
        PipeReader = "pipe",
        /// The end of a pipe that is written to.
        PipeWriter = "pipe_writer",
        /// A connected stream socket.
        Socket = "socket",
        /// A shared ring; read-only, or to be written by its producer.
        Ring = "ring",
        /// A page between its reader, or its producer, and the kernel.
        Seat = "seat",
        /// A socket between the same.
        Doorbell = "doorbell",
    }
}
