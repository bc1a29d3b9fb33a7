//! What a kernel does for adapters, which read what a program writes for how far it is.
//!
//! Here one is chosen, its words go into the child's argv and environment, whoever reads is told of processes, and what
//! was read is published. Reading is the program's: no byte and no pattern comes here. Invariant: progress is an event of
//! a process there is, and only the kernel's own program can say it: no method leads here.

use crate::calls::Turn;
use crate::clock::wall_ms;
use crate::config::{Adapter, Config, NoSuchAdapter};
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::sessions::environment::Variables;
use crate::sessions::plan::Plan;
use crate::state::Phase;
use kairo_dataplane::command::{Adapt, Adapted, Command, Commands, StderrTarget, Stdio};
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::ProcessKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::ProcessProgress;

/// The adapter of a spawn. `foreign`: it runs as another user than the daemon's.
pub(crate) fn choose(
    config: &Config,
    asked: Option<&str>,
    program: &[u8],
    stdio: &Stdio,
    foreign: bool,
) -> Result<Option<String>, WireError> {
    const FIELD: &str = "options.adapter";
    let Some(asked) = asked else { return Ok(None) };
    let found = config.adapters.choose(asked, program).map_err(|NoSuchAdapter| {
        WireError::invalid(FIELD, format!("there is no adapter {asked:?}; `kairo adapters` lists them"))
    })?;
    let Some(Adapter { name, stderr, side }) = found else { return Ok(None) };
    if stderr && matches!(stdio, Stdio::Pipes { stderr: StderrTarget::Inherit, .. }) {
        let message = format!("{FIELD}: {name} reads stderr, which is not ours if it is inherited");
        return Err(WireError::new(Code::Conflict, message).with("field", FIELD));
    }
    if side && foreign {
        return Err(WireError::unsupported(FIELD, "the program could not write where this adapter reads"));
    }
    Ok(Some(name))
}

impl Kernel {
    /// The argv and the environment of a child, with what its adapter adds.
    pub(crate) fn adapted(
        &self,
        plan: &Plan,
        session: &str,
        mut variables: Variables,
    ) -> (Vec<Vec<u8>>, Variables) {
        let mut argv = plan.argv.clone();
        if let Some(adapter) = &plan.adapter {
            let preparation = self.config.adapters.prepare(adapter, session);
            let behind = argv.len().min(1);
            argv.splice(behind..behind, preparation.arguments);
            for (name, value) in preparation.environment {
                variables.entry(name).or_insert(value);
            }
        }
        (argv, variables)
    }

    /// A process runs: whoever reads may begin.
    pub(crate) fn adapt(&self, turn: &mut Turn<'_>, serial: u64, resumed: bool) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let Some(adapter) = process.adapter.clone() else { return };
        turn.out.push(Command::Adapt(Adapt::Begun(Box::new(Adapted {
            process: process.key,
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            adapter,
            started_ms: wall_ms(process.started),
            stderr: process.open[1],
            resumed,
        }))));
    }

    /// The same of one that was read by a former kernel, unless there is nothing more to come of it.
    pub(crate) fn adapt_again(&self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let exited = process.phase != Phase::Running;
        if exited && process.open == [false; 2] {
            return;
        }
        self.adapt(turn, serial, true);
        if exited {
            self.adapt_no_more(turn, serial);
        }
    }

    /// Its leader is gone.
    pub(crate) fn adapt_no_more(&self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        if process.adapter.is_some() {
            turn.out.push(Command::Adapt(Adapt::Over(process.key)));
        }
    }

    /// Publishes what the output of a process said of how far it is. One that is forgotten says nothing more.
    pub fn progress(&mut self, at: Moment, key: ProcessKey, event: &ProcessProgress, out: &mut Commands) {
        let Some(process) = self.state.processes.get(&key.serial) else { return };
        let (creator, trace) = (process.creator.clone(), process.story());
        self.publish(&mut Turn { at, here: None, out }, Audience::Of(creator), &trace, event);
    }
}
