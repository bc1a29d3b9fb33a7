//! Processes that die with their connection, and what becomes of them when it was the kernel that died.

use crate::harness::World;
use kairo_controlplane::digest::GuardianDigest;
use kairo_dataplane::command::Commands;
use kairo_dataplane::control::{Descriptors, ExitStatus, Notice};
use kairo_dataplane::keeper::settlement::Heir;
use kairo_dataplane::key::{ConnectionKey, ProcessKey};
use serde_json::{Value, json};
use std::sync::Arc;

fn guarded(id: &str) -> Value {
    json!({ "id": id, "command": ["a"], "options": { "onDisconnect": "kill" } })
}

fn hello(world: &mut World, connection: ConnectionKey, resumes: Option<&str>) -> String {
    let params = match resumes {
        Some(token) => json!({ "features": ["records"], "resumes": token }),
        None => json!({ "features": ["records"] }),
    };
    world.ok(connection, "kernel.hello", params)["connection"].as_str().unwrap().to_owned()
}

/// What adoption does with a ward: here to a process that has just been started without a guardian.
fn orphan(world: &mut World, process: ProcessKey, token: &str) {
    let mut out = Commands::default();
    world.kernel.orphan_ward(world.at, process.serial, GuardianDigest::of(token), &mut out);
    world.carry_out(None, out);
}

const TOKEN: &str = "00112233445566778899aabbccddeeff";

#[test]
fn a_connection_has_a_token_nobody_can_guess_and_keeps_it() {
    let mut world = World::new();
    let (one, other) = (world.owner(), world.owner());
    let token = hello(&mut world, one, None);
    assert_eq!(token.len(), 32);
    assert_eq!(hello(&mut world, one, None), token);
    assert_ne!(hello(&mut world, other, None), token);
    // One that resumes nothing is a connection like any other.
    let third = world.owner();
    assert_ne!(hello(&mut world, third, Some(&token)), token);
}

#[test]
fn the_record_of_a_ward_names_its_guardian_and_doesnt_tell_the_token() {
    let mut world = World::new();
    let owner = world.owner();
    world.start(owner, "process.spawn", guarded("p"));
    let spawn = world.take_spawn().unwrap();
    let record: Value =
        kairo_wire::codec::raw::RawRef::new(&spawn.record).map(crate::harness::value).unwrap();
    let token = hello(&mut world, owner, None);
    assert_eq!(record["guardian"], json!(GuardianDigest::of(&token).to_string()));
    world.start(owner, "process.spawn", json!({ "id": "free", "command": ["a"] }));
    let spawn = world.take_spawn().unwrap();
    let record: Value =
        kairo_wire::codec::raw::RawRef::new(&spawn.record).map(crate::harness::value).unwrap();
    assert_eq!(record["guardian"], Value::Null);
}

#[test]
fn an_orphan_is_its_clients_again_when_the_client_is_back_in_time() {
    let mut world = World::new();
    let (first, second) = (world.owner(), world.owner());
    let (process, _) = world.run(first, "p");
    orphan(&mut world, process, TOKEN);
    world.advance(9_999);
    assert_eq!(hello(&mut world, second, Some(TOKEN)), TOKEN, "it goes by the token in the session's record");
    world.advance(60_000);
    assert!(world.take_signal().is_none());
    world.disconnect(second);
    assert_eq!(world.take_signal().unwrap(), (process, 15, None));
}

#[test]
fn an_orphan_nobody_comes_back_for_is_ended_after_the_grace() {
    let mut world = World::new();
    let (owner, late) = (world.owner(), world.owner());
    let (process, _) = world.run(owner, "p");
    orphan(&mut world, process, TOKEN);
    // Another client, or the same one under another name, changes nothing.
    hello(&mut world, owner, Some("ffffffffffffffffffffffffffffffff"));
    world.advance(10_000);
    assert_eq!(world.take_signal().unwrap(), (process, 15, None));
    assert_ne!(hello(&mut world, late, Some(TOKEN)), TOKEN);
    world.exits(process, ExitStatus::Signal { signal: 15, core: false });
    let exit = world.ok(owner, "process.wait", json!({ "id": "p" }))["exit"].clone();
    assert_eq!(exit["endedBy"]["cause"], "disconnect");
}

#[test]
fn a_token_gives_nobody_what_it_may_not_touch() {
    let mut world = World::of_root();
    let (root, alice) = (world.user(0), world.user(2_000));
    let (process, _) = world.run(root, "p");
    orphan(&mut world, process, TOKEN);
    assert_ne!(hello(&mut world, alice, Some(TOKEN)), TOKEN);
    world.advance(10_000);
    assert_eq!(world.take_signal().unwrap(), (process, 15, None));
}

#[test]
fn an_orphan_that_ends_by_itself_leaves_no_timer() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    orphan(&mut world, process, TOKEN);
    world.finish(process, 0);
    world.run(owner, "p");
    world.take_forget().expect("the former life is forgotten");
    assert!(world.timers.len() <= 1, "only that of retained records");
    world.advance(20_000);
    assert!(world.take_signal().is_none());
}

#[test]
fn a_connection_with_a_token_of_its_own_keeps_it_and_takes_the_wards() {
    let mut world = World::new();
    let owner = world.owner();
    let token = hello(&mut world, owner, None);
    let (process, _) = world.run(owner, "p");
    orphan(&mut world, process, TOKEN);
    assert_eq!(hello(&mut world, owner, Some(TOKEN)), token);
    world.advance(20_000);
    assert!(world.take_signal().is_none());
    world.disconnect(owner);
    assert_eq!(world.take_signal().unwrap(), (process, 15, None));
}

/// A stream that this world's owner writes, as the next kernel finds it, and its owner's token.
fn published(before: &mut World) -> (ProcessKey, World, String) {
    let owner = before.owner();
    let token = hello(before, owner, None);
    before.start(owner, "stream.publish", json!({ "id": "camera" }));
    let spawn = before.take_spawn().unwrap();
    let process = spawn.process;
    let descriptors = Descriptors(Arc::default());
    before.notice(Notice::Published { process, descriptors, bytes: 65_536 });
    let mut heir = Heir::of_nothing(process, &spawn.session, 0, 0);
    (heir.session.record, heir.session.ended, heir.session.produced) = (spawn.record.to_vec(), false, true);
    let mut world = World::new();
    world.at = before.at;
    let (at, mut out) = (world.at, Commands::default());
    world.kernel.adopt(at, vec![heir], &mut out);
    world.kernel.settle_adopted(at, &mut out);
    world.carry_out(None, out);
    (process, world, token)
}

#[test]
fn a_stream_that_is_written_is_its_writers_until_its_owner_is_back() {
    let mut before = World::new();
    let (process, mut world, token) = published(&mut before);
    let someone = world.owner();
    let status = world.ok(someone, "process.status", json!({ "id": "camera", "detail": true }));
    assert_eq!(status["state"], "running");
    // Whoever writes it, of whom its keeper knows nothing.
    assert_eq!(status["pid"], status["detail"]["pid"]);
    assert_ne!(status["pid"], 0);
    world.advance(3_600_000);
    assert!(world.take_signal().is_none(), "nobody's absence ends it");
    let owner = world.owner();
    assert_eq!(hello(&mut world, owner, Some(&token)), token);
    world.disconnect(owner);
    assert_eq!(world.take_signal().unwrap(), (process, 15, None));
}

#[test]
fn a_stream_that_is_written_counts_for_whoever_published_it_and_ends_as_others_do() {
    let mut before = World::new();
    let (process, mut world, _) = published(&mut before);
    let someone = world.owner();
    let processes = |world: &mut World| {
        let told = world.ok(someone, "quota.status", json!({ "principal": "owner" }));
        let counted = told["accounts"][0]["quotas"].as_array().unwrap().clone();
        let of = counted.iter().find(|one| one["quota"] == "processes").unwrap();
        of["used"].clone()
    };
    assert_eq!(processes(&mut world), 1);
    assert_eq!(world.fails(someone, "stream.publish", json!({ "id": "camera" })).0, "E_ALREADY_EXISTS");
    world.start(someone, "process.kill", json!({ "id": "camera" }));
    assert_eq!(world.take_signal().unwrap().0, process);
    world.finish(process, 0);
    assert_eq!(processes(&mut world), 0);
}
