//! Methods: one row each.
//!
//! A method is declared once, in `methods/`, as a typed marker (`impl Method`) whose row carries its name, its
//! documentation, the shapes of parameters and result, the permission it needs, the errors it can give and an
//! example. Everything that lists or describes methods reads [`METHODS`]. What a method *does* is in the control
//! plane's file of the same name.

use crate::codec::decode;
use crate::codec::raw::RawRef;
use crate::error::{Code, WireError};
use crate::methods::{
    agent, audit, consumer, device, event, identity, intent, log, open, permission, pipeline, process,
    publish, quota, stream, system, usage, view,
};
use crate::permission::Permission;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A method, for callers and callees that want types.
pub trait Method {
    /// Its name on the wire.
    const NAME: &'static str;
    /// Its row.
    const ROW: &'static MethodRow;
    /// What it takes.
    type Params: Serialize + DeserializeOwned + JsonSchema;
    /// What it gives.
    type Result: Serialize + DeserializeOwned + JsonSchema;
}

/// A method, for everybody who goes through all of them.
#[derive(Debug)]
pub struct MethodRow {
    /// `room.verb`.
    pub name: &'static str,
    /// What it does, in Markdown; the first line is a summary.
    pub doc: &'static str,
    /// The schema of its parameters.
    pub params: fn(&mut SchemaGenerator) -> Schema,
    /// The schema of its result.
    pub result: fn(&mut SchemaGenerator) -> Schema,
    /// Names that must be there, in the order an error lists them.
    pub required: &'static [Need],
    /// What the caller must hold.
    pub permission: Permission,
    /// It changes something: it is told to the log, and a key makes it happen once.
    pub changes: bool,
    /// Since when it has been there.
    pub since: Since,
    /// What it answers with besides `E_INVALID_PARAMS`, `E_PERMISSION_DENIED`, `E_TIMEOUT`, `E_CANCELLED` and
    /// `E_QUOTA_EXCEEDED`, which any method may, and `E_CONFLICT`, which any that changes something may.
    pub errors: &'static [Code],
    /// Parameters of a call that makes sense, JSON.
    pub example: &'static str,
}

impl MethodRow {
    /// True when a call of it is an event of its own (`kairo.kernel.called`). What publishes an event or works on an intent
    /// is told by the event it makes; bytes for a stdin and what is done with an event are no events.
    pub fn is_told(&self) -> bool {
        let tells_itself = ["event.", "intent.", "consumer.ack", "consumer.nak", "process.stdin.write"];
        self.changes && !tells_itself.iter().any(|name| self.name.starts_with(name))
    }
}

impl MethodRow {
    /// True when a call of it belongs in the audit, as far as it is told: it starts or ends what acts for somebody, changes who
    /// may do what, or takes away what was kept.
    pub fn is_sensitive(&self) -> bool {
        const ROOMS: [&str; 4] = ["permission.", "agent.", "session.", "vault."];
        const METHODS: [&str; 13] = [
            "process.spawn",
            "process.kill",
            "process.signal",
            "kernel.shutdown",
            "event.compact",
            "consumer.delete",
            "view.drop",
            "intent.cancel",
            "identify",
            "audit.prune",
            "view.define",
            "pipeline.spawn",
            "pipeline.kill",
        ];
        let in_room = || ROOMS.iter().any(|room| self.name.starts_with(room));
        METHODS.contains(&self.name) || (in_room() && (self.changes || self.name == "vault.get"))
    }
}

impl MethodRow {
    /// True when a call with a key has its answer kept in the log, so that a repetition gets it. Not where the effect is the
    /// connection's own, and not of writes to a stdin: those remember their keys beside their bytes.
    pub fn keeps_receipt(&self) -> bool {
        self.changes && !["identify", "process.stdin.write"].contains(&self.name)
    }
}

/// A required parameter.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Its name, and the one an error uses.
    pub name: &'static str,
    /// Another name it may have.
    pub alias: Option<&'static str>,
    /// True if `""`, `0` and `false` count as missing, as they did for v1.
    pub truthy: bool,
}

/// Must be there and not be `""`, `0` or `false`.
pub const fn need(name: &'static str) -> Need {
    Need { name, alias: None, truthy: true }
}

/// Must be there under one of two names.
pub const fn need_either(name: &'static str, alias: &'static str) -> Need {
    Need { name, alias: Some(alias), truthy: true }
}

/// Must be there, whatever it is.
pub const fn need_any(name: &'static str) -> Need {
    Need { name, alias: None, truthy: false }
}

/// When a method appeared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Existing clients of wire v1 call it.
    V1,
    /// New in this release.
    Release(&'static str),
}

impl Since {
    /// `v1` or the release's number.
    pub fn name(self) -> &'static str {
        match self {
            Since::V1 => "v1",
            Since::Release(number) => number,
        }
    }
}

/// Declares markers, their `Method` and their rows.
macro_rules! methods {
    ($($(#[doc = $doc:literal])+
       $marker:ident = $name:literal($params:ty) -> $result:ty {
           required: [$($need:expr),* $(,)?],
           permission: $permission:ident,
           $(changes: $changes:literal,)?
           since: $since:expr,
           errors: [$($code:ident),* $(,)?],
           example: $example:literal $(,)?
       })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug)]
            pub struct $marker;

            impl $crate::method::Method for $marker {
                const NAME: &'static str = $name;
                const ROW: &'static $crate::method::MethodRow = &$crate::method::MethodRow {
                    name: $name,
                    doc: concat!($($doc, "\n"),+),
                    params: |generator| generator.subschema_for::<$params>(),
                    result: |generator| generator.subschema_for::<$result>(),
                    required: &[$($need),*],
                    permission: $crate::permission::Permission::$permission,
                    changes: false $(|| $changes)?,
                    since: $since,
                    errors: &[$($crate::error::Code::$code),*],
                    example: $example,
                };
                type Params = $params;
                type Result = $result;
            }
        )+
    };
}
pub(crate) use methods;

/// All methods, in the order documentation lists them.
pub const METHODS: &[&MethodRow] = &[
    system::Hello::ROW,
    system::Ping::ROW,
    system::Introspect::ROW,
    system::Cancel::ROW,
    system::Doctor::ROW,
    system::Shutdown::ROW,
    system::GetMetrics::ROW,
    process::Spawn::ROW,
    process::Kill::ROW,
    process::Signal::ROW,
    process::Pause::ROW,
    process::Resume::ROW,
    process::StdinWrite::ROW,
    process::StdinClose::ROW,
    process::Resize::ROW,
    process::Wait::ROW,
    process::Status::ROW,
    process::List::ROW,
    stream::Subscribe::ROW,
    stream::Unsubscribe::ROW,
    stream::Configure::ROW,
    stream::ConfigureReader::ROW,
    open::Open::ROW,
    open::Close::ROW,
    open::OpenStdin::ROW,
    event::Subscribe::ROW,
    event::Unsubscribe::ROW,
    event::Publish::ROW,
    event::PublishBatch::ROW,
    event::Replay::ROW,
    intent::Begin::ROW,
    intent::End::ROW,
    intent::List::ROW,
    intent::Status::ROW,
    intent::Timeline::ROW,
    intent::Cancel::ROW,
    intent::Register::ROW,
    intent::Release::ROW,
    event::Request::ROW,
    log::Compact::ROW,
    log::LogStatus::ROW,
    consumer::Create::ROW,
    consumer::Attach::ROW,
    consumer::Ack::ROW,
    consumer::Nak::ROW,
    consumer::List::ROW,
    consumer::Status::ROW,
    consumer::Delete::ROW,
    view::Define::ROW,
    view::Drop::ROW,
    view::Rebuild::ROW,
    view::List::ROW,
    view::Get::ROW,
    view::Changes::ROW,
    view::Watch::ROW,
    identity::Identify::ROW,
    identity::VaultGet::ROW,
    device::List::ROW,
    permission::Request::ROW,
    permission::Pending::ROW,
    permission::Approve::ROW,
    permission::Deny::ROW,
    permission::Give::ROW,
    permission::Grants::ROW,
    permission::Revoke::ROW,
    permission::Can::ROW,
    agent::Create::ROW,
    agent::Remove::ROW,
    agent::List::ROW,
    agent::SessionCreate::ROW,
    agent::SessionEnd::ROW,
    quota::Status::ROW,
    audit::AuditQuery::ROW,
    audit::AuditStatus::ROW,
    audit::AuditVerify::ROW,
    audit::AuditExport::ROW,
    audit::AuditCheckpoint::ROW,
    audit::AuditPrune::ROW,
    usage::Usage::ROW,
    pipeline::Spawn::ROW,
    pipeline::Status::ROW,
    pipeline::Wait::ROW,
    pipeline::Kill::ROW,
    pipeline::List::ROW,
    publish::Publish::ROW,
];

/// Reads a method's parameters. Anything but a map counts as an empty one, as it did for v1. All missing names are
/// named in one error; a parameter of the wrong type is named by its path.
pub fn params<M: Method>(raw: RawRef<'_>) -> Result<M::Params, WireError> {
    const EMPTY: &[u8] = &[0x80];
    let raw = if raw.is_map() { raw } else { RawRef::checked(EMPTY) };
    raw.decode().map_err(|error| missing(M::ROW, raw).unwrap_or_else(|| error.into()))
}

/// The error that names the required parameters `raw` lacks, if it lacks any.
pub fn missing(row: &MethodRow, raw: RawRef<'_>) -> Option<WireError> {
    let there = |need: &Need| {
        decode::entries(raw.bytes()).any(|(key, value)| {
            let named =
                key == need.name.as_bytes() || need.alias.is_some_and(|alias| key == alias.as_bytes());
            let absent = RawRef::checked(value).is_absent();
            // false, "", 0 and 0.0 in its two widths.
            let falsy =
                matches!(value, [0xc2 | 0xa0 | 0x00] | [0xca, 0, 0, 0, 0] | [0xcb, 0, 0, 0, 0, 0, 0, 0, 0]);
            named && !absent && !(need.truthy && falsy)
        })
    };
    let names: Vec<&str> = row.required.iter().filter(|need| !there(need)).map(|need| need.name).collect();
    (!names.is_empty()).then(|| WireError::missing(&names))
}

/// The row of a name.
pub fn row(name: &str) -> Option<&'static MethodRow> {
    METHODS.iter().find(|row| row.name == name).copied()
}
