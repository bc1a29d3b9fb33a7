//! What children write, and who gets which of it when.

use crate::support::output::Chunk;
use crate::support::raw::{EVENT, RESPONSE, Raw, STREAM_CHUNK, value};
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, on_both_drivers, until};
use serde_json::{Value as Json, json};
use std::time::Instant;

const HEAD_BYTES: u64 = 64 * 1024;
const TAIL_BYTES: u64 = 256 * 1024;

fn every_byte_arrives_once_and_in_order(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("writer", json!({"stream": "stdout"}));
    raw.spawn("writer", &sequence::argv("512"), json!({}));
    let output = raw.collect(&subscription, 1);
    assert_eq!(output.stdout.len(), 512 * BLOCK_BYTES);
    sequence::check(&output.stdout, 0);
    assert!(output.gaps.is_empty());
    let end = output.end("stdout");
    assert_eq!((&end["totalBytes"], &end["gapBytes"]), (&json!(512 * BLOCK_BYTES), &json!(0)));
}

fn a_v1_chunk_is_never_longer_than_a_v1_client_can_read(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.subscribe("writer", json!({"stream": "stdout"}));
    raw.spawn("writer", &sequence::argv("128"), json!({}));
    let (mut bytes, mut sequence, mut exited) = (Vec::new(), 0, false);
    while !(exited && bytes.len() == 128 * BLOCK_BYTES) {
        let frame = raw.frame().expect("frames");
        match frame.kind {
            STREAM_CHUNK => {
                let chunk = Chunk::of(&frame);
                assert!(chunk.data.len() <= 65_535, "{} bytes in a v1 chunk", chunk.data.len());
                assert!(chunk.offset.is_none(), "a v1 chunk has no offset");
                sequence += 1;
                assert_eq!(chunk.sequence, sequence, "sequence counts from 1");
                bytes.extend(chunk.data);
            }
            EVENT => exited |= frame.json()["topic"] == "process.exit",
            kind => assert_eq!(kind, RESPONSE),
        }
    }
    sequence::check(&bytes, 0);
}

fn the_exit_notice_follows_what_the_leader_had_written(daemon: &Daemon) {
    for round in 0..20 {
        let id = format!("burst-{round}");
        let mut raw = daemon.connect();
        raw.subscribe(&id, json!({}));
        raw.spawn(&id, &["sh", "-c", "head -c 100000 /dev/zero; echo gone >&2; exit 3"], json!({}));
        let mut bytes = 0;
        loop {
            let frame = raw.frame().expect("frames");
            if frame.kind == STREAM_CHUNK {
                bytes += Chunk::of(&frame).data.len();
            } else if frame.kind == EVENT && frame.json()["topic"] == "process.exit" {
                assert_eq!(frame.json()["data"], json!({"id": id, "code": 3}));
                break;
            }
        }
        assert_eq!(bytes, 100_005, "bytes before the exit notice");
    }
}

fn a_late_reader_gets_what_is_kept(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("early", &["sh", "-c", "echo out; echo err >&2"], json!({}));
    raw.wait_for_exit("early");
    for _ in 0..2 {
        let subscription = raw.subscribe("early", json!({}));
        let output = raw.collect(&subscription, 2);
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    }
}

fn unread_output_keeps_its_head_and_tail_and_counts_the_middle(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let total = 128 * BLOCK_BYTES as u64;
    raw.spawn("unread", &sequence::argv("128"), json!({}));
    raw.wait_for_exit("unread");
    let subscription = raw.subscribe("unread", json!({"stream": "stdout"}));
    let output = raw.collect(&subscription, 1);
    assert_eq!(output.gaps.len(), 1, "{:?}", output.gaps);
    let (_, from, to) = &output.gaps[0];
    assert_eq!(*from, HEAD_BYTES);
    assert!(*to <= total - TAIL_BYTES, "the tail is {} bytes", total - to);
    sequence::check(&output.stdout[..HEAD_BYTES as usize], 0);
    sequence::check(&output.stdout[HEAD_BYTES as usize..], *to);
    let end = output.end("stdout");
    assert_eq!((end["totalBytes"].as_u64(), end["gapBytes"].as_u64()), (Some(total), Some(to - from)));
    let mut v1 = daemon.connect();
    v1.subscribe("unread", json!({"stream": "stdout"}));
    let overflow = v1.event("stream.overflow", |_| true);
    assert_eq!(overflow["data"]["processId"], "unread");
}

fn a_reader_who_may_wait_makes_the_child_wait_and_is_named(daemon: &Daemon) {
    let mut slow = daemon.connect_modern();
    let subscription = slow.subscribe("writer", json!({"stream": "stdout", "policy": "block"}));
    slow.spawn("writer", &sequence::argv("1024"), json!({}));
    let mut other = daemon.connect_modern();
    until("the source waits for the reader", || stream(&mut other, "writer", "stdout")["paused"] == true);
    let detail = detail(&mut other, "writer");
    assert_eq!(detail["readers"][0]["policy"], "block");
    assert_eq!(detail["readers"][0]["stalled"], true, "{detail}");
    assert_eq!(detail["waitingFor"][0]["what"], "stdout", "{detail}");
    let taken = detail["streams"][0]["bytes"].as_u64().expect("a count");
    assert!(taken < 16 << 20, "{taken} bytes were taken for a reader who reads none");
    let output = slow.collect(&subscription, 1);
    assert_eq!((output.stdout.len(), output.gaps.len()), (1024 * BLOCK_BYTES, 0));
    sequence::check(&output.stdout, 0);
}

fn a_slow_reader_that_drops_paces_nobody(daemon: &Daemon) {
    let mut dropping = daemon.connect_modern();
    let policy = json!({"stream": "stdout", "policy": "drop_oldest"});
    let subscription = dropping.subscribe("writer", policy);
    let mut blocking = daemon.connect_modern();
    let other = blocking.subscribe("writer", json!({"stream": "stdout"}));
    let total = 1024 * BLOCK_BYTES as u64;
    blocking.spawn("writer", &sequence::argv("1024"), json!({}));
    let whole = blocking.collect(&other, 1);
    assert_eq!((whole.stdout.len() as u64, whole.gaps.len()), (total, 0));
    let output = dropping.collect(&subscription, 1);
    let missed: u64 = output.gaps.iter().map(|(_, from, to)| to - from).sum();
    assert!(missed > 0, "a reader that reads nothing of 64 MiB misses some");
    assert_eq!(output.stdout.len() as u64 + missed, total);
    assert_eq!(output.end("stdout")["gapBytes"].as_u64(), Some(missed));
    check_with_gaps(&output.stdout, &output.gaps);
}

fn an_overflow_is_told_only_where_bytes_were_dropped(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.subscribe("writer", json!({"stream": "stdout", "bufferSize": 4096}));
    raw.spawn("writer", &sequence::argv("64"), json!({}));
    let mut bytes = 0;
    loop {
        let frame = raw.frame().expect("frames");
        if frame.kind == STREAM_CHUNK {
            bytes += Chunk::of(&frame).data.len();
        } else if frame.kind == EVENT {
            let topic = frame.json()["topic"].clone();
            assert_ne!(topic, "stream.overflow");
            if topic == "process.exit" {
                break;
            }
        }
    }
    assert_eq!(bytes, 64 * BLOCK_BYTES);
}

fn many_readers_on_many_connections_see_the_same(daemon: &Daemon) {
    let mut readers: Vec<(Raw, String)> = (0..8)
        .map(|_| {
            let mut raw = daemon.connect_modern();
            let subscription = raw.subscribe("shared", json!({"stream": "stdout"}));
            (raw, subscription)
        })
        .collect();
    daemon.connect().spawn("shared", &sequence::argv("256"), json!({}));
    std::thread::scope(|scope| {
        for (raw, subscription) in &mut readers {
            scope.spawn(move || {
                let output = raw.collect(subscription, 1);
                assert_eq!(output.stdout.len(), 256 * BLOCK_BYTES);
                sequence::check(&output.stdout, 0);
            });
        }
    });
}

fn many_streams_at_once_do_not_mix(daemon: &Daemon) {
    std::thread::scope(|scope| {
        for number in 0..6 {
            scope.spawn(move || {
                let mut raw = daemon.connect_modern();
                let id = format!("writer-{number}");
                let subscription = raw.subscribe(&id, json!({}));
                let script =
                    format!("for i in $(seq 20000); do echo {number} $i; echo {number} e$i >&2; done");
                raw.spawn(&id, &["bash", "-c", &script], json!({}));
                let output = raw.collect(&subscription, 2);
                let lines =
                    |mark: &str| (1..=20_000).map(|i| format!("{number} {mark}{i}\n")).collect::<String>();
                assert!(output.text() == lines(""), "stdout of {id} is wrong");
                assert!(String::from_utf8_lossy(&output.stderr) == lines("e"), "stderr of {id} is wrong");
            });
        }
    });
}

fn a_reader_may_go_on_where_it_was(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("words", &["printf", "0123456789"], json!({}));
    raw.wait_for_exit("words");
    for (from, expected) in
        [(json!(4), "456789"), (json!({"stdout": 9}), "9"), (json!(10), ""), (json!("now"), "")]
    {
        let subscription = raw.subscribe("words", json!({"from": from, "stream": "stdout"}));
        let mut text = String::new();
        loop {
            let frame = raw.frame().expect("frames");
            if frame.kind == STREAM_CHUNK {
                let chunk = Chunk::of(&frame);
                assert_eq!(chunk.subscription, subscription);
                text.push_str(&String::from_utf8_lossy(&chunk.data));
            } else if frame.kind == EVENT && frame.json()["topic"] == "stream.end" {
                break;
            }
        }
        assert_eq!(text, expected, "from {from}");
    }
}

fn one_stream_can_be_asked_for_alone(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("both", &["sh", "-c", "echo out; echo err >&2"], json!({}));
    let subscription = raw.subscribe("both", json!({"stream": "stderr"}));
    let output = raw.collect(&subscription, 1);
    assert_eq!((output.text().as_str(), output.stderr.as_slice()), ("", &b"err\n"[..]));
    raw.spawn("merged", &["sh", "-c", "echo out; echo err >&2"], json!({"stderr": "stdout"}));
    let subscription = raw.subscribe("merged", json!({"stream": "stdout"}));
    assert_eq!(raw.collect(&subscription, 1).text(), "out\nerr\n");
}

fn a_line_is_a_frame_with_its_end_whatever_is_in_it(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("lines", json!({"mode": "line"}));
    let script = "printf 'one\\n\\ncr\\r\\n'; printf 'er' >&2; printf 'half'; printf 'r\\n' >&2; printf ' and half\\nrest'";
    raw.spawn("lines", &["bash", "-c", script], json!({}));
    let output = raw.collect(&subscription, 2);
    let lines: Vec<&[u8]> = output.chunks.iter().map(Vec::as_slice).collect();
    let (stderr, stdout): (Vec<&[u8]>, Vec<&[u8]>) =
        lines.into_iter().partition(|line| line.starts_with(b"er"));
    assert_eq!(stderr, [b"err\n"]);
    assert_eq!(stdout, [&b"one\n"[..], b"\n", b"cr\r\n", b"half and half\n", b"rest"]);
}

fn a_line_too_long_for_a_frame_comes_in_marked_pieces(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.ok("kernel.hello", json!({"features": ["records"]}));
    raw.subscribe("long", json!({"mode": "line", "stream": "stdout"}));
    let script =
        "head -c 65534 /dev/zero | tr '\\0' a; echo; head -c 150000 /dev/zero | tr '\\0' b; echo; echo c";
    raw.spawn("long", &["bash", "-c", script], json!({}));
    let mut lines = Vec::new();
    loop {
        let frame = raw.frame().expect("frames");
        if frame.kind == STREAM_CHUNK {
            let chunk = Chunk::of(&frame);
            lines.push((chunk.data.len(), chunk.partial));
        } else if frame.kind == EVENT && frame.json()["topic"] == "stream.end" {
            break;
        }
    }
    assert_eq!(
        lines,
        [(65_535, false), (65_535, true), (65_535, true), (150_001 - 2 * 65_535, false), (2, false)]
    );
}

fn lines_mode_cuts_only_after_lines(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("numbers", json!({"mode": "lines", "stream": "stdout"}));
    raw.spawn("numbers", &["sh", "-c", "seq 300000; printf rest"], json!({}));
    let output = raw.collect(&subscription, 1);
    let expected: String =
        (1..=300_000).map(|number| format!("{number}\n")).chain(["rest".to_owned()]).collect();
    assert!(output.text() == expected, "the lines are wrong");
    let (last, lines) = output.chunks.split_last().expect("chunks");
    assert!(lines.iter().all(|chunk| chunk.ends_with(b"\n")), "a chunk ends within a line");
    assert!(last.ends_with(b"rest"));
    assert!(output.chunks.len() < 30_000, "{} frames for 300,000 lines", output.chunks.len());
}

fn after_an_unsubscribe_is_answered_nothing_more_comes(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let subscription = raw.subscribe("endless", json!({}));
    raw.spawn("endless", &["yes"], json!({}));
    let first = raw.frame().expect("frames");
    assert_eq!(first.kind, STREAM_CHUNK);
    let id = raw.request("process.stdout.unsubscribe", value(&json!({"subscriptionId": subscription})));
    loop {
        let frame = raw.frame().expect("frames");
        if frame.kind == RESPONSE {
            assert_eq!((&frame.json()["id"], &frame.json()["result"]["ok"]), (&json!(id), &json!(true)));
            break;
        }
    }
    assert_eq!(raw.ok("process.stdout.unsubscribe", json!({"subscriptionId": subscription}))["ok"], false);
    let ping = raw.request("kernel.ping", value(&json!({})));
    let next = raw.frame().expect("an answer");
    assert_eq!((next.kind, &next.json()["id"]), (RESPONSE, &json!(ping)));
    let mut other = daemon.connect();
    until("the child is no longer held up", || {
        let before = stream(&mut other, "endless", "stdout")["bytes"].as_u64();
        other.ok("kernel.ping", json!({}));
        stream(&mut other, "endless", "stdout")["bytes"].as_u64() > before
    });
}

fn a_subscription_goes_on_with_the_next_life_of_its_id(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("phoenix", json!({"stream": "stdout"}));
    for life in ["first", "second"] {
        raw.spawn("phoenix", &["echo", life], json!({}));
        let mut text = String::new();
        loop {
            let frame = raw.frame().expect("frames");
            if frame.kind == STREAM_CHUNK {
                let chunk = Chunk::of(&frame);
                assert_eq!(
                    (chunk.subscription.as_str(), chunk.offset),
                    (subscription.as_str(), Some(text.len() as u64))
                );
                text.push_str(&String::from_utf8_lossy(&chunk.data));
            } else if frame.kind == EVENT && frame.json()["topic"] == "stream.end" {
                break;
            }
        }
        assert_eq!(text, format!("{life}\n"));
        raw.event_of("kairo.process.ended", "phoenix");
    }
}

fn a_stream_closes_when_its_last_holder_has_gone_not_when_the_leader_has(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("parent", json!({"stream": "stdout"}));
    raw.spawn("parent", &["bash", "-c", "(read line; echo late $line) <&0 & echo early; exit 7"], json!({}));
    assert_eq!(raw.wait_for_exit("parent")["exitCode"], 7);
    assert_eq!(stream(&mut raw, "parent", "stdout")["closed"], false);
    raw.ok("process.stdin.write", json!({"id": "parent", "data": "word\n"}));
    assert_eq!(raw.collect(&subscription, 1).text(), "early\nlate word\n");
}

fn a_child_may_close_its_output_and_live_on(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("quiet", json!({"stream": "stdout"}));
    raw.spawn("quiet", &["bash", "-c", "echo last words; exec >&-; read line; exit 4"], json!({}));
    assert_eq!(raw.collect(&subscription, 1).text(), "last words\n");
    assert_eq!(raw.ok("process.status", json!({"id": "quiet"}))["state"], "running");
    raw.ok("process.stdin.close", json!({"id": "quiet"}));
    assert_eq!(raw.wait_for_exit("quiet")["exitCode"], 4);
}

fn what_is_written_reaches_stdin_and_its_end_is_an_end(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("cat", json!({"stream": "stdout"}));
    raw.spawn("cat", &["cat"], json!({}));
    let data = "0123456789abcdef".repeat(1 << 16);
    let mut offset = 0;
    for _ in 0..8 {
        let written = raw.ok("process.stdin.write", json!({"id": "cat", "data": data}));
        offset += data.len() as u64;
        assert_eq!(written["offset"].as_u64(), Some(offset));
    }
    raw.ok("process.stdin.close", json!({"id": "cat"}));
    assert_eq!(raw.collect(&subscription, 1).text(), data.repeat(8));
    let refusal = raw.refused("process.stdin.write", json!({"id": "cat", "data": "x"}));
    assert_eq!(refusal.code, "E_STDIN_CLOSED");
}

fn writes_to_a_child_that_does_not_read_wait_and_are_bounded(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("deaf", &["sleep", "1000"], json!({}));
    let chunk = "x".repeat(3 << 20);
    let write = value(&json!({"id": "deaf", "data": chunk}));
    let parked: Vec<u64> = (0..6).map(|_| raw.request("process.stdin.write", write.clone())).collect();
    let refusal = raw.answer(parked[5]).expect_err("the sixth is over 16 MiB");
    assert_eq!((refusal.code.as_str(), &refusal.info["retryable"]), ("E_WOULD_BLOCK", &json!(true)));
    let stdin = detail(&mut raw, "deaf")["stdin"].clone();
    assert!(stdin["parkedBytes"].as_u64().is_some_and(|bytes| bytes > 14 << 20), "{stdin}");
    assert_eq!(raw.ok("kernel.cancel", json!({"id": parked[4]}))["cancelled"], true, "a cancel gets through");
    assert_eq!(raw.answer(parked[4]).expect_err("it was abandoned").code, "E_CANCELLED");
    raw.ok("process.kill", json!({"id": "deaf"}));
    for id in &parked[..4] {
        raw.answer(*id).expect_err("nobody reads them any more");
    }
}

fn a_blocked_unread_child_waits_if_it_asked_to(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("patient", &sequence::argv("128"), json!({"whenUnread": "block"}));
    until("the child waits", || stream(&mut raw, "patient", "stdout")["paused"] == true);
    let subscription = raw.subscribe("patient", json!({"stream": "stdout"}));
    let output = raw.collect(&subscription, 1);
    assert_eq!((output.stdout.len(), output.gaps.len()), (128 * BLOCK_BYTES, 0));
    sequence::check(&output.stdout, 0);
}

fn a_child_that_waited_to_be_read_and_is_killed_has_ended(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("patient", &sequence::argv("128"), json!({"whenUnread": "block"}));
    until("the child waits", || stream(&mut raw, "patient", "stdout")["paused"] == true);
    raw.ok("process.kill", json!({"id": "patient", "signal": "KILL"}));
    until("its output has ended", || stream(&mut raw, "patient", "stdout")["closed"] == true);
}

fn a_larger_history_can_be_asked_for(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let history = json!({"headBytes": 4096, "tailBytes": 1 << 20});
    raw.spawn("deep", &sequence::argv("128"), json!({"history": history}));
    raw.wait_for_exit("deep");
    let subscription = raw.subscribe("deep", json!({"stream": "stdout"}));
    let output = raw.collect(&subscription, 1);
    let (_, from, to) = &output.gaps[0];
    assert_eq!(*from, 4096);
    assert!(128 * BLOCK_BYTES as u64 - to >= 1 << 20, "the tail begins at {to}");
}

fn unknown_wishes_are_refused_by_name(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let cases = [
        ("mode", json!({"pid": "x", "mode": "words"})),
        ("stream", json!({"pid": "x", "stream": "stdin"})),
        ("policy", json!({"pid": "x", "policy": "hope"})),
        ("from", json!({"pid": "x", "from": "yesterday"})),
        ("id", json!({"pid": "x", "id": "y"})),
    ];
    for (name, params) in cases {
        let refusal = raw.refused("process.stdout.subscribe", params);
        assert_eq!(refusal.code, "E_INVALID_PARAMS");
        assert!(refusal.info["message"].as_str().is_some_and(|text| text.contains(name)), "{refusal:?}");
    }
    for number in 0..64 {
        raw.subscribe(&format!("later-{number}"), json!({}));
    }
    let refusal = raw.refused("process.stdout.subscribe", json!({"pid": "one-too-many"}));
    assert_eq!((refusal.code.as_str(), &refusal.info["retryable"]), ("E_BUSY", &json!(true)));
}

fn a_stopped_reader_withholds_nobody_elses_tail(daemon: &Daemon) {
    let mut stopped = daemon.connect_modern();
    stopped.subscribe("writer", json!({"stream": "stdout"}));
    stopped.spawn("writer", &["sh", "-c", "head -c 3000000 /dev/zero; echo done"], json!({}));
    let mut raw = daemon.connect();
    until("the leader waits or has gone", || {
        stream(&mut raw, "writer", "stdout")["paused"] == true
            || raw.ok("process.status", json!({"id": "writer"}))["state"] == "exited"
    });
    raw.ok("process.kill", json!({"id": "writer", "signal": "KILL", "scope": "leader"}));
    let begun = Instant::now();
    raw.ok("process.wait", json!({"id": "writer"}));
    raw.event("process.exit", |event| event["data"]["id"] == "writer");
    assert!(begun.elapsed().as_secs() < 5, "the notice was withheld");
}

/// `detail` of a status.
pub(crate) fn detail(raw: &mut Raw, id: &str) -> Json {
    raw.ok("process.status", json!({"id": id, "detail": true}))["detail"].clone()
}

/// An output in the detail of a status.
pub(crate) fn stream(raw: &mut Raw, id: &str, name: &str) -> Json {
    let detail = detail(raw, id);
    let streams = detail["streams"].as_array().cloned().unwrap_or_default();
    streams.into_iter().find(|stream| stream["stream"] == name).unwrap_or(Json::Null)
}

/// Checks a sequence with holes.
pub(crate) fn check_with_gaps(bytes: &[u8], gaps: &[(String, u64, u64)]) {
    let (mut offset, mut rest) = (0, bytes);
    for (_, from, to) in gaps {
        let (piece, after) = rest.split_at((from - offset) as usize);
        sequence::check(piece, offset);
        (offset, rest) = (*to, after);
    }
    sequence::check(rest, offset);
}

on_both_drivers!(
    every_byte_arrives_once_and_in_order,
    a_v1_chunk_is_never_longer_than_a_v1_client_can_read,
    the_exit_notice_follows_what_the_leader_had_written,
    a_late_reader_gets_what_is_kept,
    unread_output_keeps_its_head_and_tail_and_counts_the_middle,
    a_reader_who_may_wait_makes_the_child_wait_and_is_named,
    a_slow_reader_that_drops_paces_nobody,
    an_overflow_is_told_only_where_bytes_were_dropped,
    many_readers_on_many_connections_see_the_same,
    many_streams_at_once_do_not_mix,
    a_reader_may_go_on_where_it_was,
    one_stream_can_be_asked_for_alone,
    a_line_is_a_frame_with_its_end_whatever_is_in_it,
    a_line_too_long_for_a_frame_comes_in_marked_pieces,
    lines_mode_cuts_only_after_lines,
    after_an_unsubscribe_is_answered_nothing_more_comes,
    a_subscription_goes_on_with_the_next_life_of_its_id,
    a_stream_closes_when_its_last_holder_has_gone_not_when_the_leader_has,
    a_child_may_close_its_output_and_live_on,
    what_is_written_reaches_stdin_and_its_end_is_an_end,
    writes_to_a_child_that_does_not_read_wait_and_are_bounded,
    a_blocked_unread_child_waits_if_it_asked_to,
    a_child_that_waited_to_be_read_and_is_killed_has_ended,
    a_larger_history_can_be_asked_for,
    unknown_wishes_are_refused_by_name,
    a_stopped_reader_withholds_nobody_elses_tail,
);
