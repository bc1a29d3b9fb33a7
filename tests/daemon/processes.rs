//! Processes from spawn to end: trees, signals, ends, environments, limits.

use crate::streams::detail;
use crate::support::processes::{self, Name};
use crate::support::raw::{EVENT, Raw, value};
use crate::support::{Daemon, Driver, Options, on_both_drivers, python, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};
use std::process::Command;

fn ffmpeg_delivers_every_frame(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let size = "320x240";
    let source = format!("testsrc2=s={size}:r=25");
    let argv = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", &source, "-t", "4", "-pix_fmt", "yuv420p"];
    let argv = [&argv[..], &["-f", "rawvideo", "-"]].concat();
    let output = raw.run("frames", &argv, json!({"stdin": "null"}));
    assert_eq!(output.stderr, b"", "ffmpeg complains");
    assert_eq!(output.stdout.len(), 320 * 240 * 3 / 2 * 100);
    assert_eq!(raw.wait_for_exit("frames")["exitCode"], 0);
}

fn python_answers_what_it_is_told(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("python", json!({}));
    raw.spawn(
        "python",
        &[python(), "-u", "-c", "import sys\nfor line in sys.stdin: print(eval(line))"],
        json!({}),
    );
    for question in ["6*7\n", "'a'*3\n"] {
        raw.ok("process.stdin.write", json!({"id": "python", "data": question}));
    }
    raw.ok("process.stdin.close", json!({"id": "python"}));
    assert_eq!(raw.collect(&subscription, 2).text(), "42\naaa\n");
}

fn a_kill_ends_the_whole_tree(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("tree", &["bash", "-c", "sleep 1000 & (sleep 1000 & sleep 1000) & wait"], json!({}));
    let leader = pid(&mut raw, "tree");
    until("five processes run", || processes::descendants(leader).len() >= 4);
    let tree: Vec<Name> = processes::descendants(leader).into_iter().chain(processes::name(leader)).collect();
    assert_eq!(raw.ok("process.kill", json!({"id": "tree"})), json!({"status": "killed", "id": "tree"}));
    until("all of them are gone", || tree.iter().all(|name| !processes::is_alive(*name)));
    assert_eq!(raw.wait_for_exit("tree")["exitCode"], 143);
    assert_eq!(
        raw.ok("process.kill", json!({"id": "tree"}))["status"],
        "killed",
        "killing twice is no error"
    );
    assert_eq!(raw.refused("process.kill", json!({"id": "nobody"})).text, "Process nobody not found");
}

fn a_daemonized_grandchild_belongs_to_the_tree(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("forker", json!({"stream": "stdout"}));
    raw.spawn("forker", &[python(), "-c", DOUBLE_FORKER], json!({}));
    assert_eq!(raw.wait_for_exit("forker")["exitCode"], 0);
    let frame = raw.frame().expect("the daemon's pid");
    let text = String::from_utf8_lossy(&crate::support::output::Chunk::of(&frame).data).into_owned();
    let grandchild = processes::name(text.trim().parse().expect("a pid")).expect("it runs");
    assert_eq!(detail(&mut raw, "forker")["phase"], "exited", "the tree has not ended");
    raw.ok("process.kill", json!({"id": "forker"}));
    until("the grandchild is gone", || !processes::is_alive(grandchild));
    raw.collect(&subscription, 1);
    raw.event_of("kairo.process.ended", "forker");
}

/// Forks twice, as daemons do, and leaves a grandchild in a session of its own that holds stdout.
const DOUBLE_FORKER: &str = "\
import os, sys, time
read, write = os.pipe()
if os.fork():
    os.read(read, 1)
    sys.exit(0)
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
os.write(write, b'x')
time.sleep(1000)
";

fn who_ignores_the_first_signal_gets_the_last_one(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("stubborn", json!({"stream": "stdout"}));
    raw.spawn(
        "stubborn",
        &["bash", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"],
        json!({}),
    );
    assert_eq!(raw.frame().expect("it is ready").kind, crate::support::raw::STREAM_CHUNK);
    raw.ok("process.kill", json!({"id": "stubborn", "graceMs": 50}));
    let exit = raw.wait_for_exit("stubborn");
    assert_eq!(exit["exitCode"], 137);
    assert_eq!(
        (&exit["exit"]["signal"], &exit["exit"]["signalName"]),
        (&json!(9), &json!("SIGKILL")),
        "{exit}"
    );
    assert_eq!(exit["exit"]["endedBy"]["cause"], "grace_over");
    raw.collect(&subscription, 1);
}

fn pausing_stops_the_tree_and_killing_it_works_all_the_same(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("tree", &["bash", "-c", "sleep 1000 & wait"], json!({}));
    let leader = pid(&mut raw, "tree");
    until("both run", || processes::descendants(leader).len() == 1);
    let child = processes::descendants(leader)[0].pid;
    let both =
        |stopped: bool| processes::is_stopped(leader) == stopped && processes::is_stopped(child) == stopped;
    assert_eq!(raw.ok("process.pause", json!({"id": "tree"})), json!({"status": "paused", "id": "tree"}));
    until("both are stopped", || both(true));
    assert_eq!(detail(&mut raw, "tree")["phase"], "paused");
    assert_eq!(raw.ok("process.resume", json!({"id": "tree"}))["status"], "resumed");
    until("both go on", || both(false));
    raw.ok("process.pause", json!({"id": "tree"}));
    raw.ok("process.kill", json!({"id": "tree"}));
    assert_eq!(raw.wait_for_exit("tree")["exitCode"], 143, "a paused tree hears SIGTERM");
    assert_eq!(raw.ok("process.pause", json!({"id": "nobody"}))["status"], "failed");
    assert_eq!(raw.ok("process.resume", json!({"id": "nobody"}))["status"], "failed");
}

fn signals_go_by_name_or_number(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("traps", json!({"stream": "stdout"}));
    let script =
        "for s in HUP USR1 USR2; do trap \"echo $s\" $s; done; echo ready; while :; do read -t 1000; done";
    raw.spawn("traps", &["bash", "-c", script], json!({}));
    let mut said = String::new();
    for (signal, word) in
        [(json!(null), "ready"), (json!("HUP"), "HUP"), (json!("SIGUSR1"), "USR1"), (json!(12), "USR2")]
    {
        if !signal.is_null() {
            let sent = raw.ok("process.signal", json!({"id": "traps", "signal": signal, "scope": "leader"}));
            assert_eq!((&sent["status"], &sent["processes"]), (&json!("signalled"), &json!(1)));
        }
        while !said.contains(word) {
            let frame = raw.frame().expect("its word");
            if frame.kind == crate::support::raw::STREAM_CHUNK {
                said.push_str(&String::from_utf8_lossy(&crate::support::output::Chunk::of(&frame).data));
            }
        }
    }
    assert_eq!(said, "ready\nHUP\nUSR1\nUSR2\n");
    raw.ok("process.kill", json!({"id": "traps", "signal": "KILL"}));
    raw.collect(&subscription, 1);
}

fn the_three_ends_are_told_in_order(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": "kairo.>"}));
    raw.spawn("short", &["bash", "-c", "echo hello; head -c 50000 /dev/zero >&2; exit 3"], json!({}));
    let mut seen: Vec<(String, Json)> = Vec::new();
    let count =
        |seen: &[(String, Json)], wanted: &str| seen.iter().filter(|(topic, _)| topic == wanted).count();
    // Streams close when their ends are read, the tree ends when the keeper has reaped it: in either order.
    while count(&seen, "kairo.process.ended") < 1 || count(&seen, "kairo.stream.closed") < 2 {
        let frame = raw.frame().expect("events");
        let event = if frame.kind == EVENT { frame.json() } else { continue };
        if event["payload"]["id"] == "short" {
            seen.push((event["topic"].as_str().unwrap_or_default().to_owned(), event["payload"].clone()));
        }
    }
    let place =
        |topic: &str| seen.iter().position(|(seen, _)| seen == topic).unwrap_or_else(|| panic!("no {topic}"));
    assert!(place("kairo.process.spawned") < place("kairo.process.exited"));
    assert!(place("kairo.process.exited") < place("kairo.process.ended"));
    let exit = raw.wait_for_exit("short")["exit"].clone();
    assert_eq!((&exit["code"], &exit["signal"]), (&json!(3), &Json::Null), "{exit}");
    assert_eq!(exit["endedBy"]["cause"], "itself");
    assert!(exit["usage"]["maxRssKib"].as_u64().is_some_and(|kib| kib > 0), "{exit}");
    assert!(exit["durationMs"].is_u64());
    let detail = detail(&mut raw, "short");
    assert_eq!(detail["phase"], "ended");
    assert_eq!((&detail["streams"][0]["bytes"], &detail["streams"][1]["bytes"]), (&json!(6), &json!(50_000)));
}

fn the_status_tells_all_there_is_to_know(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let folder = daemon.folder().to_str().expect("a path");
    raw.spawn("known", &["sleep", "1000"], json!({"cwd": folder, "pipeBytes": 1 << 20, "env": {"A": "b"}}));
    let detail = detail(&mut raw, "known");
    let argv = &detail["argv"];
    assert_eq!((argv, &detail["cwd"]), (&json!(["sleep", "1000"]), &json!(folder)));
    assert_eq!(detail["pid"], pid(&mut raw, "known"));
    assert!(detail["envDigest"].as_str().is_some_and(|digest| digest.len() >= 16), "{detail}");
    assert_eq!(detail["streams"][0]["pipeBytes"], 1 << 20);
    assert!(["exact", "best_effort"].contains(&detail["tree"].as_str().unwrap_or_default()), "{detail}");
    let listed = raw.ok("process.list", json!({}));
    let ids: Vec<&Json> = listed["processes"].as_array().expect("a list").iter().map(|p| &p["id"]).collect();
    assert_eq!(ids, [&json!("known")]);
    assert_eq!(raw.ok("process.status", json!({"id": "unknown"})), json!({"state": "unknown"}));
}

fn a_child_has_the_environment_it_was_promised_and_no_other(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let output = raw.run("env", &["env"], json!({"env": {"MINE": "yes", "LANG": "C"}}));
    let text = output.text();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
    for name in &names {
        let promised =
            ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TERM", "TMPDIR", "XDG_RUNTIME_DIR"];
        let known = promised.contains(name)
            || name.starts_with("LC_")
            || name.starts_with("KAIRO_")
            || ["MINE", "TRACEPARENT"].contains(name);
        assert!(known, "{name} was not promised");
    }
    assert!(text.contains("MINE=yes\n") && text.contains("LANG=C\n") && names.contains(&"PATH"), "{text}");
    assert!(names.contains(&"KAIRO_SESSION"), "{text}");
    assert!(!names.contains(&"XDG_CONFIG_HOME"), "the daemon's own environment leaks");
    let inherited = raw.run("inherited", &["env"], json!({"inheritEnv": true})).text();
    assert!(inherited.contains("XDG_CONFIG_HOME="), "{inherited}");
}

fn the_path_of_the_child_finds_the_program(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let tool = daemon.folder().join("own-tool");
    std::fs::write(&tool, "#!/bin/sh\necho found \"$@\"\n").expect("a file");
    make_executable(&tool);
    let path = format!("{}:/usr/bin:/bin", daemon.folder().display());
    let odd = ["own-tool", "~", "a b", "it's!", "", "$HOME", "*"];
    let output = raw.run("tool", &odd, json!({"env": {"PATH": path}}));
    assert_eq!(output.text(), "found ~ a b it's!  $HOME *\n", "no shell touches argv");
    let refusal = raw.refused("process.spawn", json!({"id": "none", "command": ["own-tool"]}));
    assert_eq!(refusal.code, "E_EXECUTABLE_NOT_FOUND");
}

fn a_child_gets_its_descriptors_and_nothing_else(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let script = "ls -1 /proc/self/fd | tr '\\n' ' '; ulimit -n; grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let output = raw.run("fds", &["bash", "-c", script], json!({}));
    let text = output.text();
    assert!(text.starts_with("0 1 2 3 "), "3 is the folder that ls reads: {text}");
    let limit: u64 = text["0 1 2 3 ".len()..].lines().next().and_then(|n| n.parse().ok()).expect("a number");
    let (ours, _) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("a limit");
    assert_eq!(limit, ours, "RLIMIT_NOFILE of a child is what the daemon was started with");
    for line in text.lines().filter(|line| line.starts_with("Sig")) {
        assert!(line.trim_end().ends_with("0000000000000000"), "signals are blocked or ignored: {line}");
    }
}

fn ids_are_what_they_look_like(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let spawn = |id: Json| json!({"id": id, "command": ["sleep", "1000"]});
    assert_eq!(raw.ok("process.spawn", spawn(json!(77)))["id"], 77, "a number stays a number");
    assert_eq!(
        raw.refused("process.spawn", spawn(json!("77"))).code,
        "E_ALREADY_EXISTS",
        "77 and \"77\" collide"
    );
    assert_eq!(raw.refused("process.spawn", spawn(json!(77))).code, "E_ALREADY_EXISTS");
    let long = "x".repeat(256);
    assert_eq!(raw.refused("process.spawn", spawn(json!(long))).code, "E_INVALID_PARAMS");
    raw.ok("process.kill", json!({"id": 77, "signal": "KILL"}));
    raw.ok("process.wait", json!({"id": 77}));
    raw.ok("process.spawn", spawn(json!(77)));
}

fn an_id_being_killed_is_soon_free_again(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.subscribe("again", json!({"stream": "stdout"}));
    raw.spawn(
        "again",
        &["bash", "-c", "trap '' TERM; echo ready; while :; do read -t 1000; done"],
        json!({}),
    );
    raw.frame().expect("it is ready");
    let first = pid(&mut raw, "again");
    raw.ok("process.kill", json!({"id": "again", "graceMs": 60_000}));
    raw.spawn("again", &["sleep", "1000"], json!({}));
    assert_ne!(pid(&mut raw, "again"), first);
}

fn a_tree_goes_with_its_connection_if_it_asked_to(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let mut other = daemon.connect();
    raw.spawn("bound", &["sleep", "1000"], json!({"onDisconnect": "kill"}));
    raw.spawn("free", &["sleep", "1000"], json!({}));
    let bound = processes::name(pid(&mut other, "bound")).expect("it runs");
    drop(raw);
    until("the bound one is gone", || !processes::is_alive(bound));
    assert_eq!(other.wait_for_exit("bound")["exit"]["endedBy"]["cause"], "disconnect");
    assert_eq!(other.ok("process.status", json!({"id": "free"}))["state"], "running");
}

fn what_cannot_be_enforced_is_refused_or_admitted(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let spawn = |options: Json| json!({"id": "limited", "command": ["sleep", "1000"], "options": options});
    let sandbox =
        raw.refused("process.spawn", spawn(json!({"sandbox": {"network": {"domains": ["x.org"]}}})));
    assert_eq!(sandbox.code, "E_UNSUPPORTED");
    match raw.call("process.spawn", spawn(json!({"limits": {"memory": 512}}))) {
        Ok(_) => assert_eq!(detail(&mut raw, "limited")["limits"][0]["mechanism"], "cgroup"),
        Err(refusal) => {
            assert_eq!(refusal.code, "E_UNSUPPORTED");
            raw.ok("process.spawn", spawn(json!({"limits": {"memory": 512}, "allowWeaker": true})));
            let limit = detail(&mut raw, "limited")["limits"][0].clone();
            assert_eq!(limit, json!({"name": "memory", "mechanism": "rlimit", "value": 512 << 20}));
        }
    }
    let limits = json!({"limits": {"rlimits": {"nofile": 64, "core": 0}}});
    let output = raw.run("rlimits", &["bash", "-c", "ulimit -n; ulimit -c"], limits);
    assert_eq!(output.text(), "64\n0\n");
}

fn a_thousand_children_come_and_go_and_leave_nothing(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let spawn = |raw: &mut Raw, number: usize| {
        let params = json!({"id": format!("child-{number}"), "command": ["sh", "-c", "echo hello"]});
        raw.request("process.spawn", value(&params));
    };
    let (mut started, mut exited) = (0, 0);
    while exited < 1000 {
        while started < 1000 && started < exited + 16 {
            spawn(&mut raw, started);
            started += 1;
        }
        let frame = raw.frame().expect("notices");
        let json = frame.json();
        assert!(json["error"].is_null(), "{json}");
        exited += usize::from(json["topic"] == "process.exit");
    }
    until("no descriptor of theirs is left", || daemon.descriptors_leaked() == 0);
    let keeper = daemon.keeper().expect("a keeper");
    // What the latest of them wrote outlives the kernel; each is a descriptor of the keeper.
    let kept = kairo_dataplane::limits::HELD_ENDED_MAX;
    until("nor in the keeper, but for those", || processes::descriptors(keeper.pid) < kept + 40);
}

fn an_idle_daemon_does_not_wake(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("sleeper", &["sleep", "1000"], json!({}));
    raw.subscribe("sleeper", json!({}));
    let keeper = daemon.keeper().expect("a keeper").pid;
    let switches = || processes::voluntary_switches(daemon.pid()) + processes::voluntary_switches(keeper);
    let window = |seconds: &str| Command::new("sleep").arg(seconds).status().expect("sleep runs");
    // What has happened so far is written, flushed and indexed first.
    until("all is done", || {
        let before = switches();
        window("0.3");
        switches() == before
    });
    let before = switches();
    window("2");
    assert_eq!(switches() - before, 0, "an idle daemon with a silent stream wakes up");
}

#[test]
fn whatever_ends_a_daemon_its_processes_go_on_until_they_are_told_to_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
        let mut raw = daemon.connect();
        raw.spawn("tree", &["bash", "-c", "sleep 1000 & wait"], json!({}));
        raw.spawn("forker", &[python(), "-c", DOUBLE_FORKER], json!({}));
        raw.wait_for_exit("forker");
        let leader = pid(&mut raw, "tree");
        until("the tree stands", || processes::descendants(leader).len() == 1);
        // Keeper, bash, sleep, the grandchild; not its parent, who may take a moment to go.
        until("the others stand", || processes::descendants(daemon.pid()).len() == 4);
        let all = processes::descendants(daemon.pid());
        daemon.signal(signal);
        daemon.wait();
        daemon.succeed(&[]);
        assert!(all.iter().all(|name| processes::is_alive(*name)), "{signal} ended somebody");
        assert_eq!(pid(&mut daemon.connect(), "tree"), leader);
        daemon.connect().ok("kernel.shutdown", json!({"graceMs": 100}));
        daemon.wait();
        until(&format!("all are gone after {signal}"), || all.iter().all(|name| !processes::is_alive(*name)));
    }
}

#[test]
fn without_its_keeper_a_daemon_says_so() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let mut raw = daemon.connect();
    raw.spawn("orphan", &["sleep", "1000"], json!({}));
    let orphan = processes::name(pid(&mut raw, "orphan")).expect("it runs");
    let keeper = daemon.keeper().expect("a keeper");
    kill(Pid::from_raw(keeper.pid), Signal::SIGKILL).expect("the keeper is ours");
    until("spawns are refused", || {
        match raw.call("process.spawn", json!({"id": "late", "command": ["true"]})) {
            Ok(_) => panic!("nobody can have started it"),
            Err(refusal) => refusal.code == "E_KEEPER_LOST",
        }
    });
    raw.ok("kernel.ping", json!({}));
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    let _ = kill(Pid::from_raw(orphan.pid), Signal::SIGKILL);
}

/// The leader's pid.
fn pid(raw: &mut Raw, id: &str) -> i32 {
    let status = raw.ok("process.status", json!({"id": id}));
    status["pid"].as_i64().unwrap_or_else(|| panic!("{id} does not run: {status}")) as i32
}

/// `chmod +x`.
pub(crate) fn make_executable(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
}

on_both_drivers!(
    ffmpeg_delivers_every_frame,
    python_answers_what_it_is_told,
    a_kill_ends_the_whole_tree,
    a_daemonized_grandchild_belongs_to_the_tree,
    who_ignores_the_first_signal_gets_the_last_one,
    pausing_stops_the_tree_and_killing_it_works_all_the_same,
    signals_go_by_name_or_number,
    the_three_ends_are_told_in_order,
    the_status_tells_all_there_is_to_know,
    a_child_has_the_environment_it_was_promised_and_no_other,
    the_path_of_the_child_finds_the_program,
    a_child_gets_its_descriptors_and_nothing_else,
    ids_are_what_they_look_like,
    an_id_being_killed_is_soon_free_again,
    a_tree_goes_with_its_connection_if_it_asked_to,
    what_cannot_be_enforced_is_refused_or_admitted,
    a_thousand_children_come_and_go_and_leave_nothing,
    an_idle_daemon_does_not_wake,
);
