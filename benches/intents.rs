//! An intent with 200 processes in 20 child intents is cancelled.
//!
//! What is measured is when the signals arrive: each process waits for its SIGTERM and notes the time by the clock that all
//! processes share. The last of these times, less that of the call, bounds from above when the last signal was sent: what
//! 200 processes need to wake up is in it.

use crate::support::daemon::Daemon;
use crate::support::processes;
use crate::support::raw::Raw;
use crate::support::report::{Bar, Report};
use crate::support::{monotonic, roles};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// The slowest of thirty is judged.
const ROUNDS: usize = 30;
const CHILDREN: usize = 20;
const PROCESSES: usize = 200;

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let (mut last, mut gone, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut raw = daemon.connect();
        let top = plant(&mut raw, round, folder.path());
        let begun = monotonic();
        let receipt = raw.ok("intent.cancel", json!({"intentId": top}));
        gone.push((monotonic() - begun).as_secs_f64() * 1e3);
        check(&daemon, &receipt);
        let arrived = notes(folder.path()).into_iter().max().expect("there are processes");
        last.push((arrived - begun).as_secs_f64() * 1e3);
        told.push(receipt["durationMs"].as_f64().expect("a duration"));
    }
    let worst = last.iter().copied().fold(0.0, f64::max);
    report.row("200 processes: the last has its signal after", "ms", &last, Bar::None);
    report.row("  the slowest of thirty", "ms", &[worst], Bar::AtMost(50.0));
    report.row("  the receipt is there, and the tree empty, after", "ms", &gone, Bar::None);
    report.row("  as the receipt says", "ms", &told, Bar::None);
}

fn begin(raw: &mut Raw, params: Value) -> String {
    raw.ok("intent.begin", params)["intentId"].as_str().expect("an id").to_owned()
}

/// Starts all of it and waits until every process can be signalled.
fn plant(raw: &mut Raw, round: usize, folder: &Path) -> String {
    let top = begin(raw, json!({"name": "top"}));
    let children: Vec<String> =
        (0..CHILDREN).map(|_| begin(raw, json!({"name": "child", "parent": top}))).collect();
    for number in 0..PROCESSES {
        let file = folder.join(number.to_string());
        let command = roles::argv("mortal", &[file.to_str().expect("a path of ours is text")]);
        let params = json!({"id": format!("{round}.{number}"), "command": command});
        let meta = json!({"intentId": children[number % CHILDREN]});
        raw.call_with("process.spawn", &params, &meta).expect("it starts");
    }
    let until = Instant::now() + Duration::from_secs(30);
    while std::fs::read_dir(folder).expect("the folder is ours").count() < PROCESSES {
        assert!(Instant::now() < until, "the processes start");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    // The file is there a moment before the signal is waited for; it is blocked by then, so none is missed.
    top
}

/// When each process had its signal.
fn notes(folder: &Path) -> Vec<Duration> {
    let note = |number: usize| {
        let text = std::fs::read_to_string(folder.join(number.to_string())).expect("every process notes it");
        Duration::from_nanos(text.parse().expect("every process was signalled"))
    };
    (0..PROCESSES).map(note).collect()
}

fn check(daemon: &Daemon, receipt: &Value) {
    assert_eq!((&receipt["left"], receipt["children"].as_array().map(Vec::len)), (&json!(0), Some(CHILDREN)));
    let stopped = receipt["stopped"].as_array().expect("a list");
    assert!(stopped.len() == PROCESSES && stopped.iter().all(|one| one["how"] == "exited"), "{receipt}");
    assert!(processes::descendants(daemon.keeper_pid()).is_empty(), "the tree is empty");
}
