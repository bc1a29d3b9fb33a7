//! Draining a terminal, beside `script`, which does nothing else.

use crate::framed::{drain, pipe};
use crate::support::daemon::{Daemon, cpu_of};
use crate::support::flow::Flow;
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles::{self, LINE_BYTES};
use serde_json::json;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Lines of a round.
const LINES: u64 = 2_000_000;
/// What comes out: the terminal puts a carriage return before each line's end.
const TOTAL: u64 = LINES * (LINE_BYTES as u64 + 1);

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let (mut script_rate, mut script_cpu) = (Vec::new(), Vec::new());
    let (mut kairo_rate, mut kairo_cpu) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (rate, cpu) = script();
        script_rate.push(rate);
        script_cpu.push(cpu);
        let (rate, cpu) = kairo(&daemon, round);
        kairo_rate.push(rate);
        kairo_cpu.push(cpu);
    }
    report.row("script", "MB/s", &script_rate, Bar::None);
    report.row("  CPU", "s/GB", &script_cpu, Bar::None);
    report.row("kairo", "MB/s", &kairo_rate, Bar::None);
    report.row("  CPU", "s/GB", &kairo_cpu, Bar::None);
    report.ratio("  rate beside script", &kairo_rate, &script_rate, Bar::AtLeast(0.9));
    report.ratio("  CPU beside script", &kairo_cpu, &script_cpu, Bar::AtMost(1.1));
}

fn argv() -> Vec<String> {
    roles::argv("lines", &[&(LINES * LINE_BYTES as u64).to_string()])
}

fn script() -> (f64, f64) {
    let (reader, writer) = pipe();
    let begun = Instant::now();
    let mut command = Command::new("script");
    command.args(["-q", "-c", &argv().join(" "), "/dev/null"]).stdin(Stdio::null()).stdout(writer);
    let mut child = command.spawn().expect("script is installed");
    drop(command);
    let bytes = drain(reader);
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_of(child.id() as i32);
    child.wait().expect("script is our child");
    assert_eq!(bytes, TOTAL);
    (TOTAL as f64 / 1e6 / seconds, cpu / (TOTAL as f64 / 1e9))
}

fn kairo(daemon: &Daemon, round: usize) -> (f64, f64) {
    let argv = argv();
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut flow = Flow::modern(&daemon.socket);
    let (begun, cpu) = (Instant::now(), daemon.cpu());
    flow.start(&format!("terminal-{round}"), &argv, json!({"stream": "stdout"}), json!({"pty": true}));
    let (bytes, _) = flow.drain(|_| {});
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(bytes, TOTAL);
    (TOTAL as f64 / 1e6 / seconds, (daemon.cpu() - cpu) / (TOTAL as f64 / 1e9))
}
