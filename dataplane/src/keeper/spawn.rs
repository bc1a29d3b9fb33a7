//! From a spawn request to a running child and its answer, or to a failure that leaves nothing behind.

use crate::command::ProgramCheck;
use crate::control::{SpawnFailure, SpawnStage, Tree};
use crate::keeper::lingering::namespace_of;
use crate::keeper::link::CgroupUse;
use crate::keeper::main::Keeper;
use crate::keeper::protocol::{Blob, Limit, Mechanism, SpawnRequest, ToKeeper, ToKernel};
use crate::keeper::session::Session;
use crate::keeper::stdio::{Given, Prepared};
use crate::sys::process::{self, Child, Image};
use crate::sys::{Cgroup, Cgroups};
use kairo_sandbox::containment::{Containment, Owner, Unready};
use kairo_sandbox::enforce::Ready;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What limits a request gets.
#[derive(Debug, Default)]
struct Limits {
    cgroup: Option<(Cgroup, OwnedFd)>,
    rlimits: Vec<(u32, u64, u64)>,
    in_force: Vec<Limit>,
}

/// How a child is contained, and its end of a connection to the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contained<'a> {
    pub(super) containment: &'a Containment,
    pub(super) kernel: Option<BorrowedFd<'a>>,
}

/// What is done to a child before it runs.
#[derive(Clone, Copy, Debug, Default)]
struct Setting<'a> {
    contained: Option<Contained<'a>>,
    /// How what it executes is looked at.
    check: Option<ProgramCheck>,
    /// Descriptors that are not its own.
    given: Given<'a>,
    /// The cores it is bound to; none for all.
    cpus: &'a [u16],
}

impl Contained<'_> {
    /// RLIMIT_CORE: resource, soft and hard limit.
    fn core_limit(&self) -> Option<(u32, u64, u64)> {
        self.containment.core_bytes.map(|bytes| (process::CORE, bytes, bytes))
    }
}

impl Keeper {
    /// Carries out a request to start something; `fds` came with it.
    pub(super) fn start(
        &mut self,
        lane: usize,
        request: &ToKeeper<'_>,
        fds: &mut Vec<OwnedFd>,
        cpus: &[u16],
    ) {
        let kernel = fds.first().map(AsFd::as_fd);
        let contained = |containment| Contained { containment, kernel };
        let alone = Setting::default();
        match request {
            ToKeeper::Spawn(spawn) => self.spawn(lane, spawn, Setting { cpus, ..alone }),
            ToKeeper::Contain { spawn, containment } => {
                let contained = Some(contained(containment));
                self.spawn(lane, spawn, Setting { contained, cpus, ..alone });
            }
            ToKeeper::Measure { spawn, containment, check } => {
                let contained = containment.as_deref().map(contained);
                self.spawn(lane, spawn, Setting { contained, check: Some(*check), cpus, ..alone });
            }
            ToKeeper::Join { spawn, containment, check, wires } => {
                let mut ends = fds.iter().map(AsFd::as_fd);
                let mut next = |given: bool| if given { ends.next() } else { None };
                let kernel = next(containment.as_ref().is_some_and(|containment| containment.kernel));
                let contained = containment.as_deref().map(|containment| Contained { containment, kernel });
                let file = wires.file.map(|path| path.0);
                let given = Given { file, stdin: next(wires.stdin), stdout: next(wires.stdout) };
                self.spawn(lane, spawn, Setting { contained, check: *check, given, cpus });
            }
            _ => {}
        }
        // Whoever is joined must be alone with its ends.
        fds.clear();
    }

    /// The same, of a message within one that says on which cores.
    pub(super) fn start_placed(
        &mut self,
        lane: usize,
        start: Blob<'_>,
        fds: &mut Vec<OwnedFd>,
        cpus: &[u16],
    ) {
        match rmp_serde::from_slice(start.0) {
            Ok(request) => self.start(lane, &request, fds, cpus),
            // A kernel that can't be understood can't be served: it sees the lane closed.
            Err(_) => self.lanes[lane].lose(),
        }
    }

    /// Starts the process and answers on its lane, one way or the other.
    fn spawn(&mut self, lane: usize, request: &SpawnRequest<'_>, setting: Setting<'_>) {
        self.childless = false;
        if let Err(failure) = self.try_spawn(lane, request, setting) {
            self.tell(lane, &ToKernel::SpawnFailed { process: request.process, failure });
        }
    }

    fn try_spawn(
        &mut self,
        lane: usize,
        request: &SpawnRequest<'_>,
        setting: Setting<'_>,
    ) -> Result<(), SpawnFailure> {
        let Setting { contained, check, given, cpus } = setting;
        let refused = |errno| Err(SpawnFailure { stage: SpawnStage::Keeper, errno });
        if self.ending() {
            return refused(libc::ESHUTDOWN);
        }
        if self.sessions.find(request.process).is_some() {
            return refused(libc::EEXIST);
        }
        let owner = request.credentials.as_ref().map(|who| who.uid);
        let prepared = Prepared::new(request.stdio, given, owner, self.flags.embedded)
            .map_err(|error| failed(SpawnStage::Resources, &error))?;
        let mut ready = self.make_ready(request, contained)?;
        let placeholders = ready.as_mut().map(Ready::placeholders).unwrap_or_default();
        let Limits { cgroup, mut rlimits, in_force } = self.limits(request)?;
        rlimits.extend(contained.and_then(|contained| contained.core_limit()));
        let image = Image {
            argv: request.argv.0,
            env: request.env.0,
            search_path: request.search_path.0,
            cwd: request.cwd.map(|path| path.0),
            stdio: prepared.child(self.null.as_fd()),
            stdin_file: given.file,
            terminal: prepared.terminal,
            credentials: request.credentials.as_ref(),
            rlimits: &rlimits,
            containment: ready.as_ref(),
            kernel: contained.and_then(|contained| contained.kernel),
            cgroup: cgroup.as_ref().map(|(_, folder)| folder.as_fd()),
            held: check.is_some(),
            cpus,
        };
        let spawned = self.forker.spawn(&image);
        let cgroup = cgroup.map(|(cgroup, _)| cgroup);
        let child = match spawned {
            Ok(child) => child,
            Err(failure) => {
                self.remove_cgroup(cgroup);
                if failure.stage == SpawnStage::Cgroup && !request.cgroup.any() {
                    // Nobody asked for one: do without, for good.
                    self.flags.cgroups = CgroupUse::Limits;
                    return self.try_spawn(lane, request, setting);
                }
                return Err(failure);
            }
        };
        let mut session = session(lane, request, &child, prepared, in_force, cgroup);
        if !placeholders.is_empty() {
            session.mounts = namespace_of(session.pid);
            session.placeholders = placeholders;
        }
        let finding = ready.map(|ready| ready.finding(&child.seen));
        if let Some(check) = check {
            self.hold(session, finding, check, request.argv.0);
            return Ok(());
        }
        if let Some(finding) = finding {
            self.tell(lane, &ToKernel::Contained { process: request.process, finding });
        }
        let index = self.sessions.insert(session);
        self.announce(index);
        Ok(())
    }

    fn make_ready(
        &mut self,
        request: &SpawnRequest<'_>,
        contained: Option<Contained<'_>>,
    ) -> Result<Option<Ready>, SpawnFailure> {
        let who = request.credentials.as_ref();
        let owner = who.map(|who| Owner { uid: who.uid, gid: who.gid, groups: &who.groups });
        let ready = contained.map(|contained| Ready::new(contained.containment, owner, &mut self.filters));
        ready.transpose().map_err(|unready| match unready {
            Unready::Denied(error) => failed(SpawnStage::DeniedPaths, &error),
            Unready::Other(error) => failed(SpawnStage::Containment, &error),
        })
    }

    /// Tells that a child runs.
    pub(super) fn announce(&mut self, index: usize) {
        let Some(session) = self.sessions.get(index) else { return };
        let message = ToKernel::Spawned {
            process: session.process,
            pid: session.pid,
            start_ticks: session.start_ticks,
            tree: if session.cgroup.is_some() { Tree::Exact } else { Tree::BestEffort },
            limits: session.limits.clone(),
            terminal: session.terminal,
            pipe_bytes: session.ends.each_ref().map(|end| end.as_ref().map(|kept| kept.pipe_bytes)),
        };
        let fds: Vec<BorrowedFd<'_>> = session.ends.iter().flatten().map(|kept| kept.fd.as_fd()).collect();
        self.lanes[session.lane].send(&message, &fds);
    }

    /// Decides what each limit is enforced by. A limit that cannot be is a failure, unless weaker is accepted.
    fn limits(&mut self, request: &SpawnRequest<'_>) -> Result<Limits, SpawnFailure> {
        let mut limits = Limits::default();
        let (soft, hard) = self.flags.nofile;
        if !request.rlimits.iter().any(|(resource, _)| *resource == process::NOFILE) {
            limits.rlimits.push((process::NOFILE, soft, hard));
        }
        for (resource, value) in &request.rlimits {
            limits.rlimits.push((*resource, *value, *value));
            limits.in_force.push(rlimit(process::rlimit_name(*resource), *value));
        }
        let wanted = request.cgroup.any();
        if !wanted && self.flags.cgroups != CgroupUse::Always {
            return Ok(limits);
        }
        match self.cgroup(request) {
            Ok((cgroup, folder, in_force)) => {
                limits.cgroup = Some((cgroup, folder));
                limits.in_force.extend(in_force);
            }
            Err(_) if !wanted => {}
            Err(_) if request.cgroup.allow_weaker => {
                if let Some(bytes) = request.cgroup.memory_bytes {
                    limits.rlimits.push((process::ADDRESS_SPACE, bytes, bytes));
                    limits.in_force.push(rlimit("memory", bytes));
                }
            }
            Err(_) => return Err(SpawnFailure { stage: SpawnStage::Cgroup, errno: libc::EOPNOTSUPP }),
        }
        Ok(limits)
    }

    fn cgroup(&mut self, request: &SpawnRequest<'_>) -> io::Result<(Cgroup, OwnedFd, Vec<Limit>)> {
        let unsupported = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        if self.flags.cgroups == CgroupUse::Never {
            return Err(unsupported());
        }
        if self.cgroups.is_none() {
            let established = Cgroups::establish(|pid| self.ours(pid));
            self.cgroups = Some(established.ok());
        }
        let cgroups = self.cgroups.as_mut().and_then(Option::as_mut).ok_or_else(unsupported)?;
        let (cgroup, in_force) = cgroups.create(&request.cgroup)?;
        match cgroups.open(&cgroup) {
            Ok(folder) => Ok((cgroup, folder, in_force)),
            Err(error) => {
                cgroups.remove(cgroup);
                Err(error)
            }
        }
    }

    pub(super) fn remove_cgroup(&mut self, cgroup: Option<Cgroup>) {
        if let (Some(cgroup), Some(Some(cgroups))) = (cgroup, &mut self.cgroups) {
            cgroups.remove(cgroup);
        }
    }
}

/// A session that begins.
fn session(
    lane: usize,
    request: &SpawnRequest<'_>,
    child: &Child,
    prepared: Prepared,
    limits: Vec<Limit>,
    cgroup: Option<Cgroup>,
) -> Session {
    Session {
        pid: child.pid,
        start_ticks: child.start_ticks,
        terminal: prepared.terminal,
        ends: prepared.kept,
        limits,
        cgroup,
        ..Session::of_nobody(request.process, lane, request.session, request.record.0)
    }
}

fn failed(stage: SpawnStage, error: &io::Error) -> SpawnFailure {
    SpawnFailure { stage, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn rlimit(name: &str, value: u64) -> Limit {
    Limit { name: name.to_owned(), mechanism: Mechanism::Rlimit, value }
}
