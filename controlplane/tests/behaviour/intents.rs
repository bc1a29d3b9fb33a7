//! Intents: how they begin and end, what belongs to them, and that a cancel stops that and nothing else.

use crate::harness::{World, config, value};
use kairo_dataplane::command::Command;
use kairo_dataplane::control::{ExitStatus, Notice};
use kairo_dataplane::key::{ConnectionKey, ProcessKey};
use kairo_wire::codec::raw::Raw;
use kairo_wire::frame::Kind;
use kairo_wire::request::Meta;
use kairo_wire::response::{CallError, ErrorInfo};
use serde_json::{Value, json};

const TERM: ExitStatus = ExitStatus::Signal { signal: 15, core: false };
const KILL: ExitStatus = ExitStatus::Signal { signal: 9, core: false };

fn begin(world: &mut World, connection: ConnectionKey, params: Value) -> String {
    world.ok(connection, "intent.begin", params)["intentId"].as_str().unwrap().to_owned()
}

fn start(world: &mut World, connection: ConnectionKey, intent: &str, method: &str, params: Value) -> Value {
    let id = json!(format!("{method} {params} {intent}"));
    let meta = Meta { intent_id: Some(intent.into()), ..Meta::default() };
    world.send_with(connection, &id, method, &params, Some(&meta));
    id
}

fn call(
    world: &mut World,
    connection: ConnectionKey,
    intent: &str,
    method: &str,
    params: Value,
) -> Result<Value, CallError> {
    let id = start(world, connection, intent, method, params);
    world.answer(connection, &id).unwrap_or_else(|| panic!("{method} is not answered"))
}

fn field(error: &ErrorInfo) -> Value {
    value(error.details.as_ref().unwrap().as_ref())["field"].clone()
}

fn code_of(result: Result<Value, CallError>) -> String {
    result.expect_err("it is refused").info.unwrap().code
}

fn run(world: &mut World, connection: ConnectionKey, intent: &str, id: &str) -> (ProcessKey, i32) {
    let call = start(world, connection, intent, "process.spawn", json!({ "id": id, "command": ["a"] }));
    let born = world.born();
    world.answer(connection, &call).unwrap().unwrap();
    born
}

fn state(world: &mut World, connection: ConnectionKey, intent: &str) -> String {
    let status = world.ok(connection, "intent.status", json!({ "intentId": intent }));
    status["state"].as_str().unwrap().to_owned()
}

/// Signals in the order they were sent.
fn signals(world: &mut World) -> Vec<(ProcessKey, i32)> {
    let mut sent = Vec::new();
    while let Some((process, signal, _)) = world.take_signal() {
        sent.push((process, signal));
    }
    sent
}

fn dies(world: &mut World, process: ProcessKey, status: ExitStatus) {
    world.exits(process, status);
    world.closes(process);
    world.notice(Notice::Ended { process });
}

fn stopped(receipt: &Value) -> Vec<String> {
    let one = |stopped: &Value| {
        let text = |name: &str| stopped[name].as_str().unwrap().to_owned();
        let id =
            if text("kind") == "stream" || text("kind") == "events" { String::new() } else { text("id") };
        format!("{} {id} {}", text("kind"), text("how"))
    };
    receipt["stopped"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn an_intent_begins_and_ends_and_the_log_says_so() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "kernel.hello", json!({ "features": ["envelope"] }));
    world.ok(owner, "subscribe", json!({ "topic": "kairo.intent.*" }));
    let params = json!({ "name": "render", "query": "all of it", "context": {"a": [1, 2]} });
    let begun = world.ok(owner, "intent.begin", params);
    let id = begun["intentId"].as_str().unwrap().to_owned();
    assert_eq!(begun["correlationId"], begun["intentId"], "it begins its own story");
    let events = world.envelopes(owner);
    let [started] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&started["id"], &started["intentId"]), (&json!(id), &json!(id)));
    assert_eq!(started["seq"], begun["seq"]);
    assert_eq!(started["payload"]["context"], json!({"a": [1, 2]}));
    assert_eq!(state(&mut world, owner, &id), "open");
    world.advance(250);
    let result = json!({ "intentId": id, "result": [240], "summary": "done" });
    let ended = world.ok(owner, "intent.end", result.clone());
    assert_eq!(ended["durationMs"], 250);
    assert_eq!(world.ok(owner, "intent.end", result), ended, "once more is the same");
    let events = world.envelopes(owner);
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&event["topic"], &event["payload"]["result"]), (&json!("kairo.intent.ended"), &json!([240])));
    assert_eq!(event["causationId"], json!(id));
    assert_eq!(event["correlationId"], begun["correlationId"]);
    let status = world.ok(owner, "intent.status", json!({ "intentId": id }));
    assert_eq!((&status["state"], &status["summary"]), (&json!("ended"), &json!("done")));
    assert_eq!(world.fails(owner, "intent.cancel", json!({ "intentId": id })).0, "E_CONFLICT");
}

#[test]
fn what_a_call_starts_belongs_to_the_intent_it_names() {
    let mut world = World::new();
    let owner = world.owner();
    let intent = begin(&mut world, owner, json!({ "name": "i" }));
    let spawn = json!({ "id": "p", "command": ["a"] });
    start(&mut world, owner, &intent, "process.spawn", spawn);
    let command = world.take_spawn().unwrap();
    let variable = |name: &str| {
        let found = command.env.iter().find_map(|line| {
            String::from_utf8_lossy(line).strip_prefix(&format!("{name}=")).map(str::to_owned)
        });
        found.unwrap_or_default()
    };
    assert_eq!(variable("KAIRO_INTENT_ID"), intent);
    assert_eq!(variable("KAIRO_CORRELATION_ID"), intent, "it is part of the same story");
    let status = world.ok(owner, "intent.status", json!({ "intentId": intent }));
    assert_eq!((&status["processes"], &status["calls"]), (&json!(1), &json!(1)));
}

#[test]
fn an_intent_that_can_not_be_named_is_refused_in_its_own_field() {
    let mut world = World::new();
    let (owner, other) = (world.user(2_000), world.user(3_000));
    let (mine, ended, gone) = (
        begin(&mut world, owner, json!({ "name": "i" })),
        begin(&mut world, owner, json!({ "name": "e" })),
        begin(&mut world, owner, json!({ "name": "c" })),
    );
    world.ok(owner, "intent.end", json!({ "intentId": ended }));
    world.ok(owner, "intent.cancel", json!({ "intentId": gone }));
    for (who, id, expected) in [
        (owner, "no-such-intent", "E_NOT_FOUND"),
        (owner, &*ended, "E_CONFLICT"),
        (owner, &*gone, "E_CONFLICT"),
        (other, &*mine, "E_PERMISSION_DENIED"),
    ] {
        for method in ["process.spawn", "process.list", "event.publish"] {
            let params = json!({ "id": "p", "command": ["a"], "type": "x" });
            let error = call(&mut world, who, id, method, params).expect_err("it is refused").info.unwrap();
            assert_eq!(error.code, expected, "{method} {id}");
            assert_eq!(field(&error), "meta.intentId");
        }
        let params = json!({ "type": "x", "intentId": id });
        let error = world.call(who, "event.publish", params).expect_err("it is refused").info.unwrap();
        assert_eq!((&*error.code, field(&error)), (expected, json!("intentId")));
        let params = json!({ "name": "child", "parent": id });
        assert_eq!(
            code_of(world.call(who, "intent.begin", params)),
            if id == gone { "E_CANCELLED" } else { expected }
        );
    }
    assert!(world.commands.is_empty());
}

#[test]
fn a_cancel_stops_the_subtree_children_first_and_nothing_else() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "kernel.hello", json!({ "features": ["envelope", "records"] }));
    let top = begin(&mut world, owner, json!({ "name": "top" }));
    let child = begin(&mut world, owner, json!({ "name": "child", "parent": top }));
    let deep = begin(&mut world, owner, json!({ "name": "deep", "parent": child }));
    let beside = begin(&mut world, owner, json!({ "name": "beside" }));
    let (p_top, _) = run(&mut world, owner, &top, "top");
    let (p_child, _) = run(&mut world, owner, &child, "child");
    let (p_deep, _) = run(&mut world, owner, &deep, "deep");
    let (p_beside, _) = run(&mut world, owner, &beside, "beside");
    world.run(owner, "free");
    let wait = start(&mut world, owner, &child, "process.wait", json!({ "id": "free" }));
    let other = start(&mut world, owner, &beside, "process.wait", json!({ "id": "free" }));
    let events = call(&mut world, owner, &top, "subscribe", json!({ "topic": "nothing" })).unwrap();
    let reader = call(&mut world, owner, &top, "process.stdout.subscribe", json!({ "pid": "free" })).unwrap();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.intent.>" }));
    world.events(owner);
    let cancel = world.start(owner, "intent.cancel", json!({ "intentId": top, "reason": "enough" }));
    assert_eq!(signals(&mut world), [(p_deep, 15), (p_child, 15), (p_top, 15)], "children first");
    assert_eq!(code_of(world.answer(owner, &wait).unwrap()), "E_CANCELLED");
    assert!(world.answer(owner, &other).is_none(), "what belongs to another intent goes on");
    assert_eq!(
        world.ok(owner, "unsubscribe", json!({ "subscriptionId": events["subscriptionId"] }))["ok"],
        false
    );
    assert!(world.take_unsubscribe().is_some());
    let told: Vec<String> = world.events(owner).into_iter().map(|event| event.0).collect();
    assert!(told.contains(&"event.cut".to_owned()) && told.contains(&"stream.end".to_owned()), "{told:?}");
    assert_eq!(told.iter().filter(|topic| *topic == "kairo.intent.cancelling").count(), 3);
    assert!(world.answer(owner, &cancel).is_none(), "it is answered when all is gone");
    dies(&mut world, p_top, TERM);
    dies(&mut world, p_deep, ExitStatus::Code(0));
    assert_eq!(state(&mut world, owner, &deep), "cancelled");
    assert_eq!(state(&mut world, owner, &child), "cancelling");
    world.advance(5_000);
    assert_eq!(signals(&mut world), [(p_child, 9)]);
    dies(&mut world, p_child, KILL);
    let receipt = world.answer(owner, &cancel).unwrap().unwrap();
    assert_eq!(
        stopped(&receipt),
        [
            "stream  ended",
            "events  ended",
            "process top terminated",
            "call process.wait ended",
            "process deep exited",
            "process child killed",
        ]
    );
    assert_eq!(receipt["children"], json!([deep, child]));
    assert_eq!((&receipt["reason"], &receipt["left"]), (&json!("enough"), &json!(0)));
    assert_eq!(receipt["durationMs"], 5_000);
    assert_eq!(world.ok(owner, "intent.cancel", json!({ "intentId": top })), receipt, "twice is the same");
    assert_eq!(signals(&mut world), []);
    assert_eq!(state(&mut world, owner, &beside), "open");
    let (topic, last) = world.events(owner).pop().unwrap();
    assert_eq!((&*topic, &last), ("kairo.intent.cancelled", &receipt));
    assert_eq!(reader["subscriptionId"].as_str().unwrap().len(), 39);
    let _ = p_beside;
}

#[test]
fn a_second_cancel_joins_the_first_and_sends_no_second_signal() {
    let mut world = World::new();
    let owner = world.owner();
    let intent = begin(&mut world, owner, json!({ "name": "i" }));
    let (process, _) = run(&mut world, owner, &intent, "p");
    let first = world.start(owner, "intent.cancel", json!({ "intentId": intent }));
    let second = world.start(owner, "intent.cancel", json!({ "intentId": intent, "reason": "again" }));
    world.ok(
        owner,
        "event.publish",
        json!({ "type": "kairo.intent.cancel", "data": { "intentId": intent } }),
    );
    world.ok(
        owner,
        "event.publish",
        json!({ "type": "kairo.cancel", "data": { "targetCorrelationId": intent } }),
    );
    assert_eq!(signals(&mut world), [(process, 15)]);
    dies(&mut world, process, TERM);
    let receipt = world.answer(owner, &first).unwrap().unwrap();
    assert_eq!(world.answer(owner, &second).unwrap().unwrap(), receipt);
    assert!(receipt.get("reason").is_none());
}

#[test]
fn nothing_new_begins_under_a_cancelled_intent_and_a_spawn_in_flight_is_doomed() {
    let mut world = World::new();
    let owner = world.owner();
    let top = begin(&mut world, owner, json!({ "name": "top" }));
    let child = begin(&mut world, owner, json!({ "name": "child", "parent": top }));
    let call_id = start(&mut world, owner, &child, "process.spawn", json!({ "id": "p", "command": ["a"] }));
    let cancel = world.start(owner, "intent.cancel", json!({ "intentId": top, "graceMs": 0 }));
    assert_eq!(code_of(world.answer(owner, &call_id).unwrap()), "E_CANCELLED");
    for (method, params) in [
        ("process.spawn", json!({ "id": "q", "command": ["a"] })),
        ("subscribe", json!({ "topic": "x" })),
        ("process.stdout.subscribe", json!({ "pid": "p" })),
        ("process.wait", json!({ "id": "p" })),
        ("intent.begin", json!({ "name": "more" })),
    ] {
        for intent in [&top, &child] {
            assert_eq!(
                code_of(call(&mut world, owner, intent, method, params.clone())),
                "E_CANCELLED",
                "{method}"
            );
        }
    }
    // What is said about it on the way is heard.
    call(&mut world, owner, &top, "event.publish", json!({ "type": "cleaning.up" })).unwrap();
    let (process, _) = world.born();
    assert_eq!(signals(&mut world), [(process, 9)], "it runs, and is killed at once");
    dies(&mut world, process, KILL);
    let receipt = world.answer(owner, &cancel).unwrap().unwrap();
    assert_eq!(stopped(&receipt), ["call process.spawn ended", "process p killed"]);
    assert_eq!(receipt["stopped"][1]["intentId"], json!(child));
}

#[test]
fn restarts_are_renounced() {
    let mut world = World::new();
    let owner = world.owner();
    let intent = begin(&mut world, owner, json!({ "name": "i" }));
    let params = |id: &str| {
        let restart = json!({ "policy": "always", "backoffMs": 1_000 });
        json!({ "id": id, "command": ["a"], "options": { "restart": restart } })
    };
    for id in ["p", "q"] {
        start(&mut world, owner, &intent, "process.spawn", params(id));
        let (process, _) = world.born();
        if id == "p" {
            dies(&mut world, process, ExitStatus::Code(1));
            signals(&mut world);
        }
    }
    let cancel = world.start(owner, "intent.cancel", json!({ "intentId": intent }));
    let [(q, 15)] = signals(&mut world)[..] else { panic!("one has to be signalled") };
    dies(&mut world, q, TERM);
    let receipt = world.answer(owner, &cancel).unwrap().unwrap();
    assert_eq!(stopped(&receipt), ["process p ended", "process q terminated"]);
    world.advance(60_000);
    assert!(world.take_spawn().is_none());
}

#[test]
fn another_principals_cancel_is_refused_and_told() {
    let mut world = World::new();
    let (owner, one, other) = (world.owner(), world.user(2_000), world.user(3_000));
    world.ok(owner, "subscribe", json!({ "topic": "kairo.security.*" }));
    let intent = begin(&mut world, one, json!({ "name": "i" }));
    let denied = world.fails(other, "intent.cancel", json!({ "intentId": intent }));
    assert_eq!(denied.0, "E_PERMISSION_DENIED");
    let event = json!({ "type": "kairo.intent.cancel", "data": { "intentId": intent } });
    assert_eq!(world.fails(other, "event.publish", event).0, "E_PERMISSION_DENIED");
    let story = json!({ "correlationId": intent });
    assert_eq!(world.fails(other, "intent.cancel", story).0, "E_PERMISSION_DENIED");
    let frame = json!({ "topic": "kairo.cancel", "data": { "targetCorrelationId": intent } });
    world.bytes(other, Kind::EVENT, Raw::of(&frame).unwrap().bytes());
    assert_eq!(world.fails(other, "intent.end", json!({ "intentId": intent })).0, "E_PERMISSION_DENIED");
    assert_eq!(world.fails(other, "intent.status", json!({ "intentId": intent })).0, "E_PERMISSION_DENIED");
    assert_eq!(world.ok(other, "intent.list", json!({}))["intents"], json!([]));
    let told = world.events(owner);
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(
        told.iter()
            .all(|(topic, data)| topic == "kairo.security.denied" && data["principal"]["uid"] == 3_000)
    );
    assert_eq!(state(&mut world, one, &intent), "open");
    assert_eq!(state(&mut world, owner, &intent), "open", "the owner sees everything");
}

#[test]
fn the_originals_cancel_stops_a_story_and_is_answered() {
    let mut world = World::new();
    let (owner, other) = (world.user(2_000), world.user(3_000));
    world.ok(owner, "kernel.hello", json!({ "features": ["envelope"] }));
    let meta = Meta { correlation_id: Some("story".into()), ..Meta::default() };
    let mut spawned = Vec::new();
    for (who, id) in [(owner, "p"), (other, "q")] {
        world.send_with(
            who,
            &json!(id),
            "process.spawn",
            &json!({ "id": id, "command": ["a"] }),
            Some(&meta),
        );
        spawned.push(world.take_spawn().map(|spawn| spawn.process));
    }
    assert_eq!(spawned[0], None, "a user's account is not known here");
    let _ = other;
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "kernel.hello", json!({ "features": ["envelope"] }));
    world.send_with(
        owner,
        &json!("p"),
        "process.spawn",
        &json!({ "id": "p", "command": ["a"] }),
        Some(&meta),
    );
    let (process, _) = world.born();
    let (free, _) = world.run(owner, "free");
    world.send_with(owner, &json!("i"), "intent.begin", &json!({ "name": "i" }), Some(&meta));
    let begun = world.answer(owner, &json!("i")).unwrap().unwrap();
    let (of_intent, _) = run(&mut world, owner, begun["intentId"].as_str().unwrap(), "r");
    world.ok(owner, "subscribe", json!({ "topic": "kairo.>" }));
    let frame =
        json!({ "topic": "kairo.cancel", "data": { "targetCorrelationId": "story", "reason": "v1" } });
    world.bytes(owner, Kind::EVENT, Raw::of(&frame).unwrap().bytes());
    assert_eq!(signals(&mut world), [(of_intent, 15), (process, 15)]);
    world.bytes(owner, Kind::EVENT, Raw::of(&frame).unwrap().bytes());
    assert_eq!(signals(&mut world), []);
    dies(&mut world, of_intent, TERM);
    dies(&mut world, process, TERM);
    let events = world.envelopes(owner);
    let of = |topic: &str| events.iter().filter(move |event| event["topic"] == topic).collect::<Vec<_>>();
    let request = of("kairo.cancel")[0]["id"].clone();
    let cancelled = of("kairo.intent.cancelled");
    let [of_child, answer] = cancelled[..] else { panic!("{cancelled:?}") };
    assert_eq!((&answer["correlationId"], &answer["causationId"]), (&json!("story"), &request));
    assert_eq!(answer["payload"]["reason"], "v1");
    assert_eq!(stopped(&answer["payload"]), ["process r terminated", "process p terminated"]);
    assert_eq!(of_child["payload"]["intentId"], begun["intentId"]);
    assert!(answer["payload"].get("intentId").is_none());
    let _ = free;
    // Of nothing the answer is empty.
    let frame = json!({ "topic": "kairo.cancel", "data": { "targetCorrelationId": "nobody's" } });
    world.bytes(owner, Kind::EVENT, Raw::of(&frame).unwrap().bytes());
    let answer = world.envelopes(owner).pop().unwrap();
    assert_eq!(
        (&answer["topic"], &answer["payload"]["stopped"]),
        (&json!("kairo.intent.cancelled"), &json!([]))
    );
    let nothing = json!({ "correlationId": "nobody's" });
    assert_eq!(world.fails(owner, "intent.cancel", nothing).0, "E_NOT_FOUND");
}

#[test]
fn who_has_registered_is_told_first_and_gets_its_time() {
    let mut world = World::new();
    let (owner, client) = (world.owner(), world.owner());
    let intent = begin(&mut world, owner, json!({ "name": "i" }));
    let (process, _) = run(&mut world, owner, &intent, "p");
    world.ok(client, "intent.register", json!({ "intentId": intent, "graceMs": 700 }));
    let cancel = world.start(owner, "intent.cancel", json!({ "intentId": intent, "reason": "r" }));
    let told = world.events(client);
    let [(topic, notice)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&**topic, &notice["intentId"]), ("intent.cancel", &json!(intent)));
    assert_eq!((&notice["graceMs"], &notice["reason"]), (&json!(700), &json!("r")));
    world.advance(699);
    assert_eq!(signals(&mut world), []);
    world.advance(1);
    assert_eq!(signals(&mut world), [(process, 15)]);
    dies(&mut world, process, TERM);
    assert!(world.answer(owner, &cancel).unwrap().is_ok());
    // Whoever is ready ends it sooner, and so does whoever leaves.
    for leaves in [false, true] {
        let intent = begin(&mut world, owner, json!({ "name": "i" }));
        let (process, _) = run(&mut world, owner, &intent, "p");
        let client = world.owner();
        world.ok(client, "intent.register", json!({ "intentId": intent, "graceMs": 60_000 }));
        world.start(owner, "intent.cancel", json!({ "intentId": intent }));
        assert_eq!(signals(&mut world), []);
        if leaves {
            world.disconnect(client);
        } else {
            assert_eq!(world.ok(client, "intent.release", json!({ "intentId": intent }))["ok"], true);
        }
        assert_eq!(signals(&mut world), [(process, 15)]);
        dies(&mut world, process, TERM);
        assert_eq!(state(&mut world, owner, &intent), "cancelled");
    }
}

#[test]
fn a_deadline_cancels() {
    let mut world = World::new();
    let owner = world.owner();
    let intent = begin(&mut world, owner, json!({ "name": "i", "deadlineMs": 3_000 }));
    let (process, _) = run(&mut world, owner, &intent, "p");
    world.advance(2_999);
    assert_eq!(signals(&mut world), []);
    world.advance(1);
    assert_eq!(signals(&mut world), [(process, 15)]);
    dies(&mut world, process, TERM);
    let status = world.ok(owner, "intent.status", json!({ "intentId": intent }));
    assert_eq!(status["cancelled"]["reason"], "deadline");
}

#[test]
fn a_connection_takes_its_intents_with_it_as_they_asked_for() {
    let mut world = World::new();
    let (owner, client) = (world.owner(), world.owner());
    let kept = begin(&mut world, client, json!({ "name": "kept" }));
    let ended = begin(&mut world, client, json!({ "name": "ended", "onDisconnect": "end" }));
    let under = begin(&mut world, client, json!({ "name": "under", "parent": ended }));
    let cancelled = begin(&mut world, client, json!({ "name": "cancelled", "onDisconnect": "cancel" }));
    let (process, _) = run(&mut world, owner, &cancelled, "p");
    world.disconnect(client);
    assert_eq!(signals(&mut world), [(process, 15)]);
    dies(&mut world, process, TERM);
    for (intent, expected) in [(kept, "open"), (ended, "ended"), (under, "ended"), (cancelled, "cancelled")] {
        assert_eq!(state(&mut world, owner, &intent), expected);
    }
}

#[test]
fn what_does_not_go_is_given_up_and_said() {
    let mut world = World::new();
    let owner = world.owner();
    let intent = begin(&mut world, owner, json!({ "name": "i" }));
    let (process, _) = run(&mut world, owner, &intent, "p");
    let cancel = world.start(owner, "intent.cancel", json!({ "intentId": intent, "graceMs": 1_000 }));
    world.advance(1_000);
    assert_eq!(signals(&mut world), [(process, 15), (process, 9)]);
    world.advance(5_000);
    let receipt = world.answer(owner, &cancel).unwrap().unwrap();
    assert_eq!((stopped(&receipt), &receipt["left"]), (vec!["process p abandoned".to_owned()], &json!(1)));
}

#[test]
fn intents_are_bounded_in_depth_and_count_and_make_no_circles() {
    let mut world = World::new();
    world.watched = false;
    let owner = world.owner();
    let mut above = begin(&mut world, owner, json!({ "name": "0" }));
    for depth in 1..16 {
        let params = json!({ "name": depth.to_string(), "parent": above });
        above = begin(&mut world, owner, params);
    }
    let params = json!({ "name": "too deep", "parent": above });
    assert_eq!(world.fails(owner, "intent.begin", params).0, "E_CONFLICT");
    // A parent has to be there before its child, so none can be its own.
    let unborn = "00000000-0000-4000-8000-000000000000";
    let params = json!({ "name": "circle", "parent": unborn });
    assert_eq!(world.fails(owner, "intent.begin", params).0, "E_NOT_FOUND");
    for _ in 16..1_024 {
        begin(&mut world, owner, json!({ "name": "n" }));
    }
    assert_eq!(world.fails(owner, "intent.begin", json!({ "name": "n" })).0, "E_BUSY");
    assert_eq!(world.kernel.broken(), Vec::<String>::new());
    let params = json!({ "name": "x".repeat(256) });
    assert_eq!(world.fails(owner, "intent.begin", params).0, "E_INVALID_PARAMS");
    let params = json!({ "name": "n", "query": "x".repeat(4_097) });
    assert_eq!(world.fails(owner, "intent.begin", params).0, "E_TOO_LARGE");
    let page = world.ok(owner, "intent.list", json!({ "limit": 5 }));
    assert_eq!(page["intents"].as_array().unwrap().len(), 5);
    let next = world.ok(owner, "intent.list", json!({ "limit": 5, "afterSeq": page["next"] }));
    assert_eq!(next["intents"][0]["name"], "5");
    let under = world.ok(owner, "intent.list", json!({ "parent": page["intents"][0]["intentId"] }));
    assert_eq!(under["intents"].as_array().unwrap().len(), 1);
    let ended = world.ok(owner, "intent.list", json!({ "state": "ended" }));
    assert_eq!(ended["intents"], json!([]));
    let top = page["intents"][0]["intentId"].clone();
    assert_eq!(
        world.fails(owner, "intent.end", json!({ "intentId": top })).0,
        "E_CONFLICT",
        "it has a child"
    );
}

#[test]
fn a_timeline_shows_the_whole_family() {
    let mut world = World::new();
    let owner = world.owner();
    let top = begin(&mut world, owner, json!({ "name": "top" }));
    let child = begin(&mut world, owner, json!({ "name": "child", "parent": top }));
    let beside = begin(&mut world, owner, json!({ "name": "beside" }));
    run(&mut world, owner, &child, "p");
    run(&mut world, owner, &beside, "q");
    call(&mut world, owner, &top, "event.publish", json!({ "type": "mine" })).unwrap();
    let page = world.ok(owner, "intent.timeline", json!({ "intentId": top }));
    let told: Vec<&str> =
        page["events"].as_array().unwrap().iter().map(|event| event["topic"].as_str().unwrap()).collect();
    assert_eq!(
        told,
        [
            "kairo.intent.started",
            "kairo.intent.started",
            "kairo.kernel.called",
            "kairo.process.spawned",
            "mine"
        ]
    );
    let backward = json!({ "intentId": child, "order": "backward", "limit": 1 });
    let page = world.ok(owner, "intent.timeline", backward);
    assert_eq!(page["events"][0]["topic"], "kairo.process.spawned");
}

#[test]
fn intents_outlive_their_kernel_and_a_cancel_of_the_past_cancels_nothing() {
    let mut world = World::new();
    let owner = world.owner();
    let open = begin(&mut world, owner, json!({ "name": "open", "deadlineMs": 60_000 }));
    let under = begin(&mut world, owner, json!({ "name": "under", "parent": open }));
    let gone = begin(&mut world, owner, json!({ "name": "gone" }));
    let request = json!({ "type": "kairo.intent.cancel", "data": { "intentId": gone } });
    world.ok(owner, "event.publish", request);
    let receipt = world.ok(owner, "intent.cancel", json!({ "intentId": gone }));
    // A request the log has and that was not carried out: of another's story.
    world.ok(
        owner,
        "event.publish",
        json!({ "type": "kairo.cancel", "data": { "targetCorrelationId": "later" } }),
    );
    let mut next = world;
    next.next_kernel(config());
    let owner = next.owner();
    assert_eq!(state(&mut next, owner, &open), "open");
    assert_eq!(state(&mut next, owner, &under), "open");
    assert_eq!(next.ok(owner, "intent.cancel", json!({ "intentId": gone })), receipt, "the same receipt");
    let meta = Meta { correlation_id: Some("later".into()), ..Meta::default() };
    next.send_with(owner, &json!("s"), "process.spawn", &json!({ "id": "l", "command": ["a"] }), Some(&meta));
    next.born();
    next.ok(owner, "subscribe", json!({ "topic": ">", "fromSeq": 1 }));
    let replayed = next.envelopes(owner);
    assert!(replayed.iter().any(|event| event["topic"] == "kairo.cancel"));
    assert_eq!(signals(&mut next), [], "what is replayed asks for nothing");
    assert_eq!(next.fails(owner, "intent.end", json!({ "intentId": open })).0, "E_CONFLICT");
    next.advance(60_000);
    assert_eq!(state(&mut next, owner, &open), "cancelled", "its deadline still holds");
    assert_eq!(state(&mut next, owner, &under), "cancelled");
    // And once more.
    next.next_kernel(config());
    let owner = next.owner();
    assert_eq!(state(&mut next, owner, &under), "cancelled");
}

#[test]
fn a_cancel_under_way_goes_on_in_the_next_kernel() {
    let mut world = World::new();
    let owner = world.owner();
    let intent = begin(&mut world, owner, json!({ "name": "i" }));
    run(&mut world, owner, &intent, "p");
    world.start(owner, "intent.cancel", json!({ "intentId": intent, "reason": "r", "graceMs": 60_000 }));
    world.advance(1_500);
    // Its keeper has nothing left of it.
    world.next_kernel(config());
    let owner = world.owner();
    let receipt = world.ok(owner, "intent.cancel", json!({ "intentId": intent }));
    assert_eq!((&receipt["reason"], &receipt["durationMs"]), (&json!("r"), &json!(1_500)));
    let page = world.ok(owner, "event.replay", json!({ "types": ["kairo.intent.cancelling"] }));
    let events = page["events"].as_array().unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(events[1]["payload"]["resumed"], true);
}

#[test]
fn an_intent_waits_for_its_client_when_its_kernel_dies() {
    let mut world = World::new();
    let client = world.owner();
    let params = json!({ "features": ["reconnect"] });
    world.ok(client, "kernel.hello", params);
    let one = begin(&mut world, client, json!({ "name": "one", "onDisconnect": "cancel" }));
    world.next_kernel(config());
    let owner = world.owner();
    assert_eq!(state(&mut world, owner, &one), "open");
    world.advance(10_000);
    assert_eq!(state(&mut world, owner, &one), "cancelled", "nobody came back");
}

#[test]
fn a_large_tree_is_stopped_some_at_a_time() {
    let mut world = World::new();
    world.watched = false;
    let owner = world.owner();
    let top = begin(&mut world, owner, json!({ "name": "top" }));
    let mut processes = Vec::new();
    for child in 0..20 {
        let intent = begin(&mut world, owner, json!({ "name": "child", "parent": top }));
        for process in 0..10 {
            processes.push(run(&mut world, owner, &intent, &format!("{child}.{process}")).0);
        }
    }
    let cancel = world.start(owner, "intent.cancel", json!({ "intentId": top }));
    let first = signals(&mut world).len();
    assert!(first < 32, "{first} signals under one hold of the lock");
    assert_eq!(world.kernel.broken(), Vec::<String>::new());
    world.advance(0);
    assert_eq!(first + signals(&mut world).len(), 200);
    for process in processes {
        dies(&mut world, process, TERM);
    }
    let receipt = world.answer(owner, &cancel).unwrap().unwrap();
    assert_eq!(receipt["stopped"].as_array().unwrap().len(), 200);
    assert_eq!(receipt["children"].as_array().unwrap().len(), 20);
    assert_eq!(world.kernel.broken(), Vec::<String>::new());
    assert!(!world.commands.iter().any(|command| matches!(command, Command::Spawn(_))));
}
