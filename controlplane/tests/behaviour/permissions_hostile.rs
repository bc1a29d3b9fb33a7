//! What somebody would try who wants more than it was given.

use crate::harness::{OWNER, World, config};
use crate::named::{DENIED, agent, code};
use kairo_controlplane::auth::rules::Policy;
use kairo_controlplane::config::Config;
use kairo_dataplane::control::Lineage;
use serde_json::{Value, json};
use std::sync::Arc;

const OTHER: u32 = OWNER + 1;

fn allow(world: &mut World, principal: &str, permission: &str, resource: Value) -> Value {
    let owner = world.owner();
    let grant = json!({ "principal": principal, "permission": permission, "resource": resource });
    world.ok(owner, "permission.grant", grant)["grant"]["id"].clone()
}

#[test]
fn nobody_makes_an_agent_that_may_more_than_it() {
    let mut world = World::new();
    let user = world.user(OTHER);
    let administrate = json!([{ "permission": "kernel.administrate" }]);
    assert_eq!(
        code(&mut world, user, "agent.create", json!({ "name": "a", "permissions": administrate })),
        DENIED
    );
    let by_name = json!([{ "permission": "kernel.call", "resource": "audit.query" }]);
    assert_eq!(
        code(&mut world, user, "agent.create", json!({ "name": "a", "permissions": by_name })),
        DENIED
    );
    assert_eq!(world.ok(user, "agent.list", json!({}))["agents"], json!([]));
    let manager = agent(&mut world, "m", json!([{ "permission": "agent.manage", "resource": "agent:x*" }]));
    let decide = json!([{ "permission": "permission.decide", "resource": "*" }]);
    assert_eq!(
        code(&mut world, manager, "agent.create", json!({ "name": "x", "permissions": decide })),
        DENIED
    );
    world.ok(manager, "agent.create", json!({ "name": "x", "permissions": [] }));
}

#[test]
fn a_pattern_of_calls_beside_the_name_of_a_topic_is_no_administrator() {
    let mut world = World::new();
    let user = world.user(OTHER);
    let permissions = json!([
        { "permission": "kernel.call", "resource": "audit.*" },
        { "permission": "event.publish", "resource": "audit.query" }
    ]);
    world.ok(user, "agent.create", json!({ "name": "a", "permissions": permissions }));
    world.ok(user, "identify", json!({ "agentId": "a" }));
    assert_eq!(code(&mut world, user, "audit.query", json!({})), DENIED);
}

#[test]
fn what_any_program_may_to_its_own_it_doesnt_give_for_all() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": "d" }));
    allow(&mut world, "agent:d", "permission.decide", json!("skill:x*"));
    world.ok(owner, "identify", json!({ "agentId": "d" }));
    let grant = |resource: &str| json!({ "principal": "skill:x", "permission": "process.control", "resource": resource });
    assert_eq!(code(&mut world, owner, "permission.grant", grant("*")), DENIED);
    assert_eq!(code(&mut world, owner, "permission.grant", grant("vault")), DENIED);
    allow(&mut world, "agent:d", "process.control", json!("vault"));
    world.ok(owner, "permission.grant", grant("vault"));
}

#[test]
fn nobody_names_a_session_it_isnt_in() {
    let mut world = World::new();
    let owner = world.owner();
    agent(&mut world, "a", json!([]));
    let session = world.ok(owner, "session.create", json!({ "agent": "a" }))["sessionId"].clone();
    let named = format!("session:{}", session.as_str().expect("a text"));
    world.run(owner, "owners");
    allow(&mut world, &named, "process.read", json!("owners"));
    let (_, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    let identity = json!({ "skillId": "x", "agentSession": session });
    assert_eq!(code(&mut world, child, "identify", identity), "E_INVALID_PARAMS");
    assert_eq!(code(&mut world, child, "process.stdout.subscribe", json!({ "pid": "owners" })), DENIED);
}

#[test]
fn a_user_gets_rid_of_a_prohibition_neither_by_a_name_nor_by_a_child() {
    let rule =
        json!({ "effect": "forbid", "principal": format!("user:{OTHER}"), "permission": "event.publish" });
    let policy: Policy = serde_json::from_value(json!({ "rule": [rule] })).expect("a policy");
    let mut world =
        World::with(Config { policy: Arc::new(policy.check().expect("a sound one")), ..config() });
    let user = world.user(OTHER);
    let publish = json!({ "type": "a.b" });
    assert_eq!(code(&mut world, user, "event.publish", publish.clone()), DENIED);
    world.ok(user, "identify", json!({ "skillId": "x" }));
    assert_eq!(code(&mut world, user, "event.publish", publish), DENIED);
}

#[test]
fn a_skill_that_runs_as_another_user_is_the_skill() {
    let mut world = World::new();
    let owner = world.owner();
    agent(&mut world, "a", json!([{ "permission": "process.list" }]));
    let session = world.ok(owner, "session.create", json!({ "agent": "a" }))["sessionId"].clone();
    let spawn = json!({ "id": "w", "command": ["a"], "options": { "agentSession": session } });
    let (_, pid) = world.run_with(owner, spawn);
    let child = world.connect(OTHER, Lineage::Child { ancestors: vec![pid], session: None });
    world.ok(child, "process.list", json!({}));
    assert_eq!(code(&mut world, child, "event.publish", json!({ "type": "a.b" })), DENIED);
}

#[test]
fn a_forbidden_call_is_forbidden_to_its_own() {
    let mut world = World::new();
    let owner = world.owner();
    let skill = world.owner();
    world.ok(skill, "identify", json!({ "skillId": "x" }));
    world.run(skill, "own");
    let forbid = json!({ "principal": "skill:x", "permission": "kernel.call", "resource": "process.status", "effect": "forbid" });
    world.ok(owner, "permission.grant", forbid);
    assert_eq!(code(&mut world, skill, "process.status", json!({ "id": "own" })), DENIED);
    let forbid = json!({ "principal": "skill:x", "permission": "kernel.call", "resource": "process.kill", "effect": "forbid" });
    world.ok(owner, "permission.grant", forbid);
    assert_eq!(code(&mut world, skill, "process.kill", json!({ "id": "own" })), DENIED);
    world.ok(skill, "process.list", json!({}));
}

#[test]
fn nothing_is_granted_for_a_session_that_is_over() {
    let mut world = World::new();
    let owner = world.owner();
    agent(&mut world, "a", json!([]));
    let session = world.ok(owner, "session.create", json!({ "agent": "a" }))["sessionId"].clone();
    world.ok(owner, "session.end", json!({ "sessionId": session }));
    let grant = json!({ "principal": "agent:a", "permission": "process.list", "scope": "session", "session": session });
    assert_eq!(code(&mut world, owner, "permission.grant", grant), "E_INVALID_PARAMS");
}

#[test]
fn whoever_takes_a_name_hears_no_more_than_that_name_may() {
    let mut world = World::new();
    let owner = world.owner();
    agent(&mut world, "a", json!([]));
    let own = world.owner();
    world.ok(own, "subscribe", json!({ "topic": "news.>" }));
    world.ok(own, "identify", json!({ "agentId": "a" }));
    world.ok(owner, "event.publish", json!({ "type": "news.today", "data": 1 }));
    assert!(world.events(own).iter().all(|(topic, _)| topic != "news.today"));
}

#[test]
fn one_program_doesnt_fill_the_list_of_requests() {
    let mut world = World::new();
    let owner = world.owner();
    let (_, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    let manifest = |at: u32| {
        let text = json!({ "manifest": 1, "name": format!("s{at}"), "version": "1" }).to_string();
        json!({ "manifest": text, "program": "/bin/x", "programDigest": "0a".repeat(32) })
    };
    for at in 0..64 {
        world.ok(child, "permission.request", manifest(at));
    }
    assert_eq!(code(&mut world, child, "permission.request", manifest(64)), "E_BUSY");
    world.ok(owner, "permission.request", manifest(65));
}

#[test]
fn an_agent_made_again_is_not_who_ran_as_the_former() {
    let mut world = World::new();
    let owner = world.owner();
    let former = agent(&mut world, "a", json!([{ "permission": "process.spawn" }]));
    let (_, pid) = world.run(former, "left");
    world.ok(owner, "agent.remove", json!({ "name": "a", "running": "keep" }));
    world.advance(1);
    world.ok(
        owner,
        "agent.create",
        json!({ "name": "a", "permissions": [{ "permission": "process.list" }] }),
    );
    let child = world.child(&[pid], None);
    assert_eq!(code(&mut world, child, "process.list", json!({})), DENIED);
}

#[test]
fn a_consumer_is_read_only_by_who_may_read_its_topic_now() {
    let mut world = World::new();
    let owner = world.owner();
    let reader = agent(&mut world, "a", json!([{ "permission": "event.subscribe", "resource": "other.>" }]));
    let grant = allow(&mut world, "agent:a", "event.subscribe", json!("secret.>"));
    world.ok(reader, "consumer.create", json!({ "name": "c", "topic": "secret.>" }));
    world.ok(reader, "kernel.hello", json!({ "features": ["envelope"] }));
    world.ok(reader, "consumer.attach", json!({ "name": "c" }));
    assert_eq!(world.ok(owner, "permission.revoke", json!({ "grant": grant }))["closed"], 1);
    assert_eq!(code(&mut world, reader, "consumer.attach", json!({ "name": "c" })), DENIED);
}

#[test]
fn a_spawn_that_waits_for_its_id_is_not_started_under_what_was_taken_back() {
    let mut world = World::new();
    let owner = world.owner();
    let agent = agent(&mut world, "a", json!([{ "permission": "process.control" }]));
    let grant = allow(&mut world, "agent:a", "process.spawn", Value::Null);
    let (process, _) = world.run(agent, "one");
    world.start(agent, "process.kill", json!({ "id": "one" }));
    let waiting = world.start(agent, "process.spawn", json!({ "id": "one", "command": ["a"] }));
    world.ok(owner, "permission.revoke", json!({ "grant": grant }));
    world.exits(process, kairo_dataplane::control::ExitStatus::Code(0));
    world.notice(kairo_dataplane::control::Notice::Ended { process });
    let answer = world.answer(agent, &waiting).expect("it is answered");
    assert!(answer.is_err(), "{answer:?}");
}

#[test]
fn what_is_granted_has_one_spelling() {
    let mut world = World::new();
    let owner = world.owner();
    let agent = agent(&mut world, "a", json!([]));
    let wrong = [
        ("file.read", "/usr/../etc"),
        ("file.read", "/usr/./lib"),
        ("file.read", "//usr"),
        ("file.write", "/usr/"),
        ("file.write", "usr"),
        ("file.execute", "./x"),
        ("file.create", "~"),
        ("file.delete", "/tmp/*"),
        ("file.read", "/tmp/\0x"),
        ("file.read", "/tmp/\u{7f}x"),
        ("file.read", "/tmp/\u{202e}x"),
        ("unix.connect", "/run/../x"),
        ("device.open", "/dev//null"),
        ("network.connect", "example.org"),
        ("network.connect", "127.0.0.1:80"),
        ("network.bind", "8010-8000"),
        ("network.loopback", "080"),
        ("signal.send", "all"),
        ("environment.read", "A=B"),
        ("kernel.call", "process."),
        ("permission.decide", "skill"),
        ("permission.decide", "skill:*x"),
        ("event.publish", ""),
    ];
    for (permission, resource) in wrong {
        let mut calls = vec![
            (owner, "permission.grant", json!({ "principal": "skill:x" })),
            (owner, "permission.grant", json!({ "principal": "skill:x", "effect": "forbid" })),
            (owner, "permission.can", json!({ "principal": "skill:x" })),
            (agent, "permission.request", json!({ "purpose": "to try" })),
        ];
        for (connection, method, params) in &mut calls {
            params["permission"] = json!(permission);
            params["resource"] = json!(resource);
            let error = world.call(*connection, method, params.clone()).expect_err(resource);
            let info = error.info.expect("it says more");
            let details: Value = info.details.expect("a field").decode().expect("a map");
            assert_eq!(
                (&*info.code, &details["field"]),
                ("E_INVALID_PARAMS", &json!("resource")),
                "{method} {resource:?}"
            );
        }
        let listed = json!([{ "permission": permission, "resource": resource }]);
        let error =
            world.call(owner, "agent.create", json!({ "name": "b", "permissions": listed })).unwrap_err();
        let details: Value = error.info.unwrap().details.unwrap().decode().expect("a map");
        assert_eq!(details["field"], "permissions[0].resource");
        let rule =
            json!({ "effect": "approve", "principal": "*", "permission": permission, "resource": resource });
        let policy: Policy = serde_json::from_value(json!({ "rule": [rule] })).expect("it can be read");
        assert_eq!(policy.check().expect_err(resource).field, "rule[0].resource");
    }
    for (permission, resource) in [
        ("file.read", "/usr/lib"),
        ("file.read", "~/.ssh"),
        ("file.read", "*"),
        ("network.connect", "*.example.org:443"),
        ("network.bind", "0"),
        ("permission.decide", "skill:photo-*"),
        ("event.publish", "photo.>"),
    ] {
        allow(&mut world, "skill:x", permission, json!(resource));
    }
}
