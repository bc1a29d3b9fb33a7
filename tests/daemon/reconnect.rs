//! The daemon is killed under its clients: the library and the command line come back by themselves and go on at the
//! exact byte; a v1 client that comes back finds everything.

use crate::adoption::lives_on_both_drivers;
use crate::support::output::Chunk;
use crate::support::raw::{Raw, STREAM_CHUNK};
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, processes, until};
use kairo_client::{CallError, Client, DirectItem, Item};
use kairo_wire::codec::data::Data;
use kairo_wire::codec::text::OsText;
use kairo_wire::error::Code;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::options::{OnDisconnect, SpawnOptions, WhenUnread};
use kairo_wire::methods::process::{
    Spawn, SpawnParams, Status, StatusParams, StdinClose, StdinWrite, StdinWriteParams, TargetParams, Wait,
    WaitParams,
};
use kairo_wire::methods::status::State;
use kairo_wire::methods::stream::{Selector, SubscribeParams};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

lives_on_both_drivers!(
    logs_go_on_at_the_exact_byte_and_say_that_the_daemon_was_gone,
    attach_goes_on_both_ways,
    wait_has_its_answer_from_the_next_daemon,
    a_large_write_goes_in_once_and_in_order,
    events_go_on_where_they_were_and_tell_of_the_outage,
    without_reconnecting_a_daemon_that_is_gone_is_the_end,
    both_kinds_of_subscription_miss_nothing_over_many_lives,
    a_spawn_in_flight_happens_once_wherever_its_kernel_dies,
    writes_in_flight_happen_once,
    what_dies_with_its_connection_outlives_the_kernel,
    a_v1_client_that_comes_back_finds_everything,
);

fn id(text: &str) -> ProcessId {
    ProcessId::from_text(text).expect("a short id")
}

fn connect(daemon: &Daemon) -> Client {
    Client::connect(&daemon.socket).expect("the daemon is there")
}

/// Starts a program whose output waits for a reader.
fn spawn(client: &Client, name: &str, argv: &[&str], options: SpawnOptions) {
    let command: Vec<OsText> = argv.iter().map(|word| (*word).into()).collect();
    let options = Some(Box::new(options));
    client.call::<Spawn>(&SpawnParams { id: id(name), command, options }).expect("it starts");
}

fn unhurried() -> SpawnOptions {
    SpawnOptions { when_unread: WhenUnread::Block, ..SpawnOptions::default() }
}

fn stdout_of(name: &str) -> SubscribeParams {
    SubscribeParams { id: Some(id(name)), stream: Selector::Stdout, ..Default::default() }
}

fn wait_for(client: &Client, name: &str) -> i32 {
    client.call::<Wait>(&WaitParams { id: id(name), timeout_ms: None }).expect("it ended").exit_code
}

/// A command that goes on while the test does something else.
struct Command {
    child: Child,
    stderr: JoinHandle<String>,
}

impl Command {
    fn start(daemon: &Daemon, arguments: &[&str]) -> Command {
        let mut command = daemon.cli(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let mut stderr = child.stderr.take().expect("piped");
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).expect("it is text");
            text
        });
        Command { child, stderr }
    }

    /// Its end, and what it said on stderr.
    fn finish(mut self) -> (ExitStatus, String) {
        let mut status = None;
        until("the command ends", || {
            status = self.child.try_wait().expect("our child");
            status.is_some()
        });
        (status.expect("it ended"), self.stderr.join().expect("read to its end"))
    }
}

fn says_it_was_gone(stderr: &str, times: usize) {
    assert_eq!(stderr.matches("the daemon is gone; waiting").count(), times, "{stderr}");
    assert_eq!(stderr.matches("the daemon is back after").count(), times, "{stderr}");
    assert!(!stderr.contains('\x1b'), "what is no terminal gets no colour");
}

fn logs_go_on_at_the_exact_byte_and_say_that_the_daemon_was_gone(daemon: &mut Daemon) {
    const BLOCKS: usize = 600;
    let client = connect(daemon);
    spawn(&client, "flood", &sequence::argv(&BLOCKS.to_string()), unhurried());
    drop(client);
    let mut logs = Command::start(daemon, &["logs", "-f", "--stream", "stdout", "flood"]);
    let mut stdout = logs.child.stdout.take().expect("piped");
    let mut at = 0u64;
    let mut buffer = vec![0; 1 << 20];
    for goal in [1_000_003, 11_000_017, 22_000_029, u64::MAX] {
        while at < goal {
            let read = stdout.read(&mut buffer).expect("it is there");
            if read == 0 {
                break;
            }
            sequence::check(&buffer[..read], at);
            at += read as u64;
        }
        if goal < u64::MAX {
            daemon.kill_and_succeed();
        }
    }
    assert_eq!(at, (BLOCKS * BLOCK_BYTES) as u64);
    let (status, stderr) = logs.finish();
    assert!(status.success(), "{stderr}");
    says_it_was_gone(&stderr, 3);
}

fn attach_goes_on_both_ways(daemon: &mut Daemon) {
    daemon.connect().spawn("echo", &["cat"], json!({}));
    let mut attached = Command::start(daemon, &["attach", "--replay", "echo"]);
    let mut stdin = attached.child.stdin.take().expect("piped");
    let mut lines = BufReader::new(attached.child.stdout.take().expect("piped")).lines();
    for round in 0..4 {
        let typed = format!("line {round} {}", "x".repeat(round * 10_000));
        writeln!(stdin, "{typed}").expect("it reads");
        assert_eq!(lines.next().expect("a line").expect("text"), typed);
        if round < 3 {
            daemon.kill_and_succeed();
        }
    }
    drop(stdin);
    assert!(lines.next().is_none(), "cat has ended");
    let (status, stderr) = attached.finish();
    assert!(status.success(), "{stderr}");
    says_it_was_gone(&stderr, 3);
}

fn wait_has_its_answer_from_the_next_daemon(daemon: &mut Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("code", &["sh", "-c", "read line; exit 7"], json!({}));
    let waiting = Command::start(daemon, &["wait", "code", "--json"]);
    // The daemon's own descriptors are nobody's to see but root's.
    let client = waiting.child.id() as i32;
    let is_socket = |of: &std::path::PathBuf| of.to_string_lossy().starts_with("socket:");
    until("it has connected", || processes::descriptor_targets(client).iter().any(is_socket));
    daemon.kill_and_succeed();
    daemon.connect().tell_to_go("code");
    let (status, stderr) = waiting.finish();
    assert_eq!(status.code(), Some(7), "{stderr}");
    let told: Vec<Json> =
        stderr.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert_eq!(told[0], json!({"v": 1, "notice": {"daemon": "gone"}}));
    assert_eq!((&told[1]["v"], &told[1]["notice"]["daemon"]), (&json!(1), &json!("back")));
}

fn a_large_write_goes_in_once_and_in_order(daemon: &mut Daemon) {
    const BLOCKS: usize = 200;
    daemon.connect().spawn("sink", &["sh", "-c", "cat > \"$0\"", file(daemon).as_str()], json!({}));
    let mut write = Command::start(daemon, &["write", "--close", "sink"]);
    let mut stdin = write.child.stdin.take().expect("piped");
    let fed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut source = std::process::Command::new(sequence::argv("200")[0])
                .args(&sequence::argv("200")[1..])
                .stdout(Stdio::piped())
                .spawn()
                .expect("the writer runs");
            let mut bytes = source.stdout.take().expect("piped");
            let mut piece = vec![0; 64 << 10];
            loop {
                let read = bytes.read(&mut piece).expect("it is there");
                if read == 0 {
                    break;
                }
                stdin.write_all(&piece[..read]).expect("it reads");
                fed.fetch_add(read as u64, Ordering::Relaxed);
            }
            drop(stdin);
            source.wait().expect("it ended");
        });
        for goal in [2_000_000, 6_000_000, 10_000_000] {
            until("some is written", || fed.load(Ordering::Relaxed) >= goal);
            daemon.kill_and_succeed();
        }
    });
    let (status, stderr) = write.finish();
    assert!(status.success(), "{stderr}");
    assert_eq!(daemon.connect().wait_for_exit("sink")["exitCode"], 0);
    let got = std::fs::read(file(daemon)).expect("it was written");
    assert_eq!(got.len(), BLOCKS * BLOCK_BYTES);
    sequence::check(&got, 0);
}

fn file(daemon: &Daemon) -> String {
    daemon.folder().join("written").to_str().expect("text").to_owned()
}

fn events_go_on_where_they_were_and_tell_of_the_outage(daemon: &mut Daemon) {
    let mut events = Command::start(daemon, &["events", "-f", "--json", "kairo.process.spawned"]);
    let mut lines = BufReader::new(events.child.stdout.take().expect("piped")).lines();
    let mut next = || -> Json {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str(&line).expect("JSON")
    };
    // It has subscribed when it hears of one; those before it are its luck.
    let raw = daemon.connect();
    let hears = std::thread::scope(|scope| {
        let heard = scope.spawn(|| next()["payload"]["id"].clone());
        let mut raw = raw;
        let mut number = 0;
        until("it listens", || {
            number += 1;
            raw.spawn(&format!("before{number}"), &["true"], json!({}));
            heard.is_finished()
        });
        heard.join().expect("it heard")
    });
    daemon.kill_and_succeed();
    daemon.connect().spawn("after", &["true"], json!({}));
    let number = |id: &Json| id.as_str().and_then(|id| id.strip_prefix("before")?.parse::<u64>().ok());
    let mut last = number(&hears).expect("one of those before");
    let mut resumed = 0;
    loop {
        let line = next();
        if line.get("resumed").is_some() {
            assert_eq!(line["resumed"]["complete"], true, "{line}");
            resumed += 1;
            continue;
        }
        // All that were spawned before the kill and had not been heard of come first, each once.
        match number(&line["payload"]["id"]) {
            Some(number) => assert_eq!(number, last + 1, "{line}"),
            None => break assert_eq!(line["payload"]["id"], "after"),
        }
        last += 1;
    }
    assert_eq!(resumed, 1);
    events.child.kill().expect("it runs");
    events.finish();
}

fn without_reconnecting_a_daemon_that_is_gone_is_the_end(daemon: &mut Daemon) {
    daemon.connect().spawn("talk", &["sh", "-c", "echo hello; sleep 1000"], json!({}));
    let mut logs = Command::start(daemon, &["logs", "-f", "--no-reconnect", "talk"]);
    let mut lines = BufReader::new(logs.child.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "hello");
    daemon.kill_and_succeed();
    let (status, stderr) = logs.finish();
    assert_eq!(status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("closed the connection") && !stderr.contains("waiting"), "{stderr}");
}

fn both_kinds_of_subscription_miss_nothing_over_many_lives(daemon: &mut Daemon) {
    const BLOCKS: u64 = 1_500;
    let client = connect(daemon);
    // Before there is anything to miss: what one has read is dropped before the other comes.
    let shared = client.subscribe(&stdout_of("flood")).expect("it waits");
    let direct = connect(daemon).into_stream(&stdout_of("flood")).expect("nobody shares it");
    spawn(&client, "flood", &sequence::argv(&BLOCKS.to_string()), unhurried());
    let (of_shared, of_direct) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for item in shared {
                match item.expect("no byte is missing") {
                    Item::Chunk(chunk) => {
                        sequence::check(&chunk.data, chunk.offset);
                        of_shared.store(chunk.offset + chunk.data.len() as u64, Ordering::Relaxed);
                    }
                    Item::End { total_bytes, gap_bytes, .. } => {
                        assert_eq!((total_bytes, gap_bytes), (BLOCKS * BLOCK_BYTES as u64, 0));
                    }
                    other => panic!("unexpected: {other:?}"),
                }
            }
        });
        scope.spawn(|| {
            let mut direct = direct;
            while let Some(item) = direct.next_item().expect("no byte is missing") {
                match item {
                    DirectItem::Chunk { offset, data, .. } => {
                        sequence::check(data, offset);
                        of_direct.store(offset + data.len() as u64, Ordering::Relaxed);
                    }
                    DirectItem::End { total_bytes, gap_bytes, .. } => {
                        assert_eq!((total_bytes, gap_bytes), (BLOCKS * BLOCK_BYTES as u64, 0));
                    }
                    DirectItem::LeaderExited { code } => assert_eq!(code, 0),
                    other => panic!("unexpected: {other:?}"),
                }
            }
        });
        for life in 1..=5 {
            let goal = life * BLOCKS / 6 * BLOCK_BYTES as u64;
            until("both have come so far", || {
                of_shared.load(Ordering::Relaxed).min(of_direct.load(Ordering::Relaxed)) >= goal
            });
            daemon.kill_and_succeed();
        }
    });
    assert_eq!(wait_for(&client, "flood"), 0);
}

fn a_spawn_in_flight_happens_once_wherever_its_kernel_dies(daemon: &mut Daemon) {
    let starts = daemon.folder().join("starts");
    let script = "echo $1 >> \"$0\"; exec sleep 1000";
    let path = starts.to_str().expect("text").to_owned();
    for (round, point) in
        ["spawn.sent:1", "spawn.heard:1", "spawn.sent:2", "spawn.heard:2"].iter().enumerate()
    {
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        daemon.succeed_unasked(&["--die-at", point]);
        let client = connect(daemon);
        let name = format!("child{round}");
        std::thread::scope(|scope| {
            let spawned = scope.spawn(|| {
                let argv = ["sh", "-c", script, &path, &name];
                let command = argv.iter().map(|word| (*word).into()).collect();
                let first = client.call::<Spawn>(&SpawnParams { id: id(&name), command, options: None });
                // The second time is met by a second spawn.
                let second =
                    SpawnParams { id: id(&format!("{name}b")), command: vec!["true".into()], options: None };
                (first.expect("it is spawned"), client.call::<Spawn>(&second).expect("and so is the next"))
            });
            daemon.wait();
            daemon.succeed(&[]);
            let (first, second) = spawned.join().expect("no panic");
            let status = client.call::<Status>(&StatusParams { id: first.id.clone(), detail: false });
            assert_eq!(status.expect("it is there").pid, Some(first.pid));
            assert_eq!(second.id, id(&format!("{name}b")));
        });
    }
    let mut said = Vec::new();
    until("each has said that it runs", || {
        let text = std::fs::read_to_string(&starts).unwrap_or_default();
        said = text.lines().map(str::to_owned).collect();
        said.len() >= 4
    });
    said.sort_unstable();
    assert_eq!(said, ["child0", "child1", "child2", "child3"], "each started once");
}

fn writes_in_flight_happen_once(daemon: &mut Daemon) {
    const WRITES: u64 = 400;
    let client = connect(daemon);
    spawn(&client, "echo", &["cat"], unhurried());
    let mut echoed = client.subscribe(&stdout_of("echo")).expect("it is there");
    let done = AtomicU64::new(0);
    let expected: String = (0..WRITES).map(line).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut written = 0;
            for number in 0..WRITES {
                let data = line(number);
                written += data.len() as u64;
                let params = StdinWriteParams { id: id("echo"), data: Data(data.into()) };
                let answer = client.call::<StdinWrite>(&params).expect("it is written");
                assert_eq!(answer.offset, written);
                done.store(number + 1, Ordering::Relaxed);
            }
            close(&client, "echo");
        });
        let mut got = Vec::new();
        let reader = scope.spawn(move || {
            for item in echoed.by_ref() {
                if let Item::Chunk(chunk) = item.expect("no byte is missing") {
                    assert_eq!(chunk.offset, got.len() as u64);
                    got.extend_from_slice(&chunk.data);
                }
            }
            got
        });
        for life in 1..=4 {
            until("some are written", || done.load(Ordering::Relaxed) >= life * WRITES / 5);
            daemon.kill_and_succeed();
        }
        let got = reader.join().expect("no panic");
        assert!(got == expected.as_bytes(), "what came back is what was written, once");
    });
}

/// A close has no key: one that may have happened is asked for again, and may have.
fn close(client: &Client, name: &str) {
    loop {
        match client.call::<StdinClose>(&TargetParams { id: id(name) }) {
            Err(CallError::Interrupted { .. }) => {}
            Err(error) if error.code() == Some(Code::StdinClosed) => return,
            other => return drop(other.expect("it is closed")),
        }
    }
}

fn line(number: u64) -> String {
    format!("{number} {}\n", "y".repeat(number as usize * 37 % 3_000))
}

fn what_dies_with_its_connection_outlives_the_kernel(daemon: &mut Daemon) {
    let client = connect(daemon);
    let guarded = SpawnOptions { on_disconnect: OnDisconnect::Kill, ..SpawnOptions::default() };
    spawn(&client, "ward", &["sleep", "1000"], guarded);
    let is_running = |client: &Client| {
        let status = client.call::<Status>(&StatusParams { id: id("ward"), detail: false });
        status.expect("it is known").state == State::Running
    };
    for _ in 0..3 {
        daemon.kill_and_succeed();
        assert!(is_running(&client));
    }
    let other = connect(daemon);
    drop(client);
    until("it has gone with its connection", || !is_running(&other));
    assert_eq!(wait_for(&other, "ward"), 143);
}

/// So many bytes of a subscription.
fn take(raw: &mut Raw, subscription: &str, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let frame = raw.frame().expect("it lives");
        if frame.kind == STREAM_CHUNK {
            let chunk = Chunk::of(&frame);
            assert_eq!(chunk.subscription, subscription);
            bytes.extend(chunk.data);
        }
    }
    bytes
}

fn a_v1_client_that_comes_back_finds_everything(daemon: &mut Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("talk", &["sh", "-c", "echo hello; cat"], json!({}));
    raw.spawn("code", &["sh", "-c", "read line; exit 9"], json!({}));
    raw.spawn("idle", &["sleep", "1000"], json!({}));
    let pid = raw.ok("process.status", json!({"id": "talk"}))["pid"].clone();
    let subscription = raw.subscribe("talk", json!({}));
    assert_eq!(take(&mut raw, &subscription, 6), b"hello\n");
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    assert!(raw.frame().is_none(), "the connection has ended");
    daemon.succeed(&[]);
    let mut raw = daemon.connect();
    assert_eq!(raw.ok("process.status", json!({"id": "talk"})), json!({"state": "running", "pid": pid}));
    raw.ok("process.stdin.write", json!({"id": "talk", "data": "again\n"}));
    // What it retains comes again: v1 knows no offsets to go on from.
    let subscription = raw.subscribe("talk", json!({}));
    assert_eq!(take(&mut raw, &subscription, 12), b"hello\nagain\n");
    raw.tell_to_go("code");
    assert_eq!(raw.ok("process.wait", json!({"id": "code"}))["exitCode"], 9);
    assert_eq!(raw.ok("process.kill", json!({"id": "idle"}))["status"], "killed");
    assert_eq!(raw.ok("process.wait", json!({"id": "idle"}))["exitCode"], 143);
    raw.ok("process.stdin.close", json!({"id": "talk"}));
    assert_eq!(raw.ok("process.wait", json!({"id": "talk"}))["exitCode"], 0);
}
