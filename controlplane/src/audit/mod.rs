//! The audit: copies of the events that say who was allowed what and who did it, in a chain of hashes that is signed now and
//! then.
//!
//! ```text
//!   event ─is it audited?─▶ record n: hash n = SHA-256(hash n-1 ‖ record n) ─…─▶ checkpoint: n, hash n, signed with Ed25519
//! ```
//!
//! It is made where events are written, in the same batch, and kept in a space of its own that retention doesn't touch: what
//! is stored and recovered is in [`log::audit`](crate::events::log). Here are its bytes, and how anybody verifies them.
//! Invariant: nothing here reads a clock or a file; what is hashed is written once and never encoded again.

pub mod chain;
pub mod checkpoint;
pub mod export;
pub mod inspecting;
mod telling;
pub mod verify;

use crate::events::record::Record;
use kairo_wire::codec::decode::{entries, str_body};
use kairo_wire::event::{
    Event, IntentCancelling, KernelAuditBegun, KernelAuditDamaged, KernelAuditPruned, KernelCallFailed,
    KernelCalled, KernelCompacted, KernelLogDamaged, KernelReady, KernelRecordsFailed, KernelStopping,
    ProcessSpawned,
};
use kairo_wire::method;

/// Types of the kernel that begin so are audited, all of them …
const ROOMS: [&str; 5] =
    ["kairo.permission.", "kairo.security.", "kairo.agent.", "kairo.session.", "kairo.quota."];
/// … and so are these.
const TYPES: [&str; 10] = [
    ProcessSpawned::TOPIC,
    IntentCancelling::TOPIC,
    KernelReady::TOPIC,
    KernelStopping::TOPIC,
    KernelCompacted::TOPIC,
    KernelRecordsFailed::TOPIC,
    KernelLogDamaged::TOPIC,
    KernelAuditBegun::TOPIC,
    KernelAuditDamaged::TOPIC,
    KernelAuditPruned::TOPIC,
];

/// True if an event of this type, stored so, gets a record.
pub fn is_audited(topic: &str, record: &[u8]) -> bool {
    if !topic.starts_with("kairo.") {
        return false;
    }
    match topic {
        KernelCalled::TOPIC | KernelCallFailed::TOPIC => is_of_sensitive_call(record),
        _ => TYPES.contains(&topic) || ROOMS.iter().any(|room| topic.starts_with(room)),
    }
}

/// What can't be read is kept: better one too many.
fn is_of_sensitive_call(record: &[u8]) -> bool {
    let Ok(record) = Record::parse(0, record) else { return true };
    let called = text(&record, "method").and_then(method::row);
    called.is_none_or(method::MethodRow::is_sensitive)
}

/// A field of what an event says, if it is text.
fn text<'a>(record: &Record<'a>, field: &str) -> Option<&'a str> {
    if !record.data.is_map() {
        return None;
    }
    let (_, value) = entries(record.data.bytes()).find(|(key, _)| *key == field.as_bytes())?;
    std::str::from_utf8(str_body(value)?).ok()
}

/// Something to be done to the chain, at its place among the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// What there is is signed.
    Sign {
        /// What time it is, milliseconds since 1970.
        at_ms: u64,
    },
    /// So it is, and what was signed before a time is dropped.
    Prune {
        /// That time.
        before_ms: u64,
        /// What time it is.
        at_ms: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::record::tests::record;
    use kairo_wire::codec::raw::Raw;
    use serde_json::json;

    fn of(topic: &str, data: &serde_json::Value) -> bool {
        let data = Raw::of(data).expect("a value");
        let bytes = record(1, topic, &data).encode().expect("a record");
        is_audited(topic, &bytes)
    }

    #[test]
    fn what_decides_and_what_is_decided_is_audited_and_the_rest_is_not() {
        for topic in
            ["kairo.security.denied", "kairo.permission.granted", "kairo.process.spawned", "kairo.quota.x"]
        {
            assert!(of(topic, &json!({})), "{topic}");
        }
        for topic in [
            "a.b",
            "kairo.process.exited",
            "kairo.stream.closed",
            "kairo.securityx",
            "kairo.kernel.dead_letter",
        ] {
            assert!(!of(topic, &json!({})), "{topic}");
        }
    }

    #[test]
    fn of_calls_the_sensitive_ones_are_and_those_nobody_knows() {
        assert!(of("kairo.kernel.called", &json!({"method": "kernel.shutdown"})));
        assert!(of("kairo.kernel.call_failed", &json!({"method": "process.spawn", "code": "E_CWD"})));
        assert!(of("kairo.kernel.called", &json!({"method": "plugin.thing"})));
        assert!(!of("kairo.kernel.called", &json!({"method": "process.resize", "target": "x"})));
        assert!(is_audited("kairo.kernel.called", b"\xc1"));
    }
}
