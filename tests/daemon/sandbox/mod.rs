//! Contained programs, from outside: what a spawn gets, what it is refused, and what is told of it.
//!
//! What a contained program tries from inside is in `battery`, real programs under the profiles that are shipped in
//! `examples`. Each needs Landlock and seccomp, and is skipped by name where this kernel has less than it asks for.

pub(crate) mod arena;
mod battery;
mod ladder;
mod shipped;
mod violations;

use crate::support::{Daemon, Driver, Options, on_both_drivers};
use arena::Arena;
pub(crate) use arena::{can_contain, profile};
use serde_json::{Value as Json, json};
use std::os::unix::process::CommandExt;

fn spawn(sandbox: &Json, argv: &[&str]) -> Json {
    json!({"id": "it", "command": argv, "options": {"cwd": "/", "sandbox": sandbox}})
}

fn what_is_in_force_is_told_in_the_answer_the_event_and_the_status(daemon: &Daemon) {
    if !can_contain("what_is_in_force_is_told_in_the_answer_the_event_and_the_status") {
        return;
    }
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": "kairo.process.spawned"}));
    let answer = raw.ok("process.spawn", spawn(&profile(), &["sleep", "1000"]));
    let receipt = answer["sandbox"].clone();
    let entry = |name: &str| {
        let entries = receipt["entries"].as_array().expect("entries").iter();
        entries.clone().find(|entry| entry["protection"] == name).expect("every protection is listed").clone()
    };
    assert_eq!(
        (&entry("files")["standing"], &entry("files")["by"]),
        (&json!("inForce"), &json!(["landlock"]))
    );
    assert_eq!(entry("network")["by"], json!(["seccomp"]));
    assert_eq!(receipt["filter"]["digest"].as_str().map(str::len), Some(64));
    let probes = receipt["probes"].as_array().expect("probes");
    let saw = |name: &str| probes.iter().find(|seen| seen["probe"] == name).map(|seen| seen["saw"].clone());
    assert_eq!((saw("noNewPrivileges"), saw("filterMode")), (Some(json!(1)), Some(json!(2))));
    assert_eq!((saw("readOutside"), saw("internetSocket")), (Some(json!(13)), Some(json!(13))));
    let told = raw.event("kairo.process.spawned", |event| event["payload"]["id"] == "it");
    assert_eq!(told["payload"]["sandbox"], receipt);
    let status = raw.ok("process.status", json!({"id": "it", "detail": true}));
    assert_eq!(status["detail"]["sandbox"], receipt);
    let pid = answer["pid"].as_i64().expect("a pid") as i32;
    let line = |name| crate::support::processes::status_line(pid, name);
    assert_eq!((line("Seccomp"), line("NoNewPrivs")), (Some("2".into()), Some("1".into())));
    // Who has no right to empty the bounding set gains nothing by it.
    let bounding = crate::support::is_root().then_some("CapBnd");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().chain(bounding) {
        assert_eq!(line(set), Some("0000000000000000".into()), "{set}");
    }
}

fn what_cannot_be_enforced_is_refused_by_name_and_nothing_is_started(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let mark = daemon.folder().join("started");
    let touch = ["touch", mark.to_str().expect("text")];
    for (sandbox, protection) in [
        (json!({"network": {"domains": ["example.org"]}, "acceptWeaker": ["signals"]}), "domains"),
        (json!({"network": {"loopback": [80]}, "acceptWeaker": ["signals"]}), "loopback"),
        (json!({"files": {"read": ["/etc"], "denyRead": ["/"]}}), "deniedPaths"),
    ] {
        let refusal = raw.refused("process.spawn", spawn(&sandbox, &touch));
        assert_eq!(refusal.code, "E_UNSUPPORTED", "{refusal:?}");
        if can_contain("what_cannot_be_enforced_is_refused_by_name_and_nothing_is_started") {
            assert_eq!(refusal.info["details"]["protection"], protection, "{refusal:?}");
        }
    }
    for (sandbox, field) in [
        (json!({"files": {"read": ["/a/../etc"]}}), "options.sandbox.files.read[0]"),
        (json!({"fiels": {}}), "options.sandbox"),
        (json!(7), "options.sandbox"),
        (
            json!({"filesystem": {"denyRead": [], "allowWrite": ["/x/*.c"], "denyWrite": []},
            "network": {"allowedDomains": [], "deniedDomains": []}}),
            "options.sandbox.filesystem.allowWrite[0]",
        ),
        (
            json!({"filesystem": {"denyRead": [], "allowWrite": [], "denyWrite": []},
            "network": {"allowedDomains": [], "deniedDomains": [], "allowLocalBinding": true}}),
            "options.sandbox.network.allowLocalBinding",
        ),
    ] {
        let refusal = raw.refused("process.spawn", spawn(&sandbox, &touch));
        assert_eq!(
            (refusal.code.as_str(), &refusal.info["details"]["field"]),
            ("E_INVALID_PARAMS", &json!(field)),
            "{refusal:?}"
        );
    }
    assert!(!mark.exists());
}

fn a_program_that_may_not_be_executed_is_not(daemon: &Daemon) {
    if !can_contain("a_program_that_may_not_be_executed_is_not") {
        return;
    }
    let mut raw = daemon.connect_modern();
    let refusal = raw.refused("process.spawn", spawn(&json!({"files": {"read": ["/"]}}), &["/bin/true"]));
    assert_eq!(refusal.code, "E_NOT_EXECUTABLE", "{refusal:?}");
}

fn what_a_contained_program_starts_is_contained_as_it_is(daemon: &Daemon) {
    let name = "what_a_contained_program_starts_is_contained_as_it_is";
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let kairo = arena.install(crate::support::program(), "kairo");
    let mut raw = daemon.connect_modern();
    let secret = arena.secret();
    let script = format!(
        "exec 2>&1; {kairo} spawn --id inner -- cat {secret} && {kairo} spawn --id fresh --sandbox {} -- true",
        arena.path("wish.json")
    );
    std::fs::write(arena.path("wish.json"), "{}").expect("a file");
    let output =
        raw.run("outer", &["sh", "-c", &script], json!({"cwd": "/", "sandbox": arena.profile(&json!({}))}));
    assert!(output.text().contains("can't ask for another one"), "{}", output.text());
    raw.wait_until_ended(&["inner"]);
    assert_eq!(raw.wait_for_exit("inner")["exitCode"], 1);
    let subscription = raw.subscribe("inner", json!({}));
    let output = raw.collect(&subscription, 2);
    assert_eq!(output.text(), "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{}", output.text());
}

fn the_original_configuration_is_carried_out_or_refused(daemon: &Daemon) {
    let name = "the_original_configuration_is_carried_out_or_refused";
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let mut raw = daemon.connect_modern();
    let config = |writable: Json| {
        json!({
            "network": {"allowedDomains": [], "deniedDomains": []},
            "filesystem": {"denyRead": [], "allowWrite": writable, "denyWrite": []},
        })
    };
    let script = format!(
        "exec 2>&1; echo x > {}/new && cat {} && echo read; echo x > {}/new && echo written",
        arena.inside(),
        arena.secret(),
        arena.outside()
    );
    let output = raw.run(
        "one",
        &["sh", "-c", &script],
        json!({"cwd": arena.inside(), "sandbox": config(json!([arena.inside()]))}),
    );
    assert!(output.text().contains("read") && !output.text().contains("written"), "{}", output.text());
    // An empty list means none, here as everywhere.
    let output = raw.run("two", &["sh", "-c", &script], json!({"cwd": "/", "sandbox": config(json!([]))}));
    assert!(!output.text().contains("read"), "{}", output.text());
    let mut domains = config(json!([]));
    domains["network"]["allowedDomains"] = json!(["example.org"]);
    let refusal = raw.refused("process.spawn", spawn(&domains, &["true"]));
    assert_eq!(refusal.info["details"]["protection"], "domains");
}

fn files_move_between_folders_that_are_both_allowed(daemon: &Daemon) {
    let name = "files_move_between_folders_that_are_both_allowed";
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let mut raw = daemon.connect_modern();
    // A second layer of Landlock would make this EXDEV, and `mv` would copy.
    let script = format!(
        "cd {} && mkdir a b && echo x > a/f && ln a/f b/l && python3 -c 'import os; os.rename(\"a/f\", \"b/f\")' && cat b/f",
        arena.inside()
    );
    let output =
        raw.run("mover", &["sh", "-c", &script], json!({"cwd": "/", "sandbox": arena.profile(&json!({}))}));
    assert_eq!(output.text(), "x\n");
}

fn a_grant_does_not_follow_a_link_that_was_left_for_it(daemon: &Daemon) {
    let name = "a_grant_does_not_follow_a_link_that_was_left_for_it";
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let mut raw = daemon.connect_modern();
    let link = arena.path("inside/later");
    std::os::unix::fs::symlink(arena.outside(), &link).expect("a link");
    let mut wider = arena.profile(&json!({}));
    wider["files"]["write"] = json!([arena.inside(), link]);
    let script = format!("exec 2>&1; echo x > {link}/secret && echo written");
    let output = raw.run("it", &["sh", "-c", &script], json!({"cwd": "/", "sandbox": wider}));
    assert!(output.text().contains("denied") && !output.text().contains("written"), "{}", output.text());
    let status = raw.ok("process.status", json!({"id": "it", "detail": true}));
    let missing = status["detail"]["sandbox"]["missing"].as_array().expect("a list").clone();
    assert!(missing.contains(&json!(link)), "{missing:?}");
}

/// Not even by what is uncontained, as far as the operating system lets it say so.
#[test]
fn a_kernel_is_not_looked_into_by_others_of_its_user() {
    if !crate::support::needs_root("a_kernel_is_not_looked_into_by_others_of_its_user") {
        return;
    }
    let options = Options { uid: Some(arena::NOBODY), ..Options::plain(Driver::Poll) };
    crate::support::with(&options, |daemon| {
        let mut look = std::process::Command::new("cat");
        look.arg(format!("/proc/{}/environ", daemon.pid()))
            .uid(arena::NOBODY)
            .gid(arena::NOBODY)
            .current_dir("/");
        let seen = look.output().expect("it runs");
        assert!(!seen.status.success() && seen.stdout.is_empty(), "{seen:?}");
    });
}

/// What a kernel that died had contained stays contained, and its successor doesn't know how: it starts nothing for it.
#[test]
fn a_contained_program_outlives_its_kernel_and_gets_nothing_started_by_the_next() {
    let name = "a_contained_program_outlives_its_kernel_and_gets_nothing_started_by_the_next";
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let Some(arena) = Arena::new(&daemon, None, name) else { return daemon.finish() };
    let kairo = arena.install(crate::support::program(), "kairo");
    let mut raw = daemon.connect_modern();
    let socket = daemon.socket.to_str().expect("text").to_owned();
    let script = format!(
        "exec 2>&1; until test -e {}; do sleep 0.02; done; cat {}; {kairo} --socket {socket} spawn --id next -- true",
        arena.path("inside/go"),
        arena.secret(),
    );
    let sandbox = arena.profile(&json!({"unixSockets": {"any": true}}));
    raw.spawn("it", &["sh", "-c", &script], json!({"cwd": "/", "sandbox": sandbox}));
    drop(raw);
    daemon.kill_and_succeed();
    std::fs::write(arena.path("inside/go"), "").expect("a file");
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("it", json!({"stream": "stdout"}));
    let said = raw.collect(&subscription, 1).text();
    assert!(said.contains("denied") && said.contains("a kernel that is gone"), "{said}");
    raw.ok("process.kill", json!({"id": format!("victim-{name}"), "signal": "KILL"}));
    drop(raw);
    daemon.finish();
}

on_both_drivers!(
    a_grant_does_not_follow_a_link_that_was_left_for_it,
    what_is_in_force_is_told_in_the_answer_the_event_and_the_status,
    what_cannot_be_enforced_is_refused_by_name_and_nothing_is_started,
    a_program_that_may_not_be_executed_is_not,
    what_a_contained_program_starts_is_contained_as_it_is,
    the_original_configuration_is_carried_out_or_refused,
    files_move_between_folders_that_are_both_allowed,
);
