//! Pipelines: processes that were started together, each one's output the next one's input.
//!
//! ```text
//!   spawn ─plans▶ Starting ─all run▶ Running ─all exited▶ Ended ─all forgotten▶ (gone)
//!                    └─ one can't be started ─▶ the others are ended ─▶ the error is told ─▶ (gone)
//! ```
//!
//! Bytes are the data plane's: pipes the stages share, or feeds ([`wiring`](crate::sessions::wiring)). Here is what makes them
//! one: a name, a start that is all or nothing, an exit code, a status. A stage is a process like any other; its record names
//! the whole, so the next kernel puts it together again ([`adopting`]).
//!
//! Invariant: a process names a pipeline exactly while that lists it, and a pipeline is there while it lists one.

pub(crate) mod adopting;
pub(crate) mod living;
pub(crate) mod starting;
pub(crate) mod telling;

use crate::auth::principal::Creator;
use crate::digest::IdempotencyKey;
use crate::entropy::{Keyed, KeyedMap};
use crate::state::Trace;
use kairo_dataplane::control::{ExitStatus, Moment};
use kairo_wire::error::WireError;
use kairo_wire::id::{EventId, ProcessId};
use kairo_wire::methods::pipeline::{PipelineEdge, PipelineState, StageExit};
use std::collections::BTreeMap;

/// Most stages of one.
pub(crate) const STAGES_MAX: usize = 32;

/// A process's place in a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StageOf {
    /// Which, by serial.
    pub pipeline: u64,
    /// From 0.
    pub index: usize,
    /// All of them ran once: noted for a successor, which else ends what is left of a start that was cut off.
    pub whole: bool,
}

/// All there are.
#[derive(Debug)]
pub(crate) struct Pipelines {
    all: BTreeMap<u64, Pipeline>,
    /// The newest of each id, by the id's text form.
    names: KeyedMap<Box<str>, u64>,
}

/// Processes that were started together.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Its name on the wire.
    pub id: ProcessId,
    /// The event of its start, which names this run of it.
    pub run: EventId,
    /// Who started it.
    pub creator: Creator,
    /// Its place in a larger story: what happens follows from its start.
    pub trace: Trace,
    /// When it was started.
    pub started: Moment,
    /// In the order bytes go.
    pub stages: Vec<Stage>,
    /// Between them.
    pub edges: Vec<PipelineEdge>,
    /// Calls that wait for something of it.
    pub calls: Vec<u64>,
    /// It came to nothing: at which stage, and why.
    pub failed: Option<(usize, Box<WireError>)>,
    /// That it ended is told.
    pub ended: bool,
    /// When it was last asked how it stands, CLOCK_MONOTONIC nanoseconds.
    pub asked_ns: Option<u64>,
    /// Its start happens once.
    pub key: Option<IdempotencyKey>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Its name on the wire.
    pub id: ProcessId,
    /// Its process, by serial, until that is forgotten.
    pub process: Option<u64>,
    /// Where it is.
    pub at: At,
    /// What was last told of its input and output, bytes.
    pub told: [Option<u64>; 2],
}

/// Where a stage is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Its spawn is on the way.
    Start,
    /// Its leader runs.
    Running,
    /// Its leader has ended.
    Exited(ExitStatus),
    /// It never ran.
    Failed,
    /// Nobody can tell.
    Lost,
}

impl Pipelines {
    /// None.
    pub(crate) fn new(keyed: Keyed) -> Pipelines {
        Pipelines { all: BTreeMap::new(), names: KeyedMap::with_hasher(keyed) }
    }

    /// By serial.
    pub(crate) fn get(&self, serial: u64) -> Option<&Pipeline> {
        self.all.get(&serial)
    }

    /// By serial.
    pub(crate) fn get_mut(&mut self, serial: u64) -> Option<&mut Pipeline> {
        self.all.get_mut(&serial)
    }

    /// The one an id names.
    pub(crate) fn named(&self, id: &ProcessId) -> Option<(u64, &Pipeline)> {
        let serial = *self.names.get(id.key().as_ref())?;
        self.all.get(&serial).filter(|pipeline| pipeline.id == *id).map(|pipeline| (serial, pipeline))
    }

    /// True exactly when it knows of a call that waits for it.
    pub(crate) fn is_waited_for(&self, serial: u64, call: u64) -> bool {
        self.get(serial).is_some_and(|pipeline| pipeline.calls.contains(&call))
    }

    /// In the order they were started.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Pipeline)> {
        self.all.iter().map(|(serial, pipeline)| (*serial, pipeline))
    }

    /// One more; its id names it from now on.
    pub(crate) fn insert(&mut self, serial: u64, pipeline: Pipeline) {
        self.names.insert(pipeline.id.key().into(), serial);
        self.all.insert(serial, pipeline);
    }

    /// One less.
    pub(crate) fn remove(&mut self, serial: u64) -> Option<Pipeline> {
        let pipeline = self.all.remove(&serial)?;
        if self.names.get(pipeline.id.key().as_ref()) == Some(&serial) {
            self.names.remove(pipeline.id.key().as_ref());
        }
        Some(pipeline)
    }
}

impl At {
    /// Its exit code, 128+n for a signal.
    fn code(self) -> Option<i32> {
        match self {
            At::Exited(status) => Some(status.v1_code()),
            At::Start | At::Running | At::Failed | At::Lost => None,
        }
    }

    /// True exactly when nothing more is to come of it.
    fn is_over(self) -> bool {
        matches!(self, At::Exited(_) | At::Failed | At::Lost)
    }
}

impl Pipeline {
    /// Where it is.
    pub(crate) fn state(&self) -> PipelineState {
        let any = |at: fn(At) -> bool| self.stages.iter().any(|stage| at(stage.at));
        if any(|at| at == At::Start) || self.failed.is_some() {
            PipelineState::Starting
        } else if any(|at| at == At::Running) {
            PipelineState::Running
        } else if any(|at| matches!(at, At::Lost | At::Failed)) {
            PipelineState::Lost
        } else {
            PipelineState::Ended
        }
    }

    /// As a shell with `pipefail`: the code of the last stage that failed and which that is, or 0. None before every stage
    /// has exited, or if of one nobody can tell.
    pub(crate) fn exit(&self) -> Option<(i32, Option<u32>)> {
        let codes: Option<Vec<i32>> = self.stages.iter().map(|stage| stage.at.code()).collect();
        let codes = codes?;
        let failed = codes.iter().rposition(|code| *code != 0);
        Some(failed.map_or((0, None), |at| (codes[at], Some(at as u32))))
    }

    /// How each of its stages ended.
    pub(crate) fn exits(&self) -> Vec<StageExit> {
        let exit = |stage: &Stage| StageExit {
            id: stage.id.clone(),
            exit_code: stage.at.code(),
            signal: match stage.at {
                At::Exited(ExitStatus::Signal { signal, .. }) => Some(signal),
                At::Exited(ExitStatus::Code(_)) | At::Start | At::Running | At::Failed | At::Lost => None,
            },
        };
        self.stages.iter().map(exit).collect()
    }

    /// True exactly when nothing more is to come of any stage.
    pub(crate) fn is_over(&self) -> bool {
        self.stages.iter().all(|stage| stage.at.is_over())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(stages: &[At]) -> Pipeline {
        let id = ProcessId::Text("p".into());
        let stage = |at: &At| Stage { id: id.clone(), process: None, at: *at, told: [None; 2] };
        Pipeline {
            id: id.clone(),
            run: EventId::new(1),
            creator: Creator { uid: 0, session: None, name: None },
            trace: Trace::default(),
            started: Moment { monotonic_ns: 0, wall_ns: 0 },
            stages: stages.iter().map(stage).collect(),
            edges: Vec::new(),
            calls: Vec::new(),
            failed: None,
            ended: false,
            asked_ns: None,
            key: None,
        }
    }

    #[test]
    fn the_last_stage_that_failed_is_what_a_pipeline_returns() {
        let code = |code| At::Exited(ExitStatus::Code(code));
        let pipe = At::Exited(ExitStatus::Signal { signal: 13, core: false });
        assert_eq!(of(&[code(0), code(0)]).exit(), Some((0, None)));
        assert_eq!(of(&[code(3), code(4), code(0)]).exit(), Some((4, Some(1))));
        assert_eq!(of(&[pipe, code(0)]).exit(), Some((141, Some(0))));
        assert_eq!(of(&[code(1), At::Running]).exit(), None);
        assert_eq!(of(&[code(1), At::Lost]).exit(), None);
    }

    #[test]
    fn where_a_pipeline_is_depends_on_all_its_stages() {
        let done = At::Exited(ExitStatus::Code(0));
        assert_eq!(of(&[At::Start, done]).state(), PipelineState::Starting);
        assert_eq!(of(&[At::Running, done]).state(), PipelineState::Running);
        assert_eq!(of(&[At::Lost, At::Running]).state(), PipelineState::Running);
        assert_eq!(of(&[At::Lost, done]).state(), PipelineState::Lost);
        assert_eq!(of(&[done, done]).state(), PipelineState::Ended);
    }
}
