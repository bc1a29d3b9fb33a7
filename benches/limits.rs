//! A flood held to 20 MiB/s for ten seconds, beside `pv -L 20M`: how exact, and at what price.
//!
//! Counted from the first byte that arrives. Of the daemon all threads and the keeper are counted, of `pv` its one
//! process; whoever writes and whoever reads is not.

use crate::support::daemon::{Daemon, cpu_of};
use crate::support::flow::{BUFFER_BYTES, Flow, Seen};
use crate::support::processes::voluntary_switches;
use crate::support::report::{Bar, Report};
use crate::support::roles;
use serde_json::json;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BYTES_PER_SECOND: u64 = 20 << 20;
const WATCHED_FOR: Duration = Duration::from_secs(10);
const ROUNDS: usize = 3;
/// More than is watched.
const WRITTEN: u64 = BYTES_PER_SECOND * 60;

/// What ten seconds brought and took.
struct Watched {
    bytes: u64,
    cpu_seconds: f64,
    switches: u64,
}

impl Watched {
    /// Off the rate, percent.
    fn off(&self) -> f64 {
        let wanted = BYTES_PER_SECOND as f64 * WATCHED_FOR.as_secs_f64();
        (self.bytes as f64 / wanted - 1.0).abs() * 100.0
    }
}

/// Counts for ten seconds from the first byte what `next` brings.
fn watch(pids: &[i32], mut next: impl FnMut() -> u64) -> Watched {
    let switches = || pids.iter().map(|pid| voluntary_switches(*pid)).sum::<u64>();
    let cpu = || pids.iter().map(|pid| cpu_of(*pid)).sum::<f64>();
    let mut bytes = next();
    let (begun, before) = (Instant::now(), (cpu(), switches()));
    while begun.elapsed() < WATCHED_FOR {
        bytes += next();
    }
    Watched { bytes, cpu_seconds: cpu() - before.0, switches: switches() - before.1 }
}

fn kairo(where_: &str) -> Watched {
    let daemon = Daemon::start(&[]);
    let argv = roles::argv("writer", &[&WRITTEN.to_string()]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let rate = json!({"bytesPerSecond": BYTES_PER_SECOND});
    let (subscribe, options) = match where_ {
        "reader" => (json!({"stream": "stdout", "rate": rate}), json!({})),
        _ => (json!({"stream": "stdout"}), json!({"rate": rate})),
    };
    let mut flow = Flow::modern(&daemon.socket);
    flow.start("flood", &argv, subscribe, options);
    let next = || loop {
        if let Seen::Chunk(bytes) = flow.next(|_| {}) {
            return bytes as u64;
        }
    };
    watch(&[daemon.pid(), daemon.keeper_pid()], next)
}

/// None where there is no such program.
fn pv() -> Option<Watched> {
    let mut writer = roles::command("writer", &[&WRITTEN.to_string()]).stdout(Stdio::piped()).spawn().ok()?;
    let input = writer.stdout.take()?;
    let mut command = Command::new("pv");
    command.args(["-q", "-L", "20M"]).stdin(input).stdout(Stdio::piped());
    let started = command.spawn();
    let watched = started.ok().and_then(|mut pv| {
        let mut output = pv.stdout.take()?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let watched = watch(&[pv.id() as i32], || output.read(&mut buffer).map_or(0, |bytes| bytes as u64));
        pv.kill().and_then(|()| pv.wait()).ok()?;
        Some(watched)
    });
    // It may have ended with its pipe.
    let _ = writer.kill();
    let _ = writer.wait();
    watched
}

/// A stream that has a rate and nothing to say.
fn quiet() -> u64 {
    let daemon = Daemon::start(&[]);
    let mut flow = Flow::modern(&daemon.socket);
    let rate = json!({"rate": {"bytesPerSecond": 1000}});
    flow.start("quiet", &["sh", "-c", "echo here; sleep 1000"], json!({"stream": "stdout"}), rate);
    while !matches!(flow.next(|_| {}), Seen::Chunk(_)) {}
    std::thread::sleep(Duration::from_secs(3));
    let switches = || voluntary_switches(daemon.pid()) + voluntary_switches(daemon.keeper_pid());
    let before = switches();
    std::thread::sleep(WATCHED_FOR);
    switches() - before
}

pub(crate) fn run(report: &mut Report) {
    let mut rounds: [Vec<Watched>; 3] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(kairo("source"));
        rounds[1].push(kairo("reader"));
        rounds[2].extend(pv());
    }
    for (whose, round) in ["rate on the stream", "rate on the reader", "pv -L 20M"].into_iter().zip(&rounds) {
        let (bar, figures) =
            if whose.starts_with("pv") { (Bar::None, "baseline") } else { (Bar::AtMost(1.0), "kairo") };
        let of = |figure: fn(&Watched) -> f64| round.iter().map(figure).collect::<Vec<_>>();
        report.row(&format!("{whose}: off 20 MiB/s over 10 s ({figures})"), "%", &of(Watched::off), bar);
        report.row(&format!("{whose}: CPU in 10 s"), "s", &of(|w| w.cpu_seconds), Bar::None);
        report.row(
            &format!("{whose}: voluntary switches a second"),
            "",
            &of(|w| w.switches as f64 / 10.0),
            Bar::None,
        );
    }
    report.row(
        "switches in 10 s of a stream with a rate and no bytes",
        "",
        &[quiet() as f64],
        Bar::AtMost(0.0),
    );
}
