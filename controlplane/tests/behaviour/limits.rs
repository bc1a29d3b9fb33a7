//! Rates and sizes of outputs: asked for, changed, remembered, told.

use crate::harness::World;
use kairo_dataplane::command::{Command, HistorySize, Rate, Tuning, Unread};
use kairo_dataplane::control::{Failure, Notice, Outcome};
use kairo_dataplane::key::{Channel, ConnectionKey, ProcessKey, Ticket};
use serde_json::{Value, json};

const RATE: Rate = Rate { bytes_per_second: 20_000_000, burst_bytes: 1_000_000 };
const SIZE: HistorySize = HistorySize { head_bytes: 8_192, tail_bytes: 1 << 20 };

fn take_tune(world: &mut World) -> Option<(ProcessKey, Tuning, Ticket)> {
    world.take(|command| match command {
        Command::Tune { process, tuning, ticket } => Some((*process, *tuning, *ticket)),
        _ => None,
    })
}

fn detail(world: &mut World, connection: ConnectionKey, id: &str) -> Value {
    world.ok(connection, "process.status", json!({ "id": id, "detail": true }))["detail"].clone()
}

#[test]
fn a_rate_asked_for_at_the_spawn_reaches_the_data_plane_with_the_burst_it_has_by_itself() {
    let mut world = World::new();
    let owner = world.owner();
    let cases = [
        (json!({ "bytesPerSecond": 20_000_000, "burst": 1_000_000 }), Some(RATE)),
        (json!({ "bytesPerSecond": 20_000_000 }), Some(Rate { burst_bytes: 2_000_000, ..RATE })),
        (json!({ "bytesPerSecond": 7 }), Some(Rate { bytes_per_second: 7, burst_bytes: 4_096 })),
        (json!({ "bytesPerSecond": 0 }), None),
        (Value::Null, None),
    ];
    for (nth, (asked, told)) in cases.into_iter().enumerate() {
        let params = json!({ "id": nth + 1, "command": ["a"], "options": { "rate": asked } });
        world.start(owner, "process.spawn", params);
        assert_eq!(world.take_spawn().unwrap().rate, [told; 2]);
    }
}

#[test]
fn rates_and_sizes_that_mean_nothing_are_refused_by_name() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    for (params, field) in [
        (json!({ "id": "p", "rate": { "bytesPerSecond": 1_u64 << 53 } }), "rate.bytesPerSecond"),
        (json!({ "id": "p", "rate": { "bytesPerSecond": 1, "burst": 0 } }), "rate.burst"),
        (json!({ "id": "p", "rate": { "bytesPerSecond": -1 } }), "rate.bytesPerSecond"),
        (json!({ "id": "p", "history": { "headBytes": (16 << 20) + 1 } }), "history.headBytes"),
        (json!({ "id": "p", "history": { "tailBytes": 4_095 } }), "history.tailBytes"),
    ] {
        let (code, text) = world.fails(owner, "stream.configure", params);
        assert_eq!(code, "E_INVALID_PARAMS", "{text}");
        assert!(text.contains(field), "{text}");
    }
    let none = world.fails(owner, "stream.configure", json!({ "id": "p", "history": "none" }));
    assert_eq!(none.0, "E_UNSUPPORTED");
    assert_eq!(world.fails(owner, "stream.configure", json!({ "id": "q" })).0, "E_NOT_FOUND");
    let reader = json!({ "subscriptionId": "stream_0", "rate": { "bytesPerSecond": 1 } });
    assert_eq!(world.fails(owner, "subscription.configure", reader).0, "E_NOT_FOUND");
    let spawn =
        json!({ "id": "r", "command": ["a"], "options": { "rate": { "bytesPerSecond": 1, "burst": 0 } } });
    assert!(world.fails(owner, "process.spawn", spawn).1.contains("options.rate.burst"));
    assert!(take_tune(&mut world).is_none());
}

#[test]
fn a_change_is_answered_with_what_came_of_it_and_remembered() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    let asked = json!({
        "id": "p", "stream": "stdout", "rate": { "bytesPerSecond": 20_000_000, "burst": 1_000_000 },
        "history": { "tailBytes": 4 << 20 }, "whenUnread": "block",
    });
    let call = world.start(owner, "stream.configure", asked);
    let (told, tuning, ticket) = take_tune(&mut world).unwrap();
    assert_eq!(told, process);
    let expected = Tuning {
        channels: [true, false],
        rate: Some(Some(RATE)),
        head_bytes: None,
        tail_bytes: Some(4 << 20),
        unread: Some(Unread::Block),
    };
    assert_eq!(tuning, expected);
    let usual = HistorySize { head_bytes: 64 << 10, tail_bytes: 256 << 10 };
    world.done(ticket, Ok(Outcome::Tuned { history: [SIZE, usual], rate: [Some(RATE), None] }));
    let answer = world.answer(owner, &call).unwrap().unwrap();
    assert_eq!(answer["whenUnread"], "block");
    let first = json!({
        "stream": "stdout", "rate": { "bytesPerSecond": 20_000_000, "burst": 1_000_000 },
        "historyHeadBytes": 8_192, "historyTailBytes": 1 << 20,
    });
    assert_eq!(answer["streams"][0], first);
    assert_eq!(answer["streams"][1]["rate"], Value::Null);
    let detail = detail(&mut world, owner, "p");
    assert_eq!((&detail["whenUnread"], &detail["historyTailBytes"]), (&json!("block"), &json!(1 << 20)));
    assert_eq!(detail["streams"][0]["rate"]["burst"], 1_000_000);
    // Nothing but what is named changes.
    let call = world.start(owner, "stream.configure", json!({ "id": "p", "rate": { "bytesPerSecond": 0 } }));
    let (_, tuning, ticket) = take_tune(&mut world).unwrap();
    assert_eq!(tuning, Tuning { channels: [true; 2], rate: Some(None), ..Tuning::default() });
    world.done(ticket, Err(Failure::Gone));
    assert!(world.answer(owner, &call).unwrap().is_err());
}

#[test]
fn only_who_may_touch_a_process_changes_its_pace() {
    let mut world = World::of_root();
    let (user, other, stranger) = (world.user(1001), world.user(1001), world.user(1002));
    world.run(user, "p");
    let pace = json!({ "id": "p", "rate": { "bytesPerSecond": 1 } });
    assert_eq!(world.fails(stranger, "stream.configure", pace.clone()).0, "E_PERMISSION_DENIED");
    assert!(take_tune(&mut world).is_none());
    world.start(other, "stream.configure", pace);
    assert!(take_tune(&mut world).is_some());
    let answer = world.ok(user, "process.stdout.subscribe", json!({ "pid": "p" }));
    let pace = json!({ "subscriptionId": answer["subscriptionId"], "rate": { "bytesPerSecond": 1 } });
    assert_eq!(world.fails(stranger, "subscription.configure", pace).0, "E_PERMISSION_DENIED");
}

#[test]
fn a_readers_rate_is_its_own_and_follows_it_into_the_next_life() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    let asked = json!({ "pid": "p", "rate": { "bytesPerSecond": 20_000_000, "burst": 1_000_000 } });
    let id = world.ok(owner, "process.stdout.subscribe", asked)["subscriptionId"].clone();
    let reading = world.take_subscribe().unwrap();
    assert_eq!(reading.rate, Some(RATE));
    let change = json!({ "subscriptionId": id, "rate": { "bytesPerSecond": 50 } });
    let answer = world.ok(owner, "subscription.configure", change);
    assert_eq!(answer["rate"], json!({ "bytesPerSecond": 50, "burst": 4_096 }));
    let paced = world.take(|command| match command {
        Command::Pace { subscription, rate } => Some((*subscription, *rate)),
        _ => None,
    });
    let slow = Some(Rate::of(50));
    assert_eq!(paced, Some((reading.subscription, slow)));
    assert_eq!(detail(&mut world, owner, "p")["readers"][0]["rate"]["bytesPerSecond"], 50);
    world.finish(process, 0);
    world.notice(Notice::Drained { subscription: reading.subscription });
    world.run(owner, "p");
    assert_eq!(world.take_subscribe().unwrap().rate, slow);
}

#[test]
fn who_waits_and_what_went_is_told_to_those_who_may_know() {
    let mut world = World::of_root();
    let (owner, user, stranger) = (world.user(0), world.user(1001), world.user(1002));
    let (process, _) = world.run(user, "p");
    for connection in [owner, user, stranger] {
        world.ok(connection, "subscribe", json!({ "topic": "kairo.stream.>" }));
    }
    let channel = Channel::Stderr;
    world.notice(Notice::Stalled { process, channel, since_ns: 0 });
    world.notice(Notice::Resumed { process, channel, waited_ns: 1_500_000_000 });
    world.notice(Notice::Truncated { process, channel, from: 65_536, to: 70_000 });
    world.notice(Notice::Throttled { process, channel, rate: RATE, waited_ns: 3_000_000 });
    let told = world.events(owner);
    assert_eq!(world.events(user).len(), told.len());
    assert!(world.events(stranger).is_empty());
    let topics: Vec<&str> = told.iter().map(|(topic, _)| topic.as_str()).collect();
    let expected =
        ["stalled", "resumed", "truncated", "throttled"].map(|what| format!("kairo.stream.{what}"));
    assert_eq!(topics, expected);
    assert_eq!(told[0].1["for"], "somebody to read");
    assert_eq!(told[1].1["waitedMs"], 1_500);
    let cut = &told[2].1;
    assert_eq!(
        (&cut["store"], &cut["from"], &cut["to"]),
        (&json!("history"), &json!(65_536), &json!(70_000))
    );
    let wait = &told[3].1;
    assert_eq!(
        (&wait["bytesPerSecond"], &wait["burst"], &wait["waitedMs"]),
        (&json!(20_000_000), &json!(1_000_000), &json!(3))
    );
    world.notice(Notice::Resized { process, channel: Channel::Stdout, history: SIZE });
    assert_eq!(detail(&mut world, owner, "p")["historyHeadBytes"], 8_192);
}

#[test]
fn doctor_tells_how_much_memory_histories_hold() {
    let mut world = World::new();
    let owner = world.owner();
    let facts = world.ok(owner, "kernel.doctor", json!({}))["facts"].clone();
    let fact =
        facts.as_array().unwrap().iter().find(|fact| fact["name"] == "history memory").unwrap().clone();
    assert_eq!(fact["holds"], true);
    assert!(fact["value"].as_str().unwrap().starts_with("0 of 1073741824 bytes"), "{fact}");
}
