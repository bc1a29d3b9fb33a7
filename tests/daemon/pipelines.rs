//! Programs joined output to input, and stdins that are files and other processes' outputs: what comes out at the end is what a
//! shell's pipe gives, to the byte, with and without taps, whoever dies in between.

use crate::adoption::lives_on_both_drivers;
use crate::sandbox::can_contain;
use crate::support::raw::Raw;
use crate::support::{Daemon, NOBODY, is_root, on_both_drivers, program, python, until};
use kairo_dataplane::points::Point;
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

on_both_drivers!(
    three_stages_give_what_the_shell_gives_tapped_or_not,
    a_reader_that_has_enough_ends_the_pipeline_at_once,
    a_stage_that_is_killed_fails_the_whole_and_ends_it,
    what_cannot_be_executed_leaves_nothing_running_and_is_named,
    merged_stderr_goes_down_the_pipe_and_apart_it_is_a_stream,
    a_stdin_is_a_file_a_stream_or_nothing,
    a_file_as_stdin_is_opened_as_what_the_program_is,
    many_bytes_go_through_two_taps_and_are_read_on_the_way,
    a_slow_stage_is_named_as_what_is_waited_for,
    an_intent_that_is_cancelled_takes_the_whole_pipeline,
    what_a_pipeline_cannot_have_is_refused_by_name,
    a_real_encoder_behind_a_filter_behind_a_decoder,
);

mod killed {
    super::lives_on_both_drivers!(
        a_tapped_pipeline_goes_on_at_the_byte_under_the_next_kernel,
        at_every_point_of_a_feed_a_kernel_can_die,
        a_start_that_was_cut_off_is_undone,
        a_start_with_a_key_happens_once_whichever_kernel_is_asked,
    );
    use super::{
        a_start_that_was_cut_off_is_undone, a_start_with_a_key_happens_once_whichever_kernel_is_asked,
        a_tapped_pipeline_goes_on_at_the_byte_under_the_next_kernel,
        at_every_point_of_a_feed_a_kernel_can_die,
    };
}

fn shell(script: &str) -> (Vec<u8>, Option<i32>) {
    let output =
        Command::new("bash").args(["-o", "pipefail", "-c", script]).output().expect("there is a bash");
    (output.stdout, output.status.code())
}

fn sha256(bytes: &[u8]) -> String {
    let sum = <sha2::Sha256 as sha2::Digest>::digest(bytes);
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stages(commands: &[&[&str]]) -> Json {
    commands.iter().map(|command| json!({"command": command})).collect()
}

fn wait(raw: &mut Raw, id: &str) -> Json {
    raw.ok("pipeline.wait", json!({"id": id, "timeoutMs": 30_000}))
}

/// What a process has written, read from its beginning.
fn output(raw: &mut Raw, id: &str) -> Vec<u8> {
    let subscription = raw.subscribe(id, json!({"stream": "stdout"}));
    raw.collect(&subscription, 1).stdout
}

const NUMBERS: &str = "import sys\nfor n in range(200000): sys.stdout.write(f'{n * 7919 % 100003}\\n')";

fn three_stages_give_what_the_shell_gives_tapped_or_not(daemon: &Daemon) {
    let (expected, _) = shell(&format!("{} -c \"{NUMBERS}\" | grep 7 | sort -n | head -c 100000", python()));
    let commands: [&[&str]; 4] =
        [&[python(), "-c", NUMBERS], &["grep", "7"], &["sort", "-n"], &["head", "-c", "100000"]];
    let taps = [
        json!([]),
        json!([{"tap": true}]),
        json!([{}, {"tap": true}]),
        json!([{"tap": true}, {"tap": true}, {"tap": true}]),
    ];
    for (round, edges) in taps.into_iter().enumerate() {
        let mut raw = daemon.connect_modern();
        let id = format!("numbers{round}");
        let spawned =
            raw.ok("pipeline.spawn", json!({"id": id, "stages": stages(&commands), "edges": edges}));
        assert_eq!(spawned["stages"][2]["id"], json!(format!("{id}.2")));
        let bytes = output(&mut raw, &format!("{id}.3"));
        assert_eq!(sha256(&bytes), sha256(&expected), "{edges}: {} bytes", bytes.len());
        let ended = wait(&mut raw, &id);
        assert_eq!(ended["stages"].as_array().map(Vec::len), Some(4));
        let status = raw.ok("pipeline.status", json!({"id": id}));
        assert_eq!(status["state"], "ended");
        assert_eq!(status["stages"][3]["output"]["bytes"], json!(bytes.len()));
    }
}

fn a_reader_that_has_enough_ends_the_pipeline_at_once(daemon: &Daemon) {
    let (expected, code) = shell("yes | head -n 1");
    for (id, edges) in [("plain", json!([])), ("tapped", json!([{"tap": true}]))] {
        let mut raw = daemon.connect_modern();
        let params = json!({"id": id, "stages": stages(&[&["yes"], &["head", "-n", "1"]]), "edges": edges});
        raw.ok("pipeline.spawn", params);
        let ended = wait(&mut raw, id);
        assert_eq!((&ended["exitCode"], &ended["failedStage"]), (&json!(code), &json!(0)), "{id}: {ended}");
        assert_eq!(ended["stages"][0]["signal"], json!(13), "{id}");
        assert_eq!(output(&mut raw, &format!("{id}.1")), expected);
    }
    // Somebody who looks on changes nothing.
    let mut raw = daemon.connect_modern();
    let mut watcher = daemon.connect_modern();
    let tap = watcher.subscribe("seen.0", json!({"stream": "stdout", "policy": "drop_oldest"}));
    let params =
        json!({"id": "seen", "stages": stages(&[&["yes"], &["head", "-n", "1"]]), "edges": [{"tap": true}]});
    raw.ok("pipeline.spawn", params);
    assert_eq!(wait(&mut raw, "seen")["exitCode"], json!(code));
    assert!(watcher.collect(&tap, 1).stdout.starts_with(b"y\ny\n"));
}

fn a_stage_that_is_killed_fails_the_whole_and_ends_it(daemon: &Daemon) {
    for (id, edges) in [("plain", json!([])), ("tapped", json!([{"tap": true}, {"tap": true}]))] {
        let mut raw = daemon.connect_modern();
        let params =
            json!({"id": id, "stages": stages(&[&["yes"], &["cat"], &["sha256sum"]]), "edges": edges});
        raw.ok("pipeline.spawn", params);
        raw.ok("process.kill", json!({"id": format!("{id}.1"), "signal": "KILL", "graceMs": 0}));
        let ended = wait(&mut raw, id);
        let codes: Vec<&Json> = (0..3).map(|stage| &ended["stages"][stage]["exitCode"]).collect();
        assert_eq!(codes, [&json!(141), &json!(137), &json!(0)], "{id}");
        assert_eq!((&ended["exitCode"], &ended["failedStage"]), (&json!(137), &json!(1)));
    }
}

fn what_cannot_be_executed_leaves_nothing_running_and_is_named(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    for (nth, edges) in [json!([]), json!([{"tap": true}, {"tap": true}])].into_iter().enumerate() {
        let id = format!("none{nth}");
        let stages = stages(&[&["yes"], &["no-such-program-here"], &["cat"]]);
        let refused = raw.refused("pipeline.spawn", json!({"id": id, "stages": stages, "edges": edges}));
        assert_eq!(refused.code, "E_EXECUTABLE_NOT_FOUND", "{refused:?}");
        assert_eq!(refused.info["details"]["stage"], json!(1), "{refused:?}");
        assert_eq!(refused.info["details"]["field"], json!("stages[1].command[0]"));
        assert_eq!(raw.refused("pipeline.status", json!({"id": id})).code, "E_NOT_FOUND");
        let list = raw.ok("process.list", json!({}));
        let phases: Vec<&Json> =
            list["processes"].as_array().expect("a list").iter().map(|one| &one["detail"]["phase"]).collect();
        assert!(phases.iter().all(|phase| **phase == "ended"), "{phases:?}");
    }
    // The name is free again, and so are those of the stages.
    raw.ok("pipeline.spawn", json!({"id": "none0", "stages": stages(&[&["true"], &["cat"]])}));
    assert_eq!(wait(&mut raw, "none0")["exitCode"], 0);
}

fn merged_stderr_goes_down_the_pipe_and_apart_it_is_a_stream(daemon: &Daemon) {
    let both: &[&str] = &["sh", "-c", "echo out; echo err >&2"];
    for (id, tap) in [("plain", false), ("tapped", true)] {
        let mut raw = daemon.connect_modern();
        let edges = json!([{"stderr": "merged", "tap": tap}]);
        raw.ok("pipeline.spawn", json!({"id": id, "stages": stages(&[both, &["sort"]]), "edges": edges}));
        wait(&mut raw, id);
        assert_eq!(output(&mut raw, &format!("{id}.1")), b"err\nout\n");
        let apart = format!("{id}-apart");
        let edges = json!([{"tap": tap}]);
        raw.ok("pipeline.spawn", json!({"id": apart, "stages": stages(&[both, &["sort"]]), "edges": edges}));
        wait(&mut raw, &apart);
        assert_eq!(output(&mut raw, &format!("{apart}.1")), b"out\n");
        let subscription = raw.subscribe(&format!("{apart}.0"), json!({"stream": "stderr"}));
        assert_eq!(raw.collect(&subscription, 1).stderr, b"err\n");
    }
}

fn a_stdin_is_a_file_a_stream_or_nothing(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let path = daemon.folder().join("input");
    fs::write(&path, "from a file\n").expect("the folder is ours");
    let file = |path: &str| json!({"stdin": {"file": path}});
    raw.spawn("file", &["cat"], file(path.to_str().expect("text")));
    assert_eq!(output(&mut raw, "file"), b"from a file\n");
    // Seen from its folder, as everything it opens is.
    let folder = daemon.folder().to_str().expect("text");
    raw.spawn("relative", &["cat"], json!({"stdin": {"file": "input"}, "cwd": folder}));
    assert_eq!(output(&mut raw, "relative"), b"from a file\n");
    let refused = raw.refused("process.stdin.write", json!({"id": "file", "data": "x"}));
    assert_eq!(refused.code, "E_STDIN_CLOSED");
    let refused =
        raw.refused("process.spawn", json!({"id": "x", "command": ["cat"], "options": file("/no/such")}));
    assert_eq!(
        (refused.code.as_str(), &refused.info["details"]["field"]),
        ("E_SPAWN_FAILED", &json!("options.stdin.file"))
    );
    raw.spawn("null", &["cat"], json!({"stdin": "null"}));
    assert_eq!(output(&mut raw, "null"), b"");
    // Another process's output, from its first byte on; its own readers are not disturbed.
    raw.spawn("source", &["sh", "-c", "echo one; read line; echo $line; echo bad >&2"], json!({}));
    raw.spawn("copy", &["cat"], json!({"stdin": {"stream": {"id": "source"}}}));
    raw.spawn("complaints", &["cat"], json!({"stdin": {"stream": {"id": "source", "stream": "stderr"}}}));
    assert_eq!(raw.refused("process.stdin.write", json!({"id": "copy", "data": "x"})).code, "E_STDIN_CLOSED");
    raw.ok("process.stdin.write", json!({"id": "source", "data": "two\n"}));
    assert_eq!(output(&mut raw, "copy"), b"one\ntwo\n");
    assert_eq!(output(&mut raw, "complaints"), b"bad\n");
    assert_eq!(output(&mut raw, "source"), b"one\ntwo\n");
    // One that has ended has it still.
    raw.spawn("late", &["cat"], json!({"stdin": {"stream": {"id": "source"}}}));
    assert_eq!(output(&mut raw, "late"), b"one\ntwo\n");
    let of = |id: &str| json!({"id": "x", "command": ["cat"], "options": {"stdin": {"stream": {"id": id}}}});
    let refused = raw.refused("process.spawn", of("nobody"));
    assert_eq!(
        (refused.code.as_str(), &refused.info["details"]["field"]),
        ("E_NOT_FOUND", &json!("options.stdin.stream"))
    );
    // Who reads no more leaves the source alone.
    raw.spawn("flood", &["yes"], json!({}));
    raw.spawn("enough", &["head", "-n", "1"], json!({"stdin": {"stream": {"id": "flood"}}}));
    raw.wait_for_exit("enough");
    assert_eq!(raw.ok("process.status", json!({"id": "flood"}))["state"], "running");
}

fn a_file_as_stdin_is_opened_as_what_the_program_is(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let (open, secret) = (daemon.folder().join("open"), daemon.folder().join("secret"));
    for path in [&open, &secret] {
        fs::write(path, "seen\n").expect("the folder is ours");
    }
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let of = |path: &std::path::Path, more: Json| {
        let mut options = json!({"stdin": {"file": path.to_str().expect("text")}});
        for (key, value) in more.as_object().expect("options") {
            options[key] = value.clone();
        }
        json!({"id": "x", "command": ["cat"], "options": options})
    };
    let denied = |raw: &mut Raw, params: Json| {
        let refused = raw.refused("process.spawn", params);
        let details = &refused.info["details"];
        assert_eq!(
            (refused.code.as_str(), &details["field"], &details["errno"]),
            ("E_SPAWN_FAILED", &json!("options.stdin.file"), &json!(13))
        );
    };
    if is_root() {
        // It is root's alone.
        denied(&mut raw, of(&secret, json!({"user": NOBODY, "cwd": "/"})));
    }
    if !can_contain("a_file_as_stdin_is_opened_as_what_the_program_is") {
        return;
    }
    let read = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", open.to_str().expect("text")];
    let sandbox = json!({"files": {"read": read, "execute": ["/usr", "/lib", "/lib64", "/bin"]}});
    denied(&mut raw, of(&secret, json!({"sandbox": sandbox})));
    raw.ok("process.spawn", of(&open, json!({"sandbox": sandbox})));
    assert_eq!(output(&mut raw, "x"), b"seen\n");
    // And stages are contained as programs alone are.
    let stage = |options: Json| json!({"command": ["cat"], "options": options});
    let first = json!({"sandbox": sandbox, "stdin": {"file": open.to_str().expect("text")}});
    let stages = [stage(first), stage(json!({"sandbox": sandbox})), stage(json!({"sandbox": sandbox}))];
    let params = json!({"id": "p", "stages": stages, "edges": [{"tap": true}]});
    let spawned = raw.ok("pipeline.spawn", params);
    assert!(spawned["stages"][2]["sandbox"].is_object(), "{spawned}");
    assert_eq!(output(&mut raw, "p.2"), b"seen\n");
    assert_eq!(wait(&mut raw, "p")["exitCode"], 0);
}

const MANY: &str = "import os, hashlib\nblock = hashlib.sha512(b'seed').digest() * 1024\nfor n in range(1024): os.write(1, block[n % 64:] + block[:n % 64])";

fn many_bytes_go_through_two_taps_and_are_read_on_the_way(daemon: &Daemon) {
    daemon.starts_its_worker();
    let (expected, _) = shell(&format!("{} -c \"{MANY}\" | sha256sum", python()));
    let mut raw = daemon.connect_modern();
    let mut watcher = daemon.connect_modern();
    let tap = watcher.subscribe("many.1", json!({"stream": "stdout"}));
    let commands: [&[&str]; 3] = [&[python(), "-c", MANY], &["cat"], &["sha256sum"]];
    let edges = json!([{"tap": true}, {"tap": true}]);
    raw.ok("pipeline.spawn", json!({"id": "many", "stages": stages(&commands), "edges": edges}));
    let seen = watcher.collect(&tap, 1).stdout;
    assert_eq!(seen.len(), 64 << 20);
    assert_eq!(wait(&mut raw, "many")["exitCode"], 0);
    let sum = output(&mut raw, "many.2");
    assert_eq!(sum, expected);
    assert_eq!(format!("{}  -\n", sha256(&seen)).into_bytes(), expected, "the tap has seen the same");
    let status = raw.ok("pipeline.status", json!({"id": "many"}));
    for (stage, side) in [(0, "output"), (1, "input"), (1, "output"), (2, "input")] {
        assert_eq!(status["stages"][stage][side]["bytes"], json!(64 << 20), "{stage} {side}");
        assert_eq!(status["stages"][stage][side]["approximate"], Json::Null);
    }
}

fn a_slow_stage_is_named_as_what_is_waited_for(daemon: &Daemon) {
    daemon.starts_its_worker();
    for (id, edges) in [("plain", json!([])), ("tapped", json!([{"tap": true}]))] {
        let mut raw = daemon.connect_modern();
        let stages = stages(&[&["yes"], &["sh", "-c", "kill -STOP $$; exec cat"], &["cat"]]);
        raw.ok("pipeline.spawn", json!({"id": id, "stages": stages, "edges": edges}));
        until("the first waits for the second, and the third too", || {
            let status = raw.ok("pipeline.status", json!({"id": id}));
            let waits = |stage: usize| status["stages"][stage]["waitsFor"].clone();
            waits(0) == "next" && waits(2) == "previous"
        });
        let status = raw.ok("pipeline.status", json!({"id": id}));
        assert_eq!(
            status["stages"][0]["output"]["approximate"],
            if id == "plain" { json!(true) } else { Json::Null }
        );
        assert!(
            status["stages"][0]["output"]["bytes"].as_u64().is_some_and(|bytes| bytes > 60_000),
            "{status}"
        );
        let listed = raw.ok("pipeline.list", json!({}));
        let names: Vec<&Json> =
            listed["pipelines"].as_array().expect("a list").iter().map(|one| &one["id"]).collect();
        assert!(names.contains(&&json!(id)), "{listed}");
        raw.ok("pipeline.kill", json!({"id": id}));
        let codes: Vec<Json> = wait(&mut raw, id)["stages"]
            .as_array()
            .expect("stages")
            .iter()
            .map(|stage| stage["exitCode"].clone())
            .collect();
        // The last one may have had its end-of-file first.
        assert!(codes.len() == 3 && codes[..2].iter().all(|code| *code != 0), "{codes:?}");
    }
}

fn an_intent_that_is_cancelled_takes_the_whole_pipeline(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let intent = raw.ok("intent.begin", json!({"name": "film"}))["intentId"].clone();
    let params = json!({"id": "film", "stages": stages(&[&["yes"], &["cat"], &["sleep", "1000"]]), "edges": [{"tap": true}]});
    let meta = json!({"intentId": intent});
    raw.call_with("pipeline.spawn", &params, &meta).expect("it is started");
    raw.ok("intent.cancel", json!({"intentId": intent, "graceMs": 2_000}));
    let ended = wait(&mut raw, "film");
    for stage in 0..3 {
        assert_ne!(ended["stages"][stage]["exitCode"], 0, "{ended}");
    }
    let found = raw.ok("event.replay", json!({"types": ["kairo.pipeline.*", "kairo.process.spawned"]}));
    let events = found["events"].as_array().expect("events");
    let of = |topic: &str| events.iter().filter(|event| event["topic"] == topic).collect::<Vec<_>>();
    let started = of("kairo.pipeline.started");
    assert_eq!((started.len(), of("kairo.pipeline.ended").len()), (1, 1), "{events:?}");
    let births = of("kairo.process.spawned");
    assert_eq!(births.len(), 3);
    for birth in births {
        assert_eq!(birth["causationId"], started[0]["id"], "stages are caused by the pipeline");
        assert_eq!(birth["intentId"], intent);
    }
}

fn what_a_pipeline_cannot_have_is_refused_by_name(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let with = |second: Json| json!({"id": "p", "stages": [{"command": ["yes"]}, {"command": ["cat"], "options": second}]});
    for (second, field) in [
        (json!({"pty": true}), "stages[1].options.pty"),
        (json!({"stdin": "null"}), "stages[1].options.stdin"),
        (json!({"restart": "always"}), "stages[1].options.restart"),
    ] {
        let refused = raw.refused("pipeline.spawn", with(second));
        assert_eq!((refused.code.as_str(), &refused.info["details"]["field"]), ("E_CONFLICT", &json!(field)));
    }
    for (params, code) in [
        (json!({"id": "p", "stages": []}), "E_INVALID_PARAMS"),
        (json!({"id": "p", "stages": stages(&[&["yes"]]), "edges": [{}]}), "E_INVALID_PARAMS"),
        (
            json!({"id": "p", "stages": [{"command": ["a"], "id": "x"}, {"command": ["b"], "id": "x"}]}),
            "E_CONFLICT",
        ),
        (json!({"id": "p", "stages": stages(&[&["yes"], &[]])}), "E_INVALID_PARAMS"),
    ] {
        assert_eq!(raw.refused("pipeline.spawn", params.clone()).code, code, "{params}");
    }
    assert_eq!(raw.ok("process.list", json!({}))["processes"], json!([]));
    raw.ok("pipeline.spawn", json!({"id": "p", "stages": stages(&[&["yes"], &["cat"], &["sleep", "1000"]])}));
    let again = raw.refused("pipeline.spawn", json!({"id": "p", "stages": stages(&[&["true"]])}));
    assert_eq!(again.code, "E_ALREADY_EXISTS");
    let taken = json!({"id": "q", "stages": [{"command": ["true"]}, {"command": ["cat"], "id": "p.1"}]});
    assert_eq!(raw.refused("pipeline.spawn", taken).info["details"]["stage"], json!(1));
    assert_eq!(
        raw.ok("process.list", json!({}))["processes"].as_array().map(Vec::len),
        Some(3),
        "nothing was begun"
    );
    raw.ok("pipeline.kill", json!({"id": "p", "signal": "KILL"}));
    wait(&mut raw, "p");
}

/// Numbered blocks, checked and passed on slowly enough for a kernel to be killed in between; the last one sums.
const PASS: &str = "import sys\nwhile block := sys.stdin.buffer.read(4096): sys.stdout.buffer.write(block)";

fn a_tapped_pipeline_goes_on_at_the_byte_under_the_next_kernel(daemon: &mut Daemon) {
    daemon.starts_its_worker();
    let (expected, _) = shell(&format!("{} -c \"{MANY}\" | sha256sum", python()));
    let commands: [&[&str]; 3] = [&[python(), "-c", MANY], &[python(), "-c", PASS], &["sha256sum"]];
    let edges = json!([{"tap": true}, {"tap": true}]);
    let mut raw = daemon.connect_modern();
    raw.ok("pipeline.spawn", json!({"id": "many", "stages": stages(&commands), "edges": edges}));
    let passed = |daemon: &Daemon| {
        let status = daemon.connect_modern().ok("pipeline.status", json!({"id": "many"}));
        status["stages"][2]["input"]["bytes"].as_u64().expect("it is counted")
    };
    for life in 1..=8u64 {
        until("some more has gone through", || passed(daemon) > life * (5 << 20));
        daemon.kill_and_succeed();
    }
    let mut raw = daemon.connect_modern();
    let ended = wait(&mut raw, "many");
    assert_eq!(ended["exitCode"], 0, "{ended}");
    assert_eq!(output(&mut raw, "many.2"), expected, "not a byte is missing, none came twice");
    let status = raw.ok("pipeline.status", json!({"id": "many"}));
    assert_eq!(
        (&status["state"], &status["stages"][2]["input"]["bytes"]),
        (&json!("ended"), &json!(64 << 20))
    );
    let found = raw.ok("event.replay", json!({"types": ["kairo.pipeline.*"]}));
    let topics: Vec<&Json> =
        found["events"].as_array().expect("events").iter().map(|event| &event["topic"]).collect();
    assert_eq!(topics, ["kairo.pipeline.started", "kairo.pipeline.ended"]);
    // And so does one whose reader has had enough meanwhile.
    raw.ok("pipeline.spawn", json!({"id": "enough", "stages": stages(&[&["yes"], &["sh", "-c", "read a; read b; kill -STOP $$"]]), "edges": [{"tap": true}]}));
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    daemon.succeed(&[]);
    let mut raw = daemon.connect_modern();
    raw.ok("process.kill", json!({"id": "enough.1", "signal": "KILL", "graceMs": 0}));
    let ended = wait(&mut raw, "enough");
    assert_eq!(ended["stages"][0]["signal"], json!(13), "{ended}");
}

const SOME: &str = "import os, hashlib\nblock = hashlib.sha512(b'some').digest() * 1024\nfor n in range(48): os.write(1, block[n:] + block[:n])";

fn at_every_point_of_a_feed_a_kernel_can_die(daemon: &mut Daemon) {
    let (expected, _) = shell(&format!("{} -c \"{SOME}\" | sha256sum", python()));
    let commands: [&[&str]; 3] = [&[python(), "-c", SOME], &["cat"], &["sha256sum"]];
    let of_bytes = |point: &&Point| ["take.", "input."].iter().any(|room| point.name().starts_with(room));
    for (round, point) in Point::ALL.iter().filter(of_bytes).enumerate() {
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        daemon.succeed_unasked(&["--die-at", &format!("{}:{}", point.name(), 1 + round % 3 * 5)]);
        let id = format!("at-{}", point.name());
        let edges = json!([{"tap": true}, {"tap": true}]);
        let params = json!({"id": id, "stages": stages(&commands), "edges": edges});
        let mut raw = daemon.connect_modern();
        raw.request("pipeline.spawn", crate::support::raw::value(&params));
        daemon.wait();
        daemon.succeed(&[]);
        let mut raw = daemon.connect_modern();
        let ended = wait(&mut raw, &id);
        assert_eq!(ended["exitCode"], 0, "{id}: {ended}");
        assert_eq!(output(&mut raw, &format!("{id}.2")), expected, "{id}");
    }
}

fn a_start_that_was_cut_off_is_undone(daemon: &mut Daemon) {
    for point in ["spawn.sent:1", "spawn.sent:2", "spawn.heard:1"] {
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        daemon.succeed_unasked(&["--die-at", point]);
        let id = format!("at-{point}");
        let commands: [&[&str]; 3] = [&["sleep", "1000"], &["sleep", "1000"], &["sleep", "1000"]];
        let params = json!({"id": id, "stages": stages(&commands), "edges": [{"tap": true}]});
        daemon.connect_modern().request("pipeline.spawn", crate::support::raw::value(&params));
        daemon.wait();
        daemon.succeed(&[]);
        let mut raw = daemon.connect_modern();
        if point == "spawn.heard:1" {
            // All three were on their way, so all three run.
            daemon.starts_its_worker();
            assert_eq!(raw.ok("pipeline.status", json!({"id": id}))["state"], "running");
            raw.ok("pipeline.kill", json!({"id": id, "signal": "KILL"}));
        }
        until("nothing of it is left", || {
            let list = raw.ok("process.list", json!({}));
            let all = list["processes"].as_array().expect("a list");
            all.iter().all(|process| process["detail"]["phase"] == "ended")
        });
        if point != "spawn.heard:1" {
            assert_eq!(raw.refused("pipeline.status", json!({"id": id})).code, "E_NOT_FOUND");
        }
    }
}

fn has_ffmpeg() -> bool {
    let found = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn a_real_encoder_behind_a_filter_behind_a_decoder(daemon: &Daemon) {
    if !has_ffmpeg() {
        return println!("skipped, there is no ffmpeg: {:?}", std::thread::current().name());
    }
    let make =
        "ffmpeg -v error -f lavfi -i testsrc2=size=160x120:rate=25 -t 2 -pix_fmt yuv420p -f rawvideo -";
    let code = "ffmpeg -v error -f rawvideo -pix_fmt yuv420p -s 160x120 -r 25 -i - -vf negate -f framemd5 -";
    let (expected, _) = shell(&format!("{make} | cat | {code}"));
    let words = |line: &'static str| line.split(' ').collect::<Vec<&str>>();
    let commands = [words(make), vec!["cat"], words(code)];
    let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
    let mut raw = daemon.connect_modern();
    let edges = json!([{"tap": true}, {"tap": true}]);
    raw.ok("pipeline.spawn", json!({"id": "film", "stages": stages(&commands), "edges": edges}));
    assert_eq!(wait(&mut raw, "film")["exitCode"], 0);
    assert_eq!(output(&mut raw, "film.2"), expected);
    let raw_video = output(&mut raw, "film.0");
    assert!(raw_video.len() > 64 << 10, "the tap kept what it keeps");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `kairo run …`, without anybody's configuration; what it is given to read, and what came of it.
fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program());
    command.arg("run").args(arguments).env("XDG_CONFIG_HOME", "/nonexistent");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    child.stdin.take().expect("piped").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends")
}

#[test]
fn run_joins_programs_as_a_shell_with_pipefail_does() {
    let cases: [(&[&str], &[u8], &str, i32); 6] = [
        (&["--", "yes", "|", "head", "-n", "1"], b"", "y\n", 141),
        (&["--", "cat", "|", "tr", "a-z", "A-Z", "|", "rev"], b"typed\n", "DEPYT\n", 0),
        (&["--", "sh", "-c", "echo a | cat", "|", "cat"], b"", "a\n", 0),
        (&["--", "true", "|", "sh", "-c", "exit 3", "|", "true"], b"", "", 3),
        (&["--", "yes", "|", "no-such-program-here"], b"", "", 127),
        (&["--limit", "1M", "--", "echo", "x", "|", "cat"], b"", "x\n", 0),
    ];
    for (arguments, input, expected, code) in cases {
        let output = run(arguments, input);
        assert_eq!(text(&output.stdout), expected, "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    }
    for wrong in [&["--", "yes", "|"][..], &["--", "|", "cat"], &["--pty", "--", "yes", "|", "cat"]] {
        assert_eq!(run(wrong, b"").status.code(), Some(125), "{wrong:?}");
    }
    let output = run(&["--json", "--", "echo", "x", "|", "false"], b"");
    let report: Json = serde_json::from_slice(&output.stderr).expect("a report");
    assert_eq!(
        (&report["v"], &report["exitCode"], &report["failedStage"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(report["stages"].as_array().map(Vec::len), Some(2), "{report}");
}

const FILE: &str = r#"
id = "film"
[[stage]]
command = ["sh", "-c", "echo frame; echo $NAME >&2"]
options = { env = { NAME = "noise" } }
edge = { tap = true, stderr = "merged" }
[[stage]]
id = "sorted"
command = ["sort"]
"#;

#[test]
fn a_file_says_what_words_can_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("film.toml");
    fs::write(&path, FILE).expect("it is ours");
    let path = path.to_str().expect("text");
    let output = run(&["--pipeline", path], b"");
    assert_eq!(text(&output.stdout), "frame\nnoise\n", "{}", text(&output.stderr));
    crate::support::with(&crate::support::Options::plain(crate::support::Driver::Poll), |daemon| {
        daemon.starts_its_worker();
        let kairo = |arguments: &[&str]| daemon.cli(arguments).output().expect("the program runs");
        assert_eq!(text(&kairo(&["spawn", "--pipeline", path]).stdout), "film\n");
        assert_eq!(kairo(&["wait", "film"]).status.code(), Some(0));
        assert_eq!(text(&kairo(&["logs", "sorted"]).stdout), "frame\nnoise\n");
        let page = text(&kairo(&["status", "film"]).stdout);
        assert!(page.contains("stage 1   sorted") && page.contains("out 12 B"), "{page}");
        let status: Json =
            serde_json::from_slice(&kairo(&["--json", "status", "film"]).stdout).expect("JSON");
        assert_eq!(status["pipeline"]["exitCode"], json!(0));
        assert_eq!(
            text(&kairo(&["spawn", "--id", "flood", "--tap", "--", "yes", "|", "sleep", "1000"]).stdout),
            "flood\n"
        );
        assert!(kairo(&["kill", "flood"]).status.success());
        assert_eq!(kairo(&["wait", "flood"]).status.code(), Some(143));
        assert_eq!(kairo(&["kill", "nobody"]).status.code(), Some(125));
        assert_eq!(kairo(&["status", "nobody"]).status.code(), Some(125));
    });
}

fn a_start_with_a_key_happens_once_whichever_kernel_is_asked(daemon: &mut Daemon) {
    let params =
        json!({"id": "once", "stages": stages(&[&["cat"], &["cat"], &["cat"]]), "edges": [{"tap": true}]});
    let repeated = |daemon: &Daemon| {
        let answer = daemon.connect_modern().call_once("pipeline.spawn", &params, "the key");
        answer.expect("the kernel lives").expect("it knows the key")
    };
    // The kernel dies before it has written or told that all of them run.
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    daemon.succeed_unasked(&["--die-at", "spawn.heard:1"]);
    daemon.connect_modern().send_once("pipeline.spawn", &params, "the key");
    daemon.wait();
    daemon.succeed(&[]);
    let first = repeated(daemon);
    assert_eq!(first["stages"].as_array().map(Vec::len), Some(3), "{first}");
    for _ in 0..2 {
        assert_eq!(repeated(daemon), first);
        daemon.kill_and_succeed();
    }
    let mut raw = daemon.connect_modern();
    let list = raw.ok("process.list", json!({}));
    let all = list["processes"].as_array().expect("a list");
    let pids: Vec<&Json> = all.iter().map(|process| &process["pid"]).collect();
    assert_eq!(all.len(), 3, "{list}");
    assert!(first["stages"].as_array().into_iter().flatten().all(|stage| pids.contains(&&stage["pid"])));
    let other = json!({"id": "once", "stages": stages(&[&["cat"]])});
    let refused =
        raw.call_once("pipeline.spawn", &other, "the key").expect("it lives").expect_err("another call");
    assert_eq!(refused.code, "E_CONFLICT");
    raw.ok("pipeline.kill", json!({"id": "once", "signal": "KILL"}));
}
