//! Requests over the bus: one question, exactly one answer or an error.

use crate::harness::{OWNER, World, code};
use kairo_dataplane::control::{Notice, Outcome};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::request::Meta;
use serde_json::{Value, json};

/// Two who speak and hear everything.
fn pair(world: &mut World) -> (ConnectionKey, ConnectionKey) {
    let connections = [world.user(OWNER), world.user(OWNER)];
    for connection in connections {
        world.ok(connection, "kernel.hello", json!({ "features": ["envelope", "int64"] }));
        world.ok(connection, "subscribe", json!({ "topic": "job.>" }));
    }
    (connections[0], connections[1])
}

/// Asks, and says under which call and which event.
fn ask(world: &mut World, asker: ConnectionKey, answerer: ConnectionKey, more: Value) -> (Value, String) {
    let mut params = json!({ "type": "job.ask", "data": { "frames": 3 } });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let call = world.start(asker, "event.request", params);
    let asked = world.envelopes(answerer).pop().expect("it is heard");
    assert_eq!(asked["correlationId"], asked["id"], "it begins a story of its own");
    (call, asked["id"].as_str().unwrap().to_owned())
}

fn outcome(world: &mut World, asker: ConnectionKey, call: &Value) -> Result<Value, (String, Value)> {
    let answer = world.answer(asker, call).expect("it is answered");
    answer.map_err(|error| {
        let details = error.info.as_ref().and_then(|info| info.details.as_ref());
        (code(&error).0, details.map_or(Value::Null, |raw| crate::harness::value(raw.as_ref())))
    })
}

#[test]
fn the_first_answer_is_the_answer_and_a_second_is_told_so() {
    let mut world = World::new();
    let (asker, answerer) = pair(&mut world);
    let (call, id) = ask(&mut world, asker, answerer, json!({}));
    // Progress of the same story is no answer.
    world.ok(answerer, "event.publish", json!({ "type": "job.progress", "correlationId": id }));
    assert!(world.answer(asker, &call).is_none());
    let answer = json!({ "type": "job.answer", "answers": id, "data": { "cost": 1u64 << 60 } });
    let published = world.ok(answerer, "event.publish", answer.clone());
    let result = outcome(&mut world, asker, &call).unwrap();
    assert_eq!(result["data"], json!({ "cost": 1u64 << 60 }), "numbers are exact");
    assert_eq!(
        (&result["id"], &result["answerId"], &result["seq"]),
        (&json!(id), &published["id"], &published["seq"])
    );
    assert_eq!(world.fails(answerer, "event.publish", answer).0, "E_CONFLICT");
    let events = world.envelopes(asker);
    let answers: Vec<&Value> = events.iter().filter(|event| event.get("answers").is_some()).collect();
    assert_eq!(answers.len(), 1, "what was refused was not published");
    assert_eq!(answers[0]["answers"], id);
    world.advance(10_000);
}

#[test]
fn an_error_is_an_answer_with_a_type() {
    let mut world = World::new();
    let (asker, answerer) = pair(&mut world);
    let (call, id) = ask(&mut world, asker, answerer, json!({}));
    let error = json!({ "code": "NO_GPU", "message": "there is no GPU" });
    world.ok(answerer, "event.publish", json!({ "type": "job.answer", "answers": id, "error": error }));
    let (code, details) = outcome(&mut world, asker, &call).unwrap_err();
    assert_eq!(code, "E_REQUEST_FAILED");
    assert_eq!((&details["code"], &details["message"]), (&json!("NO_GPU"), &json!("there is no GPU")));
    assert_eq!(details["requestId"], id);
    let told = world.envelopes(asker).pop().unwrap();
    assert_eq!(told["error"], error);
    // It is kept so.
    let page = world.ok(asker, "event.replay", json!({ "types": ["job.answer"] }));
    assert_eq!((&page["events"][0]["error"], &page["events"][0]["answers"]), (&error, &json!(id)));
    let lone = json!({ "type": "job.x", "error": error });
    assert_eq!(world.fails(asker, "event.publish", lone).0, "E_INVALID_PARAMS");
}

#[test]
fn nobody_answers_in_time() {
    let mut world = World::new();
    let (asker, answerer) = pair(&mut world);
    let (call, id) = ask(&mut world, asker, answerer, json!({ "timeoutMs": 100 }));
    world.disconnect(answerer);
    world.advance(99);
    assert!(world.answer(asker, &call).is_none());
    world.advance(1);
    assert_eq!(outcome(&mut world, asker, &call).unwrap_err().0, "E_TIMEOUT");
    let late = json!({ "type": "job.answer", "answers": id });
    assert_eq!(world.fails(asker, "event.publish", late).0, "E_CONFLICT");
    // Without a wish it is five seconds.
    let other = world.owner();
    world.ok(other, "subscribe", json!({ "topic": "job.>" }));
    let (call, _) = ask(&mut world, asker, other, json!({}));
    world.advance(4_999);
    assert!(world.answer(asker, &call).is_none());
    world.advance(1);
    assert_eq!(outcome(&mut world, asker, &call).unwrap_err().0, "E_TIMEOUT");
}

#[test]
fn an_event_of_the_awaited_type_and_story_from_elsewhere_is_an_answer() {
    let mut world = World::new();
    let (asker, answerer) = pair(&mut world);
    let (call, id) = ask(&mut world, asker, answerer, json!({ "replyType": "job.done" }));
    let done = |correlation: &str| json!({ "type": "job.done", "data": 7, "correlationId": correlation });
    world.ok(asker, "event.publish", done(&id));
    world.ok(answerer, "event.publish", done("another-story"));
    world.ok(answerer, "event.publish", json!({ "type": "job.other", "correlationId": id }));
    assert!(world.answer(asker, &call).is_none());
    world.ok(answerer, "event.publish", done(&id));
    assert_eq!(outcome(&mut world, asker, &call).unwrap()["data"], 7);
    world.ok(answerer, "event.publish", done(&id));
    // The kernel's own events are such, too.
    let (call, id) = ask(&mut world, asker, answerer, json!({ "replyType": "kairo.process.spawned" }));
    let meta = Meta { correlation_id: Some(id.into()), ..Meta::default() };
    let spawn = json!({ "id": "p", "command": ["a"] });
    world.send_with(answerer, &json!("s"), "process.spawn", &spawn, Some(&meta));
    world.born();
    assert_eq!(outcome(&mut world, asker, &call).unwrap()["data"]["id"], "p");
}

#[test]
fn who_may_not_hear_a_request_can_not_answer_it() {
    let mut world = World::of_root();
    let (alice, other, bob) = (world.user(2_000), world.user(2_000), world.user(3_000));
    for connection in [alice, other, bob] {
        world.ok(connection, "kernel.hello", json!({ "features": ["envelope"] }));
        world.ok(connection, "subscribe", json!({ "topic": "job.>" }));
    }
    let (call, id) = ask(&mut world, alice, other, json!({}));
    let answer = json!({ "type": "job.answer", "answers": id, "data": 1 });
    let (code, text) = world.fails(bob, "event.publish", answer.clone());
    let unknown = json!({ "type": "job.answer", "answers": "no such request" });
    assert_eq!(code, world.fails(bob, "event.publish", unknown).0, "it is not even told that there is one");
    assert!(text.contains("no open request"), "{text}");
    world.ok(other, "event.publish", answer);
    assert_eq!(outcome(&mut world, alice, &call).unwrap()["data"], 1);
}

#[test]
fn a_request_ends_with_its_call() {
    let mut world = World::new();
    let (asker, answerer) = pair(&mut world);
    let (call, id) = ask(&mut world, asker, answerer, json!({}));
    assert_eq!(world.ok(asker, "kernel.cancel", json!({ "id": call }))["cancelled"], true);
    assert_eq!(outcome(&mut world, asker, &call).unwrap_err().0, "E_CANCELLED");
    let answer = |id: &str| json!({ "type": "job.answer", "answers": id });
    assert_eq!(world.fails(answerer, "event.publish", answer(&id)).0, "E_CONFLICT");
    let (_, id) = ask(&mut world, asker, answerer, json!({}));
    world.disconnect(asker);
    assert_eq!(world.fails(answerer, "event.publish", answer(&id)).0, "E_CONFLICT");
    assert!(world.timers.is_empty());
}

#[test]
fn an_answer_in_time_counts_however_long_the_log_takes() {
    let mut world = World::new();
    let (asker, answerer) = pair(&mut world);
    let (call, id) = ask(&mut world, asker, answerer, json!({ "timeoutMs": 100 }));
    world.keeps = false;
    let answer = json!({ "type": "job.answer", "answers": id, "data": 1 });
    let first = world.start(answerer, "event.publish", answer.clone());
    assert_eq!(world.fails(answerer, "event.publish", answer.clone()).0, "E_CONFLICT", "one is on its way");
    world.advance(1_000);
    assert!(world.answer(asker, &call).is_none(), "it is not answered before the log has the answer");
    world.keeps = true;
    world.keep();
    assert_eq!(outcome(&mut world, asker, &call).unwrap()["data"], 1);
    assert!(world.answer(answerer, &first).unwrap().is_ok());
    let (_, id) = ask(&mut world, asker, answerer, json!({}));
    let twice = json!({ "type": "job.answer", "answers": id });
    let batch = json!({ "events": [twice, twice] });
    assert_eq!(world.fails(answerer, "event.publish_batch", batch).0, "E_CONFLICT");
}

#[test]
fn a_request_with_a_key_is_made_once() {
    let mut world = World::new();
    let (asker, answerer) = pair(&mut world);
    let meta = Meta { idempotency_key: Some("k".into()), ..Meta::default() };
    let params = json!({ "type": "job.ask" });
    world.send_with(asker, &json!("a"), "event.request", &params, Some(&meta));
    world.send_with(asker, &json!("b"), "event.request", &params, Some(&meta));
    let asked = world.envelopes(answerer);
    assert_eq!(asked.len(), 1);
    world.ok(
        answerer,
        "event.publish",
        json!({ "type": "job.answer", "answers": asked[0]["id"], "data": 5 }),
    );
    for call in ["a", "b"] {
        assert_eq!(outcome(&mut world, asker, &json!(call)).unwrap()["data"], 5);
    }
    world.send_with(asker, &json!("c"), "event.request", &params, Some(&meta));
    assert_eq!(outcome(&mut world, asker, &json!("c")).unwrap()["data"], 5);
}

#[test]
fn what_goes_into_a_stdin_is_told_once_a_second_and_at_the_end() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.process.written" }));
    let (process, _) = world.run(owner, "p");
    let write = |world: &mut World, offset: u64| {
        world.start(owner, "process.stdin.write", json!({ "id": "p", "data": "12345" }));
        let ticket = world
            .take(|command| match command {
                kairo_dataplane::command::Command::Write { ticket, .. } => Some(*ticket),
                _ => None,
            })
            .unwrap();
        world.done(ticket, Ok(Outcome::Written { offset }));
    };
    for offset in [5, 10, 15, 15] {
        write(&mut world, offset);
    }
    assert!(world.events(owner).is_empty());
    world.advance(1_000);
    let range = |event: &Value| ["from", "to", "calls"].map(|key| event[key].as_u64().unwrap());
    let told: Vec<[u64; 3]> = world.events(owner).iter().map(|(_, event)| range(event)).collect();
    assert_eq!(told, [[0, 15, 3]], "what is repeated went in once");
    world.advance(10_000);
    write(&mut world, 20);
    world.notice(Notice::InputClosed { process, written: 20 });
    let told: Vec<[u64; 3]> = world.events(owner).iter().map(|(_, event)| range(event)).collect();
    assert_eq!(told, [[15, 20, 1]]);
    world.finish(process, 0);
    assert!(world.events(owner).iter().all(|(topic, _)| topic == "process.exit"));
}
