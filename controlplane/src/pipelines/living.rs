//! What becomes of a pipeline's stages, and so of the whole.

use super::starting::in_stage;
use super::{At, Pipeline, StageOf};
use crate::calls::Turn;
use crate::clock::between_ms;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::sessions::launch::keeper_lost;
use crate::sessions::lifecycle::receipt;
use crate::state::{Awaited, Pending, Phase};
use kairo_dataplane::control::ExitStatus;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::PipelineEnded;
use kairo_wire::methods::pipeline::{
    PipelineSpawnResult, PipelineSpawnStatus, PipelineWaitResult, PipelineWaitStatus, StageSpawned,
};
use kairo_wire::methods::process::SpawnResult;
use kairo_wire::methods::status::{EndCause, EndedBy};

impl Kernel {
    fn stage_of(&self, process: u64) -> Option<StageOf> {
        self.state.processes.get(&process)?.wired.stage
    }

    fn stage_is(&mut self, of: StageOf, at: At) -> Option<&mut Pipeline> {
        let pipeline = self.state.pipelines.get_mut(of.pipeline)?;
        pipeline.stages.get_mut(of.index)?.at = at;
        Some(pipeline)
    }

    /// A stage's program runs.
    pub(crate) fn stage_runs(&mut self, turn: &mut Turn<'_>, process: u64) {
        let Some(of) = self.stage_of(process) else { return };
        let Some(pipeline) = self.stage_is(of, At::Running) else { return };
        if pipeline.failed.is_some() {
            return self.doom_within(turn, process, no_longer_wanted(), 0);
        }
        if pipeline.stages.iter().all(|stage| stage.at != At::Start) {
            self.pipeline_runs(turn, of.pipeline);
        }
    }

    /// All stages run, or have run.
    fn pipeline_runs(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(pipeline) = self.state.pipelines.get(serial) else { return };
        let processes: Vec<u64> = pipeline.stages.iter().filter_map(|stage| stage.process).collect();
        for process in processes {
            if let Some(stage) = self.state.processes.get_mut(&process).and_then(|of| of.wired.stage.as_mut())
            {
                stage.whole = true;
            }
            self.annotate(turn, process, usize::MAX);
        }
        let Some(result) = self.spawn_result(serial) else { return };
        for call in self.calls_for(serial, |what| what == Awaited::Start) {
            self.resolve(turn, call, &result);
        }
    }

    /// What whoever started it is told.
    pub(super) fn spawn_result(&self, serial: u64) -> Option<PipelineSpawnResult> {
        let pipeline = self.state.pipelines.get(serial)?;
        let processes = pipeline.stages.iter().filter_map(|stage| self.state.processes.get(&stage.process?));
        let stages = processes.map(|process| {
            let SpawnResult { id, pid, sandbox, program, .. } = receipt(process);
            StageSpawned { id, pid, sandbox, program }
        });
        let (id, stages) = (pipeline.id.clone(), stages.collect());
        Some(PipelineSpawnResult { status: PipelineSpawnStatus::Spawned, id, stages })
    }

    fn calls_for(&self, serial: u64, wanted: impl Fn(Awaited) -> bool) -> Vec<u64> {
        let calls =
            self.state.pipelines.get(serial).map(|pipeline| pipeline.calls.clone()).unwrap_or_default();
        let waits = |ticket: &u64| match self.state.calls.get(ticket).map(|call| &call.pending) {
            Some(Pending::Pipeline { what, .. }) => wanted(*what),
            Some(_) | None => false,
        };
        calls.into_iter().filter(waits).collect()
    }

    /// A stage could not be started: the others are ended.
    pub(crate) fn stage_failed(&mut self, turn: &mut Turn<'_>, process: u64, error: &WireError) {
        let Some(of) = self.stage_of(process) else { return };
        self.came_to_nothing(turn, of, error);
    }

    fn came_to_nothing(&mut self, turn: &mut Turn<'_>, of: StageOf, error: &WireError) {
        let Some(pipeline) = self.stage_is(of, At::Failed) else { return };
        pipeline.failed.get_or_insert_with(|| (of.index, Box::new(in_stage(error.clone(), of.index))));
        pipeline.stages[of.index].process = None;
        self.doom_stages(turn, of.pipeline, &no_longer_wanted(), 0);
        self.give_up_if_gone(turn, of.pipeline);
    }

    /// Ends every stage there is.
    pub(crate) fn doom_stages(&mut self, turn: &mut Turn<'_>, serial: u64, by: &EndedBy, grace_ms: u64) {
        let Some(pipeline) = self.state.pipelines.get(serial) else { return };
        let processes: Vec<u64> = pipeline.stages.iter().filter_map(|stage| stage.process).collect();
        for process in processes {
            self.doom_within(turn, process, by.clone(), grace_ms);
        }
    }

    /// The stages of which somebody may be left, by serial.
    pub(crate) fn living_stages(&self, serial: u64) -> Vec<u64> {
        let Some(pipeline) = self.state.pipelines.get(serial) else { return Vec::new() };
        let lives =
            |process: &u64| self.state.processes.get(process).is_some_and(|process| !process.tree_gone);
        pipeline.stages.iter().filter_map(|stage| stage.process).filter(lives).collect()
    }

    /// A start that came to nothing is answered when nothing of it is left.
    pub(super) fn give_up_if_gone(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(pipeline) = self.state.pipelines.get(serial) else { return };
        let Some((index, error)) = pipeline.failed.clone() else { return };
        let gone = |process: &u64| self.state.processes.get(process).is_none_or(|process| process.tree_gone);
        if !pipeline.stages.iter().filter_map(|stage| stage.process).all(|process| gone(&process)) {
            return;
        }
        let event = PipelineEnded {
            id: pipeline.id.clone(),
            exit_code: None,
            failed_stage: Some(index as u32),
            error: Some(error.message.clone().into_owned()),
            stages: pipeline.exits(),
            duration_ms: between_ms(pipeline.started, turn.at),
        };
        let (creator, trace) = (pipeline.creator.clone(), pipeline.trace.clone());
        let calls = pipeline.calls.clone();
        self.publish(turn, Audience::Of(creator), &trace, &event);
        for call in calls {
            self.reject(turn, call, &error);
        }
        self.drop_pipeline(turn, serial);
    }

    /// Takes one out of the table; what is left of its stages are processes of their own.
    pub(crate) fn drop_pipeline(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(pipeline) = self.state.pipelines.get_mut(serial) else { return };
        let (id, calls) = (pipeline.id.to_string(), std::mem::take(&mut pipeline.calls));
        let error = WireError::new(Code::NotFound, format!("pipeline {id} is forgotten")).with("id", id);
        for call in calls {
            self.reject(turn, call, &error);
        }
        let Some(pipeline) = self.state.pipelines.remove(serial) else { return };
        for process in pipeline.stages.iter().filter_map(|stage| stage.process) {
            if let Some(process) = self.state.processes.get_mut(&process) {
                process.wired.stage = None;
            }
        }
    }

    /// A stage's leader has ended. `told`: a former kernel said so, and what followed.
    pub(crate) fn stage_exited(&mut self, turn: &mut Turn<'_>, process: u64, status: ExitStatus, told: bool) {
        let Some(of) = self.stage_of(process) else { return };
        if self.stage_is(of, At::Exited(status)).is_some() {
            self.pipeline_may_be_over(turn, of.pipeline, told);
        }
    }

    /// Nobody of a stage's tree is left.
    pub(crate) fn stage_ended(&mut self, turn: &mut Turn<'_>, process: u64) {
        if let Some(of) = self.stage_of(process) {
            self.give_up_if_gone(turn, of.pipeline);
        }
    }

    /// Of a stage nobody can tell any more what becomes of it.
    pub(crate) fn stage_lost(&mut self, turn: &mut Turn<'_>, process: u64) {
        let Some(of) = self.stage_of(process) else { return };
        match self.state.processes.get(&process).map(|process| process.phase) {
            Some(Phase::Starting) => self.came_to_nothing(turn, of, &keeper_lost()),
            Some(Phase::Lost) => {
                if self.stage_is(of, At::Lost).is_some() {
                    self.pipeline_may_be_over(turn, of.pipeline, false);
                }
            }
            Some(Phase::Running | Phase::Exited) | None => {}
        }
        self.give_up_if_gone(turn, of.pipeline);
    }

    /// The record of a stage's process is gone: with the last one goes the whole.
    pub(crate) fn stage_forgotten(&mut self, turn: &mut Turn<'_>, stage: Option<StageOf>) {
        let Some(of) = stage else { return };
        let Some(pipeline) = self.state.pipelines.get_mut(of.pipeline) else { return };
        if let Some(stage) = pipeline.stages.get_mut(of.index) {
            stage.process = None;
        }
        if pipeline.stages.iter().any(|stage| stage.process.is_some()) {
            return;
        }
        self.drop_pipeline(turn, of.pipeline);
    }

    /// Tells the end of a pipeline, once every stage has exited.
    pub(super) fn pipeline_may_be_over(&mut self, turn: &mut Turn<'_>, serial: u64, told: bool) {
        let Some(pipeline) = self.state.pipelines.get_mut(serial) else { return };
        if !pipeline.is_over() || pipeline.failed.is_some() || std::mem::replace(&mut pipeline.ended, true) {
            return;
        }
        let exit = pipeline.exit();
        let event = PipelineEnded {
            id: pipeline.id.clone(),
            exit_code: exit.map(|(code, _)| code),
            failed_stage: exit.and_then(|(_, stage)| stage),
            error: None,
            stages: pipeline.exits(),
            duration_ms: between_ms(pipeline.started, turn.at),
        };
        let (creator, trace) = (pipeline.creator.clone(), pipeline.trace.clone());
        if !told {
            self.publish(turn, Audience::Of(creator), &trace, &event);
        }
        for call in self.calls_for(serial, |what| matches!(what, Awaited::End { .. })) {
            match self.waited_for(serial) {
                Ok(Some(result)) => self.resolve(turn, call, &result),
                Ok(None) => {}
                Err(error) => self.reject(turn, call, &error),
            }
        }
    }

    /// What `pipeline.wait` is answered with: nothing yet, how it ended, or that nobody can tell.
    pub(crate) fn waited_for(&self, serial: u64) -> Result<Option<PipelineWaitResult>, WireError> {
        let Some(pipeline) = self.state.pipelines.get(serial).filter(|pipeline| pipeline.is_over()) else {
            return Ok(None);
        };
        let id = pipeline.id.clone();
        let Some((exit_code, failed_stage)) = pipeline.exit() else {
            let message = format!("of a stage of pipeline {id} nobody can tell how it ended");
            return Err(WireError::new(Code::Lost, message).with("id", id.to_string()));
        };
        let (status, stages) = (PipelineWaitStatus::Exited, pipeline.exits());
        Ok(Some(PipelineWaitResult { status, id, exit_code, failed_stage, stages }))
    }
}

/// What ends the stages of a start that came to nothing.
fn no_longer_wanted() -> EndedBy {
    EndedBy { cause: EndCause::Kill, principal: None }
}
