//! A kernel, and a world around it that does what its commands say: connections with inboxes, timers, a log.

use bytes::{Bytes, BytesMut};
use kairo_controlplane::agents;
use kairo_controlplane::audit::inspecting::inspect;
use kairo_controlplane::config::{Account, Accounts, Config};
use kairo_controlplane::entropy::Seeded;
use kairo_controlplane::events::compacting::Compaction;
use kairo_controlplane::events::consumers;
use kairo_controlplane::events::log::{self, Log, Retention, Stored};
use kairo_controlplane::events::outlet::{Answer, Entry, Inquiry, Life, Shelf, Shelved};
use kairo_controlplane::events::reading::answer;
use kairo_controlplane::events::views::{Host, Keeping, Limits as ViewLimits};
use kairo_controlplane::intents::keeping;
use kairo_controlplane::kernel::Kernel;
use kairo_controlplane::permissions;
use kairo_controlplane::receipts;
use kairo_dataplane::command::{Command, Commands, Credentials, Spawn, Subscribe};
use kairo_dataplane::control::{
    ExitStatus, Failure, Inbound, Lineage, Moment, Notice, Outcome, Peer, StreamEnd, Tree, Usage,
};
use kairo_dataplane::key::{
    Channel, ConnectionKey, ProcessKey, ReactorId, SubscriptionKey, Ticket, TimerKey,
};
use kairo_wire::codec::raw::RawRef;
use kairo_wire::envelope::EventFrame;
use kairo_wire::frame::{Decoder, Kind};
use kairo_wire::limits::HEADER_BYTES;
use kairo_wire::methods::event::{Gap, GapCause};
use kairo_wire::request::{self, Meta};
use kairo_wire::response::{CallError, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The daemon's user in most tests.
pub(crate) const OWNER: u32 = 1_000;

/// What came to a connection.
#[derive(Clone, Debug)]
pub(crate) enum Arrival {
    /// An answer: the id, and what came of it.
    Answer(Value, Result<Value, CallError>),
    /// An event: topic, `data` or `payload`, and the frame's payload as it came.
    Event(String, Value, Vec<u8>),
}

pub(crate) struct World {
    pub(crate) kernel: Kernel,
    pub(crate) at: Moment,
    pub(crate) inboxes: BTreeMap<ConnectionKey, Vec<Arrival>>,
    pub(crate) closed: BTreeSet<ConnectionKey>,
    greeted: BTreeSet<ConnectionKey>,
    pub(crate) timers: BTreeMap<TimerKey, u64>,
    /// Everything else the kernel has commanded and no test has taken.
    pub(crate) commands: Vec<Command>,
    /// What was written down of lives.
    pub(crate) records: Vec<Life>,
    shelf: Shelf,
    /// The log, which keeps at once what is handed over.
    pub(crate) kept: Log,
    /// Whether connections read events at once.
    pub(crate) reads: bool,
    unsent: Vec<(ConnectionKey, usize)>,
    /// What is folded from it.
    pub(crate) views: Host,
    /// Entries it has.
    pub(crate) entries: u64,
    /// Whether the disk has at once what it is asked to have.
    pub(crate) flushes: bool,
    /// Connections that read no events.
    pub(crate) unread: BTreeSet<ConnectionKey>,
    /// Places whose events the log has lost, as far as consumers are brought them.
    pub(crate) holes: BTreeSet<u64>,
    /// Whether the log takes at once what it is handed.
    pub(crate) keeps: bool,
    /// What was said beside the last answer.
    pub(crate) meta: Option<Value>,
    /// Every command ever, as text.
    pub(crate) log: Vec<String>,
    calls: u64,
    slots: u32,
    pids: i32,
    /// Whether the tables are walked after every step.
    pub(crate) watched: bool,
    /// Whether commands are written down.
    pub(crate) logged: bool,
}

fn views_of(log: &Log) -> Host {
    Host::new(log.reader(), OWNER, ViewLimits::default()).expect("the log is read")
}

/// The way of the views' checkpoints into the log.
struct Values<'l>(&'l mut Log);

impl Keeping for Values<'_> {
    fn keep(&mut self, values: Vec<(Bytes, Option<Bytes>)>) -> bool {
        let values = values.into_iter().map(|(key, bytes)| log::Value { key, bytes }).collect();
        self.0.append(&log::Batch { values, ..log::Batch::default() }).is_ok()
    }
}

pub(crate) fn config() -> Config {
    let variable = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    Config {
        version: "0.0.0-test".to_owned(),
        socket_path: Some(b"/run/kairo.sock".to_vec()),
        environment: vec![
            variable("PATH", "/usr/bin:/bin"),
            variable("HOME", "/homes/owner"),
            variable("LC_ALL", "C"),
            variable("SECRET", "hunter2"),
            variable("KAIRO_SESSION", "outer"),
            variable("XDG_RUNTIME_DIR", "/run/user/1000"),
        ],
        ..Config::alone(OWNER)
    }
}

/// Alice is 2000.
pub(crate) struct Alice;

impl Accounts for Alice {
    fn by_uid(&self, uid: u32) -> Option<Account> {
        (uid == 2_000).then(|| Account {
            name: "alice".to_owned(),
            credentials: Credentials { uid: 2_000, gid: 2_001, groups: vec![2_001, 27] },
            home: b"/homes/alice".to_vec(),
            shell: b"/bin/zsh".to_vec(),
        })
    }
    fn by_name(&self, name: &str) -> Option<Account> {
        if name == "alice" { self.by_uid(2_000) } else { None }
    }
}

impl World {
    pub(crate) fn new() -> World {
        World::with(config())
    }

    /// A daemon of root.
    pub(crate) fn of_root() -> World {
        World::with(Config { owner_uid: 0, accounts: Box::new(Alice), ..config() })
    }

    pub(crate) fn with(config: Config) -> World {
        World::over(config, Log::in_memory(64 << 20).expect("a log in memory"))
    }

    /// A kernel whose log is one that another kernel has left.
    pub(crate) fn over(config: Config, kept: Log) -> World {
        let shelf = Shelf::default();
        let last = kept.last_seq();
        let mut kernel = Kernel::new(config, Box::new(Seeded::new(7)), Box::new(shelf.clone()), last);
        let values = |prefix| kept.reader().values(prefix).expect("they are read");
        kernel.recall_receipts(values(receipts::PREFIX));
        kernel.recall_consumers(values(consumers::CONFIG_PREFIX), values(consumers::STATE_PREFIX));
        let at = Moment { monotonic_ns: 1_000_000_000, wall_ns: 1_700_000_000_000_000_000 };
        kernel.recall_agents(values(agents::AGENT_PREFIX), values(agents::SESSION_VALUE_PREFIX));
        kernel.recall_grants(at, values(permissions::DECLARED_PREFIX), values(permissions::GRANT_PREFIX));
        World {
            kernel,
            shelf,
            reads: true,
            unsent: Vec::new(),
            views: views_of(&kept),
            kept,
            entries: 0,
            flushes: true,
            unread: BTreeSet::new(),
            holes: BTreeSet::new(),
            keeps: true,
            meta: None,
            at,
            inboxes: BTreeMap::new(),
            closed: BTreeSet::new(),
            greeted: BTreeSet::new(),
            timers: BTreeMap::new(),
            commands: Vec::new(),
            records: Vec::new(),
            log: Vec::new(),
            calls: 0,
            slots: 0,
            pids: 100,
            watched: true,
            logged: true,
        }
    }

    /// The kernel is gone with its connections, timers and what it had asked for; another one goes on behind its log.
    pub(crate) fn next_kernel(&mut self, config: Config) {
        let values = self.kept.reader().values(keeping::PREFIX).expect("they can be read");
        let shelf = Shelf::default();
        let entropy = Box::new(Seeded::new(self.entries + 100));
        self.kernel = Kernel::new(config, entropy, Box::new(shelf.clone()), self.kept.last_seq());
        (self.shelf, self.entries) = (shelf, 0);
        self.timers.clear();
        self.commands.clear();
        self.greeted.clear();
        let mut out = Commands::default();
        self.kernel.recall_intents(self.at, values, &mut out);
        self.carry_out(None, out);
    }

    // Connections

    pub(crate) fn owner(&mut self) -> ConnectionKey {
        self.connect(OWNER, Lineage::Outside)
    }

    pub(crate) fn user(&mut self, uid: u32) -> ConnectionKey {
        self.connect(uid, Lineage::Outside)
    }

    /// A connection of a descendant of the keeper, pids from itself up.
    pub(crate) fn child(&mut self, ancestors: &[i32], session: Option<&str>) -> ConnectionKey {
        let lineage = Lineage::Child { ancestors: ancestors.to_vec(), session: session.map(str::to_owned) };
        self.connect(OWNER, lineage)
    }

    pub(crate) fn connect(&mut self, uid: u32, lineage: Lineage) -> ConnectionKey {
        self.slots += 1;
        let key =
            ConnectionKey { reactor: ReactorId((self.slots % 2) as u16), slot: self.slots, generation: 1 };
        let peer = Peer { pid: 50, uid, gid: uid, groups: vec![uid, 44], lineage };
        let mut out = Commands::default();
        self.kernel.connected(self.at, key, peer, &mut out);
        self.carry_out(Some(key), out);
        key
    }

    pub(crate) fn disconnect(&mut self, connection: ConnectionKey) {
        self.notice(Notice::Disconnected { connection });
    }

    // Calls

    /// Sends a call with this id.
    pub(crate) fn send(&mut self, connection: ConnectionKey, id: &Value, method: &str, params: &Value) {
        self.send_with(connection, id, method, params, None);
    }

    pub(crate) fn send_with(
        &mut self,
        connection: ConnectionKey,
        id: &Value,
        method: &str,
        params: &Value,
        meta: Option<&Meta<'_>>,
    ) {
        let mut frame = BytesMut::new();
        request::put(&mut frame, id, method, params, meta).expect("a request");
        self.bytes(connection, Kind::REQUEST, &frame[HEADER_BYTES..]);
    }

    /// Hands in a frame's payload.
    pub(crate) fn bytes(&mut self, connection: ConnectionKey, kind: Kind, payload: &[u8]) {
        let mut out = Commands::default();
        let frame = Inbound { kind: kind.0, payload };
        let mut errand = self.kernel.received(self.at, connection, frame, &mut out);
        while errand.run(payload) {
            self.kernel.hand_over();
            errand = self.kernel.proceed(self.at, connection, frame, errand, &mut out);
        }
        self.carry_out(Some(connection), out);
    }

    /// Sends a call under a fresh id, which it returns.
    pub(crate) fn start(&mut self, connection: ConnectionKey, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = json!(format!("c{}", self.calls));
        self.send(connection, &id, method, &params);
        id
    }

    /// The answer to a call, taken out of the inbox.
    pub(crate) fn answer(
        &mut self,
        connection: ConnectionKey,
        id: &Value,
    ) -> Option<Result<Value, CallError>> {
        let inbox = self.inboxes.get_mut(&connection)?;
        let place = inbox.iter().position(|arrival| matches!(arrival, Arrival::Answer(of, _) if of == id))?;
        match inbox.remove(place) {
            Arrival::Answer(_, outcome) => Some(outcome),
            Arrival::Event(..) => None,
        }
    }

    /// Calls, and takes the answer that must be there at once.
    pub(crate) fn call(
        &mut self,
        connection: ConnectionKey,
        method: &str,
        params: Value,
    ) -> Result<Value, CallError> {
        let id = self.start(connection, method, params);
        self.answer(connection, &id).unwrap_or_else(|| panic!("{method} is not answered"))
    }

    pub(crate) fn ok(&mut self, connection: ConnectionKey, method: &str, params: Value) -> Value {
        self.call(connection, method, params).unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    /// Calls, and takes the code and text of the failure.
    pub(crate) fn fails(
        &mut self,
        connection: ConnectionKey,
        method: &str,
        params: Value,
    ) -> (String, String) {
        code(&self.call(connection, method, params).expect_err(method))
    }

    /// Events that have come, taken out of the inbox.
    pub(crate) fn events(&mut self, connection: ConnectionKey) -> Vec<(String, Value)> {
        let Some(inbox) = self.inboxes.get_mut(&connection) else { return Vec::new() };
        let mut events = Vec::new();
        inbox.retain(|arrival| match arrival {
            Arrival::Event(topic, data, _) => {
                events.push((topic.clone(), data.clone()));
                false
            }
            Arrival::Answer(..) => true,
        });
        events
    }

    // The data plane

    pub(crate) fn notice(&mut self, notice: Notice) {
        let mut out = Commands::default();
        self.kernel.notice(self.at, ReactorId(0), notice, &mut out);
        assert!(out.replies.is_empty(), "a notice has no connection to reply to");
        self.carry_out(None, out);
    }

    pub(crate) fn done(&mut self, ticket: Ticket, outcome: Result<Outcome, Failure>) {
        self.notice(Notice::Done { ticket, outcome });
    }

    /// Lets time pass; timers ring when they are due.
    pub(crate) fn advance(&mut self, ms: u64) {
        let end = self.at.monotonic_ns + ms * 1_000_000;
        loop {
            let due = self.timers.iter().map(|(timer, at)| (*at, *timer)).min();
            let Some((at, timer)) = due.filter(|(at, _)| *at <= end) else { break };
            self.pass_to(at);
            self.timers.remove(&timer);
            self.notice(Notice::Rang { timer });
        }
        self.pass_to(end);
    }

    fn pass_to(&mut self, monotonic_ns: u64) {
        let passed = monotonic_ns.saturating_sub(self.at.monotonic_ns);
        self.at.monotonic_ns += passed;
        self.at.wall_ns += passed;
    }

    pub(crate) fn carry_out(&mut self, here: Option<ConnectionKey>, out: Commands) {
        if let Some(connection) = here {
            self.deliver(connection, &out.replies);
        }
        let mut sent = Vec::new();
        for command in out.list {
            if self.logged {
                self.log.push(format!("{command:?}"));
            }
            match command {
                Command::Reply { connection, frame } => self.deliver(connection, &frame),
                Command::Announce { frames, .. } => {
                    for (connection, frame) in frames {
                        self.deliver(connection, &frame);
                    }
                }
                Command::Unsubscribe { subscription, reply } => {
                    if let Some((connection, frame)) = &reply {
                        self.deliver(*connection, frame);
                    }
                    self.commands.push(Command::Unsubscribe { subscription, reply });
                }
                // The keeper is always there and never tells twice.
                Command::Acknowledge { .. } => {}
                Command::Close { connection } => {
                    assert!(self.closed.insert(connection), "a connection is closed twice");
                }
                Command::Arm { timer, at_ns } => {
                    self.timers.insert(timer, at_ns);
                }
                Command::Disarm { timer } => {
                    assert!(self.timers.remove(&timer).is_some(), "a timer is disarmed that is not armed");
                }
                Command::News { connection, frames } => {
                    self.deliver(connection, &frames);
                    if !self.unread.contains(&connection) {
                        sent.push((connection, frames.len()));
                    }
                }
                other => self.commands.push(other),
            }
        }
        if !self.reads {
            self.unsent.append(&mut sent);
        }
        self.sent(sent);
        self.keep();
        if self.watched {
            assert_eq!(self.kernel.broken(), Vec::<String>::new());
        }
    }

    /// What lay there unread has been read.
    pub(crate) fn sent_at_last(&mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        self.sent(unsent);
    }

    fn sent(&mut self, sent: Vec<(ConnectionKey, usize)>) {
        for (connection, bytes) in sent {
            let mut out = Commands::default();
            self.kernel.notice(self.at, ReactorId(0), Notice::NewsSent { connection, bytes }, &mut out);
            self.carry_out(None, out);
        }
    }

    /// Does what the log's threads do.
    pub(crate) fn keep(&mut self) {
        self.kernel.hand_over();
        if !self.keeps {
            return;
        }
        let Shelved { batches, questions, inspections, inquiries, chores } = self.shelf.take();
        let asked = questions.len() + inspections.len() + inquiries.len() + chores.len();
        if batches.is_empty() && asked == 0 {
            return;
        }
        let mut flush = false;
        for batch in batches {
            let mut whole = log::Batch::default();
            flush |= batch.flush;
            self.entries += batch.entries.len() as u64;
            for entry in &batch.entries {
                match entry {
                    Entry::Event { seq, topic, record } => {
                        whole.events.push(Stored { seq: *seq, topic, record: record.clone() });
                    }
                    Entry::Life(life) => self.records.push(life.clone()),
                    Entry::Value { key, value } => {
                        whole.values.push(log::Value { key: key.clone(), bytes: value.clone() });
                    }
                    Entry::Audit(order) => whole.orders.push(*order),
                }
            }
            self.kept.append(&whole).expect("it is written");
        }
        let (at, entries) = (self.at, self.entries);
        for chore in chores {
            let mut work = Compaction::of_chore(chore, &Retention::default(), &self.kept);
            while work.step(&mut self.kept, at.wall_ns / 1_000_000, 3).expect("it is written") {}
            let mut out = Commands::default();
            self.kernel.compacted(at, work.finish(), &mut out);
            self.carry_out(None, out);
        }
        self.tell(|kernel, out| kernel.written(at, entries, out));
        if flush && self.flushes {
            self.tell(|kernel, out| kernel.flushed(at, entries, out));
        }
        for question in questions {
            let mut answer = answer(&self.kept.reader(), &question);
            if let Ok(found) = answer.found.as_mut() {
                let end = found.seen.min(question.query.to);
                for hole in self.holes.range(question.query.from..=end.max(question.query.from)) {
                    found.records.retain(|(seq, _)| seq != hole);
                    found.gaps.push(Gap { from: *hole, to: *hole, cause: GapCause::Damaged, summary: None });
                }
            }
            self.answered(answer);
        }
        for inspection in inspections {
            let (answer, damage) = inspect(&self.kept.reader(), &inspection);
            assert_eq!(damage, []);
            self.answered(answer);
        }
        self.view(inquiries);
    }

    /// Does what the views' thread does.
    fn view(&mut self, inquiries: Vec<Inquiry>) {
        while self.views.catch_up().expect("the log is read") {}
        for inquiry in inquiries {
            if let Some(answer) = self.views.ask(inquiry) {
                self.answered(answer);
            }
        }
        for answer in self.views.due() {
            self.answered(answer);
        }
    }

    fn answered(&mut self, answer: Answer) {
        let mut out = Commands::default();
        self.kernel.answered(self.at, answer, &mut out);
        self.carry_out(None, out);
    }

    /// Has the views stored, and another kernel's views begin with what is stored.
    pub(crate) fn store_views(&mut self) {
        self.views.store(&mut Values(&mut self.kept)).expect("the log is read");
        self.views = views_of(&self.kept);
    }

    /// How many entries each batch has that lies there; they are taken away.
    pub(crate) fn handed_over(&mut self) -> Vec<usize> {
        self.shelf.take().batches.iter().map(|batch| batch.entries.len()).collect()
    }

    /// Has the kernel told something about its log, as often as there is more.
    pub(crate) fn tell(&mut self, mut what: impl FnMut(&mut Kernel, &mut Commands) -> bool) {
        loop {
            let mut out = Commands::default();
            let more = what(&mut self.kernel, &mut out);
            self.carry_out(None, out);
            if !more {
                return;
            }
        }
    }

    fn deliver(&mut self, connection: ConnectionKey, bytes: &[u8]) {
        let inbox = self.inboxes.entry(connection).or_default();
        let (greeted, meta) = (&mut self.greeted, &mut self.meta);
        let mut decoder = Decoder::new();
        decoder
            .feed(bytes, |kind, payload| match kind {
                Kind::RESPONSE => {
                    let response = Response::read(payload).expect("a response");
                    let outcome = response.outcome.map(value);
                    *meta = response.meta.map(value);
                    greeted.insert(connection);
                    inbox.push(Arrival::Answer(value(response.id), outcome));
                }
                Kind::EVENT => {
                    assert!(greeted.contains(&connection), "nothing is pushed before the first reply");
                    let event = EventFrame::parse(payload).expect("an event");
                    let body = event.body().map_or(Value::Null, value);
                    inbox.push(Arrival::Event(event.topic.into_owned(), body, payload.to_vec()));
                }
                other => panic!("a frame of kind {other:?} comes from the data plane only"),
            })
            .expect("whole frames");
        assert_eq!(decoder.pending_bytes(), 0, "a frame is cut");
    }

    /// The events of the bus that came to a connection, whole, taken out of the inbox.
    pub(crate) fn envelopes(&mut self, connection: ConnectionKey) -> Vec<Value> {
        let Some(inbox) = self.inboxes.get_mut(&connection) else { return Vec::new() };
        let (events, rest) =
            std::mem::take(inbox).into_iter().partition(|arrival| matches!(arrival, Arrival::Event(..)));
        *inbox = rest;
        let whole = |arrival| match arrival {
            Arrival::Event(_, _, payload) => Some(value(RawRef::new(&payload).expect("a value"))),
            Arrival::Answer(..) => None,
        };
        events.into_iter().filter_map(whole).filter(|event| event.get("payload").is_some()).collect()
    }

    // Commands, taken by what they are

    pub(crate) fn take<T>(&mut self, mut what: impl FnMut(&Command) -> Option<T>) -> Option<T> {
        let place = self.commands.iter().position(|command| what(command).is_some())?;
        let command = self.commands.remove(place);
        what(&command)
    }

    pub(crate) fn take_spawn(&mut self) -> Option<Box<Spawn>> {
        let place = self.commands.iter().position(|command| matches!(command, Command::Spawn(_)))?;
        match self.commands.remove(place) {
            Command::Spawn(spawn) => Some(spawn),
            _ => None,
        }
    }

    pub(crate) fn take_subscribe(&mut self) -> Option<Box<Subscribe>> {
        let place = self.commands.iter().position(|command| matches!(command, Command::Subscribe(_)))?;
        match self.commands.remove(place) {
            Command::Subscribe(subscribe) => Some(subscribe),
            _ => None,
        }
    }

    /// Signals commanded: (process, number, ticket).
    pub(crate) fn take_signal(&mut self) -> Option<(ProcessKey, i32, Option<Ticket>)> {
        self.take(|command| match command {
            Command::Signal { process, signal, ticket, .. } => Some((*process, *signal, *ticket)),
            _ => None,
        })
    }

    pub(crate) fn take_forget(&mut self) -> Option<ProcessKey> {
        self.take(|command| match command {
            Command::Forget { process } => Some(*process),
            _ => None,
        })
    }

    pub(crate) fn take_unsubscribe(&mut self) -> Option<SubscriptionKey> {
        self.take(|command| match command {
            Command::Unsubscribe { subscription, .. } => Some(*subscription),
            _ => None,
        })
    }

    // Lives

    /// Answers the oldest spawn command: the child runs. Returns its key and pid.
    pub(crate) fn born(&mut self) -> (ProcessKey, i32) {
        let spawn = self.take_spawn().expect("a spawn is under way");
        self.bear(&spawn)
    }

    /// The child of this command runs.
    pub(crate) fn bear(&mut self, spawn: &Spawn) -> (ProcessKey, i32) {
        self.pids += 1;
        let (process, pid) = (spawn.process, self.pids);
        self.notice(Notice::Spawned {
            process,
            pid,
            tree: Tree::BestEffort,
            start_ticks: 5,
            limits: Vec::new(),
        });
        (process, pid)
    }

    /// Spawns `id`, which runs then.
    pub(crate) fn run(&mut self, connection: ConnectionKey, id: &str) -> (ProcessKey, i32) {
        self.run_with(connection, json!({ "id": id, "command": ["sleep", "9"] }))
    }

    pub(crate) fn run_with(&mut self, connection: ConnectionKey, params: Value) -> (ProcessKey, i32) {
        let call = self.start(connection, "process.spawn", params);
        let born = self.born();
        self.answer(connection, &call).expect("the spawn is answered").expect("it runs");
        born
    }

    pub(crate) fn exits(&mut self, process: ProcessKey, status: ExitStatus) {
        let at_ns = self.at.monotonic_ns;
        self.notice(Notice::Exited { process, status, usage: Usage::default(), at_ns });
    }

    pub(crate) fn closes(&mut self, process: ProcessKey) {
        for channel in Channel::ALL {
            let end = StreamEnd { total_bytes: 10, cut_bytes: 0 };
            self.notice(Notice::Closed { process, channel, end });
        }
    }

    /// All three ends.
    pub(crate) fn finish(&mut self, process: ProcessKey, code: i32) {
        self.exits(process, ExitStatus::Code(code));
        self.closes(process);
        self.notice(Notice::Ended { process });
    }
}

/// Code and text of a failure.
pub(crate) fn code(error: &CallError) -> (String, String) {
    let info = error.info.as_ref().expect("every failure has an errorInfo");
    (info.code.clone(), error.text.clone())
}

pub(crate) fn value(raw: RawRef<'_>) -> Value {
    kairo_wire::json::to_value(raw).expect("a value JSON can hold")
}
