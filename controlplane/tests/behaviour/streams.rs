//! Readers: before a spawn, during a life, after its end, into the next.

use crate::harness::{World, config};
use kairo_controlplane::config::Config;
use kairo_dataplane::command::{From, Mode, Policy, Sink, Subscribe};
use kairo_dataplane::control::{ExitStatus, Notice};
use kairo_wire::codec::encode::Dialect;
use serde_json::{Value, json};

fn subscribe(world: &mut World, connection: kairo_dataplane::key::ConnectionKey, params: Value) -> String {
    let answer = world.ok(connection, "process.stdout.subscribe", params);
    answer["subscriptionId"].as_str().unwrap().to_owned()
}

#[test]
fn what_a_reader_asks_for_is_what_the_data_plane_is_told() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    let mut asked = |params: Value| -> Box<Subscribe> {
        subscribe(&mut world, owner, params);
        world.take_subscribe().unwrap()
    };
    let plain = asked(json!({ "pid": "p" }));
    assert_eq!((plain.process, plain.stdout, plain.stderr), (process, true, true));
    assert_eq!((plain.mode, plain.policy, plain.from), (Mode::Chunk, Policy::Block, From::Oldest));
    assert_eq!(plain.history_bytes, None);
    assert!(matches!(
        plain.sink,
        Sink::Frames { chunk_bytes_max: 65_535, records: false, dialect: Dialect::V1, .. }
    ));
    assert_eq!(plain.subscription.home, process.home);
    let rich = asked(json!({
        "id": "p", "stream": "stderr", "mode": "lines", "policy": "drop_oldest", "from": { "stderr": 7 },
        "bufferSize": 1_u64 << 40,
    }));
    assert_eq!((rich.stdout, rich.stderr), (false, true));
    assert_eq!((rich.mode, rich.policy, rich.from), (Mode::Lines, Policy::DropOldest, From::At([0, 7])));
    assert_eq!(rich.history_bytes, Some(16 << 20));
    assert_eq!(asked(json!({ "pid": "p", "from": 9 })).from, From::At([9, 9]));
    // Now is an offset, so that it can be told.
    assert_eq!(asked(json!({ "pid": "p", "from": "now" })).from, From::At([0, 0]));
}

#[test]
fn nonsense_is_refused_by_name() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    for (params, code, field) in [
        (json!({ "pid": "p", "mode": "haiku" }), "E_INVALID_PARAMS", "mode"),
        (json!({ "pid": "p", "stream": "stdlog" }), "E_INVALID_PARAMS", "stream"),
        (json!({ "pid": "p", "from": -1 }), "E_INVALID_PARAMS", "from"),
        (json!({ "pid": "p", "policy": "newest" }), "E_INVALID_PARAMS", "policy"),
        (json!({ "pid": "p", "id": "q" }), "E_INVALID_PARAMS", "id"),
        (json!({ "pid": "p", "descriptor": 1 }), "E_UNSUPPORTED", "descriptor"),
    ] {
        let (got, text) = world.fails(owner, "process.stdout.subscribe", params);
        assert_eq!(got, code, "{text}");
        assert!(text.contains(field), "{text}");
    }
    subscribe(&mut world, owner, json!({ "pid": "p", "id": "p" }));
    assert!(world.take_subscribe().is_some());
}

#[test]
fn only_an_embedded_kernel_writes_to_descriptors() {
    let mut world = World::with(Config { embedded: true, ..config() });
    let owner = world.owner();
    world.run(owner, "p");
    subscribe(&mut world, owner, json!({ "pid": "p", "descriptor": 1 }));
    assert_eq!(world.take_subscribe().unwrap().sink, Sink::Descriptor(1));
}

#[test]
fn a_subscription_before_the_spawn_waits_and_begins_with_the_first_byte() {
    let mut world = World::new();
    let (owner, other) = (world.owner(), world.owner());
    let id = subscribe(&mut world, owner, json!({ "pid": "p", "from": "now" }));
    assert!(world.take_subscribe().is_none());
    world.run(other, "p");
    let told = world.take_subscribe().unwrap();
    assert_eq!((told.id.as_str(), told.from), (id.as_str(), From::Oldest));
    assert!(world.timers.is_empty());
}

#[test]
fn a_subscription_while_the_process_is_being_started_reads_when_it_runs() {
    let mut world = World::new();
    let owner = world.owner();
    world.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"] }));
    let id = subscribe(&mut world, owner, json!({ "pid": "p" }));
    assert!(world.take_subscribe().is_none());
    world.born();
    assert_eq!(world.take_subscribe().unwrap().id.as_str(), id.as_str());
}

#[test]
fn sixty_four_wait_for_sixty_seconds() {
    let mut world = World::new();
    let owner = world.owner();
    let ids: Vec<String> =
        (0..64).map(|nth| subscribe(&mut world, owner, json!({ "pid": format!("p{nth}") }))).collect();
    assert_eq!(world.fails(owner, "process.stdout.subscribe", json!({ "pid": "one-more" })).0, "E_BUSY");
    world.advance(59_999);
    assert_eq!(world.kernel.census()[3], 64);
    world.advance(1);
    assert_eq!(world.kernel.census()[3], 0);
    let gone = world.ok(owner, "process.stdout.unsubscribe", json!({ "subscriptionId": ids[0] }));
    assert_eq!(gone, json!({ "ok": false }));
    subscribe(&mut world, owner, json!({ "pid": "again" }));
}

#[test]
fn a_reader_that_waited_in_vain_is_told_if_it_takes_records() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "kernel.hello", json!({ "features": ["records"] }));
    let id = subscribe(&mut world, owner, json!({ "pid": "p", "stream": "stdout" }));
    world.advance(60_000);
    let record = json!({
        "subscriptionId": id, "stream": "stdout", "totalBytes": 0, "gapBytes": 0, "reason": "forgotten",
    });
    assert_eq!(world.events(owner), [("stream.end".to_owned(), record)]);
}

#[test]
fn a_reader_follows_its_id_into_the_next_life() {
    let mut world = World::new();
    let (owner, other) = (world.owner(), world.owner());
    let (first, _) = world.run(owner, "p");
    let id = subscribe(&mut world, other, json!({ "pid": "p", "from": 5 }));
    let told = world.take_subscribe().unwrap();
    world.finish(first, 0);
    world.notice(Notice::Drained { subscription: told.subscription });
    world.run(owner, "p");
    let next = world.take_subscribe().unwrap();
    assert_eq!((next.id.as_str(), next.from), (id.as_str(), From::Oldest));
    assert_ne!(next.subscription, told.subscription);
    assert!(world.take_subscribe().is_none());
}

#[test]
fn a_reader_still_reading_the_old_life_comes_after_it_to_the_new_one() {
    let mut world = World::new();
    let owner = world.owner();
    let (first, _) = world.run(owner, "p");
    let id = subscribe(&mut world, owner, json!({ "pid": "p" }));
    let told = world.take_subscribe().unwrap();
    world.finish(first, 0);
    world.run(owner, "p");
    assert!(world.take_subscribe().is_none());
    assert!(world.take_forget().is_none(), "somebody reads the old one");
    world.notice(Notice::Drained { subscription: told.subscription });
    assert_eq!(world.take_subscribe().unwrap().id.as_str(), id.as_str());
    assert_eq!(world.take_forget(), Some(first));
}

#[test]
fn a_reader_does_not_follow_an_id_to_another_owner() {
    let mut world = World::of_root();
    let (root, alice) = (world.user(0), world.user(2_000));
    let (first, _) = world.run(alice, "p");
    subscribe(&mut world, root, json!({ "pid": "p" }));
    let told = world.take_subscribe().unwrap();
    world.finish(first, 0);
    world.notice(Notice::Drained { subscription: told.subscription });
    // Root may take the id over; what it spawns is another's.
    world.run(root, "p");
    assert!(world.take_subscribe().is_none());
}

#[test]
fn an_ended_id_delivers_what_is_retained() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.finish(process, 0);
    subscribe(&mut world, owner, json!({ "pid": "p" }));
    let told = world.take_subscribe().unwrap();
    assert_eq!(told.process, process);
    // It is read: its record does not go for want of time before it was.
    world.notice(Notice::Drained { subscription: told.subscription });
    world.advance(3_600_000);
    assert_eq!(world.kernel.census()[3], 0, "nobody remembers the id, so nobody follows it");
}

#[test]
fn after_unsubscribing_nothing_follows_and_a_second_time_is_not_ok() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    let id = subscribe(&mut world, owner, json!({ "pid": "p" }));
    let told = world.take_subscribe().unwrap();
    let off = json!({ "subscriptionId": id });
    assert_eq!(world.ok(owner, "process.stdout.unsubscribe", off.clone()), json!({ "ok": true }));
    // The answer goes with the command, to be queued behind the last chunk.
    assert_eq!(world.take_unsubscribe(), Some(told.subscription));
    assert_eq!(world.ok(owner, "process.stdout.unsubscribe", off.clone()), json!({ "ok": false }));
    // Late news of it reach nobody.
    world.notice(Notice::Drained { subscription: told.subscription });
    world.finish(process, 0);
    world.run(owner, "p");
    assert!(world.take_subscribe().is_none());
    // The other kind's method does not know it.
    let id = subscribe(&mut world, owner, json!({ "pid": "p" }));
    assert_eq!(world.ok(owner, "unsubscribe", json!({ "subscriptionId": id })), json!({ "ok": false }));
}

#[test]
fn another_principals_subscription_is_not_to_be_ended() {
    let mut world = World::of_root();
    let (root, alice, bob) = (world.user(0), world.user(2_000), world.user(3_000));
    world.run(alice, "p");
    let stream = subscribe(&mut world, alice, json!({ "pid": "p" }));
    let topic = world.ok(alice, "subscribe", json!({ "topic": ">" }))["subscriptionId"].clone();
    for thief in [bob, root] {
        let off = json!({ "subscriptionId": stream });
        assert_eq!(world.fails(thief, "process.stdout.unsubscribe", off).0, "E_PERMISSION_DENIED");
        assert_eq!(
            world.fails(thief, "unsubscribe", json!({ "subscriptionId": topic })).0,
            "E_PERMISSION_DENIED"
        );
    }
    // One's own other connection may.
    let again = world.user(2_000);
    let off = json!({ "subscriptionId": stream });
    assert_eq!(world.ok(again, "process.stdout.unsubscribe", off), json!({ "ok": true }));
}

#[test]
fn a_subscription_ends_with_its_connection() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    subscribe(&mut world, owner, json!({ "pid": "p" }));
    let told = world.take_subscribe().unwrap();
    world.disconnect(owner);
    assert_eq!(world.take_unsubscribe(), Some(told.subscription));
    assert_eq!(world.kernel.census()[3], 0);
}

#[test]
fn ids_cannot_be_guessed_and_never_hold_the_word_v1_clients_look_for() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    let one = subscribe(&mut world, owner, json!({ "pid": "p" }));
    let other = subscribe(&mut world, owner, json!({ "pid": "p" }));
    assert_ne!(one, other);
    for id in [one, other] {
        assert!(id.starts_with("stream_") && id.len() == 7 + 32 && !id.contains("data"));
    }
}

#[test]
fn a_follower_of_an_exited_leader_goes_on_reading_its_descendants() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.exits(process, ExitStatus::Code(0));
    subscribe(&mut world, owner, json!({ "pid": "p" }));
    assert_eq!(world.take_subscribe().unwrap().process, process);
}

#[test]
fn a_reader_that_goes_on_says_so_and_does_not_wait_for_what_is_gone() {
    let mut world = World::new();
    let owner = world.owner();
    let resumed = |id: &str| json!({ "pid": id, "from": 7, "resumes": "stream_former" });
    assert_eq!(world.fails(owner, "process.stdout.subscribe", resumed("p")).0, "E_NOT_FOUND");
    world.ok(owner, "kernel.hello", json!({ "features": ["records"] }));
    let waiting = world.ok(owner, "process.stdout.subscribe", json!({ "pid": "p" }));
    assert_eq!(waiting.get("session"), None, "there is nothing to read yet");
    let (process, _) = world.run(owner, "p");
    assert!(!world.take_subscribe().unwrap().resumes);
    let answer = world.ok(owner, "process.stdout.subscribe", resumed("p"));
    let reading = world.take_subscribe().unwrap();
    assert!(reading.resumes);
    let status = world.ok(owner, "process.status", json!({ "id": "p", "detail": true }));
    assert_eq!(answer["session"], status["detail"]["session"]);
    assert_eq!(answer["from"], json!({ "stdout": 7, "stderr": 7 }));
    // What follows the id into its next life goes on for nobody.
    world.finish(process, 0);
    world.notice(Notice::Drained { subscription: reading.subscription });
    world.run(owner, "p");
    assert!(!world.take_subscribe().unwrap().resumes);
}
