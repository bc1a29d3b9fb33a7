//! What a harness asks: when bytes were read, what a process used, on which core things run.

use crate::support::output::Chunk;
use crate::support::raw::{EVENT, Raw, STREAM_CHUNK, value};
use crate::support::{Daemon, on_both_drivers, program, python, until};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value as Json, json};
use std::process::{Command, Stdio};
use std::time::Duration;

fn now_ns() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is such a clock")).as_nanos() as u64
}

/// A connection that is told when bytes were read.
fn timed(daemon: &Daemon) -> Raw {
    let mut raw = daemon.connect();
    let features = ["records", "int64", "chunks", "timestamps"];
    let granted = raw.ok("kernel.hello", json!({"features": features, "chunkBytesMax": 1 << 20}));
    assert_eq!(granted["features"].as_array().map(Vec::len), Some(4));
    raw
}

/// The next chunk.
fn chunk(raw: &mut Raw) -> Chunk {
    loop {
        let frame = raw.frame().expect("a chunk");
        if frame.kind == STREAM_CHUNK {
            return Chunk::of(&frame);
        }
        assert_eq!(frame.kind, EVENT);
    }
}

/// Says what time it is when it is told to.
const CLOCK: &str = "import sys, time\nfor line in sys.stdin: print(time.monotonic_ns(), flush=True)";

fn chunks_tell_when_they_were_read_and_not_when_they_were_delivered(daemon: &Daemon) {
    let (mut raw, mut plain) = (timed(daemon), daemon.connect_modern());
    for connection in [&mut raw, &mut plain] {
        connection.subscribe("clock", json!({"stream": "stdout"}));
    }
    raw.spawn("clock", &[python(), "-c", CLOCK], json!({}));
    let mut times = Vec::new();
    for _ in 0..3 {
        raw.ok("process.stdin.write", json!({"id": "clock", "data": "?\n"}));
        let chunk = chunk(&mut raw);
        let said: u64 = String::from_utf8_lossy(&chunk.data).trim().parse().expect("a time");
        let time = chunk.time.expect("the feature was granted");
        assert!(said <= time && time <= now_ns(), "said at {said}, read at {time}");
        times.push(time);
    }
    assert_eq!(chunk(&mut plain).time, None, "who has not asked is told nothing");
    let before = now_ns();
    let mut late = timed(daemon);
    late.subscribe("clock", json!({"stream": "stdout"}));
    let all = chunk(&mut late);
    assert_eq!((all.offset, all.time), (Some(0), times.last().copied()));
    assert!(times[2] < before, "that was before it asked");
    let mut lines = timed(daemon);
    lines.subscribe("clock", json!({"stream": "stdout", "mode": "line"}));
    let each: Vec<u64> = (0..3).filter_map(|_| chunk(&mut lines).time).collect();
    assert_eq!(each, times, "each line came with its read");
    raw.ok("process.kill", json!({"id": "clock"}));
}

fn what_was_read_before_anybody_asked_has_about_its_time(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let begun = now_ns();
    raw.spawn("early", &["echo", "hello"], json!({}));
    raw.wait_until_ended(&["early"]);
    let ended = now_ns();
    let mut late = timed(daemon);
    late.subscribe("early", json!({"stream": "stdout"}));
    let time = chunk(&mut late).time.expect("it is known");
    assert!(begun <= time && time <= ended, "{begun} {time} {ended}");
}

/// Works, looks what that took, and tells.
const WORKER: &str = "\
import resource, os
kept = bytearray(40 << 20)
for page in range(0, len(kept), 4096): kept[page] = 1
n = 0
while resource.getrusage(resource.RUSAGE_SELF).ru_utime < 0.15: n += sum(range(1000))
u = resource.getrusage(resource.RUSAGE_SELF)
print(int(u.ru_utime * 1e6), int(u.ru_stime * 1e6), u.ru_maxrss, u.ru_minflt, u.ru_nvcsw, flush=True)
os._exit(0)";

fn usage_is_what_getrusage_told_the_child(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let output = raw.run("worker", &[python(), "-c", WORKER], json!({}));
    raw.wait_for_exit("worker");
    let text = output.text();
    let own: Vec<f64> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let used = raw.ok("process.usage", json!({"id": "worker"}));
    assert_eq!(used["running"], false);
    let told = |name: &str| used["usage"][name].as_f64().expect("a number");
    for (name, own, slack) in [
        ("userUs", own[0], 50_000.0),
        ("systemUs", own[1], 50_000.0),
        ("maxRssKib", own[2], 4_096.0),
        ("minorFaults", own[3], 500.0),
        ("voluntarySwitches", own[4], 50.0),
    ] {
        let told = told(name);
        assert!(own <= told + 1.0 && told <= own + slack, "{name}: {told}, and {own} by itself");
    }
    assert!(used["wallUs"].as_f64() >= Some(told("userUs")), "{used}");
    assert_eq!(used["streams"][0]["bytes"], text.len());
}

fn what_runs_is_told_of_too_and_who_waited(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("busy", &[python(), "-c", "while True: pass"], json!({}));
    until("it has used something", || {
        let used = raw.ok("process.usage", json!({"id": "busy"}));
        assert_eq!(used["running"], true);
        used["usage"]["userUs"].as_u64() > Some(0) && used["usage"]["maxRssKib"].as_u64() > Some(0)
    });
    raw.spawn("cat", &["sh", "-c", "read x; cat"], json!({}));
    // More than its pipe holds, while it reads nothing.
    raw.ok("process.stdin.write", json!({"id": "cat", "data": "x"}));
    raw.request("process.stdin.write", value(&json!({"id": "cat", "data": "y".repeat(1 << 20)})));
    until("it waits", || {
        let status = raw.ok("process.status", json!({"id": "cat", "detail": true}));
        status["detail"]["stdin"]["parkedBytes"].as_u64() > Some(0)
    });
    raw.ok("process.kill", json!({"id": "cat"}));
    raw.wait_until_ended(&["cat"]);
    let used = raw.ok("process.usage", json!({"id": "cat"}));
    assert!(used["stdin"]["parkedUs"].as_u64() > Some(0), "{used}");
    assert!(used["streams"][0]["idleUs"].as_u64() > Some(0), "{used}");
    let slow = ["head", "-c", "300000", "/dev/zero"];
    raw.run("slow", &slow, json!({"rate": {"bytesPerSecond": 1_000_000, "burst": 50_000}}));
    let used = raw.ok("process.usage", json!({"id": "slow"}));
    assert!(used["streams"][0]["throttledUs"].as_u64() > Some(100_000), "{used}");
    assert_eq!(raw.refused("process.usage", json!({"id": "nobody"})).text, "Process nobody not found");
    raw.ok("process.kill", json!({"id": "busy"}));
}

const ALLOWED: [&str; 3] = ["grep", "Cpus_allowed_list", "/proc/self/status"];

fn a_process_stays_on_the_core_it_was_put_on(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let output = raw.run("pinned", &ALLOWED, json!({"cpus": [0]}));
    assert_eq!(output.text(), "Cpus_allowed_list:\t0\n");
    assert_eq!(
        raw.ok("process.status", json!({"id": "pinned", "detail": true}))["detail"]["cpus"],
        json!([0])
    );
    let refusal = raw
        .refused("process.spawn", json!({"id": "no", "command": ["true"], "options": {"cpus": [0, 1_023]}}));
    assert!(refusal.text.contains("options.cpus[1]"), "{}", refusal.text);
    let options = json!({"reactorCpu": 1_023});
    let refusal = raw.refused("process.spawn", json!({"id": "no", "command": ["true"], "options": options}));
    assert!(refusal.text.contains("options.reactorCpu"), "{}", refusal.text);
}

/// The cores a thread of the daemon may use.
fn cores_of(daemon: &Daemon, thread: &str) -> Option<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it runs");
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let mut tasks = tasks.map(|task| task.expect("a thread").path());
    let found = tasks.find(|task| read(task.join("comm")).trim() == thread)?;
    let status = read(found.join("status"));
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(|list| list.trim().to_owned())
}

fn streams_are_served_on_the_core_that_was_asked_for(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    for cpu in 0..cores {
        let id = format!("on-{cpu}");
        let subscription = raw.subscribe(&id, json!({"stream": "stdout"}));
        raw.spawn(&id, &["head", "-c", "3000000", "/dev/zero"], json!({"reactorCpu": cpu}));
        let output = raw.collect(&subscription, 1);
        assert_eq!(output.stdout.len(), 3_000_000);
        assert_eq!(cores_of(daemon, &format!("reactor-{cpu}")), Some(cpu.to_string()));
    }
}

fn what_is_bound_to_cores_stays_so_under_the_next_kernel(daemon: &mut Daemon) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let last = cores - 1;
    let mut raw = daemon.connect_modern();
    raw.spawn("bound", &["cat"], json!({"reactorCpu": last, "cpus": [last]}));
    let home = format!("reactor-{last}");
    until("its reactor is bound", || cores_of(daemon, &home) == Some(last.to_string()));
    daemon.kill_and_succeed();
    assert_eq!(cores_of(daemon, &home), Some(last.to_string()));
    let detail = daemon.connect_modern().ok("process.status", json!({"id": "bound", "detail": true}));
    assert_eq!(
        (&detail["detail"]["cpus"], &detail["detail"]["reactorCpu"]),
        (&json!([last]), &json!(last)),
        "{detail}"
    );
}

mod killed {
    use super::what_is_bound_to_cores_stays_so_under_the_next_kernel;
    crate::adoption::lives_on_both_drivers!(what_is_bound_to_cores_stays_so_under_the_next_kernel);
}

/// `kairo run` with these words: what it wrote on stderr.
fn run(words: &[&str], stdout: &str) -> String {
    let mut command = Command::new(program());
    command.args(words).env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
    let output = command.output().expect("kairo runs");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(0), stdout));
    String::from_utf8(output.stderr).expect("stderr is text")
}

#[test]
fn a_run_ends_with_its_numbers() {
    let table = run(&["run", "--stats", "--", "echo", "hello"], "hello\n");
    for part in ["wall ", "cpu ", "memory ", "faults ", "switches ", "stdout   6 B, "] {
        assert!(table.contains(part), "{table}");
    }
    let told = run(&["run", "--json", "--stats", "--", "echo", "hello"], "hello\n");
    let told: Json = serde_json::from_str(&told).expect("JSON");
    assert_eq!((&told["exitCode"], &told["stats"]["streams"][0]["bytes"]), (&json!(0), &json!(6)));
    assert!(told["stats"]["wallUs"].as_u64() > Some(0));
}

#[test]
fn a_run_of_several_ends_with_the_numbers_of_each() {
    let pipeline = ["--", "echo", "hello", "|", "tr", "h", "j"];
    let tables = run(&[&["run", "--stats"], &pipeline[..]].concat(), "jello\n");
    let names: Vec<&str> = tables.lines().filter(|line| line.ends_with(':')).collect();
    assert_eq!(
        (names.as_slice(), tables.matches("wall ").count()),
        (&["pipeline.0:", "run:"][..], 2),
        "{tables}"
    );
    let told = run(&[&["run", "--json", "--stats"], &pipeline[..]].concat(), "jello\n");
    let told: Json = serde_json::from_str(&told).expect("JSON");
    assert_eq!((&told["stats"][0]["id"], &told["stats"][1]["id"]), (&json!("pipeline.0"), &json!("run")));
    assert_eq!(told["stats"][1]["streams"][0]["bytes"], 6);
}

#[test]
fn a_run_stays_on_its_core() {
    run(&["run", "--pin", "0@0", "--", ALLOWED[0], ALLOWED[1], ALLOWED[2]], "Cpus_allowed_list:\t0\n");
}

on_both_drivers!(
    chunks_tell_when_they_were_read_and_not_when_they_were_delivered,
    what_was_read_before_anybody_asked_has_about_its_time,
    usage_is_what_getrusage_told_the_child,
    what_runs_is_told_of_too_and_who_waited,
    a_process_stays_on_the_core_it_was_put_on,
    streams_are_served_on_the_core_that_was_asked_for,
);
