//! Starting processes: what may be asked, what is refused, whose id it is, what the child finds.

use crate::harness::{OWNER, World, code, config};
use kairo_controlplane::config::Config;
use kairo_dataplane::command::{Command, StderrTarget, StdinSource, Stdio, Unread};
use kairo_dataplane::control::{ExitStatus, Lineage, Notice, SpawnFailure, SpawnStage};
use serde_json::{Value, json};

fn env(spawn: &kairo_dataplane::command::Spawn) -> Vec<String> {
    spawn.env.iter().map(|line| String::from_utf8(line.clone()).unwrap()).collect()
}

#[test]
fn the_answer_comes_when_the_program_runs() {
    let mut world = World::new();
    let owner = world.owner();
    let call = world.start(owner, "process.spawn", json!({ "id": "p", "command": ["cat", 5, true, 1.5] }));
    assert!(world.answer(owner, &call).is_none());
    let Some(Command::Spawn(spawn)) = world.commands.last() else { panic!("no spawn") };
    assert_eq!(spawn.argv, [&b"cat"[..], b"5", b"true", b"1.5"]);
    assert_eq!(spawn.process.home, owner.reactor);
    assert!(!spawn.record.is_empty());
    let (_, pid) = world.born();
    let answer = world.answer(owner, &call).unwrap().unwrap();
    assert_eq!(answer, json!({ "status": "spawned", "id": "p", "pid": pid }));
    assert_eq!(
        world.ok(owner, "process.status", json!({ "id": "p" })),
        json!({ "state": "running", "pid": pid })
    );
}

#[test]
fn bad_requests_are_refused_by_the_name_of_the_field() {
    let mut world = World::new();
    let owner = world.owner();
    let long = "x".repeat(200_000);
    let many: Vec<String> = (0..20).map(|_| "y".repeat(100_000)).collect();
    for (params, code, field) in [
        (json!({ "id": "p", "command": [] }), "E_INVALID_PARAMS", "command"),
        (json!({ "id": "p", "command": "ls" }), "E_INVALID_PARAMS", "command"),
        (json!({ "id": "p", "command": [""] }), "E_INVALID_PARAMS", "command[0]"),
        (json!({ "id": "p", "command": ["a\u{0}b"] }), "E_INVALID_PARAMS", "command[0]"),
        (json!({ "id": "p", "command": ["a", long] }), "E_TOO_LARGE", "command[1]"),
        (json!({ "id": "p", "command": many }), "E_TOO_LARGE", "command"),
        (json!({ "id": "x".repeat(256), "command": ["a"] }), "E_INVALID_PARAMS", "id"),
        (json!({ "id": { "a": 1 }, "command": ["a"] }), "E_INVALID_PARAMS", "id"),
    ] {
        let (got, text) = world.fails(owner, "process.spawn", params);
        assert_eq!(got, code, "{text}");
        assert!(text.contains(field), "{text}");
    }
    for (options, code, field) in [
        (json!({ "env": { "A=B": "x" } }), "E_INVALID_PARAMS", "options.env.A=B"),
        (json!({ "env": { "": "x" } }), "E_INVALID_PARAMS", "options.env"),
        (json!({ "env": { "A\u{0}": "x" } }), "E_INVALID_PARAMS", "options.env"),
        (json!({ "env": { "A": "x\u{0}" } }), "E_INVALID_PARAMS", "options.env.A"),
        (json!({ "env": { "A": "x".repeat(140_000) } }), "E_TOO_LARGE", "options.env.A"),
        (json!({ "cwd": "" }), "E_INVALID_PARAMS", "options.cwd"),
        (json!({ "pty": { "rows": 0, "cols": 80 } }), "E_INVALID_PARAMS", "options.pty.rows"),
        (json!({ "pty": { "rows": 24, "cols": 65_535 } }), "E_INVALID_PARAMS", "options.pty.cols"),
        (json!({ "pty": true, "stdin": "null" }), "E_CONFLICT", "options.pty"),
        (json!({ "sandbox": {} }), "E_UNSUPPORTED", "options.sandbox"),
        (json!({ "history": "none", "pty": true }), "E_CONFLICT", "options.pty"),
        (json!({ "history": { "tailBytes": 1 } }), "E_INVALID_PARAMS", "options.history.tailBytes"),
        (json!({ "history": { "headBytes": 1 << 30 } }), "E_INVALID_PARAMS", "options.history.headBytes"),
        (json!({ "stdin": "inherit" }), "E_UNSUPPORTED", "options.stdin"),
        (json!({ "stderr": "inherit" }), "E_UNSUPPORTED", "options.stderr"),
        (json!({ "stdin": "tape" }), "E_INVALID_PARAMS", "options.stdin"),
        (json!({ "pipeBytes": 0 }), "E_INVALID_PARAMS", "options.pipeBytes"),
        (json!({ "limits": { "memory": 0 } }), "E_INVALID_PARAMS", "options.limits.memory"),
        (json!({ "limits": { "memory": u64::MAX } }), "E_INVALID_PARAMS", "options.limits.memory"),
        (json!({ "limits": { "cpu": -1 } }), "E_INVALID_PARAMS", "options.limits.cpu"),
        (json!({ "limits": { "rlimits": { "sofas": 1 } } }), "E_INVALID_PARAMS", "options.limits.rlimits"),
        (json!({ "secretArgs": [3] }), "E_INVALID_PARAMS", "options.secretArgs[0]"),
        (json!({ "user": "nobody-here" }), "E_INVALID_PARAMS", "options.user"),
        (json!({ "user": 1_234 }), "E_PERMISSION_DENIED", "options.user"),
    ] {
        let params = json!({ "id": "p", "command": ["a"], "options": options });
        let (got, text) = world.fails(owner, "process.spawn", params);
        assert_eq!(got, code, "{text}");
        assert!(text.contains(field), "{text} should name {field}");
    }
    assert!(world.commands.is_empty());
    assert_eq!(world.kernel.census()[2], 0);
}

#[test]
fn absent_options_are_absent_however_they_are_written() {
    let mut world = World::new();
    let owner = world.owner();
    for (nth, options) in
        [json!(null), json!({}), json!({ "sandbox": null, "cwd": null, "limits": null })].iter().enumerate()
    {
        let params = json!({ "id": format!("p{nth}"), "command": ["a"], "options": options });
        world.run_with(owner, params);
    }
}

#[test]
fn options_become_what_the_data_plane_does() {
    let mut world = World::new();
    let owner = world.owner();
    let options = json!({
        "cwd": "/tmp", "stdin": "null", "stderr": "stdout", "pipeBytes": 1 << 20, "whenUnread": "block",
        "history": { "headBytes": 0, "tailBytes": 1 << 20 }, "allowWeaker": true,
        "limits": { "memory": 64, "cpu": 50, "pids": 9, "rlimits": { "nofile": 64, "core": 0 } },
    });
    world.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"], "options": options }));
    let spawn = world.take_spawn().unwrap();
    assert_eq!(spawn.cwd.as_deref(), Some(&b"/tmp"[..]));
    let pipes = Stdio::Pipes { stdin: StdinSource::Null, stderr: StderrTarget::Stdout, pipe_bytes: 1 << 20 };
    assert_eq!(spawn.stdio, pipes);
    assert_eq!(spawn.unread, Unread::Block);
    assert_eq!((spawn.history.head_bytes, spawn.history.tail_bytes), (0, 1 << 20));
    assert_eq!(spawn.cgroup.memory_bytes, Some(64 << 20));
    assert_eq!(
        (spawn.cgroup.cpu_percent, spawn.cgroup.pids, spawn.cgroup.allow_weaker),
        (Some(50), Some(9), true)
    );
    assert_eq!(spawn.rlimits, [(4, 0), (7, 64)]);
    assert!(spawn.credentials.is_none());
}

#[test]
fn a_child_finds_the_short_list_what_was_asked_and_some_names_of_ours() {
    let mut world = World::new();
    let owner = world.owner();
    let options = json!({ "env": { "COLOR": "blue", "KAIRO_SESSION": "forged" } });
    world.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"], "options": options }));
    let spawn = world.take_spawn().unwrap();
    let session = format!("KAIRO_SESSION={}", spawn.session);
    let story = |line: &String| ["KAIRO_C", "TRACEPARENT="].iter().any(|name| line.starts_with(name));
    let (story, rest): (Vec<String>, Vec<String>) = env(&spawn).into_iter().partition(story);
    assert_eq!(story.len(), 3, "correlation, causation, trace: {story:?}");
    assert_eq!(
        rest,
        [
            "COLOR=blue",
            "HOME=/homes/owner",
            "KAIRO_IPC_SOCKET=/run/kairo.sock",
            "KAIRO_PROCESS_ID=p",
            &session,
            "LC_ALL=C",
            "PATH=/usr/bin:/bin",
            "XDG_RUNTIME_DIR=/run/user/1000",
        ]
    );
    assert_eq!(spawn.search_path, b"/usr/bin:/bin");
}

#[test]
fn inherit_env_is_the_owners_and_is_everything_but_our_own_names() {
    let mut world = World::new();
    let owner = world.owner();
    let params = json!({ "id": "p", "command": ["a"], "options": { "inheritEnv": true } });
    world.start(owner, "process.spawn", params.clone());
    let spawn = world.take_spawn().unwrap();
    assert!(env(&spawn).contains(&"SECRET=hunter2".to_owned()));
    assert!(!env(&spawn).contains(&"KAIRO_SESSION=outer".to_owned()));
    world.ok(owner, "identify", json!({ "skillId": "s" }));
    assert_eq!(world.fails(owner, "process.spawn", params).0, "E_PERMISSION_DENIED");
}

#[test]
fn the_path_that_the_child_sees_finds_its_program() {
    let mut world = World::new();
    let owner = world.owner();
    let options = json!({ "env": { "PATH": "/opt/bin" } });
    world.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"], "options": options }));
    assert_eq!(world.take_spawn().unwrap().search_path, b"/opt/bin");
    let mut bare = World::with(Config { environment: Vec::new(), ..config() });
    let owner = bare.owner();
    bare.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"], "options": { "pty": true } }));
    let spawn = bare.take_spawn().unwrap();
    assert!(spawn.search_path.starts_with(b"/usr/local/sbin:"));
    assert!(env(&spawn).contains(&"TERM=xterm-256color".to_owned()));
}

#[test]
fn secret_arguments_are_told_to_nobody_but_the_child() {
    let mut world = World::new();
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": ">" }));
    let options = json!({ "secretArgs": [2] });
    world.start(
        owner,
        "process.spawn",
        json!({ "id": "p", "command": ["curl", "-u", "me:pw"], "options": options }),
    );
    let Some(Command::Spawn(spawn)) = world.commands.last() else { panic!("no spawn") };
    assert_eq!(spawn.argv[2], b"me:pw");
    assert!(!String::from_utf8_lossy(&spawn.record).contains("me:pw"));
    world.born();
    let status = world.ok(owner, "process.status", json!({ "id": "p", "detail": true }));
    assert_eq!(status["detail"]["argv"], json!(["curl", "-u", "<secret>"]));
    assert_eq!(world.events(owner)[1].1["argv"], json!(["curl", "-u", "<secret>"]));
}

#[test]
fn equal_environments_have_equal_digests() {
    let mut world = World::new();
    let owner = world.owner();
    let mut digest = |id: &str, color: &str| {
        let params = json!({ "id": id, "command": ["a"], "options": { "env": { "COLOR": color } } });
        world.run_with(owner, params);
        world.ok(owner, "process.status", json!({ "id": id, "detail": true }))["detail"]["envDigest"].clone()
    };
    let (one, same, other) = (digest("a", "blue"), digest("b", "blue"), digest("c", "red"));
    assert_eq!(one, same);
    assert_ne!(one, other);
}

#[test]
fn a_spawn_that_fails_says_where_and_why() {
    let mut world = World::new();
    let owner = world.owner();
    for (program, stage, errno, code_wanted, text) in [
        ("nope", SpawnStage::Exec, 2, "E_EXECUTABLE_NOT_FOUND", "Executable not found in $PATH: \"nope\""),
        (
            "/x/nope",
            SpawnStage::Exec,
            2,
            "E_EXECUTABLE_NOT_FOUND",
            "ENOENT: no such file or directory, posix_spawn '/x/nope'",
        ),
        ("notes.txt", SpawnStage::Exec, 13, "E_NOT_EXECUTABLE", "EACCES"),
        ("blob", SpawnStage::Exec, 8, "E_NOT_EXECUTABLE", "ENOEXEC"),
        ("big", SpawnStage::Exec, 7, "E_TOO_LARGE", "command"),
        ("a", SpawnStage::Cwd, 2, "E_CWD", "ENOENT: no such file or directory, chdir '/gone'"),
        ("a", SpawnStage::Cwd, 20, "E_CWD", "ENOTDIR"),
        ("a", SpawnStage::Cgroup, 13, "E_UNSUPPORTED", "options.limits"),
        ("a", SpawnStage::Fork, 11, "E_SPAWN_FAILED", "fork"),
        ("a", SpawnStage::Keeper, 32, "E_KEEPER_LOST", "keeper"),
    ] {
        let params = json!({ "id": "p", "command": [program], "options": { "cwd": "/gone" } });
        let call = world.start(owner, "process.spawn", params);
        let process = world.take_spawn().unwrap().process;
        world.notice(Notice::SpawnFailed { process, failure: SpawnFailure { stage, errno } });
        let error = world.answer(owner, &call).unwrap().unwrap_err();
        let (code, shown) = code(&error);
        assert_eq!(code, code_wanted, "{shown}");
        assert!(shown.contains(text), "{shown} should say {text}");
        let details: Value =
            kairo_wire::json::to_value(error.info.unwrap().details.unwrap().as_ref()).unwrap();
        assert_eq!(details["errno"], errno);
        // The id is free again.
        assert_eq!(world.kernel.census()[2], 0);
    }
}

#[test]
fn an_id_in_use_is_refused() {
    let mut world = World::new();
    let owner = world.owner();
    let params = json!({ "id": "p", "command": ["a"] });
    world.start(owner, "process.spawn", params.clone());
    // Two that race: the second loses at once, the first wins.
    assert_eq!(world.fails(owner, "process.spawn", params.clone()).0, "E_ALREADY_EXISTS");
    world.born();
    assert_eq!(world.fails(owner, "process.spawn", params).0, "E_ALREADY_EXISTS");
}

#[test]
fn seventy_seven_and_its_text_differ_and_collide() {
    let mut world = World::new();
    let owner = world.owner();
    let (_, pid) = world.run_with(owner, json!({ "id": 77, "command": ["a"] }));
    assert_eq!(
        world.fails(owner, "process.spawn", json!({ "id": "77", "command": ["a"] })).0,
        "E_ALREADY_EXISTS"
    );
    for _ in 0..2 {
        assert_eq!(world.ok(owner, "process.status", json!({ "id": "77" })), json!({ "state": "unknown" }));
    }
    assert_eq!(
        world.ok(owner, "process.status", json!({ "id": 77 })),
        json!({ "state": "running", "pid": pid })
    );
    assert_eq!(world.ok(owner, "process.status", json!({ "id": 77.0 }))["pid"], pid);
    assert_eq!(world.fails(owner, "process.kill", json!({ "id": "77" })).0, "E_NOT_FOUND");
}

#[test]
fn an_id_is_free_again_when_its_tree_is_gone() {
    let mut world = World::new();
    let owner = world.owner();
    let (first, _) = world.run(owner, "p");
    world.finish(first, 1);
    assert_eq!(world.ok(owner, "process.wait", json!({ "id": "p" }))["exitCode"], 1);
    let (second, pid) = world.run(owner, "p");
    assert_ne!(first, second);
    assert_eq!(world.take_forget(), Some(first));
    assert_eq!(
        world.ok(owner, "process.status", json!({ "id": "p" })),
        json!({ "state": "running", "pid": pid })
    );
}

#[test]
fn a_spawn_over_a_dying_process_shortens_its_grace_and_gets_the_id() {
    let mut world = World::new();
    let owner = world.owner();
    let (old, _) = world.run(owner, "p");
    world.start(owner, "process.kill", json!({ "id": "p" }));
    assert_eq!(world.take_signal().unwrap().1, 15);
    let call = world.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"] }));
    assert!(world.take_spawn().is_none());
    world.advance(1_999);
    assert!(world.take_signal().is_none());
    world.advance(1);
    assert_eq!(world.take_signal().unwrap().1, 9);
    world.exits(old, ExitStatus::Signal { signal: 9, core: false });
    assert!(world.take_spawn().is_none(), "the tree is not the leader");
    world.notice(Notice::Ended { process: old });
    world.born();
    assert!(world.answer(owner, &call).unwrap().is_ok());
}

#[test]
fn a_spawn_over_a_tree_that_will_not_die_is_busy_after_four_seconds() {
    let mut world = World::new();
    let owner = world.owner();
    let (old, _) = world.run(owner, "p");
    world.exits(old, ExitStatus::Code(0));
    // The leader is gone, a daemon of its own is not.
    let call = world.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"] }));
    world.advance(3_999);
    assert!(world.answer(owner, &call).is_none());
    world.advance(1);
    let error = world.answer(owner, &call).unwrap().unwrap_err();
    assert_eq!(code(&error).0, "E_BUSY");
    assert!(error.info.unwrap().retryable);
    world.notice(Notice::Ended { process: old });
    assert!(world.take_spawn().is_none(), "nobody waits any more");
}

#[test]
fn of_many_that_wait_for_an_id_exactly_one_gets_it() {
    let mut world = World::new();
    let clients = [world.owner(), world.owner(), world.owner()];
    let (old, _) = world.run(clients[0], "p");
    world.start(clients[0], "process.kill", json!({ "id": "p" }));
    let calls = clients
        .map(|client| (client, world.start(client, "process.spawn", json!({ "id": "p", "command": ["a"] }))));
    // One gives up before.
    world.ok(clients[0], "kernel.cancel", json!({ "id": calls[0].1 }));
    world.exits(old, ExitStatus::Code(0));
    world.notice(Notice::Ended { process: old });
    world.born();
    assert!(world.take_spawn().is_none());
    let codes =
        calls.map(|(client, call)| world.answer(client, &call).unwrap().map_err(|error| code(&error).0));
    assert_eq!(codes[0].as_ref().unwrap_err(), "E_CANCELLED");
    assert!(codes[1].is_ok());
    assert_eq!(codes[2].as_ref().unwrap_err(), "E_ALREADY_EXISTS");
}

#[test]
fn an_id_of_somebody_else_is_taken_even_when_it_is_over() {
    let mut world = World::of_root();
    let (alice, bob) = (world.user(2_000), world.user(3_000));
    let (process, _) = world.run(alice, "p");
    let params = json!({ "id": "p", "command": ["a"] });
    assert_eq!(world.fails(bob, "process.spawn", params.clone()).0, "E_ALREADY_EXISTS");
    world.finish(process, 0);
    assert_eq!(world.fails(bob, "process.spawn", params).0, "E_ALREADY_EXISTS");
    world.run(alice, "p");
}

#[test]
fn a_daemon_of_root_starts_programs_as_who_asks() {
    let mut world = World::of_root();
    let (alice, bob, root) = (world.user(2_000), world.user(3_000), world.user(0));
    world.start(alice, "process.spawn", json!({ "id": "a", "command": ["a"] }));
    let spawn = world.take_spawn().unwrap();
    let credentials = spawn.credentials.clone().unwrap();
    // The groups are the peer's own.
    assert_eq!((credentials.uid, credentials.gid, credentials.groups), (2_000, 2_000, vec![2_000, 44]));
    let lines = env(&spawn);
    for line in ["HOME=/homes/alice", "USER=alice", "LOGNAME=alice", "SHELL=/bin/zsh"] {
        assert!(lines.contains(&line.to_owned()), "{lines:?}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("XDG_RUNTIME_DIR=")));
    assert_eq!(spawn.cwd.as_deref(), Some(&b"/homes/alice"[..]));
    // One whom no database knows.
    world.start(bob, "process.spawn", json!({ "id": "b", "command": ["a"] }));
    let spawn = world.take_spawn().unwrap();
    assert_eq!(spawn.credentials.clone().unwrap().uid, 3_000);
    assert!(env(&spawn).contains(&"HOME=/".to_owned()));
    // Root may name others, by name or number; others only themselves.
    for user in [json!("alice"), json!(2_000)] {
        let params = json!({ "id": format!("r{user}"), "command": ["a"], "options": { "user": user } });
        world.start(root, "process.spawn", params);
        let credentials = world.take_spawn().unwrap().credentials.unwrap();
        assert_eq!((credentials.gid, credentials.groups), (2_001, vec![2_001, 27]));
    }
    let as_alice = json!({ "id": "x", "command": ["a"], "options": { "user": "alice" } });
    assert_eq!(world.fails(bob, "process.spawn", as_alice.clone()).0, "E_PERMISSION_DENIED");
    world.start(alice, "process.spawn", as_alice);
    assert!(world.take_spawn().is_some());
}

#[test]
fn a_daemon_of_a_user_refuses_other_users() {
    let mut world = World::new();
    let other = world.user(OWNER + 1);
    let (code, text) = world.fails(other, "process.spawn", json!({ "id": "p", "command": ["a"] }));
    assert_eq!(code, "E_PERMISSION_DENIED");
    assert!(text.contains("权限拒绝"), "{text}");
}

#[test]
fn only_an_embedded_kernel_lends_its_descriptors() {
    let mut world = World::with(Config { embedded: true, ..config() });
    let owner = world.owner();
    let options = json!({ "stdin": "inherit", "stderr": "inherit" });
    let params = json!({ "id": "p", "command": ["a"], "options": options });
    world.start(owner, "process.spawn", params.clone());
    let stdio = world.take_spawn().unwrap().stdio;
    assert!(matches!(stdio, Stdio::Pipes { stdin: StdinSource::Inherit, stderr: StderrTarget::Inherit, .. }));
    let stranger = world.connect(OWNER, Lineage::Unknown);
    assert_eq!(world.fails(stranger, "process.spawn", params).0, "E_PERMISSION_DENIED");
}

#[test]
fn a_process_that_hangs_on_its_connection_dies_with_it() {
    let mut world = World::new();
    let (one, other) = (world.owner(), world.owner());
    let guarded = |id: &str| json!({ "id": id, "command": ["a"], "options": { "onDisconnect": "kill" } });
    let (process, _) = world.run_with(one, guarded("p"));
    world.run(one, "free");
    world.start(one, "process.spawn", guarded("late"));
    world.disconnect(one);
    assert_eq!(world.take_signal().unwrap(), (process, 15, None));
    assert!(world.take_signal().is_none());
    // The one that was on its way dies as soon as it runs.
    let (late, _) = world.born();
    assert_eq!(world.take_signal().unwrap(), (late, 15, None));
    world.exits(process, ExitStatus::Signal { signal: 15, core: false });
    let exit = world.ok(other, "process.wait", json!({ "id": "p" }))["exit"].clone();
    assert_eq!(exit["endedBy"]["cause"], "disconnect");
}

#[test]
fn of_a_long_argv_only_a_part_is_remembered() {
    let mut world = World::new();
    let owner = world.owner();
    let long = "x".repeat(100_000);
    let mut command = vec!["sh", "-c", &long];
    command.resize(30, &long[..1_000]);
    world.start(owner, "process.spawn", json!({ "id": "p", "command": command }));
    let Some(Command::Spawn(spawn)) = world.commands.last() else { panic!("no spawn") };
    assert_eq!(spawn.argv[2].len(), 100_000);
    assert_eq!(spawn.argv.len(), 30);
    world.born();
    let argv =
        world.ok(owner, "process.status", json!({ "id": "p", "detail": true }))["detail"]["argv"].clone();
    let argv: Vec<&str> =
        argv.as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()).collect();
    assert!(argv[2].len() < 1_100 && argv[2].ends_with('…'));
    assert_eq!((argv.len() < 12, argv.last()), (true, Some(&"…")));
}

#[test]
fn sixty_four_spawns_of_a_connection_wait_for_their_ids() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.exits(process, ExitStatus::Code(0));
    let params = json!({ "id": "p", "command": ["a"] });
    for _ in 0..64 {
        world.start(owner, "process.spawn", params.clone());
    }
    assert_eq!(world.fails(owner, "process.spawn", params).0, "E_BUSY");
}

#[test]
fn a_sandbox_in_the_wrong_place_is_not_let_by() {
    let mut world = World::new();
    let owner = world.owner();
    let params = json!({ "id": "p", "command": ["a"], "sandbox": { "files": {} } });
    let (code, text) = world.fails(owner, "process.spawn", params);
    assert!(code == "E_INVALID_PARAMS" && text.contains("sandbox"), "{text}");
}
