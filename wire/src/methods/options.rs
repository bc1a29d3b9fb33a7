//! What a spawn can ask for.
//!
//! Every option is either carried out or refused by name; none is ignored. Values that have more than one form on
//! the wire (`pty: true` or a size, a signal by name or number) are read here into one.

use crate::codec::raw::Raw;
use crate::codec::text::OsText;
use crate::limits::TERMINAL_EXTENT_MAX;
use crate::methods::permission::SkillOption;
use crate::methods::restart::Restart;
use crate::methods::spool::SpoolOption;
pub use crate::methods::stdin::{StdinOption, StdinStream};
use crate::methods::stream::Rate;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Unexpected, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// How to run a program. All optional.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SpawnOptions {
    /// Its working folder; the kernel's own if absent, or the home folder of the other user it runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<OsText>,
    /// Variables, over the default environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, OsText>,
    /// Begin with the kernel's own environment instead of the default one. The owner's only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inherit_env: bool,
    /// Names of variables whose values are never written to a log, an event or a status.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret_env: Vec<String>,
    /// Places in `command` whose values are never written to a log, an event or a status.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret_args: Vec<u32>,
    /// What it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Accept that a limit is enforced more weakly than by a cgroup; the status says how.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_weaker: bool,
    /// What it may reach: a profile, or a `SandboxRuntimeConfig`; see "Containment" in ARCHITECTURE. What this machine
    /// can't enforce is refused with `E_UNSUPPORTED` and the protection's name, unless `acceptWeaker` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Raw>,
    /// The skill it is: it runs under what was approved of that skill's manifest, contained by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skill: Option<SkillOption>,
    /// The session of an agent it runs in: it is that agent, for all it calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_session: Option<String>,
    /// A terminal instead of pipes.
    #[serde(skip_serializing_if = "Pty::is_absent")]
    pub pty: Pty,
    /// What it reads.
    pub stdin: StdinOption,
    /// Where it complains.
    pub stderr: StderrOption,
    /// Size to ask for its pipes, bytes; 262,144 if absent. The status tells what is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipe_bytes: Option<u32>,
    /// How much output is kept.
    pub history: HistoryOption,
    /// What an output nobody reads does when its history is full.
    #[serde(alias = "when_unread")]
    pub when_unread: WhenUnread,
    /// What happens to the tree when the connection that spawned it closes.
    #[serde(alias = "on_disconnect")]
    pub on_disconnect: OnDisconnect,
    /// Whom it runs as; the caller if absent. Only root's daemon can do others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Write its outputs to disk, so that any part of them can be read later.
    #[serde(skip_serializing_if = "SpoolOption::is_absent")]
    pub spool: SpoolOption,
    /// How fast it may write: each output is taken from at this rate, and the child waits when its pipe is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Its record in the state folder: absent, it is written and reaches the disk within a second; true, the answer
    /// waits until the disk has it (one flush at most, shared with others); false, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
    /// Whether it is started again when it ends.
    #[serde(skip_serializing_if = "Restart::is_never")]
    pub restart: Restart,
    /// What reads its output for how far it is, and publishes that as `kairo.process.progress`: the name of an adapter,
    /// or `auto` for the one that suits the program, if any does. It may put words between the program and its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The SHA-256 of the program, hexadecimal: one that has another is not run, whatever was put in its place up to the
    /// moment it is executed (`E_PERMISSION_DENIED`, with both digests). `E_UNSUPPORTED` where that can't be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program_digest: Option<String>,
    /// Tell what is executed, with its digest, in the answer, in `kairo.process.spawned` and in the status.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub measure_program: bool,
    /// Take `programDigest` as met also where the program can be changed after it was read: a script, or a file that
    /// others than this machine write to. Otherwise that is refused with `E_UNSUPPORTED`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_weaker_program: bool,
    /// Tell what its sandbox denies it, as `kairo.security.violation`, as far as this machine lets that be heard (`kairo
    /// doctor`, `sandboxViolations`). It costs the start of the program a second filter, and what is denied a record.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub watch: bool,
    /// Cores it and what it starts may run on. One that isn't online, or not the kernel's to use, is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Vec<u16>>,
    /// The core whose reactor serves its streams, and stays there from now on. The owner's only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reactor_cpu: Option<u16>,
}

/// What a process and its tree may use. All optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// Processor time, percent of one CPU. Needs a cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Memory, MiB. Needs a cgroup, or `allowWeaker` (then RLIMIT_AS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processes and threads at a time. Needs a cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// setrlimit(2), soft and hard alike, by name; in the unit of the manual page.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rlimits: BTreeMap<Rlimit, u64>,
}

macro_rules! rlimits {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A resource of setrlimit(2).
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, serde::Deserialize, JsonSchema,
        )]
        pub enum Rlimit {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Rlimit {
            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Rlimit::$variant => $name,)+ }
            }
        }
    };
}

rlimits! {
    /// Address space, bytes.
    As = "as",
    /// Core file, bytes.
    Core = "core",
    /// Processor time, seconds.
    Cpu = "cpu",
    /// Data segment, bytes.
    Data = "data",
    /// Largest file, bytes.
    Fsize = "fsize",
    /// Locked memory, bytes.
    Memlock = "memlock",
    /// Open files.
    Nofile = "nofile",
    /// Processes of the user.
    Nproc = "nproc",
    /// Stack, bytes.
    Stack = "stack",
}

crate::methods::words! {
    /// Where a child complains.
    StderrOption or Pipe {
        /// A stream of its own.
        Pipe = "pipe",
        /// The stream `stdout`.
        Stdout = "stdout",
        /// Where the kernel itself complains. Embedded kernel only, else `E_UNSUPPORTED`.
        Inherit = "inherit",
    }
}

crate::methods::words! {
    /// What an output nobody reads does.
    WhenUnread or Drop {
        /// It goes on: the middle is counted and dropped.
        Drop = "drop",
        /// It waits when its history is full.
        Block = "block",
    }
}

crate::methods::words! {
    /// What the end of a connection means to what it spawned.
    OnDisconnect or Keep {
        /// Nothing.
        Keep = "keep",
        /// The tree is killed.
        Kill = "kill",
    }
}

/// Rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
pub struct TerminalSize {
    /// Lines.
    #[serde(deserialize_with = "extent")]
    #[schemars(range(min = 1, max = 65534))]
    pub rows: u16,
    /// Columns.
    #[serde(deserialize_with = "extent")]
    #[schemars(range(min = 1, max = 65534))]
    pub cols: u16,
}

impl TerminalSize {
    /// 24 × 80.
    pub const DEFAULT: TerminalSize = TerminalSize { rows: 24, cols: 80 };
}

/// Rows or columns: 1 to 65,534.
pub(crate) fn extent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let value = u64::deserialize(deserializer)?;
    match u16::try_from(value) {
        Ok(extent) if (1..=TERMINAL_EXTENT_MAX).contains(&extent) => Ok(extent),
        _ => Err(de::Error::invalid_value(Unexpected::Unsigned(value), &"1 to 65534")),
    }
}

/// A terminal, or none. On the wire: a size, `true` (24 × 80) or `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pty(pub Option<TerminalSize>);

impl Pty {
    fn is_absent(&self) -> bool {
        self.0.is_none()
    }
}

impl Serialize for Pty {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(size) => size.serialize(serializer),
            None => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Pty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PtyVisitor;

        impl<'de> Visitor<'de> for PtyVisitor {
            type Value = Pty;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a boolean or {rows, cols}")
            }

            fn visit_bool<E>(self, wanted: bool) -> Result<Pty, E> {
                Ok(Pty(wanted.then_some(TerminalSize::DEFAULT)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Pty, A::Error> {
                TerminalSize::deserialize(de::value::MapAccessDeserializer::new(map))
                    .map(|size| Pty(Some(size)))
            }
        }

        deserializer.deserialize_any(PtyVisitor)
    }
}

impl JsonSchema for Pty {
    fn schema_name() -> Cow<'static, str> {
        "Pty".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A terminal of this size, `true` for 24 × 80, or `false` for pipes.",
            "anyOf": [{ "type": "boolean" }, generator.subschema_for::<TerminalSize>()],
        })
    }
}

/// How much output outlives its delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistoryOption {
    /// The daemon's default: 64 KiB of head, 256 KiB of tail.
    #[default]
    Default,
    /// Nothing (`"none"`): bytes only pass. Refused with `E_UNSUPPORTED` for now.
    None,
    /// This much.
    Sizes {
        /// The first bytes of a stream.
        head_bytes: Option<u32>,
        /// The latest.
        tail_bytes: Option<u32>,
    },
}

#[derive(Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HistorySizes")]
struct HistorySizes {
    /// The first bytes of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    head_bytes: Option<u32>,
    /// The latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    tail_bytes: Option<u32>,
}

impl Serialize for HistoryOption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            HistoryOption::Default => serializer.serialize_str("default"),
            HistoryOption::None => serializer.serialize_str("none"),
            HistoryOption::Sizes { head_bytes, tail_bytes } => {
                HistorySizes { head_bytes, tail_bytes }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for HistoryOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HistoryVisitor;

        impl<'de> Visitor<'de> for HistoryVisitor {
            type Value = HistoryOption;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"default\", \"none\" or {headBytes, tailBytes}")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<HistoryOption, E> {
                match word {
                    "default" => Ok(HistoryOption::Default),
                    "none" => Ok(HistoryOption::None),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HistoryOption, A::Error> {
                let HistorySizes { head_bytes, tail_bytes } =
                    HistorySizes::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(HistoryOption::Sizes { head_bytes, tail_bytes })
            }
        }

        deserializer.deserialize_any(HistoryVisitor)
    }
}

impl JsonSchema for HistoryOption {
    fn schema_name() -> Cow<'static, str> {
        "HistoryOption".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How much output outlives its delivery.",
            "anyOf": [{ "enum": ["default", "none"] }, generator.subschema_for::<HistorySizes>()],
        })
    }
}

/// A user, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// In the user database.
    Name(String),
    /// Its uid.
    Uid(u32),
}

impl Serialize for User {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            User::Name(name) => serializer.serialize_str(name),
            User::Uid(uid) => serializer.serialize_u32(*uid),
        }
    }
}

impl<'de> Deserialize<'de> for User {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UserVisitor;

        impl Visitor<'_> for UserVisitor {
            type Value = User;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a user name or uid")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<User, E> {
                if name.is_empty() || name.contains('\0') {
                    return Err(E::invalid_value(Unexpected::Str(name), &self));
                }
                Ok(User::Name(name.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, uid: u64) -> Result<User, E> {
                // The largest is (uid_t)-1, which means "no change" to setresuid(2).
                match u32::try_from(uid) {
                    Ok(uid) if uid != u32::MAX => Ok(User::Uid(uid)),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(uid), &self)),
                }
            }
        }

        deserializer.deserialize_any(UserVisitor)
    }
}

impl JsonSchema for User {
    fn schema_name() -> Cow<'static, str> {
        "User".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A user, by name or uid.",
            "oneOf": [
                { "type": "string", "minLength": 1 },
                { "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 },
            ],
        })
    }
}

/// A signal, as it was named: `"HUP"`, `"SIGHUP"`, `"hup"` or a number. Numbers of names differ between systems, so a
/// name stays a name here; [`SignalName::number`] knows those that don't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalName {
    /// Upper case, without `SIG`; one of [`SIGNALS`].
    Name(&'static str),
    /// 1 to 64.
    Number(i32),
}

/// Names of signals, and their numbers on Linux.
pub const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl SignalName {
    /// Reads a name, with or without `SIG`, in any case; or a number in digits.
    pub fn from_text(text: &str) -> Option<SignalName> {
        if let Ok(number) = text.parse::<i64>() {
            return SignalName::from_number(number);
        }
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let exact = SIGNALS.iter().find(|(name, _)| *name == bare).map(|(name, _)| SignalName::Name(name));
        exact.or_else(|| SignalName::real_time(bare))
    }

    /// `RTMIN`, `RTMIN+3`, `RTMAX`, `RTMAX-1`: numbers on Linux, as its C library gives them out (signal(7)).
    fn real_time(bare: &str) -> Option<SignalName> {
        const FIRST: i64 = 34;
        const LAST: i64 = 64;
        let offset = |text: &str, sign: char| match text {
            "" => Some(0),
            text => text.strip_prefix(sign)?.parse::<u8>().ok().map(i64::from),
        };
        let number = match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
            (Some(text), _) => FIRST + offset(text, '+')?,
            (None, Some(text)) => LAST - offset(text, '-')?,
            (None, None) => return None,
        };
        if (FIRST..=LAST).contains(&number) { SignalName::from_number(number) } else { None }
    }

    /// 1 to 64.
    pub fn from_number(number: i64) -> Option<SignalName> {
        i32::try_from(number).ok().filter(|n| (1..=64).contains(n)).map(SignalName::Number)
    }

    /// The number on Linux.
    pub fn number(&self) -> i32 {
        match self {
            SignalName::Number(number) => *number,
            SignalName::Name(wanted) => {
                SIGNALS.iter().find(|(name, _)| name == wanted).map_or(0, |(_, number)| *number)
            }
        }
    }

    /// The name of a number on Linux.
    pub fn name_of(number: i32) -> Option<&'static str> {
        SIGNALS.iter().find(|(_, n)| *n == number).map(|(name, _)| *name)
    }
}

impl Serialize for SignalName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SignalName::Name(name) => serializer.serialize_str(name),
            SignalName::Number(number) => serializer.serialize_i32(*number),
        }
    }
}

impl<'de> Deserialize<'de> for SignalName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SignalVisitor;

        impl Visitor<'_> for SignalVisitor {
            type Value = SignalName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a signal name (\"TERM\", \"SIGTERM\") or number (1 to 64)")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SignalName, E> {
                SignalName::from_text(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<SignalName, E> {
                SignalName::from_number(number)
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<SignalName, E> {
                i64::try_from(number)
                    .ok()
                    .and_then(SignalName::from_number)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_any(SignalVisitor)
    }
}

impl JsonSchema for SignalName {
    fn schema_name() -> Cow<'static, str> {
        "SignalName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A signal: its name, with or without SIG, or its number.",
            "oneOf": [{ "type": "string" }, { "type": "integer", "minimum": 1, "maximum": 64 }],
        })
    }
}
