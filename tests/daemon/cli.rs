//! The command line: `kairo run` as a program among programs, and the commands that talk to a daemon.

use crate::support::{Daemon, Driver, Options, processes, program, until, with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

/// `kairo run -- …`, without anybody's configuration.
fn run(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("run").args(arguments).env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn done(mut command: Command) -> Output {
    command.output().expect("the program runs")
}

#[test]
fn run_ends_as_its_program_does() {
    let cases: [(&[&str], i32); 7] = [
        (&["--", "true"], 0),
        (&["--", "sh", "-c", "exit 3"], 3),
        (&["--", "sh", "-c", "kill -TERM $$"], 143),
        (&["--", "sh", "-c", "kill -KILL $$"], 137),
        (&["--", "no-such-program-here"], 127),
        (&["--", "/etc/passwd"], 126),
        (&["--cwd", "/no/such/folder", "--", "true"], 125),
    ];
    for driver in ["uring", "poll"] {
        for (arguments, code) in cases {
            let output = done(run(&[&["--driver", driver], arguments].concat()));
            assert_eq!(
                output.status.code(),
                Some(code),
                "{arguments:?} on {driver}: {}",
                text(&output.stderr)
            );
        }
    }
}

#[test]
fn run_passes_bytes_both_ways_and_keeps_the_callers_surroundings() {
    let mut command = run(&["--", "sh", "-c", "pwd; echo $MINE; cat; echo oops >&2"]);
    let folder = std::env::temp_dir().canonicalize().expect("a folder");
    command.current_dir(&folder).env("MINE", "kept").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program runs");
    child.stdin.take().expect("piped").write_all(b"typed\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stdout), format!("{}\nkept\ntyped\n", folder.display()));
    assert_eq!(text(&output.stderr), "oops\n");
}

#[test]
fn run_loses_no_byte_of_many() {
    let blocks = crate::support::sequence::argv("1024");
    for driver in ["uring", "poll"] {
        let output = done(run(&[&["--driver", driver, "--"], &blocks[..]].concat()));
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(output.stdout.len(), 1024 * crate::support::sequence::BLOCK_BYTES);
        crate::support::sequence::check(&output.stdout, 0);
    }
}

#[test]
fn run_ends_when_its_reader_does() {
    let mut child = run(&["--", "yes"]).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "y");
    drop(lines);
    let mut status = None;
    until("run ends", || {
        status = child.try_wait().expect("our child");
        status.is_some()
    });
    assert_ne!(status.and_then(|status| status.code()), Some(125));
}

#[test]
fn run_takes_its_tree_with_it_however_it_dies() {
    // Not SIGINT: what a shell without job control starts in the background ignores it.
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGKILL] {
        let mut child = run(&["--", "bash", "-c", "sleep 1000 & echo $$ $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let tree: Vec<_> = line
            .split_whitespace()
            .map(|pid| processes::name(pid.parse().expect("a pid")).expect("it runs"))
            .collect();
        assert_eq!(tree.len(), 2);
        kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
        until(&format!("run ends by {signal}"), || child.try_wait().expect("our child").is_some());
        until(&format!("the tree is gone after {signal}"), || {
            tree.iter().all(|name| !processes::is_alive(*name))
        });
    }
}

#[test]
fn the_commands_drive_a_process_from_spawn_to_end() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let good = |arguments: &[&str]| {
            let output = done(daemon.cli(arguments));
            assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
            text(&output.stdout)
        };
        assert!(good(&["spawn", "--id", "calc", "--", "cat"]).contains("calc"));
        assert_eq!(good(&["ps", "--quiet"]).trim(), "calc");
        let listed = json_of(&good(&["--json", "ps"]));
        assert_eq!((&listed["v"], &listed["processes"][0]["id"]), (&json!(1), &json!("calc")));
        good(&["write", "calc", "6*7\\n"]);
        good(&["write", "--close", "calc", "bye\\n"]);
        assert_eq!(done(daemon.cli(&["wait", "calc"])).status.code(), Some(0));
        assert_eq!(good(&["logs", "-f", "calc"]), "6*7\nbye\n");
        let status = json_of(&good(&["--json", "status", "calc"]));
        assert_eq!(status["process"]["state"], "exited", "{status}");
        good(&["spawn", "--id", "sleeper", "sleep", "1000"]);
        good(&["signal", "sleeper", "STOP"]);
        good(&["kill", "sleeper"]);
        assert_eq!(done(daemon.cli(&["wait", "sleeper"])).status.code(), Some(143));
        assert!(good(&["call", "kernel.ping"]).contains("pong"));
        assert!(good(&["introspect"]).contains("process.spawn"));
        assert!(good(&["introspect", "process.spawn"]).contains("command"));
        assert!(good(&["--json", "doctor"]).contains("facts"));
    });
}

#[test]
fn attach_is_a_terminal_on_a_terminal() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let mut raw = daemon.connect();
        raw.spawn("shell", &["bash", "--norc", "-i"], json!({"pty": true, "env": {"PS1": "prompt$ "}}));
        let attach = format!("{} attach shell", program().display());
        // script gives the command a terminal of its own.
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &attach, "/dev/null"]).env("KAIRO_IPC_SOCKET", &daemon.socket);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script runs");
        let mut stdin = child.stdin.take().expect("piped");
        let mut stdout = child.stdout.take().expect("piped");
        let mut said = String::new();
        let mut piece = [0; 4096];
        let mut typed = false;
        loop {
            match stdout.read(&mut piece).expect("readable") {
                0 => break,
                got => said.push_str(&text(&piece[..got])),
            }
            if !typed && said.contains("attached to shell") {
                stdin.write_all(b"echo $((40+2)); exit 6\n").expect("it reads");
                typed = true;
            }
        }
        assert!(said.contains("42"), "{said:?}");
        assert_eq!(
            child.wait().expect("our child").code(),
            Some(6),
            "attach ends as the process does: {said:?}"
        );
    });
}

#[test]
fn events_are_shown_as_they_happen() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let mut command = daemon.cli(&["--json", "events", "--count", "1", "kairo.process.exited"]);
        let child = command.stdout(Stdio::piped()).spawn().expect("the program runs");
        // Spawned again and again until one comes after the subscription.
        let mut raw = daemon.connect();
        let mut child = child;
        let mut number = 0;
        until("an event is shown", || {
            raw.spawn(&format!("e{number}"), &["true"], json!({}));
            raw.wait_for_exit(&format!("e{number}"));
            number += 1;
            child.try_wait().expect("our child").is_some()
        });
        let mut line = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut line).expect("text");
        assert_eq!(json_of(&line)["topic"], "kairo.process.exited", "{line}");
    });
}

#[test]
fn shutdown_ends_processes_and_daemon() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let mut raw = daemon.connect();
    raw.spawn("sleeper", &["sleep", "1000"], json!({}));
    let all = processes::descendants(daemon.pid());
    assert!(done(daemon.cli(&["shutdown", "--grace", "1"])).status.success());
    assert!(daemon.wait().success());
    until("all are gone", || all.iter().all(|name| !processes::is_alive(*name)));
    assert!(!daemon.socket.exists());
}

#[test]
fn a_second_daemon_does_not_take_a_living_ones_socket() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let socket = daemon.socket.to_str().expect("a path");
        let state = daemon.folder().join("second");
        let output =
            done(daemon.cli(&["serve", "--socket", socket, "--state", state.to_str().expect("a path")]));
        assert_eq!(output.status.code(), Some(125), "{}", text(&output.stderr));
        assert!(!output.stderr.is_empty(), "it says why");
        daemon.connect().ok("kernel.ping", json!({}));
    });
}

#[test]
fn a_daemon_starts_over_a_dead_ones_socket_but_not_over_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("kernel.sock");
    let serve = || {
        let mut command = Command::new(program());
        command.arg("serve").arg("--socket").arg(&socket).arg("--state").arg(folder.path().join("state"));
        command.env("XDG_CONFIG_HOME", folder.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        command
    };
    std::fs::write(&socket, "precious").expect("a file");
    let output = done(serve());
    assert!(!output.status.success());
    assert_eq!(std::fs::read_to_string(&socket).expect("it is untouched"), "precious");
    std::fs::remove_file(&socket).expect("it is ours");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket nobody listens on"));
    let mut child = serve().spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
    assert!(line.contains(socket.to_str().expect("a path")), "the ready line names the socket: {line:?}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    assert!(child.wait().expect("our child").success());
}

#[test]
fn without_a_daemon_the_error_says_what_to_do() {
    let mut command = Command::new(program());
    command.args(["--socket", "/nonexistent/kernel.sock", "ps"]).env_remove("KAIRO_IPC_SOCKET");
    let output = done(command);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("kairo serve"), "{}", text(&output.stderr));
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands = [
        "run",
        "serve",
        "spawn",
        "attach",
        "write",
        "logs",
        "ps",
        "status",
        "wait",
        "kill",
        "signal",
        "resize",
        "shutdown",
        "events",
        "publish",
        "trace",
        "intent",
        "intents",
        "cancel",
        "views",
        "view",
        "consumers",
        "consume",
        "call",
        "introspect",
        "doctor",
        "config",
        "completions",
    ];
    for command in commands {
        let output = done({
            let mut help = Command::new(program());
            help.args([command, "--help"]);
            help
        });
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("Example"), "{command} --help has no example");
    }
    for shell in ["bash", "zsh", "fish"] {
        let mut completions = Command::new(program());
        completions.args(["completions", shell]);
        assert!(text(&done(completions).stdout).contains("kairo"));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "no_such_key = 1\n").expect("a file");
    let mut check = Command::new(program());
    check.args(["config", "check"]).arg(&file);
    let output = done(check);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("no_such_key"), "{}", text(&output.stderr));
}

fn json_of(text: &str) -> Json {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn adapters_are_listed_tried_and_checked_with_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "").expect("written");
    let kairo = |arguments: &[&str], input: &str| {
        let mut command = Command::new(program());
        command.arg("--config").arg(&config).args(arguments).stdin(Stdio::piped());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    };
    assert!(text(&kairo(&["adapters"], "").stdout).contains("ffmpeg"));
    let declaration =
        "[[adapter]]\nname = \"mine\"\nsource = \"stdout\"\nformat = \"key-value\"\nend = \"end\"\n";
    std::fs::write(folder.path().join("adapters.toml"), declaration).expect("written");
    let tried = kairo(&["adapters", "--try", "mine"], "done=1\ntotal=4\noops\nend=\n");
    let event: Json = serde_json::from_slice(&tried.stdout).expect("JSON");
    assert_eq!((&event["percent"], &event["brokenLines"]), (&json!(25.0), &json!(1)));
    let checked = kairo(&["config", "check"], "");
    assert!(text(&checked.stdout).contains("adapters.toml: in order"), "{}", text(&checked.stdout));
    std::fs::write(folder.path().join("adapters.toml"), format!("{declaration}rate_limit = 0\n"))
        .expect("written");
    let refused = kairo(&["config", "check"], "");
    assert_eq!(refused.status.code(), Some(125));
    assert!(
        text(&refused.stderr).contains("adapters.toml:6: rate_limit: must be"),
        "{}",
        text(&refused.stderr)
    );
}
