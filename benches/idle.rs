//! A daemon with nothing to do: it doesn't wake, it is small, and it is there at once.

use crate::support::daemon::Daemon;
use crate::support::processes::{memory_bytes, voluntary_switches};
use crate::support::report::{Bar, ROUNDS, Report};
use std::time::Duration;

const WATCHED_FOR: Duration = Duration::from_secs(30);

pub(crate) fn run(report: &mut Report) {
    let ready: Vec<f64> =
        (0..ROUNDS * 3).map(|_| Daemon::start(&[]).ready_after.as_secs_f64() * 1e3).collect();
    let daemon = Daemon::start(&[]);
    // The ready line is out before the threads have gone to sleep.
    std::thread::sleep(Duration::from_secs(1));
    let pids = [daemon.pid(), daemon.keeper_pid()];
    let before: u64 = pids.iter().map(|pid| voluntary_switches(*pid)).sum();
    std::thread::sleep(WATCHED_FOR);
    let after: u64 = pids.iter().map(|pid| voluntary_switches(*pid)).sum();
    let anonymous = |pid| memory_bytes(pid, "Anonymous") as f64 / 1e6;
    report.row("ready after", "ms", &ready, Bar::AtMost(50.0));
    report.row("voluntary switches in 30 s", "", &[(after - before) as f64], Bar::AtMost(0.0));
    report.row("anonymous memory of the daemon", "MB", &[anonymous(daemon.pid())], Bar::AtMost(6.0));
    report.row(
        "anonymous memory of the keeper",
        "MiB",
        &[anonymous(daemon.keeper_pid()) / 1.048576],
        Bar::AtMost(1.0),
    );
}
