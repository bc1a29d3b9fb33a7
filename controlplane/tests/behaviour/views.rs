//! Views: what is asked of them, who may change them, how a watcher is told.

use crate::harness::{Arrival, World, code};
use crate::named::DENIED;
use kairo_dataplane::control::{ExitStatus, Notice};
use kairo_dataplane::key::ConnectionKey;
use serde_json::{Value, json};

fn counting(name: &str) -> Value {
    json!({ "definition": { "name": name, "topic": "build.*", "key": ["data.target"],
        "reducers": [{ "name": "n", "op": "count" }, { "name": "sum", "op": "sum", "path": "data.size" }] } })
}

/// Publishes, and takes the answer.
fn built(world: &mut World, by: ConnectionKey, target: &str, size: u64) {
    let event = json!({ "type": "build.done", "data": { "target": target, "size": size } });
    world.ok(by, "event.publish", event);
}

fn rows(world: &mut World, by: ConnectionKey, name: &str) -> Value {
    world.ok(by, "view.get", json!({ "name": name }))["rows"].clone()
}

/// What a watcher was told: topic, key and the row's count.
fn told(world: &mut World, connection: ConnectionKey) -> Vec<(String, Value, Value)> {
    let events = world.events(connection).into_iter().filter(|(topic, _)| topic.starts_with("view."));
    events.map(|(topic, data)| (topic, data["key"].clone(), data["row"]["value"]["n"].clone())).collect()
}

#[test]
fn a_view_is_defined_read_and_forgotten() {
    let mut world = World::new();
    let owner = world.owner();
    assert_eq!(world.fails(owner, "view.get", json!({ "name": "v" })).0, "E_NOT_FOUND");
    built(&mut world, owner, "lib", 7);
    assert_eq!(world.ok(owner, "view.define", counting("v"))["changed"], true);
    assert_eq!(world.ok(owner, "view.define", counting("v"))["changed"], false, "it is defined so already");
    built(&mut world, owner, "lib", u64::from(u32::MAX));
    built(&mut world, owner, "bin", 1);
    let rows = rows(&mut world, owner, "v");
    assert_eq!((&rows[0]["key"], &rows[0]["value"]), (&json!("bin"), &json!({ "n": 1, "sum": 1 })));
    assert_eq!(rows[1]["value"]["n"], 2, "what was before it was defined is in it");
    assert_eq!(rows[1]["value"]["sum"].as_f64(), Some(4_294_967_302.0), "in words a v1 client reads");
    let views = world.ok(owner, "view.list", json!({}))["views"].clone();
    let names: Vec<&str> = views.as_array().unwrap().iter().filter_map(|v| v["name"].as_str()).collect();
    assert_eq!(names, ["correlations", "intents", "live", "processes", "sessions", "v"]);
    assert_eq!(
        (&views[5]["lag"], &views[5]["rows"], &views[5]["builtin"]),
        (&json!(0), &json!(2), &json!(false))
    );
    assert_eq!(views[5]["definition"]["name"], "v");
    assert_eq!(world.ok(owner, "view.drop", json!({ "name": "v" }))["ok"], true);
    assert_eq!(world.ok(owner, "view.drop", json!({ "name": "v" }))["ok"], false);
    assert_eq!(world.fails(owner, "view.get", json!({ "name": "v" })).0, "E_NOT_FOUND");
}

#[test]
fn only_the_definer_and_the_owner_change_a_view() {
    let mut world = World::of_root();
    let (alice, bob, root) = (world.user(2_000), world.user(3_000), world.user(0));
    world.ok(alice, "view.define", counting("v"));
    for method in ["view.drop", "view.rebuild"] {
        assert_eq!(world.fails(bob, method, json!({ "name": "v" })).0, "E_CONFLICT");
    }
    assert_eq!(world.fails(bob, "view.define", counting("v")).0, "E_CONFLICT");
    assert_eq!(world.fails(alice, "view.rebuild", json!({ "name": "processes" })).0, "E_CONFLICT");
    assert_eq!(world.fails(root, "view.drop", json!({ "name": "processes" })).0, "E_CONFLICT");
    let shown = |world: &mut World, by| {
        let views = world.ok(by, "view.list", json!({}))["views"].clone();
        views.as_array().unwrap().iter().any(|view| view["name"] == "v" && view.get("definition").is_some())
    };
    assert!(shown(&mut world, alice) && shown(&mut world, root) && !shown(&mut world, bob));
    assert_eq!(world.ok(root, "view.rebuild", json!({ "name": "v" }))["ok"], true);
    assert_eq!(world.ok(alice, "view.drop", json!({ "name": "v" }))["ok"], true);
}

#[test]
fn a_view_is_stored_and_a_rebuilt_one_equals_it() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "view.define", counting("v"));
    for round in 0..20 {
        built(&mut world, owner, ["lib", "bin", "doc"][round % 3], round as u64);
    }
    let (process, _) = world.run(owner, "p");
    world.finish(process, 3);
    let names = ["correlations", "live", "processes", "sessions", "v"];
    let all = |world: &mut World| names.map(|name| rows(world, owner, name));
    let before = all(&mut world);
    world.store_views();
    assert_eq!(all(&mut world), before, "as it was stored");
    built(&mut world, owner, "doc", 1);
    let after = all(&mut world);
    assert_ne!(after[4], before[4], "it goes on");
    for name in names {
        world.ok(owner, "view.rebuild", json!({ "name": name }));
    }
    // The calls themselves are events, which only the stories show.
    assert_eq!(all(&mut world)[1..], after[1..]);
}

#[test]
fn a_watcher_is_told_each_change_and_no_more_after_the_end() {
    let mut world = World::new();
    let (owner, watcher) = (world.owner(), world.owner());
    world.ok(owner, "view.define", counting("v"));
    assert_eq!(world.fails(watcher, "view.watch", json!({ "name": "w" })).0, "E_NOT_FOUND");
    let all = world.ok(watcher, "view.watch", json!({ "name": "v" }))["subscriptionId"].clone();
    built(&mut world, owner, "lib", 1);
    built(&mut world, owner, "lib", 1);
    built(&mut world, owner, "bin", 1);
    let changed = |key: &str, n: u64| ("view.changed".to_owned(), json!(key), json!(n));
    assert_eq!(told(&mut world, watcher), [changed("lib", 1), changed("lib", 2), changed("bin", 1)]);
    assert_eq!(world.ok(watcher, "unsubscribe", json!({ "subscriptionId": all }))["ok"], true);
    let one = world.ok(watcher, "view.watch", json!({ "name": "v", "key": "bin", "since": 0 }));
    assert_eq!(told(&mut world, watcher), [changed("bin", 1)], "from the beginning");
    built(&mut world, owner, "lib", 1);
    built(&mut world, owner, "bin", 1);
    assert_eq!(told(&mut world, watcher), [changed("bin", 2)]);
    world.ok(owner, "view.rebuild", json!({ "name": "v" }));
    assert_eq!(told(&mut world, watcher)[0].0, "view.reset", "it is to be read again");
    built(&mut world, owner, "bin", 1);
    assert_eq!(told(&mut world, watcher), [changed("bin", 3)]);
    world.ok(owner, "view.drop", json!({ "name": "v" }));
    assert_eq!(told(&mut world, watcher).first().map(|told| told.0.as_str()), Some("view.reset"));
    let id = json!({ "subscriptionId": one["subscriptionId"] });
    assert_eq!(world.ok(watcher, "unsubscribe", id)["ok"], false, "it has ended");
}

#[test]
fn who_reads_changes_waits_for_one_and_no_longer_than_it_wants() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "view.define", counting("v"));
    built(&mut world, owner, "lib", 1);
    let now = world.ok(owner, "view.changes", json!({ "name": "v" }));
    assert_eq!(now["rows"][0]["key"], "lib");
    let since = |wait_ms: u64, now: &Value| json!({ "name": "v", "since": now["seq"], "waitMs": wait_ms });
    let waits = world.start(owner, "view.changes", since(500, &now));
    assert!(world.answer(owner, &waits).is_none(), "there is none yet");
    built(&mut world, owner, "bin", 1);
    let next = world.answer(owner, &waits).expect("there is one").expect("it is told");
    assert_eq!((&next["rows"][0]["key"], next["rows"].as_array().unwrap().len()), (&json!("bin"), 1));
    let waits = world.start(owner, "view.changes", since(500, &next));
    world.advance(499);
    assert!(world.answer(owner, &waits).is_none());
    world.advance(1);
    let none = world.answer(owner, &waits).expect("it has waited enough").expect("there is none");
    assert_eq!((&none["rows"], &none["seq"]), (&json!([]), &next["seq"]));
    let given_up = world.start(owner, "view.changes", since(500, &next));
    world.ok(owner, "kernel.cancel", json!({ "id": given_up }));
    let begun_again = world.start(owner, "view.changes", since(500, &next));
    world.ok(owner, "view.rebuild", json!({ "name": "v" }));
    let reset = world.answer(owner, &begun_again).expect("it is answered").expect("it is told");
    assert_eq!(reset["reset"], true);
    built(&mut world, owner, "lib", 1);
    assert_eq!(code(&world.answer(owner, &given_up).unwrap().unwrap_err()).0, "E_CANCELLED");
    assert!(world.answer(owner, &given_up).is_none(), "once");
    assert_eq!(world.timers.len(), 0);
}

#[test]
fn a_slow_watcher_is_told_the_last_state_and_holds_up_nobody() {
    let mut world = World::new();
    let (owner, watcher) = (world.owner(), world.owner());
    world.ok(owner, "view.define", counting("v"));
    world.ok(watcher, "view.watch", json!({ "name": "v" }));
    world.reads = false;
    for round in 0..10_000 {
        built(&mut world, owner, &format!("{}{}", "target".repeat(60), round % 8), 1);
    }
    world.reads = true;
    let unread = told(&mut world, watcher).len();
    assert!(unread < 2_000, "{unread} changes lay there");
    world.sent_at_last();
    let rest = told(&mut world, watcher);
    assert_eq!(rest.len(), 8, "each key once");
    assert!(rest.iter().all(|(_, _, n)| *n == 1_250), "{rest:?}");
}

#[test]
fn whoever_leaves_is_told_nothing_and_leaves_nothing() {
    let mut world = World::new();
    let owner = world.owner();
    let watcher = world.owner();
    world.ok(watcher, "view.watch", json!({ "name": "processes" }));
    world.disconnect(watcher);
    assert_eq!(world.kernel.census()[3], 0);
    let half = world.owner();
    let id = world.ok(half, "view.watch", json!({ "name": "live" }))["subscriptionId"].clone();
    world.notice(Notice::HalfClosed { connection: half });
    world.run(owner, "p");
    let inbox = &world.inboxes[&half];
    let is_change =
        |arrival: &&Arrival| matches!(arrival, Arrival::Event(topic, ..) if topic == "view.changed");
    assert_eq!(inbox.iter().filter(is_change).count(), 3, "a process and its outputs: {inbox:?}");
    assert!(!world.closed.contains(&half), "who watches is not over");
    world.ok(owner, "unsubscribe", json!({ "subscriptionId": id }));
    assert!(world.closed.contains(&half));
}

#[test]
fn an_event_that_cant_be_digested_is_counted_and_the_rest_goes_on() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "view.define", counting("v"));
    built(&mut world, owner, "lib", 1);
    world.ok(owner, "event.publish", json!({ "type": "build.done", "data": { "size": 1 } }));
    world.ok(owner, "event.publish", json!({ "type": "build.done", "data": 7 }));
    built(&mut world, owner, "lib", 1);
    let views = world.ok(owner, "view.list", json!({}))["views"].clone();
    let view = &views[5];
    assert_eq!((&view["events"], &view["skipped"], &view["lag"]), (&json!(2), &json!(2), &json!(0)));
    assert_eq!(view["skips"].as_array().unwrap().len(), 2);
    assert_eq!(rows(&mut world, owner, "v")[0]["value"]["n"], 2);
}

#[test]
fn the_outputs_of_a_terminal_are_one() {
    let mut world = World::new();
    let owner = world.owner();
    let spawn = json!({ "id": "t", "command": ["a"], "options": { "pty": { "rows": 24, "cols": 80 } } });
    let (process, _) = world.run_with(owner, spawn);
    let live = rows(&mut world, owner, "live");
    let kinds: Vec<&str> =
        live.as_array().unwrap().iter().filter_map(|row| row["value"]["kind"].as_str()).collect();
    assert_eq!(kinds, ["process", "stream"]);
    world.exits(process, ExitStatus::Code(0));
    assert_eq!(rows(&mut world, owner, "live").as_array().unwrap().len(), 1);
}

/// Somebody who may read and define views, and hear what is granted to it.
fn reader(world: &mut World, topics: &[&str]) -> ConnectionKey {
    let mut permissions = vec![json!({ "permission": "view.read" }), json!({ "permission": "view.define" })];
    permissions.extend(topics.iter().map(|of| json!({ "permission": "event.subscribe", "resource": of })));
    let reader = world.owner();
    world.ok(reader, "agent.create", json!({ "name": "reader", "permissions": permissions }));
    world.ok(reader, "identify", json!({ "agentId": "reader" }));
    reader
}

#[test]
fn nobody_sees_by_a_view_what_it_may_not_subscribe_to() {
    let mut world = World::new();
    let owner = world.owner();
    let reader = reader(&mut world, &["build.>", "kairo.process.>"]);
    let secret = |name: &str| json!({ "definition": { "name": name, "topic": "secret.*", "reducers": [{ "name": "n", "op": "count" }] } });
    world.ok(owner, "view.define", counting("open"));
    world.ok(owner, "view.define", secret("closed"));
    built(&mut world, owner, "lib", 7);
    world.ok(owner, "event.publish", json!({ "type": "secret.plan" }));
    assert_eq!(rows(&mut world, reader, "open")[0]["value"]["n"], 1);
    let all = json!({ "definition": { "name": "all", "topic": ">", "reducers": [{ "name": "n", "op": "count" }] } });
    for (method, params) in [
        ("view.get", json!({ "name": "closed" })),
        ("view.changes", json!({ "name": "closed" })),
        ("view.changes", json!({ "name": "closed", "since": 1_000, "waitMs": 60_000 })),
        ("view.watch", json!({ "name": "closed" })),
        ("view.define", secret("mine")),
        ("view.define", all),
        // Outputs' ends are events of other types.
        ("view.get", json!({ "name": "processes" })),
        ("view.get", json!({ "name": "correlations" })),
    ] {
        assert_eq!(world.fails(reader, method, params.clone()).0, DENIED, "{method} {params}");
    }
    world.ok(reader, "view.define", counting("own"));
    let names = |world: &mut World, by| -> Vec<String> {
        let views = world.ok(by, "view.list", json!({}))["views"].clone();
        views.as_array().unwrap().iter().map(|view| view["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&mut world, reader), ["open", "own"]);
    assert_eq!(names(&mut world, owner).len(), 8);
    // Whatever it defined before is no way to hear what it may not any more.
    world.ok(
        owner,
        "agent.create",
        json!({ "name": "reader", "permissions": [{ "permission": "view.read" }] }),
    );
    assert_eq!(world.fails(reader, "view.get", json!({ "name": "own" })).0, DENIED);
}

#[test]
fn a_built_in_view_is_read_by_whoever_may_hear_what_it_is_made_of() {
    let mut world = World::new();
    let owner = world.owner();
    let reader = reader(&mut world, &["kairo.process.>", "kairo.stream.closed"]);
    world.run(owner, "p");
    assert_eq!(rows(&mut world, reader, "processes"), json!([]), "they are the owner's");
    for name in ["live", "intents", "correlations"] {
        assert_eq!(world.fails(reader, "view.get", json!({ "name": name })).0, "E_PERMISSION_DENIED");
    }
}

#[test]
fn a_watcher_is_told_nothing_of_a_view_that_becomes_another() {
    let mut world = World::new();
    let owner = world.owner();
    let reader = reader(&mut world, &["build.>"]);
    world.ok(owner, "view.define", counting("v"));
    world.ok(reader, "view.watch", json!({ "name": "v" }));
    built(&mut world, owner, "lib", 1);
    assert_eq!(told(&mut world, reader).len(), 1);
    let seq = world.ok(reader, "view.get", json!({ "name": "v" }))["seq"].clone();
    let waits = world.start(reader, "view.changes", json!({ "name": "v", "since": seq, "waitMs": 60_000 }));
    assert!(world.answer(reader, &waits).is_none());
    let secret = json!({ "definition": { "name": "v", "topic": "secret.*", "key": ["data.target"],
        "reducers": [{ "name": "n", "op": "count" }] } });
    world.ok(owner, "view.define", secret);
    world.ok(owner, "event.publish", json!({ "type": "secret.plan", "data": { "target": "x" } }));
    assert!(told(&mut world, reader).iter().all(|(topic, key, _)| topic == "view.reset" && key.is_null()));
    let answer = world.answer(reader, &waits).expect("it is answered");
    assert_eq!(code(&answer.unwrap_err()).0, "E_PERMISSION_DENIED");
}
