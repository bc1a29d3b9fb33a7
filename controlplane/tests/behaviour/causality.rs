//! Causality without effort: what a call says of its story, and what is known where it says nothing.

use crate::harness::World;
use kairo_dataplane::command::Spawn;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::request::Meta;
use serde_json::{Value, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn variable(spawn: &Spawn, name: &str) -> Option<String> {
    spawn.env.iter().find_map(|line| {
        let line = String::from_utf8_lossy(line);
        line.strip_prefix(&format!("{name}=")).map(str::to_owned)
    })
}

/// Spawns, and gives the child and what its connection would be.
fn spawn(
    world: &mut World,
    connection: ConnectionKey,
    id: &str,
    meta: Option<&Meta<'_>>,
) -> (Box<Spawn>, ConnectionKey) {
    let params = json!({ "id": id, "command": ["a"] });
    world.send_with(connection, &json!(id), "process.spawn", &params, meta);
    let spawn = world.take_spawn().unwrap();
    let (_, pid) = world.bear(&spawn);
    world.answer(connection, &json!(id)).unwrap().unwrap();
    let child = world.child(&[7, pid], None);
    (spawn, child)
}

fn told(world: &mut World, owner: ConnectionKey, topic: &str) -> Vec<Value> {
    let page = world.ok(owner, "event.replay", json!({ "types": [topic] }));
    page["events"].as_array().unwrap().clone()
}

#[test]
fn a_child_is_told_its_story_and_what_it_calls_goes_on_with_it() {
    let mut world = World::new();
    let owner = world.owner();
    let intent = world.ok(owner, "intent.begin", json!({ "name": "i" }))["intentId"].clone();
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let meta = Meta {
        correlation_id: Some("story".into()),
        causation_id: Some("cause".into()),
        intent_id: intent.as_str().map(Into::into),
        traceparent: Some(traceparent.as_str().into()),
        ..Meta::default()
    };
    let (first, child) = spawn(&mut world, owner, "first", Some(&meta));
    let born = told(&mut world, owner, "kairo.process.spawned")[0].clone();
    assert_eq!(variable(&first, "KAIRO_CORRELATION_ID").as_deref(), Some("story"));
    assert_eq!(variable(&first, "KAIRO_CAUSATION_ID").as_deref(), born["id"].as_str());
    assert_eq!(variable(&first, "KAIRO_INTENT_ID").as_deref(), intent.as_str());
    let passed = variable(&first, "TRACEPARENT").unwrap();
    let parts: Vec<&str> = passed.split('-').collect();
    assert_eq!((parts[0], parts[1], parts[3]), ("00", TRACE, "01"));
    assert_ne!(parts[2], SPAN, "a process is a span of its own");
    assert_eq!(born["traceId"], TRACE);
    // It sends nothing, and is known all the same; so is what it starts.
    let (second, grandchild) = spawn(&mut world, child, "second", None);
    let (third, _) = spawn(&mut world, grandchild, "third", None);
    for spawn in [&second, &third] {
        assert_eq!(variable(spawn, "KAIRO_CORRELATION_ID").as_deref(), Some("story"));
        assert_eq!(variable(spawn, "KAIRO_INTENT_ID").as_deref(), intent.as_str());
        assert_eq!(variable(spawn, "TRACEPARENT").unwrap().split('-').nth(1), Some(TRACE));
    }
    let (calls, births) =
        (told(&mut world, owner, "kairo.kernel.called"), told(&mut world, owner, "kairo.process.spawned"));
    for nth in 0..3 {
        assert_eq!(births[nth]["causationId"], calls[nth]["id"]);
        let cause = if nth == 0 { json!("cause") } else { births[nth - 1]["id"].clone() };
        assert_eq!(calls[nth]["causationId"], cause, "call {nth}");
    }
}

#[test]
fn what_meta_says_goes_before_what_is_known() {
    let mut world = World::new();
    let owner = world.owner();
    let meta = Meta { correlation_id: Some("outer".into()), ..Meta::default() };
    let (outer, child) = spawn(&mut world, owner, "outer", Some(&meta));
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let meta = Meta {
        correlation_id: Some("own".into()),
        causation_id: Some("because".into()),
        traceparent: Some(traceparent.as_str().into()),
        ..Meta::default()
    };
    let (inner, _) = spawn(&mut world, child, "inner", Some(&meta));
    assert_eq!(variable(&inner, "KAIRO_CORRELATION_ID").as_deref(), Some("own"));
    assert_eq!(variable(&inner, "TRACEPARENT").unwrap().split('-').nth(1), Some(TRACE));
    assert_eq!(told(&mut world, owner, "kairo.kernel.called")[1]["causationId"], "because");
    // What it leaves out is as before, and what is no traceparent is none.
    let meta = Meta { traceparent: Some("00-zz".into()), correlation_id: Some("".into()), ..Meta::default() };
    let (last, _) = spawn(&mut world, child, "last", Some(&meta));
    assert_eq!(variable(&last, "KAIRO_CORRELATION_ID").as_deref(), Some("outer"));
    let trace = |spawn: &Spawn| variable(spawn, "TRACEPARENT").unwrap().split('-').nth(1).map(str::to_owned);
    assert_eq!(trace(&last), trace(&outer));
    assert_eq!(variable(&outer, "KAIRO_INTENT_ID"), None);
}

#[test]
fn a_trace_of_the_requests_own_environment_is_left_alone_and_ours_is_not_inherited() {
    let mut world = World::new();
    let owner = world.owner();
    let env = json!({ "TRACEPARENT": "mine", "KAIRO_INTENT_ID": "forged", "KAIRO_CORRELATION_ID": "forged" });
    world.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"], "options": { "env": env } }));
    let spawn = world.take_spawn().unwrap();
    assert_eq!(variable(&spawn, "TRACEPARENT").as_deref(), Some("mine"));
    assert_eq!(variable(&spawn, "KAIRO_INTENT_ID"), None);
    assert_ne!(variable(&spawn, "KAIRO_CORRELATION_ID").as_deref(), Some("forged"));
}

#[test]
fn a_child_works_under_the_intent_it_belongs_to_and_begins_its_own_under_that() {
    let mut world = World::new();
    let owner = world.owner();
    let of = |result: Value| result["intentId"].as_str().unwrap().to_owned();
    let outer = of(world.ok(owner, "intent.begin", json!({ "name": "outer" })));
    let meta = Meta { intent_id: Some(outer.as_str().into()), ..Meta::default() };
    let (_, child) = spawn(&mut world, owner, "p", Some(&meta));
    // It may name the one it has in its environment, watch it, and be told of its end; not end it.
    world.send_with(child, &json!(1), "event.publish", &json!({ "type": "x" }), Some(&meta));
    world.answer(child, &json!(1)).unwrap().unwrap();
    let params = json!({ "intentId": outer });
    assert_eq!(world.ok(child, "intent.status", params.clone())["state"], "open");
    world.ok(child, "intent.register", params.clone());
    for method in ["intent.end", "intent.cancel"] {
        assert_eq!(world.fails(child, method, params.clone()).0, "E_PERMISSION_DENIED", "{method}");
    }
    let inner = of(world.ok(child, "intent.begin", json!({ "name": "inner" })));
    let status = world.ok(owner, "intent.status", json!({ "intentId": inner }));
    assert_eq!((&status["parent"], &status["correlationId"]), (&json!(outer), &json!(outer)));
    let meta = Meta { intent_id: Some(inner.as_str().into()), ..Meta::default() };
    let (spawned, _) = spawn(&mut world, child, "q", Some(&meta));
    assert_eq!(variable(&spawned, "KAIRO_INTENT_ID").as_deref(), Some(&*inner));
    assert_eq!(variable(&spawned, "KAIRO_CORRELATION_ID").as_deref(), Some(&*outer));
    // Its own intent it may cancel, and is not stopped by that.
    let cancel = world.start(child, "intent.cancel", json!({ "intentId": inner }));
    let (process, signal, _) = world.take_signal().unwrap();
    assert_eq!((process, signal), (spawned.process, 15));
    assert!(world.take_signal().is_none());
    world.finish(process, 0);
    assert_eq!(world.answer(child, &cancel).unwrap().unwrap()["stopped"][0]["how"], "exited");
    // A child of an intent that was ended goes on, and what it does is still told of it.
    world.ok(owner, "intent.end", params);
    let (late, _) = spawn(&mut world, child, "r", None);
    assert_eq!(variable(&late, "KAIRO_INTENT_ID").as_deref(), Some(&*outer));
}
