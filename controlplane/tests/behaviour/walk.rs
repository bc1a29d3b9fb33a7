//! A random walk: clients that do anything, a data plane that does what it is told and what may happen, all from one
//! seed. After every stretch the tables are walked; at the end every call has been answered exactly once, nobody was
//! told what it may not see, nothing is left, and the same seed has given the same commands.

use crate::harness::{Alice, Arrival, World, config};
use kairo_controlplane::config::{Config, Limits};
use kairo_controlplane::entropy::{Entropy, Seeded};
use kairo_controlplane::quotas::bounds::{Rule, Rules};
use kairo_dataplane::command::{Command, Stdio};
use kairo_dataplane::control::{
    ExitStatus, Failure, Lineage, Notice, Outcome, SpawnFailure, SpawnStage, StreamEnd, Tree, Usage,
};
use kairo_dataplane::key::{Channel, ConnectionKey, ProcessKey, SubscriptionKey, Ticket};
use kairo_wire::frame::Kind;
use kairo_wire::request::Meta;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

struct Dice(Seeded);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % end as u64) as usize
    }
    fn of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// A process, as the data plane knows it.
struct Life {
    pid: i32,
    exited: bool,
    ended: bool,
    open: [bool; 2],
}

/// A client, as it knows itself.
struct Client {
    uid: u32,
    /// Unanswered calls: id and how often.
    calls: BTreeMap<String, usize>,
    half_closed: bool,
}

struct Walk {
    world: World,
    dice: Dice,
    clients: BTreeMap<ConnectionKey, Client>,
    lives: BTreeMap<ProcessKey, Life>,
    /// Spawns under way, and which outputs they will have.
    starting: Vec<(ProcessKey, [bool; 2])>,
    tickets: Vec<Ticket>,
    readers: BTreeMap<SubscriptionKey, ProcessKey>,
    subscriptions: Vec<Value>,
    /// Intents that have begun, and stories.
    intents: Vec<String>,
    /// Events that asked, as far as somebody heard them.
    requests: Vec<Value>,
    /// The user of each session, for what may be seen.
    sessions: BTreeMap<String, u32>,
    pids: i32,
    calls: u64,
    answered: u64,
    /// Whoever was lowered sees less; what it was told before stays right.
    lowered: BTreeSet<ConnectionKey>,
}

const IDS: [&str; 6] = ["a", "b", "c", "77", "d", "e"];
const STORIES: [&str; 3] = ["one", "two", "three"];
const USERS: [u32; 3] = [0, 2_000, 3_000];

/// Quotas that are met all the time.
fn narrow() -> Rules {
    let rule = |principal: &str, bounds: [u64; 6]| Rule {
        principal: principal.to_owned(),
        bounds: bounds.map(Some),
    };
    Rules(vec![
        rule("owner", [4, 8_192, 0, 9, 20, 8 << 20]),
        rule("user", [3, 2_048, 3, 5, 5, 4 << 20]),
        rule("skill", [2, 1_024, 2, 3, 3, 2 << 20]),
        rule("session", [1, 512, 1, 2, 2, 1 << 20]),
        rule("nobody", [0, 0, 1, 0, 0, 0]),
    ])
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let limits = Limits { retained_max: 4, topics_max: 5, streams_max: 20, ..Limits::default() };
        let quotas = if seed.is_multiple_of(2) { Rules::default() } else { narrow() };
        let config = Config { owner_uid: 0, accounts: Box::new(Alice), limits, quotas, ..config() };
        let mut world = World::with(config);
        world.watched = false;
        Walk {
            world,
            dice: Dice(Seeded::new(seed)),
            clients: BTreeMap::new(),
            lives: BTreeMap::new(),
            starting: Vec::new(),
            tickets: Vec::new(),
            readers: BTreeMap::new(),
            subscriptions: Vec::new(),
            intents: vec!["unborn".to_owned()],
            requests: Vec::new(),
            sessions: BTreeMap::new(),
            pids: 1_000,
            calls: 0,
            answered: 0,
            lowered: BTreeSet::new(),
        }
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..=2 => self.connect(),
            3..=55 => self.call(),
            56..=67 => self.spawn_comes(),
            68..=77 => self.life_goes_on(),
            78..=86 => self.ticket_comes(),
            87..=90 => self.reader_moves(),
            91..=96 => {
                let ms = self.dice.of(&[1, 50, 2_000, 5_000, 61_000, 3_700_000]);
                self.world.advance(ms);
            }
            97 => self.half_close(),
            98 => self.disconnect(),
            _ => self.nonsense(),
        }
        self.settle();
    }

    fn connect(&mut self) {
        if self.clients.len() >= 12 {
            return;
        }
        let uid = self.dice.of(&USERS);
        let running: Vec<i32> =
            self.lives.values().filter(|life| !life.exited).map(|life| life.pid).collect();
        let lineage = match self.dice.below(6) {
            0 => Lineage::Unknown,
            1 if !running.is_empty() => {
                Lineage::Child { ancestors: vec![5, self.dice.of(&running)], session: None }
            }
            _ => Lineage::Outside,
        };
        let lowered = lineage != Lineage::Outside;
        let connection = self.world.connect(uid, lineage);
        self.clients.insert(connection, Client { uid, calls: BTreeMap::new(), half_closed: false });
        if lowered {
            self.lowered.insert(connection);
        }
    }

    fn client(&mut self) -> Option<ConnectionKey> {
        let able: Vec<ConnectionKey> =
            self.clients.iter().filter(|(_, client)| !client.half_closed).map(|(key, _)| *key).collect();
        if able.is_empty() { None } else { Some(self.dice.of(&able)) }
    }

    fn call(&mut self) {
        let Some(connection) = self.client() else { return };
        let id = self.dice.of(&IDS);
        // The same text sometimes as an integer.
        let id = if id == "77" && self.dice.below(2) == 0 { json!(77) } else { json!(id) };
        let subscription =
            if self.subscriptions.is_empty() { json!("x") } else { self.dice.of(&self.subscriptions) };
        let call = format!("k{}", self.dice.below(1_000_000));
        let (method, params) = match self.dice.below(27) {
            20..=23 => self.of_intents(),
            24..=26 => self.event_call(),
            0..=3 => {
                let options = match self.dice.below(8) {
                    5 => json!({ "durable": true }),
                    6 => json!({
                        "restart": { "policy": "always", "limit": 3, "backoffMs": 100 },
                        "spool": self.dice.below(2) == 0,
                    }),
                    7 => {
                        json!({ "restart": { "policy": "on_failure", "reach": "kernel" }, "durable": false })
                    }
                    0 => json!({ "onDisconnect": "kill" }),
                    1 => json!({ "pty": true }),
                    2 => json!({ "sandbox": {} }),
                    3 => json!({ "spool": self.dice.of(&[json!(true), json!({ "bytesMax": 524_288 })]) }),
                    _ => json!({}),
                };
                ("process.spawn", json!({ "id": id, "command": ["a"], "options": options }))
            }
            4 | 5 => ("process.kill", json!({ "id": id, "graceMs": self.dice.of(&[0, 100, 9_000]) })),
            6 => ("process.signal", json!({ "id": id, "signal": self.dice.of(&["HUP", "STOP", "CONT"]) })),
            7 => (self.dice.of(&["process.pause", "process.resume"]), json!({ "id": id })),
            8 => ("process.stdin.write", json!({ "id": id, "data": "x" })),
            9 => ("process.stdin.close", json!({ "id": id })),
            10 => ("process.resize", json!({ "id": id, "rows": 10, "cols": 10 })),
            11 => ("process.wait", json!({ "id": id })),
            12 => ("process.wait", json!({ "id": id, "timeoutMs": self.dice.of(&[0, 500]) })),
            13 => ("process.status", json!({ "id": id, "detail": self.dice.below(2) == 0 })),
            14 => ("process.list", json!({})),
            15 => ("process.stdout.subscribe", json!({ "pid": id })),
            16 => (
                self.dice.of(&["process.stdout.unsubscribe", "unsubscribe"]),
                json!({ "subscriptionId": subscription }),
            ),
            17 => {
                let topic =
                    self.dice.of(&[">", "kairo.process.*", "kairo.stream.>", "kairo.intent.*", "job.ask"]);
                ("subscribe", json!({ "topic": topic }))
            }
            18 => match self.dice.below(4) {
                0 => ("identify", json!({ "skillId": self.dice.of(&["s", "t"]) })),
                1 => ("kernel.hello", json!({ "features": ["records", "int64"] })),
                2 => ("system.get_metrics", json!({})),
                _ => ("kernel.ping", json!({})),
            },
            _ => {
                let open: Vec<String> = self.clients[&connection].calls.keys().cloned().collect();
                let which = if open.is_empty() { json!("none") } else { json!(self.dice.of(&open)) };
                ("kernel.cancel", json!({ "id": which }))
            }
        };
        let deadline_ms = (self.dice.below(2) == 0).then(|| self.dice.of(&[1, 1_000]));
        let key = (self.dice.below(2) == 0).then(|| format!("{}{}", params["id"], self.dice.below(2)).into());
        let intent_id = (self.dice.below(2) == 0).then(|| self.dice.of(&self.intents).into());
        let correlation_id = (self.dice.below(4) == 0).then(|| self.dice.of(&STORIES).into());
        let meta = Meta { deadline_ms, idempotency_key: key, intent_id, correlation_id, ..Meta::default() };
        // What is refused for its meta lowers nobody.
        let meta = (self.dice.below(4) == 0 && method != "identify").then_some(&meta);
        self.calls += 1;
        if let Some(client) = self.clients.get_mut(&connection) {
            *client.calls.entry(call.clone()).or_default() += 1;
        }
        self.world.send_with(connection, &json!(call), method, &params, meta);
    }

    fn of_intents(&mut self) -> (&'static str, Value) {
        let intent = self.dice.of(&self.intents);
        let grace_ms = self.dice.of(&[0, 100, 9_000]);
        match self.dice.below(13) {
            0..=2 => {
                let mut params =
                    json!({ "name": "n", "onDisconnect": self.dice.of(&["keep", "cancel", "end"]) });
                if self.dice.below(2) == 0 {
                    params["parent"] = json!(intent);
                }
                if self.dice.below(3) == 0 {
                    params["deadlineMs"] = json!(self.dice.of(&[1, 3_000]));
                }
                ("intent.begin", params)
            }
            3 => ("intent.end", json!({ "intentId": intent, "summary": "s" })),
            4 | 5 => ("intent.cancel", json!({ "intentId": intent, "graceMs": grace_ms })),
            6 => ("intent.cancel", json!({ "correlationId": self.dice.of(&STORIES), "graceMs": grace_ms })),
            7 => ("intent.register", json!({ "intentId": intent, "graceMs": grace_ms })),
            8 => ("intent.release", json!({ "intentId": intent })),
            9 => (self.dice.of(&["intent.status", "intent.timeline"]), json!({ "intentId": intent })),
            10 => ("intent.list", json!({ "limit": 3 })),
            11 => {
                let data = json!({ "intentId": intent });
                ("event.publish", json!({ "type": "kairo.intent.cancel", "data": data }))
            }
            _ => {
                let data = json!({ "targetCorrelationId": self.dice.of(&STORIES) });
                ("event.publish", json!({ "type": "kairo.cancel", "data": data }))
            }
        }
    }

    /// Something about events and durable consumers.
    fn event_call(&mut self) -> (&'static str, Value) {
        let name = self.dice.of(&["x", "y"]);
        let settings = json!({
            "name": name, "topic": self.dice.of(&["job.*", "kairo.process.*"]), "ackWaitMs": 40, "maxDeliver": 2,
            "maxInFlight": self.dice.of(&[1, 3, 100]), "backoffMs": self.dice.of(&[json!([]), json!([30, 60])]),
        });
        let seq = self.world.kept.last_seq().saturating_sub(self.dice.below(12) as u64).max(1);
        match self.dice.below(14) {
            0 | 1 => ("consumer.create", settings),
            2 | 3 => ("consumer.attach", json!({ "name": name })),
            4 | 5 => {
                let mode = self.dice.of(&["single", "upTo"]);
                ("consumer.ack", json!({ "name": name, "seq": seq, "mode": mode }))
            }
            6 => ("consumer.nak", json!({ "name": name, "seq": seq })),
            7 => (self.dice.of(&["consumer.status", "consumer.list"]), json!({ "name": name })),
            8 => ("consumer.delete", json!({ "name": name })),
            9 => ("kernel.hello", json!({ "features": ["envelope", "int64"] })),
            10 => ("event.request", json!({ "type": "job.ask", "timeoutMs": 30, "replyType": "job.do" })),
            11 => {
                let asked = self.requests.last().cloned().unwrap_or_default();
                ("event.publish", json!({ "type": "job.answer", "answers": asked }))
            }
            _ => (
                "event.publish",
                json!({ "type": "job.do", "ack": self.dice.of(&["memory", "log", "disk"]) }),
            ),
        }
    }

    fn spawn_comes(&mut self) {
        if self.starting.is_empty() {
            return;
        }
        let nth = self.dice.below(self.starting.len());
        let (process, open) = self.starting.swap_remove(nth);
        if self.dice.below(5) == 0 {
            let failure = SpawnFailure { stage: SpawnStage::Exec, errno: 2 };
            return self.world.notice(Notice::SpawnFailed { process, failure });
        }
        self.pids += 1;
        let pid = self.pids;
        self.lives.insert(process, Life { pid, exited: false, ended: false, open });
        let limits = Vec::new();
        self.world.notice(Notice::Spawned { process, pid, tree: Tree::Exact, start_ticks: 1, limits });
    }

    fn life_goes_on(&mut self) {
        let keys: Vec<ProcessKey> = self.lives.keys().copied().collect();
        if keys.is_empty() {
            return;
        }
        let process = self.dice.of(&keys);
        let choice = self.dice.below(4);
        let Some(life) = self.lives.get_mut(&process) else { return };
        let notice = match choice {
            0 if !life.exited => {
                life.exited = true;
                let status = self.dice.of(&[
                    ExitStatus::Code(0),
                    ExitStatus::Code(1),
                    ExitStatus::Signal { signal: 9, core: false },
                ]);
                Notice::Exited { process, status, usage: Usage::default(), at_ns: 0 }
            }
            1 | 2 if life.open[choice - 1] && life.exited => {
                life.open[choice - 1] = false;
                let end = StreamEnd { total_bytes: 3, cut_bytes: 0 };
                Notice::Closed { process, channel: Channel::ALL[choice - 1], end }
            }
            _ if life.exited && !life.ended => {
                life.ended = true;
                Notice::Ended { process }
            }
            _ => return,
        };
        self.world.notice(notice);
    }

    fn ticket_comes(&mut self) {
        if self.tickets.is_empty() {
            return;
        }
        let nth = self.dice.below(self.tickets.len());
        let ticket = self.tickets.swap_remove(nth);
        let outcome = self.dice.of(&[
            Ok(Outcome::Ok),
            Ok(Outcome::Signalled { processes: 2 }),
            Ok(Outcome::Written { offset: 9 }),
            Ok(Outcome::Worked(Vec::new())),
            Err(Failure::Gone),
            Err(Failure::WouldBlock),
            Err(Failure::Os(1)),
        ]);
        self.world.done(ticket, outcome);
    }

    fn reader_moves(&mut self) {
        let keys: Vec<SubscriptionKey> = self.readers.keys().copied().collect();
        if keys.is_empty() {
            return;
        }
        let subscription = self.dice.of(&keys);
        let over =
            self.lives.get(&self.readers[&subscription]).is_none_or(|life| life.open == [false, false]);
        if over {
            self.readers.remove(&subscription);
            self.world.notice(Notice::Drained { subscription });
        } else {
            self.world.notice(Notice::Lagged { subscription, channel: Channel::Stdout, from: 1, to: 2 });
        }
    }

    fn half_close(&mut self) {
        let Some(connection) = self.client() else { return };
        if let Some(client) = self.clients.get_mut(&connection) {
            client.half_closed = true;
        }
        self.world.notice(Notice::HalfClosed { connection });
    }

    fn disconnect(&mut self) {
        let keys: Vec<ConnectionKey> = self.clients.keys().copied().collect();
        if !keys.is_empty() {
            let connection = self.dice.of(&keys);
            self.world.disconnect(connection);
            self.clients.remove(&connection);
        }
    }

    fn nonsense(&mut self) {
        let Some(connection) = self.client() else { return };
        match self.dice.below(3) {
            0 => self.world.bytes(connection, Kind::EVENT, b"\x81\xa5topic\xa1x"),
            1 => self.world.bytes(connection, Kind::REQUEST, b"\xc1"),
            _ => self.world.bytes(connection, Kind(7), b"\x80"),
        }
    }

    /// What the data plane does at once, and what clients do with what has come.
    fn settle(&mut self) {
        self.world.records.clear();
        for command in std::mem::take(&mut self.world.commands) {
            match command {
                Command::Spawn(spawn) => {
                    let uid = spawn.credentials.as_ref().map_or(0, |credentials| credentials.uid);
                    self.sessions.insert(spawn.session.clone(), uid);
                    self.starting.push((spawn.process, [true, !matches!(spawn.stdio, Stdio::Pty(_))]));
                }
                Command::Subscribe(subscribe) => {
                    self.subscriptions.push(json!(subscribe.id.as_str()));
                    self.readers.insert(subscribe.subscription, subscribe.process);
                    assert!(self.lives.contains_key(&subscribe.process), "only what runs or has run is read");
                }
                Command::Unsubscribe { subscription, .. } => {
                    self.readers.remove(&subscription);
                }
                Command::Write { process, ticket, .. }
                | Command::CloseStdin { process, ticket }
                | Command::HandStdin { process, ticket, .. }
                | Command::Resize { process, ticket, .. } => {
                    assert!(self.lives.contains_key(&process), "a command for what does not run");
                    self.tickets.push(ticket);
                }
                Command::Signal { process, ticket, .. } => {
                    assert!(self.lives.contains_key(&process), "a signal for what does not run");
                    self.tickets.extend(ticket);
                }
                Command::Forget { process } => {
                    let life = self.lives.remove(&process).expect("what is forgotten has run");
                    assert!(life.ended && life.open == [false, false], "only what is over is forgotten");
                    assert!(
                        !self.readers.values().any(|read| *read == process),
                        "nobody reads what is forgotten"
                    );
                }
                Command::Work { ticket, .. } => self.tickets.push(ticket),
                Command::AbandonWrite { .. } | Command::Annotate { .. } | Command::Shutdown { .. } => {}
                other => panic!("the harness does that: {other:?}"),
            }
        }
        for closed in std::mem::take(&mut self.world.closed) {
            if self.clients.remove(&closed).is_some() {
                self.world.disconnect(closed);
            }
        }
        self.read_mail();
        if !self.world.commands.is_empty() {
            self.settle();
        }
    }

    fn read_mail(&mut self) {
        let mail = std::mem::take(&mut self.world.inboxes);
        for (connection, arrivals) in mail {
            for arrival in arrivals {
                let client = self.clients.get_mut(&connection);
                match arrival {
                    Arrival::Answer(id, outcome) => {
                        if let Some(id) =
                            outcome.as_ref().ok().and_then(|it| it.get("subscriptionId").cloned())
                        {
                            self.subscriptions.push(id);
                        }
                        if outcome.as_ref().is_ok_and(|result| result["status"] == "identified") {
                            self.lowered.insert(connection);
                        }
                        let begun = outcome.ok().filter(|result| result["seq"].is_u64());
                        if let Some(begun) =
                            begun.and_then(|result| result["intentId"].as_str().map(str::to_owned))
                            && !self.intents.contains(&begun)
                        {
                            // The latest are the most interesting.
                            self.intents.insert(0, begun);
                            self.intents.truncate(12);
                        }
                        self.answered += 1;
                        // One that was closed or left may have had its last answers on the way.
                        let Some(client) = client else { continue };
                        let call = id.as_str().unwrap_or_default();
                        let open = client.calls.get_mut(call).expect("an answer to a call, once");
                        *open -= 1;
                        if *open == 0 {
                            client.calls.remove(call);
                        }
                    }
                    Arrival::Event(topic, event, frame) => {
                        if topic == "job.ask" {
                            let whole = kairo_wire::envelope::EventFrame::parse(&frame).expect("an event");
                            self.requests.extend(whole.id.map(|id| json!(id)));
                        }
                        let Some(client) = client else { continue };
                        if let Some(session) = event["session"].as_str() {
                            let uid = self.sessions[session];
                            assert!(client.uid == 0 || client.uid == uid, "{topic} to who may not see it");
                        }
                        if topic == "kairo.process.spawned" {
                            let skill = event["owner"]["kind"] == "skill";
                            let lowered = self.lowered.contains(&connection);
                            assert!(
                                !lowered || skill || !event["owner"]["kind"].is_string(),
                                "{event} to a skill"
                            );
                        }
                    }
                }
            }
        }
    }

    /// Lets everything come to its end.
    fn wind_down(&mut self) {
        for connection in self.clients.keys().copied().collect::<Vec<_>>() {
            self.world.disconnect(connection);
        }
        self.clients.clear();
        self.settle();
        for round in 0..40 {
            while !self.starting.is_empty() {
                self.spawn_comes();
                self.settle();
            }
            while !self.tickets.is_empty() {
                self.ticket_comes();
                self.settle();
            }
            for process in self.lives.keys().copied().collect::<Vec<_>>() {
                let Some(life) = self.lives.get_mut(&process) else { continue };
                let (exited, ended, open) = (life.exited, life.ended, life.open);
                *life = Life { pid: life.pid, exited: true, ended: true, open: [false, false] };
                if !exited {
                    self.world.exits(process, ExitStatus::Code(0));
                }
                for (channel, open) in Channel::ALL.into_iter().zip(open) {
                    if open {
                        let end = StreamEnd::default();
                        self.world.notice(Notice::Closed { process, channel, end });
                    }
                }
                if !ended {
                    self.world.notice(Notice::Ended { process });
                }
                self.settle();
            }
            // First what is to be started again comes to its limit, by lives that are short; then all is forgotten.
            self.world.advance(if round < 20 { 1_000 } else { 3_700_000 });
            self.settle();
        }
    }
}

fn walk(seed: u64, steps: usize, logged: bool) -> (Vec<String>, u64, u64) {
    let mut walk = Walk::new(seed);
    walk.world.logged = logged;
    for step in 0..steps {
        walk.step();
        if step % 64 == 0 {
            assert_eq!(walk.world.kernel.broken(), Vec::<String>::new(), "seed {seed}, step {step}");
            let open: usize = walk.clients.values().flat_map(|client| client.calls.values()).sum();
            assert_eq!(walk.world.kernel.census()[1], open, "seed {seed}, step {step}: calls in flight");
            assert_eq!(walk.world.kernel.census()[0], walk.clients.len());
        }
    }
    walk.wind_down();
    assert_eq!(walk.world.kernel.broken(), Vec::<String>::new(), "seed {seed}, at the end");
    assert_eq!(walk.world.kernel.census(), [0; 5], "seed {seed}: something is left");
    assert!(walk.world.timers.is_empty());
    (walk.world.log, walk.calls, walk.answered)
}

#[test]
fn a_hundred_thousand_random_steps_leave_nothing_broken_and_nothing_behind() {
    // With quotas that are met all the time, and without.
    for seed in [1, 2] {
        let (_, calls, answered) = walk(seed, 50_000, false);
        assert!(calls > 20_000 && answered > 15_000, "{answered} of {calls} calls were answered");
    }
}

#[test]
fn many_short_walks_of_other_seeds_do_as_well() {
    for seed in 100..140 {
        walk(seed, 500, false);
    }
}

#[test]
fn the_same_seed_gives_the_same_commands() {
    let (one, ..) = walk(5, 4_000, true);
    let (same, ..) = walk(5, 4_000, true);
    let (other, ..) = walk(6, 4_000, true);
    assert!(one.len() > 1_000);
    assert_eq!(one, same);
    assert_ne!(one, other);
}
