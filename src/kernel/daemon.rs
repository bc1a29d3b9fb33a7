//! `kairo serve`: a kernel with a socket, until a signal or `kernel.shutdown` ends it.

use super::{raise_nofile, reactors, start_plane, stop};
use crate::config::Config;
use crate::logging;
use crate::socket_guard::Claim;
use anyhow::{Context, Result};
use kairo_controlplane::kernel::ControlPlane;
use kairo_dataplane::keeper::link::{CgroupUse, Launch, OnKernelLoss, launch, reap};
use kairo_dataplane::plane::PlaneHandle;
use nix::sys::signal::{SigSet, Signal};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// What `serve` is told besides its configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// One JSON object instead of a sentence when ready.
    pub(crate) json: bool,
    /// If the daemon is killed, keep everything and hand it over here instead of ending the trees.
    pub(crate) handover: Option<PathBuf>,
}

/// Serves until told to stop.
pub(crate) fn serve(config: &Config, options: &Options) -> Result<()> {
    let mut claim = Claim::take(&config.socket, &config.state, config.group.as_ref())?;
    let nofile = raise_nofile()?;
    let count = reactors(config);
    // Before any thread, and before signals are blocked: the keeper begins as we began.
    let keeper = launch(&Launch {
        program: None,
        arguments: vec!["keeper".into()],
        lanes: count,
        on_kernel_loss: match &options.handover {
            Some(handover) => OnKernelLoss::Hold { handover: handover.clone() },
            None => OnKernelLoss::End,
        },
        embedded: false,
        nofile,
        cgroups: CgroupUse::default(),
    })
    .context("the keeper could not be started")?;
    let keeper_pid = keeper.pid;
    let signals = block_signals()?;
    let logging = logging::begin(&config.log)?;
    let (plane, control) = start_plane(config, keeper, claim.listener())?;
    end_on_signal(signals, plane.handle(), control, config.limits.kill_grace_ms.into())?;
    announce(config, options, plane.driver(), count)?;
    let ended = plane.join().context("a reactor failed");
    let code = reap(keeper_pid).context("the keeper could not be waited for")?;
    tracing::info!(component = "kernel", keeper = code, "ended");
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

fn end_on_signal(
    signals: SigSet,
    plane: PlaneHandle,
    control: Arc<ControlPlane>,
    grace_ms: u64,
) -> Result<()> {
    let wait = move || {
        // The first begins the end; more of them, as some tools send, end nothing sooner.
        while let Ok(signal) = signals.wait() {
            tracing::info!(component = "kernel", %signal, "ending all processes");
            stop(&plane, &control, signal.as_str(), grace_ms);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

fn announce(config: &Config, options: &Options, driver: &str, reactors: u16) -> Result<()> {
    let pid = std::process::id();
    let socket = config.socket.display();
    tracing::info!(component = "kernel", %socket, driver, reactors, "ready");
    let mut out = std::io::stdout().lock();
    if options.json {
        let ready = serde_json::json!({
            "v": 1, "ready": true, "socket": config.socket, "driver": driver, "reactors": reactors, "pid": pid,
        });
        writeln!(out, "{ready}")?;
    } else {
        writeln!(out, "kairo is ready: socket {socket}, driver {driver}, {reactors} reactors, pid {pid}")?;
    }
    out.flush()?;
    Ok(())
}
