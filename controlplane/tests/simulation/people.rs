//! Everybody of a history, and its course: lives of kernels, and at the end the judgement.

use crate::machine::{Arrival, Crash, Machine, Place, Plant};
use crate::truth::{Hold, Told, Truth, value};
use kairo_controlplane::events::record::Record;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::codec::raw::RawRef;
use kairo_wire::envelope::EventFrame;
use kairo_wire::frame::Kind;
use kairo_wire::response::{CallError, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

const LIVES: u64 = 5;
const STEPS: u64 = 150;
/// Who does what, by the number of its connection.
const PUBLISHERS: [usize; 2] = [0, 1];
const FOLLOWERS: [usize; 2] = [2, 3];
const WORKERS: [usize; 2] = [4, 5];
const PLANNER: usize = 6;
const ALL: usize = 7;
/// What followers follow.
const PATTERNS: [&str; 2] = [">", "job.*"];

/// How much was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    crashes: [u64; 3],
    acknowledged: [u64; 3],
    repeated: u64,
    told: u64,
    lost: u64,
    delivered: u64,
    done: u64,
    begun: u64,
    over: u64,
    broken: u64,
    replayed: u64,
}

impl Account {
    fn numbers(&mut self) -> [&mut u64; 15] {
        let Account { crashes: [a, b, c], acknowledged: [d, e, f], .. } = self;
        let rest = [&mut self.repeated, &mut self.told, &mut self.lost, &mut self.delivered, &mut self.done];
        let [g, h, i, j, k] = rest;
        let [l, m, n, o] = [&mut self.begun, &mut self.over, &mut self.broken, &mut self.replayed];
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o]
    }

    /// Everything happened.
    pub(crate) fn is_rich(&self) -> bool {
        self.clone().numbers().iter().all(|number| **number > 0)
    }
}

impl AddAssign for Account {
    fn add_assign(&mut self, mut other: Account) {
        for (sum, number) in self.numbers().into_iter().zip(other.numbers()) {
            *sum += *number;
        }
    }
}

/// What somebody asked for.
#[derive(Clone, Debug)]
enum Call {
    Hello,
    Publish(u64),
    Subscribe(usize),
    Create,
    Attach,
    /// What had been delivered of what it is about.
    Ack(Vec<u64>),
    Begin,
    End(String),
    Cancel(String),
    Open,
    Replay,
    Status,
    Nothing,
}

/// An event somebody wants to publish.
struct Draft {
    key: Option<String>,
    hold: Hold,
    params: Value,
    /// Place and name, as the answer said.
    answered: Option<(u64, String)>,
}

/// Somebody who follows events over all lives.
#[derive(Default)]
struct Follower {
    subscription: Option<String>,
    asked: bool,
    /// The first place it is to be told of, and the next.
    start: Option<u64>,
    next: u64,
    got: Vec<u64>,
}

struct People {
    truth: Truth,
    account: Account,
    connections: [Option<ConnectionKey>; ALL],
    calls: BTreeMap<u64, (usize, Call)>,
    last_call: u64,
    drafts: Vec<Draft>,
    followers: [Follower; 2],
    /// What is attached, and what this life has brought it.
    attached: BTreeSet<usize>,
    is_created: bool,
    delivered: Vec<u64>,
    firsts: Vec<u64>,
    /// Of these somebody said that they are done.
    said: BTreeSet<u64>,
    /// Brought and not answered, by worker.
    in_hand: Vec<(usize, u64)>,
    intents: Vec<String>,
    begun: u64,
    /// The last answers of those who ask how things stand.
    open: Option<BTreeSet<String>>,
    status: Option<Value>,
    replayed: Vec<u64>,
    replay_next: Option<u64>,
    is_diligent: bool,
}

/// Plays the history of a seed.
pub(crate) fn history(seed: u64, plant: Option<Plant>) -> Account {
    let mut machine = Machine::new(seed, plant);
    let mut people = People {
        truth: Truth::default(),
        account: Account::default(),
        connections: [None; ALL],
        calls: BTreeMap::new(),
        last_call: 0,
        drafts: Vec::new(),
        followers: Default::default(),
        attached: BTreeSet::new(),
        is_created: false,
        delivered: Vec::new(),
        firsts: Vec::new(),
        said: BTreeSet::new(),
        in_hand: Vec::new(),
        intents: Vec::new(),
        begun: 0,
        open: None,
        status: None,
        replayed: Vec::new(),
        replay_next: None,
        is_diligent: false,
    };
    for _ in 0..1 + machine.dice.below(LIVES) {
        let crash = people.live(&mut machine);
        people.die(crash, &mut machine);
    }
    people.finish(&mut machine);
    people.account
}

impl People {
    /// A life, up to its end.
    fn live(&mut self, machine: &mut Machine) -> Crash {
        for step in 0..machine.dice.below(STEPS) {
            let plan = machine.dice.chance(1, 30).then(|| {
                let place = [Place::Written, Place::Told, Place::Flushed][machine.dice.below(3) as usize];
                (place, [Crash::Killed, Crash::PowerFailed][machine.dice.below(2) as usize])
            });
            if let Some(crash) = self.step(machine, plan) {
                return crash;
            }
            if step % 32 == 0 {
                machine.walk();
            }
        }
        let crash = [Crash::Killed, Crash::PowerFailed, Crash::Stopped][machine.dice.below(3) as usize];
        self.account.broken += u64::from(machine.is_broken());
        let crash = machine.end(crash);
        self.hear(machine);
        crash
    }

    fn step(&mut self, machine: &mut Machine, plan: Option<(Place, Crash)>) -> Option<Crash> {
        let mut crash = None;
        match machine.dice.below(40) {
            0..=9 => self.publish(machine),
            10..=11 => self.repeat(machine),
            12..=19 => {
                crash = machine.write(plan);
                self.hear(machine);
            }
            20..=23 => machine.read(),
            24..=26 => machine.drain_a_socket(),
            27..=28 => {
                let ms = [1, 20, 150, 3_000][machine.dice.below(4) as usize];
                machine.pass(ms);
            }
            29 if machine.dice.chance(1, 4) => machine.jump(),
            30 if machine.dice.chance(1, 12) => machine.break_the_disk(),
            31 => self.disconnect(machine),
            32..=34 => self.plan(machine),
            35..=37 => self.work(machine),
            _ => self.come(machine),
        }
        self.hear(machine);
        crash
    }

    fn call(&mut self, machine: &mut Machine, who: usize, method: &str, params: &Value, call: Call) {
        self.call_once(machine, who, method, params, call, None);
    }

    fn call_once(
        &mut self,
        machine: &mut Machine,
        who: usize,
        method: &str,
        params: &Value,
        call: Call,
        key: Option<&str>,
    ) {
        let connection = match self.connections[who] {
            Some(connection) => connection,
            None => {
                let connection = machine.connect();
                self.connections[who] = Some(connection);
                let hello = json!({ "features": ["envelope", "int64"] });
                self.call(machine, who, "kernel.hello", &hello, Call::Hello);
                connection
            }
        };
        self.last_call += 1;
        self.calls.insert(self.last_call, (who, call));
        machine.call(connection, self.last_call, method, params, key);
        self.hear(machine);
    }

    fn publish(&mut self, machine: &mut Machine) {
        let number = self.drafts.len() as u64;
        let hold = [Hold::Memory, Hold::Log, Hold::Log, Hold::Disk][machine.dice.below(4) as usize];
        let key = machine.dice.chance(1, 2).then(|| format!("key {number}"));
        let mut params = json!({
            "type": format!("job.{}", number % 3), "data": { "n": number, "big": u64::MAX - number }, "ack": hold.word(),
        });
        if let Some(cause) = self.truth.some_id(machine.dice.next()) {
            params["causationId"] = cause.into();
        }
        self.drafts.push(Draft { key, hold, params, answered: None });
        self.send(machine, number);
    }

    fn send(&mut self, machine: &mut Machine, number: u64) {
        let Some(draft) = self.drafts.get(number as usize) else { return };
        let (params, key) = (draft.params.clone(), draft.key.clone());
        let who = PUBLISHERS[machine.dice.below(2) as usize];
        self.call_once(machine, who, "event.publish", &params, Call::Publish(number), key.as_deref());
    }

    /// Publishes something again that has a key.
    fn repeat(&mut self, machine: &mut Machine) {
        let keyed = |(_, draft): &(usize, &Draft)| draft.key.is_some();
        let all: Vec<usize> = self.drafts.iter().enumerate().filter(keyed).map(|(at, _)| at).collect();
        if let Some(number) = machine.dice.one_of(&all) {
            self.send(machine, *number as u64);
        }
    }

    fn disconnect(&mut self, machine: &mut Machine) {
        let who = machine.dice.below(ALL as u64) as usize;
        if let Some(connection) = self.connections[who].take() {
            machine.disconnect(connection);
            self.hear(machine);
            self.calls.retain(|_, (of, _)| *of != who);
            self.leave(who);
        }
    }

    /// What a connection had is over.
    fn leave(&mut self, who: usize) {
        if let Some(at) = FOLLOWERS.iter().position(|follower| *follower == who) {
            self.followers[at].subscription = None;
            self.followers[at].asked = false;
        }
        self.attached.remove(&who);
        self.in_hand.retain(|(worker, _)| *worker != who);
    }

    /// Somebody who isn't there comes, and goes on where it was.
    fn come(&mut self, machine: &mut Machine) {
        let at = machine.dice.below(2) as usize;
        if machine.dice.chance(1, 2) {
            if !std::mem::replace(&mut self.followers[at].asked, true) {
                let mut params = json!({ "topic": PATTERNS[at] });
                if self.followers[at].start.is_some() {
                    params["fromSeq"] = self.followers[at].next.into();
                }
                self.call(machine, FOLLOWERS[at], "subscribe", &params, Call::Subscribe(at));
            }
        } else if !self.is_created {
            let params = json!({
                "name": "c", "topic": "job.*", "fromSeq": 1, "ackWaitMs": 2_000, "maxDeliver": 1_000, "maxInFlight": 16,
            });
            self.call(machine, WORKERS[at], "consumer.create", &params, Call::Create);
        } else if self.attached.insert(WORKERS[at]) {
            self.call(machine, WORKERS[at], "consumer.attach", &json!({ "name": "c" }), Call::Attach);
        }
    }

    /// A worker answers something it has in hand.
    fn work(&mut self, machine: &mut Machine) {
        if self.in_hand.is_empty() {
            return;
        }
        let at = if self.is_diligent { 0 } else { machine.dice.below(self.in_hand.len() as u64) as usize };
        let (worker, seq) = self.in_hand.remove(at);
        let chance = if self.is_diligent { 0 } else { machine.dice.below(8) };
        let mut params = json!({ "name": "c", "seq": seq });
        match chance {
            0..=4 => {
                self.said.insert(seq);
                self.call(machine, worker, "consumer.ack", &params, Call::Ack(vec![seq]));
            }
            5 => {
                params["mode"] = "upTo".into();
                let about: Vec<u64> = self.delivered.iter().copied().filter(|one| *one <= seq).collect();
                self.said.extend(&about);
                self.call(machine, worker, "consumer.ack", &params, Call::Ack(about));
            }
            6 => {
                params["delayMs"] = [0, 0, 10, 400][machine.dice.below(4) as usize].into();
                self.call(machine, worker, "consumer.nak", &params, Call::Nothing);
            }
            // It forgets it.
            _ => {}
        }
    }

    /// The planner begins, ends or cancels an intent.
    fn plan(&mut self, machine: &mut Machine) {
        let some = machine.dice.one_of(&self.intents).cloned();
        match (machine.dice.below(5), some) {
            (0..=2, some) => {
                let mut params = json!({ "name": format!("intent {}", self.begun) });
                if let Some(parent) = some.filter(|_| self.begun.is_multiple_of(3)) {
                    params["parent"] = parent.into();
                }
                let key = format!("begin {}", self.begun);
                self.begun += 1;
                self.call_once(machine, PLANNER, "intent.begin", &params, Call::Begin, Some(&key));
            }
            (3, Some(intent)) => {
                let params = json!({ "intentId": intent });
                self.call(machine, PLANNER, "intent.end", &params, Call::End(intent));
            }
            (_, Some(intent)) => {
                let params = json!({ "intentId": intent });
                self.call(machine, PLANNER, "intent.cancel", &params, Call::Cancel(intent));
            }
            (_, None) => {}
        }
    }

    // What comes back

    fn hear(&mut self, machine: &mut Machine) {
        for arrival in machine.arrivals() {
            let who = self.connections.iter().position(|of| *of == Some(arrival.to));
            match (arrival.kind, who) {
                (Kind::RESPONSE, Some(who)) => self.answered(machine, who, &arrival),
                (Kind::EVENT, Some(who)) => self.told(machine, who, &arrival.payload),
                (_, None) => {}
                (kind, _) => panic!("a frame of kind {kind:?}"),
            }
        }
        if machine.take_synced() {
            self.truth.synced();
        }
    }

    fn answered(&mut self, machine: &Machine, who: usize, arrival: &Arrival) {
        let response = Response::read(&arrival.payload).expect("a response");
        let id = value(response.id).as_u64().expect("a number");
        let (_, call) = self.calls.remove(&id).expect("a call is answered once");
        match response.outcome.map(value) {
            // What has no place in a log that has failed is over as long as this kernel lives, and nobody says otherwise.
            Ok(_) if machine.is_broken() && matches!(call, Call::End(_) | Call::Cancel(_)) => {}
            Ok(result) => self.succeeded(who, call, &result),
            Err(error) => self.refused(machine, who, call, &error),
        }
    }

    fn succeeded(&mut self, who: usize, call: Call, result: &Value) {
        let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
        let seq = result["seq"].as_u64().unwrap_or_default();
        match call {
            Call::Publish(number) => self.published(number, seq, text("id")),
            Call::Subscribe(at) => {
                let follower = &mut self.followers[at];
                follower.subscription = Some(text("subscriptionId"));
                let next = result["nextSeq"].as_u64().expect("a place");
                if follower.start.is_none() {
                    (follower.start, follower.next) = (Some(next), next);
                }
            }
            Call::Create => self.is_created = true,
            Call::Attach => drop(self.attached.insert(who)),
            Call::Ack(about) if result["ok"] == true => {
                self.account.done += about.len() as u64;
                about.into_iter().for_each(|seq| self.truth.ack(seq));
            }
            Call::Begin => {
                self.account.begun += 1;
                self.truth.tell(seq, &text("intentId"), Hold::Log);
                self.intents.push(text("intentId"));
            }
            Call::End(intent) | Call::Cancel(intent) => {
                self.account.over += 1;
                self.truth.end(&intent);
            }
            Call::Open => {
                let all = result["intents"].as_array().cloned().unwrap_or_default();
                let ids = all.iter().filter_map(|one| one["intentId"].as_str());
                self.open = Some(ids.map(str::to_owned).collect());
            }
            Call::Replay => {
                let events = result["events"].as_array().cloned().unwrap_or_default();
                self.replayed.extend(events.iter().filter_map(|event| event["seq"].as_u64()));
                self.replay_next = result["next"].as_u64();
            }
            Call::Status => self.status = Some(result.clone()),
            Call::Hello | Call::Ack(_) | Call::Nothing => {}
        }
    }

    fn published(&mut self, number: u64, seq: u64, id: String) {
        let draft = &mut self.drafts[number as usize];
        self.account.acknowledged[draft.hold as usize] += 1;
        match &draft.answered {
            Some(first) => {
                self.account.repeated += 1;
                assert_eq!(*first, (seq, id), "one key, one event, one receipt");
            }
            None => draft.answered = Some((seq, id.clone())),
        }
        if draft.hold > Hold::Memory {
            let (_, id) = draft.answered.clone().unwrap_or_default();
            self.truth.tell(seq, &id, draft.hold);
        }
    }

    fn refused(&mut self, machine: &Machine, who: usize, call: Call, error: &CallError) {
        let code = error.info.as_ref().map(|info| info.code.clone()).unwrap_or_default();
        match (code.as_str(), call) {
            ("E_UNAVAILABLE", call) => {
                assert!(machine.is_broken(), "{call:?} is refused: {error:?}");
                if let Call::Subscribe(at) = call {
                    self.followers[at].asked = false;
                }
            }
            // An intent is over, or has open ones under it; a parent is over; somebody else has answered for the event.
            ("E_CONFLICT" | "E_NOT_FOUND" | "E_CANCELLED", Call::End(_) | Call::Cancel(_) | Call::Begin) => {}
            ("E_CONFLICT", Call::Ack(_) | Call::Nothing) => {}
            // Its creation was never acknowledged for good.
            ("E_NOT_FOUND", Call::Attach) => {
                self.is_created = false;
                self.attached.remove(&who);
            }
            ("E_NOT_FOUND", Call::Ack(_) | Call::Nothing | Call::Status) => {}
            (_, call) => panic!("{call:?} is refused: {error:?}"),
        }
    }

    fn told(&mut self, machine: &Machine, who: usize, payload: &[u8]) {
        let frame = EventFrame::parse(payload).expect("an event");
        let of = frame.subscription_id.as_deref().map(str::to_owned);
        if frame.payload.is_none() {
            let data = frame.data.map(value).unwrap_or_default();
            if frame.topic == "event.cut" {
                let at = FOLLOWERS.iter().position(|follower| *follower == who);
                if let Some(follower) = at.map(|at| &mut self.followers[at]) {
                    let seq = data["seq"].as_u64().expect("a place");
                    assert!(seq >= follower.next, "{seq} was told, and it is cut there");
                    (follower.subscription, follower.asked, follower.next) = (None, false, seq);
                } else {
                    self.attached.remove(&who);
                }
            }
            return;
        }
        // What a log that has failed does not take is told without a place.
        let Some(seq) = frame.seq.filter(|seq| *seq > 0) else {
            assert!(machine.is_broken());
            return;
        };
        let stored = machine.reader.get(seq).expect("the log is read").expect("what is told is in the log");
        let told = Told {
            seq,
            id: frame.id.as_deref().unwrap_or_default().to_owned(),
            topic: frame.topic.clone().into_owned(),
            causation: frame.causation_id.as_deref().map(str::to_owned),
            data: frame.payload.map(|data: RawRef<'_>| data.bytes().to_vec()).unwrap_or_default(),
        };
        assert_eq!(told, Told::of(&Record::parse(seq, &stored).expect("a record")), "it is told as it is");
        self.truth.tell(seq, &told.id, Hold::Log);
        if frame.delivery.is_some() {
            return self.brought(who, seq);
        }
        let Some(follower) = self.followers.iter_mut().find(|follower| follower.subscription == of) else {
            return;
        };
        assert!(seq >= follower.next, "{seq} is told again, or late: {} is next", follower.next);
        follower.next = seq + 1;
        follower.got.push(seq);
        self.account.told += 1;
    }

    /// A consumer's event.
    fn brought(&mut self, worker: usize, seq: u64) {
        self.account.delivered += 1;
        assert!(!self.truth.is_acked(seq), "{seq} is done, and comes again");
        if !self.delivered.contains(&seq) {
            let last = self.firsts.last().copied().unwrap_or_default();
            assert!(seq > last, "{seq} comes for the first time behind {last}");
            self.firsts.push(seq);
        }
        self.delivered.push(seq);
        self.in_hand.push((worker, seq));
    }

    // Between lives

    fn die(&mut self, crash: Crash, machine: &mut Machine) {
        self.account.crashes[crash as usize] += 1;
        machine.start_again();
        machine.look_at_the_audit();
        self.connections = [None; ALL];
        self.calls.clear();
        (0..ALL).for_each(|who| self.leave(who));
        self.delivered.clear();
        self.firsts.clear();
        self.is_created = false;
        let all = self.truth.survive(crash, machine);
        let numbers: BTreeSet<u64> = all.iter().filter_map(Told::number).collect();
        for (number, draft) in self.drafts.iter_mut().enumerate() {
            // What is gone may be published again, and what nobody was told of is anybody's guess.
            if draft.answered.is_some() && !numbers.contains(&(number as u64)) {
                assert!(
                    !draft.hold.survives(crash) || self.truth.is_gone(answered(draft)),
                    "{number} is lost"
                );
                self.account.lost += 1;
                draft.answered = None;
            }
        }
        self.look_at_intents(machine, &all);
    }

    fn look_at_intents(&mut self, machine: &mut Machine, all: &[Told]) {
        self.open = None;
        let params = json!({ "state": "open", "limit": 200 });
        self.call(machine, PLANNER, "intent.list", &params, Call::Open);
        let open = self.open.take().expect("a list is answered at once");
        self.truth.check_intents(&open, all);
    }

    /// The last kernel: everybody gets what is owed to them.
    fn finish(&mut self, machine: &mut Machine) {
        self.is_diligent = true;
        for round in 0.. {
            assert!(round < 3_000, "something is owed for ever: {:?}", self.status);
            self.come(machine);
            self.work(machine);
            assert!(machine.write(None).is_none());
            self.hear(machine);
            machine.read();
            machine.drain_a_socket();
            self.hear(machine);
            if round % 8 == 0 {
                machine.pass(500);
                self.hear(machine);
                self.call(machine, WORKERS[0], "consumer.status", &json!({ "name": "c" }), Call::Status);
            }
            let status = self.status.take().unwrap_or_default();
            let is_done = status["lag"] == 0 && status["pending"] == 0 && self.calls.is_empty();
            let follow = self.followers.iter().all(|follower| follower.subscription.is_some());
            if is_done && follow && machine.is_at_rest() {
                break;
            }
        }
        let all = self.truth.check(&machine.reader);
        for (follower, pattern) in self.followers.iter().zip(PATTERNS) {
            let start = follower.start.unwrap_or(u64::MAX);
            let wants =
                |event: &&Told| event.seq >= start && (pattern == ">" || event.topic.starts_with("job."));
            let expected: Vec<u64> = all.iter().filter(wants).map(|event| event.seq).collect();
            let got: Vec<u64> =
                follower.got.iter().copied().filter(|seq| !self.truth.is_gone(*seq)).collect();
            assert_eq!(got, expected, "{pattern} from {start}");
        }
        for event in all.iter().filter(|event| event.topic.starts_with("job.")) {
            assert!(self.said.contains(&event.seq), "{} was not brought until it was done", event.seq);
        }
        self.look_at_intents(machine, &all);
        self.replay(machine, &all);
        machine.walk();
    }

    /// Reads all of it, page by page.
    fn replay(&mut self, machine: &mut Machine, all: &[Told]) {
        self.replay_next = Some(1);
        while let Some(next) = self.replay_next.take() {
            let params = json!({ "fromSeq": next, "limit": 37 });
            self.call(machine, PLANNER, "event.replay", &params, Call::Replay);
            machine.read();
            self.hear(machine);
        }
        self.account.replayed += self.replayed.len() as u64;
        let expected: Vec<u64> = all.iter().map(|event| event.seq).collect();
        assert_eq!(self.replayed, expected, "a replay is the log");
    }
}

fn answered(draft: &Draft) -> u64 {
    draft.answered.as_ref().map_or(0, |(seq, _)| *seq)
}
