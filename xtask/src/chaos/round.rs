//! One round: the load starts, kernels die, and at the end everything is asked for.
//!
//! ```text
//! actors (one thread each): ──spawn──read──write──wait──────────────────────▶ all done
//! kills (this thread):      ────✝──✝────✝──── released                          │
//!                                                      ended ─▶ ✝? ─▶ audit ◀──┘
//! ```
//!
//! Not here: what actors do (`actors`, `reader`), what is left afterwards (`census`).

use super::actors::{Actor, check_exit, observe};
use super::census::{Census, Past};
use super::check::Wrong;
use super::deeds::Doer;
use super::flows;
use super::kernel::{Home, MARKER};
use super::line::Caller;
use super::outlets;
use super::plan::{Deed, Kill, Mode, Pace, Plan, Policy, Process, Reader, Script, When};
use super::produced;
use super::reader::Reading;
use super::stage::{GIVEN_UP, Sabotage, Stage};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// A round in which nothing happens for so long hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Output of this length is kept whole: the head of every history is larger.
const SHORT_BYTES: u64 = 64 * 1024;
/// How long a kill waits for what it is to come after, if the load is over or stands still.
const KILL_PATIENCE: Duration = Duration::from_millis(250);

/// What came of a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) kills: Kills,
    pub(crate) processes: u64,
    pub(crate) readers: u64,
    pub(crate) bytes: u64,
    pub(crate) reconnections: u64,
    pub(crate) resent: u64,
    pub(crate) terminal_gap_bytes: u64,
    pub(crate) relay_gap_bytes: u64,
    pub(crate) dropped_bytes: u64,
    pub(crate) exits_told: u64,
    pub(crate) told_again: u64,
    pub(crate) not_reborn: u64,
    /// Kernels that were refused a state in use.
    pub(crate) rivals: u64,
    /// The longest a kernel took to be ready.
    pub(crate) ready: Duration,
    pub(crate) time: Duration,
    pub(crate) census: Census,
    /// What is wrong: who says so, and what.
    pub(crate) violations: Vec<(String, Wrong)>,
    /// What everybody was doing when it was found out.
    pub(crate) doings: BTreeMap<String, String>,
}

/// How kernels ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kills {
    /// At some time, ready or not.
    pub(crate) timed: u64,
    /// In the middle of their start.
    pub(crate) starting: u64,
    /// In order, leaving everything to the next.
    pub(crate) asked: u64,
    /// At a point, by name.
    pub(crate) points: BTreeMap<String, u64>,
    /// At a time, as they never came by their point.
    pub(crate) missed: u64,
}

impl Kills {
    pub(crate) fn total(&self) -> u64 {
        self.timed + self.starting + self.asked + self.missed + self.points.values().sum::<u64>()
    }
}

/// What a round needs besides its plan.
pub(crate) struct Props<'a> {
    /// Program and first arguments of a child.
    pub(crate) child: &'a [String],
    /// The round's number in its folder: its processes' ids begin with it.
    pub(crate) number: u64,
    pub(crate) sabotage: Option<Sabotage>,
    /// At the end, what is kept of each output is read again.
    pub(crate) rereads: bool,
    pub(crate) baseline: &'a Census,
    /// What there was over this state, this round included.
    pub(crate) past: Past,
}

/// Runs it.
pub(crate) fn run(home: &mut Home, plan: &Plan, props: &Props<'_>) -> Report {
    // What is wrong on purpose need not be waited for.
    let patience = if props.sabotage.is_some() { PATIENCE / 20 } else { PATIENCE };
    let stage = Stage::new(home.socket(), patience, props.sabotage);
    let mut report = Report { processes: plan.all_processes() as u64, ..Report::default() };
    let readers = |process: &Process| (process.readers.len() + process.outlets.len()) as u64;
    report.readers = plan.processes.iter().map(readers).sum();
    let ids: Vec<String> =
        plan.processes.iter().map(|process| format!("r{}.{}", props.number, process.name)).collect();
    let played = std::thread::scope(|scope| {
        let cast = Cast { home, stage: &stage, props };
        cast.play(scope, plan, &ids, &mut report)
    });
    report.violations.extend(played.err().map(|wrong| ("round".to_owned(), wrong)));
    if report.violations.is_empty() {
        match Census::settled(home, props.baseline, props.past, patience / 4) {
            Ok(census) => report.census = census,
            Err(wrong) => report.violations.push(("census".to_owned(), wrong)),
        }
    }
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    report.bytes = count(&stage.bytes);
    report.reconnections = count(&stage.reconnections);
    report.resent = count(&stage.resent);
    report.terminal_gap_bytes = count(&stage.terminal_gap_bytes);
    report.relay_gap_bytes = count(&stage.relay_gap_bytes);
    report.dropped_bytes = count(&stage.dropped_bytes);
    report.not_reborn = count(&stage.not_reborn);
    report.told_again = count(&stage.told_again);
    report.exits_told = stage.exits_told();
    report.doings = stage.doings();
    report.time = stage.begun.elapsed();
    report
}

/// Everybody of a round.
struct Cast<'e, 'p> {
    home: &'e mut Home,
    stage: &'e Stage,
    props: &'p Props<'p>,
}

/// What an actor who doesn't read does.
type Act<'e> = Box<dyn FnOnce(Actor<'_>) -> Result<(), Wrong> + Send + 'e>;
type Handle<'scope> = (String, ScopedJoinHandle<'scope, Result<(), Wrong>>);

impl<'e> Cast<'e, 'e> {
    fn play<'scope>(
        mut self,
        scope: &'scope Scope<'scope, 'e>,
        plan: &'e Plan,
        ids: &'e [String],
        report: &mut Report,
    ) -> Result<(), Wrong> {
        let stage = self.stage;
        if let Some(Kill { when: When::Point(point, nth), cores, .. }) = plan.kills.first() {
            self.home.kill()?;
            self.home.start(*cores, Some(&format!("{point}:{nth}")))?;
        }
        let observer = start(scope, stage, "observer".to_owned(), move || observe(stage, "observer"));
        // So that it hears of every exit, if the first kernel lives so long.
        self.patiently(|_| stage.doings().get("observer").is_some_and(|doing| doing == "listens"))?;
        let mut handles = Vec::new();
        for (process, id) in plan.processes.iter().zip(ids) {
            self.enter(scope, process, id, &mut handles);
        }
        self.enter_deeds(scope, plan, &mut handles);
        self.sabotage();
        let played = self.kills(plan, report).and_then(|()| {
            stage.is_released.store(true, Ordering::Relaxed);
            self.wait_for(&handles)
        });
        let audited = played.and_then(|()| self.audit(plan, ids, report));
        if audited.is_err() {
            stage.fail();
        }
        stage.is_released.store(true, Ordering::Relaxed);
        stage.is_over.store(true, Ordering::Relaxed);
        handles.push(observer);
        for (who, handle) in handles {
            let wrong = match handle.join() {
                Ok(result) => result.err(),
                Err(panic) => Some(format!("panicked: {:?}", panic.downcast_ref::<String>())),
            };
            report.violations.extend(wrong.filter(|wrong| wrong != GIVEN_UP).map(|wrong| (who, wrong)));
        }
        audited.or_else(|wrong| if wrong == GIVEN_UP { Ok(()) } else { Err(wrong) })
    }

    /// Starts the actors of a process.
    fn enter<'scope>(
        &self,
        scope: &'scope Scope<'scope, 'e>,
        process: &'e Process,
        id: &'e str,
        handles: &mut Vec<Handle<'scope>>,
    ) {
        let stage = self.stage;
        let mut argv = [self.props.child, &process.role[..]].concat();
        argv.extend(["--birth".to_owned(), birth(self.home.path(), id)]);
        if process.witness {
            argv.extend(["--witness".to_owned(), witness(self.home.path(), id)]);
        }
        let marker = self.home.marker();
        for (at, reader) in process.readers.iter().enumerate() {
            let who = format!("{id} reader {at}");
            let name = who.clone();
            let read = move || Reading::new(stage, &name, id, process, *reader).run().map(drop);
            handles.push(start(scope, stage, who, read));
        }
        if !process.outlets.is_empty() {
            let who = format!("{id} outlets");
            let name = who.clone();
            handles.push(start(scope, stage, who, move || outlets::take(stage, &name, id, process)));
        }
        let mut act = |role: &str, act: Act<'e>| {
            let who = format!("{id} {role}");
            let name = who.clone();
            handles.push(start(scope, stage, who, move || act(Actor { stage, who: &name, id })));
        };
        act("life", Box::new(move |actor| actor.live(process, &argv, (MARKER, &marker))));
        if let Some(writer) = &process.writer {
            act("writer", Box::new(|actor| actor.write(writer)));
        }
        if let Some(killer) = process.killer {
            act("killer", Box::new(move |actor| actor.kill(killer)));
        }
    }

    /// Starts those who have to do with the log.
    fn enter_deeds<'scope>(
        &self,
        scope: &'scope Scope<'scope, 'e>,
        plan: &'e Plan,
        handles: &mut Vec<Handle<'scope>>,
    ) {
        let stage = self.stage;
        // So that nobody who follows takes the first that is done for the last.
        let who = |name: &str| format!("r{}.{name}", self.props.number);
        for (name, _) in plan.deeds.iter().filter(|(_, deed)| matches!(deed, Deed::Publish(_))) {
            stage.publishes(&who(name));
        }
        for (name, deed) in &plan.deeds {
            let (who, topic) = (who(name), format!("chaos.r{}.", self.props.number));
            let (name, marker) = (who.clone(), self.home.marker());
            let child = self.props.child;
            let act = move || {
                let doer = Doer { stage, who: &name, topic: &topic };
                match deed {
                    Deed::Publish(publisher) => doer.publish(publisher),
                    Deed::Follow { from_the_first } => doer.follow(*from_the_first),
                    Deed::Consume(consumer) => doer.consume(consumer),
                    Deed::Pipe(pipeline) => flows::join(stage, &name, pipeline, child, &marker),
                    Deed::Produce(producer) => produced::produce(stage, &name, *producer),
                    Deed::Intend(intents) => {
                        doer.intend(intents, &[child, &intents.role[..]].concat(), &marker)
                    }
                }
            };
            handles.push(start(scope, stage, who, act));
        }
    }

    /// Kills one kernel after the other, as planned. The last one is left alive.
    fn kills(&mut self, plan: &Plan, report: &mut Report) -> Result<(), Wrong> {
        let total = plan.bytes();
        for (at, kill) in plan.kills.iter().enumerate() {
            let next = plan.kills.get(at + 1);
            self.one_kill(kill, next, total, report)?;
        }
        self.home.wait_until_ready(false)?;
        report.ready = report.ready.max(self.home.ready_after().unwrap_or_default());
        Ok(())
    }

    fn one_kill(
        &mut self,
        kill: &Kill,
        next: Option<&Kill>,
        total: u64,
        report: &mut Report,
    ) -> Result<(), Wrong> {
        let stage = self.stage;
        stage.has_killed.store(true, Ordering::Relaxed);
        let kills = &mut report.kills;
        match &kill.when {
            When::Started(us) => {
                let since = self.home.started().map_or(Duration::ZERO, |started| started.elapsed());
                std::thread::sleep(Duration::from_micros(*us).saturating_sub(since));
                if self.home.ready_after().is_some() { kills.timed += 1 } else { kills.starting += 1 }
            }
            When::Ready(us) => {
                self.home.wait_until_ready(false)?;
                std::thread::sleep(Duration::from_micros(*us));
                kills.timed += 1;
            }
            When::Share(percent) => {
                self.home.wait_until_ready(false)?;
                let wanted = total * percent / 100;
                self.patiently(|_| stage.bytes.load(Ordering::Relaxed) >= wanted)?;
                kills.timed += 1;
            }
            When::Point(point, nth) => {
                let is_ready = self.home.wait_until_ready(true)?;
                if !is_ready || self.patiently(|home| home.ended().is_some())? {
                    *kills.points.entry(point.clone()).or_default() += 1;
                } else {
                    kills.missed += 1;
                }
                stage.doing("kills", format!("{point}:{nth}"));
            }
            When::Asked(us) => {
                self.home.wait_until_ready(false)?;
                std::thread::sleep(Duration::from_micros(*us));
                self.home.ask()?;
                kills.asked += 1;
            }
        }
        report.ready = report.ready.max(self.home.ready_after().unwrap_or_default());
        if kill.has_rival && self.home.ready_after().is_some() && self.home.ended().is_none() {
            self.home.rival()?;
            report.rivals += 1;
        }
        self.home.kill()?;
        std::thread::sleep(Duration::from_micros(kill.pause_us));
        let die_at = next.and_then(|next| match &next.when {
            When::Point(point, nth) => Some(format!("{point}:{nth}")),
            _ => None,
        });
        self.home.start(kill.cores, die_at.as_deref())
    }

    /// Waits until it is so, if it is soon.
    fn patiently(&mut self, mut is_so: impl FnMut(&mut Home) -> bool) -> Result<bool, Wrong> {
        let deadline = Instant::now() + KILL_PATIENCE;
        while !is_so(self.home) {
            self.stage.check()?;
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(true)
    }

    fn wait_for(&mut self, handles: &[Handle<'_>]) -> Result<(), Wrong> {
        let home = &mut self.home;
        let mut ended = None;
        let stage = self.stage;
        stage.until(|| {
            ended = home.ended();
            ended.is_some() || handles.iter().all(|(_, handle)| handle.is_finished())
        })?;
        match ended {
            Some(status) => Err(format!("a kernel ended by itself: {status}")),
            None => stage.check(),
        }
    }

    /// Asks the kernel, and the next one, for everything that is over.
    fn audit(&mut self, plan: &Plan, ids: &[String], report: &mut Report) -> Result<(), Wrong> {
        self.stage.doing("audit", "waits for the end of all trees");
        let mut caller = Caller::new(self.stage);
        loop {
            let list = caller.must("process.list", &json!({}))?;
            if ids.iter().all(|id| phase(&list, id) == "ended") {
                break;
            }
            self.stage.check()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        if plan.kills_at_rest {
            self.home.kill()?;
            report.kills.timed += 1;
            self.home.start(2, None)?;
            self.home.wait_until_ready(false)?;
        }
        if plan.kills.is_empty() {
            let told = || self.stage.exits_told() >= plan.exits();
            self.stage.until(told).map_err(|wrong| format!("the bus did not tell every exit: {wrong}"))?;
        }
        self.stage.doing("audit", "asks for all exits again");
        for (process, id) in plan.processes.iter().zip(ids) {
            if self.stage.stays_dead(id) {
                continue;
            }
            let reply = caller.must("process.wait", &json!({"id": id}))?;
            check_exit(&reply, process.exit).map_err(|wrong| format!("{id}, asked again: {wrong}"))?;
            self.check_retained(process, id, report.kills.total())?;
            check_birth(self.home.path(), id, process)?;
            if process.witness {
                let (seen, _) = self.stage.seen(id);
                check_witness(self.home.path(), id, seen)?;
            }
        }
        self.stage.doing("audit", "reads the log");
        self.home.ledger.go_on(self.stage)
    }

    /// What is kept of an output can still be read: all of it, if it is short.
    fn check_retained(&self, process: &Process, id: &str, kills: u64) -> Result<(), Wrong> {
        if !self.props.rereads || process.stdout == Script::Silent || process.is_relayed() {
            return Ok(());
        }
        let late = Reader { policy: Policy::Block, mode: Mode::Chunk, pace: Pace::Full, rate: None };
        let reading = Reading::new(self.stage, "audit", id, process, late).after(kills);
        let missed = reading.run().map_err(|wrong| format!("{id}, read again: {wrong}"))?;
        let is_short = process.stdout.bytes() <= SHORT_BYTES;
        if missed > 0 && process.is_spooled() {
            return Err(format!("{id}, read again: {missed} bytes are not on disk"));
        }
        if missed > 0 && is_short && process.options.get("history").is_none() && !process.witness {
            return Err(format!("{id}, read again: {missed} bytes of a short output are gone"));
        }
        Ok(())
    }

    /// Does what is to be done on purpose, if it isn't an actor's.
    fn sabotage(&mut self) {
        let stage = self.stage;
        let path = self.home.path();
        if stage.sabotages(Sabotage::File) {
            for name in ["left", "behind"] {
                // That this fails is seen by the round that doesn't.
                let _ = fs::write(path.join("state").join(name), b"");
            }
        }
        if stage.sabotages(Sabotage::Orphan) {
            let (program, arguments) = self.props.child.split_first().unwrap_or_else(|| panic!("no child"));
            let mut command = Command::new(program);
            command.args(arguments).args(["sleepy", "--ms", "60000"]).env(MARKER, path).stdin(Stdio::null());
            let _ = command.spawn();
        }
        if stage.sabotages(Sabotage::Descriptor) {
            // They stay open as long as this process: more than any kernel may hold for nobody.
            (0..100)
                .for_each(|_| std::mem::forget(std::os::unix::net::UnixStream::connect(self.home.socket())));
        }
        if stage.sabotages(Sabotage::Crash) {
            let pid = self.home.pid().map(nix::unistd::Pid::from_raw);
            let _ = pid.map(|pid| nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL));
        }
    }
}

/// Starts an actor. Whoever fails fails the round.
fn start<'scope, 'e: 'scope>(
    scope: &'scope Scope<'scope, 'e>,
    stage: &'e Stage,
    who: String,
    act: impl FnOnce() -> Result<(), Wrong> + Send + 'scope,
) -> Handle<'scope> {
    let name = who.clone();
    let handle = scope.spawn(move || {
        let result = act();
        if result.is_err() {
            stage.fail();
        } else {
            stage.doing(&name, "done");
        }
        result
    });
    (who, handle)
}

fn phase<'a>(list: &'a Json, id: &str) -> &'a str {
    let all = list["processes"].as_array().map_or(&[][..], Vec::as_slice);
    let found = all.iter().find(|process| process["id"] == id);
    found.and_then(|process| process["detail"]["phase"].as_str()).unwrap_or("unknown")
}

fn birth(folder: &Path, id: &str) -> String {
    folder.join("births").join(id).display().to_string()
}

fn witness(folder: &Path, id: &str) -> String {
    folder.join("witnesses").join(id).display().to_string()
}

fn check_birth(folder: &Path, id: &str, process: &Process) -> Result<(), Wrong> {
    let births = fs::read_to_string(birth(folder, id)).unwrap_or_default().lines().count() as u64;
    // Who is killed early enough dies unborn.
    if births == process.lives || (births == 0 && process.killer.is_some()) {
        Ok(())
    } else {
        Err(format!("{id} was started {births} times, and {} were to be", process.lives))
    }
}

/// What was read of one who was killed lies between what it had written for certain and what it had begun to.
fn check_witness(folder: &Path, id: &str, seen: u64) -> Result<(), Wrong> {
    let noted = fs::read(witness(folder, id)).unwrap_or_default();
    let at = |place: usize| {
        let bytes = noted.get(place..place + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    };
    let (written, begun) = (at(0), at(8));
    if (written..=begun).contains(&seen) {
        Ok(())
    } else {
        Err(format!("{id} wrote {written} to {begun} bytes, and {seen} came"))
    }
}
