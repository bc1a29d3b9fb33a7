//! What no well-behaved client sends. Each gets a typed error or a closed connection; memory stays flat, no
//! descriptor leaks, and a neighbour on another connection notices nothing.

use crate::support::processes::memory_bytes;
use crate::support::raw::{REQUEST, Raw, frame_bytes, packed, request_bytes, value};
use crate::support::{Daemon, is_root, on_both_drivers, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rmpv::Value;
use serde_json::json;
use std::io::{ErrorKind, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a test may leave the daemon larger by: allocators keep some of what they were given.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// Memory of the daemon, what it shares counted in part.
fn pss(daemon: &Daemon) -> u64 {
    memory_bytes(daemon.pid(), "Pss")
}

#[track_caller]
fn assert_flat(daemon: &Daemon, before: u64) {
    until(&format!("memory is flat again, it was {before}"), || pss(daemon) <= before + GROWTH_BYTES_MAX);
}

fn a_length_never_fulfilled_costs_nothing(daemon: &Daemon) {
    let before = pss(daemon);
    let liars: Vec<Raw> = (0..200)
        .map(|_| {
            let mut raw = daemon.connect();
            raw.send(&[0x4b, 0x41, 1, REQUEST, 0, 0xff, 0xff, 0xff, 0x83]);
            raw
        })
        .collect();
    daemon.connect().ok("kernel.ping", json!({}));
    assert_flat(daemon, before);
    drop(liars);
    until("their descriptors are gone", || daemon.descriptors_leaked() == 0);
}

fn a_byte_at_a_time_holds_up_nobody(daemon: &Daemon) {
    let mut slow = daemon.connect();
    let mut other = daemon.connect();
    for byte in request_bytes(9, "kernel.ping", value(&json!({}))) {
        slow.send(&[byte]);
        let begun = Instant::now();
        other.ok("kernel.ping", json!({}));
        assert!(begun.elapsed() < Duration::from_secs(1), "a neighbour waited");
    }
    slow.answer(9).expect("the slow one is answered, too");
}

fn bombs_and_lies_about_counts_are_refused(daemon: &Daemon) {
    let before = pss(daemon);
    let head = packed(&"params".into());
    let request = |params: &[u8]| {
        let mut payload = vec![0x83];
        payload.extend(packed(&"id".into()));
        payload.extend(packed(&1.into()));
        payload.extend(packed(&"method".into()));
        payload.extend(packed(&"kernel.ping".into()));
        payload.extend(&head);
        payload.extend(params);
        frame_bytes(REQUEST, &payload)
    };
    let nested = |depth: usize, open: u8| [vec![open; depth], vec![0xc0]].concat();
    let nested_maps: Vec<u8> = [0x81, 0xa0].repeat(100_000).into_iter().chain([0xc0]).collect();
    let cases = [
        ("arrays nested 100,000 deep", nested(100_000, 0x91)),
        ("maps nested 100,000 deep", nested_maps),
        ("arrays nested 65 deep", nested(65, 0x91)),
        ("an array of 2^32-1 that has none", vec![0xdd, 0xff, 0xff, 0xff, 0xff]),
        ("a map of 2^32-1 that has none", vec![0xdf, 0xff, 0xff, 0xff, 0xff]),
        ("a string of 4 GiB that has two bytes", vec![0xdb, 0xff, 0xff, 0xff, 0xff, b'a', b'b']),
        ("bytes of 4 GiB that are two", vec![0xc6, 0xff, 0xff, 0xff, 0xff, 1, 2]),
        ("an extension of 4 GiB", vec![0xc9, 0xff, 0xff, 0xff, 0xff, 1, 2]),
        ("more than a million values", [vec![0xdd, 0, 0x10, 0, 0], vec![0xc0; 1 << 20]].concat()),
    ];
    for (what, params) in cases {
        let mut raw = daemon.connect();
        raw.send(&request(&params));
        match raw.frame() {
            // Either is right: an error with a code, or the end of the connection.
            Some(frame) => {
                let code = frame.json()["errorInfo"]["code"].clone();
                assert!(code == "E_TOO_LARGE" || code == "E_INVALID_PARAMS", "{what}: {:?}", frame.json());
            }
            None => assert!(raw.is_closed(), "{what}"),
        }
        daemon.connect().ok("kernel.ping", json!({}));
    }
    let mut raw = daemon.connect();
    raw.send(&request(&nested(20, 0x91)));
    raw.answer(1).expect("twenty levels are fine");
    assert_flat(daemon, before);
}

fn ten_thousand_idle_connections_are_just_there(daemon: &Daemon) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a soft limit may be raised");
    // Both ends count, and the tests beside this one need some.
    let wanted = 10_000.min(hard.saturating_sub(2_000) as usize);
    if wanted < 10_000 {
        println!("{wanted} connections, not 10,000: the limit of open files is {hard}, it was {soft}");
    }
    let before = pss(daemon);
    let mut first = daemon.connect();
    let idle: Vec<UnixStream> =
        (0..wanted).map(|number| connect_when_there_is_room(daemon, number)).collect();
    let begun = Instant::now();
    first.ok("kernel.ping", json!({}));
    assert!(begun.elapsed() < Duration::from_secs(2), "a neighbour waited {:?}", begun.elapsed());
    // Whoever comes now is served when those before it in the socket's queue are.
    daemon.connect().ok("kernel.ping", json!({}));
    let each = pss(daemon).saturating_sub(before) / wanted as u64;
    assert!(each < 8 * 1024, "an idle connection costs {each} bytes");
    drop(idle);
    until("all of them are gone", || daemon.descriptors_leaked() == 0);
}

/// The queue of a listening socket is short: a full one says EAGAIN to who doesn't wait, and lets others wait.
fn connect_when_there_is_room(daemon: &Daemon, number: usize) -> UnixStream {
    UnixStream::connect(&daemon.socket).unwrap_or_else(|error| panic!("connection {number}: {error}"))
}

fn a_storm_of_connects_passes(daemon: &Daemon) {
    let before = pss(daemon);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..1_000 {
                    let mut raw = daemon.connect();
                    if number % 4 == 0 {
                        raw.send(&[0x4b]);
                    } else if number % 4 == 1 {
                        raw.send(&request_bytes(1, "process.list", value(&json!({}))));
                    }
                }
            });
        }
        let mut neighbour = daemon.connect();
        for _ in 0..200 {
            neighbour.ok("kernel.ping", json!({}));
        }
    });
    until("all of them are gone", || daemon.descriptors_leaked() == 0);
    assert_flat(daemon, before);
}

fn a_client_that_never_reads_harms_only_itself(daemon: &Daemon) {
    let before = pss(daemon);
    let mut deaf = daemon.connect();
    deaf.socket().set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let request = request_bytes(1, "kernel.introspect", value(&json!({})));
    let mut sent = 0;
    // It asks for long answers and takes none: at some point the kernel stops reading it, or lets it go.
    loop {
        match deaf.socket().write(&request) {
            Ok(_) => sent += 1,
            // A socket with a timeout is not restarted by the system.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
                    "{error}"
                );
                break;
            }
        }
        assert!(sent < 200_000, "the kernel takes request after request from a client that reads no answer");
    }
    daemon.connect().ok("kernel.ping", json!({}));
    let grown = pss(daemon).saturating_sub(before);
    assert!(grown < 96 << 20, "the daemon keeps {grown} bytes of answers for a client that doesn't read");
    drop(deaf);
    until("it is gone", || daemon.descriptors_leaked() == 0);
}

fn the_call_too_many_is_refused_and_the_others_wait(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("sleeper", &["sleep", "1000"], json!({}));
    let wait = value(&json!({"id": "sleeper"}));
    let waits: Vec<u64> = (0..1_024).map(|_| raw.request("process.wait", wait.clone())).collect();
    let refusal = raw.refused("process.wait", json!({"id": "sleeper"}));
    assert_eq!((refusal.code.as_str(), &refusal.info["retryable"]), ("E_TOO_MANY_CALLS", &json!(true)));
    daemon.connect().ok("process.kill", json!({"id": "sleeper"}));
    for id in waits {
        raw.answer(id).expect("each wait is answered");
    }
    raw.ok("kernel.ping", json!({}));
}

fn arguments_no_program_can_have_are_refused(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let long = "x".repeat(2 << 20);
    let cases = [
        ("none", json!([]), "E_INVALID_PARAMS"),
        ("no array", json!("true"), "E_INVALID_PARAMS"),
        ("an empty program", json!([""]), ""),
        ("a NUL in the program", json!(["tr\0ue"]), "E_INVALID_PARAMS"),
        ("a NUL in an argument", json!(["true", "a\0b"]), "E_INVALID_PARAMS"),
        ("two megabytes", json!(["true", long]), "E_TOO_LARGE"),
        ("a map", json!([{"a": 1}]), "E_INVALID_PARAMS"),
    ];
    for (what, command, code) in cases {
        let refusal = raw.refused("process.spawn", json!({"id": "odd", "command": command}));
        assert!(code.is_empty() || refusal.code == code, "{what}: {refusal:?}");
    }
    let odd_env = json!({"A\0B": "x"});
    for env in [odd_env, json!({"A=B": "x"}), json!({"": "x"}), json!({"A": "x\0y"})] {
        let spawn = json!({"id": "odd", "command": ["true"], "options": {"env": env}});
        let refusal = raw.refused("process.spawn", spawn);
        assert_eq!(refusal.code, "E_INVALID_PARAMS", "{env}: {refusal:?}");
    }
    assert_eq!(raw.ok("process.status", json!({"id": "odd"}))["state"], "unknown");
}

fn folders_that_cannot_be_entered_are_named(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let file = daemon.folder().join("file");
    std::fs::write(&file, "x").expect("a file");
    let closed = daemon.folder().join("closed");
    std::fs::create_dir(&closed).expect("a folder");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).expect("the folder is ours");
    let mut cases = vec![daemon.folder().join("missing"), file];
    if is_root() {
        println!("root may enter every folder: the closed one is not tried");
    } else {
        cases.push(closed);
    }
    for folder in cases {
        let options = json!({"cwd": folder.to_str()});
        let refusal =
            raw.refused("process.spawn", json!({"id": "lost", "command": ["true"], "options": options}));
        assert_eq!(refusal.code, "E_CWD", "{refusal:?}");
        assert_eq!(refusal.info["details"]["field"], "options.cwd", "{refusal:?}");
    }
}

fn programs_that_cannot_run_are_told_apart(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let write = |name: &str, text: &[u8], mode: u32| {
        let path = daemon.folder().join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("the file is ours");
        path.to_str().expect("a path").to_owned()
    };
    let plain = write("plain", b"#!/bin/sh\n", 0o644);
    let rubbish = write("rubbish", b"\x7fELF rubbish", 0o755);
    let orphan = write("orphan", b"#!/no/such/interpreter\n", 0o755);
    let folder = daemon.folder().to_str().expect("a path");
    let cases = [
        ("no-such-program-here", &["E_EXECUTABLE_NOT_FOUND"][..]),
        ("/no/such/program", &["E_EXECUTABLE_NOT_FOUND"]),
        (plain.as_str(), &["E_NOT_EXECUTABLE"]),
        (folder, &["E_NOT_EXECUTABLE"]),
        (rubbish.as_str(), &["E_NOT_EXECUTABLE", "E_SPAWN_FAILED"]),
        (orphan.as_str(), &["E_EXECUTABLE_NOT_FOUND", "E_NOT_EXECUTABLE"]),
    ];
    for (program, codes) in cases {
        let refusal = raw.refused("process.spawn", json!({"id": "none", "command": [program]}));
        assert!(codes.contains(&refusal.code.as_str()), "{program}: {refusal:?}");
    }
    until("no descriptor is left of them", || daemon.descriptors_leaked() == 0);
}

fn a_program_deleted_while_it_starts_runs_or_is_not_found(daemon: &Daemon) {
    let path = daemon.folder().join("vanishing");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = std::fs::copy("/bin/true", &path);
                let _ = std::fs::remove_file(&path);
            }
        });
        let _stop = StopAtEnd(&stop);
        let mut raw = daemon.connect();
        for number in 0..200 {
            let spawn = json!({"id": format!("v{number}"), "command": [path.to_str()]});
            if let Err(refusal) = raw.call("process.spawn", spawn) {
                let expected = ["E_EXECUTABLE_NOT_FOUND", "E_NOT_EXECUTABLE", "E_SPAWN_FAILED"];
                assert!(expected.contains(&refusal.code.as_str()), "{refusal:?}");
            } else {
                raw.ok("process.wait", json!({"id": format!("v{number}")}));
            }
        }
    });
}

/// Lets the other thread go, however this one ends.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn signals_that_are_none_are_refused(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("sleeper", &["sleep", "1000"], json!({}));
    for signal in
        [json!(0), json!(65), json!(-1), json!(1_u64 << 40), json!("NOPE"), json!(""), json!(1.5), json!([])]
    {
        for method in ["process.signal", "process.kill"] {
            let refusal = raw.refused(method, json!({"id": "sleeper", "signal": signal}));
            assert_eq!(refusal.code, "E_INVALID_PARAMS", "{signal}: {refusal:?}");
            assert!(
                refusal.info["message"].as_str().is_some_and(|text| text.contains("signal")),
                "{refusal:?}"
            );
        }
    }
    assert_eq!(raw.ok("process.status", json!({"id": "sleeper"}))["state"], "running");
}

fn of_two_who_race_for_an_id_one_gets_it(daemon: &Daemon) {
    for round in 0..20 {
        let id = format!("prize-{round}");
        let won: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    let id = id.clone();
                    scope.spawn(move || {
                        let mut raw = daemon.connect();
                        match raw.call("process.spawn", json!({"id": id, "command": ["sleep", "1000"]})) {
                            Ok(_) => 1,
                            Err(refusal) => {
                                assert_eq!(refusal.code, "E_ALREADY_EXISTS", "{refusal:?}");
                                0
                            }
                        }
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("a racer finishes")).sum()
        });
        assert_eq!(won, 1, "{won} of four got {id}");
    }
}

fn descriptors_nobody_asked_for_are_closed(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let request = request_bytes(50, "kernel.ping", value(&json!({})));
    let fds = [theirs.as_raw_fd(); 16];
    let control = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
    let flags = nix::sys::socket::MsgFlags::empty();
    let socket = raw.socket().as_raw_fd();
    nix::sys::socket::sendmsg::<()>(socket, &[IoSlice::new(&request)], &control, flags, None)
        .expect("it is sent");
    drop(theirs);
    raw.answer(50).expect("the frame itself is good");
    // With every copy closed, our end reads the end.
    let mut byte = [0];
    ours.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    assert_eq!(std::io::Read::read(&mut &ours, &mut byte).expect("the other end is closed"), 0);
}

fn wrong_types_are_named(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let cases = [
        ("process.spawn", json!({"id": "x", "command": ["true"], "options": {"cwd": {}}}), "options.cwd"),
        (
            "process.spawn",
            json!({"id": "x", "command": ["true"], "options": {"limits": {"memory": "x"}}}),
            "options.limits.memory",
        ),
        ("process.spawn", json!({"id": {"a": 1}, "command": ["true"]}), "id"),
        ("process.wait", json!({"id": "x", "timeoutMs": "soon"}), "timeoutMs"),
        ("process.stdin.write", json!({"id": "x", "data": {"a": 1}}), "data"),
        ("subscribe", json!({"topic": 5}), "topic"),
    ];
    for (method, params, field) in cases {
        let refusal = raw.refused(method, params);
        assert_eq!(refusal.code, "E_INVALID_PARAMS", "{method}: {refusal:?}");
        assert!(refusal.info.to_string().contains(field), "{method}: {refusal:?} does not name {field}");
    }
    let id = raw.request("kernel.ping", Value::from(5));
    let _ = raw.answer(id);
    let hostile = [
        "kairo.process.>",
        "((((",
        "a**************b",
        ">>>>>>>>>>>>>>>>>>>>>x",
        "*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.y",
    ];
    for pattern in hostile {
        raw.ok("subscribe", json!({"topic": pattern}));
    }
    let begun = Instant::now();
    raw.spawn("quick", &["true"], json!({}));
    raw.wait_for_exit("quick");
    assert!(begun.elapsed() < Duration::from_secs(2), "a pattern costs {:?}", begun.elapsed());
}

fn a_megabyte_of_noise_ends_nothing_but_itself(daemon: &Daemon) {
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..64 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        })
        .take(16 * 1024)
        .collect();
        let mut raw = daemon.connect();
        let _ = raw.socket().write_all(&bytes);
        let mut framed = daemon.connect();
        let _ = framed.socket().write_all(&frame_bytes(REQUEST, &bytes));
    }
    daemon.connect().ok("kernel.ping", json!({}));
}

on_both_drivers!(
    a_length_never_fulfilled_costs_nothing,
    a_byte_at_a_time_holds_up_nobody,
    bombs_and_lies_about_counts_are_refused,
    ten_thousand_idle_connections_are_just_there,
    a_storm_of_connects_passes,
    a_client_that_never_reads_harms_only_itself,
    the_call_too_many_is_refused_and_the_others_wait,
    arguments_no_program_can_have_are_refused,
    folders_that_cannot_be_entered_are_named,
    programs_that_cannot_run_are_told_apart,
    a_program_deleted_while_it_starts_runs_or_is_not_found,
    signals_that_are_none_are_refused,
    of_two_who_race_for_an_id_one_gets_it,
    descriptors_nobody_asked_for_are_closed,
    wrong_types_are_named,
    a_megabyte_of_noise_ends_nothing_but_itself,
);
