//! Everybody of a round who doesn't read: who starts a process and waits for its exit, who writes to it, who ends
//! it, and the one who listens to the bus.
//!
//! Each goes on over as many kernels as it takes. A call that may be sent twice is; after one that may not, the
//! kernel is asked what became of it.

use super::check::Wrong;
use super::line::{Answer, Caller, Cut, Line};
use super::loads::options_of;
use super::plan::{Exit, Input, Killer, Process, Writer};
use super::random::Random;
use super::stage::{GLANCE, Sabotage, Stage};
use super::ways;
use crate::child::question;
use crate::support::pattern;
use crate::support::raw::{EVENT, value};
use rmpv::Value;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long an answer is waited for that may be missing.
const LOST_ANSWER_PATIENCE: Duration = Duration::from_millis(300);

/// How long a restart may take, if it comes.
const REBIRTH_PATIENCE: Duration = Duration::from_millis(2_000);

/// How a spawn was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spawned {
    /// By the kernel that was asked.
    Surely,
    /// By a later one.
    Perhaps,
}

/// Who does something, to what.
#[derive(Clone, Copy)]
pub(crate) struct Actor<'a> {
    pub(crate) stage: &'a Stage,
    /// For `Stage::doing`.
    pub(crate) who: &'a str,
    /// The process.
    pub(crate) id: &'a str,
}

impl Actor<'_> {
    fn doing(&self, what: impl Into<String>) {
        self.stage.doing(self.who, what);
    }

    /// Starts the process once, and waits for its exit.
    pub(crate) fn live(&self, process: &Process, argv: &[String], marker: (&str, &str)) -> Result<(), Wrong> {
        std::thread::sleep(Duration::from_micros(process.after_us));
        let params = json!({"id": self.id, "command": argv, "options": options_of(process, marker)});
        let mut caller = Caller::new(self.stage);
        self.doing("spawns");
        self.stage.begins(self.id);
        if self.spawn(&mut caller, &params, process.keyed, process.lives)? == Spawned::Perhaps
            && process.lives > 1
        {
            // What its restarts need may have died with the kernel that did not answer.
            self.stage.may_stay_dead(self.id);
        }
        if self.stage.sabotages(Sabotage::Twice) {
            let mut twice = params.clone();
            twice["id"] = format!("{} again", self.id).into();
            self.spawn(&mut caller, &twice, false, 1)?;
        }
        self.stage.spawned(self.id);
        self.doing("waits for its exit");
        let reply = self.last_exit(&mut caller, process.lives)?;
        if self.stage.stays_dead(self.id) && reply["exitCode"] == 1 {
            return Ok(());
        }
        let mut expected = process.exit;
        if self.stage.sabotages(Sabotage::Exit) {
            expected = Exit::Code(99);
        }
        check_exit(&reply, expected)
    }

    /// The exit of its last life.
    fn last_exit(&self, caller: &mut Caller<'_>, lives: u64) -> Result<Json, Wrong> {
        let mut dead_since = Instant::now();
        loop {
            let asked = Instant::now();
            let reply = caller.must("process.wait", &json!({"id": self.id}))?;
            if lives == 1 || reply["exitCode"] != 1 || self.stage.stays_dead(self.id) {
                return Ok(reply);
            }
            self.stage.check()?;
            if asked.elapsed() > GLANCE * 20 {
                dead_since = Instant::now();
            } else if dead_since.elapsed() > REBIRTH_PATIENCE && self.stage.has_killed.load(Ordering::Relaxed)
            {
                // Its kernel died between a restart and the record of it: counted, and told at the end.
                self.stage.may_stay_dead(self.id);
                self.stage.not_reborn.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(GLANCE);
        }
    }

    fn spawn(
        &self,
        caller: &mut Caller<'_>,
        params: &Json,
        keyed: bool,
        lives: u64,
    ) -> Result<Spawned, Wrong> {
        let key = format!("spawn {}", self.id);
        let mut spawned = Spawned::Surely;
        loop {
            // Another life of it may be there, which doesn't know of the key.
            let is_reborn = |answer: &Answer| {
                spawned == Spawned::Perhaps
                    && answer.as_ref().is_err_and(|refusal| refusal.code == "E_ALREADY_EXISTS")
            };
            let wrong = match caller.once("process.spawn", value(params), keyed.then_some(key.as_str())) {
                Ok(Ok(reply)) if reply["status"] == "spawned" => return Ok(spawned),
                Ok(answer) if lives > 1 && is_reborn(&answer) => return Ok(spawned),
                Ok(other) => Err(format!("spawn was answered {other:?}")),
                Err(Cut::Wrong(wrong)) => Err(wrong),
                Err(Cut::Lost) => Ok(()),
            };
            wrong?;
            spawned = Spawned::Perhaps;
            if !keyed {
                let status = caller.must("process.status", &json!({"id": self.id}))?;
                if status["state"] != "unknown" {
                    return Ok(spawned);
                }
            }
        }
    }

    /// Ends it.
    pub(crate) fn kill(&self, plan: Killer) -> Result<(), Wrong> {
        self.doing("waits to kill");
        self.stage.until(|| self.stage.is_spawned(self.id))?;
        std::thread::sleep(Duration::from_micros(plan.after_us));
        self.stage.until(|| !plan.after_output || self.stage.seen(self.id).0 > 0)?;
        self.doing("kills");
        let params = json!({"id": self.id, "signal": plan.signal, "graceMs": plan.grace_ms});
        Caller::new(self.stage).must("process.kill", &params).map(drop)
    }

    /// Writes everything, each byte once.
    pub(crate) fn write(&self, plan: &Writer) -> Result<(), Wrong> {
        let all = plan.input.bytes();
        if plan.by_path {
            return ways::write(self.stage, self.who, self.id, plan, &all);
        }
        self.stage.until(|| self.stage.is_spawned(self.id))?;
        let mut caller = Caller::new(self.stage);
        let mut random = Random::new(plan.seed);
        let mut at = 0;
        let mut writes = 0_u64;
        while at < all.len() {
            self.doing(format!("writes, at {at} of {}", all.len()));
            let end = self.next_end(plan, &all, at, &mut random)?;
            let key = random.chance(plan.keyed_percent, 100).then(|| format!("write {} {writes}", self.id));
            writes += 1;
            at = self.write_one(&mut caller, at, &all[at..end], key.as_deref())?;
            if self.stage.sabotages(Sabotage::Written) {
                self.write_one(&mut caller, at, &all[..end], None)?;
            }
            if plan.pause_us > 0 {
                self.stage.dawdle(Duration::from_micros(plan.pause_us));
            }
        }
        self.doing("closes stdin");
        if matches!(plan.input, Input::Sequence(_)) { self.close(&mut caller) } else { Ok(()) }
    }

    /// Where the next write ends.
    fn next_end(&self, plan: &Writer, all: &[u8], at: usize, random: &mut Random) -> Result<usize, Wrong> {
        let Input::Questions { in_step, .. } = plan.input else {
            return Ok(all.len().min(at + random.within(1..=plan.write_bytes) as usize));
        };
        // The greeting is the first answer; then one before each question, if they are in step.
        let asked = all[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        let wanted = if in_step { asked + 1 } else { 1 };
        let begun = Instant::now();
        let is_given_up = || self.stage.is_doubted(self.id) && begun.elapsed() > LOST_ANSWER_PATIENCE;
        self.stage.until(|| self.stage.seen(self.id).1 >= wanted || is_given_up())?;
        let end = all[at..].iter().position(|byte| *byte == b'\n').map_or(all.len(), |end| at + end + 1);
        Ok(end)
    }

    /// Writes one piece. Returns how far stdin has come: all of the piece, or what a dead kernel had taken of it.
    fn write_one(
        &self,
        caller: &mut Caller<'_>,
        at: usize,
        piece: &[u8],
        key: Option<&str>,
    ) -> Result<usize, Wrong> {
        let params =
            Value::Map(vec![("id".into(), self.id.into()), ("data".into(), Value::Binary(piece.into()))]);
        let end = at + piece.len();
        let mut is_resent = false;
        loop {
            match caller.once("process.stdin.write", params.clone(), key) {
                Ok(Ok(reply)) if reply["offset"] == end => return Ok(end),
                Ok(Ok(reply)) => return Err(format!("a write of [{at}, {end}) was answered {reply}")),
                // It had gone in, and the child, which checks what it reads, has gone since.
                Ok(Err(refusal)) if is_resent && refusal.code == "E_STDIN_CLOSED" => return Ok(end),
                Ok(Err(refusal)) => return Err(format!("a write of [{at}, {end}): {refusal:?}")),
                Err(Cut::Wrong(wrong)) => return Err(wrong),
                Err(Cut::Lost) if key.is_some() => {
                    is_resent = true;
                    self.stage.resent.fetch_add(1, Ordering::Relaxed);
                }
                Err(Cut::Lost) => return self.taken(caller, at, end),
            }
        }
    }

    /// How much the kernel has of what may have reached it.
    fn taken(&self, caller: &mut Caller<'_>, at: usize, end: usize) -> Result<usize, Wrong> {
        let status = caller.must("process.status", &json!({"id": self.id, "detail": true}))?;
        if status["state"] == "exited" {
            // The child, which checks what it reads, has read all it wanted; what it had is not remembered.
            return Ok(end);
        }
        let stdin = &status["detail"]["stdin"];
        let number =
            |name: &str| stdin[name].as_u64().ok_or_else(|| format!("no {name} of stdin in {status}"));
        let taken = (number("bytes")? + number("parkedBytes")?) as usize;
        if (at..=end).contains(&taken) {
            Ok(taken)
        } else {
            Err(format!("stdin is at {taken}, after {at} were acknowledged and {end} sent"))
        }
    }

    fn close(&self, caller: &mut Caller<'_>) -> Result<(), Wrong> {
        match caller.insist("process.stdin.close", &json!({"id": self.id}))? {
            Ok(_) => Ok(()),
            // It was closed by the kernel that died before it could say so.
            Err(refusal) if refusal.code == "E_STDIN_CLOSED" => Ok(()),
            Err(refusal) => Err(format!("stdin could not be closed: {refusal:?}")),
        }
    }
}

impl Input {
    fn bytes(self) -> Vec<u8> {
        match self {
            Input::Sequence(bytes) => pattern::bytes(0, bytes as usize),
            Input::Questions { count, .. } => {
                (0..count).flat_map(|number| format!("{}\n", question(number)).into_bytes()).collect()
            }
        }
    }
}

/// The answer to a wait says so.
pub(crate) fn check_exit(reply: &Json, expected: Exit) -> Result<(), Wrong> {
    let apart = match expected {
        Exit::Code(code) => reply["exit"]["code"] == code,
        Exit::Signal(signal) => reply["exit"]["signal"] == signal,
    };
    if reply["exitCode"] == expected.v1_code() && apart {
        Ok(())
    } else {
        Err(format!("it ended with {reply}, and {expected:?} was to be"))
    }
}

/// Listens to the bus until the round is over: no kernel tells an exit twice.
pub(crate) fn observe(stage: &Stage, who: &str) -> Result<(), Wrong> {
    loop {
        match observe_one_line(stage, who) {
            Ok(()) => return Ok(()),
            Err(Cut::Lost) => {}
            Err(Cut::Wrong(wrong)) => return Err(wrong),
        }
    }
}

fn observe_one_line(stage: &Stage, who: &str) -> Result<(), Cut> {
    stage.doing(who, "connects");
    let mut line = Line::open(stage, None)?;
    let params = json!({"topic": "kairo.process.exited"});
    match line.call("subscribe", &params, None)? {
        Ok(_) => {}
        Err(refusal) if refusal.info["retryable"] == true => return Err(Cut::Lost),
        Err(refusal) => return Err(Cut::Wrong(format!("subscribe {params}: {refusal:?}"))),
    }
    stage.doing(who, "listens");
    let mut heard = BTreeSet::new();
    while !stage.is_over.load(Ordering::Relaxed) {
        stage.check()?;
        let Some(frame) = line.next()? else { continue };
        let event = if frame.kind == EVENT { frame.json() } else { Json::Null };
        if event["topic"] != "kairo.process.exited" {
            continue;
        }
        let session = event["payload"]["session"].as_str().unwrap_or_default();
        let is_first = stage.exit_told(session);
        let is_again = !heard.insert(session.to_owned()) || stage.sabotages(Sabotage::Told);
        if is_again {
            return Err(Cut::Wrong(format!("a kernel told an exit twice: {event}")));
        }
        if !is_first {
            // Its kernel died between telling it and having the keeper note that.
            stage.told_again.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
