//! Quotas: each refused by its name and free again, counted for whom it belongs to, told.

use crate::harness::{Arrival, OWNER, World, config};
use kairo_controlplane::config::Config;
use kairo_controlplane::quotas::bounds::{Rule, Rules};
use kairo_dataplane::command::{Command, Commands, Spawn};
use kairo_dataplane::control::{
    ExitStatus, Lineage, Notice, Outcome, SpawnFailure, SpawnStage, StreamEnd, Usage,
};
use kairo_dataplane::keeper::settlement::Heir;
use kairo_dataplane::keeper::successor::HeldInlet;
use kairo_dataplane::key::{Channel, ConnectionKey, ProcessKey};
use kairo_wire::frame::Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PROCESSES: usize = 0;
const BYTES: usize = 1;
const CONNECTIONS: usize = 2;
const SUBSCRIPTIONS: usize = 3;
const EVENTS: usize = 4;
const SPOOL: usize = 5;

/// A world whose principals have these bounds: who, which, how much.
fn world(bounds: &[(&str, usize, u64)]) -> World {
    World::with(Config { quotas: rules(bounds), ..config() })
}

fn rules(bounds: &[(&str, usize, u64)]) -> Rules {
    let mut rules = Rules::default();
    rules.extend(bounds.iter().map(|(principal, place, bound)| {
        let mut bounds = [None; 6];
        bounds[*place] = Some(*bound);
        Rule { principal: (*principal).to_owned(), bounds }
    }));
    rules
}

fn skill(world: &mut World, name: &str) -> ConnectionKey {
    let connection = world.owner();
    world.ok(connection, "identify", json!({ "skillId": name }));
    connection
}

/// What the owner is told of one: (used, limit, peak, refused) by quota.
fn account(world: &mut World, name: &str) -> Option<Vec<[u64; 4]>> {
    let owner = world.owner();
    let answer = world.call(owner, "quota.status", json!({ "principal": name }));
    world.disconnect(owner);
    let account = answer.ok()?["accounts"][0].clone();
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap_or_default();
    let quotas = account["quotas"].as_array()?.iter();
    Some(quotas.map(|of| ["used", "limit", "peak", "refused"].map(|name| number(of, name))).collect())
}

fn used(world: &mut World, name: &str, quota: usize) -> u64 {
    account(world, name).map_or(0, |account| account[quota][0])
}

/// The details of a refusal, which must be one for want of room.
fn refused(world: &mut World, connection: ConnectionKey, method: &str, params: Value) -> Value {
    let error = world.call(connection, method, params).expect_err(method);
    let info = error.info.expect("every failure has an errorInfo");
    assert_eq!((info.code.as_str(), info.retryable), ("E_QUOTA_EXCEEDED", true), "{method}");
    let details = kairo_wire::json::to_value(info.details.expect("details").as_ref()).unwrap();
    for word in [&details["principal"], &details["quota"]] {
        assert!(error.text.contains(word.as_str().unwrap()), "{}", error.text);
    }
    details
}

fn over(quota: &str, principal: &str, limit: u64, used: u64) -> Value {
    json!({ "quota": quota, "principal": principal, "limit": limit, "used": used })
}

fn spawn(id: &str) -> Value {
    json!({ "id": id, "command": ["a"] })
}

#[test]
fn a_tree_counts_until_it_is_gone_and_fails_for_nothing() {
    let mut world = world(&[("skill:x", PROCESSES, 2)]);
    let x = skill(&mut world, "x");
    let (one, _) = world.run(x, "one");
    world.start(x, "process.spawn", spawn("two"));
    let two = world.take_spawn().unwrap().process;
    // One that is being started counts.
    assert_eq!(refused(&mut world, x, "process.spawn", spawn("three")), over("processes", "skill:x", 2, 2));
    let failure = SpawnFailure { stage: SpawnStage::Exec, errno: 2 };
    world.notice(Notice::SpawnFailed { process: two, failure });
    world.run(x, "three");
    // A leader that is gone leaves its tree.
    world.exits(one, ExitStatus::Code(0));
    world.closes(one);
    refused(&mut world, x, "process.spawn", spawn("four"));
    world.notice(Notice::Ended { process: one });
    world.run(x, "one");
    refused(&mut world, x, "process.spawn", spawn("four"));
    // Others go on.
    let (y, owner) = (skill(&mut world, "y"), world.owner());
    world.run(y, "ys");
    world.run(owner, "owners");
    let told = account(&mut world, "skill:x").unwrap()[PROCESSES];
    assert_eq!(told, [2, 2, 2, 3]);
    assert_eq!(used(&mut world, "owner", PROCESSES), 4);
    // It outlives the connection of whoever started it.
    world.disconnect(x);
    assert_eq!(used(&mut world, "skill:x", PROCESSES), 2);
}

#[test]
fn what_will_be_started_again_is_no_room_for_others() {
    let mut world = world(&[("skill:x", PROCESSES, 1)]);
    let x = skill(&mut world, "x");
    let restart = json!({ "policy": "always", "backoffMs": 100 });
    let (process, _) =
        world.run_with(x, json!({ "id": "p", "command": ["a"], "options": { "restart": restart } }));
    world.finish(process, 1);
    assert_eq!(used(&mut world, "skill:x", PROCESSES), 1);
    refused(&mut world, x, "process.spawn", spawn("q"));
    // But for another life of its own.
    let again = json!({ "id": "p", "command": ["a"], "options": { "restart": restart } });
    let (process, _) = world.run_with(x, again);
    assert_eq!(used(&mut world, "skill:x", PROCESSES), 1);
    world.finish(process, 1);
    refused(&mut world, x, "process.spawn", spawn("q"));
    world.advance(100);
    let (process, _) = world.born();
    assert_eq!(used(&mut world, "skill:x", PROCESSES), 1);
    world.start(x, "process.kill", json!({ "id": "p" }));
    world.finish(process, 1);
    world.run(x, "q");
}

#[test]
fn who_waits_for_an_id_is_refused_when_it_is_free_and_there_is_no_room() {
    let mut world = world(&[("skill:x", PROCESSES, 1)]);
    let (x, other) = (skill(&mut world, "x"), skill(&mut world, "x"));
    let (process, _) = world.run(x, "p");
    world.exits(process, ExitStatus::Code(0));
    let heirs =
        [world.start(x, "process.spawn", spawn("p")), world.start(other, "process.spawn", spawn("p"))];
    world.closes(process);
    world.notice(Notice::Ended { process });
    world.born();
    assert!(world.answer(x, &heirs[0]).unwrap().is_ok());
    assert!(world.answer(other, &heirs[1]).unwrap().is_err());
    assert_eq!(used(&mut world, "skill:x", PROCESSES), 1);
}

#[test]
fn bytes_for_a_stdin_and_events_unread_count_together_and_until_they_are_gone() {
    let mut world = world(&[("skill:x", BYTES, 1_000)]);
    let (x, other) = (skill(&mut world, "x"), skill(&mut world, "x"));
    let (_, pid) = world.run(x, "p");
    assert!(pid > 0);
    let write = |bytes: usize| json!({ "id": "p", "data": "y".repeat(bytes) });
    let call = world.start(x, "process.stdin.write", write(900));
    let expected = over("bytesInFlight", "skill:x", 1_000, 900);
    assert_eq!(refused(&mut world, other, "process.stdin.write", write(101)), expected);
    let ticket = world.take(|command| match command {
        Command::Write { ticket, .. } => Some(*ticket),
        _ => None,
    });
    world.done(ticket.unwrap(), Ok(Outcome::Written { offset: 900 }));
    world.answer(x, &call).unwrap().unwrap();
    assert_eq!(used(&mut world, "skill:x", BYTES), 0);
    // Events that one connection doesn't read.
    world.ok(other, "subscribe", json!({ "topic": "job.*" }));
    world.unread.insert(other);
    for nth in 0..20 {
        world.ok(
            x,
            "event.publish",
            json!({ "type": "job.do", "data": "z".repeat(100), "source": format!("{nth}") }),
        );
    }
    let unread = used(&mut world, "skill:x", BYTES);
    assert!((1_000..1_400).contains(&unread), "the rest waits in the log: {unread}");
    let came = |world: &World| {
        let inbox = world.inboxes.get(&other).map_or(&[][..], |inbox| inbox);
        inbox.iter().filter(|arrival| matches!(arrival, Arrival::Event(..))).count()
    };
    let some = came(&world);
    assert!(some < 20);
    assert_eq!(refused(&mut world, x, "process.stdin.write", write(1))["used"], unread);
    // Whoever has nothing unread gets its events all the same, one at a time.
    let y = skill(&mut world, "y");
    world.ok(y, "event.publish", json!({ "type": "job.do" }));
    world.unread.clear();
    world.notice(Notice::NewsSent { connection: other, bytes: unread as usize });
    assert_eq!(came(&world), 21);
    assert_eq!(used(&mut world, "skill:x", BYTES), 0);
    world.unread.insert(other);
    world.ok(x, "event.publish", json!({ "type": "job.do" }));
    assert!(used(&mut world, "skill:x", BYTES) > 0);
    world.disconnect(other);
    assert_eq!(used(&mut world, "skill:x", BYTES), 0);
}

#[test]
fn the_connection_too_many_learns_why_and_the_owner_always_comes_in() {
    let mut world = world(&[("user:2000", CONNECTIONS, 2), ("owner", CONNECTIONS, 1)]);
    let (one, two) = (world.user(2_000), world.user(2_000));
    let surplus: Vec<ConnectionKey> = (0..16).map(|_| world.user(2_000)).collect();
    assert!(world.closed.is_empty());
    let crowd = world.user(2_000);
    assert!(world.closed.contains(&crowd), "of those that are only told there are a few");
    let expected = over("connections", "user:2000", 2, 2);
    assert_eq!(refused(&mut world, surplus[0], "kernel.ping", json!({})), expected);
    assert!(world.closed.contains(&surplus[0]));
    // Not a word to those that have not asked, and none of what they say is heard.
    world.bytes(surplus[1], Kind::EVENT, b"\x81\xa5topic\xa1a");
    assert!(world.inboxes.get(&surplus[1]).is_none_or(Vec::is_empty));
    world.ok(one, "kernel.ping", json!({}));
    world.disconnect(two);
    world.ok(surplus[1], "kernel.ping", json!({}));
    refused(&mut world, surplus[2], "process.list", json!({}));
    for connection in [one, crowd].into_iter().chain(surplus) {
        world.disconnect(connection);
    }
    let last = world.user(2_000);
    world.ok(last, "kernel.ping", json!({}));
    for _ in 0..5 {
        let owner = world.owner();
        world.ok(owner, "kernel.ping", json!({}));
    }
    let told = account(&mut world, "user:2000").unwrap()[CONNECTIONS];
    assert_eq!((told[0], told[2]), (1, 2));
}

#[test]
fn every_kind_of_subscription_counts_and_is_given_back() {
    let mut world = world(&[("skill:x", SUBSCRIPTIONS, 4)]);
    let x = skill(&mut world, "x");
    world.ok(x, "kernel.hello", json!({ "features": ["envelope", "records"] }));
    world.ok(x, "consumer.create", json!({ "name": "c", "topic": "job.*" }));
    let subscribe: [(&str, Value); 4] = [
        ("process.stdout.subscribe", json!({ "pid": "p" })),
        ("subscribe", json!({ "topic": "a.*" })),
        ("consumer.attach", json!({ "name": "c" })),
        ("view.watch", json!({ "name": "processes" })),
    ];
    let mut ids = Vec::new();
    for (method, params) in &subscribe {
        ids.push(world.ok(x, method, params.clone())["subscriptionId"].clone());
    }
    let expected = over("subscriptions", "skill:x", 4, 4);
    for (method, params) in &subscribe {
        assert_eq!(refused(&mut world, x, method, params.clone()), expected, "{method}");
    }
    for (id, (method, params)) in ids.into_iter().zip(&subscribe) {
        let end = if *method == subscribe[0].0 { "process.stdout.unsubscribe" } else { "unsubscribe" };
        assert_eq!(world.ok(x, end, json!({ "subscriptionId": id }))["ok"], true, "{method}");
        assert_eq!(used(&mut world, "skill:x", SUBSCRIPTIONS), 3, "{method}");
        world.ok(x, method, params.clone());
    }
    world.disconnect(x);
    assert_eq!(used(&mut world, "skill:x", SUBSCRIPTIONS), 0);
}

#[test]
fn events_are_spent_by_the_second_however_they_are_published() {
    let mut world = world(&[("skill:x", EVENTS, 10)]);
    let x = skill(&mut world, "x");
    let event = || json!({ "type": "job.do" });
    for _ in 0..3 {
        world.ok(x, "event.publish", event());
    }
    world.ok(x, "event.publish_batch", json!({ "events": vec![event(); 4] }));
    world.start(x, "event.request", event());
    world.bytes(x, Kind::EVENT, b"\x81\xa5topic\xa1a");
    let seq = world.kept.last_seq();
    let mut expected = over("eventsPerSecond", "skill:x", 10, 9);
    expected["retryAfterMs"] = json!(100);
    assert_eq!(
        refused(&mut world, x, "event.publish_batch", json!({ "events": vec![event(); 2] })),
        expected
    );
    // Its refusal is the only thing that was told.
    assert_eq!(world.kept.last_seq(), seq + 1);
    world.ok(x, "event.publish", event());
    for method in ["event.publish", "event.request"] {
        assert_eq!(refused(&mut world, x, method, event())["retryAfterMs"], 100);
    }
    let before = world.kept.last_seq();
    world.bytes(x, Kind::EVENT, b"\x81\xa5topic\xa1a");
    assert_eq!(world.kept.last_seq(), before, "what nobody is answered to isn't taken either");
    // What comes again has been paid for.
    world.advance(100);
    world.ok(x, "event.publish", event());
    refused(&mut world, x, "event.publish", event());
    // Coming back is no new second.
    world.disconnect(x);
    let x = skill(&mut world, "x");
    refused(&mut world, x, "event.publish", event());
    let y = skill(&mut world, "y");
    world.ok(y, "event.publish", event());
    let told = account(&mut world, "skill:x").unwrap()[EVENTS];
    assert_eq!((told[1], told[2], told[3]), (10, 11, 6), "a tenth more had come in that second");
}

#[test]
fn a_spool_counts_for_what_it_may_be_until_it_is_what_it_is() {
    const MIB: u64 = 1 << 20;
    let mut world = world(&[("skill:x", SPOOL, 32 * MIB)]);
    let x = skill(&mut world, "x");
    let spooled =
        |id: &str, spool: Value| json!({ "id": id, "command": ["a"], "options": { "spool": spool } });
    // One that says nothing has a part of what there is, for each output.
    world.start(x, "process.spawn", spooled("p", json!(true)));
    let first = world.take_spawn().unwrap();
    let limits = first.spool.unwrap();
    assert_eq!((limits.bytes_max, limits.segment_bytes), (Some(2 * MIB), 512 << 10));
    let (process, _) = world.bear(&first);
    world.run_with(x, spooled("q", json!({ "bytesMax": 14 * MIB })));
    assert_eq!(used(&mut world, "skill:x", SPOOL), 32 * MIB);
    let least = spooled("r", json!({ "bytesMax": 512 << 10 }));
    let expected = over("spoolBytes", "skill:x", 32 * MIB, 32 * MIB);
    assert_eq!(refused(&mut world, x, "process.spawn", least.clone()), expected);
    // Without a spool there is room.
    world.run(x, "s");
    world.finish(process, 0);
    refused(&mut world, x, "process.spawn", least.clone());
    // When all of it is on disk, that counts.
    for channel in Channel::ALL {
        let spool = &first.meter.streams[channel as usize].spool;
        spool.end.set(10);
        spool.bytes.set(4_096);
    }
    world.run_with(x, least);
    assert_eq!(used(&mut world, "skill:x", SPOOL), 28 * MIB + 2 * 4_096 + 2 * (512 << 10));
    // When it is forgotten, nothing.
    world.advance(3_600_000);
    assert_eq!(used(&mut world, "skill:x", SPOOL), 29 * MIB);
    // Who has no such quota may have spools without a bound.
    let owner = world.owner();
    world.start(owner, "process.spawn", spooled("o", json!(true)));
    assert_eq!(world.take_spawn().unwrap().spool.unwrap().bytes_max, None);
}

#[test]
fn children_are_no_way_around_a_bound() {
    let mut world = world(&[("skill:x", PROCESSES, 3), ("skill:x", EVENTS, 5), ("session", EVENTS, 4)]);
    let x = skill(&mut world, "x");
    let (_, pid) = world.run(x, "child");
    let child = world.child(&[pid], None);
    let (_, pid) = world.run(child, "grandchild");
    let grandchild = world.child(&[pid], None);
    world.run(grandchild, "its own");
    let details = refused(&mut world, grandchild, "process.spawn", spawn("too many"));
    assert_eq!(details, over("processes", "skill:x", 3, 3));
    for _ in 0..4 {
        world.ok(grandchild, "event.publish", json!({ "type": "job.do" }));
    }
    let details = refused(&mut world, grandchild, "event.publish", json!({ "type": "job.do" }));
    assert!(details["principal"].as_str().unwrap().starts_with("session:"), "{details}");
    // Nor are other names.
    world.ok(grandchild, "identify", json!({ "skillId": "somebody" }));
    refused(&mut world, grandchild, "event.publish", json!({ "type": "job.do" }));
    world.ok(x, "event.publish", json!({ "type": "job.do" }));
    assert_eq!(refused(&mut world, x, "event.publish", json!({ "type": "job.do" }))["principal"], "skill:x");
    let all = world.owner();
    let all = world.ok(all, "quota.status", json!({}))["accounts"].clone();
    let under: Vec<(&str, &str)> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|account| (&account["principal"], &account["under"]))
        .map(|(name, under)| (name.as_str().unwrap(), under.as_str().unwrap_or("nobody's")))
        .collect();
    assert_eq!(under.len(), 5);
    assert_eq!(under[0], ("owner", "nobody's"));
    assert!(under.contains(&("skill:x", "owner")));
    assert_eq!(under.iter().filter(|(_, under)| *under == "skill:x").count(), 1);
}

#[test]
fn who_becomes_somebody_else_takes_along_what_it_has() {
    let mut world = world(&[("skill:x", SUBSCRIPTIONS, 1), ("skill:y", CONNECTIONS, 1)]);
    let one = world.owner();
    for topic in ["a", "b"] {
        world.ok(one, "subscribe", json!({ "topic": topic }));
    }
    let before = used(&mut world, "owner", SUBSCRIPTIONS);
    assert_eq!(refused(&mut world, one, "identify", json!({ "skillId": "x" }))["quota"], "subscriptions");
    assert_eq!(world.ok(one, "kernel.hello", json!({}))["principal"]["kind"], "owner", "nothing was done");
    world.ok(one, "identify", json!({ "skillId": "y" }));
    assert_eq!(used(&mut world, "skill:y", SUBSCRIPTIONS), 2);
    assert_eq!(used(&mut world, "owner", SUBSCRIPTIONS), before);
    let two = world.owner();
    assert_eq!(refused(&mut world, two, "identify", json!({ "skillId": "y" }))["quota"], "connections");
    world.disconnect(one);
    world.ok(two, "identify", json!({ "skillId": "y" }));
    assert_eq!(used(&mut world, "skill:y", CONNECTIONS), 1);
}

#[test]
fn a_refusal_is_told_once_a_second_and_counted() {
    let mut world = world(&[("skill:x", PROCESSES, 1)]);
    let (owner, x, y) = (world.owner(), skill(&mut world, "x"), skill(&mut world, "y"));
    for connection in [owner, x, y] {
        world.ok(connection, "subscribe", json!({ "topic": "kairo.quota.*" }));
    }
    world.run(x, "p");
    for _ in 0..5 {
        refused(&mut world, x, "process.spawn", spawn("q"));
    }
    world.advance(999);
    assert_eq!(world.events(owner).len(), 1, "the rest comes with the second's end");
    world.advance(1);
    assert_eq!(world.timers.len(), 0);
    refused(&mut world, x, "process.spawn", spawn("q"));
    world.advance(1_000);
    let told = world.events(owner);
    let event = |count: u64| {
        let event = json!({ "principal": "skill:x", "uid": OWNER, "quota": "processes", "limit": 1, "used": 1,
            "count": count });
        ("kairo.quota.exceeded".to_owned(), event)
    };
    assert_eq!(told, [event(4), event(1)]);
    assert_eq!(world.events(x), [event(1), event(4), event(1)], "it hears of itself");
    assert!(world.events(y).is_empty());
    let (code, _) = world.fails(x, "event.publish", json!({ "type": "kairo.quota.exceeded" }));
    assert_eq!(code, "E_PERMISSION_DENIED");
}

#[test]
fn everybody_may_know_of_itself_and_of_what_runs_as_it() {
    let mut world = World::of_root();
    let (root, alice, bob) = (world.user(0), world.user(2_000), world.user(3_000));
    let lowered = world.user(2_000);
    world.ok(lowered, "identify", json!({ "skillId": "a" }));
    world.connect(0, Lineage::Unknown);
    let names = |world: &mut World, by: ConnectionKey| -> Vec<String> {
        let told = world.ok(by, "quota.status", json!({}))["accounts"].clone();
        told.as_array().unwrap().iter().map(|of| of["principal"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&mut world, root), ["nobody", "owner", "skill:a", "user:2000", "user:3000"]);
    assert_eq!(names(&mut world, alice), ["skill:a", "user:2000"]);
    assert_eq!(names(&mut world, bob), ["user:3000"]);
    assert_eq!(names(&mut world, lowered), ["skill:a"]);
    for (by, of) in [(bob, "user:2000"), (lowered, "user:2000"), (root, "user:4000")] {
        assert_eq!(world.fails(by, "quota.status", json!({ "principal": of })).0, "E_NOT_FOUND");
    }
}

#[test]
fn the_next_kernel_counts_what_it_took_over_for_whoever_started_it() {
    let mut before = World::new();
    let x = skill(&mut before, "x");
    let (_, pid) = before.run(x, "one");
    let child = before.child(&[pid], None);
    before.start(child, "process.spawn", spawn("two"));
    let two = before.take_spawn().unwrap();
    before.start(x, "process.spawn", spawn("three"));
    let three = before.take_spawn().unwrap();
    let mut world = world(&[("skill:x", PROCESSES, 2)]);
    world.at = before.at;
    let held = |spawn: &Spawn, over: bool| {
        let mut heir = Heir::of_nothing(spawn.process, &spawn.session, 7, 1);
        heir.session.record = spawn.record.to_vec();
        heir.session.ended = over;
        heir.session.exit = over.then(|| (ExitStatus::Code(1), Usage::default()));
        heir
    };
    let (at, mut out) = (world.at, Commands::default());
    world.kernel.adopt(at, vec![held(&two, false), held(&three, false)], &mut out);
    world.kernel.settle_adopted(at, &mut out);
    world.carry_out(None, out);
    assert_eq!(used(&mut world, "owner", PROCESSES), 2);
    assert_eq!(used(&mut world, "skill:x", PROCESSES), 1, "whoever started the other is gone and forgotten");
    let ended = |world: &mut World, process: ProcessKey| {
        world.exits(process, ExitStatus::Code(0));
        for channel in Channel::ALL {
            world.notice(Notice::Closed { process, channel, end: StreamEnd::default() });
        }
        world.notice(Notice::Ended { process });
    };
    ended(&mut world, three.process);
    assert_eq!(used(&mut world, "skill:x", PROCESSES), 0);
    ended(&mut world, two.process);
    assert_eq!(used(&mut world, "owner", PROCESSES), 0);
}

/// Has a path into a process's stdin made; the call, and what the keeper is to keep of it.
fn way_in(world: &mut World, connection: ConnectionKey, id: &str) -> (Value, Vec<u8>) {
    let call = world.start(connection, "stdin.open", json!({ "id": id, "transport": "fifo" }));
    let (ticket, note) = world
        .take(|command| match command {
            Command::HandStdin { inlet: Some(inlet), ticket, .. } => Some((*ticket, inlet.note.to_vec())),
            _ => None,
        })
        .expect("it is asked for");
    world.done(ticket, Ok(Outcome::Named { path: "/run/there".into(), bytes: 4_096 }));
    (call, note)
}

fn ended_way(world: &mut World) -> Option<ProcessKey> {
    world.take(|command| match command {
        Command::EndInlet { process } => Some(*process),
        _ => None,
    })
}

#[test]
fn a_way_into_a_stdin_is_a_subscription_of_whoever_asked_for_it_under_this_kernel_and_the_next() {
    let mut before = world(&[("skill:x", SUBSCRIPTIONS, 1)]);
    let x = skill(&mut before, "x");
    let spawns = ["p", "q"].map(|id| {
        before.start(x, "process.spawn", spawn(id));
        let spawn = before.take_spawn().unwrap();
        before.bear(&spawn);
        spawn
    });
    let [p, q] = [spawns[0].process, spawns[1].process];
    let (call, _) = way_in(&mut before, x, "p");
    assert!(before.answer(x, &call).unwrap().is_ok());
    assert_eq!(used(&mut before, "skill:x", SUBSCRIPTIONS), 1);
    // One too many is made and not told of.
    let (call, _) = way_in(&mut before, x, "q");
    let error = before.answer(x, &call).unwrap().unwrap_err();
    assert_eq!(error.info.unwrap().code, "E_QUOTA_EXCEEDED");
    assert_eq!(ended_way(&mut before), Some(q));
    before.notice(Notice::InletOver { process: q });
    before.notice(Notice::InletOver { process: p });
    assert_eq!(used(&mut before, "skill:x", SUBSCRIPTIONS), 0);
    let (_, note) = way_in(&mut before, x, "q");
    before.disconnect(x);
    assert_eq!((used(&mut before, "skill:x", SUBSCRIPTIONS), ended_way(&mut before)), (1, None));
    assert!(before.kernel.broken().is_empty(), "{:?}", before.kernel.broken());

    let mut next = world(&[("skill:x", SUBSCRIPTIONS, 1)]);
    next.at = before.at;
    let heirs = spawns.iter().map(|spawn| {
        let mut heir = Heir::of_nothing(spawn.process, &spawn.session, 7, 1);
        heir.session.record = spawn.record.to_vec();
        heir.session.ended = false;
        let fd = std::fs::File::open("/dev/null").expect("it is there").into();
        let (path, note) = ("/run/there".into(), note.clone());
        heir.session.inlet = Some(HeldInlet { fd, path, until_ns: 5, closes: true, note });
        heir
    });
    let (at, mut out) = (next.at, Commands::default());
    next.kernel.adopt(at, heirs.collect(), &mut out);
    next.kernel.settle_adopted(at, &mut out);
    next.carry_out(None, out);
    assert_eq!(used(&mut next, "skill:x", SUBSCRIPTIONS), 2, "what goes on counts, be it too many");
    let x = skill(&mut next, "x");
    assert_eq!(refused(&mut next, x, "subscribe", json!({ "topic": "a" }))["quota"], "subscriptions");
    assert!(next.kernel.broken().is_empty(), "{:?}", next.kernel.broken());
    for process in [p, q] {
        next.notice(Notice::InletOver { process });
    }
    assert_eq!(used(&mut next, "skill:x", SUBSCRIPTIONS), 0);
    next.ok(x, "subscribe", json!({ "topic": "a" }));
}

#[test]
fn a_flood_of_spawns_fills_a_count_and_not_the_log() {
    let mut world = world(&[("skill:x", PROCESSES, 1), ("skill:x", SPOOL, 1 << 30)]);
    let (owner, x) = (world.owner(), skill(&mut world, "x"));
    world.run(x, "p");
    world.ok(owner, "subscribe", json!({ "topic": "kairo.>" }));
    world.events(owner);
    let flood = 3_000;
    for _ in 0..flood {
        refused(&mut world, x, "process.spawn", spawn("q"));
        world.advance(1);
    }
    world.advance(1_000);
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = 0;
    for (topic, event) in world.events(owner) {
        count += event["count"].as_u64().unwrap_or(0);
        *told.entry(topic).or_default() += 1;
    }
    assert_eq!(count, flood, "all are counted");
    assert!(told.values().all(|events| *events <= 4), "{told:?}");
    // What is not refused is told as ever, and so is what is wrong otherwise.
    refused(&mut world, x, "process.spawn", spawn("q"));
    world.events(owner);
    assert_eq!(world.fails(x, "process.spawn", json!({ "id": "q", "command": [] })).0, "E_INVALID_PARAMS");
    world.start(x, "process.kill", json!({ "id": "p" }));
    let told: Vec<Value> =
        world.events(owner).into_iter().map(|(_, event)| event["method"].clone()).collect();
    assert!(told.contains(&json!("process.spawn")) && told.contains(&json!("process.kill")), "{told:?}");
}

#[test]
fn a_doctor_tells_who_has_all_it_may() {
    let mut world = world(&[("skill:x", PROCESSES, 1)]);
    let (owner, x, y) = (world.owner(), skill(&mut world, "x"), skill(&mut world, "y"));
    let fact = |world: &mut World, by| {
        let facts = world.ok(by, "kernel.doctor", json!({}))["facts"].clone();
        facts.as_array().unwrap().iter().find(|fact| fact["name"] == "quotas").cloned().expect("the fact")
    };
    assert_eq!(fact(&mut world, owner)["holds"], true);
    world.run(x, "p");
    let told = fact(&mut world, owner);
    assert_eq!((&told["holds"], &told["value"]), (&json!(false), &json!("skill:x has 1 of 1 processes")));
    assert!(told["advice"].as_str().unwrap().contains("kairo quotas"));
    assert_eq!(fact(&mut world, y)["holds"], true, "it may not know of others");
}
