//! Writing lives down: which moments make a record, and what a spawn that wants the disk to have it waits for.
//!
//! ```text
//!   Spawned ──record──▶ worker ─┬─ durable: true ─▶ flushed ─▶ the spawn is answered
//!                               └─ absent ────────▶ nobody waits
//! ```
//!
//! What an entry holds is in [`records`](crate::records). Invariant: of a life with `durable: false`, and in an
//! embedded kernel, nothing is written.

use crate::calls::Turn;
use crate::clock::wall_ms;
use crate::events::journal::Awaiting;
use crate::events::outlet;
use crate::kernel::Kernel;
use crate::records::{Entry, Life, Spec};
use crate::sessions::lifecycle::receipt;
use crate::sessions::report;
use crate::state::{Phase, Process};
use bytes::Bytes;
use kairo_dataplane::key::Channel;
use kairo_wire::error::{Code, WireError};
use kairo_wire::methods::status::{EndCause, EndedBy, RecordStatus};
use kairo_wire::methods::system::Fact;

impl Kernel {
    /// Whether a spawn that insists on a record can have one.
    pub(crate) fn takes_records(&self, durable: Option<bool>) -> Result<(), WireError> {
        match &self.journal.broken {
            Some(reason) if durable == Some(true) => Err(unrecorded(reason)),
            Some(_) | None => Ok(()),
        }
    }

    /// What `kernel.doctor` says of the records.
    pub(crate) fn records_fact(&self) -> Fact {
        let name = "durableRecords".to_owned();
        match &self.journal.broken {
            _ if self.config.embedded => {
                let value = "an embedded kernel keeps none: its processes end with it".to_owned();
                Fact { name, holds: false, value, advice: Some("use `kairo serve`".to_owned()) }
            }
            Some(reason) => {
                let advice = "make room or repair the disk, then start the kernel again".to_owned();
                Fact { name, holds: false, value: reason.clone(), advice: Some(advice) }
            }
            None => Fact { name, holds: true, value: "the state folder takes them".to_owned(), advice: None },
        }
    }

    /// Writes down that a process runs. True when its spawn has to wait for the disk.
    pub(crate) fn record_birth(&mut self, serial: u64) -> bool {
        let Some(process) = self.state.processes.get_mut(&serial) else { return false };
        if process.record == RecordStatus::None {
            return false;
        }
        let secret = process.spec().map(|spec| spec.to_bytes()).transpose();
        let clear = Entry::Spawned(Box::new(life(process))).to_bytes();
        let (secret, clear) = match (secret, clear) {
            (Ok(secret), Ok(clear)) => (secret.unwrap_or_default(), clear),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(component = "controlplane", processId = %process.id, %error, "a life is not recorded");
                process.record = RecordStatus::Failed;
                return false;
            }
        };
        let waits = process.durable && !process.spawning.is_empty();
        process.record =
            if self.journal.broken.is_some() { RecordStatus::Failed } else { RecordStatus::Written };
        let record = outlet::Life { clear: clear.into(), secret: secret.into() };
        process.flushing = waits;
        self.journal.life(record);
        if waits && self.journal.broken.is_none() {
            self.journal.when_flushed(Awaiting::Birth(serial));
        }
        waits
    }

    /// Hands one entry to the log.
    pub(crate) fn write_life(&mut self, entry: &Entry) {
        match entry.to_bytes() {
            Ok(clear) => self.journal.life(outlet::Life { clear: clear.into(), secret: Bytes::new() }),
            Err(error) => tracing::error!(component = "controlplane", %error, "an entry is not recorded"),
        }
    }

    /// Writes down what happened to a process, if its beginning was.
    pub(crate) fn note_down(&mut self, serial: u64, entry: impl FnOnce(String) -> Entry) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        if process.record == RecordStatus::Written {
            let entry = entry(process.session.as_str().to_owned());
            self.write_life(&entry);
        }
    }

    /// Writes down how an output ended.
    pub(crate) fn record_close(&mut self, serial: u64, channel: Channel) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        // Of a tree that is gone nothing is kept, so there is nothing to add to; unless another life is to follow.
        let is_kept = !process.tree_gone || process.renewal.is_some();
        let Some(end) = process.ends[channel as usize].filter(|_| is_kept) else { return };
        let stderr = channel == Channel::Stderr;
        let (total_bytes, cut_bytes) = (end.total_bytes, end.cut_bytes);
        self.note_down(serial, |session| Entry::Closed { session, stderr, total_bytes, cut_bytes });
    }

    /// The disk has the record that spawns wait for, or hasn't.
    pub(crate) fn birth_kept(&mut self, turn: &mut Turn<'_>, serial: u64, flushed: bool) {
        let Some(process) = self.state.processes.get_mut(&serial) else { return };
        process.flushing = false;
        process.record = if flushed { RecordStatus::Written } else { RecordStatus::Failed };
        let calls = std::mem::take(&mut process.spawning);
        if flushed {
            let result = receipt(process);
            for call in calls {
                self.resolve(turn, call, &result);
            }
        } else {
            let principal = process.creator.told(self.config.owner_uid);
            self.doom(turn, serial, EndedBy { cause: EndCause::Unrecorded, principal: Some(principal) });
            for call in calls {
                self.reject(turn, call, &unrecorded("the disk did not take the record"));
            }
        }
        self.settle(turn, serial);
    }
}

/// A spawn that insists on its record can't have it.
fn unrecorded(reason: &str) -> WireError {
    let message = format!("options.durable: {reason}");
    WireError::new(Code::Unavailable, message).with("field", "options.durable")
}

fn life(process: &Process) -> Life {
    debug_assert!(process.phase == Phase::Running, "what is recorded runs");
    let renewal = process.renewal.as_deref();
    Life {
        id: process.id.clone(),
        session: process.session.as_str().to_owned(),
        owner_uid: process.creator.uid,
        owner_session: process.creator.session.as_deref().map(str::to_owned),
        owner_skill: process.creator.name.as_deref().map(str::to_owned),
        argv: report::texts(&process.argv),
        cwd: process.cwd.clone().and_then(report::text),
        run_uid: process.run_uid,
        pid: process.pid,
        start_ticks: process.start_ticks,
        started_ms: wall_ms(process.started),
        terminal: process.terminal.map(|size| (size.rows, size.cols)),
        stderr: process.has(Channel::Stderr),
        history: (process.history[0].head_bytes, process.history[0].tail_bytes),
        spool: process.spool,
        restart: renewal.map(|renewal| renewal.plan.restart).unwrap_or_default(),
        attempts: renewal.map_or(0, |renewal| renewal.attempts),
        acts_as: process.cast.acts_as_written(),
        under: process.cast.under.as_deref().map(str::to_owned),
        line: process.cast.line_written(),
    }
}

impl Process {
    /// What a restart from the records needs, if this process asked for one.
    fn spec(&self) -> Option<Spec> {
        let plan = &self.renewal.as_deref()?.plan;
        let params = plan.request.as_deref()?.clone();
        let (gid, groups) = match &plan.account {
            Some(account) => (account.credentials.gid, account.credentials.groups.clone()),
            None => (0, Vec::new()),
        };
        Some(Spec { session: self.session.as_str().to_owned(), params, gid, groups })
    }
}
