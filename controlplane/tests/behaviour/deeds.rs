//! What is done to processes: kill, signals, pause, stdin, the terminal.

use crate::harness::{World, code};
use kairo_dataplane::command::{Command, Scope};
use kairo_dataplane::control::{ExitStatus, Failure, Notice, Outcome};
use serde_json::json;

#[test]
fn kill_is_term_then_kill_after_the_grace() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    let kill = world.start(owner, "process.kill", json!({ "id": "p" }));
    assert!(world.answer(owner, &kill).is_none(), "it answers when the signal is sent");
    let (_, signal, ticket) = world.take_signal().unwrap();
    assert_eq!(signal, 15);
    world.done(ticket.unwrap(), Ok(Outcome::Signalled { processes: 3 }));
    assert_eq!(world.answer(owner, &kill).unwrap().unwrap(), json!({ "status": "killed", "id": "p" }));
    world.advance(4_999);
    assert!(world.take_signal().is_none());
    world.advance(1);
    assert_eq!(world.take_signal().unwrap(), (process, 9, None));
    world.exits(process, ExitStatus::Signal { signal: 9, core: false });
    let wait = world.ok(owner, "process.wait", json!({ "id": "p" }));
    assert_eq!(wait["exitCode"], 137);
    assert_eq!(wait["exit"]["signal"], 9);
    assert_eq!(wait["exit"]["signalName"], "SIGKILL");
    assert_eq!(
        wait["exit"]["endedBy"],
        json!({ "cause": "grace_over", "principal": { "kind": "owner", "uid": 1_000 } })
    );
}

#[test]
fn a_tree_that_is_gone_in_time_gets_no_second_signal() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.start(owner, "process.kill", json!({ "id": "p" }));
    world.take_signal();
    world.exits(process, ExitStatus::Signal { signal: 15, core: false });
    assert_eq!(world.timers.len(), 1, "the leader is not the tree");
    world.notice(Notice::Ended { process });
    assert!(world.timers.is_empty());
    let wait = world.ok(owner, "process.wait", json!({ "id": "p" }));
    assert_eq!(wait["exit"]["endedBy"]["cause"], "kill");
    assert_eq!(wait["exitCode"], 143);
}

#[test]
fn kill_takes_a_signal_a_grace_and_a_scope() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.start(
        owner,
        "process.kill",
        json!({ "id": "p", "signal": "INT", "graceMs": 100, "scope": "leader" }),
    );
    let scope = world.take(|c| match c {
        Command::Signal { signal: 2, scope, .. } => Some(*scope),
        _ => None,
    });
    assert_eq!(scope, Some(Scope::Leader));
    world.advance(100);
    assert!(
        world
            .take(|c| matches!(c, Command::Signal { signal: 9, scope: Scope::Leader, .. }).then_some(()))
            .is_some()
    );
    world.exits(process, ExitStatus::Code(0));
    assert!(world.timers.is_empty());
    // Without patience there is only SIGKILL.
    world.run(owner, "q");
    for params in [json!({ "id": "q", "graceMs": 0 }), json!({ "id": "q", "signal": 9 })] {
        world.start(owner, "process.kill", params);
        assert_eq!(world.take_signal().unwrap().1, 9);
        assert!(world.take_signal().is_none());
    }
}

#[test]
fn a_second_kill_only_shortens_the_first_ones_patience() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    world.start(owner, "process.kill", json!({ "id": "p", "graceMs": 1_000 }));
    world.start(owner, "process.kill", json!({ "id": "p", "graceMs": 60_000 }));
    world.take_signal();
    world.take_signal();
    world.advance(1_000);
    assert_eq!(world.take_signal().unwrap().1, 9);
}

#[test]
fn kill_of_the_exited_answers_again_and_of_the_unknown_says_not_found() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.finish(process, 0);
    assert_eq!(world.ok(owner, "process.kill", json!({ "id": "p" }))["status"], "killed");
    assert!(world.take_signal().is_none());
    let (code, text) = world.fails(owner, "process.kill", json!({ "id": "nobody" }));
    assert_eq!((code.as_str(), text.as_str()), ("E_NOT_FOUND", "Process nobody not found"));
}

#[test]
fn kill_reaches_descendants_that_outlive_their_leader() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.exits(process, ExitStatus::Code(0));
    let kill = world.start(owner, "process.kill", json!({ "id": "p" }));
    let (_, signal, ticket) = world.take_signal().unwrap();
    assert_eq!(signal, 15);
    // They were gone already: killed is killed.
    world.done(ticket.unwrap(), Err(Failure::Gone));
    assert_eq!(world.answer(owner, &kill).unwrap().unwrap()["status"], "killed");
}

#[test]
fn killing_a_paused_tree_also_continues_it() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    let pause = world.start(owner, "process.pause", json!({ "id": "p" }));
    let (_, signal, ticket) = world.take_signal().unwrap();
    assert_eq!(signal, 19);
    world.done(ticket.unwrap(), Ok(Outcome::Signalled { processes: 1 }));
    assert_eq!(world.answer(owner, &pause).unwrap().unwrap(), json!({ "status": "paused", "id": "p" }));
    let status = world.ok(owner, "process.status", json!({ "id": "p", "detail": true }));
    assert_eq!((&status["state"], &status["detail"]["phase"]), (&json!("running"), &json!("paused")));
    world.start(owner, "process.kill", json!({ "id": "p" }));
    assert_eq!(world.take_signal().unwrap().1, 15);
    assert_eq!(world.take_signal().unwrap().1, 18);
}

#[test]
fn pause_and_resume_of_what_is_not_there_fail_without_an_error() {
    let mut world = World::new();
    let owner = world.owner();
    for id in ["nobody", "p"] {
        assert_eq!(
            world.ok(owner, "process.pause", json!({ "id": id })),
            json!({ "status": "failed", "id": id })
        );
        assert_eq!(
            world.ok(owner, "process.resume", json!({ "id": id })),
            json!({ "status": "failed", "id": id })
        );
        if id == "nobody" {
            let (process, _) = world.run(owner, "p");
            world.finish(process, 0);
        }
    }
}

#[test]
fn signals_go_by_name_or_number() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    for (name, number) in [
        (json!("HUP"), 1),
        (json!("SIGUSR1"), 10),
        (json!("term"), 15),
        (json!(64), 64),
        (json!("RTMIN+3"), 37),
        (json!("RTMAX"), 64),
    ] {
        let call = world.start(owner, "process.signal", json!({ "id": "p", "signal": name }));
        let (_, signal, ticket) = world.take_signal().expect("a signal");
        assert_eq!(signal, number, "{name}");
        world.done(ticket.unwrap(), Ok(Outcome::Signalled { processes: 2 }));
        assert_eq!(world.answer(owner, &call).unwrap().unwrap()["processes"], 2);
    }
    for bad in [json!(0), json!(65), json!(-1), json!("NOPE"), json!(1.5), json!("RTMIN+31")] {
        let (code, text) = world.fails(owner, "process.signal", json!({ "id": "p", "signal": bad }));
        assert_eq!(code, "E_INVALID_PARAMS", "{bad}");
        assert!(text.contains("signal"), "{text}");
    }
    assert_eq!(world.fails(owner, "process.signal", json!({ "id": "x", "signal": 1 })).0, "E_NOT_FOUND");
}

#[test]
fn who_dies_of_a_clients_signal_was_ended_by_it() {
    let mut world = World::new();
    let owner = world.owner();
    for (sent, died, cause) in [(1, 1, "signal"), (1, 11, "itself")] {
        let (process, _) = world.run(owner, "p");
        world.start(owner, "process.signal", json!({ "id": "p", "signal": sent }));
        world.exits(process, ExitStatus::Signal { signal: died, core: died == 11 });
        world.closes(process);
        world.notice(Notice::Ended { process });
        let exit = world.ok(owner, "process.wait", json!({ "id": "p" }))["exit"].clone();
        assert_eq!(exit["endedBy"]["cause"], cause);
        assert_eq!(exit.get("core").is_some(), died == 11);
    }
}

#[test]
fn a_write_answers_with_the_offset_reached() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    let write = world.start(owner, "process.stdin.write", json!({ "id": "p", "data": "print(6*7)\n" }));
    let (data, ticket) = world
        .take(|c| match c {
            Command::Write { data, ticket, .. } => Some((data.clone(), *ticket)),
            _ => None,
        })
        .unwrap();
    assert_eq!(&data[..], b"print(6*7)\n");
    assert!(world.answer(owner, &write).is_none());
    world.done(ticket, Ok(Outcome::Written { offset: 11 }));
    let answer = world.answer(owner, &write).unwrap().unwrap();
    assert_eq!(answer, json!({ "status": "written", "id": "p", "offset": 11 }));
}

#[test]
fn a_write_that_cannot_be_says_why() {
    let mut world = World::new();
    let owner = world.owner();
    let text = |id: &str| format!("Process {id} not found or stdin not available");
    let params = |id: &str| json!({ "id": id, "data": "x" });
    assert_eq!(world.fails(owner, "process.stdin.write", params("x")), ("E_NOT_FOUND".to_owned(), text("x")));
    let (process, _) = world.run(owner, "p");
    for (failure, expected, retryable) in [
        (Failure::BrokenPipe { offset: 4 }, "E_STDIN_CLOSED", false),
        (Failure::Gone, "E_STDIN_CLOSED", false),
        (Failure::WouldBlock, "E_WOULD_BLOCK", true),
        (Failure::KeeperLost, "E_KEEPER_LOST", false),
    ] {
        let write = world.start(owner, "process.stdin.write", params("p"));
        let Some(Command::Write { ticket, .. }) = world.commands.pop() else { panic!("no write") };
        world.done(ticket, Err(failure));
        let error = world.answer(owner, &write).unwrap().unwrap_err();
        assert_eq!((code(&error).0.as_str(), error.info.unwrap().retryable), (expected, retryable));
    }
    world.finish(process, 0);
    assert_eq!(
        world.fails(owner, "process.stdin.write", params("p")),
        ("E_STDIN_CLOSED".to_owned(), text("p"))
    );
    assert_eq!(world.fails(owner, "process.stdin.close", json!({ "id": "p" })).0, "E_STDIN_CLOSED");
}

#[test]
fn only_a_terminal_is_resized_and_only_to_a_size() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    let size = |id: &str, rows: u32| json!({ "id": id, "rows": rows, "cols": 80 });
    assert_eq!(world.fails(owner, "process.resize", size("p", 24)).0, "E_NO_TERMINAL");
    world.run_with(
        owner,
        json!({ "id": "t", "command": ["vim"], "options": { "pty": { "rows": 30, "cols": 90 } } }),
    );
    for rows in [65_535, 70_000] {
        let (code, text) = world.fails(owner, "process.resize", size("t", rows));
        assert_eq!(code, "E_INVALID_PARAMS");
        assert!(text.contains("rows"), "{text}");
    }
    assert_eq!(world.fails(owner, "process.resize", size("t", 0)).0, "E_INVALID_PARAMS");
    let resize = world.start(owner, "process.resize", size("t", 40));
    let Some(Command::Resize { size, ticket, .. }) = world.commands.pop() else { panic!("no resize") };
    assert_eq!((size.rows, size.cols), (40, 80));
    world.done(ticket, Ok(Outcome::Ok));
    assert_eq!(world.answer(owner, &resize).unwrap().unwrap()["status"], "resized");
    let status = world.ok(owner, "process.status", json!({ "id": "t", "detail": true }));
    assert_eq!(status["detail"]["terminal"], json!({ "rows": 40, "cols": 80 }));
}

#[test]
fn what_is_asked_of_a_process_that_is_being_started_is_done_when_it_runs() {
    let mut world = World::new();
    let owner = world.owner();
    let spawn = world.start(owner, "process.spawn", json!({ "id": "p", "command": ["cat"] }));
    world.start(owner, "process.stdin.write", json!({ "id": "p", "data": "x" }));
    let wait = world.start(owner, "process.wait", json!({ "id": "p" }));
    let kill = world.start(owner, "process.kill", json!({ "id": "p" }));
    assert_eq!(world.commands.len(), 1, "only the spawn is commanded");
    assert_eq!(world.ok(owner, "process.status", json!({ "id": "p" })), json!({ "state": "running" }));
    let (process, _) = world.born();
    assert!(world.answer(owner, &spawn).unwrap().is_ok());
    assert!(matches!(world.commands[0], Command::Write { .. }));
    assert!(
        matches!(world.commands[1], Command::Annotate { .. }),
        "the keeper knows of a kill before its victim"
    );
    assert!(matches!(world.commands[2], Command::Signal { signal: 15, .. }));
    world.exits(process, ExitStatus::Code(0));
    assert!(world.answer(owner, &wait).unwrap().is_ok());
    assert!(world.answer(owner, &kill).is_none(), "the signal's fate is the data plane's to tell");
}

#[test]
fn what_was_asked_of_a_process_that_never_was_is_answered() {
    let mut world = World::new();
    let owner = world.owner();
    let calls = [
        ("process.spawn", json!({ "id": "p", "command": ["nope"] })),
        ("process.stdin.write", json!({ "id": "p", "data": "x" })),
        ("process.wait", json!({ "id": "p" })),
    ];
    let ids: Vec<_> = calls.into_iter().map(|(method, params)| world.start(owner, method, params)).collect();
    let process = world.take_spawn().unwrap().process;
    let failure = kairo_dataplane::control::SpawnFailure {
        stage: kairo_dataplane::control::SpawnStage::Exec,
        errno: 2,
    };
    world.notice(Notice::SpawnFailed { process, failure });
    for id in ids {
        assert!(world.answer(owner, &id).unwrap().is_err());
    }
    assert_eq!(world.ok(owner, "process.status", json!({ "id": "p" })), json!({ "state": "unknown" }));
    assert_eq!(world.kernel.census()[2], 0);
}
