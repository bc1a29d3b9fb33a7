//! Outputs of which nothing is kept: who may ask for them, and what can't be had of one.
//!
//! Nobody sees such bytes, this kernel included: they go from the child's pipe to readers' descriptors. So whatever would
//! need them in memory (lines, a place in the past, a larger history, a spool, an adapter) is refused by its field, and never
//! ignored.

use crate::kernel::Kernel;
use crate::state::{Process, RawSink, Wish};
use kairo_dataplane::command::{From, HistorySize, Mode, OutletKind, Policy, Stdio};
use kairo_dataplane::sys::pipe::SPLICES;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::options::{Pty, SpawnOptions};

/// The history of a process that is spawned to have none.
pub(crate) fn no_history(asked: &SpawnOptions, stdio: &Stdio) -> Result<HistorySize, WireError> {
    let conflict = |field: &str, why: &str| {
        let message = format!("options.history and {field}: {why}");
        Err(WireError::new(Code::Conflict, message)
            .with("field", field)
            .with("fields", vec!["options.history".to_owned(), field.to_owned()]))
    };
    if !SPLICES {
        return Err(WireError::unsupported("options.history", "this system can't relay without looking"));
    }
    if matches!(stdio, Stdio::Pty(_)) || asked.pty != Pty(None) {
        return conflict("options.pty", "a terminal's output is kept");
    }
    if asked.spool.0.is_some() {
        return conflict("options.spool", "what is written to disk is read first");
    }
    if asked.adapter.is_some() {
        return conflict("options.adapter", "an adapter reads what the program writes");
    }
    Ok(HistorySize::NONE)
}

impl Process {
    /// Nothing of its outputs is kept.
    pub(crate) fn is_relayed(&self) -> bool {
        self.history[0].is_none()
    }

    /// Whether a reader may have what it wishes of this process: the field that is in the way, and why.
    pub(crate) fn unsuited(&self, wish: &Wish) -> Option<(&'static str, &'static str)> {
        if !self.is_relayed() {
            return None;
        }
        if wish.mode != Mode::Chunk {
            return Some(("mode", "lines are found by looking at bytes"));
        }
        if matches!(wish.raw, Some(RawSink::Outlet { kind: OutletKind::Shared, .. })) {
            return Some(("transport", "there is no ring to share"));
        }
        if wish.policy == Policy::Latest {
            return Some(("policy", "of what is next nobody knows what will be the newest"));
        }
        if wish.history_bytes.is_some() {
            return Some(("bufferSize", "there is no history to be larger"));
        }
        // Who comes back after its kernel is told what it missed meanwhile.
        if matches!(wish.from, From::At(offsets) if offsets != [0; 2]) && !wish.resumes {
            return Some(("from", "only what comes next can be had"));
        }
        None
    }
}

impl Kernel {
    /// Whether a process, if it is there, has what a reader wishes.
    pub(crate) fn can_have(&self, target: &ProcessId, wish: &Wish) -> Result<(), WireError> {
        let lack = self.state.exactly(target).and_then(|process| process.unsuited(wish));
        lack.map_or(Ok(()), |lack| Err(refusal(target, lack)))
    }
}

/// What a reader wants that a relayed process doesn't have.
pub(crate) fn refusal(id: &ProcessId, (field, why): (&'static str, &'static str)) -> WireError {
    let message = format!("{field}: {id} was spawned with history: none, and {why}");
    WireError::new(Code::Conflict, message).with("field", field).with("id", id.to_string())
}
