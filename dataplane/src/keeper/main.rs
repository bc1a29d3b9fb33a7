//! The keeper's life: what it is started with, what it waits for, how it ends.
//!
//! One thread, one `poll` over its lanes, its signals, the news of its cgroups and, without a kernel, the
//! handover socket. Nothing here waits anywhere else, but for a child on its way to exec.

use crate::keeper::checking::Checks;
use crate::keeper::flags::Flags;
use crate::keeper::handover::{Handover, Wish};
use crate::keeper::lane::{Lane, decode_one};
use crate::keeper::lingering::Lingering;
use crate::keeper::link::OnKernelLoss;
use crate::keeper::protocol::End;
use crate::keeper::protocol::{ToKeeper, ToKernel, VERSION_PRODUCES, spoken};
use crate::keeper::session::{Inlet, Ring, Sessions};
use crate::keeper::signalling::Errand;
use crate::keeper::testament;
use crate::key::ProcessKey;
use crate::sys::Cgroups;
use crate::sys::process::{self, Events, Forker};
use kairo_sandbox::enforce::{self, Filters};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

/// Between SIGTERM and SIGKILL when nobody says otherwise.
const GRACE: Duration = Duration::from_secs(2);
/// How long a keeper waits for killed trees to be gone. What is stuck in the kernel then stays.
const LINGER: Duration = Duration::from_secs(5);
/// How long a kernel has to read the last news and hang up.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often trees that are being killed are looked at again: a kill races with forks.
const KILL_AGAIN: Duration = Duration::from_millis(50);
/// How long a keeper without kernel and children holds what is left for a successor, before it writes it to a file.
const HOLD_MAX: Duration = Duration::from_secs(600);
/// Requests taken from a lane before the others get their turn.
const TURN: usize = 16;
/// Longest packet of a lane.
const PACKET_BYTES: usize = crate::sys::socket::PACKET_BYTES_MAX;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It serves.
    Serving,
    /// SIGTERM was sent; SIGKILL follows at this time.
    Grace(Instant),
    /// SIGKILL is sent again and again until nobody is left, or until this time.
    Killing(Instant),
    /// All is told; the kernel may read it and hang up until this time. A lane closed with requests in it would
    /// take what was told with it.
    Leaving(Instant),
}

/// Everything a keeper has.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) flags: Flags,
    pub(super) forker: Forker,
    pub(super) filters: Filters,
    pub(super) null: OwnedFd,
    pub(super) lanes: Vec<Lane>,
    pub(super) sessions: Sessions,
    /// Not looked for; not to be had; there.
    pub(super) cgroups: Option<Option<Cgroups>>,
    /// Sessions whose leader is reaped and whose tree isn't empty.
    pub(super) leaderless: Vec<usize>,
    /// Children of ours that no session claims.
    pub(super) strays: HashSet<i32>,
    /// True exactly when the last wait said there is no child.
    pub(super) childless: bool,
    /// `/proc/self/task/…/children`, open.
    pub(super) children: Option<std::fs::File>,
    pub(super) pids: Vec<i32>,
    pub(super) environment: Vec<u8>,
    /// Children that stand still at exec.
    pub(super) checks: Checks,
    pub(super) lingering: Vec<Lingering>,
    handover: Option<Handover>,
    kernel_pid: Option<i32>,
    alone_since: Option<Instant>,
    /// True exactly when the last kernel said that it would go.
    left: bool,
    stage: Stage,
}

/// Runs a keeper to its end; `arguments` are its flags, without the program and its subcommand. To be called
/// first thing in a process, before a thread, a log or any descriptor is opened. The exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    let mut arguments = arguments.peekable();
    if arguments.peek().is_some_and(|first| first == enforce::MAKE) {
        return enforce::hold_user_namespace();
    }
    let flags = match Flags::parse(arguments) {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("kairo keeper: {error}");
            return 2;
        }
    };
    match start(flags).and_then(|(mut keeper, mut events)| keeper.serve(&mut events)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("kairo keeper: {error}");
            1
        }
    }
}

fn start(flags: Flags) -> io::Result<(Keeper, Events)> {
    process::become_keeper(&flags.lanes, flags.embedded)?;
    let lanes = process::take_over(&flags.lanes)?.into_iter().map(Lane::new).collect();
    // Before anything else is opened: some numbers are the forker's.
    let forker = Forker::new()?;
    let events = Events::new()?;
    // Children are told their own limit at birth.
    let _ = process::raise_descriptor_limit();
    let handover = match &flags.on_kernel_loss {
        OnKernelLoss::End => None,
        OnKernelLoss::Hold { handover } => Some(Handover::listen(handover)?),
    };
    let null = std::fs::File::open("/dev/null")?.into();
    let sessions = match &flags.resume {
        Some(path) => testament::read(path)
            .map_err(|error| io::Error::other(format!("{} can't be begun from: {error}", path.display())))?,
        None => Sessions::default(),
    };
    let alone_since = flags.resume.is_some().then(Instant::now);
    let keeper = Keeper {
        flags,
        forker,
        filters: Filters::default(),
        null,
        lanes,
        sessions,
        cgroups: None,
        leaderless: Vec::new(),
        strays: HashSet::new(),
        childless: true,
        children: None,
        pids: Vec::new(),
        environment: Vec::new(),
        checks: Checks::default(),
        lingering: Vec::new(),
        handover,
        kernel_pid: None,
        alone_since,
        left: false,
        stage: Stage::Serving,
    };
    Ok((keeper, events))
}

/// What there is to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Signals,
    Cgroups,
    Listener,
    Successor,
    Lane(usize),
    /// What a client writes a session by.
    Producer(usize),
}

impl Keeper {
    fn serve(&mut self, events: &mut Events) -> io::Result<()> {
        let mut buffer = vec![0; PACKET_BYTES];
        loop {
            for source in self.wait(events)? {
                match source {
                    Source::Lane(lane) => self.turn(lane, &mut buffer),
                    Source::Signals => self.take_signals(events),
                    Source::Cgroups => {
                        if let Some(Some(cgroups)) = &self.cgroups {
                            cgroups.take_news();
                        }
                        self.tell_ended();
                    }
                    Source::Producer(index) => self.lose_producer(index),
                    Source::Listener | Source::Successor => {}
                }
            }
            self.read_programs();
            self.notice_loss();
            self.hand_over();
            if self.over() {
                return Ok(());
            }
        }
    }

    /// Waits for anything, or for the next deadline.
    fn wait(&self, events: &Events) -> io::Result<Vec<Source>> {
        let mut watched = Vec::new();
        for (index, lane) in self.lanes.iter().enumerate() {
            watched.extend(lane.socket().map(|fd| (Source::Lane(index), fd, lane.interest())));
        }
        // What is asked for goes before the news of it.
        watched.push((Source::Signals, events.as_fd(), PollFlags::IN));
        if let Some(Some(cgroups)) = &self.cgroups {
            watched.push((Source::Cgroups, cgroups.as_fd(), PollFlags::IN));
        }
        if let (Some(handover), Some(_)) = (&self.handover, self.alone_since) {
            watched.push(match handover.successor() {
                Some((fd, interest)) => (Source::Successor, fd, interest),
                None => (Source::Listener, handover.listener(), PollFlags::IN),
            });
        }
        if self.alone_since.is_some() {
            watched.extend(self.sessions.iter().filter_map(|(index, session)| {
                // Whether somebody has the other end: what comes in there is the next kernel's.
                Some((Source::Producer(index), session.written_by()?, PollFlags::empty()))
            }));
        }
        let mut polled: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd, interest)| PollFd::from_borrowed_fd(*fd, *interest)).collect();
        let timeout = self.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = polled.iter().map(|polled| !polled.revents().is_empty());
        Ok(watched.iter().zip(ready).filter_map(|((source, _, _), ready)| ready.then_some(*source)).collect())
    }

    fn deadline(&self) -> Option<Instant> {
        if !self.checks.is_empty() {
            return Some(Instant::now());
        }
        match self.stage {
            Stage::Grace(until) | Stage::Leaving(until) => Some(until),
            Stage::Killing(until) => Some(until.min(Instant::now() + KILL_AGAIN)),
            Stage::Serving if self.childless => self.alone_since.map(|since| since + HOLD_MAX),
            Stage::Serving => None,
        }
    }

    fn take_signals(&mut self, events: &mut Events) {
        let (child, end) = events.take();
        if child {
            self.reap();
        }
        if end {
            self.begin_end(GRACE);
        }
    }

    /// Takes some requests from a lane.
    fn turn(&mut self, index: usize, buffer: &mut [u8]) {
        if matches!(self.stage, Stage::Leaving(_)) {
            return self.lanes[index].drain(buffer);
        }
        self.lanes[index].flush();
        let mut errands = Vec::new();
        self.take_requests(index, buffer, &mut errands);
        self.end_errands(&mut errands);
    }

    fn take_requests(&mut self, index: usize, buffer: &mut [u8], errands: &mut Vec<Errand>) {
        let (mut bulk, mut fds) = (Vec::new(), Vec::new());
        for _ in 0..TURN {
            if self.lanes[index].congested() {
                return;
            }
            match self.lanes[index].receive(buffer, &mut bulk, &mut fds) {
                None => return,
                // A kernel that can't be understood can't be served: it sees the lane closed.
                Some(Err(_)) => return self.lanes[index].lose(),
                Some(Ok(ToKeeper::Several { messages })) => {
                    for message in messages {
                        match decode_one(message.0) {
                            Ok(request) => self.take_request(index, &request, &mut fds, errands),
                            Err(_) => return self.lanes[index].lose(),
                        }
                    }
                }
                Some(Ok(request)) => self.take_request(index, &request, &mut fds, errands),
            }
        }
    }

    fn take_request(
        &mut self,
        lane: usize,
        request: &ToKeeper<'_>,
        fds: &mut Vec<OwnedFd>,
        errands: &mut Vec<Errand>,
    ) {
        if !self.take_errand(lane, request, errands) {
            self.carry_out(lane, request, fds);
        }
    }

    fn carry_out(&mut self, lane: usize, request: &ToKeeper<'_>, fds: &mut Vec<OwnedFd>) {
        match request {
            ToKeeper::Hello { version, kernel_pid } => {
                self.kernel_pid = Some(*kernel_pid);
                let ours = self.flags.version;
                self.tell(lane, &ToKernel::Hello { version: ours, pid: std::process::id() as i32 });
                if spoken(ours, *version).is_none() {
                    self.lanes[lane].lose();
                }
            }
            ToKeeper::Spawn(_)
            | ToKeeper::Contain { .. }
            | ToKeeper::Measure { .. }
            | ToKeeper::Join { .. } => self.start(lane, request, fds, &[]),
            ToKeeper::Placed { start, cpus } => self.start_placed(lane, *start, fds, cpus),
            // To a tree it is an errand, unless there is none of this name.
            ToKeeper::Signal { process, signal, scope: _, ticket } => {
                let index = self.sessions.find(*process);
                let outcome = index.map_or(Ok(0), |index| self.signal_leader(index, *signal));
                if let Some(ticket) = *ticket {
                    self.tell(lane, &ToKernel::Signalled { ticket, outcome });
                }
            }
            ToKeeper::Acknowledge { process } => {
                if let Some(session) = self.sessions.by_key_mut(*process) {
                    session.end_acknowledged |= session.acknowledged && session.ended;
                    session.acknowledged |= session.exit.is_some();
                }
            }
            ToKeeper::CloseChannel { process, end } => {
                if let Some(session) = self.sessions.by_key_mut(*process) {
                    // An end that is closed already is done with altogether: what it was is in the note.
                    if session.ends[*end as usize].take().is_none() {
                        session.rings.retain(|ring| ring.end != *end);
                        if *end == End::Stdin {
                            session.inbox = None;
                        }
                    }
                }
            }
            ToKeeper::Forget { process } => self.forget(*process),
            ToKeeper::HoldReactor
            | ToKeeper::HoldStream { .. }
            | ToKeeper::HoldInput { .. }
            | ToKeeper::HoldOutlet { .. }
            | ToKeeper::HoldFramed { .. }
            | ToKeeper::DropOutlet { .. }
            | ToKeeper::HoldInlet { .. }
            | ToKeeper::DropInlet { .. }
            | ToKeeper::Blockers { .. }
            | ToKeeper::Annotate { .. } => self.keep(lane, request, fds),
            ToKeeper::HoldProducer { process, session, pipe_bytes, record } => {
                self.hold_producer((lane, *process), session, *pipe_bytes, record.0, fds);
            }
            ToKeeper::EndProducer { process, status } => {
                if let Some(index) = self.sessions.find(*process) {
                    self.end_producer(index, *status);
                }
            }
            ToKeeper::Shutdown { grace_ns } => self.begin_end(Duration::from_nanos(*grace_ns)),
            ToKeeper::Leave => self.left = true,
            // Unpacked before; one within another is no message.
            ToKeeper::Bulk { .. } | ToKeeper::Several { .. } => self.lanes[lane].lose(),
        }
    }

    /// Keeps something for a successor, or no longer.
    fn keep(&mut self, lane: usize, request: &ToKeeper<'_>, fds: &mut Vec<OwnedFd>) {
        match request {
            ToKeeper::HoldReactor => {
                self.lanes[lane].held = std::mem::take(fds).try_into().ok();
            }
            ToKeeper::HoldStream { process, end, slot, generation } => {
                let (Some(session), Some(memory)) = (self.sessions.by_key_mut(*process), fds.pop()) else {
                    return;
                };
                session.rings.retain(|ring| ring.end != *end);
                let (end, slot, generation) = (*end, *slot, *generation);
                session.rings.push(Ring { end, slot, generation, memory });
                self.tell(lane, &ToKernel::Held { process: *process, end, generation });
            }
            ToKeeper::HoldInput { process } => {
                if let Some(session) = self.sessions.by_key_mut(*process) {
                    session.inbox = fds.pop();
                }
            }
            ToKeeper::HoldOutlet { process, serial, end, note }
            | ToKeeper::HoldFramed { process, serial, end, note } => {
                if let Some(session) = self.sessions.by_key_mut(*process) {
                    let framed = matches!(request, ToKeeper::HoldFramed { .. });
                    session.hold_outlet((*serial, *end, framed), note.0, fds);
                }
            }
            ToKeeper::DropOutlet { process, serial } => {
                if let Some(session) = self.sessions.by_key_mut(*process) {
                    session.outlets.retain(|outlet| outlet.serial != *serial);
                }
            }
            ToKeeper::HoldInlet { process, path, until_ns, closes, note } => {
                let session = self.sessions.by_key_mut(*process).filter(|session| !session.ended);
                let (Some(session), Some(fd)) = (session, fds.pop()) else { return };
                let (path, note) = (OsString::from_vec(path.0.to_vec()).into(), note.0.into());
                session.inlet = Some(Inlet { fd, path, until_ns: *until_ns, closes: *closes, note });
            }
            ToKeeper::DropInlet { process } => {
                if let Some(session) = self.sessions.by_key_mut(*process) {
                    session.inlet = None;
                }
            }
            ToKeeper::Blockers { process, counts } => {
                if let Some(session) = self.sessions.by_key_mut(*process) {
                    session.blockers = *counts;
                }
            }
            ToKeeper::Annotate { process, note } => {
                if let Some(session) = self.sessions.by_key_mut(*process) {
                    session.note = note.0.into();
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, process: ProcessKey) {
        let Some(index) = self.sessions.find(process) else { return };
        if let Some(session) = self.sessions.get_mut(index) {
            session.let_go();
        }
        self.sessions.remove_if_done(index);
    }

    pub(super) fn tell(&mut self, lane: usize, message: &ToKernel) {
        self.lanes[lane].send(message, &[]);
    }

    /// A kernel is gone when all its lanes are.
    fn notice_loss(&mut self) {
        if self.alone_since.is_some() || self.lanes.iter().any(|lane| lane.socket().is_some()) {
            return;
        }
        self.alone_since = Some(Instant::now());
        self.drop_all_held();
        if self.handover.is_none() && !self.ending() {
            self.begin_end(GRACE);
        }
    }

    fn hand_over(&mut self) {
        if self.alone_since.is_none() {
            return;
        }
        let Some(mut handover) = self.handover.take() else { return };
        let wish = handover.go_on(&self.lanes, &mut self.sessions, self.flags.version);
        self.handover = Some(handover);
        match wish {
            Some(Wish::End(grace)) => self.begin_end(grace),
            Some(Wish::Adopt { lanes, kernel_pid, version }) => {
                if version < VERSION_PRODUCES {
                    self.drop_producers();
                }
                self.serve_next(lanes, kernel_pid);
            }
            None => {}
        }
    }

    /// Serves another kernel from now on, and tells it what no kernel has told yet.
    fn serve_next(&mut self, lanes: Vec<OwnedFd>, kernel_pid: i32) {
        self.lanes = lanes.into_iter().map(Lane::new).collect();
        self.kernel_pid = Some(kernel_pid);
        self.alone_since = None;
        self.left = false;
        self.sessions.rehome(self.lanes.len());
        if let Some(path) = self.flags.resume.take() {
            // Everything in it is in our hands, and somebody has taken it over.
            let _ = std::fs::remove_file(path);
        }
        let all: Vec<usize> = self.sessions.iter().map(|(index, _)| index).collect();
        for index in all {
            self.tell_exit(index);
            self.tell_end(index);
        }
    }

    /// True exactly when nobody needs this keeper: no kernel, nobody to become one, no child, and nothing that one
    /// would ask for, a reader still has to get or a client writes, or too long a time without anybody who asks.
    fn is_needless(&self, now: Instant) -> bool {
        let Some(since) = self.alone_since else { return false };
        let asked = self.handover.as_ref().is_some_and(|handover| handover.successor().is_some());
        let wanted = !self.left || self.sessions.have_outlets() || self.sessions.are_written();
        self.childless && !asked && (!wanted || self.sessions.len() == 0 || now >= since + HOLD_MAX)
    }

    /// True exactly when this process is known to belong to us: it may be moved to another cgroup.
    pub(super) fn ours(&self, pid: i32) -> bool {
        let me = std::process::id() as i32;
        let mut ancestor = pid;
        while ancestor > 1 {
            if ancestor == me || Some(ancestor) == self.kernel_pid {
                return true;
            }
            ancestor = process::stat(ancestor).map_or(0, |stat| stat.parent);
        }
        false
    }

    pub(super) fn ending(&self) -> bool {
        self.stage != Stage::Serving
    }

    /// SIGTERM to every tree; what follows is done by [`Keeper::over`]. A second wish can only shorten the first.
    fn begin_end(&mut self, grace: Duration) {
        let until = Instant::now().checked_add(grace).unwrap_or_else(|| Instant::now() + HOLD_MAX);
        match self.stage {
            Stage::Serving => {
                self.stage = Stage::Grace(until);
                // Nobody can take over what is being ended.
                self.handover = None;
                self.end_producers();
                self.signal_all(libc::SIGTERM);
            }
            Stage::Grace(already) => self.stage = Stage::Grace(already.min(until)),
            Stage::Killing(_) | Stage::Leaving(_) => {}
        }
    }

    /// Leaves to a file what nobody has come for.
    fn leave_testament(&mut self) {
        self.give_up_producers();
        let OnKernelLoss::Hold { handover } = &self.flags.on_kernel_loss else { return };
        let path = handover.with_extension("estate");
        if let Err(error) = testament::write(&path, &self.sessions) {
            eprintln!("kairo keeper: {} could not be written: {error}", path.display());
        }
    }

    /// Goes on ending. True exactly when nothing is left to do.
    fn over(&mut self) -> bool {
        let now = Instant::now();
        if !self.done(now) {
            return false;
        }
        if self.stage == Stage::Serving {
            self.leave_testament();
        }
        if !matches!(self.stage, Stage::Leaving(_)) {
            self.lanes.iter_mut().for_each(Lane::finish);
            self.stage = Stage::Leaving(now + FAREWELL);
        }
        self.lanes.iter().all(|lane| lane.socket().is_none())
            || self.deadline().is_none_or(|until| now >= until)
    }

    /// Goes on ending trees. True exactly when there is none left to end.
    fn done(&mut self, now: Instant) -> bool {
        let quiet = self.childless && !self.lanes.iter().any(Lane::congested);
        match self.stage {
            Stage::Serving => self.is_needless(now),
            Stage::Grace(until) if now < until => quiet,
            Stage::Grace(_) => {
                self.stage = Stage::Killing(now + LINGER);
                self.kill_all();
                quiet
            }
            Stage::Killing(until) => {
                self.kill_all();
                quiet || now >= until
            }
            Stage::Leaving(_) => true,
        }
    }

    fn kill_all(&mut self) {
        self.signal_all(libc::SIGKILL);
        self.kill_strays();
        self.reap();
    }
}
