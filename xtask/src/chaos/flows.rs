//! Pipelines: who starts them, who reads them to their end, and who looks in on the way.
//!
//! ```text
//! pipeline.spawn ─▶ readers of the last stage and of every tap, visitors of taps ─▶ pipeline.wait
//! ```
//!
//! A pipeline goes on over kernels, exactly, whatever its edges are and whoever comes and goes at them.

use super::check::Wrong;
use super::kernel::MARKER;
use super::line::{Caller, Cut};
use super::plan::{Mode, Pace, Pipeline, Policy, Process, Reader, Script};
use super::reader::Reading;
use super::stage::{self, Stage};
use super::visits::Visit;
use crate::support::raw::value;
use serde_json::{Value as Json, json};
use std::time::Duration;

/// Starts a pipeline once, reads it, and waits for its end.
pub(crate) fn join(
    stage: &Stage,
    who: &str,
    plan: &Pipeline,
    child: &[String],
    marker: &str,
) -> Result<(), Wrong> {
    std::thread::sleep(Duration::from_micros(plan.after_us));
    let of = |at: usize| format!("{who}.{at}");
    let read: Vec<usize> = (0..plan.stages.len()).filter(|at| plan.taps.get(*at) != Some(&false)).collect();
    read.iter().for_each(|at| stage.begins(&of(*at)));
    let mut caller = Caller::new(stage);
    start(stage, who, &params(who, plan, child, marker), &mut caller)?;
    let process = Process::written(Script::Sequence(Some(plan.bytes)));
    std::thread::scope(|scope| {
        let mut all = Vec::new();
        for at in &read {
            let (id, name) = (of(*at), format!("{who} reader of stage {at}"));
            let pace = if *at == plan.stages.len() - 1 { plan.pace } else { Pace::Full };
            let reader = Reader { policy: Policy::Block, mode: Mode::Chunk, pace, rate: None };
            let process = &process;
            all.push(scope.spawn(move || {
                let read = Reading::new(stage, &name, &id, process, reader).run().map(drop);
                stage.judged(&name, read)
            }));
        }
        for (nth, visitor) in plan.visitors.iter().enumerate() {
            let (id, name) = (of(visitor.stage), format!("{who} visitor {nth} of stage {}", visitor.stage));
            all.push(scope.spawn(move || {
                let visit = Visit { stage, who: &name, id: &id, bytes: plan.bytes, plan: visitor };
                stage.judged(&name, visit.all())
            }));
        }
        stage::all_of(all)
    })?;
    stage.doing(who, "waits for its end");
    let reply = caller.must("pipeline.wait", &json!({"id": who}))?;
    match reply["exitCode"] == plan.exit {
        true => Ok(()),
        false => Err(format!("it ended with {reply}, and {} was to be", plan.exit)),
    }
}

fn params(who: &str, plan: &Pipeline, child: &[String], marker: &str) -> Json {
    let last = plan.stages.len() - 1;
    let stages = plan.stages.iter().enumerate().map(|(at, role)| {
        let mut options = json!({"env": {MARKER: marker}});
        if at == last {
            // Nothing of it is lost before it is read.
            options["whenUnread"] = "block".into();
        }
        let command = [child, role].concat();
        json!({"command": command, "options": options})
    });
    let edges: Vec<Json> = plan.taps.iter().map(|tap| json!({"tap": tap})).collect();
    json!({"id": who, "stages": stages.collect::<Vec<_>>(), "edges": edges})
}

/// A start that was cut off is undone, so who got no answer looks whether it is there.
fn start(stage: &Stage, who: &str, params: &Json, caller: &mut Caller<'_>) -> Result<(), Wrong> {
    stage.doing(who, "starts it");
    loop {
        match caller.once("pipeline.spawn", value(params), None) {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(refusal)) => return Err(format!("pipeline.spawn: {refusal:?}")),
            Err(Cut::Wrong(wrong)) => return Err(wrong),
            Err(Cut::Lost) => {}
        }
        match caller.insist("pipeline.status", &json!({"id": who}))? {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.code == "E_NOT_FOUND" => {}
            Err(refusal) => return Err(format!("pipeline.status: {refusal:?}")),
        }
    }
}
