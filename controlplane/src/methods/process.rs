//! Starting, driving, watching and ending processes. Their lives are in [`sessions`](crate::sessions).
//!
//! Every method that names a process goes through [`Kernel::target`]: what the caller may not touch it is refused,
//! in the original's words.

use crate::auth::decision::Denial;
use crate::auth::grant::may_touch;
use crate::auth::principal::Principal;
use crate::calls::{Asking, Turn};
use crate::clock::after_ms;
use crate::digest::IdempotencyKey;
use crate::kernel::Kernel;
use crate::permissions::programs::Place;
use crate::sessions::ending::{SIGTERM, deed_error, stdin_closed};
use crate::sessions::launch::{busy, keeper_lost};
use crate::sessions::plan::{self, Asker, Plan};
use crate::sessions::report;
use crate::state::{Deed, Pending, Phase, Process, Timer};
use crate::table::{Answers, Entry};
use kairo_dataplane::command::Scope;
use kairo_dataplane::control::{Failure, Moment};
use kairo_wire::codec::decode;
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::ProcessId;
use kairo_wire::method::Method;
use kairo_wire::methods::process::{
    self, Kill, KillResult, KillStatus, List, ListResult, Pause, PauseResult, PauseStatus, Resize, Resume,
    ResumeResult, ResumeStatus, Signal, Spawn, Status, StdinClose, StdinWrite, Wait, WaitResult, WaitStatus,
};
use kairo_wire::methods::quota::QuotaName;
use kairo_wire::methods::status::ProcessStatus;
use kairo_wire::methods::view::ViewChangesResult;
use kairo_wire::permission::Permission;
use serde::Deserialize;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Spawn::ROW, Answers::Later, spawn),
    (Kill::ROW, Answers::Later, kill),
    (Signal::ROW, Answers::Later, signal),
    (Pause::ROW, Answers::Later, pause),
    (Resume::ROW, Answers::Later, resume),
    (StdinWrite::ROW, Answers::Later, stdin_write),
    (StdinClose::ROW, Answers::Later, stdin_close),
    (Resize::ROW, Answers::Later, resize),
    (Wait::ROW, Answers::Later, wait),
    (Status::ROW, Answers::AtOnce, status),
    (List::ROW, Answers::AtOnce, list),
];

impl Kernel {
    /// The process an id names, if there is one and the caller may do that to it: because it is its own and that is not
    /// forbidden, or because it was granted that.
    pub(crate) fn target(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        id: &ProcessId,
    ) -> Result<Option<&Process>, WireError> {
        let Some(process) = self.state.exactly(id) else { return Ok(None) };
        let (principal, connection) = (self.principal(asking.connection), asking.connection);
        if *principal != Principal::Owner {
            let own = may_touch(principal, &process.creator);
            let (uid, text) = (process.creator.uid, id.to_string());
            let permission =
                self.table.get(asking.method).map_or(Permission::ProcessControl, |route| route.permission);
            let denied = |denial: Option<&Denial>| {
                let error = WireError::denied_process(asking.method, &text)
                    .with("id", text.as_str())
                    .with("permission", permission.name())
                    .with("resource", text.as_str());
                match denial {
                    Some(Denial::Forbidden(grant)) => error.with("grant", grant.as_ref()),
                    _ => error,
                }
            };
            if own {
                if let Some(denial) = self.forbidden(turn.at, connection, permission, &text) {
                    return Err(denied(Some(&denial)));
                }
            } else {
                let grant = self.by_grant(turn.at, connection, permission, uid, &text);
                let grant = grant.map_err(|denial| denied(Some(&denial)))?;
                self.spend(turn, Some(grant));
            }
        }
        Ok(self.state.exactly(id))
    }

    /// What a `process.spawn` asks for, checked; nothing if nobody is there to have it.
    pub(crate) fn planned(&self, at: Moment, asking: &Asking<'_>) -> Result<Option<Plan>, WireError> {
        let params = asking.read::<Spawn>()?;
        let Some(peer) = self.state.connections.get(asking.connection) else { return Ok(None) };
        let intent = asking.trace.intent.as_deref();
        self.may_begin_under(intent)?;
        let options = params.options.as_deref();
        let place = Place::alone(options.and_then(|options| options.skill.as_ref()));
        let identity = self.identity(at, asking.connection, (options, place), intent)?;
        let within = self.within(asking.connection);
        let plan = plan::check(&self.config, &Asker::behind(peer, within, identity), params)?;
        Ok(Some(Plan { trace: asking.trace.clone(), given_key: asking.key, ..plan }))
    }

    /// The error of what is asked of a process that is lost.
    pub(crate) fn lost(&self, id: &ProcessId) -> WireError {
        if self.keeper_lost {
            return keeper_lost();
        }
        let message = format!("process {id} is lost: its keeper died, or the machine was restarted");
        WireError::new(Code::Lost, message).with("id", id.to_string())
    }

    /// Parks a call and has its deed done.
    pub(crate) fn undertake(&mut self, turn: &mut Turn<'_>, asking: &Asking<'_>, process: u64, deed: Deed) {
        let ticket = self.park(turn, asking, Pending::Deed { process, deed, sent: false });
        self.act(turn, ticket);
    }

    /// A call has waited as long as it wanted to.
    pub(crate) fn patience_over(&mut self, turn: &mut Turn<'_>, ticket: u64) {
        let Some(call) = self.state.calls.get(&ticket) else { return };
        let error = match &call.pending {
            Pending::Reuse { plan, .. } => busy(&plan.id),
            Pending::Wait { .. } => {
                WireError::new(Code::Timeout, "the process has not exited within timeoutMs")
            }
            Pending::Pipeline { .. } => {
                WireError::new(Code::Timeout, "not every stage has exited within timeoutMs")
            }
            Pending::Changes { since, .. } => {
                let none = ViewChangesResult { seq: *since, ..ViewChangesResult::default() };
                return self.resolve(turn, ticket, &none);
            }
            Pending::Request { .. } => {
                WireError::new(Code::Timeout, "nobody has answered the request within timeoutMs")
            }
            Pending::Decision { request, .. } => {
                let id = request.clone().unwrap_or_default();
                return self.answer_pending(turn, ticket, &id);
            }
            Pending::Spawn { .. }
            | Pending::Deed { .. }
            | Pending::Metrics
            | Pending::Usage { .. }
            | Pending::Published
            | Pending::Compaction { .. }
            | Pending::Repeat { .. }
            | Pending::Cancelling { .. }
            | Pending::Replay { .. }
            | Pending::Open { .. }
            | Pending::Watch { .. } => return,
        };
        self.reject(turn, ticket, &error);
    }
}

pub(crate) fn not_found(id: &ProcessId) -> WireError {
    WireError::process_not_found(&id.to_string())
}

fn scope(scope: Option<process::Scope>) -> Scope {
    match scope {
        Some(process::Scope::Leader) => Scope::Leader,
        Some(process::Scope::Tree) | None => Scope::Tree,
    }
}

/// Whether there is anybody a signal of this scope could reach.
fn is_reachable(process: &Process, scope: Scope) -> bool {
    match (process.phase, scope) {
        (Phase::Starting | Phase::Running, _) => true,
        (Phase::Exited, Scope::Tree) => !process.tree_gone,
        (Phase::Exited, Scope::Leader) | (Phase::Lost, _) => false,
    }
}

/// What would be let by as a name nobody knows, though whoever writes it wants a program contained.
#[derive(Deserialize)]
struct Misplaced {
    #[serde(default)]
    sandbox: Option<Raw>,
}

fn spawn(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    if let Ok(Misplaced { sandbox: Some(_) }) = decode::from_slice(asking.params.bytes()) {
        return Err(WireError::invalid("sandbox", "it belongs into options, and would be of no effect here"));
    }
    match kernel.planned(turn.at, asking)? {
        Some(plan) => kernel.spawn(turn, asking, plan),
        None => Ok(()),
    }
}

fn kill(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Kill>()?;
    let process = kernel.target(turn, asking, &params.id)?.ok_or_else(|| not_found(&params.id))?;
    let (serial, scope) = (process.key.serial, scope(params.scope));
    if process.phase == Phase::Lost && !process.awaits_another() {
        return Err(kernel.lost(&params.id));
    }
    let reachable = is_reachable(process, scope);
    kernel.renounce(turn, serial);
    if !reachable {
        kernel.answer(turn, asking, &KillResult { status: KillStatus::Killed, id: params.id });
        return Ok(());
    }
    let signal = params.signal.as_ref().map_or(SIGTERM, kernel.config.numbers.signal);
    let grace_ms = params.grace_ms.unwrap_or(kernel.config.limits.kill_grace_ms);
    kernel.undertake(turn, asking, serial, Deed::Kill { signal, grace_ms, scope });
    Ok(())
}

fn signal(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Signal>()?;
    let process = kernel.target(turn, asking, &params.id)?.ok_or_else(|| not_found(&params.id))?;
    let (serial, scope) = (process.key.serial, scope(params.scope));
    if process.phase == Phase::Lost {
        return Err(kernel.lost(&params.id));
    }
    if !is_reachable(process, scope) {
        return Err(not_found(&params.id));
    }
    let signal = (kernel.config.numbers.signal)(&params.signal);
    kernel.undertake(turn, asking, serial, Deed::Signal { signal, scope });
    Ok(())
}

fn pause(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Pause>()?;
    match kernel.target(turn, asking, &params.id)?.filter(|process| is_reachable(process, Scope::Tree)) {
        Some(process) => {
            let serial = process.key.serial;
            kernel.undertake(turn, asking, serial, Deed::Pause);
        }
        None => kernel.answer(turn, asking, &PauseResult { status: PauseStatus::Failed, id: params.id }),
    }
    Ok(())
}

fn resume(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Resume>()?;
    match kernel.target(turn, asking, &params.id)?.filter(|process| is_reachable(process, Scope::Tree)) {
        Some(process) => {
            let serial = process.key.serial;
            kernel.undertake(turn, asking, serial, Deed::Resume);
        }
        None => kernel.answer(turn, asking, &ResumeResult { status: ResumeStatus::Failed, id: params.id }),
    }
    Ok(())
}

/// The process whose stdin is meant, by serial.
pub(crate) fn with_stdin(
    kernel: &mut Kernel,
    turn: &mut Turn<'_>,
    asking: &Asking<'_>,
    id: &ProcessId,
) -> Result<u64, WireError> {
    match kernel.target(turn, asking, id)? {
        None => {
            let mut error = not_found(id);
            error.text = stdin_closed(id).text;
            Err(error)
        }
        Some(process) if !is_reachable(process, Scope::Tree) => Err(stdin_closed(id)),
        // Bytes of two writers would mix.
        Some(process) if process.wired.fed.is_some() => Err(stdin_closed(id)),
        Some(process) => Ok(process.key.serial),
    }
}

fn stdin_write(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<StdinWrite>()?;
    let serial = with_stdin(kernel, turn, asking, &params.id)?;
    let data = params.data.0;
    let key = asking.key.map(IdempotencyKey::write_key);
    let parked = kernel.state.connections.get(asking.connection).map_or(0, |peer| peer.parked_bytes);
    if parked + data.len() > kernel.config.limits.parked_bytes_max {
        return Err(deed_error(&params.id, &Deed::Write { data, key }, &Failure::WouldBlock));
    }
    kernel.within_quota(turn, asking.connection, QuotaName::BytesInFlight, data.len() as u64)?;
    kernel.undertake(turn, asking, serial, Deed::Write { data, key });
    Ok(())
}

fn stdin_close(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<StdinClose>()?;
    let serial = with_stdin(kernel, turn, asking, &params.id)?;
    kernel.undertake(turn, asking, serial, Deed::CloseStdin);
    Ok(())
}

fn resize(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Resize>()?;
    let process = kernel.target(turn, asking, &params.id)?.ok_or_else(|| not_found(&params.id))?;
    if process.terminal.is_none() {
        let message = format!("process {} has no terminal", params.id);
        return Err(WireError::new(Code::NoTerminal, message).with("id", params.id.to_string()));
    }
    if !is_reachable(process, Scope::Tree) {
        return Err(not_found(&params.id));
    }
    let serial = process.key.serial;
    kernel.undertake(turn, asking, serial, Deed::Resize { size: plan::terminal_size(params.size()) });
    Ok(())
}

fn wait(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Wait>()?;
    let process = kernel.target(turn, asking, &params.id)?.ok_or_else(|| not_found(&params.id))?;
    let serial = process.key.serial;
    match (process.phase, report::exit(process)) {
        (_, Some(exit)) => {
            let (id, exit_code) = (params.id, exit.v1_code());
            let result = WaitResult { status: WaitStatus::Exited, id, exit_code, exit: Some(exit) };
            kernel.answer(turn, asking, &result);
        }
        (Phase::Lost, None) => return Err(kernel.lost(&params.id)),
        (Phase::Starting | Phase::Running | Phase::Exited, None) => {
            kernel.may_begin(kernel.under(asking).as_deref())?;
            let home = asking.connection.reactor;
            let timer = params.timeout_ms.map(|delay_ms| kernel.arm(turn, home, after_ms(turn.at, delay_ms)));
            let call = kernel.park(turn, asking, Pending::Wait { process: serial, timer });
            if let Some(timer) = timer {
                kernel.state.timers.insert(timer.serial, Timer::Patience { call });
            }
            if let Some(process) = kernel.state.processes.get_mut(&serial) {
                process.waits.push(call);
            }
        }
    }
    Ok(())
}

fn status(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Status>()?;
    let Some(process) = kernel.target(turn, asking, &params.id)? else {
        kernel.answer(turn, asking, &ProcessStatus::UNKNOWN);
        return Ok(());
    };
    let (serial, status) = (process.key.serial, process.status.clone());
    match kernel.state.processes.get(&serial).filter(|_| params.detail) {
        Some(process) => {
            let status = kernel.detail(process, asking.connection);
            kernel.answer(turn, asking, &status);
        }
        None => kernel.answer(turn, asking, &status),
    }
    Ok(())
}

fn list(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<List>()?;
    let seen =
        |process: &Process| kernel.may_see(turn.at, asking.connection, Permission::ProcessObserve, process);
    let mut seen: Vec<&Process> = kernel
        .state
        .processes
        .values()
        .filter(|process| !process.superseded && seen(process))
        .map(|process| &**process)
        .collect();
    seen.sort_unstable_by_key(|process| process.key.serial);
    let processes = seen.into_iter().map(|process| kernel.detail(process, asking.connection)).collect();
    kernel.answer(turn, asking, &ListResult { processes });
    Ok(())
}
