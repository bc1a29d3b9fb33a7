//! Starting, watching and ending pipelines. Their lives are in [`pipelines`](crate::pipelines).

use crate::calls::{Asking, Turn};
use crate::clock::after_ms;
use crate::kernel::Kernel;
use crate::sessions::ending::SIGTERM;
use crate::state::{Awaited, Pending, Timer};
use crate::table::{Answers, Entry};
use kairo_dataplane::command::Scope;
use kairo_wire::error::WireError;
use kairo_wire::method::Method;
use kairo_wire::methods::pipeline::{
    Kill, List, PipelineKillResult, PipelineKillStatus, PipelineListResult, Spawn, Status, Wait,
};
use kairo_wire::methods::status::EndCause;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Spawn::ROW, Answers::Later, spawn),
    (Status::ROW, Answers::Later, status),
    (Wait::ROW, Answers::Later, wait),
    (Kill::ROW, Answers::AtOnce, kill),
    (List::ROW, Answers::AtOnce, list),
];

fn spawn(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Spawn>()?;
    kernel.start_pipeline(turn, asking, params)
}

fn status(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Status>()?;
    let serial = kernel.pipeline(turn, asking, &params.id)?;
    kernel.look_at_stages(turn, asking, serial);
    Ok(())
}

fn wait(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Wait>()?;
    let serial = kernel.pipeline(turn, asking, &params.id)?;
    if let Some(result) = kernel.waited_for(serial)? {
        kernel.answer(turn, asking, &result);
        return Ok(());
    }
    kernel.may_begin(kernel.under(asking).as_deref())?;
    let home = asking.connection.reactor;
    let timer = params.timeout_ms.map(|delay_ms| kernel.arm(turn, home, after_ms(turn.at, delay_ms)));
    let pending = Pending::Pipeline { pipeline: serial, what: Awaited::End { timer } };
    let call = kernel.park(turn, asking, pending);
    if let Some(timer) = timer {
        kernel.state.timers.insert(timer.serial, Timer::Patience { call });
    }
    if let Some(pipeline) = kernel.state.pipelines.get_mut(serial) {
        pipeline.calls.push(call);
    }
    Ok(())
}

fn kill(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Kill>()?;
    let serial = kernel.pipeline(turn, asking, &params.id)?;
    let signal = params.signal.as_ref().map_or(SIGTERM, kernel.config.numbers.signal);
    let grace_ms = params.grace_ms.unwrap_or(kernel.config.limits.kill_grace_ms);
    let by = kernel.ended_by(asking.connection, EndCause::Kill);
    for process in kernel.living_stages(serial) {
        match kernel.state.processes.get(&process).is_some_and(|process| process.pid != 0) {
            true => kernel.kill(turn, process, signal, grace_ms, Scope::Tree, by.clone(), None),
            false => kernel.doom_within(turn, process, by.clone(), grace_ms),
        }
    }
    kernel.answer(turn, asking, &PipelineKillResult { status: PipelineKillStatus::Killed, id: params.id });
    Ok(())
}

fn list(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<List>()?;
    let pipelines = kernel.pipelines_seen(turn, asking.connection);
    kernel.answer(turn, asking, &PipelineListResult { pipelines });
    Ok(())
}
