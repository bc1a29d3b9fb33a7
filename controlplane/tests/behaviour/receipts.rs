//! What carries an idempotency key happens once.

use crate::harness::{World, code, config};
use kairo_controlplane::config::{Config, Limits};
use kairo_controlplane::digest::IdempotencyKey;
use kairo_dataplane::command::Command;
use kairo_dataplane::control::{ExitStatus, Failure, Notice, Outcome, SpawnFailure, SpawnStage};
use kairo_dataplane::key::ConnectionKey;
use kairo_dataplane::key::WriteKey;
use kairo_wire::request::Meta;
use serde_json::{Value, json};

/// Calls with a key, under a call id of its own.
fn keyed(world: &mut World, connection: ConnectionKey, call: &str, method: &str, params: &Value, key: &str) {
    let meta = Meta { idempotency_key: Some(key.into()), ..Meta::default() };
    world.send_with(connection, &json!(call), method, params, Some(&meta));
}

fn spawn(world: &mut World, connection: ConnectionKey, call: &str, params: &Value, key: &str) {
    keyed(world, connection, call, "process.spawn", params, key);
}

fn program(id: &str) -> Value {
    json!({ "id": id, "command": ["sleep", "9"] })
}

fn answer(world: &mut World, connection: ConnectionKey, call: &str) -> Value {
    world.answer(connection, &json!(call)).expect("an answer").expect("a success")
}

fn refusal(world: &mut World, connection: ConnectionKey, call: &str) -> (String, String) {
    code(&world.answer(connection, &json!(call)).expect("an answer").expect_err("a failure"))
}

#[test]
fn a_spawn_sent_twice_while_it_is_under_way_starts_once_and_answers_both() {
    let mut world = World::new();
    let (one, other) = (world.owner(), world.owner());
    spawn(&mut world, one, "a", &program("p"), "k");
    spawn(&mut world, other, "b", &program("p"), "k");
    let (_, pid) = world.born();
    assert!(world.take_spawn().is_none());
    let receipt = json!({ "status": "spawned", "id": "p", "pid": pid });
    assert_eq!(answer(&mut world, one, "a"), receipt);
    assert_eq!(answer(&mut world, other, "b"), receipt);
}

#[test]
fn a_receipt_is_given_again_even_if_the_process_is_forgotten() {
    let mut world = World::new();
    let owner = world.owner();
    spawn(&mut world, owner, "a", &program("p"), "k");
    let (process, _) = world.born();
    let receipt = answer(&mut world, owner, "a");
    spawn(&mut world, owner, "b", &program("p"), "k");
    assert_eq!(answer(&mut world, owner, "b"), receipt);
    world.finish(process, 0);
    spawn(&mut world, owner, "c", &program("p"), "k");
    assert_eq!(answer(&mut world, owner, "c"), receipt);
    world.advance(3_600_001);
    world.take_forget().expect("the record is forgotten");
    spawn(&mut world, owner, "d", &program("p"), "k");
    assert_eq!(answer(&mut world, owner, "d"), receipt);
    assert!(world.take_spawn().is_none());
}

#[test]
fn a_key_used_for_something_else_is_a_conflict_that_names_it() {
    let mut world = World::new();
    let owner = world.owner();
    spawn(&mut world, owner, "a", &program("p"), "my-key");
    spawn(&mut world, owner, "b", &program("q"), "my-key");
    let (code, text) = refusal(&mut world, owner, "b");
    assert_eq!(code, "E_CONFLICT");
    assert!(text.contains("my-key") && text.contains("meta.idempotencyKey"), "{text}");
    world.born();
    spawn(&mut world, owner, "c", &program("q"), "my-key");
    assert_eq!(refusal(&mut world, owner, "c").0, "E_CONFLICT");
    assert!(world.take_spawn().is_none());
}

#[test]
fn a_spawn_that_failed_frees_its_key_and_tells_all_who_asked() {
    let mut world = World::new();
    let owner = world.owner();
    spawn(&mut world, owner, "a", &program("p"), "k");
    spawn(&mut world, owner, "b", &program("p"), "k");
    let process = world.take_spawn().unwrap().process;
    let failure = SpawnFailure { stage: SpawnStage::Exec, errno: 2 };
    world.notice(Notice::SpawnFailed { process, failure });
    assert_eq!(refusal(&mut world, owner, "a").0, "E_EXECUTABLE_NOT_FOUND");
    assert_eq!(refusal(&mut world, owner, "b").0, "E_EXECUTABLE_NOT_FOUND");
    spawn(&mut world, owner, "c", &program("q"), "k");
    world.born();
    assert_eq!(answer(&mut world, owner, "c")["id"], "q");
}

#[test]
fn a_key_is_its_users_own() {
    let mut world = World::of_root();
    let (root, alice) = (world.user(0), world.user(2_000));
    spawn(&mut world, root, "a", &program("p"), "k");
    spawn(&mut world, alice, "b", &program("q"), "k");
    world.born();
    world.born();
    assert_eq!(answer(&mut world, root, "a")["id"], "p");
    assert_eq!(answer(&mut world, alice, "b")["id"], "q");
}

#[test]
fn without_a_key_two_spawns_are_two() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    assert_eq!(world.fails(owner, "process.spawn", program("p")).0, "E_ALREADY_EXISTS");
    spawn(&mut world, owner, "a", &program("p"), "k");
    assert_eq!(refusal(&mut world, owner, "a").0, "E_ALREADY_EXISTS");
    spawn(&mut world, owner, "b", &program("p"), "");
    assert_eq!(refusal(&mut world, owner, "b").0, "E_INVALID_PARAMS");
}

#[test]
fn of_two_that_wait_for_an_id_with_one_key_one_starts_and_both_are_answered() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.exits(process, ExitStatus::Code(0));
    spawn(&mut world, owner, "a", &program("p"), "k");
    spawn(&mut world, owner, "b", &program("p"), "k");
    spawn(&mut world, owner, "c", &json!({ "id": "p", "command": ["other"] }), "k");
    world.closes(process);
    world.notice(Notice::Ended { process });
    let (_, pid) = world.born();
    assert_eq!(answer(&mut world, owner, "a")["pid"], pid);
    assert_eq!(answer(&mut world, owner, "b")["pid"], pid);
    assert_eq!(refusal(&mut world, owner, "c").0, "E_CONFLICT");
    assert!(world.take_spawn().is_none());
    world.advance(10_000);
}

#[test]
fn a_deadline_undoes_a_spawn_only_if_nobody_else_has_asked_for_it() {
    let mut world = World::new();
    let owner = world.owner();
    let hasty = Meta { idempotency_key: Some("k".into()), deadline_ms: Some(10), ..Meta::default() };
    world.send_with(owner, &json!("a"), "process.spawn", &program("p"), Some(&hasty));
    spawn(&mut world, owner, "b", &program("p"), "k");
    world.advance(20);
    assert_eq!(refusal(&mut world, owner, "a").0, "E_TIMEOUT");
    world.born();
    assert_eq!(answer(&mut world, owner, "b")["id"], "p");
    assert!(world.take_signal().is_none());
    // And one that is undone leaves its key to the next.
    let hasty = Meta { idempotency_key: Some("l".into()), ..hasty };
    world.send_with(owner, &json!("c"), "process.spawn", &program("q"), Some(&hasty));
    world.advance(20);
    assert_eq!(refusal(&mut world, owner, "c").0, "E_TIMEOUT");
    spawn(&mut world, owner, "d", &program("r"), "l");
    world.born();
    world.born();
    assert_eq!(answer(&mut world, owner, "d")["id"], "r");
}

#[test]
fn a_caller_that_is_gone_leaves_the_spawn_to_the_one_that_came_back() {
    let mut world = World::new();
    let one = world.owner();
    spawn(&mut world, one, "a", &program("p"), "k");
    world.disconnect(one);
    let other = world.owner();
    spawn(&mut world, other, "a", &program("p"), "k");
    let (_, pid) = world.born();
    assert_eq!(answer(&mut world, other, "a")["pid"], pid);
    assert!(world.take_spawn().is_none());
}

#[test]
fn a_kernel_is_told_the_keys_of_the_one_before() {
    // What the first kernel wrote down …
    let mut world = World::new();
    let owner = world.owner();
    spawn(&mut world, owner, "a", &program("p"), "k");
    let record = world.take_spawn().unwrap().record;
    let record: Value = kairo_wire::codec::raw::RawRef::new(&record).map(crate::harness::value).unwrap();
    let key = IdempotencyKey::from_text(record["idempotencyKey"].as_str().unwrap()).unwrap();
    // … the second one, which has its own secrets, looks up.
    let mut world = World::new();
    let owner = world.owner();
    let (process, pid) = world.run(owner, "p");
    world.kernel.remember_key(world.at, process.serial, key);
    spawn(&mut world, owner, "a", &program("p"), "k");
    assert_eq!(answer(&mut world, owner, "a"), json!({ "status": "spawned", "id": "p", "pid": pid }));
    spawn(&mut world, owner, "b", &program("q"), "k");
    assert_eq!(refusal(&mut world, owner, "b").0, "E_CONFLICT");
    // Told twice, the later one counts.
    let (other, _) = world.run(owner, "q");
    world.kernel.remember_key(world.at, other.serial, key);
    assert_eq!(world.kernel.broken(), Vec::<String>::new());
    spawn(&mut world, owner, "c", &program("p"), "k");
    assert_eq!(answer(&mut world, owner, "c")["id"], "q");
}

#[test]
fn a_later_kernel_gives_the_receipts_of_the_one_before() {
    let mut world = World::new();
    let owner = world.owner();
    spawn(&mut world, owner, "a", &program("p"), "k");
    world.born();
    let receipt = answer(&mut world, owner, "a");
    let event = json!({ "type": "a.b", "data": 1 });
    keyed(&mut world, owner, "b", "event.publish", &event, "k");
    let published = answer(&mut world, owner, "b");
    let mut world = World::over(config(), world.kept);
    let owner = world.owner();
    spawn(&mut world, owner, "a", &program("p"), "k");
    assert_eq!(answer(&mut world, owner, "a"), receipt, "of a process it has never heard of");
    assert!(world.take_spawn().is_none());
    keyed(&mut world, owner, "b", "event.publish", &event, "k");
    assert_eq!(answer(&mut world, owner, "b"), published);
    let meta = world.meta.take().unwrap()["idempotency"].clone();
    assert_eq!((&meta["replayed"], &meta["durable"]), (&json!(true), &json!(true)));
    keyed(&mut world, owner, "c", "event.publish", &json!({ "type": "a.c" }), "k");
    assert_eq!(refusal(&mut world, owner, "c").0, "E_CONFLICT");
}

#[test]
fn an_event_with_a_key_is_published_once_and_says_so() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "kernel.hello", json!({ "features": ["envelope"] }));
    world.ok(owner, "subscribe", json!({ "topic": "a.b" }));
    for call in ["a", "b", "c"] {
        keyed(&mut world, owner, call, "event.publish", &json!({ "type": "a.b" }), "once");
    }
    let first = answer(&mut world, owner, "a");
    assert_eq!(answer(&mut world, owner, "b"), first);
    assert_eq!(answer(&mut world, owner, "c"), first);
    let events = world.envelopes(owner);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["idempotencyKey"], "once");
}

#[test]
fn an_answer_names_the_edge_of_the_window() {
    let limits = Limits { receipts_max: 3, receipt_ms: 1_000, ..Limits::default() };
    let mut world = World::with(Config { limits, ..config() });
    let owner = world.owner();
    let event = json!({ "type": "a.b" });
    let now = world.at.wall_ns / 1_000_000;
    keyed(&mut world, owner, "a", "event.publish", &event, "k0");
    let first = answer(&mut world, owner, "a");
    assert_eq!(
        world.meta.take().unwrap()["idempotency"],
        json!({
            "replayed": false, "durable": true, "expiresAtMs": now + 1_000, "newer": 0, "newerMax": 3,
            "oldestAtMs": now,
        })
    );
    for number in 1..3 {
        keyed(&mut world, owner, "b", "event.publish", &event, &format!("k{number}"));
    }
    keyed(&mut world, owner, "c", "event.publish", &event, "k0");
    assert_eq!(answer(&mut world, owner, "c"), first);
    assert_eq!(world.meta.take().unwrap()["idempotency"]["newer"], 2);
    // One more, and the first is out of the window.
    keyed(&mut world, owner, "d", "event.publish", &event, "k3");
    keyed(&mut world, owner, "e", "event.publish", &event, "k0");
    assert_ne!(answer(&mut world, owner, "e"), first);
    assert_eq!(world.kept.reader().values(b"once/").unwrap().len(), 3, "and out of the log");
    // And so are all that are too old.
    keyed(&mut world, owner, "f", "event.publish", &event, "k3");
    let third = answer(&mut world, owner, "f");
    world.advance(1_000);
    keyed(&mut world, owner, "g", "event.publish", &event, "k3");
    assert_ne!(answer(&mut world, owner, "g"), third);
    assert_eq!(world.kept.reader().values(b"once/").unwrap().len(), 1);
    // Without a key nothing is said.
    world.ok(owner, "event.publish", event);
    assert_eq!(world.meta, None);
}

#[test]
fn nobody_is_answered_before_the_log_has_the_receipt() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.keeps = false;
    let kill = json!({ "id": "p" });
    keyed(&mut world, owner, "a", "process.kill", &kill, "k");
    let (_, _, ticket) = world.take_signal().unwrap();
    keyed(&mut world, owner, "b", "process.kill", &kill, "k");
    world.done(ticket.unwrap(), Ok(Outcome::Signalled { processes: 1 }));
    keyed(&mut world, owner, "c", "process.kill", &kill, "k");
    assert!(world.take_signal().is_none(), "it is killed once");
    for call in ["a", "b", "c"] {
        assert!(world.answer(owner, &json!(call)).is_none());
    }
    world.keeps = true;
    world.keep();
    let killed = json!({ "status": "killed", "id": "p" });
    for call in ["a", "b", "c"] {
        assert_eq!(answer(&mut world, owner, call), killed);
    }
    world.finish(process, 0);
}

#[test]
fn memory_is_enough_for_whoever_says_so() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "kernel.ping", json!({}));
    world.keeps = false;
    keyed(&mut world, owner, "a", "event.publish", &json!({ "type": "a", "ack": "memory" }), "k");
    let first = answer(&mut world, owner, "a");
    assert_eq!(world.meta.as_ref().unwrap()["idempotency"]["durable"], false);
    keyed(&mut world, owner, "b", "event.publish", &json!({ "type": "a", "ack": "memory" }), "k");
    assert_eq!(answer(&mut world, owner, "b"), first);
}

#[test]
fn what_is_under_way_outlives_its_caller() {
    let mut world = World::new();
    let one = world.owner();
    let (process, _) = world.run(one, "p");
    keyed(&mut world, one, "a", "process.signal", &json!({ "id": "p", "signal": "HUP" }), "k");
    let (_, _, ticket) = world.take_signal().unwrap();
    world.disconnect(one);
    let other = world.owner();
    keyed(&mut world, other, "b", "process.signal", &json!({ "id": "p", "signal": "HUP" }), "k");
    assert!(world.take_signal().is_none(), "it is under way");
    world.done(ticket.unwrap(), Ok(Outcome::Signalled { processes: 2 }));
    assert_eq!(answer(&mut world, other, "b")["processes"], 2);
    assert_eq!(world.meta.take().unwrap()["idempotency"]["replayed"], true);
    // A deadline that passes says so to the one, and the other gets the truth.
    let hasty = Meta { idempotency_key: Some("l".into()), deadline_ms: Some(10), ..Meta::default() };
    let pause = json!({ "id": "p" });
    world.send_with(other, &json!("c"), "process.pause", &pause, Some(&hasty));
    let (_, _, ticket) = world.take_signal().unwrap();
    world.advance(20);
    assert_eq!(refusal(&mut world, other, "c").0, "E_TIMEOUT");
    world.done(ticket.unwrap(), Ok(Outcome::Ok));
    keyed(&mut world, other, "d", "process.pause", &pause, "l");
    assert_eq!(answer(&mut world, other, "d")["status"], "paused");
    world.finish(process, 0);
}

#[test]
fn a_failure_frees_the_key_of_any_call() {
    let mut world = World::new();
    let owner = world.owner();
    keyed(&mut world, owner, "a", "process.kill", &json!({ "id": "p" }), "k");
    assert_eq!(refusal(&mut world, owner, "a").0, "E_NOT_FOUND");
    world.run(owner, "p");
    keyed(&mut world, owner, "b", "process.kill", &json!({ "id": "p" }), "k");
    let (_, _, ticket) = world.take_signal().expect("now it is carried out");
    keyed(&mut world, owner, "c", "process.kill", &json!({ "id": "p" }), "k");
    world.done(ticket.unwrap(), Err(Failure::Os(1)));
    assert_eq!(refusal(&mut world, owner, "b").0, "E_INTERNAL");
    assert_eq!(refusal(&mut world, owner, "c").0, "E_INTERNAL");
    keyed(&mut world, owner, "d", "process.kill", &json!({ "id": "p" }), "k");
    assert!(world.take_signal().is_some());
}

#[test]
fn a_log_that_fails_takes_back_what_was_not_published_and_nothing_else() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    world.keeps = false;
    keyed(&mut world, owner, "a", "event.publish", &json!({ "type": "a" }), "k");
    keyed(&mut world, owner, "b", "process.kill", &json!({ "id": "p" }), "k");
    let (_, _, ticket) = world.take_signal().unwrap();
    world.done(ticket.unwrap(), Ok(Outcome::Ok));
    let mut out = kairo_dataplane::command::Commands::default();
    world.kernel.log_failed(world.at, "the disk is gone", &mut out);
    world.carry_out(None, out);
    assert_eq!(refusal(&mut world, owner, "a").0, "E_UNAVAILABLE");
    assert_eq!(answer(&mut world, owner, "b")["status"], "killed");
    assert_eq!(world.meta.take().unwrap()["idempotency"]["durable"], false);
    keyed(&mut world, owner, "c", "event.publish", &json!({ "type": "a" }), "k");
    assert_eq!(refusal(&mut world, owner, "c").0, "E_UNAVAILABLE");
    keyed(&mut world, owner, "d", "process.kill", &json!({ "id": "p" }), "k");
    assert_eq!(answer(&mut world, owner, "d")["status"], "killed");
    assert!(world.take_signal().is_none(), "this kernel still knows");
}

#[test]
fn a_flush_that_fails_acknowledges_nothing_that_was_to_be_on_the_disk() {
    let mut world = World::new();
    let owner = world.owner();
    world.flushes = false;
    for (ack, call) in [("disk", "a"), ("log", "b")] {
        keyed(&mut world, owner, call, "event.publish", &json!({ "type": "a", "ack": ack }), call);
    }
    let mut out = kairo_dataplane::command::Commands::default();
    world.kernel.log_failed(world.at, "the disk is gone", &mut out);
    world.carry_out(None, out);
    assert_eq!(refusal(&mut world, owner, "a").0, "E_UNAVAILABLE");
    answer(&mut world, owner, "b");
    keyed(&mut world, owner, "c", "event.publish", &json!({ "type": "a", "ack": "disk" }), "a");
    assert_eq!(refusal(&mut world, owner, "c").0, "E_UNAVAILABLE");
}

#[test]
fn a_write_carries_its_key_to_whoever_knows_what_was_written() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    let mut written = |data: &str, key: &str| -> Option<WriteKey> {
        let params = json!({ "id": "p", "data": data });
        keyed(&mut world, owner, "w", "process.stdin.write", &params, key);
        match world.commands.pop() {
            Some(Command::Write { key, .. }) => key,
            other => panic!("{other:?}"),
        }
    };
    let first = written("x", "k").unwrap();
    assert_eq!(written("x", "k"), Some(first));
    assert_eq!(written("x", "l").map(|key| (key.key != first.key, key.body)), Some((true, first.body)));
    assert_eq!(written("y", "k").map(|key| (key.key, key.body != first.body)), Some((first.key, true)));
    world.start(owner, "process.stdin.write", json!({ "id": "p", "data": "x" }));
    assert!(matches!(world.commands.pop(), Some(Command::Write { key: None, .. })));
}
