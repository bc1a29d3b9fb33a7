//! Whatever clients send and whatever the data plane reports back, in any order: the kernel's tables stay whole, every
//! call has at most one answer, nothing is pushed before a first reply or sent after a close, and when everybody has
//! gone nothing is left. The same script gives the same history.
//!
//! The script is a list of steps, each an operation, a connection, a length and as many bytes:
//!
//! ```text
//! op, connection, length (2, big-endian), bytes
//! ```

use bytes::{Bytes, BytesMut};
use kairo_controlplane::config::Config;
use kairo_controlplane::entropy::Seeded;
use kairo_controlplane::events::outlet::{Answer, Entry, Found, Question, Shelf, Shelved};
use kairo_controlplane::events::record::Record;
use kairo_controlplane::kernel::Kernel;
use kairo_dataplane::command::{Command, Commands};
use kairo_dataplane::control::{
    ExitStatus, Failure, Inbound, Lineage, Moment, Notice, Outcome, Peer, SpawnFailure, SpawnStage,
    StreamEnd, Tree, Usage,
};
use kairo_dataplane::key::{
    Channel, ConnectionKey, ProcessKey, ReactorId, SubscriptionKey, Ticket, TimerKey,
};
use kairo_wire::codec::check::check;
use kairo_wire::frame::{Decoder, Kind};
use kairo_wire::limits::HEADER_BYTES;
use kairo_wire::request::{self, Meta, Refused};
use kairo_wire::response::Response;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Most steps of a script that are taken.
const STEPS_MAX: usize = 200;

/// The input is a script. Returns the commands it led to, by name.
pub(crate) fn dispatch(input: &[u8]) -> BTreeSet<&'static str> {
    let (first, seen) = World::run(input);
    assert_eq!(first, World::run(input).0, "one script, one history");
    seen
}

/// What is known of a client.
#[derive(Default)]
struct Client {
    key: Option<ConnectionKey>,
    /// Calls that want an answer, less answers.
    owed: usize,
    greeted: bool,
    closing: bool,
}

/// A data plane that does what the script says, and what it was told to and has not done.
struct World {
    kernel: Kernel,
    at: Moment,
    clients: BTreeMap<u8, Client>,
    connections: u32,
    starting: Vec<ProcessKey>,
    running: Vec<ProcessKey>,
    exited: Vec<ProcessKey>,
    subscriptions: Vec<SubscriptionKey>,
    tickets: Vec<Ticket>,
    timers: BTreeSet<TimerKey>,
    /// Intents that have begun.
    intents: Vec<String>,
    pids: i32,
    /// What the kernel has handed over and asked.
    shelf: Shelf,
    /// Entries that were written, and the events among them.
    entries: u64,
    events: Vec<(u64, Bytes)>,
    history: DefaultHasher,
    seen: BTreeSet<&'static str>,
}

impl World {
    fn run(input: &[u8]) -> (u64, BTreeSet<&'static str>) {
        let config =
            Config { environment: vec![(b"PATH".to_vec(), b"/bin".to_vec())], ..Config::alone(1000) };
        let shelf = Shelf::default();
        let mut world = World {
            kernel: Kernel::new(config, Box::new(Seeded::new(1)), Box::new(shelf.clone()), 0),
            shelf,
            entries: 0,
            intents: vec!["unborn".to_owned()],
            events: Vec::new(),
            at: Moment { monotonic_ns: 1, wall_ns: 1_700_000_000_000_000_000 },
            clients: BTreeMap::new(),
            connections: 0,
            starting: Vec::new(),
            running: Vec::new(),
            exited: Vec::new(),
            subscriptions: Vec::new(),
            tickets: Vec::new(),
            timers: BTreeSet::new(),
            pids: 100,
            history: DefaultHasher::new(),
            seen: BTreeSet::new(),
        };
        let mut rest = input;
        for _ in 0..STEPS_MAX {
            let Some(([op, client, high, low], bytes)) = rest.split_first_chunk::<4>() else { break };
            let length = usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len());
            let (bytes, after) = bytes.split_at(length);
            rest = after;
            world.step(*op, client % 4, bytes);
        }
        world.end();
        (world.history.finish(), world.seen)
    }

    fn step(&mut self, op: u8, client: u8, bytes: &[u8]) {
        self.at.monotonic_ns += 1_000_000;
        self.at.wall_ns += 1_000_000;
        let choice = usize::from(bytes.first().copied().unwrap_or_default());
        match op % 17 {
            0..=7 => self.frame(client, Kind::REQUEST, bytes),
            8 => self.frame(client, Kind(op), bytes),
            9 => self.half_close(client),
            10 => self.disconnect(client),
            11 => self.born(choice),
            12 => self.exits(choice),
            13 => self.gone(choice),
            14 => self.reports(choice),
            15 => self.of_intents(client, bytes),
            _ => self.ring(choice),
        }
        if choice % 3 > 0 {
            self.keep();
        }
        let broken = self.kernel.broken();
        assert!(broken.is_empty(), "{broken:?}");
    }

    /// A call about one of the intents there are, or under it.
    fn of_intents(&mut self, client: u8, bytes: &[u8]) {
        let byte = |place: usize| usize::from(bytes.get(place).copied().unwrap_or_default());
        let intent = self.intents[byte(1) % self.intents.len()].clone();
        let (id, grace_ms) = (json!({ "intentId": intent }), byte(2) * 10);
        let (method, params) = match byte(0) % 12 {
            0 => ("intent.begin", json!({ "name": "n", "parent": intent, "onDisconnect": "cancel" })),
            1 => ("intent.begin", json!({ "name": "n", "onDisconnect": "end", "deadlineMs": grace_ms })),
            2 => ("intent.end", id),
            3 => ("intent.cancel", json!({ "intentId": intent, "graceMs": grace_ms })),
            4 => ("intent.cancel", json!({ "correlationId": intent })),
            5 => ("intent.register", json!({ "intentId": intent, "graceMs": grace_ms })),
            6 => ("intent.release", id),
            7 => ("intent.list", json!({ "state": "open" })),
            8 => ("intent.status", id),
            9 => ("event.publish", json!({ "type": "kairo.intent.cancel", "data": id })),
            10 => ("subscribe", json!({ "topic": ">" })),
            _ => ("process.spawn", json!({ "id": byte(2), "command": ["a"] })),
        };
        let under = byte(3) % 2 == 0;
        let meta = Meta { intent_id: under.then(|| intent.as_str().into()), ..Meta::default() };
        let mut frame = BytesMut::new();
        request::put(&mut frame, &byte(2), method, &params, Some(&meta)).expect("a request");
        self.frame(client, Kind::REQUEST, &frame[HEADER_BYTES..]);
    }

    /// The log writes what it was handed, and answers what it was asked.
    fn keep(&mut self) {
        self.kernel.hand_over();
        let Shelved { batches, questions, inspections, .. } = self.shelf.take();
        for entry in batches.into_iter().flat_map(|batch| batch.entries) {
            self.entries += 1;
            if let Entry::Event { topic, seq, record } = entry {
                if &*topic == "kairo.intent.started" {
                    let record = Record::parse(seq, &record).expect("a record of ours is one");
                    self.intents.extend(record.intent.map(|intent| intent.into_owned()));
                }
                self.events.push((seq, record));
            }
        }
        for told in [Kernel::written, Kernel::flushed] {
            let mut more = true;
            while more {
                let mut out = Commands::default();
                more = told(&mut self.kernel, self.at, self.entries, &mut out);
                self.carry_out(None, out);
            }
        }
        for inspection in inspections {
            let found = Found { bytes: Bytes::from_static(&[0xc0]), ..Found::default() };
            let answer = Answer { ticket: inspection.ticket, found: Ok(found), keep: Vec::new() };
            let mut out = Commands::default();
            self.kernel.answered(self.at, answer, &mut out);
            self.carry_out(None, out);
        }
        for question in questions {
            let Question { ticket, query, raw, subscription, .. } = question;
            let wanted = |seq: &u64| raw && (query.from..=query.to).contains(seq);
            let records = self.events.iter().filter(|(seq, _)| wanted(seq)).cloned().collect();
            let seen = self.events.last().map_or(0, |(seq, _)| *seq).max(query.from.saturating_sub(1));
            // A call is answered with a value, a subscription with frames, of which there may be none.
            let nil = Bytes::from_static(&[0xc0]);
            let bytes = if raw || subscription.is_some() { Bytes::new() } else { nil };
            let found = Found { bytes, events: 0, seen, more: false, records, ..Found::default() };
            let mut out = Commands::default();
            self.kernel.answered(self.at, Answer { ticket, found: Ok(found), keep: Vec::new() }, &mut out);
            self.carry_out(None, out);
        }
    }

    fn connect(&mut self, client: u8) -> ConnectionKey {
        if let Some(key) = self.clients.get(&client).and_then(|client| client.key) {
            return key;
        }
        self.connections += 1;
        let slot = self.connections;
        let key = ConnectionKey { reactor: ReactorId(u16::from(client % 2)), slot, generation: 1 };
        let lineage = match client {
            0 | 1 => Lineage::Outside,
            2 => Lineage::Child { ancestors: vec![101], session: None },
            _ => Lineage::Unknown,
        };
        let uid = if client == 1 { 2000 } else { 1000 };
        let peer = Peer { pid: 7, uid, gid: uid, groups: Vec::new(), lineage };
        self.clients.insert(client, Client { key: Some(key), ..Client::default() });
        let mut out = Commands::default();
        self.kernel.connected(self.at, key, peer, &mut out);
        self.carry_out(Some(client), out);
        key
    }

    fn frame(&mut self, number: u8, kind: Kind, payload: &[u8]) {
        let key = self.connect(number);
        let Some(client) = self.clients.get_mut(&number) else { return };
        let (wants, closes) = match (kind, request::read(payload)) {
            (Kind::REQUEST, Ok(_) | Err(Refused::Answer { .. })) => (true, false),
            (Kind::REQUEST, Err(Refused::Close(_))) => (false, true),
            (_, _) => (false, check(payload).is_err_and(|error| error.is_malformed())),
        };
        client.owed += usize::from(wants && !client.closing);
        let mut out = Commands::default();
        let frame = Inbound { kind: kind.0, payload };
        let mut errand = self.kernel.received(self.at, key, frame, &mut out);
        while errand.run(payload) {
            self.kernel.hand_over();
            errand = self.kernel.proceed(self.at, key, frame, errand, &mut out);
        }
        self.carry_out(Some(number), out);
        let client = &self.clients[&number];
        assert!(client.closing || !closes, "what is no MessagePack closes the connection");
    }

    fn notice(&mut self, notice: Notice) {
        let mut out = Commands::default();
        self.kernel.notice(self.at, ReactorId(0), notice, &mut out);
        self.carry_out(None, out);
    }

    /// Does what commands say, as far as it is not left to the script.
    fn carry_out(&mut self, caller: Option<u8>, out: Commands) {
        out.replies.hash(&mut self.history);
        if let Some(caller) = caller {
            self.arrive(caller, &out.replies);
        } else {
            assert!(out.replies.is_empty(), "a notice has no caller");
        }
        for command in out.list {
            // Spawns hold meters, whose addresses are no part of history.
            let name = name(&command);
            name.hash(&mut self.history);
            self.seen.insert(name);
            match command {
                Command::Reply { connection, frame } => self.arrive_at(connection, &frame),
                Command::Close { connection } => {
                    if let Some(client) = self.client_of(connection) {
                        client.closing = true;
                    }
                }
                Command::Spawn(spawn) => {
                    spawn.argv.hash(&mut self.history);
                    self.starting.push(spawn.process);
                }
                Command::Subscribe(subscribe) => self.subscriptions.push(subscribe.subscription),
                Command::Unsubscribe { subscription, reply } => {
                    self.subscriptions.retain(|other| *other != subscription);
                    if let Some((connection, frame)) = reply {
                        self.arrive_at(connection, &frame);
                    }
                }
                Command::Tune { ticket, .. }
                | Command::Write { ticket, .. }
                | Command::CloseStdin { ticket, .. }
                | Command::HandStdin { ticket, .. }
                | Command::Resize { ticket, .. }
                | Command::Work { ticket, .. } => self.tickets.push(ticket),
                Command::Signal { ticket, .. } => self.tickets.extend(ticket),
                Command::Hand { connection, frame, .. } => self.arrive_at(connection, &frame),
                Command::News { connection, frames } => self.arrive_at(connection, &frames),
                Command::Announce { frames, .. } => {
                    for (connection, frame) in frames {
                        self.arrive_at(connection, &frame);
                    }
                }
                Command::Arm { timer, .. } => {
                    self.timers.insert(timer);
                }
                Command::Disarm { timer } => {
                    self.timers.remove(&timer);
                }
                Command::AbandonWrite { .. }
                | Command::Pace { .. }
                | Command::EndInlet { .. }
                | Command::Acknowledge { .. }
                | Command::Annotate { .. }
                | Command::Forget { .. }
                | Command::Adapt(_)
                | Command::Watch
                | Command::Shutdown { .. }
                | Command::Leave => {}
            }
        }
    }

    fn client_of(&mut self, connection: ConnectionKey) -> Option<&mut Client> {
        self.clients.values_mut().find(|client| client.key == Some(connection))
    }

    fn arrive_at(&mut self, connection: ConnectionKey, frames: &[u8]) {
        frames.hash(&mut self.history);
        let found = self.clients.iter().find(|(_, client)| client.key == Some(connection));
        if let Some(number) = found.map(|(number, _)| *number) {
            self.arrive(number, frames);
        }
    }

    /// Frames of ours are whole and well-formed, and come when they may.
    fn arrive(&mut self, number: u8, frames: &[u8]) {
        let mut decoder = Decoder::new();
        let mut cut = Vec::new();
        decoder
            .feed(frames, |kind, payload| cut.push((kind, BytesMut::from(payload))))
            .expect("frames of ours");
        assert_eq!(decoder.pending_bytes(), 0, "frames of ours are whole");
        let Some(client) = self.clients.get_mut(&number) else { return };
        for (kind, payload) in cut {
            assert!(client.greeted || kind == Kind::RESPONSE, "nothing comes before a first reply");
            if kind == Kind::RESPONSE {
                Response::read(&payload).expect("a response of ours is one");
                assert!(client.owed > 0, "an answer that nobody wants");
                client.owed -= 1;
                client.greeted = true;
            } else {
                check(&payload).expect("an event of ours passes");
            }
        }
    }

    fn half_close(&mut self, client: u8) {
        if let Some(connection) = self.clients.get(&client).and_then(|client| client.key) {
            self.notice(Notice::HalfClosed { connection });
        }
    }

    fn disconnect(&mut self, client: u8) {
        if let Some(connection) = self.clients.remove(&client).and_then(|client| client.key) {
            self.notice(Notice::Disconnected { connection });
        }
    }

    fn born(&mut self, choice: usize) {
        if self.starting.is_empty() {
            return;
        }
        let process = self.starting.remove(choice / 4 % self.starting.len());
        if choice.is_multiple_of(4) {
            let failure = SpawnFailure { stage: SpawnStage::Exec, errno: 2 };
            return self.notice(Notice::SpawnFailed { process, failure });
        }
        self.pids += 1;
        self.running.push(process);
        let (pid, start_ticks) = (self.pids, u64::from(self.pids.unsigned_abs()));
        self.notice(Notice::Spawned {
            process,
            pid,
            tree: Tree::BestEffort,
            start_ticks,
            limits: Vec::new(),
        });
    }

    fn exits(&mut self, choice: usize) {
        if self.running.is_empty() {
            return;
        }
        let process = self.running.remove(choice / 2 % self.running.len());
        self.exited.push(process);
        let status = match choice % 2 {
            0 => ExitStatus::Code(choice as i32),
            _ => ExitStatus::Signal { signal: 9, core: false },
        };
        self.notice(Notice::Exited { process, status, usage: Usage::default(), at_ns: 0 });
    }

    /// The streams of an exited process close, and its tree ends.
    fn gone(&mut self, choice: usize) {
        if self.exited.is_empty() {
            return;
        }
        let process = self.exited.remove(choice % self.exited.len());
        for channel in Channel::ALL {
            self.notice(Notice::Closed { process, channel, end: StreamEnd::default() });
        }
        self.notice(Notice::Ended { process });
    }

    /// Something that was asked for is done or not, or a reader lags or is through.
    fn reports(&mut self, choice: usize) {
        let outcome = match choice % 6 {
            0 if !self.subscriptions.is_empty() => {
                let subscription = self.subscriptions[choice % self.subscriptions.len()];
                return self.notice(Notice::Lagged {
                    subscription,
                    channel: Channel::Stdout,
                    from: 3,
                    to: 9,
                });
            }
            1 if !self.subscriptions.is_empty() => {
                let subscription = self.subscriptions.remove(choice % self.subscriptions.len());
                return self.notice(Notice::Drained { subscription });
            }
            2 => Err(Failure::Gone),
            3 => Err(Failure::WouldBlock),
            4 => Ok(Outcome::Written { offset: 5 }),
            _ => Ok(Outcome::Signalled { processes: 1 }),
        };
        if !self.tickets.is_empty() {
            let ticket = self.tickets.remove(choice / 6 % self.tickets.len());
            self.notice(Notice::Done { ticket, outcome });
        }
    }

    fn ring(&mut self, choice: usize) {
        let place = choice % self.timers.len().max(1);
        if let Some(timer) = self.timers.iter().nth(place).copied() {
            self.timers.remove(&timer);
            self.at.monotonic_ns += 3_600_000_000_000;
            self.notice(Notice::Rang { timer });
        }
    }

    /// Everybody goes, and everything that was begun comes to its end.
    fn end(&mut self) {
        for client in 0..4 {
            self.disconnect(client);
        }
        while !self.starting.is_empty() || !self.running.is_empty() || !self.exited.is_empty() {
            self.born(1);
            self.exits(0);
            self.gone(0);
        }
        while !self.tickets.is_empty() {
            self.reports(2);
        }
        self.keep();
        let broken = self.kernel.broken();
        assert!(broken.is_empty(), "{broken:?}");
        let [connections, calls, _, subscriptions, _] = self.kernel.census();
        assert_eq!((connections, calls, subscriptions), (0, 0, 0), "nothing is left of those who have gone");
    }
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Reply { .. } => "reply",
        Command::Hand { .. } => "hand",
        Command::Close { .. } => "close",
        Command::Spawn(_) => "spawn",
        Command::Subscribe(_) => "subscribe",
        Command::Unsubscribe { .. } => "unsubscribe",
        Command::Tune { .. } => "tune",
        Command::Pace { .. } => "pace",
        Command::Write { .. } => "write",
        Command::AbandonWrite { .. } => "abandon write",
        Command::CloseStdin { .. } => "close stdin",
        Command::HandStdin { .. } => "hand stdin",
        Command::EndInlet { .. } => "end inlet",
        Command::Resize { .. } => "resize",
        Command::Signal { .. } => "signal",
        Command::Announce { .. } => "announce",
        Command::Annotate { .. } => "annotate",
        Command::Forget { .. } => "forget",
        Command::Arm { .. } => "arm",
        Command::Disarm { .. } => "disarm",
        Command::Work { .. } => "work",
        Command::News { .. } => "news",
        Command::Adapt(_) => "adapt",
        Command::Watch => "watch",
        Command::Acknowledge { .. } => "acknowledge",
        Command::Shutdown { .. } => "shutdown",
        Command::Leave => "leave",
    }
}
