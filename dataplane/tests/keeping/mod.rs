//! What the keeper's tests stand on: a kernel reduced to its lanes, and a runner for a test program that is a
//! keeper as well.

use kairo_dataplane::command::{
    CgroupLimits, HistorySize, Scope, Spawn, StderrTarget, StdinSource, Stdio, Unread, Wiring,
};
use kairo_dataplane::control::{ExitStatus, SpawnFailure, Usage};
use kairo_dataplane::keeper::link::{self, FromKeeper, Launch, Launched, Output, Spawned};
use kairo_dataplane::keeper::protocol::End;
use kairo_dataplane::key::{ProcessKey, ReactorId, Ticket};
use kairo_dataplane::sys::socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the tests one after the other; an argument that isn't a flag chooses by name.
pub(crate) fn run(tests: &[(&str, fn())]) {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    if std::env::args().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let mut failed = Vec::new();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(&filter)) {
        eprint!("test {name} ... ");
        let begun = Instant::now();
        match std::panic::catch_unwind(test) {
            Ok(()) => eprintln!("ok ({} ms)", begun.elapsed().as_millis()),
            Err(_) => failed.push(name),
        }
    }
    if !failed.is_empty() {
        eprintln!("failed: {failed:?}");
        std::process::exit(101);
    }
}

/// A keeper of this program, one lane, nothing special.
pub(crate) fn launch() -> Launch {
    Launch {
        program: None,
        arguments: vec![OsString::from("keeper")],
        lanes: 1,
        resume: None,
        on_kernel_loss: link::OnKernelLoss::End,
        embedded: false,
        nofile: None,
        cgroups: link::CgroupUse::Limits,
        version: kairo_dataplane::keeper::protocol::VERSION,
    }
}

/// A command with pipes, the usual PATH and little else.
pub(crate) fn command(argv: &[&str]) -> Spawn {
    Spawn {
        process: ProcessKey { home: ReactorId(0), serial: 0 },
        session: "test".into(),
        argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/usr/bin:/bin".to_vec()],
        search_path: b"/usr/bin:/bin".to_vec(),
        cwd: None,
        wiring: Wiring::default(),
        stdio: Stdio::Pipes { stdin: StdinSource::Pipe, stderr: StderrTarget::Pipe, pipe_bytes: 64 * 1024 },
        credentials: None,
        rlimits: Vec::new(),
        cgroup: CgroupLimits::default(),
        containment: None,
        program: None,
        history: HistorySize { head_bytes: 0, tail_bytes: 0 },
        rate: [None; 2],
        unread: Unread::Drop,
        spool: None,
        record: Vec::new().into(),
        placement: Default::default(),
        produced: None,
        meter: Default::default(),
    }
}

/// A shell script.
pub(crate) fn sh(script: &str) -> Spawn {
    command(&["sh", "-c", script])
}

/// Lanes, and what has arrived on the first of them but was not asked for yet.
pub(crate) struct Kernel {
    keeper: Option<Launched>,
    serial: u64,
    early: VecDeque<FromKeeper<OwnedFd>>,
}

impl Kernel {
    pub(crate) fn start() -> Kernel {
        Kernel::launch(&launch())
    }

    pub(crate) fn launch(launch: &Launch) -> Kernel {
        Kernel::greet(link::launch(launch).unwrap())
    }

    /// The next kernel of a keeper that was taken over, which had come to `serial`.
    pub(crate) fn succeed(pid: i32, lanes: Vec<OwnedFd>, serial: u64) -> Kernel {
        let mut kernel = Kernel::greet(Launched { pid, lanes });
        kernel.serial = serial;
        kernel
    }

    fn greet(keeper: Launched) -> Kernel {
        let lanes = keeper.lanes.len();
        let mut kernel = Kernel { keeper: Some(keeper), serial: 0, early: VecDeque::new() };
        let mut packet = Vec::new();
        link::encode_hello(std::process::id() as i32, &mut packet).unwrap();
        for lane in 0..lanes {
            socket::send_packet(kernel.lane(lane), &packet, &[]).unwrap();
            let pid = kernel.keeper_pid();
            // What it had not told the kernel before comes first.
            loop {
                match kernel.receive(lane).expect("the keeper hung up") {
                    FromKeeper::Hello { pid: said, .. } => break assert_eq!(said, pid),
                    other => kernel.early.push_back(other),
                }
            }
        }
        kernel
    }

    pub(crate) fn keeper_pid(&self) -> i32 {
        self.keeper.as_ref().unwrap().pid
    }

    fn lane(&self, lane: usize) -> BorrowedFd<'_> {
        self.keeper.as_ref().unwrap().lanes[lane].as_fd()
    }

    fn send(&self, packet: &mut Vec<u8>) {
        let bulk = link::pack(packet).unwrap();
        let fds: Vec<BorrowedFd<'_>> = bulk.iter().map(AsFd::as_fd).collect();
        loop {
            match socket::send_packet(self.lane(0), packet, &fds) {
                Ok(()) => return,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    wait_for(self.lane(0), PollFlags::OUT, PATIENCE);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// None: the keeper hung up.
    fn receive(&self, lane: usize) -> Option<FromKeeper<OwnedFd>> {
        assert!(wait_for(self.lane(lane), PollFlags::IN, PATIENCE), "the keeper says nothing");
        let (mut packet, mut fds) = (vec![0; socket::PACKET_BYTES_MAX], Vec::new());
        let bytes = socket::receive_packet(self.lane(lane), &mut packet, &mut fds).unwrap();
        (bytes > 0).then(|| link::decode(&packet[..bytes], fds).unwrap())
    }

    /// The first message that `pick` wants; others stay for later.
    fn find<T>(
        &mut self,
        pick: impl Fn(&FromKeeper<OwnedFd>) -> bool,
        take: fn(FromKeeper<OwnedFd>) -> T,
    ) -> T {
        if let Some(place) = self.early.iter().position(&pick) {
            return take(self.early.remove(place).unwrap());
        }
        loop {
            let message = self.receive(0).expect("the keeper hung up");
            if pick(&message) {
                return take(message);
            }
            self.early.push_back(message);
        }
    }

    /// Asks for a process under a new key.
    pub(crate) fn ask(&mut self, mut spawn: Spawn) -> ProcessKey {
        self.serial += 1;
        spawn.process.serial = self.serial;
        if spawn.session == "test" {
            spawn.session = format!("test-{}-{}", self.keeper_pid(), self.serial);
        }
        let mut packet = Vec::new();
        link::encode_spawn(&spawn, &mut packet).unwrap();
        self.send(&mut packet);
        spawn.process
    }

    pub(crate) fn spawned(&mut self, key: ProcessKey) -> Result<Box<Spawned<OwnedFd>>, SpawnFailure> {
        self.find(
            |message| match message {
                FromKeeper::Spawned(spawned) => spawned.process == key,
                FromKeeper::SpawnFailed { process, .. } => *process == key,
                _ => false,
            },
            |message| match message {
                FromKeeper::Spawned(spawned) => Ok(spawned),
                FromKeeper::SpawnFailed { failure, .. } => Err(failure),
                other => panic!("{other:?}"),
            },
        )
    }

    pub(crate) fn spawn(&mut self, spawn: Spawn) -> Result<Box<Spawned<OwnedFd>>, SpawnFailure> {
        let key = self.ask(spawn);
        self.spawned(key)
    }

    pub(crate) fn exited(&mut self, key: ProcessKey) -> (ExitStatus, Usage) {
        self.find(
            |message| matches!(message, FromKeeper::Exited { process, .. } if *process == key),
            |message| match message {
                FromKeeper::Exited { status, usage, .. } => (status, usage),
                other => panic!("{other:?}"),
            },
        )
    }

    pub(crate) fn ended(&mut self, key: ProcessKey) {
        self.find(|message| matches!(message, FromKeeper::TreeEnded { process } if *process == key), drop);
    }

    pub(crate) fn signal(&mut self, key: ProcessKey, signal: i32, scope: Scope) -> Result<u32, i32> {
        let wanted = self.ask_signal(key, signal, scope);
        self.signalled(wanted)
    }

    /// Signals to trees that the keeper finds all at once. `meanwhile` is done just before it looks.
    pub(crate) fn signal_together(
        &mut self,
        signals: &[(ProcessKey, i32)],
        meanwhile: impl FnOnce(),
    ) -> Vec<Result<u32, i32>> {
        let keeper = rustix::process::Pid::from_raw(self.keeper_pid()).unwrap();
        rustix::process::kill_process(keeper, rustix::process::Signal::STOP).unwrap();
        let asked: Vec<Ticket> =
            signals.iter().map(|(key, signal)| self.ask_signal(*key, *signal, Scope::Tree)).collect();
        meanwhile();
        rustix::process::kill_process(keeper, rustix::process::Signal::CONT).unwrap();
        asked.into_iter().map(|wanted| self.signalled(wanted)).collect()
    }

    fn ask_signal(&mut self, key: ProcessKey, signal: i32, scope: Scope) -> Ticket {
        self.serial += 1;
        let ticket = Ticket(self.serial);
        let mut packet = Vec::new();
        link::encode_signal(key, signal, scope, Some(ticket), &mut packet).unwrap();
        self.send(&mut packet);
        ticket
    }

    fn signalled(&mut self, wanted: Ticket) -> Result<u32, i32> {
        self.find(
            |message| matches!(message, FromKeeper::Signalled { ticket, .. } if *ticket == wanted),
            |message| match message {
                FromKeeper::Signalled { outcome, .. } => outcome,
                other => panic!("{other:?}"),
            },
        )
    }

    pub(crate) fn close_channel(&mut self, key: ProcessKey, end: End) {
        let mut packet = Vec::new();
        link::encode_close_channel(key, end, &mut packet).unwrap();
        self.send(&mut packet);
    }

    pub(crate) fn forget(&mut self, key: ProcessKey) {
        let mut packet = Vec::new();
        link::encode_forget(key, &mut packet).unwrap();
        self.send(&mut packet);
    }

    pub(crate) fn acknowledge(&mut self, key: ProcessKey) {
        let mut packet = Vec::new();
        link::encode_acknowledge(key, &mut packet).unwrap();
        self.send(&mut packet);
    }

    pub(crate) fn annotate(&mut self, key: ProcessKey, note: &[u8]) {
        let mut packet = Vec::new();
        link::encode_annotate(key, note, &mut packet).unwrap();
        self.send(&mut packet);
    }

    pub(crate) fn tell_blockers(&mut self, key: ProcessKey, counts: [u32; 2]) {
        let mut packet = Vec::new();
        link::encode_blockers(key, counts, &mut packet).unwrap();
        self.send(&mut packet);
    }

    pub(crate) fn leave(&mut self) {
        let mut packet = Vec::new();
        link::encode_leave(&mut packet).unwrap();
        self.send(&mut packet);
    }

    pub(crate) fn shutdown(&mut self, grace: Duration) {
        let mut packet = Vec::new();
        link::encode_shutdown(grace.as_nanos() as u64, &mut packet).unwrap();
        self.send(&mut packet);
    }

    /// Has it hold what a client writes by, under a new key.
    pub(crate) fn hold_producer(&mut self, pipe_bytes: Option<u32>, ends: &[BorrowedFd<'_>]) -> ProcessKey {
        self.serial += 1;
        let mut spawn = command(&["(published)"]);
        spawn.process.serial = self.serial;
        spawn.record = b"its record".to_vec().into();
        let mut packet = Vec::new();
        link::encode_hold_producer(&spawn, pipe_bytes, &mut packet).unwrap();
        socket::send_packet(self.lane(0), &packet, ends).unwrap();
        spawn.process
    }

    pub(crate) fn end_producer(&mut self, key: ProcessKey, status: ExitStatus) {
        let mut packet = Vec::new();
        link::encode_end_producer(key, status, &mut packet).unwrap();
        self.send(&mut packet);
    }

    pub(crate) fn hold_reactor(&mut self, lane: usize, fds: &[BorrowedFd<'_>]) {
        let mut packet = Vec::new();
        link::encode_hold_reactor(&mut packet).unwrap();
        socket::send_packet(self.lane(lane), &packet, fds).unwrap();
    }

    pub(crate) fn hold_stream(
        &mut self,
        key: ProcessKey,
        end: End,
        slot: u32,
        generation: u32,
        ring: BorrowedFd<'_>,
    ) {
        let mut packet = Vec::new();
        link::encode_hold_stream(key, end, slot, generation, &mut packet).unwrap();
        socket::send_packet(self.lane(0), &packet, &[ring]).unwrap();
        self.find(
            |message| matches!(message, FromKeeper::Held { process, .. } if *process == key),
            |message| match message {
                FromKeeper::Held { .. } => {}
                other => panic!("{other:?}"),
            },
        );
    }

    pub(crate) fn hold_outlet(
        &mut self,
        key: ProcessKey,
        serial: u64,
        framed: bool,
        fds: &[BorrowedFd<'_>; 2],
    ) {
        let mut packet = Vec::new();
        link::encode_hold_outlet(key, serial, (End::Stdout, framed), b"its note", &mut packet).unwrap();
        socket::send_packet(self.lane(0), &packet, fds).unwrap();
    }

    /// True exactly when the keeper has nothing to tell but what it was asked: a signal nobody gets is the
    /// question behind everything it had to say.
    pub(crate) fn nothing_more(&mut self) -> bool {
        let before = self.early.len();
        let nobody = ProcessKey { home: ReactorId(9), serial: 0 };
        self.signal(nobody, libc::SIGCONT, Scope::Tree) == Ok(0) && self.early.len() == before
    }

    /// True exactly when the lane ends here.
    pub(crate) fn hangs_up(&mut self) -> bool {
        self.receive(0).is_none()
    }

    /// What the death of a kernel is to its keeper. Its pid, to be reaped.
    pub(crate) fn lose_lanes(mut self) -> i32 {
        self.keeper.take().unwrap().pid
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Some(Launched { pid, lanes }) = self.keeper.take() {
            let mut packet = Vec::new();
            link::encode_shutdown(0, &mut packet).unwrap();
            let _ = socket::send_packet(lanes[0].as_fd(), &packet, &[]);
            drop(lanes);
            let code = link::reap(pid).unwrap();
            assert!(std::thread::panicking() || code == 0, "the keeper ended with {code}");
        }
    }
}

/// False: not within that time.
pub(crate) fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags, within: Duration) -> bool {
    let timeout = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
    poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout)).unwrap() > 0
}

/// Everything up to the end, which for a terminal is EIO.
pub(crate) fn read_to_end(fd: &OwnedFd) -> Vec<u8> {
    let mut all = Vec::new();
    while read_some(fd.as_fd(), &mut all) {}
    all
}

/// Everything up to and including `mark`, and what came with it.
pub(crate) fn read_until(fd: impl AsFd, mark: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !all.windows(mark.len()).any(|window| window == mark) {
        assert!(read_some(fd.as_fd(), &mut all), "the end came first: {:?}", String::from_utf8_lossy(&all));
    }
    all
}

fn read_some(fd: BorrowedFd<'_>, into: &mut Vec<u8>) -> bool {
    assert!(wait_for(fd, PollFlags::IN, PATIENCE), "nothing to read");
    let mut chunk = [0; 65_536];
    match rustix::io::read(fd, &mut chunk) {
        Ok(0) | Err(rustix::io::Errno::IO) => return false,
        Ok(read) => into.extend_from_slice(&chunk[..read]),
        Err(rustix::io::Errno::AGAIN) => {}
        Err(error) => panic!("{error}"),
    }
    true
}

/// The pid a script has printed as its first line.
pub(crate) fn shell_pid(spawned: &Spawned<OwnedFd>) -> i32 {
    let Some(Output::Pipe(stdout)) = &spawned.stdout else { panic!("a pipe was asked for") };
    let said = read_until(stdout.fd.as_fd(), b"\n");
    String::from_utf8(said).unwrap().trim().parse().unwrap()
}

/// True exactly when no living process has this pid.
pub(crate) fn pid_is_gone(pid: i32) -> bool {
    kairo_dataplane::sys::process::stat(pid).is_none_or(|stat| stat.dead())
}

/// Waits for a condition that remembers.
pub(crate) fn eventually_mut(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// Waits for a condition.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}
