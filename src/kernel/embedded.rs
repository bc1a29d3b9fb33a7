//! The kernel inside `kairo run`: the same one, with one reactor, no socket, and one client: ourselves.

use super::{raise_nofile, start_plane, stop};
use crate::config::Config;
use crate::log::Running;
use anyhow::{Context, Result};
use kairo_controlplane::kernel::ControlPlane;
use kairo_dataplane::control::{Lineage, Peer};
use kairo_dataplane::keeper::link::{CgroupUse, Launch, OnKernelLoss, launch, reap};
use kairo_dataplane::keeper::protocol;
use kairo_dataplane::plane::Plane;
use kairo_dataplane::sys::socket::stream_pair;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// A kernel in this process. Its keeper ends the tree when this process goes, however it goes.
pub(crate) struct Embedded {
    plane: Plane,
    control: Arc<ControlPlane>,
    log: Running,
    keeper_pid: i32,
}

impl Embedded {
    /// Starts it, before this process has threads, and returns the client's end of the one connection.
    pub(crate) fn start(config: &Config) -> Result<(Embedded, UnixStream)> {
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
        let (plane, control, log) = start_plane(config, keeper.into(), None, None)?;
        let (ours, theirs) = stream_pair(false).context("no socket pair")?;
        let me = Peer {
            pid: std::process::id() as i32,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: Vec::new(),
            lineage: Lineage::Outside,
        };
        plane.handle().connect(ours, me);
        Ok((Embedded { plane, control, log, keeper_pid }, UnixStream::from(theirs)))
    }

    /// Ends what is left, and the kernel.
    pub(crate) fn end(self) -> Result<()> {
        stop(&self.plane.handle(), &self.control, "the program has ended", 0);
        self.plane.join().context("the reactor failed")?;
        drop(self.log);
        reap(self.keeper_pid).context("the keeper could not be waited for")?;
        Ok(())
    }
}
