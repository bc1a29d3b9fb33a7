//! Requests and answers: what is tolerated, what is refused, what is given up.

use crate::harness::{World, code};
use kairo_dataplane::command::Command;
use kairo_dataplane::control::{ExitStatus, Notice, Outcome};
use kairo_wire::frame::Kind;
use kairo_wire::limits::CALLS_IN_FLIGHT_MAX;
use kairo_wire::request::Meta;
use serde_json::{Value, json};

#[test]
fn ping_is_answered_at_once() {
    let mut world = World::new();
    let owner = world.owner();
    assert_eq!(world.ok(owner, "kernel.ping", json!({})), json!({ "pong": true }));
    // Again, now by the short way.
    assert_eq!(world.ok(owner, "kernel.ping", json!({})), json!({ "pong": true }));
}

#[test]
fn any_type_of_id_is_echoed() {
    let mut world = World::new();
    let owner = world.owner();
    for id in [
        json!("a"),
        json!(7),
        json!(-1),
        json!(null),
        json!([1, "x"]),
        json!({ "k": true }),
        json!(2.5),
        json!(""),
    ] {
        for _ in 0..2 {
            world.send(owner, &id, "kernel.ping", &json!({}));
            assert!(world.answer(owner, &id).unwrap().is_ok(), "{id}");
        }
    }
}

#[test]
fn a_missing_id_is_answered_without_one() {
    let mut world = World::new();
    let owner = world.owner();
    world.bytes(owner, Kind::REQUEST, b"\x81\xa6method\xabkernel.ping");
    assert!(world.answer(owner, &Value::Null).unwrap().is_ok());
}

#[test]
fn an_unknown_method_is_named_in_the_original_words() {
    let mut world = World::new();
    let owner = world.owner();
    let (code, text) = world.fails(owner, "process.explode", json!({}));
    assert_eq!((code.as_str(), text.as_str()), ("E_UNKNOWN_METHOD", "未知方法: process.explode"));
}

#[test]
fn missing_parameters_are_all_named_at_once() {
    let mut world = World::new();
    let owner = world.owner();
    for (method, params, text) in [
        ("process.spawn", json!({}), "缺少参数: id, command"),
        ("process.spawn", json!({ "id": "" }), "缺少参数: id, command"),
        ("process.kill", json!({ "id": 0 }), "缺少参数: id"),
        ("process.stdin.write", json!({ "id": "x" }), "缺少参数: data"),
        ("process.stdout.subscribe", json!({}), "缺少参数: pid"),
        ("subscribe", json!({ "topic": "" }), "缺少参数: topic"),
        ("unsubscribe", json!({}), "缺少参数: subscriptionId"),
    ] {
        assert_eq!(world.fails(owner, method, params), ("E_INVALID_PARAMS".to_owned(), text.to_owned()));
    }
    // Parameters that are no map count as none.
    world.bytes(owner, Kind::REQUEST, b"\x83\xa2id\x01\xa6method\xacprocess.kill\xa6params\xc0");
    let error = world.answer(owner, &json!(1)).unwrap().unwrap_err();
    assert_eq!(code(&error).1, "缺少参数: id");
}

#[test]
fn a_request_that_is_nil_or_a_number_is_answered_and_the_connection_lives() {
    let mut world = World::new();
    let owner = world.owner();
    for payload in [&b"\xc0"[..], b"\x2a", b"\x93\x01\x02\x03", b"\xa1x"] {
        world.bytes(owner, Kind::REQUEST, payload);
        assert!(world.answer(owner, &Value::Null).unwrap().is_err());
    }
    assert!(world.closed.is_empty());
    world.ok(owner, "kernel.ping", json!({}));
}

#[test]
fn undecodable_and_trailing_bytes_close_after_what_came_before_was_answered() {
    for payload in
        [&b""[..], b"\xc1", b"\x82\xa2id", b"\xc0\xc0", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"]
    {
        for kind in [Kind::REQUEST, Kind::EVENT, Kind(9)] {
            let mut world = World::new();
            let owner = world.owner();
            let id = world.start(owner, "kernel.ping", json!({}));
            world.bytes(owner, kind, payload);
            assert!(world.answer(owner, &id).unwrap().is_ok());
            assert!(world.closed.contains(&owner), "{payload:02x?}");
            // Nothing is answered any more.
            let late = world.start(owner, "kernel.ping", json!({}));
            assert!(world.answer(owner, &late).is_none());
            world.disconnect(owner);
        }
    }
}

#[test]
fn frames_of_other_kinds_are_taken_and_ignored() {
    let mut world = World::new();
    let owner = world.owner();
    for kind in [Kind::RESPONSE, Kind::EVENT, Kind::STREAM_CHUNK, Kind(0), Kind(77)] {
        world.bytes(owner, kind, b"\x81\xa5topic\xa1x");
    }
    assert!(world.inboxes.get(&owner).is_none_or(Vec::is_empty));
    assert!(world.closed.is_empty());
}

#[test]
fn too_deep_and_too_many_are_typed_errors() {
    let mut world = World::new();
    let owner = world.owner();
    let mut deep = b"\x83\xa2id\x05\xa6method\xabkernel.ping\xa6params".to_vec();
    deep.extend([0x91; 70]);
    deep.push(0xc0);
    world.bytes(owner, Kind::REQUEST, &deep);
    let error = world.answer(owner, &json!(5)).unwrap().unwrap_err();
    assert_eq!(code(&error).0, "E_TOO_LARGE");
    assert!(world.closed.is_empty());
}

#[test]
fn a_parameter_of_the_wrong_type_is_named_by_its_path() {
    let mut world = World::new();
    let owner = world.owner();
    let params = json!({ "id": "x", "command": ["a"], "options": { "limits": { "memory": "lots" } } });
    let (code, text) = world.fails(owner, "process.spawn", params);
    assert_eq!(code, "E_INVALID_PARAMS");
    assert!(text.contains("options.limits.memory"), "{text}");
    let (_, text) = world.fails(owner, "process.spawn", json!({ "id": "x", "command": ["a", ["b"]] }));
    assert!(text.contains("command[1]"), "{text}");
}

#[test]
fn the_call_after_the_last_in_flight_is_refused_and_may_be_tried_again() {
    let mut world = World::new();
    world.watched = false;
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    let waits: Vec<Value> =
        (0..CALLS_IN_FLIGHT_MAX).map(|_| world.start(owner, "process.wait", json!({ "id": "p" }))).collect();
    let error = world.call(owner, "process.wait", json!({ "id": "p" })).unwrap_err();
    assert_eq!(code(&error).0, "E_TOO_MANY_CALLS");
    assert!(error.info.unwrap().retryable);
    // What is answered at once still is, and a place can be made.
    world.ok(owner, "process.status", json!({ "id": "p" }));
    assert_eq!(world.ok(owner, "kernel.cancel", json!({ "id": waits[0] })), json!({ "cancelled": true }));
    let again = world.start(owner, "process.wait", json!({ "id": "p" }));
    world.exits(process, ExitStatus::Code(3));
    for wait in waits[1..].iter().chain([&again]) {
        assert_eq!(world.answer(owner, wait).unwrap().unwrap()["exitCode"], 3);
    }
    assert_eq!(world.kernel.broken(), Vec::<String>::new());
}

#[test]
fn a_cancelled_call_answers_that_it_was_and_the_write_is_given_up() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    let write = world.start(owner, "process.stdin.write", json!({ "id": "p", "data": "x" }));
    let Some(Command::Write { ticket, .. }) = world.commands.pop() else { panic!("no write") };
    assert_eq!(world.ok(owner, "kernel.cancel", json!({ "id": write })), json!({ "cancelled": true }));
    assert_eq!(code(&world.answer(owner, &write).unwrap().unwrap_err()).0, "E_CANCELLED");
    assert!(matches!(world.commands.pop(), Some(Command::AbandonWrite { ticket: t, .. }) if t == ticket));
    // Its ticket comes back all the same, to nobody.
    world.done(ticket, Ok(Outcome::Written { offset: 0 }));
    assert!(world.answer(owner, &write).is_none());
    assert_eq!(world.ok(owner, "kernel.cancel", json!({ "id": write })), json!({ "cancelled": false }));
}

#[test]
fn cancel_takes_any_type_of_id_and_only_the_callers_own() {
    let mut world = World::new();
    let (one, other) = (world.owner(), world.owner());
    world.run(one, "p");
    for id in [json!(9), json!(0), json!(""), json!(["x"]), json!({ "a": 1 })] {
        world.send(one, &id, "process.wait", &json!({ "id": "p" }));
        assert_eq!(world.ok(other, "kernel.cancel", json!({ "id": id })), json!({ "cancelled": false }));
        assert_eq!(world.ok(one, "kernel.cancel", json!({ "id": id })), json!({ "cancelled": true }));
        assert_eq!(code(&world.answer(one, &id).unwrap().unwrap_err()).0, "E_CANCELLED");
    }
}

#[test]
fn two_calls_with_one_id_are_both_answered() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    for _ in 0..2 {
        world.send(owner, &json!("same"), "process.wait", &json!({ "id": "p" }));
    }
    world.exits(process, ExitStatus::Code(0));
    assert!(world.answer(owner, &json!("same")).is_some());
    assert!(world.answer(owner, &json!("same")).is_some());
    assert!(world.answer(owner, &json!("same")).is_none());
}

#[test]
fn a_deadline_that_passes_answers_timeout_and_undoes_the_call() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    let meta = Meta { deadline_ms: Some(50), ..Meta::default() };
    world.send_with(owner, &json!("w"), "process.wait", &json!({ "id": "p" }), Some(&meta));
    let params = json!({ "id": "p", "data": "x" });
    world.send_with(owner, &json!("s"), "process.stdin.write", &params, Some(&meta));
    world.advance(49);
    assert!(world.answer(owner, &json!("w")).is_none());
    world.advance(1);
    for id in ["w", "s"] {
        let error = world.answer(owner, &json!(id)).unwrap().unwrap_err();
        assert_eq!(code(&error).0, "E_TIMEOUT");
        assert!(error.info.unwrap().retryable);
    }
    assert!(world.take(|c| matches!(c, Command::AbandonWrite { .. }).then_some(())).is_some());
    assert!(world.timers.is_empty());
}

#[test]
fn a_deadline_that_is_met_leaves_no_timer() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    let meta = Meta { deadline_ms: Some(u64::MAX), ..Meta::default() };
    world.send_with(owner, &json!("w"), "process.wait", &json!({ "id": "p" }), Some(&meta));
    assert_eq!(world.timers.len(), 1);
    world.exits(process, ExitStatus::Code(0));
    assert!(world.answer(owner, &json!("w")).unwrap().is_ok());
    assert!(world.timers.is_empty());
}

#[test]
fn a_spawn_whose_deadline_passes_is_killed_when_it_comes_up() {
    let mut world = World::new();
    let owner = world.owner();
    let meta = Meta { deadline_ms: Some(10), ..Meta::default() };
    let params = json!({ "id": "p", "command": ["x"] });
    world.send_with(owner, &json!("s"), "process.spawn", &params, Some(&meta));
    world.advance(10);
    assert_eq!(code(&world.answer(owner, &json!("s")).unwrap().unwrap_err()).0, "E_TIMEOUT");
    let (process, _) = world.born();
    assert_eq!(world.take_signal().unwrap().1, 15);
    world.exits(process, ExitStatus::Signal { signal: 15, core: false });
    let status = world.ok(owner, "process.wait", json!({ "id": "p" }));
    assert_eq!(status["exit"]["endedBy"]["cause"], "deadline");
}

#[test]
fn a_half_closed_client_gets_its_replies_and_is_closed_when_nothing_is_left() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    let wait = world.start(owner, "process.wait", json!({ "id": "p" }));
    world.notice(Notice::HalfClosed { connection: owner });
    assert!(!world.closed.contains(&owner));
    world.exits(process, ExitStatus::Code(0));
    assert!(world.answer(owner, &wait).unwrap().is_ok());
    assert!(world.closed.contains(&owner));
    // One that waits for nothing is closed at once.
    let idle = world.owner();
    world.ok(idle, "kernel.ping", json!({}));
    world.notice(Notice::HalfClosed { connection: idle });
    assert!(world.closed.contains(&idle));
}

#[test]
fn a_half_closed_client_that_listens_stays_until_what_it_reads_is_over() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    world.ok(owner, "process.stdout.subscribe", json!({ "pid": "p" }));
    let subscription = world.take_subscribe().unwrap().subscription;
    world.notice(Notice::HalfClosed { connection: owner });
    assert!(world.closed.is_empty());
    world.notice(Notice::Drained { subscription });
    assert!(world.closed.contains(&owner));
    // A subscription to events has no end of its own.
    let other = world.owner();
    world.ok(other, "subscribe", json!({ "topic": ">" }));
    world.notice(Notice::HalfClosed { connection: other });
    assert!(!world.closed.contains(&other));
}

#[test]
fn hello_grants_what_it_knows_and_says_who_one_is() {
    let mut world = World::new();
    let owner = world.owner();
    let plain = world.ok(owner, "kernel.hello", json!({}));
    assert_eq!(plain["features"], json!([]));
    assert_eq!(plain["limits"]["chunkBytesMax"], 65_535);
    assert_eq!(plain["principal"], json!({ "kind": "owner", "uid": 1_000 }));
    let wanted =
        json!({ "features": ["records", "chunks", "telepathy", "int64"], "chunkBytesMax": 9_999_999 });
    let rich = world.ok(owner, "kernel.hello", wanted);
    assert_eq!(rich["features"], json!(["int64", "records", "chunks"]));
    assert_eq!(rich["limits"]["chunkBytesMax"], 1_048_576);
    world.run(owner, "p");
    world.ok(owner, "process.stdout.subscribe", json!({ "pid": "p" }));
    let sink = format!("{:?}", world.take_subscribe().unwrap().sink);
    assert!(
        sink.contains("chunk_bytes_max: 1048576, records: true, timestamps: false, dialect: Int64"),
        "{sink}"
    );
}

#[test]
fn introspection_describes_all_methods_and_each() {
    let mut world = World::new();
    let owner = world.owner();
    let all = world.ok(owner, "kernel.introspect", json!({}));
    assert_eq!(all["methods"].as_array().unwrap().len(), kairo_wire::method::METHODS.len());
    for row in kairo_wire::method::METHODS {
        world.ok(owner, "kernel.introspect", json!({ "method": row.name }));
    }
    assert_eq!(world.fails(owner, "kernel.introspect", json!({ "method": "x.y" })).0, "E_NOT_FOUND");
}

#[test]
fn what_is_not_there_yet_says_so() {
    let mut world = World::new();
    let owner = world.owner();
    assert_eq!(world.ok(owner, "device.list", json!({})), json!([]));
    let (code, text) = world.fails(owner, "vault.get", json!({ "token": "t", "handle": "h" }));
    assert_eq!((code.as_str(), text.as_str()), ("E_VAULT_UNAVAILABLE", "Vault 服务不可用"));
}

#[test]
fn metrics_are_read_by_the_worker_and_each_connection_has_its_own_baseline() {
    let mut world = World::new();
    let (one, other) = (world.owner(), world.owner());
    let measure = |world: &mut World, who, stat: &'static str| {
        let call = world.start(who, "system.get_metrics", json!({}));
        let (ticket, count) = world
            .take(|command| match command {
                Command::Work { ticket, job: kairo_dataplane::command::Job::Read(files) } => {
                    Some((*ticket, files.len()))
                }
                _ => None,
            })
            .unwrap();
        let mut files: Vec<Result<bytes::Bytes, i32>> = vec![Err(2); count];
        files[0] = Ok(bytes::Bytes::from_static(stat.as_bytes()));
        files[1] = Ok(bytes::Bytes::from_static(b"MemTotal: 2048 kB\nMemFree: 1024 kB\n"));
        world.done(ticket, Ok(Outcome::Worked(files)));
        world.answer(who, &call).unwrap().unwrap()
    };
    let first = measure(&mut world, one, "cpu 100 0 0 100\n");
    assert_eq!(first, json!({ "cpu": { "usage": 0 }, "memory": { "total": 2, "used": 1, "free": 1 } }));
    assert_eq!(measure(&mut world, other, "cpu 100 0 0 200\n")["cpu"]["usage"], 0);
    assert_eq!(measure(&mut world, one, "cpu 175 0 0 125\n")["cpu"]["usage"], 75);
    // A machine without /proc says so.
    let call = world.start(one, "system.get_metrics", json!({}));
    let Some(Command::Work { ticket, .. }) = world.commands.pop() else { panic!("no work") };
    world.done(ticket, Ok(Outcome::Worked(vec![Err(2); 10])));
    assert_eq!(code(&world.answer(one, &call).unwrap().unwrap_err()).0, "E_UNAVAILABLE");
}

#[test]
fn shutdown_is_the_owners_and_takes_no_new_work() {
    let mut world = World::of_root();
    let (root, alice) = (world.user(0), world.user(2_000));
    world.run(root, "p");
    assert_eq!(world.fails(alice, "kernel.shutdown", json!({})).0, "E_PERMISSION_DENIED");
    world.ok(root, "subscribe", json!({ "topic": "kairo.kernel.*" }));
    let answer = world.ok(root, "kernel.shutdown", json!({ "graceMs": 10 }));
    assert_eq!(answer, json!({ "status": "stopping", "processes": 1 }));
    assert_eq!(world.events(root)[1].1, json!({ "reason": "kernel.shutdown" }));
    let grace = world.take(|c| match c {
        Command::Shutdown { grace_ns } => Some(*grace_ns),
        _ => None,
    });
    assert_eq!(grace, Some(10_000_000));
    assert_eq!(world.fails(root, "process.spawn", json!({ "id": "q", "command": ["x"] })).0, "E_UNAVAILABLE");
    // Twice is once.
    world.ok(root, "kernel.shutdown", json!({}));
    assert!(world.take(|c| matches!(c, Command::Shutdown { .. }).then_some(())).is_none());
}

#[test]
fn nothing_is_left_of_a_connection_that_is_gone() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.start(owner, "process.wait", json!({ "id": "p", "timeoutMs": 1_000 }));
    world.start(owner, "process.stdin.write", json!({ "id": "p", "data": "x" }));
    world.ok(owner, "process.stdout.subscribe", json!({ "pid": "p" }));
    world.ok(owner, "process.stdout.subscribe", json!({ "pid": "later" }));
    world.ok(owner, "subscribe", json!({ "topic": ">" }));
    world.start(owner, "process.spawn", json!({ "id": "q", "command": ["x"] }));
    world.disconnect(owner);
    assert_eq!(world.kernel.census(), [0, 0, 2, 0, 0]);
    let before = world.inboxes[&owner].len();
    world.finish(process, 0);
    assert_eq!(world.inboxes[&owner].len(), before);
}

#[test]
fn what_would_have_to_be_kept_is_bounded() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    let long = "x".repeat(5_000);
    // An id is echoed at any length, but not kept.
    world.send(owner, &json!(long), "kernel.ping", &json!({}));
    assert!(world.answer(owner, &json!(long)).unwrap().is_ok());
    world.send(owner, &json!(long), "process.wait", &json!({ "id": "p" }));
    assert_eq!(code(&world.answer(owner, &json!(long)).unwrap().unwrap_err()).0, "E_TOO_LARGE");
    let meta = Meta { correlation_id: Some(long.as_str().into()), ..Meta::default() };
    world.send_with(owner, &json!(1), "kernel.ping", &json!({}), Some(&meta));
    assert_eq!(code(&world.answer(owner, &json!(1)).unwrap().unwrap_err()).0, "E_TOO_LARGE");
    assert_eq!(world.fails(owner, "identify", json!({ "skillId": long })).0, "E_INVALID_PARAMS");
    // A write to a child that is being started waits here, within the bound of all parked writes.
    world.start(owner, "process.spawn", json!({ "id": "q", "command": ["a"] }));
    let data = "x".repeat(12 << 20);
    let first = world.start(owner, "process.stdin.write", json!({ "id": "q", "data": data }));
    assert!(world.answer(owner, &first).is_none());
    assert_eq!(
        world.fails(owner, "process.stdin.write", json!({ "id": "q", "data": data })).0,
        "E_WOULD_BLOCK"
    );
}
