//! Pipelines and wired stdins as decisions: all or nothing, who may, who is told, what a successor knows.

use crate::harness::{World, code, value};
use kairo_dataplane::command::Spawn;
use kairo_dataplane::control::{ExitStatus, Notice, SpawnFailure, SpawnStage};
use kairo_dataplane::key::{Channel, ConnectionKey};
use serde_json::{Value, json};

fn three(edges: &Value) -> Value {
    json!({ "id": "p", "stages": [{ "command": ["a"] }, { "command": ["b"] }, { "command": ["c"] }], "edges": edges })
}

fn start(world: &mut World, by: ConnectionKey, edges: &Value) -> (Value, Vec<Spawn>) {
    let call = world.start(by, "pipeline.spawn", three(edges));
    let spawns = std::iter::from_fn(|| world.take_spawn()).map(|spawn| *spawn).collect();
    (call, spawns)
}

#[test]
fn stages_are_joined_two_by_two_and_answered_for_together() {
    let mut world = World::new();
    let owner = world.owner();
    let (call, spawns) = start(&mut world, owner, &json!([{}, { "tap": true, "stderr": "merged" }]));
    let [a, b, c] = spawns.as_slice() else { panic!("three stages") };
    assert!(a.wiring.stdin.is_none() && a.wiring.stdout.is_some());
    assert_eq!(a.wiring.stdout, b.wiring.stdin, "an edge without a tap is one pipe");
    assert!(b.wiring.stdout.is_none() && c.wiring.stdin.is_none() && c.wiring.stdout.is_none());
    let feed = c.wiring.feed.unwrap();
    assert_eq!((feed.source, feed.channel, feed.ends_source), (b.process, Channel::Stdout, true));
    for spawn in &spawns {
        assert!(world.answer(owner, &call).is_none(), "not before all run");
        world.bear(spawn);
    }
    let answer = world.answer(owner, &call).unwrap().unwrap();
    assert_eq!((&answer["id"], &answer["stages"][2]["id"]), (&json!("p"), &json!("p.2")));
    // What isn't ours has no output to tell of.
    let detail = world.ok(owner, "process.status", json!({ "id": "p.0", "detail": true }));
    assert_eq!(detail["detail"]["streams"].as_array().unwrap().len(), 1, "{detail}");
    let wait = world.start(owner, "pipeline.wait", json!({ "id": "p" }));
    for (spawn, code) in spawns.iter().zip([3, 4, 0]) {
        assert!(world.answer(owner, &wait).is_none());
        world.exits(spawn.process, ExitStatus::Code(code));
    }
    let ended = world.answer(owner, &wait).unwrap().unwrap();
    assert_eq!((&ended["exitCode"], &ended["failedStage"]), (&json!(4), &json!(1)));
}

#[test]
fn a_stage_that_cannot_be_started_takes_the_others_with_it() {
    let mut world = World::new();
    let owner = world.owner();
    let (call, spawns) = start(&mut world, owner, &json!([]));
    world.bear(&spawns[0]);
    let failure = SpawnFailure { stage: SpawnStage::Exec, errno: 2 };
    world.notice(Notice::SpawnFailed { process: spawns[1].process, failure });
    let (killed, signal, _) = world.take_signal().unwrap();
    assert_eq!((killed, signal), (spawns[0].process, 9));
    world.bear(&spawns[2]);
    let (killed, signal, _) = world.take_signal().unwrap();
    assert_eq!((killed, signal), (spawns[2].process, 9));
    world.finish(spawns[0].process, 0);
    assert!(world.answer(owner, &call).is_none(), "not while one is left");
    world.finish(spawns[2].process, 0);
    let error = world.answer(owner, &call).unwrap().unwrap_err();
    let info = error.info.clone().unwrap();
    assert_eq!(code(&error).0, "E_EXECUTABLE_NOT_FOUND");
    assert_eq!(value(info.details.as_ref().unwrap().as_ref())["field"], "stages[1].command[0]");
    assert_eq!(world.fails(owner, "pipeline.status", json!({ "id": "p" })).0, "E_NOT_FOUND");
    assert_eq!(world.ok(owner, "pipeline.list", json!({}))["pipelines"], json!([]));
}

#[test]
fn a_pipeline_is_its_starters_and_nobody_elses() {
    let mut world = World::of_root();
    let (alice, bob) = (world.user(2_000), world.user(3_000));
    let (_, spawns) = start(&mut world, alice, &json!([]));
    for spawn in &spawns {
        world.bear(spawn);
    }
    for method in ["pipeline.status", "pipeline.wait", "pipeline.kill"] {
        assert_eq!(world.fails(bob, method, json!({ "id": "p" })).0, "E_PERMISSION_DENIED", "{method}");
    }
    assert_eq!(world.ok(bob, "pipeline.list", json!({}))["pipelines"], json!([]));
    assert_eq!(world.ok(alice, "pipeline.list", json!({}))["pipelines"][0]["id"], "p");
    let of = json!({ "id": "x", "command": ["cat"], "options": { "stdin": { "stream": { "id": "p.2" } } } });
    assert_eq!(
        world.fails(bob, "process.spawn", of).0,
        "E_PERMISSION_DENIED",
        "its output is not bob's to read"
    );
    world.ok(alice, "pipeline.kill", json!({ "id": "p" }));
    let killed: Vec<_> = std::iter::from_fn(|| world.take_signal()).map(|(process, ..)| process).collect();
    assert_eq!(killed, spawns.iter().map(|spawn| spawn.process).collect::<Vec<_>>());
}

#[test]
fn a_file_as_stdin_takes_the_permission_to_read_it() {
    let mut world = World::of_root();
    let root = world.user(0);
    let permissions = json!([
        { "permission": "process.spawn" },
        { "permission": "file.read", "resource": "/srv/in" },
    ]);
    world.ok(root, "agent.create", json!({ "name": "a", "permissions": permissions }));
    let agent = world.user(0);
    world.ok(agent, "identify", json!({ "agentId": "a" }));
    let of = |path: &str, cwd: Value| json!({ "id": "x", "command": ["cat"], "options": { "stdin": { "file": path }, "cwd": cwd } });
    let (denied, text) = world.fails(agent, "process.spawn", of("/etc/shadow", Value::Null));
    assert_eq!(denied, "E_PERMISSION_DENIED");
    assert!(text.contains("file.read"), "{text}");
    assert_eq!(world.fails(agent, "process.spawn", of("shadow", json!("/etc"))).0, "E_PERMISSION_DENIED");
    let stages = json!({ "id": "p", "stages": [{ "command": ["cat"], "options": { "stdin": { "file": "/etc/shadow" } } }] });
    assert_eq!(world.fails(agent, "pipeline.spawn", stages).0, "E_PERMISSION_DENIED");
    world.start(agent, "process.spawn", of("/srv/in/a", Value::Null));
    let spawn = world.take_spawn().unwrap();
    assert_eq!(spawn.wiring.stdin_file.as_deref(), Some(&b"/srv/in/a"[..]));
}

#[test]
fn a_source_is_remembered_until_all_of_it_has_gone_where_it_is_fed_to() {
    let mut world = World::new();
    let owner = world.owner();
    let (source, _) = world.run(owner, "source");
    let of =
        json!({ "id": "fed", "command": ["cat"], "options": { "stdin": { "stream": { "id": "source" } } } });
    let (fed, _) = world.run_with(owner, of);
    assert_eq!(
        world.fails(owner, "process.stdin.write", json!({ "id": "fed", "data": "x" })).0,
        "E_STDIN_CLOSED"
    );
    world.finish(source, 0);
    // Its id is taken by another life: what is left of it is read still.
    world.run(owner, "source");
    assert!(world.take_forget().is_none());
    world.notice(Notice::InputClosed { process: fed, written: 10 });
    assert_eq!(world.take_forget(), Some(source), "it is forgotten when its reader has had everything");
}
