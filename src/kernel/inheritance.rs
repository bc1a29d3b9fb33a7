//! Which keeper a daemon has: the one of the kernel before it, one that begins from what that keeper left, or a new one.
//!
//! Invariant: a daemon is ready only when its keeper can be found by the next one. Two keepers of one state would be two
//! answers to the question what runs. The state's lock is held all the while, so no other kernel looks.

use super::Kept;
use crate::config::Config;
use anyhow::{Context, Result};
use kairo_controlplane::sessions::adoption::history_of;
use kairo_dataplane::command::HistorySize;
use kairo_dataplane::keeper::link::{self, CgroupUse, Launch, Launched, OnKernelLoss};
use kairo_dataplane::keeper::protocol;
use kairo_dataplane::keeper::settlement::settle;
use kairo_dataplane::keeper::successor::Estate;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a keeper may take to hand everything over, or to go if that is what it is doing.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a new keeper may take until it can be found.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// The keeper, with lanes to us, and all it kept.
pub(super) fn find_keeper(config: &Config, lanes: u16, nofile: Option<(u64, u64)>) -> Result<Kept> {
    let place = Place {
        handover: config.state.join("keeper.sock"),
        left: config.state.join("keeper.estate"),
        nofile,
    };
    let estate = match place.estate()? {
        Some(estate) => estate,
        None if place.left.exists() => place.begin_again()?,
        None => return Ok(place.launch(lanes, None)?.into()),
    };
    let limits = &config.limits;
    let (head_bytes, tail_bytes) = (limits.history_head_bytes, limits.history_tail_bytes);
    let usual = HistorySize { head_bytes, tail_bytes };
    let inheritance = settle(estate, lanes, |session| history_of(session, usual))
        .context("the processes of the kernel before could not be taken over; they and their keeper go on")?;
    Ok(inheritance.into())
}

/// Where a state's keeper is to be found.
struct Place {
    handover: PathBuf,
    /// What a keeper left that nobody came for.
    left: PathBuf,
    /// For children.
    nofile: Option<(u64, u64)>,
}

impl Place {
    /// What a living keeper has to hand over.
    fn estate(&self) -> Result<Option<Estate>> {
        let patience = Instant::now() + HANDOVER_PATIENCE;
        loop {
            let error = match Estate::receive(&self.handover, HANDOVER_PATIENCE) {
                Ok(estate) => return Ok(Some(estate)),
                Err(error) => error,
            };
            match error.kind() {
                // Nobody has been there, or nobody is any more.
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                // It had nothing to keep and was about to go, or was told to end. It takes its socket away before it
                // closes it, so a later try finds nobody; until then a new keeper could not listen there.
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                    if Instant::now() < patience =>
                {
                    std::thread::sleep(PAUSE);
                }
                _ => {
                    let place = self.handover.display();
                    return Err(error).with_context(|| {
                        format!("the keeper at {place} could not be taken over; choose another --state")
                    });
                }
            }
        }
    }

    /// What a keeper has to hand over that begins from the file the last one left.
    fn begin_again(&self) -> Result<Estate> {
        let left = self.left.display();
        let launched = self.launch(0, Some(&self.left))?;
        let patience = Instant::now() + LAUNCH_PATIENCE;
        loop {
            let estate = self.estate();
            if let Some(estate) =
                estate.with_context(|| format!("what is left in {left} could not be taken over"))?
            {
                return Ok(estate);
            }
            // Its socket is there a moment before it listens.
            let code = link::ended(launched.pid)?;
            anyhow::ensure!(code.is_none(), "the keeper that began from {left} has ended");
            anyhow::ensure!(Instant::now() < patience, "the keeper that began from {left} does not listen");
            std::thread::sleep(PAUSE);
        }
    }

    /// Starts a keeper and waits until it can be found.
    fn launch(&self, lanes: u16, resume: Option<&Path>) -> Result<Launched> {
        // What a killed keeper left; nobody listens there, and nobody else may come to.
        let _ = std::fs::remove_file(&self.handover);
        let launched = link::launch(&Launch {
            program: None,
            arguments: vec!["keeper".into()],
            lanes,
            resume: resume.map(Path::to_owned),
            on_kernel_loss: OnKernelLoss::Hold { handover: self.handover.clone() },
            embedded: false,
            nofile: self.nofile,
            cgroups: CgroupUse::default(),
            version: protocol::VERSION,
        })
        .context("the keeper could not be started")?;
        let patience = Instant::now() + LAUNCH_PATIENCE;
        while !self.handover.exists() {
            if let Some(code) = link::ended(launched.pid)? {
                anyhow::bail!("the keeper ended with {code} at once; what it said stands above");
            }
            let place = self.handover.display();
            anyhow::ensure!(Instant::now() < patience, "the keeper does not listen at {place}");
            std::thread::sleep(PAUSE);
        }
        Ok(launched)
    }
}
