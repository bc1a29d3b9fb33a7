//! What is written down of a life, what a spawn waits for, who is started again, and what a kernel makes of the records of
//! one before it.

use crate::harness::{OWNER, World, code, config};
use kairo_controlplane::config::Config;
use kairo_controlplane::records::{Entry, Ledger, Recollection, Spec};
use kairo_dataplane::command::{Commands, Spawn};
use kairo_dataplane::control::{ExitStatus, Notice, SpawnFailure, SpawnStage, Usage};
use kairo_dataplane::keeper::settlement::Heir;
use kairo_dataplane::key::{ConnectionKey, ProcessKey};
use kairo_wire::event::LossCause;
use serde_json::{Value, json};

fn entries(world: &World) -> Vec<Entry> {
    world.records.iter().map(|record| Entry::from_bytes(&record.clear).expect("an entry")).collect()
}

/// What the next kernel would find.
fn past(world: &World) -> Vec<Recollection> {
    let mut ledger = Ledger::default();
    for record in &world.records {
        ledger.apply(Entry::from_bytes(&record.clear).expect("an entry"));
        let spec = Some(&record.secret).filter(|bytes| !bytes.is_empty());
        ledger.specify(spec.map(|bytes| Spec::from_bytes(bytes).expect("a spec")));
    }
    ledger.into_lives()
}

/// A new kernel with the records of a former one.
fn after(world: &World, cause: LossCause) -> World {
    let mut next = World::new();
    next.at = world.at;
    recall(&mut next, past(world), cause);
    next
}

fn recall(world: &mut World, past: Vec<Recollection>, cause: LossCause) {
    let mut out = Commands::default();
    world.kernel.recall(world.at, past, cause, &mut out);
    world.carry_out(None, out);
}

fn flushed(world: &mut World, flushed: bool) {
    let (at, entries) = (world.at, world.entries);
    if flushed {
        return world.tell(|kernel, out| kernel.flushed(at, entries, out));
    }
    world.tell(|kernel, out| {
        kernel.log_failed(at, "the disk is full", out);
        false
    });
}

fn phase(world: &mut World, owner: ConnectionKey, id: &str) -> Value {
    world.ok(owner, "process.status", json!({ "id": id, "detail": true }))["detail"]["phase"].clone()
}

fn supervised(world: &mut World, owner: ConnectionKey, restart: Value) -> ProcessKey {
    world.run_with(owner, json!({ "id": "p", "command": ["a"], "options": { "restart": restart } })).0
}

fn topics(world: &mut World, owner: ConnectionKey) -> Vec<(String, Value)> {
    let events = world.events(owner).into_iter();
    events.filter(|(topic, _)| topic.contains("restart") || topic.contains("lost")).collect()
}

#[test]
fn a_life_is_written_down_from_its_beginning_to_its_end_and_nobody_waits() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, pid) = world.run(owner, "p");
    world.finish(process, 3);
    let written = entries(&world);
    let Entry::Spawned(life) = &written[0] else { panic!("{written:?}") };
    assert_eq!((life.pid, life.owner_uid, life.argv.len()), (pid, OWNER, 2));
    assert!(matches!(written[1], Entry::Exited { status: ExitStatus::Code(3), .. }));
    assert!(matches!(written.last(), Some(Entry::Ended { due: false, .. })));
    assert!(world.records.iter().all(|record| record.secret.is_empty()));
    assert!(past(&world).is_empty());
}

#[test]
fn who_wants_no_record_has_none_and_an_embedded_kernel_keeps_none() {
    let mut world = World::new();
    let owner = world.owner();
    let options = json!({ "id": "p", "command": ["a"], "options": { "durable": false } });
    let (process, _) = world.run_with(owner, options);
    world.finish(process, 0);
    assert!(world.records.is_empty());
    let mut world = World::with(Config { embedded: true, ..config() });
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.finish(process, 0);
    assert!(world.records.is_empty());
    for options in [json!({ "durable": true }), json!({ "restart": "always" })] {
        let params = json!({ "id": "q", "command": ["a"], "options": options });
        assert_eq!(world.fails(owner, "process.spawn", params).0, "E_UNSUPPORTED");
    }
}

#[test]
fn a_spawn_that_insists_is_answered_when_the_disk_has_its_record() {
    let mut world = World::new();
    world.flushes = false;
    let owner = world.owner();
    let params = json!({ "id": "p", "command": ["a"], "options": { "durable": true } });
    let call = world.start(owner, "process.spawn", params);
    let (process, pid) = world.born();
    assert!(world.answer(owner, &call).is_none());
    // It may be over before the disk is ready, and its id be taken: it is answered all the same.
    world.finish(process, 0);
    assert_eq!(phase(&mut world, owner, "p"), "ended");
    flushed(&mut world, true);
    assert_eq!(world.answer(owner, &call).unwrap().unwrap()["pid"], pid);
    let detail = world.ok(owner, "process.status", json!({ "id": "p", "detail": true }))["detail"].clone();
    assert_eq!(detail["record"], "written");
}

#[test]
fn what_the_disk_does_not_take_is_refused_and_killed_and_told_once() {
    let mut world = World::new();
    world.flushes = false;
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.kernel.>" }));
    let params = json!({ "id": "p", "command": ["a"], "options": { "durable": true } });
    let call = world.start(owner, "process.spawn", params.clone());
    let (process, _) = world.born();
    flushed(&mut world, false);
    let error = world.answer(owner, &call).unwrap().unwrap_err();
    assert_eq!(code(&error).0, "E_UNAVAILABLE");
    assert!(error.text.contains("durable"), "{}", error.text);
    assert_eq!(world.take_signal().map(|(who, signal, _)| (who, signal)), Some((process, 15)));
    for _ in 0..2 {
        let mut out = Commands::default();
        world.kernel.log_failed(world.at, "the disk is full", &mut out);
        world.carry_out(None, out);
    }
    let events = world.events(owner);
    let told: Vec<_> = events.iter().filter(|(topic, _)| topic == "kairo.kernel.records_failed").collect();
    assert_eq!(told.len(), 1);
    let again = json!({ "id": "q", "command": ["a"], "options": { "durable": true } });
    assert_eq!(world.fails(owner, "process.spawn", again).0, "E_UNAVAILABLE");
    // Others go on.
    world.run(owner, "r");
    let facts = world.ok(owner, "kernel.doctor", json!({}))["facts"].clone();
    let fact =
        facts.as_array().unwrap().iter().find(|fact| fact["name"] == "durableRecords").unwrap().clone();
    assert_eq!((&fact["holds"], &fact["value"]), (&json!(false), &json!("the disk is full")));
}

#[test]
fn who_asked_for_it_is_started_again_later_and_later_until_it_has_had_enough() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.process.>" }));
    let wish = json!({ "policy": "on_failure", "limit": 2, "backoffMs": 100, "backoffMaxMs": 150 });
    let mut process = supervised(&mut world, owner, wish);
    for (delay, attempt) in [(100, 1), (150, 2)] {
        world.finish(process, 1);
        world.advance(delay - 1);
        assert!(world.take_spawn().is_none(), "not before its time");
        let status =
            world.ok(owner, "process.status", json!({ "id": "p", "detail": true }))["detail"].clone();
        assert_eq!(status["restart"]["pending"], true);
        world.advance(1);
        process = world.born().0;
        let told = topics(&mut world, owner);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((&told[0].1["attempt"], &told[0].1["cause"]), (&json!(attempt), &json!("exited")));
        assert_ne!(told[0].1["session"], told[0].1["former"]);
    }
    world.finish(process, 1);
    world.advance(10_000);
    assert!(world.take_spawn().is_none());
    assert_eq!(topics(&mut world, owner)[0].0, "kairo.process.restarts_spent");
    assert!(past(&world).is_empty());
}

#[test]
fn a_life_that_lasted_makes_the_count_begin_anew() {
    let mut world = World::new();
    let owner = world.owner();
    let wish = json!({ "policy": "always", "limit": 1, "backoffMs": 10, "resetAfterMs": 1_000 });
    let mut process = supervised(&mut world, owner, wish);
    for _ in 0..3 {
        world.advance(1_000);
        world.finish(process, 0);
        world.advance(10);
        process = world.born().0;
    }
}

#[test]
fn success_is_no_failure_and_what_a_client_ends_stays_ended() {
    let mut world = World::new();
    let owner = world.owner();
    let process = supervised(&mut world, owner, json!("on_failure"));
    world.finish(process, 0);
    world.advance(100_000);
    assert!(world.take_spawn().is_none(), "it succeeded");
    // Killed while it runs, and while it waits for its next life.
    let process = supervised(&mut world, owner, json!("always"));
    world.start(owner, "process.kill", json!({ "id": "p" }));
    world.exits(process, ExitStatus::Signal { signal: 15, core: false });
    world.closes(process);
    world.notice(Notice::Ended { process });
    world.advance(100_000);
    assert!(world.take_spawn().is_none(), "it was killed");
    let process = supervised(&mut world, owner, json!("always"));
    world.finish(process, 0);
    world.ok(owner, "process.kill", json!({ "id": "p" }));
    world.advance(100_000);
    assert!(world.take_spawn().is_none(), "its next life was called off");
    assert!(past(&world).is_empty());
}

#[test]
fn what_is_left_of_a_tree_goes_before_the_next_life_comes() {
    let mut world = World::new();
    let owner = world.owner();
    let process = supervised(&mut world, owner, json!("always"));
    world.exits(process, ExitStatus::Code(0));
    assert_eq!(world.take_signal().map(|(who, signal, _)| (who, signal)), Some((process, 15)));
    world.advance(4_999);
    assert!(world.take_spawn().is_none());
    world.advance(1);
    assert_eq!(world.take_signal().map(|(who, signal, _)| (who, signal)), Some((process, 9)));
    world.closes(process);
    world.notice(Notice::Ended { process });
    world.advance(500);
    world.born();
}

#[test]
fn a_spawn_over_an_id_that_waits_for_its_next_life_gets_it() {
    let mut world = World::new();
    let owner = world.owner();
    let process = supervised(&mut world, owner, json!("always"));
    world.finish(process, 0);
    world.run(owner, "p");
    world.advance(100_000);
    assert!(world.take_spawn().is_none());
}

#[test]
fn a_restart_whose_program_is_gone_counts_as_a_life_and_is_tried_again() {
    let mut world = World::new();
    let owner = world.owner();
    let process =
        supervised(&mut world, owner, json!({ "policy": "on_failure", "limit": 2, "backoffMs": 10 }));
    world.finish(process, 1);
    for _ in 0..2 {
        world.advance(20);
        let process = world.take_spawn().expect("it is tried").process;
        let failure = SpawnFailure { stage: SpawnStage::Exec, errno: 2 };
        world.notice(Notice::SpawnFailed { process, failure });
        assert_eq!(world.ok(owner, "process.wait", json!({ "id": "p" }))["exitCode"], 127);
    }
    world.advance(100_000);
    assert!(world.take_spawn().is_none());
    assert!(past(&world).is_empty(), "nothing is due any more");
}

#[test]
fn secrets_and_restarts_from_the_records_are_refused_together() {
    let mut world = World::new();
    let owner = world.owner();
    let with = |more: Value| {
        let mut options = json!({ "restart": "always", "env": { "A": "b" } });
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "id": "p", "command": ["a", "b"], "options": options })
    };
    for (name, more) in [
        ("secretEnv", json!({ "secretEnv": ["A"] })),
        ("secretArgs", json!({ "secretArgs": [1] })),
        ("durable", json!({ "durable": false })),
    ] {
        let (code, text) = world.fails(owner, "process.spawn", with(more.clone()));
        assert_eq!(code, "E_CONFLICT");
        assert!(text.contains(name) && text.contains("restart"), "{text}");
        // As long as the kernel lives it needs no record.
        let mut params = with(more);
        params["options"]["restart"] = json!({ "policy": "always", "reach": "kernel", "backoffMs": 1 });
        let (process, _) = world.run_with(owner, params);
        assert!(world.records.iter().all(|record| record.secret.is_empty()));
        world.finish(process, 0);
        world.advance(1);
        let (process, _) = world.born();
        world.ok(owner, "process.status", json!({ "id": "p" }));
        world.start(owner, "process.kill", json!({ "id": "p" }));
        world.exits(process, ExitStatus::Signal { signal: 15, core: false });
        world.closes(process);
        world.notice(Notice::Ended { process });
    }
}

#[test]
fn environments_are_in_no_record_in_clear() {
    let mut world = World::new();
    let owner = world.owner();
    let options = json!({ "env": { "TOKEN": "hunter3" }, "restart": "always" });
    world.run_with(owner, json!({ "id": "p", "command": ["a"], "options": options }));
    let holds = |bytes: &[u8]| bytes.windows(7).any(|window| window == b"hunter3");
    assert!(world.records.iter().all(|record| !holds(&record.clear)));
    assert!(world.records.iter().any(|record| holds(&record.secret)), "that is what is sealed");
}

#[test]
fn what_had_not_ended_is_lost_and_said_to_be() {
    let mut before = World::new();
    let owner = before.owner();
    before.run(owner, "ran");
    let (process, _) = before.run(owner, "over");
    before.finish(process, 0);
    let (process, _) = before.run(owner, "half");
    before.exits(process, ExitStatus::Code(4));
    before.advance(60_000);
    let mut world = after(&before, LossCause::Reboot);
    let owner = world.owner();
    assert_eq!(phase(&mut world, owner, "ran"), "lost");
    for method in ["process.wait", "process.kill"] {
        let (code, text) = world.fails(owner, method, json!({ "id": "ran" }));
        assert_eq!(code, "E_LOST", "{text}");
    }
    assert_eq!(world.ok(owner, "process.wait", json!({ "id": "half" }))["exitCode"], 4);
    assert_eq!(world.ok(owner, "process.status", json!({ "id": "over" })), json!({ "state": "unknown" }));
    let detail = world.ok(owner, "process.status", json!({ "id": "ran", "detail": true }))["detail"].clone();
    assert_eq!(detail["argv"], json!(["sleep", "9"]));
    let ago = world.at.wall_ns / 1_000_000 - detail["startedAtMs"].as_u64().unwrap();
    assert_eq!(ago, 60_000);
    // The next kernel but one hears of it too, but as of old news.
    let lost = entries(&world).into_iter().filter(|entry| matches!(entry, Entry::Lost { .. })).count();
    assert_eq!(lost, 2);
    // A spawn over a lost id gets it.
    world.run(owner, "ran");
}

#[test]
fn a_reader_of_a_lost_process_waits_for_the_ids_next_life() {
    let mut before = World::new();
    let owner = before.owner();
    before.run(owner, "p");
    let mut world = after(&before, LossCause::Keeper);
    let owner = world.owner();
    world.ok(owner, "process.stdout.subscribe", json!({ "pid": "p" }));
    let subscription = world.take_subscribe().expect("the data plane is asked").subscription;
    world.notice(Notice::Drained { subscription });
    world.run(owner, "p");
    assert!(world.take_subscribe().is_some());
}

#[test]
fn a_lost_process_that_asked_for_it_is_started_again_with_all_it_was_given() {
    let mut before = World::new();
    let owner = before.owner();
    let options =
        json!({ "env": { "A": "b" }, "cwd": "/srv", "restart": { "policy": "on_failure", "backoffMs": 10 } });
    before.run_with(owner, json!({ "id": "p", "command": ["a", "c"], "options": options }));
    let mut world = after(&before, LossCause::Reboot);
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.process.>" }));
    world.advance(10);
    let spawn = world.take_spawn().expect("it is started again");
    assert_eq!(spawn.argv, [b"a", b"c"]);
    assert!(spawn.env.contains(&b"A=b".to_vec()));
    assert_eq!(spawn.cwd.as_deref(), Some(&b"/srv"[..]));
    assert_eq!(topics(&mut world, owner)[0].1["cause"], "lost");
}

#[test]
fn a_life_that_was_due_begins_under_the_next_kernel() {
    let mut before = World::new();
    let owner = before.owner();
    let process = supervised(&mut before, owner, json!({ "policy": "always", "backoffMs": 50 }));
    before.finish(process, 0);
    let mut world = after(&before, LossCause::Reboot);
    world.advance(100);
    world.born();
    assert!(world.take_spawn().is_none(), "once");
}

#[test]
fn what_was_killed_or_came_from_another_machine_is_not_started_again() {
    let mut before = World::new();
    let owner = before.owner();
    supervised(&mut before, owner, json!("always"));
    let mut moved = after(&before, LossCause::Moved);
    moved.advance(1_000_000);
    assert!(moved.take_spawn().is_none());
    before.start(owner, "process.kill", json!({ "id": "p" }));
    let mut world = after(&before, LossCause::Reboot);
    world.advance(1_000_000);
    assert!(world.take_spawn().is_none());
    let owner = world.owner();
    assert_eq!(phase(&mut world, owner, "p"), "lost");
}

#[test]
fn what_the_keeper_handed_over_is_never_started_again_but_watched_again() {
    let mut world = World::new();
    let owner = world.owner();
    let process = supervised(&mut world, owner, json!({ "policy": "always", "backoffMs": 10 }));
    // The tables are as after an adoption: the session is there, its wish is what the records bring.
    let memories = past(&world);
    assert_eq!(memories.len(), 1);
    recall(&mut world, memories, LossCause::Keeper);
    world.advance(1_000_000);
    assert!(world.take_spawn().is_none(), "it runs");
    assert_eq!(phase(&mut world, owner, "p"), "running");
    world.finish(process, 1);
    world.advance(10);
    world.born();
    assert!(world.take_spawn().is_none(), "once");
}

#[test]
fn after_a_shutdown_nothing_is_due() {
    let mut world = World::new();
    let owner = world.owner();
    let waiting = supervised(&mut world, owner, json!("always"));
    world.finish(waiting, 0);
    let params = json!({ "id": "q", "command": ["a"], "options": { "restart": "always" } });
    let (running, _) = world.run_with(owner, params);
    world.ok(owner, "kernel.shutdown", json!({}));
    world.exits(running, ExitStatus::Signal { signal: 15, core: false });
    world.closes(running);
    world.notice(Notice::Ended { process: running });
    assert!(past(&world).is_empty());
}

#[test]
fn a_life_that_lasted_until_the_reboot_makes_the_count_begin_anew() {
    let mut before = World::new();
    let owner = before.owner();
    let process = supervised(&mut before, owner, json!({ "policy": "always", "backoffMs": 10 }));
    before.finish(process, 0);
    before.advance(10);
    before.born();
    before.advance(3_600_000);
    let mut world = World::new();
    // The clock that counts from the boot has hardly begun.
    world.at.wall_ns = before.at.wall_ns;
    recall(&mut world, past(&before), LossCause::Reboot);
    let owner = world.owner();
    let detail = world.ok(owner, "process.status", json!({ "id": "p", "detail": true }))["detail"].clone();
    assert_eq!((&detail["phase"], &detail["restart"]["attempts"]), (&json!("lost"), &json!(1)));
}

/// What a keeper holds of a life whose outputs have closed. `over`: the dead kernel had told its ends.
fn held(spawn: &Spawn, over: bool) -> Heir {
    let mut heir = Heir::of_nothing(spawn.process, &spawn.session, 7, 1);
    heir.session.record = spawn.record.to_vec();
    heir.session.ended = over;
    heir.session.exit = over.then(|| (ExitStatus::Code(1), Usage::default()));
    heir
}

/// A life and the one behind it: the first has exited and ended, and its outputs have closed after that.
fn two_lives(world: &mut World) -> [Box<Spawn>; 2] {
    let owner = world.owner();
    let restart = json!({ "policy": "always", "backoffMs": 10 });
    let wish = json!({ "id": "p", "command": ["a"], "options": { "restart": restart } });
    world.start(owner, "process.spawn", wish);
    let first = world.take_spawn().expect("it is under way");
    let process = world.bear(&first).0;
    world.exits(process, ExitStatus::Code(1));
    world.notice(Notice::Ended { process });
    world.advance(10);
    [first, world.take_spawn().expect("the next one is under way")]
}

/// What the next kernel tells of both: topics and sessions.
fn told_of(
    lives: &[Box<Spawn>; 2],
    over: bool,
    past: Vec<Recollection>,
    before: &World,
) -> Vec<(String, usize)> {
    let mut world = World::new();
    world.at = before.at;
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.>" }));
    let heirs = vec![held(&lives[0], over), held(&lives[1], false)];
    let (at, mut out) = (world.at, Commands::default());
    world.kernel.adopt(at, heirs, &mut out);
    world.kernel.recall(at, past, LossCause::Keeper, &mut out);
    world.kernel.settle_adopted(at, &mut out);
    world.carry_out(None, out);
    let life = |data: &Value| lives.iter().position(|life| data["session"] == life.session.as_str());
    world.events(owner).into_iter().filter_map(|(topic, data)| Some((topic, life(&data)?))).collect()
}

#[test]
fn of_two_lives_under_one_id_the_older_is_told_its_closes() {
    let mut before = World::new();
    let lives = two_lives(&mut before);
    let told = told_of(&lives, true, past(&before), &before);
    let count = |topic: &str, life| told.iter().filter(|told| **told == (topic.to_owned(), life)).count();
    assert_eq!((count("kairo.stream.closed", 0), count("kairo.process.spawned", 0)), (2, 0), "{told:?}");
    assert_eq!((count("kairo.stream.closed", 1), count("kairo.process.spawned", 1)), (2, 1), "{told:?}");
}

#[test]
fn of_two_lives_that_were_faster_than_the_log_both_are_told_in_their_order() {
    let mut before = World::new();
    let lives = two_lives(&mut before);
    let told = told_of(&lives, false, Vec::new(), &before);
    let births: Vec<usize> =
        told.iter().filter(|told| told.0 == "kairo.process.spawned").map(|told| told.1).collect();
    assert_eq!(births, [0, 1], "{told:?}");
    assert_eq!(told.iter().filter(|told| told.0 == "kairo.stream.closed").count(), 4, "{told:?}");
}

/// The kernel and its keeper are gone, the log and the records are not.
fn risen(before: World) -> World {
    let (memories, at) = (past(&before), before.at);
    let mut next = World::over(config(), before.kept);
    next.at = at;
    recall(&mut next, memories, LossCause::Keeper);
    next
}

/// A process in a session of an agent, and one that starts in it; both are started again.
fn in_a_session(lifetime_ms: u64) -> (World, Value) {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": "coder" }));
    let session = json!({ "agent": "coder", "lifetimeMs": lifetime_ms });
    let session = world.ok(owner, "session.create", session)["sessionId"].clone();
    let options = json!({ "agentSession": session, "restart": { "policy": "always", "backoffMs": 10 } });
    let (_, pid) = world.run_with(owner, json!({ "id": "repl", "command": ["a"], "options": options }));
    let inside = world.child(&[pid], None);
    let options = json!({ "restart": { "policy": "always", "backoffMs": 10 } });
    world.run_with(inside, json!({ "id": "build", "command": ["b"], "options": options }));
    (world, session)
}

#[test]
fn what_ran_in_an_agents_session_is_started_again_in_it_and_ends_with_it() {
    let (before, session) = in_a_session(60_000);
    let mut world = risen(before);
    let owner = world.owner();
    let listed = |world: &mut World| {
        world.ok(owner, "agent.list", json!({}))["agents"][0]["sessions"][0]["processes"].clone()
    };
    assert_eq!(listed(&mut world), json!(["repl", "build"]), "they will run again");
    world.advance(10);
    for id in ["repl", "build"] {
        let (_, pid) = world.born();
        let child = world.child(&[pid], None);
        let who = world.ok(child, "kernel.hello", json!({}))["principal"].clone();
        assert_eq!(who, json!({ "kind": "agent", "uid": OWNER, "agent": "coder" }), "{id}");
    }
    assert_eq!(listed(&mut world), json!(["repl", "build"]));
    let accounts = world.ok(owner, "quota.status", json!({ "principal": "agent:coder" }))["accounts"].clone();
    let processes = &accounts[0]["quotas"].as_array().unwrap()[0];
    assert_eq!((&processes["quota"], &processes["used"]), (&json!("processes"), &json!(1)), "{accounts}");
    let ended = world.ok(owner, "session.end", json!({ "sessionId": session }))["ended"].clone();
    assert_eq!(ended, json!(["repl", "build"]));
}

#[test]
fn what_ran_in_a_session_that_is_over_is_not_started_again() {
    let (mut before, session) = in_a_session(60_000);
    let owner = before.owner();
    before.ok(owner, "session.end", json!({ "sessionId": session, "running": "keep" }));
    let mut world = risen(before);
    world.advance(1_000_000);
    assert!(world.take_spawn().is_none(), "it was over before its kernel died");

    let (mut before, _) = in_a_session(5_000);
    before.at.wall_ns += 5_000_000_000;
    let mut world = risen(before);
    let (at, mut out) = (world.at, Commands::default());
    world.kernel.settle_agents(at, &mut out);
    world.carry_out(None, out);
    world.advance(1_000_000);
    assert!(world.take_spawn().is_none(), "its time came while there was no kernel");
}

#[test]
fn what_an_agent_had_started_is_not_started_as_another_of_its_name() {
    let (mut before, _) = in_a_session(60_000);
    let owner = before.owner();
    before.ok(owner, "agent.remove", json!({ "name": "coder", "running": "keep" }));
    before.advance(1);
    before.ok(owner, "agent.create", json!({ "name": "coder" }));
    let mut world = risen(before);
    world.advance(1_000_000);
    assert!(world.take_spawn().is_none());
}

#[test]
fn a_life_of_a_session_that_is_over_is_followed_by_none() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": "coder" }));
    let session = world.ok(owner, "session.create", json!({ "agent": "coder" }))["sessionId"].clone();
    let options = json!({ "agentSession": session, "restart": { "policy": "always", "backoffMs": 10 } });
    let (process, _) = world.run_with(owner, json!({ "id": "p", "command": ["a"], "options": options }));
    world.ok(owner, "session.end", json!({ "sessionId": session, "running": "keep" }));
    world.finish(process, 1);
    world.advance(1_000_000);
    assert!(world.take_spawn().is_none());
}
