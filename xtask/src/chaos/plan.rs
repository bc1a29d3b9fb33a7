//! What a round will do, decided from its seed before it begins.
//!
//! ```text
//! seed ─▶ Random ─▶ rows of loads::LOADS ─▶ processes, readers, writers ─┐
//!                └─▶ kills ──────────────────────────────────────────────┴─▶ Plan ─▶ round
//! ```
//!
//! A plan is data, so that the same seed gives the same plan, word for word (`--plan` prints it). When the operating
//! system lets which thread run is not in it: a seed makes the same attempt again, not the same history.
//!
//! Not here: which children there are (`loads`), and what becomes of a plan (`round`).

use super::loads::{Draw, Load};
use super::random::Random;
use serde_json::Value as Json;

/// A round, decided.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) processes: Vec<Process>,
    /// Who has to do with the log, by name.
    pub(crate) deeds: Vec<(String, Deed)>,
    pub(crate) kills: Vec<Kill>,
    /// When everything has ended, one more: what ended is known to the next kernel too.
    pub(crate) kills_at_rest: bool,
}

/// A process and everybody who has to do with it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// The row it comes from and its place there: its id without the round's.
    pub(crate) name: String,
    /// Its role and its flags, see `child`.
    pub(crate) role: Vec<String>,
    /// Options of its spawn.
    pub(crate) options: Json,
    /// Spawned with an idempotency key.
    pub(crate) keyed: bool,
    /// From the round's beginning to its spawn, microseconds.
    pub(crate) after_us: u64,
    pub(crate) stdout: Script,
    pub(crate) stderr: Script,
    pub(crate) exit: Exit,
    /// How often it is born: all but the last life end with 1, and it is started again.
    pub(crate) lives: u64,
    /// It keeps a file with how much it has written, as it may be killed at any byte.
    pub(crate) witness: bool,
    pub(crate) readers: Vec<Reader>,
    /// Who reads raw bytes, from before its first.
    pub(crate) outlets: Vec<Outlet>,
    pub(crate) writer: Option<Writer>,
    pub(crate) killer: Option<Killer>,
}

/// What an output says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// Nothing.
    Silent,
    /// The sequence, this many bytes; as many as there are, if it isn't known.
    Sequence(Option<u64>),
    /// Records, this many of each tag.
    Records(Vec<u64>),
    /// Answers to this many questions, and the questions too if the terminal echoes.
    Answers { questions: u64, echo: bool },
    /// This, exactly.
    Text(&'static str),
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(u8),
    Signal(i32),
}

/// Somebody who reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) policy: Policy,
    pub(crate) mode: Mode,
    pub(crate) pace: Pace,
    /// The most it is given, bytes a second.
    pub(crate) rate: Option<u64>,
}

/// Somebody who takes raw bytes off a descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlet {
    /// `pipe` or `socket`.
    pub(crate) transport: &'static str,
    pub(crate) pace: Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Block,
    DropOldest,
    Spool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Chunk,
    Line,
    Lines,
}

/// How fast it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Full,
    /// It sleeps this long after each frame, microseconds, until the last kill.
    Slow(u64),
    /// It reads nothing until the last kill.
    Stopped,
}

/// Somebody who writes to stdin.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) input: Input,
    /// Longest write, bytes.
    pub(crate) write_bytes: u64,
    /// Writes of how many in a hundred have an idempotency key.
    pub(crate) keyed_percent: u64,
    pub(crate) pause_us: u64,
    /// It writes by a path, and asks nobody.
    pub(crate) by_path: bool,
    /// Of its own choices.
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The sequence, this many bytes, then the end of stdin.
    Sequence(u64),
    /// This many questions; each waits for the answer before it if they are in step.
    Questions { count: u64, in_step: bool },
}

/// Somebody who ends it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Killer {
    /// After it was spawned, microseconds.
    pub(crate) after_us: u64,
    pub(crate) signal: &'static str,
    pub(crate) grace_ms: u64,
    /// Not before its readers have seen a first byte.
    pub(crate) after_output: bool,
}

/// Somebody who has to do with the log.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Publish(Publisher),
    /// Somebody who follows what is published, from the first event or from when it comes.
    Follow {
        from_the_first: bool,
    },
    Consume(Consumer),
    Intend(Intents),
    Pipe(Pipeline),
    Produce(Producer),
}

/// Somebody who publishes.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) count: u64,
    /// Of how many in a hundred it waits for the disk.
    pub(crate) disk_percent: u64,
    /// How many in a hundred have an idempotency key.
    pub(crate) keyed_percent: u64,
    pub(crate) pause_us: u64,
    /// Of its own choices.
    pub(crate) seed: u64,
}

/// Somebody who works events off.
#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    /// How many in a hundred it gives back …
    pub(crate) nak_percent: u64,
    /// … and how many it forgets.
    pub(crate) ignored_percent: u64,
    pub(crate) in_flight_max: u64,
    pub(crate) seed: u64,
}

/// Programs joined output to input: one that writes, and others that check what they read and write it on.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    /// Flags of each stage.
    pub(crate) stages: Vec<Vec<String>>,
    /// Which edges can be read.
    pub(crate) taps: Vec<bool>,
    pub(crate) bytes: u64,
    /// What it ends with.
    pub(crate) exit: u8,
    pub(crate) after_us: u64,
    /// Of who reads the last stage.
    pub(crate) pace: Pace,
    /// Who looks in at taps.
    pub(crate) visitors: Vec<Visitor>,
}

/// Somebody who comes to a tap, reads for a while and leaves, several times.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    /// Whose output it reads.
    pub(crate) stage: usize,
    /// `frames`, `pipe` or `socket`.
    pub(crate) transport: &'static str,
    /// With frames; who has a descriptor waits to be waited for.
    pub(crate) policy: Policy,
    /// Its visits: from the end of the one before, microseconds, and how many bytes it stays for.
    pub(crate) visits: Vec<(u64, u64)>,
    /// It says goodbye, or just goes.
    pub(crate) is_polite: bool,
    pub(crate) pace: Pace,
}

/// Somebody who owns a stream, writes it, and begins another if it has ended with its kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Producer {
    /// `pipe`, or `shared`: in place.
    pub(crate) transport: &'static str,
    pub(crate) bytes: u64,
    pub(crate) write_bytes: u64,
    pub(crate) pause_us: u64,
}

/// Somebody who begins three intents, one under the other and one beside them, and has the first cancelled.
#[derive(Clone, Debug)]
pub(crate) struct Intents {
    /// Processes, in turn under each.
    pub(crate) processes: u64,
    /// Flags of theirs.
    pub(crate) role: Vec<String>,
    /// From the last spawn to the cancel, microseconds.
    pub(crate) after_us: u64,
    pub(crate) grace_ms: u64,
}

/// The end of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) when: When,
    /// Before the next one is started, microseconds.
    pub(crate) pause_us: u64,
    /// Reactors of the next one.
    pub(crate) cores: u64,
    /// Before it, another kernel is started over the same state, and has to go away.
    pub(crate) has_rival: bool,
}

/// When it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// When readers have seen this share of the round's bytes, in percent.
    Share(u64),
    /// So long after it was ready, microseconds.
    Ready(u64),
    /// So long after it was executed, microseconds: most likely in the middle of its adoption.
    Started(u64),
    /// When it comes by a named point for this time.
    Point(String, u64),
    /// Told to end in order, leaving the children to the next.
    Asked(u64),
}

/// What a plan is made from besides its seed.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) loads: Vec<&'static Load>,
    pub(crate) kills_max: u64,
    /// Some kernels are told to end in order.
    pub(crate) is_orderly: bool,
    /// The kernel's named points; none are used if it has none, or if they weren't asked for.
    pub(crate) points: Vec<String>,
}

impl Plan {
    /// The plan of this seed.
    pub(crate) fn of(seed: u64, terms: &Terms) -> Plan {
        let mut random = Random::new(seed);
        let (mut processes, mut deeds) = (Vec::new(), Vec::new());
        // With few rows chosen each is there; with many, each is there more often than not.
        let mut chosen: Vec<&Load> =
            terms.loads.iter().copied().filter(|_| terms.loads.len() < 3 || random.chance(3, 5)).collect();
        if chosen.is_empty() {
            chosen.push(*random.one_of::<&Load>(&terms.loads));
        }
        for load in chosen {
            match load.plan {
                Draw::Processes(draw) => {
                    for (at, mut process) in draw(&mut random).into_iter().enumerate() {
                        process.name = format!("{}-{at}", load.name);
                        processes.push(process);
                    }
                }
                Draw::Deeds(draw) => {
                    let named = |(at, deed)| (format!("{}-{at}", load.name), deed);
                    deeds.extend(draw(&mut random).into_iter().enumerate().map(named));
                }
            }
        }
        let count = if terms.kills_max == 0 { 0 } else { random.within(1..=terms.kills_max) };
        let mut kills: Vec<Kill> = (0..count).map(|_| Kill::draw(&mut random, terms)).collect();
        sort_shares(&mut kills);
        let kills_at_rest = terms.kills_max > 0 && random.chance(1, 2);
        Plan { seed, processes, deeds, kills, kills_at_rest }
    }

    /// How often processes will exit.
    pub(crate) fn exits(&self) -> u64 {
        self.processes.iter().map(|process| process.lives).sum()
    }

    /// How many processes there will be.
    pub(crate) fn all_processes(&self) -> usize {
        let of = |deed: &Deed| match deed {
            Deed::Intend(intents) => intents.processes as usize,
            Deed::Pipe(pipeline) => pipeline.stages.len(),
            Deed::Publish(_) | Deed::Follow { .. } | Deed::Consume(_) | Deed::Produce(_) => 0,
        };
        self.processes.len() + self.deeds.iter().map(|(_, deed)| of(deed)).sum::<usize>()
    }

    /// How many outputs there are that say something.
    pub(crate) fn outputs(&self) -> usize {
        let scripts = self.processes.iter().flat_map(|process| [&process.stdout, &process.stderr]);
        let of = |deed: &Deed| match deed {
            Deed::Pipe(pipeline) => pipeline.stages.len(),
            // One that was made and not answered is there, too, and over.
            Deed::Produce(_) => 1 + self.kills.len(),
            Deed::Publish(_) | Deed::Follow { .. } | Deed::Consume(_) | Deed::Intend(_) => 0,
        };
        let joined: usize = self.deeds.iter().map(|(_, deed)| of(deed)).sum();
        joined + scripts.filter(|script| **script != Script::Silent).count()
    }

    /// How many bytes the readers will see, if none misses any.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |process: &Process| {
            let bytes = process.stdout.bytes() + process.stderr.bytes();
            bytes * process.readers.len() as u64 + process.stdout.bytes() * process.outlets.len() as u64
        };
        self.processes.iter().map(of).sum()
    }
}

impl Process {
    /// One that somebody else starts, as far as its readers need to know.
    pub(crate) fn written(stdout: Script) -> Process {
        Process {
            name: String::new(),
            role: Vec::new(),
            options: Json::Object(serde_json::Map::new()),
            keyed: false,
            after_us: 0,
            stdout,
            stderr: Script::Silent,
            exit: Exit::Code(0),
            lives: 1,
            witness: false,
            readers: Vec::new(),
            outlets: Vec::new(),
            writer: None,
            killer: None,
        }
    }
}

impl Kill {
    fn draw(random: &mut Random, terms: &Terms) -> Kill {
        let points = &terms.points;
        let when = match random.within(0..=99) {
            0..=49 if !points.is_empty() => {
                When::Point(random.one_of(points).clone(), random.of_any_size(1..=64))
            }
            0..=39 => When::Share(random.within(0..=99)),
            40..=69 => When::Ready(random.of_any_size(1..=120_000)),
            70..=94 => When::Started(random.of_any_size(500..=60_000)),
            _ if terms.is_orderly => When::Asked(random.of_any_size(1..=60_000)),
            _ => When::Ready(random.of_any_size(1..=60_000)),
        };
        // One that may die at any moment by itself can't be relied on to be in a rival's way.
        let has_rival = random.chance(1, 10) && !matches!(when, When::Point(..));
        let pause_us = if random.chance(1, 2) { 0 } else { random.of_any_size(1..=30_000) };
        Kill { when, pause_us, cores: random.within(1..=3), has_rival }
    }
}

/// Shares come in their order, each in a place where a share was.
fn sort_shares(kills: &mut [Kill]) {
    let share = |kill: &Kill| if let When::Share(percent) = kill.when { Some(percent) } else { None };
    let mut shares: Vec<u64> = kills.iter().filter_map(share).collect();
    shares.sort_unstable();
    let places = kills.iter_mut().filter(|kill| share(kill).is_some());
    for (kill, percent) in places.zip(shares) {
        kill.when = When::Share(percent);
    }
}

impl Script {
    /// How long it is, as far as that is known.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Script::Silent => 0,
            Script::Sequence(bytes) => bytes.unwrap_or(0),
            Script::Records(counts) => counts.iter().sum::<u64>() * crate::child::RECORD_BYTES as u64,
            Script::Answers { questions, .. } => questions * 24,
            Script::Text(text) => text.len() as u64,
        }
    }
}

impl Policy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Policy::Block => "block",
            Policy::DropOldest => "drop_oldest",
            Policy::Spool => "spool",
        }
    }
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Chunk => "chunk",
            Mode::Line => "line",
            Mode::Lines => "lines",
        }
    }
}

impl Exit {
    /// `exitCode` of the answer to a wait.
    pub(crate) fn v1_code(self) -> i64 {
        match self {
            Exit::Code(code) => i64::from(code),
            Exit::Signal(signal) => 128 + i64::from(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::loads::LOADS;
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_plan_and_another_seed_another() {
        let points = vec!["take.held".to_owned()];
        let terms = Terms { loads: LOADS.iter().collect(), kills_max: 4, is_orderly: true, points };
        let plan = |seed| format!("{:?}", Plan::of(seed, &terms));
        assert_eq!(plan(11), plan(11));
        assert_ne!(plan(11), plan(12));
    }

    #[test]
    fn every_load_has_processes_under_every_seed_and_names_of_its_own() {
        for load in LOADS {
            let terms = Terms { loads: vec![load], kills_max: 0, is_orderly: true, points: Vec::new() };
            for seed in 0..200 {
                let plan = Plan::of(seed, &terms);
                let processes = plan.processes.iter().map(|process| process.name.as_str());
                let deeds = plan.deeds.iter().map(|(name, _)| name.as_str());
                let mut names: Vec<&str> = processes.chain(deeds).collect();
                names.sort_unstable();
                names.dedup();
                let count = plan.processes.len() + plan.deeds.len();
                assert!(!names.is_empty() && names.len() == count, "{} {seed}", load.name);
                assert!(plan.kills.is_empty());
            }
        }
    }

    #[test]
    fn points_are_killed_at_only_if_there_are_any() {
        let terms =
            Terms { loads: LOADS.iter().collect(), kills_max: 8, is_orderly: true, points: Vec::new() };
        for seed in 0..100 {
            let kills = Plan::of(seed, &terms).kills;
            assert!((1..=8).contains(&kills.len()));
            assert!(kills.iter().all(|kill| !matches!(kill.when, When::Point(..))));
        }
    }
}
