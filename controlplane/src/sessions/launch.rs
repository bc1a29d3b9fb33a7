//! Carrying a plan out: the id is claimed, the environment mixed, the command given, the record opened.
//!
//! Invariant: of any number of spawns that want one id at a time exactly one gets it; each other gets an error
//! that says why. What a spawn may ask for is in [`plan`](crate::sessions::plan).

use crate::auth::grant::may_touch;
use crate::auth::principal::Principal;
use crate::calls::{Asking, Turn};
use crate::clock::after_ms;
use crate::digest::GuardianDigest;
use crate::entropy::bits;
use crate::kernel::Kernel;
use crate::sessions::containing::Containing;
use crate::sessions::environment::{self, Ingredients, Variables};
use crate::sessions::measuring::Measured;
use crate::sessions::plan::Plan;
use crate::sessions::record::Record;
use crate::sessions::restart::Renewal;
use crate::sessions::violating::have_watched;
use crate::sessions::wards::Guardian;
use crate::state::{Pending, Phase, Process, Timer};
use kairo_dataplane::command::{Command, Spawn};
use kairo_dataplane::control::{Moment, SpawnFailure, SpawnStage, Tree};
use kairo_dataplane::key::{ConnectionKey, ProcessKey};
use kairo_dataplane::meter::ProcessMeter;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::{EventId, ProcessId, SessionId};
use kairo_wire::methods::status::RecordStatus;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// Spawns of one connection that may wait for their ids at a time: each keeps its argv and environment.
const QUEUED_SPAWNS_MAX: usize = 64;
/// What is remembered of an argv, bytes of one argument and of all together.
const ARGUMENT_KEPT_BYTES: usize = 1_024;
const ARGV_KEPT_BYTES: usize = 8_192;

/// Whether an id can be had.
enum Claim {
    /// Now.
    Free,
    /// When the tree of this process is gone.
    Dying(u64),
}

impl Kernel {
    /// Starts a planned process for a call, or parks the call until the id is free.
    pub(crate) fn spawn(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        mut plan: Plan,
    ) -> Result<(), WireError> {
        self.takes_spawns()?;
        self.takes_records(plan.durable)?;
        self.wire(turn, asking, &mut plan)?;
        match self.claim(asking.connection, &plan.id)? {
            Claim::Free => {
                self.may_launch(turn, &mut plan)?;
                let process = self.launch(turn, asking.connection, plan);
                let call = self.park(turn, asking, Pending::Spawn { process });
                self.await_spawn(process, call);
            }
            Claim::Dying(_) if self.queued_spawns(asking.connection) >= QUEUED_SPAWNS_MAX => {
                return Err(busy(&plan.id));
            }
            Claim::Dying(holder) => {
                self.hurry(turn, holder);
                let at_ns = after_ms(turn.at, self.config.limits.reuse_wait_ms);
                let timer = self.arm(turn, asking.connection.reactor, at_ns);
                let call = self.park(turn, asking, Pending::Reuse { holder, plan: Box::new(plan), timer });
                self.state.timers.insert(timer.serial, Timer::Patience { call });
                if let Some(process) = self.state.processes.get_mut(&holder) {
                    process.heirs.push(call);
                }
            }
        }
        Ok(())
    }

    /// A parked spawn waits for this process to run.
    fn await_spawn(&mut self, process: u64, call: u64) {
        if let Some(process) = self.state.processes.get_mut(&process) {
            process.spawning.push(call);
        }
    }

    /// Whether anything can be started at all.
    pub(crate) fn takes_spawns(&self) -> Result<(), WireError> {
        if self.keeper_lost {
            return Err(keeper_lost());
        }
        if self.stopping {
            return Err(WireError::new(Code::Unavailable, "the kernel is stopping"));
        }
        Ok(())
    }

    /// Whether an id can be had at once.
    pub(crate) fn is_free(&self, connection: ConnectionKey, id: &ProcessId) -> bool {
        matches!(self.claim(connection, id), Ok(Claim::Free))
    }

    /// Refuses an id that can't be had at once.
    pub(crate) fn claim_now(&self, connection: ConnectionKey, id: &ProcessId) -> Result<(), WireError> {
        match self.claim(connection, id)? {
            Claim::Free => Ok(()),
            Claim::Dying(_) => Err(busy(id)),
        }
    }

    fn claim(&self, connection: ConnectionKey, id: &ProcessId) -> Result<Claim, WireError> {
        let Some(holder) = self.state.named(id) else { return Ok(Claim::Free) };
        let principal = self.principal(connection);
        let refused = |why: &str| {
            Err(WireError::new(Code::AlreadyExists, format!("process {id}: {why}"))
                .with("id", id.to_string()))
        };
        if !may_touch(principal, &holder.creator) {
            return refused("the id belongs to somebody else");
        }
        if holder.tree_gone {
            return Ok(Claim::Free);
        }
        if holder.phase == Phase::Exited || holder.killing.is_some() {
            return Ok(Claim::Dying(holder.key.serial));
        }
        if holder.id != *id {
            return refused("the id is taken by a process whose id has the same text and another type");
        }
        refused("it is still running")
    }

    /// The tree of a process is gone: the first spawn that waits for its id gets it, the others an error.
    pub(crate) fn inherit(&mut self, turn: &mut Turn<'_>, heirs: Vec<u64>) {
        for ticket in heirs {
            let Some(call) = self.state.calls.get_mut(&ticket) else { continue };
            let connection = call.connection;
            let Pending::Reuse { plan, timer, .. } = &call.pending else { continue };
            let (id, timer) = (plan.id.clone(), *timer);
            if let Err(error) = self.takes_spawns() {
                self.reject(turn, ticket, &error);
                continue;
            }
            match self.claim(connection, &id) {
                Ok(Claim::Free) => {
                    self.disarm(turn, timer);
                    let process = self.state.next_serial();
                    let Some(call) = self.state.calls.get_mut(&ticket) else { continue };
                    let before = std::mem::replace(&mut call.pending, Pending::Spawn { process });
                    let Pending::Reuse { mut plan, .. } = before else { continue };
                    let whom = (plan.cast.acts_as.as_ref(), plan.cast.under.as_ref());
                    let still = self.is_still_good(turn.at, connection, whom);
                    if let Err(error) = still.and_then(|()| self.may_launch(turn, &mut plan)) {
                        self.reject(turn, ticket, &error);
                        continue;
                    }
                    self.launch_as(turn, connection, *plan, process);
                    self.await_spawn(process, ticket);
                }
                // Somebody was faster, and is alive.
                Ok(Claim::Dying(_)) => self.reject(turn, ticket, &busy(&id)),
                Err(error) => self.reject(turn, ticket, &error),
            }
        }
    }

    fn launch(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey, plan: Plan) -> u64 {
        let serial = self.state.next_serial();
        self.launch_as(turn, connection, plan, serial);
        serial
    }

    pub(crate) fn launch_as(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        mut plan: Plan,
        serial: u64,
    ) {
        let birth = self.name_event();
        plan.trace.begin(&birth);
        let key = ProcessKey { home: self.home_of(&plan, connection), serial };
        let session = SessionId::new(bits(&mut *self.entropy) as u64);
        let variables = environment::compose(
            &self.config,
            Ingredients {
                account: plan.account.as_ref(),
                given: plan.given.clone(),
                inherit: plan.inherit_env,
                contained: plan.contained.as_deref(),
                terminal: plan.terminal().is_some(),
                session: session.as_str(),
                process_id: &plan.id.key(),
                trace: &plan.trace,
                birth: &birth,
            },
        );
        let meter = Arc::new(ProcessMeter::default());
        let guardian = plan.guarded.then(|| GuardianDigest::of(&self.token(connection)));
        let (key_used, environment_digest) = (plan.given_key, self.digest_of(&variables));
        let (argv, variables) = self.adapted(&plan, session.as_str(), variables);
        let mut spawn = Box::new(Spawn {
            process: key,
            session: session.as_str().to_owned(),
            argv,
            env: environment::lines(&variables),
            search_path: environment::search_path(&variables),
            cwd: plan.cwd.clone(),
            stdio: plan.stdio,
            wiring: plan.wires.wiring(key.home),
            credentials: plan.account.as_ref().map(|account| account.credentials.clone()),
            rlimits: plan.rlimits.clone(),
            cgroup: plan.cgroup,
            containment: plan.contained.as_ref().map(|contained| Box::new(contained.containment.clone())),
            program: plan.program,
            history: plan.history,
            rate: [plan.rate; 2],
            unread: plan.unread,
            spool: plan.spool,
            placement: plan.placement.clone(),
            record: bytes::Bytes::new(),
            meter: Arc::clone(&meter),
            produced: plan.published.map(|published| published.kind),
        });
        have_watched(turn, &spawn);
        let spawned_at = turn.out.list.len();
        self.supersede(turn, &plan.id);
        self.state.names.insert(plan.id.key().into(), serial);
        self.state.sessions.insert(session.as_str().into(), serial);
        if plan.guarded {
            self.entrust(connection, serial);
        }
        self.occupy(plan.cast.under.as_ref(), session.as_str());
        let mut process =
            open_record(turn.at, (key, connection), (session, birth), plan, (environment_digest, meter));
        process.record = if self.config.embedded { RecordStatus::None } else { process.record };
        let stage = self.joined(&mut process);
        spawn.record = Record::of(&process, guardian, key_used, stage).encode();
        turn.out.list.insert(spawned_at, Command::Spawn(spawn));
        self.state.processes.insert(serial, Box::new(process));
        self.enroll_process(serial);
    }

    /// Equal environments have equal digests, and nobody without the kernel's key can try values out.
    fn digest_of(&self, variables: &Variables) -> u64 {
        let mut digest = self.digester.build_hasher();
        for (name, value) in variables {
            if environment::differs_in_every_life(name) {
                continue;
            }
            digest.write(name);
            digest.write_u8(b'=');
            digest.write(value);
            digest.write_u8(0);
        }
        digest.finish()
    }
}

/// The record of a process to be.
pub(crate) fn open_record(
    at: Moment,
    (key, connection): (ProcessKey, ConnectionKey),
    (session, birth): (SessionId, EventId),
    plan: Plan,
    (environment_digest, meter): (u64, Arc<ProcessMeter>),
) -> Process {
    let (terminal, renewal, open) = (plan.terminal(), Renewal::of(&plan), plan.outputs());
    Process {
        key,
        id: plan.id,
        session,
        creator: plan.creator,
        run_uid: plan.account.as_ref().map(|account| account.credentials.uid),
        guardian: plan.guarded.then_some(Guardian::Present(connection)),
        spawning: Vec::new(),
        phase: Phase::Starting,
        tree_gone: false,
        paused: false,
        terminal,
        argv: remembered(plan.argv, &plan.secret_args),
        cwd: plan.cwd,
        environment_digest,
        history: [plan.history; 2],
        rate: [plan.rate; 2],
        unread: plan.unread,
        spool: plan.spool,
        pid: 0,
        start_ticks: 0,
        tree: Tree::BestEffort,
        limits: Vec::new(),
        contained: plan.contained.map_or(Containing::Not, Containing::By),
        cast: plan.cast,
        measured: Measured { wanted: plan.program.and_then(|check| check.wanted), found: None },
        started: at,
        exited: None,
        exit: None,
        doom: None,
        ended_by: None,
        signalled: None,
        killing: None,
        ends: [None; 2],
        open,
        let_go: [None; 2],
        stdin_end: None,
        uncertain: Vec::new(),
        meter,
        waits: Vec::new(),
        deferred: Vec::new(),
        heirs: Vec::new(),
        readers: Default::default(),
        wired: plan.wires.wired(plan.stage),
        superseded: false,
        retained_ns: None,
        status: crate::sessions::report::running(None),
        noted: bytes::Bytes::new(),
        written: Default::default(),
        trace: plan.trace,
        birth,
        told: Default::default(),
        durable: plan.durable == Some(true),
        flushing: false,
        record: if plan.durable == Some(false) { RecordStatus::None } else { RecordStatus::Written },
        renewal,
        follows: plan.follows,
        adapter: plan.adapter,
        placement: plan.placement,
        published: plan.published,
    }
}

/// The part of an argv that is told and kept: without secrets, and with an ellipsis where it is long.
fn remembered(argv: Vec<Vec<u8>>, secret: &[usize]) -> Vec<Vec<u8>> {
    const ELLIPSIS: &[u8] = "…".as_bytes();
    let mut kept = Vec::new();
    let mut room = ARGV_KEPT_BYTES;
    for (place, mut argument) in argv.into_iter().enumerate() {
        if secret.contains(&place) {
            argument = b"<secret>".to_vec();
        }
        if argument.len() > ARGUMENT_KEPT_BYTES {
            argument.truncate(ARGUMENT_KEPT_BYTES);
            argument.extend_from_slice(ELLIPSIS);
        }
        if argument.len() > room {
            kept.push(ELLIPSIS.to_vec());
            break;
        }
        room -= argument.len();
        argument.shrink_to_fit();
        kept.push(argument);
    }
    kept
}

/// Nobody is there to start or signal anything.
pub(crate) fn keeper_lost() -> WireError {
    WireError::new(Code::KeeperLost, "the keeper is gone; start the kernel again")
}

/// An id that does not get free.
pub(crate) fn busy(id: &ProcessId) -> WireError {
    WireError::new(Code::Busy, format!("process {id}: its tree is still there")).with("id", id.to_string())
}

fn paths_denied(errno: i32) -> WireError {
    let message = format!(
        "deniedPaths: one isn't there and can't be kept from being made, is behind a link that could be replaced, or has \
         another name ({}); acceptWeaker takes its name",
        errno_words(errno)
    );
    WireError::unsupported("options.sandbox", &message).with("protection", "deniedPaths")
}

fn unbound(errno: i32) -> WireError {
    let message = match errno {
        ENOSYS => "the keeper is older than this kernel and binds nothing to cores; end it first".to_owned(),
        _ => format!("none of these cores is to be had ({})", errno_words(errno)),
    };
    WireError::unsupported("options.cpus", &message)
}

/// The error of a spawn that came to nothing. The messages hold the original's texts.
pub(crate) fn spawn_error(process: &Process, failure: &SpawnFailure) -> WireError {
    let program = process.argv.first().map(|program| String::from_utf8_lossy(program)).unwrap_or_default();
    let errno = failure.errno;
    let error = match failure.stage {
        SpawnStage::Exec => match errno {
            ENOENT | ENOTDIR if program.contains('/') => {
                let message = format!("ENOENT: no such file or directory, posix_spawn '{program}'");
                WireError::new(Code::ExecutableNotFound, message).with("field", "command[0]")
            }
            ENOENT | ENOTDIR => {
                let message = format!("Executable not found in $PATH: \"{program}\"");
                WireError::new(Code::ExecutableNotFound, message).with("field", "command[0]")
            }
            EACCES | EPERM | ENOEXEC | EISDIR | ETXTBSY | ELIBBAD | ELOOP => {
                let message = format!("{program}: {}, so it cannot be executed", errno_words(errno));
                WireError::new(Code::NotExecutable, message).with("field", "command[0]")
            }
            E2BIG => {
                let message = "command: argv and environment are too large for the operating system";
                WireError::too_large("argumentsBytesMax", message).with("field", "command")
            }
            _ => failed(failure, &program),
        },
        SpawnStage::Cwd => {
            let cwd = process.cwd.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let message = format!("{}, chdir '{cwd}'", errno_words(errno));
            WireError::new(Code::Cwd, message).with("field", "options.cwd")
        }
        SpawnStage::Affinity => unbound(errno),
        SpawnStage::Cgroup => {
            let message =
                format!("no cgroup for the limits ({}); allowWeaker accepts less", errno_words(errno));
            WireError::unsupported("options.limits", &message)
        }
        SpawnStage::Keeper => {
            WireError::new(Code::KeeperLost, format!("the keeper does not answer (errno {errno})"))
        }
        SpawnStage::Containment if errno == ENOSYS => WireError::unsupported(
            "options.sandbox",
            "the keeper is older than this kernel and can't contain; end it first",
        ),
        SpawnStage::DeniedPaths => paths_denied(errno),
        SpawnStage::StdinFile | SpawnStage::Joint => unjoined(failure, &program),
        SpawnStage::Containment
        | SpawnStage::KernelSocket
        | SpawnStage::Privileges
        | SpawnStage::Landlock
        | SpawnStage::Filter
        | SpawnStage::Namespaces
        | SpawnStage::Probe => {
            let what = stage(failure.stage);
            let message =
                format!("{program} was not started: {what} failed in its sandbox: {}", errno_words(errno));
            WireError::new(Code::SpawnFailed, message).with("field", "options.sandbox")
        }
        SpawnStage::Measure | SpawnStage::Weaker | SpawnStage::Program => {
            process.not_let_run(&program, failure, &errno_words(errno))
        }
        SpawnStage::Resources
        | SpawnStage::Fork
        | SpawnStage::Rlimit
        | SpawnStage::Credentials
        | SpawnStage::Stdio => failed(failure, &program),
    };
    error.with("stage", stage(failure.stage)).with("errno", errno)
}

/// What its stdin was to be could not be had.
fn unjoined(failure: &SpawnFailure, program: &str) -> WireError {
    match (failure.stage, failure.errno) {
        (_, ENOSYS) => WireError::unsupported(
            "options.stdin",
            "the keeper is older than this kernel and can only make pipes of its own; end it first",
        ),
        (SpawnStage::StdinFile, errno) => {
            let message = format!("options.stdin.file: {}", errno_words(errno));
            WireError::new(Code::SpawnFailed, message).with("field", "options.stdin.file")
        }
        _ => failed(failure, program),
    }
}

fn failed(failure: &SpawnFailure, program: &str) -> WireError {
    let (stage, words) = (stage(failure.stage), errno_words(failure.errno));
    WireError::new(Code::SpawnFailed, format!("{program}: {stage} failed: {words}"))
}

fn stage(stage: SpawnStage) -> &'static str {
    match stage {
        SpawnStage::Resources => "resources",
        SpawnStage::Fork => "fork",
        SpawnStage::Cgroup => "cgroup",
        SpawnStage::Rlimit => "rlimit",
        SpawnStage::Credentials => "credentials",
        SpawnStage::Cwd => "cwd",
        SpawnStage::Stdio => "stdio",
        SpawnStage::Exec => "exec",
        SpawnStage::Keeper => "keeper",
        SpawnStage::Containment => "containment",
        SpawnStage::KernelSocket => "kernelSocket",
        SpawnStage::Privileges => "privileges",
        SpawnStage::Landlock => "landlock",
        SpawnStage::Filter => "filter",
        SpawnStage::Probe => "probe",
        SpawnStage::Measure => "measure",
        SpawnStage::Weaker => "weaker",
        SpawnStage::Program => "program",
        SpawnStage::Namespaces => "namespaces",
        SpawnStage::DeniedPaths => "deniedPaths",
        SpawnStage::Affinity => "affinity",
        SpawnStage::StdinFile => "stdinFile",
        SpawnStage::Joint => "joint",
    }
}

// errno(3); those that differ between systems are only ever shown as numbers.
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const E2BIG: i32 = 7;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const ETXTBSY: i32 = 26;
const ENOSYS: i32 = 38;
const ELOOP: i32 = 40;
const ELIBBAD: i32 = 80;

fn errno_words(errno: i32) -> String {
    let words = match errno {
        EPERM => "EPERM: operation not permitted",
        ENOENT => "ENOENT: no such file or directory",
        E2BIG => "E2BIG: argument list too long",
        ENOEXEC => "ENOEXEC: exec format error",
        11 => "EAGAIN: too many processes or descriptors",
        12 => "ENOMEM: out of memory",
        EACCES => "EACCES: permission denied",
        ENOTDIR => "ENOTDIR: not a directory",
        EISDIR => "EISDIR: is a directory",
        22 => "EINVAL: invalid argument",
        23 | 24 => "EMFILE: too many open files",
        ETXTBSY => "ETXTBSY: the file is being written",
        ELOOP => "ELOOP: too many symbolic links",
        _ => return format!("errno {errno}"),
    };
    words.to_owned()
}

/// The principal a connection has; nobody if it is gone.
impl Kernel {
    /// Of a live connection; a gone one has no rights.
    pub(crate) fn principal(&self, connection: ConnectionKey) -> &Principal {
        const GONE: &Principal = &Principal::Nobody { uid: u32::MAX };
        self.state.connections.get(connection).map_or(GONE, |connection| &connection.principal)
    }
}
