//! Spawns that happen once: a call that carries the key of an earlier one gets that one's answer.
//!
//! ```text
//!   spawn K ──▶ key K: its process ──starting──▶ both calls are answered when it runs
//!   spawn K ────────┘                  ran ────▶ the receipt, as long as the record is remembered
//!                                      failed ─▶ the key is free
//! ```
//!
//! A key belongs to who used it and to the method; other parameters under the same key are an error, because one of
//! the two calls is a mistake. Spawns that wait for an id hold no key yet: of several with one key the first that gets
//! the id starts the process, and the others join it.
//!
//! Invariant: `keys` names exactly the processes that have a key, each by its own. Keys of writes to a stdin are the
//! data plane's, which knows what has been written.

use crate::calls::{Asking, Turn};
use crate::digest::IdempotencyKey;
use crate::kernel::Kernel;
use crate::state::{Pending, Phase, Process};
use kairo_dataplane::key::WriteKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::methods::process::{SpawnResult, SpawnStatus};

/// A key as it was given, and what it digests to.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// With the caller, the method and the parameters.
    pub key: IdempotencyKey,
    /// `meta.idempotencyKey`, for errors.
    pub text: Box<str>,
}

impl Given {
    /// For the data plane.
    pub(crate) fn write_key(&self) -> WriteKey {
        let IdempotencyKey { name, body } = self.key;
        WriteKey { key: [(name >> 64) as u64, name as u64], body }
    }

    fn conflict(&self) -> WireError {
        let message = format!("meta.idempotencyKey: {:?} was used for another spawn", self.text);
        WireError::new(Code::Conflict, message)
            .with("field", "meta.idempotencyKey")
            .with("idempotencyKey", &*self.text)
    }
}

impl Kernel {
    /// A process of a former kernel was spawned with this key: a call that carries it gets the process's receipt. For
    /// adoption: the process is in the tables.
    pub fn remember_key(&mut self, process: u64, key: IdempotencyKey) {
        let Some(named) = self.state.processes.get_mut(&process) else { return };
        named.key_used = Some(key);
        let former = self.state.keys.insert(key.name, process).filter(|former| *former != process);
        if let Some(former) = former.and_then(|serial| self.state.processes.get_mut(&serial)) {
            former.key_used = None;
        }
    }

    /// The key a call carries.
    pub(crate) fn given_key(&self, asking: &Asking<'_>) -> Result<Option<Given>, WireError> {
        let Some(text) = asking.meta.as_ref().and_then(|meta| meta.idempotency_key.as_deref()) else {
            return Ok(None);
        };
        if text.is_empty() {
            return Err(WireError::invalid("meta.idempotencyKey", "a key is not empty"));
        }
        let caller = self.principal(asking.connection).creator(self.config.owner_uid);
        let key = IdempotencyKey::of(&caller, asking.method, text, asking.params.bytes());
        Ok(Some(Given { key, text: text.into() }))
    }

    /// The process an earlier call with this key has started or is starting.
    pub(crate) fn spawned_with(&self, given: &Given) -> Result<Option<&Process>, WireError> {
        let process =
            self.state.keys.get(&given.key.name).and_then(|serial| self.state.processes.get(serial));
        match process {
            Some(process) if process.key_used != Some(given.key) => Err(given.conflict()),
            found => Ok(found.map(|process| &**process)),
        }
    }

    /// Answers a repeated spawn as its first one was or will be. False if it is the first.
    pub(crate) fn repeat_spawn(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        given: &Given,
    ) -> Result<bool, WireError> {
        let Some(process) = self.spawned_with(given)? else { return Ok(false) };
        let serial = process.key.serial;
        match process.phase {
            _ if process.flushing => {
                let call = self.park(turn, asking, Pending::Spawn { process: serial });
                self.await_spawn(serial, call);
            }
            Phase::Starting => {
                let call = self.park(turn, asking, Pending::Spawn { process: serial });
                self.await_spawn(serial, call);
            }
            Phase::Running | Phase::Exited | Phase::Lost => {
                let result = receipt(process);
                self.answer(turn, asking, &result);
            }
        }
        Ok(true)
    }

    /// A parked spawn waits for this process to run.
    pub(crate) fn await_spawn(&mut self, process: u64, call: u64) {
        if let Some(process) = self.state.processes.get_mut(&process) {
            process.spawning.push(call);
        }
    }

    /// The spawn came to nothing, or is undone: the key is free.
    pub(crate) fn free_key(&mut self, process: u64) {
        let Some(process) = self.state.processes.get_mut(&process) else { return };
        if let Some(key) = process.key_used.take() {
            self.state.keys.remove(&key.name);
        }
    }
}

/// What the spawn of a process that runs, or ran, is answered with.
pub(crate) fn receipt(process: &Process) -> SpawnResult {
    SpawnResult { status: SpawnStatus::Spawned, id: process.id.clone(), pid: process.pid }
}
