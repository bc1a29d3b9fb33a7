//! A thousand streams on which nothing happens: what they cost, and what they cost the one on which it does.

use crate::support::daemon::Daemon;
use crate::support::flow::Flow;
use crate::support::processes::{memory_bytes, voluntary_switches};
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles::{self, PIPE_BYTES};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use std::time::{Duration, Instant};

const STREAMS: usize = 1_000;
const WATCHED_FOR: Duration = Duration::from_secs(5);
const TOTAL: u64 = 1 << 30;

pub(crate) fn run(report: &mut Report) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit can be read");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a soft limit may be raised to the hard one");
    let alone = Daemon::start(&[]);
    let crowded = Daemon::start(&[]);
    let before = memory_bytes(crowded.pid(), "Pss");
    let mut crowd = Flow::modern(&crowded.socket);
    for number in 0..STREAMS {
        let id = format!("idle-{number}");
        crowd.call(
            "process.spawn",
            json!({"id": id, "command": ["sleep", "1000"], "options": {"stdin": "null"}}),
        );
        crowd.call("process.stdout.subscribe", json!({"pid": id}));
    }
    let each = (memory_bytes(crowded.pid(), "Pss").saturating_sub(before)) as f64 / STREAMS as f64 / 1024.0;
    std::thread::sleep(Duration::from_secs(1));
    let (cpu, switches) = (crowded.cpu(), voluntary_switches(crowded.pid()));
    std::thread::sleep(WATCHED_FOR);
    let (cpu, switches) = (crowded.cpu() - cpu, voluntary_switches(crowded.pid()) - switches);
    let mut rates = (Vec::new(), Vec::new());
    let mut costs = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (rate, cost) = busy(&alone, round);
        rates.0.push(rate);
        costs.0.push(cost);
        let (rate, cost) = busy(&crowded, round);
        rates.1.push(rate);
        costs.1.push(cost);
    }
    report.row("CPU of the idle thousand in 5 s", "ms", &[cpu * 1e3], Bar::None);
    report.row("voluntary switches in 5 s", "", &[switches as f64], Bar::None);
    report.row("memory for each", "KiB", &[each], Bar::None);
    report.row("one busy stream alone", "GB/s", &rates.0, Bar::None);
    report.row("one busy stream beside them", "GB/s", &rates.1, Bar::None);
    report.ratio("  rate beside the one alone", &rates.1, &rates.0, Bar::None);
    report.ratio("  CPU beside the one alone", &costs.1, &costs.0, Bar::None);
}

fn busy(daemon: &Daemon, round: usize) -> (f64, f64) {
    let argv = roles::argv("writer", &[&TOTAL.to_string()]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut flow = Flow::modern(&daemon.socket);
    let (begun, cpu) = (Instant::now(), daemon.cpu());
    flow.start(
        &format!("busy-{round}"),
        &argv,
        json!({"stream": "stdout"}),
        json!({"pipeBytes": PIPE_BYTES}),
    );
    let (bytes, _) = flow.drain(|_| {});
    assert_eq!(bytes, TOTAL);
    let gigabytes = TOTAL as f64 / 1e9;
    (gigabytes / begun.elapsed().as_secs_f64(), (daemon.cpu() - cpu) / gigabytes)
}
