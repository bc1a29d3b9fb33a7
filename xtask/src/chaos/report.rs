//! What a run of chaos prints: a line a round, a line a state, a table at the end, and all there is to know about a
//! violation.

use super::census::Census;
use super::check::Wrong;
use super::kernel::{Driver, Home};
use super::loads::LOADS;
use super::plan::Plan;
use super::round::{Kills, Report};
use std::collections::BTreeMap;
use std::time::Duration;

/// A round, in one line.
pub(crate) fn round(number: u64, driver: Driver, plan: &Plan, report: &Report) {
    let kills = &report.kills;
    let points: Vec<String> = kills.points.iter().map(|(name, times)| format!("{name}×{times}")).collect();
    println!(
        "{number:>5} {:<5} seed {:#018x}  kills {} ({} starting, {} asked, points [{}])  processes {:>2} readers {:>2}  \
         {:>6.2} MiB  reconnections {:>3} resent {:>2}  ready {:>3} ms  {:>5} ms  \
         keeper {} fds {} KiB, kernel {} fds {} KiB{}",
        driver.name(),
        plan.seed,
        kills.total(),
        kills.starting,
        kills.asked,
        points.join(" "),
        report.processes,
        report.readers,
        mib(report.bytes),
        report.reconnections,
        report.resent,
        report.ready.as_millis(),
        report.time.as_millis(),
        report.census.keeper_descriptors,
        report.census.keeper_bytes >> 10,
        report.census.kernel_descriptors,
        report.census.kernel_bytes >> 10,
        if report.violations.is_empty() { "" } else { "  VIOLATION" },
    );
}

/// The end of a state: what was held after its first round and after its last.
pub(crate) fn state(driver: Driver, rounds: u64, first: Option<&Census>, home: &Home, wrong: Option<&Wrong>) {
    let first = first.copied().unwrap_or_default();
    println!(
        "      {:<5} state over after {rounds} rounds; after the first round: kernel {} descriptors, {} KiB; keeper {} \
         descriptors, {} KiB; {} files; now {} files, {} processes{}",
        driver.name(),
        first.kernel_descriptors,
        first.kernel_bytes >> 10,
        first.keeper_descriptors,
        first.keeper_bytes >> 10,
        first.files,
        home.files().len(),
        home.all().len(),
        if wrong.is_some() { "  VIOLATION" } else { "" },
    );
}

/// Everything about a violation.
pub(crate) fn violation(home: &Home, report: &Report, again: &str) {
    println!("\nVIOLATION");
    for (who, wrong) in &report.violations {
        println!("  {who}: {wrong}");
    }
    println!("  again: {again}");
    println!("  state and log are kept: {}", home.path().display());
    let unfinished: Vec<_> = report.doings.iter().filter(|(_, doing)| *doing != "done").collect();
    println!("  not done yet:");
    unfinished.iter().for_each(|(who, doing)| println!("    {who}: {doing}"));
    println!("  the end of the log:\n{}", home.log_tail());
}

/// A plan, to be looked at.
pub(crate) fn plan(plan: &Plan) {
    println!("{plan:#?}");
}

/// What there is to choose from.
pub(crate) fn list(points: &[String]) {
    println!("loads:");
    LOADS.iter().for_each(|load| println!("  {:<10} {}", load.name, load.about));
    println!("points of this kernel: {}", if points.is_empty() { "none" } else { "" });
    points.iter().for_each(|point| println!("  {point}"));
}

/// All rounds.
#[derive(Debug, Default)]
pub(crate) struct Summary(BTreeMap<&'static str, Totals>);

#[derive(Debug, Default)]
struct Totals {
    rounds: u64,
    kills: Kills,
    processes: u64,
    bytes: u64,
    dropped_bytes: u64,
    terminal_gap_bytes: u64,
    relay_gap_bytes: u64,
    reconnections: u64,
    resent: u64,
    exits_told: u64,
    told_again: u64,
    not_reborn: u64,
    rivals: u64,
    ready: Duration,
    time: Duration,
    last: Census,
    violations: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, driver: Driver, report: &Report) {
        let totals = self.0.entry(driver.name()).or_default();
        totals.rounds += 1;
        totals.kills.timed += report.kills.timed;
        totals.kills.starting += report.kills.starting;
        totals.kills.asked += report.kills.asked;
        totals.kills.missed += report.kills.missed;
        for (point, times) in &report.kills.points {
            *totals.kills.points.entry(point.clone()).or_default() += times;
        }
        totals.processes += report.processes;
        totals.bytes += report.bytes;
        totals.dropped_bytes += report.dropped_bytes;
        totals.terminal_gap_bytes += report.terminal_gap_bytes;
        totals.relay_gap_bytes += report.relay_gap_bytes;
        totals.reconnections += report.reconnections;
        totals.resent += report.resent;
        totals.exits_told += report.exits_told;
        totals.told_again += report.told_again;
        totals.not_reborn += report.not_reborn;
        totals.rivals += report.rivals;
        totals.ready = totals.ready.max(report.ready);
        totals.time += report.time;
        totals.last = report.census;
        totals.violations += u64::from(!report.violations.is_empty());
    }

    pub(crate) fn add_violation(&mut self, driver: Driver) {
        self.0.entry(driver.name()).or_default().violations += 1;
    }

    pub(crate) fn print(&self) {
        println!();
        for (driver, totals) in &self.0 {
            let kills = &totals.kills;
            println!("{driver}:");
            println!(
                "  rounds {}, {:.1} s, violations {}",
                totals.rounds,
                totals.time.as_secs_f64(),
                totals.violations
            );
            println!(
                "  kills {}: {} at a time, {} while starting, {} told to end in order, {} at points, {} that never came \
                 by their point",
                kills.total(),
                kills.timed,
                kills.starting,
                kills.asked,
                kills.points.values().sum::<u64>(),
                kills.missed,
            );
            for (point, times) in &kills.points {
                println!("    {point:<20} {times}");
            }
            println!(
                "  processes {}, exits told on the bus {} ({} again by a successor), bytes checked {:.1} MiB, dropped by wish {:.1} MiB, gaps of \
                 terminals {} bytes, of relays {} bytes",
                totals.processes,
                totals.exits_told,
                totals.told_again,
                mib(totals.bytes),
                mib(totals.dropped_bytes),
                totals.terminal_gap_bytes,
                totals.relay_gap_bytes,
            );
            println!(
                "  reconnections {}, writes sent again {}, second kernels refused {}, restarts that did not come {}",
                totals.reconnections, totals.resent, totals.rivals, totals.not_reborn
            );
            println!(
                "  slowest to be ready {} ms; at the last count: kernel {} descriptors, {} KiB; keeper {} descriptors, {} \
                 KiB; files {}; strays {}",
                totals.ready.as_millis(),
                totals.last.kernel_descriptors,
                totals.last.kernel_bytes >> 10,
                totals.last.keeper_descriptors,
                totals.last.keeper_bytes >> 10,
                totals.last.files,
                totals.last.strays,
            );
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
