//! The loop: asked for, decided, in force, taken back; and who is who in it.

use crate::harness::{OWNER, World, config};
use kairo_controlplane::auth::rules::Policy;
use kairo_controlplane::config::Config;
use kairo_dataplane::control::{Lineage, Notice};
use kairo_dataplane::key::ConnectionKey;
use serde_json::{Value, json};
use std::sync::Arc;

const MANIFEST: &str = r#"{"manifest": 1, "name": "photo", "version": "1", "permissions": {
    "files": [{"path": "/usr", "allow": ["read", "execute"], "purpose": "its program"}],
    "calls": [{"method": "process.list", "purpose": "to look"}],
    "publish": [{"pattern": "photo.*", "purpose": "telling"}],
    "subscribe": [{"pattern": "photo.>", "purpose": "hearing"}]
}}"#;

fn policy(toml: Value) -> World {
    let policy: Policy = serde_json::from_value(toml).expect("a policy");
    World::with(Config { policy: Arc::new(policy.check().expect("a sound one")), ..config() })
}

fn named(world: &mut World, identity: &str, name: &str) -> ConnectionKey {
    let connection = world.owner();
    world.ok(connection, "identify", json!({ identity: name }));
    connection
}

fn approved(world: &mut World, owner: ConnectionKey, manifest: &str, scope: &str) -> Value {
    let asked = world.ok(owner, "permission.request", json!({ "manifest": manifest, "session": "tty" }));
    assert_eq!(asked["status"], "pending", "{asked}");
    let approval = json!({ "requestId": asked["requestId"], "scope": scope });
    world.ok(owner, "permission.approve", approval)["grant"].clone()
}

fn topics(world: &mut World, connection: ConnectionKey) -> Vec<String> {
    world.events(connection).into_iter().map(|(topic, _)| topic).collect()
}

#[test]
fn a_manifest_is_asked_for_approved_in_force_and_taken_back() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.permission.*" }));
    let asked = world.ok(owner, "permission.request", json!({ "manifest": MANIFEST, "session": "tty" }));
    assert_eq!((&asked["status"], &asked["newly"]), (&json!("pending"), &Value::Null));
    assert_eq!(topics(&mut world, owner), ["kairo.permission.requested"]);
    // The same once more is the same request.
    let again = world.ok(owner, "permission.request", json!({ "manifest": MANIFEST, "session": "tty" }));
    assert_eq!(again["requestId"], asked["requestId"]);
    let pending = world.ok(owner, "permission.pending", json!({}))["requests"].clone();
    assert_eq!(pending.as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&pending[0]["principal"], &pending[0]["manifest"]["name"]),
        (&json!("skill:photo"), &json!("photo"))
    );
    let approval = json!({ "requestId": asked["requestId"], "scope": "always" });
    let grant = world.ok(owner, "permission.approve", approval)["grant"].clone();
    assert_eq!(topics(&mut world, owner), ["kairo.permission.approved"]);
    assert_eq!(grant["manifest"]["digest"], pending[0]["manifest"]["digest"]);

    let skill = named(&mut world, "skillId", "photo");
    world.ok(skill, "process.list", json!({}));
    assert_eq!(
        world.fails(skill, "process.spawn", json!({ "id": "x", "command": ["a"] })).0,
        "E_PERMISSION_DENIED"
    );
    world.ok(skill, "event.publish", json!({ "type": "photo.done", "data": 1 }));
    assert_eq!(
        world.fails(skill, "event.publish", json!({ "type": "other.done", "data": 1 })).0,
        "E_PERMISSION_DENIED"
    );
    world.ok(skill, "subscribe", json!({ "topic": "photo.>" }));
    assert_eq!(world.fails(skill, "subscribe", json!({ "topic": ">" })).0, "E_PERMISSION_DENIED");
    world.ok(owner, "event.publish", json!({ "type": "photo.seen", "data": 1 }));
    assert_eq!(topics(&mut world, skill), ["photo.seen"]);

    let revoked = world.ok(owner, "permission.revoke", json!({ "grant": grant["id"] }));
    assert_eq!(revoked, json!({ "revoked": [grant["id"]], "ended": [], "kept": [], "closed": 1 }));
    world.ok(owner, "event.publish", json!({ "type": "photo.seen", "data": 1 }));
    assert!(!topics(&mut world, skill).contains(&"photo.seen".to_owned()));
    // Taking back doesn't make it anybody.
    assert_eq!(world.fails(skill, "process.list", json!({})).0, "E_PERMISSION_DENIED");
    assert_eq!(world.fails(owner, "permission.revoke", json!({ "grant": grant["id"] })).0, "E_NOT_FOUND");
}

#[test]
fn a_denial_says_what_was_lacking_and_can_names_the_smallest_grant() {
    let mut world = World::new();
    let owner = world.owner();
    approved(&mut world, owner, MANIFEST, "always");
    world.ok(owner, "subscribe", json!({ "topic": "kairo.security.denied" }));
    let skill = named(&mut world, "skillId", "photo");
    world.fails(skill, "event.publish", json!({ "type": "other.done" }));
    let (_, denied) = world.events(owner).pop().expect("it is told");
    assert_eq!((&denied["permission"], &denied["resource"]), (&json!("event.publish"), &json!("other.done")));
    let can =
        world.ok(skill, "permission.can", json!({ "permission": "event.publish", "resource": "other.done" }));
    assert_eq!(can["allowed"], false);
    let smallest = json!({
        "principal": "skill:photo", "permission": "event.publish", "resource": "other.done", "scope": "once"
    });
    assert_eq!(can["smallest"], smallest);
    let mut grant = smallest;
    grant["scope"] = json!("always");
    world.ok(owner, "permission.grant", grant);
    world.ok(skill, "event.publish", json!({ "type": "other.done" }));
    let can =
        |world: &mut World, what: Value| world.ok(skill, "permission.can", what)["allowed"] == json!(true);
    assert!(can(&mut world, json!({ "permission": "file.read", "resource": "/usr/lib/x" })));
    assert!(!can(&mut world, json!({ "permission": "file.read", "resource": "/etc/passwd" })));
    assert!(
        can(&mut world, json!({ "method": "process.list" }))
            && !can(&mut world, json!({ "method": "process.kill" }))
    );
    // Of others only who decides about them is told.
    assert_eq!(
        world.fails(skill, "permission.can", json!({ "method": "process.list", "principal": "skill:x" })).0,
        "E_PERMISSION_DENIED"
    );
    assert_eq!(
        world.ok(owner, "permission.can", json!({ "method": "process.kill", "principal": "skill:photo" }))["allowed"],
        false
    );
}

#[test]
fn what_is_forbidden_stays_so_whatever_is_granted_and_whoever_is_started() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "owners");
    let skill = named(&mut world, "skillId", "meddler");
    world.run(skill, "own");
    let forbid = json!({ "principal": "skill:meddler", "permission": "process.control", "effect": "forbid" });
    let grant = world.ok(owner, "permission.grant", forbid)["grant"]["id"].clone();
    let allow = json!({ "principal": "skill:meddler", "permission": "process.control", "resource": "*" });
    world.ok(owner, "permission.grant", allow);
    assert_eq!(world.fails(skill, "process.kill", json!({ "id": "own" })).0, "E_PERMISSION_DENIED");
    // What it starts is it.
    let (_, pid) = world.run(skill, "helper");
    let child = world.child(&[pid], None);
    assert_eq!(world.ok(child, "kernel.hello", json!({}))["principal"]["skill"], "meddler");
    assert_eq!(world.fails(child, "process.kill", json!({ "id": "own" })).0, "E_PERMISSION_DENIED");
    world.ok(owner, "permission.revoke", json!({ "grant": grant }));
    // The other grant is for all processes of the user.
    world.start(skill, "process.kill", json!({ "id": "owners" }));
    assert_eq!(world.ok(skill, "process.status", json!({ "id": "own" }))["state"], "running");
}

#[test]
fn a_child_that_takes_a_name_gets_nothing_of_it() {
    let mut world = World::new();
    let owner = world.owner();
    approved(&mut world, owner, MANIFEST, "always");
    world.ok(
        owner,
        "permission.grant",
        json!({ "principal": "skill:photo", "permission": "process.read", "resource": "*" }),
    );
    world.run(owner, "owners");
    let (_, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    world.ok(child, "identify", json!({ "skillId": "photo" }));
    assert_eq!(
        world.fails(child, "process.stdout.subscribe", json!({ "pid": "owners" })).0,
        "E_PERMISSION_DENIED"
    );
    assert_eq!(world.fails(child, "identify", json!({ "agentId": "photo" })).0, "E_PERMISSION_DENIED");
    let skill = named(&mut world, "skillId", "photo");
    world.ok(skill, "process.stdout.subscribe", json!({ "pid": "owners" }));
}

#[test]
fn a_grant_for_one_use_has_one() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": "a", "permissions": [] }));
    let agent = named(&mut world, "agentId", "a");
    let once = |permission: &str, resource: Value| json!({ "principal": "agent:a", "permission": permission, "resource": resource, "scope": "once" });
    for (grant, method, params) in [
        (once("process.list", Value::Null), "process.list", json!({})),
        (once("kernel.call", json!("process.list")), "process.list", json!({})),
        (once("event.publish", json!("a.>")), "event.publish", json!({ "type": "a.b" })),
        (once("event.subscribe", json!("a.>")), "subscribe", json!({ "topic": "a.*" })),
    ] {
        assert_eq!(world.fails(agent, method, params.clone()).0, "E_PERMISSION_DENIED", "{grant}");
        world.ok(owner, "permission.grant", grant.clone());
        world.ok(agent, method, params.clone());
        assert_eq!(world.fails(agent, method, params).0, "E_PERMISSION_DENIED", "{grant}");
    }
    assert_eq!(world.ok(owner, "permission.grants", json!({}))["grants"], json!([]));
}

#[test]
fn a_grant_ends_with_its_time_its_session_and_its_intent() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": "a", "permissions": [] }));
    let session = world.ok(owner, "session.create", json!({ "agent": "a" }))["sessionId"].clone();
    let intent = world.ok(owner, "intent.begin", json!({ "name": "i" }))["intentId"].clone();
    let agent = named(&mut world, "agentId", "a");
    world.ok(owner, "subscribe", json!({ "topic": "kairo.permission.revoked" }));
    let grant = |world: &mut World, more: Value| {
        let mut grant = json!({ "principal": "agent:a", "permission": "process.list" });
        grant.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.ok(owner, "permission.grant", grant);
        world.ok(agent, "process.list", json!({}));
    };
    let over = |world: &mut World, cause: &str| {
        assert_eq!(world.fails(agent, "process.list", json!({})).0, "E_PERMISSION_DENIED", "{cause}");
        let (_, told) = world.events(owner).pop().expect("it is told");
        assert_eq!(told["cause"], cause);
    };
    grant(&mut world, json!({ "expiresInMs": 5_000 }));
    world.advance(4_999);
    world.ok(agent, "process.list", json!({}));
    world.advance(1);
    over(&mut world, "expired");
    grant(&mut world, json!({ "scope": "session", "session": session }));
    world.ok(owner, "session.end", json!({ "sessionId": session }));
    over(&mut world, "session_ended");
    grant(&mut world, json!({ "scope": "intent", "intent": intent }));
    world.ok(owner, "intent.end", json!({ "intentId": intent }));
    over(&mut world, "intent_ended");
    let late =
        json!({ "principal": "agent:a", "permission": "process.list", "scope": "intent", "intent": intent });
    assert_eq!(world.fails(owner, "permission.grant", late).0, "E_INVALID_PARAMS");
}

#[test]
fn a_request_waits_for_its_decision_as_long_as_it_says() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": "a", "permissions": [] }));
    let agent = named(&mut world, "agentId", "a");
    let wish =
        json!({ "permission": "process.list", "purpose": "to see", "waitMs": 1_000, "scope": "always" });
    let asked = world.start(agent, "permission.request", wish.clone());
    assert!(world.answer(agent, &asked).is_none());
    let id = world.ok(owner, "permission.pending", json!({}))["requests"][0]["requestId"].clone();
    // Nobody decides about itself.
    assert_eq!(world.fails(agent, "permission.approve", json!({ "requestId": id })).0, "E_PERMISSION_DENIED");
    world.ok(owner, "permission.approve", json!({ "requestId": id }));
    assert_eq!(world.answer(agent, &asked).unwrap().unwrap()["status"], "approved");
    world.ok(agent, "process.list", json!({}));
    assert_eq!(world.fails(owner, "permission.deny", json!({ "requestId": id })).0, "E_NOT_FOUND");

    let other = json!({ "permission": "process.spawn", "waitMs": 1_000 });
    let asked = world.start(agent, "permission.request", other.clone());
    world.advance(1_000);
    assert_eq!(world.answer(agent, &asked).unwrap().unwrap()["status"], "pending");
    let asked = world.start(agent, "permission.request", other);
    let id = world.ok(owner, "permission.pending", json!({}))["requests"][0]["requestId"].clone();
    world.ok(owner, "permission.deny", json!({ "requestId": id, "reason": "no" }));
    let denied = world.answer(agent, &asked).unwrap().unwrap();
    assert_eq!((&denied["status"], &denied["reason"]), (&json!("denied"), &json!("no")));
    // Whoever goes away leaves its request, and nothing that waits.
    world.start(agent, "permission.request", json!({ "permission": "process.write", "waitMs": 60_000 }));
    world.disconnect(agent);
    assert_eq!(
        world.ok(owner, "permission.pending", json!({}))["requests"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn a_policy_decides_where_nobody_is_there() {
    let mut world = policy(json!({ "rule": [
        { "name": "readers", "effect": "approve", "principal": "skill:*", "permission": "file.*", "resource": "/usr", "scope": "session" },
        { "effect": "approve", "principal": "skill:*", "permission": "kernel.call", "resource": "process.list" },
        { "effect": "approve", "principal": "skill:*", "permission": "event.*", "resource": "photo.>" },
        { "effect": "forbid", "principal": "*", "permission": "file.*", "resource": "/home/u/.ssh" },
        { "effect": "forbid", "principal": "skill:quiet", "permission": "event.publish" },
    ]}));
    let owner = world.owner();
    let asked = world.ok(owner, "permission.request", json!({ "manifest": MANIFEST, "session": "tty" }));
    assert_eq!((&asked["status"], &asked["by"]), (&json!("approved"), &json!("policy:readers")));
    assert_eq!(asked["grant"]["scope"], "session");
    // In force already, so nobody is asked again.
    let again = world.ok(owner, "permission.request", json!({ "manifest": MANIFEST, "session": "tty" }));
    assert_eq!(again["grant"]["id"], asked["grant"]["id"]);
    let nosy = MANIFEST.replace("/usr", "/home/u").replace("photo\",", "nosy\",");
    let denied = world.ok(owner, "permission.request", json!({ "manifest": nosy }));
    assert_eq!((&denied["status"], &denied["by"]), (&json!("denied"), &json!("policy:4")));
    // A rule that forbids holds at every call, whatever was granted, and not for the owner.
    let quiet = named(&mut world, "skillId", "quiet");
    world.ok(owner, "permission.grant", json!({ "principal": "skill:quiet", "permission": "event.publish" }));
    assert_eq!(world.fails(quiet, "event.publish", json!({ "type": "a" })).0, "E_PERMISSION_DENIED");
    world.ok(owner, "event.publish", json!({ "type": "a" }));
}

#[test]
fn what_children_may_is_the_policys_to_say() {
    let mut world = policy(json!({ "children": ["process.*"] }));
    let owner = world.owner();
    let (_, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    world.ok(child, "process.list", json!({}));
    world.ok(child, "kernel.ping", json!({}));
    assert_eq!(world.fails(child, "event.publish", json!({ "type": "a" })).0, "E_PERMISSION_DENIED");
}

#[test]
fn an_agent_is_known_by_the_session_it_was_started_in() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": "coder" }));
    let session =
        world.ok(owner, "session.create", json!({ "agent": "coder", "lifetimeMs": 60_000 }))["sessionId"]
            .clone();
    let options = json!({ "agentSession": session });
    let (process, pid) = world.run_with(owner, json!({ "id": "repl", "command": ["a"], "options": options }));
    let inside = world.child(&[pid], None);
    let who = world.ok(inside, "kernel.hello", json!({}))["principal"].clone();
    assert_eq!(who, json!({ "kind": "agent", "uid": OWNER, "agent": "coder" }));
    // It starts something, and finds it again as the same agent from elsewhere.
    let (_, helper) = world.run(inside, "build");
    let elsewhere = named(&mut world, "agentId", "coder");
    world.ok(elsewhere, "process.status", json!({ "id": "build" }));
    assert_eq!(world.fails(elsewhere, "process.status", json!({ "id": "repl" })).0, "E_PERMISSION_DENIED");
    // A daemonized descendant is known by its marker alone, and is the agent still.
    let life =
        world.ok(owner, "process.status", json!({ "id": "repl", "detail": true }))["detail"]["session"]
            .clone();
    let orphan = world.child(&[9_999], life.as_str());
    assert_eq!(world.ok(orphan, "kernel.hello", json!({}))["principal"]["agent"], "coder");
    let agents = world.ok(owner, "agent.list", json!({}))["agents"].clone();
    assert_eq!(agents[0]["sessions"][0]["processes"], json!(["repl", "build"]));
    // The session's time is over: what runs in it is ended, and whoever comes from it is nobody.
    world.ok(owner, "subscribe", json!({ "topic": "kairo.session.ended" }));
    world.advance(60_000);
    let (_, ended) = world.events(owner).pop().expect("it is told");
    assert_eq!((&ended["cause"], &ended["ended"]), (&json!("expired"), &json!(["repl", "build"])));
    let late = world.child(&[helper], None);
    assert_eq!(world.ok(late, "kernel.hello", json!({}))["principal"]["kind"], "nobody");
    assert_eq!(
        world
            .fails(
                owner,
                "process.spawn",
                json!({ "id": "x", "command": ["a"], "options": { "agentSession": session } })
            )
            .0,
        "E_NOT_FOUND"
    );
    world.notice(Notice::Ended { process });
}

#[test]
fn an_agents_end_is_the_end_of_its_connections() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(
        owner,
        "agent.create",
        json!({ "name": "a", "permissions": [{ "permission": "process.list" }] }),
    );
    let agent = named(&mut world, "agentId", "a");
    world.ok(agent, "process.list", json!({}));
    let removed = world.ok(owner, "agent.remove", json!({ "name": "a" }));
    assert_eq!(removed["revoked"].as_array().map(Vec::len), Some(1));
    assert!(world.closed.contains(&agent));
    let connection = world.owner();
    assert_eq!(world.fails(connection, "identify", json!({ "agentId": "a" })).0, "E_NOT_FOUND");
}

#[test]
fn users_decide_about_their_own_and_nobody_gives_what_it_hasnt_got() {
    let mut world = World::of_root();
    let (alice, bob) = (world.user(2_000), world.user(3_000));
    let asked = world.ok(alice, "permission.request", json!({ "manifest": MANIFEST }));
    let decision = json!({ "requestId": asked["requestId"], "scope": "always" });
    assert_eq!(world.ok(bob, "permission.pending", json!({}))["requests"], json!([]));
    assert_eq!(world.fails(bob, "permission.approve", decision.clone()).0, "E_PERMISSION_DENIED");
    world.ok(alice, "permission.approve", decision);
    assert_eq!(world.ok(bob, "permission.grants", json!({}))["grants"], json!([]));
    let administrate = json!({ "principal": "skill:photo", "permission": "kernel.administrate" });
    assert_eq!(world.fails(alice, "permission.grant", administrate.clone()).0, "E_PERMISSION_DENIED");
    let mut by_name = administrate;
    by_name["permission"] = json!("kernel.call");
    by_name["resource"] = json!("kernel.shutdown");
    assert_eq!(world.fails(alice, "permission.grant", by_name).0, "E_PERMISSION_DENIED");
    let greedy = json!({ "manifest": 1, "name": "greedy", "version": "1", "permissions": {
        "calls": [{ "method": "kernel.shutdown", "purpose": "to end it all" }]
    } });
    let asked = world.ok(alice, "permission.request", json!({ "manifest": greedy.to_string() }));
    let decision = json!({ "requestId": asked["requestId"], "scope": "always" });
    assert_eq!(world.fails(alice, "permission.approve", decision).0, "E_PERMISSION_DENIED");
    // A user's skill can't do what its user can't.
    let skill = world.user(2_000);
    world.ok(skill, "identify", json!({ "skillId": "photo" }));
    assert_eq!(world.fails(skill, "kernel.shutdown", json!({})).0, "E_PERMISSION_DENIED");
    // One that decides for others decides about what it was told to, and not about itself.
    world.ok(
        alice,
        "agent.create",
        json!({ "name": "boss", "permissions": [
        { "permission": "permission.decide", "resource": "skill:*" }, { "permission": "process.list" }
    ] }),
    );
    let boss = world.user(2_000);
    world.ok(boss, "identify", json!({ "agentId": "boss" }));
    world.ok(boss, "permission.grant", json!({ "principal": "skill:x", "permission": "process.list" }));
    assert_eq!(
        world
            .fails(boss, "permission.grant", json!({ "principal": "skill:x", "permission": "process.spawn" }))
            .0,
        "E_PERMISSION_DENIED"
    );
    assert_eq!(
        world
            .fails(
                boss,
                "permission.grant",
                json!({ "principal": "agent:boss", "permission": "process.list" })
            )
            .0,
        "E_PERMISSION_DENIED"
    );
    assert_eq!(
        world
            .fails(
                boss,
                "permission.grant",
                json!({ "principal": "agent:other", "permission": "process.list" })
            )
            .0,
        "E_PERMISSION_DENIED"
    );
}

#[test]
fn a_skill_runs_under_its_approval_and_ends_with_it() {
    let mut world = World::new();
    let owner = world.owner();
    let spawn = |id: &str| json!({ "id": id, "command": ["a"], "options": { "skill": { "name": "plain" } } });
    let (code, text) = world.fails(owner, "process.spawn", spawn("one"));
    assert_eq!(code, "E_PERMISSION_DENIED");
    assert!(text.contains("no manifest of it was approved"), "{text}");
    // On a machine that enforces nothing a manifest has to accept that.
    let plain = json!({ "manifest": 1, "name": "plain", "version": "1", "protections": weak() }).to_string();
    let grant = approved(&mut world, owner, &plain, "once");
    let (process, pid) = world.run_with(owner, spawn("one"));
    let inside = world.child(&[pid], None);
    assert_eq!(world.ok(inside, "kernel.hello", json!({}))["principal"]["skill"], "plain");
    // Once is once, as long as it runs.
    assert_eq!(world.fails(owner, "process.spawn", spawn("two")).0, "E_PERMISSION_DENIED");
    assert_eq!(world.ok(owner, "permission.grants", json!({}))["grants"][0]["id"], grant["id"]);
    world.notice(Notice::Exited {
        process,
        status: kairo_dataplane::control::ExitStatus::Code(0),
        usage: Default::default(),
        at_ns: 0,
    });
    world.notice(Notice::Ended { process });
    assert_eq!(world.ok(owner, "permission.grants", json!({}))["grants"], json!([]));

    let grant = approved(&mut world, owner, &plain, "always");
    world.run_with(owner, spawn("three"));
    world.run_with(owner, spawn("four"));
    let kept = world.ok(owner, "permission.revoke", json!({ "grant": grant["id"], "running": "keep" }));
    assert_eq!(kept["kept"].as_array().map(Vec::len), Some(2));
    let grant = approved(&mut world, owner, &plain, "always");
    world.run_with(owner, spawn("five"));
    let ended = world.ok(owner, "permission.revoke", json!({ "principal": "skill:plain" }));
    assert_eq!((&ended["revoked"], &ended["ended"]), (&json!([grant["id"]]), &json!(["five"])));
}

#[test]
fn another_manifest_is_another_decision_and_says_what_is_new() {
    let mut world = World::new();
    let owner = world.owner();
    let before = approved(&mut world, owner, MANIFEST, "always");
    let wider = MANIFEST.replace("photo.*", "photo.>").replace("\"version\": \"1\"", "\"version\": \"2\"");
    let asked = world.ok(owner, "permission.request", json!({ "manifest": wider }));
    assert_eq!(asked["status"], "pending");
    let newly = asked["newly"].as_array().expect("it is compared").clone();
    assert!(newly.iter().any(|line| line.as_str().unwrap().contains("photo.>")), "{newly:?}");
    let stale = json!({ "id": "x", "command": ["a"], "options": { "skill": { "name": "photo", "manifestDigest": "0".repeat(64) } } });
    assert_eq!(world.fails(owner, "process.spawn", stale).0, "E_PERMISSION_DENIED");
    world.ok(owner, "permission.approve", json!({ "requestId": asked["requestId"], "scope": "always" }));
    let grants = world.ok(owner, "permission.grants", json!({}))["grants"].clone();
    assert_eq!(grants.as_array().map(Vec::len), Some(1));
    assert_ne!(grants[0]["id"], before["id"]);
    // Another program is another decision as well.
    let program =
        |digest: &str| json!({ "manifest": wider, "program": "/bin/x", "programDigest": digest.repeat(32) });
    let asked = world.ok(owner, "permission.request", program("0a"));
    assert_eq!((&asked["status"], &asked["newly"]), (&json!("pending"), &json!([])));
    world.ok(owner, "permission.approve", json!({ "requestId": asked["requestId"], "scope": "always" }));
    assert_eq!(world.ok(owner, "permission.request", program("0a"))["status"], "approved");
    assert_eq!(world.ok(owner, "permission.request", program("0b"))["status"], "pending");
    for (wrong, field) in [
        (json!({ "manifest": MANIFEST, "programDigest": "x" }), "programDigest"),
        (json!({ "manifest": "{", "syntax": "json" }), "manifest"),
        (json!({ "manifest": MANIFEST.replace("/usr", "/usr/../x") }), "manifest.permissions.files[0].path"),
        (json!({ "permission": "x.y" }), "permission"),
        (json!({}), "manifest"),
    ] {
        let error = world.call(owner, "permission.request", wrong).unwrap_err();
        let info = error.info.unwrap();
        let details: Value = info.details.unwrap().decode().expect("a map");
        assert_eq!(details["field"], field);
    }
}

#[test]
fn a_later_kernel_has_the_grants_and_who_was_declared() {
    let mut world = World::new();
    let owner = world.owner();
    let grant = approved(&mut world, owner, MANIFEST, "always");
    world.ok(owner, "agent.create", json!({ "name": "a", "permissions": [] }));
    let session = world.ok(owner, "session.create", json!({ "agent": "a" }))["sessionId"].clone();
    let mut next = World::over(config(), world.kept);
    let owner = next.owner();
    let grants = next.ok(owner, "permission.grants", json!({}))["grants"].clone();
    assert_eq!(grants, json!([grant]));
    let skill = named(&mut next, "skillId", "photo");
    next.ok(skill, "process.list", json!({}));
    assert_eq!(
        next.fails(skill, "process.spawn", json!({ "id": "x", "command": ["a"] })).0,
        "E_PERMISSION_DENIED"
    );
    let agent = named(&mut next, "agentId", "a");
    assert_eq!(next.fails(agent, "process.list", json!({})).0, "E_PERMISSION_DENIED");
    assert_eq!(next.ok(owner, "agent.list", json!({}))["agents"][0]["sessions"][0]["sessionId"], session);
    next.ok(owner, "permission.revoke", json!({ "grant": grant["id"] }));
    let mut last = World::over(config(), next.kept);
    let owner = last.owner();
    assert_eq!(last.ok(owner, "permission.grants", json!({}))["grants"], json!([]));
    let skill = named(&mut last, "skillId", "photo");
    assert_eq!(last.fails(skill, "process.list", json!({})).0, "E_PERMISSION_DENIED");
}

#[test]
fn a_stranger_and_a_flood_of_requests_are_bounded() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": "a", "permissions": [] }));
    let agent = named(&mut world, "agentId", "a");
    for number in 0..64 {
        let wish = json!({ "permission": "event.publish", "resource": format!("a.{number}") });
        assert_eq!(world.ok(agent, "permission.request", wish)["status"], "pending");
    }
    let more = json!({ "permission": "event.publish", "resource": "b" });
    assert_eq!(world.fails(agent, "permission.request", more).0, "E_BUSY");
    let nobody = world.connect(OWNER, Lineage::Unknown);
    assert_eq!(
        world.fails(nobody, "permission.request", json!({ "permission": "process.list" })).0,
        "E_PERMISSION_DENIED"
    );
    assert_eq!(
        world.fails(owner, "permission.request", json!({ "permission": "process.list" })).0,
        "E_INVALID_PARAMS"
    );
}

/// Every protection off: the machine of these tests enforces nothing.
fn weak() -> Value {
    let off =
        |protection: &kairo_sandbox::protection::Protection| (protection.name().to_owned(), json!("off"));
    Value::Object(kairo_sandbox::protection::Protection::ALL.iter().map(off).collect())
}
