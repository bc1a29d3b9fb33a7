//! The kernel itself and the machine it runs on.

use crate::codec::raw::Raw;
use crate::method::{Since, methods, need_any};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Says who is there, and negotiates features by name.
    ///
    /// Optional: a client that never calls it speaks plain v1. Features that are not known are not granted. A
    /// later call replaces what an earlier one negotiated, for everything that is subscribed after it. A client whose
    /// kernel was replaced says in `resumes` which connection it had: processes that were to die with that connection
    /// (`onDisconnect: kill`) then die with this one instead, if it comes within the grace (10 s).
    Hello = "kernel.hello"(HelloParams) -> HelloResult {
        required: [],
        permission: KernelTalk,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{"client": "my-agent/1.0", "features": ["int64", "records", "chunks"], "chunkBytesMax": 1048576}"#,
    }

    /// Answers at once.
    Ping = "kernel.ping"(PingParams) -> PingResult {
        required: [],
        permission: KernelTalk,
        since: Since::Release("0.1.0"),
        errors: [],
        example: "{}",
    }

    /// Describes every method, event, error, permission and limit, with JSON Schemas.
    Introspect = "kernel.introspect"(IntrospectParams) -> Raw {
        required: [],
        permission: KernelTalk,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"method": "process.spawn"}"#,
    }

    /// Abandons one of the connection's own calls in flight, which then answers `E_CANCELLED`.
    ///
    /// What the call has done and can be undone is undone; bytes that are in a child's pipe stay there.
    Cancel = "kernel.cancel"(CancelParams) -> CancelResult {
        required: [need_any("id")],
        permission: KernelTalk,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{"id": "call-17"}"#,
    }

    /// Tells which of this machine's guarantees hold, as `kairo doctor` prints them.
    Doctor = "kernel.doctor"(DoctorParams) -> DoctorResult {
        required: [],
        permission: KernelInspect,
        since: Since::Release("0.1.0"),
        errors: [],
        example: "{}",
    }

    /// Ends every tree, then the kernel. Answers when that has begun.
    Shutdown = "kernel.shutdown"(ShutdownParams) -> ShutdownResult {
        required: [],
        permission: KernelAdministrate,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{"graceMs": 5000}"#,
    }

    /// Measures CPU, memory and battery.
    GetMetrics = "system.get_metrics"(GetMetricsParams) -> GetMetricsResult {
        required: [],
        permission: KernelInspect,
        since: Since::V1,
        errors: [Unavailable],
        example: "{}",
    }
}

/// Features a client can ask for.
pub const FEATURES: &[FeatureRow] = &[
    FeatureRow { name: "int64", doc: "Integers of the kernel are exact msgpack integers, never floats." },
    FeatureRow {
        name: "records",
        doc: "Chunks carry `offset` (and `partial`), and EVENT frames `stream.gap` and `stream.end` tell exactly what \
              was missed and how a stream ended.",
    },
    FeatureRow {
        name: "chunks",
        doc: "Chunks carry up to the granted `chunkBytesMax` bytes of data instead of 65,535.",
    },
    FeatureRow {
        name: "envelope",
        doc: "Events carry what v1 had no words for (`seq`, `principal`, `intentId`, `spanId`, `idempotencyKey`, `toolCallId`, \
              `answers`, `error`, `replayed`, `subscriptionId`, `delivery`), and `event.gap` and `event.cut` tell what a subscription missed.",
    },
    FeatureRow {
        name: "timestamps",
        doc: "Chunks carry `time`: CLOCK_MONOTONIC, nanoseconds, right after the read from the child that brought their last byte. \
              Of bytes that were read while nobody asked it is the reactor's last look at the clock before that read (the beginning of \
              its round); where the index of times had to be joined (over 64 reads then, 1,024 while somebody asks; the latest \
              quarter stays exact) it is that of a later read. Absent for what a former kernel has read. Without `int64` it is a float, \
              exact for the first 104 days after boot.",
    },
];

/// One feature.
#[derive(Clone, Copy, Debug)]
pub struct FeatureRow {
    /// Its name on the wire.
    pub name: &'static str,
    /// What changes with it.
    pub doc: &'static str,
}

/// What the client is and wants.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloParams {
    /// Name and version, for logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Names of features.
    #[serde(default)]
    pub features: Vec<String>,
    /// Longest `data` of a chunk the client takes, bytes; counts only with the feature `chunks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_bytes_max: Option<u32>,
    /// The `connection` of an earlier answer: this connection takes that one's place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumes: Option<String>,
}

/// What the kernel is and grants.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloResult {
    /// `kairo`.
    pub name: String,
    /// Of the kernel.
    pub version: String,
    /// Of the wire: 1.
    pub protocol: u32,
    /// Of the kernel.
    pub pid: i32,
    /// Features granted.
    pub features: Vec<String>,
    /// Limits in force for this connection.
    pub limits: HelloLimits,
    /// Who the kernel takes the caller for.
    pub principal: Principal,
    /// Names this connection, for `resumes` after a loss. A secret: it can't be guessed. Empty from a kernel that
    /// can't be resumed.
    #[serde(default)]
    pub connection: String,
}

/// Limits in force for a connection; see `limits`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HelloLimits {
    /// Longest payload, bytes.
    pub frame_bytes_max: u32,
    /// Longest `data` of a chunk, bytes.
    pub chunk_bytes_max: u32,
    /// Most unanswered calls.
    pub calls_in_flight_max: u32,
    /// Deepest nesting.
    pub depth_max: u32,
    /// Most values in a payload.
    pub elements_max: u32,
}

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Principal {
    /// What kind of principal.
    pub kind: PrincipalKind,
    /// User id, as the operating system tells it.
    pub uid: u32,
    /// Of a skill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skill: Option<String>,
    /// Of an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

crate::methods::words! {
    /// Kinds of principals, from most rights to least.
    PrincipalKind {
        /// The daemon's own user: its administrator.
        Owner = "owner",
        /// Another user.
        User = "user",
        /// An agent: a connection lowered to it, or a process in one of its sessions.
        Agent = "agent",
        /// A process the kernel started, or a connection lowered by `identify`.
        Skill = "skill",
        /// A peer whose place among processes could not be told: it may talk, and touch nothing.
        Nobody = "nobody",
    }
}

/// Nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct PingParams {}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PingResult {
    /// True.
    pub pong: bool,
}

/// What to describe.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct IntrospectParams {
    /// One method; everything if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// Which call to abandon.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CancelParams {
    /// The call's id, exactly as it was sent.
    pub id: Raw,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CancelResult {
    /// False if no call of this id is in flight.
    pub cancelled: bool,
}

/// Nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DoctorParams {}

/// The machine's guarantees.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DoctorResult {
    /// One each.
    pub facts: Vec<Fact>,
}

/// One guarantee, and whether it holds here.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Fact {
    /// A short name, stable across releases.
    pub name: String,
    /// It holds in full.
    pub holds: bool,
    /// What is in force.
    pub value: String,
    /// Why it does not hold and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How to end.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownParams {
    /// Between SIGTERM and SIGKILL, milliseconds; 5,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// The end has begun.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShutdownResult {
    /// Always `stopping`.
    pub status: ShutdownStatus,
    /// Trees that are being ended.
    pub processes: u32,
}

crate::methods::words! {
    /// The answer to `kernel.shutdown`.
    ShutdownStatus {
        /// No new work is taken.
        Stopping = "stopping",
    }
}

/// Nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct GetMetricsParams {}

/// What the machine does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GetMetricsResult {
    /// Processors.
    pub cpu: CpuMetrics,
    /// Memory.
    pub memory: MemoryMetrics,
    /// Absent on machines without one.
    pub battery: Option<BatteryMetrics>,
}

/// Processors.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CpuMetrics {
    /// Percent of all processors since the caller's previous call, 0 to 100; 0 in the first.
    pub usage: u32,
    /// Degrees Celsius, where there is a sensor.
    pub temperature: Option<f64>,
}

/// Memory, MiB.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MemoryMetrics {
    /// All there is.
    pub total: u64,
    /// `total` less `free`.
    pub used: u64,
    /// MemFree.
    pub free: u64,
}

/// A battery.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BatteryMetrics {
    /// Percent.
    pub level: u32,
    /// It is being charged.
    pub charging: bool,
}
