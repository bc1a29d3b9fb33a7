//! Children on a terminal.

use crate::streams::detail;
use crate::support::output::Chunk;
use crate::support::raw::{EVENT, Raw, STREAM_CHUNK};
use crate::support::{Daemon, on_both_drivers, python};
use serde_json::json;

/// Reads chunks until the text they make contains `wanted`.
fn read_until(raw: &mut Raw, text: &mut String, wanted: &str) {
    while !text.contains(wanted) {
        let frame = raw.frame().expect("frames");
        if frame.kind == STREAM_CHUNK {
            text.push_str(&String::from_utf8_lossy(&Chunk::of(&frame).data));
        }
        assert!(
            frame.kind != EVENT
                || frame.json()["topic"] != "stream.end"
                || frame.json()["data"]["stream"] == "stderr",
            "the stream ended without {wanted:?}: {text:?}"
        );
    }
}

fn a_terminal_has_the_size_it_was_given_and_tells_of_a_new_one(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.subscribe("shell", json!({}));
    let script = "trap 'stty size' WINCH; test -t 0 && test -t 1 && test -t 2 && stty size; while :; do read -t 1; done";
    raw.spawn("shell", &["bash", "-c", script], json!({"pty": {"rows": 31, "cols": 97}}));
    let mut text = String::new();
    read_until(&mut raw, &mut text, "31 97");
    let terminal = json!({"rows": 31, "cols": 97});
    assert_eq!(detail(&mut raw, "shell")["terminal"], terminal);
    raw.ok("process.resize", json!({"id": "shell", "rows": 40, "cols": 120}));
    read_until(&mut raw, &mut text, "40 120");
}

fn a_python_on_a_terminal_computes(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("repl", json!({"stream": "stdout"}));
    raw.spawn("repl", &[python(), "-q"], json!({"pty": true}));
    let mut text = String::new();
    read_until(&mut raw, &mut text, ">>> ");
    raw.ok("process.stdin.write", json!({"id": "repl", "data": "print(6*7)\n"}));
    read_until(&mut raw, &mut text, "42\r\n");
    // Between two prompts the terminal changes its mode, and what is typed then may be lost, as on any terminal.
    let mut rest = text.rsplit("42\r\n").next().unwrap_or_default().to_owned();
    read_until(&mut raw, &mut rest, ">>> ");
    raw.ok("process.stdin.close", json!({"id": "repl"}));
    raw.collect_rest(&subscription);
    assert_eq!(raw.wait_for_exit("repl")["exitCode"], 0, "the end-of-file character ends it");
}

fn vim_edits_a_file(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let file = daemon.folder().join("poem.txt");
    std::fs::write(&file, "roses are red\n").expect("a file");
    raw.subscribe("vim", json!({}));
    let path = file.to_str().expect("a path");
    let options = json!({"pty": {"rows": 24, "cols": 80}, "env": {"TERM": "xterm-256color"}});
    raw.spawn("vim", &["vim", "-u", "NONE", "-N", "-i", "NONE", path], options);
    let mut text = String::new();
    read_until(&mut raw, &mut text, "roses are red");
    raw.ok("process.stdin.write", json!({"id": "vim", "data": ":%s/red/blue/\r"}));
    read_until(&mut raw, &mut text, "blue");
    raw.ok("process.stdin.write", json!({"id": "vim", "data": ":wq\r"}));
    assert_eq!(raw.wait_for_exit("vim")["exitCode"], 0);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "roses are blue\n");
}

fn the_tail_of_a_terminal_is_read_before_it_is_closed(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    for round in 0..5 {
        let id = format!("numbers-{round}");
        let subscription = raw.subscribe(&id, json!({"stream": "stdout"}));
        raw.spawn(&id, &["seq", "100000"], json!({"pty": true}));
        let output = raw.collect(&subscription, 1);
        let expected: String = (1..=100_000).map(|number| format!("{number}\r\n")).collect();
        assert_eq!(output.stdout.len(), expected.len());
        assert!(output.text() == expected, "the numbers are wrong");
        assert_eq!(output.end("stdout")["totalBytes"].as_u64(), Some(expected.len() as u64));
    }
}

fn an_interrupt_typed_is_an_interrupt(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.subscribe("shell", json!({}));
    raw.spawn(
        "shell",
        &["bash", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do read -t 1; done"],
        json!({"pty": true}),
    );
    let mut text = String::new();
    read_until(&mut raw, &mut text, "ready");
    raw.ok("process.stdin.write", json!({"id": "shell", "data": "\u{3}"}));
    read_until(&mut raw, &mut text, "caught");
    assert_eq!(raw.wait_for_exit("shell")["exitCode"], 9);
}

fn a_terminal_hangs_up_on_who_is_left(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("shell", json!({"stream": "stdout"}));
    raw.spawn("shell", &["bash", "-c", "echo bye; exit 2"], json!({"pty": true}));
    assert_eq!(raw.collect(&subscription, 1).text(), "bye\r\n");
    assert_eq!(raw.wait_for_exit("shell")["exitCode"], 2);
    raw.event_of("kairo.process.ended", "shell");
}

fn only_a_terminal_has_a_size(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("plain", &["sleep", "1000"], json!({}));
    let refusal = raw.refused("process.resize", json!({"id": "plain", "rows": 10, "cols": 10}));
    assert_eq!(refusal.code, "E_NO_TERMINAL");
    raw.spawn("terminal", &["sleep", "1000"], json!({"pty": true}));
    for (rows, cols) in [(0, 80), (24, 0), (65_535, 80), (24, 65_535), (-1, 80), (24, 1_i64 << 40)] {
        let refusal = raw.refused("process.resize", json!({"id": "terminal", "rows": rows, "cols": cols}));
        assert_eq!(refusal.code, "E_INVALID_PARAMS", "{rows} x {cols}");
        let pty = json!({"rows": rows, "cols": cols});
        let spawn = json!({"id": "odd", "command": ["true"], "options": {"pty": pty}});
        assert_eq!(raw.refused("process.spawn", spawn).code, "E_INVALID_PARAMS", "{rows} x {cols}");
    }
    raw.ok("process.resize", json!({"id": "terminal", "rows": 65_534, "cols": 1}));
}

impl Raw {
    /// Reads a subscription of one stream to its end, wherever it is.
    fn collect_rest(&mut self, subscription: &str) {
        loop {
            let frame = self.frame().expect("frames");
            let json = if frame.kind == EVENT { frame.json() } else { continue };
            if json["topic"] == "stream.end" && json["data"]["subscriptionId"] == subscription {
                return;
            }
        }
    }
}

on_both_drivers!(
    a_terminal_has_the_size_it_was_given_and_tells_of_a_new_one,
    a_python_on_a_terminal_computes,
    vim_edits_a_file,
    the_tail_of_a_terminal_is_read_before_it_is_closed,
    an_interrupt_typed_is_an_interrupt,
    a_terminal_hangs_up_on_who_is_left,
    only_a_terminal_has_a_size,
);
