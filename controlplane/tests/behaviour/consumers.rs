//! Durable consumers: each event is delivered until somebody says that it is done, and then never again.

use crate::harness::{OWNER, World, config};
use kairo_dataplane::key::ConnectionKey;
use serde_json::{Value, json};

/// A connection that can take events of consumers.
fn modern(world: &mut World, uid: u32) -> ConnectionKey {
    let connection = world.user(uid);
    world.ok(connection, "kernel.hello", json!({ "features": ["envelope", "int64"] }));
    connection
}

fn create(world: &mut World, connection: ConnectionKey, more: &Value) -> Value {
    let mut params = json!({ "name": "c", "topic": "job.*" });
    for (key, value) in more.as_object().unwrap() {
        params[key] = value.clone();
    }
    world.ok(connection, "consumer.create", params)
}

fn attach(world: &mut World, connection: ConnectionKey) -> Value {
    world.ok(connection, "consumer.attach", json!({ "name": "c" }))["subscriptionId"].clone()
}

fn publish(world: &mut World, connection: ConnectionKey, data: u64) -> u64 {
    let result = world.ok(connection, "event.publish", json!({ "type": "job.do", "data": data }));
    result["seq"].as_u64().unwrap()
}

/// (seq, delivery) of what has come.
fn delivered(world: &mut World, connection: ConnectionKey) -> Vec<(u64, u64)> {
    let number = |event: &Value, key: &str| event[key].as_u64().unwrap();
    world
        .envelopes(connection)
        .iter()
        .filter(|event| event.get("delivery").is_some())
        .map(|event| (number(event, "seq"), number(event, "delivery")))
        .collect()
}

fn ack(world: &mut World, connection: ConnectionKey, seq: u64) -> Value {
    world.ok(connection, "consumer.ack", json!({ "name": "c", "seq": seq }))
}

fn status(world: &mut World, connection: ConnectionKey) -> Value {
    world.ok(connection, "consumer.status", json!({ "name": "c" }))
}

/// The next kernel over what this one has written.
fn succeed(world: World) -> World {
    World::over(config(), world.kept)
}

#[test]
fn events_come_once_and_an_answered_one_never_again() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    create(&mut world, owner, &json!({}));
    attach(&mut world, owner);
    let seqs: Vec<u64> = (0..3).map(|number| publish(&mut world, owner, number)).collect();
    assert_eq!(delivered(&mut world, owner), [(seqs[0], 1), (seqs[1], 1), (seqs[2], 1)]);
    assert_eq!(ack(&mut world, owner, seqs[1]), json!({ "ok": true, "events": 1, "position": seqs[0] - 1 }));
    assert_eq!(ack(&mut world, owner, seqs[0])["position"], seqs[1]);
    assert_eq!(status(&mut world, owner)["pending"], 1);
    // The next kernel delivers what is not done, and only that.
    let mut world = succeed(world);
    let owner = modern(&mut world, OWNER);
    attach(&mut world, owner);
    assert_eq!(delivered(&mut world, owner), [(seqs[2], 2)]);
    ack(&mut world, owner, seqs[2]);
    let mut world = succeed(world);
    let owner = modern(&mut world, OWNER);
    attach(&mut world, owner);
    assert_eq!(delivered(&mut world, owner), []);
    let status = status(&mut world, owner);
    assert_eq!((&status["acked"], &status["pending"], &status["lag"]), (&json!(3), &json!(0), &json!(0)));
}

#[test]
fn it_begins_where_it_is_told_to() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    let first = publish(&mut world, owner, 0);
    let then = world.at.wall_ns / 1_000_000 + 5;
    world.advance(10);
    let second = publish(&mut world, owner, 1);
    for (name, more, expected) in [
        ("now", json!({}), vec![]),
        ("seq", json!({ "fromSeq": 1 }), vec![first, second]),
        ("time", json!({ "fromTimeMs": then }), vec![second]),
    ] {
        let mut params = json!({ "name": name, "topic": "job.do" });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.ok(owner, "consumer.create", params);
        world.ok(owner, "consumer.attach", json!({ "name": name }));
        let came: Vec<u64> = delivered(&mut world, owner).into_iter().map(|(seq, _)| seq).collect();
        assert_eq!(came, expected, "{name}");
    }
}

#[test]
fn without_an_answer_it_comes_again_later_each_time_and_is_put_aside_in_the_end() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    world.ok(owner, "subscribe", json!({ "topic": "kairo.kernel.dead_letter" }));
    let settings = json!({ "ackWaitMs": 1_000, "maxDeliver": 3, "backoffMs": [100, 500], "deadLetterTopic": "job.dead" });
    create(&mut world, owner, &settings);
    attach(&mut world, owner);
    let seq = publish(&mut world, owner, 7);
    assert_eq!(delivered(&mut world, owner), [(seq, 1)]);
    world.advance(1_099);
    assert_eq!(delivered(&mut world, owner), []);
    world.advance(1);
    assert_eq!(delivered(&mut world, owner), [(seq, 2)]);
    world.advance(1_499);
    assert_eq!(delivered(&mut world, owner), []);
    world.advance(1);
    assert_eq!(delivered(&mut world, owner), [(seq, 3)]);
    world.advance(1_000);
    let letters: Vec<Value> =
        world.envelopes(owner).into_iter().filter(|event| event["payload"]["consumer"] == "c").collect();
    let letter =
        json!({ "consumer": "c", "seq": seq, "topic": "job.do", "deliveries": 3, "reason": "timeout" });
    let topics: Vec<&str> = letters.iter().map(|letter| letter["topic"].as_str().unwrap()).collect();
    // Its own topic matches what it consumes: such a letter is delivered, too, but makes none of its own.
    assert_eq!(topics, ["kairo.kernel.dead_letter", "job.dead"]);
    assert!(letters.iter().all(|of| of["payload"] == letter));
    world.advance(60_000);
    let status = status(&mut world, owner);
    assert_eq!(
        (&status["dead"], &status["pending"], &status["redelivered"]),
        (&json!(2), &json!(0), &json!(4))
    );
    assert_eq!(ack(&mut world, owner, seq)["ok"], false, "it is out of the way");
}

#[test]
fn what_could_not_be_worked_on_comes_again_when_it_was_asked_to() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    create(&mut world, owner, &json!({ "maxDeliver": 2 }));
    attach(&mut world, owner);
    let seq = publish(&mut world, owner, 7);
    delivered(&mut world, owner);
    let nak = json!({ "name": "c", "seq": seq, "delayMs": 50 });
    assert_eq!(world.ok(owner, "consumer.nak", nak.clone())["ok"], true);
    assert_eq!(world.ok(owner, "consumer.nak", nak)["ok"], false, "it is waiting already");
    world.advance(49);
    assert_eq!(delivered(&mut world, owner), []);
    world.advance(1);
    assert_eq!(delivered(&mut world, owner), [(seq, 2)]);
    world.ok(owner, "consumer.nak", json!({ "name": "c", "seq": seq }));
    assert_eq!(status(&mut world, owner)["dead"], 1);
}

#[test]
fn counts_of_deliveries_outlive_the_kernel() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    create(&mut world, owner, &json!({ "maxDeliver": 3 }));
    attach(&mut world, owner);
    let seq = publish(&mut world, owner, 7);
    world.ok(owner, "consumer.nak", json!({ "name": "c", "seq": seq }));
    assert_eq!(delivered(&mut world, owner), [(seq, 1), (seq, 2)]);
    let mut world = succeed(world);
    let owner = modern(&mut world, OWNER);
    attach(&mut world, owner);
    assert_eq!(delivered(&mut world, owner), [(seq, 3)]);
    world.disconnect(owner);
    let owner = modern(&mut world, OWNER);
    assert_eq!(status(&mut world, owner)["dead"], 1, "whoever it takes down is not given it for ever");
}

#[test]
fn several_share_and_one_that_goes_leaves_its_part_to_the_others() {
    let mut world = World::new();
    let (one, other) = (modern(&mut world, OWNER), modern(&mut world, OWNER));
    create(&mut world, one, &json!({}));
    attach(&mut world, one);
    attach(&mut world, other);
    let seqs: Vec<u64> = (0..4).map(|number| publish(&mut world, one, number)).collect();
    assert_eq!(delivered(&mut world, one), [(seqs[0], 1), (seqs[2], 1)]);
    assert_eq!(delivered(&mut world, other), [(seqs[1], 1), (seqs[3], 1)]);
    ack(&mut world, other, seqs[3]);
    world.disconnect(other);
    assert_eq!(delivered(&mut world, one), [(seqs[1], 2)]);
    // Nobody is there: it waits, and then all of it comes.
    let mine = json!({ "name": "c" });
    let subscription = attach(&mut world, one);
    world.ok(one, "unsubscribe", json!({ "subscriptionId": subscription }));
    world.disconnect(one);
    let owner = modern(&mut world, OWNER);
    let late = publish(&mut world, owner, 9);
    assert_eq!(world.ok(owner, "consumer.status", mine)["attached"], 0);
    attach(&mut world, owner);
    let again: Vec<u64> = delivered(&mut world, owner).into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(again.len(), 4);
    for seq in [seqs[0], seqs[1], seqs[2], late] {
        assert!(again.contains(&seq));
    }
}

#[test]
fn no_more_than_may_be_without_an_answer_are_delivered() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    create(&mut world, owner, &json!({ "maxInFlight": 2 }));
    attach(&mut world, owner);
    let seqs: Vec<u64> = (0..600).map(|number| publish(&mut world, owner, number)).collect();
    assert_eq!(delivered(&mut world, owner), [(seqs[0], 1), (seqs[1], 1)]);
    // It has fallen behind, and goes through the log.
    let mut done = 0;
    while done < seqs.len() {
        ack(&mut world, owner, seqs[done]);
        done += 1;
        let next: Vec<(u64, u64)> = seqs.get(done + 1).map(|seq| (*seq, 1)).into_iter().collect();
        assert_eq!(delivered(&mut world, owner), next);
    }
    let live = publish(&mut world, owner, 0);
    assert_eq!(delivered(&mut world, owner), [(live, 1)]);
}

#[test]
fn an_answer_to_what_was_not_asked_is_defined() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    create(&mut world, owner, &json!({ "maxInFlight": 3 }));
    attach(&mut world, owner);
    let seqs: Vec<u64> = (0..5).map(|number| publish(&mut world, owner, number)).collect();
    let up_to = |seq: u64| json!({ "name": "c", "seq": seq, "mode": "upTo" });
    assert_eq!(
        world.fails(owner, "consumer.ack", up_to(seqs[3])).0,
        "E_CONFLICT",
        "it was not delivered yet"
    );
    assert_eq!(world.fails(owner, "consumer.ack", up_to(1 << 40)).0, "E_CONFLICT");
    assert_eq!(world.fails(owner, "consumer.nak", json!({ "name": "c", "seq": seqs[4] })).0, "E_CONFLICT");
    let done = world.ok(owner, "consumer.ack", up_to(seqs[1]));
    assert_eq!(done, json!({ "ok": true, "events": 2, "position": seqs[1] }));
    for backwards in [seqs[1], seqs[0], 1] {
        assert_eq!(
            ack(&mut world, owner, backwards),
            json!({ "ok": false, "events": 0, "position": seqs[1] })
        );
        assert_eq!(world.ok(owner, "consumer.ack", up_to(backwards))["ok"], false);
        let nak = json!({ "name": "c", "seq": backwards });
        assert_eq!(world.ok(owner, "consumer.nak", nak)["ok"], false);
    }
}

#[test]
fn answers_are_written_together_and_given_when_they_are() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    create(&mut world, owner, &json!({}));
    attach(&mut world, owner);
    let seqs: Vec<u64> = (0..100).map(|number| publish(&mut world, owner, number)).collect();
    world.keeps = false;
    let calls: Vec<Value> = seqs
        .iter()
        .map(|seq| world.start(owner, "consumer.ack", json!({ "name": "c", "seq": seq })))
        .collect();
    assert!(calls.iter().all(|call| world.answer(owner, call).is_none()));
    let before = world.entries;
    world.keeps = true;
    world.keep();
    assert!(calls.iter().all(|call| world.answer(owner, call).unwrap().unwrap()["ok"] == true));
    assert_eq!(world.entries - before, 2, "the first, and then all others");
}

#[test]
fn a_consumer_is_its_users_own() {
    let mut world = World::of_root();
    let (alice, bob) = (modern(&mut world, 2_000), modern(&mut world, 3_000));
    create(&mut world, alice, &json!({}));
    assert_eq!(world.fails(bob, "consumer.attach", json!({ "name": "c" })).0, "E_NOT_FOUND");
    create(&mut world, bob, &json!({}));
    attach(&mut world, bob);
    attach(&mut world, alice);
    let seq = publish(&mut world, alice, 1);
    assert_eq!(delivered(&mut world, alice), [(seq, 1)]);
    assert_eq!(delivered(&mut world, bob), [], "it hears what its creator may");
    let skill = modern(&mut world, 2_000);
    world.ok(skill, "identify", json!({ "skillId": "s" }));
    assert_eq!(world.fails(skill, "consumer.attach", json!({ "name": "c" })).0, "E_PERMISSION_DENIED");
    let root = modern(&mut world, 0);
    let listed = |world: &mut World, who| {
        world.ok(who, "consumer.list", json!({}))["consumers"].as_array().unwrap().len()
    };
    assert_eq!([listed(&mut world, root), listed(&mut world, alice), listed(&mut world, skill)], [2, 1, 0]);
    // One that is lowered after it was attached gets nothing more.
    world.ok(alice, "identify", json!({ "skillId": "s" }));
    publish(&mut world, bob, 2);
    let other = modern(&mut world, 2_000);
    publish(&mut world, other, 3);
    assert_eq!(delivered(&mut world, alice), []);
}

#[test]
fn making_one_again_changes_nothing_and_deleting_it_ends_it() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    let first = create(&mut world, owner, &json!({}));
    assert_eq!(create(&mut world, owner, &json!({})), first);
    let other = json!({ "name": "c", "topic": "job.*", "maxDeliver": 9 });
    assert_eq!(world.fails(owner, "consumer.create", other).0, "E_ALREADY_EXISTS");
    for (field, value) in [
        ("ackWaitMs", json!(0)),
        ("maxDeliver", json!(0)),
        ("maxInFlight", json!(5_000)),
        ("backoffMs", json!(vec![1; 17])),
        ("topic", json!("x".repeat(300))),
        ("name", json!("n".repeat(129))),
    ] {
        let mut params = json!({ "name": "d", "topic": "a" });
        params[field] = value;
        let (code, text) = world.fails(owner, "consumer.create", params);
        assert!(code == "E_INVALID_PARAMS" && text.contains(field), "{text}");
    }
    let reserved = json!({ "name": "d", "topic": "a", "deadLetterTopic": "kairo.process.exited" });
    assert_eq!(world.fails(owner, "consumer.create", reserved).0, "E_PERMISSION_DENIED");
    let plain = world.owner();
    assert_eq!(world.fails(plain, "consumer.attach", json!({ "name": "c" })).0, "E_CONFLICT");
    let subscription = attach(&mut world, owner);
    let seq = publish(&mut world, owner, 1);
    world.events(owner);
    world.ok(owner, "consumer.delete", json!({ "name": "c" }));
    let (topic, cut) = world.events(owner).remove(0);
    assert_eq!((topic.as_str(), &cut["reason"]), ("event.cut", &json!("deleted")));
    assert_eq!((&cut["subscriptionId"], &cut["seq"]), (&subscription, &json!(seq + 1)));
    assert_eq!(world.fails(owner, "consumer.status", json!({ "name": "c" })).0, "E_NOT_FOUND");
    let mut world = succeed(world);
    let owner = modern(&mut world, OWNER);
    assert_eq!(world.ok(owner, "consumer.list", json!({}))["consumers"], json!([]));
}

#[test]
fn what_is_no_longer_there_is_told_and_stepped_over() {
    let mut world = World::new();
    let owner = modern(&mut world, OWNER);
    create(&mut world, owner, &json!({}));
    attach(&mut world, owner);
    let mut seqs: Vec<u64> = (0..3).map(|number| publish(&mut world, owner, number)).collect();
    world.ok(owner, "consumer.nak", json!({ "name": "c", "seq": seqs[1] }));
    world.disconnect(owner);
    let publisher = world.owner();
    seqs.extend((3..6).map(|number| publish(&mut world, publisher, number)));
    world.holes.extend([seqs[1], seqs[3]]);
    let owner = modern(&mut world, OWNER);
    attach(&mut world, owner);
    let gaps: Vec<u64> = world
        .inboxes
        .get(&owner)
        .unwrap()
        .iter()
        .filter_map(|arrival| match arrival {
            crate::harness::Arrival::Event(topic, data, _) if topic == "event.gap" => {
                data["gap"]["from"].as_u64()
            }
            _ => None,
        })
        .collect();
    assert_eq!(gaps, [seqs[1], seqs[3]]);
    let came: Vec<u64> = delivered(&mut world, owner).into_iter().map(|(seq, _)| seq).collect();
    let mut expected = vec![seqs[0], seqs[2], seqs[4], seqs[5]];
    let mut sorted = came.clone();
    sorted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
    for seq in came {
        ack(&mut world, owner, seq);
    }
    let status = status(&mut world, owner);
    assert_eq!((&status["pending"], &status["lag"]), (&json!(0), &json!(0)));
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody() {
    let mut world = World::new();
    let (slow, quick) = (modern(&mut world, OWNER), modern(&mut world, OWNER));
    create(&mut world, slow, &json!({}));
    attach(&mut world, slow);
    world.unread.insert(slow);
    let data = "x".repeat(100_000);
    for _ in 0..40 {
        world.ok(quick, "event.publish", json!({ "type": "job.big", "data": data }));
    }
    let held = delivered(&mut world, slow).len();
    assert!((1..12).contains(&held), "{held} were sent to one that does not read");
    attach(&mut world, quick);
    assert_eq!(delivered(&mut world, quick).len(), 40 - held);
}
