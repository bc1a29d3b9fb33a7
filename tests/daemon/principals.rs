//! Who may see and touch what.

use crate::support::raw::{EVENT, Raw, value};
use crate::support::{Daemon, Driver, NOBODY, Options, needs_root, on_both_drivers, program, python, with};
use serde_json::{Value as Json, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

fn a_skill_sees_and_touches_only_what_it_started(daemon: &Daemon) {
    let mut owner = daemon.connect();
    owner.spawn("owners", &["sleep", "1000"], json!({}));
    let mut skill = daemon.connect();
    assert_eq!(skill.ok("identify", json!({"skillId": "transcoder"}))["status"], "identified");
    skill.spawn("skills", &["sleep", "1000"], json!({}));
    assert_eq!(ids(&mut skill), ["skills"]);
    assert_eq!(ids(&mut owner), ["owners", "skills"]);
    let methods = ["process.kill", "process.pause", "process.stdin.close", "process.wait"];
    for method in methods {
        let refusal = skill.refused(method, json!({"id": "owners"}));
        assert_eq!(refusal.text, format!("权限拒绝: {method} 对进程 owners"));
        assert_eq!(refusal.code, "E_PERMISSION_DENIED");
    }
    let refusal = skill.refused("process.stdout.subscribe", json!({"pid": "owners"}));
    assert!(refusal.text.contains("权限拒绝"), "{refusal:?}");
    let refusal = skill.refused("process.spawn", json!({"id": "owners", "command": ["true"]}));
    assert!(["E_ALREADY_EXISTS", "E_PERMISSION_DENIED"].contains(&refusal.code.as_str()), "{refusal:?}");
    let refusal = skill.refused("kernel.shutdown", json!({}));
    assert_eq!(refusal.code, "E_PERMISSION_DENIED");
    owner.ok("process.kill", json!({"id": "skills"}));
}

fn an_identity_only_ever_lowers(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.ok("identify", json!({}));
    assert_eq!(raw.ok("kernel.hello", json!({}))["principal"]["kind"], "owner");
    raw.ok("identify", json!({"skillId": "one", "pid": 1, "runtimeToken": "rt_x"}));
    let principal = raw.ok("kernel.hello", json!({}))["principal"].clone();
    assert_eq!((&principal["kind"], &principal["skill"]), (&json!("skill"), &json!("one")));
    raw.ok("identify", json!({"skillId": "one"}));
    raw.ok("identify", json!({}));
    assert_eq!(
        raw.ok("kernel.hello", json!({}))["principal"]["skill"],
        "one",
        "an empty call changes nothing"
    );
    raw.refused("identify", json!({"skillId": "two"}));
}

fn events_and_notices_are_told_only_to_who_may_see_them(daemon: &Daemon) {
    let mut skill = daemon.connect();
    skill.ok("identify", json!({"skillId": "listener"}));
    skill.ok("subscribe", json!({"topic": "kairo.>"}));
    let mut owner = daemon.connect();
    owner.spawn("secret", &["true"], json!({}));
    owner.wait_for_exit("secret");
    skill.spawn("own", &["true"], json!({}));
    loop {
        let frame = skill.frame().expect("events");
        let event = if frame.kind == EVENT { frame.json() } else { continue };
        assert!(!event.to_string().contains("secret"), "{event}");
        if event["topic"] == "kairo.process.ended" {
            break;
        }
    }
}

fn anothers_subscription_cannot_be_ended(daemon: &Daemon) {
    let mut owner = daemon.connect();
    let subscription = owner.subscribe("later", json!({}));
    let mut skill = daemon.connect();
    skill.ok("identify", json!({"skillId": "meddler"}));
    let outcome = skill.call("process.stdout.unsubscribe", json!({"subscriptionId": subscription}));
    assert!(outcome.is_err() || outcome.is_ok_and(|reply| reply["ok"] == false));
    assert_eq!(owner.ok("process.stdout.unsubscribe", json!({"subscriptionId": subscription}))["ok"], true);
}

fn a_child_is_a_skill_whatever_it_says(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("owners", &["sleep", "1000"], json!({}));
    let program = program().to_str().expect("a path");
    let list = [program, "--json", "ps", "--all"];
    let socket = json!({"KAIRO_IPC_SOCKET": daemon.socket.to_str()});
    let output = raw.run("child", &list, json!({"env": socket}));
    let text = output.text();
    assert!(!text.contains("owners"), "the child sees what it did not start: {text}");
    let hello = [program, "--json", "call", "kernel.hello", "{}"];
    let output = raw.run("asker", &hello, json!({"env": socket}));
    assert!(output.text().contains("skill"), "{output:?}");
    let kill = [program, "kill", "owners"];
    let output = raw.run("killer", &kill, json!({"env": socket}));
    assert_ne!(raw.wait_for_exit("killer")["exitCode"], 0, "{output:?}");
    assert_eq!(raw.ok("process.status", json!({"id": "owners"}))["state"], "running");
}

#[test]
fn the_socket_is_the_owners_alone() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let metadata = std::fs::metadata(&daemon.socket).expect("a socket");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    });
}

#[test]
fn two_users_of_one_daemon_see_only_their_own() {
    if !needs_root("two_users_of_one_daemon_see_only_their_own") {
        return;
    }
    let arguments = ["--group", "nogroup"];
    with(&Options { arguments: &arguments, ..Options::plain(Driver::Poll) }, |daemon| {
        std::fs::set_permissions(daemon.folder(), Permissions::from_mode(0o755)).expect("the folder is ours");
        assert_eq!(std::fs::metadata(&daemon.socket).expect("a socket").permissions().mode() & 0o777, 0o660);
        let mut root = daemon.connect();
        root.spawn("roots", &["sleep", "1000"], json!({}));
        let spawned = as_nobody(daemon, &["spawn", "--id", "nobodys", "--cwd", "/", "--", "sleep", "1000"]);
        assert!(spawned.status.success(), "{spawned:?}");
        let listed = String::from_utf8_lossy(&as_nobody(daemon, &["ps", "--quiet"]).stdout).into_owned();
        assert_eq!(listed.trim(), "nobodys");
        assert_eq!(ids(&mut root), ["roots", "nobodys"]);
        assert!(!as_nobody(daemon, &["kill", "roots"]).status.success());
        assert!(!as_nobody(daemon, &["shutdown"]).status.success());
        assert_eq!(root.ok("process.status", json!({"id": "roots"}))["state"], "running");
        let pid =
            root.ok("process.status", json!({"id": "nobodys"}))["pid"].as_i64().expect("it runs") as i32;
        let uids = crate::support::processes::status_line(pid, "Uid").expect("a status");
        assert!(uids.split_whitespace().all(|uid| uid == NOBODY.to_string()), "it runs as {uids}");
        let groups = crate::support::processes::status_line(pid, "Groups").expect("a status");
        assert!(!groups.split_whitespace().any(|gid| gid == "0"), "it has groups of root: {groups}");
    });
}

#[test]
fn root_may_run_a_child_as_somebody_else() {
    if !needs_root("root_may_run_a_child_as_somebody_else") {
        return;
    }
    with(&Options::plain(Driver::Poll), |daemon| {
        let mut raw = daemon.connect_modern();
        for user in [json!("nobody"), json!(NOBODY)] {
            let id = format!("as-{user}");
            let output =
                raw.run(&id, &["sh", "-c", "id -u; id -g; id -G"], json!({"user": user, "cwd": "/"}));
            assert_eq!(output.text(), "65534\n65534\n65534\n", "{output:?}");
        }
        let unknown = json!({"id": "x", "command": ["true"], "options": {"user": "no-such-user-here"}});
        raw.refused("process.spawn", unknown);
    });
}

#[test]
fn an_ordinary_users_daemon_serves_him_and_nobody_else() {
    if !needs_root("an_ordinary_users_daemon_serves_him_and_nobody_else") {
        return;
    }
    for driver in [Driver::Uring, Driver::Poll] {
        with(&Options { uid: Some(NOBODY), ..Options::plain(driver) }, |daemon| {
            good(as_nobody(daemon, &["spawn", "--id", "who", "--cwd", "/", "--", "id", "-u"]));
            assert_eq!(good(as_nobody(daemon, &["logs", "-f", "who"])), "65534\n");
            let as_root = r#"{"id": "root", "command": ["id"], "options": {"user": 0, "cwd": "/"}}"#;
            let refused = as_nobody(daemon, &["call", "process.spawn", as_root]);
            assert!(!refused.status.success(), "{refused:?}");
            let blocks = crate::support::sequence::argv("64");
            let spawn = ["spawn", "--id", "bytes", "--cwd", "/", "--block-unread", "--"];
            good(as_nobody(daemon, &[&spawn[..], &blocks].concat()));
            let logs = as_nobody(daemon, &["logs", "-f", "--stream", "stdout", "bytes"]);
            assert_eq!(logs.stdout.len(), 64 * crate::support::sequence::BLOCK_BYTES);
            crate::support::sequence::check(&logs.stdout, 0);
            // Root may open his socket, as root may open everything, and is a stranger there.
            let mut root = daemon.connect();
            assert_eq!(root.ok("kernel.hello", json!({}))["principal"]["kind"], "user");
            assert!(ids(&mut root).is_empty());
            let spawn = json!({"id": "roots", "command": ["true"], "options": {"cwd": "/"}});
            assert_eq!(root.refused("process.spawn", spawn).code, "E_PERMISSION_DENIED");
            root.refused("kernel.shutdown", json!({}));
        });
    }
}

#[test]
fn a_user_who_has_spent_his_pipes_gets_smaller_ones_and_is_told() {
    if !needs_root("a_user_who_has_spent_his_pipes_gets_smaller_ones_and_is_told") {
        return;
    }
    with(&Options { uid: Some(NOBODY), ..Options::plain(Driver::Poll) }, |daemon| {
        // 64 MiB of pipes are a user's by default: 1 MiB each for stdin, stdout and stderr are soon too much.
        for number in 0..32 {
            let options = r#""options": {"pipeBytes": 1048576, "cwd": "/"}"#;
            let spawn = format!(r#"{{"id": "s{number}", "command": ["sleep", "1000"], {options}}}"#);
            good(as_nobody(daemon, &["call", "process.spawn", &spawn]));
        }
        let status = good(as_nobody(daemon, &["call", "process.status", r#"{"id": "s31", "detail": true}"#]));
        let status: Json = serde_json::from_str(&status).expect("JSON");
        let size = status["detail"]["streams"][0]["pipeBytes"].as_u64().expect("a size");
        assert!((4096..1 << 20).contains(&size), "pipes of {size} bytes");
        let blocks = crate::support::sequence::argv("64");
        let spawn = ["spawn", "--id", "bytes", "--cwd", "/", "--block-unread", "--"];
        good(as_nobody(daemon, &[&spawn[..], &blocks].concat()));
        let logs = as_nobody(daemon, &["logs", "-f", "--stream", "stdout", "bytes"]);
        crate::support::sequence::check(&logs.stdout, 0);
        for number in 0..32 {
            good(as_nobody(daemon, &["kill", &format!("s{number}")]));
        }
    });
}

#[test]
fn a_child_cannot_reach_the_keeper_by_what_it_inherits() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let mut raw = daemon.connect_modern();
        let script = "import os\nprint([os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in range(3)])";
        let output = raw.run("looker", &[python(), "-c", script], json!({}));
        assert_eq!(output.text(), "['pipe', 'pipe', 'pipe']\n", "{output:?}");
        raw.request("kernel.ping", value(&json!({})));
    });
}

/// Ids of what a connection may see.
fn ids(raw: &mut Raw) -> Vec<String> {
    let list = raw.ok("process.list", json!({}));
    let processes = list["processes"].as_array().cloned().unwrap_or_default();
    processes.iter().filter_map(|process: &Json| process["id"].as_str().map(str::to_owned)).collect()
}

/// What a command that succeeds prints.
#[track_caller]
fn good(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs the command line as nobody.
fn as_nobody(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(arguments).env("KAIRO_IPC_SOCKET", &daemon.socket).current_dir("/");
    command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).output().expect("the program runs")
}

on_both_drivers!(
    a_skill_sees_and_touches_only_what_it_started,
    an_identity_only_ever_lowers,
    events_and_notices_are_told_only_to_who_may_see_them,
    anothers_subscription_cannot_be_ended,
    a_child_is_a_skill_whatever_it_says,
);
