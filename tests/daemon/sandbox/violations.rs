//! What is denied is told: by which rule, on what, and what would help; once, and not a thousand times.
//!
//! Denied calls and accesses are heard from the kernel's audit, which takes root (or a log that may be read), accesses
//! an audit that is on as well; a test is skipped by name where this machine doesn't tell. That a filter ended a program is known
//! everywhere.

use super::arena::{can_contain, profile};
use super::spawn;
use crate::support::raw::Raw;
use crate::support::{Daemon, on_both_drivers, program, python, until};
use kairo_sandbox::ability::{Ability, Answer};
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const TOPIC: &str = "kairo.security.violation";
/// Asks for what no sandbox gives.
const PACKET: &str =
    "import socket\ntry: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nexcept OSError: pass\n";
/// Enters the kernel the 32-bit way.
const INT80: &str = "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\n\
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\n";

fn heard(answer: &Answer, test: &str) -> bool {
    if let Answer::Refused(why) = answer {
        println!("skipped, {why}: {test}");
    }
    answer.allowed() && can_contain(test)
}

fn watched(id: &str, sandbox: &Json, argv: &[&str]) -> Json {
    let mut params = spawn(sandbox, argv);
    params["id"] = id.into();
    params["options"]["watch"] = true.into();
    params
}

fn violation(raw: &mut Raw, id: &str) -> Json {
    raw.event(TOPIC, |event| event["payload"]["id"] == id)["payload"].clone()
}

fn a_denied_call_is_told_with_its_rule_and_a_hint(daemon: &Daemon) {
    if !heard(&Ability::probe().denied_calls, "a_denied_call_is_told_with_its_rule_and_a_hint") {
        return;
    }
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": TOPIC}));
    let lasting = format!("{PACKET}import time\ntime.sleep(1000)");
    let answer = raw.ok("process.spawn", watched("leader", &profile(), &[python(), "-c", &lasting]));
    let told = violation(&mut raw, "leader");
    assert_eq!((&told["mechanism"], &told["subject"]), (&json!("seccomp"), &json!("socket")), "{told}");
    assert!(told["rule"].as_str().is_some_and(|rule| rule.contains("socket-families")), "{told}");
    assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("network")), "{told}");
    assert_eq!((&told["pid"], &told["count"]), (&answer["pid"], &json!(1)), "{told}");
    assert_eq!(told["principal"]["kind"], "skill", "{told}");
    // Of what it starts too, and of what is gone as soon as it was denied.
    let script = format!("{} -c \"$0\"; sleep 1000", python());
    raw.ok("process.spawn", watched("below", &profile(), &["sh", "-c", &script, &lasting]));
    let told = violation(&mut raw, "below");
    assert_eq!(told["subject"], "socket", "{told}");
    raw.ok("process.spawn", watched("brief", &profile(), &[python(), "-c", PACKET]));
    assert_eq!(violation(&mut raw, "brief")["subject"], "socket");
    // Nobody asked, nobody is told; and probes are nobody's violation.
    raw.ok("process.spawn", spawn(&profile(), &[python(), "-c", PACKET]));
    raw.ok("process.spawn", watched("good", &profile(), &["true"]));
    raw.wait_until_ended(&["it", "good"]);
    raw.ok("process.spawn", watched("last", &profile(), &[python(), "-c", PACKET]));
    let next = raw.event(TOPIC, |_| true);
    assert_eq!(next["payload"]["id"], "last", "{next}");
}

fn what_is_denied_again_and_again_is_counted(daemon: &Daemon) {
    if !heard(&Ability::probe().denied_calls, "what_is_denied_again_and_again_is_counted") {
        return;
    }
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": TOPIC}));
    let many = format!("for _ in range(50):\n{}", indented(PACKET));
    raw.ok("process.spawn", watched("many", &profile(), &[python(), "-c", &many]));
    let (mut events, mut count) = (0, 0);
    // The kernel's log, which is all an ordinary user may read, drops what comes too fast.
    let least = if crate::support::is_root() { 50 } else { 1 };
    until("all are counted", || {
        count += violation(&mut raw, "many")["count"].as_u64().expect("a count");
        events += 1;
        count >= least
    });
    assert!(count <= 50 && events <= 3, "{count} in {events} events");
}

/// The exit tells it, whoever the daemon is.
fn a_program_its_filter_ended_is_told_of(daemon: &Daemon) {
    if !can_contain("a_program_its_filter_ended_is_told_of") || cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": TOPIC}));
    raw.ok("process.spawn", spawn(&profile(), &[python(), "-c", INT80]));
    if raw.wait_for_exit("it")["exitCode"] != 128 + 31 {
        return println!("skipped, this kernel has no 32-bit entry: a_program_its_filter_ended_is_told_of");
    }
    let told = violation(&mut raw, "it");
    assert_eq!((&told["mechanism"], &told["rule"]), (&json!("seccomp"), &json!("architecture")), "{told}");
    // Uncontained nobody has denied anything.
    raw.ok("process.spawn", json!({"id": "free", "command": ["sh", "-c", "kill -SYS $$"]}));
    raw.wait_until_ended(&["free"]);
    raw.ok("process.spawn", watched("again", &profile(), &[python(), "-c", INT80]));
    let next = raw.event(TOPIC, |_| true);
    assert_eq!(next["payload"]["id"], "again", "{next}");
    // Heard from the exit and from the audit it is told once.
    raw.ok("process.spawn", watched("last", &profile(), &[python(), "-c", INT80]));
    let next = raw.event(TOPIC, |_| true);
    assert_eq!(next["payload"]["id"], "last", "{next}");
}

fn a_denied_access_is_told_with_its_path(daemon: &Daemon) {
    if !heard(&Ability::probe().denied_files, "a_denied_access_is_told_with_its_path") {
        return;
    }
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": TOPIC}));
    raw.ok("process.spawn", watched("reader", &profile(), &["cat", "/etc/hostname"]));
    let told = raw.event(TOPIC, |event| event["payload"]["subject"] == "/etc/hostname")["payload"].clone();
    let told = (&told["id"], &told["mechanism"], &told["rule"], &told["hint"]);
    let hint = json!("files.read: [\"/etc/hostname\"]");
    assert_eq!(told, (&json!("reader"), &json!("landlock"), &json!("fs.read_file"), &hint));
}

/// Beside the program's own complaints, on stderr.
#[test]
fn the_command_line_says_what_was_denied() {
    let test = "the_command_line_says_what_was_denied";
    if !heard(&Ability::probe().denied_calls, test) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let wish = folder.path().join("wish.json");
    std::fs::write(&wish, profile().to_string()).expect("a file");
    let failing = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)";
    let run = |json: bool| {
        let mut command = std::process::Command::new(program());
        command.env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null()).current_dir("/");
        if json {
            command.arg("--json");
        }
        command.args(["run", "--sandbox"]).arg(&wish).args(["--", python(), "-c", failing]);
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // The command waits a moment for what the system tells late: on a machine that is busy it may be later than that.
    until("it is said in words", || {
        let (code, said) = run(false);
        assert!(code == Some(1) && said.contains("PermissionError"), "{said}");
        said.contains("kairo: denied by seccomp: socket, ")
    });
    until("it is said as an object", || {
        let (_, said) = run(true);
        let mut objects = said.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
        objects.any(|object| object["violation"]["subject"] == "socket")
    });
}

/// Whoever follows a process is told what it is denied, as whoever reads its log does.
fn a_follower_is_told_too(daemon: &Daemon) {
    if !heard(&Ability::probe().denied_calls, "a_follower_is_told_too") {
        return;
    }
    let mut raw = daemon.connect_modern();
    let again = format!(
        "import time\nprint('begun', flush=True)\nwhile True:\n{}\n time.sleep(0.05)",
        indented(PACKET)
    );
    raw.ok("process.spawn", watched("it", &profile(), &[python(), "-c", &again]));
    for verb in [&["logs", "--follow"], &["attach", "--read-only"]] {
        let mut command = daemon.cli(&[verb, &["it"][..]].concat());
        let mut follower = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it runs");
        let said = BufReader::new(follower.stderr.take().expect("piped")).lines();
        let told =
            said.map_while(Result::ok).find(|line| line.contains("kairo: denied by seccomp: socket, "));
        follower.kill().and_then(|()| follower.wait()).expect("it ends");
        assert!(told.is_some(), "{verb:?}");
    }
}

fn indented(script: &str) -> String {
    script.lines().map(|line| format!(" {line}\n")).collect()
}

on_both_drivers!(
    a_follower_is_told_too,
    a_denied_call_is_told_with_its_rule_and_a_hint,
    what_is_denied_again_and_again_is_counted,
    a_program_its_filter_ended_is_told_of,
    a_denied_access_is_told_with_its_path,
);
