//! Putting pipelines together again from what a dead kernel left of their stages.
//!
//! Each stage's record names the whole. A start that was cut off is undone: what is left of it is ended. Of a stage whose record
//! was forgotten nobody can tell any more how it ended.

use super::starting::in_stage;
use super::{At, Pipeline, Stage, StageOf};
use crate::calls::Turn;
use crate::digest::IdempotencyKey;
use crate::kernel::Kernel;
use crate::state::{Phase, Process, Trace};
use kairo_dataplane::control::Moment;
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::{EventId, ProcessId};
use kairo_wire::methods::pipeline::PipelineEdge;
use kairo_wire::methods::status::{EndCause, EndedBy};
use serde::{Deserialize, Serialize};

/// What a stage's record says of the whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StageRecord {
    id: ProcessId,
    run: EventId,
    index: usize,
    stages: Vec<ProcessId>,
    edges: Vec<PipelineEdge>,
    started_ns: u64,
    started_wall_ns: u64,
    /// See [`IdempotencyKey`].
    #[serde(default)]
    key: Option<String>,
}

impl StageRecord {
    /// Of a stage.
    pub(crate) fn of(pipeline: &Pipeline, index: usize) -> StageRecord {
        StageRecord {
            id: pipeline.id.clone(),
            run: pipeline.run.clone(),
            index,
            stages: pipeline.stages.iter().map(|stage| stage.id.clone()).collect(),
            edges: pipeline.edges.clone(),
            started_ns: pipeline.started.monotonic_ns,
            started_wall_ns: pipeline.started.wall_ns,
            key: pipeline.key.map(|key| key.to_string()),
        }
    }
}

impl Kernel {
    /// The place of a process that is adopted in its pipeline, which is made for the first of its stages. `whole`: all of them
    /// ran once.
    pub(crate) fn adopt_stage(&mut self, serial: u64, record: Option<&StageRecord>, whole: bool) {
        let (Some(record), Some(process)) = (record, self.state.processes.get(&serial)) else { return };
        if record.index >= record.stages.len() {
            return;
        }
        let (at, creator, trace) = (place_of(process), process.creator.clone(), process.trace.clone());
        let known = self.state.pipelines.iter().find(|(_, pipeline)| pipeline.run == record.run);
        let pipeline = match known.map(|(serial, _)| serial) {
            Some(pipeline) => pipeline,
            None => {
                let stage =
                    |id: &ProcessId| Stage { id: id.clone(), process: None, at: At::Lost, told: [None; 2] };
                let pipeline = Pipeline {
                    id: record.id.clone(),
                    run: record.run.clone(),
                    creator,
                    trace: Trace { causation: Some(record.run.as_str().to_owned()), ..trace },
                    started: Moment { monotonic_ns: record.started_ns, wall_ns: record.started_wall_ns },
                    stages: record.stages.iter().map(stage).collect(),
                    edges: record.edges.clone(),
                    calls: Vec::new(),
                    failed: None,
                    ended: false,
                    asked_ns: None,
                    key: record.key.as_deref().and_then(IdempotencyKey::from_text),
                };
                let serial = self.state.next_serial();
                self.state.pipelines.insert(serial, pipeline);
                serial
            }
        };
        let index = record.index;
        if let Some(stage) = self.state.pipelines.get_mut(pipeline).and_then(|of| of.stages.get_mut(index)) {
            (stage.process, stage.at) = (Some(serial), at);
        }
        if let Some(process) = self.state.processes.get_mut(&serial) {
            process.wired.stage = Some(StageOf { pipeline, index, whole });
        }
    }

    /// All processes are adopted: what a pipeline lacks now it lacks for good.
    pub(crate) fn settle_pipelines(&mut self, turn: &mut Turn<'_>) {
        let serials: Vec<u64> = self.state.pipelines.iter().map(|(serial, _)| serial).collect();
        for serial in serials {
            let Some(pipeline) = self.state.pipelines.get(serial) else { continue };
            let processes: Vec<u64> = pipeline.stages.iter().filter_map(|stage| stage.process).collect();
            let complete = processes.len() == pipeline.stages.len();
            let whole = complete || processes.iter().any(|process| self.was_whole(*process));
            if !whole {
                self.undo(turn, serial);
                continue;
            }
            // One that was written says more: of what a stage's sandbox is, only the kernel knew that started it.
            if let Some(key) = pipeline.key.filter(|key| complete && !self.has_receipt(*key)) {
                let result = self.spawn_result(serial).and_then(|result| Raw::of(&result).ok());
                result.into_iter().for_each(|result| self.remember_result(turn.at, key, result));
            }
            for process in processes {
                if let Some(stage) =
                    self.state.processes.get_mut(&process).and_then(|of| of.wired.stage.as_mut())
                {
                    stage.whole = whole;
                }
                self.annotate(turn, process, usize::MAX);
            }
            // What the former kernel heard it has told.
            self.pipeline_may_be_over(turn, serial, true);
        }
    }

    /// Ends what is left of a start that was cut off.
    fn undo(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(pipeline) = self.state.pipelines.get_mut(serial) else { return };
        let missing = pipeline.stages.iter().position(|stage| stage.process.is_none()).unwrap_or(0);
        for stage in pipeline.stages.iter_mut().filter(|stage| stage.process.is_none()) {
            stage.at = At::Failed;
        }
        let error = WireError::new(Code::Lost, "its kernel died before all stages were started");
        pipeline.failed = Some((missing, Box::new(in_stage(error, missing))));
        let by = EndedBy { cause: EndCause::Kill, principal: None };
        self.doom_stages(turn, serial, &by, 0);
        self.give_up_if_gone(turn, serial);
    }

    fn was_whole(&self, process: u64) -> bool {
        let stage = self.state.processes.get(&process).and_then(|process| process.wired.stage);
        stage.is_some_and(|stage| stage.whole)
    }
}

fn place_of(process: &Process) -> At {
    match (process.phase, process.exit) {
        (_, Some((status, _))) => At::Exited(status),
        (Phase::Lost, None) => At::Lost,
        (Phase::Starting | Phase::Running | Phase::Exited, None) => At::Running,
    }
}
