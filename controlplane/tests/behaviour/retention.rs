//! Dropping what is old when somebody asks for it, and who is told.

use crate::harness::{World, config};
use kairo_controlplane::config::{Config, Limits};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::request::Meta;
use serde_json::{Value, json};

/// A world with a connection that hears whole events.
fn world() -> (World, ConnectionKey) {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "kernel.hello", json!({"client": "t", "features": ["envelope", "records", "int64"]}));
    (world, owner)
}

fn publish(world: &mut World, of: ConnectionKey, topic: &str, data: &Value) -> u64 {
    let result = world.ok(of, "event.publish", json!({"type": topic, "data": data}));
    result["seq"].as_u64().expect("a place")
}

fn told(world: &mut World, of: ConnectionKey) -> Vec<Value> {
    let found = world.ok(of, "event.replay", json!({"types": ["kairo.kernel.compacted"]}));
    let events = found["events"].as_array().expect("a list");
    events.iter().map(|event| event["payload"].clone()).collect()
}

#[test]
fn what_is_old_goes_once_and_leaves_a_summary() {
    let (mut world, owner) = world();
    for n in 0..10 {
        publish(&mut world, owner, "a.b", &json!(n));
    }
    world.advance(10_000);
    publish(&mut world, owner, "a.c", &json!(1));
    let would = world.ok(owner, "event.compact", json!({"olderThanMs": 5_000, "dryRun": true}));
    let did = world.ok(owner, "event.compact", json!({"olderThanMs": 5_000}));
    assert_eq!((&would["dryRun"], &did["dryRun"]), (&json!(true), &json!(false)));
    for field in ["events", "bytes", "ranges"] {
        assert_eq!(would[field], did[field], "{field}");
    }
    assert_eq!(did["events"], 10);
    let (from, to) = (did["ranges"][0]["from"].clone(), did["ranges"][0]["to"].clone());
    let page = world.ok(owner, "event.replay", json!({}));
    assert_eq!(page["gaps"][0]["from"], from);
    assert_eq!(page["gaps"][0]["to"], to);
    assert_eq!(page["gaps"][0]["summary"]["types"]["a.b"], 10);
    let events = told(&mut world, owner);
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["events"], &events[0]["reason"]), (&json!(10), &json!("asked")));
    assert_eq!((&events[0]["from"], &events[0]["to"]), (&from, &to));
    assert_eq!(events[0]["types"], json!({"a.b": 10}));
    // Nothing is left to drop, and nothing is told.
    let again = world.ok(owner, "event.compact", json!({"olderThanMs": 5_000}));
    assert_eq!((&again["events"], &again["ranges"]), (&json!(0), &json!([])));
    assert_eq!(told(&mut world, owner).len(), 1);
}

#[test]
fn the_latest_of_each_key_and_the_latest_so_many_stay() {
    let (mut world, owner) = world();
    for n in 0..30 {
        publish(&mut world, owner, "job.progress", &json!({"job": n % 3, "n": n}));
        publish(&mut world, owner, "other", &json!(n));
    }
    for (rule, kept) in [
        (json!({"type": "job.*", "latestBy": "job"}), vec![27, 28, 29]),
        (json!({"type": "job.*", "count": 2}), vec![28, 29]),
    ] {
        let mut dry = rule.clone();
        dry["dryRun"] = json!(true);
        let would = world.ok(owner, "event.compact", dry);
        let did = world.ok(owner, "event.compact", rule);
        assert_eq!(would["events"], did["events"]);
        assert_eq!(would["bytes"], did["bytes"]);
        let page = world.ok(owner, "event.replay", json!({"types": ["job.progress"]}));
        let left: Vec<u64> = page["events"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|event| event["payload"]["n"].as_u64().expect("a number"))
            .collect();
        assert_eq!(left, kept);
    }
    let page = world.ok(owner, "event.replay", json!({"types": ["other"]}));
    assert_eq!(page["events"].as_array().map(Vec::len), Some(30));
}

#[test]
fn a_consumer_is_told_what_it_will_never_see() {
    let (mut world, owner) = world();
    world.ok(owner, "consumer.create", json!({"name": "c", "topic": "a.b", "fromSeq": 1}));
    for n in 0..5 {
        publish(&mut world, owner, "a.b", &json!(n));
    }
    world.ok(owner, "event.compact", json!({"bytes": 0}));
    let last = publish(&mut world, owner, "a.b", &json!("last"));
    let status = world.ok(owner, "event.log_status", json!({}));
    assert_eq!(status["consumers"][0]["name"], "c");
    assert!(status["consumers"][0]["lag"].as_u64() > Some(5), "nothing is done by being dropped: {status}");
    world.ok(owner, "consumer.attach", json!({"name": "c"}));
    let inbox = world.events(owner);
    let topics: Vec<&str> = inbox.iter().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!(topics, ["event.gap", "a.b"]);
    assert_eq!(inbox[0].1["gap"]["cause"], "compacted");
    assert!(inbox[0].1["gap"]["to"].as_u64() < Some(last));
}

#[test]
fn with_a_key_it_happens_once_and_it_is_the_owners_alone() {
    let (mut world, owner) = world();
    publish(&mut world, owner, "a.b", &json!(1));
    let meta = Meta { idempotency_key: Some("k".into()), ..Meta::default() };
    let mut answers = Vec::new();
    for id in ["one", "two"] {
        let id = json!(id);
        world.send_with(owner, &id, "event.compact", &json!({"bytes": 0}), Some(&meta));
        answers.push(world.answer(owner, &id).expect("an answer").expect("it is done"));
        publish(&mut world, owner, "a.b", &json!(2));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(told(&mut world, owner).len(), 1);
    let user = world.user(2_000);
    assert_eq!(world.fails(user, "event.compact", json!({})).0, "E_PERMISSION_DENIED");
}

#[test]
fn a_compaction_that_means_nothing_is_refused() {
    let (mut world, owner) = world();
    for params in [
        json!({"latestBy": "x"}),
        json!({"count": 1}),
        json!({"type": "a.b"}),
        json!({"type": "a.b", "bytes": 1}),
        json!({"type": "a.b", "latestBy": ""}),
    ] {
        assert_eq!(world.fails(owner, "event.compact", params).0, "E_INVALID_PARAMS");
    }
}

#[test]
fn it_is_answered_once_whatever_happens_meanwhile() {
    let (mut world, owner) = world();
    publish(&mut world, owner, "a.b", &json!(1));
    world.keeps = false;
    let late = json!("late");
    let meta = Meta { deadline_ms: Some(10), ..Meta::default() };
    world.send_with(owner, &late, "event.compact", &json!({"bytes": 0}), Some(&meta));
    let cancelled = world.start(owner, "event.compact", json!({"bytes": 0}));
    world.ok(owner, "kernel.cancel", json!({"id": cancelled}));
    let failed = world.start(owner, "event.compact", json!({"bytes": 0}));
    world.advance(20);
    let code = |world: &mut World, id| match world.answer(owner, id) {
        Some(Err(error)) => error.info.expect("a code").code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&mut world, &late), "E_TIMEOUT");
    assert_eq!(code(&mut world, &cancelled), "E_CANCELLED");
    assert!(world.answer(owner, &failed).is_none());
    let at = world.at;
    world.tell(|kernel, out| {
        kernel.log_failed(at, "broken", out);
        false
    });
    assert_eq!(code(&mut world, &failed), "E_UNAVAILABLE");
    world.keeps = true;
    world.keep();
    for id in [&late, &cancelled, &failed] {
        assert!(world.answer(owner, id).is_none(), "a second answer");
    }
}

#[test]
fn while_too_much_is_not_written_clients_publish_nothing_and_the_kernel_does() {
    let limits = Limits { unwritten_bytes_max: 2_000, ..Limits::default() };
    let mut world = World::with(Config { limits, ..config() });
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({"topic": "kairo.process.spawned"}));
    world.keeps = false;
    let event = json!({"type": "a.b", "data": "x".repeat(300), "ack": "memory"});
    let mut taken = 0;
    while world.call(owner, "event.publish", event.clone()).is_ok() {
        taken += 1;
        assert!(taken < 100, "memory grows without bound");
    }
    assert!(taken > 2);
    let (code, text) = world.fails(owner, "event.publish", event.clone());
    assert_eq!(code, "E_BUSY", "{text}");
    assert_eq!(world.fails(owner, "event.publish_batch", json!({"events": [event]})).0, "E_BUSY");
    assert_eq!(world.fails(owner, "event.request", json!({"type": "a.b"})).0, "E_BUSY");
    world.run(owner, "sleeper");
    let unwritten = world.ok(owner, "event.log_status", json!({}))["unwrittenBytes"].as_u64();
    assert!(unwritten > Some(2_000), "{unwritten:?}");
    world.keeps = true;
    world.keep();
    assert_eq!(world.events(owner).len(), 1, "the kernel's own was told");
    assert_eq!(world.ok(owner, "event.log_status", json!({}))["unwrittenBytes"], 0);
    world.ok(owner, "event.publish", event);
}
