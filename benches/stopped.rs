//! A flood to eight readers, beside the same with a ninth that has stopped and drops what it misses.

use crate::support::daemon::Daemon;
use crate::support::flow::{Flow, Seen};
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles::{self, PIPE_BYTES};
use serde_json::json;
use std::time::Instant;

const TOTAL: u64 = 1 << 30;
const LIVE: usize = 8;

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        alone.push(flood(&daemon, &format!("alone-{round}"), (TOTAL, LIVE), false));
        beside.push(flood(&daemon, &format!("beside-{round}"), (TOTAL, LIVE), true));
    }
    report.row("eight readers, rate of each", "GB/s", &alone, Bar::None);
    report.row("eight readers and a stopped one, rate of each", "GB/s", &beside, Bar::None);
    report.ratio("  beside the eight alone", &beside, &alone, Bar::AtLeast(0.9));
}

/// Rate of each of the readers, GB/s.
pub(crate) fn flood(daemon: &Daemon, id: &str, (total, live): (u64, usize), with_stopped: bool) -> f64 {
    let live: Vec<Flow> = (0..live)
        .map(|_| {
            let mut flow = Flow::modern(&daemon.socket);
            flow.call("process.stdout.subscribe", json!({"pid": id, "stream": "stdout"}));
            flow
        })
        .collect();
    let stopped = with_stopped.then(|| {
        let mut flow = Flow::modern(&daemon.socket);
        let params = json!({"pid": id, "stream": "stdout", "policy": "drop_oldest"});
        flow.call("process.stdout.subscribe", params);
        flow
    });
    let argv = roles::argv("writer", &[&total.to_string()]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let begun = Instant::now();
    let mut starter = daemon.connect();
    starter.ok("process.spawn", json!({"id": id, "command": argv, "options": {"pipeBytes": PIPE_BYTES}}));
    let readers: Vec<_> =
        live.into_iter().map(|flow| std::thread::spawn(move || drain(flow, total))).collect();
    for reader in readers {
        assert_eq!(reader.join().expect("it reads to the end"), total);
    }
    let seconds = begun.elapsed().as_secs_f64();
    drop(stopped);
    total as f64 / 1e9 / seconds
}

fn drain(mut flow: Flow, total: u64) -> u64 {
    let mut bytes = 0;
    while bytes < total {
        if let Seen::Chunk(length) = flow.next(|_| {}) {
            bytes += length as u64;
        }
    }
    bytes
}
