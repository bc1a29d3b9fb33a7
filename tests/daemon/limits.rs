//! Rates, the memory of histories, and what is told of those that wait.

use crate::support::output::Chunk;
use crate::support::raw::{EVENT, Raw, STREAM_CHUNK, request_bytes, value};
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, Driver, Options, on_both_drivers, until, with};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::io::Write;

const MIB: u64 = 1 << 20;

/// Starts a daemon whose configuration file says this.
fn configured(driver: Driver, text: &str, test: impl FnOnce(&Daemon)) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).expect("a file");
    let arguments = ["--config", file.to_str().expect("a path of text")];
    with(&Options { arguments: &arguments, ..Options::plain(driver) }, test);
}

fn on_each_driver(text: &str, test: fn(&Daemon)) {
    for driver in [Driver::Uring, Driver::Poll].into_iter().filter(|driver| driver.is_available()) {
        configured(driver, text, test);
    }
}

fn stream(raw: &mut Raw, id: &str) -> Json {
    raw.ok("process.status", json!({"id": id, "detail": true}))["detail"]["streams"][0].clone()
}

/// The next event of a topic the connection has subscribed to, about a process.
fn next_told(raw: &mut Raw, topic: &str, id: &str) -> Json {
    raw.event(topic, |event| event["payload"]["id"] == id)["payload"].clone()
}

fn a_child_held_back_by_its_rate_loses_nothing_and_it_is_told(daemon: &Daemon) {
    let mut listener = daemon.connect_modern();
    listener.ok("subscribe", json!({"topic": "kairo.stream.throttled"}));
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("paced", json!({"stream": "stdout"}));
    raw.spawn("paced", &sequence::argv("64"), json!({"rate": {"bytesPerSecond": 4 * MIB}}));
    let told = next_told(&mut listener, "kairo.stream.throttled", "paced");
    let expected = (&json!("stdout"), &json!(4 * MIB), &json!(4 * MIB / 10));
    assert_eq!((&told["stream"], &told["bytesPerSecond"], &told["burst"]), expected, "{told}");
    let output = raw.collect(&subscription, 1);
    sequence::check(&output.stdout, 0);
    assert_eq!(output.stdout.len(), 64 * BLOCK_BYTES);
    let status = stream(&mut raw, "paced");
    // Four megabytes at four a second take a while, whatever the machine does meanwhile.
    assert!(status["throttledMs"].as_u64().expect("a number") > 0, "{status}");
    assert_eq!(status["rate"], json!({"bytesPerSecond": 4 * MIB, "burst": 4 * MIB / 10}));
}

fn a_rate_is_changed_and_lifted_while_it_holds(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let subscription = raw.subscribe("held", json!({"stream": "stdout"}));
    // At a byte a second this takes years.
    raw.spawn("held", &sequence::argv("512"), json!({"rate": {"bytesPerSecond": 1, "burst": 1}}));
    until("the output waits for its rate", || stream(&mut raw, "held")["throttled"] == true);
    assert!(stream(&mut raw, "held")["bytes"].as_u64() < Some(1_000));
    let slow = json!({"id": "held", "stream": "stdout", "rate": {"bytesPerSecond": 2}});
    let now = raw.ok("stream.configure", slow);
    assert_eq!(now["streams"][0]["rate"], json!({"bytesPerSecond": 2, "burst": 4096}));
    let now = raw.ok("stream.configure", json!({"id": "held", "rate": {"bytesPerSecond": 0}}));
    assert_eq!(now["streams"][0].get("rate"), None);
    let output = raw.collect(&subscription, 1);
    sequence::check(&output.stdout, 0);
    assert_eq!((output.stdout.len(), output.gaps.len()), (512 * BLOCK_BYTES, 0));
}

fn a_reader_held_back_by_its_rate_slows_nobody_else_on_its_connection(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let rate = json!({"bytesPerSecond": 1, "burst": 1});
    let slow = raw.subscribe("one", json!({"stream": "stdout", "rate": rate}));
    let lines = raw
        .subscribe("one", json!({"stream": "stdout", "mode": "line", "policy": "drop_oldest", "rate": rate}));
    let quick = raw.subscribe("two", json!({"stream": "stdout"}));
    raw.spawn("one", &sequence::argv("4"), json!({}));
    until("both readers of one wait for their rate", || {
        let detail = raw.ok("process.status", json!({"id": "one", "detail": true}))["detail"].clone();
        detail["readers"].as_array().expect("readers").iter().all(|reader| reader["throttled"] == true)
    });
    raw.spawn("two", &sequence::argv("128"), json!({}));
    let output = raw.collect(&quick, 1);
    sequence::check(&output.stdout, 0);
    assert_eq!(output.stdout.len(), 128 * BLOCK_BYTES);
    for subscription in [&slow, &lines] {
        let lifted = json!({"subscriptionId": subscription, "rate": {"bytesPerSecond": 0}});
        assert_eq!(raw.ok("subscription.configure", lifted).get("rate"), None);
    }
    let output = raw.collect(&slow, 1);
    sequence::check(&output.stdout, 0);
    assert_eq!(output.stdout.len(), 4 * BLOCK_BYTES);
}

fn lines_stay_whole_at_any_rate(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    let text = "for i in $(seq 300); do echo \"line $i of a few\"; done";
    for (mode, burst) in [("line", 1), ("line", 100), ("lines", 50)] {
        let id = format!("{mode}-{burst}");
        let rate = json!({"bytesPerSecond": 20_000, "burst": burst});
        let subscription = raw.subscribe(&id, json!({"stream": "stdout", "mode": mode, "rate": rate}));
        raw.spawn(&id, &["sh", "-c", text], json!({}));
        let output = raw.collect(&subscription, 1);
        assert_eq!(output.text().lines().count(), 300);
        let whole = |chunk: &Vec<u8>| chunk.ends_with(b"\n") && (mode == "lines" || chunk.len() < 22);
        assert!(output.chunks.iter().all(whole), "{mode}");
        // What a burst holds of lines comes at once, but never more.
        assert!(output.chunks.iter().all(|chunk| chunk.len() <= 50.max(burst)), "{mode} {burst}");
    }
}

fn a_stall_is_told_with_who_is_waited_for_and_its_end_too(daemon: &Daemon) {
    let mut listener = daemon.connect_modern();
    listener.ok("subscribe", json!({"topic": "kairo.stream.stalled"}));
    listener.ok("subscribe", json!({"topic": "kairo.stream.resumed"}));
    let mut slow = daemon.connect_modern();
    slow.ok("subscribe", json!({"topic": "kairo.stream.stalled"}));
    let subscription = slow.subscribe("stuck", json!({"stream": "stdout"}));
    slow.spawn("stuck", &sequence::argv("256"), json!({}));
    let told = next_told(&mut listener, "kairo.stream.stalled", "stuck");
    assert_eq!(told["for"], "a reader with the policy block", "{told}");
    assert!(told["waitedMs"].as_u64() >= Some(50), "{told}");
    assert_eq!((told.get("subscriptionId"), &told["reader"]["kind"]), (None, &json!("owner")), "{told}");
    let (mut bytes, mut own) = (Vec::new(), Json::Null);
    while bytes.len() < 256 * BLOCK_BYTES {
        let frame = slow.frame().expect("frames");
        match frame.kind {
            STREAM_CHUNK => bytes.extend(Chunk::of(&frame).data),
            EVENT => own = frame.json()["payload"].clone(),
            _ => {}
        }
    }
    sequence::check(&bytes, 0);
    assert_eq!(own["subscriptionId"], json!(subscription), "{own}");
    let resumed = next_told(&mut listener, "kairo.stream.resumed", "stuck");
    assert!(resumed["waitedMs"].as_u64() >= told["waitedMs"].as_u64(), "{resumed}");
}

fn what_is_cut_is_told_at_once_and_at_the_end_exactly(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": "kairo.stream.>"}));
    raw.spawn("unread", &sequence::argv("64"), json!({}));
    let first = next_told(&mut raw, "kairo.stream.truncated", "unread");
    assert_eq!((&first["store"], &first["from"]), (&json!("history"), &json!(64 << 10)), "{first}");
    raw.wait_for_exit("unread");
    let cut = || json!({"from": 64 << 10, "to": 64 * BLOCK_BYTES - (256 << 10)});
    until("the history is what is kept of it", || stream(&mut raw, "unread")["cut"] == cut());
    let mut to = first["to"].as_u64().expect("an offset");
    while json!(to) != cut()["to"] {
        let next = next_told(&mut raw, "kairo.stream.truncated", "unread");
        assert_eq!(next["from"], first["from"]);
        let further = next["to"].as_u64().expect("an offset");
        assert!(further > to, "each tells more: {further} after {to}");
        to = further;
    }
}

fn a_history_changes_its_size_while_its_process_runs(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("cat", &["cat"], json!({}));
    let block = vec![b'x'; 300_000];
    let text = String::from_utf8(block).expect("text");
    raw.ok("process.stdin.write", json!({"id": "cat", "data": text}));
    until("all of it came back", || stream(&mut raw, "cat")["bytes"] == 300_000);
    let sizes = json!({"headBytes": 4096, "tailBytes": 4096});
    let now = raw.ok("stream.configure", json!({"id": "cat", "stream": "stdout", "history": sizes}));
    let setting = &now["streams"][0];
    assert_eq!((&setting["historyHeadBytes"], &setting["historyTailBytes"]), (&json!(4096), &json!(4096)));
    assert_eq!(now["streams"][1]["historyTailBytes"], 256 << 10, "the other stays");
    // Head, tail and one batch are kept; what lies between is gone, to the byte.
    let gone_to = 300_000 - 4096 - (256 << 10);
    assert_eq!(stream(&mut raw, "cat")["cut"], json!({"from": 4096, "to": gone_to}));
    raw.ok("stream.configure", json!({"id": "cat", "history": {"tailBytes": MIB, "headBytes": MIB}}));
    raw.ok("process.stdin.write", json!({"id": "cat", "data": text}));
    raw.ok("process.stdin.close", json!({"id": "cat"}));
    raw.wait_for_exit("cat");
    let status = stream(&mut raw, "cat");
    assert_eq!(status["historyHeadBytes"], 4096, "a head does not grow over a gap: {status}");
    let subscription = raw.subscribe("cat", json!({"stream": "stdout"}));
    let output = raw.collect(&subscription, 1);
    assert_eq!(output.gaps, [("stdout".to_owned(), 4096, gone_to as u64)]);
    assert_eq!(output.stdout.len() as u64, 600_000 - (gone_to as u64 - 4096));
}

fn memory(raw: &mut Raw) -> Json {
    let facts = raw.ok("kernel.doctor", json!({}))["facts"].clone();
    let found =
        facts.as_array().expect("facts").iter().find(|fact| fact["name"] == "history memory").cloned();
    found.expect("doctor tells")
}

fn histories_share_the_memory_there_is(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("ended", &sequence::argv("64"), json!({}));
    raw.wait_for_exit("ended");
    let mut reader = daemon.connect_modern();
    let subscription = reader.subscribe("w0", json!({"stream": "stdout"}));
    for nth in 0..8 {
        // The block reader's is as long as its history and more, so it waits; nobody reads the others.
        let text = format!(
            "{}; sleep 1000",
            sequence::argv("64").map(|word| format!("'{}'", word.replace('\'', "'\\''"))).join(" ")
        );
        raw.spawn(&format!("w{nth}"), &["sh", "-c", &text], json!({}));
    }
    until("everybody has given what he can", || {
        let all: Vec<Json> = (0..8).map(|nth| stream(&mut raw, &format!("w{nth}"))).collect();
        let full = all[1..].iter().all(|one| one["bytes"] == 64 * BLOCK_BYTES);
        full && memory(&mut raw)["holds"] == true
    });
    assert_eq!(stream(&mut raw, "ended")["heldBytes"], 0, "what has ended goes first");
    for nth in 1..8 {
        let status = stream(&mut raw, &format!("w{nth}"));
        assert!(status["heldBytes"].as_u64() <= Some(580 << 10), "{status}");
        let (from, to) = (status["cut"]["from"].as_u64(), status["cut"]["to"].as_u64());
        assert_eq!(status["cutBytes"].as_u64(), to.zip(from).map(|(to, from)| to - from), "{status}");
    }
    // And nothing of what the waiting reader needs was given.
    let mut bytes = Vec::new();
    while bytes.len() < 64 * BLOCK_BYTES {
        let frame = reader.frame().expect("frames");
        if frame.kind == STREAM_CHUNK {
            let chunk = Chunk::of(&frame);
            assert_eq!((&chunk.subscription, chunk.offset), (&subscription, Some(bytes.len() as u64)));
            bytes.extend(chunk.data);
        }
    }
    sequence::check(&bytes, 0);
    for nth in 0..8 {
        raw.ok("process.kill", json!({"id": format!("w{nth}"), "graceMs": 0}));
    }
}

#[test]
fn memory_of_histories_is_shared_on_both_drivers() {
    on_each_driver("[limits]\nhistory_memory_max = \"3 MiB\"\n", histories_share_the_memory_there_is);
}

fn a_wish_is_granted_as_far_as_memory_goes(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("wide", &["cat"], json!({}));
    let now = raw.ok("stream.configure", json!({"id": "wide", "history": {"tailBytes": 16 * MIB}}));
    let granted = now["streams"][0]["historyTailBytes"].as_u64().expect("a size");
    assert!(granted > MIB && granted <= 2 * MIB + (256 << 10), "{granted}");
    raw.subscribe("wide", json!({"bufferSize": 16 * MIB}));
    assert_eq!(
        stream(&mut raw, "wide")["historyTailBytes"].as_u64().map(|bytes| bytes <= 5 * MIB),
        Some(true)
    );
    raw.ok("process.kill", json!({"id": "wide"}));
}

#[test]
fn wishes_are_granted_within_the_memory_there_is() {
    on_each_driver("[limits]\nhistory_memory_max = \"2 MiB\"\n", a_wish_is_granted_as_far_as_memory_goes);
}

#[test]
fn stalls_are_told_after_the_threshold_of_the_configuration() {
    on_each_driver("[limits]\nstall_ms = 50\n", a_stall_is_told_with_who_is_waited_for_and_its_end_too);
}

#[test]
fn rates_and_sizes_survive_the_kernel() {
    for driver in [Driver::Uring, Driver::Poll].into_iter().filter(|driver| driver.is_available()) {
        let mut daemon = Daemon::start(&Options::plain(driver));
        let mut raw = daemon.connect_modern();
        let rate = json!({"bytesPerSecond": 4 * MIB});
        raw.spawn("asked", &sequence::argv("32"), json!({"rate": rate, "whenUnread": "block"}));
        raw.spawn("changed", &["cat"], json!({"rate": {"bytesPerSecond": 1}}));
        let history = json!({"headBytes": 8192, "tailBytes": MIB});
        let rate = json!({"bytesPerSecond": 3 * MIB, "burst": 70_000});
        let wish = json!({"id": "changed", "stream": "stdout", "rate": rate, "history": history, "whenUnread": "block"});
        raw.ok("stream.configure", wish);
        let kept = |raw: &mut Raw| {
            let detail = raw.ok("process.status", json!({"id": "changed", "detail": true}))["detail"].clone();
            let of = |stream: usize| {
                ["rate", "historyHeadBytes", "historyTailBytes"]
                    .map(|field| detail["streams"][stream][field].clone())
            };
            (detail["whenUnread"].clone(), of(0), of(1), stream(raw, "asked")["rate"].clone())
        };
        let before = kept(&mut raw);
        assert_eq!(
            (&before.0, &before.1[0]["burst"], &before.1[2]),
            (&json!("block"), &json!(70_000), &json!(MIB))
        );
        daemon.kill_and_succeed();
        let mut raw = daemon.connect_modern();
        assert_eq!(kept(&mut raw), before);
        until("the next kernel holds it back as well", || {
            stream(&mut raw, "asked")["throttledMs"].as_u64() > Some(0)
        });
        let subscription = raw.subscribe("asked", json!({"stream": "stdout"}));
        let output = raw.collect(&subscription, 1);
        sequence::check(&output.stdout, 0);
        assert_eq!((output.stdout.len(), output.gaps.len()), (32 * BLOCK_BYTES, 0));
        raw.ok("process.kill", json!({"id": "changed"}));
        daemon.finish();
    }
}

/// Changes sizes and rates as fast as they are answered, until the daemon dies of it.
fn fiddle(raw: &mut Raw, id: &str) {
    for nth in 0u64.. {
        let history = json!({"headBytes": nth * 4099 % 300_000, "tailBytes": 4096 + nth * 50_021 % 900_000});
        let rate = json!({"bytesPerSecond": if nth % 2 == 0 { 0 } else { 200 * MIB }});
        let wish = json!({"id": id, "history": history, "rate": rate});
        let request = request_bytes(nth, "stream.configure", value(&wish));
        if raw.socket().write_all(&request).is_err() || raw.frame().is_none() {
            return;
        }
    }
}

#[test]
fn a_kernel_killed_while_histories_change_their_size_loses_no_byte() {
    for driver in [Driver::Uring, Driver::Poll].into_iter().filter(|driver| driver.is_available()) {
        let mut daemon = Daemon::start(&Options::plain(driver));
        daemon.connect().spawn("flood", &sequence::argv("100000000"), json!({"whenUnread": "block"}));
        let (mut at, mut last) = (0, Json::Null);
        for _ in 0..6 {
            let (mut reader, mut fiddler) = (daemon.connect_modern(), daemon.connect_modern());
            let mut wish = json!({"stream": "stdout", "from": at});
            if !last.is_null() {
                wish["resumes"] = last;
            }
            last = json!(reader.subscribe("flood", wish));
            let fiddling = std::thread::spawn(move || fiddle(&mut fiddler, "flood"));
            let (goal, mut alive) = (at + 5_000_011, true);
            while let Some(frame) = reader.frame() {
                if frame.kind == STREAM_CHUNK {
                    let chunk = Chunk::of(&frame);
                    assert_eq!(chunk.offset, Some(at), "the next byte is next");
                    sequence::check(&chunk.data, at);
                    at += chunk.data.len() as u64;
                } else {
                    assert_ne!(frame.json()["topic"], "stream.gap", "a waiting reader misses nothing");
                }
                if alive && at >= goal {
                    daemon.signal(Signal::SIGKILL);
                    alive = false;
                }
            }
            daemon.wait();
            fiddling.join().expect("it changes sizes to the end");
            daemon.succeed(&[]);
        }
        daemon.finish();
    }
}

fn the_command_line_sets_rates(daemon: &Daemon) {
    let ran = daemon
        .cli(&["run", "--limit", "rate=8M,burst=64k", "--", "head", "-c", "1000000", "/dev/zero"])
        .output();
    let ran = ran.expect("it runs");
    assert_eq!((ran.status.code(), ran.stdout.len()), (Some(0), 1_000_000));
    let cli = |arguments: &[&str]| {
        let output = daemon.cli(arguments).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(cli(&["spawn", "--id", "c", "--limit", "20M", "cat"]).0, Some(0));
    let (_, status, _) = cli(&["status", "c"]);
    assert!(status.contains("at most 20 MiB/s, bursts of 2.0 MiB"), "{status}");
    let (code, now, _) = cli(&["limit", "c", "1M", "--burst", "64k", "--tail", "1MiB", "--stream", "stdout"]);
    assert_eq!(code, Some(0));
    assert!(now.contains("1.0 MiB/s, bursts of 64 KiB, keeps 64 KiB of head and 1.0 MiB of tail"), "{now}");
    let (_, now, _) = cli(&["limit", "c", "none"]);
    assert!(now.starts_with("stdout  no limit"), "{now}");
    for wrong in [&["limit", "c", "20MB"][..], &["limit", "c", "--burst", "1M"], &["limit", "c", "0"]] {
        let (code, _, error) = cli(wrong);
        assert_eq!(code, Some(125), "{error}");
    }
    assert_eq!(cli(&["kill", "c"]).0, Some(0));
}

on_both_drivers! {
    a_child_held_back_by_its_rate_loses_nothing_and_it_is_told,
    a_rate_is_changed_and_lifted_while_it_holds,
    a_reader_held_back_by_its_rate_slows_nobody_else_on_its_connection,
    lines_stay_whole_at_any_rate,
    what_is_cut_is_told_at_once_and_at_the_end_exactly,
    a_history_changes_its_size_while_its_process_runs,
    the_command_line_sets_rates,
}
