//! The log on the command line: past and present, stories, and a daemon that is killed in between.

use crate::adoption::lives_on_both_drivers;
use crate::support::{Daemon, Driver, Options, until, with};
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};

lives_on_both_drivers!(past_and_present_are_one_whenever_the_daemon_dies);

fn run(daemon: &Daemon, arguments: &[&str]) -> Output {
    daemon.cli(arguments).output().expect("the program runs")
}

/// What a command that must succeed prints.
fn good(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = run(daemon, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The same, an object a line.
fn objects(daemon: &Daemon, arguments: &[&str]) -> Vec<Json> {
    let text = good(daemon, &[&["--json"], arguments].concat());
    let objects: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(objects.iter().all(|object| object["v"] == 1));
    objects
}

fn publish(daemon: &Daemon, topic: &str, from: u64, to: u64) {
    let mut raw = daemon.connect();
    let events: Vec<Json> = (from..to).map(|number| json!({"type": topic, "data": number})).collect();
    raw.ok("event.publish_batch", json!({"events": events}));
}

fn numbers(events: &[Json]) -> Vec<u64> {
    events.iter().filter_map(|event| event["payload"].as_u64()).collect()
}

fn past_and_present_are_one_whenever_the_daemon_dies(daemon: &mut Daemon) {
    const EVENTS: u64 = 3_000;
    const PIECE: u64 = 500;
    publish(daemon, "test.number", 0, PIECE);
    let limit = EVENTS.to_string();
    let mut command = daemon.cli(&["--json", "events", "test.*", "--from", "start", "-f", "--limit", &limit]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = 0;
    let mut published = PIECE;
    while next < EVENTS {
        let line: Json = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
        if line.get("resumed").is_some() {
            assert_eq!(line["resumed"]["complete"], true);
            continue;
        }
        assert_eq!(line["payload"], next, "{line}");
        next += 1;
        if next + PIECE / 2 == published && published < EVENTS {
            // Half of a piece is still to be shown when it dies, and the next is there before anybody is back.
            daemon.kill_and_succeed();
            publish(daemon, "test.number", published, published + PIECE);
            published += PIECE;
        }
    }
    assert!(child.wait().expect("our child").success());
}

#[test]
fn the_past_is_shown_as_it_is_asked_for() {
    with(&Options::plain(Driver::Poll), |daemon| {
        publish(daemon, "test.a", 0, 1_500);
        publish(daemon, "test.b", 0, 10);
        let all = objects(daemon, &["events", "test.*", "--from", "start"]);
        assert_eq!(all.len(), 1_510, "more than a page");
        assert!(all.windows(2).all(|two| two[0]["seq"].as_u64() < two[1]["seq"].as_u64()));
        let newest = objects(daemon, &["events", "test.b", "--reverse", "--limit", "3"]);
        assert_eq!(numbers(&newest), [9, 8, 7]);
        let place = format!("@{}", all[1_498]["seq"]);
        let some = objects(daemon, &["events", "test.a", "test.b", "--from", &place, "--count", "4"]);
        assert_eq!(numbers(&some), [1_498, 1_499, 0, 1]);
        assert!(objects(daemon, &["events", "test.*", "--from", "start", "--source", "kernel"]).is_empty());
        assert_eq!(objects(daemon, &["events", "test.b", "--from", "1h", "--to", "now"]).len(), 10);
        assert!(objects(daemon, &["events", "test.b", "--from", "start", "--to", "1h"]).is_empty());
        let line = good(daemon, &["events", "test.b", "--from", "start", "--limit", "1"]);
        assert!(line.contains(" test.b 0"), "{line}");
        let both = daemon
            .cli(&["events", "test.a", "test.b", "--from", "start", "-f", "--limit", "1510", "--json"])
            .output();
        let both = String::from_utf8(both.expect("the program runs").stdout).expect("text");
        assert_eq!(both.lines().count(), 1_510, "several patterns are one stream in order");
    });
}

#[test]
fn what_is_published_is_in_the_log_and_what_is_not_ours_to_publish_is_refused() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let told = objects(
            daemon,
            &[
                "publish",
                "test.x",
                r#"{"big": 9007199254740993}"#,
                "--correlation",
                "c",
                "--source",
                "part",
                "--ack",
                "disk",
            ],
        );
        let found = &objects(daemon, &["events", "--from", "start", "--correlation", "c"])[0];
        assert_eq!((&found["seq"], &found["id"]), (&told[0]["seq"], &told[0]["id"]));
        assert_eq!(found["payload"]["big"], 9_007_199_254_740_993u64);
        assert!(found["source"].as_str().is_some_and(|source| source.ends_with("part")), "{found}");
        let mut piped = daemon.cli(&["publish", "test.y", "-"]);
        let mut child = piped.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the program runs");
        child.stdin.take().expect("piped").write_all(b"[1, 2]").expect("it reads");
        assert!(child.wait().expect("our child").success());
        assert_eq!(objects(daemon, &["events", "test.y", "--from", "start"])[0]["payload"], json!([1, 2]));
        for wrong in
            [&["publish", "kairo.process.exited"][..], &["publish", "x", "{"], &["events", "--to", "start"]]
        {
            let output = run(daemon, wrong);
            assert_eq!(output.status.code(), Some(125), "{wrong:?}");
            assert!(!output.stderr.is_empty());
        }
    });
}

#[test]
fn a_story_is_found_by_its_name_by_a_process_and_by_an_event() {
    with(&Options::plain(Driver::Poll), |daemon| {
        good(daemon, &["spawn", "--id", "build", "--correlation", "nightly", "--", "sh", "-c", "exit 3"]);
        assert_eq!(run(daemon, &["wait", "build"]).status.code(), Some(3));
        let spawned = &objects(daemon, &["events", "kairo.process.spawned", "--from", "start"])[0];
        let id = spawned["id"].as_str().expect("a name").to_owned();
        let drafts: Vec<Json> =
            (0..1_234).map(|n| json!({"type": "test.progress", "data": {"n": n}, "correlationId": "nightly", "causationId": id})).collect();
        daemon.connect().ok("event.publish_batch", json!({"events": drafts}));
        // What tells of the end is in the log soon after the answer to who waits.
        let mut text = String::new();
        until("the story is whole", || {
            text = good(daemon, &["trace", "nightly"]);
            text.contains("kairo.process.ended")
        });
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("nightly  "), "{text}");
        assert!(lines[1].starts_with("kairo.kernel.called method=process.spawn"), "{text}");
        assert!(
            lines[2].starts_with("└─ kairo.process.spawned id=build") && lines[2].contains("took "),
            "{text}"
        );
        assert!(text.contains("─ test.progress × 1,234 n=1233"), "{text}");
        assert!(text.contains("─ kairo.process.exited id=build") && text.contains("code=3"), "{text}");
        assert!(!text.contains('\x1b'), "what is no terminal gets no colour");
        assert_eq!(good(daemon, &["trace", "build"]), text);
        let marked = good(daemon, &["trace", &id]);
        assert!(marked.lines().nth(2).is_some_and(|line| line.ends_with('◀')), "{marked}");
        let rows = objects(daemon, &["trace", "nightly"]);
        assert!(rows.len() > 1_234);
        let exit =
            rows.iter().find(|row| row["event"]["topic"] == "kairo.process.exited").expect("it exited");
        assert_eq!((&exit["parent"], &exit["depth"]), (&json!(id), &json!(2)));
        let output = run(daemon, &["trace", "nobody"]);
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&output.stderr).contains("kairo events"), "it says what to do");
    });
}
