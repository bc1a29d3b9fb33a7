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
        // What tells of it is in the log soon after the answers.
        let mut spawned = Vec::new();
        until("the spawn is in the log", || {
            spawned = objects(daemon, &["events", "kairo.process.spawned", "--from", "start"]);
            !spawned.is_empty()
        });
        let id = spawned[0]["id"].as_str().expect("a name").to_owned();
        let drafts: Vec<Json> =
            (0..1_234).map(|n| json!({"type": "test.progress", "data": {"n": n}, "correlationId": "nightly", "causationId": id})).collect();
        daemon.connect().ok("event.publish_batch", json!({"events": drafts}));
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

/// The id of a new intent.
fn begin(daemon: &Daemon, arguments: &[&str]) -> String {
    good(daemon, &[&["intent", "begin"], arguments].concat()).trim().to_owned()
}

#[test]
fn an_intent_is_begun_seen_cancelled_and_told_of() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let outer = begin(daemon, &["nightly render", "--query", "render it", "--context", r#"{"a": 1}"#]);
        let inner = begin(daemon, &["part", "--parent", &outer]);
        good(daemon, &["spawn", "--id", "worker", "--intent", &inner, "sleep", "1000"]);
        let run =
            daemon.cli(&["run", "--intent", &outer, "--", "sleep", "1000"]).stderr(Stdio::null()).spawn();
        let mut run = run.expect("the program runs");
        until("it takes part", || {
            !objects(daemon, &["events", "kairo.run.started", "--from", "start"]).is_empty()
        });
        let table = good(daemon, &["intents"]);
        assert!(table.contains("  nightly render") && table.contains("    part"), "{table}");
        let listed = &objects(daemon, &["intents"])[0]["intents"];
        assert_eq!((&listed[0]["query"], &listed[1]["processes"]), (&json!("render it"), &json!(1)));
        let receipt = good(daemon, &["cancel", &outer, "--grace", "2", "--reason", "enough"]);
        assert!(receipt.contains("worker") && receipt.contains("(enough)"), "{receipt}");
        assert_eq!(
            run.wait().expect("our child").code(),
            Some(143),
            "what runs under a kernel of its own ends too"
        );
        let again = &objects(daemon, &["cancel", &outer])[0];
        assert_eq!(
            (&again["reason"], &again["left"]),
            (&json!("enough"), &json!(0)),
            "twice is the same receipt"
        );
        assert!(!good(daemon, &["intents"]).contains("nightly"));
        assert!(good(daemon, &["intents", "--all"]).contains("cancelled"));
        let tree = good(daemon, &["intent", "timeline", &outer, "--tree"]);
        assert!(
            tree.lines().nth(1).is_some_and(|line| line.contains("took ") && line.ends_with('◀')),
            "{tree}"
        );
        for part in ["id=worker", "kairo.run.started", "kairo.intent.cancelled"] {
            assert!(tree.contains(part), "{part} is not in {tree}");
        }
        let story = good(daemon, &["trace", &outer]);
        assert!(story.contains("kairo.run.exited signal=15"), "{story}");
        assert_eq!(run_code(daemon, &["cancel", "nobody"]), Some(125));
    });
}

fn run_code(daemon: &Daemon, arguments: &[&str]) -> Option<i32> {
    run(daemon, arguments).status.code()
}

#[test]
fn a_pipeline_under_a_kernel_of_its_own_is_part_of_an_intent() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let intent = begin(daemon, &["film"]);
        let words = ["run", "--intent", &intent, "--", "sleep", "1000", "|", "sleep", "1001"];
        let mut run = daemon.cli(&words).stderr(Stdio::null()).spawn().expect("the program runs");
        let begun = || objects(daemon, &["events", "kairo.run.started", "--from", "start"]);
        until("it takes part", || !begun().is_empty());
        assert_eq!(begun()[0]["payload"]["argv"], json!(["sleep", "1000", "|", "sleep", "1001"]));
        good(daemon, &["cancel", &intent, "--grace", "2"]);
        assert_eq!(run.wait().expect("our child").code(), Some(143), "all of it ends");
        assert!(good(daemon, &["trace", &intent]).contains("kairo.run.exited code=143"));
    });
}

#[test]
fn an_intent_ends_with_a_result_or_with_the_command_that_holds_it() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let short = begin(daemon, &["short"]);
        assert!(
            good(daemon, &["intent", "end", &short, "--result", "7", "--summary", "all is well"])
                .contains("ended")
        );
        assert!(good(daemon, &["intents", "--all"]).contains("short: all is well"));
        let ended = objects(daemon, &["intent", "timeline", &short, "--reverse", "--limit", "1"]);
        assert_eq!(
            (&ended[0]["topic"], &ended[0]["payload"]["result"]),
            (&json!("kairo.intent.ended"), &json!(7))
        );
        let mut holds = daemon.cli(&["intent", "begin", "held", "--on-disconnect", "cancel"]);
        let mut child = holds.stdout(Stdio::piped()).spawn().expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        assert!(good(daemon, &["intents"]).contains(line.trim()));
        child.kill().expect("it runs");
        child.wait().expect("our child");
        until("it is cancelled with its command", || !good(daemon, &["intents"]).contains(line.trim()));
        let mut holds = daemon.cli(&["intent", "begin", "held", "--on-disconnect", "end"]);
        let mut child = holds.stdout(Stdio::piped()).spawn().expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        good(daemon, &["intent", "end", line.trim()]);
        assert!(child.wait().expect("our child").success(), "it stays until the intent is over");
    });
}

#[test]
fn a_consumer_has_each_event_until_it_is_done() {
    with(&Options::plain(Driver::Poll), |daemon| {
        publish(daemon, "test.job", 0, 6);
        let consume = |arguments: &[&str]| objects(daemon, &[&["consume", "jobs"], arguments].concat());
        let first = consume(&["--topic", "test.*", "--from", "start", "--max-deliver", "50", "--limit", "2"]);
        assert_eq!(numbers(&first), [0, 1]);
        assert_eq!(first[0]["delivery"], 1);
        // What is not said to be done comes again, to whoever comes next.
        assert_eq!(numbers(&consume(&["--ack", "manual", "--limit", "1"])), [2]);
        let file = daemon.folder().join("done");
        let command = format!("grep -o '\"payload\":[0-9]*' >> {}", file.display());
        consume(&["--exec", &command, "--limit", "3"]);
        let mut done: Vec<String> =
            std::fs::read_to_string(&file).expect("it was run").lines().map(str::to_owned).collect();
        done.sort_unstable();
        assert_eq!(done, [2, 3, 4].map(|number| format!("\"payload\":{number}")));
        assert!(consume(&["--exec", "exit 1", "--limit", "1"]).is_empty(), "it goes back");
        assert_eq!(numbers(&consume(&["--limit", "1"])), [5]);
        let listed = &objects(daemon, &["consumers"])[0]["consumers"][0];
        assert_eq!(
            (&listed["name"], &listed["acked"], &listed["pending"]),
            (&json!("jobs"), &json!(6), &json!(0))
        );
        assert!(good(daemon, &["consumers"]).contains("jobs"));
        good(daemon, &["consumers", "--delete", "jobs"]);
        let output = run(daemon, &["consume", "jobs"]);
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--topic"), "it says what to do");
    });
}
