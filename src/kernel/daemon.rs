//! `kairo serve`: a kernel with a socket, until a signal or `kernel.shutdown` ends it.

use super::fifos::Fifos;
use super::inheritance::find_keeper;
use super::{Given, raise_nofile, reactors, start_plane};
use crate::adapters::catalogue::Catalogue;
use crate::adapters::registry::Registry;
use crate::config::Config;
use crate::config::environment::Environment;
use crate::logging;
use crate::service::Service;
use crate::service::watchdog::watch;
use crate::socket_guard::Claim;
use crate::state;
use anyhow::{Context, Result};
use kairo_controlplane::auth::rules::Policy;
use kairo_controlplane::kernel::ControlPlane;
use kairo_dataplane::command::Commands;
use kairo_dataplane::keeper::link::reap;
use kairo_dataplane::plane::PlaneHandle;
use kairo_dataplane::points::{self, Point};
use kairo_dataplane::sys::{clock, process};
use kairo_sandbox::ability::Ability;
use nix::sys::signal::{SigSet, Signal};
use std::io::Write;
use std::sync::Arc;

/// What `serve` is told besides its configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// One JSON object instead of a sentence when ready.
    pub(crate) json: bool,
    /// Die when this point is reached for the nth time: for tests.
    pub(crate) die_at: Option<(Point, u64)>,
    /// Make a state folder of another machine this one's.
    pub(crate) adopt_foreign_state: bool,
    /// What was there when the program started.
    pub(crate) environment: Environment,
    /// The adapters there are.
    pub(crate) adapters: Registry,
    /// What is decided while nobody is there.
    pub(crate) policy: Policy,
}

impl Options {
    /// What a service manager has passed.
    fn service(&self) -> Result<Service> {
        Ok(Service::of(&self.environment, std::process::id())?)
    }
}

/// Serves until told to stop.
pub(crate) fn serve(config: &Config, options: &Options) -> Result<()> {
    let service = Arc::new(options.service()?);
    // First of all: what is passed has the numbers of what would be opened next.
    let mut claim = match service.listener()? {
        Some(listener) => Claim::adopt(listener, &config.state)?,
        None => Claim::take(&config.socket, &config.state, config.group.as_ref())?,
    };
    // Children are told where the daemon really listens.
    let config = &Config { socket: claim.path().to_path_buf(), ..config.clone() };
    state::inspect(&config.state, options.adopt_foreign_state)?;
    if let Some((point, nth)) = options.die_at {
        points::arm(point, nth);
    }
    let nofile = raise_nofile()?;
    let count = reactors(config);
    // Before any thread, and before signals are blocked: the keeper begins as we began.
    let kept = find_keeper(config, count, nofile)?;
    // It holds every child's strings and streams; what it starts is asked nothing of the kind.
    process::conceal().context("this process can't be concealed from others of its user")?;
    let (keeper_pid, adopted) = (kept.keeper_pid, kept.heirs.len());
    let signals = block_signals()?;
    let logging = logging::begin(&config.log)?;
    let state = state::open(&config.state)?;
    let adapters = Catalogue::new(options.adapters.clone(), Some(config.state.join("adapters")));
    let ways = kept.heirs.iter().filter_map(|heir| heir.session.inlet.as_ref());
    let fifos = Fifos::prepare(&config.socket, &ways.map(|way| way.path.as_path()).collect::<Vec<_>>());
    let (policy, ability) = (options.policy.clone(), Ability::probe());
    let given = Given { adapters, policy, ability, fifos: fifos.folder() };
    let (plane, control, log) = start_plane(config, given, kept, claim.listener(), Some(state))?;
    points::reach(Point::AdoptServed);
    watch(&service, plane.handle(), &control)?;
    leave_on_signal(signals, plane.handle(), control.clone(), Arc::clone(&service))?;
    announce(config, options, plane.driver(), count, adopted)?;
    let status = format!("STATUS=serving on {}, driver {}", config.socket.display(), plane.driver());
    service.tell(&["READY=1", &status]);
    let ended = plane.join().context("a reactor failed");
    service.tell(&["STOPPING=1"]);
    // What was handed over is written and flushed before the state is anybody else's.
    drop(log);
    if control.with(|kernel| kernel.has_left()) {
        fifos.leave();
        tracing::info!(component = "kernel", keeper = keeper_pid, "left; the keeper goes on");
    } else {
        let code = reap(keeper_pid).context("the keeper could not be waited for")?;
        drop(fifos);
        tracing::info!(component = "kernel", keeper = code, "ended");
    }
    drop(claim);
    if logging.dropped_lines() > 0 {
        eprintln!("kairo: {} log lines were dropped", logging.dropped_lines());
    }
    ended
}

/// SIGTERM, SIGINT and SIGHUP are waited for by one thread; no other gets them.
fn block_signals() -> Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("signals could not be blocked")?;
    Ok(signals)
}

fn leave_on_signal(
    signals: SigSet,
    plane: PlaneHandle,
    control: Arc<ControlPlane>,
    service: Arc<Service>,
) -> Result<()> {
    let wait = move || {
        // The first begins it; more of them, as some tools send, end nothing sooner.
        while let Ok(signal) = signals.wait() {
            service.tell(&["STOPPING=1", "STATUS=leaving the processes to the next kernel"]);
            let mut out = Commands::default();
            let trees = control.with(|kernel| kernel.leave(clock::now(), signal.as_str(), &mut out));
            tracing::info!(component = "kernel", %signal, trees, "leaving the processes to the next kernel");
            plane.carry_out(out);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

fn announce(config: &Config, options: &Options, driver: &str, reactors: u16, adopted: usize) -> Result<()> {
    let pid = std::process::id();
    let socket = config.socket.display();
    tracing::info!(component = "kernel", %socket, driver, reactors, adopted, "ready");
    let mut out = std::io::stdout().lock();
    if options.json {
        let ready = serde_json::json!({
            "v": 1, "ready": true, "socket": config.socket, "driver": driver, "reactors": reactors, "pid": pid,
            "adopted": adopted,
        });
        writeln!(out, "{ready}")?;
    } else {
        let found = if adopted > 0 { format!(", {adopted} processes taken over") } else { String::new() };
        writeln!(
            out,
            "kairo is ready: socket {socket}, driver {driver}, {reactors} reactors, pid {pid}{found}"
        )?;
    }
    out.flush()?;
    Ok(())
}
