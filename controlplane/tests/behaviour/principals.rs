//! Who may do what: by uid, by place under the keeper, by what was given up.

use crate::harness::{OWNER, World};
use kairo_dataplane::control::{ExitStatus, Lineage, Notice};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::method::METHODS;
use kairo_wire::permission::{PERMISSIONS, PermissionScope};
use serde_json::{Value, json};

fn who(world: &mut World, connection: ConnectionKey) -> Value {
    world.ok(connection, "kernel.hello", json!({}))["principal"].clone()
}

#[test]
fn a_peer_is_who_the_system_says_it_is() {
    let mut world = World::new();
    let owner = world.owner();
    let (_, pid) = world.run(owner, "p");
    let session =
        world.ok(owner, "process.status", json!({ "id": "p", "detail": true }))["detail"]["session"].clone();
    let skill = json!({ "kind": "skill", "uid": OWNER, "skill": session });
    let nobody = json!({ "kind": "nobody", "uid": OWNER });
    let session = session.as_str().unwrap();
    for (lineage, expected) in [
        (Lineage::Outside, json!({ "kind": "owner", "uid": OWNER })),
        (Lineage::Unknown, nobody.clone()),
        (Lineage::Child { ancestors: vec![900, 800, pid], session: None }, skill.clone()),
        // A marker of somebody else is not heard where the ancestors say better.
        (
            Lineage::Child { ancestors: vec![900, pid], session: Some("0123456789abcdef".to_owned()) },
            skill.clone(),
        ),
        // An orphan is known by its marker alone.
        (Lineage::Child { ancestors: vec![900], session: Some(session.to_owned()) }, skill.clone()),
        (
            Lineage::Child { ancestors: vec![900], session: Some("0123456789abcdef".to_owned()) },
            nobody.clone(),
        ),
        (Lineage::Child { ancestors: vec![900], session: None }, nobody.clone()),
    ] {
        let connection = world.connect(OWNER, lineage.clone());
        assert_eq!(who(&mut world, connection), expected, "{lineage:?}");
    }
    let other = world.user(2_000);
    assert_eq!(who(&mut world, other), json!({ "kind": "user", "uid": 2_000 }));
    // Root is nobody special to a user's daemon.
    let root = world.user(0);
    assert_eq!(who(&mut world, root), json!({ "kind": "user", "uid": 0 }));
}

#[test]
fn the_nearest_session_counts_and_only_a_living_leader_is_one() {
    let mut world = World::new();
    let owner = world.owner();
    let (outer, outer_pid) = world.run(owner, "outer");
    let (_, inner_pid) = world.run(owner, "inner");
    let session = |world: &mut World, id: &str| {
        world.ok(owner, "process.status", json!({ "id": id, "detail": true }))["detail"]["session"].clone()
    };
    let (outer_session, inner_session) = (session(&mut world, "outer"), session(&mut world, "inner"));
    let nested = world.child(&[7, inner_pid, outer_pid], None);
    assert_eq!(who(&mut world, nested)["skill"], inner_session);
    world.exits(outer, ExitStatus::Code(0));
    // Its pid may be somebody else's by now; the marker still names the tree, as long as there is one.
    let orphan = world.child(&[7, outer_pid], outer_session.as_str());
    assert_eq!(who(&mut world, orphan)["skill"], outer_session);
    let stranger = world.child(&[7, outer_pid], None);
    assert_eq!(who(&mut world, stranger)["kind"], "nobody");
    world.notice(Notice::Ended { process: outer });
    let ghost = world.child(&[7], outer_session.as_str());
    assert_eq!(who(&mut world, ghost)["kind"], "nobody");
}

#[test]
fn a_marker_of_another_users_session_is_not_believed() {
    let mut world = World::of_root();
    let alice = world.user(2_000);
    world.run(alice, "p");
    let session =
        world.ok(alice, "process.status", json!({ "id": "p", "detail": true }))["detail"]["session"].clone();
    let lineage = Lineage::Child { ancestors: vec![7], session: session.as_str().map(str::to_owned) };
    let bob = world.connect(3_000, lineage.clone());
    assert_eq!(who(&mut world, bob)["kind"], "nobody");
    let own = world.connect(2_000, lineage);
    assert_eq!(who(&mut world, own), json!({ "kind": "skill", "uid": 2_000, "skill": session }));
}

#[test]
fn a_child_touches_what_it_started_and_not_itself() {
    let mut world = World::new();
    let owner = world.owner();
    let (_, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    let (code, text) = world.fails(child, "process.kill", json!({ "id": "p" }));
    assert_eq!((code.as_str(), text.as_str()), ("E_PERMISSION_DENIED", "权限拒绝: process.kill 对进程 p"));
    world.run(child, "mine");
    world.ok(child, "process.status", json!({ "id": "mine" }));
    assert_eq!(world.ok(child, "process.list", json!({}))["processes"].as_array().unwrap().len(), 1);
    // The owner sees both.
    assert_eq!(world.ok(owner, "process.list", json!({}))["processes"].as_array().unwrap().len(), 2);
}

#[test]
fn every_method_that_names_a_process_checks_whose_it_is() {
    let mut world = World::of_root();
    let (alice, bob) = (world.user(2_000), world.user(3_000));
    world.run_with(alice, json!({ "id": "p", "command": ["a"], "options": { "pty": true } }));
    for row in METHODS {
        let scope = PERMISSIONS.iter().find(|p| p.permission == row.permission).unwrap().scope;
        let of_a_subscription =
            ["process.stdout.unsubscribe", "stream.close", "subscription.configure"].contains(&row.name);
        // Of pipelines `pipelines` tells, which it takes one for.
        let of_a_pipeline = row.name.starts_with("pipeline.");
        if scope != PermissionScope::Process || of_a_subscription || of_a_pipeline {
            continue;
        }
        let params = json!({ "id": "p", "pid": "p", "signal": 1, "data": "x", "rows": 9, "cols": 9 });
        for _ in 0..2 {
            let (code, text) = world.fails(bob, row.name, params.clone());
            assert_eq!(code, "E_PERMISSION_DENIED", "{}", row.name);
            assert_eq!(text, format!("权限拒绝: {} 对进程 p", row.name));
        }
        world.start(alice, row.name, params);
    }
}

/// Everybody there can be before the kernel, with what the only denial is for: want of the permission.
const EVERYBODY: [&str; 9] = [
    "owner",
    "user",
    "agent",
    "agent that may nothing",
    "agent that may list",
    "skill by name",
    "skill whose manifest was approved",
    "child",
    "nobody",
];

/// A root kernel and a connection of this kind.
fn somebody(kind: &str) -> (World, ConnectionKey) {
    let mut world = World::of_root();
    let root = world.user(0);
    let (_, pid) = world.run(root, "leader");
    let caller = match kind {
        "owner" => root,
        "user" => world.user(2_000),
        "child" => world.connect(0, Lineage::Child { ancestors: vec![pid], session: None }),
        "nobody" => world.connect(0, Lineage::Unknown),
        named => {
            let caller = world.user(0);
            match named {
                "agent" => drop(world.ok(root, "agent.create", json!({ "name": "a" }))),
                "agent that may nothing" => {
                    drop(world.ok(root, "agent.create", json!({ "name": "a", "permissions": [] })));
                }
                "agent that may list" => {
                    let permissions = json!([
                        { "permission": "process.list" },
                        { "permission": "kernel.call", "resource": "event.log_status" },
                        { "permission": "kernel.call", "resource": "kernel.*" },
                        { "permission": "kernel.call", "resource": "kernel.shutdown" },
                    ]);
                    drop(world.ok(root, "agent.create", json!({ "name": "a", "permissions": permissions })));
                }
                "skill whose manifest was approved" => {
                    let manifest = json!({ "manifest": 1, "name": "s", "version": "1" }).to_string();
                    let asked = world.ok(root, "permission.request", json!({ "manifest": manifest }));
                    let approval = json!({ "requestId": asked["requestId"], "scope": "always" });
                    drop(world.ok(root, "permission.approve", approval));
                }
                _ => {}
            }
            let identity = if named.starts_with("agent") { "agentId" } else { "skillId" };
            let name = if named.starts_with("agent") { "a" } else { "s" };
            world.ok(caller, "identify", json!({ identity: name }));
            caller
        }
    };
    (world, caller)
}

#[test]
fn every_method_asks_for_its_permission_of_every_principal() {
    // Who holds what, written down a second time, by hand.
    let open_to_nobody = ["kernel.hello", "kernel.ping", "kernel.introspect", "kernel.cancel", "identify"];
    let of_the_administrator = [
        "kernel.shutdown",
        "event.compact",
        "audit.query",
        "audit.status",
        "audit.verify",
        "audit.export",
        "audit.checkpoint",
        "audit.prune",
    ];
    let of_users = [
        "permission.approve",
        "permission.deny",
        "permission.grant",
        "permission.revoke",
        "agent.create",
        "agent.remove",
        "session.create",
        "session.end",
        "stream.publish",
    ];
    // Even whoever may nothing can ask for more.
    let always =
        ["permission.request", "permission.can", "permission.pending", "permission.grants", "agent.list"];
    for row in METHODS {
        for kind in EVERYBODY {
            let (mut world, caller) = somebody(kind);
            let name = row.name;
            let usual = !of_the_administrator.contains(&name) && !of_users.contains(&name);
            let declared = open_to_nobody.contains(&name) || always.contains(&name);
            let may = match kind {
                "owner" => true,
                "user" => !of_the_administrator.contains(&name),
                "nobody" => open_to_nobody.contains(&name),
                "agent that may nothing" | "skill whose manifest was approved" => declared,
                // What only the administrator may is reached by its whole name, and by no pattern.
                "agent that may list" => {
                    declared
                        || ["process.list", "pipeline.list", "kernel.shutdown", "event.log_status"]
                            .contains(&name)
                        || name == "kernel.doctor"
                }
                _ => usual,
            };
            // With parameters that name nothing there is, the only denial is for want of the permission.
            let mut params = json!({
                "id": "none", "pid": "none", "command": ["a"], "signal": 1, "data": "x", "rows": 9, "cols": 9,
                "topic": ">", "subscriptionId": "none", "token": "t", "handle": "h", "client": "c", "name": "n",
                "permission": "process.list", "requestId": "none", "grant": "none", "principal": "skill:other",
                "agent": "n", "sessionId": "none",
            });
            if name == "permission.can" {
                // About somebody else it takes more.
                params["principal"] = Value::Null;
            }
            let call = world.start(caller, name, params);
            let denied = match world.answer(caller, &call) {
                Some(Err(error)) => error.info.unwrap().code == "E_PERMISSION_DENIED",
                Some(Ok(_)) | None => false,
            };
            assert_eq!(denied, !may, "{name} by {kind}");
        }
    }
}

#[test]
fn identify_lowers_for_the_life_of_the_connection() {
    let mut world = World::new();
    let (one, two) = (world.owner(), world.owner());
    world.run(one, "owners");
    for connection in [one, two] {
        assert_eq!(world.ok(connection, "identify", json!({ "pid": 7 })), json!({ "status": "identified" }));
        assert_eq!(who(&mut world, connection)["kind"], "owner");
    }
    let lowered = json!({ "skillId": "a", "runtimeToken": "rt_x" });
    assert_eq!(world.ok(one, "identify", lowered.clone()), json!({ "status": "identified" }));
    assert_eq!(who(&mut world, one), json!({ "kind": "skill", "uid": OWNER, "skill": "a" }));
    // Not back, not sideways.
    assert_eq!(world.ok(one, "identify", json!({})), json!({ "status": "identified" }));
    assert_eq!(world.ok(one, "identify", lowered), json!({ "status": "identified" }));
    assert_eq!(world.fails(one, "identify", json!({ "skillId": "b" })).0, "E_CONFLICT");
    assert_eq!(world.fails(one, "process.status", json!({ "id": "owners" })).0, "E_PERMISSION_DENIED");
    world.run(one, "a's");
    world.ok(two, "identify", json!({ "skillId": "a" }));
    world.ok(two, "process.status", json!({ "id": "a's" }));
    let three = world.owner();
    world.ok(three, "identify", json!({ "skillId": "b" }));
    assert_eq!(world.fails(three, "process.status", json!({ "id": "a's" })).0, "E_PERMISSION_DENIED");
}

#[test]
fn a_child_that_calls_itself_something_gains_nothing() {
    let mut world = World::new();
    let owner = world.owner();
    let skill = world.owner();
    world.ok(skill, "identify", json!({ "skillId": "a" }));
    world.run(skill, "a's");
    let (_, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    world.ok(child, "identify", json!({ "skillId": "a" }));
    assert_eq!(world.fails(child, "process.kill", json!({ "id": "a's" })).0, "E_PERMISSION_DENIED");
    let stranger = world.connect(OWNER, Lineage::Unknown);
    world.ok(stranger, "identify", json!({ "skillId": "a" }));
    assert_eq!(world.fails(stranger, "process.kill", json!({ "id": "a's" })).0, "E_PERMISSION_DENIED");
}

#[test]
fn what_one_may_no_longer_see_one_no_longer_reads() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    world.ok(owner, "process.stdout.subscribe", json!({ "pid": "p" }));
    let subscription = world.take_subscribe().unwrap().subscription;
    world.ok(owner, "identify", json!({ "skillId": "s" }));
    assert_eq!(world.take_unsubscribe(), Some(subscription));
    assert_eq!(
        world.fails(owner, "process.stdout.subscribe", json!({ "pid": "p" })).0,
        "E_PERMISSION_DENIED"
    );
}

#[test]
fn a_wait_for_a_spawn_does_not_show_another_users_process() {
    let mut world = World::of_root();
    let (alice, bob) = (world.user(2_000), world.user(3_000));
    world.ok(bob, "process.stdout.subscribe", json!({ "pid": "p" }));
    world.run(alice, "p");
    assert!(world.take_subscribe().is_none());
    assert_eq!(world.fails(bob, "process.stdout.subscribe", json!({ "pid": "p" })).0, "E_PERMISSION_DENIED");
}
