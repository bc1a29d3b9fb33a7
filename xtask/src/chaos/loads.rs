//! What a round may be made of: one row, one kind of load.
//!
//! A row draws its processes from the round's numbers: what they write, who reads them and how, who writes to them,
//! how they end. To bring a new capability into the harness is to write a row (and a checker in `check`, if what it
//! does can't be told by those there are). Rounds are short, so a row stays small: up to a few megabytes and a few
//! hundred milliseconds.
//!
//! Invariant: everything a row decides comes from the `Random` it is given. Rows of those who start no process of ours, or have to do
//! with the log, are drawn in `errands`.

use super::errands;
use super::plan::{Deed, Exit, Input, Killer, Mode, Outlet, Pace, Policy, Process, Reader, Script, Writer};
use super::random::Random;
use crate::child::RECORD_BYTES;
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::ops::RangeInclusive;

/// A kind of load.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    /// What it is, in one line.
    pub(crate) about: &'static str,
    /// Draws who is in it.
    pub(crate) plan: Draw,
}

/// How a row is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Draw {
    /// Its processes.
    Processes(fn(&mut Random) -> Vec<Process>),
    /// Those who have to do with the log.
    Deeds(fn(&mut Random) -> Vec<Deed>),
}

/// All of them.
pub(crate) const LOADS: &[Load] = &[
    Load {
        name: "flood",
        about: "pipes at full speed and in drops, fast and slow block readers",
        plan: Draw::Processes(flood),
    },
    Load {
        name: "stopped",
        about: "a block reader that reads nothing until the last kill",
        plan: Draw::Processes(stopped),
    },
    Load {
        name: "dropping",
        about: "drop_oldest readers, some of them stopped",
        plan: Draw::Processes(dropping),
    },
    Load {
        name: "spooled",
        about: "output on disk, readers from disk and from memory",
        plan: Draw::Processes(spooled),
    },
    Load {
        name: "outlets",
        about: "raw bytes by pipes and sockets, of a history",
        plan: Draw::Processes(outlets),
    },
    Load {
        name: "relayed",
        about: "the same of a stream of which nothing is kept",
        plan: Draw::Processes(relayed),
    },
    Load {
        name: "framed",
        about: "the same in frames, beside raw readers or alone",
        plan: Draw::Processes(framed),
    },
    Load {
        name: "sifted",
        about: "the same to readers that drop, some of them stopped",
        plan: Draw::Processes(sifted),
    },
    Load { name: "limited", about: "rates of streams and of readers", plan: Draw::Processes(limited) },
    Load { name: "terminal", about: "a PTY that floods", plan: Draw::Processes(terminal) },
    Load {
        name: "repl",
        about: "questions and answers, over a PTY raw or cooked, or pipes",
        plan: Draw::Processes(repl),
    },
    Load { name: "echo", about: "stdin echoed back, plain and keyed writes", plan: Draw::Processes(echo) },
    Load { name: "ways", about: "the same, written by a path", plan: Draw::Processes(ways) },
    Load { name: "tree", about: "daemons that write on after their leader", plan: Draw::Processes(tree) },
    Load {
        name: "brief",
        about: "many short lives that end by codes and signals",
        plan: Draw::Processes(brief),
    },
    Load {
        name: "sleepy",
        about: "silent lives that end while no kernel is there",
        plan: Draw::Processes(sleepy),
    },
    Load { name: "phoenix", about: "lives that fail and are started again", plan: Draw::Processes(phoenix) },
    Load {
        name: "ward",
        about: "lives that would end with their client's connection",
        plan: Draw::Processes(ward),
    },
    Load {
        name: "victim",
        about: "process.kill in flight, to the willing and the stubborn",
        plan: Draw::Processes(victim),
    },
    Load {
        name: "publish",
        about: "events published with and without keys, followed over all kernels, worked off a durable consumer",
        plan: Draw::Deeds(errands::publish),
    },
    Load {
        name: "intents",
        about: "intents with processes under them, cancelled while kernels die",
        plan: Draw::Deeds(errands::intents),
    },
    Load {
        name: "pipelines",
        about: "programs joined by plain pipes and by taps, read at the end and on the way",
        plan: Draw::Deeds(errands::pipelines),
    },
    Load {
        name: "producers",
        about: "streams that clients write, through pipes",
        plan: Draw::Deeds(errands::producers),
    },
    Load {
        name: "in_place",
        about: "streams that clients write in rings they share with the kernel",
        plan: Draw::Deeds(errands::in_place),
    },
    Load {
        name: "visited",
        about: "pipelines at whose taps readers come and go",
        plan: Draw::Deeds(errands::visited),
    },
];

/// The row of this name.
pub(crate) fn named(name: &str) -> Option<&'static Load> {
    LOADS.iter().find(|load| load.name == name)
}

pub(super) const MIB: u64 = 1 << 20;

/// A process nobody has to do with, with this role.
pub(super) fn process(random: &mut Random, role: &[&str]) -> Process {
    let mut options = json!({"stdin": "null"});
    if random.chance(1, 4) {
        options["durable"] = random.chance(1, 2).into();
    }
    Process {
        role: role.iter().map(|word| (*word).to_owned()).collect(),
        options,
        keyed: random.chance(2, 3),
        after_us: if random.chance(1, 2) { 0 } else { random.of_any_size(1..=60_000) },
        ..Process::written(Script::Silent)
    }
}

impl Process {
    pub(super) fn flag(&mut self, name: &str, value: impl ToString) {
        self.role.extend([format!("--{name}"), value.to_string()]);
    }

    fn ends_anyhow(&mut self, random: &mut Random) {
        if random.chance(1, 4) {
            // None of them leaves a core.
            let signals = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1];
            let signal = *random.one_of(&signals) as i32;
            self.flag("die", signal);
            self.exit = Exit::Signal(signal);
        } else {
            let code = random.within(0..=80) as u8;
            self.flag("exit", code);
            self.exit = Exit::Code(code);
        }
    }

    /// Nothing of what it writes is kept.
    pub(crate) fn is_relayed(&self) -> bool {
        self.options["history"] == "none"
    }

    /// Everything it writes is on disk.
    pub(crate) fn is_spooled(&self) -> bool {
        self.options.get("spool").is_some()
    }

    /// Its output waits for readers in half of the cases, if its history is full and it has not exited.
    fn waits_for_readers(&mut self, random: &mut Random) {
        if random.chance(1, 2) {
            self.options["whenUnread"] = "block".into();
        }
    }
}

fn block(mode: Mode, pace: Pace) -> Reader {
    Reader { policy: Policy::Block, mode, pace, rate: None }
}

pub(super) fn pace(random: &mut Random) -> Pace {
    if random.chance(2, 3) { Pace::Full } else { Pace::Slow(random.of_any_size(50..=4_000)) }
}

/// Flags of a writer of so many bytes: how it cuts them, and how it dawdles. A few hundred milliseconds at most.
pub(super) fn cut(process: &mut Process, random: &mut Random, bytes: u64) {
    let write_bytes = random.of_any_size((bytes / 1_000).max(1)..=131_072);
    let writes = bytes / write_bytes + 1;
    process.flag("write-bytes", write_bytes);
    if random.chance(1, 2) {
        process.flag("pause-us", (random.within(20_000..=400_000) / writes).min(5_000));
    }
}

fn flood(random: &mut Random) -> Vec<Process> {
    let count = random.within(1..=3);
    (0..count).map(|_| one_flood(random, 1..=4 * MIB)).collect()
}

fn one_flood(random: &mut Random, bytes: RangeInclusive<u64>) -> Process {
    let mut flood = process(random, &["flood"]);
    let bytes = random.of_any_size(bytes);
    flood.flag("bytes", bytes);
    cut(&mut flood, random, bytes);
    flood.stdout = Script::Sequence(Some(bytes));
    if random.chance(1, 4) {
        flood.role.push("--both".to_owned());
        flood.stderr = Script::Sequence(Some(bytes));
    }
    if random.chance(1, 3) {
        flood.options["pipeBytes"] = random.of_any_size(4_096..=MIB).into();
    }
    if random.chance(1, 4) {
        let (head, tail) = (random.of_any_size(1..=65_536), random.of_any_size(4_096..=262_144));
        flood.options["history"] = json!({"headBytes": head, "tailBytes": tail});
    }
    flood.ends_anyhow(random);
    flood.waits_for_readers(random);
    for _ in 0..random.within(1..=3) {
        flood.readers.push(block(Mode::Chunk, pace(random)));
    }
    flood
}

fn stopped(random: &mut Random) -> Vec<Process> {
    let mut flood = one_flood(random, 1..=4 * MIB);
    flood.readers[0].pace = Pace::Stopped;
    vec![flood]
}

fn dropping(random: &mut Random) -> Vec<Process> {
    let mut flood = one_flood(random, MIB..=8 * MIB);
    for reader in &mut flood.readers {
        reader.policy = Policy::DropOldest;
        if random.chance(1, 2) {
            reader.pace = Pace::Stopped;
        }
    }
    vec![flood]
}

fn spooled(random: &mut Random) -> Vec<Process> {
    let mut flood = one_flood(random, 1..=8 * MIB);
    flood.options["spool"] = match random.chance(1, 2) {
        true => true.into(),
        false => json!({"segmentBytes": 524_288}),
    };
    for reader in &mut flood.readers {
        if random.chance(2, 3) {
            reader.policy = Policy::Spool;
            reader.pace = *random.one_of(&[Pace::Full, Pace::Slow(500), Pace::Stopped]);
        }
    }
    vec![flood]
}

fn outlets(random: &mut Random) -> Vec<Process> {
    let mut flood = process(random, &["flood", "--gate"]);
    let bytes = random.of_any_size(20_000..=16 * MIB);
    flood.flag("bytes", bytes);
    cut(&mut flood, random, bytes);
    flood.stdout = Script::Sequence(Some(bytes));
    flood.options = json!({"whenUnread": "block"});
    if random.chance(1, 3) {
        flood.options["pipeBytes"] = random.of_any_size(4_096..=MIB).into();
    }
    for _ in 0..random.within(1..=3) {
        let pace = if random.chance(1, 5) { Pace::Stopped } else { pace(random) };
        flood.outlets.push(Outlet { transport: random.one_of::<&str>(&["pipe", "socket"]), pace });
    }
    if random.chance(1, 3) {
        flood.readers.push(block(Mode::Chunk, pace(random)));
    }
    flood.ends_anyhow(random);
    vec![flood]
}

fn relayed(random: &mut Random) -> Vec<Process> {
    let mut all = outlets(random);
    for flood in &mut all {
        flood.options["history"] = "none".into();
        // What was on its way in a frame that was not whole is a gap, and where it is may be uncertain.
        flood.readers.clear();
    }
    all
}

fn framed(random: &mut Random) -> Vec<Process> {
    let mut all = relayed(random);
    for flood in &mut all {
        if random.chance(1, 2) {
            flood.outlets.clear();
            flood.role.retain(|word| word != "--gate");
            flood.options["stdin"] = "null".into();
        }
        for _ in 0..random.within(1..=3) {
            flood.readers.push(block(Mode::Chunk, pace(random)));
        }
    }
    all
}

fn sifted(random: &mut Random) -> Vec<Process> {
    let mut all = framed(random);
    for flood in &mut all {
        let waiting = random.within(0..=1) as usize;
        for reader in flood.readers.iter_mut().skip(waiting) {
            reader.policy = Policy::DropOldest;
            if random.chance(1, 3) {
                reader.pace = Pace::Stopped;
            }
        }
    }
    all
}

fn limited(random: &mut Random) -> Vec<Process> {
    let mut flood = one_flood(random, 1..=2 * MIB);
    let bytes = flood.stdout.bytes();
    // Done within half a second.
    let rate = |random: &mut Random| bytes * random.within(2..=20) + 1;
    if random.chance(2, 3) {
        let (per_second, burst) = (rate(random), random.of_any_size(1..=bytes.max(2)));
        flood.options["rate"] =
            json!({"bytesPerSecond": per_second, "burst": burst.max(per_second / 50 + 1)});
    }
    for reader in &mut flood.readers {
        reader.rate = random.chance(1, 2).then(|| rate(random));
    }
    vec![flood]
}

fn terminal(random: &mut Random) -> Vec<Process> {
    let mut flood = process(random, &["flood", "--tag", "7"]);
    let records = random.of_any_size(1..=4_096);
    flood.flag("bytes", records * RECORD_BYTES as u64);
    cut(&mut flood, random, records * RECORD_BYTES as u64);
    flood.stdout = Script::Records([0, 0, 0, 0, 0, 0, 0, records].into());
    flood.options["pty"] = json!({"rows": 24, "cols": 80});
    if let Some(options) = flood.options.as_object_mut() {
        options.remove("stdin");
    }
    flood.ends_anyhow(random);
    flood.waits_for_readers(random);
    let mode = *random.one_of(&[Mode::Chunk, Mode::Line, Mode::Lines]);
    flood.readers.push(block(mode, pace(random)));
    vec![flood]
}

fn repl(random: &mut Random) -> Vec<Process> {
    let mut repl = process(random, &["repl"]);
    let count = random.within(1..=60);
    repl.flag("questions", count);
    repl.options = json!({});
    let kind = random.within(0..=2);
    if kind > 0 {
        repl.options["pty"] = json!({"rows": 24, "cols": 80});
    }
    let echo = kind == 2;
    if echo {
        repl.role.push("--cooked".to_owned());
    }
    repl.stdout = Script::Answers { questions: count, echo };
    repl.waits_for_readers(random);
    repl.readers.push(block(Mode::Chunk, Pace::Full));
    // An echo comes in the middle of an answer, if the next question doesn't wait for it.
    let input = Input::Questions { count, in_step: echo || random.chance(1, 2) };
    repl.writer = Some(writer(random, input));
    repl.ends_anyhow(random);
    vec![repl]
}

fn writer(random: &mut Random, input: Input) -> Writer {
    Writer {
        input,
        write_bytes: random.of_any_size(1..=100_000),
        keyed_percent: *random.one_of(&[0, 50, 100, 100]),
        pause_us: if random.chance(1, 2) { 0 } else { random.of_any_size(1..=8_000) },
        by_path: false,
        seed: random.next(),
    }
}

fn echo(random: &mut Random) -> Vec<Process> {
    let mut echo = process(random, &["echo"]);
    let bytes = random.of_any_size(1..=MIB);
    echo.options = json!({});
    echo.flag("read-bytes", random.of_any_size(bytes / 500 + 1..=65_536));
    if random.chance(1, 3) {
        echo.flag("pause-us", random.of_any_size(1..=500));
    }
    echo.stdout = Script::Sequence(Some(bytes));
    echo.waits_for_readers(random);
    echo.readers.push(block(Mode::Chunk, pace(random)));
    let mut writer = writer(random, Input::Sequence(bytes));
    writer.write_bytes = writer.write_bytes.max(bytes / 60);
    echo.writer = Some(writer);
    echo.ends_anyhow(random);
    vec![echo]
}

fn ways(random: &mut Random) -> Vec<Process> {
    let mut all = echo(random);
    for writer in all.iter_mut().filter_map(|echo| echo.writer.as_mut()) {
        writer.by_path = true;
    }
    all
}

fn tree(random: &mut Random) -> Vec<Process> {
    let mut tree = process(random, &["tree"]);
    let (daemons, records) = (random.within(1..=3), random.of_any_size(1..=2_048));
    tree.flag("daemons", daemons);
    tree.flag("bytes", records * RECORD_BYTES as u64);
    tree.flag("pause-us", random.of_any_size(1..=10_000).min(300_000 / (records / 32 + 1)));
    tree.stdout = Script::Records(vec![records; daemons as usize + 1]);
    tree.ends_anyhow(random);
    tree.waits_for_readers(random);
    tree.readers.push(block(Mode::Chunk, pace(random)));
    vec![tree]
}

fn brief(random: &mut Random) -> Vec<Process> {
    let count = random.within(3..=12);
    (0..count)
        .map(|_| {
            let mut brief = process(random, &["flood"]);
            brief.after_us = random.of_any_size(1..=250_000);
            let bytes = random.of_any_size(1..=2_000);
            brief.flag("bytes", bytes);
            brief.stdout = Script::Sequence(Some(bytes));
            brief.ends_anyhow(random);
            // What is read late is what was kept: so little is kept whole.
            if random.chance(1, 2) {
                brief.readers.push(block(Mode::Chunk, Pace::Full));
            }
            brief
        })
        .collect()
}

fn sleepy(random: &mut Random) -> Vec<Process> {
    let count = random.within(1..=4);
    (0..count)
        .map(|_| {
            let mut sleepy = process(random, &["sleepy"]);
            sleepy.flag("ms", random.of_any_size(1..=400));
            sleepy.ends_anyhow(random);
            sleepy
        })
        .collect()
}

fn phoenix(random: &mut Random) -> Vec<Process> {
    let mut phoenix = process(random, &["sleepy"]);
    phoenix.lives = random.within(2..=4);
    let lives = phoenix.lives;
    phoenix.flag("lives", lives);
    phoenix.flag("ms", random.of_any_size(1..=100));
    phoenix.options = json!({
        "stdin": "null",
        // What a restart needs is on the disk when the spawn is answered; without it, within a second.
        "durable": true,
        "restart": {"policy": "on_failure", "limit": 10, "backoffMs": random.of_any_size(1..=20)},
    });
    vec![phoenix]
}

fn ward(random: &mut Random) -> Vec<Process> {
    let mut ward = process(random, &["sleepy"]);
    ward.flag("ms", random.within(50..=500));
    // Its client comes back each time and says who it was: so it ends as it likes.
    ward.options["onDisconnect"] = "kill".into();
    ward.ends_anyhow(random);
    vec![ward]
}

fn victim(random: &mut Random) -> Vec<Process> {
    let mut flood = process(random, &["flood"]);
    flood.flag("bytes", 1_u64 << 40);
    flood.flag("write-bytes", random.of_any_size(512..=65_536));
    flood.flag("pause-us", random.within(100..=1_000));
    flood.stdout = Script::Sequence(None);
    flood.witness = true;
    flood.waits_for_readers(random);
    flood.readers.push(block(Mode::Chunk, Pace::Full));
    let (signal, number) = *random.one_of(&[("TERM", 15), ("KILL", 9), ("HUP", 1)]);
    flood.exit = Exit::Signal(number);
    flood.killer = Some(killer(random, signal, 5_000, false));

    let mut stubborn = process(random, &["sleepy", "--stubborn", "--ms", "60000"]);
    stubborn.stdout = Script::Text("stubborn\n");
    stubborn.readers.push(block(Mode::Chunk, Pace::Full));
    stubborn.exit = Exit::Signal(9);
    let grace_ms = random.of_any_size(1..=200);
    stubborn.killer = Some(killer(random, "TERM", grace_ms, true));
    vec![flood, stubborn]
}

fn killer(random: &mut Random, signal: &'static str, grace_ms: u64, after_output: bool) -> Killer {
    Killer { after_us: random.of_any_size(1..=200_000), signal, grace_ms, after_output }
}

/// Everything a spawn is told besides what its row says: whose it is.
pub(crate) fn options_of(process: &Process, marker: (&str, &str)) -> Json {
    let mut options = process.options.clone();
    options["env"] = json!({marker.0: marker.1});
    options
}
