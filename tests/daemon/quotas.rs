//! Quotas: who has enough is told so by name, others go on, and the next kernel counts the same.

use crate::support::raw::{Raw, Refusal, request_bytes, value};
use crate::support::{Daemon, Driver, Options, python, until};
use serde_json::{Value as Json, json};
use std::fmt::Write as _;

const NARROW: &str = "[quotas.\"skill:flood\"]\nprocesses = 3\nbytes_in_flight = \"64 KiB\"\nconnections = 2\n\
    subscriptions = 4\nevents_per_second = 50\nspool_bytes = \"16 MiB\"\n\
    [quotas.session]\nconnections = 2\nprocesses = 2\n";

fn on_each_driver(test: fn(Daemon)) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, NARROW).expect("a file");
    let arguments = ["--config", file.to_str().expect("a path of text")];
    for driver in [Driver::Uring, Driver::Poll].into_iter().filter(|driver| driver.is_available()) {
        test(Daemon::start(&Options { arguments: &arguments, ..Options::plain(driver) }));
    }
}

fn flood(daemon: &Daemon) -> Raw {
    let mut raw = daemon.connect_modern();
    raw.ok("identify", json!({"skillId": "flood"}));
    raw
}

/// What a refusal says: which quota, how much of it may be had, how much is.
fn said(refusal: &Refusal) -> (String, u64, u64) {
    assert_eq!(refusal.code, "E_QUOTA_EXCEEDED", "{refusal:?}");
    let details = &refusal.info["details"];
    assert_eq!(details["principal"], "skill:flood", "{refusal:?}");
    let quota = details["quota"].as_str().expect("a name");
    assert!(refusal.text.contains(quota), "{}", refusal.text);
    let number = |name: &str| details[name].as_u64().expect("a number");
    (quota.to_owned(), number("limit"), number("used"))
}

fn is(quota: &str, limit: u64, used: u64) -> (String, u64, u64) {
    (quota.to_owned(), limit, used)
}

/// How much one has, and how often it was refused more.
pub(crate) fn counted(daemon: &Daemon, principal: &str, quota: &str) -> (u64, u64) {
    let mut owner = daemon.connect_modern();
    let accounts = owner.ok("quota.status", json!({}))["accounts"].as_array().cloned().unwrap_or_default();
    let account = accounts.iter().find(|account| account["principal"] == principal);
    let quotas = account.and_then(|account| account["quotas"].as_array().cloned()).unwrap_or_default();
    let Some(of) = quotas.iter().find(|of| of["quota"] == quota) else { return (0, 0) };
    (of["used"].as_u64().expect("a number"), of["refused"].as_u64().expect("a number"))
}

fn sleeper(id: &str) -> Json {
    json!({"id": id, "command": ["sleep", "1000"]})
}

#[test]
fn whoever_floods_is_told_of_what_and_the_owner_works_on() {
    on_each_driver(|daemon| {
        let mut owner = daemon.connect_modern();
        owner.ok("subscribe", json!({"topic": "kairo.quota.exceeded"}));
        let mut skill = flood(&daemon);
        for nth in 0..3 {
            skill.ok("process.spawn", sleeper(&format!("s{nth}")));
        }
        for nth in 3..50 {
            let refusal = skill.refused("process.spawn", sleeper(&format!("s{nth}")));
            assert_eq!(said(&refusal), is("processes", 3, 3));
        }
        for topic in ["a", "b", "c", "d"] {
            skill.ok("subscribe", json!({"topic": topic}));
        }
        let refusal = skill.refused("process.stdout.subscribe", json!({"pid": "s0"}));
        assert_eq!(said(&refusal), is("subscriptions", 4, 4));
        let batch = json!({"events": vec![json!({"type": "flood.drop"}); 51]});
        skill.ok("event.publish_batch", batch);
        // Another one is due when all of it is paid, which takes a second, however slow this machine is.
        let batch = json!({"events": vec![json!({"type": "flood.drop"}); 51]});
        let refusal = skill.refused("event.publish_batch", batch);
        let (quota, limit, _) = said(&refusal);
        assert_eq!((quota.as_str(), limit), ("eventsPerSecond", 50));
        assert!(refusal.info["details"]["retryAfterMs"].as_u64() > Some(0), "{refusal:?}");
        let write = json!({"id": "s0", "data": "x".repeat((64 << 10) + 1)});
        assert_eq!(said(&skill.refused("process.stdin.write", write)), is("bytesInFlight", 64 << 10, 0));
        let mut second = flood(&daemon);
        let mut third = daemon.connect_modern();
        let refusal = third.refused("identify", json!({"skillId": "flood"}));
        assert_eq!(said(&refusal), is("connections", 2, 2));
        second.ok("process.kill", json!({"id": "s0", "graceMs": 0, "signal": "KILL"}));
        until("there is room for one more", || counted(&daemon, "skill:flood", "processes").0 == 2);
        let spooled = |bytes: u64| json!({"id": "s", "command": ["sleep", "1000"], "options": {"spool": {"bytesMax": bytes}}});
        assert_eq!(said(&second.refused("process.spawn", spooled(9 << 20))), is("spoolBytes", 16 << 20, 0));
        second.ok("process.spawn", spooled(8 << 20));
        // Others have their own.
        let output = owner.run("owners", &["echo", "hello"], json!({}));
        assert_eq!(output.text().trim(), "hello");
        owner.ok("event.publish", json!({"type": "job.done"}));
        let told = owner.event("kairo.quota.exceeded", |event| event["payload"]["quota"] == "connections");
        assert_eq!(told["payload"]["principal"], "skill:flood");
        let shown = daemon.cli(&["quotas"]).output().expect("it runs");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let line = shown.lines().find(|line| line.contains("skill:flood") && line.contains("processes"));
        let words: Vec<&str> = line.expect("a line").split_whitespace().collect();
        assert_eq!(words, ["skill:flood", "processes", "3", "3", "(reached)", "3", "47", "owner"]);
        drop((skill, second, third, owner));
        daemon.finish();
    });
}

#[test]
fn the_next_kernel_counts_what_is_there() {
    on_each_driver(|mut daemon| {
        let mut skill = flood(&daemon);
        for nth in 0..3 {
            skill.ok("process.spawn", sleeper(&format!("s{nth}")));
        }
        daemon.connect().spawn("owners", &["sleep", "1000"], json!({}));
        for round in 0..2 {
            daemon.kill_and_succeed();
            assert_eq!(counted(&daemon, "skill:flood", "processes").0, 3, "round {round}");
            assert_eq!(counted(&daemon, "owner", "processes").0, 4, "round {round}");
            let mut skill = flood(&daemon);
            assert_eq!(said(&skill.refused("process.spawn", sleeper("more"))), is("processes", 3, 3));
        }
        let mut skill = flood(&daemon);
        skill.ok("process.kill", json!({"id": "s1", "graceMs": 0, "signal": "KILL"}));
        until("its tree is gone", || counted(&daemon, "skill:flood", "processes").0 == 2);
        skill.ok("process.spawn", sleeper("s3"));
        assert_eq!(counted(&daemon, "skill:flood", "processes").0, 3);
        drop(skill);
        daemon.finish();
    });
}

#[test]
fn a_child_with_too_many_connections_learns_why_on_each() {
    on_each_driver(|daemon| {
        let mut owner = daemon.connect_modern();
        let ping = request_bytes(1, "kernel.ping", value(&json!({})));
        let hex = ping.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        // Each answer is read before the next connection is made, so that which are too many is no race.
        let script = "import os,socket,sys\nping=bytes.fromhex(sys.argv[1])\nall=[]\n\
            for n in range(5):\n s=socket.socket(socket.AF_UNIX)\n s.connect(os.environ['KAIRO_IPC_SOCKET'])\n s.sendall(ping)\n\
            \x20got=s.recv(65536)\n full=b'E_QUOTA_EXCEEDED' in got and b'connections' in got\n\
            \x20print('full' if full else 'pong', flush=True)\n\
            \x20if full: print('closed' if s.recv(1)==b'' else 'open', flush=True)\n all.append(s)\n";
        let socket = json!({"env": {"KAIRO_IPC_SOCKET": daemon.socket.to_str()}});
        let output = owner.run("many", &[python(), "-c", script, &hex], socket);
        let words: Vec<String> = output.text().lines().map(str::to_owned).collect();
        assert_eq!(words, ["pong", "pong", "full", "closed", "full", "closed", "full", "closed"]);
        owner.ok("kernel.ping", json!({}));
        drop(owner);
        daemon.finish();
    });
}
