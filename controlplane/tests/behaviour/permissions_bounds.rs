//! Nobody gives more than it has, waits longer than its time, goes on in a name that is gone, or takes what was another's.

use crate::harness::{World, config};
use crate::named::{DENIED, agent, code};
use kairo_controlplane::auth::rules::Policy;
use kairo_controlplane::config::Config;
use kairo_dataplane::command::Command;
use kairo_dataplane::control::ExitStatus;
use kairo_dataplane::key::ConnectionKey;
use serde_json::{Value, json};
use std::sync::Arc;

const HOUR: u64 = 3_600_000;

/// An agent that decides about skills and agents by one grant, has another permission for good, and that grant's name.
fn decider(world: &mut World, terms: Value) -> (ConnectionKey, Value) {
    let decider = agent(world, "boss", json!([{ "permission": "process.list" }]));
    let owner = world.owner();
    let mut grant = json!({ "principal": "agent:boss", "permission": "permission.decide", "resource": "*" });
    grant.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    let grant = world.ok(owner, "permission.grant", grant)["grant"]["id"].clone();
    (decider, grant)
}

fn gives(more: Value) -> Value {
    let mut gives = json!({ "principal": "skill:x", "permission": "process.list" });
    gives.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    gives
}

fn details(world: &mut World, connection: ConnectionKey, method: &str, params: Value) -> Value {
    let error = world.call(connection, method, params).unwrap_err();
    error.info.unwrap().details.unwrap().decode().expect("a map")
}

fn grants(world: &mut World, owner: ConnectionKey, principal: &str) -> Vec<Value> {
    let grants = world.ok(owner, "permission.grants", json!({ "principal": principal }))["grants"].clone();
    grants.as_array().unwrap().clone()
}

fn waiting(world: &mut World, owner: ConnectionKey) -> usize {
    world.ok(owner, "permission.pending", json!({}))["requests"].as_array().unwrap().len()
}

/// A manifest this machine that enforces nothing can contain.
fn plain(name: &str) -> String {
    let off =
        |protection: &kairo_sandbox::protection::Protection| (protection.name().to_owned(), json!("off"));
    let weak = kairo_sandbox::protection::Protection::ALL.iter().map(off).collect();
    json!({ "manifest": 1, "name": name, "version": "1", "protections": Value::Object(weak) }).to_string()
}

fn with_program(manifest: &str, digit: &str) -> Value {
    json!({ "manifest": manifest, "program": "/bin/x", "programDigest": digit.repeat(64) })
}

fn with_policy(rules: Value) -> World {
    let policy: Policy = serde_json::from_value(json!({ "rule": rules })).expect("a policy");
    World::with(Config { policy: Arc::new(policy.check().expect("a sound one")), ..config() })
}

#[test]
fn an_agents_end_is_the_end_of_what_runs_as_it_outside_of_its_sessions() {
    let mut world = World::new();
    let owner = world.owner();
    let acting = agent(&mut world, "a", json!([{ "permission": "process.spawn" }]));
    let session = world.ok(owner, "session.create", json!({ "agent": "a" }))["sessionId"].clone();
    let (outside, _) = world.run(acting, "outside");
    let inside = json!({ "id": "inside", "command": ["a"], "options": { "agentSession": session } });
    let (inside, _) = world.run_with(owner, inside);
    world.run(owner, "another");
    world.commands.clear();
    let removed = world.ok(owner, "agent.remove", json!({ "name": "a", "running": "end" }));
    assert_eq!(removed["ended"], json!(["inside", "outside"]));
    let signalled = world.commands.iter().filter_map(|command| match command {
        Command::Signal { process, signal: 15, .. } => Some(*process),
        _ => None,
    });
    assert_eq!(signalled.collect::<Vec<_>>(), [inside, outside]);
}

#[test]
fn nothing_is_started_again_in_the_name_of_an_agent_that_was_removed() {
    let mut world = World::new();
    let owner = world.owner();
    let acting = agent(&mut world, "a", json!([{ "permission": "process.spawn" }]));
    let options = json!({ "restart": { "policy": "always", "backoffMs": 10 } });
    let (kept, _) = world.run_with(acting, json!({ "id": "left", "command": ["a"], "options": options }));
    let removed = world.ok(owner, "agent.remove", json!({ "name": "a", "running": "keep" }));
    assert_eq!(removed["ended"], json!([]));
    world.advance(1);
    agent(&mut world, "a", json!([{ "permission": "process.list" }]));
    world.commands.clear();
    world.finish(kept, 1);
    world.advance(1_000);
    assert!(!world.commands.iter().any(|command| matches!(command, Command::Spawn(_))));
    let left = world.ok(owner, "process.status", json!({ "id": "left", "detail": true }));
    assert_eq!((&left["state"], &left["detail"]["restart"]), (&json!("exited"), &Value::Null), "{left}");
}

#[test]
fn whoever_acted_in_a_session_that_is_over_is_cut_off() {
    let mut world = World::new();
    let owner = world.owner();
    agent(&mut world, "a", json!([{ "permission": "process.spawn" }]));
    let session = world.ok(owner, "session.create", json!({ "agent": "a" }))["sessionId"].clone();
    let lowered = world.owner();
    world.ok(lowered, "identify", json!({ "agentId": "a", "agentSession": session }));
    let spawn = |id: &str| json!({ "id": id, "command": ["a"], "options": { "agentSession": session } });
    let (_, pid) = world.run_with(owner, spawn("inside"));
    let inside = world.child(&[pid], None);
    world.ok(owner, "session.end", json!({ "sessionId": session }));
    assert!(world.closed.contains(&lowered) && world.closed.contains(&inside));
    // What is being ended and connects again starts nothing.
    let again = world.child(&[pid], None);
    assert_eq!(code(&mut world, again, "process.spawn", json!({ "id": "late", "command": ["a"] })), DENIED);
}

#[test]
fn a_program_starts_as_a_skill_only_what_was_approved_as_that() {
    let mut world = World::new();
    let owner = world.owner();
    let manifest = plain("photo");
    let (_, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    // By whatever name it goes, a program names the program.
    let acting = agent(
        &mut world,
        "a",
        json!([{ "permission": "permission.request" }, { "permission": "process.spawn" }]),
    );
    for program in [child, acting] {
        let field = details(&mut world, program, "permission.request", json!({ "manifest": manifest }));
        assert_eq!(field["field"], "programDigest");
    }
    let asked = world.ok(owner, "permission.request", json!({ "manifest": manifest }));
    world.ok(owner, "permission.approve", json!({ "requestId": asked["requestId"], "scope": "always" }));
    let spawn = |id: &str| json!({ "id": id, "command": ["a"], "options": { "skill": { "name": "photo" } } });
    for (program, id) in [(child, "c"), (acting, "d")] {
        assert_eq!(code(&mut world, program, "process.spawn", spawn(id)), DENIED);
    }
    // A user of the kernel's has started what it likes anyway.
    world.run_with(owner, spawn("owners"));
}

#[test]
fn a_decider_gives_nothing_for_longer_than_it_decides() {
    let mut world = World::new();
    let owner = world.owner();
    let (boss, decides) = decider(&mut world, json!({ "expiresInMs": HOUR }));
    let refused = details(&mut world, boss, "permission.grant", gives(json!({ "expiresInMs": HOUR + 1 })));
    assert_eq!((&refused["field"], &refused["grant"]), (&json!("expiresInMs"), &decides));
    let ends = grants(&mut world, owner, "agent:boss").iter().find_map(|grant| grant["expiresMs"].as_u64());
    // What isn't said is as long as it can be, and what is said is kept to.
    let all = world.ok(boss, "permission.grant", gives(json!({})))["grant"].clone();
    assert_eq!((all["scope"].as_str(), all["expiresMs"].as_u64()), (Some("always"), ends));
    let own =
        grants(&mut world, owner, "agent:boss").into_iter().find(|grant| grant["id"] != decides).unwrap();
    assert_eq!(all["restsOn"], json!([decides, own["id"]]));
    let half = world.ok(boss, "permission.grant", gives(json!({ "expiresInMs": HOUR / 2 })))["grant"].clone();
    assert!(half["expiresMs"].as_u64() < ends, "{half}");
    // It approves by the same rule.
    let asked = world.ok(owner, "permission.request", with_program(&plain("x"), "a"));
    let decision = json!({ "requestId": asked["requestId"], "scope": "always", "expiresInMs": 2 * HOUR });
    assert_eq!(details(&mut world, boss, "permission.approve", decision.clone())["field"], "expiresInMs");
    let decision = json!({ "requestId": asked["requestId"], "scope": "always" });
    assert_eq!(world.ok(boss, "permission.approve", decision)["grant"]["expiresMs"].as_u64(), ends);
    world.advance(HOUR);
    assert_eq!(grants(&mut world, owner, "skill:x"), Vec::<Value>::new());
}

#[test]
fn of_many_grants_to_decide_the_longest_counts() {
    let mut world = World::new();
    let (boss, _) = decider(&mut world, json!({ "expiresInMs": HOUR }));
    let owner = world.owner();
    for terms in [
        json!({ "scope": "once" }),
        json!({ "expiresInMs": 2 * HOUR }),
        json!({}),
        json!({ "expiresInMs": HOUR }),
    ] {
        let mut grant =
            json!({ "principal": "agent:boss", "permission": "permission.decide", "resource": "skill:*" });
        grant.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        world.ok(owner, "permission.grant", grant);
    }
    let before = grants(&mut world, owner, "agent:boss").len();
    let given = world.ok(boss, "permission.grant", gives(json!({ "scope": "always" })))["grant"].clone();
    assert_eq!((&given["expiresMs"], grants(&mut world, owner, "agent:boss").len()), (&Value::Null, before));
}

#[test]
fn a_decider_gives_no_wider_scope_than_it_has() {
    let mut world = World::new();
    let owner = world.owner();
    agent(&mut world, "worker", json!([]));
    let session = world.ok(owner, "session.create", json!({ "agent": "worker" }))["sessionId"].clone();
    let (boss, decides) = decider(&mut world, json!({ "scope": "session", "session": session }));
    let refused = details(&mut world, boss, "permission.grant", gives(json!({ "scope": "always" })));
    assert_eq!((&refused["field"], &refused["grant"]), (&json!("scope"), &decides));
    let given = world.ok(boss, "permission.grant", gives(json!({})))["grant"].clone();
    assert_eq!((&given["scope"], &given["session"]), (&json!("session"), &session));
    // As long as another session lasts, but no longer than its own.
    let other = world.ok(owner, "session.create", json!({ "agent": "worker" }))["sessionId"].clone();
    world.ok(boss, "permission.grant", gives(json!({ "scope": "session", "session": other })));
    world.ok(boss, "permission.grant", gives(json!({ "scope": "once" })));
    world.ok(owner, "session.end", json!({ "sessionId": session }));
    assert_eq!(grants(&mut world, owner, "skill:x"), Vec::<Value>::new());
}

#[test]
fn who_may_decide_once_decides_once_and_for_one_use() {
    let mut world = World::new();
    let owner = world.owner();
    let (boss, _) = decider(&mut world, json!({ "scope": "once" }));
    let refused = details(&mut world, boss, "permission.grant", gives(json!({ "scope": "always" })));
    assert_eq!(refused["field"], "scope");
    assert_eq!(world.ok(boss, "permission.grant", gives(json!({})))["grant"]["scope"], "once");
    assert_eq!(code(&mut world, boss, "permission.grant", gives(json!({}))), DENIED);
    // What was given stays to be used.
    assert_eq!(grants(&mut world, owner, "skill:x").len(), 1);
    // A right to one use that is given away is the other's.
    let (boss, _) = decider(&mut world, json!({}));
    let once = json!({ "principal": "agent:boss", "permission": "process.spawn", "scope": "once" });
    world.ok(owner, "permission.grant", once);
    let away = json!({ "principal": "skill:x", "permission": "process.spawn" });
    assert_eq!(world.ok(boss, "permission.grant", away.clone())["grant"]["scope"], "once");
    assert_eq!(code(&mut world, boss, "permission.grant", away), DENIED);
    // To deny and to take back is to decide as well.
    for decide in [
        |world: &mut World, owner: ConnectionKey| {
            let asked = world.ok(owner, "permission.request", with_program(&plain("x"), "a"));
            ("permission.deny", json!({ "requestId": asked["requestId"] }))
        },
        |_: &mut World, _: ConnectionKey| ("permission.revoke", json!({ "principal": "skill:x" })),
    ] {
        let former = grants(&mut world, owner, "agent:boss");
        for grant in
            former.iter().filter(|grant| grant["permissions"][0]["permission"] == "permission.decide")
        {
            world.ok(owner, "permission.revoke", json!({ "grant": grant["id"] }));
        }
        world.ok(owner, "permission.grant", gives(json!({})));
        let once = json!({ "principal": "agent:boss", "permission": "permission.decide", "resource": "*", "scope": "once" });
        world.ok(owner, "permission.grant", once);
        let (method, params) = decide(&mut world, owner);
        world.ok(boss, method, params);
        assert_eq!(code(&mut world, boss, "permission.revoke", json!({ "principal": "skill:x" })), DENIED);
    }
}

#[test]
fn what_was_given_ends_with_what_it_was_given_by() {
    let mut world = World::new();
    let owner = world.owner();
    let (boss, decides) = decider(&mut world, json!({}));
    agent(&mut world, "deputy", json!([]));
    let second =
        json!({ "principal": "agent:deputy", "permission": "permission.decide", "resource": "skill:*" });
    world.ok(boss, "permission.grant", second);
    world.ok(boss, "permission.grant", gives(json!({ "principal": "agent:deputy" })));
    let deputy = world.owner();
    world.ok(deputy, "identify", json!({ "agentId": "deputy" }));
    let given = world.ok(deputy, "permission.grant", gives(json!({})))["grant"]["id"].clone();
    let forbidden = world.ok(boss, "permission.grant", gives(json!({ "effect": "forbid" })))["grant"].clone();
    assert_eq!(forbidden["restsOn"], Value::Null);
    world.ok(owner, "permission.grant", gives(json!({ "principal": "skill:y" })));
    world.ok(owner, "subscribe", json!({ "topic": "kairo.permission.revoked" }));
    let revoked = world.ok(owner, "permission.revoke", json!({ "grant": decides }));
    assert_eq!(revoked["revoked"].as_array().map(Vec::len), Some(4), "{revoked}");
    assert!(revoked["revoked"].as_array().unwrap().contains(&given));
    let causes: Vec<Value> = world.events(owner).into_iter().map(|(_, told)| told["cause"].clone()).collect();
    assert_eq!(causes, ["revoked", "source_gone", "source_gone", "source_gone"]);
    // What it forbade stays, and so does what others gave.
    let left: Vec<Value> =
        grants(&mut world, owner, "skill:x").iter().map(|grant| grant["id"].clone()).collect();
    assert_eq!(left, [forbidden["id"].clone()]);
    assert_eq!(grants(&mut world, owner, "skill:y").len(), 1);
}

#[test]
fn a_later_kernel_knows_what_a_grant_rests_on() {
    let mut world = World::new();
    let (boss, decides) = decider(&mut world, json!({ "expiresInMs": HOUR }));
    world.ok(boss, "permission.grant", gives(json!({})));
    let mut next = World::over(config(), world.kept);
    let owner = next.owner();
    assert_eq!(grants(&mut next, owner, "skill:x").len(), 1);
    next.ok(owner, "permission.revoke", json!({ "grant": decides }));
    assert_eq!(grants(&mut next, owner, "skill:x").len(), 0);
}

#[test]
fn whoever_makes_agents_gives_them_no_more_and_for_no_longer() {
    let mut world = World::new();
    let owner = world.owner();
    let maker = agent(&mut world, "maker", json!([{ "permission": "process.list" }]));
    let manage = json!({ "principal": "agent:maker", "permission": "agent.manage", "resource": "agent:x*", "expiresInMs": HOUR });
    world.ok(owner, "permission.grant", manage);
    world.ok(
        maker,
        "agent.create",
        json!({ "name": "x", "permissions": [{ "permission": "process.list" }] }),
    );
    let given = grants(&mut world, owner, "agent:x");
    assert!(given[0]["expiresMs"].is_u64(), "{given:?}");
    world.advance(HOUR);
    assert_eq!(grants(&mut world, owner, "agent:x"), Vec::<Value>::new());
}

#[test]
fn a_policy_puts_no_program_in_the_place_of_one_that_was_approved() {
    let rule = json!({ "effect": "approve", "principal": "skill:*" });
    let mut world = with_policy(json!([rule]));
    let owner = world.owner();
    let plain = |name: &str| {
        let mut manifest: Value = serde_json::from_str(&plain(name)).unwrap();
        manifest["permissions"] = json!({ "publish": [{ "pattern": "photo.*", "purpose": "telling" }] });
        manifest.to_string()
    };
    let real = world.ok(owner, "permission.request", with_program(&plain("photo"), "a"));
    assert_eq!(real["status"], "approved");
    let (_, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    let other = plain("photo").replace("\"version\":\"1\"", "\"version\":\"2\"");
    for ask in [with_program(&plain("photo"), "b"), with_program(&other, "b")] {
        assert_eq!(world.ok(child, "permission.request", ask)["status"], "pending");
    }
    let ids = |grants: Vec<Value>| grants.into_iter().map(|grant| grant["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(grants(&mut world, owner, "skill:photo")), [real["grant"]["id"].clone()]);
    // The same program of the same manifest is what was approved; a name of its own it may change its mind about.
    assert_eq!(
        world.ok(child, "permission.request", with_program(&plain("photo"), "a"))["status"],
        "approved"
    );
    for digit in ["b", "c"] {
        assert_eq!(
            world.ok(child, "permission.request", with_program(&plain("own"), digit))["status"],
            "approved"
        );
    }
    assert_eq!(grants(&mut world, owner, "skill:own").len(), 1);
    // Nor does it take what somebody was given by name without a manifest.
    world.ok(owner, "permission.grant", json!({ "principal": "skill:reader", "permission": "process.list" }));
    let asked = world.ok(child, "permission.request", with_program(&plain("reader"), "b"));
    assert_eq!(asked["status"], "pending");
}

#[test]
fn a_request_waits_a_day_and_an_hour_for_who_is_gone() {
    let mut world = World::new();
    let owner = world.owner();
    let watcher = world.owner();
    world.ok(watcher, "subscribe", json!({ "topic": "kairo.permission.expired" }));
    let expired = |world: &mut World| {
        let told = world.events(watcher).into_iter().filter(|(topic, _)| topic == "kairo.permission.expired");
        told.map(|(_, told)| told).collect::<Vec<_>>()
    };
    let asked = world.ok(owner, "permission.request", json!({ "manifest": plain("owners") }));
    let (process, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    let childs = world.ok(child, "permission.request", with_program(&plain("childs"), "a"));
    let patient = world.start(
        owner,
        "permission.request",
        json!({ "manifest": plain("owners"), "waitMs": 2 * 24 * HOUR }),
    );
    world.advance(2 * HOUR);
    assert_eq!(waiting(&mut world, owner), 2);
    // As long as its process or its connection is there, somebody may use the answer.
    world.finish(process, 0);
    world.advance(2 * HOUR);
    assert_eq!(waiting(&mut world, owner), 2);
    world.disconnect(child);
    world.advance(HOUR - 1);
    assert_eq!((waiting(&mut world, owner), expired(&mut world).len()), (2, 0));
    world.advance(1);
    let told = expired(&mut world).pop().expect("it is told");
    assert_eq!(
        (told["request"]["requestId"].clone(), waiting(&mut world, owner)),
        (childs["requestId"].clone(), 1)
    );
    world.advance(24 * HOUR - 5 * HOUR);
    let told = expired(&mut world).pop().expect("it is told");
    assert_eq!(
        (told["request"]["requestId"].clone(), waiting(&mut world, owner)),
        (asked["requestId"].clone(), 0)
    );
    let answer = world.answer(owner, &patient).expect("it is answered").expect("it has an end");
    assert_eq!(answer["status"], "denied", "{answer}");
    assert_eq!(
        code(&mut world, owner, "permission.approve", json!({ "requestId": asked["requestId"] })),
        "E_NOT_FOUND"
    );
}

#[test]
fn whoever_goes_first_a_request_ends_an_hour_after_the_last() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, pid) = world.run(owner, "p");
    let (child, again) = (world.child(&[pid], None), world.child(&[pid], None));
    for connection in [child, again] {
        world.ok(connection, "permission.request", with_program(&plain("childs"), "a"));
    }
    for connection in [child, again] {
        world.disconnect(connection);
    }
    world.advance(2 * HOUR);
    assert_eq!(waiting(&mut world, owner), 1);
    world.finish(process, 0);
    world.advance(HOUR);
    assert_eq!(waiting(&mut world, owner), 0);
}

#[test]
fn what_waits_is_bounded_in_bytes_and_leaves_room_for_people() {
    let mut world = World::new();
    world.logged = false;
    let owner = world.owner();
    let large = |name: &str| {
        let purpose = "x".repeat(490);
        let files = (0..350)
            .map(|at| json!({ "path": format!("/data/{at}"), "allow": ["read"], "purpose": purpose }));
        let files: Vec<Value> = files.collect();
        json!({ "manifest": 1, "name": name, "version": "1", "permissions": { "files": files } }).to_string()
    };
    let limit = |world: &mut World, connection, ask: Value| {
        let error = world.call(connection, "permission.request", ask).err()?;
        let info = error.info.unwrap();
        assert_eq!(info.code, "E_BUSY");
        let details: Value = info.details.unwrap().decode().expect("a map");
        Some(details["limit"].clone())
    };
    let mut children = Vec::new();
    for at in 0..16 {
        let (_, pid) = world.run(owner, &format!("p{at}"));
        children.push(world.child(&[pid], None));
    }
    // One has its share, and all together leave a quarter.
    let (mut taken, mut refused) = (0, Vec::new());
    for (who, child) in children.iter().enumerate() {
        for at in 0..4 {
            match limit(&mut world, *child, with_program(&large(&format!("s{who}-{at}")), "a")) {
                None => taken += 1,
                Some(limit) => refused.push(limit),
            }
        }
    }
    assert!((10..24).contains(&taken) && refused.iter().all(|limit| limit == "requestBytesMax"), "{taken}");
    assert!(refused.len() >= 16, "{refused:?}");
    // Nobody's name is taken up by others' asking for it.
    assert_eq!(limit(&mut world, owner, json!({ "manifest": large("s0-0") })), None);
    assert_eq!(limit(&mut world, owner, json!({ "manifest": large("owners") })), None);
    let before = waiting(&mut world, owner);
    world.advance(24 * HOUR);
    assert_eq!((before, waiting(&mut world, owner)), (taken + 2, 0));
    assert_eq!(limit(&mut world, children[0], with_program(&large("s0-0"), "a")), None);
}

#[test]
fn an_approval_for_one_start_is_used_up_by_that_and_not_by_an_event() {
    let mut world = World::new();
    let owner = world.owner();
    let mut manifest: Value = serde_json::from_str(&plain("photo")).unwrap();
    manifest["permissions"] = json!({ "publish": [{ "pattern": "photo.*", "purpose": "telling" }] });
    let asked = world.ok(owner, "permission.request", json!({ "manifest": manifest.to_string() }));
    world.ok(owner, "permission.approve", json!({ "requestId": asked["requestId"], "scope": "once" }));
    let spawn = json!({ "id": "p", "command": ["a"], "options": { "skill": { "name": "photo" } } });
    let (process, pid) = world.run_with(owner, spawn);
    let inside = world.child(&[pid], None);
    for _ in 0..2 {
        world.ok(inside, "event.publish", json!({ "type": "photo.done" }));
    }
    world.exits(process, ExitStatus::Code(0));
    world.notice(kairo_dataplane::control::Notice::Ended { process });
    assert_eq!(grants(&mut world, owner, "skill:photo"), Vec::<Value>::new());
}

#[test]
fn a_grant_for_one_event_is_for_one_of_a_batch_and_decided_once() {
    let mut world = World::new();
    let owner = world.owner();
    let agent = agent(&mut world, "a", json!([]));
    let once =
        json!({ "principal": "agent:a", "permission": "event.publish", "resource": "a.*", "scope": "once" });
    let batch = |count: usize| json!({ "events": vec![json!({ "type": "a.b" }); count] });
    world.ok(owner, "permission.grant", once.clone());
    let refused = details(&mut world, agent, "event.publish_batch", batch(2));
    assert_eq!((&refused["event"], &refused["resource"]), (&json!(1), &json!("a.b")));
    // Nothing was published, so nothing was used.
    world.ok(agent, "event.publish_batch", batch(1));
    assert_eq!(code(&mut world, agent, "event.publish_batch", batch(1)), DENIED);
    // Two for one event each are two.
    world.ok(owner, "permission.grant", once.clone());
    world.ok(owner, "permission.grant", once);
    for _ in 0..2 {
        world.ok(agent, "event.publish", json!({ "type": "a.b" }));
    }
    assert_eq!(code(&mut world, agent, "event.publish", json!({ "type": "a.b" })), DENIED);
}

#[test]
fn what_was_used_elsewhere_is_told_as_used() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.permission.revoked" }));
    let grant = |world: &mut World, scope: &str| {
        world.ok(owner, "permission.grant", gives(json!({ "scope": scope })))["grant"]["id"].clone()
    };
    let once = grant(&mut world, "once");
    world.ok(owner, "permission.revoke", json!({ "grant": once, "running": "keep", "used": true }));
    let (_, told) = world.events(owner).pop().expect("it is told");
    assert_eq!((&told["cause"], &told["grant"]["id"]), (&json!("used"), &once));
    let always = grant(&mut world, "always");
    for wrong in [json!({ "grant": always, "used": true }), json!({ "principal": "skill:x", "used": true })] {
        assert_eq!(details(&mut world, owner, "permission.revoke", wrong)["field"], "used");
    }
}

#[test]
fn only_who_goes_by_a_name_is_looked_at_when_that_loses_something() {
    let mut world = World::new();
    let owner = world.owner();
    let one = world.owner();
    world.ok(one, "identify", json!({ "skillId": "x" }));
    let (_, pid) = world.run(one, "xs");
    // It goes by the name of who started it, and so does what that one starts.
    let child = world.child(&[pid], None);
    let (_, pid) = world.run(child, "xxs");
    let grandchild = world.child(&[pid], None);
    let other = world.owner();
    world.ok(other, "identify", json!({ "skillId": "y" }));
    for connection in [one, child, grandchild, other] {
        world.ok(connection, "subscribe", json!({ "topic": "a.>" }));
    }
    world.ok(
        owner,
        "permission.grant",
        json!({ "principal": "skill:x", "permission": "event.subscribe", "effect": "forbid" }),
    );
    let _ = world.events(other);
    world.ok(owner, "event.publish", json!({ "type": "a.b", "data": 1 }));
    let hears =
        |world: &mut World, connection| world.events(connection).iter().any(|(topic, _)| topic == "a.b");
    let heard = [one, child, grandchild, other].map(|connection| hears(&mut world, connection));
    assert_eq!(heard, [false, false, false, true]);
}

#[test]
fn no_way_to_an_event_goes_past_the_right_to_hear_it() {
    let mut world = World::new();
    let rights = json!([
        { "permission": "intent.begin" },
        { "permission": "intent.observe" },
        { "permission": "event.publish", "resource": "a.>" },
        { "permission": "event.subscribe", "resource": "a.>" },
    ]);
    let acting = agent(&mut world, "a", rights);
    let intent = world.ok(acting, "intent.begin", json!({ "name": "x" }))["intentId"].clone();
    let asks = |reply: &str| json!({ "type": "a.ask", "replyType": reply, "timeoutMs": 10 });
    let cases = [
        ("intent.timeline", json!({ "intentId": intent }), ">"),
        ("event.request", asks("kairo.process.spawned"), "kairo.process.spawned"),
    ];
    for (method, params, resource) in cases {
        let details = details(&mut world, acting, method, params);
        let named = json!([details["permission"], details["resource"]]);
        assert_eq!(named, json!(["event.subscribe", resource]), "{method}");
    }
    let call = world.start(acting, "event.request", asks("a.answer"));
    assert!(world.answer(acting, &call).is_none(), "it waits for its answer");
}
