//! Agents and their sessions: names that last longer than a connection, and times of work that grants are bound to.
//!
//! Who comes as an agent is told by its place under the keeper (a process in one of its sessions), or was lowered to it by
//! somebody with more rights. Invariant: a session's agent is there as long as the session is.

mod keeping;
mod lasting;

pub use keeping::{AGENT_PREFIX, SESSION_PREFIX as SESSION_VALUE_PREFIX};

use kairo_dataplane::key::TimerKey;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What names of agents' sessions begin with.
pub(crate) const SESSION_PREFIX: &str = "as_";
/// Agents of one user.
pub(crate) const AGENTS_MAX: usize = 1_024;
/// Sessions of one agent.
pub(crate) const SESSIONS_MAX: usize = 1_024;
/// Longest name, bytes.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    /// Who made it.
    pub by: Box<str>,
    /// When, milliseconds since 1970.
    pub created_ms: u64,
    /// Until when, milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// A session of an agent.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The user of its agent.
    pub uid: u32,
    /// Its agent.
    pub agent: Arc<str>,
    /// When it began, milliseconds since 1970.
    pub created_ms: u64,
    /// Until when, milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// All there are.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    /// By user and name.
    pub agents: BTreeMap<(u32, Arc<str>), Agent>,
    /// By their names.
    pub sessions: BTreeMap<Arc<str>, Session>,
    /// Rings when the next of either expires, and at which time of the clock that is.
    pub expiry: Option<(TimerKey, u64)>,
}

/// Whether a text can be the name of an agent.
pub(crate) fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(good)
}
