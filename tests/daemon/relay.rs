//! Streams of which nothing is kept: what goes from a child to whoever reads it without anybody looking at it.
//!
//! `kairo run` is held to what a bare pipe does; a daemon's process to exact bytes, whoever comes and goes, and exact gaps.

use crate::support::output::Chunk;
use crate::support::raw::{EVENT, Raw, STREAM_CHUNK};
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, Driver, Options, on_both_drivers, program, until};
use kairo_client::Client;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::open::{OpenParams, Transport};
use kairo_wire::methods::stream::{Policy, Start};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// 64 MiB.
const BLOCKS: usize = 1_024;

/// `kairo run` of something that writes so many blocks of the sequence.
fn run(driver: &str, blocks: usize) -> Command {
    let mut command = Command::new(program());
    command.args(["run", "--json", "--driver", driver, "--"]).args(sequence::argv(&blocks.to_string()));
    command.env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// What `--json` says of stdout, after a run that went well.
fn told(command: &mut Command) -> Json {
    let output = command.spawn().expect("it runs").wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    serde_json::from_str::<Json>(&text).expect("numbers")["streams"][0].clone()
}

fn digest(mut from: impl Read) -> (u64, String) {
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match from.read(&mut piece).expect("it can be read") {
            0 => return (bytes, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => {
                hash.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
}

fn expected() -> (u64, String) {
    let mut command = Command::new(sequence::argv("0")[0]);
    command.args(&sequence::argv(&BLOCKS.to_string())[1..]).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let digest = digest(child.stdout.take().expect("piped"));
    assert!(child.wait().expect("it ends").success());
    digest
}

#[test]
fn run_relays_every_byte_wherever_it_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let wanted = expected();
    for driver in ["uring", "poll"] {
        let mut to_pipe = run(driver, BLOCKS);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        to_pipe.stdout(writer);
        let thread = std::thread::spawn(move || digest(reader));
        let told_of_pipe = told(&mut to_pipe);
        drop(to_pipe);
        assert_eq!(thread.join().expect("it reads"), wanted, "a pipe on {driver}");
        assert_eq!((&told_of_pipe["engine"], &told_of_pipe["bytes"]), (&json!("relay"), &json!(wanted.0)));

        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let mut to_socket = run(driver, BLOCKS);
        to_socket.stdout(OwnedFd::from(theirs));
        let thread = std::thread::spawn(move || digest(ours));
        told(&mut to_socket);
        drop(to_socket);
        assert_eq!(thread.join().expect("it reads"), wanted, "a socket on {driver}");

        let path = folder.path().join(driver);
        told(run(driver, BLOCKS).stdout(File::create(&path).expect("a file")));
        assert_eq!(digest(File::open(&path).expect("it is there")), wanted, "a file on {driver}");

        fs::write(&path, b"before").expect("it can be written");
        let appending = File::options().append(true).open(&path).expect("it opens");
        assert_eq!(told(run(driver, BLOCKS).stdout(appending))["engine"], "relay");
        let bytes = fs::read(&path).expect("it is there");
        assert_eq!(&bytes[..6], b"before");
        assert_eq!(digest(&bytes[6..]), wanted, "a file that grows on {driver}");

        let nowhere = File::options().write(true).open("/dev/null").expect("it is there");
        assert_eq!(told(run(driver, BLOCKS).stdout(nowhere))["bytes"], wanted.0);
    }
}

#[test]
fn run_says_when_there_is_no_room() {
    for driver in ["uring", "poll"] {
        let full = File::options().write(true).open("/dev/full").expect("it is there");
        let output = run(driver, 16).stdout(full).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{text}");
        assert!(text.contains("stdout") && text.contains("space"), "{text}");
    }
}

#[test]
fn run_ends_with_its_reader_as_a_bare_pipe_does() {
    let yes = |driver: &str| {
        let mut command = Command::new(program());
        command.args(["run", "--driver", driver, "--", "yes"]).stdin(Stdio::null());
        command.env("XDG_CONFIG_HOME", "/nonexistent");
        command
    };
    let code = |status: ExitStatus| status.code();
    for driver in ["uring", "poll"] {
        let mut child = yes(driver).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = [0; 2];
        child.stdout.take().expect("piped").read_exact(&mut line).expect("a line");
        assert_eq!(&line, b"y\n");
        assert_eq!(code(child.wait().expect("it ends")), Some(128 + 13), "killed by SIGPIPE on {driver}");
        // One that has no reader from the start.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        assert_eq!(code(yes(driver).stdout(writer).status().expect("it runs")), Some(128 + 13));
    }
}

/// A process that waits for a line, then writes the sequence; nothing of it is kept.
fn spawn(raw: &mut Raw, id: &str, blocks: usize, more: &Json) {
    let blocks = blocks.to_string();
    let argv = sequence::argv_once_told(&blocks);
    let mut options = json!({"history": "none"});
    for (name, value) in more.as_object().expect("options") {
        options[name] = value.clone();
    }
    raw.spawn(id, &argv, options);
}

fn tell(raw: &mut Raw, id: &str) {
    raw.tell_to_go(id);
}

fn status(raw: &mut Raw, id: &str) -> Json {
    raw.ok("process.status", json!({"id": id, "detail": true}))["detail"]["streams"][0].clone()
}

fn what_nobody_reads_is_counted_and_gone(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    spawn(&mut raw, "unread", 64, &json!({}));
    tell(&mut raw, "unread");
    raw.wait_until_ended(&["unread"]);
    let told = status(&mut raw, "unread");
    let total = json!(64 * BLOCK_BYTES);
    assert_eq!((&told["bytes"], &told["cutBytes"], &told["engine"]), (&total, &total, &json!("relay")));
    assert_eq!((&told["heldBytes"], &told["cut"]), (&json!(0), &Json::Null), "{told}");
    // Who comes late learns how much there was.
    let subscription = raw.subscribe("unread", json!({"stream": "stdout"}));
    let output = raw.collect(&subscription, 1);
    assert_eq!(output.gaps, [("stdout".to_owned(), 0, 64 * BLOCK_BYTES as u64)]);
    assert!(output.stdout.is_empty());
}

fn frames_bring_every_byte_and_then_the_exit(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("framed", json!({"stream": "stdout"}));
    spawn(&mut raw, "framed", 512, &json!({"pipeBytes": 1 << 20}));
    tell(&mut raw, "framed");
    let output = raw.collect(&subscription, 1);
    assert_eq!((output.stdout.len(), output.gaps.len()), (512 * BLOCK_BYTES, 0));
    sequence::check(&output.stdout, 0);
    assert_eq!(output.end("stdout")["totalBytes"], json!(512 * BLOCK_BYTES));

    let mut v1 = daemon.connect();
    v1.subscribe("old", json!({"stream": "stdout"}));
    spawn(&mut v1, "old", 128, &json!({}));
    tell(&mut v1, "old");
    let (mut bytes, mut sequence) = (Vec::new(), 0);
    loop {
        let frame = v1.frame().expect("frames");
        if frame.kind == STREAM_CHUNK {
            let chunk = Chunk::of(&frame);
            assert!(chunk.data.len() <= 65_535, "{} bytes in a v1 chunk", chunk.data.len());
            sequence += 1;
            assert_eq!(chunk.sequence, sequence);
            bytes.extend(chunk.data);
        } else if frame.kind == EVENT && frame.json()["data"] == json!({"id": "old", "code": 0}) {
            break;
        }
    }
    assert_eq!(bytes.len(), 128 * BLOCK_BYTES, "all of them before the exit");
    sequence::check(&bytes, 0);
}

fn small_writes_and_short_ones_come_whole(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let script =
        "for i in $(seq 1 400); do printf 'line %d\\n' $i; done; head -c 70001 /dev/zero; printf end";
    let subscription = raw.subscribe("small", json!({}));
    raw.spawn("small", &["sh", "-c", script], json!({"history": "none"}));
    let output = raw.collect(&subscription, 2);
    let mut wanted: Vec<u8> = (1..=400).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
    wanted.extend(vec![0; 70_001]);
    wanted.extend(b"end");
    assert!(output.stdout == wanted, "{} bytes", output.stdout.len());
}

fn a_reader_that_stops_makes_the_child_wait_and_others_are_served_meanwhile(daemon: &Daemon) {
    let mut stopped = daemon.connect_modern();
    let subscription = stopped.subscribe("writer", json!({"stream": "stdout"}));
    spawn(&mut stopped, "writer", 512, &json!({}));
    tell(&mut stopped, "writer");
    let mut other = daemon.connect_modern();
    until("the source waits for the reader", || status(&mut other, "writer")["paused"] == true);
    assert!(status(&mut other, "writer")["bytes"].as_u64().expect("a number") < 8 << 20);
    // Calls on that connection are answered behind the frame that has begun.
    let mut dropping = daemon.connect_modern();
    let by = dropping.subscribe("writer", json!({"stream": "stdout", "policy": "drop_oldest"}));
    let output = stopped.collect(&subscription, 1);
    assert_eq!((output.stdout.len(), output.gaps.len()), (512 * BLOCK_BYTES, 0));
    sequence::check(&output.stdout, 0);
    let late = dropping.collect(&by, 1);
    let missed: u64 = late.gaps.iter().map(|(_, from, to)| to - from).sum();
    assert_eq!(late.stdout.len() as u64 + missed, 512 * BLOCK_BYTES as u64);
}

fn who_drops_paces_nobody_and_its_gaps_are_exact(daemon: &Daemon) {
    let mut dropping = daemon.connect_modern();
    let wish = json!({"stream": "stdout", "policy": "drop_oldest"});
    let subscription = dropping.subscribe("writer", wish);
    spawn(&mut dropping, "writer", 1_024, &json!({}));
    tell(&mut dropping, "writer");
    let mut other = daemon.connect_modern();
    other.wait_until_ended(&["writer"]);
    let (mut at, mut gaps, mut end) = (0, 0, None);
    while end.is_none() {
        let frame = dropping.frame().expect("frames");
        if frame.kind == STREAM_CHUNK {
            let chunk = Chunk::of(&frame);
            assert_eq!(chunk.offset, Some(at));
            sequence::check(&chunk.data, at);
            at += chunk.data.len() as u64;
        } else if frame.kind == EVENT && frame.json()["data"]["subscriptionId"] == subscription {
            let event = frame.json();
            match event["topic"].as_str() {
                Some("stream.gap") => {
                    assert_eq!(event["data"]["from"], at);
                    let to = event["data"]["to"].as_u64().expect("a number");
                    (gaps, at) = (gaps + to - at, to);
                }
                _ => end = Some(event["data"].clone()),
            }
        }
    }
    let end = end.expect("it ends");
    assert_eq!((&end["totalBytes"], &end["gapBytes"]), (&json!(1_024 * BLOCK_BYTES), &json!(gaps)));
    assert!(gaps > 0 && at == 1_024 * BLOCK_BYTES as u64);
}

fn by(id: &str, transport: Transport, policy: Policy) -> OpenParams {
    let id = ProcessId::from_text(id).expect("a short id");
    OpenParams { from: Start::Now, policy, ..OpenParams::of(id, transport) }
}

fn open(client: &Client, params: &OpenParams) -> File {
    let opened = client.open(params).expect("it opens");
    File::from(opened.descriptors.into_iter().next().expect("a descriptor"))
}

fn whole(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("it can be read");
    bytes
}

/// Bytes that are the end of a stream.
#[track_caller]
fn check_tail(bytes: &[u8], total: usize) {
    assert!(bytes.len() <= total);
    sequence::check(bytes, (total - bytes.len()) as u64);
}

fn many_readers_come_and_go_and_each_has_what_there_was(daemon: &Daemon) {
    const TOTAL: usize = 1_024 * BLOCK_BYTES;
    let mut raw = daemon.connect_modern();
    let client = Client::connect(&daemon.socket).expect("the daemon is there");
    let subscription = raw.subscribe("writer", json!({"stream": "stdout"}));
    spawn(&mut raw, "writer", 1_024, &json!({}));
    let first: Vec<File> = [Transport::Pipe, Transport::Socket, Transport::Pipe]
        .map(|transport| open(&client, &by("writer", transport, Policy::Block)))
        .into();
    tell(&mut raw, "writer");
    std::thread::scope(|scope| {
        let first: Vec<_> = first.into_iter().map(|file| scope.spawn(|| whole(file))).collect();
        let framed = scope.spawn(|| raw.collect(&subscription, 1));
        let (client, socket) = (&client, &daemon.socket);
        // Some come late and stay, some leave after a while, some leave in the middle of a frame.
        let others: Vec<_> =
            (0..12_usize).map(|nth| scope.spawn(move || come_and_go(client, socket, nth, TOTAL))).collect();
        for thread in first {
            let bytes = thread.join().expect("it reads");
            assert_eq!(bytes.len(), TOTAL);
            sequence::check(&bytes, 0);
        }
        let framed = framed.join().expect("it reads");
        assert_eq!((framed.stdout.len(), framed.gaps.len()), (TOTAL, 0));
        sequence::check(&framed.stdout, 0);
        others.into_iter().for_each(|thread| thread.join().expect("it reads"));
    });
    assert_eq!(raw.wait_for_exit("writer")["exitCode"], 0);
}

fn come_and_go(client: &Client, socket: &Path, nth: usize, total: usize) {
    if nth.is_multiple_of(3) {
        let mut raw = Raw::connect(socket);
        raw.ok("kernel.hello", json!({"features": ["records", "chunks"], "chunkBytesMax": 1 << 20}));
        let wish = json!({"stream": "stdout", "from": "now"});
        let subscription = raw.subscribe("writer", wish);
        for _ in 0..nth + 1 {
            let frame = raw.frame().expect("frames");
            if frame.kind == STREAM_CHUNK {
                let chunk = Chunk::of(&frame);
                sequence::check(&chunk.data, chunk.offset.expect("an offset"));
            }
        }
        if nth.is_multiple_of(2) {
            raw.ok("process.stdout.unsubscribe", json!({"subscriptionId": subscription}));
            raw.ok("kernel.ping", json!({}));
        }
        return;
    }
    let transport = if nth.is_multiple_of(2) { Transport::Pipe } else { Transport::Socket };
    let Ok(opened) = client.open(&by("writer", transport, Policy::Block)) else { return };
    let mut file = File::from(opened.descriptors.into_iter().next().expect("a descriptor"));
    if nth < 8 {
        let mut some = vec![0; nth * 100_000];
        // The stream may be over before.
        let _ = file.read(&mut some);
        return;
    }
    check_tail(&whole(file), total);
}

fn a_raw_reader_that_drops_misses_the_newest_and_it_is_told(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let client = Client::connect(&daemon.socket).expect("the daemon is there");
    raw.ok("subscribe", json!({"topic": "kairo.stream.gap"}));
    spawn(&mut raw, "writer", 256, &json!({}));
    let stopped = open(&client, &by("writer", Transport::Pipe, Policy::DropOldest));
    let reader = open(&client, &by("writer", Transport::Pipe, Policy::Block));
    tell(&mut raw, "writer");
    let bytes = whole(reader);
    assert_eq!(bytes.len(), 256 * BLOCK_BYTES);
    sequence::check(&bytes, 0);
    let kept = whole(stopped);
    assert!(!kept.is_empty() && kept.len() < bytes.len());
    sequence::check(&kept, 0);
    // Perhaps in several pieces, each from where the last one ended.
    let mut at = json!(kept.len());
    while at != json!(bytes.len()) {
        let gap = raw.event("kairo.stream.gap", |event| event["payload"]["id"] == "writer");
        assert_eq!(gap["payload"]["from"], at);
        at = gap["payload"]["to"].clone();
    }
}

fn what_cannot_be_had_of_it_is_refused_by_name(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    for (more, field) in [
        (json!({"pty": true}), "options.pty"),
        (json!({"spool": true}), "options.spool"),
        (json!({"adapter": "ffmpeg"}), "options.adapter"),
    ] {
        let mut options = more;
        options["history"] = json!("none");
        let refusal =
            raw.refused("process.spawn", json!({"id": "x", "command": ["true"], "options": options}));
        assert_eq!((refusal.code.as_str(), &refusal.info["details"]["field"]), ("E_CONFLICT", &json!(field)));
    }
    raw.spawn("sleep", &["sleep", "1000"], json!({"history": "none"}));
    for (wish, field) in [
        (json!({"mode": "line"}), "mode"),
        (json!({"bufferSize": 100_000}), "bufferSize"),
        (json!({"from": 5}), "from"),
        (json!({"policy": "spool"}), "policy"),
    ] {
        let mut params = wish;
        params["pid"] = json!("sleep");
        let refusal = raw.refused("process.stdout.subscribe", params);
        assert_eq!((refusal.code.as_str(), &refusal.info["details"]["field"]), ("E_CONFLICT", &json!(field)));
    }
    let refusal = raw.refused("stream.configure", json!({"id": "sleep", "history": {"tailBytes": 65_536}}));
    assert_eq!((refusal.code.as_str(), &refusal.info["details"]["field"]), ("E_CONFLICT", &json!("history")));
    // One that waited for it is told why it doesn't get it.
    let waiting = raw.subscribe("later", json!({"mode": "lines"}));
    raw.spawn("later", &["true"], json!({"history": "none"}));
    let output = raw.collect(&waiting, 2);
    assert_eq!(output.end("stdout")["reason"], "unkept");
    raw.ok("process.kill", json!({"id": "sleep"}));
}

fn a_rate_is_kept_to_without_a_history(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("paced", json!({"stream": "stdout"}));
    let rate = json!({"rate": {"bytesPerSecond": 4 << 20, "burst": 65_536}});
    spawn(&mut raw, "paced", 32, &rate);
    let begun = std::time::Instant::now();
    tell(&mut raw, "paced");
    let output = raw.collect(&subscription, 1);
    sequence::check(&output.stdout, 0);
    assert_eq!(output.stdout.len(), 32 * BLOCK_BYTES);
    assert!(begun.elapsed().as_millis() > 400, "2 MiB at 4 MiB/s");
}

/// So many streams that each write once a millisecond have a reactor wait for more of them, and visit them from time to time.
fn a_crowd_of_small_writes_comes_whole_and_so_do_its_last(daemon: &Daemon) {
    const CROWD: usize = 32;
    let mut raw = daemon.connect_modern();
    let client = Client::connect(&daemon.socket).expect("the daemon is there");
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for nth in 0..CROWD {
        let id = format!("crowd-{nth}");
        raw.spawn(&id, &["sleep", "1000"], json!({"history": "none", "stdin": "null"}));
        let pid = raw.ok("process.status", json!({"id": id}))["pid"].clone();
        let output = format!("/proc/{pid}/fd/1");
        until("it has its output", || {
            fs::read_link(&output).is_ok_and(|target| target.to_string_lossy().starts_with("pipe:"))
        });
        writers.push(OpenOptions::new().write(true).open(&output).expect("it is ours"));
        let reader = open(&client, &by(&id, Transport::Pipe, Policy::Block));
        rustix::io::ioctl_fionbio(&reader, true).expect("a pipe can be non-blocking");
        readers.push((reader, Vec::new()));
    }
    let mut look = || {
        let mut least = usize::MAX;
        for (reader, bytes) in &mut readers {
            // To its end, which doesn't come, or as far as it goes.
            let _ = reader.read_to_end(bytes);
            least = least.min(bytes.len());
        }
        least
    };
    let (begun, mut written) = (Instant::now(), 0_u64);
    while begun.elapsed() < Duration::from_millis(400) {
        for writer in &mut writers {
            writer.write_all(&written.to_le_bytes()).expect("there is room");
        }
        written += 1;
        look();
        std::thread::park_timeout(Duration::from_millis(1));
    }
    until("the last bytes", || look() == written as usize * 8);
    for (_, bytes) in readers {
        assert!((0..written).eq(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word))));
    }
}

on_both_drivers!(
    a_crowd_of_small_writes_comes_whole_and_so_do_its_last,
    what_nobody_reads_is_counted_and_gone,
    frames_bring_every_byte_and_then_the_exit,
    small_writes_and_short_ones_come_whole,
    a_reader_that_stops_makes_the_child_wait_and_others_are_served_meanwhile,
    who_drops_paces_nobody_and_its_gaps_are_exact,
    many_readers_come_and_go_and_each_has_what_there_was,
    a_raw_reader_that_drops_misses_the_newest_and_it_is_told,
    what_cannot_be_had_of_it_is_refused_by_name,
    a_rate_is_kept_to_without_a_history,
);

/// What a file in the daemon's folder lets begin.
fn gated(daemon: &Daemon, gate: &str) -> String {
    format!("until [ -e {} ]; do sleep 0.01; done", daemon.folder().join(gate).display())
}

/// One that was idle when its kernel was killed is counted on to the byte, and its readers come back for what follows.
fn a_killed_kernel_counts_on(driver: Driver) {
    if !driver.is_available() {
        return println!("skipped, this system forbids io_uring");
    }
    let mut daemon = Daemon::start(&Options::plain(driver));
    let mut raw = daemon.connect_modern();
    let script = format!("head -c 3000000 /dev/zero; {}; head -c 2000000 /dev/zero", gated(&daemon, "go"));
    let subscription = raw.subscribe("lives", json!({"stream": "stdout"}));
    raw.spawn("lives", &["sh", "-c", &script], json!({"history": "none"}));
    raw.spawn("alone", &["sh", "-c", &script], json!({"history": "none"}));
    let mut bytes = 0;
    while bytes < 3_000_000 {
        let frame = raw.frame().expect("frames");
        bytes += if frame.kind == STREAM_CHUNK { Chunk::of(&frame).data.len() } else { 0 };
    }
    until("all is counted", || status(&mut raw, "alone")["bytes"] == 3_000_000);
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    for id in ["lives", "alone"] {
        let told = status(&mut raw, id);
        assert_eq!((&told["bytes"], &told["engine"]), (&json!(3_000_000), &json!("relay")), "{told}");
    }
    // Who was read makes its child wait for its reader.
    fs::write(daemon.folder().join("go"), "").expect("the folder is ours");
    let resumes = json!({"stream": "stdout", "from": 3_000_000, "resumes": subscription});
    let subscription = raw.subscribe("lives", resumes);
    let (mut at, mut end) = (3_000_000, Json::Null);
    while end.is_null() {
        let frame = raw.frame().expect("frames");
        if frame.kind == STREAM_CHUNK {
            let chunk = Chunk::of(&frame);
            assert_eq!(chunk.offset, Some(at), "nothing is missed");
            at += chunk.data.len() as u64;
        } else if frame.kind == EVENT && frame.json()["data"]["subscriptionId"] == subscription {
            end = frame.json()["data"].clone();
        }
    }
    assert_eq!((at, &end["totalBytes"], &end["gapBytes"]), (5_000_000, &json!(5_000_000), &json!(0)));
    raw.wait_until_ended(&["lives", "alone"]);
    assert_eq!(status(&mut raw, "alone")["bytes"], 5_000_000);
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    assert_eq!(status(&mut raw, "alone")["bytes"], 5_000_000, "what has ended is as long as it was");
    daemon.finish();
}

/// Killed in the middle of a flood: either the account is exact, or it is told where it may not be.
fn a_kernel_killed_in_a_flood_names_what_it_can_not_tell(driver: Driver) {
    if !driver.is_available() {
        return println!("skipped, this system forbids io_uring");
    }
    const WRITTEN: u64 = 3_000 * BLOCK_BYTES as u64;
    let mut daemon = Daemon::start(&Options::plain(driver));
    let mut raw = daemon.connect_modern();
    spawn(&mut raw, "flood", 3_000, &json!({}));
    tell(&mut raw, "flood");
    until("it flows", || status(&mut raw, "flood")["bytes"].as_u64() > Some(1 << 20));
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    raw.wait_until_ended(&["flood"]);
    let counted = status(&mut raw, "flood")["bytes"].as_u64().expect("a number");
    let page = raw.ok("event.replay", json!({"types": ["kairo.stream.uncertain"]}));
    let told = page["events"][0]["payload"].clone();
    let (from, to) = (told["from"].as_u64().unwrap_or(0), told["to"].as_u64().unwrap_or(0));
    assert!(counted <= WRITTEN && to - from <= 1 << 20, "{counted}, {told}");
    assert!(WRITTEN - counted <= to - from, "{counted} of {WRITTEN}, told: {told}");
    daemon.finish();
}

#[test]
fn killed_kernels_count_on() {
    for driver in [Driver::Uring, Driver::Poll] {
        a_killed_kernel_counts_on(driver);
        a_kernel_killed_in_a_flood_names_what_it_can_not_tell(driver);
    }
}
