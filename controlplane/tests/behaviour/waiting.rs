//! Calls that wait while the right to them is taken away.

use crate::harness::{World, code};
use crate::named::{DENIED, agent};
use kairo_dataplane::control::{ExitStatus, Notice};
use kairo_dataplane::key::ConnectionKey;
use serde_json::{Value, json};

fn grant(world: &mut World, permission: &str, resource: Option<&str>, more: Value) -> Value {
    let owner = world.owner();
    let mut grant = json!({ "principal": "agent:a", "permission": permission });
    if let Some(resource) = resource {
        grant["resource"] = json!(resource);
    }
    for (name, value) in more.as_object().expect("a map") {
        grant[name] = value.clone();
    }
    world.ok(owner, "permission.grant", grant)["grant"]["id"].clone()
}

/// Whether a call that was parked has been refused for want of a right.
fn is_denied(world: &mut World, connection: ConnectionKey, call: &Value) -> bool {
    world.answer(connection, call).is_some_and(|answer| answer.is_err_and(|error| code(&error).0 == DENIED))
}

/// Each call that waits for something, and what it takes.
const WAITS: &[(&str, &str, Option<&str>)] = &[
    ("process.wait", "process.observe", Some("p")),
    ("view.changes", "event.subscribe", Some("kairo.>")),
    ("event.request", "event.publish", Some("ask.*")),
    ("process.stdin.write", "process.write", Some("p")),
    ("process.spawn", "process.spawn", None),
];

/// One of them, parked.
fn parked(world: &mut World, agent: ConnectionKey, method: &str) -> Value {
    let params = match method {
        "process.wait" => json!({ "id": "p" }),
        "view.changes" => {
            let owner = world.owner();
            let seq = world.ok(owner, "view.get", json!({ "name": "live" }))["seq"].clone();
            json!({ "name": "live", "since": seq, "waitMs": 60_000 })
        }
        "event.request" => json!({ "type": "ask.me", "timeoutMs": 60_000 }),
        "process.stdin.write" => json!({ "id": "p", "data": "x" }),
        _ => json!({ "id": "mine", "command": ["a"] }),
    };
    let call = world.start(agent, method, params);
    assert!(world.answer(agent, &call).is_none(), "{method} waits");
    call
}

/// An agent with one of its rights, and what it would wait for.
fn waiting(
    (method, permission, resource): (&str, &str, Option<&str>),
    more: Value,
) -> (World, ConnectionKey, Value, Value) {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    let agent = agent(&mut world, "a", json!([{ "permission": "view.read" }]));
    let once = grant(&mut world, "process.spawn", None, json!({}));
    let (mine, _) = world.run(agent, "mine");
    world.ok(owner, "permission.revoke", json!({ "grant": once }));
    if method == "process.spawn" {
        world.start(owner, "process.kill", json!({ "id": "mine" }));
    } else {
        world.notice(Notice::Ended { process: mine });
    }
    let grant = grant(&mut world, permission, resource, more);
    let call = parked(&mut world, agent, method);
    (world, agent, grant, call)
}

#[test]
fn what_is_revoked_is_refused_to_whoever_waits_for_it() {
    for of in WAITS {
        let (mut world, agent, grant, call) = waiting(*of, json!({}));
        let owner = world.owner();
        world.ok(owner, "permission.revoke", json!({ "grant": grant }));
        assert!(is_denied(&mut world, agent, &call), "{of:?}");
        assert!(world.answer(agent, &call).is_none(), "once");
        world.ok(owner, "event.publish", json!({ "type": "ask.more" }));
    }
}

#[test]
fn what_expires_is_refused_to_whoever_waits_for_it() {
    for of in WAITS {
        let (mut world, agent, _, call) = waiting(*of, json!({ "expiresInMs": 1_000 }));
        world.advance(999);
        assert!(world.answer(agent, &call).is_none(), "{of:?}");
        world.advance(1);
        assert!(is_denied(&mut world, agent, &call), "{of:?}");
    }
}

#[test]
fn what_is_forbidden_is_refused_to_whoever_waits_for_it() {
    for of in WAITS {
        let (mut world, agent, _, call) = waiting(*of, json!({}));
        grant(&mut world, of.1, of.2, json!({ "effect": "forbid" }));
        assert!(is_denied(&mut world, agent, &call), "{of:?}");
    }
}

#[test]
fn what_is_left_of_its_rights_goes_on() {
    for of in WAITS {
        let (mut world, agent, _, call) = waiting(*of, json!({}));
        let owner = world.owner();
        let other = grant(&mut world, "device.list", None, json!({}));
        world.ok(owner, "permission.revoke", json!({ "grant": other }));
        grant(&mut world, "event.subscribe", Some("else.where"), json!({ "effect": "forbid" }));
        assert!(world.answer(agent, &call).is_none(), "{of:?}");
    }
}

#[test]
fn a_call_that_is_the_one_use_of_a_grant_waits_on() {
    let (mut world, agent, _, call) =
        waiting(("process.wait", "process.observe", Some("p")), json!({ "scope": "once" }));
    let owner = world.owner();
    let other = grant(&mut world, "device.list", None, json!({}));
    world.ok(owner, "permission.revoke", json!({ "grant": other }));
    assert!(world.answer(agent, &call).is_none(), "it has been allowed");
    grant(&mut world, "process.observe", Some("p"), json!({ "effect": "forbid" }));
    assert!(is_denied(&mut world, agent, &call));
}

#[test]
fn whoever_waits_in_a_session_or_as_an_agent_is_refused_at_its_end() {
    for ends in ["session.end", "agent.remove"] {
        let mut world = World::new();
        let owner = world.owner();
        let agent = agent(&mut world, "a", json!([{ "permission": "process.observe", "resource": "p" }]));
        let session = world.ok(owner, "session.create", json!({ "agent": "a" }))["sessionId"].clone();
        let inside = world.owner();
        world.ok(inside, "identify", json!({ "agentId": "a", "agentSession": session }));
        let (p, _) = world.run(owner, "p");
        let call = parked(&mut world, inside, "process.wait");
        let outside = parked(&mut world, agent, "process.wait");
        match ends {
            "session.end" => world.ok(owner, ends, json!({ "sessionId": session, "running": "keep" })),
            _ => world.ok(owner, ends, json!({ "name": "a", "running": "keep" })),
        };
        assert!(is_denied(&mut world, inside, &call), "{ends}");
        assert!(world.closed.contains(&inside), "it is nobody any more");
        assert_eq!(is_denied(&mut world, agent, &outside), ends == "agent.remove");
        world.exits(p, ExitStatus::Code(0));
        assert_eq!(world.answer(agent, &outside).is_some(), ends == "session.end");
    }
}

#[test]
fn whoever_takes_a_name_waits_for_no_more_than_that_name_may() {
    let mut world = World::new();
    let owner = world.owner();
    agent(&mut world, "a", json!([]));
    world.run(owner, "p");
    let call = parked(&mut world, owner, "process.wait");
    world.ok(owner, "identify", json!({ "agentId": "a" }));
    assert!(is_denied(&mut world, owner, &call));
}
