//! Output of any length: on disk, and from disk to whoever comes late or falls behind.

use crate::streams::{check_with_gaps, stream};
use crate::support::output::{Chunk, Output};
use crate::support::raw::{EVENT, RESPONSE, Raw, STREAM_CHUNK, value};
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, Driver, Options, on_both_drivers, until, with};
use kairo_dataplane::points::Point;
use nix::sys::signal::Signal;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value as Json, json};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The segments of a process's stdout, oldest first.
fn segments(daemon: &Daemon, raw: &mut Raw, id: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder(daemon, raw, id))
        .map(|entries| entries.map(|entry| entry.expect("a folder can be listed").path()).collect())
        .unwrap_or_default();
    files.sort();
    files
}

/// Where a process's stdout is spooled.
fn folder(daemon: &Daemon, raw: &mut Raw, id: &str) -> PathBuf {
    let session = crate::streams::detail(raw, id)["session"].as_str().expect("a session").to_owned();
    daemon.folder().join("state/spool").join(session).join("stdout")
}

fn first_offset(segment: &Path) -> u64 {
    segment.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok()).expect("an offset")
}

/// All of a subscription, without keeping it: (bytes, gaps).
pub(crate) fn check_all(raw: &mut Raw, subscription: &str, from: u64) -> (u64, Vec<(u64, u64)>) {
    let (mut at, mut bytes, mut gaps) = (from, 0, Vec::new());
    loop {
        let frame = raw.frame().expect("the connection lasts until the stream ends");
        match frame.kind {
            STREAM_CHUNK => {
                let chunk = Chunk::of(&frame);
                assert_eq!((chunk.subscription.as_str(), chunk.offset), (subscription, Some(at)));
                sequence::check(&chunk.data, at);
                at += chunk.data.len() as u64;
                bytes += chunk.data.len() as u64;
            }
            EVENT => {
                let event = frame.json();
                let data = &event["data"];
                if event["topic"] == "stream.gap" {
                    let range = (data["from"].as_u64().expect("from"), data["to"].as_u64().expect("to"));
                    assert_eq!(range.0, at);
                    at = range.1;
                    gaps.push(range);
                } else if event["topic"] == "stream.end" {
                    assert_eq!(data["totalBytes"], at);
                    return (bytes, gaps);
                }
            }
            kind => assert_eq!(kind, RESPONSE),
        }
    }
}

fn a_late_reader_of_any_policy_gets_all_of_a_long_stream(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("long", &sequence::argv("1024"), json!({"spool": true}));
    raw.wait_for_exit("long");
    for policy in ["block", "drop_oldest", "spool"] {
        for from in [0, 1, 100_000, 33_333_333, 1024 * BLOCK - 1] {
            let mut reader = daemon.connect_modern();
            let wish = json!({"stream": "stdout", "policy": policy, "from": from});
            let subscription = reader.subscribe("long", wish);
            assert_eq!(
                check_all(&mut reader, &subscription, from),
                (1024 * BLOCK - from, vec![]),
                "{policy}"
            );
        }
    }
    let mut v1 = daemon.connect();
    v1.subscribe("long", json!({"stream": "stdout"}));
    let mut bytes = 0;
    while bytes < 1024 * BLOCK {
        let frame = v1.frame().expect("frames");
        assert_eq!(frame.kind, STREAM_CHUNK, "{:?}", frame.json());
        let chunk = Chunk::of(&frame);
        sequence::check(&chunk.data, bytes);
        bytes += chunk.data.len() as u64;
    }
}

fn a_descriptor_is_given_what_is_on_disk_too(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("long", &sequence::argv("256"), json!({"spool": true}));
    raw.wait_for_exit("long");
    for transport in ["pipe", "socket"] {
        for (policy, from) in
            [("block", 0), ("spool", 1), ("drop_oldest", 3_333_333), ("block", 256 * BLOCK - 1)]
        {
            let wish = json!({"id": "long", "transport": transport, "policy": policy, "from": from});
            let [descriptor] = <[_; 1]>::try_from(raw.open(wish).1).expect("one descriptor");
            let mut bytes = Vec::new();
            File::from(descriptor).read_to_end(&mut bytes).expect("it can be read");
            assert_eq!(bytes.len() as u64, 256 * BLOCK - from, "{transport} {policy} {from}");
            sequence::check(&bytes, from);
        }
    }
}

fn a_reader_who_is_slow_is_brought_the_rest_from_disk_and_paces_nobody(daemon: &Daemon) {
    let mut slow = daemon.connect_modern();
    let subscription = slow.subscribe("writer", json!({"stream": "stdout", "policy": "spool"}));
    let mut stalled = daemon.connect_modern();
    stalled.subscribe("writer", json!({"stream": "stdout", "policy": "spool"}));
    let mut quick = daemon.connect_modern();
    let live = quick.subscribe("writer", json!({"stream": "stdout", "policy": "block"}));
    quick.spawn("writer", &sequence::argv("1024"), json!({"spool": true}));
    assert_eq!(check_all(&mut quick, &live, 0), (1024 * BLOCK, vec![]));
    quick.wait_for_exit("writer");
    assert_eq!(check_all(&mut slow, &subscription, 0), (1024 * BLOCK, vec![]));
}

fn a_reader_walks_from_disk_into_memory_into_what_is_written_now(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let script = format!(
        "{}; {}",
        "import os, sys, struct
body = b''.join(struct.pack('>I', n * 2654435761 & 0xffffffff) for n in range(2, 16384))
def put(first, last):
    for number in range(first, last):
        block = struct.pack('>Q', number) + body
        while block: block = block[os.write(1, block):]
put(0, 256)
sys.stdin.readline()
put(256, 512)",
        "sys.stdin.readline()"
    );
    raw.spawn("stages", &[crate::support::python(), "-c", &script], json!({"spool": true}));
    until("it has written the first part", || stream(&mut raw, "stages", "stdout")["bytes"] == 256 * BLOCK);
    let mut reader = daemon.connect_modern();
    let subscription = reader.subscribe("stages", json!({"stream": "stdout", "policy": "block"}));
    let mut at = 0;
    let mut read_to = |reader: &mut Raw, end: u64| {
        while at < end {
            let frame = reader.frame().expect("frames");
            if frame.kind == STREAM_CHUNK {
                let chunk = Chunk::of(&frame);
                assert_eq!(chunk.offset, Some(at));
                sequence::check(&chunk.data, at);
                at += chunk.data.len() as u64;
            } else {
                assert_ne!(frame.json()["topic"], "stream.gap");
            }
        }
    };
    read_to(&mut reader, 256 * BLOCK);
    raw.ok("process.stdin.write", json!({"id": "stages", "data": "\n"}));
    read_to(&mut reader, 512 * BLOCK);
    raw.ok("process.stdin.close", json!({"id": "stages"}));
    let end = reader.event("stream.end", |event| event["data"]["subscriptionId"] == subscription);
    assert_eq!(end["data"]["gapBytes"], 0);
}

fn lines_from_disk_are_as_whole_as_lines_from_memory(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let script = "seq 1000000; head -c 150000 /dev/zero | tr '\\0' b; echo; seq 1000000; printf rest";
    raw.spawn("numbers", &["sh", "-c", script], json!({"spool": true}));
    raw.wait_for_exit("numbers");
    let numbers: String = (1..=1_000_000).map(|number| format!("{number}\n")).collect();
    let expected = format!("{numbers}{}\n{numbers}rest", "b".repeat(150_000));
    for mode in ["lines", "line"] {
        let subscription = raw.subscribe("numbers", json!({"mode": mode, "stream": "stdout"}));
        let output = raw.collect(&subscription, 1);
        assert!(output.gaps.is_empty());
        assert!(output.text() == expected, "{mode}: the text is wrong");
        let (last, lines) = output.chunks.split_last().expect("chunks");
        let unfinished = lines.iter().filter(|chunk| !chunk.ends_with(b"\n")).count();
        assert!(unfinished <= 2, "{mode}: {unfinished} chunks end within a line");
        assert!(last.ends_with(b"rest"));
        if mode == "line" {
            assert_eq!(output.chunks.len(), 2_000_000 + 3 + 1);
        }
    }
}

fn what_can_not_be_is_refused_by_name(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("plain", &["true"], json!({}));
    let refusal = raw.refused("process.stdout.subscribe", json!({"pid": "plain", "policy": "spool"}));
    assert_eq!((refusal.code.as_str(), &refusal.info["details"]["field"]), ("E_CONFLICT", &json!("policy")));
    let cases = [
        ("options.spool.segmentBytes", json!({"segmentBytes": 1000})),
        ("options.spool.segmentBytes", json!({"segmentBytes": 4 << 20, "bytesMax": 2 << 20})),
        ("options.spool.bytesMax", json!({"bytesMax": 1000})),
        ("options.spool.ageMs", json!({"ageMs": 0})),
        ("options.spool.segments", json!({"segments": 0})),
        ("spool", json!("yes")),
    ];
    for (field, spool) in cases {
        let spawn = json!({"id": "x", "command": ["true"], "options": {"spool": spool}});
        let refusal = raw.refused("process.spawn", spawn);
        assert_eq!(refusal.code, "E_INVALID_PARAMS", "{spool}");
        assert!(refusal.info["message"].as_str().is_some_and(|text| text.contains(field)), "{refusal:?}");
    }
    // It waits for a process that turns out to have no spool.
    let subscription = raw.subscribe("later", json!({"policy": "spool", "stream": "stdout"}));
    raw.spawn("later", &["true"], json!({}));
    let end = raw.event("stream.end", |event| event["data"]["subscriptionId"] == subscription);
    assert_eq!(end["data"]["reason"], "unspooled");
}

fn files_are_the_owners_and_go_when_the_process_is_forgotten(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("first", &sequence::argv("16"), json!({"spool": {"segmentBytes": 524_288}}));
    raw.wait_for_exit("first");
    let status = |raw: &mut Raw| stream(raw, "first", "stdout")["spool"].clone();
    until("all is on disk", || status(&mut raw)["to"] == 16 * BLOCK);
    let spool = status(&mut raw);
    let files = segments(daemon, &mut raw, "first");
    let on_disk: u64 = files.iter().map(|file| fs::metadata(file).expect("a file").len()).sum();
    assert_eq!((&spool["state"], &spool["from"]), (&json!("working"), &json!(0)));
    assert_eq!(
        (spool["segments"].as_u64(), spool["bytes"].as_u64()),
        (Some(files.len() as u64), Some(on_disk))
    );
    assert!(files.len() >= 2, "{files:?}");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let folder = folder(daemon, &mut raw, "first");
    assert_eq!((mode(&folder), mode(&files[0])), (0o700, 0o600));
    // The id's next life: nobody remembers this one.
    raw.event_of("kairo.process.ended", "first");
    raw.spawn("first", &["true"], json!({}));
    let session = folder.parent().expect("a session's folder").to_owned();
    until("its files are gone", || !session.exists());
    raw.spawn("kept", &["echo", "kept"], json!({"spool": {"keep": true}}));
    raw.event_of("kairo.process.ended", "kept");
    until("all is on disk", || stream(&mut raw, "kept", "stdout")["spool"]["to"] == 5);
    let kept = segments(daemon, &mut raw, "kept");
    raw.spawn("kept", &["true"], json!({"spool": true}));
    raw.event_of("kairo.process.ended", "kept");
    assert!(kept[0].exists());
}

fn past_its_bound_the_oldest_segments_go_and_it_is_told(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": "kairo.stream.truncated"}));
    let spool = json!({"segmentBytes": 1 << 20, "bytesMax": 4 << 20});
    raw.spawn("bounded", &sequence::argv("256"), json!({"spool": spool}));
    raw.wait_for_exit("bounded");
    until("all is on disk", || stream(&mut raw, "bounded", "stdout")["spool"]["to"] == 256 * BLOCK);
    let spool = stream(&mut raw, "bounded", "stdout")["spool"].clone();
    assert!(spool["bytes"].as_u64().is_some_and(|bytes| bytes <= 4 << 20), "{spool}");
    let oldest = spool["from"].as_u64().expect("an offset");
    let mut told = 0;
    while told < oldest {
        let event = raw.event("kairo.stream.truncated", |event| event["payload"]["store"] == "spool");
        let payload = &event["payload"];
        assert_eq!((&payload["id"], &payload["stream"]), (&json!("bounded"), &json!("stdout")));
        assert!(payload["from"].as_u64().is_some_and(|from| from <= told), "{payload} after {told}");
        told = payload["to"].as_u64().expect("an end");
    }
    assert_eq!(told, oldest);
    let subscription = raw.subscribe("bounded", json!({"stream": "stdout"}));
    let output = raw.collect(&subscription, 1);
    // Its beginning is in memory.
    assert_eq!(output.gaps, [("stdout".to_owned(), BLOCK, oldest)]);
    check_with_gaps(&output.stdout, &output.gaps);
}

fn damaged_and_deleted_files_are_gaps_and_the_rest_is_read(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("harmed", &sequence::argv("256"), json!({"spool": {"segmentBytes": 1 << 20}}));
    raw.wait_for_exit("harmed");
    until("all is on disk", || stream(&mut raw, "harmed", "stdout")["spool"]["to"] == 256 * BLOCK);
    let files = segments(daemon, &mut raw, "harmed");
    // A byte in the middle of one, none of another, half of a third.
    let flipped = OpenOptions::new().read(true).write(true).open(&files[2]).expect("a segment");
    let mut byte = [0];
    flipped.read_exact_at(&mut byte, 500_000).expect("a byte");
    flipped.write_all_at(&[!byte[0]], 500_000).expect("another");
    fs::remove_file(&files[5]).expect("a segment goes");
    let cut = OpenOptions::new().write(true).open(&files[8]).expect("a segment");
    cut.set_len(400_000).expect("it is cut");
    let output = read_all(&mut raw, "harmed");
    assert_eq!(output.gaps.len(), 3, "{:?}", output.gaps);
    let [(_, from, to), second, third] = &output.gaps[..] else { panic!("three gaps") };
    let flipped_at = first_offset(&files[2]) + 500_000;
    assert!(*from < flipped_at && to - from <= 256 << 10 && *to <= first_offset(&files[3]), "{from} {to}");
    assert_eq!((second.1, second.2), (first_offset(&files[5]), first_offset(&files[6])));
    assert_eq!(third.2, first_offset(&files[9]));
    check_with_gaps(&output.stdout, &output.gaps);
    // All of it goes, while it is read.
    let mut reader = daemon.connect_modern();
    let subscription = reader.subscribe("harmed", json!({"stream": "stdout"}));
    fs::remove_dir_all(daemon.folder().join("state/spool")).expect("it goes");
    let output = reader.collect(&subscription, 1);
    check_with_gaps(&output.stdout, &output.gaps);
    let missed: u64 = output.gaps.iter().map(|(_, from, to)| to - from).sum();
    assert_eq!(output.stdout.len() as u64 + missed, 256 * BLOCK);
}

fn read_all(raw: &mut Raw, id: &str) -> Output {
    let subscription = raw.subscribe(id, json!({"stream": "stdout"}));
    raw.collect(&subscription, 1)
}

fn a_full_disk_is_told_and_the_stream_goes_on(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let mut events = daemon.connect_modern();
    events.ok("subscribe", json!({"topic": "kairo.stream.>"}));
    let script = "import os, sys, struct
body = b''.join(struct.pack('>I', n * 2654435761 & 0xffffffff) for n in range(2, 16384))
number = 0
for line in sys.stdin:
    for _ in range(int(line)):
        block = struct.pack('>Q', number) + body
        number += 1
        while block: block = block[os.write(1, block):]";
    raw.spawn("writer", &[crate::support::python(), "-c", script], json!({"spool": true}));
    // As far as the daemon can tell, its disk has room for 2 MiB of any file.
    let of_daemon = Pid::from_raw(daemon.pid());
    let limit = |bytes| Rlimit { current: bytes, maximum: None };
    prlimit(of_daemon, Resource::Fsize, limit(Some(2 << 20))).expect("a limit for our own child");
    raw.ok("process.stdin.write", json!({"id": "writer", "data": "128\n"}));
    let failed = events.event("kairo.stream.spool_failed", |_| true)["payload"].clone();
    assert_eq!((&failed["id"], &failed["stream"]), (&json!("writer"), &json!("stdout")));
    assert_eq!(failed["errno"], nix::errno::Errno::EFBIG as i32);
    let good_to = failed["goodTo"].as_u64().expect("an offset");
    assert!(good_to > 1 << 20 && good_to < 2 << 20, "{good_to}");
    until("the stream goes on", || stream(&mut raw, "writer", "stdout")["bytes"] == 128 * BLOCK);
    let spool = stream(&mut raw, "writer", "stdout")["spool"].clone();
    assert_eq!(spool["state"], "failed");
    // There is room again.
    prlimit(of_daemon, Resource::Fsize, limit(None)).expect("a limit for our own child");
    raw.ok("process.stdin.write", json!({"id": "writer", "data": "64\n"}));
    let resumed = events.event("kairo.stream.spool_resumed", |_| true)["payload"].clone();
    assert_eq!(resumed["goodTo"], good_to);
    let from = resumed["from"].as_u64().expect("an offset");
    raw.ok("process.stdin.close", json!({"id": "writer"}));
    raw.wait_for_exit("writer");
    until("all is on disk", || stream(&mut raw, "writer", "stdout")["spool"]["to"] == 192 * BLOCK);
    assert_eq!(stream(&mut raw, "writer", "stdout")["spool"]["state"], "working");
    let output = read_all(&mut raw, "writer");
    assert_eq!(output.gaps, [("stdout".to_owned(), good_to, from)]);
    check_with_gaps(&output.stdout, &output.gaps);
}

fn a_spool_that_can_not_be_made_is_told_and_the_stream_goes_on(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": "kairo.stream.spool_failed"}));
    fs::write(daemon.folder().join("state/spool"), "a file").expect("the state folder is ours");
    raw.spawn("homeless", &sequence::argv("64"), json!({"spool": true}));
    let failed = raw.event("kairo.stream.spool_failed", |event| event["payload"]["stream"] == "stdout");
    assert_eq!(failed["payload"]["goodTo"], 0);
    assert_eq!(failed["payload"]["errno"], nix::errno::Errno::ENOTDIR as i32);
    raw.wait_for_exit("homeless");
    let output = read_all(&mut raw, "homeless");
    check_with_gaps(&output.stdout, &output.gaps);
    assert_eq!(output.end("stdout")["totalBytes"], 64 * BLOCK);
}

fn many_streams_share_the_disk_and_do_not_mix(daemon: &Daemon) {
    std::thread::scope(|scope| {
        for number in 0..6 {
            scope.spawn(move || {
                let mut raw = daemon.connect_modern();
                let id = format!("writer-{number}");
                let script =
                    format!("for i in $(seq 40000); do echo {number} $i; echo {number} e$i >&2; done");
                raw.spawn(&id, &["bash", "-c", &script], json!({"spool": true}));
                raw.wait_for_exit(&id);
                let subscription = raw.subscribe(&id, json!({}));
                let output = raw.collect(&subscription, 2);
                let lines =
                    |mark: &str| (1..=40_000).map(|i| format!("{number} {mark}{i}\n")).collect::<String>();
                assert!(output.text() == lines(""), "stdout of {id} is wrong");
                assert!(String::from_utf8_lossy(&output.stderr) == lines("e"), "stderr of {id} is wrong");
            });
        }
    });
}

fn a_terminal_is_spooled_like_a_pipe(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("tty", &["seq", "200000"], json!({"pty": true, "spool": true}));
    raw.wait_for_exit("tty");
    let output = read_all(&mut raw, "tty");
    assert!(output.gaps.is_empty());
    let expected: String = (1..=200_000).map(|number| format!("{number}\r\n")).collect();
    assert!(output.text() == expected, "the text is wrong");
    let spool: Json = stream(&mut raw, "tty", "stdout")["spool"].clone();
    assert_eq!(spool["state"], "working");
}

/// Stdout and stderr of a command line that must succeed.
fn good(daemon: &Daemon, arguments: &[&str]) -> (Vec<u8>, String) {
    let output = daemon.cli(arguments).output().expect("the command line runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    (output.stdout, stderr)
}

fn the_command_line_spools_and_reads_any_part(daemon: &Daemon) {
    let text = |arguments: &[&str]| String::from_utf8(good(daemon, arguments).0).expect("text");
    good(daemon, &["spawn", "--id", "numbers", "--spool", "--", "sh", "-c", "seq 500000; echo bad >&2"]);
    good(daemon, &["wait", "numbers"]);
    let all: String = (1..=500_000).map(|number| format!("{number}\n")).collect();
    assert!(text(&["logs", "--stream", "stdout", "numbers"]) == all, "all of it");
    assert_eq!(text(&["logs", "--head", "3", "numbers"]), "1\n2\n3\n");
    assert_eq!(text(&["logs", "--head", "3B", "--stream", "stdout", "numbers"]), "1\n2");
    assert_eq!(text(&["logs", "--tail", "2", "numbers"]), "499999\n500000\n");
    assert_eq!(text(&["logs", "--tail", "8B", "--stream", "stdout", "numbers"]), "\n500000\n");
    let tail = text(&["logs", "--tail", "400000", "--stream", "stdout", "numbers"]);
    assert!(tail.starts_with("100001\n") && tail.ends_with("\n500000\n"), "400,000 lines");
    let at = all.find("\n250000\n").expect("it is there") + 1;
    assert_eq!(
        text(&["logs", "--from", &at.to_string(), "--head", "1", "--stream", "stdout", "numbers"]),
        "250000\n"
    );
    let found = text(&["logs", "--grep", "^(250000|4999[0-9]8)$", "-n", "numbers"]);
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!((lines.len(), lines[0]), (11, format!("{at}:250000").as_str()));
    let json = text(&["logs", "--json", "--grep", "^250000$", "numbers"]);
    let json: Json =
        serde_json::from_str(json.lines().find(|line| line.contains("data")).expect("a line")).expect("JSON");
    assert_eq!((&json["offset"], &json["data"], &json["v"]), (&json!(at), &json!("250000\n"), &json!(1)));
    let (_, errors) = good(daemon, &["logs", "--grep", "bad", "numbers"]);
    assert_eq!(errors, "bad\n");
    let page = text(&["status", "numbers"]);
    assert!(page.contains("on disk   stdout from 0 to 3388895, "), "{page}");
    let file = daemon.folder().join("saved");
    let path = file.to_str().expect("text");
    let (_, told) = good(daemon, &["logs", "--save", path, "numbers"]);
    assert!(told.contains("3388895 bytes of numbers's stdout"), "{told}");
    assert!(fs::read(&file).expect("the file is there") == all.as_bytes());
    assert!(!file.with_file_name("saved.partial").exists());
    let (told, _) = good(daemon, &["logs", "--json", "--save", path, "--stream", "stderr", "numbers"]);
    let told: Json = serde_json::from_slice(&told).expect("one object");
    assert_eq!((&told["bytes"], &told["gaps"]), (&json!(4), &json!(0)));
    assert_eq!(fs::read(&file).expect("the file is there"), b"bad\n");
    let refused = daemon.cli(&["logs", "--grep", "(", "numbers"]).output().expect("the command line runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--grep"));
}

fn a_spool_goes_on_at_the_exact_byte_in_the_next_kernel(driver: Driver) {
    if !driver.is_available() {
        return println!("skipped, this system forbids io_uring: {:?}", std::thread::current().name());
    }
    let mut daemon = Daemon::start(&Options::plain(driver));
    let total = 4096 * BLOCK;
    daemon.connect().spawn("flood", &sequence::argv("4096"), json!({"spool": {"segmentBytes": 4 << 20}}));
    for life in 1..=6 {
        let mut raw = daemon.connect();
        until("it has written some more", || {
            let spool = stream(&mut raw, "flood", "stdout")["spool"].clone();
            spool["to"].as_u64().is_some_and(|to| to >= life * 16 * BLOCK)
        });
        drop(raw);
        if life % 3 == 0 {
            daemon.signal(Signal::SIGTERM);
            daemon.wait();
            daemon.succeed(&[]);
        } else {
            daemon.kill_and_succeed();
        }
    }
    let mut raw = daemon.connect_modern();
    raw.wait_for_exit("flood");
    let subscription = raw.subscribe("flood", json!({"stream": "stdout", "policy": "spool"}));
    assert_eq!(check_all(&mut raw, &subscription, 0), (total, vec![]));
    // What has ended is read from disk by the next kernel as well.
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("flood", json!({"stream": "stdout", "from": 70_000}));
    assert_eq!(check_all(&mut raw, &subscription, 70_000), (total - 70_000, vec![]));
    let spool = stream(&mut raw, "flood", "stdout")["spool"].clone();
    assert_eq!(
        (&spool["from"], &spool["to"], &spool["state"]),
        (&json!(0), &json!(total), &json!("working"))
    );
    drop(raw);
    daemon.finish();
}

#[test]
fn a_spool_goes_on_at_the_exact_byte_when_its_kernel_is_killed_uring() {
    a_spool_goes_on_at_the_exact_byte_in_the_next_kernel(Driver::Uring);
}

#[test]
fn a_spool_goes_on_at_the_exact_byte_when_its_kernel_is_killed_poll() {
    a_spool_goes_on_at_the_exact_byte_in_the_next_kernel(Driver::Poll);
}

#[test]
fn at_every_point_of_its_spool_a_kernel_can_die() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    for point in Point::ALL.iter().filter(|point| point.name().starts_with("spool.")) {
        for nth in [1, 4] {
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
            daemon.succeed_unasked(&["--die-at", &format!("{}:{nth}", point.name())]);
            let id = format!("{}-{nth}", point.name());
            let bytes_max: u64 = if *point == Point::SpoolCut { 4 << 20 } else { 1 << 40 };
            let spool = json!({"segmentBytes": 1 << 20, "bytesMax": bytes_max});
            let spawn = json!({"id": id, "command": sequence::argv("512"), "options": {"spool": spool}});
            // It may die before it has answered.
            daemon.connect().request("process.spawn", value(&spawn));
            daemon.wait();
            daemon.succeed(&[]);
            let mut raw = daemon.connect_modern();
            raw.wait_for_exit(&id);
            until("all is on disk", || stream(&mut raw, &id, "stdout")["spool"]["to"] == 512 * BLOCK);
            let oldest = stream(&mut raw, &id, "stdout")["spool"]["from"].as_u64().expect("an offset");
            let subscription = raw.subscribe(&id, json!({"stream": "stdout"}));
            let (bytes, gaps) = check_all(&mut raw, &subscription, 0);
            match oldest {
                0 => assert_eq!((bytes, gaps), (512 * BLOCK, vec![]), "{id}"),
                _ => assert_eq!(gaps.iter().map(|(_, to)| *to).collect::<Vec<_>>(), [oldest], "{id}"),
            }
        }
    }
    daemon.finish();
}

#[test]
fn all_spools_together_keep_to_the_quota_and_the_largest_pays() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    fs::write(&config, "[limits]\nspool_bytes_max = \"8 MiB\"\n").expect("a file");
    let config = config.to_str().expect("text");
    let arguments = ["--config", config];
    with(&Options { driver: Driver::Poll, uid: None, arguments: &arguments }, |daemon| {
        let mut raw = daemon.connect_modern();
        raw.ok("subscribe", json!({"topic": "kairo.stream.truncated"}));
        let spool = json!({"spool": {"segmentBytes": 1 << 20}});
        raw.spawn("small", &sequence::argv("32"), spool.clone());
        raw.wait_for_exit("small");
        raw.spawn("large", &sequence::argv("256"), spool);
        raw.wait_for_exit("large");
        let to = |raw: &mut Raw, id: &str| stream(raw, id, "stdout")["spool"]["to"].clone();
        until("both are on disk", || {
            to(&mut raw, "small") == 32 * BLOCK && to(&mut raw, "large") == 256 * BLOCK
        });
        let of = |raw: &mut Raw, id: &str| stream(raw, id, "stdout")["spool"].clone();
        let (small, large) = (of(&mut raw, "small"), of(&mut raw, "large"));
        assert_eq!(small["from"], 0);
        let all = small["bytes"].as_u64().zip(large["bytes"].as_u64()).map_or(0, |(a, b)| a + b);
        assert!(all <= 8 << 20, "{small} {large}");
        let event = raw.event("kairo.stream.truncated", |event| event["payload"]["store"] == "spool");
        assert_eq!((&event["payload"]["id"], &event["payload"]["from"]), (&json!("large"), &json!(0)));
        assert!(read_all(&mut raw, "small").gaps.is_empty());
        let output = read_all(&mut raw, "large");
        assert_eq!(output.gaps.len(), 1);
        check_with_gaps(&output.stdout, &output.gaps);
    });
}

on_both_drivers!(
    a_late_reader_of_any_policy_gets_all_of_a_long_stream,
    a_descriptor_is_given_what_is_on_disk_too,
    a_reader_who_is_slow_is_brought_the_rest_from_disk_and_paces_nobody,
    a_reader_walks_from_disk_into_memory_into_what_is_written_now,
    lines_from_disk_are_as_whole_as_lines_from_memory,
    what_can_not_be_is_refused_by_name,
    files_are_the_owners_and_go_when_the_process_is_forgotten,
    past_its_bound_the_oldest_segments_go_and_it_is_told,
    damaged_and_deleted_files_are_gaps_and_the_rest_is_read,
    a_full_disk_is_told_and_the_stream_goes_on,
    a_spool_that_can_not_be_made_is_told_and_the_stream_goes_on,
    many_streams_share_the_disk_and_do_not_mix,
    a_terminal_is_spooled_like_a_pipe,
    the_command_line_spools_and_reads_any_part,
);
