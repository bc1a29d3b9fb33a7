//! Children from spawn to exit, eight in flight, beside posix_spawn with as many; and once more with a fat daemon.
//!
//! The daemon is made fat through its own door: writes to the stdin of children that don't read are parked in its
//! memory, up to 16 MiB a connection.

use crate::support::daemon::Daemon;
use crate::support::processes::memory_bytes;
use crate::support::raw::{EVENT, Raw, request_bytes};
use crate::support::report::{Bar, ROUNDS, Report};
use nix::sys::wait::wait;
use rmpv::Value;
use serde_json::json;
use std::process::{Command, Stdio};
use std::time::Instant;

const CHILDREN: usize = 1_000;
const IN_FLIGHT: usize = 8;
/// Connections that park, and what each parks: 1 GiB together.
const PARKERS: usize = 70;
const PARKED_BYTES: usize = 15 << 20;

pub(crate) fn run(report: &mut Report) {
    let lean = Daemon::start(&[]);
    let fat = Daemon::start(&[]);
    let parkers = fatten(&fat);
    let resident = memory_bytes(fat.pid(), "Rss") as f64 / f64::from(1 << 30);
    let (mut bare, mut piped, mut kairo, mut kairo_fat) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(posix_spawn(Stdio::null));
        kairo.push(spawned(&lean, round));
        piped.push(posix_spawn(Stdio::piped));
        kairo_fat.push(spawned(&fat, round));
    }
    report.row("posix_spawn, no pipes", "/s", &bare, Bar::None);
    report.row("posix_spawn, three pipes each", "/s", &piped, Bar::None);
    report.row("kairo", "/s", &kairo, Bar::None);
    report.ratio("  beside posix_spawn without pipes", &kairo, &bare, Bar::None);
    report.ratio("  beside posix_spawn with three pipes", &kairo, &piped, Bar::AtLeast(0.85));
    report.row("memory of the fat daemon", "GiB", &[resident], Bar::AtLeast(1.0));
    report.row("kairo, fat", "/s", &kairo_fat, Bar::None);
    report.ratio("  beside the lean daemon", &kairo_fat, &kairo, Bar::AtLeast(0.9));
    drop(parkers);
}

/// Children a second from one thread that keeps eight of its own going. std uses posix_spawn for such commands.
fn posix_spawn(stdio: fn() -> Stdio) -> f64 {
    let start = || {
        let mut command = Command::new("/bin/true");
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().expect("true starts");
        // Whoever is done first is waited for, whichever it is: the pipes are closed here.
        drop(child);
    };
    let begun = Instant::now();
    (0..IN_FLIGHT).for_each(|_| start());
    for done in 0..CHILDREN {
        wait().expect("a child of ours ends");
        if done + IN_FLIGHT < CHILDREN {
            start();
        }
    }
    CHILDREN as f64 / begun.elapsed().as_secs_f64()
}

/// Children a second through the daemon, counted by their exit notices.
fn spawned(daemon: &Daemon, round: usize) -> f64 {
    let mut raw = daemon.connect();
    let begun = Instant::now();
    let mut next = 0;
    let mut start = |raw: &mut Raw| {
        let id = format!("child-{round}-{next}");
        next += 1;
        let command = Value::Array(vec!["/bin/true".into()]);
        raw.request("process.spawn", Value::Map(vec![("id".into(), id.into()), ("command".into(), command)]));
    };
    (0..IN_FLIGHT).for_each(|_| start(&mut raw));
    let mut done = 0;
    while done < CHILDREN {
        let frame = raw.frame().expect("the daemon stays");
        // The text is looked for in the bytes: the client is not what is measured.
        if frame.kind == EVENT && frame.payload.windows(12).any(|window| window == b"process.exit") {
            done += 1;
            if done + IN_FLIGHT <= CHILDREN {
                start(&mut raw);
            }
        }
    }
    CHILDREN as f64 / begun.elapsed().as_secs_f64()
}

/// Parks 1 GiB in the daemon. The connections have to live as long as it shall be fat.
fn fatten(daemon: &Daemon) -> Vec<Raw> {
    let mut control = daemon.connect();
    let data = Value::Binary(vec![b'x'; PARKED_BYTES]);
    let parkers: Vec<Raw> = (0..PARKERS)
        .map(|number| {
            let mut raw = daemon.connect();
            let id = format!("deaf-{number}");
            raw.ok("process.spawn", json!({"id": id, "command": ["sleep", "1000"]}));
            let params = Value::Map(vec![("id".into(), id.into()), ("data".into(), data.clone())]);
            raw.send(&request_bytes(1_000_000, "process.stdin.write", params));
            raw
        })
        .collect();
    control.ok("kernel.ping", json!({}));
    parkers
}
