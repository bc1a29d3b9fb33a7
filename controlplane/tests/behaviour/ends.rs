//! The three ends of a process, who is told of them, and how long they are remembered.

use crate::harness::{World, code, config};
use kairo_controlplane::config::{Config, Limits};
use kairo_dataplane::command::Command;
use kairo_dataplane::control::{ExitStatus, Failure, Notice, StreamEnd, Usage};
use kairo_dataplane::key::Channel;
use serde_json::json;
use std::sync::atomic::Ordering;

#[test]
fn wait_answers_at_the_exit_and_at_once_after_it() {
    let mut world = World::new();
    let (owner, other) = (world.owner(), world.owner());
    let (process, _) = world.run(owner, "p");
    let waits =
        [(owner, "p"), (other, "p")].map(|(c, id)| (c, world.start(c, "process.wait", json!({ "id": id }))));
    world.advance(1_500);
    let usage = Usage { user_us: 7, max_rss_kib: 9, ..Usage::default() };
    let at_ns = world.at.monotonic_ns;
    world.notice(Notice::Exited { process, status: ExitStatus::Code(3), usage, at_ns });
    for (connection, wait) in waits {
        let answer = world.answer(connection, &wait).unwrap().unwrap();
        assert_eq!(
            (&answer["status"], &answer["id"], &answer["exitCode"]),
            (&json!("exited"), &json!("p"), &json!(3))
        );
        assert_eq!(answer["exit"]["code"], 3);
        assert_eq!(answer["exit"]["durationMs"], 1_500);
        assert_eq!(answer["exit"]["usage"]["userUs"], 7);
        assert_eq!(answer["exit"]["endedBy"], json!({ "cause": "itself" }));
    }
    assert_eq!(world.ok(other, "process.wait", json!({ "id": "p" }))["exitCode"], 3);
    assert_eq!(
        world.ok(other, "process.status", json!({ "id": "p" })),
        json!({ "state": "exited", "exitCode": 3 })
    );
}

#[test]
fn wait_for_the_unknown_says_so_and_patience_can_end() {
    let mut world = World::new();
    let owner = world.owner();
    let text = "Process x not found".to_owned();
    assert_eq!(world.fails(owner, "process.wait", json!({ "id": "x" })), ("E_NOT_FOUND".to_owned(), text));
    world.run(owner, "p");
    let wait = world.start(owner, "process.wait", json!({ "id": "p", "timeoutMs": 100 }));
    world.advance(100);
    assert_eq!(code(&world.answer(owner, &wait).unwrap().unwrap_err()).0, "E_TIMEOUT");
    // Nothing of it stays with the process.
    assert!(world.timers.is_empty());
}

#[test]
fn death_by_a_signal_is_128_and_more_in_the_old_field_and_apart_in_the_new() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.exits(process, ExitStatus::Signal { signal: 11, core: true });
    let answer = world.ok(owner, "process.wait", json!({ "id": "p" }));
    assert_eq!(answer["exitCode"], 139);
    assert_eq!(answer["exit"]["signal"], 11);
    assert_eq!(answer["exit"]["signalName"], "SIGSEGV");
    assert_eq!(answer["exit"]["core"], true);
    assert!(answer["exit"].get("code").is_none());
}

#[test]
fn each_connection_that_may_see_it_and_has_spoken_is_told_of_an_exit_in_its_place() {
    let mut world = World::of_root();
    let (root, alice, bob, silent) = (world.user(0), world.user(2_000), world.user(3_000), world.user(2_000));
    for connection in [root, bob] {
        world.ok(connection, "kernel.ping", json!({}));
    }
    let (process, _) = world.run(alice, "p");
    world.exits(process, ExitStatus::Code(0));
    assert!(
        world.log.iter().any(|command| command.starts_with("Announce")),
        "it waits for the bytes before it"
    );
    for connection in [root, alice] {
        assert_eq!(world.events(connection), [("process.exit".to_owned(), json!({ "id": "p", "code": 0 }))]);
    }
    assert!(world.events(bob).is_empty());
    assert!(world.inboxes[&silent].is_empty());
}

#[test]
fn the_three_ends_are_three_events() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.>" }));
    let (process, pid) = world.run(owner, "p");
    world.advance(20);
    world.exits(process, ExitStatus::Code(2));
    world.notice(Notice::Closed {
        process,
        channel: Channel::Stderr,
        end: StreamEnd { total_bytes: 5, cut_bytes: 0 },
    });
    world.advance(10);
    world.notice(Notice::Ended { process });
    world.notice(Notice::Closed {
        process,
        channel: Channel::Stdout,
        end: StreamEnd { total_bytes: 9, cut_bytes: 4 },
    });
    let events: Vec<_> =
        world.events(owner).into_iter().filter(|(topic, _)| topic.starts_with("kairo.")).skip(1).collect();
    let topics: Vec<&str> = events.iter().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(
        topics,
        [
            "kairo.process.spawned",
            "kairo.process.exited",
            "kairo.stream.closed",
            "kairo.process.ended",
            "kairo.stream.closed"
        ]
    );
    assert_eq!(events[0].1["pid"], pid);
    assert_eq!(events[0].1["owner"], json!({ "kind": "owner", "uid": 1_000 }));
    assert_eq!((&events[1].1["code"], &events[1].1["durationMs"]), (&json!(2), &json!(20)));
    assert_eq!(events[1].1["endedBy"]["cause"], "itself");
    assert_eq!(events[2].1["stream"], "stderr");
    assert_eq!(events[3].1["durationMs"], 30);
    assert_eq!(events[3].1["streams"][1], json!({ "stream": "stderr", "totalBytes": 5, "cutBytes": 0 }));
    assert_eq!(events[4].1["totalBytes"], 9);
    let session = &events[0].1["session"];
    assert!(events.iter().all(|(_, event)| event["session"] == *session && event["id"] == "p"));
}

#[test]
fn a_record_is_kept_an_hour_after_all_of_it_is_over() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.exits(process, ExitStatus::Code(0));
    world.notice(Notice::Ended { process });
    world.advance(7_200_000);
    // A stream is open: somebody holds it, the record stays.
    assert_eq!(world.ok(owner, "process.status", json!({ "id": "p" }))["state"], "exited");
    world.closes(process);
    world.advance(3_599_999);
    assert_eq!(world.ok(owner, "process.status", json!({ "id": "p" }))["state"], "exited");
    world.advance(1);
    assert_eq!(world.take_forget(), Some(process));
    assert_eq!(world.ok(owner, "process.status", json!({ "id": "p" }))["state"], "unknown");
    assert_eq!(world.kernel.census(), [1, 0, 0, 0, 0]);
}

#[test]
fn records_are_forgotten_in_the_order_they_ended_when_there_are_too_many() {
    let limits = Limits { retained_max: 3, ..Limits::default() };
    let mut world = World::with(Config { limits, ..config() });
    let owner = world.owner();
    let mut lives = Vec::new();
    for nth in 0..5 {
        world.advance(1);
        let (process, _) = world.run(owner, &format!("p{nth}"));
        world.finish(process, nth);
        lives.push(process);
    }
    assert_eq!(
        [world.take_forget(), world.take_forget(), world.take_forget()],
        [Some(lives[0]), Some(lives[1]), None]
    );
    assert_eq!(world.ok(owner, "process.wait", json!({ "id": "p4" }))["exitCode"], 4);
    // One timer serves them all, each in its time.
    world.advance(3_600_000);
    assert_eq!(world.kernel.census(), [1, 0, 0, 0, 0]);
}

#[test]
fn status_in_detail_tells_what_the_meters_say() {
    let mut world = World::new();
    let (owner, other) = (world.owner(), world.owner());
    world.start(
        owner,
        "process.spawn",
        json!({ "id": "p", "command": ["a", "b"], "options": { "cwd": "/tmp" } }),
    );
    let Some(Command::Spawn(spawn)) = world.commands.last() else { panic!("no spawn") };
    let meter = std::sync::Arc::clone(&spawn.meter);
    world.born();
    let id = world.ok(owner, "process.stdout.subscribe", json!({ "pid": "p", "stream": "stdout" }));
    let reader = world.take_subscribe().unwrap().meter;
    meter.streams[0].taken_bytes.set(1_000);
    meter.streams[0].paused.store(true, Ordering::Relaxed);
    meter.stdin_parked_bytes.set(5);
    reader.offset[0].set(400);
    reader.stalled.store(true, Ordering::Relaxed);
    let detail = world.ok(owner, "process.status", json!({ "id": "p", "detail": true }))["detail"].clone();
    assert_eq!(detail["argv"], json!(["a", "b"]));
    assert_eq!(detail["cwd"], "/tmp");
    assert_eq!(detail["phase"], "running");
    assert_eq!(detail["streams"][0]["bytes"], 1_000);
    assert_eq!(detail["readers"][0]["subscriptionId"], id["subscriptionId"]);
    assert_eq!(detail["readers"][0]["at"], json!([{ "stream": "stdout", "offset": 400, "lagBytes": 600 }]));
    let waits = detail["waitingFor"].as_array().unwrap();
    assert_eq!(waits.len(), 2);
    assert_eq!(waits[0]["subscriptionId"], id["subscriptionId"]);
    assert_eq!((&waits[0]["what"], &waits[1]["what"]), (&json!("stdout"), &json!("stdin")));
    // Another connection sees the reader, not its name: a name can be used to end it.
    let seen = world.ok(other, "process.list", json!({}));
    assert!(seen["processes"][0]["detail"]["readers"][0].get("subscriptionId").is_none());
    assert_eq!(seen["processes"][0]["id"], "p");
}

#[test]
fn a_list_is_in_the_order_of_spawning_and_only_of_what_may_be_seen() {
    let mut world = World::of_root();
    let (root, alice, bob) = (world.user(0), world.user(2_000), world.user(3_000));
    for (connection, id) in [(alice, "z"), (bob, "y"), (alice, "x"), (root, "w")] {
        world.run(connection, id);
    }
    let mut ids = |connection| -> Vec<String> {
        let list = world.ok(connection, "process.list", json!({}));
        list["processes"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(root), ["z", "y", "x", "w"]);
    assert_eq!(ids(alice), ["z", "x"]);
    assert_eq!(ids(bob), ["y"]);
}

#[test]
fn a_lost_keeper_is_told_to_everybody_who_waits() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.process.*" }));
    let (_, pid) = world.run(owner, "p");
    let (over, _) = world.run(owner, "over");
    world.finish(over, 0);
    world.events(owner);
    let wait = world.start(owner, "process.wait", json!({ "id": "p" }));
    world.start(owner, "process.kill", json!({ "id": "p" }));
    let (_, _, ticket) = world.take_signal().unwrap();
    let heir = world.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"] }));
    let spawn = world.start(owner, "process.spawn", json!({ "id": "q", "command": ["a"] }));
    world.notice(Notice::KeeperLost);
    for call in [wait, heir, spawn] {
        assert_eq!(code(&world.answer(owner, &call).unwrap().unwrap_err()).0, "E_KEEPER_LOST");
    }
    world.done(ticket.unwrap(), Err(Failure::KeeperLost));
    assert_eq!(world.events(owner)[0].0, "kairo.process.lost");
    assert_eq!(world.ok(owner, "process.status", json!({ "id": "p" }))["state"], "unknown");
    let detail = world.ok(owner, "process.status", json!({ "id": "p", "detail": true }))["detail"].clone();
    assert_eq!((&detail["phase"], &detail["pid"]), (&json!("lost"), &json!(pid)));
    for (method, params) in [
        ("process.spawn", json!({ "id": "r", "command": ["a"] })),
        ("process.wait", json!({ "id": "p" })),
        ("process.kill", json!({ "id": "p" })),
        ("process.signal", json!({ "id": "p", "signal": "HUP" })),
    ] {
        assert_eq!(world.fails(owner, method, params).0, "E_KEEPER_LOST", "{method}");
    }
    // What had ended before is known as ever.
    assert_eq!(world.ok(owner, "process.wait", json!({ "id": "over" }))["exitCode"], 0);
    assert!(world.timers.len() <= 1, "only the retention of what is over");
    let facts = world.ok(owner, "kernel.doctor", json!({}))["facts"].clone();
    assert_eq!(facts[0]["holds"], false);
}

#[test]
fn integers_are_floats_beyond_32_bits_for_who_has_not_asked_for_more() {
    let mut world = World::new();
    let (old, new) = (world.owner(), world.owner());
    world.ok(new, "kernel.hello", json!({ "features": ["int64"] }));
    world.ok(old, "kernel.ping", json!({}));
    let id = 9_000_000_000_i64;
    let (process, _) = world.run_with(new, json!({ "id": id, "command": ["a"] }));
    world.exits(process, ExitStatus::Code(0));
    let announced = world.log.iter().find(|command| command.starts_with("Announce")).unwrap();
    // float64 for the one, all 64 bits for the other.
    assert_eq!(announced.matches(r"\xa2id\xcb").count(), 1, "{announced}");
    assert_eq!(announced.matches(r"\xa2id\xcf").count(), 1, "{announced}");
}
