//! A kernel from start to stop: which part exists before which, and who ends first.
//!
//! ```text
//!  claim the socket ─▶ keeper, found or started (while there are no threads) ─▶ logging ─▶ control plane, adopting
//!                   ─▶ reactors, inheriting ─▶ ready
//!  shutdown ─▶ trees ─▶ keeper ─▶ reactors ─▶ socket file        signal ─▶ reactors ─▶ socket file
//! ```
//!
//! [`daemon`] is `kairo serve`, [`embedded`] is the kernel inside `kairo run`; what they share is here.

pub(crate) mod accounts;
pub(crate) mod daemon;
pub(crate) mod embedded;
mod fifos;
mod inheritance;
mod recollection;

use crate::adapters::catalogue::{Catalogue, Desk};
use crate::adapters::host::Host;
use crate::adapters::side;
use crate::config::events::{EventRule, Events};
use crate::config::{Config, DriverChoice, environment};
use crate::log::{self, Running};
use crate::state::State;
use crate::state::records::Sealer;
use crate::violations::Watcher;
use crate::worker::{Done, Worker};
use anyhow::{Context, Result};
use kairo_controlplane::auth::rules::Policy;
use kairo_controlplane::config::{Config as ControlConfig, Cores, Limits, Numbers};
use kairo_controlplane::entropy::Entropy;
use kairo_controlplane::events::log::{Log, Retention, Rule};
use kairo_controlplane::events::views;
use kairo_controlplane::kernel::{ControlPlane, Kernel};
use kairo_dataplane::budget::Budget;
use kairo_dataplane::command::{Adapt, Command, Commands, HistorySize, Job};
use kairo_dataplane::control::{Lineage, Peer};
use kairo_dataplane::keeper::link::Launched;
use kairo_dataplane::keeper::settlement::{Heir, Inheritance};
use kairo_dataplane::plane::{self, Plane, PlaneHandle, SpoolRoot, Start};
use kairo_dataplane::sys::clock;
use kairo_dataplane::sys::process::allowed_cpus;
use kairo_dataplane::sys::socket::stream_pair;
use kairo_sandbox::ability::Ability;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

/// What an embedded kernel keeps of its events, bytes: the latest.
const EMBEDDED_LOG_BYTES_MAX: u64 = 8 << 20;

/// The operating system's random bytes, fetched some at a time: every event has some in its name.
struct SystemEntropy {
    fetched: [u8; 512],
    /// What of it is left begins here.
    at: usize,
}

impl SystemEntropy {
    fn new() -> SystemEntropy {
        let fetched = [0; 512];
        SystemEntropy { at: fetched.len(), fetched }
    }
}

impl Entropy for SystemEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(self.fetched.len()) {
            if self.fetched.len() - self.at < piece.len() {
                // getrandom(2) fails only where the system call is missing, which doctor and the start both refuse.
                if let Err(error) = getrandom::fill(&mut self.fetched) {
                    tracing::error!(%error, "no randomness");
                    std::process::abort();
                }
                self.at = 0;
            }
            let taken = &mut self.fetched[self.at..self.at + piece.len()];
            piece.copy_from_slice(taken);
            // What was given out is nowhere else.
            taken.fill(0);
            self.at += piece.len();
        }
    }
}

/// The worker, whoever reads for adapters and who listens for violations, as the data plane sees them.
struct Slow(Worker, Arc<Host>, Arc<Watcher>);

impl kairo_dataplane::reactor::Worker for Slow {
    fn submit(&self, job: Job, done: Done) {
        self.0.submit(job, done);
    }

    fn adapt(&self, news: Adapt) {
        self.1.take(news);
    }

    fn watch(&self) {
        self.2.begin();
    }
}

/// Raises the soft limit of open files to the hard one, and returns what it was for the children to have again.
fn raise_nofile() -> Result<Option<(u64, u64)>> {
    let before = getrlimit(Resource::Nofile);
    let (Some(soft), Some(hard)) = (before.current, before.maximum) else { return Ok(None) };
    setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) })
        .context("could not raise the limit of open files")?;
    Ok(Some((soft, hard)))
}

/// A connection to the kernel in this process, as its owner.
pub(crate) fn connect_ourselves(plane: &PlaneHandle) -> io::Result<UnixStream> {
    let (ours, theirs) = stream_pair(false)?;
    let me = Peer {
        pid: std::process::id() as i32,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: Vec::new(),
        lineage: Lineage::Outside,
    };
    plane.connect(ours, me);
    Ok(UnixStream::from(theirs))
}

fn control_config(config: &Config, embedded: bool, budget: Arc<Budget>, given: &Given) -> ControlConfig {
    let limits = &config.limits;
    ControlConfig {
        owner_uid: rustix::process::geteuid().as_raw(),
        pid: std::process::id() as i32,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        embedded,
        spools: !embedded,
        socket_path: (!embedded).then(|| config.socket.clone().into_os_string().into_vec()),
        environment: environment::all(),
        accounts: Box::new(accounts::Passwd::read()),
        adapters: Box::new(Desk(Arc::clone(&given.adapters))),
        policy: Arc::new(given.policy.clone()),
        facts: crate::doctor::facts(&given.ability),
        ability: given.ability.clone(),
        limits: Limits {
            kill_grace_ms: limits.kill_grace_ms.into(),
            retention_ms: u64::from(limits.ended_seconds_max) * 1000,
            retained_max: limits.ended_processes_max as usize,
            history: HistorySize {
                head_bytes: limits.history_head_bytes,
                tail_bytes: limits.history_tail_bytes,
            },
            history_bytes_max: limits.history_bytes_max,
            pipe_bytes: limits.pipe_bytes,
            parked_bytes_max: limits.stdin_parked_bytes_max as usize,
            ..Limits::default()
        },
        quotas: config.quotas.clone(),
        budget,
        numbers: Numbers::LINUX,
        cores: Cores { allowed: allowed_cpus(), reactors: if embedded { 1 } else { reactors(config) } },
    }
}

/// What is dropped from the log by and by; one in memory keeps within its bytes by itself.
fn retention(config: &Config, embedded: bool) -> Retention {
    if embedded {
        return Retention::default();
    }
    let Events { retain_ms, retain_bytes, rules } = &config.events;
    let rule = |rule: &EventRule| Rule {
        types: rule.topic.clone(),
        age_ms: rule.max_age_ms,
        latest_by: rule.latest_by.clone(),
        count: rule.max_count,
    };
    Retention {
        age_ms: *retain_ms,
        bytes: *retain_bytes,
        rules: rules.iter().map(rule).collect(),
        keep_from: None,
    }
}

/// A keeper that runs, and what it kept of a kernel before us.
#[derive(Debug)]
struct Kept {
    keeper_pid: i32,
    lanes: Vec<OwnedFd>,
    heirs: Vec<Heir>,
}

impl From<Launched> for Kept {
    fn from(launched: Launched) -> Kept {
        Kept { keeper_pid: launched.pid, lanes: launched.lanes, heirs: Vec::new() }
    }
}

impl From<Inheritance> for Kept {
    fn from(found: Inheritance) -> Kept {
        Kept { keeper_pid: found.keeper_pid, lanes: found.lanes, heirs: found.heirs }
    }
}

/// What a kernel is given that isn't in its configuration.
struct Given {
    adapters: Arc<Catalogue>,
    policy: Policy,
    /// What this machine can enforce.
    ability: Ability,
    /// Where fifos are made.
    fifos: Option<PathBuf>,
}

/// Starts the reactors of a kernel whose keeper runs.
fn start_plane(
    config: &Config,
    given: Given,
    keeper: Kept,
    listener: Option<OwnedFd>,
    state: Option<State>,
) -> Result<(Plane, Arc<ControlPlane>, Running)> {
    let embedded = listener.is_none();
    let budget = Arc::new(Budget::new(config.limits.history_memory_max));
    let (log, sealer, past) = match state {
        Some(state) => {
            let (log, sealer, past) = state.into_parts();
            (log, sealer, Some(past))
        }
        None => (Log::in_memory(EMBEDDED_LOG_BYTES_MAX)?, Sealer::none(), None),
    };
    let (last_seq, reader) = (log.last_seq(), log.reader());
    let (outlet, log) = log::prepare(log, sealer, retention(config, embedded));
    let of_kernel = control_config(config, embedded, budget.clone(), &given);
    let adapters = given.adapters;
    let kernel = Kernel::new(of_kernel, Box::new(SystemEntropy::new()), outlet, last_seq);
    let reconnect_grace_ns = kernel.reconnect_grace_ns();
    let control = Arc::new(ControlPlane::new(kernel, clock::monotonic_ns));
    let mut out = Commands::default();
    let spools = config.state.join("spool");
    if let Some(folder) = adapters.folder() {
        let living = keeper.heirs.iter().map(|heir| heir.session.session.clone()).collect();
        side::prepare(folder, &living).with_context(|| format!("preparing {}", folder.display()))?;
    }
    let host = Host::new(adapters);
    let watcher = Watcher::new(keeper.keeper_pid);
    let recalled = recollection::recall(&control, &reader, keeper.heirs, past, &spools, &mut out)?;
    tell_adopted(&host, &mut out);
    let plane = Plane::start(Start {
        control: control.clone(),
        worker: Arc::new(Slow(Worker::new(), Arc::clone(&host), Arc::clone(&watcher))),
        lanes: keeper.lanes,
        keeper_pid: keeper.keeper_pid,
        reconnect_grace_ns,
        adopted: recalled.adopted,
        fifos: given.fifos,
        spool: (!embedded).then_some(SpoolRoot { folder: spools, bytes_max: config.limits.spool_bytes_max }),
        retained_bytes_max: config.limits.ended_history_bytes_max as usize,
        budget,
        stall_ns: u64::from(config.limits.stall_ms) * 1_000_000,
        listener,
        driver: match config.driver {
            DriverChoice::Auto => plane::DriverChoice::Auto,
            DriverChoice::Uring => plane::DriverChoice::Uring,
            DriverChoice::Poll => plane::DriverChoice::Poll,
        },
    })
    .context("the reactors could not be started (--driver poll needs nothing special)")?;
    host.attach(Arc::clone(&control), plane.handle());
    watcher.attach(Arc::clone(&control), plane.handle());
    let of_views = views::Limits { defined_bytes: config.limits.view_bytes_max, ..views::Limits::default() };
    let log = log.begin(&control, plane.handle(), (rustix::process::geteuid().as_raw(), of_views))?;
    control.with(|kernel| {
        kernel.ready(clock::now(), &mut out);
        kernel.log_damaged(clock::now(), &recalled.damage, &mut out);
        kernel.audit_found(clock::now(), &recalled.audit, &mut out);
    });
    plane.handle().carry_out(out);
    Ok((plane, control, log))
}

/// Has what was adopted under adapters read, before any reactor can tell of its end.
fn tell_adopted(host: &Arc<Host>, out: &mut Commands) {
    for command in std::mem::take(&mut out.list) {
        match command {
            Command::Adapt(news) => host.take(news),
            other => out.push(other),
        }
    }
}

/// Ends every tree with a grace between SIGTERM and SIGKILL, then keeper and reactors. `reason` goes into the event.
fn stop(plane: &PlaneHandle, control: &ControlPlane, reason: &str, grace_ms: u64) {
    let mut out = Commands::default();
    control.with(|kernel| kernel.stop(clock::now(), reason, grace_ms, &mut out));
    plane.carry_out(out);
}

/// Reactors to start: what was asked for, or one per core.
fn reactors(config: &Config) -> u16 {
    let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get().min(64) as u16);
    config.cores.unwrap_or_else(cores).max(1)
}
