//! Starting a pipeline: every stage is checked before the first is started, and a start that fails ends what it began.

use super::{At, Pipeline, STAGES_MAX, Stage, StageOf};
use crate::auth::grant::may_touch;
use crate::calls::{Asking, Turn};
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::permissions::Grant;
use crate::permissions::programs::Place;
use crate::sessions::plan::{self, Asker, Plan};
use crate::sessions::wiring::Fed;
use crate::state::{Awaited, Pending, Trace};
use kairo_dataplane::command::{Joint, Stdio};
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::PipelineStarted;
use kairo_wire::id::{EventId, ProcessId};
use kairo_wire::methods::options::{HistoryOption, SpawnOptions, StderrOption, StdinOption};
use kairo_wire::methods::permission::{GrantScope, SkillOption};
use kairo_wire::methods::pipeline::{EdgeStderr, PipelineEdge, PipelineSpawnParams, PipelineStage};
use kairo_wire::methods::process::SpawnParams;
use std::collections::HashSet;
use std::sync::Arc;

/// The error of a stage, its field named from the whole.
pub(super) fn in_stage(error: WireError, index: usize) -> WireError {
    let field = error.details.as_ref().and_then(|details| details.get("field")?.as_str().map(str::to_owned));
    let mut error = error.with("stage", index);
    let place = format!("stages[{index}]");
    error.message = format!("{place}: {}", error.message).into();
    error.text = None;
    match field {
        Some(field) => error.with("field", format!("{place}.{field}")),
        None => error,
    }
}

impl Kernel {
    /// Starts all stages for a call, which is answered when they run, or when it came to nothing.
    pub(crate) fn start_pipeline(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: PipelineSpawnParams,
    ) -> Result<(), WireError> {
        self.takes_spawns()?;
        self.may_begin_under(asking.trace.intent.as_deref())?;
        let (id, edges) = (params.id.clone(), all_edges(&params)?);
        self.frees_name(turn, asking, &id)?;
        let run = self.name_event();
        let mut trace = asking.trace.clone();
        trace.begin(&run);
        let followed = Trace { causation: Some(run.as_str().to_owned()), ..trace.clone() };
        let mut plans = self.plan_stages(turn, asking, params, &edges, &followed)?;
        for (index, plan) in plans.iter_mut().enumerate() {
            self.may_launch(turn, plan).map_err(|error| in_stage(error, index))?;
        }
        self.takes_no_sources_place(&plans)?;
        self.have_room(turn, &plans)?;
        let serial = self.state.next_serial();
        let home = plans.first().map(|first| self.home_of(first, asking.connection));
        let processes = self.join(serial, &mut plans, &edges);
        plans.iter_mut().for_each(|plan| plan.wires.home = home);
        self.open_pipeline(turn, asking, (serial, id, run), trace, edges, &plans, &processes);
        for (plan, process) in plans.into_iter().zip(processes) {
            self.launch_as(turn, asking.connection, plan, process);
        }
        let call = self.park(turn, asking, Pending::Pipeline { pipeline: serial, what: Awaited::Start });
        if let Some(pipeline) = self.state.pipelines.get_mut(serial) {
            pipeline.calls.push(call);
        }
        Ok(())
    }

    /// Whether the name can be had: of one that is over it can, by whoever may touch that.
    fn frees_name(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        id: &ProcessId,
    ) -> Result<(), WireError> {
        let Some((serial, holder)) = self.state.pipelines.named(id) else { return Ok(()) };
        let own = may_touch(self.principal(asking.connection), &holder.creator);
        if own && holder.failed.is_some() {
            let message = format!("pipeline {id}: it came to nothing, and is being ended");
            return Err(WireError::new(Code::Busy, message).with("id", id.to_string()));
        }
        if !own || !holder.is_over() {
            let why = if own { "it is still running" } else { "the id belongs to somebody else" };
            let message = format!("pipeline {id}: {why}");
            return Err(WireError::new(Code::AlreadyExists, message).with("id", id.to_string()));
        }
        self.drop_pipeline(turn, serial);
        Ok(())
    }

    /// Whether what the first stage reads is there still when all have their names.
    fn takes_no_sources_place(&self, plans: &[Plan]) -> Result<(), WireError> {
        let fed = plans.first().and_then(|first| first.wires.fed.as_ref());
        let source = fed.and_then(|fed| self.state.processes.get(&fed.source));
        match source.and_then(|source| plans.iter().position(|plan| plan.id == source.id)) {
            Some(index) => {
                let message = "it has the id of the process the first stage reads";
                Err(in_stage(WireError::new(Code::Conflict, message).with("field", "id"), index))
            }
            None => Ok(()),
        }
    }

    fn plan_stages(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: PipelineSpawnParams,
        edges: &[PipelineEdge],
        trace: &Trace,
    ) -> Result<Vec<Plan>, WireError> {
        let last = params.stages.len() - 1;
        let skill = |stage: &PipelineStage| stage.options.as_ref().and_then(|options| options.skill.clone());
        let skills: Vec<Option<SkillOption>> = params.stages.iter().map(skill).collect();
        let (mut plans, mut ids, mut once) = (Vec::new(), HashSet::new(), HashSet::new());
        for (index, stage) in params.stages.into_iter().enumerate() {
            let own = stage.id.clone().map_or_else(|| usual_id(&params.id, index), Ok);
            let id = own.map_err(|error| in_stage(error, index))?;
            if !ids.insert(id.key().into_owned()) {
                let message = format!("two stages are called {id}");
                return Err(in_stage(WireError::new(Code::Conflict, message).with("field", "id"), index));
            }
            let edge = (index < last).then(|| edges[index]);
            let place = Place::of_stage(&skills, index);
            let plan = self.plan_stage(turn, asking, (stage, place), (id, index, edge), &mut once);
            let mut plan = plan.map_err(|error| in_stage(error, index))?;
            plan.trace = trace.clone();
            plans.push(plan);
        }
        Ok(plans)
    }

    fn plan_stage(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        (stage, place): (PipelineStage, Place<'_>),
        (id, index, edge): (ProcessId, usize, Option<PipelineEdge>),
        once: &mut HashSet<Arc<str>>,
    ) -> Result<Plan, WireError> {
        let mut options = stage.options.map(|options| *options).unwrap_or_default();
        suits_a_stage(&options, index, edge)?;
        if edge.is_some_and(|edge| edge.stderr == EdgeStderr::Merged) {
            options.stderr = StderrOption::Stdout;
        }
        let Some(peer) = self.state.connections.get(asking.connection) else {
            return Err(WireError::new(Code::Internal, "the connection is gone"));
        };
        self.claim_now(asking.connection, &id)?;
        let intent = asking.trace.intent.as_deref();
        let identity = self.identity(turn.at, asking.connection, (Some(&options), place), intent)?;
        // One that is for these programs together is used once by all of them.
        let used_up = |grant: &Arc<Grant>| {
            let of_one = grant.declared.as_ref().is_some_and(|declared| !declared.is_of_several());
            grant.scope == GrantScope::Once && of_one
        };
        if let Some(grant) = identity.under.as_ref().filter(|grant| used_up(grant))
            && !once.insert(Arc::clone(&grant.id))
        {
            let why = "options.skill: its approval is for one use, and another stage has that";
            return Err(WireError::denied(asking.method, why).with("field", "options.skill"));
        }
        let params = SpawnParams { id, command: stage.command, options: Some(Box::new(options)) };
        let within = self.within(asking.connection);
        let mut plan = plan::check(&self.config, &Asker::behind(peer, within, identity), params)?;
        self.wire(turn, asking, &mut plan)?;
        Ok(plan)
    }

    /// Names the processes of all stages, and what is between them. Returns their serials.
    fn join(&mut self, pipeline: u64, plans: &mut [Plan], edges: &[PipelineEdge]) -> Vec<u64> {
        let serials: Vec<u64> = plans.iter().map(|_| self.state.next_serial()).collect();
        for (index, plan) in plans.iter_mut().enumerate() {
            plan.stage = Some(StageOf { pipeline, index, whole: false });
        }
        for (index, edge) in edges.iter().enumerate() {
            let [before, behind] = &mut plans[index..index + 2] else { continue };
            if edge.tap {
                // The life's name is given when it is launched.
                behind.wires.fed = Some(Fed {
                    session: String::new(),
                    source: serials[index],
                    stderr: false,
                    ends_source: true,
                });
                continue;
            }
            let pipe_bytes = match before.stdio {
                Stdio::Pipes { pipe_bytes, .. } => pipe_bytes,
                Stdio::Pty(_) => 0,
            };
            let joint = Joint { name: serials[index], pipe_bytes };
            before.wires.stdout = Some(joint);
            behind.wires.stdin = Some(joint);
        }
        serials
    }

    #[expect(clippy::too_many_arguments, reason = "a pipeline's parts; a struct would name them once more")]
    fn open_pipeline(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        (serial, id, run): (u64, ProcessId, EventId),
        trace: Trace,
        edges: Vec<PipelineEdge>,
        plans: &[Plan],
        processes: &[u64],
    ) {
        let creator = self.principal(asking.connection).creator(self.config.owner_uid);
        let event = PipelineStarted {
            id: id.clone(),
            stages: plans.iter().map(|plan| plan.id.clone()).collect(),
            edges: edges.clone(),
            owner: creator.told(self.config.owner_uid),
        };
        self.publish_as(turn, run.clone(), Audience::Of(creator.clone()), &trace, &event);
        let stages = plans.iter().zip(processes).map(|(plan, process)| Stage {
            id: plan.id.clone(),
            process: Some(*process),
            at: At::Start,
            told: [None; 2],
        });
        let pipeline = Pipeline {
            id,
            trace: Trace { causation: Some(run.as_str().to_owned()), ..trace },
            run,
            creator,
            started: turn.at,
            stages: stages.collect(),
            edges,
            calls: Vec::new(),
            failed: None,
            ended: false,
            asked_ns: None,
            key: asking.key,
        };
        self.state.pipelines.insert(serial, pipeline);
    }
}

/// What stages without an id of their own are called.
fn usual_id(id: &ProcessId, index: usize) -> Result<ProcessId, WireError> {
    ProcessId::from_text(&format!("{id}.{index}")).map_err(|why| WireError::invalid("id", why))
}

/// One for each two stages that follow each other.
fn all_edges(params: &PipelineSpawnParams) -> Result<Vec<PipelineEdge>, WireError> {
    let stages = params.stages.len();
    if !(1..=STAGES_MAX).contains(&stages) {
        return Err(WireError::invalid("stages", format!("1 to {STAGES_MAX} of them")));
    }
    if params.edges.len() >= stages && !params.edges.is_empty() {
        let message = format!("{stages} stages have {} edges at most", stages - 1);
        return Err(WireError::invalid("edges", message));
    }
    let mut edges = params.edges.clone();
    edges.resize(stages - 1, PipelineEdge::default());
    Ok(edges)
}

/// Whether a stage can have what it asks for: nothing is ignored.
fn suits_a_stage(options: &SpawnOptions, index: usize, edge: Option<PipelineEdge>) -> Result<(), WireError> {
    let untapped = edge.is_some_and(|edge| !edge.tap);
    let conflicts = [
        (options.pty.0.is_some(), "options.pty", "a stage has pipes"),
        (index > 0 && options.stdin != StdinOption::Pipe, "options.stdin", "it reads the stage before it"),
        (
            !options.restart.is_never(),
            "options.restart",
            "another life could not be joined to its neighbours",
        ),
        (options.durable == Some(true), "options.durable", "stages are answered for together"),
        (
            untapped && options.rate.is_some(),
            "options.rate",
            "its stdout does not pass the kernel: it takes a tap",
        ),
        (
            edge.is_some_and(|edge| edge.tap) && options.history == HistoryOption::None,
            "options.history",
            "a tap is fed from what is kept",
        ),
        (
            untapped && options.spool.0.is_some(),
            "options.spool",
            "its stdout does not pass the kernel: it takes a tap",
        ),
        (
            edge.is_some_and(|edge| edge.stderr == EdgeStderr::Merged)
                && options.stderr == StderrOption::Inherit,
            "options.stderr",
            "the edge merges it into stdout",
        ),
    ];
    match conflicts.into_iter().find(|(conflict, ..)| *conflict) {
        Some((_, field, why)) => {
            Err(WireError::new(Code::Conflict, format!("{field}: {why}")).with("field", field))
        }
        None => Ok(()),
    }
}
