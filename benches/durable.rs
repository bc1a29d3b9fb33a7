//! Session records beside each other: children from spawn to exit with none, with one that nobody waits for, and with one
//! whose flush the spawn's answer waits for; and how many flushes that took.
//!
//! Flushes are counted by strace in rounds of their own, because to be watched costs more than to flush. Without strace
//! that row is missing. The state folder is on the disk that temporary files are on: the figures are that disk's.

use crate::support::daemon::Daemon;
use crate::support::raw::{EVENT, Raw};
use crate::support::report::{Bar, ROUNDS, Report};
use rmpv::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CHILDREN: usize = 500;
const IN_FLIGHT: usize = 8;
/// Children of a round in which flushes are counted.
const WATCHED_CHILDREN: usize = 100;

/// What a spawn says of its record.
const WISHES: [(&str, Option<bool>); 3] =
    [("durable: false", Some(false)), ("durable absent", None), ("durable: true", Some(true))];

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let mut rates = [const { Vec::new() }; 3];
    let mut latencies = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        for (place, (_, durable)) in WISHES.into_iter().enumerate() {
            rates[place].push(rate(&daemon, round, durable, CHILDREN));
            latencies[place].push(latency_us(&daemon, round, durable));
        }
    }
    for (place, (name, _)) in WISHES.into_iter().enumerate() {
        report.row(&format!("spawn to exit, {name}"), "/s", &rates[place], Bar::None);
        report.row("  one spawn after the other, median", "us", &latencies[place], Bar::None);
        if place > 0 {
            report.ratio("  rate beside durable: false", &rates[place], &rates[0], Bar::None);
        }
    }
    for (name, durable) in WISHES {
        let Some(flushes) = flushes(&daemon, durable) else {
            return println!("  there is no strace here: flushes are not counted");
        };
        let each = flushes / WATCHED_CHILDREN as f64;
        let bar = match durable {
            Some(true) => Bar::AtMost(1.0),
            // A background flush of what others have written before may fall into the round.
            Some(false) => Bar::AtMost(0.01),
            None => Bar::AtMost(0.1),
        };
        report.row(&format!("flushes a spawn, {name}"), "", &[each], bar);
    }
}

fn params(id: String, durable: Option<bool>) -> Value {
    let command = Value::Array(vec!["/bin/true".into()]);
    let options: Vec<(Value, Value)> =
        durable.into_iter().map(|wish| ("durable".into(), wish.into())).collect();
    let options = Value::Map(options);
    Value::Map(vec![("id".into(), id.into()), ("command".into(), command), ("options".into(), options)])
}

/// Children a second with eight in flight, counted by their exit notices.
fn rate(daemon: &Daemon, round: usize, durable: Option<bool>, children: usize) -> f64 {
    let mut raw = daemon.connect();
    // Who has had no reply yet is told of no exit, and a child may be over before the disk has its record.
    raw.ok("kernel.ping", serde_json::json!({}));
    let begun = Instant::now();
    let mut next = 0;
    let mut start = |raw: &mut Raw| {
        raw.request("process.spawn", params(format!("d-{round}-{durable:?}-{next}"), durable));
        next += 1;
    };
    (0..IN_FLIGHT).for_each(|_| start(&mut raw));
    let mut done = 0;
    while done < children {
        let frame = raw.frame().expect("the daemon stays");
        if frame.kind == EVENT && frame.payload.windows(12).any(|window| window == b"process.exit") {
            done += 1;
            if done + IN_FLIGHT <= children {
                start(&mut raw);
            }
        }
    }
    children as f64 / begun.elapsed().as_secs_f64()
}

/// From a spawn to its answer, the median of fifty.
fn latency_us(daemon: &Daemon, round: usize, durable: Option<bool>) -> f64 {
    let mut raw = daemon.connect();
    let mut took: Vec<f64> = (0..50)
        .map(|number| {
            let begun = Instant::now();
            let call =
                raw.request("process.spawn", params(format!("l-{round}-{durable:?}-{number}"), durable));
            raw.answer(call).expect("it runs");
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

/// fsync(2) and fdatasync(2) of the daemon while so many children come and go.
fn flushes(daemon: &Daemon, durable: Option<bool>) -> Option<f64> {
    let pid = daemon.pid().to_string();
    let watcher = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-p", &pid])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let traced = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    };
    let until = Instant::now() + Duration::from_secs(5);
    while !traced() && Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    rate(daemon, usize::MAX, durable, WATCHED_CHILDREN);
    let interrupt = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(watcher.id() as i32),
        nix::sys::signal::Signal::SIGINT,
    );
    interrupt.ok()?;
    let output = watcher.wait_with_output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(text.lines().filter(|line| line.contains("sync(") && !line.contains("resumed")).count() as f64)
}
