//! The audit: who did what and was refused what is in it, with principal and intent; it survives the daemon's deaths, and what
//! is done to an export is found, by us and by anybody who can read docs/AUDIT.md.

use crate::support::raw::Raw;
use crate::support::{Daemon, Driver, Options, on_both_drivers, python, until, with};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

on_both_drivers! { a_denial_a_spawn_and_a_shutdown_are_in_it_with_who_and_why }

/// A connection that sees all of an event.
fn seeing(daemon: &Daemon) -> Raw {
    let mut raw = daemon.connect();
    raw.ok("kernel.hello", json!({"features": ["envelope", "records", "int64"]}));
    raw
}

/// All records that match.
fn query(raw: &mut Raw, mut params: Json) -> Vec<Json> {
    let mut records = Vec::new();
    loop {
        let page = raw.ok("audit.query", params.clone());
        records.extend(page["records"].as_array().expect("a list").iter().cloned());
        match page["next"].as_u64() {
            Some(next) => params["after"] = json!(next),
            None => return records,
        }
    }
}

fn cli(daemon: &Daemon, arguments: &[&str]) -> Output {
    daemon.cli(arguments).output().expect("the program runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn export(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.folder().join(name);
    let done = cli(daemon, &["audit", "export", "-o", path.to_str().expect("a path of text")]);
    assert!(done.status.success(), "{}", text(&done));
    path
}

/// What `kairo audit verify FILE` says, which needs no daemon.
fn verified(daemon: &Daemon, file: &Path, more: &[&str]) -> (Option<i32>, String) {
    let file = file.to_str().expect("a path of text");
    let mut command = daemon.cli(&[&["audit", "verify", file], more].concat());
    let done = command.env("KAIRO_IPC_SOCKET", "/nonexistent").output().expect("the program runs");
    (done.status.code(), text(&done))
}

/// The store's own verification finds nothing.
fn is_sound(raw: &mut Raw) -> u64 {
    let (mut after, mut records) = (Json::Null, 0);
    loop {
        let params = if after.is_null() { json!({}) } else { json!({"after": after}) };
        let page = raw.ok("audit.verify", params);
        assert_eq!(page["problems"], json!([]), "{page}");
        records += page["records"].as_u64().expect("a number");
        after = page["next"].clone();
        if after.is_null() {
            return records;
        }
    }
}

fn a_denial_a_spawn_and_a_shutdown_are_in_it_with_who_and_why(daemon: &Daemon) {
    let mut owner = seeing(daemon);
    let intent = owner.ok("intent.begin", json!({"name": "render"}))["intentId"].clone();
    let meta = json!({"intentId": intent});
    let spawn = json!({"id": "one", "command": ["true"]});
    owner.call_with("process.spawn", &spawn, &meta).expect("it starts");
    let mut skill = daemon.connect();
    skill.ok("identify", json!({"skillId": "x"}));
    skill.refused("process.kill", json!({"id": "one"}));
    skill.refused("audit.query", json!({}));
    let head = owner.ok("audit.status", json!({}))["head"].clone();

    let spawned = query(&mut owner, json!({"type": "kairo.process.spawned", "intentId": intent}));
    assert_eq!((spawned.len(), &spawned[0]["principal"]), (1, &json!("owner")), "{spawned:?}");
    assert_eq!(spawned[0]["data"]["id"], "one");
    let called =
        query(&mut owner, json!({"principal": "owner", "target": "one", "type": "kairo.kernel.called"}));
    assert_eq!(
        (called[0]["data"]["method"].as_str(), &called[0]["intentId"]),
        (Some("process.spawn"), &intent)
    );
    let denied = query(&mut owner, json!({"principal": "skill:x", "type": "kairo.security.>"}));
    let methods: Vec<&str> = denied.iter().filter_map(|one| one["data"]["method"].as_str()).collect();
    assert_eq!(methods, ["process.kill", "audit.query"]);
    assert_eq!(query(&mut owner, json!({"fromMs": 1u64 << 50})), Vec::<Json>::new());
    let all = query(&mut owner, json!({"limit": 2}));
    let numbers: Vec<u64> = all.iter().filter_map(|one| one["n"].as_u64()).collect();
    let last = head["n"].as_u64().expect("a number");
    assert_eq!(numbers, (1..=last).collect::<Vec<u64>>(), "each once, in order");
    assert_eq!(all[0]["type"], "kairo.kernel.ready");
    assert_eq!(all.iter().filter(|one| one["type"] == "kairo.kernel.audit_begun").count(), 1);
    let shown = cli(daemon, &["audit", "query", "--principal", "skill:x", "--since", "1d"]);
    assert!(text(&shown).contains("kairo.security.denied"), "{}", text(&shown));
    is_sound(&mut owner);
}

#[test]
fn a_shutdown_is_the_last_thing_it_tells_and_is_signed() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    seeing(&daemon).ok("kernel.shutdown", json!({}));
    daemon.wait();
    daemon.succeed(&[]);
    let mut owner = seeing(&daemon);
    let all = query(&mut owner, json!({}));
    let of = |topic: &str| all.iter().position(|one| one["type"] == topic).expect("it is there");
    let asked = query(&mut owner, json!({"type": "kairo.kernel.called"}));
    assert_eq!(
        (&asked[0]["data"]["method"], &asked[0]["principal"]),
        (&json!("kernel.shutdown"), &json!("owner"))
    );
    assert!(of("kairo.kernel.stopping") > of("kairo.kernel.called"));
    is_sound(&mut owner);
    let lines = fs::read_to_string(export(&daemon, "export")).expect("it was written");
    let stopped = all[of("kairo.kernel.stopping")]["n"].clone();
    let signed = lines.lines().map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
    assert!(signed.filter_map(|line| line["checkpoint"]["n"].as_u64()).any(|n| Some(n) >= stopped.as_u64()));
    daemon.finish();
}

#[test]
fn it_is_sound_wherever_the_daemon_dies() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let mut known = 0;
    for point in
        ["spawn.sent", "spawn.heard", "log.taken", "log.written", "log.flushed", "exit.heard", "adopt.served"]
    {
        for nth in 1..=2 {
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
            daemon.succeed_unasked(&["--die-at", &format!("{point}:{nth}")]);
            if let Ok(mut raw) = Raw::try_connect(&daemon.socket) {
                for turn in 0..3 {
                    let id = format!("{point}-{nth}-{turn}");
                    let _ = raw.try_call("process.spawn", json!({"id": id, "command": ["true"]}));
                    let _ = raw.try_call("process.wait", json!({"id": id, "timeoutMs": 2_000}));
                    let _ = raw.try_call("event.publish", json!({"type": "a.b", "ack": "disk"}));
                }
            }
            daemon.signal_if_there(Signal::SIGKILL);
            daemon.wait();
            daemon.succeed(&[]);
            let mut raw = seeing(&daemon);
            let records = is_sound(&mut raw);
            assert!(records > known, "{point}: {records} records, and there were {known}");
            known = records;
            every_audited_event_has_one_record(&mut raw);
        }
    }
    let found = query(&mut seeing(&daemon), json!({"type": "kairo.kernel.audit_damaged"}));
    assert_eq!(found, Vec::<Json>::new());
    daemon.finish();
}

/// In the order of the log, each once.
fn every_audited_event_has_one_record(raw: &mut Raw) {
    let types = ["kairo.kernel.ready", "kairo.process.spawned", "kairo.security.>", "kairo.kernel.stopping"];
    let page = raw.ok("event.replay", json!({"types": types}));
    assert!(page.get("next").is_none_or(Json::is_null), "one page has them all");
    let events: Vec<Json> =
        page["events"].as_array().expect("a list").iter().map(|one| one["seq"].clone()).collect();
    let records: Vec<Json> = query(raw, json!({}))
        .iter()
        .filter(|one| {
            let topic = one["type"].as_str().unwrap_or_default();
            types.contains(&topic) || topic.starts_with("kairo.security.")
        })
        .map(|one| one["seq"].clone())
        .collect();
    assert_eq!(records, events);
}

/// An export with some of everything.
fn filled(daemon: &Daemon) -> PathBuf {
    let mut raw = seeing(daemon);
    let mut skill = daemon.connect();
    skill.ok("identify", json!({"skillId": "x"}));
    for turn in 0..20 {
        skill.refused("kernel.shutdown", json!({}));
        if turn % 5 == 0 {
            raw.ok("audit.checkpoint", json!({}));
        }
    }
    export(daemon, "export.audit")
}

#[test]
fn what_is_done_to_an_export_is_found_and_named() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let file = filled(daemon);
        let key =
            seeing(daemon).ok("audit.status", json!({}))["publicKey"].as_str().expect("a key").to_owned();
        let (code, said) = verified(daemon, &file, &["--key", &key]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("sound") && said.contains(&key), "{said}");
        let (code, said) = verified(daemon, &file, &["--key", &"0".repeat(64)]);
        assert!(code == Some(1) && said.contains("another key"), "{said}");

        let whole = fs::read_to_string(&file).expect("it was written");
        let lines: Vec<&str> = whole.lines().collect();
        let record = |n: u64| {
            let is = |line: &&str| line.starts_with(&format!("{{\"n\":{n},"));
            lines.iter().position(is).expect("it is there")
        };
        let tampered = |name: &str, lines: &[&str], expected: &str| {
            let path = daemon.folder().join("tampered");
            fs::write(&path, lines.join("\n") + "\n").expect("it can be written");
            let (code, said) = verified(daemon, &path, &[]);
            assert_eq!(code, Some(1), "{name}: {said}");
            assert!(said.contains(expected), "{name}: {said}");
            assert!(!by_the_document(&path).0, "{name}: the document's own program finds it");
        };
        let at = record(7);
        let flipped = lines[at].replacen("\"bytes\":\"AAAA", "\"bytes\":\"AAAB", 1);
        let flipped_hash = lines[at].replacen("\"hash\":\"", "\"hash\":\"0", 1);
        assert_ne!(flipped, lines[at]);
        let with = |line: &str| {
            let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            line.clone_into(&mut lines[at]);
            lines
        };
        for changed in [with(&flipped), with(&flipped_hash)] {
            let changed: Vec<&str> = changed.iter().map(String::as_str).collect();
            tampered("changed", &changed, "record");
        }
        let mut dropped = lines.clone();
        dropped.remove(at);
        tampered("dropped", &dropped, "record 7: missing");
        let mut swapped = lines.clone();
        swapped.swap(record(8), record(9));
        tampered("reordered", &swapped, "record 8: missing");
        let mut doubled = lines.clone();
        doubled.insert(at, lines[at]);
        tampered("inserted", &doubled, "record 7: it stands behind");
        tampered("cut off", &lines[..lines.len() - 3], "cut off");
        let path = daemon.folder().join("read");
        let misread = whole.replacen("\"kernel.shutdown\"", "\"kernel.ping\"", 1);
        fs::write(&path, misread).expect("it can be written");
        let (code, said) = verified(daemon, &path, &[]);
        assert!(code == Some(1) && said.contains("what is there to be read"), "{said}");
    });
}

/// Runs the program that stands in docs/AUDIT.md. True if it finds the export sound.
fn by_the_document(export: &Path) -> (bool, String) {
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/AUDIT.md")).expect("it is there");
    let program = document.split("```python\n").nth(1).and_then(|rest| rest.split("```").next());
    let output = Command::new(python())
        .args(["-c", program.expect("a program is in it")])
        .arg(export)
        .output()
        .expect("python3 is there");
    (output.status.success(), text(&output))
}

#[test]
fn an_export_is_verified_by_what_the_document_says_alone() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let file = filled(daemon);
        let (sound, said) = by_the_document(&file);
        assert!(sound && said.contains("sound"), "{said}");
        // And one from whose beginning something was dropped.
        let mut raw = seeing(daemon);
        let before = raw.ok("audit.status", json!({}));
        let pruned = raw.ok("audit.prune", json!({"beforeMs": 1u64 << 50}));
        assert_eq!(
            pruned["anchor"]["checkpoint"]["n"], before["lastCheckpoint"]["checkpoint"]["n"],
            "{pruned}"
        );
        raw.spawn("after", &["true"], json!({}));
        until("what was dropped is gone from the store, too", || {
            let status = raw.ok("audit.status", json!({}));
            status["checkpoints"].as_u64().is_some_and(|left| left <= 3)
        });
        let records = query(&mut raw, json!({}));
        let anchor = &pruned["anchor"]["checkpoint"]["n"];
        assert!(records[0]["n"].as_u64() > anchor.as_u64(), "{records:?}");
        assert!(records.iter().any(|one| one["type"] == "kairo.kernel.audit_pruned"), "it was asked for");
        is_sound(&mut raw);
        let file = export(daemon, "pruned.audit");
        let (sound, said) = by_the_document(&file);
        assert!(sound, "{said}");
        assert_eq!(verified(daemon, &file, &[]).0, Some(0));
        let output = cli(daemon, &["audit", "verify"]);
        assert!(output.status.success(), "{}", text(&output));
    });
}

#[test]
fn a_chain_that_lost_its_end_or_its_key_says_so_and_goes_on() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let state = daemon.folder().join("state");
    seeing(&daemon).ok("audit.checkpoint", json!({}));
    let signed = seeing(&daemon).ok("audit.status", json!({}))["lastCheckpoint"]["checkpoint"]["n"].clone();
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    // The whole database is lost; the file beside it tells how far the chain was.
    fs::remove_dir_all(state.join("log/db")).expect("it is there");
    fs::remove_file(state.join("audit.key")).expect("it is there");
    daemon.succeed(&[]);
    let mut raw = seeing(&daemon);
    let mut damage = Vec::new();
    until("it is told", || {
        damage = query(&mut raw, json!({"type": "kairo.kernel.audit_damaged"}));
        damage.len() >= 2
    });
    let reasons: Vec<&str> = damage.iter().filter_map(|one| one["data"]["reason"].as_str()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("are gone")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("another key")), "{reasons:?}");
    assert!(damage[0]["n"].as_u64() > signed.as_u64(), "no number is used twice");
    let page = raw.ok("audit.verify", json!({}));
    assert_eq!(page["problems"][0]["from"], 1, "what is missing stays missing: {page}");
    assert_eq!(cli(&daemon, &["audit", "verify"]).status.code(), Some(1));
    daemon.finish();
}
