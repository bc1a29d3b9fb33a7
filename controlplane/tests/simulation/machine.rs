//! The machine of a history: a disk, a clock, and the kernel that lives on it until it is killed.

use bytes::BytesMut;
use kairo_controlplane::audit::checkpoint::Key;
use kairo_controlplane::audit::inspecting::{Filter, Inspected, Inspection, inspect};
use kairo_controlplane::audit::is_audited;
use kairo_controlplane::config::Config;
use kairo_controlplane::entropy::{Entropy, Seeded};
use kairo_controlplane::events::consumers;
use kairo_controlplane::events::log::backend::{Backend, Fault, Op, Source};
use kairo_controlplane::events::log::simulation::{Disk, Mounted};
use kairo_controlplane::events::log::{
    self, Audited, Damage, Log, LogError, Options, PageLimit, Query, Reader,
};
use kairo_controlplane::events::outlet::{Batch, Life, Question, Shelf, Shelved};
use kairo_controlplane::events::reading::answer;
use kairo_controlplane::events::record::Record;
use kairo_controlplane::events::writing::{Hands, Writing};
use kairo_controlplane::intents::keeping;
use kairo_controlplane::kernel::Kernel;
use kairo_controlplane::receipts;
use kairo_dataplane::command::{Command, Commands};
use kairo_dataplane::control::{Inbound, Lineage, Moment, Notice, Peer};
use kairo_dataplane::key::{ConnectionKey, ReactorId, TimerKey};
use kairo_wire::codec::encode::Dialect;
use kairo_wire::codec::raw::RawRef;
use kairo_wire::frame::{Decoder, Kind};
use kairo_wire::json;
use kairo_wire::limits::HEADER_BYTES;
use kairo_wire::request::{self, Meta};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;

const OWNER: u32 = 1_000;
const HOUR_NS: u64 = 3_600_000_000_000;

/// What is wrong on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Events are told before they are written.
    ToldFirst,
    /// One batch, in the middle, is never written.
    LosesABatch,
    /// A sync does nothing.
    SyncsNothing,
    /// Events are told twice.
    TellsTwice,
    /// A new kernel knows no keys.
    ForgetsReceipts,
    /// A new kernel doesn't know how far consumers are.
    ForgetsConsumers,
    /// A new kernel doesn't know of intents.
    ForgetsIntents,
    /// Numbers of events that were lost are given again.
    ReusesPlaces,
}

impl Plant {
    pub(crate) const ALL: &[Plant] = &[
        Plant::ToldFirst,
        Plant::LosesABatch,
        Plant::SyncsNothing,
        Plant::TellsTwice,
        Plant::ForgetsReceipts,
        Plant::ForgetsConsumers,
        Plant::ForgetsIntents,
        Plant::ReusesPlaces,
    ];
}

/// The end of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// In order: everything put is written.
    Stopped,
    /// kill -9: what was written is there.
    Killed,
    /// What was not synced may be gone, from some batch on.
    PowerFailed,
}

/// When in the writer's work a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A batch is written, and nobody was told.
    Written,
    /// Some of it was told.
    Told,
    /// The disk has it, and nobody was told.
    Flushed,
}

/// Choices.
pub(crate) struct Dice(Seeded);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn chance(&mut self, parts: u64, of: u64) -> bool {
        self.below(of) < parts
    }

    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(self.below(all.len() as u64) as usize) }
    }
}

/// A frame that came to a client.
pub(crate) struct Arrival {
    pub(crate) to: ConnectionKey,
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

/// A kernel, and what is around it.
struct Plane {
    kernel: Kernel,
    shelf: Shelf,
    timers: BTreeMap<TimerKey, u64>,
    arrivals: Vec<Arrival>,
    /// Events that lie in sockets.
    unread: VecDeque<(ConnectionKey, usize)>,
    tells_twice: bool,
}

impl Plane {
    fn deliver(&mut self, to: ConnectionKey, bytes: &[u8]) {
        let mut decoder = Decoder::new();
        let whole = decoder.feed(bytes, |kind, payload| {
            self.arrivals.push(Arrival { to, kind, payload: payload.to_vec() });
        });
        whole.expect("whole frames");
        assert_eq!(decoder.pending_bytes(), 0, "a frame is cut");
    }

    fn carry_out(&mut self, here: Option<ConnectionKey>, out: Commands) {
        if let Some(connection) = here {
            self.deliver(connection, &out.replies);
        }
        for command in out.list {
            match command {
                Command::Reply { connection, frame } => self.deliver(connection, &frame),
                Command::Announce { frames, .. } => {
                    frames.iter().for_each(|(connection, frame)| self.deliver(*connection, frame));
                }
                Command::News { connection, frames } => {
                    for _ in 0..1 + u8::from(self.tells_twice) {
                        self.deliver(connection, &frames);
                    }
                    self.unread.push_back((connection, frames.len()));
                }
                Command::Arm { timer, at_ns } => {
                    self.timers.insert(timer, at_ns);
                }
                Command::Disarm { timer } => {
                    self.timers.remove(&timer);
                }
                // There are no processes here, and connections end when their clients say so.
                _ => {}
            }
        }
    }

    fn tell<R>(&mut self, what: impl FnOnce(&mut Kernel, &mut Commands) -> R) -> R {
        let mut out = Commands::default();
        let result = what(&mut self.kernel, &mut out);
        self.carry_out(None, out);
        self.kernel.hand_over();
        result
    }
}

/// What a machine does while one batch is written.
struct Work<'a> {
    plane: &'a mut Plane,
    disk: &'a Disk,
    at: Moment,
    plan: Option<(Place, Crash)>,
    chance: u64,
    crashed: Option<Crash>,
    synced: bool,
}

impl Work<'_> {
    /// True from the end of this life on.
    fn ends(&mut self, place: Place) -> bool {
        if let Some((_, crash)) = self.plan.filter(|plan| plan.0 == place && self.crashed.is_none()) {
            self.crashed = Some(crash);
            end(self.disk, crash, self.chance);
        }
        self.crashed.is_some()
    }
}

fn end(disk: &Disk, crash: Crash, chance: u64) {
    match crash {
        Crash::Stopped | Crash::Killed => disk.kill(),
        Crash::PowerFailed => {
            disk.crash(chance);
        }
    }
}

impl Hands for Work<'_> {
    fn now_ns(&self) -> u64 {
        self.at.monotonic_ns
    }

    fn wall_ms(&self) -> u64 {
        self.at.wall_ns / 1_000_000
    }

    fn is_more_put(&self) -> bool {
        false
    }

    fn written(&mut self, entry: u64) {
        if self.ends(Place::Written) {
            return;
        }
        let at = self.at;
        while self.plane.tell(|kernel, out| kernel.written(at, entry, out)) {
            if self.ends(Place::Told) {
                return;
            }
        }
        self.ends(Place::Told);
    }

    fn flushed(&mut self, entry: u64) {
        if self.crashed.is_some() {
            return;
        }
        self.synced = true;
        if self.ends(Place::Flushed) {
            return;
        }
        let at = self.at;
        while self.plane.tell(|kernel, out| kernel.flushed(at, entry, out)) {}
    }

    fn damaged(&mut self, found: &[Damage]) {
        let at = self.at;
        self.plane.tell(|kernel, out| kernel.log_damaged(at, found, out));
    }

    fn keep(&mut self, life: &Life, to: &mut Vec<log::Life>) {
        to.push(log::Life { kind: log::Kind::Clear, bytes: life.clear.clone() });
    }

    fn tidy(&mut self, _: &mut Log, _: bool) -> Result<(), LogError> {
        Ok(())
    }
}

/// A disk with a fault of another kind: it lies.
struct Crooked {
    disk: Mounted,
    /// So many writes more until one is lost.
    loses: Option<u64>,
    syncs: bool,
}

impl Backend for Crooked {
    fn write(&mut self, batch: &mut Vec<Op>) -> Result<(), Fault> {
        self.loses = self.loses.and_then(|left| left.checked_sub(1));
        if self.loses == Some(0) {
            batch.clear();
            return Ok(());
        }
        self.disk.write(batch)
    }

    fn sync(&mut self) -> Result<(), Fault> {
        if self.syncs { self.disk.sync() } else { Ok(()) }
    }

    fn source(&self) -> Arc<dyn Source> {
        self.disk.source()
    }
}

/// Everything.
pub(crate) struct Machine {
    pub(crate) dice: Dice,
    pub(crate) at: Moment,
    pub(crate) reader: Reader,
    plant: Option<Plant>,
    disk: Disk,
    folder: tempfile::TempDir,
    boots: u64,
    plane: Plane,
    /// None: the log takes nothing any more.
    writing: Option<Writing>,
    batches: Vec<Batch>,
    put: u64,
    questions: VecDeque<Question>,
    slots: u32,
    /// Everything told until now is synced, since the last time somebody asked.
    synced: bool,
    /// Records of the audit that were told to be gone.
    gone: Vec<(u64, u64)>,
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn config() -> Config {
    Config::alone(OWNER)
}

impl Machine {
    pub(crate) fn new(seed: u64, plant: Option<Plant>) -> Machine {
        let mut dice = Dice(Seeded::new(seed));
        let (disk, folder) = (Disk::default(), tempfile::tempdir().expect("a folder"));
        let at = Moment { monotonic_ns: HOUR_NS, wall_ns: 1_700_000_000_000_000_000 };
        let (log, damage, _) = open(&disk, &folder, 0, plant, &mut dice);
        let reader = log.reader();
        let plane = awake(&log, plant, dice.next(), at, &damage);
        let writing = Some(Writing::new(log));
        Machine {
            dice,
            at,
            reader,
            plant,
            disk,
            folder,
            boots: 0,
            plane,
            writing,
            batches: Vec::new(),
            put: 0,
            questions: VecDeque::new(),
            slots: 0,
            synced: false,
            gone: Vec::new(),
        }
    }

    /// Another kernel over what is left.
    pub(crate) fn start_again(&mut self) {
        let (log, damage, audit) = open(&self.disk, &self.folder, self.boots, self.plant, &mut self.dice);
        self.gone.extend(audit.damage.iter().map(|one| (one.from, one.to)));
        self.reader = log.reader();
        self.plane = awake(&log, self.plant, self.dice.next(), self.at, &damage);
        self.writing = Some(Writing::new(log));
        self.batches.clear();
        self.questions.clear();
        self.put = 0;
    }

    /// Ends the kernel between two steps. Returns how it has ended: a stop that fails is a kill.
    pub(crate) fn end(&mut self, mut crash: Crash) -> Crash {
        if crash == Crash::Stopped && !self.stop() {
            crash = Crash::Killed;
        }
        if crash == Crash::PowerFailed {
            self.boots += 1;
        }
        end(&self.disk, crash, self.dice.next());
        crash
    }

    /// Everything that was put is written, and the log closed, if it isn't broken.
    fn stop(&mut self) -> bool {
        self.collect();
        let Some(mut writing) = self.writing.take() else { return false };
        let batches = std::mem::take(&mut self.batches);
        let (plan, crashed, chance) = (None, None, 0);
        let (disk, at, plane) = (&self.disk, self.at, &mut self.plane);
        let mut work = Work { plane, disk, at, plan, chance, crashed, synced: false };
        let done = writing.work(&batches, None, true, &mut work);
        self.synced |= work.synced;
        done.and_then(|()| writing.close()).is_ok()
    }

    /// The kernel, as its clients and its timers reach it.
    fn collect(&mut self) {
        self.plane.kernel.hand_over();
        let Shelved { batches, questions, .. } = self.plane.shelf.take();
        self.put += batches.iter().map(|batch| batch.entries.len() as u64).sum::<u64>();
        self.batches.extend(batches);
        self.questions.extend(questions);
    }

    pub(crate) fn connect(&mut self) -> ConnectionKey {
        self.slots += 1;
        let key = ConnectionKey { reactor: ReactorId(0), slot: self.slots, generation: 1 };
        let peer = Peer { pid: 50, uid: OWNER, gid: OWNER, groups: vec![OWNER], lineage: Lineage::Outside };
        let at = self.at;
        self.plane.tell(|kernel, out| kernel.connected(at, key, peer, out));
        key
    }

    pub(crate) fn disconnect(&mut self, connection: ConnectionKey) {
        self.notice(Notice::Disconnected { connection });
    }

    fn notice(&mut self, notice: Notice) {
        let at = self.at;
        self.plane.tell(|kernel, out| kernel.notice(at, ReactorId(0), notice, out));
        self.collect();
    }

    pub(crate) fn call(
        &mut self,
        connection: ConnectionKey,
        id: u64,
        method: &str,
        params: &Value,
        key: Option<&str>,
    ) {
        let mut frame = BytesMut::new();
        let meta = key.map(|key| Meta { idempotency_key: Some(key.into()), ..Meta::default() });
        request::put(&mut frame, &json!(id), method, params, meta.as_ref()).expect("a request");
        let inbound = Inbound { kind: Kind::REQUEST.0, payload: &frame[HEADER_BYTES..] };
        let mut out = Commands::default();
        let mut errand = self.plane.kernel.received(self.at, connection, inbound, &mut out);
        while errand.run(inbound.payload) {
            errand = self.plane.kernel.proceed(self.at, connection, inbound, errand, &mut out);
        }
        self.plane.carry_out(Some(connection), out);
        self.collect();
    }

    /// What has come to clients since the last time.
    pub(crate) fn arrivals(&mut self) -> Vec<Arrival> {
        std::mem::take(&mut self.plane.arrivals)
    }

    /// True if the disk has been given everything that was told until now, since the last time.
    pub(crate) fn take_synced(&mut self) -> bool {
        std::mem::take(&mut self.synced)
    }

    /// The writer takes what there is. The end of this life, if it comes meanwhile.
    pub(crate) fn write(&mut self, plan: Option<(Place, Crash)>) -> Option<Crash> {
        self.collect();
        let Some(writing) = &mut self.writing else {
            self.batches.clear();
            return None;
        };
        if self.batches.is_empty() && !writing.is_behind(self.at.monotonic_ns) && writing.due_at().is_none() {
            return None;
        }
        let (at, put) = (self.at, self.put);
        if self.plant == Some(Plant::ToldFirst) {
            while self.plane.tell(|kernel, out| kernel.written(at, put, out)) {}
            if self.dice.chance(1, 4) {
                end(&self.disk, Crash::Killed, 0);
                return Some(Crash::Killed);
            }
        }
        let batches = std::mem::take(&mut self.batches);
        let chance = self.dice.next();
        let (disk, plane) = (&self.disk, &mut self.plane);
        let mut work = Work { plane, disk, at, plan, chance, crashed: None, synced: false };
        let done = writing.work(&batches, None, false, &mut work);
        let (crashed, synced) = (work.crashed, work.synced);
        self.synced |= synced;
        match (crashed, done) {
            (Some(crash), _) => {
                self.boots += u64::from(crash == Crash::PowerFailed);
                return Some(crash);
            }
            (None, Err(error)) => {
                self.writing = None;
                self.plane.tell(|kernel, out| kernel.log_failed(at, &error.to_string(), out));
            }
            (None, Ok(())) => {}
        }
        self.collect();
        None
    }

    /// The log's reader answers some of what it was asked.
    pub(crate) fn read(&mut self) {
        self.collect();
        let Some(question) = self.questions.pop_front() else { return };
        let (answer, at) = (answer(&self.reader, &question), self.at);
        self.plane.tell(|kernel, out| kernel.answered(at, answer, out));
        self.collect();
    }

    /// Somebody reads the events that lie in a socket.
    pub(crate) fn drain_a_socket(&mut self) {
        if let Some((connection, bytes)) = self.plane.unread.pop_front() {
            self.notice(Notice::NewsSent { connection, bytes });
        }
    }

    /// Nothing waits to be written, read or drained.
    pub(crate) fn is_at_rest(&mut self) -> bool {
        self.collect();
        self.batches.is_empty() && self.questions.is_empty() && self.plane.unread.is_empty()
    }

    /// True when the log takes nothing any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.writing.is_none()
    }

    /// The disk will refuse something.
    pub(crate) fn break_the_disk(&mut self) {
        match self.dice.below(2) {
            0 => self.disk.fail_writes(self.dice.below(3), ErrorKind::StorageFull),
            _ => self.disk.fail_sync(ErrorKind::Other),
        }
    }

    /// Time passes; timers ring when they are due.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.at.monotonic_ns + ms * 1_000_000;
        loop {
            let due = self.plane.timers.iter().map(|(timer, at)| (*at, *timer)).min();
            let Some((at, timer)) = due.filter(|(at, _)| *at <= end) else { break };
            self.pass_to(at);
            self.plane.timers.remove(&timer);
            self.notice(Notice::Rang { timer });
        }
        self.pass_to(end);
    }

    fn pass_to(&mut self, monotonic_ns: u64) {
        let passed = monotonic_ns.saturating_sub(self.at.monotonic_ns);
        self.at.monotonic_ns += passed;
        self.at.wall_ns += passed;
    }

    /// The wall clock is set back by an hour, or to where it would be.
    pub(crate) fn jump(&mut self) {
        match self.dice.chance(1, 2) {
            true => self.at.wall_ns -= HOUR_NS,
            false => self.at.wall_ns += HOUR_NS,
        }
    }

    /// The audit is a whole chain but for what was told to be gone: a record for each event that is audited, in order, and
    /// none for any other.
    pub(crate) fn look_at_the_audit(&self) {
        if self.plant.is_some() {
            return;
        }
        let mut after = None;
        loop {
            let page = self.inspected(Inspected::Soundness(after));
            for problem in page["problems"].as_array().expect("a list") {
                let range = (number(&problem["from"]), number(&problem["to"]));
                let is_known = self.gone.iter().any(|(from, to)| *from <= range.0 && range.1 <= *to);
                assert!(is_known, "{problem}, and gone are {:?}", self.gone);
            }
            after = page["next"].as_u64();
            if after.is_none() {
                break;
            }
        }
        let filter = Filter {
            principal: None,
            types: None,
            from_ms: 0,
            to_ms: u64::MAX,
            intent: None,
            target: None,
            grant: None,
            after: 0,
            limit: usize::MAX,
        };
        let page = self.inspected(Inspected::Records(Box::new(filter)));
        assert!(page["next"].is_null(), "a short history fits one page");
        let records = page["records"].as_array().expect("a list").iter().map(|one| number(&one["seq"]));
        let limit = PageLimit { events: usize::MAX, bytes: usize::MAX, looked_at: usize::MAX };
        let events = self.reader.scan(&Query::default(), None, limit).expect("it is read").events;
        let audited = events.iter().filter(|(seq, bytes)| {
            let record = Record::parse(*seq, bytes).expect("a record");
            is_audited(&record.topic, bytes)
        });
        assert!(records.eq(audited.map(|(seq, _)| *seq)), "a record for each event that is audited");
    }

    fn inspected(&self, what: Inspected) -> Value {
        let inspection = Inspection { ticket: 1, dialect: Dialect::Int64, what };
        let found = inspect(&self.reader, &inspection).0.found.expect("it is read");
        json::to_value(RawRef::new(&found.bytes).expect("a value")).expect("JSON")
    }

    /// The tables are as they should be.
    pub(crate) fn walk(&self) {
        assert_eq!(self.plane.kernel.broken(), Vec::<String>::new());
    }
}

fn open(
    disk: &Disk,
    folder: &tempfile::TempDir,
    boots: u64,
    plant: Option<Plant>,
    dice: &mut Dice,
) -> (Log, Vec<Damage>, Audited) {
    let mounted = disk.mount().expect("it is read");
    let backend: Box<dyn Backend> = match plant {
        Some(Plant::LosesABatch) => {
            Box::new(Crooked { disk: mounted, loses: Some(dice.below(20) + 4), syncs: true })
        }
        Some(Plant::SyncsNothing) => Box::new(Crooked { disk: mounted, loses: None, syncs: false }),
        _ => Box::new(mounted),
    };
    let key = Key::new(&[9; 32]);
    let options = Options { boot: boots.to_string(), audit: Some(key) };
    let (log, opened) = match plant {
        Some(Plant::ReusesPlaces) => Log::over_backend(backend),
        _ => Log::over_backend_in(backend, folder.path(), options),
    }
    .expect("the log can be opened");
    (log, opened.damage, opened.audit)
}

/// A kernel that has been told what the log has, in the order the program does it.
fn awake(log: &Log, plant: Option<Plant>, seed: u64, at: Moment, damage: &[Damage]) -> Plane {
    let shelf = Shelf::default();
    let reader = log.reader();
    let values = |prefix| reader.values(prefix).expect("they are read");
    let mut kernel =
        Kernel::new(config(), Box::new(Seeded::new(seed)), Box::new(shelf.clone()), log.last_seq());
    if plant != Some(Plant::ForgetsReceipts) {
        kernel.recall_receipts(values(receipts::PREFIX));
    }
    let tells_twice = plant == Some(Plant::TellsTwice);
    let mut plane = Plane {
        kernel,
        shelf,
        timers: BTreeMap::new(),
        arrivals: Vec::new(),
        unread: VecDeque::new(),
        tells_twice,
    };
    plane.tell(|kernel, out| {
        if plant != Some(Plant::ForgetsIntents) {
            kernel.recall_intents(at, values(keeping::PREFIX), out);
        }
        let standings = match plant {
            Some(Plant::ForgetsConsumers) => Vec::new(),
            _ => values(consumers::STATE_PREFIX),
        };
        kernel.recall_consumers(values(consumers::CONFIG_PREFIX), standings);
        kernel.ready(at, out);
        kernel.log_damaged(at, damage, out);
    });
    plane
}
