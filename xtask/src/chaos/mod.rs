//! The chaos harness: kernels are killed under a load, and not a byte, exit or descriptor may be missing afterwards.
//!
//! ```text
//! seed ─▶ plan ─▶ round over a state folder ─▶ audit ─▶ next round over the same state … ─▶ shut down, count
//! ```
//!
//! Everything is seen from outside: over the wire, in `/proc`, in files the children write. A seed makes the same
//! plan again (loads, sizes, pauses, kills); when the operating system lets whom run it does not repeat, so a seed
//! is an attempt to repeat and not a recording. `docs/CHAOS.md` says how to use it.
//!
//! Not here: the flags' place on the command line (`main`), the children (`child`).

mod actors;
mod census;
mod check;
mod deeds;
mod doubts;
mod errands;
mod flows;
mod kernel;
mod ledger;
mod line;
mod loads;
mod outlets;
mod plan;
mod produced;
mod random;
mod reader;
mod report;
mod round;
mod stage;
mod visits;
mod ways;

pub(crate) use census::{Census, Past};
pub(crate) use check::Wrong;
pub(crate) use kernel::{Driver, Home};
pub(crate) use random::{Random, round_seed};
pub use stage::Sabotage;

use clap::{Args, FromArgMatches, ValueEnum};
use plan::{Plan, Terms};
use report::Summary;
use round::{Props, Report};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// How long a kernel waits for the readers of its predecessor.
const GRACE: Duration = Duration::from_secs(10);
/// In a run of so many rounds there is time to wait for that once.
const LONG_RUN_ROUNDS: u64 = 50;

/// Kill kernels under a load, and check that nothing is lost, doubled or left behind
///
/// Each round starts children, readers and writers, kills the kernel a few times and starts it again over the same
/// state, and then compares: bytes, exits, writes, processes, descriptors, files, memory. The plan of a round
/// follows from its seed; the timing of the operating system doesn't.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask chaos --rounds 100\n  cargo xtask chaos --seed 0x5eed --rounds 1 --driver poll --load echo,repl\n  \
    cargo xtask chaos --rounds 1000 --points --keep-going"
)]
pub struct Options {
    /// Of the first round; the others' follow from it [default: from the clock]
    #[arg(long, value_parser = seed)]
    pub seed: Option<u64>,
    /// How many rounds on each driver
    #[arg(long, default_value_t = 20)]
    pub rounds: u64,
    /// Which driver
    #[arg(long, value_enum, default_value_t = Drivers::Both)]
    pub driver: Drivers,
    /// Kill at the kernel's named points too
    #[arg(long)]
    pub points: bool,
    /// Only these points; all if absent
    #[arg(long, value_delimiter = ',', value_name = "NAME", requires = "points")]
    pub point: Vec<String>,
    /// Only these loads; all if absent
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub load: Vec<String>,
    /// Most kills in a round; none with 0
    #[arg(long, default_value_t = 4)]
    pub kills: u64,
    /// Go on after a violation
    #[arg(long)]
    pub keep_going: bool,
    /// Rounds over one state folder, before it is shut down and counted
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    pub rounds_per_state: u64,
    /// The kernel to kill [default: builds one]
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Build the kernel with optimizations
    #[arg(long)]
    pub release: bool,
    /// Never tell a kernel to end in order
    #[arg(long)]
    pub no_orderly: bool,
    /// Don't read again at the end what is kept of each output
    #[arg(long)]
    pub no_reread: bool,
    /// Print the plans and do nothing
    #[arg(long)]
    pub plan: bool,
    /// List the loads and the kernel's points and do nothing
    #[arg(long)]
    pub list: bool,
    /// Do this on purpose, to see that it is noticed.
    #[arg(long, hide = true)]
    pub sabotage: Option<Sabotage>,
}

impl Options {
    /// What these flags ask for.
    ///
    /// # Errors
    ///
    /// What is wrong with them, in words.
    pub fn of(words: &[&str]) -> Result<Options, String> {
        let command = Options::augment_args(clap::Command::new("chaos").no_binary_name(true));
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        Options::from_arg_matches(&matches).map_err(|error| error.to_string())
    }
}

/// Which drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Drivers {
    /// io_uring.
    Uring,
    /// Readiness.
    Poll,
    /// One after the other.
    Both,
}

impl Drivers {
    pub(crate) fn all(self) -> &'static [Driver] {
        match self {
            Drivers::Uring => &[Driver::Uring],
            Drivers::Poll => &[Driver::Poll],
            Drivers::Both => &[Driver::Uring, Driver::Poll],
        }
    }
}

pub(crate) fn seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("a seed is a number, 0x… or not: {error}"))
}

/// `cargo xtask chaos`.
#[must_use]
pub fn main(options: &Options) -> ExitCode {
    let child = std::env::current_exe().map(|own| vec![own.display().to_string(), "child".to_owned()]);
    let done = child.map_err(|error| error.to_string()).and_then(|child| match &options.program {
        Some(program) => run(options, program, &child),
        None => run(options, &build(options.release)?, &child),
    });
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(wrong) => {
            eprintln!("xtask: {wrong}");
            ExitCode::from(2)
        }
    }
}

/// Builds the kernel beside this program.
pub(crate) fn build(release: bool) -> Result<PathBuf, Wrong> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(top).args(["build", "--quiet", "--bin", "kairo", "--message-format", "json"]);
    command.args(release.then_some("--release")).stderr(std::process::Stdio::inherit());
    let output = command.output().map_err(|error| format!("cargo can't be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executable =
        messages.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?))).next_back();
    executable.filter(|_| output.status.success()).ok_or_else(|| "the kernel can't be built".to_owned())
}

/// Runs rounds against this kernel, with children that are started so. Returns how many violations there were.
///
/// # Errors
///
/// What keeps rounds from being run at all.
pub fn run(options: &Options, program: &Path, child: &[String]) -> Result<u64, String> {
    let known = kernel::points(program);
    let terms = terms(options, &known)?;
    if options.list {
        report::list(&known);
        return Ok(0);
    }
    let seed = options.seed.unwrap_or_else(seed_of_the_clock);
    let mut violations = 0;
    let mut summary = Summary::default();
    for driver in options.driver.all() {
        let campaign = Campaign { options, program, child, terms: &terms, driver: *driver, seed };
        violations += campaign.run(&mut summary)?;
        if violations > 0 && !options.keep_going {
            break;
        }
    }
    if !options.plan && options.sabotage.is_none() {
        summary.print();
    }
    Ok(violations)
}

fn terms(options: &Options, known: &[String]) -> Result<Terms, Wrong> {
    let named = |name: &String| loads::named(name).ok_or_else(|| format!("there is no load called {name}"));
    let loads = match options.load.as_slice() {
        [] => loads::LOADS.iter().collect(),
        names => names.iter().map(named).collect::<Result<Vec<_>, _>>()?,
    };
    if let Some(unknown) = options.point.iter().find(|point| !known.contains(point)) {
        return Err(format!("the kernel knows of no point called {unknown}"));
    }
    let points = match (options.points, options.point.as_slice()) {
        (false, _) => Vec::new(),
        (true, _) if known.is_empty() => return Err("this kernel has no named points".to_owned()),
        (true, []) => known.to_vec(),
        (true, some) => some.to_vec(),
    };
    Ok(Terms { loads, kills_max: options.kills, is_orderly: !options.no_orderly, points })
}

pub(crate) fn seed_of_the_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64) & 0xffff_ffff
}

/// All rounds on one driver.
struct Campaign<'a> {
    options: &'a Options,
    program: &'a Path,
    child: &'a [String],
    terms: &'a Terms,
    driver: Driver,
    seed: u64,
}

impl Campaign<'_> {
    fn run(&self, summary: &mut Summary) -> Result<u64, Wrong> {
        let mut violations = 0;
        let mut round = 0;
        while round < self.options.rounds && (violations == 0 || self.options.keep_going) {
            if self.options.plan {
                report::plan(&Plan::of(random::round_seed(self.seed, round), self.terms));
                round += 1;
                continue;
            }
            let last = (round + self.options.rounds_per_state).min(self.options.rounds);
            violations += self.over_one_state(&mut round, last, summary)?;
        }
        Ok(violations)
    }

    /// Runs rounds over one state, up to this one or the first violation, then shuts down and counts.
    fn over_one_state(&self, round: &mut u64, last: u64, summary: &mut Summary) -> Result<u64, Wrong> {
        let mut home = Home::new(self.program, self.driver)?;
        home.start(2, None)?;
        home.wait_until_ready(false)?;
        let baseline = Census::take(&home);
        let (mut first, mut number, mut past) = (None, 0, Past::default());
        while *round < last {
            let seed = random::round_seed(self.seed, *round);
            let plan = Plan::of(seed, self.terms);
            past.processes += plan.all_processes();
            past.outputs += plan.outputs();
            past.awaited = past.outputs;
            let props = Props {
                child: self.child,
                number,
                sabotage: self.options.sabotage,
                rereads: !self.options.no_reread,
                baseline: &baseline,
                past,
            };
            let report = round::run(&mut home, &plan, &props);
            report::round(*round, self.driver, &plan, &report);
            summary.add(self.driver, &report);
            *round += 1;
            number += 1;
            if !report.violations.is_empty() {
                self.complain(&mut home, seed, &report);
                return Ok(1);
            }
            first.get_or_insert(report.census);
        }
        // After many rounds the last kernel is given the time to let go of everything.
        past.awaited = 0;
        let is_last = last == self.options.rounds && last >= LONG_RUN_ROUNDS;
        let settled =
            if is_last { Census::settled(&home, &baseline, past, GRACE * 2).map(drop) } else { Ok(()) };
        let left = settled.and_then(|()| shut_down(&mut home, &baseline));
        report::state(self.driver, number, first.as_ref(), &home, left.as_ref().err());
        match left {
            Ok(()) => Ok(0),
            Err(wrong) => {
                let report = Report { violations: vec![("the end".to_owned(), wrong)], ..Report::default() };
                summary.add_violation(self.driver);
                self.complain(&mut home, random::round_seed(self.seed, *round - 1), &report);
                Ok(1)
            }
        }
    }

    /// Says what is wrong, and how to try it again.
    fn complain(&self, home: &mut Home, seed: u64, report: &Report) {
        let mut again =
            format!("cargo xtask chaos --seed {seed:#x} --rounds 1 --driver {}", self.driver.name());
        again += &format!(" --kills {}", self.options.kills);
        for (flag, names) in [("--load", &self.options.load), ("--point", &self.options.point)] {
            if !names.is_empty() {
                again += &format!(" {flag} {}", names.join(","));
            }
        }
        again += if self.options.points { " --points" } else { "" };
        again += if self.options.no_reread { " --no-reread" } else { "" };
        again += if self.options.no_orderly { " --no-orderly" } else { "" };
        if self.options.sabotage.is_none() {
            home.keep();
        }
        report::violation(home, report, &again);
    }
}

/// Ends everything in order; then nothing may be left.
pub(crate) fn shut_down(home: &mut Home, baseline: &Census) -> Result<(), Wrong> {
    let stage = stage::Stage::new(home.socket(), Duration::from_secs(15), None);
    line::Caller::new(&stage).must("kernel.shutdown", &json!({"graceMs": 100}))?;
    home.wait_for_end()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !home.all().is_empty() {
        if Instant::now() > deadline {
            let all: Vec<String> = home.all().into_iter().map(kernel::described).collect();
            return Err(format!("processes are left after the end: {}", all.join(", ")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let files = home.files();
    if files.len() > baseline.files {
        return Err(format!(
            "{} files were there at the beginning, and these are left: {files:?}",
            baseline.files
        ));
    }
    Ok(())
}
