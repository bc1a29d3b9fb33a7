//! The kernel inside `kairo run`: the same one, with one reactor, no socket, and one client: ourselves.

use super::{Given, connect_ourselves, raise_nofile, start_plane, stop};
use crate::adapters::catalogue::Catalogue;
use crate::adapters::registry::Registry;
use crate::config::Config;
use crate::log::Running;
use anyhow::{Context, Result};
use kairo_controlplane::auth::rules::Policy;
use kairo_controlplane::kernel::ControlPlane;
use kairo_dataplane::keeper::link::{CgroupUse, Launch, OnKernelLoss, launch, reap};
use kairo_dataplane::keeper::protocol;
use kairo_dataplane::plane::Plane;
use kairo_sandbox::ability::Ability;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

/// A kernel in this process. Its keeper ends the tree when this process goes, however it goes.
pub(crate) struct Embedded {
    plane: Plane,
    control: Arc<ControlPlane>,
    log: Running,
    keeper_pid: i32,
    /// Where a program with an adapter reports.
    sides: Option<PathBuf>,
}

impl Embedded {
    /// Starts it, before this process has threads, and returns the client's end of the one connection. There are no
    /// adapters unless they are wanted, and it isn't tried what can be enforced unless something `contains` a program.
    pub(crate) fn start(
        config: &Config,
        adapters: Option<Registry>,
        policy: Policy,
        contains: bool,
    ) -> Result<(Embedded, UnixStream)> {
        let nofile = raise_nofile()?;
        let keeper = launch(&Launch {
            program: None,
            arguments: vec!["keeper".into()],
            lanes: 1,
            resume: None,
            on_kernel_loss: OnKernelLoss::End,
            embedded: true,
            nofile,
            cgroups: CgroupUse::default(),
            version: protocol::VERSION,
        })
        .context("the keeper could not be started")?;
        let keeper_pid = keeper.pid;
        let sides = adapters.is_some().then(private_folder).transpose()?;
        let adapters = Catalogue::new(adapters.unwrap_or_default(), sides.clone());
        let ability = if contains { Ability::probe() } else { Ability::at_a_glance() };
        let given = Given { adapters, policy, ability, fifos: None };
        let (plane, control, log) = start_plane(config, given, keeper.into(), None, None)?;
        let connection = connect_ourselves(&plane.handle()).context("no socket pair")?;
        Ok((Embedded { plane, control, log, keeper_pid, sides }, connection))
    }

    /// Ends what is left, and the kernel.
    pub(crate) fn end(self) -> Result<()> {
        stop(&self.plane.handle(), &self.control, "the program has ended", 0);
        self.plane.join().context("the reactor failed")?;
        drop(self.log);
        reap(self.keeper_pid).context("the keeper could not be waited for")?;
        if let Some(sides) = self.sides {
            std::fs::remove_dir_all(&sides).with_context(|| format!("removing {}", sides.display()))?;
        }
        Ok(())
    }
}

/// A folder only we can enter, under a name nobody can have taken.
fn private_folder() -> Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let folder = std::env::temp_dir().join(format!("kairo-run-{:016x}", u64::from_ne_bytes(random)));
    DirBuilder::new().mode(0o700).create(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}
