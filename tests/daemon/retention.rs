//! What is old goes from the log, in the open: whatever was given a place is an event or stands in a gap, whenever the daemon
//! dies.

use crate::support::raw::Raw;
use crate::support::{Daemon, Driver, Options, until, with};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::io::Write;
use tempfile::NamedTempFile;

/// Runs a test against a daemon with this `[events]`.
fn with_policy(policy: &str, test: impl FnOnce(&mut Daemon)) {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(policy.as_bytes()).expect("it is written");
    let path = file.path().to_str().expect("a path of text").to_owned();
    let mut daemon =
        Daemon::start(&Options { arguments: &["--config", &path], ..Options::plain(Driver::Poll) });
    test(&mut daemon);
    daemon.finish();
}

fn publish(raw: &mut Raw, topic: &str, count: u64, data: impl Fn(u64) -> Json) -> u64 {
    let mut last = 0;
    for from in (0..count).step_by(1_000) {
        let events: Vec<Json> =
            (from..count.min(from + 1_000)).map(|n| json!({"type": topic, "data": data(n)})).collect();
        last = raw.ok("event.publish_batch", json!({"events": events}))["lastSeq"].as_u64().expect("a place");
    }
    last
}

fn status(raw: &mut Raw) -> Json {
    raw.ok("event.log_status", json!({}))
}

fn number(value: &Json) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// All that is in the log: events by place, and gaps by their first.
fn replay(raw: &mut Raw, order: &str) -> (Vec<u64>, BTreeMap<u64, Json>) {
    let (mut events, mut gaps) = (Vec::new(), BTreeMap::new());
    let at = if order == "forward" { "fromSeq" } else { "toSeq" };
    let mut params = json!({"order": order});
    loop {
        let page = raw.ok("event.replay", params.clone());
        let found = page["events"].as_array().expect("a list");
        events.extend(found.iter().map(|event| number(&event["seq"])));
        for gap in page["gaps"].as_array().expect("a list") {
            gaps.insert(number(&gap["from"]), gap.clone());
        }
        match page["next"].as_u64() {
            Some(next) => params[at] = json!(next),
            None => return (events, gaps),
        }
    }
}

/// Every place up to the last is an event or in a gap, both ways, and summaries count what is missing.
fn nothing_is_gone_silently(raw: &mut Raw) {
    let (mut forward, mut gaps) = (Vec::new(), BTreeMap::new());
    until("both ways show the same, once nothing is dropped any more", || {
        (forward, gaps) = replay(raw, "forward");
        let (mut backward, gaps_backward) = replay(raw, "backward");
        backward.reverse();
        forward == backward && gaps == gaps_backward
    });
    let mut events = forward.iter().copied().peekable();
    for seq in 1..=forward.last().copied().unwrap_or_default() {
        let is_there = events.next_if_eq(&seq).is_some();
        let in_gap = gaps.values().find(|gap| number(&gap["from"]) <= seq && seq <= number(&gap["to"]));
        assert!(is_there || in_gap.is_some(), "{seq} is gone without a word");
    }
    for gap in gaps.values() {
        let (from, to) = (number(&gap["from"]), number(&gap["to"]));
        let there = forward.iter().filter(|seq| (from..=to).contains(seq)).count() as u64;
        assert_eq!(number(&gap["summary"]["events"]) + there, to - from + 1, "{gap}");
    }
}

/// A connection that sees places in the log.
fn seeing(daemon: &Daemon) -> Raw {
    let mut raw = daemon.connect();
    raw.ok("kernel.hello", json!({"features": ["envelope", "records", "int64"]}));
    raw
}

#[test]
fn a_log_keeps_within_its_bytes_and_says_what_went_whenever_it_dies() {
    with_policy("[events]\nretain_bytes = \"512 KiB\"\n", |daemon| {
        let mut raw = seeing(daemon);
        let text = "x".repeat(200);
        let count = 9_000;
        publish(&mut raw, "test.fill", count, |n| json!({"n": n, "text": text}));
        until("the log is within its bytes", || {
            let status = status(&mut raw);
            // Up to what may come before the policy has its say again.
            number(&status["bytes"]) < 2 << 20 && status["compacting"] == false
        });
        // It is told behind what it tells of, in a batch of its own.
        let mut found = Json::Null;
        until("it is told what went", || {
            found = raw.ok("event.replay", json!({"types": ["kairo.kernel.compacted"]}));
            found["events"][0].is_object()
        });
        assert_eq!(found["events"][0]["payload"]["reason"], "policy");
        nothing_is_gone_silently(&mut raw);
        for nth in 1..4 {
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
            daemon.succeed_unasked(&["--die-at", &format!("log.dropped:{nth}")]);
            // It dies when it drops, which it does by itself or is told to.
            if let Ok(mut raw) = Raw::try_connect(&daemon.socket) {
                let events: Vec<Json> = (0..3_000)
                    .map(|n| json!({"type": "test.more", "data": {"n": n, "text": text}}))
                    .collect();
                let _ = raw.try_call("event.publish_batch", json!({"events": events}));
                let _ = raw.try_call("event.compact", json!({"bytes": 1_000}));
            }
            daemon.wait();
            daemon.succeed(&[]);
            let mut raw = seeing(daemon);
            nothing_is_gone_silently(&mut raw);
        }
    });
}

#[test]
fn of_each_key_the_latest_stays_and_what_is_wanted_is_said_in_the_configuration() {
    let policy = "[events]\nretain_days = 0\nretain_bytes = 0\n\
        [[events.rules]]\ntype = \"job.progress\"\nlatest_by = \"data.job\"\n";
    with_policy(policy, |daemon| {
        let mut raw = seeing(daemon);
        let policy = status(&mut raw)["policy"].clone();
        assert_eq!(policy, json!({"rules": [{"type": "job.progress", "latestBy": "job"}]}));
        publish(&mut raw, "job.progress", 5_000, |n| json!({"job": n % 10, "n": n}));
        publish(&mut raw, "test.other", 100, |n| json!(n));
        raw.ok("event.compact", json!({}));
        let left = raw.ok("event.replay", json!({"types": ["job.progress"]}));
        let left: Vec<u64> =
            left["events"].as_array().expect("a list").iter().map(|e| number(&e["payload"]["n"])).collect();
        assert_eq!(left, (4_990..5_000).collect::<Vec<u64>>());
        let others = raw.ok("event.replay", json!({"types": ["test.other"]}));
        assert_eq!(others["events"].as_array().map(Vec::len), Some(100));
        nothing_is_gone_silently(&mut raw);
        daemon.kill_and_succeed();
        nothing_is_gone_silently(&mut seeing(daemon));
    });
}

#[test]
fn a_consumer_that_was_away_is_told_what_it_will_not_get() {
    with(&Options::plain(Driver::Poll), |daemon| {
        let mut raw = seeing(daemon);
        raw.ok("consumer.create", json!({"name": "late", "topic": "test.job"}));
        let to = publish(&mut raw, "test.job", 3_000, |n| json!(n));
        raw.ok("event.compact", json!({"bytes": 0}));
        let next = publish(&mut raw, "test.job", 1, |_| json!("after"));
        let mut reader = seeing(daemon);
        reader.ok("consumer.attach", json!({"name": "late"}));
        let mut topics = Vec::new();
        while topics.last().is_none_or(|topic| topic != "test.job") {
            let event = reader.frame().expect("a frame").json();
            if event["topic"] == "event.gap" {
                assert_eq!(event["data"]["gap"]["cause"], "compacted");
                assert!(number(&event["data"]["gap"]["to"]) >= to);
            }
            if event["topic"] == "test.job" {
                assert_eq!((&event["payload"], number(&event["seq"])), (&json!("after"), next));
            }
            topics.push(event["topic"].as_str().expect("a topic").to_owned());
        }
        assert_eq!(topics, ["event.gap", "test.job"]);
    });
}

#[test]
fn the_command_line_shows_the_log_and_drops_from_it() {
    with(&Options::plain(Driver::Poll), |daemon| {
        publish(&mut daemon.connect(), "test.number", 500, |n| json!(n));
        let run = |arguments: &[&str]| {
            let output = daemon.cli(arguments).output().expect("the program runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        };
        let dry = ["log", "compact", "--type", "test.number", "--keep", "10", "--dry-run"];
        assert!(run(&dry).starts_with("would drop 490 events"));
        let done: Json = serde_json::from_str(&run(&[&["--json"], &dry[..6]].concat())).expect("JSON");
        assert_eq!((&done["v"], &done["events"], &done["dryRun"]), (&json!(1), &json!(490), &json!(false)));
        let text = run(&["log", "status"]);
        assert!(text.contains("30d") || text.contains("720h"), "{text}");
        assert!(text.contains("kairo.process.progress"), "{text}");
        let status: Json = serde_json::from_str(&run(&["--json", "log", "status"])).expect("JSON");
        assert_eq!(status["gaps"], 1);
        assert!(number(&status["events"]) < 100, "{status}");
    });
}
