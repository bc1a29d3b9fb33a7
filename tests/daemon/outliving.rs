//! What a client takes raw bytes off outlives the daemon that gives them: killed at any instant, no byte of it is missing,
//! doubled or taken for the end.

use crate::adoption::lives_on_both_drivers;
use crate::open::{by, connect};
use crate::quotas::counted;
use crate::support::output::Chunk;
use crate::support::raw::{Raw, STREAM_CHUNK};
use crate::support::reader::Reader;
use crate::support::sequence;
use crate::support::{Daemon, until};
use kairo_wire::methods::open::{Close, OpenParams, Transport};
use kairo_wire::methods::stream::{Policy, UnsubscribeParams};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

lives_on_both_drivers!(
    outlets_of_a_history_go_on_at_the_byte,
    outlets_of_a_relay_go_on_at_the_byte,
    one_who_has_a_relay_alone_goes_on_at_the_byte,
    a_relay_whose_kernel_died_at_its_birth_is_counted_all_the_same,
    many_outlets_of_a_relay_are_exact_or_it_is_told,
    at_every_point_an_outlet_is_exact,
    an_outlet_ends_when_it_is_closed_by_whoever_had_it,
    a_daemon_that_ends_in_order_is_no_end_to_an_outlet,
    who_is_ahead_of_a_relay_when_its_kernel_dies_goes_on_where_it_stands,
    an_outlet_counts_for_whoever_had_it_and_goes_with_its_intent,
);

/// Starts a flood, once it is told to, that waits for whoever reads it.
fn flood(raw: &mut Raw, id: &str, history: &Json) {
    let options = json!({"whenUnread": "block", "history": history});
    raw.spawn(id, &sequence::argv_once_told("100000000"), options);
}

fn begin(daemon: &Daemon, id: &str) {
    daemon.connect().tell_to_go(id);
}

fn history() -> Json {
    json!({"headBytes": 65_536, "tailBytes": 262_144})
}

/// Readers of it by a pipe and by a socket each.
fn open(daemon: &Daemon, id: &str, transports: &[Transport]) -> Vec<Reader> {
    let client = connect(daemon);
    let opened: Vec<_> = transports.iter().map(|transport| client.open(&by(id, *transport))).collect();
    let readers = transports.iter().zip(opened).map(|(transport, opened)| {
        Reader::of(&format!("{} of {id}", transport.word()), opened.expect("it opens"))
    });
    let readers = readers.collect();
    // Its connection would end them; that of a killed daemon doesn't.
    std::mem::forget(client);
    begin(daemon, id);
    readers
}

fn bytes_of(raw: &mut Raw, id: &str) -> u64 {
    let status = raw.ok("process.status", json!({"id": id, "detail": true}));
    status["detail"]["streams"][0]["bytes"].as_u64().expect("a stream has a length")
}

/// Ends what is read, and compares.
fn end(daemon: &Daemon, id: &str, readers: Vec<Reader>) {
    let mut raw = daemon.connect_modern();
    raw.ok("process.kill", json!({"id": id, "signal": "KILL"}));
    let ends: Vec<u64> = readers.into_iter().map(Reader::end).collect();
    let total = bytes_of(&mut raw, id);
    assert!(ends.iter().all(|end| *end == total), "{ends:?} of {total} bytes of {id}");
    assert_eq!(uncertain(&mut raw), 0);
}

/// How often a count was lost.
pub(crate) fn uncertain(raw: &mut Raw) -> usize {
    doubts(raw).len()
}

/// Where counts were lost: from where to where at most.
fn doubts(raw: &mut Raw) -> Vec<(u64, u64)> {
    raw.ok("kernel.hello", json!({"features": ["int64"]}));
    let page = raw.ok("event.replay", json!({"fromSeq": 1, "types": ["kairo.stream.uncertain"]}));
    let events = page["events"].as_array().cloned().unwrap_or_default();
    let number = |event: &Json, name: &str| event["payload"][name].as_u64().expect("a number");
    events.iter().map(|event| (number(event, "from"), number(event, "to"))).collect()
}

/// So many kernels die, and every reader gets more under each and after the last.
pub(crate) fn go_on_over(daemon: &mut Daemon, readers: &[Reader], kills: usize) {
    let all_go_on = || readers.iter().for_each(|reader| reader.goes_on(3_000_017));
    for _ in 0..kills {
        all_go_on();
        daemon.kill_and_succeed();
    }
    all_go_on();
}

fn goes_on_over_kills(daemon: &mut Daemon, history: &Json) {
    let mut raw = daemon.connect_modern();
    flood(&mut raw, "flood", history);
    let readers = open(daemon, "flood", &[Transport::Pipe, Transport::Socket, Transport::Pipe]);
    go_on_over(daemon, &readers, 8);
    end(daemon, "flood", readers);
}

fn outlets_of_a_history_go_on_at_the_byte(daemon: &mut Daemon) {
    goes_on_over_kills(daemon, &history());
}

fn outlets_of_a_relay_go_on_at_the_byte(daemon: &mut Daemon) {
    goes_on_over_kills(daemon, &json!("none"));
}

/// Of more than a few one may be in doubt.
fn many_outlets_of_a_relay_are_exact_or_it_is_told(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    flood(&mut raw, "flood", &json!("none"));
    let readers = open(daemon, "flood", &[Transport::Pipe; 6]);
    for _ in 0..4 {
        let seen: u64 = readers.iter().map(Reader::at).sum();
        until("they go on", || readers.iter().map(Reader::at).sum::<u64>() > seen + 20_000_000);
        daemon.kill_and_succeed();
    }
    let mut raw = daemon.connect_modern();
    raw.ok("process.kill", json!({"id": "flood", "signal": "KILL"}));
    let wrong = readers.into_iter().filter_map(|reader| reader.outcome().err());
    let (wrong, doubts) = (wrong.count(), doubts(&mut raw));
    assert!(wrong <= doubts.len(), "{wrong} of six are wrong, and {doubts:?} were told");
    assert!(doubts.iter().all(|(from, to)| from < to && to - from <= 1 << 20), "{doubts:?}");
}

fn a_relay_whose_kernel_died_at_its_birth_is_counted_all_the_same(daemon: &mut Daemon) {
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    daemon.succeed_unasked(&["--die-at", "spawn.heard:1"]);
    let options = json!({"whenUnread": "block", "history": "none"});
    let argv = sequence::argv_once_told("100000000");
    let spawn = json!({"id": "early", "command": argv, "options": options});
    assert!(daemon.connect_modern().try_call("process.spawn", spawn).is_none(), "it dies of it");
    daemon.wait();
    daemon.succeed(&[]);
    let readers = open(daemon, "early", &[Transport::Pipe, Transport::Pipe]);
    go_on_over(daemon, &readers, 2);
    end(daemon, "early", readers);
}

/// What it gets is exact; how much that was may not be, and is said then.
fn one_who_has_a_relay_alone_goes_on_at_the_byte(daemon: &mut Daemon) {
    for transport in [Transport::Pipe, Transport::Socket] {
        let id = transport.word();
        let mut raw = daemon.connect_modern();
        flood(&mut raw, id, &json!("none"));
        let readers = open(daemon, id, &[transport]);
        go_on_over(daemon, &readers, 6);
        let mut raw = daemon.connect_modern();
        raw.ok("process.kill", json!({"id": id, "signal": "KILL"}));
        let ends: Vec<u64> = readers.into_iter().map(Reader::end).collect();
        let (total, doubts) = (bytes_of(&mut raw, id), doubts(&mut raw));
        // Told again by each kernel after it.
        let doubts: BTreeSet<_> = doubts.into_iter().collect();
        let uncounted: u64 = doubts.iter().map(|(from, to)| to - from).sum();
        assert!((total..=total + uncounted).contains(&ends[0]), "{ends:?} of {total} bytes, {doubts:?}");
    }
}

fn at_every_point_an_outlet_is_exact(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    flood(&mut raw, "kept", &history());
    flood(&mut raw, "relayed", &json!("none"));
    let mut readers = open(daemon, "kept", &[Transport::Pipe, Transport::Socket]);
    let relayed = open(daemon, "relayed", &[Transport::Pipe, Transport::Socket]);
    let died = daemon.dies_at_each(
        &["take.", "input.", "adopt."],
        || readers[0].at(),
        || {
            readers.iter().chain(&relayed).for_each(|reader| reader.goes_on(700_001));
        },
    );
    assert!(died >= 20, "only {died} points were met");
    end(daemon, "kept", std::mem::take(&mut readers));
    end(daemon, "relayed", relayed);
}

fn an_outlet_ends_when_it_is_closed_by_whoever_had_it(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    flood(&mut raw, "flood", &history());
    let client = connect(daemon);
    let opened = client.open(&by("flood", Transport::Pipe)).expect("it opens");
    let subscription_id = opened.result.subscription_id.clone();
    let reader = Reader::of("the one that is closed", opened);
    begin(daemon, "flood");
    let dropping = OpenParams { policy: Policy::DropOldest, ..by("flood", Transport::Pipe) };
    let gone = client.open(&dropping).expect("it opens");
    reader.goes_on(1_000_000);
    daemon.kill_and_succeed();
    reader.goes_on(1_000_000);
    let readers = |daemon: &Daemon| {
        let status = daemon.connect_modern().ok("process.status", json!({"id": "flood", "detail": true}));
        status["detail"]["readers"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(readers(daemon), 2);
    // One that is closed at its other end is gone with the next byte, and not waited for.
    drop(gone);
    until("who left is gone", || readers(daemon) == 1);
    let client = connect(daemon);
    assert!(client.call::<Close>(&UnsubscribeParams { subscription_id }).expect("it is there").ok);
    let ended = reader.end();
    assert!(ended > 0);
    assert_eq!(readers(daemon), 0);
}

fn a_daemon_that_ends_in_order_is_no_end_to_an_outlet(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let blocks = 64;
    raw.spawn(
        "short",
        &sequence::argv(&blocks.to_string()),
        json!({"whenUnread": "block", "history": history()}),
    );
    let client = connect(daemon);
    let opened = client.open(&by("short", Transport::Pipe)).expect("it opens");
    flood(&mut raw, "flood", &json!("none"));
    let readers = open(daemon, "flood", &[Transport::Pipe, Transport::Pipe]);
    readers.iter().for_each(|reader| reader.goes_on(1_000_000));
    for _ in 0..3 {
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
        daemon.succeed(&[]);
        readers.iter().for_each(|reader| reader.goes_on(1_000_000));
    }
    drop(client);
    // Read only now: all of it is there, whoever had it meanwhile.
    assert_eq!(Reader::of("short", opened).end(), blocks * sequence::BLOCK_BYTES as u64);
    end(daemon, "flood", readers);
}

/// Reads frames from an offset on to the end of its connection.
fn follow(mut raw: Raw, from: u64) -> (Arc<AtomicU64>, JoinHandle<()>) {
    let at = Arc::new(AtomicU64::new(from));
    let seen = Arc::clone(&at);
    let thread = std::thread::spawn(move || {
        while let Some(frame) = raw.frame() {
            if frame.kind != STREAM_CHUNK {
                continue;
            }
            let chunk = Chunk::of(&frame);
            assert_eq!(chunk.offset, Some(seen.load(Ordering::Relaxed)), "the next byte, and none again");
            sequence::check(&chunk.data, seen.load(Ordering::Relaxed));
            seen.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        }
    });
    (at, thread)
}

/// One of two reads nothing, so the other is given what is in the source's pipe and not let go.
fn who_is_ahead_of_a_relay_when_its_kernel_dies_goes_on_where_it_stands(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    flood(&mut raw, "flood", &json!("none"));
    let (mut ahead, mut behind) = (daemon.connect_modern(), daemon.connect_modern());
    let wish = json!({"stream": "stdout"});
    let (first, second) = (ahead.subscribe("flood", wish.clone()), behind.subscribe("flood", wish));
    begin(daemon, "flood");
    let (at, thread) = follow(ahead, 0);
    let (mut last, mut still) = (0, 0);
    until("one is ahead, and stands still", || {
        let now = at.load(Ordering::Relaxed);
        let is_so = now > bytes_of(&mut raw, "flood") && now == last;
        (last, still) = (now, if is_so { still + 1 } else { 0 });
        still > 20
    });
    daemon.kill_and_succeed();
    thread.join().expect("every byte was right");
    let stood = at.load(Ordering::Relaxed);
    let (mut ahead, mut behind) = (daemon.connect_modern(), daemon.connect_modern());
    ahead.subscribe("flood", json!({"stream": "stdout", "from": stood, "resumes": first}));
    behind.subscribe("flood", json!({"stream": "stdout", "from": 0, "resumes": second}));
    let (at, thread) = follow(ahead, stood);
    until("it goes on", || {
        // Whoever was behind is told of a gap, and reads on from there.
        let frame = behind.frame().expect("frames");
        if frame.kind == STREAM_CHUNK {
            let chunk = Chunk::of(&frame);
            sequence::check(&chunk.data, chunk.offset.expect("an offset"));
        }
        assert!(!thread.is_finished(), "it ended at {}", at.load(Ordering::Relaxed));
        at.load(Ordering::Relaxed) > stood + 8_000_000
    });
    assert_eq!(uncertain(&mut daemon.connect_modern()), 0);
    daemon.connect_modern().ok("process.kill", json!({"id": "flood", "signal": "KILL"}));
    drop(behind);
    daemon.kill_and_succeed();
    thread.join().expect("every byte was right");
}

fn an_outlet_counts_for_whoever_had_it_and_goes_with_its_intent(daemon: &mut Daemon) {
    let used = |daemon: &Daemon, of: &str| counted(daemon, of, "subscriptions").0;
    let wish = |id: &str| json!({"id": id, "transport": "pipe"});
    let mut raw = daemon.connect_modern();
    let intent = raw.ok("intent.begin", json!({"name": "to watch"}))["intentId"].clone();
    flood(&mut raw, "flood", &history());
    let (_, mine) = raw.open(wish("flood"));
    let (_, its) = raw.open_with(wish("flood"), &json!({"intentId": intent}));
    let mut skill = daemon.connect_modern();
    skill.ok("identify", json!({"skillId": "viewer"}));
    flood(&mut skill, "viewed", &history());
    let (_, viewed) = skill.open(wish("viewed"));
    ["flood", "viewed"].iter().for_each(|id| begin(daemon, id));
    let named = [("mine", mine), ("the intent's", its), ("the viewer's", viewed)];
    let [mine, its, viewed] = named.map(|(name, descriptors)| Reader::of_descriptors(name, descriptors));
    assert_eq!((used(daemon, "owner"), used(daemon, "skill:viewer")), (3, 1));
    for _ in 0..2 {
        daemon.kill_and_succeed();
        [&mine, &its, &viewed].iter().for_each(|reader| reader.goes_on(1_000_000));
        assert_eq!((used(daemon, "owner"), used(daemon, "skill:viewer")), (3, 1));
    }
    let receipt = daemon.connect_modern().ok("intent.cancel", json!({"intentId": intent}));
    assert_eq!(receipt["stopped"].as_array().map_or(0, Vec::len), 1, "{receipt}");
    assert!(its.end() > 0, "it has ended");
    assert_eq!((used(daemon, "owner"), used(daemon, "skill:viewer")), (2, 1));
    [&mine, &viewed].iter().for_each(|reader| reader.goes_on(1_000_000));
    end(daemon, "flood", vec![mine]);
    end(daemon, "viewed", vec![viewed]);
    until("nothing counts any more", || used(daemon, "owner") == 0);
}
