//! Everybody of a round who has to do with the log: who publishes, who follows, who works events off, who begins intents and
//! has them cancelled.
//!
//! Each goes on over as many kernels as it takes, as in `actors`. What a publisher was told and what is in the log is
//! compared at the end (`ledger`); the others compare what they saw themselves.

use super::check::Wrong;
use super::kernel::MARKER;
use super::ledger::{Event, pages};
use super::line::{Answer, Caller, Cut, Line, Meta};
use super::plan::{Consumer, Intents, Publisher};
use super::random::Random;
use super::stage::{Acked, Sabotage, Stage};
use crate::support::raw::{EVENT, Refusal, value};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long an event may be without an answer of a worker, milliseconds: a lost one comes again soon.
const ACK_WAIT_MS: u64 = 300;
/// How long the consumer listens for what may not come any more.
const AFTERTHOUGHT: Duration = Duration::from_millis(20);

/// Who does something with events of a round.
#[derive(Clone, Copy)]
pub(crate) struct Doer<'a> {
    pub(crate) stage: &'a Stage,
    /// For `Stage::doing`, and what its events and processes are called after.
    pub(crate) who: &'a str,
    /// Events of the round are of types that begin so.
    pub(crate) topic: &'a str,
}

/// Calls until a kernel answers; a loss is followed by the same call under the same key.
fn keyed(
    caller: &mut Caller<'_>,
    method: &str,
    params: &Json,
    intent: Option<&str>,
    key: &str,
) -> Result<Answer, Wrong> {
    let meta = Meta { key: Some(key), intent };
    loop {
        match caller.once_with(method, value(params), meta) {
            Ok(answer) => return Ok(answer),
            Err(Cut::Lost) => {}
            Err(Cut::Wrong(wrong)) => return Err(wrong),
        }
    }
}

fn succeeds(method: &str, answer: Answer) -> Result<Json, Wrong> {
    answer.map_err(|refusal| format!("{method}: {refusal:?}"))
}

impl Doer<'_> {
    fn doing(&self, what: impl Into<String>) {
        self.stage.doing(self.who, what);
    }

    /// Publishes its events, each once.
    pub(crate) fn publish(&self, plan: &Publisher) -> Result<(), Wrong> {
        let mut random = Random::new(plan.seed);
        let mut caller = Caller::new(self.stage);
        let mut last = None;
        for number in 0..plan.count {
            self.doing(format!("publishes {number} of {}", plan.count));
            let ack = if random.chance(plan.disk_percent, 100) { "disk" } else { "log" };
            let key = random.chance(plan.keyed_percent, 100).then(|| format!("{} {number}", self.who));
            let mut draft = json!({
                "type": format!("{}{}", self.topic, number % 3), "data": {"who": self.who, "n": number}, "ack": ack,
            });
            if let Some(cause) = last.take().filter(|_| random.chance(1, 2)) {
                draft["causationId"] = cause;
            }
            if self.stage.sabotages(Sabotage::Cause) {
                draft["causationId"] = "nobody".into();
            }
            if self.stage.sabotages(Sabotage::Unlogged) {
                self.stage.acked(self.who, number, Acked { seq: 1, id: "nothing".to_owned() });
                continue;
            }
            if let Some(acked) = self.one(&mut caller, &draft, key.as_deref())? {
                last = Some(acked.id.clone().into());
                self.stage.acked(self.who, number, acked);
            }
            if self.stage.sabotages(Sabotage::Published) {
                self.one(&mut caller, &draft, None)?;
            }
            if plan.pause_us > 0 {
                self.stage.dawdle(Duration::from_micros(plan.pause_us));
            }
        }
        self.stage.published(self.who);
        Ok(())
    }

    /// Publishes one. None if nobody knows: its answer was lost, and it has no key.
    fn one(&self, caller: &mut Caller<'_>, draft: &Json, key: Option<&str>) -> Result<Option<Acked>, Wrong> {
        let answer = match key {
            Some(key) => keyed(caller, "event.publish", draft, None, key)?,
            None => match caller.once("event.publish", value(draft), None) {
                Ok(answer) => answer,
                Err(Cut::Lost) => return Ok(None),
                Err(Cut::Wrong(wrong)) => return Err(wrong),
            },
        };
        let reply = succeeds("event.publish", answer)?;
        let id = reply["id"].as_str().map(str::to_owned);
        match reply["seq"].as_u64().zip(id) {
            Some((seq, id)) => Ok(Some(Acked { seq, id })),
            None => Err(format!("event.publish was answered {reply}")),
        }
    }

    /// Follows the round's events until the last that was acknowledged; then what it saw is what the log has.
    pub(crate) fn follow(&self, from_the_first: bool) -> Result<(), Wrong> {
        let mut following = Following { start: from_the_first.then_some(1), next: 1, seen: Vec::new() };
        loop {
            match self.follow_one_kernel(&mut following) {
                Ok(()) => break,
                Err(Cut::Lost) => {}
                Err(Cut::Wrong(wrong)) => return Err(wrong),
            }
        }
        self.doing("reads it all again");
        let Following { start, next, seen } = following;
        let (start, mut all) = (start.unwrap_or(1), Vec::new());
        pages(self.stage, start, Some(&format!("{}*", self.topic)), |event| {
            all.push(event.seq);
            Ok(())
        })?;
        all.retain(|seq| (start..next).contains(seq));
        if all == seen {
            return Ok(());
        }
        let missed: Vec<&u64> = all.iter().filter(|seq| !seen.contains(seq)).collect();
        Err(format!("of the events from {start} to {next} it missed {missed:?}"))
    }

    fn follow_one_kernel(&self, following: &mut Following) -> Result<(), Cut> {
        self.doing(format!("subscribes from {}", following.next));
        let mut line = Line::open(self.stage, None)?;
        let mut params = json!({"topic": format!("{}*", self.topic)});
        if following.start.is_some() {
            params["fromSeq"] = following.next.into();
        }
        let reply = is_there(line.call("subscribe", &params, None)?)?;
        if following.start.is_none() {
            let next = reply["nextSeq"].as_u64().unwrap_or_default();
            (following.start, following.next) = (Some(next), next);
        }
        self.doing("follows");
        while !self.stage.is_all_published() || following.next <= self.stage.last_acked() {
            self.stage.check()?;
            let Some(event) = event_of(&mut line)? else { continue };
            if self.stage.sabotages(Sabotage::Missed) {
                continue;
            }
            let times = 1 + u8::from(self.stage.sabotages(Sabotage::Heard));
            for _ in 0..times {
                following.take(&event)?;
            }
        }
        Ok(())
    }

    /// Works off a durable consumer of the round's events: until everything that was acknowledged is done.
    pub(crate) fn consume(&self, plan: &Consumer) -> Result<(), Wrong> {
        let name = format!("{}.{}", self.topic, self.who);
        let params = json!({
            "name": name, "topic": format!("{}*", self.topic), "fromSeq": 1, "ackWaitMs": ACK_WAIT_MS, "maxDeliver": 1000,
            "maxInFlight": plan.in_flight_max,
        });
        let mut caller = Caller::new(self.stage);
        caller.must("consumer.create", &params)?;
        let mut random = Random::new(plan.seed);
        let mut work = Work { name, plan, done: BTreeMap::new(), doubted: BTreeSet::new() };
        loop {
            match self.work_for_one_kernel(&mut work, &mut random) {
                Ok(()) => break,
                Err(Cut::Lost) => {}
                Err(Cut::Wrong(wrong)) => return Err(wrong),
            }
        }
        match caller.insist("consumer.delete", &json!({"name": work.name}))? {
            Ok(_) => Ok(()),
            // By the kernel that died before it could say so.
            Err(refusal) if refusal.code == "E_NOT_FOUND" => Ok(()),
            Err(refusal) => Err(format!("consumer.delete: {refusal:?}")),
        }
    }

    fn work_for_one_kernel(&self, work: &mut Work<'_>, random: &mut Random) -> Result<(), Cut> {
        self.doing("attaches");
        let mut line = Line::open(self.stage, None)?;
        is_there(line.call("consumer.attach", &json!({"name": work.name}), None)?)?;
        self.doing("works");
        work.done.values_mut().for_each(|come| *come = 0);
        let mut rested = None;
        loop {
            self.stage.check()?;
            let Some(event) = event_of(&mut line)? else {
                // What is done must not come again: a moment for that.
                let is_known = |seq: u64| work.done.contains_key(&seq) || work.doubted.contains(&seq);
                let is_done = self.stage.is_all_published() && self.stage.is_all_acked(is_known);
                let since = *rested.get_or_insert_with(Instant::now);
                if is_done && since.elapsed() > AFTERTHOUGHT {
                    let name = json!({"name": work.name});
                    if is_there(line.call("consumer.status", &name, None)?)?["pending"] == 0 {
                        return Ok(());
                    }
                }
                continue;
            };
            rested = None;
            self.work_on(&mut line, work, &event, random)?;
        }
    }

    fn work_on(
        &self,
        line: &mut Line<'_>,
        work: &mut Work<'_>,
        event: &Event,
        random: &mut Random,
    ) -> Result<(), Cut> {
        let seq = event.seq;
        if work.done.get(&seq).is_some_and(|come| line.given > *come) {
            let (come, now) = (work.done.get(&seq), line.given);
            return Err(Cut::Wrong(format!(
                "{seq} is done, which was said when {come:?} frames had come, and was delivered again as frame {now}"
            )));
        }
        let (nak, ignored) = (work.plan.nak_percent, work.plan.ignored_percent);
        let answer = match random.within(0..=99) {
            chance if chance < nak => {
                line.call("consumer.nak", &json!({"name": work.name, "seq": seq, "delayMs": 5}), None)?
            }
            chance if chance < nak + ignored => return Ok(()),
            _ if self.stage.sabotages(Sabotage::Redone) => {
                work.done.insert(seq, 0);
                return Ok(());
            }
            _ => {
                work.doubted.insert(seq);
                let answer = line.call("consumer.ack", &json!({"name": work.name, "seq": seq}), None)?;
                if answer.is_ok() {
                    work.done.insert(seq, line.come());
                }
                answer
            }
        };
        is_there(answer).map(drop)
    }

    /// Begins an intent with one under it and another beside it, starts processes under all, and has the first cancelled.
    pub(crate) fn intend(&self, plan: &Intents, argv: &[String], marker: &str) -> Result<(), Wrong> {
        let mut caller = Caller::new(self.stage);
        self.doing("begins");
        let begin = |caller: &mut Caller<'_>, name: &str, parent: Option<&str>| {
            let mut params = json!({"name": name});
            if let Some(parent) = parent {
                params["parent"] = parent.into();
            }
            let key = format!("{} {name}", self.who);
            let reply = succeeds("intent.begin", keyed(caller, "intent.begin", &params, None, &key)?)?;
            Ok::<String, Wrong>(reply["intentId"].as_str().unwrap_or_default().to_owned())
        };
        let top = begin(&mut caller, "top", None)?;
        let below = begin(&mut caller, "below", Some(&top))?;
        let beside = begin(&mut caller, "beside", None)?;
        let mut under = BTreeMap::new();
        for number in 0..plan.processes {
            let id = format!("{}.{number}", self.who);
            let intent = [&top, &below, &beside][number as usize % 3];
            let is_spared = intent != &beside && self.stage.sabotages(Sabotage::Spared);
            self.doing(format!("spawns {id}"));
            let params = json!({
                "id": id, "command": argv, "options": {"stdin": "null", "env": {MARKER: marker}},
            });
            let of = (!is_spared).then_some(intent.as_str());
            succeeds("process.spawn", keyed(&mut caller, "process.spawn", &params, of, &id)?)?;
            under.insert(id, intent == &beside);
        }
        std::thread::sleep(Duration::from_micros(plan.after_us));
        self.doing("cancels");
        let params = json!({"intentId": top, "reason": "enough", "graceMs": plan.grace_ms});
        let receipt = caller.must("intent.cancel", &params)?;
        let again = caller.must("intent.cancel", &json!({"intentId": top}))?;
        if receipt != again || receipt["left"] != 0 {
            return Err(format!("a cancel was answered {receipt}, and then {again}"));
        }
        self.check_cancelled(&mut caller, &under)?;
        self.end(&mut caller, &beside, &under)?;
        let last = caller.must("intent.cancel", &json!({"intentId": top}))?;
        if last == receipt { Ok(()) } else { Err(format!("{receipt} became {last}")) }
    }

    /// All that was under the cancelled intent is gone, and nothing else is.
    fn check_cancelled(&self, caller: &mut Caller<'_>, under: &BTreeMap<String, bool>) -> Result<(), Wrong> {
        for (id, is_beside) in under {
            if *is_beside && self.stage.sabotages(Sabotage::Touched) {
                caller.must("process.kill", &json!({"id": id, "signal": "KILL"}))?;
                caller.must("process.wait", &json!({"id": id}))?;
            }
            let status = caller.must("process.status", &json!({"id": id, "detail": true}))?;
            let is_running = status["state"] == "running";
            if is_running != *is_beside {
                return Err(format!("after the cancel {id} is {status}"));
            }
            let cause = &status["detail"]["exit"]["endedBy"]["cause"];
            if !is_beside && cause != "cancel" {
                return Err(format!("{id} was cancelled, and ended by {cause}: {status}"));
            }
        }
        Ok(())
    }

    /// Ends what was not cancelled.
    fn end(
        &self,
        caller: &mut Caller<'_>,
        beside: &str,
        under: &BTreeMap<String, bool>,
    ) -> Result<(), Wrong> {
        self.doing("ends the other");
        let status = caller.must("intent.status", &json!({"intentId": beside}))?;
        if status["state"] != "open" {
            return Err(format!("the other intent is {status}"));
        }
        for id in under.iter().filter(|(_, is_beside)| **is_beside).map(|(id, _)| id) {
            caller.must("process.kill", &json!({"id": id, "signal": "KILL"}))?;
            caller.must("process.wait", &json!({"id": id}))?;
        }
        caller.must("intent.end", &json!({"intentId": beside, "summary": "done"})).map(drop)
    }
}

/// How far somebody has come who follows.
struct Following {
    /// None until it has once been subscribed.
    start: Option<u64>,
    next: u64,
    seen: Vec<u64>,
}

impl Following {
    fn take(&mut self, event: &Event) -> Result<(), Wrong> {
        if event.seq < self.next {
            return Err(format!("{} was told again, or late: {} was next", event.seq, self.next));
        }
        self.next = event.seq + 1;
        self.seen.push(event.seq);
        Ok(())
    }
}

/// How far somebody has come who works.
struct Work<'p> {
    name: String,
    plan: &'p Consumer,
    /// Done, and how many frames had come on this line when that was answered: those were sent before.
    done: BTreeMap<u64, u64>,
    /// Said to be done, to a kernel that may not have heard it.
    doubted: BTreeSet<u64>,
}

/// The next event that comes; none if none did for a moment. A kernel that cuts a subscription is left.
fn event_of(line: &mut Line<'_>) -> Result<Option<Event>, Cut> {
    let Some(frame) = line.next()?.filter(|frame| frame.kind == EVENT) else { return Ok(None) };
    let frame = frame.json();
    if frame["topic"] == "event.cut" {
        return Err(Cut::Lost);
    }
    Ok(Event::of(&frame))
}

fn is_there(answer: Answer) -> Result<Json, Cut> {
    answer.map_err(|refusal: Refusal| match refusal.info["retryable"] == true {
        true => Cut::Lost,
        false => Cut::Wrong(format!("{refusal:?}")),
    })
}
