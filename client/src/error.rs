//! What can go wrong, and what to do about it.
//!
//! Three doors, three enums: connecting, calling, reading a stream. Each message says what happened; `advice`
//! says what to try next, for people. A failure the kernel reported keeps the kernel's code.

use kairo_wire::error::Code;
use kairo_wire::frame::FrameError;
use kairo_wire::methods::stream::StreamName;
use kairo_wire::response::CallError as Refusal;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("no daemon is listening on {}", path.display())]
    NobodyThere {
        /// Where.
        path: PathBuf,
    },
    /// The socket may not be opened.
    #[error("the socket {} may not be opened", path.display())]
    Forbidden {
        /// Where.
        path: PathBuf,
    },
    /// The system said no.
    #[error("connecting to {}: {source}", path.display())]
    Os {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Whoever listens there did not answer `kernel.hello` as a kernel does.
    #[error("the greeting failed: {0}")]
    Hello(#[from] CallError),
}

impl ConnectError {
    pub(crate) fn from_os(path: PathBuf, source: io::Error) -> ConnectError {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ConnectError::NobodyThere { path },
            io::ErrorKind::PermissionDenied => ConnectError::Forbidden { path },
            _ => ConnectError::Os { path, source },
        }
    }

    /// What to try next.
    pub fn advice(&self) -> &'static str {
        match self {
            ConnectError::NobodyThere { .. } => {
                "start one with `kairo serve`, or name another with --socket or KAIRO_IPC_SOCKET"
            }
            ConnectError::Forbidden { .. } => {
                "the daemon belongs to another user: ask for `kairo serve --group`, or name your own with --socket"
            }
            ConnectError::Os { .. } => "check the path given with --socket or KAIRO_IPC_SOCKET",
            ConnectError::Hello(_) => {
                "make sure that a Kairo kernel of this protocol is listening on that socket"
            }
        }
    }
}

/// Why a connection is of no more use. Shared by all calls that were in flight.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Lost {
    /// The kernel closed it, or died.
    #[error("the kernel closed the connection{}", if *.unread > 0 { " in the middle of a frame" } else { "" })]
    Closed {
        /// Bytes of an unfinished frame.
        unread: usize,
    },
    /// What came is not the protocol.
    #[error("what came is no frame: {0}")]
    Frame(FrameError),
    /// A frame came whole and made no sense.
    #[error("what came makes no sense: {0}")]
    Payload(Arc<str>),
    /// The system said no.
    #[error("the connection failed: {0}")]
    Os(Arc<io::Error>),
    /// This side closed it.
    #[error("the connection was closed on this side")]
    ClosedHere,
    /// It was waited for, and did not come back.
    #[error("{lost}, and was not back within {} s", .patience.as_secs_f32())]
    NotBack {
        /// How long it was waited for.
        patience: Duration,
        /// How it was lost.
        lost: Box<Lost>,
    },
}

impl Lost {
    pub(crate) fn from_write(error: io::Error) -> Lost {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Lost::Closed { unread: 0 },
            _ => Lost::Os(Arc::new(error)),
        }
    }

    /// The kernel, or the system, ended the connection; another one may be had. A peer that sends nonsense is not asked
    /// again.
    pub(crate) fn is_the_kernels(&self) -> bool {
        match self {
            Lost::Closed { .. } | Lost::Os(_) => true,
            Lost::Frame(_) | Lost::Payload(_) | Lost::ClosedHere | Lost::NotBack { .. } => false,
        }
    }
}

/// Why a call has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The kernel refused or failed, and said why.
    #[error("{}", .0.info.as_ref().map_or(&.0.text, |info| &info.message))]
    Kernel(Box<Refusal>),
    /// The connection ended before the answer.
    #[error("{0}")]
    Lost(#[from] Lost),
    /// The kernel went away before it answered, and another one is there. The call may have been carried out, and would
    /// be carried out twice if it were sent again; with an idempotency key, where the method has one, it isn't.
    #[error("the kernel went away before it answered {method}: that may have happened or not")]
    Interrupted {
        /// What was called.
        method: String,
    },
    /// No answer in time. The call may still be carried out.
    #[error("no answer within the deadline")]
    Deadline,
    /// The parameters can't be written, or the result is not of the type the method gives.
    #[error("{0}")]
    Shape(String),
    /// The parameters are over the limit of a frame.
    #[error("{message}")]
    TooLarge {
        /// By how much.
        message: String,
    },
}

impl CallError {
    /// The kernel's code, if it was the kernel that said no.
    pub fn code(&self) -> Option<Code> {
        match self {
            CallError::Kernel(error) => error.code(),
            CallError::Lost(_)
            | CallError::Interrupted { .. }
            | CallError::Deadline
            | CallError::Shape(_)
            | CallError::TooLarge { .. } => None,
        }
    }

    /// What to try next, where there is something to try.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            CallError::Kernel(error) => error.code().and_then(advice),
            CallError::Lost(_) => Some("see whether the daemon still runs: `kairo doctor`, or its log"),
            CallError::Interrupted { .. } => Some("see what came of it, then call again: `kairo status ID`"),
            CallError::Deadline => Some("give it more time, or see who waits for whom: `kairo status ID`"),
            CallError::Shape(_) => {
                Some("client and kernel may be of different versions: `kairo introspect` tells")
            }
            CallError::TooLarge { .. } => Some("send less at a time"),
        }
    }
}

/// What to do about a code.
fn advice(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::InvalidParams => "`kairo introspect METHOD` shows what the method takes",
        Code::UnknownMethod => "`kairo introspect` lists the methods",
        Code::NotFound => "`kairo ps --all` lists what there is",
        Code::PermissionDenied => {
            "`kairo why` tells the daemon's owner what was lacking, and which grant would allow it"
        }
        Code::Timeout => "give it more time, or see who waits for whom: `kairo status ID`",
        Code::Busy => "try again in a moment",
        Code::AlreadyExists => "choose another id, or end the one that has it: `kairo kill ID`",
        Code::Unsupported => {
            "`kairo doctor` tells what this machine can do; --allow-weaker accepts less where there is less"
        }
        Code::WouldBlock => "the program does not read its stdin: wait until it does, then try again",
        Code::TooManyCalls => "wait for answers before calling again",
        Code::TooLarge => "ask for less at a time",
        Code::QuotaExceeded => {
            "`kairo quotas` tells who has how much; end something, or wait, then try again"
        }
        Code::ExecutableNotFound => "check the name, and the PATH the program is started with: --env PATH=…",
        Code::NotExecutable => "check its permissions and its first line: `chmod +x`, `file`",
        Code::Cwd => "check that the working folder exists and may be entered: --cwd",
        Code::StdinClosed => "it reads no more; `kairo status ID` tells since which byte",
        Code::NoTerminal => "start it with --pty to give it a terminal",
        Code::KeeperLost => "restart the daemon: it can start nothing any more",
        Code::Lost => "`kairo status ID` tells what is known of it; its id can be used again",
        Code::Unavailable => "the daemon is stopping or out of something; see its log, then try again",
        Code::Cancelled
        | Code::Conflict
        | Code::RequestFailed
        | Code::SpawnFailed
        | Code::VaultUnavailable
        | Code::Internal => {
            return None;
        }
    })
}

/// Why a stream can't be relied on from here on. After one of these a subscription gives nothing more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Bytes were neither delivered nor named as a gap.
    #[error("bytes {from} to {to} of {} are missing", .stream.word())]
    Missing {
        /// Of which stream.
        stream: StreamName,
        /// First offset.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// Bytes came that had come, or had been given up, before.
    #[error("bytes {from} to {to} of {} were told twice", .stream.word())]
    Repeated {
        /// Of which stream.
        stream: StreamName,
        /// First offset.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// A frame is missing.
    #[error("chunk {found} came where chunk {expected} was due")]
    OutOfSequence {
        /// Due.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// The end record and the gap records tell different stories.
    #[error("{} missed {counted} bytes by its gap records and {told} by its end record", .stream.word())]
    GapsDisagree {
        /// Which stream.
        stream: StreamName,
        /// By the gap records, bytes.
        counted: u64,
        /// By the end record, bytes.
        told: u64,
    },
    /// The kernel granted `records` and sent a chunk without an offset.
    #[error("a chunk of {} came without its offset", .stream.word())]
    NoOffset {
        /// Which stream.
        stream: StreamName,
    },
    /// The kernel that came back does not know the process: its predecessor's state is gone.
    #[error("the kernel that came back does not know the process")]
    Forgotten,
    /// While the connection was lost the id was given to another process, so the offsets name other bytes.
    #[error("the id names another process now")]
    OtherLife,
    /// All streams had ended when the connection was lost, and a new kernel follows the id into its next life for nobody.
    #[error("the connection was lost after the streams had ended, so the id's next life is not followed")]
    NotFollowed,
    /// The stream can't go on over a new connection.
    #[error("the stream can't be resumed: {0}")]
    NotResumed(String),
    /// The connection ended before the stream did.
    #[error("{0}")]
    Lost(String),
}
