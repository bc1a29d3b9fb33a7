//! A relayed stream in a fake world: one seed, one history of readers that come, dawdle and leave at any byte.
//!
//! Readers are pipes, files and files that only append. Splices and tees are cut short, readiness is a lie, and attempts
//! fail for nothing. Whatever happens: one that makes its source wait has every byte from where it came, one that doesn't
//! has all but the gaps it was told of, in order, and the stream's length is what was written.
//!
//! `KAIRO_SEEDS` says how many seeds (default 60), `KAIRO_SEED` runs one.

#![forbid(unsafe_code)]

use kairo_dataplane::budget::Budget;
use kairo_dataplane::command::{
    CgroupLimits, Command, Commands, From, HistorySize, Job, Mode, Policy, Rate, Sink, Spawn, StderrTarget,
    StdinSource, Stdio, Subscribe, Unread,
};
use kairo_dataplane::control::{Control, Inbound, Moment, Notice, Peer, StreamEnd, Tree};
use kairo_dataplane::driver::sim::Fd;
use kairo_dataplane::driver::sim::world::{KeeperEnd, Remote, World, owner};
use kairo_dataplane::keeper::protocol::{ToKeeper, ToKernel, VERSION};
use kairo_dataplane::key::{Channel, ConnectionKey, ProcessKey, ReactorId, SubscriptionKey};
use kairo_dataplane::reactor::{Done, Worker};
use kairo_dataplane::simulation::Simulation;
use kairo_wire::id::SubscriptionId;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

const HOME: ReactorId = ReactorId(0);
const PROCESS: ProcessKey = ProcessKey { home: HOME, serial: 1 };
/// The number of the first reader's descriptor.
const FIRST_DESCRIPTOR: i32 = 100;

struct NoWorker;

impl Worker for NoWorker {
    fn submit(&self, _: Job, done: Done) {
        done(Vec::new());
    }
}

/// Hands on what the test decides, with each frame that comes, and notes what it is told.
#[derive(Default)]
struct Desk {
    decided: Mutex<VecDeque<Command>>,
    told: Mutex<Vec<Notice>>,
}

impl Control for Desk {
    fn connected(&self, _: Moment, _: ConnectionKey, _: Peer, _: &mut Commands) {}

    fn received(&self, _: Moment, _: ConnectionKey, _: Inbound<'_>, out: &mut Commands) {
        out.list.extend(self.decided.lock().expect("one thread").drain(..));
    }

    fn notice(&self, _: Moment, _: ReactorId, notice: Notice, _: &mut Commands) {
        self.told.lock().expect("one thread").push(notice);
    }
}

/// The right byte at an offset.
fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

enum Place {
    Pipe(Remote),
    File(Rc<RefCell<Vec<u8>>>),
}

struct Reader {
    key: SubscriptionKey,
    blocks: bool,
    /// Where it came, as far as can be told: its first gap may begin there.
    place: Option<Place>,
    bytes: Vec<u8>,
    /// It has left, or was thrown out.
    gone: bool,
    drained: bool,
    gaps: Vec<(u64, u64)>,
}

struct Play {
    world: World,
    desk: Arc<Desk>,
    reactor: Simulation,
    keeper: KeeperEnd,
    client: Remote,
    child: Option<Remote>,
    readers: Vec<Reader>,
    written: u64,
    total: u64,
    closed: Option<StreamEnd>,
}

fn spawn(world: &World, unread: Unread) -> Spawn {
    let rate = (world.below(3) == 0).then(|| Rate::of(1 << (22 + world.below(5))));
    Spawn {
        process: PROCESS,
        session: "relayed".into(),
        argv: vec![b"writer".to_vec()],
        env: Vec::new(),
        search_path: Vec::new(),
        cwd: None,
        stdio: Stdio::Pipes { stdin: StdinSource::Null, stderr: StderrTarget::Stdout, pipe_bytes: 65_536 },
        credentials: None,
        rlimits: Vec::new(),
        cgroup: CgroupLimits::default(),
        containment: None,
        program: None,
        placement: Default::default(),
        produced: None,
        wiring: Default::default(),
        history: HistorySize::NONE,
        rate: [rate; 2],
        unread,
        spool: None,
        record: Vec::new().into(),
        meter: Arc::default(),
    }
}

impl Play {
    fn begin(seed: u64) -> Play {
        let world = World::new(seed);
        let desk = Arc::new(Desk::default());
        let budget = Arc::new(Budget::new(1 << 30));
        let (reactor, port, keeper) =
            Simulation::new(&world, desk.clone(), Arc::new(NoWorker), budget).expect("a reactor");
        let client = port.connect(owner(7)).expect("it listens");
        let total = [0, 1, 5_000, 100_000, 500_000][world.below(5) as usize] + world.below(10_000);
        let mut play = Play {
            world,
            desk,
            reactor,
            keeper,
            client,
            child: None,
            readers: Vec::new(),
            written: 0,
            total,
            closed: None,
        };
        let unread = if play.world.below(3) == 0 { Unread::Block } else { Unread::Drop };
        play.decide(Command::Spawn(Box::new(spawn(&play.world, unread))));
        // One that makes the source wait is there from the start, so that the end comes by reading.
        play.join(true);
        play
    }

    fn decide(&mut self, command: Command) {
        self.desk.decided.lock().expect("one thread").push_back(command);
        // A frame without a payload brings it.
        self.client.write(b"KA\x01\x01\x00\x00\x00\x00").expect("the kernel reads");
    }

    fn join(&mut self, blocks: bool) {
        let number = FIRST_DESCRIPTOR + self.readers.len() as i32;
        let (fd, place) = match self.world.below(4) {
            0 => {
                let (fd, bytes) = self.world.file(1 << 30, self.world.below(2) == 0);
                (fd, Place::File(bytes))
            }
            _ => {
                let (fd, remote) = self.world.pipe_to_child(4_096 << self.world.below(6));
                (fd, Place::Pipe(remote))
            }
        };
        self.world.offer(number, fd);
        let key = SubscriptionKey { home: HOME, serial: 10 + self.readers.len() as u64 };
        let policy = if blocks { Policy::Block } else { Policy::DropOldest };
        let rate = (self.world.below(4) == 0).then(|| Rate::of(1 << (22 + self.world.below(5))));
        self.decide(Command::Subscribe(Box::new(Subscribe {
            subscription: key,
            id: SubscriptionId::stream(key.serial.into()),
            process: PROCESS,
            stdout: true,
            stderr: false,
            from: From::Oldest,
            resumes: false,
            mode: Mode::Chunk,
            policy,
            sink: Sink::Descriptor(number),
            history_bytes: None,
            rate,
            note: None,
            meter: Arc::default(),
        })));
        self.readers.push(Reader {
            key,
            blocks,
            place: Some(place),
            bytes: Vec::new(),
            gone: false,
            drained: false,
            gaps: Vec::new(),
        });
    }

    /// One leaves, by closing its end or by being unsubscribed. The first stays.
    fn leave(&mut self) {
        let at = self.world.below(self.readers.len() as u64) as usize;
        let reader = &mut self.readers[at];
        if at == 0 || reader.gone {
            return;
        }
        reader.gone = true;
        let key = reader.key;
        if matches!(reader.place, Some(Place::Pipe(_))) && self.world.below(2) == 0 {
            reader.place = None;
        } else {
            self.decide(Command::Unsubscribe { subscription: key, reply: None });
        }
    }

    fn keep(&mut self) {
        while let Some((packet, _fds)) = self.keeper.receive() {
            match rmp_serde::from_slice(&packet).expect("the kernel speaks the protocol") {
                ToKeeper::Hello { .. } => self.say(&ToKernel::Hello { version: VERSION, pid: 1 }, &[]),
                ToKeeper::Spawn(_) => {
                    let (fd, child) = self.world.pipe_from_child(4_096 << self.world.below(6));
                    let spawned = ToKernel::Spawned {
                        process: PROCESS,
                        pid: 2,
                        start_ticks: 1,
                        tree: Tree::BestEffort,
                        limits: Vec::new(),
                        terminal: false,
                        pipe_bytes: [None, Some(65_536), None],
                    };
                    self.say(&spawned, &[fd]);
                    self.child = Some(child);
                }
                _ => {}
            }
        }
    }

    fn say(&self, message: &ToKernel, fds: &[Fd]) {
        let packet = rmp_serde::to_vec(message).expect("a message is encodable");
        assert!(self.keeper.send(&packet, fds), "a lane has room");
    }

    fn act(&mut self, eager: bool) {
        self.keep();
        if let Some(child) = &self.child {
            let count = (1 + self.world.below(40_000)).min(self.total - self.written);
            let bytes: Vec<u8> = (self.written..self.written + count).map(byte_at).collect();
            self.written += child.write(&bytes).expect("our own output is read") as u64;
            if self.written == self.total {
                self.child = None;
            }
        }
        for reader in &mut self.readers {
            if let Some(Place::Pipe(remote)) = &reader.place
                && (eager || self.world.below(3) == 0)
            {
                let most = 1 + self.world.below(if eager { 200_000 } else { 20_000 }) as usize;
                reader.bytes.extend(remote.read(most).unwrap_or_default());
            }
        }
        self.reactor.round(Some(self.world.now().monotonic_ns + 50_000)).expect("the driver works");
        for notice in self.desk.told.lock().expect("one thread").drain(..) {
            let of = |key: SubscriptionKey| key.serial as usize - 10;
            match notice {
                Notice::Lagged { subscription, channel: Channel::Stdout, from, to } => {
                    assert!(from < to, "a gap is not empty");
                    self.readers[of(subscription)].gaps.push((from, to));
                }
                Notice::Drained { subscription } => self.readers[of(subscription)].drained = true,
                Notice::Closed { channel: Channel::Stdout, end, .. } => self.closed = Some(end),
                _ => {}
            }
        }
    }

    fn over(&self) -> bool {
        let served = |reader: &Reader| {
            let left = match &reader.place {
                Some(Place::Pipe(remote)) => remote.readable(),
                Some(Place::File(_)) | None => 0,
            };
            left == 0 && (reader.drained || reader.gone)
        };
        self.closed.is_some() && self.readers.iter().all(served)
    }

    fn judge(&self) {
        let end = self.closed.expect("it ends");
        assert_eq!(end.total_bytes, self.total, "the stream's length");
        for (nth, reader) in self.readers.iter().enumerate() {
            let bytes = match &reader.place {
                Some(Place::File(bytes)) => bytes.borrow().clone(),
                Some(Place::Pipe(_)) | None => reader.bytes.clone(),
            };
            let (mut at, mut gaps) = (0, reader.gaps.iter().peekable());
            for byte in &bytes {
                while let Some((_, to)) = gaps.next_if(|(from, _)| *from == at) {
                    at = *to;
                }
                assert_eq!(*byte, byte_at(at), "reader {nth}, offset {at}");
                at += 1;
            }
            while let Some((_, to)) = gaps.next_if(|(from, _)| *from == at) {
                at = *to;
            }
            if !reader.gone {
                assert_eq!(
                    (at, gaps.next()),
                    (self.total, None),
                    "reader {nth} has all that it wasn't told to miss"
                );
            }
            if reader.blocks {
                assert!(reader.gaps.len() <= 1, "reader {nth} misses only what was before it came");
                assert!(reader.gaps.iter().all(|(from, _)| *from == 0), "reader {nth}");
            }
        }
        assert!(self.readers[0].gaps.is_empty(), "it was there from the start");
    }
}

fn history(seed: u64) -> u64 {
    let mut play = Play::begin(seed);
    let mut rounds = 0;
    while !play.over() {
        rounds += 1;
        let eager = rounds > 4_000;
        match play.world.below(60) {
            0..=2 if !eager && play.readers.len() < 9 => {
                let blocks = play.world.below(2) == 0;
                play.join(blocks);
            }
            3 | 4 if !eager => play.leave(),
            _ => {}
        }
        play.act(eager);
        assert!(rounds < 200_000, "something is owed for ever");
    }
    play.judge();
    let Play { world, reactor, keeper, client, readers, child, total, .. } = play;
    (0..readers.len()).for_each(|nth| world.withdraw(FIRST_DESCRIPTOR + nth as i32));
    drop((reactor, keeper, client, readers, child));
    world.assert_clean();
    total
}

#[test]
fn whoever_comes_and_goes_every_byte_is_there_or_named() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = match number("KAIRO_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("KAIRO_SEEDS").unwrap_or(60)),
    };
    let mut bytes = 0;
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(|| history(seed));
        bytes += outcome.unwrap_or_else(|cause| {
            println!("seed {seed} fails: KAIRO_SEED={seed} shows it again");
            std::panic::resume_unwind(cause)
        });
    }
    println!("{count} histories, {bytes} bytes");
    assert!(bytes > 0);
}
