//! Events: whom they reach, and in which shape.

use crate::harness::World;
use kairo_dataplane::control::{ExitStatus, Notice};
use kairo_dataplane::key::Channel;
use kairo_wire::request::Meta;
use serde_json::{Value, json};

#[test]
fn an_event_has_the_original_shape() {
    let mut world = World::new();
    let owner = world.owner();
    for topic in ["kairo.kernel.called", "kairo.process.spawned"] {
        world.ok(owner, "subscribe", json!({ "topic": topic }));
    }
    let meta = Meta {
        correlation_id: Some("story-1".into()),
        causation_id: Some("cause-1".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..Meta::default()
    };
    world.send_with(owner, &json!(1), "process.spawn", &json!({ "id": "p", "command": ["a"] }), Some(&meta));
    world.born();
    let events = world.envelopes(owner);
    let [called, whole] = &events[..] else { panic!("{events:?}") };
    assert_eq!(
        (&called["payload"]["method"], &called["payload"]["target"]),
        (&json!("process.spawn"), &json!("p"))
    );
    assert_eq!((&called["correlationId"], &called["causationId"]), (&json!("story-1"), &json!("cause-1")));
    let (topic, payload) = (whole["topic"].as_str().unwrap(), &whole["payload"]);
    assert_eq!((topic, &payload["id"]), ("kairo.process.spawned", &json!("p")));
    assert_eq!(whole["correlationId"], "story-1");
    assert_eq!(whole["causationId"], called["id"], "the call is what it follows from");
    assert_eq!(whole["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(whole["source"], "kernel");
    assert_eq!(whole["time"], "2023-11-14T22:13:20.000Z");
    assert_eq!(whole["id"].as_str().unwrap().len(), 36);
    assert!(whole.get("data").is_none());
}

#[test]
fn an_event_of_no_story_begins_its_own() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": ">" }));
    world.run(owner, "p");
    let events = world.envelopes(owner);
    assert_eq!(events[0]["correlationId"], events[0]["id"]);
    assert_eq!(events[1]["correlationId"], events[0]["id"], "what follows belongs to it");
}

#[test]
fn one_frame_per_subscription_that_matches() {
    let mut world = World::new();
    let (owner, other) = (world.owner(), world.owner());
    for topic in ["kairo.process.*", ">", "kairo.stream.>", "kairo.process.spawne"] {
        world.ok(owner, "subscribe", json!({ "topic": topic }));
    }
    world.ok(other, "kernel.ping", json!({}));
    world.run(other, "p");
    let topics: Vec<String> = world.events(owner).into_iter().map(|event| event.0).collect();
    assert_eq!(topics, ["kairo.kernel.called", "kairo.process.spawned", "kairo.process.spawned"]);
    assert!(world.events(other).is_empty());
}

#[test]
fn a_pattern_is_no_regular_expression_and_has_bounds() {
    let mut world = World::new();
    let owner = world.owner();
    for topic in ["(", "a+b|c", "[", "\\", "(a*)*>>>*>>>*>>>*"] {
        world.ok(owner, "subscribe", json!({ "topic": topic }));
    }
    let (code, text) = world.fails(owner, "subscribe", json!({ "topic": "x".repeat(129) }));
    assert_eq!(code, "E_INVALID_PARAMS");
    assert!(text.contains("topic"), "{text}");
    for _ in 0..251 {
        world.ok(owner, "subscribe", json!({ "topic": "a" }));
    }
    assert_eq!(world.fails(owner, "subscribe", json!({ "topic": "a" })).0, "E_BUSY");
}

#[test]
fn unsubscribing_ends_it_once() {
    let mut world = World::new();
    let owner = world.owner();
    let id = world.ok(owner, "subscribe", json!({ "topic": ">" }))["subscriptionId"].clone();
    assert!(id.as_str().unwrap().starts_with("topic_"));
    let off = json!({ "subscriptionId": id });
    assert_eq!(world.ok(owner, "process.stdout.unsubscribe", off.clone()), json!({ "ok": false }));
    assert_eq!(world.ok(owner, "unsubscribe", off.clone()), json!({ "ok": true }));
    assert_eq!(world.ok(owner, "unsubscribe", off), json!({ "ok": false }));
    world.run(owner, "p");
    assert!(world.events(owner).is_empty());
}

#[test]
fn nobody_hears_of_what_it_may_not_see() {
    let mut world = World::of_root();
    let (root, alice, bob) = (world.user(0), world.user(2_000), world.user(3_000));
    for connection in [root, alice, bob] {
        world.ok(connection, "subscribe", json!({ "topic": ">" }));
    }
    let (process, _) = world.run(alice, "p");
    world.finish(process, 0);
    // Called, spawned, exited, twice closed, ended; and the notice.
    assert_eq!(world.events(root).len(), 7);
    assert_eq!(world.events(alice).len(), 7);
    assert!(world.events(bob).is_empty());
}

#[test]
fn whoever_is_lowered_hears_less_from_then_on() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": ">" }));
    world.run(owner, "p");
    assert_eq!(world.events(owner).len(), 2);
    world.ok(owner, "identify", json!({ "skillId": "s" }));
    // It was the owner when that was called, and is told as who it is.
    world.events(owner);
    let other = world.owner();
    world.run(other, "q");
    assert!(world.events(owner).is_empty());
    world.run(owner, "r");
    assert_eq!(world.events(owner).len(), 2);
}

#[test]
fn a_gap_names_the_reader_to_the_reader_alone() {
    let mut world = World::new();
    let (owner, other) = (world.owner(), world.owner());
    for connection in [owner, other] {
        world.ok(connection, "subscribe", json!({ "topic": "kairo.stream.gap" }));
    }
    world.run(owner, "p");
    let id = world.ok(owner, "process.stdout.subscribe", json!({ "pid": "p", "policy": "drop_oldest" }));
    let subscription = world.take_subscribe().unwrap().subscription;
    world.notice(Notice::Lagged { subscription, channel: Channel::Stdout, from: 10, to: 25 });
    let own = world.events(owner)[0].1.clone();
    assert_eq!((&own["from"], &own["to"], &own["stream"]), (&json!(10), &json!(25), &json!("stdout")));
    assert_eq!(own["subscriptionId"], id["subscriptionId"]);
    assert!(world.events(other)[0].1.get("subscriptionId").is_none());
}

#[test]
fn refusals_are_told_to_the_administrator_and_to_the_user_they_are_about() {
    let mut world = World::of_root();
    let (root, alice, bob) = (world.user(0), world.user(2_000), world.user(3_000));
    for connection in [root, alice, bob] {
        world.ok(connection, "subscribe", json!({ "topic": "kairo.security.denied" }));
    }
    world.run(alice, "p");
    world.fails(bob, "process.kill", json!({ "id": "p" }));
    let event = world.events(root)[0].1.clone();
    assert_eq!(event["principal"], json!({ "kind": "user", "uid": 3_000 }));
    assert_eq!((&event["method"], &event["target"]), (&json!("process.kill"), &json!("p")));
    assert_eq!(world.events(bob).len(), 1);
    assert!(world.events(alice).is_empty());
}

#[test]
fn nothing_is_said_to_the_dead() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": ">" }));
    let (process, _) = world.run(owner, "p");
    world.disconnect(owner);
    world.log.clear();
    world.exits(process, ExitStatus::Code(0));
    assert!(world.log.iter().all(|command| command.starts_with("Acknowledge")), "{:?}", world.log);
}

#[test]
fn a_kernel_says_that_it_is_ready_to_whoever_listens() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.kernel.ready" }));
    let mut out = kairo_dataplane::command::Commands::default();
    world.kernel.ready(world.at, &mut out);
    world.carry_out(None, out);
    assert_eq!(world.events(owner).len(), 1);
}

#[test]
fn a_batch_of_any_size_is_all_or_nothing_and_one_piece_in_the_log() {
    let mut world = World::new();
    let owner = world.owner();
    let event = |n: usize| json!({"type": "a.b", "data": n});
    for count in [1, 31, 32, 33, 64, 4_096] {
        let before = world.kept.last_seq();
        let events: Vec<Value> = (0..count).map(event).collect();
        let result = world.ok(owner, "event.publish_batch", json!({"events": events}));
        assert_eq!(result["count"], count);
        assert_eq!(result["firstSeq"], before + 1);
        assert_eq!(result["lastSeq"], before + count as u64);
        let mut spoiled = events;
        spoiled[count - 1] = json!({"type": "kairo.kernel.ready"});
        let call = world.start(owner, "event.publish_batch", json!({"events": spoiled}));
        let error = world.answer(owner, &call).expect("an answer").expect_err("it is refused");
        let info = error.info.expect("a code");
        assert_eq!(info.code, "E_PERMISSION_DENIED");
        assert_eq!(world.kept.last_seq(), before + count as u64 + 1, "but that it was denied");
    }
    // The log is handed all of it at once, its receipt included.
    world.keeps = false;
    let meta = Meta { idempotency_key: Some("batch".into()), ..Meta::default() };
    let events: Vec<Value> = (0..1_000).map(event).collect();
    world.send_with(owner, &json!("keyed"), "event.publish_batch", &json!({"events": events}), Some(&meta));
    let batches = world.handed_over();
    assert_eq!(batches, [1_001]);
}
